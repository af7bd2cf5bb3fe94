/* SPDX-License-Identifier: MIT
 *
 * fpu.c: the x87 and SSE state as a whole: reset, tag words, the status summary, the legacy image; and the checks
 * before MMX and SSE instructions.
 *
 * Registers are kept by physical number; images hold them in stack order. Of the tag word only "empty" is state: the
 * rest is computed from the register, as on silicon (SDM volume 1, "x87 FPU Tag Word").
 */
#include "src/cpu/fpu.h"
#include "src/cpu/simd.h"

bool sse_unavailable(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if ((c->cr0 & CR0_EM) || !(c->cr4 & CR4_OSFXSR))
        return cpu_raise(c, EXC_UD, 0);
    return cpu_raise(c, EXC_NM, 0);
}

bool mmx_unavailable(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (c->cr0 & CR0_EM)
        return cpu_raise(c, EXC_UD, 0);
    if (c->cr0 & CR0_TS)
        return cpu_raise(c, EXC_NM, 0);
    return fpu_pending(c, o);
}

/* An unmasked x87 exception is pending at a waiting instruction. CR0.NE = 0: FERR# and an external interrupt report it
 * (SDM volume 3A, "x87 FPU Floating-Point Error (#MF)", volume 1, "MS-DOS Compatibility Sub-mode"): the processor
 * freezes before the instruction until an interrupt comes, unless IGNNE# is given or nothing is wired to FERR#. */
bool fpu_pending(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (c->cr0 & CR0_NE)
        return cpu_raise(c, EXC_MF, 0);
    if (cpu_icpt_on(c, ICPT_FERR) && cpu_intercept(c, o, ICPT_FERR, 0))
        return false;
    if (!c->ferr || c->ignne || c->msr.ignne) {
        c->cur = NULL;
        return true;
    }
    c->ferr(c->ferr_opaque);
    cpu_sync(c);
    c->icount++;
    c->activity = ACTIVITY_HLT;
    cpu_attend(c, ATT_INTR);
    return false;
}

void fpu_x87_init(struct cpu *c)
{
    c->x87.cw = 0x37f;
    c->x87.sw = 0;
    c->x87.top = 0;
    c->x87.tag = 0;
    c->x87.fop = 0;
    c->x87.fip = c->x87.fdp = 0;
    c->x87.fcs = c->x87.fds = 0;
    fpu_no_error(c);
}

/* SDM volume 3A, "Processor State After Reset": INIT leaves the x87, MMX and XMM registers alone. */
void cpu_fpu_reset(struct cpu *c, bool init)
{
    if (init)
        return;
    memset(&c->x87, 0, sizeof c->x87);
    memset(c->v, 0, sizeof c->v);
    c->x87.cw = 0x40;
    c->x87.tag = 0xff; /* the tag word is 5555H: every register holds zero */
    fpu_no_error(c);
    c->mxcsr = MXCSR_DEFAULT;
}

uint32_t fpu_mxcsr_mask(const struct cpu *c)
{
    return 0xffff | (model_has(c->model, FEATURE_misalignsse) ? (uint32_t)MXCSR_MM : 0);
}

void fpu_update_summary(struct cpu *c)
{
    c->mf_pending = c->x87.sw & ~c->x87.cw & 0x3f;
    c->ignne &= c->mf_pending;
    c->x87.sw = (uint16_t)((c->x87.sw & ~(X87_ES | X87_B)) | (c->mf_pending ? X87_ES | X87_B : 0));
}

void fpu_set_sw(struct cpu *c, uint16_t sw)
{
    c->x87.sw = sw & 0x47ff;
    c->x87.top = sw >> 11 & 7;
    fpu_update_summary(c);
}

uint16_t fpu_full_tags(const struct cpu *c)
{
    unsigned tags = 0;
    for (unsigned i = 0; i < 8; i++) {
        const struct f80 *r = &c->x87.st[i];
        unsigned t = 3;
        if (c->x87.tag >> i & 1) {
            unsigned e = r->sexp & 0x7fff;
            if (!e && !r->frac)
                t = 1;
            else
                t = e && e != 0x7fff && r->frac >> 63 ? 0 : 2;
        }
        tags |= t << (2 * i);
    }
    return (uint16_t)tags;
}

void fpu_set_full_tags(struct cpu *c, uint16_t tags)
{
    c->x87.tag = 0;
    for (unsigned i = 0; i < 8; i++)
        if ((tags >> (2 * i) & 3) != 3)
            c->x87.tag |= (uint8_t)(1u << i);
}

/* AMD processors leave FIP, FDP and FOP alone unless an exception is pending (APM volume 2, "FXSAVE and FXRSTOR
 * Instructions"), until CPUID says otherwise. */
static bool error_pointers(const struct cpu *c, uint16_t sw)
{
    return (sw & X87_ES) || !model_is_amd(c->model) || model_has(c->model, FEATURE_xsaveerptr);
}

void fpu_x87_to_image(const struct cpu *c, uint8_t *p, bool rex_w)
{
    const struct x87 *x = &c->x87;
    store16(p, x->cw);
    store16(p + 2, fpu_sw(c));
    p[4] = x->tag;
    p[5] = 0;
    if (error_pointers(c, x->sw)) {
        bool no_sel = model_has(c->model, FEATURE_zero_fcs_fds);
        store16(p + 6, x->fop);
        if (rex_w) {
            store64(p + 8, x->fip);
            store64(p + 16, x->fdp);
        } else {
            store64(p + 8, (uint32_t)x->fip | (uint64_t)(no_sel ? 0 : x->fcs) << 32);
            store64(p + 16, (uint32_t)x->fdp | (uint64_t)(no_sel ? 0 : x->fds) << 32);
        }
    }
    for (unsigned i = 0; i < 8; i++) {
        const struct f80 *r = &x->st[(x->top + i) & 7];
        store64(p + 32 + 16 * i, r->frac);
        store64(p + 40 + 16 * i, r->sexp);
    }
}

void fpu_x87_from_image(struct cpu *c, const uint8_t *p, bool rex_w)
{
    struct x87 *x = &c->x87;
    x->cw = (load16(p) & 0x1f3f) | 0x40;
    fpu_set_sw(c, load16(p + 2));
    x->tag = p[4];
    if (error_pointers(c, x->sw)) {
        x->fop = load16(p + 6) & 0x7ff;
        if (rex_w) {
            x->fip = load64(p + 8);
            x->fdp = load64(p + 16);
            x->fcs = x->fds = 0;
        } else {
            x->fip = load32(p + 8);
            x->fcs = load16(p + 12);
            x->fdp = load32(p + 16);
            x->fds = load16(p + 20);
        }
    }
    for (unsigned i = 0; i < 8; i++) {
        struct f80 *r = &x->st[(x->top + i) & 7];
        r->frac = load64(p + 32 + 16 * i);
        r->sexp = load16(p + 40 + 16 * i);
    }
}

/* --- the host's own state
 * ---------------------------------------------------------------------------------------------- */
/* MXCSR: ops_sse_fp.c leaves the guest's in place. x87: the stack may be in use, if the host is code that was
 * interrupted: it is saved and emptied by the first computation of a run. */
void cpu_fpu_enter(struct cpu *c)
{
#if HOST_X86
    __asm__ volatile("stmxcsr %0" : "=m"(c->host_mxcsr));
#endif
    c->host_x87_saved = false;
}
void cpu_fpu_leave(struct cpu *c)
{
#if HOST_X86
    uint32_t now;
    __asm__ volatile("stmxcsr %0" : "=m"(now));
    if (now != c->host_mxcsr)
        __asm__ volatile("ldmxcsr %0" : : "m"(c->host_mxcsr));
    if (c->host_x87_saved)
        __asm__ volatile("frstor %0" : : "m"(c->host_x87));
#endif
    c->host_x87_saved = false;
}
void fpu_host_x87_save(struct cpu *c)
{
#if HOST_X86
    __asm__ volatile("fnsave %0" : "=m"(c->host_x87));
#endif
    c->host_x87_saved = true;
}
