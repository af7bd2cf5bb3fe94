/* SPDX-License-Identifier: MIT
 *
 * vga.c: IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem": "General Registers", "Sequencer
 * Registers", "CRT Controller Registers", "Graphics Controller Registers", "Attribute Controller Registers",
 * "Video Digital-to-Analog Converter".
 */
#include "src/dev/vga.h"

#define LINE_NS    UINT64_C(31778) /* of 800 pixels at 25.175 MHz */
#define LINES      449u
#define LINES_SEEN 400u
#define MISC_COLOR 0x01u /* the CRT controller is at 0x3d4 */

void vga_init(struct vga *v)
{
    static const uint8_t crtc[25] = {0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00, 0x4f, 0x0d, 0x0e, 0x00,
                                     0x00, 0x00, 0x00, 0x9c, 0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff};
    static const uint8_t sequencer[5] = {3, 0, 3, 0, 2}, graphics[9] = {0, 0, 0, 0, 0, 0x10, 0x0e, 0, 0xff};
    v->s = (struct vga_state){.misc = 0x67, .dac_mask = 0xff, .attribute_index = 0x20};
    __builtin_memcpy(v->s.crtc, crtc, sizeof crtc);
    __builtin_memcpy(v->s.sequencer, sequencer, sizeof sequencer);
    __builtin_memcpy(v->s.graphics, graphics, sizeof graphics);
    for (unsigned i = 0; i < 16; i++) {
        v->s.attribute[i] = (uint8_t)(i < 8 ? i : i + 0x30);
    }
    v->s.attribute[6] = 0x14;
    v->s.attribute[16] = 0x0c;
    v->s.attribute[18] = 0x0f;
    v->s.attribute[19] = 0x08;
}

/* "Input Status Register 1": bit 3 in the vertical retrace, bit 0 outside of the picture. */
static uint8_t status(uint64_t now)
{
    uint64_t line = now / LINE_NS % LINES, at = now % LINE_NS;
    bool below = line >= LINES_SEEN;
    return (uint8_t)((line >= LINES_SEEN + 12 && line < LINES_SEEN + 14) << 3 | (below || at >= LINE_NS * 4 / 5));
}

static uint64_t vga_read(void *dev, uint64_t now, uint64_t offset, unsigned size)
{
    struct vga_state *s = &((struct vga *)dev)->s;
    switch (offset) {
    case 0x00: return s->attribute_index;
    case 0x01: return s->attribute[s->attribute_index & 31];
    case 0x02: return 0x10; /* input status 0: a monitor is there */
    case 0x04: return s->sequencer_index;
    case 0x05: return s->sequencer[s->sequencer_index & 7];
    case 0x06: return s->dac_mask;
    case 0x07: return s->dac_reading ? 3 : 0;
    case 0x08: return s->dac_write / 3;
    case 0x09: {
        uint8_t value = s->palette[s->dac_read];
        s->dac_read = (uint16_t)((s->dac_read + 1) % sizeof s->palette);
        return value;
    }
    case 0x0a: return s->feature;
    case 0x0c: return s->misc;
    case 0x0e: return s->graphics_index;
    case 0x0f: return s->graphics[s->graphics_index & 15];
    }
    if (s->misc & MISC_COLOR) {
        switch (offset) {
        case 0x14: return s->crtc_index;
        case 0x15: return s->crtc[s->crtc_index & 31];
        case 0x1a: s->attribute_data = false; return status(now);
        }
    }
    return device_ones(size);
}

static void write_crtc(struct vga_state *s, uint8_t v)
{
    unsigned i = s->crtc_index & 31;
    if (i < 8 && s->crtc[0x11] & 0x80) { /* registers 0 to 7 are protected, but for the line compare's bit */
        if (i == 7) {
            s->crtc[7] = (uint8_t)((s->crtc[7] & ~0x10) | (v & 0x10));
        }
        return;
    }
    s->crtc[i] = v;
}

static void vga_write(void *dev, uint64_t now, uint64_t offset, unsigned size, uint64_t value)
{
    struct vga_state *s = &((struct vga *)dev)->s;
    uint8_t v = (uint8_t)value;
    switch (offset) {
    case 0x00:
        if (s->attribute_data) {
            s->attribute[s->attribute_index & 31] = v;
        } else {
            s->attribute_index = v & 0x3f;
        }
        s->attribute_data = !s->attribute_data;
        break;
    case 0x02: s->misc = v; break;
    case 0x04: s->sequencer_index = v & 7; break;
    case 0x05: s->sequencer[s->sequencer_index] = v; break;
    case 0x06: s->dac_mask = v; break;
    case 0x07:
        s->dac_read = (uint16_t)(v * 3);
        s->dac_reading = true;
        break;
    case 0x08:
        s->dac_write = (uint16_t)(v * 3);
        s->dac_reading = false;
        break;
    case 0x09:
        s->palette[s->dac_write] = v & 0x3f;
        s->dac_write = (uint16_t)((s->dac_write + 1) % sizeof s->palette);
        break;
    case 0x0e: s->graphics_index = v & 15; break;
    case 0x0f: s->graphics[s->graphics_index] = v; break;
    }
    if (s->misc & MISC_COLOR) {
        switch (offset) {
        case 0x14: s->crtc_index = v & 31; break;
        case 0x15: write_crtc(s, v); break;
        case 0x1a: s->feature = v; break;
        }
    }
}

const struct device_ops vga_ops = {.name = "vga", .width = 1, .read = vga_read, .write = vga_write};
