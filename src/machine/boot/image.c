/* SPDX-License-Identifier: MIT
 *
 * image.c: what the loaders of Multiboot and PVH images share: ELF32 and ELF64 files, flat ones, modules.
 *
 * Every number of the file is checked before it is used, in 64 bits. A segment goes where it asks to (or all of them
 * moved by the same distance), into RAM below the hole under 4 GiB, and apart from the others.
 */
#include <elf.h>
#include <stdio.h>

#include "src/machine/boot/boot.h"

#define X(v) ((unsigned long long)(v))

/* --- ELF ----------------------------------------------------------------------------------------------------------
 */

struct segment {
    uint32_t type;
    uint64_t offset, vaddr, paddr, filesz, memsz, align;
};

static void get_segment(const struct pc_file *f, const struct elf_file *e, unsigned i, struct segment *s)
{
    const uint8_t *p = (const uint8_t *)f->data + e->phoff + (uint64_t)i * e->phentsize;
    if (e->elf64) {
        Elf64_Phdr h;
        memcpy(&h, p, sizeof h);
        *s = (struct segment){h.p_type, h.p_offset, h.p_vaddr, h.p_paddr, h.p_filesz, h.p_memsz, h.p_align};
    } else {
        Elf32_Phdr h;
        memcpy(&h, p, sizeof h);
        *s = (struct segment){h.p_type, h.p_offset, h.p_vaddr, h.p_paddr, h.p_filesz, h.p_memsz, h.p_align};
    }
}

struct section {
    uint32_t type;
    uint64_t addr, offset, size, align;
};

static void get_section(const uint8_t *p, bool elf64, struct section *s)
{
    if (elf64) {
        Elf64_Shdr h;
        memcpy(&h, p, sizeof h);
        *s = (struct section){h.sh_type, h.sh_addr, h.sh_offset, h.sh_size, h.sh_addralign};
    } else {
        Elf32_Shdr h;
        memcpy(&h, p, sizeof h);
        *s = (struct section){h.sh_type, h.sh_addr, h.sh_offset, h.sh_size, h.sh_addralign};
    }
}

static bool lies_in(const struct pc_file *f, uint64_t offset, uint64_t len)
{
    return offset <= f->size && len <= f->size - offset;
}

bool elf_open(struct boot *b, struct elf_file *e)
{
    const struct pc_file *f = &b->config->image;
    const uint8_t *p = f->data;
    uint16_t machine;
    *e = (struct elf_file){.elf64 = f->size > EI_CLASS && p[EI_CLASS] == ELFCLASS64};
    if (f->size < (e->elf64 ? sizeof(Elf64_Ehdr) : sizeof(Elf32_Ehdr)) || memcmp(p, ELFMAG, SELFMAG))
        return boot_fail(b, "%s: has a Multiboot header without address fields, and is no ELF file: build it again",
                         f->name);
    if (e->elf64) {
        Elf64_Ehdr h;
        memcpy(&h, p, sizeof h);
        machine = h.e_machine;
        e->entry = h.e_entry, e->phoff = h.e_phoff, e->phnum = h.e_phnum, e->phentsize = h.e_phentsize;
        e->shoff = h.e_shoff, e->shnum = h.e_shnum, e->shentsize = h.e_shentsize, e->shstrndx = h.e_shstrndx;
    } else {
        Elf32_Ehdr h;
        memcpy(&h, p, sizeof h);
        machine = h.e_machine;
        e->entry = h.e_entry, e->phoff = h.e_phoff, e->phnum = h.e_phnum, e->phentsize = h.e_phentsize;
        e->shoff = h.e_shoff, e->shnum = h.e_shnum, e->shentsize = h.e_shentsize, e->shstrndx = h.e_shstrndx;
    }
    if ((p[EI_CLASS] != ELFCLASS32 && p[EI_CLASS] != ELFCLASS64) || p[EI_DATA] != ELFDATA2LSB ||
        (machine != EM_386 && machine != EM_X86_64))
        return boot_fail(b, "%s: an ELF file for another processor: build it for i386 or x86-64", f->name);
    if (e->phentsize < (e->elf64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)) || !e->phnum ||
        e->phnum > BOOT_SEGMENTS_MAX)
        return boot_fail(b, "%s: %u program headers of %u bytes: from 1 to %u of the usual size are taken", f->name,
                         e->phnum, e->phentsize, BOOT_SEGMENTS_MAX);
    if (!lies_in(f, e->phoff, (uint64_t)e->phnum * e->phentsize))
        return boot_fail(b, "%s: truncated: its program headers are outside the file; build or fetch it again",
                         f->name);
    uint32_t usual = e->elf64 ? sizeof(Elf64_Shdr) : sizeof(Elf32_Shdr);
    if (!e->shoff)
        e->shnum = 0;
    else if (!e->shnum && e->shentsize >= usual && lies_in(f, e->shoff, usual)) {
        /* More than the field holds: the count is the size of section 0. */
        struct section s;
        get_section(p + e->shoff, e->elf64, &s);
        e->shnum = s.size <= UINT32_MAX ? (uint32_t)s.size : UINT32_MAX;
    }
    if (e->shnum && e->shentsize < usual)
        return boot_fail(b, "%s: section headers of %u bytes: the file is damaged; build or fetch it again", f->name,
                         e->shentsize);
    if (e->shnum && !lies_in(f, e->shoff, (uint64_t)e->shnum * e->shentsize))
        return boot_fail(b, "%s: truncated: its section headers are outside the file; build or fetch it again",
                         f->name);
    return true;
}

static void add_segment(struct boot_image *im, const struct boot_segment *s)
{
    im->low = im->n ? MIN(im->low, s->pa) : s->pa;
    im->end = MAX(im->end, s->pa + s->memsz);
    im->seg[im->n++] = *s;
}

static bool check_segment(struct boot *b, const struct boot_segment *s)
{
    const struct pc_file *f = &b->config->image;
    if (!lies_in(f, s->offset, s->filesz))
        return boot_fail(b, "%s: truncated: a segment's bytes are outside the file; build or fetch it again", f->name);
    if (s->filesz > s->memsz)
        return boot_fail(b, "%s: a segment has more bytes in the file than in memory: the file is damaged", f->name);
    if (s->pa > UINT32_MAX || s->memsz > UINT32_MAX)
        return boot_fail(b, "%s: a segment at %#llx with %#llx bytes is outside of RAM below 4 GiB: link it elsewhere",
                         f->name, X(s->pa), X(s->memsz));
    return true;
}

bool elf_image(struct boot *b, const struct elf_file *e, struct boot_image *im)
{
    *im = (struct boot_image){.entry = e->entry};
    bool translated = false;
    for (unsigned i = 0; i < e->phnum; i++) {
        struct segment h;
        get_segment(&b->config->image, e, i, &h);
        if (h.type != PT_LOAD || !h.memsz)
            continue;
        struct boot_segment s = {h.offset, h.filesz, h.paddr, h.memsz};
        if (!check_segment(b, &s))
            return false;
        add_segment(im, &s);
        /* The entry is a virtual address where a segment says so (GRUB and QEMU agree), else it is physical. */
        if (!translated && e->entry >= h.vaddr && e->entry - h.vaddr < h.memsz) {
            im->entry = e->entry - h.vaddr + h.paddr;
            translated = true;
        }
    }
    return true;
}

#define PVH_NOTE 18u /* XEN_ELFNOTE_PHYS32_ENTRY */

bool elf_find_pvh(const struct pc_file *f, uint64_t *entry)
{
    char nobody[PC_ERROR_MAX];
    struct pc_config k = {.image = *f};
    struct boot b = {.config = &k, .error = nobody};
    struct elf_file e;
    if (!elf_open(&b, &e))
        return false;
    for (unsigned i = 0; i < e.phnum; i++) {
        struct segment h;
        get_segment(f, &e, i, &h);
        if (h.type != PT_NOTE || !lies_in(f, h.offset, h.filesz))
            continue;
        const uint8_t *p = (const uint8_t *)f->data + h.offset;
        uint64_t at = 0, align = h.align == 8 ? 8 : 4;
        while (h.filesz - at >= 12) {
            uint64_t name = load32(p + at), desc = load32(p + at + 4);
            uint32_t type = load32(p + at + 8);
            uint64_t data = at + ((12 + name + align - 1) & ~(align - 1));
            uint64_t end = data + ((desc + align - 1) & ~(align - 1));
            if (data > h.filesz || desc > h.filesz - data)
                break;
            if (type == PVH_NOTE && name == 4 && !memcmp(p + at + 12, "Xen", 4) && (desc == 4 || desc == 8)) {
                *entry = desc == 4 ? load32(p + data) : load64(p + data);
                return true;
            }
            if (end > h.filesz)
                break;
            at = end;
        }
    }
    return false;
}

bool elf_put_sections(struct boot *b, const struct elf_file *e, uint8_t *to, uint64_t from)
{
    const struct pc_file *f = &b->config->image;
    const uint8_t *p = (const uint8_t *)f->data + e->shoff;
    uint64_t size = 0, base = 0;
    memcpy(to, p, (uint64_t)e->shnum * e->shentsize);
    /* First how much room they need, then the bytes. */
    for (unsigned pass = 0; pass < 2; pass++) {
        uint64_t at = base;
        for (uint32_t i = 0; i < e->shnum; i++) {
            struct section s;
            get_section(p + (uint64_t)i * e->shentsize, e->elf64, &s);
            if (s.type == SHT_NULL || s.type == SHT_NOBITS || s.addr || !s.size)
                continue;
            if (!lies_in(f, s.offset, s.size))
                return boot_fail(b, "%s: truncated: a section's bytes are outside the file; build or fetch it again",
                                 f->name);
            uint64_t align = s.align > 1 && s.align <= PAGE_SIZE && !(s.align & (s.align - 1)) ? s.align : 1;
            at = (at + align - 1) & ~(align - 1);
            if (pass) {
                memcpy(boot_ram(b, at, s.size), (const uint8_t *)f->data + s.offset, s.size);
                uint8_t *header = to + (uint64_t)i * e->shentsize;
                if (e->elf64)
                    store64(header + offsetof(Elf64_Shdr, sh_addr), at);
                else
                    store32(header + offsetof(Elf32_Shdr, sh_addr), (uint32_t)at);
            }
            at += s.size;
        }
        size = at - base;
        if (!pass && size) {
            base = boot_place(b, size, from, PC_HOLE);
            if (base == UINT64_MAX)
                return boot_fail(b,
                                 "%s: %llu KiB of symbols and debug information do not fit into the RAM: strip it, "
                                 "or use a larger --mem",
                                 f->name, X(size >> 10));
        }
    }
    return true;
}

/* --- flat files ---------------------------------------------------------------------------------------------------
 */

bool flat_image(struct boot *b, size_t header, uint64_t header_addr, uint64_t load, uint64_t load_end, uint64_t bss_end,
                struct boot_image *im)
{
    const struct pc_file *f = &b->config->image;
    if (load > header_addr || header_addr - load > header)
        return boot_fail(b, "%s: Multiboot header: load_addr %#llx does not fit header_addr %#llx: build it again",
                         f->name, X(load), X(header_addr));
    uint64_t offset = header - (header_addr - load);
    if (load_end && load_end < load)
        return boot_fail(b, "%s: Multiboot header: load_end_addr is below load_addr: build it again", f->name);
    uint64_t filesz = load_end ? load_end - load : f->size - offset;
    if (bss_end && bss_end < load + filesz)
        return boot_fail(b, "%s: Multiboot header: bss_end_addr is below the end of the data: build it again", f->name);
    struct boot_segment s = {offset, filesz, load, bss_end ? bss_end - load : filesz};
    *im = (struct boot_image){0};
    if (!check_segment(b, &s))
        return false;
    add_segment(im, &s);
    return true;
}

/* --- into memory --------------------------------------------------------------------------------------------------
 */

bool boot_load_image(struct boot *b, const struct boot_image *im)
{
    const struct pc_file *f = &b->config->image;
    bool inside = false;
    for (unsigned i = 0; i < im->n; i++) {
        const struct boot_segment *s = &im->seg[i];
        uint64_t pa = s->pa + im->delta;
        if (!s->memsz)
            continue;
        uint8_t *to = pa < b->low ? boot_ram(b, pa, s->memsz) : NULL;
        if (!to)
            return boot_fail(b,
                             "%s: a segment at %#llx with %#llx bytes is outside of RAM: use a larger --mem, or link "
                             "it elsewhere",
                             f->name, X(pa), X(s->memsz));
        if (!boot_take(b, pa, s->memsz))
            return boot_fail(b, "%s: the segment at %#llx overlaps another: link it again", f->name, X(pa));
        memcpy(to, (const uint8_t *)f->data + s->offset, s->filesz);
        /* RAM is zero already, but for what firmware has in its first page and the last before the VGA. */
        if (pa < PC_1M)
            memset(to + s->filesz, 0, s->memsz - s->filesz);
        inside |= im->entry >= s->pa && im->entry - s->pa < s->memsz;
    }
    if (!inside)
        return boot_fail(b, "%s: its entry point %#llx is in no loaded segment: link it again", f->name, X(im->entry));
    return true;
}

uint64_t boot_top(const struct boot *b)
{
    uint64_t top = PC_1M;
    for (unsigned i = 0; i < b->nused; i++)
        top = MAX(top, b->used[i].end);
    return (top + PAGE_OFFSET) & PAGE_BASE;
}

unsigned boot_list_modules(struct boot *b, struct boot_module m[BOOT_MODULES_MAX])
{
    const struct pc_config *k = b->config;
    unsigned n = 0;
    if (k->initrd.data)
        m[n++] = (struct boot_module){.f = &k->initrd};
    for (unsigned i = 0; i < k->modules; i++)
        m[n++] = (struct boot_module){.f = &k->module[i]};
    return n;
}

bool boot_load_modules(struct boot *b, struct boot_module *m, unsigned n, uint64_t from)
{
    for (unsigned i = 0; i < n; i++) {
        const struct pc_file *f = m[i].f;
        m[i].base = boot_place(b, MAX(f->size, (size_t)1), from, PC_HOLE);
        if (m[i].base == UINT64_MAX)
            return boot_fail(b, "%s: a module of %zu KiB does not fit into the RAM: use a larger --mem", f->name,
                             f->size >> 10);
        if (f->size)
            memcpy(boot_ram(b, m[i].base, f->size), f->data, f->size);
    }
    return true;
}

uint64_t boot_string_size(const char *name, const char *args)
{
    return strlen(name) + 1 + (args && *args ? 1 + strlen(args) : 0);
}

void boot_put_string(uint8_t *to, const char *name, const char *args)
{
    snprintf((char *)to, boot_string_size(name, args), "%s%s%s", name, args && *args ? " " : "",
             args && *args ? args : "");
}
