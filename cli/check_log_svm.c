/* SPDX-License-Identifier: MIT
 *
 * check_log_svm.c: VMCBs in logs of Linux KVM (dump_vmcb): words with values under "VMCB Control Area:" and "VMCB State
 * Save Area:".
 *
 * What is not known is passed over. A word that stands there again (an encrypted guest's saved registers follow) does
 * not count.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/check.h"
#include "src/svm/svm.h"

#define AT(field) offsetof(struct vmcb, field)

enum form { HEX, DECIMAL, TWO_WORDS, SEGMENT, EXIT_CODE };
static const struct word {
    bool save;
    const char *name;
    enum form form;
    uint16_t offset;
    uint8_t size;
} words[] = {
    {false, "cr_read:", HEX, AT(control.intercept_cr_read), 2},
    {false, "cr_write:", HEX, AT(control.intercept_cr_write), 2},
    {false, "dr_read:", HEX, AT(control.intercept_dr_read), 2},
    {false, "dr_write:", HEX, AT(control.intercept_dr_write), 2},
    {false, "exceptions:", HEX, AT(control.intercept_exception), 4},
    {false, "intercepts:", TWO_WORDS, AT(control.intercept_misc1), 4},
    {false, "pause filter count:", DECIMAL, AT(control.pause_filter_count), 2},
    {false, "pause filter threshold:", DECIMAL, AT(control.pause_filter_threshold), 2},
    {false, "iopm_base_pa:", HEX, AT(control.iopm_base_pa), 8},
    {false, "msrpm_base_pa:", HEX, AT(control.msrpm_base_pa), 8},
    {false, "tsc_offset:", HEX, AT(control.tsc_offset), 8},
    {false, "asid:", DECIMAL, AT(control.guest_asid), 4},
    {false, "tlb_ctl:", DECIMAL, AT(control.tlb_control), 1},
    {false, "int_ctl:", HEX, AT(control.vintr), 4},
    {false, "int_vector:", HEX, AT(control.vintr) + 4, 4},
    {false, "int_state:", HEX, AT(control.interrupt_shadow), 8},
    {false, "exit_code:", EXIT_CODE, AT(control.exitcode), 8},
    {false, "exit_info1:", HEX, AT(control.exitinfo1), 8},
    {false, "exit_info2:", HEX, AT(control.exitinfo2), 8},
    {false, "exit_int_info:", HEX, AT(control.exitintinfo), 4},
    {false, "exit_int_info_err:", HEX, AT(control.exitintinfo) + 4, 4},
    {false, "nested_ctl:", DECIMAL, AT(control.nested_ctl), 8},
    {false, "nested_cr3:", HEX, AT(control.ncr3), 8},
    {false, "avic_vapic_bar:", HEX, AT(control.avic_apic_bar), 8},
    {false, "ghcb:", HEX, AT(control.ghcb_pa), 8},
    {false, "event_inj:", HEX, AT(control.eventinj), 4},
    {false, "event_inj_err:", HEX, AT(control.eventinj) + 4, 4},
    {false, "virt_ext:", DECIMAL, AT(control.virt_ext), 8},
    {false, "next_rip:", HEX, AT(control.nrip), 8},
    {false, "avic_backing_page:", HEX, AT(control.avic_backing_page), 8},
    {false, "avic_logical_id:", HEX, AT(control.avic_logical_table), 8},
    {false, "avic_physical_id:", HEX, AT(control.avic_physical_table), 8},
    {false, "vmsa_pa:", HEX, AT(control.vmsa_pa), 8},
    {true, "es:", SEGMENT, AT(save.es), 16},
    {true, "cs:", SEGMENT, AT(save.cs), 16},
    {true, "ss:", SEGMENT, AT(save.ss), 16},
    {true, "ds:", SEGMENT, AT(save.ds), 16},
    {true, "fs:", SEGMENT, AT(save.fs), 16},
    {true, "gs:", SEGMENT, AT(save.gs), 16},
    {true, "gdtr:", SEGMENT, AT(save.gdtr), 16},
    {true, "ldtr:", SEGMENT, AT(save.ldtr), 16},
    {true, "idtr:", SEGMENT, AT(save.idtr), 16},
    {true, "tr:", SEGMENT, AT(save.tr), 16},
    {true, "cpl:", DECIMAL, AT(save.cpl), 1},
    {true, "efer:", HEX, AT(save.efer), 8},
    {true, "cr0:", HEX, AT(save.cr0), 8},
    {true, "cr2:", HEX, AT(save.cr2), 8},
    {true, "cr3:", HEX, AT(save.cr3), 8},
    {true, "cr4:", HEX, AT(save.cr4), 8},
    {true, "dr6:", HEX, AT(save.dr6), 8},
    {true, "dr7:", HEX, AT(save.dr7), 8},
    {true, "rip:", HEX, AT(save.rip), 8},
    {true, "rflags:", HEX, AT(save.rflags), 8},
    {true, "rsp:", HEX, AT(save.rsp), 8},
    {true, "rax:", HEX, AT(save.rax), 8},
    {true, "s_cet:", HEX, AT(save.s_cet), 8},
    {true, "ssp:", HEX, AT(save.ssp), 8},
    {true, "isst_addr:", HEX, AT(save.isst_addr), 8},
    {true, "star:", HEX, AT(save.star), 8},
    {true, "lstar:", HEX, AT(save.lstar), 8},
    {true, "cstar:", HEX, AT(save.cstar), 8},
    {true, "sfmask:", HEX, AT(save.sfmask), 8},
    {true, "kernel_gs_base:", HEX, AT(save.kernel_gs_base), 8},
    {true, "sysenter_cs:", HEX, AT(save.sysenter_cs), 8},
    {true, "sysenter_esp:", HEX, AT(save.sysenter_esp), 8},
    {true, "sysenter_eip:", HEX, AT(save.sysenter_eip), 8},
    {true, "gpat:", HEX, AT(save.g_pat), 8},
    {true, "dbgctl:", HEX, AT(save.dbgctl), 8},
    {true, "br_from:", HEX, AT(save.br_from), 8},
    {true, "br_to:", HEX, AT(save.br_to), 8},
    {true, "excp_from:", HEX, AT(save.lastexcp_from), 8},
    {true, "excp_to:", HEX, AT(save.lastexcp_to), 8},
};

static const char *blanks(const char *p)
{
    return p + strspn(p, " \t");
}

static bool decimal(const char **at, uint64_t *value)
{
    const char *p = *at;
    char *end;
    if (!isdigit((unsigned char)*p))
        return false;
    *value = strtoull(p, &end, 10);
    *at = end;
    return !isalnum((unsigned char)*end);
}

/* "s: 0010 a: 029b l: ffffffff b: 0000000000000000" */
static const char *take_segment(struct check_image *image, const char *p, unsigned offset)
{
    static const struct {
        char letter;
        uint8_t offset, size;
    } members[] = {{'s', 0, 2}, {'a', 2, 2}, {'l', 4, 4}, {'b', 8, 8}};
    for (size_t i = 0; i < 4; i++) {
        uint64_t value;
        p = blanks(p);
        if (p[0] != members[i].letter || p[1] != ':')
            return NULL;
        p = blanks(p + 2);
        if (!check_hex(&p, &value))
            return NULL;
        check_vmcb_set(image, offset + members[i].offset, members[i].size, value);
    }
    return p;
}

/* The word's values at p: what follows them; NULL: none. */
static const char *take(struct check_image *image, const struct word *w, const char *p)
{
    uint64_t value, high = 0;
    const char *start = p = blanks(p);
    if (w->form == SEGMENT)
        return take_segment(image, p, w->offset);
    if (!(w->form == DECIMAL ? decimal(&p, &value) : check_hex(&p, &value)))
        return NULL;
    if (w->form == TWO_WORDS) { /* before Linux 5.8 one number of 64 bits */
        if (p - start > 8) {
            high = value >> 32;
        } else {
            p = blanks(p);
            if (!check_hex(&p, &high))
                return NULL;
        }
        check_vmcb_set(image, w->offset, 4, value & 0xffffffff);
        check_vmcb_set(image, w->offset + 4, 4, high);
        return p;
    }
    if (w->form == EXIT_CODE && value >= 0xfffffff0 && value <= 0xffffffff) /* of old a number of 32 bits */
        value |= 0xffffffff00000000;
    check_vmcb_set(image, w->offset, w->size, value);
    return p;
}

static unsigned read_words(struct check_image *image, bool save, const char *p)
{
    unsigned taken = 0;
    while (*(p = blanks(p))) {
        const char *end = NULL;
        for (size_t i = 0; !end && i < sizeof(words) / sizeof(*words); i++) {
            size_t len = strlen(words[i].name);
            if (words[i].save == save && !strncmp(p, words[i].name, len))
                end = take(image, &words[i], p + len);
        }
        taken += end != NULL;
        p = end ? end : p + strcspn(p, " \t");
    }
    return taken;
}

static void read_log(const char *text, struct check_list *list)
{
    char line[1000], title[120] = "";
    struct check_image *image = NULL;
    enum { NOWHERE, CONTROL, SAVE } area = NOWHERE;
    for (unsigned n = 1; check_line(&text, line, sizeof line); n++) {
        const char *p = blanks(line);
        if (!strncmp(p, "VMCB Control Area:", 18)) {
            image = check_list_add(list, CHECK_SVM, n);
            if (!image)
                return;
            image->svm.host_pages = true; /* Linux */
            memcpy(image->title, title, sizeof title);
            title[0] = 0;
            area = CONTROL;
            list->taken++;
        } else if (!strncmp(p, "VMCB State Save Area:", 21) && image) {
            area = SAVE;
            list->taken++;
        } else if (strstr(p, "last attempted VMRUN")) {
            snprintf(title, sizeof title, "%.110s", p);
            area = NOWHERE;
        } else if (area != NOWHERE && image) {
            list->taken += read_words(image, area == SAVE, p);
        }
    }
    for (struct check_image *i = list->first; i; i = i->next) {
        char name[64];
        if (!i->svm.known[AT(control.exitcode)])
            continue;
        svm_describe_exit(i->svm.vmcb.control.exitcode, name, sizeof name);
        snprintf(i->says, sizeof i->says, "exit code 0x%llx, %s, EXITINFO1 0x%llx, EXITINFO2 0x%llx",
                 (unsigned long long)i->svm.vmcb.control.exitcode, name,
                 (unsigned long long)i->svm.vmcb.control.exitinfo1, (unsigned long long)i->svm.vmcb.control.exitinfo2);
    }
}

const struct check_format check_format_log_svm = {
    "KVM log", "VMCBs in the log of Linux KVM (dmesg, with kvm_amd.dump_invalid_vmcb=1)", read_log};
