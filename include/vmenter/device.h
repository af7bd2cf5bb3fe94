/* SPDX-License-Identifier: MIT
 *
 * device.h: the contract between a device model and whoever hosts it: a software PC, or a VMM that emulates devices for
 * its guest. A device model knows nothing of processors, machines, threads or the host's operating system.
 *
 * Rules, both ways:
 * - A device is one struct. Its member `s` is the whole state, plain values without pointers (it can be saved, restored
 * and compared bytewise); what stands beside `s` is wiring: callbacks and constants that the host sets before
 * NAME_init().
 * - The host calls a device from one thread at a time, and passes `now`, which never goes backwards: nanoseconds of
 * whatever clock the host keeps (the local APIC alone counts in TSC ticks; its header says so).
 * - A device never asks for the time and never waits. NAME_deadline() says when it next needs NAME_run() (DEVICE_NEVER:
 * not until something else happens). The host calls run at that time or later; earlier is harmless.
 * - Any read or write may change the deadline and any line; callbacks happen during the call.
 * - `size` is 1, 2 or 4 (8 on memory too), at most the `width` of the device's ops: a wider access is split by the bus,
 * which is what device_read() and device_write() do. Reads of nothing give ones.
 */
#ifndef VMENTER_DEVICE_H
#define VMENTER_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DEVICE_NEVER    UINT64_MAX
#define DEVICE_NS_PER_S UINT64_C(1000000000)

/* An interrupt line (or any other output pin). `level` is the new level; setting it again to the same level is allowed.
 */
struct device_line {
    void (*set)(void *opaque, unsigned line, bool level);
    void *opaque;
    unsigned line;
};

static inline void device_line_set(const struct device_line *l, bool level)
{
    if (l->set) {
        l->set(l->opaque, l->line, level);
    }
}

/* A byte that a device sends to the world (serial line, debug port). */
struct device_out {
    void (*put)(void *opaque, uint8_t byte);
    void *opaque;
};

/* Something that a guest asks of the machine as a whole. */
enum device_request {
    DEVICE_POWER_OFF,
    DEVICE_RESET,
    DEVICE_EXIT, /* isa-debug-exit; value is the code */
};

struct device_control {
    void (*request)(void *opaque, enum device_request what, uint32_t value);
    void *opaque;
};

/* How a host reaches a device's registers. `offset` is in the device's own space of registers, which its header states.
 */
struct device_ops {
    const char *name; /* one word, for people */
    unsigned width;   /* the widest access that the device decodes */
    uint64_t (*read)(void *dev, uint64_t now, uint64_t offset, unsigned size);
    void (*write)(void *dev, uint64_t now, uint64_t offset, unsigned size, uint64_t value);
    void (*run)(void *dev, uint64_t now);  /* may be NULL */
    uint64_t (*deadline)(const void *dev); /* may be NULL: never */
};

/* One row of a host's port or memory map: [base, base+len) reaches the device's registers from `offset` on. */
struct device_range {
    uint64_t base, len, offset;
    const struct device_ops *ops;
    void *dev;
};

/* a * num / den without overflow as long as the result fits in 64 bits. den is not 0. */
static inline uint64_t device_muldiv(uint64_t a, uint32_t num, uint32_t den)
{
    return a / den * num + a % den * num / den;
}

/* The same, rounded up: with it, ticks to time to ticks gives back at least the same ticks. */
static inline uint64_t device_muldiv_up(uint64_t a, uint32_t num, uint32_t den)
{
    return a / den * num + (a % den * num + den - 1) / den;
}

/* All ones of an access of `size` bytes: what a bus without a device answers. */
static inline uint64_t device_ones(unsigned size)
{
    return size >= 8 ? UINT64_MAX : (UINT64_C(1) << (size * 8)) - 1;
}

static inline uint64_t device_read(const struct device_ops *ops, void *dev, uint64_t now, uint64_t offset,
                                   unsigned size)
{
    if (size <= ops->width) {
        return ops->read(dev, now, offset, size) & device_ones(size);
    }
    uint64_t v = 0;
    for (unsigned i = 0; i < size; i += ops->width) {
        v |= (ops->read(dev, now, offset + i, ops->width) & device_ones(ops->width)) << (i * 8);
    }
    return v;
}

static inline void device_write(const struct device_ops *ops, void *dev, uint64_t now, uint64_t offset, unsigned size,
                                uint64_t value)
{
    if (size <= ops->width) {
        ops->write(dev, now, offset, size, value & device_ones(size));
        return;
    }
    for (unsigned i = 0; i < size; i += ops->width) {
        ops->write(dev, now, offset + i, ops->width, value >> (i * 8) & device_ones(ops->width));
    }
}

#ifdef __cplusplus
}
#endif
#endif
