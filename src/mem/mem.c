/* SPDX-License-Identifier: MIT
 *
 * mem.c: see mem.h. Regions stand in one array, sorted by base; look-ups are binary and happen when a TLB misses, not
 * at each access.
 */
#include "src/mem/mem.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

enum region_kind { REGION_RAM, REGION_HOST, REGION_MMIO };
struct region {
    uint64_t base, len;
    enum region_kind kind;
    bool readonly;
    uint8_t *host;
    const struct mem_mmio_ops *ops;
    void *opaque;
};

#define NOTE_SLOTS    (1u << 20) /* pages; exact for the first 4 GiB, a filter beyond */
#define LISTENERS_MAX 64

struct mem {
    struct region *region;
    unsigned regions;
    uint64_t a20_low;           /* bit 20 when that line is held low, else 0 */
    uint16_t no_read, no_write; /* mem_set_shadow(), inverted */
    unsigned last;              /* index of the region that mem_host() found last: a hint, atomic */
    mem_probe_fn *probe;
    void *probe_opaque;
    const struct mem_port_ops *ports;
    void *ports_opaque;
    uint16_t *note; /* [NOTE_SLOTS] */
    uint32_t code_epoch;
    pthread_mutex_t lock; /* listeners */
    struct {
        mem_code_listener *fn;
        void *opaque;
    } listener[LISTENERS_MAX];
    unsigned listeners;
};

/* Before and after a mapping: an access that ran over its end would fault and not reach what is the host's. */
#define GUARD 65536u

static void *map_zero(uint64_t len)
{
    uint8_t *p = mmap(NULL, len + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    if (mprotect(p + GUARD, len, PROT_READ | PROT_WRITE) != 0) {
        munmap(p, len + 2 * GUARD);
        return NULL;
    }
    return p + GUARD;
}

static void unmap(void *p, uint64_t len)
{
    munmap((uint8_t *)p - GUARD, len + 2 * GUARD);
}

struct mem *mem_create(void)
{
    struct mem *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    m->note = map_zero(NOTE_SLOTS * sizeof m->note[0]);
    if (!m->note) {
        free(m);
        return NULL;
    }
    pthread_mutex_init(&m->lock, NULL);
    return m;
}

void mem_destroy(struct mem *m)
{
    if (!m)
        return;
    for (unsigned i = 0; i < m->regions; i++)
        if (m->region[i].kind == REGION_RAM)
            unmap(m->region[i].host, m->region[i].len);
    unmap(m->note, NOTE_SLOTS * sizeof m->note[0]);
    pthread_mutex_destroy(&m->lock);
    free(m->region);
    free(m);
}

/* Index of the first region that ends above pa. */
static unsigned region_index(const struct mem *m, uint64_t pa)
{
    unsigned lo = 0, hi = m->regions;
    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;
        if (m->region[mid].base + (m->region[mid].len - 1) < pa)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static struct region *region_at(const struct mem *m, uint64_t pa)
{
    unsigned i = region_index(m, pa);
    return i < m->regions && m->region[i].base <= pa ? &m->region[i] : NULL;
}

static bool region_add(struct mem *m, const struct region *r)
{
    if (!r->len || (r->base | r->len) & PAGE_OFFSET || r->base + (r->len - 1) < r->base)
        return false;
    unsigned i = region_index(m, r->base);
    if (i < m->regions && m->region[i].base <= r->base + (r->len - 1))
        return false;
    struct region *grown = realloc(m->region, (m->regions + 1) * sizeof *grown);
    if (!grown)
        return false;
    m->region = grown;
    memmove(&grown[i + 1], &grown[i], (m->regions - i) * sizeof *grown);
    grown[i] = *r;
    m->regions++;
    return true;
}

bool mem_add_ram(struct mem *m, hpa_t base, uint64_t len)
{
    uint8_t *host = len ? map_zero(len) : NULL;
    if (!host)
        return false;
    struct region r = {.base = base.v, .len = len, .kind = REGION_RAM, .host = host};
    if (region_add(m, &r))
        return true;
    unmap(host, len);
    return false;
}

bool mem_add_host(struct mem *m, hpa_t base, void *host, uint64_t len, bool readonly)
{
    struct region r = {.base = base.v, .len = len, .kind = REGION_HOST, .readonly = readonly, .host = host};
    return region_add(m, &r);
}

bool mem_add_mmio(struct mem *m, hpa_t base, uint64_t len, const struct mem_mmio_ops *ops, void *opaque)
{
    struct region r = {.base = base.v, .len = len, .kind = REGION_MMIO, .ops = ops, .opaque = opaque};
    return region_add(m, &r);
}

bool mem_remove(struct mem *m, hpa_t base, uint64_t len)
{
    unsigned i = region_index(m, base.v);
    if (i == m->regions || m->region[i].base != base.v || m->region[i].len != len)
        return false;
    if (m->region[i].kind == REGION_RAM)
        unmap(m->region[i].host, len);
    m->regions--;
    memmove(&m->region[i], &m->region[i + 1], (m->regions - i) * sizeof *m->region);
    return true;
}

void mem_set_identity(struct mem *m, mem_probe_fn *probe, void *opaque)
{
    m->probe = probe;
    m->probe_opaque = opaque;
}

void mem_set_a20(struct mem *m, bool on)
{
    m->a20_low = on ? 0 : BIT(20);
}

bool mem_a20(const struct mem *m)
{
    return !m->a20_low;
}

uint64_t mem_address(const struct mem *m, uint64_t pa)
{
    return pa & ~m->a20_low;
}

void mem_set_shadow(struct mem *m, uint16_t read, uint16_t write)
{
    m->no_read = (uint16_t)~read;
    m->no_write = (uint16_t)~write;
}

/* Whether a part of [pa, pa+len) is kept from RAM's sight. */
static bool shadowed(uint16_t parts, uint64_t pa, uint64_t len)
{
    uint64_t end = pa + len;
    if (end <= MEM_SHADOW || pa >= MEM_SHADOW + 0x40000)
        return false;
    unsigned first = pa < MEM_SHADOW ? 0 : (unsigned)((pa - MEM_SHADOW) >> 14);
    unsigned last = end > MEM_SHADOW + 0x40000 ? 15 : (unsigned)((end - 1 - MEM_SHADOW) >> 14);
    return parts >> first & ((2u << (last - first)) - 1);
}

void mem_set_ports(struct mem *m, const struct mem_port_ops *ops, void *opaque)
{
    m->ports = ops;
    m->ports_opaque = opaque;
}

/* --- host pointers --------------------------------------------------------------------------------------------- */

static uint8_t *identity_host(struct mem *m, uint64_t pa, uint64_t len, bool write)
{
    /* User addresses of every 64-bit host lie below 2^56; the probe knows the rest. */
    if (!m->probe || pa >> 56 || len > BIT(56))
        return NULL;
    for (uint64_t page = pa & PAGE_BASE; page < pa + len; page += PAGE_SIZE)
        if (!m->probe(m->probe_opaque, (uintptr_t)page, write))
            return NULL;
    return (uint8_t *)(uintptr_t)pa;
}

static uint8_t *host_at(struct mem *m, hpa_t pa, uint64_t len, bool write, bool read)
{
    if (unlikely(!len || pa.v + (len - 1) < pa.v))
        return NULL;
    if (unlikely(m->a20_low)) {
        if ((pa.v ^ (pa.v + (len - 1))) >> 20)
            return NULL;
        pa.v &= ~m->a20_low;
    }
    if (unlikely(m->no_read | m->no_write) &&
        ((read && shadowed(m->no_read, pa.v, len)) || (write && shadowed(m->no_write, pa.v, len))))
        return NULL;
    unsigned last = __atomic_load_n(&m->last, __ATOMIC_RELAXED);
    const struct region *r = &m->region[last];
    if (unlikely(last >= m->regions || pa.v - r->base >= r->len)) {
        r = region_at(m, pa.v);
        if (!r)
            return identity_host(m, pa.v, len, write);
        __atomic_store_n(&m->last, (unsigned)(r - m->region), __ATOMIC_RELAXED);
    }
    if (r->kind == REGION_MMIO || (write && r->readonly) || len > r->len - (pa.v - r->base))
        return NULL;
    return r->host + (pa.v - r->base);
}

uint8_t *mem_host(struct mem *m, hpa_t pa, uint64_t len, bool write)
{
    return host_at(m, pa, len, write, true);
}

bool mem_own(struct mem *m, hpa_t pa)
{
    return m->probe && !region_at(m, pa.v);
}

uint64_t mem_phys(struct mem *m, const void *host)
{
    const uint8_t *p = host;
    for (unsigned i = 0; i < m->regions; i++) {
        const struct region *r = &m->region[i];
        if (r->kind != REGION_MMIO && p >= r->host && p < r->host + r->len)
            return r->base + (uint64_t)(p - r->host);
    }
    return m->probe ? (uintptr_t)host : UINT64_MAX;
}

/* --- accesses of any length --------------------------------------------------------------------------------------- */

/* The largest power of two up to 8 that is a legal access at pa and fits in len. */
static unsigned mmio_step(uint64_t pa, unsigned len)
{
    unsigned step = 8;
    while (step > len || (pa & (step - 1)))
        step >>= 1;
    return step;
}

void mem_read(struct mem *m, hpa_t pa, void *buf, unsigned len)
{
    uint8_t *p = buf;
    while (len) {
        unsigned n = (unsigned)MIN((uint64_t)len, PAGE_SIZE - (pa.v & PAGE_OFFSET));
        const uint8_t *host = mem_host(m, pa, n, false);
        if (host) {
            memcpy(p, host, n);
        } else {
            const struct region *r = region_at(m, mem_address(m, pa.v));
            if (r && r->kind == REGION_MMIO) {
                n = mmio_step(pa.v, n);
                uint64_t v = r->ops->read(r->opaque, HPA(mem_address(m, pa.v)), n);
                memcpy(p, &v, n);
            } else {
                memset(p, 0xff, n);
            }
        }
        p += n;
        pa.v += n;
        len -= n;
    }
}

void mem_write(struct mem *m, hpa_t pa, const void *buf, unsigned len)
{
    const uint8_t *p = buf;
    while (len) {
        unsigned n = (unsigned)MIN((uint64_t)len, PAGE_SIZE - (pa.v & PAGE_OFFSET));
        uint8_t *host = host_at(m, pa, n, true, false);
        if (host) {
            memcpy(host, p, n);
            if (mem_code_noted(m, HPA(mem_address(m, pa.v & PAGE_BASE))))
                mem_code_bump(m);
        } else {
            const struct region *r = region_at(m, mem_address(m, pa.v));
            if (r && r->kind == REGION_MMIO) {
                uint64_t v = 0;
                n = mmio_step(pa.v, n);
                memcpy(&v, p, n);
                r->ops->write(r->opaque, HPA(mem_address(m, pa.v)), n, v);
            }
        }
        p += n;
        pa.v += n;
        len -= n;
    }
}

uint32_t mem_port_in(struct mem *m, uint16_t port, unsigned size)
{
    uint32_t mask = (uint32_t)mask_low(8 * size);
    return (m->ports ? m->ports->in(m->ports_opaque, port, size) : ~0u) & mask;
}

void mem_port_out(struct mem *m, uint16_t port, unsigned size, uint32_t value)
{
    if (m->ports)
        m->ports->out(m->ports_opaque, port, size, value & (uint32_t)mask_low(8 * size));
}

/* --- table entries -------------------------------------------------------------------------------------------------
 */

bool mem_read64(struct mem *m, hpa_t pa, uint64_t *v)
{
    const uint8_t *h = mem_host(m, pa, 8, false);
    *v = h ? __atomic_load_n((const uint64_t *)h, __ATOMIC_RELAXED) : ~0ull;
    return h;
}

bool mem_read32(struct mem *m, hpa_t pa, uint32_t *v)
{
    const uint8_t *h = mem_host(m, pa, 4, false);
    *v = h ? __atomic_load_n((const uint32_t *)h, __ATOMIC_RELAXED) : ~0u;
    return h;
}

bool mem_cas64(struct mem *m, hpa_t pa, uint64_t old, uint64_t new_)
{
    uint8_t *h = mem_host(m, pa, 8, true);
    return h && __atomic_compare_exchange_n((uint64_t *)h, &old, new_, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

bool mem_cas32(struct mem *m, hpa_t pa, uint32_t old, uint32_t new_)
{
    uint8_t *h = mem_host(m, pa, 4, true);
    return h && __atomic_compare_exchange_n((uint32_t *)h, &old, new_, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

/* --- code pages
 * -------------------------------------------------------------------------------------------------------- */

static unsigned note_slot(hpa_t page)
{
    return (page.v >> 12) & (NOTE_SLOTS - 1);
}

bool mem_add_listener(struct mem *m, mem_code_listener *fn, void *opaque)
{
    pthread_mutex_lock(&m->lock);
    bool ok = m->listeners < LISTENERS_MAX;
    if (ok) {
        m->listener[m->listeners].fn = fn;
        m->listener[m->listeners++].opaque = opaque;
    }
    pthread_mutex_unlock(&m->lock);
    return ok;
}

void mem_remove_listener(struct mem *m, void *opaque)
{
    pthread_mutex_lock(&m->lock);
    for (unsigned i = 0; i < m->listeners; i++)
        if (m->listener[i].opaque == opaque) {
            m->listener[i] = m->listener[--m->listeners];
            break;
        }
    pthread_mutex_unlock(&m->lock);
}

unsigned mem_code_noted(const struct mem *m, hpa_t page)
{
    return __atomic_load_n(&m->note[note_slot(page)], __ATOMIC_RELAXED);
}

void mem_code_note(struct mem *m, hpa_t page)
{
    __atomic_fetch_add(&m->note[note_slot(page)], 1, __ATOMIC_SEQ_CST);
    pthread_mutex_lock(&m->lock);
    for (unsigned i = 0; i < m->listeners; i++)
        m->listener[i].fn(m->listener[i].opaque, page);
    pthread_mutex_unlock(&m->lock);
}

void mem_code_unnote(struct mem *m, hpa_t page)
{
    __atomic_fetch_sub(&m->note[note_slot(page)], 1, __ATOMIC_SEQ_CST);
}

uint32_t mem_code_epoch(const struct mem *m)
{
    return __atomic_load_n(&m->code_epoch, __ATOMIC_ACQUIRE);
}

const uint32_t *mem_code_epoch_place(const struct mem *m)
{
    return &m->code_epoch;
}

void mem_code_bump(struct mem *m)
{
    __atomic_fetch_add(&m->code_epoch, 1, __ATOMIC_SEQ_CST);
}
