/* SPDX-License-Identifier: MIT
 *
 * code.c: the cache of decoded blocks of one processor.
 *
 * A block is the run of operations from one entry point to a branch, an instruction that ends blocks, OP_BLOCK_MAX
 * instructions, or the end of the page. It is found by (physical address, CODE_* and BLOCK_STEP), and through the jump
 * cache by linear address in a context that hasn't changed since. A direct branch within a page keeps a link to the
 * block it leads to. An instruction that crosses a page is a block of its own and remembers the physical page in which
 * it goes on.
 *
 * Code that changes (SDM volume 3A, "Handling Self- and Cross-Modifying Code"; APM volume 2, "Self-Modifying Code"):
 *
 * - This processor: a write to a page that it noted comes to code_written(), which kills the blocks that hold the very
 *   bytes. If that is the running block, the operations after the current one become op_leave_block.
 *
 * - Anyone else: the write raises the memory's code epoch; a block's bytes are compared when it is entered under
 *   another epoch than that of its last comparison. The jump cache and the links hold for one epoch.
 *
 * Invariants: a block's memory is not used again before everything is flushed, and nothing is flushed while a block
 * runs; so pointers to dead blocks stay good, and a dead block's first operation leaves it. A page with a block in it
 * is noted in struct mem.
 */
#include "src/cpu/code.h"

#include <stdlib.h>
#include <sys/mman.h>

#define ARENA_SIZE  (64u << 20)
#define SOURCE_MAX  (OP_BLOCK_MAX * 15u)
#define BLOCK_OPS   (OP_BLOCK_MAX * DECODE_OPS_MAX + 1)
#define BLOCK_BYTES (sizeof(struct block) + BLOCK_OPS * sizeof(struct op) + SOURCE_MAX)

struct code_page {
    uint64_t pa;
    struct code_page *next;
    struct block *blocks;
    uint64_t granules; /* 64 bytes each: a live block may hold bytes of it */
    unsigned idle;     /* writes since the last live block went */
};

/* A page whose code was overwritten is kept noted for so many writes: code that rewrites itself is about to run again,
 * and to note a page is to search the TLB. */
#define IDLE_WRITES 32u

static unsigned hash_slot(uint64_t pa)
{
    return (unsigned)(pa ^ pa >> 16) & (CODE_HASH_SLOTS - 1);
}
static unsigned page_slot(uint64_t pa)
{
    return (unsigned)(pa >> 12 ^ pa >> 24) & (CODE_PAGE_SLOTS - 1);
}

/* Another processor of the machine, or this one, noted a page: its write tags have to go. */
static void page_noted(void *opaque, hpa_t page)
{
    struct cpu *c = opaque;
    if (__atomic_load_n(&c->code->noting, __ATOMIC_ACQUIRE) != page.v)
        cpu_attend(c, ATT_TLB);
}

static void jumps_clear(struct code_cache *cc)
{
    memset(cc->jump, 0, sizeof cc->jump);
}

bool code_create(struct cpu *c)
{
    struct code_cache *cc = calloc(1, sizeof *cc);
    if (!cc)
        return false;
    cc->arena = mmap(NULL, ARENA_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    cc->uncached = malloc(BLOCK_BYTES);
    cc->noting = UINT64_MAX;
    c->code_epoch = mem_code_epoch_place(c->mem);
    c->jump = cc->jump;
    decoder_init(&cc->decoder, c->model);
    c->code = cc;
    if (cc->arena == MAP_FAILED || !cc->uncached || !mem_add_listener(c->mem, page_noted, c)) {
        if (cc->arena != MAP_FAILED)
            munmap(cc->arena, ARENA_SIZE);
        free(cc->uncached);
        free(cc);
        c->code = NULL;
        return false;
    }
    return true;
}

static struct code_page *page_find(const struct code_cache *cc, uint64_t pa)
{
    struct code_page *p = cc->page[page_slot(pa)];
    while (p && p->pa != pa)
        p = p->next;
    return p;
}

static struct code_page *page_get(struct cpu *c, uint64_t pa)
{
    struct code_cache *cc = c->code;
    struct code_page *p = page_find(cc, pa);
    if (p)
        return p;
    /* From the arena: a guest of identity mode may have stopped inside of malloc. build() has seen to the room. */
    p = cc->spare;
    if (p) {
        cc->spare = p->next;
    } else {
        p = (struct code_page *)(void *)(cc->arena + cc->arena_used);
        cc->arena_used += (sizeof *p + 63) & ~(size_t)63;
    }
    memset(p, 0, sizeof *p);
    p->pa = pa;
    p->next = cc->page[page_slot(pa)];
    cc->page[page_slot(pa)] = p;
    /* ORDER: the note, then the withdrawal, then the reading of the bytes: no write in between goes unseen. */
    __atomic_store_n(&cc->noting, pa, __ATOMIC_RELEASE);
    mem_code_note(c->mem, HPA(pa));
    tlb_withdraw_write(&c->tlbs, HPA(pa));
    __atomic_store_n(&cc->noting, UINT64_MAX, __ATOMIC_RELEASE);
    return p;
}

static void page_drop(struct cpu *c, struct code_page *p)
{
    struct code_page **at = &c->code->page[page_slot(p->pa)];
    while (*at != p)
        at = &(*at)->next;
    *at = p->next;
    mem_code_unnote(c->mem, HPA(p->pa));
    p->next = c->code->spare;
    c->code->spare = p;
}

static void flush_now(struct cpu *c)
{
    struct code_cache *cc = c->code;
    for (unsigned i = 0; i < CODE_PAGE_SLOTS; i++)
        while (cc->page[i])
            page_drop(c, cc->page[i]);
    memset(cc->hash, 0, sizeof cc->hash);
    memset(cc->memo, 0, sizeof cc->memo);
    jumps_clear(cc);
    cc->arena_used = 0;
    cc->spare = NULL;
    cc->flush_pending = false;
    cc->flushes++;
}

void code_flush(struct cpu *c)
{
    if (!c->code)
        return;
    jumps_clear(c->code);
    c->code->flush_pending = true;
}

void code_destroy(struct cpu *c)
{
    struct code_cache *cc = c->code;
    if (!cc)
        return;
    mem_remove_listener(c->mem, c);
    flush_now(c);
    munmap(cc->arena, ARENA_SIZE);
    free(cc->uncached);
    free(cc);
    c->code = NULL;
}

/* The part of block b that lies in page `pa`, as first and last offset. */
static void part_in_page(const struct block *b, uint64_t pa, unsigned *first, unsigned *last)
{
    unsigned in_first = (unsigned)MIN((uint64_t)b->len, PAGE_SIZE - (b->pa & PAGE_OFFSET));
    if ((b->pa & PAGE_BASE) == pa) {
        *first = b->pa & PAGE_OFFSET;
        *last = *first + in_first - 1;
    } else {
        *first = 0;
        *last = b->len - in_first - 1;
    }
}

static uint64_t granules_of(unsigned first, unsigned last)
{
    return mask_low(last / 64 + 1) & ~mask_low(first / 64);
}

static bool page_link(struct cpu *c, struct block *b, unsigned which, uint64_t pa)
{
    struct code_page *p = page_get(c, pa);
    if (!p)
        return false;
    unsigned first, last;
    part_in_page(b, pa, &first, &last);
    b->page_next[which] = p->blocks;
    p->blocks = b;
    p->granules |= granules_of(first, last);
    return true;
}

static void op_dead_block(struct cpu *c, const struct op *o)
{
    c->rip = c->gpr[GPR_BLOCK];
    c->jump[code_jump_slot(code_la(c))].key = 0;
}

/* Makes a block unreachable for entry; if it runs, it is left after the current operation. */
static void block_kill(struct cpu *c, struct block *b)
{
    struct code_cache *cc = c->code;
    if (b->dead)
        return;
    b->dead = true;
    cc->killed++;
    struct block **at = &cc->hash[hash_slot(b->pa)];
    while (*at && *at != b)
        at = &(*at)->hash_next;
    if (*at)
        *at = b->hash_next;
    b->ops[0].fn = op_dead_block; /* the jump cache may still lead here */
    if (c->cur >= b->ops && c->cur < b->ops + b->count)
        for (struct op *o = b->ops + (c->cur - b->ops) + 1; o < b->ops + b->count; o++)
            o->fn = op_leave_block;
}

/* Takes dead blocks out of the page's list and kills those that overlap [first, last]. */
static void page_written(struct cpu *c, struct code_page *p, unsigned first, unsigned last)
{
    uint64_t granules = 0;
    struct block **at = &p->blocks;
    while (*at) {
        struct block *b = *at;
        unsigned from, to;
        part_in_page(b, p->pa, &from, &to);
        if (!b->dead && from <= last && first <= to)
            block_kill(c, b);
        if (b->dead) {
            *at = b->page_next[(b->pa & PAGE_BASE) != p->pa];
            continue;
        }
        granules |= granules_of(from, to);
        at = &b->page_next[(b->pa & PAGE_BASE) != p->pa];
    }
    p->granules = granules;
    p->idle = 0;
}

bool code_noted(const struct cpu *c, hpa_t page)
{
    return page_find(c->code, page.v) != NULL;
}

void code_written(struct cpu *c, hpa_t pa, unsigned len)
{
    while (len) {
        unsigned first = pa.v & PAGE_OFFSET, part = MIN(len, PAGE_SIZE - first);
        struct code_page *p = page_find(c->code, pa.v & PAGE_BASE);
        if (p && p->granules & granules_of(first, first + part - 1))
            page_written(c, p, first, first + part - 1);
        else if (p && !p->blocks && ++p->idle > IDLE_WRITES)
            page_drop(c, p);
        pa.v += part;
        len -= part;
    }
}

/* --- building ---------------------------------------------------------------------------------------------------- */

struct source {
    uint8_t bytes[SOURCE_MAX];
    unsigned avail; /* bytes to the end of the page */
    unsigned total; /* with what follows in the next page */
    uint64_t page, page2;
    bool plain; /* all of it is plain memory */
};

/* The bytes at la in `page`; more of them than a block needs. */
static void source_read(struct cpu *c, struct source *s, hpa_t page, const uint8_t *host, unsigned offset)
{
    s->page = page.v;
    s->page2 = UINT64_MAX;
    s->plain = host;
    s->avail = PAGE_SIZE - offset;
    if (host) {
        s->total = MIN(s->avail, (unsigned)SOURCE_MAX);
        memcpy(s->bytes, host + offset, s->total);
    } else {
        s->total = MIN(s->avail, 15u); /* a device: not more than one instruction may need */
        mem_read(c->mem, HPA(page.v + offset), s->bytes, s->total);
    }
}

/* The instruction at the end of the page goes on in the next one. False: the fetch faults. */
static bool source_extend(struct cpu *c, struct source *s, uint64_t la)
{
    uint64_t next = (la & PAGE_BASE) + PAGE_SIZE;
    if (c->mode != MODE_64) {
        next = (uint32_t)next;
        if (c->rip + s->avail > c->seg[SEG_CS].limit)
            return cpu_raise(c, EXC_GP, 0);
    }
    hpa_t page;
    uint8_t *host;
    if (!cpu_fetch_page(c, LA(next), &page, &host))
        return false;
    s->page2 = page.v;
    s->plain = s->plain && host && page.v != s->page; /* one page twice: not worth tracking */
    if (s->plain && !page_get(c, page.v))             /* noted before the bytes are read */
        s->plain = false;
    if (host)
        memcpy(s->bytes + s->avail, host, 15);
    else
        mem_read(c->mem, page, s->bytes + s->avail, 15);
    s->total = s->avail + 15;
    return true;
}

static struct block *block_new(struct cpu *c, const struct source *s, unsigned offset, unsigned key,
                               const struct op *ops, unsigned count, unsigned len)
{
    struct code_cache *cc = c->code;
    struct block *b = cc->uncached;
    size_t size = sizeof *b + count * sizeof *ops + len;
    if (s->plain) {
        b = (struct block *)(cc->arena + cc->arena_used);
        cc->arena_used += (size + 63) & ~(size_t)63;
    }
    *b = (struct block){.pa = s->page + offset,
                        .pa2 = len > s->avail ? s->page2 : UINT64_MAX,
                        .len = (uint16_t)len,
                        .key = (uint16_t)key,
                        .count = (uint16_t)count,
                        .bytes = (const uint8_t *)&b->ops[count]};
    memcpy(b->ops, ops, count * sizeof *ops);
    memcpy((uint8_t *)&b->ops[count], s->bytes, len);
    return b;
}

/* --- links -------------------------------------------------------------------------------------------------------- */

/* Back to the run loop; rip is set. */
static void go_back(struct cpu *c, const struct op *o) {}
static const struct op nowhere = {.fn = go_back};

INLINE void link_by(struct cpu *c, const struct op *o, unsigned i)
{
    struct block *b = code_lookup64(c);
    if (!b)
        return;
    if (b->pa2 == UINT64_MAX && !((c->rip ^ c->gpr[GPR_BLOCK]) & PAGE_BASE)) {
        struct code_link *link = (struct code_link *)(uintptr_t)(o + 1);
        link->to[i] = b->ops;
        link->epoch[i] = b->epoch;
    }
    c->gpr[GPR_BLOCK] = c->rip;
    b->ops->fn(c, b->ops);
}
void code_link0(struct cpu *c, const struct op *o)
{
    link_by(c, o, 0);
}
void code_link1(struct cpu *c, const struct op *o)
{
    link_by(c, o, 1);
}
void code_fall_through(struct cpu *c, const struct op *o)
{
    c->rip = c->gpr[GPR_BLOCK] + o->ip;
    c->icount += o->n;
    GO_ON(c);
}

/* decode_insn(), by memory where these bytes were decoded at the same place of a block before. */
static enum decode_result decode(struct code_cache *cc, unsigned code, const uint8_t *bytes, unsigned avail,
                                 unsigned at, unsigned n, struct op out[DECODE_OPS_MAX], unsigned *count, unsigned *len)
{
    uint32_t h = bytes[0] ^ (uint32_t)bytes[avail > 1] << 4 ^ (uint32_t)bytes[avail > 2 ? 2 : 0] << 8 ^ at * 0x9e5u;
    struct memo *m = &cc->memo[(h ^ h >> 10) % MEMO_SLOTS];
    if (m->len && m->len <= avail && m->at == at && m->n == n && m->code == code && !memcmp(m->bytes, bytes, m->len)) {
        memcpy(out, m->ops, sizeof m->ops);
        *count = m->count;
        *len = m->len;
        return m->result;
    }
    enum decode_result r = decode_insn(&cc->decoder, code, bytes, avail, at, n, out, count, len);
    if (out->fn != op_raise_ud && out->fn != op_raise_gp0) { /* not what depends on how many bytes are there */
        *m = (struct memo){.len = (uint8_t)*len,
                           .at = (uint16_t)at,
                           .n = (uint8_t)n,
                           .code = (uint8_t)code,
                           .count = (uint8_t)*count,
                           .result = (uint8_t)r};
        memcpy(m->bytes, bytes, *len);
        memcpy(m->ops, out, *count * sizeof *out);
    }
    return r;
}

static struct block *build(struct cpu *c, uint64_t la, hpa_t page, const uint8_t *host, unsigned key)
{
    struct code_cache *cc = c->code;
    struct source s;
    struct op ops[BLOCK_OPS];
    unsigned offset = la & PAGE_OFFSET, count = 0, at = 0, n = 0;
    enum decode_result result = DECODE_OK;
    if (ARENA_SIZE - cc->arena_used < 2 * BLOCK_BYTES)
        flush_now(c);
    uint32_t epoch = code_epoch(c); /* ORDER: before the bytes */
    bool noted = host && page_get(c, page.v);
    source_read(c, &s, page, host, offset);
    s.plain = s.plain && noted;
    unsigned max = key & BLOCK_STEP || !s.plain ? 1 : OP_BLOCK_MAX;
    while (n < max) {
        unsigned made, len;
        enum decode_result r =
            decode(cc, key & (CODE_MODE | CODE_REAL), s.bytes + at, s.total - at, at, n, ops + count, &made, &len);
        if (r == DECODE_MORE) {
            if (n)
                break; /* it gets a block of its own, or there is no room for its bytes here */
            if (!source_extend(c, &s, la))
                return NULL;
            r = decode_insn(&cc->decoder, key & (CODE_MODE | CODE_REAL), s.bytes, MIN(s.total, 15u), 0, 0, ops, &made,
                            &len);
            if (r == DECODE_MORE) /* cannot be: 15 bytes are there */
                ops[0].fn = op_raise_gp0;
        }
        count += made;
        result = r;
        if (r == DECODE_LINK_IF && n && op_fuse_branch(&ops[count - 2], &ops[count - 1]))
            count--;
        at += len;
        n++;
        if (r != DECODE_OK || at >= s.avail)
            break;
    }
    if (result == DECODE_LINK || result == DECODE_LINK_IF) {
        struct code_link link = {.fn = op_leave_block, .to = {&nowhere, &nowhere}, .epoch = {~epoch, ~epoch}};
        memcpy(&ops[count++], &link, sizeof link);
    } else
        ops[count++] =
            (struct op){.fn = result == DECODE_OK && (key & CODE_MODE) == MODE_64 ? code_fall_through : op_leave_block,
                        .ip = (uint16_t)at,
                        .n = (uint8_t)n,
                        .base = GPR_ZERO,
                        .index = GPR_ZERO,
                        .seg = SEG_NONE};
    cc->decoded += n;
    cc->made++;
    struct block *b = block_new(c, &s, offset, key, ops, count, at);
    b->epoch = epoch;
    if (!s.plain)
        return b;
    if (!page_link(c, b, 0, page.v) || (b->pa2 != UINT64_MAX && b->pa2 != page.v && !page_link(c, b, 1, b->pa2))) {
        b->dead = true;
        return b;
    }
    b->hash_next = cc->hash[hash_slot(b->pa)];
    cc->hash[hash_slot(b->pa)] = b;
    return b;
}

/* Do the bytes in memory still say what the block was made of? */
static bool block_holds(struct cpu *c, struct block *b)
{
    uint32_t epoch = code_epoch(c);
    if (b->epoch == epoch)
        return true;
    c->code->compared++;
    unsigned first = (unsigned)MIN((uint64_t)b->len, PAGE_SIZE - (b->pa & PAGE_OFFSET));
    const uint8_t *h = mem_host(c->mem, HPA(b->pa), first, false);
    if (!h || memcmp(h, b->bytes, first))
        return false;
    if (first < b->len) {
        h = mem_host(c->mem, HPA(b->pa2), b->len - first, false);
        if (!h || memcmp(h, b->bytes + first, b->len - first))
            return false;
    }
    b->epoch = epoch;
    return true;
}

static struct block *find(struct cpu *c, bool step)
{
    struct code_cache *cc = c->code;
    uint64_t la = code_la(c);
    unsigned key = c->mode | (c->real_mode || c->vm86 ? CODE_REAL : 0) | (step ? BLOCK_STEP : 0);
    hpa_t page, page2;
    uint8_t *host, *host2;
    struct jump *j = &c->jump[code_jump_slot(la)];
    if (!step && j->la == la && j->key == code_key(c) && !j->block->dead && block_holds(c, j->block)) {
        j->epoch = j->block->epoch; /* it was the epoch alone */
        return j->block;
    }
    if (!cpu_fetch_page(c, LA(la), &page, &host))
        return NULL;
    struct block *b = host ? cc->hash[hash_slot(page.v | (la & PAGE_OFFSET))] : NULL;
    while (b) {
        struct block *next = b->hash_next;
        if (b->pa == (page.v | (la & PAGE_OFFSET)) && b->key == key) {
            if (!block_holds(c, b)) {
                block_kill(c, b);
            } else if (b->pa2 == UINT64_MAX) {
                break;
            } else {
                uint64_t la2 = (la & PAGE_BASE) + PAGE_SIZE;
                if (c->mode != MODE_64)
                    la2 = (uint32_t)la2;
                if (!cpu_fetch_page(c, LA(la2), &page2, &host2))
                    return NULL;
                if (page2.v == b->pa2)
                    break;
                block_kill(c, b);
            }
        }
        b = next;
    }
    if (!b)
        b = build(c, la, page, host, key);
    if (b && b != cc->uncached && !step && !b->dead)
        cc->jump[code_jump_slot(la)] =
            (struct jump){.la = la, .key = code_key(c), .block = b, .epoch = b->epoch, .limit_len = b->len - 1u};
    return b;
}

struct block *code_find(struct cpu *c, bool step)
{
    c->cur = NULL;
    if (unlikely(c->code->flush_pending))
        flush_now(c);
    if (likely(c->mode == MODE_64))
        return find(c, step);
    /* SDM volume 3A, "Limit Checking": the fetch of any byte beyond the limit is #GP. */
    uint32_t limit = c->seg[SEG_CS].limit;
    if (c->rip > limit) {
        cpu_raise(c, EXC_GP, 0);
        return NULL;
    }
    struct block *b = find(c, step);
    if (b && !step && c->rip + b->len - 1 > limit)
        b = find(c, true);
    if (b && c->rip + b->len - 1 > limit) {
        /* The one instruction that is left crosses the limit. (An undefined one has as many bytes as were looked at.)
         */
        cpu_raise(c, EXC_GP, 0);
        return NULL;
    }
    return b;
}
