/* SPDX-License-Identifier: MIT
 *
 * entry.c: the cost of a VM entry with its exit, hosted: a guest in 64-bit mode on the host's own page tables executes
 * CPUID for ever; the VMM moves RIP past it. Prints nanoseconds for one round trip, VMM code included.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <vmenter/enter.h>
#include <vmenter/intrin.h>
#include <vmenter/svm.h>
#include <vmenter/vmenter.h>
#include <vmenter/vmx.h>

#define CODE   0x100000u
#define REGION 0x200000u /* VMXON region, VMCS, or host save area, VMCB */
#define ROUNDS 300000u

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static struct vmenter_machine *machine(const char *model)
{
    struct vmenter_config config = {.size = sizeof config, .model = model, .ram = 4 << 20};
    char error[VMENTER_ERROR_MAX];
    struct vmenter_machine *m;
    if (vmenter_create(&config, &m, error) != VMENTER_OK || vmenter_bind(m, 0) != VMENTER_OK) {
        fprintf(stderr, "bench/entry: %s\n", error);
        exit(1);
    }
    memcpy(vmenter_host_ptr(m, CODE, 4), "\x0f\xa2\xeb\xfc", 4);
    return m;
}

static uint32_t adjusted(uint32_t msr, uint32_t want)
{
    uint64_t cap = __readmsr(msr);
    return (want | (uint32_t)cap) & (uint32_t)(cap >> 32);
}

static double vmx(void)
{
    struct vmenter_machine *m = machine("max");
    struct vmenter_regs regs = {0};
    unsigned long long on = REGION, vmcs = REGION + 0x1000;
    uint32_t revision = VMX_BASIC_REVISION(__readmsr(VMX_MSR_BASIC));
    memcpy(vmenter_host_ptr(m, on, 4), &revision, 4);
    memcpy(vmenter_host_ptr(m, vmcs, 4), &revision, 4);
    if (!(__readmsr(VMX_MSR_FEATURE_CONTROL) & VMX_FEATURE_CONTROL_LOCK))
        __writemsr(VMX_MSR_FEATURE_CONTROL, VMX_FEATURE_CONTROL_LOCK | VMX_FEATURE_CONTROL_VMX);
    __writecr0(__readcr0() | 0x20);
    __writecr4(__readcr4() | 0x2000);
    if (__vmx_on(&on) || __vmx_vmclear(&vmcs) || __vmx_vmptrld(&vmcs))
        return -1;

    static const struct {
        size_t field, value;
    } fixed[] = {
        {VMCS_VMCS_LINK_POINTER, ~0ull},
        {VMCS_GUEST_CS_ACCESS_RIGHTS, 0xa09b},
        {VMCS_GUEST_SS_ACCESS_RIGHTS, 0xc093},
        {VMCS_GUEST_DS_ACCESS_RIGHTS, 0xc093},
        {VMCS_GUEST_ES_ACCESS_RIGHTS, 0xc093},
        {VMCS_GUEST_FS_ACCESS_RIGHTS, 0xc093},
        {VMCS_GUEST_GS_ACCESS_RIGHTS, 0xc093},
        {VMCS_GUEST_LDTR_ACCESS_RIGHTS, 0x10000},
        {VMCS_GUEST_TR_ACCESS_RIGHTS, 0x8b},
        {VMCS_GUEST_CS_LIMIT, 0xffffffff},
        {VMCS_GUEST_SS_LIMIT, 0xffffffff},
        {VMCS_GUEST_DS_LIMIT, 0xffffffff},
        {VMCS_GUEST_ES_LIMIT, 0xffffffff},
        {VMCS_GUEST_FS_LIMIT, 0xffffffff},
        {VMCS_GUEST_GS_LIMIT, 0xffffffff},
        {VMCS_GUEST_TR_LIMIT, 0x67},
        {VMCS_GUEST_CS_SELECTOR, 8},
        {VMCS_GUEST_DR7, 0x400},
        {VMCS_GUEST_RFLAGS, 2},
        {VMCS_GUEST_RIP, CODE},
        {VMCS_GUEST_RSP, CODE + 0x1000},
        {VMCS_HOST_CS_SELECTOR, 8},
        {VMCS_HOST_TR_SELECTOR, 0x20},
    };
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++)
        if (__vmx_vmwrite(fixed[i].field, fixed[i].value))
            return -1;
    __vmx_vmwrite(VMCS_PIN_CONTROLS, adjusted(VMX_MSR_TRUE_PINBASED_CTLS, 0));
    __vmx_vmwrite(VMCS_PROC_CONTROLS, adjusted(VMX_MSR_TRUE_PROCBASED_CTLS, VMX_PROC_ACTIVATE_SECONDARY_CONTROLS));
    __vmx_vmwrite(VMCS_PROC2_CONTROLS, VMX_PROC2_ENABLE_VPID);
    __vmx_vmwrite(VMCS_VPID, 1);
    __vmx_vmwrite(VMCS_EXIT_CONTROLS, adjusted(VMX_MSR_TRUE_EXIT_CTLS, VMX_EXIT_HOST_ADDRESS_SPACE_SIZE));
    __vmx_vmwrite(VMCS_ENTRY_CONTROLS, adjusted(VMX_MSR_TRUE_ENTRY_CTLS, VMX_ENTRY_IA32E_MODE_GUEST));
    __vmx_vmwrite(VMCS_GUEST_CR0, __readcr0());
    __vmx_vmwrite(VMCS_GUEST_CR3, __readcr3());
    __vmx_vmwrite(VMCS_GUEST_CR4, __readcr4());
    __vmx_vmwrite(VMCS_HOST_CR0, __readcr0());
    __vmx_vmwrite(VMCS_HOST_CR3, __readcr3());
    __vmx_vmwrite(VMCS_HOST_CR4, __readcr4());

    unsigned char failed = vmenter_vmlaunch(&regs);
    double start = now();
    for (unsigned i = 0; i < ROUNDS && !failed; i++) {
        size_t rip, reason;
        __vmx_vmread(VMCS_EXIT_REASON, &reason);
        if (reason != VMX_REASON_CPUID) {
            fprintf(stderr, "bench/entry: unexpected exit reason %#zx\n", reason);
            return -1;
        }
        __vmx_vmread(VMCS_GUEST_RIP, &rip);
        __vmx_vmwrite(VMCS_GUEST_RIP, rip + 2);
        failed = vmenter_vmresume(&regs);
    }
    double took = now() - start;
    if (failed) {
        char why[2000];
        size_t error = 0;
        __vmx_vmread(VMCS_VM_INSTRUCTION_ERROR, &error);
        vmenter_explain_entry(why, sizeof why);
        fprintf(stderr, "bench/entry: VM entry failed (%u, error %zu): %s\n", failed, error, why);
        return -1;
    }
    vmenter_destroy(m);
    return took;
}

static double svm(void)
{
    struct vmenter_machine *m = machine("max-amd");
    struct vmenter_regs regs = {0};
    struct vmcb *v = vmenter_host_ptr(m, REGION + 0x1000, 4096);
    __writemsr(SVM_MSR_EFER, __readmsr(SVM_MSR_EFER) | SVM_EFER_SVME);
    __writemsr(SVM_MSR_VM_HSAVE_PA, REGION);
    vmcb_set_intercept(v, SVM_EXIT_CPUID);
    vmcb_set_intercept(v, SVM_EXIT_VMRUN);
    v->control.guest_asid = 1;
    v->save.cs.sel = 8;
    v->save.cs.attrib = 0x29b;
    v->save.cs.limit = 0xffffffff;
    v->save.ss.attrib = v->save.ds.attrib = v->save.es.attrib = 0x93;
    v->save.efer = __readmsr(SVM_MSR_EFER);
    v->save.cr0 = __readcr0();
    v->save.cr3 = __readcr3();
    v->save.cr4 = __readcr4();
    v->save.dr6 = 0xffff0ff0;
    v->save.dr7 = 0x400;
    v->save.rflags = 2;
    v->save.rip = CODE;
    v->save.rsp = CODE + 0x1000;
    vmenter_vmrun(REGION + 0x1000, &regs);
    double start = now();
    for (unsigned i = 0; i < ROUNDS; i++) {
        if (v->control.exitcode != SVM_EXIT_CPUID) {
            fprintf(stderr, "bench/entry: unexpected exit code %#llx\n", (unsigned long long)v->control.exitcode);
            return -1;
        }
        v->save.rip += 2;
        v->control.clean = VMCB_CLEAN_ALL;
        vmenter_vmrun(REGION + 0x1000, &regs);
    }
    double took = now() - start;
    vmenter_destroy(m);
    return took;
}

int main(void)
{
    static const struct {
        const char *name;
        double (*run)(void);
    } runs[] = {{"svm_round_trip", svm}, {"vmx_round_trip", vmx}};
    int status = 0;
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++) {
        double took = runs[i].run();
        if (took >= 0)
            printf("%s %.0f ns\n", runs[i].name, took / ROUNDS * 1e9);
        else
            status = 1;
    }
    return status;
}
