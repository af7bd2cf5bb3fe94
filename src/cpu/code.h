/* SPDX-License-Identifier: MIT
 *
 * code.h: decoded blocks and the look-up from RIP to a block. See code.c.
 */
#ifndef CPU_CODE_H
#define CPU_CODE_H

#include "src/cpu/decode.h"

struct block {
    uint64_t pa;  /* physical address of the first byte */
    uint64_t pa2; /* page in which the instruction that crosses goes on; UINT64_MAX */
    struct block *hash_next;
    struct block *page_next[2];
    const uint8_t *bytes;
    uint32_t epoch; /* bytes were compared at this code epoch */
    uint16_t len;   /* bytes */
    uint16_t key;   /* CODE_* and BLOCK_STEP */
    uint16_t count; /* operations, the last one included */
    bool dead;
    struct op ops[];
};
enum { BLOCK_STEP = 8 }; /* one instruction alone */

#define JUMP_SLOTS 4096u
struct jump {
    uint64_t la, key, gen;
    struct block *block;
    uint32_t epoch, limit_len; /* limit_len: bytes of the block - 1 */
};

#define CODE_HASH_SLOTS 16384u
#define CODE_PAGE_SLOTS 4096u
struct code_cache {
    struct jump jump[JUMP_SLOTS];
    struct block *hash[CODE_HASH_SLOTS];
    struct code_page *page[CODE_PAGE_SLOTS];
    struct decoder decoder;
    uint8_t *arena;
    size_t arena_used;
    struct code_page *spare; /* dropped pages, used again until the next flush */
    struct block *running; /* the block that runs, NULL between blocks */
    bool flush_pending;
    uint64_t noting;                   /* page that this processor is noting */
    const uint32_t *epoch;             /* the memory's code epoch */
    struct block *uncached;            /* room for a block that is used once: code in device memory */
    uint64_t decoded, flushes, killed; /* statistics */
};

bool code_create(struct cpu *c);
void code_destroy(struct cpu *c);

INLINE uint64_t code_la(const struct cpu *c)
{
    return likely(c->mode == MODE_64) ? c->rip : (uint32_t)(c->rip + c->seg[SEG_CS].base);
}
INLINE unsigned code_jump_slot(uint64_t la)
{
    return (unsigned)(la ^ la >> 12) & (JUMP_SLOTS - 1);
}
/* The block at RIP that was found before in the same context, or NULL. */
INLINE struct block *code_lookup(struct cpu *c)
{
    uint64_t la = code_la(c);
    const struct jump *j = &c->code->jump[code_jump_slot(la)];
    if (unlikely(((j->la ^ la) | (j->key ^ c->fetch_key) | (j->gen ^ c->bank->gen) |
                  (j->epoch ^ __atomic_load_n(c->code->epoch, __ATOMIC_ACQUIRE)))))
        return NULL;
    if (unlikely(c->mode != MODE_64) && c->rip + j->limit_len > c->seg[SEG_CS].limit)
        return NULL;
    return j->block;
}
/* The same the long way, decoding as needed. step: exactly one instruction. NULL: the fetch raised an exception or made
 * a VM exit. */
struct block *code_find(struct cpu *c, bool step);

#endif
