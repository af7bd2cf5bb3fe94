/* SPDX-License-Identifier: MIT
 *
 * vmx_int.h: what the files of src/vmx share: the stored VMCS, the capabilities, the state of a logical processor's
 * VMX.
 *
 * A VMCS lives in the processor from VMPTRLD until VMCLEAR, VMXOFF or until it is displaced; its region in memory is
 * written then. Fields are stored by slot (the row's number in vmcs.def), each in 64 bits, high bits of narrow fields
 * zero.
 *
 * Invariants: cur is null or points into pool. A clear bit in cur->dirty means that the last successful checks of that
 * group still hold for what the fields have now.
 */
#ifndef VMX_VMX_INT_H
#define VMX_VMX_INT_H

#include "src/arch/model.h"
#include "src/vmx/check.h"
#include "src/vmx/vmx.h"
#include <vmenter/vmx.h>

struct vmcs_row {
    uint16_t encoding;
    uint16_t group;
    uint8_t width, type; /* enum vmcs_width, vmcs_type */
    const char *name, *text;
};
extern const struct vmcs_row vmcs_rows[F_COUNT];
void vmx_caps_init(struct vmx_caps *caps, const struct model *m);
/* A capability MSR; false: no such MSR on this model. */
bool vmx_caps_msr(const struct vmx_caps *caps, uint32_t msr, uint64_t *v);
/* In the public form. */
void vmx_caps_publish(const struct vmx_caps *caps, struct vmenter_vmx_caps *to);

struct vmcs {
    uint64_t pa;
    uint64_t last_used; /* of vmx_cpu.clock; 0: the pool's entry is free */
    uint32_t revision;  /* as in the region: bit 31 shadow-VMCS indicator */
    bool launched;
    uint32_t epoch; /* of VMX operation, at its launch */
    uint32_t dirty; /* GROUP_*: to be checked at the next VM entry */
    uint64_t icpt;  /* c->icpt in this guest, by its controls */
    uint64_t f[F_COUNT];
};
#define VMCS_REVISION 0x0e57e201u

#define VMX_POOL       16
#define VMX_VPID_SLOTS 64
#define VMX_BROKEN_MAX 64
#define VMX_NO_VMCS    UINT64_MAX

/* What the last VM entry found broken. */
struct vmx_broken {
    unsigned count; /* may exceed what the list holds */
    struct vmenter_vmx_finding rule[VMX_BROKEN_MAX];
};

struct vmx_cpu {
    bool on; /* in VMX operation */
    uint64_t vmxon_pa;
    uint32_t epoch;   /* counts VMXONs */
    struct vmcs *cur; /* current VMCS; null: none */
    struct vmx_caps caps;
    uint64_t clock;
    struct virt_ops ops;

    /* In guest mode: what the controls of the current VMCS mean to events and instructions. */
    uint32_t pin, proc, proc2, proc3;
    bool virtual_nmi_blocked; /* virtual-NMI blocking, under virtual NMIs */
    bool mtf_pending;         /* an MTF VM exit comes before the next instruction */
    bool tpr_below;           /* a TPR-below-threshold exit comes before the next instruction */
    uint16_t apic_write;      /* offset | 1: APIC-write emulation is to follow the instruction; 0: none */
    bool virtual_interrupt;   /* a pending virtual interrupt is recognised */
    uint64_t mtf_from;        /* icount at the entry: an instruction is over when it differs */
    uint64_t mtf_delivered;   /* the same of delivered */
    uint64_t timer_end;       /* processor's TSC at which the preemption timer expires; UINT64_MAX: it does not count */
    uint64_t timer_left;      /* its value where it does not count: wait-for-SIPI */
    uint64_t pause_last, pause_first; /* PAUSE-loop exiting: TSC of the last PAUSE at CPL 0, of the loop's first */
    uint64_t tables_under;            /* controls under which the guest-physical mappings of tables were made */
    uint64_t host_rights;             /* translation_rights() of the host at the last entry */
    /* The same of the guest that last left with a VPID, whichever VMCS it had: what the TLB holds for that VPID was
     * computed under them. By the VPID's low bits. */
    struct {
        uint16_t vpid;
        uint64_t rights;
    } guest_rights[VMX_VPID_SLOTS];

    /* Of the VM exit that is being made: what goes into the exit-information fields. */
    struct {
        uint32_t intr_info, intr_error, insn_len, insn_info;
        bool set_rf;
    } info;

    struct vmx_broken broken; /* of the last VM entry */
    struct vmcs pool[VMX_POOL];
};

INLINE struct vmx_cpu *vmx_of(const struct cpu *c)
{
    return c->vmx;
}

/* --- vmcs.c: the store ------------------------------------------------------------------------------------------- */
struct vmcs *vmcs_load(struct cpu *c, uint64_t pa);     /* from the pool or from memory */
void vmcs_store(struct cpu *c, struct vmcs *v);         /* writes the region */
struct vmcs *vmcs_find(struct vmx_cpu *x, uint64_t pa); /* in the pool; null: not there */
/* Legality by vmx_vmread's and vmx_vmwrite's rules; false: unsupported component. */
bool vmcs_read(const struct vmx_caps *caps, const struct vmcs *v, uint64_t encoding, uint64_t *value);
void vmcs_write(struct vmcs *v, int slot, bool high, uint64_t value); /* marks what changed */
/* A store by the processor itself: no mark. */
INLINE void vmcs_set(struct vmcs *v, enum vmcs_slot slot, uint64_t value)
{
    v->f[slot] = value;
}

/* --- insn.c ---------------------------------------------------------------------------------------------------------
 */
enum vmx_result vmx_fail(struct cpu *c, unsigned error);
/* What every VMX instruction checks first: operation, mode, privilege. False: raised. */
bool vmx_insn_allowed(struct cpu *c);
/* VMREAD and VMWRITE of a VMCS, past the checks of mode and privilege. */
enum vmx_result vmx_read_component(struct cpu *c, struct vmcs *v, uint64_t field, uint64_t *value);
enum vmx_result vmx_write_component(struct cpu *c, struct vmcs *v, uint64_t field, uint64_t value);
bool vmx_may_vmxon(const struct cpu *c);

/* --- instruction.c: operation handlers --------------------------------------------------------------------------- */
void vmx_install_instructions(struct virt_ops *ops);
/* The VM-exit instruction-information field and the exit qualification (displacement) of an instruction with an r/m
 * operand. */
uint32_t vmx_insn_info(const struct op *o);
uint64_t vmx_insn_displacement(const struct cpu *c, const struct op *o);

#define VMX_EPTRTA 0x000ffffffffff000ull /* of an EPTP: what tags cached translations */

/* --- entry.c ----------------------------------------------------------------------------------------------------- */
/* From the checks of controls on. movss: events are blocked by MOV SS. RIP is that of the next instruction. */
enum vmx_result vmx_enter(struct cpu *c, bool launch);
void vmx_load_second(struct cpu *c, struct vmcs *v);
enum vmx_result vmx_enter_insn(struct cpu *c, bool launch, bool movss);
/* Loads MSRs from an area; 0, or the number (from 1) of the entry that failed. */
uint64_t vmx_load_msrs(struct cpu *c, uint64_t area, uint64_t count);

/* --- exit.c --------------------------------------------------------------------------------------------------------
 */
/* The VM exit. State is synchronised; x->info holds what the exit's own fields get (zero where there is nothing). */
void vmx_exit(struct cpu *c, uint32_t reason, uint64_t qualification);
/* Of an instruction: synchronises if c->cur is set; records length and instruction information. */
void vmx_exit_insn(struct cpu *c, const struct op *o, uint32_t reason, uint64_t qualification, uint32_t info);
/* VM-entry failure during or after loading guest state: no guest state is saved. */
void vmx_exit_entry_failure(struct cpu *c, uint32_t reason, uint64_t qualification);

/* --- guest.c --------------------------------------------------------------------------------------------------------
 */
extern const struct guest_ops vmx_guest_ops;
uint64_t vmx_intercepts(const struct vmcs *v); /* c->icpt for the controls of v */

/* --- apic.c
 * ------------------------------------------------------------------------------------------------------------- */
void vmx_apic_enter(struct cpu *c);
bool vmx_apic_below_threshold(struct cpu *c);
/* An access of len bytes to the APIC-access page. True: it goes to *redirect; false: VM exit. */
bool vmx_apic_access(struct cpu *c, la_t la, unsigned offset, unsigned len, unsigned access, hpa_t *redirect);
int vmx_apic_msr(struct cpu *c, uint32_t msr, bool write); /* 1: done; 0: not virtualized; -1: #GP */
void vmx_apic_set_tpr(struct cpu *c, uint32_t v);
bool vmx_apic_events(struct cpu *c);  /* what a write left to do; true: VM exit */
bool vmx_apic_deliver(struct cpu *c); /* a virtual interrupt; true: delivered */
bool vmx_apic_posted(struct cpu *c, unsigned vector);

INLINE uint64_t vmx_second_rights(const struct mmu_second *s)
{
    return (s->ept_mbec ? BIT(1) : 0) + (s->ept_verify ? BIT(2) : 0) + s->sppt * 0x9fb21c651e98df25ull +
           (s->hlat ? (s->hlat_pointer + s->hlat_prefix + 1) * 0xd6e8feb86659fd93ull : 0);
}

/* Register bits under which the rights in TLB entries were computed. */
INLINE uint64_t vmx_translation_rights(const struct cpu *c)
{
    uint64_t keys = (c->cr4 & CR4_PKE ? (uint64_t)c->pkru * 0x9e3779b97f4a7c15ull : 0) +
                    (c->cr4 & CR4_PKS ? (c->msr.pkrs + 1) * 0xc2b2ae3d27d4eb4full : 0);
    return ((c->cr0 & (CR0_WP | CR0_PG | CR0_PE)) |
            (c->cr4 & (CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_PKS | CR4_PAE | CR4_PSE)) << 32 |
            (c->efer & EFER_NXE) << 40) +
           keys + (c->second.kind == MMU_SECOND_EPT ? vmx_second_rights(&c->second) : 0);
}

#endif
