/* SPDX-License-Identifier: MIT
 *
 * vmx64.c: VMX through the native intrinsics: instruction outcomes and error numbers, entry failures, exits with their
 * qualifications, event injection, windows, EPT, VPID, unrestricted guest. SDM volume 3C.
 */
#include "rt.h"
#include <vmenter/enter.h>
#include <vmenter/intrin.h>
#include <vmenter/vmx.h>

const char image_name[] = IMAGE_NAME;
#define ASM(...) __asm__ volatile(__VA_ARGS__)
#define PA(p)    ((unsigned long long)(unsigned long)(p))

static uint8_t *const vmxon_region = rt_pages[0], *const vmcs = rt_pages[1], *const vmcs2 = rt_pages[2],
                      *const msr_bitmap = rt_pages[3], *const io_a = rt_pages[4], *const io_b = rt_pages[5],
                      *const guest_stack = rt_pages[6], *const guest_idt = rt_pages[7], *const msr_area = rt_pages[8];
static uint64_t *const ept_pml4 = (uint64_t *)rt_pages[10], *const ept_pdpt = (uint64_t *)rt_pages[11],
                       *const ept_pd = (uint64_t *)rt_pages[12], *const ept_pt = (uint64_t *)rt_pages[13];
static uint8_t *const target = rt_pages[20]; /* what EPT tests map */

static unsigned char wr(unsigned long f, unsigned long v)
{
    return __vmx_vmwrite(f, v);
}
static unsigned long rd(unsigned long f)
{
    size_t v = 0xdeadbeef;
    __vmx_vmread(f, &v);
    return v;
}
static unsigned long error(void)
{
    return rd(VMCS_VM_INSTRUCTION_ERROR);
}

/* --- guest code
 * -------------------------------------------------------------------------------------------------------- */
#define GUEST(name, code)                                                                                              \
    __asm__(".text\n.globl " #name "\n" #name ":\n" code "\n vmcall\n hlt\n");                                         \
    extern char name[]
GUEST(g_vmcall, "mov $0x1234, %eax");
GUEST(g_cpuid, "mov $7, %eax; xor %ecx, %ecx; cpuid");
GUEST(g_hlt, "hlt");
GUEST(g_rdmsr, "mov $0xc0000082, %ecx; rdmsr");
GUEST(g_wrmsr, "mov $0x174, %ecx; xor %eax, %eax; xor %edx, %edx; wrmsr");
GUEST(g_rdmsr_far, "mov $0x40000000, %ecx; rdmsr");
GUEST(g_cr0w, "mov %cr0, %rax; xor $8, %rax; mov %rax, %cr0");
GUEST(g_cr0r, "mov %cr0, %rbx");
GUEST(g_cr3w, "mov $rt_pml4, %edx; mov %rdx, %cr3");
GUEST(g_cr3r, "mov %cr3, %r9");
GUEST(g_cr4w, "mov %cr4, %rsi; xor $0x80, %rsi; mov %rsi, %cr4");
GUEST(g_cr8w, "mov $5, %edi; mov %rdi, %cr8");
GUEST(g_cr8r, "mov %cr8, %r15");
GUEST(g_clts, "clts");
GUEST(g_lmsw, "mov $0xb, %eax; lmsw %ax");
GUEST(g_lmsw_mem, "mov %cr0, %rax; or $8, %al; mov %ax, 64(%rsp); lmsw 64(%rsp)");
GUEST(g_out8, "mov $0x55, %al; outb %al, $0x80");
GUEST(g_in16, "mov $0x1234, %edx; inw %dx, %ax");
GUEST(g_out32, "mov $0x70, %edx; outl %eax, %dx");
GUEST(g_outs, "mov $0x80, %edx; lea g_outs(%rip), %rsi; mov $3, %ecx; rep outsb");
GUEST(g_invlpg, "mov $0x123456, %eax; invlpg (%rax)");
GUEST(g_rdtsc, "rdtsc");
GUEST(g_rdtscp, "rdtscp");
GUEST(g_rdpmc, "xor %ecx, %ecx; rdpmc");
GUEST(g_movdr, "mov %rbx, %dr3");
GUEST(g_movdr_r, "mov %dr7, %r10");
GUEST(g_ud, "ud2");
GUEST(g_int3, "int3");
GUEST(g_int, "int $0x33");
GUEST(g_pf, "mov 0x40001000, %eax");
GUEST(g_de, "xor %ecx, %ecx; div %ecx");
GUEST(g_gp, "mov $0x5000, %eax; mov %eax, %fs");
GUEST(g_wbinvd, "wbinvd");
GUEST(g_invd, "invd");
GUEST(g_xsetbv, "xor %ecx, %ecx; mov $3, %eax; xor %edx, %edx; xsetbv");
GUEST(g_pause, "pause");
GUEST(g_sgdt, "sgdt 64(%rsp)");
GUEST(g_lidt, "lidt 8(%rsp, %rcx, 4)");
GUEST(g_sldt, ".byte 0x48, 0x0f, 0x00, 0xc0");
GUEST(g_ltr, "mov $0x30, %eax; ltr %ax");
GUEST(g_vmxon, "vmxon 64(%rsp)");
GUEST(g_vmread, "vmread %rbx, 16(%rsp)");
GUEST(g_vmread_r, "vmread %rbx, %rdi");
GUEST(g_vmlaunch, "vmlaunch");
GUEST(g_invept, "invept 32(%rsp), %rdx");
GUEST(g_nops, "nop; nop; nop; nop");
GUEST(g_sti, "sti; nop; g_sti_2: nop; nop");
GUEST(g_loop, "1: pause; jmp 1b");
GUEST(g_triple, "lidt 128(%rsp); int3");
GUEST(g_read_target, "mov (%rdi), %al");
GUEST(g_write_target, "movb $0x77, (%rdi)");
GUEST(g_rmw_target, "lock incb (%rdi)");
GUEST(g_exec_target, "call *%rdi");
GUEST(g_handler, "pop %rbx; pop %rcx; sub $16, %rsp"); /* error code (or RIP), RIP (or CS) */
GUEST(g_rdrand, "rdrand %rax");
GUEST(g_rflags, "pushfq; pop %rax");
GUEST(g_regs, "xor %rax, %rbx; add %rcx, %rdx; not %r8; not %r15; bswap %rsi; xchg %rdi, %rbp");
extern char g_sti_2[];
__asm__(".section .low, \"ax\"\n.code16\nr16: mov %cs, %ax\n mov $0x1111, %bx\n movl $0x22223333, %ecx\n vmcall\n "
        "r16_end:\n.code64\n.text\n");
extern char r16[], r16_end[];

static struct vmenter_regs regs;
static unsigned long guest_rflags = 2, pin_want, proc_want, proc2_want, exit_want, entry_want;
static bool true_ctls, launched;

static unsigned long allowed(uint32_t msr, uint32_t true_msr, unsigned long want)
{
    uint64_t v = rdmsr(true_ctls ? true_msr : msr);
    return (want | (uint32_t)v) & (v >> 32);
}
static bool offers(uint32_t msr, uint32_t bits)
{
    return (rdmsr(msr) >> 32 & bits) == bits;
}
static bool offers2(uint32_t bits)
{
    return offers(VMX_MSR_PROCBASED_CTLS, VMX_PROC_ACTIVATE_SECONDARY_CONTROLS) &&
           offers(VMX_MSR_PROCBASED_CTLS2, bits);
}

static void set_controls(void)
{
    wr(VMCS_PIN_CONTROLS, allowed(VMX_MSR_PINBASED_CTLS, VMX_MSR_TRUE_PINBASED_CTLS, pin_want));
    wr(VMCS_PROC_CONTROLS,
       allowed(VMX_MSR_PROCBASED_CTLS, VMX_MSR_TRUE_PROCBASED_CTLS,
               proc_want | (proc2_want ? (unsigned long)(uint32_t)VMX_PROC_ACTIVATE_SECONDARY_CONTROLS : 0)));
    if (offers(VMX_MSR_PROCBASED_CTLS, (uint32_t)VMX_PROC_ACTIVATE_SECONDARY_CONTROLS))
        wr(VMCS_PROC2_CONTROLS, proc2_want);
    wr(VMCS_EXIT_CONTROLS,
       allowed(VMX_MSR_EXIT_CTLS, VMX_MSR_TRUE_EXIT_CTLS, exit_want | VMX_EXIT_HOST_ADDRESS_SPACE_SIZE));
    wr(VMCS_ENTRY_CONTROLS, allowed(VMX_MSR_ENTRY_CTLS, VMX_MSR_TRUE_ENTRY_CTLS, entry_want));
}

struct table {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

static void set_host(void)
{
    struct table gdt, idt;
    ASM("sgdt %0; sidt %1" : "=m"(gdt), "=m"(idt));
    wr(VMCS_HOST_CS_SELECTOR, SEL_K64);
    wr(VMCS_HOST_SS_SELECTOR, SEL_KDATA), wr(VMCS_HOST_DS_SELECTOR, SEL_KDATA), wr(VMCS_HOST_ES_SELECTOR, SEL_KDATA);
    wr(VMCS_HOST_FS_SELECTOR, 0), wr(VMCS_HOST_GS_SELECTOR, 0);
    wr(VMCS_HOST_TR_SELECTOR, SEL_TSS);
    wr(VMCS_HOST_CR0, rdcr0()), wr(VMCS_HOST_CR3, rdcr3()), wr(VMCS_HOST_CR4, rdcr4());
    wr(VMCS_HOST_FS_BASE, 0), wr(VMCS_HOST_GS_BASE, 0);
    wr(VMCS_HOST_TR_BASE, PA(&rt_tss)), wr(VMCS_HOST_GDTR_BASE, gdt.base), wr(VMCS_HOST_IDTR_BASE, idt.base);
    wr(VMCS_HOST_SYSENTER_CS, 0), wr(VMCS_HOST_SYSENTER_ESP, 0), wr(VMCS_HOST_SYSENTER_EIP, 0);
}

static void guest_seg(unsigned i, unsigned sel, unsigned ar, unsigned limit)
{
    wr(VMCS_GUEST_ES_SELECTOR + 2 * i, sel);
    wr(VMCS_GUEST_ES_ACCESS_RIGHTS + 2 * i, ar);
    wr(VMCS_GUEST_ES_LIMIT + 2 * i, limit);
    wr(VMCS_GUEST_ES_BASE + 2 * i, 0);
}

static void set_guest(char *code)
{
    struct table gdt;
    ASM("sgdt %0" : "=m"(gdt));
    wr(VMCS_GUEST_CR0, rdcr0()), wr(VMCS_GUEST_CR3, rdcr3()), wr(VMCS_GUEST_CR4, rdcr4());
    wr(VMCS_GUEST_DR7, 0x400);
    for (unsigned i = 0; i < 6; i++)
        guest_seg(i, i == 1 ? SEL_K64 : SEL_KDATA, i == 1 ? 0xa09b : 0xc093, 0xffffffff);
    guest_seg(6, 0, 0x10000, 0);
    guest_seg(7, SEL_TSS, 0x8b, sizeof rt_tss - 1);
    wr(VMCS_GUEST_TR_BASE, PA(&rt_tss));
    wr(VMCS_GUEST_GDTR_BASE, gdt.base), wr(VMCS_GUEST_GDTR_LIMIT, gdt.limit);
    wr(VMCS_GUEST_IDTR_BASE, PA(guest_idt)), wr(VMCS_GUEST_IDTR_LIMIT, 0x3ff);
    wr(VMCS_GUEST_RIP, (unsigned long)code), wr(VMCS_GUEST_RSP, (unsigned long)guest_stack + 2048),
        wr(VMCS_GUEST_RFLAGS, guest_rflags);
    wr(VMCS_GUEST_INTERRUPTIBILITY_STATE, 0), wr(VMCS_GUEST_ACTIVITY_STATE, 0),
        wr(VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
    wr(VMCS_GUEST_DEBUGCTL, 0), wr(VMCS_GUEST_SYSENTER_CS, 0), wr(VMCS_GUEST_SYSENTER_ESP, 0),
        wr(VMCS_GUEST_SYSENTER_EIP, 0);
    wr(VMCS_VMCS_LINK_POINTER, ~0ul);
    wr(VMCS_EXCEPTION_BITMAP, 0), wr(VMCS_PAGE_FAULT_ERROR_CODE_MASK, 0), wr(VMCS_PAGE_FAULT_ERROR_CODE_MATCH, 0);
    wr(VMCS_CR0_GUEST_HOST_MASK, 0), wr(VMCS_CR4_GUEST_HOST_MASK, 0), wr(VMCS_CR0_READ_SHADOW, 0),
        wr(VMCS_CR4_READ_SHADOW, 0);
    wr(VMCS_CR3_TARGET_COUNT, 0);
    wr(VMCS_EXIT_MSR_STORE_COUNT, 0), wr(VMCS_EXIT_MSR_LOAD_COUNT, 0), wr(VMCS_ENTRY_MSR_LOAD_COUNT, 0);
    wr(VMCS_ENTRY_INTERRUPTION_INFO, 0);
    memset(guest_stack, 0, 4096);
    memset(&regs, 0, sizeof regs);
}

static void defaults(void)
{
    pin_want = 0, proc_want = 0, proc2_want = 0, exit_want = 0, entry_want = VMX_ENTRY_IA32E_MODE_GUEST;
}

static unsigned char enter(void)
{
    unsigned char r = launched ? vmenter_vmresume(&regs) : vmenter_vmlaunch(&regs);
    if (r == 0 && !(rd(VMCS_EXIT_REASON) & VMX_REASON_ENTRY_FAILURE))
        launched = true;
    return r;
}
static unsigned long run(char *code)
{
    set_guest(code);
    set_controls();
    unsigned char r = enter();
    return r ? 0x10000u + r * 0x1000u + (r == 1 ? error() : 0) : rd(VMCS_EXIT_REASON);
}
/* Runs the guest with the wanted controls and checks the exit's reason, qualification and instruction length. */
static void exits(const char *name, char *code, unsigned long reason, unsigned long qualification, long length)
{
    unsigned long got = run(code);
    if (got != reason) {
        check_eq(name, got, reason);
        return;
    }
    unsigned long q = rd(VMCS_EXIT_QUALIFICATION), l = rd(VMCS_EXIT_INSTRUCTION_LENGTH);
    if (q != qualification)
        fail(name, "qualification %#lx, want %#lx", q, qualification);
    else if (length >= 0 && l != (unsigned long)length)
        fail(name, "instruction length %lu, want %ld", l, length);
    else
        check(name, true);
}
static void no_exit(const char *name, char *code)
{
    check_eq(name, run(code), VMX_REASON_VMCALL);
}

static void gate(unsigned v, char *handler, unsigned type)
{
    uint64_t a = PA(handler);
    uint32_t *g = (uint32_t *)(guest_idt + 16 * v);
    g[0] = (uint32_t)(a & 0xffff) | SEL_K64 << 16;
    g[1] = (uint32_t)(a & 0xffff0000) | type << 8;
    g[2] = (uint32_t)(a >> 32);
    g[3] = 0;
}

/* --- instructions outside of guests
 * ------------------------------------------------------------------------------------- */
static void instructions(void)
{
    uint32_t revision = (uint32_t)rdmsr(VMX_MSR_BASIC) & 0x7fffffff;
    unsigned long long pa;
    size_t v;
    struct exc e;
    e = TRY(pa = PA(vmxon_region); (void)__vmx_on(&pa));
    expect_exc("VMXON with CR4.VMXE=0", e, UD, 0);
    if (!(rdmsr(VMX_MSR_FEATURE_CONTROL) & 1)) {
        wrcr4(rdcr4() | 0x2000);
        e = TRY(pa = PA(vmxon_region); (void)__vmx_on(&pa));
        expect_exc("VMXON with IA32_FEATURE_CONTROL unlocked", e, GP, 0);
        wrcr4(rdcr4() & ~0x2000ul);
        wrmsr(VMX_MSR_FEATURE_CONTROL, 5);
    } else {
        skip("VMXON with IA32_FEATURE_CONTROL unlocked", "it is locked");
    }
    e = TRY(wrmsr(VMX_MSR_FEATURE_CONTROL, 5));
    expect_exc("IA32_FEATURE_CONTROL is locked", e, GP, 0);
    wrcr4(rdcr4() | 0x2000);
    e = TRY(ASM("vmptrst %0" : "=m"(pa)));
    expect_exc("VMPTRST outside of VMX operation", e, UD, 0);
    e = TRY(ASM("vmxoff"));
    expect_exc("VMXOFF outside of VMX operation", e, UD, 0);
    e = TRY(ASM("vmlaunch"));
    expect_exc("VMLAUNCH outside of VMX operation", e, UD, 0);
    *(uint32_t *)vmxon_region = revision;
    pa = PA(vmxon_region) + 8;
    check_eq("VMXON with an unaligned pointer", __vmx_on(&pa), 2);
    pa = 1ull << 60;
    check_eq("VMXON with a pointer beyond the physical-address width", __vmx_on(&pa), 2);
    *(uint32_t *)vmxon_region = revision + 1;
    pa = PA(vmxon_region);
    check_eq("VMXON with another revision identifier", __vmx_on(&pa), 2);
    *(uint32_t *)vmxon_region = revision;
    pa = PA(vmxon_region);
    check_eq("VMXON", __vmx_on(&pa), 0);
    e = TRY(wrcr4(rdcr4() & ~0x2000ul));
    expect_exc("CR4.VMXE is fixed in VMX operation", e, GP, 0);
    e = TRY(wrcr0(rdcr0() & ~0x20ul));
    expect_exc("CR0.NE is fixed in VMX operation", e, GP, 0);
    __vmx_vmptrst(&pa);
    check_eq("VMPTRST without a current VMCS", pa, ~0ull);
    check_eq("VMREAD without a current VMCS", __vmx_vmread(VMCS_GUEST_RIP, &v), 2);
    check_eq("VMWRITE without a current VMCS", __vmx_vmwrite(VMCS_GUEST_RIP, 0), 2);
    check_eq("VMLAUNCH without a current VMCS", __vmx_vmlaunch(), 2);
    check_eq("VMRESUME without a current VMCS", __vmx_vmresume(), 2);
    pa = PA(vmxon_region);
    check_eq("VMXON in VMX root operation without a current VMCS", __vmx_on(&pa), 2);
    pa = PA(vmcs) + 1;
    check_eq("VMCLEAR unaligned, without a current VMCS", __vmx_vmclear(&pa), 2);
    *(uint32_t *)vmcs = revision;
    pa = PA(vmcs);
    check_eq("VMCLEAR", __vmx_vmclear(&pa), 0);
    check_eq("VMPTRLD", __vmx_vmptrld(&pa), 0);
    pa = 0;
    __vmx_vmptrst(&pa);
    check_eq("VMPTRST", pa, PA(vmcs));
    pa = PA(vmcs) + 1;
    check_eq("VMCLEAR unaligned", __vmx_vmclear(&pa), 1);
    check_eq("... error", error(), VMX_ERR_VMCLEAR_INVALID_ADDRESS);
    pa = PA(vmxon_region);
    check_eq("VMCLEAR of the VMXON pointer", __vmx_vmclear(&pa), 1);
    check_eq("... error", error(), VMX_ERR_VMCLEAR_VMXON_POINTER);
    check_eq("VMPTRLD of the VMXON pointer", __vmx_vmptrld(&pa), 1);
    check_eq("... error", error(), VMX_ERR_VMPTRLD_VMXON_POINTER);
    check_eq("VMXON in VMX root operation", __vmx_on(&pa), 1);
    check_eq("... error", error(), VMX_ERR_VMXON_IN_VMX_ROOT);
    pa = PA(vmcs2) + 4;
    check_eq("VMPTRLD unaligned", __vmx_vmptrld(&pa), 1);
    check_eq("... error", error(), VMX_ERR_VMPTRLD_INVALID_ADDRESS);
    *(uint32_t *)vmcs2 = revision + 1;
    pa = PA(vmcs2);
    check_eq("VMPTRLD with another revision identifier", __vmx_vmptrld(&pa), 1);
    check_eq("... error", error(), VMX_ERR_VMPTRLD_INCORRECT_REVISION);
    __vmx_vmptrst(&pa);
    check_eq("... the current VMCS stays", pa, PA(vmcs));
    *(uint32_t *)vmcs2 = revision;
    check_eq("VMREAD of no field", __vmx_vmread(0x7ffe, &v), 1);
    check_eq("... error", error(), VMX_ERR_UNSUPPORTED_COMPONENT);
    check_eq("VMWRITE of no field", __vmx_vmwrite(0x7ffe, 0), 1);
    check_eq("VMREAD with a high bit in the encoding", __vmx_vmread(1ul << 32 | VMCS_GUEST_RIP, &v), 1);
    if (!(rdmsr(VMX_MSR_MISC) & VMX_MISC_VMWRITE_ANY_FIELD)) {
        check_eq("VMWRITE of a read-only field", __vmx_vmwrite(VMCS_EXIT_REASON, 0), 1);
        check_eq("... error", error(), VMX_ERR_READ_ONLY_COMPONENT);
    } else {
        check_eq("VMWRITE of a read-only field, allowed by IA32_VMX_MISC", __vmx_vmwrite(VMCS_EXIT_REASON, 0), 0);
    }
    check_eq("VMWRITE", wr(VMCS_GUEST_RIP, 0x123456789abcdef0), 0);
    check_eq("VMREAD", rd(VMCS_GUEST_RIP), 0x123456789abcdef0);
    wr(VMCS_GUEST_CS_SELECTOR, 0x12345678);
    check_eq("a 16-bit field keeps 16 bits", rd(VMCS_GUEST_CS_SELECTOR), 0x5678);
    wr(VMCS_EXCEPTION_BITMAP, 0x1122334455667788);
    check_eq("a 32-bit field keeps 32 bits", rd(VMCS_EXCEPTION_BITMAP), 0x55667788);
    wr(VMCS_TSC_OFFSET, 0x1122334455667788);
    check_eq("the high half of a 64-bit field", rd(VMCS_TSC_OFFSET + VMCS_HIGH), 0x11223344);
    wr(VMCS_TSC_OFFSET + VMCS_HIGH, 0x99aabbcc);
    check_eq("writing the high half alone", rd(VMCS_TSC_OFFSET), 0x99aabbcc55667788);
    wr(VMCS_TSC_OFFSET, 0);
    check_eq("VMRESUME of a VMCS that is clear", __vmx_vmresume(), 1);
    check_eq("... error", error(), VMX_ERR_VMRESUME_NONLAUNCHED);
    struct vmenter_regs none = {0};
    if (!rt_on_bochs()) { /* it stops */
        check_eq("VMCALL in VMX root operation", __vmx_vmcall(&none), 1);
        check_eq("... error", error(), VMX_ERR_VMCALL_IN_VMX_ROOT);
    }
    /* fields survive VMCLEAR and VMPTRLD */
    pa = PA(vmcs2);
    check_eq("VMCLEAR of another", __vmx_vmclear(&pa), 0);
    check_eq("VMPTRLD of another", __vmx_vmptrld(&pa), 0);
    wr(VMCS_GUEST_RIP, 0x2222);
    pa = PA(vmcs);
    __vmx_vmptrld(&pa);
    check_eq("each VMCS has its own fields", rd(VMCS_GUEST_RIP), 0x123456789abcdef0);
    __vmx_vmclear(&pa);
    __vmx_vmptrst(&pa);
    check_eq("VMCLEAR of the current VMCS leaves none", pa, ~0ull);
    pa = PA(vmcs);
    __vmx_vmptrld(&pa);
    check_eq("fields survive VMCLEAR", rd(VMCS_GUEST_RIP), 0x123456789abcdef0);
}

/* --- entry failures
 * ------------------------------------------------------------------------------------------------------ */
static void entry_failures(void)
{
    defaults();
    entry_want |= VMX_ENTRY_LOAD_DEBUG_CONTROLS;
    set_host();
    set_guest(g_vmcall);
    set_controls();
    wr(VMCS_PIN_CONTROLS, 0);
    check_eq("entry with a required control clear", vmenter_vmlaunch(&regs), 1);
    check_eq("... error", error(), VMX_ERR_ENTRY_INVALID_CONTROLS);
    set_controls();
    wr(VMCS_CR3_TARGET_COUNT, 5);
    check_eq("entry with 5 CR3 targets", vmenter_vmlaunch(&regs), 1);
    check_eq("... error", error(), VMX_ERR_ENTRY_INVALID_CONTROLS);
    wr(VMCS_CR3_TARGET_COUNT, 0);
    wr(VMCS_ENTRY_INTERRUPTION_INFO, 0x80000000 | 1 << 8 | 0x20); /* type 1 is reserved */
    check_eq("entry with a reserved event type", vmenter_vmlaunch(&regs), 1);
    check_eq("... error", error(), VMX_ERR_ENTRY_INVALID_CONTROLS);
    wr(VMCS_ENTRY_INTERRUPTION_INFO, 0x80000000 | 2 << 8 | 3); /* NMI with vector 3 */
    check_eq("entry with an NMI of another vector", vmenter_vmlaunch(&regs), 1);
    wr(VMCS_ENTRY_INTERRUPTION_INFO, 0x80000b00 | 32); /* hardware exception 32 */
    check_eq("entry with hardware exception 32", vmenter_vmlaunch(&regs), 1);
    wr(VMCS_ENTRY_INTERRUPTION_INFO, 0);
    wr(VMCS_HOST_CR4, rdcr4() & ~0x2000ul);
    check_eq("entry with host CR4.VMXE clear", vmenter_vmlaunch(&regs), 1);
    check_eq("... error", error(), VMX_ERR_ENTRY_INVALID_HOST_STATE);
    set_host();
    wr(VMCS_HOST_TR_SELECTOR, 0);
    check_eq("entry with a null host TR", vmenter_vmlaunch(&regs), 1);
    check_eq("... error", error(), VMX_ERR_ENTRY_INVALID_HOST_STATE);
    set_host();
    wr(VMCS_HOST_CS_SELECTOR, SEL_K64 | 3);
    check_eq("entry with an RPL in the host CS", vmenter_vmlaunch(&regs), 1);
    check_eq("... error", error(), VMX_ERR_ENTRY_INVALID_HOST_STATE);
    set_host();
    wr(VMCS_HOST_GS_BASE, 0x8000000000000000);
    check_eq("entry with a host GS base that is not canonical", vmenter_vmlaunch(&regs), 1);
    set_host();
    wr(VMCS_EXIT_CONTROLS, rd(VMCS_EXIT_CONTROLS) & ~(unsigned long)VMX_EXIT_HOST_ADDRESS_SPACE_SIZE);
    check_eq("entry from 64-bit mode without host address-space size", vmenter_vmlaunch(&regs), 1);
    check("... error", error() == VMX_ERR_ENTRY_INVALID_HOST_STATE || error() == VMX_ERR_ENTRY_INVALID_CONTROLS);
    set_controls();
    /* guest state: reason 33 with bit 31, the VMCS stays clear */
    static const struct {
        const char *name;
        unsigned long field, value, qualification;
    } bad[] = {
        {"guest RFLAGS with bit 1 clear", VMCS_GUEST_RFLAGS, 0, 0},
        {"guest RFLAGS with a reserved bit", VMCS_GUEST_RFLAGS, 0x8002, 0},
        {"guest RFLAGS.VM in IA-32e mode", VMCS_GUEST_RFLAGS, 0x20002, 0},
        {"guest CR0.PG without PE", VMCS_GUEST_CR0, 0x80000020, 0},
        {"guest CR4 with a reserved bit", VMCS_GUEST_CR4, 1ul << 31 | 0x26a0, 0},
        {"guest CR3 beyond the physical-address width", VMCS_GUEST_CR3, 1ul << 60, 0},
        {"guest RIP not canonical", VMCS_GUEST_RIP, 0x8000000000000000, 0},
        {"guest CS not accessed", VMCS_GUEST_CS_ACCESS_RIGHTS, 0xa09a, 0},
        {"guest CS with L and D", VMCS_GUEST_CS_ACCESS_RIGHTS, 0xe09b, 0},
        {"guest CS absent", VMCS_GUEST_CS_ACCESS_RIGHTS, 0xa01b, 0},
        {"guest SS with another DPL", VMCS_GUEST_SS_ACCESS_RIGHTS, 0xc0f3, 0},
        {"guest TR available", VMCS_GUEST_TR_ACCESS_RIGHTS, 0x89, 0},
        {"guest TR unusable", VMCS_GUEST_TR_ACCESS_RIGHTS, 0x1008b, 0},
        {"guest TR in the LDT", VMCS_GUEST_TR_SELECTOR, SEL_TSS | 4, 0},
        {"guest DS with granularity against its limit", VMCS_GUEST_DS_LIMIT, 0xfffff000, 0},
        {"guest GDTR limit", VMCS_GUEST_GDTR_LIMIT, 0x10000, 0},
        {"guest IDTR base not canonical", VMCS_GUEST_IDTR_BASE, 0x8000000000000000, 0},
        {"guest activity state 7", VMCS_GUEST_ACTIVITY_STATE, 7, 0},
        {"guest interruptibility: reserved", VMCS_GUEST_INTERRUPTIBILITY_STATE, 0x100, 0},
        {"guest interruptibility: STI and MOV SS", VMCS_GUEST_INTERRUPTIBILITY_STATE, 3, 0},
        {"guest interruptibility: STI with IF=0", VMCS_GUEST_INTERRUPTIBILITY_STATE, 1, 0},
        {"guest VMCS link pointer", VMCS_VMCS_LINK_POINTER, 0x1000 + 1, 4},
        {"guest DR7 with high bits", VMCS_GUEST_DR7, 1ul << 32, 0},
        {"guest SYSENTER_EIP not canonical", VMCS_GUEST_SYSENTER_EIP, 0x8000000000000000, 0},
        {"guest pending debug exceptions: reserved", VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS, 1 << 4, 0},
    };
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        set_guest(g_vmcall);
        wr(bad[i].field, bad[i].value);
        unsigned char r = vmenter_vmlaunch(&regs);
        unsigned long reason = rd(VMCS_EXIT_REASON), q = rd(VMCS_EXIT_QUALIFICATION);
        if (r == 0 && !(reason & VMX_REASON_ENTRY_FAILURE)) { /* it was entered */
            unsigned long long pa = PA(vmcs);
            __vmx_vmclear(&pa);
            __vmx_vmptrld(&pa);
        }
        if (r == 0 && reason == (VMX_REASON_ENTRY_FAILURE | VMX_REASON_ENTRY_FAILURE_GUEST_STATE) &&
            q == bad[i].qualification)
            check(bad[i].name, true);
        else
            fail(bad[i].name, "result %u reason %#lx qualification %#lx error %lu", r, reason, q, error());
    }
    set_guest(g_vmcall);
    wr(VMCS_ENTRY_MSR_LOAD_ADDRESS, PA(msr_area));
    wr(VMCS_ENTRY_MSR_LOAD_COUNT, 2);
    uint32_t *m = (uint32_t *)msr_area;
    m[0] = 0x175, m[1] = 0, m[2] = 0x1000, m[3] = 0;
    m[4] = 0xc0000100, m[5] = 0, m[6] = 0, m[7] = 0; /* FS base must not be loaded */
    check_eq("entry that loads IA32_FS_BASE from the MSR area", vmenter_vmlaunch(&regs), 0);
    check_eq("... reason", rd(VMCS_EXIT_REASON), VMX_REASON_ENTRY_FAILURE | VMX_REASON_ENTRY_FAILURE_MSR_LOADING);
    check_eq("... qualification: the entry's number", rd(VMCS_EXIT_QUALIFICATION), 2);
    check_eq("a failed entry leaves the launch state clear", vmenter_vmresume(&regs), 1);
    check_eq("... error", error(), VMX_ERR_VMRESUME_NONLAUNCHED);
}

/* --- entry, launch state, registers
 * ------------------------------------------------------------------------------------------ */
static void first_entry(void)
{
    defaults();
    set_host();
    set_guest(g_regs);
    set_controls();
    for (unsigned i = 0; i < 16; i++)
        regs.reg[i] = 0x1111111111111111 * i;
    struct vmenter_regs before = regs;
    check_eq("VMLAUNCH", vmenter_vmlaunch(&regs), 0);
    check_eq("... exit by VMCALL", rd(VMCS_EXIT_REASON), VMX_REASON_VMCALL);
    bool ok = regs.rbx == (before.rbx ^ before.rax) && regs.rdx == before.rdx + before.rcx && regs.r8 == ~before.r8 &&
              regs.r15 == ~before.r15 && regs.rsi == __builtin_bswap64(before.rsi) && regs.rdi == before.rbp &&
              regs.rbp == before.rdi && regs.r9 == before.r9 && regs.r14 == before.r14;
    check("general registers go in and come back", ok);
    check_eq("VMLAUNCH of a launched VMCS", vmenter_vmlaunch(&regs), 1);
    check_eq("... error", error(), VMX_ERR_VMLAUNCH_NONCLEAR);
    set_guest(g_vmcall);
    check_eq("VMRESUME", vmenter_vmresume(&regs), 0);
    check_eq("... RAX", regs.rax, 0x1234);
    check_eq("... guest RIP", rd(VMCS_GUEST_RIP), (unsigned long)g_vmcall + 5);
    check_eq("... instruction length", rd(VMCS_EXIT_INSTRUCTION_LENGTH), 3);
    launched = true;
    /* the host's state after an exit */
    check_eq("host RFLAGS", rdflags() & 0x4d5 & ~0x44ul, 0);
    check_eq("host IDTR limit is 0xffff", ({
                 struct table t;
                 ASM("sidt %0" : "=m"(t));
                 t.limit;
             }),
             0xffff);
    check_eq("host GDTR limit is 0xffff", ({
                 struct table t;
                 ASM("sgdt %0" : "=m"(t));
                 t.limit;
             }),
             0xffff);
    check_eq("host DR7", rddr7(), 0x400);
    uint16_t tr, ds;
    ASM("str %0; mov %%ds, %1" : "=r"(tr), "=r"(ds));
    check_eq("host TR", tr, SEL_TSS);
    check_eq("host DS", ds, SEL_KDATA);
    unsigned long long pa = PA(vmcs);
    __vmx_vmclear(&pa);
    __vmx_vmptrld(&pa);
    check_eq("VMCLEAR makes the launch state clear", vmenter_vmresume(&regs), 1);
    check_eq("... error", error(), VMX_ERR_VMRESUME_NONLAUNCHED);
    launched = false;
}

/* --- exits
 * ------------------------------------------------------------------------------------------------------------------------
 */
static void instruction_exits(void)
{
    defaults();
    exits("CPUID", g_cpuid, VMX_REASON_CPUID, 0, 2);
    check("... registers are the guest's", regs.rax == 7 && regs.rcx == 0);
    exits("INVD", g_invd, VMX_REASON_INVD, 0, 2);
    exits("VMLAUNCH in a guest", g_vmlaunch, VMX_REASON_VMLAUNCH, 0, 3);
    exits("VMXON in a guest: displacement", g_vmxon, VMX_REASON_VMXON, 64, 6);
    exits("VMREAD in a guest, memory", g_vmread, VMX_REASON_VMREAD, 16, 5);
    exits("VMREAD in a guest, register", g_vmread_r, VMX_REASON_VMREAD, 0, 3);
    check_eq("... instruction information: registers", rd(VMCS_EXIT_INSTRUCTION_INFO) & 0xf0000478,
             (3ul << 28 | 7 << 3 | 1 << 10) & 0xf0000478);
    if (cpu_has(1, 2, 26)) {
        wrcr4(rdcr4() | 1ul << 18);
        set_host();
        exits("XSETBV", g_xsetbv, VMX_REASON_XSETBV, 0, 3);
    } else {
        skip("XSETBV", "no XSAVE");
    }
    proc_want = VMX_PROC_HLT_EXITING;
    exits("HLT", g_hlt, VMX_REASON_HLT, 0, 1);
    proc_want = VMX_PROC_INVLPG_EXITING;
    exits("INVLPG", g_invlpg, VMX_REASON_INVLPG, 0x123456, 3);
    proc_want = VMX_PROC_RDTSC_EXITING;
    exits("RDTSC", g_rdtsc, VMX_REASON_RDTSC, 0, 2);
    proc_want = VMX_PROC_RDPMC_EXITING;
    exits("RDPMC", g_rdpmc, VMX_REASON_RDPMC, 0, 2);
    proc_want = VMX_PROC_MOV_DR_EXITING;
    exits("MOV to DR3", g_movdr, VMX_REASON_MOV_DR, 3 | 3 << 8, 3);
    exits("MOV from DR7", g_movdr_r, VMX_REASON_MOV_DR, 7 | 1 << 4 | 10 << 8, 4);
    proc_want = VMX_PROC_PAUSE_EXITING;
    exits("PAUSE", g_pause, VMX_REASON_PAUSE, 0, 2);
    proc_want = 0;
    no_exit("PAUSE, RDTSC, INVLPG without their controls", g_pause);
    no_exit("... RDTSC", g_rdtsc);
    no_exit("... INVLPG", g_invlpg);
    no_exit("... MOV DR", g_movdr_r);
    /* MSRs */
    exits("RDMSR without bitmaps", g_rdmsr, VMX_REASON_RDMSR, 0, 2);
    proc_want = VMX_PROC_USE_MSR_BITMAPS;
    wr(VMCS_MSR_BITMAPS, PA(msr_bitmap));
    memset(msr_bitmap, 0, 4096);
    no_exit("RDMSR with a clear bit", g_rdmsr);
    no_exit("WRMSR with a clear bit", g_wrmsr);
    msr_bitmap[0x400 + 0x82 / 8] = 1 << (0x82 & 7);
    exits("RDMSR of 0xc0000082 with its bit", g_rdmsr, VMX_REASON_RDMSR, 0, 2);
    msr_bitmap[0x800 + 0x174 / 8] = 1 << (0x174 & 7);
    exits("WRMSR of 0x174 with its bit", g_wrmsr, VMX_REASON_WRMSR, 0, 2);
    exits("RDMSR outside of the bitmaps' ranges", g_rdmsr_far, VMX_REASON_RDMSR, 0, 2);
    proc_want = 0;
    /* I/O */
    no_exit("OUT without controls", g_out8);
    proc_want = VMX_PROC_UNCONDITIONAL_IO_EXITING;
    exits("OUT imm8", g_out8, VMX_REASON_IO_INSTRUCTION, 0 | 1 << 6 | 0x80ul << 16, 2);
    exits("IN AX, DX", g_in16, VMX_REASON_IO_INSTRUCTION, 1 | 1 << 3 | 0x1234ul << 16, 2);
    exits("REP OUTSB", g_outs, VMX_REASON_IO_INSTRUCTION, 0 | 1 << 4 | 1 << 5 | 0x80ul << 16, 2);
    check_eq("... guest-linear address", rd(VMCS_GUEST_LINEAR_ADDRESS), (unsigned long)g_outs);
    check_eq("... RCX", regs.rcx, 3);
    proc_want = VMX_PROC_USE_IO_BITMAPS;
    wr(VMCS_IO_BITMAP_A, PA(io_a)), wr(VMCS_IO_BITMAP_B, PA(io_b));
    memset(io_a, 0, 4096), memset(io_b, 0, 4096);
    no_exit("OUT with a clear bit", g_out8);
    io_a[0x80 / 8] = 1;
    exits("OUT with its bit", g_out8, VMX_REASON_IO_INSTRUCTION, 0 | 1 << 6 | 0x80ul << 16, 2);
    io_a[0x73 / 8] = 1 << 3;
    exits("OUT of 32 bits that touches a set bit", g_out32, VMX_REASON_IO_INSTRUCTION, 3 | 0x70ul << 16, 1);
    proc_want = 0;
    if (offers2(VMX_PROC2_WBINVD_EXITING)) {
        proc2_want = VMX_PROC2_WBINVD_EXITING;
        exits("WBINVD", g_wbinvd, VMX_REASON_WBINVD, 0, 2);
        proc2_want = 0;
    } else {
        skip("WBINVD", "no WBINVD exiting");
    }
    if (offers2(VMX_PROC2_DESCRIPTOR_TABLE_EXITING)) {
        proc2_want = VMX_PROC2_DESCRIPTOR_TABLE_EXITING;
        exits("SGDT", g_sgdt, VMX_REASON_GDTR_OR_IDTR_ACCESS, 64, 5);
        check_eq("... instruction information: SGDT", rd(VMCS_EXIT_INSTRUCTION_INFO) >> 28 & 3, 0);
        exits("LIDT", g_lidt, VMX_REASON_GDTR_OR_IDTR_ACCESS, 8, 5);
        check_eq("... instruction information: LIDT", rd(VMCS_EXIT_INSTRUCTION_INFO) >> 28 & 3, 3);
        check_eq("... scale and index", rd(VMCS_EXIT_INSTRUCTION_INFO) & 0x07bc0003, 2ul | 1ul << 18 | 4ul << 23);
        exits("SLDT", g_sldt, VMX_REASON_LDTR_OR_TR_ACCESS, 0, 4);
        exits("LTR", g_ltr, VMX_REASON_LDTR_OR_TR_ACCESS, 0, 3);
        proc2_want = 0;
    } else {
        skip("descriptor tables", "no descriptor-table exiting");
    }
    if (offers2(VMX_PROC2_ENABLE_RDTSCP)) {
        gate(UD, g_handler, 0x8e);
        wr(VMCS_EXCEPTION_BITMAP, 0);
        unsigned long r = run(g_rdtscp);
        check_eq("RDTSCP is #UD without its control: the guest's handler", r == VMX_REASON_VMCALL ? regs.rbx : r,
                 (unsigned long)g_rdtscp);
        proc2_want = VMX_PROC2_ENABLE_RDTSCP;
        no_exit("RDTSCP with its control", g_rdtscp);
        proc_want = VMX_PROC_RDTSC_EXITING;
        exits("RDTSCP", g_rdtscp, VMX_REASON_RDTSCP, 0, 3);
        proc2_want = 0, proc_want = 0;
    } else {
        skip("RDTSCP", "no such control");
    }
    if (offers2(VMX_PROC2_RDRAND_EXITING) && cpu_has(1, 2, 30)) {
        proc2_want = VMX_PROC2_RDRAND_EXITING;
        exits("RDRAND", g_rdrand, VMX_REASON_RDRAND, 0, 4);
        proc2_want = 0;
    } else {
        skip("RDRAND", "no such control");
    }
    exits("triple fault", g_triple, VMX_REASON_TRIPLE_FAULT, 0, -1);
}

static void cr_exits(void)
{
    defaults();
    no_exit("MOV to CR0 of an unmasked bit", g_cr0w);
    set_guest(g_cr0w);
    wr(VMCS_CR0_GUEST_HOST_MASK, 8);
    wr(VMCS_CR0_READ_SHADOW, 0);
    set_controls();
    enter();
    check_eq("MOV to CR0 that changes a masked bit", rd(VMCS_EXIT_REASON), VMX_REASON_CONTROL_REGISTER_ACCESS);
    check_eq("... qualification", rd(VMCS_EXIT_QUALIFICATION), 0);
    set_guest(g_cr0r);
    wr(VMCS_CR0_GUEST_HOST_MASK, 8);
    wr(VMCS_CR0_READ_SHADOW, 8);
    enter();
    check_eq("MOV from CR0 reads the shadow's masked bits", regs.rbx, rdcr0() | 8);
    set_guest(g_clts);
    wr(VMCS_CR0_GUEST_HOST_MASK, 8);
    wr(VMCS_CR0_READ_SHADOW, 8);
    enter();
    check_eq("CLTS with mask and shadow", rd(VMCS_EXIT_REASON), VMX_REASON_CONTROL_REGISTER_ACCESS);
    check_eq("... qualification", rd(VMCS_EXIT_QUALIFICATION), 2 << 4);
    set_guest(g_lmsw);
    wr(VMCS_CR0_GUEST_HOST_MASK, 8);
    enter();
    check_eq("LMSW that sets a masked bit", rd(VMCS_EXIT_REASON), VMX_REASON_CONTROL_REGISTER_ACCESS);
    check_eq("... qualification", rd(VMCS_EXIT_QUALIFICATION), 3 << 4 | 0xbul << 16);
    set_guest(g_lmsw_mem);
    wr(VMCS_CR0_GUEST_HOST_MASK, 8);
    enter();
    check_eq("LMSW of memory: qualification", rd(VMCS_EXIT_QUALIFICATION),
             3ul << 4 | 1 << 6 | ((rdcr0() | 8) & 0xffff) << 16);
    check_eq("... guest-linear address", rd(VMCS_GUEST_LINEAR_ADDRESS), (unsigned long)guest_stack + 2048 + 64);
    set_guest(g_cr4w);
    wr(VMCS_CR4_GUEST_HOST_MASK, 0x80);
    wr(VMCS_CR4_READ_SHADOW, 0);
    enter();
    check_eq("MOV to CR4 that changes a masked bit", rd(VMCS_EXIT_REASON), VMX_REASON_CONTROL_REGISTER_ACCESS);
    check_eq("... qualification", rd(VMCS_EXIT_QUALIFICATION), 4 | 6 << 8);
    proc_want = VMX_PROC_CR3_LOAD_EXITING | VMX_PROC_CR3_STORE_EXITING;
    exits("MOV to CR3", g_cr3w, VMX_REASON_CONTROL_REGISTER_ACCESS, 3 | 2 << 8, 3);
    exits("MOV from CR3", g_cr3r, VMX_REASON_CONTROL_REGISTER_ACCESS, 3 | 1 << 4 | 9 << 8, 4);
    set_guest(g_cr3w);
    wr(VMCS_CR3_TARGET_COUNT, 1);
    wr(VMCS_CR3_TARGET_VALUE_0, rdcr3());
    set_controls();
    wr(VMCS_PROC_CONTROLS, rd(VMCS_PROC_CONTROLS) & ~(unsigned long)VMX_PROC_CR3_STORE_EXITING);
    if (true_ctls) {
        enter();
        check_eq("MOV to CR3 of a target value", rd(VMCS_EXIT_REASON), VMX_REASON_VMCALL);
    } else {
        skip("MOV to CR3 of a target value", "CR3-store exiting is fixed");
    }
    proc_want = VMX_PROC_CR8_LOAD_EXITING;
    exits("MOV to CR8", g_cr8w, VMX_REASON_CONTROL_REGISTER_ACCESS, 8 | 7 << 8, 4);
    proc_want = VMX_PROC_CR8_STORE_EXITING;
    exits("MOV from CR8", g_cr8r, VMX_REASON_CONTROL_REGISTER_ACCESS, 8 | 1 << 4 | 15 << 8, 4);
}

static void info(const char *name, char *code, unsigned long bitmap, unsigned long want, unsigned long errcode,
                 unsigned long qual)
{
    set_guest(code);
    wr(VMCS_EXCEPTION_BITMAP, bitmap);
    set_controls();
    enter();
    unsigned long reason = rd(VMCS_EXIT_REASON), got = rd(VMCS_EXIT_INTERRUPTION_INFO),
                  e = rd(VMCS_EXIT_INTERRUPTION_ERROR_CODE);
    if (reason != VMX_REASON_EXCEPTION_OR_NMI || got != want || ((want & 0x800) && e != errcode) ||
        rd(VMCS_EXIT_QUALIFICATION) != qual)
        fail(name, "reason %lu information %#lx error %#lx qualification %#lx", reason, got, e,
             rd(VMCS_EXIT_QUALIFICATION));
    else
        check(name, true);
}

static void exceptions(void)
{
    defaults();
    info("#UD", g_ud, 1 << UD, 0x80000300 | UD, 0, 0);
    check_eq("... guest RIP", rd(VMCS_GUEST_RIP), (unsigned long)g_ud);
    info("#BP", g_int3, 1 << BP, 0x80000600 | BP, 0, 0);
    check_eq("... guest RIP is the instruction's", rd(VMCS_GUEST_RIP), (unsigned long)g_int3);
    check_eq("... instruction length", rd(VMCS_EXIT_INSTRUCTION_LENGTH), 1);
    info("#DE", g_de, 1 << DE, 0x80000300 | DE, 0, 0);
    info("#GP", g_gp, 1 << GP, 0x80000b00 | GP, 0x5000, 0);
    info("#PF", g_pf, 1 << PF, 0x80000b00 | PF, 0, RT_WINDOW + 0x1000);
    /* page-fault filtering: exit if (error & mask) == match is equal to the bitmap's bit */
    gate(PF, g_handler, 0x8e);
    set_guest(g_pf);
    wr(VMCS_EXCEPTION_BITMAP, 1 << PF);
    wr(VMCS_PAGE_FAULT_ERROR_CODE_MASK, 2), wr(VMCS_PAGE_FAULT_ERROR_CODE_MATCH, 2);
    set_controls();
    enter();
    check_eq("#PF that the mask leaves to the guest", rd(VMCS_EXIT_REASON), VMX_REASON_VMCALL);
    check_eq("... its handler sees the error code", regs.rbx, 0);
    set_guest(g_pf);
    wr(VMCS_EXCEPTION_BITMAP, 0);
    wr(VMCS_PAGE_FAULT_ERROR_CODE_MASK, 2), wr(VMCS_PAGE_FAULT_ERROR_CODE_MATCH, 2);
    enter();
    check_eq("#PF that does not match, bit clear", rd(VMCS_EXIT_REASON), VMX_REASON_EXCEPTION_OR_NMI);
    /* an exception during delivery: IDT-vectoring information */
    gate(0x33, g_handler, 0x0e); /* absent: #NP */
    info("#NP in the delivery of INT n", g_int, 1 << NP, 0x80000b00 | NP, 0x33 * 8 + 2, 0);
    check_eq("... IDT-vectoring information", rd(VMCS_IDT_VECTORING_INFO), 0x80000400 | 0x33);
    check_eq("... instruction length", rd(VMCS_EXIT_INSTRUCTION_LENGTH), 2);
    gate(UD, g_handler, 0x0e);
    info("#NP in the delivery of #UD", g_ud, 1 << NP, 0x80000b00 | NP, UD * 8 + 3, 0);
    check_eq("... IDT-vectoring information", rd(VMCS_IDT_VECTORING_INFO), 0x80000300 | UD);
    gate(GP, g_handler, 0x0e);
    info("#DF", g_gp, 1 << DF, 0x80000b00 | DF, 0, 0);
    check_eq("... is not an exit during delivery", rd(VMCS_IDT_VECTORING_INFO) >> 31, 0);
    gate(GP, g_handler, 0x8e);
    gate(UD, g_handler, 0x8e);
    gate(0x33, g_handler, 0x8e);
    no_exit("an exception that the guest handles", g_ud);
    check_eq("... RIP", regs.rbx, (unsigned long)g_ud);
    check_eq("... no IDT-vectoring information", rd(VMCS_IDT_VECTORING_INFO) >> 31, 0);
}

static void inject(const char *name, unsigned long event, unsigned long errcode, unsigned long len, unsigned long rbx,
                   unsigned long rcx)
{
    set_guest(g_nops);
    set_controls();
    wr(VMCS_ENTRY_INTERRUPTION_INFO, event);
    wr(VMCS_ENTRY_EXCEPTION_ERROR_CODE, errcode);
    wr(VMCS_ENTRY_INSTRUCTION_LENGTH, len);
    if ((event >> 8 & 7) == 0)
        wr(VMCS_GUEST_RFLAGS, 0x202);
    unsigned char r = enter();
    if (r || rd(VMCS_EXIT_REASON) != VMX_REASON_VMCALL || regs.rbx != rbx || regs.rcx != rcx)
        fail(name, "result %u reason %#lx rbx %#lx rcx %#lx", r, rd(VMCS_EXIT_REASON), (unsigned long)regs.rbx,
             (unsigned long)regs.rcx);
    else
        check(name, true);
}

static void injection(void)
{
    defaults();
    for (unsigned v = 0; v < 64; v++)
        gate(v, g_handler, v == 0x34 ? 0xee : 0x8e);
    unsigned long rip = (unsigned long)g_nops;
    inject("inject an external interrupt", 0x80000000 | 0x33, 0, 0, rip, SEL_K64);
    check_eq("... the field's valid bit is cleared by the exit", rd(VMCS_ENTRY_INTERRUPTION_INFO) >> 31, 0);
    inject("inject an NMI", 0x80000200 | NMI, 0, 0, rip, SEL_K64);
    inject("inject #UD", 0x80000300 | UD, 0, 0, rip, SEL_K64);
    inject("inject #GP with an error code", 0x80000b00 | GP, 0x1234, 0, 0x1234, rip);
    inject("inject INT n: RIP is advanced", 0x80000400 | 0x33, 0, 2, rip + 2, SEL_K64);
    inject("inject #BP as a software exception", 0x80000600 | BP, 0, 1, rip + 1, SEL_K64);
    inject("inject #DB as a privileged software exception", 0x80000500 | DB, 0, 1, rip + 1, SEL_K64);
    /* injection through an absent gate */
    gate(0x33, g_handler, 0x0e);
    set_guest(g_nops);
    wr(VMCS_EXCEPTION_BITMAP, 1 << NP);
    set_controls();
    wr(VMCS_GUEST_RFLAGS, 0x202);
    wr(VMCS_ENTRY_INTERRUPTION_INFO, 0x80000000 | 0x33);
    enter();
    check_eq("injection that faults", rd(VMCS_EXIT_INTERRUPTION_INFO), 0x80000b00 | NP);
    check_eq("... IDT-vectoring information", rd(VMCS_IDT_VECTORING_INFO), 0x80000033);
    check_eq("... error code with EXT", rd(VMCS_EXIT_INTERRUPTION_ERROR_CODE), 0x33 * 8 + 3);
    gate(0x33, g_handler, 0x8e);
    /* pending debug exceptions are delivered at entry */
    set_guest(g_nops);
    wr(VMCS_EXCEPTION_BITMAP, 1 << DB);
    wr(VMCS_GUEST_RFLAGS, 0x102);
    set_controls();
    enter();
    check_eq("single step in the guest", rd(VMCS_EXIT_INTERRUPTION_INFO), 0x80000300 | DB);
    check_eq("... qualification: BS", rd(VMCS_EXIT_QUALIFICATION), 1 << 14);
    check_eq("... RIP", rd(VMCS_GUEST_RIP), rip + 1);
    set_guest(g_nops);
    wr(VMCS_EXCEPTION_BITMAP, 1 << DB);
    wr(VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS, 1 << 12 | 1);
    enter();
    check_eq("pending debug exceptions at entry", rd(VMCS_EXIT_INTERRUPTION_INFO), 0x80000300 | DB);
    check_eq("... before the first instruction", rd(VMCS_GUEST_RIP), rip);
    check_eq("... qualification: B0", rd(VMCS_EXIT_QUALIFICATION), 1);
}

static void apic(unsigned r, uint32_t v)
{
    *(volatile uint32_t *)(0xfee00000ul + r) = v;
}
static volatile unsigned irqs;
static void on_irq(struct regs *r)
{
    irqs++;
    apic(0xb0, 0);
}

static void interrupts(void)
{
    defaults();
    apic(0xf0, 0x1ff);
    rt_irq[0x61] = on_irq;
    pin_want = VMX_PIN_EXTERNAL_INTERRUPT_EXITING;
    if (!rt_on_bochs()) { /* it doesn't look */
        apic(0x300, 0x40061);
        exits("external interrupt with IF=0 in the guest", g_loop, VMX_REASON_EXTERNAL_INTERRUPT, 0, -1);
        ASM("sti; nop; nop; cli");
    }
    guest_rflags = 0x202;
    apic(0x300, 0x40061);
    exits("external interrupt", g_loop, VMX_REASON_EXTERNAL_INTERRUPT, 0, -1);
    check_eq("... not acknowledged: no vector", rd(VMCS_EXIT_INTERRUPTION_INFO) >> 31, 0);
    irqs = 0;
    ASM("sti; nop; nop; cli");
    check_eq("... still pending for the host", irqs, 1);
    exit_want = VMX_EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT;
    apic(0x300, 0x40061);
    exits("external interrupt, acknowledged", g_loop, VMX_REASON_EXTERNAL_INTERRUPT, 0, -1);
    check_eq("... vector", rd(VMCS_EXIT_INTERRUPTION_INFO), 0x80000061);
    irqs = 0;
    ASM("sti; nop; nop; cli");
    check_eq("... no longer pending", irqs, 0);
    apic(0xb0, 0);
    exit_want = 0, pin_want = 0, guest_rflags = 2;
    /* without the control the guest takes it by its own IF and IDT */
    for (unsigned v = 0; v < 64; v++)
        gate(v, g_handler, 0x8e);
    rt_irq[0x31] = on_irq;
    apic(0x300, 0x40031);
    set_guest(g_sti);
    set_controls();
    enter();
    check_eq("an interrupt in the guest without the control", rd(VMCS_EXIT_REASON), VMX_REASON_VMCALL);
    check_eq("... after the shadow of STI", regs.rbx, (unsigned long)g_sti_2);
    apic(0xb0, 0);
    /* windows */
    proc_want = VMX_PROC_INTERRUPT_WINDOW_EXITING;
    exits("interrupt window", g_sti, VMX_REASON_INTERRUPT_WINDOW, 0, -1);
    check_eq("... after the shadow of STI", rd(VMCS_GUEST_RIP), (unsigned long)g_sti_2);
    set_guest(g_nops);
    wr(VMCS_GUEST_RFLAGS, 0x202);
    enter();
    check_eq("interrupt window at entry", rd(VMCS_GUEST_RIP), (unsigned long)g_nops);
    proc_want = 0;
    if (offers(VMX_MSR_PINBASED_CTLS, VMX_PIN_NMI_EXITING | VMX_PIN_VIRTUAL_NMIS)) {
        pin_want = VMX_PIN_NMI_EXITING | VMX_PIN_VIRTUAL_NMIS;
        proc_want = VMX_PROC_NMI_WINDOW_EXITING;
        exits("NMI window", g_nops, VMX_REASON_NMI_WINDOW, 0, -1);
        check_eq("... at entry", rd(VMCS_GUEST_RIP), (unsigned long)g_nops);
        set_guest(g_nops);
        wr(VMCS_GUEST_INTERRUPTIBILITY_STATE, 8);
        enter();
        check_eq("no NMI window with blocking by NMI", rd(VMCS_EXIT_REASON), VMX_REASON_VMCALL);
        check_eq("... blocking is kept", rd(VMCS_GUEST_INTERRUPTIBILITY_STATE), 8);
        proc_want = 0;
        pin_want = 0;
    } else {
        skip("NMI window", "no virtual NMIs");
    }
    if (offers(VMX_MSR_PINBASED_CTLS, VMX_PIN_ACTIVATE_PREEMPTION_TIMER)) {
        pin_want = VMX_PIN_ACTIVATE_PREEMPTION_TIMER;
        wr(VMCS_PREEMPTION_TIMER_VALUE, 100);
        exits("preemption timer", g_loop, VMX_REASON_PREEMPTION_TIMER_EXPIRED, 0, -1);
        wr(VMCS_PREEMPTION_TIMER_VALUE, 0);
        exits("preemption timer of 0: at entry", g_nops, VMX_REASON_PREEMPTION_TIMER_EXPIRED, 0, -1);
        check_eq("... before the first instruction", rd(VMCS_GUEST_RIP), (unsigned long)g_nops);
        wr(VMCS_PREEMPTION_TIMER_VALUE, 0xffffffff);
        no_exit("a long preemption timer", g_nops);
        if (offers(VMX_MSR_EXIT_CTLS, VMX_EXIT_SAVE_PREEMPTION_TIMER_VALUE)) {
            exit_want = VMX_EXIT_SAVE_PREEMPTION_TIMER_VALUE;
            wr(VMCS_PREEMPTION_TIMER_VALUE, 0);
            run(g_nops);
            check_eq("the value is saved", rd(VMCS_PREEMPTION_TIMER_VALUE), 0);
            exit_want = 0;
        }
        pin_want = 0;
    } else {
        skip("preemption timer", "no preemption timer");
    }
    if (offers(VMX_MSR_PROCBASED_CTLS, VMX_PROC_MONITOR_TRAP_FLAG)) {
        proc_want = VMX_PROC_MONITOR_TRAP_FLAG;
        exits("monitor trap flag", g_nops, VMX_REASON_MONITOR_TRAP_FLAG, 0, -1);
        check_eq("... after one instruction", rd(VMCS_GUEST_RIP), (unsigned long)g_nops + 1);
        set_guest(g_nops);
        wr(VMCS_GUEST_RFLAGS, 0x102);
        enter();
        check_eq("... before the single-step trap of the same instruction", rd(VMCS_EXIT_REASON),
                 VMX_REASON_MONITOR_TRAP_FLAG);
        check_eq("... which is pending then", rd(VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS), VMX_PENDING_DBG_BS);
        proc_want = 0;
    } else {
        skip("monitor trap flag", "no monitor trap flag");
    }
    proc_want = VMX_PROC_HLT_EXITING;
    set_guest(g_nops);
    set_controls();
    if (rdmsr(VMX_MSR_MISC) & VMX_MISC_ACTIVITY_HLT) {
        wr(VMCS_GUEST_ACTIVITY_STATE, 1);
        wr(VMCS_GUEST_RFLAGS, 0x202);
        wr(VMCS_ENTRY_INTERRUPTION_INFO, 0x80000033);
        enter();
        check_eq("an injected interrupt wakes the HLT state", rd(VMCS_EXIT_REASON), VMX_REASON_VMCALL);
        check_eq("... which is active then", rd(VMCS_GUEST_ACTIVITY_STATE), 0);
    } else {
        skip("an injected interrupt wakes the HLT state", "no HLT activity state");
    }
    proc_want = 0;
}

/* --- MSR areas, TSC offset
 * ---------------------------------------------------------------------------------------------------------- */
GUEST(g_rdmsr_175, "mov $0x175, %ecx; rdmsr");
static void msr_areas(void)
{
    defaults();
    uint32_t *m = (uint32_t *)msr_area;
    proc_want = VMX_PROC_USE_MSR_BITMAPS;
    memset(msr_bitmap, 0, 4096);
    wr(VMCS_MSR_BITMAPS, PA(msr_bitmap));
    m[0] = 0xc0000081, m[1] = 0, m[2] = 0x11112222, m[3] = 0x33334444; /* STAR */
    wrmsr(0xc0000081, 0x5555);
    set_guest(g_vmcall);
    set_controls();
    wr(VMCS_ENTRY_MSR_LOAD_ADDRESS, PA(msr_area)), wr(VMCS_ENTRY_MSR_LOAD_COUNT, 1);
    enter();
    check_eq("an MSR of the entry's list is loaded", rdmsr(0xc0000081), 0x3333444411112222);
    m[4] = 0xc0000081, m[5] = 0, m[6] = 0, m[7] = 0;
    m[8] = 0xc0000081, m[9] = 0, m[10] = 0x7777, m[11] = 0;
    set_guest(g_vmcall);
    set_controls();
    wr(VMCS_EXIT_MSR_STORE_ADDRESS, PA(msr_area) + 16), wr(VMCS_EXIT_MSR_STORE_COUNT, 1);
    wr(VMCS_EXIT_MSR_LOAD_ADDRESS, PA(msr_area) + 32), wr(VMCS_EXIT_MSR_LOAD_COUNT, 1);
    enter();
    check_eq("an MSR of the exit's store list is stored", (uint64_t)m[7] << 32 | m[6], 0x3333444411112222);
    check_eq("an MSR of the exit's load list is loaded", rdmsr(0xc0000081), 0x7777);
    set_guest(g_rdmsr_175);
    wr(VMCS_GUEST_SYSENTER_ESP, 0x123456789a);
    wrmsr(0x175, 0x4321);
    enter();
    check("SYSENTER_ESP is the guest's in the guest", (uint32_t)regs.rax == 0x3456789a && (uint32_t)regs.rdx == 0x12);
    check_eq("... and the host's afterwards", rdmsr(0x175), 0);
    proc_want = VMX_PROC_USE_TSC_OFFSETTING;
    set_guest(g_rdtsc);
    set_controls();
    wr(VMCS_TSC_OFFSET, 1ul << 40);
    enter();
    check_eq("TSC offset", regs.rdx >> 8, 1);
    wr(VMCS_TSC_OFFSET, 0);
}

/* --- EPT
 * ---------------------------------------------------------------------------------------------------------------------------------
 */
enum { ER = 1, EW = 2, EX = 4, WB = 6 << 3 };
static void ept_set(uint64_t pte)
{
    ept_pt[PA(target) >> 12 & 511] = pte;
    struct vmx_invept_descriptor d = {0, 0};
    __vmx_invept(VMX_INVEPT_ALL_CONTEXT, &d);
}
static void ept_case(const char *name, char *code, uint64_t pte, unsigned long reason, unsigned long qual)
{
    ept_set(pte);
    set_guest(code);
    set_controls();
    regs.rdi = PA(target) + 0x10;
    enter();
    unsigned long got = rd(VMCS_EXIT_REASON),
                  q = rd(VMCS_EXIT_QUALIFICATION) & 0x1ff; /* bits above depend on advanced information */
    if (code == g_rmw_target)
        q |= 1; /* is a read-modify-write a read, too? Processors differ */
    if (got != reason || (reason == VMX_REASON_EPT_VIOLATION && q != qual))
        fail(name, "reason %#lx qualification %#lx, want %#lx %#lx", got, q, reason, qual);
    else if (reason != VMX_REASON_VMCALL &&
             rd(VMCS_GUEST_PHYSICAL_ADDRESS) != PA(target) + (reason == VMX_REASON_EPT_VIOLATION ? 0x10 : 0x10))
        fail(name, "guest-physical address %#lx", rd(VMCS_GUEST_PHYSICAL_ADDRESS));
    else
        check(name, true);
}
static void ept(void)
{
    if (!offers2(VMX_PROC2_ENABLE_EPT)) {
        skip("EPT", "no EPT");
        return;
    }
    uint64_t cap = rdmsr(VMX_MSR_EPT_VPID_CAP);
    defaults();
    memset(ept_pml4, 0, 4096), memset(ept_pdpt, 0, 4096), memset(ept_pd, 0, 4096), memset(ept_pt, 0, 4096);
    ept_pml4[0] = PA(ept_pdpt) | 7;
    ept_pdpt[0] = PA(ept_pd) | 7;
    for (unsigned i = 0; i < 512; i++)
        ept_pd[i] = i * 0x200000ul | 7 | WB | 0x80;
    unsigned big = (unsigned)(PA(target) >> 21);
    for (unsigned i = 0; i < 512; i++)
        ept_pt[i] = (big * 512ul + i) << 12 | 7 | WB;
    ept_pd[big] = PA(ept_pt) | 7;
    unsigned long eptp = PA(ept_pml4) | VMX_EPTP_WB | VMX_EPTP_WALK_4;
    wr(VMCS_EPT_POINTER, eptp);
    proc2_want = VMX_PROC2_ENABLE_EPT;
    proc_want = 0;
    memset(target, 0xc3, 4096);
    uint64_t pa = PA(target);
    ept_case("EPT: read", g_read_target, pa | 7 | WB, VMX_REASON_VMCALL, 0);
    ept_case("EPT: write", g_write_target, pa | 7 | WB, VMX_REASON_VMCALL, 0);
    check_eq("... has been done", target[0x10], 0x77);
    target[0x10] = 0xc3;
    ept_case("EPT: fetch", g_exec_target, pa | 7 | WB, VMX_REASON_VMCALL, 0);
    /* bits: 0 read 1 write 2 fetch; 3-5 the entry's rights; 7 linear address valid; 8 the translation of that address
     * itself */
    ept_case("EPT violation: read of an absent page", g_read_target, 0, VMX_REASON_EPT_VIOLATION, 1 | 0x180);
    check_eq("... guest-linear address", rd(VMCS_GUEST_LINEAR_ADDRESS), PA(target) + 0x10);
    ept_case("EPT violation: write of a read-only page", g_write_target, pa | ER | WB, VMX_REASON_EPT_VIOLATION,
             2 | 1 << 3 | 0x180);
    ept_case("EPT violation: locked RMW of a read-only page", g_rmw_target, pa | ER | WB, VMX_REASON_EPT_VIOLATION,
             3 | 1 << 3 | 0x180);
    ept_case("EPT violation: fetch from a page without execute", g_exec_target, pa | ER | EW | WB,
             VMX_REASON_EPT_VIOLATION, 4 | 3 << 3 | 0x180);
    ept_case("EPT misconfiguration: write-only", g_read_target, pa | EW | WB, VMX_REASON_EPT_MISCONFIGURATION, 0);
    ept_case("EPT misconfiguration: memory type 2", g_read_target, pa | 7 | 2 << 3, VMX_REASON_EPT_MISCONFIGURATION, 0);
    if (cap & VMX_EPT_CAP_EXECUTE_ONLY)
        ept_case("EPT: execute-only, read", g_read_target, pa | EX | WB, VMX_REASON_EPT_VIOLATION, 1 | 4 << 3 | 0x180);
    else
        ept_case("EPT misconfiguration: execute-only", g_read_target, pa | EX | WB, VMX_REASON_EPT_MISCONFIGURATION, 0);
    ept_case("EPT: restored", g_read_target, pa | 7 | WB, VMX_REASON_VMCALL, 0);
    /* another page behind the same guest-physical address */
    memset(rt_pages[21], 0x5a, 4096);
    ept_case("EPT: another page", g_read_target, PA(rt_pages[21]) | 7 | WB, VMX_REASON_VMCALL, 0);
    check_eq("... is read", regs.rax & 0xff, 0x5a);
    /* a guest paging structure that EPT does not map: qualification without bit 8 */
    ept_set(pa | 7 | WB);
    {
        extern unsigned long rt_pml4[];
        uint64_t old = ept_pt[PA(rt_pml4) >> 12 & 511];
        if (PA(rt_pml4) >> 21 == big) {
            ept_pt[PA(rt_pml4) >> 12 & 511] = 0;
            struct vmx_invept_descriptor d = {0, 0};
            __vmx_invept(VMX_INVEPT_ALL_CONTEXT, &d);
            set_guest(g_nops);
            set_controls();
            enter();
            check_eq("EPT violation in the guest's walk", rd(VMCS_EXIT_REASON), VMX_REASON_EPT_VIOLATION);
            check_eq("... qualification: linear address valid, not its final translation",
                     rd(VMCS_EXIT_QUALIFICATION) & 0x180, 0x80);
            check_eq("... guest-physical address", rd(VMCS_GUEST_PHYSICAL_ADDRESS) & ~0xffful, PA(rt_pml4));
            ept_pt[PA(rt_pml4) >> 12 & 511] = old;
            __vmx_invept(VMX_INVEPT_ALL_CONTEXT, &d);
        } else {
            skip("EPT violation in the guest's walk", "the image's layout");
        }
    }
    /* accessed and dirty flags */
    if (cap & VMX_EPT_CAP_ACCESSED_DIRTY) {
        wr(VMCS_EPT_POINTER, eptp | VMX_EPTP_ACCESSED_DIRTY);
        ept_case("EPT A/D: read", g_read_target, pa | 7 | WB, VMX_REASON_VMCALL, 0);
        check_eq("... sets accessed", ept_pt[pa >> 12 & 511] & 0x300, 0x100);
        ept_case("EPT A/D: write", g_write_target, pa | 7 | WB, VMX_REASON_VMCALL, 0);
        check_eq("... sets dirty", ept_pt[pa >> 12 & 511] & 0x300, 0x300);
        wr(VMCS_EPT_POINTER, eptp);
    } else {
        skip("EPT A/D", "no accessed and dirty flags");
    }
    /* invalid EPT pointers */
    set_guest(g_vmcall);
    set_controls();
    wr(VMCS_EPT_POINTER, PA(ept_pml4) | VMX_EPTP_WB | 1 << 3);
    check_eq("EPT pointer with a walk of 2", vmenter_vmresume(&regs), 1);
    check_eq("... error", error(), VMX_ERR_ENTRY_INVALID_CONTROLS);
    wr(VMCS_EPT_POINTER, PA(ept_pml4) | 2 | VMX_EPTP_WALK_4);
    check_eq("EPT pointer with memory type 2", vmenter_vmresume(&regs), 1);
    wr(VMCS_EPT_POINTER, eptp);
    struct vmx_invept_descriptor d = {eptp, 0};
    check_eq("INVEPT single context", __vmx_invept(VMX_INVEPT_SINGLE_CONTEXT, &d), 0);
    check_eq("INVEPT of type 3", __vmx_invept(3, &d), 1);
    check_eq("... error", error(), VMX_ERR_INVALID_OPERAND);
    /* unrestricted guest: real mode */
    if (offers2(VMX_PROC2_UNRESTRICTED_GUEST)) {
        memcpy((void *)0x7000, r16, (size_t)(r16_end - r16));
        proc2_want = VMX_PROC2_ENABLE_EPT | VMX_PROC2_UNRESTRICTED_GUEST;
        entry_want = 0;
        set_guest((char *)0);
        set_controls();
        wr(VMCS_GUEST_CR0, 0x30), wr(VMCS_GUEST_CR4, 0x2000), wr(VMCS_GUEST_RFLAGS, 2), wr(VMCS_GUEST_RSP, 0x6000);
        for (unsigned i = 0; i < 6; i++)
            guest_seg(i, i == 1 ? 0x700 : 0, i == 1 ? 0x9b : 0x93, 0xffff);
        wr(VMCS_GUEST_CS_BASE, 0x7000);
        guest_seg(7, 0, 0x8b, 0xffff);
        wr(VMCS_GUEST_IDTR_BASE, 0);
        unsigned char r = enter();
        check_eq("unrestricted guest in real mode", r ? 0x10000 + error() : rd(VMCS_EXIT_REASON), VMX_REASON_VMCALL);
        check("... registers",
              (regs.rax & 0xffff) == 0x700 && (regs.rbx & 0xffff) == 0x1111 && (uint32_t)regs.rcx == 0x22223333);
        entry_want = VMX_ENTRY_IA32E_MODE_GUEST;
    } else {
        skip("unrestricted guest in real mode", "no unrestricted guest");
    }
    proc2_want = 0;
}

static void vpid(void)
{
    if (!offers2(VMX_PROC2_ENABLE_VPID)) {
        skip("VPID", "no VPID");
        return;
    }
    defaults();
    proc2_want = VMX_PROC2_ENABLE_VPID;
    wr(VMCS_VPID, 0);
    set_guest(g_vmcall);
    set_controls();
    check_eq("VPID 0", enter(), 1);
    check_eq("... error", error(), VMX_ERR_ENTRY_INVALID_CONTROLS);
    wr(VMCS_VPID, 1);
    no_exit("VPID 1", g_vmcall);
    struct vmx_invvpid_descriptor d = {.vpid = 1, .linear_address = PA(target)};
    check_eq("INVVPID of an address", __vmx_invvpid(VMX_INVVPID_ADDRESS, &d), 0);
    check_eq("INVVPID single context", __vmx_invvpid(VMX_INVVPID_SINGLE_CONTEXT, &d), 0);
    check_eq("INVVPID all contexts", __vmx_invvpid(VMX_INVVPID_ALL_CONTEXT, &d), 0);
    d.vpid = 0;
    check_eq("INVVPID of VPID 0", __vmx_invvpid(VMX_INVVPID_SINGLE_CONTEXT, &d), 1);
    check_eq("... error", error(), VMX_ERR_INVALID_OPERAND);
    d.vpid = 1, d.linear_address = 0x8000000000000000;
    check_eq("INVVPID of an address that is not canonical", __vmx_invvpid(VMX_INVVPID_ADDRESS, &d), 1);
    check_eq("INVVPID of type 4", __vmx_invvpid(4, &d), 1);
    proc2_want = 0;
}

void image_main(void)
{
    if (!cpu_has(1, 2, 5)) {
        skip("VMX", "no VMX");
        return;
    }
    instructions();
    true_ctls = rdmsr(VMX_MSR_BASIC) & VMX_BASIC_TRUE_CONTROLS;
    entry_failures();
    first_entry();
    instruction_exits();
    cr_exits();
    exceptions();
    injection();
    interrupts();
    msr_areas();
    ept();
    vpid();
    __vmx_off();
    wrcr4(rdcr4() & ~0x2000ul);
    check("VMXOFF, and CR4.VMXE can be cleared", !(rdcr4() & 0x2000));
}
