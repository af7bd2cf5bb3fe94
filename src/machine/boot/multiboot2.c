/* SPDX-License-Identifier: MIT
 *
 * multiboot2.c: Multiboot 2 (Multiboot2 Specification version 2.0), 32-bit protected-mode entry for i386: an ELF32 or
 * ELF64 image, or any file with the address tag; relocatable images; all tags that a PC without EFI has something to
 * say in.
 *
 * The header's tags are asked for in two ways: a tag that is unknown or cannot be honoured refuses the image unless it
 * is marked optional. EFI entry addresses count on EFI platforms alone and are passed over, as the specification has
 * it; that an image must be started with EFI boot services is refused.
 *
 * DEVIATION: an image that asks for a framebuffer gets text mode, whatever it asks for.
 * Not given: boot device, VBE, APM, SMBIOS, EFI, network.
 */
#include "src/machine/boot/boot.h"

#define HEADER_MAGIC 0xe85250d6u
#define LOADER_MAGIC 0x36d76289u
#define SEARCH       32768u
#define HEADER_SIZE  16u
#define OPTIONAL     1u

enum header_tag {
    HEADER_END,
    HEADER_INFORMATION,
    HEADER_ADDRESS,
    HEADER_ENTRY,
    HEADER_CONSOLE,
    HEADER_FRAMEBUFFER,
    HEADER_MODULE_ALIGN,
    HEADER_EFI_SERVICES,
    HEADER_EFI32_ENTRY,
    HEADER_EFI64_ENTRY,
    HEADER_RELOCATABLE,
};
enum info_tag {
    INFO_END,
    INFO_CMDLINE,
    INFO_LOADER,
    INFO_MODULE,
    INFO_MEMORY,
    INFO_BOOT_DEVICE,
    INFO_MMAP,
    INFO_VBE,
    INFO_FRAMEBUFFER,
    INFO_ELF,
    INFO_ACPI_OLD = 14,
    INFO_ACPI_NEW = 15,
    INFO_LOAD_BASE = 21, /* the last that the specification knows */
};

struct request { /* what the header says */
    bool has_address, has_entry, relocatable, text;
    uint32_t header_addr, load_addr, load_end, bss_end, entry;
    uint32_t min, max, align, preference;
};

struct tag { /* of the header */
    uint16_t type, flags;
    uint32_t size;
};

long multiboot2_find(const void *image, size_t size)
{
    const uint8_t *p = image;
    for (size_t i = 0; i + HEADER_SIZE <= MIN(size, (size_t)SEARCH); i += 8)
        if (load32(p + i) == HEADER_MAGIC &&
            load32(p + i) + load32(p + i + 4) + load32(p + i + 8) + load32(p + i + 12) == 0)
            return (long)i;
    return -1;
}

/* One tag with its `size` bytes; the bytes are there. */
static bool read_tag(struct boot *b, const struct tag *t, const uint8_t *p, struct request *r)
{
    static const uint8_t least[] = {
        [HEADER_ADDRESS] = 24,     [HEADER_ENTRY] = 12,       [HEADER_CONSOLE] = 12,    [HEADER_FRAMEBUFFER] = 20,
        [HEADER_EFI32_ENTRY] = 12, [HEADER_EFI64_ENTRY] = 12, [HEADER_RELOCATABLE] = 24};
    const char *name = b->config->image.name;
    if (t->type < ARRAY_LEN(least) && t->size < least[t->type])
        return boot_fail(b, "%s: Multiboot 2 header: tag %u with %u bytes is too short: build it again", name, t->type,
                         t->size);
    switch (t->type) {
    case HEADER_INFORMATION:
        for (uint32_t i = 8; i + 4 <= t->size; i += 4) {
            uint32_t what = load32(p + i);
            r->text |= what == INFO_FRAMEBUFFER;
            if (what > INFO_LOAD_BASE && !(t->flags & OPTIONAL))
                return boot_fail(b,
                                 "%s: requires Multiboot 2 information %u, which is unknown: build it without, or make "
                                 "the request optional",
                                 name, what);
        }
        return true;
    case HEADER_ADDRESS:
        r->has_address = true;
        r->header_addr = load32(p + 8), r->load_addr = load32(p + 12);
        r->load_end = load32(p + 16), r->bss_end = load32(p + 20);
        return true;
    case HEADER_ENTRY:
        r->has_entry = true;
        r->entry = load32(p + 8);
        return true;
    case HEADER_CONSOLE:
    case HEADER_FRAMEBUFFER: r->text = true; return true;
    case HEADER_RELOCATABLE:
        r->relocatable = true;
        r->min = load32(p + 8), r->max = load32(p + 12), r->align = load32(p + 16), r->preference = load32(p + 20);
        return true;
    case HEADER_MODULE_ALIGN:
    case HEADER_EFI32_ENTRY:
    case HEADER_EFI64_ENTRY: return true;
    default:
        if (t->flags & OPTIONAL)
            return true;
        if (t->type == HEADER_EFI_SERVICES)
            return boot_fail(b,
                             "%s: requires EFI boot services, which a PC with a BIOS lacks: build it without tag 7, or "
                             "make it optional",
                             name);
        return boot_fail(b,
                         "%s: requires Multiboot 2 header tag %u, which is unknown: build it without, or make it "
                         "optional",
                         name, t->type);
    }
}

static bool read_header(struct boot *b, size_t header, struct request *r)
{
    const struct pc_file *f = &b->config->image;
    const uint8_t *p = (const uint8_t *)f->data + header;
    uint32_t arch = load32(p + 4), length = load32(p + 8);
    *r = (struct request){0};
    if (arch)
        return boot_fail(b, "%s: Multiboot 2 header for architecture %u: build it for i386 (0)", f->name, arch);
    if (length < HEADER_SIZE || length > MIN(f->size, (size_t)SEARCH) - header)
        return boot_fail(b,
                         "%s: a Multiboot 2 header of %u bytes is not wholly in the first 32 KiB of the file: "
                         "build or fetch it again",
                         f->name, length);
    for (uint64_t at = HEADER_SIZE; at + sizeof(struct tag) <= length;) {
        struct tag t;
        memcpy(&t, p + at, sizeof t);
        if (t.type == HEADER_END)
            break;
        if (t.size < sizeof t || t.size > length - at)
            return boot_fail(b, "%s: Multiboot 2 header: tag %u with %u bytes does not fit: build it again", f->name,
                             t.type, t.size);
        if (!read_tag(b, &t, p + at, r))
            return false;
        at += (t.size + UINT64_C(7)) & ~UINT64_C(7);
    }
    if (r->has_address && !r->has_entry)
        return boot_fail(b, "%s: Multiboot 2 header: addresses without an entry address: build it again", f->name);
    return true;
}

/* "Relocatable header tag": where the image goes. */
static bool move(struct boot *b, const struct request *r, struct boot_image *im)
{
    uint64_t len = im->end - im->low, to = (uint64_t)r->max + 1, align = MAX(r->align, 1u);
    uint64_t from = MAX((uint64_t)r->min, UINT64_C(0x9000)), base = UINT64_MAX;
    if (r->preference != 1 && r->preference != 2 && im->low >= from && im->end <= to && im->low % align == 0)
        base = boot_find(b, len, align, im->low, im->end, false);
    if (base == UINT64_MAX)
        base = boot_find(b, len, align, MAX(from, PC_1M), to, r->preference == 2);
    if (base == UINT64_MAX)
        base = boot_find(b, len, align, from, to, r->preference == 2);
    if (base == UINT64_MAX)
        return boot_fail(b,
                         "%s: no RAM from %#x to %#x for its %llu KiB: use a larger --mem, or other addresses in its "
                         "relocatable tag",
                         b->config->image.name, r->min, r->max, (unsigned long long)len >> 10);
    im->delta = base - im->low;
    return true;
}

/* --- "Boot information format" ------------------------------------------------------------------------------------
 */

struct info { /* being written; `p` NULL: being measured */
    uint8_t *p;
    uint64_t used;
};

/* A tag of `size` bytes, of which 8 are written; the rest is zero. The place of the rest, or NULL. */
static uint8_t *put_tag(struct info *o, enum info_tag type, uint64_t size)
{
    uint8_t *at = o->p ? o->p + o->used : NULL;
    if (at) {
        memset(at, 0, (size + 7) & ~UINT64_C(7));
        store32(at, type);
        store32(at + 4, (uint32_t)size);
    }
    o->used += (size + 7) & ~UINT64_C(7);
    return at ? at + 8 : NULL;
}

static void put_words(uint8_t *at, unsigned n, const uint32_t *words)
{
    if (at)
        memcpy(at, words, n * sizeof *words);
}
#define WORDS(at, ...) put_words(at, sizeof((uint32_t[]){__VA_ARGS__}) / 4, (uint32_t[]){__VA_ARGS__})

static void put_info(struct boot *b, struct info *o, const struct request *r, const struct elf_file *e,
                     const struct boot_image *im, const struct boot_module *mods, unsigned n, uint8_t **sections)
{
    const struct pc_config *k = b->config;
    uint8_t *at;
    uint8_t rsdp[36];
    o->used = 8;
    if ((at = put_tag(o, INFO_CMDLINE, 8 + boot_string_size(k->image.name, k->append))))
        boot_put_string(at, k->image.name, k->append);
    if ((at = put_tag(o, INFO_LOADER, 8 + boot_string_size(BOOT_LOADER_NAME, NULL))))
        boot_put_string(at, BOOT_LOADER_NAME, NULL);
    for (unsigned i = 0; i < n; i++) {
        const struct pc_file *f = mods[i].f;
        at = put_tag(o, INFO_MODULE, 16 + boot_string_size(f->name, f->args));
        WORDS(at, (uint32_t)mods[i].base, (uint32_t)(mods[i].base + f->size));
        if (at)
            boot_put_string(at + 8, f->name, f->args);
    }
    at = put_tag(o, INFO_MEMORY, 16);
    WORDS(at, PC_EBDA >> 10, (uint32_t)((b->low - PC_1M) >> 10));
    at = put_tag(o, INFO_MMAP, 16 + b->ranges * 24);
    WORDS(at, 24, 0);
    for (unsigned i = 0; at && i < b->ranges; i++)
        memcpy(at + 8 + i * 24, &b->map[i], sizeof b->map[i]);
    if (r->text) {
        at = put_tag(o, INFO_FRAMEBUFFER, 32);
        WORDS(at, (uint32_t)BOOT_TEXT, 0, 160, 80, 25, 16 | 2 << 8); /* 16 bits a character, type 2: EGA text */
    }
    *sections = NULL;
    if (e && e->shnum) {
        at = put_tag(o, INFO_ELF, 20 + (uint64_t)e->shnum * e->shentsize);
        WORDS(at, e->shnum, e->shentsize, e->shstrndx);
        *sections = at ? at + 12 : NULL;
    }
    mem_read(b->machine->mem, HPA(PC_BIOS), rsdp, sizeof rsdp);
    if (!memcmp(rsdp, "RSD PTR ", 8)) {
        if ((at = put_tag(o, INFO_ACPI_OLD, 8 + 20)))
            memcpy(at, rsdp, 20);
        if (rsdp[15] >= 2 && (at = put_tag(o, INFO_ACPI_NEW, 8 + 36)))
            memcpy(at, rsdp, 36);
    }
    if (r->relocatable) {
        at = put_tag(o, INFO_LOAD_BASE, 12);
        WORDS(at, (uint32_t)(im->low + im->delta));
    }
    put_tag(o, INFO_END, 8);
    if (o->p)
        WORDS(o->p, (uint32_t)o->used, 0);
}

static bool build_info(struct boot *b, const struct request *r, const struct elf_file *e, const struct boot_image *im,
                       uint32_t *info_pa)
{
    struct boot_module mods[BOOT_MODULES_MAX];
    unsigned n = boot_list_modules(b, mods);
    uint8_t *sections;
    struct info o = {0};
    put_info(b, &o, r, e, im, mods, n, &sections);
    uint64_t top = boot_top(b), pa;
    o.p = boot_info(b, o.used, top, &pa);
    if (!o.p)
        return false;
    if (!boot_load_modules(b, mods, n, top))
        return false;
    put_info(b, &o, r, e, im, mods, n, &sections);
    if (sections && !elf_put_sections(b, e, sections, top))
        return false;
    *info_pa = (uint32_t)pa;
    return true;
}

bool multiboot2_load(struct boot *b)
{
    const struct pc_file *f = &b->config->image;
    size_t header = (size_t)multiboot2_find(f->data, f->size);
    struct request r;
    struct boot_image im;
    struct elf_file e;
    uint32_t info = 0;
    if (!read_header(b, header, &r))
        return false;
    if (r.has_address) {
        /* All ones: the file from its beginning. */
        uint64_t load = r.load_addr != UINT32_MAX ? r.load_addr : (uint64_t)r.header_addr - header;
        if (!flat_image(b, header, r.header_addr, load, r.load_end, r.bss_end, &im))
            return false;
    } else if (!elf_open(b, &e) || !elf_image(b, &e, &im)) {
        return false;
    }
    if (r.has_entry)
        im.entry = r.entry;
    if (r.relocatable && im.n && !move(b, &r, &im))
        return false;
    if (!boot_load_image(b, &im) || !build_info(b, &r, r.has_address ? NULL : &e, &im, &info))
        return false;
    boot_start32(b, (uint32_t)(im.entry + im.delta), LOADER_MAGIC, info); /* "I386 machine state" */
    return true;
}
