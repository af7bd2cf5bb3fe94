/* SPDX-License-Identifier: MIT
 *
 * The firmware configuration interface: ports and DMA, by QEMU's documentation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "src/dev/fw_cfg.h"

#define RAM 65536u
static uint8_t ram[RAM];

static bool memory(void *opaque, uint64_t gpa, void *buf, uint32_t len, bool write)
{
    if (len > 4096 || gpa > RAM || len > RAM - gpa)
        return false;
    write ? memcpy(ram + gpa, buf, len) : memcpy(buf, ram + gpa, len);
    return true;
}

static const uint8_t file[600] = {1, 2, 3, [599] = 0x77};
static const struct fw_cfg_item items[] = {
    {FW_CFG_SIGNATURE, NULL, "QEMU", 4},
    {0x20, "etc/first", file, sizeof file},
    {0x21, "etc/second", "xyz", 3},
};

static struct fw_cfg *device(void)
{
    static struct fw_cfg f;
    f = (struct fw_cfg){.items = items, .count = 3, .memory = memory};
    memset(ram, 0xcc, sizeof ram);
    return &f;
}
static uint8_t byte(struct fw_cfg *f)
{
    return (uint8_t)device_read(&fw_cfg_ops, f, 0, 1, 1);
}
static void big(unsigned at, uint64_t v, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        ram[at + i] = (uint8_t)(v >> (bytes - 1 - i) * 8);
}
static uint32_t dma(struct fw_cfg *f, uint64_t at, uint32_t control, uint32_t len, uint64_t to)
{
    if (at < RAM - 16) {
        big((unsigned)at, control, 4);
        big((unsigned)at + 4, len, 4);
        big((unsigned)at + 8, to, 8);
    }
    device_write(&fw_cfg_ops, f, 0, 4, 4, __builtin_bswap32((uint32_t)(at >> 32)));
    device_write(&fw_cfg_ops, f, 0, 8, 4, __builtin_bswap32((uint32_t)at));
    return at < RAM - 16 ? (uint32_t)ram[at] << 24 | ram[at + 1] << 16 | ram[at + 2] << 8 | ram[at + 3] : 0;
}

static void ports(void **state)
{
    struct fw_cfg *f = device();
    char text[5] = {0};
    device_write(&fw_cfg_ops, f, 0, 0, 2, FW_CFG_SIGNATURE);
    for (unsigned i = 0; i < 4; i++)
        text[i] = (char)byte(f);
    assert_string_equal(text, "QEMU");
    assert_int_equal(byte(f), 0); /* beyond the end */
    device_write(&fw_cfg_ops, f, 0, 0, 2, FW_CFG_FILE_DIR);
    uint8_t dir[4 + 2 * 64];
    for (unsigned i = 0; i < sizeof dir; i++)
        dir[i] = byte(f);
    assert_int_equal(dir[3], 2);
    assert_int_equal(dir[6] << 8 | dir[7], 600);
    assert_int_equal(dir[9], 0x20);
    assert_string_equal((char *)dir + 12, "etc/first");
    assert_string_equal((char *)dir + 64 + 12, "etc/second");
    device_write(&fw_cfg_ops, f, 0, 0, 2, 0x1234); /* no such item */
    assert_int_equal(byte(f), 0);
}

static void by_dma(void **state)
{
    struct fw_cfg *f = device();
    assert_int_equal(device_read(&fw_cfg_ops, f, 0, 4, 4), 0x554d4551); /* "QEMU" in memory's order */
    assert_int_equal(device_read(&fw_cfg_ops, f, 0, 8, 4), 0x47464320);
    assert_int_equal(dma(f, 0x100, 0x20 << 16 | 8 | 2, 700, 0x1000), 0);
    assert_memory_equal(ram + 0x1000, file, 600);
    for (unsigned i = 600; i < 700; i++)
        assert_int_equal(ram[0x1000 + i], 0);
    assert_int_equal(ram[0x1000 + 700], 0xcc);
    assert_int_equal(dma(f, 0x100, 0x20 << 16 | 8, 0, 0), 0);
    assert_int_equal(dma(f, 0x100, 4, 599, 0), 0); /* skip */
    assert_int_equal(byte(f), 0x77);
    assert_int_equal(dma(f, 0x100, 4, 0xffffffff, 0), 0);
    assert_int_equal(dma(f, 0x100, 4, 0xffffffff, 0), 0);
    assert_int_equal(byte(f), 0);
    assert_int_equal(dma(f, 0x100, 0x20 << 16 | 8 | 0x10, 4, 0x1000), 1); /* nothing is writable */
}

/* Nothing outside of RAM is read or written, and the guest is told. */
static void dma_outside(void **state)
{
    struct fw_cfg *f = device();
    assert_int_equal(dma(f, 0x100, 0x20 << 16 | 8 | 2, 0xffffffff, RAM - 1024), 1);
    assert_int_equal(dma(f, 0x100, 0x20 << 16 | 8 | 2, 16, RAM), 1);
    assert_int_equal(dma(f, 0x100, 0x20 << 16 | 8 | 2, 16, UINT64_MAX - 7), 1);
    assert_int_equal(dma(f, 0x100, 0x20 << 16 | 8 | 2, 16, UINT64_C(0x100000000)), 1);
    dma(f, UINT64_MAX - 3, 0, 0, 0); /* not even the request */
    dma(f, RAM - 8, 0, 0, 0);
    f->memory = NULL;
    assert_int_equal(device_read(&fw_cfg_ops, f, 0, 4, 4), 0xffffffff);
    dma(f, 0x100, 0x20 << 16 | 8 | 2, 16, 0x1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ports),
        cmocka_unit_test(by_dma),
        cmocka_unit_test(dma_outside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
