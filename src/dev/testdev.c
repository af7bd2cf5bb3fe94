/* SPDX-License-Identifier: MIT
 *
 * testdev.c: see testdev.h.
 */
#include "src/dev/testdev.h"

static uint64_t port_read(void *dev, uint64_t now, uint64_t offset, unsigned size)
{
    struct testdev *t = dev;
    return offset < 4 ? t->s.port >> (8 * offset) : device_ones(size);
}

static void port_write(void *dev, uint64_t now, uint64_t offset, unsigned size, uint64_t value)
{
    struct testdev *t = dev;
    if (offset < 4) {
        uint64_t mask = device_ones(size) << (8 * offset);
        t->s.port = (uint32_t)((t->s.port & ~mask) | (value << (8 * offset) & mask));
    }
}

const struct device_ops testdev_ops = {.name = "testdev", .width = 4, .read = port_read, .write = port_write};

static uint64_t line_read(void *dev, uint64_t now, uint64_t offset, unsigned size)
{
    return device_ones(size);
}

static void line_write(void *dev, uint64_t now, uint64_t offset, unsigned size, uint64_t value)
{
    struct testdev *t = dev;
    if (t->set_line && offset < TESTDEV_LINES) {
        t->set_line(t->opaque, (unsigned)offset, value != 0);
    }
}

const struct device_ops testdev_line_ops = {.name = "testdev-irq", .width = 1, .read = line_read, .write = line_write};

static uint64_t memory_read(void *dev, uint64_t now, uint64_t offset, unsigned size)
{
    struct testdev *t = dev;
    uint64_t v = 0;
    if (offset + size <= TESTDEV_MEMORY) {
        __builtin_memcpy(&v, t->s.memory + offset, size);
    }
    return v;
}

static void memory_write(void *dev, uint64_t now, uint64_t offset, unsigned size, uint64_t value)
{
    struct testdev *t = dev;
    if (offset + size <= TESTDEV_MEMORY) {
        __builtin_memcpy(t->s.memory + offset, &value, size);
    }
}

const struct device_ops testdev_memory_ops = {
    .name = "testdev-memory", .width = 8, .read = memory_read, .write = memory_write};
