/* SPDX-License-Identifier: MIT
 *
 * svm.h: AMD SVM's constants and the layout of the VMCB, for a VMM in C11 or C++17, hosted or on bare metal.
 *
 * AMD64 Architecture Programmer's Manual (APM) volume 2, chapter "Secure Virtual Machine", appendix "VMCB Layout". The
 * struct and the enums come from the tables in <vmenter/arch/vmcb.def> and <vmenter/arch/svm_exit.def>; a program may
 * include those too. Nothing here needs a library, but the functions at the end.
 */
#ifndef VMENTER_SVM_H
#define VMENTER_SVM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <vmenter/known.h>

#ifdef __cplusplus
#define VMENTER_STATIC_ASSERT_(e, text) static_assert(e, text)
#else
#define VMENTER_STATIC_ASSERT_(e, text) _Static_assert(e, text)
#endif

/* --- the VMCB ------------------------------------------------------------------------------------------------------
 * One 4096-byte page, aligned to 4096 bytes, at the physical address that VMRUN, VMLOAD and VMSAVE take in rAX. */

/* A segment or descriptor-table register. attrib: bits 3:0 type, 4 S, 6:5 DPL, 7 P, 8 AVL, 9 L, 10 D/B, 11 G (the
 * descriptor's bits 55:52 and 47:40). limit in bytes, already scaled by G. GDTR and IDTR use limit and base. */
struct vmcb_seg {
    uint16_t sel;
    uint16_t attrib;
    uint32_t limit;
    uint64_t base;
};

#define VMCB_DECL_u8(name)     uint8_t name
#define VMCB_DECL_u16(name)    uint16_t name
#define VMCB_DECL_u32(name)    uint32_t name
#define VMCB_DECL_u64(name)    uint64_t name
#define VMCB_DECL_insn15(name) uint8_t name[15]
#define VMCB_DECL_seg(name)    struct vmcb_seg name

struct vmcb_control {
#define VMCB_CONTROL(offset, type, name, group) VMCB_DECL_##type(name);
#define VMCB_CONTROL_GAP(offset, bytes)         uint8_t reserved_##offset[bytes];
#define VMCB_SAVE(offset, type, name, group)
#define VMCB_SAVE_GAP(offset, bytes)
#include <vmenter/arch/vmcb.def>
};

struct vmcb_save {
#define VMCB_CONTROL(offset, type, name, group)
#define VMCB_CONTROL_GAP(offset, bytes)
#define VMCB_SAVE(offset, type, name, group) VMCB_DECL_##type(name);
#define VMCB_SAVE_GAP(offset, bytes)         uint8_t reserved_##offset[bytes];
#include <vmenter/arch/vmcb.def>
};

struct vmcb {
    struct vmcb_control control;
    struct vmcb_save save;
};

#define VMCB_CONTROL(offset, type, name, group)                                                                        \
    VMENTER_STATIC_ASSERT_(offsetof(struct vmcb_control, name) == offset, "vmcb.def: " #name);
#define VMCB_CONTROL_GAP(offset, bytes)                                                                                \
    VMENTER_STATIC_ASSERT_(offsetof(struct vmcb_control, reserved_##offset) == offset, "vmcb.def: " #offset);
#define VMCB_SAVE(offset, type, name, group)                                                                           \
    VMENTER_STATIC_ASSERT_(offsetof(struct vmcb_save, name) == offset, "vmcb.def: " #name);
#define VMCB_SAVE_GAP(offset, bytes)                                                                                   \
    VMENTER_STATIC_ASSERT_(offsetof(struct vmcb_save, reserved_##offset) == offset, "vmcb.def: " #offset);
#include <vmenter/arch/vmcb.def>
VMENTER_STATIC_ASSERT_(offsetof(struct vmcb, save) == 0x400, "the save area is at 0x400");
VMENTER_STATIC_ASSERT_(sizeof(struct vmcb) == 4096, "a VMCB is a page");

/* --- exit codes and intercepts
 * ---------------------------------------------------------------------------------------- control.exitcode. `#VMEXIT
 * of code n` is asked for by bit n from the start of the VMCB (n below 0xc0): one name does for both. The first of a
 * family stands for all: SVM_EXIT_EXCEPTION + vector, SVM_EXIT_CR0_WRITE + 4. */
#ifdef __cplusplus
enum svm_exit : uint64_t {
#define SVM_EXIT(code, name, what, info1, info2) SVM_EXIT_##name = static_cast<uint64_t>(code),
#else
enum svm_exit {
#define SVM_EXIT(code, name, what, info1, info2) SVM_EXIT_##name = code,
#endif
#include <vmenter/arch/svm_exit.def>
};
#define SVM_INTERCEPTS 0xc0u /* intercept bits of the control area */

static inline void vmcb_set_intercept(struct vmcb *v, unsigned exit_code)
{
    uint8_t *p = (uint8_t *)v + exit_code / 8;
    *p = (uint8_t)(*p | 1u << exit_code % 8);
}
static inline void vmcb_clear_intercept(struct vmcb *v, unsigned exit_code)
{
    uint8_t *p = (uint8_t *)v + exit_code / 8;
    *p = (uint8_t)(*p & ~(1u << exit_code % 8));
}
static inline int vmcb_has_intercept(const struct vmcb *v, unsigned exit_code)
{
    return ((const uint8_t *)v)[exit_code / 8] >> exit_code % 8 & 1;
}

/* --- control area ------------------------------------------------------------------------------------------------- */
enum vmcb_tlb_control { /* control.tlb_control; the others are reserved */
                        VMCB_TLB_NOTHING = 0,
                        VMCB_TLB_FLUSH_ALL = 1,             /* every entry of every ASID */
                        VMCB_TLB_FLUSH_ASID = 3,            /* this guest's entries */
                        VMCB_TLB_FLUSH_ASID_NON_GLOBAL = 7, /* this guest's entries that are not global */
};

/* control.vintr */
#define VMCB_VINTR_TPR_MASK      0xffull     /* V_TPR in bits 3:0 */
#define VMCB_VINTR_IRQ           (1ull << 8) /* V_IRQ: a virtual interrupt is pending */
#define VMCB_VINTR_GIF           (1ull << 9) /* VGIF: the virtual GIF */
#define VMCB_VINTR_NMI           (1ull << 11)
#define VMCB_VINTR_NMI_MASK      (1ull << 12)
#define VMCB_VINTR_PRIO(n)       ((uint64_t)(n) << 16) /* V_INTR_PRIO, 4 bits */
#define VMCB_VINTR_IGN_TPR       (1ull << 20)
#define VMCB_VINTR_MASKING       (1ull << 24) /* V_INTR_MASKING: RFLAGS.IF and CR8 of the guest are its own */
#define VMCB_VINTR_GIF_ENABLE    (1ull << 25)
#define VMCB_VINTR_NMI_ENABLE    (1ull << 26)
#define VMCB_VINTR_X2AVIC_ENABLE (1ull << 30)
#define VMCB_VINTR_AVIC_ENABLE   (1ull << 31)
#define VMCB_VINTR_VECTOR(n)     ((uint64_t)(n) << 32)

/* control.interrupt_shadow */
#define VMCB_INTERRUPT_SHADOW     (1ull << 0)
#define VMCB_GUEST_INTERRUPT_MASK (1ull << 1) /* value of RFLAGS.IF at the #VMEXIT of an encrypted guest */

/* control.nested_ctl */
#define VMCB_NP_ENABLE        (1ull << 0)
#define VMCB_SEV_ENABLE       (1ull << 1)
#define VMCB_SEV_ES_ENABLE    (1ull << 2)
#define VMCB_GMET_ENABLE      (1ull << 3)
#define VMCB_SSS_CHECK_ENABLE (1ull << 4)
#define VMCB_VTE_ENABLE       (1ull << 5)
#define VMCB_ROGPT_ENABLE     (1ull << 6)
#define VMCB_INVLPGB_ENABLE   (1ull << 7)

/* control.virt_ext */
#define VMCB_LBR_ENABLE         (1ull << 0)
#define VMCB_VIRT_VMSAVE_VMLOAD (1ull << 1)
#define VMCB_IBS_ENABLE         (1ull << 2)
#define VMCB_PMC_ENABLE         (1ull << 3)

/* control.eventinj and control.exitintinfo */
#define VMCB_EVENT_VECTOR(e)   ((unsigned)((e)&0xff))
#define VMCB_EVENT_TYPE(e)     ((unsigned)((e) >> 8 & 7))
#define VMCB_EVENT_ERROR_VALID (1ull << 11)
#define VMCB_EVENT_VALID       (1ull << 31)
#define VMCB_EVENT_ERROR(e)    ((uint32_t)((e) >> 32))
enum vmcb_event_type { VMCB_EVENT_INTR = 0, VMCB_EVENT_NMI = 2, VMCB_EVENT_EXCEPTION = 3, VMCB_EVENT_SOFTINT = 4 };
static inline uint64_t vmcb_event(enum vmcb_event_type type, unsigned vector)
{
    return VMCB_EVENT_VALID | (uint64_t)type << 8 | vector;
}
static inline uint64_t vmcb_event_error(enum vmcb_event_type type, unsigned vector, uint32_t error)
{
    return VMCB_EVENT_VALID | VMCB_EVENT_ERROR_VALID | (uint64_t)error << 32 | (uint64_t)type << 8 | vector;
}

/* control.clean: the group was not changed by software since the last #VMEXIT of this VMCB. */
enum vmcb_clean {
    VMCB_CLEAN_I = 1 << 0,    /* intercepts, TSC offset, PAUSE filter */
    VMCB_CLEAN_IOPM = 1 << 1, /* IOPM_BASE_PA, MSRPM_BASE_PA */
    VMCB_CLEAN_ASID = 1 << 2,
    VMCB_CLEAN_TPR = 1 << 3, /* the vintr field */
    VMCB_CLEAN_NP = 1 << 4,  /* nested paging: nCR3, G_PAT */
    VMCB_CLEAN_CR = 1 << 5,  /* CR0, CR3, CR4, EFER */
    VMCB_CLEAN_DR = 1 << 6,  /* DR6, DR7 */
    VMCB_CLEAN_DT = 1 << 7,  /* GDTR, IDTR */
    VMCB_CLEAN_SEG = 1 << 8, /* CS, DS, SS, ES, CPL */
    VMCB_CLEAN_CR2 = 1 << 9,
    VMCB_CLEAN_LBR = 1 << 10,
    VMCB_CLEAN_AVIC = 1 << 11,
    VMCB_CLEAN_CET = 1 << 12,
    VMCB_CLEAN_ALL = (1 << 13) - 1,
};

/* --- EXITINFO1 and EXITINFO2 ----------------------------------------------------------------------------------------
 */
/* SVM_EXIT_IOIO: EXITINFO2 is the rIP of the next instruction. */
#define SVM_IOIO_IN          (1ull << 0) /* IN or INS */
#define SVM_IOIO_STR         (1ull << 2) /* INS or OUTS */
#define SVM_IOIO_REP         (1ull << 3)
#define SVM_IOIO_SZ8         (1ull << 4)
#define SVM_IOIO_SZ16        (1ull << 5)
#define SVM_IOIO_SZ32        (1ull << 6)
#define SVM_IOIO_A16         (1ull << 7)
#define SVM_IOIO_A32         (1ull << 8)
#define SVM_IOIO_A64         (1ull << 9)
#define SVM_IOIO_SEG(info1)  ((unsigned)((info1) >> 10 & 7)) /* decode assist: ES CS SS DS FS GS */
#define SVM_IOIO_PORT(info1) ((uint16_t)((info1) >> 16))
#define SVM_IOIO_SIZE(info1) ((unsigned)((info1) >> 4 & 7)) /* bytes: 1, 2 or 4 */
/* SVM_EXIT_CR0_READ .. SVM_EXIT_DR0_WRITE + 15 with decode assists */
#define SVM_CR_MOV        (1ull << 63) /* MOV to or from CRn: the GPR is valid; clear: LMSW, CLTS, SMSW */
#define SVM_CR_GPR(info1) ((unsigned)((info1)&15))
/* SVM_EXIT_NPF: EXITINFO1 has the page-fault error code in its low bits */
#define SVM_NPF_P     (1ull << 0)
#define SVM_NPF_RW    (1ull << 1)
#define SVM_NPF_US    (1ull << 2)
#define SVM_NPF_RSV   (1ull << 3)
#define SVM_NPF_ID    (1ull << 4)
#define SVM_NPF_SS    (1ull << 6)
#define SVM_NPF_FINAL (1ull << 32) /* while translating the guest's final physical address */
#define SVM_NPF_TABLE (1ull << 33) /* while translating a guest page table */
#define SVM_NPF_SSS   (1ull << 37)
/* SVM_EXIT_TASK_SWITCH: EXITINFO1 is the selector */
#define SVM_TASK_IRET  (1ull << 36)
#define SVM_TASK_JMP   (1ull << 38)
#define SVM_TASK_ERROR (1ull << 44) /* EXITINFO2 31:0 is an error code to push */
#define SVM_TASK_RF    (1ull << 48)

/* --- permission maps
 * -------------------------------------------------------------------------------------------------- Physical,
 * 4096-byte aligned. IOPM: 12 KiB, bit n is port n. MSRPM: 8 KiB, two bits for each MSR (read, write), three ranges of
 * 2 KiB from MSRs 0, 0xc0000000 and 0xc0010000; MSRs in none of them are always intercepted. */
#define SVM_IOPM_SIZE  12288u
#define SVM_MSRPM_SIZE 8192u
static inline void svm_iopm_set(void *iopm, unsigned port, int intercept)
{
    uint8_t *p = (uint8_t *)iopm + port / 8;
    *p = (uint8_t)((*p & ~(1u << port % 8)) | (intercept ? 1u : 0u) << port % 8);
}
/* The number of the MSR's read bit in the map (the write bit follows); -1: in no range. */
static inline int32_t svm_msrpm_bit(uint32_t msr)
{
    uint32_t n = msr & 0x1fff;
    switch (msr - n) {
    case 0: return (int32_t)(2 * n);
    case 0xc0000000u: return (int32_t)(2 * n + 0x4000);
    case 0xc0010000u: return (int32_t)(2 * n + 0x8000);
    default: return -1;
    }
}
static inline void svm_msrpm_set(void *msrpm, uint32_t msr, int read, int write)
{
    int32_t bit = svm_msrpm_bit(msr);
    if (bit >= 0) {
        uint8_t *p = (uint8_t *)msrpm + bit / 8;
        *p = (uint8_t)((*p & ~(3u << bit % 8)) | ((read ? 1u : 0u) | (write ? 2u : 0u)) << bit % 8);
    }
}

/* --- model-specific registers and CPUID
 * ------------------------------------------------------------------------------- */
#define SVM_MSR_EFER           0xc0000080u
#define SVM_EFER_SVME          (1ull << 12)
#define SVM_MSR_TSC_RATIO      0xc0000104u /* 39:32 integer, 31:0 fraction */
#define SVM_TSC_RATIO_ONE      (1ull << 32)
#define SVM_MSR_VM_CR          0xc0010114u
#define SVM_VM_CR_DPD          (1ull << 0)
#define SVM_VM_CR_R_INIT       (1ull << 1)
#define SVM_VM_CR_DIS_A20M     (1ull << 2)
#define SVM_VM_CR_LOCK         (1ull << 3)
#define SVM_VM_CR_SVMDIS       (1ull << 4)
#define SVM_MSR_IGNNE          0xc0010115u
#define SVM_MSR_SMM_CTL        0xc0010116u
#define SVM_MSR_VM_HSAVE_PA    0xc0010117u
#define SVM_MSR_KEY            0xc0010118u
#define SVM_MSR_AVIC_DOORBELL  0xc001011bu
#define SVM_MSR_VIRT_SPEC_CTRL 0xc001011fu

/* CPUID Fn8000_0001 ECX: SVM, SKINIT. Fn8000_000A: EAX 7:0 revision, EBX number of ASIDs, EDX as follows. */
#define SVM_CPUID_ECX_SVM      (1u << 2)
#define SVM_CPUID_ECX_SKINIT   (1u << 12)
#define SVM_CPUID_NP           (1u << 0)
#define SVM_CPUID_LBR          (1u << 1)
#define SVM_CPUID_SVML         (1u << 2)
#define SVM_CPUID_NRIPS        (1u << 3)
#define SVM_CPUID_TSC_RATE     (1u << 4)
#define SVM_CPUID_VMCB_CLEAN   (1u << 5)
#define SVM_CPUID_FLUSH_ASID   (1u << 6)
#define SVM_CPUID_DECODE       (1u << 7)
#define SVM_CPUID_PAUSE_FILTER (1u << 10)
#define SVM_CPUID_PAUSE_THRESH (1u << 12)
#define SVM_CPUID_AVIC         (1u << 13)
#define SVM_CPUID_V_VMSAVE     (1u << 15)
#define SVM_CPUID_VGIF         (1u << 16)
#define SVM_CPUID_GMET         (1u << 17)
#define SVM_CPUID_X2AVIC       (1u << 18)
#define SVM_CPUID_SSS          (1u << 19)
#define SVM_CPUID_SPEC_CTRL    (1u << 20)
#define SVM_CPUID_ROGPT        (1u << 21)
#define SVM_CPUID_MCE_OVERRIDE (1u << 23)
#define SVM_CPUID_TLBI         (1u << 24)
#define SVM_CPUID_VNMI         (1u << 25)
#define SVM_CPUID_IBS          (1u << 26)
#define SVM_CPUID_BUS_LOCK     (1u << 29)
#define SVM_CPUID_IDLE_HLT     (1u << 30)

/* --- Would VMRUN take this VMCB?
 * --------------------------------------------------------------------------------------
 *
 * The rules of "Canonicalization and Consistency Checks" and of the features that have some, all of them. vmenter's own
 * processor runs the same rules at its VMRUN. No function here allocates, keeps state or needs a C library:
 * src/svm/check.c and check_words.c build by themselves into a hypervisor for real hardware (docs/SVM.md). */
#ifdef __cplusplus
extern "C" {
#endif

/* What the processor is able to. */
struct vmenter_svm_caps {
    uint64_t cr4_bits, efer_bits; /* bits of CR4 and EFER that are not reserved */
    uint32_t asids;               /* number of ASIDs, 0 included: CPUID Fn8000_000A EBX */
    uint8_t physical_bits;        /* CPUID Fn8000_0008 EAX 7:0 */
    bool long_mode, nested_paging, flush_by_asid, vnmi;
};
/* Asks the processor by CPUID (out: EAX, EBX, ECX, EDX). */
void vmenter_svm_caps_read(struct vmenter_svm_caps *caps,
                           void (*cpuid)(void *opaque, uint32_t leaf, uint32_t subleaf, uint32_t out[4]), void *opaque);
/* A processor that offers all that the manual has: for a VMCB of which nobody knows the processor. */
void vmenter_svm_caps_any(struct vmenter_svm_caps *caps);
/* Those of a processor model ("NAME[,+feature,-feature...]"; vmenter's library, not native). False: no such model or
 * feature, or it has no SVM; `error` (may be NULL, else 256 bytes) says which. */
bool vmenter_svm_caps_of_model(struct vmenter_svm_caps *caps, const char *model, char *error);

/* Where VMRUN is executed. All zeros: nothing is known. */
struct vmenter_svm_host {
    enum vmenter_known paging;    /* CR0.PG */
    enum vmenter_known long_mode; /* EFER.LMA */
    /* Reads physical memory. False, or NULL: what is there is not known. */
    bool (*read_memory)(void *opaque, uint64_t address, void *to, size_t bytes);
    void *opaque;
};

#define VMENTER_SVM_FINDING_FIELDS 6
/* A rule that is broken, or that could not be judged because a field or memory is not known. */
struct vmenter_svm_finding {
    const char *id;      /* such as "CR0_CD_NW"; it stays the same for ever */
    const char *section; /* its title in the manual's volume 2 */
    const char *rule;    /* a sentence: what is wrong if it is broken */
    uint16_t row;        /* its place in the order of the checks; differs between versions */
    bool judged;         /* false: not known whether it is broken; then `lacking` says why */
    bool has_nearest;
    uint8_t fields;
    uint8_t size;                               /* of field[0], in bytes: 1, 2, 4, 8 */
    uint16_t field[VMENTER_SVM_FINDING_FIELDS]; /* offsets in the VMCB: the field at fault, then others that the verdict
                                                   depends on, as far as there is room */
    uint64_t found;                             /* in field[0] */
    uint64_t must, may; /* bits of field[0] that the rule wants 1, that it lets be 1; 0 and all ones: no such words */
    uint64_t nearest;   /* the nearest value of field[0] that keeps the rule, other fields as they are */
    uint32_t lacking;   /* offset of the first field that was not known; VMENTER_SVM_LACKS_... */
    uint64_t lacking_address;
};
enum { VMENTER_SVM_LACKS_MEMORY = 0x1000, VMENTER_SVM_LACKS_PAGING, VMENTER_SVM_LACKS_MODE };

/* All findings, in order: the number that there are, of which the first `max` are stored. VMRUN ends in #VMEXIT with
 * VMEXIT_INVALID when one is judged. `known`: sizeof(struct vmcb) bytes, 0 where the VMCB's byte is not known; NULL:
 * all of it is. Clean bits are taken for clear: a processor that holds the VMCB may see older values. */
size_t vmenter_svm_check(const struct vmcb *v, const uint8_t *known, const struct vmenter_svm_caps *caps,
                         const struct vmenter_svm_host *host, struct vmenter_svm_finding *findings, size_t max);
/* One line of words without a newline; length as snprintf does. */
size_t vmenter_svm_finding_text(const struct vmenter_svm_finding *finding, char *buf, size_t size);
/* Makes it keep every rule that can be judged, by few changes: each broken field takes its nearest legal value until
 * nothing is broken, and then every changed field that can go back goes back. A VMCB that breaks nothing is left as it
 * is. The number of fields changed; -1: the capabilities contradict each other, the VMCB still breaks a rule. */
int vmenter_svm_round(struct vmcb *v, const uint8_t *known, const struct vmenter_svm_caps *caps,
                      const struct vmenter_svm_host *host);

/* "save.cr0", "save.cs.attrib", of the field that begins at the offset; NULL: none does. */
const char *vmenter_vmcb_field_name(uint32_t offset);
/* The bit of a field that has names for them: an intercept, a bit of CR0, CR4 or EFER; NULL: none. */
const char *vmenter_vmcb_bit_name(uint32_t offset, unsigned bit);

#ifdef __cplusplus
}
#endif
#endif
