/* SPDX-License-Identifier: MIT
 *
 * multiboot.c: Multiboot 1 (Multiboot Specification version 0.6.96): an ELF32 or ELF64 image, or any file whose header
 * has the address fields; modules, memory map, command line, section headers.
 *
 * Segments go where they ask to; modules, and sections that no segment loads, above the image; the information
 * structure to a free place below 640 KiB, or above the image.
 *
 * DEVIATION: an image that asks for a video mode (flag 2) gets text mode, whatever it asks for, as from GRUB where no
 * mode can be set.
 * Not given: the boot device and drives (there are none), the APM table, VBE.
 */
#include "src/machine/boot/boot.h"

#define HEADER_MAGIC 0x1badb002u
#define LOADER_MAGIC 0x2badb002u
#define SEARCH       8192u
#define VIDEO        BIT(2)
#define MANDATORY    0xffffu
#define KNOWN        0x7u /* aligned modules, memory information, video */
#define ADDRESSES    BIT(16)

struct info { /* "Boot information format" */
    uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr;
    struct {
        uint32_t num, size, addr, shndx;
    } elf;
    uint32_t mmap_length, mmap_addr, drives_length, drives_addr, config_table, boot_loader_name, apm_table;
    uint32_t vbe_control_info, vbe_mode_info;
    uint16_t vbe_mode, vbe_interface_seg, vbe_interface_off, vbe_interface_len;
    uint64_t fb_addr;
    uint32_t fb_pitch, fb_width, fb_height;
    uint8_t fb_bpp, fb_type, fb_color[6];
} __attribute__((packed));
_Static_assert(sizeof(struct info) == 116, "as the specification draws it");
enum {
    INFO_MEMORY = 1 << 0,
    INFO_CMDLINE = 1 << 2,
    INFO_MODS = 1 << 3,
    INFO_ELF = 1 << 5,
    INFO_MMAP = 1 << 6,
    INFO_LOADER = 1 << 9,
    INFO_FRAMEBUFFER = 1 << 12,
};
struct module {
    uint32_t start, end, string, reserved;
};
struct mmap_entry {
    uint32_t size; /* of what follows */
    struct memory_range range;
} __attribute__((packed));

long multiboot_find(const void *image, size_t size)
{
    const uint8_t *p = image;
    for (size_t i = 0; i + 12 <= MIN(size, (size_t)SEARCH); i += 4)
        if (load32(p + i) == HEADER_MAGIC && load32(p + i) + load32(p + i + 4) + load32(p + i + 8) == 0)
            return (long)i;
    return -1;
}

/* "The address fields of Multiboot header". */
static bool load_flat(struct boot *b, size_t header, struct boot_image *im)
{
    const struct pc_file *f = &b->config->image;
    const uint8_t *p = (const uint8_t *)f->data + header;
    if (f->size - header < 32)
        return boot_fail(b, "%s: truncated in its Multiboot header: build or fetch it again", f->name);
    if (!flat_image(b, header, load32(p + 12), load32(p + 16), load32(p + 20), load32(p + 24), im))
        return false;
    im->entry = load32(p + 28);
    if (im->entry < im->low || im->entry >= im->end)
        return boot_fail(b, "%s: Multiboot header: entry_addr is outside of what is loaded: build it again", f->name);
    return true;
}

static uint32_t put_string(uint8_t *info, uint64_t pa, uint64_t *used, const char *name, const char *args)
{
    uint32_t at = (uint32_t)(pa + *used);
    boot_put_string(info + *used, name, args);
    *used += boot_string_size(name, args);
    return at;
}

static bool build_info(struct boot *b, const struct elf_file *e, bool video, uint32_t *info_pa)
{
    const struct pc_config *k = b->config;
    struct boot_module mods[BOOT_MODULES_MAX];
    unsigned n = boot_list_modules(b, mods);

    /* The structure, the modules', the map, the section headers, the strings. */
    uint64_t at_mods = sizeof(struct info), at_map = at_mods + n * sizeof(struct module);
    uint64_t at_sections = (at_map + b->ranges * sizeof(struct mmap_entry) + 7) & ~UINT64_C(7);
    uint64_t sections = e ? (uint64_t)e->shnum * e->shentsize : 0, used = at_sections + sections;
    uint64_t size = used + boot_string_size(k->image.name, k->append) + boot_string_size(BOOT_LOADER_NAME, NULL);
    for (unsigned i = 0; i < n; i++)
        size += boot_string_size(mods[i].f->name, mods[i].f->args);
    uint64_t top = boot_top(b), pa;
    uint8_t *p = boot_info(b, size, top, &pa);
    if (!p)
        return false;

    struct info info = {.flags = INFO_MEMORY | INFO_CMDLINE | INFO_MODS | INFO_MMAP | INFO_LOADER,
                        .mem_lower = PC_EBDA >> 10,
                        .mem_upper = (uint32_t)((b->low - PC_1M) >> 10),
                        .mods_count = n,
                        .mods_addr = (uint32_t)(pa + at_mods),
                        .mmap_length = b->ranges * (uint32_t)sizeof(struct mmap_entry),
                        .mmap_addr = (uint32_t)(pa + at_map)};
    if (sections) {
        if (!elf_put_sections(b, e, p + at_sections, top))
            return false;
        info.flags |= INFO_ELF;
        info.elf.num = e->shnum;
        info.elf.size = e->shentsize;
        info.elf.addr = (uint32_t)(pa + at_sections);
        info.elf.shndx = e->shstrndx;
    }
    if (video) {
        info.flags |= INFO_FRAMEBUFFER;
        info.fb_addr = BOOT_TEXT;
        info.fb_pitch = 160;
        info.fb_width = 80;
        info.fb_height = 25;
        info.fb_bpp = 16;
        info.fb_type = 2; /* EGA text */
    }
    info.cmdline = put_string(p, pa, &used, k->image.name, k->append);
    info.boot_loader_name = put_string(p, pa, &used, BOOT_LOADER_NAME, NULL);
    if (!boot_load_modules(b, mods, n, top))
        return false;
    for (unsigned i = 0; i < n; i++) {
        struct module m = {.start = (uint32_t)mods[i].base,
                           .end = (uint32_t)(mods[i].base + mods[i].f->size),
                           .string = put_string(p, pa, &used, mods[i].f->name, mods[i].f->args)};
        memcpy(p + at_mods + i * sizeof m, &m, sizeof m);
    }
    for (unsigned i = 0; i < b->ranges; i++) {
        struct mmap_entry e1 = {.size = sizeof e1.range, .range = b->map[i]};
        memcpy(p + at_map + i * sizeof e1, &e1, sizeof e1);
    }
    memcpy(p, &info, sizeof info);
    *info_pa = (uint32_t)pa;
    return true;
}

bool multiboot_load(struct boot *b)
{
    const struct pc_file *f = &b->config->image;
    size_t header = (size_t)multiboot_find(f->data, f->size);
    uint32_t flags = load32((const uint8_t *)f->data + header + 4), info = 0;
    struct boot_image im;
    struct elf_file e;
    bool flat = flags & ADDRESSES;
    if (flags & MANDATORY & ~KNOWN)
        return boot_fail(b, "%s: asks for Multiboot features that are unknown (flags %#x): build it without them",
                         f->name, flags);
    if (!(flat ? load_flat(b, header, &im) : elf_open(b, &e) && elf_image(b, &e, &im)))
        return false;
    if (!boot_load_image(b, &im) || !build_info(b, flat ? NULL : &e, flags & VIDEO, &info))
        return false;
    boot_start32(b, (uint32_t)im.entry, LOADER_MAGIC, info); /* "Machine state" */
    return true;
}
