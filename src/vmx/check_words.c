/* SPDX-License-Identifier: MIT
 *
 * check_words.c: what check.c finds, in words; and the capabilities of the processor that this runs on.
 *
 * Freestanding like check.c.
 */
#include "src/base/words.h"
#include "src/vmx/check.h"

/* --- names -------------------------------------------------------------------------------------------------------- */

static const char *const field_names[F_COUNT] = {
#define VMCS(name, encoding, when, group, text) [F_##name] = #name,
#include <vmenter/arch/vmcs.def>
#undef VMCS
};

const char *vmenter_vmcs_field_name(uint32_t encoding)
{
    int slot = vmcs_slot_of(encoding);
    return slot < 0 ? "?" : field_names[slot];
}

static const struct {
    uint16_t slot;
    uint8_t bit;
    const char *text;
} controls[] = {
#define WORD_SLOT_PIN                                           F_PIN_CONTROLS
#define WORD_SLOT_PROC                                          F_PROC_CONTROLS
#define WORD_SLOT_PROC2                                         F_PROC2_CONTROLS
#define WORD_SLOT_PROC3                                         F_PROC3_CONTROLS
#define WORD_SLOT_EXIT                                          F_EXIT_CONTROLS
#define WORD_SLOT_EXIT2                                         F_EXIT2_CONTROLS
#define WORD_SLOT_ENTRY                                         F_ENTRY_CONTROLS
#define WORD_SLOT_VMFUNC                                        F_VM_FUNCTION_CONTROLS
#define VMX_CTL(word, bit_, name, class, since, feature, text_) {WORD_SLOT_##word, bit_, text_},
#include <vmenter/arch/vmx_ctl.def>
#undef VMX_CTL
};

const char *vmenter_vmx_control_name(uint32_t encoding, unsigned bit)
{
    int slot = vmcs_slot_of(encoding);
    for (size_t i = 0; slot >= 0 && i < sizeof controls / sizeof *controls; i++)
        if (controls[i].slot == slot && controls[i].bit == bit)
            return controls[i].text;
    return NULL;
}

/* --- findings ----------------------------------------------------------------------------------------------------- */

size_t vmenter_vmx_finding_text(const struct vmenter_vmx_finding *e, char *buf, size_t size)
{
    struct words t = {buf, size, 0};
    words_add(&t, e->id);
    if (!e->judged) {
        words_add(&t, ": not judged: ");
        switch (e->lacking) {
        case VMENTER_VMX_LACKS_MEMORY:
            words_add(&t, "memory at ");
            words_hex(&t, e->lacking_address);
            break;
        case VMENTER_VMX_LACKS_POINTER: words_add(&t, "the address of the VMCS"); break;
        case VMENTER_VMX_LACKS_MODE: words_add(&t, "whether the host is in IA-32e mode"); break;
        default: words_add(&t, vmenter_vmcs_field_name(e->lacking));
        }
        words_add(&t, " is not known: ");
    } else {
        words_add(&t, ": ");
        words_add(&t, vmenter_vmcs_field_name(e->field[0]));
        words_add(&t, " is ");
        words_hex(&t, e->found);
        if (e->entry) {
            words_add(&t, ", entry ");
            words_number(&t, e->entry);
        }
        words_add(&t, ": ");
    }
    words_add(&t, e->rule);
    if (e->judged && e->has_nearest && e->nearest != e->found) {
        words_add(&t, "; nearest legal value ");
        words_hex(&t, e->nearest);
        /* Of bits, which; of an address or a number the value says it. */
        if (e->must || e->may != ~0ull || vmenter_vmx_control_name(e->field[0], 31) ||
            (e->nearest ^ e->found) < 0x20000)
            words_change(&t, e->field[0], e->found, e->nearest, vmenter_vmx_control_name);
    }
    words_add(&t, " (SDM 3C, \"");
    words_add(&t, e->section);
    words_add(&t, "\")");
    return words_end(&t);
}

/* --- capabilities ------------------------------------------------------------------------------------------------- */

void vmenter_vmx_caps_derive(struct vmenter_vmx_caps *caps,
                             void (*cpuid)(void *opaque, uint32_t leaf, uint32_t subleaf, uint32_t out[4]),
                             void *opaque)
{
    enum { A, B, C, D };
    uint32_t r[4];
#define HAS(reg, bit) (r[reg] >> (bit)&1)
    caps->debugctl_bits = 0xffc7; /* LBR, BTF, bus lock, TR to RTM */
    caps->pending_debug_bits =
        0xf | VMX_PENDING_DBG_BLD | VMX_PENDING_DBG_ENABLED_BREAKPOINT | VMX_PENDING_DBG_BS | VMX_PENDING_DBG_RTM;
    caps->efer_bits = 0xd01; /* SCE, LME, LMA, NXE */
    caps->perf_global_bits = ~0ull;
    caps->rtit_ctl_bits = caps->lbr_ctl_bits = ~0ull;
    caps->physical_bits = 46;
    caps->linear_bits = 57;
    caps->sgx = true;
    if (!cpuid)
        return;
    cpuid(opaque, 0, 0, r);
    uint32_t max = r[A];
    cpuid(opaque, 1, 0, r);
    bool pdcm = HAS(C, 15), ds = HAS(D, 21);
    bool rtm = false, bus_lock = false;
    caps->sgx = false;
    if (max >= 7) {
        cpuid(opaque, 7, 0, r);
        rtm = HAS(B, 11);
        caps->sgx = HAS(B, 2);
        bus_lock = HAS(C, 24);
    }
    /* "IA32_DEBUGCTL MSR": LBR and BTF; TR, BTS, BTINT, BTS_OFF_OS, BTS_OFF_USR with a debug store; freezing and
     * UNCORE_PMI_EN where there is IA32_PERF_CAPABILITIES; RTM. */
    caps->debugctl_bits = 3 | (bus_lock ? 4 : 0) | (ds ? 0x7c0 : 0) | (pdcm ? 0x7800 : 0) | (rtm ? 0x8000 : 0);
    caps->pending_debug_bits = 0xf | VMX_PENDING_DBG_ENABLED_BREAKPOINT | VMX_PENDING_DBG_BS |
                               (bus_lock ? VMX_PENDING_DBG_BLD : 0) | (rtm ? VMX_PENDING_DBG_RTM : 0);
    caps->perf_global_bits = 0;
    if (max >= 10) {
        cpuid(opaque, 10, 0, r);
        unsigned general = r[A] >> 8 & 0xff, fixed = r[A] & 0xff ? r[D] & 31 : 0;
        uint32_t listed = (r[A] & 0xff) >= 5 ? r[C] : 0;
        caps->perf_global_bits = (general >= 32 ? 0xffffffffull : (1ull << general) - 1) |
                                 (((1ull << fixed) - 1) | listed) << 32 | ((r[A] & 0xff) >= 5 ? 1ull << 48 : 0);
    }
    cpuid(opaque, 0x80000000, 0, r);
    if (r[A] >= 0x80000001) {
        max = r[A];
        cpuid(opaque, 0x80000001, 0, r);
        caps->efer_bits = 0;
        if (HAS(D, 29))
            caps->efer_bits |= 0x501; /* LME, LMA, and SYSCALL in 64-bit mode */
        if (HAS(D, 20))
            caps->efer_bits |= 0x800;
        if (max >= 0x80000008) {
            cpuid(opaque, 0x80000008, 0, r);
            caps->physical_bits = (uint8_t)r[A];
            caps->linear_bits = (uint8_t)(r[A] >> 8);
        }
    }
#undef HAS
}

void vmenter_vmx_caps_read(struct vmenter_vmx_caps *caps, uint64_t (*rdmsr)(void *opaque, uint32_t msr),
                           void (*cpuid)(void *opaque, uint32_t leaf, uint32_t subleaf, uint32_t out[4]), void *opaque)
{
#define MSR(name)  caps->msr[VMX_MSR_##name - VMX_MSR_BASIC]
#define READ(name) (MSR(name) = rdmsr(opaque, VMX_MSR_##name))
    for (size_t i = 0; i < sizeof caps->msr / sizeof *caps->msr; i++)
        caps->msr[i] = 0;
    uint64_t basic = READ(BASIC), proc, exit;
    READ(PINBASED_CTLS);
    proc = READ(PROCBASED_CTLS);
    exit = READ(EXIT_CTLS);
    READ(ENTRY_CTLS);
    READ(MISC);
    READ(CR0_FIXED0);
    READ(CR0_FIXED1);
    READ(CR4_FIXED0);
    READ(CR4_FIXED1);
    READ(VMCS_ENUM);
    if (basic & VMX_BASIC_TRUE_CONTROLS) {
        READ(TRUE_PINBASED_CTLS);
        proc = READ(TRUE_PROCBASED_CTLS);
        exit = READ(TRUE_EXIT_CTLS);
        READ(TRUE_ENTRY_CTLS);
    }
    if (proc >> 63 & 1) {
        uint64_t proc2 = READ(PROCBASED_CTLS2) >> 32;
        if (proc2 & (VMX_PROC2_ENABLE_EPT | VMX_PROC2_ENABLE_VPID))
            READ(EPT_VPID_CAP);
        if (proc2 & VMX_PROC2_ENABLE_VM_FUNCTIONS)
            READ(VMFUNC);
    }
    if (proc >> (32 + 17) & 1)
        READ(PROCBASED_CTLS3);
    if (exit >> 63 & 1)
        READ(EXIT_CTLS2);
    vmenter_vmx_caps_derive(caps, cpuid, opaque);
#undef READ
#undef MSR
}

void vmenter_vmx_caps_any(struct vmenter_vmx_caps *caps)
{
    struct vmx_allowed PIN = {0, 0}, PROC = {0, 0}, PROC2 = {0, 0}, PROC3 = {0, 0}, EXIT = {0, 0}, EXIT2 = {0, 0},
                       ENTRY = {0, 0}, VMFUNC = {0, 0};
    enum { OPT, DEF1 };
#define VMX_DEFAULT1(word, mask) word.must |= mask, word.may |= mask;
#define VMX_CTL(word, bit, name, class, since, feature, text)                                                          \
    word.may |= 1ull << (bit);                                                                                         \
    if (class == DEF1)                                                                                                 \
        word.must &= ~(1ull << (bit));
#include <vmenter/arch/vmx_ctl.def>
#undef VMX_CTL
#define MSR(name)  caps->msr[VMX_MSR_##name - VMX_MSR_BASIC]
#define PAIR(word) (word.must | word.may << 32)
    vmenter_vmx_caps_derive(caps, NULL, NULL);
    caps->physical_bits = 52;
    for (size_t i = 0; i < sizeof caps->msr / sizeof *caps->msr; i++)
        caps->msr[i] = 0;
    MSR(BASIC) =
        4096ull << 32 | 6ull << 50 | VMX_BASIC_INS_OUTS_INFO | VMX_BASIC_TRUE_CONTROLS | VMX_BASIC_ANY_ERROR_CODE;
    MSR(PINBASED_CTLS) = MSR(TRUE_PINBASED_CTLS) = PAIR(PIN);
    MSR(PROCBASED_CTLS) = MSR(TRUE_PROCBASED_CTLS) = PAIR(PROC);
    MSR(EXIT_CTLS) = MSR(TRUE_EXIT_CTLS) = PAIR(EXIT);
    MSR(ENTRY_CTLS) = MSR(TRUE_ENTRY_CTLS) = PAIR(ENTRY);
    MSR(PROCBASED_CTLS2) = PAIR(PROC2);
    MSR(PROCBASED_CTLS3) = PROC3.may;
    MSR(EXIT_CTLS2) = EXIT2.may;
    MSR(VMFUNC) = VMFUNC.may;
    MSR(MISC) = VMX_MISC_SAVE_EFER_LMA | VMX_MISC_ACTIVITY_HLT | VMX_MISC_ACTIVITY_SHUTDOWN |
                VMX_MISC_ACTIVITY_WAIT_SIPI | VMX_MISC_PT_IN_VMX | 4ull << 16 | VMX_MISC_VMWRITE_ANY_FIELD |
                VMX_MISC_INJECT_LENGTH_0;
    MSR(CR0_FIXED0) = 0x80000021; /* PG, NE, PE */
    MSR(CR0_FIXED1) = 0xffffffff;
    MSR(CR4_FIXED0) = 0x2000;         /* VMXE */
    MSR(CR4_FIXED1) = 0x113ff7fffull; /* all but the reserved 15, 26, 27, 29 to 31 */
    MSR(EPT_VPID_CAP) = VMX_EPT_CAP_EXECUTE_ONLY | VMX_EPT_CAP_WALK_4 | VMX_EPT_CAP_WALK_5 | VMX_EPT_CAP_UC |
                        VMX_EPT_CAP_WB | VMX_EPT_CAP_2M | VMX_EPT_CAP_1G | VMX_EPT_CAP_INVEPT |
                        VMX_EPT_CAP_ACCESSED_DIRTY | VMX_EPT_CAP_SUPERVISOR_SHADOW_STACK;
#undef PAIR
#undef MSR
}
