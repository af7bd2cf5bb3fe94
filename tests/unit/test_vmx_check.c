/* SPDX-License-Identifier: MIT
 *
 * test_vmx_check.c: every row of vmx_check.def is broken alone, and reported alone; and on the processor, where the
 * model has what the row is about, the VM entry fails as the row's area says: error 7, error 8, exit reason 33.
 */
#include "vmx_rig.h"

#define RULES_VMCS  RIG_VMCS
#define RULES_VAPIC RIG_VAPIC
#include "tests/images/vmx_rules.h"

/* Rows that no single change can break, with the reason. */
static const struct {
    uint16_t row;
    const char *why;
} twins[] = {
    {VMX_CHECK_EPTP_ACCESSED_DIRTY, "needs a model without accessed and dirty flags: tested apart"},
    {VMX_CHECK_HOST_SIZE_GUEST,
     "outside IA-32e mode host.address-space.outside-ia32e says it too, inside host.address-space.in-ia32e"},
    {VMX_CHECK_RFLAGS_VM, "the virtual-8086 rules for segments come with it"},
    {VMX_CHECK_LOAD_RESERVED, "of memory: test_msr_load"},
    {VMX_CHECK_LOAD_INDEX, "of memory: test_msr_load"},
    {VMX_CHECK_LOAD_WRMSR, "of memory: test_msr_load"},
};

static const char areas[] = {
#define CTL                        'c'
#define HOST                       'h'
#define GUEST                      'g'
#define LOAD                       'l'
#define VMX_CHECK(area, name, ...) [VMX_CHECK_##name] = area,
#define VMX_CHECKS(area, groups)
#define VMX_CHECKS_END
#include "src/arch/vmx_check.def"
#undef VMX_CHECK
#undef VMX_CHECKS
#undef VMX_CHECKS_END
};

static uint64_t changed(uint64_t v, const struct change *c)
{
    return c->how == '=' ? c->value : c->how == '|' ? v | c->value : v & ~c->value;
}

static void check_all(struct rig *r, const struct vmx_caps *caps, const uint64_t *f, bool ia32e, struct vmx_broken *b)
{
    struct vmx_check k = rig_check(r, caps, f);
    k.host.ia32e_mode = ia32e ? VMENTER_YES : VMENTER_NO;
    b->count = (unsigned)vmx_check_list(&k, b->rule, VMX_BROKEN_MAX);
    bool controls = false, host = false, guest = false;
    for (unsigned i = 0; i < b->count; i++) {
        assert_true(b->rule[i].judged);
        controls |= b->rule[i].area == VMENTER_VMX_CONTROLS;
        host |= b->rule[i].area == VMENTER_VMX_HOST;
        guest |= b->rule[i].area == VMENTER_VMX_GUEST;
    }
    /* What an entry runs says the same. */
    assert_int_equal(vmx_controls_hold(&k, GROUP_ALL), !controls);
    assert_int_equal(vmx_host_holds(&k, GROUP_ALL), !host);
    assert_int_equal(vmx_guest_holds(&k, GROUP_ALL), !guest);
}

static void describe(const struct vmx_broken *b, char *buf, size_t size)
{
    *buf = 0;
    for (unsigned i = 0; i < b->count; i++)
        snprintf(buf + strlen(buf), size - strlen(buf), " %s", vmx_check_id(b->rule[i].row));
}

/* Controls of models to come are tested too: a processor that offers every control. */
static void offer_everything(struct vmx_caps *caps)
{
    caps->pin.may |= VMX_PIN_PROCESS_POSTED_INTERRUPTS;
    caps->proc.may = 0xffffffff;
    caps->proc2.may = 0xffffffff & ~BIT(29);
    caps->exit.may = caps->entry.may = 0xffffffff;
    caps->proc3.may = 0xff;
    caps->exit2.may = 3;
    caps->vmfunc.may = 1;
    caps->cr4_fixed1 |= BIT(23); /* CET */
    caps->rtit_ctl_bits = 1;
    caps->lbr_ctl_bits = 1;
    caps->pending_debug_bits |= VMX_PENDING_DBG_RTM;
    caps->sgx = true;
}

static void test_alone(void **state)
{
    struct rig *r = rig_create("max");
    bool seen[VMX_CHECK_COUNT] = {0};
    struct vmx_broken b;
    char text[1000];
    struct vmx_caps caps = r->x->caps;
    offer_everything(&caps);
    for (unsigned i = 0; i < ARRAY_LEN(breakings); i++) {
        const struct breaking *k = &breakings[i];
        uint64_t f[F_COUNT];
        rig_vmcs(r, k->mode);
        memcpy(f, r->x->cur->f, sizeof f);
        check_all(r, &caps, f, true, &b);
        describe(&b, text, sizeof text);
        if (b.count)
            fail_msg("the good VMCS of mode %u breaks%s", k->mode, text);
        for (unsigned n = 0; n < ARRAY_LEN(k->c) && k->c[n].how; n++) {
            int slot = vmcs_slot_of(k->c[n].field);
            f[slot] = changed(f[slot], &k->c[n]);
        }
        check_all(r, &caps, f, !k->outside_ia32e, &b);
        describe(&b, text, sizeof text);
        if (b.count != 1 || b.rule[0].row != k->row)
            fail_msg("%u: %s should be broken, and is:%s", i, vmx_check_id(k->row), text);
        seen[k->row] = true;
    }
    for (unsigned i = 0; i < ARRAY_LEN(twins); i++)
        seen[twins[i].row] = true;
    for (unsigned i = 0; i < VMX_CHECK_COUNT; i++)
        if (!seen[i])
            fail_msg("no test breaks %s", vmx_check_id(i));
    rig_destroy(r);
}

static void test_on_processor(void **state)
{
    struct rig *r = rig_create("max");
    unsigned done = 0;
    rig_bytes(r, RIG_CODE, "\xf4", 1);
    for (unsigned i = 0; i < ARRAY_LEN(breakings); i++) {
        const struct breaking *k = &breakings[i];
        bool offered = !k->outside_ia32e && !rules_of_feature(k->row);
        rig_vmcs(r, k->mode);
        rig_bytes(r, RIG_CODE, "\xf4", 1);
        /* Enter once and then break it: what an entry found good is checked again where it changed. */
        uint32_t got = rig_enter(r);
        if (k->mode != RIG_V86 && got != VMX_REASON_HLT)
            fail_msg("the good VMCS of mode %u exits with %x", k->mode, got);
        rig_vmcs(r, k->mode);
        for (unsigned n = 0; n < ARRAY_LEN(k->c) && k->c[n].how; n++) {
            int slot = vmcs_slot_of(k->c[n].field);
            if (!r->x->caps.field[slot]) {
                offered = false;
                break;
            }
            rig_w(r, k->c[n].field, changed(rig_r(r, k->c[n].field), &k->c[n]));
        }
        if (!offered)
            continue;
        char area = areas[k->row];
        got = rig_enter(r);
        unsigned first = r->x->broken.rule[0].row;
        if (first != k->row && (first == VMX_CHECK_PIN_RESERVED || first == VMX_CHECK_PROC_RESERVED ||
                                first == VMX_CHECK_PROC2_RESERVED || first == VMX_CHECK_PROC3_RESERVED ||
                                first == VMX_CHECK_EXIT_RESERVED || first == VMX_CHECK_ENTRY_RESERVED))
            continue; /* the model does not offer the control */
        uint32_t want = area == 'c'   ? 1000 + VMX_ERR_ENTRY_INVALID_CONTROLS
                        : area == 'h' ? 1000 + VMX_ERR_ENTRY_INVALID_HOST_STATE
                                      : VMX_REASON_ENTRY_FAILURE | VMX_REASON_ENTRY_FAILURE_GUEST_STATE;
        if (first != k->row || got != want)
            fail_msg("%s: outcome %x instead of %x, first rule %s", vmx_check_id(k->row), got, want,
                     vmx_check_id(first));
        if (area == 'g') {
            uint64_t q = k->row == VMX_CHECK_PDPTE || k->row == VMX_CHECK_PDPTE_MEMORY          ? 2
                         : k->row >= VMX_CHECK_LINK_ADDRESS && k->row <= VMX_CHECK_LINK_CURRENT ? 4
                                                                                                : 0;
            assert_int_equal(rig_r(r, VMCS_EXIT_QUALIFICATION), q);
        }
        done++;
    }
    assert_true(done > 150);
    rig_destroy(r);
}

/* Words of a failed entry: id, value, section, sentence; all rules at once; none after a good entry. */
static void test_explain(void **state)
{
    struct rig *r = rig_create("max");
    char text[2000];
    rig_vmcs(r, RIG_LONG);
    rig_bytes(r, RIG_CODE, "\xf4", 1);
    rig_w(r, VMCS_GUEST_CS_ACCESS_RIGHTS, 0xe09b);
    rig_w(r, VMCS_GUEST_RFLAGS, 0);
    assert_int_equal(rig_enter(r), VMX_REASON_ENTRY_FAILURE | VMX_REASON_ENTRY_FAILURE_GUEST_STATE);
    size_t n = vmx_explain(r->c, text, sizeof text);
    assert_int_equal(n, strlen(text));
    assert_non_null(strstr(text, "guest.cs.ar.l-and-db: GUEST_CS_ACCESS_RIGHTS is 0xe09b: CS: D/B must be 0"));
    assert_non_null(strstr(text, "guest.rflags.reserved: GUEST_RFLAGS is 0x0"));
    assert_non_null(strstr(text, "Checks on Guest Segment Registers"));
    assert_true(vmx_explain(r->c, text, 10) > 10);
    rig_w(r, VMCS_GUEST_CS_ACCESS_RIGHTS, 0xa09b);
    rig_w(r, VMCS_GUEST_RFLAGS, 2);
    assert_int_equal(rig_enter(r), VMX_REASON_HLT);
    assert_int_equal(vmx_explain(r->c, text, sizeof text), 0);
    rig_destroy(r);
}

static void test_twins(void **state)
{
    struct rig *r = rig_create("icelake-server,-ept_ad");
    rig_vmcs(r, RIG_LONG);
    rig_w(r, VMCS_EPT_POINTER, rig_r(r, VMCS_EPT_POINTER) | VMX_EPTP_ACCESSED_DIRTY);
    assert_int_equal(rig_enter(r), 1000 + VMX_ERR_ENTRY_INVALID_CONTROLS);
    assert_int_equal(r->x->broken.rule[0].row, VMX_CHECK_EPTP_ACCESSED_DIRTY);
    rig_vmcs(r, RIG_LONG);
    rig_w(r, VMCS_GUEST_RFLAGS, 2 | FLAG_VM);
    assert_int_equal(rig_enter(r), VMX_REASON_ENTRY_FAILURE | VMX_REASON_ENTRY_FAILURE_GUEST_STATE);
    bool vm = false;
    for (unsigned i = 0; i < r->x->broken.count; i++)
        vm |= r->x->broken.rule[i].row == VMX_CHECK_RFLAGS_VM;
    assert_true(vm);
    rig_destroy(r);
}

/* "Loading MSRs": the area as the rules see it before, and as the processor meets it. */
static void test_msr_load(void **state)
{
    static const struct {
        struct vmx_msr_entry e;
        unsigned row;
    } bad[] = {
        {{.index = 0xc0000080, .reserved = 1, .value = 0xd01}, VMX_CHECK_LOAD_RESERVED},
        {{.index = 0xc0000100}, VMX_CHECK_LOAD_INDEX},
        {{.index = 0xc0000101}, VMX_CHECK_LOAD_INDEX},
        {{.index = 0x800}, VMX_CHECK_LOAD_INDEX},
        {{.index = 0x8ff}, VMX_CHECK_LOAD_INDEX},
        {{.index = 0x79}, VMX_CHECK_LOAD_INDEX},
        {{.index = 0x9b}, VMX_CHECK_LOAD_INDEX},
        {{.index = 0x12345678}, VMX_CHECK_LOAD_WRMSR},
        {{.index = 0x175, .value = ODD}, VMX_CHECK_LOAD_WRMSR}, /* IA32_SYSENTER_ESP: not canonical */
        {{.index = 0x174}, VMX_CHECK_COUNT},
    };
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        struct rig *r = rig_create("max");
        struct vmenter_vmx_finding e[4];
        uint64_t q = 0;
        const struct vmx_msr_entry good = {.index = 0x174, .value = 8};
        rig_vmcs(r, RIG_LONG);
        rig_bytes(r, RIG_CODE, "\xf4", 1);
        rig_bytes(r, RIG_MSRAREA, &good, sizeof good);
        rig_bytes(r, RIG_MSRAREA + 16, &bad[i].e, sizeof good);
        rig_w(r, VMCS_ENTRY_MSR_LOAD_ADDRESS, RIG_MSRAREA);
        rig_w(r, VMCS_ENTRY_MSR_LOAD_COUNT, 2);
        struct vmx_check k = rig_check(r, &r->x->caps, r->x->cur->f);
        size_t n = vmx_check_list(&k, e, ARRAY_LEN(e));
        uint32_t outcome = vmenter_vmx_outcome(e, n, &q);
        if (bad[i].row < VMX_CHECK_LOAD_WRMSR) {
            assert_int_equal(n, 1);
            assert_int_equal(e[0].row, bad[i].row);
            assert_int_equal(outcome, 0x80000022);
            assert_int_equal(q, 2);
        } else {
            assert_int_equal(n, 0);
        }
        /* Without memory it is not known; rounding leaves the first entry alone. */
        struct vmenter_vmcs v;
        struct vmenter_vmx_caps caps;
        vmx_caps_publish(&r->x->caps, &caps);
        memcpy(v.value, r->x->cur->f, sizeof v.value);
        memset(v.known, 0xff, sizeof v.known);
        if (bad[i].row < VMX_CHECK_LOAD_WRMSR) {
            assert_int_equal(vmenter_vmx_round(&v, &caps, &k.host), 1);
            assert_int_equal(v.value[F_ENTRY_MSR_LOAD_COUNT], 1);
            v.value[F_ENTRY_MSR_LOAD_COUNT] = 2;
        }
        struct vmenter_vmx_host blind = k.host;
        blind.read_memory = NULL;
        n = vmenter_vmx_check(&v, &caps, &blind, e, ARRAY_LEN(e));
        assert_int_equal(n, 2);
        assert_true(!e[0].judged && e[0].lacking == VMENTER_VMX_LACKS_MEMORY && e[0].lacking_address == RIG_MSRAREA);
        /* The processor. */
        uint32_t got = rig_enter(r);
        if (bad[i].row == VMX_CHECK_COUNT) {
            assert_int_equal(got, VMX_REASON_HLT);
        } else {
            assert_int_equal(got, 0x80000022);
            assert_int_equal(rig_r(r, VMCS_EXIT_QUALIFICATION), 2);
            bool named = false;
            for (unsigned z = 0; z < r->x->broken.count; z++)
                named |= r->x->broken.rule[z].row == bad[i].row && r->x->broken.rule[z].entry == 2;
            assert_true(named);
        }
        rig_destroy(r);
    }
}

/* A processor without "any error code": which vectors have one. */
static void test_error_codes(void **state)
{
    struct rig *r = rig_create("icelake-server");
    rig_vmcs(r, RIG_LONG);
    for (unsigned v = 0; v < 32; v++) {
        bool has = v == 8 || (v >= 10 && v <= 14) || v == 17;
        for (unsigned deliver = 0; deliver < 2; deliver++) {
            rig_w(r, VMCS_ENTRY_INTERRUPTION_INFO, VMX_INTR_VALID | 3 << 8 | v | (deliver ? VMX_INTR_ERROR_CODE : 0));
            struct vmx_broken b;
            check_all(r, &r->x->caps, r->x->cur->f, true, &b);
            assert_int_equal(b.count, (bool)deliver != has);
        }
    }
    rig_destroy(r);
}

/* What the processor says to the VMCS that is current: 0 (it entered), 7, 8, or the exit reason of a failed entry. */
static uint32_t processor_says(struct rig *r, uint64_t *qualification)
{
    uint64_t entries = r->c->stats.entries;
    enum vmx_result v = vmx_vmlaunch(r->c);
    if (v == VMX_FAIL_VALID)
        return (uint32_t)r->x->cur->f[F_VM_INSTRUCTION_ERROR];
    assert_int_equal(v, VMX_SUCCEED);
    bool entered = r->c->stats.entries != entries;
    if (r->c->guest) { /* out again, at once */
        r->c->init_pending = true;
        cpu_attend(r->c, ATT_INIT);
        cpu_run(r->c, 1000);
        r->c->init_pending = false;
    }
    r->c->nmi_pending = r->c->nmi_blocked = false;
    *qualification = r->x->cur->f[F_EXIT_QUALIFICATION];
    return entered ? 0 : (uint32_t)r->x->cur->f[F_EXIT_REASON];
}

/* A processor that a guest has left in no state to go on: shut down, or out of VMX operation. */
static struct rig *usable(struct rig *r, const char *model)
{
    if (!r->c->guest && r->c->activity == ACTIVITY_ACTIVE && vmx_on(r->c))
        return r;
    rig_destroy(r);
    return rig_create(model);
}

/* Every bit of every field turned, and numbers at the edges, in each mode: the rules in full, the rules as an entry
 * runs them and VMLAUNCH say the same; the nearest legal value of a broken field keeps its rule. */
static void test_boundaries(void **state)
{
    static const uint64_t edges[] = {0,           1,           2,           3,           7,
                                     8,           15,          16,          0xff,        0x100,
                                     0xfff,       0x1000,      0xffff,      0xfffff,     0x100000,
                                     0x7fffffff,  0x80000000,  0xffffffff,  1ull << 32,  0x7fffffffffff,
                                     1ull << 47,  1ull << 48,  ~0ull << 47, ~0ull << 48, ~0ull << 56,
                                     ~0ull << 57, WIDE - 4096, WIDE,        ~0ull >> 1,  ~0ull};
    static struct vmenter_vmx_finding e[VMX_CHECK_COUNT], again[VMX_CHECK_COUNT];
    struct rig *r = rig_create("max");
    unsigned broken = 0, entered = 0;
    for (unsigned mode = RIG_REAL; mode <= RIG_LONG; mode++)
        for (unsigned slot = 0; slot < F_COUNT; slot++) {
            const struct vmcs_row *row = &vmcs_rows[slot];
            if (!r->x->caps.field[slot] || row->type == VMCS_TYPE_READ_ONLY)
                continue;
            unsigned bits = row->width == VMCS_WIDTH_16 ? 16 : row->width == VMCS_WIDTH_32 ? 32 : 64;
            for (unsigned i = 0; i < bits + ARRAY_LEN(edges); i++) {
                rig_host_state(r->c);
                uint32_t revision = VMCS_REVISION; /* guests write anywhere */
                rig_bytes(r, RIG_VMXON, &revision, 4);
                rig_bytes(r, RIG_VMCS, &revision, 4);
                rig_vmcs(r, mode);
                rig_bytes(r, RIG_CODE, "\xf4", 1);
                uint64_t good = r->x->cur->f[slot], q = 0, got_q = 0;
                rig_w(r, row->encoding, i < bits ? good ^ BIT(i) : edges[i - bits]);
                uint64_t f[F_COUNT];
                memcpy(f, r->x->cur->f, sizeof f);
                struct vmx_check k = rig_check(r, &r->x->caps, f);
                size_t n = vmx_check_list(&k, e, ARRAY_LEN(e));
                uint32_t want = vmenter_vmx_outcome(e, n, &q), got = processor_says(r, &got_q);
                if (!want && got == (VMX_REASON_ENTRY_FAILURE | VMX_REASON_ENTRY_FAILURE_MSR_LOADING))
                    got = 0; /* a WRMSR that faults: the rules cannot know */
                if (want != got || (want > 8 && q != got_q))
                    fail_msg("%s = 0x%llx in mode %u: the processor says %x (%llu), the rules %x (%llu): %s", row->name,
                             (unsigned long long)f[slot], mode, got, (unsigned long long)got_q, want,
                             (unsigned long long)q, n ? e[0].id : "none is broken");
                for (size_t z = 0; z < n; z++) {
                    if (!e[z].has_nearest)
                        continue;
                    int at = vmcs_slot_of(e[z].field[0]);
                    uint64_t old = f[at];
                    f[at] = e[z].nearest;
                    size_t m = vmx_check_list(&k, again, ARRAY_LEN(again));
                    for (size_t y = 0; y < m; y++)
                        if (again[y].row == e[z].row && again[y].field[0] == e[z].field[0])
                            fail_msg("%s: the nearest legal value 0x%llx to 0x%llx breaks it too", e[z].id,
                                     (unsigned long long)e[z].nearest, (unsigned long long)old);
                    f[at] = old;
                }
                broken += n != 0;
                entered += got == 0;
                r = usable(r, "max");
            }
        }
    printf("%u broken, %u entered\n", broken, entered);
    assert_true(broken > 10000 && entered > 10000);
    rig_destroy(r);
}

/* Of two broken rules the processor says the earlier area's: controls before host state before guest state. */
static void test_precedence(void **state)
{
    struct rig *r = rig_create("max");
    unsigned mixed = 0;
    for (unsigned i = 0; i < ARRAY_LEN(breakings); i++)
        for (unsigned j = i % 7; j < ARRAY_LEN(breakings); j += 7) {
            const struct breaking *pair[] = {&breakings[i], &breakings[j]};
            bool can = pair[0]->mode == pair[1]->mode;
            for (unsigned p = 0; p < 2 && can; p++)
                can = !pair[p]->outside_ia32e && !rules_of_feature(pair[p]->row);
            if (!can)
                continue;
            rig_host_state(r->c);
            rig_vmcs(r, pair[0]->mode);
            for (unsigned p = 0; p < 2; p++)
                for (unsigned n = 0; n < ARRAY_LEN(pair[p]->c) && pair[p]->c[n].how; n++) {
                    const struct change *c = &pair[p]->c[n];
                    int slot = vmcs_slot_of(c->field);
                    can &= r->x->caps.field[slot];
                    if (can)
                        rig_w(r, c->field, changed(rig_r(r, c->field), c));
                }
            if (!can)
                continue;
            struct vmenter_vmx_finding e[16];
            struct vmx_check k = rig_check(r, &r->x->caps, r->x->cur->f);
            size_t n = vmx_check_list(&k, e, ARRAY_LEN(e));
            uint8_t area = VMENTER_VMX_GUEST;
            for (size_t z = 0; z < n && z < ARRAY_LEN(e); z++) {
                area = e[z].area < area ? e[z].area : area;
                mixed += e[z].area != e[0].area;
            }
            uint64_t q = 0, got_q = 0;
            uint32_t got = processor_says(r, &got_q), want = vmenter_vmx_outcome(e, n, &q);
            assert_int_equal(got, want);
            if (n)
                assert_int_equal(want, area == VMENTER_VMX_CONTROLS ? 7 : area == VMENTER_VMX_HOST ? 8 : 0x80000021);
            if (want > 8)
                assert_int_equal(got_q, q);
            /* All are listed, not the first's area alone. */
            assert_int_equal(n, got ? r->x->broken.count : 0);
            r = usable(r, "max");
        }
    assert_true(mixed > 500);
    rig_destroy(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alone),      cmocka_unit_test(test_on_processor), cmocka_unit_test(test_explain),
        cmocka_unit_test(test_twins),      cmocka_unit_test(test_error_codes),  cmocka_unit_test(test_boundaries),
        cmocka_unit_test(test_precedence), cmocka_unit_test(test_msr_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
