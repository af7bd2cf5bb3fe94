/* SPDX-License-Identifier: MIT
 *
 * check_own.c: dumps of ours: NAME = 0xVALUE in a line, names those of vmcs.def (or VMREAD's encodings as numbers), '#'
 * before words for people. A field that stands there again begins another VMCS.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "cli/check.h"

static const struct {
    const char *name;
    uint32_t encoding;
} names[] = {
#define VMCS(name, encoding, when, group, text) {#name, encoding},
#include <vmenter/arch/vmcs.def>
#undef VMCS
};

static bool encoding_of(const char *name, size_t len, uint32_t *encoding)
{
    if (len > 2 && name[0] == '0' && (name[1] == 'x' || name[1] == 'X')) {
        *encoding = (uint32_t)strtoul(name, NULL, 16);
        return strcmp(vmenter_vmcs_field_name(*encoding), "?") != 0;
    }
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        if (strlen(names[i].name) == len && !strncmp(names[i].name, name, len)) {
            *encoding = names[i].encoding;
            return true;
        }
    }
    return false;
}

static void read_own(const char *text, struct check_list *list)
{
    char line[1000];
    struct check_image *image = NULL;
    for (unsigned n = 1; check_line(&text, line, sizeof line); n++) {
        const char *p = line;
        size_t len = 0;
        uint32_t encoding;
        uint64_t value, old;
        while (isalnum((unsigned char)p[len]) || p[len] == '_')
            len++;
        const char *name = p;
        p += len;
        p += strspn(p, " \t");
        if (*p++ != '=' || !encoding_of(name, len, &encoding))
            continue;
        p += strspn(p, " \t");
        if (!check_hex(&p, &value))
            continue;
        list->taken++;
        if (!image || vmenter_vmcs_get(&image->vmx, encoding, &old)) {
            image = check_list_add(list, CHECK_VMX, n);
            if (!image)
                return;
        }
        image->fields += vmenter_vmcs_set(&image->vmx, encoding, value);
    }
}

const struct check_format check_format_own = {"vmenter dump", "vmenter's own dump: lines NAME = 0xVALUE", read_own};
