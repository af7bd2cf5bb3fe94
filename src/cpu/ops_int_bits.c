/* SPDX-License-Identifier: MIT
 *
 * ops_int_bits.c: shifts and rotates, bit tests and scans, BMI, multiplication and division, decimal adjustment.
 *
 * Undefined flags are those of current Intel processors: OF after a shift or rotate by more than one is that of a shift
 * by one; AF is clear; MUL clears ZF and AF, and SF and PF are those of the low half; DIV leaves all flags alone.
 */
#include "src/cpu/ops_int.h"

#define FORMS(n)                                                                                                       \
    {                                                                                                                  \
        n##8, n##16, n##32, n##64                                                                                      \
    }
#define FORMS_OF(n, how)                                                                                               \
    {                                                                                                                  \
        n##8_##how, n##16_##how, n##32_##how, n##64_##how                                                              \
    }
#define FORMS_RMW(n)                                                                                                   \
    {                                                                                                                  \
        .fast = FORMS_OF(n, fast), .slow = FORMS_OF(n, slow), .disp = FORMS_OF(n, disp)                                \
    }

/* --- shifts and rotates --------------------------------------------------------------------------------------------
 */

INLINE void set_shift_flags(struct cpu *c, uint64_t res, bool cf, bool of)
{
    c->lf_res = res;
    c->lf_aux = 0;
    flags_set_cf_of(c, cf, of);
}
#define COUNT(S, n) ((n) & (S == 64 ? 63u : 31u))
#define MSB2(S, v)  ((unsigned)((v) >> (S - 2)) & 1u)

#define DEFINE_SHIFT_CALC(S, _)                                                                                        \
    INLINE U(S) calc_shl##S(struct cpu *c, U(S) a, unsigned n)                                                         \
    {                                                                                                                  \
        n = COUNT(S, n);                                                                                               \
        if (!n)                                                                                                        \
            return a;                                                                                                  \
        uint64_t t = (uint64_t)a << (n - 1); /* the last bit out is on top */                                          \
        U(S) r = (U(S))(t << 1);                                                                                       \
        set_shift_flags(c, SX(S, r), t >> (S - 1) & 1, MSB(S, a) ^ MSB2(S, a));                                        \
        return r;                                                                                                      \
    }                                                                                                                  \
    INLINE U(S) calc_shr##S(struct cpu *c, U(S) a, unsigned n)                                                         \
    {                                                                                                                  \
        n = COUNT(S, n);                                                                                               \
        if (!n)                                                                                                        \
            return a;                                                                                                  \
        uint64_t t = (uint64_t)a >> (n - 1);                                                                           \
        U(S) r = (U(S))(t >> 1);                                                                                       \
        set_shift_flags(c, SX(S, r), t & 1, MSB(S, a));                                                                \
        return r;                                                                                                      \
    }                                                                                                                  \
    INLINE U(S) calc_sar##S(struct cpu *c, U(S) a, unsigned n)                                                         \
    {                                                                                                                  \
        n = COUNT(S, n);                                                                                               \
        if (!n)                                                                                                        \
            return a;                                                                                                  \
        int64_t t = (int64_t)SX(S, a) >> (n - 1);                                                                      \
        U(S) r = (U(S))(t >> 1);                                                                                       \
        set_shift_flags(c, SX(S, r), t & 1, false);                                                                    \
        return r;                                                                                                      \
    }                                                                                                                  \
    INLINE U(S) calc_rol##S(struct cpu *c, U(S) a, unsigned n)                                                         \
    {                                                                                                                  \
        n = COUNT(S, n);                                                                                               \
        if (!n)                                                                                                        \
            return a;                                                                                                  \
        unsigned k = n & (S - 1);                                                                                      \
        U(S) r = k ? (U(S))(a << k | a >> (S - k)) : a;                                                                \
        flags_set_cf_of(c, r & 1, MSB(S, a) ^ MSB2(S, a));                                                             \
        return r;                                                                                                      \
    }                                                                                                                  \
    INLINE U(S) calc_ror##S(struct cpu *c, U(S) a, unsigned n)                                                         \
    {                                                                                                                  \
        n = COUNT(S, n);                                                                                               \
        if (!n)                                                                                                        \
            return a;                                                                                                  \
        unsigned k = n & (S - 1);                                                                                      \
        U(S) r = k ? (U(S))(a >> k | a << (S - k)) : a;                                                                \
        flags_set_cf_of(c, MSB(S, r), (a & 1) ^ MSB(S, a));                                                            \
        return r;                                                                                                      \
    }                                                                                                                  \
    INLINE U(S) calc_rcl##S(struct cpu *c, U(S) a, unsigned n)                                                         \
    {                                                                                                                  \
        n = COUNT(S, n) % (S + 1);                                                                                     \
        if (!n)                                                                                                        \
            return a;                                                                                                  \
        bool cf = flag_cf(c), out = a >> (S - n) & 1;                                                                  \
        U(S) r = (U(S))((U(S))cf << (n - 1));                                                                          \
        if (n < S)                                                                                                     \
            r |= (U(S))(a << n);                                                                                       \
        if (n > 1)                                                                                                     \
            r |= (U(S))(a >> (S + 1 - n));                                                                             \
        flags_set_cf_of(c, out, MSB(S, a) ^ MSB2(S, a));                                                               \
        return r;                                                                                                      \
    }                                                                                                                  \
    INLINE U(S) calc_rcr##S(struct cpu *c, U(S) a, unsigned n)                                                         \
    {                                                                                                                  \
        n = COUNT(S, n) % (S + 1);                                                                                     \
        if (!n)                                                                                                        \
            return a;                                                                                                  \
        bool cf = flag_cf(c), out = a >> (n - 1) & 1;                                                                  \
        U(S) r = (U(S))((U(S))cf << (S - n));                                                                          \
        if (n < S)                                                                                                     \
            r |= (U(S))(a >> n);                                                                                       \
        if (n > 1)                                                                                                     \
            r |= (U(S))(a << (S + 1 - n));                                                                             \
        flags_set_cf_of(c, out, MSB(S, a) ^ cf);                                                                       \
        return r;                                                                                                      \
    }
ALL_SIZES(DEFINE_SHIFT_CALC, )

/* An immediate count whose masked value is not zero. */
INLINE unsigned count_not_zero(unsigned n, unsigned width)
{
    if (!(n & (width == 64 ? 63u : 31u)))
        __builtin_unreachable(); /* pick_shift() has seen to it */
    return n;
}
HANDLER_REG(shift_r_nothing, )
HANDLER_REG(shift_r32_nothing, W(32, o->r0, R(32, o->r0)))
static op_fn *pick_shift(op_fn *const ri[4], unsigned size, const struct op *o)
{
    if (o->imm & (size == 3 ? 63 : 31))
        return ri[size];
    return size == 2 ? shift_r32_nothing : shift_r_nothing;
}

/* By the immediate, or by CL. */
#define DEFINE_SHIFT(S, NAME)                                                                                          \
    HANDLER_REG(NAME##_ri##S, W(S, o->r0, calc_##NAME##S(c, R(S, o->r0), count_not_zero((unsigned)o->imm, S))))        \
    HANDLER_REG(NAME##_rc##S, W(S, o->r0, calc_##NAME##S(c, R(S, o->r0), R(8, 8 * GPR_RCX))))                          \
    HANDLER_RMW(S, NAME##_mi##S, r = calc_##NAME##S(c, m, (unsigned)o->imm))                                           \
    HANDLER_RMW(S, NAME##_mc##S, r = calc_##NAME##S(c, m, R(8, 8 * GPR_RCX)))
#define SHIFT(NAME)                                                                                                    \
    ALL_SIZES(DEFINE_SHIFT, NAME)                                                                                      \
    op_fn *select_##NAME(const struct decoded *d, struct op *o)                                                        \
    {                                                                                                                  \
        static op_fn *const ri[4] = FORMS(NAME##_ri), *const rc[4] = FORMS(NAME##_rc);                                 \
        static const struct mem_forms mi = FORMS_RMW(NAME##_mi), mc = FORMS_RMW(NAME##_mc);                            \
        unsigned size = decoded_log2(d, 0);                                                                            \
        bool imm = decoded_is_imm(d, 1);                                                                               \
        if (o->flags & OPF_MEM)                                                                                        \
            return pick_mem(imm ? &mi : &mc, size, o);                                                                 \
        return imm ? pick_shift(ri, size, o) : rc[size];                                                               \
    }
SHIFT(shl)
SHIFT(shr)
SHIFT(sar)
SHIFT(rol)
SHIFT(ror)
SHIFT(rcl)
SHIFT(rcr)

/* SHLD, SHRD: dest in m, the bits that come in from b. With 16 bits and a count above 16 the processor shifts
 * dest:b:dest. */
#define DEFINE_SHD_CALC(S, _)                                                                                          \
    INLINE U(S) calc_shld##S(struct cpu *c, U(S) a, U(S) b, unsigned n)                                                \
    {                                                                                                                  \
        n = COUNT(S, n);                                                                                               \
        if (!n)                                                                                                        \
            return a;                                                                                                  \
        U(S) r;                                                                                                        \
        bool cf;                                                                                                       \
        if (S == 16) {                                                                                                 \
            uint64_t t = (uint64_t)a << 32 | (uint64_t)b << 16 | a;                                                    \
            r = (U(S))(t << n >> 32);                                                                                  \
            cf = t >> (48 - n) & 1;                                                                                    \
        } else {                                                                                                       \
            r = (U(S))(a << n | b >> (S - n));                                                                         \
            cf = a >> (S - n) & 1;                                                                                     \
        }                                                                                                              \
        set_shift_flags(c, SX(S, r), cf, MSB(S, a) ^ MSB2(S, a));                                                      \
        return r;                                                                                                      \
    }                                                                                                                  \
    INLINE U(S) calc_shrd##S(struct cpu *c, U(S) a, U(S) b, unsigned n)                                                \
    {                                                                                                                  \
        n = COUNT(S, n);                                                                                               \
        if (!n)                                                                                                        \
            return a;                                                                                                  \
        U(S) r;                                                                                                        \
        bool cf;                                                                                                       \
        if (S == 16) {                                                                                                 \
            uint64_t t = (uint64_t)a << 32 | (uint64_t)b << 16 | a;                                                    \
            r = (U(S))(t >> n);                                                                                        \
            cf = t >> (n - 1) & 1;                                                                                     \
        } else {                                                                                                       \
            r = (U(S))(a >> n | b << (S - n));                                                                         \
            cf = a >> (n - 1) & 1;                                                                                     \
        }                                                                                                              \
        set_shift_flags(c, SX(S, r), cf, MSB(S, a) ^ (b & 1));                                                         \
        return r;                                                                                                      \
    }
WIDE_SIZES(DEFINE_SHD_CALC, )
#define DEFINE_SHD(S, NAME)                                                                                            \
    HANDLER_REG(NAME##_rri##S, W(S, o->r0, calc_##NAME##S(c, R(S, o->r0), R(S, o->r1), (unsigned)o->imm)))             \
    HANDLER_REG(NAME##_rrc##S, W(S, o->r0, calc_##NAME##S(c, R(S, o->r0), R(S, o->r1), R(8, 8 * GPR_RCX))))            \
    HANDLER_RMW(S, NAME##_mri##S, r = calc_##NAME##S(c, m, R(S, o->r0), (unsigned)o->imm))                             \
    HANDLER_RMW(S, NAME##_mrc##S, r = calc_##NAME##S(c, m, R(S, o->r0), R(8, 8 * GPR_RCX)))
#define SHD(NAME)                                                                                                      \
    WIDE_SIZES(DEFINE_SHD, NAME)                                                                                       \
    op_fn *select_##NAME(const struct decoded *d, struct op *o)                                                        \
    {                                                                                                                  \
        static op_fn *const reg[2][4] = {{NULL, NAME##_rri16, NAME##_rri32, NAME##_rri64},                             \
                                         {NULL, NAME##_rrc16, NAME##_rrc32, NAME##_rrc64}};                            \
        static const struct mem_forms mem[2] = {                                                                       \
            {.fast = {NULL, NAME##_mri16_fast, NAME##_mri32_fast, NAME##_mri64_fast},                                  \
             .slow = {NULL, NAME##_mri16_slow, NAME##_mri32_slow, NAME##_mri64_slow}},                                 \
            {.fast = {NULL, NAME##_mrc16_fast, NAME##_mrc32_fast, NAME##_mrc64_fast},                                  \
             .slow = {NULL, NAME##_mrc16_slow, NAME##_mrc32_slow, NAME##_mrc64_slow}}};                                \
        unsigned size = decoded_log2(d, 0);                                                                            \
        bool by_cl = !decoded_is_imm(d, 2);                                                                            \
        return o->flags & OPF_MEM ? pick_mem(&mem[by_cl], size, o) : reg[by_cl][size];                                 \
    }
SHD(shld)
SHD(shrd)

/* --- bit tests ------------------------------------------------------------------------------------------------------
 */

/* With a memory operand and a register the offset is a signed bit number from the operand's address: SDM volume 2A,
 * "BT". The immediate is taken modulo the operand's size. */
#define BIT_KEEP(m, b)   (m)
#define BIT_SET_(m, b)   ((m) | (b))
#define BIT_RESET(m, b)  ((m) & ~(b))
#define BIT_TOGGLE(m, b) ((m) ^ (b))
#define KEEPS(CALC)      (CALC(1u, 1u) == 1 && CALC(0u, 1u) == 0) /* BT */
#define DEFINE_BT_FORM(S, NAME, CALC)                                                                                  \
    static void NAME##_rr##S(struct cpu *c, const struct op *o)                                                        \
    {                                                                                                                  \
        {                                                                                                              \
            U(S) m = R(S, o->r0), b = (U(S))((U(S))1 << (R(S, o->r1) & (S - 1)));                                      \
            flags_set_cf(c, m &b);                                                                                     \
            if (!KEEPS(CALC))                                                                                          \
                W(S, o->r0, (U(S))CALC(m, b));                                                                         \
        }                                                                                                              \
        NEXT(c, o);                                                                                                    \
    }                                                                                                                  \
    static void NAME##_ri##S(struct cpu *c, const struct op *o)                                                        \
    {                                                                                                                  \
        {                                                                                                              \
            U(S) m = R(S, o->r0), b = (U(S))((U(S))1 << (o->imm & (S - 1)));                                           \
            flags_set_cf(c, m &b);                                                                                     \
            if (!KEEPS(CALC))                                                                                          \
                W(S, o->r0, (U(S))CALC(m, b));                                                                         \
        }                                                                                                              \
        NEXT(c, o);                                                                                                    \
    }                                                                                                                  \
    static void NAME##_m##S(struct cpu *c, const struct op *o)                                                         \
    {                                                                                                                  \
        {                                                                                                              \
            bool imm = o->flags & OPF_AUX;                                                                             \
            int64_t n = imm ? (o->imm & (S - 1)) : (int64_t)SX(S, R(S, o->r0));                                        \
            U(S) m, r, b = (U(S))((U(S))1 << (n & (S - 1)));                                                           \
            uint64_t la, plus = (uint64_t)(n >> (S == 16 ? 4 : S == 32 ? 5 : 6)) * (S / 8);                            \
            const bool keep = KEEPS(CALC);                                                                             \
            if (!op_la_plus(c, o, plus, S / 8, keep ? MMU_READ : MMU_WRITE, &la))                                      \
                return;                                                                                                \
            if (keep) {                                                                                                \
                if (!op_load##S(c, o, la, &m))                                                                         \
                    return;                                                                                            \
            } else {                                                                                                   \
                uint8_t *h = op_host(c, la, S / 8, MMU_WRITE);                                                         \
                if (likely(h && host_atomic(la, S / 8))) {                                                             \
                    if (o->flags & OPF_LOCK) {                                                                         \
                        do                                                                                             \
                            m = load##S(h);                                                                            \
                        while (unlikely(CAS(S, h, m, (U(S))CALC(m, b)) != m));                                         \
                    } else {                                                                                           \
                        m = load##S(h);                                                                                \
                        store##S(h, (U(S))CALC(m, b));                                                                 \
                    }                                                                                                  \
                } else {                                                                                               \
                    if (!op_rmw_slow(c, o, la, &m, S / 8))                                                             \
                        return;                                                                                        \
                    do                                                                                                 \
                        r = (U(S))CALC(m, b);                                                                          \
                    while (unlikely(!op_cas_slow(c, o, la, &m, &r, S / 8)));                                           \
                }                                                                                                      \
            }                                                                                                          \
            flags_set_cf(c, m &b);                                                                                     \
        }                                                                                                              \
        NEXT(c, o);                                                                                                    \
    }
#define DEFINE_BT(NAME, CALC)                                                                                          \
    DEFINE_BT_FORM(16, NAME, CALC)                                                                                     \
    DEFINE_BT_FORM(32, NAME, CALC)                                                                                     \
    DEFINE_BT_FORM(64, NAME, CALC)                                                                                     \
    op_fn *select_##NAME(const struct decoded *d, struct op *o)                                                        \
    {                                                                                                                  \
        static op_fn *const all[3][4] = {{NULL, NAME##_rr16, NAME##_rr32, NAME##_rr64},                                \
                                         {NULL, NAME##_ri16, NAME##_ri32, NAME##_ri64},                                \
                                         {NULL, NAME##_m16, NAME##_m32, NAME##_m64}};                                  \
        bool imm = decoded_is_imm(d, 1);                                                                               \
        if (imm)                                                                                                       \
            o->flags |= OPF_AUX;                                                                                       \
        return all[o->flags & OPF_MEM ? 2 : imm][decoded_log2(d, 0)];                                                  \
    }
DEFINE_BT(bt, BIT_KEEP)
DEFINE_BT(bts, BIT_SET_)
DEFINE_BT(btr, BIT_RESET)
DEFINE_BT(btc, BIT_TOGGLE)

/* --- scans and counts ------------------------------------------------------------------------------------------------
 */

#define CTZ(S, v) ((unsigned)(S == 64 ? __builtin_ctzll(v) : __builtin_ctz((uint32_t)(v))))
#define CLZ(S, v) ((unsigned)(S == 64 ? __builtin_clzll(v) : __builtin_clz((uint32_t)(v)) - (32 - (S == 64 ? 32 : S))))

/* The source is m. */
#define SCAN_BODY(S, INDEX)                                                                                            \
    if (m)                                                                                                             \
        W(S, o->r0, (U(S))(INDEX)); /* else unchanged, the upper half too */                                           \
    flags_set_arith(c, m ? (__builtin_parity(INDEX) ? 0 : FLAG_PF) : FLAG_ZF | FLAG_PF)
#define CF_ZF(cf, zf) flags_set_arith(c, ((cf) ? FLAG_CF : 0) | ((zf) ? FLAG_ZF : 0))

/* Unary from a register or memory to a register. */
#define DEFINE_SOURCE(S, NAME, BODY)                                                                                   \
    HANDLER_REG(NAME##_rr##S, U(S) m = R(S, o->r1); BODY)                                                              \
    HANDLER_LOAD(S, NAME##_rm##S, BODY)
#define SELECT_SOURCE(NAME, first)                                                                                     \
    op_fn *select_##NAME(const struct decoded *d, struct op *o)                                                        \
    {                                                                                                                  \
        static op_fn *const rr[4] = {NULL, first(NAME##_rr16), NAME##_rr32, NAME##_rr64};                              \
        static const struct mem_forms rm = {                                                                           \
            .fast = {NULL, first(NAME##_rm16_fast), NAME##_rm32_fast, NAME##_rm64_fast},                               \
            .slow = {NULL, first(NAME##_rm16_slow), NAME##_rm32_slow, NAME##_rm64_slow},                               \
            .disp = {NULL, first(NAME##_rm16_disp), NAME##_rm32_disp, NAME##_rm64_disp}};                              \
        unsigned size = decoded_log2(d, 0);                                                                            \
        return o->flags & OPF_MEM ? pick_mem(&rm, size, o) : rr[size];                                                 \
    }
#define WITH16(x)    x
#define WITHOUT16(x) NULL

#define DEFINE_SCANS(S, _)                                                                                             \
    DEFINE_SOURCE(S, bsf, SCAN_BODY(S, CTZ(S, m)))                                                                     \
    DEFINE_SOURCE(S, bsr, SCAN_BODY(S, S - 1 - CLZ(S, m)))                                                             \
    DEFINE_SOURCE(S, tzcnt, unsigned n = m ? CTZ(S, m) : S; W(S, o->r0, (U(S))n); CF_ZF(!m, !n))                       \
    DEFINE_SOURCE(S, lzcnt, unsigned n = m ? CLZ(S, m) : S; W(S, o->r0, (U(S))n); CF_ZF(!m, !n))                       \
    DEFINE_SOURCE(S, popcnt, unsigned n = (unsigned)__builtin_popcountll(m); W(S, o->r0, (U(S))n); CF_ZF(0, !n))
WIDE_SIZES(DEFINE_SCANS, )
SELECT_SOURCE(bsf, WITH16)
SELECT_SOURCE(bsr, WITH16)
SELECT_SOURCE(tzcnt, WITH16)
SELECT_SOURCE(lzcnt, WITH16)
SELECT_SOURCE(popcnt, WITH16)

/* --- BMI1, BMI2, ADX -------------------------------------------------------------------------------------------------
 */

/* Flags of the VEX-encoded ones: SF and ZF of the result, CF given, the others clear. */
#define BMI_FLAGS(S, r, cf) flags_set_arith(c, ((r) ? 0 : FLAG_ZF) | (MSB(S, r) ? FLAG_SF : 0) | ((cf) ? FLAG_CF : 0))

static uint64_t pdep(uint64_t v, uint64_t mask)
{
    uint64_t r = 0;
    for (; mask; mask &= mask - 1, v >>= 1)
        if (v & 1)
            r |= mask & -mask;
    return r;
}
static uint64_t pext(uint64_t v, uint64_t mask)
{
    uint64_t r = 0;
    for (unsigned k = 0; mask; mask &= mask - 1, k++)
        if (v & mask & -mask)
            r |= BIT(k);
    return r;
}

#define BLS_BODY(S, EXPR, CARRY)                                                                                       \
    U(S) r = (U(S))(EXPR);                                                                                             \
    W(S, o->r0, r);                                                                                                    \
    BMI_FLAGS(S, r, CARRY)
#define DEFINE_BLS(S, _)                                                                                               \
    DEFINE_SOURCE(S, blsr, BLS_BODY(S, m &(m - 1), !m))                                                                \
    DEFINE_SOURCE(S, blsi, BLS_BODY(S, m & -m, m))                                                                     \
    DEFINE_SOURCE(S, blsmsk, BLS_BODY(S, m ^ (m - 1), !m))                                                             \
    /* dest r0, source m, immediate */                                                                                 \
    DEFINE_SOURCE(S, rorx, unsigned n = (unsigned)o->imm & (S - 1); W(S, o->r0, n ? m >> n | m << (S - n) : m))
DEFINE_BLS(32, )
DEFINE_BLS(64, )
SELECT_SOURCE(blsr, WITHOUT16)
SELECT_SOURCE(blsi, WITHOUT16)
SELECT_SOURCE(blsmsk, WITHOUT16)
SELECT_SOURCE(rorx, WITHOUT16)

/* dest r0, r/m m, control b: the register that is the third operand. */
#define DEFINE_CONTROL(S, NAME, BODY)                                                                                  \
    HANDLER_REG(NAME##_rr##S, U(S) m = R(S, o->r1); U(S) b = R(S, o->imm); BODY)                                       \
    HANDLER_LOAD(S, NAME##_rm##S, U(S) b = R(S, o->r1); BODY)
#define DEFINE_CONTROLS(S, _)                                                                                          \
    DEFINE_CONTROL(S, bextr, unsigned start = (uint8_t)b; unsigned len = (uint8_t)(b >> 8);                            \
                   U(S) r = start < S ? (U(S))((m >> start) & (U(S))mask_low(len)) : 0; W(S, o->r0, r); CF_ZF(0, !r))  \
    DEFINE_CONTROL(S, bzhi, unsigned n = (uint8_t)b; U(S) r = n < S ? (U(S))(m & (U(S))mask_low(n)) : m;               \
                   W(S, o->r0, r); BMI_FLAGS(S, r, n > S - 1))                                                         \
    DEFINE_CONTROL(S, shlx, W(S, o->r0, m << (b & (S - 1))))                                                           \
    DEFINE_CONTROL(S, shrx, W(S, o->r0, m >> (b & (S - 1))))                                                           \
    DEFINE_CONTROL(S, sarx, W(S, o->r0, (U(S))((I(S))m >> (b & (S - 1)))))
DEFINE_CONTROLS(32, )
DEFINE_CONTROLS(64, )
SELECT_SOURCE(bextr, WITHOUT16)
SELECT_SOURCE(bzhi, WITHOUT16)
SELECT_SOURCE(shlx, WITHOUT16)
SELECT_SOURCE(shrx, WITHOUT16)
SELECT_SOURCE(sarx, WITHOUT16)

/* dest r0, register b, r/m m: the third operand. */
#define DEFINE_THIRD(S, NAME, BODY)                                                                                    \
    HANDLER_REG(NAME##_rr##S, U(S) b = R(S, o->r1); U(S) m = R(S, o->imm); BODY)                                       \
    HANDLER_LOAD(S, NAME##_rm##S, U(S) b = R(S, o->r1); BODY)
/* MULX: high half to r0, low half to r1; the high half wins. */
INLINE void mulx32(struct cpu *c, const struct op *o, uint32_t m)
{
    uint64_t r = (uint64_t)R(32, 8 * GPR_RDX) * m;
    W(32, o->r1, (uint32_t)r);
    W(32, o->r0, (uint32_t)(r >> 32));
}
INLINE void mulx64(struct cpu *c, const struct op *o, uint64_t m)
{
    __extension__ unsigned __int128 r = (unsigned __int128)c->gpr[GPR_RDX] * m;
    W(64, o->r1, (uint64_t)r);
    W(64, o->r0, (uint64_t)(r >> 64));
}
#define DEFINE_THIRDS(S, _)                                                                                            \
    DEFINE_THIRD(S, andn, U(S) r = (U(S))(~b & m); W(S, o->r0, r); BMI_FLAGS(S, r, 0))                                 \
    DEFINE_THIRD(S, pdep, W(S, o->r0, (U(S))pdep(b, m)))                                                               \
    DEFINE_THIRD(S, pext, W(S, o->r0, (U(S))pext(b, m)))                                                               \
    DEFINE_THIRD(S, mulx, (void)b; mulx##S(c, o, m))                                                                   \
    DEFINE_SOURCE(S, adcx, U(S) a = R(S, o->r0); bool in = flag_cf(c); U(S) r = (U(S))(a + m + in); W(S, o->r0, r);    \
                  flags_set_cf(c, in ? r <= a : r < a))                                                                \
    DEFINE_SOURCE(S, adox, U(S) a = R(S, o->r0); bool in = flag_of(c); U(S) r = (U(S))(a + m + in); W(S, o->r0, r);    \
                  flags_set_cf_of(c, flag_cf(c), in ? r <= a : r < a))
DEFINE_THIRDS(32, )
DEFINE_THIRDS(64, )
SELECT_SOURCE(andn, WITHOUT16)
SELECT_SOURCE(pdep, WITHOUT16)
SELECT_SOURCE(pext, WITHOUT16)
SELECT_SOURCE(mulx, WITHOUT16)
SELECT_SOURCE(adcx, WITHOUT16)
SELECT_SOURCE(adox, WITHOUT16)

/* --- multiplication
 * ---------------------------------------------------------------------------------------------------- */

/* ZF is clear whatever the result: a zero is noted as another value with its sign and parity. */
INLINE void mul_flags(struct cpu *c, uint64_t low /* sign-extended */, bool over)
{
    c->lf_res = low | (uint64_t)(low == 0) << 8;
    c->lf_aux = 0;
    c->lf_cv = (uint64_t)over << 63;
}
INLINE uint64_t imul_low(struct cpu *c, uint64_t a, uint64_t b, unsigned width) /* sign-extended operands and result */
{
    int64_t r;
    bool over = __builtin_mul_overflow((int64_t)a, (int64_t)b, &r);
    uint64_t low = width == 64 ? (uint64_t)r : sign_extend((uint64_t)r, width);
    mul_flags(c, low, over || low != (uint64_t)r);
    return low;
}
#define DEFINE_IMUL(S, _)                                                                                              \
    DEFINE_SOURCE(S, imul2, W(S, o->r0, (U(S))imul_low(c, SX(S, R(S, o->r0)), SX(S, m), S)))                           \
    DEFINE_SOURCE(S, imul3, W(S, o->r0, (U(S))imul_low(c, SX(S, m), (uint64_t)(int64_t)o->imm, S)))
WIDE_SIZES(DEFINE_IMUL, )
static SELECT_SOURCE(imul2, WITH16) static SELECT_SOURCE(imul3, WITH16)

    /* The operand of MUL, IMUL, DIV, IDIV: r0 or memory, zero-extended. */
    static bool one_operand(struct cpu *c, const struct op *o, uint64_t *v)
{
    uint8_t v8;
    uint16_t v16;
    uint32_t v32;
    bool mem = o->flags & OPF_MEM;
    switch (o->size & 15) {
    case 0:
        if (mem && !op_ld8(c, o, &v8))
            return false;
        *v = mem ? v8 : R(8, o->r0);
        return true;
    case 1:
        if (mem && !op_ld16(c, o, &v16))
            return false;
        *v = mem ? v16 : R(16, o->r0);
        return true;
    case 2:
        if (mem && !op_ld32(c, o, &v32))
            return false;
        *v = mem ? v32 : R(32, o->r0);
        return true;
    default:
        if (mem)
            return op_ld64(c, o, v);
        *v = R(64, o->r0);
        return true;
    }
}
void op_mul(struct cpu *c, const struct op *o)
{
    {
        uint64_t v;
        if (!one_operand(c, o, &v))
            return;
        switch (o->size & 15) {
        case 0: {
            uint16_t r = (uint16_t)(R(8, 8 * GPR_RAX) * (unsigned)v);
            W(16, 8 * GPR_RAX, r);
            mul_flags(c, SX(8, r), r >> 8);
            break;
        }
        case 1: {
            uint32_t r = R(16, 8 * GPR_RAX) * (uint32_t)v;
            W(16, 8 * GPR_RAX, (uint16_t)r);
            W(16, 8 * GPR_RDX, (uint16_t)(r >> 16));
            mul_flags(c, SX(16, r), r >> 16);
            break;
        }
        case 2: {
            uint64_t r = (uint64_t)R(32, 8 * GPR_RAX) * v;
            W(32, 8 * GPR_RAX, (uint32_t)r);
            W(32, 8 * GPR_RDX, (uint32_t)(r >> 32));
            mul_flags(c, SX(32, r), r >> 32);
            break;
        }
        default: {
            __extension__ unsigned __int128 r = (unsigned __int128)c->gpr[GPR_RAX] * v;
            c->gpr[GPR_RAX] = (uint64_t)r;
            c->gpr[GPR_RDX] = (uint64_t)(r >> 64);
            mul_flags(c, (uint64_t)r, (uint64_t)(r >> 64));
            break;
        }
        }
    }
    NEXT(c, o);
}
static void imul1(struct cpu *c, const struct op *o)
{
    {
        uint64_t v;
        if (!one_operand(c, o, &v))
            return;
        switch (o->size & 15) {
        case 0: {
            int r = (int8_t)R(8, 8 * GPR_RAX) * (int8_t)v;
            W(16, 8 * GPR_RAX, (uint16_t)r);
            mul_flags(c, SX(8, r), r != (int8_t)r);
            break;
        }
        case 1: {
            int r = (int16_t)R(16, 8 * GPR_RAX) * (int16_t)v;
            W(16, 8 * GPR_RAX, (uint16_t)r);
            W(16, 8 * GPR_RDX, (uint16_t)((uint32_t)r >> 16));
            mul_flags(c, SX(16, r), r != (int16_t)r);
            break;
        }
        case 2: {
            int64_t r = (int64_t)(int32_t)R(32, 8 * GPR_RAX) * (int32_t)v;
            W(32, 8 * GPR_RAX, (uint32_t)r);
            W(32, 8 * GPR_RDX, (uint32_t)((uint64_t)r >> 32));
            mul_flags(c, SX(32, r), r != (int32_t)r);
            break;
        }
        default: {
            __extension__ __int128 r = (__int128)(int64_t)c->gpr[GPR_RAX] * (int64_t)v;
            c->gpr[GPR_RAX] = (uint64_t)r;
            c->gpr[GPR_RDX] = (uint64_t)(r >> 64);
            mul_flags(c, (uint64_t)r, r != (int64_t)r);
            break;
        }
        }
    }
    NEXT(c, o);
}
op_fn *select_imul(const struct decoded *d, struct op *o)
{
    switch (d->in.operand_count_visible) {
    case 1: return imul1;
    case 2: return select_imul2(d, o);
    default: return select_imul3(d, o);
    }
}

/* --- division: #DE when the divisor is zero or the quotient too large.
 * -------------------------------------------------------- */

static void divide_error(struct cpu *c, const struct op *o)
{
    c->cur = o;
    cpu_raise(c, EXC_DE, 0);
}
void op_div(struct cpu *c, const struct op *o)
{
    {
        uint64_t v;
        if (!one_operand(c, o, &v))
            return;
        if (!v)
            return divide_error(c, o);
        switch (o->size & 15) {
        case 0: {
            unsigned n = R(16, 8 * GPR_RAX), q = n / (unsigned)v;
            if (q >> 8)
                return divide_error(c, o);
            W(16, 8 * GPR_RAX, (uint16_t)(q | n % (unsigned)v << 8));
            break;
        }
        case 1: {
            uint32_t n = (uint32_t)R(16, 8 * GPR_RDX) << 16 | R(16, 8 * GPR_RAX), q = n / (uint32_t)v;
            if (q >> 16)
                return divide_error(c, o);
            W(16, 8 * GPR_RAX, (uint16_t)q);
            W(16, 8 * GPR_RDX, (uint16_t)(n % (uint32_t)v));
            break;
        }
        case 2: {
            uint64_t n = (uint64_t)R(32, 8 * GPR_RDX) << 32 | R(32, 8 * GPR_RAX), q = n / v;
            if (q >> 32)
                return divide_error(c, o);
            W(32, 8 * GPR_RAX, (uint32_t)q);
            W(32, 8 * GPR_RDX, (uint32_t)(n % v));
            break;
        }
        default: {
            if (c->gpr[GPR_RDX] >= v)
                return divide_error(c, o);
            __extension__ unsigned __int128 n = (unsigned __int128)c->gpr[GPR_RDX] << 64 | c->gpr[GPR_RAX];
            if (!c->gpr[GPR_RDX]) {
                uint64_t a = c->gpr[GPR_RAX];
                c->gpr[GPR_RAX] = a / v;
                c->gpr[GPR_RDX] = a % v;
            } else {
                c->gpr[GPR_RAX] = (uint64_t)(n / v);
                c->gpr[GPR_RDX] = (uint64_t)(n % v);
            }
            break;
        }
        }
    }
    NEXT(c, o);
}
void op_idiv(struct cpu *c, const struct op *o)
{
    {
        uint64_t v;
        if (!one_operand(c, o, &v))
            return;
        switch (o->size & 15) {
        case 0: {
            int n = (int16_t)R(16, 8 * GPR_RAX), s = (int8_t)v;
            if (!s || n / s != (int8_t)(n / s))
                return divide_error(c, o);
            W(16, 8 * GPR_RAX, (uint16_t)((uint8_t)(n / s) | (n % s & 0xff) << 8));
            break;
        }
        case 1: {
            int64_t n = (int32_t)((uint32_t)R(16, 8 * GPR_RDX) << 16 | R(16, 8 * GPR_RAX)), s = (int16_t)v;
            if (!s || n / s != (int16_t)(n / s))
                return divide_error(c, o);
            W(16, 8 * GPR_RAX, (uint16_t)(n / s));
            W(16, 8 * GPR_RDX, (uint16_t)(n % s));
            break;
        }
        case 2: {
            int64_t n = (int64_t)((uint64_t)R(32, 8 * GPR_RDX) << 32 | R(32, 8 * GPR_RAX)), s = (int32_t)v;
            if (!s || (s == -1 && n == INT64_MIN) || n / s != (int32_t)(n / s))
                return divide_error(c, o);
            W(32, 8 * GPR_RAX, (uint32_t)(n / s));
            W(32, 8 * GPR_RDX, (uint32_t)(n % s));
            break;
        }
        default: {
            /* By magnitudes: a quotient of 64 bits and a sign. */
            if (!v)
                return divide_error(c, o);
            __extension__ unsigned __int128 n = (unsigned __int128)c->gpr[GPR_RDX] << 64 | c->gpr[GPR_RAX];
            bool nneg = c->gpr[GPR_RDX] >> 63, sneg = v >> 63;
            if (nneg)
                n = -n;
            uint64_t s = sneg ? -v : v;
            if ((uint64_t)(n >> 64) >= s)
                return divide_error(c, o);
            uint64_t q = (uint64_t)(n / s), r = (uint64_t)(n % s);
            if (q > (uint64_t)INT64_MAX + (nneg != sneg))
                return divide_error(c, o);
            c->gpr[GPR_RAX] = nneg != sneg ? -q : q;
            c->gpr[GPR_RDX] = nneg ? -r : r;
            break;
        }
        }
    }
    NEXT(c, o);
}

/* --- decimal adjustment: SDM volume 2A
 * ------------------------------------------------------------------------------------------ */

static void decimal_flags(struct cpu *c, uint8_t al, bool cf, bool af)
{
    flags_set_arith(c, (cf ? FLAG_CF : 0) | (af ? FLAG_AF : 0) | (al ? 0 : FLAG_ZF) | (al & 0x80 ? FLAG_SF : 0) |
                           (__builtin_parity(al) ? 0 : FLAG_PF));
}
static void ascii_adjust(struct cpu *c, bool subtract)
{
    uint16_t ax = R(16, 8 * GPR_RAX);
    bool adjust = (ax & 15) > 9 || flag_af(c);
    if (adjust)
        ax = (uint16_t)(subtract ? ax - 0x106 : ax + 0x106);
    W(16, 8 * GPR_RAX, ax & 0xff0f);
    decimal_flags(c, ax & 0xf, adjust, adjust);
}
void op_aaa(struct cpu *c, const struct op *o)
{
    ascii_adjust(c, false);
    NEXT(c, o);
}
void op_aas(struct cpu *c, const struct op *o)
{
    ascii_adjust(c, true);
    NEXT(c, o);
}
void op_daa(struct cpu *c, const struct op *o)
{
    uint8_t al = R(8, 8 * GPR_RAX), old = al;
    bool cf = flag_cf(c), af = (al & 15) > 9 || flag_af(c);
    if (af)
        al = (uint8_t)(al + 6);
    cf = old > 0x99 || cf;
    if (cf)
        al = (uint8_t)(al + 0x60);
    W(8, 8 * GPR_RAX, al);
    decimal_flags(c, al, cf, af);
    NEXT(c, o);
}
void op_das(struct cpu *c, const struct op *o)
{
    uint8_t al = R(8, 8 * GPR_RAX), old = al;
    bool cf = flag_cf(c), af = (al & 15) > 9 || flag_af(c), borrow = false;
    if (af) {
        borrow = al < 6;
        al = (uint8_t)(al - 6);
    }
    bool high = old > 0x99 || cf;
    if (high)
        al = (uint8_t)(al - 0x60);
    W(8, 8 * GPR_RAX, al);
    decimal_flags(c, al, high || cf || borrow, af);
    NEXT(c, o);
}
void op_aam(struct cpu *c, const struct op *o)
{
    uint8_t base = (uint8_t)o->imm, al = R(8, 8 * GPR_RAX);
    if (!base)
        return divide_error(c, o);
    W(16, 8 * GPR_RAX, (uint16_t)(al / base << 8 | al % base));
    decimal_flags(c, al % base, false, false);
    NEXT(c, o);
}
void op_aad(struct cpu *c, const struct op *o)
{
    uint16_t ax = R(16, 8 * GPR_RAX);
    uint8_t al = (uint8_t)((ax & 0xff) + (ax >> 8) * (uint8_t)o->imm);
    W(16, 8 * GPR_RAX, al);
    decimal_flags(c, al, false, false);
    NEXT(c, o);
}
