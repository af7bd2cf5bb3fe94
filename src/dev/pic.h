/* SPDX-License-Identifier: MIT
 *
 * pic.h: the pair of 8259A interrupt controllers of a PC, with the edge/level control registers (ELCR).
 *
 * Register space: 0, 1 the master's ports 0x20, 0x21; 2, 3 the slave's 0xa0, 0xa1; 4, 5 the ELCR's 0x4d0, 0x4d1.
 * Input lines 0 to 15 (2 is the cascade and ignored). Output: `intr`, the master's INT.
 */
#ifndef VMENTER_DEV_PIC_H
#define VMENTER_DEV_PIC_H

#include <vmenter/device.h>

struct pic_chip {
    uint8_t irr, isr, imr, elcr;
    uint8_t lines;    /* input levels */
    uint8_t icw_next; /* 0: initialised; else the number of the ICW that the next write to the odd port is */
    uint8_t vector;   /* ICW2, upper five bits */
    uint8_t cascade;  /* ICW3 */
    uint8_t lowest;   /* the input that has the lowest priority */
    bool needs_icw4, single, level_all;
    bool auto_eoi, special_nested, rotate_aeoi, special_mask;
    bool read_isr, poll;
};

struct pic_state {
    struct pic_chip chip[2];
};

struct pic {
    struct device_line intr;
    struct pic_state s;
};

void pic_init(struct pic *p);
void pic_set_line(struct pic *p, unsigned line, bool level);
/* INTA cycles: acknowledges the highest request and returns its vector (a spurious one if it has gone). */
uint8_t pic_ack(struct pic *p);
bool pic_intr(const struct pic *p);

extern const struct device_ops pic_ops;

#endif
