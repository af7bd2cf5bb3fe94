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

#define JUMP_SLOTS 16384u
struct jump {
    uint64_t la;
    uint64_t key; /* of the context, and the bank's number, which is not 0; 0: none */
    struct block *block;
    uint32_t epoch;
    uint32_t limit_len; /* bytes of the block - 1 */
};

/* Where a direct branch goes within its own page: the operation after the branch is one of these. In the page of the
 * branch the translation is that of the branch, so only the code epoch has to be compared. A dead block's first
 * operation leaves it. */
struct code_link {
    op_fn *fn;
    const struct op *to[2]; /* by "taken" */
    uint32_t epoch[2];
};
_Static_assert(sizeof(struct code_link) == sizeof(struct op), "a link is an operation's place");

#define CODE_HASH_SLOTS 65536u
#define CODE_PAGE_SLOTS 4096u
/* The last instruction decoded of those that share a slot. Code that rewrites itself mostly changes one instruction of
 * a block: the others need not be decoded again. */
#define MEMO_SLOTS 1024u
struct memo {
    uint8_t bytes[15], len; /* len 0: nothing */
    uint16_t at;
    uint8_t n, code, count, result;
    struct op ops[DECODE_OPS_MAX];
};

struct code_cache {
    struct jump jump[JUMP_SLOTS]; /* cpu.jump points here */
    struct block *hash[CODE_HASH_SLOTS];
    struct code_page *page[CODE_PAGE_SLOTS];
    struct decoder decoder;
    struct memo memo[MEMO_SLOTS];
    uint8_t *arena;
    size_t arena_used;
    struct code_page *spare; /* dropped pages, used again until the next flush */
    bool flush_pending;
    uint64_t noting;                                   /* page that this processor is noting */
    struct block *uncached;                            /* room for a block that is used once: code in device memory */
    uint64_t decoded, made, flushes, killed, compared; /* statistics; decoded: instructions, the others: blocks */
};

bool code_create(struct cpu *c);
void code_destroy(struct cpu *c);

INLINE uint64_t code_la(const struct cpu *c)
{
    return likely(c->mode == MODE_64) ? c->rip : (uint32_t)(c->rip + c->seg[SEG_CS].base);
}
INLINE unsigned code_jump_slot(uint64_t la)
{
    return (unsigned)(la ^ la >> 14) & (JUMP_SLOTS - 1);
}
INLINE uint64_t code_key(const struct cpu *c)
{
    return c->bank->gen << 8 | c->fetch_key;
}
INLINE uint32_t code_epoch(const struct cpu *c)
{
    return __atomic_load_n(c->code_epoch, __ATOMIC_ACQUIRE);
}
/* The block at RIP that was found before in the same context, or NULL. */
INLINE struct block *code_lookup64(const struct cpu *c)
{
    uint64_t la = c->rip, key = code_key(c);
    const struct jump *j = &c->jump[code_jump_slot(la)];
    if (unlikely((j->la ^ la) | (j->key ^ key) | (j->epoch ^ code_epoch(c))))
        return NULL;
    return j->block;
}
INLINE struct block *code_lookup(const struct cpu *c)
{
    if (likely(c->mode == MODE_64))
        return code_lookup64(c);
    uint64_t la = code_la(c), key = code_key(c);
    const struct jump *j = &c->jump[code_jump_slot(la)];
    if (unlikely((j->la ^ la) | (j->key ^ key) | (j->epoch ^ code_epoch(c))))
        return NULL;
    return c->rip + j->limit_len > c->seg[SEG_CS].limit ? NULL : j->block;
}

/* Going on from block to block without the run loop, in 64-bit mode, at the end of a handler that has set rip and
 * counted, has no local whose address is taken, and cannot have changed a mode. Without tail calls the run loop does
 * it. */
#if defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_UNDEFINED__)
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(undefined_behavior_sanitizer)
#define CODE_NO_TAILS
#endif
#endif
#else
#define CODE_NO_TAILS
#endif

#if defined(CODE_NO_TAILS)
#define GO_ON(c)           return
#define GO_LINKED(c, o, i) return
#else
#if defined(__clang__)
#define TAIL __attribute__((musttail))
#else
#define TAIL
#endif
INLINE bool code_may_go_on(const struct cpu *c)
{
    return likely(!(__atomic_load_n(&c->attention, __ATOMIC_RELAXED) | c->stop) && c->icount < c->horizon);
}
#define GO_ON(c)                                                                                                       \
    do {                                                                                                               \
        if (unlikely(!code_may_go_on(c)))                                                                              \
            return;                                                                                                    \
        const struct block *b_ = code_lookup64(c);                                                                     \
        if (unlikely(!b_))                                                                                             \
            return;                                                                                                    \
        (c)->gpr[GPR_BLOCK] = (c)->rip;                                                                                \
        const struct op *next_ = b_->ops;                                                                              \
        TAIL return next_->fn((c), next_);                                                                             \
    } while (0)
/* i: 1 when the branch is taken. */
#define GO_LINKED(c, o, i)                                                                                             \
    do {                                                                                                               \
        const struct code_link *link_ = (const struct code_link *)((o) + 1);                                           \
        if (unlikely(!code_may_go_on(c)))                                                                              \
            return;                                                                                                    \
        if (unlikely(link_->epoch[i] != code_epoch(c)))                                                                \
            TAIL return code_link##i((c), (o));                                                                        \
        (c)->gpr[GPR_BLOCK] = (c)->rip;                                                                                \
        const struct op *next_ = link_->to[i];                                                                         \
        TAIL return next_->fn((c), next_);                                                                             \
    } while (0)
#endif
/* Goes on by the jump cache, and makes the link if that can be. */
op_fn code_link0, code_link1;
/* The end of a block that no branch ends, in 64-bit mode. */
op_fn code_fall_through;

/* The same the long way, decoding as needed. step: exactly one instruction. NULL: the fetch raised an exception or made
 * a VM exit. */
struct block *code_find(struct cpu *c, bool step);

#endif
