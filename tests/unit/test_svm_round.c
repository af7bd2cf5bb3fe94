/* SPDX-License-Identifier: MIT
 *
 * test_svm_round.c: the public face of VMRUN's rules: vmenter_svm_check() over VMCBs with bytes missing, nearest legal
 * values, vmenter_svm_round(), words; and that VMRUN agrees with all of it.
 *
 * SVM_ROUND=N in the environment: that many random VMCBs are rounded (default 20000). SVM_SEED: where it starts.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "src/arch/model.h"
#include "src/cpu/cpu.h"
#include "src/svm/svm.h"
#include "tests/unit/svm_rules.h"

#define RAM     0x100000u
#define HSAVE   0x3000u
#define VMCB_PA 0x4000u

static uint64_t seed = 0x9e3779b97f4a7c15;
static uint64_t rng(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}
static unsigned below(unsigned n)
{
    return (unsigned)(rng() >> 33) % n;
}

/* --- a processor in root mode ------------------------------------------------------------------------------------- */

struct box {
    struct model model;
    struct mem *mem;
    struct cpu *c;
    uint8_t *ram;
    struct vmcb *v;
};

static void box_start(struct box *b, const char *model)
{
    assert_true(model_parse(&b->model, model, NULL, 0));
    b->mem = mem_create();
    assert_true(b->mem && mem_add_ram(b->mem, HPA(0), RAM));
    b->c = cpu_create(b->mem, &b->model, 0);
    assert_true(b->c && svm_attach(b->c));
    b->ram = mem_host(b->mem, HPA(0), RAM, true);
    b->v = (struct vmcb *)(void *)(b->ram + VMCB_PA);
}
static void box_stop(struct box *b)
{
    svm_detach(b->c);
    cpu_destroy(b->c);
    mem_destroy(b->mem);
}

/* Whether VMRUN takes the VMCB that lies in b's memory. */
static bool vmrun_takes(struct box *b, const struct vmenter_svm_host *host)
{
    struct cpu *c = b->c;
    cpu_reset(c, true);
    c->native_host = true;
    c->efer = EFER_SVME | (host->long_mode == VMENTER_YES ? EFER_LME | EFER_LMA : 0);
    c->cr0 = CR0_PE | CR0_WP | CR0_ET | (host->paging == VMENTER_YES ? CR0_PG : 0);
    c->cr4 = CR4_PAE;
    c->cpl = 0;
    c->gif = true;
    c->msr.vm_hsave_pa = HSAVE;
    c->seg[SEG_CS] = (struct seg){.sel = 8, .limit = 0xffffffff, .ar = 0xb | AR_S | AR_P | AR_L | AR_G};
    c->rip = 0x1111;
    cpu_set_rflags(c, FLAG_1);
    cpu_update_translation(c);
    c->cur = NULL;
    b->v->control.exitcode = 0;
    assert_true(svm_vmrun(c, VMCB_PA));
    return c->guest || b->v->control.exitcode != (uint64_t)SVM_EXIT_INVALID;
}

static bool read_ram(void *opaque, uint64_t address, void *to, size_t bytes)
{
    struct box *b = opaque;
    if (address >= RAM || bytes > RAM - address)
        return false;
    memcpy(to, b->ram + address, bytes);
    return true;
}

/* --- rules -------------------------------------------------------------------------------------------------------- */

/* Each rule broken alone: found alone; the nearest legal value mends it; rounding takes one change. */
static void test_rules(void **state)
{
    struct vmcb v;
    struct vmenter_svm_caps caps;
    struct svm_check k;
    struct vmenter_svm_finding e[SVM_CHECK_COUNT];
    legal(&v, &caps, &k);
    assert_int_equal(vmenter_svm_check(&v, NULL, &caps, &k.host, e, ARRAY_LEN(e)), 0);
    struct vmcb good = v;
    assert_int_equal(vmenter_svm_round(&v, NULL, &caps, &k.host), 0);
    assert_memory_equal(&v, &good, sizeof v);
    for (unsigned n = 0; n < SVM_CHECK_COUNT; n++) {
        legal(&v, &caps, &k);
        breakers[n].f(&v, &caps, &k);
        assert_int_equal(svm_check_list(&v, &k, ~0ull, e, ARRAY_LEN(e)), 1);
        assert_true(e->judged && e->row == n && e->fields >= 1);
        assert_string_equal(e->id, breakers[n].id);
        uint64_t found = 0;
        memcpy(&found, (uint8_t *)&v + e->field[0], e->size);
        assert_int_equal(found, e->found);
        assert_int_equal(e->has_nearest, n != SVM_CHECK_PDPTE_MBZ);
        if (!e->has_nearest)
            continue;
        assert_true(e->nearest != found);
        struct vmcb mended = v;
        memcpy((uint8_t *)&mended + e->field[0], &e->nearest, e->size);
        if (svm_check(&mended, &k, ~0u))
            fail_msg("%s: the nearest legal value 0x%llx is none", e->id, (unsigned long long)e->nearest);
        assert_int_equal(vmenter_svm_round(&v, NULL, &caps, &k.host), 1);
        assert_memory_equal(&v, &mended, sizeof v);
    }
}

/* The same on the processor, as far as a model and a host can be made for it. */
static void test_on_processor(void **state)
{
    struct box b;
    struct vmenter_svm_finding e[4];
    struct vmenter_svm_caps caps, ours;
    struct svm_check k;
    char error[256], text[1200];
    unsigned tried = 0;
    for (unsigned n = 0; n < SVM_CHECK_COUNT; n++) {
        const char *model = n == SVM_CHECK_NP_UNSUPPORTED ? "max-amd,-npt" : "max-amd";
        /* No model has CET; every one with SVM has long mode. */
        if (n == SVM_CHECK_CET_WP || n == SVM_CHECK_S_CET_MBZ || n == SVM_CHECK_LONG_MODE)
            continue;
        assert_true(vmenter_svm_caps_of_model(&caps, model, error));
        box_start(&b, model);
        legal(b.v, &ours, &k);
        k.host.read_memory = read_ram;
        k.host.opaque = &b;
        if (n != SVM_CHECK_NP_UNSUPPORTED)
            assert_true(vmrun_takes(&b, &k.host));
        legal(b.v, &ours, &k);
        k.host.read_memory = read_ram;
        k.host.opaque = &b;
        breakers[n].f(b.v, &ours, &k);
        switch (n) { /* what depends on the model's numbers; memory */
        case SVM_CHECK_CR3_MBZ: b.v->save.cr3 |= BIT(caps.physical_bits); break;
        case SVM_CHECK_NCR3_MBZ: b.v->control.ncr3 |= BIT(caps.physical_bits); break;
        case SVM_CHECK_IOPM_ADDRESS: b.v->control.iopm_base_pa = BIT(caps.physical_bits) - 0x2000; break;
        case SVM_CHECK_MSRPM_ADDRESS: b.v->control.msrpm_base_pa = BIT(caps.physical_bits) - 0x1000; break;
        case SVM_CHECK_ASID_RANGE: b.v->control.guest_asid = caps.asids; break;
        case SVM_CHECK_PDPTE_MBZ: store64(b.ram + b.v->save.cr3 + 24, 0x5021); break;
        }
        assert_int_equal(vmenter_svm_check(b.v, NULL, &caps, &k.host, e, ARRAY_LEN(e)), 1);
        assert_int_equal(e->row, n);
        vmenter_svm_finding_text(e, text, sizeof text - 2);
        strcat(text, "\n");
        if (vmrun_takes(&b, &k.host))
            fail_msg("%s: VMRUN takes it", e->id);
        char said[1200];
        svm_explain(b.c, said, sizeof said);
        assert_string_equal(said, text);
        legal(b.v, &ours, &k);
        box_stop(&b);
        tried++;
    }
    assert_int_equal(tried, SVM_CHECK_COUNT - 3);
}

/* Without a byte, the rules whose verdict depends on it are not judged, the others are. The host likewise. */
static void test_missing(void **state)
{
    struct vmcb v;
    struct vmenter_svm_caps caps;
    struct svm_check k;
    struct vmenter_svm_finding e[SVM_CHECK_COUNT];
    uint8_t known[sizeof v];
    char text[600];
    legal(&v, &caps, &k);
    unsigned mattered = 0;
    for (unsigned at = 0; at < sizeof v; at++) {
        memset(known, 1, sizeof known);
        known[at] = 0;
        size_t n = vmenter_svm_check(&v, known, &caps, &k.host, e, ARRAY_LEN(e));
        mattered += n > 0;
        for (size_t i = 0; i < n; i++) {
            assert_false(e[i].judged);
            assert_true(at >= e[i].lacking && at < e[i].lacking + 8);
            vmenter_svm_finding_text(&e[i], text, sizeof text);
            assert_non_null(strstr(text, "not judged: "));
            assert_null(strstr(text, "not judged: ?"));
        }
    }
    assert_true(mattered > 80 && mattered < 140);
    memset(known, 0, sizeof known);
    size_t n = vmenter_svm_check(&v, known, &caps, &k.host, e, ARRAY_LEN(e));
    assert_true(n > 20);
    for (size_t i = 0; i < n; i++)
        assert_false(e[i].judged);
    struct vmcb before = v;
    assert_int_equal(vmenter_svm_round(&v, known, &caps, &k.host), 0);
    assert_memory_equal(&v, &before, sizeof v);
    /* ASID is known and 0; the rest is not. */
    v.control.guest_asid = 0;
    memset(known + 0x58, 1, 4);
    n = vmenter_svm_check(&v, known, &caps, &k.host, e, ARRAY_LEN(e));
    unsigned broken = 0;
    for (size_t i = 0; i < n; i++)
        broken += e[i].judged;
    assert_int_equal(broken, 1);
    assert_int_equal(vmenter_svm_round(&v, known, &caps, &k.host), 1);
    assert_memory_equal(&v, &before, sizeof v);

    struct vmenter_svm_host nothing = {0};
    v.control.ncr3 = 0x123456789000;
    assert_int_equal(vmenter_svm_check(&v, NULL, &caps, &nothing, e, ARRAY_LEN(e)), 2);
    assert_int_equal(e[0].row, SVM_CHECK_NP_HOST_PAGING);
    assert_int_equal(e[0].lacking, VMENTER_SVM_LACKS_PAGING);
    assert_int_equal(e[1].row, SVM_CHECK_NCR3_MBZ);
    assert_int_equal(e[1].lacking, VMENTER_SVM_LACKS_MODE);
    v.control.nested_ctl = 0;
    v.save.efer = EFER_SVME;
    v.save.cr3 = 0x12345678;
    assert_int_equal(vmenter_svm_check(&v, NULL, &caps, &nothing, e, ARRAY_LEN(e)), 1);
    assert_int_equal(e[0].row, SVM_CHECK_PDPTE_MBZ);
    assert_int_equal(e[0].lacking, VMENTER_SVM_LACKS_MEMORY);
    assert_int_equal(e[0].lacking_address, 0x12345660);
}

static void test_words(void **state)
{
    struct vmcb v;
    struct vmenter_svm_caps caps;
    struct svm_check k;
    struct vmenter_svm_finding e[4];
    char text[400], little[10];
    legal(&v, &caps, &k);
    v.save.cr0 = CR0_PG | CR0_WP | CR0_NW;
    assert_int_equal(vmenter_svm_check(&v, NULL, &caps, &k.host, e, ARRAY_LEN(e)), 2);
    size_t n = vmenter_svm_finding_text(e, text, sizeof text);
    assert_int_equal(n, strlen(text));
    assert_string_equal(text,
                        "CR0_CD_NW: save.cr0 is 0xa0010000: CR0.CD is zero and CR0.NW is set; nearest legal value "
                        "0x80010000: clear \"NW\" (bit 29) (APM volume 2, \"Canonicalization and Consistency "
                        "Checks\")");
    assert_int_equal(vmenter_svm_finding_text(e, little, sizeof little), n);
    assert_string_equal(little, "CR0_CD_NW");
    assert_int_equal(vmenter_svm_finding_text(e, NULL, 0), n);
    vmenter_svm_finding_text(&e[1], text, sizeof text);
    assert_non_null(strstr(text, "set \"PE\" (bit 0)"));
    assert_int_equal(e[1].field[0], offsetof(struct vmcb, save.cr0));
    assert_int_equal(e[1].fields, 2);
    assert_int_equal(e[1].field[1], offsetof(struct vmcb, save.efer));
    assert_string_equal(vmenter_vmcb_field_name(0x58), "control.guest_asid");
    assert_string_equal(vmenter_vmcb_field_name(0x412), "save.cs.attrib");
    assert_string_equal(vmenter_vmcb_field_name(0x400), "save.es.sel");
    assert_null(vmenter_vmcb_field_name(0x59));
    assert_string_equal(vmenter_vmcb_bit_name(0x10, 0), "VMRUN");
    assert_string_equal(vmenter_vmcb_bit_name(0x0c, 18), "CPUID");
    assert_string_equal(vmenter_vmcb_bit_name(0x4d0, 12), "SVME");
    assert_null(vmenter_vmcb_bit_name(0x58, 0));
}

/* A model's capabilities are what a program on it reads. */
static void model_answers(void *opaque, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    struct cpuid_state s = {.cr4 = CR4_OSXSAVE, .xcr0 = 1, .cpus = 1, .mode64 = true};
    model_cpuid(opaque, &s, leaf, subleaf, out);
}
static void test_caps(void **state)
{
    static const char *const models[] = {"max-amd", "max-amd,-npt,-vnmi", "max-amd,-smep,-nx,-flushbyasid",
                                         "opteron-g3"};
    struct vmenter_svm_caps any, read, named;
    char error[256];
    vmenter_svm_caps_any(&any);
    for (unsigned i = 0; i < ARRAY_LEN(models); i++) {
        struct model m;
        if (!model_parse(&m, models[i], error, sizeof error))
            continue;
        memset(&read, 0, sizeof read);
        memset(&named, 0, sizeof named);
        assert_true(vmenter_svm_caps_of_model(&named, models[i], error));
        vmenter_svm_caps_read(&read, model_answers, &m);
        assert_int_equal(read.cr4_bits, named.cr4_bits);
        assert_int_equal(read.efer_bits, named.efer_bits);
        assert_int_equal(read.asids, named.asids);
        assert_int_equal(read.physical_bits, named.physical_bits);
        assert_int_equal(read.long_mode, named.long_mode);
        assert_int_equal(read.nested_paging, named.nested_paging);
        assert_int_equal(read.flush_by_asid, named.flush_by_asid);
        assert_int_equal(read.vnmi, named.vnmi);
        assert_int_equal(named.cr4_bits & ~any.cr4_bits, 0);
        assert_int_equal(named.efer_bits & ~any.efer_bits, 0);
    }
    assert_false(vmenter_svm_caps_of_model(&named, "max", error));
    assert_non_null(strstr(error, "no SVM"));
    assert_false(vmenter_svm_caps_of_model(&named, "frobnicator", NULL));
}

/* --- rounding ----------------------------------------------------------------------------------------------------- */

static void random_vmcb(struct vmcb *v, const struct vmcb *good)
{
    uint8_t *p = (uint8_t *)v;
    *v = *good;
    if (!below(8))
        for (unsigned i = 0; i < sizeof *v; i += 8)
            store64(p + i, rng());
    if (!below(3)) /* a PAE guest without nested paging */
        v->save.efer = EFER_SVME, v->control.nested_ctl = 0, v->save.cr3 = rng() & (RAM - 1);
    for (unsigned n = below(8); n; n--) {
        unsigned at = below(2) ? below(0x130) : 0x400 + below(0x2f0);
        switch (below(4)) {
        case 0: p[at] ^= (uint8_t)(1u << below(8)); break;
        case 1: p[at] = (uint8_t)rng(); break;
        case 2: store64(p + (at & ~7u), BIT(below(64))); break;
        default: store64(p + (at & ~7u), rng()); break;
        }
    }
    if (!below(4))
        v->control.eventinj = VMCB_EVENT_VALID | (rng() & 0xffffffff00000fff);
    if (!below(8))
        v->control.tlb_control = (uint8_t)below(9);
    if ((v->save.cr3 & 0xfffff000) == VMCB_PA) /* its PDPTEs would be the VMCB's own bytes, which VMRUN writes */
        v->save.cr3 ^= 0x10000;
}

static void test_round(void **state)
{
    const char *env = getenv("SVM_ROUND"), *from = getenv("SVM_SEED");
    unsigned long count = env ? strtoul(env, NULL, 0) : 20000, whole = 0, changed = 0;
    struct box b;
    struct vmcb good, random, v;
    struct vmenter_svm_caps ours, caps;
    struct svm_check k;
    struct vmenter_svm_finding e[SVM_CHECK_COUNT];
    if (from)
        seed = strtoull(from, NULL, 0) | 1;
    box_start(&b, "max-amd");
    assert_true(vmenter_svm_caps_of_model(&caps, "max-amd", NULL));
    legal(&good, &ours, &k);
    for (unsigned i = 0x8000; i < RAM; i += 8) /* what may be PDPTEs */
        store64(b.ram + i, below(3) ? rng() & 0xffffff9 : rng());
    for (unsigned long i = 0; i < count; i++) {
        uint64_t at = seed;
        struct vmenter_svm_host host = {
            .paging = below(8) ? VMENTER_YES : VMENTER_NO,
            .long_mode = VMENTER_NO,
            .read_memory = read_ram,
            .opaque = &b,
        };
        if (host.paging == VMENTER_YES)
            host.long_mode = below(4) ? VMENTER_YES : VMENTER_NO;
        random_vmcb(&random, &good);
        v = random;
        size_t n = vmenter_svm_check(&random, NULL, &caps, &host, e, ARRAY_LEN(e));
        bool broken = false, all = true;
        for (size_t z = 0; z < n; z++)
            broken |= e[z].judged, all &= e[z].judged;
        if (all) { /* else its PDPTEs lie outside memory */
            *b.v = random;
            if (vmrun_takes(&b, &host) == broken)
                fail_msg("seed 0x%llx: VMRUN says otherwise", (unsigned long long)at);
        }
        int changes = vmenter_svm_round(&v, NULL, &caps, &host);
        if (changes < 0 || (changes > 0) != broken || (!broken && memcmp(&v, &random, sizeof v)))
            fail_msg("seed 0x%llx: %d changes", (unsigned long long)at, changes);
        n = vmenter_svm_check(&v, NULL, &caps, &host, e, ARRAY_LEN(e));
        for (size_t z = 0; z < n; z++)
            if (e[z].judged)
                fail_msg("seed 0x%llx: %s is broken after rounding", (unsigned long long)at, e[z].id);
        struct vmcb again = v;
        assert_int_equal(vmenter_svm_round(&again, NULL, &caps, &host), 0);
        if (!n) {
            *b.v = v;
            if (!vmrun_takes(&b, &host)) {
                char text[1200];
                svm_explain(b.c, text, sizeof text);
                fail_msg("seed 0x%llx: rounded, and refused: %s", (unsigned long long)at, text);
            }
            memset(b.v, 0, sizeof *b.v);
        }
        whole += !broken;
        changed += (unsigned)changes;
    }
    print_message("%lu VMCBs, %lu whole, %lu changes\n", count, whole, changed);
    assert_true(count < 1000 || (whole > count / 20 && changed > count / 4));
    box_stop(&b);
}

/* Capabilities that contradict the rules: no end, and no claim. */
static void test_contradiction(void **state)
{
    struct vmcb v;
    struct vmenter_svm_caps caps;
    struct svm_check k;
    legal(&v, &caps, &k);
    caps.asids = 1;
    assert_int_equal(vmenter_svm_round(&v, NULL, &caps, &k.host), -1);
    legal(&v, &caps, &k);
    caps.efer_bits &= ~EFER_SVME;
    assert_int_equal(vmenter_svm_round(&v, NULL, &caps, &k.host), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules),         cmocka_unit_test(test_on_processor), cmocka_unit_test(test_missing),
        cmocka_unit_test(test_words),         cmocka_unit_test(test_caps),         cmocka_unit_test(test_round),
        cmocka_unit_test(test_contradiction),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
