/* SPDX-License-Identifier: MIT
 *
 * time.c: the time-stamp counter, and when the processor has to look at time again.
 *
 * Virtual clock: TSC = tsc_base + retired instructions + skipped; an idle processor skips to its next deadline, a
 * VM exit skips some ticks.
 * tsc_base changes by writes to the TSC alone. Real clock: TSC = tsc_base + the host's monotonic time since real_start,
 * in ticks of tsc_hz.
 */
#include "src/cpu/sys.h"

#include <time.h>

static uint64_t host_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t cpu_tsc(struct cpu *c)
{
    if (c->real_clock) {
        uint64_t ns = host_ns() - c->real_start;
        return c->tsc_base + (uint64_t)((unsigned __int128)ns * c->tsc_hz / 1000000000u);
    }
    return c->tsc_base + c->skipped + c->icount + (c->cur ? c->cur->n : 0);
}

uint64_t cpu_next_event(struct cpu *c)
{
    uint64_t next = UINT64_MAX;
    if (c->apic_ops && c->apic_ops->deadline)
        next = c->apic_ops->deadline(c->apic);
    if (c->guest && c->guest->deadline) {
        uint64_t g = c->guest->deadline(c);
        next = MIN(next, g);
    }
    return next;
}

/* On the real clock the host's time is asked for this often, in instructions. */
#define REAL_SLICE 20000u

void cpu_update_deadline(struct cpu *c)
{
    uint64_t next = cpu_next_event(c);
    if (next == UINT64_MAX) {
        c->deadline = UINT64_MAX;
        return;
    }
    uint64_t now = cpu_tsc(c);
    uint64_t left = next > now ? next - now : 0;
    if (c->real_clock)
        left = MIN(left, (uint64_t)REAL_SLICE);
    c->deadline = left > UINT64_MAX - c->icount ? UINT64_MAX : c->icount + left;
    c->horizon = MIN(c->horizon, c->deadline);
}

void cpu_run_timers(struct cpu *c)
{
    uint64_t now = cpu_tsc(c);
    if (c->apic_ops && c->apic_ops->run)
        c->apic_ops->run(c->apic, now);
    if (c->guest && c->guest->deadline && c->guest->deadline(c) <= now)
        cpu_attend(c, ATT_GUEST);
    cpu_update_deadline(c);
}
