/* SPDX-License-Identifier: MIT
 *
 * exits.c: CPUID, MSRs, control registers and port I/O of the guest. Vendor-neutral.
 */
#include <string.h>

#include <vmenter/intrin.h>

#include "vmm/vm.h"

/* ---- CPUID: the processor's, without virtualization, with our local APIC -------------------------------------- */

#define HYPERVISOR_LEAF 0x40000000u

void exit_cpuid(struct vmm *v)
{
    uint32_t leaf = (uint32_t)v->regs.rax, sub = (uint32_t)v->regs.rcx;
    int r[4];
    if (leaf >= HYPERVISOR_LEAF && leaf < HYPERVISOR_LEAF + 0x100) {
        memset(r, 0, sizeof(r));
        if (leaf == HYPERVISOR_LEAF) {
            r[0] = (int)HYPERVISOR_LEAF;
            memcpy(&r[1], "vmenter  VMM", 12);
        }
    } else {
        __cpuidex(r, (int)leaf, (int)sub);
    }
    switch (leaf) {
    case 1:
        r[1] = (r[1] & 0xffff) | 1 << 16; /* initial APIC ID 0, one logical processor */
        r[2] &= ~(1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 15 | 1 << 18 |
                  1 << 27);                  /* MONITOR DS-CPL VMX SMX EST TM2 PDCM DCA */
        r[2] |= 1 << 21 | 1 << 24 | 1 << 31; /* x2APIC, TSC-deadline, hypervisor */
        if (v->hv->get(v, HV_CR4) & CR4_OSXSAVE) {
            r[2] |= 1 << 27;
        }
        r[3] &= ~(1 << 9 | 1 << 21 | 1 << 22 | 1 << 28 | 1 << 29 | 1 << 31); /* DS, ACPI, HTT, TM, PBE */
        if (v->lapic.s.base & LAPIC_BASE_EN) {
            r[3] |= 1 << 9;
        }
        break;
    case 4: r[0] &= 0x3fff; break; /* one core, one thread */
    case 5: memset(r, 0, sizeof(r)); break;
    case 6:
        memset(r, 0, sizeof(r));
        r[0] = 1 << 2; /* the APIC timer always runs */
        break;
    case 7:
        if (sub == 0) {
            r[1] &= ~(1 << 2 | 1 << 12 | 1 << 15 | 1 << 25); /* SGX, RDT-M, RDT-A, PT */
            r[1] |= 1 << 1;                                  /* TSC_ADJUST is ours */
            r[2] &= ~(1 << 5 | 1 << 30);                     /* WAITPKG, SGX_LC */
            r[2] &= ~(1 << 4);                               /* OSPKE follows CR4 */
            if (v->hv->get(v, HV_CR4) & CR4_PKE) {
                r[2] |= 1 << 4;
            }
            r[3] &= ~(1 << 18); /* PCONFIG */
        }
        break;
    case 0xa:
    case 0xf:
    case 0x10:
    case 0x12:
    case 0x14:
    case 0x18 ... 0x1e: memset(r, 0, sizeof(r)); break;
    case 0xb:
    case 0x1f: /* one thread, one core, x2APIC ID 0 */
        r[0] = 0;
        r[1] = sub < 2;
        r[2] = (int)((sub & 0xff) | (sub < 2 ? (sub + 1) << 8 : 0));
        r[3] = 0;
        break;
    case 0x80000001:
        r[2] &= ~(1 << 2 | 1 << 3 | 1 << 9 | 1 << 10 | 1 << 12 | 1 << 13 | 1 << 15 | 1 << 23 | 1 << 24 |
                  1 << 28); /* SVM, ext. APIC, OSVW, IBS, SKINIT, ... */
        break;
    case 0x80000007: r[0] = r[1] = r[2] = 0; break;
    case 0x80000008:
        r[2] = 0; /* one thread */
        break;
    case 0x8000000a:
    case 0x8000001b:
    case 0x8000001f: memset(r, 0, sizeof(r)); break;
    case 0x8000001e: memset(r, 0, sizeof(r)); break;
    }
    v->regs.rax = (uint32_t)r[0];
    v->regs.rbx = (uint32_t)r[1];
    v->regs.rcx = (uint32_t)r[2];
    v->regs.rdx = (uint32_t)r[3];
}

/* ---- MSRs -----------------------------------------------------------------------------------------------------------
 */

enum {
    MSR_PLATFORM_ID = 0x17,
    MSR_FEATURE_CONTROL = 0x3a,
    MSR_SPEC_CTRL = 0x48,
    MSR_PRED_CMD = 0x49,
    MSR_UCODE_REV = 0x8b,
    MSR_MTRR_CAP = 0xfe,
    MSR_ARCH_CAPABILITIES = 0x10a,
    MSR_FLUSH_CMD = 0x10b,
    MSR_MCG_CAP = 0x179,
    MSR_MCG_STATUS = 0x17a,
    MSR_MISC_ENABLE = 0x1a0,
    MSR_MTRR_PHYS = 0x200,
    MSR_MTRR_FIX_64K = 0x250,
    MSR_MTRR_FIX_16K = 0x258,
    MSR_MTRR_FIX_4K = 0x268,
    MSR_MTRR_DEF_TYPE = 0x2ff,
    MSR_XSS = 0xda0,
    MSR_SYSCFG = 0xc0010010,
    MSR_HWCR = 0xc0010015,
    MSR_TOP_MEM = 0xc001001a,
    MSR_TOP_MEM2 = 0xc001001d,
    MSR_NB_CFG = 0xc001001f,
    MSR_INT_PENDING = 0xc0010055,
    MSR_DE_CFG = 0xc0011029,
};
#define MTRR_CAP (8 | 1 << 8 | 1 << 10) /* 8 ranges, fixed ranges, write-combining */

void msr_init(struct vmm *v)
{
    static const uint32_t passed[] = {MSR_STAR,         MSR_LSTAR,        MSR_CSTAR,   MSR_SFMASK,
                                      MSR_KERNEL_GS,    MSR_FS_BASE,      MSR_GS_BASE, MSR_SYSENTER_CS,
                                      MSR_SYSENTER_ESP, MSR_SYSENTER_EIP, MSR_TSC_AUX};
    for (unsigned i = 0; i < sizeof(passed) / sizeof(*passed); i++) {
        v->hv->pass_msr(v, passed[i], true, true);
    }
    v->hv->pass_msr(v, MSR_TSC, true, false);
    v->hv->pass_msr(v, MSR_PAT, true, true);
    v->hv->pass_msr(v, MSR_PRED_CMD, false, true); /* commands: nothing is kept */
    v->hv->pass_msr(v, MSR_FLUSH_CMD, false, true);
    v->msr.misc_enable = v->intel ? 1 | 1 << 11 | 1 << 12 : 0; /* fast strings; no BTS, no PEBS */
    v->msr.mtrr_def_type = 0xc06; /* on, write-back: the APICs are uncached by their range */
    v->msr.mtrr_phys[0] = 0xc0000000;
    v->msr.mtrr_phys[1] = (((UINT64_C(1) << v->phys_bits) - 1) & ~UINT64_C(0x3fffffff)) | 1 << 11;
    for (unsigned i = 0; i < 11; i++) {
        v->msr.mtrr_fixed[i] = UINT64_C(0x0606060606060606);
    }
    v->msr.mtrr_fixed[2] = 0; /* 0xa0000: the VGA hole */
    v->msr.de_cfg = 2;        /* LFENCE serialises */
    v->msr.hwcr = 1 << 24;    /* the TSC counts at the P0 frequency */
    v->msr.patch_level = v->intel ? UINT64_C(1) << 32 : 0x01000065;
    /* The local APIC as firmware leaves it: on, 8259s through LINT0, NMI at LINT1. */
    lapic_write(&v->lapic, 0, LAPIC_SVR, 0x1ff);
    lapic_write(&v->lapic, 0, LAPIC_LINT0, APIC_EXTINT << 8);
    lapic_write(&v->lapic, 0, LAPIC_LINT1, APIC_NMI << 8);
}

static uint64_t *mtrr(struct vmm *v, uint32_t msr)
{
    switch (msr) {
    case MSR_MTRR_PHYS ... MSR_MTRR_PHYS + 15: return &v->msr.mtrr_phys[msr - MSR_MTRR_PHYS];
    case MSR_MTRR_FIX_64K: return &v->msr.mtrr_fixed[0];
    case MSR_MTRR_FIX_16K:
    case MSR_MTRR_FIX_16K + 1: return &v->msr.mtrr_fixed[1 + msr - MSR_MTRR_FIX_16K];
    case MSR_MTRR_FIX_4K ... MSR_MTRR_FIX_4K + 7: return &v->msr.mtrr_fixed[3 + msr - MSR_MTRR_FIX_4K];
    case MSR_MTRR_DEF_TYPE: return &v->msr.mtrr_def_type;
    }
    return NULL;
}

static bool is_memory_type(uint64_t t)
{
    return t == 0 || t == 1 || (t >= 4 && t <= 6);
}

/* SDM "MTRR Feature Identification" and what follows it: reserved bits and types are #GP. */
static bool mtrr_valid(const struct vmm *v, uint32_t msr, uint64_t value)
{
    uint64_t addr = ((UINT64_C(1) << v->phys_bits) - 1) & ~UINT64_C(0xfff);
    if (msr == MSR_MTRR_DEF_TYPE) {
        return !(value & ~UINT64_C(0xcff)) && is_memory_type(value & 0xff);
    }
    if (msr >= MSR_MTRR_PHYS && msr < MSR_MTRR_PHYS + 16) {
        return msr & 1 ? !(value & ~(addr | 0x800)) : !(value & ~(addr | 0xff)) && is_memory_type(value & 0xff);
    }
    for (unsigned i = 0; i < 8; i++) {
        if (!is_memory_type(value >> (i * 8) & 0xff)) {
            return false;
        }
    }
    return true;
}

static bool is_apic_msr(uint32_t msr)
{
    return msr == MSR_APIC_BASE || msr == LAPIC_MSR_TSC_DEADLINE ||
           (msr >= LAPIC_MSR_X2APIC && msr <= LAPIC_MSR_X2APIC + 0xff);
}

static bool read_msr(struct vmm *v, uint32_t msr, uint64_t *value)
{
    uint64_t *m = mtrr(v, msr);
    struct hv_segment seg;
    int r[4];
    if (m) {
        *value = *m;
        return true;
    }
    if (is_apic_msr(msr)) {
        return lapic_read_msr(&v->lapic, __rdtsc(), msr, value);
    }
    *value = 0;
    switch (msr) {
    case MSR_TSC: *value = __rdtsc() + v->hv->get(v, HV_TSC_OFFSET); return true;
    case MSR_TSC_ADJUST: *value = v->msr.tsc_adjust; return true;
    case MSR_EFER: *value = v->hv->get(v, HV_EFER); return true;
    case MSR_PAT: *value = v->hv->get(v, HV_PAT); return true;
    case MSR_SYSENTER_CS: *value = v->hv->get(v, HV_SYSENTER_CS); return true;
    case MSR_SYSENTER_ESP: *value = v->hv->get(v, HV_SYSENTER_ESP); return true;
    case MSR_SYSENTER_EIP: *value = v->hv->get(v, HV_SYSENTER_EIP); return true;
    case MSR_DEBUGCTL: *value = v->hv->get(v, HV_DEBUGCTL); return true;
    case MSR_FS_BASE:
    case MSR_GS_BASE:
        v->hv->get_seg(v, msr == MSR_FS_BASE ? HV_FS : HV_GS, &seg);
        *value = seg.base;
        return true;
    case MSR_MTRR_CAP: *value = MTRR_CAP; return true;
    case MSR_MCG_STATUS: *value = v->msr.mcg_status; return true;
    case MSR_MCG_CAP: return true; /* no banks */
    case MSR_UCODE_REV: *value = v->msr.patch_level; return true;
    case MSR_SPEC_CTRL:
        __cpuidex(r, 7, 0);
        *value = v->msr.spec_ctrl;
        return r[3] & (1 << 26 | 1 << 31) || !v->intel;
    case MSR_ARCH_CAPABILITIES:
        __cpuidex(r, 7, 0);
        if (r[3] & 1 << 29) {
            *value = __readmsr(MSR_ARCH_CAPABILITIES);
            return true;
        }
        return false;
    case MSR_XSS:
        __cpuidex(r, 0xd, 1);
        if (r[0] & 1 << 3) {
            *value = __readmsr(MSR_XSS);
            return true;
        }
        return false;
    }
    if (v->intel) {
        switch (msr) {
        case MSR_PLATFORM_ID: return true;
        case MSR_FEATURE_CONTROL: *value = 1; return true; /* locked, without VMX */
        case MSR_MISC_ENABLE: *value = v->msr.misc_enable; return true;
        }
        return false;
    }
    switch (msr) {
    case MSR_SYSCFG: *value = v->msr.syscfg; return true;
    case MSR_HWCR: *value = v->msr.hwcr; return true;
    case MSR_DE_CFG: *value = v->msr.de_cfg; return true;
    case MSR_NB_CFG: *value = v->msr.nb_cfg; return true;
    case MSR_TOP_MEM: *value = v->low; return true;
    case MSR_TOP_MEM2: *value = v->high ? GUEST_HIGH + v->high : 0; return true;
    case MSR_INT_PENDING: return true;
    }
    return false;
}

/* SDM "Time-Stamp Counter Adjustment": a write of either moves both. */
static void move_tsc(struct vmm *v, uint64_t by)
{
    uint64_t offset = v->hv->get(v, HV_TSC_OFFSET) + by;
    v->msr.tsc_adjust += by;
    v->hv->set(v, HV_TSC_OFFSET, offset);
    lapic_set_tsc_offset(&v->lapic, __rdtsc(), offset);
}

static bool write_efer(struct vmm *v, uint64_t value)
{
    int r[4];
    uint64_t old = v->hv->get(v, HV_EFER), valid = EFER_SCE | EFER_LME | EFER_LMA;
    __cpuidex(r, (int)0x80000001, 0);
    valid |= r[3] & 1 << 20 ? EFER_NXE : 0;
    valid |= !v->intel && (r[3] & 1 << 25) ? UINT64_C(1) << 14 : 0; /* FFXSR */
    __cpuidex(r, (int)0x80000021, 0);
    valid |= !v->intel && (r[0] & 1 << 8) ? UINT64_C(1) << 21 : 0; /* AutoIBRS */
    if ((value & ~valid) || ((value ^ old) & EFER_LME && (v->hv->get(v, HV_CR0) & CR0_PG))) {
        return false;
    }
    v->hv->set(v, HV_EFER, (value & ~EFER_LMA) | (old & EFER_LMA));
    return true;
}

static bool write_msr(struct vmm *v, uint32_t msr, uint64_t value)
{
    uint64_t *m = mtrr(v, msr);
    int r[4];
    if (m) {
        if (!mtrr_valid(v, msr, value)) {
            return false;
        }
        *m = value;
        return true;
    }
    if (is_apic_msr(msr)) {
        return lapic_write_msr(&v->lapic, __rdtsc(), msr, value);
    }
    switch (msr) {
    case MSR_TSC: move_tsc(v, value - __rdtsc() - v->hv->get(v, HV_TSC_OFFSET)); return true;
    case MSR_TSC_ADJUST: move_tsc(v, value - v->msr.tsc_adjust); return true;
    case MSR_EFER: return write_efer(v, value);
    case MSR_PAT:
        for (unsigned i = 0; i < 8; i++) {
            uint8_t t = value >> (i * 8) & 0xff;
            if (!is_memory_type(t) && t != 7) {
                return false;
            }
        }
        v->hv->set(v, HV_PAT, value);
        return true;
    case MSR_DEBUGCTL:
        if (value & ~UINT64_C(3)) {
            return false;
        }
        v->hv->set(v, HV_DEBUGCTL, value);
        return true;
    case MSR_MCG_STATUS: v->msr.mcg_status = value; return true;
    case MSR_UCODE_REV: return true; /* reading the revision begins with a write of 0 */
    case MSR_SPEC_CTRL: v->msr.spec_ctrl = value; return true;
    case MSR_XSS:
        __cpuidex(r, 0xd, 1);
        if (!(r[0] & 1 << 3) || (value & ~((uint64_t)(unsigned)r[3] << 32 | (unsigned)r[2]))) {
            return false;
        }
        __writemsr(MSR_XSS, value);
        return true;
    }
    if (v->intel) {
        if (msr == MSR_MISC_ENABLE) {
            v->msr.misc_enable = value;
            return true;
        }
        return false;
    }
    switch (msr) {
    case MSR_SYSCFG: v->msr.syscfg = value; return true;
    case MSR_HWCR: v->msr.hwcr = value; return true;
    case MSR_DE_CFG: v->msr.de_cfg = value; return true;
    case MSR_NB_CFG: v->msr.nb_cfg = value; return true;
    case MSR_INT_PENDING: return true;
    }
    return false;
}

bool exit_rdmsr(struct vmm *v)
{
    uint64_t value;
    if (v->hv->cpl(v) || !read_msr(v, (uint32_t)v->regs.rcx, &value)) {
        vmm_queue_exception(v, VECTOR_GP, true, 0);
        return false;
    }
    v->regs.rax = (uint32_t)value;
    v->regs.rdx = value >> 32;
    return true;
}

bool exit_wrmsr(struct vmm *v)
{
    uint64_t value = v->regs.rdx << 32 | (uint32_t)v->regs.rax;
    if (v->hv->cpl(v) || !write_msr(v, (uint32_t)v->regs.rcx, value)) {
        vmm_queue_exception(v, VECTOR_GP, true, 0);
        return false;
    }
    return true;
}

/* ---- control registers ---------------------------------------------------------------------------------------- */

/* MOV to CR0 as the guest sees it (SDM "MOV: Move to/from Control Registers"). What hardware then really has is hv's
 * matter. */
static bool write_cr0(struct vmm *v, uint64_t value)
{
    uint64_t old = v->hv->get(v, HV_CR0), efer = v->hv->get(v, HV_EFER), cr4 = v->hv->get(v, HV_CR4);
    struct hv_segment cs;
    value |= CR0_ET;
    if (value >> 32 || ((value & CR0_PG) && !(value & CR0_PE)) || ((value & CR0_NW) && !(value & CR0_CD))) {
        return false;
    }
    if (!(old & CR0_PG) && (value & CR0_PG) && (efer & EFER_LME)) {
        v->hv->get_seg(v, HV_CS, &cs);
        if (!(cr4 & CR4_PAE) || (cs.ar & 0x2000)) {
            return false;
        }
        v->hv->set(v, HV_EFER, efer | EFER_LMA);
    } else if ((old & CR0_PG) && !(value & CR0_PG) && (efer & EFER_LMA)) {
        v->hv->get_seg(v, HV_CS, &cs);
        if (cs.ar & 0x2000) {
            return false;
        }
        v->hv->set(v, HV_EFER, efer & ~EFER_LMA);
    }
    v->hv->set(v, HV_CR0, value);
    if ((old ^ value) & (CR0_PG | CR0_WP | CR0_PE)) {
        v->hv->flush(v);
    }
    return true;
}

static bool write_cr4(struct vmm *v, uint64_t value)
{
    int r1[4], r7[4];
    uint64_t old = v->hv->get(v, HV_CR4), efer = v->hv->get(v, HV_EFER);
    __cpuidex(r1, 1, 0);
    __cpuidex(r7, 7, 0);
    uint64_t valid = 0x5ff | 1 << 9 | 1 << 10;
    valid |= r1[2] & 1 << 17 ? UINT64_C(1) << 17 : 0; /* PCIDE */
    valid |= r1[2] & 1 << 26 ? CR4_OSXSAVE : 0;
    valid |= r7[1] & 1 << 0 ? UINT64_C(1) << 16 : 0; /* FSGSBASE */
    valid |= r7[1] & 1 << 7 ? UINT64_C(1) << 20 : 0; /* SMEP */
    valid |= r7[1] & 1 << 20 ? CR4_SMAP : 0;
    valid |= r7[2] & 1 << 2 ? UINT64_C(1) << 11 : 0; /* UMIP */
    valid |= r7[2] & 1 << 3 ? CR4_PKE : 0;
    valid |= r7[2] & 1 << 16 ? CR4_LA57 : 0;
    bool lma = efer & EFER_LMA;
    if ((value & ~valid) || (lma && !(value & CR4_PAE)) || (lma && ((value ^ old) & CR4_LA57)) ||
        ((value & UINT64_C(1) << 17) && !lma)) {
        return false;
    }
    v->hv->set(v, HV_CR4, value);
    v->hv->flush(v);
    return true;
}

bool exit_cr(struct vmm *v, const struct exit *e)
{
    uint64_t *gpr = &v->regs.reg[e->cr.gpr & 15], cr0 = v->hv->get(v, HV_CR0);
    uint64_t value = vmm_code_bits(v) == 64 ? *gpr : (uint32_t)*gpr;
    bool ok = true;
    switch (e->cr.op) {
    case CR_CLTS: v->hv->set(v, HV_CR0, cr0 & ~CR0_TS); break;
    case CR_LMSW: /* sets PE, never clears it */ ok = write_cr0(v, (cr0 & ~UINT64_C(0xe)) | (e->cr.lmsw & 0xf)); break;
    case CR_MOV_FROM:
        switch (e->cr.cr) {
        case 0: *gpr = cr0; break;
        case 3: *gpr = v->hv->get(v, HV_CR3); break;
        case 4: *gpr = v->hv->get(v, HV_CR4); break;
        case 8: *gpr = lapic_get_tpr(&v->lapic); break;
        default: ok = false; break;
        }
        break;
    default:
        switch (e->cr.cr) {
        case 0: ok = write_cr0(v, value); break;
        case 3:
            v->hv->set(v, HV_CR3, value & ~(UINT64_C(1) << 63));
            v->hv->flush(v);
            break;
        case 4: ok = write_cr4(v, value); break;
        case 8:
            ok = !(value & ~UINT64_C(15));
            if (ok) {
                lapic_set_tpr(&v->lapic, (uint8_t)value);
            }
            break;
        default: ok = false; break;
        }
        break;
    }
    if (!ok) {
        vmm_queue_exception(v, VECTOR_GP, true, 0);
    }
    return ok;
}

/* ---- port I/O ------------------------------------------------------------------------------------------------- */

static uint64_t masked(uint64_t value, unsigned addr_size)
{
    return addr_size == 8 ? value : value & device_ones(addr_size);
}

static void advance(uint64_t *reg, unsigned addr_size, int64_t by)
{
    uint64_t sum = *reg + (uint64_t)by;
    switch (addr_size) {
    case 8: *reg = sum; break;
    case 4: *reg = (uint32_t)sum; break;
    default: *reg = (*reg & ~UINT64_C(0xffff)) | (sum & 0xffff); break;
    }
}

/* INS and OUTS: a page's worth in an exit; the instruction is re-entered for the rest. */
static void string_io(struct vmm *v, const struct exit *e)
{
    unsigned as = e->io.addr_size, size = e->io.size;
    uint64_t *index = e->io.in ? &v->regs.rdi : &v->regs.rsi;
    int64_t step = v->hv->get(v, HV_RFLAGS) & UINT64_C(0x400) ? -(int64_t)size : size;
    struct hv_segment seg;
    struct event fault;
    v->hv->get_seg(v, e->io.in ? HV_ES : e->io.seg, &seg);
    bool flat = vmm_code_bits(v) == 64 && e->io.seg != HV_FS && e->io.seg != HV_GS;
    uint64_t base = flat || (vmm_code_bits(v) == 64 && e->io.in) ? 0 : seg.base;
    for (unsigned n = 0; n < VMM_PAGE / size; n++) {
        if (e->io.rep && !masked(v->regs.rcx, as)) {
            break;
        }
        uint64_t la = base + masked(*index, as);
        uint32_t word = 0;
        if (e->io.in) {
            uint64_t gpa; /* a fault must come before the device is read */
            if (!mem_walk(v, la, ACCESS_WRITE, v->hv->cpl(v), &gpa, &fault)) {
                vmm_queue_exception(v, fault.vector, fault.has_error, fault.error);
                return;
            }
            word = machine_port_in(v, e->io.port, size);
            if (!mem_write_linear(v, la, &word, size, &fault)) {
                vmm_queue_exception(v, fault.vector, fault.has_error, fault.error);
                return;
            }
        } else {
            if (!mem_read_linear(v, la, &word, size, ACCESS_READ, &fault)) {
                vmm_queue_exception(v, fault.vector, fault.has_error, fault.error);
                return;
            }
            machine_port_out(v, e->io.port, size, word);
        }
        advance(index, as, step);
        if (!e->io.rep) {
            vmm_skip(v, e);
            return;
        }
        advance(&v->regs.rcx, as, -1);
    }
    if (!masked(v->regs.rcx, as)) {
        vmm_skip(v, e);
    }
}

void exit_io(struct vmm *v, const struct exit *e)
{
    if (e->io.string) {
        string_io(v, e);
        return;
    }
    if (e->io.in) {
        uint32_t value = machine_port_in(v, e->io.port, e->io.size);
        uint64_t keep = e->io.size == 4 ? 0 : v->regs.rax & ~device_ones(e->io.size);
        v->regs.rax = keep | value;
    } else {
        machine_port_out(v, e->io.port, e->io.size, (uint32_t)(v->regs.rax & device_ones(e->io.size)));
    }
    vmm_skip(v, e);
}
