/* SPDX-License-Identifier: MIT
 *
 * test_intrin.c: the intrinsics, hosted: every documented result of the sixteen, launch-state sequences, faults,
 * general registers across entries and exits, interrupts of the host.
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <vmenter/svm.h>

#include "src/machine/machine.h"
#include "tests/unit/vmx_host.h"

#define VMXON_PA  0x1000ull
#define VMCS_PA   0x2000ull
#define VMCS2_PA  0x3000ull
#define CODE_PA   0x8000ull
#define STACK_PA  0xa000ull
#define VMCB_PA   0x4000ull
#define HSAVE_PA  0x5000ull
#define NO_VECTOR 256

struct fixture {
    struct vmenter_machine *m;
    unsigned vector; /* of the last event; NO_VECTOR: none */
    unsigned events;
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
    char error[VMENTER_ERROR_MAX];
    assert_int_equal(vmenter_create(&config, &f->m, error), VMENTER_OK);
    assert_int_equal(vmenter_bind(f->m, 0), VMENTER_OK);
    vmenter_set_event_handler(f->m, on_event, f);
    f->vector = NO_VECTOR;
    return f;
}

static int set_up_intel(void **state)
{
    struct fixture *f = start("max");
    *state = f;
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

/* The event that the expression raised, or NO_VECTOR. */
#define EVENT_OF(f, expression) ((f)->vector = NO_VECTOR, (void)(expression), (f)->vector)

static void *at(struct fixture *f, uint64_t pa)
{
    return vmenter_host_ptr(f->m, pa, 4096);
}

/* VMX operation, no current VMCS. */
static void vmx_begin(struct fixture *f)
{
    unsigned long long pa = VMXON_PA;
    vmx_init_region(at(f, VMXON_PA));
    vmx_init_region(at(f, VMCS_PA));
    vmx_init_region(at(f, VMCS2_PA));
    __writecr4(__readcr4() | CR4_VMXE_BIT);
    assert_int_equal(__vmx_on(&pa), 0);
    assert_int_equal(f->events, 0);
}

static void vmx_current(uint64_t pa)
{
    unsigned long long p = pa;
    assert_int_equal(__vmx_vmclear(&p), 0);
    assert_int_equal(__vmx_vmptrld(&p), 0);
}

static size_t vmx_error(void)
{
    return vmx_field(VMCS_VM_INSTRUCTION_ERROR);
}

/* --- VMX instructions
 * --------------------------------------------------------------------------------------------------- */

static void test_vmxon(void **state)
{
    struct fixture *f = *state;
    unsigned long long pa = VMXON_PA;
    vmx_init_region(at(f, VMXON_PA));

    f->vector = NO_VECTOR;
    assert_int_equal(__vmx_on(&pa), 2); /* CR4.VMXE = 0 */
    assert_int_equal(f->vector, 6);
    assert_string_equal(f->event.intrinsic, "__vmx_on");
    assert_non_null(strstr(f->event.rule, "CR4.VMXE"));

    __writecr4(__readcr4() | CR4_VMXE_BIT);
    struct cpu *c = machine_binding->cpu;
    uint64_t control = c->msr.feature_control;
    c->msr.feature_control = 1; /* locked without VMX outside SMX */
    assert_int_equal(EVENT_OF(f, __vmx_on(&pa)), 13);
    c->msr.feature_control = 4; /* not locked */
    assert_int_equal(EVENT_OF(f, __vmx_on(&pa)), 13);
    c->msr.feature_control = control;

    static const unsigned long long bad[] = {VMXON_PA + 8, 1ull << 52, 0x6000 /* revision 0 */};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        pa = bad[i];
        f->vector = NO_VECTOR;
        assert_int_equal(__vmx_on(&pa), 2);
        assert_int_equal(f->vector, NO_VECTOR);
    }
    pa = VMXON_PA;
    assert_int_equal(__vmx_on(&pa), 0);
    assert_int_equal(__vmx_on(&pa), 2); /* in VMX root operation, no current VMCS: VMfailInvalid */
    vmx_init_region(at(f, VMCS_PA));
    vmx_current(VMCS_PA);
    assert_int_equal(__vmx_on(&pa), 1);
    assert_int_equal(vmx_error(), VMX_ERR_VMXON_IN_VMX_ROOT);
}

static void test_vmxoff(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(EVENT_OF(f, __vmx_off()), 6);
    f->events = 0;
    vmx_begin(f);
    assert_int_equal(EVENT_OF(f, __vmx_off()), NO_VECTOR);
    assert_int_equal(EVENT_OF(f, __vmx_off()), 6);
}

/* Outside VMX operation every VMX instruction is #UD, and gives 2 where it gives anything. */
static void test_vmx_outside(void **state)
{
    struct fixture *f = *state;
    unsigned long long pa = VMCS_PA, d[2] = {0, 0};
    size_t v = 7;
    assert_int_equal(EVENT_OF(f, assert_int_equal(__vmx_vmclear(&pa), 2)), 6);
    assert_int_equal(EVENT_OF(f, assert_int_equal(__vmx_vmptrld(&pa), 2)), 6);
    assert_int_equal(EVENT_OF(f, __vmx_vmptrst(&pa)), 6);
    assert_int_equal(pa, VMCS_PA);
    assert_int_equal(EVENT_OF(f, assert_int_equal(__vmx_vmread(VMCS_GUEST_RIP, &v), 2)), 6);
    assert_int_equal(v, 7);
    assert_int_equal(EVENT_OF(f, assert_int_equal(__vmx_vmwrite(VMCS_GUEST_RIP, 0), 2)), 6);
    assert_int_equal(EVENT_OF(f, assert_int_equal(__vmx_vmlaunch(), 2)), 6);
    assert_int_equal(EVENT_OF(f, assert_int_equal(__vmx_vmresume(), 2)), 6);
    assert_int_equal(EVENT_OF(f, assert_int_equal(__vmx_invept(2, d), 2)), 6);
    assert_int_equal(EVENT_OF(f, assert_int_equal(__vmx_invvpid(2, d), 2)), 6);
    assert_int_equal(EVENT_OF(f, __vmx_vmfunc(0, 0)), 6);
    struct vmenter_regs regs = {0};
    assert_int_equal(EVENT_OF(f, assert_int_equal(__vmx_vmcall(&regs), 2)), 6);
    assert_int_equal(EVENT_OF(f, assert_int_equal(vmenter_vmlaunch(&regs), 2)), 6);
    assert_int_equal(EVENT_OF(f, assert_int_equal(vmenter_vmresume(&regs), 2)), 6);
}

static void test_vmclear_vmptrld_vmptrst(void **state)
{
    struct fixture *f = *state;
    vmx_begin(f);
    unsigned long long pa = 1;
    __vmx_vmptrst(&pa);
    assert_true(pa == ~0ull);

    /* No current VMCS: 2. */
    pa = VMCS_PA + 1;
    assert_int_equal(__vmx_vmclear(&pa), 2);
    assert_int_equal(__vmx_vmptrld(&pa), 2);
    pa = VMXON_PA;
    assert_int_equal(__vmx_vmclear(&pa), 2);
    assert_int_equal(__vmx_vmptrld(&pa), 2);

    vmx_current(VMCS_PA);
    pa = 0;
    __vmx_vmptrst(&pa);
    assert_true(pa == VMCS_PA);

    /* A current VMCS: 1, and why. */
    pa = VMCS_PA + 1;
    assert_int_equal(__vmx_vmclear(&pa), 1);
    assert_int_equal(vmx_error(), VMX_ERR_VMCLEAR_INVALID_ADDRESS);
    assert_int_equal(__vmx_vmptrld(&pa), 1);
    assert_int_equal(vmx_error(), VMX_ERR_VMPTRLD_INVALID_ADDRESS);
    pa = 1ull << 52;
    assert_int_equal(__vmx_vmclear(&pa), 1);
    assert_int_equal(vmx_error(), VMX_ERR_VMCLEAR_INVALID_ADDRESS);
    assert_int_equal(__vmx_vmptrld(&pa), 1);
    assert_int_equal(vmx_error(), VMX_ERR_VMPTRLD_INVALID_ADDRESS);
    pa = VMXON_PA;
    assert_int_equal(__vmx_vmclear(&pa), 1);
    assert_int_equal(vmx_error(), VMX_ERR_VMCLEAR_VMXON_POINTER);
    assert_int_equal(__vmx_vmptrld(&pa), 1);
    assert_int_equal(vmx_error(), VMX_ERR_VMPTRLD_VMXON_POINTER);
    pa = 0x6000; /* revision 0 */
    assert_int_equal(__vmx_vmptrld(&pa), 1);
    assert_int_equal(vmx_error(), VMX_ERR_VMPTRLD_INCORRECT_REVISION);

    /* A VMCLEAR of another VMCS leaves the current one; of the current one leaves none. */
    pa = VMCS2_PA;
    assert_int_equal(__vmx_vmclear(&pa), 0);
    __vmx_vmptrst(&pa);
    assert_true(pa == VMCS_PA);
    assert_int_equal(__vmx_vmclear(&pa), 0);
    __vmx_vmptrst(&pa);
    assert_true(pa == ~0ull);
    assert_int_equal(f->events, 0);
}

static void test_vmread_vmwrite(void **state)
{
    struct fixture *f = *state;
    vmx_begin(f);
    size_t v = 7;
    assert_int_equal(__vmx_vmread(VMCS_GUEST_RIP, &v), 2);
    assert_int_equal(v, 7);
    assert_int_equal(__vmx_vmwrite(VMCS_GUEST_RIP, 1), 2);

    vmx_current(VMCS_PA);
    assert_int_equal(__vmx_vmwrite(VMCS_GUEST_RIP, 0x123456789abcull), 0);
    assert_int_equal(__vmx_vmread(VMCS_GUEST_RIP, &v), 0);
    assert_true(v == 0x123456789abcull);
    v = 7;
    assert_int_equal(__vmx_vmread(0x3ffe, &v), 1);
    assert_int_equal(v, 7); /* the destination stays */
    assert_int_equal(vmx_error(), VMX_ERR_UNSUPPORTED_COMPONENT);
    assert_int_equal(__vmx_vmwrite(0x3ffe, 0), 1);
    assert_int_equal(vmx_error(), VMX_ERR_UNSUPPORTED_COMPONENT);
    assert_int_equal(__vmx_vmread((size_t)1 << 32 | VMCS_GUEST_RIP, &v), 1); /* bits 63:32 of the encoding */

    /* Each VMCS has its own fields. */
    unsigned long long pa = VMCS2_PA;
    assert_int_equal(__vmx_vmclear(&pa), 0);
    assert_int_equal(__vmx_vmptrld(&pa), 0);
    assert_int_equal(__vmx_vmwrite(VMCS_GUEST_RIP, 5), 0);
    pa = VMCS_PA;
    assert_int_equal(__vmx_vmptrld(&pa), 0);
    assert_true(vmx_field(VMCS_GUEST_RIP) == 0x123456789abcull);
    assert_int_equal(f->events, 0);
}

static int set_up_penryn(void **state)
{
    *state = start("penryn");
    return 0;
}

/* A processor without "VMWRITE to any field": read-only fields are. */
static void test_vmwrite_read_only(void **state)
{
    struct fixture *f = *state;
    vmx_begin(f);
    vmx_current(VMCS_PA);
    assert_int_equal(__vmx_vmwrite(VMCS_EXIT_REASON, 0), 1);
    assert_int_equal(vmx_error(), VMX_ERR_READ_ONLY_COMPONENT);
    /* No EPT, no VPID: their invalidations are #UD. */
    unsigned long long d[2] = {0, 0};
    assert_int_equal(EVENT_OF(f, __vmx_invept(2, d)), 6);
    assert_int_equal(EVENT_OF(f, __vmx_invvpid(2, d)), 6);
}

static void test_invalidations(void **state)
{
    struct fixture *f = *state;
    vmx_begin(f);
    unsigned long long d[2] = {0, 0};
    assert_int_equal(__vmx_invept(7, d), 2);
    vmx_current(VMCS_PA);
    assert_int_equal(__vmx_invept(2, d), 0);
    assert_int_equal(__vmx_invept(7, d), 1);
    assert_int_equal(vmx_error(), VMX_ERR_INVALID_OPERAND);
    assert_int_equal(__vmx_invvpid(2, d), 0);
    assert_int_equal(__vmx_invvpid(1, d), 1); /* VPID 0 */
    d[0] = 1;
    assert_int_equal(__vmx_invvpid(1, d), 0);
    assert_int_equal(__vmx_invvpid(9, d), 1);
    assert_int_equal(vmx_error(), VMX_ERR_INVALID_OPERAND);
    struct vmenter_regs regs = {0};
    assert_int_equal(__vmx_vmcall(&regs), 1); /* no dual-monitor treatment */
    assert_int_equal(f->events, 0);
}

/* --- entries
 * -------------------------------------------------------------------------------------------------------------- */

static void guest_code(struct fixture *f, const void *code, size_t len)
{
    memcpy(at(f, CODE_PA), code, len);
}

static void prepare(struct fixture *f, const void *code, size_t len)
{
    vmx_begin(f);
    vmx_current(VMCS_PA);
    vmx_host_and_guest(CODE_PA, STACK_PA);
    guest_code(f, code, len);
}

static void skip_instruction(void)
{
    __vmx_vmwrite(VMCS_GUEST_RIP, vmx_field(VMCS_GUEST_RIP) + vmx_field(VMCS_EXIT_INSTRUCTION_LENGTH));
}

static const uint8_t hlt_hlt[] = {0xf4, 0xf4, 0xf4, 0xf4};

/* VMLAUNCH from Clear alone, VMRESUME from Launched alone; VMCLEAR makes Clear again. */
static void test_launch_states(void **state)
{
    struct fixture *f = *state;
    struct vmenter_regs regs = {0};
    vmx_begin(f);
    assert_int_equal(vmenter_vmlaunch(&regs), 2); /* no current VMCS */
    assert_int_equal(vmenter_vmresume(&regs), 2);
    assert_int_equal(__vmx_vmlaunch(), 2);
    assert_int_equal(__vmx_vmresume(), 2);

    vmx_current(VMCS_PA);
    vmx_host_and_guest(CODE_PA, STACK_PA);
    guest_code(f, hlt_hlt, sizeof hlt_hlt);
    assert_int_equal(vmenter_vmresume(&regs), 1);
    assert_int_equal(vmx_error(), VMX_ERR_VMRESUME_NONLAUNCHED);
    assert_int_equal(__vmx_vmresume(), 1);
    assert_int_equal(vmx_error(), VMX_ERR_VMRESUME_NONLAUNCHED);

    assert_int_equal(vmenter_vmlaunch(&regs), 0);
    assert_int_equal(vmx_field(VMCS_EXIT_REASON), VMX_REASON_HLT);
    skip_instruction();
    assert_int_equal(vmenter_vmlaunch(&regs), 1);
    assert_int_equal(vmx_error(), VMX_ERR_VMLAUNCH_NONCLEAR);
    assert_int_equal(__vmx_vmlaunch(), 1);
    assert_int_equal(vmx_error(), VMX_ERR_VMLAUNCH_NONCLEAR);
    assert_int_equal(vmenter_vmresume(&regs), 0);
    assert_int_equal(vmx_field(VMCS_EXIT_REASON), VMX_REASON_HLT);
    assert_true(vmx_field(VMCS_GUEST_RIP) == CODE_PA + 1);

    /* VMPTRLD keeps the launch state, VMCLEAR resets it. */
    unsigned long long pa = VMCS_PA;
    assert_int_equal(__vmx_vmptrld(&pa), 0);
    assert_int_equal(vmenter_vmlaunch(&regs), 1);
    assert_int_equal(__vmx_vmclear(&pa), 0);
    assert_int_equal(__vmx_vmptrld(&pa), 0);
    assert_int_equal(vmenter_vmresume(&regs), 1);
    assert_int_equal(vmenter_vmlaunch(&regs), 0);
    assert_int_equal(f->events, 0);
}

static void test_failed_entries(void **state)
{
    struct fixture *f = *state;
    struct vmenter_regs regs = {0};
    char text[2048];
    prepare(f, hlt_hlt, sizeof hlt_hlt);
    size_t pin = vmx_field(VMCS_PIN_CONTROLS);

    regs.rbx = 77;
    __vmx_vmwrite(VMCS_PIN_CONTROLS, 0);
    assert_int_equal(vmenter_vmlaunch(&regs), 1);
    assert_int_equal(regs.rbx, 77);
    assert_int_equal(vmx_error(), VMX_ERR_ENTRY_INVALID_CONTROLS);
    assert_true(vmenter_explain_entry(text, sizeof text) > 0);
    __vmx_vmwrite(VMCS_PIN_CONTROLS, pin);

    __vmx_vmwrite(VMCS_HOST_TR_SELECTOR, 0);
    assert_int_equal(vmenter_vmlaunch(&regs), 1);
    assert_int_equal(vmx_error(), VMX_ERR_ENTRY_INVALID_HOST_STATE);
    __vmx_vmwrite(VMCS_HOST_TR_SELECTOR, _str());

    /* Invalid guest state is a VM exit, and the launch state stays Clear. */
    __vmx_vmwrite(VMCS_GUEST_RFLAGS, 0);
    assert_int_equal(vmenter_vmlaunch(&regs), 0);
    assert_int_equal(vmx_field(VMCS_EXIT_REASON), (VMX_REASON_ENTRY_FAILURE | VMX_REASON_ENTRY_FAILURE_GUEST_STATE));
    __vmx_vmwrite(VMCS_GUEST_RFLAGS, 2);
    assert_int_equal(vmenter_vmlaunch(&regs), 0);
    assert_int_equal(vmx_field(VMCS_EXIT_REASON), VMX_REASON_HLT);
    assert_int_equal(vmenter_explain_entry(text, sizeof text), 0);
}

/* Every general register reaches the guest and comes back. */
static void test_block(void **state)
{
    struct fixture *f = *state;
    /* xchg rax,rbx; xchg rcx,rdx; xchg rsi,rdi; xchg r8,r15; inc rbp; not r9..r14; hlt */
    static const uint8_t code[] = {0x48, 0x93, 0x48, 0x87, 0xca, 0x48, 0x87, 0xf7, 0x4d, 0x87, 0xc7,
                                   0x48, 0xff, 0xc5, 0x49, 0xf7, 0xd1, 0x49, 0xf7, 0xd2, 0x49, 0xf7,
                                   0xd3, 0x49, 0xf7, 0xd4, 0x49, 0xf7, 0xd5, 0x49, 0xf7, 0xd6, 0xf4};
    prepare(f, code, sizeof code);
    struct vmenter_regs r;
    for (unsigned i = 0; i < 16; i++)
        r.reg[i] = 0x1111111111111111ull * i + 3;
    struct vmenter_regs was = r;
    assert_int_equal(vmenter_vmlaunch(&r), 0);
    assert_int_equal(vmx_field(VMCS_EXIT_REASON), VMX_REASON_HLT);
    assert_true(r.rax == was.rbx && r.rbx == was.rax && r.rcx == was.rdx && r.rdx == was.rcx && r.rsi == was.rdi &&
                r.rdi == was.rsi && r.r8 == was.r15 && r.r15 == was.r8 && r.rbp == was.rbp + 1);
    for (unsigned i = 9; i < 15; i++)
        assert_true(r.reg[i] == ~was.reg[i]);
    assert_true(r.rsp_unused == was.rsp_unused);
    assert_int_equal(f->events, 0);
}

#if defined(__x86_64__)
/* A VMM's own assembly: all registers loaded, then a call of the plain intrinsic; the exit stub stores them all.
 * in, out: 16 values by encoding. Returns -1 after a VM exit, else what the intrinsic left in AL. */
int plain_enter(int resume, const uint64_t *in, uint64_t *out);
extern const char plain_exit[];
__asm__(".text\n"
        ".globl plain_enter\n"
        "plain_enter:\n"
        "  push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15\n"
        "  push %rdx\n" /* out */
        "  mov %rsi, %rax\n"
        "  test %edi, %edi\n"
        "  mov 8(%rax), %rcx; mov 16(%rax), %rdx; mov 24(%rax), %rbx; mov 40(%rax), %rbp; mov 48(%rax), %rsi\n"
        "  mov 56(%rax), %rdi; mov 64(%rax), %r8; mov 72(%rax), %r9; mov 80(%rax), %r10; mov 88(%rax), %r11\n"
        "  mov 96(%rax), %r12; mov 104(%rax), %r13; mov 112(%rax), %r14; mov 120(%rax), %r15; mov 0(%rax), %rax\n"
        "  jnz 1f\n"
        "  call __vmx_vmlaunch@PLT\n"
        "  jmp 2f\n"
        "1: call __vmx_vmresume@PLT\n"
        "2: pushf\n" /* refused */
        "  push %rax\n"
        "  mov 16(%rsp), %rax\n"
        "  mov %rcx, 8(%rax); mov %rdx, 16(%rax); mov %rbx, 24(%rax); mov %rbp, 40(%rax); mov %rsi, 48(%rax)\n"
        "  mov %rdi, 56(%rax); mov %r8, 64(%rax); mov %r9, 72(%rax); mov %r10, 80(%rax); mov %r11, 88(%rax)\n"
        "  mov %r12, 96(%rax); mov %r13, 104(%rax); mov %r14, 112(%rax); mov %r15, 120(%rax)\n"
        "  pop %rcx; mov %rcx, 0(%rax); movzbl %cl, %edx\n"
        "  pop %rcx; mov %rcx, 32(%rax)\n" /* RFLAGS in RSP's place */
        "  mov %edx, %eax\n"
        "3: pop %rdx; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp\n"
        "  ret\n"
        ".globl plain_exit\n"
        "plain_exit:\n" /* HOST_RSP is where `push %rdx` left it */
        "  push %rax\n"
        "  mov 8(%rsp), %rax\n"
        "  mov %rcx, 8(%rax); mov %rdx, 16(%rax); mov %rbx, 24(%rax); mov %rbp, 40(%rax); mov %rsi, 48(%rax)\n"
        "  mov %rdi, 56(%rax); mov %r8, 64(%rax); mov %r9, 72(%rax); mov %r10, 80(%rax); mov %r11, 88(%rax)\n"
        "  mov %r12, 96(%rax); mov %r13, 104(%rax); mov %r14, 112(%rax); mov %r15, 120(%rax)\n"
        "  pop %rcx; mov %rcx, 0(%rax)\n"
        "  pushf; pop %rcx; mov %rcx, 32(%rax)\n"
        "  mov $-1, %eax\n"
        "  jmp 3b\n"
        ".globl plain_frame\n"
        "plain_frame:\n" /* RSP that plain_enter's caller will see at `push %rdx`: 8 pushes below the call's */
        "  lea -56(%rsp), %rax\n"
        "  ret\n");
uint64_t plain_frame(void);

static int plain(int resume, const uint64_t *in, uint64_t *out)
{
    __vmx_vmwrite(VMCS_HOST_RIP, (uintptr_t)plain_exit);
    __vmx_vmwrite(VMCS_HOST_RSP, plain_frame());
    return plain_enter(resume, in, out);
}

static void test_plain_entry(void **state)
{
    struct fixture *f = *state;
    static const uint8_t code[] = {0x48, 0x93, 0x48, 0x87, 0xca, 0x48, 0x87, 0xf7, 0x4d, 0x87, 0xc7, 0x48,
                                   0xff, 0xc5, 0x49, 0xf7, 0xd1, 0x49, 0xf7, 0xd2, 0x49, 0xf7, 0xd3, 0x49,
                                   0xf7, 0xd4, 0x49, 0xf7, 0xd5, 0x49, 0xf7, 0xd6, 0xf4, 0xf4};
    prepare(f, code, sizeof code);
    uint64_t in[16], out[16] = {0};
    for (unsigned i = 0; i < 16; i++)
        in[i] = 0x0123456789abcdefull * (i + 1);

    /* Refused: every register but RAX is kept, and the flags are the instruction's. */
    assert_int_equal(plain(1, in, out), 1);
    assert_int_equal(vmx_error(), VMX_ERR_VMRESUME_NONLAUNCHED);
    for (unsigned i = 1; i < 16; i++)
        if (i != 4)
            assert_true(out[i] == in[i]);
    assert_true((out[4] & 0x41) == 0x40); /* ZF: VMfailValid */

    /* Entered: the guest has them, and after the exit the processor has the guest's. */
    memset(out, 0, sizeof out);
    assert_int_equal(plain(0, in, out), -1);
    assert_int_equal(vmx_field(VMCS_EXIT_REASON), VMX_REASON_HLT);
    assert_true(out[0] == in[3] && out[3] == in[0] && out[1] == in[2] && out[2] == in[1] && out[6] == in[7] &&
                out[7] == in[6]);
    assert_true(out[8] == in[15] && out[15] == in[8] && out[5] == in[5] + 1);
    for (unsigned i = 9; i < 15; i++)
        assert_true(out[i] == ~in[i]);
    assert_true((out[4] & 0xcd5) == 0); /* RFLAGS is 2 after a VM exit; IF is the host kernel's */

    skip_instruction();
    assert_int_equal(plain(1, in, out), -1);
    for (unsigned i = 0; i < 16; i++)
        if (i != 4)
            assert_true(out[i] == in[i]);

    unsigned long long pa = VMCS_PA;
    __vmx_vmclear(&pa);
    assert_int_equal(plain(1, in, out), 2);
    assert_true((out[4] & 0x41) == 0x01); /* CF: VMfailInvalid */
    assert_int_equal(f->events, 0);
}
#endif

#if defined(__x86_64__)
/* x87 and vector registers: native code's before and after, the guest's own in between. */
int vector_enter(int resume, const uint8_t in[2][32], uint8_t out[2][32], double *st0);
extern const char vector_exit[];
__asm__(".text\n"
        ".globl vector_enter\n"
        "vector_enter:\n"
        "  push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15; push %rdx; push %rcx\n"
        "  movdqu (%rsi), %xmm6; movdqu 32(%rsi), %xmm15\n"
        "  fldpi\n"
        "  xor %eax, %eax; xor %ebx, %ebx\n"
        "  test %edi, %edi; jnz 1f\n"
        "  call __vmx_vmlaunch@PLT; jmp 2f\n"
        "1: call __vmx_vmresume@PLT\n"
        "2: movzbl %al, %eax; jmp 3f\n"
        ".globl vector_exit\n"
        "vector_exit: mov $-1, %eax\n"
        "3: pop %rcx; pop %rdx\n"
        "  movdqu %xmm6, (%rdx); movdqu %xmm15, 32(%rdx)\n"
        "  fstpl (%rcx)\n"
        "  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp; ret\n"
        ".globl vector_frame\n"
        "vector_frame: lea -64(%rsp), %rax; ret\n");
uint64_t vector_frame(void);

static void test_vector_registers(void **state)
{
    struct fixture *f = *state;
    /* pcmpeqd xmm6, xmm6; movdqa xmm15, xmm6; fld1; fld1; fld1; hlt; movmskps eax, xmm15; hlt */
    static const uint8_t code[] = {0x66, 0x0f, 0x76, 0xf6, 0x66, 0x44, 0x0f, 0x6f, 0xfe, 0xd9, 0xe8,
                                   0xd9, 0xe8, 0xd9, 0xe8, 0xf4, 0x41, 0x0f, 0x50, 0xc7, 0xf4};
    uint8_t in[2][32], out[2][32];
    double st0 = 0;
    memset(in[0], 0x11, 32);
    memset(in[1], 0x22, 32);
    vmx_begin(f);
    vmx_current(VMCS_PA);
    assert_int_equal(vector_enter(0, in, out, &st0), 1); /* refused */
    assert_memory_equal(in[0], out[0], 16);
    assert_memory_equal(in[1], out[1], 16);
    vmx_host_and_guest(CODE_PA, STACK_PA);
    guest_code(f, code, sizeof code);
    __vmx_vmwrite(VMCS_HOST_RIP, (uintptr_t)vector_exit);
    __vmx_vmwrite(VMCS_HOST_RSP, vector_frame());
    memset(out, 0, sizeof out);
    assert_int_equal(vector_enter(0, in, out, &st0), -1);
    assert_int_equal(vmx_field(VMCS_EXIT_REASON), VMX_REASON_HLT);
    assert_memory_equal(in[0], out[0], 16);
    assert_memory_equal(in[1], out[1], 16);
    assert_true(st0 > 3.14159 && st0 < 3.1416);
    skip_instruction();
    struct vmenter_regs regs = {0};
    assert_int_equal(vmenter_vmresume(&regs), 0);
    assert_int_equal(regs.rax, 15); /* the guest has its own */
}
#endif

/* A handler may leave by longjmp; the intrinsics go on working. */
static jmp_buf out_of_handler;
static void jump_out(void *opaque, const struct vmenter_event *event)
{
    longjmp(out_of_handler, event->vector + 1);
}

static void test_longjmp(void **state)
{
    struct fixture *f = *state;
    vmenter_set_event_handler(f->m, jump_out, f);
    for (int i = 0; i < 3; i++) {
        int v = setjmp(out_of_handler);
        if (!v) {
            if (i == 0)
                __vmx_off();
            else if (i == 1)
                __vmx_vmlaunch();
            else
                __readmsr(0xdeadbeef);
            fail();
        }
        assert_int_equal(v - 1, i == 2 ? 13 : 6);
    }
    vmenter_set_event_handler(f->m, on_event, f);
    prepare(f, hlt_hlt, sizeof hlt_hlt);
    struct vmenter_regs regs = {0};
    assert_int_equal(vmenter_vmlaunch(&regs), 0);
}

/* --- registers
 * ------------------------------------------------------------------------------------------------------------- */

static void test_registers(void **state)
{
    struct fixture *f = *state;
    assert_true(__readmsr(0xc0000080) & 1 << 10); /* EFER.LMA */
    __writemsr(0x277, 0x0606060606060606ull);
    assert_true(__readmsr(0x277) == 0x0606060606060606ull);
    assert_int_equal(EVENT_OF(f, __writemsr(0x277, 0x0505050505050502ull)), 13); /* reserved memory type */
    assert_int_equal(EVENT_OF(f, __readmsr(0x12345678)), 13);
    assert_true(f->event.has_error_code && f->event.error_code == 0);
    assert_non_null(strstr(f->event.rule, "no such MSR"));

    assert_true((__readcr0() & 0x80000001) == 0x80000001);
    assert_int_equal(EVENT_OF(f, __writecr0(__readcr0() & ~1ull)), 13); /* PE off under PG */
    __writecr2(0x1234);
    assert_true(__readcr2() == 0x1234);
    uint64_t cr3 = __readcr3();
    __writecr3(cr3);
    assert_true(__readcr3() == cr3);
    assert_int_equal(EVENT_OF(f, __writecr4(__readcr4() & ~0x20ull)), 13); /* PAE off in IA-32e mode */
    __writecr8(5);
    assert_int_equal(__readcr8(), 5);
    assert_int_equal(EVENT_OF(f, __writecr8(16)), 13);
    __writecr8(0);

    __writedr(0, 0x1111);
    __writedr(3, 0x3333);
    assert_true(__readdr(0) == 0x1111 && __readdr(3) == 0x3333);
    assert_true((__readdr(7) & 0x400) && (__readdr(6) & 0xffff0000) == 0xffff0000);
    assert_int_equal(EVENT_OF(f, __writedr(7, 1ull << 32)), 13);

    assert_true((__readeflags() & 2) && !(__readeflags() & 0x200));
    __writeeflags(__readeflags() | 0x40000 | 1);
    assert_true((__readeflags() & 0x40001) == 0x40001);
    __writeeflags(2);
    _enable();
    assert_true(__readeflags() & 0x200);
    _disable();
    assert_false(__readeflags() & 0x200);

    int info[4];
    __cpuid(info, 0);
    assert_memory_equal(&info[1], "Genu", 4);
    __cpuidex(info, 1, 0);
    assert_true(info[2] & 1 << 5); /* VMX */
    unsigned a, b, c, d;
    __cpuid(0, a, b, c, d); /* <cpuid.h>'s keeps working */
    assert_true(a > 0 && (b | c | d));

    uint64_t t = __rdtsc();
    assert_true(__rdtsc() > t);
    unsigned aux = 1;
    __writemsr(0xc0000103, 42);
    assert_true(__rdtscp(&aux) > t);
    assert_int_equal(aux, 42);
    assert_int_equal(EVENT_OF(f, __readpmc(0x7fffffff)), 13);

    assert_true(_xgetbv(0) & 1);
    _xsetbv(0, 3);
    assert_int_equal(EVENT_OF(f, _xsetbv(0, 2)), 13);
    uint64_t random = 0;
    assert_int_equal(_rdrand64_step(&random), 1);
}

static void test_tables(void **state)
{
    struct fixture *f = *state;
    struct __attribute__((packed)) {
        uint16_t limit;
        uint64_t base;
    } t = {0x123, 0x5678}, got;
    uint64_t gdt;
    _sgdt(&got);
    gdt = got.base;
    assert_int_equal(__segmentlimit(_readcs()), 0xffffffff);
    assert_int_equal(__segmentlimit(_str()), 0x67);
    assert_int_equal(__segmentlimit(0x1000), 0);
    assert_int_equal(_lar(_readcs()) & 0xff00, 0x9b00);
    assert_true(_readcs() == 0x10 && _readss() == 0x18 && _readds() == 0x18 && _str() == 0x40 && _sldt() == 0);
    __lidt(&t);
    __sidt(&got);
    assert_true(got.limit == 0x123 && got.base == 0x5678);
    t.base = 1ull << 60;
    assert_int_equal(EVENT_OF(f, __lidt(&t)), 13);
    assert_int_equal(EVENT_OF(f, _lgdt(&t)), 13);
    _writees(0);
    assert_int_equal(_reades(), 0);
    assert_int_equal(EVENT_OF(f, _writees(0x1000)), 13);
    assert_int_equal(f->event.error_code, 0x1000);
    assert_int_equal(EVENT_OF(f, _ltr(_str())), 13); /* busy */

    /* A GDT of one's own in RAM. */
    uint64_t *table = at(f, 0x6000);
    memcpy(table, vmenter_host_ptr(f->m, gdt, 0x50), 0x50);
    table[8] &= ~(1ull << 41); /* the TSS is available */
    t.base = 0x6000;
    t.limit = 0x4f;
    _lgdt(&t);
    _sgdt(&got);
    assert_true(got.base == 0x6000 && got.limit == 0x4f);
    assert_int_equal(EVENT_OF(f, _ltr(0x40)), NO_VECTOR);
    assert_true(table[8] >> 41 & 1); /* busy */

    uint64_t *data = at(f, 0x7000);
    data[2] = 0x1122334455667788ull;
    _writegsbase_u64(0x7000);
    assert_true(_readgsbase_u64() == 0x7000);
    assert_true(__readgsqword(16) == 0x1122334455667788ull);
    assert_int_equal(__readgsbyte(16), 0x88);
    assert_int_equal(__readgsword(16), 0x7788);
    assert_int_equal(__readgsdword(20), 0x11223344);
    __writegsdword(16, 5);
    __incgsdword(16);
    __addgsqword(16, 0x100000000ull);
    assert_true(data[2] == 0x1122334500000006ull);
    assert_int_equal(EVENT_OF(f, _writegsbase_u64(1ull << 60)), 13);
    __writemsr(0xc0000102, 0x9000);
    _swapgs();
    assert_true(_readgsbase_u64() == 0x9000 && __readmsr(0xc0000102) == 0x7000);
    __invlpg((void *)0x5000);
    uint64_t descriptor[2] = {0, 0x5000};
    assert_int_equal(EVENT_OF(f, _invpcid(0, descriptor)), NO_VECTOR);
    assert_int_equal(EVENT_OF(f, _invpcid(4, descriptor)), 13);
    descriptor[0] = 1 << 12;
    assert_int_equal(EVENT_OF(f, _invpcid(1, descriptor)), 13);
    __wbinvd();
    assert_int_equal(EVENT_OF(f, __ud2()), 6);
}

struct port_log {
    unsigned count;
    uint32_t value[16];
    uint16_t port[16];
    unsigned size[16];
};
static uint32_t port_in(void *opaque, uint16_t port, unsigned size)
{
    return 0x12345678 + port;
}
static void port_out(void *opaque, uint16_t port, unsigned size, uint32_t value)
{
    struct port_log *l = opaque;
    unsigned n = l->count++ & 15;
    l->port[n] = port;
    l->size[n] = size;
    l->value[n] = value;
}

static void test_ports(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(__inbyte(0x60), 0xff);
    assert_int_equal(__indword(0x60), 0xffffffff);
    struct port_log log = {0};
    struct vmenter_port_ops ops = {port_in, port_out};
    vmenter_set_ports(f->m, &ops, &log);
    assert_int_equal(__inbyte(0), 0x78);
    assert_int_equal(__inword(0), 0x5678);
    assert_int_equal(__indword(1), 0x12345679);
    __outbyte(0x80, 0xab);
    __outword(0x81, 0xabcd);
    __outdword(0x82, 0xabcdef01);
    assert_true(log.count == 3 && log.value[0] == 0xab && log.size[1] == 2 && log.value[2] == 0xabcdef01 &&
                log.port[2] == 0x82);
    uint16_t words[3] = {1, 2, 3};
    __outwordstring(7, words, 3);
    assert_true(log.count == 6 && log.value[5] == 3 && log.size[5] == 2);
    __inwordstring(2, words, 3);
    assert_true(words[0] == 0x567a && words[2] == 0x567a);
}

/* --- interrupts of the host
 * ---------------------------------------------------------------------------------------------------- */

#define X2APIC(offset) (0x800 + (offset) / 16)

static void test_interrupts(void **state)
{
    struct fixture *f = *state;
    __writemsr(0x1b, __readmsr(0x1b) | 0xc00); /* x2APIC mode */
    __writemsr(X2APIC(0xf0), 0x1ff);           /* software enable, spurious vector 0xff */
    assert_int_equal(f->events, 0);

    __writemsr(X2APIC(0x3f0), 0x41); /* self IPI */
    assert_int_equal(f->events, 0);  /* IF = 0 */
    _enable();
    assert_int_equal(f->events, 1);
    assert_true(f->event.is_interrupt && f->event.vector == 0x41);
    __writemsr(X2APIC(0x3f0), 0x41); /* in service: no second one */
    assert_int_equal(f->events, 1);
    __writemsr(X2APIC(0xb0), 0); /* EOI */
    assert_int_equal(f->events, 2);
    __writemsr(X2APIC(0xb0), 0);

    /* CR8 holds back what is not above it. */
    __writecr8(5);
    __writemsr(X2APIC(0x3f0), 0x52);
    assert_int_equal(f->events, 2);
    __writecr8(0);
    assert_int_equal(f->events, 3);
    __writemsr(X2APIC(0xb0), 0);

    /* HLT waits for the timer: virtual time goes on to its deadline. */
    uint64_t t = __rdtsc();
    __writemsr(X2APIC(0x3e0), 0xb); /* divide by 1 */
    __writemsr(X2APIC(0x320), 0x61);
    __writemsr(X2APIC(0x380), 5000000);
    __halt();
    assert_int_equal(f->events, 4);
    assert_int_equal(f->event.vector, 0x61);
    assert_true(__rdtsc() - t >= 5000000 && __rdtsc() - t < 5100000);
    __writemsr(X2APIC(0xb0), 0);

    /* STI; HLT does not sleep over what STI let in. */
    _disable();
    __writemsr(X2APIC(0x3f0), 0x41);
    _enable();
    assert_int_equal(f->events, 5);
    __halt();
    assert_int_equal(f->events, 5);
    __writemsr(X2APIC(0xb0), 0);

    /* TSC-deadline mode. */
    __writemsr(X2APIC(0x320), 0x40062);
    __writemsr(0x6e0, __rdtsc() + 100000);
    __halt();
    assert_int_equal(f->events, 6);
    assert_int_equal(f->event.vector, 0x62);
    __writemsr(X2APIC(0xb0), 0);

    vmenter_kick(f->m, 0);
    __halt();
    assert_int_equal(f->events, 7);
    assert_int_equal(f->event.vector, 2);
}

/* --- SVM
 * ---------------------------------------------------------------------------------------------------------------------------
 */

static void svm_begin(struct fixture *f)
{
    __writemsr(SVM_MSR_EFER, __readmsr(SVM_MSR_EFER) | SVM_EFER_SVME);
    __writemsr(SVM_MSR_VM_HSAVE_PA, HSAVE_PA);
    assert_int_equal(f->events, 0);
}

static struct vmcb *real_mode_guest(struct fixture *f, const void *code, size_t len)
{
    struct vmcb *v = at(f, VMCB_PA);
    memset(v, 0, sizeof *v);
    vmcb_set_intercept(v, SVM_EXIT_VMRUN);
    vmcb_set_intercept(v, SVM_EXIT_HLT);
    v->control.guest_asid = 1;
    v->save.cs = v->save.ds = v->save.es = v->save.ss =
        (struct vmcb_seg){.sel = CODE_PA >> 4, .attrib = 0x93, .limit = 0xffff, .base = CODE_PA};
    v->save.cs.attrib = 0x9b;
    v->save.efer = SVM_EFER_SVME;
    v->save.cr0 = 0x10;
    v->save.rflags = 2;
    v->save.rsp = 0xff0;
    memcpy(at(f, CODE_PA), code, len);
    return v;
}

static void test_svm_off(void **state)
{
    struct fixture *f = *state;
    struct vmenter_regs regs = {0};
    assert_int_equal(EVENT_OF(f, __svm_vmrun(VMCB_PA)), 6);
    assert_string_equal(f->event.intrinsic, "__svm_vmrun");
    assert_non_null(strstr(f->event.rule, "EFER.SVME"));
    assert_int_equal(EVENT_OF(f, __svm_vmload(VMCB_PA)), 6);
    assert_int_equal(EVENT_OF(f, __svm_vmsave(VMCB_PA)), 6);
    assert_int_equal(EVENT_OF(f, __svm_clgi()), 6);
    assert_int_equal(EVENT_OF(f, __svm_invlpga(NULL, 1)), 6);
    assert_int_equal(EVENT_OF(f, __svm_vmmcall(&regs)), 6);
    assert_int_equal(EVENT_OF(f, vmenter_vmrun(VMCB_PA, &regs)), 6);
}

static void test_svm(void **state)
{
    struct fixture *f = *state;
    /* inc bx; mov cx, [0x20]; hlt */
    static const uint8_t code[] = {0x43, 0x8b, 0x0e, 0x20, 0x00, 0xf4};
    svm_begin(f);
    struct vmcb *v = real_mode_guest(f, code, sizeof code);
    store16((uint8_t *)v - VMCB_PA + CODE_PA + 0x20, 0xbeef);

    assert_int_equal(EVENT_OF(f, __svm_vmrun(VMCB_PA + 8)), 13);
    assert_int_equal(EVENT_OF(f, __svm_vmrun((size_t)1 << 52)), 13);
    assert_int_equal(EVENT_OF(f, __svm_vmload(VMCB_PA + 8)), 13);
    assert_int_equal(EVENT_OF(f, __svm_vmsave((size_t)1 << 52)), 13);

    struct vmenter_regs regs = {0};
    regs.rax = 0x55;
    regs.rbx = 0x41;
    regs.r15 = 0x123456789ull;
    assert_int_equal(EVENT_OF(f, vmenter_vmrun(VMCB_PA, &regs)), NO_VECTOR);
    assert_int_equal(v->control.exitcode, SVM_EXIT_HLT);
    assert_true(regs.rbx == 0x42 && (regs.rcx & 0xffff) == 0xbeef && regs.r15 == 0x123456789ull);
    assert_true(regs.rax == 0x55); /* RAX is the VMCB's affair */
    assert_true(v->save.rip == 5);

    /* The C-callable intrinsic keeps what a function keeps. */
    v->save.rip = 0;
    v->save.rax = 0x77;
    v->control.exitcode = 0;
    __svm_vmrun(VMCB_PA);
    assert_int_equal(v->control.exitcode, SVM_EXIT_HLT);
    assert_int_equal(v->save.rax, 0x77);

    /* A bad VMCB is a #VMEXIT. */
    v->control.guest_asid = 0;
    __svm_vmrun(VMCB_PA);
    assert_true(v->control.exitcode == (uint64_t)SVM_EXIT_INVALID);
    char text[1024];
    assert_true(vmenter_explain_entry(text, sizeof text) > 0);

    /* VMSAVE and VMLOAD move FS, GS, TR, LDTR, KernelGSBase, STAR and SYSENTER. */
    __writemsr(0xc0000100, 0x1230);
    __writemsr(0xc0000082, 0x4560);
    __svm_vmsave(VMCB_PA);
    assert_true(v->save.fs.base == 0x1230 && v->save.lstar == 0x4560 && v->save.tr.sel == 0x40);
    v->save.fs.base = 0x7890;
    v->save.kernel_gs_base = 0x1110;
    __svm_vmload(VMCB_PA);
    assert_true(__readmsr(0xc0000100) == 0x7890 && __readmsr(0xc0000102) == 0x1110);
    __svm_invlpga((void *)0x1000, 1);
    assert_int_equal(EVENT_OF(f, __svm_vmmcall(&regs)), 6);
}

#if defined(__x86_64__)
/* VMRUN as an SVM hypervisor's assembly has it: callee-saved registers hold the guest's afterwards. */
void raw_vmrun(uint64_t vmcb_pa, const uint64_t *in, uint64_t *out);
__asm__(".text\n.globl raw_vmrun\nraw_vmrun:\n"
        "  push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15; push %rdx\n"
        "  mov %rdi, %rax\n"
        "  mov 24(%rsi), %rbx; mov 40(%rsi), %rbp; mov 96(%rsi), %r12; mov 120(%rsi), %r15; mov 48(%rsi), %rsi\n"
        "  call vmenter_svm_vmrun_raw@PLT\n"
        "  mov (%rsp), %rdx\n"
        "  mov %rax, 0(%rdx); mov %rbx, 24(%rdx); mov %rbp, 40(%rdx); mov %r12, 96(%rdx); mov %r15, 120(%rdx); mov "
        "%rsi, 48(%rdx)\n"
        "  pop %rdx; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp\n"
        "  ret\n");

static void test_svm_raw(void **state)
{
    struct fixture *f = *state;
    static const uint8_t code[] = {0x43, 0x45, 0x46, 0xf4}; /* inc bx; inc bp; inc si; hlt */
    svm_begin(f);
    struct vmcb *v = real_mode_guest(f, code, sizeof code);
    uint64_t in[16], out[16] = {0};
    for (unsigned i = 0; i < 16; i++)
        in[i] = 0x1111000000000000ull * (i + 1);
    v->save.rax = 0x99;
    raw_vmrun(VMCB_PA, in, out);
    assert_int_equal(v->control.exitcode, SVM_EXIT_HLT);
    assert_true(out[0] == VMCB_PA && out[3] == in[3] + 1 && out[5] == in[5] + 1 && out[6] == in[6] + 1 &&
                out[12] == in[12] && out[15] == in[15]);
    assert_int_equal(v->save.rax, 0x99);
}
#endif

/* GIF holds back interrupts until STGI. */
static void test_gif(void **state)
{
    struct fixture *f = *state;
    svm_begin(f);
    __writemsr(0x1b, __readmsr(0x1b) | 0xc00);
    __writemsr(X2APIC(0xf0), 0x1ff);
    _enable();
    __svm_clgi();
    __writemsr(X2APIC(0x300), 0x40041); /* fixed, to self */
    assert_int_equal(f->events, 0);
    vmenter_kick(f->m, 0);
    _enable();
    assert_int_equal(f->events, 0);
    __svm_stgi();
    assert_int_equal(f->events, 2); /* NMI first */
    assert_int_equal(f->event.vector, 0x41);
}

/* --- machines
 * ------------------------------------------------------------------------------------------------------------------------
 */

static void *run_guests(void *opaque)
{
    uint64_t seed = (uintptr_t)opaque;
    struct fixture *f = start("max");
    /* add rax, rbx; hlt; jmp back */
    static const uint8_t code[] = {0x48, 0x01, 0xd8, 0xf4, 0xeb, 0xfa};
    prepare(f, code, sizeof code);
    struct vmenter_regs regs = {0};
    regs.rbx = seed;
    uint64_t sum = 0;
    for (unsigned i = 0; i < 2000; i++) {
        if (i ? vmenter_vmresume(&regs) : vmenter_vmlaunch(&regs))
            return (void *)1;
        sum += seed;
        if (regs.rax != sum || vmx_field(VMCS_EXIT_REASON) != VMX_REASON_HLT)
            return (void *)2;
        skip_instruction();
    }
    vmenter_destroy(f->m);
    free(f);
    return NULL;
}

static void test_two_machines(void **state)
{
    pthread_t t[2];
    for (uintptr_t i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&t[i], NULL, run_guests, (void *)(i + 3)), 0);
    for (unsigned i = 0; i < 2; i++) {
        void *result;
        pthread_join(t[i], &result);
        assert_ptr_equal(result, NULL);
    }
}

/* Two processors of one machine, each with its thread: an IPI and a kick reach a guest that spins, and a processor that
 * waits. */
struct pair {
    struct fixture *f;
    unsigned step; /* atomic */
};

static void await(const unsigned *step, unsigned value)
{
    while (__atomic_load_n(step, __ATOMIC_ACQUIRE) < value)
        sched_yield();
}

static void x2apic_on(void)
{
    __writemsr(0x1b, __readmsr(0x1b) | 0xc00);
    __writemsr(X2APIC(0xf0), 0x1ff);
}

static void *second_processor(void *opaque)
{
    struct pair *p = opaque;
    if (vmenter_bind(p->f->m, 1) != VMENTER_OK)
        return (void *)1;
    x2apic_on();
    if (__readmsr(X2APIC(0x20)) != 1)
        return (void *)2;
    await(&p->step, 1);
    __writemsr(X2APIC(0x300), 0x4051); /* fixed, physical, to APIC 0 */
    await(&p->step, 2);
    vmenter_kick(p->f->m, 0);
    await(&p->step, 3);
    __writemsr(X2APIC(0x300), 0x4052);
    vmenter_unbind();
    return NULL;
}

static void test_two_processors(void **state)
{
    static const uint8_t spin[] = {0xc6, 0x03, 0x01, 0xeb, 0xfb}; /* mov byte [rbx], 1; jmp back */
    struct fixture *f = calloc(1, sizeof *f);
    struct vmenter_config config = {.size = sizeof config, .ram = 1 << 20, .cpus = 2, .clock = VMENTER_CLOCK_REAL};
    assert_int_equal(vmenter_create(&config, &f->m, NULL), VMENTER_OK);
    assert_int_equal(vmenter_bind(f->m, 0), VMENTER_OK);
    vmenter_set_event_handler(f->m, on_event, f);
    x2apic_on();
    prepare(f, spin, sizeof spin);
    __vmx_vmwrite(VMCS_PIN_CONTROLS,
                  vmx_controls(VMX_MSR_TRUE_PINBASED_CTLS, VMX_PIN_EXTERNAL_INTERRUPT_EXITING | VMX_PIN_NMI_EXITING));
    struct pair pair = {f, 0};
    struct vmenter_regs regs = {0};
    pthread_t t;
    regs.rbx = 0x7000;
    assert_int_equal(pthread_create(&t, NULL, second_processor, &pair), 0);
    __atomic_store_n(&pair.step, 1, __ATOMIC_RELEASE);
    assert_int_equal(vmenter_vmlaunch(&regs), 0);
    assert_int_equal(vmx_field(VMCS_EXIT_REASON), VMX_REASON_EXTERNAL_INTERRUPT);
    _enable(); /* the host takes it */
    assert_true(f->events == 1 && f->event.vector == 0x51);
    _disable();
    __writemsr(X2APIC(0xb0), 0);

    __atomic_store_n(&pair.step, 2, __ATOMIC_RELEASE);
    assert_int_equal(vmenter_vmresume(&regs), 0);
    assert_int_equal(vmx_field(VMCS_EXIT_REASON), VMX_REASON_EXCEPTION_OR_NMI);
    assert_int_equal(vmx_field(VMCS_EXIT_INTERRUPTION_INFO) & 0x7ff, 0x202);

    _enable();
    __atomic_store_n(&pair.step, 3, __ATOMIC_RELEASE);
    if (f->events < 2)
        __halt();
    assert_int_equal(f->event.vector, 0x52);
    void *result;
    pthread_join(t, &result);
    assert_ptr_equal(result, NULL);
    vmenter_destroy(f->m);
    free(f);
}

static void test_machine(void **state)
{
    struct vmenter_machine *a, *b;
    char error[VMENTER_ERROR_MAX];
    struct vmenter_config config = {.size = sizeof config, .ram = 1 << 20, .cpus = 2};
    assert_ptr_equal(vmenter_bound(), NULL);
    assert_int_equal(vmenter_trap(true), VMENTER_EUNBOUND);
    assert_int_equal(vmenter_create(&config, &a, error), VMENTER_OK);
    assert_int_equal(vmenter_create(&config, &b, error), VMENTER_OK);
    assert_int_equal(vmenter_bind(a, 2), VMENTER_EINVAL);
    assert_int_equal(vmenter_bind(a, 1), VMENTER_OK);
    assert_ptr_equal(vmenter_bound(), a);
    __writecr2(1);
    assert_int_equal(vmenter_bind(b, 1), VMENTER_OK);
    assert_true(__readcr2() == 0);
    assert_int_equal(vmenter_bind(a, 1), VMENTER_OK);
    assert_true(__readcr2() == 1);

    uint8_t *p = vmenter_host_ptr(a, 0, 1 << 20);
    assert_non_null(p);
    assert_ptr_equal(vmenter_host_ptr(a, 0x1000, 4096), p + 0x1000);
    assert_null(vmenter_host_ptr(a, (1 << 20) - 1, 2));
    assert_true(vmenter_phys_addr(a, p + 5) == 5);
    assert_true(vmenter_phys_addr(a, &config) == UINT64_MAX);
    static uint8_t mine[8192] __attribute__((aligned(4096)));
    assert_int_equal(vmenter_map(a, 0x200000, mine, 8192, 0), VMENTER_OK);
    assert_int_equal(vmenter_map(a, 0x201000, mine, 4096, 0), VMENTER_EBUSY);
    assert_int_equal(vmenter_map(a, 0x300800, mine, 4096, 0), VMENTER_EINVAL);
    assert_ptr_equal(vmenter_host_ptr(a, 0x201000, 16), mine + 4096);
    assert_true(vmenter_phys_addr(a, mine + 1) == 0x200001);
    assert_int_equal(vmenter_unmap(a, 0x200000, 8192), VMENTER_OK);
    assert_null(vmenter_host_ptr(a, 0x201000, 16));
    assert_int_equal(vmenter_unmap(a, 0, 1 << 20), VMENTER_EINVAL); /* RAM stays */
    vmenter_destroy(b);
    vmenter_destroy(a);

    /* All memory is the caller's. */
    config.ram = 0;
    assert_int_equal(vmenter_create(&config, &a, error), VMENTER_OK);
    assert_int_equal(vmenter_map(a, 0, mine, 8192, VMENTER_MAP_READONLY), VMENTER_OK);
    assert_ptr_equal(vmenter_host_ptr(a, 4096, 16), mine + 4096);
    assert_int_equal(vmenter_unmap(a, 0, 8192), VMENTER_OK);
    vmenter_destroy(a);

    /* RAM across the place of the firmware's tables and the local APIC. */
    config.ram = 6ull << 30;
    assert_int_equal(vmenter_create(&config, &a, error), VMENTER_OK);
    assert_int_equal(vmenter_bind(a, 0), VMENTER_OK);
    assert_true(__readcr3() >= 6ull << 30);
    p = vmenter_host_ptr(a, 0, 6ull << 30);
    assert_non_null(p);
    p[(5ull << 30) + 3] = 9;
    _writegsbase_u64(5ull << 30);
    assert_int_equal(__readgsbyte(3), 9);
    vmenter_destroy(a);
    assert_ptr_equal(vmenter_bound(), NULL);
    vmenter_destroy(NULL);
}

/* Without a handler an event is printed with its rule and ends the process. */
static void dies_of(void (*call)(void), const char *name, const char *exception, const char *rule)
{
    int pipes[2], status;
    char text[1024] = "";
    assert_int_equal(pipe(pipes), 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(pipes[1], 2);
        call();
        _exit(0);
    }
    close(pipes[1]);
    for (size_t n = 0; n < sizeof text - 1;) {
        ssize_t got = read(pipes[0], text + n, sizeof text - 1 - n);
        if (got <= 0)
            break;
        n += (size_t)got;
    }
    close(pipes[0]);
    waitpid(pid, &status, 0);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    assert_non_null(strstr(text, name));
    assert_non_null(strstr(text, exception));
    assert_non_null(strstr(text, rule));
}

static void call_vmxon(void)
{
    unsigned long long pa = VMXON_PA;
    __vmx_on(&pa);
}
static void call_vmrun(void)
{
    __svm_vmrun(0);
}
static void call_rdmsr(void)
{
    __readmsr(0xdeadbeef);
}
static void call_enable(void)
{
    x2apic_on();
    __writemsr(X2APIC(0x3f0), 0x41);
    _enable();
}

static void test_default_handler(void **state)
{
    dies_of(call_vmxon, "__vmx_on", "#UD", "vmenter_bind"); /* nothing is bound */
    struct fixture *f = start("max");
    vmenter_set_event_handler(f->m, NULL, NULL);
    dies_of(call_vmxon, "__vmx_on", "#UD", "CR4.VMXE");
    dies_of(call_vmrun, "__svm_vmrun", "#UD", "EFER.SVME");
    dies_of(call_rdmsr, "__readmsr", "#GP(0x0)", "no such MSR");
    dies_of(call_enable, "_enable", "vector 0x41", "vmenter_set_event_handler");
    vmenter_destroy(f->m);
    free(f);
}

static void test_bad_configurations(void **state)
{
    struct vmenter_machine *m;
    char error[VMENTER_ERROR_MAX];
    struct vmenter_config good = {.size = sizeof good, .ram = 4096}, c;
    assert_int_equal(vmenter_create(NULL, &m, error), VMENTER_EINVAL);
    c = good, c.size = 0;
    assert_int_equal(vmenter_create(&c, &m, error), VMENTER_EINVAL);
    c = good, c.ram = 4097;
    assert_int_equal(vmenter_create(&c, &m, error), VMENTER_EINVAL);
    assert_non_null(strstr(error, "4096"));
    c = good, c.ram = 1ull << 50;
    assert_int_equal(vmenter_create(&c, &m, error), VMENTER_EINVAL);
    c = good, c.cpus = 65;
    assert_int_equal(vmenter_create(&c, &m, error), VMENTER_EINVAL);
    assert_non_null(strstr(error, "65"));
    c = good, c.model = "no-such-model";
    assert_int_equal(vmenter_create(&c, &m, error), VMENTER_ENOMODEL);
    assert_non_null(strstr(error, "no-such-model"));
    c = good, c.flags = 1u << 20;
    assert_int_equal(vmenter_create(&c, &m, error), VMENTER_EINVAL);
    c = good, c.flags = VMENTER_HOST_SYSCALLS;
    assert_int_equal(vmenter_create(&c, &m, error), VMENTER_EINVAL);
    assert_ptr_equal(m, NULL);
}

static void test_models_and_disassembler(void **state)
{
    bool intel = false, amd = false;
    for (unsigned i = 0; vmenter_model(i); i++) {
        intel |= !strcmp(vmenter_model(i)->vendor, "intel");
        amd |= !strcmp(vmenter_model(i)->vendor, "amd");
    }
    assert_true(intel && amd);
    char text[256];
    size_t n = vmenter_disassemble("\x0f\x01\xc2\xf4\x0f", 5, 0x1000, 64, 3, text, sizeof text);
    assert_int_equal(n, strlen(text));
    assert_non_null(strstr(text, "vmlaunch"));
    assert_non_null(strstr(text, "0000000000001003  f4"));
    assert_non_null(strstr(text, "db 0x0f"));
    assert_int_equal(vmenter_disassemble("\xf4", 1, 0, 64, 1, NULL, 0),
                     strlen("0000000000000000  f4                     hlt\n"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_vmxon, set_up_intel, tear_down),
        cmocka_unit_test_setup_teardown(test_vmxoff, set_up_intel, tear_down),
        cmocka_unit_test_setup_teardown(test_vmx_outside, set_up_intel, tear_down),
        cmocka_unit_test_setup_teardown(test_vmx_outside, set_up_amd, tear_down),
        cmocka_unit_test_setup_teardown(test_vmclear_vmptrld_vmptrst, set_up_intel, tear_down),
        cmocka_unit_test_setup_teardown(test_vmread_vmwrite, set_up_intel, tear_down),
        cmocka_unit_test_setup_teardown(test_vmwrite_read_only, set_up_penryn, tear_down),
        cmocka_unit_test_setup_teardown(test_invalidations, set_up_intel, tear_down),
        cmocka_unit_test_setup_teardown(test_launch_states, set_up_intel, tear_down),
        cmocka_unit_test_setup_teardown(test_failed_entries, set_up_intel, tear_down),
        cmocka_unit_test_setup_teardown(test_block, set_up_intel, tear_down),
#if defined(__x86_64__)
        cmocka_unit_test_setup_teardown(test_plain_entry, set_up_intel, tear_down),
        cmocka_unit_test_setup_teardown(test_vector_registers, set_up_intel, tear_down),
        cmocka_unit_test_setup_teardown(test_svm_raw, set_up_amd, tear_down),
#endif
        cmocka_unit_test_setup_teardown(test_longjmp, set_up_intel, tear_down),
        cmocka_unit_test_setup_teardown(test_registers, set_up_intel, tear_down),
        cmocka_unit_test_setup_teardown(test_tables, set_up_intel, tear_down),
        cmocka_unit_test_setup_teardown(test_ports, set_up_intel, tear_down),
        cmocka_unit_test_setup_teardown(test_interrupts, set_up_intel, tear_down),
        cmocka_unit_test_setup_teardown(test_svm_off, set_up_amd, tear_down),
        cmocka_unit_test_setup_teardown(test_svm_off, set_up_intel, tear_down),
        cmocka_unit_test_setup_teardown(test_svm, set_up_amd, tear_down),
        cmocka_unit_test_setup_teardown(test_gif, set_up_amd, tear_down),
        cmocka_unit_test(test_two_machines),
        cmocka_unit_test(test_two_processors),
        cmocka_unit_test(test_machine),
        cmocka_unit_test(test_default_handler),
        cmocka_unit_test(test_bad_configurations),
        cmocka_unit_test(test_models_and_disassembler),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
