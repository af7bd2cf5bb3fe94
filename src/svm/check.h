/* SPDX-License-Identifier: MIT
 *
 * check.h: the rules of svm_check.def as functions over a VMCB and a description of the processor. Freestanding: it
 * sees <vmenter/svm.h> and tables alone, so that check.c can be built into a hypervisor.
 */
#ifndef SVM_CHECK_H
#define SVM_CHECK_H

#include <vmenter/svm.h>

enum svm_check_id {
#define SVM_CHECK(id, g1, g2, found, section, sentence, broken, nearest) SVM_CHECK_##id,
#include "src/arch/svm_check.def"
    SVM_CHECK_COUNT
};
_Static_assert(SVM_CHECK_COUNT <= 64, "broken rows are bits of a word");

/* What the rules refer to besides the VMCB. */
struct svm_check {
    const struct vmenter_svm_caps *caps;
    const uint8_t *known; /* by byte; NULL: all of the VMCB is known */
    struct vmenter_svm_host host;
    enum vmenter_known pdpte_bad; /* the guest's PDPTEs were read, and one is illegal; unknown: svm_check() takes them
                                     for good, svm_check_list() reads them */
};

/* Bit n: row n is broken. dirty: groups (enum vmcb_clean) to look at. */
uint64_t svm_check(const struct vmcb *v, const struct svm_check *k, uint32_t dirty);
/* All findings among these rows, in words for people. */
size_t svm_check_list(const struct vmcb *v, const struct svm_check *k, uint64_t of,
                      struct vmenter_svm_finding *findings, size_t max);
/* A row's clean-bit groups; 0: it is always checked. */
uint32_t svm_check_groups(unsigned row);

static inline bool svm_pat_valid(uint64_t pat)
{
    /* Each byte is 0, 1, 4, 5, 6 or 7. */
    return !(pat & 0xf8f8f8f8f8f8f8f8ull) && !(~pat >> 2 & pat >> 1 & 0x0101010101010101ull);
}

#endif
