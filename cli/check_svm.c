/* SPDX-License-Identifier: MIT
 *
 * check_svm.c: a VMCB against the capabilities of a model, or of any processor.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/check.h"
#include "src/svm/svm.h"

static bool capabilities(const struct check_options *o, struct vmenter_svm_caps *caps, struct check_verdict *v)
{
    char error[256];
    if (o->msrs) {
        cli_error("check: --msrs is for VMCSs: what AMD's processors are able to do stands in CPUID; take --cpu");
        return false;
    }
    if (!o->cpu) {
        snprintf(v->processor, sizeof v->processor, "any processor (no --cpu)");
        vmenter_svm_caps_any(caps);
        return true;
    }
    snprintf(v->processor, sizeof v->processor, "processor model %s", o->cpu);
    if (vmenter_svm_caps_of_model(caps, o->cpu, error))
        return true;
    cli_error("check: --cpu %s: %s", o->cpu, error);
    return false;
}

static void say_lacking(const struct vmenter_svm_finding *e, char *buf, size_t size)
{
    const char *name = vmenter_vmcb_field_name(e->lacking);
    switch (e->lacking) {
    case VMENTER_SVM_LACKS_MEMORY: name = "memory"; break;
    case VMENTER_SVM_LACKS_PAGING:
    case VMENTER_SVM_LACKS_MODE: name = "the host's mode (--host-mode)"; break;
    }
    snprintf(buf, size, "%s", name ? name : "?");
}

bool check_svm(const struct check_options *o, const struct check_image *image, struct check_verdict *v)
{
    struct vmenter_svm_caps caps;
    if (!capabilities(o, &caps, v))
        return false;
    struct vmenter_svm_host host = {.paging = image->svm.host_pages ? VMENTER_YES : VMENTER_UNKNOWN};
    if (o->host_mode) {
        host.long_mode = !strcmp(o->host_mode, "64") ? VMENTER_YES : VMENTER_NO;
        if (host.long_mode == VMENTER_YES)
            host.paging = VMENTER_YES;
    }
    size_t n = vmenter_svm_check(&image->svm.vmcb, image->svm.known, &caps, &host, NULL, 0);
    struct vmenter_svm_finding *e = calloc(n + 1, sizeof *e);
    v->problem = calloc(n + 1, sizeof *v->problem);
    if (!e || !v->problem) {
        free(e);
        cli_error("check: there is no memory");
        return false;
    }
    vmenter_svm_check(&image->svm.vmcb, image->svm.known, &caps, &host, e, n);
    v->problems = n;
    for (size_t i = 0; i < n; i++) {
        struct check_problem *p = &v->problem[i];
        p->id = e[i].id;
        p->section = e[i].section;
        p->rule = e[i].rule;
        p->manual = "APM volume 2";
        p->area = e[i].field[0] < offsetof(struct vmcb, save) ? "control" : "save";
        p->judged = e[i].judged;
        p->where = e[i].field[0];
        p->field = vmenter_vmcb_field_name(p->where);
        p->found = e[i].found;
        p->has_nearest = e[i].has_nearest;
        p->nearest = e[i].nearest;
        if (!p->judged)
            say_lacking(&e[i], p->lacking, sizeof p->lacking);
        vmenter_svm_finding_text(&e[i], p->text, sizeof p->text);
        v->broken |= p->judged;
    }
    free(e);
    if (v->broken) {
        v->reason = (uint64_t)SVM_EXIT_INVALID;
        snprintf(v->outcome, sizeof v->outcome, "VMRUN ends in #VMEXIT with exit code -1, VMEXIT_INVALID");
    } else {
        snprintf(v->outcome, sizeof v->outcome, "no rule is broken%s", n ? ", as far as can be told" : ": it enters");
    }
    return true;
}
