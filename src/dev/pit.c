/* SPDX-License-Identifier: MIT
 *
 * pit.c: the 8254 (Intel 8254 data sheet, "Mode Definitions", "Read Operations").
 *
 * Nothing counts: a channel keeps the tick of its last load, and everything else follows from the time. A count is
 * loaded by the CLK pulse after its write. advance() brings a channel to a tick and says whether OUT rose on the way.
 */
#include "src/dev/pit.h"

static uint64_t ns_to_ticks(uint64_t ns)
{
    return device_muldiv(ns, PIT_HZ, DEVICE_NS_PER_S);
}
static uint64_t ticks_to_ns(uint64_t ticks)
{
    return device_muldiv_up(ticks, DEVICE_NS_PER_S, PIT_HZ);
}

static uint32_t full_scale(const struct pit_channel *c)
{
    return c->bcd ? 10000 : 65536;
}

static uint32_t decode_count(const struct pit_channel *c, uint16_t v)
{
    uint32_t n = v;
    if (c->bcd) {
        n = (v >> 12) * 1000 + (v >> 8 & 15) * 100 + (v >> 4 & 15) * 10 + (v & 15);
    }
    return n ? n : full_scale(c);
}

static uint16_t encode_count(const struct pit_channel *c, uint32_t n)
{
    n %= full_scale(c);
    return c->bcd ? n / 1000 << 12 | n / 100 % 10 << 8 | n / 10 % 10 << 4 | n % 10 : n;
}

/* Whether the gate lets the counter count now. */
static bool is_counting(const struct pit_channel *c)
{
    if (!c->loaded || c->stopped) {
        return false;
    }
    return c->mode == 1 || c->mode == 5 ? c->running : c->gate;
}

static uint64_t elapsed(const struct pit_channel *c, uint64_t t)
{
    if (!is_counting(c)) {
        return c->frozen;
    }
    return t > c->start ? t - c->start : 0;
}

static uint32_t half_length(const struct pit_channel *c)
{
    return c->half_low ? c->count / 2 : (c->count + 1) / 2;
}

/* Modes 2 and 3 begin a period; a count that waits is loaded. */
static void reload(struct pit_channel *c)
{
    if (c->next) {
        c->count = c->next;
        c->next = 0;
    }
}

static bool advance_rate(struct pit_channel *c, uint64_t t)
{
    uint64_t d = elapsed(c, t);
    bool rose = false;
    if (!is_counting(c)) {
        c->out = true;
        return false;
    }
    if (d >= c->count) {
        rose = true;
        c->start += c->count;
        reload(c);
        d = t > c->start ? t - c->start : 0;
        c->start += d / c->count * c->count;
        d %= c->count;
    }
    c->out = d + 1 != c->count || c->count == 1;
    return rose;
}

static bool advance_square(struct pit_channel *c, uint64_t t)
{
    if (!is_counting(c)) {
        c->out = true;
        return false;
    }
    bool rose = false;
    uint64_t d = elapsed(c, t);
    if (!c->next && c->count > 1 && d >= 2 * (uint64_t)c->count) {
        c->start += d / c->count * c->count - c->count;
        rose = true;
        d = t - c->start;
    }
    while (d >= half_length(c)) {
        c->start += half_length(c);
        d = t - c->start;
        c->half_low = !c->half_low;
        rose |= !c->half_low;
        reload(c);
        if (c->count < 2) {
            break; /* the data sheet forbids 1 here */
        }
    }
    c->out = !c->half_low;
    return rose;
}

static bool advance(struct pit_channel *c, uint64_t t)
{
    bool was = c->out;
    uint64_t d = elapsed(c, t);
    switch (c->mode) {
    case 2: return advance_rate(c, t);
    case 3: return advance_square(c, t);
    case 0: c->out = c->loaded && !c->stopped && d >= c->count; break;
    case 1: c->out = !c->running || d >= c->count; break;
    case 4:
    case 5: {
        /* A strobe of one tick at the end of the count; once. */
        bool live = c->loaded && (c->mode == 4 || c->running);
        bool before = was;
        c->out = !(live && d == c->count);
        if (live && d > c->count && !c->stopped && c->next == 0 && !c->half_low) {
            c->half_low = true; /* the strobe is over */
            return true;
        }
        return !before && c->out;
    }
    }
    return !was && c->out;
}

static uint32_t current(const struct pit_channel *c, uint64_t t)
{
    uint64_t d = elapsed(c, t);
    uint32_t scale = full_scale(c);
    switch (c->mode) {
    case 2: return c->count - (uint32_t)(d % c->count);
    case 3: {
        uint32_t even = c->count & ~1u;
        return d * 2 < even ? even - (uint32_t)d * 2 : 2;
    }
    default: return (uint32_t)((c->count + scale - d % scale) % scale);
    }
}

/* ---- the line of channel 0 ------------------------------------------------------------------------------------ */

static void sync(struct pit *p, uint64_t t, unsigned i)
{
    struct pit_channel *c = &p->s.ch[i];
    bool rose = advance(c, t);
    if (i) {
        return;
    }
    if (rose && p->s.line) {
        device_line_set(&p->irq, false);
        p->s.line = false;
    }
    if (rose) {
        device_line_set(&p->irq, true);
        p->s.line = true;
    }
    if (p->s.line != c->out) {
        p->s.line = c->out;
        device_line_set(&p->irq, c->out);
    }
}

void pit_run(struct pit *p, uint64_t now)
{
    sync(p, ns_to_ticks(now), 0);
}

uint64_t pit_deadline(const struct pit *p)
{
    const struct pit_channel *c = &p->s.ch[0];
    uint64_t at;
    if (!is_counting(c)) {
        return DEVICE_NEVER;
    }
    switch (c->mode) {
    case 0:
    case 1:
        if (c->out) {
            return DEVICE_NEVER;
        }
        at = c->start + c->count;
        break;
    case 2: at = c->start + c->count; break;
    case 3: at = c->start + half_length(c) + (c->half_low ? 0 : c->count / 2); break;
    default:
        if (c->half_low) {
            return DEVICE_NEVER;
        }
        at = c->start + c->count + 1;
        break;
    }
    return ticks_to_ns(at);
}

/* ---- registers ------------------------------------------------------------------------------------------------ */

static void load(struct pit_channel *c, uint64_t t, uint32_t n)
{
    bool periodic = c->mode == 2 || c->mode == 3;
    bool triggered = c->mode == 1 || c->mode == 5;
    if ((periodic && c->loaded) || triggered) {
        c->next = n;
        c->loaded |= triggered;
        if (triggered && !c->running) {
            c->count = n;
        }
        return;
    }
    c->count = n;
    c->start = t + 1;
    c->frozen = 0;
    c->half_low = false;
    c->loaded = true;
    c->stopped = false;
}

static void write_count(struct pit *p, uint64_t t, unsigned i, uint8_t v)
{
    struct pit_channel *c = &p->s.ch[i];
    sync(p, t, i);
    switch (c->rw) {
    case 1: load(c, t, decode_count(c, v)); break;
    case 2: load(c, t, decode_count(c, (uint16_t)(v << 8))); break;
    case 3:
        if (!c->write_high) {
            c->write_low = v;
            if (c->mode == 0) { /* data sheet: the first byte stops the count, OUT goes low */
                c->frozen = elapsed(c, t);
                c->stopped = true;
            }
        } else {
            load(c, t, decode_count(c, (uint16_t)(v << 8 | c->write_low)));
        }
        c->write_high = !c->write_high;
        break;
    }
    sync(p, t, i);
}

static void latch_count(struct pit_channel *c, uint64_t t)
{
    if (!c->latched) {
        c->latch = encode_count(c, current(c, t));
        c->latched = c->rw == 3 ? 2 : 1;
    }
}

static void latch_status(struct pit_channel *c, uint64_t t)
{
    if (!c->status_latched) {
        bool null = !c->loaded || c->next || c->stopped || (is_counting(c) && t < c->start);
        c->status = c->out << 7 | null << 6 | c->rw << 4 | c->mode << 1 | c->bcd;
        c->status_latched = true;
    }
}

static void write_control(struct pit *p, uint64_t t, uint8_t v)
{
    unsigned i = v >> 6;
    if (i == 3) { /* read-back */
        for (i = 0; i < 3; i++) {
            if (v >> (i + 1) & 1) {
                sync(p, t, i);
                if (!(v & 0x20)) {
                    latch_count(&p->s.ch[i], t);
                }
                if (!(v & 0x10)) {
                    latch_status(&p->s.ch[i], t);
                }
            }
        }
        return;
    }
    struct pit_channel *c = &p->s.ch[i];
    sync(p, t, i);
    if (!(v & 0x30)) {
        latch_count(c, t);
        return;
    }
    uint32_t count = c->count;
    *c = (struct pit_channel){.gate = c->gate, .count = count};
    c->rw = v >> 4 & 3;
    c->mode = (v >> 1 & 7) > 5 ? (v >> 1 & 3) : v >> 1 & 7;
    c->bcd = v & 1;
    bool was = p->s.line;
    c->out = c->mode != 0;
    if (i == 0 && was != c->out) {
        p->s.line = c->out;
        device_line_set(&p->irq, c->out);
    }
}

static uint8_t read_count(struct pit *p, uint64_t t, unsigned i)
{
    struct pit_channel *c = &p->s.ch[i];
    sync(p, t, i);
    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    uint16_t v = c->latched ? c->latch : encode_count(c, current(c, t));
    bool high = c->rw == 2 || (c->rw == 3 && c->read_high);
    if (c->rw == 3) {
        c->read_high = !c->read_high;
    }
    if (c->latched) {
        c->latched--;
    }
    return high ? v >> 8 : v;
}

static void set_gate(struct pit *p, uint64_t t, unsigned i, bool gate)
{
    struct pit_channel *c = &p->s.ch[i];
    if (c->gate == gate) {
        return;
    }
    sync(p, t, i);
    uint64_t d = elapsed(c, t);
    c->gate = gate;
    if (gate) {
        switch (c->mode) {
        case 0:
        case 4: c->start = t - c->frozen; break;
        case 1:
        case 5:
            if (c->loaded) {
                reload(c);
                c->running = true;
                c->half_low = false;
                c->start = t + 1;
            }
            break;
        default:
            reload(c);
            c->half_low = false;
            c->start = t + 1;
            break;
        }
    } else if (c->mode != 1 && c->mode != 5) {
        c->frozen = d;
    }
    sync(p, t, i);
}

static uint64_t pit_read(void *dev, uint64_t now, uint64_t offset, unsigned size)
{
    struct pit *p = dev;
    uint64_t t = ns_to_ticks(now);
    if (offset < 3) {
        return read_count(p, t, offset);
    }
    if (offset == 4) {
        sync(p, t, 2);
        /* Bit 4 toggles with each refresh request, about every 15 us. */
        return p->s.port61 | (t / 18 & 1) << 4 | p->s.ch[2].out << 5;
    }
    return 0xff;
}

static void pit_write(void *dev, uint64_t now, uint64_t offset, unsigned size, uint64_t value)
{
    struct pit *p = dev;
    uint64_t t = ns_to_ticks(now);
    if (offset < 3) {
        write_count(p, t, offset, value);
    } else if (offset == 3) {
        write_control(p, t, value);
    } else {
        p->s.port61 = value & 0xf;
        set_gate(p, t, 2, value & 1);
    }
}

void pit_init(struct pit *p)
{
    p->s = (struct pit_state){0};
    for (unsigned i = 0; i < 3; i++) {
        p->s.ch[i].gate = i != 2;
        p->s.ch[i].rw = 3;
        p->s.ch[i].count = 65536;
        p->s.ch[i].mode = 3;
        p->s.ch[i].out = true;
    }
    p->s.line = true; /* OUT rests high; the first edge comes when a channel is programmed */
}

static void run(void *dev, uint64_t now)
{
    pit_run(dev, now);
}
static uint64_t deadline(const void *dev)
{
    return pit_deadline(dev);
}

const struct device_ops pit_ops = {
    .name = "pit", .width = 1, .read = pit_read, .write = pit_write, .run = run, .deadline = deadline};
