/* SPDX-License-Identifier: MIT
 *
 * vga.h: the ports of a VGA that text-mode software touches: index and data registers that keep what is written, with
 * the values of the 80x25 text mode, and an input status that counts the beam's way by the time. No picture: who wants
 * one reads the memory at 0xb8000.
 *
 * Register space: 0 to 31 the ports 0x3c0 to 0x3df. NYI: the monochrome addresses 0x3b4, 0x3b5, 0x3ba; planes.
 */
#ifndef VMENTER_DEV_VGA_H
#define VMENTER_DEV_VGA_H

#include <vmenter/device.h>

struct vga_state {
    uint8_t crtc[32], sequencer[8], graphics[16], attribute[32];
    uint8_t palette[768];
    uint8_t crtc_index, sequencer_index, graphics_index, attribute_index;
    uint8_t misc, feature, dac_mask;
    uint16_t dac_read, dac_write; /* bytes of `palette` */
    bool dac_reading;
    bool attribute_data; /* the flip-flop: the next write to 0x3c0 is data */
};

struct vga {
    struct vga_state s;
};

void vga_init(struct vga *v);
extern const struct device_ops vga_ops;

#endif
