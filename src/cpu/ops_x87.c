/* SPDX-License-Identifier: MIT
 *
 * ops_x87.c: the x87 instructions: stack, tags, exceptions, pointers, environment. Computations are those of x87.h.
 *
 * An instruction is found by its escape byte and ModRM alone (table at the end); aliases that the manuals do not list
 * behave as on silicon. The op carries the eleven bits of FOP in imm, and i of ST(i) in r1.
 *
 * Exceptions: flags go to the status word; one that the control word leaves unmasked sets ES, B and mf_pending and is
 * reported as #MF by the next waiting instruction (SDM volume 1, "x87 FPU Exception Handling in Software", "Masked
 * Responses"). Invalid, denormal and zero divide, unmasked, leave the stack as it was; so does any unmasked one of a
 * store, save precision.
 */
#include "src/cpu/simd.h"
#include "src/cpu/x87.h"

static const f80 indefinite = {0xc000000000000000, 0xffff};

/* --- stack
 * -----------------------------------------------------------------------------------------------------------------------
 */
INLINE unsigned phys(const struct cpu *c, unsigned i)
{
    return (c->x87.top + i) & 7;
}
INLINE bool empty(const struct cpu *c, unsigned i)
{
    return !(c->x87.tag >> phys(c, i) & 1);
}
INLINE f80 *st(struct cpu *c, unsigned i)
{
    return &c->x87.st[phys(c, i)];
}
INLINE void st_set(struct cpu *c, unsigned i, const f80 *v)
{
    unsigned p = phys(c, i);
    c->x87.st[p].frac = v->frac;
    c->x87.st[p].sexp = v->sexp;
    c->x87.tag |= (uint8_t)(1u << p);
}
INLINE void pop(struct cpu *c)
{
    c->x87.tag &= (uint8_t) ~(1u << c->x87.top);
    c->x87.top = (c->x87.top + 1) & 7;
}
INLINE void push(struct cpu *c, const f80 *v)
{
    c->x87.top = (c->x87.top - 1) & 7;
    st_set(c, 0, v);
}

/* --- the parts of operands in memory
 * -------------------------------------------------------------------------------------------------------------- */
/* 80-bit values: significand, sign and exponent. */
static const struct op_part m80_parts[] = {{0, 8, 1, 1}, {8, 2, 1, 1}, {0}};
/* Environments are words or doublewords; in an image the registers follow, in stack order. Selected by the operand
 * size. */
enum { ENV16 = 1, ENV32 = 2, IMAGE16 = 4, IMAGE32 = 8 };
#define REGISTER(k)                                                                                                    \
    {14 + 10 * (k), 8, 1, IMAGE16}, {22 + 10 * (k), 2, 1, IMAGE16}, {28 + 10 * (k), 8, 1, IMAGE32},                    \
    {                                                                                                                  \
        36 + 10 * (k), 2, 1, IMAGE32                                                                                   \
    }
static const struct op_part image_parts[] = {{0, 2, 7, ENV16 | IMAGE16},
                                             {0, 4, 7, ENV32 | IMAGE32},
                                             REGISTER(0),
                                             REGISTER(1),
                                             REGISTER(2),
                                             REGISTER(3),
                                             REGISTER(4),
                                             REGISTER(5),
                                             REGISTER(6),
                                             REGISTER(7),
                                             {0}};
#undef REGISTER

/* --- before and after
 * ---------------------------------------------------------------------------------------------------------------- */
static COLD bool unavailable(struct cpu *c, const struct op *o)
{
    if (c->cr0 & (CR0_EM | CR0_TS)) {
        c->cur = o;
        return cpu_raise(c, EXC_NM, 0);
    }
    return fpu_pending(c, o);
}
/* For waiting instructions. */
INLINE bool x87_ok(struct cpu *c, const struct op *o)
{
    if (unlikely((c->cr0 & (CR0_EM | CR0_TS)) || c->mf_pending))
        return unavailable(c, o);
    return true;
}
INLINE bool x87_ok_nowait(struct cpu *c, const struct op *o)
{
    if (unlikely(c->cr0 & (CR0_EM | CR0_TS))) {
        c->cur = o;
        return cpu_raise(c, EXC_NM, 0);
    }
    return true;
}
/* The instruction pointer of each non-control instruction, the data pointer of those with a memory operand. SDM volume
 * 1, "x87 FPU Instruction and Data (Operand) Pointers", "Fopcode Compatibility Sub-mode"; CPUID's FDP_EXCPTN_ONLY.
 * Called once nothing can fault. */
INLINE void note(struct cpu *c, const struct op *o, bool excepted)
{
    struct x87 *x = &c->x87;
    x->fip = (c->gpr[GPR_BLOCK] + o->ip) & c->ip_mask;
    x->fcs = c->seg[SEG_CS].sel;
    if ((o->flags & OPF_MEM) && (excepted || !model_has(c->model, FEATURE_fdp_excptn_only))) {
        x->fdp = op_ea(c, o);
        x->fds = c->seg[o->seg == SEG_NONE ? SEG_DS : o->seg].sel;
    }
    if (unlikely(excepted || model_is_amd(c->model) || (c->msr.misc_enable & BIT(2))))
        x->fop = (uint16_t)o->imm & 0x7ff;
}
/* The instruction completes: flags and C1 of `sw` go to the status word; C0, C2, C3 where `cc` says so. */
INLINE void done(struct cpu *c, const struct op *o, uint16_t sw, uint16_t cc)
{
    uint16_t keep = (uint16_t) ~(X87_C1 | cc);
    c->x87.sw = (uint16_t)((c->x87.sw & keep) | (sw & (X87_C1 | cc | 0x7f)));
    bool excepted = sw & ~c->x87.cw & 0x3f;
    if (unlikely(excepted))
        fpu_update_summary(c);
    note(c, o, excepted);
}
/* May the result of a computation go to a register; to memory? */
INLINE bool to_register(const struct cpu *c, uint16_t sw)
{
    return !(sw & ~c->x87.cw & (X87_IE | X87_DE | X87_ZE));
}
INLINE bool to_memory(const struct cpu *c, uint16_t sw)
{
    return !(sw & ~c->x87.cw & (X87_IE | X87_DE | X87_ZE | X87_OE | X87_UE));
}
/* Stack fault. Returns whether it is masked: then the indefinite stands for what is missing. */
#define UNDERFLOW (X87_IE | X87_SF)
#define OVERFLOW  (X87_IE | X87_SF | X87_C1)
INLINE bool im(const struct cpu *c)
{
    return c->x87.cw & X87_IE;
}

/* Runs one computation of x87.h: COMPUTE(sw, name, operands...). */
#define COMPUTE(c, sw, name, ...)                                                                                      \
    do {                                                                                                               \
        struct x87_env env_;                                                                                           \
        if (unlikely(!(c)->host_x87_saved))                                                                            \
            fpu_host_x87_save(c);                                                                                      \
        x87_begin(&env_, (c)->x87.cw, (c)->x87.sw);                                                                    \
        sw = x87_##name(&env_, __VA_ARGS__);                                                                           \
        x87_end(&env_, sw);                                                                                            \
    } while (0)

/* --- arithmetic: destination and source both on the stack
 * -------------------------------------------------------------------------------- */
typedef uint16_t binary_fn(const struct x87_env *e, const f80 *a, const f80 *b, f80 *r);
static NOINLINE void arith(struct cpu *c, const struct op *o, binary_fn *f, unsigned dst, unsigned src, bool pop_)
{
    uint16_t sw;
    if (unlikely(empty(c, dst) || empty(c, src))) {
        if (im(c)) {
            st_set(c, dst, &indefinite);
            if (pop_)
                pop(c);
        }
        done(c, o, UNDERFLOW, 0);
        return;
    }
    f80 r;
    struct x87_env env;
    if (unlikely(!c->host_x87_saved))
        fpu_host_x87_save(c);
    x87_begin(&env, c->x87.cw, c->x87.sw);
    sw = f(&env, st(c, dst), st(c, src), &r);
    x87_end(&env, sw);
    if (likely(to_register(c, sw))) {
        st_set(c, dst, &r);
        if (pop_)
            pop(c);
    }
    done(c, o, sw & (X87_C1 | 0x3f), 0);
}
/* ST(0) = ST(0) op ST(i); ST(i) = ST(i) op ST(0), where the manual's reversed forms compute the other way round. */
#define ARITH_REG(name, f0, fi)                                                                                        \
    HANDLER(name##_st0)                                                                                                \
    {                                                                                                                  \
        if (!x87_ok(c, o))                                                                                             \
            return false;                                                                                              \
        arith(c, o, x87_##f0, 0, o->r1, false);                                                                        \
        return true;                                                                                                   \
    }                                                                                                                  \
    HANDLER(name##_sti)                                                                                                \
    {                                                                                                                  \
        if (!x87_ok(c, o))                                                                                             \
            return false;                                                                                              \
        arith(c, o, x87_##fi, o->r1, 0, false);                                                                        \
        return true;                                                                                                   \
    }                                                                                                                  \
    HANDLER(name##_pop)                                                                                                \
    {                                                                                                                  \
        if (!x87_ok(c, o))                                                                                             \
            return false;                                                                                              \
        arith(c, o, x87_##fi, o->r1, 0, true);                                                                         \
        return true;                                                                                                   \
    }
ARITH_REG(fadd, add, add)
ARITH_REG(fmul, mul, mul)
ARITH_REG(fsub, sub, sub)
ARITH_REG(fsubr, subr, subr)
ARITH_REG(fdiv, div, div)
ARITH_REG(fdivr, divr, divr)

#define ARITH_MEM(name, f, bits)                                                                                       \
    HANDLER(name)                                                                                                      \
    {                                                                                                                  \
        uint##bits##_t m;                                                                                              \
        uint16_t sw;                                                                                                   \
        f80 r;                                                                                                         \
        if (!x87_ok(c, o) || !op_ld##bits(c, o, &m))                                                                   \
            return false;                                                                                              \
        if (unlikely(empty(c, 0))) {                                                                                   \
            if (im(c))                                                                                                 \
                st_set(c, 0, &indefinite);                                                                             \
            done(c, o, UNDERFLOW, 0);                                                                                  \
            return true;                                                                                               \
        }                                                                                                              \
        COMPUTE(c, sw, f, st(c, 0), &m, &r);                                                                           \
        if (to_register(c, sw))                                                                                        \
            st_set(c, 0, &r);                                                                                          \
        done(c, o, sw &(X87_C1 | 0x3f), 0);                                                                            \
        return true;                                                                                                   \
    }
#define ARITH_MEMS(op)                                                                                                 \
    ARITH_MEM(f##op##_m32, op##_f32, 32)                                                                               \
    ARITH_MEM(f##op##_m64, op##_f64, 64)                                                                               \
    ARITH_MEM(fi##op##_m32, op##_i32, 32)                                                                              \
    ARITH_MEM(fi##op##_m16, op##_i16, 16)
ARITH_MEMS(add)
ARITH_MEMS(mul)
ARITH_MEMS(sub)
ARITH_MEMS(subr)
ARITH_MEMS(div)
ARITH_MEMS(divr)

/* --- one operand, ST(0)
 * --------------------------------------------------------------------------------------------------------------------
 */
#define UNARY(name, f, cc)                                                                                             \
    HANDLER(name)                                                                                                      \
    {                                                                                                                  \
        uint16_t sw;                                                                                                   \
        f80 r;                                                                                                         \
        if (!x87_ok(c, o))                                                                                             \
            return false;                                                                                              \
        if (unlikely(empty(c, 0))) {                                                                                   \
            if (im(c))                                                                                                 \
                st_set(c, 0, &indefinite);                                                                             \
            done(c, o, UNDERFLOW, (cc)&X87_C2);                                                                        \
            return true;                                                                                               \
        }                                                                                                              \
        COMPUTE(c, sw, f, st(c, 0), &r);                                                                               \
        if (to_register(c, sw))                                                                                        \
            st_set(c, 0, &r);                                                                                          \
        done(c, o, sw &(X87_C1 | (cc) | 0x3f), cc);                                                                    \
        return true;                                                                                                   \
    }
UNARY(fsqrt, sqrt, 0)
UNARY(frndint, rndint, 0)
UNARY(f2xm1, f2xm1, 0)
UNARY(fsin, sin, X87_C2)
UNARY(fcos, cos, X87_C2)
UNARY(fabs_, abs, 0)
UNARY(fchs, chs, 0)

/* --- ST(0) and ST(1)
 * --------------------------------------------------------------------------------------------------------------------------
 */
INLINE bool is_nan(const f80 *v)
{
    return (v->sexp & 0x7fff) == 0x7fff && v->frac << 1;
}
#define BINARY01(name, f, cc, popping)                                                                                 \
    HANDLER(name)                                                                                                      \
    {                                                                                                                  \
        uint16_t sw;                                                                                                   \
        f80 r;                                                                                                         \
        if (!x87_ok(c, o))                                                                                             \
            return false;                                                                                              \
        if (unlikely(empty(c, 0) || empty(c, 1))) {                                                                    \
            if (im(c)) {                                                                                               \
                if (popping)                                                                                           \
                    pop(c);                                                                                            \
                st_set(c, 0, &indefinite);                                                                             \
            }                                                                                                          \
            done(c, o, UNDERFLOW, (cc)&X87_C2);                                                                        \
            return true;                                                                                               \
        }                                                                                                              \
        COMPUTE(c, sw, f, st(c, 0), st(c, 1), &r);                                                                     \
        if (to_register(c, sw)) {                                                                                      \
            if (popping)                                                                                               \
                pop(c);                                                                                                \
            st_set(c, 0, &r);                                                                                          \
        }                                                                                                              \
        if (!to_register(c, sw) || is_nan(&r)) /* of the codes C1 and C2 alone are set, to 0 */                        \
            done(c, o, sw & 0x3f, (cc)&X87_C2);                                                                        \
        else                                                                                                           \
            done(c, o, sw &(X87_C1 | (cc) | 0x3f), cc);                                                                \
        return true;                                                                                                   \
    }
BINARY01(fprem, prem, X87_C0 | X87_C2 | X87_C3, false)
BINARY01(fprem1, prem1, X87_C0 | X87_C2 | X87_C3, false)
BINARY01(fscale, scale, 0, false)
BINARY01(fyl2x, yl2x, 0, true)
BINARY01(fyl2xp1, yl2xp1, 0, true)
BINARY01(fpatan, patan, 0, true)

/* --- ST(0) into two: the first result replaces it, the second is pushed
 * -------------------------------------------------------------------------- */
#define TWO(name, f, cc)                                                                                               \
    HANDLER(name)                                                                                                      \
    {                                                                                                                  \
        uint16_t sw;                                                                                                   \
        f80 r0, r1;                                                                                                    \
        if (!x87_ok(c, o))                                                                                             \
            return false;                                                                                              \
        if (unlikely(empty(c, 0) || !empty(c, 7))) {                                                                   \
            uint16_t fault = empty(c, 0) ? UNDERFLOW : OVERFLOW;                                                       \
            if (im(c)) {                                                                                               \
                st_set(c, 0, &indefinite);                                                                             \
                push(c, &indefinite);                                                                                  \
            }                                                                                                          \
            done(c, o, fault, (cc)&X87_C2);                                                                            \
            return true;                                                                                               \
        }                                                                                                              \
        COMPUTE(c, sw, f, st(c, 0), &r0, &r1);                                                                         \
        if (to_register(c, sw) && !((cc)&sw)) {                                                                        \
            st_set(c, 0, &r0);                                                                                         \
            push(c, &r1);                                                                                              \
        }                                                                                                              \
        done(c, o, sw &(X87_C1 | (cc) | 0x3f), cc);                                                                    \
        return true;                                                                                                   \
    }
TWO(fxtract, xtract, 0)
TWO(fsincos, sincos, X87_C2)
TWO(fptan, ptan, X87_C2)

/* --- comparison
 * ----------------------------------------------------------------------------------------------------------------------------------
 */
#define CC (X87_C0 | X87_C2 | X87_C3)
INLINE void compared(struct cpu *c, const struct op *o, uint16_t sw, unsigned pops)
{
    bool through = !(sw & ~c->x87.cw & (X87_IE | X87_DE));
    done(c, o, sw & (CC | 0x7f), CC);
    if (through)
        while (pops--)
            pop(c);
}
#define COMPARE_REG(name, f, pops)                                                                                     \
    HANDLER(name)                                                                                                      \
    {                                                                                                                  \
        uint16_t sw = UNDERFLOW | CC;                                                                                  \
        if (!x87_ok(c, o))                                                                                             \
            return false;                                                                                              \
        if (likely(!empty(c, 0) && !empty(c, o->r1)))                                                                  \
            COMPUTE(c, sw, f, st(c, 0), st(c, o->r1));                                                                 \
        compared(c, o, sw, pops);                                                                                      \
        return true;                                                                                                   \
    }
COMPARE_REG(fcom, com, 0)
COMPARE_REG(fcomp, com, 1)
COMPARE_REG(fcompp, com, 2)
COMPARE_REG(fucom, ucom, 0)
COMPARE_REG(fucomp, ucom, 1)
COMPARE_REG(fucompp, ucom, 2)
#define COMPARE_MEM(name, f, bits, pops)                                                                               \
    HANDLER(name)                                                                                                      \
    {                                                                                                                  \
        uint##bits##_t m;                                                                                              \
        uint16_t sw = UNDERFLOW | CC;                                                                                  \
        if (!x87_ok(c, o) || !op_ld##bits(c, o, &m))                                                                   \
            return false;                                                                                              \
        if (likely(!empty(c, 0)))                                                                                      \
            COMPUTE(c, sw, f, st(c, 0), &m);                                                                           \
        compared(c, o, sw, pops);                                                                                      \
        return true;                                                                                                   \
    }
COMPARE_MEM(fcom_m32, com_f32, 32, 0)
COMPARE_MEM(fcomp_m32, com_f32, 32, 1)
COMPARE_MEM(fcom_m64, com_f64, 64, 0)
COMPARE_MEM(fcomp_m64, com_f64, 64, 1)
COMPARE_MEM(ficom_m32, com_i32, 32, 0)
COMPARE_MEM(ficomp_m32, com_i32, 32, 1)
COMPARE_MEM(ficom_m16, com_i16, 16, 0)
COMPARE_MEM(ficomp_m16, com_i16, 16, 1)
HANDLER(ftst)
{
    uint16_t sw = UNDERFLOW | CC;
    if (!x87_ok(c, o))
        return false;
    if (!empty(c, 0))
        COMPUTE(c, sw, tst, st(c, 0));
    compared(c, o, sw, 0);
    return true;
}
HANDLER(fxam)
{
    uint16_t sw;
    if (!x87_ok(c, o))
        return false;
    if (empty(c, 0))
        sw = (uint16_t)(X87_C3 | X87_C0 | (st(c, 0)->sexp & 0x8000 ? X87_C1 : 0));
    else
        COMPUTE(c, sw, xam, st(c, 0));
    done(c, o, sw & X87_CC, CC);
    return true;
}
/* Into RFLAGS, on silicon with an unmasked exception too. */
#define COMPARE_FLAGS(name, f, pops)                                                                                   \
    HANDLER(name)                                                                                                      \
    {                                                                                                                  \
        uint16_t sw = UNDERFLOW | CC;                                                                                  \
        if (!x87_ok(c, o))                                                                                             \
            return false;                                                                                              \
        if (likely(!empty(c, 0) && !empty(c, o->r1)))                                                                  \
            COMPUTE(c, sw, f, st(c, 0), st(c, o->r1));                                                                 \
        bool through = !(sw & ~c->x87.cw & (X87_IE | X87_DE));                                                         \
        if (!(sw & X87_SF)) /* C1 tells of a stack fault alone */                                                      \
            sw = (uint16_t)((sw & ~X87_C1) | (c->x87.sw & X87_C1));                                                    \
        done(c, o, sw &(0x7f | X87_C1), 0);                                                                            \
        flags_set_arith(c, (sw & X87_C3 ? FLAG_ZF : 0) | (sw & X87_C2 ? FLAG_PF : 0) | (sw & X87_C0 ? FLAG_CF : 0));   \
        if (through && (pops))                                                                                         \
            pop(c);                                                                                                    \
        return true;                                                                                                   \
    }
COMPARE_FLAGS(fcomi, com, 0)
COMPARE_FLAGS(fcomip, com, 1)
COMPARE_FLAGS(fucomi, ucom, 0)
COMPARE_FLAGS(fucomip, ucom, 1)

#define FCMOV(name, cc_)                                                                                               \
    HANDLER(name)                                                                                                      \
    {                                                                                                                  \
        if (!x87_ok(c, o))                                                                                             \
            return false;                                                                                              \
        if (empty(c, 0) || empty(c, o->r1)) {                                                                          \
            if (im(c))                                                                                                 \
                st_set(c, 0, &indefinite);                                                                             \
            done(c, o, UNDERFLOW, 0);                                                                                  \
            return true;                                                                                               \
        }                                                                                                              \
        if (flags_cond(c, cc_)) {                                                                                      \
            f80 v = *st(c, o->r1);                                                                                     \
            st_set(c, 0, &v);                                                                                          \
        }                                                                                                              \
        note(c, o, false);                                                                                             \
        return true;                                                                                                   \
    }
FCMOV(fcmovb, 2)
FCMOV(fcmove, 4)
FCMOV(fcmovbe, 6)
FCMOV(fcmovu, 10)
FCMOV(fcmovnb, 3)
FCMOV(fcmovne, 5)
FCMOV(fcmovnbe, 7)
FCMOV(fcmovnu, 11)

/* --- loads
 * -------------------------------------------------------------------------------------------------------------------------------------------
 */
static bool push_overflow(struct cpu *c, const struct op *o)
{
    if (im(c))
        push(c, &indefinite);
    done(c, o, OVERFLOW, 0);
    return true;
}
#define LOAD(name, f, bits)                                                                                            \
    HANDLER(name)                                                                                                      \
    {                                                                                                                  \
        uint##bits##_t m;                                                                                              \
        uint16_t sw;                                                                                                   \
        f80 r;                                                                                                         \
        if (!x87_ok(c, o) || !op_ld##bits(c, o, &m))                                                                   \
            return false;                                                                                              \
        if (unlikely(!empty(c, 7)))                                                                                    \
            return push_overflow(c, o);                                                                                \
        COMPUTE(c, sw, f, &m, &r);                                                                                     \
        if (!(sw & ~c->x87.cw & X87_IE)) /* a denormal is loaded even with its exception unmasked */                   \
            push(c, &r);                                                                                               \
        done(c, o, sw & 0x3f, 0);                                                                                      \
        return true;                                                                                                   \
    }
LOAD(fld_m32, ld_f32, 32)
LOAD(fld_m64, ld_f64, 64)
LOAD(fild_m16, ld_i16, 16)
LOAD(fild_m32, ld_i32, 32)
LOAD(fild_m64, ld_i64, 64)
HANDLER(fld_m80)
{
    f80 m = {0, 0};
    if (!x87_ok(c, o) || !op_ld_parts(c, o, &m, 10, 0, m80_parts, 1))
        return false;
    if (!empty(c, 7))
        return push_overflow(c, o);
    push(c, &m);
    done(c, o, 0, 0);
    return true;
}
HANDLER(fbld)
{
    f80 m = {0, 0}, r;
    uint16_t sw;
    if (!x87_ok(c, o) || !op_ld_parts(c, o, &m, 10, 0, m80_parts, 1))
        return false;
    if (!empty(c, 7))
        return push_overflow(c, o);
    COMPUTE(c, sw, ld_bcd, &m, &r);
    push(c, &r);
    done(c, o, 0, 0);
    return true;
}
HANDLER(fld_st)
{
    f80 v = indefinite;
    if (!x87_ok(c, o))
        return false;
    if (!empty(c, 7) && !empty(c, o->r1)) /* underflow comes first */
        return push_overflow(c, o);
    if (!empty(c, o->r1)) {
        v = *st(c, o->r1);
        push(c, &v);
        done(c, o, 0, 0);
        return true;
    }
    if (im(c))
        push(c, &v);
    done(c, o, UNDERFLOW, 0);
    return true;
}
#define CONSTANT(name, f)                                                                                              \
    HANDLER(name)                                                                                                      \
    {                                                                                                                  \
        uint16_t sw;                                                                                                   \
        f80 r;                                                                                                         \
        if (!x87_ok(c, o))                                                                                             \
            return false;                                                                                              \
        if (!empty(c, 7))                                                                                              \
            return push_overflow(c, o);                                                                                \
        COMPUTE(c, sw, f, &r);                                                                                         \
        push(c, &r);                                                                                                   \
        done(c, o, 0, 0);                                                                                              \
        return true;                                                                                                   \
    }
CONSTANT(fld1, one)
CONSTANT(fldl2t, l2t)
CONSTANT(fldl2e, l2e)
CONSTANT(fldpi, pi)
CONSTANT(fldlg2, lg2)
CONSTANT(fldln2, ln2)
CONSTANT(fldz, zero)

/* --- stores
 * ------------------------------------------------------------------------------------------------------------------------------------------------
 */
#define STORE(name, f, bits, indef, popping)                                                                           \
    HANDLER(name)                                                                                                      \
    {                                                                                                                  \
        uint##bits##_t m = indef;                                                                                      \
        uint16_t sw = UNDERFLOW;                                                                                       \
        if (!x87_ok(c, o))                                                                                             \
            return false;                                                                                              \
        if (likely(!empty(c, 0)))                                                                                      \
            COMPUTE(c, sw, f, st(c, 0), &m);                                                                           \
        bool through = to_memory(c, sw);                                                                               \
        if (through && !op_st##bits(c, o, m))                                                                          \
            return false;                                                                                              \
        done(c, o, sw &(X87_C1 | 0x7f), 0);                                                                            \
        if (through && (popping))                                                                                      \
            pop(c);                                                                                                    \
        return true;                                                                                                   \
    }
STORE(fst_m32, st_f32, 32, 0xffc00000, false)
STORE(fstp_m32, st_f32, 32, 0xffc00000, true)
STORE(fst_m64, st_f64, 64, 0xfff8000000000000, false)
STORE(fstp_m64, st_f64, 64, 0xfff8000000000000, true)
STORE(fist_m16, st_i16, 16, 0x8000, false)
STORE(fistp_m16, st_i16, 16, 0x8000, true)
STORE(fist_m32, st_i32, 32, 0x80000000, false)
STORE(fistp_m32, st_i32, 32, 0x80000000, true)
STORE(fistp_m64, st_i64, 64, 0x8000000000000000, true)
STORE(fisttp_m16, stt_i16, 16, 0x8000, true)
STORE(fisttp_m32, stt_i32, 32, 0x80000000, true)
STORE(fisttp_m64, stt_i64, 64, 0x8000000000000000, true)
HANDLER(fstp_m80)
{
    if (!x87_ok(c, o))
        return false;
    bool none = empty(c, 0), through = !none || im(c);
    if (through && !op_st_parts(c, o, none ? &indefinite : st(c, 0), 10, 0, m80_parts, 1))
        return false;
    done(c, o, none ? UNDERFLOW : 0, 0);
    if (through)
        pop(c);
    return true;
}
HANDLER(fbstp)
{
    f80 m = indefinite;
    uint16_t sw = UNDERFLOW;
    if (!x87_ok(c, o))
        return false;
    if (!empty(c, 0))
        COMPUTE(c, sw, st_bcd, st(c, 0), &m);
    bool through = to_memory(c, sw);
    if (through && !op_st_parts(c, o, &m, 10, 0, m80_parts, 1))
        return false;
    done(c, o, sw & (X87_C1 | 0x7f), 0);
    if (through)
        pop(c);
    return true;
}
static void store_st(struct cpu *c, const struct op *o, bool popping)
{
    bool none = empty(c, 0), through = !none || im(c);
    if (through) {
        f80 v = none ? indefinite : *st(c, 0);
        st_set(c, o->r1, &v);
    }
    done(c, o, none ? UNDERFLOW : 0, 0);
    if (through && popping)
        pop(c);
}
HANDLER(fst_st)
{
    if (!x87_ok(c, o))
        return false;
    store_st(c, o, false);
    return true;
}
HANDLER(fstp_st)
{
    if (!x87_ok(c, o))
        return false;
    store_st(c, o, true);
    return true;
}
/* D9 D8: as FSTP ST(i), but an empty ST(0) is no fault: it is popped and nothing stored. */
HANDLER(fstpnce)
{
    if (!x87_ok(c, o))
        return false;
    if (!empty(c, 0)) {
        f80 v = *st(c, 0);
        st_set(c, o->r1, &v);
    }
    done(c, o, 0, 0);
    pop(c);
    return true;
}
HANDLER(fxch)
{
    if (!x87_ok(c, o))
        return false;
    bool none0 = empty(c, 0), nonei = empty(c, o->r1);
    if (!(none0 || nonei) || im(c)) {
        f80 a = none0 ? indefinite : *st(c, 0), b = nonei ? indefinite : *st(c, o->r1);
        st_set(c, 0, &b);
        st_set(c, o->r1, &a);
    }
    done(c, o, none0 || nonei ? UNDERFLOW : 0, 0);
    return true;
}

/* --- stack management
 * ------------------------------------------------------------------------------------------------------------------------------------------
 */
HANDLER(ffree)
{
    if (!x87_ok(c, o))
        return false;
    c->x87.tag &= (uint8_t) ~(1u << phys(c, o->r1));
    done(c, o, 0, 0);
    return true;
}
HANDLER(ffreep)
{
    if (!x87_ok(c, o))
        return false;
    c->x87.tag &= (uint8_t) ~(1u << phys(c, o->r1));
    done(c, o, 0, 0);
    pop(c);
    return true;
}
HANDLER(fincstp)
{
    if (!x87_ok(c, o))
        return false;
    c->x87.top = (c->x87.top + 1) & 7;
    done(c, o, 0, 0);
    return true;
}
HANDLER(fdecstp)
{
    if (!x87_ok(c, o))
        return false;
    c->x87.top = (c->x87.top - 1) & 7;
    done(c, o, 0, 0);
    return true;
}
HANDLER(fnop)
{
    if (!x87_ok(c, o))
        return false;
    note(c, o, false);
    return true;
}
/* FENI, FDISI of the 8087 and FSETPM of the 287: no operation, and no wait. */
HANDLER(fnop_nowait)
{
    return x87_ok_nowait(c, o);
}
HANDLER(fwait)
{
    if (unlikely((c->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))) {
        c->cur = o;
        return cpu_raise(c, EXC_NM, 0);
    }
    return likely(!c->mf_pending) || fpu_pending(c, o);
}
op_fn *sel_FWAIT(const struct decoded *d, struct op *o)
{
    return fwait;
}

/* --- control: no FIP, no FOP
 * --------------------------------------------------------------------------------------------------------------------------------------
 */
HANDLER(fninit)
{
    if (!x87_ok_nowait(c, o))
        return false;
    fpu_x87_init(c);
    return true;
}
HANDLER(fnclex)
{
    if (!x87_ok_nowait(c, o))
        return false;
    c->x87.sw &= X87_CC;
    fpu_no_error(c);
    return true;
}
HANDLER(fldcw)
{
    uint16_t v;
    if (!x87_ok(c, o) || !op_ld16(c, o, &v))
        return false;
    c->x87.cw = (v & 0x1f3f) | 0x40;
    fpu_update_summary(c);
    return true;
}
HANDLER(fnstcw)
{
    return x87_ok_nowait(c, o) && op_st16(c, o, c->x87.cw);
}
HANDLER(fnstsw_m16)
{
    return x87_ok_nowait(c, o) && op_st16(c, o, fpu_sw(c));
}
HANDLER(fnstsw_ax)
{
    if (!x87_ok_nowait(c, o))
        return false;
    op_set_r16(c, GPR_RAX * 8, fpu_sw(c));
    return true;
}

/* The environment's four layouts: SDM volume 1, "Saving the x87 FPU's State with FSTENV/FNSTENV and FSAVE/FNSAVE". r0:
 * 32-bit operand size. */
static unsigned env_store(const struct cpu *c, uint8_t *p, bool wide)
{
    const struct x87 *x = &c->x87;
    bool real = c->real_mode || c->vm86;
    uint16_t fcs = x->fcs, fds = x->fds;
    uint32_t fip = (uint32_t)x->fip, fdp = (uint32_t)x->fdp;
    if (real) {
        fip += (uint32_t)fcs << 4;
        fdp += (uint32_t)fds << 4;
    } else if (model_has(c->model, FEATURE_zero_fcs_fds)) {
        fcs = fds = 0;
    }
    if (wide) {
        store32(p, 0xffff0000u | x->cw);
        store32(p + 4, 0xffff0000u | fpu_sw(c));
        store32(p + 8, 0xffff0000u | fpu_full_tags(c));
        if (real) {
            store32(p + 12, 0xffff0000u | (uint16_t)fip);
            store32(p + 16, (fip >> 16) << 12 | x->fop);
            store32(p + 20, 0xffff0000u | (uint16_t)fdp);
            store32(p + 24, (fdp >> 16) << 12);
        } else {
            store32(p + 12, fip);
            store32(p + 16, (uint32_t)x->fop << 16 | fcs);
            store32(p + 20, fdp);
            store32(p + 24, 0xffff0000u | fds);
        }
        return 28;
    }
    store16(p, x->cw);
    store16(p + 2, fpu_sw(c));
    store16(p + 4, fpu_full_tags(c));
    store16(p + 6, (uint16_t)fip);
    store16(p + 10, (uint16_t)fdp);
    if (real) {
        store16(p + 8, (uint16_t)((fip >> 16 & 15) << 12 | x->fop));
        store16(p + 12, (uint16_t)((fdp >> 16 & 15) << 12));
    } else {
        store16(p + 8, fcs);
        store16(p + 12, fds);
    }
    return 14;
}
static unsigned env_load(struct cpu *c, const uint8_t *p, bool wide)
{
    struct x87 *x = &c->x87;
    bool real = c->real_mode || c->vm86;
    unsigned step = wide ? 4 : 2;
    x->cw = (load16(p) & 0x1f3f) | 0x40;
    fpu_set_sw(c, load16(p + step));
    fpu_set_full_tags(c, load16(p + 2 * step));
    p += 3 * step;
    x->fcs = x->fds = 0;
    if (real) {
        uint32_t hi = wide ? load32(p + 4) : load16(p + 2), dhi = wide ? load32(p + 12) : load16(p + 6);
        x->fip = load16(p) | (uint32_t)(hi >> 12 & 0xffff) << 16;
        x->fop = hi & 0x7ff;
        x->fdp = load16(p + 2 * step) | (uint32_t)(dhi >> 12 & 0xffff) << 16;
    } else if (wide) {
        x->fip = load32(p);
        x->fcs = load16(p + 4);
        x->fop = load16(p + 6) & 0x7ff;
        x->fdp = load32(p + 8);
        x->fds = load16(p + 12);
    } else {
        x->fip = load16(p);
        x->fcs = load16(p + 2);
        x->fdp = load16(p + 4);
        x->fds = load16(p + 6);
    }
    return 7 * step;
}
HANDLER(fnstenv)
{
    uint8_t p[28];
    if (!x87_ok_nowait(c, o))
        return false;
    unsigned n = env_store(c, p, o->r0);
    if (!op_st_parts(c, o, p, n, 0, image_parts, o->r0 ? ENV32 : ENV16))
        return false;
    c->x87.cw |= 0x3f;
    fpu_update_summary(c);
    return true;
}
HANDLER(fldenv)
{
    uint8_t p[28];
    if (!x87_ok(c, o) || !op_ld_parts(c, o, p, o->r0 ? 28 : 14, 0, image_parts, o->r0 ? ENV32 : ENV16))
        return false;
    env_load(c, p, o->r0);
    return true;
}
HANDLER(fnsave)
{
    uint8_t p[108];
    if (!x87_ok_nowait(c, o))
        return false;
    unsigned n = env_store(c, p, o->r0);
    for (unsigned i = 0; i < 8; i++, n += 10)
        memcpy(p + n, st(c, i), 10);
    if (!op_st_parts(c, o, p, n, 0, image_parts, o->r0 ? IMAGE32 : IMAGE16))
        return false;
    fpu_x87_init(c);
    return true;
}
HANDLER(frstor)
{
    uint8_t p[108];
    if (!x87_ok(c, o) || !op_ld_parts(c, o, p, o->r0 ? 108 : 94, 0, image_parts, o->r0 ? IMAGE32 : IMAGE16))
        return false;
    unsigned n = env_load(c, p, o->r0);
    for (unsigned i = 0; i < 8; i++, n += 10)
        memcpy(st(c, i), p + n, 10);
    return true;
}

/* --- the instructions by escape byte (D8 + row) and ModRM
 * ---------------------------------------------------------------------------------------------------------------- */
static op_fn *const mem_fn[8][8] = {
    {fadd_m32, fmul_m32, fcom_m32, fcomp_m32, fsub_m32, fsubr_m32, fdiv_m32, fdivr_m32},
    {fld_m32, NULL, fst_m32, fstp_m32, fldenv, fldcw, fnstenv, fnstcw},
    {fiadd_m32, fimul_m32, ficom_m32, ficomp_m32, fisub_m32, fisubr_m32, fidiv_m32, fidivr_m32},
    {fild_m32, fisttp_m32, fist_m32, fistp_m32, NULL, fld_m80, NULL, fstp_m80},
    {fadd_m64, fmul_m64, fcom_m64, fcomp_m64, fsub_m64, fsubr_m64, fdiv_m64, fdivr_m64},
    {fld_m64, fisttp_m64, fst_m64, fstp_m64, frstor, NULL, fnsave, fnstsw_m16},
    {fiadd_m16, fimul_m16, ficom_m16, ficomp_m16, fisub_m16, fisubr_m16, fidiv_m16, fidivr_m16},
    {fild_m16, fisttp_m16, fist_m16, fistp_m16, fbld, fild_m64, fbstp, fistp_m64},
};
/* NULL where the low three bits of ModRM tell instructions apart (sel_x87). In DC and DE the reversed forms stand in
 * each other's place. */
static op_fn *const reg_fn[8][8] = {
    {fadd_st0, fmul_st0, fcom, fcomp, fsub_st0, fsubr_st0, fdiv_st0, fdivr_st0},
    {fld_st, fxch, NULL, fstpnce, NULL, NULL, NULL, NULL},
    {fcmovb, fcmove, fcmovbe, fcmovu, NULL, NULL, NULL, NULL},
    {fcmovnb, fcmovne, fcmovnbe, fcmovnu, NULL, fucomi, fcomi, NULL},
    {fadd_sti, fmul_sti, fcom, fcomp, fsubr_sti, fsub_sti, fdivr_sti, fdiv_sti},
    {ffree, fxch, fst_st, fstp_st, fucom, fucomp, NULL, NULL},
    {fadd_pop, fmul_pop, fcomp, NULL, fsubr_pop, fsub_pop, fdivr_pop, fdiv_pop},
    {ffreep, fxch, fstp_st, fstp_st, NULL, fucomip, fcomip, NULL},
};
static op_fn *const d9_fn[32] = {
    /* D9 E0 to D9 FF */
    fchs,    fabs_,   NULL,   NULL,    ftst,  fxam,    NULL,    NULL,   fld1,   fldl2t,  fldl2e,
    fldpi,   fldlg2,  fldln2, fldz,    NULL,  f2xm1,   fyl2x,   fptan,  fpatan, fxtract, fprem1,
    fdecstp, fincstp, fprem,  fyl2xp1, fsqrt, fsincos, frndint, fscale, fsin,   fcos,
};

op_fn *sel_x87(const struct decoded *d, struct op *o)
{
    unsigned esc = d->in.opcode & 7, modrm = d->bytes[d->in.raw.modrm.offset], reg = modrm >> 3 & 7, rm = modrm & 7;
    o->imm = (int32_t)(esc << 8 | modrm);
    o->r0 = d->in.operand_width != 16;
    o->r1 = (uint8_t)rm;
    if (modrm < 0xc0)
        return mem_fn[esc][reg];
    if (reg_fn[esc][reg])
        return reg_fn[esc][reg];
    switch (esc << 8 | modrm) {
    case 0x1d0: return fnop;
    case 0x2e9: o->r1 = 1; return fucompp;
    case 0x3e0:
    case 0x3e1:
    case 0x3e4: return fnop_nowait;
    case 0x3e2: return fnclex;
    case 0x3e3: return fninit;
    case 0x6d9: o->r1 = 1; return fcompp;
    case 0x7e0: return fnstsw_ax;
    }
    return esc == 1 && modrm >= 0xe0 ? d9_fn[modrm - 0xe0] : NULL;
}
