/* SPDX-License-Identifier: MIT
 *
 * svm.c: the SVM half of hv.h (APM Vol. 2, "Secure Virtual Machine").
 *
 * The VMCB is ordinary memory: guest state is read and written there, and whoever changes a group clears its clean bit.
 * The world switch is CLGI, VMLOAD, VMRUN, VMSAVE, STGI; the host's interrupts are enabled in RFLAGS.IF before VMRUN,
 * so that a physical interrupt (the host timer) leaves the guest, and are taken at STGI.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vmenter/intrin.h>
#include <vmenter/svm.h>

#include "vmm/vm.h"

struct hv_svm_state {
    struct vmcb *vmcb;
    uint64_t vmcb_pa;
    uint8_t *msrpm;
    uint64_t host_pa; /* the host's FS, GS, TR, ... across the guest */
    uint32_t features;
    bool flush;
    bool nmi_blocked, nmi_iret; /* an NMI handler runs; its IRET was seen and has not completed */
};

static struct vmcb_control *ctl(struct vmm *v)
{
    return &v->svm->vmcb->control;
}
static struct vmcb_save *save(struct vmm *v)
{
    return &v->svm->vmcb->save;
}

static bool svm_check(struct vmm *v)
{
    int r[4];
    __cpuidex(r, (int)0x80000001, 0);
    if (!(r[2] & (int)SVM_CPUID_ECX_SVM)) {
        snprintf(v->error, sizeof(v->error),
                 "this processor model has no SVM: choose another --cpu (vmenter cpus lists them)");
        return false;
    }
    if (__readmsr(SVM_MSR_VM_CR) & SVM_VM_CR_SVMDIS) {
        snprintf(v->error, sizeof(v->error), "SVM is disabled in VM_CR: the firmware locked it");
        return false;
    }
    __cpuidex(r, (int)0x8000000a, 0);
    v->svm->features = (uint32_t)r[3];
    if (!(r[3] & (int)SVM_CPUID_NP)) {
        snprintf(v->error, sizeof(v->error),
                 "this processor model has no nested paging, which the VMM needs: choose another --cpu");
        return false;
    }
    return true;
}

static bool svm_init(struct vmm *v)
{
    static const unsigned intercepts[] = {
        SVM_EXIT_INTR,         SVM_EXIT_NMI,           SVM_EXIT_SMI,     SVM_EXIT_INIT,        SVM_EXIT_CPUID,
        SVM_EXIT_HLT,          SVM_EXIT_INVD,          SVM_EXIT_IOIO,    SVM_EXIT_MSR,         SVM_EXIT_SHUTDOWN,
        SVM_EXIT_VMRUN,        SVM_EXIT_VMMCALL,       SVM_EXIT_VMLOAD,  SVM_EXIT_VMSAVE,      SVM_EXIT_STGI,
        SVM_EXIT_CLGI,         SVM_EXIT_SKINIT,        SVM_EXIT_WBINVD,  SVM_EXIT_MONITOR,     SVM_EXIT_MWAIT,
        SVM_EXIT_XSETBV,       SVM_EXIT_RDPMC,         SVM_EXIT_INVLPGA, SVM_EXIT_FERR_FREEZE, SVM_EXIT_RDPRU,
        SVM_EXIT_CR0_READ + 8, SVM_EXIT_CR0_WRITE + 8,
    };
    const struct second_format npt = {.table = 7, .leaf = 7, .large = 7 | 0x80}; /* present, writable, user */
    uint64_t pa, iopm_pa, msrpm_pa, hsave_pa;
    v->svm = calloc(1, sizeof(*v->svm));
    if (!v->svm || !svm_check(v)) {
        free(v->svm);
        v->svm = NULL;
        return false;
    }
    v->svm->vmcb = mem_alloc(v, 1, &pa);
    uint8_t *iopm = mem_alloc(v, SVM_IOPM_SIZE / VMM_PAGE, &iopm_pa);
    v->svm->msrpm = mem_alloc(v, SVM_MSRPM_SIZE / VMM_PAGE, &msrpm_pa);
    if (!mem_alloc(v, 1, &hsave_pa) || !mem_alloc(v, 1, &v->svm->host_pa) || !mem_build_second(v, &npt)) {
        free(v->svm);
        v->svm = NULL;
        return false;
    }
    v->svm->vmcb_pa = pa;
    memset(iopm, 0xff, SVM_IOPM_SIZE);
    memset(v->svm->msrpm, 0xff, SVM_MSRPM_SIZE);

    __writemsr(SVM_MSR_EFER, __readmsr(SVM_MSR_EFER) | SVM_EFER_SVME);
    __writemsr(SVM_MSR_VM_HSAVE_PA, hsave_pa);

    for (unsigned i = 0; i < sizeof(intercepts) / sizeof(*intercepts); i++) {
        vmcb_set_intercept(v->svm->vmcb, intercepts[i]);
    }
    struct vmcb_control *c = ctl(v);
    c->iopm_base_pa = iopm_pa;
    c->msrpm_base_pa = msrpm_pa;
    c->guest_asid = 1;
    c->nested_ctl = VMCB_NP_ENABLE;
    c->ncr3 = v->second;
    c->vintr = VMCB_VINTR_MASKING;
    save(v)->efer = SVM_EFER_SVME;
    save(v)->dr6 = 0xffff0ff0;
    v->svm->flush = true;
    return true;
}

static void svm_off(struct vmm *v)
{
    if (v->svm) {
        __writemsr(SVM_MSR_EFER, __readmsr(SVM_MSR_EFER) & ~SVM_EFER_SVME);
        free(v->svm);
        v->svm = NULL;
    }
}

static bool svm_enter(struct vmm *v, uint64_t until)
{
    struct vmcb_control *c = ctl(v);
    c->tlb_control = !v->svm->flush                            ? VMCB_TLB_NOTHING
                     : v->svm->features & SVM_CPUID_FLUSH_ASID ? VMCB_TLB_FLUSH_ASID
                                                               : VMCB_TLB_FLUSH_ALL;
    v->svm->flush = false;
    c->vintr = (c->vintr & ~VMCB_VINTR_TPR_MASK) | lapic_get_tpr(&v->lapic);
    save(v)->rax = v->regs.rax;
    save(v)->rsp = v->regs.reg[REG_RSP];
    host_timer_arm(v, until);

    __svm_clgi();
    _enable();
    __svm_vmsave(v->svm->host_pa);
    __svm_vmload(v->svm->vmcb_pa);
    vmenter_vmrun(v->svm->vmcb_pa, &v->regs);
    __svm_vmsave(v->svm->vmcb_pa);
    __svm_vmload(v->svm->host_pa);
    __svm_stgi(); /* here the host takes what is pending */
    _disable();

    v->regs.rax = save(v)->rax;
    v->regs.reg[REG_RSP] = save(v)->rsp;
    c->clean = v->svm->features & SVM_CPUID_VMCB_CLEAN ? VMCB_CLEAN_ALL & ~VMCB_CLEAN_TPR : 0;
    return true;
}

static void dirty(struct vmm *v, uint32_t group)
{
    ctl(v)->clean &= ~group;
}

/* ---- exits ---------------------------------------------------------------------------------------------------- */

static const char *exit_name(uint64_t code)
{
    static const struct {
        uint64_t first, last;
        const char *name;
    } names[] = {
#define SVM_EXIT(code, name, what, info1, info2)              {(uint64_t)(code), (uint64_t)(code), #name},
#define SVM_EXIT_RANGE(first, last, name, what, info1, info2) {(uint64_t)(first), (uint64_t)(last), #name},
#include <vmenter/arch/svm_exit.def>
    };
    for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++) {
        if (code >= names[i].first && code <= names[i].last) {
            return names[i].name;
        }
    }
    return "unknown exit code";
}

static void svm_decode(struct vmm *v, struct exit *e)
{
    const struct vmcb_control *c = ctl(v);
    *e = (struct exit){.reason = c->exitcode, .info = {c->exitinfo1, c->exitinfo2}, .name = exit_name(c->exitcode)};
    if (v->svm->features & SVM_CPUID_NRIPS && c->nrip > save(v)->rip && c->nrip - save(v)->rip <= 15) {
        e->len = (uint8_t)(c->nrip - save(v)->rip);
    }
    uint64_t in = c->exitintinfo;
    if (in & VMCB_EVENT_VALID && VMCB_EVENT_TYPE(in) != VMCB_EVENT_SOFTINT) {
        e->vectoring = (struct event){.valid = true,
                                      .vector = (uint8_t)VMCB_EVENT_VECTOR(in),
                                      .type = (uint8_t)VMCB_EVENT_TYPE(in),
                                      .has_error = in & VMCB_EVENT_ERROR_VALID,
                                      .error = VMCB_EVENT_ERROR(in)};
        /* INT3 and INTO are executed again instead. */
        if (e->vectoring.type == EVENT_EXCEPTION && (e->vectoring.vector == 3 || e->vectoring.vector == 4)) {
            e->vectoring.valid = false;
        }
    }
    if (v->svm->nmi_iret) { /* there was an instruction since */
        v->svm->nmi_iret = v->svm->nmi_blocked = false;
    }
    switch (c->exitcode) {
    case SVM_EXIT_IRET: /* the end of an NMI handler: the IRET itself comes first */
        e->kind = EXIT_NMI_WINDOW;
        v->svm->nmi_iret = true;
        vmcb_clear_intercept(v->svm->vmcb, SVM_EXIT_IRET);
        dirty(v, VMCB_CLEAN_I);
        break;
    case SVM_EXIT_CPUID: e->kind = EXIT_CPUID; break;
    case SVM_EXIT_HLT: e->kind = EXIT_HLT; break;
    case SVM_EXIT_XSETBV: e->kind = EXIT_XSETBV; break;
    case SVM_EXIT_INVD:
    case SVM_EXIT_WBINVD: e->kind = EXIT_CACHE; break;
    case SVM_EXIT_PAUSE: e->kind = EXIT_PAUSE; break;
    case SVM_EXIT_INTR: e->kind = EXIT_INTERRUPT; break;
    case SVM_EXIT_NMI: e->kind = EXIT_NMI; break;
    case SVM_EXIT_VINTR: e->kind = EXIT_WINDOW; break;
    case SVM_EXIT_SHUTDOWN: e->kind = EXIT_TRIPLE; break;
    case SVM_EXIT_INVALID: e->kind = EXIT_ENTRY_FAILED; break;
    case SVM_EXIT_MSR: e->kind = c->exitinfo1 & 1 ? EXIT_WRMSR : EXIT_RDMSR; break;
    case SVM_EXIT_IOIO:
        e->kind = EXIT_IO;
        e->len = (uint8_t)(c->exitinfo2 - save(v)->rip);
        e->io.port = SVM_IOIO_PORT(c->exitinfo1);
        e->io.size = (uint8_t)SVM_IOIO_SIZE(c->exitinfo1);
        e->io.in = c->exitinfo1 & SVM_IOIO_IN;
        e->io.string = c->exitinfo1 & SVM_IOIO_STR;
        e->io.rep = c->exitinfo1 & SVM_IOIO_REP;
        e->io.addr_size = c->exitinfo1 & SVM_IOIO_A64 ? 8 : c->exitinfo1 & SVM_IOIO_A32 ? 4 : 2;
        e->io.seg = v->svm->features & SVM_CPUID_DECODE ? (uint8_t)SVM_IOIO_SEG(c->exitinfo1) : HV_DS;
        if (e->io.string && !(v->svm->features & SVM_CPUID_DECODE)) {
            e->io.seg = emulate_segment(v);
        }
        break;
    case SVM_EXIT_CR0_READ ... SVM_EXIT_CR0_WRITE + 15: /* CR8 alone is asked for */
        e->kind = EXIT_CR;
        e->cr.cr = c->exitcode & 15;
        e->cr.op = c->exitcode < SVM_EXIT_CR0_WRITE ? CR_MOV_FROM : CR_MOV_TO;
        e->cr.gpr = v->svm->features & SVM_CPUID_DECODE ? (uint8_t)SVM_CR_GPR(c->exitinfo1) : emulate_gpr(v);
        break;
    case SVM_EXIT_NPF:
        e->kind = EXIT_SECOND;
        e->mem.gpa = c->exitinfo2;
        e->mem.write = c->exitinfo1 & SVM_NPF_RW;
        e->mem.fetch = c->exitinfo1 & SVM_NPF_ID;
        e->mem.table = c->exitinfo1 & SVM_NPF_TABLE;
        break;
    case SVM_EXIT_EXCEPTION ... SVM_EXIT_EXCEPTION + 31:
        e->kind = EXIT_EXCEPTION;
        e->exc.vector = c->exitcode & 31;
        e->exc.error = (uint32_t)c->exitinfo1;
        break;
    case SVM_EXIT_RDPMC: e->kind = EXIT_FORBIDDEN; break;
    case SVM_EXIT_VMRUN ... SVM_EXIT_SKINIT:
    case SVM_EXIT_INVLPGA:
    case SVM_EXIT_MONITOR:
    case SVM_EXIT_MWAIT:
    case SVM_EXIT_RDPRU: e->kind = EXIT_UNDEFINED; break;
    default: e->kind = EXIT_UNEXPECTED; break;
    }
}

/* ---- guest state ---------------------------------------------------------------------------------------------- */

static uint64_t svm_get(struct vmm *v, enum hv_reg r)
{
    const struct vmcb_save *s = save(v);
    switch (r) {
    case HV_RIP: return s->rip;
    case HV_RSP: return v->regs.reg[REG_RSP];
    case HV_RFLAGS: return s->rflags;
    case HV_CR0: return s->cr0;
    case HV_CR2: return s->cr2;
    case HV_CR3: return s->cr3;
    case HV_CR4: return s->cr4;
    case HV_EFER: return s->efer & ~SVM_EFER_SVME;
    case HV_DR7: return s->dr7;
    case HV_PAT: return s->g_pat;
    case HV_SYSENTER_CS: return s->sysenter_cs;
    case HV_SYSENTER_ESP: return s->sysenter_esp;
    case HV_SYSENTER_EIP: return s->sysenter_eip;
    case HV_DEBUGCTL: return s->dbgctl;
    case HV_TSC_OFFSET: return ctl(v)->tsc_offset;
    default: return 0;
    }
}

static void svm_set(struct vmm *v, enum hv_reg r, uint64_t x)
{
    struct vmcb_save *s = save(v);
    switch (r) {
    case HV_RIP: s->rip = x; break;
    case HV_RSP: v->regs.reg[REG_RSP] = x; break;
    case HV_RFLAGS: s->rflags = x; break;
    case HV_CR0:
        s->cr0 = x;
        dirty(v, VMCB_CLEAN_CR);
        break;
    case HV_CR2:
        s->cr2 = x;
        dirty(v, VMCB_CLEAN_CR2);
        break;
    case HV_CR3:
        s->cr3 = x;
        dirty(v, VMCB_CLEAN_CR);
        break;
    case HV_CR4:
        s->cr4 = x;
        dirty(v, VMCB_CLEAN_CR);
        break;
    case HV_EFER:
        s->efer = x | SVM_EFER_SVME;
        dirty(v, VMCB_CLEAN_CR);
        break;
    case HV_DR7:
        s->dr7 = x;
        dirty(v, VMCB_CLEAN_DR);
        break;
    case HV_PAT:
        s->g_pat = x;
        dirty(v, VMCB_CLEAN_NP);
        break;
    case HV_SYSENTER_CS: s->sysenter_cs = x; break;
    case HV_SYSENTER_ESP: s->sysenter_esp = x; break;
    case HV_SYSENTER_EIP: s->sysenter_eip = x; break;
    case HV_DEBUGCTL:
        s->dbgctl = x;
        dirty(v, VMCB_CLEAN_LBR);
        break;
    case HV_TSC_OFFSET:
        ctl(v)->tsc_offset = x;
        dirty(v, VMCB_CLEAN_I);
        break;
    default: break;
    }
}

static struct vmcb_seg *segment(struct vmm *v, enum hv_seg i)
{
    struct vmcb_save *s = save(v);
    struct vmcb_seg *const all[HV_SEGS] = {&s->es, &s->cs,   &s->ss, &s->ds,   &s->fs,
                                           &s->gs, &s->ldtr, &s->tr, &s->gdtr, &s->idtr};
    return all[i];
}

/* The VMCB packs the attributes into 12 bits: AVL, L, D/B and G follow P. */
static void svm_get_seg(struct vmm *v, enum hv_seg i, struct hv_segment *out)
{
    const struct vmcb_seg *s = segment(v, i);
    *out = (struct hv_segment){.sel = s->sel, .base = s->base, .limit = s->limit};
    out->ar = (s->attrib & 0xff) | (s->attrib & 0xf00u) << 4;
    if (!(s->attrib & 0x80) && i != HV_GDTR && i != HV_IDTR) {
        out->ar |= HV_AR_UNUSABLE;
    }
}

static void svm_set_seg(struct vmm *v, enum hv_seg i, const struct hv_segment *in)
{
    struct vmcb_seg *s = segment(v, i);
    uint16_t attrib = in->ar & HV_AR_UNUSABLE ? 0 : (uint16_t)((in->ar & 0xff) | (in->ar >> 4 & 0xf00));
    *s = (struct vmcb_seg){.sel = in->sel, .base = in->base, .limit = in->limit, .attrib = attrib};
    if (i == HV_SS) {
        save(v)->cpl = in->ar >> 5 & 3;
    }
    dirty(v, VMCB_CLEAN_SEG | VMCB_CLEAN_DT);
}

static unsigned svm_cpl(struct vmm *v)
{
    return save(v)->cpl;
}

/* ---- events --------------------------------------------------------------------------------------------------- */

static void svm_inject(struct vmm *v, const struct event *e)
{
    if (e->valid && e->type == EVENT_NMI) { /* without virtual NMIs their blocking is ours to keep */
        v->svm->nmi_blocked = true;
        vmcb_set_intercept(v->svm->vmcb, SVM_EXIT_IRET);
        dirty(v, VMCB_CLEAN_I);
    }
    if (!e->valid) {
        ctl(v)->eventinj = 0;
    } else if (e->has_error) {
        ctl(v)->eventinj = vmcb_event_error((enum vmcb_event_type)e->type, e->vector, e->error);
    } else {
        ctl(v)->eventinj = vmcb_event((enum vmcb_event_type)e->type, e->vector);
    }
}

static bool svm_can_interrupt(struct vmm *v)
{
    return (save(v)->rflags & RFLAGS_IF) && !(ctl(v)->interrupt_shadow & VMCB_INTERRUPT_SHADOW);
}

/* The window: a virtual interrupt of the highest priority that is intercepted before it is taken. */
static void svm_set_window(struct vmm *v, bool on)
{
    struct vmcb_control *c = ctl(v);
    if (on) {
        c->vintr |= VMCB_VINTR_IRQ | VMCB_VINTR_PRIO(15) | VMCB_VINTR_IGN_TPR;
        vmcb_set_intercept(v->svm->vmcb, SVM_EXIT_VINTR);
    } else {
        c->vintr &= ~(VMCB_VINTR_IRQ | VMCB_VINTR_PRIO(15) | VMCB_VINTR_IGN_TPR);
        vmcb_clear_intercept(v->svm->vmcb, SVM_EXIT_VINTR);
    }
    dirty(v, VMCB_CLEAN_I | VMCB_CLEAN_TPR);
}

static bool svm_can_nmi(struct vmm *v)
{
    return !v->svm->nmi_blocked && !(ctl(v)->interrupt_shadow & VMCB_INTERRUPT_SHADOW);
}

/* Nothing to ask for: the exit at the IRET comes by itself, another soon after it. */
static void svm_want_nmi(struct vmm *v)
{
    v->next_poll = 0;
}

static void svm_end_shadow(struct vmm *v)
{
    ctl(v)->interrupt_shadow &= ~VMCB_INTERRUPT_SHADOW;
}
static void svm_single_step(struct vmm *v)
{
    save(v)->dr6 |= 1 << 14; /* BS */
    dirty(v, VMCB_CLEAN_DR);
    vmm_queue_exception(v, VECTOR_DB, false, 0);
}

static void svm_flush(struct vmm *v)
{
    v->svm->flush = true;
}

static void svm_pass_msr(struct vmm *v, uint32_t msr, bool read, bool write)
{
    svm_msrpm_set(v->svm->msrpm, msr, !read, !write);
    dirty(v, VMCB_CLEAN_IOPM);
}

static unsigned svm_insn_bytes(struct vmm *v, uint8_t out[15])
{
    unsigned n = ctl(v)->insn_len;
    if (!(v->svm->features & SVM_CPUID_DECODE) || n > 15) {
        return 0;
    }
    memcpy(out, ctl(v)->insn_bytes, n);
    return n;
}

const struct hv_ops hv_svm = {
    .name = "SVM",
    .vendor = "AuthenticAMD",
    .init = svm_init,
    .off = svm_off,
    .enter = svm_enter,
    .decode = svm_decode,
    .get = svm_get,
    .set = svm_set,
    .get_seg = svm_get_seg,
    .set_seg = svm_set_seg,
    .cpl = svm_cpl,
    .inject = svm_inject,
    .can_interrupt = svm_can_interrupt,
    .set_window = svm_set_window,
    .can_nmi = svm_can_nmi,
    .want_nmi = svm_want_nmi,
    .end_shadow = svm_end_shadow,
    .single_step = svm_single_step,
    .flush = svm_flush,
    .pass_msr = svm_pass_msr,
    .insn_bytes = svm_insn_bytes,
};
