/* SPDX-License-Identifier: MIT
 *
 * vmx.c: the VMX half of hv.h (SDM Vol. 3C).
 *
 * Control registers: the guest reads what it wrote (read shadows); bits that VMX operation fixes, and those that the
 * VMM must see change, are the host's in the guest/host masks. Without unrestricted guest the guest's unpaged protected
 * mode is run with paging on, over tables that map each linear address to itself (`unpaged`); real mode is not possible
 * then.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vmenter/intrin.h>
#include <vmenter/vmx.h>

#include "vmm/vm.h"

#define IDENTITY_GPA UINT64_C(0xfffbc000) /* guest-physical page of the identity table; never RAM */
#define GUEST_VPID   1

struct hv_vmx_state {
    uint64_t vmxon_pa, vmcs_pa;
    uint8_t *msr_bitmap;
    uint64_t basic, ept_caps, misc, eptp;
    uint64_t cr0_fixed0, cr0_fixed1, cr4_fixed0, cr4_fixed1;
    uint32_t pin, proc, proc2, exit, entry;
    uint64_t cr0_mask, cr4_mask;
    uint64_t rsp;                   /* as in the VMCS */
    uint64_t guest_cr3, guest_efer; /* the guest's own, while it is unpaged */
    bool on, launched, unrestricted, unpaged, flush;
};

static uint64_t rd(enum vmcs_field f)
{
    size_t value = 0;
    __vmx_vmread(f, &value);
    return value;
}

static void wr(enum vmcs_field f, uint64_t value)
{
    __vmx_vmwrite(f, value);
}

/* ---- turning it on -------------------------------------------------------------------------------------------- */

static bool fail(struct vmm *v, const char *what)
{
    snprintf(v->error, sizeof(v->error), "%s: choose another --cpu (vmenter cpus lists them)", what);
    return false;
}

/* "Algorithms for Determining VMX Capabilities": what must be on, plus what we want of what may be. */
static bool negotiate(struct vmm *v, const char *word, uint32_t msr, uint32_t need, uint32_t want, uint32_t *result)
{
    uint64_t caps = __readmsr(msr);
    uint32_t must = (uint32_t)caps, may = (uint32_t)(caps >> 32);
    *result = (must | need | want) & may;
    if (need & ~may) {
        snprintf(v->error, sizeof(v->error),
                 "this processor model lacks %s controls %#x: choose another --cpu (vmenter cpus lists them)", word,
                 need & ~may);
        return false;
    }
    return true;
}

static bool negotiate_all(struct vmm *v)
{
    struct hv_vmx_state *x = v->vmx;
    bool t = x->basic & VMX_BASIC_TRUE_CONTROLS;
    if (!negotiate(v, "pin-based", t ? VMX_MSR_TRUE_PINBASED_CTLS : VMX_MSR_PINBASED_CTLS,
                   VMX_PIN_EXTERNAL_INTERRUPT_EXITING | VMX_PIN_NMI_EXITING,
                   VMX_PIN_VIRTUAL_NMIS | VMX_PIN_ACTIVATE_PREEMPTION_TIMER, &x->pin) ||
        !negotiate(v, "processor-based", t ? VMX_MSR_TRUE_PROCBASED_CTLS : VMX_MSR_PROCBASED_CTLS,
                   VMX_PROC_HLT_EXITING | VMX_PROC_UNCONDITIONAL_IO_EXITING | VMX_PROC_USE_MSR_BITMAPS |
                       VMX_PROC_USE_TSC_OFFSETTING | VMX_PROC_CR8_LOAD_EXITING | VMX_PROC_CR8_STORE_EXITING |
                       (uint32_t)VMX_PROC_ACTIVATE_SECONDARY_CONTROLS,
                   VMX_PROC_MWAIT_EXITING | VMX_PROC_MONITOR_EXITING | VMX_PROC_RDPMC_EXITING, &x->proc) ||
        !negotiate(v, "secondary", VMX_MSR_PROCBASED_CTLS2, VMX_PROC2_ENABLE_EPT,
                   VMX_PROC2_ENABLE_VPID | VMX_PROC2_UNRESTRICTED_GUEST | VMX_PROC2_ENABLE_RDTSCP |
                       VMX_PROC2_ENABLE_INVPCID | VMX_PROC2_ENABLE_XSAVES,
                   &x->proc2) ||
        !negotiate(v, "VM-exit", t ? VMX_MSR_TRUE_EXIT_CTLS : VMX_MSR_EXIT_CTLS,
                   VMX_EXIT_HOST_ADDRESS_SPACE_SIZE | VMX_EXIT_SAVE_EFER | VMX_EXIT_LOAD_EFER | VMX_EXIT_SAVE_PAT |
                       VMX_EXIT_LOAD_PAT,
                   VMX_EXIT_SAVE_DEBUG_CONTROLS, &x->exit) ||
        !negotiate(v, "VM-entry", t ? VMX_MSR_TRUE_ENTRY_CTLS : VMX_MSR_ENTRY_CTLS,
                   VMX_ENTRY_LOAD_EFER | VMX_ENTRY_LOAD_PAT, VMX_ENTRY_LOAD_DEBUG_CONTROLS, &x->entry)) {
        return false;
    }
    x->unrestricted = x->proc2 & VMX_PROC2_UNRESTRICTED_GUEST;
    return true;
}

static bool vmx_check(struct vmm *v)
{
    struct hv_vmx_state *x = v->vmx;
    int r[4];
    __cpuidex(r, 1, 0);
    if (!(r[2] & 1 << 5)) {
        return fail(v, "this processor model has no VMX");
    }
    /* EPT is told of by the secondary controls, where those exist. */
    if (!(__readmsr(VMX_MSR_PROCBASED_CTLS) >> 63) ||
        !(__readmsr(VMX_MSR_PROCBASED_CTLS2) >> 32 & VMX_PROC2_ENABLE_EPT)) {
        return fail(v, "this processor model has no EPT, which the VMM needs");
    }
    uint64_t fc = __readmsr(VMX_MSR_FEATURE_CONTROL);
    if (!(fc & VMX_FEATURE_CONTROL_LOCK)) {
        __writemsr(VMX_MSR_FEATURE_CONTROL, fc | VMX_FEATURE_CONTROL_LOCK | VMX_FEATURE_CONTROL_VMX);
    } else if (!(fc & VMX_FEATURE_CONTROL_VMX)) {
        return fail(v, "VMX is locked off in IA32_FEATURE_CONTROL");
    }
    x->basic = __readmsr(VMX_MSR_BASIC);
    x->misc = __readmsr(VMX_MSR_MISC);
    x->cr0_fixed0 = __readmsr(VMX_MSR_CR0_FIXED0);
    x->cr0_fixed1 = __readmsr(VMX_MSR_CR0_FIXED1);
    x->cr4_fixed0 = __readmsr(VMX_MSR_CR4_FIXED0);
    x->cr4_fixed1 = __readmsr(VMX_MSR_CR4_FIXED1);
    if (!negotiate_all(v)) {
        return false;
    }
    x->ept_caps = __readmsr(VMX_MSR_EPT_VPID_CAP);
    if (!(x->ept_caps & VMX_EPT_CAP_WALK_4) || !(x->ept_caps & VMX_EPT_CAP_WB)) {
        return fail(v, "this processor model's EPT has no 4-level walk or no write-back");
    }
    return true;
}

/* A GDT of the VMM's own when there is no task register yet: VM entry wants one for the host. */
static bool host_task_register(struct vmm *v)
{
    uint64_t pa;
    if (_str() & 0xfff8) {
        return true;
    }
    uint64_t *gdt = mem_alloc(v, 2, &pa); /* one page of GDT, one of TSS */
    if (!gdt) {
        return fail(v, "no room for the host's GDT");
    }
    unsigned cs = _readcs() >> 3, ss = _readss() >> 3, tr = (cs > ss ? cs : ss) + 1;
    uint64_t tss = pa + VMM_PAGE;
    if (tr > 500) {
        return fail(v, "the host's selectors make no sense");
    }
    for (unsigned i = 1; i < tr; i++) {
        gdt[i] = UINT64_C(0x00cf93000000ffff);
    }
    gdt[cs] = cs ? UINT64_C(0x00af9b000000ffff) : 0;
    gdt[tr] = UINT64_C(0x0000890000000067) | (tss & 0xffffff) << 16 | (tss >> 24 & 0xff) << 56;
    gdt[tr + 1] = tss >> 32;
    struct __attribute__((packed)) {
        uint16_t limit;
        uint64_t base;
    } gdtr = {(uint16_t)(tr * 8 + 15), pa};
    _lgdt(&gdtr);
    _ltr((unsigned short)(tr << 3));
    return true;
}

static void write_host_state(struct vmm *v)
{
    struct __attribute__((packed)) {
        uint16_t limit;
        uint64_t base;
    } gdtr, idtr;
    _sgdt(&gdtr);
    __sidt(&idtr);
    uint16_t tr = _str() & 0xfff8, cs = _readcs() & 0xfff8;
    uint64_t tss = 0;
    const uint64_t *d = vmenter_host_ptr(v->config.machine, gdtr.base + tr, 16);
    if (d) {
        tss = (d[0] >> 16 & 0xffffff) | (d[0] >> 56) << 24 | d[1] << 32;
    }
    wr(VMCS_HOST_CR0, __readcr0());
    wr(VMCS_HOST_CR3, __readcr3());
    wr(VMCS_HOST_CR4, __readcr4());
    wr(VMCS_HOST_CS_SELECTOR, cs ? cs : 8);
    wr(VMCS_HOST_SS_SELECTOR, _readss() & 0xfff8);
    wr(VMCS_HOST_DS_SELECTOR, _readds() & 0xfff8);
    wr(VMCS_HOST_ES_SELECTOR, _reades() & 0xfff8);
    wr(VMCS_HOST_FS_SELECTOR, _readfs() & 0xfff8);
    wr(VMCS_HOST_GS_SELECTOR, _readgs() & 0xfff8);
    wr(VMCS_HOST_TR_SELECTOR, tr);
    wr(VMCS_HOST_FS_BASE, __readmsr(MSR_FS_BASE));
    wr(VMCS_HOST_GS_BASE, __readmsr(MSR_GS_BASE));
    wr(VMCS_HOST_TR_BASE, tss);
    wr(VMCS_HOST_GDTR_BASE, gdtr.base);
    wr(VMCS_HOST_IDTR_BASE, idtr.base);
    wr(VMCS_HOST_EFER, __readmsr(MSR_EFER));
    wr(VMCS_HOST_PAT, __readmsr(MSR_PAT));
    wr(VMCS_HOST_SYSENTER_CS, __readmsr(MSR_SYSENTER_CS));
    wr(VMCS_HOST_SYSENTER_ESP, __readmsr(MSR_SYSENTER_ESP));
    wr(VMCS_HOST_SYSENTER_EIP, __readmsr(MSR_SYSENTER_EIP));
}

static void write_masks(struct vmm *v)
{
    struct hv_vmx_state *x = v->vmx;
    /* Host-owned: what must keep a value, and cache control, which the guest may believe in but not have. */
    uint64_t pe_pg = x->unrestricted ? CR0_PE | CR0_PG : 0;
    x->cr0_mask = (x->cr0_fixed0 & ~pe_pg) | CR0_CD | CR0_NW | (x->unrestricted ? 0 : CR0_PE | CR0_PG);
    x->cr4_mask = x->cr4_fixed0 | ~x->cr4_fixed1 | CR4_VMXE;
    if (x->unpaged) {
        x->cr4_mask = UINT64_MAX;
    }
    /* Features that we hide must not be turned on: those bits are seen by write_cr4() too. */
    x->cr4_mask |= ~UINT64_C(0x771fff) | CR4_LA57 | UINT64_C(1) << 14;
    wr(VMCS_CR0_GUEST_HOST_MASK, x->cr0_mask);
    wr(VMCS_CR4_GUEST_HOST_MASK, x->cr4_mask);
}

static bool build_vmcs(struct vmm *v)
{
    struct hv_vmx_state *x = v->vmx;
    uint64_t bitmap_pa;
    x->msr_bitmap = mem_alloc(v, 1, &bitmap_pa);
    if (!x->msr_bitmap || !host_task_register(v)) {
        return x->msr_bitmap ? false : fail(v, "no room for the MSR bitmap");
    }
    memset(x->msr_bitmap, 0xff, VMM_PAGE);
    if (__vmx_vmclear(&x->vmcs_pa) || __vmx_vmptrld(&x->vmcs_pa)) {
        return fail(v, "VMCLEAR or VMPTRLD failed");
    }
    wr(VMCS_PIN_CONTROLS, x->pin);
    wr(VMCS_PROC_CONTROLS, x->proc);
    wr(VMCS_PROC2_CONTROLS, x->proc2);
    wr(VMCS_EXIT_CONTROLS, x->exit);
    wr(VMCS_ENTRY_CONTROLS, x->entry);
    wr(VMCS_MSR_BITMAPS, bitmap_pa);
    wr(VMCS_EXCEPTION_BITMAP, 0);
    x->eptp = v->second | VMX_EPTP_WALK_4 | VMX_EPTP_WB;
    wr(VMCS_EPT_POINTER, x->eptp);
    if (x->proc2 & VMX_PROC2_ENABLE_VPID) {
        wr(VMCS_VPID, GUEST_VPID);
    }
    if (x->proc2 & VMX_PROC2_ENABLE_XSAVES) {
        wr(VMCS_XSS_EXITING_BITMAP, 0);
    }
    wr(VMCS_VMCS_LINK_POINTER, UINT64_MAX);
    wr(VMCS_GUEST_ACTIVITY_STATE, VMX_ACTIVITY_ACTIVE);
    wr(VMCS_GUEST_INTERRUPTIBILITY_STATE, 0);
    wr(VMCS_TSC_OFFSET, 0);
    write_host_state(v);
    write_masks(v);
    return true;
}

static bool build_identity(struct vmm *v, const struct second_format *f)
{
    uint64_t pa;
    uint32_t *t = mem_alloc(v, 1, &pa);
    if (!t || !mem_map_second(v, f, IDENTITY_GPA, pa)) {
        return fail(v, "no room for the identity page table");
    }
    for (uint32_t i = 0; i < 1024; i++) {
        t[i] = i << 22 | 0xe7; /* present, writable, user, accessed, dirty, 4 MiB */
    }
    return true;
}

static void vmx_off(struct vmm *v)
{
    struct hv_vmx_state *x = v->vmx;
    if (x && x->on) {
        __vmx_vmclear(&x->vmcs_pa);
        __vmx_off();
        __writecr4(__readcr4() & ~CR4_VMXE);
    }
    free(x);
    v->vmx = NULL;
}

static bool vmx_init(struct vmm *v)
{
    struct hv_vmx_state *x = v->vmx = calloc(1, sizeof(*x));
    if (!x || !vmx_check(v)) {
        vmx_off(v);
        return false;
    }
    uint64_t rwx = VMX_EPT_READ | VMX_EPT_WRITE | VMX_EPT_EXECUTE, leaf = rwx | VMX_EPT_MEMORY_TYPE(VMX_EPTP_WB);
    const struct second_format ept = {
        .table = rwx, .leaf = leaf, .large = x->ept_caps & VMX_EPT_CAP_2M ? leaf | VMX_EPT_LARGE : 0};
    uint32_t *vmxon = mem_alloc(v, 1, &x->vmxon_pa), *vmcs = mem_alloc(v, 1, &x->vmcs_pa);
    if (!vmxon || !vmcs || !mem_build_second(v, &ept) || (!x->unrestricted && !build_identity(v, &ept))) {
        vmx_off(v);
        return false;
    }
    *vmxon = *vmcs = VMX_BASIC_REVISION(x->basic);
    __writecr0((__readcr0() | x->cr0_fixed0) & x->cr0_fixed1);
    __writecr4((__readcr4() | x->cr4_fixed0 | CR4_VMXE) & x->cr4_fixed1);
    if (__vmx_on(&x->vmxon_pa)) {
        vmx_off(v);
        return fail(v, "VMXON failed");
    }
    x->on = true;
    if (!build_vmcs(v)) {
        vmx_off(v);
        return false;
    }
    return true;
}

static void write_proc(struct hv_vmx_state *x, uint32_t bits, bool on)
{
    uint32_t proc = on ? x->proc | bits : x->proc & ~bits;
    if (proc != x->proc) {
        x->proc = proc;
        wr(VMCS_PROC_CONTROLS, proc);
    }
}

/* ---- entry ---------------------------------------------------------------------------------------------------- */

static const char *error_text(uint64_t n)
{
    static const char *const text[] = {
#define VMX_ERR(number, name, t) [number] = t,
#include <vmenter/arch/vmx_err.def>
#undef VMX_ERR
    };
    return n < sizeof(text) / sizeof(*text) && text[n] ? text[n] : "unknown error";
}

static void flush_now(struct vmm *v)
{
    struct hv_vmx_state *x = v->vmx;
    x->flush = false;
    if (x->proc2 & VMX_PROC2_ENABLE_VPID) {
        struct vmx_invvpid_descriptor d = {.vpid = GUEST_VPID};
        uint64_t single = VMX_VPID_CAP_INVVPID | VMX_VPID_CAP_INVVPID_SINGLE;
        __vmx_invvpid((x->ept_caps & single) == single ? VMX_INVVPID_SINGLE_CONTEXT : VMX_INVVPID_ALL_CONTEXT, &d);
    }
}

static bool vmx_enter(struct vmm *v, uint64_t until)
{
    struct hv_vmx_state *x = v->vmx;
    if (x->flush) {
        flush_now(v);
    }
    if (v->regs.reg[REG_RSP] != x->rsp) {
        x->rsp = v->regs.reg[REG_RSP];
        wr(VMCS_GUEST_RSP, x->rsp);
    }
    if (x->pin & VMX_PIN_ACTIVATE_PREEMPTION_TIMER) {
        unsigned rate = VMX_MISC_PREEMPTION_TIMER_RATE(x->misc);
        uint64_t now = __rdtsc(), ticks = until <= now ? 0 : ((until - now - 1) >> rate) + 1;
        wr(VMCS_PREEMPTION_TIMER_VALUE, ticks < UINT32_MAX ? ticks : UINT32_MAX);
    } else {
        host_timer_arm(v, until);
    }
    unsigned char failed = x->launched ? vmenter_vmresume(&v->regs) : vmenter_vmlaunch(&v->regs);
    if (failed) {
        uint64_t n = failed == 1 ? rd(VMCS_VM_INSTRUCTION_ERROR) : 0;
        snprintf(v->error, sizeof(v->error), "%s failed: %s (%llu)", x->launched ? "VMRESUME" : "VMLAUNCH",
                 failed == 1 ? error_text(n) : "there is no current VMCS", (unsigned long long)n);
        return false;
    }
    x->launched = true;
    x->rsp = rd(VMCS_GUEST_RSP);
    v->regs.reg[REG_RSP] = x->rsp;
    return true;
}

/* The guest itself is halted, and the preemption timer ends that. */
static bool vmx_wait(struct vmm *v, uint64_t until)
{
    if (!(v->vmx->pin & VMX_PIN_ACTIVATE_PREEMPTION_TIMER) || !(v->vmx->misc & VMX_MISC_ACTIVITY_HLT)) {
        return fail(v, "this processor model has no timer to sleep by");
    }
    wr(VMCS_GUEST_ACTIVITY_STATE, VMX_ACTIVITY_HLT);
    bool ok = vmx_enter(v, until);
    wr(VMCS_GUEST_ACTIVITY_STATE, VMX_ACTIVITY_ACTIVE);
    return ok;
}

/* ---- exits ---------------------------------------------------------------------------------------------------- */

static const char *exit_name(uint64_t n)
{
    static const char *const text[] = {
#define VMX_EXIT(number, name, valid, t) [number] = #name,
#include <vmenter/arch/vmx_exit.def>
#undef VMX_EXIT
    };
    return n < sizeof(text) / sizeof(*text) && text[n] ? text[n] : "unknown reason";
}

static void decode_io(struct vmm *v, struct exit *e, uint64_t q)
{
    e->kind = EXIT_IO;
    e->io.port = (uint16_t)(q >> 16);
    e->io.size = (uint8_t)((q & 7) + 1);
    e->io.in = q & 8;
    e->io.string = q & 16;
    e->io.rep = q & 32;
    e->io.seg = HV_DS;
    if (e->io.string) {
        e->io.addr_size = (uint8_t)(vmm_code_bits(v) / 8);
        if (v->vmx->basic & VMX_BASIC_INS_OUTS_INFO) {
            uint64_t info = rd(VMCS_EXIT_INSTRUCTION_INFO);
            e->io.addr_size = (uint8_t)(2u << (info >> 7 & 7));
            e->io.seg = info >> 15 & 7;
        }
    }
}

static void decode_vectoring(struct exit *e)
{
    uint64_t in = rd(VMCS_IDT_VECTORING_INFO);
    unsigned type = VMX_INTR_TYPE(in);
    /* Software interrupts and exceptions are executed again instead. */
    if ((in & VMX_INTR_VALID) &&
        (type == VMX_EVENT_EXTERNAL_INTERRUPT || type == VMX_EVENT_NMI || type == VMX_EVENT_HARDWARE_EXCEPTION)) {
        e->vectoring = (struct event){
            .valid = true, .vector = in & 0xff, .type = (uint8_t)type, .has_error = in & VMX_INTR_ERROR_CODE};
        if (e->vectoring.has_error) {
            e->vectoring.error = (uint32_t)rd(VMCS_IDT_VECTORING_ERROR_CODE);
        }
    }
}

static void vmx_decode(struct vmm *v, struct exit *e)
{
    uint64_t reason = rd(VMCS_EXIT_REASON), q = rd(VMCS_EXIT_QUALIFICATION);
    uint32_t basic = VMX_REASON_BASIC(reason);
    *e = (struct exit){.reason = basic, .info = {q, 0}, .name = exit_name(basic)};
    if (reason & VMX_REASON_ENTRY_FAILURE) {
        e->kind = EXIT_ENTRY_FAILED;
        return;
    }
    decode_vectoring(e);
    switch (basic) {
    case VMX_REASON_EXCEPTION_OR_NMI: {
        uint64_t info = rd(VMCS_EXIT_INTERRUPTION_INFO);
        e->kind = VMX_INTR_TYPE(info) == VMX_EVENT_NMI ? EXIT_NMI : EXIT_EXCEPTION;
        e->exc.vector = info & 0xff;
        e->exc.error = (uint32_t)rd(VMCS_EXIT_INTERRUPTION_ERROR_CODE);
        return;
    }
    case VMX_REASON_EXTERNAL_INTERRUPT: /* not acknowledged: the host takes it */
        e->kind = EXIT_INTERRUPT;
        _enable();
        _disable();
        return;
    case VMX_REASON_PREEMPTION_TIMER_EXPIRED: e->kind = EXIT_TIMER; return;
    case VMX_REASON_INTERRUPT_WINDOW: e->kind = EXIT_WINDOW; return;
    case VMX_REASON_NMI_WINDOW:
        e->kind = EXIT_NMI_WINDOW;
        write_proc(v->vmx, VMX_PROC_NMI_WINDOW_EXITING, false);
        return;
    case VMX_REASON_TRIPLE_FAULT: e->kind = EXIT_TRIPLE; return;
    case VMX_REASON_EPT_VIOLATION:
        e->kind = EXIT_SECOND;
        e->mem.gpa = e->info[1] = rd(VMCS_GUEST_PHYSICAL_ADDRESS);
        e->mem.write = q & 2;
        e->mem.fetch = q & 4;
        e->mem.table = (q & 0x80) && !(q & 0x100);
        return;
    case VMX_REASON_EPT_MISCONFIGURATION:
        e->info[1] = rd(VMCS_GUEST_PHYSICAL_ADDRESS);
        e->kind = EXIT_UNEXPECTED;
        return;
    }
    e->len = (uint8_t)rd(VMCS_EXIT_INSTRUCTION_LENGTH);
    switch (basic) {
    case VMX_REASON_CPUID: e->kind = EXIT_CPUID; break;
    case VMX_REASON_HLT: e->kind = EXIT_HLT; break;
    case VMX_REASON_INVD:
    case VMX_REASON_WBINVD: e->kind = EXIT_CACHE; break;
    case VMX_REASON_PAUSE: e->kind = EXIT_PAUSE; break;
    case VMX_REASON_XSETBV: e->kind = EXIT_XSETBV; break;
    case VMX_REASON_RDMSR: e->kind = EXIT_RDMSR; break;
    case VMX_REASON_WRMSR: e->kind = EXIT_WRMSR; break;
    case VMX_REASON_IO_INSTRUCTION: decode_io(v, e, q); break;
    case VMX_REASON_CONTROL_REGISTER_ACCESS:
        e->kind = EXIT_CR;
        e->cr.cr = q & 15;
        e->cr.op = q >> 4 & 3;
        e->cr.gpr = q >> 8 & 15;
        e->cr.lmsw = (uint16_t)(q >> 16);
        break;
    case VMX_REASON_RDPMC: e->kind = EXIT_FORBIDDEN; break;
    case VMX_REASON_GETSEC:
    case VMX_REASON_VMCALL ... VMX_REASON_VMXON:
    case VMX_REASON_MONITOR:
    case VMX_REASON_MWAIT:
    case VMX_REASON_INVEPT:
    case VMX_REASON_INVVPID: e->kind = EXIT_UNDEFINED; break;
    default: e->kind = EXIT_UNEXPECTED; break;
    }
}

/* ---- guest state ---------------------------------------------------------------------------------------------- */

static uint64_t vmx_get(struct vmm *v, enum hv_reg r)
{
    struct hv_vmx_state *x = v->vmx;
    switch (r) {
    case HV_RIP: return rd(VMCS_GUEST_RIP);
    case HV_RSP: return v->regs.reg[REG_RSP];
    case HV_RFLAGS: return rd(VMCS_GUEST_RFLAGS);
    case HV_CR0: return (rd(VMCS_GUEST_CR0) & ~x->cr0_mask) | (rd(VMCS_CR0_READ_SHADOW) & x->cr0_mask);
    case HV_CR2: return __readcr2(); /* not in the VMCS: the guest's stays in the processor */
    case HV_CR3: return x->unpaged ? x->guest_cr3 : rd(VMCS_GUEST_CR3);
    case HV_CR4: return (rd(VMCS_GUEST_CR4) & ~x->cr4_mask) | (rd(VMCS_CR4_READ_SHADOW) & x->cr4_mask);
    case HV_EFER: return x->unpaged ? x->guest_efer : rd(VMCS_GUEST_EFER);
    case HV_DR7: return rd(VMCS_GUEST_DR7);
    case HV_PAT: return rd(VMCS_GUEST_PAT);
    case HV_SYSENTER_CS: return rd(VMCS_GUEST_SYSENTER_CS);
    case HV_SYSENTER_ESP: return rd(VMCS_GUEST_SYSENTER_ESP);
    case HV_SYSENTER_EIP: return rd(VMCS_GUEST_SYSENTER_EIP);
    case HV_DEBUGCTL: return rd(VMCS_GUEST_DEBUGCTL);
    case HV_TSC_OFFSET: return rd(VMCS_TSC_OFFSET);
    default: return 0;
    }
}

static void set_cr4(struct vmm *v, uint64_t value)
{
    struct hv_vmx_state *x = v->vmx;
    uint64_t real = (value | x->cr4_fixed0) & x->cr4_fixed1;
    if (x->unpaged) {
        real = (real & ~(CR4_PAE | CR4_LA57)) | CR4_PSE;
    }
    wr(VMCS_GUEST_CR4, real);
    wr(VMCS_CR4_READ_SHADOW, value);
}

/* With paging on and outside long mode LME must be clear, whatever an unpaged guest has prepared. */
static void set_efer(struct vmm *v, uint64_t value)
{
    struct hv_vmx_state *x = v->vmx;
    uint64_t real = x->unpaged ? value & ~(EFER_LME | EFER_LMA) : value;
    uint32_t ia32e = VMX_ENTRY_IA32E_MODE_GUEST;
    x->guest_efer = value;
    wr(VMCS_GUEST_EFER, real);
    wr(VMCS_ENTRY_CONTROLS, real & EFER_LMA ? x->entry | ia32e : x->entry & ~ia32e);
}

/* PE and PG are the guest's wish here; without unrestricted guest the processor has both on always. */
static void set_cr0(struct vmm *v, uint64_t value)
{
    struct hv_vmx_state *x = v->vmx;
    uint64_t fixed0 = x->cr0_fixed0, real;
    if (x->unrestricted) {
        fixed0 &= ~(CR0_PE | CR0_PG);
    } else if (!(value & CR0_PE)) {
        vmm_stop(v, VMM_CRASH,
                 "the guest enters real mode, which this processor model cannot do (no unrestricted guest): choose "
                 "another --cpu");
        return;
    } else if (!(value & CR0_PG) != x->unpaged) {
        uint64_t cr3 = vmx_get(v, HV_CR3), cr4 = vmx_get(v, HV_CR4), efer = vmx_get(v, HV_EFER);
        x->unpaged = !x->unpaged;
        x->guest_cr3 = cr3;
        wr(VMCS_GUEST_CR3, x->unpaged ? IDENTITY_GPA : cr3);
        write_proc(x, VMX_PROC_CR3_LOAD_EXITING | VMX_PROC_CR3_STORE_EXITING, x->unpaged);
        write_masks(v);
        set_cr4(v, cr4);
        set_efer(v, efer);
        x->flush = true;
    }
    real = ((value & ~(CR0_CD | CR0_NW)) | fixed0) & x->cr0_fixed1;
    wr(VMCS_GUEST_CR0, real);
    wr(VMCS_CR0_READ_SHADOW, value);
}

/* PAE paging under EPT: the PDPTEs are VMCS fields, loaded where MOV CR would have loaded them. */
static void load_pdptes(struct vmm *v)
{
    if (!(vmx_get(v, HV_CR0) & CR0_PG) || !(vmx_get(v, HV_CR4) & CR4_PAE) || (vmx_get(v, HV_EFER) & EFER_LMA)) {
        return;
    }
    const uint64_t *p = mem_guest(v, vmx_get(v, HV_CR3) & 0xffffffe0, 32);
    for (unsigned i = 0; p && i < 4; i++) {
        wr(VMCS_GUEST_PDPTE0 + 2 * i, p[i]);
    }
}

static void vmx_set(struct vmm *v, enum hv_reg r, uint64_t value)
{
    struct hv_vmx_state *x = v->vmx;
    switch (r) {
    case HV_RIP: wr(VMCS_GUEST_RIP, value); break;
    case HV_RSP: v->regs.reg[REG_RSP] = value; break;
    case HV_RFLAGS: wr(VMCS_GUEST_RFLAGS, value); break;
    case HV_CR0:
        set_cr0(v, value);
        load_pdptes(v);
        break;
    case HV_CR2: __writecr2(value); break;
    case HV_CR3:
        x->guest_cr3 = value;
        if (!x->unpaged) {
            wr(VMCS_GUEST_CR3, value);
            load_pdptes(v);
        }
        break;
    case HV_CR4:
        set_cr4(v, value);
        load_pdptes(v);
        break;
    case HV_EFER: set_efer(v, value); break;
    case HV_DR7: wr(VMCS_GUEST_DR7, value); break;
    case HV_PAT: wr(VMCS_GUEST_PAT, value); break;
    case HV_SYSENTER_CS: wr(VMCS_GUEST_SYSENTER_CS, value); break;
    case HV_SYSENTER_ESP: wr(VMCS_GUEST_SYSENTER_ESP, value); break;
    case HV_SYSENTER_EIP: wr(VMCS_GUEST_SYSENTER_EIP, value); break;
    case HV_DEBUGCTL: wr(VMCS_GUEST_DEBUGCTL, value); break;
    case HV_TSC_OFFSET: wr(VMCS_TSC_OFFSET, value); break;
    default: break;
    }
}

static void vmx_get_seg(struct vmm *v, enum hv_seg s, struct hv_segment *out)
{
    *out = (struct hv_segment){0};
    switch (s) {
    case HV_GDTR:
        out->base = rd(VMCS_GUEST_GDTR_BASE);
        out->limit = (uint32_t)rd(VMCS_GUEST_GDTR_LIMIT);
        return;
    case HV_IDTR:
        out->base = rd(VMCS_GUEST_IDTR_BASE);
        out->limit = (uint32_t)rd(VMCS_GUEST_IDTR_LIMIT);
        return;
    default: /* the fields of the segment registers stand in this order, two encodings apart */
        out->sel = (uint16_t)rd(VMCS_GUEST_ES_SELECTOR + 2 * s);
        out->base = rd(VMCS_GUEST_ES_BASE + 2 * s);
        out->limit = (uint32_t)rd(VMCS_GUEST_ES_LIMIT + 2 * s);
        out->ar = (uint32_t)rd(VMCS_GUEST_ES_ACCESS_RIGHTS + 2 * s);
        return;
    }
}

static void vmx_set_seg(struct vmm *v, enum hv_seg s, const struct hv_segment *in)
{
    switch (s) {
    case HV_GDTR:
        wr(VMCS_GUEST_GDTR_BASE, in->base);
        wr(VMCS_GUEST_GDTR_LIMIT, in->limit);
        return;
    case HV_IDTR:
        wr(VMCS_GUEST_IDTR_BASE, in->base);
        wr(VMCS_GUEST_IDTR_LIMIT, in->limit);
        return;
    default:
        wr(VMCS_GUEST_ES_SELECTOR + 2 * s, in->sel);
        wr(VMCS_GUEST_ES_BASE + 2 * s, in->base);
        wr(VMCS_GUEST_ES_LIMIT + 2 * s, in->limit);
        wr(VMCS_GUEST_ES_ACCESS_RIGHTS + 2 * s, in->ar);
        return;
    }
}

static unsigned vmx_cpl(struct vmm *v)
{
    return VMX_AR_DPL((uint32_t)rd(VMCS_GUEST_SS_ACCESS_RIGHTS));
}

/* ---- events --------------------------------------------------------------------------------------------------- */

static void vmx_inject(struct vmm *v, const struct event *e)
{
    if (!e->valid) {
        return; /* the valid bit is cleared by the exit */
    }
    uint32_t info = VMX_INTR_VALID | (uint32_t)e->type << VMX_INTR_TYPE_SHIFT | e->vector;
    if (e->has_error && (vmx_get(v, HV_CR0) & CR0_PE)) {
        info |= VMX_INTR_ERROR_CODE;
        wr(VMCS_ENTRY_EXCEPTION_ERROR_CODE, e->error);
    }
    wr(VMCS_ENTRY_INSTRUCTION_LENGTH, e->len);
    wr(VMCS_ENTRY_INTERRUPTION_INFO, info);
}

static bool vmx_can_interrupt(struct vmm *v)
{
    return (rd(VMCS_GUEST_RFLAGS) & RFLAGS_IF) &&
           !(rd(VMCS_GUEST_INTERRUPTIBILITY_STATE) & (VMX_BLOCKING_BY_STI | VMX_BLOCKING_BY_MOV_SS));
}

static void vmx_set_window(struct vmm *v, bool on)
{
    write_proc(v->vmx, VMX_PROC_INTERRUPT_WINDOW_EXITING, on);
}

static bool vmx_can_nmi(struct vmm *v)
{
    return !(v->vmx->pin & VMX_PIN_VIRTUAL_NMIS) ||
           !(rd(VMCS_GUEST_INTERRUPTIBILITY_STATE) &
             (VMX_BLOCKING_BY_NMI | VMX_BLOCKING_BY_STI | VMX_BLOCKING_BY_MOV_SS));
}

static void vmx_want_nmi(struct vmm *v)
{
    if (v->vmx->pin & VMX_PIN_VIRTUAL_NMIS) {
        write_proc(v->vmx, VMX_PROC_NMI_WINDOW_EXITING, true);
    }
}

static void vmx_end_shadow(struct vmm *v)
{
    uint64_t s = rd(VMCS_GUEST_INTERRUPTIBILITY_STATE);
    if (s & (VMX_BLOCKING_BY_STI | VMX_BLOCKING_BY_MOV_SS)) {
        wr(VMCS_GUEST_INTERRUPTIBILITY_STATE, s & ~(uint64_t)(VMX_BLOCKING_BY_STI | VMX_BLOCKING_BY_MOV_SS));
    }
}

static void vmx_single_step(struct vmm *v)
{
    wr(VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS, rd(VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS) | VMX_PENDING_DBG_BS);
}

static void vmx_flush(struct vmm *v)
{
    v->vmx->flush = true;
}

/* "MSR-Bitmap Address": read low, read high, write low, write high, 1 KiB each. */
static void vmx_pass_msr(struct vmm *v, uint32_t msr, bool read, bool write)
{
    bool high = msr >= 0xc0000000;
    uint32_t n = high ? msr - 0xc0000000 : msr;
    if (n > 0x1fff) {
        return;
    }
    uint8_t *r = v->vmx->msr_bitmap + (high ? 1024 : 0) + n / 8, *w = r + 2048, bit = (uint8_t)(1 << n % 8);
    *r = read ? *r & ~bit : *r | bit;
    *w = write ? *w & ~bit : *w | bit;
}

static unsigned vmx_insn_bytes(struct vmm *v, uint8_t out[15])
{
    return 0;
}

const struct hv_ops hv_vmx = {
    .name = "VMX",
    .vendor = "GenuineIntel",
    .init = vmx_init,
    .off = vmx_off,
    .enter = vmx_enter,
    .wait = vmx_wait,
    .decode = vmx_decode,
    .get = vmx_get,
    .set = vmx_set,
    .get_seg = vmx_get_seg,
    .set_seg = vmx_set_seg,
    .cpl = vmx_cpl,
    .inject = vmx_inject,
    .can_interrupt = vmx_can_interrupt,
    .set_window = vmx_set_window,
    .can_nmi = vmx_can_nmi,
    .want_nmi = vmx_want_nmi,
    .end_shadow = vmx_end_shadow,
    .single_step = vmx_single_step,
    .flush = vmx_flush,
    .pass_msr = vmx_pass_msr,
    .insn_bytes = vmx_insn_bytes,
};
