/* SPDX-License-Identifier: MIT
 *
 * fp_soft.c: see fp.h. One unpacked number serves all three formats; one rounding function makes every result.
 *
 * An unpacked finite number is sig * 2^(exp - 63) with bit 63 of sig set. A result before rounding has 128 bits, bit
 * 127 set, the last one sticky. Operations on special values come first in each function, in the order of the manuals'
 * priorities: SNaN, QNaN, other invalid operations and division by zero, denormal operands; then overflow, underflow,
 * precision.
 */
#include "src/cpu/fp_soft.h"

typedef unsigned __int128 u128;

const struct fp_format fp_f32 = {24, -126, 127}, fp_f64 = {53, -1022, 1023}, fp_f80 = {64, -16382, 16383};

/* --- unpacking
 * ------------------------------------------------------------------------------------------------------------ */
static void normalise(struct fp_num *n)
{
    unsigned k = (unsigned)__builtin_clzll(n->sig);
    n->sig <<= k;
    n->exp -= (int)k;
}
static struct fp_num unpack(struct fp_env *e, uint64_t v, unsigned frac_bits, unsigned exp_bits)
{
    struct fp_num n = {.sign = v >> (frac_bits + exp_bits) & 1};
    uint64_t frac = v & mask_low(frac_bits);
    int exp = (int)(v >> frac_bits & mask_low(exp_bits)), bias = (1 << (exp_bits - 1)) - 1;
    n.sig = frac << (63 - frac_bits);
    if (exp == (1 << exp_bits) - 1) {
        n.sig |= BIT(63);
        n.cls = !frac ? FPC_INF : frac >> (frac_bits - 1) ? FPC_QNAN : FPC_SNAN;
    } else if (exp) {
        n.cls = FPC_NORMAL;
        n.sig |= BIT(63);
        n.exp = exp - bias;
    } else if (!frac || e->daz) {
        n.cls = FPC_ZERO;
        n.sig = 0;
    } else {
        n.cls = FPC_NORMAL;
        n.denormal = true;
        n.exp = 1 - bias;
        normalise(&n);
    }
    return n;
}
struct fp_num fp32_unpack(struct fp_env *e, uint32_t v)
{
    return unpack(e, v, 23, 8);
}
struct fp_num fp64_unpack(struct fp_env *e, uint64_t v)
{
    return unpack(e, v, 52, 11);
}

/* --- rounding
 * --------------------------------------------------------------------------------------------------------------- */
/* Does a magnitude with the remainder `rest` (below the last place; half is its top bit's value) go up? */
static bool goes_up(unsigned rc, bool sign, bool odd, bool half, bool more)
{
    switch (rc) {
    case FP_NEAREST: return half && (more || odd);
    case FP_DOWN: return sign && (half || more);
    case FP_UP: return !sign && (half || more);
    default: return false;
    }
}
/* Keeps the top `keep` bits (0 to 64) of sig, rounded: the result right-aligned, its carry-out included. */
static u128 round_bits(unsigned rc, bool sign, u128 sig, unsigned keep, bool *inexact, bool *up)
{
    u128 top = keep ? sig >> (128 - keep) : 0, rest = keep ? sig << keep : sig;
    bool half = (uint64_t)(rest >> 127) & 1, more = (rest << 1) != 0;
    *inexact = half || more;
    *up = goes_up(rc, sign, (uint64_t)top & 1, half, more);
    return top + *up;
}

struct fp_num fp_round_num(struct fp_env *e, const struct fp_format *f, bool sign, int exp, u128 sig)
{
    struct fp_num r = {.cls = FPC_NORMAL, .sign = sign};
    bool inexact, up;
    if (!sig) {
        r.cls = FPC_ZERO;
        return r;
    }
    unsigned p = (unsigned)f->precision;
    u128 m = round_bits(e->rc, sign, sig, p, &inexact, &up);
    int re = exp;
    if (m >> p)
        m >>= 1, re++;
    if (re > f->emax) {
        if (e->wrap && e->unmasked_oe) { /* the x87's unmasked response: exponent less 24576 */
            e->flags |= FP_OE | (inexact ? FP_PE : 0);
            e->up = up;
            r.exp = re - e->wrap;
            if (r.exp > f->emax) { /* FSCALE can go farther than that */
                e->flags |= FP_PE;
                e->up = true;
                r.cls = FPC_INF;
                r.sig = BIT(63);
                return r;
            }
            r.sig = (uint64_t)m << (64 - p);
            return r;
        }
        e->flags |= FP_OE | (e->unmasked_oe && !inexact ? 0 : FP_PE);
        e->up = e->rc == FP_NEAREST || (e->rc == FP_UP && !sign) || (e->rc == FP_DOWN && sign);
        if (e->up) {
            r.cls = FPC_INF;
            r.sig = BIT(63);
        } else {
            r.exp = f->emax;
            r.sig = ~0ull << (64 - p);
        }
        return r;
    }
    if (re < f->emin) { /* tiny, after rounding */
        if (e->unmasked_ue) {
            e->flags |= FP_UE | (inexact ? FP_PE : 0);
            e->up = up;
            r.exp = re + e->wrap;
            if (e->wrap && r.exp < f->emin) {
                e->flags |= FP_PE;
                e->up = false;
                r.cls = FPC_ZERO;
                return r;
            }
            r.sig = (uint64_t)m << (64 - p);
            return r;
        }
        if (e->ftz) {
            e->flags |= FP_UE | FP_PE;
            r.cls = FPC_ZERO;
            return r;
        }
        int lost = f->emin - exp;
        if (lost > (int)p + 1) { /* below half of the least denormal */
            sig = 1;
            lost = (int)p + 1;
        }
        if (lost > (int)p) {
            sig = (sig >> 1) | (sig & 1);
            m = round_bits(e->rc, sign, sig, 0, &inexact, &up);
        } else {
            m = round_bits(e->rc, sign, sig, p - (unsigned)lost, &inexact, &up);
        }
        if (inexact)
            e->flags |= FP_UE | FP_PE;
        e->up = up;
        if (!m) {
            r.cls = FPC_ZERO;
            return r;
        }
        r.exp = f->emin;
        r.sig = (uint64_t)m << (64 - p);
        if (r.sig >> 63 == 0) {
            r.denormal = true;
            normalise(&r);
        }
        return r;
    }
    if (inexact)
        e->flags |= FP_PE;
    e->up = up;
    r.exp = re;
    r.sig = (uint64_t)m << (64 - p);
    return r;
}

static uint64_t pack(const struct fp_num *n, unsigned frac_bits, unsigned exp_bits)
{
    uint64_t sign = (uint64_t)n->sign << (frac_bits + exp_bits), top = mask_low(exp_bits) << frac_bits;
    int bias = (1 << (exp_bits - 1)) - 1;
    switch (n->cls) {
    case FPC_ZERO: return sign;
    case FPC_NORMAL: break;
    default: return sign | top | (n->sig << 1 >> (64 - frac_bits));
    }
    int exp = n->exp + bias;
    uint64_t sig = n->sig >> (63 - frac_bits);
    if (exp <= 0) {
        sig >>= 1 - exp > 63 ? 63 : 1 - exp;
        return sign | sig;
    }
    return sign | (uint64_t)exp << frac_bits | (sig & mask_low(frac_bits));
}
static uint32_t pack32(const struct fp_num *n)
{
    return (uint32_t)pack(n, 23, 8);
}
static uint64_t pack64(const struct fp_num *n)
{
    return pack(n, 52, 11);
}

/* --- special values
 * ------------------------------------------------------------------------------------------------------------ */
static struct fp_num default_nan(struct fp_env *e)
{
    e->flags |= FP_IE;
    return (struct fp_num){.cls = FPC_QNAN, .sign = true, .sig = 3ull << 62};
}
static struct fp_num quieted(struct fp_num n)
{
    n.cls = FPC_QNAN;
    n.sig |= 3ull << 62;
    return n;
}
static bool is_nan(const struct fp_num *n)
{
    return n->cls >= FPC_QNAN;
}
/* SSE: the first operand if it is a NaN; x87: the larger significand, of equal ones the positive, and a QNaN before an
 * SNaN. */
static struct fp_num nan_of(struct fp_env *e, struct fp_num a, struct fp_num b)
{
    if (a.cls == FPC_SNAN || b.cls == FPC_SNAN)
        e->flags |= FP_IE;
    if (e->x87 && is_nan(&a) && is_nan(&b)) {
        if (a.cls != b.cls)
            return a.cls == FPC_QNAN ? a : b;
        if (a.sig != b.sig)
            return quieted(a.sig > b.sig ? a : b);
        return quieted(a.sign ? b : a);
    }
    return quieted(is_nan(&a) ? a : b);
}
static void denormals(struct fp_env *e, const struct fp_num *a, const struct fp_num *b)
{
    if (a->denormal || (b && b->denormal))
        e->flags |= FP_DE;
}
static struct fp_num zero(bool sign)
{
    return (struct fp_num){.cls = FPC_ZERO, .sign = sign};
}
static struct fp_num infinity(bool sign)
{
    return (struct fp_num){.cls = FPC_INF, .sign = sign, .sig = BIT(63)};
}

/* --- arithmetic
 * --------------------------------------------------------------------------------------------------------------------
 */
static struct fp_num add(struct fp_env *e, const struct fp_format *f, struct fp_num a, struct fp_num b)
{
    if (a.cls == FPC_INF || b.cls == FPC_INF) {
        if (a.cls == b.cls && a.sign != b.sign)
            return default_nan(e);
        denormals(e, &a, &b);
        return infinity(a.cls == FPC_INF ? a.sign : b.sign);
    }
    denormals(e, &a, &b);
    if (a.cls == FPC_ZERO && b.cls == FPC_ZERO)
        return zero(a.sign == b.sign ? a.sign : e->rc == FP_DOWN);
    if (a.cls == FPC_ZERO || b.cls == FPC_ZERO) {
        struct fp_num n = a.cls == FPC_ZERO ? b : a;
        return fp_round_num(e, f, n.sign, n.exp, (u128)n.sig << 64);
    }
    if (a.exp < b.exp || (a.exp == b.exp && a.sig < b.sig)) {
        struct fp_num t = a;
        a = b;
        b = t;
    }
    unsigned d = (unsigned)(a.exp - b.exp);
    u128 x = (u128)a.sig << 63, y = (u128)b.sig << 63;
    if (d)
        y = d > 126 ? 1 : (y >> d) | ((y << (128 - d)) != 0);
    int exp = a.exp + 1;
    u128 s;
    if (a.sign == b.sign) {
        s = x + y;
    } else {
        s = x - y;
        if (!s)
            return zero(e->rc == FP_DOWN);
    }
    while (!(s >> 127)) {
        s <<= 1;
        exp--;
    }
    return fp_round_num(e, f, a.sign, exp, s);
}
static struct fp_num mul(struct fp_env *e, const struct fp_format *f, struct fp_num a, struct fp_num b)
{
    bool sign = a.sign ^ b.sign;
    if (a.cls == FPC_INF || b.cls == FPC_INF) {
        if (a.cls == FPC_ZERO || b.cls == FPC_ZERO)
            return default_nan(e);
        denormals(e, &a, &b);
        return infinity(sign);
    }
    denormals(e, &a, &b);
    if (a.cls == FPC_ZERO || b.cls == FPC_ZERO)
        return zero(sign);
    u128 s = (u128)a.sig * b.sig;
    int exp = a.exp + b.exp + 1;
    if (!(s >> 127)) {
        s <<= 1;
        exp--;
    }
    return fp_round_num(e, f, sign, exp, s);
}
static struct fp_num divide(struct fp_env *e, const struct fp_format *f, struct fp_num a, struct fp_num b)
{
    bool sign = a.sign ^ b.sign;
    if (a.cls == FPC_INF) {
        if (b.cls == FPC_INF)
            return default_nan(e);
        denormals(e, &a, &b);
        return infinity(sign);
    }
    if (b.cls == FPC_INF) {
        denormals(e, &a, &b);
        return zero(sign);
    }
    if (b.cls == FPC_ZERO) {
        if (a.cls == FPC_ZERO)
            return default_nan(e);
        e->flags |= FP_ZE;
        return infinity(sign);
    }
    denormals(e, &a, &b);
    if (a.cls == FPC_ZERO)
        return zero(sign);
    int exp = a.exp - b.exp;
    u128 n = (u128)a.sig << 63;
    if (a.sig < b.sig) {
        n <<= 1;
        exp--;
    }
    u128 q1 = n / b.sig, r = n % b.sig, q2 = (r << 64) / b.sig, r2 = (r << 64) % b.sig;
    return fp_round_num(e, f, sign, exp, q1 << 64 | q2 | (r2 != 0));
}
static struct fp_num square_root(struct fp_env *e, const struct fp_format *f, struct fp_num a)
{
    if (a.cls == FPC_ZERO)
        return a;
    if (a.sign)
        return default_nan(e);
    if (a.cls == FPC_INF)
        return a;
    denormals(e, &a, NULL);
    int exp = a.exp >> 1;
    u128 n = (u128)a.sig << (a.exp & 1 ? 64 : 63), root = 0;
    for (int i = 63; i >= 0; i--) {
        u128 t = root | (u128)1 << i;
        if (t * t <= n)
            root = t;
    }
    u128 rem = n - root * root;
    bool half = rem > root;
    return fp_round_num(e, f, false, exp, root << 64 | (u128)half << 63 | (rem != 0));
}
struct fp_num fp_arith(struct fp_env *e, const struct fp_format *f, enum fp_op op, struct fp_num a, struct fp_num b)
{
    if (op == FP_SQRT) {
        if (is_nan(&b))
            return nan_of(e, b, b);
        return square_root(e, f, b);
    }
    if (is_nan(&a) || is_nan(&b))
        return nan_of(e, a, b);
    switch (op) {
    case FP_SUB: b.sign = !b.sign; return add(e, f, a, b);
    case FP_MUL: return mul(e, f, a, b);
    case FP_DIV: return divide(e, f, a, b);
    default: return add(e, f, a, b);
    }
}

/* --- comparison
 * ----------------------------------------------------------------------------------------------------------------------
 */
enum fp_order fp_compare(struct fp_env *e, const struct fp_num *a, const struct fp_num *b, bool quiet)
{
    if (is_nan(a) || is_nan(b)) {
        if (!quiet || a->cls == FPC_SNAN || b->cls == FPC_SNAN)
            e->flags |= FP_IE;
        return FP_UNORDERED;
    }
    denormals(e, a, b);
    if (a->cls == FPC_ZERO && b->cls == FPC_ZERO)
        return FP_EQUAL;
    if (a->cls == FPC_ZERO)
        return b->sign ? FP_GREATER : FP_LESS;
    if (b->cls == FPC_ZERO || a->sign != b->sign)
        return a->sign ? FP_LESS : FP_GREATER;
    int d = a->cls != b->cls    ? (a->cls == FPC_INF ? 1 : -1)
            : a->cls == FPC_INF ? 0
            : a->exp != b->exp  ? (a->exp > b->exp ? 1 : -1)
                                : (a->sig > b->sig) - (a->sig < b->sig);
    if (!d)
        return FP_EQUAL;
    return (d < 0) ^ a->sign ? FP_LESS : FP_GREATER;
}

/* --- integers
 * --------------------------------------------------------------------------------------------------------------------------
 */
/* To an integral value; also tells whether it had to be rounded, and upwards in magnitude. */
bool fp_integral(struct fp_num *n, unsigned rc, bool *up)
{
    bool inexact = false;
    *up = false;
    if (n->cls != FPC_NORMAL || n->exp >= 63)
        return false;
    u128 sig = (u128)n->sig << 64, m;
    if (n->exp < -1) {
        m = round_bits(rc, n->sign, 1, 0, &inexact, up);
    } else {
        m = round_bits(rc, n->sign, sig, (unsigned)(n->exp + 1), &inexact, up);
    }
    if (!m) {
        n->cls = FPC_ZERO;
        n->sig = 0;
    } else {
        n->sig = (uint64_t)m;
        n->exp = 63;
        n->denormal = false;
        normalise(n);
    }
    return inexact;
}
uint64_t fp_to_int(struct fp_env *e, struct fp_num n, unsigned width, unsigned rc)
{
    uint64_t indefinite = BIT(width - 1);
    if (n.cls >= FPC_INF) {
        e->flags |= FP_IE;
        return indefinite;
    }
    if (n.cls == FPC_ZERO)
        return 0;
    bool up, inexact = fp_integral(&n, rc, &up);
    if (n.cls == FPC_ZERO) {
        e->flags |= FP_PE;
        e->up = up;
        return 0;
    }
    uint64_t v = n.exp > 63 ? 0 : n.sig >> (63 - n.exp);
    if (n.exp > 63 || v > indefinite || (v == indefinite && !n.sign)) {
        e->flags |= FP_IE;
        e->up = false;
        return indefinite;
    }
    if (inexact)
        e->flags |= FP_PE;
    e->up = up;
    return (n.sign ? -v : v) & mask_low(width);
}
struct fp_num fp_from_int(int64_t a)
{
    struct fp_num n = {
        .cls = a ? FPC_NORMAL : FPC_ZERO, .sign = a < 0, .exp = 63, .sig = a < 0 ? -(uint64_t)a : (uint64_t)a};
    if (a)
        normalise(&n);
    return n;
}

/* --- the packed interface of SSE
 * ----------------------------------------------------------------------------------------------------------- */
/* MIN and MAX give the second operand when either is a NaN or both are zeros. */
static bool takes_first(struct fp_env *e, enum fp_op op, const struct fp_num *a, const struct fp_num *b)
{
    enum fp_order r = fp_compare(e, a, b, false);
    return op == FP_MIN ? r == FP_LESS : r == FP_GREATER;
}
#define FLUSHED(bits, v, n) ((n).cls == FPC_ZERO ? (v) & (uint##bits##_t)BIT((bits)-1) : (v))
#define INTERFACE(bits)                                                                                                \
    uint##bits##_t fp##bits##_op(struct fp_env *e, enum fp_op op, uint##bits##_t a, uint##bits##_t b)                  \
    {                                                                                                                  \
        struct fp_num x = fp##bits##_unpack(e, a), y = fp##bits##_unpack(e, b), r;                                     \
        if (op == FP_MIN || op == FP_MAX)                                                                              \
            return takes_first(e, op, &x, &y) ? FLUSHED(bits, a, x) : FLUSHED(bits, b, y);                             \
        r = fp_arith(e, &fp_f##bits, op, x, y);                                                                        \
        return pack##bits(&r);                                                                                         \
    }                                                                                                                  \
    enum fp_order fp##bits##_compare(struct fp_env *e, uint##bits##_t a, uint##bits##_t b, bool quiet)                 \
    {                                                                                                                  \
        struct fp_num x = fp##bits##_unpack(e, a), y = fp##bits##_unpack(e, b);                                        \
        return fp_compare(e, &x, &y, quiet);                                                                           \
    }                                                                                                                  \
    uint64_t fp##bits##_to_int(struct fp_env *e, uint##bits##_t a, unsigned width, bool chop)                          \
    {                                                                                                                  \
        return fp_to_int(e, fp##bits##_unpack(e, a), width, chop ? FP_CHOP : e->rc);                                   \
    }                                                                                                                  \
    uint##bits##_t fp##bits##_from_int(struct fp_env *e, int64_t a)                                                    \
    {                                                                                                                  \
        struct fp_num n = fp_from_int(a);                                                                              \
        if (n.cls == FPC_NORMAL)                                                                                       \
            n = fp_round_num(e, &fp_f##bits, n.sign, n.exp, (u128)n.sig << 64);                                        \
        return pack##bits(&n);                                                                                         \
    }                                                                                                                  \
    uint##bits##_t fp##bits##_round(struct fp_env *e, uint##bits##_t a, uint8_t imm)                                   \
    {                                                                                                                  \
        struct fp_num n = fp##bits##_unpack(e, a);                                                                     \
        bool up;                                                                                                       \
        if (is_nan(&n))                                                                                                \
            n = nan_of(e, n, n);                                                                                       \
        else if (fp_integral(&n, imm & 4 ? e->rc : imm & 3, &up) && !(imm & 8))                                        \
            e->flags |= FP_PE;                                                                                         \
        return pack##bits(&n);                                                                                         \
    }
INTERFACE(32)
INTERFACE(64)

uint64_t fp32_to_64(struct fp_env *e, uint32_t a)
{
    struct fp_num n = fp32_unpack(e, a);
    if (is_nan(&n))
        n = nan_of(e, n, n);
    else
        denormals(e, &n, NULL);
    return pack64(&n);
}
uint32_t fp64_to_32(struct fp_env *e, uint64_t a)
{
    struct fp_num n = fp64_unpack(e, a);
    if (is_nan(&n))
        n = nan_of(e, n, n);
    else
        denormals(e, &n, NULL);
    if (n.cls == FPC_NORMAL)
        n = fp_round_num(e, &fp_f32, n.sign, n.exp, (u128)n.sig << 64);
    return pack32(&n);
}
