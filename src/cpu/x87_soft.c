/* SPDX-License-Identifier: MIT
 *
 * x87_soft.c: x87 computations in integers, for hosts that are not x86-64; see x87.h.
 *
 * Everything but the transcendental instructions has silicon's bits. These (fp_trans.c) give the correctly rounded
 * results, silicon's to within an ulp (docs/SPEC.md), and all of silicon's flags.
 */
#include "src/cpu/fp_trans.h"
#include "src/cpu/x87.h"

#if !defined(__x86_64__) || defined(VMENTER_SOFT_FP)

typedef unsigned __int128 u128;

void x87_begin(struct x87_env *e, uint16_t cw, uint16_t sw)
{
    e->cw = cw;
}
void x87_end(const struct x87_env *e, uint16_t sw) {}

static struct fp_env env_of(const struct x87_env *e)
{
    return (struct fp_env){.rc = e->cw >> 10 & 3,
                           .x87 = true,
                           .wrap = 24576,
                           .unmasked_oe = !(e->cw & FP_OE),
                           .unmasked_ue = !(e->cw & FP_UE)};
}
/* Precision control. */
static const struct fp_format *format_of(const struct x87_env *e)
{
    static const struct fp_format f24 = {24, -16382, 16383}, f53 = {53, -16382, 16383};
    switch (e->cw >> 8 & 3) {
    case 0: return &f24;
    case 2: return &f53;
    default: return &fp_f80;
    }
}
static uint16_t status(const struct x87_env *x, const struct fp_env *e)
{
    unsigned flags = e->flags;
    if (flags & ~x->cw & (FP_IE | FP_DE | FP_ZE)) /* the operation does not get as far as rounding */
        flags &= FP_IE | FP_DE | FP_ZE;
    return (uint16_t)(flags | (e->up && (flags & FP_PE) ? X87_C1 : 0) | (flags & ~x->cw & 0x3f ? X87_ES : 0));
}

/* --- packing
 * ------------------------------------------------------------------------------------------------------------------ */
/* False: an encoding that the processor does not support. */
static bool unpack80(const f80 *v, struct fp_num *n)
{
    int exp = v->sexp & 0x7fff;
    *n = (struct fp_num){.sign = v->sexp >> 15, .sig = v->frac, .exp = exp - 16383, .cls = FPC_NORMAL};
    if (exp == 0) {
        n->exp = -16382;
        if (!v->frac) {
            n->cls = FPC_ZERO;
            return true;
        }
        n->denormal = true;
        unsigned k = (unsigned)__builtin_clzll(n->sig);
        n->sig <<= k;
        n->exp -= (int)k;
        return true;
    }
    if (!(v->frac >> 63))
        return false;
    if (exp == 0x7fff)
        n->cls = !(v->frac << 1) ? FPC_INF : v->frac >> 62 & 1 ? FPC_QNAN : FPC_SNAN;
    return true;
}
static void pack80(f80 *r, const struct fp_num *n)
{
    unsigned sign = (unsigned)n->sign << 15;
    r->frac = n->sig;
    switch (n->cls) {
    case FPC_ZERO:
        r->frac = 0;
        r->sexp = (uint16_t)sign;
        return;
    case FPC_NORMAL:
        if (n->exp < -16382) {
            unsigned k = (unsigned)(-16382 - n->exp);
            r->frac = k > 63 ? 0 : n->sig >> k;
            r->sexp = (uint16_t)sign;
        } else {
            r->sexp = (uint16_t)(sign | (unsigned)(n->exp + 16383));
        }
        return;
    default: r->sexp = (uint16_t)(sign | 0x7fff); return;
    }
}
static bool nan_num(const struct fp_num *n)
{
    return n->cls >= FPC_QNAN;
}
static struct fp_num invalid(struct fp_env *e)
{
    e->flags |= FP_IE;
    return (struct fp_num){.cls = FPC_QNAN, .sign = true, .sig = 3ull << 62};
}
static struct fp_num quiet(struct fp_env *e, struct fp_num n)
{
    if (n.cls == FPC_SNAN)
        e->flags |= FP_IE;
    n.cls = FPC_QNAN;
    n.sig |= 1ull << 62;
    return n;
}
/* The NaN of two operands of which one is a NaN, by the arithmetic's own rule. */
static struct fp_num nan2(struct fp_env *e, struct fp_num a, struct fp_num b)
{
    return fp_arith(e, &fp_f80, FP_ADD, a, b);
}
static void denormal(struct fp_env *e, const struct fp_num *n)
{
    if (n->denormal)
        e->flags |= FP_DE;
}
static struct fp_num rounded(struct fp_env *e, struct fp_num n)
{
    return n.cls == FPC_NORMAL ? fp_round_num(e, &fp_f80, n.sign, n.exp, (u128)n.sig << 64) : n;
}
static uint16_t give(const struct x87_env *x, const struct fp_env *e, const struct fp_num *n, f80 *r)
{
    pack80(r, n);
    return status(x, e);
}

/* --- arithmetic
 * --------------------------------------------------------------------------------------------------------------------
 */
static uint16_t arith(const struct x87_env *x, enum fp_op op, bool ok, struct fp_num a, struct fp_num b,
                      struct fp_env *e, f80 *r)
{
    struct fp_num n = ok ? fp_arith(e, format_of(x), op, a, b) : invalid(e);
    return give(x, e, &n, r);
}
static uint16_t arith80(const struct x87_env *x, enum fp_op op, const f80 *a, const f80 *b, f80 *r)
{
    struct fp_env e = env_of(x);
    struct fp_num p, q;
    bool ok = unpack80(a, &p), ok2 = unpack80(b, &q);
    return arith(x, op, ok && ok2, p, q, &e, r);
}
/* The memory operand: how to unpack it. */
#define M_f32(m) fp32_unpack(&e, *(m))
#define M_f64(m) fp64_unpack(&e, *(m))
#define M_i32(m) fp_from_int((int32_t) * (m))
#define M_i16(m) fp_from_int((int16_t) * (m))
#define BINARY(name, op, reversed)                                                                                     \
    uint16_t x87_##name(const struct x87_env *x, const f80 *a, const f80 *b, f80 *r)                                   \
    {                                                                                                                  \
        return (reversed) ? arith80(x, op, b, a, r) : arith80(x, op, a, b, r);                                         \
    }                                                                                                                  \
    BINARY_MEM(name, f32, uint32_t, op, reversed)                                                                      \
    BINARY_MEM(name, f64, uint64_t, op, reversed)                                                                      \
    BINARY_MEM(name, i32, uint32_t, op, reversed)                                                                      \
    BINARY_MEM(name, i16, uint16_t, op, reversed)
#define BINARY_MEM(name, kind, type, op, reversed)                                                                     \
    uint16_t x87_##name##_##kind(const struct x87_env *x, const f80 *a, const type *m, f80 *r)                         \
    {                                                                                                                  \
        struct fp_env e = env_of(x);                                                                                   \
        struct fp_num p, q = M_##kind(m);                                                                              \
        bool ok = unpack80(a, &p);                                                                                     \
        return (reversed) ? arith(x, op, ok, q, p, &e, r) : arith(x, op, ok, p, q, &e, r);                             \
    }
BINARY(add, FP_ADD, false)
BINARY(mul, FP_MUL, false)
BINARY(sub, FP_SUB, false)
BINARY(subr, FP_SUB, true)
BINARY(div, FP_DIV, false)
BINARY(divr, FP_DIV, true)

uint16_t x87_sqrt(const struct x87_env *x, const f80 *a, f80 *r)
{
    return arith80(x, FP_SQRT, a, a, r);
}
uint16_t x87_abs(const struct x87_env *x, const f80 *a, f80 *r)
{
    *r = (f80){a->frac, a->sexp & 0x7fff};
    return 0;
}
uint16_t x87_chs(const struct x87_env *x, const f80 *a, f80 *r)
{
    *r = (f80){a->frac, a->sexp ^ 0x8000};
    return 0;
}
uint16_t x87_rndint(const struct x87_env *x, const f80 *a, f80 *r)
{
    struct fp_env e = env_of(x);
    struct fp_num n;
    if (!unpack80(a, &n)) {
        n = invalid(&e);
    } else if (nan_num(&n)) {
        n = quiet(&e, n);
    } else {
        denormal(&e, &n);
        if (fp_integral(&n, e.rc, &e.up))
            e.flags |= FP_PE;
    }
    return give(x, &e, &n, r);
}
uint16_t x87_scale(const struct x87_env *x, const f80 *a, const f80 *b, f80 *r)
{
    struct fp_env e = env_of(x);
    struct fp_num n, s;
    bool ok = unpack80(a, &n), ok2 = unpack80(b, &s), up;
    if (!ok || !ok2) {
        n = invalid(&e);
    } else if (nan_num(&n) || nan_num(&s)) {
        n = nan2(&e, n, s);
    } else if (s.cls == FPC_INF) {
        if (s.sign ? n.cls == FPC_INF : n.cls == FPC_ZERO) {
            n = invalid(&e);
        } else {
            denormal(&e, &n);
            n = (struct fp_num){.cls = s.sign ? FPC_ZERO : FPC_INF, .sign = n.sign, .sig = s.sign ? 0 : BIT(63)};
        }
    } else {
        if (n.cls != FPC_INF || s.denormal)
            denormal(&e, &n);
        denormal(&e, &s);
        if (n.cls == FPC_NORMAL) {
            fp_integral(&s, FP_CHOP, &up);
            int k = s.cls == FPC_ZERO ? 0 : s.exp > 16 ? 0x10000 : (int)(s.sig >> (63 - s.exp));
            n.exp += s.sign ? -k : k;
            if (n.exp > 100000) /* far enough for every response, wrapped ones too */
                n.exp = 100000;
            if (n.exp < -100000)
                n.exp = -100000;
            n = rounded(&e, n);
        }
    }
    return give(x, &e, &n, r);
}
uint16_t x87_xtract(const struct x87_env *x, const f80 *a, f80 *r0, f80 *r1)
{
    struct fp_env e = env_of(x);
    struct fp_num n, k;
    if (!unpack80(a, &n)) {
        n = k = invalid(&e);
    } else if (nan_num(&n)) {
        n = k = quiet(&e, n);
    } else if (n.cls == FPC_INF) {
        k = (struct fp_num){.cls = FPC_INF, .sig = BIT(63)};
    } else if (n.cls == FPC_ZERO) {
        e.flags |= FP_ZE;
        k = (struct fp_num){.cls = FPC_INF, .sign = true, .sig = BIT(63)};
    } else {
        denormal(&e, &n);
        k = fp_from_int(n.exp);
        n.exp = 0;
    }
    pack80(r0, &k);
    return give(x, &e, &n, r1);
}

/* FPREM and FPREM1: SDM volume 2; a step reduces the exponents' difference by 32 to 63. */
static uint16_t remainder80(const struct x87_env *x, const f80 *a, const f80 *b, f80 *r, bool nearest)
{
    struct fp_env e = env_of(x);
    struct fp_num n, d;
    bool ok = unpack80(a, &n), ok2 = unpack80(b, &d);
    uint16_t codes = 0;
    if (!ok || !ok2) {
        n = invalid(&e);
    } else if (nan_num(&n) || nan_num(&d)) {
        n = nan2(&e, n, d);
    } else if (n.cls == FPC_INF || d.cls == FPC_ZERO) {
        n = invalid(&e);
    } else {
        denormal(&e, &n);
        denormal(&e, &d);
        if (n.cls == FPC_NORMAL && d.cls == FPC_NORMAL && n.exp - d.exp >= -1) {
            int diff = n.exp - d.exp, steps = diff < 64 ? diff : 32 + (diff & 31);
            u128 rem = n.sig;
            uint64_t q = 0;
            int exp = d.exp + diff - steps; /* of the divisor's place in the last step */
            if (diff < 0) {
                exp = n.exp; /* compared below at the dividend's own place */
            } else {
                for (int i = 0; i <= steps; i++) {
                    if (i)
                        rem <<= 1;
                    q <<= 1;
                    if (rem >= d.sig) {
                        rem -= d.sig;
                        q |= 1;
                    }
                }
            }
            if (diff >= 64) {
                codes = X87_C2;
            } else {
                if (nearest) { /* the remainder against half the divisor */
                    u128 twice = diff < 0 ? rem : rem << 1, whole = d.sig;
                    if (diff < 0)
                        whole = d.sig; /* rem is at half the divisor's scale: rem >= sig is rem >= half */
                    if (twice > whole || (twice == whole && (q & 1))) {
                        rem = diff < 0 ? ((u128)d.sig << 1) - rem : d.sig - rem;
                        n.sign = !n.sign;
                        q++;
                    }
                }
                codes = (uint16_t)((q & 4 ? X87_C0 : 0) | (q & 2 ? X87_C3 : 0) | (q & 1 ? X87_C1 : 0));
            }
            if (!rem) {
                n.cls = FPC_ZERO;
            } else {
                unsigned k = 0;
                while (!(rem >> 127)) {
                    rem <<= 1;
                    k++;
                }
                n.sig = (uint64_t)(rem >> 64); /* a remainder is below 2^65 and ends in zeros then */
                n.exp = exp + 64 - (int)k;
                n = rounded(&e, n);
            }
        } else if (n.cls == FPC_NORMAL) {
            n = rounded(&e, n);
        }
    }
    return (uint16_t)((give(x, &e, &n, r) & ~X87_C1) | codes);
}
uint16_t x87_prem(const struct x87_env *x, const f80 *a, const f80 *b, f80 *r)
{
    struct fp_num n, d;
    /* The truncated quotient is 0 already below equal exponents. */
    if (unpack80(a, &n) && unpack80(b, &d) && n.cls == FPC_NORMAL && d.cls == FPC_NORMAL && n.exp < d.exp) {
        struct fp_env e = env_of(x);
        denormal(&e, &n);
        denormal(&e, &d);
        n = rounded(&e, n);
        return give(x, &e, &n, r) & (uint16_t)~X87_C1;
    }
    return remainder80(x, a, b, r, false);
}
uint16_t x87_prem1(const struct x87_env *x, const f80 *a, const f80 *b, f80 *r)
{
    return remainder80(x, a, b, r, true);
}

/* --- comparison
 * ---------------------------------------------------------------------------------------------------------------------------
 */
static uint16_t compared(const struct x87_env *x, struct fp_env *e, bool ok, const struct fp_num *a,
                         const struct fp_num *b, bool quietly)
{
    static const uint16_t codes[] = {X87_C0, X87_C3, 0, X87_C0 | X87_C2 | X87_C3};
    enum fp_order o = FP_UNORDERED;
    if (ok)
        o = fp_compare(e, a, b, quietly);
    else
        e->flags |= FP_IE;
    return status(x, e) | codes[o];
}
static uint16_t compare80(const struct x87_env *x, const f80 *a, const f80 *b, bool quietly)
{
    struct fp_env e = env_of(x);
    struct fp_num p, q;
    bool ok = unpack80(a, &p), ok2 = unpack80(b, &q);
    return compared(x, &e, ok && ok2, &p, &q, quietly);
}
uint16_t x87_com(const struct x87_env *x, const f80 *a, const f80 *b)
{
    return compare80(x, a, b, false);
}
uint16_t x87_ucom(const struct x87_env *x, const f80 *a, const f80 *b)
{
    return compare80(x, a, b, true);
}
uint16_t x87_tst(const struct x87_env *x, const f80 *a)
{
    f80 z = {0, 0};
    return compare80(x, a, &z, false);
}
#define COMPARE_MEM(kind, type)                                                                                        \
    uint16_t x87_com_##kind(const struct x87_env *x, const f80 *a, const type *m)                                      \
    {                                                                                                                  \
        struct fp_env e = env_of(x);                                                                                   \
        struct fp_num p, q = M_##kind(m);                                                                              \
        bool ok = unpack80(a, &p);                                                                                     \
        return compared(x, &e, ok, &p, &q, false);                                                                     \
    }
COMPARE_MEM(f32, uint32_t)
COMPARE_MEM(f64, uint64_t)
COMPARE_MEM(i32, uint32_t)
COMPARE_MEM(i16, uint16_t)
uint16_t x87_xam(const struct x87_env *x, const f80 *a)
{
    struct fp_num n;
    uint16_t c = a->sexp >> 15 ? X87_C1 : 0;
    if (!unpack80(a, &n))
        return c;
    switch (n.cls) {
    case FPC_ZERO: return c | X87_C3;
    case FPC_NORMAL: return c | X87_C2 | (n.denormal ? X87_C3 : 0);
    case FPC_INF: return c | X87_C2 | X87_C0;
    default: return c | X87_C0;
    }
}

/* --- loads and stores
 * ------------------------------------------------------------------------------------------------------------------------
 */
#define LOAD_FLOAT(bits)                                                                                               \
    uint16_t x87_ld_f##bits(const struct x87_env *x, const uint##bits##_t *m, f80 *r)                                  \
    {                                                                                                                  \
        struct fp_env e = env_of(x);                                                                                   \
        struct fp_num n = fp##bits##_unpack(&e, *m);                                                                   \
        denormal(&e, &n);                                                                                              \
        if (nan_num(&n))                                                                                               \
            n = quiet(&e, n);                                                                                          \
        return give(x, &e, &n, r);                                                                                     \
    }
LOAD_FLOAT(32)
LOAD_FLOAT(64)
#define LOAD_INT(bits)                                                                                                 \
    uint16_t x87_ld_i##bits(const struct x87_env *x, const uint##bits##_t *m, f80 *r)                                  \
    {                                                                                                                  \
        struct fp_num n = fp_from_int((int##bits##_t) * m);                                                            \
        pack80(r, &n);                                                                                                 \
        return 0;                                                                                                      \
    }
LOAD_INT(16)
LOAD_INT(32)
LOAD_INT(64)
uint16_t x87_ld_bcd(const struct x87_env *x, const f80 *m, f80 *r)
{
    uint64_t v = (m->sexp & 15) + 10 * (uint64_t)(m->sexp >> 4 & 15);
    for (int i = 60; i >= 0; i -= 4)
        v = v * 10 + (m->frac >> i & 15);
    struct fp_num n = fp_from_int((int64_t)v);
    n.sign = m->sexp >> 15;
    pack80(r, &n);
    return 0;
}

static uint64_t pack_small(const struct fp_num *n, unsigned frac_bits, unsigned exp_bits)
{
    uint64_t sign = (uint64_t)n->sign << (frac_bits + exp_bits), sig = n->sig >> (63 - frac_bits);
    int exp = n->exp + (1 << (exp_bits - 1)) - 1;
    if (n->cls == FPC_ZERO)
        return sign;
    if (n->cls != FPC_NORMAL)
        return sign | mask_low(exp_bits) << frac_bits | (sig & mask_low(frac_bits));
    if (exp <= 0)
        return sign | (1 - exp > 63 ? 0 : sig >> (1 - exp));
    return sign | (uint64_t)exp << frac_bits | (sig & mask_low(frac_bits));
}
#define STORE_FLOAT(bits, frac, expb)                                                                                  \
    uint16_t x87_st_f##bits(const struct x87_env *x, const f80 *a, uint##bits##_t *m)                                  \
    {                                                                                                                  \
        struct fp_env e = env_of(x);                                                                                   \
        struct fp_num n;                                                                                               \
        e.wrap = 0;                                                                                                    \
        if (!unpack80(a, &n)) {                                                                                        \
            n = invalid(&e);                                                                                           \
        } else if (nan_num(&n)) {                                                                                      \
            n = quiet(&e, n);                                                                                          \
        } else if (n.cls == FPC_NORMAL) {                                                                              \
            n = fp_round_num(&e, &fp_f##bits, n.sign, n.exp, (u128)n.sig << 64);                                       \
        }                                                                                                              \
        if (e.flags & ~x->cw & (FP_OE | FP_UE)) /* nothing is stored */                                                \
            e.flags &= (uint8_t)~FP_PE;                                                                                \
        *m = (uint##bits##_t)pack_small(&n, frac, expb);                                                               \
        return status(x, &e);                                                                                          \
    }
STORE_FLOAT(32, 23, 8)
STORE_FLOAT(64, 52, 11)
#define STORE_INT(name, bits, rc_)                                                                                     \
    uint16_t x87_##name(const struct x87_env *x, const f80 *a, uint##bits##_t *m)                                      \
    {                                                                                                                  \
        struct fp_env e = env_of(x);                                                                                   \
        struct fp_num n;                                                                                               \
        if (!unpack80(a, &n))                                                                                          \
            n = invalid(&e);                                                                                           \
        *m = (uint##bits##_t)fp_to_int(&e, n, bits, rc_);                                                              \
        return status(x, &e);                                                                                          \
    }
STORE_INT(st_i16, 16, e.rc)
STORE_INT(st_i32, 32, e.rc)
STORE_INT(st_i64, 64, e.rc)
STORE_INT(stt_i16, 16, FP_CHOP)
STORE_INT(stt_i32, 32, FP_CHOP)
STORE_INT(stt_i64, 64, FP_CHOP)
uint16_t x87_st_bcd(const struct x87_env *x, const f80 *a, f80 *m)
{
    struct fp_env e = env_of(x);
    struct fp_num n;
    bool sign = a->sexp >> 15;
    if (!unpack80(a, &n))
        n = invalid(&e);
    n.sign = false;
    unsigned rc = sign && e.rc == FP_DOWN ? FP_UP : sign && e.rc == FP_UP ? FP_DOWN : e.rc;
    uint64_t v = fp_to_int(&e, n, 64, rc);
    if ((e.flags & FP_IE) || v > 999999999999999999) {
        e.flags = FP_IE;
        *m = (f80){0xc000000000000000, 0xffff};
        return status(x, &e);
    }
    uint64_t frac = 0;
    for (unsigned i = 0; i < 64; i += 4, v /= 10)
        frac |= (v % 10) << i;
    *m = (f80){frac, (uint16_t)((unsigned)sign << 15 | v % 10 | v / 10 << 4)};
    return status(x, &e);
}

/* --- constants: 66 bits of each, rounded by RC; the direction of the others follows from the bits below
 * ---------------------------------------- */
static uint16_t constant(const struct x87_env *x, int exp, uint64_t hi, uint64_t lo, f80 *r)
{
    struct fp_env e = env_of(x);
    struct fp_num n = fp_round_num(&e, &fp_f80, false, exp, (u128)hi << 64 | lo);
    pack80(r, &n);
    return 0;
}
uint16_t x87_one(const struct x87_env *x, f80 *r)
{
    *r = (f80){BIT(63), 0x3fff};
    return 0;
}
uint16_t x87_zero(const struct x87_env *x, f80 *r)
{
    *r = (f80){0, 0};
    return 0;
}
uint16_t x87_l2t(const struct x87_env *x, f80 *r)
{
    return constant(x, 1, 0xd49a784bcd1b8afe, 0x492bf6ff4dafdb4c, r);
}
uint16_t x87_l2e(const struct x87_env *x, f80 *r)
{
    return constant(x, 0, 0xb8aa3b295c17f0bb, 0xbe87fed0691d3e88, r);
}
uint16_t x87_pi(const struct x87_env *x, f80 *r)
{
    return constant(x, 1, 0xc90fdaa22168c234, 0xc4c6628b80dc1cd1, r);
}
uint16_t x87_lg2(const struct x87_env *x, f80 *r)
{
    return constant(x, -2, 0x9a209a84fbcff798, 0x8f8959ac0b7c9178, r);
}
uint16_t x87_ln2(const struct x87_env *x, f80 *r)
{
    return constant(x, -1, 0xb17217f7d1cf79ab, 0xc9e3b39803f2f6af, r);
}

/* --- transcendental
 * --------------------------------------------------------------------------------------------------------------------------------
 */
/* Such a result is never taken for exact: a tiny one underflows. */
static struct fp_num round_wide(struct fp_env *e, struct fp_wide w)
{
    struct fp_num n = fp_round_num(e, &fp_f80, w.sign, w.exp, w.sig);
    e->flags |= FP_PE | (n.denormal ? FP_UE : 0);
    return n;
}
/* The common beginning of the functions of one operand. True: n is the result. */
static bool special1(struct fp_env *e, const f80 *a, struct fp_num *n)
{
    if (!unpack80(a, n)) {
        *n = invalid(e);
        return true;
    }
    if (nan_num(n)) {
        *n = quiet(e, *n);
        return true;
    }
    if (n->cls == FPC_ZERO)
        return true;
    return false;
}
uint16_t x87_f2xm1(const struct x87_env *x, const f80 *a, f80 *r)
{
    struct fp_env e = env_of(x);
    struct fp_num n;
    if (!special1(&e, a, &n)) {
        denormal(&e, &n);
        if (n.cls == FPC_INF) {
            if (n.sign)
                n = (struct fp_num){.cls = FPC_NORMAL, .sign = true, .sig = BIT(63)};
        } else if (n.exp < 0 || (n.exp == 0 && n.sig == BIT(63))) {
            n = round_wide(&e, fp_exp2m1(&n));
        } else { /* out of range */
            e.flags |= FP_PE;
        }
    }
    return give(x, &e, &n, r);
}
static bool out_of_range(const struct fp_num *n)
{
    return n->cls == FPC_NORMAL && n->exp >= 63;
}
/* FSIN, FCOS, FSINCOS, FPTAN. */
static uint16_t circular(const struct x87_env *x, const f80 *a, f80 *r, struct fp_wide (*f)(const struct fp_num *),
                         bool odd)
{
    struct fp_env e = env_of(x);
    struct fp_num n;
    if (!special1(&e, a, &n)) {
        if (n.cls == FPC_INF) {
            n = invalid(&e);
        } else if (out_of_range(&n)) {
            *r = *a;
            return X87_C2;
        } else {
            denormal(&e, &n);
            n = round_wide(&e, f(&n));
        }
    } else if (n.cls == FPC_ZERO && !odd) {
        n = (struct fp_num){.cls = FPC_NORMAL, .sig = BIT(63)};
    }
    return give(x, &e, &n, r);
}
uint16_t x87_sin(const struct x87_env *x, const f80 *a, f80 *r)
{
    return circular(x, a, r, fp_sin, true);
}
uint16_t x87_cos(const struct x87_env *x, const f80 *a, f80 *r)
{
    return circular(x, a, r, fp_cos, false);
}
/* C1 is the cosine's. */
uint16_t x87_sincos(const struct x87_env *x, const f80 *a, f80 *r0, f80 *r1)
{
    uint16_t sw = circular(x, a, r0, fp_sin, true) & (uint16_t)~X87_C1;
    return sw | circular(x, a, r1, fp_cos, false);
}
uint16_t x87_ptan(const struct x87_env *x, const f80 *a, f80 *r0, f80 *r1)
{
    uint16_t sw = circular(x, a, r0, fp_tan, true);
    *r1 = (r0->sexp & 0x7fff) == 0x7fff ? *r0 : (f80){BIT(63), 0x3fff};
    return sw;
}
/* The functions of two operands: ST(1) is y, ST(0) is x. */
uint16_t x87_patan(const struct x87_env *x, const f80 *a, const f80 *b, f80 *r)
{
    struct fp_env e = env_of(x);
    struct fp_num p, q, n;
    bool ok = unpack80(a, &p), ok2 = unpack80(b, &q);
    if (!ok || !ok2) {
        n = invalid(&e);
    } else if (nan_num(&p) || nan_num(&q)) {
        n = nan2(&e, p, q);
    } else {
        denormal(&e, &p);
        denormal(&e, &q);
        if ((q.cls == FPC_ZERO && !p.sign) || (p.cls == FPC_INF && !p.sign && q.cls != FPC_INF))
            n = (struct fp_num){.cls = FPC_ZERO, .sign = q.sign};
        else if (p.cls == FPC_NORMAL && q.cls == FPC_NORMAL)
            n = round_wide(&e, fp_atan2(&q, &p));
        else if (p.cls == FPC_INF && q.cls == FPC_INF)
            n = round_wide(&e, fp_atan2_octant(p.sign ? 3 : 1, q.sign));
        else if (p.cls == FPC_ZERO ? q.cls == FPC_ZERO : p.cls == FPC_INF || q.cls == FPC_ZERO)
            n = round_wide(&e, fp_atan2_octant(4, q.sign));
        else
            n = round_wide(&e, fp_atan2_octant(2, q.sign));
    }
    return give(x, &e, &n, r);
}
/* FYL2X, FYL2XP1: y * log, where y or the logarithm may be zero or infinite: log's class and sign, or, where it is a
 * number, `product`. */
static struct fp_num log_product(struct fp_env *e, struct fp_num y, struct fp_num x, struct fp_num log,
                                 struct fp_wide (*product)(const struct fp_num *, const struct fp_num *))
{
    struct fp_num n = {.cls = FPC_ZERO, .sign = y.sign != log.sign};
    if ((y.cls == FPC_INF && log.cls == FPC_ZERO) || (y.cls == FPC_ZERO && log.cls == FPC_INF))
        return invalid(e);
    denormal(e, &x);
    denormal(e, &y);
    if (y.cls == FPC_INF || log.cls == FPC_INF) {
        n.cls = FPC_INF;
        n.sig = BIT(63);
    } else if (y.cls == FPC_NORMAL && log.cls == FPC_NORMAL) {
        n = round_wide(e, product(&y, &x));
    }
    return n;
}
uint16_t x87_yl2x(const struct x87_env *x, const f80 *a, const f80 *b, f80 *r)
{
    struct fp_env e = env_of(x);
    struct fp_num p, q, n;
    bool ok = unpack80(a, &p), ok2 = unpack80(b, &q);
    if (!ok || !ok2) {
        n = invalid(&e);
    } else if (nan_num(&p) || nan_num(&q)) {
        n = nan2(&e, p, q);
    } else if (p.sign && p.cls != FPC_ZERO) {
        n = invalid(&e);
    } else if (p.cls == FPC_ZERO && q.cls != FPC_ZERO) {
        if (q.cls == FPC_NORMAL)
            e.flags |= FP_ZE;
        n = (struct fp_num){.cls = FPC_INF, .sign = !q.sign, .sig = BIT(63)};
    } else {
        struct fp_num log = p;
        if (p.cls == FPC_ZERO)
            log = (struct fp_num){.cls = FPC_INF, .sign = true};
        else if (p.cls == FPC_NORMAL && p.exp == 0 && p.sig == BIT(63))
            log = (struct fp_num){.cls = FPC_ZERO};
        else if (p.cls == FPC_NORMAL)
            log.sign = p.exp < 0;
        n = log_product(&e, q, p, log, fp_ylog2);
    }
    return give(x, &e, &n, r);
}
/* Out of range silicon leaves x. */
static struct fp_wide ylog2p1(const struct fp_num *y, const struct fp_num *x)
{
    if (x->sign && x->exp >= 0)
        return (struct fp_wide){x->sign, x->exp, (u128)x->sig << 64};
    return fp_ylog2p1(y, x);
}
uint16_t x87_yl2xp1(const struct x87_env *x, const f80 *a, const f80 *b, f80 *r)
{
    struct fp_env e = env_of(x);
    struct fp_num p, q, n;
    bool ok = unpack80(a, &p), ok2 = unpack80(b, &q);
    if (!ok || !ok2)
        n = invalid(&e);
    else if (nan_num(&p) || nan_num(&q))
        n = nan2(&e, p, q);
    else if (p.sign && p.cls == FPC_INF)
        n = invalid(&e);
    else
        n = log_product(&e, q, p, p, ylog2p1);
    return give(x, &e, &n, r);
}

#endif
