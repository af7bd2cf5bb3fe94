/* SPDX-License-Identifier: MIT
 *
 * tlb.c: see tlb.h. What stays valid and what goes follows SDM volume 3A, "Caching Translation Information", volume 3C,
 * "Caching Translation Information" (VPID, EPTRTA), and APM volume 2, "TLB Management" and "TLB Control".
 */
#include "src/mmu/tlb.h"

#include <stdlib.h>

static void entry_clear(struct tlb_bank *b, unsigned view, unsigned slot)
{
    struct tlb_entry *e = &b->e[view][slot];
    e->tag[MMU_READ] = e->tag[MMU_WRITE] = e->tag[MMU_EXEC] = tlb_no_tag(slot);
    b->i[view][slot].valid = false;
}

/* An executable translation may be gone: block look-ups made under the old number no longer hold. */
static void bank_renew(struct tlb *t, struct tlb_bank *b)
{
    b->gen = ++t->gen;
    memset(b->displaced, 0, sizeof b->displaced);
    b->displaced_large = false;
}

static unsigned displaced_bit(uint64_t la)
{
    return (unsigned)(la >> 12 ^ la >> 22) & (TLB_ENTRIES - 1);
}

static void displace(struct tlb_bank *b, const struct tlb_info *i)
{
    unsigned bit = displaced_bit(i->la);
    b->displaced[bit / 64] |= BIT(bit % 64);
    b->displaced_large |= i->size != PAGE_SIZE;
}

static bool was_displaced(const struct tlb_bank *b, uint64_t la)
{
    unsigned bit = displaced_bit(la & PAGE_BASE);
    return b->displaced_large || (b->displaced[bit / 64] >> bit % 64 & 1);
}

/* True: the entry went, or was none. */
static bool entry_drop(struct tlb_bank *b, unsigned view, unsigned slot, bool keep_global)
{
    const struct tlb_info *i = &b->i[view][slot];
    if (!i->valid)
        return true;
    if (keep_global && i->global)
        return false;
    entry_clear(b, view, slot);
    b->filled[view]--;
    return true;
}

static void bank_empty(struct tlb *t, struct tlb_bank *b, bool keep_global)
{
    if (b->logged <= TLB_LOG) {
        unsigned left = 0;
        for (unsigned n = 0; n < b->logged; n++)
            if (!entry_drop(b, b->log[n] / TLB_ENTRIES, b->log[n] % TLB_ENTRIES, keep_global))
                b->log[left++] = b->log[n];
        b->logged = left;
    } else {
        b->logged = 0;
        for (unsigned view = 0; view < TLB_VIEWS; view++)
            for (unsigned slot = 0; slot < TLB_ENTRIES && b->filled[view]; slot++)
                if (!entry_drop(b, view, slot, keep_global)) {
                    if (b->logged < TLB_LOG)
                        b->log[b->logged] = (uint16_t)(view * TLB_ENTRIES + slot);
                    b->logged = MIN(b->logged + 1, TLB_LOG + 1);
                }
    }
    for (unsigned view = 0; view < TLB_VIEWS; view++)
        if (!b->filled[view])
            b->large[view] = 0;
    bank_renew(t, b);
}

bool tlb_init(struct tlb *t)
{
    *t = (struct tlb){0};
    t->bank = calloc(TLB_BANKS, sizeof *t->bank);
    t->nothing = calloc(TLB_ENTRIES, sizeof *t->nothing);
    if (!t->bank || !t->nothing) {
        tlb_free(t);
        return false;
    }
    /* All other slots are empty as they are: see tlb_no_tag(). */
    for (unsigned a = 0; a < 3; a++)
        t->nothing[0].tag[a] = tlb_no_tag(0);
    for (unsigned n = 0; n < TLB_BANKS; n++) {
        for (unsigned view = 0; view < TLB_VIEWS; view++)
            entry_clear(&t->bank[n], view, 0);
        bank_renew(t, &t->bank[n]);
    }
    return true;
}

void tlb_free(struct tlb *t)
{
    free(t->bank);
    free(t->nothing);
    *t = (struct tlb){0};
}

struct tlb_bank *tlb_select(struct tlb *t, const struct tlb_context *ctx)
{
    struct tlb_bank *oldest = &t->bank[0];
    for (unsigned n = 0; n < TLB_BANKS; n++) {
        struct tlb_bank *b = &t->bank[n];
        if (b->used && b->ctx.vpid == ctx->vpid && b->ctx.pcid == ctx->pcid && b->ctx.root == ctx->root) {
            b->last_used = ++t->clock;
            return b;
        }
        if (oldest->used && (!b->used || b->last_used < oldest->last_used))
            oldest = b;
    }
    bank_empty(t, oldest, false);
    oldest->used = true;
    oldest->ctx = *ctx;
    oldest->last_used = ++t->clock;
    return oldest;
}

static uint64_t large_bit(uint64_t la)
{
    return BIT(la >> 21 & 63);
}

static uint64_t large_bits(const struct tlb_info *i)
{
    return i->size <= PAGE_SIZE ? 0 : i->size <= BIT(21) ? large_bit(i->la) : UINT64_MAX;
}

void tlb_fill(struct tlb *t, struct tlb_bank *b, enum tlb_view view, la_t la, const struct mmu_result *r,
              uint8_t *host_page, const struct tlb_grant *grant)
{
    unsigned slot = tlb_slot(la.v);
    uint64_t page = la.v & PAGE_BASE;
    struct tlb_entry *e = &b->e[view][slot];
    struct tlb_info *i = &b->i[view][slot];
    /* Another translation for a page that was executable is an invalidation, as far as block look-ups go; displacing
     * one is not. */
    if (i->valid && i->ex) {
        if (i->la != page)
            displace(b, i);
        else if (i->page.v != (r->hpa.v & PAGE_BASE) || !grant->ex)
            bank_renew(t, b);
    }
    if (!i->valid) {
        b->filled[view]++;
        if (b->logged < TLB_LOG)
            b->log[b->logged] = (uint16_t)(view * TLB_ENTRIES + slot);
        b->logged = MIN(b->logged + 1, TLB_LOG + 1);
    }
    *i = (struct tlb_info){.la = page,
                           .host = host_page,
                           .page = HPA(r->hpa.v & PAGE_BASE),
                           .gpa = GPA(r->gpa.v & PAGE_BASE),
                           .size = r->page_size,
                           .global = r->global,
                           .valid = true,
                           .rd = grant->rd,
                           .wr = grant->wr,
                           .ex = grant->ex,
                           .pkey = r->pkey,
                           .memtype = r->memtype};
    b->large[view] |= large_bits(i);
    uint64_t none = tlb_no_tag(slot);
    e->tag[MMU_READ] = host_page && grant->rd ? page : none;
    e->tag[MMU_WRITE] = host_page && grant->wr && !grant->hold_write ? page : none;
    e->tag[MMU_EXEC] = host_page && grant->ex ? page : none;
    e->addend = (uintptr_t)host_page - page;
    t->fills++;
}

void tlb_flush_all(struct tlb *t)
{
    t->tables = (struct mmu_table_cache){0};
    t->flushes++;
    for (unsigned n = 0; n < TLB_BANKS; n++)
        bank_empty(t, &t->bank[n], false);
}

void tlb_flush_bank(struct tlb *t, struct tlb_bank *b, bool keep_global)
{
    t->flushes++;
    bank_empty(t, b, keep_global);
}

/* pcid -1: any. */
static void flush_address(struct tlb *t, uint16_t vpid, int pcid, la_t la, bool all_pcids_global)
{
    t->page_flushes++;
    for (unsigned n = 0; n < TLB_BANKS; n++) {
        struct tlb_bank *b = &t->bank[n];
        if (!b->used || b->ctx.vpid != vpid)
            continue;
        bool same_pcid = pcid < 0 || b->ctx.pcid == pcid;
        if (!same_pcid && !all_pcids_global)
            continue;
        bool code = was_displaced(b, la.v);
        for (unsigned view = 0; view < TLB_VIEWS; view++) {
            if (!b->filled[view])
                continue;
            /* A large page may have left its translation in many slots: INVLPG drops them all. */
            struct tlb_info *own = &b->i[view][tlb_slot(la.v)];
            bool one = own->valid && own->la == (la.v & PAGE_BASE) && own->size == PAGE_SIZE;
            if (!one && !(b->large[view] & large_bit(la.v)))
                continue;
            unsigned first = one ? tlb_slot(la.v) : 0, last = one ? first : TLB_ENTRIES - 1;
            uint64_t left = 0;
            for (unsigned slot = first; slot <= last; slot++) {
                const struct tlb_info *i = &b->i[view][slot];
                if (!i->valid)
                    continue;
                if ((i->la & -i->size) != (la.v & -i->size) || !(same_pcid || i->global)) {
                    left |= large_bits(i);
                    continue;
                }
                code |= i->ex;
                entry_clear(b, view, slot);
                b->filled[view]--;
            }
            if (!one)
                b->large[view] = left;
        }
        if (code)
            bank_renew(t, b);
    }
}

void tlb_flush_page(struct tlb *t, const struct tlb_context *ctx, la_t la, bool all_pcids_global)
{
    flush_address(t, ctx->vpid, ctx->pcid, la, all_pcids_global);
}

void tlb_flush_address(struct tlb *t, uint16_t vpid, la_t la)
{
    flush_address(t, vpid, -1, la, true);
}

void tlb_flush_context(struct tlb *t, const struct tlb_context *ctx, bool keep_global)
{
    t->flushes++;
    for (unsigned n = 0; n < TLB_BANKS; n++) {
        struct tlb_bank *b = &t->bank[n];
        if (b->used && b->ctx.vpid == ctx->vpid && b->ctx.pcid == ctx->pcid)
            bank_empty(t, b, keep_global);
    }
}

void tlb_flush_matching(struct tlb *t, int vpid, int pcid, uint64_t root, bool any_root, bool keep_global)
{
    t->tables = (struct mmu_table_cache){0};
    t->flushes++;
    for (unsigned n = 0; n < TLB_BANKS; n++) {
        struct tlb_bank *b = &t->bank[n];
        if (b->used && (vpid < 0 || b->ctx.vpid == vpid) && (pcid < 0 || b->ctx.pcid == pcid) &&
            (any_root || b->ctx.root == root))
            bank_empty(t, b, keep_global);
    }
}

static void withdraw(struct tlb *t, bool any, hpa_t page)
{
    for (unsigned n = 0; n < TLB_BANKS; n++) {
        struct tlb_bank *b = &t->bank[n];
        for (unsigned view = 0; view < TLB_VIEWS; view++) {
            if (!b->filled[view])
                continue;
            for (unsigned slot = 0; slot < TLB_ENTRIES; slot++)
                if (b->i[view][slot].valid && (any || b->i[view][slot].page.v == page.v))
                    b->e[view][slot].tag[MMU_WRITE] = tlb_no_tag(slot);
        }
    }
}

void tlb_withdraw_write(struct tlb *t, hpa_t page)
{
    withdraw(t, false, page);
}

void tlb_withdraw_all_writes(struct tlb *t)
{
    withdraw(t, true, HPA(0));
}

void tlb_restore_write(struct tlb_bank *b, enum tlb_view view, unsigned slot, hpa_t page)
{
    const struct tlb_info *i = &b->i[view][slot];
    if (i->valid && i->wr && i->host && i->page.v == page.v)
        b->e[view][slot].tag[MMU_WRITE] = i->la;
}
