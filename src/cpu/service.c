/* SPDX-License-Identifier: MIT
 *
 * service.c: what happens between instructions: INIT, SIPI, SMI, debug traps, NMIs, interrupts, idling, breakpoints.
 *
 * The order is that of SDM volume 3A, "Prioritization of Concurrent Events" (APM volume 2, "Priorities"). Attention
 * bits are taken down before their cause is looked at, so that a cause that comes meanwhile is not lost. An event that
 * is held back leaves a note (intr_waiting, nmi_pending, ...), and whoever lifts what holds it calls
 * cpu_recheck_events().
 *
 * Contract with the run loop: after cpu_service() returned false exactly one instruction (or one iteration of a
 * repeated one) is run before the next call while ATT_STEP or ATT_SHADOW stands in attention; any number otherwise.
 *
 * The calls into guest mode: init(), sipi() and smi() when that event is there and the processor's own rules do not
 * block it; before_traps() and events() around debug traps, before NMIs; nmi() whenever an NMI is pending (it knows
 * whether NMIs are blocked for its guest: false leaves delivery to the processor's rule, nmi_blocked); interrupt() when
 * an interrupt is pending, no shadow is in force and intr_allowed() said yes (RFLAGS.IF decides where intr_allowed is
 * null).
 */
#include "src/cpu/sys.h"

#define DR6_BS BIT(14)

static uint32_t take(struct cpu *c, uint32_t bits_)
{
    return __atomic_fetch_and(&c->attention, ~bits_, __ATOMIC_SEQ_CST) & bits_;
}

void cpu_data_breakpoint(struct cpu *c, la_t la, unsigned len, bool write)
{
    for (unsigned i = 0; i < 4; i++) {
        uint64_t d = c->dr[7];
        unsigned rw = d >> (16 + 4 * i) & 3;
        static const uint8_t sizes[4] = {1, 2, 8, 4};
        unsigned size = sizes[d >> (18 + 4 * i) & 3];
        if (!(d >> (2 * i) & 3) || !(rw == 3 || (rw == 1 && write)))
            continue;
        uint64_t at = c->dr[i] & ~(uint64_t)(size - 1);
        if (c->mode != MODE_64)
            at &= 0xffffffff;
        if (la.v < at + size && at < la.v + len) {
            c->pending_dbg |= BIT(i);
            cpu_attend(c, ATT_TRAP);
        }
    }
}

void cpu_io_breakpoint(struct cpu *c, uint16_t port, unsigned len)
{
    if (likely(!(c->dr[7] & 0xff)) || !(c->cr4 & CR4_DE))
        return;
    for (unsigned i = 0; i < 4; i++) {
        uint64_t d = c->dr[7];
        static const uint8_t sizes[4] = {1, 2, 8, 4};
        unsigned size = sizes[d >> (18 + 4 * i) & 3];
        if (!(d >> (2 * i) & 3) || (d >> (16 + 4 * i) & 3) != 2)
            continue;
        uint64_t at = c->dr[i] & ~(uint64_t)(size - 1);
        if (port < at + size && at < (uint64_t)port + len) {
            c->pending_dbg |= BIT(i);
            cpu_attend(c, ATT_TRAP);
        }
    }
}

/* B0-B3 of the instruction breakpoints at RIP. */
static uint64_t code_breakpoint(const struct cpu *c)
{
    uint64_t d = c->dr[7], hit = 0;
    if (likely(!(d & 0xff)) || ((c->rflags_rest & FLAG_RF) && c->rf_at == c->icount))
        return 0;
    uint64_t la = c->mode == MODE_64 ? c->rip : (uint32_t)(c->rip + c->seg[SEG_CS].base);
    for (unsigned i = 0; i < 4; i++)
        if ((d >> (2 * i) & 3) && !(d >> (16 + 4 * i) & 3) && c->dr[i] == la)
            hit |= BIT(i);
    return hit;
}

static void debug_exception(struct cpu *c, uint64_t payload)
{
    c->exc = (struct cpu_event){.valid = true, .vector = EXC_DB, .type = EVENT_HWEXC, .payload = payload};
    cpu_handle_exception(c);
    c->icount++; /* a delivery takes time: a handler with a breakpoint on its first instruction must not stop the clock
                  */
}

static void start_up(struct cpu *c)
{
    struct seg *cs = &c->seg[SEG_CS];
    cpu_note(c, WATCH_INTERRUPT, WATCH_SIPI | c->sipi_vector, 0);
    cs->sel = (uint16_t)(c->sipi_vector << 8);
    cs->base = (uint32_t)c->sipi_vector << 12;
    c->rip = 0;
    c->activity = ACTIVITY_ACTIVE;
    cpu_update_mode(c);
}

/* Nothing to do until an event. Always true: look again. */
static bool idle(struct cpu *c)
{
    cpu_attend(c, ATT_IDLE); /* the next cpu_run() has to come here again */
    uint64_t next = cpu_next_event(c);
    if (c->activity == ACTIVITY_WAIT_SIPI)
        next = UINT64_MAX;
    if (c->idle) {
        if (!c->idle(c, next))
            c->stop = STOP_IDLE;
    } else if (c->real_clock || next == UINT64_MAX) {
        c->stop = STOP_IDLE;
        return true;
    } else {
        uint64_t now = cpu_tsc(c);
        if (next > now)
            c->skipped += next - now;
        /* Nothing may ever wake it: the caller of cpu_run() shall see time pass. */
        if (!(c->rflags_rest & FLAG_IF) && !c->guest)
            c->stop = STOP_IDLE;
    }
    cpu_run_timers(c);
    return true;
}

/* 1: an interrupt was taken or made a VM exit; 0: none is there, or none can be taken. */
static int interrupt(struct cpu *c, bool shadow)
{
    bool pic = c->intr_line && c->intr_line(c->intr_opaque, NULL);
    int vector = -1;
    if (!pic && c->apic_ops && c->apic_ops->pending)
        vector = c->apic_ops->pending(c->apic);
    if (!pic && vector < 0) {
        c->intr_waiting = false;
        return 0;
    }
    c->intr_waiting = true;
    if (!c->guest && c->native_host)
        return 0;
    bool allowed =
        c->guest && c->guest->intr_allowed ? c->guest->intr_allowed(c) : (c->rflags_rest & FLAG_IF) && c->gif;
    if (!allowed) {
        if (c->activity == ACTIVITY_MWAIT && c->mwait_any) {
            c->activity = ACTIVITY_ACTIVE;
            return 1;
        }
        return 0;
    }
    if (shadow) {
        cpu_attend(c, ATT_INTR | ATT_SHADOW);
        return 0;
    }
    if (c->guest && c->guest->interrupt && c->guest->interrupt(c))
        return 1;
    if (pic) {
        if (!c->intr_line(c->intr_opaque, &vector))
            return 0;
    } else {
        vector = c->apic_ops->ack(c->apic);
    }
    if (vector < 0)
        return 0;
    cpu_attend(c, ATT_INTR); /* there may be more behind it */
    c->stats.interrupts++;
    struct cpu_event ev = {.valid = true, .vector = (uint8_t)vector, .type = EVENT_EXTINT};
    cpu_deliver(c, &ev);
    return 1;
}

/* One thing is done, and what came with it has not been looked at: the next look has to. Always true. */
static bool later(struct cpu *c, uint32_t att)
{
    cpu_attend(c, (att & (ATT_INTR | ATT_GUEST | ATT_TRAP)) | (c->nmi_pending ? ATT_NMI : 0) |
                      (c->smi_pending ? ATT_SMI : 0) | (c->pending_dbg ? ATT_TRAP : 0));
    return true;
}

bool cpu_service(struct cpu *c)
{
    uint32_t att = take(c, ATT_INTR | ATT_NMI | ATT_SMI | ATT_INIT | ATT_SIPI | ATT_KICK | ATT_GUEST | ATT_TRAP |
                               ATT_SHADOW | ATT_DEADLINE | ATT_IDLE);
    c->cur = NULL;
    if (att & ATT_IDLE)
        att |= ATT_INTR;
    if ((att & ATT_DEADLINE) || c->icount >= c->deadline) {
        cpu_run_timers(c);
        att |= take(c, ATT_INTR | ATT_NMI | ATT_SMI | ATT_INIT | ATT_SIPI | ATT_GUEST);
    }
    if (att & ATT_NMI)
        c->nmi_pending = true;
    if (att & ATT_SMI)
        c->smi_pending = true;
    if (att & ATT_INIT)
        c->init_pending = true;
    if (att & ATT_SIPI)
        c->sipi_pending = true;

    bool shadow = cpu_in_shadow(c), movss = shadow && c->shadow_movss;
    if (c->step_armed) {
        c->step_armed = false;
        if (!movss && c->step_stamp == c->stats.entries + c->stats.exits &&
            (c->branched || !(c->msr.debugctl & DEBUGCTL_BTF)))
            c->pending_dbg |= DR6_BS;
    }
    c->held_dbg = movss ? c->pending_dbg : 0;
    if (att & ATT_KICK) {
        c->stop = STOP_KICK;
        att |= c->pending_dbg ? ATT_TRAP : 0;
        cpu_attend(c, att & ~(uint32_t)(ATT_KICK | ATT_SHADOW | ATT_DEADLINE));
        return true;
    }
    /* A guest in VMX's shutdown activity state waits for its monitor's events. */
    bool vmx_guest = c->guest && !model_is_amd(c->model);
    if (c->activity == ACTIVITY_SHUTDOWN && !vmx_guest && !c->init_pending && !c->nmi_pending) {
        c->stop = STOP_SHUTDOWN;
        return true;
    }

    if (unlikely(c->guest) && c->guest->completes && (att & ATT_GUEST) && c->guest->completes(c))
        return true;

    /* INIT, start-up. */
    if (unlikely(c->init_pending) && c->gif && !c->in_smm &&
        !(c->virt && c->virt->init_blocked && c->virt->init_blocked(c))) {
        c->init_pending = false;
        if (c->guest && c->guest->init) {
            if (c->guest->init(c))
                return true;
        } else {
            cpu_note(c, WATCH_INTERRUPT, WATCH_INIT, 0);
            cpu_reset(c, true);
            return true;
        }
    }
    if (unlikely(c->sipi_pending)) {
        c->sipi_pending = false;
        if (c->activity == ACTIVITY_WAIT_SIPI) {
            if (!(c->guest && c->guest->sipi && c->guest->sipi(c, c->sipi_vector)))
                start_up(c);
            return true;
        }
    }
    if (c->activity == ACTIVITY_WAIT_SIPI)
        return idle(c);
    /* A hosted machine has no firmware that could handle it: there an SMI reaches a guest's intercept and nothing else.
     */
    if (unlikely(c->smi_pending) && c->gif && !c->in_smm) {
        c->smi_pending = false;
        if (c->guest && c->guest->smi && c->guest->smi(c))
            return later(c, att);
        if (!c->native_host) {
            cpu_smm_enter(c);
            return later(c, att);
        }
    }

    if (unlikely(c->guest) && c->guest->before_traps && ((att & ATT_GUEST) || c->step_guest) &&
        c->guest->before_traps(c))
        return later(c, att);
    /* Debug traps of the previous instruction. */
    if (unlikely(c->pending_dbg)) {
        if (movss) {
            cpu_attend(c, ATT_TRAP | ATT_SHADOW);
        } else {
            uint64_t payload = c->pending_dbg;
            c->pending_dbg = 0;
            c->activity = ACTIVITY_ACTIVE;
            debug_exception(c, payload);
            return later(c, att & ~(uint32_t)ATT_TRAP);
        }
    }

    if (c->guest && c->guest->events && (att & (ATT_GUEST | ATT_INTR))) {
        if (c->guest->events(c))
            return later(c, att);
        if (shadow)
            cpu_attend(c, ATT_GUEST | ATT_SHADOW);
    }
    if (unlikely(c->nmi_pending)) {
        if (shadow) {
            cpu_attend(c, ATT_NMI | ATT_SHADOW);
        } else if (c->guest && c->guest->nmi && c->gif && c->guest->nmi(c)) {
            cpu_attend(c, att & (ATT_INTR | ATT_GUEST));
            return true; /* nmi() took it */
        } else if (!c->nmi_blocked && c->gif && (c->guest || !c->native_host)) {
            struct cpu_event ev = {.valid = true, .vector = EXC_NMI, .type = EVENT_NMI};
            c->nmi_pending = false;
            c->nmi_blocked = true;
            cpu_deliver(c, &ev);
            return later(c, att);
        }
    }
    if (interrupt(c, shadow))
        return true;
    if (c->activity != ACTIVITY_ACTIVE)
        return c->guest || !c->native_host ? idle(c) : false;

    uint64_t hit = movss ? 0 : code_breakpoint(c);
    if (unlikely(hit)) {
        debug_exception(c, hit);
        return true;
    }
    if (unlikely(c->rflags_rest & FLAG_TF)) {
        c->step_armed = true;
        c->step_stamp = c->stats.entries + c->stats.exits;
    }
    return false;
}
