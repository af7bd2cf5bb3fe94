/* SPDX-License-Identifier: MIT
 *
 * linux.c: a bzImage by the 64-bit boot protocol (Linux documentation, "The Linux/x86 Boot Protocol", "64-bit Boot
 * Protocol").
 *
 * Guest-physical layout: below 1 MiB boot_params, the command line, GDT and identity page tables; ACPI tables at
 * 0xe0000; the kernel at its preferred address; the initrd as high as the kernel allows.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "src/dev/acpi_tables.h"
#include "vmm/vm.h"

#define BOOT_PARAMS  0x10000u
#define BOOT_GDT     0x11000u
#define BOOT_STACK   0x18000u
#define BOOT_CMDLINE 0x20000u
#define BOOT_PAGING  0x30000u /* PML4, PDPT, four PDs */
#define BOOT_EBDA    0x9fc00u
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
    XLOADFLAGS = 0x236,
    CMDLINE_SIZE = 0x238,
    PREF_ADDRESS = 0x258,
    INIT_SIZE = 0x260,
    HEADER_END = 0x290,
    E820_TABLE = 0x2d0,
};
#define LOADED_HIGH   0x01
#define XLF_KERNEL_64 0x01
#define E820_RAM      1u
#define E820_RESERVED 2u

static uint64_t get(const uint8_t *p, unsigned off, unsigned bytes)
{
    uint64_t v = 0;
    memcpy(&v, p + off, bytes);
    return v;
}

static void put(uint8_t *p, unsigned off, uint64_t v, unsigned bytes)
{
    memcpy(p + off, &v, bytes);
}

static bool fail(struct vmm *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool fail(struct vmm *v, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(v->error, sizeof(v->error), fmt, ap);
    va_end(ap);
    return false;
}

static void add_e820(uint8_t *bp, uint64_t start, uint64_t end, uint32_t type)
{
    uint8_t n = bp[E820_ENTRIES];
    if (end > start && n < 128) {
        put(bp, E820_TABLE + n * 20u, start, 8);
        put(bp, E820_TABLE + n * 20u + 8, end - start, 8);
        put(bp, E820_TABLE + n * 20u + 16, type, 4);
        bp[E820_ENTRIES]++;
    }
}

struct image {
    const uint8_t *setup, *code;
    size_t code_size;
    uint64_t load, init_size;
};

static bool check_image(struct vmm *v, struct image *im)
{
    const struct vmm_file *f = &v->config.kernel;
    const uint8_t *p = f->data;
    if (f->size < HEADER_END) {
        return fail(v, "%s: %zu bytes are too few for a kernel: the file is truncated; fetch it again", f->name,
                    f->size);
    }
    if (get(p, BOOT_FLAG, 2) != 0xaa55 || memcmp(p + MAGIC, "HdrS", 4)) {
        return fail(v, "%s: not a bzImage (no boot flag or no \"HdrS\"): --kernel wants a Linux/x86 bzImage (vmlinuz)",
                    f->name);
    }
    unsigned version = (unsigned)get(p, VERSION, 2);
    if (version < 0x20c || !(get(p, XLOADFLAGS, 2) & XLF_KERNEL_64)) {
        return fail(
            v, "%s: no 64-bit entry point (boot protocol %u.%02u): a 64-bit kernel of version 3.8 or later is needed",
            f->name, version >> 8, version & 0xff);
    }
    if (!(p[LOADFLAGS] & LOADED_HIGH)) {
        return fail(v, "%s: a zImage that loads low: build a bzImage", f->name);
    }
    unsigned sects = p[SETUP_SECTS] ? p[SETUP_SECTS] : 4;
    uint64_t setup = (sects + 1) * UINT64_C(512), code = get(p, SYSSIZE, 4) * 16;
    /* syssize may count the padding that some tools cut off: a kernel cut by more than that paragraph is truncated. */
    if (setup >= f->size || setup + code > f->size + 15) {
        return fail(v, "%s: truncated: %zu bytes of %llu are there; fetch it again", f->name, f->size,
                    (unsigned long long)(setup + code));
    }
    im->setup = p;
    im->code = p + setup;
    im->code_size = f->size - setup;
    im->init_size = get(p, INIT_SIZE, 4);
    if (im->init_size < im->code_size) {
        im->init_size = im->code_size;
    }
    /* Lower than this no kernel decompresses itself, relocatable or not. */
    im->load = get(p, PREF_ADDRESS, 8);
    if (im->load < GUEST_1M || im->load > v->low || im->init_size > v->low - im->load) {
        return fail(v, "%s: the kernel needs %llu MiB of RAM from %#llx, the guest has %llu MiB: use a larger --mem",
                    f->name, (unsigned long long)(im->init_size + 0xfffff) >> 20, (unsigned long long)im->load,
                    (unsigned long long)v->config.mem >> 20);
    }
    return true;
}

static bool load_initrd(struct vmm *v, const struct image *im, uint8_t *bp)
{
    const struct vmm_file *f = &v->config.initrd;
    if (!f->data || !f->size) {
        return true;
    }
    uint64_t top = get(im->setup, INITRD_ADDR_MAX, 4) + 1;
    top = top < v->low ? top : v->low;
    uint64_t floor = im->load + im->init_size;
    if (f->size > top || ((top - f->size) & ~(uint64_t)(VMM_PAGE - 1)) < floor) {
        return fail(v, "%s: an initrd of %zu KiB does not fit above the kernel in %llu MiB of RAM: use a larger --mem",
                    f->name, f->size >> 10, (unsigned long long)v->config.mem >> 20);
    }
    uint64_t at = (top - f->size) & ~(uint64_t)(VMM_PAGE - 1);
    memcpy(mem_guest(v, at, f->size), f->data, f->size);
    put(bp, RAMDISK_IMAGE, at, 4);
    put(bp, RAMDISK_SIZE, f->size, 4);
    return true;
}

static void build_paging(struct vmm *v)
{
    uint64_t *t = mem_guest(v, BOOT_PAGING, 6 * VMM_PAGE);
    memset(t, 0, 6 * VMM_PAGE);
    t[0] = (BOOT_PAGING + VMM_PAGE) | 3;
    for (unsigned i = 0; i < 4; i++) {
        t[512 + i] = (BOOT_PAGING + (2 + i) * VMM_PAGE) | 3;
    }
    for (uint64_t i = 0; i < 2048; i++) {
        t[1024 + i] = i << 21 | 0x83; /* 2 MiB, present, writable */
    }
}

static void set_segment(struct vmm *v, enum hv_seg s, uint16_t sel, uint32_t ar, uint32_t limit, uint64_t base)
{
    const struct hv_segment seg = {.sel = sel, .ar = ar, .limit = limit, .base = base};
    v->hv->set_seg(v, s, &seg);
}

/* "64-bit Boot Protocol": long mode, flat segments __BOOT_CS 0x10 and __BOOT_DS 0x18, RSI boot_params, interrupts off.
 */
static void set_state(struct vmm *v, uint64_t entry)
{
    uint64_t *gdt = mem_guest(v, BOOT_GDT, 64);
    memset(gdt, 0, 64);
    gdt[2] = UINT64_C(0x00af9b000000ffff);
    gdt[3] = UINT64_C(0x00cf93000000ffff);
    gdt[4] = UINT64_C(0x00008b0000000067); /* a busy TSS of no use at address 0 */
    set_segment(v, HV_GDTR, 0, 0, 63, BOOT_GDT);
    set_segment(v, HV_IDTR, 0, 0, 0, 0);
    set_segment(v, HV_CS, 0x10, 0xa09b, UINT32_MAX, 0);
    const enum hv_seg data[] = {HV_DS, HV_ES, HV_SS, HV_FS, HV_GS};
    for (unsigned i = 0; i < sizeof(data) / sizeof(*data); i++) {
        set_segment(v, data[i], 0x18, 0xc093, UINT32_MAX, 0);
    }
    set_segment(v, HV_LDTR, 0, HV_AR_UNUSABLE, 0, 0);
    set_segment(v, HV_TR, 0x20, 0x8b, 0x67, 0);
    v->hv->set(v, HV_EFER, EFER_LME | EFER_LMA | EFER_NXE);
    v->hv->set(v, HV_CR3, BOOT_PAGING);
    v->hv->set(v, HV_CR4, CR4_PAE);
    v->hv->set(v, HV_CR0, CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG);
    v->hv->set(v, HV_DR7, 0x400);
    v->hv->set(v, HV_PAT, UINT64_C(0x0007040600070406));
    v->hv->set(v, HV_RFLAGS, RFLAGS_1);
    v->hv->set(v, HV_RIP, entry);
    v->hv->set(v, HV_RSP, BOOT_STACK);
    v->regs.rsi = BOOT_PARAMS;
}

bool linux_load(struct vmm *v)
{
    struct image im = {0};
    const char *cmdline = v->config.cmdline ? v->config.cmdline : "";
    if (!check_image(v, &im)) {
        return false;
    }
    uint64_t room = get(im.setup, CMDLINE_SIZE, 4);
    room = room && room < CMDLINE_ROOM - 1 ? room : CMDLINE_ROOM - 1;
    if (strlen(cmdline) > room) {
        return fail(v, "the kernel's command line has %zu characters, this kernel takes %llu: shorten --append",
                    strlen(cmdline), (unsigned long long)room);
    }
    memcpy(mem_guest(v, BOOT_CMDLINE, CMDLINE_ROOM), cmdline, strlen(cmdline) + 1);

    uint8_t *bp = mem_guest(v, BOOT_PARAMS, VMM_PAGE);
    memset(bp, 0, VMM_PAGE);
    unsigned end = JUMP + 2 + im.setup[JUMP + 1];
    end = end < HEADER_END ? end : HEADER_END;
    memcpy(bp + SETUP_SECTS, im.setup + SETUP_SECTS, end - SETUP_SECTS);
    bp[TYPE_OF_LOADER] = 0xff;
    put(bp, CODE32_START, im.load, 4);
    put(bp, CMD_LINE_PTR, BOOT_CMDLINE, 4);
    if (!load_initrd(v, &im, bp)) {
        return false;
    }
    memcpy(mem_guest(v, im.load, im.init_size), im.code, im.code_size);

    add_e820(bp, 0, BOOT_EBDA, E820_RAM);
    add_e820(bp, BOOT_EBDA, GUEST_VGA, E820_RESERVED);
    add_e820(bp, GUEST_BIOS, GUEST_1M, E820_RESERVED);
    add_e820(bp, GUEST_1M, v->low, E820_RAM);
    add_e820(bp, GUEST_IOAPIC, GUEST_IOAPIC + VMM_PAGE, E820_RESERVED);
    add_e820(bp, GUEST_LAPIC, GUEST_LAPIC + VMM_PAGE, E820_RESERVED);
    if (v->high) {
        add_e820(bp, GUEST_HIGH, GUEST_HIGH + v->high, E820_RAM);
    }
    const struct acpi_config acpi = {.cpus = 1,
                                     .lapic_base = GUEST_LAPIC,
                                     .ioapic_base = GUEST_IOAPIC,
                                     .ioapic_id = 1,
                                     .pm_base = 0x600,
                                     .reset_port = 0xcf9,
                                     .sci_irq = 9,
                                     .century = 0x32,
                                     .uart_port = 0x3f8,
                                     .uart_irq = 4};
    uint8_t *bios = mem_guest(v, GUEST_BIOS, GUEST_1M - GUEST_BIOS);
    memset(bios, 0, GUEST_1M - GUEST_BIOS);
    if (!acpi_build_tables(bios, GUEST_1M - GUEST_BIOS, GUEST_BIOS, &acpi)) {
        return fail(v, "the ACPI tables do not fit below 1 MiB");
    }
    put(bp, ACPI_RSDP, GUEST_BIOS, 8);
    build_paging(v);
    set_state(v, im.load + 0x200);
    return true;
}
