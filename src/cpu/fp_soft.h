/* SPDX-License-Identifier: MIT
 *
 * fp_soft.h: unpacked numbers, between fp_soft.c (single and double precision) and x87_soft.c (double extended).
 */
#ifndef CPU_FP_SOFT_H
#define CPU_FP_SOFT_H

#include "src/cpu/fp.h"

enum fp_class { FPC_ZERO, FPC_NORMAL, FPC_INF, FPC_QNAN, FPC_SNAN };
struct fp_num {
    enum fp_class cls;
    bool sign, denormal; /* denormal: the operand was one */
    int exp;
    uint64_t sig; /* normalised: bit 63 set; NaNs and infinities too */
};
struct fp_format {
    int precision, emin, emax;
};
extern const struct fp_format fp_f32, fp_f64, fp_f80;

struct fp_num fp32_unpack(struct fp_env *e, uint32_t v);
struct fp_num fp64_unpack(struct fp_env *e, uint64_t v);
struct fp_num fp_round_num(struct fp_env *e, const struct fp_format *f, bool sign, int exp, unsigned __int128 sig);
struct fp_num fp_arith(struct fp_env *e, const struct fp_format *f, enum fp_op op, struct fp_num a, struct fp_num b);
enum fp_order fp_compare(struct fp_env *e, const struct fp_num *a, const struct fp_num *b, bool quiet);
bool fp_integral(struct fp_num *n, unsigned rc, bool *up);
uint64_t fp_to_int(struct fp_env *e, struct fp_num n, unsigned width, unsigned rc);
struct fp_num fp_from_int(int64_t a);

#endif
