/* SPDX-License-Identifier: MIT
 *
 * check.c: the checks of VM entries, over a VMCS's fields and capabilities; knows no cpu.
 *
 * SDM volume 3C, "Checks on VMX Controls and Host-State Area", "Checking and Loading Guest State". Each check is a row
 * of vmx_check.def; all broken rows are noted, in the manual's order, so that the first one noted is the one that a
 * processor which checks in that order meets.
 */
#include "src/vmx/vmx_int.h"

#include <stdio.h>

static const struct {
    const char *id, *section, *text;
} rows[VMX_CHECK_COUNT] = {
#define VMX_CHECK(area, name, id_, section_, text_) [VMX_CHECK_##name] = {id_, section_, text_},
#include "src/arch/vmx_check.def"
#undef VMX_CHECK
};

const char *vmx_check_id(unsigned row)
{
    return row < VMX_CHECK_COUNT ? rows[row].id : "?";
}

static COLD void broke(struct vmx_broken *b, unsigned row, uint64_t found)
{
    if (b->count < VMX_BROKEN_MAX) {
        b->rule[b->count].row = (uint16_t)row;
        b->rule[b->count].found = found;
    }
    b->count++;
}
#define CHECK_ROW(row, holds, found)                                                                                   \
    do {                                                                                                               \
        if (unlikely(!(holds)))                                                                                        \
            broke(k->broken, row, found);                                                                              \
    } while (0)
#define CHECK(name, holds, found) CHECK_ROW(VMX_CHECK_##name, holds, found)
#define F(name)                   (f[F_##name])

static bool allowed(const struct vmx_allowed *a, uint64_t v)
{
    return (v & a->must) == a->must && !(v & ~a->may);
}
static bool in_width(const struct vmx_caps *caps, uint64_t pa)
{
    return !(pa & ~mask_low(caps->maxphyaddr));
}
static bool page_address(const struct vmx_caps *caps, uint64_t pa)
{
    return !(pa & PAGE_OFFSET) && in_width(caps, pa);
}
static bool msr_area(const struct vmx_caps *caps, uint64_t pa, uint64_t count)
{
    return !count || (!(pa & 15) && in_width(caps, pa) && in_width(caps, pa + count * 16 - 1));
}
/* Of bases and MSRs: by the processor's linear-address width, whatever CR4.LA57 is. */
static bool canonical(const struct vmx_caps *caps, uint64_t la)
{
    return sign_extend(la, caps->linear_width) == la;
}
static bool pat_valid(uint64_t v)
{
    for (unsigned i = 0; i < 64; i += 8) {
        uint8_t type = (uint8_t)(v >> i);
        if (type > 7 || type == 2 || type == 3)
            return false;
    }
    return true;
}
static bool vector_has_error_code(unsigned vector)
{
    return vector == EXC_DF || (vector >= EXC_TS && vector <= EXC_PF) || vector == EXC_AC || vector == EXC_CP;
}

static bool eptp_type_ok(const struct vmx_caps *caps, uint64_t eptp)
{
    unsigned type = eptp & 7;
    return (type == VMX_EPTP_UC && (caps->ept_vpid & VMX_EPT_CAP_UC)) ||
           (type == VMX_EPTP_WB && (caps->ept_vpid & VMX_EPT_CAP_WB));
}
static bool eptp_walk_ok(const struct vmx_caps *caps, uint64_t eptp)
{
    unsigned walk = eptp >> 3 & 7;
    return (walk == 3 && (caps->ept_vpid & VMX_EPT_CAP_WALK_4)) || (walk == 4 && (caps->ept_vpid & VMX_EPT_CAP_WALK_5));
}
static bool eptp_ad_ok(const struct vmx_caps *caps, uint64_t eptp)
{
    return !(eptp & VMX_EPTP_ACCESSED_DIRTY) || (caps->ept_vpid & VMX_EPT_CAP_ACCESSED_DIRTY);
}
static bool eptp_reserved_ok(const struct vmx_caps *caps, uint64_t eptp)
{
    return !(eptp & 0xf80) && in_width(caps, eptp);
}
bool vmx_eptp_valid(const struct vmx_caps *caps, uint64_t eptp)
{
    return eptp_type_ok(caps, eptp) && eptp_walk_ok(caps, eptp) && eptp_ad_ok(caps, eptp) &&
           eptp_reserved_ok(caps, eptp);
}

uint32_t vmx_proc2(const uint64_t *f)
{
    return f[F_PROC_CONTROLS] & BIT(31) ? (uint32_t)f[F_PROC2_CONTROLS] : 0;
}

/* --- controls
 * --------------------------------------------------------------------------------------------------------- */

static void check_execution(const struct vmx_check *k)
{
    const struct vmx_caps *caps = k->caps;
    const uint64_t *f = k->f;
    uint32_t pin = (uint32_t)F(PIN_CONTROLS), proc = (uint32_t)F(PROC_CONTROLS), proc2 = vmx_proc2(f);
    CHECK(PIN_RESERVED, allowed(&caps->pin, pin), pin);
    CHECK(PROC_RESERVED, allowed(&caps->proc, proc), proc);
    CHECK(PROC2_RESERVED, allowed(&caps->proc2, proc2), proc2);
    if (proc & VMX_PROC_ACTIVATE_TERTIARY_CONTROLS)
        CHECK(PROC3_RESERVED, allowed(&caps->proc3, F(PROC3_CONTROLS)), F(PROC3_CONTROLS));
    CHECK(CR3_TARGET_COUNT, F(CR3_TARGET_COUNT) <= VMX_MISC_CR3_TARGETS(caps->misc), F(CR3_TARGET_COUNT));
    if (proc & VMX_PROC_USE_IO_BITMAPS) {
        CHECK(IO_BITMAP_A, page_address(caps, F(IO_BITMAP_A)), F(IO_BITMAP_A));
        CHECK(IO_BITMAP_B, page_address(caps, F(IO_BITMAP_B)), F(IO_BITMAP_B));
    }
    if (proc & VMX_PROC_USE_MSR_BITMAPS)
        CHECK(MSR_BITMAPS, page_address(caps, F(MSR_BITMAPS)), F(MSR_BITMAPS));
    if (proc & VMX_PROC_USE_TPR_SHADOW)
        CHECK(VIRTUAL_APIC, page_address(caps, F(VIRTUAL_APIC_ADDRESS)), F(VIRTUAL_APIC_ADDRESS));
}

/* "TPR threshold": apart, because it depends on memory. */
static void check_tpr(const struct vmx_check *k)
{
    const uint64_t *f = k->f;
    uint32_t proc = (uint32_t)F(PROC_CONTROLS), proc2 = vmx_proc2(f);
    if (!(proc & VMX_PROC_USE_TPR_SHADOW) || (proc2 & VMX_PROC2_VIRTUAL_INTERRUPT_DELIVERY))
        return;
    CHECK(TPR_THRESHOLD_RESERVED, F(TPR_THRESHOLD) <= 15, F(TPR_THRESHOLD));
    if (!(proc2 & VMX_PROC2_VIRTUALIZE_APIC_ACCESSES) && page_address(k->caps, F(VIRTUAL_APIC_ADDRESS))) {
        uint8_t vtpr = 0xff;
        if (k->mem)
            mem_read(k->mem, HPA(F(VIRTUAL_APIC_ADDRESS) + 0x80), &vtpr, 1);
        CHECK(TPR_THRESHOLD_VTPR, (F(TPR_THRESHOLD) & 15) <= vtpr >> 4, F(TPR_THRESHOLD));
    }
}

static void check_execution_2(const struct vmx_check *k)
{
    const struct vmx_caps *caps = k->caps;
    const uint64_t *f = k->f;
    uint32_t pin = (uint32_t)F(PIN_CONTROLS), proc = (uint32_t)F(PROC_CONTROLS), proc2 = vmx_proc2(f);
    bool ept = proc2 & VMX_PROC2_ENABLE_EPT;
    CHECK(VIRTUAL_NMIS, (pin & VMX_PIN_NMI_EXITING) || !(pin & VMX_PIN_VIRTUAL_NMIS), pin);
    CHECK(NMI_WINDOW, (pin & VMX_PIN_VIRTUAL_NMIS) || !(proc & VMX_PROC_NMI_WINDOW_EXITING), proc);
    if (proc2 & VMX_PROC2_VIRTUALIZE_APIC_ACCESSES)
        CHECK(APIC_ACCESS, page_address(caps, F(APIC_ACCESS_ADDRESS)), F(APIC_ACCESS_ADDRESS));
    if (!(proc & VMX_PROC_USE_TPR_SHADOW)) {
        CHECK(X2APIC_TPR_SHADOW, !(proc2 & VMX_PROC2_VIRTUALIZE_X2APIC_MODE), proc2);
        CHECK(REGISTER_TPR_SHADOW, !(proc2 & VMX_PROC2_APIC_REGISTER_VIRTUALIZATION), proc2);
        CHECK(DELIVERY_TPR_SHADOW, !(proc2 & VMX_PROC2_VIRTUAL_INTERRUPT_DELIVERY), proc2);
    }
    CHECK(X2APIC_APIC_ACCESS,
          !(proc2 & VMX_PROC2_VIRTUALIZE_X2APIC_MODE) || !(proc2 & VMX_PROC2_VIRTUALIZE_APIC_ACCESSES), proc2);
    CHECK(DELIVERY_EXTINT,
          !(proc2 & VMX_PROC2_VIRTUAL_INTERRUPT_DELIVERY) || (pin & VMX_PIN_EXTERNAL_INTERRUPT_EXITING), pin);
    if (pin & VMX_PIN_PROCESS_POSTED_INTERRUPTS) {
        CHECK(POSTED_DELIVERY, proc2 & VMX_PROC2_VIRTUAL_INTERRUPT_DELIVERY, proc2);
        CHECK(POSTED_ACK, F(EXIT_CONTROLS) & VMX_EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT, F(EXIT_CONTROLS));
        CHECK(POSTED_VECTOR, F(POSTED_INTERRUPT_NOTIFICATION_VECTOR) <= 255, F(POSTED_INTERRUPT_NOTIFICATION_VECTOR));
        CHECK(POSTED_DESCRIPTOR,
              !(F(POSTED_INTERRUPT_DESCRIPTOR_ADDRESS) & 63) && in_width(caps, F(POSTED_INTERRUPT_DESCRIPTOR_ADDRESS)),
              F(POSTED_INTERRUPT_DESCRIPTOR_ADDRESS));
    }
    if (proc2 & VMX_PROC2_ENABLE_VPID)
        CHECK(VPID, F(VPID) != 0, F(VPID));
    if (ept) {
        CHECK(EPTP_MEMORY_TYPE, eptp_type_ok(caps, F(EPT_POINTER)), F(EPT_POINTER));
        CHECK(EPTP_WALK_LENGTH, eptp_walk_ok(caps, F(EPT_POINTER)), F(EPT_POINTER));
        CHECK(EPTP_ACCESSED_DIRTY, eptp_ad_ok(caps, F(EPT_POINTER)), F(EPT_POINTER));
        CHECK(EPTP_RESERVED, eptp_reserved_ok(caps, F(EPT_POINTER)), F(EPT_POINTER));
    }
    if (proc2 & VMX_PROC2_ENABLE_PML) {
        CHECK(PML_EPT, ept, proc2);
        CHECK(PML_ADDRESS, page_address(caps, F(PML_ADDRESS)), F(PML_ADDRESS));
    }
    CHECK(UNRESTRICTED_EPT, ept || !(proc2 & VMX_PROC2_UNRESTRICTED_GUEST), proc2);
    CHECK(MBEC_EPT, ept || !(proc2 & VMX_PROC2_MODE_BASED_EXECUTE_CONTROL), proc2);
    if (proc2 & VMX_PROC2_ENABLE_VM_FUNCTIONS) {
        CHECK(VMFUNC_RESERVED, allowed(&caps->vmfunc, F(VM_FUNCTION_CONTROLS)), F(VM_FUNCTION_CONTROLS));
        if (F(VM_FUNCTION_CONTROLS) & VMX_VMFUNC_EPTP_SWITCHING) {
            CHECK(EPTP_SWITCHING_EPT, ept, proc2);
            CHECK(EPTP_LIST, page_address(caps, F(EPTP_LIST_ADDRESS)), F(EPTP_LIST_ADDRESS));
        }
    }
    if (proc2 & VMX_PROC2_VMCS_SHADOWING) {
        CHECK(VMREAD_BITMAP, page_address(caps, F(VMREAD_BITMAP)), F(VMREAD_BITMAP));
        CHECK(VMWRITE_BITMAP, page_address(caps, F(VMWRITE_BITMAP)), F(VMWRITE_BITMAP));
    }
    if (proc2 & VMX_PROC2_EPT_VIOLATION_VE)
        CHECK(VE_ADDRESS, page_address(caps, F(VE_INFORMATION_ADDRESS)), F(VE_INFORMATION_ADDRESS));
    if (proc2 & VMX_PROC2_USE_TSC_SCALING)
        CHECK(TSC_MULTIPLIER, F(TSC_MULTIPLIER) != 0, F(TSC_MULTIPLIER));
}

static void check_exit(const struct vmx_check *k)
{
    const struct vmx_caps *caps = k->caps;
    const uint64_t *f = k->f;
    CHECK(EXIT_RESERVED, allowed(&caps->exit, F(EXIT_CONTROLS)), F(EXIT_CONTROLS));
    CHECK(EXIT_TIMER,
          (F(PIN_CONTROLS) & VMX_PIN_ACTIVATE_PREEMPTION_TIMER) ||
              !(F(EXIT_CONTROLS) & VMX_EXIT_SAVE_PREEMPTION_TIMER_VALUE),
          F(EXIT_CONTROLS));
    CHECK(EXIT_MSR_STORE, msr_area(caps, F(EXIT_MSR_STORE_ADDRESS), F(EXIT_MSR_STORE_COUNT)),
          F(EXIT_MSR_STORE_ADDRESS));
    CHECK(EXIT_MSR_LOAD, msr_area(caps, F(EXIT_MSR_LOAD_ADDRESS), F(EXIT_MSR_LOAD_COUNT)), F(EXIT_MSR_LOAD_ADDRESS));
}

static void check_injection(const struct vmx_check *k)
{
    const struct vmx_caps *caps = k->caps;
    const uint64_t *f = k->f;
    uint32_t info = (uint32_t)F(ENTRY_INTERRUPTION_INFO);
    if (!(info & VMX_INTR_VALID))
        return;
    unsigned type = VMX_INTR_TYPE(info), vector = VMX_INTR_VECTOR(info);
    bool protected_mode = !(vmx_proc2(f) & VMX_PROC2_UNRESTRICTED_GUEST) || (F(GUEST_CR0) & CR0_PE);
    CHECK(INJECT_TYPE, type != 1 && (type != VMX_EVENT_OTHER || (caps->proc.may & VMX_PROC_MONITOR_TRAP_FLAG)), info);
    CHECK(INJECT_VECTOR,
          type == VMX_EVENT_NMI                  ? vector == 2
          : type == VMX_EVENT_HARDWARE_EXCEPTION ? vector <= 31
          : type == VMX_EVENT_OTHER              ? vector == 0
                                                 : true,
          info);
    bool may = type == VMX_EVENT_HARDWARE_EXCEPTION && protected_mode, deliver = info & VMX_INTR_ERROR_CODE;
    CHECK(INJECT_DELIVER_ERROR,
          caps->basic & VMX_BASIC_ANY_ERROR_CODE ? may || !deliver : deliver == (may && vector_has_error_code(vector)),
          info);
    CHECK(INJECT_RESERVED, !(info & 0x7ffff000), info);
    if (deliver)
        CHECK(INJECT_ERROR_CODE, !(F(ENTRY_EXCEPTION_ERROR_CODE) >> 16), F(ENTRY_EXCEPTION_ERROR_CODE));
    if (type >= VMX_EVENT_SOFTWARE_INTERRUPT && type <= VMX_EVENT_SOFTWARE_EXCEPTION) {
        uint64_t len = F(ENTRY_INSTRUCTION_LENGTH);
        CHECK(INJECT_LENGTH, len <= 15 && (len || (caps->misc & VMX_MISC_INJECT_LENGTH_0)), len);
    }
}

static void check_entry(const struct vmx_check *k)
{
    const uint64_t *f = k->f;
    CHECK(ENTRY_MSR_LOAD, msr_area(k->caps, F(ENTRY_MSR_LOAD_ADDRESS), F(ENTRY_MSR_LOAD_COUNT)),
          F(ENTRY_MSR_LOAD_ADDRESS));
    CHECK(ENTRY_SMM, !(F(ENTRY_CONTROLS) & (VMX_ENTRY_ENTRY_TO_SMM | VMX_ENTRY_DEACTIVATE_DUAL_MONITOR_TREATMENT)),
          F(ENTRY_CONTROLS));
}

void vmx_check_controls(const struct vmx_check *k, uint32_t groups)
{
    if (groups & GROUP_CTL)
        check_execution(k);
    check_tpr(k);
    if (groups & GROUP_CTL) {
        check_execution_2(k);
        check_exit(k);
        CHECK(ENTRY_RESERVED, allowed(&k->caps->entry, k->f[F_ENTRY_CONTROLS]), k->f[F_ENTRY_CONTROLS]);
    }
    if (groups & GROUP_INJ)
        check_injection(k);
    if (groups & GROUP_CTL)
        check_entry(k);
}

/* --- host state
 * --------------------------------------------------------------------------------------------------------- */

static void check_host_registers(const struct vmx_check *k)
{
    const struct vmx_caps *caps = k->caps;
    const uint64_t *f = k->f;
    uint32_t exit = (uint32_t)F(EXIT_CONTROLS);
    bool wide = exit & VMX_EXIT_HOST_ADDRESS_SPACE_SIZE;
    CHECK(HOST_CR0_FIXED, !(~F(HOST_CR0) & caps->cr0_fixed0) && !(F(HOST_CR0) & ~caps->cr0_fixed1), F(HOST_CR0));
    CHECK(HOST_CR4_FIXED, !(~F(HOST_CR4) & caps->cr4_fixed0) && !(F(HOST_CR4) & ~caps->cr4_fixed1), F(HOST_CR4));
    CHECK(HOST_CR3, in_width(caps, F(HOST_CR3)), F(HOST_CR3));
    CHECK(HOST_SYSENTER_ESP, canonical(caps, F(HOST_SYSENTER_ESP)), F(HOST_SYSENTER_ESP));
    CHECK(HOST_SYSENTER_EIP, canonical(caps, F(HOST_SYSENTER_EIP)), F(HOST_SYSENTER_EIP));
    if (exit & VMX_EXIT_LOAD_PERF_GLOBAL_CTRL)
        CHECK(HOST_PERF_GLOBAL, !(F(HOST_PERF_GLOBAL_CTRL) & ~caps->perf_global_bits), F(HOST_PERF_GLOBAL_CTRL));
    if (exit & VMX_EXIT_LOAD_PAT)
        CHECK(HOST_PAT, pat_valid(F(HOST_PAT)), F(HOST_PAT));
    if (exit & VMX_EXIT_LOAD_EFER) {
        CHECK(HOST_EFER_RESERVED, !(F(HOST_EFER) & ~caps->efer_bits), F(HOST_EFER));
        CHECK(HOST_EFER_LMA, (F(HOST_EFER) & (EFER_LMA | EFER_LME)) == (wide ? EFER_LMA | EFER_LME : 0), F(HOST_EFER));
    }
    if ((uint32_t)exit & VMX_EXIT_LOAD_PKRS)
        CHECK(HOST_PKRS, !(F(HOST_PKRS) >> 32), F(HOST_PKRS));
    static const uint8_t selectors[] = {F_HOST_ES_SELECTOR, F_HOST_CS_SELECTOR, F_HOST_SS_SELECTOR, F_HOST_DS_SELECTOR,
                                        F_HOST_FS_SELECTOR, F_HOST_GS_SELECTOR, F_HOST_TR_SELECTOR};
    for (unsigned i = 0; i < ARRAY_LEN(selectors); i++)
        CHECK_ROW(VMX_CHECK_HOST_ES_SELECTOR + i, !(f[selectors[i]] & 7), f[selectors[i]]);
    CHECK(HOST_CS_NULL, F(HOST_CS_SELECTOR) != 0, 0);
    CHECK(HOST_TR_NULL, F(HOST_TR_SELECTOR) != 0, 0);
    CHECK(HOST_SS_NULL, wide || F(HOST_SS_SELECTOR) != 0, 0);
    CHECK(HOST_FS_BASE, canonical(caps, F(HOST_FS_BASE)), F(HOST_FS_BASE));
    CHECK(HOST_GS_BASE, canonical(caps, F(HOST_GS_BASE)), F(HOST_GS_BASE));
    CHECK(HOST_GDTR_BASE, canonical(caps, F(HOST_GDTR_BASE)), F(HOST_GDTR_BASE));
    CHECK(HOST_IDTR_BASE, canonical(caps, F(HOST_IDTR_BASE)), F(HOST_IDTR_BASE));
    CHECK(HOST_TR_BASE, canonical(caps, F(HOST_TR_BASE)), F(HOST_TR_BASE));
}

void vmx_check_host(const struct vmx_check *k, uint32_t groups)
{
    const uint64_t *f = k->f;
    if (groups & GROUP_HOST)
        check_host_registers(k);
    bool wide = F(EXIT_CONTROLS) & VMX_EXIT_HOST_ADDRESS_SPACE_SIZE,
         guest64 = F(ENTRY_CONTROLS) & VMX_ENTRY_IA32E_MODE_GUEST;
    if (!k->ia32e_mode)
        CHECK(HOST_SIZE_OUTSIDE_LMA, !wide && !guest64, F(EXIT_CONTROLS));
    else
        CHECK(HOST_SIZE_IN_LMA, wide, F(EXIT_CONTROLS));
    if (!(groups & GROUP_HOST))
        return;
    if (!wide) {
        CHECK(HOST_SIZE_GUEST, !guest64, F(ENTRY_CONTROLS));
        CHECK(HOST_SIZE_PCIDE, !(F(HOST_CR4) & CR4_PCIDE), F(HOST_CR4));
        CHECK(HOST_SIZE_RIP32, !(F(HOST_RIP) >> 32), F(HOST_RIP));
    } else {
        CHECK(HOST_SIZE_PAE, F(HOST_CR4) & CR4_PAE, F(HOST_CR4));
        CHECK(HOST_SIZE_RIP64, mmu_canonical(F(HOST_RIP), F(HOST_CR4) & CR4_LA57), F(HOST_RIP));
    }
}

/* --- guest state
 * -------------------------------------------------------------------------------------------------------- */

static void check_guest_registers(const struct vmx_check *k)
{
    const struct vmx_caps *caps = k->caps;
    const uint64_t *f = k->f;
    uint32_t entry = (uint32_t)F(ENTRY_CONTROLS);
    bool guest64 = entry & VMX_ENTRY_IA32E_MODE_GUEST;
    uint64_t fixed0 = caps->cr0_fixed0;
    if (vmx_proc2(f) & VMX_PROC2_UNRESTRICTED_GUEST)
        fixed0 &= ~(CR0_PE | CR0_PG);
    CHECK(GUEST_CR0_FIXED, !(~F(GUEST_CR0) & fixed0) && !(F(GUEST_CR0) & ~caps->cr0_fixed1), F(GUEST_CR0));
    CHECK(GUEST_CR0_PG_PE, !(F(GUEST_CR0) & CR0_PG) || (F(GUEST_CR0) & CR0_PE), F(GUEST_CR0));
    CHECK(GUEST_CR4_FIXED, !(~F(GUEST_CR4) & caps->cr4_fixed0) && !(F(GUEST_CR4) & ~caps->cr4_fixed1), F(GUEST_CR4));
    if (entry & VMX_ENTRY_LOAD_DEBUG_CONTROLS)
        CHECK(GUEST_DEBUGCTL, !(F(GUEST_DEBUGCTL) & ~caps->debugctl_bits), F(GUEST_DEBUGCTL));
    if (guest64) {
        CHECK(GUEST_IA32E_PG, F(GUEST_CR0) & CR0_PG, F(GUEST_CR0));
        CHECK(GUEST_IA32E_PAE, F(GUEST_CR4) & CR4_PAE, F(GUEST_CR4));
    } else {
        CHECK(GUEST_PCIDE, !(F(GUEST_CR4) & CR4_PCIDE), F(GUEST_CR4));
    }
    CHECK(GUEST_CR3, in_width(caps, F(GUEST_CR3)), F(GUEST_CR3));
    if (entry & VMX_ENTRY_LOAD_DEBUG_CONTROLS)
        CHECK(GUEST_DR7, !(F(GUEST_DR7) >> 32), F(GUEST_DR7));
    CHECK(GUEST_SYSENTER_ESP, canonical(caps, F(GUEST_SYSENTER_ESP)), F(GUEST_SYSENTER_ESP));
    CHECK(GUEST_SYSENTER_EIP, canonical(caps, F(GUEST_SYSENTER_EIP)), F(GUEST_SYSENTER_EIP));
    if (entry & VMX_ENTRY_LOAD_PERF_GLOBAL_CTRL)
        CHECK(GUEST_PERF_GLOBAL, !(F(GUEST_PERF_GLOBAL_CTRL) & ~caps->perf_global_bits), F(GUEST_PERF_GLOBAL_CTRL));
    if (entry & VMX_ENTRY_LOAD_PAT)
        CHECK(GUEST_PAT, pat_valid(F(GUEST_PAT)), F(GUEST_PAT));
    if (entry & VMX_ENTRY_LOAD_EFER) {
        uint64_t efer = F(GUEST_EFER);
        CHECK(GUEST_EFER_RESERVED, !(efer & ~caps->efer_bits), efer);
        CHECK(GUEST_EFER_LMA, !!(efer & EFER_LMA) == guest64, efer);
        CHECK(GUEST_EFER_LME, !(F(GUEST_CR0) & CR0_PG) || !!(efer & EFER_LMA) == !!(efer & EFER_LME), efer);
    }
    if (entry & VMX_ENTRY_LOAD_PKRS)
        CHECK(GUEST_PKRS, !(F(GUEST_PKRS) >> 32), F(GUEST_PKRS));
}

#define SEL(i)    (f[F_GUEST_ES_SELECTOR + (i)])
#define BASE(i)   (f[F_GUEST_ES_BASE + (i)])
#define LIMIT(i)  (f[F_GUEST_ES_LIMIT + (i)])
#define RIGHTS(i) ((uint32_t)f[F_GUEST_ES_ACCESS_RIGHTS + (i)])
_Static_assert(F_GUEST_TR_SELECTOR - F_GUEST_ES_SELECTOR == SEG_TR && F_GUEST_TR_BASE - F_GUEST_ES_BASE == SEG_TR &&
                   F_GUEST_TR_LIMIT - F_GUEST_ES_LIMIT == SEG_TR &&
                   F_GUEST_TR_ACCESS_RIGHTS - F_GUEST_ES_ACCESS_RIGHTS == SEG_TR,
               "segment registers stand in the VMCS in the processor's order");

static bool granularity_ok(uint64_t limit, uint32_t ar)
{
    if (ar & AR_G)
        return (limit & 0xfff) == 0xfff;
    return !(limit >> 20);
}

static void check_v86_segments(const struct vmx_check *k)
{
    const uint64_t *f = k->f;
    for (unsigned i = SEG_ES; i <= SEG_GS; i++)
        CHECK_ROW(VMX_CHECK_ES_BASE_V86 + i, BASE(i) == SEL(i) << 4, BASE(i));
}

static void check_segments(const struct vmx_check *k)
{
    const struct vmx_caps *caps = k->caps;
    const uint64_t *f = k->f;
    bool v86 = F(GUEST_RFLAGS) & FLAG_VM, free_guest = vmx_proc2(f) & VMX_PROC2_UNRESTRICTED_GUEST;
    bool guest64 = F(ENTRY_CONTROLS) & VMX_ENTRY_IA32E_MODE_GUEST;
    uint32_t cs = RIGHTS(SEG_CS), ss = RIGHTS(SEG_SS), ldtr = RIGHTS(SEG_LDTR), tr = RIGHTS(SEG_TR);
    bool ldtr_usable = !(ldtr & AR_UNUSABLE);

    CHECK(TR_TI, !(SEL(SEG_TR) & 4), SEL(SEG_TR));
    CHECK(LDTR_TI, !ldtr_usable || !(SEL(SEG_LDTR) & 4), SEL(SEG_LDTR));
    if (!v86 && !free_guest)
        CHECK(SS_RPL, !((SEL(SEG_SS) ^ SEL(SEG_CS)) & 3), SEL(SEG_SS));
    if (v86)
        check_v86_segments(k);
    CHECK(TR_BASE, canonical(caps, BASE(SEG_TR)), BASE(SEG_TR));
    if (!v86) {
        CHECK(FS_BASE, canonical(caps, BASE(SEG_FS)), BASE(SEG_FS));
        CHECK(GS_BASE, canonical(caps, BASE(SEG_GS)), BASE(SEG_GS));
    }
    CHECK(LDTR_BASE, !ldtr_usable || canonical(caps, BASE(SEG_LDTR)), BASE(SEG_LDTR));
    if (!v86)
        for (unsigned i = SEG_ES; i <= SEG_DS; i++)
            CHECK_ROW(VMX_CHECK_ES_BASE + i, !(BASE(i) >> 32) || (i != SEG_CS && (RIGHTS(i) & AR_UNUSABLE)), BASE(i));
    if (v86) {
        for (unsigned i = SEG_ES; i <= SEG_GS; i++)
            CHECK_ROW(VMX_CHECK_ES_LIMIT_V86 + i, LIMIT(i) == 0xffff, LIMIT(i));
        for (unsigned i = SEG_ES; i <= SEG_GS; i++)
            CHECK_ROW(VMX_CHECK_ES_AR_V86 + i, RIGHTS(i) == 0xf3, RIGHTS(i));
    } else {
        static const uint8_t data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
        unsigned cs_type = cs & AR_TYPE;
        CHECK(CS_TYPE, (cs_type & 9) == 9 || (free_guest && cs_type == 3), cs);
        CHECK(SS_TYPE, (ss & AR_UNUSABLE) || (ss & 0xb) == 3, ss);
        for (unsigned n = 0; n < ARRAY_LEN(data); n++) {
            uint32_t ar = RIGHTS(data[n]);
            CHECK_ROW(VMX_CHECK_ES_TYPE + n, (ar & AR_UNUSABLE) || ((ar & 1) && (!(ar & 8) || (ar & 2))), ar);
        }
        for (unsigned i = SEG_ES; i <= SEG_GS; i++)
            CHECK_ROW(VMX_CHECK_ES_S + i, (RIGHTS(i) & AR_S) || (i != SEG_CS && (RIGHTS(i) & AR_UNUSABLE)), RIGHTS(i));
        if (cs_type == 3)
            CHECK(CS_DPL_DATA, AR_DPL(cs) == 0, cs);
        else if (cs_type == 9 || cs_type == 11)
            CHECK(CS_DPL, AR_DPL(cs) == AR_DPL(ss), cs);
        else if (cs_type == 13 || cs_type == 15)
            CHECK(CS_DPL_CONFORMING, AR_DPL(cs) <= AR_DPL(ss), cs);
        if (!free_guest)
            CHECK(SS_DPL_RPL, AR_DPL(ss) == (SEL(SEG_SS) & 3), ss);
        if (cs_type == 3 || !(F(GUEST_CR0) & CR0_PE))
            CHECK(SS_DPL_REAL, AR_DPL(ss) == 0, ss);
        if (!free_guest)
            for (unsigned n = 0; n < ARRAY_LEN(data); n++) {
                uint32_t ar = RIGHTS(data[n]);
                CHECK_ROW(VMX_CHECK_ES_DPL + n,
                          (ar & AR_UNUSABLE) || (ar & AR_TYPE) > 11 || AR_DPL(ar) >= (SEL(data[n]) & 3), ar);
            }
        for (unsigned i = SEG_ES; i <= SEG_GS; i++)
            CHECK_ROW(VMX_CHECK_ES_P + i, (RIGHTS(i) & AR_P) || (i != SEG_CS && (RIGHTS(i) & AR_UNUSABLE)), RIGHTS(i));
        for (unsigned i = SEG_ES; i <= SEG_GS; i++)
            CHECK_ROW(VMX_CHECK_ES_RESERVED + i,
                      !(RIGHTS(i) & VMX_AR_RESERVED) || (i != SEG_CS && (RIGHTS(i) & AR_UNUSABLE)), RIGHTS(i));
        CHECK(CS_L_DB, !guest64 || !(cs & AR_L) || !(cs & AR_DB), cs);
        for (unsigned i = SEG_ES; i <= SEG_GS; i++)
            CHECK_ROW(VMX_CHECK_ES_G + i,
                      granularity_ok(LIMIT(i), RIGHTS(i)) || (i != SEG_CS && (RIGHTS(i) & AR_UNUSABLE)), LIMIT(i));
    }
    CHECK(TR_TYPE, (tr & AR_TYPE) == 11 || (!guest64 && (tr & AR_TYPE) == 3), tr);
    CHECK(TR_S, !(tr & AR_S), tr);
    CHECK(TR_P, tr & AR_P, tr);
    CHECK(TR_RESERVED, !(tr & VMX_AR_RESERVED), tr);
    CHECK(TR_G, granularity_ok(LIMIT(SEG_TR), tr), LIMIT(SEG_TR));
    CHECK(TR_UNUSABLE, !(tr & AR_UNUSABLE), tr);
    if (ldtr_usable) {
        CHECK(LDTR_TYPE, (ldtr & AR_TYPE) == 2, ldtr);
        CHECK(LDTR_S, !(ldtr & AR_S), ldtr);
        CHECK(LDTR_P, ldtr & AR_P, ldtr);
        CHECK(LDTR_RESERVED, !(ldtr & VMX_AR_RESERVED), ldtr);
        CHECK(LDTR_G, granularity_ok(LIMIT(SEG_LDTR), ldtr), LIMIT(SEG_LDTR));
    }
}

static void check_tables(const struct vmx_check *k)
{
    const uint64_t *f = k->f;
    CHECK(GDTR_BASE, canonical(k->caps, F(GUEST_GDTR_BASE)), F(GUEST_GDTR_BASE));
    CHECK(IDTR_BASE, canonical(k->caps, F(GUEST_IDTR_BASE)), F(GUEST_IDTR_BASE));
    CHECK(GDTR_LIMIT, !(F(GUEST_GDTR_LIMIT) >> 16), F(GUEST_GDTR_LIMIT));
    CHECK(IDTR_LIMIT, !(F(GUEST_IDTR_LIMIT) >> 16), F(GUEST_IDTR_LIMIT));
}

static void check_rip_rflags(const struct vmx_check *k)
{
    const uint64_t *f = k->f;
    bool guest64 = F(ENTRY_CONTROLS) & VMX_ENTRY_IA32E_MODE_GUEST;
    uint64_t rip = F(GUEST_RIP), rflags = F(GUEST_RFLAGS);
    uint32_t info = (uint32_t)F(ENTRY_INTERRUPTION_INFO);
    if (!guest64 || !(RIGHTS(SEG_CS) & AR_L))
        CHECK(RIP_32, !(rip >> 32), rip);
    else
        CHECK(RIP_64, canonical(k->caps, rip), rip);
    CHECK(RFLAGS_RESERVED, (rflags & 0xffffffffffc0802aull) == FLAG_1, rflags);
    CHECK(RFLAGS_VM, !(rflags & FLAG_VM) || (!guest64 && (F(GUEST_CR0) & CR0_PE)), rflags);
    if ((info & VMX_INTR_VALID) && VMX_INTR_TYPE(info) == VMX_EVENT_EXTERNAL_INTERRUPT)
        CHECK(RFLAGS_IF, rflags & FLAG_IF, rflags);
}

static bool activity_allows(uint32_t activity, uint32_t info)
{
    unsigned type = VMX_INTR_TYPE(info), vector = VMX_INTR_VECTOR(info);
    if (!(info & VMX_INTR_VALID))
        return true;
    switch (activity) {
    case VMX_ACTIVITY_HLT:
        return type == VMX_EVENT_EXTERNAL_INTERRUPT || type == VMX_EVENT_NMI ||
               (type == VMX_EVENT_HARDWARE_EXCEPTION && (vector == EXC_DB || vector == EXC_MC)) ||
               (type == VMX_EVENT_OTHER && vector == 0);
    case VMX_ACTIVITY_SHUTDOWN:
        return type == VMX_EVENT_NMI || (type == VMX_EVENT_HARDWARE_EXCEPTION && vector == EXC_MC);
    case VMX_ACTIVITY_WAIT_SIPI: return false;
    }
    return true;
}

static void check_non_register(const struct vmx_check *k)
{
    const struct vmx_caps *caps = k->caps;
    const uint64_t *f = k->f;
    uint32_t activity = (uint32_t)F(GUEST_ACTIVITY_STATE), state = (uint32_t)F(GUEST_INTERRUPTIBILITY_STATE);
    uint32_t info = (uint32_t)F(ENTRY_INTERRUPTION_INFO);
    bool sti = state & VMX_BLOCKING_BY_STI, mov_ss = state & VMX_BLOCKING_BY_MOV_SS;
    bool inject = info & VMX_INTR_VALID, inject_nmi = inject && VMX_INTR_TYPE(info) == VMX_EVENT_NMI;
    CHECK(ACTIVITY_VALUE, activity == 0 || (activity <= 3 && (caps->misc & (VMX_MISC_ACTIVITY_HLT << (activity - 1)))),
          activity);
    CHECK(ACTIVITY_HLT_DPL, activity != VMX_ACTIVITY_HLT || AR_DPL(RIGHTS(SEG_SS)) == 0, activity);
    CHECK(ACTIVITY_BLOCKING, activity == VMX_ACTIVITY_ACTIVE || (!sti && !mov_ss), activity);
    CHECK(ACTIVITY_INJECT, activity_allows(activity, info), activity);
    CHECK(INTERRUPTIBILITY_RESERVED, !(state >> 4), state);
    CHECK(INTERRUPTIBILITY_BOTH, !sti || !mov_ss, state);
    CHECK(INTERRUPTIBILITY_IF, !sti || (F(GUEST_RFLAGS) & FLAG_IF), state);
    if (inject && VMX_INTR_TYPE(info) == VMX_EVENT_EXTERNAL_INTERRUPT)
        CHECK(INTERRUPTIBILITY_EXTINT, !sti && !mov_ss, state);
    if (inject_nmi)
        CHECK(INTERRUPTIBILITY_NMI, !mov_ss, state);
    CHECK(INTERRUPTIBILITY_SMI, !(state & VMX_BLOCKING_BY_SMI), state);
    if (inject_nmi && (F(PIN_CONTROLS) & VMX_PIN_VIRTUAL_NMIS))
        CHECK(INTERRUPTIBILITY_VNMI, !(state & VMX_BLOCKING_BY_NMI), state);
    uint64_t pending = F(GUEST_PENDING_DEBUG_EXCEPTIONS);
    CHECK(PENDING_RESERVED, !(pending & ~(uint64_t)(0xf | VMX_PENDING_DBG_ENABLED_BREAKPOINT | VMX_PENDING_DBG_BS)),
          pending);
    if (sti || mov_ss || activity == VMX_ACTIVITY_HLT) {
        /* IA32_DEBUGCTL.BTF counts as the guest will have it. */
        if ((F(GUEST_RFLAGS) & FLAG_TF) && !(F(GUEST_DEBUGCTL) & BIT(1)))
            CHECK(PENDING_BS_SET, pending & VMX_PENDING_DBG_BS, pending);
        else
            CHECK(PENDING_BS_CLEAR, !(pending & VMX_PENDING_DBG_BS), pending);
    }
}

static void check_link(const struct vmx_check *k)
{
    const uint64_t *f = k->f;
    uint64_t link = F(VMCS_LINK_POINTER);
    if (link == VMX_NO_VMCS)
        return;
    CHECK(LINK_ADDRESS, page_address(k->caps, link), link);
    if (!page_address(k->caps, link))
        return;
    uint32_t revision = 0, shadow = vmx_proc2(f) & VMX_PROC2_VMCS_SHADOWING ? VMX_REGION_SHADOW : 0;
    if (k->mem)
        mem_read(k->mem, HPA(link), &revision, sizeof revision);
    CHECK(LINK_REVISION, revision == (VMX_BASIC_REVISION(k->caps->basic) | shadow), revision);
    CHECK(LINK_CURRENT, link != k->current, link);
}

bool vmx_pdptes_valid(const struct vmx_caps *caps, const uint64_t pdpte[4])
{
    uint64_t reserved = ~mask_low(caps->maxphyaddr) | 0x1e6;
    for (unsigned i = 0; i < 4; i++)
        if ((pdpte[i] & 1) && (pdpte[i] & reserved))
            return false;
    return true;
}

void vmx_check_guest(const struct vmx_check *k, uint32_t groups)
{
    const uint64_t *f = k->f;
    if (groups & GROUP_CR)
        check_guest_registers(k);
    if (groups & GROUP_SEG)
        check_segments(k);
    if (groups & GROUP_DT)
        check_tables(k);
    if (groups & (GROUP_RIP | GROUP_FL | GROUP_INJ))
        check_rip_rflags(k);
    if (groups & (GROUP_NREG | GROUP_FL | GROUP_INJ))
        check_non_register(k);
    check_link(k);
    if ((groups & (GROUP_PDPTE | GROUP_CR)) && (vmx_proc2(f) & VMX_PROC2_ENABLE_EPT) && (F(GUEST_CR0) & CR0_PG) &&
        (F(GUEST_CR4) & CR4_PAE) && !(F(ENTRY_CONTROLS) & VMX_ENTRY_IA32E_MODE_GUEST))
        CHECK(PDPTE, vmx_pdptes_valid(k->caps, &F(GUEST_PDPTE0)), F(GUEST_PDPTE0));
}

void vmx_broke(struct vmx_broken *b, unsigned row, uint64_t found)
{
    broke(b, row, found);
}

/* --- words
 * ---------------------------------------------------------------------------------------------------------------- */

size_t vmx_explain(struct cpu *c, char *buf, size_t size)
{
    size_t at = 0;
    if (size)
        *buf = 0;
    if (!c->vmx)
        return 0;
    const struct vmx_broken *b = &vmx_of(c)->broken;
    for (unsigned i = 0; i < b->count && i < VMX_BROKEN_MAX; i++) {
        int n = snprintf(at < size ? buf + at : NULL, at < size ? size - at : 0,
                         "%s: found 0x%llx: %s (SDM 3C, \"%s\")\n", rows[b->rule[i].row].id,
                         (unsigned long long)b->rule[i].found, rows[b->rule[i].row].text, rows[b->rule[i].row].section);
        at += n > 0 ? (size_t)n : 0;
    }
    return at;
}
