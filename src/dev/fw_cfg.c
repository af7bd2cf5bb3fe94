/* SPDX-License-Identifier: MIT
 *
 * fw_cfg.c: the firmware configuration interface, by ports.
 */
#include "src/dev/fw_cfg.h"

#define DIR_ENTRY 64u /* size, key, reserved, name: big-endian numbers */
#define DIR_NAME  8u

static uint8_t directory_byte(const struct fw_cfg *f, uint32_t offset)
{
    uint32_t files = 0, want = (offset - 4) / DIR_ENTRY, at = (offset - 4) % DIR_ENTRY;
    const struct fw_cfg_item *found = NULL;
    for (unsigned i = 0; i < f->count; i++) {
        if (f->items[i].name && files++ == want) {
            found = &f->items[i];
        }
    }
    if (offset < 4) {
        return (uint8_t)(files >> (24 - offset * 8));
    }
    if (!found) {
        return 0;
    }
    if (at < 4) {
        return (uint8_t)(found->size >> (24 - at * 8));
    }
    if (at < 6) {
        return (uint8_t)(found->key >> (8 - (at - 4) * 8));
    }
    return at >= DIR_NAME && at - DIR_NAME < __builtin_strlen(found->name) ? (uint8_t)found->name[at - DIR_NAME] : 0;
}

static uint64_t fw_cfg_read(void *dev, uint64_t now, uint64_t offset, unsigned size)
{
    struct fw_cfg *f = dev;
    if (offset != 1 || size != 1) {
        return device_ones(size);
    }
    uint32_t at = f->s.offset;
    f->s.offset += at != UINT32_MAX;
    if (f->s.key == FW_CFG_FILE_DIR) {
        return directory_byte(f, at);
    }
    for (unsigned i = 0; i < f->count; i++) {
        if (f->items[i].key == f->s.key) {
            return at < f->items[i].size ? ((const uint8_t *)f->items[i].data)[at] : 0;
        }
    }
    return 0;
}

static void fw_cfg_write(void *dev, uint64_t now, uint64_t offset, unsigned size, uint64_t value)
{
    struct fw_cfg *f = dev;
    if (offset == 0 && size == 2) {
        f->s.key = value & ~UINT64_C(0x4000); /* the write channel is gone since QEMU 2.4 */
        f->s.offset = 0;
    }
}

const struct device_ops fw_cfg_ops = {.width = 2, .read = fw_cfg_read, .write = fw_cfg_write};
