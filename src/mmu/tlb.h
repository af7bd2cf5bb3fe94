/* SPDX-License-Identifier: MIT
 *
 * tlb.h: the software TLB: linear page to host pointer in a few host instructions, one- and two-level translation
 * alike.
 *
 * A bank holds the translations of one context (VPID or ASID, EPTP or nCR3, PCID). A processor has a few banks and runs
 * on one; changing the context picks the bank that has it, or empties the least recently used one. A bank has three
 * views: user, supervisor that SMAP keeps from user pages, supervisor that it does not; a view is a direct-mapped
 * table.
 *
 * An entry's tag for an access is the page's linear address when that access needs no further check, and an address
 * that cannot be looked up in that slot when it does: `la - tag <= 4096 - size` is then the whole test, page crossing
 * included. A translation stays until it is invalidated or displaced, whatever memory says meanwhile: as on silicon.
 */
#ifndef MMU_TLB_H
#define MMU_TLB_H

#include "src/mmu/mmu.h"

#define TLB_ENTRIES 2048u
#define TLB_BANKS   8u
#define TLB_LOG     128u
enum tlb_view { TLB_USER, TLB_SUP_SMAP, TLB_SUP, TLB_VIEWS };

struct tlb_entry {
    uint64_t tag[3]; /* by MMU_READ, MMU_WRITE, MMU_EXEC */
    uint64_t addend; /* host address - linear address */
};
/* What the fast path does not look at. */
struct tlb_info {
    uint64_t la;   /* of the page */
    uint8_t *host; /* of the page; NULL: not plain memory */
    hpa_t page;
    gpa_t gpa;
    uint64_t size; /* bytes that the mapping covers, for INVLPG */
    bool global, valid;
    bool rd, wr, ex; /* rights granted when it was filled; a tag may still be withheld (code page, MMIO) */
    uint8_t pkey, memtype;
};
struct tlb_context {
    uint16_t vpid; /* VPID or ASID; 0: not in guest mode */
    uint16_t pcid;
    uint64_t root; /* EPTP or nCR3; 0: one level */
};
struct tlb_bank {
    struct tlb_entry e[TLB_VIEWS][TLB_ENTRIES];
    struct tlb_info i[TLB_VIEWS][TLB_ENTRIES];
    struct tlb_context ctx;
    bool used;
    uint64_t last_used;
    /* A new number whenever an executable translation was invalidated; unique among all banks of the tlb. */
    uint64_t gen;
    /* Pages whose executable translation was displaced, not invalidated: block look-ups made under it still hold, and
     * an invalidation of the page must find them. A filter by page number. */
    uint64_t displaced[TLB_ENTRIES / 64];
    bool displaced_large; /* one of them belongs to a large page */
    uint32_t filled[TLB_VIEWS];
    /* Where pieces of large pages may be: a filter by the number of their 2 MiB. */
    uint64_t large[TLB_VIEWS];
    /* Where entries were made since the bank was last emptied, while they are few: emptying it costs what was filled.
     */
    uint16_t log[TLB_LOG]; /* view * TLB_ENTRIES + slot */
    unsigned logged;       /* above TLB_LOG: too many, look everywhere */
};
struct tlb {
    struct tlb_bank *bank; /* [TLB_BANKS] */
    struct mmu_table_cache tables;
    struct tlb_entry *nothing; /* a view in which every look-up misses: alignment checks, data breakpoints */
    uint64_t clock, gen;
    uint64_t fills, flushes, page_flushes; /* statistics; a flush may be of a part */
};

INLINE unsigned tlb_slot(uint64_t la)
{
    return (la >> 12) & (TLB_ENTRIES - 1);
}
/* A tag that no look-up in this slot meets: an address of another one. Mostly 0, so that a table that was never used is
 * memory that was never touched. */
INLINE uint64_t tlb_no_tag(unsigned slot)
{
    return slot ? 0 : PAGE_SIZE;
}

bool tlb_init(struct tlb *t);
void tlb_free(struct tlb *t);
/* The bank of this context, emptied if it was another's. */
struct tlb_bank *tlb_select(struct tlb *t, const struct tlb_context *ctx);
/* What is entered for a page and a view. */
struct tlb_grant {
    bool rd, wr, ex;
    bool hold_write; /* the write tag is withheld although wr: the page holds code */
};
/* Enters a translation; host_page NULL: not plain memory, so no tag is given but the information stays. */
void tlb_fill(struct tlb *t, struct tlb_bank *b, enum tlb_view view, la_t la, const struct mmu_result *r,
              uint8_t *host_page, const struct tlb_grant *grant);
/* Invalidations. Each takes what the manuals' INVLPG, INVPCID, INVVPID, INVEPT, INVLPGA, TLB_CONTROL and MOV CRn name.
 */
void tlb_flush_all(struct tlb *t);
void tlb_flush_bank(struct tlb *t, struct tlb_bank *b, bool keep_global);
/* Of this PCID, and globals of every PCID with the same VPID. Under every root: "for combined mappings, all EPTRTAs".
 */
void tlb_flush_page(struct tlb *t, const struct tlb_context *ctx, la_t la, bool all_pcids_global);
void tlb_flush_address(struct tlb *t, uint16_t vpid, la_t la);                          /* of every PCID and root */
void tlb_flush_context(struct tlb *t, const struct tlb_context *ctx, bool keep_global); /* under every root */
void tlb_flush_matching(struct tlb *t, int vpid, int pcid, uint64_t root, bool any_root,
                        bool keep_global); /* -1: any */
/* A page now holds code: withdraw its write tags everywhere. */
void tlb_withdraw_write(struct tlb *t, hpa_t page);
void tlb_withdraw_all_writes(struct tlb *t);
/* The page holds code no more: this entry, if it still is that page's, is directly writable again. */
void tlb_restore_write(struct tlb_bank *b, enum tlb_view view, unsigned slot, hpa_t page);

#endif
