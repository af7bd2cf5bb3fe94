/* SPDX-License-Identifier: MIT
 *
 * control.c: RFLAGS, control registers, debug registers, XCR0, PKRU, and everything that derives from them.
 *
 * cpu_update_mode() is the one place that computes derived state. The write functions make the instruction's checks but
 * privilege and interception, which are in ops_sys.c.
 *
 * SDM volume 3A, "Control Registers", "Invalidation of TLBs and Paging-Structure Caches"; volume 3B, "Debug Registers";
 * APM volume 2, "System Resources".
 */
#include "src/cpu/sys.h"

/* --- derived state ------------------------------------------------------------------------------------------------ */

static void attention_put(struct cpu *c, uint32_t bit, bool on)
{
    bool is = __atomic_load_n(&c->attention, __ATOMIC_RELAXED) & bit;
    if (is == on)
        return;
    if (on)
        __atomic_fetch_or(&c->attention, bit, __ATOMIC_SEQ_CST);
    else
        __atomic_fetch_and(&c->attention, ~bit, __ATOMIC_SEQ_CST);
}

/* Kinds of breakpoint that DR7 turns on: bit 0 instruction, bit 1 data. */
static unsigned breakpoints(const struct cpu *c)
{
    unsigned kinds = 0;
    uint64_t d = c->dr[7];
    if (likely(!(d & 0xff)))
        return 0;
    for (unsigned i = 0; i < 4; i++)
        if (d >> (2 * i) & 3)
            switch (d >> (16 + 4 * i) & 3) {
            case 0: kinds |= 1; break;
            case 1:
            case 3: kinds |= 2; break;
            }
    return kinds;
}

void cpu_update_mode(struct cpu *c)
{
    bool pe = c->cr0 & CR0_PE;
    uint32_t cs = c->seg[SEG_CS].ar;
    uint32_t flags = c->rflags_rest;

    c->real_mode = !pe;
    c->long_mode = c->efer & EFER_LMA;
    c->vm86 = pe && (flags & FLAG_VM);
    if (unlikely(!pe))
        c->cpl = 0;
    else if (unlikely(c->vm86))
        c->cpl = 3;
    if (likely(c->long_mode && (cs & AR_L))) {
        c->mode = MODE_64;
        c->ip_mask = ~0ull;
        c->stack_size = 8;
        for (unsigned i = 0; i < 8; i++)
            c->seg_base64[i] = 0;
        c->seg_base64[SEG_FS] = c->seg[SEG_FS].base;
        c->seg_base64[SEG_GS] = c->seg[SEG_GS].base;
    } else {
        c->mode = cs & AR_DB ? MODE_32 : MODE_16;
        c->ip_mask = 0xffffffff; /* 16-bit code too: running past 0xffff is a limit fault, only branches wrap */
        c->stack_size = c->seg[SEG_SS].ar & AR_DB ? 4 : 2;
        for (unsigned i = 0; i < 6; i++)
            c->seg_base64[i] = c->seg[i].base;
        c->seg_base64[SEG_NONE] = c->seg_base64[7] = 0;
    }

    unsigned kinds = breakpoints(c);
    c->check_all = (kinds & 2) || (c->cpl == 3 && (c->cr0 & CR0_AM) && (flags & FLAG_AC));
    enum tlb_view view = c->cpl == 3 ? TLB_USER : (c->cr4 & CR4_SMAP) && !(flags & FLAG_AC) ? TLB_SUP_SMAP : TLB_SUP;
    c->tlb = unlikely(c->check_all) ? c->tlbs.nothing : c->bank->e[view];
    code_set_key(c);
    attention_put(c, ATT_STEP,
                  (flags & FLAG_TF) || kinds || c->step_guest || (c->watching & WATCH_INSN) ||
                      (c->msr.debugctl & DEBUGCTL_LBR));
    if (unlikely(c->intr_waiting) && (flags & FLAG_IF))
        cpu_recheck_events(c);
}

void cpu_recheck_events(struct cpu *c)
{
    uint32_t bits_ = 0;
    if (c->intr_waiting)
        bits_ |= ATT_INTR;
    if (c->nmi_pending)
        bits_ |= ATT_NMI;
    if (c->smi_pending)
        bits_ |= ATT_SMI;
    if (c->init_pending)
        bits_ |= ATT_INIT;
    if (c->guest && c->guest->events)
        bits_ |= ATT_GUEST;
    if (c->activity != ACTIVITY_ACTIVE)
        bits_ |= ATT_INTR;
    if (bits_)
        cpu_attend(c, bits_);
}

void cpu_set_shadow(struct cpu *c, bool movss)
{
    /* A second MOV SS in a row has no shadow of its own (SDM 2, "MOV"), nor has an STI under one. */
    bool chained = (c->shadow_sti || c->shadow_movss) && c->shadow_at + 1 == retire_count(c);
    if (chained && (movss ? c->shadow_movss : true))
        return;
    c->shadow_movss = movss;
    c->shadow_sti = !movss;
    c->shadow_at = retire_count(c);
}

/* --- RFLAGS
 * ------------------------------------------------------------------------------------------------------------ */

uint64_t cpu_rflags(const struct cpu *c)
{
    uint32_t rest = c->rflags_rest | FLAG_1;
    if (unlikely(rest & FLAG_RF)) {
        uint64_t now = c->cur ? c->icount + c->cur->n : c->icount;
        if (now != c->rf_at)
            rest &= ~(uint32_t)FLAG_RF;
    }
    return rest | flags_arith(c);
}

void cpu_set_rflags(struct cpu *c, uint64_t v)
{
    uint32_t rest = (uint32_t)((v & (FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_RF | FLAG_VM | FLAG_AC |
                                     FLAG_VIF | FLAG_VIP | FLAG_ID)) |
                               FLAG_1);
    uint32_t changed = rest ^ c->rflags_rest;
    flags_set_arith(c, v);
    c->rflags_rest = rest;
    if (rest & FLAG_RF)
        c->rf_at = retire_count(c);
    if (changed & (FLAG_VM | FLAG_AC | FLAG_TF))
        cpu_update_mode(c);
    if (c->step_armed) /* TF was set when the instruction began: it is trapped even if it clears TF */
        cpu_attend(c, ATT_TRAP);
    if (changed & rest & FLAG_IF)
        cpu_recheck_events(c);
}

/* --- CR0, CR3, CR4, CR8
 * --------------------------------------------------------------------------------------------------- */

static bool raise_gp(struct cpu *c)
{
    return cpu_raise(c, EXC_GP, 0);
}

/* Every translation of the current VPID or ASID: the rights that entries hold were computed under control bits that
 * change. */
static void flush_rights(struct cpu *c)
{
    tlb_flush_matching(&c->tlbs, c->vpid, -1, 0, true, false);
}

static bool pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & (EFER_LMA | EFER_LME));
}

/* The PDPTEs that cr3 names under new control registers. SDM 3A, "PDPTE Registers". AMD reads them at each walk under
 * nested paging. */
static bool load_pdptes(struct cpu *c, uint64_t cr0, uint64_t cr3, uint64_t cr4, uint64_t pdpte[4])
{
    struct mmu_regs r;
    struct mmu_fault f;
    cpu_mmu_regs(c, &r);
    r.cr0 = cr0;
    r.cr3 = cr3;
    r.cr4 = cr4;
    if (r.pdpte_in_memory)
        return true;
    if (mmu_load_pdptes(c->mem, &r, c->second.kind == MMU_SECOND_NONE ? NULL : &c->second, cr3, pdpte, &f))
        return true;
    if (f.kind == MMU_PAGE_FAULT)
        return raise_gp(c);
    cpu_sync(c);
    c->guest->second_fault(c, &f, LA(0), MMU_READ);
    return false;
}

bool cr0_valid(struct cpu *c, uint64_t v)
{
    if (v >> 32)
        return false;
    if ((v & CR0_PG) && !(v & CR0_PE))
        return false;
    if ((v & CR0_NW) && !(v & CR0_CD))
        return false;
    bool pg_on = (v & CR0_PG) && !(c->cr0 & CR0_PG);
    if (pg_on && (c->efer & EFER_LME)) {
        if (!(c->cr4 & CR4_PAE) || (c->seg[SEG_CS].ar & AR_L))
            return false;
        if (!model_is_amd(c->model) && (c->seg[SEG_TR].ar & 0xf) == SYS_TSS16_BUSY)
            return false;
    }
    if (!(v & CR0_PG) && (c->cr0 & CR0_PG) && (c->mode == MODE_64 || (c->cr4 & CR4_PCIDE)))
        return false;
    if (!(v & CR0_WP) && (c->cr4 & CR4_CET))
        return false;
    return true;
}

bool cpu_write_cr0(struct cpu *c, uint64_t v)
{
    if (!cr0_valid(c, v))
        return raise_gp(c);
    v = (v & (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)) | CR0_ET;
    if (c->virt && c->virt->cr_fixed && !c->virt->cr_fixed(c, 0, v))
        return raise_gp(c);
    uint64_t changed = v ^ c->cr0;
    if (pae_paging(v, c->cr4, c->efer) && (changed & (CR0_PG | CR0_CD | CR0_NW)) &&
        !load_pdptes(c, v, c->cr3, c->cr4, c->pdpte))
        return false;
    c->cr0 = v;
    if (changed & CR0_PG) {
        if ((v & CR0_PG) && (c->efer & EFER_LME))
            c->efer |= EFER_LMA;
        else
            c->efer &= ~EFER_LMA;
    }
    if (changed & (CR0_PG | CR0_WP | CR0_PE))
        flush_rights(c);
    if (changed & CR0_PG)
        cpu_update_translation(c);
    else if (changed)
        cpu_update_mode(c);
    return true;
}

bool cr3_valid(struct cpu *c, uint64_t v)
{
    if (c->long_mode)
        return !(v & ~mask_low(c->model->maxphyaddr) & ~(c->cr4 & CR4_PCIDE ? BIT(63) : 0));
    return true;
}

bool cpu_write_cr3(struct cpu *c, uint64_t v)
{
    if (!cr3_valid(c, v))
        return raise_gp(c);
    bool keep = (c->cr4 & CR4_PCIDE) && (v & BIT(63));
    v &= ~BIT(63);
    if (!c->long_mode)
        v &= 0xffffffff;
    if (pae_paging(c->cr0, c->cr4, c->efer) && !load_pdptes(c, c->cr0, v, c->cr4, c->pdpte))
        return false;
    c->cr3 = v;
    cpu_update_translation(c); /* to the bank of the new PCID */
    if (!keep) {
        tlb_flush_context(&c->tlbs, &c->bank->ctx, true);
        code_set_key(c);
    }
    return true;
}

bool cr4_valid(struct cpu *c, uint64_t v)
{
    uint64_t changed = v ^ c->cr4;
    if (v & ~model_cr4_bits(c->model))
        return false;
    if (c->long_mode && (!(v & CR4_PAE) || (changed & CR4_LA57)))
        return false;
    if ((changed & v & CR4_PCIDE) && (!c->long_mode || (c->cr3 & 0xfff)))
        return false;
    if ((v & CR4_CET) && !(c->cr0 & CR0_WP))
        return false;
    return true;
}

bool cpu_write_cr4(struct cpu *c, uint64_t v)
{
    if (!cr4_valid(c, v))
        return raise_gp(c);
    if (c->virt && c->virt->cr_fixed && !c->virt->cr_fixed(c, 4, v))
        return raise_gp(c);
    uint64_t changed = v ^ c->cr4;
    if (pae_paging(c->cr0, v, c->efer) && (changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)) &&
        !load_pdptes(c, c->cr0, c->cr3, v, c->pdpte))
        return false;
    c->cr4 = v;
    if (changed & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_PKS | CR4_LA57))
        flush_rights(c);
    if (changed)
        cpu_update_translation(c);
    return true;
}

uint64_t cpu_read_cr8(struct cpu *c)
{
    uint64_t v = 0;
    if (c->guest && c->guest->read_cr8 && c->guest->read_cr8(c, &v))
        return v;
    return c->apic_ops && c->apic_ops->get_tpr ? c->apic_ops->get_tpr(c->apic) & 15 : 0;
}

bool cpu_write_cr8(struct cpu *c, uint64_t v)
{
    if (v >> 4)
        return raise_gp(c);
    if (c->guest && c->guest->write_cr8 && c->guest->write_cr8(c, v))
        return true;
    if (c->apic_ops && c->apic_ops->set_tpr)
        c->apic_ops->set_tpr(c->apic, v);
    cpu_attend(c, ATT_INTR);
    return true;
}

/* --- XCR0, PKRU
 * -------------------------------------------------------------------------------------------------------------- */

/* SDM 2, "XSETBV". */
bool cpu_write_xcr0(struct cpu *c, uint64_t v)
{
    if ((v & ~model_xcr0(c->model)) || !(v & XSTATE_X87) || ((v & XSTATE_YMM) && !(v & XSTATE_SSE)))
        return raise_gp(c);
    c->xcr0 = v;
    return true;
}

void cpu_write_pkru(struct cpu *c, uint32_t v)
{
    if (c->pkru == v)
        return;
    c->pkru = v;
    if (c->cr4 & CR4_PKE) {
        flush_rights(c);
        cpu_update_mode(c);
    }
}

/* --- debug registers
 * ---------------------------------------------------------------------------------------------------------- */

bool cpu_write_dr(struct cpu *c, unsigned n, uint64_t v)
{
    switch (n) {
    case 0:
    case 1:
    case 2:
    case 3: c->dr[n] = v; break;
    case 4:
    case 6:
        if (v >> 32)
            return raise_gp(c);
        c->dr[6] = (v & 0xe00f) | 0xffff0ff0;
        break;
    case 5:
    case 7:
        if (v >> 32)
            return raise_gp(c);
        c->dr[7] = (v & ~0xd800ull) | 0x400;
        break;
    }
    cpu_update_mode(c);
    return true;
}
