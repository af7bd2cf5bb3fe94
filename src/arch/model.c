/* SPDX-License-Identifier: MIT
 *
 * model.c: the table of processor models, changed copies of them, and which control-register bits a model has.
 *
 * Invariant: a model that model_parse() gives out is consistent: what a feature needs, the model has.
 */
#include "src/arch/model.h"
#include "src/arch/creg.h"

#include <stdarg.h>
#include <stdio.h>

static const struct model models[] = {
#define F(f) [FEATURE_##f] = true,
#define MODEL(name_, description_, vendor_, family_, model_, stepping_, brand_, phys_, mtrr_, banks_, microcode_,      \
              asids_, vmx_, svm_, basic_, extended_, features_)                                                        \
    {.name = name_,                                                                                                    \
     .description = description_,                                                                                      \
     .vendor = vendor_,                                                                                                \
     .family = family_,                                                                                                \
     .model = model_,                                                                                                  \
     .stepping = stepping_,                                                                                            \
     .brand = brand_,                                                                                                  \
     .has = {[FEATURE_ALWAYS] = true, features_},                                                                      \
     .maxphyaddr = phys_,                                                                                              \
     .mtrr_count = mtrr_,                                                                                              \
     .mc_banks = banks_,                                                                                               \
     .microcode = microcode_,                                                                                          \
     .svm_asids = asids_,                                                                                              \
     .vmx = vmx_,                                                                                                      \
     .svm = svm_,                                                                                                      \
     .max_basic = basic_,                                                                                              \
     .max_extended = extended_},
#include "src/arch/model.def"
#undef MODEL
#undef F
};

static const struct {
    const char *name;
    uint32_t leaf;
} feature_rows[FEATURE_COUNT] = {
    [FEATURE_ALWAYS] = {"always", 0},
#define FEATURE(name_, leaf_, subleaf_, reg_, bit_) [FEATURE_##name_] = {#name_, leaf_},
#include "src/arch/feature.def"
#undef FEATURE
};

/* Linux's names where ours differ, and names in common use. */
static const struct {
    const char *alias;
    enum feature f;
} aliases[] = {
    {"pni", FEATURE_sse3},
    {"abm", FEATURE_lzcnt},
    {"3dnowprefetch", FEATURE_prefetchw},
    {"cx8", FEATURE_cx8},
    {"ug", FEATURE_unrestricted_guest},
    {"nonstop_tsc", FEATURE_constant_tsc},
    {"flexpriority", FEATURE_tpr_shadow},
    {"vtpr", FEATURE_tpr_shadow},
    {"sse4.1", FEATURE_sse4_1},
    {"sse4.2", FEATURE_sse4_2},
    {"nrips", FEATURE_nrip_save},
    {"nripsave", FEATURE_nrip_save},
    {"tscratescale", FEATURE_tsc_scale},
    {"vmcbclean", FEATURE_vmcb_clean},
};

/* The first needs the second. In an order in which one pass forward brings along everything. */
static const struct {
    enum feature f, needs;
} needs[] = {
#define N(a, b) {FEATURE_##a, FEATURE_##b},
    N(ept_paging_write, ept) N(guest_paging_verification, ept) N(hlat, ept) N(any_error_code, vmx) N(ept_spp, ept)
        N(vmfunc, ept) N(ept_violation_ve, ept) N(pml, ept_ad) N(ept_ad, ept) N(ept_1gb, ept) N(ept_5level, ept)
            N(ept_x_only, ept) N(ept_mode_based_exec, ept) N(unrestricted_guest, ept) N(posted_intr, apicv) N(
                ipi_virt, apicv) N(apicv, tpr_shadow) N(shadow_vmcs, vmx) N(ept, vmx) N(vpid, vmx) N(tpr_shadow, vmx)
                N(virtual_nmi, vmx) N(preemption_timer, vmx) N(vmx_tsc_scaling, vmx) N(true_ctls, vmx) N(gmet, npt)
                    N(npt, svm) N(lbrv, svm) N(svm_lock, svm) N(nrip_save, svm) N(tsc_scale, svm) N(vmcb_clean, svm)
                        N(flushbyasid, svm) N(decodeassists, svm) N(pausefilter, svm) N(pfthreshold, svm) N(avic, svm)
                            N(idle_hlt, svm) N(v_vmsave_vmload, svm) N(vgif, svm) N(v_spec_ctrl, svm) N(vnmi, svm)
                                N(skinit, svm) N(sse4_2, sse4_1) N(sse4_1, ssse3) N(ssse3, sse3) N(sse4a, sse3)
                                    N(misalignsse, sse3) N(sse3, sse2) N(aes, sse2) N(pclmulqdq, sse2) N(sse2, sse)
                                        N(sse, fxsr) N(sse, mmx) N(fxsr_opt, fxsr) N(fxsr, fpu) N(mmx, fpu)
                                            N(mmxext, mmx) N(xsaves, xsavec) N(xsavec, xsave) N(xsaveopt, xsave)
                                                N(xgetbv1, xsave) N(xsaveerptr, xsave) N(pku, xsave) N(xsave, fxsr)
                                                    N(x2apic, apic) N(tsc_deadline_timer, apic) N(extapic, apic)
                                                        N(la57, lm) N(pdpe1gb, lm) N(fsgsbase, lm) N(lahf_lm, lm)
                                                            N(invpcid, pcid) N(pcid, lm) N(pks, lm) N(lm, pae)
                                                                N(nx, pae) N(lm, syscall) N(lm, msr) N(lm, nx)
                                                                    N(lm, cx8) N(lm, sse2) N(lm, pge) N(mca, mce)
                                                                        N(tsc_adjust, tsc) N(rdtscp, tsc)
                                                                            N(constant_tsc, tsc) N(bmi2, bmi1)
#undef N
};
/* What this processor does not execute yet. */
static const enum feature absent[] = {FEATURE_cr8_legacy, FEATURE_avx,   FEATURE_avx2, FEATURE_fma,
                                      FEATURE_f16c,       FEATURE_avic,  FEATURE_gfni, FEATURE_vaes,
                                      FEATURE_vpclmulqdq, FEATURE_mwaitx};

const struct model *model_get(unsigned index)
{
    return index < ARRAY_LEN(models) ? &models[index] : NULL;
}

static const struct model *find_len(const char *name, size_t len)
{
    for (unsigned i = 0; i < ARRAY_LEN(models); i++)
        if (strlen(models[i].name) == len && !memcmp(models[i].name, name, len))
            return &models[i];
    return NULL;
}

const struct model *model_find(const char *name)
{
    return find_len(name, strlen(name));
}

const char *feature_name(enum feature f)
{
    return (unsigned)f < FEATURE_COUNT ? feature_rows[f].name : "?";
}

enum feature feature_find(const char *name, size_t len)
{
    for (unsigned i = 1; i < FEATURE_COUNT; i++)
        if (strlen(feature_rows[i].name) == len && !memcmp(feature_rows[i].name, name, len))
            return (enum feature)i;
    for (unsigned i = 0; i < ARRAY_LEN(aliases); i++)
        if (strlen(aliases[i].alias) == len && !memcmp(aliases[i].alias, name, len))
            return aliases[i].f;
    return FEATURE_COUNT;
}

static bool fail(char *error, size_t size, const char *fmt, ...)
{
    if (error && size) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(error, size, fmt, ap);
        va_end(ap);
    }
    return false;
}

static void settle(struct model *m, enum feature f, bool on)
{
    m->has[f] = on;
    for (bool again = true; again;) {
        again = false;
        for (unsigned i = 0; i < ARRAY_LEN(needs); i++) {
            if (!m->has[needs[i].f] || m->has[needs[i].needs])
                continue;
            if (on)
                m->has[needs[i].needs] = true;
            else
                m->has[needs[i].f] = false;
            again = true;
        }
    }
}

bool model_parse(struct model *out, const char *spec, char *error, size_t error_size)
{
    size_t len = strcspn(spec, ",");
    const struct model *base = find_len(spec, len);
    if (!base) {
        char list[256] = "";
        for (size_t i = 0, at = 0; i < ARRAY_LEN(models) && at < sizeof list - 1; i++)
            at += (size_t)snprintf(list + at, sizeof list - at, "%s%s", i ? ", " : "", models[i].name);
        return fail(error, error_size, "unknown processor model '%.*s': choose one of %s", (int)MIN(len, (size_t)40),
                    spec, list);
    }
    *out = *base;
    const char *p = spec + len;
    while (*p == ',') {
        p++;
        len = strcspn(p, ",");
        int shown = (int)MIN(len, (size_t)40);
        if (len < 2 || (*p != '+' && *p != '-'))
            return fail(error, error_size, "'%.*s' in the processor model: write +feature or -feature", shown, p);
        enum feature f = feature_find(p + 1, len - 1);
        if (f == FEATURE_COUNT)
            return fail(error, error_size, "unknown processor feature '%.*s': names are those of /proc/cpuinfo",
                        shown - 1, p + 1);
        if (*p == '+') {
            for (unsigned i = 0; i < ARRAY_LEN(absent); i++)
                if (absent[i] == f)
                    return fail(error, error_size, "feature '%s' is not there yet: leave it out", feature_name(f));
            settle(out, f, true);
            if (out->has[FEATURE_vmx] && (model_is_amd(out) || out->vmx == VMX_PROFILE_NONE))
                return fail(error, error_size, "feature '%s' needs an Intel model, '%s' is AMD's", feature_name(f),
                            out->name);
            if (out->has[FEATURE_svm] && (!model_is_amd(out) || out->svm == SVM_PROFILE_NONE))
                return fail(error, error_size, "feature '%s' needs an AMD model, '%s' is Intel's", feature_name(f),
                            out->name);
        } else {
            settle(out, f, false);
            if (!out->has[FEATURE_fpu] || !out->has[FEATURE_lm] || !out->has[FEATURE_apic])
                return fail(error, error_size, "feature '%s' cannot be taken away: every model here has it",
                            feature_name(f));
        }
        p += len;
    }
    return true;
}

uint64_t model_xcr0(const struct model *m)
{
    if (!m->has[FEATURE_xsave])
        return 0;
    return XSTATE_X87 | XSTATE_SSE | (m->has[FEATURE_avx] ? XSTATE_YMM : 0) | (m->has[FEATURE_pku] ? XSTATE_PKRU : 0);
}

uint64_t model_xss(const struct model *m)
{
    return 0;
}

enum creg { CREG_CR0, CREG_CR4, CREG_EFER };
static uint64_t creg_bits(const struct model *m, enum creg reg)
{
    static const struct {
        enum creg reg;
        enum feature f;
        uint64_t mask;
    } rows[] = {
#define CREG(reg, name, bit, feature, title) {CREG_##reg, FEATURE_##feature, reg##_##name},
#include "src/arch/creg.def"
#undef CREG
    };
    uint64_t v = 0;
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].reg == reg && rows[i].f != FEATURE_COUNT && m->has[rows[i].f])
            v |= rows[i].mask;
    return v;
}

uint64_t model_cr4_bits(const struct model *m)
{
    return creg_bits(m, CREG_CR4);
}

uint64_t model_efer_bits(const struct model *m)
{
    uint64_t v = creg_bits(m, CREG_EFER);
    if (model_is_amd(m) && !m->has[FEATURE_efer_lmsle_unsupported])
        v |= EFER_LMSLE;
    return v;
}

void model_xsave_component(unsigned i, uint32_t *offset, uint32_t *size)
{
    *offset = *size = 0;
    switch (i) {
    case 0: *offset = 0, *size = 160; break;
    case 1: *offset = 160, *size = 256; break;
    case 2: *offset = 576, *size = 256; break;
    case 9: *offset = 2688, *size = 8; break;
    }
}

uint32_t model_xsave_size(uint64_t mask, bool compacted)
{
    uint32_t end = 576, offset, size;
    for (unsigned i = 2; i < 63; i++) {
        if (!(mask & BIT(i)))
            continue;
        model_xsave_component(i, &offset, &size);
        if (compacted)
            end += size; /* none of the components asks for 64-byte alignment */
        else
            end = MAX(end, offset + size);
    }
    return end;
}
