/* SPDX-License-Identifier: MIT
 *
 * debug64.c: single step, instruction and data breakpoints, RF, DR6 and DR7, general detect, the shadow of MOV SS, I/O
 * breakpoints. SDM volume 3B, "Debug, Branch Profile, TSC, and Intel Resource Director Technology Features".
 */
#include "rt.h"

const char image_name[] = IMAGE_NAME;
#define ASM(...) __asm__ volatile(__VA_ARGS__)
#define UASM(name, code)                                                                                               \
    __asm__(".pushsection .user, \"ax\"\n.globl " #name "\n" #name ":\n" code "\n    int $0x80\n.popsection\n");       \
    extern char name[]
#define DR6_NONE 0xffff0ff0ul

static struct exc user_f(char *code, unsigned long rflags, unsigned long rdi)
{
    struct go g = {.rip = USER_ADDR(code),
                   .cs = SEL_U64,
                   .rflags = rflags,
                   .rsp = RT_USER_STACK - 64,
                   .ss = SEL_UDATA,
                   .rdi = rdi};
    wrdr6(DR6_NONE);
    return TRY(rt_go(&g));
}

/* A #DB handler that records and returns. */
static unsigned hits;
static struct {
    unsigned long rip, dr6, rflags, rcx;
} hit[16];
static bool stop_tf, set_rf;
static void on_db(struct regs *r)
{
    if (hits < 16) {
        hit[hits].rip = r->rip;
        hit[hits].dr6 = rddr6();
        hit[hits].rflags = r->rflags;
        hit[hits].rcx = r->rcx;
    }
    hits++;
    wrdr6(DR6_NONE);
    if (set_rf)
        r->rflags |= 0x10000;
    if (stop_tf || hits >= 12)
        r->rflags &= ~0x100ul;
}

UASM(u_step, "nop; nop");
UASM(u_step_movss, "mov %ss, %eax; mov %eax, %ss; nop; nop; nop");
UASM(u_step_popss, "nop; nop");
UASM(u_step_rep, "cld; lea -64(%rsp), %rdi; mov $3, %ecx; rep stosb; nop");
UASM(u_step_jmp, "jmp 1f; nop; 1: nop");
UASM(u_step_pushf, "pushfq; pop %rax");
UASM(u_step_popf, "pushq $0x202; popfq; nop; nop");
UASM(u_set_tf, "pushfq; orl $0x100, (%rsp); popfq; nop; nop");
UASM(u_step_int, "int $0x80");
UASM(u_ud, "ud2");
UASM(u_bp_target, "nop; bp_target: nop; nop");
UASM(u_data, "mov %al, (%rdi); data_next: nop; mov (%rdi), %al; data_next2: nop");
UASM(u_data_rep, "mov $4, %ecx; cld; rep stosb; data_rep_next: nop");
UASM(u_two, "mov %rax, (%rdi); two_next: nop");
extern char bp_target[], data_next[], data_next2[], data_rep_next[], two_next[];

static void single_step(void)
{
    struct exc e = user_f(u_step, 0x302, 0);
    expect_exc("TF: #DB after one instruction", e, DB, 0);
    check_eq("TF: RIP of the next instruction", e.rip, USER_ADDR(u_step) + 1);
    check_eq("TF: DR6.BS", e.dr6, DR6_NONE | 1 << 14);
    check_eq("TF: pushed with TF", e.rflags & 0x100, 0x100);
    e = user_f(u_ud, 0x302, 0);
    expect_exc("TF: a fault comes first", e, UD, 0);
    check_eq("TF: the fault's frame has TF", e.rflags & 0x100, 0x100);
    e = user_f(u_step_jmp, 0x302, 0);
    check_eq("TF: jump target", e.rip, USER_ADDR(u_step_jmp) + 3);
    e = user_f(u_step_int, 0x302, 0);
    expect_exc("TF over INT n: the handler runs first", e, RT_RETURN, 0);
    /* Which instructions are stepped: those that follow MOV SS are not trapped before one more has run. */
    rt_irq[DB] = on_db;
    hits = 0, stop_tf = false;
    e = user_f(u_step_movss, 0x302, 0);
    rt_irq[DB] = 0;
    check_eq("TF over MOV SS: first", hit[0].rip, USER_ADDR(u_step_movss) + 2);
    check_eq("TF over MOV SS: next trap after the following instruction", hit[1].rip, USER_ADDR(u_step_movss) + 5);
    check_eq("TF over MOV SS: then one by one", hit[2].rip, USER_ADDR(u_step_movss) + 6);
    rt_irq[DB] = on_db;
    hits = 0;
    e = user_f(u_step_rep, 0x302, 0);
    rt_irq[DB] = 0;
    /* cld, lea, mov, stosb x3, nop, int (its trap is lost) */
    check_eq("TF: REP traps after each iteration", hits, 7);
    check_eq("TF: REP, RCX after the first iteration", hit[3].rcx, 2);
    check_eq("TF: REP, RF is pushed between iterations", hit[3].rflags & 0x10000, 0x10000);
    check_eq("TF: REP, RF is not pushed after the last", hit[5].rflags & 0x10000, 0);
    check("TF: REP, RIP stays until the last", hit[3].rip == hit[4].rip && hit[5].rip == hit[4].rip + 2);
    e = user_f(u_step_pushf, 0x302, 0);
    rt_irq[DB] = on_db;
    hits = 0;
    e = user_f(u_step_popf, 0x302, 0);
    rt_irq[DB] = 0;
    check_eq("POPF that clears TF still traps", hits, 2);
    check_eq("... after it", hit[1].rip, USER_ADDR(u_step_popf) + 6);
    e = user_f(u_set_tf, 0x202, 0);
    expect_exc("POPF that sets TF", e, DB, 0);
    check_eq("... traps after the next instruction", e.rip, USER_ADDR(u_set_tf) + 1 + 7 + 1 + 1);
    /* In the kernel: the handler of INT starts with TF clear. */
    check_eq("TF is clear in the handler", rdflags() & 0x100, 0);
}

static void breakpoints(void)
{
    unsigned long data = RT_USER_STACK - 4096;
    wrdr0(USER_ADDR(bp_target));
    wrdr7(0x401); /* L0, execute, length 1 */
    struct exc e = user_f(u_bp_target, 0x202, 0);
    expect_exc("instruction breakpoint", e, DB, 0);
    check_eq("... before the instruction", e.rip, USER_ADDR(bp_target));
    check_eq("... DR6.B0", e.dr6, DR6_NONE | 1);
    check_eq("... RF is not pushed for an instruction breakpoint", e.rflags & 0x10000, 0);
    struct go g = {
        .rip = USER_ADDR(bp_target), .cs = SEL_U64, .rflags = 0x10202, .rsp = RT_USER_STACK - 64, .ss = SEL_UDATA};
    e = TRY(rt_go(&g));
    expect_exc("IRET with RF steps over the breakpoint", e, RT_RETURN, 0);
    check_eq("RF is clear afterwards", e.rflags & 0x10000, 0);
    rt_irq[DB] = on_db;
    set_rf = true, hits = 0;
    e = user_f(u_bp_target, 0x202, 0);
    rt_irq[DB] = 0;
    set_rf = false;
    check_eq("handler that sets RF: hit once", hits, 1);
    wrdr7(0x400);
    e = user_f(u_bp_target, 0x202, 0);
    expect_exc("disabled breakpoint", e, RT_RETURN, 0);
    check("disabled: DR6 has no BS", (rddr6() & 0x4000) == 0);

    wrdr1(data);
    wrdr7(0x400 | 1 << 2 | 1 << 20); /* L1, write, length 1 */
    e = user_f(u_data, 0x202, data);
    expect_exc("data write breakpoint", e, DB, 0);
    check_eq("... after the instruction", e.rip, USER_ADDR(data_next));
    check_eq("... DR6.B1", e.dr6, DR6_NONE | 2);
    check_eq("... RF not pushed", e.rflags & 0x10000, 0);
    e = user_f(u_data, 0x202, data + 1);
    expect_exc("data write one byte beside", e, RT_RETURN, 0);
    wrdr7(0x400 | 1 << 2 | 3 << 20); /* read or write */
    g = (struct go){.rip = USER_ADDR(data_next),
                    .cs = SEL_U64,
                    .rflags = 0x202,
                    .rsp = RT_USER_STACK - 64,
                    .ss = SEL_UDATA,
                    .rdi = data};
    wrdr6(DR6_NONE);
    e = TRY(rt_go(&g));
    expect_exc("data read breakpoint", e, DB, 0);
    check_eq("... after the instruction", e.rip, USER_ADDR(data_next2));
    /* lengths: DR address is aligned to the length; an 8-byte write that overlaps a 2-byte watch */
    wrdr1(data + 6);
    wrdr7(0x400 | 1 << 2 | 1 << 20 | 1 << 22); /* write, length 2 */
    e = user_f(u_two, 0x202, data);
    expect_exc("8-byte write over a 2-byte watch", e, DB, 0);
    e = user_f(u_two, 0x202, data + 8);
    expect_exc("8-byte write beside it", e, RT_RETURN, 0);
    wrdr7(0x400 | 1 << 2 | 1 << 20 | 2 << 22); /* length 8 */
    wrdr1(data + 8);
    e = user_f(u_two, 0x202, data + 15);
    expect_exc("write into the last byte of an 8-byte watch", e, DB, 0);
    /* REP: after the iteration */
    wrdr1(data + 1);
    wrdr7(0x400 | 1 << 2 | 1 << 20);
    e = user_f(u_data_rep, 0x202, data);
    expect_exc("data breakpoint in REP STOS", e, DB, 0);
    check("... at an iteration's or the instruction's end",
          e.rip == USER_ADDR(data_rep_next) || e.rip == USER_ADDR(data_rep_next) - 2);
    /* B bits are set for breakpoints that match but are not enabled (may be): only the enabled one is certain. */
    wrdr0(data), wrdr1(data);
    wrdr7(0x400 | 1 << 0 | 1 << 2 | 1 << 16 | 1 << 20);
    e = user_f(u_data, 0x202, data);
    check_eq("two breakpoints at once: B0 and B1", e.dr6 & 3, 3);
    /* with TF: one #DB with both */
    wrdr7(0x400 | 1 << 2 | 1 << 20);
    e = user_f(u_data, 0x302, data);
    check_eq("data breakpoint and single step in one #DB", e.dr6 & 0x4002, 0x4002);
    wrdr7(0x400);
}

static void registers(void)
{
    struct exc e;
    wrdr7(0x400);
    check_eq("DR7 at rest", rddr7(), 0x400);
    wrdr7(0xd000);
    check_eq("DR7: reserved bits", rddr7(), 0x400);
    wrdr7(0x400);
    e = TRY(ASM("mov %0, %%db7" : : "r"(1ul << 32)));
    expect_exc("DR7 with a high bit", e, GP, 0);
    e = TRY(ASM("mov %0, %%db6" : : "r"(1ul << 32)));
    expect_exc("DR6 with a high bit", e, GP, 0);
    wrdr6(0);
    check_eq("DR6: bits that read as 1", rddr6() & 0xfffe0ff0, 0xfffe0ff0);
    check_eq("DR6: bit 12 reads as 0", rddr6() & 0x1000, 0);
    wrdr6(DR6_NONE);
    wrdr0(0x123456789abcdef0);
    check_eq("DR0 holds 64 bits", rddr0(), 0x123456789abcdef0);
    unsigned long v;
    ASM("mov %%db4, %0" : "=r"(v));
    check_eq("DR4 is DR6 with CR4.DE=0", v, rddr6());
    wrcr4(rdcr4() | 8);
    e = TRY(ASM("mov %%db4, %0" : "=r"(v)));
    expect_exc("DR4 with CR4.DE=1", e, UD, 0);
    e = TRY(ASM("mov %0, %%db5" : : "r"(0x400ul)));
    expect_exc("DR5 with CR4.DE=1", e, UD, 0);
    /* General detect */
    wrdr6(DR6_NONE);
    wrdr7(0x400 | 1 << 13);
    e = TRY(ASM("mov %%db0, %0" : "=r"(v)));
    expect_exc("GD: MOV DR", e, DB, 0);
    check_eq("GD: DR6.BD", e.dr6 & 0x2000, 0x2000);
    check_eq("GD: DR7.GD is clear in the handler", rddr7() & 0x2000, 0);
    wrdr7(0x400);
    wrdr6(DR6_NONE);
    /* I/O breakpoints need CR4.DE */
    wrdr2(0x80);
    wrdr7(0x400 | 1 << 4 | 2 << 24);
    e = TRY(ASM("xor %%eax, %%eax; outb %%al, $0x80; nop" : : : "eax"));
    expect_exc("I/O breakpoint", e, DB, 0);
    check_eq("I/O breakpoint: DR6.B2", e.dr6 & 0xf, 4);
    wrcr4(rdcr4() & ~8ul);
    wrdr7(0x400);
    wrdr6(DR6_NONE);
    /* ICEBP: a trap, no DR6 bits */
    e = TRY(ASM(".byte 0xf1"));
    expect_exc("INT1", e, DB, 0);
    check_eq("INT1: no DR6 bits", e.dr6 & 0xe00f, 0);
}

void image_main(void)
{
    registers();
    single_step();
    breakpoints();
}
