/* SPDX-License-Identifier: MIT
 *
 * names.c: words for numbers of the architecture.
 */
#include "src/arch/names.h"

const char *exception_name(unsigned vector)
{
    static const char *const names[32] = {
        [0] = "#DE",  [1] = "#DB",  [2] = "NMI",  [3] = "#BP",  [4] = "#OF",  [5] = "#BR",  [6] = "#UD",  [7] = "#NM",
        [8] = "#DF",  [10] = "#TS", [11] = "#NP", [12] = "#SS", [13] = "#GP", [14] = "#PF", [16] = "#MF", [17] = "#AC",
        [18] = "#MC", [19] = "#XM", [20] = "#VE", [21] = "#CP", [28] = "#HV", [29] = "#VC", [30] = "#SX"};
    return vector < ARRAY_LEN(names) ? names[vector] : NULL;
}

/* Families that msr.c has as ranges, and the MSRs of VMX, SVM and the local APIC, which their rooms answer. */
static const struct {
    uint32_t first, last;
    const char *name;
} ranges[] = {
    {0x3a, 0x3a, "FEATURE_CONTROL"},
    {0x9b, 0x9b, "SMM_MONITOR_CTL"},
    {0x9e, 0x9e, "SMBASE"},
    {0x200, 0x227, "MTRR_PHYS"},
    {0x250, 0x26f, "MTRR_FIX"},
    {0x400, 0x47f, "MC_BANK"},
    {0x480, 0x480, "VMX_BASIC"},
    {0x481, 0x481, "VMX_PINBASED_CTLS"},
    {0x482, 0x482, "VMX_PROCBASED_CTLS"},
    {0x483, 0x483, "VMX_EXIT_CTLS"},
    {0x484, 0x484, "VMX_ENTRY_CTLS"},
    {0x485, 0x485, "VMX_MISC"},
    {0x486, 0x486, "VMX_CR0_FIXED0"},
    {0x487, 0x487, "VMX_CR0_FIXED1"},
    {0x488, 0x488, "VMX_CR4_FIXED0"},
    {0x489, 0x489, "VMX_CR4_FIXED1"},
    {0x48a, 0x48a, "VMX_VMCS_ENUM"},
    {0x48b, 0x48b, "VMX_PROCBASED_CTLS2"},
    {0x48c, 0x48c, "VMX_EPT_VPID_CAP"},
    {0x48d, 0x48d, "VMX_TRUE_PINBASED_CTLS"},
    {0x48e, 0x48e, "VMX_TRUE_PROCBASED_CTLS"},
    {0x48f, 0x48f, "VMX_TRUE_EXIT_CTLS"},
    {0x490, 0x490, "VMX_TRUE_ENTRY_CTLS"},
    {0x491, 0x491, "VMX_VMFUNC"},
    {0x492, 0x492, "VMX_PROCBASED_CTLS3"},
    {0x493, 0x493, "VMX_EXIT_CTLS2"},
    {0x6e0, 0x6e0, "TSC_DEADLINE"},
    {0x802, 0x802, "X2APIC_ID"},
    {0x803, 0x803, "X2APIC_VERSION"},
    {0x808, 0x808, "X2APIC_TPR"},
    {0x80a, 0x80a, "X2APIC_PPR"},
    {0x80b, 0x80b, "X2APIC_EOI"},
    {0x80d, 0x80d, "X2APIC_LDR"},
    {0x80f, 0x80f, "X2APIC_SIVR"},
    {0x810, 0x817, "X2APIC_ISR"},
    {0x818, 0x81f, "X2APIC_TMR"},
    {0x820, 0x827, "X2APIC_IRR"},
    {0x828, 0x828, "X2APIC_ESR"},
    {0x830, 0x830, "X2APIC_ICR"},
    {0x832, 0x837, "X2APIC_LVT"},
    {0x838, 0x838, "X2APIC_TIMER_INITIAL"},
    {0x839, 0x839, "X2APIC_TIMER_CURRENT"},
    {0x83e, 0x83e, "X2APIC_TIMER_DIVIDE"},
    {0x83f, 0x83f, "X2APIC_SELF_IPI"},
    {0x800, 0x8ff, "X2APIC"},
    {0xc0000104, 0xc0000104, "TSC_RATIO"},
    {0xc0010114, 0xc0010114, "VM_CR"},
    {0xc0010115, 0xc0010115, "IGNNE"},
    {0xc0010116, 0xc0010116, "SMM_CTL"},
    {0xc0010117, 0xc0010117, "VM_HSAVE_PA"},
    {0xc0010118, 0xc0010118, "SVM_KEY"},
    {0xc001011b, 0xc001011b, "AVIC_DOORBELL"},
};

const char *msr_name(uint32_t msr)
{
    switch (msr) {
#define MSR_STATE(number, name, ...) MSR_CONST(number, name)
#define MSR_CANON(number, name, ...) MSR_CONST(number, name)
#define MSR_SINK(number, name, ...)  MSR_CONST(number, name)
#define MSR_CMD(number, name, ...)   MSR_CONST(number, name)
#define MSR_FN(number, name, ...)    MSR_CONST(number, name)
#define MSR_CONST(number, name, ...)                                                                                   \
    case number:                                                                                                       \
        return #name;
#include "src/arch/msr.def"
#undef MSR_STATE
#undef MSR_CANON
#undef MSR_CONST
#undef MSR_SINK
#undef MSR_CMD
#undef MSR_FN
    }
    for (unsigned i = 0; i < ARRAY_LEN(ranges); i++)
        if (msr >= ranges[i].first && msr <= ranges[i].last)
            return ranges[i].name;
    return NULL;
}
