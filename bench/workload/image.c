/* SPDX-License-Identifier: MIT
 *
 * image.c: a bootable image that runs the workloads on the processor it boots on, then in a VMX guest with EPT and in
 * an SVM guest with nested paging where these are offered, then round trips of VM entry and exit. A line "BEGIN name"
 * and a line "END name checksum" stand around each; who reads the serial line takes the time.
 */
#include "guest.h"
#include <vmenter/enter.h>

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
static bool vmx_start(void)
{
    if (!cpu_has(1, 2, 5))
        return false;
    if (!(rdmsr(VMX_MSR_PROCBASED_CTLS) >> 63) || !(rdmsr(VMX_MSR_PROCBASED_CTLS2) >> 32 & VMX_PROC2_ENABLE_EPT)) {
        rt_printf("vmx: no EPT\n");
        return false;
    }
    if (!rt_vmx_start(region, control)) {
        rt_printf("vmx: VMXON failed\n");
        return false;
    }
    second_level(7, 7 | 6 << 3 | 1 << 7); /* read, write, execute; write back; 2 MiB */
    rt_vmcs_fill(0, VMX_PROC2_ENABLE_EPT | VMX_PROC2_ENABLE_VPID);
    __vmx_vmwrite(VMCS_VPID, 1);
    __vmx_vmwrite(VMCS_EPT_POINTER, PA(second) | 3 << 3 | 6);
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
    rt_svm_start(region);
    second_level(7, 7 | 1 << 7); /* present, writable, user; 2 MiB */
    rt_vmcb_fill(v);
    vmcb_set_intercept(v, SVM_EXIT_CPUID);
    v->control.nested_ctl = VMCB_NP_ENABLE;
    v->control.ncr3 = PA(second);
    v->control.iopm_base_pa = PA(io_map);
    v->control.msrpm_base_pa = PA(msr_map);
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
