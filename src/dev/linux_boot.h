/* SPDX-License-Identifier: MIT
 *
 * linux_boot.h: what firmware and a boot loader leave in the memory of a PC: its memory map, and a Linux bzImage by any
 * of its entry points (Linux documentation, "The Linux/x86 Boot Protocol": "64-bit Boot Protocol", "32-bit Boot
 * Protocol", "Running the Kernel").
 *
 * No device, but freestanding as they are and used by the same hosts: a software PC, and a VMM for its guest. The host
 * gives access to guest-physical RAM and sets the registers, interrupts off:
 * - 64: long mode, paging from LINUX_BOOT_PAGING, the GDT at LINUX_BOOT_GDT with code 0x10, data 0x18 and a busy TSS
 *   0x20; RSI = LINUX_BOOT_PARAMS;
 * - 32: protected mode without paging, the same selectors, code being of 32 bits; ESI = LINUX_BOOT_PARAMS,
 *   EBP = EDI = EBX = 0;
 * - 16: real mode, CS = LINUX_BOOT_PARAMS / 16 + 0x20, the other segments LINUX_BOOT_PARAMS / 16,
 *   SP = LINUX_BOOT_HEAP_END; the kernel's own 16-bit code then asks a BIOS what memory there is.
 */
#ifndef VMENTER_DEV_LINUX_BOOT_H
#define VMENTER_DEV_LINUX_BOOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The map of a PC without a graphics adapter. RAM is [0, low) with low at most PC_HOLE, and [PC_HIGH, PC_HIGH + high).
 */
#define PC_EBDA     UINT64_C(0x9fc00)
#define PC_VGA      UINT64_C(0xa0000)
#define PC_BIOS     UINT64_C(0xe0000) /* ACPI tables, the RSDP first */
#define PC_MP_TABLE UINT64_C(0xfe000) /* one page */
#define PC_1M       UINT64_C(0x100000)
#define PC_HOLE     UINT64_C(0xc0000000)
#define PC_IOAPIC   UINT64_C(0xfec00000)
#define PC_HPET     UINT64_C(0xfed00000)
#define PC_TESTDEV  UINT64_C(0xff000000)
#define PC_LAPIC    UINT64_C(0xfee00000)
#define PC_HIGH     UINT64_C(0x100000000)

enum memory_type { MEMORY_RAM = 1, MEMORY_RESERVED = 2 }; /* as ACPI numbers them, "System Address Map Interfaces" */
struct memory_range {
    uint64_t base, len; /* bytes */
    uint32_t type;
} __attribute__((packed)); /* the layout that e820 has everywhere */
#define MEMORY_MAP_MAX 8
/* Fills `map`, in the order of addresses; returns the number of ranges. */
unsigned memory_map(struct memory_range map[MEMORY_MAP_MAX], uint64_t low, uint64_t high);

/* Guest-physical layout below 1 MiB. */
#define LINUX_BOOT_PARAMS   0x10000u
#define LINUX_BOOT_HEAP_END 0xe000u /* of the 16-bit code, from LINUX_BOOT_PARAMS */
#define LINUX_BOOT_GDT      0x11000u
#define LINUX_BOOT_STACK    0x18000u
#define LINUX_BOOT_CMDLINE  0x20000u
#define LINUX_BOOT_PAGING   0x30000u /* PML4, PDPT, four PDs: the low 4 GiB to themselves */

struct linux_file {
    const void *data; /* NULL: none */
    size_t size;
};
struct linux_boot {
    struct linux_file kernel, initrd;
    const char *cmdline;
    uint64_t low; /* RAM from 0, bytes */
    const struct memory_range *map;
    unsigned ranges;
    uint64_t rsdp;
    unsigned bits; /* the entry: 16, 32, 64; 0: 64 if the kernel has it, else 32, else 16. The result is one of three */
    /* RAM that the host reaches: [gpa, gpa+len) is in [0, low). */
    void *(*ram)(void *opaque, uint64_t gpa, uint64_t len);
    void *opaque;
    /* results */
    uint64_t entry;
    const char *error; /* after false: what is wrong and what to do */
    enum { LINUX_KERNEL, LINUX_INITRD, LINUX_CMDLINE } about;
};
#define LINUX_SETUP_SECTS 0x1f1 /* offset of a byte: 512-byte sectors of setup after the first; 0 means 4 */
/* Is it a bzImage or a zImage? */
bool linux_boot_is(const void *data, size_t size);
/* Loads kernel, initrd, command line and tables. False: see `error`; memory is then as it was, or in part written. */
bool linux_boot_load(struct linux_boot *b);

#endif
