/* SPDX-License-Identifier: MIT
 *
 * test_port.c: the core of a hypervisor written for MSVC, as it is ported by docs/INTRINSICS.md: it includes MSVC's
 * <intrin.h>, brings assembly functions of its own under the names that MSVC lacks, captures the context of its caller,
 * launches, comes back as a guest by restoring the context with RFLAGS.AC as the mark, resumes by restoring a context
 * into a function that calls __vmx_vmresume(), and unloads on a CPUID leaf by restoring the guest's context natively.
 * Under SVM the loop of VMLOAD, VMRUN, VMSAVE is assembly, with trapping on.
 */
#include <vmenter/msvc/intrin.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <vmenter/svm.h>
#include <vmenter/vmenter.h>
#include <vmenter/vmx.h>

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif

#if defined(__linux__) && defined(__x86_64__) && !defined(SANITIZED)

/* --- the core -------------------------------------------------------------------------------------------------- */

typedef unsigned __int64 U64;
typedef unsigned __int32 U32;
typedef unsigned __int16 U16;
typedef unsigned char U8;

typedef struct __declspec(align(16)) _CORE_CONTEXT {
    U64 Rax, Rcx, Rdx, Rbx, Rsp, Rbp, Rsi, Rdi, R8, R9, R10, R11, R12, R13, R14, R15;
    U64 Rip, Flags;
    U16 Cs, Ss;
} CORE_CONTEXT;

typedef struct _CORE_PROCESSOR {
    __declspec(align(4096)) U8 Stack[24 * 1024];
    __declspec(align(4096)) U8 VmxOn[4096];
    __declspec(align(4096)) U8 Vmcs[4096];
    __declspec(align(4096)) U8 MsrBitmap[4096];
    __declspec(align(4096)) struct vmcb Guest;
    __declspec(align(4096)) struct vmcb Host;
    __declspec(align(4096)) U8 HostState[4096];
    CORE_CONTEXT Context;
    U64 FsBase;
} CORE_PROCESSOR;

#define CORE_AC     0x40000
#define CORE_LEAF   0x40000001
#define CORE_NAME   0x65726f63 /* "core" */
#define CORE_UNLOAD 0x756e6c64

/* Functions of its own, with the prototypes that it likes. */
void _str(_Out_ U16 *Selector);
void _sldt(_Out_ U16 *Selector);
unsigned char __vmx_vmcall(U64 a, U64 b, U64 c);

__declspec(noreturn) void CoreRestore(_In_ CORE_CONTEXT *Context);
void CoreCapture(_Out_ CORE_CONTEXT *Context) __attribute__((returns_twice));
void CoreEntry(void);
__declspec(noreturn) void CoreHandleVmx(_Inout_ CORE_CONTEXT *Context);
U8 CoreHandleSvm(CORE_PROCESSOR *Processor, CORE_CONTEXT *Context);
__declspec(noreturn) void CoreSvmLoop(void *Stack, CORE_PROCESSOR *Processor, U64 VmcbPa);

static CORE_PROCESSOR Processor;
static volatile U32 Exits, UnexpectedExit;

static __forceinline U64 CoreRead(_In_range_(0, 0x6c16) U32 Field)
{
    size_t Value = 0;
    __vmx_vmread(Field, &Value);
    return Value;
}

static bool CorePresent(void)
{
    int Registers[4];
    __cpuid(Registers, CORE_LEAF);
    return Registers[0] == CORE_NAME;
}

/* Returns false to unload. */
static bool CoreCpuid(CORE_CONTEXT *Context, U32 Cpl)
{
    int Registers[4];
    if ((U32)Context->Rax == CORE_UNLOAD && (U32)Context->Rcx == CORE_UNLOAD && Cpl == 0)
        return false;
    __cpuidex(Registers, (int)Context->Rax, (int)Context->Rcx);
    if (Context->Rax == CORE_LEAF)
        Registers[0] = CORE_NAME;
    Context->Rax = (U32)Registers[0];
    Context->Rbx = (U32)Registers[1];
    Context->Rcx = (U32)Registers[2];
    Context->Rdx = (U32)Registers[3];
    return true;
}

__declspec(noinline) static void CoreResume(void)
{
    __vmx_vmresume();
    abort();
}

void CoreHandleVmx(CORE_CONTEXT *Context)
{
    bool Go = true;
    Exits++;
    if ((U16)CoreRead(VMCS_EXIT_REASON) == VMX_REASON_CPUID) {
        Go = CoreCpuid(Context, (U32)(CoreRead(VMCS_GUEST_CS_SELECTOR) & 3));
    } else {
        UnexpectedExit = (U32)CoreRead(VMCS_EXIT_REASON);
        _exit(99);
    }
    U64 Next = CoreRead(VMCS_GUEST_RIP) + CoreRead(VMCS_EXIT_INSTRUCTION_LENGTH);
    if (Go) {
        __vmx_vmwrite(VMCS_GUEST_RIP, Next);
        Context->Rip = (U64)CoreResume;
        Context->Rsp -= 8; /* as after a call */
    } else {
        __writecr3(CoreRead(VMCS_GUEST_CR3));
        Context->Rsp = CoreRead(VMCS_GUEST_RSP);
        Context->Rip = Next;
        Context->Flags = CoreRead(VMCS_GUEST_RFLAGS); /* with AC */
        __vmx_off();
    }
    CoreRestore(Context);
}

/* The guest's first function: on the host's stack, with registers that mean nothing. */
static void CoreGuestBegins(void)
{
    _writefsbase_u64(Processor.FsBase); /* the shim's part: the GDT's FS base is 0 */
    Processor.Context.Flags |= CORE_AC;
    CoreRestore(&Processor.Context);
}

static U64 CoreControls(U32 Msr, U32 Want)
{
    U64 Capability = __readmsr(Msr);
    return (Want | (U32)Capability) & (U32)(Capability >> 32);
}

static void CoreSegment(U32 Index, U16 Selector, U64 Gdt)
{
    U64 Descriptor = *(U64 *)(Gdt + (Selector & ~7u));
    U64 Base = (Descriptor >> 16 & 0xffffff) | (Descriptor >> 56 << 24);
    U32 Rights = Selector & ~7u ? (U32)(Descriptor >> 40) & 0xf0ff : 0x10000;
    if (Index == 7) /* TR: a descriptor of 16 bytes */
        Base |= *(U64 *)(Gdt + (Selector & ~7u) + 8) << 32;
    __vmx_vmwrite(VMCS_GUEST_ES_SELECTOR + 2 * Index, Selector & ~7u ? Selector : 0);
    __vmx_vmwrite(VMCS_GUEST_ES_LIMIT + 2 * Index, Selector & ~7u ? __segmentlimit(Selector) : 0);
    __vmx_vmwrite(VMCS_GUEST_ES_ACCESS_RIGHTS + 2 * Index, Rights);
    __vmx_vmwrite(VMCS_GUEST_ES_BASE + 2 * Index, Base);
    if (Index == 7)
        __vmx_vmwrite(VMCS_HOST_TR_BASE, Base);
}

#pragma pack(push, 1)
typedef struct _CORE_TABLE {
    U16 Limit;
    U64 Base;
} CORE_TABLE;
#pragma pack(pop)

static int CoreLaunchVmx(void)
{
    CORE_PROCESSOR *P = &Processor;
    U64 VmxOn = (U64)P->VmxOn, Vmcs = (U64)P->Vmcs, Stack = (U64)(P->Stack + sizeof P->Stack);
    CORE_TABLE Gdt, Idt;
    U16 Tr, Ldtr;
    *(U32 *)P->VmxOn = *(U32 *)P->Vmcs = (U32)__readmsr(VMX_MSR_BASIC);
    __writecr4(__readcr4() | 0x2000);
    if (__vmx_on(&VmxOn) || __vmx_vmclear(&Vmcs) || __vmx_vmptrld(&Vmcs))
        return -1;
    _sgdt(&Gdt), __sidt(&Idt), _str(&Tr), _sldt(&Ldtr);
    __vmx_vmwrite(VMCS_VMCS_LINK_POINTER, ~0ull);
    __vmx_vmwrite(VMCS_MSR_BITMAPS, (U64)P->MsrBitmap);
    __vmx_vmwrite(VMCS_PIN_CONTROLS, CoreControls(VMX_MSR_TRUE_PINBASED_CTLS, 0));
    __vmx_vmwrite(VMCS_PROC_CONTROLS, CoreControls(VMX_MSR_TRUE_PROCBASED_CTLS,
                                                   VMX_PROC_USE_MSR_BITMAPS | VMX_PROC_ACTIVATE_SECONDARY_CONTROLS));
    __vmx_vmwrite(VMCS_PROC2_CONTROLS,
                  CoreControls(VMX_MSR_PROCBASED_CTLS2, VMX_PROC2_ENABLE_RDTSCP | VMX_PROC2_ENABLE_XSAVES));
    __vmx_vmwrite(VMCS_EXIT_CONTROLS, CoreControls(VMX_MSR_TRUE_EXIT_CTLS, VMX_EXIT_HOST_ADDRESS_SPACE_SIZE));
    __vmx_vmwrite(VMCS_ENTRY_CONTROLS, CoreControls(VMX_MSR_TRUE_ENTRY_CTLS, VMX_ENTRY_IA32E_MODE_GUEST));
    const U16 Selectors[8] = {P->Context.Ss, P->Context.Cs, P->Context.Ss, P->Context.Ss, 0, 0, Ldtr, Tr};
    for (U32 i = 0; i < 8; i++)
        CoreSegment(i, Selectors[i], Gdt.Base);
    __vmx_vmwrite(VMCS_HOST_CS_SELECTOR, P->Context.Cs & ~7u), __vmx_vmwrite(VMCS_HOST_SS_SELECTOR, 0);
    __vmx_vmwrite(VMCS_HOST_TR_SELECTOR, Tr & ~7u);
    __vmx_vmwrite(VMCS_GUEST_GDTR_BASE, Gdt.Base), __vmx_vmwrite(VMCS_HOST_GDTR_BASE, Gdt.Base);
    __vmx_vmwrite(VMCS_GUEST_IDTR_BASE, Idt.Base), __vmx_vmwrite(VMCS_HOST_IDTR_BASE, Idt.Base);
    __vmx_vmwrite(VMCS_GUEST_GDTR_LIMIT, Gdt.Limit), __vmx_vmwrite(VMCS_GUEST_IDTR_LIMIT, Idt.Limit);
    __vmx_vmwrite(VMCS_GUEST_CR0, __readcr0()), __vmx_vmwrite(VMCS_HOST_CR0, __readcr0());
    __vmx_vmwrite(VMCS_GUEST_CR3, __readcr3()), __vmx_vmwrite(VMCS_HOST_CR3, __readcr3());
    __vmx_vmwrite(VMCS_GUEST_CR4, __readcr4()), __vmx_vmwrite(VMCS_HOST_CR4, __readcr4());
    __vmx_vmwrite(VMCS_GUEST_DR7, __readdr(7));
    __vmx_vmwrite(VMCS_GUEST_RFLAGS, P->Context.Flags);
    __vmx_vmwrite(VMCS_GUEST_RSP, Stack - 8), __vmx_vmwrite(VMCS_GUEST_RIP, (U64)CoreGuestBegins);
    __vmx_vmwrite(VMCS_HOST_RSP, Stack), __vmx_vmwrite(VMCS_HOST_RIP, (U64)CoreEntry);
    __vmx_vmlaunch();
    int Error = (int)CoreRead(VMCS_VM_INSTRUCTION_ERROR);
    __vmx_off();
    return Error ? Error : -2;
}

U8 CoreHandleSvm(CORE_PROCESSOR *P, CORE_CONTEXT *Context)
{
    __svm_vmload((size_t)&P->Host);
    Exits++;
    Context->Rax = P->Guest.save.rax;
    if (P->Guest.control.exitcode != SVM_EXIT_CPUID) {
        UnexpectedExit = (U32)P->Guest.control.exitcode;
        _exit(99);
    }
    if (CoreCpuid(Context, P->Guest.save.cpl)) {
        P->Guest.save.rip = P->Guest.control.nrip;
        P->Guest.save.rax = Context->Rax;
        return 1;
    }
    Context->Rsp = P->Guest.save.rsp;
    Context->Rip = P->Guest.control.nrip;
    Context->Flags = P->Guest.save.rflags;
    __svm_vmload((size_t)&P->Guest);
    _disable();
    __svm_stgi();
    __writemsr(SVM_MSR_EFER, __readmsr(SVM_MSR_EFER) & ~(U64)SVM_EFER_SVME);
    __writeeflags(P->Guest.save.rflags);
    return 0;
}

static int CoreLaunchSvm(void)
{
    CORE_PROCESSOR *P = &Processor;
    CORE_TABLE Gdt, Idt;
    __writemsr(SVM_MSR_EFER, __readmsr(SVM_MSR_EFER) | SVM_EFER_SVME);
    _sgdt(&Gdt), __sidt(&Idt);
    memset(&P->Guest, 0, sizeof P->Guest);
    vmcb_set_intercept(&P->Guest, SVM_EXIT_CPUID);
    vmcb_set_intercept(&P->Guest, SVM_EXIT_VMRUN);
    P->Guest.control.guest_asid = 1;
    U64 Code = *(U64 *)(Gdt.Base + (P->Context.Cs & ~7u)), Data = *(U64 *)(Gdt.Base + (P->Context.Ss & ~7u));
    P->Guest.save.cs = (struct vmcb_seg){.sel = P->Context.Cs,
                                         .attrib = (U16)((Code >> 40 & 0xff) | (Code >> 44 & 0xf00)),
                                         .limit = __segmentlimit(P->Context.Cs)};
    P->Guest.save.ss = (struct vmcb_seg){.sel = P->Context.Ss,
                                         .attrib = (U16)((Data >> 40 & 0xff) | (Data >> 44 & 0xf00)),
                                         .limit = __segmentlimit(P->Context.Ss)};
    P->Guest.save.ds = P->Guest.save.es = P->Guest.save.ss;
    P->Guest.save.cpl = P->Context.Cs & 3;
    P->Guest.save.gdtr.base = Gdt.Base, P->Guest.save.gdtr.limit = Gdt.Limit;
    P->Guest.save.idtr.base = Idt.Base, P->Guest.save.idtr.limit = Idt.Limit;
    P->Guest.save.efer = __readmsr(SVM_MSR_EFER);
    P->Guest.save.cr0 = __readcr0(), P->Guest.save.cr3 = __readcr3(), P->Guest.save.cr4 = __readcr4();
    P->Guest.save.dr7 = __readdr(7), P->Guest.save.dr6 = __readdr(6);
    P->Guest.save.g_pat = __readmsr(0x277);
    P->Guest.save.rflags = P->Context.Flags;
    P->Guest.save.rsp = (U64)(P->Stack + 8192 - 8), P->Guest.save.rip = (U64)CoreGuestBegins;
    __svm_vmsave((size_t)&P->Guest);
    __writemsr(SVM_MSR_VM_HSAVE_PA, (U64)P->HostState);
    __svm_vmsave((size_t)&P->Host);
    CoreSvmLoop(P->Stack + sizeof P->Stack, P, (U64)&P->Guest);
}

/* --- the shim: what the port writes --------------------------------------------------------------------------------
 */

void _str(U16 *Selector)
{
    *Selector = vmenter_str();
}

void _sldt(U16 *Selector)
{
    *Selector = vmenter_sldt();
}

unsigned char __vmx_vmcall(U64 a, U64 b, U64 c)
{
    return (unsigned char)(a + b + c);
}

/* CORE_CONTEXT: the registers in the order of their encoding, RIP at 128, RFLAGS at 136, CS at 144, SS at 146. */
#define CAPTURE(r)                                                                                                     \
    "mov %rax, 0(" r "); mov %rcx, 8(" r "); mov %rdx, 16(" r "); mov %rbx, 24(" r "); mov %rbp, 40(" r ")\n"          \
    "mov %rsi, 48(" r "); mov %rdi, 56(" r "); mov %r8, 64(" r "); mov %r9, 72(" r "); mov %r10, 80(" r ")\n"          \
    "mov %r11, 88(" r "); mov %r12, 96(" r "); mov %r13, 104(" r "); mov %r14, 112(" r "); mov %r15, 120(" r ")\n"
__asm__(
    ".text\n"
    ".globl CoreCapture\n"
    "CoreCapture:\n" CAPTURE(
        "%rdi") "lea 8(%rsp), %rax; mov %rax, 32(%rdi); mov (%rsp), %rax; mov %rax, 128(%rdi)\n"
                "pushfq; pop 136(%rdi); mov %cs, 144(%rdi); mov %ss, 146(%rdi)\n"
                "ret\n"
                /* Flags and RIP go below the target's stack, past its red zone. */
                ".globl CoreRestore\n"
                "CoreRestore:\n"
                "mov 32(%rdi), %rax; mov 128(%rdi), %rcx; mov %rcx, -136(%rax); mov 136(%rdi), %rcx; mov %rcx, "
                "-144(%rax)\n"
                "mov 56(%rdi), %rcx; mov %rcx, -152(%rax); mov 0(%rdi), %rcx; mov %rcx, -160(%rax)\n"
                "mov 8(%rdi), %rcx; mov 16(%rdi), %rdx; mov 24(%rdi), %rbx; mov 40(%rdi), %rbp; mov 48(%rdi), %rsi\n"
                "mov 64(%rdi), %r8; mov 72(%rdi), %r9; mov 80(%rdi), %r10; mov 88(%rdi), %r11; mov 96(%rdi), %r12\n"
                "mov 104(%rdi), %r13; mov 112(%rdi), %r14; mov 120(%rdi), %r15\n"
                "lea -160(%rax), %rsp; pop %rax; pop %rdi; popfq; ret $128\n"
                ".globl CoreEntry\n"
                "CoreEntry:\n"
                "mov %rdi, -8(%rsp); lea -512(%rsp), %rdi\n" CAPTURE(
                    "%rdi") "mov 504(%rdi), %rax; mov %rax, 56(%rdi)\n"
                            "mov %rsp, 32(%rdi); movq $2, 136(%rdi); lea -512(%rsp), %rsp; call CoreHandleVmx\n"
                            ".globl CoreSvmLoop\n"
                            "CoreSvmLoop:\n"
                            "lea -512(%rdi), %rsp; mov %rsi, 480(%rsp); mov %rdx, 488(%rsp)\n"
                            "1: mov 488(%rsp), %rax; vmload; vmrun; vmsave\n" CAPTURE(
                                "%rsp") "mov 480(%rsp), %rdi; mov %rsp, %rsi; call CoreHandleSvm\n"
                                        "mov %rsp, %rdi; test %al, %al; jz CoreRestore\n"
                                        "mov 8(%rdi), %rcx; mov 16(%rdi), %rdx; mov 24(%rdi), %rbx; mov 40(%rdi), "
                                        "%rbp; mov 48(%rdi), %rsi\n"
                                        "mov 64(%rdi), %r8; mov 72(%rdi), %r9; mov 80(%rdi), %r10; mov 88(%rdi), %r11; "
                                        "mov 96(%rdi), %r12\n"
                                        "mov 104(%rdi), %r13; mov 112(%rdi), %r14; mov 120(%rdi), %r15; mov 56(%rdi), "
                                        "%rdi\n"
                                        "jmp 1b\n");

/* --- the tests -------------------------------------------------------------------------------------------------- */

static bool UseSvm, ProcessSelectors;

/* As the launching functions of such cores: goes on here twice. */
static int __attribute__((noinline)) CoreStart(void)
{
    volatile int Status = 0;
    Exits = 0;
    __writeeflags(__readeflags() & ~(U64)CORE_AC);
    CoreCapture(&Processor.Context);
    if ((__readeflags() & CORE_AC) == 0) {
        if (!ProcessSelectors)
            Processor.Context.Cs = vmenter_readcs(), Processor.Context.Ss = vmenter_readss();
        Status = UseSvm ? CoreLaunchSvm() : CoreLaunchVmx();
    }
    return Status;
}

static void CoreStop(void)
{
    int Registers[4];
    __cpuidex(Registers, CORE_UNLOAD, CORE_UNLOAD);
}

static struct vmenter_machine *machine;
static char misaligned[24];

static void bind(bool svm, bool process_selectors)
{
    struct vmenter_config config = {.size = sizeof config,
                                    .model = svm ? "max-amd" : "max,-ept",
                                    .flags = VMENTER_IDENTITY | VMENTER_HOST_SYSCALLS};
    char error[VMENTER_ERROR_MAX] = "";
    UseSvm = svm, ProcessSelectors = process_selectors;
    assert_int_equal(vmenter_create(&config, &machine, error), VMENTER_OK);
    assert_int_equal(vmenter_bind(machine, 0), VMENTER_OK);
    assert_int_equal(vmenter_trap(true), VMENTER_OK);
    Processor.FsBase = _readfsbase_u64();
}

static void come_and_go(bool svm)
{
    char text[40] = "";
    bool there;
    bind(svm, false);
    for (unsigned round = 0; round < 2; round++) {
        assert_false(CorePresent());
        assert_int_equal(CoreStart(), 0);
        there = CorePresent();
        snprintf(text, sizeof text, "%d %.2f", 42, 1.25);
        *(volatile uint64_t *)(void *)(misaligned + 3) = 7; /* with AC set, as the guest */
        CoreStop();
        *(volatile uint64_t *)(void *)(misaligned + 5) = 8; /* natively, by the flags of the guest */
        assert_true(there);
        assert_string_equal(text, "42 1.25");
        assert_true(Exits >= 2);
        assert_false(CorePresent());
    }
    vmenter_destroy(machine);
}

static void test_vmx(void **state)
{
    come_and_go(false);
}

static void test_svm(void **state)
{
    come_and_go(true);
}

/* On the selectors that the process has, CPL 3, and to its end: the mark is AC, and there is no alignment check. */
static void to_the_end(bool svm)
{
    int status = 0;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        bind(svm, true);
        if (CoreStart() != 0 || !CorePresent())
            _exit(98);
        *(volatile uint64_t *)(void *)(misaligned + 3) = 7;
        CoreStop(); /* not from CPL 3 */
        char *text = malloc(100);
        snprintf(text, 100, "%d", CorePresent() ? 33 : 97);
        exit(atoi(text));
    }
    waitpid(pid, &status, 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 33);
}

static void test_vmx_process_selectors(void **state)
{
    to_the_end(false);
}

static void test_svm_process_selectors(void **state)
{
    to_the_end(true);
}

/* The AC that a core leaves in the thread's flags ends with trapping: nobody would catch the alignment check. */
static void test_mark_ends_with_trapping(void **state)
{
    bind(false, false);
    __asm__ volatile("lea -128(%%rsp), %%rsp; pushfq; orl $0x40000, (%%rsp); popfq; lea 128(%%rsp), %%rsp" ::
                         : "memory", "cc");
    assert_int_equal(vmenter_trap(false), VMENTER_OK);
    *(volatile uint64_t *)(void *)(misaligned + 3) = 9;
    vmenter_destroy(machine);
}

static void test_own_names(void **state)
{
    struct vmenter_regs r = {0};
    assert_int_equal(__vmx_vmcall(1, 2, 3), 6);
    (void)r;
}

int main(int argc, char **argv)
{
    if (!getenv("GLIBC_TUNABLES")) {
        setenv("GLIBC_TUNABLES",
               "glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-AVX512CD,-AVX512DQ,-AVX_Fast_Unaligned_Load",
               1);
        execv("/proc/self/exe", argv);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_own_names),
        cmocka_unit_test(test_vmx),
        cmocka_unit_test(test_svm),
        cmocka_unit_test(test_vmx_process_selectors),
        cmocka_unit_test(test_svm_process_selectors),
        cmocka_unit_test(test_mark_ends_with_trapping),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

static void test_nothing(void **state)
{
    skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#endif
