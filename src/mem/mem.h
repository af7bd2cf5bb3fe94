/* SPDX-License-Identifier: MIT
 *
 * mem.h: the physical address space of one machine: RAM, memory that the caller mapped, MMIO windows, port I/O, and the
 * note which pages hold code that some processor has decoded.
 *
 * Invariants: regions do not overlap; a host pointer from mem_host() is good for the rest of its 4-KiB page at least
 * and stays good until the region is removed. A guest's address never becomes a host pointer but through mem_host().
 * Threads: regions are added and removed while no processor runs; everything else is safe on any thread.
 */
#ifndef MEM_MEM_H
#define MEM_MEM_H

#include "src/base/base.h"

struct mem;

struct mem_mmio_ops {
    uint64_t (*read)(void *opaque, hpa_t pa, unsigned size); /* size 1, 2, 4 or 8 */
    void (*write)(void *opaque, hpa_t pa, unsigned size, uint64_t value);
};
struct mem_port_ops {
    uint32_t (*in)(void *opaque, uint16_t port, unsigned size); /* size 1, 2 or 4 */
    void (*out)(void *opaque, uint16_t port, unsigned size, uint32_t value);
};
/* Identity mode: is the host's page at this address mapped, with that right? Asked when a translation is made. */
typedef bool mem_probe_fn(void *opaque, uintptr_t page, bool write);

struct mem *mem_create(void); /* NULL: no memory */
void mem_destroy(struct mem *m);

bool mem_add_ram(struct mem *m, hpa_t base, uint64_t len); /* taken from the host as it is touched; zero-filled */
bool mem_add_host(struct mem *m, hpa_t base, void *host, uint64_t len, bool readonly);
bool mem_add_mmio(struct mem *m, hpa_t base, uint64_t len, const struct mem_mmio_ops *ops, void *opaque);
bool mem_remove(struct mem *m, hpa_t base, uint64_t len);
/* Every address that no region holds is the process's own, if probe says that it is mapped. */
void mem_set_identity(struct mem *m, mem_probe_fn *probe, void *opaque);
/* Address line 20 held low, as a PC's A20M# does: every access is made with that bit clear. Whoever holds translations
 * must drop them. */
void mem_set_a20(struct mem *m, bool on);
bool mem_a20(const struct mem *m);
uint64_t mem_address(const struct mem *m, uint64_t pa); /* as the lines carry it */
/* [MEM_SHADOW, 1 MiB) in 16 parts of 16 KiB: a bit each, whether RAM answers to reads and takes writes. Elsewise it is
 * a hole. Whoever holds translations must drop them. */
#define MEM_SHADOW UINT64_C(0xc0000)
void mem_set_shadow(struct mem *m, uint16_t read, uint16_t write);
void mem_set_ports(struct mem *m, const struct mem_port_ops *ops, void *opaque);

/* Host pointer to [pa, pa+len), which must lie in one region; NULL where it is not plain memory (MMIO, hole, read-only
 * and write). */
uint8_t *mem_host(struct mem *m, hpa_t pa, uint64_t len, bool write);
/* Identity mode: pa is the process's own, no region holds it. */
bool mem_own(struct mem *m, hpa_t pa);
uint64_t mem_phys(struct mem *m, const void *host); /* UINT64_MAX: not ours */

/* Physical accesses of any length and alignment, by processors and devices. Holes read as all ones and drop writes. A
 * write tells the processors if the page holds code. */
void mem_read(struct mem *m, hpa_t pa, void *buf, unsigned len);
void mem_write(struct mem *m, hpa_t pa, const void *buf, unsigned len);
uint32_t mem_port_in(struct mem *m, uint16_t port, unsigned size);
void mem_port_out(struct mem *m, uint16_t port, unsigned size, uint32_t value);

/* Page tables and descriptors: an aligned 4- or 8-byte value, read whole; and an atomic compare-and-swap that sets
 * accessed and dirty bits. False where the page is not plain memory (reads then give all ones). */
bool mem_read64(struct mem *m, hpa_t pa, uint64_t *v);
bool mem_read32(struct mem *m, hpa_t pa, uint32_t *v);
bool mem_cas64(struct mem *m, hpa_t pa, uint64_t old, uint64_t new_);
bool mem_cas32(struct mem *m, hpa_t pa, uint32_t old, uint32_t new_);

/* Code pages. A processor that decodes from a page notes it; afterwards no TLB of the machine may hold that page as
 * directly writable: the listener of every processor is told (another thread's drops its write tags at its next block
 * end). A write to a noted page by anyone but the processor that runs raises the code epoch: every processor compares a
 * block's bytes again before it runs it the next time. mem_code_noted() may say yes for a page that is not (it is a
 * filter), never the reverse. */
typedef void mem_code_listener(void *opaque, hpa_t page);
bool mem_add_listener(struct mem *m, mem_code_listener *fn, void *opaque);
void mem_remove_listener(struct mem *m, void *opaque);
unsigned mem_code_noted(const struct mem *m, hpa_t page); /* how many processors noted it (a filter: may be too many) */
void mem_code_note(struct mem *m, hpa_t page);            /* once for each processor and page; tells the listeners */
void mem_code_unnote(struct mem *m, hpa_t page);          /* takes one note back */
uint32_t mem_code_epoch(const struct mem *m);
const uint32_t *mem_code_epoch_place(const struct mem *m); /* read it atomically */
void mem_code_bump(
    struct mem *m); /* memory may have changed behind the processors' backs (native host code ran, a device wrote) */

#endif
