/* SPDX-License-Identifier: MIT
 *
 * test_dump.c: a dumped VMCS or VMCB has every field once, with its value, in lines that a program can read; and the
 * words beside them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "src/arch/names.h"
#include "src/svm/svm.h"
#include "src/vmx/vmx.h"
#include <vmenter/vmx.h>

static char text[64 * 1024], words[1024];

/* NAME = 0xVALUE of the line at *at, which goes on to the next one. False: a line for people, or the end. */
static bool next_field(const char **at, char name[64], uint64_t *value)
{
    int used = 0;
    unsigned long long v = 0;
    bool ok = **at != '#' && sscanf(*at, "%63s = 0x%llx%n", name, &v, &used) == 2;
    if (ok)
        assert_true((*at)[used] == '\n' || !strncmp(*at + used, "  # ", 4));
    *value = v;
    *at = strchr(*at, '\n') + 1;
    return ok;
}

static uint64_t value_of(uint32_t encoding)
{
    return encoding * 3ull + 1;
}
static bool get(void *opaque, uint32_t encoding, uint64_t *value)
{
    *value = value_of(encoding);
    return encoding != *(uint32_t *)opaque;
}

/* All fields but one that the getter does not know. */
static void vmcs_fields(void **state)
{
    static const struct {
        const char *name;
        uint32_t encoding;
    } rows[] = {
#define VMCS(name, encoding, when, group, text) {#name, encoding},
#include <vmenter/arch/vmcs.def>
#undef VMCS
    };
    uint32_t without = VMCS_GUEST_RIP;
    size_t len = vmx_dump_fields(get, &without, text, sizeof text);
    assert_true(len < sizeof text && len == strlen(text));
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        char name[64];
        uint64_t v;
        unsigned seen = 0;
        for (const char *at = text; *at;)
            if (next_field(&at, name, &v) && !strcmp(name, rows[i].name)) {
                seen++;
                assert_int_equal(v, value_of(rows[i].encoding));
            }
        assert_int_equal(seen, rows[i].encoding != without);
    }
    /* Cut off, but measured whole. */
    memset(text, 'x', 100);
    assert_int_equal(vmx_dump_fields(get, &without, text, 50), len);
    assert_int_equal(strlen(text), 49);
    assert_int_equal(text[50], 'x');
    assert_int_equal(vmx_dump_fields(get, &without, NULL, 0), len);
}

static void vmcb_fields(void **state)
{
    struct vmcb v;
    for (unsigned i = 0; i < sizeof v; i++)
        ((uint8_t *)&v)[i] = (uint8_t)(i * 7 + 1);
    size_t len = svm_dump_vmcb(&v, text, sizeof text);
    assert_true(len < sizeof text && len == strlen(text));
    const struct {
        const char *name;
        uint64_t value;
    } rows[] = {
#define ROW_u8(area, name) {#area "." #name, v.area.name},
#define ROW_u16            ROW_u8
#define ROW_u32            ROW_u8
#define ROW_u64            ROW_u8
#define ROW_insn15(area, name)
#define ROW_seg(area, name)                                                                                            \
    {#area "." #name ".sel", v.area.name.sel}, {#area "." #name ".attrib", v.area.name.attrib},                        \
        {#area "." #name ".limit", v.area.name.limit}, {#area "." #name ".base", v.area.name.base},
#define VMCB_CONTROL(offset, type, name, group) ROW_##type(control, name)
#define VMCB_CONTROL_GAP(offset, bytes)
#define VMCB_SAVE(offset, type, name, group) ROW_##type(save, name)
#define VMCB_SAVE_GAP(offset, bytes)
#include <vmenter/arch/vmcb.def>
    };
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        char name[64];
        uint64_t found;
        unsigned seen = 0;
        for (const char *at = text; *at;)
            if (next_field(&at, name, &found) && !strcmp(name, rows[i].name)) {
                seen++;
                assert_int_equal(found, rows[i].value);
            }
        assert_int_equal(seen, 1);
    }
    assert_int_equal(svm_dump_vmcb(&v, NULL, 0), len);
}

static const char *field(uint32_t encoding, uint64_t value, uint32_t reason)
{
    vmx_describe_field(encoding, value, reason, words, sizeof words);
    return words;
}
static const char *qualification(uint32_t reason, uint64_t q)
{
    vmx_describe_qualification(reason, q, words, sizeof words);
    return words;
}

static void vmx_words(void **state)
{
    assert_string_equal(field(VMCS_PIN_CONTROLS, 0x3f, 0), "EXTERNAL_INTERRUPT_EXITING NMI_EXITING VIRTUAL_NMIS");
    assert_string_equal(field(VMCS_EXIT_REASON, 0x80000021, 0), "ENTRY_FAILURE_GUEST_STATE, VM-entry failure");
    assert_string_equal(field(VMCS_EXIT_INTERRUPTION_INFO, 0x80000b0e, 0), "exception 14 #PF, with error code");
    assert_string_equal(field(VMCS_ENTRY_INTERRUPTION_INFO, 0x0000030e, 0), ""); /* not valid */
    assert_string_equal(field(VMCS_ENTRY_INTERRUPTION_INFO, 0x80000030, 0), "external interrupt 48");
    assert_string_equal(field(VMCS_GUEST_ACTIVITY_STATE, 3, 0), "wait for SIPI");
    assert_string_equal(field(VMCS_GUEST_INTERRUPTIBILITY_STATE, 9, 0), "blocking-by-STI blocking-by-NMI");
    assert_string_equal(field(VMCS_GUEST_CS_ACCESS_RIGHTS, 0xa09b, 0), "type 11 DPL 0 L G");
    assert_string_equal(field(VMCS_GUEST_LDTR_ACCESS_RIGHTS, 0x10000, 0), "unusable");
    assert_string_equal(field(VMCS_EXIT_QUALIFICATION, 0x00210008, VMX_REASON_IO_INSTRUCTION), "IN port 0x21, size 1");
    assert_string_equal(field(VMCS_GUEST_RSP, 0x1234, 0), "");

    assert_string_equal(qualification(VMX_REASON_IO_INSTRUCTION, 0x03f80033), "REP OUTS port 0x3f8, size 4");
    assert_string_equal(qualification(VMX_REASON_CONTROL_REGISTER_ACCESS, 0x0304), "MOV CR4, RBX");
    assert_string_equal(qualification(VMX_REASON_CONTROL_REGISTER_ACCESS, 0x0f13), "MOV R15, CR3");
    assert_string_equal(qualification(VMX_REASON_CONTROL_REGISTER_ACCESS, 0x20), "CLTS");
    assert_string_equal(qualification(VMX_REASON_CONTROL_REGISTER_ACCESS, 0x00090030), "LMSW register, 0x9");
    assert_string_equal(qualification(VMX_REASON_MOV_DR, 0x0117), "MOV RCX, DR7");
    assert_string_equal(qualification(VMX_REASON_EPT_VIOLATION, 0x182),
                        "write; page allows ---; linear address valid, its translation");
    assert_string_equal(qualification(VMX_REASON_TASK_SWITCH, 0xc0000028), "task gate in IDT, TSS selector 0x28");
    assert_string_equal(qualification(VMX_REASON_APIC_ACCESS, 0x10b0), "offset 0xb0, linear write");
    assert_string_equal(qualification(VMX_REASON_ENTRY_FAILURE | VMX_REASON_ENTRY_FAILURE_GUEST_STATE, 4),
                        "VMCS link pointer");
    assert_string_equal(qualification(VMX_REASON_CPUID, 0), "");
}

static const char *exit_words(uint64_t code)
{
    svm_describe_exit(code, words, sizeof words);
    return words;
}
static const char *info1(uint64_t code, uint64_t v)
{
    svm_describe_info1(code, v, words, sizeof words);
    return words;
}

static void svm_words(void **state)
{
    assert_string_equal(exit_words(SVM_EXIT_CR0_WRITE + 4), "CR4_WRITE");
    assert_string_equal(exit_words(SVM_EXIT_DR0_READ + 7), "DR7_READ");
    assert_string_equal(exit_words(SVM_EXIT_EXCEPTION + 14), "EXCEPTION 14 #PF");
    assert_string_equal(exit_words(SVM_EXIT_CR0_WRITE_TRAP + 8), "CR8_WRITE_TRAP");
    assert_string_equal(exit_words(SVM_EXIT_NPF), "NPF");
    assert_string_equal(exit_words((uint64_t)SVM_EXIT_INVALID), "INVALID");
    assert_string_equal(exit_words(0xbbbb), "reserved");
    assert_string_equal(info1(SVM_EXIT_IOIO, 0x03f80011), "IN port 0x3f8, size 1");
    assert_string_equal(info1(SVM_EXIT_MSR, 1), "WRMSR");
    assert_string_equal(info1(SVM_EXIT_NPF, 0x100000006ull), "write not-present final-address");
    assert_string_equal(info1(SVM_EXIT_CR0_WRITE + 3, SVM_CR_MOV | 5), "MOV RBP");
    assert_string_equal(info1(SVM_EXIT_CR0_WRITE, 0), "");

    struct vmcb v = {0};
    vmcb_set_intercept(&v, SVM_EXIT_VMRUN);
    vmcb_set_intercept(&v, SVM_EXIT_EXCEPTION + 6);
    v.control.exitcode = SVM_EXIT_MSR;
    v.control.eventinj = vmcb_event_error(VMCB_EVENT_EXCEPTION, 13, 0x18);
    svm_dump_vmcb(&v, text, sizeof text);
    assert_non_null(strstr(text, "# VMRUN\n"));
    assert_non_null(strstr(text, "# EXCEPTION 6 #UD\n"));
    assert_non_null(strstr(text, "# RDMSR\n"));
    assert_non_null(strstr(text, "# exception 13 #GP, error code 0x18\n"));
}

static void names(void **state)
{
    assert_string_equal(exception_name(14), "#PF");
    assert_null(exception_name(9));
    assert_null(exception_name(200));
    assert_string_equal(msr_name(0xc0000080), "EFER");
    assert_string_equal(msr_name(0x10), "TSC");
    assert_string_equal(msr_name(0x480), "VMX_BASIC");
    assert_string_equal(msr_name(0x80b), "X2APIC_EOI");
    assert_string_equal(msr_name(0x201), "MTRR_PHYS");
    assert_null(msr_name(0xdeadbeef));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vmcs_fields), cmocka_unit_test(vmcb_fields), cmocka_unit_test(vmx_words),
        cmocka_unit_test(svm_words),   cmocka_unit_test(names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
