/* SPDX-License-Identifier: MIT
 *
 * test_vmx_check.c: every row of vmx_check.def is broken alone, and reported alone; and on the processor, where the
 * model has what the row is about, the VM entry fails as the row's area says: error 7, error 8, exit reason 33.
 */
#include "vmx_rig.h"

struct change {
    uint16_t field;
    char how; /* '=' set, '|' bits on, '~' bits off */
    uint64_t value;
};
struct breaking {
    uint16_t row;
    uint8_t mode; /* enum rig_mode of the good VMCS */
    uint8_t outside_ia32e;
    struct change c[6];
};
#define S(f, v)                                                                                                        \
    {                                                                                                                  \
        VMCS_##f, '=', v                                                                                               \
    }
#define O(f, v)                                                                                                        \
    {                                                                                                                  \
        VMCS_##f, '|', v                                                                                               \
    }
#define N(f, v)                                                                                                        \
    {                                                                                                                  \
        VMCS_##f, '~', v                                                                                               \
    }
#define L(row, ...)                                                                                                    \
    {                                                                                                                  \
        VMX_CHECK_##row, RIG_LONG, 0,                                                                                  \
        {                                                                                                              \
            __VA_ARGS__                                                                                                \
        }                                                                                                              \
    }
#define M(row, mode, ...)                                                                                              \
    {                                                                                                                  \
        VMX_CHECK_##row, RIG_##mode, 0,                                                                                \
        {                                                                                                              \
            __VA_ARGS__                                                                                                \
        }                                                                                                              \
    }
#define WIDE (1ull << 46) /* beyond the physical-address width of `max` */
#define ODD  (1ull << 60) /* canonical under no width */
#define INJECT(type, vector, more)                                                                                     \
    S(ENTRY_INTERRUPTION_INFO, VMX_INTR_VALID | (type) << VMX_INTR_TYPE_SHIFT | (vector) | (more))
#define NOT_FREE N(PROC2_CONTROLS, VMX_PROC2_UNRESTRICTED_GUEST)
#define POSTED                                                                                                         \
    O(PIN_CONTROLS, VMX_PIN_PROCESS_POSTED_INTERRUPTS | VMX_PIN_EXTERNAL_INTERRUPT_EXITING),                           \
        O(PROC_CONTROLS, VMX_PROC_USE_TPR_SHADOW)
#define SEG_ROWS(sel)                                                                                                  \
    M(sel##_BASE_V86, V86, S(GUEST_##sel##_BASE, 0x12340)), M(sel##_LIMIT_V86, V86, S(GUEST_##sel##_LIMIT, 0x1ffff)),  \
        M(sel##_AR_V86, V86, S(GUEST_##sel##_ACCESS_RIGHTS, 0x93)), L(sel##_S, N(GUEST_##sel##_ACCESS_RIGHTS, AR_S)),  \
        L(sel##_P, N(GUEST_##sel##_ACCESS_RIGHTS, AR_P)), L(sel##_RESERVED, O(GUEST_##sel##_ACCESS_RIGHTS, 0x100)),    \
        L(sel##_RESERVED, O(GUEST_##sel##_ACCESS_RIGHTS, 0x20000)), L(sel##_G, S(GUEST_##sel##_LIMIT, 0xfffff7ff)),    \
        L(sel##_G, N(GUEST_##sel##_ACCESS_RIGHTS, AR_G))
#define DATA_ROWS(sel)                                                                                                 \
    L(sel##_TYPE, N(GUEST_##sel##_ACCESS_RIGHTS, 1)),                                                                  \
        L(sel##_TYPE, O(GUEST_##sel##_ACCESS_RIGHTS, 8), N(GUEST_##sel##_ACCESS_RIGHTS, 2)),                           \
        L(sel##_DPL, NOT_FREE, S(GUEST_##sel##_SELECTOR, 0x13))

static const struct breaking breakings[] = {
    L(PIN_RESERVED, N(PIN_CONTROLS, 2)),
    L(PROC_RESERVED, N(PROC_CONTROLS, 2)),
    L(PROC2_RESERVED, O(PROC2_CONTROLS, BIT(29))),
    L(PROC3_RESERVED, O(PROC_CONTROLS, VMX_PROC_ACTIVATE_TERTIARY_CONTROLS), S(PROC3_CONTROLS, BIT(63))),
    L(CR3_TARGET_COUNT, S(CR3_TARGET_COUNT, 5)),
    L(IO_BITMAP_A, O(PROC_CONTROLS, VMX_PROC_USE_IO_BITMAPS), S(IO_BITMAP_A, 0x5800)),
    L(IO_BITMAP_A, O(PROC_CONTROLS, VMX_PROC_USE_IO_BITMAPS), S(IO_BITMAP_A, WIDE)),
    L(IO_BITMAP_B, O(PROC_CONTROLS, VMX_PROC_USE_IO_BITMAPS), S(IO_BITMAP_B, 0x6001)),
    L(MSR_BITMAPS, O(PROC_CONTROLS, VMX_PROC_USE_MSR_BITMAPS), S(MSR_BITMAPS, 0x4010)),
    L(VIRTUAL_APIC, O(PROC_CONTROLS, VMX_PROC_USE_TPR_SHADOW), S(VIRTUAL_APIC_ADDRESS, 0x7010)),
    L(TPR_THRESHOLD_RESERVED, O(PROC_CONTROLS, VMX_PROC_USE_TPR_SHADOW), S(VIRTUAL_APIC_ADDRESS, RIG_VAPIC),
      S(TPR_THRESHOLD, 0x10)),
    L(TPR_THRESHOLD_VTPR, O(PROC_CONTROLS, VMX_PROC_USE_TPR_SHADOW), S(VIRTUAL_APIC_ADDRESS, RIG_VAPIC),
      S(TPR_THRESHOLD, 1)),
    L(VIRTUAL_NMIS, O(PIN_CONTROLS, VMX_PIN_VIRTUAL_NMIS)),
    L(NMI_WINDOW, O(PROC_CONTROLS, VMX_PROC_NMI_WINDOW_EXITING)),
    L(APIC_ACCESS, O(PROC2_CONTROLS, VMX_PROC2_VIRTUALIZE_APIC_ACCESSES), S(APIC_ACCESS_ADDRESS, WIDE)),
    L(X2APIC_TPR_SHADOW, O(PROC2_CONTROLS, VMX_PROC2_VIRTUALIZE_X2APIC_MODE)),
    L(REGISTER_TPR_SHADOW, O(PROC2_CONTROLS, VMX_PROC2_APIC_REGISTER_VIRTUALIZATION)),
    L(DELIVERY_TPR_SHADOW, O(PROC2_CONTROLS, VMX_PROC2_VIRTUAL_INTERRUPT_DELIVERY),
      O(PIN_CONTROLS, VMX_PIN_EXTERNAL_INTERRUPT_EXITING)),
    L(X2APIC_APIC_ACCESS, O(PROC_CONTROLS, VMX_PROC_USE_TPR_SHADOW), S(VIRTUAL_APIC_ADDRESS, RIG_VAPIC),
      O(PROC2_CONTROLS, VMX_PROC2_VIRTUALIZE_X2APIC_MODE | VMX_PROC2_VIRTUALIZE_APIC_ACCESSES),
      S(APIC_ACCESS_ADDRESS, 0)),
    L(DELIVERY_EXTINT, O(PROC_CONTROLS, VMX_PROC_USE_TPR_SHADOW), S(VIRTUAL_APIC_ADDRESS, RIG_VAPIC),
      O(PROC2_CONTROLS, VMX_PROC2_VIRTUAL_INTERRUPT_DELIVERY)),
    L(POSTED_DELIVERY, POSTED, O(EXIT_CONTROLS, VMX_EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT)),
    L(POSTED_ACK, POSTED, O(PROC2_CONTROLS, VMX_PROC2_VIRTUAL_INTERRUPT_DELIVERY)),
    L(POSTED_VECTOR, POSTED, O(PROC2_CONTROLS, VMX_PROC2_VIRTUAL_INTERRUPT_DELIVERY),
      O(EXIT_CONTROLS, VMX_EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT), S(POSTED_INTERRUPT_NOTIFICATION_VECTOR, 0x100)),
    L(POSTED_DESCRIPTOR, POSTED, O(PROC2_CONTROLS, VMX_PROC2_VIRTUAL_INTERRUPT_DELIVERY),
      O(EXIT_CONTROLS, VMX_EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT), S(POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, 0x1020)),
    L(VPID, S(VPID, 0)),
    L(EPTP_MEMORY_TYPE, O(EPT_POINTER, 1)),
    L(EPTP_WALK_LENGTH, N(EPT_POINTER, 8)),
    L(EPTP_RESERVED, O(EPT_POINTER, 0x800)),
    L(EPTP_RESERVED, O(EPT_POINTER, WIDE)),
    L(PML_EPT, NOT_FREE, N(PROC2_CONTROLS, VMX_PROC2_ENABLE_EPT), O(PROC2_CONTROLS, VMX_PROC2_ENABLE_PML)),
    L(PML_ADDRESS, O(PROC2_CONTROLS, VMX_PROC2_ENABLE_PML), S(PML_ADDRESS, 8)),
    L(UNRESTRICTED_EPT, N(PROC2_CONTROLS, VMX_PROC2_ENABLE_EPT)),
    L(MBEC_EPT, NOT_FREE, N(PROC2_CONTROLS, VMX_PROC2_ENABLE_EPT),
      O(PROC2_CONTROLS, VMX_PROC2_MODE_BASED_EXECUTE_CONTROL)),
    L(VMFUNC_RESERVED, O(PROC2_CONTROLS, VMX_PROC2_ENABLE_VM_FUNCTIONS), S(VM_FUNCTION_CONTROLS, 2)),
    L(EPTP_SWITCHING_EPT, NOT_FREE, N(PROC2_CONTROLS, VMX_PROC2_ENABLE_EPT),
      O(PROC2_CONTROLS, VMX_PROC2_ENABLE_VM_FUNCTIONS), S(VM_FUNCTION_CONTROLS, 1)),
    L(EPTP_LIST, O(PROC2_CONTROLS, VMX_PROC2_ENABLE_VM_FUNCTIONS), S(VM_FUNCTION_CONTROLS, 1), S(EPTP_LIST_ADDRESS, 8)),
    L(VMREAD_BITMAP, O(PROC2_CONTROLS, VMX_PROC2_VMCS_SHADOWING), S(VMREAD_BITMAP, WIDE)),
    L(VMWRITE_BITMAP, O(PROC2_CONTROLS, VMX_PROC2_VMCS_SHADOWING), S(VMWRITE_BITMAP, 1)),
    L(VE_ADDRESS, O(PROC2_CONTROLS, VMX_PROC2_EPT_VIOLATION_VE), S(VE_INFORMATION_ADDRESS, 1)),
    L(TSC_MULTIPLIER, O(PROC2_CONTROLS, VMX_PROC2_USE_TSC_SCALING)),
    L(EXIT_RESERVED, N(EXIT_CONTROLS, 1)),
    L(EXIT_TIMER, O(EXIT_CONTROLS, VMX_EXIT_SAVE_PREEMPTION_TIMER_VALUE)),
    L(EXIT_MSR_STORE, S(EXIT_MSR_STORE_COUNT, 1), S(EXIT_MSR_STORE_ADDRESS, 8)),
    L(EXIT_MSR_STORE, S(EXIT_MSR_STORE_COUNT, 2), S(EXIT_MSR_STORE_ADDRESS, WIDE - 16)),
    L(EXIT_MSR_LOAD, S(EXIT_MSR_LOAD_COUNT, 1), S(EXIT_MSR_LOAD_ADDRESS, 1)),
    L(ENTRY_RESERVED, N(ENTRY_CONTROLS, 1)),
    L(INJECT_TYPE, INJECT(1, 0, 0)),
    L(INJECT_VECTOR, INJECT(VMX_EVENT_NMI, 3, 0)),
    L(INJECT_VECTOR, INJECT(VMX_EVENT_HARDWARE_EXCEPTION, 32, 0)),
    L(INJECT_VECTOR, INJECT(VMX_EVENT_OTHER, 1, 0)),
    L(INJECT_DELIVER_ERROR, INJECT(VMX_EVENT_SOFTWARE_INTERRUPT, 13, VMX_INTR_ERROR_CODE),
      S(ENTRY_INSTRUCTION_LENGTH, 2)),
    M(INJECT_DELIVER_ERROR, REAL, INJECT(VMX_EVENT_HARDWARE_EXCEPTION, 13, VMX_INTR_ERROR_CODE)),
    L(INJECT_RESERVED, INJECT(VMX_EVENT_HARDWARE_EXCEPTION, 6, 0x1000)),
    L(INJECT_ERROR_CODE, INJECT(VMX_EVENT_HARDWARE_EXCEPTION, 13, VMX_INTR_ERROR_CODE),
      S(ENTRY_EXCEPTION_ERROR_CODE, 0x10000)),
    L(INJECT_LENGTH, INJECT(VMX_EVENT_SOFTWARE_EXCEPTION, 3, 0), S(ENTRY_INSTRUCTION_LENGTH, 16)),
    L(ENTRY_MSR_LOAD, S(ENTRY_MSR_LOAD_COUNT, 1), S(ENTRY_MSR_LOAD_ADDRESS, WIDE)),
    L(ENTRY_SMM, O(ENTRY_CONTROLS, VMX_ENTRY_ENTRY_TO_SMM)),
    L(ENTRY_SMM, O(ENTRY_CONTROLS, VMX_ENTRY_DEACTIVATE_DUAL_MONITOR_TREATMENT)),

    L(HOST_CR0_FIXED, N(HOST_CR0, CR0_NE)),
    L(HOST_CR0_FIXED, O(HOST_CR0, BIT(32))),
    L(HOST_CR4_FIXED, N(HOST_CR4, CR4_VMXE)),
    L(HOST_CR4_FIXED, O(HOST_CR4, BIT(31))),
    L(HOST_CR3, O(HOST_CR3, WIDE)),
    L(HOST_SYSENTER_ESP, S(HOST_SYSENTER_ESP, ODD)),
    L(HOST_SYSENTER_EIP, S(HOST_SYSENTER_EIP, ODD)),
    L(HOST_PERF_GLOBAL, O(EXIT_CONTROLS, VMX_EXIT_LOAD_PERF_GLOBAL_CTRL), S(HOST_PERF_GLOBAL_CTRL, BIT(63))),
    L(HOST_PAT, O(EXIT_CONTROLS, VMX_EXIT_LOAD_PAT), S(HOST_PAT, 0x0200000000000000)),
    L(HOST_EFER_RESERVED, O(HOST_EFER, BIT(1))),
    L(HOST_EFER_LMA, N(HOST_EFER, EFER_LMA)),
    L(HOST_EFER_LMA, N(HOST_EFER, EFER_LME)),
    L(HOST_PKRS, O(EXIT_CONTROLS, VMX_EXIT_LOAD_PKRS), S(HOST_PKRS, BIT(32))),
    L(HOST_ES_SELECTOR, S(HOST_ES_SELECTOR, 0x11)),
    L(HOST_CS_SELECTOR, S(HOST_CS_SELECTOR, 0x0c)),
    L(HOST_SS_SELECTOR, S(HOST_SS_SELECTOR, 0x12)),
    L(HOST_DS_SELECTOR, S(HOST_DS_SELECTOR, 0x14)),
    L(HOST_FS_SELECTOR, S(HOST_FS_SELECTOR, 0x11)),
    L(HOST_GS_SELECTOR, S(HOST_GS_SELECTOR, 0x11)),
    L(HOST_TR_SELECTOR, S(HOST_TR_SELECTOR, 0x1c)),
    L(HOST_CS_NULL, S(HOST_CS_SELECTOR, 0)),
    L(HOST_TR_NULL, S(HOST_TR_SELECTOR, 0)),
    {VMX_CHECK_HOST_SS_NULL,
     RIG_PROT32,
     1,
     {N(EXIT_CONTROLS, VMX_EXIT_HOST_ADDRESS_SPACE_SIZE), S(HOST_EFER, 0), S(HOST_SS_SELECTOR, 0)}},
    L(HOST_FS_BASE, S(HOST_FS_BASE, ODD)),
    L(HOST_GS_BASE, S(HOST_GS_BASE, ODD)),
    L(HOST_GDTR_BASE, S(HOST_GDTR_BASE, ODD)),
    L(HOST_IDTR_BASE, S(HOST_IDTR_BASE, ODD)),
    L(HOST_TR_BASE, S(HOST_TR_BASE, ODD)),
    {VMX_CHECK_HOST_SIZE_OUTSIDE_LMA, RIG_PROT32, 1, {S(HOST_RSP, 0)}},
    M(HOST_SIZE_IN_LMA, PROT32, N(EXIT_CONTROLS, VMX_EXIT_HOST_ADDRESS_SPACE_SIZE), S(HOST_EFER, 0)),
    {VMX_CHECK_HOST_SIZE_PCIDE,
     RIG_PROT32,
     1,
     {N(EXIT_CONTROLS, VMX_EXIT_HOST_ADDRESS_SPACE_SIZE), S(HOST_EFER, 0), O(HOST_CR4, CR4_PCIDE)}},
    {VMX_CHECK_HOST_SIZE_RIP32,
     RIG_PROT32,
     1,
     {N(EXIT_CONTROLS, VMX_EXIT_HOST_ADDRESS_SPACE_SIZE), S(HOST_EFER, 0), S(HOST_RIP, 1ull << 32)}},
    L(HOST_SIZE_PAE, N(HOST_CR4, CR4_PAE)),
    L(HOST_SIZE_RIP64, S(HOST_RIP, 0x800000000000)),

    L(GUEST_CR0_FIXED, N(GUEST_CR0, CR0_NE)),
    M(GUEST_CR0_FIXED, PROT32, NOT_FREE),
    M(GUEST_CR0_PG_PE, REAL, O(GUEST_CR0, CR0_PG)),
    L(GUEST_CR4_FIXED, N(GUEST_CR4, CR4_VMXE)),
    L(GUEST_DEBUGCTL, S(GUEST_DEBUGCTL, 4)),
    L(GUEST_IA32E_PG, N(GUEST_CR0, CR0_PG)),
    L(GUEST_IA32E_PAE, N(GUEST_CR4, CR4_PAE)),
    M(GUEST_PCIDE, PROT32, O(GUEST_CR4, CR4_PCIDE)),
    L(GUEST_CR3, O(GUEST_CR3, WIDE)),
    L(GUEST_DR7, O(GUEST_DR7, BIT(32))),
    L(GUEST_SYSENTER_ESP, S(GUEST_SYSENTER_ESP, ODD)),
    L(GUEST_SYSENTER_EIP, S(GUEST_SYSENTER_EIP, ODD)),
    L(GUEST_PERF_GLOBAL, O(ENTRY_CONTROLS, VMX_ENTRY_LOAD_PERF_GLOBAL_CTRL), S(GUEST_PERF_GLOBAL_CTRL, BIT(63))),
    L(GUEST_PAT, O(ENTRY_CONTROLS, VMX_ENTRY_LOAD_PAT), S(GUEST_PAT, 0x08)),
    L(GUEST_EFER_RESERVED, O(GUEST_EFER, BIT(12))),
    M(GUEST_EFER_LMA, PROT32, O(GUEST_EFER, EFER_LMA)),
    L(GUEST_EFER_LME, N(GUEST_EFER, EFER_LME)),
    L(GUEST_PKRS, O(ENTRY_CONTROLS, VMX_ENTRY_LOAD_PKRS), S(GUEST_PKRS, BIT(32))),

    L(TR_TI, S(GUEST_TR_SELECTOR, 0x34)),
    L(LDTR_TI, S(GUEST_LDTR_SELECTOR, 4), S(GUEST_LDTR_ACCESS_RIGHTS, 0x82)),
    L(SS_RPL, NOT_FREE, S(GUEST_SS_SELECTOR, 0x13), O(GUEST_SS_ACCESS_RIGHTS, 0x60), O(GUEST_CS_ACCESS_RIGHTS, 0x64)),
    SEG_ROWS(ES),
    SEG_ROWS(CS),
    SEG_ROWS(SS),
    SEG_ROWS(DS),
    SEG_ROWS(FS),
    SEG_ROWS(GS),
    L(TR_BASE, S(GUEST_TR_BASE, ODD)),
    L(FS_BASE, S(GUEST_FS_BASE, ODD)),
    L(GS_BASE, S(GUEST_GS_BASE, ODD)),
    L(LDTR_BASE, S(GUEST_LDTR_BASE, ODD), S(GUEST_LDTR_ACCESS_RIGHTS, 0x82)),
    L(ES_BASE, S(GUEST_ES_BASE, BIT(32))),
    L(CS_BASE, S(GUEST_CS_BASE, BIT(32))),
    L(SS_BASE, S(GUEST_SS_BASE, BIT(32))),
    L(DS_BASE, S(GUEST_DS_BASE, BIT(32))),
    L(CS_TYPE, S(GUEST_CS_ACCESS_RIGHTS, 0xa09a)),
    L(CS_TYPE, NOT_FREE, S(GUEST_CS_ACCESS_RIGHTS, 0xa093)),
    L(SS_TYPE, S(GUEST_SS_ACCESS_RIGHTS, 0xc091)),
    DATA_ROWS(ES),
    DATA_ROWS(DS),
    DATA_ROWS(FS),
    DATA_ROWS(GS),
    L(CS_DPL_DATA, S(GUEST_CS_ACCESS_RIGHTS, 0xa0f3)),
    L(CS_DPL, S(GUEST_CS_ACCESS_RIGHTS, 0xa0fb)),
    L(CS_DPL_CONFORMING, S(GUEST_CS_ACCESS_RIGHTS, 0xa0ff)),
    L(SS_DPL_RPL, NOT_FREE, O(GUEST_SS_ACCESS_RIGHTS, 0x60), O(GUEST_CS_ACCESS_RIGHTS, 0x60)),
    M(SS_DPL_REAL, REAL, O(GUEST_SS_ACCESS_RIGHTS, 0x60), S(GUEST_CS_ACCESS_RIGHTS, 0xfb)),
    L(CS_L_DB, O(GUEST_CS_ACCESS_RIGHTS, AR_DB)),
    L(TR_TYPE, S(GUEST_TR_ACCESS_RIGHTS, 0x83)),
    M(TR_TYPE, PROT32, S(GUEST_TR_ACCESS_RIGHTS, 0x89)),
    L(TR_S, O(GUEST_TR_ACCESS_RIGHTS, AR_S)),
    L(TR_P, N(GUEST_TR_ACCESS_RIGHTS, AR_P)),
    L(TR_RESERVED, O(GUEST_TR_ACCESS_RIGHTS, 0x800)),
    L(TR_G, O(GUEST_TR_ACCESS_RIGHTS, AR_G)),
    L(TR_UNUSABLE, O(GUEST_TR_ACCESS_RIGHTS, AR_UNUSABLE)),
    L(LDTR_TYPE, S(GUEST_LDTR_ACCESS_RIGHTS, 0x83)),
    L(LDTR_S, S(GUEST_LDTR_ACCESS_RIGHTS, 0x92)),
    L(LDTR_P, S(GUEST_LDTR_ACCESS_RIGHTS, 0x02)),
    L(LDTR_RESERVED, S(GUEST_LDTR_ACCESS_RIGHTS, 0x182)),
    L(LDTR_G, S(GUEST_LDTR_ACCESS_RIGHTS, 0x8082)),
    L(GDTR_BASE, S(GUEST_GDTR_BASE, ODD)),
    L(IDTR_BASE, S(GUEST_IDTR_BASE, ODD)),
    L(GDTR_LIMIT, S(GUEST_GDTR_LIMIT, 0x10000)),
    L(IDTR_LIMIT, S(GUEST_IDTR_LIMIT, 0x10000)),
    M(RIP_32, PROT32, O(GUEST_RIP, BIT(32))),
    L(RIP_32, S(GUEST_CS_ACCESS_RIGHTS, 0xc09b), O(GUEST_RIP, BIT(32))),
    L(RIP_64, O(GUEST_RIP, ODD)),
    L(RFLAGS_RESERVED, N(GUEST_RFLAGS, 2)),
    L(RFLAGS_RESERVED, O(GUEST_RFLAGS, BIT(22))),
    L(RFLAGS_RESERVED, O(GUEST_RFLAGS, BIT(15))),
    L(RFLAGS_IF, INJECT(VMX_EVENT_EXTERNAL_INTERRUPT, 0x20, 0)),
    L(ACTIVITY_VALUE, S(GUEST_ACTIVITY_STATE, 4)),
    L(ACTIVITY_HLT_DPL, S(GUEST_ACTIVITY_STATE, 1), O(GUEST_SS_ACCESS_RIGHTS, 0x60), O(GUEST_CS_ACCESS_RIGHTS, 0x60)),
    L(ACTIVITY_BLOCKING, S(GUEST_ACTIVITY_STATE, 1), S(GUEST_INTERRUPTIBILITY_STATE, 2)),
    L(ACTIVITY_INJECT, S(GUEST_ACTIVITY_STATE, 1), INJECT(VMX_EVENT_HARDWARE_EXCEPTION, 6, 0)),
    L(ACTIVITY_INJECT, S(GUEST_ACTIVITY_STATE, 2), O(GUEST_RFLAGS, FLAG_IF),
      INJECT(VMX_EVENT_EXTERNAL_INTERRUPT, 0x20, 0)),
    L(ACTIVITY_INJECT, S(GUEST_ACTIVITY_STATE, 3), INJECT(VMX_EVENT_NMI, 2, 0)),
    L(INTERRUPTIBILITY_RESERVED, S(GUEST_INTERRUPTIBILITY_STATE, 0x20)),
    L(INTERRUPTIBILITY_RESERVED, S(GUEST_INTERRUPTIBILITY_STATE, 0x10)),
    L(INTERRUPTIBILITY_BOTH, S(GUEST_INTERRUPTIBILITY_STATE, 3), O(GUEST_RFLAGS, FLAG_IF)),
    L(INTERRUPTIBILITY_IF, S(GUEST_INTERRUPTIBILITY_STATE, 1)),
    L(INTERRUPTIBILITY_EXTINT, S(GUEST_INTERRUPTIBILITY_STATE, 1), O(GUEST_RFLAGS, FLAG_IF),
      INJECT(VMX_EVENT_EXTERNAL_INTERRUPT, 0x20, 0)),
    L(INTERRUPTIBILITY_NMI, S(GUEST_INTERRUPTIBILITY_STATE, 2), INJECT(VMX_EVENT_NMI, 2, 0)),
    L(INTERRUPTIBILITY_SMI, S(GUEST_INTERRUPTIBILITY_STATE, 4)),
    L(INTERRUPTIBILITY_VNMI, S(GUEST_INTERRUPTIBILITY_STATE, 8), INJECT(VMX_EVENT_NMI, 2, 0),
      O(PIN_CONTROLS, VMX_PIN_NMI_EXITING | VMX_PIN_VIRTUAL_NMIS)),
    L(PENDING_RESERVED, S(GUEST_PENDING_DEBUG_EXCEPTIONS, 0x10)),
    L(PENDING_RESERVED, S(GUEST_PENDING_DEBUG_EXCEPTIONS, BIT(16))),
    L(PENDING_BS_SET, S(GUEST_INTERRUPTIBILITY_STATE, 2), O(GUEST_RFLAGS, FLAG_TF)),
    L(PENDING_BS_CLEAR, S(GUEST_INTERRUPTIBILITY_STATE, 2), S(GUEST_PENDING_DEBUG_EXCEPTIONS, BIT(14))),
    L(PENDING_BS_CLEAR, S(GUEST_INTERRUPTIBILITY_STATE, 2), S(GUEST_PENDING_DEBUG_EXCEPTIONS, BIT(14)),
      O(GUEST_RFLAGS, FLAG_TF), S(GUEST_DEBUGCTL, 2)),
    L(LINK_ADDRESS, S(VMCS_LINK_POINTER, 0x3001)),
    L(LINK_ADDRESS, S(VMCS_LINK_POINTER, WIDE)),
    L(LINK_REVISION, S(VMCS_LINK_POINTER, RIG_VAPIC)),
    L(LINK_CURRENT, S(VMCS_LINK_POINTER, RIG_VMCS)),
    M(PDPTE, PAGED32, O(GUEST_CR4, CR4_PAE), S(GUEST_PDPTE1, 1 | BIT(5))),
    M(PDPTE, PAGED32, O(GUEST_CR4, CR4_PAE), S(GUEST_PDPTE3, 1 | WIDE)),
};

/* Rows that no single change can break, with the reason. */
static const struct {
    uint16_t row;
    const char *why;
} twins[] = {
    {VMX_CHECK_EPTP_ACCESSED_DIRTY, "needs a model without accessed and dirty flags: tested apart"},
    {VMX_CHECK_HOST_SIZE_GUEST,
     "outside IA-32e mode host.address-space.outside-ia32e says it too, inside host.address-space.in-ia32e"},
    {VMX_CHECK_RFLAGS_VM, "the virtual-8086 rules for segments come with it"},
};

static const char areas[] = {
#define CTL                                      'c'
#define HOST                                     'h'
#define GUEST                                    'g'
#define VMX_CHECK(area, name, id, section, text) [VMX_CHECK_##name] = area,
#include "src/arch/vmx_check.def"
#undef VMX_CHECK
};

static uint64_t changed(uint64_t v, const struct change *c)
{
    return c->how == '=' ? c->value : c->how == '|' ? v | c->value : v & ~c->value;
}

static void check_all(struct rig *r, const struct vmx_caps *caps, const uint64_t *f, bool ia32e, struct vmx_broken *b)
{
    struct vmx_check k = {.caps = caps, .f = f, .broken = b, .mem = r->mem, .current = RIG_VMCS, .ia32e_mode = ia32e};
    b->count = 0;
    vmx_check_controls(&k, GROUP_ALL);
    vmx_check_host(&k, GROUP_ALL);
    vmx_check_guest(&k, GROUP_ALL);
}

static void describe(const struct vmx_broken *b, char *buf, size_t size)
{
    *buf = 0;
    for (unsigned i = 0; i < b->count; i++)
        snprintf(buf + strlen(buf), size - strlen(buf), " %s", vmx_check_id(b->rule[i].row));
}

/* Controls of models to come are tested too: a processor that offers every control. */
static void offer_everything(struct vmx_caps *caps)
{
    caps->pin.may |= VMX_PIN_PROCESS_POSTED_INTERRUPTS;
    caps->proc.may = 0xffffffff;
    caps->proc2.may = 0xffffffff & ~BIT(29);
    caps->exit.may = caps->entry.may = 0xffffffff;
    caps->vmfunc.may = 1;
}

static void test_alone(void **state)
{
    struct rig *r = rig_create("max");
    bool seen[VMX_CHECK_COUNT] = {0};
    struct vmx_broken b;
    char text[1000];
    struct vmx_caps caps = r->x->caps;
    offer_everything(&caps);
    for (unsigned i = 0; i < ARRAY_LEN(breakings); i++) {
        const struct breaking *k = &breakings[i];
        uint64_t f[F_COUNT];
        rig_vmcs(r, k->mode);
        memcpy(f, r->x->cur->f, sizeof f);
        check_all(r, &caps, f, true, &b);
        describe(&b, text, sizeof text);
        if (b.count)
            fail_msg("the good VMCS of mode %u breaks%s", k->mode, text);
        for (unsigned n = 0; n < ARRAY_LEN(k->c) && k->c[n].how; n++) {
            int slot = vmcs_slot_of(k->c[n].field);
            f[slot] = changed(f[slot], &k->c[n]);
        }
        check_all(r, &caps, f, !k->outside_ia32e, &b);
        describe(&b, text, sizeof text);
        if (b.count != 1 || b.rule[0].row != k->row)
            fail_msg("%u: %s should be broken, and is:%s", i, vmx_check_id(k->row), text);
        seen[k->row] = true;
    }
    for (unsigned i = 0; i < ARRAY_LEN(twins); i++)
        seen[twins[i].row] = true;
    for (unsigned i = 0; i < VMX_CHECK_COUNT; i++)
        if (!seen[i])
            fail_msg("no test breaks %s", vmx_check_id(i));
    rig_destroy(r);
}

static void test_on_processor(void **state)
{
    struct rig *r = rig_create("max");
    unsigned done = 0;
    rig_bytes(r, RIG_CODE, "\xf4", 1);
    for (unsigned i = 0; i < ARRAY_LEN(breakings); i++) {
        const struct breaking *k = &breakings[i];
        bool offered = !k->outside_ia32e;
        rig_vmcs(r, k->mode);
        rig_bytes(r, RIG_CODE, "\xf4", 1);
        /* Enter once and then break it: what an entry found good is checked again where it changed. */
        uint32_t got = rig_enter(r);
        if (k->mode != RIG_V86 && got != VMX_REASON_HLT)
            fail_msg("the good VMCS of mode %u exits with %x", k->mode, got);
        rig_vmcs(r, k->mode);
        for (unsigned n = 0; n < ARRAY_LEN(k->c) && k->c[n].how; n++) {
            int slot = vmcs_slot_of(k->c[n].field);
            if (!r->x->caps.field[slot]) {
                offered = false;
                break;
            }
            rig_w(r, k->c[n].field, changed(rig_r(r, k->c[n].field), &k->c[n]));
        }
        if (!offered)
            continue;
        char area = areas[k->row];
        got = rig_enter(r);
        unsigned first = r->x->broken.rule[0].row;
        if (first != k->row &&
            (first == VMX_CHECK_PIN_RESERVED || first == VMX_CHECK_PROC_RESERVED || first == VMX_CHECK_PROC2_RESERVED ||
             first == VMX_CHECK_EXIT_RESERVED || first == VMX_CHECK_ENTRY_RESERVED))
            continue; /* the model does not offer the control */
        uint32_t want = area == 'c'   ? 1000 + VMX_ERR_ENTRY_INVALID_CONTROLS
                        : area == 'h' ? 1000 + VMX_ERR_ENTRY_INVALID_HOST_STATE
                                      : VMX_REASON_ENTRY_FAILURE | VMX_REASON_ENTRY_FAILURE_GUEST_STATE;
        if (first != k->row || got != want)
            fail_msg("%s: outcome %x instead of %x, first rule %s", vmx_check_id(k->row), got, want,
                     vmx_check_id(first));
        if (area == 'g') {
            uint64_t q = k->row == VMX_CHECK_PDPTE                                              ? 2
                         : k->row >= VMX_CHECK_LINK_ADDRESS && k->row <= VMX_CHECK_LINK_CURRENT ? 4
                                                                                                : 0;
            assert_int_equal(rig_r(r, VMCS_EXIT_QUALIFICATION), q);
        }
        done++;
    }
    assert_true(done > 150);
    rig_destroy(r);
}

/* Words of a failed entry: id, value, section, sentence; all rules at once; none after a good entry. */
static void test_explain(void **state)
{
    struct rig *r = rig_create("max");
    char text[2000];
    rig_vmcs(r, RIG_LONG);
    rig_bytes(r, RIG_CODE, "\xf4", 1);
    rig_w(r, VMCS_GUEST_CS_ACCESS_RIGHTS, 0xe09b);
    rig_w(r, VMCS_GUEST_RFLAGS, 0);
    assert_int_equal(rig_enter(r), VMX_REASON_ENTRY_FAILURE | VMX_REASON_ENTRY_FAILURE_GUEST_STATE);
    size_t n = vmx_explain(r->c, text, sizeof text);
    assert_int_equal(n, strlen(text));
    assert_non_null(strstr(text, "guest.cs.ar.l-and-db: found 0xe09b: CS: D/B must be 0"));
    assert_non_null(strstr(text, "guest.rflags.reserved: found 0x0"));
    assert_non_null(strstr(text, "Checks on Guest Segment Registers"));
    assert_true(vmx_explain(r->c, text, 10) > 10);
    rig_w(r, VMCS_GUEST_CS_ACCESS_RIGHTS, 0xa09b);
    rig_w(r, VMCS_GUEST_RFLAGS, 2);
    assert_int_equal(rig_enter(r), VMX_REASON_HLT);
    assert_int_equal(vmx_explain(r->c, text, sizeof text), 0);
    rig_destroy(r);
}

static void test_twins(void **state)
{
    struct rig *r = rig_create("icelake-server,-ept_ad");
    rig_vmcs(r, RIG_LONG);
    rig_w(r, VMCS_EPT_POINTER, rig_r(r, VMCS_EPT_POINTER) | VMX_EPTP_ACCESSED_DIRTY);
    assert_int_equal(rig_enter(r), 1000 + VMX_ERR_ENTRY_INVALID_CONTROLS);
    assert_int_equal(r->x->broken.rule[0].row, VMX_CHECK_EPTP_ACCESSED_DIRTY);
    rig_vmcs(r, RIG_LONG);
    rig_w(r, VMCS_GUEST_RFLAGS, 2 | FLAG_VM);
    assert_int_equal(rig_enter(r), VMX_REASON_ENTRY_FAILURE | VMX_REASON_ENTRY_FAILURE_GUEST_STATE);
    bool vm = false;
    for (unsigned i = 0; i < r->x->broken.count; i++)
        vm |= r->x->broken.rule[i].row == VMX_CHECK_RFLAGS_VM;
    assert_true(vm);
    rig_destroy(r);
}

/* A processor without "any error code": which vectors have one. */
static void test_error_codes(void **state)
{
    struct rig *r = rig_create("icelake-server");
    rig_vmcs(r, RIG_LONG);
    for (unsigned v = 0; v < 32; v++) {
        bool has = v == 8 || (v >= 10 && v <= 14) || v == 17 || v == 21;
        for (unsigned deliver = 0; deliver < 2; deliver++) {
            rig_w(r, VMCS_ENTRY_INTERRUPTION_INFO, VMX_INTR_VALID | 3 << 8 | v | (deliver ? VMX_INTR_ERROR_CODE : 0));
            struct vmx_broken b;
            check_all(r, &r->x->caps, r->x->cur->f, true, &b);
            assert_int_equal(b.count, (bool)deliver != has);
        }
    }
    rig_destroy(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alone), cmocka_unit_test(test_on_processor), cmocka_unit_test(test_explain),
        cmocka_unit_test(test_twins), cmocka_unit_test(test_error_codes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
