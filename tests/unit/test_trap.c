/* SPDX-License-Identifier: MIT
 *
 * test_trap.c: VMX, SVM and privileged instructions that native code executes raw, caught and carried out on the bound
 * processor. Linux x86-64 alone.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <vmenter/svm.h>

#include "tests/unit/vmx_host.h"

#if defined(__linux__) && defined(__x86_64__)

#undef __vmx_on
#undef __vmx_vmclear
#undef __vmx_vmptrld
#undef __vmx_vmptrst
#undef __vmx_vmread
#undef vmenter_rdrand64_step
#undef vmenter_rdseed64_step
#define VMENTER_NATIVE_NAME(name)  VMENTER_NATIVE_NAME_(name)
#define VMENTER_NATIVE_NAME_(name) raw_##name
#include <vmenter/native.h>

#define NO_VECTOR 256
#define CODE_PA   0x8000ull
#define VMCB_PA   0x4000ull

struct fixture {
    struct vmenter_machine *m;
    unsigned vector, events;
    struct vmenter_event event;
};

static void on_event(void *opaque, const struct vmenter_event *event)
{
    struct fixture *f = opaque;
    f->vector = event->vector;
    f->event = *event;
    f->events++;
}

static struct fixture *start(const char *model)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct vmenter_config config = {.size = sizeof config, .model = model, .ram = 1 << 20};
    assert_int_equal(vmenter_create(&config, &f->m, NULL), VMENTER_OK);
    assert_int_equal(vmenter_bind(f->m, 0), VMENTER_OK);
    vmenter_set_event_handler(f->m, on_event, f);
    return f;
}
static int set_up_intel(void **state)
{
    *state = start("max");
    return 0;
}
static int set_up_amd(void **state)
{
    *state = start("max-amd");
    return 0;
}
static int tear_down(void **state)
{
    struct fixture *f = *state;
    vmenter_destroy(f->m);
    free(f);
    return 0;
}

/* cmocka installs its own handlers around each test. */
static struct fixture *trapping(void **state)
{
    assert_int_equal(vmenter_trap(true), VMENTER_OK);
    return *state;
}

#define EVENT_OF(f, expression) ((f)->vector = NO_VECTOR, (void)(expression), (f)->vector)

static void test_registers(void **state)
{
    struct fixture *f = trapping(state);
    raw___writemsr(0x277, 0x0606060606060606ull);
    assert_true(raw___readmsr(0x277) == 0x0606060606060606ull && __readmsr(0x277) == 0x0606060606060606ull);
    assert_int_equal(EVENT_OF(f, raw___readmsr(0xdeadbeef)), 13);
    assert_string_equal(f->event.intrinsic, "__readmsr");

    assert_true(raw___readcr0() == __readcr0());
    raw___writecr2(0x1234);
    assert_true(raw___readcr2() == 0x1234);
    raw___writecr3(raw___readcr3());
    raw___writecr4(raw___readcr4() | CR4_VMXE_BIT);
    assert_true(__readcr4() & CR4_VMXE_BIT);
    assert_int_equal(EVENT_OF(f, raw___writecr4(raw___readcr4() & ~0x20ull)), 13);
    raw___writecr8(3);
    assert_int_equal(raw___readcr8(), 3);
    raw___writecr8(0);
    raw___writedr(1, 0x5555);
    assert_true(raw___readdr(1) == 0x5555 && __readdr(1) == 0x5555);
    raw__enable();
    assert_true(__readeflags() & 0x200);
    raw__disable();
    assert_false(__readeflags() & 0x200);
    raw_vmenter_xsetbv(0, 3);
    assert_int_equal(EVENT_OF(f, raw_vmenter_xsetbv(0, 2)), 13);
    raw___invlpg((void *)0x1000);
    raw___wbinvd();
    assert_int_equal(EVENT_OF(f, raw___readpmc(0x7fffffff)), 13);
}

static void test_tables(void **state)
{
    struct fixture *f = trapping(state);
    struct __attribute__((packed)) {
        uint16_t limit;
        uint64_t base;
    } t = {0x123, 0x5678}, got;
    raw___lidt(&t);
    __sidt(&got);
    assert_true(got.limit == 0x123 && got.base == 0x5678);
    t.base = 1ull << 60;
    assert_int_equal(EVENT_OF(f, raw__lgdt(&t)), 13);
    _sgdt(&got);
    uint64_t *table = vmenter_host_ptr(f->m, 0x6000, 4096);
    memcpy(table, vmenter_host_ptr(f->m, got.base, 0x50), 0x50);
    table[8] &= ~(1ull << 41);
    t.base = 0x6000;
    t.limit = 0x4f;
    raw__lgdt(&t);
    raw_vmenter_ltr(0x40);
    assert_true(table[8] >> 41 & 1);
    assert_int_equal(EVENT_OF(f, raw_vmenter_ltr(0x40)), 13); /* busy */
    assert_int_equal(f->event.error_code, 0x40);
    raw_vmenter_lldt(0);
}

static uint32_t last_value;
static uint32_t port_in(void *opaque, uint16_t port, unsigned size)
{
    return 0x12345678 + port;
}
static void port_out(void *opaque, uint16_t port, unsigned size, uint32_t value)
{
    last_value = value + port;
}

static void test_ports(void **state)
{
    struct fixture *f = trapping(state);
    struct vmenter_port_ops ops = {port_in, port_out};
    vmenter_set_ports(f->m, &ops, NULL);
    assert_int_equal(raw___inbyte(1), 0x79);
    assert_int_equal(raw___inword(1), 0x5679);
    assert_int_equal(raw___indword(0x1000), 0x12346678);
    raw___outdword(5, 0x1000);
    assert_int_equal(last_value, 0x1005);
    raw___outbyte(0x80, 0xff);
    assert_int_equal(last_value, 0x17f);
    uint32_t words[4] = {0};
    raw___indwordstring(2, words, 3);
    assert_true(words[0] == 0x1234567a && words[2] == 0x1234567a && words[3] == 0);
    words[2] = 7;
    raw___outdwordstring(1, words, 3);
    assert_int_equal(last_value, 8);
    assert_int_equal(f->events, 0);
}

static void test_halt(void **state)
{
    struct fixture *f = trapping(state);
    raw___writemsr(0x1b, __readmsr(0x1b) | 0xc00);
    raw___writemsr(0x80f, 0x1ff);
    raw___writemsr(0x83e, 0xb);
    raw___writemsr(0x832, 0x61);
    raw__enable();
    raw___writemsr(0x838, 1000000);
    raw___halt();
    assert_int_equal(f->events, 1);
    assert_true(f->event.is_interrupt && f->event.vector == 0x61);
}

/* A VMM's own assembly with bare instructions: GPRs through VMLAUNCH and VMRESUME, HOST_RIP and HOST_RSP. */
int raw_launch(int resume, uint64_t *rbx, uint64_t *r15);
__asm__(".text\n.globl raw_launch\nraw_launch:\n"
        "  push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15; push %rsi; push %rdx\n"
        "  mov $0x6c14, %eax; vmwrite %rsp, %rax; jbe 2f\n"
        "  lea 1f(%rip), %rcx; mov $0x6c16, %eax; vmwrite %rcx, %rax; jbe 2f\n"
        "  mov (%rsi), %rbx; mov (%rdx), %r15\n"
        "  test %edi, %edi; jnz 3f\n"
        "  vmlaunch; jmp 2f\n"
        "3: vmresume\n"
        "2: mov $1, %eax; jz 4f; mov $2, %eax; jc 4f; mov $3, %eax\n"
        "4: pop %rdx; pop %rsi; jmp 5f\n"
        "1: pop %rdx; pop %rsi; mov %rbx, (%rsi); mov %r15, (%rdx); xor %eax, %eax\n"
        "5: pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp; ret\n");

static void test_vmx(void **state)
{
    struct fixture *f = trapping(state);
    unsigned long long pa = 0x1000;
    size_t v = 0;
    vmx_init_region(vmenter_host_ptr(f->m, 0x1000, 4096));
    vmx_init_region(vmenter_host_ptr(f->m, 0x2000, 4096));
    f->vector = NO_VECTOR;
    assert_int_equal(raw___vmx_on(&pa), 2); /* CR4.VMXE = 0 */
    assert_int_equal(f->vector, 6);
    raw___writecr4(raw___readcr4() | CR4_VMXE_BIT);
    f->events = 0;
    assert_int_equal(raw___vmx_on(&pa), 0);
    pa = 0x2000;
    assert_int_equal(raw___vmx_vmread(VMCS_GUEST_RIP, &v), 2);
    assert_int_equal(raw___vmx_vmclear(&pa), 0);
    assert_int_equal(raw___vmx_vmptrld(&pa), 0);
    pa = 0;
    raw___vmx_vmptrst(&pa);
    assert_true(pa == 0x2000);
    assert_int_equal(raw___vmx_vmwrite(VMCS_GUEST_RIP, 0x1234), 0);
    assert_int_equal(raw___vmx_vmread(VMCS_GUEST_RIP, &v), 0);
    assert_true(v == 0x1234);
    assert_int_equal(raw___vmx_vmwrite(0x3ffe, 1), 1);
    unsigned long long d[2] = {0, 0};
    assert_int_equal(raw_vmenter_vmx_invept(2, d), 0);
    assert_int_equal(raw_vmenter_vmx_invvpid(9, d), 1);
    assert_int_equal(f->events, 0);

    vmx_host_and_guest(CODE_PA, 0x9000);
    memcpy(vmenter_host_ptr(f->m, CODE_PA, 16), "\x4c\x01\xfb\xf4\xeb\xfa", 6); /* add rbx, r15; hlt; jmp back */
    uint64_t rbx = 40, r15 = 2;
    assert_int_equal(raw_launch(1, &rbx, &r15), 1);
    assert_int_equal(vmx_field(VMCS_VM_INSTRUCTION_ERROR), VMX_ERR_VMRESUME_NONLAUNCHED);
    assert_int_equal(raw_launch(0, &rbx, &r15), 0);
    assert_true(rbx == 42 && r15 == 2 && vmx_field(VMCS_EXIT_REASON) == VMX_REASON_HLT);
    for (unsigned i = 0; i < 100; i++) {
        __vmx_vmwrite(VMCS_GUEST_RIP, vmx_field(VMCS_GUEST_RIP) + 1);
        assert_int_equal(raw_launch(1, &rbx, &r15), 0);
    }
    assert_true(rbx == 242);
    raw___vmx_off();
    assert_int_equal(EVENT_OF(f, raw___vmx_off()), 6);
}

static void test_svm(void **state)
{
    struct fixture *f = trapping(state);
    assert_int_equal(EVENT_OF(f, raw___svm_vmsave(VMCB_PA)), 6);
    raw___writemsr(SVM_MSR_EFER, raw___readmsr(SVM_MSR_EFER) | SVM_EFER_SVME);
    raw___writemsr(SVM_MSR_VM_HSAVE_PA, 0x5000);
    f->events = 0;
    struct vmcb *v = vmenter_host_ptr(f->m, VMCB_PA, 4096);
    vmcb_set_intercept(v, SVM_EXIT_VMRUN);
    vmcb_set_intercept(v, SVM_EXIT_HLT);
    v->control.guest_asid = 1;
    v->save.cs = v->save.ds = v->save.es = v->save.ss =
        (struct vmcb_seg){.attrib = 0x93, .limit = 0xffff, .base = CODE_PA};
    v->save.cs.attrib = 0x9b;
    v->save.efer = SVM_EFER_SVME;
    v->save.cr0 = 0x10;
    v->save.rflags = 2;
    memcpy(vmenter_host_ptr(f->m, CODE_PA, 16), "\xbb\x34\x12\xf4", 4); /* mov bx, 0x1234; hlt */
    raw___svm_clgi();
    raw___svm_vmload(VMCB_PA);
    for (unsigned i = 0; i < 100; i++) {
        v->save.rip = 0;
        v->save.rax = i;
        v->control.exitcode = 0;
        raw___svm_vmrun(VMCB_PA);
        assert_true(v->control.exitcode == SVM_EXIT_HLT && v->save.rip == 3 && v->save.rax == i);
    }
    raw___svm_vmsave(VMCB_PA);
    raw___svm_invlpga(NULL, 1);
    raw___svm_stgi();
    assert_int_equal(f->events, 0);
    assert_int_equal(EVENT_OF(f, raw___svm_vmrun(VMCB_PA + 1)), 13);
}

/* Every register that the instruction does not write is kept: vector and x87 registers too, also over an event. */
static void test_other_registers(void **state)
{
    struct fixture *f = trapping(state);
    static const uint32_t msrs[] = {0xc0000080, 0xdeadbeef};
    for (unsigned i = 0; i < 2; i++) {
        uint8_t in[64], out[64] = {0};
        double st0 = 0;
        memset(in, 0x37, sizeof in);
        uint64_t r15 = 0x123456789abcdef, flags = 0;
        __asm__ volatile("movdqu (%[in]), %%xmm0; movdqu (%[in]), %%xmm7; movdqu (%[in]), %%xmm15\n\t"
                         "fldpi; stc\n\t"
                         "rdmsr\n\t"
                         "sbb %[flags], %[flags]\n\t"
                         "movdqu %%xmm0, (%[out]); movdqu %%xmm7, 16(%[out]); movdqu %%xmm15, 32(%[out])\n\t"
                         "fstpl %[st0]"
                         : [st0] "=m"(st0), [r15] "+r"(r15), [flags] "+r"(flags)
                         : [in] "r"(in), [out] "r"(out), "c"(msrs[i])
                         : "rax", "rdx", "xmm0", "xmm7", "xmm15", "memory", "cc");
        assert_memory_equal(in, out, 48);
        assert_true(st0 > 3.14159 && st0 < 3.1416);
        assert_true(r15 == 0x123456789abcdef && flags == ~0ull);
        assert_int_equal(f->events, i);
    }
}

/* A fault of another kind goes where it went before. */
static sigjmp_buf escape;
static void older_handler(int sig, siginfo_t *info, void *context)
{
    siglongjmp(escape, info->si_addr == (void *)16 ? 2 : 1);
}

static void test_chain(void **state)
{
    struct fixture *f = trapping(state);
    struct sigaction sa = {.sa_sigaction = older_handler, .sa_flags = SA_SIGINFO}, was;
    assert_int_equal(vmenter_trap(false), VMENTER_OK);
    sigaction(SIGSEGV, &sa, &was);
    assert_int_equal(vmenter_trap(true), VMENTER_OK);
    int v = sigsetjmp(escape, 1);
    if (!v) {
        *(volatile int *)(uintptr_t)strtoul("16", NULL, 10) = 1;
        fail();
    }
    assert_int_equal(v, 2);
    raw___readcr0(); /* still caught */
    assert_int_equal(vmenter_trap(false), VMENTER_OK);
    v = sigsetjmp(escape, 1);
    if (!v) {
        raw___readcr0();
        fail();
    }
    assert_int_equal(v, 1);
    sigaction(SIGSEGV, &was, NULL);
    assert_int_equal(f->events, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_registers, set_up_intel, tear_down),
        cmocka_unit_test_setup_teardown(test_tables, set_up_intel, tear_down),
        cmocka_unit_test_setup_teardown(test_ports, set_up_intel, tear_down),
        cmocka_unit_test_setup_teardown(test_halt, set_up_intel, tear_down),
        cmocka_unit_test_setup_teardown(test_vmx, set_up_intel, tear_down),
        cmocka_unit_test_setup_teardown(test_svm, set_up_amd, tear_down),
        cmocka_unit_test_setup_teardown(test_other_registers, set_up_intel, tear_down),
        cmocka_unit_test_setup_teardown(test_chain, set_up_intel, tear_down),
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
