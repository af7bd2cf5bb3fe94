/* SPDX-License-Identifier: MIT
 *
 * x87.h: one x87 computation each: operands in, result and status word out; no stack, no tags, no memory.
 *
 * A function of the list below computes under control word cw and returns the status word's flags and condition codes
 * that the operation sets (C1: rounded up). With X87_ES in it an exception that cw leaves unmasked is among the flags;
 * then r is what silicon would leave in the destination for overflow, underflow and precision, and nothing for the
 * others.
 *
 * Two implementations: x87_host.c runs the host's own unit (x86-64), x87_soft.c computes in integers.
 */
#ifndef CPU_X87_H
#define CPU_X87_H

#include "src/cpu/fpu.h"

typedef struct f80 f80;

/* (name, host instruction). a is ST(0) or the destination, b the source or ST(1). */
/* The formatter folds lists of macro calls anew each time. */
/* clang-format off */
#define X87_UNARY(X) \
    X(sqrt, "fsqrt") X(abs, "fabs") X(chs, "fchs") X(rndint, "frndint") X(f2xm1, "f2xm1") X(sin, "fsin") \
    X(cos, "fcos")
/* r = a op b: the reversed forms are functions of their own. */
#define X87_BINARY(X) \
    X(add, "fadd %%st(1), %%st") X(mul, "fmul %%st(1), %%st") X(sub, "fsub %%st(1), %%st") \
    X(subr, "fsubr %%st(1), %%st") X(div, "fdiv %%st(1), %%st") X(divr, "fdivr %%st(1), %%st") X(prem, "fprem") \
    X(prem1, "fprem1") X(scale, "fscale")
/* As above, but the unit pops. */
#define X87_BINARY_POP(X) \
    X(yl2x, "fyl2x") X(yl2xp1, "fyl2xp1") X(patan, "fpatan")
/* One operand, two results: r0 stays under r1. */
#define X87_TWO(X) \
    X(xtract, "fxtract") X(sincos, "fsincos") X(ptan, "fptan")
/* Condition codes alone. */
#define X87_COMPARE(X) \
    X(com, "fcom %%st(1)") X(ucom, "fucom %%st(1)")
#define X87_TEST(X) \
    X(tst, "ftst") X(xam, "fxam")
/* With a memory operand of type t. */
#define X87_ARITH_MEM(X, sfx, fsfx, isfx, t) \
    X(add_##sfx, isfx "add" fsfx, t) X(mul_##sfx, isfx "mul" fsfx, t) X(sub_##sfx, isfx "sub" fsfx, t) \
    X(subr_##sfx, isfx "subr" fsfx, t) X(div_##sfx, isfx "div" fsfx, t) X(divr_##sfx, isfx "divr" fsfx, t)
#define X87_BINARY_MEM(X) \
    X87_ARITH_MEM(X, f32, "s", "f", uint32_t) X87_ARITH_MEM(X, f64, "l", "f", uint64_t) \
    X87_ARITH_MEM(X, i32, "l", "fi", uint32_t) X87_ARITH_MEM(X, i16, "s", "fi", uint16_t)
#define X87_COMPARE_MEM(X) \
    X(com_f32, "fcoms", uint32_t) X(com_f64, "fcoml", uint64_t) X(com_i32, "ficoml", uint32_t) \
    X(com_i16, "ficoms", uint16_t)
#define X87_LOAD(X) \
    X(ld_f32, "flds", uint32_t) X(ld_f64, "fldl", uint64_t) X(ld_i16, "filds", uint16_t) \
    X(ld_i32, "fildl", uint32_t) X(ld_i64, "fildll", uint64_t) X(ld_bcd, "fbld", f80)
#define X87_STORE(X) \
    X(st_f32, "fstps", uint32_t) X(st_f64, "fstpl", uint64_t) X(st_i16, "fistps", uint16_t) \
    X(st_i32, "fistpl", uint32_t) X(st_i64, "fistpll", uint64_t) X(stt_i16, "fisttps", uint16_t) \
    X(stt_i32, "fisttpl", uint32_t) X(stt_i64, "fisttpll", uint64_t) X(st_bcd, "fbstp", f80)
#define X87_CONST(X) \
    X(one, "fld1") X(l2t, "fldl2t") X(l2e, "fldl2e") X(pi, "fldpi") X(lg2, "fldlg2") X(ln2, "fldln2") \
    X(zero, "fldz")
/* clang-format on */

/* What surrounds a computation: the host's control word and sticky flags. sw: the guest's. */
struct x87_env {
    uint16_t cw, host_cw;
};

#define D(n, i) uint16_t x87_##n(const struct x87_env *e, const f80 *a, f80 *r);
X87_UNARY(D)
#undef D
#define D(n, i) uint16_t x87_##n(const struct x87_env *e, const f80 *a, const f80 *b, f80 *r);
X87_BINARY(D)
X87_BINARY_POP(D)
#undef D
#define D(n, i) uint16_t x87_##n(const struct x87_env *e, const f80 *a, f80 *r0, f80 *r1);
X87_TWO(D)
#undef D
#define D(n, i) uint16_t x87_##n(const struct x87_env *e, const f80 *a, const f80 *b);
X87_COMPARE(D)
#undef D
#define D(n, i) uint16_t x87_##n(const struct x87_env *e, const f80 *a);
X87_TEST(D)
#undef D
#define D(n, i, t) uint16_t x87_##n(const struct x87_env *e, const f80 *a, const t *m, f80 *r);
X87_BINARY_MEM(D)
#undef D
#define D(n, i, t) uint16_t x87_##n(const struct x87_env *e, const f80 *a, const t *m);
X87_COMPARE_MEM(D)
#undef D
#define D(n, i, t) uint16_t x87_##n(const struct x87_env *e, const t *m, f80 *r);
X87_LOAD(D)
#undef D
#define D(n, i, t) uint16_t x87_##n(const struct x87_env *e, const f80 *a, t *m);
X87_STORE(D)
#undef D
#define D(n, i) uint16_t x87_##n(const struct x87_env *e, f80 *r);
X87_CONST(D)
#undef D

void x87_begin(struct x87_env *e, uint16_t cw, uint16_t sw);
void x87_end(const struct x87_env *e, uint16_t sw);

#endif
