/* A blue pill: a program that makes itself a guest. It enters VMX operation and VMLAUNCHes with the guest state of its
 * own next line: from then on the same program, stack and libc run as a guest, on the software processor, and what it
 * asks of CPUID is what its own VM-exit handler says. At the end it calls that handler to be set free again.
 *
 * Identity mode: physical address = linear address = the process's own, and SYSCALL of the guest reaches the kernel. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <vmenter/enter.h>
#include <vmenter/intrin.h>
#include <vmenter/vmenter.h>
#include <vmenter/vmx.h>

static unsigned char vmxon_region[4096] __attribute__((aligned(4096)));
static unsigned char vmcs_region[4096] __attribute__((aligned(4096)));
static unsigned char host_stack[65536] __attribute__((aligned(4096)));
static unsigned exits;

#define SET_FREE 0x6c756570

/* become_guest() returns 0 as the guest, or the result of VMLAUNCH. */
unsigned char become_guest(void);
/* Every VM exit comes here: all general registers go on the host's stack as a block, in the order of their encoding. */
extern const char vm_exit[];
struct freed {
    unsigned long long rip, rsp;
};
struct freed *handle_exit(struct vmenter_regs *guest);

__asm__(".text\n"
        ".globl become_guest\n"
        "become_guest:\n"
        "  push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15; sub $8, %rsp\n"
        "  mov $0x681c, %edi; mov %rsp, %rsi; call __vmx_vmwrite@PLT\n"     /* GUEST_RSP */
        "  mov $0x681e, %edi; lea 1f(%rip), %rsi; call __vmx_vmwrite@PLT\n" /* GUEST_RIP */
        "  call __vmx_vmlaunch@PLT\n"
        "  jmp 2f\n"
        "1: xor %eax, %eax\n"
        "2: add $8, %rsp; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp\n"
        "  ret\n"
        ".globl vm_exit\n"
        "vm_exit:\n"
        "  push %r15; push %r14; push %r13; push %r12; push %r11; push %r10; push %r9; push %r8\n"
        "  push %rdi; push %rsi; push %rbp; push %rsp; push %rbx; push %rdx; push %rcx; push %rax\n"
        "  mov %rsp, %rdi; call handle_exit\n"
        "  test %rax, %rax; jnz 3f\n"
        "  pop %rax; pop %rcx; pop %rdx; pop %rbx; add $8, %rsp; pop %rbp; pop %rsi; pop %rdi\n"
        "  pop %r8; pop %r9; pop %r10; pop %r11; pop %r12; pop %r13; pop %r14; pop %r15\n"
        "  call __vmx_vmresume@PLT\n"
        "  ud2\n"
        "3: mov 0(%rax), %rcx; mov 8(%rax), %rdx\n" /* free: go on where the guest is, natively */
        "  mov 24(%rsp), %rbx; mov 40(%rsp), %rbp; mov 48(%rsp), %rsi; mov 56(%rsp), %rdi\n"
        "  mov 96(%rsp), %r12; mov 104(%rsp), %r13; mov 112(%rsp), %r14; mov 120(%rsp), %r15\n"
        "  mov %rdx, %rsp; xor %eax, %eax; jmp *%rcx\n");

static size_t field(size_t encoding)
{
    size_t value = 0;
    __vmx_vmread(encoding, &value);
    return value;
}

struct freed *handle_exit(struct vmenter_regs *guest)
{
    static struct freed freed;
    size_t reason = field(VMCS_EXIT_REASON), next = field(VMCS_GUEST_RIP) + field(VMCS_EXIT_INSTRUCTION_LENGTH);
    exits++;
    switch (reason) {
    case VMX_REASON_CPUID: {
        int info[4];
        __cpuidex(info, (int)guest->rax, (int)guest->rcx);
        if ((unsigned)guest->rax == 0x40000000)
            memcpy(&info[1], "blue pill :)", 12);
        guest->rax = (unsigned)info[0], guest->rbx = (unsigned)info[1];
        guest->rcx = (unsigned)info[2], guest->rdx = (unsigned)info[3];
        break;
    }
    case VMX_REASON_VMCALL:
        if (guest->rax != SET_FREE)
            break;
        freed.rip = next;
        freed.rsp = field(VMCS_GUEST_RSP);
        __vmx_off();
        return &freed;
    default: {
        char text[4096];
        int n = snprintf(text, sizeof text, "VM exit 0x%zx at 0x%zx, qualification 0x%zx\n", reason,
                         field(VMCS_GUEST_RIP), field(VMCS_EXIT_QUALIFICATION));
        n += (int)vmenter_explain_entry(text + n, sizeof text - (size_t)n);
        if (write(2, text, (size_t)n) < 0)
            _exit(2);
        _exit(1);
    }
    }
    __vmx_vmwrite(VMCS_GUEST_RIP, next);
    return NULL;
}

static size_t controls(unsigned msr, unsigned want)
{
    unsigned long long cap = __readmsr(msr);
    return (want | (unsigned)cap) & (unsigned)(cap >> 32);
}

static void segment(unsigned n, unsigned short selector)
{
    size_t rights = n == 1 ? 0xa09b : n == 7 ? 0x8b : n == 6 ? 0x10000 : 0xc093;
    __vmx_vmwrite(VMCS_GUEST_ES_SELECTOR + 2 * n, selector);
    __vmx_vmwrite(VMCS_GUEST_ES_LIMIT + 2 * n, n == 6 ? 0 : __segmentlimit(selector));
    __vmx_vmwrite(VMCS_GUEST_ES_ACCESS_RIGHTS + 2 * n, rights);
    __vmx_vmwrite(VMCS_GUEST_ES_BASE + 2 * n, 0);
}

/* Host and guest state are both that of this moment. */
static void set_up(void)
{
    unsigned char gdtr[10], idtr[10];
    unsigned long long gdt, idt;
    _sgdt(gdtr), __sidt(idtr);
    memcpy(&gdt, gdtr + 2, 8), memcpy(&idt, idtr + 2, 8);
    __vmx_vmwrite(VMCS_PIN_CONTROLS, controls(VMX_MSR_TRUE_PINBASED_CTLS, 0));
    __vmx_vmwrite(VMCS_PROC_CONTROLS, controls(VMX_MSR_TRUE_PROCBASED_CTLS, VMX_PROC_ACTIVATE_SECONDARY_CONTROLS));
    __vmx_vmwrite(VMCS_PROC2_CONTROLS,
                  controls(VMX_MSR_PROCBASED_CTLS2, VMX_PROC2_ENABLE_RDTSCP | VMX_PROC2_ENABLE_XSAVES));
    __vmx_vmwrite(VMCS_EXIT_CONTROLS, controls(VMX_MSR_TRUE_EXIT_CTLS, VMX_EXIT_HOST_ADDRESS_SPACE_SIZE));
    __vmx_vmwrite(VMCS_ENTRY_CONTROLS, controls(VMX_MSR_TRUE_ENTRY_CTLS, VMX_ENTRY_IA32E_MODE_GUEST));

    __vmx_vmwrite(VMCS_HOST_CR0, __readcr0()), __vmx_vmwrite(VMCS_GUEST_CR0, __readcr0());
    __vmx_vmwrite(VMCS_HOST_CR3, __readcr3()), __vmx_vmwrite(VMCS_GUEST_CR3, __readcr3());
    __vmx_vmwrite(VMCS_HOST_CR4, __readcr4()), __vmx_vmwrite(VMCS_GUEST_CR4, __readcr4());
    const unsigned short selector[8] = {_reades(), _readcs(), _readss(), _readds(), _readfs(), _readgs(), 0, _str()};
    for (unsigned n = 0; n < 8; n++)
        segment(n, selector[n]);
    __vmx_vmwrite(VMCS_GUEST_FS_BASE, _readfsbase_u64()), __vmx_vmwrite(VMCS_HOST_FS_BASE, _readfsbase_u64());
    __vmx_vmwrite(VMCS_GUEST_GS_BASE, _readgsbase_u64()), __vmx_vmwrite(VMCS_HOST_GS_BASE, _readgsbase_u64());
    __vmx_vmwrite(VMCS_HOST_CS_SELECTOR, _readcs()), __vmx_vmwrite(VMCS_HOST_SS_SELECTOR, _readss());
    __vmx_vmwrite(VMCS_HOST_TR_SELECTOR, _str());
    __vmx_vmwrite(VMCS_GUEST_GDTR_BASE, gdt), __vmx_vmwrite(VMCS_HOST_GDTR_BASE, gdt);
    __vmx_vmwrite(VMCS_GUEST_IDTR_BASE, idt), __vmx_vmwrite(VMCS_HOST_IDTR_BASE, idt);
    __vmx_vmwrite(VMCS_GUEST_GDTR_LIMIT, gdtr[0] | gdtr[1] << 8),
        __vmx_vmwrite(VMCS_GUEST_IDTR_LIMIT, idtr[0] | idtr[1] << 8);
    __vmx_vmwrite(VMCS_GUEST_DR7, 0x400);
    __vmx_vmwrite(VMCS_GUEST_RFLAGS, 2);
    __vmx_vmwrite(VMCS_VMCS_LINK_POINTER, ~(size_t)0);
    __vmx_vmwrite(VMCS_HOST_RIP, (size_t)vm_exit);
    __vmx_vmwrite(VMCS_HOST_RSP, (size_t)(host_stack + sizeof host_stack));
}

static void say_who(const char *when)
{
    int info[4];
    __cpuidex(info, 0x40000000, 0);
    if (memcmp(&info[1], "blue pill :)", 12) == 0)
        printf("%s: CPUID leaf 0x40000000 says \"%.12s\"\n", when, (const char *)&info[1]);
    else
        printf("%s: CPUID leaf 0x40000000 names no hypervisor\n", when);
}

int main(int argc, char **argv)
{
    /* The guest's processor has no AVX: libc must not choose it. */
    if (!getenv("GLIBC_TUNABLES")) {
        setenv("GLIBC_TUNABLES",
               "glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-AVX512CD,-AVX512DQ,-AVX_Fast_Unaligned_Load",
               1);
        execv("/proc/self/exe", argv);
    }
    struct vmenter_config config = {.size = sizeof config, .flags = VMENTER_IDENTITY | VMENTER_HOST_SYSCALLS};
    struct vmenter_machine *m;
    char error[VMENTER_ERROR_MAX];
    if (vmenter_create(&config, &m, error) || vmenter_bind(m, 0))
        return fprintf(stderr, "%s\n", error), 1;

    say_who("native");
    unsigned revision = VMX_BASIC_REVISION(__readmsr(VMX_MSR_BASIC));
    memcpy(vmxon_region, &revision, 4), memcpy(vmcs_region, &revision, 4);
    unsigned long long vmxon = (size_t)vmxon_region, vmcs = (size_t)vmcs_region;
    __writecr4(__readcr4() | 1u << 13);
    if (__vmx_on(&vmxon) || __vmx_vmclear(&vmcs) || __vmx_vmptrld(&vmcs))
        return fputs("VMX does not start\n", stderr), 1;
    set_up();
    unsigned char failed = become_guest();
    if (failed)
        return fprintf(stderr, "VMLAUNCH: %u, error %zu\n", failed, field(VMCS_VM_INSTRUCTION_ERROR)), 1;

    say_who("as a guest");
    char *text = malloc(100);
    snprintf(text, 100, "libc works here too: pi is %.5f", 3.14159265);
    puts(text);
    free(text);
    if (argc > 1) { /* stays a guest to the end */
        fflush(stdout);
        return 0;
    }
    struct vmenter_regs call = {0};
    call.rax = SET_FREE;
    __vmx_vmcall(&call);
    say_who("free again");
    printf("%u VM exits\n", exits);
    vmenter_destroy(m);
    return 0;
}
