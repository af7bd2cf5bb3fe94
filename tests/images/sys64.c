/* SPDX-License-Identifier: MIT
 *
 * sys64.c: SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS, FSGSBASE, RDTSCP, RDPID, UMIP, XSETBV, far transfers and call
 * gates in IA-32e mode, MSRs, the I/O permission map, descriptor instructions (LAR, LSL, VERR, VERW), CPUID's dependent
 * bits.
 */
#include "rt.h"

const char image_name[] = IMAGE_NAME;
#define ASM(...) __asm__ volatile(__VA_ARGS__)
#define UASM(name, code)                                                                                               \
    __asm__(".pushsection .user, \"ax\"\n.globl " #name "\n" #name ":\n" code "\n    int $0x80\n.popsection\n");       \
    extern char name[]

static struct exc user_at(char *code, unsigned cs, unsigned long rdi)
{
    struct go g = {
        .rip = USER_ADDR(code), .cs = cs, .rflags = 0x202, .rsp = RT_USER_STACK - 64, .ss = SEL_UDATA, .rdi = rdi};
    ASM("mov %0, %%ds; mov %0, %%es" : : "r"(SEL_UDATA));
    return TRY(rt_go(&g));
}
static struct exc user(char *code, unsigned long rdi)
{
    return user_at(code, SEL_U64, rdi);
}

/* --- SYSCALL and SYSRET
 * ------------------------------------------------------------------------------------------------ */
uint64_t sc_rcx, sc_r11, sc_cs, sc_ss, sc_rflags, sc_rsp, sc_ret_rcx, sc_ret_r11, sc_count;
__asm__(
    ".text\n"
    "sc_entry:\n"
    "    mov %rcx, sc_rcx\n    mov %r11, sc_r11\n    mov %rsp, sc_rsp\n    movabs $rt_stack_top - 32768, %rsp\n"
    "    mov %cs, %eax\n    mov %rax, sc_cs\n    mov %ss, %eax\n    mov %rax, sc_ss\n    pushfq\n    popq sc_rflags\n"
    "    incq sc_count\n    mov sc_ret_rcx, %rcx\n    mov sc_ret_r11, %r11\n    mov sc_rsp, %rsp\n    sysretq\n"
    "sc_entry32:\n"
    "    mov %rcx, sc_rcx\n    mov %rsp, sc_rsp\n    incq sc_count\n    mov sc_ret_rcx, %rcx\n    mov sc_ret_r11, "
    "%r11\n"
    "    mov sc_rsp, %rsp\n    .byte 0x0f, 0x07\n" /* SYSRET, 32-bit */
    "sc_end: mov sc_rsp, %rsp\n    int $0x81\n"
    "se_entry:\n"
    "    mov %rsp, sc_rsp\n    mov %cs, %eax\n    mov %rax, sc_cs\n    mov %ss, %eax\n    mov %rax, sc_ss\n    "
    "pushfq\n    popq sc_rflags\n"
    "    incq sc_count\n    mov sc_ret_rcx, %rdx\n    mov sc_ret_r11, %rcx\n    .byte 0x48, 0x0f, 0x35\n"); /* SYSEXIT,
                                                                                                               64-bit */
extern char sc_entry[], sc_entry32[], sc_end[], se_entry[];
UASM(u_syscall, "stc; std; syscall; pushfq; pop %rax; mov %cs, %ebx; mov %ss, %edx; cld; nop");
UASM(u_after, "pushfq; pop %rax; mov %cs, %ebx; mov %ss, %edx; cld");
UASM(u_sysenter, "sysenter");
__asm__(".pushsection .user, \"ax\"\n.code32\nc_syscall: syscall\n int $0x80\nc_after: movl %cs, %ebx\n movl %ss, "
        "%edx\n int $0x80\n"
        "c_sysenter: sysenter\n int $0x80\n.code64\n.popsection\n");
extern char c_syscall[], c_after[], c_sysenter[];

static void syscall_sysret(void)
{
    bool amd = cpuid(0, 0).b == 0x68747541;
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    /* SYSCALL: CS 0x08, SS 0x10; SYSRET: 32-bit CS 0x1b, SS 0x23, 64-bit CS 0x2b */
    wrmsr(0xc0000081, 0x08ull << 32 | 0x18ull << 48);
    wrmsr(0xc0000082, (uint64_t)sc_entry);
    wrmsr(0xc0000083, (uint64_t)sc_entry32);
    wrmsr(0xc0000084, 0x700); /* TF, IF, DF */
    sc_ret_rcx = USER_ADDR(u_after);
    sc_ret_r11 = 0x3000 | 0x202 | 0x1; /* IOPL 3 comes back: SYSRET runs at CPL 0 */
    sc_count = 0;
    struct exc e = user(u_syscall, 0);
    expect_exc("SYSCALL and SYSRETQ", e, RT_RETURN, 0);
    check_eq("SYSCALL: handler ran once", sc_count, 1);
    check_eq("SYSCALL: RCX is the next RIP", sc_rcx, USER_ADDR(u_syscall) + 4);
    check_eq("SYSCALL: R11 is RFLAGS", sc_r11 & 0x701, 0x601);
    check_eq("SYSCALL: CS", sc_cs, 0x08);
    check_eq("SYSCALL: SS", sc_ss, 0x10);
    check_eq("SYSCALL: RFLAGS masked by SFMASK", sc_rflags & 0x701, 0x001);
    check_eq("SYSCALL: RSP untouched", sc_rsp, RT_USER_STACK - 64);
    check_eq("SYSRETQ: RFLAGS", e.rax & 0x3f01, 0x3201);
    check_eq("SYSRETQ: CS", e.rbx, 0x2b);
    check_eq("SYSRETQ: SS", e.rdx, 0x23);
    sc_ret_r11 = 0x202 | 1 << 16 | 1 << 17;
    e = user(u_syscall, 0);
    check_eq("SYSRET clears RF and VM", e.rax & 0x30000, 0);
    sc_ret_r11 = 0x202;
    if (!rt_on_qemu()) {
        /* Intel: SYSRET to a non-canonical address is #GP at CPL 0; AMD: at CPL 3 after the return */
        sc_ret_rcx = 0x8000000000000000;
        e = user(u_syscall, 0);
        expect_exc("SYSRETQ to a non-canonical RIP", e, GP, 0);
        check_eq("SYSRETQ to a non-canonical RIP: CPL of the fault", e.cs & 3, amd ? 3 : 0);
    }
    /* SYSCALL from compatibility mode: AMD only */
    sc_ret_rcx = USER_ADDR(c_after);
    e = user_at(c_syscall, SEL_U32, 0);
    if (amd) {
        expect_exc("SYSCALL from compat, SYSRET to compat", e, RT_RETURN, 0);
        check_eq("SYSRET to compat: CS", e.rbx, 0x1b);
    } else {
        expect_exc("SYSCALL from compat", e, UD, 0);
        wrmsr(0xc0000082, (uint64_t)sc_entry32);
        e = user(u_syscall, 0);
        expect_exc("SYSRET to compat", e, RT_RETURN, 0);
        check_eq("SYSRET to compat: CS", e.rbx, 0x1b);
        wrmsr(0xc0000082, (uint64_t)sc_entry);
    }
    /* SYSENTER and SYSEXIT: Intel in every mode */
    wrmsr(0x174, 0x08);
    wrmsr(0x175, (uint64_t)rt_pages[8]);
    wrmsr(0x176, (uint64_t)se_entry);
    if (amd) {
        expect_exc("SYSENTER in 64-bit mode on AMD", user(u_sysenter, 0), UD, 0);
    } else {
        sc_ret_rcx = USER_ADDR(u_after), sc_ret_r11 = RT_USER_STACK - 128;
        e = user(u_sysenter, 0);
        /* SYSEXITQ: CS = 0x08 + 32 | 3 = 0x2b, SS = 0x08 + 40 | 3 = 0x33 */
        expect_exc("SYSENTER and SYSEXITQ", e, RT_RETURN, 0);
        check_eq("SYSENTER: RSP", sc_rsp, (uint64_t)rt_pages[8]);
        check_eq("SYSENTER: CS", sc_cs, 0x08);
        check_eq("SYSENTER: SS", sc_ss, 0x10);
        check_eq("SYSENTER: IF clear", sc_rflags & 0x200, 0);
        check_eq("SYSEXITQ: CS", e.rbx, 0x2b);
        check_eq("SYSEXITQ: SS", e.rdx, 0x33);
        sc_count = 0;
        e = user_at(c_sysenter, SEL_U32, 0);
        check_eq("SYSENTER from compat", sc_count, 1);
    }
    e = TRY(wrmsr(0x176, 0x100000000000000));
    expect_exc("SYSENTER_EIP not canonical", e, GP, 0);
    e = TRY(wrmsr(0xc0000081, ~0ull));
    expect_none("STAR takes any value", e);
    check_eq("STAR reads back", rdmsr(0xc0000081), ~0ull);
}

/* --- GS and FS
 * ------------------------------------------------------------------------------------------------------------- */
UASM(u_rdgs, "rdgsbase %rax; rdfsbase %rbx");
UASM(u_wrgs, "wrgsbase %rdi; rdgsbase %rax");
UASM(u_wrgs32, "mov $-1, %rcx; wrgsbase %rcx; wrgsbase %edi; rdgsbase %rax; rdgsbase %ebx");
UASM(u_gs, "mov %gs:0, %rax");
static void gs_base(void)
{
    wrmsr(0xc0000101, 0x1111000);
    wrmsr(0xc0000102, 0x2222000);
    ASM("swapgs" : : : "memory");
    check_eq("SWAPGS: GS base", rdmsr(0xc0000101), 0x2222000);
    check_eq("SWAPGS: kernel GS base", rdmsr(0xc0000102), 0x1111000);
    wrmsr(0xc0000101, 0x1111000);
    ASM("mov %0, %%gs" : : "r"(SEL_KDATA));
    check_eq("MOV GS loads the descriptor's base", rdmsr(0xc0000101), 0);
    wrmsr(0xc0000101, (uint64_t)rt_pages[3]);
    poke64((unsigned long)rt_pages[3] + 8, 0x1234567887654321);
    uint64_t v;
    ASM("mov %%gs:8, %0" : "=r"(v));
    check_eq("GS-relative read", v, 0x1234567887654321);
    ASM("mov %0, %%gs" : : "r"(0));
    uint64_t base = rdmsr(0xc0000101);
    check("null GS keeps or clears the base (vendor)", base == 0 || base == (uint64_t)rt_pages[3]);
    /* LEA and string destination ignore GS; MOVS source takes it */
    if (!cpu_has(7, 1, 0)) {
        skip("FSGSBASE", "no FSGSBASE");
        return;
    }
    expect_exc("RDGSBASE with CR4.FSGSBASE=0", user(u_rdgs, 0), UD, 0);
    wrcr4(rdcr4() | 1ul << 16);
    wrmsr(0xc0000101, 0x3333000);
    wrmsr(0xc0000100, 0x4444000);
    struct exc e = user(u_rdgs, 0);
    check_eq("RDGSBASE", e.rax, 0x3333000);
    check_eq("RDFSBASE", e.rbx, 0x4444000);
    e = user(u_wrgs, 0x5555000);
    check_eq("WRGSBASE", e.rax, 0x5555000);
    check_eq("WRGSBASE: the MSR", rdmsr(0xc0000101), 0x5555000);
    expect_exc("WRGSBASE not canonical", user(u_wrgs, 0x100000000000000), GP, 0);
    e = user(u_wrgs32, 0xffffffff80001000);
    check_eq("WRGSBASE r32 zero-extends", e.rax, 0x80001000);
    wrmsr(0xc0000101, 0xffff800000000000);
    expect_pf("GS-relative to the kernel's half", user(u_gs, 0), 4, 0xffff800000000000);
    wrcr4(rdcr4() & ~(1ul << 16));
}

UASM(u_rdtscp, "rdtscp");
UASM(u_rdtsc, "rdtsc");
UASM(u_rdpid, ".byte 0xf3, 0x48, 0x0f, 0xc7, 0xf8");
UASM(u_sgdt, "sub $16, %rsp; sgdt (%rsp)");
UASM(u_sidt, "sub $16, %rsp; sidt (%rsp)");
UASM(u_sldt, "sldt %eax");
UASM(u_str, "str %eax");
UASM(u_smsw, "smsw %eax");
UASM(u_in, "mov $0x1f1, %edx; inb %dx, %al");
UASM(u_inw, "mov $0x1f1, %edx; inw %dx, %ax");
UASM(u_cpuid, "xor %eax, %eax; cpuid");
UASM(u_xgetbv, "xor %ecx, %ecx; xgetbv");
static void misc(void)
{
    struct exc e;
    if (cpu_has(0x80000001, 3, 27)) {
        wrmsr(0xc0000103, 0x12345678);
        check_eq("RDTSCP: TSC_AUX", user(u_rdtscp, 0).rcx, 0x12345678);
        if (cpuid(0, 0).b != 0x68747541) {
            e = TRY(wrmsr(0xc0000103, 1ull << 32));
            expect_exc("TSC_AUX with high bits", e, GP, 0);
        }
    } else {
        skip("RDTSCP", "no RDTSCP");
    }
    if (cpu_has(7, 2, 22))
        check_eq("RDPID", user(u_rdpid, 0).rax, 0x12345678);
    else
        skip("RDPID", "no RDPID");
    wrcr4(rdcr4() | 4);
    expect_exc("cpl3 RDTSC with CR4.TSD", user(u_rdtsc, 0), GP, 0);
    e = TRY(ASM("rdtsc" : : : "rax", "rdx"));
    expect_none("cpl0 RDTSC with CR4.TSD", e);
    wrcr4(rdcr4() & ~4ul);
    expect_exc("cpl3 RDTSC", user(u_rdtsc, 0), RT_RETURN, 0);
    check_eq("cpl3 SLDT", user(u_sldt, 0).rax, 0);
    check_eq("cpl3 STR", user(u_str, 0).rax, SEL_TSS);
    check_eq("cpl3 SMSW r32: the whole of CR0", user(u_smsw, 0).rax & 0x8001003f, rdcr0() & 0x8001003f);
    expect_exc("cpl3 SGDT", user(u_sgdt, 0), RT_RETURN, 0);
    if (cpu_has(7, 2, 2)) {
        wrcr4(rdcr4() | 0x800);
        expect_exc("UMIP SGDT", user(u_sgdt, 0), GP, 0);
        expect_exc("UMIP SIDT", user(u_sidt, 0), GP, 0);
        expect_exc("UMIP SLDT", user(u_sldt, 0), GP, 0);
        expect_exc("UMIP STR", user(u_str, 0), GP, 0);
        expect_exc("UMIP SMSW", user(u_smsw, 0), GP, 0);
        e = TRY(ASM("smsw %%eax" : : : "rax"));
        expect_none("UMIP SMSW at CPL 0", e);
        wrcr4(rdcr4() & ~0x800ul);
    } else {
        skip("UMIP", "no UMIP");
    }
    /* I/O permission map */
    rt_tss.iomap = (uint16_t)((char *)rt_tss.map - (char *)&rt_tss);
    memset(rt_tss.map, 0xff, sizeof rt_tss.map);
    expect_exc("IN: port beyond the TSS's limit", user(u_in, 0), GP, 0);
    rt_gdt[SEL_TSS / 8] = rt_desc((uint32_t)(uintptr_t)rt_pages[10], 104 + 8192, 0x89, 0);
    rt_gdt[SEL_TSS / 8 + 1] = 0;
    memcpy(rt_pages[10], &rt_tss, 104);
    rt_pages[10][102] = 104, rt_pages[10][103] = 0;
    uint8_t *map = rt_pages[10] + 104;
    memset(map, 0xff, 4096);
    ASM("ltr %w0" : : "r"(SEL_TSS));
    map[0x1f1 / 8] &= (uint8_t) ~(1 << (0x1f1 & 7));
    expect_exc("IN: permitted port", user(u_in, 0), RT_RETURN, 0);
    expect_exc("IN word: second port not permitted", user(u_inw, 0), GP, 0);
    map[0x1f2 / 8] &= (uint8_t) ~(1 << (0x1f2 & 7));
    expect_exc("IN word: both permitted", user(u_inw, 0), RT_RETURN, 0);
    map[0x1f1 / 8] = 0xff;
    expect_exc("IN: no longer permitted", user(u_in, 0), GP, 0);
    /* XSETBV */
    if (cpu_has(1, 2, 26)) {
        check_eq("CPUID.OSXSAVE follows CR4: clear", cpuid(1, 0).c >> 27 & 1, 0);
        wrcr4(rdcr4() | 1ul << 18);
        check_eq("CPUID.OSXSAVE follows CR4: set", cpuid(1, 0).c >> 27 & 1, 1);
        e = TRY(ASM("xsetbv" : : "c"(0), "a"(2), "d"(0)));
        expect_exc("XSETBV without x87", e, GP, 0);
        e = TRY(ASM("xsetbv" : : "c"(0), "a"(5), "d"(0)));
        expect_exc("XSETBV with YMM and no SSE", e, GP, 0);
        e = TRY(ASM("xsetbv" : : "c"(1), "a"(3), "d"(0)));
        expect_exc("XSETBV of XCR1", e, GP, 0);
        e = TRY(ASM("xsetbv" : : "c"(0), "a"(3), "d"(0x80000000)));
        expect_exc("XSETBV with bit 63", e, GP, 0);
        e = TRY(ASM("xsetbv" : : "c"(0), "a"(3), "d"(0)));
        expect_none("XSETBV x87 and SSE", e);
        check_eq("XGETBV at CPL 3", user(u_xgetbv, 0).rax, 3);
        check_eq("CPUID.0DH.0: size of the enabled components", cpuid(0xd, 0).b, 576);
        wrcr4(rdcr4() & ~(1ul << 18));
    } else {
        skip("XSETBV", "no XSAVE");
    }
    /* MSRs */
    e = TRY(rdmsr(0x12345678));
    expect_exc("RDMSR of no MSR", e, GP, 0);
    e = TRY(wrmsr(0x12345678, 0));
    expect_exc("WRMSR of no MSR", e, GP, 0);
    e = TRY(wrmsr(0x277, 0x0007040600070406));
    expect_none("PAT, the default", e);
    e = TRY(wrmsr(0x277, 0x0007040600070402));
    expect_exc("PAT with a reserved type", e, GP, 0);
    check_eq("PAT reads back", rdmsr(0x277), 0x0007040600070406);
    e = TRY(rdmsr(0x1b));
    expect_none("APIC_BASE", e);
    check_eq("APIC_BASE: BSP and enabled", rdmsr(0x1b) & 0x900, 0x900);
    e = TRY(wrmsr(0x10, 0x1000));
    expect_none("TSC is writable", e);
    uint64_t t = rdmsr(0x10);
    check("TSC counts on from there", t >= 0x1000 && t < 0x100000000);
    check("MTRRcap: fixed ranges, write combining", cpu_has(1, 3, 12) && (rdmsr(0xfe) & 0x500) == 0x500);
    e = TRY(wrmsr(0x200, 0x2));
    expect_exc("MTRR base with a reserved type", e, GP, 0);
    e = TRY(wrmsr(0x2ff, 0x2));
    expect_exc("MTRR default type reserved", e, GP, 0);
    e = TRY(wrmsr(0x250, 0x0202020202020202));
    expect_exc("fixed MTRR with a reserved type", e, GP, 0);
}

/* --- far transfers
 * ------------------------------------------------------------------------------------------------------------ */
uint64_t cg_cs, cg_ss, cg_rsp, cg_frame[4];
__asm__(".text\ncg_entry: mov %cs, %eax\n mov %rax, cg_cs\n mov %ss, %eax\n mov %rax, cg_ss\n mov %rsp, cg_rsp\n"
        " mov (%rsp), %rax\n mov %rax, cg_frame\n mov 8(%rsp), %rax\n mov %rax, cg_frame + 8\n"
        " mov 16(%rsp), %rax\n mov %rax, cg_frame + 16\n mov 24(%rsp), %rax\n mov %rax, cg_frame + 24\n lretq\n");
extern char cg_entry[];
enum { SEL_CG = SEL_FREE, SEL_CONF = SEL_FREE + 16, SEL_TMP = SEL_FREE + 24 };
UASM(u_callgate, "pushq $0; lea ptr_cg(%rip), %rax; lcall *(%rax); mov %cs, %ebx; mov %ss, %edx; nop");
UASM(u_farsame, "lea ptr_same(%rip), %rax; lcall *(%rax); mov %cs, %ebx");
UASM(u_fartok, "lea ptr_k(%rip), %rax; lcall *(%rax)");
UASM(u_confjmp, "lea ptr_conf(%rip), %rax; ljmp *(%rax)");
__asm__(".pushsection .user, \"ax\"\n.balign 8\nptr_cg: .long 0\n .word 0x58 + 3\n.balign 8\nptr_same: .long 0\n .word "
        "0x2b\n.balign 8\n"
        "ptr_k: .long 0x100000\n .word 0x08\n.balign 8\nptr_conf: .long 0\n .word 0x68 + 3\n.balign 8\n"
        "u_lret: lretl\nu_conf: mov %cs, %ebx\n int $0x80\n.popsection\n");
extern char ptr_cg[], ptr_same[], ptr_conf[], u_lret[], u_conf[];

UASM(u_es, "mov %es, %eax");

static void gate(unsigned sel, unsigned type, unsigned target, uint64_t offset)
{
    rt_gdt[sel / 8] = (offset & 0xffff) | (uint64_t)target << 16 | (uint64_t)type << 40 | (offset >> 16 & 0xffff) << 48;
    rt_gdt[sel / 8 + 1] = offset >> 32;
}

static void far_transfers(void)
{
    *(uint32_t *)ptr_same = USER_ADDR(u_lret);
    *(uint32_t *)ptr_conf = USER_ADDR(u_conf);
    struct exc e = user(u_farsame, 0);
    expect_exc("far CALL and RET at CPL 3", e, RT_RETURN, 0);
    check_eq("far CALL and RET: CS", e.rbx, SEL_U64);
    expect_exc("far CALL to DPL 0 code", user(u_fartok, 0), GP, 0x08);
    rt_gdt[SEL_CONF / 8] = rt_desc(0, 0xfffff, 0x9f, 0xa); /* conforming, DPL 0, 64-bit */
    e = user(u_confjmp, 0);
    expect_exc("far JMP to conforming code of DPL 0", e, RT_RETURN, 0);
    check_eq("conforming code runs at CPL 3", e.rbx, SEL_CONF | 3);
    /* call gate */
    gate(SEL_CG, 0xec, SEL_K64, (uint64_t)cg_entry);
    e = user(u_callgate, 0);
    expect_exc("CALL through a call gate", e, RT_RETURN, 0);
    check_eq("call gate: CS", cg_cs, SEL_K64);
    check_eq("call gate: SS is null with the new RPL", cg_ss, 0);
    check_eq("call gate: RIP pushed", cg_frame[0], USER_ADDR(u_callgate) + 2 + 7 + 2);
    check_eq("call gate: CS pushed", cg_frame[1] & 0xffff, SEL_U64);
    check_eq("call gate: RSP pushed", cg_frame[2], RT_USER_STACK - 72);
    check_eq("call gate: SS pushed", cg_frame[3] & 0xffff, SEL_UDATA);
    check_eq("call gate: back at CPL 3, CS", e.rbx, SEL_U64);
    check_eq("call gate: back at CPL 3, SS", e.rdx, SEL_UDATA);
    gate(SEL_CG, 0x8c, SEL_K64, (uint64_t)cg_entry);
    expect_exc("call gate with DPL 0 from CPL 3", user(u_callgate, 0), GP, SEL_CG);
    gate(SEL_CG, 0x6c, SEL_K64, (uint64_t)cg_entry);
    expect_exc("call gate not present", user(u_callgate, 0), NP, SEL_CG);
    gate(SEL_CG, 0xec, SEL_K32, (uint64_t)cg_entry);
    expect_exc("call gate to 32-bit code", user(u_callgate, 0), GP, SEL_K32);
    gate(SEL_CG, 0xec, 0, (uint64_t)cg_entry);
    expect_exc("call gate with a null selector", user(u_callgate, 0), GP, 0);
    gate(SEL_CG, 0xec, SEL_K64, 0x8000000000000000);
    expect_exc("call gate to a non-canonical offset", user(u_callgate, 0), GP, 0);
    gate(SEL_CG, 0xec, SEL_K64, (uint64_t)cg_entry);
    rt_gdt[SEL_CG / 8 + 1] |= 0x1f00ull << 32 & 0x0000090000000000; /* a type in the upper half */
    if (!rt_on_qemu())
        expect_exc("call gate with a type in its upper half", user(u_callgate, 0), GP, SEL_CG);
    /* LAR, LSL, VERR, VERW */
    uint32_t v = 0;
    uint8_t zf;
    ASM("lar %2, %0; setz %1" : "+r"(v), "=q"(zf) : "r"(SEL_U32) : "cc");
    check("LAR of 32-bit code", zf && v == 0xcffb00);
    ASM("lsl %2, %0; setz %1" : "+r"(v), "=q"(zf) : "r"(SEL_KDATA) : "cc");
    check("LSL of flat data", zf && v == 0xffffffff);
    v = 0x1234;
    ASM("lar %2, %0; setz %1" : "+r"(v), "=q"(zf) : "r"(0) : "cc");
    check("LAR of null", !zf && v == 0x1234);
    ASM("lsl %2, %0; setz %1" : "+r"(v), "=q"(zf) : "r"(SEL_TSS) : "cc");
    check_eq("LSL of the TSS: ZF", zf, 1);
    gate(SEL_CG, 0xec, SEL_K64, 0);
    ASM("lsl %2, %0; setz %1" : "+r"(v), "=q"(zf) : "r"(SEL_CG) : "cc");
    check_eq("LSL of a call gate: ZF", zf, 0);
    ASM("lar %2, %0; setz %1" : "+r"(v), "=q"(zf) : "r"(SEL_CG) : "cc");
    check_eq("LAR of a call gate: ZF", zf, 1);
    ASM("verr %w1; setz %0" : "=q"(zf) : "r"(SEL_K64) : "cc");
    check_eq("VERR of readable code", zf, 1);
    ASM("verw %w1; setz %0" : "=q"(zf) : "r"(SEL_K64) : "cc");
    check_eq("VERW of code", zf, 0);
    ASM("verw %w1; setz %0" : "=q"(zf) : "r"(SEL_UDATA) : "cc");
    check_eq("VERW of data", zf, 1);
    ASM("verr %w1; setz %0" : "=q"(zf) : "r"(0x5000) : "cc");
    check_eq("VERR beyond the GDT", zf, 0);
    /* Accessed bit */
    rt_gdt[SEL_TMP / 8] = rt_desc(0, 0xfffff, 0x92, 0xc);
    ASM("mov %0, %%ds" : : "r"(SEL_TMP));
    check_eq("a segment load sets the accessed bit", rt_gdt[SEL_TMP / 8] >> 40 & 0xff, 0x93);
    ASM("mov %0, %%ds" : : "r"(SEL_KDATA));
    /* far RET to CPL 3 nulls data segments */
    ASM("mov %0, %%es" : : "r"(SEL_KDATA));
    struct go g = {.rip = USER_ADDR(u_es), .cs = SEL_U64, .rflags = 0x202, .rsp = RT_USER_STACK - 64, .ss = SEL_UDATA};
    e = TRY(rt_go(&g));
    check_eq("IRETQ to CPL 3 nulls a DPL 0 data segment", e.rax, 0);
}

void image_main(void)
{
    syscall_sysret();
    gs_base();
    far_transfers();
    misc();
}
