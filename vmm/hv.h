/* SPDX-License-Identifier: MIT
 *
 * hv.h: what differs between VMX and SVM, behind one small interface. vmx.c and svm.c implement it; nothing else in
 * this folder knows a VMCS or a VMCB.
 */
#ifndef VMM_HV_H
#define VMM_HV_H

#include <stdbool.h>
#include <stdint.h>

struct vmm;

/* Neutral exits: what the one switch in run.c switches on. */
enum exit_kind {
    EXIT_CPUID,
    EXIT_HLT,
    EXIT_IO,
    EXIT_RDMSR,
    EXIT_WRMSR,
    EXIT_CR,
    EXIT_XSETBV,
    EXIT_CACHE,     /* INVD, WBINVD: skipped */
    EXIT_SECOND,    /* EPT violation, nested page fault */
    EXIT_INTERRUPT, /* the host's */
    EXIT_NMI,       /* the host's: a kick */
    EXIT_WINDOW,    /* the guest can take an interrupt now */
    EXIT_NMI_WINDOW,
    EXIT_TIMER, /* VMX-preemption timer */
    EXIT_EXCEPTION,
    EXIT_UNDEFINED, /* an instruction that the guest does not have: #UD */
    EXIT_FORBIDDEN, /* one that it must not execute: #GP(0) */
    EXIT_PAUSE,
    EXIT_TRIPLE,
    EXIT_ENTRY_FAILED, /* guest state or VMCB invalid */
    EXIT_UNEXPECTED,
};

enum cr_op { CR_MOV_TO, CR_MOV_FROM, CR_CLTS, CR_LMSW };

/* An event to inject, or one whose delivery the exit interrupted. Types with VMX's numbers. */
enum event_type {
    EVENT_INTERRUPT = 0,
    EVENT_NMI = 2,
    EVENT_EXCEPTION = 3,
    EVENT_SOFT_INTERRUPT = 4,
    EVENT_PRIVILEGED = 5,
    EVENT_SOFT_EXCEPTION = 6
};
struct event {
    bool valid, has_error;
    uint8_t vector, type;
    uint8_t len; /* software events: length of the instruction */
    uint32_t error;
};

struct exit {
    enum exit_kind kind;
    uint64_t reason;  /* basic exit reason, or exit code */
    uint64_t info[2]; /* exit qualification and guest-physical address; EXITINFO1 and EXITINFO2 */
    const char *name;
    uint8_t len; /* length of the instruction; 0: not known */
    union {
        struct {
            uint16_t port;
            uint8_t size;      /* 1, 2, 4 */
            uint8_t addr_size; /* 2, 4, 8: string forms */
            uint8_t seg;       /* string OUT; enum hv_seg */
            bool in, string, rep;
        } io;
        struct {
            uint8_t cr, gpr, op; /* enum cr_op */
            uint16_t lmsw;
        } cr;
        struct {
            uint64_t gpa;
            bool write, fetch;
            bool table; /* while the guest's own paging structures were walked */
        } mem;
        struct {
            uint8_t vector;
            bool has_error;
            uint32_t error;
        } exc;
    };
    struct event vectoring; /* its delivery was interrupted by this exit: to be injected again */
};

enum hv_reg {
    HV_RIP,
    HV_RSP,
    HV_RFLAGS,
    HV_CR0,
    HV_CR2,
    HV_CR3,
    HV_CR4,
    HV_EFER,
    HV_DR7,
    HV_PAT,
    HV_SYSENTER_CS,
    HV_SYSENTER_ESP,
    HV_SYSENTER_EIP,
    HV_DEBUGCTL,
    HV_TSC_OFFSET,
    HV_REGS
};

enum hv_seg { HV_ES, HV_CS, HV_SS, HV_DS, HV_FS, HV_GS, HV_LDTR, HV_TR, HV_GDTR, HV_IDTR, HV_SEGS };

/* Access rights in the VMCS's layout: type, S, DPL, P, AVL, L, D/B, G, unusable in bit 16. GDTR, IDTR: base and limit.
 */
#define HV_AR_UNUSABLE 0x10000u
struct hv_segment {
    uint64_t base;
    uint32_t limit, ar;
    uint16_t sel;
};

struct hv_ops {
    const char *name;   /* "VMX" */
    const char *vendor; /* CPUID's, 12 characters */
    /* Turns it on, builds the control structures. False: v->error says why. */
    bool (*init)(struct vmm *v);
    void (*off)(struct vmm *v);
    /* Enters the guest with v->regs; a device deadline at host TSC `until` brings control back. False: refused before
     * the guest's state was loaded (VMfail). */
    bool (*enter)(struct vmm *v, uint64_t until);
    /* Sleeps until host TSC `until` or an interrupt, where the host has no timer but the guest's; NULL: cannot. */
    bool (*wait)(struct vmm *v, uint64_t until);
    /* Reads why the guest was left. */
    void (*decode)(struct vmm *v, struct exit *e);
    uint64_t (*get)(struct vmm *v, enum hv_reg r);
    void (*set)(struct vmm *v, enum hv_reg r, uint64_t value);
    void (*get_seg)(struct vmm *v, enum hv_seg s, struct hv_segment *out);
    void (*set_seg)(struct vmm *v, enum hv_seg s, const struct hv_segment *in);
    unsigned (*cpl)(struct vmm *v);
    /* Event for the next entry; `e` not valid: none. */
    void (*inject)(struct vmm *v, const struct event *e);
    /* Whether an interrupt can be injected now: IF, no shadow. */
    bool (*can_interrupt)(struct vmm *v);
    void (*set_window)(struct vmm *v, bool on);
    /* Whether an NMI can be injected now; and that an exit is wanted when it can. */
    bool (*can_nmi)(struct vmm *v);
    void (*want_nmi)(struct vmm *v);
    /* After RIP has been moved past an instruction: the interrupt shadow is over. */
    void (*end_shadow)(struct vmm *v);
    /* RIP has been moved past an instruction that ran with RFLAGS.TF set: its debug exception is due. */
    void (*single_step)(struct vmm *v);
    /* Drops what the processor holds of the guest's translations. */
    void (*flush)(struct vmm *v);
    /* Accesses to this MSR go to the processor, without exits. */
    void (*pass_msr)(struct vmm *v, uint32_t msr, bool read, bool write);
    /* The instruction bytes that the exit gave (decode assists); 0: none. */
    unsigned (*insn_bytes)(struct vmm *v, uint8_t out[15]);
};

extern const struct hv_ops hv_vmx, hv_svm;

#endif
