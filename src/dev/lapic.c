/* SPDX-License-Identifier: MIT
 *
 * lapic.c: the local APIC (SDM Vol. 3A, "Advanced Programmable Interrupt Controller (APIC)"; APM Vol. 2, the same
 * title).
 *
 * Invariants: vectors 0 to 15 never stand in IRR or ISR; a TMR bit is valid while its vector is in IRR or ISR; the
 * timer's past is settled (timer_advance) before anything that depends on it is read or changed.
 */
#include "src/dev/lapic.h"

#define LVT_MASKED        0x10000u
#define LVT_LEVEL         0x8000u
#define LVT_REMOTE_IRR    0x4000u
#define LVT_LOW_ACTIVE    0x2000u
#define LVT_DELIVERY(lvt) ((enum apic_delivery)((lvt) >> 8 & 7))

#define SVR_ENABLE         0x100u
#define SVR_FOCUS_OFF      0x200u
#define SVR_EOI_SUPPRESS   0x1000u
#define VERSION_EOI_SUPPR  0x01000000u
#define VERSION_MAX_LVT(v) ((v) >> 16 & 0xff)

#define ESR_SEND_ILLEGAL 0x20u
#define ESR_RECV_ILLEGAL 0x40u
#define ESR_REGISTER     0x80u

enum timer_mode { TIMER_ONE_SHOT, TIMER_PERIODIC, TIMER_TSC_DEADLINE, TIMER_RESERVED };

/* Vector bitmaps. */
static void bit_set(uint32_t *map, unsigned v)
{
    map[v / 32] |= 1u << (v % 32);
}
static void bit_clear(uint32_t *map, unsigned v)
{
    map[v / 32] &= ~(1u << (v % 32));
}
static bool bit_test(const uint32_t *map, unsigned v)
{
    return map[v / 32] >> (v % 32) & 1;
}

static int highest(const uint32_t *map)
{
    for (int i = 7; i >= 0; i--) {
        if (map[i]) {
            return i * 32 + 31 - __builtin_clz(map[i]);
        }
    }
    return -1;
}

static void changed(struct lapic *l)
{
    if (l->host.changed) {
        l->host.changed(l->host.opaque, l);
    }
}

static bool is_enabled(const struct lapic *l)
{
    return l->s.base & LAPIC_BASE_EN;
}
static bool is_x2apic(const struct lapic *l)
{
    return l->s.base & LAPIC_BASE_EXTD;
}
static bool is_sw_enabled(const struct lapic *l)
{
    return is_enabled(l) && (l->s.svr & SVR_ENABLE);
}

/* SDM "Logical x2APIC ID": cluster in the upper half, one bit of 16 in the lower. */
static uint32_t x2apic_ldr(uint32_t id)
{
    return (id >> 4) << 16 | 1u << (id & 15);
}

static void raise_error(struct lapic *l, uint32_t bit);

/* ---- accepting and handing out -------------------------------------------------------------------------------- */

/* SDM "Interrupt Acceptance for Fixed Interrupts". */
static bool accept_fixed(struct lapic *l, uint8_t vector, bool level)
{
    if (!is_sw_enabled(l)) {
        return false;
    }
    if (vector < 16) {
        raise_error(l, ESR_RECV_ILLEGAL);
        return false;
    }
    if (level) {
        bit_set(l->s.tmr, vector);
    } else {
        bit_clear(l->s.tmr, vector);
    }
    bit_set(l->s.irr, vector);
    changed(l);
    return true;
}

/* SDM "Task and Processor Priorities". */
static uint8_t ppr(const struct lapic *l)
{
    int isrv = highest(l->s.isr);
    if (isrv < 0 || (l->s.tpr & 0xf0) >= (isrv & 0xf0u)) {
        return l->s.tpr;
    }
    return isrv & 0xf0;
}

int lapic_pending_vector(const struct lapic *l)
{
    if (!is_enabled(l)) {
        return -1;
    }
    int v = highest(l->s.irr);
    return v >= 0 && (v & 0xf0) > (ppr(l) & 0xf0) ? v : -1;
}

uint8_t lapic_ack(struct lapic *l)
{
    int v = lapic_pending_vector(l);
    if (v < 0) {
        return l->s.svr & 0xff;
    }
    bit_clear(l->s.irr, v);
    bit_set(l->s.isr, v);
    changed(l);
    return v;
}

bool lapic_extint(const struct lapic *l)
{
    if (!is_enabled(l)) {
        return l->s.lint[0];
    }
    if (l->s.extint) {
        return true;
    }
    for (unsigned pin = 0; pin < 2; pin++) {
        uint32_t lvt = l->s.lvt[LAPIC_LVT_LINT0 + pin];
        if (l->s.lint[pin] && !(lvt & LVT_MASKED) && LVT_DELIVERY(lvt) == APIC_EXTINT) {
            return true;
        }
    }
    return false;
}

void lapic_extint_ack(struct lapic *l)
{
    l->s.extint = false;
    changed(l);
}

static void signal_core(struct lapic *l, enum apic_delivery what, uint8_t vector)
{
    if (l->host.signal) {
        l->host.signal(l->host.opaque, l, what, vector);
    }
}

bool lapic_accept(struct lapic *l, const struct apic_msg *msg)
{
    if (!is_enabled(l)) {
        return false;
    }
    switch ((enum apic_delivery)msg->delivery) {
    case APIC_FIXED:
    case APIC_LOWEST: return accept_fixed(l, msg->vector, msg->level);
    case APIC_SMI:
    case APIC_NMI:
    case APIC_INIT:
    case APIC_STARTUP: signal_core(l, msg->delivery, msg->vector); return true;
    case APIC_EXTINT:
        if (!is_sw_enabled(l)) {
            return false;
        }
        l->s.extint = true;
        changed(l);
        return true;
    }
    return false;
}

/* SDM "Determining IPI Destination", "Logical Destination Mode in x2APIC Mode". */
bool lapic_match(const struct lapic *l, uint32_t dest, bool logical)
{
    if (!is_enabled(l)) {
        return false;
    }
    if (is_x2apic(l)) {
        if (dest == UINT32_MAX) {
            return true;
        }
        if (!logical) {
            return dest == l->s.id;
        }
        return dest >> 16 == l->s.ldr >> 16 && (dest & l->s.ldr & 0xffff);
    }
    if (dest == UINT32_MAX) {
        return true;
    }
    if (dest > 0xff) {
        return false; /* an xAPIC has eight bits of destination on the bus; a wider one names an x2APIC */
    }
    if (!logical) {
        return dest == 0xff || dest == l->s.id;
    }
    uint32_t mine = l->s.ldr >> 24;
    if (l->s.dfr >> 28 == 0xf) {
        return dest & mine; /* flat model */
    }
    return (dest >> 4 == mine >> 4 || dest >> 4 == 0xf) && (dest & mine & 0xf); /* cluster model */
}

unsigned apic_route(struct lapic *const *apics, unsigned n, struct lapic *from, const struct apic_msg *msg)
{
    unsigned accepted = 0;
    struct lapic *best = NULL;
    for (unsigned i = 0; i < n; i++) {
        struct lapic *l = apics[i];
        bool to;
        switch ((enum apic_shorthand)msg->shorthand) {
        case APIC_TO_SELF: to = l == from; break;
        case APIC_TO_ALL: to = true; break;
        case APIC_TO_OTHERS: to = l != from; break;
        default: to = lapic_match(l, msg->dest, msg->logical); break;
        }
        if (!to) {
            continue;
        }
        if (msg->delivery == APIC_LOWEST && msg->shorthand == APIC_TO_DEST) {
            if (is_sw_enabled(l) && (!best || ppr(l) < ppr(best))) {
                best = l;
            }
        } else {
            accepted += lapic_accept(l, msg);
        }
    }
    return best ? lapic_accept(best, msg) : accepted;
}

/* ---- local sources -------------------------------------------------------------------------------------------- */

static void fire_lvt(struct lapic *l, unsigned i)
{
    uint32_t lvt = l->s.lvt[i];
    if (lvt & LVT_MASKED) {
        return;
    }
    enum apic_delivery mode = i == LAPIC_LVT_TIMER || i == LAPIC_LVT_ERROR ? APIC_FIXED : LVT_DELIVERY(lvt);
    bool pin = i == LAPIC_LVT_LINT0 || i == LAPIC_LVT_LINT1;
    switch (mode) {
    case APIC_FIXED: {
        bool level = pin && (lvt & LVT_LEVEL);
        if (accept_fixed(l, lvt & 0xff, level) && level) {
            l->s.lvt[i] |= LVT_REMOTE_IRR;
        }
        break;
    }
    case APIC_SMI:
    case APIC_NMI:
    case APIC_INIT: signal_core(l, mode, 0); break;
    default: break; /* ExtINT is a level that lapic_extint() reads; the rest is reserved */
    }
}

/* SDM "Error Handling". The error LVT's own illegal vector must not raise itself again. */
static void raise_error(struct lapic *l, uint32_t bit)
{
    if (l->s.esr_pending & bit) {
        return;
    }
    l->s.esr_pending |= bit;
    if (!l->s.error_busy) {
        l->s.error_busy = true;
        fire_lvt(l, LAPIC_LVT_ERROR);
        l->s.error_busy = false;
    }
}

void lapic_local(struct lapic *l, unsigned lvt)
{
    if (is_enabled(l)) {
        fire_lvt(l, lvt);
        if (lvt == LAPIC_LVT_PMC) {
            l->s.lvt[lvt] |= LVT_MASKED; /* SDM "Local Vector Table": masked on delivery of a PMI */
        }
    }
}

static bool pin_active(const struct lapic *l, unsigned pin)
{
    return l->s.lint[pin] != !!(l->s.lvt[LAPIC_LVT_LINT0 + pin] & LVT_LOW_ACTIVE);
}

static void lint_level_check(struct lapic *l, unsigned pin)
{
    uint32_t lvt = l->s.lvt[LAPIC_LVT_LINT0 + pin];
    if ((lvt & (LVT_LEVEL | LVT_REMOTE_IRR)) == LVT_LEVEL && LVT_DELIVERY(lvt) == APIC_FIXED && pin_active(l, pin)) {
        fire_lvt(l, LAPIC_LVT_LINT0 + pin);
    }
}

void lapic_lint(struct lapic *l, unsigned pin, bool level)
{
    if (pin > 1 || l->s.lint[pin] == level) {
        return;
    }
    l->s.lint[pin] = level;
    if (!is_enabled(l)) {
        if (pin == 1 && level) {
            signal_core(l, APIC_NMI, 0); /* the pins are INTR and NMI */
        }
        changed(l);
        return;
    }
    uint32_t lvt = l->s.lvt[LAPIC_LVT_LINT0 + pin];
    if (LVT_DELIVERY(lvt) == APIC_FIXED && (lvt & LVT_LEVEL)) {
        lint_level_check(l, pin);
    } else if (pin_active(l, pin)) {
        fire_lvt(l, LAPIC_LVT_LINT0 + pin);
    }
    changed(l);
}

/* ---- timer ---------------------------------------------------------------------------------------------------- */

static enum timer_mode timer_mode(const struct lapic *l)
{
    return l->s.lvt[LAPIC_LVT_TIMER] >> 17 & 3;
}

/* SDM "Divide Configuration Register": 0,1,2,3,8,9,a,b are 2,4,8,16,32,64,128,1. */
static uint32_t timer_divisor(const struct lapic *l)
{
    unsigned code = (l->s.timer_divide & 3) | (l->s.timer_divide >> 1 & 4);
    return 1u << ((code + 1) & 7);
}

static uint64_t count_to_tsc(const struct lapic *l, uint64_t count)
{
    return device_muldiv_up(count * timer_divisor(l), l->config.tsc_num, l->config.tsc_den);
}

/* Current count at `now`, given that timer_advance(now) has been called. */
static uint32_t timer_current(const struct lapic *l, uint64_t now)
{
    if (l->s.timer_expiry == DEVICE_NEVER || timer_mode(l) == TIMER_TSC_DEADLINE) {
        return 0;
    }
    uint64_t ticks = device_muldiv(now - l->s.timer_start, l->config.tsc_den, l->config.tsc_num) / timer_divisor(l);
    return ticks < l->s.timer_count ? l->s.timer_count - (uint32_t)ticks : 0;
}

static void timer_load(struct lapic *l, uint64_t now, uint32_t count)
{
    l->s.timer_start = now;
    l->s.timer_count = count;
    l->s.timer_expiry = count ? now + count_to_tsc(l, count) : DEVICE_NEVER;
}

static void timer_advance(struct lapic *l, uint64_t now)
{
    if (now < l->s.timer_expiry) {
        return;
    }
    uint64_t expired = l->s.timer_expiry;
    switch (timer_mode(l)) {
    case TIMER_PERIODIC: {
        uint64_t period = l->s.timer_initial ? count_to_tsc(l, l->s.timer_initial) : 0;
        if (!period) {
            l->s.timer_expiry = DEVICE_NEVER;
            break;
        }
        timer_load(l, expired + (now - expired) / period * period, l->s.timer_initial);
        break;
    }
    case TIMER_TSC_DEADLINE:
        l->s.tsc_deadline = 0;
        l->s.timer_expiry = DEVICE_NEVER;
        break;
    default: l->s.timer_expiry = DEVICE_NEVER; break;
    }
    fire_lvt(l, LAPIC_LVT_TIMER);
}

static void timer_arm_deadline(struct lapic *l, uint64_t now)
{
    uint64_t guest_now = now + l->s.tsc_offset;
    if (!l->s.tsc_deadline) {
        l->s.timer_expiry = DEVICE_NEVER;
    } else if (l->s.tsc_deadline <= guest_now) {
        l->s.timer_expiry = now;
    } else {
        uint64_t delta = l->s.tsc_deadline - guest_now;
        l->s.timer_expiry = delta < DEVICE_NEVER - now ? now + delta : DEVICE_NEVER;
    }
    timer_advance(l, now);
}

void lapic_run(struct lapic *l, uint64_t now)
{
    timer_advance(l, now);
}

uint64_t lapic_deadline(const struct lapic *l)
{
    return l->s.lvt[LAPIC_LVT_TIMER] & LVT_MASKED ? DEVICE_NEVER : l->s.timer_expiry;
}

void lapic_set_tsc_offset(struct lapic *l, uint64_t now, uint64_t offset)
{
    timer_advance(l, now);
    l->s.tsc_offset = offset;
    if (timer_mode(l) == TIMER_TSC_DEADLINE && l->s.tsc_deadline) {
        timer_arm_deadline(l, now);
    }
}

/* ---- registers ------------------------------------------------------------------------------------------------ */

void lapic_set_tpr(struct lapic *l, uint8_t cr8)
{
    l->s.tpr = (uint32_t)(cr8 & 15) << 4;
    changed(l);
}

uint8_t lapic_get_tpr(const struct lapic *l)
{
    return l->s.tpr >> 4;
}

/* SDM "Signaling Interrupt Servicing Completion". */
static void end_of_interrupt(struct lapic *l)
{
    int v = highest(l->s.isr);
    if (v < 0) {
        return;
    }
    bit_clear(l->s.isr, v);
    if (bit_test(l->s.tmr, v)) {
        for (unsigned pin = 0; pin < 2; pin++) {
            uint32_t *lvt = &l->s.lvt[LAPIC_LVT_LINT0 + pin];
            if ((*lvt & LVT_REMOTE_IRR) && (*lvt & 0xff) == (uint32_t)v) {
                *lvt &= ~LVT_REMOTE_IRR;
                lint_level_check(l, pin);
            }
        }
        bool suppress = (l->s.svr & SVR_EOI_SUPPRESS) && (l->config.version & VERSION_EOI_SUPPR);
        if (l->host.eoi && !suppress) {
            l->host.eoi(l->host.opaque, v);
        }
    }
    changed(l);
}

/* SDM "Issuing Interprocessor Interrupts". */
static void send_ipi(struct lapic *l)
{
    uint32_t low = l->s.icr_low;
    struct apic_msg m = {
        .dest = is_x2apic(l) ? l->s.icr_high : l->s.icr_high >> 24,
        .vector = low & 0xff,
        .delivery = low >> 8 & 7,
        .logical = low >> 11 & 1,
        .shorthand = low >> 18 & 3,
        .level = false, /* SDM: the trigger mode of an IPI matters for INIT de-assert alone; the interrupt is edge */
    };
    if (m.delivery == APIC_FIXED || m.delivery == APIC_LOWEST) {
        if (m.vector < 16) {
            raise_error(l, ESR_SEND_ILLEGAL);
            return;
        }
    }
    if (m.delivery == APIC_INIT && (low & 0xc000) == 0x8000) {
        return; /* INIT level de-assert: arbitration IDs only, not supported by processors since the Pentium 4 */
    }
    if (m.delivery == 3 || m.delivery == APIC_EXTINT) {
        return; /* reserved */
    }
    if ((m.shorthand == APIC_TO_SELF || m.shorthand == APIC_TO_ALL) &&
        (m.delivery == APIC_LOWEST || m.delivery == APIC_STARTUP)) {
        return; /* SDM, "Valid Combinations for the ... Local APIC Interrupt Command Register": invalid. NMI, SMI and
                   INIT to oneself are so, too, without a word on what comes of it; software sends them, and they
                   arrive. */
    }
    if (l->host.send) {
        l->host.send(l->host.opaque, l, &m);
    } else if (m.shorthand == APIC_TO_SELF || m.shorthand == APIC_TO_ALL ||
               (m.shorthand == APIC_TO_DEST && lapic_match(l, m.dest, m.logical))) {
        lapic_accept(l, &m);
    }
}

static uint32_t lvt_valid(const struct lapic *l, unsigned i)
{
    switch (i) {
    case LAPIC_LVT_TIMER: return 0xff | LVT_MASKED | 1u << 17 | (l->config.tsc_deadline ? 1u << 18 : 0);
    case LAPIC_LVT_ERROR: return 0xff | LVT_MASKED;
    case LAPIC_LVT_LINT0:
    case LAPIC_LVT_LINT1: return 0x7ff | LVT_LOW_ACTIVE | LVT_LEVEL | LVT_MASKED;
    default: return 0x7ff | LVT_MASKED;
    }
}

/* The LVT entry behind a register offset, -1 if that is not one that this version has. */
static int lvt_index(const struct lapic *l, uint32_t offset)
{
    if (offset == LAPIC_CMCI) {
        return VERSION_MAX_LVT(l->config.version) >= 6 ? LAPIC_LVT_CMCI : -1;
    }
    if (offset >= LAPIC_TIMER && offset <= LAPIC_ERROR) {
        return LAPIC_LVT_TIMER + (offset - LAPIC_TIMER) / 16;
    }
    return -1;
}

static void write_lvt(struct lapic *l, uint64_t now, unsigned i, uint32_t value)
{
    enum timer_mode old_mode = timer_mode(l);
    uint32_t ro = LVT_REMOTE_IRR;
    value &= lvt_valid(l, i);
    if (!(l->s.svr & SVR_ENABLE)) {
        value |= LVT_MASKED; /* SDM "Local APIC State After It Has Been Software Disabled" */
    }
    l->s.lvt[i] = value | (value & LVT_LEVEL ? l->s.lvt[i] & ro : 0);
    if (i == LAPIC_LVT_TIMER) {
        enum timer_mode mode = timer_mode(l);
        if (mode != old_mode && (mode == TIMER_TSC_DEADLINE || old_mode == TIMER_TSC_DEADLINE)) {
            l->s.timer_expiry = DEVICE_NEVER; /* SDM "TSC-Deadline Mode": a transition disarms */
            l->s.tsc_deadline = 0;
            l->s.timer_initial = l->s.timer_count = 0;
        }
    } else if (i == LAPIC_LVT_LINT0 || i == LAPIC_LVT_LINT1) {
        lint_level_check(l, i - LAPIC_LVT_LINT0);
    }
    changed(l);
}

/* Reads register `offset`; false if there is none (reserved). */
static bool read_reg(struct lapic *l, uint64_t now, uint32_t offset, uint32_t *value)
{
    timer_advance(l, now);
    int lvt = lvt_index(l, offset);
    if (lvt >= 0) {
        *value = l->s.lvt[lvt];
        return true;
    }
    switch (offset) {
    case LAPIC_ID: *value = is_x2apic(l) ? l->s.id : l->s.id << 24; break;
    case LAPIC_VERSION: *value = l->config.version; break;
    case LAPIC_TPR: *value = l->s.tpr; break;
    case LAPIC_PPR: *value = ppr(l); break;
    case LAPIC_LDR: *value = l->s.ldr; break;
    case LAPIC_SVR: *value = l->s.svr; break;
    case LAPIC_ESR: *value = l->s.esr; break;
    case LAPIC_ICR_LOW: *value = l->s.icr_low; break;
    case LAPIC_TIMER_INITIAL: *value = l->s.timer_initial; break;
    case LAPIC_TIMER_CURRENT: *value = timer_current(l, now); break;
    case LAPIC_TIMER_DIVIDE: *value = l->s.timer_divide; break;
    case LAPIC_ISR ... LAPIC_ISR + 0x70: *value = l->s.isr[(offset - LAPIC_ISR) / 16]; break;
    case LAPIC_TMR ... LAPIC_TMR + 0x70: *value = l->s.tmr[(offset - LAPIC_TMR) / 16]; break;
    case LAPIC_IRR ... LAPIC_IRR + 0x70: *value = l->s.irr[(offset - LAPIC_IRR) / 16]; break;
    default: return false;
    }
    return true;
}

/* Writes a register that both modes have in common. False: there is none, or it is read-only. */
static bool write_reg(struct lapic *l, uint64_t now, uint32_t offset, uint32_t value)
{
    timer_advance(l, now);
    int lvt = lvt_index(l, offset);
    if (lvt >= 0) {
        write_lvt(l, now, lvt, value);
        return true;
    }
    switch (offset) {
    case LAPIC_TPR:
        l->s.tpr = value & 0xff;
        changed(l);
        break;
    case LAPIC_EOI: end_of_interrupt(l); break;
    case LAPIC_SVR:
        l->s.svr = value &
                   (0xff | SVR_ENABLE | SVR_FOCUS_OFF | (l->config.version & VERSION_EOI_SUPPR ? SVR_EOI_SUPPRESS : 0));
        if (!(value & SVR_ENABLE)) {
            for (unsigned i = 0; i < LAPIC_LVTS; i++) {
                l->s.lvt[i] |= LVT_MASKED;
            }
        }
        changed(l);
        break;
    case LAPIC_ESR: /* SDM: a write latches what was found since the last write */
        l->s.esr = l->s.esr_pending;
        l->s.esr_pending = 0;
        break;
    case LAPIC_TIMER_INITIAL:
        if (timer_mode(l) != TIMER_TSC_DEADLINE) {
            l->s.timer_initial = value;
            timer_load(l, now, value);
        }
        break;
    case LAPIC_TIMER_DIVIDE: {
        uint32_t left = timer_current(l, now);
        bool running = l->s.timer_expiry != DEVICE_NEVER && timer_mode(l) != TIMER_TSC_DEADLINE;
        l->s.timer_divide = value & 0xb;
        if (running) {
            timer_load(l, now, left);
        }
        break;
    }
    default: return false;
    }
    return true;
}

uint32_t lapic_read(struct lapic *l, uint64_t now, uint32_t offset)
{
    uint32_t v = 0;
    if (!is_enabled(l) || is_x2apic(l)) {
        return UINT32_MAX;
    }
    if (offset & 15) {
        return 0; /* undefined by the manual */
    }
    switch (offset) {
    case LAPIC_APR: return 0; /* not on processors with an xAPIC bus */
    case LAPIC_RRD:
    case LAPIC_EOI: return 0;
    case LAPIC_DFR: return l->s.dfr;
    case LAPIC_ICR_HIGH: return l->s.icr_high;
    }
    if (!read_reg(l, now, offset, &v)) {
        raise_error(l, ESR_REGISTER);
    }
    return v;
}

void lapic_write(struct lapic *l, uint64_t now, uint32_t offset, uint32_t value)
{
    if (!is_enabled(l) || is_x2apic(l) || (offset & 15)) {
        return;
    }
    switch (offset) {
    case LAPIC_ID: l->s.id = value >> 24; return;
    case LAPIC_LDR: l->s.ldr = value & 0xff000000; return;
    case LAPIC_DFR: l->s.dfr = value | 0x0fffffff; return;
    case LAPIC_ICR_HIGH: l->s.icr_high = value & 0xff000000; return;
    case LAPIC_ICR_LOW:
        l->s.icr_low = value & 0xccfff & ~0x1000u;
        timer_advance(l, now);
        send_ipi(l);
        return;
    case LAPIC_VERSION:
    case LAPIC_APR:
    case LAPIC_PPR:
    case LAPIC_RRD:
    case LAPIC_ISR ... LAPIC_IRR + 0x70:
    case LAPIC_TIMER_CURRENT: return; /* read-only */
    }
    if (!write_reg(l, now, offset, value)) {
        raise_error(l, ESR_REGISTER);
    }
}

/* SDM "x2APIC State Transitions". */
static bool write_base(struct lapic *l, uint64_t value)
{
    uint64_t addr = ((UINT64_C(1) << l->config.phys_bits) - 1) & ~UINT64_C(0xfff);
    uint64_t valid = addr | LAPIC_BASE_BSP | LAPIC_BASE_EN | (l->config.x2apic ? LAPIC_BASE_EXTD : 0);
    uint64_t from = l->s.base & (LAPIC_BASE_EN | LAPIC_BASE_EXTD);
    uint64_t to = value & (LAPIC_BASE_EN | LAPIC_BASE_EXTD);
    if (value & ~valid) {
        return false;
    }
    if (to == LAPIC_BASE_EXTD) {
        return false;
    }
    if ((from & LAPIC_BASE_EXTD) && to == LAPIC_BASE_EN) {
        return false;
    }
    if (!from && (to & LAPIC_BASE_EXTD)) {
        return false;
    }
    if (from && !to) { /* SDM: a disabled APIC loses its state */
        uint64_t offset = l->s.tsc_offset;
        bool lint0 = l->s.lint[0], lint1 = l->s.lint[1];
        lapic_reset(l, false);
        l->s.tsc_offset = offset;
        l->s.lint[0] = lint0;
        l->s.lint[1] = lint1;
    }
    l->s.base = value;
    if (!(from & LAPIC_BASE_EXTD) && (to & LAPIC_BASE_EXTD)) {
        l->s.id = l->config.initial_id;
        l->s.ldr = x2apic_ldr(l->s.id);
        l->s.icr_high = 0;
    }
    changed(l);
    return true;
}

bool lapic_read_msr(struct lapic *l, uint64_t now, uint32_t msr, uint64_t *value)
{
    if (msr == LAPIC_MSR_BASE) {
        *value = l->s.base;
        return true;
    }
    if (msr == LAPIC_MSR_TSC_DEADLINE) {
        timer_advance(l, now);
        *value = timer_mode(l) == TIMER_TSC_DEADLINE ? l->s.tsc_deadline : 0;
        return l->config.tsc_deadline;
    }
    if (msr < LAPIC_MSR_X2APIC || msr > LAPIC_MSR_X2APIC + 0xff || !is_x2apic(l)) {
        return false;
    }
    uint32_t offset = (msr - LAPIC_MSR_X2APIC) * 16, low = 0;
    if (offset == LAPIC_ICR_LOW) {
        *value = (uint64_t)l->s.icr_high << 32 | l->s.icr_low;
        return true;
    }
    bool ok = read_reg(l, now, offset, &low);
    *value = low;
    return ok;
}

bool lapic_write_msr(struct lapic *l, uint64_t now, uint32_t msr, uint64_t value)
{
    if (msr == LAPIC_MSR_BASE) {
        return write_base(l, value);
    }
    if (msr == LAPIC_MSR_TSC_DEADLINE) {
        if (!l->config.tsc_deadline) {
            return false;
        }
        timer_advance(l, now);
        if (timer_mode(l) == TIMER_TSC_DEADLINE) {
            l->s.tsc_deadline = value;
            timer_arm_deadline(l, now);
        }
        return true;
    }
    if (msr < LAPIC_MSR_X2APIC || msr > LAPIC_MSR_X2APIC + 0xff || !is_x2apic(l)) {
        return false;
    }
    uint32_t offset = (msr - LAPIC_MSR_X2APIC) * 16, low = (uint32_t)value;
    if (offset == LAPIC_ICR_LOW) {
        if (low & ~0xccfffu || low & 0x1000) {
            return false;
        }
        l->s.icr_high = value >> 32;
        l->s.icr_low = low;
        timer_advance(l, now);
        send_ipi(l);
        return true;
    }
    if (value >> 32) {
        return false;
    }
    int lvt = lvt_index(l, offset);
    if (lvt >= 0) {
        if (low & ~(lvt_valid(l, lvt) | 0x1000 | LVT_REMOTE_IRR)) {
            return false;
        }
        return write_reg(l, now, offset, low);
    }
    switch (offset) {
    case LAPIC_EOI:
    case LAPIC_ESR:
        if (low) {
            return false;
        }
        break;
    case LAPIC_TPR:
        if (low & ~0xffu) {
            return false;
        }
        break;
    case LAPIC_SVR:
        if (low &
            ~(0xff | SVR_ENABLE | SVR_FOCUS_OFF | (l->config.version & VERSION_EOI_SUPPR ? SVR_EOI_SUPPRESS : 0))) {
            return false;
        }
        break;
    case LAPIC_TIMER_DIVIDE:
        if (low & ~0xbu) {
            return false;
        }
        break;
    case LAPIC_SELF_IPI:
        if (low & ~0xffu) {
            return false;
        }
        if (low < 16) {
            raise_error(l, ESR_SEND_ILLEGAL);
        } else {
            accept_fixed(l, low, false);
        }
        return true;
    }
    return write_reg(l, now, offset, low);
}

/* SDM "Local APIC State After Power-Up or Reset", "... After an INIT Reset". */
void lapic_reset(struct lapic *l, bool init)
{
    uint64_t base = l->s.base, offset = l->s.tsc_offset;
    uint32_t id = l->s.id;
    bool lint0 = l->s.lint[0], lint1 = l->s.lint[1];
    l->s = (struct lapic_state){0};
    l->s.base = UINT64_C(0xfee00000) | LAPIC_BASE_EN | (l->config.bsp ? LAPIC_BASE_BSP : 0);
    l->s.id = l->config.initial_id & 0xff;
    l->s.dfr = UINT32_MAX;
    l->s.svr = 0xff;
    l->s.timer_expiry = DEVICE_NEVER;
    for (unsigned i = 0; i < LAPIC_LVTS; i++) {
        l->s.lvt[i] = LVT_MASKED;
    }
    if (init) {
        l->s.base = base;
        l->s.id = id;
        l->s.tsc_offset = offset;
        l->s.lint[0] = lint0;
        l->s.lint[1] = lint1;
        if (is_x2apic(l)) {
            l->s.ldr = x2apic_ldr(id);
        }
    }
    changed(l);
}

void lapic_init(struct lapic *l)
{
    if (!l->config.tsc_num || !l->config.tsc_den) {
        l->config.tsc_num = l->config.tsc_den = 1;
    }
    lapic_reset(l, false);
}
