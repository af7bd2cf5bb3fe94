/* SPDX-License-Identifier: MIT
 *
 * fw_cfg.c: the firmware configuration interface, by ports and by DMA.
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

static const struct fw_cfg_item *selected(const struct fw_cfg *f)
{
    for (unsigned i = 0; i < f->count; i++) {
        if (f->items[i].key == f->s.key) {
            return &f->items[i];
        }
    }
    return NULL;
}

/* The next bytes of the selected item. */
static void fetch(struct fw_cfg *f, uint8_t *to, uint32_t len)
{
    const struct fw_cfg_item *item = f->s.key == FW_CFG_FILE_DIR ? NULL : selected(f);
    for (uint32_t i = 0; i < len; i++) {
        uint32_t at = f->s.offset;
        f->s.offset += at != UINT32_MAX;
        if (f->s.key == FW_CFG_FILE_DIR) {
            to[i] = directory_byte(f, at);
        } else {
            to[i] = item && at < item->size ? ((const uint8_t *)item->data)[at] : 0;
        }
    }
}

static void choose(struct fw_cfg *f, uint16_t key)
{
    f->s.key = key & ~0x4000; /* the write channel is gone since QEMU 2.4 */
    f->s.offset = 0;
}

/* ---- DMA ------------------------------------------------------------------------------------------------------- */

#define DMA_ERROR  0x01u
#define DMA_READ   0x02u
#define DMA_SKIP   0x04u
#define DMA_SELECT 0x08u
#define DMA_WRITE  0x10u

static uint32_t big32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* False: the memory is no RAM. */
static bool copy_out(struct fw_cfg *f, uint64_t gpa, uint32_t len)
{
    uint8_t chunk[512];
    while (len) {
        uint32_t n = len < sizeof chunk ? len : (uint32_t)sizeof chunk;
        fetch(f, chunk, n);
        if (gpa + n < gpa || !f->memory(f->opaque, gpa, chunk, n, true)) {
            return false;
        }
        gpa += n;
        len -= n;
    }
    return true;
}

/* "FWCfgDmaAccess": control, length, address, all big-endian. */
static void transfer(struct fw_cfg *f)
{
    uint8_t access[16], done[4] = {0};
    uint64_t at = f->s.address;
    f->s.address = 0;
    if (!f->memory || !f->memory(f->opaque, at, access, sizeof access, false)) {
        return;
    }
    uint32_t control = big32(access), len = big32(access + 4);
    uint64_t gpa = (uint64_t)big32(access + 8) << 32 | big32(access + 12);
    bool ok = true;
    if (control & DMA_SELECT) {
        choose(f, (uint16_t)(control >> 16));
    }
    if (control & DMA_READ) {
        ok = copy_out(f, gpa, len);
    } else if (control & DMA_WRITE) {
        ok = false; /* no item is writable */
    } else if (control & DMA_SKIP) {
        f->s.offset = len > UINT32_MAX - f->s.offset ? UINT32_MAX : f->s.offset + len;
    }
    done[3] = ok ? 0 : DMA_ERROR;
    f->memory(f->opaque, at, done, sizeof done, true);
}

/* ---- registers ------------------------------------------------------------------------------------------------- */

static uint64_t fw_cfg_read(void *dev, uint64_t now, uint64_t offset, unsigned size)
{
    struct fw_cfg *f = dev;
    uint8_t byte;
    if (offset == 1 && size == 1) {
        fetch(f, &byte, 1);
        return byte;
    }
    if (offset >= 4 && f->memory) { /* a signature, in memory's order */
        static const char signature[8] = "QEMU CFG";
        uint64_t v = 0;
        for (unsigned i = 0; i < size && offset - 4 + i < 8; i++) {
            v |= (uint64_t)(uint8_t)signature[offset - 4 + i] << i * 8;
        }
        return v;
    }
    return device_ones(size);
}

static void fw_cfg_write(void *dev, uint64_t now, uint64_t offset, unsigned size, uint64_t value)
{
    struct fw_cfg *f = dev;
    if (offset == 0 && size == 2) {
        choose(f, (uint16_t)value);
    } else if (offset == 4 && size == 4) {
        f->s.address = (uint64_t)__builtin_bswap32((uint32_t)value) << 32;
    } else if (offset == 8 && size == 4) {
        f->s.address |= __builtin_bswap32((uint32_t)value);
        transfer(f);
    }
}

const struct device_ops fw_cfg_ops = {.name = "fw_cfg", .width = 4, .read = fw_cfg_read, .write = fw_cfg_write};
