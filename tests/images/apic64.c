/* SPDX-License-Identifier: MIT
 *
 * apic64.c: the local APIC and interrupts: registers, self IPIs, priorities, TPR and CR8, EOI, timer modes, x2APIC, the
 * shadow of STI and MOV SS, HLT, NMI blocking. SDM volume 3A, "Advanced Programmable Interrupt Controller (APIC)".
 */
#include "rt.h"

const char image_name[] = IMAGE_NAME;
#define ASM(...) __asm__ volatile(__VA_ARGS__)
#define APIC     0xfee00000ul
enum {
    ID = 0x20,
    VER = 0x30,
    TPR = 0x80,
    PPR = 0xa0,
    EOI = 0xb0,
    LDR = 0xd0,
    DFR = 0xe0,
    SVR = 0xf0,
    ISR = 0x100,
    IRR = 0x200,
    ESR = 0x280,
    ICR = 0x300,
    ICR2 = 0x310,
    LVTT = 0x320,
    LVT0 = 0x350,
    LVT1 = 0x360,
    LVTE = 0x370,
    TICR = 0x380,
    TCCR = 0x390,
    TDCR = 0x3e0
};
static uint32_t rd(unsigned r)
{
    return *(volatile uint32_t *)(APIC + r);
}
static void wr(unsigned r, uint32_t v)
{
    *(volatile uint32_t *)(APIC + r) = v;
}
static bool bit(unsigned base, unsigned v)
{
    return rd(base + v / 32 * 16) >> (v & 31) & 1;
}

static volatile unsigned count, order[16], last_rip_set;
static volatile unsigned long last_rip;
static volatile bool no_eoi, nest;
static void on_irq(struct regs *r)
{
    unsigned v = (unsigned)r->vector;
    if (count < 16)
        order[count] = v;
    count++;
    last_rip = r->rip;
    if (nest && v == 0x50) { /* a higher one comes in between, a lower one waits */
        wr(ICR, 0x40000 | 0x60);
        wr(ICR, 0x40000 | 0x41);
        sti();
        ASM("nop; nop; nop");
        cli();
    }
    if (!no_eoi)
        wr(EOI, 0);
}
static void self(unsigned v)
{
    wr(ICR, 0x40000 | v);
}
static void open_window(void)
{
    ASM("sti; nop; nop; cli" : : : "memory");
}
static bool wait(unsigned n)
{
    for (unsigned long i = 0; i < 4000000 && count < n; i++)
        open_window();
    return count >= n;
}

static void basics(void)
{
    check("APIC base", (rdmsr(0x1b) & ~0xffful & 0xfffffffff) == APIC);
    check_eq("version: integrated", rd(VER) & 0xf0, 0x10);
    wr(SVR, 0x1ff);
    check_eq("SVR", rd(SVR) & 0x1ff, 0x1ff);
    wr(LVT0, 0x10000), wr(LVT1, 0x10000), wr(LVTE, 0x10000), wr(LVTT, 0x10000);
    wr(LVTT, 0x10055);
    check_eq("LVT timer reads back", rd(LVTT), 0x10055);
    wr(TPR, 0x35);
    check_eq("TPR", rd(TPR), 0x35);
    check_eq("PPR follows the TPR", rd(PPR), 0x35);
    check_eq("CR8 is TPR[7:4]", rdcr8(), 3);
    wrcr8(7);
    check_eq("MOV CR8 sets the TPR", rd(TPR), 0x70);
    wrcr8(0);
    wr(LDR, 0x01000000);
    check_eq("LDR", rd(LDR), 0x01000000);
    wr(DFR, 0x0fffffff);
    check_eq("DFR: low bits are ones", rd(DFR), 0x0fffffff);
    wr(DFR, 0xffffffff);
    for (unsigned v = 32; v < 256; v++)
        if (v != RT_RETURN)
            rt_irq[v] = on_irq;
}

static void ipis(void)
{
    count = 0;
    self(0x50);
    check_eq("IF=0: nothing delivered", count, 0);
    check("IRR is set", bit(IRR, 0x50));
    open_window();
    check_eq("delivered after STI", count, 1);
    check_eq("... vector", order[0], 0x50);
    check("IRR is clear", !bit(IRR, 0x50));
    check("ISR is clear after EOI", !bit(ISR, 0x50));
    count = 0;
    self(0x41), self(0x61), self(0x51), self(0x61);
    open_window();
    check("pending interrupts come by priority",
          count == 3 && order[0] == 0x61 && order[1] == 0x51 && order[2] == 0x41);
    count = 0;
    nest = true;
    self(0x50);
    open_window();
    open_window();
    nest = false;
    check("nesting: the higher interrupts, the lower waits",
          count == 3 && order[0] == 0x50 && order[1] == 0x60 && order[2] == 0x41);
    count = 0;
    no_eoi = true;
    self(0x50);
    open_window();
    check("ISR is set until EOI", bit(ISR, 0x50));
    check_eq("PPR is the class in service", rd(PPR), 0x50);
    self(0x5f), self(0x41);
    open_window();
    check_eq("the same class waits", count, 1);
    no_eoi = false;
    wr(EOI, 0);
    open_window();
    check("EOI lets them in", count == 3 && order[1] == 0x5f && order[2] == 0x41);
    count = 0;
    wr(TPR, 0x50);
    self(0x5f);
    open_window();
    check_eq("the TPR holds back its class", count, 0);
    self(0x60);
    open_window();
    check_eq("... and not higher ones", count, 1);
    wrcr8(4);
    open_window();
    check_eq("lower TPR: it comes", count, 2);
    wrcr8(0);
    /* illegal vector */
    wr(ESR, 0);
    if (!rt_on_qemu()) { /* it sends it */
        self(0x0f);
        wr(ESR, 0);
        check_eq("send illegal vector: ESR", rd(ESR) & 0x20, 0x20);
    }
    wr(ESR, 0);
    wr(ESR, 0);
    check_eq("ESR clears", rd(ESR), 0);
    /* by physical and logical destination */
    count = 0;
    wr(ICR2, rd(ID));
    wr(ICR, 0x45);
    open_window();
    check_eq("physical destination: self", count, 1);
    wr(ICR2, 0x01000000);
    wr(ICR, 0x846);
    open_window();
    check_eq("logical destination", count, 2);
    wr(ICR2, 0x02000000);
    wr(ICR, 0x847);
    open_window();
    check_eq("another logical destination", count, 2);
    wr(ICR, 0x80048); /* all including self */
    open_window();
    check_eq("all including self", count, 3);
    wr(ICR, 0xc0049);
    open_window();
    check_eq("all excluding self", count, 3);
    wr(SVR, 0xff);
    check("software disable masks the LVT", (rd(LVTT) & 0x10000) != 0);
    wr(SVR, 0x1ff);
}

static void shadows(void)
{
    count = 0;
    self(0x50);
    unsigned long a;
    ASM("lea 1f(%%rip), %0\n sti\n nop\n 1: nop\n cli" : "=r"(a) : : "memory");
    check_eq("STI: the next instruction runs first", last_rip, a);
    count = 0;
    self(0x50);
    ASM("sti; cli; nop" : : : "memory");
    check_eq("STI; CLI: no window", count, 0);
    unsigned ss;
    ASM("mov %%ss, %0" : "=r"(ss));
    ASM("lea 1f(%%rip), %0\n sti\n nop\n 1: nop\n cli" : "=r"(a) : : "memory");
    count = 0;
    /* MOV SS holds interrupts for one instruction: POPF sets IF, MOV SS follows */
    self(0x50);
    ASM("pushfq\n orl $0x200, (%%rsp)\n lea 1f(%%rip), %0\n popfq\n 1: nop\n nop\n cli" : "=r"(a) : : "memory");
    check_eq("POPF: no shadow", last_rip, a);
    self(0x50);
    ASM("lea 1f(%%rip), %0\n sti\n mov %1, %%ss\n nop\n 1: nop\n cli" : "=r"(a) : "r"(ss) : "memory");
    check("STI; MOV SS: one or two instructions", last_rip == a || last_rip == a - 1);
    count = 0;
    self(0x50);
    ASM("sti; hlt; cli" : : : "memory");
    check_eq("STI; HLT wakes", count, 1);
    /* the interrupt comes while halted: RIP after HLT */
    self(0x50);
    ASM("lea 1f(%%rip), %0\n sti\n hlt\n 1: cli" : "=r"(a) : : "memory");
    check_eq("HLT: RIP of the next instruction", last_rip, a);
}

static volatile unsigned nmis;
static volatile bool nmi_again;
static void settle(void)
{
    for (volatile int i = 0; i < 1000; i++)
        ;
}
static void on_nmi(struct regs *r)
{
    nmis++;
    if (nmi_again) {
        nmi_again = false;
        wr(ICR2, rd(ID)); /* the shorthand for self takes fixed interrupts alone */
        wr(ICR, 0x400);   /* blocked until IRET */
        settle();
        check_eq("NMI is blocked in its handler", nmis, 1);
    }
}
static void nmi(void)
{
    rt_irq[NMI] = on_nmi;
    wr(ICR2, rd(ID));
    nmis = 0;
    wr(ICR, 0x400);
    settle();
    check_eq("NMI with IF=0", nmis, 1);
    nmis = 0, nmi_again = false;
    if (!rt_on_qemu()) {
        nmi_again = true;
        wr(ICR2, rd(ID));
        wr(ICR, 0x400);
        settle();
        check_eq("... and comes after IRET", nmis, 2);
    }
}

static void timer(void)
{
    wr(TDCR, 0xb); /* by 1 */
    wr(LVTT, 0x10000 | 0x70);
    wr(TICR, 0x100000);
    uint32_t a = rd(TCCR);
    for (volatile int i = 0; i < 1000; i++)
        ;
    uint32_t b = rd(TCCR);
    check("the timer counts down", a <= 0x100000 && b < a && b > 0);
    wr(TICR, 0);
    check_eq("initial count 0 stops it", rd(TCCR), 0);
    count = 0;
    wr(LVTT, 0x70);
    wr(TICR, 1000);
    check("one-shot fires", wait(1) && order[0] == 0x70);
    for (volatile int i = 0; i < 100000; i++)
        ;
    open_window();
    check_eq("one-shot fires once", count, 1);
    check_eq("one-shot: count 0", rd(TCCR), 0);
    count = 0;
    wr(LVTT, 0x20070);
    wr(TICR, 20000);
    check("periodic fires again and again", wait(5));
    wr(LVTT, 0x10000);
    wr(TICR, 0);
    open_window(); /* one may have been pending */
    count = 0;
    wr(TDCR, 0x3); /* by 16 */
    check_eq("divide register", rd(TDCR), 3);
    wr(LVTT, 0x10070);
    wr(TICR, 100);
    for (volatile int i = 0; i < 100000; i++)
        ;
    open_window();
    check_eq("masked: nothing", count, 0);
    if (!cpu_has(1, 2, 24)) {
        skip("TSC deadline", "no TSC-deadline timer");
        return;
    }
    wr(LVTT, 0x40071);
    ASM("mfence");
    count = 0;
    uint32_t lo, hi;
    ASM("rdtsc" : "=a"(lo), "=d"(hi));
    wrmsr(0x6e0, ((uint64_t)hi << 32 | lo) + 100000);
    check("TSC deadline is armed", rdmsr(0x6e0) != 0);
    check("TSC deadline fires", wait(1) && order[0] == 0x71);
    check_eq("TSC deadline is disarmed", rdmsr(0x6e0), 0);
    count = 0;
    wrmsr(0x6e0, 1); /* in the past: at once */
    open_window();
    check_eq("a deadline in the past fires at once", count, 1);
    wrmsr(0x6e0, ((uint64_t)hi << 32 | lo) + (1ull << 40));
    wrmsr(0x6e0, 0);
    check_eq("writing 0 disarms", rdmsr(0x6e0), 0);
    wr(LVTT, 0x10000);
}

static void x2apic(void)
{
    struct exc e;
    if (!cpu_has(1, 2, 21)) {
        skip("x2APIC", "no x2APIC");
        return;
    }
    e = TRY(rdmsr(0x802));
    expect_exc("x2APIC MSR in xAPIC mode", e, GP, 0);
    uint32_t id = rd(ID) >> 24;
    wrmsr(0x1b, rdmsr(0x1b) | 0x400);
    check_eq("x2APIC ID", rdmsr(0x802), id);
    check_eq("x2APIC LDR", rdmsr(0x80d), id >> 4 << 16 | 1u << (id & 15));
    wrmsr(0x80f, 0x1ff);
    count = 0;
    wrmsr(0x83f, 0x55);
    open_window();
    e = TRY(wrmsr(0x80d, 0));
    expect_exc("x2APIC LDR is read-only", e, GP, 0);
    e = TRY(wrmsr(0x80b, 1));
    expect_exc("x2APIC EOI of a value that is not 0", e, GP, 0);
    e = TRY(rdmsr(0x80b));
    expect_exc("x2APIC EOI is write-only", e, GP, 0);
    e = TRY(wrmsr(0x808, 0x100));
    expect_exc("x2APIC TPR with reserved bits", e, GP, 0);
    e = TRY(rdmsr(0x80e));
    expect_exc("x2APIC has no DFR", e, GP, 0);
    e = TRY(wrmsr(0x1b, rdmsr(0x1b) & ~0x400ull));
    expect_exc("x2APIC to xAPIC directly", e, GP, 0);
    e = TRY(wrmsr(0x1b, rdmsr(0x1b) & ~0x800ull));
    expect_exc("EXTD without EN", e, GP, 0);
}

static void on_x2(struct regs *r)
{
    count++;
    order[0] = (unsigned)r->vector;
    wrmsr(0x80b, 0);
}

void image_main(void)
{
    basics();
    ipis();
    shadows();
    nmi();
    timer();
    rt_irq[0x55] = on_x2;
    count = 0;
    x2apic();
    if (cpu_has(1, 2, 21))
        check_eq("x2APIC self IPI", count, 1);
}
