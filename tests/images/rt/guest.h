/* SPDX-License-Identifier: MIT
 *
 * guest.h: a VMCS and a VMCB for a guest that is the image itself: its registers, tables and segments, in 64-bit mode,
 * with no more controls than must be. The caller adds what it wants, RIP and RSP at least.
 */
#ifndef IMAGES_RT_GUEST_H
#define IMAGES_RT_GUEST_H

#include "rt.h"
#include <vmenter/intrin.h>
#include <vmenter/svm.h>
#include <vmenter/vmx.h>

struct rt_table {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));
#define RT_TABLES(gdt, idt)                                                                                            \
    struct rt_table gdt, idt;                                                                                          \
    __asm__ volatile("sgdt %0; sidt %1" : "=m"(gdt), "=m"(idt))

/* What the processor demands of a control field beside `want`. msr: the one without TRUE. */
static inline unsigned long rt_vmx_adjust(uint32_t msr, unsigned long want)
{
    bool use_true = rdmsr(VMX_MSR_BASIC) >> 55 & 1 && msr >= VMX_MSR_PINBASED_CTLS && msr <= VMX_MSR_ENTRY_CTLS;
    uint64_t v = rdmsr(msr + (use_true ? VMX_MSR_TRUE_PINBASED_CTLS - VMX_MSR_PINBASED_CTLS : 0));
    return (want | (uint32_t)v) & (v >> 32);
}

/* VMXON and a current, clear VMCS. Regions: 4 KiB each. False: an instruction failed. */
static inline bool rt_vmx_start(void *vmxon_region, void *vmcs)
{
    unsigned long long on = (unsigned long)vmxon_region, pa = (unsigned long)vmcs;
    if (!(rdmsr(VMX_MSR_FEATURE_CONTROL) & VMX_FEATURE_CONTROL_LOCK))
        wrmsr(VMX_MSR_FEATURE_CONTROL, VMX_FEATURE_CONTROL_LOCK | VMX_FEATURE_CONTROL_VMX);
    *(uint32_t *)vmxon_region = *(uint32_t *)vmcs = VMX_BASIC_REVISION(rdmsr(VMX_MSR_BASIC));
    wrcr4(rdcr4() | 0x2000);
    return !__vmx_on(&on) && !__vmx_vmclear(&pa) && !__vmx_vmptrld(&pa);
}

static inline void rt_vmcs_fill(unsigned long proc, unsigned long proc2)
{
    RT_TABLES(gdt, idt);
    const unsigned long fields[][2] = {
        {VMCS_PIN_CONTROLS, rt_vmx_adjust(VMX_MSR_PINBASED_CTLS, 0)},
        {VMCS_PROC_CONTROLS,
         rt_vmx_adjust(VMX_MSR_PROCBASED_CTLS, proc | (proc2 ? (uint32_t)VMX_PROC_ACTIVATE_SECONDARY_CONTROLS : 0))},
        {VMCS_EXIT_CONTROLS, rt_vmx_adjust(VMX_MSR_EXIT_CTLS, VMX_EXIT_HOST_ADDRESS_SPACE_SIZE)},
        {VMCS_ENTRY_CONTROLS, rt_vmx_adjust(VMX_MSR_ENTRY_CTLS, VMX_ENTRY_IA32E_MODE_GUEST)},
        {VMCS_VMCS_LINK_POINTER, ~0ul},
        {VMCS_HOST_CS_SELECTOR, SEL_K64},
        {VMCS_HOST_SS_SELECTOR, SEL_KDATA},
        {VMCS_HOST_DS_SELECTOR, SEL_KDATA},
        {VMCS_HOST_ES_SELECTOR, SEL_KDATA},
        {VMCS_HOST_TR_SELECTOR, SEL_TSS},
        {VMCS_HOST_TR_BASE, (unsigned long)&rt_tss},
        {VMCS_HOST_GDTR_BASE, gdt.base},
        {VMCS_HOST_IDTR_BASE, idt.base},
        {VMCS_HOST_CR0, rdcr0()},
        {VMCS_HOST_CR3, rdcr3()},
        {VMCS_HOST_CR4, rdcr4()},
        {VMCS_GUEST_CR0, rdcr0()},
        {VMCS_GUEST_CR3, rdcr3()},
        {VMCS_GUEST_CR4, rdcr4()},
        {VMCS_GUEST_DR7, 0x400},
        {VMCS_GUEST_TR_SELECTOR, SEL_TSS},
        {VMCS_GUEST_TR_BASE, (unsigned long)&rt_tss},
        {VMCS_GUEST_TR_LIMIT, sizeof rt_tss - 1},
        {VMCS_GUEST_TR_ACCESS_RIGHTS, 0x8b},
        {VMCS_GUEST_LDTR_ACCESS_RIGHTS, 0x10000},
        {VMCS_GUEST_GDTR_BASE, gdt.base},
        {VMCS_GUEST_GDTR_LIMIT, gdt.limit},
        {VMCS_GUEST_IDTR_BASE, idt.base},
        {VMCS_GUEST_IDTR_LIMIT, idt.limit},
        {VMCS_GUEST_RFLAGS, 2},
    };
    for (unsigned i = 0; i < sizeof fields / sizeof fields[0]; i++)
        __vmx_vmwrite(fields[i][0], fields[i][1]);
    if (proc2)
        __vmx_vmwrite(VMCS_PROC2_CONTROLS, rt_vmx_adjust(VMX_MSR_PROCBASED_CTLS2, proc2));
    for (unsigned s = 0; s < 6; s++) { /* ES, CS, SS, DS, FS, GS */
        __vmx_vmwrite(VMCS_GUEST_ES_SELECTOR + 2 * s, s == 1 ? SEL_K64 : SEL_KDATA);
        __vmx_vmwrite(VMCS_GUEST_ES_LIMIT + 2 * s, 0xffffffff);
        __vmx_vmwrite(VMCS_GUEST_ES_ACCESS_RIGHTS + 2 * s, s == 1 ? 0xa09b : 0xc093);
    }
}

/* EFER.SVME and the host save area: 4 KiB. */
static inline void rt_svm_start(void *hsave)
{
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SVME);
    wrmsr(SVM_MSR_VM_HSAVE_PA, (unsigned long)hsave);
}

static inline void rt_vmcb_fill(struct vmcb *v)
{
    RT_TABLES(gdt, idt);
    memset(v, 0, sizeof *v);
    vmcb_set_intercept(v, SVM_EXIT_VMRUN);
    vmcb_set_intercept(v, SVM_EXIT_VMMCALL);
    vmcb_set_intercept(v, SVM_EXIT_SHUTDOWN);
    v->control.guest_asid = 1;
    struct vmcb_seg data = {.sel = SEL_KDATA, .attrib = 0xc93, .limit = 0xffffffff};
    v->save.es = v->save.ss = v->save.ds = v->save.fs = v->save.gs = data;
    v->save.cs = (struct vmcb_seg){.sel = SEL_K64, .attrib = 0xa9b, .limit = 0xffffffff};
    v->save.tr =
        (struct vmcb_seg){.sel = SEL_TSS, .attrib = 0x8b, .limit = sizeof rt_tss - 1, .base = (unsigned long)&rt_tss};
    v->save.gdtr = (struct vmcb_seg){.limit = gdt.limit, .base = gdt.base};
    v->save.idtr = (struct vmcb_seg){.limit = idt.limit, .base = idt.base};
    v->save.efer = rdmsr(MSR_EFER);
    v->save.cr0 = rdcr0(), v->save.cr3 = rdcr3(), v->save.cr4 = rdcr4();
    v->save.dr6 = 0xffff0ff0, v->save.dr7 = 0x400;
    v->save.rflags = 2;
    v->save.g_pat = rdmsr(0x277);
}

#endif
