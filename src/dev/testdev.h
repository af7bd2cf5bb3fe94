/* SPDX-License-Identifier: MIT
 *
 * testdev.h: QEMU's pc-testdev, by which bare-metal test programs make I/O happen: ports that keep what was written,
 * interrupt lines that are raised by a write, and memory that is a device's.
 */
#ifndef VMENTER_DEV_TESTDEV_H
#define VMENTER_DEV_TESTDEV_H

#include <vmenter/device.h>

#define TESTDEV_MEMORY 0x10000u
#define TESTDEV_LINES  24u

struct testdev {
    /* `level` of interrupt `line` (0 to 23, numbered as the I/O APIC's pins, ISA's 0 being pin 2); opaque is `opaque`.
     */
    void (*set_line)(void *opaque, unsigned line, bool level);
    void *opaque;
    struct {
        uint32_t port;
        uint8_t memory[TESTDEV_MEMORY];
    } s;
};

/* Register space: 0 to 3 keep what was written (port 0xe0); 4 to 7 drop it (0xe4: on QEMU, unmaps the page of RAM at
 * the address written, which a guest cannot see). */
extern const struct device_ops testdev_ops;
/* Register space: byte N is line N; a write sets its level, not 0 being high. Port 0x2000. */
extern const struct device_ops testdev_line_ops;
/* The memory, at 0xff000000. */
extern const struct device_ops testdev_memory_ops;

#endif
