/* SPDX-License-Identifier: MIT
 *
 * apic.c: APIC virtualization: accesses to the APIC-access page and to the x2APIC MSRs, and what the processor then
 * does on the virtual-APIC page: TPR, PPR, EOI and self-IPI virtualization, IPI virtualization, virtual-interrupt
 * delivery, posted interrupts.
 *
 * SDM volume 3C, "APIC Virtualization and Virtual Interrupts". The virtual-APIC page is ordinary memory; registers are
 * 4 bytes at multiples of 16. What follows a write comes after the instruction ("APIC-write emulation"): apic_write
 * holds the offset until the next look between instructions.
 */
#include "src/vmx/vmx_int.h"

enum {
    VTPR = 0x80,
    VPPR = 0xa0,
    VEOI = 0xb0,
    VISR = 0x100,
    VIRR = 0x200,
    VICR_LO = 0x300,
    VICR_HI = 0x310,
    SELF_IPI = 0x3f0
};

static uint32_t vapic_read(struct cpu *c, unsigned offset)
{
    uint32_t v;
    mem_read(c->mem, HPA(vmx_of(c)->cur->f[F_VIRTUAL_APIC_ADDRESS] + offset), &v, sizeof v);
    return v;
}
static void vapic_write(struct cpu *c, unsigned offset, uint32_t v)
{
    mem_write(c->mem, HPA(vmx_of(c)->cur->f[F_VIRTUAL_APIC_ADDRESS] + offset), &v, sizeof v);
}

/* 256-bit registers: VIRR, VISR. */
static void vector_put(struct cpu *c, unsigned reg, unsigned vector, bool on)
{
    unsigned at = reg + vector / 32 * 16;
    vapic_write(c, at, (uint32_t)bit_put(vapic_read(c, at), vector & 31, on));
}
static unsigned vector_highest(struct cpu *c, unsigned reg)
{
    for (unsigned i = 8; i-- > 0;) {
        uint32_t v = vapic_read(c, reg + i * 16);
        if (v)
            return i * 32 + 31 - (unsigned)__builtin_clz(v);
    }
    return 0;
}

#define RVI(v) ((unsigned)(v)->f[F_GUEST_INTERRUPT_STATUS] & 0xff)
#define SVI(v) ((unsigned)(v)->f[F_GUEST_INTERRUPT_STATUS] >> 8 & 0xff)
static void set_status(struct vmcs *v, unsigned svi, unsigned rvi)
{
    v->f[F_GUEST_INTERRUPT_STATUS] = svi << 8 | rvi;
}

/* "PPR Virtualization". */
static void ppr(struct cpu *c)
{
    unsigned tpr = vapic_read(c, VTPR) & 0xff, svi = SVI(vmx_of(c)->cur);
    vapic_write(c, VPPR, tpr >> 4 >= svi >> 4 ? tpr : svi & 0xf0);
}

/* "Evaluation of Pending Virtual Interrupts": the recognition itself is asked for between instructions. */
static void evaluate(struct cpu *c)
{
    struct vmx_cpu *x = vmx_of(c);
    x->virtual_interrupt = RVI(x->cur) >> 4 > (vapic_read(c, VPPR) >> 4 & 15);
    if (x->virtual_interrupt)
        cpu_attend(c, ATT_GUEST);
}

static bool delivery(const struct vmx_cpu *x)
{
    return x->proc2 & VMX_PROC2_VIRTUAL_INTERRUPT_DELIVERY;
}

/* "TPR Virtualization". True: VM exit. */
static bool tpr(struct cpu *c)
{
    struct vmx_cpu *x = vmx_of(c);
    if (delivery(x)) {
        ppr(c);
        evaluate(c);
        return false;
    }
    if ((vapic_read(c, VTPR) >> 4 & 15) >= (x->cur->f[F_TPR_THRESHOLD] & 15))
        return false;
    vmx_exit(c, VMX_REASON_TPR_BELOW_THRESHOLD, 0);
    return true;
}

/* "EOI Virtualization". */
static bool eoi(struct cpu *c)
{
    struct vmcs *v = vmx_of(c)->cur;
    unsigned vector = SVI(v);
    vector_put(c, VISR, vector, false);
    set_status(v, vector_highest(c, VISR), RVI(v));
    ppr(c);
    if (v->f[F_EOI_EXIT_BITMAP_0 + vector / 64] >> (vector & 63) & 1) {
        vmx_exit(c, VMX_REASON_VIRTUALIZED_EOI, vector);
        return true;
    }
    evaluate(c);
    return false;
}

/* "Self-IPI Virtualization". */
static void self_ipi(struct cpu *c, unsigned vector)
{
    struct vmcs *v = vmx_of(c)->cur;
    vector_put(c, VIRR, vector, true);
    set_status(v, SVI(v), MAX(RVI(v), vector));
    evaluate(c);
}

/* "IPI Virtualization": the vector goes into the target's posted-interrupt descriptor, and the processor that runs it
 * is notified. False: the target has none; the write is the monitor's. */
static bool ipi(struct cpu *c, unsigned vector, uint32_t target)
{
    enum { ON = 1 << 0, SN = 1 << 1 };
    const struct vmx_cpu *x = vmx_of(c);
    const uint64_t *f = x->cur->f;
    uint64_t pid, old;
    if (target > f[F_LAST_PID_POINTER_INDEX])
        return false;
    if (!mem_read64(c->mem, HPA(f[F_PID_POINTER_TABLE_ADDRESS] + 8ull * target), &pid))
        return false;
    if (!(pid & 1) || (pid & (0x3e | ~mask_low(x->caps.maxphyaddr))))
        return false;
    pid &= ~63ull;
    hpa_t request = HPA(pid + vector / 64 * 8), notify = HPA(pid + 32);
    do {
        if (!mem_read64(c->mem, request, &old))
            return true; /* no memory is there */
    } while (!(old >> (vector & 63) & 1) && !mem_cas64(c->mem, request, old, old | BIT(vector & 63)));
    do {
        if (!mem_read64(c->mem, notify, &old) || (old & (ON | SN)))
            return true;
    } while (!mem_cas64(c->mem, notify, old, old | ON));
    if (c->apic_ops && c->apic_ops->send) {
        uint32_t ndst = (uint32_t)(old >> 32);
        bool x2apic = c->msr.apic_base & BIT(10);
        c->apic_ops->send(c->apic, x2apic ? ndst : ndst >> 8 & 0xff, (uint8_t)(old >> 16));
    }
    return true;
}

/* "APIC-Write Emulation". True: VM exit. */
static bool apic_write_emulation(struct cpu *c, unsigned offset)
{
    struct vmx_cpu *x = vmx_of(c);
    bool registers = x->proc2 & VMX_PROC2_APIC_REGISTER_VIRTUALIZATION;
    switch (offset) {
    case VTPR: vapic_write(c, VTPR, vapic_read(c, VTPR) & 0xff); return tpr(c);
    case VEOI:
        if (!delivery(x))
            break;
        vapic_write(c, VEOI, 0);
        return eoi(c);
    case VICR_LO: {
        uint32_t icr = vapic_read(c, VICR_LO);
        /* A fixed, edge-triggered self-IPI: the rest is the monitor's. */
        if (delivery(x) && !(icr & 0xfff3fff0 & ~0x000400f0u) && (icr >> 18 & 3) == 1 && (icr & 0xf0)) {
            self_ipi(c, icr & 0xff);
            return false;
        }
        /* No shorthand, edge-triggered, physical, fixed, nothing reserved. */
        if ((x->proc3 & VMX_PROC3_IPI_VIRTUALIZATION) && !(icr & 0xffffbf00) && (icr & 0xf0)) {
            uint32_t high =
                x->proc2 & VMX_PROC2_VIRTUALIZE_X2APIC_MODE ? vapic_read(c, VICR_LO + 4) : vapic_read(c, VICR_HI) >> 24;
            if (ipi(c, icr & 0xff, high))
                return false;
        }
        break;
    }
    case VICR_HI: vapic_write(c, VICR_HI, vapic_read(c, VICR_HI) & 0xff000000); return false;
    case SELF_IPI: { /* by its MSR alone */
        unsigned vector = vapic_read(c, SELF_IPI) & 0xff;
        if (vector < 16)
            break;
        self_ipi(c, vector);
        return false;
    }
    default:
        if (!registers)
            return false;
        break;
    }
    vmx_exit(c, VMX_REASON_APIC_WRITE, offset);
    return true;
}

/* --- the APIC-access page
 * --------------------------------------------------------------------------------------------- */

/* "Virtualizing Reads from the APIC-Access Page": by the register that the access lies in. */
static bool read_virtualized(const struct vmx_cpu *x, unsigned offset, unsigned len)
{
    unsigned reg = offset & 0xff0;
    if (!(x->proc & VMX_PROC_USE_TPR_SHADOW) || (offset & 15) + len > 4)
        return false;
    if (!(x->proc2 & VMX_PROC2_APIC_REGISTER_VIRTUALIZATION))
        return reg == VTPR;
    return reg == 0x20 || reg == 0x30 || reg == 0x80 || reg == 0xb0 || reg == 0xd0 || reg == 0xe0 || reg == 0xf0 ||
           (reg >= 0x100 && reg <= 0x280) || (reg >= 0x300 && reg <= 0x370) || reg == 0x380 || reg == 0x3e0;
}

static bool write_virtualized(const struct vmx_cpu *x, unsigned offset, unsigned len)
{
    unsigned reg = offset & 0xff0;
    if (!(x->proc & VMX_PROC_USE_TPR_SHADOW) || (offset & 15) + len > 4)
        return false;
    if (reg == VTPR)
        return true;
    if (!(x->proc2 & VMX_PROC2_APIC_REGISTER_VIRTUALIZATION))
        return (delivery(x) && (reg == VEOI || reg == VICR_LO)) ||
               ((x->proc3 & VMX_PROC3_IPI_VIRTUALIZATION) && reg == VICR_LO);
    return reg == 0x20 || reg == 0x80 || reg == 0xb0 || reg == 0xd0 || reg == 0xe0 || reg == 0xf0 || reg == 0x280 ||
           reg == 0x300 || reg == 0x310 || (reg >= 0x320 && reg <= 0x370) || reg == 0x380 || reg == 0x3e0;
}

bool vmx_apic_access(struct cpu *c, la_t la, unsigned offset, unsigned len, unsigned access, hpa_t *redirect)
{
    struct vmx_cpu *x = vmx_of(c);
    unsigned kind = access & MMU_ACCESS_MASK;
    bool linear = !(access & MMU_IMPLICIT) || !c->vectoring.valid;
    if (linear && kind != MMU_EXEC && len &&
        (kind == MMU_READ ? read_virtualized(x, offset, len) : write_virtualized(x, offset, len))) {
        *redirect = HPA(x->cur->f[F_VIRTUAL_APIC_ADDRESS] + offset);
        if (kind == MMU_WRITE) {
            x->apic_write = (offset & 0xff0) | 1;
            cpu_attend(c, ATT_GUEST);
        }
        return true;
    }
    /* "Exit Qualification for APIC-Access VM Exits from Linear Accesses". */
    unsigned type = c->vectoring.valid ? 3 : kind == MMU_WRITE ? 1 : kind == MMU_EXEC ? 2 : 0;
    cpu_sync(c);
    x->info.set_rf = !c->vectoring.valid;
    if (kind != MMU_EXEC && !c->vectoring.valid)
        x->info.insn_len = c->insn_len; /* undefined in the manual: see guest_second_fault() */
    x->cur->f[F_GUEST_LINEAR_ADDRESS] = la.v;
    vmx_exit(c, VMX_REASON_APIC_ACCESS, (offset & 0xfff) | type << 12);
    return false;
}

/* --- x2APIC MSRs
 * ------------------------------------------------------------------------------------------------------------ */

/* "Virtualizing MSR-Based APIC Accesses": RDMSR and WRMSR that the MSR bitmaps let through. 1: done; 0: not
 * virtualized; -1: #GP. */
int vmx_apic_msr(struct cpu *c, uint32_t msr, bool write)
{
    struct vmx_cpu *x = vmx_of(c);
    if (!(x->proc2 & VMX_PROC2_VIRTUALIZE_X2APIC_MODE) || msr < 0x800 || msr > 0x8ff)
        return 0;
    unsigned offset = (msr & 0xff) << 4;
    if (!write) {
        if (offset != VTPR && !(x->proc2 & VMX_PROC2_APIC_REGISTER_VIRTUALIZATION))
            return 0;
        c->gpr[GPR_RAX] = vapic_read(c, offset);
        c->gpr[GPR_RDX] = vapic_read(c, offset + 4);
        return 1;
    }
    uint64_t v = (uint32_t)c->gpr[GPR_RAX] | c->gpr[GPR_RDX] << 32;
    if (offset == VTPR) {
        if (v >> 8)
            return -1;
    } else if (delivery(x) && offset == VEOI) {
        if (v)
            return -1;
    } else if (delivery(x) && offset == SELF_IPI) {
        if (v >> 8)
            return -1;
    } else if ((x->proc3 & VMX_PROC3_IPI_VIRTUALIZATION) && offset == VICR_LO) {
        if (v & 0xfff33000)
            return -1;
    } else {
        return 0;
    }
    vapic_write(c, offset, (uint32_t)v);
    vapic_write(c, offset + 4, (uint32_t)(v >> 32));
    x->apic_write = offset | 1;
    cpu_attend(c, ATT_GUEST);
    return 1;
}

/* --- between instructions
 * ----------------------------------------------------------------------------------------------------- */

void vmx_apic_enter(struct cpu *c)
{
    struct vmx_cpu *x = vmx_of(c);
    x->apic_write = 0;
    x->virtual_interrupt = false;
    c->apic_access_page = x->proc2 & VMX_PROC2_VIRTUALIZE_APIC_ACCESSES ? x->cur->f[F_APIC_ACCESS_ADDRESS] : UINT64_MAX;
    if (delivery(x)) { /* "VM Entry: PPR virtualization and evaluation" */
        ppr(c);
        evaluate(c);
    }
}

/* "TPR threshold" at VM entry with virtualized APIC accesses: an exit right behind the entry. */
bool vmx_apic_below_threshold(struct cpu *c)
{
    const struct vmx_cpu *x = vmx_of(c);
    return (x->proc & VMX_PROC_USE_TPR_SHADOW) && (x->proc2 & VMX_PROC2_VIRTUALIZE_APIC_ACCESSES) && !delivery(x) &&
           (vapic_read(c, VTPR) >> 4 & 15) < (x->cur->f[F_TPR_THRESHOLD] & 15);
}

/* MOV to CR8. */
void vmx_apic_set_tpr(struct cpu *c, uint32_t v)
{
    vapic_write(c, VTPR, v);
    vmx_of(c)->apic_write = VTPR | 1;
    cpu_attend(c, ATT_GUEST);
}

bool vmx_apic_events(struct cpu *c)
{
    struct vmx_cpu *x = vmx_of(c);
    if (unlikely(x->apic_write)) {
        unsigned offset = x->apic_write & 0xff0;
        x->apic_write = 0;
        if (apic_write_emulation(c, offset))
            return true;
    }
    return false;
}

/* "Virtual-Interrupt Delivery". True: delivered, or a VM exit came of it. */
bool vmx_apic_deliver(struct cpu *c)
{
    struct vmx_cpu *x = vmx_of(c);
    struct vmcs *v = x->cur;
    if (likely(!x->virtual_interrupt) || !(c->rflags_rest & FLAG_IF) || cpu_in_shadow(c) ||
        (x->proc & VMX_PROC_INTERRUPT_WINDOW_EXITING) || c->activity == ACTIVITY_SHUTDOWN ||
        c->activity == ACTIVITY_WAIT_SIPI)
        return false;
    unsigned vector = RVI(v);
    vector_put(c, VISR, vector, true);
    vapic_write(c, VPPR, vector & 0xf0);
    vector_put(c, VIRR, vector, false);
    set_status(v, vector, vector_highest(c, VIRR));
    x->virtual_interrupt = false;
    struct cpu_event ev = {.valid = true, .vector = (uint8_t)vector, .type = EVENT_EXTINT};
    cpu_deliver(c, &ev);
    return true;
}

/* "Posted-Interrupt Processing". True: the interrupt was a notification and is processed. */
bool vmx_apic_posted(struct cpu *c, unsigned vector)
{
    struct vmx_cpu *x = vmx_of(c);
    struct vmcs *v = x->cur;
    if (!(x->pin & VMX_PIN_PROCESS_POSTED_INTERRUPTS) || vector != v->f[F_POSTED_INTERRUPT_NOTIFICATION_VECTOR])
        return false;
    hpa_t descriptor = HPA(v->f[F_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS]);
    uint64_t old;
    do { /* clear ON */
        if (!mem_read64(c->mem, HPA(descriptor.v + 32), &old))
            break;
    } while (!mem_cas64(c->mem, HPA(descriptor.v + 32), old, old & ~1ull));
    if (c->apic_ops && c->apic_ops->write)
        c->apic_ops->write(c->apic, 0xb0, 0); /* EOI to the processor's own APIC */
    unsigned highest = 0;
    for (unsigned i = 0; i < 4; i++) {
        uint64_t bits_;
        do {
            if (!mem_read64(c->mem, HPA(descriptor.v + 8 * i), &bits_))
                bits_ = 0;
        } while (bits_ && !mem_cas64(c->mem, HPA(descriptor.v + 8 * i), bits_, 0));
        for (unsigned half = 0; half < 2; half++) {
            unsigned at = VIRR + (2 * i + half) * 16;
            vapic_write(c, at, vapic_read(c, at) | (uint32_t)(bits_ >> (32 * half)));
        }
        if (bits_)
            highest = i * 64 + 63 - (unsigned)__builtin_clzll(bits_);
    }
    set_status(v, SVI(v), MAX(RVI(v), highest));
    evaluate(c);
    return true;
}
