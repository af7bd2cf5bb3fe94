/* SPDX-License-Identifier: MIT
 *
 * ops_sse_str.c: string comparison of SSE4.2: PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM.
 *
 * SDM volume 2B, "Imm8 Control Byte Operation for PCMPESTRI / PCMPESTRM / PCMPISTRI / PCMPISTRM". The steps and names
 * are those of that section. The memory operand need not be aligned.
 */
#include "src/cpu/flags.h"
#include "src/cpu/simd.h"

struct string {
    int32_t e[16]; /* elements, zero- or sign-extended */
    unsigned len;  /* valid ones: at most `n` */
};

/* Elements in a register: 16 bytes or 8 words. */
INLINE unsigned elements(uint8_t imm)
{
    return imm & 1 ? 8 : 16;
}

static void unpack(struct string *s, v128 v, uint8_t imm)
{
    union lanes l = {v};
    for (unsigned i = 0; i < elements(imm); i++) {
        switch (imm & 3) {
        case 0: s->e[i] = l.b[i]; break;
        case 1: s->e[i] = l.w[i]; break;
        case 2: s->e[i] = l.sb[i]; break;
        case 3: s->e[i] = l.sw[i]; break;
        }
    }
}

/* PCMPISTRx: up to the first null. */
static void implicit_length(struct string *s, uint8_t imm)
{
    for (s->len = 0; s->len < elements(imm) && s->e[s->len]; s->len++)
        ;
}

/* PCMPESTRx: the absolute value, saturated. */
static void explicit_length(struct string *s, int64_t len, uint8_t imm)
{
    uint64_t a = len < 0 ? 0 - (uint64_t)len : (uint64_t)len;
    s->len = (unsigned)MIN(a, (uint64_t)elements(imm));
}

/* "Aggregation Operation", with "Valid/Invalid Override of Comparisons". */
static uint32_t aggregate(const struct string *a, const struct string *b, uint8_t imm)
{
    unsigned n = elements(imm);
    uint32_t r = 0;
    for (unsigned j = 0; j < n; j++) {
        bool hit = false;
        switch (imm >> 2 & 3) {
        case 0: /* equal any */
            for (unsigned i = 0; i < a->len; i++)
                hit |= j < b->len && a->e[i] == b->e[j];
            break;
        case 1: /* ranges */
            for (unsigned i = 0; i + 1 < a->len; i += 2)
                hit |= j < b->len && a->e[i] <= b->e[j] && b->e[j] <= a->e[i + 1];
            break;
        case 2: /* equal each */
            hit = j < a->len && j < b->len ? a->e[j] == b->e[j] : j >= a->len && j >= b->len;
            break;
        case 3: /* equal ordered */
            hit = true;
            for (unsigned i = 0; i + j < n && i < a->len; i++)
                hit &= i + j < b->len && a->e[i] == b->e[i + j];
            break;
        }
        r |= (uint32_t)hit << j;
    }
    return r;
}

/* IntRes2, and the flags. */
static uint32_t compare(struct cpu *c, const struct string *a, const struct string *b, uint8_t imm)
{
    unsigned n = elements(imm);
    uint32_t all = (1u << n) - 1, r = aggregate(a, b, imm);
    if (imm & 0x10) /* "Polarity"; masked: elements of the second string only */
        r ^= imm & 0x20 ? (1u << b->len) - 1 : all;
    flags_set_arith(c, (r ? FLAG_CF : 0) | (b->len < n ? FLAG_ZF : 0) | (a->len < n ? FLAG_SF : 0) |
                           (r & 1 ? FLAG_OF : 0));
    return r;
}

INLINE bool strings(struct cpu *c, const struct op *o, bool mem, struct string *a, struct string *b)
{
    v128 second;
    if (!sse_ok(c, o))
        return false;
    if (!mem)
        second = xmm_get(c, o->r1);
    else if (!sse_ld128_as(c, o, &second, 0))
        return false;
    unpack(a, xmm_get(c, o->r0), (uint8_t)o->imm);
    unpack(b, second, (uint8_t)o->imm);
    return true;
}

INLINE void put_index(struct cpu *c, uint32_t r, uint8_t imm)
{
    unsigned none = elements(imm);
    c->gpr[GPR_RCX] = !r ? none : imm & 0x40 ? 31 - (unsigned)__builtin_clz(r) : (unsigned)__builtin_ctz(r);
}

INLINE void put_mask(struct cpu *c, uint32_t r, uint8_t imm)
{
    union lanes l = {v128_q(r, 0)};
    if (imm & 0x40)
        for (unsigned i = 0; i < elements(imm); i++) {
            if (imm & 1)
                l.w[i] = r >> i & 1 ? 0xffff : 0;
            else
                l.b[i] = r >> i & 1 ? 0xff : 0;
        }
    xmm_set(c, 0, l.v);
}

/* width: of the explicit lengths in RAX and RDX, 4 or 8; 0: implicit. */
INLINE bool pcmpstr(struct cpu *c, const struct op *o, bool mem, unsigned width, bool index)
{
    struct string a, b;
    uint8_t imm = (uint8_t)o->imm;
    if (!strings(c, o, mem, &a, &b))
        return false;
    if (width) {
        explicit_length(&a, width == 8 ? (int64_t)c->gpr[GPR_RAX] : (int32_t)c->gpr[GPR_RAX], imm);
        explicit_length(&b, width == 8 ? (int64_t)c->gpr[GPR_RDX] : (int32_t)c->gpr[GPR_RDX], imm);
    } else {
        implicit_length(&a, imm);
        implicit_length(&b, imm);
    }
    uint32_t r = compare(c, &a, &b, imm);
    if (index)
        put_index(c, r, imm);
    else
        put_mask(c, r, imm);
    return true;
}

#define FORMS(X)                                                                                                       \
    X(PCMPISTRI, 0, true, i)                                                                                           \
    X(PCMPISTRM, 0, false, i)                                                                                          \
    X(PCMPESTRI, 4, true, e)                                                                                           \
    X(PCMPESTRI, 8, true, q)                                                                                           \
    X(PCMPESTRM, 4, false, e)                                                                                          \
    X(PCMPESTRM, 8, false, q)
#define FORM(mn, width, index, suffix)                                                                                 \
    HANDLER(x_rr_##mn##_##suffix)                                                                                      \
    {                                                                                                                  \
        return pcmpstr(c, o, false, width, index);                                                                     \
    }                                                                                                                  \
    HANDLER(x_rm_##mn##_##suffix)                                                                                      \
    {                                                                                                                  \
        return pcmpstr(c, o, true, width, index);                                                                      \
    }
FORMS(FORM)

op_fn *sel_PCMPISTRI(const struct decoded *d, struct op *o)
{
    return d->mem != DECODED_NO_MEM ? x_rm_PCMPISTRI_i : x_rr_PCMPISTRI_i;
}
op_fn *sel_PCMPISTRM(const struct decoded *d, struct op *o)
{
    return d->mem != DECODED_NO_MEM ? x_rm_PCMPISTRM_i : x_rr_PCMPISTRM_i;
}
op_fn *sel_PCMPESTRI(const struct decoded *d, struct op *o)
{
    if (d->in.raw.rex.W)
        return d->mem != DECODED_NO_MEM ? x_rm_PCMPESTRI_q : x_rr_PCMPESTRI_q;
    return d->mem != DECODED_NO_MEM ? x_rm_PCMPESTRI_e : x_rr_PCMPESTRI_e;
}
op_fn *sel_PCMPESTRM(const struct decoded *d, struct op *o)
{
    if (d->in.raw.rex.W)
        return d->mem != DECODED_NO_MEM ? x_rm_PCMPESTRM_q : x_rr_PCMPESTRM_q;
    return d->mem != DECODED_NO_MEM ? x_rm_PCMPESTRM_e : x_rr_PCMPESTRM_e;
}
