/* SPDX-License-Identifier: MIT
 *
 * cpuid.c: CPUID with what depends on the processor's state. The rest is src/arch/cpuid.c.
 */
#include "src/cpu/sys.h"

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
}
