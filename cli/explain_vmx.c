/* SPDX-License-Identifier: MIT
 *
 * explain_vmx.c: VMX's numbers in words: exits with their qualification and information, errors, fields, capability
 * MSRs. What bits mean stands in vmx_bits.def and vmx_ctl.def.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vmenter/vmx.h>

#include "cli/explain.h"

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

/* --- exits -------------------------------------------------------------------------------------------------------- */

static const char *qualification_format(uint32_t reason, uint32_t event)
{
    switch (VMX_REASON_BASIC(reason)) {
    case VMX_REASON_EXCEPTION_OR_NMI:
        return (event & VMX_INTR_VALID) && VMX_INTR_VECTOR(event) == 14  ? "PAGE_FAULT"
               : (event & VMX_INTR_VALID) && VMX_INTR_VECTOR(event) == 1 ? "DEBUG"
                                                                         : NULL;
    case VMX_REASON_STARTUP_IPI: return "STARTUP";
    case VMX_REASON_TASK_SWITCH: return "TASK";
    case VMX_REASON_INVLPG: return "LINEAR";
    case VMX_REASON_CONTROL_REGISTER_ACCESS: return "CR";
    case VMX_REASON_MOV_DR: return "DR";
    case VMX_REASON_IO_INSTRUCTION: return "IO";
    case VMX_REASON_ENTRY_FAILURE_GUEST_STATE: return "ENTRY_FAILURE";
    case VMX_REASON_ENTRY_FAILURE_MSR_LOADING: return "MSR_ENTRY";
    case VMX_REASON_MWAIT: return "MWAIT";
    case VMX_REASON_APIC_ACCESS: return "APIC_ACCESS";
    case VMX_REASON_VIRTUALIZED_EOI: return "EOI";
    case VMX_REASON_APIC_WRITE: return "APIC_WRITE";
    case VMX_REASON_EPT_VIOLATION: return "EPT";
    case VMX_REASON_PAGE_MODIFICATION_LOG_FULL: return "PML";
    case VMX_REASON_SPP_RELATED_EVENT: return "SPP";
    case VMX_REASON_INSTRUCTION_TIMEOUT: return "TIMEOUT";
    case VMX_REASON_VMCLEAR:
    case VMX_REASON_VMPTRLD:
    case VMX_REASON_VMPTRST:
    case VMX_REASON_VMREAD:
    case VMX_REASON_VMWRITE:
    case VMX_REASON_VMXON:
    case VMX_REASON_GDTR_OR_IDTR_ACCESS:
    case VMX_REASON_LDTR_OR_TR_ACCESS:
    case VMX_REASON_INVEPT:
    case VMX_REASON_INVVPID:
    case VMX_REASON_INVPCID:
    case VMX_REASON_XSAVES:
    case VMX_REASON_XRSTORS: return "DISPLACEMENT";
    }
    return NULL;
}

static const char *instruction_format(uint32_t reason)
{
    switch (VMX_REASON_BASIC(reason)) {
    case VMX_REASON_IO_INSTRUCTION: return "INSN_STRING";
    case VMX_REASON_INVEPT:
    case VMX_REASON_INVVPID:
    case VMX_REASON_INVPCID: return "INSN_INVALIDATE";
    case VMX_REASON_GDTR_OR_IDTR_ACCESS: return "INSN_TABLE";
    case VMX_REASON_LDTR_OR_TR_ACCESS: return "INSN_SELECTOR";
    case VMX_REASON_RDRAND:
    case VMX_REASON_RDSEED:
    case VMX_REASON_UMWAIT:
    case VMX_REASON_TPAUSE: return "INSN_RANDOM";
    case VMX_REASON_VMCLEAR:
    case VMX_REASON_VMPTRLD:
    case VMX_REASON_VMPTRST:
    case VMX_REASON_VMXON:
    case VMX_REASON_XSAVES:
    case VMX_REASON_XRSTORS: return "INSN_POINTER";
    case VMX_REASON_VMREAD:
    case VMX_REASON_VMWRITE: return "INSN_FIELD";
    case VMX_REASON_LOADIWKEY: return "INSN_KEY";
    }
    return NULL;
}

static const struct exit_name {
    uint32_t number;
    const char *name, *valid, *text;
} exits[] = {
#define VMX_EXIT(number, name, valid, text) {number, #name, valid, text},
#include <vmenter/arch/vmx_exit.def>
#undef VMX_EXIT
};

/* By number or name. */
static bool exit_number(const char *text, uint64_t *reason)
{
    if (explain_number(text, reason))
        return *reason <= 0xffffffff;
    for (size_t i = 0; i < COUNT(exits); i++) {
        if (explain_same_name(text, exits[i].name)) {
            *reason = exits[i].number;
            return true;
        }
    }
    return false;
}

static const char *exception_of(uint32_t event)
{
    static const char *const names[32] = {"#DE", "#DB", "",    "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "",    "#TS",
                                          "#NP", "#SS", "#GP", "#PF", "",    "#MF", "#AC", "#MC", "#XM", "#VE", "#CP"};
    unsigned type = VMX_INTR_TYPE(event), vector = VMX_INTR_VECTOR(event);
    bool exception = type == VMX_EVENT_HARDWARE_EXCEPTION || type == VMX_EVENT_SOFTWARE_EXCEPTION ||
                     type == VMX_EVENT_PRIVILEGED_SOFTWARE_EXCEPTION;
    return exception && (event & VMX_INTR_VALID) && vector < 32 && names[vector] ? names[vector] : "";
}

static void explain_event(struct explain *x, const char *what, uint64_t v)
{
    char value[24];
    explain_value(value, sizeof value, v, false);
    explain_begin(x, what, value, exception_of((uint32_t)v));
    explain_format(x, "EVENT", v);
    explain_end(x);
}

static int run_exit(struct explain *x, int argc, char **argv)
{
    enum { QUALIFICATION, INFO, INSTRUCTION, VECTORING };
    static const struct option options[] = {{"qualification", "N", "", QUALIFICATION},
                                            {"info", "N", "", INFO},
                                            {"instruction-info", "N", "", INSTRUCTION},
                                            {"idt-vectoring", "N", "", VECTORING},
                                            {0}};
    struct option_parser p = {.options = options, .argc = argc, .argv = argv, .at = 1};
    uint64_t reason = 0, given[4] = {0};
    bool has[4] = {false}, named = false;
    for (int id; (id = option_next(&p)) != OPTION_END;) {
        if (id == OPTION_BAD)
            return EXIT_USAGE;
        if (id == OPTION_WORD) {
            if (named || !exit_number(p.value, &reason))
                return cli_error("explain: vmx-exit: '%s' is no exit reason", p.value);
            named = true;
        } else {
            if (!explain_number(p.value, &given[id]))
                return cli_error("explain: vmx-exit: '%s' is no number", p.value);
            has[id] = true;
        }
    }
    if (!named)
        return cli_error("explain: vmx-exit: an exit reason is wanted, such as 48 or EPT_VIOLATION");
    char value[24];
    const struct exit_name *e = NULL;
    for (size_t i = 0; i < COUNT(exits); i++)
        if (exits[i].number == VMX_REASON_BASIC((uint32_t)reason))
            e = &exits[i];
    explain_value(value, sizeof value, reason, reason < 0x10000);
    explain_begin(x, "exit reason", value, e ? e->text : "reserved");
    if (e)
        explain_note(x, "name", e->name);
    if (reason >> 16)
        explain_format(x, "REASON", reason);
    if (e) {
        static const struct {
            char letter;
            const char *name;
        } letters[] = {{'q', "exit qualification"},      {'l', "guest-linear address"},
                       {'p', "guest-physical address"},  {'n', "instruction length"},
                       {'i', "instruction information"}, {'v', "interruption information"},
                       {'o', "I/O RCX, RSI, RDI, RIP"}};
        char list[200] = "";
        for (size_t i = 0; i < COUNT(letters); i++)
            if (strchr(e->valid, letters[i].letter))
                snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", *list ? ", " : "", letters[i].name);
        explain_note(x, "fields that it defines", *list ? list : "none");
    }
    explain_end(x);
    if (has[QUALIFICATION]) {
        const char *format = qualification_format((uint32_t)reason, has[INFO] ? (uint32_t)given[INFO] : 0);
        explain_value(value, sizeof value, given[QUALIFICATION], false);
        explain_begin(x, "exit qualification", value, "");
        if (format)
            explain_format(x, format, given[QUALIFICATION]);
        else if (VMX_REASON_BASIC((uint32_t)reason) == VMX_REASON_EXCEPTION_OR_NMI && !has[INFO])
            explain_note(x, "format", "depends on the exception: give --info, the VM-exit interruption information");
        else
            explain_note(x, "format", "such an exit defines none");
        explain_end(x);
    }
    if (has[INFO])
        explain_event(x, "VM-exit interruption information", given[INFO]);
    if (has[INSTRUCTION]) {
        const char *format = instruction_format((uint32_t)reason);
        explain_value(value, sizeof value, given[INSTRUCTION], false);
        explain_begin(x, "VM-exit instruction information", value, "");
        if (format)
            explain_format(x, format, given[INSTRUCTION]);
        else
            explain_note(x, "format", "such an exit defines none");
        explain_end(x);
    }
    if (has[VECTORING])
        explain_event(x, "IDT-vectoring information", given[VECTORING]);
    return EXIT_OK;
}

/* --- errors, events ----------------------------------------------------------------------------------------------- */

static int run_error(struct explain *x, int argc, char **argv)
{
    uint64_t n;
    char value[24];
    if (argc != 2 || !explain_number(argv[1], &n))
        return cli_error("explain: vmx-error: a VM-instruction error number is wanted, such as 7");
    const char *text = n <= 0xffffffff ? vmenter_vmx_error_text((uint32_t)n) : "?";
    if (!strcmp(text, "?"))
        return cli_error("explain: vmx-error: there is no VM-instruction error %s", argv[1]);
    explain_value(value, sizeof value, n, true);
    explain_begin(x, "VM-instruction error", value, text);
    if (n == VMX_ERR_ENTRY_INVALID_CONTROLS || n == VMX_ERR_ENTRY_INVALID_HOST_STATE)
        explain_note(x, "which rule", "vmenter check names it, from a dump of the VMCS");
    explain_end(x);
    return EXIT_OK;
}

static int run_event(struct explain *x, int argc, char **argv)
{
    uint64_t n;
    if (argc != 2 || !explain_number(argv[1], &n))
        return cli_error("explain: %s: a number is wanted, such as 0x80000b0e", argv[0]);
    explain_event(x, "interruption information", n);
    return EXIT_OK;
}

static int run_instruction(struct explain *x, int argc, char **argv)
{
    uint64_t reason, n;
    char value[24];
    if (argc != 3 || !exit_number(argv[1], &reason) || !explain_number(argv[2], &n))
        return cli_error(
            "explain: vmx-instruction-info: an exit reason and a number are wanted, such as VMREAD 0x1234");
    const char *format = instruction_format((uint32_t)reason);
    if (!format)
        return cli_error("explain: vmx-instruction-info: an exit for '%s' defines no instruction information", argv[1]);
    explain_value(value, sizeof value, n, false);
    explain_begin(x, "VM-exit instruction information", value, "");
    explain_format(x, format, n);
    explain_end(x);
    return EXIT_OK;
}

/* --- fields ------------------------------------------------------------------------------------------------------- */

static const struct {
    uint32_t encoding;
    const char *name, *when, *text;
} fields[] = {
#define VMCS(name, encoding, when, group, text) {encoding, #name, #when, text},
#include <vmenter/arch/vmcs.def>
#undef VMCS
};

static const struct {
    const char *word;
    uint8_t bit;
    const char *name, *text;
    uint32_t field, msr, true_msr;
} controls[] = {
#define WHERE_PIN    VMCS_PIN_CONTROLS, VMX_MSR_PINBASED_CTLS, VMX_MSR_TRUE_PINBASED_CTLS
#define WHERE_PROC   VMCS_PROC_CONTROLS, VMX_MSR_PROCBASED_CTLS, VMX_MSR_TRUE_PROCBASED_CTLS
#define WHERE_PROC2  VMCS_PROC2_CONTROLS, VMX_MSR_PROCBASED_CTLS2, 0
#define WHERE_PROC3  VMCS_PROC3_CONTROLS, VMX_MSR_PROCBASED_CTLS3, 0
#define WHERE_EXIT   VMCS_EXIT_CONTROLS, VMX_MSR_EXIT_CTLS, VMX_MSR_TRUE_EXIT_CTLS
#define WHERE_EXIT2  VMCS_EXIT2_CONTROLS, VMX_MSR_EXIT_CTLS2, 0
#define WHERE_ENTRY  VMCS_ENTRY_CONTROLS, VMX_MSR_ENTRY_CTLS, VMX_MSR_TRUE_ENTRY_CTLS
#define WHERE_VMFUNC VMCS_VM_FUNCTION_CONTROLS, VMX_MSR_VMFUNC, 0
#define CONTROL(...)                                                                                                   \
    {                                                                                                                  \
        __VA_ARGS__                                                                                                    \
    }
#define VMX_CTL(word, bit, name, class, since, feature, text) CONTROL(#word, bit, #name, text, WHERE_##word),
#include <vmenter/arch/vmx_ctl.def>
#undef VMX_CTL
};

static void explain_controls(struct explain *x, uint32_t encoding, uint64_t v)
{
    for (unsigned bit = 0; bit < 64; bit++) {
        const char *name = vmenter_vmx_control_name(encoding, bit);
        bool on = v >> bit & 1;
        if (name || on)
            explain_bits(x, bit, bit, on, name ? name : "reserved, or of the default1 class", on ? "on" : "off");
    }
}

static const char *field_format(uint32_t encoding)
{
    if (encoding >= VMCS_GUEST_ES_ACCESS_RIGHTS && encoding <= VMCS_GUEST_TR_ACCESS_RIGHTS)
        return "ACCESS_RIGHTS";
    switch (encoding) {
    case VMCS_GUEST_INTERRUPTIBILITY_STATE: return "INTERRUPTIBILITY";
    case VMCS_GUEST_ACTIVITY_STATE: return "ACTIVITY";
    case VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS: return "PENDING_DEBUG";
    case VMCS_GUEST_INTERRUPT_STATUS: return "INTERRUPT_STATUS";
    case VMCS_EPT_POINTER: return "EPTP";
    case VMCS_EXIT_REASON: return "REASON";
    case VMCS_ENTRY_INTERRUPTION_INFO:
    case VMCS_EXIT_INTERRUPTION_INFO:
    case VMCS_IDT_VECTORING_INFO: return "EVENT";
    }
    return NULL;
}

static int run_field(struct explain *x, int argc, char **argv)
{
    static const char *const widths[] = {"16 bits", "64 bits", "32 bits", "natural width"}, *const types[] = {
                                                                                                "control",
                                                                                                "read-only data",
                                                                                                "guest state",
                                                                                                "host state"};
    char name[64], value[24], meaning[200];
    uint64_t n, v = 0;
    if (argc != 2)
        return cli_error(
            "explain: vmcs: a field is wanted, such as 0x681e, GUEST_RIP or GUEST_CS_ACCESS_RIGHTS=0xa09b");
    const char *equals = strchr(argv[1], '=');
    snprintf(name, sizeof name, "%.*s", equals ? (int)(equals - argv[1]) : (int)strlen(argv[1]), argv[1]);
    if (equals && !explain_number(equals + 1, &v))
        return cli_error("explain: vmcs: '%s' is no number", equals + 1);
    bool number = explain_number(name, &n);
    for (size_t i = 0; i < COUNT(fields); i++) {
        uint32_t e = fields[i].encoding;
        bool high = number && n == (e | VMCS_HIGH) && VMCS_FIELD_WIDTH(e) == VMCS_WIDTH_64;
        if (number ? n != e && !high : !explain_same_name(name, fields[i].name))
            continue;
        explain_value(value, sizeof value, high ? e | VMCS_HIGH : e, false);
        snprintf(meaning, sizeof meaning, "%s%s", fields[i].text, high ? ", high 32 bits" : "");
        explain_begin(x, "VMCS field", value, meaning);
        explain_note(x, "name", fields[i].name);
        explain_note(x, "width", widths[VMCS_FIELD_WIDTH(e)]);
        explain_note(x, "type", types[VMCS_FIELD_TYPE(e)]);
        snprintf(meaning, sizeof meaning, "%u", (unsigned)VMCS_FIELD_INDEX(e));
        explain_note(x, "index", meaning);
        /* WITH(PROC2, ENABLE_EPT) */
        char list[160] = "";
        const char *when = fields[i].when;
        for (size_t c = 0; c < COUNT(controls); c++) {
            char pair[80];
            snprintf(pair, sizeof pair, "%s, %s", controls[c].word, controls[c].name);
            const char *hit = strstr(when, pair);
            char after = hit ? hit[strlen(pair)] : 'x';
            if (hit && (after == ')' || after == ',') && (hit[-1] == '(' || hit[-1] == ' '))
                snprintf(list + strlen(list), sizeof list - strlen(list), "%s\"%s\"", *list ? " or " : "",
                         controls[c].text);
        }
        snprintf(meaning, sizeof meaning, "%s%s",
                 !strcmp(when, "ALWAYS") ? "on every processor with VMX"
                 : *list                 ? "where this control may be 1: "
                                         : "on no processor known here",
                 list);
        explain_note(x, "exists", meaning);
        explain_end(x);
        if (!equals)
            return EXIT_OK;
        explain_value(value, sizeof value, v, false);
        explain_begin(x, fields[i].name, value, "");
        const char *format = field_format(e);
        if (format)
            explain_format(x, format, v);
        else if (vmenter_vmx_control_name(e, 0) || vmenter_vmx_control_name(e, 2))
            explain_controls(x, e, v);
        explain_end(x);
        return EXIT_OK;
    }
    return cli_error("explain: vmcs: there is no field '%s'", name);
}

/* --- capability MSRs ---------------------------------------------------------------------------------------------- */

static void explain_allowed(struct explain *x, uint32_t msr, uint64_t v)
{
    bool whole = msr == VMX_MSR_VMFUNC || msr == VMX_MSR_PROCBASED_CTLS3 || msr == VMX_MSR_EXIT_CTLS2;
    for (unsigned bit = 0; bit < (whole ? 64 : 32); bit++) {
        const char *name = NULL;
        for (size_t i = 0; i < COUNT(controls); i++)
            if (controls[i].bit == bit && (controls[i].msr == msr || controls[i].true_msr == msr))
                name = controls[i].text;
        bool may = whole ? v >> bit & 1 : v >> (32 + bit) & 1, must = !whole && (v >> bit & 1);
        if (!name && !may && !must)
            continue;
        explain_bits(x, bit, bit, may, name ? name : "reserved",
                     must && may ? "must be 1"
                     : may       ? "may be 0 or 1"
                     : must      ? "contradiction: must be 1 and must be 0"
                                 : "must be 0");
    }
}

static void explain_fixed(struct explain *x, uint64_t v, bool cr4, bool ones)
{
    static const char *const cr0_bits[32] = {[0] = "PE",  [1] = "MP",  [2] = "EM",  [3] = "TS",  [4] = "ET", [5] = "NE",
                                             [16] = "WP", [18] = "AM", [29] = "NW", [30] = "CD", [31] = "PG"};
    static const char *const cr4_bits[33] = {
        "VME",  "PVI",  "TSD",  "DE",    "PSE", "PAE",      "MCE",     "PGE",     "PCE", "OSFXSR", "OSXMMEXCPT",
        "UMIP", "LA57", "VMXE", "SMXE",  NULL,  "FSGSBASE", "PCIDE",   "OSXSAVE", "KL",  "SMEP",   "SMAP",
        "PKE",  "CET",  "PKS",  "UINTR", NULL,  NULL,       "LAM_SUP", NULL,      NULL,  NULL,     "FRED"};
    for (unsigned bit = 0; bit < 64; bit++) {
        const char *name = cr4 ? bit < 33 ? cr4_bits[bit] : NULL : bit < 32 ? cr0_bits[bit] : NULL;
        bool on = v >> bit & 1;
        if (ones ? on : name && !on)
            explain_bits(x, bit, bit, on, name ? name : "reserved", on ? "must be 1 in VMX operation" : "must be 0");
    }
}

static int run_msr(struct explain *x, int argc, char **argv)
{
    char name[64], value[24], msr[CLI_MSR_NAME_MAX];
    uint64_t n = 0, v = 0;
    if (argc != 2)
        return cli_error("explain: msr: an MSR is wanted, such as 0x480=0xda040000000004 or IA32_VMX_MISC");
    const char *equals = strchr(argv[1], '=');
    snprintf(name, sizeof name, "%.*s", equals ? (int)(equals - argv[1]) : (int)strlen(argv[1]), argv[1]);
    if (equals && !explain_number(equals + 1, &v))
        return cli_error("explain: msr: '%s' is no number", equals + 1);
    if (!explain_number(name, &n)) {
        for (uint32_t i = VMX_MSR_BASIC; i <= VMX_MSR_EXIT_CTLS2; i++)
            if (explain_same_name(name, cli_msr_name(i, msr)))
                n = i;
        if (explain_same_name(name, cli_msr_name(VMX_MSR_FEATURE_CONTROL, msr)))
            n = VMX_MSR_FEATURE_CONTROL;
    }
    bool capability = n >= VMX_MSR_BASIC && n <= VMX_MSR_EXIT_CTLS2;
    if (!capability && n != VMX_MSR_FEATURE_CONTROL)
        return cli_error("explain: msr: '%s' is no MSR of VMX: 0x3a, 0x480 to 0x493, or their names", name);
    explain_value(value, sizeof value, n, false);
    explain_begin(x, "MSR", value, cli_msr_name((uint32_t)n, msr));
    explain_end(x);
    if (!equals)
        return EXIT_OK;
    explain_value(value, sizeof value, v, false);
    explain_begin(x, cli_msr_name((uint32_t)n, msr), value, "");
    switch (n) {
    case VMX_MSR_FEATURE_CONTROL: explain_format(x, "MSR_FEATURE_CONTROL", v); break;
    case VMX_MSR_BASIC: explain_format(x, "MSR_BASIC", v); break;
    case VMX_MSR_MISC: explain_format(x, "MSR_MISC", v); break;
    case VMX_MSR_VMCS_ENUM: explain_format(x, "MSR_VMCS_ENUM", v); break;
    case VMX_MSR_EPT_VPID_CAP: explain_format(x, "MSR_EPT_VPID_CAP", v); break;
    case VMX_MSR_CR0_FIXED0: explain_fixed(x, v, false, true); break;
    case VMX_MSR_CR0_FIXED1: explain_fixed(x, v, false, false); break;
    case VMX_MSR_CR4_FIXED0: explain_fixed(x, v, true, true); break;
    case VMX_MSR_CR4_FIXED1: explain_fixed(x, v, true, false); break;
    default: explain_allowed(x, (uint32_t)n, v); break;
    }
    explain_end(x);
    return EXIT_OK;
}

const struct explain_kind explain_vmx_kinds[] = {
    {"vmx-exit", "REASON [--qualification N] [--info N] [--instruction-info N] [--idt-vectoring N]",
     "a VM exit: its reason (number or name) and information", run_exit},
    {"vmx-error", "NUMBER", "a VM-instruction error", run_error},
    {"vmcs", "FIELD[=VALUE]", "a VMCS field (encoding or name), its value", run_field},
    {"msr", "MSR[=VALUE]", "a capability MSR (0x480 to 0x493, 0x3a, or its name): controls by name", run_msr},
    {"vmx-interruption-info", "NUMBER", "interruption or IDT-vectoring information", run_event},
    {"vmx-instruction-info", "REASON NUMBER", "VM-exit instruction information", run_instruction},
    {0},
};
