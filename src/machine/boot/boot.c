/* SPDX-License-Identifier: MIT
 *
 * boot.c: which loader an image is for, and what the loaders share: places in RAM, flat segments.
 */
#include <stdarg.h>
#include <stdio.h>

#include "src/machine/boot/boot.h"

bool boot_fail(struct boot *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(b->error, PC_ERROR_MAX, fmt, ap);
    va_end(ap);
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

/* The end of what is taken and overlaps; 0: free. */
static uint64_t overlap(const struct boot *b, uint64_t pa, uint64_t len)
{
    for (unsigned i = 0; i < b->nused; i++)
        if (pa < b->used[i].end && b->used[i].base < pa + len)
            return b->used[i].end;
    return 0;
}

bool boot_take(struct boot *b, uint64_t pa, uint64_t len)
{
    if (b->nused == BOOT_USED_MAX || overlap(b, pa, len))
        return false;
    b->used[b->nused].base = pa;
    b->used[b->nused++].end = pa + len;
    return true;
}

uint64_t boot_place(struct boot *b, uint64_t len, uint64_t from, uint64_t to)
{
    uint64_t pa = from;
    to = MIN(to, b->low);
    while (pa < to && len <= to - pa) {
        uint64_t end = overlap(b, pa, len);
        if (!end && !is_ram(b, pa, len))
            end = pa < PC_1M ? PC_1M : to;
        if (!end)
            return boot_take(b, pa, len) ? pa : UINT64_MAX;
        pa = (end + PAGE_OFFSET) & PAGE_BASE;
    }
    return UINT64_MAX;
}

void boot_flat(struct cpu *c, uint16_t code, uint32_t code_ar, uint16_t data)
{
    for (unsigned i = 0; i < 6; i++)
        c->seg[i] = (struct seg){.limit = 0xffffffff, .ar = AR_G | AR_DB | AR_P | AR_S | 3, .sel = data};
    c->seg[SEG_CS] = (struct seg){.limit = 0xffffffff, .ar = code_ar, .sel = code};
    c->seg[SEG_LDTR] = (struct seg){.ar = AR_UNUSABLE};
}

bool boot_load(struct boot *b)
{
    const struct pc_file *f = &b->config->image;
    const uint8_t *p = f->data;
    boot_bios(b);
    if (!f->size)
        return boot_fail(b, "%s: the file is empty: a Multiboot image or a Linux bzImage is wanted", f->name);
    if (multiboot_find(p, f->size) >= 0)
        return multiboot_load(b);
    if (linux_boot_is(p, f->size))
        return boot_linux(b);
    for (size_t i = 0; i + 4 <= MIN(f->size, (size_t)32768); i += 8)
        if (load32(p + i) == 0xe85250d6)
            return boot_fail(b, "%s: Multiboot 2 is not supported yet: give the image a Multiboot 1 header", f->name);
    if (f->size >= 4 && !memcmp(p, "\177ELF", 4))
        return boot_fail(b,
                         "%s: an ELF file without a Multiboot 1 header in its first 8 KiB: PVH and plain ELF are not "
                         "supported yet; give it a Multiboot 1 header",
                         f->name);
    return boot_fail(b,
                     "%s: neither a Multiboot 1 image nor a Linux bzImage (or cut before its header): one of these "
                     "is wanted",
                     f->name);
}
