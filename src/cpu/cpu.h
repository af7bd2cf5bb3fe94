/* SPDX-License-Identifier: MIT
 *
 * cpu.h: struct cpu, one logical processor, and what its rooms offer one another.
 *
 * A processor runs blocks of decoded operations (op.h). Between blocks its architectural state is whole; inside a block
 * RIP is that of the block's start, and the arithmetic flags are in their lazy form.
 *
 * Who raises what: an instruction that faults calls cpu_raise() and leaves its block; the run loop delivers. Guest mode
 * is seen through `guest` alone: vmx and svm fill it, and cpu includes neither.
 */
#ifndef CPU_CPU_H
#define CPU_CPU_H

#include "src/arch/creg.h"
#include "src/arch/probe.h"
#include "src/base/base.h"
#include "src/mem/mem.h"
#include "src/mmu/mmu.h"
#include "src/mmu/tlb.h"

struct cpu;
struct op;
struct code_cache; /* code.c: decoded blocks */
struct model;      /* src/arch/model.h: a processor model: CPUID, features, MSR and VMX/SVM capabilities */

enum {
    GPR_RAX,
    GPR_RCX,
    GPR_RDX,
    GPR_RBX,
    GPR_RSP,
    GPR_RBP,
    GPR_RSI,
    GPR_RDI,
    GPR_R8,
    GPR_R9,
    GPR_R10,
    GPR_R11,
    GPR_R12,
    GPR_R13,
    GPR_R14,
    GPR_R15,
    GPR_ZERO,  /* always 0: no base, no index */
    GPR_BLOCK, /* RIP (EIP, IP) of the running block's start: RIP-relative operands */
    GPR_SLOTS
};

enum {
    SEG_ES,
    SEG_CS,
    SEG_SS,
    SEG_DS,
    SEG_FS,
    SEG_GS,
    SEG_LDTR,
    SEG_TR,
    SEG_COUNT,
    SEG_NONE = 6 /* as an operand's segment in 64-bit mode: base 0 (seg_base64[6]) */
};

/* Access rights in the layout of the VMCS's access-rights field (SDM 3C, "Guest Register State"). */
#define AR_TYPE     0x000fu
#define AR_S        0x0010u
#define AR_DPL(ar)  (((ar) >> 5) & 3u)
#define AR_P        0x0080u
#define AR_AVL      0x1000u
#define AR_L        0x2000u
#define AR_DB       0x4000u
#define AR_G        0x8000u
#define AR_UNUSABLE 0x10000u
struct seg {
    uint64_t base;
    uint32_t limit; /* in bytes, scaled by G */
    uint32_t ar;
    uint16_t sel;
};
struct dtable {
    uint64_t base;
    uint16_t limit;
};

#define FLAG_CF    BIT(0)
#define FLAG_1     BIT(1)
#define FLAG_PF    BIT(2)
#define FLAG_AF    BIT(4)
#define FLAG_ZF    BIT(6)
#define FLAG_SF    BIT(7)
#define FLAG_TF    BIT(8)
#define FLAG_IF    BIT(9)
#define FLAG_DF    BIT(10)
#define FLAG_OF    BIT(11)
#define FLAG_IOPL  (3ull << 12)
#define FLAG_NT    BIT(14)
#define FLAG_RF    BIT(16)
#define FLAG_VM    BIT(17)
#define FLAG_AC    BIT(18)
#define FLAG_VIF   BIT(19)
#define FLAG_VIP   BIT(20)
#define FLAG_ID    BIT(21)
#define FLAG_ARITH (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

enum {
    EXC_DE = 0,
    EXC_DB = 1,
    EXC_NMI = 2,
    EXC_BP = 3,
    EXC_OF = 4,
    EXC_BR = 5,
    EXC_UD = 6,
    EXC_NM = 7,
    EXC_DF = 8,
    EXC_TS = 10,
    EXC_NP = 11,
    EXC_SS = 12,
    EXC_GP = 13,
    EXC_PF = 14,
    EXC_MF = 16,
    EXC_AC = 17,
    EXC_MC = 18,
    EXC_XM = 19,
    EXC_VE = 20,
    EXC_CP = 21,
    EXC_VC = 29,
    EXC_SX = 30
};

/* Event types with VMX's numbers (SDM 3C, "VM-Entry Interruption-Information Field"); SVM's EVENTINJ types are
 * converted in src/svm. */
enum event_type {
    EVENT_EXTINT = 0,
    EVENT_NMI = 2,
    EVENT_HWEXC = 3,
    EVENT_SOFTINT = 4,
    EVENT_PRIV_SWEXC = 5,
    EVENT_SWEXC = 6,
    EVENT_OTHER = 7
};
struct cpu_event {
    bool valid;
    uint8_t vector;
    uint8_t type; /* enum event_type */
    bool has_error;
    uint32_t error;
    uint8_t insn_len; /* software events: length of the instruction, bytes */
    uint64_t payload; /* #PF: the linear address that CR2 takes; #DB: bits that DR6 takes */
};

enum icpt {
#define ICPT(name, vmx, svm) ICPT_##name,
#include "src/arch/intercept.def"
#undef ICPT
    ICPT_COUNT
};

/* What guest mode is to the rest of the processor. Non-null only in guest mode. A function that returns true has made
 * the VM exit (#VMEXIT): guest state is stored, host state loaded, and the instruction must leave its block at once
 * (`return;`). Callers have synchronised RIP (cpu_sync) and the flags before the call. */
struct guest_ops {
    /* An instruction of enum icpt whose bit is on. info: what the vendor's exit wants, see cpu_intercept(). */
    bool (*insn)(struct cpu *c, enum icpt what, uint64_t info);
    /* Port I/O: size 1, 2, 4; string forms give the linear address and REP; seg the segment. */
    bool (*io)(struct cpu *c, uint16_t port, unsigned size, bool in, bool string, bool rep, bool imm, unsigned seg,
               unsigned asz, la_t la);
    bool (*msr)(struct cpu *c, uint32_t msr, bool write);
    /* MOV to/from CRn, CLTS, LMSW, SMSW(svm). op: 0 MOV to CR, 1 MOV from CR, 2 CLTS, 3 LMSW. *value: in: what is to be
     * written (or for LMSW the 16-bit source; *la its linear address when in memory), out: what the instruction is to
     * write or read after masks and shadows. */
    /* op 4: SMSW. For CLTS *value is CR0 with TS clear in, and the CR0 to be written out; for LMSW out is the 16-bit
     * source with the bits that the guest does not own as they are in CR0. gpr: number of the register (LMSW, SMSW with
     * memory: 0). */
    bool (*cr)(struct cpu *c, unsigned cr, unsigned op, unsigned gpr, uint64_t *value, bool mem, la_t la);
    bool (*dr)(struct cpu *c, unsigned dr, bool write, unsigned gpr);
    /* An exception is about to be delivered; c->vectoring is what was being delivered. Asked first for the exception
     * itself, then, if it makes a double fault with the first one, for the double fault. Software exceptions (INT3,
     * INTO, INT1) too. */
    bool (*exception)(struct cpu *c, const struct cpu_event *ev);
    /* Triple fault. */
    bool (*triple_fault)(struct cpu *c);
    bool (*task_switch)(struct cpu *c, uint16_t sel, unsigned source /* 0 CALL 1 IRET 2 JMP 3 task gate in IDT */,
                        bool has_error, uint32_t error);
    /* The second level refused: EPT violation or misconfiguration, nested page fault. May instead raise #VE (then true
     * too). */
    bool (*second_fault)(struct cpu *c, const struct mmu_fault *f, la_t la, unsigned access);
    /* Between instructions, when attention says so, in the manual's order: everything that only guest mode has: virtual
     * interrupts, interrupt and NMI windows, preemption timer, MTF. `intr`: a host interrupt is deliverable; nmi, smi,
     * init likewise. True: exited or delivered something. */
    bool (*events)(struct cpu *c);
    /* What comes before the debug traps of the previous instruction: asked when attention says so and, with step_guest,
     * at every boundary. Null: nothing. True: exited. */
    bool (*before_traps)(struct cpu *c);
    /* What still belongs to the previous instruction, ahead of INIT and SMIs; ATT_GUEST asks for it. Null: nothing.
     * True: exited. */
    bool (*completes)(struct cpu *c);
    bool (*interrupt)(struct cpu *c); /* physical interrupt pending and not blocked by the guest mode's rules: exits? */
    bool (*nmi)(struct cpu *c), (*smi)(struct cpu *c), (*init)(struct cpu *c), (*sipi)(struct cpu *c, uint8_t vector);
    /* May a physical interrupt be recognised now (host IF under V_INTR_MASKING, GIF, external-interrupt exiting)? */
    bool (*intr_allowed)(struct cpu *c);
    uint64_t (*deadline)(
        struct cpu *c); /* TSC at which events() wants to be called (preemption timer); UINT64_MAX: never */
    uint64_t (*tsc)(struct cpu *c, uint64_t host_tsc); /* offset and scaling */
    /* CR8/TPR virtualization and x2APIC MSRs answered by the vendor's APIC virtualization; false: use the processor's.
     */
    bool (*read_cr8)(struct cpu *c, uint64_t *v);
    bool (*write_cr8)(struct cpu *c, uint64_t v); /* true: handled */
    bool (*exited_iret)(struct cpu *c);           /* IRET completed: NMI blocking, NMI window; usually returns false */
    void (*walk)(struct cpu *c, struct mmu_second *out); /* fills the second level that is in force */
    bool (*pdpte)(struct cpu *c);                        /* reserved */
    bool (*vmfunc)(struct cpu *c);
    /* An access to cpu.apic_access_page. True: it goes to *redirect instead; false: a VM exit was made. */
    bool (*apic_access)(struct cpu *c, la_t la, unsigned offset, unsigned len, unsigned access, hpa_t *redirect);
};

/* Instructions of VMX and SVM: handlers that vmx and svm install; a null one is #UD. Order is that of enum virt_insn.
 */
enum virt_insn {
    VIRT_VMXON,
    VIRT_VMXOFF,
    VIRT_VMCLEAR,
    VIRT_VMPTRLD,
    VIRT_VMPTRST,
    VIRT_VMREAD,
    VIRT_VMWRITE,
    VIRT_VMLAUNCH,
    VIRT_VMRESUME,
    VIRT_VMCALL,
    VIRT_VMFUNC,
    VIRT_INVEPT,
    VIRT_INVVPID,
    VIRT_VMRUN,
    VIRT_VMLOAD,
    VIRT_VMSAVE,
    VIRT_STGI,
    VIRT_CLGI,
    VIRT_VMMCALL,
    VIRT_SKINIT,
    VIRT_INVLPGA,
    VIRT_COUNT
};
struct virt_ops {
    void (*insn[VIRT_COUNT])(struct cpu *c, const struct op *o);
    bool (*rdmsr)(struct cpu *c, uint32_t msr, uint64_t *v,
                  bool *fault); /* true: this MSR is the vendor's; *fault: #GP */
    bool (*wrmsr)(struct cpu *c, uint32_t msr, uint64_t v, bool *fault);
    bool (*cr_fixed)(struct cpu *c, unsigned cr, uint64_t v); /* false: #GP (VMX operation's fixed bits) */
    bool (*init_blocked)(struct cpu *c);
    void (*rsm)(struct cpu *c, bool to_guest, uint64_t *cr0, uint64_t *cr4); /* the values that RSM is about to load */
    void (*reset)(struct cpu *c);
};

/* The local APIC, as the processor sees it; src/machine wires a model to it. All take the opaque `apic`. */
struct cpu_apic_ops {
    int (*pending)(void *apic); /* vector that would be delivered now (above PPR), or -1 */
    int (*ack)(void *apic);     /* takes it into service; the vector (spurious vector if it is gone) */
    bool (*rdmsr)(void *apic, uint32_t msr, uint64_t *v); /* APIC_BASE, 0x800-0x8ff, TSC_DEADLINE; false: #GP */
    bool (*wrmsr)(void *apic, uint32_t msr, uint64_t v);
    uint64_t (*get_tpr)(void *apic); /* CR8: bits 7:4 of the TPR */
    void (*set_tpr)(void *apic, uint64_t cr8);
    bool (*mmio)(void *apic, hpa_t pa, uint64_t *page); /* is pa in the APIC's page (enabled, xAPIC mode)? */
    uint32_t (*read)(void *apic, unsigned offset);
    void (*write)(void *apic, unsigned offset, uint32_t v);
    uint64_t (*deadline)(void *apic);      /* TSC of the next timer event, UINT64_MAX: none */
    void (*run)(void *apic, uint64_t tsc); /* time has come to this TSC */
    void (*reset)(void *apic, bool init);
    /* A fixed interrupt to a physical destination, without the ICR. May be null. */
    void (*send)(void *apic, uint32_t destination, uint8_t vector);
};

/* Asynchronous requests, set by any thread with an atomic OR; the run loop looks between blocks. */
enum attention {
    ATT_INTR = 1 << 0, /* the local APIC (or the PIC) may have an interrupt */
    ATT_NMI = 1 << 1,
    ATT_SMI = 1 << 2,
    ATT_INIT = 1 << 3,
    ATT_SIPI = 1 << 4,
    ATT_KICK = 1 << 5,   /* leave cpu_run() with STOP_KICK */
    ATT_GUEST = 1 << 6,  /* guest_ops->events() wants to be called before the next instruction */
    ATT_TRAP = 1 << 7,   /* pending debug exceptions (single step, data breakpoints, task-switch T bit) */
    ATT_SHADOW = 1 << 8, /* one instruction under an interrupt shadow (STI, MOV SS) */
    ATT_TLB = 1 << 9,    /* another processor noted a code page: withdraw write tags */
    ATT_STEP =
        1 << 10, /* RFLAGS.TF or DEBUGCTL.LBR is set, instruction breakpoints are on: one instruction at a time */
    ATT_DEADLINE = 1 << 11,
    ATT_IDLE = 1 << 12, /* the processor waits: cpu_service() has to look again */
};

/* Why cpu_run() returned. */
enum cpu_stop {
    STOP_NONE = 0,
    STOP_BUDGET,   /* the instructions asked for are retired */
    STOP_EXIT,     /* a VM exit gave control to the host and the host is native (c->native_host) */
    STOP_IDLE,     /* HLT (or wait-for-SIPI, MWAIT) with nothing pending and c->idle is null */
    STOP_SHUTDOWN, /* triple fault outside guest mode, or VMX abort */
    STOP_KICK,
    STOP_FAULT, /* c->native_host and an exception that would be delivered outside guest mode: c->exc holds it */
    STOP_RESET,
};

enum activity {
    ACTIVITY_ACTIVE = 0,
    ACTIVITY_HLT = 1,
    ACTIVITY_SHUTDOWN = 2,
    ACTIVITY_WAIT_SIPI = 3,
    ACTIVITY_MWAIT = 4
};

enum decode_mode { MODE_16 = 0, MODE_32 = 1, MODE_64 = 2 }; /* default sizes; c->vm86/real is state, not decoding */

union vreg { /* one vector register, with the place of the AVX and AVX-512 parts */
    uint8_t b[64];
    uint16_t w[32];
    uint32_t d[16];
    uint64_t q[8];
    float f[16];
    double lf[8];
} __attribute__((aligned(16)));

struct x87 { /* registers by physical number; ST(i) is st[(top + i) & 7] */
    struct f80 {
        uint64_t frac;
        uint16_t sexp;
    } st[8];
    uint16_t cw, sw /* without TOP: see top */, fop;
    uint8_t top, tag; /* tag: bit i set: register i is not empty */
    uint64_t fip, fdp;
    uint16_t fcs, fds;
};

/* What a watcher may want to be told of. It reads and never changes the processor; c->rip may be that of the running
 * block's start, note.rip is exact. */
enum cpu_watch {
    WATCH_EXIT = 1 << 0,      /* VM exit or #VMEXIT, with the guest still in the processor. a: reason or code; b: exit
                                 qualification or EXITINFO1 */
    WATCH_ENTRY = 1 << 1,     /* guest state is loaded, nothing injected. a: enum watch_entry; b: address of the VMCS or
                                 VMCB, or the VM-instruction error; rip: the guest's, or that of the instruction */
    WATCH_INTERRUPT = 1 << 2, /* an interrupt, NMI or INT n goes through the IDT, INIT, SIPI. a: vector, 15:8 enum
                                 event_type, or WATCH_INIT, WATCH_SIPI, WATCH_SMI, WATCH_RSM */
    WATCH_EXCEPTION = 1 << 3, /* goes through the IDT. a: as before, bit 16 if 63:32 is an error code; b: payload */
    WATCH_IO = 1 << 4,        /* a: port, 23:16 size in bytes, bit 24 in; b: value */
    WATCH_MSR = 1 << 5,       /* RDMSR, WRMSR. a: number, bit 32 written, bit 33 #GP; b: value */
    WATCH_INSN = 1 << 6,      /* is about to be executed. a: host address of its bytes; b: their number */
};
enum watch_entry { WATCH_VMLAUNCH, WATCH_VMRESUME, WATCH_VMRUN, WATCH_ENTRY_KIND = 3, WATCH_ENTRY_FAILED = 4 };
enum { WATCH_INIT = 1 << 17, WATCH_SIPI = 1 << 18, WATCH_SHUTDOWN = 1 << 19, WATCH_SMI = 1 << 20, WATCH_RSM = 1 << 21 };
struct cpu_note {
    uint64_t icount, rip, a, b;
    uint16_t cs;
    uint8_t what; /* enum cpu_watch */
    uint8_t mode; /* enum decode_mode */
    bool guest;   /* in guest mode */
};
#define CPU_NOTES 32

/* What the processor keeps to itself while it is in system-management mode (smm.c). */
struct cpu_smm_kept {
    const struct guest_ops *guest;
    uint64_t icpt, pending_dbg, apic_access_page;
    struct mmu_second second;
    uint16_t vpid;
    uint8_t cpl;
    bool step_guest, nmi_blocked, shadow_sti, shadow_movss, vmxe /* CR4.VMXE */;
};
/* The last I/O instruction that an SMI may have been raised by. */
struct cpu_smi_io {
    uint64_t at; /* icount behind it */
    uint64_t rip, rcx, rsi, rdi, la;
    uint16_t port;
    uint8_t size; /* bytes; 0: none */
    bool in, string, rep, imm;
};
struct cpu {
    /* --- hot: what blocks touch ------------------------------------------------------------------------------- */
    uint64_t gpr[GPR_SLOTS];
    /* Lazy arithmetic flags; flags.h reads and writes them.
     *   ZF  lf_res == 0        SF  bit 63 of lf_res, xor bit 31 of lf_aux      PF  parity of lf_res's low byte, xor bit
     * 30 of lf_aux CF  bit 63 of lf_cv    OF  bit 63 xor bit 62 of lf_cv                  AF  bit 3 of lf_aux lf_res is
     * the result sign-extended to 64 bits; lf_cv the carry-out vector shifted so that the operand's top bit is bit 63.
     */
    uint64_t lf_res, lf_cv;
    uint32_t lf_aux;
    uint32_t rflags_rest;   /* RFLAGS without the arithmetic flags */
    struct tlb_entry *tlb;  /* the view for the current privilege; `nothing` when every access must be checked */
    uint64_t seg_base64[8]; /* in 64-bit mode: base of FS and GS, 0 for the others; else the segment's base */
    const struct op *cur;   /* the operation that called something which may fault; set before the call */
    uint64_t icount;        /* retired instructions, block by block */
    uint64_t deadline;      /* in icount: look at time then */
    uint64_t horizon; /* in icount: blocks do not go on to other blocks by themselves then; never after deadline while a
                         block runs */
    uint32_t attention; /* enum attention, atomic */
    uint32_t stop;      /* enum cpu_stop: leave cpu_run() */
    uint64_t rip;
    uint64_t ip_mask; /* ~0 in 64-bit mode, else 0xffffffff */
    uint64_t icpt;    /* intercepts that are on: bit per enum icpt; 0 outside guest mode */
    const struct guest_ops *guest;
    uint8_t cpl;
    uint8_t mode;                    /* enum decode_mode */
    bool long_mode, real_mode, vm86; /* EFER.LMA; CR0.PE = 0; RFLAGS.VM with PE */
    uint8_t stack_size;              /* bytes in a stack pointer: 2, 4, 8 */
    uint64_t fetch_key;              /* code.c: context of instruction fetch, compared by the block look-up */
    struct code_cache *code;
    struct jump *jump;          /* code.h: blocks by linear address */
    const uint32_t *code_epoch; /* mem_code_epoch_place() */

    struct cpu_event exc;       /* raised by the running instruction, not yet delivered */
    struct cpu_event vectoring; /* being delivered: IDT-vectoring information, EXITINTINFO */

    /* --- architectural ------------------------------------------------------------------------------------------- */
    struct seg seg[SEG_COUNT];
    struct dtable gdtr, idtr;
    uint64_t cr0, cr2, cr3, cr4, efer, xcr0, xss;
    uint64_t pdpte[4];
    uint64_t dr[8]; /* 0-3, 6, 7 */
    uint32_t pkru, mxcsr;
    union vreg v[32];
    uint64_t k[8];
    struct x87 x87;
    uint32_t host_mxcsr; /* the host's own, while the processor runs on its units (fpu.c) */
    bool host_x87_saved;
    uint8_t host_x87[108];
    bool ignne;      /* IGNNE# is given, until no exception waits */
    bool mf_pending; /* an unmasked x87 exception waits for the next waiting instruction */

    struct { /* MSRs that are plain state; msr.def names them */
        uint64_t star, lstar, cstar, sfmask, kernel_gs_base, tsc_aux, pat, sysenter_cs, sysenter_esp, sysenter_eip;
        uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_phys[20], misc_enable, feature_control, debugctl, spec_ctrl,
            mcg_status, mcg_ctl;
        uint64_t perf_global_ctrl, bndcfgs, u_cet, s_cet, pl_ssp[4], interrupt_ssp_table, rtit_ctl, lbr_ctl, pkrs;
        uint64_t apic_base, smbase, tsc_adjust, umwait_control, tsc_deadline, arch_capabilities, xss_unused;
        uint64_t hwcr, syscfg, ignne, vm_cr, vm_hsave_pa, tsc_ratio, de_cfg, patch_level, last_branch[4],
            virt_spec_ctrl, mc_bank[32][4];
        uint64_t monitor_filter, misc_features, perf_ctl, clock_modulation, therm_interrupt, energy_perf_bias, iorr[4],
            top_mem, top_mem2, nb_cfg;
        uint64_t mmio_cfg, smm_addr, smm_mask, k7_perf[8], amd_cfg[16];
        uint64_t cpuid_flip[4]; /* bits of the AMD CPUID override registers that are not as after reset */
    } msr;

    /* --- event state --------------------------------------------------------------------------------------------- */
    uint8_t activity;              /* enum activity */
    bool shadow_sti, shadow_movss; /* interrupt shadow for the next instruction */
    bool nmi_blocked, smi_blocked;
    bool nmi_pending, smi_pending, init_pending, sipi_pending;
    uint8_t sipi_vector;
    bool gif;                          /* AMD: global interrupt flag; true on Intel */
    bool in_smm, smram_on, smram_open; /* the latter: there is SMRAM; it is visible outside of SMM too */
    uint64_t smram_alias;              /* SMM_ALIAS while this processor sees SMRAM, else 0 */
    struct cpu_smm_kept smm;
    struct cpu_smi_io smi_io;
    bool bsp;
    uint64_t pending_dbg; /* DR6-like bits of debug exceptions that wait for the instruction boundary */
    uint64_t held_dbg;    /* under MOV SS: those that an earlier instruction left */
    uint8_t insn_len; /* length of the instruction that cpu_sync() left; guest_ops: of the intercepted instruction */
    const struct op *icpt_op;  /* guest_ops calls made for an instruction: its operation; else null */
    bool nmi_unblocking_iret;  /* an IRET that has not completed lifted the blocking of NMIs (exit information) */
    bool branched;             /* the instruction that ran last, one alone, was a taken branch */
    bool step_armed;           /* RFLAGS.TF was set when the instruction that runs now began: a trap follows it */
    uint64_t apic_access_page; /* physical page whose accesses guest mode wants to see; UINT64_MAX: none */
    bool step_guest;           /* guest mode wants to look between all instructions (monitor trap flag) */
    bool mon_armed;            /* MONITOR has an address for MWAIT */
    bool mwait_any;            /* MWAIT ends at an interrupt even when interrupts are disabled */
    bool intr_waiting;         /* an interrupt was pending but could not be taken: look again when something unblocks */
    uint64_t step_stamp;       /* entries + exits when step_armed was set */
    uint64_t delivered;        /* counts events that reached their handler */
    uint64_t rf_at;            /* RFLAGS.RF counts only while icount has this value: any instruction's end clears it */
    uint64_t shadow_at;        /* the shadow is in force only while icount has this value */

    /* --- memory --------------------------------------------------------------------------------------------------- */
    struct mem *mem;
    struct tlb tlbs;
    struct tlb_bank *bank;    /* current context */
    bool check_all;           /* tlb is `nothing`: #AC checks or data breakpoints are on */
    uint16_t vpid;            /* VPID or ASID in force; 0 outside guest mode */
    struct mmu_second second; /* kind NONE outside two-level translation */

    /* --- surroundings --------------------------------------------------------------------------------------------- */
    const struct model *model;
    const struct virt_ops *virt;
    void *vmx, *svm; /* struct vmx_cpu, struct svm_cpu */
    const struct cpu_apic_ops *apic_ops;
    void *apic;
    bool (*intr_line)(void *opaque, int *vector); /* PIC: NULL vector asks, else acknowledges (ExtINT); may be null */
    void *intr_opaque;
    void (*ferr)(void *opaque); /* FERR# is asserted; NULL: it is not wired */
    void *ferr_opaque;
    bool (*idle)(
        struct cpu *c,
        uint64_t until_tsc); /* real clock: sleep; null: STOP_IDLE on the real clock, skip time on the virtual one */
    uint64_t turn_pause;     /* takes_turns: the first PAUSE of this turn; UINT64_MAX: none yet */
    bool takes_turns;        /* with others on one thread: PAUSE leaves cpu_run() (STOP_KICK), MONITOR keeps the line */
    bool (*others_wait)(struct cpu *c); /* takes_turns: whether no other has anything to do, so that PAUSE goes on; may
                                           be null */
    const uint8_t *mon_line;            /* takes_turns: the line that MONITOR armed; NULL: not plain memory */
    uint8_t mon_data[64];               /* what stood there */
    bool native_host; /* the host of guest mode is native code: VM exits and host exceptions leave cpu_run() */
    bool fold_tables; /* identity mode: mmu.h, struct mmu_second */
    bool identity;    /* identity mode: the probe NOP is recognised; SYSCALL pass-through by host_syscall */
    bool (*host_syscall)(struct cpu *c); /* SYSCALL of a guest goes to the host's kernel: true when it did */
    bool real_clock;
    uint64_t tsc_hz, tsc_base; /* virtual: TSC = tsc_base + icount + skipped; real: tsc_base + scaled host time */
    uint64_t skipped; /* virtual clock: ticks that passed while the processor was idle or exited from a guest */
    uint64_t real_start;
    uint64_t random; /* RDRAND, RDSEED on the virtual clock: state of the generator */
    unsigned index;  /* number in the machine; initial APIC id */
    unsigned cpus;   /* logical processors of the machine, for CPUID; 0 means 1 */
    void *machine;
    uint64_t last_entry_icount;
    struct {
        uint64_t entries, exits, interrupts, exceptions[32];
        uint64_t reasons[256]; /* exits by the vendor's slot: the basic exit reason, svm_exit_slot() */
    } stats;
    /* Watching (watch.c). The last events are kept in any case. */
    uint32_t watching; /* enum cpu_watch: what is told to watch() as it happens */
    void (*watch)(struct cpu *c, const struct cpu_note *n);
    void *watch_opaque;
    unsigned noted; /* events so far; the last of them is note[(noted - 1) % CPU_NOTES] */
    struct cpu_note note[CPU_NOTES];
};

/* --- life ------------------------------------------------------------------------------------------------------ */
struct cpu *cpu_create(struct mem *mem, const struct model *model,
                       unsigned index); /* NULL: no memory; state as after reset */
void cpu_destroy(struct cpu *c);
void cpu_reset(struct cpu *c, bool init); /* power-up, or INIT */

/* --- running (run.c) --------------------------------------------------------------------------------------------- */
/* Executes until something of enum cpu_stop; at most max_insns (+ the rest of a block) if not UINT64_MAX. */
enum cpu_stop cpu_run(struct cpu *c, uint64_t max_insns);
/* Exactly one instruction or one event delivery. An exception is left in c->exc undelivered when `hold` is set. */
enum cpu_stop cpu_step(struct cpu *c, bool hold);

/* Branch records (run.c): where the processor stands, as it is recorded; a branch, an interrupt or an exception from
 * there to the present place, while DEBUGCTL.LBR is 1. */
enum { DEBUGCTL_LBR = 1, DEBUGCTL_BTF = 2 };
uint64_t cpu_branch_address(const struct cpu *c);
void cpu_record_branch(struct cpu *c, uint64_t from, bool event);
void cpu_attend(struct cpu *c, uint32_t bits); /* atomic OR into attention, from any thread */
uint64_t cpu_tsc(
    struct cpu *c); /* the processor's own TSC (guest offset not applied), exact inside a block when c->cur is set */
void cpu_update_deadline(struct cpu *c); /* after a timer, preemption timer or clock change */

/* --- state that has consequences -------------------------------------------------------------------------------------
 */
uint64_t cpu_rflags(const struct cpu *c);
/* Something that held back an event is gone (IF, GIF, NMI blocking, TPR, guest mode entered or left): cpu_service()
 * looks at all of them before the next instruction. cpu_set_rflags() and cpu_update_mode() include it. */
void cpu_recheck_events(struct cpu *c);
/* A one-instruction shadow: by MOV SS or by STI, after the running operation (or from here, when c->cur is null: VM
 * entry). shadow_sti and shadow_movss count only while this says so. */
void cpu_set_shadow(struct cpu *c, bool movss);
INLINE bool cpu_in_shadow(const struct cpu *c)
{
    return (c->shadow_sti || c->shadow_movss) && c->shadow_at == c->icount;
}
void cpu_write_pkru(struct cpu *c, uint32_t v); /* WRPKRU and XRSTOR: with its consequences for translation */
void cpu_set_rflags(struct cpu *c, uint64_t v); /* all bits as given, bit 1 set; updates modes, views, attention */
/* Recomputes what derives from CR0, CR4, EFER, CS, SS, RFLAGS.VM/AC, CPL: mode, masks, view, fetch key, attention.
 * After any of them was set directly (VM entry, VM exit, RSM) this one call makes the processor consistent. Does not
 * touch the TLB's contents. */
void cpu_update_mode(struct cpu *c);
void cpu_update_translation(
    struct cpu *c); /* bank for CR3.PCID, vpid, second: after a change of any of them; includes cpu_update_mode */
/* MOV CRn, WRMSR and so on with all checks but interception. False: exception raised (#GP). */
bool cpu_write_cr0(struct cpu *c, uint64_t v);
bool cpu_write_cr3(struct cpu *c, uint64_t v);
bool cpu_write_cr4(struct cpu *c, uint64_t v);
bool cpu_write_cr8(struct cpu *c, uint64_t v);
uint64_t cpu_read_cr8(struct cpu *c);
bool cpu_write_dr(struct cpu *c, unsigned n, uint64_t v);
bool cpu_write_xcr0(struct cpu *c, uint64_t v);
/* RDMSR, WRMSR without privilege check and interception. False: would be #GP (nothing is raised). */
bool cpu_rdmsr(struct cpu *c, uint32_t msr, uint64_t *v);
bool cpu_wrmsr(struct cpu *c, uint32_t msr, uint64_t v);
void cpu_cpuid(struct cpu *c, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);
/* AMD's CPUID override register of this number's low two bits (C001_1002 to C001_1005) after reset. */
uint64_t cpu_cpuid_override(const struct cpu *c, unsigned i);

/* --- system-management mode (smm.c)
 * ------------------------------------------------------------------------------------ */
void cpu_smm_enter(struct cpu *c);                  /* between instructions */
void cpu_smm_leave(struct cpu *c);                  /* RSM; shutdown when the state-save area holds no valid state */
void cpu_smm_command(struct cpu *c, unsigned bits); /* AMD's SMM_CTL */
/* Where a physical address of this processor leads: SMRAM, or itself. */
hpa_t cpu_smram(const struct cpu *c, hpa_t pa);
/* The chipset's settings: there is SMRAM at SMM_RAM (plain memory at SMM_RAM + SMM_ALIAS); open: visible always. */
void cpu_set_smram(struct cpu *c, bool on, bool open);
/* o accessed a port and an SMI is pending. */
void cpu_note_smi_io(struct cpu *c, const struct op *o, uint16_t port, unsigned size, bool in, bool string, bool imm,
                     uint64_t la);

/* --- exceptions and events (event.c)
 * ---------------------------------------------------------------------------------- */
/* Raise at the running operation (c->cur, or between instructions when it is null). Always returns false, for `return
 * cpu_raise(...)`. */
bool cpu_raise(struct cpu *c, unsigned vector, uint32_t error);
bool cpu_raise_event(struct cpu *c, const struct cpu_event *ev);
/* Delivers through the IDT (or real-mode IVT) of the current mode; faults inside become nested exceptions, handled to
 * the end (double fault, triple fault, intercepts). Injection by VM entry uses it too, and says itself what an NMI then
 * blocks. False: a VM exit or shutdown came instead. */
bool cpu_deliver(struct cpu *c, const struct cpu_event *ev);
/* What the run loop calls when c->exc is valid: interception, double-fault rules, delivery. */
void cpu_handle_exception(struct cpu *c);
/* cpu_note(): an event, kept among the last ones and told to the watcher; for what is not frequent. cpu_tell(): told
 * alone. RIP is exact, or c->cur is set. */
void cpu_note_event(struct cpu *c, const struct cpu_event *ev); /* an interrupt or exception goes through the IDT */
COLD void cpu_told(struct cpu *c, enum cpu_watch what, uint64_t a, uint64_t b);
INLINE void cpu_note(struct cpu *c, enum cpu_watch what, uint64_t a, uint64_t b)
{
    struct cpu_note *n = &c->note[c->noted++ % CPU_NOTES];
    n->icount = c->icount;
    n->rip = c->rip;
    n->a = a;
    n->b = b;
    n->cs = c->seg[SEG_CS].sel;
    n->what = (uint8_t)what;
    n->mode = c->mode;
    n->guest = c->guest != NULL;
    if (unlikely(c->watching & what))
        cpu_told(c, what, a, b);
}
INLINE void cpu_tell(struct cpu *c, enum cpu_watch what, uint64_t a, uint64_t b)
{
    if (unlikely(c->watching & what))
        cpu_told(c, what, a, b);
}
/* Watches from now on. what: enum cpu_watch, 0: nothing. While the processor does not run. Instructions are then
 * executed one by one: other events may come at other instructions than without. */
void cpu_set_watch(struct cpu *c, uint32_t what, void (*fn)(struct cpu *c, const struct cpu_note *n), void *opaque);

/* Between instructions, when attention or the deadline say so. True: state changed, look again. */
bool cpu_service(struct cpu *c);

/* One-instruction interrupt shadow after the running operation (c->cur): MOV SS and POP SS, or STI. */
void cpu_set_shadow(struct cpu *c, bool movss);

/* Leaving a block from inside an operation: makes rip that of c->cur, counts what is retired, so that the state is
 * whole. cpu_sync_next: rip is that after c->cur, which counts as retired. Both set insn_len to c->cur's length and
 * clear c->cur. */
void cpu_sync(struct cpu *c);
void cpu_sync_next(struct cpu *c);
uint64_t cpu_next_rip(const struct cpu *c, const struct op *o);

/* Interception of an instruction, at the place the manual gives it. True: a VM exit was made; return from the
 * operation. */
INLINE bool cpu_icpt_on(const struct cpu *c, enum icpt what)
{
    return unlikely(c->icpt & BIT(what));
}
/* info: INVLPG the linear address; SWINT the vector; MWAIT 1 if the monitor is armed; INVPCID the type; else 0. What
 * depends on the operands (descriptor-table instructions, RDRAND, INVPCID, ...) is in c->icpt_op. False: the state is
 * as before the call. */
bool cpu_intercept(struct cpu *c, const struct op *o, enum icpt what, uint64_t info);

/* --- memory by linear address (access.c)
 * -------------------------------------------------------------------------------- */
/* Any length up to 4096, any crossing. On a fault the exception (or VM exit) is made and false returned; a write that
 * faults has written nothing. `access` is enum mmu_access bits; without MMU_USER it is a supervisor access. Segment
 * bases are already added. */
bool cpu_read(struct cpu *c, la_t la, void *buf, unsigned len, unsigned access);
bool cpu_write(struct cpu *c, la_t la, const void *buf, unsigned len, unsigned access);
/* Would the access fault? Raises if so. */
bool cpu_probe(struct cpu *c, la_t la, unsigned len, unsigned access);
/* The access bits of an explicit data access at the current CPL. */
INLINE unsigned cpu_data_access(const struct cpu *c)
{
    return c->cpl == 3 ? MMU_USER : 0;
}
/* Physical, in the space that the current mode's paging structures and VMCS pointers live in: through the second level
 * when one is in force. Used for PDPTEs and the like. */
bool cpu_translate(struct cpu *c, la_t la, unsigned access, struct mmu_result *out);
/* For instruction fetch at the current privilege, through the TLB: the physical page, and its host pointer (NULL: not
 * plain memory). False: #PF or #GP raised, or a VM exit made. */
bool cpu_fetch_page(struct cpu *c, la_t la, hpa_t *page, uint8_t **host);
/* Data breakpoints (DR0-3): notes the hit in pending_dbg for the end of the instruction. Called when check_all is set.
 */
void cpu_data_breakpoint(struct cpu *c, la_t la, unsigned len, bool write);
/* Invalidation as INVLPG does it in the current context; and of all that MOV CR3 with this value drops. */
void cpu_invlpg(struct cpu *c, la_t la);
/* INVPCID with its descriptor; LGDT and LIDT in 64-bit mode. Without privilege check and interception. False: #GP
 * raised. */
bool cpu_invpcid(struct cpu *c, uint64_t type, uint64_t pcid, uint64_t la);
bool cpu_load_dtable(struct cpu *c, struct dtable *t, uint16_t limit, uint64_t base);
void cpu_mmu_regs(const struct cpu *c, struct mmu_regs *out);

/* --- segments (seg.c)
 * ------------------------------------------------------------------------------------------------------ */
bool cpu_load_seg(struct cpu *c, unsigned seg, uint16_t sel);     /* MOV Sreg, POP, Lxs: all checks; false: raised */
void cpu_set_seg_real(struct cpu *c, unsigned seg, uint16_t sel); /* real or virtual-8086 mode */
/* Segment-checked linear address of an access outside 64-bit mode, or with an unusual address size. False: raised. */
bool cpu_seg_la(struct cpu *c, unsigned seg, uint64_t offset, unsigned size, unsigned access, uint64_t *la);
bool cpu_far_jump(struct cpu *c, uint16_t sel, uint64_t offset, unsigned osz);
bool cpu_far_call(struct cpu *c, uint16_t sel, uint64_t offset, unsigned osz);
bool cpu_far_return(struct cpu *c, unsigned osz, unsigned pop);
bool cpu_iret(struct cpu *c, unsigned osz);
bool cpu_software_interrupt(struct cpu *c, unsigned vector, enum event_type type, unsigned insn_len);
bool cpu_task_switch(struct cpu *c, uint16_t sel, unsigned source, bool has_error, uint32_t error);
bool cpu_push(struct cpu *c, uint64_t v, unsigned size); /* on the current stack; false: raised, RSP unchanged */
bool cpu_pop(struct cpu *c, uint64_t *v, unsigned size);
bool cpu_io_allowed(struct cpu *c, uint16_t port, unsigned size); /* IOPL and the TSS's permission map; false: raised */

/* --- x87 and vector state (fpu.c)
 * --------------------------------------------------------------------------------------------- */
void cpu_fpu_reset(struct cpu *c, bool init);
/* Around running: the host's MXCSR and x87 state are kept, and are the host's own again afterwards. */
void cpu_fpu_enter(struct cpu *c);
void cpu_fpu_leave(struct cpu *c);

/* --- code cache (code.c)
 * --------------------------------------------------------------------------------------------------------- */
/* The context of instruction fetch as one number, but for the translation: block look-ups made under another never
 * match. After a change of mode or CPL. What the bank holds for execution needs no call: look-ups compare the bank's
 * own number. */
INLINE void code_set_key(struct cpu *c)
{
    c->fetch_key = (uint64_t)(c->cpl == 3) << 4 | (uint64_t)(c->real_mode || c->vm86) << 2 | c->mode;
}
void code_flush(struct cpu *c);                           /* everything */
bool code_noted(const struct cpu *c, hpa_t page);         /* did this processor note the page? */
void code_written(struct cpu *c, hpa_t pa, unsigned len); /* this processor wrote to a noted page */

#endif
