/* SPDX-License-Identifier: MIT
 *
 * cmd_explain.c: `vmenter explain KIND ...`: a number of VMX or SVM, bit by bit in words; `vmenter explain WORD`: what
 * a number or a name may mean at all: exits, errors, fields, controls.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vmenter/svm.h>
#include <vmenter/vmx.h>

#include "cli/explain.h"

struct fact {
    const char *kind, *prefix, *name;
    uint64_t first, last; /* numbers that mean it */
    const char *text, *more;
};

static const struct fact facts[] = {
#define VMX_EXIT(number, name, valid, text) {"VMX exit reason", "", #name, number, number, text, ""},
#include <vmenter/arch/vmx_exit.def>
#undef VMX_EXIT
#define VMX_ERR(number, name, text) {"VM-instruction error", "", #name, number, number, text, ""},
#include <vmenter/arch/vmx_err.def>
#undef VMX_ERR
#define VMCS(name, encoding, when, group, text) {"VMCS field", "", #name, encoding, encoding, text, ""},
#include <vmenter/arch/vmcs.def>
#undef VMCS
#define VMX_CTL(word, bit, name, class, since, feature, text)                                                          \
    {"VMX control, bit", #word "_", #name, bit, bit, text, #word},
#include <vmenter/arch/vmx_ctl.def>
#undef VMX_CTL
#define SVM_EXIT(code, name, what, info1, info2)                                                                       \
    {"SVM exit code", "", #name, (uint64_t)(code), (uint64_t)(code), what, info1},
#define SVM_EXIT_RANGE(first, last, name, what, info1, info2)                                                          \
    {"SVM exit code", "", #name, (uint64_t)(first), (uint64_t)(last), what, info1},
#include <vmenter/arch/svm_exit.def>
#define VMCB_CONTROL(offset, type, name, group) {"VMCB field, offset", "", #name, offset, offset, "control area", ""},
#define VMCB_CONTROL_GAP(offset, bytes)
#define VMCB_SAVE(offset, type, name, group)                                                                           \
    {"VMCB field, offset", "", #name, 0x400 + (offset), 0x400 + (offset), "state save area", ""},
#define VMCB_SAVE_GAP(offset, bytes)
#include <vmenter/arch/vmcb.def>
};

static bool same_letters(char a, char b)
{
    a = (char)(a >= 'a' && a <= 'z' ? a - 32 : a == '-' || a == ' ' ? '_' : a);
    b = (char)(b >= 'a' && b <= 'z' ? b - 32 : b == '-' || b == ' ' ? '_' : b);
    return a == b;
}

/* Whether `word` stands in `name`, whatever its case. */
static bool contains(const char *name, const char *word)
{
    for (; *name; name++) {
        size_t i = 0;
        while (word[i] && name[i] && same_letters(name[i], word[i])) {
            i++;
        }
        if (!word[i]) {
            return true;
        }
    }
    return false;
}

/* --- how an explanation is said ----------------------------------------------------------------------------------- */

bool explain_number(const char *text, uint64_t *value)
{
    char *end;
    if ((*text < '0' || *text > '9') && *text != '-')
        return false;
    *value = strtoull(text, &end, 0);
    return !*end;
}

static void json_string(const char *s)
{
    putchar('"');
    for (; *s; s++) {
        if (*s == '"' || *s == '\\')
            putchar('\\');
        putchar(*s);
    }
    putchar('"');
}

void explain_begin(struct explain *x, const char *kind, const char *value, const char *meaning)
{
    if (x->json) {
        printf("%s\n  {\"kind\": ", x->things ? "," : "[");
        json_string(kind);
        printf(", \"value\": ");
        json_string(value);
        printf(", \"meaning\": ");
        json_string(meaning);
        printf(", \"rows\": [");
    } else {
        printf("%s %s%s%s\n", kind, value, *meaning ? ": " : "", meaning);
    }
    x->things++;
    x->rows = 0;
}

void explain_bits(struct explain *x, unsigned high, unsigned low, uint64_t value, const char *name, const char *meaning)
{
    char where[16], number[24];
    snprintf(where, sizeof where, high == low ? "%u" : "%u:%u", high, low);
    snprintf(number, sizeof number, value < 10 ? "%llu" : "0x%llx", (unsigned long long)value);
    if (x->json) {
        printf("%s\n    {\"bits\": \"%s\", \"value\": \"%s\", \"name\": ", x->rows ? "," : "", where, number);
        json_string(name);
        printf(", \"meaning\": ");
        json_string(meaning);
        putchar('}');
    } else {
        printf("  %-6s %-6s %s%s%s\n", where, number, name, *meaning ? ": " : "", meaning);
    }
    x->rows++;
}

void explain_note(struct explain *x, const char *name, const char *meaning)
{
    if (x->json) {
        printf("%s\n    {\"name\": ", x->rows ? "," : "");
        json_string(name);
        printf(", \"meaning\": ");
        json_string(meaning);
        putchar('}');
    } else {
        printf("  %s: %s\n", name, meaning);
    }
    x->rows++;
}

void explain_end(struct explain *x)
{
    if (x->json)
        printf("]}");
}

/* --- the command -------------------------------------------------------------------------------------------------- */

static const struct explain_kind *const kinds[] = {explain_vmx_kinds, explain_svm_kinds};

static void help(void)
{
    puts("usage: vmenter explain KIND ... [--json]\n       vmenter explain NUMBER|NAME\n");
    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
        for (const struct explain_kind *k = kinds[i]; k->name; k++)
            printf("  %s %s\n      %s\n", k->name, k->arguments, k->help);
    puts("\nA NUMBER or a NAME, or a part of one, alone: all that it may mean: exit reasons, VM-instruction errors,\n"
         "VMCS fields and controls, SVM exit codes, VMCB fields.");
}

static int explain_word(const char *word)
{
    unsigned hits = 0;
    char *end;
    uint64_t n = strtoull(word, &end, 0);
    bool number = end != word && !*end;
    for (size_t i = 0; i < sizeof(facts) / sizeof(*facts); i++) {
        const struct fact *f = &facts[i];
        bool control = !strcmp(f->kind, "VMX control, bit");
        if (number ? control || n < f->first || n > f->last : !contains(f->name, word) && !contains(f->text, word)) {
            continue;
        }
        hits++;
        printf("%-20s %#-8llx %s%s: %s%s%s\n", f->kind, (unsigned long long)(number ? n : f->first), f->prefix, f->name,
               f->text, *f->more && !control ? "; EXITINFO1: " : "", control ? "" : f->more);
    }
    return hits ? EXIT_OK : cli_error("explain: nothing is known of '%s'", word);
}

int cmd_explain(int argc, char **argv)
{
    struct explain x = {0};
    int n = 0;
    for (int i = 0; i < argc; i++) { /* --json may stand anywhere */
        if (i && !strcmp(argv[i], "--json"))
            x.json = true;
        else
            argv[n++] = argv[i];
    }
    if (n < 2)
        return cli_error("explain: one number or name is wanted, such as 48, 0x681e, -1 or EPT_VIOLATION; or a kind: "
                         "vmenter explain --help");
    if (!strcmp(argv[1], "--help")) {
        help();
        return EXIT_OK;
    }
    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
        for (const struct explain_kind *k = kinds[i]; k->name; k++) {
            if (strcmp(k->name, argv[1]))
                continue;
            if (n == 3 && !strcmp(argv[2], "--help")) {
                printf("usage: vmenter explain %s %s [--json]\n\n%s\n", k->name, k->arguments, k->help);
                return EXIT_OK;
            }
            if (!x.json)
                return k->run(&x, n - 1, argv + 1);
            int status = k->run(&x, n - 1, argv + 1);
            if (x.things)
                puts("\n]");
            return status;
        }
    }
    if (n != 2)
        return cli_error("explain: there is no kind '%s': vmenter explain --help lists them", argv[1]);
    if (x.json)
        return cli_error("explain: --json needs a kind: vmenter explain --help lists them");
    return explain_word(argv[1]);
}
