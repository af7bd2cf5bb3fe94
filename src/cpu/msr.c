/* SPDX-License-Identifier: MIT
 *
 * msr.c: reads and writes of model-specific registers, from msr.def's rows.
 *
 * What vmx or svm owns is asked for first (virt_ops), then the local APIC's registers, then the rows. A function here
 * returns false for #GP(0); it raises nothing. Privilege and interception are in ops_sys.c.
 *
 * SDM volume 4; volume 3A, "Memory Cache Control"; volume 3B, "Machine-Check Architecture"; APM volume 2, "Memory
 * System", "Machine Check Architecture", appendix "MSR Cross-Reference".
 */
#include "src/cpu/sys.h"

/* RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, IF_PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO,
 * BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO: there is no speculation here. */
#define ARCH_CAPABILITIES                                                                                              \
    (BIT(0) | BIT(1) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(8) | BIT(13) | BIT(14) | BIT(15) | BIT(20) | BIT(24) |  \
     BIT(26) | BIT(27) | BIT(62))

enum { I = 1, A = 2, IA = 3 };

static bool exists(const struct cpu *c, unsigned vendors, enum feature f)
{
    return (vendors & (model_is_amd(c->model) ? A : I)) && model_has(c->model, f);
}

/* --- functions of single rows ---------------------------------------------------------------------------------------
 */

static bool rd_tsc(struct cpu *c, uint32_t msr, uint64_t *v)
{
    *v = cpu_tsc(c);
    if (c->guest && c->guest->tsc)
        *v = c->guest->tsc(c, *v);
    return true;
}

static bool wr_tsc(struct cpu *c, uint32_t msr, uint64_t v)
{
    uint64_t delta = v - cpu_tsc(c);
    c->tsc_base += delta;
    c->msr.tsc_adjust += delta;
    cpu_update_deadline(c);
    return true;
}

static bool rd_tsc_adjust(struct cpu *c, uint32_t msr, uint64_t *v)
{
    *v = c->msr.tsc_adjust;
    return true;
}

static bool wr_tsc_adjust(struct cpu *c, uint32_t msr, uint64_t v)
{
    c->tsc_base += v - c->msr.tsc_adjust;
    c->msr.tsc_adjust = v;
    cpu_update_deadline(c);
    return true;
}

static bool wr_drop(struct cpu *c, uint32_t msr, uint64_t v)
{
    return true;
}

static bool rd_apic_base(struct cpu *c, uint32_t msr, uint64_t *v)
{
    if (c->apic_ops && c->apic_ops->rdmsr && c->apic_ops->rdmsr(c->apic, msr, v))
        c->msr.apic_base = *v;
    *v = c->msr.apic_base;
    return true;
}

static bool wr_apic_base(struct cpu *c, uint32_t msr, uint64_t v)
{
    uint64_t x2 = model_has(c->model, FEATURE_x2apic) ? BIT(10) : 0;
    if (v & ~((mask_low(c->model->maxphyaddr) & PAGE_BASE) | BIT(8) | x2 | BIT(11)))
        return false;
    /* SDM 3A, "x2APIC State Transitions": x2APIC without EN is invalid, and x2APIC mode is left through disabled alone.
     */
    if ((v & BIT(10)) && !(v & BIT(11)))
        return false;
    if ((c->msr.apic_base & BIT(10)) && !(v & BIT(10)) && (v & BIT(11)))
        return false;
    if ((v & BIT(10)) && !(c->msr.apic_base & BIT(11)))
        return false;
    if (c->apic_ops && c->apic_ops->wrmsr && !c->apic_ops->wrmsr(c->apic, msr, v))
        return false;
    c->msr.apic_base = v;
    tlb_flush_all(&c->tlbs); /* the APIC's page moved */
    cpu_update_translation(c);
    cpu_update_deadline(c);
    return true;
}

static bool rd_deadline(struct cpu *c, uint32_t msr, uint64_t *v)
{
    if (c->apic_ops && c->apic_ops->rdmsr)
        return c->apic_ops->rdmsr(c->apic, msr, v);
    *v = c->msr.tsc_deadline;
    return true;
}

static bool wr_deadline(struct cpu *c, uint32_t msr, uint64_t v)
{
    if (c->apic_ops && c->apic_ops->wrmsr) {
        if (!c->apic_ops->wrmsr(c->apic, msr, v))
            return false;
    } else {
        c->msr.tsc_deadline = v;
    }
    cpu_update_deadline(c);
    return true;
}

static bool rd_microcode(struct cpu *c, uint32_t msr, uint64_t *v)
{
    *v = model_is_amd(c->model) ? c->msr.patch_level : c->msr.patch_level << 32;
    return true;
}

static bool wr_microcode(struct cpu *c, uint32_t msr, uint64_t v)
{
    return true; /* software writes 0 before CPUID loads the revision again */
}

static bool rd_feature_control(struct cpu *c, uint32_t msr, uint64_t *v)
{
    *v = c->msr.feature_control;
    return true;
}

/* SDM 3C, "Enabling and Entering VMX Operation". */
static bool wr_feature_control(struct cpu *c, uint32_t msr, uint64_t v)
{
    uint64_t valid = BIT(0) | (model_has(c->model, FEATURE_vmx) ? BIT(2) : 0);
    if ((c->msr.feature_control & BIT(0)) || (v & ~valid))
        return false;
    c->msr.feature_control = v;
    return true;
}

static bool rd_mtrrcap(struct cpu *c, uint32_t msr, uint64_t *v)
{
    *v = c->model->mtrr_count | BIT(8) | BIT(10);
    return true;
}

static bool valid_mtrr_type(uint64_t t)
{
    return t < 8 && (BIT(t) & 0x73);
}

static bool rd_mtrr_def(struct cpu *c, uint32_t msr, uint64_t *v)
{
    *v = c->msr.mtrr_def_type;
    return true;
}

static bool wr_mtrr_def(struct cpu *c, uint32_t msr, uint64_t v)
{
    if ((v & ~0xcffull) || !valid_mtrr_type(v & 0xff))
        return false;
    c->msr.mtrr_def_type = v;
    return true;
}

static bool rd_pat(struct cpu *c, uint32_t msr, uint64_t *v)
{
    *v = c->msr.pat;
    return true;
}

static bool wr_pat(struct cpu *c, uint32_t msr, uint64_t v)
{
    for (unsigned i = 0; i < 8; i++) {
        uint64_t t = v >> (8 * i) & 0xff;
        if (t > 7 || t == 2 || t == 3)
            return false;
    }
    c->msr.pat = v;
    return true;
}

static bool rd_mcg_cap(struct cpu *c, uint32_t msr, uint64_t *v)
{
    *v = c->model->mc_banks | BIT(8);
    return true;
}

static bool rd_debugctl(struct cpu *c, uint32_t msr, uint64_t *v)
{
    *v = c->msr.debugctl;
    return true;
}

static bool wr_debugctl(struct cpu *c, uint32_t msr, uint64_t v)
{
    if (v & ~(model_is_amd(c->model) ? 0x3full : 0xdfc3ull))
        return false;
    c->msr.debugctl = v;
    cpu_update_mode(c); /* branches are recorded one instruction at a time */
    return true;
}

static bool rd_efer(struct cpu *c, uint32_t msr, uint64_t *v)
{
    *v = c->efer;
    return true;
}

static bool wr_efer(struct cpu *c, uint32_t msr, uint64_t v)
{
    if (v & ~model_efer_bits(c->model))
        return false;
    if (((v ^ c->efer) & EFER_LME) && (c->cr0 & CR0_PG))
        return false;
    if ((v & EFER_SVME) && (c->msr.vm_cr & BIT(4)))
        return false;
    v = (v & ~EFER_LMA) | (c->efer & EFER_LMA);
    uint64_t changed = v ^ c->efer;
    c->efer = v;
    if (changed & EFER_NXE)
        tlb_flush_matching(&c->tlbs, c->vpid, -1, 0, true, false);
    if (changed)
        cpu_update_mode(c);
    return true;
}

static bool rd_fs_base(struct cpu *c, uint32_t msr, uint64_t *v)
{
    *v = c->seg[SEG_FS].base;
    return true;
}

static bool wr_fs_base(struct cpu *c, uint32_t msr, uint64_t v)
{
    if (!canonical_wide(c, v))
        return false;
    c->seg[SEG_FS].base = c->seg_base64[SEG_FS] = v;
    return true;
}

static bool rd_gs_base(struct cpu *c, uint32_t msr, uint64_t *v)
{
    *v = c->seg[SEG_GS].base;
    return true;
}

static bool wr_gs_base(struct cpu *c, uint32_t msr, uint64_t v)
{
    if (!canonical_wide(c, v))
        return false;
    c->seg[SEG_GS].base = c->seg_base64[SEG_GS] = v;
    return true;
}

static bool rd_xss(struct cpu *c, uint32_t msr, uint64_t *v)
{
    *v = c->xss;
    return true;
}

static bool wr_xss(struct cpu *c, uint32_t msr, uint64_t v)
{
    if (v & ~model_xss(c->model))
        return false;
    c->xss = v;
    return true;
}

static uint64_t spec_ctrl_bits(const struct cpu *c)
{
    const struct model *m = c->model;
    if (model_is_amd(m))
        return (m->has[FEATURE_amd_ibrs] ? 1 : 0) | (m->has[FEATURE_amd_stibp] ? 2 : 0) |
               (m->has[FEATURE_amd_ssbd] ? 4 : 0);
    return (m->has[FEATURE_ibrs] ? 1 : 0) | (m->has[FEATURE_stibp] ? 2 : 0) | (m->has[FEATURE_ssbd] ? 4 : 0) |
           (m->has[FEATURE_bhi_ctrl] ? BIT(10) : 0);
}

static bool rd_spec_ctrl(struct cpu *c, uint32_t msr, uint64_t *v)
{
    *v = c->msr.spec_ctrl;
    return spec_ctrl_bits(c) != 0;
}

static bool wr_spec_ctrl(struct cpu *c, uint32_t msr, uint64_t v)
{
    if (!spec_ctrl_bits(c) || (v & ~spec_ctrl_bits(c)))
        return false;
    c->msr.spec_ctrl = v;
    return true;
}

static bool wr_pred_cmd(struct cpu *c, uint32_t msr, uint64_t v)
{
    const struct model *m = c->model;
    uint64_t valid = model_is_amd(m) ? (m->has[FEATURE_amd_ibpb] ? 1 : 0) | (m->has[FEATURE_sbpb] ? 0x80 : 0)
                                     : (m->has[FEATURE_ibrs] ? 1 : 0);
    return valid && !(v & ~valid);
}

static bool rd_misc_enable(struct cpu *c, uint32_t msr, uint64_t *v)
{
    *v = c->msr.misc_enable;
    return true;
}

static bool wr_misc_enable(struct cpu *c, uint32_t msr, uint64_t v)
{
    uint64_t writable = BIT(0) | BIT(3) | BIT(16) | BIT(22) | BIT(23) | BIT(34) | BIT(38) |
                        (model_has(c->model, FEATURE_monitor) ? BIT(18) : 0);
    if ((v ^ c->msr.misc_enable) & ~writable)
        return false;
    c->msr.misc_enable = v;
    return true;
}

static bool rd_pkrs(struct cpu *c, uint32_t msr, uint64_t *v)
{
    *v = c->msr.pkrs;
    return true;
}

static bool wr_pkrs(struct cpu *c, uint32_t msr, uint64_t v)
{
    if (v >> 32)
        return false;
    if (c->msr.pkrs != v && (c->cr4 & CR4_PKS))
        tlb_flush_matching(&c->tlbs, c->vpid, -1, 0, true, false);
    c->msr.pkrs = v;
    cpu_update_mode(c);
    return true;
}

static bool rd_hwcr(struct cpu *c, uint32_t msr, uint64_t *v)
{
    *v = c->msr.hwcr;
    return true;
}

static bool wr_hwcr(struct cpu *c, uint32_t msr, uint64_t v)
{
    if ((v & ~0x7fffffffull) || ((c->msr.hwcr & 1) && !(v & 1))) /* SMMLOCK */
        return false;
    c->msr.hwcr = v;
    return true;
}

static bool rd_cpuid_override(struct cpu *c, uint32_t msr, uint64_t *v)
{
    *v = cpu_cpuid_override(c, msr & 3) ^ c->msr.cpuid_flip[msr & 3];
    return true;
}

static bool wr_cpuid_override(struct cpu *c, uint32_t msr, uint64_t v)
{
    c->msr.cpuid_flip[msr & 3] = cpu_cpuid_override(c, msr & 3) ^ v;
    return true;
}

static bool rd_smbase(struct cpu *c, uint32_t msr, uint64_t *v)
{
    *v = c->msr.smbase;
    return true;
}

/* --- ranges
 * ------------------------------------------------------------------------------------------------------------ */

/* Where a fixed-range MTRR is kept; -1: it is none. */
static int fixed_mtrr(uint32_t msr)
{
    if (msr == 0x250)
        return 0;
    if (msr == 0x258 || msr == 0x259)
        return (int)(msr - 0x257);
    if (msr >= 0x268 && msr <= 0x26f)
        return (int)(msr - 0x268 + 3);
    return -1;
}

enum range { RANGE_NO, RANGE_OK, RANGE_GP };

static enum range range_read(struct cpu *c, uint32_t msr, uint64_t *v)
{
    const struct model *m = c->model;
    int fixed = fixed_mtrr(msr);
    if (fixed >= 0 && m->has[FEATURE_mtrr]) {
        *v = c->msr.mtrr_fixed[fixed];
        return RANGE_OK;
    }
    if (msr >= 0x200 && msr < 0x200 + 2u * m->mtrr_count && m->has[FEATURE_mtrr]) {
        *v = c->msr.mtrr_phys[msr - 0x200];
        return RANGE_OK;
    }
    if (msr >= 0x400 && msr < 0x400 + 4u * m->mc_banks && m->has[FEATURE_mca]) {
        *v = c->msr.mc_bank[(msr - 0x400) / 4][msr & 3];
        return RANGE_OK;
    }
    if (msr >= 0x800 && msr <= 0x8ff) {
        if (!m->has[FEATURE_x2apic] || !c->apic_ops || !c->apic_ops->rdmsr)
            return RANGE_GP;
        return c->apic_ops->rdmsr(c->apic, msr, v) ? RANGE_OK : RANGE_GP;
    }
    if (model_is_amd(m)) {
        if (msr >= 0xc0010000 && msr <= 0xc0010007) {
            *v = c->msr.k7_perf[msr & 7];
            return RANGE_OK;
        }
        if (msr >= 0xc0011020 && msr <= 0xc001102f) {
            *v = msr == 0xc0011029 ? c->msr.de_cfg : c->msr.amd_cfg[msr & 15];
            return RANGE_OK;
        }
    }
    return RANGE_NO;
}

static enum range range_write(struct cpu *c, uint32_t msr, uint64_t v)
{
    const struct model *m = c->model;
    int fixed = fixed_mtrr(msr);
    if (fixed >= 0 && m->has[FEATURE_mtrr]) {
        for (unsigned i = 0; i < 8; i++)
            if (!valid_mtrr_type(v >> (8 * i) & (model_is_amd(m) ? 0xe7 : 0xff)))
                return RANGE_GP;
        c->msr.mtrr_fixed[fixed] = v;
        return RANGE_OK;
    }
    if (msr >= 0x200 && msr < 0x200 + 2u * m->mtrr_count && m->has[FEATURE_mtrr]) {
        uint64_t above = ~mask_low(m->maxphyaddr);
        if (msr & 1 ? (v & (above | 0x7ff)) != 0 : (v & (above | 0xf00)) || !valid_mtrr_type(v & 0xff))
            return RANGE_GP;
        c->msr.mtrr_phys[msr - 0x200] = v;
        return RANGE_OK;
    }
    if (msr >= 0x400 && msr < 0x400 + 4u * m->mc_banks && m->has[FEATURE_mca]) {
        unsigned bank = (msr - 0x400) / 4, reg = msr & 3;
        /* Status, address and other information can only be cleared; AMD lets HWCR.McStatusWrEn change that. */
        if (reg && v && !(model_is_amd(m) && (c->msr.hwcr & BIT(18))))
            return RANGE_GP;
        c->msr.mc_bank[bank][reg] = v;
        return RANGE_OK;
    }
    if (msr >= 0x800 && msr <= 0x8ff) {
        if (!m->has[FEATURE_x2apic] || !c->apic_ops || !c->apic_ops->wrmsr || !c->apic_ops->wrmsr(c->apic, msr, v))
            return RANGE_GP;
        cpu_attend(c, ATT_INTR);
        cpu_update_deadline(c);
        return RANGE_OK;
    }
    if (model_is_amd(m)) {
        if (msr >= 0xc0010000 && msr <= 0xc0010007) {
            c->msr.k7_perf[msr & 7] = msr & 4 ? v & mask_low(48) : v;
            return RANGE_OK;
        }
        if (msr >= 0xc0011020 && msr <= 0xc001102f) {
            if (msr == 0xc0011029)
                c->msr.de_cfg = v;
            else
                c->msr.amd_cfg[msr & 15] = v;
            return RANGE_OK;
        }
    }
    return RANGE_NO;
}

/* --- dispatch
 * ------------------------------------------------------------------------------------------------------------ */

typedef bool msr_read_fn(struct cpu *c, uint32_t msr, uint64_t *v);
typedef bool msr_write_fn(struct cpu *c, uint32_t msr, uint64_t v);

static bool call_read(msr_read_fn *fn, struct cpu *c, uint32_t msr, uint64_t *v)
{
    return fn && fn(c, msr, v);
}
static bool call_write(msr_write_fn *fn, struct cpu *c, uint32_t msr, uint64_t v)
{
    return fn && fn(c, msr, v);
}

bool cpu_rdmsr(struct cpu *c, uint32_t msr, uint64_t *v)
{
    bool fault = false;
    *v = 0;
    if (c->virt && c->virt->rdmsr && c->virt->rdmsr(c, msr, v, &fault))
        return !fault;
    switch (msr) {
#define ROW(number, vendors, feature, act)                                                                             \
    case number:                                                                                                       \
        if (!exists(c, vendors, FEATURE_##feature))                                                                    \
            return false;                                                                                              \
        act return true;
#define MSR_STATE(number, name, vendors, feature, member, writable) ROW(number, vendors, feature, *v = c->member;)
#define MSR_CANON(number, name, vendors, feature, member)           ROW(number, vendors, feature, *v = c->member;)
#define MSR_CONST(number, name, vendors, feature, value)            ROW(number, vendors, feature, *v = value;)
#define MSR_SINK(number, name, vendors, feature, value)             ROW(number, vendors, feature, *v = value;)
#define MSR_CMD(number, name, vendors, feature, valid)              ROW(number, vendors, feature, return false;)
#define MSR_FN(number, name, vendors, feature, rd, wr)              ROW(number, vendors, feature, return call_read(rd, c, msr, v);)
#include "src/arch/msr.def"
#undef MSR_STATE
#undef MSR_CANON
#undef MSR_CONST
#undef MSR_SINK
#undef MSR_CMD
#undef MSR_FN
    }
    return range_read(c, msr, v) == RANGE_OK;
}

static bool write_state(uint64_t *state, uint64_t writable, uint64_t v)
{
    if ((v ^ *state) & ~writable)
        return false;
    *state = v;
    return true;
}

static bool write_canonical(struct cpu *c, uint64_t *state, uint64_t v)
{
    if (!canonical_wide(c, v))
        return false;
    *state = v;
    return true;
}

bool cpu_wrmsr(struct cpu *c, uint32_t msr, uint64_t v)
{
    bool fault = false;
    if (c->virt && c->virt->wrmsr && c->virt->wrmsr(c, msr, v, &fault))
        return !fault;
    switch (msr) {
#define MSR_STATE(number, name, vendors, feature, member, writable)                                                    \
    ROW(number, vendors, feature, return write_state(&c->member, writable, v);)
#define MSR_CANON(number, name, vendors, feature, member)                                                              \
    ROW(number, vendors, feature, return write_canonical(c, &c->member, v);)
#define MSR_CONST(number, name, vendors, feature, value) ROW(number, vendors, feature, return false;)
#define MSR_SINK(number, name, vendors, feature, value)  ROW(number, vendors, feature, )
#define MSR_CMD(number, name, vendors, feature, valid)   ROW(number, vendors, feature, return !(v & ~(uint64_t)(valid));)
#define MSR_FN(number, name, vendors, feature, rd, wr)   ROW(number, vendors, feature, return call_write(wr, c, msr, v);)
#include "src/arch/msr.def"
#undef MSR_STATE
#undef MSR_CANON
#undef MSR_CONST
#undef MSR_SINK
#undef MSR_CMD
#undef MSR_FN
#undef ROW
    }
    return range_write(c, msr, v) == RANGE_OK;
}
