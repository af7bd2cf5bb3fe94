/* SPDX-License-Identifier: MIT
 *
 * ops_sse_fp.c: SSE instructions that round: arithmetic, comparison, conversion.
 *
 * On an x86-64 host the very instruction runs on the host's unit under the guest's rounding, DAZ and FTZ with every
 * exception masked; its flags then go to the guest's MXCSR, and an unmasked one becomes #XM before anything is written.
 * Elsewhere fp.h computes the same bits.
 *
 * While the guest's MXCSR has default controls the host's MXCSR is left equal to it, sticky flags included, so that an
 * operation costs two STMXCSR. Whoever cares for the host's own flags saves them around cpu_run().
 *
 * SDM volume 1, "SSE and SSE2 Exceptions": pre-computation exceptions (invalid, denormal operand, zero divide) that are
 * unmasked keep post-computation ones from being flagged.
 */
#ifndef VMENTER_SOFT_TWIN
#define VMENTER_SOFT_TWIN 0
#endif

#include "src/cpu/fp.h"
#include "src/cpu/fpu.h"
#include "src/cpu/simd.h"

#if HOST_X86 && !defined(VMENTER_SOFT_FP)
#define HOST_FP 1
#else
#define HOST_FP 0
#endif

struct fp_run {
#if HOST_FP
    uint32_t host; /* the host's MXCSR, to be restored after `slow` */
    bool slow;
#else
    struct fp_env e;
    uint32_t unmasked; /* exceptions that end an instruction of several steps */
    uint32_t before;   /* flags of the steps that are done */
#endif
};

#if HOST_FP /* HANDLER() with the change to the other twin */
#define FP_HANDLE(name)                                                                                                \
    op_fn soft_##name;                                                                                                 \
    INLINE bool name##_body(struct cpu *c, const struct op *o);                                                        \
    static void name(struct cpu *c, const struct op *o)                                                                \
    {                                                                                                                  \
        if (unlikely((c->mxcsr & MXCSR_MASKS) != MXCSR_MASKS)) {                                                       \
            soft_##name(c, o);                                                                                         \
            return;                                                                                                    \
        }                                                                                                              \
        if (unlikely(!name##_body(c, o)))                                                                              \
            return;                                                                                                    \
        NEXT(c, o);                                                                                                    \
    }                                                                                                                  \
    INLINE bool name##_body(struct cpu *c, const struct op *o)
#elif VMENTER_SOFT_TWIN
#define FP_HANDLE(name)                                                                                                \
    INLINE bool name##_body(struct cpu *c, const struct op *o);                                                        \
    op_fn soft_##name;                                                                                                 \
    void soft_##name(struct cpu *c, const struct op *o)                                                                \
    {                                                                                                                  \
        if (unlikely(!name##_body(c, o)))                                                                              \
            return;                                                                                                    \
        NEXT(c, o);                                                                                                    \
    }                                                                                                                  \
    INLINE bool name##_body(struct cpu *c, const struct op *o)
#undef VOP_SEL
#define VOP_SEL(mn, ...)
#else
#define FP_HANDLE HANDLER
#endif

#if HOST_FP
INLINE uint32_t host_mxcsr(void)
{
    uint32_t v;
    __asm__ volatile("stmxcsr %0" : "=m"(v));
    return v;
}
INLINE void host_set_mxcsr(uint32_t v)
{
    __asm__ volatile("ldmxcsr %0" : : "m"(v));
}
static NOINLINE void fp_begin_slow(struct cpu *c, struct fp_run *r, uint32_t host)
{
    r->host = host;
    r->slow = true;
    host_set_mxcsr((c->mxcsr & (uint32_t) ~(MXCSR_MM | MXCSR_FLAGS)));
}
INLINE void fp_begin(struct cpu *c, struct fp_run *r)
{
    uint32_t host = host_mxcsr();
    r->slow = false;
    if (unlikely((c->mxcsr & ~MXCSR_FLAGS) != MXCSR_DEFAULT))
        fp_begin_slow(c, r, host);
    else if (unlikely(host != c->mxcsr))
        host_set_mxcsr(c->mxcsr);
}
INLINE bool fp_end(struct cpu *c, const struct op *o, struct fp_run *r)
{
    uint32_t now = host_mxcsr();
    if (unlikely(r->slow)) {
        host_set_mxcsr(r->host);
        c->mxcsr |= now & MXCSR_FLAGS;
        return true;
    }
    c->mxcsr = now;
    return true;
}
INLINE bool fp_stopped(struct fp_run *r)
{
    return false;
}
#else
static COLD bool fp_raise(struct cpu *c, const struct op *o, uint32_t before, uint32_t flags)
{
    uint32_t masks = c->mxcsr >> 7 & MXCSR_FLAGS;
    if (flags & ~masks & (FP_IE | FP_DE | FP_ZE))
        flags &= FP_IE | FP_DE | FP_ZE | before;
    c->mxcsr |= flags;
    if (!(flags & ~masks))
        return true;
    c->cur = o;
    return cpu_raise(c, c->cr4 & CR4_OSXMMEXCPT ? EXC_XM : EXC_UD, 0);
}
INLINE void fp_begin(struct cpu *c, struct fp_run *r)
{
    bool um = !(c->mxcsr & 0x800);
    r->e = (struct fp_env){.rc = MXCSR_RC(c->mxcsr),
                           .daz = c->mxcsr & MXCSR_DAZ,
                           .ftz = (c->mxcsr & MXCSR_FTZ) && !um, /* of masked underflow alone */
                           .unmasked_ue = um,
                           .unmasked_oe = !(c->mxcsr & 0x400)};
    r->unmasked = ~(c->mxcsr >> 7) & MXCSR_FLAGS;
    r->before = 0;
}
INLINE bool fp_end(struct cpu *c, const struct op *o, struct fp_run *r)
{
    if (likely(!r->unmasked)) {
        c->mxcsr |= r->e.flags;
        return true;
    }
    return fp_raise(c, o, r->before, r->e.flags);
}
/* Has a step raised an unmasked exception? Then the later ones don't take place. */
INLINE bool fp_stopped(struct fp_run *r)
{
    if (r->e.flags & r->unmasked)
        return true;
    r->before = r->e.flags;
    return false;
}
#endif

/* --- two operands into a vector register
 * -------------------------------------------------------------------------------------- */
/* FP_OP(mn, feature, load) { return value; }: n_mn(r, a, b, imm) under fp_begin() and fp_end(). */
#define FP_FN(mn) INLINE v128 n_##mn(struct fp_run *run, v128 a, v128 b, const unsigned imm)
#define FP_HANDLER(mn, name, load, imm_)                                                                               \
    FP_HANDLE(x_rr_##name)                                                                                             \
    {                                                                                                                  \
        struct fp_run r;                                                                                               \
        if (!sse_ok(c, o))                                                                                             \
            return false;                                                                                              \
        v128 a = xmm_get(c, o->r0), b = xmm_get(c, o->r1);                                                             \
        fp_begin(c, &r);                                                                                               \
        a = n_##mn(&r, a, b, imm_);                                                                                    \
        if (unlikely(!fp_end(c, o, &r)))                                                                               \
            return false;                                                                                              \
        xmm_set(c, o->r0, a);                                                                                          \
        return true;                                                                                                   \
    }                                                                                                                  \
    FP_HANDLE(x_rm_##name)                                                                                             \
    {                                                                                                                  \
        struct fp_run r;                                                                                               \
        v128 b;                                                                                                        \
        if (!sse_ok(c, o) || !load(c, o, &b))                                                                          \
            return false;                                                                                              \
        v128 a = xmm_get(c, o->r0);                                                                                    \
        fp_begin(c, &r);                                                                                               \
        a = n_##mn(&r, a, b, imm_);                                                                                    \
        if (unlikely(!fp_end(c, o, &r)))                                                                               \
            return false;                                                                                              \
        xmm_set(c, o->r0, a);                                                                                          \
        return true;                                                                                                   \
    }
#define FP_OP(mn, feature, load)                                                                                       \
    FP_FN(mn);                                                                                                         \
    FP_HANDLER(mn, mn, load, 0)                                                                                        \
    VOP_SEL(mn, .rr = x_rr_##mn, .rm = x_rm_##mn, .xf = FEATURE_##feature)                                             \
    FP_FN(mn)

#if HOST_FP
#define HOST2(insn)                                                                                                    \
    {                                                                                                                  \
        __asm__ volatile(insn " %1, %0" : "+x"(a) : "x"(b));                                                           \
        return a;                                                                                                      \
    }
#define ARITH(PS, PD, SS, SD, op)                                                                                      \
    FP_OP(PS, sse, sse_ld128)                                                                                          \
    HOST2(#op "ps")                                                                                                    \
    FP_OP(PD, sse2, sse_ld128)                                                                                         \
    HOST2(#op "pd")                                                                                                    \
    FP_OP(SS, sse, sse_ld32)                                                                                           \
    HOST2(#op "ss") FP_OP(SD, sse2, sse_ld64) HOST2(#op "sd")
#else
#define SOFT2(lane, from, count, bits, op)                                                                             \
    {                                                                                                                  \
        union lanes p = {a}, q = {b};                                                                                  \
        for (unsigned i = 0; i < (count); i++)                                                                         \
            p.lane[i] = fp##bits##_op(&run->e, op, p.lane[i], q.lane[i]);                                              \
        return p.v;                                                                                                    \
    }
#define ARITH(PS, PD, SS, SD, op)                                                                                      \
    FP_OP(PS, sse, sse_ld128)                                                                                          \
    SOFT2(d, 0, 4, 32, SOFT_##op)                                                                                      \
    FP_OP(PD, sse2, sse_ld128)                                                                                         \
    SOFT2(q, 0, 2, 64, SOFT_##op)                                                                                      \
    FP_OP(SS, sse, sse_ld32)                                                                                           \
    SOFT2(d, 0, 1, 32, SOFT_##op) FP_OP(SD, sse2, sse_ld64) SOFT2(q, 0, 1, 64, SOFT_##op)
#define SOFT_add  FP_ADD
#define SOFT_sub  FP_SUB
#define SOFT_mul  FP_MUL
#define SOFT_div  FP_DIV
#define SOFT_min  FP_MIN
#define SOFT_max  FP_MAX
#define SOFT_sqrt FP_SQRT
#endif
ARITH(ADDPS, ADDPD, ADDSS, ADDSD, add)
ARITH(SUBPS, SUBPD, SUBSS, SUBSD, sub)
ARITH(MULPS, MULPD, MULSS, MULSD, mul)
ARITH(DIVPS, DIVPD, DIVSS, DIVSD, div)
ARITH(MINPS, MINPD, MINSS, MINSD, min)
ARITH(MAXPS, MAXPD, MAXSS, MAXSD, max)
ARITH(SQRTPS, SQRTPD, SQRTSS, SQRTSD, sqrt)

/* --- SSE3: alternating and horizontal
 * --------------------------------------------------------------------------------------------- */
/* Built of packed additions and subtractions, which give the flags of each lane once; lanes that are not wanted hold
 * zeros. */
#if HOST_FP
#define PAIR2(ps, pd)                                                                                                  \
    INLINE v128 ps##4(struct fp_run * run, v128 a, v128 b)                                                             \
    {                                                                                                                  \
        __asm__ volatile(#ps " %1, %0" : "+x"(a) : "x"(b));                                                            \
        return a;                                                                                                      \
    }                                                                                                                  \
    INLINE v128 pd##2(struct fp_run * run, v128 a, v128 b)                                                             \
    {                                                                                                                  \
        __asm__ volatile(#pd " %1, %0" : "+x"(a) : "x"(b));                                                            \
        return a;                                                                                                      \
    }
PAIR2(addps, addpd)
PAIR2(subps, subpd)
PAIR2(mulps, mulpd)
#else
#define PAIR2(ps, pd, op)                                                                                              \
    INLINE v128 ps##4(struct fp_run * run, v128 a, v128 b) SOFT2(d, 0, 4, 32, op)                                      \
        INLINE v128 pd##2(struct fp_run * run, v128 a, v128 b) SOFT2(q, 0, 2, 64, op)
PAIR2(addps, addpd, FP_ADD)
PAIR2(subps, subpd, FP_SUB)
PAIR2(mulps, mulpd, FP_MUL)
#endif
FP_OP(ADDSUBPS, sse3, sse_ld128)
{
    u32x4 x = (u32x4)a, y = (u32x4)b;
    u32x4 s = (u32x4)subps4(run, (v128)(u32x4){x[0], 0, x[2], 0}, (v128)(u32x4){y[0], 0, y[2], 0});
    u32x4 t = (u32x4)addps4(run, (v128)(u32x4){0, x[1], 0, x[3]}, (v128)(u32x4){0, y[1], 0, y[3]});
    return (v128)(u32x4){s[0], t[1], s[2], t[3]};
}
FP_OP(ADDSUBPD, sse3, sse_ld128)
{
    v128 s = subpd2(run, (v128){a[0], 0}, (v128){b[0], 0}), t = addpd2(run, (v128){0, a[1]}, (v128){0, b[1]});
    return (v128){s[0], t[1]};
}
#define HORIZONTAL_FP(PS, PD, op)                                                                                      \
    FP_OP(PS, sse3, sse_ld128)                                                                                         \
    {                                                                                                                  \
        u32x4 x = (u32x4)a, y = (u32x4)b;                                                                              \
        return op##ps4(run, (v128)(u32x4){x[0], x[2], y[0], y[2]}, (v128)(u32x4){x[1], x[3], y[1], y[3]});             \
    }                                                                                                                  \
    FP_OP(PD, sse3, sse_ld128)                                                                                         \
    {                                                                                                                  \
        return op##pd2(run, (v128){a[0], b[0]}, (v128){a[1], b[1]});                                                   \
    }
HORIZONTAL_FP(HADDPS, HADDPD, add)
HORIZONTAL_FP(HSUBPS, HSUBPD, sub)

/* --- SSE4.1: dot products: products where imm[7:4] says so, else +0; a fixed order of additions; stored where imm[3:0]
 * says so ------- */
/* Each element of the result has additions of its own, and their operands' order decides which NaN comes through: as on
 * silicon, element i of the first sum is t[i ^ 1] + t[i], of the second s[i] + s[i ^ 2]. */
INLINE v128 lanes_d(v128 a, unsigned mask)
{
    union lanes p = {a}, r = {{0}};
    for (unsigned i = 0; i < 4; i++)
        if (mask >> i & 1)
            r.d[i] = p.d[i];
    return r.v;
}
INLINE v128 lanes_q(v128 a, unsigned mask)
{
    return (v128){mask & 1 ? a[0] : 0, mask & 2 ? a[1] : 0};
}
FP_FN(DPPS)
{
    u32x4 t = (u32x4)mulps4(run, lanes_d(a, imm >> 4 & 15), lanes_d(b, imm >> 4 & 15));
    if (fp_stopped(run))
        return v128_q(0, 0);
    u32x4 s = (u32x4)addps4(run, (v128)(u32x4){t[1], t[0], t[3], t[2]}, (v128)t);
    if (fp_stopped(run))
        return v128_q(0, 0);
    s = (u32x4)addps4(run, (v128)s, (v128)(u32x4){s[2], s[3], s[0], s[1]});
    return lanes_d((v128)s, imm & 15);
}
FP_FN(DPPD)
{
    v128 t = mulpd2(run, lanes_q(a, imm >> 4 & 3), lanes_q(b, imm >> 4 & 3));
    if (fp_stopped(run))
        return v128_q(0, 0);
    t = addpd2(run, t, (v128){t[1], t[0]});
    return lanes_q(t, imm & 3);
}
#define FP_IMM(mn, feature, load)                                                                                      \
    FP_HANDLER(mn, mn, load, (uint8_t)o->imm)                                                                          \
    VOP_SEL(mn, .rr = x_rr_##mn, .rm = x_rm_##mn, .xf = FEATURE_##feature)
FP_IMM(DPPS, sse4_1, sse_ld128)
FP_IMM(DPPD, sse4_1, sse_ld128)

/* --- CMPxx: bits 2-0 of the immediate: EQ LT LE UNORD and their negations
 * ------------------------------------------------------------- */
#if HOST_FP
#define CMP_CASE(insn, k)                                                                                              \
    case k:                                                                                                            \
        __asm__ volatile(insn " $" #k ", %1, %0" : "+x"(a) : "x"(b));                                                  \
        break;
#define CMP_FN(mn, insn, lane, count, bits)                                                                            \
    FP_FN(mn)                                                                                                          \
    {                                                                                                                  \
        switch (imm & 7) {                                                                                             \
            CMP_CASE(insn, 0)                                                                                          \
            CMP_CASE(insn, 1)                                                                                          \
            CMP_CASE(insn, 2)                                                                                          \
            CMP_CASE(insn, 3)                                                                                          \
            CMP_CASE(insn, 4)                                                                                          \
            CMP_CASE(insn, 5)                                                                                          \
            CMP_CASE(insn, 6)                                                                                          \
            CMP_CASE(insn, 7)                                                                                          \
        }                                                                                                              \
        return a;                                                                                                      \
    }
#else
INLINE bool cmp_holds(enum fp_order r, unsigned imm)
{
    bool t = false;
    switch (imm & 3) {
    case 0: t = r == FP_EQUAL; break;
    case 1: t = r == FP_LESS; break;
    case 2: t = r == FP_LESS || r == FP_EQUAL; break;
    case 3: t = r == FP_UNORDERED; break;
    }
    return t ^ (imm >> 2 & 1);
}
/* LT, LE and their negations signal for a QNaN. */
#define CMP_FN(mn, insn, lane, count, bits)                                                                            \
    FP_FN(mn)                                                                                                          \
    {                                                                                                                  \
        union lanes p = {a}, q = {b};                                                                                  \
        for (unsigned i = 0; i < (count); i++) {                                                                       \
            bool quiet = (imm & 3) == 0 || (imm & 3) == 3;                                                             \
            enum fp_order r = fp##bits##_compare(&run->e, p.lane[i], q.lane[i], quiet);                                \
            p.lane[i] = cmp_holds(r, imm) ? (__typeof__(p.lane[0]))~0ull : 0;                                          \
        }                                                                                                              \
        return p.v;                                                                                                    \
    }
#endif
CMP_FN(CMPPS, "cmpps", d, 4, 32)
CMP_FN(CMPPD, "cmppd", q, 2, 64)
CMP_FN(CMPSS, "cmpss", d, 1, 32)
CMP_FN(CMPSD_sse, "cmpsd", q, 1, 64)
FP_IMM(CMPPS, sse, sse_ld128)
FP_IMM(CMPPD, sse2, sse_ld128)
FP_IMM(CMPSS, sse, sse_ld32)
FP_IMM(CMPSD_sse, sse2, sse_ld64)

/* --- COMISx, UCOMISx: ZF, PF, CF; the others are clear
 * ---------------------------------------------------------------------------------- */
#if HOST_FP
#define COMI_FN(mn, insn, ...)                                                                                         \
    INLINE uint64_t k_##mn(struct fp_run *run, v128 a, v128 b)                                                         \
    {                                                                                                                  \
        bool z, p, cf;                                                                                                 \
        __asm__ volatile(insn " %4, %3" : "=@ccz"(z), "=@ccp"(p), "=@ccc"(cf) : "x"(a), "x"(b));                       \
        return (z ? FLAG_ZF : 0) | (p ? FLAG_PF : 0) | (cf ? FLAG_CF : 0);                                             \
    }
#else
#define COMI_FN(mn, insn, bits, quiet)                                                                                 \
    INLINE uint64_t k_##mn(struct fp_run *run, v128 a, v128 b)                                                         \
    {                                                                                                                  \
        static const uint64_t result[] = {FLAG_CF, FLAG_ZF, 0, FLAG_ZF | FLAG_PF | FLAG_CF};                           \
        return result[fp##bits##_compare(&run->e, (uint##bits##_t)a[0], (uint##bits##_t)b[0], quiet)];                 \
    }
#endif
#define COMI(mn, insn, feature, load, bits, quiet)                                                                     \
    COMI_FN(mn, insn, bits, quiet)                                                                                     \
    FP_HANDLE(x_rr_##mn)                                                                                               \
    {                                                                                                                  \
        struct fp_run r;                                                                                               \
        if (!sse_ok(c, o))                                                                                             \
            return false;                                                                                              \
        v128 a = xmm_get(c, o->r0), b = xmm_get(c, o->r1);                                                             \
        fp_begin(c, &r);                                                                                               \
        uint64_t f = k_##mn(&r, a, b);                                                                                 \
        if (unlikely(!fp_end(c, o, &r)))                                                                               \
            return false;                                                                                              \
        flags_set_arith(c, f);                                                                                         \
        return true;                                                                                                   \
    }                                                                                                                  \
    FP_HANDLE(x_rm_##mn)                                                                                               \
    {                                                                                                                  \
        struct fp_run r;                                                                                               \
        v128 b;                                                                                                        \
        if (!sse_ok(c, o) || !load(c, o, &b))                                                                          \
            return false;                                                                                              \
        v128 a = xmm_get(c, o->r0);                                                                                    \
        fp_begin(c, &r);                                                                                               \
        uint64_t f = k_##mn(&r, a, b);                                                                                 \
        if (unlikely(!fp_end(c, o, &r)))                                                                               \
            return false;                                                                                              \
        flags_set_arith(c, f);                                                                                         \
        return true;                                                                                                   \
    }                                                                                                                  \
    VOP_SEL(mn, .rr = x_rr_##mn, .rm = x_rm_##mn, .xf = FEATURE_##feature)
COMI(COMISS, "comiss", sse, sse_ld32, 32, false)
COMI(COMISD, "comisd", sse2, sse_ld64, 64, false)
COMI(UCOMISS, "ucomiss", sse, sse_ld32, 32, true)
COMI(UCOMISD, "ucomisd", sse2, sse_ld64, 64, true)

/* --- conversions between vectors
 * --------------------------------------------------------------------------------------------------------- */
#if HOST_FP
#define CVT(mn, insn, feature, load, soft) FP_OP(mn, feature, load) HOST2(insn)
#else
#define CVT(mn, insn, feature, load, soft)                                                                             \
    FP_OP(mn, feature, load)                                                                                           \
    {                                                                                                                  \
        union lanes q = {b}, r = {{0}};                                                                                \
        soft return r.v;                                                                                               \
    }
#endif
#define EACH(count, stmt)                                                                                              \
    for (unsigned i = 0; i < (count); i++)                                                                             \
        stmt;
CVT(CVTDQ2PS, "cvtdq2ps", sse2, sse_ld128, EACH(4, r.d[i] = fp32_from_int(&run->e, q.sd[i])))
CVT(CVTPS2DQ, "cvtps2dq", sse2, sse_ld128, EACH(4, r.d[i] = (uint32_t)fp32_to_int(&run->e, q.d[i], 32, false)))
CVT(CVTTPS2DQ, "cvttps2dq", sse2, sse_ld128, EACH(4, r.d[i] = (uint32_t)fp32_to_int(&run->e, q.d[i], 32, true)))
CVT(CVTDQ2PD, "cvtdq2pd", sse2, sse_ld64, EACH(2, r.q[i] = fp64_from_int(&run->e, q.sd[i])))
CVT(CVTPD2DQ, "cvtpd2dq", sse2, sse_ld128, EACH(2, r.d[i] = (uint32_t)fp64_to_int(&run->e, q.q[i], 32, false)))
CVT(CVTTPD2DQ, "cvttpd2dq", sse2, sse_ld128, EACH(2, r.d[i] = (uint32_t)fp64_to_int(&run->e, q.q[i], 32, true)))
CVT(CVTPS2PD, "cvtps2pd", sse2, sse_ld64, EACH(2, r.q[i] = fp32_to_64(&run->e, q.d[i])))
CVT(CVTPD2PS, "cvtpd2ps", sse2, sse_ld128, EACH(2, r.d[i] = fp64_to_32(&run->e, q.q[i])))
CVT(CVTSS2SD, "cvtss2sd", sse2, sse_ld32, r.v = a; r.q[0] = fp32_to_64(&run->e, q.d[0]);)
CVT(CVTSD2SS, "cvtsd2ss", sse2, sse_ld64, r.v = a; r.d[0] = fp64_to_32(&run->e, q.q[0]);)

#if VMENTER_SOFT_TWIN
#define FP_SELECT(mn, pick)
#else
#define FP_SELECT(mn, pick)                                                                                            \
    op_fn *sel_##mn(const struct decoded *d, struct op *o)                                                             \
    {                                                                                                                  \
        bool m = d->mem != DECODED_NO_MEM;                                                                             \
        return pick;                                                                                                   \
    }
#endif

/* --- conversions from and to general registers
 * ---------------------------------------------------------------------------------------------- */
#if HOST_FP
#define SI2F(insn, soft, type) __asm__ volatile(insn " %1, %0" : "+x"(a) : "r"((type)v));
#define F2SI(insn, soft, type) __asm__ volatile(insn " %1, %0" : "=r"(v) : "x"(b));
#else
#define SI2F(insn, soft, type)                                                                                         \
    {                                                                                                                  \
        union lanes p = {a};                                                                                           \
        int64_t s = (type)v;                                                                                           \
        soft;                                                                                                          \
        a = p.v;                                                                                                       \
    }
#define F2SI(insn, soft, type)                                                                                         \
    {                                                                                                                  \
        union lanes q = {b};                                                                                           \
        v = (type)(soft);                                                                                              \
    }
#endif
#define FROM_INT(name, insn, soft, bits)                                                                               \
    INLINE bool name##_do(struct cpu *c, const struct op *o, uint##bits##_t v)                                         \
    {                                                                                                                  \
        struct fp_run r;                                                                                               \
        v128 a = xmm_get(c, o->r0);                                                                                    \
        fp_begin(c, &r);                                                                                               \
        SI2F(insn, soft, int##bits##_t)                                                                                \
        if (unlikely(!fp_end(c, o, &r)))                                                                               \
            return false;                                                                                              \
        xmm_set(c, o->r0, a);                                                                                          \
        return true;                                                                                                   \
    }                                                                                                                  \
    FP_HANDLE(name##_r)                                                                                                \
    {                                                                                                                  \
        return sse_ok(c, o) && name##_do(c, o, op_r##bits(c, o->r1));                                                  \
    }                                                                                                                  \
    FP_HANDLE(name##_m)                                                                                                \
    {                                                                                                                  \
        uint##bits##_t v;                                                                                              \
        return sse_ok(c, o) && op_ld##bits(c, o, &v) && name##_do(c, o, v);                                            \
    }
FROM_INT(si32_ss, "cvtsi2ssl", p.d[0] = fp32_from_int(&r.e, s), 32)
FROM_INT(si64_ss, "cvtsi2ssq", p.d[0] = fp32_from_int(&r.e, s), 64)
FROM_INT(si32_sd, "cvtsi2sdl", p.q[0] = fp64_from_int(&r.e, s), 32)
FROM_INT(si64_sd, "cvtsi2sdq", p.q[0] = fp64_from_int(&r.e, s), 64)
#if !VMENTER_SOFT_TWIN
op_fn *sel_CVTSI2SS(const struct decoded *d, struct op *o)
{
    bool m = d->mem != DECODED_NO_MEM;
    return decoded_size(d, 1) == 8 ? (m ? si64_ss_m : si64_ss_r) : (m ? si32_ss_m : si32_ss_r);
}
op_fn *sel_CVTSI2SD(const struct decoded *d, struct op *o)
{
    bool m = d->mem != DECODED_NO_MEM;
    return decoded_size(d, 1) == 8 ? (m ? si64_sd_m : si64_sd_r) : (m ? si32_sd_m : si32_sd_r);
}
#endif

#define TO_INT(name, insn, soft, bits, load)                                                                           \
    INLINE bool name##_do(struct cpu *c, const struct op *o, v128 b)                                                   \
    {                                                                                                                  \
        struct fp_run r;                                                                                               \
        uint##bits##_t v;                                                                                              \
        fp_begin(c, &r);                                                                                               \
        F2SI(insn, soft, uint##bits##_t)                                                                               \
        if (unlikely(!fp_end(c, o, &r)))                                                                               \
            return false;                                                                                              \
        op_set_r64(c, o->r0, v);                                                                                       \
        return true;                                                                                                   \
    }                                                                                                                  \
    FP_HANDLE(name##_r)                                                                                                \
    {                                                                                                                  \
        return sse_ok(c, o) && name##_do(c, o, xmm_get(c, o->r1));                                                     \
    }                                                                                                                  \
    FP_HANDLE(name##_m)                                                                                                \
    {                                                                                                                  \
        v128 b;                                                                                                        \
        return sse_ok(c, o) && load(c, o, &b) && name##_do(c, o, b);                                                   \
    }
#define TO_INTS(mn, insn, lane, fbits, chop, load)                                                                     \
    TO_INT(mn##_32, insn "l", fp##fbits##_to_int(&r.e, q.lane[0], 32, chop), 32, load)                                 \
    TO_INT(mn##_64, insn "q", fp##fbits##_to_int(&r.e, q.lane[0], 64, chop), 64, load)                                 \
    FP_SELECT(mn, decoded_size(d, 0) == 8 ? (m ? mn##_64_m : mn##_64_r) : (m ? mn##_32_m : mn##_32_r))
#if HOST_FP /* %1 is a vector register: the suffix is the destination's */
#undef F2SI
#define F2SI(insn, soft, type) __asm__ volatile(insn " %1, %0" : "=r"(v) : "x"(b));
#endif
TO_INTS(CVTSS2SI, "cvtss2si", d, 32, false, sse_ld32)
TO_INTS(CVTTSS2SI, "cvttss2si", d, 32, true, sse_ld32)
TO_INTS(CVTSD2SI, "cvtsd2si", q, 64, false, sse_ld64)
TO_INTS(CVTTSD2SI, "cvttsd2si", q, 64, true, sse_ld64)

/* --- conversions between MMX and XMM registers: computed with the XMM form of the same conversion
 * ----------------------------------------- */
/* From MMX or m64. A memory source leaves the x87 state alone (on silicon that of CVTPI2PS too). */
FP_HANDLE(m_rr_CVTPI2PS)
{
    struct fp_run r;
    if (!sse_ok(c, o) || !mmx_ok(c, o))
        return false;
    mmx_enter(c);
    fp_begin(c, &r);
    v128 v = n_CVTDQ2PS(&r, v128_q(0, 0), v128_q(mm_get(c, o->r1), 0), 0);
    if (!fp_end(c, o, &r))
        return false;
    c->v[o->r0].q[0] = (uint64_t)v[0];
    return true;
}
FP_HANDLE(m_rm_CVTPI2PS)
{
    struct fp_run r;
    v128 b;
    if (!sse_ok(c, o) || !sse_ld64(c, o, &b))
        return false;
    fp_begin(c, &r);
    v128 v = n_CVTDQ2PS(&r, v128_q(0, 0), b, 0);
    if (!fp_end(c, o, &r))
        return false;
    c->v[o->r0].q[0] = (uint64_t)v[0];
    return true;
}
FP_HANDLE(m_rr_CVTPI2PD)
{
    struct fp_run r;
    if (!sse_ok(c, o) || !mmx_ok(c, o))
        return false;
    mmx_enter(c);
    fp_begin(c, &r);
    v128 v = n_CVTDQ2PD(&r, v128_q(0, 0), v128_q(mm_get(c, o->r1), 0), 0);
    if (!fp_end(c, o, &r))
        return false;
    xmm_set(c, o->r0, v);
    return true;
}
FP_HANDLE(m_rm_CVTPI2PD)
{
    struct fp_run r;
    v128 b;
    if (!sse_ok(c, o) || !sse_ld64(c, o, &b))
        return false;
    fp_begin(c, &r);
    v128 v = n_CVTDQ2PD(&r, v128_q(0, 0), b, 0);
    if (!fp_end(c, o, &r))
        return false;
    xmm_set(c, o->r0, v);
    return true;
}
#if !VMENTER_SOFT_TWIN
op_fn *sel_CVTPI2PS(const struct decoded *d, struct op *o)
{
    return d->mem != DECODED_NO_MEM ? m_rm_CVTPI2PS : m_rr_CVTPI2PS;
}
op_fn *sel_CVTPI2PD(const struct decoded *d, struct op *o)
{
    return d->mem != DECODED_NO_MEM ? m_rm_CVTPI2PD : m_rr_CVTPI2PD;
}
#endif
/* To MMX. The x87 state is changed even if #XM follows. */
#define TO_MMX(mn, via, load)                                                                                          \
    INLINE bool do_##mn(struct cpu *c, const struct op *o, v128 b)                                                     \
    {                                                                                                                  \
        struct fp_run r;                                                                                               \
        mmx_enter(c);                                                                                                  \
        fp_begin(c, &r);                                                                                               \
        v128 v = n_##via(&r, v128_q(0, 0), b, 0);                                                                      \
        if (!fp_end(c, o, &r))                                                                                         \
            return false;                                                                                              \
        mm_set(c, o->r0, (uint64_t)v[0]);                                                                              \
        return true;                                                                                                   \
    }                                                                                                                  \
    FP_HANDLE(m_rr_##mn)                                                                                               \
    {                                                                                                                  \
        return sse_ok(c, o) && mmx_ok(c, o) && do_##mn(c, o, xmm_get(c, o->r1));                                       \
    }                                                                                                                  \
    FP_HANDLE(m_rm_##mn)                                                                                               \
    {                                                                                                                  \
        v128 b;                                                                                                        \
        return sse_ok(c, o) && mmx_ok(c, o) && load(c, o, &b) && do_##mn(c, o, b);                                     \
    }                                                                                                                  \
    FP_SELECT(mn, m ? m_rm_##mn : m_rr_##mn)
INLINE v128 low_half(v128 b)
{
    return (v128){b[0], 0};
}
#define n_PS2PI(r, a, b, imm)  n_CVTPS2DQ(r, a, low_half(b), imm)
#define n_TPS2PI(r, a, b, imm) n_CVTTPS2DQ(r, a, low_half(b), imm)
TO_MMX(CVTPS2PI, PS2PI, sse_ld64)
TO_MMX(CVTTPS2PI, TPS2PI, sse_ld64)
TO_MMX(CVTPD2PI, CVTPD2DQ, sse_ld128)
TO_MMX(CVTTPD2PI, CVTTPD2DQ, sse_ld128)

/* --- ROUNDxx: imm[1:0] the rounding, imm[2] that of MXCSR, imm[3] no precision exception
 * --------------------------------------------------- */
#if HOST_FP
#define ROUND_CASE(insn, k)                                                                                            \
    case k:                                                                                                            \
        __asm__ volatile(insn " $" #k ", %1, %0" : "+x"(a) : "x"(b));                                                  \
        break;
#define ROUND_FN(mn, insn, lane, count, bits)                                                                          \
    FP_FN(mn)                                                                                                          \
    {                                                                                                                  \
        switch (imm & 15) {                                                                                            \
            ROUND_CASE(insn, 0)                                                                                        \
            ROUND_CASE(insn, 1)                                                                                        \
            ROUND_CASE(insn, 2)                                                                                        \
            ROUND_CASE(insn, 3)                                                                                        \
            ROUND_CASE(insn, 4)                                                                                        \
            ROUND_CASE(insn, 8)                                                                                        \
            ROUND_CASE(insn, 9)                                                                                        \
            ROUND_CASE(insn, 10)                                                                                       \
            ROUND_CASE(insn, 11)                                                                                       \
        case 5:                                                                                                        \
        case 6:                                                                                                        \
        case 7: __asm__ volatile(insn " $4, %1, %0" : "+x"(a) : "x"(b)); break;                                        \
        default: __asm__ volatile(insn " $12, %1, %0" : "+x"(a) : "x"(b)); break;                                      \
        }                                                                                                              \
        return a;                                                                                                      \
    }
#else
#define ROUND_FN(mn, insn, lane, count, bits)                                                                          \
    FP_FN(mn)                                                                                                          \
    {                                                                                                                  \
        union lanes p = {a}, q = {b};                                                                                  \
        for (unsigned i = 0; i < (count); i++)                                                                         \
            p.lane[i] = fp##bits##_round(&run->e, q.lane[i], (uint8_t)imm);                                            \
        return p.v;                                                                                                    \
    }
#endif
ROUND_FN(ROUNDPS, "roundps", d, 4, 32)
ROUND_FN(ROUNDPD, "roundpd", q, 2, 64)
ROUND_FN(ROUNDSS, "roundss", d, 1, 32)
ROUND_FN(ROUNDSD, "roundsd", q, 1, 64)
FP_IMM(ROUNDPS, sse4_1, sse_ld128)
FP_IMM(ROUNDPD, sse4_1, sse_ld128)
FP_IMM(ROUNDSS, sse4_1, sse_ld32)
FP_IMM(ROUNDSD, sse4_1, sse_ld64)

#if !VMENTER_SOFT_TWIN
/* --- RCPxx, RSQRTxx: approximations; no flags, MXCSR does not matter --------------------------------------------- */
/* Intel's values, on every host: the exact function of the middle of an interval, rounded to 12 bits. The intervals
 * divide [1, 2) into 2048 for the reciprocal, [1, 2) and [2, 4) into 1024 each for the square root. Denormals count as
 * zeros, and results as well. */
static uint32_t reciprocal(uint32_t v)
{
    uint32_t sign = v & 0x80000000, frac = v & 0x7fffff, d = 4097 + 2 * (frac >> 12);
    int exp = (int)(v >> 23 & 255);
    if (exp == 255)
        return frac ? v | 0x400000 : sign;
    if (!exp)
        return sign | 0x7f800000;
    if (exp >= 253)
        return sign;
    uint32_t t = ((2u << 25) + d) / (2 * d); /* 2^13 / (d / 2^12), to nearest */
    return sign | (uint32_t)(253 - exp) << 23 | (t & 0xfff) << 11;
}
static uint32_t reciprocal_root(uint32_t v)
{
    uint32_t sign = v & 0x80000000, frac = v & 0x7fffff;
    int exp = (int)(v >> 23 & 255);
    if (exp == 255 && frac)
        return v | 0x400000;
    if (!exp)
        return sign | 0x7f800000;
    if (sign)
        return 0xffc00000;
    if (exp == 255)
        return 0;
    unsigned odd = (exp & 1) ^ 1;
    uint64_t d = (uint64_t)(2049 + 2 * (frac >> 13)) << odd; /* in units of 2^-11 */
    uint32_t t = 4096;                                       /* the greatest with (t - 1/2)^2 * d <= 2^26 */
    for (uint32_t bit = 2048; bit; bit >>= 1) {
        uint64_t k = 2 * (uint64_t)(t + bit) - 1;
        if (k * k * d <= BIT(39))
            t += bit;
    }
    int half = (exp - 127 - (int)odd) / 2;
    return (uint32_t)(126 - half) << 23 | (t & 0xfff) << 11;
}
#define APPROX(PS, SS, f)                                                                                              \
    VOPX(PS, sse)                                                                                                      \
    {                                                                                                                  \
        union lanes r = {b};                                                                                           \
        for (unsigned i = 0; i < 4; i++)                                                                               \
            r.d[i] = f(r.d[i]);                                                                                        \
        return r.v;                                                                                                    \
    }                                                                                                                  \
    VOPXL(SS, sse, sse_ld32)                                                                                           \
    {                                                                                                                  \
        union lanes r = {a};                                                                                           \
        r.d[0] = f((uint32_t)b[0]);                                                                                    \
        return r.v;                                                                                                    \
    }
APPROX(RCPPS, RCPSS, reciprocal)
APPROX(RSQRTPS, RSQRTSS, reciprocal_root)
#endif
