/* SPDX-License-Identifier: MIT
 *
 * misc.h: devices of a register or two: PCI configuration ports of a machine without PCI devices, the debug port 0xe9,
 * the POST code port 0x80, isa-debug-exit, the ports 0xb2 and 0xb3 by which software calls SMM.
 */
#ifndef VMENTER_DEV_MISC_H
#define VMENTER_DEV_MISC_H

#include <vmenter/device.h>

/* Register space: 0 to 3 the address register (port 0xcf8), 4 to 7 the data window (0xcfc). Every function is absent:
 * reads of the window are all ones, writes are dropped. */
struct pci_none {
    struct {
        uint32_t address;
    } s;
};
extern const struct device_ops pci_none_ops;

/* One port: bytes written go to `out`; reads give 0xe9, by which guests find it. */
struct debug_port {
    struct device_out out;
};
extern const struct device_ops debug_port_ops;

/* One port: a write of N ends the machine with DEVICE_EXIT, value N * 2 + 1. */
struct debug_exit {
    struct device_control control;
};
extern const struct device_ops debug_exit_ops;

/* One port that keeps what was written (POST codes, delays). */
struct latch_port {
    struct {
        uint8_t value;
    } s;
};
extern const struct device_ops latch_port_ops;

/* The coprocessor's error on a PC: FERR# latches interrupt 13; a write to port 0xf0 takes it away and gives IGNNE#; one
 * to port 0xf1 takes it away alone. Register space: 0 and 1 these ports. */
struct coprocessor {
    struct device_line irq;
    void (*ignne)(void *opaque); /* may be NULL */
    void *opaque;
    struct {
        bool error;
    } s;
};
extern const struct device_ops coprocessor_ops;
void coprocessor_error(struct coprocessor *p); /* FERR# */

/* Register space: 0 APM control (port 0xb2), 1 APM status (0xb3). Both keep what is written; a write of the former
 * raises SMI where the chipset lets it: the host decides. */
struct apm {
    void (*smi)(void *opaque, uint8_t command); /* may be NULL */
    void *opaque;
    struct {
        uint8_t control, status;
    } s;
};
extern const struct device_ops apm_ops;

#endif
