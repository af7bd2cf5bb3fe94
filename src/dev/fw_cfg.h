/* SPDX-License-Identifier: MIT
 *
 * fw_cfg.h: QEMU's firmware configuration interface (QEMU documentation, "QEMU Firmware Configuration (fw_cfg)
 * Device"), the port form: a guest selects an item and reads its bytes.
 *
 * Register space: 0 the selector (two bytes, port 0x510), 1 the data (one byte, port 0x511). The host lists the items;
 * those with a name are files, and in the file directory.
 *
 * NYI: the DMA interface (the version item says that there is none), writing.
 */
#ifndef VMENTER_DEV_FW_CFG_H
#define VMENTER_DEV_FW_CFG_H

#include <vmenter/device.h>

enum {
    FW_CFG_SIGNATURE = 0x00,
    FW_CFG_ID = 0x01,
    FW_CFG_RAM_SIZE = 0x03,
    FW_CFG_NB_CPUS = 0x05,
    FW_CFG_MAX_CPUS = 0x0f,
    FW_CFG_FILE_DIR = 0x19,
    FW_CFG_FILE_FIRST = 0x20,
};

struct fw_cfg_item {
    uint16_t key;
    const char *name; /* NULL: no file; else at most 55 characters, and a key from FW_CFG_FILE_FIRST on */
    const void *data;
    uint32_t size; /* bytes */
};

struct fw_cfg {
    const struct fw_cfg_item *items; /* the host's, as long as the device lives */
    unsigned count;
    struct {
        uint32_t offset;
        uint16_t key;
    } s;
};

extern const struct device_ops fw_cfg_ops;

#endif
