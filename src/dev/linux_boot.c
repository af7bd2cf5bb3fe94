/* SPDX-License-Identifier: MIT
 *
 * linux_boot.c: the memory map of a PC, and a bzImage.
 *
 * Below 1 MiB boot_params, the command line, GDT and identity page tables; the kernel at its preferred address; the
 * initrd as high as the kernel allows. By the 16-bit entry, the kernel's own real-mode code with its header stands
 * where boot_params would. Every number of the file is checked before it is used; fields that the header's version does
 * not have are not read.
 */
#include "src/dev/linux_boot.h"

#define PAGE         4096u
#define CMDLINE_ROOM 0x10000u

/* The setup header and boot_params by offset ("The Real-Mode Kernel Header", "The Linux/x86 zero page"). */
enum {
    ACPI_RSDP = 0x070,
    E820_ENTRIES = 0x1e8,
    SETUP_SECTS = 0x1f1,
    SYSSIZE = 0x1f4,
    BOOT_FLAG = 0x1fe,
    JUMP = 0x200,
    MAGIC = 0x202,
    VERSION = 0x206,
    TYPE_OF_LOADER = 0x210,
    LOADFLAGS = 0x211,
    CODE32_START = 0x214,
    RAMDISK_IMAGE = 0x218,
    RAMDISK_SIZE = 0x21c,
    HEAP_END_PTR = 0x224,
    CMD_LINE_PTR = 0x228,
    INITRD_ADDR_MAX = 0x22c,
    RELOCATABLE = 0x234,
    XLOADFLAGS = 0x236,
    CMDLINE_SIZE = 0x238,
    PREF_ADDRESS = 0x258,
    INIT_SIZE = 0x260,
    HEADER_END = 0x290,
    E820_TABLE = 0x2d0,
};
#define LOADED_HIGH   0x01
#define CAN_USE_HEAP  0x80
#define XLF_KERNEL_64 0x01

static uint64_t get(const uint8_t *p, unsigned off, unsigned bytes)
{
    uint64_t v = 0;
    __builtin_memcpy(&v, p + off, bytes);
    return v;
}

static void put(uint8_t *p, unsigned off, uint64_t v, unsigned bytes)
{
    __builtin_memcpy(p + off, &v, bytes);
}

static unsigned add(struct memory_range *map, unsigned n, uint64_t start, uint64_t end, enum memory_type type)
{
    if (end > start) {
        map[n++] = (struct memory_range){.base = start, .len = end - start, .type = type};
    }
    return n;
}

unsigned memory_map(struct memory_range map[MEMORY_MAP_MAX], uint64_t low, uint64_t high)
{
    unsigned n = 0;
    n = add(map, n, 0, PC_EBDA, MEMORY_RAM);
    n = add(map, n, PC_EBDA, PC_VGA, MEMORY_RESERVED);
    n = add(map, n, PC_BIOS, PC_1M, MEMORY_RESERVED);
    n = add(map, n, PC_1M, low, MEMORY_RAM);
    n = add(map, n, PC_IOAPIC, PC_IOAPIC + PAGE, MEMORY_RESERVED);
    n = add(map, n, PC_LAPIC, PC_LAPIC + PAGE, MEMORY_RESERVED);
    return add(map, n, PC_HIGH, PC_HIGH + high, MEMORY_RAM);
}

static bool fail(struct linux_boot *b, int about, const char *error)
{
    b->about = about;
    b->error = error;
    return false;
}

struct image {
    const uint8_t *setup, *code;
    uint64_t setup_size, code_size;
    unsigned version;
    uint64_t load;    /* where the code goes */
    uint64_t run_end; /* the end of what it needs from there on */
};

bool linux_boot_is(const void *data, size_t size)
{
    const uint8_t *p = data;
    return size >= MAGIC + 4 && get(p, BOOT_FLAG, 2) == 0xaa55 && !__builtin_memcmp(p + MAGIC, "HdrS", 4);
}

static bool check_image(struct linux_boot *b, struct image *im)
{
    const uint8_t *p = b->kernel.data;
    size_t size = b->kernel.size;
    if (size < HEADER_END) {
        return fail(b, LINUX_KERNEL, "too few bytes for a kernel: the file is truncated; fetch it again");
    }
    if (!linux_boot_is(p, size)) {
        return fail(b, LINUX_KERNEL,
                    "not a bzImage (no boot flag or no \"HdrS\"): a Linux/x86 bzImage (vmlinuz) is wanted");
    }
    im->version = (unsigned)get(p, VERSION, 2);
    if (im->version < 0x202) {
        return fail(b, LINUX_KERNEL, "a boot protocol before 2.02: a kernel of version 2.4 or later is needed");
    }
    bool has64 = im->version >= 0x20c && (get(p, XLOADFLAGS, 2) & XLF_KERNEL_64);
    if (!b->bits) {
        b->bits = has64 ? 64 : im->version >= 0x206 ? 32 : 16;
    }
    if (b->bits == 64 && !has64) {
        return fail(b, LINUX_KERNEL, "no 64-bit entry point: a 64-bit kernel of version 3.8 or later is needed");
    }
    if (!(p[LOADFLAGS] & LOADED_HIGH)) {
        return fail(b, LINUX_KERNEL, "a zImage that loads low: build a bzImage");
    }
    unsigned sects = p[SETUP_SECTS] ? p[SETUP_SECTS] : 4;
    uint64_t setup = (sects + 1) * UINT64_C(512), code = get(p, SYSSIZE, 4) * 16;
    /* syssize may count the padding that some tools cut off: a kernel cut by more than that paragraph is truncated. */
    if (setup >= size || setup + code > size + UINT64_C(15)) {
        return fail(b, LINUX_KERNEL, "truncated: its header counts more bytes than are there; fetch it again");
    }
    if (b->bits == 16 && setup > LINUX_BOOT_HEAP_END - 0x1000) {
        return fail(b, LINUX_KERNEL, "its 16-bit code is too large for a segment: the file is damaged");
    }
    im->setup = p;
    im->setup_size = setup;
    im->code = p + setup;
    im->code_size = size - setup;
    /* A kernel that can be moved is put where it would run best. One that cannot moves itself there. */
    uint64_t run = PC_1M, init_size = 0;
    im->load = PC_1M;
    if (im->version >= 0x20a) {
        run = get(p, PREF_ADDRESS, 8);
        init_size = get(p, INIT_SIZE, 4);
        im->load = p[RELOCATABLE] ? run : PC_1M;
    }
    if (run < PC_1M || run > b->low || init_size > b->low - run || im->code_size > b->low - im->load) {
        return fail(b, LINUX_KERNEL, "the kernel and its work space do not fit into the RAM: use a larger --mem");
    }
    im->run_end = im->load + im->code_size > run + init_size ? im->load + im->code_size : run + init_size;
    return true;
}

static bool load_initrd(struct linux_boot *b, const struct image *im, uint8_t *bp)
{
    uint64_t size = b->initrd.size;
    if (!b->initrd.data || !size) {
        return true;
    }
    uint64_t top = (im->version >= 0x203 ? get(im->setup, INITRD_ADDR_MAX, 4) : 0x37ffffff) + 1;
    top = top < b->low ? top : b->low;
    if (size > top || ((top - size) & ~(uint64_t)(PAGE - 1)) < im->run_end) {
        return fail(b, LINUX_INITRD, "the initrd does not fit into the RAM above the kernel: use a larger --mem");
    }
    uint64_t at = (top - size) & ~(uint64_t)(PAGE - 1);
    __builtin_memcpy(b->ram(b->opaque, at, size), b->initrd.data, size);
    put(bp, RAMDISK_IMAGE, at, 4);
    put(bp, RAMDISK_SIZE, size, 4);
    return true;
}

/* The kernel's header among boot_params, with what the 32- and 64-bit protocols ask of the loader besides. */
static uint8_t *put_params(struct linux_boot *b, const struct image *im)
{
    uint8_t *bp = b->ram(b->opaque, LINUX_BOOT_PARAMS, PAGE);
    unsigned end = JUMP + 2 + im->setup[JUMP + 1];
    end = end < HEADER_END ? end : HEADER_END;
    __builtin_memset(bp, 0, PAGE);
    __builtin_memcpy(bp + SETUP_SECTS, im->setup + SETUP_SECTS, end - SETUP_SECTS);
    for (unsigned i = 0; i < b->ranges && i < 128; i++) {
        __builtin_memcpy(bp + E820_TABLE + i * sizeof(*b->map), &b->map[i], sizeof(*b->map));
        bp[E820_ENTRIES]++;
    }
    put(bp, ACPI_RSDP, b->rsdp, 8);
    return bp;
}

/* The kernel's 16-bit code as it is, and room for its heap and stack. */
static uint8_t *put_setup(struct linux_boot *b, const struct image *im)
{
    uint8_t *bp = b->ram(b->opaque, LINUX_BOOT_PARAMS, LINUX_BOOT_HEAP_END);
    __builtin_memset(bp, 0, LINUX_BOOT_HEAP_END);
    __builtin_memcpy(bp, im->setup, im->setup_size);
    put(bp, HEAP_END_PTR, LINUX_BOOT_HEAP_END - 0x200, 2);
    bp[LOADFLAGS] |= CAN_USE_HEAP;
    return bp;
}

static void build_tables(struct linux_boot *b)
{
    uint64_t *t = b->ram(b->opaque, LINUX_BOOT_PAGING, 6 * PAGE);
    __builtin_memset(t, 0, 6 * PAGE);
    t[0] = (LINUX_BOOT_PAGING + PAGE) | 3;
    for (unsigned i = 0; i < 4; i++) {
        t[512 + i] = (LINUX_BOOT_PAGING + (2 + i) * PAGE) | 3;
    }
    for (uint64_t i = 0; i < 2048; i++) {
        t[1024 + i] = i << 21 | 0x83; /* 2 MiB, present, writable */
    }
    uint64_t *gdt = b->ram(b->opaque, LINUX_BOOT_GDT, 64);
    __builtin_memset(gdt, 0, 64);
    gdt[2] = b->bits == 64 ? UINT64_C(0x00af9b000000ffff) : UINT64_C(0x00cf9b000000ffff);
    gdt[3] = UINT64_C(0x00cf93000000ffff);
    gdt[4] = UINT64_C(0x00008b0000000067); /* a busy TSS of no use at address 0 */
}

bool linux_boot_load(struct linux_boot *b)
{
    struct image im = {0};
    const char *cmdline = b->cmdline ? b->cmdline : "";
    if (!check_image(b, &im)) {
        return false;
    }
    uint64_t room = im.version >= 0x206 ? get(im.setup, CMDLINE_SIZE, 4) : 255, len = __builtin_strlen(cmdline);
    room = room && room < CMDLINE_ROOM - 1 ? room : CMDLINE_ROOM - 1;
    if (len > room) {
        return fail(b, LINUX_CMDLINE, "the command line is longer than this kernel takes: shorten --append");
    }
    __builtin_memcpy(b->ram(b->opaque, LINUX_BOOT_CMDLINE, CMDLINE_ROOM), cmdline, len + 1);

    uint8_t *bp = b->bits == 16 ? put_setup(b, &im) : put_params(b, &im);
    bp[TYPE_OF_LOADER] = 0xff;
    put(bp, CODE32_START, im.load, 4);
    put(bp, CMD_LINE_PTR, LINUX_BOOT_CMDLINE, 4);
    if (!load_initrd(b, &im, bp)) {
        return false;
    }
    __builtin_memcpy(b->ram(b->opaque, im.load, im.code_size), im.code, im.code_size);
    if (b->bits != 16) {
        build_tables(b);
    }
    b->entry = b->bits == 64 ? im.load + 0x200 : b->bits == 32 ? im.load : 0;
    return true;
}
