/* SPDX-License-Identifier: MIT
 *
 * cap.c: what VMX a processor model has, as the capability MSRs say it, and names of the public tables.
 *
 * SDM volume 3D, appendix "VMX Capability Reporting Facility". Everything derives from vmx_ctl.def, the model's profile
 * and features.
 */
#include "src/vmx/vmx_int.h"

#include <stdio.h>

#define VMX_ERROR_MAX 256 /* bytes, of a caller's message */

/* Columns `since` of vmx_ctl.def that no profile reaches. */
enum { VMX_PROFILE_NEVER = 1000, VMX_PROFILE_NYI = 1000 };

static void allow(struct vmx_caps *caps, const struct model *m)
{
    struct vmx_allowed *plain_PIN = &caps->plain_pin, *plain_PROC = &caps->plain_proc, *plain_EXIT = &caps->plain_exit,
                       *plain_ENTRY = &caps->plain_entry, *plain_PROC2 = &caps->proc2, *plain_PROC3 = &caps->proc3,
                       *plain_EXIT2 = &caps->exit2, *plain_VMFUNC = &caps->vmfunc;
    struct vmx_allowed none = {0};
    struct vmx_allowed *PIN = &caps->pin, *PROC = &caps->proc, *EXIT = &caps->exit, *ENTRY = &caps->entry,
                       *PROC2 = &none, *PROC3 = &none, *EXIT2 = &none, *VMFUNC = &none;
    enum { OPT, DEF1 };

#define VMX_DEFAULT1(word, mask)                                                                                       \
    plain_##word->must |= mask, plain_##word->may |= mask, word->must |= mask, word->may |= mask;
#define VMX_CTL(word, bit, name, class, since, feature, text)                                                          \
    if ((unsigned)m->vmx >= (unsigned)VMX_PROFILE_##since && model_has(m, FEATURE_##feature)) {                        \
        plain_##word->may |= BIT(bit);                                                                                 \
        word->may |= BIT(bit);                                                                                         \
        if (class == DEF1)                                                                                             \
            word->must &= ~BIT(bit);                                                                                   \
    }
#include <vmenter/arch/vmx_ctl.def>
#undef VMX_CTL

    if (!model_has(m, FEATURE_true_ctls)) {
        caps->pin = caps->plain_pin;
        caps->proc = caps->plain_proc;
        caps->exit = caps->plain_exit;
        caps->entry = caps->plain_entry;
    }
    if (!caps->proc2.may)
        caps->proc.may &= ~BIT(31), caps->plain_proc.may &= ~BIT(31);
    if (!caps->proc3.may)
        caps->proc.may &= ~BIT(17), caps->plain_proc.may &= ~BIT(17);
    if (!caps->exit2.may)
        caps->exit.may &= ~BIT(31), caps->plain_exit.may &= ~BIT(31);
}

static void find_fields(struct vmx_caps *caps)
{
    const struct vmx_allowed none = {0};
    const struct vmx_allowed *PIN = &caps->pin, *PROC = &caps->proc, *EXIT = &caps->exit, *ENTRY = &caps->entry,
                             *PROC2 = &caps->proc2, *PROC3 = &caps->proc3, *EXIT2 = &caps->exit2,
                             *VMFUNC = &caps->vmfunc, *NOWORD = &none;
    enum { VMX_NOWORD_SEAM = 1 };
    unsigned highest = 0;
#define ALWAYS                      true
#define WITH(word, name)            (word->may & (uint32_t)VMX_##word##_##name) != 0
#define WITH2(w1, name1, w2, name2) (WITH(w1, name1)) || (WITH(w2, name2))
#define VMCS(name_, encoding_, when_, group_, text_)                                                                   \
    caps->field[F_##name_] = when_;                                                                                    \
    if (caps->field[F_##name_])                                                                                        \
        highest = MAX(highest, (unsigned)VMCS_FIELD_INDEX(encoding_));
#include <vmenter/arch/vmcs.def>
#undef VMCS
#undef WITH2
#undef WITH
#undef ALWAYS
    caps->vmcs_enum = highest << 1;
}

void vmx_caps_init(struct vmx_caps *caps, const struct model *m)
{
    memset(caps, 0, sizeof *caps);
    if (!model_has(m, FEATURE_vmx))
        return;
    allow(caps, m);
    find_fields(caps);
    caps->maxphyaddr = m->maxphyaddr;
    caps->linear_width = model_has(m, FEATURE_la57) ? 57 : 48;
    caps->efer_bits = model_efer_bits(m);
    caps->debugctl_bits = BIT(0) | BIT(1); /* LBR, BTF; there are no performance counters and no debug store */
    caps->perf_global_bits = mask_low(m->pmc_count);
    caps->pending_debug_bits = 0xf | VMX_PENDING_DBG_ENABLED_BREAKPOINT | VMX_PENDING_DBG_BS;
    bool nehalem = m->vmx >= VMX_PROFILE_NEHALEM, server = m->vmx >= VMX_PROFILE_SERVER;

    caps->basic = VMCS_REVISION | 4096ull << 32 | 6ull << 50 | (nehalem ? VMX_BASIC_INS_OUTS_INFO : 0) |
                  (model_has(m, FEATURE_true_ctls) ? VMX_BASIC_TRUE_CONTROLS : 0) |
                  (model_has(m, FEATURE_any_error_code) ? VMX_BASIC_ANY_ERROR_CODE : 0);
    caps->misc = 5 | VMX_MISC_ACTIVITY_HLT | VMX_MISC_ACTIVITY_SHUTDOWN | VMX_MISC_ACTIVITY_WAIT_SIPI | 4ull << 16 |
                 (caps->proc2.may & VMX_PROC2_UNRESTRICTED_GUEST ? VMX_MISC_SAVE_EFER_LMA : 0) |
                 (server ? VMX_MISC_VMWRITE_ANY_FIELD | VMX_MISC_INJECT_LENGTH_0 : 0);
    if (caps->proc2.may & VMX_PROC2_ENABLE_EPT)
        caps->ept_vpid |= VMX_EPT_CAP_WALK_4 | VMX_EPT_CAP_UC | VMX_EPT_CAP_WB | VMX_EPT_CAP_2M | VMX_EPT_CAP_INVEPT |
                          VMX_EPT_CAP_INVEPT_SINGLE | VMX_EPT_CAP_INVEPT_ALL |
                          (model_has(m, FEATURE_ept_x_only) ? VMX_EPT_CAP_EXECUTE_ONLY : 0) |
                          (model_has(m, FEATURE_ept_5level) ? VMX_EPT_CAP_WALK_5 : 0) |
                          (model_has(m, FEATURE_ept_1gb) ? VMX_EPT_CAP_1G : 0) |
                          (model_has(m, FEATURE_ept_ad) ? VMX_EPT_CAP_ACCESSED_DIRTY : 0) |
                          (server ? VMX_EPT_CAP_ADVANCED_EXIT_INFO : 0);
    if (caps->proc3.may & VMX_PROC3_ENABLE_HLAT)
        caps->ept_vpid |= 52ull << 48; /* the largest HLAT prefix size */
    if (caps->proc2.may & VMX_PROC2_ENABLE_VPID)
        caps->ept_vpid |= VMX_VPID_CAP_INVVPID | VMX_VPID_CAP_INVVPID_ADDRESS | VMX_VPID_CAP_INVVPID_SINGLE |
                          VMX_VPID_CAP_INVVPID_ALL | VMX_VPID_CAP_INVVPID_RETAIN_GLOBALS;
    caps->cr0_fixed0 = CR0_PE | CR0_NE | CR0_PG;
    caps->cr0_fixed1 = 0xffffffff;
    caps->cr4_fixed0 = CR4_VMXE;
    caps->cr4_fixed1 = model_cr4_bits(m);
}

static uint64_t pair(struct vmx_allowed a)
{
    return (uint32_t)a.must | a.may << 32;
}

bool vmx_caps_msr(const struct vmx_caps *caps, uint32_t msr, uint64_t *v)
{
    bool true_ctls = caps->basic & VMX_BASIC_TRUE_CONTROLS;
    switch (msr) {
    case VMX_MSR_BASIC: *v = caps->basic; return true;
    case VMX_MSR_PINBASED_CTLS: *v = pair(caps->plain_pin); return true;
    case VMX_MSR_PROCBASED_CTLS: *v = pair(caps->plain_proc); return true;
    case VMX_MSR_EXIT_CTLS: *v = pair(caps->plain_exit); return true;
    case VMX_MSR_ENTRY_CTLS: *v = pair(caps->plain_entry); return true;
    case VMX_MSR_MISC: *v = caps->misc; return true;
    case VMX_MSR_CR0_FIXED0: *v = caps->cr0_fixed0; return true;
    case VMX_MSR_CR0_FIXED1: *v = caps->cr0_fixed1; return true;
    case VMX_MSR_CR4_FIXED0: *v = caps->cr4_fixed0; return true;
    case VMX_MSR_CR4_FIXED1: *v = caps->cr4_fixed1; return true;
    case VMX_MSR_VMCS_ENUM: *v = caps->vmcs_enum; return true;
    case VMX_MSR_PROCBASED_CTLS2: *v = pair(caps->proc2); return caps->proc2.may != 0;
    case VMX_MSR_EPT_VPID_CAP: *v = caps->ept_vpid; return caps->ept_vpid != 0;
    case VMX_MSR_TRUE_PINBASED_CTLS: *v = pair(caps->pin); return true_ctls;
    case VMX_MSR_TRUE_PROCBASED_CTLS: *v = pair(caps->proc); return true_ctls;
    case VMX_MSR_TRUE_EXIT_CTLS: *v = pair(caps->exit); return true_ctls;
    case VMX_MSR_TRUE_ENTRY_CTLS: *v = pair(caps->entry); return true_ctls;
    case VMX_MSR_VMFUNC: *v = caps->vmfunc.may; return caps->vmfunc.may != 0;
    case VMX_MSR_PROCBASED_CTLS3: *v = caps->proc3.may; return caps->proc3.may != 0;
    case VMX_MSR_EXIT_CTLS2: *v = caps->exit2.may; return caps->exit2.may != 0;
    }
    return false;
}

void vmx_caps_publish(const struct vmx_caps *caps, struct vmenter_vmx_caps *to)
{
    *to = (struct vmenter_vmx_caps){
        .efer_bits = caps->efer_bits,
        .debugctl_bits = caps->debugctl_bits,
        .perf_global_bits = caps->perf_global_bits,
        .rtit_ctl_bits = caps->rtit_ctl_bits,
        .lbr_ctl_bits = caps->lbr_ctl_bits,
        .pending_debug_bits = caps->pending_debug_bits,
        .sgx = caps->sgx,
        .physical_bits = caps->maxphyaddr,
        .linear_bits = caps->linear_width,
    };
    for (uint32_t msr = VMX_MSR_BASIC; msr <= VMX_MSR_EXIT_CTLS2; msr++)
        if (!vmx_caps_msr(caps, msr, &to->msr[msr - VMX_MSR_BASIC]))
            to->msr[msr - VMX_MSR_BASIC] = 0;
}

bool vmenter_vmx_caps_of_model(struct vmenter_vmx_caps *to, const char *name, char *error)
{
    struct model m;
    struct vmx_caps caps;
    if (!model_parse(&m, name, error, error ? VMX_ERROR_MAX : 0))
        return false;
    if (!model_has(&m, FEATURE_vmx)) {
        if (error)
            snprintf(error, VMX_ERROR_MAX, "%s has no VMX", m.name);
        return false;
    }
    vmx_caps_init(&caps, &m);
    vmx_caps_publish(&caps, to);
    return true;
}

const char *vmenter_vmx_reason_name(uint32_t basic_reason)
{
    switch (basic_reason) {
#define VMX_EXIT(number, name, valid, text)                                                                            \
    case number:                                                                                                       \
        return text;
#include <vmenter/arch/vmx_exit.def>
#undef VMX_EXIT
    }
    return "?";
}

const char *vmenter_vmx_error_text(uint32_t error)
{
    switch (error) {
#define VMX_ERR(number, name, text)                                                                                    \
    case number:                                                                                                       \
        return text;
#include <vmenter/arch/vmx_err.def>
#undef VMX_ERR
    }
    return "?";
}
