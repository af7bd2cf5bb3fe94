/* SPDX-License-Identifier: MIT
 *
 * pic.c: two 8259As in cascade (Intel 8259A data sheet, "Operation Command Words", "Initialization Command Words").
 *
 * In edge mode a request is there from the rising edge until it is acknowledged or the input falls; in level mode as
 * long as the input is high. A request that goes away before INTA gives input 7's vector, without a bit in service. Not
 * here: MCS-80 mode, buffered mode (no effect in a PC).
 */
#include "src/dev/pic.h"

enum { MASTER, SLAVE };
#define CASCADE 2

static bool is_level(const struct pic_chip *c, unsigned i)
{
    return c->level_all || (c->elcr >> i & 1);
}

/* The input of `mask` that has the highest priority, 8 if there is none; its rank through *rank. */
static unsigned first_by_priority(const struct pic_chip *c, uint8_t mask, unsigned *rank)
{
    for (unsigned r = 0; r < 8; r++) {
        unsigned i = (c->lowest + 1 + r) & 7;
        if (mask >> i & 1) {
            *rank = r;
            return i;
        }
    }
    *rank = 8;
    return 8;
}

/* The input that is requesting and not held back by what is in service; 8 if none. */
static unsigned requested(const struct pic_chip *c, bool is_master)
{
    unsigned want, busy;
    unsigned i = first_by_priority(c, c->irr & ~c->imr, &want);
    if (i == 8) {
        return 8;
    }
    uint8_t isr = c->isr;
    if (c->special_mask) {
        isr &= ~c->imr;
    }
    if (is_master && c->special_nested && i == CASCADE) {
        isr &= ~(1 << CASCADE);
    }
    first_by_priority(c, isr, &busy);
    if (c->special_mask) { /* only the same level holds back */
        return isr >> i & 1 ? 8 : i;
    }
    return want < busy ? i : 8;
}

static void update_irr(struct pic_chip *c, unsigned i, bool level)
{
    uint8_t bit = 1 << i;
    bool was = c->lines & bit;
    c->lines = level ? c->lines | bit : c->lines & ~bit;
    if (!level) {
        c->irr &= ~bit;
    } else if (is_level(c, i) || !was) {
        c->irr |= bit;
    }
}

static void update(struct pic *p)
{
    struct pic_chip *m = &p->s.chip[MASTER];
    update_irr(m, CASCADE, requested(&p->s.chip[SLAVE], false) < 8);
    device_line_set(&p->intr, requested(m, true) < 8);
}

bool pic_intr(const struct pic *p)
{
    return requested(&p->s.chip[MASTER], true) < 8;
}

void pic_set_line(struct pic *p, unsigned line, bool level)
{
    if (line > 15 || line == CASCADE) {
        return;
    }
    update_irr(&p->s.chip[line / 8], line & 7, level);
    update(p);
}

static void end_of_interrupt(struct pic_chip *c, unsigned i, bool rotate)
{
    c->isr &= ~(1 << i);
    if (rotate) {
        c->lowest = i;
    }
}

/* One chip's part of INTA: the input number, 7 if the request has gone. */
static unsigned acknowledge(struct pic_chip *c, bool is_master)
{
    unsigned i = requested(c, is_master);
    if (i == 8) {
        return 7;
    }
    if (!is_level(c, i)) {
        c->irr &= ~(1 << i);
    }
    c->isr |= 1 << i;
    if (c->auto_eoi) {
        end_of_interrupt(c, i, c->rotate_aeoi);
    }
    return i;
}

uint8_t pic_ack(struct pic *p)
{
    struct pic_chip *m = &p->s.chip[MASTER], *s = &p->s.chip[SLAVE];
    bool any = pic_intr(p);
    unsigned i = acknowledge(m, true);
    uint8_t vector = m->vector + i;
    if (any && i == CASCADE && !m->single) {
        i = acknowledge(s, false);
        vector = s->vector + i;
        /* The cascade line falls and rises again for what the slave still requests: a new edge. */
        update_irr(m, CASCADE, false);
    }
    update(p);
    return vector;
}

static void write_icw1(struct pic_chip *c, uint8_t v)
{
    /* Data sheet, "ICW1": edge sense is reset, IMR cleared, input 7 is lowest, special mask off, reads give IRR. */
    c->irr = 0;
    c->isr = 0;
    c->imr = 0;
    c->lowest = 7;
    c->special_mask = c->read_isr = c->poll = false;
    c->rotate_aeoi = false;
    c->needs_icw4 = v & 1;
    c->single = v & 2;
    c->level_all = v & 8;
    if (!c->needs_icw4) {
        c->auto_eoi = c->special_nested = false;
    }
    for (unsigned i = 0; i < 8; i++) {
        if (is_level(c, i) && (c->lines >> i & 1)) {
            c->irr |= 1 << i;
        }
    }
    c->icw_next = 2;
}

static void write_icw(struct pic_chip *c, uint8_t v)
{
    switch (c->icw_next) {
    case 2:
        c->vector = v & 0xf8;
        c->icw_next = !c->single ? 3 : c->needs_icw4 ? 4 : 0;
        break;
    case 3:
        c->cascade = v;
        c->icw_next = c->needs_icw4 ? 4 : 0;
        break;
    case 4:
        c->auto_eoi = v & 2;
        c->special_nested = v & 0x10;
        c->icw_next = 0;
        break;
    }
}

static void write_ocw2(struct pic_chip *c, uint8_t v)
{
    unsigned level = v & 7, rank, i;
    switch (v >> 5) {
    case 0: c->rotate_aeoi = false; break;
    case 4: c->rotate_aeoi = true; break;
    case 1: /* non-specific EOI */
    case 5: /* ... and rotate */
        i = first_by_priority(c, c->special_mask ? c->isr & ~c->imr : c->isr, &rank);
        if (i < 8) {
            end_of_interrupt(c, i, v >> 5 == 5);
        }
        break;
    case 3: /* specific EOI */
    case 7: end_of_interrupt(c, level, v >> 5 == 7); break;
    case 6: c->lowest = level; break; /* set priority */
    case 2: break;                    /* no operation */
    }
}

static void write_ocw3(struct pic_chip *c, uint8_t v)
{
    if (v & 4) {
        c->poll = true;
    }
    if (v & 2) {
        c->read_isr = v & 1;
    }
    if (v & 0x40) {
        c->special_mask = v & 0x20;
    }
}

static void pic_write(void *dev, uint64_t now, uint64_t offset, unsigned size, uint64_t value)
{
    struct pic *p = dev;
    struct pic_chip *c = &p->s.chip[offset / 2 & 1];
    uint8_t v = value;
    if (offset >= 4) { /* lines 0, 1, 2, 8 and 13 are edge-triggered always */
        p->s.chip[offset & 1].elcr = v & (offset & 1 ? 0xde : 0xf8);
        c = &p->s.chip[offset & 1];
        for (unsigned i = 0; i < 8; i++) {
            if (is_level(c, i)) {
                update_irr(c, i, c->lines >> i & 1);
            }
        }
    } else if (offset & 1) {
        if (c->icw_next) {
            write_icw(c, v);
        } else {
            c->imr = v;
        }
    } else if (v & 0x10) {
        write_icw1(c, v);
    } else if (v & 8) {
        write_ocw3(c, v);
    } else {
        write_ocw2(c, v);
    }
    update(p);
}

static uint64_t pic_read(void *dev, uint64_t now, uint64_t offset, unsigned size)
{
    struct pic *p = dev;
    if (offset >= 4) {
        return p->s.chip[offset & 1].elcr;
    }
    bool is_master = offset < 2;
    struct pic_chip *c = &p->s.chip[is_master ? MASTER : SLAVE];
    if (c->poll) { /* data sheet, "Poll Command": the read is the acknowledgement */
        bool any = requested(c, is_master) < 8;
        uint8_t v = acknowledge(c, is_master);
        c->poll = false;
        update(p);
        return any ? v | 0x80 : 0;
    }
    if (offset & 1) {
        return c->imr;
    }
    return c->read_isr ? c->isr : c->irr;
}

void pic_init(struct pic *p)
{
    p->s = (struct pic_state){0};
    for (unsigned i = 0; i < 2; i++) {
        p->s.chip[i].lowest = 7;
        p->s.chip[i].imr = 0xff; /* undefined until ICW1; nothing gets through a PC's before firmware has set it up */
    }
    device_line_set(&p->intr, false);
}

const struct device_ops pic_ops = {.name = "pic", .width = 1, .read = pic_read, .write = pic_write};
