/* SPDX-License-Identifier: MIT
 *
 * explain_svm.c: SVM's numbers in words: exits with EXITINFO1 and EXITINFO2, events, fields of the VMCB. What bits mean
 * stands in svm_bits.def, svm_exit.def and creg.def.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vmenter/svm.h>

#include "cli/explain.h"
#include "src/svm/svm.h"

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

/* --- exits -------------------------------------------------------------------------------------------------------- */

static const struct exit_row {
    uint64_t first, last;
    const char *info1, *info2; /* in words; "": nothing */
} exits[] = {
#define SVM_EXIT(code, name, what, i1, i2)              {(uint64_t)(code), (uint64_t)(code), i1, i2},
#define SVM_EXIT_RANGE(first, last, name, what, i1, i2) {first, last, i1, i2},
#include <vmenter/arch/svm_exit.def>
};

/* How EXITINFO1 and EXITINFO2 of an exit are read; NULL: there is nothing in it. */
static void formats_of(uint64_t code, const char *format[2])
{
    format[0] = format[1] = NULL;
    if (code < 0x20) {
        format[0] = "SVM_CR";
    } else if (code < 0x40) {
        format[0] = "SVM_DR";
    } else if (code < 0x60) {
        switch (code - 0x40) {
        case 10:
        case 11:
        case 12:
        case 13: format[0] = "SVM_SELECTOR_ERROR"; break;
        case 14:
            format[0] = "SVM_PAGE_FAULT";
            format[1] = "SVM_LINEAR";
            break;
        case 21: format[0] = "SVM_CP_ERROR"; break;
        case 8:
        case 17:
        case 29:
        case 30: format[0] = "SVM_ERROR_CODE"; break;
        }
    } else if (code >= SVM_EXIT_EFER_WRITE_TRAP && code <= 0x9f) {
        format[0] = "SVM_VALUE";
    }
    switch (code) {
    case SVM_EXIT_SMI: format[0] = "SVM_SMI"; break;
    case SVM_EXIT_CR0_SEL_WRITE: format[0] = "SVM_CR"; break;
    case SVM_EXIT_SWINT: format[0] = "SVM_VECTOR"; break;
    case SVM_EXIT_INVLPG: format[0] = "SVM_LINEAR"; break;
    case SVM_EXIT_IOIO:
        format[0] = "SVM_IO";
        format[1] = "SVM_NEXT_RIP";
        break;
    case SVM_EXIT_MSR: format[0] = "SVM_MSR"; break;
    case SVM_EXIT_TASK_SWITCH:
        format[0] = "SVM_TASK";
        format[1] = "SVM_TASK2";
        break;
    case SVM_EXIT_INVPCID:
        format[0] = "SVM_LINEAR";
        format[1] = "SVM_INVPCID_TYPE";
        break;
    case SVM_EXIT_NPF:
        format[0] = "SVM_NPF";
        format[1] = "SVM_GPA";
        break;
    case SVM_EXIT_AVIC_INCOMPLETE_IPI:
        format[0] = "SVM_ICR";
        format[1] = "SVM_IPI_CAUSE";
        break;
    case SVM_EXIT_AVIC_NOACCEL:
        format[0] = "SVM_AVIC_ACCESS";
        format[1] = "SVM_AVIC_VECTOR";
        break;
    }
}

/* By number or name: 0x400, -1, NPF, CR3_WRITE, #PF. */
static bool exit_number(const char *text, uint64_t *code)
{
    if (explain_number(text, code))
        return true;
    for (size_t i = 0; i < COUNT(exits); i++) {
        for (uint64_t c = exits[i].first; c - exits[i].first <= exits[i].last - exits[i].first; c++) {
            char name[64];
            svm_describe_exit(c, name, sizeof name);
            const char *exception = strstr(name, " #");
            if (exception && !strcmp(text, exception + 1)) {
                *code = c;
                return true;
            }
            name[strcspn(name, " ")] = 0;
            if (explain_same_name(text, name)) {
                *code = c;
                return true;
            }
        }
    }
    return false;
}

static void explain_event(struct explain *x, const char *what, uint64_t v)
{
    char value[24], name[64] = "";
    static const char *const exceptions[32] = {
        "#DE", "#DB", "", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "",           "#TS", [11] = "#NP", "#SS",
        "#GP", "#PF", "", "#MF", "#AC", "#MC", "#XM", "",    "#CP", [28] = "#HV", "#VC", "#SX"};
    unsigned vector = VMCB_EVENT_VECTOR(v);
    if ((v & VMCB_EVENT_VALID) && VMCB_EVENT_TYPE(v) == VMCB_EVENT_EXCEPTION && vector < 32 && exceptions[vector])
        snprintf(name, sizeof name, "%s", exceptions[vector]);
    explain_value(value, sizeof value, v, false);
    explain_begin(x, what, value, name);
    explain_format(x, "SVM_EVENT", v);
    explain_end(x);
}

static void explain_info(struct explain *x, const char *what, const char *format, const char *words, uint64_t v)
{
    char value[24];
    explain_value(value, sizeof value, v, false);
    explain_begin(x, what, value, "");
    if (format)
        explain_format(x, format, v);
    else
        explain_note(x, "format", *words ? words : "such an exit defines none");
    explain_end(x);
}

static int run_exit(struct explain *x, int argc, char **argv)
{
    enum { INFO1, INFO2, EXITINTINFO };
    static const struct option options[] = {
        {"info1", "N", "", INFO1}, {"info2", "N", "", INFO2}, {"exitintinfo", "N", "", EXITINTINFO}, {0}};
    struct option_parser p = {.options = options, .argc = argc, .argv = argv, .at = 1};
    uint64_t code = 0, given[3] = {0};
    bool has[3] = {false}, named = false;
    for (int id; (id = option_next(&p)) != OPTION_END;) {
        if (id == OPTION_BAD)
            return EXIT_USAGE;
        if (id == OPTION_WORD) {
            if (named || !exit_number(p.value, &code))
                return cli_error("explain: svm-exit: '%s' is no exit code", p.value);
            named = true;
        } else {
            if (!explain_number(p.value, &given[id]))
                return cli_error("explain: svm-exit: '%s' is no number", p.value);
            has[id] = true;
        }
    }
    if (!named)
        return cli_error("explain: svm-exit: an exit code is wanted, such as 0x400, -1 or NPF");
    if (code >= 0xfffffff0 && code <= 0xffffffff) /* VMEXIT_INVALID as 32 bits */
        code |= 0xffffffff00000000;
    char value[24], name[64], meaning[200];
    const char *what = svm_exit_what(code), *format[2], *words[2] = {"", ""};
    for (size_t i = 0; i < COUNT(exits); i++) {
        if (code >= exits[i].first && code <= exits[i].last) {
            words[0] = exits[i].info1;
            words[1] = exits[i].info2;
        }
    }
    formats_of(code, format);
    svm_describe_exit(code, name, sizeof name);
    explain_value(value, sizeof value, code, false);
    snprintf(meaning, sizeof meaning, "%s%s%s", name, what ? ": " : "", what ? what : "");
    explain_begin(x, "exit code", value, meaning);
    if (code == (uint64_t)SVM_EXIT_INVALID)
        explain_note(x, "which rule", "vmenter check names it, from a dump of the VMCB");
    if (code < SVM_INTERCEPTS && what) {
        snprintf(meaning, sizeof meaning, "bit %u of the VMCB's 32-bit word at 0x%x", (unsigned)code % 32,
                 (unsigned)code / 32 * 4);
        explain_note(x, "intercept", meaning);
    }
    if (*words[0] && !has[INFO1])
        explain_note(x, "EXITINFO1", words[0]);
    if (*words[1] && !has[INFO2])
        explain_note(x, "EXITINFO2", words[1]);
    explain_end(x);
    if (has[INFO1])
        explain_info(x, "EXITINFO1", format[0], words[0], given[INFO1]);
    if (has[INFO2])
        explain_info(x, "EXITINFO2", format[1], words[1], given[INFO2]);
    if (has[EXITINTINFO])
        explain_event(x, "EXITINTINFO", given[EXITINTINFO]);
    return EXIT_OK;
}

static int run_event(struct explain *x, int argc, char **argv)
{
    uint64_t n;
    if (argc != 2 || !explain_number(argv[1], &n))
        return cli_error("explain: %s: a number is wanted, such as 0x80000b0e", argv[0]);
    explain_event(x, !strcmp(argv[0], "eventinj") ? "EVENTINJ" : "EXITINTINFO", n);
    return EXIT_OK;
}

/* --- fields ------------------------------------------------------------------------------------------------------- */

enum type { u8 = 1, u16 = 2, u32 = 4, u64 = 8, insn15 = 15, seg = 16 };
static const struct field {
    uint16_t offset;
    uint8_t size;
    const char *name, *group; /* name: NULL where it is reserved */
} fields[] = {
#define VMCB_CONTROL(offset, type, name, group) {offset, type, "control." #name, #group},
#define VMCB_CONTROL_GAP(offset, bytes)
#define VMCB_SAVE(offset, type, name, group) {0x400 + (offset), type, "save." #name, #group},
#define VMCB_SAVE_GAP(offset, bytes)
#include <vmenter/arch/vmcb.def>
};

static const struct {
    const char *name;
    uint8_t offset, size;
} members[] = {{".sel", 0, 2}, {".attrib", 2, 2}, {".limit", 4, 4}, {".base", 8, 8}};

static const struct {
    const char *id, *text;
    uint16_t offset;
} rules[] = {
#define SVM_CHECK(id, g1, g2, found, section, sentence, broken, nearest) {#id, sentence, offsetof(struct vmcb, found)},
#include "src/arch/svm_check.def"
};

/* A field's value: by its bits, an intercept's or a register's name for each. */
static void explain_field_value(struct explain *x, unsigned offset, unsigned size, uint64_t v)
{
    static const struct {
        uint16_t offset;
        const char *format;
    } formats[] = {
        {offsetof(struct vmcb, control.tlb_control), "SVM_TLB_CONTROL"},
        {offsetof(struct vmcb, control.vintr), "SVM_VINTR"},
        {offsetof(struct vmcb, control.interrupt_shadow), "SVM_SHADOW"},
        {offsetof(struct vmcb, control.nested_ctl), "SVM_NESTED_CTL"},
        {offsetof(struct vmcb, control.virt_ext), "SVM_VIRT_EXT"},
        {offsetof(struct vmcb, control.clean), "SVM_CLEAN"},
        {offsetof(struct vmcb, control.eventinj), "SVM_EVENT"},
        {offsetof(struct vmcb, control.exitintinfo), "SVM_EVENT"},
    };
    bool segment = offset >= 0x400 && offset < 0x4a0;
    if (segment && offset % 16 == 2) {
        explain_format(x, "SVM_ATTRIB", v);
        return;
    }
    for (size_t i = 0; i < COUNT(formats); i++) {
        if (formats[i].offset == offset) {
            explain_format(x, formats[i].format, v);
            return;
        }
    }
    if (offset == offsetof(struct vmcb, control.exitcode)) {
        char name[64];
        svm_describe_exit(v, name, sizeof name);
        explain_note(x, "exit code", name);
        return;
    }
    bool named = offset < SVM_INTERCEPTS / 8;
    for (unsigned bit = 0; !named && bit < 8 * size; bit++)
        named = vmenter_vmcb_bit_name(offset, bit) != NULL;
    for (unsigned bit = 0; named && bit < 8 * size; bit++) {
        char name[64];
        if (!(v >> bit & 1))
            continue;
        const char *word = vmenter_vmcb_bit_name(offset, bit);
        snprintf(name, sizeof name, "%s", word ? word : "not defined here");
        if (offset < SVM_INTERCEPTS / 8)
            svm_describe_exit(offset * 8 + bit, name, sizeof name);
        explain_bits(x, bit, bit, 1, name, offset < SVM_INTERCEPTS / 8 ? "intercepted" : "");
    }
}

/* The field by name, with or without the area's, or the one that the offset lies in; *size of it or of the segment's
 * member. */
static const struct field *find_field(const char *text, unsigned *offset, unsigned *size)
{
    uint64_t n = 0;
    bool number = explain_number(text, &n);
    for (size_t i = 0; i < COUNT(fields); i++) {
        const struct field *f = &fields[i];
        const char *name =
            !strncmp(text, "control.", 8) || !strncmp(text, "save.", 5) ? f->name : strchr(f->name, '.') + 1;
        size_t len = strlen(name);
        *offset = f->offset;
        *size = f->size;
        if (number ? n >= f->offset && n < f->offset + f->size && (f->size != seg || n == f->offset)
                   : !strcmp(text, name))
            return f;
        for (size_t m = 0; f->size == seg && m < COUNT(members); m++) {
            unsigned at = f->offset + members[m].offset;
            *offset = at;
            *size = members[m].size;
            if (number ? n >= at && n < at + members[m].size
                       : !strncmp(text, name, len) && !strcmp(text + len, members[m].name))
                return f;
        }
    }
    return NULL;
}

static int run_field(struct explain *x, int argc, char **argv)
{
    char name[64], value[24], meaning[200];
    uint64_t v = 0, n;
    unsigned offset, size;
    if (argc != 2)
        return cli_error("explain: vmcb: a field is wanted, such as 0x58, guest_asid or save.cs.attrib=0x29b");
    const char *equals = strchr(argv[1], '=');
    snprintf(name, sizeof name, "%.*s", equals ? (int)(equals - argv[1]) : (int)strlen(argv[1]), argv[1]);
    if (equals && !explain_number(equals + 1, &v))
        return cli_error("explain: vmcb: '%s' is no number", equals + 1);
    const struct field *f = find_field(name, &offset, &size);
    if (!f) {
        if (!explain_number(name, &n) || n >= sizeof(struct vmcb))
            return cli_error("explain: vmcb: there is no field '%s'", name);
        explain_value(value, sizeof value, n, false);
        explain_begin(x, "VMCB offset", value, "reserved");
        explain_end(x);
        return EXIT_OK;
    }
    const char *whole = vmenter_vmcb_field_name(offset);
    if (size == seg)
        whole = f->name;
    explain_value(value, sizeof value, offset, false);
    explain_begin(x, "VMCB field", value, whole ? whole : f->name);
    snprintf(meaning, sizeof meaning, "%u byte%s", size, size == 1 ? "" : "s");
    explain_note(x, "size", meaning);
    if (explain_number(name, &n) && n != offset) {
        snprintf(meaning, sizeof meaning, "0x%llx is its byte %u", (unsigned long long)n, (unsigned)n - offset);
        explain_note(x, "offset", meaning);
    }
    explain_note(x, "area", offset < offsetof(struct vmcb, save) ? "control" : "state save");
    if (!strcmp(f->group, "OUT"))
        explain_note(x, "written", "by #VMEXIT");
    else
        explain_note(x, "clean bit", !strcmp(f->group, "NONE") ? "none: VMRUN always reads it" : f->group);
    for (size_t i = 0; i < COUNT(rules); i++) {
        if (rules[i].offset < offset || rules[i].offset >= offset + size)
            continue;
        snprintf(meaning, sizeof meaning, "%s: %s", rules[i].id, rules[i].text);
        explain_note(x, "illegal", meaning);
    }
    explain_end(x);
    if (!equals)
        return EXIT_OK;
    explain_value(value, sizeof value, v, false);
    explain_begin(x, whole ? whole : f->name, value, "");
    explain_field_value(x, offset, size, v);
    explain_end(x);
    return EXIT_OK;
}

const struct explain_kind explain_svm_kinds[] = {
    {"svm-exit", "CODE [--info1 N] [--info2 N] [--exitintinfo N]",
     "a #VMEXIT: its exit code (number or name) and information", run_exit},
    {"vmcb", "FIELD[=VALUE]", "a VMCB field (offset or name), the rules about it, its value", run_field},
    {"eventinj", "NUMBER", "an event to inject", run_event},
    {"exitintinfo", "NUMBER", "the event whose delivery a #VMEXIT interrupted", run_event},
    {0},
};
