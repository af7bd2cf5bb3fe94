/* SPDX-License-Identifier: MIT
 *
 * show.c: an image that prints what its loader gave it: the state, the command line, the modules; and checks what need
 * not be the same everywhere: the map of memory, section headers, ACPI's pointer. 32-bit code without paging, without
 * descriptor tables of its own, and position-independent: no table of pointers may stand in it.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint32_t u32;
typedef uint64_t u64;

void show(u32 eax, u32 ebx, u32 moved, u32 eflags);
/* Without the word, the compiler would look their addresses up in a table, which nobody moves. */
extern char image_start[] __attribute__((visibility("hidden")));
extern char image_end[] __attribute__((visibility("hidden")));

static unsigned failures;

static void outb(uint16_t p, uint8_t v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(p));
}
static uint8_t inb(uint16_t p)
{
    uint8_t v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(p));
    return v;
}
static void put(char c)
{
    while (!(inb(0x3fd) & 0x20))
        ;
    outb(0x3f8, (uint8_t)c);
}
static void text(const char *s)
{
    while (*s)
        put(*s++);
}
static void number(u32 v)
{
    char buf[10];
    unsigned n = 0;
    do
        buf[n++] = (char)('0' + v % 10);
    while (v /= 10);
    while (n)
        put(buf[--n]);
}
static void check(const char *what, bool ok)
{
    failures += !ok;
    text(ok ? "PASS " : "FAIL ");
    text(what);
    text("\n");
}
static bool equal(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}
static u32 at32(u32 pa)
{
    return *(volatile u32 *)pa;
}
static u64 at64(u32 pa)
{
    return *(volatile u64 *)pa;
}

/* What follows the name of the file, which some loaders give as the first word. */
static void words(const char *what, const char *s, const char *name)
{
    u32 i = 0;
    while (name[i] && s[i] == name[i])
        i++;
    if (!name[i] && (s[i] == ' ' || !s[i]))
        s += i + (s[i] == ' ');
    text(what);
    text(" \"");
    text(s);
    text("\"\n");
}

static u32 low, high; /* this image */

/* The map: this image lies in RAM, nothing overlaps. */
static struct {
    u32 n;
    u64 base[64], end[64];
    u32 type[64];
} map;
static void add_range(u64 base, u64 len, u32 type)
{
    if (map.n < 64) {
        map.base[map.n] = base, map.end[map.n] = base + len, map.type[map.n] = type;
        map.n++;
    }
}
static void check_map(void)
{
    bool in = false, below = false, apart = true;
    for (u32 i = 0; i < map.n; i++) {
        in |= map.type[i] == 1 && map.base[i] <= low && high <= map.end[i];
        below |= map.type[i] == 1 && map.base[i] == 0 && map.end[i] > 0x80000 && map.end[i] <= 0xa0000;
        for (u32 j = 0; j < i; j++)
            apart &= map.end[i] <= map.base[j] || map.end[j] <= map.base[i];
    }
    check("map: the image lies in RAM", in);
    check("map: RAM below 640 KiB", below);
    check("map: no overlap", apart);
}

static u32 modules, last_start, last_end;
static void module(u32 start, u32 end, const char *args, bool named)
{
    bool apart = end <= low || start >= high;
    if (modules)
        apart &= start >= last_end || end <= last_start;
    last_start = start, last_end = end;
    words("module", args, modules ? "m2" : "m1");
    text(" bytes ");
    number(end - start);
    text(": ");
    for (u32 i = start; i < end && i < start + 16; i++)
        if (*(char *)i >= ' ')
            put(*(char *)i);
    text("\n");
    check("module: on a page, apart from the image and the other", apart && !(start & 4095));
    modules++;
}

/* Section headers of ELF32 or ELF64, by the size of an entry: the symbol `marker` has the value that it has. */
static void check_sections(u32 num, u32 size, u32 addr, u32 shndx, u32 moved)
{
    bool found = false, elf64 = size == 64;
    for (u32 i = 0; i < num; i++) {
        u32 s = addr + i * size;
        if (at32(s + 4) != 2) /* SHT_SYMTAB */
            continue;
        u32 symbols = at32(s + (elf64 ? 16 : 12)), bytes = at32(s + (elf64 ? 32 : 20));
        u32 strings = at32(addr + at32(s + (elf64 ? 40 : 24)) * size + (elf64 ? 16 : 12));
        for (u32 at = symbols; symbols && strings && at < symbols + bytes; at += elf64 ? 24 : 16)
            if (equal((const char *)strings + at32(at), "marker"))
                found |= at32(at32(at + (elf64 ? 8 : 4)) + moved) == 0x600dcafe;
    }
    check("sections: a symbol is found", found && shndx < num);
}

static void check_rsdp(u32 at, u32 len)
{
    uint8_t sum = 0;
    for (u32 i = 0; i < len; i++)
        sum += *(uint8_t *)(at + i);
    check(len == 20 ? "ACPI: RSDP" : "ACPI: RSDP of version 2", at64(at) == 0x2052545020445352 && !sum);
}

static void multiboot1(u32 info, u32 moved)
{
    u32 flags = at32(info);
    text("multiboot 1\n");
    words("command", (const char *)at32(info + 16), IMAGE_NAME);
    check("flags: memory, command line, modules, map", (flags & 0x4d) == 0x4d);
    check("memory: lower, upper", at32(info + 4) >= 512 && at32(info + 4) <= 640 && at32(info + 8) >= 32768);
    for (u32 at = at32(info + 48), end = at + at32(info + 44); at < end; at += at32(at) + 4)
        add_range(at64(at + 4), at64(at + 12), at32(at + 20));
    for (u32 i = 0, at = at32(info + 24); i < at32(info + 20); i++, at += 16)
        module(at32(at), at32(at + 4), (const char *)at32(at + 8), true);
    if (flags & 1 << 5)
        check_sections(at32(info + 28), at32(info + 32), at32(info + 36), at32(info + 40), moved);
    if (flags & 1 << 9) {
        text("loader ");
        text((const char *)at32(info + 64));
        text("\n");
    }
    if (flags & 1 << 12)
        check("screen: text of 80 by 25",
              at32(info + 100) == 80 && at32(info + 104) == 25 && *(uint8_t *)(info + 109) == 2);
}

static void multiboot2(u32 info, u32 moved)
{
    bool base = false;
    text("multiboot 2\n");
    check("information: aligned, its size is its end",
          !(info & 7) && at32(info) > 16 && at32(info + at32(info) - 8) == 0);
    for (u32 at = info + 8; at32(at); at += (at32(at + 4) + 7) & ~7u)
        switch (at32(at)) {
        case 1: words("command", (const char *)at + 8, IMAGE_NAME); break;
        case 2:
            text("loader ");
            text((const char *)at + 8);
            text("\n");
            break;
        case 3: module(at32(at + 8), at32(at + 12), (const char *)at + 16, true); break;
        case 4:
            check("memory: lower, upper", at32(at + 8) >= 512 && at32(at + 8) <= 640 && at32(at + 12) >= 32768);
            break;
        case 6:
            for (u32 e = at + 16; e < at + at32(at + 4); e += at32(at + 8))
                add_range(at64(e), at64(e + 8), at32(e + 16));
            break;
        case 8:
            check("screen: text of 80 by 25", at32(at + 20) == 80 && at32(at + 24) == 25 && *(uint8_t *)(at + 29) == 2);
            break;
        case 9:
            if (at32(at + 8)) /* GRUB gives an empty table with a flat file */
                check_sections(at32(at + 8), at32(at + 12), at + 20, at32(at + 16), moved);
            break;
        case 14: check_rsdp(at + 8, 20); break;
        case 15: check_rsdp(at + 8, 36); break;
        case 21: base = at32(at + 8) == low; break;
        }
#ifdef RELOCATABLE
    check("moved: by the tag, to where it says", base && moved == 0x7e00000 - 0x100000);
#else
    check("moved: not at all", !moved); /* some give the base all the same */
    (void)base;
#endif
}

static void pvh(u32 info, u32 moved)
{
    text("pvh\n");
    words("command", (const char *)at32(info + 24), IMAGE_NAME);
    check("version", at32(info + 4) == 1);
    for (u32 i = 0, at = at32(info + 40); i < at32(info + 48); i++, at += 24)
        add_range(at64(at), at64(at + 8), at32(at + 16));
    for (u32 i = 0, at = at32(info + 16); i < at32(info + 12); i++, at += 32)
        module(at32(at), at32(at) + at32(at + 8), at32(at + 16) ? (const char *)at32(at + 16) : "", false);
    if (at32(info + 32))
        check_rsdp(at32(info + 32), 20);
}

void show(u32 eax, u32 ebx, u32 moved, u32 eflags)
{
    u32 cr0;
    __asm__("mov %%cr0, %0" : "=r"(cr0));
    low = (u32)image_start, high = (u32)image_end;
    outb(0x3f9, 0), outb(0x3fb, 0x80), outb(0x3f8, 1), outb(0x3f9, 0), outb(0x3fb, 3);
    text("BEGIN image " IMAGE_NAME "\n");
    check("state: protected mode without paging", (cr0 & 0x80000001) == 1);
    check("state: interrupts are off", !(eflags & 0x20200));
    if (eax == 0x2badb002)
        multiboot1(ebx, moved);
    else if (eax == 0x36d76289)
        multiboot2(ebx, moved);
    else if (at32(ebx) == 0x336ec578)
        pvh(ebx, moved);
    else
        check("a protocol that is known", false);
    check_map();
    text("modules ");
    number(modules);
    text("\nEND image " IMAGE_NAME "\n");
    while (!(inb(0x3fd) & 0x40))
        ;
    outb(0xf4, failures ? 1 : 0);
    for (;;)
        __asm__ volatile("cli; hlt");
}
