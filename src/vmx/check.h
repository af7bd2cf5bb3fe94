/* SPDX-License-Identifier: MIT
 *
 * check.h: the rules of VM entries as functions over a VMCS's fields and capabilities. Freestanding: it sees
 * <vmenter/vmx.h> and tables alone, so that check.c can be built into a hypervisor.
 */
#ifndef VMX_CHECK_H
#define VMX_CHECK_H

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
    GROUP_ALWAYS = 1 << 12, /* rules that no entry leaves out */
    GROUP_FREE = 0,
    GROUP_INFO = 0,
    GROUP_ALL = (1 << 13) - 1,
};

/* Slot of an encoding (bit 0, the high-half access, ignored); -1: no such field at all. */
int vmcs_slot_of(uint64_t encoding);
/* The encoding that stands at a slot. */
uint32_t vmcs_encoding_of(unsigned slot);

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
    uint64_t rtit_ctl_bits, lbr_ctl_bits, pending_debug_bits;
    uint8_t maxphyaddr, linear_width; /* bits */
    bool sgx;
    bool field[F_COUNT]; /* the field exists */
};

enum vmx_check_row {
#define VMX_CHECK(area, name, ...) VMX_CHECK_##name,
#define VMX_CHECKS(area, groups)
#define VMX_CHECKS_END
#include "src/arch/vmx_check.def"
#undef VMX_CHECK
#undef VMX_CHECKS
#undef VMX_CHECKS_END
    VMX_CHECK_COUNT
};

struct vmx_check {
    const struct vmx_caps *caps;
    const uint64_t *f;     /* by slot */
    const uint64_t *known; /* bit n: slot n is known; null: all are */
    struct vmenter_vmx_host host;
    uint32_t refused; /* the entry of the VM-entry MSR-load area, from 1, that the processor did not load; 0: none */
};

/* Whether every rule of an area holds. groups: GROUP_* that may have changed since they were last found good. All
 * fields are known, and memory is. */
bool vmx_controls_hold(const struct vmx_check *k, uint32_t groups);
bool vmx_host_holds(const struct vmx_check *k, uint32_t groups);
bool vmx_guest_holds(const struct vmx_check *k, uint32_t groups);

/* Every rule, in order: `found` is told of each that is broken or could not be judged. It may change the fields that
 * the rules to come will see. The finding is the callee's to keep a copy of. */
void vmx_check_each(const struct vmx_check *k,
                    void (*found)(void *opaque, unsigned row, const struct vmenter_vmx_finding *finding), void *opaque);
/* As vmenter_vmx_check(). */
size_t vmx_check_list(const struct vmx_check *k, struct vmenter_vmx_finding *findings, size_t max);
const char *vmx_check_id(unsigned row);

bool vmx_eptp_valid(const struct vmx_caps *caps, uint64_t eptp);
uint32_t vmx_proc2(const uint64_t *f); /* the secondary controls in force: 0 when not activated */
void vmx_caps_decode(const struct vmenter_vmx_caps *from, struct vmx_caps *to); /* but for field[] */

#endif
