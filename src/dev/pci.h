/* SPDX-License-Identifier: MIT
 *
 * pci.h: a PCI bus with configuration mechanism #1 (PCI Local Bus Specification 3.0, "Configuration Space Access
 * Mechanism"), functions that a host adds to it, their BARs and their INTx lines.
 *
 * Register space of pci_ops: 0 to 3 the address register (ports 0xcf8 to 0xcfb), 4 to 7 the data window (0xcfc to
 * 0xcff). A function is the part of a device that the bus sees: 256 bytes of configuration space, with masks that say
 * which bits software writes, and which a written one clears; six BARs. The bus tells its host where each BAR decodes
 * (map) and how the four interrupt lines of the host bridge stand (intx).
 */
#ifndef VMENTER_DEV_PCI_H
#define VMENTER_DEV_PCI_H

#include <vmenter/device.h>

#define PCI_BARS 6

enum { /* "Configuration Space Organization" */
       PCI_VENDOR = 0x00,
       PCI_DEVICE = 0x02,
       PCI_COMMAND = 0x04,
       PCI_STATUS = 0x06,
       PCI_REVISION = 0x08, /* and the class above it */
       PCI_HEADER_TYPE = 0x0e,
       PCI_BAR0 = 0x10,
       PCI_SUBSYSTEM = 0x2c,
       PCI_CAPABILITIES = 0x34,
       PCI_INTERRUPT_LINE = 0x3c,
       PCI_INTERRUPT_PIN = 0x3d,
};
#define PCI_COMMAND_IO       0x0001u
#define PCI_COMMAND_MEMORY   0x0002u
#define PCI_COMMAND_MASTER   0x0004u
#define PCI_COMMAND_NO_INTX  0x0400u
#define PCI_STATUS_INTX      0x08u /* of the status register's low byte */
#define PCI_DEVFN(slot, fn)  ((slot) << 3 | (fn))
#define PCI_MULTI_FUNCTION   0x80u
#define PCI_BAR_MEMORY_LIMIT UINT64_C(0xffffffff)

struct pci_bus;

struct pci_bar {
    uint64_t size; /* bytes, a power of two, ports: 4 to 256, memory: from 4096; 0: there is no such BAR */
    bool io;
    const struct device_ops *ops; /* what decodes there, from register 0 on */
    void *dev;
};

struct pci_function_state {
    uint8_t config[256];
    uint64_t mapped[PCI_BARS]; /* where the BAR decodes; 0: nowhere */
    bool line;                 /* the function asserts its INTx */
};

struct pci_function {
    struct pci_bar bar[PCI_BARS];
    uint8_t mask[256];  /* bits that software writes */
    uint8_t clear[256]; /* bits that a written one clears */
    /* After a write to [offset, offset + size) of the configuration space; may be NULL. */
    void (*written)(void *opaque, unsigned offset, unsigned size);
    void *opaque;
    struct pci_bus *bus;
    uint8_t devfn;
    struct pci_function_state s;
};

struct pci_bus_state {
    uint32_t address;
};

struct pci_bus {
    /* A BAR's window appears at `base`, or goes from there. */
    void (*map)(void *opaque, struct pci_function *f, unsigned bar, uint64_t base, bool on);
    /* Interrupt line 0 to 3 (PIRQA to PIRQD) of the bridge. */
    void (*intx)(void *opaque, unsigned line, bool level);
    void *opaque;
    struct pci_function *fn[256]; /* by devfn */
    struct pci_bus_state s;
};

struct pci_id {
    uint16_t vendor, device;
    uint32_t class_code; /* class, subclass, interface: 24 bits */
    uint8_t revision;
    uint8_t pin; /* 0: no interrupt, 1 to 4: INTA# to INTD# */
};

/* Fills the header: nothing but the command register, the interrupt line and the BARs is writable. `bar`, `written` and
 * `opaque` are set before. Adds the function to the bus. */
void pci_add(struct pci_bus *bus, struct pci_function *f, uint8_t devfn, const struct pci_id *id);
/* A register of 1, 2 or 4 bytes: its value, and its writable bits. */
void pci_register(struct pci_function *f, unsigned offset, unsigned size, uint32_t value, uint32_t mask);
uint32_t pci_get(const struct pci_function *f, unsigned offset, unsigned size);
/* The function's interrupt line. */
void pci_set_intx(struct pci_function *f, bool level);
/* What a configuration access does; offset and size in one dword. */
uint32_t pci_config_read(const struct pci_function *f, unsigned offset, unsigned size);
void pci_config_write(struct pci_function *f, unsigned offset, unsigned size, uint32_t value);

extern const struct device_ops pci_ops;

#endif
