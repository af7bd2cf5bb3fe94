/* SPDX-License-Identifier: MIT
 *
 * kvmtest.c: a small VMM over /dev/kvm, a static program that runs in Debian's kernel on the software PC. It makes
 * three virtual machines one after the other and prints what their guests computed:
 *
 *   real     real-address mode: arithmetic, a software interrupt through the vector table, REP OUTSB
 *   long     entered in 64-bit mode: arithmetic, SSE2, a page fault taken and mended, CPUID in a loop, results by MMIO
 *   machine  from real mode by itself to 64-bit mode, KVM's interrupt controllers: local APIC timer, a second processor
 * started by INIT and SIPI, interprocessor interrupts there and back, a counter that both raise under LOCK
 *
 * Each value is compared with what this program knows. Exit status 0 if all are right. One argument, a number: how
 * often.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define MEM_SIZE   0x200000
#define CODE       0x1000 /* where a guest's code stands; a SIPI's vector 1 */
#define PML4       0x10000
#define GDT        0x16000
#define IDT        0x17000
#define VARS       0x18000    /* what the guests keep */
#define REPORT     0x60000000 /* no memory there: a 64-bit store to REPORT + 8 * N is result N */
#define PORT_VALUE 0x80       /* a 16-bit OUT to PORT_VALUE + 2 * N is result N */
#define PORT_TEXT  0xe9
#define PORT_END   0xf4
#define RESULTS    16

/* The guests' code. It is copied to CODE: jumps are relative, addresses are reckoned from the first. */
extern const char real_code[], real_end[], long_code[], long_end[], machine_code[], machine_end[];
__asm__(
    ".pushsection .rodata\n"
    ".macro report n, reg\n mov \\reg, 0x60000000 + 8 * \\n\n .endm\n"

    /* --- real */
    ".code16\n"
    "real_code:\n"
    "  xor %ax, %ax\n  mov %ax, %ds\n  mov %ax, %es\n  mov %ax, %ss\n  mov $0x8000, %sp\n"
    "  mov $24, %cx\n  mov $1, %bx\n"
    "1: add %bx, %ax\n  xchg %bx, %ax\n  loop 1b\n"
    "  mov $0x80, %dx\n  out %ax, %dx\n" /* fibonacci(24) */
    "  movw $(real_handler - real_code + 0x1000), 0x20 * 4\n  movw $0, 0x20 * 4 + 2\n"
    "  mov $8, %cx\n  int $0x20\n"
    "  mov $0x82, %dx\n  out %ax, %dx\n" /* factorial(8), from the handler */
    "  mov %sp, %ax\n  mov $0x84, %dx\n  out %ax, %dx\n"
    "  mov $(real_text - real_code + 0x1000), %si\n  mov $(real_text_end - real_text), %cx\n"
    "  mov $0xe9, %dx\n  cld\n  rep outsb\n"
    "2: hlt\n  jmp 2b\n"
    "real_handler:\n"
    "  mov $1, %ax\n"
    "3: mul %cx\n  loop 3b\n  iret\n"
    "real_text: .ascii \"hello from real mode\\n\"\n"
    "real_text_end:\n"
    "real_end:\n"

    /* --- long */
    ".code64\n"
    "long_code:\n"
    "  mov $2, %ecx\n  xor %ebx, %ebx\n" /* the sum of the primes below 1000 */
    "1: mov $2, %esi\n"
    "2: mov %esi, %eax\n  imul %eax, %eax\n  cmp %ecx, %eax\n  ja 3f\n"
    "  mov %ecx, %eax\n  xor %edx, %edx\n  div %esi\n  inc %esi\n  test %edx, %edx\n  jnz 2b\n  jmp 4f\n"
    "3: add %rcx, %rbx\n"
    "4: inc %ecx\n  cmp $1000, %ecx\n  jb 1b\n"
    "  report 0, %rbx\n"
    "  mov $1, %eax\n  mov $20, %ecx\n" /* factorial(20) */
    "5: imul %rcx, %rax\n  dec %ecx\n  jnz 5b\n"
    "  report 1, %rax\n"
    "  mov $2, %eax\n  cvtsi2sd %eax, %xmm0\n  sqrtsd %xmm0, %xmm0\n" /* the square root of 2, times 10 to the 15th */
    "  mov $1000000000000000, %rax\n  cvtsi2sd %rax, %xmm1\n  mulsd %xmm1, %xmm0\n  cvttsd2si %xmm0, %rax\n"
    "  report 2, %rax\n"
    /* A page fault, whose handler maps the page. */
    "  lea long_pf(%rip), %rax\n  mov $0x17000 + 14 * 16, %edi\n"
    "  mov %ax, (%rdi)\n  movw $8, 2(%rdi)\n  movw $0x8e00, 4(%rdi)\n  shr $16, %rax\n  mov %ax, 6(%rdi)\n  movq $0, "
    "8(%rdi)\n"
    "  movl $0x12345678, 0x18000\n"
    "  mov $0x1000018000, %rdi\n  mov (%rdi), %eax\n"
    "  report 3, %rax\n"
    "  report 4, %r15\n"
    "  mov $1000, %r9d\n  xor %r10d, %r10d\n"
    "6: xor %eax, %eax\n  cpuid\n  mov %eax, %eax\n  cmp $1, %rax\n  cmc\n  adc $0, %r10\n  dec %r9d\n  jnz 6b\n"
    "  report 5, %r10\n"
    "7: hlt\n  jmp 7b\n"
    "long_pf:\n"
    "  mov %cr2, %r15\n  push %rax\n"
    "  mov $0x12003, %eax\n  mov %rax, 0x11000 + 64 * 8\n" /* 0x1000000000 is 0 again */
    "  pop %rax\n  add $8, %rsp\n  iretq\n"
    "long_end:\n"

    /* --- machine */
    ".code16\n"
    "machine_code:\n"
    "  cli\n  xor %ax, %ax\n  mov %ax, %ds\n"
    "  lgdtl machine_gdtr - machine_code + 0x1000\n"
    "  mov %cr0, %eax\n  or $1, %eax\n  mov %eax, %cr0\n"
    "  ljmpl $0x18, $(machine_32 - machine_code + 0x1000)\n"
    "machine_gdtr: .word 0x27\n .long 0x16000\n"
    ".code32\n"
    "machine_32:\n"
    "  mov $0x10, %eax\n  mov %eax, %ds\n  mov %eax, %es\n  mov %eax, %ss\n"
    "  mov %cr4, %eax\n  or $0x620, %eax\n  mov %eax, %cr4\n"
    "  mov $0x10000, %eax\n  mov %eax, %cr3\n"
    "  mov $0xc0000080, %ecx\n  rdmsr\n  or $0x100, %eax\n  wrmsr\n"
    "  mov %cr0, %eax\n  or $0x80000000, %eax\n  mov %eax, %cr0\n"
    "  ljmpl $8, $(machine_64 - machine_code + 0x1000)\n"
    ".code64\n"
    "machine_64:\n"
    "  mov $1, %eax\n  lock xadd %eax, 0x18000\n" /* the first is processor 0 */
    "  mov %eax, %ebp\n  shl $12, %eax\n  lea 0x30000(%rax), %rsp\n"
    "  lidt machine_idtr(%rip)\n"
    "  mov $0xfee00000, %ebx\n  movl $0x1ff, 0xf0(%rbx)\n"
    "  test %ebp, %ebp\n  jnz machine_ap\n"

    "  lea machine_timer(%rip), %rax\n  mov $0x17000 + 0x40 * 16, %edi\n  call machine_gate\n"
    "  lea machine_ping(%rip), %rax\n  mov $0x17000 + 0x41 * 16, %edi\n  call machine_gate\n"
    "  movl $0xb, 0x3e0(%rbx)\n  movl $0x20040, 0x320(%rbx)\n  movl $250000, 0x380(%rbx)\n" /* periodic, divided by 1 */
    "1: cli\n  cmpl $10, 0x18008\n  jae 2f\n  sti\n  hlt\n  jmp 1b\n"
    "2: sti\n  movl $0x10040, 0x320(%rbx)\n" /* masked: no more come */
    "  mov 0x18008, %eax\n  cmp $11, %eax\n  jb 3f\n  mov $10, %eax\n"
    "3: report 0, %rax\n"

    "  movl $0x01000000, 0x310(%rbx)\n  movl $0x4500, 0x300(%rbx)\n" /* INIT to processor 1 */
    "  movl $0x01000000, 0x310(%rbx)\n  movl $0x4601, 0x300(%rbx)\n" /* SIPI: 0x1000 */
    "4: pause\n  cmpl $1, 0x18004\n  jne 4b\n"
    "  mov 0x18000, %eax\n  report 1, %rax\n"
    "  mov $100, %r12d\n"
    "5: mov 0x18010, %eax\n  mov %eax, %r13d\n" /* 100 times: interrupt the other, wait for its answer */
    "  movl $0x01000000, 0x310(%rbx)\n  movl $0x4041, 0x300(%rbx)\n"
    "6: cli\n  cmp 0x18010, %r13d\n  jne 7f\n  sti\n  hlt\n  jmp 6b\n"
    "7: sti\n  dec %r12d\n  jnz 5b\n"
    "  mov 0x18010, %eax\n  report 2, %rax\n"
    "  movl $1, 0x18020\n  call machine_count\n"
    "8: pause\n  cmpl $2, 0x18024\n  jne 8b\n"
    "  mov 0x18028, %rax\n  report 3, %rax\n"
    "  out %al, $0xf4\n"
    "9: hlt\n  jmp 9b\n"

    "machine_ap:\n"
    "  lock incl 0x18004\n" /* its APIC is on: what is sent from now on arrives */
    "1: cli\n  cmpl $0, 0x18020\n  jne 2f\n  sti\n  hlt\n  jmp 1b\n"
    "2: call machine_count\n"
    "3: cli\n  hlt\n  jmp 3b\n"

    "machine_count:\n"
    "  test %ebp, %ebp\n  jnz 1f\n"
    "  movl $0x01000000, 0x310(%rbx)\n  movl $0x4042, 0x300(%rbx)\n" /* wakes processor 1 out of HLT */
    "1: mov $20000, %ecx\n"
    "2: lock incq 0x18028\n  dec %ecx\n  jnz 2b\n"
    "  lock incl 0x18024\n  ret\n"

    "machine_timer:\n"
    "  lock incl 0x18008\n  movl $0, 0xb0(%rbx)\n  iretq\n"
    "machine_ping:\n" /* on processor 1: count and answer; on processor 0: wake up */
    "  test %ebp, %ebp\n  jz 1f\n"
    "  lock incl 0x18010\n"
    "  movl $0, 0x310(%rbx)\n  movl $0x4041, 0x300(%rbx)\n"
    "1: movl $0, 0xb0(%rbx)\n  iretq\n"
    "machine_wake:\n"
    "  movl $0, 0xb0(%rbx)\n  iretq\n"
    "machine_gate:\n"
    "  push %rax\n  mov %ax, (%rdi)\n  movw $8, 2(%rdi)\n  movw $0x8e00, 4(%rdi)\n  shr $16, %rax\n  mov %ax, 6(%rdi)\n"
    "  movq $0, 8(%rdi)\n  lea machine_wake(%rip), %rax\n  mov %ax, 0x17420\n  movw $8, 0x17422\n"
    "  movw $0x8e00, 0x17424\n  shr $16, %rax\n  mov %ax, 0x17426\n  movq $0, 0x17428\n  pop %rax\n  ret\n"
    "machine_idtr: .word 0xfff\n .quad 0x17000\n"
    "machine_end:\n"
    ".popsection\n");

struct result {
    const char *what;
    uint64_t want;
};

struct guest {
    const char *name;
    const char *code, *end;
    bool long_mode, irqchip;
    unsigned cpus, results;
    struct result result[RESULTS];
};

static const struct guest guests[] = {
    {"real", real_code, real_end, .cpus = 1, .results = 3,
     .result = {{"fibonacci(24)", 46368}, {"factorial(8), by INT 0x20", 40320}, {"stack pointer after it", 0x8000}}},
    {"long", long_code, long_end, .long_mode = true, .cpus = 1, .results = 6,
     .result = {{"sum of the primes below 1000", 76127},
                {"factorial(20)", 2432902008176640000},
                {"square root of 2, times 10^15", 1414213562373095},
                {"read after a page fault", 0x12345678},
                {"address of the page fault", 0x1000018000},
                {"CPUID, times", 1000}}},
    {"machine", machine_code, machine_end, .irqchip = true, .cpus = 2, .results = 4,
     .result = {{"APIC timer interrupts", 10},
                {"processors", 2},
                {"interprocessor interrupts answered", 100},
                {"counted under LOCK by two", 40000}}},
};

struct vm {
    const struct guest *g;
    int kvm, fd;
    uint8_t *mem;
    struct kvm_cpuid2 *cpuid;
    unsigned seen; /* results so far, one bit each */
    bool wrong, quiet;
    volatile bool stop;
};

struct vcpu {
    struct vm *vm;
    unsigned number;
    int fd;
    size_t run_size;
    struct kvm_run *run;
    pthread_t thread;
};

static void die(const char *what)
{
    printf("kvmtest: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int call(int fd, unsigned long request, void *arg, const char *what)
{
    int r = ioctl(fd, request, arg);
    if (r < 0) {
        die(what);
    }
    return r;
}

static void put64(struct vm *v, unsigned at, uint64_t value)
{
    memcpy(v->mem + at, &value, sizeof(value));
}

static void vm_create(struct vm *v)
{
    v->fd = call(v->kvm, KVM_CREATE_VM, 0, "KVM_CREATE_VM");
    v->mem = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (v->mem == MAP_FAILED) {
        die("mmap");
    }
    struct kvm_userspace_memory_region region = {.memory_size = MEM_SIZE, .userspace_addr = (uintptr_t)v->mem};
    uint64_t identity = 0xfeffc000;
    /* Where the processor lacks unrestricted guest, KVM wants room for a TSS and a page directory. */
    call(v->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity, "KVM_SET_IDENTITY_MAP_ADDR");
    if (ioctl(v->fd, KVM_SET_TSS_ADDR, 0xfeffd000UL) < 0) {
        die("KVM_SET_TSS_ADDR");
    }
    call(v->fd, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
    if (v->g->irqchip) {
        call(v->fd, KVM_CREATE_IRQCHIP, 0, "KVM_CREATE_IRQCHIP");
    }
    memcpy(v->mem + CODE, v->g->code, (size_t)(v->g->end - v->g->code));
    /* The first 4 GiB as they are, in pages of 2 MiB: PML4, PDPT, four directories. */
    put64(v, PML4, (PML4 + 0x1000) | 3);
    for (unsigned i = 0; i < 4; i++) {
        put64(v, PML4 + 0x1000 + 8 * i, (PML4 + 0x2000 + 0x1000 * i) | 3);
    }
    for (unsigned i = 0; i < 2048; i++) {
        put64(v, PML4 + 0x2000 + 8 * i, (uint64_t)i << 21 | 0x83);
    }
    put64(v, GDT + 8, 0x00209b0000000000);  /* 64-bit code */
    put64(v, GDT + 16, 0x00cf93000000ffff); /* data */
    put64(v, GDT + 24, 0x00cf9b000000ffff); /* 32-bit code */
}

static void vcpu_create(struct vcpu *c)
{
    struct vm *v = c->vm;
    c->fd = call(v->fd, KVM_CREATE_VCPU, (void *)(uintptr_t)c->number, "KVM_CREATE_VCPU");
    c->run_size = (size_t)call(v->kvm, KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE");
    c->run = mmap(NULL, c->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
    if (c->run == MAP_FAILED) {
        die("mmap of a vcpu");
    }
    call(c->fd, KVM_SET_CPUID2, v->cpuid, "KVM_SET_CPUID2");
    struct kvm_sregs s;
    call(c->fd, KVM_GET_SREGS, &s, "KVM_GET_SREGS");
    if (v->g->long_mode) {
        struct kvm_segment code = {
            .selector = 8, .limit = 0xffffffff, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
        struct kvm_segment data = {
            .selector = 16, .limit = 0xffffffff, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
        s.cs = code;
        s.ds = s.es = s.fs = s.gs = s.ss = data;
        s.gdt.base = GDT;
        s.gdt.limit = 0x27;
        s.idt.base = IDT;
        s.idt.limit = 0xfff;
        s.cr0 = 0x80000033;
        s.cr3 = PML4;
        s.cr4 = 0x620;
        s.efer = 0x500;
    } else {
        s.cs.selector = 0;
        s.cs.base = 0;
    }
    call(c->fd, KVM_SET_SREGS, &s, "KVM_SET_SREGS");
    struct kvm_regs r = {.rip = CODE, .rsp = 0x30000, .rflags = 2};
    call(c->fd, KVM_SET_REGS, &r, "KVM_SET_REGS");
}

static void result(struct vm *v, unsigned n, uint64_t value)
{
    if (n >= v->g->results) {
        printf("kvmtest: %s: a result %u, unasked\n", v->g->name, n);
        v->wrong = true;
        return;
    }
    const struct result *r = &v->g->result[n];
    bool bad = value != r->want || (v->seen >> n & 1);
    v->seen |= 1U << n;
    v->wrong |= bad;
    if (bad || !v->quiet) {
        printf("kvmtest: %s: %s: %llu%s\n", v->g->name, r->what, (unsigned long long)value, bad ? " WRONG" : "");
    }
}

static void port(struct vm *v, const struct kvm_run *run)
{
    const uint8_t *data = (const uint8_t *)run + run->io.data_offset;
    unsigned size = run->io.size;
    if (run->io.port == PORT_TEXT) {
        if (!v->quiet) {
            printf("%.*s", (int)(size * run->io.count), (const char *)data);
        }
        return;
    }
    uint16_t value;
    memcpy(&value, data, sizeof(value));
    result(v, (run->io.port - PORT_VALUE) / 2u, value);
}

static void wake(int number)
{
    (void)number;
}

/* Runs a virtual processor until the guest is done: HLT in a machine without KVM's interrupt controllers, else OUT to
 * PORT_END. */
static void *vcpu_run(void *opaque)
{
    struct vcpu *c = opaque;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(c->number % (unsigned)sysconf(_SC_NPROCESSORS_ONLN), &set);
    sched_setaffinity(0, sizeof(set), &set);
    for (;;) {
        if (ioctl(c->fd, KVM_RUN, 0) < 0) {
            if (errno == EINTR && c->vm->stop) {
                return NULL;
            }
            if (errno != EAGAIN) { /* which is INIT, taken while waiting for a SIPI */
                die("KVM_RUN");
            }
            continue;
        }
        switch (c->run->exit_reason) {
        case KVM_EXIT_HLT: return NULL;
        case KVM_EXIT_IO:
            if (c->run->io.port == PORT_END) {
                return NULL;
            }
            port(c->vm, c->run);
            break;
        case KVM_EXIT_MMIO: {
            uint64_t value;
            memcpy(&value, c->run->mmio.data, sizeof(value));
            if (!c->run->mmio.is_write || c->run->mmio.len != 8) {
                printf("kvmtest: %s: an access to 0x%llx\n", c->vm->g->name,
                       (unsigned long long)c->run->mmio.phys_addr);
                c->vm->wrong = true;
            } else {
                result(c->vm, (unsigned)(c->run->mmio.phys_addr - REPORT) / 8, value);
            }
            break;
        }
        default: {
            struct kvm_regs r;
            call(c->fd, KVM_GET_REGS, &r, "KVM_GET_REGS");
            printf("kvmtest: %s: exit reason %u, suberror 0x%x, hardware's 0x%llx, RIP 0x%llx\n", c->vm->g->name,
                   c->run->exit_reason, c->run->internal.suberror,
                   (unsigned long long)c->run->fail_entry.hardware_entry_failure_reason, (unsigned long long)r.rip);
            c->vm->wrong = true;
            return NULL;
        }
        }
    }
}

static bool run_guest(const struct guest *g, int kvm, struct kvm_cpuid2 *cpuid, bool quiet)
{
    struct vm v = {.g = g, .kvm = kvm, .cpuid = cpuid, .quiet = quiet};
    struct vcpu c[2] = {{.vm = &v, .number = 0}, {.vm = &v, .number = 1}};
    vm_create(&v);
    for (unsigned i = 0; i < g->cpus; i++) {
        vcpu_create(&c[i]);
    }
    /* The second waits in KVM for its SIPI, and at the end in HLT, which a signal ends. */
    if (g->cpus == 2) {
        pthread_create(&c[1].thread, NULL, vcpu_run, &c[1]);
    }
    vcpu_run(&c[0]);
    if (v.seen != (1U << g->results) - 1) {
        printf("kvmtest: %s: results are missing (0x%x)\n", g->name, v.seen);
        v.wrong = true;
    }
    if (g->cpus == 2) {
        v.stop = true;
        c[1].run->immediate_exit = 1;
        pthread_kill(c[1].thread, SIGUSR1);
        pthread_join(c[1].thread, NULL);
    }
    for (unsigned i = 0; i < g->cpus; i++) {
        munmap(c[i].run, c[i].run_size); /* the mapping, too, holds the machine */
        close(c[i].fd);
    }
    close(v.fd);
    munmap(v.mem, MEM_SIZE);
    return !v.wrong;
}

int main(int argc, char **argv)
{
    unsigned wrong = 0, times = argc > 1 ? (unsigned)atoi(argv[1]) : 1;
    signal(SIGUSR1, wake);
    setvbuf(stdout, NULL, _IOLBF, 0);
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0) {
        die("/dev/kvm");
    }
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + 128 * sizeof(cpuid->entries[0]));
    if (!cpuid) {
        die("calloc");
    }
    cpuid->nent = 128;
    call(kvm, KVM_GET_SUPPORTED_CPUID, cpuid, "KVM_GET_SUPPORTED_CPUID");
    for (unsigned n = 0; n < times; n++) {
        for (unsigned i = 0; i < sizeof(guests) / sizeof(guests[0]); i++) {
            wrong += !run_guest(&guests[i], kvm, cpuid, n > 0);
        }
    }
    printf("kvmtest: %s\n", wrong ? "WRONG" : "all right");
    return wrong != 0;
}
