/* SPDX-License-Identifier: MIT
 *
 * flags.h: the arithmetic flags, computed when they are read. struct cpu describes lf_res, lf_cv and lf_aux.
 *
 * An operation leaves its result, sign-extended, and its carry-out vector: bit i is the carry (or borrow) out of bit i.
 *   addition:    (a & b) | ((a | b) & ~res)        subtraction: (~a & b) | ((~a | b) & res)
 */
#ifndef CPU_FLAGS_H
#define CPU_FLAGS_H

#include "src/cpu/cpu.h"

#define LF_SF_XOR 0x80000000u
#define LF_PF_XOR 0x40000000u

/* res sign-extended from `width` bits; cv the raw carry-out vector. */
INLINE void flags_set(struct cpu *c, uint64_t res, uint64_t cv, unsigned width)
{
    c->lf_res = res;
    c->lf_cv = cv << (64 - width);
    c->lf_aux = (uint8_t)cv;
}
/* AND, OR, XOR, TEST: CF, OF and AF are clear. */
INLINE void flags_set_logic(struct cpu *c, uint64_t res)
{
    c->lf_res = res;
    c->lf_cv = 0;
    c->lf_aux = 0;
}
INLINE uint64_t flags_add_cv(uint64_t a, uint64_t b, uint64_t res)
{
    return a ^ ((a ^ b) & (b ^ res)); /* (a & b) | ((a | b) & ~res) in fewer steps */
}
INLINE uint64_t flags_sub_cv(uint64_t a, uint64_t b, uint64_t res)
{
    return b ^ ((a ^ res) & (b ^ res)); /* (~a & b) | ((~a | b) & res) */
}

INLINE bool flag_zf(const struct cpu *c)
{
    return c->lf_res == 0;
}
INLINE bool flag_sf(const struct cpu *c)
{
    return (c->lf_res >> 63) ^ (c->lf_aux >> 31);
}
INLINE bool flag_cf(const struct cpu *c)
{
    return c->lf_cv >> 63;
}
INLINE bool flag_of(const struct cpu *c)
{
    return (c->lf_cv ^ (c->lf_cv << 1)) >> 63;
}
INLINE bool flag_af(const struct cpu *c)
{
    return c->lf_aux & 8;
}
INLINE bool flag_pf(const struct cpu *c)
{
    return !__builtin_parity((uint8_t)c->lf_res) ^ (c->lf_aux >> 30 & 1);
}
INLINE uint32_t flags_arith(const struct cpu *c)
{
    return (uint32_t)flag_cf(c) | (uint32_t)flag_pf(c) << 2 | (uint32_t)flag_af(c) << 4 | (uint32_t)flag_zf(c) << 6 |
           (uint32_t)flag_sf(c) << 7 | (uint32_t)flag_of(c) << 11;
}
/* All six from a RFLAGS image. */
INLINE void flags_set_arith(struct cpu *c, uint64_t f)
{
    bool zf = f & FLAG_ZF, pf = f & FLAG_PF, sf = f & FLAG_SF, cf = f & FLAG_CF, of = f & FLAG_OF;
    c->lf_res = !zf; /* 0: even parity; 1: odd; both with the sign clear */
    c->lf_cv = (uint64_t)cf << 63 | (uint64_t)(cf ^ of) << 62;
    c->lf_aux = (f & FLAG_AF ? 8u : 0) | (sf ? LF_SF_XOR : 0) | ((pf != zf) ? LF_PF_XOR : 0);
}
/* Only CF (STC, CLC, CMC, BT, ...): OF stays. */
INLINE void flags_set_cf(struct cpu *c, bool cf)
{
    uint64_t of = flag_of(c);
    c->lf_cv = (c->lf_cv & ~(3ull << 62)) | (uint64_t)cf << 63 | (uint64_t)(cf ^ of) << 62;
}
INLINE void flags_set_cf_of(struct cpu *c, bool cf, bool of)
{
    c->lf_cv = (uint64_t)cf << 63 | (uint64_t)(cf ^ of) << 62;
}

/* Condition codes 0-15 of Jcc, SETcc, CMOVcc. cc is a constant where it is inlined. */
INLINE bool flags_cond(const struct cpu *c, unsigned cc)
{
    bool r = false;
    switch (cc >> 1) {
    case 0: r = flag_of(c); break;
    case 1: r = flag_cf(c); break;
    case 2: r = flag_zf(c); break;
    case 3: r = (unsigned)flag_cf(c) | flag_zf(c); break;
    case 4: r = flag_sf(c); break;
    case 5: r = flag_pf(c); break;
    case 6: r = flag_sf(c) ^ flag_of(c); break;
    case 7: r = (unsigned)flag_zf(c) | (unsigned)(flag_sf(c) ^ flag_of(c)); break;
    }
    return r ^ (cc & 1);
}

#endif
