/* SPDX-License-Identifier: MIT
 *
 * Random VMCBs: whatever stands in one, VMRUN ends in a #VMEXIT, a halt, a shutdown or at its budget, the host state
 * comes back whole, and a refusal names a rule. Meant for the sanitizer build. VMENTER_RANDOM=N: so many VMCBs (default
 * 3000).
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

#define RAM     0x400000u
#define PML4    0x1000u
#define PDPT    0x2000u
#define HSAVE   0x3000u
#define VMCB_PA 0x4000u
#define MAPS    0x5000u /* 16 KiB: I/O and MSR permission maps */
#define NPT     0x9000u /* PML4, PDPT */
#define TABLES  0xb000u /* what guest paging may stand on: 8 pages */
#define CODE    0x20000u

static uint64_t seed = 1;
static uint64_t rnd(void)
{
    uint64_t z = seed += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}
static bool chance(unsigned in)
{
    return rnd() % in == 0;
}

/* Numbers that rules are about. */
static uint64_t odd_value(void)
{
    static const uint64_t few[] = {0,
                                   1,
                                   0xfff,
                                   0x1000,
                                   0x7fffffff,
                                   0x80000000,
                                   0xffffffff,
                                   0x100000000,
                                   0x7fffffffffff,
                                   0x800000000000,
                                   0xffff800000000000,
                                   ~0ull,
                                   ~0ull - 0xfff,
                                   1ull << 63};
    switch (rnd() % 4) {
    case 0: return few[rnd() % ARRAY_LEN(few)];
    case 1: return 1ull << rnd() % 64;
    case 2: return rnd() & (RAM - 1);
    default: return rnd();
    }
}

static uint64_t *words(uint8_t *ram, uint64_t pa)
{
    return (uint64_t *)(void *)(ram + pa);
}

static void likely_guest(struct vmcb *v, unsigned kind)
{
    struct vmcb_save *a = &v->save;
    memset(v, 0, sizeof *v);
    vmcb_set_intercept(v, SVM_EXIT_VMRUN);
    vmcb_set_intercept(v, SVM_EXIT_VMMCALL);
    if (!chance(8))
        vmcb_set_intercept(v, SVM_EXIT_SHUTDOWN);
    v->control.guest_asid = 1 + rnd() % 3;
    v->control.tlb_control = chance(2) ? VMCB_TLB_FLUSH_ALL : VMCB_TLB_NOTHING;
    v->control.iopm_base_pa = v->control.msrpm_base_pa = MAPS;
    if (rnd() & 1) {
        v->control.nested_ctl = VMCB_NP_ENABLE;
        v->control.ncr3 = NPT;
    }
    a->g_pat = 0x0007040600070406;
    a->efer = EFER_SVME;
    a->cr0 = CR0_ET | CR0_NE;
    a->dr6 = 0xffff0ff0;
    a->dr7 = 0x400;
    a->rflags = FLAG_1 | (rnd() & FLAG_IF) | (chance(8) ? FLAG_TF : 0);
    a->gdtr.base = a->idtr.base = TABLES;
    a->gdtr.limit = a->idtr.limit = 0xfff;
    a->cs = (struct vmcb_seg){8, 0xc9b, 0xffffffff, 0};
    a->ss = a->ds = a->es = (struct vmcb_seg){16, 0xc93, 0xffffffff, 0};
    a->rip = CODE;
    a->rsp = 0x30000;
    switch (kind % 5) {
    case 0:
        a->cs = (struct vmcb_seg){CODE >> 4, 0x9b, 0xffff, CODE};
        a->rip = 0;
        break;
    case 1: a->cr0 |= CR0_PE; break;
    case 2:
        a->cr0 |= CR0_PE | CR0_PG;
        a->cr3 = TABLES;
        a->cr4 = rnd() & CR4_PSE;
        break;
    case 3:
        a->cr0 |= CR0_PE | CR0_PG;
        a->cr3 = TABLES;
        a->cr4 = CR4_PAE;
        break;
    case 4:
        a->cr0 |= CR0_PE | CR0_PG;
        a->cr3 = chance(2) ? PML4 : TABLES;
        a->cr4 = CR4_PAE;
        a->efer |= EFER_LME | EFER_LMA;
        a->cs.attrib = 0xa9b;
        break;
    }
}

static void disturb(struct vmcb *v)
{
    unsigned n = (unsigned)(rnd() % 6);
    uint8_t *p = (uint8_t *)v;
    while (n--) {
        unsigned at = (unsigned)(chance(2) ? rnd() % 0x130 : 0x400 + rnd() % 0x2f0);
        switch (rnd() % 4) {
        case 0: p[at] ^= (uint8_t)(1u << rnd() % 8); break;
        case 1: p[at] = (uint8_t)rnd(); break;
        default: store64(p + (at & ~7u), odd_value()); break;
        }
    }
    if (chance(3))
        v->control.eventinj = VMCB_EVENT_VALID | (rnd() & 0xffffffff00000fff);
    if (chance(3))
        v->control.vintr = rnd();
    if (chance(4))
        memset(v, (int)rnd(), 0x18); /* all or no intercepts */
    if (chance(50))
        for (unsigned i = 0; i < sizeof *v; i += 8)
            store64(p + i, rnd());
}

static void test_random(void **state)
{
    const char *env = getenv("VMENTER_RANDOM");
    const char *from = getenv("VMENTER_RANDOM_FROM");
    unsigned long first = from ? strtoul(from, NULL, 0) : 0, count = env ? strtoul(env, NULL, 0) : 3000, entered = 0,
                  refused = 0;
    struct model model;
    assert_true(model_parse(&model, "max-amd", NULL, 0));
    struct mem *mem = mem_create();
    assert_true(mem && mem_add_ram(mem, HPA(0), RAM));
    struct cpu *c = cpu_create(mem, &model, 0);
    assert_true(c && svm_attach(c));
    c->native_host = true;
    uint8_t *ram = mem_host(mem, HPA(0), RAM, true);
    struct vmcb *v = (struct vmcb *)(void *)(ram + VMCB_PA);

    for (unsigned long i = first; i < first + count; i++) {
        seed = 0x1000 + i;
        words(ram, PML4)[0] = PDPT | 7;
        words(ram, PDPT)[0] = 0x87;
        words(ram, NPT)[0] = (NPT + 0x1000) | 7;
        words(ram, NPT + 0x1000)[0] = 0x87;
        for (unsigned k = 0; k < 0x8000; k += 8)
            words(ram, TABLES)[k / 8] = chance(4) ? rnd() : (rnd() & (RAM - 0x1000)) | (rnd() & 0x1ff);
        for (unsigned k = 0; k < 64; k += 8)
            words(ram, CODE)[k / 8] = rnd();
        for (unsigned k = 0; k < 0x4000; k += 8)
            words(ram, MAPS)[k / 8] = rnd() & 1 ? 0 : rnd();
        mem_code_bump(mem);
        likely_guest(v, (unsigned)rnd());
        disturb(v);

        uint64_t host_cr4 = CR4_PAE | CR4_OSFXSR | (chance(8) ? CR4_PCIDE : 0);
        c->guest = NULL;
        c->efer = EFER_SVME | EFER_LME | EFER_LMA | EFER_NXE;
        c->cr0 = CR0_PE | CR0_PG | CR0_WP | CR0_ET;
        c->cr3 = PML4;
        c->cr4 = host_cr4;
        c->cpl = 0;
        c->gif = true;
        c->nmi_blocked = c->nmi_pending = c->smi_pending = c->init_pending = false;
        c->seg[SEG_CS] = (struct seg){.sel = 8, .limit = 0xffffffff, .ar = 0xb | AR_S | AR_P | AR_L | AR_G};
        c->msr.vm_hsave_pa = HSAVE;
        c->rip = 0x1111;
        cpu_set_rflags(c, FLAG_1);
        cpu_update_translation(c);
        c->cur = NULL;
        c->activity = ACTIVITY_ACTIVE;
        for (unsigned r = 0; r < 16; r++)
            c->gpr[r] = odd_value();
        c->gpr[GPR_RSP] = 0x2222;
        if (chance(10))
            cpu_attend(c, 1u << rnd() % 4);

        assert_true(svm_vmrun(c, VMCB_PA));
        enum cpu_stop stop = STOP_EXIT;
        if (c->guest) {
            entered++;
            assert_true(svm_explain(c, NULL, 0) == 0);
            stop = cpu_run(c, 300);
            if (c->guest && stop != STOP_SHUTDOWN) { /* the budget is over, or it halts: NMIs get it out or not */
                stop = cpu_run(c, 50);
            }
        } else if (v->control.exitcode == (uint64_t)SVM_EXIT_INVALID) {
            char text[2048];
            refused++;
            assert_true(svm_explain(c, text, sizeof text) > 0);
        }
        if (c->guest) {
            cpu_reset(c, true);
            continue;
        }
        if (stop == STOP_EXIT) {
            if (c->gpr[GPR_RSP] != 0x2222)
                print_error("seed %lu, exit code 0x%llx\n", i, (unsigned long long)v->control.exitcode);
            assert_int_equal(c->cr3, PML4);
            assert_int_equal(c->cr4, host_cr4);
            assert_int_equal(c->rip, 0x1111);
            assert_int_equal(c->gpr[GPR_RSP], 0x2222);
            assert_int_equal(c->cpl, 0);
            assert_int_equal(c->vpid, 0);
            assert_int_equal(c->icpt, 0);
            assert_false(c->gif);
            assert_non_null(svm_exit_name(v->control.exitcode, NULL));
        } else {
            cpu_reset(c, true);
        }
    }
    print_message("%lu VMCBs, %lu entered, %lu refused\n", count, entered, refused);
    assert_true(entered > count / 10);
    assert_true(refused > count / 10);
    svm_detach(c);
    cpu_destroy(c);
    mem_destroy(mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
