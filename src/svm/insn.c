/* SPDX-License-Identifier: MIT
 *
 * insn.c: SVM's instructions and MSRs. Faults and intercepts stand in the order of the APM's pseudo-code: #UD, #GP for
 * CPL, #GP for the address, intercept.
 *
 * APM volume 3, "CLGI", "INVLPGA", "SKINIT", "STGI", "VMLOAD", "VMMCALL", "VMRUN", "VMSAVE"; volume 2, chapter "Secure
 * Virtual Machine", "SVM Related MSRs", "Virtualizing VMLOAD and VMSAVE", "Virtual GIF".
 */
#include "src/cpu/op.h"
#include "src/svm/svm_cpu.h"

#include <stdlib.h>

/* Protected mode with SVM enabled, CPL 0. `skinit`: STGI and SKINIT exist without EFER.SVME where CPUID has SKINIT. */
static bool permitted(struct cpu *c, bool skinit)
{
    bool enabled = (c->efer & EFER_SVME) || (skinit && model_has(c->model, FEATURE_skinit));
    if (!c->svm || !enabled || !(c->cr0 & CR0_PE) || (c->rflags_rest & FLAG_VM))
        return cpu_raise(c, EXC_UD, 0);
    if (c->cpl)
        return cpu_raise(c, EXC_GP, 0);
    return true;
}

/* True: not intercepted, go on. */
static bool passes(struct cpu *c, enum icpt what)
{
    if (likely(!cpu_icpt_on(c, what)))
        return true;
    if (c->cur)
        cpu_sync(c);
    return !c->guest->insn(c, what, 0);
}

/* The VMCB's page at the physical address of rAX: aligned and supported, which here means plain writable memory. */
static struct vmcb *vmcb_page(struct cpu *c, uint64_t pa)
{
    struct vmcb *v = NULL;
    if (!(pa & PAGE_OFFSET) && !(pa & ~mask_low(c->model->maxphyaddr)))
        v = (struct vmcb *)(void *)mem_host(c->mem, HPA(pa), sizeof *v, true);
    if (!v)
        cpu_raise(c, EXC_GP, 0);
    return v;
}

bool svm_vmrun(struct cpu *c, uint64_t pa)
{
    if (!permitted(c, false))
        return false;
    struct vmcb *v = vmcb_page(c, pa);
    if (!v || !passes(c, ICPT_VMRUN))
        return false;
    if (!c->msr.vm_hsave_pa) /* "Host State-Save Area": 0 is not a valid address */
        return cpu_raise(c, EXC_GP, 0);
    if (c->cur)
        cpu_sync_next(c);
    svm_enter(c, pa, v);
    return true;
}

/* --- VMLOAD and VMSAVE ------------------------------------------------------------------------------------------ */

/* In a guest without the intercept rAX is a host physical address, as APM warns; with virtual VMLOAD and VMSAVE it is a
 * guest's, translated by the nested tables. NULL: raised or exited. */
static struct vmcb *state_page(struct cpu *c, uint64_t pa, enum icpt what, bool write)
{
    struct svm_cpu *s = c->svm;
    if (!c->guest || !s->v_vmload || !(s->virt_ext & VMCB_VIRT_VMSAVE_VMLOAD)) {
        struct vmcb *v = vmcb_page(c, pa);
        return v && passes(c, what) ? v : NULL;
    }
    if ((pa & PAGE_OFFSET) || (pa & ~mask_low(c->model->maxphyaddr))) {
        cpu_raise(c, EXC_GP, 0);
        return NULL;
    }
    if (!passes(c, what))
        return NULL;
    if (c->cur)
        cpu_sync(c);
    /* It works for a 64-bit guest under nested paging; another guest's attempt exits. */
    if (!(c->efer & EFER_LMA) || c->second.kind != MMU_SECOND_NPT) {
        svm_exit_insn(c, what == ICPT_VMLOAD ? SVM_EXIT_VMLOAD : SVM_EXIT_VMSAVE, 0, 0);
        return NULL;
    }
    struct mmu_result r;
    struct mmu_fault f;
    if (mmu_translate_gpa(c->mem, &c->second, GPA(pa), write ? MMU_WRITE : MMU_READ, true, false, &r, &f) != MMU_OK) {
        c->guest->second_fault(c, &f, LA(0), write ? MMU_WRITE : MMU_READ);
        return NULL;
    }
    struct vmcb *v = (struct vmcb *)(void *)mem_host(c->mem, r.hpa, sizeof *v, true);
    if (!v)
        cpu_raise(c, EXC_GP, 0);
    return v;
}

static const uint8_t moved_seg[4] = {SEG_FS, SEG_GS, SEG_TR, SEG_LDTR};

/* By the width of linear addresses that is implemented, whatever the host's CR4.LA57: the state is a guest's. */
static bool wide(const struct cpu *c)
{
    const struct svm_cpu *s = c->svm;
    return s->wide;
}

static uint64_t canonical(const struct cpu *c, uint64_t v)
{
    return sign_extend(v, wide(c) ? 57 : 48);
}

bool svm_vmload(struct cpu *c, uint64_t pa)
{
    if (!permitted(c, false))
        return false;
    const struct op *o = c->cur;
    const struct vmcb *v = state_page(c, pa, ICPT_VMLOAD, false);
    if (!v)
        return false;
    c->cur = o;
    const struct vmcb_save *a = &v->save;
    const struct vmcb_seg *in[4] = {&a->fs, &a->gs, &a->tr, &a->ldtr};
    for (unsigned i = 0; i < 4; i++)
        svm_load_seg(&c->seg[moved_seg[i]], in[i], wide(c));
    c->seg[SEG_TR].ar = (c->seg[SEG_TR].ar | AR_P) & ~AR_UNUSABLE; /* never null */
    c->msr.kernel_gs_base = canonical(c, a->kernel_gs_base);
    c->msr.star = a->star;
    c->msr.lstar = canonical(c, a->lstar);
    c->msr.cstar = canonical(c, a->cstar);
    c->msr.sfmask = (uint32_t)a->sfmask;
    c->msr.sysenter_cs = (uint32_t)a->sysenter_cs;
    c->msr.sysenter_esp = canonical(c, a->sysenter_esp);
    c->msr.sysenter_eip = canonical(c, a->sysenter_eip);
    cpu_update_mode(c);
    return true;
}

bool svm_vmsave(struct cpu *c, uint64_t pa)
{
    if (!permitted(c, false))
        return false;
    const struct op *o = c->cur;
    struct vmcb *v = state_page(c, pa, ICPT_VMSAVE, true);
    if (!v)
        return false;
    c->cur = o;
    struct vmcb_save *a = &v->save;
    struct vmcb_seg *out[4] = {&a->fs, &a->gs, &a->tr, &a->ldtr};
    for (unsigned i = 0; i < 4; i++)
        svm_save_seg(out[i], &c->seg[moved_seg[i]]);
    a->kernel_gs_base = c->msr.kernel_gs_base;
    a->star = c->msr.star;
    a->lstar = c->msr.lstar;
    a->cstar = c->msr.cstar;
    a->sfmask = c->msr.sfmask;
    a->sysenter_cs = c->msr.sysenter_cs;
    a->sysenter_esp = c->msr.sysenter_esp;
    a->sysenter_eip = c->msr.sysenter_eip;
    return true;
}

/* --- the others --------------------------------------------------------------------------------------------------- */

static bool set_gif(struct cpu *c, bool on)
{
    struct svm_cpu *s = c->svm;
    if (c->guest && s->vgif && (s->vintr & VMCB_VINTR_GIF_ENABLE)) {
        s->vintr = on ? s->vintr | VMCB_VINTR_GIF : s->vintr & ~VMCB_VINTR_GIF;
    } else {
        c->gif = on;
        if (on)
            cpu_attend(c, ATT_INTR | (c->nmi_pending ? ATT_NMI : 0) | (c->smi_pending ? ATT_SMI : 0) |
                              (c->init_pending ? ATT_INIT : 0));
    }
    if (on && c->guest)
        svm_attend_virtual(c);
    return true;
}

bool svm_stgi(struct cpu *c)
{
    return permitted(c, true) && passes(c, ICPT_STGI) && set_gif(c, true);
}

bool svm_clgi(struct cpu *c)
{
    return permitted(c, false) && passes(c, ICPT_CLGI) && set_gif(c, false);
}

bool svm_vmmcall(struct cpu *c)
{
    /* At any CPL and in any mode; #UD unless intercepted. */
    if (!passes(c, ICPT_VMMCALL))
        return false;
    return cpu_raise(c, EXC_UD, 0);
}

/* "TLB Management", INVLPGA: the translation of la in the address space of ASID, whatever its nCR3 and PCID. */
bool svm_invlpga(struct cpu *c, uint64_t la, uint32_t asid)
{
    if (!permitted(c, false) || !passes(c, ICPT_INVLPGA))
        return false;
    if (!mmu_canonical(la, c->cr4 & CR4_LA57)) /* nothing is mapped there */
        return true;
    for (unsigned n = 0; n < TLB_BANKS; n++) {
        const struct tlb_bank *b = &c->tlbs.bank[n];
        if (b->used && b->ctx.vpid == asid) {
            struct tlb_context ctx = b->ctx;
            tlb_flush_page(&c->tlbs, &ctx, LA(la), true);
        }
    }
    code_set_key(c);
    return true;
}

/* "Secure Startup with SKINIT". DEVIATION: there is no TPM; the measurement goes nowhere and the secure loader starts.
 */
bool svm_skinit(struct cpu *c, uint32_t eax)
{
    if (!permitted(c, true) || !passes(c, ICPT_SKINIT))
        return false;
    if (c->cur)
        cpu_sync_next(c);
    uint32_t slb = eax & 0xffff0000;
    uint16_t header[2];
    mem_read(c->mem, HPA(slb), header, sizeof header); /* entry point, length */
    cpu_reset(c, true);
    memset(c->gpr, 0, sizeof c->gpr);
    uint32_t out[4];
    cpu_cpuid(c, 1, 0, out);
    c->gpr[GPR_RAX] = slb;
    c->gpr[GPR_RDX] = out[0];
    c->gpr[GPR_RSP] = (uint32_t)(slb + 0x10000);
    c->cr0 = CR0_ET | CR0_PE;
    c->efer = 0;
    c->seg[SEG_CS] = (struct seg){.sel = 8, .limit = 0xffffffff, .ar = 0xb | AR_S | AR_P | AR_DB | AR_G};
    c->seg[SEG_SS] = (struct seg){.sel = 16, .limit = 0xffffffff, .ar = 0x3 | AR_S | AR_P | AR_DB | AR_G};
    c->cpl = 0;
    c->rip = (uint32_t)(slb + header[0]);
    c->msr.vm_cr |= SVM_VM_CR_DPD | SVM_VM_CR_R_INIT | SVM_VM_CR_DIS_A20M;
    c->gif = false;
    c->activity = ACTIVITY_ACTIVE;
    cpu_update_translation(c);
    return true;
}

/* --- handlers ------------------------------------------------------------------------------------------------------
 */

static uint64_t rax_address(const struct cpu *c, const struct op *o)
{
    return c->gpr[GPR_RAX] & op_amask(o);
}

static void finish(struct cpu *c, const struct op *o, bool done)
{
    if (!done)
        return;
    c->cur = NULL;
    END_NEXT(c, o);
}

static void op_vmrun(struct cpu *c, const struct op *o)
{
    c->cur = o;
    svm_vmrun(c, rax_address(c, o));
}
static void op_vmload(struct cpu *c, const struct op *o)
{
    c->cur = o;
    finish(c, o, svm_vmload(c, rax_address(c, o)));
}
static void op_vmsave(struct cpu *c, const struct op *o)
{
    c->cur = o;
    finish(c, o, svm_vmsave(c, rax_address(c, o)));
}
static void op_stgi(struct cpu *c, const struct op *o)
{
    c->cur = o;
    finish(c, o, svm_stgi(c));
}
static void op_clgi(struct cpu *c, const struct op *o)
{
    c->cur = o;
    finish(c, o, svm_clgi(c));
}
static void op_vmmcall(struct cpu *c, const struct op *o)
{
    c->cur = o;
    svm_vmmcall(c);
}
static void op_skinit(struct cpu *c, const struct op *o)
{
    c->cur = o;
    svm_skinit(c, (uint32_t)c->gpr[GPR_RAX]);
}
static void op_invlpga(struct cpu *c, const struct op *o)
{
    c->cur = o;
    finish(c, o, svm_invlpga(c, rax_address(c, o), (uint32_t)c->gpr[GPR_RCX]));
}

/* --- MSRs -----------------------------------------------------------------------------------------------------------
 */

static bool on_rdmsr(struct cpu *c, uint32_t msr, uint64_t *v, bool *fault)
{
    const struct svm_cpu *s = c->svm;
    *fault = false;
    switch (msr) {
    case SVM_MSR_VM_CR: *v = c->msr.vm_cr; return true;
    case SVM_MSR_IGNNE: *v = c->msr.ignne; return true;
    case SVM_MSR_VM_HSAVE_PA: *v = c->msr.vm_hsave_pa; return true;
    case SVM_MSR_KEY: *v = 0; return true;
    case SVM_MSR_SMM_CTL: *fault = true; return true; /* write-only */
    case SVM_MSR_TSC_RATIO:
        *fault = !s->tsc_rate;
        *v = c->msr.tsc_ratio;
        return true;
    default: return false;
    }
}

static bool on_wrmsr(struct cpu *c, uint32_t msr, uint64_t v, bool *fault)
{
    struct svm_cpu *s = c->svm;
    *fault = false;
    switch (msr) {
    case SVM_MSR_EFER:
        /* "VM_CR MSR": with SVMDIS set EFER.SVME must be zero. The rest is the processor's. */
        *fault = (c->msr.vm_cr & SVM_VM_CR_SVMDIS) && (v & EFER_SVME);
        return *fault;
    case SVM_MSR_VM_CR: {
        const uint64_t locked = SVM_VM_CR_LOCK | SVM_VM_CR_SVMDIS;
        if ((v & ~0x1full) || (!(c->msr.vm_cr & SVM_VM_CR_LOCK) && (v & SVM_VM_CR_SVMDIS) && (c->efer & EFER_SVME))) {
            *fault = true;
            return true;
        }
        if (c->msr.vm_cr & SVM_VM_CR_LOCK)
            v = (v & ~locked) | (c->msr.vm_cr & locked);
        c->msr.vm_cr = v;
        return true;
    }
    case SVM_MSR_IGNNE: c->msr.ignne = v & 1; return true;
    case SVM_MSR_VM_HSAVE_PA:
        *fault = (v & PAGE_OFFSET) || (v & ~mask_low(c->model->maxphyaddr));
        if (!*fault)
            c->msr.vm_hsave_pa = v;
        return true;
    case SVM_MSR_KEY:
        /* "SVM_KEY MSR": the key that unlocks; a key of 0 never does. */
        *fault = !model_has(c->model, FEATURE_svm_lock);
        if (!*fault) {
            if (!(c->msr.vm_cr & SVM_VM_CR_LOCK))
                s->key = v;
            else if (s->key && s->key == v)
                c->msr.vm_cr &= ~(uint64_t)SVM_VM_CR_LOCK;
        }
        return true;
    case SVM_MSR_SMM_CTL: cpu_smm_command(c, v & 0x1f); return true;
    case SVM_MSR_TSC_RATIO:
        *fault = !s->tsc_rate || v >> 40;
        if (!*fault)
            c->msr.tsc_ratio = v;
        return true;
    default: return false;
    }
}

/* --- life -----------------------------------------------------------------------------------------------------------
 */

static void on_reset(struct cpu *c)
{
    struct svm_cpu *s = c->svm;
    s->vmcb = NULL;
    s->cached_pa = s->last_pa = SVM_NO_PA;
    s->tlb_mode.asid = 0;
    c->gif = true;
    if (!c->msr.tsc_ratio)
        c->msr.tsc_ratio = SVM_TSC_RATIO_ONE;
    if (c->guest) {
        c->guest = NULL;
        c->icpt = 0;
        c->vpid = 0;
        c->second.kind = MMU_SECOND_NONE;
    }
}

/* "VM_CR MSR", R_INIT: INIT is turned into #SX. */
static bool on_init_blocked(struct cpu *c)
{
    if (c->guest || !(c->msr.vm_cr & SVM_VM_CR_R_INIT))
        return false;
    c->init_pending = false;
    struct cpu_event ev = {.valid = true, .vector = EXC_SX, .type = EVENT_HWEXC, .has_error = true, .error = 1};
    c->exc = ev;
    cpu_handle_exception(c);
    return true;
}

static const struct virt_ops svm_virt_ops = {
    .insn =
        {
            [VIRT_VMRUN] = op_vmrun,
            [VIRT_VMLOAD] = op_vmload,
            [VIRT_VMSAVE] = op_vmsave,
            [VIRT_STGI] = op_stgi,
            [VIRT_CLGI] = op_clgi,
            [VIRT_VMMCALL] = op_vmmcall,
            [VIRT_SKINIT] = op_skinit,
            [VIRT_INVLPGA] = op_invlpga,
        },
    .rdmsr = on_rdmsr,
    .wrmsr = on_wrmsr,
    .init_blocked = on_init_blocked,
    .reset = on_reset,
};

bool svm_attach(struct cpu *c)
{
    const struct model *m = c->model;
    if (!model_has(m, FEATURE_svm))
        return true;
    struct svm_cpu *s = calloc(1, sizeof *s);
    if (!s)
        return false;
    svm_caps_init(&s->caps, m);
    s->check.caps = &s->caps;
    s->clean_bits = model_has(m, FEATURE_vmcb_clean);
    s->nrips = model_has(m, FEATURE_nrip_save);
    s->decode = model_has(m, FEATURE_decodeassists);
    s->lbr = model_has(m, FEATURE_lbrv);
    s->vgif = model_has(m, FEATURE_vgif);
    s->vnmi = model_has(m, FEATURE_vnmi);
    s->idle_hlt = model_has(m, FEATURE_idle_hlt);
    s->v_vmload = model_has(m, FEATURE_v_vmsave_vmload);
    s->v_spec_ctrl = model_has(m, FEATURE_v_spec_ctrl);
    s->pause_filter = model_has(m, FEATURE_pausefilter);
    s->pause_thresh = model_has(m, FEATURE_pfthreshold);
    s->tsc_rate = model_has(m, FEATURE_tsc_scale);
    s->gmet = model_has(m, FEATURE_gmet);
    s->wide = model_has(m, FEATURE_la57);
    s->cached_pa = s->last_pa = SVM_NO_PA;
    c->svm = s;
    c->virt = &svm_virt_ops;
    on_reset(c);
    return true;
}

void svm_detach(struct cpu *c)
{
    free(c->svm);
    c->svm = NULL;
}
