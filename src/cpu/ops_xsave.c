/* SPDX-License-Identifier: MIT
 *
 * ops_xsave.c: FXSAVE, FXRSTOR, XSAVE and its kin.
 *
 * SDM volume 1, "Managing State Using the XSAVE Feature Set"; volume 2, the instructions' pages; APM volume 2, "FXSAVE
 * and FXRSTOR Instructions" (FFXSR). State components: x87 (0), SSE (1), AVX's upper halves (2, once a model has them),
 * PKRU (9).
 *
 * The area is read (or probed for writing) whole before anything changes: a fault leaves memory and registers as they
 * were.
 */
#include "src/cpu/fpu.h"
#include "src/cpu/simd.h"

#define COMPACTED BIT(63)
#define AREA_MAX  2816u

static unsigned xmm_count(const struct cpu *c)
{
    return c->mode == MODE_64 ? 16 : 8;
}
static bool raise(struct cpu *c, const struct op *o, unsigned vector)
{
    c->cur = o;
    return cpu_raise(c, vector, 0);
}

/* The parts of an area (op.h): the fields that an execution reads or writes, by component, as silicon takes them. The
 * limit is looked at for the first doubleword in any case. Beyond the 8 registers of legacy modes nothing is: only
 * these have limits. */
enum {
    PART_X87 = XSTATE_X87,
    PART_SSE = XSTATE_SSE,
    PART_YMM = XSTATE_YMM,
    PART_PKRU = XSTATE_PKRU,
    PART_ALWAYS = OP_PART_LIMIT,
    PART_MXCSR = 0x2000,
    PART_MXCSR_MASK = 0x4000, /* written, never read */
    PART_HEADER = 0x1000,
    PART_XCOMP = 0x10,
    PART_HEADER3 = 0x20, /* the header's third quadword: read */
};
/* The places of the standard format; the compacted one has YMM's there too. */
static const struct op_part area_parts[] = {{0, 4, 1, PART_ALWAYS | PART_X87},
                                            {4, 4, 1, PART_X87},
                                            {8, 8, 2, PART_X87},
                                            {24, 4, 1, PART_MXCSR},
                                            {28, 4, 1, PART_MXCSR_MASK},
                                            {32, 8, 16, PART_X87},
                                            {160, 16, 8, PART_SSE},
                                            {512, 8, 1, PART_HEADER},
                                            {520, 8, 1, PART_XCOMP},
                                            {528, 8, 1, PART_HEADER3},
                                            {576, 16, 8, PART_YMM},
                                            {2688, 8, 1, PART_PKRU},
                                            {0}};
_Static_assert(PART_PKRU == 0x200, "within `which`, beside the others");

/* The bytes of an area of `size` at the memory operand, writable: on the host's page itself, or a copy in buf that
 * area_done() writes back. NULL: raised. */
static uint8_t *area_for_write(struct cpu *c, const struct op *o, unsigned size, unsigned align, unsigned parts,
                               uint8_t *buf, struct op_pieces *at)
{
    if (!op_parts_find(c, o, size, align, MMU_WRITE, area_parts, parts, at))
        return NULL;
    uint8_t *h = at->len[1] ? NULL : op_host(c, at->la[0], size, MMU_WRITE);
    if (h)
        return h;
    return op_parts_rmw(c, o, at, buf) ? buf : NULL;
}
static bool area_done(struct cpu *c, const struct op *o, const uint8_t *p, const uint8_t *buf,
                      const struct op_pieces *at)
{
    return p != buf || op_parts_write(c, o, at, buf);
}

/* --- FXSAVE, FXRSTOR: size's low nibble is 3 with REX.W
 * ------------------------------------------------------------------------ */
static bool fx_available(struct cpu *c, const struct op *o)
{
    if (unlikely(c->cr0 & (CR0_EM | CR0_TS)))
        return raise(c, o, EXC_NM);
    return true;
}
/* Are the XMM registers part of the image? */
static bool fx_xmm(const struct cpu *c)
{
    if (!(c->cr4 & CR4_OSFXSR))
        return false;
    return !((c->efer & EFER_FFXSR) && c->cpl == 0 && c->mode == MODE_64);
}
static unsigned fx_parts(const struct cpu *c)
{
    return PART_ALWAYS | PART_X87 | (c->cr4 & CR4_OSFXSR ? PART_MXCSR : 0) | (fx_xmm(c) ? PART_SSE : 0);
}
static bool fxsave(struct cpu *c, const struct op *o, bool rex_w)
{
    uint8_t buf[512], *p;
    struct op_pieces at;
    if (!fx_available(c, o) || !(p = area_for_write(c, o, 512, 16, fx_parts(c) | PART_MXCSR_MASK, buf, &at)))
        return false;
    fpu_x87_to_image(c, p, rex_w);
    if (c->cr4 & CR4_OSFXSR) {
        store32(p + 24, c->mxcsr);
        store32(p + 28, fpu_mxcsr_mask(c));
    }
    if (fx_xmm(c))
        for (unsigned i = 0; i < xmm_count(c); i++)
            memcpy(p + 160 + 16 * i, &c->v[i], 16);
    return area_done(c, o, p, buf, &at);
}
static bool fxrstor(struct cpu *c, const struct op *o, bool rex_w)
{
    uint8_t p[512];
    if (!fx_available(c, o) || !op_ld_parts(c, o, p, 512, 16, area_parts, fx_parts(c)))
        return false;
    if (c->cr4 & CR4_OSFXSR) {
        if (load32(p + 24) & ~fpu_mxcsr_mask(c))
            return raise(c, o, EXC_GP);
        c->mxcsr = load32(p + 24);
    }
    fpu_x87_from_image(c, p, rex_w);
    if (fx_xmm(c))
        for (unsigned i = 0; i < xmm_count(c); i++)
            memcpy(&c->v[i], p + 160 + 16 * i, 16);
    return true;
}
HANDLER(op_fxsave)
{
    return fxsave(c, o, false);
}
HANDLER(op_fxsave64)
{
    return fxsave(c, o, true);
}
HANDLER(op_fxrstor)
{
    return fxrstor(c, o, false);
}
HANDLER(op_fxrstor64)
{
    return fxrstor(c, o, true);
}
op_fn *sel_FXSAVE(const struct decoded *d, struct op *o)
{
    return op_fxsave;
}
op_fn *sel_FXSAVE64(const struct decoded *d, struct op *o)
{
    return op_fxsave64;
}
op_fn *sel_FXRSTOR(const struct decoded *d, struct op *o)
{
    return op_fxrstor;
}
op_fn *sel_FXRSTOR64(const struct decoded *d, struct op *o)
{
    return op_fxrstor64;
}

/* --- components
 * --------------------------------------------------------------------------------------------------------------------
 */
/* SDM volume 1, "Processor Tracking of XSAVE-Managed State": is the component in other than its initial configuration?
 */
static bool zero(const void *p, unsigned n)
{
    const uint8_t *b = p;
    for (unsigned i = 0; i < n; i++)
        if (b[i])
            return false;
    return true;
}
static uint64_t xinuse(const struct cpu *c, uint64_t mask)
{
    const struct x87 *x = &c->x87;
    uint64_t in = 0;
    if (mask & XSTATE_X87) {
        if (x->cw != 0x37f || fpu_sw(c) || x->tag || x->fop || x->fip || x->fdp || x->fcs || x->fds)
            in |= XSTATE_X87;
        for (unsigned i = 0; i < 8 && !(in & XSTATE_X87); i++)
            if (x->st[i].frac || x->st[i].sexp)
                in |= XSTATE_X87;
    }
    if (mask & XSTATE_SSE)
        for (unsigned i = 0; i < xmm_count(c); i++)
            if (c->v[i].q[0] | c->v[i].q[1]) {
                in |= XSTATE_SSE;
                break;
            }
    if (mask & XSTATE_YMM)
        for (unsigned i = 0; i < xmm_count(c); i++)
            if (!zero(&c->v[i].b[16], 16)) {
                in |= XSTATE_YMM;
                break;
            }
    if ((mask & XSTATE_PKRU) && c->pkru)
        in |= XSTATE_PKRU;
    return in;
}
/* Where component i (2 and up) stands. Compacted: after those of xcomp below it. No component asks for 64-byte
 * alignment. */
static unsigned component_offset(unsigned i, uint64_t xcomp)
{
    uint32_t offset, size;
    model_xsave_component(i, &offset, &size);
    return xcomp & COMPACTED ? model_xsave_size(xcomp & mask_low(i), true) : offset;
}
static void component_save(const struct cpu *c, unsigned i, uint8_t *p)
{
    switch (BIT(i)) {
    case XSTATE_YMM:
        for (unsigned r = 0; r < xmm_count(c); r++)
            memcpy(p + 16 * r, &c->v[r].b[16], 16);
        break;
    case XSTATE_PKRU: store64(p, c->pkru); break;
    }
}
static void component_restore(struct cpu *c, unsigned i, const uint8_t *p /* NULL: initial configuration */)
{
    switch (BIT(i)) {
    case XSTATE_YMM:
        for (unsigned r = 0; r < xmm_count(c); r++) {
            if (p)
                memcpy(&c->v[r].b[16], p + 16 * r, 16);
            else
                memset(&c->v[r].b[16], 0, 16);
        }
        break;
    case XSTATE_PKRU: cpu_write_pkru(c, p ? load32(p) : 0); break;
    }
}
static void x87_initial(struct cpu *c)
{
    fpu_x87_init(c);
    memset(c->x87.st, 0, sizeof c->x87.st);
}
static void sse_initial(struct cpu *c)
{
    for (unsigned i = 0; i < xmm_count(c); i++)
        memset(&c->v[i], 0, 16);
}

/* --- saving: XSAVE, XSAVEOPT, XSAVEC, XSAVES
 * ------------------------------------------------------------------------------------------- */
enum { SAVE_OPT = 1 /* initial components are not written */, SAVE_COMPACT = 2, SAVE_SUPERVISOR = 4 };

static bool xsave_available(struct cpu *c, const struct op *o)
{
    if (unlikely(!(c->cr4 & CR4_OSXSAVE)))
        return raise(c, o, EXC_UD);
    if (unlikely(c->cr0 & CR0_TS))
        return raise(c, o, EXC_NM);
    return true;
}
static uint64_t edx_eax(const struct cpu *c)
{
    return (uint64_t)(uint32_t)c->gpr[GPR_RDX] << 32 | (uint32_t)c->gpr[GPR_RAX];
}
static bool supervisor_ok(struct cpu *c, const struct op *o, enum icpt what)
{
    if (c->cpl)
        return raise(c, o, EXC_GP);
    c->cur = o;
    return !(cpu_icpt_on(c, what) && cpu_intercept(c, o, what, edx_eax(c) & c->xss));
}
static bool xsave(struct cpu *c, const struct op *o, bool rex_w, unsigned how)
{
    uint8_t buf[AREA_MAX], *p;
    struct op_pieces at;
    if (!xsave_available(c, o) || ((how & SAVE_SUPERVISOR) && !supervisor_ok(c, o, ICPT_XSAVES)))
        return false;
    uint64_t rfbm = edx_eax(c) & (c->xcr0 | (how & SAVE_SUPERVISOR ? c->xss : 0));
    uint64_t xcomp = how & SAVE_COMPACT ? rfbm | COMPACTED : 0;
    uint64_t inuse = xinuse(c, rfbm);
    /* MXCSR other than its default counts as SSE state in use. */
    if ((rfbm & XSTATE_SSE) && c->mxcsr != MXCSR_DEFAULT)
        inuse |= XSTATE_SSE;
    unsigned size = model_xsave_size(rfbm, how & SAVE_COMPACT);
    uint64_t write = how & SAVE_OPT ? rfbm & inuse : rfbm;
    /* MXCSR belongs to SSE and AVX alike in the standard format, to SSE alone in the compacted one. */
    bool mxcsr = how & SAVE_COMPACT ? write & XSTATE_SSE : rfbm & (XSTATE_SSE | XSTATE_YMM);
    unsigned parts = PART_ALWAYS | PART_HEADER | (unsigned)write | (mxcsr ? PART_MXCSR | PART_MXCSR_MASK : 0) |
                     (how & SAVE_COMPACT ? PART_XCOMP : 0);
    if (!(p = area_for_write(c, o, size, 64, parts, buf, &at)))
        return false;
    if (write & XSTATE_X87)
        fpu_x87_to_image(c, p, rex_w);
    if (mxcsr) {
        store32(p + 24, c->mxcsr);
        store32(p + 28, fpu_mxcsr_mask(c));
    }
    if (write & XSTATE_SSE)
        for (unsigned i = 0; i < xmm_count(c); i++)
            memcpy(p + 160 + 16 * i, &c->v[i], 16);
    for (unsigned i = 2; i < 63; i++)
        if (write & BIT(i))
            component_save(c, i, p + component_offset(i, xcomp));
    if (how & SAVE_COMPACT) {
        store64(p + 512, rfbm & inuse);
        store64(p + 520, xcomp);
    } else {
        store64(p + 512, (load64(p + 512) & ~rfbm) | (rfbm & inuse));
    }
    return area_done(c, o, p, buf, &at);
}

/* --- restoring: XRSTOR, XRSTORS
 * ------------------------------------------------------------------------------------------------------------ */
static bool xrstor(struct cpu *c, const struct op *o, bool rex_w, bool supervisor)
{
    uint8_t p[AREA_MAX];
    if (!xsave_available(c, o) || (supervisor && !supervisor_ok(c, o, ICPT_XRSTORS)))
        return false;
    uint64_t all = c->xcr0 | (supervisor ? c->xss : 0), rfbm = edx_eax(c) & all;
    unsigned header = PART_ALWAYS | PART_HEADER | PART_XCOMP | PART_HEADER3;
    struct op_pieces at;
    if (!op_parts_find(c, o, 576, 64, MMU_READ, area_parts, header, &at) || !op_parts_read(c, o, &at, p))
        return false;
    uint64_t bv = load64(p + 512), xcomp = load64(p + 520);
    bool compacted = xcomp & COMPACTED;
    if (supervisor ? !compacted : compacted && !model_has(c->model, FEATURE_xsavec))
        return raise(c, o, EXC_GP);
    if (compacted ? (xcomp & ~COMPACTED & ~all) || (bv & ~(xcomp & ~COMPACTED)) || !zero(p + 528, 48)
                  : (bv & ~all) || !zero(p + 520, 16))
        return raise(c, o, EXC_GP);
    unsigned size = model_xsave_size(compacted ? xcomp & ~COMPACTED : rfbm & bv, compacted);
    bool load_mxcsr = compacted ? (rfbm & bv & XSTATE_SSE) != 0 : (rfbm & (XSTATE_SSE | XSTATE_YMM)) != 0;
    unsigned parts = header | (unsigned)(rfbm & bv) | (load_mxcsr ? PART_MXCSR : 0);
    if ((size > 576 || at.len[1]) && !op_ld_parts(c, o, p, size, 64, area_parts, parts))
        return false;
    if (load_mxcsr && (load32(p + 24) & ~fpu_mxcsr_mask(c)))
        return raise(c, o, EXC_GP);

    if (rfbm & XSTATE_X87) {
        if (bv & XSTATE_X87)
            fpu_x87_from_image(c, p, rex_w);
        else
            x87_initial(c);
    }
    if (load_mxcsr)
        c->mxcsr = load32(p + 24);
    else if (rfbm & XSTATE_SSE)
        c->mxcsr = MXCSR_DEFAULT;
    if (rfbm & XSTATE_SSE) {
        if (bv & XSTATE_SSE)
            for (unsigned i = 0; i < xmm_count(c); i++)
                memcpy(&c->v[i], p + 160 + 16 * i, 16);
        else
            sse_initial(c);
    }
    for (unsigned i = 2; i < 63; i++)
        if (rfbm & BIT(i))
            component_restore(c, i, bv & BIT(i) ? p + component_offset(i, xcomp) : NULL);
    return true;
}

#define XSAVE_OP(mn, call)                                                                                             \
    HANDLER(op_##mn)                                                                                                   \
    {                                                                                                                  \
        return call;                                                                                                   \
    }                                                                                                                  \
    op_fn *sel_##mn(const struct decoded *d, struct op *o)                                                             \
    {                                                                                                                  \
        return op_##mn;                                                                                                \
    }
XSAVE_OP(XSAVE, xsave(c, o, false, 0))
XSAVE_OP(XSAVE64, xsave(c, o, true, 0))
XSAVE_OP(XSAVEOPT, xsave(c, o, false, SAVE_OPT))
XSAVE_OP(XSAVEOPT64, xsave(c, o, true, SAVE_OPT))
XSAVE_OP(XSAVEC, xsave(c, o, false, SAVE_OPT | SAVE_COMPACT))
XSAVE_OP(XSAVEC64, xsave(c, o, true, SAVE_OPT | SAVE_COMPACT))
XSAVE_OP(XSAVES, xsave(c, o, false, SAVE_OPT | SAVE_COMPACT | SAVE_SUPERVISOR))
XSAVE_OP(XSAVES64, xsave(c, o, true, SAVE_OPT | SAVE_COMPACT | SAVE_SUPERVISOR))
XSAVE_OP(XRSTOR, xrstor(c, o, false, false))
XSAVE_OP(XRSTOR64, xrstor(c, o, true, false))
XSAVE_OP(XRSTORS, xrstor(c, o, false, true))
XSAVE_OP(XRSTORS64, xrstor(c, o, true, true))
