/* SPDX-License-Identifier: MIT
 *
 * chipset.c: 82441FX, 82371SB, 82371AB function 3: what software finds behind configuration cycles.
 *
 * Registers of timing, DRAM geometry and bus arbitration keep what is written and do nothing. Their values after reset
 * are the data sheets'; the host plays the firmware and writes what it would leave.
 */
#include "src/dev/chipset.h"

static bool touches(unsigned offset, unsigned size, unsigned from, unsigned to)
{
    return offset < to && from < offset + size;
}

/* A device that always answers: its command bits are wired. */
static void wired_command(struct pci_function *f, uint16_t command)
{
    pci_register(f, PCI_COMMAND, 2, command, 0);
}

/* ---- 82441FX --------------------------------------------------------------------------------------------------- */

/* "SMRAM: System Management RAM Control Register": D_LCK closes and locks. */
static void update_smram(struct host_bridge *h)
{
    struct pci_function *f = &h->fn;
    uint8_t v = (uint8_t)pci_get(f, CHIPSET_SMRAM, 1);
    if (v & CHIPSET_SMRAM_LOCK) {
        pci_register(f, CHIPSET_SMRAM, 1, v & ~CHIPSET_SMRAM_OPEN, CHIPSET_SMRAM_CLOSE);
    }
    if (h->smram) {
        h->smram(h->opaque, f->s.config[CHIPSET_SMRAM]);
    }
}

static void host_written(void *opaque, unsigned offset, unsigned size)
{
    struct host_bridge *h = opaque;
    if (touches(offset, size, CHIPSET_SMRAM, CHIPSET_SMRAM + 1)) {
        update_smram(h);
    }
    if (touches(offset, size, CHIPSET_PAM, CHIPSET_PAM + 7) && h->pam) {
        h->pam(h->opaque, &h->fn.s.config[CHIPSET_PAM]);
    }
}

void host_bridge_init(struct host_bridge *h, struct pci_bus *bus, uint8_t devfn)
{
    static const struct pci_id id = {.vendor = 0x8086, .device = 0x1237, .class_code = 0x060000, .revision = 2};
    struct pci_function *f = &h->fn;
    f->written = host_written;
    f->opaque = h;
    pci_add(bus, f, devfn, &id);
    wired_command(f, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    pci_register(f, PCI_STATUS, 2, 0x0280, 0);
    pci_register(f, 0x0d, 1, 0, 0xf8);                /* latency timer */
    pci_register(f, 0x50, 4, 0x83000000, 0xff81e7ff); /* PMCCFG, DETURBO, DBC */
    pci_register(f, 0x54, 4, 0x00000000, 0xff7fff07); /* AXC, DRT, DRAMC */
    pci_register(f, 0x57, 1, 0x01, 0xff);
    pci_register(f, 0x58, 1, 0x10, 0xff); /* DRAMT */
    pci_register(f, CHIPSET_PAM, 1, 0, 0x70);
    for (unsigned i = 1; i < 7; i++) {
        pci_register(f, CHIPSET_PAM + i, 1, 0, 0x77);
    }
    for (unsigned i = 0x60; i < 0x68; i++) { /* DRB */
        pci_register(f, i, 1, 0x02, 0xff);
    }
    pci_register(f, 0x68, 1, 0, 0xc0); /* FDHC */
    pci_register(f, 0x70, 2, 0, 0xffff);
    pci_register(f, CHIPSET_SMRAM, 1, 0x02, 0x78);
    pci_register(f, 0x90, 1, 0, 0xff); /* ERRCMD */
    pci_register(f, 0x93, 1, 0, 0x0b); /* TRC */
}

/* ---- 82371SB --------------------------------------------------------------------------------------------------- */

/* The ISA interrupt of a line, 0: not routed. Reserved numbers route nowhere. */
static unsigned route(const struct isa_bridge *b, unsigned line)
{
    uint8_t v = b->fn.s.config[CHIPSET_PIRQ + line];
    unsigned irq = v & 15;
    return (v & CHIPSET_PIRQ_OFF) || irq < 3 || irq == 8 || irq == 13 ? 0 : irq;
}

static void update_irq(struct isa_bridge *b, unsigned irq)
{
    bool level = false;
    for (unsigned i = 0; i < 4; i++) {
        level |= (b->pirq >> i & 1) && route(b, i) == irq;
    }
    if (irq && b->irq.set) {
        b->irq.set(b->irq.opaque, irq, level);
    }
}

void isa_bridge_pirq(struct isa_bridge *b, unsigned line, bool level)
{
    b->pirq = (uint8_t)((b->pirq & ~(1u << (line & 3))) | (unsigned)level << (line & 3));
    update_irq(b, route(b, line & 3));
}

static void isa_written(void *opaque, unsigned offset, unsigned size)
{
    struct isa_bridge *b = opaque;
    if (touches(offset, size, CHIPSET_PIRQ, CHIPSET_PIRQ + 4) && b->pirq) {
        for (unsigned irq = 3; irq < 16; irq++) {
            update_irq(b, irq);
        }
    }
}

void isa_bridge_init(struct isa_bridge *b, struct pci_bus *bus, uint8_t devfn)
{
    static const struct pci_id id = {.vendor = 0x8086, .device = 0x7000, .class_code = 0x060100};
    struct pci_function *f = &b->fn;
    f->written = isa_written;
    f->opaque = b;
    b->pirq = 0;
    pci_add(bus, f, devfn, &id);
    wired_command(f, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    pci_register(f, 0x4c, 1, 0x4d, 0x7f);     /* ISA I/O recovery */
    pci_register(f, 0x4e, 2, 0x0003, 0x07ff); /* XBCS */
    for (unsigned i = 0; i < 4; i++) {
        pci_register(f, CHIPSET_PIRQ + i, 1, CHIPSET_PIRQ_OFF, 0x8f);
    }
    pci_register(f, 0x69, 1, 0x02, 0xfe);     /* top of memory */
    pci_register(f, 0x6a, 2, 0x0000, 0x8001); /* miscellaneous status */
    pci_register(f, 0x70, 1, 0x80, 0xef);     /* motherboard interrupt */
    pci_register(f, 0x76, 1, 0x0c, 0x8f);     /* motherboard DMA */
    pci_register(f, 0x77, 1, 0x0c, 0x8f);
    pci_register(f, 0x78, 2, 0x0002, 0xffff); /* chip select */
    pci_register(f, 0x80, 1, 0x00, 0x7f);     /* APIC base */
    pci_register(f, 0x82, 1, 0x00, 0x0f);     /* deterministic latency */
    pci_register(f, 0xa0, 1, 0x08, 0x1f);     /* SMI control */
}

/* ---- 82371AB, function 3 ---------------------------------------------------------------------------------------- */

enum { PMBA = CHIPSET_PMBA, PMREGMISC = CHIPSET_PMREGMISC, SMBBA = 0x90, SMBHSTCFG = 0xd2 };

static void pm_written(void *opaque, unsigned offset, unsigned size)
{
    struct pm_bridge *p = opaque;
    if ((touches(offset, size, PMBA, PMBA + 4) || touches(offset, size, PMREGMISC, PMREGMISC + 1)) && p->moved) {
        bool on = pci_get(&p->fn, PMREGMISC, 1) & 1;
        p->moved(p->opaque, on ? pci_get(&p->fn, PMBA, 4) & 0xffc0 : 0);
    }
}

void pm_bridge_init(struct pm_bridge *p, struct pci_bus *bus, uint8_t devfn)
{
    static const struct pci_id id = {
        .vendor = 0x8086, .device = 0x7113, .class_code = 0x068000, .revision = 3, .pin = 1};
    struct pci_function *f = &p->fn;
    f->written = pm_written;
    f->opaque = p;
    pci_add(bus, f, devfn, &id);
    pci_register(f, PCI_COMMAND, 2, 0, PCI_COMMAND_IO);
    pci_register(f, PCI_STATUS, 2, 0x0280, 0);
    pci_register(f, PMBA, 4, 1, 0xffc0);
    for (unsigned i = 0x44; i < 0x80; i += 4) { /* counters, general-purpose inputs, resources of watched devices */
        pci_register(f, i, 4, 0, 0xffffffff);
    }
    pci_register(f, PMREGMISC, 1, 0, 0x01);
    pci_register(f, SMBBA, 4, 1, 0xfff0);
    pci_register(f, SMBHSTCFG, 1, 0, 0x0f);
}
