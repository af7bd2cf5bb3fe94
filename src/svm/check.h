/* SPDX-License-Identifier: MIT
 *
 * check.h: the rules of svm_check.def as a function. It needs a VMCB and a description of the processor, no processor.
 */
#ifndef SVM_CHECK_H
#define SVM_CHECK_H

#include "src/cpu/cpu.h"
#include <vmenter/svm.h>

/* What the rules ask of the processor, and of the host's registers at VMRUN. */
struct svm_caps {
    uint64_t cr4_bits, efer_bits; /* that exist */
    uint32_t asids;
    uint8_t maxphyaddr;
    bool long_mode, np, flush_asid, vnmi;
    uint64_t host_cr0, host_efer;
    bool pdpte_bad; /* the guest's PDPTEs were read and one is illegal */
};

enum svm_check_id {
#define SVM_CHECK(id, g1, g2, found, section, sentence, broken) SVM_CHECK_##id,
#include "src/arch/svm_check.def"
    SVM_CHECK_COUNT
};
_Static_assert(SVM_CHECK_COUNT <= 64, "broken rows are bits of a word");

struct svm_check_row {
    const char *id, *field, *section, *sentence;
    uint16_t offset; /* of the field in struct vmcb */
    uint8_t size;
    uint32_t groups; /* 0: always checked */
};
extern const struct svm_check_row svm_check_rows[SVM_CHECK_COUNT];

/* Bit n: row n is broken. dirty: groups (enum vmcb_clean) to look at. */
uint64_t svm_check(const struct vmcb *v, const struct svm_caps *k, uint32_t dirty);

INLINE bool svm_pat_valid(uint64_t pat)
{
    /* Each byte is 0, 1, 4, 5, 6 or 7. */
    return !(pat & 0xf8f8f8f8f8f8f8f8ull) && !(~pat >> 2 & pat >> 1 & 0x0101010101010101ull);
}

#endif
