/* SPDX-License-Identifier: MIT
 *
 * ops_int.h: how the integer handlers are written.
 *
 * A handler with a memory operand comes in two: the fast one (64-bit mode, TLB hit) has no stack frame and hands a miss
 * over to the slow one, which does everything by the functions of op.h and serves the legacy modes too. BODY is written
 * once.
 */
#ifndef CPU_OPS_INT_H
#define CPU_OPS_INT_H

#include "src/cpu/decode.h"

#define U(S)       uint##S##_t
#define I(S)       int##S##_t
#define SX(S, v)   ((uint64_t)(int64_t)(I(S))(v)) /* sign-extended to 64 bits */
#define R(S, r)    op_r##S(c, (r))
#define W(S, r, v) op_set_r##S(c, (r), (v))
#define MSB(S, v)  ((unsigned)((v) >> (S - 1)) & 1u)

#define ALL_SIZES(X, ...)  X(8, __VA_ARGS__) X(16, __VA_ARGS__) X(32, __VA_ARGS__) X(64, __VA_ARGS__)
#define WIDE_SIZES(X, ...) X(16, __VA_ARGS__) X(32, __VA_ARGS__) X(64, __VA_ARGS__)

INLINE uint64_t fast_la(const struct cpu *c, const struct op *o)
{
    return op_offset(c, o) + c->seg_base64[o->seg];
}
/* 64-bit mode, no index, no segment base. */
INLINE uint64_t disp_la(const struct cpu *c, const struct op *o)
{
    return c->gpr[o->base] + (uint64_t)o->disp;
}
/* The TLB's answer as a condition: cheaper than a null pointer. */
INLINE bool host_hit(const struct cpu *c, uint64_t la, unsigned size, unsigned access, uint8_t **h)
{
    const struct tlb_entry *e = &c->tlb[tlb_slot(la)];
    *h = (uint8_t *)(uintptr_t)(la + e->addend);
    return likely(la - e->tag[access] <= PAGE_SIZE - size);
}
INLINE bool is_legacy(const struct op *o)
{
    return o->flags & OPF_LEGACY;
}
/* Size index 0-3 of operand i. */
INLINE unsigned decoded_log2(const struct decoded *d, unsigned i)
{
    switch (d->op[i].size) {
    case 16: return 1;
    case 32: return 2;
    case 64: return 3;
    default: return 0;
    }
}

/* Reads the memory operand as m, then BODY. */
#define HANDLER_LOAD(S, name, BODY)                                                                                    \
    static NOINLINE void name##_slow(struct cpu *c, const struct op *o)                                                \
    {                                                                                                                  \
        {                                                                                                              \
            U(S) m;                                                                                                    \
            if (!op_ld##S(c, o, &m))                                                                                   \
                return;                                                                                                \
            BODY;                                                                                                      \
        }                                                                                                              \
        NEXT(c, o);                                                                                                    \
    }                                                                                                                  \
    static void name##_fast(struct cpu *c, const struct op *o)                                                         \
    {                                                                                                                  \
        uint8_t *h;                                                                                                    \
        if (unlikely(!host_hit(c, fast_la(c, o), S / 8, MMU_READ, &h)))                                                \
            return name##_slow(c, o);                                                                                  \
        U(S) m = load##S(h);                                                                                           \
        BODY;                                                                                                          \
        NEXT(c, o);                                                                                                    \
    }                                                                                                                  \
    static UNUSED void name##_disp(struct cpu *c, const struct op *o)                                                  \
    {                                                                                                                  \
        uint8_t *h;                                                                                                    \
        if (unlikely(!host_hit(c, disp_la(c, o), S / 8, MMU_READ, &h)))                                                \
            return name##_slow(c, o);                                                                                  \
        U(S) m = load##S(h);                                                                                           \
        BODY;                                                                                                          \
        NEXT(c, o);                                                                                                    \
    }

/* Writes VALUE to the memory operand. */
#define HANDLER_STORE(S, name, VALUE)                                                                                  \
    static NOINLINE void name##_slow(struct cpu *c, const struct op *o)                                                \
    {                                                                                                                  \
        {                                                                                                              \
            if (!op_st##S(c, o, (U(S))(VALUE)))                                                                        \
                return;                                                                                                \
            /* A device may have answered with an event: it is taken now. */                                           \
            if (unlikely(__atomic_load_n(&c->attention, __ATOMIC_RELAXED)))                                            \
                END_NEXT(c, o);                                                                                        \
        }                                                                                                              \
        NEXT(c, o);                                                                                                    \
    }                                                                                                                  \
    static void name##_fast(struct cpu *c, const struct op *o)                                                         \
    {                                                                                                                  \
        uint8_t *h;                                                                                                    \
        if (unlikely(!host_hit(c, fast_la(c, o), S / 8, MMU_WRITE, &h)))                                               \
            return name##_slow(c, o);                                                                                  \
        store##S(h, (U(S))(VALUE));                                                                                    \
        NEXT(c, o);                                                                                                    \
    }                                                                                                                  \
    static UNUSED void name##_disp(struct cpu *c, const struct op *o)                                                  \
    {                                                                                                                  \
        uint8_t *h;                                                                                                    \
        if (unlikely(!host_hit(c, disp_la(c, o), S / 8, MMU_WRITE, &h)))                                               \
            return name##_slow(c, o);                                                                                  \
        store##S(h, (U(S))(VALUE));                                                                                    \
        NEXT(c, o);                                                                                                    \
    }

/* Reads the memory operand as m; BODY makes r of it, which is written. */
#define HANDLER_RMW(S, name, BODY)                                                                                     \
    static NOINLINE void name##_slow(struct cpu *c, const struct op *o)                                                \
    {                                                                                                                  \
        {                                                                                                              \
            uint64_t la;                                                                                               \
            U(S) m, r;                                                                                                 \
            if (!op_la(c, o, S / 8, MMU_WRITE, &la))                                                                   \
                return;                                                                                                \
            uint8_t *h = op_host(c, la, S / 8, MMU_WRITE);                                                             \
            if (likely(h)) {                                                                                           \
                m = load##S(h);                                                                                        \
                BODY;                                                                                                  \
                store##S(h, r);                                                                                        \
            } else {                                                                                                   \
                if (!op_rmw_slow(c, o, la, &m, S / 8))                                                                 \
                    return;                                                                                            \
                BODY;                                                                                                  \
                if (!op_write_slow(c, o, la, &r, S / 8))                                                               \
                    return;                                                                                            \
            }                                                                                                          \
        }                                                                                                              \
        NEXT(c, o);                                                                                                    \
    }                                                                                                                  \
    static void name##_fast(struct cpu *c, const struct op *o)                                                         \
    {                                                                                                                  \
        uint8_t *h;                                                                                                    \
        if (unlikely(!host_hit(c, fast_la(c, o), S / 8, MMU_WRITE, &h)))                                               \
            return name##_slow(c, o);                                                                                  \
        U(S) m = load##S(h), r;                                                                                        \
        BODY;                                                                                                          \
        store##S(h, r);                                                                                                \
        NEXT(c, o);                                                                                                    \
    }                                                                                                                  \
    static UNUSED void name##_disp(struct cpu *c, const struct op *o)                                                  \
    {                                                                                                                  \
        uint8_t *h;                                                                                                    \
        if (unlikely(!host_hit(c, disp_la(c, o), S / 8, MMU_WRITE, &h)))                                               \
            return name##_slow(c, o);                                                                                  \
        U(S) m = load##S(h), r;                                                                                        \
        BODY;                                                                                                          \
        store##S(h, r);                                                                                                \
        NEXT(c, o);                                                                                                    \
    }

/* May the host do an atomic access of this size there? x86 can anywhere.
 * DEVIATION: on other hosts a misaligned locked access, and on all of them one that crosses a page (and CMPXCHG16B on a
 * page that holds decoded code), is atomic towards this processor alone. */
INLINE bool host_atomic(uint64_t la, unsigned size)
{
#if defined(__x86_64__)
    return true;
#else
    return !(la & (size - 1));
#endif
}
#define CAS(S, h, old, new_) __sync_val_compare_and_swap((U(S) *)(h), (U(S))(old), (U(S))(new_))

/* The same under LOCK: BODY may run several times before its r is taken. */
#define HANDLER_LOCKED(S, name, BODY)                                                                                  \
    static void name##_lock(struct cpu *c, const struct op *o)                                                         \
    {                                                                                                                  \
        {                                                                                                              \
            uint64_t la;                                                                                               \
            const uint64_t cv_before = c->lf_cv; /* ADC, SBB, INC, DEC take CF from it */                              \
            U(S) m, r;                                                                                                 \
            if (!op_la(c, o, S / 8, MMU_WRITE, &la))                                                                   \
                return;                                                                                                \
            uint8_t *h = op_host(c, la, S / 8, MMU_WRITE);                                                             \
            if (likely(h && host_atomic(la, S / 8))) {                                                                 \
                do {                                                                                                   \
                    c->lf_cv = cv_before;                                                                              \
                    m = load##S(h);                                                                                    \
                    BODY;                                                                                              \
                } while (unlikely(CAS(S, h, m, r) != m));                                                              \
            } else {                                                                                                   \
                if (!op_rmw_slow(c, o, la, &m, S / 8))                                                                 \
                    return;                                                                                            \
                do {                                                                                                   \
                    c->lf_cv = cv_before;                                                                              \
                    BODY;                                                                                              \
                } while (unlikely(!op_cas_slow(c, o, la, &m, &r, S / 8)));                                             \
            }                                                                                                          \
        }                                                                                                              \
        NEXT(c, o);                                                                                                    \
    }

#define HANDLER_REG(name, BODY)                                                                                        \
    static void name(struct cpu *c, const struct op *o)                                                                \
    {                                                                                                                  \
        BODY;                                                                                                          \
        NEXT(c, o);                                                                                                    \
    }

/* The handlers of a memory form, by size. */
struct mem_forms {
    op_fn *fast[4], *slow[4], *lock[4], *disp[4]; /* disp: none, or for disp_la() */
};
/* In 64-bit mode: base and displacement alone? */
INLINE bool is_disp(const struct op *o)
{
    return !is_legacy(o) && o->index == GPR_ZERO && (o->seg == SEG_NONE || o->seg == SEG_SS);
}
INLINE op_fn *pick_mem(const struct mem_forms *f, unsigned size, const struct op *o)
{
    if (o->flags & OPF_LOCK)
        return f->lock[size];
    if (is_legacy(o))
        return f->slow[size];
    return is_disp(o) && f->disp[size] ? f->disp[size] : f->fast[size];
}

/* The next instruction's address, and a near branch to `target` outside the fast path: truncation, canonical form, the
 * code segment's limit. False: #GP raised. */
INLINE uint64_t next_ip(const struct cpu *c, const struct op *o)
{
    return c->gpr[GPR_BLOCK] + o->ip + o->len;
}
INLINE bool canonical(const struct cpu *c, uint64_t la)
{
    return likely(sign_extend(la, 48) == la) || (c->cr4 & CR4_LA57 && sign_extend(la, 57) == la);
}
bool branch_check(struct cpu *c, const struct op *o, uint64_t *target);

/* The stack, in all modes; c->cur = o. size 2, 4, 8. */
bool sp_push(struct cpu *c, const struct op *o, uint64_t v, unsigned size);
bool sp_pop(struct cpu *c, const struct op *o, uint64_t *v, unsigned size);
INLINE uint64_t sp_mask(const struct cpu *c)
{
    return mask_low(8u * c->stack_size);
}
INLINE void sp_set(struct cpu *c, uint64_t sp)
{
    if (c->stack_size == 8)
        c->gpr[GPR_RSP] = sp;
    else if (c->stack_size == 4)
        c->gpr[GPR_RSP] = (uint32_t)sp;
    else
        op_set_r16(c, 8 * GPR_RSP, (uint16_t)sp);
}

/* A value of `size` bytes at a stack offset; false: raised. */
bool sp_load(struct cpu *c, const struct op *o, uint64_t offset, uint64_t *v, unsigned size);
bool sp_store(struct cpu *c, const struct op *o, uint64_t offset, uint64_t v, unsigned size);

#endif
