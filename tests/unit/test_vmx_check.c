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
};

static const char areas[] = {
#define CTL                        'c'
#define HOST                       'h'
#define GUEST                      'g'
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
    caps->vmfunc.may = 1;
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
        bool offered = !k->outside_ia32e;
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
        if (first != k->row &&
            (first == VMX_CHECK_PIN_RESERVED || first == VMX_CHECK_PROC_RESERVED || first == VMX_CHECK_PROC2_RESERVED ||
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

/* A processor without "any error code": which vectors have one. */
static void test_error_codes(void **state)
{
    struct rig *r = rig_create("icelake-server");
    rig_vmcs(r, RIG_LONG);
    for (unsigned v = 0; v < 32; v++) {
        bool has = v == 8 || (v >= 10 && v <= 14) || v == 17 || v == 21;
        for (unsigned deliver = 0; deliver < 2; deliver++) {
            rig_w(r, VMCS_ENTRY_INTERRUPTION_INFO, VMX_INTR_VALID | 3 << 8 | v | (deliver ? VMX_INTR_ERROR_CODE : 0));
            struct vmx_broken b;
            check_all(r, &r->x->caps, r->x->cur->f, true, &b);
            assert_int_equal(b.count, (bool)deliver != has);
        }
    }
    rig_destroy(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alone), cmocka_unit_test(test_on_processor), cmocka_unit_test(test_explain),
        cmocka_unit_test(test_twins), cmocka_unit_test(test_error_codes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
