/* SPDX-License-Identifier: MIT
 *
 * host_timer.c: the host processor's own local APIC timer, in x2APIC mode: how the VMM gets control at a time under
 * SVM, and wakes from __halt() under both. TSC-deadline mode where the processor has it, else one-shot mode with a rate
 * that was measured.
 */
#include <stdio.h>

#include <vmenter/intrin.h>

#include "vmm/vm.h"

#define HOST_TIMER_VECTOR 0xec
#define HOST_SPURIOUS     0xff
#define CALIBRATION_TICKS 1000000u /* long against what a host takes to wake a sleeper */
#define CALIBRATIONS      3

enum {
    MSR_TSC_DEADLINE = 0x6e0,
    MSR_X2APIC_EOI = 0x80b,
    MSR_X2APIC_SVR = 0x80f,
    MSR_X2APIC_LVT_TIMER = 0x832,
    MSR_X2APIC_TIMER_INITIAL = 0x838,
    MSR_X2APIC_TIMER_DIVIDE = 0x83e,
};

bool host_timer_init(struct vmm *v)
{
    int r[4];
    v->host_timer = HOST_TIMER_NONE;
    __cpuidex(r, 1, 0);
    _disable();
    if (!(r[2] & 1 << 21)) {
        if (v->config.svm) {
            snprintf(v->error, sizeof(v->error),
                     "this processor model has no x2APIC, whose timer the VMM needs: choose another --cpu");
            return false;
        }
        return true; /* VMX has a timer of its own */
    }
    uint64_t base = __readmsr(MSR_APIC_BASE);
    __writemsr(MSR_APIC_BASE, base | LAPIC_BASE_EN);
    __writemsr(MSR_APIC_BASE, base | LAPIC_BASE_EN | LAPIC_BASE_EXTD);
    __writemsr(MSR_X2APIC_SVR, 0x100 | HOST_SPURIOUS);
    if (r[2] & 1 << 24) {
        __writemsr(MSR_X2APIC_LVT_TIMER, 2u << 17 | HOST_TIMER_VECTOR);
        v->host_timer = HOST_TIMER_DEADLINE;
        return true;
    }
    __writemsr(MSR_X2APIC_LVT_TIMER, HOST_TIMER_VECTOR);
    __writemsr(MSR_X2APIC_TIMER_DIVIDE, 0xb); /* by 1 */
    v->host_timer = HOST_TIMER_ONE_SHOT;
    /* The host wakes late, never early: the shortest of a few measurements is nearest to the truth. */
    v->host_timer_tsc = UINT32_MAX;
    for (unsigned i = 0; i < CALIBRATIONS && v->outcome == VMM_RUNNING; i++) {
        uint64_t start = __rdtsc();
        v->host_timer_armed = DEVICE_NEVER - 1;
        __writemsr(MSR_X2APIC_TIMER_INITIAL, CALIBRATION_TICKS);
        while (v->host_timer_armed && v->outcome == VMM_RUNNING) {
            _enable();
            __halt();
            _disable();
        }
        uint64_t took = __rdtsc() - start;
        if (took < v->host_timer_tsc) {
            v->host_timer_tsc = (uint32_t)took;
        }
    }
    if (!v->host_timer_tsc) {
        v->host_timer_tsc = 1;
    }
    return true;
}

/* An interrupt when the TSC has this value (soon after, in one-shot mode); DEVICE_NEVER: none. A time that has passed
 * fires at once. */
void host_timer_arm(struct vmm *v, uint64_t tsc)
{
    if (tsc == v->host_timer_armed) {
        return;
    }
    v->host_timer_armed = tsc;
    if (v->host_timer == HOST_TIMER_DEADLINE) {
        __writemsr(MSR_TSC_DEADLINE, tsc == DEVICE_NEVER ? 0 : tsc ? tsc : 1);
    } else if (v->host_timer == HOST_TIMER_ONE_SHOT) {
        uint64_t now = __rdtsc(), ticks = 0;
        if (tsc != DEVICE_NEVER) {
            ticks = tsc <= now ? 1 : device_muldiv_up(tsc - now, CALIBRATION_TICKS, v->host_timer_tsc);
            ticks = ticks < UINT32_MAX ? ticks : UINT32_MAX;
        }
        __writemsr(MSR_X2APIC_TIMER_INITIAL, ticks);
    }
}

/* Interrupts of the host, taken where the VMM has them enabled; and exceptions that an intrinsic raised: those are bugs
 * of the VMM, or a processor that differs from what it said. */
void host_timer_event(void *opaque, const struct vmenter_event *e)
{
    struct vmm *v = opaque;
    if (e->is_interrupt) {
        if (e->vector == HOST_TIMER_VECTOR) {
            v->host_timer_armed = 0;
        }
        if (e->vector == 2) {
            v->next_poll = 0; /* NMI: a kick */
        } else if (e->vector != HOST_SPURIOUS) {
            __writemsr(MSR_X2APIC_EOI, 0);
        }
        return;
    }
    snprintf(v->error, sizeof(v->error), "exception %u (error code %#x) in the host, by %s: %s", e->vector,
             e->error_code, e->intrinsic ? e->intrinsic : "an instruction", e->rule ? e->rule : "");
    vmm_stop(v, VMM_CRASH, "%s", v->error);
}
