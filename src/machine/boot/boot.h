/* SPDX-License-Identifier: MIT
 *
 * boot.h: loaders of the software PC: an image, told apart by its content, into RAM, and the first processor's state.
 *
 * NYI: Multiboot 2, PVH, disks, firmware.
 */
#ifndef MACHINE_BOOT_BOOT_H
#define MACHINE_BOOT_BOOT_H

#include "src/dev/linux_boot.h"
#include "src/machine/machine.h"
#include "src/machine/pc.h"

/* The last page below 1 MiB: real-mode services, and the GDT for the selectors that an image starts with. */
#define BOOT_BIOS (PC_1M - 4096)
#define BOOT_GDT  (PC_1M - 64)

#define BOOT_USED_MAX (PC_MODULES_MAX + 80)

struct boot {
    struct vmenter_machine *machine;
    const struct pc_config *config;
    uint64_t low; /* RAM from 0, bytes; what is loaded is loaded there */
    struct memory_range map[MEMORY_MAP_MAX];
    unsigned ranges;
    char *error; /* PC_ERROR_MAX */
    struct {
        uint64_t base, end;
    } used[BOOT_USED_MAX];
    unsigned nused;
};

/* Loads config->image with what belongs to it. False: `error` is written. */
bool boot_load(struct boot *b);

/* Returns false, for `return boot_fail(...)`. */
bool boot_fail(struct boot *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* NULL unless [pa, pa+len) is RAM by the map, len above 0. */
void *boot_ram(struct boot *b, uint64_t pa, uint64_t len);
/* Takes [pa, pa+len): false when it overlaps what is taken, or there is too much of it. */
bool boot_take(struct boot *b, uint64_t pa, uint64_t len);
/* Takes the lowest free page-aligned place in RAM from `from` on, below `to`: UINT64_MAX when there is none. */
uint64_t boot_place(struct boot *b, uint64_t len, uint64_t from, uint64_t to);
/* Sets all segment registers: flat, with these selectors, in the mode that the code segment's rights give. */
void boot_flat(struct cpu *c, uint16_t code, uint32_t code_ar, uint16_t data);

/* The real-mode services of a BIOS. */
void boot_bios(struct boot *b);

/* The offset of the Multiboot 1 header, or -1. */
long multiboot_find(const void *image, size_t size);
bool multiboot_load(struct boot *b);
bool boot_linux(struct boot *b);

#endif
