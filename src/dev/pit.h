/* SPDX-License-Identifier: MIT
 *
 * pit.h: an i8254 timer with a PC's port 0x61 (gate of channel 2, speaker, refresh toggle).
 *
 * Register space: 0 to 3 the ports 0x40 to 0x43, 4 the port 0x61. Output: `irq`, channel 0's OUT.
 */
#ifndef VMENTER_DEV_PIT_H
#define VMENTER_DEV_PIT_H

#include <vmenter/device.h>

#define PIT_HZ 1193182u

struct pit_channel {
    uint64_t start;   /* tick at which `count` was loaded (modes 2 and 3: at which the period or half period began) */
    uint64_t frozen;  /* ticks that had passed when the gate stopped the count */
    uint32_t count;   /* 1 to 65536 */
    uint32_t next;    /* written, not loaded yet; 0: nothing */
    uint8_t mode, rw; /* rw: 1 low byte, 2 high byte, 3 both */
    bool bcd;
    bool loaded;   /* there is a count */
    bool running;  /* modes 1 and 5: triggered */
    bool half_low; /* mode 3: in the second half */
    bool gate;
    bool out;                   /* as of the last advance */
    bool write_high, read_high; /* rw 3: the next byte is the high one */
    uint8_t write_low;
    bool stopped;    /* mode 0: the first of two bytes was written */
    uint8_t latched; /* bytes of the latch left to read */
    uint16_t latch;
    bool status_latched;
    uint8_t status;
};

struct pit_state {
    struct pit_channel ch[3];
    uint8_t port61;
    bool line;
};

struct pit {
    struct device_line irq;
    struct pit_state s;
};

void pit_init(struct pit *p);
void pit_run(struct pit *p, uint64_t now);
uint64_t pit_deadline(const struct pit *p);

extern const struct device_ops pit_ops;

#endif
