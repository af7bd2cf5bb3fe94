/* SPDX-License-Identifier: MIT
 *
 * simd.h: what the handlers of MMX and SSE instructions share: 128-bit values, operands, the checks before them.
 *
 * A vector instruction's semantics is a function over v128 values (or over one memory operand); the macros here make
 * its handlers: register and memory source, XMM and MMX. A handler checks first (CR0.EM, CR0.TS, CR4.OSFXSR, a pending
 * x87 exception), then loads, computes, and stores last, so that a fault leaves nothing changed.
 *
 * Operands: r0 is the register of ModRM.reg (xmm1), r1 that of ModRM.rm (xmm2), imm the immediate byte.
 */
#ifndef CPU_SIMD_H
#define CPU_SIMD_H

#include "src/cpu/op.h"
#include "src/cpu/decode.h"

typedef int64_t v128 __attribute__((vector_size(16), may_alias));
typedef uint8_t u8x16 __attribute__((vector_size(16), may_alias));
typedef int8_t i8x16 __attribute__((vector_size(16), may_alias));
typedef uint16_t u16x8 __attribute__((vector_size(16), may_alias));
typedef int16_t i16x8 __attribute__((vector_size(16), may_alias));
typedef uint32_t u32x4 __attribute__((vector_size(16), may_alias));
typedef int32_t i32x4 __attribute__((vector_size(16), may_alias));
typedef uint64_t u64x2 __attribute__((vector_size(16), may_alias));
typedef int64_t i64x2 __attribute__((vector_size(16), may_alias));
typedef float f32x4 __attribute__((vector_size(16), may_alias));
typedef double f64x2 __attribute__((vector_size(16), may_alias));

/* --- the checks: SDM volume 2A, "Exception Conditions of Legacy SSE/SSE2 Instructions"; volume 3A, "Emulation of MMX
 * ..." ------ */
COLD bool sse_unavailable(struct cpu *c, const struct op *o);
COLD bool mmx_unavailable(struct cpu *c, const struct op *o);
INLINE bool sse_ok(struct cpu *c, const struct op *o)
{
    if (unlikely((c->cr0 & (CR0_EM | CR0_TS)) | (~c->cr4 & CR4_OSFXSR)))
        return sse_unavailable(c, o);
    return true;
}
/* An MMX instruction other than EMMS also resets TOP and makes every register valid: mmx_enter() once nothing can fault
 * any more. */
INLINE bool mmx_ok(struct cpu *c, const struct op *o)
{
    if (unlikely((c->cr0 & (CR0_EM | CR0_TS)) || c->mf_pending))
        return mmx_unavailable(c, o);
    return true;
}
INLINE void mmx_enter(struct cpu *c)
{
    c->x87.top = 0;
    c->x87.tag = 0xff;
}

/* --- registers
 * ----------------------------------------------------------------------------------------------------------------- */
INLINE v128 xmm_get(const struct cpu *c, unsigned r)
{
    return *(const v128 *)&c->v[r];
}
INLINE void xmm_set(struct cpu *c, unsigned r, v128 v)
{
    *(v128 *)&c->v[r] = v;
}
INLINE uint64_t mm_get(const struct cpu *c, unsigned r)
{
    return c->x87.st[r & 7].frac;
}
/* Writing an MMX register sets the exponent part of its x87 register. */
INLINE void mm_set(struct cpu *c, unsigned r, uint64_t v)
{
    c->x87.st[r & 7].frac = v;
    c->x87.st[r & 7].sexp = 0xffff;
}
INLINE v128 v128_q(uint64_t lo, uint64_t hi)
{
    return (v128){(int64_t)lo, (int64_t)hi};
}
INLINE v128 v128_load(const void *p)
{
    v128 v;
    __builtin_memcpy(&v, p, 16);
    return v;
}

/* --- memory: misaligned 16-byte operands are #GP(0), unless MXCSR.MM of AMD's misaligned mode is set
 * ------------------------------- */
#define MXCSR_MM BIT(17)
INLINE unsigned sse_align(const struct cpu *c)
{
    return c->mxcsr & MXCSR_MM ? 0 : 16;
}
/* Aligned always: the moves with A and NT, MOVNTDQA. `align` 16, or 0 for the unaligned moves. */
INLINE bool sse_ld128_as(struct cpu *c, const struct op *o, v128 *v, unsigned align)
{
    uint64_t la;
    if (unlikely(o->flags & OPF_LEGACY))
        return op_ld_n(c, o, v, 16, align);
    la = op_offset(c, o) + c->seg_base64[o->seg];
    const uint8_t *h = op_host(c, la, 16, MMU_READ);
    if (likely(h && !(align && (la & 15)))) {
        *v = v128_load(h);
        return true;
    }
    return op_ld_n(c, o, v, 16, align);
}
INLINE bool sse_st128_as(struct cpu *c, const struct op *o, v128 v, unsigned align)
{
    uint64_t la;
    if (unlikely(o->flags & OPF_LEGACY))
        return op_st_n(c, o, &v, 16, align);
    la = op_offset(c, o) + c->seg_base64[o->seg];
    uint8_t *h = op_host(c, la, 16, MMU_WRITE);
    if (likely(h && !(align && (la & 15)))) {
        __builtin_memcpy(h, &v, 16);
        return true;
    }
    return op_st_n(c, o, &v, 16, align);
}
/* The memory source of an arithmetic instruction. */
INLINE bool sse_ld128(struct cpu *c, const struct op *o, v128 *v)
{
    return sse_ld128_as(c, o, v, sse_align(c));
}
INLINE bool sse_ld64(struct cpu *c, const struct op *o, v128 *v)
{
    uint64_t q;
    if (!op_ld64(c, o, &q))
        return false;
    *v = v128_q(q, 0);
    return true;
}
INLINE bool sse_ld32(struct cpu *c, const struct op *o, v128 *v)
{
    uint32_t d;
    if (!op_ld32(c, o, &d))
        return false;
    *v = v128_q(d, 0);
    return true;
}
INLINE bool sse_ld16(struct cpu *c, const struct op *o, v128 *v)
{
    uint16_t w;
    if (!op_ld16(c, o, &w))
        return false;
    *v = v128_q(w, 0);
    return true;
}

/* --- making handlers
 * --------------------------------------------------------------------------------------------------------------- */
/* HANDLER(name) { ...; return true; }: true goes on with the next operation, false has raised. The body's locals are
 * dead before the tail call, so that it stays one. */
#define HANDLER(name)                                                                                                  \
    INLINE bool name##_body(struct cpu *c, const struct op *o);                                                        \
    static void name(struct cpu *c, const struct op *o)                                                                \
    {                                                                                                                  \
        if (unlikely(!name##_body(c, o)))                                                                              \
            return;                                                                                                    \
        NEXT(c, o);                                                                                                    \
    }                                                                                                                  \
    INLINE bool name##_body(struct cpu *c, const struct op *o)

/* One vector register, lane by lane. */
union lanes {
    v128 v;
    uint8_t b[16];
    int8_t sb[16];
    uint16_t w[8];
    int16_t sw[8];
    uint32_t d[4];
    int32_t sd[4];
    uint64_t q[2];
    int64_t sq[2];
};

/* The forms of a mnemonic; vec_select() picks by the class of the first register operand and what the second one is. */
struct vec_forms {
    op_fn *rr, *rm, *ri;    /* XMM: register, memory, immediate count */
    op_fn *mrr, *mrm, *mri; /* MMX */
    enum feature xf, mf;    /* what the model must have */
};
op_fn *vec_select(const struct decoded *d, const struct vec_forms *f);

#define VEC_XMM(mn, load)                                                                                              \
    HANDLER(x_rr_##mn)                                                                                                 \
    {                                                                                                                  \
        if (!sse_ok(c, o))                                                                                             \
            return false;                                                                                              \
        xmm_set(c, o->r0, f_##mn(xmm_get(c, o->r0), xmm_get(c, o->r1), (uint8_t)o->imm, 16));                          \
        return true;                                                                                                   \
    }                                                                                                                  \
    HANDLER(x_rm_##mn)                                                                                                 \
    {                                                                                                                  \
        v128 b;                                                                                                        \
        if (!sse_ok(c, o) || !load(c, o, &b))                                                                          \
            return false;                                                                                              \
        xmm_set(c, o->r0, f_##mn(xmm_get(c, o->r0), b, (uint8_t)o->imm, 16));                                          \
        return true;                                                                                                   \
    }
#define VEC_MMX(mn, load)                                                                                              \
    HANDLER(m_rr_##mn)                                                                                                 \
    {                                                                                                                  \
        if (!mmx_ok(c, o))                                                                                             \
            return false;                                                                                              \
        mmx_enter(c);                                                                                                  \
        v128 r = f_##mn(v128_q(mm_get(c, o->r0), 0), v128_q(mm_get(c, o->r1), 0), (uint8_t)o->imm, 8);                 \
        mm_set(c, o->r0, (uint64_t)r[0]);                                                                              \
        return true;                                                                                                   \
    }                                                                                                                  \
    HANDLER(m_rm_##mn)                                                                                                 \
    {                                                                                                                  \
        v128 b;                                                                                                        \
        if (!mmx_ok(c, o) || !load(c, o, &b))                                                                          \
            return false;                                                                                              \
        mmx_enter(c);                                                                                                  \
        v128 r = f_##mn(v128_q(mm_get(c, o->r0), 0), b, (uint8_t)o->imm, 8);                                           \
        mm_set(c, o->r0, (uint64_t)r[0]);                                                                              \
        return true;                                                                                                   \
    }
/* VOP(mn, ...) { return value; }: f_mn(a, b, imm, n): a is the destination's old value, b the source, n the register's
 * width in bytes. xf, mf: features that the XMM and the MMX form need. VOPX: no MMX form; VOPXL: its memory operand is
 * loaded by `load`. */
#define VOP_FN(mn) INLINE v128 f_##mn(v128 a, v128 b, uint8_t imm, const unsigned n)
#define VOP_SEL(mn, ...)                                                                                               \
    op_fn *sel_##mn(const struct decoded *d, struct op *o)                                                             \
    {                                                                                                                  \
        static const struct vec_forms forms = {__VA_ARGS__};                                                           \
        return vec_select(d, &forms);                                                                                  \
    }
#define VOPL(mn, xf_, mf_, mload)                                                                                      \
    VOP_FN(mn);                                                                                                        \
    VEC_XMM(mn, sse_ld128)                                                                                             \
    VEC_MMX(mn, mload)                                                                                                 \
    VOP_SEL(mn, .rr = x_rr_##mn, .rm = x_rm_##mn, .mrr = m_rr_##mn, .mrm = m_rm_##mn, .xf = FEATURE_##xf_,             \
            .mf = FEATURE_##mf_)                                                                                       \
    VOP_FN(mn)
#define VOP(mn, xf_, mf_) VOPL(mn, xf_, mf_, sse_ld64)
#define VOPXL(mn, xf_, load)                                                                                           \
    VOP_FN(mn);                                                                                                        \
    VEC_XMM(mn, load)                                                                                                  \
    VOP_SEL(mn, .rr = x_rr_##mn, .rm = x_rm_##mn, .xf = FEATURE_##xf_)                                                 \
    VOP_FN(mn)
#define VOPX(mn, xf_) VOPXL(mn, xf_, sse_ld128)

/* Instructions of the host beyond the x86-64 baseline. */
#if defined(__x86_64__)
#define HOST_X86    1
#define HOST_HAS(f) (__builtin_cpu_supports(f) != 0)
#else
#define HOST_X86    0
#define HOST_HAS(f) 0
#endif

#endif
