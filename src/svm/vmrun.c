/* SPDX-License-Identifier: MIT
 *
 * vmrun.c: the world switch: VMRUN's second half (after its faults and its own intercept) and #VMEXIT.
 *
 * APM volume 2, chapter "Secure Virtual Machine": "VMRUN Instruction", "#VMEXIT", "VMCB Clean Bits", "TLB Control",
 * "Event Injection", "Nested Paging and VMRUN/#VMEXIT".
 *
 * Invariants: s->vmcb is null exactly outside guest mode. While s->cached_pa names a VMCB, the control groups of struct
 * svm_cpu and s->guest hold what the processor last loaded from it or saved to it: a group whose clean bit is set is
 * taken from there, and memory is not read. Nothing of the VMCB is kept as a pointer across a #VMEXIT.
 *
 * NYI: AVIC, x2AVIC, bus-lock threshold, IBS and PMC virtualization; CPUID offers none of them.
 */
#include "src/cpu/flags.h"
#include "src/svm/svm_cpu.h"

static const uint8_t kept_seg[4] = {SEG_ES, SEG_CS, SEG_SS, SEG_DS};

/* Paging-mode bits whose change makes old translations wrong in a way that silicon checks at each access. */
#define MODE_CR0  (CR0_PE | CR0_WP | CR0_PG)
#define MODE_CR4  (CR4_PSE | CR4_PAE | CR4_PGE | CR4_LA57 | CR4_PCIDE | CR4_SMEP | CR4_SMAP | CR4_PKE)
#define MODE_EFER (EFER_LME | EFER_LMA | EFER_NXE)

/* What #VMEXIT writes back to the vintr field. */
#define VINTR_SAVED (VMCB_VINTR_TPR_MASK | VMCB_VINTR_IRQ | VMCB_VINTR_GIF | VMCB_VINTR_NMI | VMCB_VINTR_NMI_MASK)

void svm_load_seg(struct seg *out, const struct vmcb_seg *in, bool la57)
{
    /* "Segment State in the VMCB"; bases are canonicalized ("Canonicalization and Consistency Checks"). */
    uint32_t a = in->attrib;
    out->sel = in->sel;
    out->limit = in->limit;
    out->base = sign_extend(in->base, la57 ? 57 : 48);
    out->ar = (a & 0xff) | (a & 0xf00) << 4 | (a & AR_P ? 0 : AR_UNUSABLE);
}

void svm_save_seg(struct vmcb_seg *out, const struct seg *in)
{
    uint32_t ar = in->ar & AR_UNUSABLE ? in->ar & ~AR_P : in->ar;
    out->sel = in->sel;
    out->attrib = (uint16_t)((ar & 0xff) | (ar >> 4 & 0xf00));
    out->limit = in->limit;
    out->base = in->base;
}

static void load_flags(struct cpu *c, uint64_t v)
{
    const uint64_t exist = FLAG_ARITH | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_RF | FLAG_VM |
                           FLAG_AC | FLAG_VIF | FLAG_VIP | FLAG_ID;
    flags_set_arith(c, v);
    c->rflags_rest = (uint32_t)((v & exist & ~FLAG_ARITH) | FLAG_1);
    c->rf_at = c->icount; /* RF, if set, covers the next instruction */
}

/* --- VMRUN ----------------------------------------------------------------------------------------------------- */

static void save_host(struct cpu *c, struct svm_cpu *s)
{
    struct svm_host *h = &s->host;
    for (unsigned i = 0; i < 4; i++)
        h->seg[i] = c->seg[kept_seg[i]];
    h->gdtr = c->gdtr;
    h->idtr = c->idtr;
    h->efer = c->efer;
    h->cr0 = c->cr0;
    h->cr3 = c->cr3;
    h->cr4 = c->cr4;
    h->rflags = cpu_rflags(c);
    h->rip = c->rip;
    h->rsp = c->gpr[GPR_RSP];
    h->rax = c->gpr[GPR_RAX];
    h->pat = c->msr.pat;
    h->spec_ctrl = c->msr.spec_ctrl;
    h->debugctl = c->msr.debugctl;
    memcpy(h->last_branch, c->msr.last_branch, sizeof h->last_branch);
}

/* The intercepts as a set of enum icpt. */
static uint64_t intercept_set(const struct svm_cpu *s)
{
    static const struct {
        uint8_t icpt;
        uint16_t code;
    } rows[] = {
#define ICPT(name, vmx, svm) {ICPT_##name, svm},
#include "src/arch/intercept.def"
#undef ICPT
    };
    uint64_t set = 0;
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].code < SVM_INTERCEPTS && svm_intercepts(s, rows[i].code))
            set |= BIT(rows[i].icpt);
    if (svm_intercepts(s, SVM_EXIT_MWAIT_CONDITIONAL))
        set |= BIT(ICPT_MWAIT);
    if (s->idle_hlt && svm_intercepts(s, SVM_EXIT_IDLE_HLT))
        set |= BIT(ICPT_HLT);
    if (s->cr_read || s->cr_write || svm_intercepts(s, SVM_EXIT_CR0_SEL_WRITE) || s->misc2 >> 16)
        set |= BIT(ICPT_CR);
    if (s->dr_read || s->dr_write)
        set |= BIT(ICPT_DR);
    if (s->exception)
        set |= BIT(ICPT_EXCEPTION);
    if (svm_intercepts(s, SVM_EXIT_EFER_WRITE_TRAP))
        set |= BIT(ICPT_MSR);
    return set;
}

static void load_controls(struct svm_cpu *s, const struct vmcb *v, uint32_t dirty)
{
    const struct vmcb_control *k = &v->control;
    if (dirty & VMCB_CLEAN_I) {
        /* A VMM that never sets clean bits pays a comparison here. */
        if (memcmp(s->intercepts, k, sizeof s->intercepts) || !s->icpt) {
            memcpy(s->intercepts, k, sizeof s->intercepts);
            s->icpt = intercept_set(s);
        }
        s->tsc_offset = k->tsc_offset;
        s->pause_count = s->pause_filter ? k->pause_filter_count : 0;
        s->pause_threshold = s->pause_thresh ? k->pause_filter_threshold : 0;
    }
    if (dirty & VMCB_CLEAN_IOPM) {
        s->iopm = k->iopm_base_pa & PAGE_BASE;
        s->msrpm = k->msrpm_base_pa & PAGE_BASE;
    }
    if (dirty & VMCB_CLEAN_ASID)
        s->asid = k->guest_asid;
    if (dirty & VMCB_CLEAN_TPR)
        s->vintr = k->vintr;
    if (dirty & VMCB_CLEAN_NP) {
        s->nested_ctl = k->nested_ctl;
        s->ncr3 = k->ncr3;
        s->guest.pat = v->save.g_pat;
    }
    if (dirty & VMCB_CLEAN_LBR) {
        s->virt_ext = k->virt_ext;
        if (s->lbr && (s->virt_ext & VMCB_LBR_ENABLE)) {
            s->guest.debugctl = v->save.dbgctl;
            s->guest.last_branch[0] = v->save.br_from;
            s->guest.last_branch[1] = v->save.br_to;
            s->guest.last_branch[2] = v->save.lastexcp_from;
            s->guest.last_branch[3] = v->save.lastexcp_to;
        }
    }
}

/* Reads the state groups that are not clean into s->guest. */
static void read_guest(struct svm_cpu *s, const struct vmcb *v, uint32_t dirty)
{
    struct svm_guest *g = &s->guest;
    const struct vmcb_save *a = &v->save;
    if (dirty & VMCB_CLEAN_CR) {
        g->efer = a->efer & ~EFER_LMA;
        if ((a->efer & EFER_LME) && (a->cr0 & CR0_PG))
            g->efer |= EFER_LMA;
        g->cr0 = a->cr0 | CR0_ET;
        g->cr3 = a->cr3;
        g->cr4 = a->cr4;
    }
    bool la57 = s->wide; /* by the width that is implemented */
    if (dirty & VMCB_CLEAN_SEG) {
        svm_load_seg(&g->seg[0], &a->es, la57);
        svm_load_seg(&g->seg[1], &a->cs, la57);
        svm_load_seg(&g->seg[2], &a->ss, la57);
        svm_load_seg(&g->seg[3], &a->ds, la57);
        /* CS is never a null segment, and only D, L and R count. */
        g->seg[1].ar = (g->seg[1].ar | AR_P | AR_S) & ~AR_UNUSABLE;
        g->cpl = a->cpl & 3;
    }
    if (dirty & VMCB_CLEAN_DT) {
        g->gdtr.base = sign_extend(a->gdtr.base, la57 ? 57 : 48);
        g->gdtr.limit = (uint16_t)a->gdtr.limit;
        g->idtr.base = sign_extend(a->idtr.base, la57 ? 57 : 48);
        g->idtr.limit = (uint16_t)a->idtr.limit;
    }
    if (dirty & VMCB_CLEAN_DR) {
        g->dr6 = a->dr6 | 0xffff0ff0;
        g->dr6 &= ~0x1000ull;
        g->dr7 = (a->dr7 & 0xffff2fff) | 0x400;
    }
    if (dirty & VMCB_CLEAN_CR2)
        g->cr2 = a->cr2;
}

static void load_guest(struct cpu *c, struct svm_cpu *s)
{
    const struct svm_guest *g = &s->guest;
    const struct vmcb *v = s->vmcb;
    for (unsigned i = 0; i < 4; i++)
        c->seg[kept_seg[i]] = g->seg[i];
    c->efer = g->efer;
    c->cr0 = g->cr0;
    c->cr2 = g->cr2;
    c->cr3 = g->cr3;
    c->cr4 = g->cr4;
    c->dr[6] = g->dr6;
    c->dr[7] = g->dr7;
    c->gdtr = g->gdtr;
    c->idtr = g->idtr;
    load_flags(c, v->save.rflags);
    if (c->efer & EFER_LMA)
        c->rflags_rest &= ~(uint32_t)FLAG_VM;
    /* "the processor ignores the CPL field in the VMCB and forces the values of 3 and 0" in virtual-8086 and real mode.
     */
    c->cpl = !(c->cr0 & CR0_PE) ? 0 : c->rflags_rest & FLAG_VM ? 3 : g->cpl;
    struct seg *ss = &c->seg[SEG_SS];
    ss->ar = (ss->ar & ~0x60u) | (uint32_t)c->cpl << 5;
    c->gpr[GPR_RAX] = v->save.rax;
    c->gpr[GPR_RSP] = v->save.rsp;
    c->rip = v->save.rip;
    bool shadow = v->control.interrupt_shadow & VMCB_INTERRUPT_SHADOW;
    c->shadow_sti = shadow;
    c->shadow_movss = false;
    c->shadow_at = c->icount;
    if (shadow)
        cpu_attend(c, ATT_SHADOW);

    c->second.kind = MMU_SECOND_NONE;
    if (s->nested_ctl & VMCB_NP_ENABLE) {
        c->second = (struct mmu_second){
            .kind = MMU_SECOND_NPT,
            .tables = &c->tlbs.tables,
            .asid = (uint16_t)s->asid,
            .root = s->ncr3 & (s->host.efer & EFER_LMA ? ~0xfffull : 0xffffffe0),
            .npt_cr0 = s->host.cr0,
            .npt_cr4 = s->host.cr4,
            .npt_efer = s->host.efer,
            .maxphyaddr = c->model->maxphyaddr,
            .gbpages = model_has(c->model, FEATURE_pdpe1gb),
            .fold = c->fold_tables,
            .npt_gmet = s->gmet && (s->nested_ctl & VMCB_GMET_ENABLE),
        };
        c->msr.pat = g->pat;
    }
    if (s->lbr && (s->virt_ext & VMCB_LBR_ENABLE)) {
        c->msr.debugctl = g->debugctl;
        memcpy(c->msr.last_branch, g->last_branch, sizeof g->last_branch);
    }
    if (s->v_spec_ctrl)
        c->msr.spec_ctrl = v->save.spec_ctrl;
    c->vpid = (uint16_t)s->asid;
}

/* "TLB Control". Besides the command: translations of this ASID made under another paging mode. Silicon checks the
 * mode's protection bits at each access, this TLB when it is filled. */
static void flush_for_entry(struct cpu *c, struct svm_cpu *s, uint8_t command)
{
    switch (command) {
    case VMCB_TLB_NOTHING: break;
    case VMCB_TLB_FLUSH_ALL: tlb_flush_all(&c->tlbs); break;
    case VMCB_TLB_FLUSH_ASID: tlb_flush_matching(&c->tlbs, (int)s->asid, -1, 0, true, false); break;
    case VMCB_TLB_FLUSH_ASID_NON_GLOBAL: tlb_flush_matching(&c->tlbs, (int)s->asid, -1, 0, true, true); break;
    }
    const struct svm_guest *g = &s->guest;
    if (s->tlb_mode.asid == s->asid &&
        (((s->tlb_mode.cr0 ^ g->cr0) & MODE_CR0) | ((s->tlb_mode.cr4 ^ g->cr4) & MODE_CR4) |
         ((s->tlb_mode.efer ^ g->efer) & MODE_EFER)))
        tlb_flush_matching(&c->tlbs, (int)s->asid, -1, 0, true, false);
}

static struct cpu_event injected_event(const struct vmcb *v, uint64_t cr2)
{
    uint64_t e = v->control.eventinj;
    struct cpu_event ev = {.valid = true, .vector = (uint8_t)VMCB_EVENT_VECTOR(e)};
    switch (VMCB_EVENT_TYPE(e)) {
    case VMCB_EVENT_INTR: ev.type = EVENT_EXTINT; break;
    case VMCB_EVENT_NMI:
        ev.type = EVENT_NMI;
        ev.vector = EXC_NMI;
        break;
    case VMCB_EVENT_EXCEPTION:
        ev.type = ev.vector == EXC_BP || ev.vector == EXC_OF ? EVENT_SWEXC : EVENT_HWEXC;
        ev.has_error = e & VMCB_EVENT_ERROR_VALID;
        ev.error = VMCB_EVENT_ERROR(e);
        break;
    default: ev.type = EVENT_SOFTINT; break;
    }
    ev.payload = ev.vector == EXC_PF ? cr2 : 0; /* delivery writes it to CR2 */
    return ev;
}

/* "Event Injection": as if the event occurred before the guest's first instruction. */
static void inject(struct cpu *c, struct svm_cpu *s)
{
    const struct vmcb *v = s->vmcb;
    struct cpu_event ev = injected_event(v, c->cr2);
    if (ev.type == EVENT_NMI) {
        if (s->vnmi && (s->vintr & VMCB_VINTR_NMI_ENABLE))
            s->vintr |= VMCB_VINTR_NMI_MASK;
        else
            c->nmi_blocked = true;
    }
    if ((ev.type == EVENT_SOFTINT || ev.type == EVENT_SWEXC) && s->nrips) {
        /* The return address of a software event is nRIP where the processor has it. */
        uint64_t len = v->control.nrip - c->rip;
        if (len <= 15)
            ev.insn_len = (uint8_t)len;
        else
            c->rip = v->control.nrip;
    }
    c->cur = NULL;
    cpu_deliver(c, &ev);
}

/* The PDPTEs of a guest in PAE mode without nested paging. */
static bool load_pdptes(struct cpu *c, const struct svm_guest *g, uint64_t pdpte[4])
{
    struct mmu_regs r;
    struct mmu_fault f;
    cpu_mmu_regs(c, &r);
    r.cr0 = g->cr0;
    r.cr3 = g->cr3;
    r.cr4 = g->cr4;
    r.efer = g->efer;
    return mmu_load_pdptes(c->mem, &r, NULL, g->cr3, pdpte, &f);
}

static void exit_to_host(struct cpu *c, struct svm_cpu *s);

/* VMEXIT_INVALID: the guest state was not loaded, so none is saved. */
static void refuse(struct cpu *c, struct svm_cpu *s, struct vmcb *v, uint64_t bad)
{
    s->check.pdpte_bad = bad & BIT(SVM_CHECK_PDPTE_MBZ) ? VMENTER_YES : VMENTER_NO;
    s->findings = (unsigned)svm_check_list(v, &s->check, bad, s->finding, ARRAY_LEN(s->finding));
    s->check.pdpte_bad = VMENTER_UNKNOWN;
    v->control.exitcode = (uint64_t)SVM_EXIT_INVALID;
    v->control.exitinfo1 = 0;
    v->control.exitinfo2 = 0;
    v->control.exitintinfo = 0;
    v->control.eventinj = 0;
    s->cached_pa = SVM_NO_PA;
    c->stats.reasons[svm_exit_slot((uint64_t)SVM_EXIT_INVALID)]++;
    cpu_note(c, WATCH_EXIT, (uint64_t)SVM_EXIT_INVALID, 0);
    exit_to_host(c, s);
}

void svm_enter(struct cpu *c, uint64_t pa, struct vmcb *v)
{
    struct svm_cpu *s = c->svm;
    bool same = s->cached_pa == pa;
    uint32_t dirty = same && s->clean_bits ? ~v->control.clean : ~0u;

    save_host(c, s);
    s->last_pa = pa;
    s->findings = 0;
    s->check.host.paging = s->host.cr0 & CR0_PG ? VMENTER_YES : VMENTER_NO;
    s->check.host.long_mode = s->host.efer & EFER_LMA ? VMENTER_YES : VMENTER_NO;

    load_controls(s, v, dirty);
    uint64_t bad = svm_check(v, &s->check, dirty);
    if (likely(!bad)) {
        read_guest(s, v, dirty);
        const struct svm_guest *g = &s->guest;
        if (unlikely((g->cr0 & CR0_PG) && (g->cr4 & CR4_PAE) && !(g->efer & EFER_LMA) &&
                     !(s->nested_ctl & VMCB_NP_ENABLE)) &&
            !load_pdptes(c, g, c->pdpte))
            bad = BIT(SVM_CHECK_PDPTE_MBZ);
    }
    if (unlikely(bad)) {
        refuse(c, s, v, bad);
        return;
    }

    s->cached_pa = pa;
    s->vmcb = v;
    flush_for_entry(c, s, v->control.tlb_control);
    load_guest(c, s);
    s->pause_left = s->pause_count;
    s->pause_tsc = 0;
    c->guest = &svm_guest_ops;
    c->icpt = s->icpt;
    c->gif = true;
    c->activity = ACTIVITY_ACTIVE;
    c->pending_dbg = 0;
    c->exc.valid = false;
    c->vectoring.valid = false;
    c->last_entry_icount = c->icount;
    c->stats.entries++;
    cpu_update_translation(c);
    /* GIF is 1 again: what was held back may be taken now. */
    cpu_attend(c, ATT_INTR | (c->nmi_pending ? ATT_NMI : 0) | (c->smi_pending ? ATT_SMI : 0) |
                      (c->init_pending ? ATT_INIT : 0));
    svm_attend_virtual(c);
    cpu_note(c, WATCH_ENTRY, WATCH_VMRUN, pa);
    if (v->control.eventinj & VMCB_EVENT_VALID)
        inject(c, s);
}

/* --- #VMEXIT ------------------------------------------------------------------------------------------------------ */

static void save_guest(struct cpu *c, struct svm_cpu *s)
{
    struct svm_guest *g = &s->guest;
    struct vmcb *v = s->vmcb;
    for (unsigned i = 0; i < 4; i++)
        g->seg[i] = c->seg[kept_seg[i]];
    g->cpl = c->cpl;
    g->gdtr = c->gdtr;
    g->idtr = c->idtr;
    g->efer = c->efer;
    g->cr0 = c->cr0;
    g->cr2 = c->cr2;
    g->cr3 = c->cr3;
    g->cr4 = c->cr4;
    g->dr6 = c->dr[6];
    g->dr7 = c->dr[7];

    struct vmcb_save *a = &v->save;
    svm_save_seg(&a->es, &g->seg[0]);
    svm_save_seg(&a->cs, &g->seg[1]);
    svm_save_seg(&a->ss, &g->seg[2]);
    svm_save_seg(&a->ds, &g->seg[3]);
    a->cpl = g->cpl;
    a->gdtr.base = g->gdtr.base;
    a->gdtr.limit = g->gdtr.limit;
    a->idtr.base = g->idtr.base;
    a->idtr.limit = g->idtr.limit;
    a->efer = g->efer;
    a->cr0 = g->cr0;
    a->cr2 = g->cr2;
    a->cr3 = g->cr3;
    a->cr4 = g->cr4;
    a->dr6 = g->dr6;
    a->dr7 = g->dr7;
    a->rflags = cpu_rflags(c);
    a->rip = c->rip;
    a->rsp = c->gpr[GPR_RSP];
    a->rax = c->gpr[GPR_RAX];
    if (s->nested_ctl & VMCB_NP_ENABLE)
        a->g_pat = g->pat = c->msr.pat;
    if (s->lbr && (s->virt_ext & VMCB_LBR_ENABLE)) {
        a->dbgctl = g->debugctl = c->msr.debugctl;
        memcpy(g->last_branch, c->msr.last_branch, sizeof g->last_branch);
        a->br_from = g->last_branch[0];
        a->br_to = g->last_branch[1];
        a->lastexcp_from = g->last_branch[2];
        a->lastexcp_to = g->last_branch[3];
    }
    if (s->v_spec_ctrl)
        a->spec_ctrl = c->msr.spec_ctrl;

    s->tlb_mode.asid = s->asid;
    s->tlb_mode.cr0 = g->cr0;
    s->tlb_mode.cr4 = g->cr4;
    s->tlb_mode.efer = g->efer;
}

/* EXITINTINFO ("EXITINTINFO Pseudo-Code"): the event whose delivery the exit interrupted. */
static uint64_t exit_int_info(const struct cpu *c)
{
    const struct cpu_event *ev = &c->vectoring;
    if (!ev->valid)
        return 0;
    unsigned type = VMCB_EVENT_EXCEPTION;
    switch ((enum event_type)ev->type) {
    case EVENT_EXTINT: type = VMCB_EVENT_INTR; break;
    case EVENT_NMI: type = VMCB_EVENT_NMI; break;
    case EVENT_SOFTINT: type = VMCB_EVENT_SOFTINT; break;
    case EVENT_HWEXC:
    case EVENT_PRIV_SWEXC:
    case EVENT_SWEXC:
    case EVENT_OTHER: break;
    }
    return VMCB_EVENT_VALID | type << 8 | ev->vector |
           (ev->has_error ? VMCB_EVENT_ERROR_VALID | (uint64_t)ev->error << 32 : 0);
}

/* "#VMEXIT": the host state, with CR0.PE set, RFLAGS.VM clear, CPL 0, breakpoints off, GIF clear. */
static void exit_to_host(struct cpu *c, struct svm_cpu *s)
{
    const struct svm_host *h = &s->host;
    for (unsigned i = 0; i < 4; i++)
        c->seg[kept_seg[i]] = h->seg[i];
    c->gdtr = h->gdtr;
    c->idtr = h->idtr;
    c->efer = h->efer;
    c->cr0 = h->cr0 | CR0_PE;
    c->cr3 = h->cr3;
    c->cr4 = h->cr4;
    c->msr.pat = h->pat;
    if (s->v_spec_ctrl)
        c->msr.spec_ctrl = h->spec_ctrl;
    if (s->lbr && (s->virt_ext & VMCB_LBR_ENABLE)) {
        c->msr.debugctl = h->debugctl;
        memcpy(c->msr.last_branch, h->last_branch, sizeof h->last_branch);
    }
    c->dr[7] = 0x400;
    load_flags(c, h->rflags & ~FLAG_VM);
    c->cpl = 0;
    c->rip = h->rip;
    c->gpr[GPR_RSP] = h->rsp;
    c->gpr[GPR_RAX] = h->rax;

    s->vmcb = NULL;
    c->guest = NULL;
    c->icpt = 0;
    c->vpid = 0;
    c->second.kind = MMU_SECOND_NONE;
    c->gif = false;
    c->activity = ACTIVITY_ACTIVE;
    c->exc.valid = false;
    c->vectoring.valid = false;
    c->shadow_sti = c->shadow_movss = false;
    /* "Single-Stepping" in "VMRUN and TF/RF Bits in EFLAGS": the host's trap comes when VMRUN completes, which is now.
     */
    c->pending_dbg = h->rflags & FLAG_TF ? 0x4000 : 0; /* DR6.BS */
    if (c->pending_dbg)
        cpu_attend(c, ATT_TRAP);
    c->cur = NULL;
    c->stats.exits++;
    cpu_update_translation(c);
    if ((c->cr0 & CR0_PG) && (c->cr4 & CR4_PAE) && !(c->efer & EFER_LMA)) {
        struct mmu_regs r;
        struct mmu_fault f;
        cpu_mmu_regs(c, &r);
        if (!mmu_load_pdptes(c->mem, &r, NULL, c->cr3, c->pdpte, &f)) {
            c->activity = ACTIVITY_SHUTDOWN;
            c->stop = STOP_SHUTDOWN;
            return;
        }
    }
    if (c->native_host)
        c->stop = STOP_EXIT;
}

static void leave(struct cpu *c, struct svm_cpu *s, uint64_t code, uint64_t info1, uint64_t info2, uint64_t nrip)
{
    struct vmcb_control *k = &s->vmcb->control;
    save_guest(c, s);
    s->vmcb->control.vintr = (k->vintr & ~VINTR_SAVED) | (s->vintr & VINTR_SAVED);
    k->interrupt_shadow = svm_in_shadow(c) ? VMCB_INTERRUPT_SHADOW : 0;
    k->exitcode = code;
    k->exitinfo1 = info1;
    k->exitinfo2 = info2;
    k->exitintinfo = exit_int_info(c);
    k->eventinj = 0;
    if (s->nrips)
        k->nrip = nrip;
    c->stats.reasons[svm_exit_slot(code)]++;
    cpu_note(c, WATCH_EXIT, code, info1);
    exit_to_host(c, s);
}

void svm_exit(struct cpu *c, uint64_t code, uint64_t info1, uint64_t info2)
{
    struct svm_cpu *s = c->svm;
    s->vmcb->control.insn_len = 0;
    leave(c, s, code, info1, info2, 0);
}

void svm_exit_insn(struct cpu *c, uint64_t code, uint64_t info1, uint64_t info2)
{
    struct svm_cpu *s = c->svm;
    s->vmcb->control.insn_len = 0;
    leave(c, s, code, info1, info2, (c->rip + c->insn_len) & c->ip_mask);
}

/* "Decode Assists": the bytes at CS:rIP, as many of 15 as can be fetched. */
static unsigned fetch_bytes(struct cpu *c, uint8_t out[15])
{
    uint64_t la = c->mode == MODE_64 ? c->rip : (c->seg[SEG_CS].base + c->rip) & 0xffffffff;
    unsigned got = 0;
    struct mmu_regs r;
    cpu_mmu_regs(c, &r);
    while (got < 15) {
        struct mmu_result res;
        struct mmu_fault f;
        unsigned n = (unsigned)MIN((uint64_t)15 - got, PAGE_SIZE - ((la + got) & PAGE_OFFSET));
        if (mmu_translate(c->mem, &r, c->second.kind == MMU_SECOND_NONE ? NULL : &c->second, LA(la + got),
                          MMU_EXEC | MMU_PROBE | cpu_data_access(c), &res, &f) != MMU_OK)
            break;
        const uint8_t *host = mem_host(c->mem, res.hpa, n, false);
        if (!host)
            break;
        memcpy(out + got, host, n);
        got += n;
    }
    return got;
}

void svm_exit_bytes(struct cpu *c, uint64_t code, uint64_t info1, uint64_t info2)
{
    struct svm_cpu *s = c->svm;
    struct vmcb_control *k = &s->vmcb->control;
    if (s->decode) {
        memset(k->insn_bytes, 0, sizeof k->insn_bytes);
        k->insn_len = (uint8_t)fetch_bytes(c, k->insn_bytes);
    }
    leave(c, s, code, info1, info2, 0);
}
