/* SPDX-License-Identifier: MIT
 *
 * fp_trans.h: the x87's transcendental functions, in integers: results of 128 bits before rounding.
 */
#ifndef CPU_FP_TRANS_H
#define CPU_FP_TRANS_H

#include "src/cpu/fp_soft.h"

/* sig * 2^(exp - 127), bit 127 of sig set; sig 0 is zero. What fp_round_num() takes. */
struct fp_wide {
    bool sign;
    int exp;
    unsigned __int128 sig;
};

/* Arguments are of class FPC_NORMAL. An inexact result has bit 0 set. */
/* |x| < 2^63. Reduced by the 66-bit value of pi (SDM volume 1, "Approximation of Pi"). */
struct fp_wide fp_sin(const struct fp_num *x);
struct fp_wide fp_cos(const struct fp_num *x);
struct fp_wide fp_tan(const struct fp_num *x);
/* atan(y / x) in x's and y's quadrant. */
struct fp_wide fp_atan2(const struct fp_num *y, const struct fp_num *x);
struct fp_wide fp_atan2_octant(unsigned eighths, bool sign); /* eighths * pi / 4, for operands that are not normal */
/* 2^x - 1, -1 <= x <= 1. */
struct fp_wide fp_exp2m1(const struct fp_num *x);
/* y * log2(x), x > 0; y * log2(x + 1), x > -1. Zero where the logarithm is. */
struct fp_wide fp_ylog2(const struct fp_num *y, const struct fp_num *x);
struct fp_wide fp_ylog2p1(const struct fp_num *y, const struct fp_num *x);

#endif
