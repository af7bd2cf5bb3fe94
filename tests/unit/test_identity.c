/* SPDX-License-Identifier: MIT
 *
 * test_identity.c: identity mode: functions of this process run as guests of this process, under VMX and under SVM, and
 * do what programs do: libc, system calls, threads, processes, signals, mappings, code that they write. And what they
 * must not do.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <vmenter/svm.h>

#include "tests/unit/vmx_host.h"

/* A guest that is this process cannot be instrumented by AddressSanitizer: its shadow knows one stack of the thread,
 * not two. */
#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif

#if defined(__linux__) && defined(__x86_64__) && !defined(SANITIZED)

#define CALL_SET_FREE 0x6c756570
#define CALL_ADD      0x0add

static unsigned char vmxon_page[4096] __attribute__((aligned(4096)));
static unsigned char vmcs_page[4096] __attribute__((aligned(4096)));
static struct vmcb vmcb __attribute__((aligned(4096)));
static unsigned char hsave[4096] __attribute__((aligned(4096)));
static unsigned char host_stack[262144] __attribute__((aligned(4096)));

/* What the VM-exit handler saw. */
static volatile unsigned cpuid_exits, exits, fault_vector;
static volatile uint64_t fault_address, fault_error, recover_rip;
static volatile size_t last_reason;

struct freed {
    uint64_t rip, rsp;
};
unsigned char vmx_become_guest(void);
unsigned char vmx_become_guest_raw(void);
extern const char identity_vm_exit_raw[];
void svm_become_guest(struct vmcb *v, void *stack_top);
extern const char identity_vm_exit[];
struct freed *handle_vmx_exit(struct vmenter_regs *guest);
struct freed *handle_svm_exit(struct vmenter_regs *guest);

#define PUSH_BLOCK                                                                                                     \
    "  push %r15; push %r14; push %r13; push %r12; push %r11; push %r10; push %r9; push %r8\n"                         \
    "  push %rdi; push %rsi; push %rbp; push %rsp; push %rbx; push %rdx; push %rcx; push %rax\n"
#define POP_BLOCK                                                                                                      \
    "  pop %rax; pop %rcx; pop %rdx; pop %rbx; add $8, %rsp; pop %rbp; pop %rsi; pop %rdi\n"                           \
    "  pop %r8; pop %r9; pop %r10; pop %r11; pop %r12; pop %r13; pop %r14; pop %r15\n"
#define GO_FREE                                                                                                        \
    "  mov 0(%rax), %rcx; mov 8(%rax), %rdx\n"                                                                         \
    "  mov 24(%rsp), %rbx; mov 40(%rsp), %rbp; mov 48(%rsp), %rsi; mov 56(%rsp), %rdi\n"                               \
    "  mov 96(%rsp), %r12; mov 104(%rsp), %r13; mov 112(%rsp), %r14; mov 120(%rsp), %r15\n"                            \
    "  mov %rdx, %rsp; xor %eax, %eax; jmp *%rcx\n"

__asm__(".text\n"
        ".globl vmx_become_guest\n"
        "vmx_become_guest:\n"
        "  push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15; sub $8, %rsp\n"
        "  mov $0x681c, %edi; mov %rsp, %rsi; call __vmx_vmwrite@PLT\n"
        "  mov $0x681e, %edi; lea 1f(%rip), %rsi; call __vmx_vmwrite@PLT\n"
        "  call __vmx_vmlaunch@PLT\n"
        "  jmp 2f\n"
        "1: xor %eax, %eax\n"
        "2: add $8, %rsp; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp\n"
        "  ret\n"
        ".globl identity_vm_exit\n"
        "identity_vm_exit:\n" PUSH_BLOCK "  mov %rsp, %rdi; call handle_vmx_exit\n"
        "  test %rax, %rax; jnz 3f\n" POP_BLOCK "  call __vmx_vmresume@PLT\n"
        "  ud2\n"
        "3:\n" GO_FREE
        /* The same with bare instructions, for trapping. */
        ".globl vmx_become_guest_raw\n"
        "vmx_become_guest_raw:\n"
        "  push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15; sub $8, %rsp\n"
        "  mov $0x681c, %edi; vmwrite %rsp, %rdi; jbe 2f\n"
        "  mov $0x681e, %edi; lea 1f(%rip), %rsi; vmwrite %rsi, %rdi; jbe 2f\n"
        "  vmlaunch\n"
        "2: mov $1, %eax; jmp 3f\n"
        "1: xor %eax, %eax\n"
        "3: add $8, %rsp; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp\n"
        "  ret\n"
        ".globl identity_vm_exit_raw\n"
        "identity_vm_exit_raw:\n" PUSH_BLOCK "  mov %rsp, %rdi; call handle_vmx_exit\n"
        "  test %rax, %rax; jnz 3f\n" POP_BLOCK "  vmresume\n"
        "  ud2\n"
        "3:\n" GO_FREE
        /* The VMM of SVM is a loop on a stack of its own; the first #VMEXIT finds the guest where it called. */
        ".globl svm_become_guest\n"
        "svm_become_guest:\n"
        "  push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15; sub $8, %rsp\n"
        "  lea 6f(%rip), %rax; mov %rax, 0x578(%rdi)\n" /* save.rip */
        "  mov %rsp, 0x5d8(%rdi)\n"                     /* save.rsp */
        "  lea -16(%rsi), %rsp; mov %rdi, (%rsp)\n"
        "5: mov (%rsp), %rax\n"
        "  call vmenter_svm_vmrun_raw@PLT\n" PUSH_BLOCK "  mov %rsp, %rdi; call handle_svm_exit\n"
        "  test %rax, %rax; jnz 7f\n" POP_BLOCK "  jmp 5b\n"
        "7:\n" GO_FREE "6: add $8, %rsp; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp\n"
        "  ret\n");

static void guest_call(struct vmenter_regs *g)
{
    if (g->rax == CALL_ADD)
        g->rax = g->rbx + g->rcx;
}

static void guest_cpuid(struct vmenter_regs *g)
{
    int info[4];
    cpuid_exits++;
    __cpuidex(info, (int)g->rax, (int)g->rcx);
    if ((unsigned)g->rax == 0x40000000)
        info[1] = 0x12345678;
    g->rax = (unsigned)info[0], g->rbx = (unsigned)info[1], g->rcx = (unsigned)info[2], g->rdx = (unsigned)info[3];
}

static void die(const char *what, size_t reason, size_t rip)
{
    char text[2048];
    int n = snprintf(text, sizeof text, "unexpected %s exit 0x%zx at 0x%zx\n", what, reason, rip);
    n += (int)vmenter_explain_entry(text + n, sizeof text - (size_t)n);
    n += (int)vmenter_disassemble((void *)rip, 16, rip, 64, 3, text + n, sizeof text - (size_t)n);
    if (write(2, text, (size_t)n) < 0)
        _exit(3);
    _exit(2);
}

struct freed *handle_vmx_exit(struct vmenter_regs *guest)
{
    static struct freed freed;
    size_t reason = vmx_field(VMCS_EXIT_REASON),
           next = vmx_field(VMCS_GUEST_RIP) + vmx_field(VMCS_EXIT_INSTRUCTION_LENGTH);
    exits++;
    last_reason = reason;
    switch (reason) {
    case VMX_REASON_CPUID: guest_cpuid(guest); break;
    case VMX_REASON_VMCALL:
        if (guest->rax == CALL_SET_FREE) {
            freed = (struct freed){next, vmx_field(VMCS_GUEST_RSP)};
            __vmx_off();
            return &freed;
        }
        guest_call(guest);
        break;
    case VMX_REASON_EXCEPTION_OR_NMI:
        fault_vector = vmx_field(VMCS_EXIT_INTERRUPTION_INFO) & 0xff;
        fault_address = vmx_field(VMCS_EXIT_QUALIFICATION);
        fault_error = vmx_field(VMCS_EXIT_INTERRUPTION_ERROR_CODE);
        if (!recover_rip)
            die("exception", fault_vector, vmx_field(VMCS_GUEST_RIP));
        next = recover_rip;
        break;
    case VMX_REASON_RDMSR: guest->rax = 0x55, guest->rdx = 0x66; break;
    case VMX_REASON_VMXON:
    case VMX_REASON_HLT: break;
    default: die("VMX", reason, vmx_field(VMCS_GUEST_RIP));
    }
    __vmx_vmwrite(VMCS_GUEST_RIP, next);
    return NULL;
}

struct freed *handle_svm_exit(struct vmenter_regs *guest)
{
    static struct freed freed;
    exits++;
    last_reason = vmcb.control.exitcode;
    guest->rax = vmcb.save.rax;
    uint64_t next = vmcb.control.nrip;
    switch (vmcb.control.exitcode) {
    case SVM_EXIT_CPUID: guest_cpuid(guest); break;
    case SVM_EXIT_VMMCALL:
        if (guest->rax == CALL_SET_FREE) {
            freed = (struct freed){next, vmcb.save.rsp};
            __svm_stgi();
            return &freed;
        }
        guest_call(guest);
        break;
    case SVM_EXIT_EXCEPTION + 14:
        fault_vector = 14;
        fault_address = vmcb.control.exitinfo2;
        fault_error = vmcb.control.exitinfo1;
        if (!recover_rip)
            die("exception", fault_vector, vmcb.save.rip);
        next = recover_rip;
        break;
    case SVM_EXIT_HLT: next = vmcb.save.rip + 1; break;
    default: die("SVM", vmcb.control.exitcode, vmcb.save.rip);
    }
    vmcb.save.rax = guest->rax;
    vmcb.save.rip = next;
    return NULL;
}

/* --- as a guest
 * -------------------------------------------------------------------------------------------------------------- */

static bool use_svm, use_raw, use_low_tables;

/* A second level as many hypervisors build it: the first 512 GiB to themselves in pages of 2 MiB or, as here, 1 GiB;
 * one entry in the first table. The rights and the leaf bits are the only difference between EPT and nested paging. */
static uint64_t low_pml4[512] __attribute__((aligned(4096))), low_pdpt[512] __attribute__((aligned(4096)));

static void build_low_tables(uint64_t table, uint64_t leaf)
{
    memset(low_pml4, 0, sizeof low_pml4);
    low_pml4[0] = (size_t)low_pdpt | table;
    for (unsigned i = 0; i < 512; i++)
        low_pdpt[i] = (uint64_t)i << 30 | leaf;
}

static void begin_vmx(void)
{
    unsigned long long vmxon = (size_t)vmxon_page, vmcs = (size_t)vmcs_page;
    vmx_init_region(vmxon_page);
    vmx_init_region(vmcs_page);
    __writecr4(__readcr4() | CR4_VMXE_BIT);
    assert_int_equal(__vmx_on(&vmxon), 0);
    assert_int_equal(__vmx_vmclear(&vmcs), 0);
    assert_int_equal(__vmx_vmptrld(&vmcs), 0);
    vmx_host_and_guest(0, 0);
    __vmx_vmwrite(VMCS_PROC_CONTROLS, vmx_controls(VMX_MSR_TRUE_PROCBASED_CTLS,
                                                   VMX_PROC_ACTIVATE_SECONDARY_CONTROLS | VMX_PROC_HLT_EXITING));
    __vmx_vmwrite(VMCS_PROC2_CONTROLS,
                  vmx_controls(VMX_MSR_PROCBASED_CTLS2, VMX_PROC2_ENABLE_RDTSCP | VMX_PROC2_ENABLE_XSAVES));
    __vmx_vmwrite(VMCS_EXCEPTION_BITMAP, 1u << 14);
    if (use_low_tables) {
        build_low_tables(7, 7 | 6 << 3 | 1 << 7);
        __vmx_vmwrite(VMCS_EPT_POINTER, (size_t)low_pml4 | VMX_EPTP_WB | VMX_EPTP_WALK_4);
        __vmx_vmwrite(VMCS_PROC2_CONTROLS, vmx_field(VMCS_PROC2_CONTROLS) | VMX_PROC2_ENABLE_EPT);
    }
    __vmx_vmwrite(VMCS_HOST_RIP, (size_t)(use_raw ? identity_vm_exit_raw : identity_vm_exit));
    __vmx_vmwrite(VMCS_HOST_RSP, (size_t)(host_stack + sizeof host_stack));
    if (use_raw) /* cmocka has its own handlers around each test */
        assert_int_equal(vmenter_trap(true), VMENTER_OK);
    assert_int_equal(use_raw ? vmx_become_guest_raw() : vmx_become_guest(), 0);
}

static void begin_svm(void)
{
    unsigned char gdtr[10], idtr[10];
    _sgdt(gdtr);
    __sidt(idtr);
    __writemsr(SVM_MSR_EFER, __readmsr(SVM_MSR_EFER) | SVM_EFER_SVME);
    __writemsr(SVM_MSR_VM_HSAVE_PA, (size_t)hsave);
    memset(&vmcb, 0, sizeof vmcb);
    vmcb_set_intercept(&vmcb, SVM_EXIT_VMRUN);
    vmcb_set_intercept(&vmcb, SVM_EXIT_VMMCALL);
    vmcb_set_intercept(&vmcb, SVM_EXIT_CPUID);
    vmcb_set_intercept(&vmcb, SVM_EXIT_HLT);
    vmcb_set_intercept(&vmcb, SVM_EXIT_EXCEPTION + 14);
    vmcb.control.guest_asid = 1;
    if (use_low_tables) {
        build_low_tables(7, 7 | 1 << 7);
        vmcb.control.nested_ctl = VMCB_NP_ENABLE;
        vmcb.control.ncr3 = (size_t)low_pml4;
    }
    vmcb.save.cs = (struct vmcb_seg){.sel = _readcs(), .attrib = 0xa9b, .limit = ~0u};
    vmcb.save.ss = vmcb.save.ds = vmcb.save.es = (struct vmcb_seg){.sel = _readss(), .attrib = 0xc93, .limit = ~0u};
    memcpy(&vmcb.save.gdtr.base, gdtr + 2, 8);
    memcpy(&vmcb.save.idtr.base, idtr + 2, 8);
    vmcb.save.gdtr.limit = gdtr[0], vmcb.save.idtr.limit = 0xfff;
    vmcb.save.efer = __readmsr(SVM_MSR_EFER);
    vmcb.save.cr0 = __readcr0(), vmcb.save.cr3 = __readcr3(), vmcb.save.cr4 = __readcr4();
    vmcb.save.dr7 = 0x400, vmcb.save.dr6 = 0xffff0ff0;
    vmcb.save.rflags = 2;
    vmcb.save.g_pat = __readmsr(0x277);
    __svm_vmsave((size_t)&vmcb); /* FS, GS, TR, LDTR and the system-call registers */
    svm_become_guest(&vmcb, host_stack + sizeof host_stack);
}

static uint64_t call_vmm(uint64_t what, uint64_t b, uint64_t c)
{
    struct vmenter_regs r = {0};
    r.rax = what, r.rbx = b, r.rcx = c;
    if (use_svm)
        __svm_vmmcall(&r);
    else
        __vmx_vmcall(&r);
    return r.rax;
}

/* Runs the rest of the function as a guest until guest_end(). */
static void guest_begin(void)
{
    exits = cpuid_exits = 0;
    fault_vector = 0;
    recover_rip = 0;
    if (use_svm)
        begin_svm();
    else
        begin_vmx();
}

static void guest_end(void)
{
    call_vmm(CALL_SET_FREE, 0, 0);
}

static struct vmenter_machine *machine;
static unsigned more_flags;
static int set_up(bool svm)
{
    struct vmenter_config config = {.size = sizeof config,
                                    .model = svm ? "max-amd" : "max",
                                    .flags = VMENTER_IDENTITY | VMENTER_HOST_SYSCALLS | more_flags};
    char error[VMENTER_ERROR_MAX];
    use_svm = svm;
    if (vmenter_create(&config, &machine, error)) {
        fprintf(stderr, "%s\n", error);
        return -1;
    }
    return vmenter_bind(machine, 0);
}
static int set_up_vmx(void **state)
{
    return set_up(false);
}
static int set_up_raw(void **state)
{
    use_raw = true;
    return set_up(false);
}
static int set_up_svm(void **state)
{
    return set_up(true);
}
static int set_up_vmx_low(void **state)
{
    use_low_tables = true;
    return set_up(false);
}
static int set_up_svm_low(void **state)
{
    use_low_tables = true;
    return set_up(true);
}
static int set_up_vmx_exact(void **state)
{
    more_flags = VMENTER_EXACT_TABLES;
    return set_up_vmx_low(state);
}
static int set_up_svm_exact(void **state)
{
    more_flags = VMENTER_EXACT_TABLES;
    return set_up_svm_low(state);
}
static int tear_down(void **state)
{
    use_raw = use_low_tables = false;
    more_flags = 0;
    vmenter_destroy(machine);
    return 0;
}

/* --- what a guest does
 * ---------------------------------------------------------------------------------------------------------- */

static void test_calls(void **state)
{
    int native[4], info[4];
    __cpuidex(native, 0x40000000, 0);
    assert_true(native[1] != 0x12345678);
    guest_begin();
    __cpuidex(info, 0x40000000, 0);
    uint64_t sum = call_vmm(CALL_ADD, 40, 2);
    guest_end();
    assert_int_equal(info[1], 0x12345678);
    assert_int_equal(sum, 42);
    assert_int_equal(cpuid_exits, 1);
    __cpuidex(info, 0x40000000, 0); /* native again */
    assert_true(info[1] != 0x12345678);
    /* And a second time. */
    guest_begin();
    sum = call_vmm(CALL_ADD, 1, 2);
    guest_end();
    assert_int_equal(sum, 3);
}

static int compare_ints(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

static void test_libc(void **state)
{
    char text[200] = "";
    bool sorted = true;
    double value = 0;
    guest_begin();
    void *blocks[64];
    for (unsigned i = 0; i < 64; i++)
        blocks[i] = malloc(17u << i % 16);
    for (unsigned i = 0; i < 64; i += 2)
        free(blocks[i]);
    for (unsigned i = 1; i < 64; i += 2)
        free(blocks[i]);
    int *numbers = calloc(5000, sizeof *numbers);
    for (unsigned i = 0; i < 5000; i++)
        numbers[i] = (int)(i * 7919 % 5003);
    qsort(numbers, 5000, sizeof *numbers, compare_ints);
    for (unsigned i = 1; i < 5000; i++)
        sorted &= numbers[i - 1] <= numbers[i];
    free(numbers);
    snprintf(text, sizeof text, "%d %s %.3f", 42, "text", 1.5);
    value = strtod("3.25e2", NULL);
    guest_end();
    assert_string_equal(text, "42 text 1.500");
    assert_true(sorted && value == 325);
}

static void test_files_and_mappings(void **state)
{
    char name[] = "/tmp/vmenter-identity-XXXXXX", got[32] = "";
    unsigned char *p = NULL;
    int fd = -1, protect = -1;
    bool unmapped = false, mapped = false;
    guest_begin();
    fd = mkstemp(name);
    if (write(fd, "from a guest", 12) == 12 && pread(fd, got, sizeof got, 0) == 12)
        mapped = true;
    p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(p, 0x5a, 1 << 20);
    mapped &= p[(1 << 20) - 1] == 0x5a;
    protect = mprotect(p, 4096, PROT_READ);
    munmap(p + 8192, 4096);
    unmapped = true;
    close(fd);
    unlink(name);
    guest_end();
    assert_string_equal(got, "from a guest");
    assert_true(mapped && unmapped && protect == 0);
    munmap(p, 1 << 20);
}

/* The paging maps every address, and where the process has no page there is no memory: reads give ones, writes go
 * nowhere, and no signal comes of it. Addresses beyond the paging are the guest's page fault. */
static uint64_t __attribute__((noinline)) touch(volatile uint64_t *p, bool write)
{
    uint64_t v = 0;
    __asm__ volatile("lea 1f(%%rip), %%rax; mov %%rax, %[recover]\n\t"
                     "test %[write], %[write]; jnz 2f\n\t"
                     "mov (%[p]), %[v]; jmp 1f\n\t"
                     "2: movq $7, (%[p])\n\t"
                     "1: movq $0, %[recover]"
                     : [v] "+&r"(v), [recover] "+m"(recover_rip)
                     : [p] "r"(p), [write] "r"((int)write)
                     : "rax", "memory", "cc");
    return v;
}

/* What the process does not have is not present for its guest, what it may not write is read-only. */
struct wild {
    uint64_t value, address, error;
    unsigned vector;
};

static struct wild touch_wild(const void *p, bool write)
{
    struct wild w;
    fault_vector = 0;
    fault_address = fault_error = 0;
    w.value = touch((uint64_t *)(uintptr_t)p, write);
    w.vector = fault_vector, w.address = fault_address, w.error = fault_error;
    return w;
}

static void assert_fault(struct wild w, const void *p, unsigned error)
{
    assert_int_equal(w.vector, 14);
    assert_true(w.address == (uintptr_t)p);
    assert_int_equal(w.error, error);
}

static void test_wild_pointers(void **state)
{
    uint8_t *p = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    static const uintptr_t wild[] = {0, 0x10, 0x123456789000, 0x7ffffffff000, 0x7ffffffffff8, 0xffff800000001230};
    struct wild got[6], unmapped[2], readonly[3], after[2], gone;
    memset(p, 9, 16384);
    munmap(p + 8192, 4096);
    mprotect(p + 12288, 4096, PROT_READ);
    guest_begin();
    for (unsigned i = 0; i < 6; i++)
        got[i] = touch_wild((void *)wild[i], false);
    unmapped[0] = touch_wild(p + 8192, true);
    unmapped[1] = touch_wild(p + 8192, false);
    readonly[0] = touch_wild(p + 12288, false);
    readonly[1] = touch_wild(p + 12288, true);
    readonly[2] = touch_wild(p + 12288, false);
    after[0] = touch_wild(p + 4096, true);
    after[1] = touch_wild(p + 4096, false);
    mprotect(p + 12288, 4096, PROT_READ | PROT_WRITE); /* what the guest changes holds at once */
    munmap(p + 4096, 4096);
    struct wild now_writable = touch_wild(p + 12288, true);
    gone = touch_wild(p + 4096, false);
    guest_end();
    for (unsigned i = 0; i < 6; i++)
        assert_fault(got[i], (void *)wild[i], 0);
    assert_fault(unmapped[0], p + 8192, 2);
    assert_fault(unmapped[1], p + 8192, 0);
    assert_true(readonly[0].value == 0x0909090909090909ull && readonly[2].value == 0x0909090909090909ull);
    assert_int_equal(readonly[0].vector | readonly[2].vector, 0);
    assert_fault(readonly[1], p + 12288, 3);
    assert_int_equal(after[0].vector | after[1].vector | now_writable.vector, 0);
    assert_true(after[1].value == 7);
    assert_fault(gone, p + 4096, 0);
    munmap(p, 16384);
}

static void test_own_code(void **state)
{
    uint8_t *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned sum = 0;
    guest_begin();
    for (unsigned i = 0; i < 50; i++) {
        memcpy(code, "\xb8\0\0\0\0\xc3", 6);
        code[1] = (uint8_t)i;
        sum += ((unsigned (*)(void))(void *)code)();
    }
    guest_end();
    assert_int_equal(sum, 49 * 50 / 2);
    code[1] = 200; /* native code writes what the guest has executed */
    guest_begin();
    sum = ((unsigned (*)(void))(void *)code)();
    guest_end();
    assert_int_equal(sum, 200);
    munmap(code, 4096);
}

static void *thread_main(void *arg)
{
    int *n = arg;
    int info[4];
    struct vmenter_machine *m = vmenter_bound();
    (void)info;
    for (int i = 0; i < 1000; i++)
        free(malloc((size_t)i));
    *n += m ? 100 : 1; /* a thread that a guest makes is native, and bound to nothing */
    return n;
}

static void test_threads(void **state)
{
    int n = 41;
    void *result = NULL;
    pthread_t t;
    guest_begin();
    if (pthread_create(&t, NULL, thread_main, &n) == 0)
        pthread_join(t, &result);
    guest_end();
    assert_ptr_equal(result, &n);
    assert_int_equal(n, 42);
}

static void test_processes(void **state)
{
    int status = -1, status2 = -1, info[4];
    fflush(NULL);
    guest_begin();
    pid_t pid = fork();
    if (pid == 0) { /* still a guest, of the software processor's copy */
        __cpuidex(info, 0x40000000, 0);
        _exit(info[1] == 0x12345678 ? 7 : 8);
    }
    waitpid(pid, &status, 0);
    pid = vfork();
    if (pid == 0)
        _exit(9);
    waitpid(pid, &status2, 0);
    int status3 = system("exit 5"); /* posix_spawn: a child on a stack of its own */
    guest_end();
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    assert_true(WIFEXITED(status2) && WEXITSTATUS(status2) == 9);
    assert_true(WIFEXITED(status3) && WEXITSTATUS(status3) == 5);
}

static volatile int signals;
static void on_signal(int sig)
{
    signals++;
}

static void test_signals(void **state)
{
    signals = 0;
    guest_begin();
    signal(SIGUSR1, on_signal);
    for (unsigned i = 0; i < 10; i++)
        raise(SIGUSR1);
    guest_end();
    assert_int_equal(signals, 10);
}

static jmp_buf there;
static void test_longjmp(void **state)
{
    volatile int n = 0;
    guest_begin();
    if (setjmp(there) < 5) {
        n++;
        longjmp(there, n);
    }
    guest_end();
    assert_int_equal(n, 5);
}

/* arch_prctl of the guest moves the guest's segment bases; native code keeps its own. */
static void test_segment_bases(void **state)
{
    uint64_t gs = 1, want = 0, old = _readgsbase_u64();
    static uint64_t data[2] = {0x1122, 0x3344};
    guest_begin();
    syscall(158, 0x1001, data); /* ARCH_SET_GS */
    __asm__ volatile("mov %%gs:8, %0" : "=r"(want));
    syscall(158, 0x1004, &gs); /* ARCH_GET_GS */
    guest_end();
    assert_true(want == 0x3344);
    assert_true(gs == (uintptr_t)data);
    __writemsr(0xc0000101, old);
    errno = 5; /* TLS */
    assert_int_equal(errno, 5);
}

/* Intrinsics in a guest are the guest's instructions. */
static void test_intrinsics_in_a_guest(void **state)
{
    if (use_svm)
        skip();
    unsigned long long pa = (size_t)vmxon_page, msr;
    size_t reason[4];
    guest_begin();
    __vmx_on(&pa);
    reason[0] = last_reason;
    msr = __readmsr(0x1234);
    reason[1] = last_reason;
    __halt();
    reason[2] = last_reason;
    uint64_t flags = __readeflags(), cr0 = __readcr0(), t0 = __rdtsc(), t1 = __rdtsc();
    struct vmenter_regs regs = {0};
    enum vmenter_status busy = vmenter_bind(machine, 0);
    (void)regs;
    guest_end();
    assert_int_equal(reason[0], VMX_REASON_VMXON);
    assert_int_equal(reason[1], VMX_REASON_RDMSR);
    assert_true(msr == 0x6600000055ull);
    assert_int_equal(reason[2], VMX_REASON_HLT);
    assert_true((flags & 2) && (cr0 & 1) && t1 > t0);
    assert_int_equal(busy, VMENTER_EBUSY);
}

/* Ends as a guest. */
static void test_exit(void **state)
{
    int status;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        guest_begin();
        exit(33);
    }
    waitpid(pid, &status, 0);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 33);
}

/* Deep recursion: the main thread's stack grows under a guest too. */
static unsigned __attribute__((noinline)) recurse(unsigned n)
{
    volatile char room[4000];
    room[0] = (char)n;
    return n ? recurse(n - 1) + (unsigned)room[0] - (unsigned)room[0] + 1 : 0;
}

static void test_stack(void **state)
{
    unsigned depth;
    guest_begin();
    depth = recurse(900);
    guest_end();
    assert_int_equal(depth, 900);
}

/* The exit names the very address, whose 512 GiB have no table of their own. */
static void test_low_tables_permission(void **state)
{
    uint8_t *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct wild w;
    assert_true((uintptr_t)p >> 39);
    guest_begin();
    w = touch_wild(p, true);
    guest_end();
    assert_int_equal(w.vector, 0);
    assert_int_equal(p[0], 7);
    munmap(p, 4096);
}

/* Without the help it is the violation that a processor makes: at the first fetch from the program or its stack. */
static void test_exact_tables(void **state)
{
    int status = 0;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        fclose(stderr);
        guest_begin();
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 3); /* die(), with nowhere to write */
}

#define BOTH(test)                                                                                                     \
    cmocka_unit_test_setup_teardown(test, set_up_vmx, tear_down),                                                      \
        cmocka_unit_test_setup_teardown(test, set_up_svm, tear_down)

#define LOW(test)                                                                                                      \
    cmocka_unit_test_setup_teardown(test, set_up_vmx_low, tear_down),                                                  \
        cmocka_unit_test_setup_teardown(test, set_up_svm_low, tear_down)

#define EXACT(test)                                                                                                    \
    cmocka_unit_test_setup_teardown(test, set_up_vmx_exact, tear_down),                                                \
        cmocka_unit_test_setup_teardown(test, set_up_svm_exact, tear_down)

#define RAW(test) cmocka_unit_test_setup_teardown(test, set_up_raw, tear_down)

int main(int argc, char **argv)
{
    /* The guest's processor has no AVX: libc must not choose it. docs/INTRINSICS.md. */
    if (!getenv("GLIBC_TUNABLES")) {
        setenv("GLIBC_TUNABLES",
               "glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-AVX512CD,-AVX512DQ,-AVX_Fast_Unaligned_Load,-"
               "SSE4_2",
               1);
        execv("/proc/self/exe", argv);
    }
    const struct CMUnitTest tests[] = {
        BOTH(test_calls),
        BOTH(test_libc),
        BOTH(test_files_and_mappings),
        BOTH(test_wild_pointers),
        BOTH(test_own_code),
        BOTH(test_threads),
        BOTH(test_processes),
        BOTH(test_signals),
        BOTH(test_longjmp),
        BOTH(test_exit),
        BOTH(test_segment_bases),
        BOTH(test_intrinsics_in_a_guest),
        BOTH(test_stack),
        RAW(test_calls),
        RAW(test_libc),
        RAW(test_signals),
        RAW(test_threads),
        RAW(test_exit),
        LOW(test_libc),
        LOW(test_files_and_mappings),
        LOW(test_wild_pointers),
        LOW(test_signals),
        LOW(test_low_tables_permission),
        EXACT(test_exact_tables),
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
