/* A small VMM under VMX: the guest shares the host's 64-bit page tables, asks CPUID, writes to a port, calls and halts;
 * each is a VM exit that the loop handles. Shows capability MSRs, the VMCS and entry with a block of registers. */
#include <stdio.h>
#include <string.h>
#include <vmenter/enter.h>
#include <vmenter/intrin.h>
#include <vmenter/vmenter.h>
#include <vmenter/vmx.h>

#define VMXON_PA 0x1000
#define VMCS_PA  0x2000
#define CODE     0x8000

/* mov eax, 0x40000000; cpuid; mov al, 'V'; out 0xe9, al; mov rdi, 42; vmcall; hlt */
static const unsigned char guest[] = {0xb8, 0,    0,    0,  0x40, 0x0f, 0xa2, 0xb0, 'V',  0xe6, 0xe9,
                                      0x48, 0xc7, 0xc7, 42, 0,    0,    0,    0x0f, 0x01, 0xc1, 0xf4};

/* The control bits wanted, made legal by the capability MSR: low half must be 1, high half may be 1. */
static size_t controls(unsigned msr, unsigned want)
{
    unsigned long long cap = __readmsr(msr);
    return (want | (unsigned)cap) & (unsigned)(cap >> 32);
}

static void segment(size_t selector_field, unsigned short selector, size_t access_rights)
{
    /* The fields of one segment register stand two apart, in the order ES, CS, SS, DS, FS, GS, LDTR, TR. */
    size_t n = selector_field - VMCS_GUEST_ES_SELECTOR;
    __vmx_vmwrite(selector_field, selector);
    __vmx_vmwrite(VMCS_GUEST_ES_LIMIT + n, access_rights & 0x10000 ? 0 : 0xffffffff);
    __vmx_vmwrite(VMCS_GUEST_ES_ACCESS_RIGHTS + n, access_rights);
    __vmx_vmwrite(VMCS_GUEST_ES_BASE + n, 0);
}

static void set_up(size_t rip, size_t rsp)
{
    unsigned char gdtr[10], idtr[10];
    unsigned long long gdt_base, idt_base;
    unsigned msr =
        __readmsr(VMX_MSR_BASIC) & VMX_BASIC_TRUE_CONTROLS ? VMX_MSR_TRUE_PINBASED_CTLS : VMX_MSR_PINBASED_CTLS;
    unsigned n = msr == VMX_MSR_PINBASED_CTLS ? VMX_MSR_PROCBASED_CTLS : VMX_MSR_TRUE_PROCBASED_CTLS;
    _sgdt(gdtr), __sidt(idtr);
    memcpy(&gdt_base, gdtr + 2, 8), memcpy(&idt_base, idtr + 2, 8);

    __vmx_vmwrite(VMCS_PIN_CONTROLS, controls(msr, 0));
    __vmx_vmwrite(VMCS_PROC_CONTROLS, controls(n, VMX_PROC_HLT_EXITING | VMX_PROC_UNCONDITIONAL_IO_EXITING));
    __vmx_vmwrite(VMCS_EXIT_CONTROLS, controls(n + 1, VMX_EXIT_HOST_ADDRESS_SPACE_SIZE));
    __vmx_vmwrite(VMCS_ENTRY_CONTROLS, controls(n + 2, VMX_ENTRY_IA32E_MODE_GUEST));

    __vmx_vmwrite(VMCS_HOST_CR0, __readcr0()), __vmx_vmwrite(VMCS_GUEST_CR0, __readcr0());
    __vmx_vmwrite(VMCS_HOST_CR3, __readcr3()), __vmx_vmwrite(VMCS_GUEST_CR3, __readcr3());
    __vmx_vmwrite(VMCS_HOST_CR4, __readcr4()), __vmx_vmwrite(VMCS_GUEST_CR4, __readcr4());
    __vmx_vmwrite(VMCS_HOST_CS_SELECTOR, _readcs()), __vmx_vmwrite(VMCS_HOST_SS_SELECTOR, _readss());
    __vmx_vmwrite(VMCS_HOST_TR_SELECTOR, _str());
    __vmx_vmwrite(VMCS_HOST_GDTR_BASE, gdt_base), __vmx_vmwrite(VMCS_HOST_IDTR_BASE, idt_base);

    segment(VMCS_GUEST_CS_SELECTOR, _readcs(), 0xa09b);
    segment(VMCS_GUEST_SS_SELECTOR, _readss(), 0xc093);
    segment(VMCS_GUEST_DS_SELECTOR, 0, 0x10000);
    segment(VMCS_GUEST_ES_SELECTOR, 0, 0x10000);
    segment(VMCS_GUEST_FS_SELECTOR, 0, 0x10000);
    segment(VMCS_GUEST_GS_SELECTOR, 0, 0x10000);
    segment(VMCS_GUEST_LDTR_SELECTOR, 0, 0x10000);
    segment(VMCS_GUEST_TR_SELECTOR, _str(), 0x8b);
    __vmx_vmwrite(VMCS_GUEST_TR_LIMIT, 0x67);
    __vmx_vmwrite(VMCS_GUEST_DR7, 0x400);
    __vmx_vmwrite(VMCS_GUEST_RFLAGS, 2);
    __vmx_vmwrite(VMCS_GUEST_RIP, rip), __vmx_vmwrite(VMCS_GUEST_RSP, rsp);
    __vmx_vmwrite(VMCS_VMCS_LINK_POINTER, ~(size_t)0);
}

static size_t field(size_t encoding)
{
    size_t value = 0;
    __vmx_vmread(encoding, &value);
    return value;
}

int main(void)
{
    struct vmenter_config config = {.size = sizeof config, .model = "max", .ram = 1 << 20};
    struct vmenter_machine *m;
    char text[4096];
    if (vmenter_create(&config, &m, text) || vmenter_bind(m, 0))
        return fprintf(stderr, "%s\n", text), 1;
    memcpy(vmenter_host_ptr(m, CODE, sizeof guest), guest, sizeof guest);

    unsigned long long vmxon = VMXON_PA, vmcs = VMCS_PA;
    unsigned revision = VMX_BASIC_REVISION(__readmsr(VMX_MSR_BASIC));
    memcpy(vmenter_host_ptr(m, VMXON_PA, 4), &revision, 4);
    memcpy(vmenter_host_ptr(m, VMCS_PA, 4), &revision, 4);
    __writecr4(__readcr4() | 1u << 13);
    if (__vmx_on(&vmxon) || __vmx_vmclear(&vmcs) || __vmx_vmptrld(&vmcs))
        return fputs("VMX does not start\n", stderr), 1;
    set_up(CODE, CODE + 0x1000);

    struct vmenter_regs regs = {0};
    unsigned char failed = vmenter_vmlaunch(&regs);
    for (; !failed; failed = vmenter_vmresume(&regs)) {
        size_t reason = field(VMCS_EXIT_REASON);
        switch (reason) {
        case VMX_REASON_CPUID:
            printf("CPUID leaf 0x%llx\n", (unsigned long long)regs.rax);
            regs.rax = regs.rbx = regs.rcx = regs.rdx = 0;
            break;
        case VMX_REASON_IO_INSTRUCTION:
            printf("port 0x%zx: %c\n", field(VMCS_EXIT_QUALIFICATION) >> 16, (int)(regs.rax & 0xff));
            break;
        case VMX_REASON_VMCALL: printf("VMCALL, rdi = %llu\n", (unsigned long long)regs.rdi); break;
        case VMX_REASON_HLT:
            puts("HLT: done");
            __vmx_off();
            vmenter_destroy(m);
            return 0;
        default:
            vmenter_explain_entry(text, sizeof text);
            return fprintf(stderr, "VM exit 0x%zx, qualification 0x%zx\n%s", reason, field(VMCS_EXIT_QUALIFICATION),
                           text),
                   1;
        }
        __vmx_vmwrite(VMCS_GUEST_RIP, field(VMCS_GUEST_RIP) + field(VMCS_EXIT_INSTRUCTION_LENGTH));
    }
    vmenter_explain_entry(text, sizeof text);
    return fprintf(stderr, "entry failed: %u, error %zu\n%s", failed, field(VMCS_VM_INSTRUCTION_ERROR), text), 1;
}
