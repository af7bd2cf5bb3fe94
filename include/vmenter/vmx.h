/* SPDX-License-Identifier: MIT
 *
 * vmx.h: Intel VMX in constants and layouts: VMCS field encodings, control bits, exit reasons, VM-instruction errors,
 * capability MSRs. Facts only; freestanding; the same on the software processor and on silicon. SDM volume 3C.
 *
 *   VMCS_GUEST_RIP                       a field's encoding, the operand of __vmx_vmread and __vmx_vmwrite
 * (arch/vmcs.def) VMX_PROC2_ENABLE_EPT                 a control, as a mask of its word: PIN PROC PROC2 PROC3 EXIT
 * EXIT2 ENTRY VMFUNC (arch/vmx_ctl.def) VMX_REASON_CPUID                     a basic exit reason (arch/vmx_exit.def)
 *   VMX_ERR_VMLAUNCH_NONCLEAR            a VM-instruction error number (arch/vmx_err.def)
 */
#ifndef VMENTER_VMX_H
#define VMENTER_VMX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <vmenter/known.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Field encodings. Appendix "Field Encoding in VMCS". A VMWRITE or VMREAD of the high 32 bits of a 64-bit field takes
 * encoding + VMCS_HIGH. */
enum vmcs_field {
#define VMCS(name, encoding, when, group, text) VMCS_##name = encoding,
#include <vmenter/arch/vmcs.def>
#undef VMCS
    VMCS_HIGH = 1
};
enum vmcs_width { VMCS_WIDTH_16, VMCS_WIDTH_64, VMCS_WIDTH_32, VMCS_WIDTH_NATURAL };
enum vmcs_type { VMCS_TYPE_CONTROL, VMCS_TYPE_READ_ONLY, VMCS_TYPE_GUEST, VMCS_TYPE_HOST };
#define VMCS_FIELD_WIDTH(encoding) (((encoding) >> 13) & 3) /* enum vmcs_width */
#define VMCS_FIELD_TYPE(encoding)  (((encoding) >> 10) & 3) /* enum vmcs_type */
#define VMCS_FIELD_INDEX(encoding) (((encoding) >> 1) & 0x1ff)

/* Control bits, masks of their words. */
#define VMX_CTL(word, bit, name, class, since, feature, text) VMX_##word##_##name = (int)(1u << (bit)),
enum vmx_control {
#include <vmenter/arch/vmx_ctl.def>
    VMX_CONTROLS_END = 0
};
#undef VMX_CTL

/* Exit reasons: bits 15:0 of the exit-reason field. */
enum vmx_reason {
#define VMX_EXIT(number, name, valid, text) VMX_REASON_##name = number,
#include <vmenter/arch/vmx_exit.def>
#undef VMX_EXIT
    VMX_REASON_END = 80
};
#define VMX_REASON_BASIC(reason) ((reason)&0xffffu)
#define VMX_REASON_BUS_LOCK_BIT  (1u << 26)
#define VMX_REASON_ENCLAVE       (1u << 27)
#define VMX_REASON_PENDING_MTF   (1u << 28)
#define VMX_REASON_FROM_VMX_ROOT (1u << 29)
#define VMX_REASON_ENTRY_FAILURE (1u << 31)

/* The exit qualification of an entry failure due to invalid guest state. "VM-Entry Failures During or After Loading
 * Guest State". */
enum {
    VMX_ENTRY_FAILURE_DEFAULT = 0,
    VMX_ENTRY_FAILURE_PDPTE = 2,
    VMX_ENTRY_FAILURE_NMI = 3,
    VMX_ENTRY_FAILURE_LINK_POINTER = 4
};

/* VM-instruction errors. */
enum vmx_error {
#define VMX_ERR(number, name, text) VMX_ERR_##name = number,
#include <vmenter/arch/vmx_err.def>
#undef VMX_ERR
    VMX_ERR_END = 29
};

/* VMX-abort indicators. "VMX Aborts". */
enum vmx_abort {
    VMX_ABORT_SAVE_GUEST_MSRS = 1,
    VMX_ABORT_HOST_PDPTE = 2,
    VMX_ABORT_VMCS_CORRUPTED = 3,
    VMX_ABORT_LOAD_HOST_MSRS = 4,
    VMX_ABORT_MACHINE_CHECK = 5,
    VMX_ABORT_HOST_ADDRESS_SPACE = 6
};

/* Capability MSRs. Appendix "VMX Capability Reporting Facility". */
enum vmx_msr {
    VMX_MSR_FEATURE_CONTROL = 0x3a,
    VMX_MSR_BASIC = 0x480,
    VMX_MSR_PINBASED_CTLS = 0x481,
    VMX_MSR_PROCBASED_CTLS = 0x482,
    VMX_MSR_EXIT_CTLS = 0x483,
    VMX_MSR_ENTRY_CTLS = 0x484,
    VMX_MSR_MISC = 0x485,
    VMX_MSR_CR0_FIXED0 = 0x486,
    VMX_MSR_CR0_FIXED1 = 0x487,
    VMX_MSR_CR4_FIXED0 = 0x488,
    VMX_MSR_CR4_FIXED1 = 0x489,
    VMX_MSR_VMCS_ENUM = 0x48a,
    VMX_MSR_PROCBASED_CTLS2 = 0x48b,
    VMX_MSR_EPT_VPID_CAP = 0x48c,
    VMX_MSR_TRUE_PINBASED_CTLS = 0x48d,
    VMX_MSR_TRUE_PROCBASED_CTLS = 0x48e,
    VMX_MSR_TRUE_EXIT_CTLS = 0x48f,
    VMX_MSR_TRUE_ENTRY_CTLS = 0x490,
    VMX_MSR_VMFUNC = 0x491,
    VMX_MSR_PROCBASED_CTLS3 = 0x492,
    VMX_MSR_EXIT_CTLS2 = 0x493
};
#define VMX_FEATURE_CONTROL_LOCK            (1ull << 0)
#define VMX_FEATURE_CONTROL_VMX_IN_SMX      (1ull << 1)
#define VMX_FEATURE_CONTROL_VMX             (1ull << 2)
#define VMX_BASIC_REVISION(v)               ((uint32_t)(v)&0x7fffffffu)
#define VMX_BASIC_REGION_SIZE(v)            ((unsigned)((v) >> 32) & 0x1fffu)
#define VMX_BASIC_32BIT_ADDRESSES           (1ull << 48)
#define VMX_BASIC_DUAL_MONITOR              (1ull << 49)
#define VMX_BASIC_MEMORY_TYPE(v)            ((unsigned)((v) >> 50) & 15u)
#define VMX_BASIC_INS_OUTS_INFO             (1ull << 54)
#define VMX_BASIC_TRUE_CONTROLS             (1ull << 55)
#define VMX_BASIC_ANY_ERROR_CODE            (1ull << 56)
#define VMX_BASIC_NESTED_EXCEPTION          (1ull << 58)
#define VMX_MISC_PREEMPTION_TIMER_RATE(v)   ((unsigned)(v)&31u)
#define VMX_MISC_SAVE_EFER_LMA              (1ull << 5)
#define VMX_MISC_ACTIVITY_HLT               (1ull << 6)
#define VMX_MISC_ACTIVITY_SHUTDOWN          (1ull << 7)
#define VMX_MISC_ACTIVITY_WAIT_SIPI         (1ull << 8)
#define VMX_MISC_PT_IN_VMX                  (1ull << 14)
#define VMX_MISC_SMBASE_IN_SMM              (1ull << 15)
#define VMX_MISC_CR3_TARGETS(v)             ((unsigned)((v) >> 16) & 0x1ffu)
#define VMX_MISC_MSR_LIST_MAX(v)            ((((unsigned)((v) >> 25) & 7u) + 1u) * 512u)
#define VMX_MISC_SMM_MONITOR_CTL_28         (1ull << 28)
#define VMX_MISC_VMWRITE_ANY_FIELD          (1ull << 29)
#define VMX_MISC_INJECT_LENGTH_0            (1ull << 30)
#define VMX_EPT_CAP_EXECUTE_ONLY            (1ull << 0)
#define VMX_EPT_CAP_WALK_4                  (1ull << 6)
#define VMX_EPT_CAP_WALK_5                  (1ull << 7)
#define VMX_EPT_CAP_UC                      (1ull << 8)
#define VMX_EPT_CAP_WB                      (1ull << 14)
#define VMX_EPT_CAP_2M                      (1ull << 16)
#define VMX_EPT_CAP_1G                      (1ull << 17)
#define VMX_EPT_CAP_INVEPT                  (1ull << 20)
#define VMX_EPT_CAP_ACCESSED_DIRTY          (1ull << 21)
#define VMX_EPT_CAP_ADVANCED_EXIT_INFO      (1ull << 22)
#define VMX_EPT_CAP_SUPERVISOR_SHADOW_STACK (1ull << 23)
#define VMX_EPT_CAP_INVEPT_SINGLE           (1ull << 25)
#define VMX_EPT_CAP_INVEPT_ALL              (1ull << 26)
#define VMX_VPID_CAP_INVVPID                (1ull << 32)
#define VMX_VPID_CAP_INVVPID_ADDRESS        (1ull << 40)
#define VMX_VPID_CAP_INVVPID_SINGLE         (1ull << 41)
#define VMX_VPID_CAP_INVVPID_ALL            (1ull << 42)
#define VMX_VPID_CAP_INVVPID_RETAIN_GLOBALS (1ull << 43)

/* INVEPT and INVVPID: types and the descriptor (16 bytes, any alignment). */
enum vmx_invept_type { VMX_INVEPT_SINGLE_CONTEXT = 1, VMX_INVEPT_ALL_CONTEXT = 2 };
enum vmx_invvpid_type {
    VMX_INVVPID_ADDRESS = 0,
    VMX_INVVPID_SINGLE_CONTEXT = 1,
    VMX_INVVPID_ALL_CONTEXT = 2,
    VMX_INVVPID_RETAIN_GLOBALS = 3
};
struct vmx_invept_descriptor {
    uint64_t eptp;
    uint64_t reserved; /* 0 */
};
struct vmx_invvpid_descriptor {
    uint16_t vpid;
    uint16_t reserved[3]; /* 0 */
    uint64_t linear_address;
};

/* EPT pointer. */
#define VMX_EPTP_UC                      0u
#define VMX_EPTP_WB                      6u
#define VMX_EPTP_WALK_4                  (3u << 3)
#define VMX_EPTP_WALK_5                  (4u << 3)
#define VMX_EPTP_ACCESSED_DIRTY          (1u << 6)
#define VMX_EPTP_SUPERVISOR_SHADOW_STACK (1u << 7)
/* EPT entries. */
#define VMX_EPT_READ                (1ull << 0)
#define VMX_EPT_WRITE               (1ull << 1)
#define VMX_EPT_EXECUTE             (1ull << 2)
#define VMX_EPT_MEMORY_TYPE(t)      ((uint64_t)(t) << 3)
#define VMX_EPT_IGNORE_PAT          (1ull << 6)
#define VMX_EPT_LARGE               (1ull << 7)
#define VMX_EPT_ACCESSED            (1ull << 8)
#define VMX_EPT_DIRTY               (1ull << 9)
#define VMX_EPT_EXECUTE_USER        (1ull << 10)
#define VMX_EPT_VERIFY_GUEST_PAGING (1ull << 57)
#define VMX_EPT_PAGING_WRITE        (1ull << 58)
#define VMX_EPT_SUB_PAGE_WRITE      (1ull << 61)
#define VMX_EPT_SUPPRESS_VE         (1ull << 63)
#define VMX_HLAT_RESTART            (1ull << 11) /* of a paging-structure entry of HLAT paging */

/* Segment access rights. "Guest Register State". */
#define VMX_AR_TYPE(ar)  ((ar)&15u)
#define VMX_AR_S         (1u << 4)
#define VMX_AR_DPL(ar)   (((ar) >> 5) & 3u)
#define VMX_AR_DPL_SHIFT 5
#define VMX_AR_P         (1u << 7)
#define VMX_AR_AVL       (1u << 12)
#define VMX_AR_L         (1u << 13)
#define VMX_AR_DB        (1u << 14)
#define VMX_AR_G         (1u << 15)
#define VMX_AR_UNUSABLE  (1u << 16)
#define VMX_AR_RESERVED  0xfffe0f00u

/* Guest non-register state. */
enum vmx_activity {
    VMX_ACTIVITY_ACTIVE = 0,
    VMX_ACTIVITY_HLT = 1,
    VMX_ACTIVITY_SHUTDOWN = 2,
    VMX_ACTIVITY_WAIT_SIPI = 3
};
#define VMX_BLOCKING_BY_STI                (1u << 0)
#define VMX_BLOCKING_BY_MOV_SS             (1u << 1)
#define VMX_BLOCKING_BY_SMI                (1u << 2)
#define VMX_BLOCKING_BY_NMI                (1u << 3)
#define VMX_ENCLAVE_INTERRUPTION           (1u << 4)
#define VMX_PENDING_DBG_B(n)               (1ull << (n))
#define VMX_PENDING_DBG_BLD                (1ull << 11)
#define VMX_PENDING_DBG_ENABLED_BREAKPOINT (1ull << 12)
#define VMX_PENDING_DBG_BS                 (1ull << 14)
#define VMX_PENDING_DBG_RTM                (1ull << 16)

/* VM-entry and VM-exit interruption information, IDT-vectoring information. */
enum vmx_event_type {
    VMX_EVENT_EXTERNAL_INTERRUPT = 0,
    VMX_EVENT_NMI = 2,
    VMX_EVENT_HARDWARE_EXCEPTION = 3,
    VMX_EVENT_SOFTWARE_INTERRUPT = 4,
    VMX_EVENT_PRIVILEGED_SOFTWARE_EXCEPTION = 5,
    VMX_EVENT_SOFTWARE_EXCEPTION = 6,
    VMX_EVENT_OTHER = 7
};
#define VMX_INTR_VECTOR(info)        ((info)&0xffu)
#define VMX_INTR_TYPE(info)          (((info) >> 8) & 7u) /* enum vmx_event_type */
#define VMX_INTR_TYPE_SHIFT          8
#define VMX_INTR_ERROR_CODE          (1u << 11)
#define VMX_INTR_NMI_UNBLOCKING_IRET (1u << 12) /* VM-exit interruption information */
#define VMX_INTR_NESTED_EXCEPTION    (1u << 13)
#define VMX_INTR_VALID               (1u << 31)

/* One entry of an MSR area: 16 bytes, the area 16-byte aligned. "VM-Exit Controls for MSRs". */
struct vmx_msr_entry {
    uint32_t index;
    uint32_t reserved; /* 0 */
    uint64_t value;
};

/* The start of a VMCS region: 4096 bytes, 4096-byte aligned. */
struct vmx_region {
    uint32_t revision; /* bit 31: shadow-VMCS indicator */
    uint32_t abort;    /* enum vmx_abort */
    uint8_t data[4096 - 8];
};
#define VMX_REGION_SHADOW (1u << 31)

/* --- Would this VMCS enter? ------------------------------------------------------------------------------------------
 *
 * The rules of "Checks on VMX Controls and Host-State Area" and "Checking and Loading Guest State", all of them, over
 * an image of a VMCS. vmenter's own processor runs the same rules at its VM entries. No function here allocates, keeps
 * state or needs a C library: src/vmx/check.c builds by itself into a hypervisor for real hardware (docs/VMX.md). */

/* The fields of a VMCS as far as they are known. All zeros: nothing is. */
enum {
    VMENTER_VMCS_FIELDS = 0
#define VMCS(name, encoding, when, group, text) +1
#include <vmenter/arch/vmcs.def>
#undef VMCS
};
struct vmenter_vmcs {
    uint64_t value[VMENTER_VMCS_FIELDS]; /* in the order of arch/vmcs.def */
    uint64_t known[(VMENTER_VMCS_FIELDS + 63) / 64];
};
/* By encoding, high halves of 64-bit fields included. Set cuts the value to the field's width. False: there is no such
 * field; get: it is not known. */
bool vmenter_vmcs_get(const struct vmenter_vmcs *v, uint32_t encoding, uint64_t *value);
bool vmenter_vmcs_set(struct vmenter_vmcs *v, uint32_t encoding, uint64_t value);
/* Makes the image of what `read` gives: a VMREAD, or a look into a dump. It is asked for each field of the appendix
 * once, by its full encoding, and returns false where there is none (VMREAD of a field that the processor lacks
 * fails). */
void vmenter_vmcs_read(struct vmenter_vmcs *v, bool (*read)(void *opaque, uint32_t encoding, uint64_t *value),
                       void *opaque);

/* What the processor is able to. A member that is not known is best left at what vmenter_vmx_caps_read() makes of it.
 */
struct vmenter_vmx_caps {
    uint64_t msr[VMX_MSR_EXIT_CTLS2 - VMX_MSR_BASIC + 1]; /* IA32_VMX_BASIC and on; 0: the processor has no such MSR */
    uint64_t efer_bits, debugctl_bits, perf_global_bits;  /* bits of IA32_EFER, ... that are not reserved */
    uint64_t rtit_ctl_bits, lbr_ctl_bits;
    uint64_t pending_debug_bits;        /* of the pending debug exceptions */
    uint8_t physical_bits, linear_bits; /* CPUID 80000008H: EAX 7:0, 15:8 */
    bool sgx;                           /* the enclave-interruption bit may be 1 */
};
/* Asks the processor by RDMSR and CPUID (out: EAX, EBX, ECX, EDX). Only MSRs that exist are read. */
void vmenter_vmx_caps_read(struct vmenter_vmx_caps *caps, uint64_t (*rdmsr)(void *opaque, uint32_t msr),
                           void (*cpuid)(void *opaque, uint32_t leaf, uint32_t subleaf, uint32_t out[4]), void *opaque);
/* The same, of what is in msr[] and CPUID's answers alone; `cpuid` may be NULL: then every bit is taken to exist that
 * some processor has, with 46 physical and 57 linear bits. */
void vmenter_vmx_caps_derive(struct vmenter_vmx_caps *caps,
                             void (*cpuid)(void *opaque, uint32_t leaf, uint32_t subleaf, uint32_t out[4]),
                             void *opaque);

/* A processor that offers all that the manual has: for a VMCS of which nobody knows the processor. */
void vmenter_vmx_caps_any(struct vmenter_vmx_caps *caps);

/* Where the VM entry happens. All zeros: nothing is known. */
struct vmenter_vmx_host {
    enum vmenter_known ia32e_mode; /* the host is in IA-32e mode: IA32_EFER.LMA */
    enum vmenter_known smm;        /* the host is in SMM; unknown counts as no */
    bool has_vmcs_pointer;
    uint64_t vmcs_pointer; /* the VMCS's own physical address */
    /* Reads physical memory. False, or NULL: what is there is not known. */
    bool (*read_memory)(void *opaque, uint64_t address, void *to, size_t bytes);
    void *opaque;
};

enum vmenter_vmx_area {
    VMENTER_VMX_CONTROLS, /* VM-instruction error 7 */
    VMENTER_VMX_HOST,     /* VM-instruction error 8 */
    VMENTER_VMX_GUEST,    /* exit reason 80000021H */
    VMENTER_VMX_LOADING   /* exit reason 80000022H: the MSR-load area, as far as a look at it tells */
};
#define VMENTER_VMX_FINDING_FIELDS 8
/* A rule that is broken, or that could not be judged because a field or memory is not known. */
struct vmenter_vmx_finding {
    const char *id;      /* such as "guest.cs.ar.l-and-db"; it stays the same for ever */
    const char *section; /* its title in the manual's volume 3C */
    const char *rule;    /* a sentence: what must hold */
    uint16_t row;        /* its place in the order of the checks; differs between versions */
    uint8_t area;        /* enum vmenter_vmx_area */
    bool judged;         /* false: not known whether it is broken; then `lacking` says why */
    bool has_nearest;
    uint8_t fields;
    uint32_t field[VMENTER_VMX_FINDING_FIELDS]; /* encodings: the field at fault, then others that the verdict depends
                                                   on, as far as there is room */
    uint64_t found;                             /* in field[0] */
    uint64_t must, may; /* bits of field[0] that the rule wants 1, that it lets be 1; 0 and all ones: no such words */
    uint64_t nearest;   /* the nearest value of field[0] that keeps the rule, other fields as they are */
    uint32_t lacking;   /* encoding of the first field that was not known; VMENTER_VMX_LACKS_... */
    uint64_t lacking_address;
    uint32_t entry; /* of the VM-entry MSR-load area, from 1; 0: the rule is of no entry */
};
enum { VMENTER_VMX_LACKS_MEMORY = 0x10000, VMENTER_VMX_LACKS_POINTER, VMENTER_VMX_LACKS_MODE };

/* All findings, in the manual's order: the number that there are, of which the first `max` are stored. */
size_t vmenter_vmx_check(const struct vmenter_vmcs *v, const struct vmenter_vmx_caps *caps,
                         const struct vmenter_vmx_host *host, struct vmenter_vmx_finding *findings, size_t max);
/* What the processor says to it: 0 (it enters, as far as these rules go), 7 or 8 (VM-instruction error), 0x80000021 or
 * 0x80000022 (exit reason; *qualification, which may be NULL, is the exit's). Findings that were not judged do not
 * count. */
uint32_t vmenter_vmx_outcome(const struct vmenter_vmx_finding *findings, size_t count, uint64_t *qualification);
/* One line of words without a newline; length as snprintf does. */
size_t vmenter_vmx_finding_text(const struct vmenter_vmx_finding *finding, char *buf, size_t size);
/* Makes it keep every rule that can be judged, by few changes: each broken field takes its nearest legal value until
 * nothing is broken, and then every changed field that can go back goes back. A VMCS that breaks nothing is left as it
 * is. The number of fields changed; -1: the capabilities contradict each other, the VMCS still breaks a rule. */
int vmenter_vmx_round(struct vmenter_vmcs *v, const struct vmenter_vmx_caps *caps, const struct vmenter_vmx_host *host);

/* Words for people; never NULL (vmenter's library, not native). */
const char *vmenter_vmx_reason_name(uint32_t basic_reason);
const char *vmenter_vmx_error_text(uint32_t error);
const char *vmenter_vmcs_field_name(uint32_t encoding);
/* The control at a bit of a control word's field ("enable EPT"); NULL: none. */
const char *vmenter_vmx_control_name(uint32_t encoding, unsigned bit);
/* The capabilities of a processor model ("NAME[,+feature,-feature...]"; vmenter's library). False: no such model or
 * feature, or it has no VMX; `error` (may be NULL, else 256 bytes) says which. */
bool vmenter_vmx_caps_of_model(struct vmenter_vmx_caps *caps, const char *model, char *error);

#ifdef __cplusplus
}
#endif
#endif
