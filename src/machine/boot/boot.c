/* SPDX-License-Identifier: MIT
 *
 * boot.c: which loader an image is for, and what the loaders share: places in RAM, flat segments.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "src/machine/boot/boot.h"

#define WANTED "a Multiboot, Multiboot 2 or PVH image or a Linux bzImage is wanted"

bool boot_fail(struct boot *b, const char *fmt, ...)
{
    /* A file's name may be as long as it likes: what to do stands at the end. */
    enum { HEAD = 100 };
    char text[8192];
    va_list ap;
    va_start(ap, fmt);
    int len = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    size_t n = len < 0 ? 0 : MIN((size_t)len, sizeof text - 1);
    if (n < PC_ERROR_MAX)
        memcpy(b->error, text, n + 1);
    else
        snprintf(b->error, PC_ERROR_MAX, "%.*s...%s", HEAD, text, text + n - (PC_ERROR_MAX - HEAD - 4));
    return false;
}

static bool is_ram(const struct boot *b, uint64_t pa, uint64_t len)
{
    for (unsigned i = 0; i < b->ranges; i++) {
        const struct memory_range *r = &b->map[i];
        if (r->type == MEMORY_RAM && len && pa >= r->base && pa - r->base < r->len && len <= r->len - (pa - r->base))
            return true;
    }
    return false;
}

void *boot_ram(struct boot *b, uint64_t pa, uint64_t len)
{
    return is_ram(b, pa, len) ? mem_host(b->machine->mem, HPA(pa), len, true) : NULL;
}

/* What is taken and overlaps; -1: it is free. */
static int overlap(const struct boot *b, uint64_t pa, uint64_t len)
{
    for (unsigned i = 0; i < b->nused; i++)
        if (pa < b->used[i].end && b->used[i].base < pa + len)
            return (int)i;
    return -1;
}

bool boot_take(struct boot *b, uint64_t pa, uint64_t len)
{
    if (b->nused == BOOT_USED_MAX || overlap(b, pa, len) >= 0)
        return false;
    b->used[b->nused].base = pa;
    b->used[b->nused++].end = pa + len;
    return true;
}

static uint64_t align_up(uint64_t pa, uint64_t align)
{
    return (pa + align - 1) / align * align;
}

/* All numbers are below 2^33, so that nothing wraps. */
static uint64_t find_in(const struct boot *b, uint64_t len, uint64_t align, uint64_t base, uint64_t end, bool highest)
{
    if (base >= end || len > end - base)
        return UINT64_MAX;
    uint64_t pa = highest ? (end - len) / align * align : align_up(base, align);
    while (pa >= base && pa <= end - len) {
        int i = overlap(b, pa, len);
        if (i < 0)
            return pa;
        if (!highest)
            pa = align_up(b->used[i].end, align);
        else if (b->used[i].base < len)
            break;
        else
            pa = (b->used[i].base - len) / align * align;
    }
    return UINT64_MAX;
}

uint64_t boot_find(struct boot *b, uint64_t len, uint64_t align, uint64_t from, uint64_t to, bool highest)
{
    align = MAX(align, (uint64_t)1);
    for (unsigned n = 0; n < b->ranges; n++) {
        const struct memory_range *r = &b->map[highest ? b->ranges - 1 - n : n];
        if (r->type != MEMORY_RAM || r->base >= b->low)
            continue;
        uint64_t end = MIN(r->base + r->len, b->low);
        uint64_t pa = find_in(b, len, align, MAX(r->base, from), MIN(end, to), highest);
        if (pa != UINT64_MAX)
            return pa;
    }
    return UINT64_MAX;
}

uint64_t boot_place(struct boot *b, uint64_t len, uint64_t from, uint64_t to)
{
    uint64_t pa = boot_find(b, len, PAGE_SIZE, from, to, false);
    if (pa == UINT64_MAX && from > PC_1M) /* the image may be at the top */
        pa = boot_find(b, len, PAGE_SIZE, PC_1M, to, false);
    return pa != UINT64_MAX && boot_take(b, pa, len) ? pa : UINT64_MAX;
}

uint8_t *boot_info(struct boot *b, uint64_t len, uint64_t top, uint64_t *pa)
{
    *pa = boot_place(b, len, 0x9000, PC_EBDA);
    if (*pa == UINT64_MAX)
        *pa = boot_place(b, len, top, PC_HOLE);
    uint8_t *p = *pa == UINT64_MAX ? NULL : boot_ram(b, *pa, len);
    if (!p)
        boot_fail(b, "%s: no RAM is left for its command line and memory map: use a larger --mem",
                  b->config->image.name);
    return p;
}

void boot_flat(struct cpu *c, uint16_t code, uint32_t code_ar, uint16_t data)
{
    for (unsigned i = 0; i < 6; i++)
        c->seg[i] = (struct seg){.limit = 0xffffffff, .ar = AR_G | AR_DB | AR_P | AR_S | 3, .sel = data};
    c->seg[SEG_CS] = (struct seg){.limit = 0xffffffff, .ar = code_ar, .sel = code};
    c->seg[SEG_LDTR] = (struct seg){.ar = AR_UNUSABLE};
}

void boot_start32(struct boot *b, uint32_t entry, uint32_t eax, uint32_t ebx)
{
    static const uint64_t gdt[] = {0, 0x00cf9b000000ffffull, 0x00cf93000000ffffull, 0x00008b0000000067ull};
    mem_write(b->machine->mem, HPA(BOOT_GDT), gdt, sizeof gdt);
    struct cpu *c = b->machine->cpu[0].cpu;
    boot_flat(c, 0x08, AR_G | AR_DB | AR_P | AR_S | 0xb, 0x10);
    c->seg[SEG_TR] = (struct seg){.limit = 0x67, .ar = AR_P | 0xb, .sel = 0x18};
    c->gdtr = (struct dtable){.base = BOOT_GDT, .limit = sizeof gdt - 1};
    c->idtr = (struct dtable){0};
    c->cr0 = CR0_PE | CR0_ET;
    c->rip = entry;
    memset(c->gpr, 0, sizeof c->gpr);
    c->gpr[GPR_RAX] = eax;
    c->gpr[GPR_RBX] = ebx;
    c->gpr[GPR_RSP] = 0x7c00; /* undefined by the specifications; a place that is RAM */
}

static bool is_gzip(const struct pc_file *f)
{
    const uint8_t *p = f->data;
    return f->size >= 2 && p[0] == 0x1f && p[1] == 0x8b;
}

static bool load_image(struct boot *b)
{
    const struct pc_file *f = &b->config->image;
    const uint8_t *p = f->data;
    uint64_t pvh;
    if (!f->size)
        return boot_fail(b, "%s: the file is empty: " WANTED, f->name);
    bool is_linux = linux_boot_is(p, f->size);
    if (b->config->entry && !is_linux)
        return boot_fail(b, "%s: --entry is for a Linux bzImage, which this is not", f->name);
    /* An image with both headers gets the newer protocol, which tells it more. */
    if (multiboot2_find(p, f->size) >= 0)
        return multiboot2_load(b);
    if (multiboot_find(p, f->size) >= 0)
        return multiboot_load(b);
    if (is_linux)
        return boot_linux(b);
    if (f->size >= 4 && !memcmp(p, "\177ELF", 4)) {
        if (elf_find_pvh(f, &pvh))
            return pvh_load(b, pvh);
        return boot_fail(b,
                         "%s: an ELF file without a Multiboot header near its start and without a PVH note: give it "
                         "one of them",
                         f->name);
    }
    return boot_fail(b, "%s: not a bootable image (or cut before its header): " WANTED, f->name);
}

/* What is in a gzip file: hypervisors are packaged so, and GRUB unpacks them. */
static bool load_packed(struct boot *b)
{
    const struct pc_config *config = b->config;
    struct pc_config *unpacked = malloc(sizeof *unpacked);
    uint8_t *data = NULL;
    if (!unpacked)
        return boot_fail(b, "the host has no memory left");
    *unpacked = *config;
    const char *why = gunzip(config->image.data, config->image.size, b->low, &data, &unpacked->image.size);
    unpacked->image.data = data;
    b->config = unpacked;
    bool ok =
        why ? boot_fail(b, "%s: a gzip file that cannot be unpacked: %s", config->image.name, why) : load_image(b);
    b->config = config;
    free(data);
    free(unpacked);
    return ok;
}

bool boot_load(struct boot *b)
{
    const struct pc_file *f = &b->config->image;
    boot_bios(b);
    return is_gzip(f) ? load_packed(b) : load_image(b);
}
