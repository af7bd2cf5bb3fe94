/* SPDX-License-Identifier: MIT
 *
 * exit.c: VM exits: recording why, saving guest state, loading host state.
 *
 * SDM volume 3C, "VM Exits": the functions stand in the order of its sections.
 */
#include "src/vmx/vmx_int.h"

#include "src/cpu/op.h"

#define CR0_KEPT (CR0_ET | CR0_CD | CR0_NW | 0xffc0ull | BIT(17) | 0x1ff80000ull)

/* "Recording VM-Exit Information and Updating VM-entry Control Fields". */
static void record(struct cpu *c, struct vmcs *v, uint32_t reason, uint64_t qualification)
{
    struct vmx_cpu *x = vmx_of(c);
    v->f[F_EXIT_REASON] = reason;
    v->f[F_EXIT_QUALIFICATION] = qualification;
    v->f[F_ENTRY_INTERRUPTION_INFO] &= ~(uint64_t)VMX_INTR_VALID;
    if ((x->proc2 & VMX_PROC2_UNRESTRICTED_GUEST) && (x->caps.misc & VMX_MISC_SAVE_EFER_LMA)) {
        uint64_t old = v->f[F_ENTRY_CONTROLS];
        uint64_t now =
            (old & ~(uint64_t)VMX_ENTRY_IA32E_MODE_GUEST) | (c->efer & EFER_LMA ? VMX_ENTRY_IA32E_MODE_GUEST : 0);
        if (now != old) {
            v->f[F_ENTRY_CONTROLS] = now;
            v->dirty |= GROUP_ALL;
        }
    }
    v->f[F_EXIT_INTERRUPTION_INFO] = x->info.intr_info;
    if (x->info.intr_info & VMX_INTR_ERROR_CODE)
        v->f[F_EXIT_INTERRUPTION_ERROR_CODE] = x->info.intr_error;
    uint32_t idt = 0;
    uint8_t len = (uint8_t)x->info.insn_len;
    if (unlikely(c->vectoring.valid)) {
        const struct cpu_event *ev = &c->vectoring;
        idt = ev->vector | (uint32_t)ev->type << VMX_INTR_TYPE_SHIFT | VMX_INTR_VALID |
              (ev->has_error ? VMX_INTR_ERROR_CODE : 0);
        if (ev->has_error)
            v->f[F_IDT_VECTORING_ERROR_CODE] = ev->error;
        if (!len)
            len = ev->insn_len;
    }
    v->f[F_IDT_VECTORING_INFO] = idt;
    v->f[F_EXIT_INSTRUCTION_LENGTH] = len;
    v->f[F_EXIT_INSTRUCTION_INFO] = x->info.insn_info;
}

#define EXIT_TICKS 128 /* of the virtual clock: four of the preemption timer */

/* "Saving Guest State". */
static void save_guest(struct cpu *c, struct vmcs *v)
{
    struct vmx_cpu *x = vmx_of(c);
    uint64_t *f = v->f;
    uint32_t exit = (uint32_t)f[F_EXIT_CONTROLS];

    if (unlikely(f[F_GUEST_CR0] != c->cr0 || f[F_GUEST_CR4] != c->cr4)) {
        f[F_GUEST_CR0] = c->cr0;
        f[F_GUEST_CR4] = c->cr4;
        v->dirty |= GROUP_CR | GROUP_SEG | GROUP_FL | GROUP_RIP |
                    GROUP_PDPTE; /* rules relate them to fields that are not saved */
    }
    f[F_GUEST_CR3] = c->cr3;
    if (exit & VMX_EXIT_SAVE_DEBUG_CONTROLS) {
        f[F_GUEST_DR7] = c->dr[7];
        f[F_GUEST_DEBUGCTL] = c->msr.debugctl;
    }
    f[F_GUEST_SYSENTER_CS] = (uint32_t)c->msr.sysenter_cs;
    f[F_GUEST_SYSENTER_ESP] = c->msr.sysenter_esp;
    f[F_GUEST_SYSENTER_EIP] = c->msr.sysenter_eip;
    if (exit & VMX_EXIT_SAVE_PAT)
        f[F_GUEST_PAT] = c->msr.pat;
    if (exit & VMX_EXIT_SAVE_EFER)
        f[F_GUEST_EFER] = c->efer;
    for (unsigned i = SEG_ES; i <= SEG_TR; i++) {
        f[F_GUEST_ES_BASE + i] = c->seg[i].base;
        f[F_GUEST_ES_LIMIT + i] = c->seg[i].limit;
        f[F_GUEST_ES_ACCESS_RIGHTS + i] = c->seg[i].ar;
        f[F_GUEST_ES_SELECTOR + i] = c->seg[i].sel;
    }
    f[F_GUEST_GDTR_BASE] = c->gdtr.base;
    f[F_GUEST_GDTR_LIMIT] = c->gdtr.limit;
    f[F_GUEST_IDTR_BASE] = c->idtr.base;
    f[F_GUEST_IDTR_LIMIT] = c->idtr.limit;
    f[F_GUEST_RIP] = c->rip;
    f[F_GUEST_RSP] = c->gpr[GPR_RSP];
    uint64_t rflags = cpu_rflags(c) | (x->info.set_rf ? FLAG_RF : 0);
    if (unlikely((rflags ^ f[F_GUEST_RFLAGS]) & (FLAG_VM | FLAG_TF)))
        v->dirty |= GROUP_SEG | GROUP_NREG;
    f[F_GUEST_RFLAGS] = rflags;

    /* An exit takes time: the preemption timer of a guest that exits at once has counted, and once that has run down,
     * the TSC has gone on for as long. */
    if (!c->real_clock)
        c->skipped += EXIT_TICKS;

    /* "Saving Non-Register State". */
    f[F_GUEST_ACTIVITY_STATE] = c->activity <= ACTIVITY_WAIT_SIPI ? c->activity : ACTIVITY_ACTIVE;
    uint32_t state = 0;
    if (cpu_in_shadow(c))
        state |= c->shadow_movss ? VMX_BLOCKING_BY_MOV_SS : VMX_BLOCKING_BY_STI;
    if (x->pin & VMX_PIN_VIRTUAL_NMIS ? x->virtual_nmi_blocked : c->nmi_blocked)
        state |= VMX_BLOCKING_BY_NMI;
    f[F_GUEST_INTERRUPTIBILITY_STATE] = state;
    uint64_t pending = c->pending_dbg & (0xf | VMX_PENDING_DBG_BS);
    if (pending & 0xf)
        pending |= VMX_PENDING_DBG_ENABLED_BREAKPOINT;
    f[F_GUEST_PENDING_DEBUG_EXCEPTIONS] = pending;
    if ((x->pin & VMX_PIN_ACTIVATE_PREEMPTION_TIMER) && (exit & VMX_EXIT_SAVE_PREEMPTION_TIMER_VALUE) &&
        x->timer_end != UINT64_MAX) {
        unsigned rate = VMX_MISC_PREEMPTION_TIMER_RATE(x->caps.misc);
        uint64_t now = cpu_tsc(c) >> rate, end = x->timer_end >> rate;
        f[F_PREEMPTION_TIMER_VALUE] = end > now ? (uint32_t)(end - now) : 0;
    }
    if ((x->proc2 & VMX_PROC2_ENABLE_EPT) && (c->cr0 & CR0_PG) && (c->cr4 & CR4_PAE) && !(c->efer & EFER_LMA))
        for (unsigned i = 0; i < 4; i++)
            f[F_GUEST_PDPTE0 + i] = c->pdpte[i];
}

/* "VMX Aborts". */
static void vmx_abort(struct cpu *c, struct vmcs *v, uint32_t indicator)
{
    mem_write(c->mem, HPA(v->pa + 4), &indicator, sizeof indicator);
    cpu_note(c, WATCH_EXCEPTION, WATCH_SHUTDOWN, indicator);
    c->activity = ACTIVITY_SHUTDOWN;
    c->stop = STOP_SHUTDOWN;
}

/* "Saving MSRs". */
static bool store_msrs(struct cpu *c, struct vmcs *v)
{
    uint64_t count = v->f[F_EXIT_MSR_STORE_COUNT], area = v->f[F_EXIT_MSR_STORE_ADDRESS];
    uint64_t max = VMX_MISC_MSR_LIST_MAX(vmx_of(c)->caps.misc);
    for (uint64_t i = 0; i < count; i++) {
        struct vmx_msr_entry e;
        mem_read(c->mem, HPA(area + i * sizeof e), &e, sizeof e);
        if (i >= max || (e.index >> 8) == 8 || e.index == 0x9e || e.reserved || !cpu_rdmsr(c, e.index, &e.value))
            return false;
        if (e.index == 0x10) /* IA32_TIME_STAMP_COUNTER: the processor's own, without the guest's offset */
            e.value = cpu_tsc(c);
        mem_write(c->mem, HPA(area + i * sizeof e + 8), &e.value, sizeof e.value);
    }
    return true;
}

static void load_host_segment(struct seg *s, uint16_t sel, uint64_t base, uint32_t ar)
{
    *s = (struct seg){.base = base, .limit = 0xffffffff, .ar = sel ? ar : AR_UNUSABLE, .sel = sel};
}

/* "Loading Host State". */
static void load_host(struct cpu *c, struct vmcs *v)
{
    const uint64_t *f = v->f;
    uint32_t exit = (uint32_t)f[F_EXIT_CONTROLS];
    bool wide = exit & VMX_EXIT_HOST_ADDRESS_SPACE_SIZE;

    c->cr0 = (c->cr0 & CR0_KEPT) | (f[F_HOST_CR0] & ~CR0_KEPT & 0xffffffff);
    c->cr3 = f[F_HOST_CR3];
    c->cr4 = wide ? f[F_HOST_CR4] | CR4_PAE : f[F_HOST_CR4] & ~CR4_PCIDE;
    c->dr[7] = 0x400;
    c->msr.debugctl = 0;
    c->msr.sysenter_cs = f[F_HOST_SYSENTER_CS];
    c->msr.sysenter_esp = f[F_HOST_SYSENTER_ESP];
    c->msr.sysenter_eip = f[F_HOST_SYSENTER_EIP];
    c->efer = (c->efer & ~(EFER_LMA | EFER_LME)) | (wide ? EFER_LMA | EFER_LME : 0);
    if (exit & VMX_EXIT_LOAD_EFER)
        c->efer = f[F_HOST_EFER];
    if (exit & VMX_EXIT_LOAD_PAT)
        c->msr.pat = f[F_HOST_PAT];
    if (exit & VMX_EXIT_LOAD_PERF_GLOBAL_CTRL)
        c->msr.perf_global_ctrl = f[F_HOST_PERF_GLOBAL_CTRL];
    if (exit & VMX_EXIT_LOAD_PKRS)
        c->msr.pkrs = (uint32_t)f[F_HOST_PKRS];

    /* "Loading Host Segment and Descriptor-Table Registers". */
    const uint32_t data = AR_P | AR_S | 3 | AR_DB | AR_G;
    load_host_segment(&c->seg[SEG_CS], (uint16_t)f[F_HOST_CS_SELECTOR], 0,
                      AR_P | AR_S | 11 | AR_G | (wide ? AR_L : AR_DB));
    load_host_segment(&c->seg[SEG_SS], (uint16_t)f[F_HOST_SS_SELECTOR], 0, data);
    load_host_segment(&c->seg[SEG_DS], (uint16_t)f[F_HOST_DS_SELECTOR], 0, data);
    load_host_segment(&c->seg[SEG_ES], (uint16_t)f[F_HOST_ES_SELECTOR], 0, data);
    load_host_segment(&c->seg[SEG_FS], (uint16_t)f[F_HOST_FS_SELECTOR], f[F_HOST_FS_BASE], data);
    load_host_segment(&c->seg[SEG_GS], (uint16_t)f[F_HOST_GS_SELECTOR], f[F_HOST_GS_BASE], data);
    c->seg[SEG_TR] =
        (struct seg){.base = f[F_HOST_TR_BASE], .limit = 0x67, .ar = AR_P | 11, .sel = (uint16_t)f[F_HOST_TR_SELECTOR]};
    c->seg[SEG_LDTR] = (struct seg){.ar = AR_UNUSABLE};
    c->gdtr = (struct dtable){f[F_HOST_GDTR_BASE], 0xffff};
    c->idtr = (struct dtable){f[F_HOST_IDTR_BASE], 0xffff};
    c->rip = f[F_HOST_RIP];
    c->gpr[GPR_RSP] = f[F_HOST_RSP];
    flags_set_arith(c, 0);
    c->rflags_rest = FLAG_1;
    c->cpl = 0;

    /* "Updating Non-Register State". */
    c->activity = ACTIVITY_ACTIVE;
    c->shadow_sti = c->shadow_movss = false;
    c->pending_dbg = 0;
    c->step_armed = false;
    c->mon_armed = false;
}

static void leave(struct cpu *c, struct vmcs *v)
{
    struct vmx_cpu *x = vmx_of(c);
    c->guest = NULL;
    c->icpt = 0;
    c->step_guest = false;
    c->nmi_unblocking_iret = false;
    c->apic_access_page = UINT64_MAX;
    c->cur = NULL;
    c->exc.valid = false;
    c->vectoring.valid = false;
    uint16_t vpid = c->vpid;
    load_host(c, v);
    c->vpid = 0;
    c->second.kind = MMU_SECOND_NONE;
    c->second.root = 0;
    c->second.pml_index = NULL;
    if (!vpid || x->host_rights != vmx_translation_rights(c))
        tlb_flush_matching(&c->tlbs, 0, -1, 0, true, false);
    bool bad_pdpte = false;
    if (unlikely(!(c->efer & EFER_LMA) && (c->cr4 & CR4_PAE))) {
        struct mmu_regs r;
        struct mmu_fault fault;
        cpu_mmu_regs(c, &r);
        bad_pdpte = !mmu_load_pdptes(c->mem, &r, NULL, c->cr3, c->pdpte, &fault);
    }
    cpu_update_translation(c);
    cpu_recheck_events(c);
    cpu_update_deadline(c);
    memset(&x->info, 0, sizeof x->info);
    if (c->native_host)
        c->stop = STOP_EXIT;
    if (unlikely(bad_pdpte))
        vmx_abort(c, v, VMX_ABORT_HOST_PDPTE);
    else if (unlikely(v->f[F_EXIT_MSR_LOAD_COUNT]) &&
             vmx_load_msrs(c, v->f[F_EXIT_MSR_LOAD_ADDRESS], v->f[F_EXIT_MSR_LOAD_COUNT]))
        vmx_abort(c, v, VMX_ABORT_LOAD_HOST_MSRS);
}

void vmx_exit(struct cpu *c, uint32_t reason, uint64_t qualification)
{
    struct vmx_cpu *x = vmx_of(c);
    struct vmcs *v = x->cur;
    c->stats.exits++;
    c->stats.reasons[(uint8_t)reason]++;
    record(c, v, reason, qualification);
    cpu_note(c, WATCH_EXIT, reason, qualification);
    save_guest(c, v);
    x->guest_rights[c->vpid % VMX_VPID_SLOTS].vpid = c->vpid;
    x->guest_rights[c->vpid % VMX_VPID_SLOTS].rights = vmx_translation_rights(c);
    if (x->pin & VMX_PIN_VIRTUAL_NMIS)
        c->nmi_blocked = false;
    if (reason == VMX_REASON_EXCEPTION_OR_NMI && VMX_INTR_TYPE(x->info.intr_info) == VMX_EVENT_NMI)
        c->nmi_blocked = true;
    bool stored = likely(!v->f[F_EXIT_MSR_STORE_COUNT]) || store_msrs(c, v);
    leave(c, v);
    if (unlikely(!stored))
        vmx_abort(c, v, VMX_ABORT_SAVE_GUEST_MSRS);
}

void vmx_exit_insn(struct cpu *c, const struct op *o, uint32_t reason, uint64_t qualification, uint32_t info)
{
    struct vmx_cpu *x = vmx_of(c);
    cpu_sync(c);
    x->info.insn_len = o ? o->len : c->insn_len;
    x->info.insn_info = info;
    vmx_exit(c, reason, qualification);
}

/* "VM-Entry Failures During or After Loading Guest State". */
void vmx_exit_entry_failure(struct cpu *c, uint32_t reason, uint64_t qualification)
{
    struct vmcs *v = vmx_of(c)->cur;
    c->stats.exits++;
    c->stats.reasons[(uint8_t)reason]++;
    v->f[F_EXIT_REASON] = reason | VMX_REASON_ENTRY_FAILURE;
    v->f[F_EXIT_QUALIFICATION] = qualification;
    cpu_note(c, WATCH_EXIT, v->f[F_EXIT_REASON], qualification);
    leave(c, v);
}
