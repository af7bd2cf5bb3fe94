/* SPDX-License-Identifier: MIT
 *
 * ioapic.c: the I/O APIC (Intel 82093AA data sheet, "I/O APIC Registers").
 *
 * Level: a message is sent when the input is active, the entry not masked and Remote IRR clear; acceptance sets Remote
 * IRR, the EOI of its vector clears it and the input is looked at again. Edge: a message for each rising edge; an edge
 * at a masked input is lost, as on the chip.
 */
#include "src/dev/ioapic.h"

#define RTE_MASKED     (UINT64_C(1) << 16)
#define RTE_LEVEL      (UINT64_C(1) << 15)
#define RTE_REMOTE_IRR (UINT64_C(1) << 14)
#define RTE_LOW        (UINT64_C(1) << 13)
#define RTE_LOGICAL    (UINT64_C(1) << 11)
#define RTE_WRITABLE   (UINT64_C(0xff00000000000000) | 0x1afff)

#define IOAPIC_VERSION (0x20u | (IOAPIC_PINS - 1) << 16)

enum { REG_SELECT = 0x00, REG_WINDOW = 0x10, REG_EOI = 0x40 };
enum { INDEX_ID = 0, INDEX_VERSION = 1, INDEX_ARBITRATION = 2, INDEX_TABLE = 0x10 };

static bool send(struct ioapic *io, uint64_t rte)
{
    struct apic_msg m = {
        .dest = rte >> 56,
        .logical = rte & RTE_LOGICAL,
        .vector = rte & 0xff,
        .delivery = rte >> 8 & 7,
        .level = rte & RTE_LEVEL,
    };
    return io->send && io->send(io->opaque, &m);
}

/* Remote IRR and re-sending are for fixed and lowest-priority interrupts; others are sent once for each activation. */
static bool is_level(uint64_t rte)
{
    return (rte & RTE_LEVEL) && (rte >> 8 & 7) <= APIC_LOWEST;
}

static bool is_active(const struct ioapic *io, unsigned pin)
{
    return (io->s.lines >> pin & 1) != !!(io->s.entry[pin] & RTE_LOW);
}

static void service_level(struct ioapic *io, unsigned pin)
{
    uint64_t *rte = &io->s.entry[pin];
    if (is_level(*rte) && !(*rte & (RTE_MASKED | RTE_REMOTE_IRR)) && is_active(io, pin)) {
        /* Remote IRR first: the processor may EOI within the call. */
        *rte |= RTE_REMOTE_IRR;
        if (!send(io, *rte)) {
            *rte &= ~RTE_REMOTE_IRR;
        }
    }
}

void ioapic_set_line(struct ioapic *io, unsigned pin, bool level)
{
    if (pin >= IOAPIC_PINS || (io->s.lines >> pin & 1) == level) {
        return;
    }
    io->s.lines ^= 1u << pin;
    uint64_t rte = io->s.entry[pin];
    if (is_level(rte)) {
        service_level(io, pin);
    } else if (!(rte & RTE_MASKED) && is_active(io, pin)) {
        send(io, rte);
    }
}

void ioapic_eoi(struct ioapic *io, uint8_t vector)
{
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        uint64_t *rte = &io->s.entry[pin];
        if ((*rte & (RTE_LEVEL | RTE_REMOTE_IRR)) == (RTE_LEVEL | RTE_REMOTE_IRR) && (*rte & 0xff) == vector) {
            *rte &= ~RTE_REMOTE_IRR;
            service_level(io, pin);
        }
    }
}

static uint32_t read_window(const struct ioapic *io)
{
    switch (io->s.select) {
    case INDEX_ID:
    case INDEX_ARBITRATION: return (uint32_t)io->s.id << 24;
    case INDEX_VERSION: return IOAPIC_VERSION;
    }
    unsigned i = io->s.select - INDEX_TABLE;
    if (io->s.select < INDEX_TABLE || i >= IOAPIC_PINS * 2) {
        return 0;
    }
    return io->s.entry[i / 2] >> (i & 1 ? 32 : 0);
}

static void write_window(struct ioapic *io, uint32_t v)
{
    if (io->s.select == INDEX_ID) {
        io->s.id = v >> 24 & 15;
        return;
    }
    unsigned i = io->s.select - INDEX_TABLE;
    if (io->s.select < INDEX_TABLE || i >= IOAPIC_PINS * 2) {
        return;
    }
    uint64_t *rte = &io->s.entry[i / 2], old = *rte;
    if (i & 1) {
        *rte = (*rte & UINT32_MAX) | ((uint64_t)v << 32 & RTE_WRITABLE);
    } else {
        *rte = (*rte & ~(RTE_WRITABLE & UINT32_MAX)) | (v & RTE_WRITABLE & UINT32_MAX);
    }
    if (!is_level(*rte)) {
        *rte &= ~RTE_REMOTE_IRR; /* turning an entry to edge and back is how software forgets a lost EOI */
        /* Unmasking an edge entry whose input had its edge while masked does not send; a change of polarity may be an
         * edge. */
        if (((old ^ *rte) & RTE_LOW) && !(*rte & RTE_MASKED) && is_active(io, i / 2)) {
            send(io, *rte);
        }
    }
    service_level(io, i / 2);
}

static uint64_t ioapic_read(void *dev, uint64_t now, uint64_t offset, unsigned size)
{
    struct ioapic *io = dev;
    unsigned shift = (offset & 3) * 8;
    switch (offset & 0xffc) {
    case REG_SELECT: return io->s.select >> shift;
    case REG_WINDOW: return read_window(io) >> shift;
    }
    return 0;
}

static void ioapic_write(void *dev, uint64_t now, uint64_t offset, unsigned size, uint64_t value)
{
    struct ioapic *io = dev;
    switch (offset & 0xfff) {
    case REG_SELECT: io->s.select = value; break;
    case REG_WINDOW: write_window(io, value); break;
    case REG_EOI: ioapic_eoi(io, value); break;
    }
}

void ioapic_init(struct ioapic *io, uint8_t id)
{
    io->s = (struct ioapic_state){.id = id & 15};
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        io->s.entry[pin] = RTE_MASKED;
    }
}

const struct device_ops ioapic_ops = {.name = "ioapic", .width = 4, .read = ioapic_read, .write = ioapic_write};
