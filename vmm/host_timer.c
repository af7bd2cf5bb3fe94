/* SPDX-License-Identifier: MIT
 *
 * host_timer.c: the host processor's own local APIC, in x2APIC mode with the timer in TSC-deadline mode: how the VMM
 * gets control at a time under SVM, and wakes from __halt() under both.
 */
#include <stdio.h>
#include <stdlib.h>

#include <vmenter/intrin.h>

#include "vmm/vm.h"

#define HOST_TIMER_VECTOR 0xec
#define HOST_SPURIOUS     0xff

enum { MSR_TSC_DEADLINE = 0x6e0, MSR_X2APIC_EOI = 0x80b, MSR_X2APIC_SVR = 0x80f, MSR_X2APIC_LVT_TIMER = 0x832 };

bool host_timer_init(struct vmm *v)
{
    int r[4];
    __cpuidex(r, 1, 0);
    if (!(r[2] & 1 << 21) || !(r[2] & 1 << 24)) {
        snprintf(v->error, sizeof(v->error),
                 "this processor model has no %s, which the VMM's timer needs: choose another --cpu",
                 r[2] & 1 << 21 ? "TSC-deadline timer" : "x2APIC");
        return false;
    }
    uint64_t base = __readmsr(MSR_APIC_BASE);
    __writemsr(MSR_APIC_BASE, base | LAPIC_BASE_EN);
    __writemsr(MSR_APIC_BASE, base | LAPIC_BASE_EN | LAPIC_BASE_EXTD);
    __writemsr(MSR_X2APIC_SVR, 0x100 | HOST_SPURIOUS);
    __writemsr(MSR_X2APIC_LVT_TIMER, 2u << 17 | HOST_TIMER_VECTOR);
    _disable();
    return true;
}

/* `tsc` DEVICE_NEVER disarms. A time that has passed fires at once. */
void host_timer_arm(struct vmm *v, uint64_t tsc)
{
    __writemsr(MSR_TSC_DEADLINE, tsc == DEVICE_NEVER ? 0 : tsc ? tsc : 1);
}

/* Interrupts of the host, taken where the VMM has them enabled; and exceptions that an intrinsic raised: those are bugs
 * of the VMM, or a processor that differs from what it said. */
void host_timer_event(void *opaque, const struct vmenter_event *e)
{
    struct vmm *v = opaque;
    if (e->is_interrupt) {
        if (e->vector != HOST_SPURIOUS && e->vector != 2) {
            __writemsr(MSR_X2APIC_EOI, 0);
        }
        return;
    }
    vmm_stop(v, VMM_CRASH, "exception %u (error code %#x) in the host, by %s: %s", e->vector, e->error_code,
             e->intrinsic ? e->intrinsic : "an instruction", e->rule ? e->rule : "");
}
