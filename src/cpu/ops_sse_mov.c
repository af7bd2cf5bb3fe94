/* SPDX-License-Identifier: MIT
 *
 * ops_sse_mov.c: moves of MMX and SSE registers, MXCSR, EMMS.
 *
 * A store has its register in r0 (the memory operand comes first); a register form has its destination in r0.
 * SDM volume 2, the instructions' own pages.
 */
#include "src/cpu/fpu.h"
#include "src/cpu/simd.h"

/* Register, load and store forms of a mnemonic. */
static op_fn *pick(const struct decoded *d, op_fn *rr, op_fn *rm, op_fn *mr)
{
    if (d->mem == DECODED_NO_MEM)
        return rr;
    return d->mem == 0 ? mr : rm;
}

/* --- 16 bytes
 * ------------------------------------------------------------------------------------------------------------ */
HANDLER(mov128_rr)
{
    if (!sse_ok(c, o))
        return false;
    xmm_set(c, o->r0, xmm_get(c, o->r1));
    return true;
}
HANDLER(mov128_rm_a)
{
    v128 v;
    if (!sse_ok(c, o) || !sse_ld128_as(c, o, &v, 16))
        return false;
    xmm_set(c, o->r0, v);
    return true;
}
HANDLER(mov128_rm_u)
{
    v128 v;
    if (!sse_ok(c, o) || !sse_ld128_as(c, o, &v, 0))
        return false;
    xmm_set(c, o->r0, v);
    return true;
}
HANDLER(mov128_mr_a)
{
    return sse_ok(c, o) && sse_st128_as(c, o, xmm_get(c, o->r0), 16);
}
HANDLER(mov128_mr_u)
{
    return sse_ok(c, o) && sse_st128_as(c, o, xmm_get(c, o->r0), 0);
}
op_fn *sel_mova(const struct decoded *d, struct op *o)
{
    return pick(d, mov128_rr, mov128_rm_a, mov128_mr_a);
}
op_fn *sel_movu(const struct decoded *d, struct op *o)
{
    return pick(d, mov128_rr, mov128_rm_u, mov128_mr_u);
}

/* --- halves and scalars: stores write `bytes`, loads to a whole register clear the rest
 * -------------------------------------- */
HANDLER(st_q0)
{
    return sse_ok(c, o) && op_st64(c, o, c->v[o->r0].q[0]);
}
HANDLER(st_q1)
{
    return sse_ok(c, o) && op_st64(c, o, c->v[o->r0].q[1]);
}
HANDLER(st_d0)
{
    return sse_ok(c, o) && op_st32(c, o, c->v[o->r0].d[0]);
}
HANDLER(ld_q0)
{
    uint64_t v;
    if (!sse_ok(c, o) || !op_ld64(c, o, &v))
        return false;
    c->v[o->r0].q[0] = v;
    return true;
}
HANDLER(ld_q1)
{
    uint64_t v;
    if (!sse_ok(c, o) || !op_ld64(c, o, &v))
        return false;
    c->v[o->r0].q[1] = v;
    return true;
}
HANDLER(ld_q0z)
{
    v128 v;
    if (!sse_ok(c, o) || !sse_ld64(c, o, &v))
        return false;
    xmm_set(c, o->r0, v);
    return true;
}
HANDLER(ld_d0z)
{
    v128 v;
    if (!sse_ok(c, o) || !sse_ld32(c, o, &v))
        return false;
    xmm_set(c, o->r0, v);
    return true;
}
HANDLER(movss_rr)
{
    if (!sse_ok(c, o))
        return false;
    c->v[o->r0].d[0] = c->v[o->r1].d[0];
    return true;
}
HANDLER(movsd_rr)
{
    if (!sse_ok(c, o))
        return false;
    c->v[o->r0].q[0] = c->v[o->r1].q[0];
    return true;
}
HANDLER(movhlps)
{
    if (!sse_ok(c, o))
        return false;
    c->v[o->r0].q[0] = c->v[o->r1].q[1];
    return true;
}
HANDLER(movlhps)
{
    if (!sse_ok(c, o))
        return false;
    c->v[o->r0].q[1] = c->v[o->r1].q[0];
    return true;
}
op_fn *sel_MOVSS(const struct decoded *d, struct op *o)
{
    return pick(d, movss_rr, ld_d0z, st_d0);
}
op_fn *sel_MOVSD_sse(const struct decoded *d, struct op *o)
{
    return model_has(d->model, FEATURE_sse2) ? pick(d, movsd_rr, ld_q0z, st_q0) : NULL;
}
op_fn *sel_movl(const struct decoded *d, struct op *o)
{
    return pick(d, movhlps, ld_q0, st_q0);
}
op_fn *sel_movh(const struct decoded *d, struct op *o)
{
    return pick(d, movlhps, ld_q1, st_q1);
}
op_fn *sel_MOVNTSS(const struct decoded *d, struct op *o)
{
    return st_d0;
}
op_fn *sel_MOVNTSD(const struct decoded *d, struct op *o)
{
    return st_q0;
}
VOPXL(MOVDDUP, sse3, sse_ld64)
{
    return (v128){b[0], b[0]};
}
VOPX(MOVSLDUP, sse3)
{
    u32x4 y = (u32x4)b;
    return (v128)(u32x4){y[0], y[0], y[2], y[2]};
}
VOPX(MOVSHDUP, sse3)
{
    u32x4 y = (u32x4)b;
    return (v128)(u32x4){y[1], y[1], y[3], y[3]};
}

/* --- MOVD, MOVQ
 * -------------------------------------------------------------------------------------------------------------- */
HANDLER(movd_x_r32)
{
    if (!sse_ok(c, o))
        return false;
    xmm_set(c, o->r0, v128_q(op_r32(c, o->r1), 0));
    return true;
}
HANDLER(movq_x_r64)
{
    if (!sse_ok(c, o))
        return false;
    xmm_set(c, o->r0, v128_q(op_r64(c, o->r1), 0));
    return true;
}
HANDLER(movd_r32_x)
{
    if (!sse_ok(c, o))
        return false;
    op_set_r32(c, o->r0, c->v[o->r1].d[0]);
    return true;
}
HANDLER(movq_r64_x)
{
    if (!sse_ok(c, o))
        return false;
    op_set_r64(c, o->r0, c->v[o->r1].q[0]);
    return true;
}
HANDLER(movq_x_x)
{
    if (!sse_ok(c, o))
        return false;
    xmm_set(c, o->r0, v128_q(c->v[o->r1].q[0], 0));
    return true;
}
HANDLER(movd_m_r32)
{
    if (!mmx_ok(c, o))
        return false;
    mmx_enter(c);
    mm_set(c, o->r0, op_r32(c, o->r1));
    return true;
}
HANDLER(movq_m_r64)
{
    if (!mmx_ok(c, o))
        return false;
    mmx_enter(c);
    mm_set(c, o->r0, op_r64(c, o->r1));
    return true;
}
HANDLER(movd_r32_m)
{
    if (!mmx_ok(c, o))
        return false;
    mmx_enter(c);
    op_set_r32(c, o->r0, (uint32_t)mm_get(c, o->r1));
    return true;
}
HANDLER(movq_r64_m)
{
    if (!mmx_ok(c, o))
        return false;
    mmx_enter(c);
    op_set_r64(c, o->r0, mm_get(c, o->r1));
    return true;
}
HANDLER(movq_m_m)
{
    if (!mmx_ok(c, o))
        return false;
    mmx_enter(c);
    mm_set(c, o->r0, mm_get(c, o->r1));
    return true;
}
HANDLER(m_ld_d)
{
    uint32_t v;
    if (!mmx_ok(c, o) || !op_ld32(c, o, &v))
        return false;
    mmx_enter(c);
    mm_set(c, o->r0, v);
    return true;
}
HANDLER(m_ld_q)
{
    uint64_t v;
    if (!mmx_ok(c, o) || !op_ld64(c, o, &v))
        return false;
    mmx_enter(c);
    mm_set(c, o->r0, v);
    return true;
}
HANDLER(m_st_d)
{
    if (!mmx_ok(c, o) || !op_st32(c, o, (uint32_t)mm_get(c, o->r0)))
        return false;
    mmx_enter(c);
    return true;
}
HANDLER(m_st_q)
{
    if (!mmx_ok(c, o) || !op_st64(c, o, mm_get(c, o->r0)))
        return false;
    mmx_enter(c);
    return true;
}
/* All of MOVD and MOVQ: which register class stands where, and the width, which REX.W gives. */
static op_fn *select_movdq(const struct decoded *d, bool q)
{
    static const struct {
        op_fn *from_r, *to_r, *ld, *st, *same;
    } forms[2][2] = {
        {{movd_x_r32, movd_r32_x, ld_d0z, st_d0, movq_x_x}, {movq_x_r64, movq_r64_x, ld_q0z, st_q0, movq_x_x}},
        {{movd_m_r32, movd_r32_m, m_ld_d, m_st_d, movq_m_m}, {movq_m_r64, movq_r64_m, m_ld_q, m_st_q, movq_m_m}},
    };
    ZydisRegisterClass k0 = decoded_class(d, 0), k1 = decoded_class(d, 1);
    bool mmx = k0 == ZYDIS_REGCLASS_MMX || k1 == ZYDIS_REGCLASS_MMX;
    if (!model_has(d->model, mmx ? FEATURE_mmx : FEATURE_sse2))
        return NULL;
    if (d->mem != DECODED_NO_MEM)
        return d->mem == 0 ? forms[mmx][q].st : forms[mmx][q].ld;
    if (k0 == k1)
        return forms[mmx][q].same;
    return k0 == ZYDIS_REGCLASS_MMX || k0 == ZYDIS_REGCLASS_XMM ? forms[mmx][q].from_r : forms[mmx][q].to_r;
}
op_fn *sel_MOVD(const struct decoded *d, struct op *o)
{
    return select_movdq(d, false);
}
op_fn *sel_MOVQ(const struct decoded *d, struct op *o)
{
    return select_movdq(d, true);
}
op_fn *sel_MOVNTQ(const struct decoded *d, struct op *o)
{
    return m_st_q;
}

/* --- between MMX and XMM
 * --------------------------------------------------------------------------------------------------------- */
HANDLER(op_movq2dq)
{
    if (!sse_ok(c, o) || !mmx_ok(c, o))
        return false;
    mmx_enter(c);
    xmm_set(c, o->r0, v128_q(mm_get(c, o->r1), 0));
    return true;
}
HANDLER(op_movdq2q)
{
    if (!sse_ok(c, o) || !mmx_ok(c, o))
        return false;
    mmx_enter(c);
    mm_set(c, o->r0, c->v[o->r1].q[0]);
    return true;
}
op_fn *sel_MOVQ2DQ(const struct decoded *d, struct op *o)
{
    return op_movq2dq;
}
op_fn *sel_MOVDQ2Q(const struct decoded *d, struct op *o)
{
    return op_movdq2q;
}

/* --- MASKMOVQ, MASKMOVDQU: bytes whose mask byte has its sign bit set go to DS:rDI
 * ------------------------------------------------- */
static bool mask_store(struct cpu *c, const struct op *o, const uint8_t *data, const uint8_t *mask, unsigned n)
{
    uint64_t la[16];
    unsigned access = cpu_data_access(c) | MMU_WRITE;
    c->cur = o;
    for (unsigned i = 0; i < n; i++)
        if ((mask[i] & 0x80) && (!op_la_plus(c, o, i, 1, MMU_WRITE, &la[i]) || !cpu_probe(c, LA(la[i]), 1, access)))
            return false;
    for (unsigned i = 0; i < n; i++)
        if ((mask[i] & 0x80) && !op_store8(c, o, la[i], data[i]))
            return false;
    return true;
}
HANDLER(op_maskmovdqu)
{
    return sse_ok(c, o) && mask_store(c, o, c->v[o->r0].b, c->v[o->r1].b, 16);
}
HANDLER(op_maskmovq)
{
    if (!mmx_ok(c, o))
        return false;
    uint64_t data = mm_get(c, o->r0), mask = mm_get(c, o->r1);
    if (!mask_store(c, o, (const uint8_t *)&data, (const uint8_t *)&mask, 8))
        return false;
    mmx_enter(c);
    return true;
}
/* Zydis hides the memory operand: it is put into the op here. */
static void mask_operand(const struct decoded *d, struct op *o)
{
    o->base = GPR_RDI;
    o->index = GPR_ZERO;
    o->scale = 0;
    o->disp = 0;
    o->seg = d->mode == MODE_64 ? SEG_NONE : SEG_DS;
    for (unsigned i = 0; i < d->in.operand_count; i++)
        if (d->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
            ZydisRegister s = d->op[i].mem.segment;
            if (d->mode != MODE_64 || s == ZYDIS_REGISTER_FS || s == ZYDIS_REGISTER_GS)
                o->seg = (uint8_t)decode_register(s);
        }
    o->flags |= OPF_MEM;
    o->size = (uint8_t)((o->size & 15) | (unsigned)__builtin_ctz(d->in.address_width / 8u) << 4);
    if (d->mode != MODE_64 || d->in.address_width != 64)
        o->flags |= OPF_LEGACY;
}
op_fn *sel_MASKMOVDQU(const struct decoded *d, struct op *o)
{
    mask_operand(d, o);
    return op_maskmovdqu;
}
op_fn *sel_MASKMOVQ(const struct decoded *d, struct op *o)
{
    mask_operand(d, o);
    return op_maskmovq;
}

/* --- state
 * ---------------------------------------------------------------------------------------------------------------------------
 */
HANDLER(op_emms)
{
    if (!mmx_ok(c, o))
        return false;
    c->x87.tag = 0;
    c->x87.top = 0;
    return true;
}
op_fn *sel_EMMS(const struct decoded *d, struct op *o)
{
    return op_emms;
}
HANDLER(op_ldmxcsr)
{
    uint32_t v;
    if (!sse_ok(c, o) || !op_ld32(c, o, &v))
        return false;
    if (v & ~fpu_mxcsr_mask(c)) {
        c->cur = o;
        return cpu_raise(c, EXC_GP, 0);
    }
    c->mxcsr = v;
    return true;
}
HANDLER(op_stmxcsr)
{
    return sse_ok(c, o) && op_st32(c, o, c->mxcsr);
}
op_fn *sel_LDMXCSR(const struct decoded *d, struct op *o)
{
    return op_ldmxcsr;
}
op_fn *sel_STMXCSR(const struct decoded *d, struct op *o)
{
    return op_stmxcsr;
}
