/* SPDX-License-Identifier: MIT
 *
 * cap.c: what VMRUN's rules need to know of a processor model; the rules that a processor's last VMRUN broke.
 */
#include "src/svm/svm_cpu.h"

#include <stdio.h>

#define ERROR_MAX 256

void svm_caps_init(struct vmenter_svm_caps *caps, const struct model *m)
{
    *caps = (struct vmenter_svm_caps){
        .cr4_bits = model_cr4_bits(m),
        .efer_bits = model_efer_bits(m),
        .asids = m->svm_asids,
        .physical_bits = m->maxphyaddr,
        .long_mode = model_has(m, FEATURE_lm),
        .nested_paging = model_has(m, FEATURE_npt),
        .flush_by_asid = model_has(m, FEATURE_flushbyasid),
        .vnmi = model_has(m, FEATURE_vnmi),
    };
}

bool vmenter_svm_caps_of_model(struct vmenter_svm_caps *caps, const char *name, char *error)
{
    struct model m;
    if (!model_parse(&m, name, error, error ? ERROR_MAX : 0))
        return false;
    if (!model_has(&m, FEATURE_svm)) {
        if (error)
            snprintf(error, ERROR_MAX, "%s has no SVM", m.name);
        return false;
    }
    svm_caps_init(caps, &m);
    return true;
}

size_t svm_explain(struct cpu *c, char *buf, size_t size)
{
    const struct svm_cpu *s = c->svm;
    size_t at = 0;
    if (size)
        buf[0] = 0;
    for (unsigned n = 0; s && n < s->findings; n++) {
        at += vmenter_svm_finding_text(&s->finding[n], at < size ? buf + at : NULL, at < size ? size - at : 0);
        if (at + 1 < size) {
            buf[at] = '\n';
            buf[at + 1] = 0;
        }
        at++;
    }
    return at;
}
