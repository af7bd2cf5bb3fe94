/* SPDX-License-Identifier: MIT
 *
 * fw_cfg.h: QEMU's firmware configuration interface (QEMU documentation, "QEMU Firmware Configuration (fw_cfg)
 * Device"): a guest selects an item and reads its bytes by a port, or has them copied to its memory ("Guest-side DMA
 * Interface").
 *
 * Register space: 0 the selector (two bytes, port 0x510), 1 the data (one byte, port 0x511), 4 to 11 the DMA address
 * (two big-endian double words, ports 0x514 and 0x518; the second starts the transfer). The host lists the items, which
 * are read-only; those with a name are files, and in the file directory. Beyond an item's end, and where there is no
 * item, all bytes are 0.
 */
#ifndef VMENTER_DEV_FW_CFG_H
#define VMENTER_DEV_FW_CFG_H

#include <vmenter/device.h>

enum {
    FW_CFG_SIGNATURE = 0x00,
    FW_CFG_ID = 0x01,
    FW_CFG_RAM_SIZE = 0x03,
    FW_CFG_NO_GRAPHICS = 0x04,
    FW_CFG_NB_CPUS = 0x05,
    FW_CFG_KERNEL_SIZE = 0x08,
    FW_CFG_INITRD_SIZE = 0x0b,
    FW_CFG_BOOT_DEVICE = 0x0c,
    FW_CFG_BOOT_MENU = 0x0e,
    FW_CFG_MAX_CPUS = 0x0f,
    FW_CFG_KERNEL_DATA = 0x11,
    FW_CFG_INITRD_DATA = 0x12,
    FW_CFG_CMDLINE_SIZE = 0x14,
    FW_CFG_CMDLINE_DATA = 0x15,
    FW_CFG_SETUP_SIZE = 0x17,
    FW_CFG_SETUP_DATA = 0x18,
    FW_CFG_FILE_DIR = 0x19,
    FW_CFG_FILE_FIRST = 0x20,
};

#define FW_CFG_ID_PORTS 1u
#define FW_CFG_ID_DMA   2u

struct fw_cfg_item {
    uint16_t key;
    const char *name; /* NULL: no file; else at most 55 characters, and a key from FW_CFG_FILE_FIRST on */
    const void *data;
    uint32_t size; /* bytes */
};

struct fw_cfg {
    const struct fw_cfg_item *items; /* the host's, as long as the device lives */
    unsigned count;
    /* Copies between the guest's RAM and `buf`, at most 4096 bytes. False: not all of it is RAM, nothing was copied.
     * NULL: there is no DMA, and item 1 must say so. */
    bool (*memory)(void *opaque, uint64_t gpa, void *buf, uint32_t len, bool write);
    void *opaque;
    struct {
        uint64_t address;
        uint32_t offset;
        uint16_t key;
    } s;
};

extern const struct device_ops fw_cfg_ops;

#endif
