/* SPDX-License-Identifier: MIT
 *
 * check_words.c: what check.c finds, in words; and the capabilities of the processor that this runs on.
 *
 * Freestanding like check.c.
 */
#include "src/base/words.h"
#include "src/svm/check.h"

/* --- names -------------------------------------------------------------------------------------------------------- */

static const struct {
    uint16_t offset;
    bool seg;
    const char *name;
} fields[] = {
#define IS_SEG_u8                               false
#define IS_SEG_u16                              false
#define IS_SEG_u32                              false
#define IS_SEG_u64                              false
#define IS_SEG_insn15                           false
#define IS_SEG_seg                              true
#define VMCB_CONTROL(offset, type, name, group) {offset, IS_SEG_##type, "control." #name},
#define VMCB_CONTROL_GAP(offset, bytes)
#define VMCB_SAVE(offset, type, name, group) {0x400 + (offset), IS_SEG_##type, "save." #name},
#define VMCB_SAVE_GAP(offset, bytes)
#include <vmenter/arch/vmcb.def>
};

/* The members of segments, with names of their own. */
static const struct {
    uint16_t offset;
    const char *name;
} members[] = {
#define MEMBERS_u8(offset, name)
#define MEMBERS_u16(offset, name)
#define MEMBERS_u32(offset, name)
#define MEMBERS_u64(offset, name)
#define MEMBERS_insn15(offset, name)
#define MEMBERS_seg(offset, name)                                                                                      \
    {(offset) + offsetof(struct vmcb_seg, sel), "save." #name ".sel"},                                                 \
        {(offset) + offsetof(struct vmcb_seg, attrib), "save." #name ".attrib"},                                       \
        {(offset) + offsetof(struct vmcb_seg, limit), "save." #name ".limit"},                                         \
        {(offset) + offsetof(struct vmcb_seg, base), "save." #name ".base"},
#define VMCB_CONTROL(offset, type, name, group)
#define VMCB_CONTROL_GAP(offset, bytes)
#define VMCB_SAVE(offset, type, name, group) MEMBERS_##type(0x400 + (offset), name)
#define VMCB_SAVE_GAP(offset, bytes)
#include <vmenter/arch/vmcb.def>
};

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

const char *vmenter_vmcb_field_name(uint32_t offset)
{
    for (size_t i = 0; i < COUNT(members); i++)
        if (members[i].offset == offset)
            return members[i].name;
    for (size_t i = 0; i < COUNT(fields); i++)
        if (fields[i].offset == offset && !fields[i].seg)
            return fields[i].name;
    return NULL;
}

static const struct {
    uint64_t code;
    const char *name;
} intercepts[] = {
#define SVM_EXIT_RANGE(first, last, name, what, info1, info2)
#define SVM_EXIT(code, name, what, info1, info2) {(uint64_t)(code), #name},
#include <vmenter/arch/svm_exit.def>
};

const char *vmenter_vmcb_bit_name(uint32_t offset, unsigned bit)
{
    enum { CR0 = 0x558, CR4 = 0x548, EFER = 0x4d0 };
    static const struct {
        uint16_t offset;
        uint8_t bit;
        const char *name;
    } names[] = {
#define CREG(reg, name, bit, feature, title) {reg, bit, #name},
#include "src/arch/creg.def"
#undef CREG
        {offsetof(struct vmcb, control.nested_ctl), 0, "NP_ENABLE"},
        {offsetof(struct vmcb, control.nested_ctl), 1, "SEV"},
        {offsetof(struct vmcb, control.nested_ctl), 2, "SEV-ES"},
        {offsetof(struct vmcb, control.nested_ctl), 3, "GMET"},
        {offsetof(struct vmcb, control.nested_ctl), 4, "supervisor shadow-stack check"},
        {offsetof(struct vmcb, control.nested_ctl), 5, "virtual transparent encryption"},
        {offsetof(struct vmcb, control.nested_ctl), 6, "read-only guest page tables"},
        {offsetof(struct vmcb, control.nested_ctl), 7, "INVLPGB"},
        {offsetof(struct vmcb, control.virt_ext), 0, "LBR"},
        {offsetof(struct vmcb, control.virt_ext), 1, "virtual VMSAVE and VMLOAD"},
        {offsetof(struct vmcb, control.virt_ext), 2, "IBS"},
        {offsetof(struct vmcb, control.virt_ext), 3, "PMC"},
        {offsetof(struct vmcb, control.vintr), 8, "V_IRQ"},
        {offsetof(struct vmcb, control.vintr), 9, "VGIF"},
        {offsetof(struct vmcb, control.vintr), 11, "V_NMI"},
        {offsetof(struct vmcb, control.vintr), 12, "V_NMI_MASK"},
        {offsetof(struct vmcb, control.vintr), 20, "V_IGN_TPR"},
        {offsetof(struct vmcb, control.vintr), 24, "V_INTR_MASKING"},
        {offsetof(struct vmcb, control.vintr), 25, "V_GIF_ENABLE"},
        {offsetof(struct vmcb, control.vintr), 26, "V_NMI_ENABLE"},
        {offsetof(struct vmcb, control.vintr), 30, "x2AVIC_ENABLE"},
        {offsetof(struct vmcb, control.vintr), 31, "AVIC_ENABLE"},
    };
    _Static_assert(offsetof(struct vmcb, save.cr0) == CR0 && offsetof(struct vmcb, save.cr4) == CR4 &&
                       offsetof(struct vmcb, save.efer) == EFER,
                   "offsets");
    for (size_t i = 0; i < COUNT(names); i++)
        if (names[i].offset == offset && names[i].bit == bit)
            return names[i].name;
    /* An intercept's exit code is its bit number from the start of the VMCB; register files and exceptions have
     * numbers. */
    if (offset < offsetof(struct vmcb, control.intercept_misc1) || offset * 8 + bit >= SVM_INTERCEPTS)
        return NULL;
    for (size_t i = 0; i < COUNT(intercepts); i++)
        if (intercepts[i].code == offset * 8 + bit)
            return intercepts[i].name;
    return NULL;
}

/* --- findings ----------------------------------------------------------------------------------------------------- */

size_t vmenter_svm_finding_text(const struct vmenter_svm_finding *e, char *buf, size_t size)
{
    struct words t = {buf, size, 0};
    words_add(&t, e->id);
    if (!e->judged) {
        const char *name = vmenter_vmcb_field_name(e->lacking);
        words_add(&t, ": not judged: ");
        switch (e->lacking) {
        case VMENTER_SVM_LACKS_MEMORY:
            words_add(&t, "memory at ");
            words_hex(&t, e->lacking_address);
            break;
        case VMENTER_SVM_LACKS_PAGING: words_add(&t, "the host's CR0.PG"); break;
        case VMENTER_SVM_LACKS_MODE: words_add(&t, "whether the host is in long mode"); break;
        default: words_add(&t, name ? name : "?");
        }
        words_add(&t, " is not known: ");
    } else {
        words_add(&t, ": ");
        words_add(&t, vmenter_vmcb_field_name(e->field[0]));
        words_add(&t, " is ");
        words_hex(&t, e->found);
        words_add(&t, ": ");
    }
    for (const char *s = e->rule; *s; s++) /* without the period at its end */
        if (*s != '.' || s[1])
            words_char(&t, *s);
    if (e->judged && e->has_nearest) {
        words_add(&t, "; nearest legal value ");
        words_hex(&t, e->nearest);
        if (e->must || e->may != ~0ull)
            words_change(&t, e->field[0], e->found, e->nearest, vmenter_vmcb_bit_name);
    }
    words_add(&t, " (APM volume 2, \"");
    words_add(&t, e->section);
    words_add(&t, "\")");
    return words_end(&t);
}

/* --- capabilities ------------------------------------------------------------------------------------------------- */

void vmenter_svm_caps_any(struct vmenter_svm_caps *caps)
{
    uint64_t bits[3] = {0, 0, 0};
    enum { CR0, CR4, EFER };
#define CREG(reg, name, bit, feature, title) bits[reg] |= 1ull << (bit);
#include "src/arch/creg.def"
#undef CREG
    *caps = (struct vmenter_svm_caps){
        .cr4_bits = bits[CR4] & ~0x1006000ull, /* but VMXE, SMXE, PKS */
        .efer_bits = bits[EFER] | 0x168000,    /* and TCE, MCOMMIT, INTWB, UAIE */
        .asids = 1u << 16,
        .physical_bits = 52,
        .long_mode = true,
        .nested_paging = true,
        .flush_by_asid = true,
        .vnmi = true,
    };
}

void vmenter_svm_caps_read(struct vmenter_svm_caps *caps,
                           void (*cpuid)(void *opaque, uint32_t leaf, uint32_t subleaf, uint32_t out[4]), void *opaque)
{
    enum { EAX, EBX, ECX, EDX };
    enum { CR0, CR4, EFER };
    enum feature {
#define FEATURE(name, leaf, subleaf, reg, bit) NUMBER_##name,
#define FEATURE_NOLEAF                         0
#include "src/arch/feature.def"
#undef FEATURE
        NUMBER_ALWAYS,
        NUMBER_COUNT
    };
    static const struct {
        uint8_t reg, bit;
        uint16_t feature;
    } bits[] = {
#define CREG(reg, name, bit, feature, title) {reg, bit, NUMBER_##feature},
#include "src/arch/creg.def"
#undef CREG
    };
    static const struct {
        uint32_t leaf;
        uint8_t subleaf, reg, bit;
    } features[] = {
#define FEATURE(name, leaf, subleaf, reg, bit) {leaf, subleaf, reg, bit},
#include "src/arch/feature.def"
#undef FEATURE
    };
    uint64_t found[3] = {0, 0, 0};
    uint32_t r[4], basic, extended;
    cpuid(opaque, 0, 0, r);
    basic = r[EAX];
    cpuid(opaque, 0x80000000, 0, r);
    extended = r[EAX];
    for (size_t i = 0; i < COUNT(bits); i++) {
        unsigned f = bits[i].feature;
        bool on = f == NUMBER_ALWAYS;
        if (f < NUMBER_ALWAYS && features[f].leaf && features[f].leaf <= (features[f].leaf >> 31 ? extended : basic)) {
            cpuid(opaque, features[f].leaf, features[f].subleaf, r);
            on = r[features[f].reg] >> features[f].bit & 1;
        }
        if (on)
            found[bits[i].reg] |= 1ull << bits[i].bit;
    }
    *caps = (struct vmenter_svm_caps){.physical_bits = 36};
    uint32_t leaf7[4] = {0}, x1[4] = {0}, x8[4] = {0}, xa[4] = {0}, x21[4] = {0};
    if (basic >= 7)
        cpuid(opaque, 7, 0, leaf7);
    if (extended >= 0x80000001)
        cpuid(opaque, 0x80000001, 0, x1);
    if (extended >= 0x80000008)
        cpuid(opaque, 0x80000008, 0, x8);
    if (extended >= 0x8000000a)
        cpuid(opaque, 0x8000000a, 0, xa);
    if (extended >= 0x80000021)
        cpuid(opaque, 0x80000021, 0, x21);
    if (leaf7[ECX] >> 7 & 1)
        found[CR4] |= 1ull << 23; /* CET, of CET_SS */
    if (!(x8[EBX] >> 20 & 1))
        found[EFER] |= 1ull << 13; /* LMSLE, of EferLmsleUnsupported */
    found[EFER] |= (uint64_t)(x1[ECX] >> 17 & 1) << 15 /* TCE */ | (uint64_t)(x8[EBX] >> 8 & 1) << 17 /* MCOMMIT */ |
                   (uint64_t)(x8[EBX] >> 13 & 1) << 18 /* INTWB */ | (uint64_t)(x21[EAX] >> 7 & 1) << 20 /* UAIE */;
    caps->cr4_bits = found[CR4];
    caps->efer_bits = found[EFER];
    caps->long_mode = x1[EDX] >> 29 & 1;
    if (x8[EAX] & 0xff)
        caps->physical_bits = (uint8_t)x8[EAX];
    caps->asids = xa[EBX];
    caps->nested_paging = xa[EDX] & SVM_CPUID_NP;
    caps->flush_by_asid = xa[EDX] & SVM_CPUID_FLUSH_ASID;
    caps->vnmi = xa[EDX] & SVM_CPUID_VNMI;
}
