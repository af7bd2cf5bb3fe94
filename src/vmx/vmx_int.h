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
#include "src/vmx/vmx.h"
#include <vmenter/vmx.h>

/* Slots: F_GUEST_RIP is the place of the field VMCS_GUEST_RIP. */
enum vmcs_slot {
#define VMCS(name, encoding, when, group, text) F_##name,
#include <vmenter/arch/vmcs.def>
#undef VMCS
    F_COUNT
};
_Static_assert(F_COUNT < 255, "a slot's number + 1 fits a byte");
_Static_assert(16 + 8 * F_COUNT <= 4096, "all fields fit a VMCS region");

/* Groups of fields that entry checks depend on (column `group` of vmcs.def), bits of vmcs.dirty. */
enum vmcs_group {
    GROUP_CTL = 1 << 0,
    GROUP_INJ = 1 << 1,
    GROUP_TPR = 1 << 2,
    GROUP_HOST = 1 << 3,
    GROUP_CR = 1 << 4,
    GROUP_SEG = 1 << 5,
    GROUP_DT = 1 << 6,
    GROUP_RIP = 1 << 7,
    GROUP_FL = 1 << 8,
    GROUP_NREG = 1 << 9,
    GROUP_LINK = 1 << 10,
    GROUP_PDPTE = 1 << 11,
    GROUP_FREE = 0,
    GROUP_INFO = 0,
    GROUP_ALL = (1 << 12) - 1,
    GROUP_GUEST = GROUP_CR | GROUP_SEG | GROUP_DT | GROUP_RIP | GROUP_FL | GROUP_NREG | GROUP_LINK | GROUP_PDPTE,
};

struct vmcs_row {
    uint16_t encoding;
    uint16_t group;
    uint8_t width, type; /* enum vmcs_width, vmcs_type */
    const char *name, *text;
};
extern const struct vmcs_row vmcs_rows[F_COUNT];
/* Slot of an encoding (bit 0, the high-half access, ignored); -1: no such field at all. */
int vmcs_slot_of(uint64_t encoding);

/* Allowed settings: bits that must be 1, bits that may be 1. */
struct vmx_allowed {
    uint64_t must, may;
};
struct vmx_caps {
    struct vmx_allowed pin, proc, exit, entry;                         /* by the TRUE MSRs where the model has them */
    struct vmx_allowed plain_pin, plain_proc, plain_exit, plain_entry; /* default1 bits must be 1 */
    struct vmx_allowed proc2, proc3, exit2, vmfunc;
    uint64_t basic, misc, ept_vpid, cr0_fixed0, cr0_fixed1, cr4_fixed0, cr4_fixed1, vmcs_enum;
    uint64_t efer_bits, debugctl_bits, perf_global_bits; /* bits that exist */
    uint8_t maxphyaddr, linear_width;                    /* bits */
    bool field[F_COUNT];                                 /* the field exists */
};
void vmx_caps_init(struct vmx_caps *caps, const struct model *m);
/* A capability MSR; false: no such MSR on this model. */
bool vmx_caps_msr(const struct vmx_caps *caps, uint32_t msr, uint64_t *v);

struct vmcs {
    uint64_t pa;
    uint64_t last_used; /* of vmx_cpu.clock; 0: the pool's entry is free */
    uint32_t revision;  /* as in the region: bit 31 shadow-VMCS indicator */
    bool launched;
    uint32_t epoch;  /* of VMX operation, at its launch */
    uint32_t dirty;  /* GROUP_*: to be checked at the next VM entry */
    uint64_t rights; /* vmx_translation_rights() of the guest at its last exit */
    uint64_t icpt;   /* c->icpt in this guest, by its controls */
    uint64_t f[F_COUNT];
};
#define VMCS_REVISION 0x0e57e201u

#define VMX_POOL       16
#define VMX_BROKEN_MAX 64
#define VMX_NO_VMCS    UINT64_MAX

struct vmx_broken {
    unsigned count;
    struct {
        uint16_t row; /* enum vmx_check */
        uint64_t found;
    } rule[VMX_BROKEN_MAX];
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
    uint32_t pin, proc, proc2;
    bool virtual_nmi_blocked; /* virtual-NMI blocking, under virtual NMIs */
    bool mtf_pending;         /* an MTF VM exit comes before the next instruction */
    bool tpr_below;           /* a TPR-below-threshold exit comes before the next instruction */
    uint16_t apic_write;      /* offset | 1: APIC-write emulation is to follow the instruction; 0: none */
    bool virtual_interrupt;   /* a pending virtual interrupt is recognised */
    uint64_t mtf_from;        /* icount at the entry: an instruction is over when it differs */
    uint64_t timer_end;       /* processor's TSC at which the preemption timer expires; UINT64_MAX: it does not count */
    uint64_t timer_left;      /* its value where it does not count: wait-for-SIPI */
    uint64_t pause_last, pause_first; /* PAUSE-loop exiting: TSC of the last PAUSE at CPL 0, of the loop's first */
    uint64_t host_rights;             /* translation_rights() of the host at the last entry */

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

/* --- check.c
 * ---------------------------------------------------------------------------------------------------------- */
#define VMX_EPTRTA 0x000ffffffffff000ull /* of an EPTP: what tags cached translations */
enum vmx_check_row {
#define VMX_CHECK(area, name, id, section, text) VMX_CHECK_##name,
#include "src/arch/vmx_check.def"
#undef VMX_CHECK
    VMX_CHECK_COUNT
};
struct vmx_check {
    const struct vmx_caps *caps;
    const uint64_t *f;         /* by slot */
    struct vmx_broken *broken; /* broken rows are added */
    struct mem *mem;           /* for what the rules read in memory; null: those hold */
    uint64_t current;          /* current-VMCS pointer */
    bool ia32e_mode;           /* IA32_EFER.LMA at the time of the VM entry */
};
/* groups: GROUP_* that may have changed since they were last found good. */
void vmx_check_controls(const struct vmx_check *k, uint32_t groups);
void vmx_check_host(const struct vmx_check *k, uint32_t groups);
void vmx_check_guest(const struct vmx_check *k, uint32_t groups);
void vmx_broke(struct vmx_broken *b, unsigned row, uint64_t found);
const char *vmx_check_id(unsigned row);
bool vmx_eptp_valid(const struct vmx_caps *caps, uint64_t eptp);
bool vmx_pdptes_valid(const struct vmx_caps *caps, const uint64_t pdpte[4]);
uint32_t vmx_proc2(const uint64_t *f); /* the secondary controls in force: 0 when not activated */

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

/* Register bits under which the rights in TLB entries were computed. */
INLINE uint64_t vmx_translation_rights(const struct cpu *c)
{
    return (c->cr0 & (CR0_WP | CR0_PG | CR0_PE)) |
           (c->cr4 & (CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_PKS | CR4_PAE | CR4_PSE)) << 32 | (c->efer & EFER_NXE) << 40 |
           (c->cr4 & CR4_PKE ? (uint64_t)c->pkru * 0x9e3779b97f4a7c15ull : 0);
}

#endif
