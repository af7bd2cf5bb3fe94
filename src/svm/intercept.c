/* SPDX-License-Identifier: MIT
 *
 * intercept.c: what guest mode is to the processor under SVM: each intercept of the control area, virtual interrupts,
 * and what GIF and V_INTR_MASKING hold back.
 *
 * APM volume 2, chapter "Secure Virtual Machine": "Intercept Operation" to "Miscellaneous Intercepts", "Event
 * Injection", "Interrupt and Local APIC Support", "Nested Paging".
 */
#include "src/cpu/op.h"
#include "src/svm/svm_cpu.h"

/* EXITINFO1 is filled by decode assists where the processor has them. */
static uint64_t assist(const struct svm_cpu *s, uint64_t v)
{
    return s->decode ? v : 0;
}

/* --- instructions --------------------------------------------------------------------------------------------- */

/* "Pause Intercept Filtering", "PAUSE Intercept Threshold". True: this PAUSE exits. */
static bool pause_exits(struct cpu *c, struct svm_cpu *s)
{
    if (s->pause_threshold) {
        uint64_t now = cpu_tsc(c), last = s->pause_tsc;
        s->pause_tsc = now;
        if (last && now - last > s->pause_threshold)
            s->pause_left = s->pause_count;
    }
    if (!s->pause_left)
        return true;
    s->pause_left--;
    return false;
}

static bool virtual_gif(const struct svm_cpu *s)
{
    return !(s->vgif && (s->vintr & VMCB_VINTR_GIF_ENABLE)) || (s->vintr & VMCB_VINTR_GIF);
}

/* "Virtual Interrupts": V_IRQ with a priority above V_TPR; the guest's IF and shadow aside. */
static bool virtual_interrupt(const struct svm_cpu *s)
{
    uint64_t v = s->vintr;
    return (v & VMCB_VINTR_IRQ) && ((v & VMCB_VINTR_IGN_TPR) || bits(v, 19, 16) > bits(v, 3, 0)) && virtual_gif(s);
}

static bool virtual_nmi(const struct svm_cpu *s)
{
    uint64_t v = s->vintr;
    return s->vnmi && (v & VMCB_VINTR_NMI_ENABLE) && (v & VMCB_VINTR_NMI) && !(v & VMCB_VINTR_NMI_MASK) &&
           virtual_gif(s);
}

static bool on_insn(struct cpu *c, enum icpt what, uint64_t info)
{
    static const uint16_t codes[ICPT_COUNT] = {
#define ICPT(name, vmx, svm) [ICPT_##name] = svm,
#include "src/arch/intercept.def"
#undef ICPT
    };
    struct svm_cpu *s = c->svm;
    uint64_t code = codes[what], info1 = 0, info2 = 0;
    switch (what) {
    case ICPT_PAUSE:
        if (!pause_exits(c, s))
            return false;
        break;
    case ICPT_HLT: /* "Idle HLT Intercept": only when no virtual interrupt or NMI is there for the guest */
        if (s->idle_hlt && svm_intercepts(s, SVM_EXIT_IDLE_HLT) && !virtual_interrupt(s) && !virtual_nmi(s))
            code = SVM_EXIT_IDLE_HLT;
        else if (!svm_intercepts(s, SVM_EXIT_HLT))
            return false;
        break;
    case ICPT_MWAIT: /* info: the monitor is armed */
        if (!svm_intercepts(s, SVM_EXIT_MWAIT)) {
            if (!info)
                return false;
            code = SVM_EXIT_MWAIT_CONDITIONAL;
        } else if (info && svm_intercepts(s, SVM_EXIT_MWAIT_CONDITIONAL)) {
            code = SVM_EXIT_MWAIT_CONDITIONAL;
        }
        break;
    case ICPT_INVLPG: /* info: the linear address */
    case ICPT_SWINT: /* info: the vector */ info1 = assist(s, info); break;
    case ICPT_INVPCID: /* info: the type; the descriptor's linear address is asked of the operation */
        if (c->icpt_op) {
            info1 = op_ea(c, c->icpt_op) + c->seg_base64[c->icpt_op->seg];
            if (c->mode != MODE_64)
                info1 &= 0xffffffff;
        }
        info2 = info;
        break;
    default: break;
    }
    if (code >= SVM_INTERCEPTS)
        return false;
    svm_exit_insn(c, code, info1, info2);
    return true;
}

/* "I/O Intercepts" */
static bool on_io(struct cpu *c, uint16_t port, unsigned size, bool in, bool string, bool rep, bool imm, unsigned seg,
                  unsigned asz, la_t la)
{
    struct svm_cpu *s = c->svm;
    if (!svm_intercepts(s, SVM_EXIT_IOIO))
        return false;
    uint8_t map[2];
    mem_read(c->mem, HPA(s->iopm + port / 8), map, sizeof map);
    unsigned wanted = ((1u << size) - 1) << port % 8;
    if (!((map[0] | map[1] << 8) & wanted))
        return false;
    uint64_t info = (uint64_t)port << 16 | (uint64_t)size << 4 | (in ? SVM_IOIO_IN : 0) | (string ? SVM_IOIO_STR : 0) |
                    (rep ? SVM_IOIO_REP : 0);
    info |= asz == 2 ? SVM_IOIO_A16 : asz == 8 ? SVM_IOIO_A64 : SVM_IOIO_A32;
    if (string && s->decode)
        info |= (uint64_t)(seg < SEG_LDTR ? seg : in ? SEG_ES : SEG_DS) << 10;
    svm_exit_insn(c, SVM_EXIT_IOIO, info, (c->rip + c->insn_len) & c->ip_mask);
    return true;
}

/* "MSR Intercepts"; the EFER write trap exits when the write is done. */
static bool on_msr(struct cpu *c, uint32_t msr, bool write)
{
    struct svm_cpu *s = c->svm;
    if (svm_intercepts(s, SVM_EXIT_MSR)) {
        int32_t bit = svm_msrpm_bit(msr);
        uint8_t map = 0xff;
        if (bit >= 0)
            mem_read(c->mem, HPA(s->msrpm + (uint32_t)bit / 8), &map, 1);
        if (bit < 0 || (map >> bit % 8 >> write & 1)) {
            svm_exit_insn(c, SVM_EXIT_MSR, write, 0);
            return true;
        }
    }
    if (write && msr == SVM_MSR_EFER && svm_intercepts(s, SVM_EXIT_EFER_WRITE_TRAP)) {
        uint64_t v = (uint32_t)c->gpr[GPR_RAX] | c->gpr[GPR_RDX] << 32;
        if (!cpu_wrmsr(c, msr, v)) {
            cpu_raise(c, EXC_GP, 0);
            return true;
        }
        c->rip = (c->rip + c->insn_len) & c->ip_mask;
        svm_exit(c, SVM_EXIT_EFER_WRITE_TRAP, v, 0);
        return true;
    }
    return false;
}

/* The write traps exit when the write is done, with the next instruction's rIP. */
static bool cr_write_trap(struct cpu *c, unsigned cr, uint64_t value)
{
    bool ok = false;
    switch (cr) {
    case 0: ok = cpu_write_cr0(c, value); break;
    case 3: ok = cpu_write_cr3(c, value); break;
    case 4: ok = cpu_write_cr4(c, value); break;
    case 8: ok = cpu_write_cr8(c, value); break;
    default: return false;
    }
    if (ok) {
        c->rip = (c->rip + c->insn_len) & c->ip_mask;
        svm_exit(c, SVM_EXIT_CR0_WRITE_TRAP + cr, value, 0);
    }
    return true;
}

enum { CR_OP_WRITE, CR_OP_READ, CR_OP_CLTS, CR_OP_LMSW, CR_OP_SMSW };

static bool on_cr(struct cpu *c, unsigned cr, unsigned op, unsigned gpr, uint64_t *value, bool mem, la_t la)
{
    struct svm_cpu *s = c->svm;
    bool mov = op == CR_OP_WRITE || op == CR_OP_READ;
    uint64_t info1 = mov ? assist(s, SVM_CR_MOV | gpr) : 0;
    if (op == CR_OP_READ || op == CR_OP_SMSW) {
        if (!(s->cr_read >> cr & 1))
            return false;
        svm_exit_insn(c, SVM_EXIT_CR0_READ + cr, info1, 0);
        return true;
    }
    /* "If both selective and non-selective CR0 write intercepts are active, the non-selective one has priority." */
    if (s->cr_write >> cr & 1) {
        svm_exit_insn(c, SVM_EXIT_CR0_WRITE + cr, info1, 0);
        return true;
    }
    if (cr == 0 && svm_intercepts(s, SVM_EXIT_CR0_SEL_WRITE) &&
        (op == CR_OP_LMSW || (op == CR_OP_WRITE && ((*value ^ c->cr0) & ~(CR0_TS | CR0_MP))))) {
        svm_exit_insn(c, SVM_EXIT_CR0_SEL_WRITE, info1, 0);
        return true;
    }
    if (s->misc2 >> (16 + cr) & 1) {
        uint64_t v = *value;
        if (op == CR_OP_CLTS)
            v = c->cr0 & ~CR0_TS;
        else if (op == CR_OP_LMSW)
            v = (c->cr0 & ~0xeull) | (v & 0xf);
        return cr_write_trap(c, cr, v);
    }
    return false;
}

static bool on_dr(struct cpu *c, unsigned dr, bool write, unsigned gpr)
{
    struct svm_cpu *s = c->svm;
    if (!((write ? s->dr_write : s->dr_read) >> dr & 1))
        return false;
    svm_exit_insn(c, (write ? SVM_EXIT_DR0_WRITE : SVM_EXIT_DR0_READ) + dr, assist(s, gpr), 0);
    return true;
}

/* --- exceptions and faults -------------------------------------------------------------------------------------- */

/* "Exception Intercepts". CR2 is not written by an intercepted #PF; DR6 and DR7 are what #DB's handler would see. */
static bool on_exception(struct cpu *c, const struct cpu_event *ev)
{
    struct svm_cpu *s = c->svm;
    if (ev->vector > 31 || !(s->exception >> ev->vector & 1))
        return false;
    uint64_t code = SVM_EXIT_EXCEPTION + ev->vector, info1 = ev->has_error ? ev->error : 0;
    switch (ev->vector) {
    case EXC_PF: svm_exit_bytes(c, code, info1, ev->payload); return true;
    case EXC_DB:
        c->dr[6] = (c->dr[6] & ~15ull) | ev->payload;
        c->dr[7] &= ~BIT(13); /* GD */
        break;
    case EXC_BP:
    case EXC_OF:
    case EXC_BR:
        if (ev->type == EVENT_SWEXC)
            c->insn_len = ev->insn_len;
        svm_exit_insn(c, code, info1, 0);
        return true;
    default: break;
    }
    svm_exit(c, code, info1, 0);
    return true;
}

static bool on_triple_fault(struct cpu *c)
{
    if (!svm_intercepts(c->svm, SVM_EXIT_SHUTDOWN))
        return false;
    svm_exit(c, SVM_EXIT_SHUTDOWN, 0, 0);
    return true;
}

/* "Task Switch Intercept" */
static bool on_task_switch(struct cpu *c, uint16_t sel, unsigned source, bool has_error, uint32_t error)
{
    if (!svm_intercepts(c->svm, SVM_EXIT_TASK_SWITCH))
        return false;
    uint64_t info2 = (source == 1 ? SVM_TASK_IRET : 0) | (source == 2 ? SVM_TASK_JMP : 0) |
                     (has_error ? SVM_TASK_ERROR | error : 0) | (c->rflags_rest & FLAG_RF ? SVM_TASK_RF : 0);
    svm_exit(c, SVM_EXIT_TASK_SWITCH, sel, info2);
    return true;
}

/* "Nested versus Guest Page Faults, Fault Ordering" */
static bool on_second_fault(struct cpu *c, const struct mmu_fault *f, la_t la, unsigned access)
{
    if ((access & MMU_ACCESS_MASK) == MMU_EXEC)
        svm_exit(c, SVM_EXIT_NPF, f->error, f->gpa.v);
    else
        svm_exit_bytes(c, SVM_EXIT_NPF, f->error, f->gpa.v);
    return true;
}

/* --- interrupts --------------------------------------------------------------------------------------------------- */

void svm_attend_virtual(struct cpu *c)
{
    if (virtual_interrupt(c->svm) || virtual_nmi(c->svm))
        cpu_attend(c, ATT_GUEST);
}

static bool on_events(struct cpu *c)
{
    struct svm_cpu *s = c->svm;
    if (!c->gif)
        return false;
    if (virtual_nmi(s) && !svm_in_shadow(c)) {
        s->vintr = (s->vintr & ~VMCB_VINTR_NMI) | VMCB_VINTR_NMI_MASK;
        struct cpu_event ev = {.valid = true, .vector = EXC_NMI, .type = EVENT_NMI};
        c->activity = ACTIVITY_ACTIVE;
        cpu_deliver(c, &ev);
        return true;
    }
    if (virtual_interrupt(s) && (c->rflags_rest & FLAG_IF) && !svm_in_shadow(c)) {
        c->activity = ACTIVITY_ACTIVE;
        if (svm_intercepts(s, SVM_EXIT_VINTR)) {
            svm_exit(c, SVM_EXIT_VINTR, 0, 0);
            return true;
        }
        s->vintr &= ~VMCB_VINTR_IRQ;
        struct cpu_event ev = {.valid = true, .vector = (uint8_t)bits(s->vintr, 39, 32), .type = EVENT_EXTINT};
        cpu_deliver(c, &ev);
        return true;
    }
    return false;
}

/* "Interrupt Masking in VMCB.V_INTR_MASKING": with it physical interrupts heed the host's IF, as it was at VMRUN. */
static bool on_intr_allowed(struct cpu *c)
{
    struct svm_cpu *s = c->svm;
    if (!c->gif)
        return false;
    if (s->vintr & VMCB_VINTR_MASKING)
        return s->host.rflags & FLAG_IF;
    return (c->rflags_rest & FLAG_IF) && !svm_in_shadow(c);
}

/* Interrupts that exit stay pending: the host takes them when GIF is set again. */
static bool on_interrupt(struct cpu *c)
{
    if (!svm_intercepts(c->svm, SVM_EXIT_INTR))
        return false;
    svm_exit(c, SVM_EXIT_INTR, 0, 0);
    return true;
}

static bool on_nmi(struct cpu *c)
{
    if (c->nmi_blocked || !svm_intercepts(c->svm, SVM_EXIT_NMI))
        return false;
    c->nmi_pending = true;
    svm_exit(c, SVM_EXIT_NMI, 0, 0);
    return true;
}

static bool on_smi(struct cpu *c)
{
    if (!svm_intercepts(c->svm, SVM_EXIT_SMI))
        return false;
    c->smi_pending = true;
    svm_exit(c, SVM_EXIT_SMI, 1, 0);
    return true;
}

static bool on_init(struct cpu *c)
{
    if (svm_intercepts(c->svm, SVM_EXIT_INIT)) {
        c->init_pending = true;
        svm_exit(c, SVM_EXIT_INIT, 0, 0);
    } else {
        cpu_reset(c, true);
    }
    return true;
}

static bool on_sipi(struct cpu *c, uint8_t vector)
{
    return false;
}

/* "TSC Ratio MSR", TSC_OFFSET */
static uint64_t on_tsc(struct cpu *c, uint64_t host_tsc)
{
    const struct svm_cpu *s = c->svm;
    if (s->tsc_rate && c->msr.tsc_ratio != SVM_TSC_RATIO_ONE)
        host_tsc = (uint64_t)((unsigned __int128)host_tsc * c->msr.tsc_ratio >> 32);
    return host_tsc + s->tsc_offset;
}

/* "TPR Virtualization" */
static bool on_read_cr8(struct cpu *c, uint64_t *v)
{
    const struct svm_cpu *s = c->svm;
    if (!(s->vintr & VMCB_VINTR_MASKING))
        return false;
    *v = s->vintr & 15;
    return true;
}

static bool on_write_cr8(struct cpu *c, uint64_t v)
{
    struct svm_cpu *s = c->svm;
    s->vintr = (s->vintr & ~VMCB_VINTR_TPR_MASK) | (v & 15);
    svm_attend_virtual(c);
    return s->vintr & VMCB_VINTR_MASKING;
}

/* "NMI Virtualization": with V_NMI_ENABLE the guest's IRET ends the blocking of virtual NMIs alone. */
static bool on_exited_iret(struct cpu *c)
{
    struct svm_cpu *s = c->svm;
    if (s->vnmi && (s->vintr & VMCB_VINTR_NMI_ENABLE)) {
        s->vintr &= ~VMCB_VINTR_NMI_MASK;
        svm_attend_virtual(c);
    } else if (c->nmi_blocked) {
        c->nmi_blocked = false;
        cpu_recheck_events(c);
    }
    return false;
}

static uint64_t on_deadline(struct cpu *c)
{
    return UINT64_MAX;
}

static void on_walk(struct cpu *c, struct mmu_second *out)
{
    *out = c->second;
}

static bool on_pdpte(struct cpu *c)
{
    return false;
}

static bool on_vmfunc(struct cpu *c)
{
    return false;
}

const struct guest_ops svm_guest_ops = {
    .insn = on_insn,
    .io = on_io,
    .msr = on_msr,
    .cr = on_cr,
    .dr = on_dr,
    .exception = on_exception,
    .triple_fault = on_triple_fault,
    .task_switch = on_task_switch,
    .second_fault = on_second_fault,
    .events = on_events,
    .interrupt = on_interrupt,
    .nmi = on_nmi,
    .smi = on_smi,
    .init = on_init,
    .sipi = on_sipi,
    .intr_allowed = on_intr_allowed,
    .deadline = on_deadline,
    .tsc = on_tsc,
    .read_cr8 = on_read_cr8,
    .write_cr8 = on_write_cr8,
    .exited_iret = on_exited_iret,
    .walk = on_walk,
    .pdpte = on_pdpte,
    .vmfunc = on_vmfunc,
};
