/* SPDX-License-Identifier: MIT
 *
 * svm64.c: SVM from a 64-bit host: guests in every mode under shadow and nested paging that exit for each kind of
 * intercept, event injection, virtual and physical interrupts, GIF, ASIDs, refused VMCBs. APM volume 2, chapter "Secure
 * Virtual Machine". The world switch is the native vmenter_vmrun().
 */
#include "rt.h"

#include <vmenter/enter.h>
#include <vmenter/svm.h>

const char image_name[] = IMAGE_NAME;
#define ASM(...) __asm__ volatile(__VA_ARGS__)
#define PAGE     __attribute__((aligned(4096)))

static PAGE struct vmcb vmcb, vmcb2, host_vmcb;
static PAGE uint8_t hsave[4096], iopm[SVM_IOPM_SIZE + 4096], msrpm[SVM_MSRPM_SIZE];
static PAGE uint64_t npt_pml4[512], npt_pdpt[512], npt_pd[4][512], npt_pt[512];
static PAGE uint64_t g_pml4[512], g_pdpt[512], g_pd[512], g_pt[512], g_pdpt_pae[512];
static PAGE uint32_t g_pd32[1024];
static PAGE uint8_t code[4096], handlers[4096], stack[8192], data[4096], other[4096], g_idt[4096], g_gdt[256];
/* Real mode: one segment that holds the IVT, the handlers, the code and the stack, below 1 MiB. */
static uint8_t *const low = (uint8_t *)0x20000;
static struct vmenter_regs regs;
static bool qemu, bochs, np;
static uint32_t features;

#define A(x) ((uint64_t)(unsigned long)(x))

enum gmode { REAL, PROT, PAGED32, PAE, LONG, MODES };
static const char *const mode_names[] = {"real", "prot", "paged32", "pae", "long"};
static enum gmode mode;
static bool nested;

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

static void tables(void)
{
    npt_pml4[0] = A(npt_pdpt) | 7;
    for (unsigned i = 0; i < 4; i++) {
        npt_pdpt[i] = A(npt_pd[i]) | 7;
        for (unsigned j = 0; j < 512; j++)
            npt_pd[i][j] = (uint64_t)i << 30 | (uint64_t)j << 21 | 0x87;
    }
    uint64_t base = A(code) & ~0x1fffffull; /* the image is small: one table covers the 2 MiB with `data` */
    base = A(data) & ~0x1fffffull;
    for (unsigned i = 0; i < 512; i++) {
        npt_pt[i] = base | i << 12 | 7;
        g_pt[i] = base | i << 12 | 7;
        g_pd[i] = (uint64_t)i << 21 | 0x87;
    }
    npt_pd[base >> 30][base >> 21 & 511] = A(npt_pt) | 7;
    g_pml4[0] = A(g_pdpt) | 7;
    g_pdpt[0] = A(g_pd) | 7;
    g_pdpt_pae[0] = A(g_pd) | 1;
    g_pd[base >> 21 & 511] = A(g_pt) | 7;
    for (unsigned i = 0; i < 256; i++)
        g_pd32[i] = i << 22 | 0x87;
}
static uint64_t *npte(const void *p)
{
    return &npt_pt[A(p) >> 12 & 511];
}
static uint64_t *gpte(const void *p)
{
    return &g_pt[A(p) >> 12 & 511];
}

static void seg(struct vmcb_seg *s, uint16_t sel, uint64_t base, uint32_t limit, uint16_t attrib)
{
    s->sel = sel;
    s->base = base;
    s->limit = limit;
    s->attrib = attrib;
}

static uint8_t *text(void)
{
    return mode == REAL ? low + 0x2000 : code;
}
static uint8_t *handler(unsigned v)
{
    return (mode == REAL ? low + 0x1000 : handlers) + 16 * v;
}

/* A guest in `mode`, nested or not, whose handlers are VMMCALL and whose code is these bytes. */
static void guest_n(const char *bytes, unsigned len)
{
    struct vmcb_save *a = &vmcb.save;
    tables();
    zero(&vmcb, sizeof vmcb);
    zero(iopm, sizeof iopm);
    zero(msrpm, sizeof msrpm);
    for (unsigned i = 0; i < 4096; i++)
        text()[i] = 0xf4;
    for (unsigned v = 0; v < 256; v++)
        copy(handler(v), "\x0f\x01\xd9", 3);
    copy(text(), bytes, len);
    for (unsigned i = 0; i < sizeof regs / 8; i++)
        regs.reg[i] = 0;
    vmcb_set_intercept(&vmcb, SVM_EXIT_VMRUN);
    vmcb_set_intercept(&vmcb, SVM_EXIT_VMMCALL);
    vmcb_set_intercept(&vmcb, SVM_EXIT_SHUTDOWN);
    vmcb_set_intercept(&vmcb, SVM_EXIT_HLT); /* what follows the code: an image that fails must not hang */
    vmcb.control.guest_asid = 1;
    vmcb.control.tlb_control = VMCB_TLB_FLUSH_ALL;
    vmcb.control.iopm_base_pa = A(iopm);
    vmcb.control.msrpm_base_pa = A(msrpm);
    if (nested) {
        vmcb.control.nested_ctl = VMCB_NP_ENABLE;
        vmcb.control.ncr3 = A(npt_pml4);
    }
    a->g_pat = 0x0007040600070406;
    a->efer = SVM_EFER_SVME;
    a->cr0 = 0x30; /* NE, ET */
    a->dr6 = 0xffff0ff0;
    a->dr7 = 0x400;
    a->rflags = 2;
    a->gdtr.base = A(g_gdt);
    a->gdtr.limit = 0x7f;
    if (mode == REAL) {
        uint32_t base = (uint32_t)A(low);
        seg(&a->cs, (uint16_t)(base >> 4), base, 0xffff, 0x9b);
        seg(&a->ss, (uint16_t)(base >> 4), base, 0xffff, 0x93);
        a->ds = a->es = a->ss;
        a->rip = 0x2000;
        a->rsp = 0xf000;
        a->idtr.base = base;
        a->idtr.limit = 0x3ff;
        for (unsigned v = 0; v < 256; v++)
            ((volatile uint32_t *)low)[v] = (base >> 4) << 16 | (0x1000 + 16 * v);
        return;
    }
    bool l = mode == LONG;
    seg(&a->cs, 8, 0, 0xffffffff, l ? 0xa9b : 0xc9b);
    seg(&a->ss, 16, 0, 0xffffffff, 0xc93);
    a->ds = a->es = a->ss;
    a->rip = A(code);
    a->rsp = A(stack + sizeof stack) - 256;
    a->cr0 |= 1;
    uint64_t *g = (uint64_t *)(void *)g_gdt;
    g[1] = l ? 0x00af9b000000ffff : 0x00cf9b000000ffff;
    g[2] = 0x00cf93000000ffff;
    a->idtr.base = A(g_idt);
    a->idtr.limit = l ? 0xfff : 0x7ff;
    for (unsigned v = 0; v < 256; v++) {
        uint32_t at = (uint32_t)A(handler(v));
        uint64_t gate = (at & 0xffff) | 8u << 16 | 0x8e0000000000ull | (uint64_t)(at >> 16) << 48;
        uint64_t *t = (uint64_t *)(void *)g_idt;
        if (l) {
            t[2 * v] = gate;
            t[2 * v + 1] = 0;
        } else {
            t[v] = gate;
        }
    }
    switch (mode) {
    case PAGED32:
        a->cr0 |= 0x80010000;
        a->cr3 = A(g_pd32);
        a->cr4 = 0x10;
        break;
    case PAE:
        a->cr0 |= 0x80010000;
        a->cr3 = A(g_pdpt_pae);
        a->cr4 = 0x20;
        break;
    case LONG:
        a->cr0 |= 0x80010000;
        a->cr3 = A(g_pml4);
        a->cr4 = 0x20;
        a->efer |= 0x500;
        break;
    default: break;
    }
}
#define GUEST(bytes) guest_n(bytes, sizeof(bytes) - 1)

static void clgi(void)
{
    ASM("clgi" : : : "memory");
}
static void stgi(void)
{
    ASM("stgi" : : : "memory");
}
static void vmload(void *v)
{
    ASM("vmload" : : "a"(v) : "memory");
}
static void vmsave(void *v)
{
    ASM("vmsave" : : "a"(v) : "memory");
}

static uint64_t run(void)
{
    clgi();
    vmsave(&host_vmcb);
    vmenter_vmrun(A(&vmcb), &regs);
    vmload(&host_vmcb);
    stgi();
    return vmcb.control.exitcode;
}

/* Names a check after the mode. */
static char name_buf[128];
static const char *named(const char *what)
{
    unsigned n = 0;
    for (const char *p = mode_names[mode]; *p; p++)
        name_buf[n++] = *p;
    if (nested)
        for (const char *p = " np"; *p; p++)
            name_buf[n++] = *p;
    name_buf[n++] = ':';
    name_buf[n++] = ' ';
    for (const char *p = what; *p && n < sizeof name_buf - 1; p++)
        name_buf[n++] = *p;
    name_buf[n] = 0;
    return name_buf;
}
static void exits(const char *what, uint64_t exitcode)
{
    check_eq(named(what), run(), exitcode);
}
static uint64_t at(void)
{
    return vmcb.save.cs.base + vmcb.save.rip - A(text());
}
static void in_handler(const char *what, unsigned v)
{
    uint64_t want = mode == REAL ? 0x1000 + 16 * v : A(handler(v));
    check_eq(named(what), vmcb.save.rip, want);
}
static uint64_t pushed(void)
{
    if (mode == REAL)
        return *(volatile uint16_t *)(low + (vmcb.save.rsp & 0xffff));
    return mode == LONG ? *(volatile uint64_t *)vmcb.save.rsp : *(volatile uint32_t *)vmcb.save.rsp;
}
static uint64_t text_ip(void)
{
    return mode == REAL ? 0x2000 : A(code);
}

/* --- VMRUN's and the others' faults
 * -------------------------------------------------------------------------------------- */

static void faults(void)
{
    mode = LONG;
    nested = false;
    GUEST("\x0f\x01\xd9");
    wrmsr(SVM_MSR_EFER, rdmsr(SVM_MSR_EFER) & ~SVM_EFER_SVME);
    struct exc e = TRY(ASM("vmrun" : : "a"(&vmcb) : "memory"));
    expect_exc("vmrun without EFER.SVME", e, UD, 0);
    e = TRY(vmload(&vmcb));
    expect_exc("vmload without EFER.SVME", e, UD, 0);
    e = TRY(vmsave(&vmcb));
    expect_exc("vmsave without EFER.SVME", e, UD, 0);
    e = TRY(clgi());
    expect_exc("clgi without EFER.SVME", e, UD, 0);
    e = TRY(ASM("invlpga" : : "a"(0), "c"(1)));
    expect_exc("invlpga without EFER.SVME", e, UD, 0);
    wrmsr(SVM_MSR_EFER, rdmsr(SVM_MSR_EFER) | SVM_EFER_SVME);
    e = TRY(ASM("vmrun" : : "a"((uint8_t *)&vmcb + 8) : "memory"));
    expect_exc("vmrun unaligned", e, GP, 0);
    e = TRY(vmload((uint8_t *)&vmcb + 2048));
    expect_exc("vmload unaligned", e, GP, 0);
    e = TRY(ASM("vmmcall"));
    expect_exc("vmmcall in the host", e, UD, 0);
    wrmsr(SVM_MSR_VM_HSAVE_PA, A(hsave));
    check_eq("VM_HSAVE_PA", rdmsr(SVM_MSR_VM_HSAVE_PA), A(hsave));
}

/* --- intercepts (without RDTSCP, RDPRU, INVPCID, which peers do not intercept; tests/unit/test_svm.c has them)
 * ------------------------------------------------------------------------------------------------------------ */

static const struct {
    const char *name;
    uint16_t exitcode;
    const char *bytes;
    uint8_t len;
    bool no_real;
} insns[] = {
    {"sidt", SVM_EXIT_IDTR_READ, "\x0f\x01\x0b", 3, false},
    {"sgdt", SVM_EXIT_GDTR_READ, "\x0f\x01\x03", 3, false},
    {"sldt", SVM_EXIT_LDTR_READ, "\x0f\x00\xc0", 3, true},
    {"str", SVM_EXIT_TR_READ, "\x0f\x00\xc8", 3, true},
    {"lidt", SVM_EXIT_IDTR_WRITE, "\x0f\x01\x1b", 3, false},
    {"lgdt", SVM_EXIT_GDTR_WRITE, "\x0f\x01\x13", 3, false},
    {"lldt", SVM_EXIT_LDTR_WRITE, "\x0f\x00\xd0", 3, true},
    {"ltr", SVM_EXIT_TR_WRITE, "\x0f\x00\xd8", 3, true},
    {"rdtsc", SVM_EXIT_RDTSC, "\x0f\x31", 2, false},
    {"rdpmc", SVM_EXIT_RDPMC, "\x0f\x33", 2, false},
    {"pushf", SVM_EXIT_PUSHF, "\x9c", 1, false},
    {"popf", SVM_EXIT_POPF, "\x9d", 1, false},
    {"cpuid", SVM_EXIT_CPUID, "\x0f\xa2", 2, false},
    {"iret", SVM_EXIT_IRET, "\xcf", 1, false},
    {"int n", SVM_EXIT_SWINT, "\xcd\x21", 2, false},
    {"invd", SVM_EXIT_INVD, "\x0f\x08", 2, false},
    {"pause", SVM_EXIT_PAUSE, "\xf3\x90", 2, false},
    {"hlt", SVM_EXIT_HLT, "\xf4", 1, false},
    {"invlpg", SVM_EXIT_INVLPG, "\x0f\x01\x3b", 3, false},
    {"invlpga", SVM_EXIT_INVLPGA, "\x0f\x01\xdf", 3, true},
    {"vmrun", SVM_EXIT_VMRUN, "\x0f\x01\xd8", 3, true},
    {"vmmcall", SVM_EXIT_VMMCALL, "\x0f\x01\xd9", 3, false},
    {"vmload", SVM_EXIT_VMLOAD, "\x0f\x01\xda", 3, true},
    {"vmsave", SVM_EXIT_VMSAVE, "\x0f\x01\xdb", 3, true},
    {"stgi", SVM_EXIT_STGI, "\x0f\x01\xdc", 3, true},
    {"clgi", SVM_EXIT_CLGI, "\x0f\x01\xdd", 3, true},
    {"skinit", SVM_EXIT_SKINIT, "\x0f\x01\xde", 3, true},
    {"int1", SVM_EXIT_ICEBP, "\xf1", 1, false},
    {"wbinvd", SVM_EXIT_WBINVD, "\x0f\x09", 2, false},
    {"monitor", SVM_EXIT_MONITOR, "\x0f\x01\xc8", 3, false},
    {"mwait", SVM_EXIT_MWAIT, "\x0f\x01\xc9", 3, false},
};

static void instructions(void)
{
    for (unsigned i = 0; i < sizeof insns / sizeof *insns; i++) {
        if (mode == REAL && insns[i].no_real)
            continue;
        if (qemu && (insns[i].exitcode == SVM_EXIT_INVD || insns[i].exitcode == SVM_EXIT_ICEBP))
            continue; /* exits as WBINVD; is not intercepted */
        guest_n(insns[i].bytes, insns[i].len);
        vmcb_set_intercept(&vmcb, insns[i].exitcode);
        vmcb.save.rax = A(&vmcb2);
        regs.rbx = mode == REAL ? 0x8000 : A(data);
        uint64_t got = run();
        bool nrip = !(features & SVM_CPUID_NRIPS) || vmcb.control.nrip == text_ip() + insns[i].len;
        if (got != insns[i].exitcode)
            check_eq(named(insns[i].name), got, insns[i].exitcode);
        else /* not executed, nothing was being delivered, nRIP follows it */
            check(named(insns[i].name), at() == 0 && vmcb.control.exitintinfo == 0 && nrip);
    }
    GUEST("\x0f\xa2\x0f\x31\x9c\x9d\xf3\x90\x0f\x01\xd9"); /* cpuid; rdtsc; pushf; popf; pause; vmmcall */
    exits("not intercepted", SVM_EXIT_VMMCALL);
    check_eq(named("not intercepted: where"), at(), 8);
}

static void io_and_msr(void)
{
    uint64_t asz = mode == REAL ? SVM_IOIO_A16 : mode == LONG ? SVM_IOIO_A64 : SVM_IOIO_A32;
    GUEST("\xe6\xed\xe4\x81"); /* out 0xed, al (passes); in al, 0x81 */
    vmcb_set_intercept(&vmcb, SVM_EXIT_IOIO);
    svm_iopm_set(iopm, 0x81, 1);
    exits("in", SVM_EXIT_IOIO);
    check_eq(named("in: where"), at(), 2);
    uint64_t i = vmcb.control.exitinfo1;
    check_eq(named("in: info1"), i & ~0x1c00ull & ~(qemu ? 0x380ull : 0),
             0x81u << 16 | SVM_IOIO_IN | SVM_IOIO_SZ8 | (qemu ? 0 : asz));
    check_eq(named("in: info2"), vmcb.control.exitinfo2, text_ip() + 4);
    if (mode == REAL)
        GUEST("\xef");
    else
        GUEST("\x66\xef"); /* out dx, ax */
    vmcb_set_intercept(&vmcb, SVM_EXIT_IOIO);
    svm_iopm_set(iopm, 0xee, 1);
    regs.rdx = 0xed;
    exits("out at the second port", SVM_EXIT_IOIO);
    GUEST("\xf3\x6e");
    vmcb_set_intercept(&vmcb, SVM_EXIT_IOIO);
    svm_iopm_set(iopm, 0xed, 1);
    regs.rdx = 0xed;
    regs.rcx = 3;
    regs.rsi = mode == REAL ? 0x8000 : A(data);
    exits("rep outsb", SVM_EXIT_IOIO);
    check_eq(named("rep outsb: info1"), vmcb.control.exitinfo1 & 0xffff000cull,
             0xed000000ull >> 8 | SVM_IOIO_STR | SVM_IOIO_REP);
    check_eq(named("rep outsb: rcx"), regs.rcx, 3);
    GUEST("\x0f\x32\xff\xc1\x0f\x32"); /* rdmsr (passes); inc ecx; rdmsr */
    vmcb_set_intercept(&vmcb, SVM_EXIT_MSR);
    svm_msrpm_set(msrpm, 0xc0000082, 1, 0);
    svm_msrpm_set(msrpm, 0xc0000081, 0, 1);
    regs.rcx = 0xc0000081;
    exits("rdmsr", SVM_EXIT_MSR);
    check_eq(named("rdmsr: where"), at(), 4);
    check_eq(named("rdmsr: info1"), vmcb.control.exitinfo1, 0);
    GUEST("\x0f\x30");
    vmcb_set_intercept(&vmcb, SVM_EXIT_MSR);
    svm_msrpm_set(msrpm, 0xc0000081, 0, 1);
    regs.rcx = 0xc0000081;
    exits("wrmsr", SVM_EXIT_MSR);
    check_eq(named("wrmsr: info1"), vmcb.control.exitinfo1, 1);
    GUEST("\x0f\x32");
    vmcb_set_intercept(&vmcb, SVM_EXIT_MSR);
    regs.rcx = 0x4b564d00;
    exits("rdmsr outside the map", SVM_EXIT_MSR);
}

static void registers(void)
{
    GUEST("\x0f\x20\xc0\x0f\x20\xd9"); /* mov eax, cr0; mov ecx, cr3 */
    vmcb_set_intercept(&vmcb, SVM_EXIT_CR0_READ + 3);
    exits("read of cr3", SVM_EXIT_CR0_READ + 3);
    check_eq(named("read of cr3: where"), at(), 3);
    if (features & SVM_CPUID_DECODE)
        check_eq(named("read of cr3: info1"), vmcb.control.exitinfo1, SVM_CR_MOV | 1);
    GUEST("\x0f\x22\xe2"); /* mov cr4, edx */
    vmcb_set_intercept(&vmcb, SVM_EXIT_CR0_WRITE + 4);
    regs.rdx = vmcb.save.cr4;
    exits("write of cr4", SVM_EXIT_CR0_WRITE + 4);
    GUEST("\x0f\x06");
    vmcb_set_intercept(&vmcb, SVM_EXIT_CR0_WRITE);
    exits("clts", SVM_EXIT_CR0_WRITE);
    GUEST("\x0f\x20\xc0\x83\xf0\x0a\x0f\x22\xc0\x83\xf0\x20\x0f\x22\xc0"); /* TS and MP; then NE */
    vmcb_set_intercept(&vmcb, SVM_EXIT_CR0_SEL_WRITE);
    exits("selective write of cr0", SVM_EXIT_CR0_SEL_WRITE);
    check_eq(named("selective write of cr0: where"), at(), 12);
    GUEST("\x0f\x23\xc0\x0f\x21\xfb"); /* mov dr0, eax; mov ebx, dr7 */
    vmcb_set_intercept(&vmcb, SVM_EXIT_DR0_READ + 7);
    exits("read of dr7", SVM_EXIT_DR0_READ + 7);
    check_eq(named("read of dr7: where"), at(), 3);
    GUEST("\x0f\x23\xc1");
    vmcb_set_intercept(&vmcb, SVM_EXIT_DR0_WRITE);
    exits("write of dr0", SVM_EXIT_DR0_WRITE);
}

static void exceptions(void)
{
    GUEST("\x90\x0f\x0b");
    exits("#UD", SVM_EXIT_VMMCALL);
    in_handler("#UD in the guest's handler", UD);
    GUEST("\x90\x0f\x0b");
    vmcb_set_intercept(&vmcb, SVM_EXIT_EXCEPTION + UD);
    exits("#UD intercepted", SVM_EXIT_EXCEPTION + UD);
    check_eq(named("#UD intercepted: where"), at(), 1);
    GUEST("\x90\xf7\xf1");
    vmcb_set_intercept(&vmcb, SVM_EXIT_EXCEPTION + DE);
    exits("#DE intercepted", SVM_EXIT_EXCEPTION + DE);
    if (!qemu) { /* it does not intercept INT3 */
        GUEST("\x90\xcc");
        vmcb_set_intercept(&vmcb, SVM_EXIT_EXCEPTION + BP);
        exits("#BP intercepted", SVM_EXIT_EXCEPTION + BP);
        check_eq(named("#BP intercepted: where"), at(), 1);
    }
    GUEST("\x90\x90\x90");
    vmcb_set_intercept(&vmcb, SVM_EXIT_EXCEPTION + DB);
    vmcb.save.rflags |= 0x100;
    exits("single step", SVM_EXIT_EXCEPTION + DB);
    check_eq(named("single step: where"), at(), 1);
    if (mode == REAL)
        return;
    GUEST("\x8e\xd8");
    vmcb_set_intercept(&vmcb, SVM_EXIT_EXCEPTION + GP);
    vmcb.save.rax = 0x1238;
    exits("#GP intercepted", SVM_EXIT_EXCEPTION + GP);
    check_eq(named("#GP intercepted: error code"), vmcb.control.exitinfo1, 0x1238);
    if (mode != LONG)
        return;
    GUEST("\x88\x03"); /* mov [rbx], al */
    vmcb_set_intercept(&vmcb, SVM_EXIT_EXCEPTION + PF);
    *gpte(data) = 0;
    regs.rbx = A(data) + 5;
    exits("#PF intercepted", SVM_EXIT_EXCEPTION + PF);
    check_eq(named("#PF: error code"), vmcb.control.exitinfo1, 2);
    check_eq(named("#PF: address"), vmcb.control.exitinfo2, A(data) + 5);
    /* "EXITINTINFO Pseudo-Code" */
    uint64_t *t = (uint64_t *)(void *)g_idt;
    GUEST("\x0f\x0b");
    t[2 * UD] &= ~(1ull << 47);
    vmcb_set_intercept(&vmcb, SVM_EXIT_EXCEPTION + NP);
    exits("#NP of a gate", SVM_EXIT_EXCEPTION + NP);
    if (!qemu)
        check_eq(named("#NP of a gate: error code"), vmcb.control.exitinfo1, UD * 8 + 2);
    check_eq(named("#NP of a gate: exitintinfo"), vmcb.control.exitintinfo, vmcb_event(VMCB_EVENT_EXCEPTION, UD));
    GUEST("\x8e\xd8");
    t[2 * GP] &= ~(1ull << 47);
    vmcb.save.rax = 0x1238;
    vmcb_set_intercept(&vmcb, SVM_EXIT_EXCEPTION + NP);
    exits("#NP while #GP is delivered", SVM_EXIT_EXCEPTION + NP);
    check_eq(named("#NP while #GP is delivered: exitintinfo"), vmcb.control.exitintinfo,
             vmcb_event_error(VMCB_EVENT_EXCEPTION, GP, 0x1238));
    GUEST("\x8e\xd8");
    t[2 * GP] &= ~(1ull << 47);
    vmcb.save.rax = 0x1238;
    vmcb_set_intercept(&vmcb, SVM_EXIT_EXCEPTION + DF);
    if (!qemu) /* it does not intercept #DF */
        exits("#DF intercepted", SVM_EXIT_EXCEPTION + DF);
}

/* --- injection, interrupts
 * ---------------------------------------------------------------------------------------------------- */

static void injection(void)
{
    GUEST("\x90");
    vmcb.control.eventinj = vmcb_event(VMCB_EVENT_INTR, 0x41);
    exits("inject an interrupt", SVM_EXIT_VMMCALL);
    in_handler("inject an interrupt: handler", 0x41);
    check_eq(named("inject an interrupt: return address"), pushed(), text_ip());
    check_eq(named("eventinj after"), vmcb.control.eventinj & VMCB_EVENT_VALID, 0);
    if (mode != REAL) {
        GUEST("\x90");
        vmcb_set_intercept(&vmcb, SVM_EXIT_EXCEPTION + GP);
        vmcb.control.eventinj = vmcb_event_error(VMCB_EVENT_EXCEPTION, GP, 0x1230);
        exits("inject #GP", SVM_EXIT_VMMCALL);
        in_handler("inject #GP: handler", GP);
        check_eq(named("inject #GP: error code"), pushed() & 0xffffffff, 0x1230);
    }
    GUEST("\x90\x90");
    vmcb.control.eventinj = vmcb_event(VMCB_EVENT_NMI, 2);
    exits("inject an NMI", SVM_EXIT_VMMCALL);
    in_handler("inject an NMI: handler", 2);
    ASM("mov %%rsp, %%rcx; mov %%ss, %%eax; push %%rax; push %%rcx; pushf; mov %%cs, %%eax; push %%rax; lea 1f(%%rip), "
        "%%rax;"
        "push %%rax; iretq; 1:"
        :
        :
        : "rax", "rcx", "memory", "cc"); /* ends the NMI's blocking */
    if (mode != LONG)
        return;
    GUEST("\x90");
    vmcb.control.eventinj = vmcb_event(VMCB_EVENT_INTR, 0x41);
    *gpte(stack + sizeof stack - 512) = 0;
    vmcb_set_intercept(&vmcb, SVM_EXIT_EXCEPTION + PF);
    exits("#PF of an injection", SVM_EXIT_EXCEPTION + PF);
    check_eq(named("#PF of an injection: exitintinfo"), vmcb.control.exitintinfo, vmcb_event(VMCB_EVENT_INTR, 0x41));
    check_eq(named("#PF of an injection: where"), at(), 0);
}

static void virtual_interrupts(void)
{
    GUEST("\x90\xfb\x90\x90\x90");
    vmcb.control.vintr = VMCB_VINTR_IRQ | VMCB_VINTR_PRIO(8) | VMCB_VINTR_VECTOR(0x55);
    exits("virtual interrupt", SVM_EXIT_VMMCALL);
    in_handler("virtual interrupt: handler", 0x55);
    check_eq(named("virtual interrupt: after the shadow"), pushed(), text_ip() + 3);
    check_eq(named("virtual interrupt: V_IRQ after"), vmcb.control.vintr & VMCB_VINTR_IRQ, 0);
    GUEST("\x90\xfb\x90\x90\x90");
    vmcb.control.vintr = VMCB_VINTR_IRQ | VMCB_VINTR_PRIO(8) | VMCB_VINTR_VECTOR(0x55);
    vmcb_set_intercept(&vmcb, SVM_EXIT_VINTR);
    exits("vintr", SVM_EXIT_VINTR);
    check_eq(named("vintr: where"), at(), 3);
    if (mode != LONG)
        return;
    GUEST("\x90\x31\xc0\x44\x0f\x22\xc0\x90\x90"); /* nop; xor eax, eax; mov cr8, rax */
    vmcb.save.rflags |= 0x200;
    vmcb.control.vintr = VMCB_VINTR_IRQ | VMCB_VINTR_PRIO(8) | VMCB_VINTR_VECTOR(0x55) | VMCB_VINTR_MASKING | 8;
    exits("V_TPR", SVM_EXIT_VMMCALL);
    in_handler("V_TPR: handler", 0x55);
    if (!qemu) { /* it takes a priority equal to V_TPR */
        check_eq(named("V_TPR: after mov cr8"), pushed(), text_ip() + 7);
        check_eq(named("V_TPR: saved"), vmcb.control.vintr & 15, 0);
    }
    GUEST("\x90\x90\x90");
    vmcb.save.rflags |= 0x200;
    vmcb.control.vintr = VMCB_VINTR_IRQ | VMCB_VINTR_IGN_TPR | VMCB_VINTR_VECTOR(0x56) | 15;
    if (!bochs) { /* it does not take it */
        exits("V_IGN_TPR", SVM_EXIT_VMMCALL);
        in_handler("V_IGN_TPR: handler", 0x56);
    }
    GUEST("\x90\x90\x90");
    vmcb.save.rflags |= 0x200;
    vmcb.control.vintr = VMCB_VINTR_IRQ | VMCB_VINTR_PRIO(15) | VMCB_VINTR_VECTOR(0x56);
    vmcb.control.interrupt_shadow = 1;
    if (!qemu && !bochs) { /* one does not load the shadow, the other does not end it */
        exits("the VMCB's shadow", SVM_EXIT_VMMCALL);
        check_eq(named("the VMCB's shadow: one instruction"), pushed(), text_ip() + 1);
    }
    GUEST("\xfb\x0f\x01\xd9");
    exits("exit in a shadow", SVM_EXIT_VMMCALL);
    check_eq(named("exit in a shadow: saved"), vmcb.control.interrupt_shadow & 1, 1);
    GUEST("\x44\x0f\x20\xc0\x0f\x01\xd9"); /* mov rax, cr8 */
    vmcb.control.vintr = VMCB_VINTR_MASKING | 9;
    exits("cr8 under V_INTR_MASKING", SVM_EXIT_VMMCALL);
    check_eq(named("cr8 is V_TPR"), vmcb.save.rax, 9);
}

#define APIC 0xfee00000ul
static volatile unsigned irqs;
static void on_irq(struct regs *r)
{
    irqs++;
    *(volatile uint32_t *)(APIC + 0xb0) = 0;
}
static void self_ipi(void)
{
    *(volatile uint32_t *)(APIC + 0x300) = 0x40000 | 0x70;
}

static void physical_interrupts(void)
{
    rt_irq[0x70] = on_irq;
    *(volatile uint32_t *)(APIC + 0xf0) = 0x1ff;
    irqs = 0;
    GUEST("\x90\x0f\x01\xd9");
    vmcb_set_intercept(&vmcb, SVM_EXIT_INTR);
    vmcb.control.vintr = VMCB_VINTR_MASKING;
    cli();
    self_ipi();
    clgi();
    sti();
    ASM("nop");
    if (!bochs) /* it asks the guest's IF in spite of V_INTR_MASKING */
        exits("physical interrupt", SVM_EXIT_INTR);
    else
        stgi();
    check_eq("taken by the host after STGI", irqs, 1);
    cli();
    self_ipi();
    GUEST("\xfb\x90\x90\x90\x0f\x01\xd9");
    vmcb_set_intercept(&vmcb, SVM_EXIT_INTR);
    vmcb.control.vintr = VMCB_VINTR_MASKING;
    if (!bochs)
        exits("host IF clear under V_INTR_MASKING", SVM_EXIT_VMMCALL);
    GUEST("\x90\xfb\x90\x90\x90\x0f\x01\xd9");
    vmcb_set_intercept(&vmcb, SVM_EXIT_INTR);
    exits("the guest's IF decides", SVM_EXIT_INTR);
    check_eq("the guest's IF decides: where", at(), 3);
    irqs = 0;
    sti();
    ASM("nop");
    cli();
    check_eq("still pending for the host", irqs, 1);
    /* GIF clear holds back interrupts, whatever IF says. */
    irqs = 0;
    clgi();
    self_ipi();
    sti();
    ASM("nop; nop; nop");
    check_eq("GIF clear", irqs, 0);
    stgi();
    ASM("nop");
    check_eq("GIF set", irqs, 1);
    cli();
}

/* --- nested paging, ASIDs, refused VMCBs
 * ---------------------------------------------------------------------------------------- */

static void nested_faults(void)
{
    mode = LONG;
    nested = true;
    struct vmcb_control *k = &vmcb.control;
    GUEST("\x8a\x03"); /* mov al, [rbx] */
    *npte(data) = 0;
    regs.rbx = A(data) + 0x123;
    exits("npf read", SVM_EXIT_NPF);
    check_eq("npf read: info1", k->exitinfo1, SVM_NPF_FINAL | SVM_NPF_US);
    check_eq("npf read: info2", k->exitinfo2, A(data) + 0x123);
    check_eq("npf read: where", at(), 0);
    GUEST("\x88\x03");
    *npte(data) = A(data) | 5;
    regs.rbx = A(data) + 0x123;
    exits("npf write", SVM_EXIT_NPF);
    check_eq("npf write: info1", k->exitinfo1, SVM_NPF_FINAL | SVM_NPF_US | SVM_NPF_RW | SVM_NPF_P);
    GUEST("\xff\xe3");
    *npte(data) = 0;
    regs.rbx = A(data);
    exits("npf fetch", SVM_EXIT_NPF);
    check_eq("npf fetch: info1", k->exitinfo1 & ~(uint64_t)SVM_NPF_ID, SVM_NPF_FINAL | SVM_NPF_US);
    check_eq("npf fetch: where", vmcb.save.rip, A(data));
    GUEST("\x0f\x01\xd9");
    *npte(g_pd) = 0;
    exits("npf table", SVM_EXIT_NPF);
    check_eq("npf table: info1", k->exitinfo1, SVM_NPF_TABLE | SVM_NPF_US | SVM_NPF_RW);
    check_eq("npf table: page", k->exitinfo2 & ~0xfffull, A(g_pd));
    GUEST("\x8a\x03");
    *npte(data) = 0;
    *gpte(data) = 0;
    regs.rbx = A(data);
    exits("the guest's own #PF comes first", SVM_EXIT_VMMCALL);
    in_handler("the guest's own #PF: handler", PF);
    check_eq("the guest's own #PF: cr2", vmcb.save.cr2, A(data));
    GUEST("\x90");
    vmcb.control.eventinj = vmcb_event(VMCB_EVENT_INTR, 0x41);
    *npte(g_idt) = 0;
    exits("npf of an injection", SVM_EXIT_NPF);
    check_eq("npf of an injection: exitintinfo", k->exitintinfo, vmcb_event(VMCB_EVENT_INTR, 0x41));
    for (mode = A(data) >> 21 ? PROT : REAL; mode <= PROT; mode++) { /* the 2 MiB with 4-KiB pages hold `low` too? */
        GUEST("\x8a\x03\x0f\x01\xd9");
        uint8_t *where = mode == REAL ? low + 0x8000 : data;
        *npte(where) = A(other) | 7;
        other[0] = 0x5a;
        *where = 0xa5;
        regs.rbx = A(data);
        regs.rdi = 0x8000; /* real mode: [bp+di] */
        exits("without paging", SVM_EXIT_VMMCALL);
        check_eq(named("the nested tables' page"), vmcb.save.rax & 0xff, 0x5a);
    }
}

static void asids(void)
{
    mode = LONG;
    for (unsigned n = 0; n <= np; n++) {
        nested = n;
        GUEST("\x8a\x03\x0f\x01\xd9");
        regs.rbx = A(data);
        data[0] = 0x11;
        other[0] = 0x22;
        exits("flushed", SVM_EXIT_VMMCALL);
        check_eq(named("asid 1"), vmcb.save.rax & 0xff, 0x11);
        *(nested ? npte(data) : gpte(data)) = A(other) | 7;
        vmcb.control.tlb_control = VMCB_TLB_FLUSH_ALL;
        vmcb.save.rip = A(code);
        exits("flush all", SVM_EXIT_VMMCALL);
        check_eq(named("flush all: seen"), vmcb.save.rax & 0xff, 0x22);
        *(nested ? npte(data) : gpte(data)) = A(data) | 7;
        vmcb.control.tlb_control = 0;
        ASM("invlpga" : : "a"(data), "c"(1) : "memory");
        vmcb.save.rip = A(code);
        exits("invlpga", SVM_EXIT_VMMCALL);
        check_eq(named("invlpga: seen"), vmcb.save.rax & 0xff, 0x11);
    }
}

static void refused(void)
{
    mode = LONG;
    nested = false;
#define REFUSED(name, statement)                                                                                       \
    do {                                                                                                               \
        GUEST("\x0f\x01\xd9");                                                                                         \
        statement;                                                                                                     \
        check_eq("refused: " name, run() & 0xffffffff, 0xffffffff); /* a peer writes 32 bits */                        \
    } while (0)
    REFUSED("EFER.SVME", vmcb.save.efer &= ~SVM_EFER_SVME);
    REFUSED("CR0.NW without CD", vmcb.save.cr0 |= 1u << 29);
    REFUSED("CR0 63:32", vmcb.save.cr0 |= 1ull << 32);
    REFUSED("DR6 63:32", vmcb.save.dr6 |= 1ull << 32);
    REFUSED("DR7 63:32", vmcb.save.dr7 |= 1ull << 32);
    REFUSED("LME, PG, not PAE", vmcb.save.cr4 &= ~0x20ull);
    if (!bochs) /* it panics */
        REFUSED("LME, PG, not PE", vmcb.save.cr0 &= ~1ull);
    REFUSED("CS.L and CS.D", vmcb.save.cs.attrib |= 0x400);
    REFUSED("VMRUN intercept", vmcb_clear_intercept(&vmcb, SVM_EXIT_VMRUN));
    REFUSED("ASID 0", vmcb.control.guest_asid = 0);
    REFUSED("CR4 reserved", vmcb.save.cr4 |= 1ull << 40);
    REFUSED("EFER reserved", vmcb.save.efer |= 1ull << 40);
    if (!bochs) /* it does not look */
        REFUSED("CR3 reserved", vmcb.save.cr3 |= 1ull << 62);
    REFUSED("IOPM beyond memory", vmcb.control.iopm_base_pa = ~0xfffull);
    REFUSED("MSRPM beyond memory", vmcb.control.msrpm_base_pa = ~0xfffull);
    if (qemu) {
        skip("event injection checks", "peer");
    } else {
        REFUSED("EVENTINJ type 1", vmcb.control.eventinj = VMCB_EVENT_VALID | 1 << 8 | 0x20);
        REFUSED("EVENTINJ type 5", vmcb.control.eventinj = VMCB_EVENT_VALID | 5 << 8 | 0x20);
        REFUSED("EVENTINJ exception 2", vmcb.control.eventinj = vmcb_event(VMCB_EVENT_EXCEPTION, 2));
        REFUSED("EVENTINJ exception 32", vmcb.control.eventinj = vmcb_event(VMCB_EVENT_EXCEPTION, 32));
    }
    GUEST("\x0f\x01\xd9");
    vmcb.save.cr0 |= 3u << 29;
    exits("CD and NW are legal together", SVM_EXIT_VMMCALL);
}

static void switch_state(void)
{
    mode = LONG;
    nested = false;
    GUEST("\x48\xff\xc3\x48\xc7\xc0\x44\x33\x22\x11\x0f\x01\xd9");
    regs.rbx = 41;
    regs.r15 = 0x1515151515151515;
    vmcb.save.rflags = 2 | 0x8c1;
    clgi();
    exits("a world switch", SVM_EXIT_VMMCALL);
    check_eq("rbx", regs.rbx, 42);
    check_eq("r15", regs.r15, 0x1515151515151515);
    check_eq("rax", vmcb.save.rax, 0x11223344);
    check_eq("rflags", vmcb.save.rflags & 0x8d5, 1); /* INC: CF kept */
    /* VMLOAD and VMSAVE */
    zero(&vmcb2, sizeof vmcb2);
    vmsave(&vmcb2);
    check_eq("vmsave: TR", vmcb2.save.tr.sel, SEL_TSS);
    vmcb2.save.kernel_gs_base = 0x123456789;
    vmcb2.save.star = 0x1122334455667788;
    vmcb2.save.sysenter_cs = 0x77;
    vmload(&vmcb2);
    check_eq("vmload: KernelGSBase", rdmsr(0xc0000102), 0x123456789);
    check_eq("vmload: STAR", rdmsr(0xc0000081), 0x1122334455667788);
    check_eq("vmload: SYSENTER_CS", rdmsr(0x174) & 0xffff, 0x77);
    vmload(&host_vmcb);
}

void image_main(void)
{
    qemu = rt_on_qemu();
    struct cpuid brand = cpuid(0x80000002, 0);
    bochs = brand.b == 0x657a7952 || brand.b == 0x7a795220; /* "AMD Ryzen": no model of ours */
    if (!cpu_has(0x80000001, 2, 2)) {
        skip("svm", "no SVM");
        rt_end();
    }
    features = cpuid(0x8000000a, 0).d;
    np = features & SVM_CPUID_NP;
    faults();
    vmsave(&host_vmcb);
    switch_state();
    for (unsigned n = 0; n <= np; n++)
        for (unsigned m = 0; m < MODES; m++) {
            nested = n;
            mode = (enum gmode)m;
            instructions();
            io_and_msr();
            registers();
            exceptions();
            injection();
            virtual_interrupts();
        }
    mode = LONG;
    nested = false;
    physical_interrupts();
    if (np)
        nested_faults();
    asids();
    refused();
    rt_end();
}
