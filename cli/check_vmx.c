/* SPDX-License-Identifier: MIT
 *
 * check_vmx.c: a VMCS against the capabilities of a model, of a file of MSRs, or of any processor.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/check.h"

#define MSR_COUNT (VMX_MSR_EXIT_CTLS2 - VMX_MSR_BASIC + 1)

/* The MSR that the line names, by number or by name; *at goes behind it. -1: none. */
static int named_msr(const char **at)
{
    const char *p = *at;
    uint64_t n;
    for (int i = MSR_COUNT - 1; i >= 0; i--) { /* longer names stand later */
        char name[CLI_MSR_NAME_MAX];
        const char *hit = strstr(p, cli_msr_name(VMX_MSR_BASIC + (unsigned)i, name));
        size_t len = strlen(name);
        if (hit && !isalnum((unsigned char)hit[len]) && hit[len] != '_') {
            *at = hit + len;
            /* Its number may follow in brackets. */
            const char *q = *at + strspn(*at, " \t(");
            if (check_hex(&q, &n) && n == (uint64_t)(VMX_MSR_BASIC + i))
                *at = q + strspn(q, ")");
            return i;
        }
    }
    for (; *p; p++) {
        const char *q = p;
        if ((p == *at || !isalnum((unsigned char)p[-1])) && check_hex(&q, &n) && n >= VMX_MSR_BASIC &&
            n <= VMX_MSR_EXIT_CTLS2) {
            *at = q;
            return (int)(n - VMX_MSR_BASIC);
        }
    }
    return -1;
}

/* Lines of number or name, and value ("0x480 = 0xda0...", "IA32_VMX_BASIC (0x480): da0..."); or a shell's record:
 * rdmsr 0x480, and in the lines after it the value, one for each processor. */
static bool read_msrs(const char *path, struct vmenter_vmx_caps *caps)
{
    void *data;
    size_t size;
    if (!cli_read_file(path, &data, &size))
        return false;
    char *text = calloc(1, size + 1), line[300];
    bool seen[MSR_COUNT] = {false};
    int current = -1;
    unsigned count = 0;
    if (text)
        memcpy(text, data, size);
    free(data);
    memset(caps, 0, sizeof *caps);
    vmenter_vmx_caps_derive(caps, NULL, NULL);
    for (const char *t = text; t && check_line(&t, line, sizeof line);) {
        const char *p = line;
        uint64_t value;
        unsigned bits;
        if (sscanf(line, " physical-bits = %u", &bits) == 1) {
            caps->physical_bits = (uint8_t)bits;
            continue;
        }
        if (sscanf(line, " linear-bits = %u", &bits) == 1) {
            caps->linear_bits = (uint8_t)bits;
            continue;
        }
        int msr = -1;
        const char *q = p + strspn(p, " \t");
        if (current >= 0 && check_hex(&q, &value) && !q[strspn(q, " \t")]) {
            msr = current;
        } else {
            bool command = strstr(p, "rdmsr") != NULL;
            msr = named_msr(&p);
            if (msr < 0)
                continue;
            p += strspn(p, " \t=:,)|");
            if (!check_hex(&p, &value)) {
                current = command ? msr : -1;
                continue;
            }
            current = -1;
        }
        if (seen[msr] && caps->msr[msr] != value) {
            char name[CLI_MSR_NAME_MAX];
            cli_error("check: %s: %s has two values, 0x%llx and 0x%llx: processors differ, leave one", path,
                      cli_msr_name(VMX_MSR_BASIC + (unsigned)msr, name), (unsigned long long)caps->msr[msr],
                      (unsigned long long)value);
            free(text);
            return false;
        }
        seen[msr] = true;
        caps->msr[msr] = value;
        count++;
    }
    free(text);
    static const uint32_t needed[] = {
        VMX_MSR_BASIC, VMX_MSR_PINBASED_CTLS, VMX_MSR_PROCBASED_CTLS, VMX_MSR_EXIT_CTLS,  VMX_MSR_ENTRY_CTLS,
        VMX_MSR_MISC,  VMX_MSR_CR0_FIXED0,    VMX_MSR_CR0_FIXED1,     VMX_MSR_CR4_FIXED0, VMX_MSR_CR4_FIXED1};
    if (!count) {
        cli_error("check: %s: names no capability MSR: lines such as 0x480 = 0xVALUE are wanted", path);
        return false;
    }
    for (size_t i = 0; i < sizeof(needed) / sizeof(*needed); i++) {
        if (!seen[needed[i] - VMX_MSR_BASIC]) {
            char name[CLI_MSR_NAME_MAX];
            cli_error("check: %s: lacks %s (0x%x)", path, cli_msr_name(needed[i], name), needed[i]);
            return false;
        }
    }
    return true;
}

static bool capabilities(const struct check_options *o, struct vmenter_vmx_caps *caps, struct check_verdict *v)
{
    char error[256];
    if (o->msrs) {
        snprintf(v->processor, sizeof v->processor, "the capability MSRs in %s", o->msrs);
        return read_msrs(o->msrs, caps);
    }
    if (o->cpu) {
        snprintf(v->processor, sizeof v->processor, "processor model %s", o->cpu);
        if (!vmenter_vmx_caps_of_model(caps, o->cpu, error)) {
            cli_error("check: --cpu %s: %s", o->cpu, error);
            return false;
        }
        return true;
    }
    snprintf(v->processor, sizeof v->processor, "any processor (neither --cpu nor --msrs)");
    vmenter_vmx_caps_any(caps);
    return true;
}

/* Whether the host is in IA-32e mode, as far as the VMCS tells: it comes back by the state that is saved there. */
static enum vmenter_known host_mode(const struct check_options *o, const struct vmenter_vmcs *v)
{
    static const uint32_t linear[] = {VMCS_HOST_RIP,       VMCS_HOST_RSP,       VMCS_HOST_GS_BASE, VMCS_HOST_FS_BASE,
                                      VMCS_HOST_GDTR_BASE, VMCS_HOST_IDTR_BASE, VMCS_HOST_TR_BASE};
    uint64_t value;
    if (o->host_mode)
        return !strcmp(o->host_mode, "64") ? VMENTER_YES : VMENTER_NO;
    for (size_t i = 0; i < sizeof(linear) / sizeof(*linear); i++)
        if (vmenter_vmcs_get(v, linear[i], &value) && value >> 32)
            return VMENTER_YES;
    if (vmenter_vmcs_get(v, VMCS_HOST_EFER, &value) && (value & 1 << 10))
        return VMENTER_YES;
    return VMENTER_UNKNOWN;
}

static const char *lacking(uint32_t what)
{
    switch (what) {
    case VMENTER_VMX_LACKS_MEMORY: return "memory";
    case VMENTER_VMX_LACKS_POINTER: return "the VMCS's address";
    case VMENTER_VMX_LACKS_MODE: return "the host's mode (--host-mode)";
    }
    return vmenter_vmcs_field_name(what);
}

bool check_vmx(const struct check_options *o, const struct check_image *image, struct check_verdict *v)
{
    static const char *const areas[] = {"controls", "host", "guest", "msr-loading"};
    struct vmenter_vmx_caps caps;
    if (!capabilities(o, &caps, v))
        return false;
    struct vmenter_vmx_host host = {.ia32e_mode = host_mode(o, &image->vmx)};
    size_t n = vmenter_vmx_check(&image->vmx, &caps, &host, NULL, 0);
    struct vmenter_vmx_finding *e = calloc(n + 1, sizeof *e);
    v->problem = calloc(n + 1, sizeof *v->problem);
    if (!e || !v->problem) {
        free(e);
        cli_error("check: there is no memory");
        return false;
    }
    vmenter_vmx_check(&image->vmx, &caps, &host, e, n);
    v->problems = n;
    for (size_t i = 0; i < n; i++) {
        struct check_problem *p = &v->problem[i];
        p->id = e[i].id;
        p->section = e[i].section;
        p->rule = e[i].rule;
        p->manual = "SDM volume 3C";
        p->area = areas[e[i].area];
        p->judged = e[i].judged;
        p->where = e[i].field[0];
        p->field = vmenter_vmcs_field_name(p->where);
        p->found = e[i].found;
        p->has_nearest = e[i].has_nearest;
        p->nearest = e[i].nearest;
        if (!p->judged)
            snprintf(p->lacking, sizeof p->lacking, "%s", lacking(e[i].lacking));
        vmenter_vmx_finding_text(&e[i], p->text, sizeof p->text);
        v->broken |= p->judged;
    }
    uint64_t q = 0;
    uint32_t outcome = vmenter_vmx_outcome(e, n, &q);
    free(e);
    if (!outcome) {
        snprintf(v->outcome, sizeof v->outcome, "no rule is broken%s", n ? ", as far as can be told" : ": it enters");
    } else if (outcome < 100) {
        v->error = outcome;
        snprintf(v->outcome, sizeof v->outcome, "VMLAUNCH and VMRESUME fail with VM-instruction error %u: %s",
                 (unsigned)outcome, vmenter_vmx_error_text(outcome));
    } else {
        v->reason = outcome;
        v->qualification = q;
        snprintf(v->outcome, sizeof v->outcome,
                 "the entry ends in a VM exit with exit reason 0x%x: %s, exit qualification %llu", (unsigned)outcome,
                 vmenter_vmx_reason_name(VMX_REASON_BASIC(outcome)), (unsigned long long)q);
    }
    return true;
}
