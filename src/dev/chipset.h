/* SPDX-License-Identifier: MIT
 *
 * chipset.h: the PCI functions of a PC's chipset: Intel 440FX host bridge (82441FX), PIIX3 ISA bridge (82371SB) with
 * its interrupt routing, PIIX4 power management (82371AB, function 3). By their data sheets; the I/O devices inside of
 * the bridges (8259s, 8254, ACPI registers) are models of their own.
 */
#ifndef VMENTER_DEV_CHIPSET_H
#define VMENTER_DEV_CHIPSET_H

#include "src/dev/pci.h"

/* --- host bridge */

#define CHIPSET_PAM         0x59 /* to 0x5f; PAM0's high nibble is 0xf0000 to 0xfffff */
#define CHIPSET_SMRAM       0x72
#define CHIPSET_SMRAM_OPEN  0x40u /* D_OPEN: SMRAM is visible outside of SMM */
#define CHIPSET_SMRAM_CLOSE 0x20u /* D_CLS: data accesses go past it, in SMM too */
#define CHIPSET_SMRAM_LOCK  0x10u /* D_LCK: until reset, D_OPEN stays 0 */
#define CHIPSET_SMRAM_ON    0x08u /* G_SMRAME: there is SMRAM at 0xa0000 */

struct host_bridge {
    struct pci_function fn;
    /* The SMRAM register changed; may be NULL. */
    void (*smram)(void *opaque, uint8_t value);
    /* The PAM registers changed; may be NULL. */
    void (*pam)(void *opaque, const uint8_t reg[7]);
    void *opaque;
};
void host_bridge_init(struct host_bridge *h, struct pci_bus *bus, uint8_t devfn);

/* --- ISA bridge */

#define CHIPSET_PIRQ     0x60  /* to 0x63: the ISA interrupt of PIRQA to PIRQD */
#define CHIPSET_PIRQ_OFF 0x80u /* not routed */

struct isa_bridge {
    struct pci_function fn;
    struct device_line irq; /* `line` is unused: called with ISA interrupt 3 to 15 */
    uint8_t pirq;           /* levels of PIRQA to PIRQD; state, as fn.s */
};
void isa_bridge_init(struct isa_bridge *b, struct pci_bus *bus, uint8_t devfn);
/* One of the bus's interrupt lines. */
void isa_bridge_pirq(struct isa_bridge *b, unsigned line, bool level);

/* --- power management */

#define CHIPSET_PMBA      0x40 /* where the ACPI registers decode */
#define CHIPSET_PMREGMISC 0x80 /* bit 0: they do */
#define CHIPSET_DEVACTB   0x58
#define CHIPSET_APMC_EN   (1u << 25) /* a write to port 0xb2 raises SMI# */

struct pm_bridge {
    struct pci_function fn;
    /* Where the ACPI registers decode; 0: nowhere. */
    void (*moved)(void *opaque, uint16_t base);
    void *opaque;
};
void pm_bridge_init(struct pm_bridge *p, struct pci_bus *bus, uint8_t devfn);

#endif
