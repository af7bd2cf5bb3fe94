/* SPDX-License-Identifier: MIT
 *
 * i8042.h: a keyboard controller without a keyboard: self-test, configuration byte, output port with the reset and A20
 * lines.
 *
 * Register space: 0 the port 0x60, 1 the port 0x64, 2 the port 0x92 (system control port A: fast A20 and reset).
 */
#ifndef VMENTER_DEV_I8042_H
#define VMENTER_DEV_I8042_H

#include <vmenter/device.h>

struct i8042_state {
    uint8_t status, config, output, data;
    uint8_t command; /* that waits for its byte at port 0x60; 0: none */
    bool a20;
};

struct i8042 {
    struct device_control control;
    struct device_line a20;
    struct i8042_state s;
};

void i8042_init(struct i8042 *k);
extern const struct device_ops i8042_ops;

#endif
