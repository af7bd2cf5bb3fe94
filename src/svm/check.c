/* SPDX-License-Identifier: MIT
 *
 * check.c: VMRUN's consistency checks, and words for those that fail. APM volume 2, "Canonicalization and Consistency
 * Checks".
 */
#include "src/svm/svm_cpu.h"

#include <stdio.h>

#define VMCB_CLEAN_ALWAYS 0u

const struct svm_check_row svm_check_rows[SVM_CHECK_COUNT] = {
#define SVM_CHECK(id, g1, g2, found, section, sentence, broken)                                                        \
    {#id,                                                                                                              \
     #found,                                                                                                           \
     section,                                                                                                          \
     sentence,                                                                                                         \
     offsetof(struct vmcb, found),                                                                                     \
     sizeof(((struct vmcb *)0)->found),                                                                                \
     VMCB_CLEAN_##g1 | VMCB_CLEAN_##g2},
#include "src/arch/svm_check.def"
};

uint64_t svm_check(const struct vmcb *v, const struct svm_caps *k, uint32_t dirty)
{
    uint64_t bad = 0;
#define SVM_CHECK(id, g1, g2, found, section, sentence, broken)                                                        \
    if ((VMCB_CLEAN_##g1 == 0 || (dirty & (VMCB_CLEAN_##g1 | VMCB_CLEAN_##g2))) && unlikely(broken))                   \
        bad |= BIT(SVM_CHECK_##id);
#include "src/arch/svm_check.def"
    return bad;
}

size_t svm_explain(struct cpu *c, char *buf, size_t size)
{
    const struct svm_cpu *s = c->svm;
    size_t at = 0;
    if (size)
        buf[0] = 0;
    if (!s)
        return 0;
    for (unsigned n = 0; n < SVM_CHECK_COUNT; n++) {
        if (!(s->broken & BIT(n)))
            continue;
        const struct svm_check_row *r = &svm_check_rows[n];
        int len = snprintf(at < size ? buf + at : NULL, at < size ? size - at : 0,
                           "%s: %s = 0x%llx. %s (APM volume 2, \"%s\")\n", r->id, r->field,
                           (unsigned long long)s->broken_value[n], r->sentence, r->section);
        if (len > 0)
            at += (size_t)len;
    }
    return at;
}
