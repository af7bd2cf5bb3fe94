/* SPDX-License-Identifier: MIT
 *
 * pci.c: configuration mechanism #1, functions, BARs, INTx.
 *
 * One bus, number 0: configuration cycles for others find nothing. A BAR decodes while its bit of the command register
 * is set and its address is neither 0 nor, with its size, over the top: so software may size it.
 */
#include "src/dev/pci.h"

#define ENABLE        0x80000000u
#define ADDRESS_BITS  0x80fffffcu
#define STATUS_DEVSEL 0x0200u /* medium timing */
#define STATUS_ERRORS 0xf9u   /* of the high byte: what a written one clears */
#define COMMAND_BITS  0x0547u /* I/O, memory, master, parity, SERR#, INTx off */
#define BAR_IO        1u

/* --- registers -------------------------------------------------------------------------------------------------- */

uint32_t pci_get(const struct pci_function *f, unsigned offset, unsigned size)
{
    uint32_t v = 0;
    for (unsigned i = 0; i < size; i++) {
        v |= (uint32_t)f->s.config[(offset + i) & 0xff] << i * 8;
    }
    return v;
}

static void put(struct pci_function *f, unsigned offset, unsigned size, uint32_t value)
{
    for (unsigned i = 0; i < size; i++) {
        f->s.config[(offset + i) & 0xff] = (uint8_t)(value >> i * 8);
    }
}

void pci_register(struct pci_function *f, unsigned offset, unsigned size, uint32_t value, uint32_t mask)
{
    put(f, offset, size, value);
    for (unsigned i = 0; i < size; i++) {
        f->mask[(offset + i) & 0xff] = (uint8_t)(mask >> i * 8);
    }
}

/* --- BARs ------------------------------------------------------------------------------------------------------- */

static uint64_t bar_base(const struct pci_function *f, unsigned i)
{
    const struct pci_bar *b = &f->bar[i];
    uint32_t command = pci_get(f, PCI_COMMAND, 2);
    uint64_t top = b->io ? 0xffff : PCI_BAR_MEMORY_LIMIT, base = pci_get(f, PCI_BAR0 + i * 4, 4) & ~(b->size - 1);
    if (!b->size || !(command & (b->io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY))) {
        return 0;
    }
    return base && base <= top && b->size <= top - base ? base : 0;
}

static void update_bars(struct pci_function *f)
{
    for (unsigned i = 0; i < PCI_BARS; i++) {
        uint64_t old = f->s.mapped[i], base = bar_base(f, i);
        if (old == base) {
            continue;
        }
        f->s.mapped[i] = base;
        if (f->bus->map && old) {
            f->bus->map(f->bus->opaque, f, i, old, false);
        }
        if (f->bus->map && base) {
            f->bus->map(f->bus->opaque, f, i, base, true);
        }
    }
}

/* --- interrupts ------------------------------------------------------------------------------------------------- */

/* The lines turn from slot to slot, so that single-function cards share evenly; slot 1 has them straight. */
static int intx_line(const struct pci_function *f)
{
    unsigned pin = f->s.config[PCI_INTERRUPT_PIN];
    return pin >= 1 && pin <= 4 ? (int)(((f->devfn >> 3) + pin - 1 + 3) & 3) : -1;
}

static bool asserts(const struct pci_function *f)
{
    return f->s.line && !(pci_get(f, PCI_COMMAND, 2) & PCI_COMMAND_NO_INTX);
}

static void update_intx(struct pci_function *f)
{
    int line = intx_line(f);
    bool level = false;
    if (line < 0 || !f->bus->intx) {
        return;
    }
    for (unsigned i = 0; i < 256; i++) {
        const struct pci_function *g = f->bus->fn[i];
        level |= g && intx_line(g) == line && asserts(g);
    }
    f->bus->intx(f->bus->opaque, (unsigned)line, level);
}

void pci_set_intx(struct pci_function *f, bool level)
{
    if (f->s.line == level) {
        return;
    }
    f->s.line = level;
    f->s.config[PCI_STATUS] = (uint8_t)((f->s.config[PCI_STATUS] & ~PCI_STATUS_INTX) | (level ? PCI_STATUS_INTX : 0));
    update_intx(f);
}

/* --- configuration ---------------------------------------------------------------------------------------------- */

void pci_add(struct pci_bus *bus, struct pci_function *f, uint8_t devfn, const struct pci_id *id)
{
    f->bus = bus;
    f->devfn = devfn;
    f->s = (struct pci_function_state){0};
    __builtin_memset(f->mask, 0, sizeof f->mask);
    __builtin_memset(f->clear, 0, sizeof f->clear);
    put(f, PCI_VENDOR, 2, id->vendor);
    put(f, PCI_DEVICE, 2, id->device);
    pci_register(f, PCI_COMMAND, 2, 0, COMMAND_BITS);
    put(f, PCI_STATUS, 2, STATUS_DEVSEL);
    f->clear[PCI_STATUS + 1] = STATUS_ERRORS;
    put(f, PCI_REVISION, 4, id->class_code << 8 | id->revision);
    f->s.config[PCI_INTERRUPT_PIN] = id->pin;
    if (id->pin) {
        f->mask[PCI_INTERRUPT_LINE] = 0xff;
    }
    for (unsigned i = 0; i < PCI_BARS; i++) {
        const struct pci_bar *b = &f->bar[i];
        if (b->size) {
            pci_register(f, PCI_BAR0 + i * 4, 4, b->io ? BAR_IO : 0, (uint32_t) ~(b->size - 1));
        }
    }
    bus->fn[devfn] = f;
    if (devfn & 7 && bus->fn[devfn & ~7]) {
        bus->fn[devfn & ~7]->s.config[PCI_HEADER_TYPE] |= PCI_MULTI_FUNCTION;
    }
}

uint32_t pci_config_read(const struct pci_function *f, unsigned offset, unsigned size)
{
    return pci_get(f, offset, size);
}

void pci_config_write(struct pci_function *f, unsigned offset, unsigned size, uint32_t value)
{
    for (unsigned i = 0; i < size; i++) {
        unsigned at = (offset + i) & 0xff;
        uint8_t v = (uint8_t)(value >> i * 8), old = f->s.config[at];
        f->s.config[at] = (uint8_t)(((old & ~f->mask[at]) | (v & f->mask[at])) & ~(v & f->clear[at]));
    }
    if (offset < PCI_BAR0 + 4 * PCI_BARS) {
        update_bars(f);
        update_intx(f);
    }
    if (f->written) {
        f->written(f->opaque, offset, size);
    }
}

/* The function that the address register selects; NULL: none, or none is selected. */
static struct pci_function *selected(const struct pci_bus *b)
{
    uint32_t a = b->s.address;
    return (a & ENABLE) && !(a >> 16 & 0xff) ? b->fn[a >> 8 & 0xff] : NULL;
}

static uint64_t pci_read(void *dev, uint64_t now, uint64_t offset, unsigned size)
{
    struct pci_bus *b = dev;
    if (offset < 4) { /* whole double words only; else it is an access to whatever has that port */
        return offset == 0 && size == 4 ? b->s.address : device_ones(size);
    }
    const struct pci_function *f = selected(b);
    return f ? pci_config_read(f, (b->s.address & 0xfc) | (offset & 3), size) : device_ones(size);
}

static void pci_write(void *dev, uint64_t now, uint64_t offset, unsigned size, uint64_t value)
{
    struct pci_bus *b = dev;
    if (offset < 4) {
        if (offset == 0 && size == 4) {
            b->s.address = value & ADDRESS_BITS;
        }
        return;
    }
    struct pci_function *f = selected(b);
    if (f) {
        pci_config_write(f, (b->s.address & 0xfc) | (offset & 3), size, (uint32_t)value);
    }
}

const struct device_ops pci_ops = {.name = "pci", .width = 4, .read = pci_read, .write = pci_write};
