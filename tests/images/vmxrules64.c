/* SPDX-License-Identifier: MIT
 *
 * vmxrules64.c: VMX from a 64-bit host: outcomes and error numbers of the instructions, fields, every rule of VM
 * entries, exits with their information, event injection, EPT. SDM volume 3C. Nothing here knows whose processor it
 * runs on.
 */
#include "rt.h"

#include <vmenter/enter.h>
#include <vmenter/intrin.h>
#include <vmenter/vmx.h>

const char image_name[] = IMAGE_NAME;
#define ASM(...) __asm__ volatile(__VA_ARGS__)
#define PAGE     __attribute__((aligned(4096)))
#define A(x)     ((uint64_t)(unsigned long)(x))
#define BIT(n)   (1ull << (n))

enum { CR0_PE = 1, CR0_MP = 2, CR0_EM = 4, CR0_TS = 8, CR0_ET = 16, CR0_NE = 32 };
#define CR0_PG BIT(31)
enum { CR4_PSE = 16, CR4_PAE = 32, CR4_VMXE = 1 << 13, CR4_PCIDE = 1 << 17, CR4_OSXSAVE = 1 << 18 };
enum { FLAG_TF = 0x100, FLAG_IF = 0x200, FLAG_RF = 1 << 16, FLAG_VM = 1 << 17 };
enum { AR_S = 0x10, AR_P = 0x80, AR_DB = 0x4000, AR_G = 0x8000, AR_UNUSABLE = 0x10000 };

static PAGE uint8_t vmxon_region[4096], vmcs_region[4096], vmcs2_region[4096], vapic[4096], msr_bitmap[4096],
    io_a[4096], io_b[4096];
static PAGE uint8_t code[4096], handlers[4096], stack[8192], data[4096];
static PAGE uint64_t ept_pml4[512], ept_pdpt[512], ept_pd[4][512];
static PAGE uint64_t g_pml4[512], g_pdpt[512], g_pd[4][512];
static PAGE uint32_t g_pd32[1024];
static PAGE uint64_t g_gdt[16], g_idt[512], g_tss[32];
static PAGE struct vmx_msr_entry msr_area[32];
static uint8_t *const low = (uint8_t *)0x60000; /* code of real and virtual-8086 mode */
static struct vmenter_regs regs;
static uint64_t basic, misc, ept_cap;
static uint32_t pin_may, proc_may, proc2_may, exit_may, entry_may, pin_must, proc_must, exit_must, entry_must;
static uint64_t proc3_may;
static uint32_t revision;
static bool bochs;

#define RULES_VMCS  A(vmcs_region)
#define RULES_VAPIC A(vapic)
#include "vmx_rules.h"

static unsigned char w(size_t field, size_t v)
{
    return __vmx_vmwrite(field, v);
}
static uint64_t r(size_t field)
{
    size_t v = 0xbad;
    __vmx_vmread(field, &v);
    return v;
}
static void set(size_t field, uint64_t on)
{
    w(field, r(field) | on);
}
static void off(size_t field, uint64_t bits)
{
    w(field, r(field) & ~bits);
}
static void zero(void *p, unsigned long n)
{
    for (unsigned long i = 0; i < n; i++)
        ((volatile uint8_t *)p)[i] = 0;
}
static void copy(void *to, const void *from, unsigned long n)
{
    for (unsigned long i = 0; i < n; i++)
        ((volatile uint8_t *)to)[i] = ((const uint8_t *)from)[i];
}
#define CODE(...)                                                                                                      \
    do {                                                                                                               \
        static const uint8_t code_[] = {__VA_ARGS__};                                                                  \
        copy(code, code_, sizeof code_);                                                                               \
    } while (0)

/* Allowed-1 and must-be-1 of a control word. */
static void caps(uint32_t msr, uint32_t true_msr, uint32_t *must, uint32_t *may)
{
    uint64_t v = rdmsr(basic & VMX_BASIC_TRUE_CONTROLS ? true_msr : msr);
    *must = (uint32_t)v;
    *may = (uint32_t)(v >> 32);
}

static void capabilities(void)
{
    basic = rdmsr(VMX_MSR_BASIC);
    misc = rdmsr(VMX_MSR_MISC);
    revision = VMX_BASIC_REVISION(basic);
    caps(VMX_MSR_PINBASED_CTLS, VMX_MSR_TRUE_PINBASED_CTLS, &pin_must, &pin_may);
    caps(VMX_MSR_PROCBASED_CTLS, VMX_MSR_TRUE_PROCBASED_CTLS, &proc_must, &proc_may);
    caps(VMX_MSR_EXIT_CTLS, VMX_MSR_TRUE_EXIT_CTLS, &exit_must, &exit_may);
    caps(VMX_MSR_ENTRY_CTLS, VMX_MSR_TRUE_ENTRY_CTLS, &entry_must, &entry_may);
    proc2_may = (uint32_t)(rdmsr(VMX_MSR_PROCBASED_CTLS2) >> 32);
    if (proc_may & VMX_PROC_ACTIVATE_TERTIARY_CONTROLS)
        proc3_may = rdmsr(VMX_MSR_PROCBASED_CTLS3);
    ept_cap = rdmsr(VMX_MSR_EPT_VPID_CAP);
    static const uint32_t default1[] = {0x16, 0x0401e172, 0x36dff, 0x11ff};
    for (unsigned i = 0; i < 4; i++) {
        uint64_t plain = rdmsr(VMX_MSR_PINBASED_CTLS + i), exact = rdmsr(VMX_MSR_TRUE_PINBASED_CTLS + i);
        check("capability MSR: default1 bits must be 1", (plain & default1[i]) == default1[i]);
        check("capability MSR: what must be 1 may be 1", !(plain & ~(plain >> 32) & 0xffffffff));
        check("capability MSR: TRUE allows the same 1-settings", plain >> 32 == exact >> 32);
        check("capability MSR: TRUE demands no more", !(exact & ~plain & 0xffffffff));
    }
    check("IA32_VMX_BASIC: bit 31 is 0", !(basic & BIT(31)));
    check("IA32_VMX_CR0_FIXED: PE, NE, PG",
          rdmsr(VMX_MSR_CR0_FIXED0) == 0x80000021 && rdmsr(VMX_MSR_CR0_FIXED1) == 0xffffffff);
    check("IA32_VMX_CR4_FIXED0: VMXE", rdmsr(VMX_MSR_CR4_FIXED0) == 0x2000);
    expect_exc("WRMSR to a capability MSR", TRY(wrmsr(VMX_MSR_BASIC, basic)), GP, 0);
}

static void expect_fail(const char *name, unsigned char result, unsigned error)
{
    check_eq(name, result, 1);
    check_eq("... error", r(VMCS_VM_INSTRUCTION_ERROR), error);
}

static void instructions(void)
{
    unsigned long long pa = A(vmxon_region), bad;
    uint64_t fc = rdmsr(VMX_MSR_FEATURE_CONTROL);
    if (!(fc & VMX_FEATURE_CONTROL_LOCK))
        wrmsr(VMX_MSR_FEATURE_CONTROL, fc | VMX_FEATURE_CONTROL_LOCK | VMX_FEATURE_CONTROL_VMX);
    expect_exc("locked IA32_FEATURE_CONTROL", TRY(wrmsr(VMX_MSR_FEATURE_CONTROL, fc | 5)), GP, 0);
    wrcr4(rdcr4() & ~(unsigned long)CR4_VMXE);
    expect_exc("VMXON with CR4.VMXE=0", TRY(__vmx_on(&pa)), UD, 0);
    wrcr4(rdcr4() | CR4_VMXE);
    expect_exc("VMREAD outside VMX operation", TRY(r(VMCS_GUEST_RIP)), UD, 0);
    expect_exc("VMXOFF outside VMX operation", TRY(__vmx_off()), UD, 0);
    wrcr0(rdcr0() & ~(unsigned long)CR0_NE);
    expect_exc("VMXON with CR0.NE=0", TRY(__vmx_on(&pa)), GP, 0);
    wrcr0(rdcr0() | CR0_NE);
    bad = pa + 8;
    check_eq("VMXON, unaligned", __vmx_on(&bad), 2);
    bad = BIT(60);
    check_eq("VMXON, beyond the physical-address width", __vmx_on(&bad), 2);
    *(uint32_t *)vmxon_region = revision + 1;
    check_eq("VMXON, wrong revision", __vmx_on(&pa), 2);
    *(uint32_t *)vmxon_region = revision | BIT(31);
    check_eq("VMXON, shadow indicator", __vmx_on(&pa), 2);
    *(uint32_t *)vmxon_region = revision;
    check_eq("VMXON", __vmx_on(&pa), 0);
    expect_exc("MOV CR4 clears VMXE in VMX operation", TRY(wrcr4(rdcr4() & ~(unsigned long)CR4_VMXE)), GP, 0);
    expect_exc("MOV CR0 clears NE in VMX operation", TRY(wrcr0(rdcr0() & ~(unsigned long)CR0_NE)), GP, 0);
    check_eq("VMXON again without a current VMCS", __vmx_on(&pa), 2);
    __vmx_vmptrst(&bad);
    check("VMPTRST without a current VMCS", bad == ~0ull);
    size_t v;
    check_eq("VMREAD without a current VMCS", __vmx_vmread(VMCS_GUEST_RIP, &v), 2);
    check_eq("VMWRITE without a current VMCS", w(VMCS_GUEST_RIP, 0), 2);
    check_eq("VMLAUNCH without a current VMCS", __vmx_vmlaunch(), 2);
    check_eq("VMRESUME without a current VMCS", __vmx_vmresume(), 2);
    check_eq("VMCLEAR of the VMXON region, no current VMCS", __vmx_vmclear(&pa), 2);
    *(uint32_t *)vmcs_region = *(uint32_t *)vmcs2_region = revision;
    unsigned long long a = A(vmcs_region), b = A(vmcs2_region);
    check_eq("VMCLEAR", __vmx_vmclear(&a), 0);
    check_eq("VMPTRLD", __vmx_vmptrld(&a), 0);
    __vmx_vmptrst(&bad);
    check_eq("VMPTRST", bad, a);
    expect_fail("VMXON in VMX root operation", __vmx_on(&pa), VMX_ERR_VMXON_IN_VMX_ROOT);
    bad = a + 0x10;
    expect_fail("VMCLEAR, unaligned", __vmx_vmclear(&bad), VMX_ERR_VMCLEAR_INVALID_ADDRESS);
    expect_fail("VMPTRLD, unaligned", __vmx_vmptrld(&bad), VMX_ERR_VMPTRLD_INVALID_ADDRESS);
    bad = BIT(60);
    expect_fail("VMCLEAR beyond the width", __vmx_vmclear(&bad), VMX_ERR_VMCLEAR_INVALID_ADDRESS);
    expect_fail("VMPTRLD beyond the width", __vmx_vmptrld(&bad), VMX_ERR_VMPTRLD_INVALID_ADDRESS);
    expect_fail("VMCLEAR of the VMXON region", __vmx_vmclear(&pa), VMX_ERR_VMCLEAR_VMXON_POINTER);
    expect_fail("VMPTRLD of the VMXON region", __vmx_vmptrld(&pa), VMX_ERR_VMPTRLD_VMXON_POINTER);
    bad = A(data);
    expect_fail("VMPTRLD, wrong revision", __vmx_vmptrld(&bad), VMX_ERR_VMPTRLD_INCORRECT_REVISION);
    expect_fail("VMRESUME, not launched", __vmx_vmresume(), VMX_ERR_VMRESUME_NONLAUNCHED);
    expect_fail("VMREAD of no field", __vmx_vmread(0x7000, &v), VMX_ERR_UNSUPPORTED_COMPONENT);
    expect_fail("VMREAD, high half of a natural-width field", __vmx_vmread(VMCS_GUEST_RIP + 1, &v),
                VMX_ERR_UNSUPPORTED_COMPONENT);
    expect_fail("VMWRITE of no field", w(0x4830, 0), VMX_ERR_UNSUPPORTED_COMPONENT);
    if (!(misc & VMX_MISC_VMWRITE_ANY_FIELD))
        expect_fail("VMWRITE of a read-only field", w(VMCS_EXIT_REASON, 0), VMX_ERR_READ_ONLY_COMPONENT);
    else
        skip("VMWRITE of a read-only field", "IA32_VMX_MISC bit 29"), skip("... error", "");
    if (bochs) /* it panics */
        skip("VMCALL in VMX root operation", "not taken"), skip("... error", "");
    else
        expect_fail("VMCALL in VMX root operation", __vmx_vmcall(&regs), VMX_ERR_VMCALL_IN_VMX_ROOT);
    if (ept_cap & VMX_EPT_CAP_INVEPT) {
        struct vmx_invept_descriptor d = {A(ept_pml4) | VMX_EPTP_WALK_4 | VMX_EPTP_WB, 0};
        check_eq("INVEPT single-context", __vmx_invept(1, &d), 0);
        check_eq("INVEPT all-context", __vmx_invept(2, &d), 0);
        expect_fail("INVEPT type 0", __vmx_invept(0, &d), VMX_ERR_INVALID_OPERAND);
        expect_fail("INVEPT type 3", __vmx_invept(3, &d), VMX_ERR_INVALID_OPERAND);
        d.eptp |= 0x800;
        expect_fail("INVEPT with a bad EPTP", __vmx_invept(1, &d), VMX_ERR_INVALID_OPERAND);
        struct vmx_invvpid_descriptor p = {.vpid = 1};
        for (unsigned i = 0; i < 4; i++)
            check_eq("INVVPID", __vmx_invvpid(i, &p), 0);
        expect_fail("INVVPID type 4", __vmx_invvpid(4, &p), VMX_ERR_INVALID_OPERAND);
        p.linear_address = BIT(60);
        expect_fail("INVVPID, address not canonical", __vmx_invvpid(0, &p), VMX_ERR_INVALID_OPERAND);
        p.vpid = 0;
        expect_fail("INVVPID of VPID 0", __vmx_invvpid(1, &p), VMX_ERR_INVALID_OPERAND);
        p.vpid = 1, p.reserved[0] = 1;
        expect_fail("INVVPID, reserved bits", __vmx_invvpid(1, &p), VMX_ERR_INVALID_OPERAND);
    }
    /* Fields that every processor has, across VMCLEAR and another VMCS. */
    static const uint16_t fields[] = {
#define ALWAYS                                  1
#define WITH(word, name)                        0
#define WITH2(...)                              0
#define VMCS(name, encoding, when, group, text) when ? encoding : 0xffff,
#include <vmenter/arch/vmcs.def>
#undef VMCS
#undef WITH2
#undef WITH
#undef ALWAYS
    };
    bool ok = true, half = true;
    for (unsigned n = 0; n < 2; n++) {
        __vmx_vmptrld(n ? &b : &a);
        for (unsigned i = 0; i < sizeof fields / sizeof *fields; i++)
            if (fields[i] != 0xffff && VMCS_FIELD_TYPE(fields[i]) != VMCS_TYPE_READ_ONLY)
                ok &= !w(fields[i], (i + 1 + 1000 * n) * 0x9e3779b97f4a7c15ull);
    }
    __vmx_vmclear(&a);
    for (unsigned n = 0; n < 2; n++) {
        __vmx_vmptrld(n ? &b : &a);
        for (unsigned i = 0; i < sizeof fields / sizeof *fields; i++) {
            if (fields[i] == 0xffff || VMCS_FIELD_TYPE(fields[i]) == VMCS_TYPE_READ_ONLY)
                continue;
            uint64_t v64 = (i + 1 + 1000 * n) * 0x9e3779b97f4a7c15ull, want = v64;
            switch (VMCS_FIELD_WIDTH(fields[i])) {
            case VMCS_WIDTH_16: want &= 0xffff; break;
            case VMCS_WIDTH_32: want &= 0xffffffff; break;
            case VMCS_WIDTH_64: half &= r(fields[i] + 1) == want >> 32; break;
            }
            /* Access rights and the like may drop their reserved bits. */
            if (r(fields[i]) != want &&
                !(fields[i] >= VMCS_GUEST_ES_ACCESS_RIGHTS && fields[i] <= VMCS_GUEST_TR_ACCESS_RIGHTS)) {
                rt_printf("# field %x reads %lx, written %lx\n", fields[i], (unsigned long)r(fields[i]),
                          (unsigned long)want);
                ok = false;
            }
        }
    }
    check("every field reads back", ok);
    check("high halves", half);
    __vmx_vmclear(&a);
    __vmx_vmclear(&b);
    __vmx_vmptrld(&a);
}

/* --- guests
 * ---------------------------------------------------------------------------------------------------------------- */

static void tables(void)
{
    ept_pml4[0] = A(ept_pdpt) | 7;
    g_pml4[0] = A(g_pdpt) | 7;
    for (unsigned i = 0; i < 4; i++) {
        ept_pdpt[i] = A(ept_pd[i]) | 7;
        g_pdpt[i] = A(g_pd[i]) | 7;
        for (unsigned j = 0; j < 512; j++) {
            ept_pd[i][j] = (uint64_t)i << 30 | (uint64_t)j << 21 | VMX_EPT_LARGE | VMX_EPT_MEMORY_TYPE(6) | 7;
            g_pd[i][j] = (uint64_t)i << 30 | (uint64_t)j << 21 | 0x87;
        }
    }
    for (unsigned i = 0; i < 1024; i++)
        g_pd32[i] = i << 22 | 0x87;
    zero(code, sizeof code);
    zero(vapic, sizeof vapic);
    zero(msr_bitmap, sizeof msr_bitmap);
    zero(io_a, sizeof io_a);
    zero(io_b, sizeof io_b);
    zero(msr_area, sizeof msr_area);
    zero(g_idt, sizeof g_idt);
    zero(low, 256);
}

static void descriptors(bool wide)
{
    g_gdt[1] = 0x00af9b000000ffff;
    g_gdt[2] = 0x00cf93000000ffff;
    g_gdt[3] = 0x00cf9b000000ffff;
    g_gdt[6] = 0x00008b0000000067 | (A(g_tss) & 0xffffff) << 16 | (A(g_tss) >> 24 & 0xff) << 56;
    for (unsigned i = 0; i < 48; i++) {
        uint64_t at = A(handlers) + 16 * i,
                 lo = (at & 0xffff) | (wide ? 0x08ull : 0x18ull) << 16 | 0x8eull << 40 | (at & 0xffff0000) << 32;
        g_idt[wide ? 2 * i : i] = lo;
        if (wide)
            g_idt[2 * i + 1] = 0;
        handlers[16 * i] = 0xf4;
    }
}

static void segment(unsigned i, uint16_t sel, uint64_t base, uint32_t limit, uint32_t ar)
{
    w(VMCS_GUEST_ES_SELECTOR + 2 * i, sel);
    w(VMCS_GUEST_ES_BASE + 2 * i, base);
    w(VMCS_GUEST_ES_LIMIT + 2 * i, limit);
    w(VMCS_GUEST_ES_ACCESS_RIGHTS + 2 * i, ar);
}

static bool free_guest;

static void good(enum rules_mode mode)
{
    unsigned long long a = A(vmcs_region);
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) gdtr, idtr;
    ASM("sgdt %0; sidt %1" : "=m"(gdtr), "=m"(idtr));
    __vmx_vmclear(&a);
    __vmx_vmptrld(&a);
    tables();
    descriptors(mode == RULES_LONG);
    static const uint16_t fields[] = {
#define VMCS(name, encoding, when, group, text) encoding,
#include <vmenter/arch/vmcs.def>
#undef VMCS
    };
    for (unsigned i = 0; i < sizeof fields / sizeof *fields; i++)
        if (VMCS_FIELD_TYPE(fields[i]) != VMCS_TYPE_READ_ONLY)
            w(fields[i], 0);
    uint32_t proc2 = proc2_may & (VMX_PROC2_ENABLE_EPT | VMX_PROC2_UNRESTRICTED_GUEST | VMX_PROC2_ENABLE_VPID);
    free_guest = proc2 & VMX_PROC2_UNRESTRICTED_GUEST;
    w(VMCS_PIN_CONTROLS, pin_must);
    w(VMCS_PROC_CONTROLS, proc_must | VMX_PROC_HLT_EXITING | (uint32_t)VMX_PROC_ACTIVATE_SECONDARY_CONTROLS);
    w(VMCS_PROC2_CONTROLS, proc2);
    w(VMCS_EXIT_CONTROLS, exit_must | VMX_EXIT_HOST_ADDRESS_SPACE_SIZE | VMX_EXIT_SAVE_EFER | VMX_EXIT_LOAD_EFER |
                              VMX_EXIT_SAVE_DEBUG_CONTROLS);
    w(VMCS_ENTRY_CONTROLS, entry_must | VMX_ENTRY_LOAD_EFER | VMX_ENTRY_LOAD_DEBUG_CONTROLS |
                               (mode == RULES_LONG ? VMX_ENTRY_IA32E_MODE_GUEST : 0));
    w(VMCS_VPID, 1);
    w(VMCS_EPT_POINTER, A(ept_pml4) | VMX_EPTP_WALK_4 | VMX_EPTP_WB);
    w(VMCS_VMCS_LINK_POINTER, ~0ull);
    w(VMCS_HOST_CR0, rdcr0());
    w(VMCS_HOST_CR3, rdcr3());
    w(VMCS_HOST_CR4, rdcr4());
    w(VMCS_HOST_EFER, rdmsr(MSR_EFER));
    w(VMCS_HOST_CS_SELECTOR, SEL_K64);
    for (unsigned i = 0; i < 6; i++)
        if (i != 1)
            w(VMCS_HOST_ES_SELECTOR + 2 * i, SEL_KDATA);
    w(VMCS_HOST_TR_SELECTOR, SEL_TSS);
    w(VMCS_HOST_TR_BASE, A(&rt_tss));
    w(VMCS_HOST_GDTR_BASE, gdtr.base);
    w(VMCS_HOST_IDTR_BASE, idtr.base);
    bool paged32 = mode == RULES_PAGED32 || mode == RULES_V86;
    w(VMCS_GUEST_CR4, CR4_VMXE | (mode == RULES_LONG ? CR4_PAE : paged32 ? CR4_PSE : 0));
    w(VMCS_GUEST_CR0,
      CR0_NE | CR0_ET | (mode == RULES_REAL ? 0 : CR0_PE) | (mode == RULES_LONG || paged32 ? CR0_PG : 0));
    w(VMCS_GUEST_CR3, mode == RULES_LONG ? A(g_pml4) : paged32 ? A(g_pd32) : 0);
    w(VMCS_GUEST_EFER, mode == RULES_LONG ? EFER_LME | EFER_LMA | EFER_SCE : 0);
    w(VMCS_GUEST_DR7, 0x400);
    for (unsigned i = 0; i < 6; i++)
        switch (mode) {
        case RULES_REAL: segment(i, 0, 0, 0xffff, i == 1 ? 0x9b : 0x93); break;
        case RULES_V86: segment(i, 0, 0, 0xffff, 0xf3); break;
        case RULES_LONG: segment(i, i == 1 ? 8 : 0x10, 0, 0xffffffff, i == 1 ? 0xa09b : 0xc093); break;
        default: segment(i, i == 1 ? 0x18 : 0x10, 0, 0xffffffff, i == 1 ? 0xc09b : 0xc093); break;
        }
    segment(7, 0x30, A(g_tss), 0x67, 0x8b);
    segment(6, 0, 0, 0, AR_UNUSABLE);
    w(VMCS_GUEST_GDTR_BASE, A(g_gdt));
    w(VMCS_GUEST_GDTR_LIMIT, sizeof g_gdt - 1);
    w(VMCS_GUEST_IDTR_BASE, mode == RULES_REAL ? 0 : A(g_idt));
    w(VMCS_GUEST_IDTR_LIMIT, 0xfff);
    w(VMCS_GUEST_RFLAGS, 2 | (mode == RULES_V86 ? FLAG_VM : 0));
    if (mode == RULES_REAL || mode == RULES_V86) {
        w(VMCS_GUEST_CS_SELECTOR, A(low) >> 4);
        w(VMCS_GUEST_CS_BASE, A(low));
        w(VMCS_GUEST_RSP, 0xf000);
        low[0] = 0xf4;
    } else {
        w(VMCS_GUEST_RIP, A(code));
        w(VMCS_GUEST_RSP, A(stack) + 4096);
        code[0] = 0xf4;
    }
}

/* The exit reason with bit 31; 1000 + error; 2000. */
static uint32_t enter(void)
{
    unsigned char v = vmenter_vmlaunch(&regs);
    if (v == 1 && r(VMCS_VM_INSTRUCTION_ERROR) == VMX_ERR_VMLAUNCH_NONCLEAR)
        v = vmenter_vmresume(&regs);
    return v == 0 ? (uint32_t)r(VMCS_EXIT_REASON) : v == 1 ? 1000 + (uint32_t)r(VMCS_VM_INSTRUCTION_ERROR) : 2000;
}
static void step_over(void)
{
    w(VMCS_GUEST_RIP, r(VMCS_GUEST_RIP) + r(VMCS_EXIT_INSTRUCTION_LENGTH));
}

static const struct {
    char area;
    const char *id;
} rules[] = {
#define CTL                            'c'
#define HOST                           'h'
#define GUEST                          'g'
#define LOAD                           'l'
#define VMX_CHECK(area, name, id, ...) {area, id},
#define VMX_CHECKS(area, groups)
#define VMX_CHECKS_END
#include "src/arch/vmx_check.def"
#undef VMX_CHECK
#undef VMX_CHECKS
#undef VMX_CHECKS_END
#undef CTL
#undef HOST
#undef GUEST
#undef LOAD
};

static bool offered(uint32_t field, char how, uint64_t value)
{
    uint64_t may = field == VMCS_PIN_CONTROLS     ? pin_may
                   : field == VMCS_PROC_CONTROLS  ? proc_may
                   : field == VMCS_PROC2_CONTROLS ? proc2_may
                   : field == VMCS_PROC3_CONTROLS ? proc3_may
                   : field == VMCS_EXIT_CONTROLS  ? exit_may
                   : field == VMCS_ENTRY_CONTROLS ? entry_may
                                                  : ~0ull;
    return how == '~' || (how == '=' && field != VMCS_PROC3_CONTROLS) || !(value & ~may);
}

/* --- the rules, asked in advance: src/vmx/check.c is linked into this image ----------------------------------- */

static bool read_field(void *opaque, uint32_t encoding, uint64_t *value)
{
    size_t v = 0;
    bool ok = __vmx_vmread(encoding, &v) == 0;
    *value = v;
    return ok;
}
static bool read_memory(void *opaque, uint64_t address, void *to, size_t bytes)
{
    if (address + bytes > BIT(30))
        return false;
    copy(to, (const void *)(unsigned long)address, bytes);
    return true;
}
static uint64_t read_msr(void *opaque, uint32_t msr)
{
    return rdmsr(msr);
}
static void read_cpuid(void *opaque, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    ASM("cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3]) : "a"(leaf), "c"(subleaf));
}

static struct vmenter_vmx_caps check_caps;
static const struct vmenter_vmx_host check_host = {.ia32e_mode = VMENTER_YES,
                                                   .smm = VMENTER_NO,
                                                   .has_vmcs_pointer = true,
                                                   .vmcs_pointer = RULES_VMCS,
                                                   .read_memory = read_memory};
static struct vmenter_vmx_finding findings[4];

static size_t ask(void)
{
    static struct vmenter_vmcs image;
    vmenter_vmcs_read(&image, read_field, NULL);
    return vmenter_vmx_check(&image, &check_caps, &check_host, findings, sizeof findings / sizeof *findings);
}
static bool same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

/* Each rule of VM entries, broken alone. */
static void entry_rules(void)
{
    vmenter_vmx_caps_read(&check_caps, read_msr, read_cpuid, NULL);
    for (unsigned mode = RULES_REAL; mode <= RULES_LONG; mode++) {
        good(mode);
        check("vmenter_vmx_check() of a good VMCS", ask() == 0);
    }
    for (unsigned i = 0; i < sizeof breakings / sizeof *breakings; i++) {
        const struct breaking *k = &breakings[i];
        const char *id = rules[k->row].id;
        bool can = !k->outside_ia32e && !rules_of_feature(k->row);
        good(k->mode);
        bool own = k->row == VMX_CHECK_PIN_RESERVED || k->row == VMX_CHECK_PROC_RESERVED ||
                   k->row == VMX_CHECK_PROC2_RESERVED || k->row == VMX_CHECK_PROC3_RESERVED;
        for (unsigned n = 0; n < 6 && k->c[n].how; n++) {
            if (bochs && k->c[n].field == VMCS_ENTRY_INTERRUPTION_INFO &&
                VMX_INTR_TYPE(k->c[n].value) == VMX_EVENT_OTHER)
                can = false; /* it panics */
            uint64_t old = r(k->c[n].field);
            can &= own || offered(k->c[n].field, k->c[n].how, k->c[n].value);
            can &= !w(k->c[n].field, k->c[n].how == '='   ? k->c[n].value
                                     : k->c[n].how == '|' ? old | k->c[n].value
                                                          : old & ~k->c[n].value);
        }
        /* HOST_RIP is vmenter_vmlaunch()'s own. */
        if (k->row == VMX_CHECK_PROC3_RESERVED || k->row == VMX_CHECK_HOST_SIZE_RIP64 ||
            (k->row == VMX_CHECK_INJECT_DELIVER_ERROR && !free_guest))
            can = false;
        if (!can) {
            skip(id, "not on this model");
            continue;
        }
        uint32_t want = rules[k->row].area == 'c' ? 1007 : rules[k->row].area == 'h' ? 1008 : 0x80000021;
        size_t broken = ask();
        uint64_t qualification = 99;
        uint32_t outcome = vmenter_vmx_outcome(findings, broken, &qualification);
        if (broken != 1 || !same(findings[0].id, id)) {
            char text[300];
            for (size_t n = 0; n < broken && n < 4; n++) {
                vmenter_vmx_finding_text(&findings[n], text, sizeof text);
                rt_printf("# %s\n", text);
            }
        }
        check_eq(id, enter(), want);
        check("... as vmenter_vmx_check() said", broken >= 1 && same(findings[0].id, id) &&
                                                     outcome == (want < 2000 ? want - 1000 : want) &&
                                                     (want < 2000 || qualification == r(VMCS_EXIT_QUALIFICATION)));
        if (rules[k->row].area == 'g')
            check_eq("... qualification", r(VMCS_EXIT_QUALIFICATION),
                     k->row == VMX_CHECK_PDPTE || k->row == VMX_CHECK_PDPTE_MEMORY          ? 2
                     : k->row >= VMX_CHECK_LINK_ADDRESS && k->row <= VMX_CHECK_LINK_CURRENT ? 4
                                                                                            : 0);
    }
}

static void modes(void)
{
    static const enum rules_mode all[] = {RULES_REAL, RULES_PROT32, RULES_PAGED32, RULES_V86, RULES_LONG};
    static const char *const names[] = {"real mode", "protected mode", "32-bit paging", "virtual-8086 mode",
                                        "64-bit mode"};
    for (unsigned i = 0; i < 5; i++) {
        good(all[i]);
        uint8_t *p = all[i] == RULES_REAL || all[i] == RULES_V86 ? low : code;
        copy(p, "\x0f\xa2\xf4", 3); /* cpuid; hlt */
        check_eq(names[i], enter(), VMX_REASON_CPUID);
        check_eq("... length", r(VMCS_EXIT_INSTRUCTION_LENGTH), 2);
        check_eq("... interruption information", r(VMCS_EXIT_INTERRUPTION_INFO) >> 31, 0);
        check_eq("... IDT-vectoring information", r(VMCS_IDT_VECTORING_INFO) >> 31, 0);
        step_over();
        w(VMCS_EXCEPTION_BITMAP, BIT(GP));
        check_eq("... HLT", enter(), all[i] == RULES_V86 ? VMX_REASON_EXCEPTION_OR_NMI : VMX_REASON_HLT);
        check_eq("... VMLAUNCH of a launched VMCS", vmenter_vmlaunch(&regs), 1);
        check_eq("... error", r(VMCS_VM_INSTRUCTION_ERROR), VMX_ERR_VMLAUNCH_NONCLEAR);
    }
}

/* Instructions that exit: reason, qualification, length, information (undefined bits masked). */
static void exits(void)
{
    enum { RCX = 1, RBX = 3, RSP = 4, RBP = 5, RSI = 6, RDI = 7, R8 = 8, R11 = 11, DS = 3, SEGSS = 2, FS = 4 };
    static const struct {
        const char *name;
        uint8_t code[10];
        uint32_t proc, proc2, reason;
        uint64_t qualification;
        uint32_t len, info, mask;
    } rows[] = {
        {"MOV DR7, RBX", {0x0f, 0x23, 0xfb}, VMX_PROC_MOV_DR_EXITING, 0, VMX_REASON_MOV_DR, 0x307, 3, 0, 0},
        {"MOV R8, DR6", {0x41, 0x0f, 0x21, 0xf0}, VMX_PROC_MOV_DR_EXITING, 0, VMX_REASON_MOV_DR, 0x816, 4, 0, 0},
        {"RDTSC", {0x0f, 0x31}, VMX_PROC_RDTSC_EXITING, 0, VMX_REASON_RDTSC, 0, 2, 0, 0},
        {"RDTSCP", {0x0f, 0x01, 0xf9}, VMX_PROC_RDTSC_EXITING, VMX_PROC2_ENABLE_RDTSCP, VMX_REASON_RDTSCP, 0, 3, 0, 0},
        {"RDPMC", {0x0f, 0x33}, VMX_PROC_RDPMC_EXITING, 0, VMX_REASON_RDPMC, 0, 2, 0, 0},
        {"INVLPG",
         {0x0f, 0x01, 0x3c, 0x25, 0x00, 0x50, 0x34, 0x12},
         VMX_PROC_INVLPG_EXITING,
         0,
         VMX_REASON_INVLPG,
         0x12345000,
         8,
         0,
         0},
        {"WBINVD", {0x0f, 0x09}, 0, VMX_PROC2_WBINVD_EXITING, VMX_REASON_WBINVD, 0, 2, 0, 0},
        {"INVD", {0x0f, 0x08}, 0, 0, VMX_REASON_INVD, 0, 2, 0, 0},
        {"PAUSE", {0xf3, 0x90}, VMX_PROC_PAUSE_EXITING, 0, VMX_REASON_PAUSE, 0, 2, 0, 0},
        {"XSETBV", {0x0f, 0x01, 0xd1}, 0, 0, VMX_REASON_XSETBV, 0, 3, 0, 0},
        {"VMCALL", {0x0f, 0x01, 0xc1}, 0, 0, VMX_REASON_VMCALL, 0, 3, 0, 0},
        {"VMLAUNCH", {0x0f, 0x01, 0xc2}, 0, 0, VMX_REASON_VMLAUNCH, 0, 3, 0, 0},
        {"VMRESUME", {0x0f, 0x01, 0xc3}, 0, 0, VMX_REASON_VMRESUME, 0, 3, 0, 0},
        {"VMXOFF", {0x0f, 0x01, 0xc4}, 0, 0, VMX_REASON_VMXOFF, 0, 3, 0, 0},
        {"SGDT [RBX+RCX*4+0x11]",
         {0x0f, 0x01, 0x44, 0x8b, 0x11},
         0,
         VMX_PROC2_DESCRIPTOR_TABLE_EXITING,
         VMX_REASON_GDTR_OR_IDTR_ACCESS,
         0x11,
         5,
         2 | 2 << 7 | DS << 15 | RCX << 18 | RBX << 23,
         0x3fffc783},
        {"LLDT [FS:0x22]",
         {0x64, 0x0f, 0x00, 0x14, 0x25, 0x22, 0, 0, 0},
         0,
         VMX_PROC2_DESCRIPTOR_TABLE_EXITING,
         VMX_REASON_LDTR_OR_TR_ACCESS,
         0x22,
         9,
         2 << 7 | FS << 15 | 1 << 22 | 1 << 27 | 2 << 28,
         0x38438780},
        {"STR ECX",
         {0x0f, 0x00, 0xc9},
         0,
         VMX_PROC2_DESCRIPTOR_TABLE_EXITING,
         VMX_REASON_LDTR_OR_TR_ACCESS,
         0,
         3,
         1 << 10 | RCX << 3 | 1 << 28,
         0x30000478},
        {"RDRAND R11",
         {0x49, 0x0f, 0xc7, 0xf3},
         0,
         VMX_PROC2_RDRAND_EXITING,
         VMX_REASON_RDRAND,
         0,
         4,
         R11 << 3 | 2 << 11,
         0x1878},
        {"RDSEED EDI",
         {0x0f, 0xc7, 0xff},
         0,
         VMX_PROC2_RDSEED_EXITING,
         VMX_REASON_RDSEED,
         0,
         3,
         RDI << 3 | 1 << 11,
         0x1878},
        {"INVPCID RSI, [RSP+8]",
         {0x66, 0x0f, 0x38, 0x82, 0x74, 0x24, 0x08},
         VMX_PROC_INVLPG_EXITING,
         VMX_PROC2_ENABLE_INVPCID,
         VMX_REASON_INVPCID,
         8,
         7,
         2 << 7 | SEGSS << 15 | 1 << 22 | RSP << 23 | RSI << 28,
         0xffc38780},
        {"VMPTRLD [RAX]", {0x0f, 0xc7, 0x30}, 0, 0, VMX_REASON_VMPTRLD, 0, 3, 2 << 7 | DS << 15 | 1 << 22, 0x0fc38780},
        {"VMREAD [RDX], RCX",
         {0x0f, 0x78, 0x0a},
         0,
         0,
         VMX_REASON_VMREAD,
         0,
         3,
         2 << 7 | DS << 15 | 1 << 22 | 2 << 23 | RCX << 28,
         0xffc38780},
        {"VMREAD RDX, RCX",
         {0x0f, 0x78, 0xca},
         0,
         0,
         VMX_REASON_VMREAD,
         0,
         3,
         1 << 10 | 2 << 3 | RCX << 28,
         0xf0000478},
        {"VMWRITE RDI, R8",
         {0x41, 0x0f, 0x79, 0xf8},
         0,
         0,
         VMX_REASON_VMWRITE,
         0,
         4,
         1 << 10 | R8 << 3 | (uint32_t)RDI << 28,
         0xf0000478},
        {"INVEPT RAX, [RBP-8]",
         {0x66, 0x0f, 0x38, 0x80, 0x45, 0xf8},
         0,
         0,
         VMX_REASON_INVEPT,
         ~7ull,
         6,
         2 << 7 | SEGSS << 15 | 1 << 22 | RBP << 23,
         0xffc38780},
        {"VMXON [RBX]",
         {0xf3, 0x0f, 0xc7, 0x33},
         0,
         0,
         VMX_REASON_VMXON,
         0,
         4,
         2 << 7 | DS << 15 | 1 << 22 | RBX << 23,
         0x0fc38780},
        {"VMCLEAR [RCX]",
         {0x66, 0x0f, 0xc7, 0x31},
         0,
         0,
         VMX_REASON_VMCLEAR,
         0,
         4,
         2 << 7 | DS << 15 | 1 << 22 | RCX << 23,
         0x0fc38780},
        {"IN AL, 0x60",
         {0xe4, 0x60},
         VMX_PROC_UNCONDITIONAL_IO_EXITING,
         0,
         VMX_REASON_IO_INSTRUCTION,
         0x600048,
         2,
         0,
         0},
        {"REP OUTSB",
         {0xf3, 0x6e},
         VMX_PROC_UNCONDITIONAL_IO_EXITING,
         0,
         VMX_REASON_IO_INSTRUCTION,
         0x3f80030,
         2,
         2 << 7 | DS << 15,
         0x38380},
        {"INSD", {0x6d}, VMX_PROC_UNCONDITIONAL_IO_EXITING, 0, VMX_REASON_IO_INSTRUCTION, 0x3f8001b, 1, 2 << 7, 0x380},
        {"MOV CR3, RBX",
         {0x0f, 0x22, 0xdb},
         VMX_PROC_CR3_LOAD_EXITING,
         0,
         VMX_REASON_CONTROL_REGISTER_ACCESS,
         0x303,
         3,
         0,
         0},
        {"MOV R11, CR3",
         {0x41, 0x0f, 0x20, 0xdb},
         VMX_PROC_CR3_STORE_EXITING,
         0,
         VMX_REASON_CONTROL_REGISTER_ACCESS,
         0xb13,
         4,
         0,
         0},
        {"MOV CR8, RBX",
         {0x44, 0x0f, 0x22, 0xc3},
         VMX_PROC_CR8_LOAD_EXITING,
         0,
         VMX_REASON_CONTROL_REGISTER_ACCESS,
         0x308,
         4,
         0,
         0},
        {"RDMSR", {0x0f, 0x32}, 0, 0, VMX_REASON_RDMSR, 0, 2, 0, 0},
        {"WRMSR", {0x0f, 0x30}, 0, 0, VMX_REASON_WRMSR, 0, 2, 0, 0},
    };
    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
        good(RULES_LONG);
        copy(code, rows[i].code, sizeof rows[i].code);
        set(VMCS_PROC_CONTROLS, rows[i].proc);
        set(VMCS_PROC2_CONTROLS, rows[i].proc2);
        set(VMCS_GUEST_CR4, CR4_OSXSAVE);
        for (unsigned g = 0; g < 16; g++)
            regs.reg[g] = A(data);
        regs.rdx = (A(data) & ~0xffffull) | 0x3f8;
        if ((rows[i].proc2 & ~proc2_may) || (rows[i].proc & ~proc_may)) {
            skip(rows[i].name, "control not offered");
            continue;
        }
        check_eq(rows[i].name, enter(), rows[i].reason);
        check_eq("... qualification", r(VMCS_EXIT_QUALIFICATION), rows[i].qualification);
        check_eq("... length", r(VMCS_EXIT_INSTRUCTION_LENGTH), rows[i].len);
        if (rows[i].mask)
            check_eq("... instruction information", r(VMCS_EXIT_INSTRUCTION_INFO) & rows[i].mask,
                     rows[i].info & rows[i].mask);
        check_eq("... RIP", r(VMCS_GUEST_RIP), A(code));
    }
}

static void cr_masks(void)
{
    good(RULES_LONG);
    /* mov rax, cr0; mov cr0, rax; mov rbx, cr4; clts; hlt */
    CODE(0x0f, 0x20, 0xc0, 0x0f, 0x22, 0xc0, 0x0f, 0x20, 0xe3, 0x0f, 0x06, 0xf4);
    w(VMCS_CR0_GUEST_HOST_MASK, CR0_NE | CR0_TS);
    w(VMCS_CR0_READ_SHADOW, CR0_TS);
    w(VMCS_CR4_GUEST_HOST_MASK, CR4_VMXE);
    uint64_t cr0 = r(VMCS_GUEST_CR0);
    check_eq("CLTS, host-owned and set in the shadow", enter(), VMX_REASON_CONTROL_REGISTER_ACCESS);
    check_eq("... qualification", r(VMCS_EXIT_QUALIFICATION), 0x20);
    check_eq("MOV from CR0 reads the shadow", (regs.rax ^ cr0) & 0x2f, CR0_NE | CR0_TS);
    check_eq("MOV from CR4 reads the shadow", regs.rbx & CR4_VMXE, 0);
    check_eq("MOV to CR0 keeps host-owned bits", r(VMCS_GUEST_CR0) & 0x2f, cr0 & 0x2f);
    w(VMCS_CR0_READ_SHADOW, 0);
    check_eq("CLTS, clear in the shadow", enter(), VMX_REASON_HLT);
    /* lmsw ax; lmsw [abs]; smsw ebx; hlt */
    static const uint8_t lmsw[] = {0x0f, 0x01, 0xf0, 0x0f, 0x01, 0x37, 0x0f, 0x01, 0xe3, 0xf4};
    copy(code, lmsw, sizeof lmsw);
    w(VMCS_GUEST_RIP, A(code));
    w(VMCS_CR0_GUEST_HOST_MASK, 0xf);
    w(VMCS_CR0_READ_SHADOW, CR0_PE);
    regs.rax = 0xb;
    regs.rdi = A(data);
    *(uint16_t *)data = 0x1207;
    check_eq("LMSW, register", enter(), VMX_REASON_CONTROL_REGISTER_ACCESS);
    check_eq("... qualification", r(VMCS_EXIT_QUALIFICATION) & 0xffff007f, 0xb0030);
    step_over();
    check_eq("LMSW, memory", enter(), VMX_REASON_CONTROL_REGISTER_ACCESS);
    check_eq("... qualification", r(VMCS_EXIT_QUALIFICATION) & 0xffff007f, 0x12070070);
    check_eq("... guest-linear address", r(VMCS_GUEST_LINEAR_ADDRESS), A(data));
    step_over();
    w(VMCS_CR0_READ_SHADOW, 0xd);
    check_eq("SMSW", enter(), VMX_REASON_HLT);
    check_eq("... reads the shadow", regs.rbx & 0xf, 0xd);
    w(VMCS_CR3_TARGET_COUNT, 1);
    w(VMCS_CR3_TARGET_VALUE_0, A(g_pml4));
    set(VMCS_PROC_CONTROLS, VMX_PROC_CR3_LOAD_EXITING);
    CODE(0x0f, 0x22, 0xdb, 0xf4);
    w(VMCS_GUEST_RIP, A(code));
    regs.rbx = A(g_pml4);
    check_eq("MOV to CR3 of a CR3-target value", enter(), VMX_REASON_HLT);
}

static void bitmaps(void)
{
    good(RULES_LONG);
    set(VMCS_PROC_CONTROLS, VMX_PROC_USE_IO_BITMAPS | VMX_PROC_USE_MSR_BITMAPS);
    w(VMCS_IO_BITMAP_A, A(io_a));
    w(VMCS_IO_BITMAP_B, A(io_b));
    w(VMCS_MSR_BITMAPS, A(msr_bitmap));
    /* in al, 0x64; in al, 0x61; in ax, 0x60; in ax, dx (0xffff) */
    CODE(0xe4, 0x64, 0xe4, 0x61, 0x66, 0xe5, 0x60, 0x66, 0xed, 0xf4);
    io_a[0x61 / 8] = 2;
    regs.rdx = 0xffff;
    check_eq("I/O bitmap: the port whose bit is set", enter(), VMX_REASON_IO_INSTRUCTION);
    check_eq("... qualification", r(VMCS_EXIT_QUALIFICATION), 0x610048);
    step_over();
    check_eq("I/O bitmap: a word over it", enter(), VMX_REASON_IO_INSTRUCTION);
    check_eq("... qualification", r(VMCS_EXIT_QUALIFICATION), 0x600049);
    step_over();
    check_eq("I/O bitmap: a word at 0xffff", enter(), VMX_REASON_IO_INSTRUCTION);
    check_eq("... qualification", r(VMCS_EXIT_QUALIFICATION), 0xffff0009);
    step_over();
    check_eq("... HLT", enter(), VMX_REASON_HLT);
    /* mov ecx, 0x174; rdmsr; wrmsr; mov ecx, 0xc0000081; rdmsr; mov ecx, 0x40000000; rdmsr */
    CODE(0xb9, 0x74, 0x01, 0x00, 0x00, 0x0f, 0x32, 0x0f, 0x30, 0xb9, 0x81, 0x00, 0x00, 0xc0, 0x0f, 0x32, 0xb9, 0x00,
         0x00, 0x00, 0x40, 0x0f, 0x32);
    msr_bitmap[0x800 + 0x174 / 8] = 0x10;
    msr_bitmap[0x400 + 0x81 / 8] = 2;
    w(VMCS_GUEST_SYSENTER_CS, 0x77);
    w(VMCS_GUEST_RIP, A(code));
    check_eq("MSR bitmap: write", enter(), VMX_REASON_WRMSR);
    check_eq("... the read did not exit", regs.rax, 0x77);
    step_over();
    check_eq("MSR bitmap: read, high", enter(), VMX_REASON_RDMSR);
    check_eq("... ECX", regs.rcx, 0xc0000081);
    step_over();
    check_eq("MSR bitmap: in neither range", enter(), VMX_REASON_RDMSR);
    check_eq("... ECX", regs.rcx, 0x40000000);
}

static void exceptions(void)
{
    good(RULES_LONG);
    CODE(0xa2, 0, 0, 0, 0, 0, 4, 0, 0, 0xf4); /* mov [0x40000000000], al */
    w(VMCS_EXCEPTION_BITMAP, BIT(PF));
    check_eq("#PF", enter(), VMX_REASON_EXCEPTION_OR_NMI);
    check_eq("... information", r(VMCS_EXIT_INTERRUPTION_INFO), 0x80000b0e);
    check_eq("... error code", r(VMCS_EXIT_INTERRUPTION_ERROR_CODE), 2);
    check_eq("... qualification", r(VMCS_EXIT_QUALIFICATION), 0x40000000000);
    check("... RF", r(VMCS_GUEST_RFLAGS) & FLAG_RF);
    off(VMCS_GUEST_RFLAGS, FLAG_RF);
    w(VMCS_PAGE_FAULT_ERROR_CODE_MASK, 2);
    check_eq("#PF, mask and match", enter(), VMX_REASON_HLT);
    check_eq("... in the handler", r(VMCS_GUEST_RIP), A(handlers) + 16 * PF);
    check_eq("... CR2", rdcr2(), 0x40000000000);
    off(VMCS_EXCEPTION_BITMAP, BIT(PF));
    w(VMCS_GUEST_RIP, A(code));
    check_eq("#PF, bitmap bit 0 turns it round", enter(), VMX_REASON_EXCEPTION_OR_NMI);
    w(VMCS_PAGE_FAULT_ERROR_CODE_MASK, 0);
    off(VMCS_GUEST_RFLAGS, FLAG_RF);
    g_idt[2 * PF] = 0;
    w(VMCS_EXCEPTION_BITMAP, BIT(GP));
    check_eq("#GP during the delivery of #PF", enter(), VMX_REASON_EXCEPTION_OR_NMI);
    check_eq("... information", r(VMCS_EXIT_INTERRUPTION_INFO), 0x80000b0d);
    check_eq("... error code", r(VMCS_EXIT_INTERRUPTION_ERROR_CODE), PF * 8 + 3);
    check_eq("... IDT-vectoring information", r(VMCS_IDT_VECTORING_INFO), 0x80000b0e);
    check_eq("... IDT-vectoring error code", r(VMCS_IDT_VECTORING_ERROR_CODE), 2);
    check_eq("... RIP", r(VMCS_GUEST_RIP), A(code));
    w(VMCS_EXCEPTION_BITMAP, BIT(DF));
    check_eq("#DF", enter(), VMX_REASON_EXCEPTION_OR_NMI);
    check_eq("... information", r(VMCS_EXIT_INTERRUPTION_INFO), 0x80000b08);
    check_eq("... IDT-vectoring valid", r(VMCS_IDT_VECTORING_INFO) >> 31, 0);
    w(VMCS_EXCEPTION_BITMAP, 0);
    g_idt[2 * DF] = 0;
    check_eq("triple fault", enter(), VMX_REASON_TRIPLE_FAULT);

    good(RULES_LONG);
    CODE(0xcc, 0xcd, 0x21, 0xf4);
    w(VMCS_EXCEPTION_BITMAP, 0xffffffff);
    check_eq("INT3", enter(), VMX_REASON_EXCEPTION_OR_NMI);
    check_eq("... information", r(VMCS_EXIT_INTERRUPTION_INFO), 0x80000603);
    check_eq("... length", r(VMCS_EXIT_INSTRUCTION_LENGTH), 1);
    step_over();
    check_eq("INT n is no exception", enter(), VMX_REASON_HLT);
    check_eq("... in the handler", r(VMCS_GUEST_RIP), A(handlers) + 16 * 0x21);

    good(RULES_LONG);
    CODE(0x90, 0x90, 0xf4);
    w(VMCS_EXCEPTION_BITMAP, BIT(DB));
    set(VMCS_GUEST_RFLAGS, FLAG_TF);
    check_eq("single step", enter(), VMX_REASON_EXCEPTION_OR_NMI);
    check_eq("... information", r(VMCS_EXIT_INTERRUPTION_INFO), 0x80000301);
    check_eq("... qualification", r(VMCS_EXIT_QUALIFICATION), BIT(14));
    check_eq("... RIP", r(VMCS_GUEST_RIP), A(code) + 1);
}

static void injection(void)
{
    good(RULES_LONG);
    CODE(0x90, 0x90, 0xf4);
    w(VMCS_ENTRY_INTERRUPTION_INFO, 0x80000b0e);
    w(VMCS_ENTRY_EXCEPTION_ERROR_CODE, 0x1234);
    wrcr2(0x77);
    check_eq("inject #PF", enter(), VMX_REASON_HLT);
    check_eq("... in the handler", r(VMCS_GUEST_RIP), A(handlers) + 16 * PF);
    check_eq("... stack", r(VMCS_GUEST_RSP), A(stack) + 4096 - 48);
    check_eq("... valid bit cleared", r(VMCS_ENTRY_INTERRUPTION_INFO) >> 31, 0);
    check_eq("... CR2 untouched", rdcr2(), 0x77);
    check_eq("... error code pushed", *(uint64_t *)(stack + 4096 - 48), 0x1234);
    check_eq("... RIP pushed", *(uint64_t *)(stack + 4096 - 40), A(code));
    w(VMCS_GUEST_RIP, A(code));
    w(VMCS_GUEST_RSP, A(stack) + 4096);
    w(VMCS_ENTRY_INTERRUPTION_INFO, 0x80000421);
    w(VMCS_ENTRY_INSTRUCTION_LENGTH, 2);
    check_eq("inject a software interrupt", enter(), VMX_REASON_HLT);
    check_eq("... in the handler", r(VMCS_GUEST_RIP), A(handlers) + 16 * 0x21);
    check_eq("... RIP behind the instruction", *(uint64_t *)(stack + 4096 - 40), A(code) + 2);
    w(VMCS_GUEST_RIP, A(code));
    w(VMCS_GUEST_RSP, A(stack) + 4096);
    w(VMCS_GUEST_IDTR_LIMIT, 0xff);
    w(VMCS_EXCEPTION_BITMAP, BIT(GP));
    w(VMCS_ENTRY_INTERRUPTION_INFO, 0x80000421);
    check_eq("#GP during injection", enter(), VMX_REASON_EXCEPTION_OR_NMI);
    check_eq("... information", r(VMCS_EXIT_INTERRUPTION_INFO), 0x80000b0d);
    check_eq("... error code", r(VMCS_EXIT_INTERRUPTION_ERROR_CODE), 0x21 * 8 + 2);
    check_eq("... IDT-vectoring information", r(VMCS_IDT_VECTORING_INFO), 0x80000421);
    check_eq("... length", r(VMCS_EXIT_INSTRUCTION_LENGTH), 2);
    check_eq("... RIP", r(VMCS_GUEST_RIP), A(code));
    good(RULES_LONG);
    code[0] = 0xf4;
    w(VMCS_GUEST_ACTIVITY_STATE, VMX_ACTIVITY_HLT);
    set(VMCS_GUEST_RFLAGS, FLAG_IF);
    w(VMCS_ENTRY_INTERRUPTION_INFO, 0x80000020);
    check_eq("inject an interrupt in HLT", enter(), VMX_REASON_HLT);
    check_eq("... in the handler", r(VMCS_GUEST_RIP), A(handlers) + 16 * 0x20);
    check_eq("... active", r(VMCS_GUEST_ACTIVITY_STATE), 0);
    check_eq("... IF is clear", r(VMCS_GUEST_RFLAGS) & FLAG_IF, 0);
    check_eq("... IF pushed", *(uint64_t *)(stack + 4096 - 24) & FLAG_IF, FLAG_IF);
}

static void windows(void)
{
    good(RULES_LONG);
    CODE(0x90, 0xfb, 0x90, 0x90, 0xf4);
    set(VMCS_PROC_CONTROLS, VMX_PROC_INTERRUPT_WINDOW_EXITING);
    check_eq("interrupt window after STI", enter(), VMX_REASON_INTERRUPT_WINDOW);
    check_eq("... behind the shadow", r(VMCS_GUEST_RIP), A(code) + 3);
    check_eq("interrupt window at once", enter(), VMX_REASON_INTERRUPT_WINDOW);
    check_eq("... RIP", r(VMCS_GUEST_RIP), A(code) + 3);
    w(VMCS_GUEST_INTERRUPTIBILITY_STATE, VMX_BLOCKING_BY_STI);
    check_eq("interrupt window under blocking by STI", enter(), VMX_REASON_INTERRUPT_WINDOW);
    check_eq("... RIP", r(VMCS_GUEST_RIP), A(code) + 4);
    good(RULES_LONG);
    CODE(0x90, 0xf4, 0x48, 0xcf);
    set(VMCS_PIN_CONTROLS, VMX_PIN_NMI_EXITING | VMX_PIN_VIRTUAL_NMIS);
    set(VMCS_PROC_CONTROLS, VMX_PROC_NMI_WINDOW_EXITING);
    check_eq("NMI window", enter(), VMX_REASON_NMI_WINDOW);
    check_eq("... RIP", r(VMCS_GUEST_RIP), A(code));
    w(VMCS_ENTRY_INTERRUPTION_INFO, 0x80000202);
    check_eq("an injected NMI blocks it", enter(), VMX_REASON_HLT);
    check_eq("... RIP", r(VMCS_GUEST_RIP), A(handlers) + 32);
    check_eq("... interruptibility", r(VMCS_GUEST_INTERRUPTIBILITY_STATE), VMX_BLOCKING_BY_NMI);
    w(VMCS_GUEST_RIP, A(code) + 2);
    check_eq("IRET unblocks it", enter(), VMX_REASON_NMI_WINDOW);
    check_eq("... interruptibility", r(VMCS_GUEST_INTERRUPTIBILITY_STATE), 0);
    good(RULES_LONG);
    CODE(0x90, 0x90, 0xf4);
    if (proc_may & VMX_PROC_MONITOR_TRAP_FLAG) {
        set(VMCS_PROC_CONTROLS, VMX_PROC_MONITOR_TRAP_FLAG);
        check_eq("monitor trap flag", enter(), VMX_REASON_MONITOR_TRAP_FLAG);
        check_eq("... RIP", r(VMCS_GUEST_RIP), A(code) + 1);
        check_eq("monitor trap flag again", enter(), VMX_REASON_MONITOR_TRAP_FLAG);
        check_eq("... RIP", r(VMCS_GUEST_RIP), A(code) + 2);
        w(VMCS_ENTRY_INTERRUPTION_INFO, 0x80000306);
        check_eq("monitor trap flag behind an injection", enter(), VMX_REASON_MONITOR_TRAP_FLAG);
        check_eq("... RIP", r(VMCS_GUEST_RIP), A(handlers) + 16 * UD);
    }
    good(RULES_LONG);
    CODE(0xeb, 0xfe);
    if (pin_may & VMX_PIN_ACTIVATE_PREEMPTION_TIMER) {
        set(VMCS_PIN_CONTROLS, VMX_PIN_ACTIVATE_PREEMPTION_TIMER);
        w(VMCS_PREEMPTION_TIMER_VALUE, 100);
        check_eq("preemption timer", enter(), VMX_REASON_PREEMPTION_TIMER_EXPIRED);
        w(VMCS_PREEMPTION_TIMER_VALUE, 0);
        w(VMCS_GUEST_ACTIVITY_STATE, VMX_ACTIVITY_HLT);
        check_eq("preemption timer in HLT", enter(), VMX_REASON_PREEMPTION_TIMER_EXPIRED);
        check_eq("... activity state", r(VMCS_GUEST_ACTIVITY_STATE), VMX_ACTIVITY_HLT);
    }
}

static uint8_t *page(uint64_t pa)
{
    return (uint8_t *)pa;
}

static void ept(void)
{
    if (!(proc2_may & VMX_PROC2_ENABLE_EPT))
        return;
    struct vmx_invept_descriptor d = {A(ept_pml4) | VMX_EPTP_WALK_4 | VMX_EPTP_WB, 0};
    volatile uint64_t *e = &ept_pd[0][32]; /* 0x4000000 */
    good(RULES_LONG);
    /* mov [0x4000008], eax; mov eax, [0x4000000]; mov eax, 0x4000000; jmp rax */
    CODE(0x89, 0x04, 0x25, 0x08, 0x00, 0x00, 0x04, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x00, 0x04, 0xb8, 0, 0, 0, 4, 0xff,
         0xe0);
    *e = 0;
    __vmx_invept(2, &d);
    check_eq("EPT violation, write", enter(), VMX_REASON_EPT_VIOLATION);
    check_eq("... qualification", r(VMCS_EXIT_QUALIFICATION) & 0x1ff, 0x182);
    check_eq("... guest-physical address", r(VMCS_GUEST_PHYSICAL_ADDRESS), 0x4000008);
    check_eq("... guest-linear address", r(VMCS_GUEST_LINEAR_ADDRESS), 0x4000008);
    check_eq("... RIP", r(VMCS_GUEST_RIP), A(code));
    *e = 0x4000000 | VMX_EPT_LARGE | VMX_EPT_READ | VMX_EPT_MEMORY_TYPE(6);
    check_eq("EPT violation, write to a read-only page", enter(), VMX_REASON_EPT_VIOLATION);
    check_eq("... qualification", r(VMCS_EXIT_QUALIFICATION) & 0x1ff, 0x18a);
    w(VMCS_GUEST_RIP, A(code) + 7);
    check_eq("EPT violation, fetch", enter(), VMX_REASON_EPT_VIOLATION);
    check_eq("... qualification", r(VMCS_EXIT_QUALIFICATION) & 0x1ff, 0x18c);
    check_eq("... RIP", r(VMCS_GUEST_RIP), 0x4000000);
    *e = 0x4000000 | VMX_EPT_LARGE | VMX_EPT_WRITE | VMX_EPT_MEMORY_TYPE(6);
    __vmx_invept(1, &d);
    check_eq("EPT misconfiguration, write-only", enter(), VMX_REASON_EPT_MISCONFIGURATION);
    check_eq("... guest-physical address", r(VMCS_GUEST_PHYSICAL_ADDRESS), 0x4000000);
    *e = 0x4000000 | VMX_EPT_LARGE | 7 | VMX_EPT_MEMORY_TYPE(2);
    __vmx_invept(1, &d);
    check_eq("EPT misconfiguration, memory type", enter(), VMX_REASON_EPT_MISCONFIGURATION);
    page(0x4000000)[0] = page(0x4001000)[0] = 0xf4; /* for a processor that goes on */
    *e = 0x4000000 | BIT(12) | VMX_EPT_LARGE | 7 | VMX_EPT_MEMORY_TYPE(6);
    __vmx_invept(1, &d);
    check_eq("EPT misconfiguration, reserved bit of a large page", enter(), VMX_REASON_EPT_MISCONFIGURATION);
    *e = 0x4000000 | VMX_EPT_LARGE | 7 | VMX_EPT_MEMORY_TYPE(6);
    __vmx_invept(1, &d);
    check_eq("mapped", enter(), VMX_REASON_HLT);
    /* A guest page table that EPT does not map. */
    g_pml4[1] = 0x4000000 | 7;
    *e = 0;
    __vmx_invept(1, &d);
    CODE(0xa0, 0x10, 0, 0, 0, 0x80, 0, 0, 0, 0xf4); /* mov al, [0x8000000010] */
    w(VMCS_GUEST_RIP, A(code));
    check_eq("EPT violation on a paging structure", enter(), VMX_REASON_EPT_VIOLATION);
    check_eq("... qualification: linear address, not the final one", r(VMCS_EXIT_QUALIFICATION) & 0x180, 0x80);
    check_eq("... guest-physical address", r(VMCS_GUEST_PHYSICAL_ADDRESS), 0x4000000);
    check_eq("... guest-linear address", r(VMCS_GUEST_LINEAR_ADDRESS), 0x8000000010);
    g_pml4[1] = 0;
    *e = 0x4000000 | VMX_EPT_LARGE | 7 | VMX_EPT_MEMORY_TYPE(6);
    __vmx_invept(2, &d);
    if (ept_cap & VMX_EPT_CAP_ACCESSED_DIRTY) {
        good(RULES_LONG);
        w(VMCS_EPT_POINTER, d.eptp | VMX_EPTP_ACCESSED_DIRTY);
        CODE(0x8b, 0x04, 0x25, 0x00, 0x00, 0x00, 0x04, 0x0f, 0xa2, 0x89, 0x04, 0x25, 0x00, 0x00, 0x00, 0x04, 0xf4);
        check_eq("EPT accessed flag", enter(), VMX_REASON_CPUID);
        check_eq("... accessed, not dirty", *e & (VMX_EPT_ACCESSED | VMX_EPT_DIRTY), VMX_EPT_ACCESSED);
        step_over();
        check_eq("EPT dirty flag", enter(), VMX_REASON_HLT);
        check_eq("... both", *e & (VMX_EPT_ACCESSED | VMX_EPT_DIRTY), VMX_EPT_ACCESSED | VMX_EPT_DIRTY);
    }
    if (ept_cap & VMX_EPT_CAP_EXECUTE_ONLY) {
        good(RULES_LONG);
        __vmx_invept(2, &d);
        *e = 0x4000000 | VMX_EPT_LARGE | VMX_EPT_EXECUTE | VMX_EPT_MEMORY_TYPE(6);
        copy(page(0x4000000), "\x8a\x00\xf4", 3); /* mov al, [rax]; hlt */
        regs.rax = 0x4000000;
        w(VMCS_GUEST_RIP, 0x4000000);
        check_eq("execute-only page, read", enter(), VMX_REASON_EPT_VIOLATION);
        check_eq("... qualification", r(VMCS_EXIT_QUALIFICATION) & 0x1ff, 0x1a1);
        w(VMCS_GUEST_RIP, 0x4000002);
        check_eq("execute-only page, fetch", enter(), VMX_REASON_HLT);
        *e = 0x4000000 | VMX_EPT_LARGE | 7 | VMX_EPT_MEMORY_TYPE(6);
        __vmx_invept(2, &d);
    }
}

static void msr_areas(void)
{
    good(RULES_LONG);
    CODE(0x0f, 0xa2);
    msr_area[0] = (struct vmx_msr_entry){.index = 0xc0000081, .value = 0x1111};
    msr_area[1] = (struct vmx_msr_entry){.index = 0xc0000102, .value = 0x3333};
    msr_area[8] = (struct vmx_msr_entry){.index = 0xc0000081};
    msr_area[9] = (struct vmx_msr_entry){.index = 0xc0000102};
    msr_area[16] = (struct vmx_msr_entry){.index = 0xc0000081, .value = 0x9999};
    w(VMCS_ENTRY_MSR_LOAD_ADDRESS, A(msr_area));
    w(VMCS_ENTRY_MSR_LOAD_COUNT, 2);
    w(VMCS_EXIT_MSR_STORE_ADDRESS, A(msr_area + 8));
    w(VMCS_EXIT_MSR_STORE_COUNT, 2);
    w(VMCS_EXIT_MSR_LOAD_ADDRESS, A(msr_area + 16));
    w(VMCS_EXIT_MSR_LOAD_COUNT, 1);
    check_eq("MSR areas", enter(), VMX_REASON_CPUID);
    check_eq("... stored", ((volatile struct vmx_msr_entry *)msr_area)[8].value, 0x1111);
    check_eq("... stored", ((volatile struct vmx_msr_entry *)msr_area)[9].value, 0x3333);
    check_eq("... the host's loaded", rdmsr(0xc0000081), 0x9999);
    msr_area[1].index = 0xc0000100;
    check_eq("MSR load of FS base", enter(), 0x80000000 | VMX_REASON_ENTRY_FAILURE_MSR_LOADING);
    check_eq("... which", r(VMCS_EXIT_QUALIFICATION), 2);
    msr_area[0].reserved = 1;
    check_eq("MSR load with reserved bits", enter(), 0x80000000 | VMX_REASON_ENTRY_FAILURE_MSR_LOADING);
    check_eq("... which", r(VMCS_EXIT_QUALIFICATION), 1);
}

static void tasks(void)
{
    good(RULES_PROT32);
    g_gdt[7] = 0x0000890000000067 | (A(g_tss) & 0xffffff) << 16;
    CODE(0x9a, 0, 0, 0, 0, 0x38, 0, 0xf4);
    check_eq("task switch by CALL", enter(), VMX_REASON_TASK_SWITCH);
    check_eq("... qualification", r(VMCS_EXIT_QUALIFICATION), 0x38);
    check_eq("... length", r(VMCS_EXIT_INSTRUCTION_LENGTH), 7);
    CODE(0xea, 0, 0, 0, 0, 0x38, 0, 0xf4);
    check_eq("task switch by JMP", enter(), VMX_REASON_TASK_SWITCH);
    check_eq("... qualification", r(VMCS_EXIT_QUALIFICATION), 0x38 | 2ull << 30);
    g_idt[UD] = 0x0000850000380000;
    CODE(0x0f, 0x0b);
    check_eq("task switch by a task gate", enter(), VMX_REASON_TASK_SWITCH);
    check_eq("... qualification", r(VMCS_EXIT_QUALIFICATION), 0x38 | 3ull << 30);
    check_eq("... IDT-vectoring information", r(VMCS_IDT_VECTORING_INFO), 0x80000306);
}

/* VMXOFF between VMLAUNCH and VMRESUME; VMX instructions afterwards. */
static void end(void)
{
    unsigned long long pa = A(vmxon_region), a = A(vmcs_region);
    good(RULES_LONG);
    check_eq("a last guest", enter(), VMX_REASON_HLT);
    __vmx_vmclear(&a);
    check_eq("VMRESUME after VMCLEAR", (__vmx_vmptrld(&a), __vmx_vmresume()), 1);
    check_eq("... error", r(VMCS_VM_INSTRUCTION_ERROR), VMX_ERR_VMRESUME_NONLAUNCHED);
    __vmx_vmclear(&a);
    __vmx_off();
    expect_exc("VMREAD after VMXOFF", TRY(r(VMCS_GUEST_RIP)), UD, 0);
    check_eq("VMXON again", __vmx_on(&pa), 0);
    __vmx_off();
}

void image_main(void)
{
    if (!cpu_has(1, 2, 5)) {
        skip("VMX", "not there");
        return;
    }
    bochs = rt_on_bochs();
    capabilities();
    instructions();
    modes();
    entry_rules();
    exits();
    cr_masks();
    bitmaps();
    exceptions();
    injection();
    windows();
    ept();
    msr_areas();
    tasks();
    end();
}
