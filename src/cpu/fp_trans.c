/* SPDX-License-Identifier: MIT
 *
 * fp_trans.c: see fp_trans.h. Series in 128-bit fixed point, products and quotients with significands of 128 bits.
 *
 * A result's relative error stays below 2^-120. Rounded to 64 bits it is the correctly rounded value, but for one
 * argument in some 2^56, whose true result lies that close to the middle of two values (or, under directed rounding, to
 * one of them).
 *
 * Series are taken as f(x) = x * p(x^2) with p near 1, so that small arguments lose nothing; where p rounds to 1 it is
 * put on the side of 1 where it belongs, so that directed rounding knows the direction.
 */
#include "src/cpu/fp_trans.h"

typedef unsigned __int128 u128;
typedef struct fp_wide wide;

#define U128(hi, lo) ((u128)(hi) << 64 | (lo))
#define ONE          ((u128)1 << 127) /* of fixed-point numbers with 127 bits of fraction */

/* From these exponents down silicon takes the series' first term alone, and rounds it as if it were the result: with
 * directed rounding that is visible. The tangent passes through a range where it lies below the argument. */
enum { SINE_SMALL = -69, TAN_SMALL = -34, ATAN_SMALL = -41 };

static const wide pi = {.exp = 1, .sig = U128(0xc90fdaa22168c234, 0xc4c6628b80dc1cd1)};
static const wide ln2 = {.exp = -1, .sig = U128(0xb17217f7d1cf79ab, 0xc9e3b39803f2f6af)};
static const wide two_log2e = {.exp = 1, .sig = U128(0xb8aa3b295c17f0bb, 0xbe87fed0691d3e88)};

/* --- numbers of 128 bits
 * ------------------------------------------------------------------------------------------------------- */
static unsigned clz128(u128 v)
{
    uint64_t hi = (uint64_t)(v >> 64);
    return (unsigned)(hi ? __builtin_clzll(hi) : 64 + __builtin_clzll((uint64_t)v));
}
/* v * 2^(exp - 127) */
static wide make(bool sign, int exp, u128 v)
{
    if (!v)
        return (wide){0};
    unsigned k = clz128(v);
    return (wide){sign, exp - (int)k, v << k};
}
static wide from_num(const struct fp_num *n)
{
    return (wide){n->sign, n->exp, (u128)n->sig << 64};
}
static wide neg(wide a)
{
    a.sign = !a.sign;
    return a;
}
/* The upper 128 bits of the product; *rest: is anything below them? */
static u128 mul_high(u128 a, u128 b, bool *rest)
{
    uint64_t a1 = (uint64_t)(a >> 64), a0 = (uint64_t)a, b1 = (uint64_t)(b >> 64), b0 = (uint64_t)b;
    u128 low = (u128)a0 * b0, m1 = (u128)a1 * b0, m2 = (u128)a0 * b1;
    u128 mid = (low >> 64) + (uint64_t)m1 + (uint64_t)m2;
    *rest = (uint64_t)low || (uint64_t)mid;
    return (u128)a1 * b1 + (m1 >> 64) + (m2 >> 64) + (mid >> 64);
}
static u128 mulh(u128 a, u128 b)
{
    bool rest;
    return mul_high(a, b, &rest);
}
static wide mul(wide a, wide b)
{
    bool rest, sign = a.sign != b.sign;
    if (!a.sig || !b.sig)
        return (wide){0};
    u128 p = mul_high(a.sig, b.sig, &rest);
    int exp = a.exp + b.exp + 1;
    if (!(p >> 127)) { /* one bit of the low half is lost: within the error */
        p <<= 1;
        exp--;
    }
    return (wide){sign, exp, p | rest};
}
static wide divide(wide a, wide b)
{
    u128 rem = a.sig, q = 0;
    int exp = a.exp - b.exp;
    bool carry = false;
    if (rem < b.sig) {
        carry = rem >> 127;
        rem <<= 1;
        exp--;
    }
    for (unsigned i = 0; i < 128; i++) {
        q <<= 1;
        if (carry || rem >= b.sig) {
            rem -= b.sig;
            q |= 1;
        }
        carry = rem >> 127;
        rem <<= 1;
    }
    return (wide){a.sign != b.sign, exp, q | (rem || carry)};
}
static wide add(wide a, wide b)
{
    if (!a.sig || !b.sig)
        return a.sig ? a : b;
    if (a.exp < b.exp || (a.exp == b.exp && a.sig < b.sig)) {
        wide t = a;
        a = b;
        b = t;
    }
    unsigned k = (unsigned)(a.exp - b.exp);
    bool rest = k > 127 || (k && b.sig << (128 - k));
    u128 low = k > 127 ? 0 : b.sig >> k;
    if (a.sign == b.sign) {
        u128 sum = a.sig + low;
        if (sum < low)
            return (wide){a.sign, a.exp + 1, sum >> 1 | (u128)1 << 127 | (sum & 1) | rest};
        return (wide){a.sign, a.exp, sum | rest};
    }
    wide d = make(a.sign, a.exp, a.sig - low - rest);
    d.sig |= rest;
    return d;
}
/* Fixed point: 128 bits of fraction of a magnitude below 1. */
static u128 fraction(wide a)
{
    unsigned k = (unsigned)(-1 - a.exp);
    return k > 127 ? 0 : a.sig >> k;
}
/* The magnitude less the least that rounding can see. */
static wide below(wide a)
{
    return make(a.sign, a.exp, a.sig - 1);
}
static wide inexact(wide a)
{
    a.sig |= a.sig != 0;
    return a;
}

/* --- sine, cosine, tangent
 * ------------------------------------------------------------------------------------------------------- */
/* x = quadrant * pi / 2 + r, |r| <= pi / 4, with the 66-bit pi: exact. */
static unsigned reduce(const struct fp_num *x, wide *r)
{
    const u128 half_pi = (u128)0xc90fdaa22168c234 << 2 | 3; /* in units of 2^-65 */
    *r = from_num(x);
    if (x->exp < -1 || (x->exp == -1 && (u128)x->sig << 2 < half_pi))
        return 0;
    u128 rem = 0;
    unsigned q = 0;
    for (int bit = 63; bit > -3 - x->exp; bit--) {
        rem = rem << 1 | (bit >= 0 ? x->sig >> bit & 1 : 0);
        q <<= 1;
        if (rem >= half_pi) {
            rem -= half_pi;
            q |= 1;
        }
    }
    bool past = rem << 1 > half_pi;
    if (past) {
        rem = half_pi - rem;
        q++;
    }
    *r = make(x->sign != past, 62, rem);
    return x->sign ? -q & 3 : q & 3;
}
/* 1 - z/d1 * (1 - z/d2 * ...), below 1 */
static u128 falling(u128 z, unsigned n, unsigned first)
{
    u128 acc = ONE;
    for (unsigned k = n; k; k--) {
        unsigned m = 2 * k + first;
        acc = ONE - mulh(z, acc) / (m * (m - 1));
    }
    return acc == ONE ? ONE - 1 : acc;
}
static wide sine(wide r)
{
    u128 z = fraction(mul(r, r));
    return mul(r, make(false, 0, falling(z, 17, 1)));
}
static wide cosine(wide r)
{
    u128 z = fraction(mul(r, r));
    return make(false, 0, falling(z, 17, 0));
}
struct fp_wide fp_sin(const struct fp_num *x)
{
    wide r;
    unsigned q = reduce(x, &r);
    if (x->exp <= SINE_SMALL)
        return r;
    r = q & 1 ? cosine(r) : sine(r);
    return inexact(q & 2 ? neg(r) : r);
}
struct fp_wide fp_cos(const struct fp_num *x)
{
    wide r;
    unsigned q = reduce(x, &r);
    if (x->exp <= SINE_SMALL)
        return (wide){false, 0, ONE};
    r = q & 1 ? sine(r) : cosine(r);
    return inexact((q + 1) & 2 ? neg(r) : r);
}
struct fp_wide fp_tan(const struct fp_num *x)
{
    wide r;
    unsigned q = reduce(x, &r);
    if (x->exp <= SINE_SMALL)
        return r;
    if (x->exp <= TAN_SMALL)
        return below(r);
    return inexact(q & 1 ? neg(divide(cosine(r), sine(r))) : divide(sine(r), cosine(r)));
}

/* --- arctangent
 * -------------------------------------------------------------------------------------------------------------------
 */
/* t * (1 - t^2/3 + t^4/5 ...), |t| <= 1/8 */
static wide arctangent_series(wide t)
{
    u128 z = fraction(mul(t, t)), acc = 0;
    for (unsigned k = 24; k; k--)
        acc = mulh(z, ONE / (2 * k + 1) - acc);
    return mul(t, make(false, 0, acc ? ONE - acc : ONE - 1));
}
/* 0 < q <= 1 */
static wide arctangent(wide q)
{
    static const wide at[5] = {{0},
                               {.exp = -3, .sig = U128(0xfadbafc96406eb15, 0x6dc79ef5f7a217e5)},
                               {.exp = -2, .sig = U128(0xed63382b0dda7b45, 0x6fe445ecbc3a8d03)},
                               {.exp = -1, .sig = U128(0xa4bc7d1934f70924, 0x19a87f2a457dac9e)},
                               {.exp = -1, .sig = U128(0xc90fdaa22168c234, 0xc4c6628b80dc1cd1)}};
    unsigned i = q.exp >= 0 ? 4 : (unsigned)((fraction(q) >> 125) + 1) / 2; /* the nearest quarter */
    if (q.exp <= ATAN_SMALL)
        return q;
    if (!i)
        return inexact(arctangent_series(q));
    wide c = make(false, 125, i), t = divide(add(q, neg(c)), add((wide){false, 0, ONE}, mul(q, c)));
    return t.sig >> 127 ? add(at[i], arctangent_series(t)) : at[i];
}
struct fp_wide fp_atan2(const struct fp_num *y, const struct fp_num *x)
{
    wide a = from_num(y), b = from_num(x), half = pi, r;
    half.exp--;
    a.sign = b.sign = false;
    if (a.exp > b.exp || (a.exp == b.exp && a.sig > b.sig)) {
        r = arctangent(divide(b, a));
        r = add(half, x->sign ? r : neg(r));
    } else {
        r = arctangent(divide(a, b));
        if (x->sign)
            r = add(pi, neg(r));
    }
    r.sign = y->sign;
    return r;
}
struct fp_wide fp_atan2_octant(unsigned eighths, bool sign)
{
    wide r = mul(pi, make(false, 125, eighths));
    r.sign = sign;
    return inexact(r);
}

/* --- powers and logarithms of 2
 * --------------------------------------------------------------------------------------------------- */
struct fp_wide fp_exp2m1(const struct fp_num *x)
{
    if (x->exp == 0) /* 1 and -1 */
        return (wide){x->sign, x->sign ? -1 : 0, ONE};
    wide t = mul(from_num(x), ln2);
    u128 f = fraction(t), acc = ONE;
    for (unsigned n = 36; n > 1; n--) {
        u128 term = mulh(f, acc) / n;
        acc = x->sign ? ONE - term : ONE + term;
    }
    return inexact(mul(t, make(false, 0, acc)));
}
/* The logarithm of (1 + s) / (1 - s), |s| < 0.172, to the base 2. */
static wide log2_ratio(wide s)
{
    u128 z = fraction(mul(s, s)), acc = 0;
    for (unsigned k = 28; k; k--)
        acc = mulh(z, ONE / (2 * k + 1) + acc);
    return mul(mul(s, make(false, 0, ONE + acc)), two_log2e);
}
static wide log2_wide(wide x, bool *exact)
{
    const u128 sqrt2 = U128(0xb504f333f9de6484, 0x597d89b3754abe9f);
    int k = x.exp;
    wide m = {false, 0, x.sig}, one = {false, 0, ONE}, l;
    if (x.sig > sqrt2) {
        m.exp--;
        k++;
    }
    wide num = add(m, neg(one));
    *exact = !num.sig;
    if (!num.sig)
        l = (wide){0};
    else
        l = log2_ratio(divide(num, add(m, one)));
    return k ? add(l, make(k < 0, 127, (u128)(k < 0 ? -k : k))) : l;
}
static wide ylog(const struct fp_num *y, wide log, bool exact)
{
    wide r = mul(from_num(y), log);
    if (!exact)
        return inexact(r);
    return log.sign ? below(r) : r;
}
/* Powers of 2: silicon rounds a logarithm below 0 as if it were slightly nearer to 0. */
struct fp_wide fp_ylog2(const struct fp_num *y, const struct fp_num *x)
{
    bool exact;
    wide l = log2_wide(from_num(x), &exact);
    return ylog(y, l, exact);
}
struct fp_wide fp_ylog2p1(const struct fp_num *y, const struct fp_num *x)
{
    wide w = from_num(x), one = {false, 0, ONE}, two = {false, 1, ONE};
    if (w.exp < -2) /* |x| < 1/4 */
        return ylog(y, log2_ratio(divide(w, add(two, w))), false);
    bool exact;
    wide l = log2_wide(add(one, w), &exact);
    return ylog(y, l, exact);
}
