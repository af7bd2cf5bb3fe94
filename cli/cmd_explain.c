/* SPDX-License-Identifier: MIT
 *
 * cmd_explain.c: `vmenter explain WORD`: what a number or a name of VMX or SVM means: exits, errors, fields, controls.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vmenter/svm.h>
#include <vmenter/vmx.h>

#include "cli/cli.h"

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

int cmd_explain(int argc, char **argv)
{
    unsigned hits = 0;
    if (argc != 2 || !strcmp(argv[1], "--help")) {
        if (argc != 2) {
            return cli_error("explain: one number or name is wanted, such as 48, 0x681e, -1 or EPT_VIOLATION");
        }
        puts("usage: vmenter explain NUMBER|NAME\n\nWhat a number, or a name or a part of one, means: VMX exit "
             "reasons, VM-instruction errors,\n"
             "VMCS fields and controls, SVM exit codes, VMCB fields.");
        return EXIT_OK;
    }
    char *end;
    uint64_t n = strtoull(argv[1], &end, 0);
    bool number = end != argv[1] && !*end;
    for (size_t i = 0; i < sizeof(facts) / sizeof(*facts); i++) {
        const struct fact *f = &facts[i];
        bool control = !strcmp(f->kind, "VMX control, bit");
        if (number ? control || n < f->first || n > f->last
                   : !contains(f->name, argv[1]) && !contains(f->text, argv[1])) {
            continue;
        }
        hits++;
        printf("%-20s %#-8llx %s%s: %s%s%s\n", f->kind, (unsigned long long)(number ? n : f->first), f->prefix, f->name,
               f->text, *f->more && !control ? "; EXITINFO1: " : "", control ? "" : f->more);
    }
    return hits ? EXIT_OK : cli_error("explain: nothing is known of '%s'", argv[1]);
}
