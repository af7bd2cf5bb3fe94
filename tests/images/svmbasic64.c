/* SPDX-License-Identifier: MIT
 *
 * svmbasic64.c: SVM through the native intrinsics: instructions' faults, consistency checks, intercepts with their
 * EXITINFO, event injection, virtual interrupts, GIF, VMLOAD and VMSAVE, nested paging. APM volume 2, "Secure Virtual
 * Machine".
 */
#include "rt.h"
#include <vmenter/enter.h>
#include <vmenter/intrin.h>
#include <vmenter/svm.h>

const char image_name[] = IMAGE_NAME;
#define ASM(...) __asm__ volatile(__VA_ARGS__)
#define PA(p)    ((unsigned long)(p))

static struct vmcb *const v = (struct vmcb *)rt_pages[0];
static uint8_t *const hsave = rt_pages[1], *const iopm = rt_pages[2] /* 3 pages */,
                      *const msrpm = rt_pages[6] /* 2 pages */, *const guest_stack = rt_pages[8],
                      *const guest_idt = rt_pages[9], *const state = rt_pages[10];
static uint64_t *const npt_pml4 = (uint64_t *)rt_pages[11], *const npt_pdpt = (uint64_t *)rt_pages[12],
                       *const npt_pd = (uint64_t *)rt_pages[13], *const npt_pt = (uint64_t *)rt_pages[14];
static uint8_t *const target = rt_pages[20];
static struct vmenter_regs regs;
static bool decode_assists, nrips;

#define GUEST(name, code)                                                                                              \
    __asm__(".text\n.globl " #name "\n" #name ":\n" code "\n vmmcall\n hlt\n");                                        \
    extern char name[]
GUEST(g_vmmcall, "mov $0x1234, %eax");
GUEST(g_cpuid, "cpuid");
GUEST(g_hlt, "hlt");
GUEST(g_pause, "pause");
GUEST(g_rdtsc, "rdtsc");
GUEST(g_rdtscp, "rdtscp");
GUEST(g_rdpmc, "xor %ecx, %ecx; rdpmc");
GUEST(g_pushf, "pushfq");
GUEST(g_popf, "pushq $2; popfq");
GUEST(g_int, "int $0x33");
GUEST(g_invd, "invd");
GUEST(g_wbinvd, "wbinvd");
GUEST(g_invlpg, "mov $0x123456, %eax; invlpg (%rax)");
GUEST(g_sgdt, "sgdt 64(%rsp)");
GUEST(g_sidt, "sidt 64(%rsp)");
GUEST(g_lgdt, "lgdt 64(%rsp)");
GUEST(g_lidt, "lidt 64(%rsp)");
GUEST(g_sldt, "sldt %eax");
GUEST(g_str, "str %eax");
GUEST(g_lldt, "xor %eax, %eax; lldt %ax");
GUEST(g_ltr, "mov $0x30, %eax; ltr %ax");
GUEST(g_iret, "pushq $0x10; pushq %rsp; pushq $2; pushq $8; lea 1f(%rip), %rax; pushq %rax; iretq; 1: nop");
GUEST(g_vmrun, "mov $0x1000, %eax; vmrun");
GUEST(g_vmload, "mov $0x1000, %eax; vmload");
GUEST(g_vmsave, "mov $0x1000, %eax; vmsave");
GUEST(g_stgi, "stgi");
GUEST(g_clgi, "clgi");
GUEST(g_icebp, ".byte 0xf1");
GUEST(g_xsetbv, "xor %ecx, %ecx; mov $3, %eax; xor %edx, %edx; xsetbv");
GUEST(g_cr0r, "mov %cr0, %rbx");
GUEST(g_cr0w, "mov %cr0, %rax; mov %rax, %cr0");
GUEST(g_cr3w, "mov $rt_pml4, %edx; mov %rdx, %cr3");
GUEST(g_cr4r, "mov %cr4, %r9");
GUEST(g_cr8w, "mov $5, %edi; mov %rdi, %cr8");
GUEST(g_cr0_ts, "mov %cr0, %rax; xor $8, %rax; mov %rax, %cr0");
GUEST(g_cr0_am, "mov %cr0, %rax; xor $0x40000, %rax; mov %rax, %cr0");
GUEST(g_clts, "clts");
GUEST(g_lmsw, "mov $0xb, %eax; lmsw %ax");
GUEST(g_dr3w, "mov %rbx, %dr3");
GUEST(g_dr7r, "mov %dr7, %r10");
GUEST(g_rdmsr, "mov $0xc0000082, %ecx; rdmsr");
GUEST(g_wrmsr, "mov $0x174, %ecx; xor %eax, %eax; xor %edx, %edx; wrmsr");
GUEST(g_rdmsr_far, "mov $0x40000000, %ecx; rdmsr");
GUEST(g_out8, "outb %al, $0x80; g_out8_next: nop");
GUEST(g_in16, "mov $0x1234, %edx; inw %dx, %ax; g_in16_next: nop");
GUEST(g_outs, "mov $0x80, %edx; lea g_outs(%rip), %rsi; mov $3, %ecx; g_outs_at: rep outsb; g_outs_next: nop");
extern char g_out8_next[], g_in16_next[], g_outs_at[], g_outs_next[];
GUEST(g_ud, "ud2");
GUEST(g_int3, "int3");
GUEST(g_gp, "mov $0x5000, %eax; mov %eax, %fs");
GUEST(g_pf, "mov 0x40001000, %eax");
GUEST(g_de, "xor %ecx, %ecx; div %ecx");
GUEST(g_triple, "movq $0, 128(%rsp); movq $0, 136(%rsp); lidt 128(%rsp); int3");
GUEST(g_nops, "nop; nop; nop; nop");
GUEST(g_sti, "sti; nop; g_sti_2: nop; nop");
GUEST(g_loop, "1: pause; jmp 1b");
GUEST(g_handler, "pop %rbx; pop %rcx; sub $16, %rsp");
GUEST(g_regs, "xor %rax, %rbx; add %rcx, %rdx; not %r8; not %r15; bswap %rsi; xchg %rdi, %rbp");
GUEST(g_read_target, "mov (%rdi), %al");
GUEST(g_write_target, "movb $0x77, (%rdi)");
GUEST(g_exec_target, "call *%rdi");
GUEST(g_rdmsr_efer, "mov $0xc0000080, %ecx; rdmsr");
extern char g_sti_2[];

struct table {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

static void set(struct vmcb_seg *s, unsigned sel, unsigned attrib, uint32_t limit, uint64_t base)
{
    s->sel = (uint16_t)sel, s->attrib = (uint16_t)attrib, s->limit = limit, s->base = base;
}
static void setup(char *code)
{
    struct table gdt;
    ASM("sgdt %0" : "=m"(gdt));
    memset(v, 0, sizeof *v);
    vmcb_set_intercept(v, SVM_EXIT_VMRUN);
    vmcb_set_intercept(v, SVM_EXIT_VMMCALL);
    vmcb_set_intercept(v, SVM_EXIT_SHUTDOWN);
    v->control.guest_asid = 1;
    v->control.iopm_base_pa = PA(iopm);
    v->control.msrpm_base_pa = PA(msrpm);
    set(&v->save.cs, SEL_K64, 0xa9b, 0xffffffff, 0);
    set(&v->save.ss, SEL_KDATA, 0xc93, 0xffffffff, 0);
    v->save.ds = v->save.es = v->save.fs = v->save.gs = v->save.ss;
    set(&v->save.gdtr, 0, 0, gdt.limit, gdt.base);
    set(&v->save.idtr, 0, 0, 0x3ff, PA(guest_idt));
    set(&v->save.tr, SEL_TSS, 0x8b, sizeof rt_tss - 1, PA(&rt_tss));
    v->save.efer = rdmsr(MSR_EFER);
    v->save.cr0 = rdcr0(), v->save.cr3 = rdcr3(), v->save.cr4 = rdcr4();
    v->save.dr6 = 0xffff0ff0, v->save.dr7 = 0x400;
    v->save.rflags = 2;
    v->save.rip = PA(code), v->save.rsp = PA(guest_stack) + 2048;
    v->save.g_pat = rdmsr(0x277);
    memset(guest_stack, 0, 4096);
    memset(&regs, 0, sizeof regs);
}
static uint64_t go(void)
{
    vmenter_vmrun(PA(v), &regs);
    __svm_stgi();
    return v->control.exitcode;
}
static uint64_t run(char *code)
{
    setup(code);
    return go();
}
static void icpt(const char *name, char *code, unsigned exit, long length)
{
    setup(code);
    vmcb_set_intercept(v, exit);
    uint64_t got = go();
    if (got != exit)
        fail(name, "exit %#llx rip %#llx", (unsigned long long)got, (unsigned long long)v->save.rip);
    else if (length >= 0 && nrips && v->control.nrip != v->save.rip + (unsigned long)length)
        fail(name, "nRIP %#llx rip %#llx", (unsigned long long)v->control.nrip, (unsigned long long)v->save.rip);
    else
        check(name, true);
    if (exit == SVM_EXIT_HLT || exit == SVM_EXIT_SHUTDOWN)
        return;
    uint64_t without = run(code);
    if (exit != SVM_EXIT_VMRUN && exit != SVM_EXIT_VMMCALL && without == exit)
        fail(name, "the same exit without its intercept");
}
static void gate(unsigned n, char *handler, unsigned type)
{
    uint64_t a = PA(handler);
    uint32_t *g = (uint32_t *)(guest_idt + 16 * n);
    g[0] = (uint32_t)(a & 0xffff) | SEL_K64 << 16;
    g[1] = (uint32_t)(a & 0xffff0000) | type << 8;
    g[2] = (uint32_t)(a >> 32);
    g[3] = 0;
}

static void instructions(void)
{
    struct exc e;
    if (!cpu_has(0x80000001, 2, 12)) {
        e = TRY(__svm_stgi());
        expect_exc("STGI with EFER.SVME=0, no SKINIT", e, UD, 0);
    } else {
        skip("STGI with EFER.SVME=0, no SKINIT", "SKINIT is there");
    }
    e = TRY(ASM("vmmcall"));
    expect_exc("VMMCALL outside of a guest", e, UD, 0);
    e = TRY(ASM("vmrun %%rax" : : "a"(PA(v))));
    expect_exc("VMRUN with EFER.SVME=0", e, UD, 0);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SVME);
    e = TRY(wrmsr(SVM_MSR_VM_HSAVE_PA, PA(hsave) + 8));
    expect_exc("VM_HSAVE_PA unaligned", e, GP, 0);
    e = TRY(wrmsr(SVM_MSR_VM_HSAVE_PA, 1ul << 60));
    expect_exc("VM_HSAVE_PA beyond the physical-address width", e, GP, 0);
    wrmsr(SVM_MSR_VM_HSAVE_PA, PA(hsave));
    check_eq("VM_HSAVE_PA", rdmsr(SVM_MSR_VM_HSAVE_PA), PA(hsave));
    e = TRY(ASM("vmmcall"));
    expect_exc("VMMCALL outside of a guest, SVME=1", e, UD, 0);
    if (!rt_on_qemu()) { /* it goes on with them */
        e = TRY(ASM("vmrun %%rax" : : "a"(PA(v) + 8) : "memory"));
        expect_exc("VMRUN of an unaligned VMCB", e, GP, 0);
        e = TRY(ASM("vmload %%rax" : : "a"(PA(v) + 8) : "memory"));
        expect_exc("VMLOAD of an unaligned VMCB", e, GP, 0);
        e = TRY(ASM("vmsave %%rax" : : "a"(PA(v) + 8) : "memory"));
        expect_exc("VMSAVE of an unaligned VMCB", e, GP, 0);
        e = TRY(ASM("vmrun %%rax" : : "a"(1ul << 60) : "memory"));
        expect_exc("VMRUN beyond the physical-address width", e, GP, 0);
    }
    /* VMLOAD and VMSAVE */
    struct vmcb *s = (struct vmcb *)state;
    wrmsr(0xc0000101, 0x111122220000), wrmsr(0xc0000102, 0x333344440000), wrmsr(0xc0000100, 0x55556666000);
    wrmsr(0xc0000081, 0x1234567800000000), wrmsr(0xc0000082, 0xabc), wrmsr(0xc0000083, 0xdef), wrmsr(0xc0000084, 0x700);
    wrmsr(0x174, 8), wrmsr(0x175, 0x9999), wrmsr(0x176, 0x8888);
    memset(state, 0xee, 4096);
    __svm_vmsave(PA(state));
    check_eq("VMSAVE: FS base", s->save.fs.base, 0x55556666000);
    check_eq("VMSAVE: GS base", s->save.gs.base, 0x111122220000);
    check_eq("VMSAVE: KernelGSbase", s->save.kernel_gs_base, 0x333344440000);
    check_eq("VMSAVE: STAR", s->save.star, 0x1234567800000000);
    check_eq("VMSAVE: LSTAR", s->save.lstar, 0xabc);
    check_eq("VMSAVE: CSTAR", s->save.cstar, 0xdef);
    check_eq("VMSAVE: SFMASK", s->save.sfmask, 0x700);
    check_eq("VMSAVE: SYSENTER_ESP", s->save.sysenter_esp, 0x9999);
    check_eq("VMSAVE: TR", s->save.tr.sel, SEL_TSS);
    check_eq("VMSAVE: TR base", s->save.tr.base, PA(&rt_tss));
    check_eq("VMSAVE leaves CS alone", s->save.cs.sel, 0xeeee);
    check_eq("VMSAVE leaves RIP alone", s->save.rip, 0xeeeeeeeeeeeeeeee);
    s->save.gs.base = 0x777000, s->save.lstar = 0x4242, s->save.sysenter_eip = 0x5151;
    __svm_vmload(PA(state));
    check_eq("VMLOAD: GS base", rdmsr(0xc0000101), 0x777000);
    check_eq("VMLOAD: LSTAR", rdmsr(0xc0000082), 0x4242);
    check_eq("VMLOAD: SYSENTER_EIP", rdmsr(0x176), 0x5151);
    uint16_t tr;
    ASM("str %0" : "=r"(tr));
    check_eq("VMLOAD: TR", tr, SEL_TSS);
    s->save.gs.base = 0;
    __svm_vmload(PA(state));
}

static void entry(void)
{
    setup(g_regs);
    for (unsigned i = 0; i < 16; i++)
        regs.reg[i] = 0x1111111111111111 * i;
    v->save.rax = 0xf0f0f0f0f0f0f0f0;
    struct vmenter_regs b = regs;
    check_eq("VMRUN: exit by VMMCALL", go(), SVM_EXIT_VMMCALL);
    bool ok = regs.rbx == (b.rbx ^ 0xf0f0f0f0f0f0f0f0) && regs.rdx == b.rdx + b.rcx && regs.r8 == ~b.r8 &&
              regs.r15 == ~b.r15 && regs.rsi == __builtin_bswap64(b.rsi) && regs.rdi == b.rbp && regs.rbp == b.rdi &&
              regs.r14 == b.r14;
    check("general registers go in and come back", ok);
    run(g_vmmcall);
    check_eq("RAX comes back in the VMCB", v->save.rax, 0x1234);
    check_eq("RIP is that of VMMCALL", v->save.rip, PA(g_vmmcall) + 5);
    if (nrips)
        check_eq("nRIP", v->control.nrip, v->save.rip + 3);
    else
        skip("nRIP", "no nRIP save");
    check_eq("CPL", v->save.cpl, 0);
    check_eq("CS", v->save.cs.sel, SEL_K64);
    check_eq("host RFLAGS: IF", rdflags() & 0x200, 0);
    check_eq("host DR7", rddr7(), 0x400);
    check_eq("EXITINTINFO is not valid", v->control.exitintinfo >> 31 & 1, 0);
    check_eq("TLB_CONTROL and EVENTINJ of a plain entry", v->control.eventinj >> 31, 0);
    setup(g_rdmsr_efer);
    go();
    check_eq("EFER.SVME in the guest", regs.reg[0] * 0 + (v->save.rax & EFER_SVME), EFER_SVME);
}

static void consistency(void)
{
    static const struct {
        const char *name;
        size_t offset;
        uint64_t value;
        unsigned size;
    } t[] = {
#define S(field) 0x400 + offsetof(struct vmcb_save, field)
#define C(field) offsetof(struct vmcb_control, field)
        {"EFER.SVME clear", S(efer), EFER_LME | EFER_LMA, 8},
        {"CR0.CD clear and NW set", S(cr0), 0xa0010033, 8},
        {"CR0 with high bits", S(cr0), 0x180010033, 8},
        {"CR4 with reserved bits", S(cr4), 1ull << 63 | 0x620, 8},
        {"DR6 with high bits", S(dr6), 1ull << 32 | 0xffff0ff0, 8},
        {"DR7 with high bits", S(dr7), 1ull << 32 | 0x400, 8},
        {"EFER with reserved bits", S(efer), 1ull << 63 | EFER_SVME | EFER_LME | EFER_LMA, 8},
        {"LME and PG with PAE clear", S(cr4), 0x600, 8},
        {"LME and PG with PE clear", S(cr0), 0x80000032, 8},
        {"CS with L and D in long mode", S(cs.attrib), 0xe9b, 2},
        {"the VMRUN intercept clear", C(intercept_misc2), 2, 4},
        {"ASID 0", C(guest_asid), 0, 4},
        {"MSR permission map beyond the physical-address width", C(msrpm_base_pa), 1ull << 60, 8},
        {"I/O permission map beyond the physical-address width", C(iopm_base_pa), 1ull << 60, 8},
        {"EVENTINJ of a reserved type", C(eventinj), 0x80000520, 8},
        {"EVENTINJ of exception 2", C(eventinj), 0x80000302, 8},
        {"EVENTINJ of exception 32", C(eventinj), 0x80000320, 8},
    };
    for (unsigned i = 0; i < sizeof t / sizeof *t; i++) {
        if (rt_on_bochs() && t[i].offset == S(cr0) && t[i].value == 0x80000032) /* it hangs */
            continue;
        setup(g_vmmcall);
        memcpy((uint8_t *)v + t[i].offset, &t[i].value, t[i].size);
        uint64_t got = go();
        if (rt_on_qemu()) /* 32 bits of it */
            got = (uint64_t)(int64_t)(int32_t)got;
        if (got != (uint64_t)SVM_EXIT_INVALID)
            fail(t[i].name, "exit %#llx", (unsigned long long)got);
        else
            check(t[i].name, true);
    }
    check_eq("a good VMCB again", run(g_vmmcall), SVM_EXIT_VMMCALL);
}

static void intercepts(void)
{
    icpt("CPUID", g_cpuid, SVM_EXIT_CPUID, 2);
    icpt("HLT", g_hlt, SVM_EXIT_HLT, 1);
    icpt("PAUSE", g_pause, SVM_EXIT_PAUSE, 2);
    icpt("RDTSC", g_rdtsc, SVM_EXIT_RDTSC, 2);
    icpt("RDPMC", g_rdpmc, SVM_EXIT_RDPMC, 2);
    icpt("PUSHF", g_pushf, SVM_EXIT_PUSHF, 1);
    icpt("POPF", g_popf, SVM_EXIT_POPF, 1);
    icpt("INT n", g_int, SVM_EXIT_SWINT, 2);
    icpt("INVD", g_invd, SVM_EXIT_INVD, 2);
    icpt("WBINVD", g_wbinvd, SVM_EXIT_WBINVD, 2);
    icpt("INVLPG", g_invlpg, SVM_EXIT_INVLPG, 3);
    icpt("SGDT", g_sgdt, SVM_EXIT_GDTR_READ, 5);
    icpt("SIDT", g_sidt, SVM_EXIT_IDTR_READ, 5);
    icpt("LGDT", g_lgdt, SVM_EXIT_GDTR_WRITE, 5);
    icpt("LIDT", g_lidt, SVM_EXIT_IDTR_WRITE, 5);
    icpt("SLDT", g_sldt, SVM_EXIT_LDTR_READ, 3);
    icpt("STR", g_str, SVM_EXIT_TR_READ, 3);
    icpt("LLDT", g_lldt, SVM_EXIT_LDTR_WRITE, 3);
    icpt("LTR", g_ltr, SVM_EXIT_TR_WRITE, 3);
    icpt("IRET", g_iret, SVM_EXIT_IRET, 2);
    icpt("VMRUN", g_vmrun, SVM_EXIT_VMRUN, 3);
    icpt("VMLOAD", g_vmload, SVM_EXIT_VMLOAD, 3);
    icpt("VMSAVE", g_vmsave, SVM_EXIT_VMSAVE, 3);
    icpt("STGI", g_stgi, SVM_EXIT_STGI, 3);
    icpt("CLGI", g_clgi, SVM_EXIT_CLGI, 3);
    icpt("INT1", g_icebp, SVM_EXIT_ICEBP, -1);
    if (cpu_has(0x80000001, 3, 27))
        icpt("RDTSCP", g_rdtscp, SVM_EXIT_RDTSCP, 3);
    else
        skip("RDTSCP", "no RDTSCP");
    if (cpu_has(1, 2, 26)) {
        wrcr4(rdcr4() | 1ul << 18);
        icpt("XSETBV", g_xsetbv, SVM_EXIT_XSETBV, 3);
    } else {
        skip("XSETBV", "no XSAVE");
    }
    if (!rt_on_bochs()) /* it stops */
        icpt("shutdown", g_triple, SVM_EXIT_SHUTDOWN, -1);
    if (decode_assists) {
        setup(g_int);
        vmcb_set_intercept(v, SVM_EXIT_SWINT);
        go();
        check_eq("INT n: vector in EXITINFO1", v->control.exitinfo1, 0x33);
        setup(g_invlpg);
        vmcb_set_intercept(v, SVM_EXIT_INVLPG);
        go();
        check_eq("INVLPG: address in EXITINFO1", v->control.exitinfo1, 0x123456);
    } else {
        skip("INT n: vector in EXITINFO1", "no decode assists");
        skip("INVLPG: address in EXITINFO1", "no decode assists");
    }
    /* control and debug registers */
    icpt("read of CR0", g_cr0r, SVM_EXIT_CR0_READ, 3);
    icpt("write of CR0", g_cr0w, SVM_EXIT_CR0_WRITE, 3);
    icpt("write of CR3", g_cr3w, SVM_EXIT_CR0_WRITE + 3, 3);
    icpt("read of CR4", g_cr4r, SVM_EXIT_CR0_READ + 4, 4);
    icpt("write of CR8", g_cr8w, SVM_EXIT_CR0_WRITE + 8, 4);
    icpt("CLTS is a write of CR0", g_clts, SVM_EXIT_CR0_WRITE, 2);
    icpt("LMSW is a write of CR0", g_lmsw, SVM_EXIT_CR0_WRITE, 3);
    icpt("write of DR3", g_dr3w, SVM_EXIT_DR0_WRITE + 3, 3);
    icpt("read of DR7", g_dr7r, SVM_EXIT_DR0_READ + 7, 4);
    if (decode_assists) {
        setup(g_cr4r);
        vmcb_set_intercept(v, SVM_EXIT_CR0_READ + 4);
        go();
        check_eq("read of CR4: EXITINFO1", v->control.exitinfo1, SVM_CR_MOV | 9);
        setup(g_clts);
        vmcb_set_intercept(v, SVM_EXIT_CR0_WRITE);
        go();
        check_eq("CLTS: EXITINFO1", v->control.exitinfo1 & SVM_CR_MOV, 0);
    } else {
        skip("read of CR4: EXITINFO1", "no decode assists");
        skip("CLTS: EXITINFO1", "no decode assists");
    }
    setup(g_cr0_ts);
    vmcb_set_intercept(v, SVM_EXIT_CR0_SEL_WRITE);
    check_eq("selective CR0 write: TS alone passes", go(), SVM_EXIT_VMMCALL);
    setup(g_cr0_am);
    vmcb_set_intercept(v, SVM_EXIT_CR0_SEL_WRITE);
    check_eq("selective CR0 write: another bit", go(), SVM_EXIT_CR0_SEL_WRITE);
    /* MSRs */
    memset(msrpm, 0, SVM_MSRPM_SIZE);
    svm_msrpm_set(msrpm, 0xc0000082, 1, 0);
    svm_msrpm_set(msrpm, 0x174, 0, 1);
    setup(g_rdmsr);
    check_eq("RDMSR without the MSR intercept", go(), SVM_EXIT_VMMCALL);
    setup(g_rdmsr);
    vmcb_set_intercept(v, SVM_EXIT_MSR);
    check_eq("RDMSR with its bit", go(), SVM_EXIT_MSR);
    check_eq("... EXITINFO1", v->control.exitinfo1, 0);
    setup(g_wrmsr);
    vmcb_set_intercept(v, SVM_EXIT_MSR);
    check_eq("WRMSR with its bit", go(), SVM_EXIT_MSR);
    check_eq("... EXITINFO1", v->control.exitinfo1, 1);
    svm_msrpm_set(msrpm, 0x174, 1, 0);
    setup(g_wrmsr);
    vmcb_set_intercept(v, SVM_EXIT_MSR);
    check_eq("WRMSR with the read bit alone", go(), SVM_EXIT_VMMCALL);
    setup(g_rdmsr_far);
    vmcb_set_intercept(v, SVM_EXIT_MSR);
    check_eq("RDMSR outside of the map's ranges", go(), SVM_EXIT_MSR);
    /* ports */
    memset(iopm, 0, SVM_IOPM_SIZE);
    setup(g_out8);
    vmcb_set_intercept(v, SVM_EXIT_IOIO);
    check_eq("OUT with a clear bit", go(), SVM_EXIT_VMMCALL);
    svm_iopm_set(iopm, 0x80, 1);
    svm_iopm_set(iopm, 0x1235, 1);
    setup(g_out8);
    check_eq("OUT without the intercept", go(), SVM_EXIT_VMMCALL);
    setup(g_out8);
    vmcb_set_intercept(v, SVM_EXIT_IOIO);
    check_eq("OUT with its bit", go(), SVM_EXIT_IOIO);
    check_eq("... EXITINFO1: port, size, address size", v->control.exitinfo1 & 0xffff03ff,
             0x80u << 16 | SVM_IOIO_SZ8 | SVM_IOIO_A64);
    check_eq("... EXITINFO2: next RIP", v->control.exitinfo2, PA(g_out8_next));
    setup(g_in16);
    vmcb_set_intercept(v, SVM_EXIT_IOIO);
    check_eq("IN of a word whose second port has its bit", go(), SVM_EXIT_IOIO);
    check_eq("... EXITINFO1", v->control.exitinfo1 & 0xffff007f, 0x1234u << 16 | SVM_IOIO_SZ16 | SVM_IOIO_IN);
    check_eq("... EXITINFO2", v->control.exitinfo2, PA(g_in16_next));
    setup(g_outs);
    vmcb_set_intercept(v, SVM_EXIT_IOIO);
    check_eq("REP OUTSB", go(), SVM_EXIT_IOIO);
    check_eq("... EXITINFO1", v->control.exitinfo1 & 0xffff007f,
             0x80u << 16 | SVM_IOIO_SZ8 | SVM_IOIO_STR | SVM_IOIO_REP);
    check_eq("... RIP", v->save.rip, PA(g_outs_at));
    check_eq("... EXITINFO2", v->control.exitinfo2, PA(g_outs_next));
}

static void exception(const char *name, char *code, unsigned vector, uint64_t info1, uint64_t info2)
{
    setup(code);
    vmcb_set_intercept(v, SVM_EXIT_EXCEPTION + vector);
    uint64_t got = go();
    if (got != SVM_EXIT_EXCEPTION + vector || (info1 != ~0ull && v->control.exitinfo1 != info1) ||
        (vector == PF && v->control.exitinfo2 != info2))
        fail(name, "exit %#llx info1 %#llx info2 %#llx", (unsigned long long)got,
             (unsigned long long)v->control.exitinfo1, (unsigned long long)v->control.exitinfo2);
    else
        check(name, true);
}

static void inject(const char *name, uint64_t event, uint64_t rbx, uint64_t rcx)
{
    setup(g_nops);
    v->control.eventinj = event;
    v->control.nrip = PA(g_nops) + 2; /* what a software interrupt pushes where nRIP is saved */
    v->save.rflags = 0x202;
    uint64_t got = go();
    if (got != SVM_EXIT_VMMCALL || regs.rbx != rbx || regs.rcx != rcx)
        fail(name, "exit %#llx rbx %#llx rcx %#llx", (unsigned long long)got, (unsigned long long)regs.rbx,
             (unsigned long long)regs.rcx);
    else
        check(name, true);
}

static void events(void)
{
    exception("#UD", g_ud, UD, ~0ull, 0);
    check_eq("... RIP", v->save.rip, PA(g_ud));
    exception("#BP", g_int3, BP, ~0ull, 0);
    check_eq("... RIP is the instruction's", v->save.rip, PA(g_int3));
    exception("#DE", g_de, DE, ~0ull, 0);
    exception("#GP: error code", g_gp, GP, 0x5000, 0);
    exception("#PF: error code and address", g_pf, PF, 0, RT_WINDOW + 0x1000);
    for (unsigned n = 0; n < 64; n++)
        gate(n, g_handler, 0x8e);
    check_eq("an exception that the guest handles", run(g_ud), SVM_EXIT_VMMCALL);
    check_eq("... in its handler", regs.rbx, PA(g_ud));
    gate(UD, g_handler, 0x0e);
    exception("#NP in the delivery of #UD", g_ud, NP, UD * 8 + 2, 0);
    check_eq("... EXITINTINFO", v->control.exitintinfo & 0xffffffff, 0x80000300 | UD);
    gate(UD, g_handler, 0x8e);
    gate(0x33, g_handler, 0x0e);
    exception("#NP in the delivery of INT n", g_int, NP, 0x33 * 8 + 2, 0);
    check_eq("... EXITINTINFO", v->control.exitintinfo & 0xffffffff, 0x80000400 | 0x33);
    gate(0x33, g_handler, 0x8e);
    uint64_t rip = PA(g_nops);
    inject("inject an external interrupt", vmcb_event(VMCB_EVENT_INTR, 0x33), rip, SEL_K64);
    check_eq("... EVENTINJ is cleared by the exit", v->control.eventinj >> 31 & 1, 0);
    inject("inject an NMI", vmcb_event(VMCB_EVENT_NMI, NMI), rip, SEL_K64);
    inject("inject #UD", vmcb_event(VMCB_EVENT_EXCEPTION, UD), rip, SEL_K64);
    inject("inject #GP with an error code", vmcb_event_error(VMCB_EVENT_EXCEPTION, GP, 0x1234), 0x1234, rip);
    setup(g_nops);
    v->control.eventinj = vmcb_event(VMCB_EVENT_INTR, 0x33);
    v->save.rflags = 2;
    check_eq("an injected interrupt does not ask for IF", go(), SVM_EXIT_VMMCALL);
    check_eq("... delivered", regs.rcx, SEL_K64);
    gate(0x33, g_handler, 0x0e);
    setup(g_nops);
    v->control.eventinj = vmcb_event(VMCB_EVENT_INTR, 0x33);
    vmcb_set_intercept(v, SVM_EXIT_EXCEPTION + NP);
    check_eq("injection that faults", go(), SVM_EXIT_EXCEPTION + NP);
    check_eq("... EXITINTINFO", v->control.exitintinfo & 0xffffffff, 0x80000033);
    gate(0x33, g_handler, 0x8e);
}

static void apic(unsigned r, uint32_t x)
{
    *(volatile uint32_t *)(0xfee00000ul + r) = x;
}
static volatile unsigned irqs;
static void on_irq(struct regs *r)
{
    irqs++;
    apic(0xb0, 0);
}

static void interrupts(void)
{
    wrcr8(0);
    apic(0xf0, 0x1ff);
    rt_irq[0x61] = rt_irq[0x31] = on_irq;
    /* virtual interrupts */
    setup(g_sti);
    v->control.vintr =
        VMCB_VINTR_IRQ | VMCB_VINTR_PRIO(15) | VMCB_VINTR_IGN_TPR | VMCB_VINTR_MASKING | VMCB_VINTR_VECTOR(0x35);
    check_eq("a virtual interrupt is taken", go(), SVM_EXIT_VMMCALL);
    check_eq("... after the shadow of STI", regs.rbx, PA(g_sti_2));
    check_eq("... V_IRQ is cleared", v->control.vintr >> 8 & 1, 0);
    setup(g_nops);
    v->control.vintr =
        VMCB_VINTR_IRQ | VMCB_VINTR_PRIO(15) | VMCB_VINTR_IGN_TPR | VMCB_VINTR_MASKING | VMCB_VINTR_VECTOR(0x35);
    check_eq("IF=0: a virtual interrupt waits", go(), SVM_EXIT_VMMCALL);
    check_eq("... V_IRQ stays", v->control.vintr >> 8 & 1, 1);
    check_eq("... not delivered", regs.rbx, 0);
    setup(g_sti);
    v->control.vintr =
        VMCB_VINTR_IRQ | VMCB_VINTR_PRIO(15) | VMCB_VINTR_IGN_TPR | VMCB_VINTR_MASKING | VMCB_VINTR_VECTOR(0x35);
    vmcb_set_intercept(v, SVM_EXIT_VINTR);
    check_eq("VINTR intercept", go(), SVM_EXIT_VINTR);
    check_eq("... after the shadow of STI", v->save.rip, PA(g_sti_2));
    /* V_TPR */
    setup(g_sti);
    v->control.vintr = VMCB_VINTR_IRQ | VMCB_VINTR_PRIO(3) | VMCB_VINTR_MASKING | VMCB_VINTR_VECTOR(0x35) | 5;
    check_eq("V_TPR holds back a virtual interrupt", go(), SVM_EXIT_VMMCALL);
    check_eq("... not delivered", regs.rbx, 0);
    setup(g_cr8w);
    v->control.vintr = VMCB_VINTR_MASKING;
    go();
    check_eq("CR8 of the guest is V_TPR", v->control.vintr & 0xff, 5);
    check_eq("... and not the host's", rdcr8(), 0);
    /* the shadow in the VMCB */
    setup(g_nops);
    v->save.rflags = 0x202;
    v->control.interrupt_shadow = 1;
    v->control.vintr =
        VMCB_VINTR_IRQ | VMCB_VINTR_PRIO(15) | VMCB_VINTR_IGN_TPR | VMCB_VINTR_MASKING | VMCB_VINTR_VECTOR(0x35);
    go();
    check_eq("the interrupt shadow holds for one instruction", regs.rbx, PA(g_nops) + 1);
    if (rt_on_bochs()) {
        skip("physical interrupts", "Bochs");
        return;
    }
    /* physical interrupts */
    apic(0x300, 0x40061);
    setup(g_loop);
    v->control.vintr = VMCB_VINTR_MASKING;
    vmcb_set_intercept(v, SVM_EXIT_INTR);
    irqs = 0;
    ASM("cli");
    ASM("clgi; sti");
    vmenter_vmrun(PA(v), &regs);
    check_eq("INTR intercept", v->control.exitcode, SVM_EXIT_INTR);
    check_eq("... GIF is clear: the host has not taken it", irqs, 0);
    ASM("stgi; nop; nop; cli");
    check_eq("... the host takes it with STGI", irqs, 1);
    /* GIF */
    ASM("clgi; sti");
    irqs = 0;
    apic(0x300, 0x40061);
    for (volatile int i = 0; i < 100; i++)
        ;
    check_eq("GIF=0 holds interrupts with IF=1", irqs, 0);
    __svm_stgi();
    ASM("nop; nop");
    check_eq("STGI lets them in", irqs, 1);
    cli();
    /* without masking and intercept the guest takes a physical interrupt by its own IF */
    apic(0x300, 0x40031);
    setup(g_sti);
    check_eq("a physical interrupt in the guest", go(), SVM_EXIT_VMMCALL);
    check_eq("... after the shadow of STI", regs.rbx, PA(g_sti_2));
    apic(0xb0, 0);
}

/* --- nested paging
 * ---------------------------------------------------------------------------------------------------------- */
static void npf(const char *name, char *code, uint64_t pte, uint64_t exit, uint64_t info1)
{
    npt_pt[PA(target) >> 12 & 511] = pte;
    setup(code);
    v->control.nested_ctl = VMCB_NP_ENABLE;
    v->control.ncr3 = PA(npt_pml4);
    v->control.tlb_control = VMCB_TLB_FLUSH_ALL;
    regs.rdi = PA(target) + 0x10;
    uint64_t got = go();
    if (got != exit || (exit == SVM_EXIT_NPF &&
                        ((v->control.exitinfo1 & 0x30000001f) != info1 || v->control.exitinfo2 != PA(target) + 0x10)))
        fail(name, "exit %#llx info1 %#llx info2 %#llx", (unsigned long long)got,
             (unsigned long long)v->control.exitinfo1, (unsigned long long)v->control.exitinfo2);
    else
        check(name, true);
}

static void nested_paging(void)
{
    if (!(cpuid(0x8000000a, 0).d & SVM_CPUID_NP)) {
        skip("nested paging", "no nested paging");
        return;
    }
    npt_pml4[0] = PA(npt_pdpt) | 7;
    npt_pdpt[0] = PA(npt_pd) | 7;
    unsigned big = (unsigned)(PA(target) >> 21);
    for (unsigned i = 0; i < 512; i++) {
        npt_pd[i] = i * 0x200000ul | 0x87;
        npt_pt[i] = (big * 512ul + i) << 12 | 7;
    }
    npt_pd[big] = PA(npt_pt) | 7;
    memset(target, 0xc3, 4096);
    uint64_t pa = PA(target), final = SVM_NPF_FINAL;
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
    npf("NPT: read", g_read_target, pa | 7, SVM_EXIT_VMMCALL, 0);
    npf("NPT: write", g_write_target, pa | 7, SVM_EXIT_VMMCALL, 0);
    check_eq("... has been done", target[0x10], 0x77);
    check_eq("... sets accessed and dirty", npt_pt[pa >> 12 & 511] & 0x60, 0x60);
    target[0x10] = 0xc3;
    npf("NPT: fetch", g_exec_target, pa | 7, SVM_EXIT_VMMCALL, 0);
    /* every access of a guest is a user access to the nested tables */
    npf("NPF: read of an absent page", g_read_target, 0, SVM_EXIT_NPF, 4 | final);
    npf("NPF: write of an absent page", g_write_target, 0, SVM_EXIT_NPF, 6 | final);
    npf("NPF: write of a read-only page", g_write_target, pa | 5, SVM_EXIT_NPF, 7 | final);
    npf("NPF: read of a supervisor page", g_read_target, pa | 3, SVM_EXIT_NPF, 5 | final);
    npf("NPF: fetch from a no-execute page", g_exec_target, pa | 7 | 1ull << 63, SVM_EXIT_NPF, 0x15 | final);
    npf("NPT: read of a read-only page", g_read_target, pa | 5, SVM_EXIT_VMMCALL, 0);
    if (!rt_on_qemu())
        npf("NPF: a reserved bit", g_read_target, pa | 7 | 1ull << 51, SVM_EXIT_NPF, 0xd | final);
    memset(rt_pages[21], 0x5a, 4096);
    npf("NPT: another page", g_read_target, PA(rt_pages[21]) | 7, SVM_EXIT_VMMCALL, 0);
    check_eq("... is read", v->save.rax & 0xff, 0x5a);
    npf("NPT: restored", g_read_target, pa | 7, SVM_EXIT_VMMCALL, 0);
    {
        extern unsigned long rt_pml4[];
        unsigned slot = PA(rt_pml4) >> 12 & 511;
        if (PA(rt_pml4) >> 21 == big) {
            uint64_t old = npt_pt[slot];
            npt_pt[slot] = 0;
            setup(g_nops);
            v->control.nested_ctl = VMCB_NP_ENABLE;
            v->control.ncr3 = PA(npt_pml4);
            v->control.tlb_control = VMCB_TLB_FLUSH_ALL;
            check_eq("NPF in the guest's walk", go(), SVM_EXIT_NPF);
            check_eq("... EXITINFO1: a guest page table", v->control.exitinfo1 & 0x300000001, SVM_NPF_TABLE);
            check_eq("... EXITINFO2", v->control.exitinfo2 & ~0xffful, PA(rt_pml4));
            /* read-only guest tables: the walk writes accessed bits */
            npt_pt[slot] = old & ~2ul;
            go();
            check("NPF: guest tables are accessed as writes",
                  v->control.exitcode == SVM_EXIT_NPF && (v->control.exitinfo1 & 7) == 7);
            npt_pt[slot] = old;
        } else {
            skip("NPF in the guest's walk", "the image's layout");
        }
    }
    setup(g_nops);
    v->control.nested_ctl = VMCB_NP_ENABLE;
    v->control.ncr3 = 1ul << 60;
    uint64_t got = go();
    check("nCR3 beyond the physical-address width is refused", (int32_t)got == -1);
}

void image_main(void)
{
    if (!cpu_has(0x80000001, 2, 2)) {
        skip("SVM", "no SVM");
        return;
    }
    struct cpuid c = cpuid(0x8000000a, 0);
    decode_assists = c.d & SVM_CPUID_DECODE;
    nrips = c.d & SVM_CPUID_NRIPS;
    for (unsigned n = 0; n < 64; n++)
        gate(n, g_handler, 0x8e);
    instructions();
    entry();
    consistency();
    intercepts();
    events();
    interrupts();
    nested_paging();
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_SVME);
    check("EFER.SVME can be cleared", !(rdmsr(MSR_EFER) & EFER_SVME));
}
