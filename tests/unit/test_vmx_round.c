/* SPDX-License-Identifier: MIT
 *
 * test_vmx_round.c: the public face of the rules: vmenter_vmx_check() over images with fields missing, nearest legal
 * values, vmenter_vmx_round(), words.
 *
 * VMX_ROUND=N in the environment: that many random VMCSs are rounded (default 20000). VMX_SEED: where it starts.
 */
#include "vmx_rig.h"

#define RULES_VMCS  RIG_VMCS
#define RULES_VAPIC RIG_VAPIC
#include "tests/images/vmx_rules.h"

static uint64_t rng_state = 0x9e3779b97f4a7c15;
static uint64_t rng(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}
static unsigned below(unsigned n)
{
    return (unsigned)(rng() >> 33) % n;
}

static struct vmenter_vmx_host rig_host(struct rig *r)
{
    return rig_check(r, NULL, NULL).host;
}

static bool read_slot(void *opaque, uint32_t encoding, uint64_t *value)
{
    return vmx_vmread(((struct rig *)opaque)->c, encoding, value) == VMX_SUCCEED;
}

static void image_of(struct rig *r, struct vmenter_vmcs *v)
{
    vmenter_vmcs_read(v, read_slot, r);
}

static void break_it(struct vmenter_vmcs *v, const struct breaking *k)
{
    for (unsigned n = 0; n < ARRAY_LEN(k->c) && k->c[n].how; n++) {
        const struct change *c = &k->c[n];
        uint64_t old = 0;
        vmenter_vmcs_get(v, c->field, &old);
        assert_true(vmenter_vmcs_set(v, c->field,
                                     c->how == '='   ? c->value
                                     : c->how == '|' ? old | c->value
                                                     : old & ~c->value));
    }
}

static void test_image(void **state)
{
    struct vmenter_vmcs v = {0};
    uint64_t x;
    assert_false(vmenter_vmcs_get(&v, VMCS_GUEST_RIP, &x));
    assert_true(vmenter_vmcs_set(&v, VMCS_GUEST_RIP, 0x123456789abcdef0));
    assert_true(vmenter_vmcs_get(&v, VMCS_GUEST_RIP, &x) && x == 0x123456789abcdef0);
    assert_true(vmenter_vmcs_set(&v, VMCS_GUEST_CS_SELECTOR, 0x12345));
    assert_true(vmenter_vmcs_get(&v, VMCS_GUEST_CS_SELECTOR, &x) && x == 0x2345);
    assert_true(vmenter_vmcs_set(&v, VMCS_GUEST_CS_LIMIT, 0x123456789));
    assert_true(vmenter_vmcs_get(&v, VMCS_GUEST_CS_LIMIT, &x) && x == 0x23456789);
    assert_true(vmenter_vmcs_set(&v, VMCS_EPT_POINTER, 0x1122334455667788));
    assert_true(vmenter_vmcs_set(&v, VMCS_EPT_POINTER + VMCS_HIGH, 0x99));
    assert_true(vmenter_vmcs_get(&v, VMCS_EPT_POINTER, &x) && x == 0x9955667788);
    assert_true(vmenter_vmcs_get(&v, VMCS_EPT_POINTER + VMCS_HIGH, &x) && x == 0x99);
    assert_false(vmenter_vmcs_get(&v, VMCS_GUEST_RIP + VMCS_HIGH, &x));
    assert_false(vmenter_vmcs_set(&v, VMCS_GUEST_RIP + VMCS_HIGH, 1));
    assert_false(vmenter_vmcs_set(&v, 0x7ffe, 1));
    assert_false(vmenter_vmcs_get(&v, 0x7ffe, &x));
}

/* Each rule broken alone: found, with its area's outcome; the nearest legal value mends it; rounding mends all. */
static void test_rules(void **state)
{
    struct rig *r = rig_create("max");
    struct vmenter_vmx_caps caps;
    struct vmenter_vmx_finding e[8], again[VMX_CHECK_COUNT];
    vmx_caps_publish(&r->x->caps, &caps);
    struct vmenter_vmx_host host = rig_host(r);
    for (unsigned i = 0; i < ARRAY_LEN(breakings); i++) {
        const struct breaking *k = &breakings[i];
        struct vmenter_vmcs v;
        uint64_t q = 99;
        rig_vmcs(r, k->mode);
        image_of(r, &v);
        assert_int_equal(vmenter_vmx_check(&v, &caps, &host, e, ARRAY_LEN(e)), 0);
        assert_int_equal(vmenter_vmx_outcome(e, 0, &q), 0);
        struct vmenter_vmcs good = v;
        assert_int_equal(vmenter_vmx_round(&v, &caps, &host), 0);
        assert_memory_equal(&v, &good, sizeof v);
        break_it(&v, k);
        host.ia32e_mode = k->outside_ia32e ? VMENTER_NO : VMENTER_YES;
        size_t n = vmenter_vmx_check(&v, &caps, &host, e, ARRAY_LEN(e)), at = 0;
        while (at < n && at < ARRAY_LEN(e) && e[at].row != k->row)
            at++;
        if (at == n || at == ARRAY_LEN(e))
            fail_msg("%u: %s is not found", i, vmx_check_id(k->row));
        const struct vmenter_vmx_finding *f = &e[at];
        assert_true(f->judged && f->fields >= 1);
        uint64_t found;
        assert_true(vmenter_vmcs_get(&v, f->field[0], &found) && found == f->found);
        assert_int_equal(vmenter_vmx_outcome(f, 1, &q), !strncmp(f->id, "e", 1)   ? 7
                                                        : !strncmp(f->id, "h", 1) ? 8
                                                                                  : 0x80000021);
        assert_int_equal(f->has_nearest, f->row != VMX_CHECK_PDPTE_MEMORY);
        if (f->has_nearest) {
            assert_true(f->nearest != found);
            struct vmenter_vmcs mended = v;
            vmenter_vmcs_set(&mended, f->field[0], f->nearest);
            size_t m = vmenter_vmx_check(&mended, &caps, &host, again, ARRAY_LEN(again));
            for (size_t z = 0; z < m; z++)
                if (again[z].row == f->row)
                    fail_msg("%s: the nearest legal value 0x%llx breaks it too", f->id, (unsigned long long)f->nearest);
        }
        int changes = vmenter_vmx_round(&v, &caps, &host);
        if (changes < 1 || changes > 8 || vmenter_vmx_check(&v, &caps, &host, e, ARRAY_LEN(e)))
            fail_msg("%s: rounded in %d changes", vmx_check_id(k->row), changes);
        host.ia32e_mode = VMENTER_YES;
    }
    rig_destroy(r);
}

/* Without a field, the rules whose verdict depends on it are not judged, the others are; what is broken by what is
 * known stays so. Memory, pointer and mode likewise. */
static void test_missing(void **state)
{
    struct rig *r = rig_create("max");
    struct vmenter_vmx_caps caps;
    static struct vmenter_vmx_finding e[VMX_CHECK_COUNT];
    vmx_caps_publish(&r->x->caps, &caps);
    struct vmenter_vmx_host host = rig_host(r);
    struct vmenter_vmcs v, w;
    rig_vmcs(r, RIG_LONG);
    image_of(r, &v);
    unsigned silent = 0;
    for (unsigned slot = 0; slot < F_COUNT; slot++) {
        w = v;
        w.known[slot / 64] &= ~BIT(slot % 64);
        size_t n = vmenter_vmx_check(&w, &caps, &host, e, ARRAY_LEN(e));
        silent += !n;
        for (size_t i = 0; i < n; i++) {
            assert_false(e[i].judged);
            assert_int_equal(e[i].lacking, vmcs_encoding_of(slot));
        }
        assert_int_equal(vmenter_vmx_outcome(e, n, NULL), 0);
    }
    assert_true(silent > 30 && silent < F_COUNT - 60);
    /* VPID does not matter without the control. */
    w = v;
    uint64_t proc2;
    vmenter_vmcs_get(&w, VMCS_PROC2_CONTROLS, &proc2);
    vmenter_vmcs_set(&w, VMCS_PROC2_CONTROLS, proc2 & ~(uint64_t)VMX_PROC2_ENABLE_VPID);
    w.known[F_VPID / 64] &= ~BIT(F_VPID % 64);
    assert_int_equal(vmenter_vmx_check(&w, &caps, &host, e, 1), 0);
    /* Nothing is known. */
    memset(&w, 0, sizeof w);
    size_t n = vmenter_vmx_check(&w, &caps, &host, e, ARRAY_LEN(e));
    assert_true(n > 60);
    for (size_t i = 0; i < n; i++)
        assert_false(e[i].judged);
    struct vmenter_vmcs nothing = w;
    assert_int_equal(vmenter_vmx_round(&w, &caps, &host), 0);
    assert_memory_equal(&w, &nothing, sizeof w);
    /* The host. */
    vmenter_vmcs_set(&v, VMCS_VMCS_LINK_POINTER, 0x5000);
    struct vmenter_vmx_host blind = {0};
    n = vmenter_vmx_check(&v, &caps, &blind, e, ARRAY_LEN(e));
    assert_int_equal(n, 4);
    assert_string_equal(e[0].id, "host.address-space.outside-ia32e");
    assert_int_equal(e[0].lacking, VMENTER_VMX_LACKS_MODE);
    assert_string_equal(e[1].id, "host.address-space.in-ia32e");
    assert_string_equal(e[2].id, "guest.link-pointer.revision");
    assert_int_equal(e[2].lacking, VMENTER_VMX_LACKS_MEMORY);
    assert_int_equal(e[2].lacking_address, 0x5000);
    assert_string_equal(e[3].id, "guest.link-pointer.current");
    assert_int_equal(e[3].lacking, VMENTER_VMX_LACKS_POINTER);
    char text[400];
    vmenter_vmx_finding_text(&e[2], text, sizeof text);
    assert_non_null(strstr(text, "not judged: memory at 0x5000 is not known"));
    rig_destroy(r);
}

static void test_words(void **state)
{
    struct rig *r = rig_create("max");
    struct vmenter_vmx_caps caps;
    struct vmenter_vmx_finding e[4];
    char text[400], little[10];
    vmx_caps_publish(&r->x->caps, &caps);
    struct vmenter_vmx_host host = rig_host(r);
    struct vmenter_vmcs v;
    rig_vmcs(r, RIG_LONG);
    image_of(r, &v);
    vmenter_vmcs_set(&v, VMCS_GUEST_CS_ACCESS_RIGHTS, 0xe09b);
    assert_int_equal(vmenter_vmx_check(&v, &caps, &host, e, ARRAY_LEN(e)), 1);
    size_t n = vmenter_vmx_finding_text(e, text, sizeof text);
    assert_int_equal(n, strlen(text));
    assert_string_equal(text, "guest.cs.ar.l-and-db: GUEST_CS_ACCESS_RIGHTS is 0xe09b: CS: D/B must be 0 in an IA-32e "
                              "mode guest with L set; nearest legal value 0xa09b: clear bit 14 (SDM 3C, \"Checks on "
                              "Guest Segment Registers\")");
    assert_int_equal(vmenter_vmx_finding_text(e, little, sizeof little), n);
    assert_string_equal(little, "guest.cs.");
    assert_int_equal(vmenter_vmx_finding_text(e, NULL, 0), n);
    /* What the verdict depends on. */
    assert_int_equal(e[0].field[0], VMCS_GUEST_CS_ACCESS_RIGHTS);
    bool entry = false, rflags = false;
    for (unsigned i = 1; i < e[0].fields; i++)
        entry |= e[0].field[i] == VMCS_ENTRY_CONTROLS, rflags |= e[0].field[i] == VMCS_GUEST_RFLAGS;
    assert_true(entry && rflags && e[0].fields == 3);
    image_of(r, &v);
    uint64_t pin;
    vmenter_vmcs_get(&v, VMCS_PIN_CONTROLS, &pin);
    vmenter_vmcs_set(&v, VMCS_PIN_CONTROLS, (pin & ~2ull) | VMX_PIN_VIRTUAL_NMIS);
    assert_int_equal(vmenter_vmx_check(&v, &caps, &host, e, ARRAY_LEN(e)), 2);
    vmenter_vmx_finding_text(&e[0], text, sizeof text);
    assert_non_null(strstr(text, "set bit 1 "));
    vmenter_vmx_finding_text(&e[1], text, sizeof text);
    assert_non_null(strstr(text, "set \"NMI exiting\" (bit 3)"));
    rig_destroy(r);
}

/* A model's capabilities are what a program on it reads. */
static uint64_t rig_rdmsr(void *opaque, uint32_t msr)
{
    uint64_t v = 0;
    assert_true(vmx_caps_msr(&((struct rig *)opaque)->x->caps, msr, &v));
    return v;
}
static void rig_cpuid(void *opaque, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    struct rig *r = opaque;
    struct cpuid_state s = {.cr4 = r->c->cr4, .xcr0 = 1, .cpus = 1, .mode64 = true};
    model_cpuid(&r->model, &s, leaf, subleaf, out);
}
static void test_caps(void **state)
{
    static const char *const models[] = {"penryn", "nehalem", "icelake-server", "max", "max,-ept,-vpid,-true_ctls"};
    for (unsigned i = 0; i < ARRAY_LEN(models); i++) {
        struct rig *r = rig_create(models[i]);
        struct vmenter_vmx_caps caps, named;
        struct vmx_caps decoded;
        char error[256];
        vmenter_vmx_caps_read(&caps, rig_rdmsr, rig_cpuid, r);
        assert_true(vmenter_vmx_caps_of_model(&named, models[i], error));
        assert_memory_equal(caps.msr, named.msr, sizeof caps.msr);
        assert_int_equal(caps.efer_bits, named.efer_bits);
        assert_int_equal(caps.physical_bits, named.physical_bits);
        assert_int_equal(caps.linear_bits, named.linear_bits);
        assert_int_equal(caps.perf_global_bits, named.perf_global_bits);
        assert_int_equal(caps.debugctl_bits, named.debugctl_bits);
        memcpy(decoded.field, r->x->caps.field, sizeof decoded.field);
        vmx_caps_decode(&caps, &decoded);
#define SAME(member) assert_memory_equal(&decoded.member, &r->x->caps.member, sizeof decoded.member)
        SAME(pin), SAME(proc), SAME(proc2), SAME(proc3), SAME(exit), SAME(exit2), SAME(entry), SAME(vmfunc);
        SAME(basic), SAME(misc), SAME(ept_vpid), SAME(cr0_fixed0), SAME(cr0_fixed1), SAME(cr4_fixed0), SAME(cr4_fixed1);
        rig_destroy(r);
    }
    char error[256] = "";
    struct vmenter_vmx_caps caps;
    assert_false(vmenter_vmx_caps_of_model(&caps, "max-amd", error));
    assert_non_null(strstr(error, "VMX"));
    assert_false(vmenter_vmx_caps_of_model(&caps, "frobnicator", NULL));
}

static void mutate(struct vmenter_vmcs *v)
{
    unsigned kind = below(4), n = 1 + below(12);
    for (unsigned slot = 0; kind == 0 && slot < F_COUNT; slot++)
        vmenter_vmcs_set(v, vmcs_encoding_of(slot), rng() >> (below(2) ? below(64) : 0));
    for (unsigned i = 0; kind && i < n; i++) {
        uint32_t e = vmcs_encoding_of(below(F_COUNT));
        uint64_t old = 0;
        vmenter_vmcs_get(v, e, &old);
        vmenter_vmcs_set(v, e,
                         kind == 1   ? old ^ BIT(below(64))
                         : kind == 2 ? rng()
                                     : old ^ BIT(below(32)) ^ BIT(below(16)));
    }
}

/* Rounded, a VMCS breaks nothing, and the processor enters. */
/* any: by the rules alone, of a processor that has all that the manual has. */
static void round_many(const char *model, unsigned long count, bool any)
{
    static const enum rig_mode modes[] = {RIG_REAL, RIG_PROT16, RIG_PROT32, RIG_PAGED32, RIG_V86, RIG_LONG, RIG_LONG};
    struct rig *r = rig_create(model);
    struct vmenter_vmx_caps caps;
    struct vmenter_vmx_finding e[4];
    vmx_caps_publish(&r->x->caps, &caps);
    if (any)
        vmenter_vmx_caps_any(&caps);
    struct vmenter_vmx_host host = rig_host(r);
    struct vmenter_vmcs base[ARRAY_LEN(modes)], v;
    for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
        rig_vmcs(r, modes[i]);
        image_of(r, &base[i]);
        uint64_t old;
        for (unsigned slot = 0; any && slot < F_COUNT; slot++)
            if (!vmenter_vmcs_get(&base[i], vmcs_encoding_of(slot), &old))
                vmenter_vmcs_set(&base[i], vmcs_encoding_of(slot), 0);
    }
    unsigned long broken = 0, entered = 0;
    for (unsigned long i = 0; i < count; i++) {
        v = base[below(ARRAY_LEN(modes))];
        mutate(&v);
        bool enter = i % 8 == 0 && !any;
        if (enter) {
            rig_host_state(r->c);
            rig_vmcs(r, RIG_REAL); /* memory too */
        }
        size_t n = vmenter_vmx_check(&v, &caps, &host, e, 1);
        struct vmenter_vmcs before = v;
        int changes = vmenter_vmx_round(&v, &caps, &host);
        if (!n && (changes || memcmp(&v, &before, sizeof v)))
            fail_msg("%lu: a VMCS that breaks nothing was changed", i);
        if (changes < 0 || vmenter_vmx_check(&v, &caps, &host, e, ARRAY_LEN(e))) {
            vmenter_vmx_check(&v, &caps, &host, e, ARRAY_LEN(e));
            char text[400];
            vmenter_vmx_finding_text(e, text, sizeof text);
            fail_msg("%s %lu: %d changes, and still %s", model, i, changes, text);
        }
        broken += n != 0;
        int differ = 0;
        for (unsigned slot = 0; slot < F_COUNT; slot++)
            differ += v.value[slot] != before.value[slot];
        assert_int_equal(differ, changes);
        if (!enter)
            continue;
        for (unsigned slot = 0; slot < F_COUNT; slot++)
            if (r->x->caps.field[slot] && vmcs_rows[slot].type != VMCS_TYPE_READ_ONLY)
                rig_w(r, vmcs_rows[slot].encoding, v.value[slot]);
        enum vmx_result result = vmx_vmlaunch(r->c);
        assert_int_equal(result, VMX_SUCCEED);
        uint32_t reason = (uint32_t)r->x->cur->f[F_EXIT_REASON];
        if (!r->c->guest && reason == 0x80000021)
            fail_msg("%s %lu: the processor says %s", model, i, vmx_check_id(r->x->broken.rule[0].row));
        entered++;
        rig_destroy(r); /* whatever it was about to do */
        r = rig_create(model);
        host = rig_host(r);
    }
    printf("%s%s: %lu of %lu were broken, %lu entered\n", model, any ? " (any)" : "", broken, count, entered);
    assert_true(broken > count / 3);
    rig_destroy(r);
}

static void test_round(void **state)
{
    const char *n = getenv("VMX_ROUND"), *seed = getenv("VMX_SEED");
    unsigned long count = n ? strtoul(n, NULL, 0) : 20000;
    if (seed)
        rng_state = strtoull(seed, NULL, 0) | 1;
    round_many("max", count / 4, false);
    round_many("max", count / 4, true);
    round_many("icelake-server", count / 4, false);
    round_many("nehalem", count / 8, false);
    round_many("penryn", count / 8, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_image), cmocka_unit_test(test_rules), cmocka_unit_test(test_missing),
        cmocka_unit_test(test_words), cmocka_unit_test(test_caps),  cmocka_unit_test(test_round),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
