/* SPDX-License-Identifier: MIT
 *
 * memory.c: the VMM's pages, the guest's RAM, second-level tables, and the guest's linear addresses.
 */
#include <stdio.h>
#include <string.h>

#include "vmm/vm.h"

uint64_t vmm_machine_ram(uint64_t mem)
{
    return VMM_AREA + mem;
}

bool mem_init(struct vmm *v)
{
    uint64_t mem = v->config.mem;
    v->alloc_next = VMM_PAGE; /* physical page 0 stays unused: an address of 0 is a bug that shows */
    v->ram_pa = VMM_AREA;
    v->low = mem < GUEST_HOLE ? mem : GUEST_HOLE;
    v->high = mem - v->low;
    v->ram = vmenter_host_ptr(v->config.machine, VMM_AREA, mem);
    if (!v->ram) {
        snprintf(v->error, sizeof(v->error),
                 "the machine has no %llu bytes of RAM at %#llx: create it with vmm_machine_ram()",
                 (unsigned long long)mem, (unsigned long long)VMM_AREA);
    }
    return v->ram;
}

void *mem_alloc(struct vmm *v, unsigned n, uint64_t *pa)
{
    uint64_t size = (uint64_t)n * VMM_PAGE;
    if (v->alloc_next + size > VMM_AREA) {
        return NULL;
    }
    void *p = vmenter_host_ptr(v->config.machine, v->alloc_next, size);
    if (p) {
        memset(p, 0, size);
        *pa = v->alloc_next;
        v->alloc_next += size;
    }
    return p;
}

/* Guest-physical to offset in v->ram; false: not RAM. *run: bytes that follow contiguously. */
static bool ram_offset(const struct vmm *v, uint64_t gpa, uint64_t *off, uint64_t *run)
{
    if (gpa < v->low) {
        if (gpa >= GUEST_VGA && gpa < GUEST_VGA + 0x20000) {
            return false;
        }
        *off = gpa;
        *run = (gpa < GUEST_VGA ? GUEST_VGA : v->low) - gpa;
        return true;
    }
    if (gpa >= GUEST_HIGH && gpa - GUEST_HIGH < v->high) {
        *off = gpa - GUEST_HIGH + v->low;
        *run = v->high - (gpa - GUEST_HIGH);
        return true;
    }
    return false;
}

void *mem_guest(struct vmm *v, uint64_t gpa, uint64_t len)
{
    uint64_t off, run;
    return ram_offset(v, gpa, &off, &run) && len <= run ? v->ram + off : NULL;
}

/* ---- second level --------------------------------------------------------------------------------------------- */

/* The entry for `gpa` at `level` (0: 4 KiB), with tables made on the way. */
static uint64_t *second_entry(struct vmm *v, const struct second_format *f, uint64_t *root, uint64_t gpa,
                              unsigned level)
{
    uint64_t *table = root;
    for (unsigned l = 3; l > level; l--) {
        uint64_t *e = &table[gpa >> (12 + 9 * l) & 511], pa;
        if (!*e) {
            if (!mem_alloc(v, 1, &pa)) {
                return NULL;
            }
            *e = pa | f->table;
        }
        table = vmenter_host_ptr(v->config.machine, *e & UINT64_C(0x000ffffffffff000), VMM_PAGE);
    }
    return &table[gpa >> (12 + 9 * level) & 511];
}

bool mem_map_second(struct vmm *v, const struct second_format *f, uint64_t gpa, uint64_t pa)
{
    uint64_t *e = second_entry(v, f, vmenter_host_ptr(v->config.machine, v->second, VMM_PAGE), gpa, 0);
    if (e) {
        *e = pa | f->leaf;
    }
    return e;
}

bool mem_build_second(struct vmm *v, const struct second_format *f)
{
    uint64_t *root = mem_alloc(v, 1, &v->second);
    uint64_t end = v->high ? GUEST_HIGH + v->high : v->low, off, run;
    const uint64_t big = UINT64_C(2) << 20;
    for (uint64_t gpa = 0; root && gpa < end;) {
        if (!ram_offset(v, gpa, &off, &run)) {
            gpa = gpa >= v->low && gpa < GUEST_HIGH ? GUEST_HIGH : gpa + VMM_PAGE;
            continue;
        }
        uint64_t hpa = v->ram_pa + off;
        bool large = f->large && !(gpa & (big - 1)) && !(hpa & (big - 1)) && run >= big;
        uint64_t *e = second_entry(v, f, root, gpa, large);
        if (!e) {
            root = NULL;
            break;
        }
        *e = hpa | (large ? f->large : f->leaf);
        gpa += large ? big : VMM_PAGE;
    }
    if (!root) {
        snprintf(v->error, sizeof(v->error),
                 "no room for the second-level page tables of %llu MiB: use a smaller --mem",
                 (unsigned long long)(v->config.mem >> 20));
    }
    return root;
}

/* ---- the guest's paging -------------------------------------------------------------------------------------------
 */

enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_A = 0x20, PTE_D = 0x40, PTE_PS = 0x80 };
#define PTE_NX   (UINT64_C(1) << 63)
#define PTE_ADDR UINT64_C(0x000ffffffffff000)

enum { WALK_PEEK = 1, WALK_SUPERVISOR = 2 };

static bool page_fault(struct vmm *v, uint64_t la, uint32_t error, struct event *fault)
{
    if (fault) {
        v->hv->set(v, HV_CR2, la);
        *fault = (struct event){
            .valid = true, .vector = VECTOR_PF, .type = EVENT_EXCEPTION, .has_error = true, .error = error};
    }
    return false;
}

static bool walk(struct vmm *v, uint64_t la, unsigned access, unsigned cpl, unsigned flags, uint64_t *gpa,
                 struct event *fault)
{
    uint64_t cr0 = v->hv->get(v, HV_CR0), cr4 = v->hv->get(v, HV_CR4), efer = v->hv->get(v, HV_EFER);
    bool lma = efer & EFER_LMA, pae = cr4 & CR4_PAE, nxe = pae && (efer & EFER_NXE);
    bool user = cpl == 3 && !(flags & WALK_SUPERVISOR), write = access == ACCESS_WRITE, fetch = access == ACCESS_FETCH;
    uint32_t error = (write ? 2 : 0) | (user ? 4 : 0) | (fetch && nxe ? 16 : 0);
    if (!lma) {
        la = (uint32_t)la;
    }
    if (!(cr0 & CR0_PG)) {
        *gpa = la;
        return true;
    }
    unsigned levels = lma ? cr4 & CR4_LA57 ? 5 : 4 : pae ? 3 : 2, bits = pae || lma ? 9 : 10, size = pae || lma ? 8 : 4;
    uint64_t table = v->hv->get(v, HV_CR3) & (lma ? PTE_ADDR : pae ? 0xffffffe0 : 0xfffff000);
    uint64_t may = PTE_W | PTE_U;
    bool nx = false;
    if (lma) {
        int64_t s = (int64_t)la >> (levels * 9 + 11);
        if (s != 0 &&
            s != -1) { /* not canonical: the instruction would have raised #GP; here it is simply no address */
            return page_fault(v, la, error, fault);
        }
    }
    for (unsigned l = levels; l-- > 0;) {
        unsigned shift = 12 + bits * l;
        uint64_t at = table + (la >> shift & ((1u << bits) - 1)) * size, e = 0;
        if (size == 4 || (levels == 3 && l == 2)) {
            at = table + (la >> shift & (levels == 3 && l == 2 ? 3 : 1023)) * size;
        }
        void *p = mem_guest(v, at, size);
        if (!p) {
            return page_fault(v, la, error, fault); /* a table outside of RAM: ones would be read, reserved bits */
        }
        memcpy(&e, p, size);
        if (!(e & PTE_P)) {
            return page_fault(v, la, error, fault);
        }
        bool pdpte = levels == 3 && l == 2;
        bool leaf = l == 0 || (!pdpte && (e & PTE_PS) && l <= 2 && (size == 8 || (cr4 & CR4_PSE)));
        if (!pdpte) {
            may &= e;
            nx |= nxe && (e & PTE_NX);
        }
        if (leaf) {
            bool denied =
                (user && !(may & PTE_U)) || (write && !(may & PTE_W) && (user || (cr0 & CR0_WP))) || (fetch && nx);
            bool smap = !user && !fetch && (may & PTE_U) && (cr4 & CR4_SMAP) && !(flags & WALK_PEEK) &&
                        !(v->hv->get(v, HV_RFLAGS) & RFLAGS_AC);
            if (!(flags & WALK_PEEK) && (denied || smap)) {
                return page_fault(v, la, error | 1, fault);
            }
            uint64_t set = PTE_A | (write ? PTE_D : 0);
            if (!(flags & WALK_PEEK) && (e & set) != set) {
                e |= set;
                memcpy(p, &e, size);
            }
            uint64_t mask = (UINT64_C(1) << shift) - 1;
            uint64_t base = e & PTE_ADDR;
            if (size == 4 && l == 1) {
                base = (e & 0xffc00000) | (e & 0x1fe000) << 19; /* PSE-36 */
            }
            *gpa = (base & ~mask) | (la & mask);
            return true;
        }
        if (!pdpte && !(flags & WALK_PEEK) && !(e & PTE_A)) {
            e |= PTE_A;
            memcpy(p, &e, size);
        }
        table = size == 4 ? e & 0xfffff000 : e & PTE_ADDR;
    }
    return false;
}

bool mem_walk(struct vmm *v, uint64_t la, unsigned access, unsigned cpl, uint64_t *gpa, struct event *fault)
{
    return walk(v, la, access, cpl, 0, gpa, fault);
}

static bool copy_linear(struct vmm *v, uint64_t la, uint8_t *buf, unsigned len, unsigned access, struct event *fault)
{
    unsigned cpl = v->hv->cpl(v);
    while (len) {
        unsigned n = VMM_PAGE - (la & (VMM_PAGE - 1));
        uint64_t gpa;
        n = n < len ? n : len;
        if (!mem_walk(v, la, access, cpl, &gpa, fault)) {
            return false;
        }
        uint8_t *p = mem_guest(v, gpa, n);
        if (p && access == ACCESS_WRITE) {
            memcpy(p, buf, n);
        } else if (p) {
            memcpy(buf, p, n);
        } else if (access != ACCESS_WRITE) {
            memset(buf, 0xff, n);
        }
        la += n;
        buf += n;
        len -= n;
    }
    return true;
}

bool mem_read_linear(struct vmm *v, uint64_t la, void *buf, unsigned len, unsigned access, struct event *fault)
{
    return copy_linear(v, la, buf, len, access, fault);
}

bool mem_write_linear(struct vmm *v, uint64_t la, const void *buf, unsigned len, struct event *fault)
{
    return copy_linear(v, la, (uint8_t *)(uintptr_t)buf, len, ACCESS_WRITE, fault);
}

unsigned mem_peek(struct vmm *v, uint64_t la, void *buf, unsigned len)
{
    unsigned done = 0;
    while (done < len) {
        unsigned n = VMM_PAGE - (la & (VMM_PAGE - 1));
        uint64_t gpa;
        n = n < len - done ? n : len - done;
        const void *p =
            walk(v, la, ACCESS_READ, 0, WALK_PEEK | WALK_SUPERVISOR, &gpa, NULL) ? mem_guest(v, gpa, n) : NULL;
        if (!p) {
            break;
        }
        memcpy((uint8_t *)buf + done, p, n);
        la += n;
        done += n;
    }
    return done;
}
