/* SPDX-License-Identifier: MIT
 *
 * multiboot.c: Multiboot 1 (Multiboot Specification version 0.6.96): an ELF32 or ELF64 image, or any file whose header
 * has the address fields; modules, memory map, command line.
 *
 * Every number of the file is checked before it is used. Segments go where they ask to, below 4 GiB, in RAM and apart
 * from one another; the information structure to a free place below 640 KiB, or above the image; modules above the
 * image.
 *
 * DEVIATION: a request for a video mode (flag 2) is ignored, as QEMU does: there is no graphics adapter.
 * NYI: the boot device, the symbol table, the APM table.
 */
#include <elf.h>
#include <stdio.h>

#include "src/machine/boot/boot.h"

#define HEADER_MAGIC  0x1badb002u
#define LOADER_MAGIC  0x2badb002u
#define SEARCH        8192u
#define ALIGN_MODULES BIT(0)
#define MANDATORY     0xffffu
#define KNOWN         0x7u /* aligned modules, memory information, video */
#define ADDRESSES     BIT(16)
#define SEGMENTS_MAX  64u

struct info { /* "Boot information format" */
    uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4], mmap_length, mmap_addr;
    uint32_t drives_length, drives_addr, config_table, boot_loader_name;
};
enum { INFO_MEMORY = 1 << 0, INFO_CMDLINE = 1 << 2, INFO_MODS = 1 << 3, INFO_MMAP = 1 << 6, INFO_LOADER = 1 << 9 };
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

/* Copies `filesz` bytes from `offset` of the image, and zeros up to memsz, to pa. */
static bool load_segment(struct boot *b, uint64_t pa, uint64_t memsz, uint64_t offset, uint64_t filesz)
{
    const struct pc_file *f = &b->config->image;
    if (offset > f->size || filesz > f->size - offset)
        return boot_fail(b, "%s: truncated: a segment's bytes are outside the file; build or fetch it again", f->name);
    if (filesz > memsz)
        return boot_fail(b, "%s: a segment has more bytes in the file than in memory: the file is damaged", f->name);
    uint8_t *to = boot_ram(b, pa, memsz);
    if (!to)
        return boot_fail(b,
                         "%s: a segment at %#llx with %#llx bytes is outside of RAM: use a larger --mem, or link it "
                         "elsewhere",
                         f->name, (unsigned long long)pa, (unsigned long long)memsz);
    if (!boot_take(b, pa, memsz))
        return boot_fail(b, "%s: the segment at %#llx overlaps another: link it again", f->name,
                         (unsigned long long)pa);
    memcpy(to, (const uint8_t *)f->data + offset, filesz);
    memset(to + filesz, 0, memsz - filesz);
    return true;
}

/* "The address fields of Multiboot header". */
static bool load_flat(struct boot *b, size_t header, uint32_t *entry)
{
    const struct pc_file *f = &b->config->image;
    const uint8_t *p = (const uint8_t *)f->data + header;
    if (f->size - header < 32)
        return boot_fail(b, "%s: truncated in its Multiboot header: build or fetch it again", f->name);
    uint64_t header_addr = load32(p + 12), load = load32(p + 16), load_end = load32(p + 20), bss_end = load32(p + 24);
    if (load > header_addr || header_addr - load > header)
        return boot_fail(b, "%s: Multiboot header: load_addr %#llx does not fit header_addr %#llx: build it again",
                         f->name, (unsigned long long)load, (unsigned long long)header_addr);
    uint64_t offset = header - (header_addr - load), filesz = load_end ? load_end - load : f->size - offset;
    if (load_end && load_end < load)
        return boot_fail(b, "%s: Multiboot header: load_end_addr is below load_addr: build it again", f->name);
    if (bss_end && bss_end < load + filesz)
        return boot_fail(b, "%s: Multiboot header: bss_end_addr is below the end of the data: build it again", f->name);
    *entry = load32(p + 28);
    uint64_t memsz = bss_end ? bss_end - load : filesz;
    if (*entry < load || *entry - load >= memsz)
        return boot_fail(b, "%s: Multiboot header: entry_addr is outside of what is loaded: build it again", f->name);
    return load_segment(b, load, memsz, offset, filesz);
}

struct segment {
    uint32_t type;
    uint64_t offset, vaddr, paddr, filesz, memsz;
};

static void get_segment(const uint8_t *p, bool elf64, struct segment *s)
{
    if (elf64) {
        Elf64_Phdr h;
        memcpy(&h, p, sizeof h);
        *s = (struct segment){h.p_type, h.p_offset, h.p_vaddr, h.p_paddr, h.p_filesz, h.p_memsz};
    } else {
        Elf32_Phdr h;
        memcpy(&h, p, sizeof h);
        *s = (struct segment){h.p_type, h.p_offset, h.p_vaddr, h.p_paddr, h.p_filesz, h.p_memsz};
    }
}

static bool load_elf(struct boot *b, uint32_t *entry)
{
    const struct pc_file *f = &b->config->image;
    const uint8_t *p = f->data;
    uint64_t phoff, virt;
    uint32_t phnum, phentsize;
    bool elf64 = f->size > EI_CLASS && p[EI_CLASS] == ELFCLASS64;
    if (f->size < (elf64 ? sizeof(Elf64_Ehdr) : sizeof(Elf32_Ehdr)) || memcmp(p, ELFMAG, SELFMAG))
        return boot_fail(b, "%s: has a Multiboot header without address fields, and is no ELF file: build it again",
                         f->name);
    if (elf64) {
        Elf64_Ehdr h;
        memcpy(&h, p, sizeof h);
        if (h.e_machine != EM_X86_64)
            return boot_fail(b, "%s: an ELF64 file for another processor: build it for x86-64", f->name);
        phoff = h.e_phoff, phnum = h.e_phnum, phentsize = h.e_phentsize, virt = h.e_entry;
    } else {
        Elf32_Ehdr h;
        memcpy(&h, p, sizeof h);
        if (p[EI_CLASS] != ELFCLASS32 || h.e_machine != EM_386)
            return boot_fail(b, "%s: an ELF file for another processor: build it for i386 or x86-64", f->name);
        phoff = h.e_phoff, phnum = h.e_phnum, phentsize = h.e_phentsize, virt = h.e_entry;
    }
    if (phentsize != (elf64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)) || !phnum || phnum > SEGMENTS_MAX)
        return boot_fail(b, "%s: %u program headers of %u bytes: from 1 to %u of the usual size are taken", f->name,
                         phnum, phentsize, SEGMENTS_MAX);
    if (phoff > f->size || (uint64_t)phnum * phentsize > f->size - phoff)
        return boot_fail(b, "%s: truncated: its program headers are outside the file; build or fetch it again",
                         f->name);
    /* The entry is a virtual address where a segment says so (GRUB and QEMU agree), else it is physical. */
    uint64_t at = virt;
    bool translated = false, inside = false;
    for (unsigned i = 0; i < phnum; i++) {
        struct segment s;
        get_segment(p + phoff + i * phentsize, elf64, &s);
        if (s.type != PT_LOAD || !s.memsz)
            continue;
        if (!load_segment(b, s.paddr, s.memsz, s.offset, s.filesz))
            return false;
        if (!translated && virt >= s.vaddr && virt - s.vaddr < s.memsz) {
            at = virt - s.vaddr + s.paddr;
            translated = true;
        }
    }
    for (unsigned i = 0; i < b->nused; i++)
        inside |= at >= b->used[i].base && at < b->used[i].end;
    if (!inside)
        return boot_fail(b, "%s: its entry point %#llx is in no loaded segment: link it again", f->name,
                         (unsigned long long)virt);
    *entry = (uint32_t)at;
    return true;
}

/* Bytes of the strings "name args" with their zeros. */
static uint64_t string_size(const struct pc_file *f, const char *args)
{
    return strlen(f->name) + (args && *args ? 1 + strlen(args) : 0) + 1;
}

static uint32_t put_string(uint8_t *info, uint64_t pa, uint64_t *used, const struct pc_file *f, const char *args)
{
    uint32_t at = (uint32_t)(pa + *used);
    uint64_t size = string_size(f, args);
    snprintf((char *)info + *used, size, "%s%s%s", f->name, args && *args ? " " : "", args && *args ? args : "");
    *used += size;
    return at;
}

static bool build_info(struct boot *b, uint64_t top, uint32_t *info_pa)
{
    static const struct pc_file loader = {.name = "vmenter"};
    const struct pc_config *k = b->config;
    const struct pc_file *mods[PC_MODULES_MAX + 1];
    unsigned n = 0;
    if (k->initrd.data)
        mods[n++] = &k->initrd;
    for (unsigned i = 0; i < k->modules; i++)
        mods[n++] = &k->module[i];

    uint64_t size = sizeof(struct info) + n * sizeof(struct module) + b->ranges * sizeof(struct mmap_entry);
    uint64_t used = size;
    size += string_size(&k->image, k->append) + string_size(&loader, NULL);
    for (unsigned i = 0; i < n; i++)
        size += string_size(mods[i], mods[i]->args);
    uint64_t pa = boot_place(b, size, 0x9000, PC_EBDA);
    if (pa == UINT64_MAX)
        pa = boot_place(b, size, top, PC_HOLE);
    uint8_t *p = pa == UINT64_MAX ? NULL : boot_ram(b, pa, size);
    if (!p)
        return boot_fail(b, "%s: no RAM is left for its command line and memory map: use a larger --mem",
                         k->image.name);

    struct info info = {.flags = INFO_MEMORY | INFO_CMDLINE | INFO_MODS | INFO_MMAP | INFO_LOADER,
                        .mem_lower = PC_EBDA >> 10,
                        .mem_upper = (uint32_t)((b->low - PC_1M) >> 10),
                        .mods_count = n,
                        .mods_addr = (uint32_t)(pa + sizeof info),
                        .mmap_length = b->ranges * (uint32_t)sizeof(struct mmap_entry),
                        .mmap_addr = (uint32_t)(pa + sizeof info + n * sizeof(struct module))};
    info.cmdline = put_string(p, pa, &used, &k->image, k->append);
    info.boot_loader_name = put_string(p, pa, &used, &loader, NULL);
    for (unsigned i = 0; i < n; i++) {
        uint64_t at = boot_place(b, MAX(mods[i]->size, (size_t)1), top, PC_HOLE);
        if (at == UINT64_MAX)
            return boot_fail(b, "%s: a module of %zu KiB does not fit into the RAM: use a larger --mem", mods[i]->name,
                             mods[i]->size >> 10);
        if (mods[i]->size)
            memcpy(boot_ram(b, at, mods[i]->size), mods[i]->data, mods[i]->size);
        struct module m = {.start = (uint32_t)at,
                           .end = (uint32_t)(at + mods[i]->size),
                           .string = put_string(p, pa, &used, mods[i], mods[i]->args)};
        memcpy(p + sizeof info + i * sizeof m, &m, sizeof m);
    }
    for (unsigned i = 0; i < b->ranges; i++) {
        struct mmap_entry e = {.size = sizeof e.range, .range = b->map[i]};
        memcpy(p + sizeof info + n * sizeof(struct module) + i * sizeof e, &e, sizeof e);
    }
    memcpy(p, &info, sizeof info);
    *info_pa = (uint32_t)pa;
    return true;
}

bool multiboot_load(struct boot *b)
{
    const struct pc_file *f = &b->config->image;
    size_t header = (size_t)multiboot_find(f->data, f->size);
    uint32_t flags = load32((const uint8_t *)f->data + header + 4), entry, info;
    if (flags & MANDATORY & ~KNOWN)
        return boot_fail(b, "%s: asks for Multiboot features that are unknown (flags %#x): build it without them",
                         f->name, flags);
    if (!(flags & ADDRESSES ? load_flat(b, header, &entry) : load_elf(b, &entry)))
        return false;
    uint64_t top = PC_1M;
    for (unsigned i = 0; i < b->nused; i++)
        top = MAX(top, b->used[i].end);
    if (!build_info(b, (top + PAGE_OFFSET) & PAGE_BASE, &info))
        return false;

    /* "Machine state". */
    static const uint64_t gdt[] = {0, 0x00cf9b000000ffffull, 0x00cf93000000ffffull};
    mem_write(b->machine->mem, HPA(BOOT_GDT), gdt, sizeof gdt);
    struct cpu *c = b->machine->cpu[0].cpu;
    boot_flat(c, 0x08, AR_G | AR_DB | AR_P | AR_S | 0xb, 0x10);
    c->seg[SEG_LDTR] = (struct seg){.limit = 0xffff, .ar = AR_P | 2};
    c->seg[SEG_TR] = (struct seg){.limit = 0xffff, .ar = AR_P | 0xb};
    c->gdtr = (struct dtable){.base = BOOT_GDT, .limit = sizeof gdt - 1};
    c->idtr = (struct dtable){0};
    c->cr0 = CR0_PE | CR0_ET;
    c->rip = entry;
    memset(c->gpr, 0, sizeof c->gpr);
    c->gpr[GPR_RAX] = LOADER_MAGIC;
    c->gpr[GPR_RBX] = info;
    c->gpr[GPR_RSP] = 0x7c00; /* undefined by the specification; a place that is RAM */
    return true;
}
