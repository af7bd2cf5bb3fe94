/* SPDX-License-Identifier: MIT
 *
 * ops_int.c: moves, arithmetic and logic, the stack. SDM volume 2; undefined flags are those of current Intel
 * processors.
 */
#include "src/cpu/ops_int.h"
#include "src/cpu/code.h"

/* --- MOV -------------------------------------------------------------------------------------------------------- */

#define DEFINE_MOV(S, _)                                                                                               \
    HANDLER_REG(mov_rr##S, W(S, o->r0, R(S, o->r1)))                                                                   \
    HANDLER_REG(mov_ri##S, W(S, o->r0, (U(S))o->disp))                                                                 \
    HANDLER_LOAD(S, mov_rm##S, W(S, o->r0, m))                                                                         \
    HANDLER_STORE(S, mov_mr##S, R(S, o->r0))                                                                           \
    HANDLER_STORE(S, mov_mi##S, (int64_t)o->imm)
ALL_SIZES(DEFINE_MOV, )

#define FORMS(n)                                                                                                       \
    {                                                                                                                  \
        n##8, n##16, n##32, n##64                                                                                      \
    }
#define FORMS_OF(n, how)                                                                                               \
    {                                                                                                                  \
        n##8_##how, n##16_##how, n##32_##how, n##64_##how                                                              \
    }
#define FORMS_MEM(n)                                                                                                   \
    {                                                                                                                  \
        .fast = FORMS_OF(n, fast), .slow = FORMS_OF(n, slow), .disp = FORMS_OF(n, disp)                                \
    }
#define FORMS_RMW(n)                                                                                                   \
    {                                                                                                                  \
        .fast = FORMS_OF(n, fast), .slow = FORMS_OF(n, slow), .disp = FORMS_OF(n, disp), .lock = FORMS_OF(n, lock)     \
    }

/* Segment registers. A load of SS holds off interrupts and debug exceptions for one instruction: SDM volume 3A,
 * "Masking Exceptions and Interrupts When Switching Stacks". */
static void load_sreg(struct cpu *c, const struct op *o, unsigned seg, uint16_t sel)
{
    c->cur = o;
    if (!cpu_load_seg(c, seg, sel))
        return;
    if (seg == SEG_SS)
        cpu_set_shadow(c, true);
    END_NEXT(c, o);
}
static void mov_sreg_r(struct cpu *c, const struct op *o)
{
    load_sreg(c, o, o->r0, R(16, o->r1));
}
static void mov_sreg_m(struct cpu *c, const struct op *o)
{
    uint16_t sel;
    if (!op_ld16(c, o, &sel))
        return;
    load_sreg(c, o, o->r0, sel);
}
static void mov_r_sreg(struct cpu *c, const struct op *o)
{
    uint16_t sel = c->seg[o->r1].sel;
    if ((o->size & 15) == 1)
        W(16, o->r0, sel);
    else
        W(64, o->r0, sel);
    NEXT(c, o);
}
static void mov_m_sreg(struct cpu *c, const struct op *o)
{
    if (!op_st16(c, o, c->seg[o->r0].sel))
        return;
    NEXT(c, o);
}

op_fn *select_mov(const struct decoded *d, struct op *o)
{
    static op_fn *const rr[4] = FORMS(mov_rr), *const ri[4] = FORMS(mov_ri);
    static const struct mem_forms rm = FORMS_MEM(mov_rm), mr = FORMS_MEM(mov_mr), mi = FORMS_MEM(mov_mi);
    ZydisRegisterClass dst = decoded_class(d, 0), src = decoded_class(d, 1);
    unsigned size = decoded_log2(d, 0);
    switch (dst) {
    case ZYDIS_REGCLASS_CONTROL: decoded_ends(d); return op_mov_to_cr;
    case ZYDIS_REGCLASS_DEBUG: decoded_ends(d); return op_mov_to_dr;
    case ZYDIS_REGCLASS_SEGMENT:
        if (o->r0 == SEG_CS)
            return NULL;
        decoded_ends(d);
        return o->flags & OPF_MEM ? mov_sreg_m : mov_sreg_r;
    default: break;
    }
    switch (src) {
    case ZYDIS_REGCLASS_CONTROL: decoded_ends(d); return op_mov_from_cr;
    case ZYDIS_REGCLASS_DEBUG: decoded_ends(d); return op_mov_from_dr;
    case ZYDIS_REGCLASS_SEGMENT: return o->flags & OPF_MEM ? mov_m_sreg : mov_r_sreg;
    default: break;
    }
    if (dst == ZYDIS_REGCLASS_TEST || src == ZYDIS_REGCLASS_TEST)
        return NULL;
    if (o->flags & OPF_SWAP)
        return pick_mem(decoded_is_imm(d, 1) ? &mi : &mr, size, o);
    if (o->flags & OPF_MEM)
        return pick_mem(&rm, size, o);
    return decoded_is_imm(d, 1) ? ri[size] : rr[size];
}

/* MOVNTI and MOVDIRI order nothing here. */
op_fn *select_movnti(const struct decoded *d, struct op *o)
{
    static const struct mem_forms mr = FORMS_MEM(mov_mr);
    return o->flags & OPF_MEM ? pick_mem(&mr, decoded_log2(d, 0), o) : NULL;
}

/* MOVZX, MOVSX, MOVSXD: by source and destination. */
#define DEFINE_MOVX(S, D)                                                                                              \
    HANDLER_REG(movzx_rr##S##_##D, W(D, o->r0, R(S, o->r1)))                                                           \
    HANDLER_LOAD(S, movzx_rm##S##_##D, W(D, o->r0, m))                                                                 \
    HANDLER_REG(movsx_rr##S##_##D, W(D, o->r0, (U(D))SX(S, R(S, o->r1))))                                              \
    HANDLER_LOAD(S, movsx_rm##S##_##D, W(D, o->r0, (U(D))SX(S, m)))
DEFINE_MOVX(8, 16)
DEFINE_MOVX(8, 32)
DEFINE_MOVX(8, 64)
DEFINE_MOVX(16, 16)
DEFINE_MOVX(16, 32)
DEFINE_MOVX(16, 64)
DEFINE_MOVX(32, 32)
DEFINE_MOVX(32, 64)

#define MOVX_ROW(n, sfx)                                                                                               \
    {                                                                                                                  \
        {NULL, n##8_16##sfx, n##8_32##sfx, n##8_64##sfx}, {NULL, n##16_16##sfx, n##16_32##sfx, n##16_64##sfx},         \
        {                                                                                                              \
            NULL, NULL, n##32_32##sfx, n##32_64##sfx                                                                   \
        }                                                                                                              \
    }
op_fn *select_movzx(const struct decoded *d, struct op *o)
{
    static op_fn *const rr[3][4] = MOVX_ROW(movzx_rr, );
    static op_fn *const fast[3][4] = MOVX_ROW(movzx_rm, _fast), *const slow[3][4] = MOVX_ROW(movzx_rm, _slow);
    static op_fn *const disp[3][4] = MOVX_ROW(movzx_rm, _disp);
    unsigned dst = decoded_log2(d, 0), src = decoded_log2(d, 1);
    return !(o->flags & OPF_MEM) ? rr[src][dst]
           : is_legacy(o)        ? slow[src][dst]
           : is_disp(o)          ? disp[src][dst]
                                 : fast[src][dst];
}
op_fn *select_movsx(const struct decoded *d, struct op *o)
{
    static op_fn *const rr[3][4] = MOVX_ROW(movsx_rr, );
    static op_fn *const fast[3][4] = MOVX_ROW(movsx_rm, _fast), *const slow[3][4] = MOVX_ROW(movsx_rm, _slow);
    static op_fn *const disp[3][4] = MOVX_ROW(movsx_rm, _disp);
    unsigned dst = decoded_log2(d, 0), src = decoded_log2(d, 1);
    if (dst == 1 && src == 2) /* MOVSXD r16, r/m32 moves 16 bits */
        src = 1;
    return !(o->flags & OPF_MEM) ? rr[src][dst]
           : is_legacy(o)        ? slow[src][dst]
           : is_disp(o)          ? disp[src][dst]
                                 : fast[src][dst];
}

#define DEFINE_MOVBE(S, _)                                                                                             \
    HANDLER_LOAD(S, movbe_rm##S, W(S, o->r0, __builtin_bswap##S(m)))                                                   \
    HANDLER_STORE(S, movbe_mr##S, __builtin_bswap##S(R(S, o->r0)))
WIDE_SIZES(DEFINE_MOVBE, )
op_fn *select_movbe(const struct decoded *d, struct op *o)
{
    static const struct mem_forms rm = {.fast = {NULL, movbe_rm16_fast, movbe_rm32_fast, movbe_rm64_fast},
                                        .slow = {NULL, movbe_rm16_slow, movbe_rm32_slow, movbe_rm64_slow}};
    static const struct mem_forms mr = {.fast = {NULL, movbe_mr16_fast, movbe_mr32_fast, movbe_mr64_fast},
                                        .slow = {NULL, movbe_mr16_slow, movbe_mr32_slow, movbe_mr64_slow}};
    return pick_mem(o->flags & OPF_SWAP ? &mr : &rm, decoded_log2(d, 0), o);
}

/* --- LEA, XCHG, BSWAP -------------------------------------------------------------------------------------------- */

HANDLER_REG(lea16, W(16, o->r0, (uint16_t)op_ea(c, o)))
HANDLER_REG(lea32, W(32, o->r0, (uint32_t)op_ea(c, o)))
HANDLER_REG(lea64, W(64, o->r0, op_ea(c, o)))
HANDLER_REG(lea32_fast, W(32, o->r0, (uint32_t)op_offset(c, o)))
HANDLER_REG(lea64_fast, W(64, o->r0, op_offset(c, o)))
HANDLER_REG(lea64_disp, W(64, o->r0, c->gpr[o->base] + (uint64_t)o->disp))
op_fn *select_lea(const struct decoded *d, struct op *o)
{
    static op_fn *const all[4] = {NULL, lea16, lea32, lea64};
    unsigned size = decoded_log2(d, 0);
    if (!(o->flags & OPF_MEM))
        return NULL;
    if (is_legacy(o) || size == 1)
        return all[size];
    if (size == 3)
        return o->index == GPR_ZERO ? lea64_disp : lea64_fast;
    return lea32_fast;
}

#define DEFINE_XCHG(S, _)                                                                                              \
    HANDLER_REG(xchg_rr##S, U(S) a = R(S, o->r0); U(S) b = R(S, o->r1); W(S, o->r0, b); W(S, o->r1, a))                \
    static void xchg_mr##S(struct cpu *c, const struct op *o)                                                          \
    {                                                                                                                  \
        {                                                                                                              \
            uint64_t la;                                                                                               \
            U(S) m, r = R(S, o->r0);                                                                                   \
            if (!op_la(c, o, S / 8, MMU_WRITE, &la))                                                                   \
                return;                                                                                                \
            uint8_t *h = op_host(c, la, S / 8, MMU_WRITE);                                                             \
            if (likely(h && host_atomic(la, S / 8))) {                                                                 \
                do                                                                                                     \
                    m = load##S(h);                                                                                    \
                while (unlikely(CAS(S, h, m, r) != m));                                                                \
            } else {                                                                                                   \
                if (!op_rmw_slow(c, o, la, &m, S / 8))                                                                 \
                    return;                                                                                            \
                while (unlikely(!op_cas_slow(c, o, la, &m, &r, S / 8)))                                                \
                    ;                                                                                                  \
            }                                                                                                          \
            W(S, o->r0, m);                                                                                            \
        }                                                                                                              \
        NEXT(c, o);                                                                                                    \
    }
ALL_SIZES(DEFINE_XCHG, )
op_fn *select_xchg(const struct decoded *d, struct op *o)
{
    static op_fn *const rr[4] = FORMS(xchg_rr), *const mr[4] = FORMS(xchg_mr);
    return (o->flags & OPF_MEM ? mr : rr)[decoded_log2(d, 0)];
}

HANDLER_REG(bswap16, W(16, o->r0, 0)) /* undefined: processors give zero */
HANDLER_REG(bswap32, W(32, o->r0, __builtin_bswap32(R(32, o->r0))))
HANDLER_REG(bswap64, W(64, o->r0, __builtin_bswap64(R(64, o->r0))))
op_fn *select_bswap(const struct decoded *d, struct op *o)
{
    static op_fn *const all[4] = {NULL, bswap16, bswap32, bswap64};
    return all[decoded_log2(d, 0)];
}

/* --- arithmetic and logic ----------------------------------------------------------------------------------------- */

#define DEFINE_ALU_CALC(S, _)                                                                                          \
    INLINE U(S) calc_add##S(struct cpu *c, U(S) a, U(S) b)                                                             \
    {                                                                                                                  \
        U(S) r = (U(S))(a + b);                                                                                        \
        flags_set(c, SX(S, r), flags_add_cv(a, b, r), S);                                                              \
        return r;                                                                                                      \
    }                                                                                                                  \
    INLINE U(S) calc_adc##S(struct cpu *c, U(S) a, U(S) b)                                                             \
    {                                                                                                                  \
        U(S) r = (U(S))(a + b + flag_cf(c));                                                                           \
        flags_set(c, SX(S, r), flags_add_cv(a, b, r), S);                                                              \
        return r;                                                                                                      \
    }                                                                                                                  \
    INLINE U(S) calc_sub##S(struct cpu *c, U(S) a, U(S) b)                                                             \
    {                                                                                                                  \
        U(S) r = (U(S))(a - b);                                                                                        \
        flags_set(c, SX(S, r), flags_sub_cv(a, b, r), S);                                                              \
        return r;                                                                                                      \
    }                                                                                                                  \
    INLINE U(S) calc_sbb##S(struct cpu *c, U(S) a, U(S) b)                                                             \
    {                                                                                                                  \
        U(S) r = (U(S))(a - b - flag_cf(c));                                                                           \
        flags_set(c, SX(S, r), flags_sub_cv(a, b, r), S);                                                              \
        return r;                                                                                                      \
    }                                                                                                                  \
    INLINE U(S) calc_and##S(struct cpu *c, U(S) a, U(S) b)                                                             \
    {                                                                                                                  \
        U(S) r = a & b;                                                                                                \
        flags_set_logic(c, SX(S, r));                                                                                  \
        return r;                                                                                                      \
    }                                                                                                                  \
    INLINE U(S) calc_or##S(struct cpu *c, U(S) a, U(S) b)                                                              \
    {                                                                                                                  \
        U(S) r = a | b;                                                                                                \
        flags_set_logic(c, SX(S, r));                                                                                  \
        return r;                                                                                                      \
    }                                                                                                                  \
    INLINE U(S) calc_xor##S(struct cpu *c, U(S) a, U(S) b)                                                             \
    {                                                                                                                  \
        U(S) r = a ^ b;                                                                                                \
        flags_set_logic(c, SX(S, r));                                                                                  \
        return r;                                                                                                      \
    }                                                                                                                  \
    INLINE U(S) calc_inc##S(struct cpu *c, U(S) a)                                                                     \
    {                                                                                                                  \
        U(S) r = (U(S))(a + 1);                                                                                        \
        bool cf = flag_cf(c);                                                                                          \
        c->lf_res = SX(S, r);                                                                                          \
        c->lf_aux = (a ^ r ^ 1u) >> 1 & 8u;                                                                            \
        flags_set_cf_of(c, cf, r == (U(S))1 << (S - 1));                                                               \
        return r;                                                                                                      \
    }                                                                                                                  \
    INLINE U(S) calc_dec##S(struct cpu *c, U(S) a)                                                                     \
    {                                                                                                                  \
        U(S) r = (U(S))(a - 1);                                                                                        \
        bool cf = flag_cf(c);                                                                                          \
        c->lf_res = SX(S, r);                                                                                          \
        c->lf_aux = (a ^ r ^ 1u) >> 1 & 8u;                                                                            \
        flags_set_cf_of(c, cf, a == (U(S))1 << (S - 1));                                                               \
        return r;                                                                                                      \
    }                                                                                                                  \
    INLINE U(S) calc_neg##S(struct cpu *c, U(S) a)                                                                     \
    {                                                                                                                  \
        return calc_sub##S(c, 0, a);                                                                                   \
    }                                                                                                                  \
    INLINE U(S) calc_not##S(struct cpu *c, U(S) a)                                                                     \
    {                                                                                                                  \
        return (U(S)) ~a;                                                                                              \
    }
ALL_SIZES(DEFINE_ALU_CALC, )

#define DEFINE_ALU(S, NAME)                                                                                            \
    HANDLER_REG(NAME##_rr##S, W(S, o->r0, calc_##NAME##S(c, R(S, o->r0), R(S, o->r1))))                                \
    HANDLER_REG(NAME##_ri##S, W(S, o->r0, calc_##NAME##S(c, R(S, o->r0), (U(S))(int64_t)o->imm)))                      \
    HANDLER_LOAD(S, NAME##_rm##S, W(S, o->r0, calc_##NAME##S(c, R(S, o->r0), m)))                                      \
    HANDLER_RMW(S, NAME##_mr##S, r = calc_##NAME##S(c, m, R(S, o->r0)))                                                \
    HANDLER_RMW(S, NAME##_mi##S, r = calc_##NAME##S(c, m, (U(S))(int64_t)o->imm))
#define DEFINE_ALU_LOCK(S, NAME)                                                                                       \
    HANDLER_LOCKED(S, NAME##_mr##S, r = calc_##NAME##S(c, m, R(S, o->r0)))                                             \
    HANDLER_LOCKED(S, NAME##_mi##S, r = calc_##NAME##S(c, m, (U(S))(int64_t)o->imm))

struct alu_forms {
    op_fn *rr[4], *ri[4];
    struct mem_forms rm, mr, mi;
};
static op_fn *pick_alu(const struct alu_forms *f, const struct decoded *d, const struct op *o)
{
    unsigned size = decoded_log2(d, 0);
    bool imm = decoded_is_imm(d, 1);
    if (o->flags & OPF_SWAP)
        return pick_mem(imm ? &f->mi : &f->mr, size, o);
    if (o->flags & OPF_MEM)
        return pick_mem(&f->rm, size, o);
    return imm ? f->ri[size] : f->rr[size];
}
#define SELECT_ALU(NAME)                                                                                               \
    op_fn *select_##NAME(const struct decoded *d, struct op *o)                                                        \
    {                                                                                                                  \
        static const struct alu_forms f = {.rr = FORMS(NAME##_rr),                                                     \
                                           .ri = FORMS(NAME##_ri),                                                     \
                                           .rm = FORMS_MEM(NAME##_rm),                                                 \
                                           .mr = FORMS_RMW(NAME##_mr),                                                 \
                                           .mi = FORMS_RMW(NAME##_mi)};                                                \
        return pick_alu(&f, d, o);                                                                                     \
    }
#define ALU(NAME)                                                                                                      \
    ALL_SIZES(DEFINE_ALU, NAME)                                                                                        \
    ALL_SIZES(DEFINE_ALU_LOCK, NAME)                                                                                   \
    SELECT_ALU(NAME)
ALU(add)
ALU(sub)
ALU(and)
ALU(or)
ALU(xor)
ALU(adc)
ALU(sbb)

/* CMP and TEST write nothing. */
#define DEFINE_COMPARE(S, NAME, calc)                                                                                  \
    HANDLER_REG(NAME##_rr##S, calc##S(c, R(S, o->r0), R(S, o->r1)))                                                    \
    HANDLER_REG(NAME##_ri##S, calc##S(c, R(S, o->r0), (U(S))(int64_t)o->imm))                                          \
    HANDLER_LOAD(S, NAME##_rm##S, calc##S(c, R(S, o->r0), m))                                                          \
    HANDLER_LOAD(S, NAME##_mr##S, calc##S(c, m, R(S, o->r0)))                                                          \
    HANDLER_LOAD(S, NAME##_mi##S, calc##S(c, m, (U(S))(int64_t)o->imm))
#define SELECT_COMPARE(NAME)                                                                                           \
    op_fn *select_##NAME(const struct decoded *d, struct op *o)                                                        \
    {                                                                                                                  \
        static const struct alu_forms f = {.rr = FORMS(NAME##_rr),                                                     \
                                           .ri = FORMS(NAME##_ri),                                                     \
                                           .rm = FORMS_MEM(NAME##_rm),                                                 \
                                           .mr = FORMS_MEM(NAME##_mr),                                                 \
                                           .mi = FORMS_MEM(NAME##_mi)};                                                \
        return pick_alu(&f, d, o);                                                                                     \
    }
ALL_SIZES(DEFINE_COMPARE, cmp, calc_sub)
ALL_SIZES(DEFINE_COMPARE, test, calc_and)
SELECT_COMPARE(cmp)
SELECT_COMPARE(test)

/* INC, DEC, NEG, NOT */
#define DEFINE_UNARY(S, NAME)                                                                                          \
    HANDLER_REG(NAME##_r##S, W(S, o->r0, calc_##NAME##S(c, R(S, o->r0))))                                              \
    HANDLER_RMW(S, NAME##_m##S, r = calc_##NAME##S(c, m))                                                              \
    HANDLER_LOCKED(S, NAME##_m##S, r = calc_##NAME##S(c, m))
#define UNARY(NAME)                                                                                                    \
    ALL_SIZES(DEFINE_UNARY, NAME)                                                                                      \
    op_fn *select_##NAME(const struct decoded *d, struct op *o)                                                        \
    {                                                                                                                  \
        static op_fn *const reg[4] = FORMS(NAME##_r);                                                                  \
        static const struct mem_forms mem = FORMS_RMW(NAME##_m);                                                       \
        unsigned size = decoded_log2(d, 0);                                                                            \
        return o->flags & OPF_MEM ? pick_mem(&mem, size, o) : reg[size];                                               \
    }
UNARY(inc)
UNARY(dec)
UNARY(neg)
UNARY(not )

#define ALL_CC(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)

/* --- a comparison and the branch on it as one operation --------------------------------------------------------------
 */

/* The condition of a comparison of a with b, and of a result alone; r is a's difference, or the result. */
#define COND_COMPARE(S, cc, a, b, r)                                                                                   \
    (((cc) >> 1 == 1   ? (a) < (b)                                                                                     \
      : (cc) >> 1 == 2 ? (a) == (b)                                                                                    \
      : (cc) >> 1 == 3 ? (a) <= (b)                                                                                    \
      : (cc) >> 1 == 4 ? (I(S))(r) < 0                                                                                 \
      : (cc) >> 1 == 6 ? (I(S))(a) < (I(S))(b)                                                                         \
      : (cc) >> 1 == 7 ? (I(S))(a) <= (I(S))(b)                                                                        \
                       : flags_cond(c, (cc)&14u)) ^                                                                    \
     ((cc)&1))
#define COND_LOGIC(S, cc, r)                                                                                           \
    (((cc) >> 1 == 0   ? false                                                                                         \
      : (cc) >> 1 == 1 ? false                                                                                         \
      : (cc) >> 1 == 2 ? (r) == 0                                                                                      \
      : (cc) >> 1 == 3 ? (r) == 0                                                                                      \
      : (cc) >> 1 == 4 ? (I(S))(r) < 0                                                                                 \
      : (cc) >> 1 == 6 ? (I(S))(r) < 0                                                                                 \
      : (cc) >> 1 == 7 ? (I(S))(r) <= 0                                                                                \
                       : flags_cond(c, (cc)&14u)) ^                                                                    \
     ((cc)&1))

#define BRANCH_ON(cond)                                                                                                \
    uint64_t start = c->gpr[GPR_BLOCK];                                                                                \
    c->icount += o->n + 2u;                                                                                            \
    if (cond) {                                                                                                        \
        c->rip = start + (uint64_t)o->disp;                                                                            \
        GO_LINKED(c, o, 1);                                                                                            \
    }                                                                                                                  \
    c->rip = start + o->ip + o->len;                                                                                   \
    GO_LINKED(c, o, 0)

#define FUSED_COMPARE(S, NAME, B, cc)                                                                                  \
    static void NAME##S##_j##cc(struct cpu *c, const struct op *o)                                                     \
    {                                                                                                                  \
        U(S) a = R(S, o->r0), b = (U(S))(B), r = calc_sub##S(c, a, b);                                                 \
        (void)r;                                                                                                       \
        BRANCH_ON(COND_COMPARE(S, cc, a, b, r));                                                                       \
    }
#define FUSED_TEST(S, NAME, B, cc)                                                                                     \
    static void NAME##S##_j##cc(struct cpu *c, const struct op *o)                                                     \
    {                                                                                                                  \
        U(S) r = calc_and##S(c, R(S, o->r0), (U(S))(B));                                                               \
        (void)r;                                                                                                       \
        BRANCH_ON(COND_LOGIC(S, cc, r));                                                                               \
    }
#define FUSED_WRITE(S, NAME, CALC, cc)                                                                                 \
    static void NAME##S##_j##cc(struct cpu *c, const struct op *o)                                                     \
    {                                                                                                                  \
        W(S, o->r0, CALC);                                                                                             \
        BRANCH_ON(flags_cond(c, cc));                                                                                  \
    }
/* The formatter folds lists of macro calls anew each time. */
/* clang-format off */
#define ALL_FUSED(X) \
    X(cmp_rr, 8) X(cmp_rr, 16) X(cmp_rr, 32) X(cmp_rr, 64) X(cmp_ri, 8) X(cmp_ri, 16) X(cmp_ri, 32) \
    X(cmp_ri, 64) X(test_rr, 8) X(test_rr, 16) X(test_rr, 32) X(test_rr, 64) X(test_ri, 8) X(test_ri, 32) \
    X(dec_r, 32) X(dec_r, 64) X(sub_ri, 32) X(sub_ri, 64) X(add_ri, 32) X(add_ri, 64) X(and_ri, 32)
/* clang-format on */
#define DEFINE_FUSED_CC(cc)                                                                                            \
    FUSED_COMPARE(8, cmp_rr, R(8, o->r1), cc)                                                                          \
    FUSED_COMPARE(16, cmp_rr, R(16, o->r1), cc)                                                                        \
    FUSED_COMPARE(32, cmp_rr, R(32, o->r1), cc)                                                                        \
    FUSED_COMPARE(64, cmp_rr, R(64, o->r1), cc)                                                                        \
    FUSED_COMPARE(8, cmp_ri, (int64_t)o->imm, cc)                                                                      \
    FUSED_COMPARE(16, cmp_ri, (int64_t)o->imm, cc)                                                                     \
    FUSED_COMPARE(32, cmp_ri, (int64_t)o->imm, cc)                                                                     \
    FUSED_COMPARE(64, cmp_ri, (int64_t)o->imm, cc)                                                                     \
    FUSED_TEST(8, test_rr, R(8, o->r1), cc)                                                                            \
    FUSED_TEST(16, test_rr, R(16, o->r1), cc)                                                                          \
    FUSED_TEST(32, test_rr, R(32, o->r1), cc)                                                                          \
    FUSED_TEST(64, test_rr, R(64, o->r1), cc)                                                                          \
    FUSED_TEST(8, test_ri, (int64_t)o->imm, cc)                                                                        \
    FUSED_TEST(32, test_ri, (int64_t)o->imm, cc)                                                                       \
    FUSED_WRITE(32, dec_r, calc_dec32(c, R(32, o->r0)), cc)                                                            \
    FUSED_WRITE(64, dec_r, calc_dec64(c, R(64, o->r0)), cc)                                                            \
    FUSED_WRITE(32, sub_ri, calc_sub32(c, R(32, o->r0), (uint32_t)o->imm), cc)                                         \
    FUSED_WRITE(64, sub_ri, calc_sub64(c, R(64, o->r0), (uint64_t)(int64_t)o->imm), cc)                                \
    FUSED_WRITE(32, add_ri, calc_add32(c, R(32, o->r0), (uint32_t)o->imm), cc)                                         \
    FUSED_WRITE(64, add_ri, calc_add64(c, R(64, o->r0), (uint64_t)(int64_t)o->imm), cc)                                \
    FUSED_WRITE(32, and_ri, calc_and32(c, R(32, o->r0), (uint32_t)o->imm), cc)
ALL_CC(DEFINE_FUSED_CC)

/* 64-bit mode. `branch` is the fast form of a Jcc whose condition is in r0; the pair becomes `first`, whose length is
 * that of both. Only operations that can't fault are fused. */
bool op_fuse_branch(struct op *first, const struct op *branch)
{
#define FUSED_CC(cc, NAME, S) NAME##S##_j##cc,
#define FUSED_ROW(NAME, S)                                                                                             \
    {NAME##S,                                                                                                          \
     {NAME##S##_j0, NAME##S##_j1, NAME##S##_j2, NAME##S##_j3, NAME##S##_j4, NAME##S##_j5, NAME##S##_j6, NAME##S##_j7,  \
      NAME##S##_j8, NAME##S##_j9, NAME##S##_j10, NAME##S##_j11, NAME##S##_j12, NAME##S##_j13, NAME##S##_j14,           \
      NAME##S##_j15}},
    static const struct {
        op_fn *fn, *fused[16];
    } row[] = {ALL_FUSED(FUSED_ROW)};
    for (unsigned i = 0; i < ARRAY_LEN(row); i++) {
        if (row[i].fn != first->fn)
            continue;
        first->fn = row[i].fused[branch->r0];
        first->disp = branch->disp;
        first->len = (uint8_t)(first->len + branch->len);
        return true;
    }
    return false;
}

/* XADD, CMPXCHG. With memory always by compare-and-swap: LOCK makes no difference then. */
#define DEFINE_XADD(S, _)                                                                                              \
    HANDLER_REG(xadd_rr##S, U(S) a = R(S, o->r0); U(S) b = R(S, o->r1); U(S) r = calc_add##S(c, a, b); W(S, o->r1, a); \
                W(S, o->r0, r))                                                                                        \
    static void xadd_mr##S(struct cpu *c, const struct op *o)                                                          \
    {                                                                                                                  \
        {                                                                                                              \
            uint64_t la;                                                                                               \
            U(S) m, r, b = R(S, o->r0);                                                                                \
            if (!op_la(c, o, S / 8, MMU_WRITE, &la))                                                                   \
                return;                                                                                                \
            uint8_t *h = op_host(c, la, S / 8, MMU_WRITE);                                                             \
            if (likely(h && host_atomic(la, S / 8))) {                                                                 \
                do                                                                                                     \
                    m = load##S(h);                                                                                    \
                while (unlikely(CAS(S, h, m, (U(S))(m + b)) != m));                                                    \
            } else {                                                                                                   \
                if (!op_rmw_slow(c, o, la, &m, S / 8))                                                                 \
                    return;                                                                                            \
                do                                                                                                     \
                    r = (U(S))(m + b);                                                                                 \
                while (unlikely(!op_cas_slow(c, o, la, &m, &r, S / 8)));                                               \
            }                                                                                                          \
            calc_add##S(c, m, b);                                                                                      \
            W(S, o->r0, m);                                                                                            \
        }                                                                                                              \
        NEXT(c, o);                                                                                                    \
    }                                                                                                                  \
    /* The accumulator is written only when they differ, the destination only when they do not: a 32-bit register that \
     * is not written keeps its upper half. */                                                                         \
    static void cmpxchg_rr##S(struct cpu *c, const struct op *o)                                                       \
    {                                                                                                                  \
        U(S) acc = R(S, 8 * GPR_RAX), dest = R(S, o->r0);                                                              \
        if (calc_sub##S(c, acc, dest) == 0)                                                                            \
            W(S, o->r0, R(S, o->r1));                                                                                  \
        else                                                                                                           \
            W(S, 8 * GPR_RAX, dest);                                                                                   \
        NEXT(c, o);                                                                                                    \
    }                                                                                                                  \
    static void cmpxchg_mr##S(struct cpu *c, const struct op *o)                                                       \
    {                                                                                                                  \
        {                                                                                                              \
            uint64_t la;                                                                                               \
            U(S) m, r, acc = R(S, 8 * GPR_RAX), b = R(S, o->r0);                                                       \
            if (!op_la(c, o, S / 8, MMU_WRITE, &la))                                                                   \
                return;                                                                                                \
            uint8_t *h = op_host(c, la, S / 8, MMU_WRITE);                                                             \
            if (likely(h && host_atomic(la, S / 8))) {                                                                 \
                m = CAS(S, h, acc, b);                                                                                 \
            } else { /* the destination is written in any case */                                                      \
                if (!op_rmw_slow(c, o, la, &m, S / 8))                                                                 \
                    return;                                                                                            \
                do                                                                                                     \
                    r = m == acc ? b : m;                                                                              \
                while (unlikely(!op_cas_slow(c, o, la, &m, &r, S / 8)));                                               \
            }                                                                                                          \
            if (calc_sub##S(c, acc, m) != 0)                                                                           \
                W(S, 8 * GPR_RAX, m);                                                                                  \
        }                                                                                                              \
        NEXT(c, o);                                                                                                    \
    }
ALL_SIZES(DEFINE_XADD, )
op_fn *select_xadd(const struct decoded *d, struct op *o)
{
    static op_fn *const rr[4] = FORMS(xadd_rr), *const mr[4] = FORMS(xadd_mr);
    return (o->flags & OPF_MEM ? mr : rr)[decoded_log2(d, 0)];
}
op_fn *select_cmpxchg(const struct decoded *d, struct op *o)
{
    static op_fn *const rr[4] = FORMS(cmpxchg_rr), *const mr[4] = FORMS(cmpxchg_mr);
    return (o->flags & OPF_MEM ? mr : rr)[decoded_log2(d, 0)];
}

void op_cmpxchg8b(struct cpu *c, const struct op *o)
{
    {
        uint64_t la, m, expect = c->gpr[GPR_RDX] << 32 | (uint32_t)c->gpr[GPR_RAX];
        uint64_t b = c->gpr[GPR_RCX] << 32 | (uint32_t)c->gpr[GPR_RBX];
        if (!op_la(c, o, 8, MMU_WRITE, &la))
            return;
        uint8_t *h = op_host(c, la, 8, MMU_WRITE);
        if (likely(h && host_atomic(la, 8))) {
            m = CAS(64, h, expect, b);
        } else {
            if (!op_rmw_slow(c, o, la, &m, 8))
                return;
            uint64_t r;
            do
                r = m == expect ? b : m;
            while (unlikely(!op_cas_slow(c, o, la, &m, &r, 8)));
        }
        if (m != expect) {
            c->gpr[GPR_RAX] = (uint32_t)m;
            c->gpr[GPR_RDX] = m >> 32;
        }
        flags_set_arith(c, (flags_arith(c) & ~(uint32_t)FLAG_ZF) | (m == expect ? FLAG_ZF : 0));
    }
    NEXT(c, o);
}

/* expect takes what was there. h is 16-byte aligned. */
static bool cas128(uint8_t *h, uint64_t expect[2], const uint64_t want[2])
{
#if defined(__x86_64__)
    bool ok;
    __asm__ volatile("lock cmpxchg16b %1"
                     : "=@ccz"(ok), "+m"(*(uint64_t(*)[2])h), "+a"(expect[0]), "+d"(expect[1])
                     : "b"(want[0]), "c"(want[1]));
    return ok;
#elif defined(__aarch64__)
    uint64_t lo, hi;
    uint32_t failed;
    __asm__ volatile("1: ldaxp %[lo], %[hi], [%[h]]\n"
                     "   cmp %[lo], %[e0]\n"
                     "   ccmp %[hi], %[e1], #0, eq\n"
                     "   b.ne 2f\n"
                     "   stlxp %w[failed], %[w0], %[w1], [%[h]]\n"
                     "   cbnz %w[failed], 1b\n"
                     "2:"
                     : [lo] "=&r"(lo), [hi] "=&r"(hi), [failed] "=&r"(failed)
                     : [h] "r"(h), [e0] "r"(expect[0]), [e1] "r"(expect[1]), [w0] "r"(want[0]), [w1] "r"(want[1])
                     : "cc", "memory");
    bool ok = lo == expect[0] && hi == expect[1];
    expect[0] = lo;
    expect[1] = hi;
    return ok;
#else
    /* DEVIATION: atomic towards this processor alone. */
    bool ok = load64(h) == expect[0] && load64(h + 8) == expect[1];
    if (ok)
        memcpy(h, want, 16);
    else
        memcpy(expect, h, 16);
    return ok;
#endif
}

static void op_cmpxchg16b(struct cpu *c, const struct op *o)
{
    {
        uint64_t la, m[2] = {c->gpr[GPR_RAX], c->gpr[GPR_RDX]}, want[2] = {c->gpr[GPR_RBX], c->gpr[GPR_RCX]};
        bool equal;
        if (!op_la(c, o, 16, MMU_WRITE, &la))
            return;
        if (la & 15) {
            c->cur = o;
            cpu_raise(c, EXC_GP, 0);
            return;
        }
        uint8_t *h = op_host(c, la, 16, MMU_WRITE);
        if (likely(h)) {
            equal = cas128(h, m, want);
        } else {
            if (!op_rmw_slow(c, o, la, m, 16))
                return;
            equal = m[0] == c->gpr[GPR_RAX] && m[1] == c->gpr[GPR_RDX];
            if (!op_write_slow(c, o, la, equal ? want : m, 16))
                return;
        }
        if (!equal) {
            c->gpr[GPR_RAX] = m[0];
            c->gpr[GPR_RDX] = m[1];
        }
        flags_set_arith(c, (flags_arith(c) & ~(uint32_t)FLAG_ZF) | (equal ? FLAG_ZF : 0));
    }
    NEXT(c, o);
}
op_fn *select_cmpxchg16b(const struct decoded *d, struct op *o)
{
    return d->mode == MODE_64 ? op_cmpxchg16b : NULL;
}

/* --- SETcc, CMOVcc -------------------------------------------------------------------------------------------------
 */

#define DEFINE_CC(cc)                                                                                                  \
    HANDLER_REG(setcc_r##cc, W(8, o->r0, flags_cond(c, cc)))                                                           \
    HANDLER_STORE(8, setcc_m##cc, flags_cond(c, cc))                                                                   \
    HANDLER_REG(cmov_rr16_##cc, if (flags_cond(c, cc)) W(16, o->r0, R(16, o->r1)))                                     \
    HANDLER_REG(cmov_rr32_##cc, W(32, o->r0, flags_cond(c, cc) ? R(32, o->r1) : R(32, o->r0)))                         \
    HANDLER_REG(cmov_rr64_##cc, W(64, o->r0, flags_cond(c, cc) ? R(64, o->r1) : R(64, o->r0)))                         \
    HANDLER_LOAD(16, cmov_rm16_##cc, if (flags_cond(c, cc)) W(16, o->r0, m))                                           \
    HANDLER_LOAD(32, cmov_rm32_##cc, W(32, o->r0, flags_cond(c, cc) ? m : R(32, o->r0)))                               \
    HANDLER_LOAD(64, cmov_rm64_##cc, W(64, o->r0, flags_cond(c, cc) ? m : R(64, o->r0)))                               \
    static op_fn *select_set_##cc(const struct op *o)                                                                  \
    {                                                                                                                  \
        return !(o->flags & OPF_MEM) ? setcc_r##cc : is_legacy(o) ? setcc_m##cc##_slow : setcc_m##cc##_fast;           \
    }                                                                                                                  \
    static op_fn *select_cmov_##cc(const struct op *o, unsigned size)                                                  \
    {                                                                                                                  \
        static op_fn *const rr[4] = {NULL, cmov_rr16_##cc, cmov_rr32_##cc, cmov_rr64_##cc};                            \
        static const struct mem_forms rm = {                                                                           \
            .fast = {NULL, cmov_rm16_##cc##_fast, cmov_rm32_##cc##_fast, cmov_rm64_##cc##_fast},                       \
            .slow = {NULL, cmov_rm16_##cc##_slow, cmov_rm32_##cc##_slow, cmov_rm64_##cc##_slow}};                      \
        return o->flags & OPF_MEM ? pick_mem(&rm, size, o) : rr[size];                                                 \
    }
ALL_CC(DEFINE_CC)

/* The condition is in the opcode's low nibble. */
op_fn *select_setcc(const struct decoded *d, struct op *o)
{
    switch (d->in.opcode & 15) {
#define CASE(cc)                                                                                                       \
    case cc: return select_set_##cc(o);
        ALL_CC(CASE)
#undef CASE
    }
    return NULL;
}
op_fn *select_cmov(const struct decoded *d, struct op *o)
{
    unsigned size = decoded_log2(d, 0);
    switch (d->in.opcode & 15) {
#define CASE(cc)                                                                                                       \
    case cc: return select_cmov_##cc(o, size);
        ALL_CC(CASE)
#undef CASE
    }
    return NULL;
}

/* --- flags, conversions
 * ------------------------------------------------------------------------------------------------ */

void op_stc(struct cpu *c, const struct op *o)
{
    flags_set_cf(c, true);
    NEXT(c, o);
}
void op_clc(struct cpu *c, const struct op *o)
{
    flags_set_cf(c, false);
    NEXT(c, o);
}
void op_cmc(struct cpu *c, const struct op *o)
{
    flags_set_cf(c, !flag_cf(c));
    NEXT(c, o);
}
void op_std(struct cpu *c, const struct op *o)
{
    c->rflags_rest |= FLAG_DF;
    NEXT(c, o);
}
void op_cld(struct cpu *c, const struct op *o)
{
    c->rflags_rest &= ~(uint32_t)FLAG_DF;
    NEXT(c, o);
}
static void op_lahf(struct cpu *c, const struct op *o)
{
    W(8, 8 * GPR_RAX + 1, (uint8_t)((flags_arith(c) & 0xd5) | FLAG_1));
    NEXT(c, o);
}
static void op_sahf(struct cpu *c, const struct op *o)
{
    flags_set_arith(c, (R(8, 8 * GPR_RAX + 1) & 0xd5u) | (flag_of(c) ? FLAG_OF : 0));
    NEXT(c, o);
}
op_fn *select_lahf_sahf(const struct decoded *d, struct op *o)
{
    if (d->mode == MODE_64 && !model_has(d->model, FEATURE_lahf_lm))
        return NULL;
    return d->in.mnemonic == ZYDIS_MNEMONIC_LAHF ? op_lahf : op_sahf;
}
void op_salc(struct cpu *c, const struct op *o)
{
    W(8, 8 * GPR_RAX, flag_cf(c) ? 0xff : 0);
    NEXT(c, o);
}
void op_cbw(struct cpu *c, const struct op *o)
{
    W(16, 8 * GPR_RAX, (uint16_t)SX(8, R(8, 8 * GPR_RAX)));
    NEXT(c, o);
}
void op_cwde(struct cpu *c, const struct op *o)
{
    W(32, 8 * GPR_RAX, (uint32_t)SX(16, R(16, 8 * GPR_RAX)));
    NEXT(c, o);
}
void op_cdqe(struct cpu *c, const struct op *o)
{
    W(64, 8 * GPR_RAX, SX(32, R(32, 8 * GPR_RAX)));
    NEXT(c, o);
}
void op_cwd(struct cpu *c, const struct op *o)
{
    W(16, 8 * GPR_RDX, (uint16_t)(SX(16, R(16, 8 * GPR_RAX)) >> 16));
    NEXT(c, o);
}
void op_cdq(struct cpu *c, const struct op *o)
{
    W(32, 8 * GPR_RDX, (uint32_t)(SX(32, R(32, 8 * GPR_RAX)) >> 32));
    NEXT(c, o);
}
void op_cqo(struct cpu *c, const struct op *o)
{
    W(64, 8 * GPR_RDX, (uint64_t)((int64_t)c->gpr[GPR_RAX] >> 63));
    NEXT(c, o);
}
