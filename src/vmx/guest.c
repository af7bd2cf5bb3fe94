/* SPDX-License-Identifier: MIT
 *
 * guest.c: VMX non-root operation as the processor's rooms see it: which instructions and events exit, with which
 * information, and how instructions that do not exit behave differently.
 *
 * SDM volume 3C, "VMX Non-Root Operation"; the exit qualifications: "Basic VM-Exit Information", "VM-Exit
 * Instruction-Information Field".
 */
#include "src/vmx/vmx_int.h"

#include "src/cpu/op.h"

uint64_t vmx_intercepts(const struct vmcs *v)
{
    uint32_t pin = (uint32_t)v->f[F_PIN_CONTROLS], proc = (uint32_t)v->f[F_PROC_CONTROLS], proc2 = vmx_proc2(v->f);
    /* "Instructions That Cause VM Exits Unconditionally"; accesses that masks, shadows or bitmaps decide. */
    uint64_t m = BIT(ICPT_CPUID) | BIT(ICPT_GETSEC) | BIT(ICPT_INVD) | BIT(ICPT_XSETBV) | BIT(ICPT_VMCALL) |
                 BIT(ICPT_TASK_SWITCH) | BIT(ICPT_CR) | BIT(ICPT_MSR) | BIT(ICPT_RSM) | BIT(ICPT_EXCEPTION);
    static const struct {
        uint32_t control;
        uint64_t icpt;
    } primary[] = {
        {VMX_PROC_HLT_EXITING, BIT(ICPT_HLT)},
        {VMX_PROC_INVLPG_EXITING, BIT(ICPT_INVLPG) | BIT(ICPT_INVPCID)},
        {VMX_PROC_MWAIT_EXITING, BIT(ICPT_MWAIT)},
        {VMX_PROC_MONITOR_EXITING, BIT(ICPT_MONITOR)},
        {VMX_PROC_RDPMC_EXITING, BIT(ICPT_RDPMC)},
        {VMX_PROC_RDTSC_EXITING, BIT(ICPT_RDTSC) | BIT(ICPT_RDTSCP) | BIT(ICPT_UMWAIT) | BIT(ICPT_TPAUSE)},
        {VMX_PROC_PAUSE_EXITING, BIT(ICPT_PAUSE)},
        {VMX_PROC_MOV_DR_EXITING, BIT(ICPT_DR)},
        {VMX_PROC_UNCONDITIONAL_IO_EXITING, BIT(ICPT_IO)},
        {VMX_PROC_USE_IO_BITMAPS, BIT(ICPT_IO)},
    };
    static const struct {
        uint32_t control;
        uint64_t icpt;
    } secondary[] = {
        {VMX_PROC2_WBINVD_EXITING, BIT(ICPT_WBINVD)},
        {VMX_PROC2_PAUSE_LOOP_EXITING, BIT(ICPT_PAUSE)},
        {VMX_PROC2_RDRAND_EXITING, BIT(ICPT_RDRAND)},
        {VMX_PROC2_RDSEED_EXITING, BIT(ICPT_RDSEED)},
        {VMX_PROC2_DESCRIPTOR_TABLE_EXITING, BIT(ICPT_SIDT) | BIT(ICPT_SGDT) | BIT(ICPT_SLDT) | BIT(ICPT_STR) |
                                                 BIT(ICPT_LIDT) | BIT(ICPT_LGDT) | BIT(ICPT_LLDT) | BIT(ICPT_LTR)},
    };
    /* "Changes to Instruction Behavior in VMX Non-Root Operation": #UD without the control. */
    static const struct {
        uint32_t control;
        uint64_t icpt;
    } enabled[] = {
        {VMX_PROC2_ENABLE_RDTSCP, BIT(ICPT_RDTSCP) | BIT(ICPT_RDPID)},
        {VMX_PROC2_ENABLE_INVPCID, BIT(ICPT_INVPCID)},
        {VMX_PROC2_ENABLE_XSAVES, BIT(ICPT_XSAVES) | BIT(ICPT_XRSTORS)},
        {VMX_PROC2_ENABLE_USER_WAIT_AND_PAUSE, BIT(ICPT_UMWAIT) | BIT(ICPT_TPAUSE)},
    };
    for (unsigned i = 0; i < ARRAY_LEN(primary); i++)
        if (proc & primary[i].control)
            m |= primary[i].icpt;
    for (unsigned i = 0; i < ARRAY_LEN(secondary); i++)
        if (proc2 & secondary[i].control)
            m |= secondary[i].icpt;
    for (unsigned i = 0; i < ARRAY_LEN(enabled); i++)
        if (!(proc2 & enabled[i].control))
            m |= enabled[i].icpt;
    if (proc2 & VMX_PROC2_ENABLE_XSAVES) /* by the XSS-exiting bitmap */
        m |= BIT(ICPT_XSAVES) | BIT(ICPT_XRSTORS);
    if (pin & VMX_PIN_EXTERNAL_INTERRUPT_EXITING)
        m |= BIT(ICPT_INTR);
    if (pin & VMX_PIN_NMI_EXITING)
        m |= BIT(ICPT_NMI);
    return m;
}

/* --- instructions
 * ------------------------------------------------------------------------------------------------------ */

static const uint16_t reasons[ICPT_COUNT] = {
#define ICPT(name, vmx, svm) [ICPT_##name] = vmx,
#include "src/arch/intercept.def"
#undef ICPT
};

static bool undefined(struct cpu *c)
{
    cpu_raise(c, EXC_UD, 0);
    return true;
}

/* LGDT and the like: which one of its exit reason's instructions it was. "VM-Exit Instruction Information: LIDT, LGDT,
 * SIDT, or SGDT". */
static uint32_t table_info(const struct cpu *c, const struct op *o, enum icpt what)
{
    switch (what) {
    case ICPT_SGDT:
    case ICPT_SIDT:
    case ICPT_LGDT:
    case ICPT_LIDT: {
        uint32_t identity = what == ICPT_SGDT ? 0 : what == ICPT_SIDT ? 1 : what == ICPT_LGDT ? 2 : 3;
        return (vmx_insn_info(o) & 0x0fffffff & ~(uint32_t)BIT(11)) | ((o->size & 15) >= 2 ? (uint32_t)BIT(11) : 0) |
               identity << 28;
    }
    default: {
        uint32_t identity = what == ICPT_SLDT ? 0 : what == ICPT_STR ? 1 : what == ICPT_LLDT ? 2 : 3;
        return (vmx_insn_info(o) & 0x0fffffff) | identity << 28;
    }
    }
}

/* "PAUSE-loop exiting". */
static bool pause_loop(struct cpu *c)
{
    struct vmx_cpu *x = vmx_of(c);
    uint64_t now = cpu_tsc(c), last = x->pause_last;
    if (c->cpl)
        return false;
    x->pause_last = now;
    if (!last || now - last > x->cur->f[F_PLE_GAP]) {
        x->pause_first = now;
        return false;
    }
    return now - x->pause_first > x->cur->f[F_PLE_WINDOW];
}

static bool guest_insn(struct cpu *c, enum icpt what, uint64_t info)
{
    struct vmx_cpu *x = vmx_of(c);
    const struct op *o = c->icpt_op;
    uint64_t qualification = 0;
    uint32_t insn_info = 0;
    switch (what) {
    case ICPT_RSM:                        /* outside SMM */
    case ICPT_RDPID: return undefined(c); /* on without "enable RDTSCP" alone */
    case ICPT_RDTSCP:
        if (!(x->proc2 & VMX_PROC2_ENABLE_RDTSCP))
            return undefined(c);
        break;
    case ICPT_INVPCID:
        if (!(x->proc2 & VMX_PROC2_ENABLE_INVPCID))
            return undefined(c);
        break;
    case ICPT_UMWAIT:
    case ICPT_TPAUSE:
        if (!(x->proc2 & VMX_PROC2_ENABLE_USER_WAIT_AND_PAUSE))
            return undefined(c);
        if (o)
            insn_info = (uint32_t)(o->r0 >> 3) << 3 | 1u << 11; /* a 32-bit register */
        break;
    case ICPT_XSAVES:
    case ICPT_XRSTORS: {
        if (!(x->proc2 & VMX_PROC2_ENABLE_XSAVES))
            return undefined(c);
        uint64_t rfbm = (uint32_t)c->gpr[GPR_RAX] | c->gpr[GPR_RDX] << 32;
        if (!(rfbm & c->xss & x->cur->f[F_XSS_EXITING_BITMAP]))
            return false;
        break;
    }
    case ICPT_INVLPG:
    case ICPT_MWAIT: qualification = info; break;
    case ICPT_RDRAND:
    case ICPT_RDSEED:
        if (o)
            insn_info = (uint32_t)(o->r0 >> 3) << 3 | ((uint32_t)(o->size & 15) - 1) << 11;
        break;
    case ICPT_SIDT:
    case ICPT_SGDT:
    case ICPT_LIDT:
    case ICPT_LGDT:
    case ICPT_SLDT:
    case ICPT_STR:
    case ICPT_LLDT:
    case ICPT_LTR:
        if (o)
            insn_info = table_info(c, o, what);
        break;
    case ICPT_PAUSE:
        if (!(x->proc & VMX_PROC_PAUSE_EXITING) && !pause_loop(c))
            return false;
        break;
    default: break;
    }
    if (o && (what == ICPT_INVPCID || what == ICPT_XSAVES || what == ICPT_XRSTORS))
        insn_info = vmx_insn_info(o) & (what == ICPT_INVPCID ? ~0u : 0x0fffffffu);
    if (o && what != ICPT_INVLPG && (o->flags & OPF_MEM))
        qualification = vmx_insn_displacement(c, o);
    vmx_exit_insn(c, NULL, reasons[what], qualification, insn_info);
    return true;
}

/* "I/O bitmaps". */
static bool guest_io(struct cpu *c, uint16_t port, unsigned size, bool in, bool string, bool rep, bool imm,
                     unsigned seg, unsigned asz, la_t la)
{
    struct vmx_cpu *x = vmx_of(c);
    struct vmcs *v = x->cur;
    if (x->proc & VMX_PROC_USE_IO_BITMAPS) {
        bool hit = port + size > 0x10000; /* wraps around */
        for (unsigned p = port; !hit && p < port + size; p++) {
            uint8_t byte;
            mem_read(c->mem, HPA(v->f[p & 0x8000 ? F_IO_BITMAP_B : F_IO_BITMAP_A] + (p & 0x7fff) / 8), &byte, 1);
            hit = byte >> (p & 7) & 1;
        }
        if (!hit)
            return false;
    }
    uint32_t info = 0;
    if (string) {
        info = (asz == 8 ? 2u : asz == 4 ? 1u : 0u) << 7 | (in ? 0 : (seg == SEG_NONE ? SEG_DS : seg) << 15);
        v->f[F_GUEST_LINEAR_ADDRESS] = la.v;
    }
    vmx_exit_insn(c, NULL, VMX_REASON_IO_INSTRUCTION,
                  (size - 1) | (uint64_t)in << 3 | (uint64_t)string << 4 | (uint64_t)rep << 5 | (uint64_t)imm << 6 |
                      (uint64_t)port << 16,
                  info);
    return true;
}

/* True: the instruction is done with, by completion or #GP. */
static bool apic_msr(struct cpu *c, uint32_t msr, bool write)
{
    switch (vmx_apic_msr(c, msr, write)) {
    case 0: return false;
    case 1:
        c->rip = (c->rip + c->insn_len) & c->ip_mask;
        c->icount++;
        return true;
    default: cpu_raise(c, EXC_GP, 0); return true;
    }
}

/* "MSR-Bitmap Address". */
static bool guest_msr(struct cpu *c, uint32_t msr, bool write)
{
    struct vmx_cpu *x = vmx_of(c);
    if (x->proc & VMX_PROC_USE_MSR_BITMAPS) {
        uint32_t low = msr & 0x1fff;
        if (msr == low || msr == (0xc0000000u | low)) {
            uint8_t byte;
            unsigned at = (msr == low ? 0 : 0x400) + (write ? 0x800 : 0) + low / 8;
            mem_read(c->mem, HPA(x->cur->f[F_MSR_BITMAPS] + at), &byte, 1);
            if (!(byte >> (low & 7) & 1))
                return apic_msr(c, msr, write);
        }
    }
    vmx_exit_insn(c, NULL, write ? VMX_REASON_WRMSR : VMX_REASON_RDMSR, 0, 0);
    return true;
}

/* "Exit Qualification for Control-Register Accesses"; "Changes to Instruction Behavior in VMX Non-Root Operation". */
enum { CR_TO, CR_FROM, CR_CLTS, CR_LMSW };

static bool cr_exit(struct cpu *c, unsigned cr, unsigned op, unsigned gpr, uint64_t source, bool mem, la_t la)
{
    if (op == CR_LMSW && mem)
        vmx_of(c)->cur->f[F_GUEST_LINEAR_ADDRESS] = la.v;
    vmx_exit_insn(c, NULL, VMX_REASON_CONTROL_REGISTER_ACCESS,
                  cr | op << 4 | (op == CR_LMSW ? (uint64_t)mem << 6 | (source & 0xffff) << 16 : 0) |
                      (op == CR_TO || op == CR_FROM ? (uint64_t)gpr << 8 : 0),
                  0);
    return true;
}

static bool guest_cr(struct cpu *c, unsigned cr, unsigned op, unsigned gpr, uint64_t *value, bool mem, la_t la)
{
    struct vmx_cpu *x = vmx_of(c);
    const uint64_t *f = x->cur->f;
    uint64_t mask = f[cr == 4 ? F_CR4_GUEST_HOST_MASK : F_CR0_GUEST_HOST_MASK],
             shadow = f[cr == 4 ? F_CR4_READ_SHADOW : F_CR0_READ_SHADOW];
    uint64_t now = cr == 4 ? c->cr4 : c->cr0;
    switch (cr) {
    case 3:
        if (op == CR_FROM)
            return x->proc & VMX_PROC_CR3_STORE_EXITING ? cr_exit(c, cr, op, gpr, 0, false, la) : false;
        if (!(x->proc & VMX_PROC_CR3_LOAD_EXITING))
            return false;
        for (unsigned i = 0; i < f[F_CR3_TARGET_COUNT] && i < 4; i++)
            if (*value == f[F_CR3_TARGET_VALUE_0 + i])
                return false;
        return cr_exit(c, cr, op, gpr, 0, false, la);
    case 8:
        return x->proc & (op == CR_TO ? VMX_PROC_CR8_LOAD_EXITING : VMX_PROC_CR8_STORE_EXITING)
                   ? cr_exit(c, cr, op, gpr, 0, false, la)
                   : false;
    case 0:
    case 4: break;
    default: return false;
    }
    switch (op) {
    case CR_TO:
        if ((*value ^ shadow) & mask)
            return cr_exit(c, cr, op, gpr, 0, false, la);
        *value = (*value & ~mask) | (now & mask);
        return false;
    case CR_CLTS:
        if (mask & shadow & CR0_TS)
            return cr_exit(c, 0, op, 0, 0, false, la);
        *value = (now & ~CR0_TS) | (now & mask & CR0_TS);
        return false;
    case CR_LMSW: {
        uint64_t source = *value & 15, differ = (source ^ shadow) & mask;
        if ((differ & (CR0_MP | CR0_EM | CR0_TS)) || (differ & source & CR0_PE))
            return cr_exit(c, 0, op, 0, *value, mem, la);
        *value = (*value & ~15ull) | (source & ~mask) | (now & mask & 15);
        return false;
    }
    default: /* MOV from CR, SMSW */ *value = (now & ~mask) | (shadow & mask); return false;
    }
}

static bool guest_dr(struct cpu *c, unsigned dr, bool write, unsigned gpr)
{
    vmx_exit_insn(c, NULL, VMX_REASON_MOV_DR, dr | (write ? 0 : BIT(4)) | (uint64_t)gpr << 8, 0);
    return true;
}

/* --- exceptions
 * ------------------------------------------------------------------------------------------------------------ */

static uint32_t event_info(const struct cpu_event *ev)
{
    return ev->vector | (uint32_t)ev->type << VMX_INTR_TYPE_SHIFT | (ev->has_error ? VMX_INTR_ERROR_CODE : 0) |
           VMX_INTR_VALID;
}

static bool guest_exception(struct cpu *c, const struct cpu_event *ev)
{
    struct vmx_cpu *x = vmx_of(c);
    const uint64_t *f = x->cur->f;
    if (ev->vector > 31 || ev->type == EVENT_SOFTINT)
        return false;
    bool exits = f[F_EXCEPTION_BITMAP] >> ev->vector & 1;
    if (ev->vector == EXC_PF)
        exits ^= (ev->error & f[F_PAGE_FAULT_ERROR_CODE_MASK]) != f[F_PAGE_FAULT_ERROR_CODE_MATCH];
    if (!exits)
        return false;
    /* "Information for VM Exits That Occur During Event Delivery": a double fault that exits is not one. */
    if (ev->vector == EXC_DF)
        c->vectoring.valid = false;
    x->info.intr_info = event_info(ev);
    x->info.intr_error = ev->error;
    if (c->nmi_unblocking_iret && !c->vectoring.valid && ev->vector != EXC_DF)
        x->info.intr_info |= VMX_INTR_NMI_UNBLOCKING_IRET;
    if (ev->type == EVENT_SWEXC || ev->type == EVENT_PRIV_SWEXC)
        x->info.insn_len = ev->insn_len;
    /* "Saving RIP, RSP, RFLAGS, and SSP": as the delivery would have pushed it. */
    x->info.set_rf = ev->type == EVENT_HWEXC && ev->vector != EXC_DB && ev->vector != EXC_DF && ev->vector != EXC_MC;
    uint64_t qualification = 0;
    if (ev->vector == EXC_PF)
        qualification = ev->payload;
    else if (ev->vector == EXC_DB)
        qualification = ev->payload & (0xf | BIT(13) | BIT(14));
    c->exc.valid = false;
    vmx_exit(c, VMX_REASON_EXCEPTION_OR_NMI, qualification);
    return true;
}

static bool guest_triple_fault(struct cpu *c)
{
    c->vectoring.valid = false;
    vmx_exit(c, VMX_REASON_TRIPLE_FAULT, 0);
    return true;
}

static bool guest_task_switch(struct cpu *c, uint16_t sel, unsigned source, bool has_error, uint32_t error)
{
    struct vmx_cpu *x = vmx_of(c);
    if (source != 3)
        x->info.insn_len = c->insn_len;
    vmx_exit(c, VMX_REASON_TASK_SWITCH, sel | (uint64_t)source << 30);
    return true;
}

/* "Convertible EPT Violations", "Delivery of Virtualization Exceptions". */
static bool convertible(struct cpu *c, const struct mmu_fault *fault)
{
    struct vmx_cpu *x = vmx_of(c);
    uint32_t busy;
    if (!(x->proc2 & VMX_PROC2_EPT_VIOLATION_VE) || fault->kind != MMU_EPT_VIOLATION || fault->suppress_ve ||
        !(c->cr0 & CR0_PE) || c->vectoring.valid)
        return false;
    mem_read(c->mem, HPA(x->cur->f[F_VE_INFORMATION_ADDRESS] + 4), &busy, sizeof busy);
    return busy == 0;
}

static void virtualization_exception(struct cpu *c, const struct mmu_fault *fault, la_t la)
{
    const uint64_t *f = vmx_of(c)->cur->f;
    uint64_t area = f[F_VE_INFORMATION_ADDRESS];
    uint32_t head[2] = {VMX_REASON_EPT_VIOLATION, 0xffffffff};
    uint64_t body[3] = {fault->error | (c->nmi_unblocking_iret ? BIT(12) : 0), la.v, fault->gpa.v};
    uint16_t index = (uint16_t)f[F_EPTP_INDEX];
    mem_write(c->mem, HPA(area), head, sizeof head);
    mem_write(c->mem, HPA(area + 8), body, sizeof body);
    mem_write(c->mem, HPA(area + 32), &index, sizeof index);
    cpu_raise(c, EXC_VE, 0);
}

/* "VM Functions": VMFUNC; function 0 is EPTP switching. c->cur stays set when the instruction is to complete. */
static bool guest_vmfunc(struct cpu *c)
{
    struct vmx_cpu *x = vmx_of(c);
    struct vmcs *v = x->cur;
    uint32_t function = (uint32_t)c->gpr[GPR_RAX], index = (uint32_t)c->gpr[GPR_RCX];
    uint64_t eptp;
    if (!(x->proc2 & VMX_PROC2_ENABLE_VM_FUNCTIONS) || function > 63)
        return undefined(c);
    if (v->f[F_VM_FUNCTION_CONTROLS] >> function & 1 && function == 0 && index < 512) {
        mem_read(c->mem, HPA(v->f[F_EPTP_LIST_ADDRESS] + index * 8), &eptp, sizeof eptp);
        /* "EPTP Switching": of the same page-walk length. */
        if (vmx_eptp_valid(&x->caps, eptp) && !((eptp ^ v->f[F_EPT_POINTER]) & 0x38)) {
            v->f[F_EPT_POINTER] = eptp;
            if (!c->vpid)
                tlb_flush_matching(&c->tlbs, 0, -1, 0, true, false);
            if (x->proc2 & VMX_PROC2_EPT_VIOLATION_VE)
                v->f[F_EPTP_INDEX] = (uint16_t)index;
            vmx_load_second(c, v);
            cpu_update_translation(c);
            return true;
        }
    }
    vmx_exit_insn(c, NULL, VMX_REASON_VMFUNC, 0, 0);
    return true;
}

/* "EPT Violations", "EPT Misconfigurations". */
static bool guest_second_fault(struct cpu *c, const struct mmu_fault *fault, la_t la, unsigned access)
{
    struct vmx_cpu *x = vmx_of(c);
    struct vmcs *v = x->cur;
    v->f[F_GUEST_PHYSICAL_ADDRESS] = fault->gpa.v;
    x->info.set_rf = !c->vectoring.valid;
    /* The manual leaves the length undefined; every processor gives it, and monitors step over an access by it. */
    if ((access & MMU_ACCESS_MASK) != MMU_EXEC && !c->vectoring.valid)
        x->info.insn_len = c->insn_len;
    if (fault->kind == MMU_EPT_MISCONFIG) {
        vmx_exit(c, VMX_REASON_EPT_MISCONFIGURATION, 0);
        return true;
    }
    /* "Guest-Physical Accesses to the APIC-Access Page". */
    if (fault->kind == MMU_APIC_ACCESS) {
        vmx_exit(c, VMX_REASON_APIC_ACCESS, c->vectoring.valid ? 10u << 12 : 15u << 12);
        return true;
    }
    uint64_t qualification = fault->error;
    if (fault->kind == MMU_PML_FULL) {
        vmx_exit(c, VMX_REASON_PAGE_MODIFICATION_LOG_FULL, c->nmi_unblocking_iret && !c->vectoring.valid ? BIT(12) : 0);
        return true;
    }
    if (convertible(c, fault)) {
        x->info.set_rf = false;
        x->info.insn_len = 0;
        virtualization_exception(c, fault, la);
        return true;
    }
    if (fault->la_valid)
        v->f[F_GUEST_LINEAR_ADDRESS] = la.v;
    if (c->nmi_unblocking_iret && !c->vectoring.valid)
        qualification |= BIT(12);
    vmx_exit(c, fault->kind == MMU_SPP_EVENT ? VMX_REASON_SPP_RELATED_EVENT : VMX_REASON_EPT_VIOLATION, qualification);
    return true;
}

/* --- events between instructions
 * ------------------------------------------------------------------------------------------------ */

/* "APIC-Write Emulation", "VM Exits Induced by the TPR Threshold": "take priority over system-management interrupts
 * (SMIs), INIT signals, and lower priority events". */
static bool guest_completes(struct cpu *c)
{
    if (vmx_apic_events(c))
        return true;
    if (unlikely(vmx_of(c)->tpr_below)) {
        vmx_exit(c, VMX_REASON_TPR_BELOW_THRESHOLD, 0);
        return true;
    }
    return false;
}

/* Trap-like VM exits: pending debug exceptions are saved by them, not delivered before. "Monitor Trap Flag": MTF VM
 * exits take priority over debug-trap exceptions; one is pending after an instruction, and after the delivery of an
 * event that came before one. */
static bool guest_before_traps(struct cpu *c)
{
    struct vmx_cpu *x = vmx_of(c);
    if (c->activity == ACTIVITY_SHUTDOWN || c->activity == ACTIVITY_WAIT_SIPI)
        return false;
    if (unlikely(x->mtf_pending || ((x->proc & VMX_PROC_MONITOR_TRAP_FLAG) &&
                                    (c->icount != x->mtf_from || c->delivered != x->mtf_delivered)))) {
        vmx_exit(c, VMX_REASON_MONITOR_TRAP_FLAG, 0);
        return true;
    }
    if (unlikely(x->proc & VMX_PROC_MONITOR_TRAP_FLAG))
        cpu_attend(c, ATT_GUEST | ATT_STEP);
    return false;
}

static bool guest_events(struct cpu *c)
{
    struct vmx_cpu *x = vmx_of(c);
    /* "VMX-Preemption Timer". */
    if (x->timer_end != UINT64_MAX && c->activity != ACTIVITY_WAIT_SIPI && cpu_tsc(c) >= x->timer_end) {
        vmx_exit(c, VMX_REASON_PREEMPTION_TIMER_EXPIRED, 0);
        return true;
    }
    if (vmx_apic_deliver(c))
        return true;
    bool shadow = cpu_in_shadow(c);
    bool awake = c->activity == ACTIVITY_ACTIVE || c->activity == ACTIVITY_HLT || c->activity == ACTIVITY_MWAIT;
    /* "NMI-window exiting": "if there is no virtual-NMI blocking and there is no blocking of events by MOV SS". */
    if ((x->proc & VMX_PROC_NMI_WINDOW_EXITING) && !x->virtual_nmi_blocked && !(shadow && c->shadow_movss) &&
        c->activity != ACTIVITY_WAIT_SIPI) {
        vmx_exit(c, VMX_REASON_NMI_WINDOW, 0);
        return true;
    }
    if (c->nmi_pending && !c->nmi_blocked && !shadow)
        return false; /* comes before an interrupt window */
    if ((x->proc & VMX_PROC_INTERRUPT_WINDOW_EXITING) && awake && (c->rflags_rest & FLAG_IF) && !shadow) {
        vmx_exit(c, VMX_REASON_INTERRUPT_WINDOW, 0);
        return true;
    }
    return false;
}

/* "External-interrupt exiting": RFLAGS.IF does not mask it then. The shutdown state blocks interrupts all the same. */
static bool guest_intr_allowed(struct cpu *c)
{
    if (c->activity == ACTIVITY_SHUTDOWN)
        return false;
    return (vmx_of(c)->pin & VMX_PIN_EXTERNAL_INTERRUPT_EXITING) || (c->rflags_rest & FLAG_IF);
}

static bool guest_interrupt(struct cpu *c)
{
    struct vmx_cpu *x = vmx_of(c);
    if (!(x->pin & VMX_PIN_EXTERNAL_INTERRUPT_EXITING))
        return false;
    if (x->cur->f[F_EXIT_CONTROLS] & VMX_EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT) {
        int vector = -1;
        if (c->intr_line && c->intr_line(c->intr_opaque, NULL)) {
            if (!c->intr_line(c->intr_opaque, &vector))
                return false;
        } else if (c->apic_ops) {
            vector = c->apic_ops->ack(c->apic);
        }
        if (vector < 0)
            return false;
        if (vmx_apic_posted(c, (unsigned)vector)) {
            cpu_attend(c, ATT_INTR);
            return true;
        }
        x->info.intr_info = (uint32_t)vector | VMX_INTR_VALID;
    }
    vmx_exit(c, VMX_REASON_EXTERNAL_INTERRUPT, 0);
    return true;
}

static bool guest_nmi(struct cpu *c)
{
    struct vmx_cpu *x = vmx_of(c);
    if (!(x->pin & VMX_PIN_NMI_EXITING) || c->nmi_blocked)
        return false;
    c->nmi_pending = false;
    x->info.intr_info = EXC_NMI | VMX_EVENT_NMI << VMX_INTR_TYPE_SHIFT | VMX_INTR_VALID;
    vmx_exit(c, VMX_REASON_EXCEPTION_OR_NMI, 0);
    return true;
}

static bool guest_init(struct cpu *c)
{
    vmx_exit(c, VMX_REASON_INIT_SIGNAL, 0);
    return true;
}

static bool guest_sipi(struct cpu *c, uint8_t vector)
{
    if (c->activity == ACTIVITY_WAIT_SIPI)
        vmx_exit(c, VMX_REASON_STARTUP_IPI, vector);
    return true;
}

static uint64_t guest_deadline(struct cpu *c)
{
    return vmx_of(c)->timer_end;
}

/* "Use TSC offsetting", "use TSC scaling". */
static uint64_t guest_tsc(struct cpu *c, uint64_t tsc)
{
    struct vmx_cpu *x = vmx_of(c);
    const uint64_t *f = x->cur->f;
    if (!(x->proc & VMX_PROC_USE_TSC_OFFSETTING))
        return tsc;
    if (x->proc2 & VMX_PROC2_USE_TSC_SCALING)
        tsc = (uint64_t)((unsigned __int128)tsc * f[F_TSC_MULTIPLIER] >> 48);
    return tsc + f[F_TSC_OFFSET];
}

/* "Virtualizing CR8-Based TPR Accesses". */
static bool guest_read_cr8(struct cpu *c, uint64_t *value)
{
    struct vmx_cpu *x = vmx_of(c);
    uint8_t vtpr;
    if (!(x->proc & VMX_PROC_USE_TPR_SHADOW))
        return false;
    mem_read(c->mem, HPA(x->cur->f[F_VIRTUAL_APIC_ADDRESS] + 0x80), &vtpr, 1);
    *value = vtpr >> 4;
    return true;
}

static bool guest_write_cr8(struct cpu *c, uint64_t value)
{
    struct vmx_cpu *x = vmx_of(c);
    if (!(x->proc & VMX_PROC_USE_TPR_SHADOW))
        return false;
    vmx_apic_set_tpr(c, (uint32_t)(value & 15) << 4);
    return true;
}

/* IRET and the blocking of NMIs. */
static bool guest_iret(struct cpu *c)
{
    struct vmx_cpu *x = vmx_of(c);
    if (x->pin & VMX_PIN_VIRTUAL_NMIS) {
        c->nmi_unblocking_iret = x->virtual_nmi_blocked;
        if (x->virtual_nmi_blocked)
            cpu_attend(c, ATT_GUEST);
        x->virtual_nmi_blocked = false;
    } else if (!(x->pin & VMX_PIN_NMI_EXITING) && c->nmi_blocked) {
        c->nmi_blocked = false;
        cpu_recheck_events(c);
    }
    return false;
}

const struct guest_ops vmx_guest_ops = {
    .insn = guest_insn,
    .io = guest_io,
    .msr = guest_msr,
    .cr = guest_cr,
    .dr = guest_dr,
    .exception = guest_exception,
    .triple_fault = guest_triple_fault,
    .task_switch = guest_task_switch,
    .second_fault = guest_second_fault,
    .completes = guest_completes,
    .before_traps = guest_before_traps,
    .events = guest_events,
    .interrupt = guest_interrupt,
    .nmi = guest_nmi,
    .init = guest_init,
    .sipi = guest_sipi,
    .intr_allowed = guest_intr_allowed,
    .deadline = guest_deadline,
    .tsc = guest_tsc,
    .read_cr8 = guest_read_cr8,
    .write_cr8 = guest_write_cr8,
    .exited_iret = guest_iret,
    .vmfunc = guest_vmfunc,
    .apic_access = vmx_apic_access,
};
