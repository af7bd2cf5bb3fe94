/* SPDX-License-Identifier: MIT
 *
 * The table walker and the TLB, each rule by the manual's section. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "src/mmu/tlb.h"

#define RAM       0x800000u
#define CR0_WP_   BIT(16)
#define CR0_PG_   BIT(31)
#define CR4_PSE_  BIT(4)
#define CR4_PAE_  BIT(5)
#define CR4_PGE_  BIT(7)
#define CR4_LA57_ BIT(12)
#define CR4_SMEP_ BIT(20)
#define CR4_SMAP_ BIT(21)
#define CR4_PKE_  BIT(22)
#define EFER_LMA_ BIT(10)
#define EFER_NXE_ BIT(11)
#define P         1u
#define W         2u
#define U         4u
#define A         0x20u
#define D         0x40u
#define PS        0x80u
#define G         0x100u
#define NX        BIT(63)

struct world {
    struct mem *m;
    struct mmu_regs r;
    struct mmu_second s;
    struct mmu_result res;
    struct mmu_fault f;
};

static void put(struct world *w, uint64_t at, uint64_t v)
{
    mem_write(w->m, HPA(at), &v, 8);
}

static uint64_t get(struct world *w, uint64_t at)
{
    uint64_t v;
    mem_read(w->m, HPA(at), &v, 8);
    return v;
}

/* 4-level tables: PML4 at 0x1000, PDPT 0x2000, PD 0x3000, PT 0x4000 for linear 0..2M; page n is at PT entry n. */
static int fresh(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    w->m = mem_create();
    mem_add_ram(w->m, HPA(0), RAM);
    w->r = (struct mmu_regs){.cr0 = CR0_PG_ | CR0_WP_ | 1,
                             .cr3 = 0x1000,
                             .cr4 = CR4_PAE_ | CR4_PGE_,
                             .efer = EFER_LMA_ | EFER_NXE_,
                             .maxphyaddr = 40,
                             .gbpages = true};
    put(w, 0x1000, 0x2000 | P | W | U);
    put(w, 0x2000, 0x3000 | P | W | U);
    put(w, 0x3000, 0x4000 | P | W | U);
    /* second-level tables, EPT by default: 0x11000.. map 0..RAM with 2-MiB pages, all rights */
    put(w, 0x11000, 0x12000 | 7);
    put(w, 0x12000, 0x13000 | 7);
    for (unsigned i = 0; i < RAM >> 21; i++)
        put(w, 0x13000 + i * 8, (uint64_t)i << 21 | PS | 6 << 3 | 7);
    w->s =
        (struct mmu_second){.kind = MMU_SECOND_NONE, .root = 0x11000 | 3 << 3 | 6, .maxphyaddr = 40, .gbpages = true};
    *state = w;
    return 0;
}

static int gone(void **state)
{
    struct world *w = *state;
    mem_destroy(w->m);
    free(w);
    return 0;
}

static enum mmu_fault_kind go(struct world *w, uint64_t la, unsigned access)
{
    return mmu_translate(w->m, &w->r, w->s.kind ? &w->s : NULL, LA(la), access, &w->res, &w->f);
}

#define expect_fault(w, la, access, kind_, error_)                                                                     \
    do {                                                                                                               \
        assert_int_equal(go(w, la, access), kind_);                                                                    \
        assert_int_equal((w)->f.error, error_);                                                                        \
    } while (0)

static void translates_and_sets_accessed_and_dirty(void **state)
{
    struct world *w = *state;
    put(w, 0x4000 + 5 * 8, 0x77000 | P | W | U);
    assert_int_equal(go(w, 0x5123, MMU_READ), MMU_OK);
    assert_int_equal(w->res.hpa.v, 0x77123);
    assert_false(w->res.writable); /* its dirty bit is still to set */
    assert_int_equal(get(w, 0x4028), 0x77000 | P | W | U | A);
    assert_int_equal(get(w, 0x1000) & (A | D), A);
    assert_int_equal(go(w, 0x5123, MMU_WRITE), MMU_OK);
    assert_true(w->res.writable);
    assert_int_equal(get(w, 0x4028), 0x77000 | P | W | U | A | D);
    assert_int_equal(get(w, 0x3000) & D, 0); /* a table's entry has no dirty bit */
}

static void a_probe_leaves_the_bits_alone(void **state)
{
    struct world *w = *state;
    put(w, 0x4028, 0x77000 | P | W | U);
    assert_int_equal(go(w, 0x5000, MMU_WRITE | MMU_PROBE), MMU_OK);
    assert_int_equal(get(w, 0x4028), 0x77000 | P | W | U);
}

static void a_faulting_walk_sets_nothing(void **state)
{
    struct world *w = *state;
    put(w, 0x4028, 0x77000 | P | U);
    expect_fault(w, 0x5000, MMU_WRITE | MMU_USER, MMU_PAGE_FAULT, 7);
    assert_int_equal(get(w, 0x4028), 0x77000 | P | U);
}

/* SDM 3A, "Page-Fault Exceptions": the error code. */
static void error_codes(void **state)
{
    struct world *w = *state;
    expect_fault(w, 0x6000, MMU_READ, MMU_PAGE_FAULT, 0);
    expect_fault(w, 0x6000, MMU_WRITE | MMU_USER, MMU_PAGE_FAULT, 6);
    expect_fault(w, 0x6000, MMU_EXEC | MMU_USER, MMU_PAGE_FAULT, 0x14);
    put(w, 0x4028, 0x77000 | P | W);
    expect_fault(w, 0x5000, MMU_READ | MMU_USER, MMU_PAGE_FAULT, 5);
    put(w, 0x4028, 0x77000 | P | W | U | NX);
    expect_fault(w, 0x5000, MMU_EXEC, MMU_PAGE_FAULT, 0x11);
    put(w, 0x4028, 0x77000 | P | W | U | BIT(45)); /* above the physical-address width */
    expect_fault(w, 0x5000, MMU_READ, MMU_PAGE_FAULT, 9);
    put(w, 0x4028, 0x77000 | P | W | U | NX);
    w->r.efer &= ~EFER_NXE_; /* bit 63 is reserved then, and the fetch bit is not reported without SMEP */
    expect_fault(w, 0x5000, MMU_EXEC, MMU_PAGE_FAULT, 9);
    w->r.cr4 |= CR4_SMEP_;
    expect_fault(w, 0x5000, MMU_EXEC, MMU_PAGE_FAULT, 0x19);
}

static void write_protect_binds_the_supervisor_only_with_wp(void **state)
{
    struct world *w = *state;
    put(w, 0x4028, 0x77000 | P);
    expect_fault(w, 0x5000, MMU_WRITE, MMU_PAGE_FAULT, 3);
    w->r.cr0 &= ~CR0_WP_;
    assert_int_equal(go(w, 0x5000, MMU_WRITE), MMU_OK);
    assert_false(w->res.writable);
    assert_true(w->res.sup_writable);
}

static void smep_and_smap(void **state)
{
    struct world *w = *state;
    put(w, 0x4028, 0x77000 | P | W | U);
    w->r.cr4 |= CR4_SMEP_ | CR4_SMAP_;
    expect_fault(w, 0x5000, MMU_EXEC, MMU_PAGE_FAULT, 0x11);
    assert_int_equal(go(w, 0x5000, MMU_EXEC | MMU_USER), MMU_OK);
    expect_fault(w, 0x5000, MMU_READ, MMU_PAGE_FAULT, 1);
    w->r.ac = true;
    assert_int_equal(go(w, 0x5000, MMU_READ), MMU_OK);
    expect_fault(w, 0x5000, MMU_READ | MMU_IMPLICIT, MMU_PAGE_FAULT,
                 1); /* RFLAGS.AC does not help an implicit access */
}

/* SDM 3A, "Protection Keys". */
static void protection_keys(void **state)
{
    struct world *w = *state;
    put(w, 0x4028, 0x77000 | P | W | U | 3ull << 59);
    w->r.cr4 |= CR4_PKE_;
    w->r.pkru = 1u << 6; /* access-disable for key 3 */
    expect_fault(w, 0x5000, MMU_READ | MMU_USER, MMU_PAGE_FAULT, 0x25);
    assert_int_equal(go(w, 0x5000, MMU_EXEC | MMU_USER), MMU_OK);
    w->r.pkru = 2u << 6; /* write-disable */
    assert_int_equal(go(w, 0x5000, MMU_READ | MMU_USER), MMU_OK);
    expect_fault(w, 0x5000, MMU_WRITE | MMU_USER, MMU_PAGE_FAULT, 0x27);
    /* The PK flag says so beside another cause. */
    put(w, 0x4028, 0x77000 | P | U | 3ull << 59);
    expect_fault(w, 0x5000, MMU_WRITE | MMU_USER, MMU_PAGE_FAULT, 0x27);
    w->r.pkru = 0;
    expect_fault(w, 0x5000, MMU_WRITE | MMU_USER, MMU_PAGE_FAULT, 7);
    w->r.pkru = 2u << 6;
    put(w, 0x4028, 0x77000 | P | W | U | 3ull << 59);
    w->r.cr0 &= ~CR0_WP_;
    assert_int_equal(go(w, 0x5000, MMU_WRITE), MMU_OK);
}

static void large_pages(void **state)
{
    struct world *w = *state;
    put(w, 0x3008, 0x400000 | P | W | U | PS | G);
    assert_int_equal(go(w, 0x212345, MMU_READ), MMU_OK);
    assert_int_equal(w->res.hpa.v, 0x412345);
    assert_int_equal(w->res.page_size, 0x200000);
    assert_true(w->res.global);
    put(w, 0x3008, 0x402000 | P | W | U | PS); /* bits 20:13 are reserved, bit 12 is PAT */
    expect_fault(w, 0x212345, MMU_READ, MMU_PAGE_FAULT, 9);
    put(w, 0x2008, 0x40000000 | P | W | U | PS);
    assert_int_equal(go(w, 0x40000123, MMU_READ), MMU_OK);
    assert_int_equal(w->res.hpa.v, 0x40000123);
    w->r.gbpages = false;
    expect_fault(w, 0x40000123, MMU_READ, MMU_PAGE_FAULT, 9);
    put(w, 0x1008, 0x2000 | P | W | U | PS); /* reserved in a PML4E */
    expect_fault(w, BIT(39), MMU_READ, MMU_PAGE_FAULT, 9);
}

static void five_levels(void **state)
{
    struct world *w = *state;
    put(w, 0x9000 + 8 * 2, 0x1000 | P | W | U);
    put(w, 0x4028, 0x77000 | P | W | U);
    w->r.cr3 = 0x9000;
    w->r.cr4 |= CR4_LA57_;
    assert_int_equal(go(w, (2ull << 48) | 0x5678, MMU_READ), MMU_OK);
    assert_int_equal(w->res.hpa.v, 0x77678);
}

static void pae_paging(void **state)
{
    struct world *w = *state;
    w->r.efer = EFER_NXE_;
    w->r.pdpte[1] = 0x3000 | P;
    put(w, 0x4028, 0x77000 | P | W | U);
    assert_int_equal(go(w, 0x40005abc, MMU_READ), MMU_OK);
    assert_int_equal(w->res.hpa.v, 0x77abc);
    expect_fault(w, 0x5abc, MMU_READ, MMU_PAGE_FAULT, 0);
    put(w, 0x4028, 0x77000 | P | W | U | BIT(55)); /* ignored with 4 levels, reserved with PAE */
    expect_fault(w, 0x40005abc, MMU_READ, MMU_PAGE_FAULT, 9);
}

static void pdptes_are_checked_when_they_are_loaded(void **state)
{
    struct world *w = *state;
    uint64_t pdpte[4] = {0};
    put(w, 0x5020, 0x3000 | P);
    put(w, 0x5028, 0x1e6); /* not present: nothing is checked */
    put(w, 0x5030, 0);
    put(w, 0x5038, 0x4000 | P);
    assert_true(mmu_load_pdptes(w->m, &w->r, NULL, 0x5020, pdpte, &w->f));
    assert_int_equal(pdpte[3], 0x4001);
    put(w, 0x5038, 0x4000 | P | W); /* bits 2:1 are reserved */
    assert_false(mmu_load_pdptes(w->m, &w->r, NULL, 0x5020, pdpte, &w->f));
}

static void legacy_paging(void **state)
{
    struct world *w = *state;
    uint32_t pde = 0x7000 | P | W | U, pte = 0x66000 | P | W | U;
    w->r.efer = 0;
    w->r.cr4 = CR4_PSE_;
    w->r.cr3 = 0x6000;
    mem_write(w->m, HPA(0x6000 + 4), &pde, 4);
    mem_write(w->m, HPA(0x7000 + 12), &pte, 4);
    assert_int_equal(go(w, 0x403abc, MMU_WRITE), MMU_OK);
    assert_int_equal(w->res.hpa.v, 0x66abc);
    mem_read(w->m, HPA(0x700c), &pte, 4);
    assert_int_equal(pte, 0x66000 | P | W | U | A | D);
    pde = 0x400000 | P | W | U | PS | 1u << 13; /* PSE-36: address bit 32 */
    mem_write(w->m, HPA(0x6008), &pde, 4);
    assert_int_equal(go(w, 0x812345, MMU_READ), MMU_OK);
    assert_true(w->res.hpa.v == (BIT(32) | 0x412345));
    assert_int_equal(w->res.page_size, 0x400000);
    pde |= BIT(21);
    mem_write(w->m, HPA(0x6008), &pde, 4);
    expect_fault(w, 0x812345, MMU_READ, MMU_PAGE_FAULT, 9);
}

static void tables_outside_memory_do_not_reach_the_host(void **state)
{
    struct world *w = *state;
    put(w, 0x3000, 0xfffff00000 | P | W | U);
    assert_int_equal(go(w, 0x5000, MMU_WRITE), MMU_PAGE_FAULT);
    w->r.cr3 = 0xfffffff000;
    assert_int_equal(go(w, 0x5000, MMU_READ), MMU_PAGE_FAULT);
}

/* SDM 3C, "EPT Violations": bits 0-2 what, 3-5 what the entries allow, 7 linear address valid, 8 final translation. */
static void ept_violation_qualification(void **state)
{
    struct world *w = *state;
    w->s.kind = MMU_SECOND_EPT;
    put(w, 0x4028, 0x277000 | P | W | U | A | D);
    assert_int_equal(go(w, 0x5123, MMU_WRITE), MMU_OK);
    assert_int_equal(w->res.hpa.v, 0x277123);
    put(w, 0x13008, 0x200000 | PS | 6 << 3 | 1); /* read only */
    expect_fault(w, 0x5123, MMU_WRITE, MMU_EPT_VIOLATION, BIT(1) | BIT(3) | BIT(7) | BIT(8));
    assert_int_equal(w->f.gpa.v, 0x277123);
    expect_fault(w, 0x5123, MMU_EXEC, MMU_EPT_VIOLATION, BIT(2) | BIT(3) | BIT(7) | BIT(8));
    put(w, 0x13008, 0);
    expect_fault(w, 0x5123, MMU_READ, MMU_EPT_VIOLATION, BIT(0) | BIT(7) | BIT(8));
    put(w, 0x13000, 0); /* the guest's own tables are not mapped */
    expect_fault(w, 0x5123, MMU_READ, MMU_EPT_VIOLATION, BIT(0) | BIT(7));
    assert_int_equal(w->f.gpa.v, 0x1000);
}

static void ept_table_that_cannot_take_an_accessed_bit(void **state)
{
    struct world *w = *state;
    w->s.kind = MMU_SECOND_EPT;
    put(w, 0x4028, 0x277000 | P | W | U);
    put(w, 0x13000, 0x0 | PS | 6 << 3 | 1); /* the guest's tables are read only */
    assert_int_equal(go(w, 0x5123, MMU_READ), MMU_EPT_VIOLATION);
    assert_int_equal(w->f.error & 0x1ff, BIT(0) | BIT(1) | BIT(3) | BIT(7)); /* a read-modify-write */
    /* With EPT's accessed and dirty flags on, reading a guest's table counts as a write, and both bits are set. */
    w->s.root |= BIT(6);
    assert_int_equal(go(w, 0x5123, MMU_READ), MMU_EPT_VIOLATION);
    assert_int_equal(w->f.error & 0x1ff, BIT(0) | BIT(1) | BIT(3) | BIT(7));
}

static void ept_misconfigurations(void **state)
{
    struct world *w = *state;
    static const uint64_t wrong[] = {
        0x200000 | PS | 6 << 3 | 2, /* writable, not readable */
        0x200000 | PS | 6 << 3 | 4, /* execute only, which this processor does not offer */
        0x200000 | PS | 2 << 3 | 7, /* memory type 2, 3, 7 */
        0x200000 | PS | 3 << 3 | 7,
        0x200000 | PS | 7 << 3 | 7,
        0x201000 | PS | 6 << 3 | 7,           /* address bits within the page */
        0x200000 | PS | 6 << 3 | 7 | BIT(45), /* beyond the physical-address width */
        0x14000 | 1 << 3 | 7,                 /* reserved bits of an entry that points to a table */
    };
    w->s.kind = MMU_SECOND_EPT;
    put(w, 0x4028, 0x277000 | P | W | U | A | D);
    for (unsigned i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        put(w, 0x13008, wrong[i]);
        assert_int_equal(go(w, 0x5000, MMU_READ), MMU_EPT_MISCONFIG);
        assert_int_equal(w->f.gpa.v, 0x277000);
    }
    w->s.ept_exec_only = true;
    put(w, 0x13008, wrong[1]);
    assert_int_equal(go(w, 0x5000, MMU_EXEC), MMU_OK);
    assert_false(w->res.readable);
    expect_fault(w, 0x5000, MMU_READ, MMU_EPT_VIOLATION, BIT(0) | BIT(5) | BIT(7) | BIT(8));
}

static void ept_accessed_and_dirty(void **state)
{
    struct world *w = *state;
    w->s.kind = MMU_SECOND_EPT;
    w->s.root |= BIT(6);
    put(w, 0x4028, 0x277000 | P | W | U | A | D);
    assert_int_equal(go(w, 0x5000, MMU_READ), MMU_OK);
    assert_int_equal(get(w, 0x13008) & 0x300, 0x100);
    assert_false(w->res.writable);
    assert_int_equal(get(w, 0x13000) & 0x300, 0x300); /* the tables' page counts as written */
    assert_int_equal(go(w, 0x5000, MMU_WRITE), MMU_OK);
    assert_int_equal(get(w, 0x13008) & 0x300, 0x300);
}

/* SDM 3C, "Guest-Physical Mappings": where the guest's tables lie is remembered, for one EPTP and what it granted,
 * until it is invalidated. On AMD the ASID is part of it: who takes another one sees the tables anew. */
static void where_tables_lie_is_remembered_until_invalidated(void **state)
{
    struct world *w = *state;
    struct tlb t;
    assert_true(tlb_init(&t));
    w->s.kind = MMU_SECOND_EPT;
    w->s.tables = &t.tables;
    put(w, 0x13000, 0 | PS | 6 << 3 | 1); /* the tables' page: read only, which reading a table needs */
    put(w, 0x4028, 0x277000 | P | W | U | A);
    put(w, 0x1000, get(w, 0x1000) | A), put(w, 0x2000, get(w, 0x2000) | A), put(w, 0x3000, get(w, 0x3000) | A);
    assert_int_equal(go(w, 0x5000, MMU_READ), MMU_OK);
    assert_int_equal(go(w, 0x5000, MMU_WRITE), MMU_EPT_VIOLATION); /* setting D: a grant to read is none to write */
    put(w, 0x13000, 0);
    assert_int_equal(go(w, 0x5000, MMU_READ), MMU_OK);
    struct mmu_second other = w->s;
    w->s.root |= 1 << 6; /* another EPTP */
    assert_int_equal(go(w, 0x5000, MMU_READ), MMU_EPT_VIOLATION);
    w->s = other;
    w->s.asid = 7;
    assert_int_equal(go(w, 0x5000, MMU_READ), MMU_EPT_VIOLATION);
    w->s = other;
    tlb_flush_matching(&t, -1, -1, w->s.root, false, false); /* INVEPT */
    assert_int_equal(go(w, 0x5000, MMU_READ), MMU_EPT_VIOLATION);
    tlb_free(&t);
}

/* APM 2, "Nested versus Guest Page Faults, Fault Ordering". */
static void nested_faults(void **state)
{
    struct world *w = *state;
    w->s = (struct mmu_second){.kind = MMU_SECOND_NPT,
                               .root = 0x11000,
                               .npt_cr0 = CR0_PG_ | 1,
                               .npt_cr4 = CR4_PAE_,
                               .npt_efer = EFER_LMA_ | EFER_NXE_,
                               .maxphyaddr = 40,
                               .gbpages = true};
    for (unsigned i = 0; i < RAM >> 21; i++)
        put(w, 0x13000 + i * 8, (uint64_t)i << 21 | PS | P | W | U);
    put(w, 0x4028, 0x277000 | P | W | U | A | D);
    assert_int_equal(go(w, 0x5123, MMU_WRITE), MMU_OK);
    assert_int_equal(w->res.hpa.v, 0x277123);
    assert_int_equal(get(w, 0x13008) & (A | D), A | D);
    put(w, 0x13008, 0x200000 | PS | P | U);
    expect_fault(w, 0x5123, MMU_WRITE, MMU_NPT_FAULT, BIT(32) | 7);
    put(w, 0x13008, 0x200000 | PS | P | W); /* every nested access is a user's */
    expect_fault(w, 0x5123, MMU_READ, MMU_NPT_FAULT, BIT(32) | 5);
    put(w, 0x13008, 0);
    expect_fault(w, 0x5123, MMU_EXEC, MMU_NPT_FAULT, BIT(32) | 0x14);
    put(w, 0x13000, 0); /* the walk of a guest's table is a write */
    expect_fault(w, 0x5123, MMU_READ, MMU_NPT_FAULT, BIT(33) | 6);
    assert_int_equal(w->f.gpa.v, 0x1000);
}

static void without_paging_addresses_are_32_bits(void **state)
{
    struct world *w = *state;
    w->r.cr0 = 1;
    assert_int_equal(go(w, 0x123456, MMU_WRITE), MMU_OK);
    assert_int_equal(w->res.hpa.v, 0x123456);
    assert_true(w->res.writable);
}

/* --- TLB
 * -------------------------------------------------------------------------------------------------------------------
 */

struct tworld {
    struct tlb t;
    struct tlb_bank *b;
    uint8_t host[4096];
};

static int tlb_fresh(void **state)
{
    struct tworld *w = calloc(1, sizeof *w);
    struct tlb_context ctx = {0, 1, 0};
    assert_true(tlb_init(&w->t));
    w->b = tlb_select(&w->t, &ctx);
    *state = w;
    return 0;
}

static int tlb_gone(void **state)
{
    struct tworld *w = *state;
    tlb_free(&w->t);
    free(w);
    return 0;
}

static void fill(struct tworld *w, struct tlb_bank *b, uint64_t la, uint64_t pa, uint64_t size, bool global, bool write)
{
    struct mmu_result r = {.hpa = HPA(pa), .gpa = GPA(pa), .page_size = size, .global = global};
    struct tlb_grant g = {.rd = true, .wr = write, .ex = true};
    tlb_fill(&w->t, b, TLB_SUP, LA(la), &r, w->host, &g);
}

static bool hit(const struct tlb_bank *b, uint64_t la, unsigned size, unsigned access)
{
    return la - b->e[TLB_SUP][tlb_slot(la)].tag[access] <= PAGE_SIZE - size;
}

static void a_tag_admits_what_lies_in_the_page(void **state)
{
    struct tworld *w = *state;
    fill(w, w->b, 0x5000, 0x9000, PAGE_SIZE, false, false);
    assert_true(hit(w->b, 0x5000, 8, MMU_READ));
    assert_true(hit(w->b, 0x5ff8, 8, MMU_READ));
    assert_false(hit(w->b, 0x5ff9, 8, MMU_READ)); /* it crosses */
    assert_false(hit(w->b, 0x5000, 8, MMU_WRITE));
    assert_false(hit(w->b, 0x5000 + TLB_ENTRIES * 4096ull, 8, MMU_READ)); /* same slot, other page */
    assert_int_equal(0x5008 + w->b->e[TLB_SUP][5].addend, (uintptr_t)w->host + 8);
}

static void nothing_hits_in_an_empty_view(void **state)
{
    struct tworld *w = *state;
    for (uint64_t page = 0; page < 2 * TLB_ENTRIES; page++)
        for (unsigned a = 0; a < 3; a++) {
            assert_false(hit(w->b, page << 12, 1, a));
            assert_false(hit(w->b, (page << 12) + 4095, 1, a));
            assert_false(hit(w->b, (page << 12) | BIT(63), 1, a));
        }
}

static void invlpg_drops_every_piece_of_a_large_page(void **state)
{
    struct tworld *w = *state;
    fill(w, w->b, 0x200000, 0x400000, 0x200000, false, true);
    fill(w, w->b, 0x2ff000, 0x4ff000, 0x200000, false, true);
    fill(w, w->b, 0x400000, 0x600000, PAGE_SIZE, false, true);
    uint64_t gen = w->b->gen;
    tlb_flush_page(&w->t, &w->b->ctx, LA(0x234567), false);
    assert_false(hit(w->b, 0x200000, 1, MMU_READ));
    assert_false(hit(w->b, 0x2ff000, 1, MMU_READ));
    assert_true(hit(w->b, 0x400000, 1, MMU_READ));
    assert_true(w->b->gen != gen);
}

static void globals_survive_where_the_manual_says(void **state)
{
    struct tworld *w = *state;
    fill(w, w->b, 0x1000, 0x9000, PAGE_SIZE, true, true);
    fill(w, w->b, 0x2000, 0xa000, PAGE_SIZE, false, true);
    tlb_flush_bank(&w->t, w->b, true);
    assert_true(hit(w->b, 0x1000, 1, MMU_READ));
    assert_false(hit(w->b, 0x2000, 1, MMU_READ));
    tlb_flush_bank(&w->t, w->b, false);
    assert_false(hit(w->b, 0x1000, 1, MMU_READ));
}

static void emptying_reaches_every_entry_however_many(void **state)
{
    struct tworld *w = *state;
    for (unsigned count = 1; count < TLB_ENTRIES; count = count * 3 + 1) {
        for (unsigned n = 0; n < count; n++)
            fill(w, w->b, 0x1000 + n * 4096ull, 0x9000, PAGE_SIZE, n % 2, true);
        tlb_flush_bank(&w->t, w->b, true);
        for (unsigned n = 0; n < count; n++)
            assert_int_equal(hit(w->b, 0x1000 + n * 4096ull, 1, MMU_READ), n % 2);
        tlb_flush_bank(&w->t, w->b, false);
        for (unsigned n = 0; n < count; n++)
            assert_false(hit(w->b, 0x1000 + n * 4096ull, 1, MMU_READ));
    }
}

static void invlpg_reaches_the_globals_of_other_pcids(void **state)
{
    struct tworld *w = *state;
    struct tlb_context two = {0, 2, 0}, guest = {7, 1, 0};
    struct tlb_bank *b2 = tlb_select(&w->t, &two), *g = tlb_select(&w->t, &guest);
    fill(w, b2, 0x1000, 0x9000, PAGE_SIZE, true, true);
    fill(w, b2, 0x2000, 0xa000, PAGE_SIZE, false, true);
    fill(w, g, 0x1000, 0xb000, PAGE_SIZE, true, true);
    tlb_flush_page(&w->t, &w->b->ctx, LA(0x1000), true);
    tlb_flush_page(&w->t, &w->b->ctx, LA(0x2000), true);
    assert_false(hit(b2, 0x1000, 1, MMU_READ));
    assert_true(hit(b2, 0x2000, 1, MMU_READ)); /* another PCID's own page */
    assert_true(hit(g, 0x1000, 1, MMU_READ));  /* another VPID's */
}

static void contexts_keep_their_translations(void **state)
{
    struct tworld *w = *state;
    struct tlb_context a = {3, 0, 0x5000}, b = {4, 0, 0x5000};
    fill(w, tlb_select(&w->t, &a), 0x1000, 0x9000, PAGE_SIZE, false, true);
    assert_false(hit(tlb_select(&w->t, &b), 0x1000, 1, MMU_READ));
    assert_true(hit(tlb_select(&w->t, &a), 0x1000, 1, MMU_READ));
    tlb_flush_matching(&w->t, 3, -1, 0, true, false);
    assert_false(hit(tlb_select(&w->t, &a), 0x1000, 1, MMU_READ));
}

static void more_contexts_than_banks_take_the_oldest(void **state)
{
    struct tworld *w = *state;
    for (unsigned n = 1; n <= TLB_BANKS; n++) {
        struct tlb_context ctx = {(uint16_t)n, 0, 0};
        fill(w, tlb_select(&w->t, &ctx), 0x1000, 0x9000, PAGE_SIZE, false, true);
    }
    struct tlb_context first = {0, 1, 0}, second = {2, 0, 0};
    assert_true(hit(tlb_select(&w->t, &second), 0x1000, 1, MMU_READ));
    assert_false(hit(tlb_select(&w->t, &first), 0x1000, 1, MMU_READ));
}

static void a_code_page_loses_its_write_tags_and_gets_them_back(void **state)
{
    struct tworld *w = *state;
    fill(w, w->b, 0x1000, 0x9000, PAGE_SIZE, false, true);
    fill(w, w->b, 0x3000, 0x9000, PAGE_SIZE, false, true); /* an alias */
    fill(w, w->b, 0x2000, 0xa000, PAGE_SIZE, false, true);
    tlb_withdraw_write(&w->t, HPA(0x9000));
    assert_false(hit(w->b, 0x1000, 1, MMU_WRITE));
    assert_false(hit(w->b, 0x3000, 1, MMU_WRITE));
    assert_true(hit(w->b, 0x1000, 1, MMU_READ));
    assert_true(hit(w->b, 0x2000, 1, MMU_WRITE));
    tlb_restore_write(w->b, TLB_SUP, tlb_slot(0x1000), HPA(0x9000));
    assert_true(hit(w->b, 0x1000, 1, MMU_WRITE));
    tlb_restore_write(w->b, TLB_SUP, tlb_slot(0x3000), HPA(0xa000)); /* the slot has another page meanwhile */
    assert_false(hit(w->b, 0x3000, 1, MMU_WRITE));
}

static void a_displaced_executable_page_is_still_invalidated(void **state)
{
    struct tworld *w = *state;
    fill(w, w->b, 0x1000, 0x9000, PAGE_SIZE, false, true);
    uint64_t gen = w->b->gen;
    fill(w, w->b, 0x1000 + TLB_ENTRIES * 4096ull, 0xa000, PAGE_SIZE, false, true); /* the same slot */
    assert_true(w->b->gen == gen); /* what was looked up under it still holds */
    tlb_flush_page(&w->t, &w->b->ctx, LA(0x5000), false);
    assert_true(w->b->gen == gen);
    tlb_flush_page(&w->t, &w->b->ctx, LA(0x1000), false);
    assert_true(w->b->gen != gen);
}

static void a_changed_executable_translation_is_an_invalidation(void **state)
{
    struct tworld *w = *state;
    fill(w, w->b, 0x1000, 0x9000, PAGE_SIZE, false, true);
    uint64_t gen = w->b->gen;
    fill(w, w->b, 0x1000, 0x9000, PAGE_SIZE, false, true);
    assert_true(w->b->gen == gen);
    fill(w, w->b, 0x1000, 0xa000, PAGE_SIZE, false, true);
    assert_true(w->b->gen != gen);
}

int main(void)
{
#define T(f)  cmocka_unit_test_setup_teardown(f, fresh, gone)
#define TT(f) cmocka_unit_test_setup_teardown(f, tlb_fresh, tlb_gone)
    const struct CMUnitTest tests[] = {
        T(translates_and_sets_accessed_and_dirty),
        T(a_probe_leaves_the_bits_alone),
        T(a_faulting_walk_sets_nothing),
        T(error_codes),
        T(write_protect_binds_the_supervisor_only_with_wp),
        T(smep_and_smap),
        T(protection_keys),
        T(large_pages),
        T(five_levels),
        T(pae_paging),
        T(pdptes_are_checked_when_they_are_loaded),
        T(legacy_paging),
        T(tables_outside_memory_do_not_reach_the_host),
        T(ept_violation_qualification),
        T(ept_table_that_cannot_take_an_accessed_bit),
        T(ept_misconfigurations),
        T(ept_accessed_and_dirty),
        T(where_tables_lie_is_remembered_until_invalidated),
        T(nested_faults),
        T(without_paging_addresses_are_32_bits),
        TT(a_tag_admits_what_lies_in_the_page),
        TT(nothing_hits_in_an_empty_view),
        TT(invlpg_drops_every_piece_of_a_large_page),
        TT(globals_survive_where_the_manual_says),
        TT(invlpg_reaches_the_globals_of_other_pcids),
        TT(contexts_keep_their_translations),
        TT(emptying_reaches_every_entry_however_many),
        TT(a_displaced_executable_page_is_still_invalidated),
        TT(a_changed_executable_translation_is_an_invalidation),
        TT(more_contexts_than_banks_take_the_oldest),
        TT(a_code_page_loses_its_write_tags_and_gets_them_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
