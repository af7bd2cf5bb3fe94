/* SPDX-License-Identifier: MIT
 *
 * hpet.c: IA-PC HPET Specification 1.0a, "Register Model", "Theory Of Operation".
 *
 * Nothing ticks: the counter is the time, and a match is found by arithmetic when time has gone over it. A periodic
 * timer that has matched more than once since then gives one interrupt (edges that nobody took in between are one).
 */
#include "src/dev/hpet.h"

enum { REG_ID = 0x000, REG_CONFIG = 0x010, REG_STATUS = 0x020, REG_COUNTER = 0x0f0, REG_TIMER = 0x100 };
enum { TIMER_CONFIG = 0x00, TIMER_COMPARATOR = 0x08, TIMER_FSB = 0x10 };

#define ENABLE UINT64_C(1)
#define LEGACY UINT64_C(2)

#define T_LEVEL     UINT64_C(0x0002)
#define T_ENABLE    UINT64_C(0x0004)
#define T_PERIODIC  UINT64_C(0x0008)
#define T_PERIODIC_ UINT64_C(0x0010) /* capable */
#define T_WIDE      UINT64_C(0x0020) /* 64 bits */
#define T_SET       UINT64_C(0x0040) /* the next write to the comparator sets it, not only the period */
#define T_32        UINT64_C(0x0100)
#define T_ROUTE(v)  ((unsigned)((v) >> 9 & 31))
#define T_WRITABLE  UINT64_C(0x3f4e)

static bool periodic(const struct hpet_timer *t)
{
    return t->config & T_PERIODIC;
}

static uint64_t mask(const struct hpet_timer *t)
{
    return t->config & T_32 ? UINT32_MAX : UINT64_MAX;
}

static uint64_t counter(const struct hpet *h, uint64_t now)
{
    return h->s.config & ENABLE ? now / HPET_PERIOD_NS - h->s.start : h->s.counter;
}

/* ---- lines ----------------------------------------------------------------------------------------------------- */

static void drive(struct hpet *h, unsigned n, bool level)
{
    if ((h->s.config & LEGACY) && n < 2) {
        if (h->isa.set) {
            h->isa.set(h->isa.opaque, n ? 8 : 0, level);
        }
    } else if (HPET_PINS >> T_ROUTE(h->s.timer[n].config) & 1 && h->irq.set) {
        h->irq.set(h->irq.opaque, T_ROUTE(h->s.timer[n].config), level);
    }
}

static void lower(struct hpet *h, unsigned n)
{
    if (h->s.timer[n].raised) {
        h->s.timer[n].raised = false;
        drive(h, n, false);
    }
}

/* The line of a level-triggered timer follows its status. */
static void update_level(struct hpet *h, unsigned n)
{
    struct hpet_timer *t = &h->s.timer[n];
    if (!(t->config & T_LEVEL)) {
        return;
    }
    bool level = (t->config & T_ENABLE) && (h->s.config & ENABLE) && (h->s.status >> n & 1);
    if (!level) {
        lower(h, n);
    } else if (!t->raised) {
        t->raised = true;
        drive(h, n, true);
    }
}

static void match(struct hpet *h, unsigned n)
{
    struct hpet_timer *t = &h->s.timer[n];
    if (t->config & T_LEVEL) {
        h->s.status |= UINT64_C(1) << n;
        update_level(h, n);
    } else if (t->config & T_ENABLE) { /* the line stays high until the next: an 8259 wants it so */
        lower(h, n);
        t->raised = true;
        drive(h, n, true);
    }
}

/* ---- time ------------------------------------------------------------------------------------------------------ */

/* Ticks from `from` to the timer's next match, at least 1; 0: more than 2^64. */
static uint64_t distance(const struct hpet_timer *t, uint64_t from)
{
    return ((t->comparator - from - 1) & mask(t)) + 1;
}

void hpet_run(struct hpet *h, uint64_t now)
{
    if (!(h->s.config & ENABLE)) {
        return;
    }
    uint64_t to = counter(h, now), passed = to - h->s.done;
    for (unsigned n = 0; n < HPET_TIMERS && passed; n++) {
        struct hpet_timer *t = &h->s.timer[n];
        uint64_t d = distance(t, h->s.done);
        if (!d || d > passed) {
            continue;
        }
        if (periodic(t) && t->period) {
            t->comparator = (t->comparator + ((passed - d) / t->period + 1) * t->period) & mask(t);
        }
        match(h, n);
    }
    h->s.done = to;
}

uint64_t hpet_deadline(const struct hpet *h)
{
    uint64_t ns = DEVICE_NEVER;
    for (unsigned n = 0; n < HPET_TIMERS && (h->s.config & ENABLE); n++) {
        const struct hpet_timer *t = &h->s.timer[n];
        uint64_t d = distance(t, h->s.done), at = h->s.start + h->s.done + d;
        bool told = (t->config & T_LEVEL) && (h->s.status >> n & 1); /* nothing to tell before it is cleared */
        if ((t->config & T_ENABLE) && !told && d && at >= d && at < DEVICE_NEVER / HPET_PERIOD_NS &&
            at * HPET_PERIOD_NS < ns) {
            ns = at * HPET_PERIOD_NS;
        }
    }
    return ns;
}

/* ---- registers ------------------------------------------------------------------------------------------------- */

static uint64_t timer_capabilities(unsigned n)
{
    return HPET_PINS << 32 | T_WIDE | (n == 0 ? T_PERIODIC_ : 0);
}

static uint64_t get(const struct hpet *h, uint64_t now, uint64_t reg)
{
    switch (reg) {
    case REG_ID: return (uint64_t)HPET_PERIOD_NS * 1000000 << 32 | HPET_ID;
    case REG_CONFIG: return h->s.config;
    case REG_STATUS: return h->s.status;
    case REG_COUNTER: return counter(h, now);
    }
    uint64_t n = (reg - REG_TIMER) / 0x20;
    if (reg < REG_TIMER || n >= HPET_TIMERS) {
        return 0;
    }
    const struct hpet_timer *t = &h->s.timer[n];
    switch ((reg - REG_TIMER) % 0x20) {
    case TIMER_CONFIG: return t->config | timer_capabilities((unsigned)n);
    case TIMER_COMPARATOR: return t->comparator;
    }
    return 0;
}

static void set_config(struct hpet *h, uint64_t now, uint64_t v)
{
    uint64_t old = h->s.config;
    if ((v ^ old) & LEGACY) {
        for (unsigned n = 0; n < 2; n++) {
            lower(h, n);
        }
    }
    if ((v & ENABLE) && !(old & ENABLE)) {
        h->s.start = now / HPET_PERIOD_NS - h->s.counter;
        h->s.done = h->s.counter;
    } else if (!(v & ENABLE) && (old & ENABLE)) {
        h->s.counter = counter(h, now);
    }
    h->s.config = v & (ENABLE | LEGACY);
    if ((v ^ old) & LEGACY) {
        device_line_set(&h->legacy, v & LEGACY);
    }
    for (unsigned n = 0; n < HPET_TIMERS; n++) {
        update_level(h, n);
    }
}

static void set_timer_config(struct hpet *h, unsigned n, uint64_t v)
{
    struct hpet_timer *t = &h->s.timer[n];
    uint64_t writable = T_WRITABLE;
    if (n != 0) {
        writable &= ~(T_PERIODIC | T_SET);
    }
    lower(h, n);
    t->config = v & writable;
    if (!(HPET_PINS >> T_ROUTE(v) & 1)) { /* "Tn_INT_ROUTE_CNF": a value that is not supported does not read back */
        t->config &= ~(UINT64_C(31) << 9);
    }
    t->comparator &= mask(t);
    t->period &= mask(t);
    update_level(h, n);
}

/* "Timer N Comparator Value Register": `bits` of the value are written. */
static void set_comparator(struct hpet_timer *t, uint64_t v, uint64_t bits)
{
    if (periodic(t)) {
        t->period = ((t->period & ~bits) | (v & bits)) & mask(t);
    }
    if (!periodic(t) || (t->config & T_SET)) {
        t->comparator = ((t->comparator & ~bits) | (v & bits)) & mask(t);
    }
    t->config &= ~T_SET;
}

static void set(struct hpet *h, uint64_t now, uint64_t reg, uint64_t v, uint64_t bits)
{
    uint64_t n = (reg - REG_TIMER) / 0x20;
    switch (reg) {
    case REG_CONFIG: set_config(h, now, (h->s.config & ~bits) | (v & bits)); return;
    case REG_STATUS:
        h->s.status &= ~(v & bits);
        for (unsigned i = 0; i < HPET_TIMERS; i++) {
            update_level(h, i);
        }
        return;
    case REG_COUNTER:
        if (!(h->s.config & ENABLE)) {
            h->s.counter = (h->s.counter & ~bits) | (v & bits);
        }
        return;
    }
    if (reg < REG_TIMER || n >= HPET_TIMERS) {
        return;
    }
    struct hpet_timer *t = &h->s.timer[n];
    switch ((reg - REG_TIMER) % 0x20) {
    case TIMER_CONFIG: set_timer_config(h, (unsigned)n, (t->config & ~bits) | (v & bits)); break;
    case TIMER_COMPARATOR: set_comparator(t, v, bits); break;
    }
}

static bool whole(uint64_t offset, unsigned size)
{
    return size >= 4 && !(offset & (size - 1)) && offset < 0x400;
}

static uint64_t hpet_read(void *dev, uint64_t now, uint64_t offset, unsigned size)
{
    struct hpet *h = dev;
    hpet_run(h, now);
    return whole(offset, size) ? get(h, now, offset & ~UINT64_C(7)) >> (offset & 4) * 8 : 0;
}

static void hpet_write(void *dev, uint64_t now, uint64_t offset, unsigned size, uint64_t value)
{
    struct hpet *h = dev;
    hpet_run(h, now);
    if (whole(offset, size)) {
        set(h, now, offset & ~UINT64_C(7), value << (offset & 4) * 8, device_ones(size) << (offset & 4) * 8);
    }
}

void hpet_init(struct hpet *h)
{
    h->s = (struct hpet_state){0};
    for (unsigned n = 0; n < HPET_TIMERS; n++) {
        h->s.timer[n].comparator = UINT64_MAX;
    }
    device_line_set(&h->legacy, false);
}

static void run(void *dev, uint64_t now)
{
    hpet_run(dev, now);
}
static uint64_t deadline(const void *dev)
{
    return hpet_deadline(dev);
}

const struct device_ops hpet_ops = {
    .name = "hpet", .width = 8, .read = hpet_read, .write = hpet_write, .run = run, .deadline = deadline};
