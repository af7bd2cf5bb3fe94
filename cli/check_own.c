/* SPDX-License-Identifier: MIT
 *
 * check_own.c: dumps of ours: NAME = 0xVALUE in a line, names those of vmcs.def (or VMREAD's encodings as numbers) or
 * of vmcb.def (control.guest_asid, save.cs.attrib), '#' before words for people. A field that stands there again begins
 * another VMCS or VMCB.
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

/* Bytes of the VMCB's field; 0: there is none of that name. */
static unsigned field_of(const char *name, size_t len, unsigned *offset)
{
    static const struct {
        const char *name;
        uint16_t offset;
        uint8_t size; /* 16: a segment */
    } fields[] = {
#define SIZE_u8                                 1
#define SIZE_u16                                2
#define SIZE_u32                                4
#define SIZE_u64                                8
#define SIZE_insn15                             0
#define SIZE_seg                                16
#define VMCB_CONTROL(offset, type, name, group) {"control." #name, offset, SIZE_##type},
#define VMCB_CONTROL_GAP(offset, bytes)
#define VMCB_SAVE(offset, type, name, group) {"save." #name, 0x400 + (offset), SIZE_##type},
#define VMCB_SAVE_GAP(offset, bytes)
#include <vmenter/arch/vmcb.def>
    };
    static const struct {
        const char *name;
        uint8_t offset, size;
    } members[] = {{".sel", 0, 2}, {".attrib", 2, 2}, {".limit", 4, 4}, {".base", 8, 8}};
    for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++) {
        size_t n = strlen(fields[i].name);
        if (n > len || strncmp(fields[i].name, name, n))
            continue;
        *offset = fields[i].offset;
        if (n == len)
            return fields[i].size & 15;
        for (size_t m = 0; fields[i].size == 16 && m < 4; m++) {
            if (strlen(members[m].name) == len - n && !strncmp(members[m].name, name + n, len - n)) {
                *offset += members[m].offset;
                return members[m].size;
            }
        }
    }
    return 0;
}

static void read_own(const char *text, struct check_list *list)
{
    char line[1000];
    struct check_image *image = NULL, *vmcb = NULL;
    for (unsigned n = 1; check_line(&text, line, sizeof line); n++) {
        const char *p = line;
        size_t len = 0;
        uint32_t encoding;
        unsigned offset = 0, bytes;
        uint64_t value, old;
        while (isalnum((unsigned char)p[len]) || p[len] == '_' || p[len] == '.')
            len++;
        const char *name = p;
        p += len;
        p += strspn(p, " \t");
        if (*p++ != '=' || (!(bytes = field_of(name, len, &offset)) && !encoding_of(name, len, &encoding)))
            continue;
        p += strspn(p, " \t");
        if (!check_hex(&p, &value))
            continue;
        list->taken++;
        if (bytes) {
            if (!vmcb || !check_vmcb_set(vmcb, offset, bytes, value)) {
                vmcb = check_list_add(list, CHECK_SVM, n);
                if (!vmcb)
                    return;
                check_vmcb_set(vmcb, offset, bytes, value);
            }
            continue;
        }
        if (!image || vmenter_vmcs_get(&image->vmx, encoding, &old)) {
            image = check_list_add(list, CHECK_VMX, n);
            if (!image)
                return;
        }
        image->fields += vmenter_vmcs_set(&image->vmx, encoding, value);
    }
}

const struct check_format check_format_own = {"vmenter dump", "vmenter's own dump: lines NAME = 0xVALUE", read_own};
