/* SPDX-License-Identifier: MIT
 *
 * SVM on the processor: guests in every mode, under nested and shadow paging, that exit for each kind of intercept;
 * event injection, virtual interrupts, GIF, ASIDs, clean bits, refused VMCBs. The host is this program (native_host).
 *
 * APM volume 2, chapter "Secure Virtual Machine".
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "src/cpu/cpu.h"
#include "src/arch/model.h"
#include "src/svm/check.h"
#include "src/svm/svm.h"

#define RAM        0x1000000u
#define HOST_PML4  0x1000u
#define HOST_PDPT  0x2000u
#define NPT_PML4   0x3000u
#define NPT_PDPT   0x4000u
#define NPT_PD     0x5000u
#define NPT_PT     0x6000u /* the first 2 MiB */
#define HSAVE      0x7000u
#define VMCB_PA    0x8000u
#define VMCB2_PA   0x9000u
#define IOPM       0xa000u
#define MSRPM      0xd000u
#define G_PML4     0x11000u
#define G_PDPT     0x12000u
#define G_PD       0x13000u
#define G_PT       0x14000u /* the first 2 MiB */
#define G_PDPT_PAE 0x15000u
#define G_PD32     0x16000u
#define G_IDT      0x17000u
#define G_GDT      0x18000u
#define G_TSS      0x19000u
#define G_STACK    0x1a000u /* grows down from here */
#define G_DATA     0x1b000u
#define CODE       0x20000u /* CS base of the real-mode guest; IP 0 */
#define HANDLERS   0x21000u /* vector n: VMMCALL at HANDLERS + 16 n */

struct box {
    struct mem *mem;
    struct model model;
    struct cpu *c;
    uint8_t *ram;
    struct vmcb *v;
    bool irq; /* the PIC's line */
    uint8_t vector;
};

static bool intr_line(void *opaque, int *vector)
{
    struct box *b = opaque;
    if (!vector)
        return b->irq;
    if (!b->irq)
        return false;
    b->irq = false;
    *vector = b->vector;
    return true;
}

static void host_state(struct box *b)
{
    struct cpu *c = b->c;
    c->efer = EFER_SVME | EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
    c->cr0 = CR0_PE | CR0_PG | CR0_WP | CR0_NE | CR0_ET;
    c->cr3 = HOST_PML4;
    c->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR;
    c->seg[SEG_CS] = (struct seg){.sel = 8, .limit = 0xffffffff, .ar = 0xb | AR_S | AR_P | AR_L | AR_G};
    for (unsigned i = 0; i < 6; i++)
        if (i != SEG_CS)
            c->seg[i] = (struct seg){.sel = 16, .limit = 0xffffffff, .ar = 0x3 | AR_S | AR_P | AR_DB | AR_G};
    c->cpl = 0;
    c->gdtr = (struct dtable){0x1234000, 0x7f};
    c->idtr = (struct dtable){0x1235000, 0xfff};
    c->msr.vm_hsave_pa = HSAVE;
    c->rip = 0x1111;
    c->gpr[GPR_RSP] = 0x2222;
    cpu_set_rflags(c, FLAG_1);
    cpu_update_translation(c);
}

static void start(struct box *b, const char *model)
{
    *b = (struct box){0};
    assert_true(model_parse(&b->model, model, NULL, 0));
    b->mem = mem_create();
    assert_non_null(b->mem);
    assert_true(mem_add_ram(b->mem, HPA(0), RAM));
    b->c = cpu_create(b->mem, &b->model, 0);
    assert_non_null(b->c);
    assert_true(svm_attach(b->c));
    b->c->native_host = true;
    b->c->intr_line = intr_line;
    b->c->intr_opaque = b;
    b->ram = mem_host(b->mem, HPA(0), RAM, true);
    assert_non_null(b->ram);
    b->v = (struct vmcb *)(void *)(b->ram + VMCB_PA);
    uint64_t *t = (uint64_t *)(void *)(b->ram + HOST_PML4);
    t[0] = HOST_PDPT | 7;
    t = (uint64_t *)(void *)(b->ram + HOST_PDPT);
    for (unsigned i = 0; i < 4; i++)
        t[i] = (uint64_t)i << 30 | 0x87;
    host_state(b);
}

static void stop(struct box *b)
{
    svm_detach(b->c);
    cpu_destroy(b->c);
    mem_destroy(b->mem);
}

enum gmode { REAL, PROT, PAGED32, PAE, LONG, MODES };
static const char *const mode_names[] = {"real", "protected", "32-bit paging", "PAE", "long"};

static uint64_t *words(struct box *b, uint64_t pa)
{
    return (uint64_t *)(void *)(b->ram + pa);
}

static void nested_tables(struct box *b)
{
    words(b, NPT_PML4)[0] = NPT_PDPT | 7;
    words(b, NPT_PDPT)[0] = NPT_PD | 7;
    words(b, NPT_PD)[0] = NPT_PT | 7;
    for (unsigned i = 1; i < RAM >> 21; i++)
        words(b, NPT_PD)[i] = (uint64_t)i << 21 | 0x87;
    for (unsigned i = 0; i < 512; i++)
        words(b, NPT_PT)[i] = (uint64_t)i << 12 | 7;
}

static void guest_tables(struct box *b)
{
    words(b, G_PML4)[0] = G_PDPT | 7;
    words(b, G_PDPT)[0] = G_PD | 7;
    words(b, G_PDPT_PAE)[0] = G_PD | 1;
    words(b, G_PD)[0] = G_PT | 7;
    for (unsigned i = 1; i < RAM >> 21; i++)
        words(b, G_PD)[i] = (uint64_t)i << 21 | 0x87;
    for (unsigned i = 0; i < 512; i++)
        words(b, G_PT)[i] = (uint64_t)i << 12 | 7;
    uint32_t *pd = (uint32_t *)(void *)(b->ram + G_PD32);
    for (unsigned i = 0; i < RAM >> 22; i++)
        pd[i] = i << 22 | 0x87;
}

static void set_seg(struct vmcb_seg *s, uint16_t sel, uint64_t base, uint32_t limit, uint16_t attrib)
{
    *s = (struct vmcb_seg){.sel = sel, .base = base, .limit = limit, .attrib = attrib};
}

/* A guest at CODE with flat segments (real mode: CS base CODE), its tables, handlers, VMMCALL and SHUTDOWN intercepted.
 */
static void guest(struct box *b, enum gmode m, bool nested)
{
    struct vmcb *v = b->v;
    struct vmcb_save *a = &v->save;
    memset(v, 0, sizeof *v);
    nested_tables(b);
    guest_tables(b);
    memset(b->ram + IOPM, 0, SVM_IOPM_SIZE);
    memset(b->ram + MSRPM, 0, SVM_MSRPM_SIZE);
    memset(b->ram + CODE, 0xf4, 0x1000);
    vmcb_set_intercept(v, SVM_EXIT_VMRUN);
    vmcb_set_intercept(v, SVM_EXIT_VMMCALL);
    vmcb_set_intercept(v, SVM_EXIT_SHUTDOWN);
    v->control.guest_asid = 1;
    v->control.tlb_control = VMCB_TLB_FLUSH_ALL;
    v->control.iopm_base_pa = IOPM;
    v->control.msrpm_base_pa = MSRPM;
    if (nested) {
        v->control.nested_ctl = VMCB_NP_ENABLE;
        v->control.ncr3 = NPT_PML4;
    }
    a->g_pat = 0x0007040600070406;
    a->efer = EFER_SVME | EFER_SCE;
    a->cr0 = CR0_ET | CR0_NE;
    a->cr4 = CR4_OSFXSR;
    a->dr6 = 0xffff0ff0;
    a->dr7 = 0x400;
    a->rflags = FLAG_1;
    a->rsp = G_STACK;
    a->rip = CODE;
    a->gdtr.base = G_GDT;
    a->gdtr.limit = 0x7f;
    a->idtr.base = G_IDT;
    for (unsigned n = 0; n < 256; n++)
        memcpy(b->ram + HANDLERS + 16 * n, "\x0f\x01\xd9", 3);

    if (m == REAL) {
        set_seg(&a->cs, CODE >> 4, CODE, 0xffff, 0x9b);
        set_seg(&a->ss, 0, 0, 0xffff, 0x93);
        a->ds = a->es = a->ss;
        a->rip = 0;
        a->rsp = 0xff00;
        a->idtr.limit = 0x3ff;
        a->idtr.base = G_IDT;
        for (unsigned n = 0; n < 256; n++)
            store32(b->ram + G_IDT + 4 * n, (HANDLERS >> 4) << 16 | 16 * n);
        return;
    }
    set_seg(&a->cs, 8, 0, 0xffffffff, m == LONG ? 0xa9b : 0xc9b);
    set_seg(&a->ss, 16, 0, 0xffffffff, 0xc93);
    a->ds = a->es = a->ss;
    a->cr0 |= CR0_PE;
    words(b, G_GDT)[0] = 0;
    words(b, G_GDT)[1] = m == LONG ? 0x00af9b000000ffff : 0x00cf9b000000ffff;
    words(b, G_GDT)[2] = 0x00cf93000000ffff;
    words(b, G_GDT)[3] = m == LONG ? 0x00affb000000ffff : 0x00cffb000000ffff;
    words(b, G_GDT)[4] = 0x00cff3000000ffff;
    for (unsigned n = 0; n < 256; n++) {
        uint32_t at = HANDLERS + 16 * n;
        uint64_t gate = (at & 0xffff) | 8u << 16 | 0x8e0000000000ull | (uint64_t)(at >> 16) << 48;
        if (m == LONG) {
            words(b, G_IDT)[2 * n] = gate;
            words(b, G_IDT)[2 * n + 1] = 0;
        } else {
            words(b, G_IDT)[n] = gate;
        }
    }
    a->idtr.limit = m == LONG ? 0xfff : 0x7ff;
    switch (m) {
    case PAGED32:
        a->cr0 |= CR0_PG | CR0_WP;
        a->cr3 = G_PD32;
        a->cr4 |= CR4_PSE;
        break;
    case PAE:
        a->cr0 |= CR0_PG | CR0_WP;
        a->cr3 = G_PDPT_PAE;
        a->cr4 |= CR4_PAE;
        break;
    case LONG:
        a->cr0 |= CR0_PG | CR0_WP;
        a->cr3 = G_PML4;
        a->cr4 |= CR4_PAE;
        a->efer |= EFER_LME | EFER_LMA;
        break;
    default: break;
    }
}

static void code(struct box *b, const char *bytes, size_t len)
{
    memcpy(b->ram + CODE, bytes, len);
    mem_code_bump(b->mem);
}
#define CODE_BYTES(b, s) code(b, s, sizeof(s) - 1)

/* VMRUN until the #VMEXIT. */
static uint64_t vmrun(struct box *b)
{
    struct cpu *c = b->c;
    mem_code_bump(b->mem);
    c->cur = NULL;
    assert_true(svm_vmrun(c, VMCB_PA));
    if (c->guest) {
        enum cpu_stop s = cpu_run(c, 100000);
        if (s != STOP_EXIT)
            print_error("cpu_run: %d, rip 0x%llx\n", s, (unsigned long long)c->rip);
        assert_int_equal(s, STOP_EXIT);
    }
    assert_null(c->guest);
    assert_false(c->gif);
    return b->v->control.exitcode;
}

static void expect(struct box *b, uint64_t exitcode)
{
    uint64_t got = vmrun(b);
    if (got != exitcode)
        print_error("exit code 0x%llx, not 0x%llx; info 0x%llx 0x%llx rip 0x%llx\n", (unsigned long long)got,
                    (unsigned long long)exitcode, (unsigned long long)b->v->control.exitinfo1,
                    (unsigned long long)b->v->control.exitinfo2, (unsigned long long)b->v->save.rip);
    assert_int_equal(got, exitcode);
}

/* The offset of rIP in the guest's code. */
static uint64_t at(struct box *b)
{
    return b->v->save.cs.base + b->v->save.rip - CODE;
}

/* The guest stands in the handler of that vector. */
static void in_handler(struct box *b, unsigned vector)
{
    assert_int_equal(b->v->save.cs.base + b->v->save.rip, HANDLERS + 16 * vector);
}

/* --- VMRUN's own faults and the world switch ------------------------------------------------------------------------
 */

static void raises(struct box *b, bool ok, unsigned vector)
{
    assert_false(ok);
    assert_true(b->c->exc.valid);
    assert_int_equal(b->c->exc.vector, vector);
    if (vector == EXC_GP)
        assert_int_equal(b->c->exc.error, 0);
    b->c->exc.valid = false;
}

static void test_faults(void **state)
{
    struct box b;
    start(&b, "max-amd");
    struct cpu *c = b.c;
    guest(&b, LONG, true);
    c->efer &= ~EFER_SVME;
    raises(&b, svm_vmrun(c, VMCB_PA), EXC_UD);
    raises(&b, svm_vmload(c, VMCB_PA), EXC_UD);
    raises(&b, svm_vmsave(c, VMCB_PA), EXC_UD);
    raises(&b, svm_clgi(c), EXC_UD);
    raises(&b, svm_invlpga(c, 0, 1), EXC_UD);
    assert_true(svm_stgi(c)); /* SKINIT is there: STGI needs no SVME */
    c->efer |= EFER_SVME;
    c->cpl = 3;
    raises(&b, svm_vmrun(c, VMCB_PA + 1), EXC_GP);
    raises(&b, svm_vmload(c, VMCB_PA), EXC_GP);
    raises(&b, svm_stgi(c), EXC_GP);
    c->cpl = 0;
    raises(&b, svm_vmrun(c, VMCB_PA + 8), EXC_GP);
    raises(&b, svm_vmload(c, VMCB_PA + 0x800), EXC_GP);
    raises(&b, svm_vmsave(c, 1ull << 60), EXC_GP);
    raises(&b, svm_vmrun(c, RAM), EXC_GP); /* no memory there */
    c->msr.vm_hsave_pa = 0;
    raises(&b, svm_vmrun(c, VMCB_PA), EXC_GP);
    c->msr.vm_hsave_pa = HSAVE;
    raises(&b, svm_vmmcall(c), EXC_UD);
    c->cr0 &= ~(CR0_PE | CR0_PG);
    raises(&b, svm_vmrun(c, VMCB_PA), EXC_UD);
    stop(&b);
}

static void test_switch(void **state)
{
    struct box b;
    start(&b, "max-amd");
    struct cpu *c = b.c;
    guest(&b, LONG, true);
    CODE_BYTES(&b, "\x48\xc7\xc0\x44\x33\x22\x11\x48\xff\xc3\x0f\x01\xd9"); /* mov rax, 0x11223344; inc rbx; vmmcall */
    c->gpr[GPR_RBX] = 41;
    c->gpr[GPR_RAX] = VMCB_PA;
    c->dr[7] = 0x401;
    c->gif = true;
    cpu_set_rflags(c, FLAG_1 | FLAG_CF | FLAG_AF);
    b.v->save.rflags = FLAG_1 | FLAG_ZF | FLAG_ID;
    b.v->save.dr6 = 0xffff0ff1;
    expect(&b, SVM_EXIT_VMMCALL);
    assert_int_equal(at(&b), 10);
    assert_int_equal(b.v->control.nrip, CODE + 13);
    assert_int_equal(b.v->save.rax, 0x11223344);
    assert_int_equal(c->gpr[GPR_RBX], 42);
    assert_int_equal(b.v->save.rflags, FLAG_1 | FLAG_ID); /* INC: ZF clear, no carry */
    assert_int_equal(b.v->save.dr6, 0xffff0ff1);
    assert_int_equal(b.v->save.cpl, 0);
    assert_int_equal(b.v->save.efer, EFER_SVME | EFER_SCE | EFER_LME | EFER_LMA);
    /* The host is back. */
    assert_int_equal(c->rip, 0x1111);
    assert_int_equal(c->gpr[GPR_RSP], 0x2222);
    assert_int_equal(c->gpr[GPR_RAX], VMCB_PA);
    assert_int_equal(cpu_rflags(c), FLAG_1 | FLAG_CF | FLAG_AF);
    assert_int_equal(c->cr3, HOST_PML4);
    assert_int_equal(c->cr4, CR4_PAE | CR4_PGE | CR4_OSFXSR);
    assert_int_equal(c->gdtr.base, 0x1234000);
    assert_int_equal(c->idtr.limit, 0xfff);
    assert_int_equal(c->seg[SEG_CS].sel, 8);
    assert_int_equal(c->dr[7], 0x400); /* breakpoints are off */
    assert_int_equal(c->vpid, 0);
    /* Again from where it stands, after the VMMCALL. */
    b.v->save.rip = b.v->control.nrip;
    memcpy(b.ram + CODE + 13, "\x0f\x01\xd9", 3);
    expect(&b, SVM_EXIT_VMMCALL);
    assert_int_equal(at(&b), 13);
    stop(&b);
}

/* --- instruction intercepts in every mode
 * ------------------------------------------------------------------------------ */

#define ALL    (1u << REAL | 1u << PROT | 1u << PAGED32 | 1u << PAE | 1u << LONG)
#define NOREAL (ALL & ~(1u << REAL))
static const struct {
    const char *name;
    unsigned exitcode;
    const char *bytes;
    unsigned len;
    unsigned modes;
} insns[] = {
    {"SIDT", SVM_EXIT_IDTR_READ, "\x0f\x01\x0b", 3, ALL}, /* [rbx], [bp+di] */
    {"SGDT", SVM_EXIT_GDTR_READ, "\x0f\x01\x03", 3, ALL},
    {"SLDT", SVM_EXIT_LDTR_READ, "\x0f\x00\xc0", 3, NOREAL},
    {"STR", SVM_EXIT_TR_READ, "\x0f\x00\xc8", 3, NOREAL},
    {"LIDT", SVM_EXIT_IDTR_WRITE, "\x0f\x01\x1b", 3, ALL},
    {"LGDT", SVM_EXIT_GDTR_WRITE, "\x0f\x01\x13", 3, ALL},
    {"LLDT", SVM_EXIT_LDTR_WRITE, "\x0f\x00\xd0", 3, NOREAL},
    {"LTR", SVM_EXIT_TR_WRITE, "\x0f\x00\xd8", 3, NOREAL},
    {"RDTSC", SVM_EXIT_RDTSC, "\x0f\x31", 2, ALL},
    {"RDPMC", SVM_EXIT_RDPMC, "\x0f\x33", 2, ALL},
    {"PUSHF", SVM_EXIT_PUSHF, "\x9c", 1, ALL},
    {"POPF", SVM_EXIT_POPF, "\x9d", 1, ALL},
    {"CPUID", SVM_EXIT_CPUID, "\x0f\xa2", 2, ALL},
    {"IRET", SVM_EXIT_IRET, "\xcf", 1, ALL},
    {"INT 0x21", SVM_EXIT_SWINT, "\xcd\x21", 2, ALL},
    {"INVD", SVM_EXIT_INVD, "\x0f\x08", 2, ALL},
    {"PAUSE", SVM_EXIT_PAUSE, "\xf3\x90", 2, ALL},
    {"HLT", SVM_EXIT_HLT, "\xf4", 1, ALL},
    {"INVLPG", SVM_EXIT_INVLPG, "\x0f\x01\x3b", 3, ALL},
    {"INVLPGA", SVM_EXIT_INVLPGA, "\x0f\x01\xdf", 3, NOREAL},
    {"VMRUN", SVM_EXIT_VMRUN, "\x0f\x01\xd8", 3, NOREAL},
    {"VMMCALL", SVM_EXIT_VMMCALL, "\x0f\x01\xd9", 3, ALL},
    {"VMLOAD", SVM_EXIT_VMLOAD, "\x0f\x01\xda", 3, NOREAL},
    {"VMSAVE", SVM_EXIT_VMSAVE, "\x0f\x01\xdb", 3, NOREAL},
    {"STGI", SVM_EXIT_STGI, "\x0f\x01\xdc", 3, NOREAL},
    {"CLGI", SVM_EXIT_CLGI, "\x0f\x01\xdd", 3, NOREAL},
    {"SKINIT", SVM_EXIT_SKINIT, "\x0f\x01\xde", 3, NOREAL},
    {"RDTSCP", SVM_EXIT_RDTSCP, "\x0f\x01\xf9", 3, ALL},
    {"INT1", SVM_EXIT_ICEBP, "\xf1", 1, ALL},
    {"WBINVD", SVM_EXIT_WBINVD, "\x0f\x09", 2, ALL},
    {"WBNOINVD", SVM_EXIT_WBINVD, "\xf3\x0f\x09", 3, ALL},
    {"MONITOR", SVM_EXIT_MONITOR, "\x0f\x01\xc8", 3, ALL},
    {"MWAIT", SVM_EXIT_MWAIT, "\x0f\x01\xc9", 3, ALL},
    {"RDPRU", SVM_EXIT_RDPRU, "\x0f\x01\xfd", 3, ALL},
    {"INVPCID", SVM_EXIT_INVPCID, "\x66\x0f\x38\x82\x03", 5, NOREAL},
};

static void test_instructions(void **state)
{
    struct box b;
    start(&b, "max-amd");
    for (unsigned i = 0; i < ARRAY_LEN(insns); i++) {
        for (unsigned m = 0; m < MODES; m++) {
            if (!(insns[i].modes >> m & 1))
                continue;
            for (unsigned nested = 0; nested < 2; nested++) {
                guest(&b, (enum gmode)m, nested);
                b.ram[CODE] = 0x90;
                memcpy(b.ram + CODE + 1, insns[i].bytes, insns[i].len);
                vmcb_set_intercept(b.v, insns[i].exitcode);
                b.c->gpr[GPR_RBX] = b.c->gpr[GPR_RBP] = G_DATA & 0xffff;
                b.c->gpr[GPR_RDI] = b.c->gpr[GPR_RCX] = b.c->gpr[GPR_RDX] = 0;
                b.v->save.rax = VMCB2_PA;
                uint64_t rsp = b.v->save.rsp;
                if (vmrun(&b) != insns[i].exitcode)
                    print_error("%s, %s%s\n", insns[i].name, mode_names[m], nested ? ", nested" : "");
                assert_int_equal(b.v->control.exitcode, insns[i].exitcode);
                assert_int_equal(at(&b), 1); /* not executed */
                assert_int_equal(b.v->save.rsp, rsp);
                assert_int_equal(b.v->control.nrip, b.v->save.rip + insns[i].len);
                assert_int_equal(b.v->control.exitintinfo, 0);
                uint64_t info1 = 0;
                if (insns[i].exitcode == SVM_EXIT_SWINT)
                    info1 = 0x21;
                if (insns[i].exitcode == SVM_EXIT_INVLPG)
                    info1 = b.c->gpr[GPR_RBX];
                if (insns[i].exitcode == SVM_EXIT_INVPCID) /* the descriptor; the type */
                    info1 = G_DATA & 0xffff;
                assert_int_equal(b.v->control.exitinfo1, info1);
            }
        }
    }
    stop(&b);
}

/* Without the intercepts the harmless ones run on to the VMMCALL. */
static void test_unintercepted(void **state)
{
    struct box b;
    start(&b, "max-amd");
    for (unsigned m = 0; m < MODES; m++)
        for (unsigned nested = 0; nested < 2; nested++) {
            guest(&b, (enum gmode)m, nested);
            /* cpuid; rdtsc; rdtscp; pushf; popf; pause; wbinvd; invd; vmmcall */
            CODE_BYTES(&b, "\x0f\xa2\x0f\x31\x0f\x01\xf9\x9c\x9d\xf3\x90\x0f\x09\x0f\x08\x0f\x01\xd9");
            b.v->save.rax = 0;
            b.c->gpr[GPR_RCX] = 0;
            expect(&b, SVM_EXIT_VMMCALL);
            assert_int_equal(at(&b), 15);
        }
    stop(&b);
}

/* --- I/O, MSRs, control and debug registers
 * ------------------------------------------------------------------------------- */

static void test_io(void **state)
{
    struct box b;
    start(&b, "max-amd");
    for (unsigned m = 0; m < MODES; m++) {
        guest(&b, (enum gmode)m, true);
        vmcb_set_intercept(b.v, SVM_EXIT_IOIO);
        svm_iopm_set(b.ram + IOPM, 0x81, 1);
        /* out 0x80, al (passes); in al, 0x81; */
        CODE_BYTES(&b, "\xe6\x80\xe4\x81");
        expect(&b, SVM_EXIT_IOIO);
        uint64_t asz = m == REAL ? SVM_IOIO_A16 : m == LONG ? SVM_IOIO_A64 : SVM_IOIO_A32;
        assert_int_equal(at(&b), 2);
        assert_int_equal(b.v->control.exitinfo1, 0x81u << 16 | SVM_IOIO_IN | SVM_IOIO_SZ8 | asz);
        assert_int_equal(b.v->control.exitinfo2, b.v->save.rip + 2);
        assert_int_equal(b.v->control.nrip, b.v->save.rip + 2);
        /* A word at 0x80 touches 0x81. */
        guest(&b, (enum gmode)m, false);
        vmcb_set_intercept(b.v, SVM_EXIT_IOIO);
        svm_iopm_set(b.ram + IOPM, 0x81, 1);
        b.c->gpr[GPR_RDX] = 0x80;
        if (m == REAL)
            CODE_BYTES(&b, "\xef"); /* out dx, ax */
        else
            CODE_BYTES(&b, "\x66\xef");
        expect(&b, SVM_EXIT_IOIO);
        assert_int_equal(b.v->control.exitinfo1, 0x80u << 16 | SVM_IOIO_SZ16 | asz);
        /* REP OUTSB from FS. */
        guest(&b, (enum gmode)m, false);
        vmcb_set_intercept(b.v, SVM_EXIT_IOIO);
        svm_iopm_set(b.ram + IOPM, 0x3f8, 1);
        b.c->gpr[GPR_RDX] = 0x3f8;
        b.c->gpr[GPR_RCX] = 3;
        b.c->gpr[GPR_RSI] = 0x100;
        b.c->seg[SEG_FS] = (struct seg){.limit = 0xffff, .ar = 0x3 | AR_S | AR_P};
        CODE_BYTES(&b, "\x64\xf3\x6e");
        expect(&b, SVM_EXIT_IOIO);
        assert_int_equal(b.v->control.exitinfo1,
                         0x3f8u << 16 | SVM_IOIO_SZ8 | SVM_IOIO_STR | SVM_IOIO_REP | asz | (uint64_t)SEG_FS << 10);
        assert_int_equal(at(&b), 0);
        assert_int_equal(b.c->gpr[GPR_RCX], 3);
    }
    /* The last byte of a doubleword at 0xffff lies in the map's third page. */
    guest(&b, LONG, true);
    vmcb_set_intercept(b.v, SVM_EXIT_IOIO);
    b.ram[IOPM + 0x2000] = 1;
    b.c->gpr[GPR_RDX] = 0xffff;
    CODE_BYTES(&b, "\x66\xed");
    expect(&b, SVM_EXIT_IOIO);
    stop(&b);
}

static void test_msr(void **state)
{
    struct box b;
    start(&b, "max-amd");
    guest(&b, LONG, true);
    vmcb_set_intercept(b.v, SVM_EXIT_MSR);
    svm_msrpm_set(b.ram + MSRPM, 0xc0000082, 1, 0);
    svm_msrpm_set(b.ram + MSRPM, 0xc0000083, 0, 1);
    b.c->gpr[GPR_RCX] = 0xc0000083;
    /* rdmsr (passes); dec ecx; rdmsr */
    CODE_BYTES(&b, "\x0f\x32\xff\xc9\x0f\x32");
    expect(&b, SVM_EXIT_MSR);
    assert_int_equal(at(&b), 4);
    assert_int_equal(b.v->control.exitinfo1, 0);
    assert_int_equal(b.v->control.nrip, CODE + 6);
    guest(&b, PROT, false);
    vmcb_set_intercept(b.v, SVM_EXIT_MSR);
    svm_msrpm_set(b.ram + MSRPM, 0xc0000083, 0, 1);
    b.c->gpr[GPR_RCX] = 0xc0000083;
    CODE_BYTES(&b, "\x0f\x30");
    expect(&b, SVM_EXIT_MSR);
    assert_int_equal(b.v->control.exitinfo1, 1);
    /* An MSR outside the map's ranges always exits. */
    guest(&b, PROT, false);
    vmcb_set_intercept(b.v, SVM_EXIT_MSR);
    b.c->gpr[GPR_RCX] = 0x4b564d00;
    CODE_BYTES(&b, "\x0f\x32");
    expect(&b, SVM_EXIT_MSR);
    /* EFER write trap: the write is done. */
    guest(&b, LONG, true);
    vmcb_set_intercept(b.v, SVM_EXIT_EFER_WRITE_TRAP);
    b.c->gpr[GPR_RCX] = 0xc0000080;
    b.v->save.rax = (uint32_t)(EFER_SVME | EFER_LME | EFER_LMA | EFER_NXE);
    b.c->gpr[GPR_RDX] = 0;
    CODE_BYTES(&b, "\x0f\x30");
    expect(&b, SVM_EXIT_EFER_WRITE_TRAP);
    assert_int_equal(at(&b), 2);
    assert_true(b.v->save.efer & EFER_NXE);
    stop(&b);
}

static void test_cr_dr(void **state)
{
    struct box b;
    start(&b, "max-amd");
    guest(&b, LONG, true);
    vmcb_set_intercept(b.v, SVM_EXIT_CR0_READ + 3);
    CODE_BYTES(&b, "\x0f\x20\xc0\x41\x0f\x20\xd9"); /* mov rax, cr0; mov r9, cr3 */
    expect(&b, SVM_EXIT_CR0_READ + 3);
    assert_int_equal(at(&b), 3);
    assert_int_equal(b.v->control.exitinfo1, SVM_CR_MOV | 9);
    assert_int_equal(b.v->control.nrip, CODE + 7);
    assert_int_equal(b.v->save.rax, b.v->save.cr0);

    guest(&b, LONG, true);
    vmcb_set_intercept(b.v, SVM_EXIT_CR0_WRITE + 4);
    b.c->gpr[GPR_RDX] = CR4_PAE;
    CODE_BYTES(&b, "\x0f\x22\xe2"); /* mov cr4, rdx */
    expect(&b, SVM_EXIT_CR0_WRITE + 4);
    assert_int_equal(b.v->control.exitinfo1, SVM_CR_MOV | 2);

    guest(&b, LONG, true);
    vmcb_set_intercept(b.v, SVM_EXIT_CR0_WRITE + 8);
    b.c->gpr[GPR_RDX] = 5;
    CODE_BYTES(&b, "\x44\x0f\x22\xc2"); /* mov cr8, rdx */
    expect(&b, SVM_EXIT_CR0_WRITE + 8);

    guest(&b, LONG, true);
    vmcb_set_intercept(b.v, SVM_EXIT_CR0_WRITE);
    CODE_BYTES(&b, "\x0f\x06"); /* clts */
    expect(&b, SVM_EXIT_CR0_WRITE);
    assert_int_equal(b.v->control.exitinfo1, 0);

    /* Selective CR0 write: TS and MP may change. */
    guest(&b, LONG, true);
    vmcb_set_intercept(b.v, SVM_EXIT_CR0_SEL_WRITE);
    /* mov rax, cr0; xor rax, 10; mov cr0, rax; xor rax, 0x10000 (WP); mov cr0, rax */
    CODE_BYTES(&b, "\x0f\x20\xc0\x48\x83\xf0\x0a\x0f\x22\xc0\x48\x35\x00\x00\x01\x00\x0f\x22\xc0");
    expect(&b, SVM_EXIT_CR0_SEL_WRITE);
    assert_int_equal(at(&b), 16);
    assert_true(b.v->save.cr0 & CR0_TS);
    /* "The LMSW instruction treats the selective CR0-write intercept as a non-selective intercept." */
    guest(&b, PROT, false);
    vmcb_set_intercept(b.v, SVM_EXIT_CR0_SEL_WRITE);
    b.v->save.rax = b.v->save.cr0;
    CODE_BYTES(&b, "\x0f\x01\xf0"); /* lmsw ax */
    expect(&b, SVM_EXIT_CR0_SEL_WRITE);
    /* The non-selective one has priority. */
    vmcb_set_intercept(b.v, SVM_EXIT_CR0_WRITE);
    expect(&b, SVM_EXIT_CR0_WRITE);

    guest(&b, LONG, true);
    vmcb_set_intercept(b.v, SVM_EXIT_CR0_WRITE_TRAP + 3);
    b.v->save.rax = G_PML4;
    CODE_BYTES(&b, "\x0f\x22\xd8"); /* mov cr3, rax */
    expect(&b, SVM_EXIT_CR0_WRITE_TRAP + 3);
    assert_int_equal(at(&b), 3);
    assert_int_equal(b.v->control.exitinfo1, G_PML4);

    guest(&b, LONG, true);
    vmcb_set_intercept(b.v, SVM_EXIT_DR0_READ + 7);
    CODE_BYTES(&b, "\x0f\x23\xc0\x0f\x21\xfb"); /* mov dr0, rax; mov rbx, dr7 */
    expect(&b, SVM_EXIT_DR0_READ + 7);
    assert_int_equal(at(&b), 3);
    assert_int_equal(b.v->control.exitinfo1, 3);
    guest(&b, PROT, true);
    vmcb_set_intercept(b.v, SVM_EXIT_DR0_WRITE);
    CODE_BYTES(&b, "\x0f\x23\xc1"); /* mov dr0, ecx */
    expect(&b, SVM_EXIT_DR0_WRITE);
    assert_int_equal(b.v->control.exitinfo1, 1);
    stop(&b);
}

/* --- exceptions
 * ----------------------------------------------------------------------------------------------------------- */

static void test_exceptions(void **state)
{
    struct box b;
    start(&b, "max-amd");
    for (unsigned m = 0; m < MODES; m++)
        for (unsigned nested = 0; nested < 2; nested++) {
            /* Not intercepted: the guest's handler. */
            guest(&b, (enum gmode)m, nested);
            CODE_BYTES(&b, "\x90\x0f\x0b");
            expect(&b, SVM_EXIT_VMMCALL);
            in_handler(&b, EXC_UD);
            guest(&b, (enum gmode)m, nested);
            vmcb_set_intercept(b.v, SVM_EXIT_EXCEPTION + EXC_UD);
            CODE_BYTES(&b, "\x90\x0f\x0b");
            expect(&b, SVM_EXIT_EXCEPTION + EXC_UD);
            assert_int_equal(at(&b), 1);
            assert_int_equal(b.v->control.nrip, 0);
            /* INT3: a trap whose exit has the instruction's rIP, and nRIP. */
            guest(&b, (enum gmode)m, nested);
            vmcb_set_intercept(b.v, SVM_EXIT_EXCEPTION + EXC_BP);
            CODE_BYTES(&b, "\x90\xcc");
            expect(&b, SVM_EXIT_EXCEPTION + EXC_BP);
            assert_int_equal(at(&b), 1);
            assert_int_equal(b.v->control.nrip, b.v->save.rip + 1);
            /* #DE */
            guest(&b, (enum gmode)m, nested);
            vmcb_set_intercept(b.v, SVM_EXIT_EXCEPTION + EXC_DE);
            b.c->gpr[GPR_RCX] = 0;
            CODE_BYTES(&b, "\xf7\xf1");
            expect(&b, SVM_EXIT_EXCEPTION + EXC_DE);
            /* Single step: DR6 as the handler would see it. */
            guest(&b, (enum gmode)m, nested);
            vmcb_set_intercept(b.v, SVM_EXIT_EXCEPTION + EXC_DB);
            b.v->save.rflags |= FLAG_TF;
            CODE_BYTES(&b, "\x90\x90\x90");
            expect(&b, SVM_EXIT_EXCEPTION + EXC_DB);
            assert_int_equal(at(&b), 1);
            assert_true(b.v->save.dr6 & BIT(14));
            if (m == REAL)
                continue;
            /* #GP with an error code: a selector beyond the GDT. */
            guest(&b, (enum gmode)m, nested);
            vmcb_set_intercept(b.v, SVM_EXIT_EXCEPTION + EXC_GP);
            b.v->save.rax = 0x1238;
            CODE_BYTES(&b, "\x8e\xd8");
            expect(&b, SVM_EXIT_EXCEPTION + EXC_GP);
            assert_int_equal(b.v->control.exitinfo1, 0x1238);
            if (m == PROT)
                continue;
            /* #PF: error code, address, no CR2 yet, the instruction's bytes. */
            guest(&b, (enum gmode)m, nested);
            vmcb_set_intercept(b.v, SVM_EXIT_EXCEPTION + EXC_PF);
            b.v->save.cr2 = 0x77;
            b.v->save.rax = 0x7fffff8;
            CODE_BYTES(&b, "\x89\x08\x90"); /* mov [rax], ecx */
            expect(&b, SVM_EXIT_EXCEPTION + EXC_PF);
            assert_int_equal(at(&b), 0);
            assert_int_equal(b.v->control.exitinfo1, 2);
            assert_int_equal(b.v->control.exitinfo2, 0x7fffff8);
            assert_int_equal(b.v->save.cr2, 0x77);
            assert_int_equal(b.v->control.insn_len, 15);
            assert_memory_equal(b.v->control.insn_bytes, "\x89\x08\x90", 3);
        }
    stop(&b);
}

/* "EXITINTINFO Pseudo-Code": an intercepted exception exits before it is combined with the one that is being delivered.
 */
static void test_nested_exceptions(void **state)
{
    struct box b;
    start(&b, "max-amd");
    /* #UD whose gate is not present: #NP, intercepted. */
    guest(&b, LONG, true);
    words(&b, G_IDT)[2 * EXC_UD] &= ~BIT(47);
    vmcb_set_intercept(b.v, SVM_EXIT_EXCEPTION + EXC_NP);
    CODE_BYTES(&b, "\x0f\x0b");
    expect(&b, SVM_EXIT_EXCEPTION + EXC_NP);
    assert_int_equal(b.v->control.exitinfo1, EXC_UD * 8 + 2);
    assert_int_equal(b.v->control.exitintinfo, vmcb_event(VMCB_EVENT_EXCEPTION, EXC_UD));
    assert_int_equal(at(&b), 0);
    /* #GP whose gate is not present: #NP again, not a double fault yet. */
    guest(&b, LONG, true);
    words(&b, G_IDT)[2 * EXC_GP] &= ~BIT(47);
    vmcb_set_intercept(b.v, SVM_EXIT_EXCEPTION + EXC_NP);
    b.v->save.rax = 0x1238;
    CODE_BYTES(&b, "\x8e\xd8");
    expect(&b, SVM_EXIT_EXCEPTION + EXC_NP);
    assert_int_equal(b.v->control.exitintinfo, vmcb_event_error(VMCB_EVENT_EXCEPTION, EXC_GP, 0x1238));
    /* #DF intercepted, #NP not. */
    guest(&b, LONG, true);
    words(&b, G_IDT)[2 * EXC_GP] &= ~BIT(47);
    vmcb_set_intercept(b.v, SVM_EXIT_EXCEPTION + EXC_DF);
    b.v->save.rax = 0x1238;
    CODE_BYTES(&b, "\x8e\xd8");
    expect(&b, SVM_EXIT_EXCEPTION + EXC_DF);
    assert_int_equal(b.v->control.exitinfo1, 0);
    /* No gate at all: shutdown. */
    guest(&b, LONG, true);
    b.v->save.idtr.limit = 0;
    CODE_BYTES(&b, "\x0f\x0b");
    expect(&b, SVM_EXIT_SHUTDOWN);
    stop(&b);
}

/* --- event injection
 * ---------------------------------------------------------------------------------------------------------- */

static void test_injection(void **state)
{
    struct box b;
    start(&b, "max-amd");
    for (unsigned m = 0; m < MODES; m++)
        for (unsigned nested = 0; nested < 2; nested++) {
            struct vmcb_control *k = &b.v->control;
            /* An external interrupt, whatever IF says. */
            guest(&b, (enum gmode)m, nested);
            CODE_BYTES(&b, "\x90");
            k->eventinj = vmcb_event(VMCB_EVENT_INTR, 0x41);
            expect(&b, SVM_EXIT_VMMCALL);
            in_handler(&b, 0x41);
            assert_int_equal(k->eventinj, 0);
            uint64_t sp = b.v->save.rsp, rip = m == REAL   ? load16(b.ram + sp)
                                               : m == LONG ? load64(b.ram + sp)
                                                           : load32(b.ram + sp);
            assert_int_equal(rip, m == REAL ? 0 : CODE);
            /* An exception with its error code; injection is not intercepted. */
            guest(&b, (enum gmode)m, nested);
            vmcb_set_intercept(b.v, SVM_EXIT_EXCEPTION + EXC_GP);
            if (m != REAL) {
                k->eventinj = vmcb_event_error(VMCB_EVENT_EXCEPTION, EXC_GP, 0x1230);
                expect(&b, SVM_EXIT_VMMCALL);
                in_handler(&b, EXC_GP);
                assert_int_equal(load32(b.ram + b.v->save.rsp), 0x1230);
            }
            /* A software interrupt returns to nRIP. */
            guest(&b, (enum gmode)m, nested);
            k->eventinj = vmcb_event(VMCB_EVENT_SOFTINT, 0x80);
            k->nrip = b.v->save.rip + 2;
            expect(&b, SVM_EXIT_VMMCALL);
            in_handler(&b, 0x80);
            sp = b.v->save.rsp;
            rip = m == REAL ? load16(b.ram + sp) : m == LONG ? load64(b.ram + sp) : load32(b.ram + sp);
            assert_int_equal(rip, m == REAL ? 2 : CODE + 2);
            /* An NMI blocks NMIs. */
            guest(&b, (enum gmode)m, nested);
            k->eventinj = vmcb_event(VMCB_EVENT_NMI, 2);
            expect(&b, SVM_EXIT_VMMCALL);
            in_handler(&b, 2);
            assert_true(b.c->nmi_blocked);
            b.c->nmi_blocked = false;
        }
    /* A fault of the delivery is the guest's, with EXITINTINFO where it is intercepted. */
    guest(&b, LONG, true);
    b.v->control.eventinj = vmcb_event(VMCB_EVENT_INTR, 0x41);
    words(&b, G_PT)[(G_STACK - 8) >> 12] = 0;
    vmcb_set_intercept(b.v, SVM_EXIT_EXCEPTION + EXC_PF);
    expect(&b, SVM_EXIT_EXCEPTION + EXC_PF);
    assert_int_equal(b.v->control.exitintinfo, vmcb_event(VMCB_EVENT_INTR, 0x41));
    assert_int_equal(at(&b), 0);
    guest(&b, LONG, true);
    b.v->control.eventinj = vmcb_event(VMCB_EVENT_INTR, 0x41);
    words(&b, NPT_PT)[(G_STACK - 8) >> 12] = 0;
    expect(&b, SVM_EXIT_NPF);
    assert_int_equal(b.v->control.exitintinfo, vmcb_event(VMCB_EVENT_INTR, 0x41));
    stop(&b);
}

/* --- interrupts
 * ------------------------------------------------------------------------------------------------------------------ */

static void test_virtual_interrupts(void **state)
{
    struct box b;
    start(&b, "max-amd");
    struct vmcb_control *k = &b.v->control;
    for (unsigned m = 0; m < MODES; m++) {
        /* Taken when IF is set and the STI shadow is over: after the NOP that follows STI. */
        guest(&b, (enum gmode)m, true);
        CODE_BYTES(&b, "\x90\xfb\x90\x90\x90");
        k->vintr = VMCB_VINTR_IRQ | VMCB_VINTR_PRIO(8) | VMCB_VINTR_VECTOR(0x55);
        expect(&b, SVM_EXIT_VMMCALL);
        in_handler(&b, 0x55);
        assert_false(k->vintr & VMCB_VINTR_IRQ);
        uint64_t sp = b.v->save.rsp;
        uint64_t rip = m == REAL ? load16(b.ram + sp) : m == LONG ? load64(b.ram + sp) : load32(b.ram + sp);
        assert_int_equal(rip + (m == REAL ? CODE : 0), CODE + 3);
        /* The VINTR intercept: an exit instead, V_IRQ still there. */
        guest(&b, (enum gmode)m, true);
        CODE_BYTES(&b, "\x90\xfb\x90\x90\x90");
        k->vintr = VMCB_VINTR_IRQ | VMCB_VINTR_PRIO(8) | VMCB_VINTR_VECTOR(0x55);
        vmcb_set_intercept(b.v, SVM_EXIT_VINTR);
        expect(&b, SVM_EXIT_VINTR);
        assert_int_equal(at(&b), 3);
        assert_true(k->vintr & VMCB_VINTR_IRQ);
    }
    /* V_TPR holds it back, until MOV CR8 lowers it. */
    guest(&b, LONG, true);
    CODE_BYTES(&b, "\x90\x31\xc0\x44\x0f\x22\xc0\x90\x90"); /* nop; xor eax, eax; mov cr8, rax */
    b.v->save.rflags |= FLAG_IF;
    k->vintr = VMCB_VINTR_IRQ | VMCB_VINTR_PRIO(8) | VMCB_VINTR_VECTOR(0x55) | VMCB_VINTR_MASKING | 8;
    expect(&b, SVM_EXIT_VMMCALL);
    in_handler(&b, 0x55);
    assert_int_equal(load64(b.ram + b.v->save.rsp), CODE + 7);
    assert_int_equal(k->vintr & 15, 0);
    /* V_IGN_TPR does not ask. */
    guest(&b, LONG, true);
    CODE_BYTES(&b, "\x90\x90");
    b.v->save.rflags |= FLAG_IF;
    k->vintr = VMCB_VINTR_IRQ | VMCB_VINTR_IGN_TPR | VMCB_VINTR_VECTOR(0x56) | 15;
    expect(&b, SVM_EXIT_VMMCALL);
    in_handler(&b, 0x56);
    assert_int_equal(load64(b.ram + b.v->save.rsp), CODE);
    /* The interrupt shadow of the VMCB covers one instruction. */
    guest(&b, LONG, true);
    CODE_BYTES(&b, "\x90\x90\x90");
    b.v->save.rflags |= FLAG_IF;
    k->vintr = VMCB_VINTR_IRQ | VMCB_VINTR_IGN_TPR | VMCB_VINTR_VECTOR(0x56);
    k->interrupt_shadow = 1;
    expect(&b, SVM_EXIT_VMMCALL);
    in_handler(&b, 0x56);
    assert_int_equal(load64(b.ram + b.v->save.rsp), CODE + 1);
    assert_int_equal(k->interrupt_shadow, 0);
    /* And is reported when the exit comes in it. */
    guest(&b, LONG, true);
    CODE_BYTES(&b, "\xfb\x0f\x01\xd9"); /* sti; vmmcall */
    expect(&b, SVM_EXIT_VMMCALL);
    assert_int_equal(k->interrupt_shadow, 1);
    /* CR8 is V_TPR under V_INTR_MASKING. */
    guest(&b, LONG, true);
    CODE_BYTES(&b, "\x44\x0f\x20\xc0\x0f\x01\xd9"); /* mov rax, cr8 */
    k->vintr = VMCB_VINTR_MASKING | 9;
    expect(&b, SVM_EXIT_VMMCALL);
    assert_int_equal(b.v->save.rax, 9);
    /* A halted guest wakes for one. */
    guest(&b, LONG, true);
    CODE_BYTES(&b, "\xfb\xf4\x90");
    k->vintr = VMCB_VINTR_IRQ | VMCB_VINTR_IGN_TPR | VMCB_VINTR_VECTOR(0x57);
    expect(&b, SVM_EXIT_VMMCALL);
    in_handler(&b, 0x57);
    assert_int_equal(load64(b.ram + b.v->save.rsp), CODE + 2);
    stop(&b);
}

static void test_physical_interrupts(void **state)
{
    struct box b;
    start(&b, "max-amd");
    struct cpu *c = b.c;
    struct vmcb_control *k = &b.v->control;
    b.vector = 0x66;
    /* Intercepted, V_INTR_MASKING, host IF set: at once, whatever the guest's IF; the interrupt stays pending. */
    guest(&b, LONG, true);
    CODE_BYTES(&b, "\x90\x0f\x01\xd9");
    vmcb_set_intercept(b.v, SVM_EXIT_INTR);
    k->vintr = VMCB_VINTR_MASKING;
    b.irq = true;
    cpu_set_rflags(c, FLAG_1 | FLAG_IF);
    expect(&b, SVM_EXIT_INTR);
    assert_int_equal(at(&b), 0);
    assert_true(b.irq);
    /* Host IF clear: never. */
    cpu_set_rflags(c, FLAG_1);
    expect(&b, SVM_EXIT_VMMCALL);
    /* Without V_INTR_MASKING the guest's IF decides. */
    guest(&b, LONG, true);
    CODE_BYTES(&b, "\x90\xfb\x90\x90\x90");
    vmcb_set_intercept(b.v, SVM_EXIT_INTR);
    expect(&b, SVM_EXIT_INTR);
    assert_int_equal(at(&b), 3);
    /* Not intercepted: the guest takes it. */
    guest(&b, LONG, true);
    CODE_BYTES(&b, "\x90\xfb\x90\x90\x90");
    expect(&b, SVM_EXIT_VMMCALL);
    in_handler(&b, 0x66);
    assert_false(b.irq);
    /* An NMI: intercepted, and pending for the host until STGI. */
    guest(&b, LONG, true);
    CODE_BYTES(&b, "\x90\x0f\x01\xd9");
    vmcb_set_intercept(b.v, SVM_EXIT_NMI);
    cpu_attend(c, ATT_NMI);
    expect(&b, SVM_EXIT_NMI);
    assert_true(c->nmi_pending);
    c->nmi_pending = false;
    /* GIF clear in the guest holds interrupts back. */
    guest(&b, LONG, true);
    CODE_BYTES(&b, "\x0f\x01\xdd\xfb\x90\x90\x0f\x01\xdc\x90\x90"); /* clgi; sti; nop; nop; stgi; nop; nop */
    vmcb_set_intercept(b.v, SVM_EXIT_INTR);
    b.v->save.efer |= EFER_SVME;
    b.irq = true;
    expect(&b, SVM_EXIT_INTR);
    assert_int_equal(at(&b), 9);
    /* With a virtual GIF the guest's CLGI holds back virtual ones alone. */
    guest(&b, LONG, true);
    CODE_BYTES(&b, "\x0f\x01\xdd\x90\x0f\x01\xdc\x90\x0f\x01\xd9");
    b.irq = false;
    b.v->save.rflags |= FLAG_IF;
    k->interrupt_shadow = 1;
    k->vintr = VMCB_VINTR_IRQ | VMCB_VINTR_IGN_TPR | VMCB_VINTR_VECTOR(0x58) | VMCB_VINTR_GIF_ENABLE | VMCB_VINTR_GIF;
    expect(&b, SVM_EXIT_VMMCALL);
    in_handler(&b, 0x58);
    assert_int_equal(load64(b.ram + b.v->save.rsp), CODE + 7);
    stop(&b);
}

/* SMI and INIT: intercepted ones stay pending. An interrupt ends a halt with an exit behind the HLT. */
static void test_other_signals(void **state)
{
    struct box b;
    start(&b, "max-amd");
    struct cpu *c = b.c;
    guest(&b, LONG, true);
    CODE_BYTES(&b, "\x90\x0f\x01\xd9");
    vmcb_set_intercept(b.v, SVM_EXIT_SMI);
    cpu_attend(c, ATT_SMI);
    expect(&b, SVM_EXIT_SMI);
    assert_int_equal(b.v->control.exitinfo1, 1); /* external */
    assert_true(c->smi_pending);
    c->smi_pending = false;
    guest(&b, LONG, true);
    CODE_BYTES(&b, "\x90\x0f\x01\xd9");
    vmcb_set_intercept(b.v, SVM_EXIT_INIT);
    cpu_attend(c, ATT_INIT);
    expect(&b, SVM_EXIT_INIT);
    assert_true(c->init_pending);
    c->init_pending = false;
    guest(&b, LONG, true);
    CODE_BYTES(&b, "\xfb\xf4\x90");
    vmcb_set_intercept(b.v, SVM_EXIT_INTR);
    b.irq = true;
    b.v->control.vintr = VMCB_VINTR_MASKING;
    c->idle = NULL;
    cpu_set_rflags(c, FLAG_1); /* the host's IF is clear: nothing wakes it */
    c->gif = true;
    assert_true(svm_vmrun(c, VMCB_PA));
    assert_int_equal(cpu_run(c, 1000), STOP_IDLE);
    cpu_attend(c, ATT_NMI);
    vmcb_set_intercept(b.v, SVM_EXIT_NMI);         /* read at VMRUN: not this guest's */
    assert_int_equal(cpu_run(c, 1000), STOP_EXIT); /* the NMI's handler is a VMMCALL */
    in_handler(&b, 2);
    assert_int_equal(load64(b.ram + b.v->save.rsp), CODE + 2);
    c->nmi_blocked = false;
    /* MWAIT with and without an armed monitor, only the conditional intercept set. */
    guest(&b, LONG, true);
    vmcb_set_intercept(b.v, SVM_EXIT_MWAIT_CONDITIONAL);
    b.v->save.rax = G_DATA;
    c->gpr[GPR_RCX] = c->gpr[GPR_RDX] = 0;
    b.irq = false;
    CODE_BYTES(&b, "\x0f\x01\xc8\x31\xc0\x0f\x01\xc9"); /* monitor; xor eax, eax; mwait */
    expect(&b, SVM_EXIT_MWAIT_CONDITIONAL);
    assert_int_equal(at(&b), 5);
    stop(&b);
}

static void test_virtual_nmi(void **state)
{
    struct box b;
    start(&b, "max-amd");
    struct vmcb_control *k = &b.v->control;
    guest(&b, LONG, true);
    CODE_BYTES(&b, "\x90\x0f\x01\xd9");
    vmcb_set_intercept(b.v, SVM_EXIT_NMI);
    k->vintr = VMCB_VINTR_NMI_ENABLE | VMCB_VINTR_NMI;
    expect(&b, SVM_EXIT_VMMCALL);
    in_handler(&b, 2);
    assert_int_equal(k->vintr, VMCB_VINTR_NMI_ENABLE | VMCB_VINTR_NMI_MASK);
    /* The next one waits for IRET. */
    k->vintr |= VMCB_VINTR_NMI;
    b.v->save.rip += 3;
    memcpy(b.ram + HANDLERS + 16 * 2 + 3, "\x48\xcf", 2); /* iretq */
    expect(&b, SVM_EXIT_VMMCALL);
    in_handler(&b, 2);
    assert_int_equal(k->vintr, VMCB_VINTR_NMI_ENABLE | VMCB_VINTR_NMI_MASK);
    stop(&b);
}

/* --- nested paging and ASIDs
 * -------------------------------------------------------------------------------------------------------- */

static void test_nested_faults(void **state)
{
    struct box b;
    start(&b, "max-amd");
    struct vmcb_control *k = &b.v->control;
    /* A read, a write, a fetch of pages that the nested tables do not map, or map read-only. */
    guest(&b, LONG, true);
    words(&b, NPT_PT)[G_DATA >> 12] = 0;
    b.v->save.rax = G_DATA + 0x123;
    CODE_BYTES(&b, "\x8a\x00"); /* mov al, [rax] */
    expect(&b, SVM_EXIT_NPF);
    assert_int_equal(k->exitinfo1, SVM_NPF_FINAL | SVM_NPF_US);
    assert_int_equal(k->exitinfo2, G_DATA + 0x123);
    assert_int_equal(k->insn_len, 15);
    assert_memory_equal(k->insn_bytes, "\x8a\x00", 2);
    assert_int_equal(k->nrip, 0);
    assert_int_equal(at(&b), 0);
    words(&b, NPT_PT)[G_DATA >> 12] = G_DATA | 5;
    CODE_BYTES(&b, "\x88\x00");
    expect(&b, SVM_EXIT_NPF);
    assert_int_equal(k->exitinfo1, SVM_NPF_FINAL | SVM_NPF_US | SVM_NPF_RW | SVM_NPF_P);
    words(&b, NPT_PT)[G_DATA >> 12] = 0;
    CODE_BYTES(&b, "\xff\xe0");
    expect(&b, SVM_EXIT_NPF);
    assert_int_equal(k->exitinfo1, SVM_NPF_FINAL | SVM_NPF_US | SVM_NPF_ID);
    assert_int_equal(k->insn_len, 0);
    assert_int_equal(b.v->save.rip, G_DATA + 0x123);
    /* A guest page table: a write, and not the final address. */
    guest(&b, LONG, true);
    words(&b, NPT_PT)[G_PT >> 12] = 0;
    expect(&b, SVM_EXIT_NPF);
    assert_int_equal(k->exitinfo1, SVM_NPF_TABLE | SVM_NPF_US | SVM_NPF_RW);
    assert_int_equal(k->exitinfo2, G_PT + (CODE >> 12) * 8);
    /* Mapped again, the guest goes on. */
    words(&b, NPT_PT)[G_PT >> 12] = G_PT | 7;
    CODE_BYTES(&b, "\x0f\x01\xd9");
    expect(&b, SVM_EXIT_VMMCALL);
    /* The guest's own fault comes first. */
    guest(&b, LONG, true);
    words(&b, NPT_PT)[G_DATA >> 12] = 0;
    words(&b, G_PT)[G_DATA >> 12] = 0;
    b.v->save.rax = G_DATA;
    CODE_BYTES(&b, "\x8a\x00");
    expect(&b, SVM_EXIT_VMMCALL);
    in_handler(&b, EXC_PF);
    assert_int_equal(b.v->save.cr2, G_DATA);
    /* Real and protected mode without paging are translated by the nested tables alone. */
    for (unsigned m = REAL; m <= PROT; m++) {
        guest(&b, (enum gmode)m, true);
        words(&b, NPT_PT)[CODE >> 12] = 0x30000 | 7;
        memcpy(b.ram + 0x30000, "\x90\x90\x0f\x01\xd9", 5);
        expect(&b, SVM_EXIT_VMMCALL);
        assert_int_equal(at(&b), 2);
    }
    /* Five levels: of the guest, of the nested tables (which have the host's format), of both. */
    for (unsigned i = 1; i < 4; i++) {
        guest(&b, LONG, true);
        words(&b, 0x50000)[0] = G_PML4 | 7;
        words(&b, 0x51000)[0] = NPT_PML4 | 7;
        if (i & 1) {
            b.v->save.cr4 |= CR4_LA57;
            b.v->save.cr3 = 0x50000;
        }
        if (i & 2) {
            b.c->cr4 |= CR4_LA57;
            k->ncr3 = 0x51000;
        }
        words(&b, NPT_PT)[G_DATA >> 12] = 0;
        b.v->save.rax = G_DATA;
        CODE_BYTES(&b, "\x8a\x00");
        expect(&b, SVM_EXIT_NPF);
        assert_int_equal(k->exitinfo2, G_DATA);
        assert_int_equal(at(&b), 0);
        b.c->cr4 &= ~CR4_LA57;
    }
    /* Guest mode execute trap: a user page of the nested tables is data to the guest's supervisor. */
    guest(&b, LONG, true);
    k->nested_ctl |= VMCB_GMET_ENABLE;
    expect(&b, SVM_EXIT_NPF);
    assert_int_equal(k->exitinfo1 & (SVM_NPF_P | SVM_NPF_ID | SVM_NPF_FINAL), SVM_NPF_P | SVM_NPF_ID | SVM_NPF_FINAL);
    assert_int_equal(k->exitinfo2, CODE);
    words(&b, NPT_PT)[CODE >> 12] = CODE | 3;
    CODE_BYTES(&b, "\x0f\x01\xd9");
    expect(&b, SVM_EXIT_VMMCALL);
    /* PAE under nested paging: the PDPTEs are read through the nested tables, at each walk. */
    guest(&b, PAE, true);
    words(&b, G_PDPT_PAE)[0] |= BIT(1); /* reserved */
    vmcb_set_intercept(b.v, SVM_EXIT_EXCEPTION + EXC_PF);
    expect(&b, SVM_EXIT_EXCEPTION + EXC_PF);
    assert_int_equal(k->exitinfo1 & 9, 9);
    stop(&b);
}

static void test_asid(void **state)
{
    struct box b;
    start(&b, "max-amd");
    struct cpu *c = b.c;
    struct vmcb_control *k = &b.v->control;
    memset(b.ram + 0x40000, 0x11, 8);
    memset(b.ram + 0x41000, 0x22, 8);
    for (unsigned nested = 0; nested < 2; nested++) {
        uint64_t *pte = &words(&b, nested ? NPT_PT : G_PT)[G_DATA >> 12];
        guest(&b, LONG, nested);
        *pte = 0x40000 | 7;
        b.c->gpr[GPR_RBX] = G_DATA;
        CODE_BYTES(&b, "\x8a\x03\x0f\x01\xd9"); /* mov al, [rbx]; vmmcall */
        expect(&b, SVM_EXIT_VMMCALL);
        assert_int_equal(b.v->save.rax & 0xff, 0x11);
        /* A translation that was not invalidated stays. */
        *pte = 0x41000 | 7;
        k->tlb_control = VMCB_TLB_NOTHING;
        b.v->save.rip = CODE;
        expect(&b, SVM_EXIT_VMMCALL);
        assert_int_equal(b.v->save.rax & 0xff, 0x11);
        /* Another ASID has its own. */
        k->guest_asid = 2;
        b.v->save.rip = CODE;
        expect(&b, SVM_EXIT_VMMCALL);
        assert_int_equal(b.v->save.rax & 0xff, 0x22);
        k->guest_asid = 1;
        b.v->save.rip = CODE;
        expect(&b, SVM_EXIT_VMMCALL);
        assert_int_equal(b.v->save.rax & 0xff, 0x11);
        /* INVLPGA of another address, of another ASID, of this one. */
        assert_true(svm_invlpga(c, G_DATA + 0x1000, 1));
        assert_true(svm_invlpga(c, G_DATA, 2));
        b.v->save.rip = CODE;
        expect(&b, SVM_EXIT_VMMCALL);
        assert_int_equal(b.v->save.rax & 0xff, 0x11);
        assert_true(svm_invlpga(c, G_DATA, 1));
        b.v->save.rip = CODE;
        expect(&b, SVM_EXIT_VMMCALL);
        assert_int_equal(b.v->save.rax & 0xff, 0x22);
        k->guest_asid = 2;
        b.v->save.rip = CODE;
        expect(&b, SVM_EXIT_VMMCALL);
        assert_int_equal(b.v->save.rax & 0xff, 0x22);
        k->guest_asid = 1;
        /* TLB_CONTROL: this ASID. */
        *pte = 0x40000 | 7;
        k->tlb_control = VMCB_TLB_FLUSH_ASID;
        b.v->save.rip = CODE;
        expect(&b, SVM_EXIT_VMMCALL);
        assert_int_equal(b.v->save.rax & 0xff, 0x11);
        k->tlb_control = VMCB_TLB_NOTHING;
        k->guest_asid = 2;
        b.v->save.rip = CODE;
        expect(&b, SVM_EXIT_VMMCALL);
        assert_int_equal(b.v->save.rax & 0xff, 0x22);
        k->tlb_control = VMCB_TLB_FLUSH_ALL;
        b.v->save.rip = CODE;
        expect(&b, SVM_EXIT_VMMCALL);
        assert_int_equal(b.v->save.rax & 0xff, 0x11);
    }
    stop(&b);
}

/* --- clean bits, refused VMCBs, the rest
 * --------------------------------------------------------------------------------------------- */

static void test_clean_bits(void **state)
{
    struct box b;
    start(&b, "max-amd");
    guest(&b, LONG, true);
    CODE_BYTES(&b, "\x0f\x20\xd0\x0f\x01\xd9"); /* mov rax, cr2; vmmcall */
    b.v->save.cr2 = 0x1000;
    b.v->control.clean = VMCB_CLEAN_ALL; /* the first VMRUN of a VMCB heeds none of them */
    expect(&b, SVM_EXIT_VMMCALL);
    assert_int_equal(b.v->save.rax, 0x1000);
    b.v->save.cr2 = 0x2000;
    b.v->save.rip = CODE;
    expect(&b, SVM_EXIT_VMMCALL);
    assert_int_equal(b.v->save.rax, 0x1000);
    b.v->save.cr2 = 0x3000;
    b.v->control.clean &= ~(uint32_t)VMCB_CLEAN_CR2;
    b.v->save.rip = CODE;
    expect(&b, SVM_EXIT_VMMCALL);
    assert_int_equal(b.v->save.rax, 0x3000);
    /* Intercepts likewise. */
    vmcb_set_intercept(b.v, SVM_EXIT_CR0_READ + 2);
    b.v->save.rip = CODE;
    expect(&b, SVM_EXIT_VMMCALL);
    b.v->control.clean &= ~(uint32_t)VMCB_CLEAN_I;
    b.v->save.rip = CODE;
    expect(&b, SVM_EXIT_CR0_READ + 2);
    stop(&b);
    /* A model without them reads everything. */
    start(&b, "max-amd,-vmcb_clean");
    guest(&b, LONG, true);
    CODE_BYTES(&b, "\x0f\x20\xd0\x0f\x01\xd9");
    expect(&b, SVM_EXIT_VMMCALL);
    b.v->save.cr2 = 0x2000;
    b.v->control.clean = VMCB_CLEAN_ALL;
    b.v->save.rip = CODE;
    expect(&b, SVM_EXIT_VMMCALL);
    assert_int_equal(b.v->save.rax, 0x2000);
    stop(&b);
}

static void test_refused(void **state)
{
    struct box b;
    char text[1024];
    start(&b, "max-amd");
    guest(&b, LONG, true);
    b.v->control.guest_asid = 0;
    b.v->save.cr4 |= BIT(31);
    b.v->save.rax = 0x4242;
    b.v->control.eventinj = vmcb_event(VMCB_EVENT_INTR, 0x20);
    expect(&b, (uint64_t)SVM_EXIT_INVALID);
    assert_int_equal(b.c->rip, 0x1111);
    assert_int_equal(b.v->save.rax, 0x4242);
    size_t len = svm_explain(b.c, text, sizeof text);
    assert_int_equal(len, strlen(text));
    assert_non_null(
        strstr(text, "ASID_ZERO: control.guest_asid is 0x0: ASID is equal to zero; nearest legal value 0x1 (APM"));
    assert_non_null(strstr(text, "CR4_MBZ: save.cr4 is 0x80000"));
    assert_non_null(strstr(text, "Canonicalization and Consistency Checks"));
    assert_null(strstr(text, "CR3"));
    /* A PAE guest with shadow paging and a bad PDPTE. */
    guest(&b, PAE, false);
    words(&b, G_PDPT_PAE)[2] = 0x1001 | BIT(9);
    CODE_BYTES(&b, "\x0f\x01\xd9");
    expect(&b, SVM_EXIT_VMMCALL); /* bits 11:9 are software's */
    words(&b, G_PDPT_PAE)[2] = 0x1001 | BIT(63);
    b.v->save.rip = CODE;
    expect(&b, (uint64_t)SVM_EXIT_INVALID);
    svm_explain(b.c, text, sizeof text);
    assert_non_null(strstr(text, "PDPTE_MBZ"));
    words(&b, G_PDPT_PAE)[2] = 0;
    expect(&b, SVM_EXIT_VMMCALL);
    assert_int_equal(svm_explain(b.c, text, sizeof text), 0);
    stop(&b);
}

/* "Idle HLT Intercept": without a virtual event for the guest alone; then before the HLT intercept. */
static void test_idle_hlt(void **state)
{
    struct box b;
    for (unsigned n = 0; n < 10; n++) {
        bool has = n < 8, hlt = n & 1, nmi = n & 2, low = n & 4;
        start(&b, has ? "max-amd" : "max-amd,-idle_hlt");
        struct vmcb_control *k = &b.v->control;
        guest(&b, LONG, true);
        vmcb_set_intercept(b.v, SVM_EXIT_IDLE_HLT);
        vmcb_set_intercept(b.v, SVM_EXIT_NMI);
        if (hlt || !has)
            vmcb_set_intercept(b.v, SVM_EXIT_HLT);
        CODE_BYTES(&b, "\xf4");
        /* Nothing is pending, or what V_TPR holds back. */
        k->vintr = low ? VMCB_VINTR_IRQ | VMCB_VINTR_PRIO(8) | VMCB_VINTR_VECTOR(0x55) | 8 : 0;
        expect(&b, has ? SVM_EXIT_IDLE_HLT : SVM_EXIT_HLT);
        assert_int_equal(at(&b), 0);
        assert_int_equal(k->nrip, CODE + 1);
        /* An event is there: an interrupt that IF holds back, an NMI. */
        k->vintr = nmi ? VMCB_VINTR_NMI_ENABLE | VMCB_VINTR_NMI_MASK | VMCB_VINTR_IRQ | VMCB_VINTR_IGN_TPR
                       : VMCB_VINTR_IRQ | VMCB_VINTR_PRIO(8) | VMCB_VINTR_VECTOR(0x55);
        if (hlt || !has) {
            expect(&b, SVM_EXIT_HLT);
        } else {
            mem_code_bump(b.mem);
            b.c->cur = NULL;
            assert_true(svm_vmrun(b.c, VMCB_PA));
            assert_non_null(b.c->guest);
            cpu_run(b.c, 100);
            assert_non_null(b.c->guest);
            assert_int_equal(b.c->activity, ACTIVITY_HLT);
        }
        stop(&b);
    }
}

/* "LBR Virtualization", "Control-Transfer Recording": what the guest's branches leave in the VMCB; BTF. */
static void test_branch_records(void **state)
{
    struct box b;
    start(&b, "max-amd");
    struct vmcb_save *a = &b.v->save;
    guest(&b, LONG, true);
    b.v->control.virt_ext = VMCB_LBR_ENABLE;
    a->dbgctl = 1;
    a->br_from = 0x1234;
    a->lastexcp_to = 0x5678;
    b.c->msr.debugctl = 0;
    b.c->msr.last_branch[0] = 0x4444;
    /* 0: JMP 3; 3: XOR; 5: JNZ, not taken; 7: VMMCALL */
    CODE_BYTES(&b, "\xeb\x01\xf4\x31\xc0\x75\x01\x0f\x01\xd9\x74\x01\xf4\xe8\x01\x00\x00\x00\xf4\x0f\x01\xd9");
    expect(&b, SVM_EXIT_VMMCALL);
    assert_int_equal(a->br_from, CODE);
    assert_int_equal(a->br_to, CODE + 3);
    assert_int_equal(a->lastexcp_to, 0x5678);
    assert_int_equal(a->dbgctl, 1);
    assert_int_equal(b.c->msr.last_branch[0], 0x4444);
    assert_int_equal(b.c->msr.debugctl, 0);
    /* 10: JZ, taken, to 13: CALL 19 */
    a->rip += 3;
    a->rflags |= FLAG_ZF;
    b.v->control.intercept_misc2 |= 2; /* VMMCALL */
    expect(&b, SVM_EXIT_VMMCALL);
    assert_int_equal(a->br_from, CODE + 13);
    assert_int_equal(a->br_to, CODE + 19);
    /* An exception: the branch before it stays in the second pair. */
    a->rip = CODE;
    CODE_BYTES(&b, "\xeb\x01\xf4\xcc");
    expect(&b, SVM_EXIT_VMMCALL);
    in_handler(&b, 3);
    assert_int_equal(a->br_from, CODE + 3);
    assert_int_equal(a->br_to, HANDLERS + 48);
    assert_int_equal(a->lastexcp_from, CODE);
    assert_int_equal(a->lastexcp_to, CODE + 3);
    /* Not asked for. */
    a->rip = CODE;
    a->dbgctl = 0;
    expect(&b, SVM_EXIT_VMMCALL);
    assert_int_equal(a->br_from, CODE + 3);
    /* The guest's own MSRs, and no recording through an intercepted instruction: 0: WRMSR DEBUGCTL = 1; JMP; RDMSR. */
    guest(&b, LONG, true);
    b.v->control.virt_ext = VMCB_LBR_ENABLE;
    CODE_BYTES(&b, "\xb9\xd9\x01\x00\x00\xb8\x01\x00\x00\x00\x31\xd2\x0f\x30\xeb\x00\xeb\x01\xf4\xb9\xdb\x01\x00\x00"
                   "\x0f\x32\x0f\x01\xd9");
    expect(&b, SVM_EXIT_VMMCALL);
    assert_int_equal(a->br_from, CODE + 16);
    assert_int_equal(a->br_to, CODE + 19);
    assert_int_equal(a->rax, CODE + 16);
    assert_int_equal(a->dbgctl, 1);
    /* Without the virtualization the registers are the processor's own. */
    guest(&b, LONG, true);
    b.v->control.virt_ext = 0;
    a->br_from = 0x1111;
    b.c->msr.debugctl = 1;
    CODE_BYTES(&b, "\xeb\x01\xf4\x0f\x01\xd9");
    expect(&b, SVM_EXIT_VMMCALL);
    assert_int_equal(a->br_from, 0x1111);
    assert_int_equal(b.c->msr.last_branch[0], CODE);
    assert_int_equal(b.c->msr.last_branch[1], CODE + 3);
    b.c->msr.debugctl = 0;
    /* BTF: a trap by TF after the branch, and with LBR the records up to it; #DB clears both bits. */
    for (unsigned btf = 0; btf < 2; btf++) {
        guest(&b, LONG, true);
        b.v->control.virt_ext = VMCB_LBR_ENABLE;
        a->dbgctl = 1 | btf << 1;
        a->rflags |= FLAG_TF;
        CODE_BYTES(&b, "\x90\x90\x75\x7f\xeb\x01\xf4\x90");
        a->rflags |= FLAG_ZF;
        expect(&b, SVM_EXIT_VMMCALL);
        in_handler(&b, 1);
        assert_int_equal(words(&b, a->rsp)[0], CODE + (btf ? 7 : 1));
        assert_int_equal(a->dr6 & BIT(14), BIT(14));
        assert_int_equal(a->dbgctl, 0);
        assert_int_equal(a->br_to, btf ? CODE + 7 : 0);
    }
    stop(&b);
}

static void test_vmload(void **state)
{
    struct box b;
    start(&b, "max-amd");
    struct cpu *c = b.c;
    struct vmcb *v = (struct vmcb *)(void *)(b.ram + VMCB2_PA);
    set_seg(&v->save.fs, 0x23, 0x12345000, 0xfffff, 0x893);
    set_seg(&v->save.gs, 0, 0xffff888000000000, 0, 0);
    set_seg(&v->save.tr, 0x40, 0x0200000123456789ull, 0x67, 0x8b);
    set_seg(&v->save.ldtr, 0x48, 0x1000, 0xff, 0x82);
    v->save.kernel_gs_base = 0x0100900000000000;
    v->save.star = 0x1122334455667788;
    v->save.lstar = 0xffffffff81000000;
    v->save.sfmask = 0x47700;
    v->save.sysenter_cs = 0x10;
    assert_true(svm_vmload(c, VMCB2_PA));
    assert_int_equal(c->seg[SEG_FS].base, 0x12345000);
    assert_int_equal(c->seg[SEG_FS].ar, 0x8093);
    assert_true(c->seg[SEG_GS].ar & AR_UNUSABLE);
    assert_int_equal(c->seg[SEG_TR].base, 0x123456789ull); /* canonicalized to the 57 bits that are implemented */
    assert_int_equal(c->msr.kernel_gs_base, 0xff00900000000000 | 0x0100000000000000);
    assert_int_equal(c->msr.star, 0x1122334455667788);
    assert_int_equal(c->msr.lstar, 0xffffffff81000000);
    memset(v, 0, sizeof *v);
    assert_true(svm_vmsave(c, VMCB2_PA));
    assert_int_equal(v->save.fs.attrib, 0x893);
    assert_int_equal(v->save.fs.limit, 0xfffff);
    assert_int_equal(v->save.gs.base, 0xffff888000000000);
    assert_int_equal(v->save.gs.attrib, 0);
    assert_int_equal(v->save.tr.attrib, 0x8b);
    assert_int_equal(v->save.ldtr.sel, 0x48);
    assert_int_equal(v->save.sysenter_cs, 0x10);
    assert_int_equal(v->save.rax, 0);
    /* Virtual VMLOAD and VMSAVE: the guest's address goes through the nested tables. */
    guest(&b, LONG, true);
    b.v->control.virt_ext = VMCB_VIRT_VMSAVE_VMLOAD;
    words(&b, NPT_PT)[G_DATA >> 12] = VMCB2_PA | 7;
    b.v->save.rax = G_DATA;
    memset(v, 0, sizeof *v);
    CODE_BYTES(&b, "\x0f\x01\xdb\x0f\x01\xd9");
    expect(&b, SVM_EXIT_VMMCALL);
    assert_int_equal(v->save.lstar, 0xffffffff81000000);
    words(&b, NPT_PT)[G_DATA >> 12] = 0;
    b.v->save.rip = CODE;
    expect(&b, SVM_EXIT_NPF);
    assert_int_equal(b.v->control.exitinfo2, G_DATA);
    stop(&b);
}

static void test_time(void **state)
{
    struct box b;
    start(&b, "max-amd");
    guest(&b, LONG, true);
    CODE_BYTES(&b, "\x0f\x31\x0f\x01\xd9");
    b.v->control.tsc_offset = 0x100000000000;
    b.c->tsc_base += 1000;
    expect(&b, SVM_EXIT_VMMCALL);
    uint64_t t = (uint32_t)b.v->save.rax | b.c->gpr[GPR_RDX] << 32;
    assert_in_range(t - 0x100000000000, 1, 0xffffffff);
    uint64_t now = cpu_tsc(b.c);
    assert_in_range(now - (t - 0x100000000000), 0, 1000000);
    /* Half speed. */
    b.v->save.rip = CODE;
    b.c->msr.tsc_ratio = SVM_TSC_RATIO_ONE / 2;
    b.v->control.tsc_offset = 0;
    b.c->tsc_base += 0x800000000;
    expect(&b, SVM_EXIT_VMMCALL);
    t = (uint32_t)b.v->save.rax | b.c->gpr[GPR_RDX] << 32;
    assert_in_range(t, 0x400000000, 0x400000000 + 0x10000000);
    /* PAUSE filter: three pass, the fourth exits. */
    guest(&b, LONG, true);
    CODE_BYTES(&b, "\xf3\x90\xf3\x90\xf3\x90\xf3\x90\xf3\x90");
    vmcb_set_intercept(b.v, SVM_EXIT_PAUSE);
    b.v->control.pause_filter_count = 3;
    expect(&b, SVM_EXIT_PAUSE);
    assert_int_equal(at(&b), 6);
    stop(&b);
}

/* "Paged Real Mode": CR0.PE = 0 and PG = 1 is legal in a VMCB alone. */
static void test_paged_real(void **state)
{
    struct box b;
    start(&b, "max-amd");
    for (unsigned nested = 0; nested < 2; nested++) {
        guest(&b, REAL, nested);
        b.v->save.cr0 |= CR0_PG;
        b.v->save.cr3 = G_PDPT_PAE;
        b.v->save.cr4 |= CR4_PAE;
        words(&b, G_PT)[CODE >> 12] = 0x40000 | 7;
        memcpy(b.ram + 0x40000, "\x90\x0f\x20\xc0\x0f\x01\xd9", 7); /* nop; mov eax, cr0; vmmcall */
        expect(&b, SVM_EXIT_VMMCALL);
        assert_int_equal(at(&b), 4);
        assert_int_equal(b.v->save.rax & (CR0_PG | CR0_PE), CR0_PG);
        /* A page fault there; the guest itself cannot come here. */
        guest(&b, REAL, nested);
        b.v->save.cr0 |= CR0_PG;
        b.v->save.cr3 = G_PDPT_PAE;
        b.v->save.cr4 |= CR4_PAE;
        words(&b, G_PT)[0x1b] = 0;
        vmcb_set_intercept(b.v, SVM_EXIT_EXCEPTION + EXC_PF);
        set_seg(&b.v->save.ds, G_DATA >> 4, G_DATA, 0xffff, 0x93);
        CODE_BYTES(&b, "\x88\x07"); /* mov [bx], al */
        b.c->gpr[GPR_RBX] = 4;
        expect(&b, SVM_EXIT_EXCEPTION + EXC_PF);
        assert_int_equal(b.v->control.exitinfo2, G_DATA + 4);
    }
    stop(&b);
}

/* RF of the VMCB holds off one instruction breakpoint. */
static void test_rf(void **state)
{
    struct box b;
    start(&b, "max-amd");
    guest(&b, LONG, true);
    CODE_BYTES(&b, "\x90\x90\x0f\x01\xd9");
    vmcb_set_intercept(b.v, SVM_EXIT_EXCEPTION + EXC_DB);
    b.c->dr[0] = CODE;
    b.v->save.dr7 = 0x402; /* G0: execution */
    b.v->save.rflags |= FLAG_RF;
    expect(&b, SVM_EXIT_VMMCALL);
    b.v->save.rip = CODE;
    b.v->save.rflags &= ~FLAG_RF;
    expect(&b, SVM_EXIT_EXCEPTION + EXC_DB);
    assert_int_equal(at(&b), 0);
    assert_int_equal(b.v->save.dr6 & 15, 1);
    stop(&b);
}

static void test_task_switch(void **state)
{
    struct box b;
    start(&b, "max-amd");
    guest(&b, PROT, true);
    vmcb_set_intercept(b.v, SVM_EXIT_TASK_SWITCH);
    words(&b, G_GDT)[5] = 0x0000890190000067; /* a free TSS at G_TSS */
    words(&b, G_GDT)[6] = 0x00008b01a0000067; /* the busy one */
    b.c->seg[SEG_TR] = (struct seg){.sel = 0x30, .base = 0x1a000, .limit = 0x67, .ar = 0xb | AR_P};
    CODE_BYTES(&b, "\xea\x00\x00\x00\x00\x28\x00"); /* jmp 0x28:0 */
    expect(&b, SVM_EXIT_TASK_SWITCH);
    assert_int_equal(b.v->control.exitinfo1, 0x28);
    assert_int_equal(b.v->control.exitinfo2, SVM_TASK_JMP);
    assert_int_equal(at(&b), 0);
    CODE_BYTES(&b, "\x9a\x00\x00\x00\x00\x28\x00");
    expect(&b, SVM_EXIT_TASK_SWITCH);
    assert_int_equal(b.v->control.exitinfo2, 0);
    stop(&b);
}

static void test_msrs(void **state)
{
    struct box b;
    uint64_t v;
    start(&b, "max-amd");
    struct cpu *c = b.c;
    assert_true(cpu_wrmsr(c, SVM_MSR_VM_HSAVE_PA, 0x3000));
    assert_true(cpu_rdmsr(c, SVM_MSR_VM_HSAVE_PA, &v));
    assert_int_equal(v, 0x3000);
    assert_false(cpu_wrmsr(c, SVM_MSR_VM_HSAVE_PA, 0x3008));
    assert_false(cpu_wrmsr(c, SVM_MSR_VM_HSAVE_PA, 1ull << 60));
    assert_false(cpu_wrmsr(c, SVM_MSR_VM_CR, 0x20));
    assert_false(cpu_wrmsr(c, SVM_MSR_VM_CR, SVM_VM_CR_SVMDIS)); /* EFER.SVME is set */
    c->efer &= ~EFER_SVME;
    assert_true(cpu_wrmsr(c, SVM_MSR_VM_CR, SVM_VM_CR_SVMDIS | SVM_VM_CR_LOCK));
    assert_false(cpu_wrmsr(c, SVM_MSR_EFER, c->efer | EFER_SVME));
    assert_true(cpu_wrmsr(c, SVM_MSR_VM_CR, 0)); /* locked: ignored */
    assert_true(cpu_rdmsr(c, SVM_MSR_VM_CR, &v));
    assert_int_equal(v, SVM_VM_CR_SVMDIS | SVM_VM_CR_LOCK);
    assert_true(cpu_rdmsr(c, SVM_MSR_TSC_RATIO, &v));
    assert_int_equal(v, SVM_TSC_RATIO_ONE);
    assert_false(cpu_wrmsr(c, SVM_MSR_TSC_RATIO, 1ull << 40));
    stop(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_switch),
        cmocka_unit_test(test_instructions),
        cmocka_unit_test(test_unintercepted),
        cmocka_unit_test(test_io),
        cmocka_unit_test(test_msr),
        cmocka_unit_test(test_cr_dr),
        cmocka_unit_test(test_exceptions),
        cmocka_unit_test(test_nested_exceptions),
        cmocka_unit_test(test_injection),
        cmocka_unit_test(test_virtual_interrupts),
        cmocka_unit_test(test_physical_interrupts),
        cmocka_unit_test(test_other_signals),
        cmocka_unit_test(test_virtual_nmi),
        cmocka_unit_test(test_nested_faults),
        cmocka_unit_test(test_asid),
        cmocka_unit_test(test_clean_bits),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_branch_records),
        cmocka_unit_test(test_idle_hlt),
        cmocka_unit_test(test_vmload),
        cmocka_unit_test(test_time),
        cmocka_unit_test(test_paged_real),
        cmocka_unit_test(test_rf),
        cmocka_unit_test(test_task_switch),
        cmocka_unit_test(test_msrs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
