/* SPDX-License-Identifier: MIT
 *
 * ioapic.h: an I/O APIC with 24 inputs (Intel 82093AA, with the EOI register of later ones).
 *
 * Register space: the 4 KiB window (usually at 0xfec00000). Messages go to the host's `send`; it routes them with
 * apic_route().
 */
#ifndef VMENTER_DEV_IOAPIC_H
#define VMENTER_DEV_IOAPIC_H

#include "src/dev/lapic.h"

#define IOAPIC_PINS 24

struct ioapic_state {
    uint64_t entry[IOAPIC_PINS];
    uint32_t lines; /* input levels */
    uint8_t id;
    uint8_t select;
};

struct ioapic {
    /* Returns whether some local APIC accepted the message. */
    bool (*send)(void *opaque, const struct apic_msg *msg);
    void *opaque;
    struct ioapic_state s;
};

void ioapic_init(struct ioapic *io, uint8_t id);
void ioapic_set_line(struct ioapic *io, unsigned pin, bool level);
/* A local APIC's EOI broadcast. */
void ioapic_eoi(struct ioapic *io, uint8_t vector);

extern const struct device_ops ioapic_ops;

#endif
