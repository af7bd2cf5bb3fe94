/* SPDX-License-Identifier: MIT
 *
 * The test device: what a port keeps, what a line becomes, memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "src/dev/testdev.h"

static uint32_t levels;

static void on_line(void *opaque, unsigned line, bool level)
{
    levels = (levels & ~(1u << line)) | (uint32_t)level << line;
}

static void keeps(void **state)
{
    static struct testdev t;
    device_write(&testdev_ops, &t, 0, 0, 4, 0x12345678);
    assert_int_equal(device_read(&testdev_ops, &t, 0, 0, 4), 0x12345678);
    device_write(&testdev_ops, &t, 0, 1, 2, 0xabcd);
    device_write(&testdev_ops, &t, 0, 4, 4, 0xffffffff);
    assert_int_equal(device_read(&testdev_ops, &t, 0, 0, 4), 0x12abcd78);
    assert_int_equal(device_read(&testdev_ops, &t, 0, 2, 1), 0xab);
    device_write(&testdev_memory_ops, &t, 0, TESTDEV_MEMORY - 8, 8, 0x1122334455667788);
    device_write(&testdev_memory_ops, &t, 0, TESTDEV_MEMORY - 4, 8, 0); /* beyond its end: dropped */
    assert_int_equal(device_read(&testdev_memory_ops, &t, 0, TESTDEV_MEMORY - 6, 2), 0x5566);
}

static void lines(void **state)
{
    static struct testdev t = {.set_line = on_line};
    device_write(&testdev_line_ops, &t, 0, 5, 1, 1);
    device_write(&testdev_line_ops, &t, 0, 23, 1, 0x80);
    assert_int_equal(levels, 1u << 5 | 1u << 23);
    device_write(&testdev_line_ops, &t, 0, 4, 4, 0);
    device_write(&testdev_line_ops, &t, 0, 31, 1, 1);
    assert_int_equal(levels, 1u << 23);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(keeps), cmocka_unit_test(lines)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
