/* SPDX-License-Identifier: MIT
 *
 * bios.c: the real-mode services (bios.S) in memory: code, data, interrupt vectors, and their part of the BIOS data
 * area.
 *
 * Every image gets them: a kernel's 16-bit entry begins with them, and a hypervisor that came in protected mode may go
 * back to real mode to ask.
 */
#include "src/machine/boot/bios_code.h"
#include "src/machine/boot/boot.h"

/* ORDER: as bios.S lists them. */
enum bios_handler {
    H_IGNORE,
    H_TIMER,
    H_IRQ_LOW,
    H_IRQ_HIGH,
    H_VIDEO,
    H_EQUIPMENT,
    H_BASE_MEMORY,
    H_DISK,
    H_SYSTEM,
    H_KEYBOARD,
    H_CLOCK,
    H_UNSUPPORTED,
};

struct bios_data { /* at f000:f800 */
    uint16_t ranges, extended, below16, above16;
    struct memory_range map[MEMORY_MAP_MAX];
} __attribute__((packed));

#define SEGMENT   0xf000u
#define CODE      0x000u /* in the page */
#define DATA      0x800u
#define MODEL     0xffeu
#define BDA       0x400u
#define EQUIPMENT 0x10u
_Static_assert(sizeof bios_code <= DATA - CODE && DATA + sizeof(struct bios_data) <= BOOT_GDT - BOOT_BIOS,
               "code, data and the GDT share a page");

void boot_bios(struct boot *b)
{
    static const struct {
        uint8_t first, last, handler;
    } vectors[] = {
        {0x08, 0x08, H_TIMER},    {0x09, 0x0f, H_IRQ_LOW},     {0x70, 0x77, H_IRQ_HIGH},
        {0x10, 0x10, H_VIDEO},    {0x11, 0x11, H_EQUIPMENT},   {0x12, 0x12, H_BASE_MEMORY},
        {0x13, 0x13, H_DISK},     {0x14, 0x14, H_UNSUPPORTED}, {0x15, 0x15, H_SYSTEM},
        {0x16, 0x16, H_KEYBOARD}, {0x17, 0x17, H_UNSUPPORTED}, {0x1a, 0x1a, H_CLOCK},
    };
    uint8_t *bios = mem_host(b->machine->mem, HPA(BOOT_BIOS), PAGE_SIZE, true);
    uint8_t *ivt = mem_host(b->machine->mem, HPA(0), 0x500, true);
    memcpy(bios + CODE, bios_code, sizeof bios_code);
    bios[MODEL] = 0xfc; /* AT */
    for (unsigned v = 0; v < 256; v++) {
        unsigned h = H_IGNORE;
        for (unsigned i = 0; i < ARRAY_LEN(vectors); i++)
            if (v >= vectors[i].first && v <= vectors[i].last)
                h = vectors[i].handler;
        memcpy(ivt + 4 * v, bios + CODE + 2 * h, 2);
        store16(ivt + 4 * v + 2, SEGMENT);
    }

    struct bios_data d = {.ranges = (uint16_t)b->ranges};
    d.extended = (uint16_t)MIN((b->low - PC_1M) >> 10, UINT64_C(63) << 10);
    d.below16 = (uint16_t)MIN((b->low - PC_1M) >> 10, UINT64_C(15) << 10);
    d.above16 = (uint16_t)(b->low > UINT64_C(16) << 20 ? (b->low - (UINT64_C(16) << 20)) >> 16 : 0);
    memcpy(d.map, b->map, b->ranges * sizeof *b->map);
    memcpy(bios + DATA, &d, sizeof d);

    /* The equipment: a coprocessor, an 80-column colour screen, two serial ports. */
    store16(ivt + BDA + EQUIPMENT, 0x0022 | PC_SERIALS << 9);
    ivt[BDA + 0x49] = 3;           /* video mode */
    store16(ivt + BDA + 0x4a, 80); /* columns */
    store16(ivt + BDA + 0x4c, 0x1000);
    store16(ivt + BDA + 0x63, 0x3d4);
    ivt[BDA + 0x84] = 24; /* the last row */
    ivt[BDA + 0x85] = 16; /* scan lines of a character */
}
