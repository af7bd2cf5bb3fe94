/* SPDX-License-Identifier: MIT
 *
 * model.h: processor models: who made it, what it has (feature.def), what CPUID and the model-specific registers say.
 *
 * A model is a value: the table of model.def is constant, and model_parse() makes a changed copy. Whoever runs on a
 * model keeps it alive and unchanged.
 */
#ifndef ARCH_MODEL_H
#define ARCH_MODEL_H

#include "src/base/base.h"

#define FEATURE_NOLEAF 0xffffffffu

enum feature {
    FEATURE_ALWAYS,
#define FEATURE(name, leaf, subleaf, reg, bit) FEATURE_##name,
#include "src/arch/feature.def"
#undef FEATURE
    FEATURE_COUNT
};

enum vendor { VENDOR_INTEL, VENDOR_AMD };

/* Which table of capability values src/vmx and src/svm use; the features above it in feature.def (ept, vpid, npt, ...)
 * then say which of its optional parts the model has. */
enum vmx_profile { VMX_PROFILE_NONE, VMX_PROFILE_PENRYN, VMX_PROFILE_NEHALEM, VMX_PROFILE_SERVER, VMX_PROFILE_MAX };
enum svm_profile { SVM_PROFILE_NONE, SVM_PROFILE_MILAN, SVM_PROFILE_MAX };

struct model {
    char name[32];
    char description[96];
    enum vendor vendor;
    uint16_t family, model, stepping; /* as displayed: extended parts added */
    char brand[49];                   /* CPUID 0x80000002-4 */
    bool has[FEATURE_COUNT];          /* has[FEATURE_ALWAYS] is true */
    uint8_t maxphyaddr;               /* bits */
    uint8_t mtrr_count, mc_banks;     /* variable-range MTRR pairs; machine-check banks */
    uint8_t pmc_count;                /* general performance counters: 0, there is no PMU */
    uint32_t microcode;
    uint32_t svm_asids; /* AMD: number of ASIDs */
    enum vmx_profile vmx;
    enum svm_profile svm;
    uint32_t max_basic, max_extended; /* highest CPUID leaves */
};

INLINE bool model_has(const struct model *m, enum feature f)
{
    return m->has[f];
}
INLINE bool model_is_amd(const struct model *m)
{
    return m->vendor == VENDOR_AMD;
}

/* The models in the order of their age; NULL past the end. */
const struct model *model_get(unsigned index);
const struct model *model_find(const char *name);
/* "NAME[,+feature,-feature...]" into *out. False: `error` (may be NULL) holds one line that names what is wrong and the
 * remedy. A feature that another one needs brings it along; what needs a feature that is taken away goes too. */
bool model_parse(struct model *out, const char *spec, char *error, size_t error_size);

const char *feature_name(enum feature f);
/* By name or by Linux's name for it; FEATURE_COUNT: unknown. */
enum feature feature_find(const char *name, size_t len);

/* The bits of XCR0 and IA32_XSS that the model supports. */
uint64_t model_xcr0(const struct model *m);
uint64_t model_xss(const struct model *m);
/* The bits of CR0, CR4 and EFER that exist on the model. */
uint64_t model_cr4_bits(const struct model *m);
uint64_t model_efer_bits(const struct model *m);

#define XSTATE_X87  BIT(0)
#define XSTATE_SSE  BIT(1)
#define XSTATE_YMM  BIT(2)
#define XSTATE_PKRU BIT(9)
/* Offset and size in bytes of an XSAVE component in the standard format; size 0: there is none. */
void model_xsave_component(unsigned i, uint32_t *offset, uint32_t *size);
/* Size of the XSAVE area for a mask of components, standard or compacted format. */
uint32_t model_xsave_size(uint64_t mask, bool compacted);

/* What CPUID answers, but for what depends on the processor's state: OSXSAVE, OSPKE, APIC ids, XSAVE sizes in force. */
struct cpuid_state {
    uint64_t cr4, xcr0, xss;
    uint64_t tsc_hz;
    uint32_t apic_id, cpus;
    bool apic_enabled;
    bool mode64;                                     /* Intel shows SYSCALL in 64-bit mode alone */
    bool monitor_enabled, nx_disabled, limit_leaves; /* IA32_MISC_ENABLE */
};
void model_cpuid(const struct model *m, const struct cpuid_state *s, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);

#endif
