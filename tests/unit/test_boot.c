/* SPDX-License-Identifier: MIT
 *
 * test_boot.c: the loaders of the software PC against files that lie: whole images of every kind are loaded, and must
 * say what they were given; then they are damaged at random, a few bytes at a time, many times. Whatever a file says, a
 * loader either loads it into RAM and starts within it, or says one line; it never touches what is no RAM, and reads
 * nothing outside the file (the sanitizer sees that: every image has exactly its size).
 *
 * BOOT_FUZZ=N is how many damaged images of each kind are tried.
 */
#include <elf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "src/machine/boot/boot.h"

#define RAM  (UINT64_C(32) << 20)
#define SIZE 8192u

static const char name[] = "dir/image";

/* --- images ------------------------------------------------------------------------------------------------------
 */

struct image {
    const char *kind;
    size_t size, header; /* where damage pays: from `header`, 256 bytes, and the first 1 KiB */
    uint8_t bytes[SIZE];
};

static void put(uint8_t *p, unsigned n, const uint32_t *words)
{
    memcpy(p, words, n * 4);
}
#define PUT(p, ...) put(p, sizeof((uint32_t[]){__VA_ARGS__}) / 4, (uint32_t[]){__VA_ARGS__})

/* Two segments (code at 1 MiB, data with zeros at 2 MiB), a PVH note, three sections: null, symbols, strings. */
static void make_elf(struct image *im, bool elf64)
{
    uint8_t *p = im->bytes;
    im->size = SIZE;
    memset(p + 0x1000, 0x90, 0x800);
    PUT(p + 0xf00, 4, 4, 18);
    memcpy(p + 0xf0c, "Xen", 4);
    PUT(p + 0xf10, 0x100010);
    if (elf64) {
        Elf64_Ehdr h = {.e_type = ET_EXEC,
                        .e_machine = EM_X86_64,
                        .e_version = 1,
                        .e_entry = 0x100020,
                        .e_phoff = 64,
                        .e_shoff = 0x1c00,
                        .e_ehsize = 64,
                        .e_phentsize = sizeof(Elf64_Phdr),
                        .e_phnum = 3,
                        .e_shentsize = sizeof(Elf64_Shdr),
                        .e_shnum = 3,
                        .e_shstrndx = 2};
        Elf64_Phdr ph[3] = {{PT_LOAD, 7, 0x1000, 0x100000, 0x100000, 0x800, 0x800, 4096},
                            {PT_LOAD, 6, 0x1800, 0x200000, 0x200000, 0x100, 0x8000, 4096},
                            {PT_NOTE, 4, 0xf00, 0, 0, 20, 20, 4}};
        Elf64_Shdr sh[3] = {
            {0},
            {.sh_type = SHT_SYMTAB, .sh_offset = 0x1a00, .sh_size = 48, .sh_link = 2, .sh_addralign = 8},
            {.sh_type = SHT_STRTAB, .sh_offset = 0x1b00, .sh_size = 16, .sh_addralign = 1}};
        memcpy(h.e_ident, "\177ELF\2\1\1", 7);
        memcpy(p, &h, sizeof h);
        memcpy(p + 64, ph, sizeof ph);
        memcpy(p + 0x1c00, sh, sizeof sh);
    } else {
        Elf32_Ehdr h = {.e_type = ET_EXEC,
                        .e_machine = EM_386,
                        .e_version = 1,
                        .e_entry = 0x100020,
                        .e_phoff = 64,
                        .e_shoff = 0x1c00,
                        .e_ehsize = 52,
                        .e_phentsize = sizeof(Elf32_Phdr),
                        .e_phnum = 3,
                        .e_shentsize = sizeof(Elf32_Shdr),
                        .e_shnum = 3,
                        .e_shstrndx = 2};
        Elf32_Phdr ph[3] = {{PT_LOAD, 0x1000, 0x100000, 0x100000, 0x800, 0x800, 7, 4096},
                            {PT_LOAD, 0x1800, 0x200000, 0x200000, 0x100, 0x8000, 6, 4096},
                            {PT_NOTE, 0xf00, 0, 0, 20, 20, 4, 4}};
        Elf32_Shdr sh[3] = {
            {0},
            {.sh_type = SHT_SYMTAB, .sh_offset = 0x1a00, .sh_size = 48, .sh_link = 2, .sh_addralign = 8},
            {.sh_type = SHT_STRTAB, .sh_offset = 0x1b00, .sh_size = 16, .sh_addralign = 1}};
        memcpy(h.e_ident, "\177ELF\1\1\1", 7);
        memcpy(p, &h, sizeof h);
        memcpy(p + 64, ph, sizeof ph);
        memcpy(p + 0x1c00, sh, sizeof sh);
    }
}

static void fix_sums(struct image *im)
{
    uint8_t *h = im->bytes + im->header;
    if (im->header + 16 > im->size)
        return;
    if (load32(h) == 0x1badb002)
        store32(h + 8, 0 - load32(h) - load32(h + 4));
    else if (load32(h) == 0xe85250d6)
        store32(h + 12, 0 - load32(h) - load32(h + 4) - load32(h + 8));
}

static void make_mb1(struct image *im, bool flat)
{
    uint8_t *h = im->bytes + im->header;
    im->size = SIZE;
    if (flat)
        PUT(h, 0x1badb002, 0x10007, 0, 0x100000 + (uint32_t)im->header, 0x100000, 0x101000, 0x110000, 0x100800);
    else
        PUT(h, 0x1badb002, 7, 0);
    fix_sums(im);
}

static void make_mb2(struct image *im, bool flat)
{
    uint8_t *h = im->bytes + im->header, *t = h + 16;
    im->size = SIZE;
#define TAG(...) (PUT(t, __VA_ARGS__), t += (sizeof((uint32_t[]){__VA_ARGS__}) + 7) & ~7u)
    TAG(1, 8 + 4 * 4, 4, 6, 8, 14);               /* information */
    TAG(4, 12, 3);                                /* console */
    TAG(5 | 1 << 16, 20, 1024, 768, 32);          /* framebuffer */
    TAG(6, 8);                                    /* aligned modules */
    TAG(7 | 1 << 16, 8);                          /* EFI boot services, optional */
    TAG(9 | 1 << 16, 12, 0x100000);               /* EFI entry */
    TAG(77 | 1 << 16, 8);                         /* unknown, optional */
    TAG(10, 24, 0x300000, 0x1ffffff, 0x10000, 1); /* relocatable */
    if (flat) {
        TAG(2, 24, 0x100000 + (uint32_t)im->header, 0xffffffff, 0, 0x110000);
        TAG(3, 12, 0x100800);
    }
    TAG(0, 8);
#undef TAG
    PUT(h, 0xe85250d6, 0, (uint32_t)(t - h), 0);
    fix_sums(im);
}

static void make_linux(struct image *im)
{
    uint8_t *p = im->bytes;
    im->size = SIZE;
    im->header = 0x1f1;
    p[0x1f1] = 2;
    store32(p + 0x1f4, (SIZE - 1536) / 16);
    store16(p + 0x1fe, 0xaa55);
    store16(p + 0x200, 0x6eeb);
    memcpy(p + 0x202, "HdrS", 4);
    store16(p + 0x206, 0x20f);
    p[0x211] = 1;
    store32(p + 0x214, 0x100000);
    store32(p + 0x22c, 0x7fffffff);
    p[0x234] = 1;
    store16(p + 0x236, 1);
    store32(p + 0x238, 255);
    store64(p + 0x258, 0x400000);
    store32(p + 0x260, 0x100000);
}

/* An ELF32 Multiboot image of 8192 bytes, packed by gzip -9 with its name; dynamic codes. */
static const uint8_t packed[] = {
    0x1f, 0x8b, 0x08, 0x08, 0x00, 0x00, 0x00, 0x00, 0x02, 0xff, 0x69, 0x6d, 0x61, 0x67, 0x65, 0x00, 0xed, 0x96, 0xb1,
    0x6d, 0x1d, 0x41, 0x0c, 0x44, 0xef, 0xcb, 0x81, 0x1c, 0x2a, 0x77, 0xe2, 0x22, 0x5c, 0x00, 0x19, 0xd8, 0x91, 0x01,
    0x03, 0x6e, 0xc8, 0x31, 0x33, 0x36, 0x62, 0xc0, 0x25, 0xb0, 0x00, 0x96, 0xa1, 0x12, 0x08, 0x38, 0xf5, 0x9b, 0x15,
    0x64, 0x07, 0x6a, 0x40, 0xb0, 0x38, 0x5f, 0x77, 0xff, 0xfe, 0x2e, 0x97, 0x9c, 0x21, 0xe7, 0x00, 0xfd, 0xf8, 0xfc,
    0xf5, 0xcb, 0xed, 0x76, 0xbb, 0x9e, 0x71, 0x77, 0xbd, 0xbb, 0xf4, 0xeb, 0xe3, 0xf5, 0x70, 0xd9, 0xf5, 0x0f, 0x9f,
    0x58, 0xb9, 0x5d, 0x2f, 0x71, 0xd6, 0x1e, 0x9e, 0x6f, 0x5c, 0xef, 0xaf, 0x73, 0xdd, 0xff, 0x5d, 0x5f, 0x2c, 0x16,
    0xaf, 0x15, 0x77, 0xbf, 0x7e, 0x7e, 0xd0, 0xbb, 0xfa, 0xfb, 0xdb, 0xf7, 0xc7, 0xed, 0xc6, 0x62, 0xb1, 0x58, 0x2c,
    0x16, 0x8b, 0xc5, 0x62, 0xf1, 0x7f, 0x63, 0x3c, 0xbc, 0xa2, 0x22, 0x26, 0xab, 0xcb, 0x22, 0x2d, 0x9d, 0xef, 0x9e,
    0x1c, 0xcb, 0xb0, 0x76, 0xab, 0x6a, 0xae, 0xb4, 0x99, 0x36, 0x4b, 0x1e, 0xca, 0xf8, 0x73, 0xb7, 0x89, 0x30, 0x53,
    0x08, 0x27, 0xcc, 0xb8, 0x7b, 0x0d, 0xc7, 0x22, 0xce, 0xa3, 0x77, 0xb8, 0x75, 0x07, 0xf9, 0x92, 0x12, 0x9d, 0x53,
    0xed, 0x3d, 0x95, 0x4d, 0x5a, 0x72, 0x97, 0xf1, 0x7b, 0xf8, 0x68, 0x2b, 0xaa, 0x38, 0xc1, 0x96, 0xf9, 0x8c, 0x93,
    0x1c, 0x3a, 0x10, 0xa3, 0x38, 0xc1, 0x24, 0x6c, 0x88, 0x25, 0x04, 0xd2, 0x62, 0x4e, 0xea, 0x86, 0x1c, 0x84, 0x1d,
    0x2e, 0x31, 0x16, 0xe4, 0x10, 0x55, 0xad, 0x40, 0xbd, 0x6c, 0x28, 0xcc, 0x29, 0xf7, 0x26, 0xb0, 0x8b, 0x88, 0x2e,
    0xb6, 0x29, 0x58, 0x7c, 0x3c, 0x8b, 0x7a, 0x31, 0x64, 0x70, 0x17, 0x5f, 0x25, 0xe2, 0xcb, 0x21, 0x06, 0xbf, 0x61,
    0x55, 0x87, 0x8b, 0x2d, 0x1e, 0x79, 0x8e, 0x53, 0xa9, 0x2a, 0xc8, 0x38, 0x90, 0xb7, 0xd2, 0x91, 0xc8, 0x08, 0x88,
    0x90, 0x70, 0xd8, 0x98, 0x61, 0x9f, 0x35, 0xa3, 0xf8, 0xd0, 0x98, 0x12, 0xf1, 0x54, 0xcb, 0xe8, 0x80, 0x11, 0x96,
    0x8d, 0xfe, 0x50, 0x5f, 0x4d, 0x1d, 0x22, 0x63, 0xa3, 0x4e, 0x6c, 0x90, 0x9c, 0xd2, 0x3d, 0xb4, 0x8d, 0x96, 0x51,
    0x77, 0xd4, 0x51, 0xf2, 0xe8, 0x9e, 0x70, 0xa3, 0x33, 0x04, 0x8c, 0x41, 0xba, 0x91, 0xa4, 0x44, 0xc4, 0x31, 0x92,
    0x43, 0x94, 0x4d, 0x97, 0xf0, 0x4c, 0xb6, 0x19, 0x84, 0x5a, 0x8b, 0x0c, 0x1a, 0x49, 0x05, 0x13, 0x75, 0xb4, 0xb5,
    0x68, 0x91, 0x3a, 0x53, 0xc3, 0x9b, 0xa0, 0x1a, 0x64, 0x10, 0x84, 0x48, 0xc6, 0x41, 0xfe, 0x46, 0xd0, 0xa8, 0x5d,
    0xc5, 0xd9, 0x90, 0x36, 0x9e, 0x68, 0x24, 0x4a, 0xb0, 0x44, 0xc1, 0x03, 0xba, 0x3d, 0xa7, 0x1b, 0x66, 0x48, 0x41,
    0x34, 0xdd, 0xa6, 0x65, 0x0c, 0x89, 0x4d, 0xb6, 0x19, 0x1a, 0x95, 0xb9, 0xe4, 0x13, 0xca, 0x69, 0x23, 0x24, 0x02,
    0x26, 0x26, 0x47, 0x4d, 0x06, 0x65, 0x24, 0x99, 0x07, 0x15, 0xcb, 0x23, 0x09, 0x19, 0x8c, 0xf6, 0x58, 0x6a, 0x9e,
    0x84, 0x12, 0xec, 0x0c, 0x69, 0xb0, 0xda, 0xd3, 0xbc, 0x71, 0x00, 0x41, 0x87, 0xbf, 0x9c, 0x40, 0x9f, 0x30, 0x5e,
    0xc9, 0x6f, 0x8d, 0x22, 0x58, 0xca, 0x22, 0x50, 0x96, 0x21, 0x24, 0xf9, 0x68, 0x84, 0x3f, 0xe6, 0x38, 0x16, 0xc7,
    0x00, 0x04, 0x8f, 0x0c, 0x9b, 0xc0, 0x18, 0x8c, 0xb4, 0xb9, 0xc6, 0xc2, 0x81, 0xc6, 0x41, 0x26, 0xb3, 0x32, 0x15,
    0x86, 0xc5, 0x40, 0x54, 0x38, 0x0e, 0x43, 0x4c, 0x80, 0xb4, 0xd3, 0xf1, 0x2c, 0xb5, 0x32, 0x14, 0x49, 0xbd, 0xd1,
    0x85, 0xcf, 0xe5, 0x74, 0xc5, 0x40, 0xb3, 0x4e, 0x96, 0xd0, 0x2a, 0x47, 0xbb, 0xe4, 0x54, 0xac, 0x5f, 0x9a, 0x31,
    0xe6, 0xd0, 0x60, 0x64, 0x69, 0xaa, 0xd2, 0x36, 0xf1, 0xc3, 0x32, 0xaa, 0x3c, 0x72, 0x92, 0xca, 0x13, 0xcd, 0xcc,
    0xe9, 0x39, 0xc3, 0xc1, 0x06, 0xb8, 0x51, 0x76, 0x92, 0x55, 0x25, 0x6e, 0x78, 0x43, 0xd0, 0x7b, 0xfc, 0x27, 0x6f,
    0xe8, 0xc5, 0x38, 0x01, 0x54, 0x53, 0x5d, 0x13, 0x57, 0xca, 0x6a, 0x60, 0x7a, 0x85, 0xea, 0xc4, 0x60, 0xee, 0x3a,
    0x0a, 0xe4, 0xfc, 0x56, 0x77, 0x39, 0xac, 0x17, 0xd4, 0x73, 0xb1, 0x58, 0xbc, 0x5d, 0xec, 0x7f, 0x40, 0x8b, 0xc5,
    0x62, 0xb1, 0x58, 0xbc, 0x3d, 0xfc, 0x01, 0x86, 0x88, 0x6f, 0x06, 0x00, 0x20, 0x00, 0x00};

static void make_packed(struct image *im)
{
    im->size = sizeof packed;
    im->header = 0;
    memcpy(im->bytes, packed, sizeof packed);
}

enum { KINDS = 12 };
static void make(struct image *im, unsigned kind)
{
    static const char *const names[KINDS] = {"mb1-elf32", "mb1-elf64", "mb1-flat", "mb2-elf32", "mb2-elf64", "mb2-flat",
                                             "pvh-elf32", "pvh-elf64", "linux-64", "linux-32",  "linux-16",  "gzip"};
    *im = (struct image){.kind = names[kind], .header = 0x400};
    switch (kind) {
    case 0:
    case 1: make_elf(im, kind & 1), make_mb1(im, false); break;
    case 2: make_mb1(im, true); break;
    case 3:
    case 4: make_elf(im, kind == 4), make_mb2(im, false); break;
    case 5: make_mb2(im, true); break;
    case 6:
    case 7: make_elf(im, kind & 1); break;
    case 11: make_packed(im); break;
    default: make_linux(im); break;
    }
}

/* --- loading -----------------------------------------------------------------------------------------------------
 */

struct rig {
    struct vmenter_machine *m;
    struct boot b;
    struct pc_config config;
    char error[PC_ERROR_MAX];
    uint8_t *rom; /* from the VGA to the real-mode services: no loader writes there */
};
#define ROM_LEN (BOOT_BIOS - PC_VGA)

static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof *r);
    struct vmenter_config vc = {.size = sizeof vc, .model = "max", .cpus = 1, .ram = RAM, .flags = VMENTER_RESET};
    char error[VMENTER_ERROR_MAX];
    if (!r || vmenter_create(&vc, &r->m, error) != VMENTER_OK)
        return -1;
    r->rom = mem_host(r->m->mem, HPA(PC_VGA), ROM_LEN, true);
    memset(r->rom, 0x5a, ROM_LEN);
    memcpy(mem_host(r->m->mem, HPA(PC_BIOS), 36, true), "RSD PTR 1234567\2", 16);
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;
    vmenter_destroy(r->m);
    free(r);
    return 0;
}

/* The image in a block of exactly its size. */
static bool load(struct rig *r, const struct image *im, unsigned entry)
{
    void *data = malloc(im->size ? im->size : 1);
    memcpy(data, im->bytes, im->size);
    r->config.image = (struct pc_file){.name = name, .data = data, .size = im->size};
    r->config.entry = entry;
    r->b = (struct boot){.machine = r->m, .config = &r->config, .low = RAM, .error = r->error};
    r->b.ranges = memory_map(r->b.map, RAM, 0);
    memset(r->error, 0, sizeof r->error);
    bool ok = boot_load(&r->b);
    free(data);
    return ok;
}

static unsigned entry_of(const struct image *im)
{
    return strncmp(im->kind, "linux", 5) != 0 ? 0 : (unsigned)atoi(im->kind + 6);
}

static bool rom_is_untouched(const struct rig *r)
{
    for (size_t i = 64; i < ROM_LEN; i++)
        if (r->rom[i] != 0x5a && (i < PC_BIOS - PC_VGA || i >= PC_BIOS - PC_VGA + 36))
            return false;
    return true;
}

static uint32_t at32(struct rig *r, uint64_t pa)
{
    uint32_t v;
    mem_read(r->m->mem, HPA(pa), &v, 4);
    return v;
}

static void add_module(struct rig *r, const void *data, size_t size, const char *args)
{
    r->config.module[r->config.modules++] = (struct pc_file){.name = "mod", .args = args, .data = data, .size = size};
}

static void assert_string(struct rig *r, uint64_t pa, const char *want)
{
    char got[64];
    mem_read(r->m->mem, HPA(pa), got, sizeof got);
    got[63] = 0;
    assert_string_equal(got, want);
}

/* --- whole images ------------------------------------------------------------------------------------------------
 */

static void whole_images_load(void **state)
{
    struct rig *r = *state;
    struct image im;
    struct cpu *c = r->m->cpu[0].cpu;
    static const uint64_t rip[KINDS] = {0x100020, 0x100020, 0x100800, 0x300020, 0x300020, 0x300800,
                                        0x100010, 0x100010, 0x400200, 0x400000, 0,        0x100020};
    for (unsigned k = 0; k < KINDS; k++) {
        make(&im, k);
        r->config.append = "x=1";
        bool ok = load(r, &im, entry_of(&im));
        if (!ok)
            print_error("%s: %s\n", im.kind, r->error);
        assert_true(ok);
        assert_int_equal(c->rip, rip[k]);
        assert_true(rom_is_untouched(r));
    }
}

static void multiboot1_information(void **state)
{
    struct rig *r = *state;
    struct image im;
    make(&im, 0);
    r->config.append = "one two";
    add_module(r, "module", 6, "a b");
    assert_true(load(r, &im, 0));
    struct cpu *c = r->m->cpu[0].cpu;
    uint64_t info = c->gpr[GPR_RBX];
    assert_int_equal(c->gpr[GPR_RAX], 0x2badb002);
    assert_int_equal(at32(r, info), 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 12);
    assert_int_equal(at32(r, info + 4), 639);
    assert_int_equal(at32(r, info + 8), (RAM >> 10) - 1024);
    assert_string(r, at32(r, info + 16), "dir/image one two");
    assert_string(r, at32(r, info + 64), "vmenter");
    assert_int_equal(at32(r, info + 20), 1);
    uint64_t mod = at32(r, info + 24);
    assert_int_equal(at32(r, mod) & 4095, 0);
    assert_true(at32(r, mod) >= 0x208000);
    assert_int_equal(at32(r, mod + 4) - at32(r, mod), 6);
    assert_string(r, at32(r, mod + 8), "mod a b");
    assert_string(r, at32(r, mod), "module");
    /* Section headers: the table is a copy, the symbols are somewhere apart from everything. */
    assert_int_equal(at32(r, info + 28), 3);
    assert_int_equal(at32(r, info + 32), sizeof(Elf32_Shdr));
    assert_int_equal(at32(r, info + 40), 2);
    uint64_t symbols = at32(r, at32(r, info + 36) + 40 + offsetof(Elf32_Shdr, sh_addr));
    assert_true(symbols >= 0x208000 && symbols + 48 <= RAM);
    /* The map: entries of 20 bytes behind their size. */
    uint64_t map = at32(r, info + 48), end = map + at32(r, info + 44);
    uint64_t ram = 0;
    for (; map < end; map += 24) {
        assert_int_equal(at32(r, map), 20);
        ram += at32(r, map + 20) == 1 ? at32(r, map + 12) : 0;
    }
    assert_int_equal(ram, RAM - PC_1M + PC_EBDA);
    assert_int_equal(at32(r, info + 88), 0xb8000); /* it asked for a video mode */
    r->config.modules = 0;
}

static void multiboot2_information(void **state)
{
    struct rig *r = *state;
    struct image im;
    make(&im, 4);
    r->config.append = "one two";
    add_module(r, "module", 6, NULL);
    assert_true(load(r, &im, 0));
    struct cpu *c = r->m->cpu[0].cpu;
    uint64_t info = c->gpr[GPR_RBX], at = info + 8, end = info + at32(r, info);
    uint32_t seen = 0;
    assert_int_equal(c->gpr[GPR_RAX], 0x36d76289);
    assert_int_equal(info & 7, 0);
    while (at32(r, at)) {
        uint32_t type = at32(r, at), size = at32(r, at + 4);
        assert_true(type < 32 && size >= 8 && at + size < end);
        assert_false(seen >> type & 1);
        seen |= 1u << type;
        if (type == 1)
            assert_string(r, at + 8, "dir/image one two");
        if (type == 2)
            assert_string(r, at + 8, "vmenter");
        if (type == 3) {
            assert_string(r, at + 16, "mod");
            assert_string(r, at32(r, at + 8), "module");
            assert_int_equal(at32(r, at + 12) - at32(r, at + 8), 6);
        }
        if (type == 4)
            assert_int_equal(at32(r, at + 12), (RAM >> 10) - 1024);
        if (type == 6) {
            assert_int_equal(at32(r, at + 8), 24);
            assert_int_equal((size - 16) % 24, 0);
        }
        if (type == 9)
            assert_int_equal(at32(r, at + 8), 3);
        if (type == 21)
            assert_int_equal(at32(r, at + 8), 0x300000);
        at += (size + 7) & ~7u;
    }
    assert_int_equal(at + 8, end);
    assert_int_equal(seen, 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 8 | 1 << 9 | 1 << 14 | 1 << 15 | 1 << 21);
    r->config.modules = 0;
}

static void pvh_information(void **state)
{
    struct rig *r = *state;
    struct image im;
    make(&im, 7);
    r->config.append = "one two";
    add_module(r, "module", 6, "a b");
    assert_true(load(r, &im, 0));
    uint64_t info = r->m->cpu[0].cpu->gpr[GPR_RBX];
    assert_int_equal(at32(r, info), 0x336ec578);
    assert_int_equal(at32(r, info + 4), 1);
    assert_int_equal(at32(r, info + 12), 1);
    assert_string(r, at32(r, info + 24), "one two");
    assert_int_equal(at32(r, info + 32), PC_BIOS);
    assert_int_equal(at32(r, info + 48), r->b.ranges);
    assert_int_equal(at32(r, at32(r, info + 40) + 16), 1);
    uint64_t mod = at32(r, info + 16);
    assert_string(r, at32(r, mod), "module");
    assert_int_equal(at32(r, mod + 8), 6);
    assert_string(r, at32(r, mod + 16), "a b");
    r->config.modules = 0;
}

/* "Relocatable header tag": preference 0 keeps the linked address if it can, 1 is the lowest, 2 the highest place. */
static void relocatable_images_go_where_they_may(void **state)
{
    struct rig *r = *state;
    static const struct {
        uint32_t min, max, align, preference;
        uint64_t base; /* UINT64_MAX: refused */
    } t[] = {
        {0x100000, 0xffffffff, 0x1000, 0, 0x100000},   {0x200000, 0xffffffff, 0x1000, 0, 0x200000},
        {0x100000, 0xffffffff, 0x200000, 0, 0x200000}, {0x100000, 0xffffffff, 0x1000, 2, RAM - 0x108000},
        {0x100000, 0x7fffff, 0x200000, 2, 0x600000},   {0x100000, 0x1fffff, 0x1000, 1, UINT64_MAX},
        {0x10000, 0x8ffff, 0x1000, 1, UINT64_MAX},     {0xfffff000, 0xffffffff, 0, 1, UINT64_MAX},
        {0x300001, 0x1ffffff, 3, 1, 0x300003},         {0x1000, 0xffffffff, 0xffffffff, 2, UINT64_MAX},
    };
    for (unsigned i = 0; i < ARRAY_LEN(t); i++) {
        struct image im;
        make(&im, 4);
        for (uint8_t *p = im.bytes + im.header + 16;; p += (load32(p + 4) + 7) & ~7u)
            if (load16(p) == 10) {
                PUT(p + 8, t[i].min, t[i].max, t[i].align, t[i].preference);
                break;
            }
        bool ok = load(r, &im, 0);
        if (ok != (t[i].base != UINT64_MAX))
            print_error("%u: %s\n", i, r->error);
        assert_int_equal(ok, t[i].base != UINT64_MAX);
        if (ok)
            assert_int_equal(r->m->cpu[0].cpu->rip, t[i].base + 0x20);
        else
            assert_non_null(strstr(r->error, "relocatable"));
    }
}

static void what_is_required_and_unknown_is_refused(void **state)
{
    struct rig *r = *state;
    struct image im;
    for (unsigned flag = 3; flag < 16; flag++) {
        make(&im, 0);
        store32(im.bytes + im.header + 4, 1u << flag);
        fix_sums(&im);
        assert_false(load(r, &im, 0));
        assert_non_null(strstr(r->error, "flags"));
    }
    static const uint32_t tags[] = {7, 77}; /* which the image has as optional */
    for (unsigned i = 0; i < ARRAY_LEN(tags); i++) {
        make(&im, 4);
        for (uint8_t *p = im.bytes + im.header + 16;; p += (load32(p + 4) + 7) & ~7u)
            if (load16(p) == tags[i]) {
                store16(p + 2, 0);
                break;
            }
        assert_false(load(r, &im, 0));
        assert_non_null(strstr(r->error, "requires"));
    }
    make(&im, 4);
    store32(im.bytes + im.header + 16 + 8, 99); /* the information request */
    assert_false(load(r, &im, 0));
    assert_non_null(strstr(r->error, "99"));
    store16(im.bytes + im.header + 16 + 2, 1);
    assert_true(load(r, &im, 0));
    make(&im, 4);
    store32(im.bytes + im.header + 4, 4); /* MIPS */
    fix_sums(&im);
    assert_false(load(r, &im, 0));
    assert_non_null(strstr(r->error, "architecture"));
}

static void both_headers_mean_multiboot2(void **state)
{
    struct rig *r = *state;
    struct image im;
    make(&im, 4);
    PUT(im.bytes + 0x300, 0x1badb002, 0, 0u - 0x1badb002);
    assert_true(load(r, &im, 0));
    assert_int_equal(r->m->cpu[0].cpu->gpr[GPR_RAX], 0x36d76289);
}

static void old_kernels(void **state)
{
    struct rig *r = *state;
    struct image im;
    struct cpu *c = r->m->cpu[0].cpu;
    static const struct {
        unsigned version, flags, entry;
        uint64_t rip; /* UINT64_MAX: refused */
        bool real;
    } t[] = {
        {0x201, 0, 0, UINT64_MAX, false},  {0x203, 0, 0, 0, true},
        {0x206, 0, 0, 0x100000, false},    {0x20a, 0, 0, 0x400000, false},
        {0x20c, 0, 0, 0x400000, false},    {0x20c, 1, 0, 0x400200, false},
        {0x20c, 0, 64, UINT64_MAX, false}, {0x20b, 1, 64, UINT64_MAX, false},
        {0x20c, 1, 16, 0, true},
    };
    for (unsigned i = 0; i < ARRAY_LEN(t); i++) {
        make(&im, 8);
        store16(im.bytes + 0x206, (uint16_t)t[i].version);
        store16(im.bytes + 0x236, (uint16_t)t[i].flags);
        assert_int_equal(load(r, &im, t[i].entry), t[i].rip != UINT64_MAX);
        if (t[i].rip != UINT64_MAX) {
            assert_int_equal(c->rip, t[i].rip);
            assert_int_equal(c->cr0 & 1, !t[i].real);
        }
    }
}

static void long_names_leave_the_remedy(void **state)
{
    struct rig *r = *state;
    static char longname[5000];
    memset(longname, 'n', sizeof longname - 1);
    r->config.entry = 0;
    r->config.image = (struct pc_file){.name = longname, .data = "abc", .size = 3};
    r->b = (struct boot){.machine = r->m, .config = &r->config, .low = RAM, .error = r->error};
    r->b.ranges = memory_map(r->b.map, RAM, 0);
    assert_false(boot_load(&r->b));
    if (!strstr(r->error, "is wanted"))
        print_error("%s\n", r->error);
    assert_non_null(strstr(r->error, "is wanted"));
    assert_true(strlen(r->error) < PC_ERROR_MAX);
}

/* --- damage ------------------------------------------------------------------------------------------------------
 */

static uint64_t next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed * UINT64_C(0x2545f4914f6cdd1d) >> 16;
}

static void damage(struct image *im, uint64_t *seed)
{
    static const uint64_t odd[] = {0,          1,          7,          0xff,       0x7fff,      0x8000,
                                   0xffff,     0x10000,    0xa0000,    0xfffff,    0x100000,    0x7fffffff,
                                   0x80000000, 0xfffff000, 0xfffffff8, 0xffffffff, 0x100000000, UINT64_MAX,
                                   SIZE,       SIZE - 1,   SIZE + 1,   RAM,        RAM - 1,     0x8000000000000000};
    for (unsigned n = 1 + next(seed) % 4; n--;) {
        size_t at;
        switch (next(seed) % 4) {
        case 0: at = next(seed) % 1024; break;
        case 1: at = im->header + next(seed) % 256; break;
        case 2: at = 0x1c00 + next(seed) % 256; break;
        default: at = next(seed) % SIZE; break;
        }
        if (!im->header && im->size)
            at %= im->size; /* packed: all of it is code */
        unsigned width = 1u << next(seed) % 4;
        if (next(seed) % 2)
            at &= ~(size_t)(width - 1);
        uint64_t v = odd[next(seed) % ARRAY_LEN(odd)] + (next(seed) % 4 ? 0 : next(seed) % 16 - 8);
        switch (next(seed) % 8) {
        case 0: im->size = next(seed) % 4 ? next(seed) % (SIZE + 1) : next(seed) % 2048; break;
        case 1:
        case 2:
        case 3: im->bytes[at % SIZE] ^= (uint8_t)(1u << next(seed) % 8); break;
        default:
            if (at + width <= SIZE)
                memcpy(im->bytes + at, &v, width);
            break;
        }
    }
    if (next(seed) % 4)
        fix_sums(im);
}

static void damaged_images(void **state)
{
    struct rig *r = *state;
    const char *env = getenv("BOOT_FUZZ");
    unsigned long count = env ? strtoul(env, NULL, 0) : 3000;
    static const uint8_t module[5000] = {1};
    for (unsigned k = 0; k < KINDS; k++) {
        unsigned long loaded = 0;
        for (unsigned long i = 0; i < count; i++) {
            uint64_t seed = (i + 1) * UINT64_C(0x9e3779b97f4a7c15) + k;
            struct image im;
            make(&im, k);
            damage(&im, &seed);
            r->config.modules = 0;
            if (k < 8 && next(&seed) % 2)
                add_module(r, module, next(&seed) % sizeof module, next(&seed) % 2 ? "x" : NULL);
            r->config.append = next(&seed) % 2 ? "x" : NULL;
            bool ok = load(r, &im, entry_of(&im));
            struct cpu *c = r->m->cpu[0].cpu;
            uint64_t pc = c->seg[SEG_CS].base + c->rip;
            bool good = ok ? pc < RAM && !r->error[0]
                           : r->error[0] && !strchr(r->error, '\n') &&
                                 (strstr(r->error, name) || strstr(r->error, "mod: ")) &&
                                 strlen(r->error) < PC_ERROR_MAX - 1;
            if (!good || (i % 16 == 15 && !rom_is_untouched(r)))
                fail_msg("%s, number %lu: %s: rip %#llx, \"%s\"", im.kind, i, ok ? "loaded" : "refused",
                         (unsigned long long)pc, r->error);
            loaded += ok;
        }
        /* Damage that always, or never, is seen would try nothing. */
        if (count >= 1000 && k != 11) /* gzip sees it all by its check sum */
            assert_in_range(loaded, count / 50, count - count / 50);
    }
    r->config.modules = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_images_load),
        cmocka_unit_test(multiboot1_information),
        cmocka_unit_test(multiboot2_information),
        cmocka_unit_test(pvh_information),
        cmocka_unit_test(relocatable_images_go_where_they_may),
        cmocka_unit_test(what_is_required_and_unknown_is_refused),
        cmocka_unit_test(both_headers_mean_multiboot2),
        cmocka_unit_test(old_kernels),
        cmocka_unit_test(long_names_leave_the_remedy),
        cmocka_unit_test(damaged_images),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
