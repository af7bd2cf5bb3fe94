/* SPDX-License-Identifier: MIT
 *
 * misc.c: devices of a register or two.
 */
#include "src/dev/misc.h"

static uint64_t pci_none_read(void *dev, uint64_t now, uint64_t offset, unsigned size)
{
    struct pci_none *p = dev;
    /* PCI specification, "Configuration Mechanism #1": the address register answers to whole double words only. */
    return offset == 0 && size == 4 ? p->s.address : device_ones(size);
}

static void pci_none_write(void *dev, uint64_t now, uint64_t offset, unsigned size, uint64_t value)
{
    struct pci_none *p = dev;
    if (offset == 0 && size == 4) {
        p->s.address = value & 0x80fffffc;
    }
}

const struct device_ops pci_none_ops = {.name = "pci", .width = 4, .read = pci_none_read, .write = pci_none_write};

static uint64_t debug_port_read(void *dev, uint64_t now, uint64_t offset, unsigned size)
{
    return 0xe9;
}

static void debug_port_write(void *dev, uint64_t now, uint64_t offset, unsigned size, uint64_t value)
{
    struct debug_port *p = dev;
    if (p->out.put) {
        p->out.put(p->out.opaque, value);
    }
}

const struct device_ops debug_port_ops = {
    .name = "debug-port", .width = 1, .read = debug_port_read, .write = debug_port_write};

static uint64_t debug_exit_read(void *dev, uint64_t now, uint64_t offset, unsigned size)
{
    return device_ones(size);
}

static void debug_exit_write(void *dev, uint64_t now, uint64_t offset, unsigned size, uint64_t value)
{
    struct debug_exit *p = dev;
    if (p->control.request) {
        p->control.request(p->control.opaque, DEVICE_EXIT, (uint32_t)value << 1 | 1);
    }
}

const struct device_ops debug_exit_ops = {
    .name = "debug-exit", .width = 4, .read = debug_exit_read, .write = debug_exit_write};

static uint64_t latch_port_read(void *dev, uint64_t now, uint64_t offset, unsigned size)
{
    return ((struct latch_port *)dev)->s.value;
}

static void latch_port_write(void *dev, uint64_t now, uint64_t offset, unsigned size, uint64_t value)
{
    ((struct latch_port *)dev)->s.value = value;
}

const struct device_ops latch_port_ops = {
    .name = "post", .width = 1, .read = latch_port_read, .write = latch_port_write};

static uint64_t apm_read(void *dev, uint64_t now, uint64_t offset, unsigned size)
{
    struct apm *a = dev;
    return offset ? a->s.status : a->s.control;
}

static void apm_write(void *dev, uint64_t now, uint64_t offset, unsigned size, uint64_t value)
{
    struct apm *a = dev;
    if (offset) {
        a->s.status = (uint8_t)value;
        return;
    }
    a->s.control = (uint8_t)value;
    if (a->smi) {
        a->smi(a->opaque, (uint8_t)value);
    }
}

const struct device_ops apm_ops = {.name = "apm", .width = 1, .read = apm_read, .write = apm_write};

void coprocessor_error(struct coprocessor *p)
{
    p->s.error = true;
    device_line_set(&p->irq, true);
}

static uint64_t coprocessor_read(void *dev, uint64_t now, uint64_t offset, unsigned size)
{
    return 0xff;
}

static void coprocessor_write(void *dev, uint64_t now, uint64_t offset, unsigned size, uint64_t value)
{
    struct coprocessor *p = dev;
    bool was = p->s.error;
    p->s.error = false;
    device_line_set(&p->irq, false);
    if (was && !offset && p->ignne) {
        p->ignne(p->opaque);
    }
}

const struct device_ops coprocessor_ops = {
    .name = "coprocessor", .width = 1, .read = coprocessor_read, .write = coprocessor_write};
