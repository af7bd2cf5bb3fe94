/* SPDX-License-Identifier: MIT
 *
 * A guest of the reference VMM that tries what the VMM emulates: device registers in memory by every kind of
 * instruction, string I/O, MSRs, control registers, interrupts through the 8259s, the I/O APIC and the local APIC,
 * NMIs, single step over exits. Prints "ok NAME" or "FAIL NAME ..." through port 0xe9 and ends through port 0xf4.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LAPIC  0xfee00000ul
#define IOAPIC 0xfec00000ul

static inline void outb(uint16_t p, uint8_t v)
{
    __asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(p));
}
static inline uint8_t inb(uint16_t p)
{
    uint8_t v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(p));
    return v;
}
static inline uint32_t inl(uint16_t p)
{
    uint32_t v;
    __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(p));
    return v;
}
static inline uint64_t rdmsr(uint32_t n)
{
    uint32_t a, d;
    __asm__ volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(n));
    return (uint64_t)d << 32 | a;
}
static inline void wrmsr(uint32_t n, uint64_t v)
{
    __asm__ volatile("wrmsr" ::"c"(n), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
}
static inline uint64_t rdtsc(void)
{
    uint32_t a, d;
    __asm__ volatile("rdtsc" : "=a"(a), "=d"(d));
    return (uint64_t)d << 32 | a;
}
static inline volatile uint32_t *reg(uint64_t a)
{
    return (volatile uint32_t *)a;
}

/* ---- telling ---- */

static unsigned failures;

static void put(const char *s)
{
    while (*s) {
        outb(0xe9, (uint8_t)*s++);
    }
}

static void put_hex(uint64_t v)
{
    for (int i = 60; i >= 0; i -= 4) {
        outb(0xe9, (uint8_t) "0123456789abcdef"[v >> i & 15]);
    }
}

static void check(const char *name, uint64_t got, uint64_t want)
{
    if (got == want) {
        put("ok ");
        put(name);
    } else {
        failures++;
        put("FAIL ");
        put(name);
        put(": got ");
        put_hex(got);
        put(", want ");
        put_hex(want);
    }
    put("\n");
}

/* ---- exceptions and interrupts ---- */

struct frame {
    uint64_t ip, cs, flags, sp, ss;
};
static volatile uint64_t caught, error, fault_ip, cr2, dr6;
static volatile uint64_t resume_at; /* where an exception goes on; 0: where it was */
static volatile unsigned ticks, pic_ticks, nmis, nmi_depth, nmi_deepest, steps;
static volatile uint64_t step_ip[8];

#define ISR __attribute__((interrupt, target("general-regs-only")))

static void caught_at(struct frame *f, uint64_t vector, uint64_t e)
{
    caught = vector;
    error = e;
    fault_ip = f->ip;
    if (resume_at) {
        f->ip = resume_at;
    }
}
ISR static void on_ud(struct frame *f)
{
    caught_at(f, 6, 0);
}
ISR static void on_gp(struct frame *f, uint64_t e)
{
    caught_at(f, 13, e);
}
ISR static void on_pf(struct frame *f, uint64_t e)
{
    uint64_t v;
    __asm__ volatile("mov %%cr2, %0" : "=r"(v));
    cr2 = v;
    caught_at(f, 14, e);
}
ISR static void on_db(struct frame *f)
{
    uint64_t v;
    __asm__ volatile("mov %%dr6, %0" : "=r"(v));
    dr6 = v;
    if (steps < 8) {
        step_ip[steps] = f->ip;
    }
    if (++steps == 4) {
        f->flags &= ~0x100ul;
    }
}
ISR static void on_apic(struct frame *f)
{
    ticks++;
    if (rdmsr(0x1b) & 0x400) {
        wrmsr(0x80b, 0);
    } else {
        *reg(LAPIC + 0xb0) = 0;
    }
}
ISR static void on_pic(struct frame *f)
{
    pic_ticks++;
    outb(0x20, 0x20);
}
ISR static void on_nmi(struct frame *f)
{
    nmis++;
    if (++nmi_depth > nmi_deepest) {
        nmi_deepest = nmi_depth;
    }
    if (nmis == 1) { /* another one: it must wait for this handler's IRET */
        *reg(LAPIC + 0x310) = 0;
        *reg(LAPIC + 0x300) = 0x4400;
        for (volatile int i = 0; i < 1000; i++) {
        }
    }
    nmi_depth--;
}

static struct {
    uint16_t lo, sel;
    uint8_t ist, type;
    uint16_t mid;
    uint32_t hi, zero;
} idt[256];

static void gate(unsigned n, void *fn)
{
    uint64_t a = (uint64_t)fn;
    idt[n].lo = (uint16_t)a;
    idt[n].sel = 0x10;
    idt[n].type = 0x8e;
    idt[n].mid = (uint16_t)(a >> 16);
    idt[n].hi = (uint32_t)(a >> 32);
}

/* Runs one instruction; the vector of the exception that it raises, or 0. */
#define TRY(insn)                                                                                                      \
    ({                                                                                                                 \
        caught = 0;                                                                                                    \
        __asm__ volatile("lea 1f(%%rip), %%r11\n mov %%r11, %0\n" insn "\n1:"                                          \
                         : "=m"(resume_at)                                                                             \
                         :                                                                                             \
                         : "rax", "rcx", "rdx", "rsi", "rdi", "r11", "memory", "cc");                                  \
        resume_at = 0;                                                                                                 \
        caught;                                                                                                        \
    })

/* ---- the tests ---- */

static void device_registers(void)
{
    volatile uint32_t *select = reg(IOAPIC), *window = reg(IOAPIC + 0x10);
    uint32_t v, w;
    uint64_t q, f;
    *select = 1;
    check("mov r32, m", *window, 0x170020);
    __asm__ volatile("movzbl (%1), %0" : "=r"(v) : "r"(window));
    check("movzx r32, m8", v, 0x20);
    __asm__ volatile("movswq 2(%1), %0" : "=r"(q) : "r"(window));
    check("movsx r64, m16", q, 0x17);
    __asm__ volatile("movl $0, (%0)" ::"r"(select));
    __asm__ volatile("movl $0x05000000, (%0)" ::"r"(window));
    check("mov m, imm", *window, 0x05000000);
    __asm__ volatile("orl $0x0a000000, (%0)" ::"r"(window) : "cc");
    check("or m, imm", *window, 0x0f000000);
    v = 0xf7ffffff;
    __asm__ volatile("andl %1, (%0)" ::"r"(window), "r"(v) : "cc");
    check("and m, r", *window, 0x07000000);
    __asm__ volatile("xorl $0x04000000, (%0)" ::"r"(window) : "cc");
    check("xor m, imm", *window, 0x03000000);
    v = 0x01000000;
    __asm__ volatile("addl %1, (%0)" ::"r"(window), "r"(v) : "cc");
    __asm__ volatile("subl $0x02000000, (%0)" ::"r"(window) : "cc");
    check("add, sub", *window, 0x02000000);
    v = 0x09000000;
    __asm__ volatile("xchgl %0, (%1)" : "+r"(v) : "r"(window));
    check("xchg gives", v, 0x02000000);
    check("xchg takes", *window, 0x09000000);
    __asm__ volatile("cmpl $0x09000000, (%1)\n pushfq\n popq %0" : "=r"(f) : "r"(window) : "cc");
    check("cmp equal: ZF, PF", f & 0x8d5, 0x44);
    __asm__ volatile("cmpl $0x09000001, (%1)\n pushfq\n popq %0" : "=r"(f) : "r"(window) : "cc");
    check("cmp below: CF, SF, AF, PF", f & 0x8d5, 0x95);
    __asm__ volatile("testl $0x08000000, (%1)\n pushfq\n popq %0" : "=r"(f) : "r"(window) : "cc");
    check("test", f & 0x8d5, 0x04);
    __asm__ volatile("movabsl 0xfec00010, %%eax" : "=a"(v));
    check("mov eax, moffs", v, 0x09000000);
    w = 0x04000000;
    __asm__ volatile("mov %1, %%r9d\n mov %%r9d, (%0)" ::"r"(window), "r"(w) : "r9");
    check("mov m, r9d", *window, 0x04000000);
    /* strings */
    static uint32_t buf[4] = {1, 2, 3, 4};
    const void *from = (const void *)window;
    void *to = buf;
    uint64_t n = 3;
    __asm__ volatile("std\n cld\n rep movsl" : "+S"(from), "+D"(to), "+c"(n)::"memory");
    check("rep movs: count", n, 0);
    check("rep movs: first", buf[0], 0x04000000);
    check("rep movs: to", (uint64_t)to, (uint64_t)(buf + 3));
    to = (void *)window;
    n = 1;
    __asm__ volatile("rep stosl" : "+D"(to), "+c"(n) : "a"(0x06000000) : "memory");
    check("stos", *window, 0x06000000);
    from = (const void *)window;
    __asm__ volatile("lodsl" : "=a"(v), "+S"(from)::"memory");
    check("lods", v, 0x06000000);
    check("nothing there reads as ones", *reg(0xd0000000), 0xffffffff);
    *reg(0xd0000000) = 5;
    check("and takes nothing", *reg(0xd0000000), 0xffffffff);
}

static void strings_of_ports(void)
{
    static const char text[] = "string output\n";
    const char *from = text;
    uint64_t n = sizeof(text) - 1;
    __asm__ volatile("rep outsb" : "+S"(from), "+c"(n) : "d"(0xe9) : "memory");
    check("rep outs: count", n, 0);
    check("rep outs: from", (uint64_t)from, (uint64_t)(text + sizeof(text) - 1));
    put("ok rep outs ");
    wrmsr(0xc0000100, (uint64_t)text + 7);
    from = 0;
    n = 7;
    __asm__ volatile("rep outsb %%fs:(%%rsi), %%dx" : "+S"(from), "+c"(n) : "d"(0xe9) : "memory");
    check("rep outs of FS", (uint64_t)from, 7);
    uint8_t got[8] = {0};
    void *to = got;
    n = 5;
    __asm__ volatile("rep insb" : "+D"(to), "+c"(n) : "d"(0xe9) : "memory");
    check("rep ins", got[0] == 0xe9 && got[4] == 0xe9 && got[5] == 0, true);
    /* a fault in the middle: the page after the 4 GiB that the boot tables map is not there */
    from = (const char *)0xfffffff8ul + 0x8;
    resume_at = 0;
    uint64_t vector = TRY("mov $2, %%ecx\n movabs $0x100000000, %%rsi\n mov $0xe9, %%edx\n rep outsb");
    check("outs of what is not mapped: #PF", vector, 14);
    check("its error code", error, 0);
    check("its CR2", cr2, 0x100000000);
    vector = TRY("mov $1, %%ecx\n movabs $0x100000004, %%rdi\n mov $0xe9, %%edx\n rep insb");
    check("ins to what is not mapped: #PF", vector, 14);
    check("its error code: write", error, 2);
    check("in of no device: ones", inl(0x5678), 0xffffffff);
}

static void cpuid_and_msrs(void)
{
    uint32_t a = 1, b, c, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d));
    check("CPUID: a hypervisor", c >> 31, 1);
    check("CPUID: no VMX", c >> 5 & 1, 0);
    a = 0x80000001;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d));
    check("CPUID: no SVM", c >> 2 & 1, 0);
    check("RDMSR of none: #GP", TRY("mov $0x12345, %%ecx\n rdmsr"), 13);
    check("its error code", error, 0);
    check("WRMSR of a bad MTRR type: #GP", TRY("mov $0x2ff, %%ecx\n mov $7, %%eax\n xor %%edx, %%edx\n wrmsr"), 13);
    check("XSETBV without x87: #GP", TRY("xor %%ecx, %%ecx\n xor %%eax, %%eax\n xor %%edx, %%edx\n xsetbv") != 0, true);
    check("MOV CR4 of a reserved bit: #GP", TRY("mov %%cr4, %%rax\n bts $31, %%rax\n mov %%rax, %%cr4"), 13);
    check("VMCALL: #UD", TRY("vmcall"), 6);
    check("VMMCALL: #UD", TRY("vmmcall"), 6);
    uint64_t t = rdtsc();
    wrmsr(0x3b, rdmsr(0x3b) + 1000000000);
    check("TSC_ADJUST moves the TSC", rdtsc() - t > 1000000000 && rdtsc() - t < 1100000000, true);
    wrmsr(0x3b, 0);
    wrmsr(0x10, 5);
    check("the TSC can be set", rdtsc() < 100000000, true);
    check("and TSC_ADJUST follows", rdmsr(0x3b) != 0, true);
    __asm__ volatile("wbinvd");
    uint64_t cr0;
    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
    __asm__ volatile("mov %0, %%cr0" ::"r"(cr0 | 0x40000000));
    uint64_t now;
    __asm__ volatile("mov %%cr0, %0" : "=r"(now));
    check("CR0.CD reads as written", now, cr0 | 0x40000000);
    __asm__ volatile("mov %0, %%cr0" ::"r"(cr0));
}

static void wait_for(volatile unsigned *what, unsigned n)
{
    for (unsigned i = 0; *what < n && i < 1000; i++) {
        __asm__ volatile("sti\n hlt\n cli");
    }
}

static void interrupts(void)
{
    /* The 8259s through LINT0, as firmware leaves it. */
    static const uint8_t icw[] = {0x11, 0x20, 0x04, 0x01};
    for (unsigned i = 0; i < 4; i++) {
        outb(i ? 0x21 : 0x20, icw[i]);
    }
    outb(0x21, 0xfe);
    outb(0x43, 0x34);
    outb(0x40, 0xa9);
    outb(0x40, 0x04); /* 1 ms */
    wait_for(&pic_ticks, 3);
    check("PIT through 8259 and LINT0", pic_ticks >= 3, true);
    outb(0x21, 0xff);
    /* The same line through the I/O APIC's pin 2. */
    *reg(IOAPIC) = 0x15;
    *reg(IOAPIC + 0x10) = 0;
    *reg(IOAPIC) = 0x14;
    *reg(IOAPIC + 0x10) = 0x40;
    wait_for(&ticks, 3);
    check("PIT through the I/O APIC", ticks >= 3, true);
    *reg(IOAPIC + 0x10) = 0x10040;
    outb(0x43, 0x30);
    ticks = 0;
    /* Self-IPI, held back by CR8. */
    __asm__ volatile("mov %0, %%cr8" ::"r"(4ul));
    *reg(LAPIC + 0x300) = 0x40041;
    __asm__ volatile("sti\n nop\n nop\n cli");
    check("CR8 holds vector 0x41 back", ticks, 0);
    check("it is in IRR", *reg(LAPIC + 0x220) & 2, 2);
    __asm__ volatile("mov %0, %%cr8" ::"r"(3ul));
    __asm__ volatile("sti\n nop\n nop\n cli");
    check("a lower CR8 lets it through", ticks, 1);
    uint64_t cr8;
    __asm__ volatile("mov %%cr8, %0" : "=r"(cr8));
    check("CR8 reads as written", cr8, 3);
    check("and is the APIC's TPR", *reg(LAPIC + 0x80), 0x30);
    __asm__ volatile("mov %0, %%cr8" ::"r"(0ul));
    /* The timer, one-shot, then TSC-deadline in x2APIC mode. */
    ticks = 0;
    *reg(LAPIC + 0x3e0) = 0xb;
    *reg(LAPIC + 0x320) = 0x42;
    *reg(LAPIC + 0x380) = 10000;
    wait_for(&ticks, 1);
    check("APIC timer, one-shot", ticks, 1);
    /* NMIs: the second waits for the first one's handler. */
    *reg(LAPIC + 0x310) = 0;
    *reg(LAPIC + 0x300) = 0x4400;
    for (volatile int i = 0; i < 20000000 && nmis < 2; i++) {
    }
    check("two NMIs", nmis, 2);
    check("one after the other", nmi_deepest, 1);
    wrmsr(0x1b, rdmsr(0x1b) | 0x400);
    check("x2APIC: version", rdmsr(0x803) & 0xff, *reg(LAPIC + 0x30) == 0xffffffff ? (rdmsr(0x803) & 0xff) : 0);
    check("x2APIC: no MMIO", *reg(LAPIC + 0x30), 0xffffffff);
    check("x2APIC: EOI of 1 is #GP", TRY("mov $0x80b, %%ecx\n mov $1, %%eax\n xor %%edx, %%edx\n wrmsr"), 13);
    ticks = 0;
    wrmsr(0x832, 2 << 17 | 0x43);
    wrmsr(0x6e0, rdtsc() + 50000);
    wait_for(&ticks, 1);
    check("APIC timer, TSC-deadline", ticks, 1);
    ticks = 0;
    wrmsr(0x83f, 0x44);
    __asm__ volatile("sti\n nop\n nop\n cli");
    check("x2APIC: self-IPI", ticks, 1);
}

static void single_step(void)
{
    extern char step_cpuid[], step_after[];
    __asm__ volatile("push %%rbx\n pushfq\n orq $0x100, (%%rsp)\n popfq\n"
                     "step_cpuid: cpuid\n"
                     "step_after: nop\n nop\n nop\n nop\n pop %%rbx"
                     :
                     : "a"(0)
                     : "rcx", "rdx", "cc", "memory");
    check("single step: after CPUID", step_ip[0], (uint64_t)step_after);
    check("single step: after the next", step_ip[1], (uint64_t)step_after + 1);
    check("single step: DR6.BS", dr6 >> 14 & 1, 1);
    (void)step_cpuid;
}

void guest_main(void)
{
    gate(1, on_db);
    gate(2, on_nmi);
    gate(6, on_ud);
    gate(13, on_gp);
    gate(14, on_pf);
    gate(0x20, on_pic);
    for (unsigned i = 0x40; i < 0x48; i++) {
        gate(i, on_apic);
    }
    struct __attribute__((packed)) {
        uint16_t limit;
        uint64_t base;
    } idtr = {sizeof(idt) - 1, (uint64_t)idt};
    __asm__ volatile("lidt %0" ::"m"(idtr));
    device_registers();
    strings_of_ports();
    cpuid_and_msrs();
    interrupts();
    single_step();
    put(failures ? "failed\n" : "done\n");
    outb(0xf4, failures ? 1 : 0);
    for (;;) {
        __asm__ volatile("cli\n hlt");
    }
}

__asm__(".section .start, \"ax\"\n .globl start\n start: lea stack_top(%rip), %rsp\n call guest_main\n"
        ".section .bss\n .balign 16\n .skip 65536\n stack_top:\n .text\n");
