/* SPDX-License-Identifier: MIT
 *
 * hpet.h: a high precision event timer block (IA-PC HPET Specification 1.0a): a 64-bit counter at 100 MHz and three
 * timers, the first of them periodic; legacy replacement; no FSB interrupts.
 *
 * Register space: the 1 KiB block (usually at 0xfed00000); accesses of 4 and 8 bytes, aligned; others read as zero and
 * are dropped. Outputs: `irq`, called with the I/O APIC pin; `isa`, with ISA interrupt 0 or 8, and `legacy`: while it
 * is high, these two are the block's and not the 8254's and the real-time clock's.
 */
#ifndef VMENTER_DEV_HPET_H
#define VMENTER_DEV_HPET_H

#include <vmenter/device.h>

#define HPET_TIMERS    3
#define HPET_PERIOD_NS 10u
#define HPET_ID        UINT64_C(0x8086a201) /* "General Capabilities and ID Register", low half */
#define HPET_PINS      UINT64_C(0x00f00000) /* I/O APIC pins that a timer may take: 20 to 23 */

struct hpet_timer {
    uint64_t config;     /* the bits that software writes */
    uint64_t comparator; /* the next match */
    uint64_t period;     /* of a periodic timer */
    bool raised;         /* this timer holds its line high */
};

struct hpet_state {
    struct hpet_timer timer[HPET_TIMERS];
    uint64_t config, status;
    uint64_t counter; /* while it stands still */
    uint64_t start;   /* tick of `now` at which it would have been 0 (modulo 2^64) */
    uint64_t done;    /* the count up to which matches have been carried out */
};

struct hpet {
    struct device_line irq, isa, legacy; /* `line` of irq and isa is unused */
    struct hpet_state s;
};

void hpet_init(struct hpet *h);
void hpet_run(struct hpet *h, uint64_t now);
uint64_t hpet_deadline(const struct hpet *h);
extern const struct device_ops hpet_ops;

#endif
