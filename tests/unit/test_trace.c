/* SPDX-License-Identifier: MIT
 *
 * test_trace.c: vmenter_trace(), vmenter_dump() and vmenter_print_stats() of a hosted machine, under VMX and SVM. The
 * grammar itself, on the software PC: tests/trace.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/vmx_host.h"
#include <vmenter/svm.h>

#define VMXON_PA 0x1000ull
#define VMCS_PA  0x2000ull
#define VMCB_PA  0x4000ull
#define HSAVE_PA 0x5000ull
#define CODE_PA  0x8000ull
#define STACK_PA 0xa000ull

struct fixture {
    struct vmenter_machine *m;
    unsigned lines;
    char text[64 * 1024];
    size_t len;
    unsigned kinds; /* of the lines */
};

static void put(struct fixture *f, const char *line)
{
    f->lines++;
    f->len += (size_t)snprintf(f->text + f->len, sizeof f->text - f->len, "%s\n", line);
    assert_true(f->len < sizeof f->text);
}
static void on_trace(void *opaque, enum vmenter_trace kind, const char *line)
{
    struct fixture *f = opaque;
    f->kinds |= kind;
    put(f, line);
}
static void on_line(void *opaque, const char *line)
{
    put(opaque, line);
}
static void clear(struct fixture *f)
{
    f->lines = f->kinds = 0;
    f->len = 0;
    f->text[0] = 0;
}
#define assert_says(f, words)                                                                                          \
    do {                                                                                                               \
        if (!strstr((f)->text, words))                                                                                 \
            fail_msg("'%s' is not in:\n%s", words, (f)->text);                                                         \
    } while (0)
#define assert_silent(f, words) assert_null(strstr((f)->text, words))

static void *at(struct fixture *f, uint64_t pa)
{
    return vmenter_host_ptr(f->m, pa, 4096);
}

static void start(void **state, const char *model)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct vmenter_config config = {.size = sizeof config, .model = model, .ram = 1 << 20};
    char error[VMENTER_ERROR_MAX];
    assert_int_equal(vmenter_create(&config, &f->m, error), VMENTER_OK);
    assert_int_equal(vmenter_bind(f->m, 0), VMENTER_OK);
    *state = f;
}
/* A guest that does CPUID and INT3 (no IDT entry is present: a triple fault). */
static int intel(void **state)
{
    static const uint8_t code[] = {0x0f, 0xa2, 0xcc};
    unsigned long long vmxon = VMXON_PA, vmcs = VMCS_PA;
    start(state, "max");
    struct fixture *f = *state;
    vmx_init_region(at(f, VMXON_PA));
    vmx_init_region(at(f, VMCS_PA));
    __writecr4(__readcr4() | CR4_VMXE_BIT);
    assert_int_equal(__vmx_on(&vmxon), 0);
    assert_int_equal(__vmx_vmclear(&vmcs), 0);
    assert_int_equal(__vmx_vmptrld(&vmcs), 0);
    vmx_host_and_guest(CODE_PA, STACK_PA);
    memcpy(at(f, CODE_PA), code, sizeof code);
    return 0;
}
static int amd(void **state)
{
    static const uint8_t code[] = {0x43, 0xf4}; /* inc bx; hlt */
    start(state, "max-amd");
    struct fixture *f = *state;
    __writemsr(SVM_MSR_EFER, __readmsr(SVM_MSR_EFER) | SVM_EFER_SVME);
    __writemsr(SVM_MSR_VM_HSAVE_PA, HSAVE_PA);
    struct vmcb *v = at(f, VMCB_PA);
    memset(v, 0, sizeof *v);
    vmcb_set_intercept(v, SVM_EXIT_VMRUN);
    vmcb_set_intercept(v, SVM_EXIT_HLT);
    v->control.guest_asid = 1;
    v->save.cs = v->save.ds = v->save.es = v->save.ss =
        (struct vmcb_seg){.sel = CODE_PA >> 4, .attrib = 0x93, .limit = 0xffff, .base = CODE_PA};
    v->save.cs.attrib = 0x9b;
    v->save.efer = SVM_EFER_SVME;
    v->save.cr0 = 0x10;
    v->save.rflags = 2;
    memcpy(at(f, CODE_PA), code, sizeof code);
    return 0;
}
static int tear_down(void **state)
{
    struct fixture *f = *state;
    vmenter_destroy(f->m);
    free(f);
    return 0;
}

static void parse(void **state)
{
    assert_int_equal(vmenter_trace_parse("exits"), VMENTER_TRACE_EXITS);
    assert_int_equal(vmenter_trace_parse("io,msr,io"), VMENTER_TRACE_IO | VMENTER_TRACE_MSR);
    assert_int_equal(vmenter_trace_parse("all"), VMENTER_TRACE_ALL);
    static const char *const bad[] = {"", ",", "exits,", ",exits", "exit", "exitsx", "io,frob", "IO", "io msr"};
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(vmenter_trace_parse(bad[i]), 0);
}

static void vmx(void **state)
{
    struct fixture *f = *state;
    struct vmenter_regs regs = {0};
    vmenter_trace(f->m, VMENTER_TRACE_ALL, on_trace, f);
    assert_int_equal(vmenter_vmlaunch(&regs), 0);
    assert_says(f, " 0 guest entry VMLAUNCH at=");
    assert_says(f, " vmcs=0x2000\n");
    assert_says(f, ":0000000000008000 0fa2                   cpuid\n");
    assert_says(f, " 0 guest exit CPUID at=");
    assert_says(f, ":0000000000008000 len=0x2\n");
    assert_int_equal(f->kinds, VMENTER_TRACE_EXITS | VMENTER_TRACE_ENTRIES | VMENTER_TRACE_INSN);

    /* What is not asked for is not told; injected events are deliveries, with what they lead to. */
    clear(f);
    vmenter_trace(f->m, VMENTER_TRACE_EXCEPTIONS, on_trace, f);
    __vmx_vmwrite(VMCS_ENTRY_INTERRUPTION_INFO, 0x80000b0d); /* #GP with an error code */
    __vmx_vmwrite(VMCS_ENTRY_EXCEPTION_ERROR_CODE, 0x18);
    assert_int_equal(vmenter_vmresume(&regs), 0);
    assert_int_equal(vmx_field(VMCS_EXIT_REASON), VMX_REASON_TRIPLE_FAULT);
    assert_says(f, " guest exception #GP type=hardware error=0x18 at=");
    assert_says(f, " guest exception #DF type=hardware error=0x0 at=");
    assert_silent(f, "exit");
    assert_int_equal(f->kinds, VMENTER_TRACE_EXCEPTIONS);
    clear(f);
    vmenter_trace(f->m, 0, on_trace, f);
    assert_int_equal(vmenter_vmresume(&regs), 0);
    assert_int_equal(f->lines, 0);
}

static void vmx_refused(void **state)
{
    struct fixture *f = *state;
    struct vmenter_regs regs = {0};
    vmenter_trace(f->m, VMENTER_TRACE_ENTRIES, on_trace, f);
    assert_int_equal(vmenter_vmresume(&regs), 1);
    assert_says(f, " host entry VMRESUME at=");
    assert_says(f, " failed=5 \"VMRESUME with non-launched VMCS\"\n");
    assert_silent(f, " rule ");
    clear(f);
    __vmx_vmwrite(VMCS_HOST_TR_SELECTOR, 0);
    assert_int_equal(vmenter_vmlaunch(&regs), 1);
    assert_says(f, " failed=8 ");
    assert_says(f, " host rule host.");
    __vmx_vmwrite(VMCS_HOST_TR_SELECTOR, _str());

    /* Guest state is refused by a VM exit. */
    clear(f);
    vmenter_trace(f->m, VMENTER_TRACE_EXITS, on_trace, f);
    __vmx_vmwrite(VMCS_GUEST_RFLAGS, 0);
    assert_int_equal(vmenter_vmlaunch(&regs), 0);
    assert_says(f, " exit ENTRY_FAILURE_GUEST_STATE at=");
    assert_says(f, " rule guest.");
    clear(f);
    vmenter_dump(f->m, on_line, f);
    assert_says(f, "  the last VM entry was refused:\n");
    assert_says(f, "  current VMCS at 0x2000\n");
    assert_says(f, "  GUEST_RIP                           = 0x8000\n");
    assert_says(f, "# ENTRY_FAILURE_GUEST_STATE, VM-entry failure\n");
    assert_says(f, "host entry VMRESUME at=");
}

static void ignore(void *opaque, const struct vmenter_event *event) {}

/* The VM-exit MSR-load list holds what may not stand there: a VMX abort at the exit. */
static void vmx_aborted(void **state)
{
    struct fixture *f = *state;
    struct vmenter_regs regs = {0};
    struct vmx_msr_entry *e = at(f, 0x6000);
    *e = (struct vmx_msr_entry){.index = 0xc0000100}; /* IA32_FS_BASE may not stand in a list */
    __vmx_vmwrite(VMCS_EXIT_MSR_LOAD_ADDRESS, 0x6000);
    __vmx_vmwrite(VMCS_EXIT_MSR_LOAD_COUNT, 1);
    vmenter_set_event_handler(f->m, ignore, NULL);
    vmenter_trace(f->m, VMENTER_TRACE_EXCEPTIONS, on_trace, f);
    vmenter_vmlaunch(&regs);
    assert_says(f, " exception VMX_ABORT indicator=4 at=");
}

static void svm(void **state)
{
    struct fixture *f = *state;
    struct vmenter_regs regs = {0};
    struct vmcb *v = at(f, VMCB_PA);
    clear(f);
    vmenter_dump(f->m, on_line, f);
    assert_silent(f, "VMCB");
    clear(f);
    vmenter_trace(f->m, VMENTER_TRACE_ALL, on_trace, f);
    vmenter_vmrun(VMCB_PA, &regs);
    assert_says(f, " 0 guest entry VMRUN at=0800:00000000 vmcb=0x4000\n");
    assert_says(f, " 0 guest insn 0800:00000000 43                     inc bx\n");
    assert_says(f, " 0 guest exit HLT at=0800:00000001 info1=0x0 info2=0x0\n");
    v->save.efer = 0;
    clear(f);
    vmenter_vmrun(VMCB_PA, &regs);
    assert_says(f, " exit INVALID at=");
    assert_says(f, " rule EFER_SVME: ");
    clear(f);
    vmenter_dump(f->m, on_line, f);
    assert_says(f, "  the last VM entry was refused:\n");
    assert_says(f, "  VMCB at 0x4000\n");
    assert_says(f, "  save.cs.sel                      = 0x800\n");
    assert_says(f, "# INVALID\n");
    clear(f);
    vmenter_print_stats(f->m, on_line, f);
    assert_says(f, "  HLT                                             1   50.0%\n");
    assert_says(f, "  INVALID                                         1   50.0%\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parse),
        cmocka_unit_test_setup_teardown(vmx, intel, tear_down),
        cmocka_unit_test_setup_teardown(vmx_refused, intel, tear_down),
        cmocka_unit_test_setup_teardown(vmx_aborted, intel, tear_down),
        cmocka_unit_test_setup_teardown(svm, amd, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
