/* SPDX-License-Identifier: MIT
 *
 * svm_cpu.h: SVM's own part of a logical processor, for the files of this room.
 */
#ifndef SVM_SVM_CPU_H
#define SVM_SVM_CPU_H

#include "src/arch/model.h"
#include "src/svm/check.h"
#include "src/svm/svm.h"

#define SVM_NO_PA (~0ull)

/* What VMRUN saves and #VMEXIT restores. The host save area that VM_HSAVE_PA names is the processor's to use as it
 * likes ("Host State-Save Area"); this one uses its own storage. */
struct svm_host {
    struct seg seg[4]; /* ES, CS, SS, DS */
    struct dtable gdtr, idtr;
    uint64_t efer, cr0, cr3, cr4, rflags, rip, rsp, rax, pat, spec_ctrl;
    uint64_t debugctl, last_branch[4];
};

/* The guest state that clean bits let the processor keep between a #VMEXIT and the next VMRUN of the same VMCB. */
struct svm_guest {
    struct seg seg[4]; /* ES, CS, SS, DS */
    uint8_t cpl;
    struct dtable gdtr, idtr;
    uint64_t efer, cr0, cr3, cr4, cr2, dr6, dr7, pat;
    uint64_t debugctl, last_branch[4];
};

struct svm_cpu {
    struct vmcb *vmcb;  /* host pointer to the VMCB of the running guest; null outside guest mode */
    uint64_t last_pa;   /* of the last VMRUN; SVM_NO_PA: none yet */
    uint64_t cached_pa; /* VMCB whose controls and state are held below; SVM_NO_PA: none */
    struct svm_host host;
    struct svm_guest guest;

    /* Controls, group by group. */
    union { /* I */
        struct {
            uint16_t cr_read, cr_write, dr_read, dr_write;
            uint32_t exception, misc1, misc2, misc3;
        };
        uint8_t intercepts[SVM_INTERCEPTS / 8];
    };
    uint64_t icpt; /* the same as a set of enum icpt */
    uint64_t tsc_offset;
    uint16_t pause_count, pause_threshold;
    uint64_t iopm, msrpm;      /* IOPM */
    uint32_t asid;             /* ASID */
    uint64_t vintr;            /* TPR: live while the guest runs */
    uint64_t nested_ctl, ncr3; /* NP */
    uint64_t virt_ext;         /* LBR */

    uint32_t pause_left;
    uint64_t pause_tsc; /* of the last PAUSE */
    struct {            /* paging mode that this ASID's translations were made under */
        uint32_t asid;
        uint64_t cr0, cr4, efer;
    } tlb_mode;

    uint64_t key;                 /* MSR */
    struct vmenter_svm_caps caps; /* of the model */
    struct svm_check check;       /* on those, and the host of the last VMRUN */
    bool clean_bits, nrips, decode, lbr, vgif, vnmi, v_vmload, v_spec_ctrl, pause_filter, pause_thresh, tsc_rate, gmet,
        wide, idle_hlt;

    struct vmenter_svm_finding finding[SVM_CHECK_COUNT]; /* why the last VMRUN was refused */
    unsigned findings;
};

INLINE bool svm_intercepts(const struct svm_cpu *s, unsigned code)
{
    return s->intercepts[code / 8] >> code % 8 & 1;
}

/* The interrupt shadow of STI, MOV SS or the VMCB covers the instruction at c->rip. */
INLINE bool svm_in_shadow(const struct cpu *c)
{
    return (c->shadow_sti || c->shadow_movss) && c->shadow_at == c->icount;
}

extern const struct guest_ops svm_guest_ops;

/* VMRUN once its faults and its intercept are settled; v is pa's page, writable. */
void svm_enter(struct cpu *c, uint64_t pa, struct vmcb *v);

/* #VMEXIT ("#VMEXIT"). c->rip is where the guest stands; the flags are whole. */
void svm_exit(struct cpu *c, uint64_t code, uint64_t info1, uint64_t info2);
/* The same for an intercepted instruction: nRIP is saved. */
void svm_exit_insn(struct cpu *c, uint64_t code, uint64_t info1, uint64_t info2);
/* The same for a data access that faulted: with the bytes of the instruction. */
void svm_exit_bytes(struct cpu *c, uint64_t code, uint64_t info1, uint64_t info2);

void svm_load_seg(struct seg *out, const struct vmcb_seg *in, bool la57);
void svm_save_seg(struct vmcb_seg *out, const struct seg *in);

/* A virtual interrupt or NMI can be taken, or may be soon: makes the run loop ask svm_guest_ops.events. */
void svm_attend_virtual(struct cpu *c);

#endif
