/* SPDX-License-Identifier: MIT
 *
 * test_vmx.c: VMX instructions in root operation: outcomes, error numbers, launch states; every field of the VMCS.
 */
#include "vmx_rig.h"

#define OK      VMX_SUCCEED
#define VALID   VMX_FAIL_VALID
#define INVALID VMX_FAIL_INVALID

static void expect_fault(struct rig *r, enum vmx_result result, unsigned vector)
{
    assert_int_equal(result, VMX_FAULT);
    assert_true(r->c->exc.valid);
    assert_int_equal(r->c->exc.vector, vector);
    r->c->exc.valid = false;
}
static void expect_error(struct rig *r, enum vmx_result result, unsigned error)
{
    assert_int_equal(result, VALID);
    assert_int_equal(rig_r(r, VMCS_VM_INSTRUCTION_ERROR), error);
}

/* "VMXON": #UD, #GP, VMfailInvalid, VMfail, in this order. */
static void test_vmxon(void **state)
{
    struct rig *r = rig_create("max");
    struct cpu *c = r->c;
    uint64_t v;
    expect_fault(r, vmx_vmread(c, VMCS_GUEST_RIP, &v), EXC_UD);
    expect_fault(r, vmx_vmlaunch(c), EXC_UD);
    c->cr4 &= ~CR4_VMXE;
    expect_fault(r, vmx_vmxon(c, RIG_VMXON), EXC_UD);
    c->cr4 |= CR4_VMXE;
    c->mode = MODE_32;
    expect_fault(r, vmx_vmxon(c, RIG_VMXON), EXC_UD);
    c->mode = MODE_64;
    c->cpl = 3;
    expect_fault(r, vmx_vmxon(c, RIG_VMXON), EXC_GP);
    c->cpl = 0;
    c->cr0 &= ~CR0_NE;
    expect_fault(r, vmx_vmxon(c, RIG_VMXON), EXC_GP);
    c->cr0 |= CR0_NE;
    uint64_t feature = c->msr.feature_control;
    c->msr.feature_control = VMX_FEATURE_CONTROL_VMX;
    expect_fault(r, vmx_vmxon(c, RIG_VMXON), EXC_GP);
    c->msr.feature_control = VMX_FEATURE_CONTROL_LOCK;
    expect_fault(r, vmx_vmxon(c, RIG_VMXON), EXC_GP);
    c->msr.feature_control = feature;
    assert_int_equal(vmx_vmxon(c, RIG_VMXON + 8), INVALID);
    assert_int_equal(vmx_vmxon(c, 1ull << r->model.maxphyaddr), INVALID);
    assert_int_equal(vmx_vmxon(c, RIG_MSRBITMAP), INVALID); /* no revision identifier there */
    uint32_t shadow = VMCS_REVISION | VMX_REGION_SHADOW;
    rig_bytes(r, RIG_MSRBITMAP, &shadow, 4);
    assert_int_equal(vmx_vmxon(c, RIG_MSRBITMAP), INVALID);
    assert_int_equal(vmx_vmxon(c, RIG_VMXON), OK);
    assert_int_equal(vmx_vmxon(c, RIG_VMXON), INVALID); /* no current VMCS: error 15 has nowhere to go */
    assert_int_equal(vmx_vmptrld(c, RIG_VMCS), OK);
    expect_error(r, vmx_vmxon(c, RIG_VMXON), VMX_ERR_VMXON_IN_VMX_ROOT);
    c->cpl = 1;
    expect_fault(r, vmx_vmxon(c, RIG_VMXON), EXC_GP);
    expect_fault(r, vmx_vmxoff(c), EXC_GP);
    c->cpl = 0;
    assert_int_equal(vmx_vmxoff(c), OK);
    assert_false(vmx_on(c));
    expect_fault(r, vmx_vmxoff(c), EXC_UD);
    rig_destroy(r);
}

/* "VMCLEAR", "VMPTRLD", "VMPTRST": pointers. */
static void test_pointers(void **state)
{
    struct rig *r = rig_create("max");
    struct cpu *c = r->c;
    uint64_t pa = 0;
    assert_int_equal(vmx_vmxon(c, RIG_VMXON), OK);
    assert_int_equal(vmx_vmptrst(c, &pa), OK);
    assert_true(pa == UINT64_MAX);
    assert_int_equal(vmx_vmclear(c, RIG_VMXON), INVALID);
    assert_int_equal(vmx_vmptrld(c, 0x1234), INVALID);
    assert_int_equal(vmx_vmptrld(c, RIG_VMCS), OK);
    assert_int_equal(vmx_vmptrst(c, &pa), OK);
    assert_int_equal(pa, RIG_VMCS);
    expect_error(r, vmx_vmclear(c, RIG_VMCS + 1), VMX_ERR_VMCLEAR_INVALID_ADDRESS);
    expect_error(r, vmx_vmclear(c, 1ull << r->model.maxphyaddr), VMX_ERR_VMCLEAR_INVALID_ADDRESS);
    expect_error(r, vmx_vmclear(c, RIG_VMXON), VMX_ERR_VMCLEAR_VMXON_POINTER);
    expect_error(r, vmx_vmptrld(c, RIG_VMCS + 0x800), VMX_ERR_VMPTRLD_INVALID_ADDRESS);
    expect_error(r, vmx_vmptrld(c, RIG_VMXON), VMX_ERR_VMPTRLD_VMXON_POINTER);
    expect_error(r, vmx_vmptrld(c, RIG_VAPIC), VMX_ERR_VMPTRLD_INCORRECT_REVISION);
    assert_int_equal(vmx_vmptrst(c, &pa), OK);
    assert_int_equal(pa, RIG_VMCS); /* a failed VMPTRLD changes nothing */
    expect_error(r, vmx_vmcall(c), VMX_ERR_VMCALL_IN_VMX_ROOT);
    assert_int_equal(vmx_vmclear(c, RIG_VMCS2), OK);
    assert_int_equal(vmx_vmptrst(c, &pa), OK);
    assert_int_equal(pa, RIG_VMCS);
    assert_int_equal(vmx_vmclear(c, RIG_VMCS), OK);
    assert_int_equal(vmx_vmptrst(c, &pa), OK);
    assert_true(pa == UINT64_MAX);
    assert_int_equal(vmx_vmcall(c), INVALID);
    assert_int_equal(vmx_vmlaunch(c), INVALID);
    assert_int_equal(vmx_vmresume(c), INVALID);
    uint64_t v;
    assert_int_equal(vmx_vmread(c, VMCS_GUEST_RIP, &v), INVALID);
    assert_int_equal(vmx_vmwrite(c, VMCS_GUEST_RIP, 0), INVALID);
    rig_destroy(r);
}

/* "VMREAD", "VMWRITE": encodings. */
static void test_components(void **state)
{
    struct rig *r = rig_create("nehalem");
    struct cpu *c = r->c;
    uint64_t v;
    assert_int_equal(vmx_vmxon(c, RIG_VMXON), OK);
    assert_int_equal(vmx_vmptrld(c, RIG_VMCS), OK);
    static const uint64_t none[] = {0x000a,
                                    0x0f00,
                                    0x1000,
                                    0x8000,
                                    0x682e,
                                    0x7000,
                                    VMCS_GUEST_RIP + 1,
                                    VMCS_VPID + 1,
                                    VMCS_PIN_CONTROLS + 1,
                                    0x10000,
                                    1ull << 32 | VMCS_GUEST_RIP,
                                    UINT64_MAX,
                                    0x0c0e,
                                    0x2046};
    for (unsigned i = 0; i < ARRAY_LEN(none); i++) {
        expect_error(r, vmx_vmread(c, none[i], &v), VMX_ERR_UNSUPPORTED_COMPONENT);
        expect_error(r, vmx_vmwrite(c, none[i], 1), VMX_ERR_UNSUPPORTED_COMPONENT);
    }
    /* Fields that this model does not have. */
    expect_error(r, vmx_vmread(c, VMCS_TSC_MULTIPLIER, &v), VMX_ERR_UNSUPPORTED_COMPONENT);
    expect_error(r, vmx_vmwrite(c, VMCS_GUEST_PML_INDEX, 1), VMX_ERR_UNSUPPORTED_COMPONENT);
    /* Read-only fields, on a model without "VMWRITE to any supported field". */
    expect_error(r, vmx_vmwrite(c, VMCS_EXIT_REASON, 1), VMX_ERR_READ_ONLY_COMPONENT);
    expect_error(r, vmx_vmwrite(c, VMCS_GUEST_PHYSICAL_ADDRESS + 1, 1), VMX_ERR_READ_ONLY_COMPONENT);
    rig_destroy(r);
}

static uint64_t cookie(unsigned slot, unsigned salt)
{
    return (slot + 1) * 0x9e3779b97f4a7c15ull ^ salt * 0xc2b2ae3d27d4eb4full;
}
static uint64_t in_width(unsigned slot, uint64_t v)
{
    return vmcs_rows[slot].width == VMCS_WIDTH_16   ? (uint16_t)v
           : vmcs_rows[slot].width == VMCS_WIDTH_32 ? (uint32_t)v
                                                    : v;
}

/* Every field: written, read, across VMCLEAR, another VMCS, and displacement from the processor. */
static void test_round_trip(void **state)
{
    static const char *const models[] = {"penryn", "nehalem", "icelake-server", "max"};
    for (unsigned m = 0; m < ARRAY_LEN(models); m++) {
        struct rig *r = rig_create(models[m]);
        struct cpu *c = r->c;
        bool any = r->x->caps.misc & VMX_MISC_VMWRITE_ANY_FIELD;
        uint64_t v, v2;
        assert_int_equal(vmx_vmxon(c, RIG_VMXON), OK);
        for (unsigned vmcs = 0; vmcs < 2; vmcs++) {
            assert_int_equal(vmx_vmptrld(c, vmcs ? RIG_VMCS2 : RIG_VMCS), OK);
            for (unsigned i = 0; i < F_COUNT; i++)
                if (r->x->caps.field[i] && (any || vmcs_rows[i].type != VMCS_TYPE_READ_ONLY))
                    assert_int_equal(vmx_vmwrite(c, vmcs_rows[i].encoding, cookie(i, vmcs)), OK);
        }
        /* Displace both: other VMCSs, more than the processor holds. */
        for (unsigned i = 0; i < VMX_POOL + 2; i++) {
            uint32_t revision = VMCS_REVISION;
            rig_bytes(r, 0x100000 + i * 4096, &revision, 4);
            assert_int_equal(vmx_vmptrld(c, 0x100000 + i * 4096), OK);
        }
        for (unsigned vmcs = 0; vmcs < 2; vmcs++) {
            for (unsigned round = 0; round < 2; round++) {
                assert_int_equal(vmx_vmptrld(c, vmcs ? RIG_VMCS2 : RIG_VMCS), OK);
                for (unsigned i = 0; i < F_COUNT; i++) {
                    uint32_t e = vmcs_rows[i].encoding;
                    if (!r->x->caps.field[i]) {
                        assert_int_equal(vmx_vmread(c, e, &v), VALID);
                        continue;
                    }
                    assert_int_equal(vmx_vmread(c, e, &v), OK);
                    if (!any && vmcs_rows[i].type == VMCS_TYPE_READ_ONLY)
                        continue;
                    if (e == VMCS_VM_INSTRUCTION_ERROR)
                        continue;
                    if (v != in_width(i, cookie(i, vmcs)))
                        fail_msg("%s: %llx", vmcs_rows[i].name, (unsigned long long)v);
                    if (vmcs_rows[i].width == VMCS_WIDTH_64) {
                        assert_int_equal(vmx_vmread(c, e + 1, &v2), OK);
                        assert_true(v2 == v >> 32);
                        assert_int_equal(vmx_vmwrite(c, e + 1, 0xdead00000000beefull + i), OK);
                        assert_int_equal(vmx_vmread(c, e, &v2), OK);
                        assert_true(v2 == ((uint64_t)(uint32_t)(0xbeef + i) << 32 | (uint32_t)v));
                        assert_int_equal(vmx_vmwrite(c, e, v), OK);
                    }
                }
                assert_int_equal(vmx_vmclear(c, vmcs ? RIG_VMCS2 : RIG_VMCS), OK);
            }
        }
        rig_destroy(r);
    }
}

/* Memory is not written before VMCLEAR, and what stands there is not read while the VMCS is active. */
static void test_opaque(void **state)
{
    struct rig *r = rig_create("max");
    struct cpu *c = r->c;
    uint8_t before[4096], after[4096];
    assert_int_equal(vmx_vmxon(c, RIG_VMXON), OK);
    mem_read(r->mem, HPA(RIG_VMCS), before, 4096);
    assert_int_equal(vmx_vmptrld(c, RIG_VMCS), OK);
    rig_w(r, VMCS_GUEST_RIP, 0x1122334455667788);
    mem_read(r->mem, HPA(RIG_VMCS), after, 4096);
    assert_memory_equal(before, after, 4096);
    memset(after + 8, 0x55, 4088);
    mem_write(r->mem, HPA(RIG_VMCS), after, 4096);
    assert_int_equal(rig_r(r, VMCS_GUEST_RIP), 0x1122334455667788);
    assert_int_equal(vmx_vmclear(c, RIG_VMCS), OK);
    assert_int_equal(vmx_vmptrld(c, RIG_VMCS), OK);
    assert_int_equal(rig_r(r, VMCS_GUEST_RIP), 0x1122334455667788);
    rig_destroy(r);
}

/* "VM Instruction Error Numbers" 4, 5, 6, 26. */
static void test_launch_state(void **state)
{
    struct rig *r = rig_create("max");
    struct cpu *c = r->c;
    rig_bytes(r, RIG_CODE, "\xf4\xf4\xf4\xf4", 4);
    rig_vmcs(r, RIG_LONG);
    expect_error(r, vmx_vmresume(c), VMX_ERR_VMRESUME_NONLAUNCHED);
    assert_int_equal(rig_enter(r), VMX_REASON_HLT);
    expect_error(r, vmx_vmlaunch(c), VMX_ERR_VMLAUNCH_NONCLEAR);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    assert_int_equal(rig_enter(r), VMX_REASON_HLT);
    /* Another VMCS comes and goes: still launched. */
    assert_int_equal(vmx_vmptrld(c, RIG_VMCS2), OK);
    expect_error(r, vmx_vmresume(c), VMX_ERR_VMRESUME_NONLAUNCHED);
    assert_int_equal(vmx_vmptrld(c, RIG_VMCS), OK);
    expect_error(r, vmx_vmlaunch(c), VMX_ERR_VMLAUNCH_NONCLEAR);
    /* VMXOFF and VMXON between VMLAUNCH and VMRESUME. */
    assert_int_equal(vmx_vmxoff(c), OK);
    assert_int_equal(vmx_vmxon(c, RIG_VMXON), OK);
    assert_int_equal(vmx_vmptrld(c, RIG_VMCS), OK);
    expect_error(r, vmx_vmresume(c), VMX_ERR_VMRESUME_AFTER_VMXOFF);
    assert_int_equal(vmx_vmclear(c, RIG_VMCS), OK);
    assert_int_equal(vmx_vmptrld(c, RIG_VMCS), OK);
    expect_error(r, vmx_vmresume(c), VMX_ERR_VMRESUME_NONLAUNCHED);
    expect_error(r, vmx_enter_insn(c, true, true), VMX_ERR_ENTRY_BLOCKED_BY_MOV_SS);
    assert_int_equal(rig_enter(r), VMX_REASON_HLT);
    /* An entry that fails leaves the launch state alone. */
    assert_int_equal(vmx_vmclear(c, RIG_VMCS), OK);
    assert_int_equal(vmx_vmptrld(c, RIG_VMCS), OK);
    rig_w(r, VMCS_CR3_TARGET_COUNT, 5);
    expect_error(r, vmx_vmlaunch(c), VMX_ERR_ENTRY_INVALID_CONTROLS);
    rig_w(r, VMCS_CR3_TARGET_COUNT, 0);
    rig_w(r, VMCS_HOST_CS_SELECTOR, 0);
    expect_error(r, vmx_vmlaunch(c), VMX_ERR_ENTRY_INVALID_HOST_STATE);
    rig_w(r, VMCS_HOST_CS_SELECTOR, 8);
    rig_w(r, VMCS_GUEST_RFLAGS, 0);
    assert_int_equal(rig_enter(r), VMX_REASON_ENTRY_FAILURE_GUEST_STATE | VMX_REASON_ENTRY_FAILURE);
    rig_w(r, VMCS_GUEST_RFLAGS, 2);
    expect_error(r, vmx_vmresume(c), VMX_ERR_VMRESUME_NONLAUNCHED);
    assert_int_equal(rig_enter(r), VMX_REASON_HLT);
    rig_destroy(r);
}

/* "INVEPT", "INVVPID": operands. */
static void test_invalidate(void **state)
{
    struct rig *r = rig_create("max");
    struct cpu *c = r->c;
    assert_int_equal(vmx_vmxon(c, RIG_VMXON), OK);
    assert_int_equal(vmx_vmptrld(c, RIG_VMCS), OK);
    uint64_t good[2] = {RIG_EPT_PML4 | VMX_EPTP_WALK_4 | VMX_EPTP_WB, 0},
             bad[2] = {RIG_EPT_PML4 | VMX_EPTP_WALK_4 | 1, 0};
    assert_int_equal(vmx_invept(c, VMX_INVEPT_SINGLE_CONTEXT, good), OK);
    assert_int_equal(vmx_invept(c, VMX_INVEPT_ALL_CONTEXT, bad), OK);
    expect_error(r, vmx_invept(c, 0, good), VMX_ERR_INVALID_OPERAND);
    expect_error(r, vmx_invept(c, 3, good), VMX_ERR_INVALID_OPERAND);
    expect_error(r, vmx_invept(c, VMX_INVEPT_SINGLE_CONTEXT, bad), VMX_ERR_INVALID_OPERAND);
    uint64_t one[2] = {1, 0}, zero[2] = {0, 0}, high[2] = {0x10001, 0}, odd[2] = {1, 1ull << 60};
    for (unsigned type = 0; type < 4; type++) {
        assert_int_equal(vmx_invvpid(c, type, one), OK);
        expect_error(r, vmx_invvpid(c, type, high), VMX_ERR_INVALID_OPERAND);
        if (type != VMX_INVVPID_ALL_CONTEXT)
            expect_error(r, vmx_invvpid(c, type, zero), VMX_ERR_INVALID_OPERAND);
    }
    expect_error(r, vmx_invvpid(c, 4, one), VMX_ERR_INVALID_OPERAND);
    expect_error(r, vmx_invvpid(c, VMX_INVVPID_ADDRESS, odd), VMX_ERR_INVALID_OPERAND);
    rig_destroy(r);
    r = rig_create("penryn");
    assert_int_equal(vmx_vmxon(r->c, RIG_VMXON), OK);
    expect_fault(r, vmx_invept(r->c, 1, good), EXC_UD);
    expect_fault(r, vmx_invvpid(r->c, 1, one), EXC_UD);
    rig_destroy(r);
}

static uint64_t cap(struct rig *r, uint32_t msr)
{
    uint64_t v = 0;
    bool fault = false;
    assert_true(r->c->virt->rdmsr(r->c, msr, &v, &fault));
    return fault ? UINT64_MAX : v;
}

/* Appendix "VMX Capability Reporting Facility". */
static void test_capabilities(void **state)
{
    struct rig *r = rig_create("icelake-server");
    uint64_t basic = cap(r, VMX_MSR_BASIC);
    assert_true(basic & VMX_BASIC_TRUE_CONTROLS);
    assert_false(basic >> 31 & 1);
    assert_int_equal(VMX_BASIC_REGION_SIZE(basic), 4096);
    for (unsigned i = 0; i < 4;
         i++) { /* TRUE allows whatever the plain MSR allows; default1 bits must be 1 in the plain ones */
        static const uint32_t default1[] = {0x16, 0x0401e172, 0x36dff, 0x11ff};
        uint64_t plain = cap(r, VMX_MSR_PINBASED_CTLS + i), exact = cap(r, VMX_MSR_TRUE_PINBASED_CTLS + i);
        assert_int_equal(plain & default1[i], default1[i]);
        assert_int_equal(plain >> 32, exact >> 32);
        assert_int_equal(exact & ~plain & 0xffffffff, 0);
        assert_int_equal(plain & ~(plain >> 32) & 0xffffffff, 0);
    }
    assert_true(cap(r, VMX_MSR_PROCBASED_CTLS2) >> 32 & VMX_PROC2_UNRESTRICTED_GUEST);
    assert_int_equal(cap(r, VMX_MSR_CR0_FIXED0), 0x80000021);
    assert_int_equal(cap(r, VMX_MSR_CR4_FIXED0), 0x2000);
    assert_true(cap(r, VMX_MSR_VMCS_ENUM) >= 0x2e);
    rig_destroy(r);
    r = rig_create("icelake-server,-ept");
    assert_false(cap(r, VMX_MSR_PROCBASED_CTLS2) >> 32 & (VMX_PROC2_ENABLE_EPT | VMX_PROC2_UNRESTRICTED_GUEST));
    assert_true(cap(r, VMX_MSR_EPT_VPID_CAP) & VMX_VPID_CAP_INVVPID);
    rig_destroy(r);
    r = rig_create("penryn");
    assert_true(cap(r, VMX_MSR_TRUE_PINBASED_CTLS) == UINT64_MAX);
    assert_true(cap(r, VMX_MSR_EPT_VPID_CAP) == UINT64_MAX);
    assert_false(cap(r, VMX_MSR_PINBASED_CTLS) >> 32 & VMX_PIN_ACTIVATE_PREEMPTION_TIMER);
    rig_destroy(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vmxon),      cmocka_unit_test(test_pointers),     cmocka_unit_test(test_components),
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_opaque),       cmocka_unit_test(test_launch_state),
        cmocka_unit_test(test_invalidate), cmocka_unit_test(test_capabilities),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
