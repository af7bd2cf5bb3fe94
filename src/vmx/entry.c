/* SPDX-License-Identifier: MIT
 *
 * entry.c: VM entries, from the checks of controls to the guest's first instruction.
 *
 * SDM volume 3C, "VM Entries": checks; loading of guest state, of MSRs; event injection; special features of VM entry.
 * What was checked by an earlier entry and has not changed since is not checked again (vmcs.dirty).
 */
#include "src/vmx/vmx_int.h"

#include "src/cpu/flags.h"

/* CR0 bits that entries and exits leave alone: "the bits ET, CD, NW, 15:6, 17, 28:19, 63:32". */
#define CR0_KEPT (CR0_ET | CR0_CD | CR0_NW | 0xffc0ull | BIT(17) | 0x1ff80000ull)

/* --- MSR areas
 * -------------------------------------------------------------------------------------------------------- */

uint64_t vmx_load_msrs(struct cpu *c, uint64_t area, uint64_t count)
{
    uint64_t max = VMX_MISC_MSR_LIST_MAX(vmx_of(c)->caps.misc);
    for (uint64_t i = 0; i < count; i++) {
        struct vmx_msr_entry e;
        mem_read(c->mem, HPA(area + i * sizeof e), &e, sizeof e);
        /* "Loading MSRs": FS and GS bases, x2APIC registers in any case, SMM and update MSRs, reserved bits. More
         * entries than IA32_VMX_MISC recommends: undefined; here the first one too many fails. */
        if (i >= max || e.index == 0xc0000100 || e.index == 0xc0000101 || (e.index >> 8) == 8 || e.index == 0x79 ||
            e.index == 0x9b || e.reserved)
            return i + 1;
        uint64_t value = e.value;
        if (e.index == 0xc0000080) { /* LMA is the control's; LME can't change under paging */
            if ((c->cr0 & CR0_PG) && ((value ^ c->efer) & EFER_LME))
                return i + 1;
            value = (value & ~EFER_LMA) | (c->efer & EFER_LMA);
        }
        if (!cpu_wrmsr(c, e.index, value))
            return i + 1;
    }
    return 0;
}

/* --- loading
 * ------------------------------------------------------------------------------------------------------------ */

static void load_segment(struct cpu *c, const uint64_t *f, unsigned i)
{
    c->seg[i] = (struct seg){
        .base = f[F_GUEST_ES_BASE + i],
        .limit = (uint32_t)f[F_GUEST_ES_LIMIT + i],
        .ar = (uint32_t)f[F_GUEST_ES_ACCESS_RIGHTS + i],
        .sel = (uint16_t)f[F_GUEST_ES_SELECTOR + i],
    };
    /* "Loading Guest Segment Registers and Descriptor-Table Registers": an unusable one keeps no stray attributes, but
     * SS its DPL. CS is checked as a usable one whatever the bit says, and is one. */
    if (unlikely(c->seg[i].ar & AR_UNUSABLE))
        c->seg[i].ar &= i == SEG_CS ? ~AR_UNUSABLE : AR_UNUSABLE | (i == SEG_SS ? 0x60u : 0);
}

/* The second level that the controls of v ask for: EPT is enabled. */
void vmx_load_second(struct cpu *c, struct vmcs *v)
{
    struct vmx_cpu *x = vmx_of(c);
    const uint64_t *f = v->f;
    c->second = (struct mmu_second){
        .kind = MMU_SECOND_EPT,
        .tables = &c->tlbs.tables,
        .root = f[F_EPT_POINTER],
        .maxphyaddr = x->caps.maxphyaddr,
        .gbpages = x->caps.ept_vpid & VMX_EPT_CAP_1G,
        .ept_exec_only = x->caps.ept_vpid & VMX_EPT_CAP_EXECUTE_ONLY,
        .ept_mbec = x->proc2 & VMX_PROC2_MODE_BASED_EXECUTE_CONTROL,
        .ept_ad = f[F_EPT_POINTER] & VMX_EPTP_ACCESSED_DIRTY,
        .ept_advanced = x->caps.ept_vpid & VMX_EPT_CAP_ADVANCED_EXIT_INFO,
        .fold = c->fold_tables,
    };
    c->second.ept_paging_write = x->proc3 & VMX_PROC3_EPT_PAGING_WRITE_CONTROL;
    c->second.ept_verify = x->proc3 & VMX_PROC3_GUEST_PAGING_VERIFICATION;
    if (x->proc3 & VMX_PROC3_ENABLE_HLAT) {
        c->second.hlat = true;
        c->second.hlat_pointer = f[F_HLAT_POINTER];
        c->second.hlat_prefix = (uint8_t)f[F_HLAT_PREFIX_SIZE];
    }
    if (x->proc2 & VMX_PROC2_SUB_PAGE_WRITE_PERMISSIONS)
        c->second.sppt = f[F_SPPT_POINTER] | 1;
    if (x->proc2 & VMX_PROC2_VIRTUALIZE_APIC_ACCESSES)
        c->second.apic_page = f[F_APIC_ACCESS_ADDRESS] | 1;
    /* What is remembered of pages with paging structures was made under these. */
    uint64_t under = c->second.apic_page | (uint64_t)c->second.ept_paging_write << 1;
    if (unlikely(under != x->tables_under)) {
        c->tlbs.tables = (struct mmu_table_cache){0};
        x->tables_under = under;
    }
    if (x->proc2 & VMX_PROC2_ENABLE_PML) {
        c->second.pml_index = &v->f[F_GUEST_PML_INDEX];
        c->second.pml_address = f[F_PML_ADDRESS];
    }
}

/* "Loading Guest State". False: a PDPTE is not valid. */
static bool load_guest(struct cpu *c, struct vmcs *v)
{
    struct vmx_cpu *x = vmx_of(c);
    const uint64_t *f = v->f;
    uint32_t entry = (uint32_t)f[F_ENTRY_CONTROLS];
    bool guest64 = entry & VMX_ENTRY_IA32E_MODE_GUEST, ept = x->proc2 & VMX_PROC2_ENABLE_EPT;

    c->cr0 = (c->cr0 & CR0_KEPT) | (f[F_GUEST_CR0] & ~CR0_KEPT & 0xffffffff);
    c->cr3 = f[F_GUEST_CR3];
    c->cr4 = f[F_GUEST_CR4];
    if (entry & VMX_ENTRY_LOAD_DEBUG_CONTROLS) {
        c->dr[7] = (f[F_GUEST_DR7] & 0xffff2fff) | BIT(10);
        c->msr.debugctl = f[F_GUEST_DEBUGCTL];
    }
    c->msr.sysenter_cs = f[F_GUEST_SYSENTER_CS];
    c->msr.sysenter_esp = f[F_GUEST_SYSENTER_ESP];
    c->msr.sysenter_eip = f[F_GUEST_SYSENTER_EIP];
    if (entry & VMX_ENTRY_LOAD_EFER)
        c->efer = f[F_GUEST_EFER];
    else {
        c->efer = (c->efer & ~EFER_LMA) | (guest64 ? EFER_LMA : 0);
        if (c->cr0 & CR0_PG)
            c->efer = (c->efer & ~EFER_LME) | (guest64 ? EFER_LME : 0);
    }
    if (entry & VMX_ENTRY_LOAD_PAT)
        c->msr.pat = f[F_GUEST_PAT];
    if (entry & VMX_ENTRY_LOAD_PERF_GLOBAL_CTRL)
        c->msr.perf_global_ctrl = f[F_GUEST_PERF_GLOBAL_CTRL];
    if (entry & VMX_ENTRY_LOAD_PKRS)
        c->msr.pkrs = (uint32_t)f[F_GUEST_PKRS];

    for (unsigned i = SEG_ES; i <= SEG_TR; i++)
        load_segment(c, f, i);
    c->gdtr = (struct dtable){f[F_GUEST_GDTR_BASE], (uint16_t)f[F_GUEST_GDTR_LIMIT]};
    c->idtr = (struct dtable){f[F_GUEST_IDTR_BASE], (uint16_t)f[F_GUEST_IDTR_LIMIT]};
    c->gpr[GPR_RSP] = f[F_GUEST_RSP];
    c->rip = f[F_GUEST_RIP];
    uint64_t rflags = f[F_GUEST_RFLAGS];
    flags_set_arith(c, rflags);
    c->rflags_rest = (uint32_t)(rflags & ~FLAG_ARITH);
    if (rflags & FLAG_RF)
        c->rf_at = c->icount;
    c->cpl = (uint8_t)AR_DPL(c->seg[SEG_SS].ar);

    if (ept)
        vmx_load_second(c, v);
    if (unlikely((c->cr0 & CR0_PG) && (c->cr4 & CR4_PAE) && !guest64)) {
        if (ept) {
            for (unsigned i = 0; i < 4; i++)
                c->pdpte[i] = f[F_GUEST_PDPTE0 + i];
        } else {
            struct mmu_regs r;
            struct mmu_fault fault;
            cpu_mmu_regs(c, &r);
            if (!mmu_load_pdptes(c->mem, &r, NULL, c->cr3, c->pdpte, &fault))
                return false;
        }
    }

    uint32_t state = (uint32_t)f[F_GUEST_INTERRUPTIBILITY_STATE];
    c->activity = (uint8_t)f[F_GUEST_ACTIVITY_STATE];
    c->shadow_sti = c->shadow_movss = false;
    if (state & VMX_BLOCKING_BY_STI)
        cpu_set_shadow(c, false);
    if (state & VMX_BLOCKING_BY_MOV_SS)
        cpu_set_shadow(c, true);
    x->virtual_nmi_blocked = c->nmi_blocked = false;
    if (state & VMX_BLOCKING_BY_NMI) {
        if (x->pin & VMX_PIN_VIRTUAL_NMIS)
            x->virtual_nmi_blocked = true;
        else
            c->nmi_blocked = true;
    }
    uint64_t pending = f[F_GUEST_PENDING_DEBUG_EXCEPTIONS];
    c->pending_dbg =
        pending & (VMX_PENDING_DBG_ENABLED_BREAKPOINT | VMX_PENDING_DBG_BS) ? pending & (0xf | VMX_PENDING_DBG_BS) : 0;
    c->step_armed = false;
    return true;
}

/* --- injection and special features
 * --------------------------------------------------------------------------------------- */

/* "Event Injection". */
static void inject(struct cpu *c, struct vmcs *v, uint32_t info)
{
    struct vmx_cpu *x = vmx_of(c);
    unsigned type = VMX_INTR_TYPE(info);
    if (type == VMX_EVENT_OTHER) { /* "Injection of Pending MTF VM Exits" */
        x->mtf_pending = true;
        return;
    }
    struct cpu_event ev = {
        .valid = true,
        .vector = (uint8_t)VMX_INTR_VECTOR(info),
        .type = (uint8_t)type,
        .has_error = info & VMX_INTR_ERROR_CODE,
        .error = (uint32_t)v->f[F_ENTRY_EXCEPTION_ERROR_CODE],
    };
    if (type >= VMX_EVENT_SOFTWARE_INTERRUPT)
        ev.insn_len = (uint8_t)v->f[F_ENTRY_INSTRUCTION_LENGTH];
    /* "Delivery of Pending Debug Exceptions after VM Entry". */
    if (type == VMX_EVENT_EXTERNAL_INTERRUPT || type == VMX_EVENT_NMI || type == VMX_EVENT_HARDWARE_EXCEPTION ||
        type == VMX_EVENT_SOFTWARE_EXCEPTION || !c->shadow_movss)
        c->pending_dbg = 0;
    if (type == VMX_EVENT_NMI) {
        if (x->pin & VMX_PIN_VIRTUAL_NMIS)
            x->virtual_nmi_blocked = true;
        else
            c->nmi_blocked = true;
    }
    uint64_t exits = c->stats.exits;
    bool delivered = cpu_deliver(c, &ev);
    if (c->stats.exits != exits)
        return;
    if (delivered && (x->proc & VMX_PROC_MONITOR_TRAP_FLAG))
        x->mtf_pending = true;
}

static void start_timer(struct cpu *c, struct vmcs *v)
{
    struct vmx_cpu *x = vmx_of(c);
    unsigned rate = VMX_MISC_PREEMPTION_TIMER_RATE(x->caps.misc);
    x->timer_end = UINT64_MAX;
    if (x->pin & VMX_PIN_ACTIVATE_PREEMPTION_TIMER)
        x->timer_end = ((cpu_tsc(c) >> rate) + v->f[F_PREEMPTION_TIMER_VALUE]) << rate;
}

static bool read_memory(void *opaque, uint64_t address, void *to, size_t bytes)
{
    mem_read(opaque, HPA(address), to, bytes);
    return true;
}

static void describe_entry(const struct cpu *c, struct vmx_check *k)
{
    const struct vmx_cpu *x = vmx_of(c);
    *k = (struct vmx_check){
        .caps = &x->caps,
        .f = x->cur->f,
        .host = {.ia32e_mode = c->efer & EFER_LMA ? VMENTER_YES : VMENTER_NO,
                 .smm = VMENTER_NO,
                 .has_vmcs_pointer = true,
                 .vmcs_pointer = x->cur->pa,
                 .read_memory = read_memory,
                 .opaque = c->mem},
    };
}

/* A refused entry's rules, all of them. */
static COLD void list_broken(struct vmx_cpu *x, const struct vmx_check *k)
{
    x->broken.count = (unsigned)vmx_check_list(k, x->broken.rule, VMX_BROKEN_MAX);
}

size_t vmx_explain(struct cpu *c, char *buf, size_t size)
{
    size_t at = 0;
    if (size)
        *buf = 0;
    if (!c->vmx)
        return 0;
    const struct vmx_broken *b = &vmx_of(c)->broken;
    for (unsigned i = 0; i < b->count && i < VMX_BROKEN_MAX; i++) {
        at += vmenter_vmx_finding_text(&b->rule[i], at < size ? buf + at : NULL, at < size ? size - at : 0);
        if (at + 1 < size)
            buf[at] = '\n', buf[at + 1] = 0;
        at++;
    }
    return at;
}

enum vmx_result vmx_enter(struct cpu *c, bool launch)
{
    struct vmx_cpu *x = vmx_of(c);
    struct vmcs *v = x->cur;
    uint32_t groups = v->dirty | GROUP_ALWAYS;
    /* Rules that relate fields of different groups stand with one of them. */
    if (groups & GROUP_CR)
        groups |= GROUP_INJ | GROUP_SEG | GROUP_FL | GROUP_PDPTE;
    if (groups & GROUP_SEG)
        groups |= GROUP_RIP | GROUP_NREG;
    struct vmx_check k;
    x->broken.count = 0;
    describe_entry(c, &k);
    if (unlikely(!vmx_controls_hold(&k, groups))) {
        list_broken(x, &k);
        return vmx_fail(c, VMX_ERR_ENTRY_INVALID_CONTROLS);
    }
    if (unlikely(!vmx_host_holds(&k, groups))) {
        list_broken(x, &k);
        return vmx_fail(c, VMX_ERR_ENTRY_INVALID_HOST_STATE);
    }

    x->pin = (uint32_t)v->f[F_PIN_CONTROLS];
    x->proc = (uint32_t)v->f[F_PROC_CONTROLS];
    x->proc2 = vmx_proc2(v->f);
    x->proc3 = x->proc & VMX_PROC_ACTIVATE_TERTIARY_CONTROLS ? (uint32_t)v->f[F_PROC3_CONTROLS] : 0;
    x->host_rights = vmx_translation_rights(c);
    x->mtf_pending = x->tpr_below = false;
    x->pause_last = x->pause_first = 0;
    x->timer_end = UINT64_MAX;
    memset(&x->info, 0, sizeof x->info);

    if (unlikely(!vmx_guest_holds(&k, groups))) {
        list_broken(x, &k);
        uint64_t qualification = 0;
        vmenter_vmx_outcome(x->broken.rule, 1, &qualification);
        vmx_exit_entry_failure(c, VMX_REASON_ENTRY_FAILURE_GUEST_STATE, qualification);
        return VMX_SUCCEED;
    }
    v->dirty = 0;
    if (groups & GROUP_CTL)
        v->icpt = vmx_intercepts(v);

    if (unlikely(!load_guest(c, v))) {
        list_broken(x, &k); /* another processor changed them since they were checked */
        v->dirty = GROUP_ALL;
        vmx_exit_entry_failure(c, VMX_REASON_ENTRY_FAILURE_GUEST_STATE, VMX_ENTRY_FAILURE_PDPTE);
        return VMX_SUCCEED;
    }
    c->vpid = x->proc2 & VMX_PROC2_ENABLE_VPID ? (uint16_t)v->f[F_VPID] : 0;
    unsigned slot = c->vpid % VMX_VPID_SLOTS;
    if (!c->vpid || x->guest_rights[slot].vpid != c->vpid || x->guest_rights[slot].rights != vmx_translation_rights(c))
        tlb_flush_matching(&c->tlbs, c->vpid, -1, 0, true, false);
    c->icpt = v->icpt;
    c->guest = &vmx_guest_ops;
    c->step_guest = x->proc & VMX_PROC_MONITOR_TRAP_FLAG;
    x->mtf_from = c->icount;
    x->mtf_delivered = c->delivered;
    cpu_update_translation(c);

    if (unlikely(v->f[F_ENTRY_MSR_LOAD_COUNT])) {
        uint64_t failed = vmx_load_msrs(c, v->f[F_ENTRY_MSR_LOAD_ADDRESS], v->f[F_ENTRY_MSR_LOAD_COUNT]);
        if (failed) {
            k.refused = (uint32_t)failed;
            list_broken(x, &k);
            vmx_exit_entry_failure(c, VMX_REASON_ENTRY_FAILURE_MSR_LOADING, failed);
            return VMX_SUCCEED;
        }
    }

    if (launch) {
        v->launched = true;
        v->epoch = x->epoch;
    }
    c->stats.entries++;
    c->last_entry_icount = c->icount;
    start_timer(c, v);
    vmx_apic_enter(c);
    cpu_note(c, WATCH_ENTRY, launch ? WATCH_VMLAUNCH : WATCH_VMRESUME, v->pa);
    uint32_t info = (uint32_t)v->f[F_ENTRY_INTERRUPTION_INFO];
    if (info & VMX_INTR_VALID)
        inject(c, v, info);
    if (c->guest) {
        x->tpr_below =
            c->activity != ACTIVITY_SHUTDOWN && c->activity != ACTIVITY_WAIT_SIPI && vmx_apic_below_threshold(c);
        cpu_attend(c, ATT_INTR | ATT_GUEST | (c->nmi_pending ? ATT_NMI : 0) | (c->pending_dbg ? ATT_TRAP : 0) |
                          (c->shadow_sti || c->shadow_movss ? ATT_SHADOW : 0));
        cpu_update_deadline(c);
    }
    return VMX_SUCCEED;
}
