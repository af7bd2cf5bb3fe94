/* SPDX-License-Identifier: MIT
 *
 * exc64.c: exceptions of 64-bit and compatibility mode: which vector, which error code, which instruction pointer.
 * SDM volume 3A, "Interrupt and Exception Handling".
 */
#include "rt.h"

const char image_name[] = IMAGE_NAME;
#define ASM(...) __asm__ volatile(__VA_ARGS__)
#define UASM(name, code)                                                                                               \
    __asm__(".pushsection .user, \"ax\"\n.globl " #name "\n" #name ":\n" code "\n    int $0x80\n.popsection\n");       \
    extern char name[]

/* Code for CPL 3. */
UASM(u_ok, "nop");
UASM(u_hlt, "hlt");
UASM(u_cli, "cli");
UASM(u_sti, "sti");
UASM(u_in, "inb $0x80, %al");
UASM(u_out, "outb %al, $0x80");
UASM(u_rdmsr, "rdmsr");
UASM(u_wrmsr, "wrmsr");
UASM(u_cr0, "mov %cr0, %rax");
UASM(u_cr8, "mov %cr8, %rax");
UASM(u_cr1, ".byte 0x0f, 0x20, 0xc8"); /* MOV from CR1: #UD at every CPL */
UASM(u_dr0, "mov %db0, %rax");
UASM(u_lgdt, "lgdt (%rsp)");
UASM(u_lidt, "lidt (%rsp)");
UASM(u_lldt, "lldt %ax");
UASM(u_ltr, "ltr %ax");
UASM(u_lmsw, "lmsw %ax");
UASM(u_clts, "clts");
UASM(u_invd, "invd");
UASM(u_wbinvd, "wbinvd");
UASM(u_invlpg, "invlpg (%rsp)");
UASM(u_swapgs, "swapgs");
UASM(u_sysret, "sysretq");
UASM(u_sysexit, "sysexitl");
UASM(u_int3, "int3");
UASM(u_int1, ".byte 0xf1");
UASM(u_int20, "int $0x20");
UASM(u_int0, "int $0");
UASM(u_into, ".byte 0xce");
UASM(u_rdpmc, "rdpmc");
UASM(u_xsetbv, "xsetbv");
UASM(u_iretq_null, "pushq $0; pushq $0; pushq $2; pushq $0; pushq %rax; iretq");
UASM(u_movss0, "xor %eax, %eax; mov %eax, %ss");
UASM(u_movss_k, "mov $0x10, %eax; mov %eax, %ss");
UASM(u_movds_k, "mov $0x10, %eax; mov %eax, %ds");
UASM(u_movds_0, "xor %eax, %eax; mov %eax, %ds; mov %ds, %eax; mov $0x23, %ecx; mov %ecx, %ds");
UASM(u_movds_beyond, "mov $0x5003, %eax; mov %eax, %ds");
UASM(u_movss_beyond, "mov $0x5003, %eax; mov %eax, %ss");
UASM(u_movcs, ".byte 0x8e, 0xc8"); /* MOV to CS: #UD */
UASM(u_align, "pushfq; orl $0x40000, (%rsp); popfq; mov 1(%rsp), %rax");
UASM(u_align_end, "pushfq; orl $0x40000, (%rsp); popfq; mov $0x7fffffffffff, %rax; mov (%rax), %rax");
UASM(u_align_out, "pushfq; orl $0x40000, (%rsp); popfq; mov $0x800000000001, %rax; mov (%rax), %rax");
UASM(u_align_byte, "pushfq; orl $0x40000, (%rsp); popfq; mov 1(%rsp), %al; pushfq; andl $~0x40000, (%rsp); popfq");
UASM(u_noncanon, "mov $0x8000000000000000, %rax; mov (%rax), %rax");
UASM(u_noncanon_ss, "mov $0x8000000000000000, %rbp; mov (%rbp), %rax");
UASM(u_noncanon_push, "mov $0x8000000000000000, %rsp; push %rax");
UASM(u_noncanon_jmp, "mov $0x8000000000000000, %rax; jmp *%rax");
UASM(u_kernel_read, "mov 0x100000, %eax");
UASM(u_kernel_write, "mov %eax, 0x100000");
UASM(u_kernel_jump, "mov $0x100000, %eax; jmp *%rax");
UASM(u_absent_read, "mov 0x40001000, %eax");
UASM(u_absent_write, "lock incl 0x40001000");
UASM(u_popf_iopl, "pushq $0x3202; popfq; pushfq; pop %rax"); /* IOPL and IF are not changed at CPL 3 */
UASM(u_syscall, "syscall");
UASM(u_sysenter, "sysenter");
__asm__(".pushsection .user, \"ax\"\n.code32\n.globl c_ok, c_aam0, c_into, c_bound, c_es0, c_pushcs, c_wrap, "
        "c_cmpxchg, c_les\n"
        "c_ok: int $0x80\n"
        "c_aam0: .byte 0xd4, 0\n int $0x80\n"
        "c_into: movb $0x7f, %al\n incb %al\n into\n int $0x80\n"
        "c_bound: movl $5, %eax\n pushl $4\n pushl $1\n bound %eax, (%esp)\n int $0x80\n"
        "c_es0: xorl %eax, %eax\n movl %eax, %es\n movl %es:(%esp), %eax\n int $0x80\n"
        "c_pushcs: pushl %cs\n popl %eax\n int $0x80\n"
        "c_wrap: movl $0xffffffff, %eax\n movl 2(%eax), %eax\n int $0x80\n" /* 32-bit wrap: address 1 */
        "c_cmpxchg: .byte 0xf0, 0x40\n int $0x80\n"                         /* LOCK INC reg: #UD */
        "c_les: .byte 0xc4, 0xc0\n int $0x80\n" /* LES with a register operand (and no VEX without OSXSAVE): #UD */
        ".code64\n.popsection\n");
extern char c_ok[], c_aam0[], c_into[], c_bound[], c_es0[], c_pushcs[], c_wrap[], c_cmpxchg[], c_les[];

static struct exc user(char *code)
{
    struct go g = {.rip = USER_ADDR(code), .cs = SEL_U64, .rflags = 0x202, .rsp = RT_USER_STACK - 64, .ss = SEL_UDATA};
    return TRY(rt_go(&g));
}
static struct exc user32(char *code)
{
    struct go g = {.rip = USER_ADDR(code), .cs = SEL_U32, .rflags = 0x202, .rsp = RT_USER_STACK - 64, .ss = SEL_UDATA};
    ASM("mov %0, %%ds; mov %0, %%es" : : "r"(SEL_UDATA)); /* IRET to CPL 3 makes DPL 0 data segments null */
    return TRY(rt_go(&g));
}

static void user_faults(void)
{
    static const struct {
        const char *name;
        char *code;
        unsigned vector;
        unsigned long error;
    } t[] = {
        {"cpl3 ok", u_ok, RT_RETURN, 0},
        {"cpl3 HLT", u_hlt, GP, 0},
        {"cpl3 CLI with IOPL 0", u_cli, GP, 0},
        {"cpl3 STI with IOPL 0", u_sti, GP, 0},
        {"cpl3 IN without permission", u_in, GP, 0},
        {"cpl3 OUT without permission", u_out, GP, 0},
        {"cpl3 RDMSR", u_rdmsr, GP, 0},
        {"cpl3 WRMSR", u_wrmsr, GP, 0},
        {"cpl3 MOV from CR0", u_cr0, GP, 0},
        {"cpl3 MOV from CR8", u_cr8, GP, 0},
        {"cpl3 MOV from CR1", u_cr1, UD, 0},
        {"cpl3 MOV from DR0", u_dr0, GP, 0},
        {"cpl3 LGDT", u_lgdt, GP, 0},
        {"cpl3 LIDT", u_lidt, GP, 0},
        {"cpl3 LLDT", u_lldt, GP, 0},
        {"cpl3 LTR", u_ltr, GP, 0},
        {"cpl3 LMSW", u_lmsw, GP, 0},
        {"cpl3 CLTS", u_clts, GP, 0},
        {"cpl3 INVD", u_invd, GP, 0},
        {"cpl3 WBINVD", u_wbinvd, GP, 0},
        {"cpl3 INVLPG", u_invlpg, GP, 0},
        {"cpl3 SWAPGS", u_swapgs, GP, 0},
        {"cpl3 INT3", u_int3, BP, 0},
        {"cpl3 INT1", u_int1, DB, 0},
        {"cpl3 INT 0x20, gate DPL 0", u_int20, GP, 0x20 * 8 + 2},
        {"cpl3 INT 0, gate DPL 0", u_int0, GP, 2},
        {"cpl3 INTO in 64-bit mode", u_into, UD, 0},
        {"cpl3 RDPMC with CR4.PCE=0", u_rdpmc, GP, 0},
        {"cpl3 XSETBV with CR4.OSXSAVE=0", u_xsetbv, UD, 0},
        {"cpl3 MOV SS, null", u_movss0, GP, 0},
        {"cpl3 MOV SS, DPL 0 data", u_movss_k, GP, 0x10},
        {"cpl3 MOV DS, DPL 0 data", u_movds_k, GP, 0x10},
        {"cpl3 MOV DS, null", u_movds_0, RT_RETURN, 0},
        {"cpl3 MOV DS beyond the GDT", u_movds_beyond, GP, 0x5000},
        {"cpl3 MOV SS beyond the GDT", u_movss_beyond, GP, 0x5000},
        {"cpl3 MOV CS", u_movcs, UD, 0},
        {"cpl3 unaligned with CR0.AM=0", u_align, RT_RETURN, 0},
        {"cpl3 non-canonical, DS", u_noncanon, GP, 0},
        {"cpl3 non-canonical, RBP base", u_noncanon_ss, SS, 0},
        {"cpl3 non-canonical PUSH", u_noncanon_push, SS, 0},
        {"cpl3 non-canonical JMP", u_noncanon_jmp, GP, 0},
        {"cpl3 SYSCALL with EFER.SCE=0", u_syscall, UD, 0},
        {"cpl3 SYSRET with EFER.SCE=0", u_sysret, UD, 0},
    };
    for (unsigned i = 0; i < sizeof t / sizeof *t; i++)
        expect_exc(t[i].name, user(t[i].code), t[i].vector, t[i].error);
    expect_pf("cpl3 read of a supervisor page", user(u_kernel_read), 5, 0x100000);
    expect_pf("cpl3 write of a supervisor page", user(u_kernel_write), 7, 0x100000);
    expect_pf("cpl3 fetch from a supervisor page, NXE=0", user(u_kernel_jump), 5, 0x100000);
    expect_pf("cpl3 read of an absent page", user(u_absent_read), 4, RT_WINDOW + 0x1000);
    expect_pf("cpl3 locked write of an absent page", user(u_absent_write), 6, RT_WINDOW + 0x1000);
    struct exc e = user(u_popf_iopl);
    check_eq("cpl3 POPF leaves IOPL", e.rax & 0x3000, 0);
    check_eq("cpl3 POPF leaves IF", e.rax & 0x200, 0x200);
    /* A fault pushes RF = 1 and the faulting instruction's address; a trap the next one's. */
    e = user(u_hlt);
    check_eq("fault: RIP of the instruction", e.rip, USER_ADDR(u_hlt));
    check_eq("fault: CS", e.cs, SEL_U64);
    check_eq("fault: SS", e.ss, SEL_UDATA);
    check_eq("fault: RF pushed", e.rflags >> 16 & 1, 1);
    e = user(u_int3);
    check_eq("INT3: RIP of the next instruction", e.rip, USER_ADDR(u_int3) + 1);
    check_eq("INT3: RF not pushed", e.rflags >> 16 & 1, 0);
    if (!cpuid(0, 0).b || cpuid(0, 0).b == 0x756e6547) { /* Intel: SYSENTER in 64-bit mode; SYSENTER_CS null: #GP */
        wrmsr(0x174, 0);
        expect_exc("cpl3 SYSENTER with SYSENTER_CS 0", user(u_sysenter), GP, 0);
    }
}

static void compat_faults(void)
{
    expect_exc("compat ok", user32(c_ok), RT_RETURN, 0);
    expect_exc("compat AAM 0", user32(c_aam0), DE, 0);
    struct exc e = user32(c_into);
    expect_exc("compat INTO", e, OF, 0);
    check_eq("compat INTO: RIP of the next instruction", e.rip, USER_ADDR(c_into) + 5);
    expect_exc("compat BOUND", user32(c_bound), BR, 0);
    expect_exc("compat null ES", user32(c_es0), GP, 0);
    e = user32(c_pushcs);
    check_eq("compat PUSH CS", e.rax, SEL_U32);
    expect_pf("compat 32-bit wrap", user32(c_wrap), 5, 1);
    expect_exc("compat LOCK on a register INC", user32(c_cmpxchg), UD, 0);
    expect_exc("compat LES with a register", user32(c_les), UD, 0);
    struct go g = {.rip = USER_ADDR(c_ok), .cs = SEL_U32, .rflags = 0x202, .rsp = 0x123400000100, .ss = SEL_UDATA};
    e = TRY(rt_go(&g));
    expect_exc("IRETQ to compat", e, RT_RETURN, 0);
}

static void kernel_faults(void)
{
    struct exc e = TRY(ASM("ud2"));
    expect_exc("cpl0 UD2", e, UD, 0);
    e = TRY(ASM("div %b0" : : "c"(0), "a"(1) : "cc"));
    expect_exc("DIV by 0", e, DE, 0);
    e = TRY(ASM("idivl %0" : : "c"(-1), "a"(0x80000000), "d"(-1) : "cc"));
    expect_exc("IDIV overflow", e, DE, 0);
    e = TRY(ASM("int $0x55"));
    expect_exc("INT n", e, 0x55, 0);
    e = TRY(ASM("int3"));
    expect_exc("INT3", e, BP, 0);
    e = TRY(ASM("mov %0, %%ds" : : "r"(SEL_U64 & ~3)));
    expect_none("MOV DS, readable DPL 3 code at CPL 0", e);
    ASM("mov %0, %%ds" : : "r"(SEL_KDATA));
    rt_gdt[SEL_FREE / 8] = rt_desc(0, 0xfffff, 0x13, 0xc); /* data, not present */
    e = TRY(ASM("mov %0, %%ds" : : "r"(SEL_FREE)));
    expect_exc("MOV DS, not present", e, NP, SEL_FREE);
    e = TRY(ASM("mov %0, %%ss" : : "r"(SEL_FREE)));
    expect_exc("MOV SS, not present", e, SS, SEL_FREE);
    rt_gdt[SEL_FREE / 8] = rt_desc(0, 0xfffff, 0x99, 0xc); /* code, execute-only */
    e = TRY(ASM("mov %0, %%ds" : : "r"(SEL_FREE)));
    expect_exc("MOV DS, execute-only code", e, GP, SEL_FREE);
    rt_gdt[SEL_FREE / 8] = rt_desc(0, 0xfffff, 0x91, 0xc); /* data, read-only */
    e = TRY(ASM("mov %0, %%ss" : : "r"(SEL_FREE)));
    expect_exc("MOV SS, read-only data", e, GP, SEL_FREE);
    e = TRY(ASM("mov %0, %%ss" : : "r"(SEL_KDATA | 3)));
    expect_exc("MOV SS, RPL 3 at CPL 0", e, GP, SEL_KDATA);
    e = TRY(ASM("mov %0, %%ss" : : "r"(0)); ASM("mov %0, %%ss" : : "r"(SEL_KDATA)));
    expect_none("MOV SS, null at CPL 0 in 64-bit mode", e);
    e = TRY(ASM("mov %0, %%ss" : : "r"(3)));
    expect_exc("MOV SS, null with RPL 3 at CPL 0", e, GP, 0);
    e = TRY(ASM("mov %0, %%ds" : : "r"(0x7c))); /* TI = 1 with a null LDT */
    expect_exc("MOV DS, LDT selector with null LDTR", e, GP, 0x7c);
    e = TRY(ASM("lldt %w0" : : "r"(SEL_KDATA)));
    expect_exc("LLDT of a data segment", e, GP, SEL_KDATA);
    e = TRY(ASM("lldt %w0" : : "r"(0)));
    expect_none("LLDT null", e);
    if (!rt_on_qemu()) {
        e = TRY(ASM("ltr %w0" : : "r"(0)));
        expect_exc("LTR null", e, GP, 0);
    }
    e = TRY(ASM("ltr %w0" : : "r"(SEL_TSS)));
    expect_exc("LTR of a busy TSS", e, GP, SEL_TSS);
    check_eq("TSS is marked busy", rt_gdt[SEL_TSS / 8] >> 40 & 0xff, 0x8b);
    e = TRY(ASM("mov %0, %%cr0" : : "r"(rdcr0() | 1ul << 32)));
    expect_exc("MOV CR0 with a high bit", e, GP, 0);
    if (!rt_on_qemu()) { /* it carries them out */
        e = TRY(ASM("mov %0, %%cr0" : : "r"(rdcr0() & ~1ul)));
        expect_exc("MOV CR0 with PG=1, PE=0", e, GP, 0);
        e = TRY(ASM("mov %0, %%cr0" : : "r"(rdcr0() & ~0x80000000ul)));
        expect_exc("MOV CR0 with PG=0 in 64-bit mode", e, GP, 0);
    }
    e = TRY(ASM("mov %0, %%cr0" : : "r"((rdcr0() & ~0x40000000ul) | 0x20000000)));
    expect_exc("MOV CR0 with NW=1, CD=0", e, GP, 0);
    if (!rt_on_qemu()) {
        e = TRY(ASM("mov %0, %%cr4" : : "r"(rdcr4() & ~0x20ul)));
        expect_exc("MOV CR4 with PAE=0 in long mode", e, GP, 0);
        e = TRY(ASM("mov %0, %%cr4" : : "r"(rdcr4() | 1ul << 31)));
        expect_exc("MOV CR4 with a reserved bit", e, GP, 0);
        e = TRY(ASM("mov %0, %%cr8" : : "r"(16ul)));
        expect_exc("MOV CR8 with a reserved bit", e, GP, 0);
        e = TRY(wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_LME));
        expect_exc("EFER.LME cleared with paging", e, GP, 0);
        e = TRY(wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1ull << 63));
        expect_exc("EFER with a reserved bit", e, GP, 0);
    }
    e = TRY(wrmsr(0xc0000082, 0x8000000000000000));
    expect_exc("LSTAR not canonical", e, GP, 0);
    e = TRY(wrmsr(0xc0000101, 0x8000000000000000));
    expect_exc("GS base not canonical", e, GP, 0);
    e = TRY(ASM(".byte 0x0f, 0x20, 0xc8" : : : "rax"));
    expect_exc("MOV from CR1", e, UD, 0);
    e = TRY(ASM(".byte 0x0f, 0x22, 0xe8" : : : "rax"));
    expect_exc("MOV to CR5", e, UD, 0);
    e = TRY(ASM("mov (%0), %%al" : : "r"(0x800000000000) : "rax"));
    expect_exc("non-canonical read", e, GP, 0);
    e = TRY(ASM("mov -1(%0), %%rax" : : "r"(0x800000000000) : "rax"));
    check("read that crosses into the non-canonical half", e.vector == GP || e.vector == PF);
    e = TRY(ASM("fnop"));
    expect_none("x87 with EM=0, TS=0", e);
    wrcr0(rdcr0() | 8);
    e = TRY(ASM("fnop"));
    expect_exc("x87 with TS=1", e, NM, 0);
    e = TRY(ASM("fwait"));
    expect_exc("FWAIT with TS=1, MP=1", e, NM, 0);
    e = TRY(ASM("movaps %xmm0, %xmm1"));
    expect_exc("SSE with TS=1", e, NM, 0);
    wrcr0(rdcr0() & ~2ul);
    e = TRY(ASM("fwait"));
    expect_none("FWAIT with TS=1, MP=0", e);
    ASM("clts");
    wrcr0(rdcr0() | 2);
    wrcr0(rdcr0() | 4);
    e = TRY(ASM("fnop"));
    expect_exc("x87 with EM=1", e, NM, 0);
    e = TRY(ASM("movaps %xmm0, %xmm1"));
    expect_exc("SSE with EM=1", e, UD, 0);
    e = TRY(ASM("movq %mm0, %mm1"));
    expect_exc("MMX with EM=1", e, UD, 0);
    wrcr0(rdcr0() & ~4ul);
    wrcr4(rdcr4() & ~0x200ul);
    e = TRY(ASM("movaps %xmm0, %xmm1"));
    expect_exc("SSE with OSFXSR=0", e, UD, 0);
    wrcr4(rdcr4() | 0x200);
    /* #XM or, without OSXMMEXCPT, #UD */
    static const uint32_t mx = 0x1f80 & ~0x200, mx_default = 0x1f80;
    e = TRY(ASM("ldmxcsr %0; xorps %%xmm0, %%xmm0; pcmpeqd %%xmm1, %%xmm1; pslld $25, %%xmm1; psrld $2, %%xmm1; divps "
                "%%xmm0, %%xmm1"
                :
                : "m"(mx)));
    expect_exc("SSE division by zero unmasked", e, XM, 0);
    wrcr4(rdcr4() & ~0x400ul);
    e = TRY(ASM("ldmxcsr %0; xorps %%xmm0, %%xmm0; pcmpeqd %%xmm1, %%xmm1; pslld $25, %%xmm1; psrld $2, %%xmm1; divps "
                "%%xmm0, %%xmm1"
                :
                : "m"(mx)));
    expect_exc("SSE division by zero with OSXMMEXCPT=0", e, UD, 0);
    wrcr4(rdcr4() | 0x400);
    ASM("ldmxcsr %0" : : "m"(mx_default));
    e = TRY(ASM("ldmxcsr %0" : : "m"(*(const uint32_t[]){0x10000})));
    expect_exc("LDMXCSR with a reserved bit", e, GP, 0);
    static const uint16_t cw = 0x37f & ~4;
    e = TRY(ASM("fninit; fldcw %0; fld1; fldz; fdivrp; fwait" : : "m"(cw)));
    expect_exc("x87 division by zero unmasked, NE=1", e, MF, 0);
    ASM("fninit");
    /* #AC: CPL 3 only, AM and AC both */
    wrcr0(rdcr0() | 0x40000);
    expect_exc("cpl3 unaligned with AM=1, AC=1", user(u_align), AC, 0);
    expect_exc("cpl3 unaligned, across the end of the canonical range, AC=1", user(u_align_end), AC, 0);
    expect_exc("cpl3 unaligned, beyond the canonical range, AC=1", user(u_align_out), GP, 0);
    expect_exc("cpl3 byte access with AM=1, AC=1", user(u_align_byte), RT_RETURN, 0);
    e = TRY(ASM("pushfq; orl $0x40000, (%%rsp); popfq; mov 1(%%rsp), %%rax; pushfq; andl $~0x40000, (%%rsp); popfq"
                :
                :
                : "rax", "cc", "memory"));
    expect_none("cpl0 unaligned with AM=1, AC=1", e);
    wrcr0(rdcr0() & ~0x40000ul);
}

/* A fault inside the delivery of a fault: which pairs make a double fault. */
static void double_faults(void)
{
    struct exc e;
    rt_gate(UD, SEL_K64, (unsigned long)rt_stub(UD), 0x0e, 0); /* not present */
    e = TRY(ASM("ud2"));
    /* EXT: an earlier exception, to Intel; to AMD that is the program's own */
    expect_exc("#UD through an absent gate", e, NP, UD * 8 + (cpuid(0, 0).b == 0x68747541 ? 2 : 3));
    rt_gate(UD, SEL_K64, (unsigned long)rt_stub(UD), 0x8e, 0);
    rt_gate(GP, SEL_K64, (unsigned long)rt_stub(GP), 0x0e, 0);
    e = TRY(ASM("mov %0, %%ds" : : "r"(0x5000)));
    expect_exc("#GP through an absent gate: #DF", e, DF, 0);
    rt_gate(GP, SEL_K64, (unsigned long)rt_stub(GP), 0x8e, 0);
    rt_gate(PF, SEL_K64, (unsigned long)rt_stub(PF), 0x0e, 0);
    e = TRY((void)peek8(RT_WINDOW + 0x1000));
    expect_exc("#PF through an absent gate: #DF", e, DF, 0);
    check_eq("#PF that became #DF: CR2", e.cr2, RT_WINDOW + 0x1000);
    rt_gate(PF, SEL_K64, (unsigned long)rt_stub(PF), 0x8e, 0);
    rt_gate(BP, SEL_K64, (unsigned long)rt_stub(BP), 0x6e, 0);
    e = TRY(ASM("int3"));
    expect_exc("INT3 through an absent gate", e, NP, BP * 8 + 2);
    rt_gate(BP, SEL_K64, (unsigned long)rt_stub(BP), 0xee, 0);
    rt_gate(0x55, SEL_K64, (unsigned long)rt_stub(0x55), 0x0e, 0);
    e = TRY(ASM("int $0x55"));
    expect_exc("INT n through an absent gate", e, NP, 0x55 * 8 + 2);
    rt_gate(0x55, SEL_KDATA, (unsigned long)rt_stub(0x55), 0x8e, 0);
    e = TRY(ASM("int $0x55"));
    expect_exc("INT n through a gate to data", e, GP, SEL_KDATA);
    rt_gate(0x55, SEL_K32, (unsigned long)rt_stub(0x55), 0x8e, 0);
    e = TRY(ASM("int $0x55"));
    expect_exc("INT n through a gate to 32-bit code", e, GP, SEL_K32);
    rt_gate(0x55, 0, (unsigned long)rt_stub(0x55), 0x8e, 0);
    e = TRY(ASM("int $0x55"));
    expect_exc("INT n through a gate with a null selector", e, GP, 0);
    rt_gate(0x55, SEL_U64, (unsigned long)rt_stub(0x55), 0x8e, 0);
    e = TRY(ASM("int $0x55"));
    expect_exc("INT n through a gate to less privileged code", e, GP, SEL_U64 & ~3);
    rt_gate(0x55, SEL_K64, (unsigned long)rt_stub(0x55), 0x85, 0);
    e = TRY(ASM("int $0x55"));
    expect_exc("INT n through a task gate in long mode", e, GP, 0x55 * 8 + 2);
    rt_gate(0x55, SEL_K64, 0x800000000000, 0x8e, 0);
    e = TRY(ASM("int $0x55"));
    expect_exc("INT n to a non-canonical handler", e, GP, 0);
    rt_gate(0x55, SEL_K64, (unsigned long)rt_stub(0x55), 0x8e, 0);
    /* The limit of the IDT */
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) idtr = {0x55 * 16 - 1, (uint64_t)rt_idt}, whole = {4095, (uint64_t)rt_idt};
    ASM("lidt %0" : : "m"(idtr));
    e = TRY(ASM("int $0x55"));
    ASM("lidt %0" : : "m"(whole));
    expect_exc("INT n beyond the IDT's limit", e, GP, 0x55 * 8 + 2);
    /* A stack that cannot take the frame: CPL 3 to 0 with a non-canonical RSP0 */
    unsigned long rsp0 = rt_tss.rsp[0];
    rt_tss.rsp[0] = 0x8000000000000000;
    e = user(u_ok);
    rt_tss.rsp[0] = rsp0;
    expect_exc("INT 0x80 to a non-canonical RSP0: #SS, then #DF", e, DF, 0);
    rt_tss.rsp[0] = RT_WINDOW + 0x2000; /* pushes fall on the absent page 1 */
    e = user(u_ok);
    rt_tss.rsp[0] = rsp0;
    expect_exc("INT 0x80 to an absent stack: #PF, then #DF", e, DF, 0);
    check_eq("absent stack: CR2", e.cr2 & ~0xffful, RT_WINDOW + 0x1000);
}

static void iret_faults(void)
{
    struct go g = {.rip = 0x800000000000, .cs = SEL_U64, .rflags = 0x202, .rsp = RT_USER_STACK, .ss = SEL_UDATA};
    g.cs = SEL_U64, g.ss = SEL_UDATA;
    struct exc e = TRY(rt_go(&g));
    expect_exc("IRETQ to a non-canonical RIP", e, GP, 0);
    g.rip = USER_ADDR(u_ok), g.cs = 0;
    e = TRY(rt_go(&g));
    expect_exc("IRETQ to a null CS", e, GP, 0);
    g.cs = SEL_KDATA;
    e = TRY(rt_go(&g));
    expect_exc("IRETQ to a data segment", e, GP, SEL_KDATA);
    g.cs = SEL_U64 & ~3;
    e = TRY(rt_go(&g));
    expect_exc("IRETQ to DPL 3 code with RPL 0", e, GP, SEL_U64 & ~3);
    g.cs = SEL_U64, g.ss = SEL_KDATA;
    e = TRY(rt_go(&g));
    expect_exc("IRETQ with a DPL 0 stack segment", e, GP, SEL_KDATA);
    g.ss = 0;
    e = TRY(rt_go(&g));
    expect_exc("IRETQ to CPL 3 with a null SS", e, GP, 0);
    g.ss = 0x5003;
    e = TRY(rt_go(&g));
    expect_exc("IRETQ with an SS beyond the GDT", e, GP, 0x5000);
    g.ss = SEL_UDATA, g.cs = SEL_U32, g.rflags = 0x20202;
    e = TRY(rt_go(&g));
    expect_exc("IRETQ ignores VM in long mode", e, RT_RETURN, 0);
    g.cs = SEL_U64, g.rflags = 0x202;
    e = TRY(ASM("pushfq; orl $0x4000, (%%rsp); popfq" : : : "cc", "memory"); rt_go(&g));
    ASM("pushfq; andl $~0x4000, (%%rsp); popfq" : : : "cc", "memory");
    expect_exc("IRETQ with NT=1", e, GP, 0);
    rt_gdt[SEL_FREE / 8] = rt_desc(0, 0xfffff, 0x7b, 0xa); /* 64-bit code, DPL 3, not present */
    g.cs = SEL_FREE | 3;
    e = TRY(rt_go(&g));
    expect_exc("IRETQ to absent code", e, NP, SEL_FREE);
    rt_gdt[SEL_FREE / 8] = rt_desc(0, 0xfffff, 0xfb, 0xe); /* L and D both */
    e = TRY(rt_go(&g));
    expect_exc("IRETQ to code with L=1 and D=1", e, GP, SEL_FREE);
    rt_gdt[SEL_FREE / 8] = rt_desc(0, 0xfffff, 0x73, 0xc); /* data, DPL 3, not present */
    g.cs = SEL_U64, g.ss = SEL_FREE | 3;
    e = TRY(rt_go(&g));
    expect_exc("IRETQ with an absent SS", e, SS, SEL_FREE);
}

void image_main(void)
{
    kernel_faults();
    user_faults();
    compat_faults();
    double_faults();
    iret_faults();
}
