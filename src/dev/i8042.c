/* SPDX-License-Identifier: MIT
 *
 * i8042.c: the keyboard controller's own commands. There is no keyboard and no mouse: bytes to them get no answer, so
 * that a driver's probe times out as on a machine without one.
 */
#include "src/dev/i8042.h"

#define STATUS_FULL    0x01 /* output buffer */
#define STATUS_SYSTEM  0x04
#define STATUS_COMMAND 0x08
#define STATUS_ENABLED 0x10 /* not locked */

#define OUTPUT_RESET 0x01 /* active low */
#define OUTPUT_A20   0x02

static void answer(struct i8042 *k, uint8_t v)
{
    k->s.data = v;
    k->s.status |= STATUS_FULL;
}

static void request_reset(struct i8042 *k)
{
    if (k->control.request) {
        k->control.request(k->control.opaque, DEVICE_RESET, 0);
    }
}

static void set_a20(struct i8042 *k, bool on)
{
    k->s.a20 = on;
    device_line_set(&k->a20, on);
}

static void set_output(struct i8042 *k, uint8_t v)
{
    k->s.output = v;
    set_a20(k, v & OUTPUT_A20);
    if (!(v & OUTPUT_RESET)) {
        request_reset(k);
    }
}

static void command(struct i8042 *k, uint8_t v)
{
    k->s.command = 0;
    switch (v) {
    case 0x20: answer(k, k->s.config); break;
    case 0x60: /* write configuration */
    case 0xd1: /* write output port */
    case 0xd2: /* write output buffer */
    case 0xd3: /* the same, as if from the mouse */
    case 0xd4: /* to the mouse */ k->s.command = v; break;
    case 0xa7: k->s.config |= 0x20; break;
    case 0xa8: k->s.config &= ~0x20; break;
    case 0xa9: answer(k, 0xff); break; /* mouse interface test: general error, there is none */
    case 0xaa:
        k->s.status |= STATUS_SYSTEM;
        answer(k, 0x55);
        break;
    case 0xab: answer(k, 0x00); break;
    case 0xad: k->s.config |= 0x10; break;
    case 0xae: k->s.config &= ~0x10; break;
    case 0xc0: answer(k, 0x80); break; /* input port: keyboard not locked */
    case 0xd0: answer(k, k->s.output); break;
    case 0xdd: set_output(k, k->s.output & ~OUTPUT_A20); break;
    case 0xdf: set_output(k, k->s.output | OUTPUT_A20); break;
    case 0xf0 ... 0xff: /* pulse the output lines whose bit is clear */
        if (!(v & OUTPUT_RESET)) {
            request_reset(k);
        }
        break;
    }
}

static void data(struct i8042 *k, uint8_t v)
{
    switch (k->s.command) {
    case 0x60: k->s.config = v; break;
    case 0xd1: set_output(k, v); break;
    case 0xd2:
    case 0xd3: answer(k, v); break;
    }
    k->s.command = 0;
}

static uint64_t i8042_read(void *dev, uint64_t now, uint64_t offset, unsigned size)
{
    struct i8042 *k = dev;
    switch (offset) {
    case 0: k->s.status &= ~STATUS_FULL; return k->s.data;
    case 1: return k->s.status | STATUS_ENABLED;
    default: return k->s.a20 << 1;
    }
}

static void i8042_write(void *dev, uint64_t now, uint64_t offset, unsigned size, uint64_t value)
{
    struct i8042 *k = dev;
    switch (offset) {
    case 0:
        k->s.status &= ~STATUS_COMMAND;
        data(k, value);
        break;
    case 1:
        k->s.status |= STATUS_COMMAND;
        command(k, value);
        break;
    default:
        set_a20(k, value & 2);
        if (value & 1) {
            request_reset(k);
        }
        break;
    }
}

void i8042_init(struct i8042 *k)
{
    k->s =
        (struct i8042_state){.config = 0x34, .output = OUTPUT_RESET | OUTPUT_A20, .status = STATUS_SYSTEM, .a20 = true};
    device_line_set(&k->a20, true);
}

const struct device_ops i8042_ops = {.name = "i8042", .width = 1, .read = i8042_read, .write = i8042_write};
