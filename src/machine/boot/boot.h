/* SPDX-License-Identifier: MIT
 *
 * boot.h: loaders of the software PC: an image, told apart by its content, into RAM, and the first processor's state.
 *
 * NYI: disks, firmware.
 */
#ifndef MACHINE_BOOT_BOOT_H
#define MACHINE_BOOT_BOOT_H

#include "src/dev/linux_boot.h"
#include "src/machine/machine.h"
#include "src/machine/pc.h"

/* The last page below 1 MiB: real-mode services, and the GDT for the selectors that an image starts with. */
#define BOOT_BIOS (PC_1M - 4096)
#define BOOT_GDT  (PC_1M - 64)

/* Text mode, 80 by 25: what an image that asks for a screen is told. */
#define BOOT_TEXT UINT64_C(0xb8000)

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
/* Takes the lowest free page-aligned place in RAM from `from` on, else from 1 MiB on, below `to`: UINT64_MAX when
 * there is none. */
uint64_t boot_place(struct boot *b, uint64_t len, uint64_t from, uint64_t to);
/* Takes a place for what an image is told, low or from `top` on; its address in *pa. NULL: no room, the error is
 * written. */
uint8_t *boot_info(struct boot *b, uint64_t len, uint64_t top, uint64_t *pa);
/* A free place, not taken, aligned, in [from, to), the lowest or the highest place. */
uint64_t boot_find(struct boot *b, uint64_t len, uint64_t align, uint64_t from, uint64_t to, bool highest);

/* Sets all segment registers: flat, with these selectors, in the mode that the code segment's rights give. */
void boot_flat(struct cpu *c, uint16_t code, uint32_t code_ar, uint16_t data);
/* 32-bit protected mode without paging, flat, interrupts off; a GDT for the selectors, which nobody promised. */
void boot_start32(struct boot *b, uint32_t entry, uint32_t eax, uint32_t ebx);
/* The real-mode services of a BIOS. */
void boot_bios(struct boot *b);

/* --- what is loaded: image.c -------------------------------------------------------------------------------------- */

#define BOOT_SEGMENTS_MAX 64
struct boot_segment {
    uint64_t offset, filesz; /* in the file */
    uint64_t pa, memsz;
};
struct boot_image {
    struct boot_segment seg[BOOT_SEGMENTS_MAX];
    unsigned n;
    uint64_t entry;    /* physical, before `delta` is added */
    uint64_t low, end; /* of all segments, before `delta` is added */
    uint64_t delta;    /* how far it is moved, modulo 2^64 */
};
struct elf_file {
    bool elf64;
    uint64_t entry, phoff, shoff;
    uint32_t phnum, phentsize, shnum, shentsize, shstrndx;
};

/* The headers, checked: the tables lie in the file, which is for an x86 processor. */
bool elf_open(struct boot *b, struct elf_file *e);
/* The segments to load. The entry point is translated where a segment holds it as a virtual address. */
bool elf_image(struct boot *b, const struct elf_file *e, struct boot_image *im);
/* The physical entry of a Xen PVH note; false: there is none. */
bool elf_find_pvh(const struct pc_file *f, uint64_t *entry);
/* The section headers for an image that wants its symbols: a copy of the table goes to `to` (shnum * shentsize bytes),
 * in which sections that no segment loads have the address where they are put now, above `from`. */
bool elf_put_sections(struct boot *b, const struct elf_file *e, uint8_t *to, uint64_t from);
/* One segment by the address fields of a Multiboot header at `header` in the file. 0: load_end, bss_end are not given.
 */
bool flat_image(struct boot *b, size_t header, uint64_t header_addr, uint64_t load, uint64_t load_end, uint64_t bss_end,
                struct boot_image *im);
/* Loads what the image has, and checks that the entry point is in it. */
bool boot_load_image(struct boot *b, const struct boot_image *im);

struct boot_module {
    const struct pc_file *f;
    uint64_t base;
};
#define BOOT_MODULES_MAX (PC_MODULES_MAX + 1)
/* --initrd, then every --module, in the order that an image sees. */
unsigned boot_list_modules(struct boot *b, struct boot_module m[BOOT_MODULES_MAX]);
/* Puts them into RAM on pages of their own, from `from` on. */
bool boot_load_modules(struct boot *b, struct boot_module *m, unsigned n, uint64_t from);
/* The first page above everything that is taken. */
uint64_t boot_top(const struct boot *b);

/* "name args", with its zero. */
uint64_t boot_string_size(const char *name, const char *args);
void boot_put_string(uint8_t *to, const char *name, const char *args);

/* Unpacks a gzip file (RFC 1952), of at most `max` bytes. NULL, and *data to be freed; or what is wrong. */
const char *gunzip(const uint8_t *in, size_t size, size_t max, uint8_t **data, size_t *len);

/* --- kinds of images ---------------------------------------------------------------------------------------------- */

/* The offset of the Multiboot header, or -1. */
long multiboot_find(const void *image, size_t size);
long multiboot2_find(const void *image, size_t size);
bool multiboot_load(struct boot *b);
bool multiboot2_load(struct boot *b);
bool pvh_load(struct boot *b, uint64_t entry);
bool boot_linux(struct boot *b);

#define BOOT_LOADER_NAME "vmenter"

#endif
