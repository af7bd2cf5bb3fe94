/* SPDX-License-Identifier: MIT
 *
 * cpuid.c: what CPUID answers for a model.
 *
 * Feature bits come from feature.def's rows; this file adds the leaves that are numbers. Every logical processor is a
 * core of one package, with one thread. The core crystal clock (leaf 0x15) is the TSC's own clock, so the local APIC's
 * timer counts at that rate before its divider.
 *
 * SDM volume 2A, "CPUID"; APM volume 3, appendix "Obtaining Processor Information Via the CPUID Instruction".
 */
#include "src/arch/model.h"

enum { EAX, EBX, ECX, EDX };

static void feature_bits(const struct model *m, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
#define FEATURE(name_, leaf_, subleaf_, reg_, bit_)                                                                    \
    if (leaf == (leaf_) && subleaf == (subleaf_) && m->has[FEATURE_##name_])                                           \
        out[reg_] |= 1u << (bit_);
#include "src/arch/feature.def"
#undef FEATURE
}

static uint32_t signature(const struct model *m)
{
    unsigned family = MIN(m->family, 15), extended = m->family - family;
    return m->stepping | (m->model & 15u) << 4 | family << 8 | (m->model >> 4) << 16 | extended << 20;
}

static unsigned log2_up(uint32_t n)
{
    return n <= 1 ? 0 : 32u - (unsigned)__builtin_clz(n - 1);
}

/* Deterministic cache parameters: Intel's leaf 4 and AMD's 0x8000001D share the layout. */
static void cache_leaf(const struct model *m, const struct cpuid_state *s, uint32_t subleaf, uint32_t out[4])
{
    static const struct {
        uint8_t type, level;
        uint16_t ways;
        uint32_t kib;
    } intel[] = {{1, 1, 12, 48}, {2, 1, 8, 32}, {3, 2, 20, 1280}, {3, 3, 12, 12288}},
      amd[] = {{1, 1, 8, 32}, {2, 1, 8, 32}, {3, 2, 8, 512}, {3, 3, 16, 32768}};
    if (subleaf >= 4)
        return;
    const bool is_amd = model_is_amd(m);
    const uint32_t type = is_amd ? amd[subleaf].type : intel[subleaf].type;
    const uint32_t level = is_amd ? amd[subleaf].level : intel[subleaf].level;
    const uint32_t ways = is_amd ? amd[subleaf].ways : intel[subleaf].ways;
    const uint32_t kib = is_amd ? amd[subleaf].kib : intel[subleaf].kib;
    const uint32_t span = (1u << log2_up(s->cpus)) - 1;
    out[EAX] = type | level << 5 | 1u << 8 | (level == 3 ? span : 0) << 14;
    if (!is_amd)
        out[EAX] |= MIN(span, 63u) << 26;
    out[EBX] = 63 | (ways - 1) << 22;
    out[ECX] = kib * 1024 / 64 / ways - 1;
    out[EDX] = level == 3 && is_amd ? 1 : 0;
}

static void xsave_leaf(const struct model *m, const struct cpuid_state *s, uint32_t subleaf, uint32_t out[4])
{
    const uint64_t user = model_xcr0(m), sup = model_xss(m);
    if (!user)
        return;
    if (subleaf == 0) {
        out[EAX] = (uint32_t)user;
        out[EBX] = model_xsave_size(s->xcr0, false);
        out[ECX] = model_xsave_size(user, false);
        out[EDX] = (uint32_t)(user >> 32);
    } else if (subleaf == 1) {
        feature_bits(m, 0xd, 1, out);
        out[EBX] = m->has[FEATURE_xsavec] ? model_xsave_size(s->xcr0 | s->xss, true) : 0;
        out[ECX] = (uint32_t)sup;
        out[EDX] = (uint32_t)(sup >> 32);
    } else if (subleaf < 63 && ((user | sup) & BIT(subleaf))) {
        model_xsave_component(subleaf, &out[EBX], &out[EAX]);
        out[ECX] = (sup & BIT(subleaf)) != 0;
    }
}

static void topology_leaf(const struct cpuid_state *s, uint32_t subleaf, uint32_t out[4])
{
    out[ECX] = subleaf & 0xff;
    out[EDX] = s->apic_id;
    if (subleaf == 0) {
        out[EAX] = 0;
        out[EBX] = 1;
        out[ECX] |= 1 << 8; /* SMT */
    } else if (subleaf == 1) {
        out[EAX] = log2_up(s->cpus);
        out[EBX] = s->cpus;
        out[ECX] |= 2 << 8; /* core */
    }
}

void model_cpuid(const struct model *m, const struct cpuid_state *s, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    static const char vendors[2][13] = {"GenuineIntel", "AuthenticAMD"};
    const bool amd = model_is_amd(m);
    const char *vendor = vendors[amd];
    const uint32_t max_basic = s->limit_leaves ? MIN(m->max_basic, 2u) : m->max_basic;

    memset(out, 0, 4 * sizeof *out);
    if (leaf >= 0x80000000 ? leaf > m->max_extended || leaf < 0x80000000 : leaf > max_basic) {
        /* Past the end Intel answers with the highest basic leaf, AMD with zeros. */
        if (amd)
            return;
        leaf = max_basic;
    }
    switch (leaf) {
    case 0:
        out[EAX] = max_basic;
        memcpy(&out[EBX], vendor, 4);
        memcpy(&out[EDX], vendor + 4, 4);
        memcpy(&out[ECX], vendor + 8, 4);
        return;
    case 1:
        feature_bits(m, 1, 0, out);
        out[EAX] = signature(m);
        out[EBX] = 8 << 8 | (s->cpus > 1 ? MIN(1u << log2_up(s->cpus), 255u) : 1u) << 16 | s->apic_id << 24;
        if (s->cpus > 1)
            out[EDX] |= 1u << 28;
        if (!s->apic_enabled)
            out[EDX] &= ~(1u << 9);
        if (!s->monitor_enabled)
            out[ECX] &= ~(1u << 3);
        if (s->cr4 & BIT(18))
            out[ECX] |= 1u << 27; /* OSXSAVE */
        return;
    case 2:
        if (!amd) {
            out[EAX] = 0x00feff01; /* TLBs: leaf 0x18; caches: leaf 4; 64-byte prefetch */
            out[EBX] = 0xf0;
        }
        return;
    case 4:
        if (!amd)
            cache_leaf(m, s, subleaf, out);
        return;
    case 5:
        if (m->has[FEATURE_monitor]) {
            out[EAX] = out[EBX] = 64;
            out[ECX] = 3;
            out[EDX] = 0x10;
        }
        return;
    case 6:
        feature_bits(m, 6, 0, out);
        if (amd)
            out[ECX] = 0;
        return;
    case 7:
        feature_bits(m, 7, subleaf, out);
        if (subleaf == 0) {
            if (!amd && m->max_basic >= 0x1f)
                out[EAX] = 2;
            if (m->has[FEATURE_pku] && (s->cr4 & BIT(22)))
                out[ECX] |= 1u << 4; /* OSPKE */
        }
        return;
    case 0xb:
    case 0x1f:
        if (amd && leaf == 0x1f)
            return;
        if (leaf == 0xb && !m->has[FEATURE_x2apic] && m->max_basic > 0xb)
            return;
        topology_leaf(s, subleaf, out);
        return;
    case 0xd: xsave_leaf(m, s, subleaf, out); return;
    case 0x15:
        if (!amd) {
            out[EAX] = out[EBX] = 1;
            out[ECX] = (uint32_t)MIN(s->tsc_hz, (uint64_t)UINT32_MAX);
        }
        return;
    case 0x16:
        if (!amd) {
            out[EAX] = out[EBX] = (uint16_t)(s->tsc_hz / 1000000);
            out[ECX] = 100;
        }
        return;
    case 0x80000000:
        out[EAX] = m->max_extended;
        if (amd) {
            memcpy(&out[EBX], vendor, 4);
            memcpy(&out[EDX], vendor + 4, 4);
            memcpy(&out[ECX], vendor + 8, 4);
        }
        return;
    case 0x80000001:
        feature_bits(m, leaf, 0, out);
        if (amd) {
            uint32_t basic[4] = {0};
            feature_bits(m, 1, 0, basic);
            if (!s->apic_enabled)
                basic[EDX] &= ~(1u << 9);
            out[EAX] = signature(m);
            out[EDX] |= basic[EDX] & 0x0183f3ff;
            if (s->cpus > 1)
                out[ECX] |= 1u << 1; /* CmpLegacy */
        } else if (!s->mode64) {
            out[EDX] &= ~(1u << 11);
        }
        if (s->nx_disabled)
            out[EDX] &= ~(1u << 20);
        return;
    case 0x80000002:
    case 0x80000003:
    case 0x80000004: {
        char brand[48] = {0};
        memcpy(brand, m->brand, MIN(strlen(m->brand), sizeof brand));
        memcpy(out, brand + (leaf - 0x80000002) * 16, 16);
        return;
    }
    case 0x80000005:
        if (amd) {
            out[EAX] = out[EBX] = 0xff40ff40;
            out[ECX] = out[EDX] = 0x20080140; /* 32 KiB, 8 ways, 64-byte lines */
        }
        return;
    case 0x80000006:
        if (amd) {
            out[EAX] = out[EBX] = 0x68006400;
            out[ECX] = 0x02006140; /* 512 KiB, 8 ways */
            out[EDX] = 64u << 18 | 9u << 12 | 1u << 8 | 0x40;
        } else {
            out[ECX] = 0x05007040; /* 1280 KiB */
        }
        return;
    case 0x80000007: feature_bits(m, leaf, 0, out); return;
    case 0x80000008:
        feature_bits(m, leaf, 0, out);
        out[EAX] = m->maxphyaddr | (m->has[FEATURE_la57] ? 57u : 48u) << 8;
        if (amd)
            out[ECX] = (s->cpus - 1) | log2_up(s->cpus) << 12;
        return;
    case 0x8000000a:
        if (m->has[FEATURE_svm]) {
            feature_bits(m, leaf, 0, out);
            out[EAX] = 1;
            out[EBX] = m->svm_asids;
        }
        return;
    case 0x80000019:
        if (amd)
            out[EAX] = out[EBX] = 0xf040f040; /* 1-GiB pages */
        return;
    case 0x8000001a:
        if (amd)
            out[EAX] = 3; /* 128-bit units, MOVU is as good as MOVA */
        return;
    case 0x8000001d:
        if (amd && m->has[FEATURE_topoext])
            cache_leaf(m, s, subleaf, out);
        return;
    case 0x8000001e:
        if (amd && m->has[FEATURE_topoext]) {
            out[EAX] = s->apic_id;
            out[EBX] = s->apic_id & 0xff;
        }
        return;
    case 0x80000021: feature_bits(m, leaf, 0, out); return;
    }
}
