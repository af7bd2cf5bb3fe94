/* SPDX-License-Identifier: MIT
 *
 * mmu.c: see mmu.h. One walk for every table of the ordinary format (32-bit, PAE, 4 and 5 levels: the guest's, the
 * host's, and AMD's nested tables, which are the host's format read as a user), one for EPT.
 *
 * Accessed and dirty bits are set when the whole translation has succeeded, in the entries that it used; an entry that
 * changed under the walk starts the walk anew.
 */
#include "src/mmu/mmu.h"
#include "src/arch/creg.h"

#define PTE_RESTART BIT(11) /* of HLAT paging */

#define EPT_R   BIT(0)
#define EPT_W   BIT(1)
#define EPT_X   BIT(2)
#define EPT_PS  BIT(7)
#define EPT_A   BIT(8)
#define EPT_D   BIT(9)
#define EPT_XU  BIT(10)
#define EPT_VGP BIT(57) /* verify guest paging */
#define EPT_PW  BIT(58) /* paging-write access */
#define EPT_SPP BIT(61) /* sub-page write permissions */
#define EPTP_AD BIT(6)

/* EXITINFO1 of a nested page fault; EPT-violation qualification: where the refused access came from. */
#define NPF_FINAL  BIT(32)
#define NPF_TABLE  BIT(33)
#define EPTQ_LA    BIT(7)
#define EPTQ_FINAL BIT(8)
#define EPTQ_GPV   BIT(15)
#define SPPQ_MISS  BIT(11)

/* An entry used by a walk: where it is and what it held. */
struct used_entry {
    hpa_t at;
    uint64_t value;
    bool leaf;
};

static uint64_t reserved_address_bits(unsigned maxphyaddr)
{
    return PTE_ADDR & ~mask_low(maxphyaddr);
}

/* --- EPT
 * -------------------------------------------------------------------------------------------------------------- */

/* SDM 3C, "Sub-Page Write Permissions": whether len bytes at gpa may be written, by the table. An access to more than
 * one sub-page is not eligible. */
static enum mmu_fault_kind spp_walk(struct mem *m, const struct mmu_second *s, gpa_t gpa, unsigned len, bool *ok,
                                    struct mmu_fault *fault)
{
    uint64_t table = s->sppt & PTE_ADDR, e;
    *ok = false;
    if ((gpa.v & 127) + len > 128)
        return MMU_OK;
    for (unsigned shift = 39;; shift -= 9) {
        bool last = shift == 12;
        if (!mem_read64(m, HPA(table + bits(gpa.v, shift + 8, shift) * 8), &e) || gpa.v >> 48)
            e = 0;
        bool miss = !last && !(e & 1);
        if (miss ||
            (e & (last ? 0xaaaaaaaaaaaaaaaaull : 0xfff0000000000ffeull | reserved_address_bits(s->maxphyaddr)))) {
            fault->kind = MMU_SPP_EVENT;
            fault->error = miss ? SPPQ_MISS : 0;
            return fault->kind;
        }
        if (last)
            break;
        table = e & PTE_ADDR;
    }
    *ok = e >> 2 * bits(gpa.v, 11, 7) & 1;
    return MMU_OK;
}

/* SDM 3C, "EPT Translation Mechanism", "EPT Violations", "EPT Misconfigurations". */
static enum mmu_fault_kind ept_walk(struct mem *m, const struct mmu_second *s, gpa_t gpa, unsigned access,
                                    bool table_access, bool final, bool la_valid, struct mmu_result *out,
                                    struct mmu_fault *fault)
{
    struct used_entry used[5];
    unsigned levels = (unsigned)bits(s->root, 5, 3) + 1;
    bool ad = s->root & EPTP_AD;
    bool user = access & MMU_USER;
    unsigned kind = access & MMU_ACCESS_MASK;

    *fault = (struct mmu_fault){.gpa = gpa, .la_valid = la_valid};
    uint64_t q = kind == MMU_READ ? BIT(0) : kind == MMU_WRITE ? BIT(1) : BIT(2);
    /* With accessed and dirty flags: "treated as writes with regard to EPT violations", both bits. Without: the entry
     * is read first, and setting a flag in it is a read-modify-write operation. */
    if (table_access && (ad || kind == MMU_WRITE))
        q = BIT(0) | BIT(1);
    if (la_valid)
        q |= EPTQ_LA | (final ? EPTQ_FINAL : 0);

again:;
    unsigned n = 0;
    uint64_t above = 0, rights = EPT_R | EPT_W | EPT_X | EPT_XU, table = s->root & PTE_ADDR & mask_low(s->maxphyaddr),
             e = 0;
    unsigned shift = 12 + 9 * (levels - 1);
    for (;; shift -= 9) {
        hpa_t at = HPA(table + bits(gpa.v, shift + 8, shift) * 8);
        /* Tables that point outside memory, and addresses wider than the tables: nothing is mapped there. */
        if (!mem_read64(m, at, &e) || gpa.v & ~mask_low(12 + 9 * levels))
            e = 0;
        uint64_t present = EPT_R | EPT_W | EPT_X | (s->ept_mbec ? EPT_XU : 0);
        if (!(e & present)) {
            rights = 0;
            break;
        }
        bool large = shift > 12 && shift <= 30 && (e & EPT_PS);
        bool leaf = shift == 12 || large;
        uint64_t reserved = reserved_address_bits(s->maxphyaddr);
        if (!leaf)
            reserved |= shift >= 39 ? 0xf8 : 0x78;
        else if (large)
            reserved |= mask_low(shift) & PTE_ADDR;
        if (shift == 30 && large && !s->gbpages)
            reserved |= EPT_PS;
        unsigned type = (unsigned)bits(e, 5, 3);
        bool exec = e & (s->ept_mbec ? EPT_X | EPT_XU : EPT_X);
        if ((e & reserved) || (!(e & EPT_R) && ((e & EPT_W) || (exec && !s->ept_exec_only))) ||
            (leaf && (type == 2 || type == 3 || type == 7)) ||
            (leaf && s->ept_paging_write && (e & EPT_PW) && !(e & EPT_R))) {
            fault->kind = MMU_EPT_MISCONFIG;
            return fault->kind;
        }
        above = rights;
        rights &= e;
        used[n++] = (struct used_entry){at, e, leaf};
        if (leaf)
            break;
        table = e & PTE_ADDR;
    }

    bool exec_ok = rights & (s->ept_mbec && user ? EPT_XU : EPT_X);
    bool paging_write = rights && s->ept_paging_write && (e & EPT_PW);
    /* A page that paging may update needs no write access of its own for that. */
    bool write_ok = table_access && paging_write ? above & EPT_W : rights & EPT_W;
    bool ok = kind == MMU_EXEC ? exec_ok : kind == MMU_WRITE ? write_ok : rights & EPT_R;
    if (table_access && ad && !write_ok)
        ok = false;
    bool by_sub_page = unlikely(s->sppt) && !ok && kind == MMU_WRITE && final && la_valid && shift == 12 &&
                       (rights & EPT_R) && (above & EPT_W) && (e & EPT_SPP);
    if (by_sub_page && spp_walk(m, s, gpa, MAX(access >> 8, 1u), &ok, fault) != MMU_OK)
        return fault->kind;
    /* "Guest-paging verification". */
    bool unverified = unlikely(access & MMU_UNVERIFIED) && ok && s->ept_verify && (e & EPT_VGP);
    if (!ok || unverified) {
        fault->kind = MMU_EPT_VIOLATION;
        fault->error = q | (unverified ? EPTQ_GPV : 0) | (rights & EPT_R ? BIT(3) : 0) | (rights & EPT_W ? BIT(4) : 0) |
                       (rights & EPT_X ? BIT(5) : 0) | (s->ept_mbec && (rights & EPT_XU) ? BIT(6) : 0);
        fault->suppress_ve = e & BIT(63);
        return fault->kind;
    }

    bool dirty = kind == MMU_WRITE || table_access;
    if (ad && !(access & MMU_PROBE))
        for (unsigned i = 0; i < n; i++) {
            uint64_t set = used[i].value | EPT_A | (used[i].leaf && dirty ? EPT_D : 0);
            /* SDM 3C, "Page-Modification Logging": before the dirty flag is set. */
            bool log = s->pml_index && (set & ~used[i].value & EPT_D);
            if (log && *s->pml_index > 511) {
                fault->kind = MMU_PML_FULL;
                return fault->kind;
            }
            if (set != used[i].value && !mem_cas64(m, used[i].at, used[i].value, set)) {
                uint64_t now;
                if (mem_read64(m, used[i].at, &now) && now != used[i].value)
                    goto again;
            }
            if (log) {
                uint64_t page = gpa.v & PAGE_BASE;
                mem_write(m, HPA(s->pml_address + *s->pml_index * 8), &page, sizeof page);
                *s->pml_index = (*s->pml_index - 1) & 0xffff;
            }
            if (used[i].leaf)
                e = set;
        }

    uint64_t size = BIT(shift);
    *out = (struct mmu_result){
        .hpa = HPA((e & PTE_ADDR & ~(size - 1)) | (gpa.v & (size - 1))),
        .gpa = gpa,
        .page_size = size,
        .readable = rights & EPT_R,
        .writable = (rights & EPT_W) && (!ad || (e & EPT_D)),
        .user = true,
        .executable = exec_ok,
        .paging_write = paging_write,
        .memtype = (uint8_t)bits(e, 5, 3),
    };
    return MMU_OK;
}

/* --- the ordinary formats
 * ------------------------------------------------------------------------------------------------ */

struct walk {
    struct mem *m;
    const struct mmu_regs *r;
    const struct mmu_second *s;
    struct mmu_fault *fault;
    bool la_valid;
    bool unverified; /* a paging structure lay in a page without paging-write access */
};

static enum mmu_fault_kind page_fault(const struct walk *w, unsigned access, uint64_t bits_)
{
    const struct mmu_regs *r = w->r;
    bool id =
        (access & MMU_ACCESS_MASK) == MMU_EXEC && ((r->cr4 & CR4_SMEP) || ((r->cr4 & CR4_PAE) && (r->efer & EFER_NXE)));
    *w->fault = (struct mmu_fault){.kind = MMU_PAGE_FAULT,
                                   .error = bits_ | ((access & MMU_ACCESS_MASK) == MMU_WRITE ? PFEC_W : 0) |
                                            (access & MMU_USER ? PFEC_U : 0) | (id ? PFEC_ID : 0),
                                   .la_valid = true};
    return MMU_PAGE_FAULT;
}

/* Where in the machine's memory a paging structure's entry lies; `write` when its accessed or dirty bit is to be set.
 */
static enum mmu_fault_kind table_address(struct walk *w, gpa_t at, bool write, hpa_t *out)
{
    *out = HPA(at.v);
    if (unlikely(w->r->smram_alias) && at.v - SMM_RAM < SMM_RAM_SIZE)
        out->v += w->r->smram_alias;
    if (!w->s || w->s->kind == MMU_SECOND_NONE)
        return MMU_OK;
    uint64_t page = at.v & PAGE_BASE;
    struct mmu_table_entry none = {0}, *e = w->s->tables ? &w->s->tables->e[at.v / PAGE_SIZE % MMU_TABLE_SLOTS] : &none;
    bool same = e->gpa == page && e->root == w->s->root && e->asid == w->s->asid;
    if (same && (write ? e->wr : e->rd)) {
        w->unverified |= !e->paging_write;
        *out = HPA(e->hpa | (at.v & PAGE_OFFSET));
        return MMU_OK;
    }
    struct mmu_result res;
    enum mmu_fault_kind k =
        mmu_translate_gpa(w->m, w->s, at, write ? MMU_WRITE : MMU_READ, false, w->la_valid, &res, w->fault);
    if (k != MMU_OK)
        return k;
    /* SDM 3C, "Guest-Physical Accesses to the APIC-Access Page". */
    if (unlikely(w->s->apic_page) && !((res.hpa.v ^ w->s->apic_page) & PAGE_BASE)) {
        *w->fault = (struct mmu_fault){.kind = MMU_APIC_ACCESS, .gpa = at, .la_valid = w->la_valid};
        return MMU_APIC_ACCESS;
    }
    *out = res.hpa;
    w->unverified |= !res.paging_write;
    if (!same)
        *e = (struct mmu_table_entry){.gpa = page, .root = w->s->root, .asid = w->s->asid};
    e->hpa = res.hpa.v & PAGE_BASE;
    e->paging_write = res.paging_write;
    *(write ? &e->wr : &e->rd) = true;
    return MMU_OK;
}

static enum mmu_fault_kind set_accessed(struct walk *w, gpa_t at, bool wide, uint64_t old, uint64_t new_, bool *changed)
{
    hpa_t pa;
    *changed = false;
    enum mmu_fault_kind k = table_address(w, at, true, &pa);
    if (k != MMU_OK)
        return k;
    if (wide ? mem_cas64(w->m, pa, old, new_) : mem_cas32(w->m, pa, (uint32_t)old, (uint32_t)new_))
        return MMU_OK;
    /* Read-only memory keeps its bits; an entry that changed meanwhile is walked anew. */
    uint64_t now = old;
    uint32_t now32 = (uint32_t)old;
    if (wide ? !mem_read64(w->m, pa, &now) : !mem_read32(w->m, pa, &now32))
        return MMU_OK;
    *changed = wide ? now != old : now32 != (uint32_t)old;
    return MMU_OK;
}

/* SDM 3A, "HLAT Paging": addresses in the protected linear range, the upper part of the linear-address space. */
static bool hlat_paging(const struct walk *w, uint64_t la)
{
    if (likely(!w->s || !w->s->hlat))
        return false;
    uint64_t prefix = ~mask_low(64 - w->s->hlat_prefix);
    return !w->s->hlat_prefix || (la & prefix) == prefix;
}

/* SDM 3A, "4-Level Paging and 5-Level Paging", "PAE Paging", "32-Bit Paging"; "Determination of Access Rights". The
 * second level, if any, is applied to the tables, not to the result. */
static enum mmu_fault_kind walk_tables(struct walk *w, uint64_t la, unsigned access, struct mmu_result *out)
{
    const struct mmu_regs *r = w->r;
    struct {
        gpa_t at;
        uint64_t value;
        bool leaf;
    } used[5];
    bool lma = r->efer & EFER_LMA, pae = r->cr4 & CR4_PAE, wide = lma || pae, nxe = wide && (r->efer & EFER_NXE);
    uint64_t high_reserved = wide ? reserved_address_bits(r->maxphyaddr) | (nxe ? 0 : PTE_NX) : 0;
    enum mmu_fault_kind k;
    bool hlat = lma && hlat_paging(w, la);

again:;
    unsigned n = 0, index_bits = wide ? 9 : 10, shift;
    uint64_t table, e, rights = PTE_W | PTE_U, nx = 0;
    if (lma) {
        shift = r->cr4 & CR4_LA57 ? 48 : 39;
        table = (hlat ? w->s->hlat_pointer : r->cr3) & PTE_ADDR & mask_low(r->maxphyaddr);
    } else if (pae) {
        uint64_t pdpte = r->pdpte[bits(la, 31, 30)];
        if (r->pdpte_in_memory) {
            hpa_t pa;
            k = table_address(w, GPA((r->cr3 & 0xffffffe0) + bits(la, 31, 30) * 8), false, &pa);
            if (k != MMU_OK)
                return k;
            mem_read64(w->m, pa, &pdpte);
            /* NXE does not matter here: bit 63 of a PDPTE is reserved. */
            if ((pdpte & PTE_P) && (pdpte & (reserved_address_bits(r->maxphyaddr) | 0xfff00000000001e6ull)))
                return page_fault(w, access, PFEC_P | PFEC_RSVD);
        }
        if (!(pdpte & PTE_P))
            return page_fault(w, access, 0);
        shift = 21;
        table = pdpte & PTE_ADDR;
    } else {
        shift = 22;
        table = r->cr3 & 0xfffff000;
    }

    for (;; shift -= index_bits) {
        gpa_t at = GPA(table + bits(la, shift + index_bits - 1, shift) * (wide ? 8 : 4));
        hpa_t pa;
        k = table_address(w, at, false, &pa);
        if (k != MMU_OK)
            return k;
        if (wide) {
            mem_read64(w->m, pa, &e);
        } else {
            uint32_t e32;
            mem_read32(w->m, pa, &e32);
            e = e32;
        }
        if (!(e & PTE_P))
            return page_fault(w, access, hlat ? PFEC_HLAT : 0);
        bool large = (e & PTE_PS) && shift > 12 && shift <= 30 && (wide || (r->cr4 & CR4_PSE));
        bool leaf = shift == 12 || large;
        uint64_t reserved = high_reserved;
        if (shift >= 39 || (shift == 30 && !r->gbpages))
            reserved |= PTE_PS;
        if (lma && r->amd && shift >= 39)
            reserved |= PTE_G; /* APM 2: PML4E and PML5E bit 8 must be zero */
        if (!lma && pae)
            reserved |= 0x7ff0000000000000ull;
        if (large)
            reserved |=
                wide ? mask_low(shift) & PTE_ADDR & ~BIT(12) : BIT(21); /* PSE-36: bits 20:13 are address bits 39:32 */
        if (e & reserved)
            return page_fault(w, access, PFEC_P | PFEC_RSVD | (hlat ? PFEC_HLAT : 0));
        if (hlat && (e & PTE_RESTART)) { /* with ordinary paging */
            hlat = false;
            w->unverified = false;
            goto again;
        }
        rights &= e;
        nx |= e & PTE_NX;
        used[n].at = at;
        used[n].value = e;
        used[n++].leaf = leaf;
        if (leaf)
            break;
        table = e & (wide ? PTE_ADDR : 0xfffff000);
    }

    /* Access rights. */
    bool user_page = rights & PTE_U, write = (access & MMU_ACCESS_MASK) == MMU_WRITE,
         exec = (access & MMU_ACCESS_MASK) == MMU_EXEC, user = access & MMU_USER, wp = r->cr0 & CR0_WP;
    bool ok = true;
    if (exec)
        ok = !nx && (user ? user_page : !(user_page && (r->cr4 & CR4_SMEP)));
    else if (user)
        ok = user_page && (!write || (rights & PTE_W));
    else
        ok = (!write || (rights & PTE_W) || !wp) &&
             !(user_page && (r->cr4 & CR4_SMAP) && ((access & MMU_IMPLICIT) || !r->ac));
    uint8_t pkey = lma ? (uint8_t)bits(e, 62, 59) : 0;
    bool keys = lma && (r->cr4 & (user_page ? CR4_PKE : CR4_PKS));
    uint32_t key = keys ? (user_page ? r->pkru : r->pkrs) >> (2 * pkey) & 3 : 0;
    /* "Page-Fault Exceptions": the PK flag says what the key forbids, whatever else does. */
    bool forbidden = !exec && ((key & 1) || (write && (key & 2) && (user || wp)));
    if (!ok || forbidden)
        return page_fault(w, access, PFEC_P | (forbidden ? PFEC_PK : 0));

    if (!(access & MMU_PROBE))
        for (unsigned i = 0; i < n; i++) {
            uint64_t set = used[i].value | PTE_A | (used[i].leaf && write ? PTE_D : 0);
            bool changed;
            if (set == used[i].value)
                continue;
            k = set_accessed(w, used[i].at, wide, used[i].value, set, &changed);
            if (k != MMU_OK)
                return k;
            if (changed)
                goto again;
            if (used[i].leaf)
                e = set;
        }

    uint64_t size = BIT(shift), base;
    if (wide || shift == 12)
        base = e & PTE_ADDR & ~(size - 1);
    else
        base = (e & 0xffc00000) | bits(e, 20, 13) << 32;
    bool dirty = e & PTE_D;
    *out = (struct mmu_result){
        .gpa = GPA(base | (la & (size - 1))),
        .page_size = size,
        .readable = true,
        .writable = (rights & PTE_W) && dirty,
        .sup_writable = dirty,
        .read_write = rights & PTE_W,
        .user = user_page,
        .executable = !nx,
        .global = (e & PTE_G) && (r->cr4 & CR4_PGE),
        .pkey = pkey,
    };
    out->hpa = HPA(out->gpa.v);
    return MMU_OK;
}

/* APM 2, "Nested Paging": the nested tables have the host's format, every access through them is a user's, and one to a
 * guest's table is a write. EXITINFO1 as in "Nested versus Guest Page Faults, Fault Ordering". */
static enum mmu_fault_kind npt_walk(struct mem *m, const struct mmu_second *s, gpa_t gpa, unsigned access,
                                    bool table_access, bool la_valid, struct mmu_result *out, struct mmu_fault *fault)
{
    /* "Guest Mode Execute Trap Extension": a guest supervisor's accesses are a supervisor's, with SMEP in force. */
    unsigned user = s->npt_gmet && !table_access ? access & MMU_USER : MMU_USER;
    struct mmu_regs r = {.cr0 = s->npt_cr0 | CR0_PG | CR0_WP,
                         .cr3 = s->root,
                         .cr4 = (s->npt_cr4 & ~(CR4_PKE | CR4_SMEP | CR4_SMAP | CR4_PKS | CR4_PGE)) |
                                (s->npt_gmet ? CR4_SMEP : 0),
                         .efer = s->npt_efer,
                         .pdpte_in_memory = true,
                         .maxphyaddr = s->maxphyaddr,
                         .gbpages = s->gbpages,
                         .amd = true};
    struct walk w = {.m = m, .r = &r, .fault = fault, .la_valid = la_valid};
    bool lma = r.efer & EFER_LMA;
    unsigned width = lma ? (r.cr4 & CR4_LA57 ? 57 : 48) : 32;
    unsigned kind = table_access ? MMU_WRITE : access & MMU_ACCESS_MASK;
    enum mmu_fault_kind k;
    /* A guest-physical address beyond what the nested tables can translate is not present. */
    if (gpa.v & ~mask_low(width))
        k = page_fault(&w, kind | user, 0);
    else
        k = walk_tables(&w, gpa.v, kind | user | (access & MMU_PROBE), out);
    if (k == MMU_PAGE_FAULT) {
        fault->kind = MMU_NPT_FAULT;
        if (kind == MMU_EXEC && (s->npt_cr4 & CR4_SMEP)) /* a fetch is told as one with the host's NXE or its SMEP */
            fault->error |= PFEC_ID;
        fault->gpa = gpa;
        fault->la_valid = la_valid;
        fault->error |= table_access ? NPF_TABLE : NPF_FINAL;
        return fault->kind;
    }
    if (s->npt_gmet && !user && out->user)
        out->executable = false;
    out->gpa = gpa;
    return k;
}

static enum mmu_fault_kind second_walk(struct mem *m, const struct mmu_second *s, gpa_t gpa, unsigned access,
                                       bool final, bool la_valid, struct mmu_result *out, struct mmu_fault *fault)
{
    switch (s->kind) {
    case MMU_SECOND_EPT: return ept_walk(m, s, gpa, access, !final && la_valid, final, la_valid, out, fault);
    case MMU_SECOND_NPT: return npt_walk(m, s, gpa, access, !final && la_valid, la_valid, out, fault);
    case MMU_SECOND_NONE: break;
    }
    *out = (struct mmu_result){.hpa = HPA(gpa.v),
                               .gpa = gpa,
                               .page_size = PAGE_SIZE,
                               .readable = true,
                               .writable = true,
                               .sup_writable = true,
                               .user = true,
                               .executable = true};
    return MMU_OK;
}

/* Whether the second level has four levels and nothing at all in the first of them for the 512 GiB of gpa. */
static bool no_pml4_entry(struct mem *m, const struct mmu_second *s, gpa_t gpa)
{
    uint64_t e;
    if (s->kind == MMU_SECOND_EPT ? bits(s->root, 5, 3) != 3 : !(s->npt_efer & EFER_LMA) || (s->npt_cr4 & CR4_LA57))
        return false;
    return mem_read64(m, HPA((s->root & PTE_ADDR & mask_low(s->maxphyaddr)) + bits(gpa.v, 47, 39) * 8), &e) && !e;
}

/* DEVIATION: in identity mode physical addresses reach as far as a process's linear ones, farther than those of any
 * machine that a VMM expects: many map the first 512 GiB to themselves, one entry in the first table, and no more. With
 * `fold`, where that table's entry for an address is zero, the first entry's tables say for the address modulo 512 GiB
 * what is allowed; a page that they map to itself is then the very address's. (Not with page-modification logging,
 * whose log would name the wrong page.) */
enum mmu_fault_kind mmu_translate_gpa(struct mem *m, const struct mmu_second *s, gpa_t gpa, unsigned access, bool final,
                                      bool la_valid, struct mmu_result *out, struct mmu_fault *fault)
{
    enum mmu_fault_kind k = second_walk(m, s, gpa, access, final, la_valid, out, fault);
    if (likely(!s->fold) || (k != MMU_EPT_VIOLATION && k != MMU_NPT_FAULT) || !bits(gpa.v, 47, 39) || gpa.v >> 48 ||
        s->pml_index || !no_pml4_entry(m, s, gpa))
        return k;

    gpa_t low = GPA(gpa.v & mask_low(39));
    struct mmu_fault folded;
    k = second_walk(m, s, low, access, final, la_valid, out, &folded);
    if (k == MMU_OK) {
        if (out->hpa.v == low.v)
            out->hpa = HPA(gpa.v);
        out->gpa = gpa;
        return MMU_OK;
    }
    *fault = folded;
    fault->gpa = gpa;
    return k;
}

enum mmu_fault_kind mmu_translate(struct mem *m, const struct mmu_regs *r, const struct mmu_second *s, la_t la,
                                  unsigned access, struct mmu_result *out, struct mmu_fault *fault)
{
    struct walk w = {.m = m, .r = r, .s = s, .fault = fault, .la_valid = true};
    if (r->cr0 & CR0_PG) {
        enum mmu_fault_kind k = walk_tables(&w, la.v, access, out);
        if (k != MMU_OK)
            return k;
    } else {
        struct mmu_second none = {0};
        mmu_translate_gpa(m, &none, GPA(la.v & 0xffffffff), access, true, true, out, fault);
    }
    if (!s || s->kind == MMU_SECOND_NONE) {
        out->hpa = HPA(mem_address(m, out->hpa.v));
        return MMU_OK;
    }

    /* Mode-based execute control asks whether the *page* is a user page, not who fetches (SDM 3C, "EPT Violations"). */
    struct mmu_result second;
    unsigned second_access = (access & ~(unsigned)MMU_USER) | (out->user && (r->cr0 & CR0_PG) ? MMU_USER : 0);
    if (w.unverified && (r->cr0 & CR0_PG))
        second_access |= MMU_UNVERIFIED;
    if (s->kind == MMU_SECOND_NPT)
        second_access = access;
    enum mmu_fault_kind k = mmu_translate_gpa(m, s, out->gpa, second_access, true, true, &second, fault);
    if (k == MMU_EPT_VIOLATION && s->ept_advanced) {
        /* "Exit Qualification for EPT Violations": without paging a linear address is a user-mode one, of a read/write
         * page that is not execute-disable. */
        bool paging = r->cr0 & CR0_PG;
        fault->error |= (!paging || out->user ? BIT(9) : 0) | (!paging || out->read_write ? BIT(10) : 0) |
                        (paging && !out->executable ? BIT(11) : 0);
    }
    if (k != MMU_OK)
        return k;
    out->hpa = HPA(mem_address(m, second.hpa.v));
    out->page_size = MIN(out->page_size, second.page_size);
    out->readable = second.readable;
    out->writable &= second.writable;
    out->sup_writable &= second.writable;
    out->executable &= second.executable;
    out->memtype = second.memtype;
    return MMU_OK;
}

/* SDM 3A, "PDPTE Registers": bits 2:1, 8:5, 63:MAXPHYADDR of a present PDPTE are reserved. */
bool mmu_load_pdptes(struct mem *m, const struct mmu_regs *r, const struct mmu_second *s, uint64_t cr3,
                     uint64_t pdpte[4], struct mmu_fault *fault)
{
    struct walk w = {.m = m, .r = r, .s = s, .fault = fault, .la_valid = false};
    uint64_t v[4];
    *fault = (struct mmu_fault){0};
    for (unsigned i = 0; i < 4; i++) {
        hpa_t pa;
        if (table_address(&w, GPA((cr3 & 0xffffffe0) + i * 8), false, &pa) != MMU_OK)
            return false;
        mem_read64(m, pa, &v[i]);
        if ((v[i] & PTE_P) && (v[i] & (0xfff00000000001e6ull | reserved_address_bits(r->maxphyaddr)))) {
            fault->kind = MMU_PAGE_FAULT;
            return false;
        }
    }
    memcpy(pdpte, v, sizeof v);
    return true;
}
