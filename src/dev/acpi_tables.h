/* SPDX-License-Identifier: MIT
 *
 * acpi_tables.h: the ACPI tables of a machine made of the devices of this folder: RSDP, RSDT, XSDT, FADT, FACS, MADT,
 * HPET, DSDT with the processors, the PCI root and its interrupts; and the same machine told by a MultiProcessor table.
 */
#ifndef VMENTER_DEV_ACPI_TABLES_H
#define VMENTER_DEV_ACPI_TABLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct acpi_config {
    unsigned cpus; /* local APIC IDs 0 to cpus-1, 1 to 255 */
    uint32_t lapic_base, ioapic_base;
    uint8_t ioapic_id;
    uint16_t pm_base; /* port of the acpi_pm registers 0 to 11 */
    uint16_t reset_port;
    uint8_t sci_irq;    /* ISA interrupt and GSI, active high, level */
    uint8_t century;    /* CMOS index */
    uint16_t uart_port; /* 0: none; COM1's and its interrupt, to be named in the DSDT */
    uint8_t uart_irq;
    uint16_t uart2_port; /* the same for COM2 */
    uint8_t uart2_irq;
    uint32_t hpet_base; /* 0: none */
    bool pci;           /* there is a PCI bus with an ISA bridge in slot 1 */
    uint32_t pci_hole;  /* where its memory begins; it ends below the I/O APIC */
    uint8_t pirq[4];    /* ISA interrupts, and GSIs, of PIRQA to PIRQD: level */
    /* For the MultiProcessor table. */
    uint8_t lapic_version, ioapic_version;
    uint32_t cpu_signature, cpu_features; /* CPUID.01H: EAX and EDX */
};

#define ACPI_RSDP_SIZE 36u
/* Writes the tables as they will stand at guest-physical address `gpa` (a multiple of 64, below 4 GiB); the RSDP comes
 * first. ISA interrupt 0 is declared to be at I/O APIC pin 2. Returns the bytes used, 0 if `size` is too small. */
size_t acpi_build_tables(void *buf, size_t size, uint64_t gpa, const struct acpi_config *config);

/* MultiProcessor Specification 1.4: the floating pointer and, after it, the configuration table, for guest-physical
 * address `gpa` (a multiple of 16, in the BIOS area). Returns the bytes used, 0 if `size` is too small. */
size_t mp_build_table(void *buf, size_t size, uint64_t gpa, const struct acpi_config *config);

#endif
