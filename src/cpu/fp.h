/* SPDX-License-Identifier: MIT
 *
 * fp.h: IEEE arithmetic with x86's choices, in integers, with the same bits on every host: results, NaNs, exception
 * flags.
 *
 * Single and double precision for SSE, double extended for the x87. Choices of the architecture: tininess is detected
 * after rounding; the QNaN that comes of an invalid operation is negative; of two NaNs SSE takes the first operand, the
 * x87 the larger significand. Who uses it: hosts that are not x86-64, and the tests, which compare it with the bare
 * processor.
 */
#ifndef CPU_FP_H
#define CPU_FP_H

#include "src/cpu/cpu.h"

enum { FP_IE = 1, FP_DE = 2, FP_ZE = 4, FP_OE = 8, FP_UE = 16, FP_PE = 32 };
enum { FP_NEAREST, FP_DOWN, FP_UP, FP_CHOP };

struct fp_env {
    uint8_t rc;
    bool daz, ftz;
    bool unmasked_ue, unmasked_oe; /* then tiny results raise UE even if exact, and PE tells of the unbounded result */
    bool x87;                      /* the x87's choice among NaNs */
    bool up;                       /* out: the last rounding went up in magnitude */
    int wrap;                      /* x87: exponent bias of unmasked overflow and underflow; 0 for SSE */
    uint8_t flags;                 /* FP_*, accumulated */
};
enum fp_op { FP_ADD, FP_SUB, FP_MUL, FP_DIV, FP_MIN, FP_MAX, FP_SQRT /* of b */ };
enum fp_order { FP_LESS, FP_EQUAL, FP_GREATER, FP_UNORDERED };

uint32_t fp32_op(struct fp_env *e, enum fp_op op, uint32_t a, uint32_t b);
uint64_t fp64_op(struct fp_env *e, enum fp_op op, uint64_t a, uint64_t b);
/* quiet: a QNaN raises nothing. */
enum fp_order fp32_compare(struct fp_env *e, uint32_t a, uint32_t b, bool quiet);
enum fp_order fp64_compare(struct fp_env *e, uint64_t a, uint64_t b, bool quiet);
uint64_t fp32_to_64(struct fp_env *e, uint32_t a);
uint32_t fp64_to_32(struct fp_env *e, uint64_t a);
/* To a signed integer of 32 or 64 bits; out of range: the integer indefinite, and FP_IE. */
uint64_t fp32_to_int(struct fp_env *e, uint32_t a, unsigned width, bool chop);
uint64_t fp64_to_int(struct fp_env *e, uint64_t a, unsigned width, bool chop);
uint32_t fp32_from_int(struct fp_env *e, int64_t a);
uint64_t fp64_from_int(struct fp_env *e, int64_t a);
/* ROUNDSS, ROUNDSD: to an integral value; imm as in the instruction. */
uint32_t fp32_round(struct fp_env *e, uint32_t a, uint8_t imm);
uint64_t fp64_round(struct fp_env *e, uint64_t a, uint8_t imm);

#endif
