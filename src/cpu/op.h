/* SPDX-License-Identifier: MIT
 *
 * op.h: the decoded operation and what a handler may do.
 *
 * A handler is `void f(struct cpu *c, const struct op *o)` and ends in one of these ways:
 *   NEXT(c, o);      goes on with the following operation of the block (a tail call)
 *   END(c, o);       the block ends here with rip already set by the handler (branches); o is counted as retired
 *   END_NEXT(c, o);  the block ends here, rip becomes that of the next instruction (anything that changes modes,
 * paging, interrupts) return;          after something that returned false: an exception is raised or a VM exit was
 * made Before calling any function of cpu.h that may raise, a handler sets c->cur = o (the op_ memory functions do it
 * themselves on their slow path). A block holds at most OP_BLOCK_MAX operations, which bounds the depth where calls are
 * not tail calls.
 *
 * An operation has one memory operand at most; string instructions have their own handlers.
 */
#ifndef CPU_OP_H
#define CPU_OP_H

#include "src/cpu/cpu.h"
#include "src/cpu/flags.h"

#define OP_BLOCK_MAX 64

typedef void op_fn(struct cpu *c, const struct op *o);

struct op {
    op_fn *fn;
    int64_t disp;   /* displacement (RIP-relative: folded to be relative to the block's start, base GPR_BLOCK), or a
                       64-bit immediate   when there is no memory operand */
    int32_t imm;    /* immediate, sign-extended; third register operand; or what the handler's row says */
    uint16_t ip;    /* offset of the instruction from the block's start, bytes */
    uint8_t len;    /* of the instruction, bytes */
    uint8_t n;      /* number of the instruction in the block, from 0 */
    uint8_t r0, r1; /* general registers: byte offset into gpr (AH is 1); vector, x87, mask, segment, control registers:
                       the number */
    uint8_t base, index; /* of the memory operand: index into gpr, GPR_ZERO where absent */
    uint8_t seg;         /* segment of the memory operand; SEG_NONE in 64-bit mode unless FS or GS */
    uint8_t scale;       /* 0-3 */
    uint8_t size;  /* low nibble: log2 of the operand size in bytes; high nibble: log2 of the address size in bytes */
    uint8_t flags; /* OPF_* */
};
_Static_assert(sizeof(struct op) == 40 || sizeof(struct op) == 32, "an operation is half a cache line");

enum {
    OPF_MEM = 1,    /* the r/m operand is memory */
    OPF_LEGACY = 2, /* not 64-bit mode, or a 32-bit address size in it: offset masked, segment checked */
    OPF_LOCK = 4,
    OPF_REP = 8,    /* F3 */
    OPF_REPNE = 16, /* F2 */
    OPF_O64 = 32,   /* 64-bit mode */
    OPF_SWAP = 64,  /* free for the handler's row: e.g. the register is the source, memory the destination */
    OPF_AUX = 128,  /* free for the handler's row */
};

INLINE unsigned op_size(const struct op *o)
{
    return 1u << (o->size & 15);
}
INLINE unsigned op_asize(const struct op *o)
{
    return 1u << (o->size >> 4);
}
INLINE uint64_t op_amask(const struct op *o)
{
    return mask_low(8u << (o->size >> 4));
}

#define NEXT(c, o)                                                                                                     \
    do {                                                                                                               \
        const struct op *next_ = (o) + 1;                                                                              \
        __asm__("" : "+r"(next_)); /* one register, counted up */                                                      \
        return next_->fn((c), next_);                                                                                  \
    } while (0)
#define END(c, o)                                                                                                      \
    do {                                                                                                               \
        (c)->icount += (uint64_t)(o)->n + 1;                                                                           \
        return;                                                                                                        \
    } while (0)
#define END_NEXT(c, o)                                                                                                 \
    do {                                                                                                               \
        (c)->rip = cpu_next_rip((c), (o));                                                                             \
        END(c, o);                                                                                                     \
    } while (0)

/* General registers by byte offset. Writing 32 bits clears the upper half. */
INLINE uint8_t op_r8(const struct cpu *c, unsigned r)
{
    return ((const uint8_t *)c->gpr)[r];
}
INLINE uint16_t op_r16(const struct cpu *c, unsigned r)
{
    return load16((const uint8_t *)c->gpr + r);
}
INLINE uint32_t op_r32(const struct cpu *c, unsigned r)
{
    return load32((const uint8_t *)c->gpr + r);
}
INLINE uint64_t op_r64(const struct cpu *c, unsigned r)
{
    return load64((const uint8_t *)c->gpr + r);
}
INLINE void op_set_r8(struct cpu *c, unsigned r, uint8_t v)
{
    ((uint8_t *)c->gpr)[r] = v;
}
INLINE void op_set_r16(struct cpu *c, unsigned r, uint16_t v)
{
    store16((uint8_t *)c->gpr + r, v);
}
INLINE void op_set_r32(struct cpu *c, unsigned r, uint32_t v)
{
    store64((uint8_t *)c->gpr + r, v);
}
INLINE void op_set_r64(struct cpu *c, unsigned r, uint64_t v)
{
    store64((uint8_t *)c->gpr + r, v);
}

/* Offset of the memory operand, before the address-size mask and the segment. */
INLINE uint64_t op_offset(const struct cpu *c, const struct op *o)
{
    return c->gpr[o->base] + (c->gpr[o->index] << o->scale) + (uint64_t)o->disp;
}
/* LEA's value. */
INLINE uint64_t op_ea(const struct cpu *c, const struct op *o)
{
    uint64_t ea = op_offset(c, o);
    return unlikely(o->flags & OPF_LEGACY) ? ea & op_amask(o) : ea;
}
bool op_legacy_la(struct cpu *c, const struct op *o, uint64_t offset, unsigned size, unsigned access, uint64_t *la);
/* Linear address of the memory operand displaced by `plus` (for multi-part operands); false: raised. */
INLINE bool op_la_plus(struct cpu *c, const struct op *o, uint64_t plus, unsigned size, unsigned access, uint64_t *la)
{
    uint64_t offset = op_offset(c, o) + plus;
    if (unlikely(o->flags & OPF_LEGACY))
        return op_legacy_la(c, o, offset, size, access, la);
    *la = offset + c->seg_base64[o->seg];
    return true;
}
INLINE bool op_la(struct cpu *c, const struct op *o, unsigned size, unsigned access, uint64_t *la)
{
    return op_la_plus(c, o, 0, size, access, la);
}

/* The fast path of every access. NULL: take the slow path. size: a constant up to 64. */
INLINE uint8_t *op_host(const struct cpu *c, uint64_t la, unsigned size, unsigned access)
{
    const struct tlb_entry *e = &c->tlb[tlb_slot(la)];
    return likely(la - e->tag[access] <= PAGE_SIZE - size) ? (uint8_t *)(uintptr_t)(la + e->addend) : NULL;
}
/* Slow paths: set c->cur = o, check alignment, canonical form and paging, fill the TLB. seg tells #SS from #GP. */
bool op_read_slow(struct cpu *c, const struct op *o, uint64_t la, void *buf, unsigned size);
bool op_write_slow(struct cpu *c, const struct op *o, uint64_t la, const void *buf, unsigned size);
/* Write access is checked and the present value read into buf; the write then can't fault. */
bool op_rmw_slow(struct cpu *c, const struct op *o, uint64_t la, void *buf, unsigned size);
/* After op_rmw_slow(): compare-and-swap, on plain memory within a page towards all processors. False: *seen is what was
 * found instead. */
bool op_cas_slow(struct cpu *c, const struct op *o, uint64_t la, void *seen, const void *want, unsigned size);

#define OP_ACCESS(bits_)                                                                                               \
    /* Loads from a linear address (segment base added and checked). */                                                \
    INLINE bool op_load##bits_(struct cpu *c, const struct op *o, uint64_t la, uint##bits_##_t *v)                     \
    {                                                                                                                  \
        const uint8_t *h = op_host(c, la, bits_ / 8, MMU_READ);                                                        \
        if (likely(h)) {                                                                                               \
            *v = load##bits_(h);                                                                                       \
            return true;                                                                                               \
        }                                                                                                              \
        return op_read_slow(c, o, la, v, bits_ / 8);                                                                   \
    }                                                                                                                  \
    INLINE bool op_store##bits_(struct cpu *c, const struct op *o, uint64_t la, uint##bits_##_t v)                     \
    {                                                                                                                  \
        uint8_t *h = op_host(c, la, bits_ / 8, MMU_WRITE);                                                             \
        if (likely(h)) {                                                                                               \
            store##bits_(h, v);                                                                                        \
            return true;                                                                                               \
        }                                                                                                              \
        return op_write_slow(c, o, la, &v, bits_ / 8);                                                                 \
    }                                                                                                                  \
    /* The memory operand. */                                                                                          \
    INLINE bool op_ld##bits_(struct cpu *c, const struct op *o, uint##bits_##_t *v)                                    \
    {                                                                                                                  \
        uint64_t la;                                                                                                   \
        return op_la(c, o, bits_ / 8, MMU_READ, &la) && op_load##bits_(c, o, la, v);                                   \
    }                                                                                                                  \
    INLINE bool op_st##bits_(struct cpu *c, const struct op *o, uint##bits_##_t v)                                     \
    {                                                                                                                  \
        uint64_t la;                                                                                                   \
        return op_la(c, o, bits_ / 8, MMU_WRITE, &la) && op_store##bits_(c, o, la, v);                                 \
    }
OP_ACCESS(8)
OP_ACCESS(16)
OP_ACCESS(32)
OP_ACCESS(64)
#undef OP_ACCESS

/* The memory operand of other sizes (10, 16, 32, 28, 108, 512 ... up to 4096 bytes). `align`: 0, or the alignment whose
 * lack is #GP(0). */
bool op_ld_n(struct cpu *c, const struct op *o, void *buf, unsigned size, unsigned align);
bool op_st_n(struct cpu *c, const struct op *o, const void *buf, unsigned size, unsigned align);

/* A memory operand that the processor takes in parts: far pointers, x87 images, XSAVE areas. Each part is an access of
 * its own, with an offset of its own; what no part covers is not touched. It matters at the end of the address size (64
 * KiB, 4 GiB): the parts beyond are those at offset 0 and up, while a part that reaches over the end is checked, and
 * goes on, as any access. A handler's table ends with size 0; `which` selects the rows that this execution touches. All
 * pieces are checked before one is written. */
#define OP_PART_LIMIT 0x8000u /* in `which`: only the segment's limit is looked at */
struct op_part {
    uint16_t at, size, count; /* `count` parts of `size` bytes from `at` on */
    uint16_t which;
};
struct op_pieces {
    uint64_t la[2];
    unsigned len[2]; /* the second 0: in one piece */
    unsigned from;   /* in two pieces: how many bytes of the first come before the first part */
};
bool op_parts_find(struct cpu *c, const struct op *o, unsigned size, unsigned align, unsigned access,
                   const struct op_part *parts, unsigned which, struct op_pieces *p);
bool op_parts_read(struct cpu *c, const struct op *o, const struct op_pieces *p, void *buf);
/* As op_rmw_slow(). */
bool op_parts_rmw(struct cpu *c, const struct op *o, const struct op_pieces *p, void *buf);
bool op_parts_write(struct cpu *c, const struct op *o, const struct op_pieces *p, const void *buf);
bool op_ld_parts(struct cpu *c, const struct op *o, void *buf, unsigned size, unsigned align,
                 const struct op_part *parts, unsigned which);
bool op_st_parts(struct cpu *c, const struct op *o, const void *buf, unsigned size, unsigned align,
                 const struct op_part *parts, unsigned which);

/* m16:16, m16:32, m16:64: by the operand size. */
INLINE bool op_ld_far(struct cpu *c, const struct op *o, void *buf)
{
    static const struct op_part parts[] = {{0, 2, 2, 2}, {0, 4, 1, 4}, {4, 2, 1, 4}, {0, 8, 1, 8}, {8, 2, 1, 8}, {0}};
    return op_ld_parts(c, o, buf, op_size(o) + 2, 0, parts, op_size(o));
}

/* --- the instruction table
 * ------------------------------------------------------------------------------------------------- src/cpu/insn_*.def,
 * one row for each Zydis mnemonic: INSN(MNEMONIC, feature, flags, how) feature: a name of src/arch/feature.def (#UD
 * where the model lacks it), or ALWAYS. flags: INSN_* below. how: FN(handler) one handler for all forms, which finds
 * its operands in the op as decode.c lays them out; SEL(select) a function that picks the handler for the form: op_fn
 * *select(const struct decoded *d, struct op *o). decode.c includes all tables; a mnemonic without a row is #UD and is
 * listed by the coverage test. */
enum {
    INSN_END = 1,     /* ends its block (the handler ends with END or END_NEXT) */
    INSN_CPL0 = 2,    /* #GP(0) unless CPL is 0 (checked by the handler's prologue op) */
    INSN_NO_REAL = 4, /* #UD in real and virtual-8086 mode */
    INSN_FPU = 8,     /* x87: #NM by CR0.EM/TS, #MF pending (WAIT semantics): checked by the handler */
    INSN_SSE = 16,
    INSN_NO64 = 32,     /* #UD in 64-bit mode */
    INSN_LOCKABLE = 64, /* LOCK is legal with a memory destination; else LOCK is #UD */
};

struct decoded; /* decode.h: Zydis's instruction and operands, mode, and the op under construction's helpers */

#endif
