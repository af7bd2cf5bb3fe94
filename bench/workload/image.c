/* SPDX-License-Identifier: MIT
 *
 * image.c: a bootable image that runs the workloads on the processor it boots on, then in a VMX guest with EPT and in
 * an SVM guest with nested paging where these are offered, then round trips of VM entry and exit. A line "BEGIN name"
 * and a line "END name checksum" stand around each; who reads the serial line takes the time.
 */
#include "rt.h"
#include <vmenter/enter.h>
#include <vmenter/intrin.h>
#include <vmenter/svm.h>
#include <vmenter/vmx.h>

#include "workload.h"

const char image_name[] = IMAGE_NAME;
#define MEMORY ((uint8_t *)0x4800000) /* 72 MiB, past the image */
#define TRIPS  200000u
#define PA(p)  ((unsigned long long)(unsigned long)(p))

static uint8_t *const region = rt_pages[0], *const control = rt_pages[1], *const stack = rt_pages[2] /* 8 pages */,
                      *const msr_map = rt_pages[10] /* 2 pages */, *const io_map = rt_pages[12] /* 3 pages */;
static uint64_t *const second = (uint64_t *)rt_pages[16]; /* second-level tables: PML4, PDPT, 4 directories */
static struct vmenter_regs regs;

/* The guest: calls RBX with RDI = the memory, and gives RAX to the host. Or executes CPUID for ever. */
__asm__(".text\n"
        "guest_call_vmx: call *%rbx\n vmcall\n jmp guest_call_vmx\n"
        "guest_call_svm: call *%rbx\n vmmcall\n jmp guest_call_svm\n"
        "guest_cpuid: cpuid\n jmp guest_cpuid\n");
extern char guest_call_vmx[], guest_call_svm[], guest_cpuid[];

/* Maps the first 4 GiB to itself with entries of 2 MiB. */
static void second_level(uint64_t table_bits, uint64_t page_bits)
{
    second[0] = PA(second + 512) | table_bits;
    for (unsigned i = 0; i < 4; i++)
        second[512 + i] = PA(second + 1024 + 512 * i) | table_bits;
    for (unsigned i = 0; i < 2048; i++)
        second[1024 + i] = (uint64_t)i << 21 | page_bits;
}

static void begin(const char *where, const char *name)
{
    rt_printf("BEGIN %s.%s\n", where, name);
}
static void end(const char *where, const char *name, uint64_t sum)
{
    rt_printf("END %s.%s %016llx\n", where, name, (unsigned long long)sum);
}

/* Enters with these registers until the next exit; false: the entry failed or the exit is none of those foreseen, and
 * a line said so. */
typedef bool enter_fn(char *code);
static void all(const char *where, enter_fn *start, enter_fn *go_on, char *call)
{
    for (unsigned i = 0; i < workload_count; i++) {
        begin(where, workloads[i].name);
        regs = (struct vmenter_regs){.rbx = (unsigned long)workloads[i].run, .rdi = (unsigned long)MEMORY};
        if (!start(call))
            return;
        end(where, workloads[i].name, regs.rax);
    }
    begin(where, "roundtrip");
    regs = (struct vmenter_regs){0};
    if (!start(guest_cpuid))
        return;
    for (unsigned i = 0; i < TRIPS; i++)
        if (!go_on(guest_cpuid))
            return;
    end(where, "roundtrip", TRIPS);
}

/* --- VMX */
static unsigned long adjusted(uint32_t msr, unsigned long want)
{
    uint64_t v = rdmsr(msr);
    return (want | (uint32_t)v) & (v >> 32);
}
static bool vmx_start(void)
{
    if (!cpu_has(1, 2, 5))
        return false;
    uint64_t control_msr = rdmsr(VMX_MSR_FEATURE_CONTROL);
    if (!(control_msr & VMX_FEATURE_CONTROL_LOCK))
        wrmsr(VMX_MSR_FEATURE_CONTROL, VMX_FEATURE_CONTROL_LOCK | VMX_FEATURE_CONTROL_VMX);
    uint64_t proc = rdmsr(VMX_MSR_TRUE_PROCBASED_CTLS) >> 32;
    if (!(proc & (uint32_t)VMX_PROC_ACTIVATE_SECONDARY_CONTROLS) ||
        !(rdmsr(VMX_MSR_PROCBASED_CTLS2) >> 32 & VMX_PROC2_ENABLE_EPT)) {
        rt_printf("vmx: no EPT\n");
        return false;
    }
    unsigned long long on = PA(region), vmcs = PA(control);
    uint32_t revision = VMX_BASIC_REVISION(rdmsr(VMX_MSR_BASIC));
    *(uint32_t *)region = *(uint32_t *)control = revision;
    wrcr4(rdcr4() | 0x2000);
    if (__vmx_on(&on) || __vmx_vmclear(&vmcs) || __vmx_vmptrld(&vmcs)) {
        rt_printf("vmx: VMXON failed\n");
        return false;
    }
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) gdt, idt;
    __asm__ volatile("sgdt %0; sidt %1" : "=m"(gdt), "=m"(idt));
    second_level(7, 7 | 6 << 3 | 1 << 7); /* read, write, execute; write back; 2 MiB */
    const struct {
        unsigned long field, value;
    } fields[] = {
        {VMCS_PIN_CONTROLS, adjusted(VMX_MSR_TRUE_PINBASED_CTLS, 0)},
        {VMCS_PROC_CONTROLS, adjusted(VMX_MSR_TRUE_PROCBASED_CTLS, (uint32_t)VMX_PROC_ACTIVATE_SECONDARY_CONTROLS)},
        {VMCS_PROC2_CONTROLS, adjusted(VMX_MSR_PROCBASED_CTLS2, VMX_PROC2_ENABLE_EPT | VMX_PROC2_ENABLE_VPID)},
        {VMCS_EXIT_CONTROLS, adjusted(VMX_MSR_TRUE_EXIT_CTLS, VMX_EXIT_HOST_ADDRESS_SPACE_SIZE)},
        {VMCS_ENTRY_CONTROLS, adjusted(VMX_MSR_TRUE_ENTRY_CTLS, VMX_ENTRY_IA32E_MODE_GUEST)},
        {VMCS_VPID, 1},
        {VMCS_EPT_POINTER, PA(second) | 3 << 3 | 6},
        {VMCS_VMCS_LINK_POINTER, ~0ul},
        {VMCS_HOST_CS_SELECTOR, SEL_K64},
        {VMCS_HOST_SS_SELECTOR, SEL_KDATA},
        {VMCS_HOST_DS_SELECTOR, SEL_KDATA},
        {VMCS_HOST_ES_SELECTOR, SEL_KDATA},
        {VMCS_HOST_TR_SELECTOR, SEL_TSS},
        {VMCS_HOST_TR_BASE, PA(&rt_tss)},
        {VMCS_HOST_GDTR_BASE, gdt.base},
        {VMCS_HOST_IDTR_BASE, idt.base},
        {VMCS_HOST_CR0, rdcr0()},
        {VMCS_HOST_CR3, rdcr3()},
        {VMCS_HOST_CR4, rdcr4()},
        {VMCS_GUEST_CR0, rdcr0()},
        {VMCS_GUEST_CR3, rdcr3()},
        {VMCS_GUEST_CR4, rdcr4()},
        {VMCS_GUEST_DR7, 0x400},
        {VMCS_GUEST_CS_SELECTOR, SEL_K64},
        {VMCS_GUEST_TR_SELECTOR, SEL_TSS},
        {VMCS_GUEST_TR_BASE, PA(&rt_tss)},
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
        __vmx_vmwrite(fields[i].field, fields[i].value);
    for (unsigned s = 0; s < 6; s++) { /* ES, CS, SS, DS, FS, GS */
        if (s != 1)
            __vmx_vmwrite(VMCS_GUEST_ES_SELECTOR + 2 * s, SEL_KDATA);
        __vmx_vmwrite(VMCS_GUEST_ES_LIMIT + 2 * s, 0xffffffff);
        __vmx_vmwrite(VMCS_GUEST_ES_ACCESS_RIGHTS + 2 * s, s == 1 ? 0xa09b : 0xc093);
    }
    return true;
}
static bool vmx_after(unsigned char failed, unsigned long *reason)
{
    size_t v = 0;
    if (failed) {
        __vmx_vmread(VMCS_VM_INSTRUCTION_ERROR, &v);
        rt_printf("vmx: entry failed: %u, error %lu\n", failed, (unsigned long)v);
        return false;
    }
    __vmx_vmread(VMCS_EXIT_REASON, &v);
    *reason = v;
    if (v == VMX_REASON_VMCALL || v == VMX_REASON_CPUID)
        return true;
    rt_printf("vmx: exit reason %#lx\n", (unsigned long)v);
    return false;
}
static bool vmx_enter(char *code)
{
    static bool launched;
    unsigned long reason;
    __vmx_vmwrite(VMCS_GUEST_RIP, (unsigned long)code);
    __vmx_vmwrite(VMCS_GUEST_RSP, (unsigned long)stack + 8 * 4096);
    unsigned char failed = launched ? vmenter_vmresume(&regs) : vmenter_vmlaunch(&regs);
    launched = true;
    return vmx_after(failed, &reason);
}
/* One round trip as a VMM has it: read the reason, move RIP past CPUID, resume. */
static bool vmx_trip(char *code)
{
    size_t rip = 0;
    unsigned long reason;
    __vmx_vmread(VMCS_GUEST_RIP, &rip);
    __vmx_vmwrite(VMCS_GUEST_RIP, rip + 2);
    return vmx_after(vmenter_vmresume(&regs), &reason);
}

/* --- SVM */
static struct vmcb *const v = (struct vmcb *)rt_pages[1];
static bool svm_start(void)
{
    if (!cpu_has(0x80000001, 2, 2) || !(cpuid(0x8000000a, 0).d & 1))
        return false;
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) gdt, idt;
    __asm__ volatile("sgdt %0; sidt %1" : "=m"(gdt), "=m"(idt));
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SVME);
    wrmsr(SVM_MSR_VM_HSAVE_PA, PA(region));
    second_level(7, 7 | 1 << 7); /* present, writable, user; 2 MiB */
    memset(v, 0, sizeof *v);
    vmcb_set_intercept(v, SVM_EXIT_VMRUN);
    vmcb_set_intercept(v, SVM_EXIT_VMMCALL);
    vmcb_set_intercept(v, SVM_EXIT_CPUID);
    vmcb_set_intercept(v, SVM_EXIT_SHUTDOWN);
    v->control.guest_asid = 1;
    v->control.nested_ctl = VMCB_NP_ENABLE;
    v->control.ncr3 = PA(second);
    v->control.iopm_base_pa = PA(io_map);
    v->control.msrpm_base_pa = PA(msr_map);
    struct vmcb_seg data = {.sel = SEL_KDATA, .attrib = 0xc93, .limit = 0xffffffff};
    v->save.es = v->save.ss = v->save.ds = v->save.fs = v->save.gs = data;
    v->save.cs = (struct vmcb_seg){.sel = SEL_K64, .attrib = 0xa9b, .limit = 0xffffffff};
    v->save.tr = (struct vmcb_seg){.sel = SEL_TSS, .attrib = 0x8b, .limit = sizeof rt_tss - 1, .base = PA(&rt_tss)};
    v->save.gdtr = (struct vmcb_seg){.limit = gdt.limit, .base = gdt.base};
    v->save.idtr = (struct vmcb_seg){.limit = idt.limit, .base = idt.base};
    v->save.efer = rdmsr(MSR_EFER);
    v->save.cr0 = rdcr0(), v->save.cr3 = rdcr3(), v->save.cr4 = rdcr4();
    v->save.dr6 = 0xffff0ff0, v->save.dr7 = 0x400;
    v->save.rflags = 2;
    v->save.g_pat = rdmsr(0x277);
    return true;
}
static bool svm_after(void)
{
    v->save.rax = regs.rax;
    vmenter_vmrun(PA(v), &regs);
    regs.rax = v->save.rax;
    if (v->control.exitcode == SVM_EXIT_VMMCALL || v->control.exitcode == SVM_EXIT_CPUID)
        return true;
    rt_printf("svm: exit code %#llx\n", (unsigned long long)v->control.exitcode);
    return false;
}
static bool svm_enter(char *code)
{
    v->save.rip = PA(code), v->save.rsp = PA(stack) + 8 * 4096;
    v->control.clean = 0;
    return svm_after();
}
static bool svm_trip(char *code)
{
    v->save.rip += 2;
    v->control.clean = ~0u;
    return svm_after();
}

void image_main(void)
{
    for (unsigned i = 0; i < workload_count; i++) {
        begin("bare", workloads[i].name);
        end("bare", workloads[i].name, workloads[i].run(MEMORY));
    }
    if (vmx_start())
        all("vmx", vmx_enter, vmx_trip, guest_call_vmx);
    if (svm_start())
        all("svm", svm_enter, svm_trip, guest_call_svm);
}
