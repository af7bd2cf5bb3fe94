/* SPDX-License-Identifier: MIT
 *
 * VMRUN's consistency checks as rules over a VMCB: each row of svm_check.def broken alone is reported alone. Names of
 * exit codes, the MSR permission map's layout.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/svm_rules.h"
#include "src/svm/svm.h"

static void test_each_row_alone(void **state)
{
    struct vmcb v;
    struct vmenter_svm_caps caps;
    struct svm_check k;
    legal(&v, &caps, &k);
    assert_int_equal(svm_check(&v, &k, ~0u), 0);
    for (unsigned n = 0; n < SVM_CHECK_COUNT; n++) {
        legal(&v, &caps, &k);
        breakers[n].f(&v, &caps, &k);
        uint64_t bad = svm_check(&v, &k, ~0u);
        if (bad != BIT(n))
            print_error("%s alone: 0x%llx, row %u\n", breakers[n].id, (unsigned long long)bad, n);
        assert_int_equal(bad, BIT(n));
        /* A clean group is not looked at; a row of no group always is. */
        assert_int_equal(svm_check(&v, &k, ~svm_check_groups(n)), svm_check_groups(n) ? 0 : BIT(n));
    }
}

static void test_limits(void **state)
{
    struct vmcb v;
    struct vmenter_svm_caps caps;
    struct svm_check k;
    legal(&v, &caps, &k);
    v.save.cr0 |= CR0_CD | CR0_NW; /* both set is legal */
    v.save.cr3 = BIT(40) - 0x1000;
    v.control.iopm_base_pa = BIT(40) - 0x3000;
    v.control.msrpm_base_pa = BIT(40) - 0x2000 + 0xfff; /* low bits are ignored */
    v.control.guest_asid = 63;
    v.control.tlb_control = VMCB_TLB_FLUSH_ASID_NON_GLOBAL;
    v.control.eventinj = vmcb_event(VMCB_EVENT_EXCEPTION, 31);
    assert_int_equal(svm_check(&v, &k, ~0u), 0);
    caps.flush_by_asid = false;
    assert_int_equal(svm_check(&v, &k, ~0u), BIT(SVM_CHECK_TLB_CONTROL));
    v.control.tlb_control = VMCB_TLB_FLUSH_ALL;
    assert_int_equal(svm_check(&v, &k, ~0u), 0);
    for (unsigned type = 0; type < 8; type++) {
        v.control.eventinj = VMCB_EVENT_VALID | (uint64_t)type << 8 | 14;
        bool ok = type == 0 || (type >= 2 && type <= 4);
        assert_int_equal(svm_check(&v, &k, ~0u), ok ? 0 : BIT(SVM_CHECK_EVENTINJ_TYPE));
        v.control.eventinj &= ~VMCB_EVENT_VALID;
        assert_int_equal(svm_check(&v, &k, ~0u), 0);
    }
    /* Paged real mode: "VMRUN may legally load a guest CR0 with PE = 0 but PG = 1". */
    v.save.efer = EFER_SVME;
    v.save.cr0 = CR0_PG | CR0_ET;
    v.save.cr4 = 0;
    assert_int_equal(svm_check(&v, &k, ~0u), 0);
    /* Outside long mode CR3's upper half is ignored, and nCR3 does not matter without nested paging. */
    v.save.cr3 = ~0ull;
    v.control.nested_ctl = 0;
    v.control.ncr3 = ~0ull;
    v.save.g_pat = ~0ull;
    assert_int_equal(svm_check(&v, &k, ~0u), 0);
}

static void test_pat(void **state)
{
    for (unsigned type = 0; type < 256; type++) {
        bool ok = type == 0 || type == 1 || (type >= 4 && type <= 7);
        for (unsigned i = 0; i < 8; i++)
            assert_int_equal(svm_pat_valid((uint64_t)type << (8 * i)), ok);
    }
}

static void test_names(void **state)
{
    unsigned n;
    assert_string_equal(svm_exit_name(0x72, &n), "CPUID");
    assert_string_equal(svm_exit_name(0x4e, &n), "EXCEPTION");
    assert_int_equal(n, 14);
    assert_string_equal(svm_exit_name(0x400, &n), "NPF");
    assert_string_equal(svm_exit_name((uint64_t)SVM_EXIT_INVALID, &n), "INVALID");
    assert_null(svm_exit_name(0xb0, &n));
}

static void test_maps(void **state)
{
    /* APM, "MSR Permission Map": three 2-KiB vectors, 2 bits for each MSR. */
    assert_int_equal(svm_msrpm_bit(0), 0);
    assert_int_equal(svm_msrpm_bit(0x1fff), 2 * 0x1fff);
    assert_int_equal(svm_msrpm_bit(0x2000), -1);
    assert_int_equal(svm_msrpm_bit(0xc0000080), 0x800 * 8 + 0x100);
    assert_int_equal(svm_msrpm_bit(0xc0010117), 0x1000 * 8 + 0x22e);
    uint8_t map[SVM_MSRPM_SIZE] = {0};
    svm_msrpm_set(map, 0xc0000080, 0, 1);
    assert_int_equal(map[0x820], 2);
    svm_msrpm_set(map, 0xc0000083, 1, 0);
    assert_int_equal(map[0x820], 0x42);
    struct vmcb v = {0};
    vmcb_set_intercept(&v, SVM_EXIT_CPUID);
    vmcb_set_intercept(&v, SVM_EXIT_EXCEPTION + 14);
    vmcb_set_intercept(&v, SVM_EXIT_CR0_WRITE + 4);
    assert_int_equal(v.control.intercept_misc1, 1 << 18);
    assert_int_equal(v.control.intercept_exception, 1 << 14);
    assert_int_equal(v.control.intercept_cr_write, 1 << 4);
    vmcb_clear_intercept(&v, SVM_EXIT_CPUID);
    assert_int_equal(v.control.intercept_misc1, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_row_alone), cmocka_unit_test(test_limits), cmocka_unit_test(test_pat),
        cmocka_unit_test(test_names),          cmocka_unit_test(test_maps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
