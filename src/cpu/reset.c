/* SPDX-License-Identifier: MIT
 *
 * reset.c: the state after power-up and after INIT.
 *
 * SDM volume 3A, "Processor State After Reset"; "Processor Management and Initialization"; APM volume 2, "Processor
 * Initialization and Long Mode Activation". What INIT keeps (SDM 3A, the same table): caches and MTRRs, machine-check
 * banks, x87 and vector state, CR0.CD and NW, the TSC, IA32_FEATURE_CONTROL, MSRs that are not named there.
 */
#include "src/cpu/sys.h"

void cpu_reset(struct cpu *c, bool init)
{
    const struct model *m = c->model;
    uint64_t kept_cr0 = init ? c->cr0 & (CR0_CD | CR0_NW) : CR0_CD | CR0_NW;

    memset(c->gpr, 0, sizeof c->gpr);
    uint32_t family = MIN(m->family, 15);
    c->gpr[GPR_RDX] = m->stepping | (m->model & 15u) << 4 | family << 8 | (uint32_t)(m->model >> 4) << 16 |
                      (uint32_t)(m->family - family) << 20;
    c->rip = 0xfff0;
    c->rflags_rest = FLAG_1;
    flags_set_arith(c, 0);
    c->cr0 = CR0_ET | kept_cr0;
    c->cr2 = c->cr3 = c->cr4 = 0;
    c->efer = 0;
    memset(c->pdpte, 0, sizeof c->pdpte);
    memset(c->dr, 0, sizeof c->dr);
    c->dr[6] = 0xffff0ff0;
    c->dr[7] = 0x400;
    for (unsigned i = 0; i < 6; i++)
        c->seg[i] = (struct seg){.limit = 0xffff, .ar = AR_P | AR_S | 3};
    c->seg[SEG_CS] = (struct seg){.sel = 0xf000, .base = 0xffff0000, .limit = 0xffff, .ar = AR_P | AR_S | 0xb};
    c->seg[SEG_LDTR] = (struct seg){.limit = 0xffff, .ar = AR_P | SYS_LDT};
    c->seg[SEG_TR] = (struct seg){.limit = 0xffff, .ar = AR_P | SYS_TSS32_BUSY};
    c->gdtr = c->idtr = (struct dtable){.limit = 0xffff};
    c->cpl = 0;

    if (!init) {
        memset(&c->msr, 0, sizeof c->msr);
        c->xcr0 = XSTATE_X87;
        c->xss = 0;
        c->pkru = 0;
        c->msr.pat = 0x0007040600070406;
        c->msr.misc_enable = BIT(0) | BIT(11) | BIT(12) | (model_has(m, FEATURE_monitor) ? BIT(18) : 0);
        c->msr.patch_level = m->microcode;
        c->msr.apic_base = 0xfee00000 | BIT(11) | (c->bsp ? BIT(8) : 0);
        c->msr.mcg_ctl = ~0ull;
        c->msr.smbase = 0x30000;
        c->msr.tsc_ratio = BIT(32);
        c->msr.syscfg = 0;
        c->msr.hwcr = BIT(24); /* TscFreqSel */
        if (!c->tsc_hz)
            c->tsc_hz = 1000000000;
        c->tsc_base += 0 - cpu_tsc(c);
    }
    cpu_fpu_reset(c, init);

    c->exc.valid = c->vectoring.valid = false;
    c->shadow_sti = c->shadow_movss = false;
    c->nmi_blocked = c->smi_blocked = false;
    c->nmi_pending = c->smi_pending = c->init_pending = false;
    c->sipi_pending &= init; /* it came after the INIT, which cancels earlier ones */
    c->gif = true;
    c->in_smm = false;
    c->pending_dbg = 0;
    c->step_armed = c->nmi_unblocking_iret = c->intr_waiting = false;
    c->mon_armed = false;
    c->second = (struct mmu_second){0};
    c->vpid = 0;
    c->guest = NULL;
    c->icpt = 0;
    c->cur = NULL;
    c->activity = c->bsp ? ACTIVITY_ACTIVE : ACTIVITY_WAIT_SIPI;
    __atomic_fetch_and(&c->attention, (uint32_t)(ATT_KICK | ATT_TLB | (init ? ATT_SIPI : 0)), __ATOMIC_SEQ_CST);
    if (c->activity != ACTIVITY_ACTIVE)
        cpu_attend(c, ATT_INTR);

    if (c->virt && c->virt->reset)
        c->virt->reset(c);
    if (c->apic_ops && c->apic_ops->reset)
        c->apic_ops->reset(c->apic, init);
    tlb_flush_all(&c->tlbs);
    cpu_update_translation(c);
    cpu_update_deadline(c);
}
