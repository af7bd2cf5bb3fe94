/* SPDX-License-Identifier: MIT
 *
 * cpuid.c: CPUID with what depends on the processor's state. The rest is src/arch/cpuid.c.
 */
#include "src/cpu/sys.h"

/* What MSRs C001_1002 to C001_1005 change ("Processor Programming Reference" of families 17h and 19h, "MSRC001_1002
 * [CPUID Features for CPUID Fn00000007_E[A,B]X]" and following): by the low two bits of the number, the words of the
 * result that stand in the low and in the high half. */
static const struct {
    uint32_t leaf;
    uint8_t low, high;
} overrides[4] = {
    [0] = {1, 3, 2},           /* C001_1004: EDX, ECX */
    [1] = {0x80000001u, 3, 2}, /* C001_1005: EDX, ECX */
    [2] = {7, 1, 0},           /* C001_1002: EBX, EAX */
    [3] = {6, 2, 0},           /* C001_1003: ECX, EAX */
};
/* Bits that follow the processor's state are 1 here: the registers can clear them, not set them. */
static const struct cpuid_state every = {
    .cr4 = CR4_OSXSAVE | CR4_PKE, .cpus = 1, .apic_enabled = true, .mode64 = true, .monitor_enabled = true};

uint64_t cpu_cpuid_override(const struct cpu *c, unsigned i)
{
    uint32_t out[4];
    model_cpuid(c->model, &every, overrides[i].leaf, 0, out);
    return (uint64_t)out[overrides[i].high] << 32 | out[overrides[i].low];
}

void cpu_cpuid(struct cpu *c, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    bool intel = !model_is_amd(c->model);
    struct cpuid_state s = {
        .cr4 = c->cr4,
        .xcr0 = c->xcr0,
        .xss = c->xss,
        .tsc_hz = c->tsc_hz,
        .apic_id = c->index,
        .cpus = c->cpus ? c->cpus : 1,
        .apic_enabled = c->msr.apic_base & BIT(11),
        .mode64 = c->mode == MODE_64,
        .monitor_enabled = !intel || (c->msr.misc_enable & BIT(18)),
        .nx_disabled = intel && (c->msr.misc_enable & BIT(34)),
        .limit_leaves = intel && (c->msr.misc_enable & BIT(22)),
    };
    model_cpuid(c->model, &s, leaf, subleaf, out);
    for (unsigned i = 0; i < ARRAY_LEN(overrides); i++) {
        uint64_t flip = c->msr.cpuid_flip[i];
        if (likely(!flip) || leaf != overrides[i].leaf || (leaf == 7 && subleaf))
            continue;
        uint64_t usual = cpu_cpuid_override(c, i), off = flip & usual, on = flip & ~usual;
        uint32_t *low = &out[overrides[i].low], *high = &out[overrides[i].high];
        *low = (*low & ~(uint32_t)off) | (uint32_t)on;
        *high = (*high & ~(uint32_t)(off >> 32)) | (uint32_t)(on >> 32);
    }
}
