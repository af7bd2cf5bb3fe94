/* SPDX-License-Identifier: MIT
 *
 * vmx_host.h: a VMCS for tests: a 64-bit guest that shares the host's address space and registers. Only intrinsics.
 */
#ifndef TESTS_VMX_HOST_H
#define TESTS_VMX_HOST_H

#include <string.h>

#include <vmenter/enter.h>
#include <vmenter/intrin.h>
#include <vmenter/vmenter.h>
#include <vmenter/vmx.h>

#define CR4_VMXE_BIT (1u << 13)

static inline size_t vmx_field(size_t encoding)
{
    size_t value = ~(size_t)0;
    __vmx_vmread(encoding, &value);
    return value;
}

static inline size_t vmx_controls(unsigned msr, unsigned want)
{
    unsigned long long cap = __readmsr(msr);
    return (want | (unsigned)cap) & (unsigned)(cap >> 32);
}

static inline void vmx_segment(unsigned n, unsigned short selector, size_t access_rights, size_t base, size_t limit)
{
    __vmx_vmwrite(VMCS_GUEST_ES_SELECTOR + 2 * n, selector);
    __vmx_vmwrite(VMCS_GUEST_ES_LIMIT + 2 * n, limit);
    __vmx_vmwrite(VMCS_GUEST_ES_ACCESS_RIGHTS + 2 * n, access_rights);
    __vmx_vmwrite(VMCS_GUEST_ES_BASE + 2 * n, base);
}

static inline void vmx_host_and_guest(size_t rip, size_t rsp)
{
    unsigned char gdtr[10], idtr[10];
    unsigned long long gdt_base, idt_base;
    int true_controls = (__readmsr(VMX_MSR_BASIC) & VMX_BASIC_TRUE_CONTROLS) != 0;
    unsigned pin = true_controls ? VMX_MSR_TRUE_PINBASED_CTLS : VMX_MSR_PINBASED_CTLS;
    _sgdt(gdtr);
    __sidt(idtr);
    memcpy(&gdt_base, gdtr + 2, 8);
    memcpy(&idt_base, idtr + 2, 8);

    __vmx_vmwrite(VMCS_PIN_CONTROLS, vmx_controls(pin, 0));
    __vmx_vmwrite(VMCS_PROC_CONTROLS, vmx_controls(pin + 1, VMX_PROC_HLT_EXITING | VMX_PROC_UNCONDITIONAL_IO_EXITING));
    __vmx_vmwrite(VMCS_EXIT_CONTROLS, vmx_controls(pin + 2, VMX_EXIT_HOST_ADDRESS_SPACE_SIZE));
    __vmx_vmwrite(VMCS_ENTRY_CONTROLS, vmx_controls(pin + 3, VMX_ENTRY_IA32E_MODE_GUEST));
    __vmx_vmwrite(VMCS_HOST_CR0, __readcr0());
    __vmx_vmwrite(VMCS_HOST_CR3, __readcr3());
    __vmx_vmwrite(VMCS_HOST_CR4, __readcr4());
    __vmx_vmwrite(VMCS_HOST_CS_SELECTOR, _readcs());
    __vmx_vmwrite(VMCS_HOST_SS_SELECTOR, _readss());
    __vmx_vmwrite(VMCS_HOST_TR_SELECTOR, _str());
    __vmx_vmwrite(VMCS_HOST_FS_BASE, _readfsbase_u64());
    __vmx_vmwrite(VMCS_HOST_GS_BASE, _readgsbase_u64());
    __vmx_vmwrite(VMCS_HOST_GDTR_BASE, gdt_base);
    __vmx_vmwrite(VMCS_HOST_IDTR_BASE, idt_base);
    __vmx_vmwrite(VMCS_GUEST_CR0, __readcr0());
    __vmx_vmwrite(VMCS_GUEST_CR3, __readcr3());
    __vmx_vmwrite(VMCS_GUEST_CR4, __readcr4());
    for (unsigned n = 0; n < 8; n++)
        vmx_segment(n, 0, 0x10000, 0, 0);
    vmx_segment(1, _readcs(), 0xa09b, 0, 0xffffffff);
    vmx_segment(2, _readss(), 0xc093, 0, 0xffffffff);
    vmx_segment(4, 0, 0x10000, _readfsbase_u64(), 0);
    vmx_segment(5, 0, 0x10000, _readgsbase_u64(), 0);
    vmx_segment(7, _str(), 0x8b, 0, 0x67);
    __vmx_vmwrite(VMCS_GUEST_GDTR_BASE, gdt_base);
    __vmx_vmwrite(VMCS_GUEST_GDTR_LIMIT, gdtr[0] | (size_t)gdtr[1] << 8);
    __vmx_vmwrite(VMCS_GUEST_IDTR_BASE, idt_base);
    __vmx_vmwrite(VMCS_GUEST_IDTR_LIMIT, idtr[0] | (size_t)idtr[1] << 8);
    __vmx_vmwrite(VMCS_GUEST_DR7, 0x400);
    __vmx_vmwrite(VMCS_GUEST_RFLAGS, 2);
    __vmx_vmwrite(VMCS_GUEST_RIP, rip);
    __vmx_vmwrite(VMCS_GUEST_RSP, rsp);
    __vmx_vmwrite(VMCS_VMCS_LINK_POINTER, ~(size_t)0);
}

/* The revision in the first four bytes of a VMXON region or VMCS. */
static inline void vmx_init_region(void *page)
{
    unsigned revision = VMX_BASIC_REVISION(__readmsr(VMX_MSR_BASIC));
    memset(page, 0, 4096);
    memcpy(page, &revision, sizeof revision);
}

#endif
