/* SPDX-License-Identifier: MIT
 *
 * ops_sse_int.c: integer SIMD of MMX, SSE2, SSSE3 and SSE4.1, and the bitwise and shuffling instructions on packed
 * floating point, which are no different. No MXCSR here, nothing rounds.
 *
 * SDM volume 2, the instructions' own pages. A semantic function takes n = 16 (XMM) or 8 (MMX, in the low half).
 */
#include "src/cpu/simd.h"

/* --- picking a form
 * ----------------------------------------------------------------------------------------------------------------- */
op_fn *vec_select(const struct decoded *d, const struct vec_forms *f)
{
    bool mmx = false;
    for (unsigned i = 0; i < 2; i++)
        if (decoded_is_reg(d, i)) {
            mmx = decoded_class(d, i) == ZYDIS_REGCLASS_MMX;
            break;
        }
    op_fn *rr = mmx ? f->mrr : f->rr, *rm = mmx ? f->mrm : f->rm, *ri = mmx ? f->mri : f->ri;
    if (!model_has(d->model, mmx ? f->mf : f->xf))
        return NULL;
    if (d->mem != DECODED_NO_MEM)
        return rm;
    return decoded_is_imm(d, 1) ? ri : rr;
}

/* --- addition, subtraction, comparison, logic
 * ------------------------------------------------------------------------------------------- */
#define LANEWISE(mn, xf, mf, type, expr)                                                                               \
    VOP(mn, xf, mf)                                                                                                    \
    {                                                                                                                  \
        type x = (type)a, y = (type)b;                                                                                 \
        return (v128)(expr);                                                                                           \
    }
#define LANEWISE_X(mn, xf, type, expr)                                                                                 \
    VOPX(mn, xf)                                                                                                       \
    {                                                                                                                  \
        type x = (type)a, y = (type)b;                                                                                 \
        return (v128)(expr);                                                                                           \
    }
LANEWISE(PADDB, sse2, mmx, u8x16, x + y)
LANEWISE(PADDW, sse2, mmx, u16x8, x + y)
LANEWISE(PADDD, sse2, mmx, u32x4, x + y)
LANEWISE(PADDQ, sse2, sse2, u64x2, x + y)
LANEWISE(PSUBB, sse2, mmx, u8x16, x - y)
LANEWISE(PSUBW, sse2, mmx, u16x8, x - y)
LANEWISE(PSUBD, sse2, mmx, u32x4, x - y)
LANEWISE(PSUBQ, sse2, sse2, u64x2, x - y)
LANEWISE(PAND, sse2, mmx, u64x2, x &y)
LANEWISE(PANDN, sse2, mmx, u64x2, ~x &y)
LANEWISE(POR, sse2, mmx, u64x2, x | y)
LANEWISE(PXOR, sse2, mmx, u64x2, x ^ y)
LANEWISE(PCMPEQB, sse2, mmx, u8x16, x == y)
LANEWISE(PCMPEQW, sse2, mmx, u16x8, x == y)
LANEWISE(PCMPEQD, sse2, mmx, u32x4, x == y)
LANEWISE(PCMPGTB, sse2, mmx, i8x16, x > y)
LANEWISE(PCMPGTW, sse2, mmx, i16x8, x > y)
LANEWISE(PCMPGTD, sse2, mmx, i32x4, x > y)
LANEWISE(PMULLW, sse2, mmx, u16x8, x *y)
LANEWISE_X(PMULLD, sse4_1, u32x4, x *y)
LANEWISE_X(PCMPEQQ, sse4_1, u64x2, x == y)
LANEWISE_X(PCMPGTQ, sse4_2, i64x2, x > y)
LANEWISE_X(ANDPS, sse, u64x2, x &y)
LANEWISE_X(ANDNPS, sse, u64x2, ~x &y)
LANEWISE_X(ORPS, sse, u64x2, x | y)
LANEWISE_X(XORPS, sse, u64x2, x ^ y)
LANEWISE_X(ANDPD, sse2, u64x2, x &y)
LANEWISE_X(ANDNPD, sse2, u64x2, ~x &y)
LANEWISE_X(ORPD, sse2, u64x2, x | y)
LANEWISE_X(XORPD, sse2, u64x2, x ^ y)

#define SELECT(type, mask, t, f)      ((type)(((type)(mask) & (t)) | (~(type)(mask) & (f))))
#define MINMAX(mn, xf, mf, type, cmp) LANEWISE(mn, xf, mf, type, SELECT(type, x cmp y, x, y))
#define MINMAX_X(mn, xf, type, cmp)   LANEWISE_X(mn, xf, type, SELECT(type, x cmp y, x, y))
MINMAX(PMINUB, sse2, sse, u8x16, <)
MINMAX(PMAXUB, sse2, sse, u8x16, >)
MINMAX(PMINSW, sse2, sse, i16x8, <)
MINMAX(PMAXSW, sse2, sse, i16x8, >)
MINMAX_X(PMINSB, sse4_1, i8x16, <)
MINMAX_X(PMAXSB, sse4_1, i8x16, >)
MINMAX_X(PMINUW, sse4_1, u16x8, <)
MINMAX_X(PMAXUW, sse4_1, u16x8, >)
MINMAX_X(PMINSD, sse4_1, i32x4, <)
MINMAX_X(PMAXSD, sse4_1, i32x4, >)
MINMAX_X(PMINUD, sse4_1, u32x4, <)
MINMAX_X(PMAXUD, sse4_1, u32x4, >)

/* Lane by lane over wider intermediates: LOOP(lane array, count in 16 bytes, expression of x and y). */
#define LOOP(lane, count, expr)                                                                                        \
    union lanes p = {a}, q = {b}, r;                                                                                   \
    for (unsigned i = 0; i < (count); i++) {                                                                           \
        __typeof__(p.lane[0]) x = p.lane[i], y = q.lane[i];                                                            \
        r.lane[i] = (__typeof__(x))(expr);                                                                             \
        (void)x, (void)y;                                                                                              \
    }                                                                                                                  \
    return r.v;
#define LOOPED(mn, xf, mf, lane, count, expr)                                                                          \
    VOP(mn, xf, mf)                                                                                                    \
    {                                                                                                                  \
        LOOP(lane, count, expr)                                                                                        \
    }
INLINE int clamp(int v, int lo, int hi)
{
    return v < lo ? lo : v > hi ? hi : v;
}
LOOPED(PADDSB, sse2, mmx, sb, 16, clamp(x + y, -128, 127))
LOOPED(PADDSW, sse2, mmx, sw, 8, clamp(x + y, -32768, 32767))
LOOPED(PADDUSB, sse2, mmx, b, 16, clamp(x + y, 0, 255))
LOOPED(PADDUSW, sse2, mmx, w, 8, clamp(x + y, 0, 65535))
LOOPED(PSUBSB, sse2, mmx, sb, 16, clamp(x - y, -128, 127))
LOOPED(PSUBSW, sse2, mmx, sw, 8, clamp(x - y, -32768, 32767))
LOOPED(PSUBUSB, sse2, mmx, b, 16, clamp(x - y, 0, 255))
LOOPED(PSUBUSW, sse2, mmx, w, 8, clamp(x - y, 0, 65535))
LOOPED(PAVGB, sse2, sse, b, 16, (x + y + 1) >> 1)
LOOPED(PAVGW, sse2, sse, w, 8, (x + y + 1) >> 1)
LOOPED(PMULHW, sse2, mmx, sw, 8, (x * y) >> 16)
LOOPED(PMULHUW, sse2, sse, w, 8, ((uint32_t)x * y) >> 16)
LOOPED(PMULHRSW, ssse3, ssse3, sw, 8, (((x * y) >> 14) + 1) >> 1)
LOOPED(PABSB, ssse3, ssse3, sb, 16, y < 0 ? -y : y)
LOOPED(PABSW, ssse3, ssse3, sw, 8, y < 0 ? -y : y)
LOOPED(PABSD, ssse3, ssse3, sd, 4, y < 0 ? -(uint32_t)y : (uint32_t)y)
LOOPED(PSIGNB, ssse3, ssse3, sb, 16, y < 0 ? -x : y ? x : 0)
LOOPED(PSIGNW, ssse3, ssse3, sw, 8, y < 0 ? -x : y ? x : 0)
LOOPED(PSIGND, ssse3, ssse3, sd, 4, y < 0 ? -(uint32_t)x : y ? (uint32_t)x : 0)

/* --- multiplication into wider lanes, horizontal sums
 * -------------------------------------------------------------------------------------- */
VOP(PMULUDQ, sse2, sse2)
{
    u64x2 x = (u64x2)a & 0xffffffff, y = (u64x2)b & 0xffffffff;
    return (v128)(x * y);
}
VOPX(PMULDQ, sse4_1)
{
    union lanes p = {a}, q = {b};
    return (v128){(int64_t)p.sd[0] * q.sd[0], (int64_t)p.sd[2] * q.sd[2]};
}
VOP(PMADDWD, sse2, mmx)
{
    union lanes p = {a}, q = {b}, r;
    for (unsigned i = 0; i < 4; i++)
        r.d[i] = (uint32_t)(p.sw[2 * i] * q.sw[2 * i]) + (uint32_t)(p.sw[2 * i + 1] * q.sw[2 * i + 1]);
    return r.v;
}
VOP(PMADDUBSW, ssse3, ssse3)
{
    union lanes p = {a}, q = {b}, r;
    for (unsigned i = 0; i < 8; i++)
        r.sw[i] = (int16_t)clamp(p.b[2 * i] * q.sb[2 * i] + p.b[2 * i + 1] * q.sb[2 * i + 1], -32768, 32767);
    return r.v;
}
VOP(PSADBW, sse2, sse)
{
    union lanes p = {a}, q = {b}, r;
    for (unsigned h = 0; h < 2; h++) {
        unsigned s = 0;
        for (unsigned i = 0; i < 8; i++) {
            int t = p.b[8 * h + i] - q.b[8 * h + i];
            s += (unsigned)(t < 0 ? -t : t);
        }
        r.q[h] = s;
    }
    return r.v;
}
/* Pairs of the destination make the low half, pairs of the source the high one. */
#define HORIZONTAL(mn, lane, bytes, expr)                                                                              \
    VOP(mn, ssse3, ssse3)                                                                                              \
    {                                                                                                                  \
        union lanes p = {a}, q = {b}, r = {a};                                                                         \
        const unsigned half = n / (bytes) / 2;                                                                         \
        for (unsigned i = 0; i < half; i++) {                                                                          \
            __typeof__(p.lane[0]) x = p.lane[2 * i], y = p.lane[2 * i + 1];                                            \
            r.lane[i] = (__typeof__(x))(expr);                                                                         \
            x = q.lane[2 * i], y = q.lane[2 * i + 1];                                                                  \
            r.lane[half + i] = (__typeof__(x))(expr);                                                                  \
        }                                                                                                              \
        return r.v;                                                                                                    \
    }
HORIZONTAL(PHADDW, w, 2, x + y)
HORIZONTAL(PHADDD, d, 4, x + y)
HORIZONTAL(PHADDSW, sw, 2, clamp(x + y, -32768, 32767))
HORIZONTAL(PHSUBW, w, 2, x - y)
HORIZONTAL(PHSUBD, d, 4, x - y)
HORIZONTAL(PHSUBSW, sw, 2, clamp(x - y, -32768, 32767))

/* --- packing, unpacking, shuffling
 * -------------------------------------------------------------------------------------------------------------- */
#define PACK(mn, xf, mf, from, to, bytes, lo, hi)                                                                      \
    VOP(mn, xf, mf)                                                                                                    \
    {                                                                                                                  \
        union lanes p = {a}, q = {b}, r = {a};                                                                         \
        const unsigned half = n / (bytes);                                                                             \
        for (unsigned i = 0; i < half; i++) {                                                                          \
            r.to[i] = (__typeof__(r.to[0]))clamp(p.from[i], lo, hi);                                                   \
            r.to[half + i] = (__typeof__(r.to[0]))clamp(q.from[i], lo, hi);                                            \
        }                                                                                                              \
        return r.v;                                                                                                    \
    }
PACK(PACKSSWB, sse2, mmx, sw, sb, 2, -128, 127)
PACK(PACKUSWB, sse2, mmx, sw, b, 2, 0, 255)
PACK(PACKSSDW, sse2, mmx, sd, sw, 4, -32768, 32767)
VOPX(PACKUSDW, sse4_1)
{
    union lanes p = {a}, q = {b}, r;
    for (unsigned i = 0; i < 4; i++) {
        r.w[i] = (uint16_t)clamp(p.sd[i], 0, 65535);
        r.w[4 + i] = (uint16_t)clamp(q.sd[i], 0, 65535);
    }
    return r.v;
}
/* The MMX forms that take the low halves read 32 bits of memory. */
#define UNPACK(mn, xf, mload, lane, bytes, high)                                                                       \
    VOPL(mn, xf, mmx, mload)                                                                                           \
    {                                                                                                                  \
        union lanes p = {a}, q = {b}, r = {a};                                                                         \
        const unsigned count = n / (bytes), from = (high) ? count / 2 : 0;                                             \
        for (unsigned i = 0; i < count / 2; i++) {                                                                     \
            r.lane[2 * i] = p.lane[from + i];                                                                          \
            r.lane[2 * i + 1] = q.lane[from + i];                                                                      \
        }                                                                                                              \
        return r.v;                                                                                                    \
    }
UNPACK(PUNPCKLBW, sse2, sse_ld32, b, 1, false)
UNPACK(PUNPCKLWD, sse2, sse_ld32, w, 2, false)
UNPACK(PUNPCKLDQ, sse2, sse_ld32, d, 4, false)
UNPACK(PUNPCKHBW, sse2, sse_ld64, b, 1, true)
UNPACK(PUNPCKHWD, sse2, sse_ld64, w, 2, true)
UNPACK(PUNPCKHDQ, sse2, sse_ld64, d, 4, true)
VOPX(PUNPCKLQDQ, sse2)
{
    return (v128){a[0], b[0]};
}
VOPX(PUNPCKHQDQ, sse2)
{
    return (v128){a[1], b[1]};
}
VOPX(UNPCKLPD, sse2)
{
    return (v128){a[0], b[0]};
}
VOPX(UNPCKHPD, sse2)
{
    return (v128){a[1], b[1]};
}
VOPX(UNPCKLPS, sse)
{
    u32x4 x = (u32x4)a, y = (u32x4)b;
    return (v128)(u32x4){x[0], y[0], x[1], y[1]};
}
VOPX(UNPCKHPS, sse)
{
    u32x4 x = (u32x4)a, y = (u32x4)b;
    return (v128)(u32x4){x[2], y[2], x[3], y[3]};
}
VOP(PSHUFB, ssse3, ssse3)
{
#if HOST_X86
    if (n == 16 && HOST_HAS("ssse3")) {
        __asm__("pshufb %1, %0" : "+x"(a) : "x"(b));
        return a;
    }
#endif
    union lanes p = {a}, q = {b}, r = {a};
    for (unsigned i = 0; i < n; i++)
        r.b[i] = q.b[i] & 0x80 ? 0 : p.b[q.b[i] & (n - 1)];
    return r.v;
}
VOPX(PSHUFD, sse2)
{
    union lanes q = {b}, r;
    for (unsigned i = 0; i < 4; i++)
        r.d[i] = q.d[(imm >> (2 * i)) & 3];
    return r.v;
}
VOPX(PSHUFLW, sse2)
{
    union lanes q = {b}, r = {b};
    for (unsigned i = 0; i < 4; i++)
        r.w[i] = q.w[(imm >> (2 * i)) & 3];
    return r.v;
}
VOPX(PSHUFHW, sse2)
{
    union lanes q = {b}, r = {b};
    for (unsigned i = 0; i < 4; i++)
        r.w[4 + i] = q.w[4 + ((imm >> (2 * i)) & 3)];
    return r.v;
}
VOP_FN(PSHUFW)
{
    return f_PSHUFLW(a, b, imm, n);
}
VEC_MMX(PSHUFW, sse_ld64)
VOP_SEL(PSHUFW, .mrr = m_rr_PSHUFW, .mrm = m_rm_PSHUFW, .mf = FEATURE_sse)
VOPX(SHUFPS, sse)
{
    union lanes p = {a}, q = {b}, r;
    r.d[0] = p.d[imm & 3];
    r.d[1] = p.d[(imm >> 2) & 3];
    r.d[2] = q.d[(imm >> 4) & 3];
    r.d[3] = q.d[imm >> 6];
    return r.v;
}
VOPX(SHUFPD, sse2)
{
    union lanes p = {a}, q = {b};
    return v128_q(p.q[imm & 1], q.q[(imm >> 1) & 1]);
}
VOP(PALIGNR, ssse3, ssse3)
{
    union lanes p = {a}, q = {b}, r = {a};
    for (unsigned i = 0; i < n; i++) {
        unsigned k = i + imm;
        r.b[i] = k < n ? q.b[k & 15] : k < 2 * n ? p.b[(k - n) & 15] : 0;
    }
    return r.v;
}

/* --- shifts: counts of the lane's width and more give 0, or the sign
 * -------------------------------------------------------------------------------- */
#define SHIFT(mn, type, lanebits, expr, beyond)                                                                        \
    INLINE v128 s_##mn(v128 a, uint64_t count)                                                                         \
    {                                                                                                                  \
        type x = (type)a;                                                                                              \
        if (count >= (lanebits))                                                                                       \
            return (v128)(beyond);                                                                                     \
        int k = (int)count;                                                                                            \
        return (v128)(expr);                                                                                           \
    }                                                                                                                  \
    VOP_FN(mn)                                                                                                         \
    {                                                                                                                  \
        return s_##mn(a, (uint64_t)b[0]);                                                                              \
    }                                                                                                                  \
    VEC_XMM(mn, sse_ld128)                                                                                             \
    VEC_MMX(mn, sse_ld64)                                                                                              \
    HANDLER(x_ri_##mn)                                                                                                 \
    {                                                                                                                  \
        if (!sse_ok(c, o))                                                                                             \
            return false;                                                                                              \
        xmm_set(c, o->r0, s_##mn(xmm_get(c, o->r0), (uint8_t)o->imm));                                                 \
        return true;                                                                                                   \
    }                                                                                                                  \
    HANDLER(m_ri_##mn)                                                                                                 \
    {                                                                                                                  \
        if (!mmx_ok(c, o))                                                                                             \
            return false;                                                                                              \
        mmx_enter(c);                                                                                                  \
        mm_set(c, o->r0, (uint64_t)s_##mn(v128_q(mm_get(c, o->r0), 0), (uint8_t)o->imm)[0]);                           \
        return true;                                                                                                   \
    }                                                                                                                  \
    VOP_SEL(mn, .rr = x_rr_##mn, .rm = x_rm_##mn, .ri = x_ri_##mn, .mrr = m_rr_##mn, .mrm = m_rm_##mn,                 \
            .mri = m_ri_##mn, .xf = FEATURE_sse2, .mf = FEATURE_mmx)
SHIFT(PSLLW, u16x8, 16, x << (uint16_t)k, x ^ x)
SHIFT(PSLLD, u32x4, 32, x << (uint32_t)k, x ^ x)
SHIFT(PSLLQ, u64x2, 64, x << (uint64_t)k, x ^ x)
SHIFT(PSRLW, u16x8, 16, x >> (uint16_t)k, x ^ x)
SHIFT(PSRLD, u32x4, 32, x >> (uint32_t)k, x ^ x)
SHIFT(PSRLQ, u64x2, 64, x >> (uint64_t)k, x ^ x)
SHIFT(PSRAW, i16x8, 16, x >> (int16_t)k, x >> 15)
SHIFT(PSRAD, i32x4, 32, x >> (int32_t)k, x >> 31)

#define BYTE_SHIFT(mn, expr)                                                                                           \
    HANDLER(x_ri_##mn)                                                                                                 \
    {                                                                                                                  \
        if (!sse_ok(c, o))                                                                                             \
            return false;                                                                                              \
        union lanes p = {xmm_get(c, o->r0)}, r;                                                                        \
        unsigned k = (uint8_t)o->imm > 16 ? 16 : (uint8_t)o->imm;                                                      \
        for (unsigned i = 0; i < 16; i++)                                                                              \
            r.b[i] = expr;                                                                                             \
        xmm_set(c, o->r0, r.v);                                                                                        \
        return true;                                                                                                   \
    }                                                                                                                  \
    VOP_SEL(mn, .ri = x_ri_##mn, .xf = FEATURE_sse2)
BYTE_SHIFT(PSLLDQ, i >= k ? p.b[i - k] : 0)
BYTE_SHIFT(PSRLDQ, i + k < 16 ? p.b[i + k] : 0)

/* --- SSE4.1: blends, widening moves, the odd ones
 * -------------------------------------------------------------------------------------------------------- */
#define BLEND_IMM(mn, lane, count)                                                                                     \
    VOPX(mn, sse4_1)                                                                                                   \
    {                                                                                                                  \
        union lanes p = {a}, q = {b};                                                                                  \
        for (unsigned i = 0; i < (count); i++)                                                                         \
            if (imm >> i & 1)                                                                                          \
                p.lane[i] = q.lane[i];                                                                                 \
        return p.v;                                                                                                    \
    }
BLEND_IMM(PBLENDW, w, 8)
BLEND_IMM(BLENDPS, d, 4)
BLEND_IMM(BLENDPD, q, 2)

/* The mask is XMM0. */
#define BLEND_VAR(mn, type, shift)                                                                                     \
    INLINE v128 g_##mn(v128 a, v128 b, v128 mask)                                                                      \
    {                                                                                                                  \
        type m = (type)mask >> (shift);                                                                                \
        return (v128)SELECT(type, m, (type)b, (type)a);                                                                \
    }                                                                                                                  \
    HANDLER(x_rr_##mn)                                                                                                 \
    {                                                                                                                  \
        if (!sse_ok(c, o))                                                                                             \
            return false;                                                                                              \
        xmm_set(c, o->r0, g_##mn(xmm_get(c, o->r0), xmm_get(c, o->r1), xmm_get(c, 0)));                                \
        return true;                                                                                                   \
    }                                                                                                                  \
    HANDLER(x_rm_##mn)                                                                                                 \
    {                                                                                                                  \
        v128 b;                                                                                                        \
        if (!sse_ok(c, o) || !sse_ld128(c, o, &b))                                                                     \
            return false;                                                                                              \
        xmm_set(c, o->r0, g_##mn(xmm_get(c, o->r0), b, xmm_get(c, 0)));                                                \
        return true;                                                                                                   \
    }                                                                                                                  \
    VOP_SEL(mn, .rr = x_rr_##mn, .rm = x_rm_##mn, .xf = FEATURE_sse4_1)
BLEND_VAR(PBLENDVB, i8x16, 7)
BLEND_VAR(BLENDVPS, i32x4, 31)
BLEND_VAR(BLENDVPD, i64x2, 63)

#define WIDEN(mn, load, from, to, count)                                                                               \
    VOPXL(mn, sse4_1, load)                                                                                            \
    {                                                                                                                  \
        union lanes q = {b}, r;                                                                                        \
        for (unsigned i = 0; i < (count); i++)                                                                         \
            r.to[i] = q.from[i];                                                                                       \
        return r.v;                                                                                                    \
    }
WIDEN(PMOVSXBW, sse_ld64, sb, sw, 8)
WIDEN(PMOVSXBD, sse_ld32, sb, sd, 4)
WIDEN(PMOVSXBQ, sse_ld16, sb, sq, 2)
WIDEN(PMOVSXWD, sse_ld64, sw, sd, 4)
WIDEN(PMOVSXWQ, sse_ld32, sw, sq, 2)
WIDEN(PMOVSXDQ, sse_ld64, sd, sq, 2)
WIDEN(PMOVZXBW, sse_ld64, b, w, 8)
WIDEN(PMOVZXBD, sse_ld32, b, d, 4)
WIDEN(PMOVZXBQ, sse_ld16, b, q, 2)
WIDEN(PMOVZXWD, sse_ld64, w, d, 4)
WIDEN(PMOVZXWQ, sse_ld32, w, q, 2)
WIDEN(PMOVZXDQ, sse_ld64, d, q, 2)

VOPX(PHMINPOSUW, sse4_1)
{
    union lanes q = {b};
    unsigned best = 0;
    for (unsigned i = 1; i < 8; i++)
        if (q.w[i] < q.w[best])
            best = i;
    return v128_q(q.w[best] | (uint64_t)best << 16, 0);
}
VOPX(MPSADBW, sse4_1)
{
    union lanes p = {a}, q = {b}, r;
    const uint8_t *x = p.b + (imm & 4), *y = q.b + 4 * (imm & 3);
    for (unsigned i = 0; i < 8; i++) {
        int s = 0;
        for (unsigned j = 0; j < 4; j++) {
            int t = x[i + j] - y[j];
            s += t < 0 ? -t : t;
        }
        r.w[i] = (uint16_t)s;
    }
    return r.v;
}

/* PTEST: ZF and CF; the other four are clear. */
INLINE void ptest(struct cpu *c, v128 a, v128 b)
{
    v128 x = a & b, y = ~a & b;
    flags_set_arith(c, ((x[0] | x[1]) ? 0 : FLAG_ZF) | ((y[0] | y[1]) ? 0 : FLAG_CF));
}
HANDLER(x_rr_PTEST)
{
    if (!sse_ok(c, o))
        return false;
    ptest(c, xmm_get(c, o->r0), xmm_get(c, o->r1));
    return true;
}
HANDLER(x_rm_PTEST)
{
    v128 b;
    if (!sse_ok(c, o) || !sse_ld128(c, o, &b))
        return false;
    ptest(c, xmm_get(c, o->r0), b);
    return true;
}
VOP_SEL(PTEST, .rr = x_rr_PTEST, .rm = x_rm_PTEST, .xf = FEATURE_sse4_1)

/* --- masks of sign bits into a general register (r0: its offset)
 * ------------------------------------------------------------------------------------------- */
HANDLER(x_PMOVMSKB)
{
    if (!sse_ok(c, o))
        return false;
    v128 b = xmm_get(c, o->r1);
    uint32_t m = 0;
#if HOST_X86
    __asm__("pmovmskb %1, %0" : "=r"(m) : "x"(b));
#else
    union lanes q = {b};
    for (unsigned i = 0; i < 16; i++)
        m |= (uint32_t)(q.b[i] >> 7) << i;
#endif
    op_set_r32(c, o->r0, m);
    return true;
}
HANDLER(m_PMOVMSKB)
{
    if (!mmx_ok(c, o))
        return false;
    mmx_enter(c);
    uint64_t q = (mm_get(c, o->r1) >> 7) & 0x0101010101010101;
    op_set_r32(c, o->r0, (uint32_t)((q * 0x0102040810204080) >> 56));
    return true;
}
op_fn *sel_PMOVMSKB(const struct decoded *d, struct op *o)
{
    if (decoded_class(d, 1) == ZYDIS_REGCLASS_MMX)
        return model_has(d->model, FEATURE_sse) ? m_PMOVMSKB : NULL;
    return model_has(d->model, FEATURE_sse2) ? x_PMOVMSKB : NULL;
}
HANDLER(op_movmskps)
{
    if (!sse_ok(c, o))
        return false;
    union lanes q = {xmm_get(c, o->r1)};
    op_set_r32(c, o->r0, q.d[0] >> 31 | q.d[1] >> 31 << 1 | q.d[2] >> 31 << 2 | q.d[3] >> 31 << 3);
    return true;
}
HANDLER(op_movmskpd)
{
    if (!sse_ok(c, o))
        return false;
    union lanes q = {xmm_get(c, o->r1)};
    op_set_r32(c, o->r0, (uint32_t)(q.q[0] >> 63 | q.q[1] >> 63 << 1));
    return true;
}
op_fn *sel_MOVMSKPS(const struct decoded *d, struct op *o)
{
    return op_movmskps;
}
op_fn *sel_MOVMSKPD(const struct decoded *d, struct op *o)
{
    return op_movmskpd;
}

/* --- one lane from or to a general register or memory
 * ----------------------------------------------------------------------------------------------------------- */
#define INSERT(mn, lane, mask, ld, getreg, ty)                                                                         \
    HANDLER(x_rr_##mn)                                                                                                 \
    {                                                                                                                  \
        if (!sse_ok(c, o))                                                                                             \
            return false;                                                                                              \
        c->v[o->r0].lane[o->imm & (mask)] = (ty)getreg(c, o->r1);                                                      \
        return true;                                                                                                   \
    }                                                                                                                  \
    HANDLER(x_rm_##mn)                                                                                                 \
    {                                                                                                                  \
        ty v;                                                                                                          \
        if (!sse_ok(c, o) || !ld(c, o, &v))                                                                            \
            return false;                                                                                              \
        c->v[o->r0].lane[o->imm & (mask)] = v;                                                                         \
        return true;                                                                                                   \
    }
INSERT(PINSRB, b, 15, op_ld8, op_r32, uint8_t)
INSERT(PINSRW, w, 7, op_ld16, op_r32, uint16_t)
INSERT(PINSRD, d, 3, op_ld32, op_r32, uint32_t)
INSERT(PINSRQ, q, 1, op_ld64, op_r64, uint64_t)
HANDLER(m_rr_PINSRW)
{
    if (!mmx_ok(c, o))
        return false;
    mmx_enter(c);
    unsigned k = (o->imm & 3) * 16;
    mm_set(c, o->r0, (mm_get(c, o->r0) & ~(0xffffull << k)) | (uint64_t)op_r16(c, o->r1) << k);
    return true;
}
HANDLER(m_rm_PINSRW)
{
    uint16_t v;
    if (!mmx_ok(c, o) || !op_ld16(c, o, &v))
        return false;
    mmx_enter(c);
    unsigned k = (o->imm & 3) * 16;
    mm_set(c, o->r0, (mm_get(c, o->r0) & ~(0xffffull << k)) | (uint64_t)v << k);
    return true;
}
VOP_SEL(PINSRB, .rr = x_rr_PINSRB, .rm = x_rm_PINSRB, .xf = FEATURE_sse4_1)
VOP_SEL(PINSRW, .rr = x_rr_PINSRW, .rm = x_rm_PINSRW, .mrr = m_rr_PINSRW, .mrm = m_rm_PINSRW, .xf = FEATURE_sse2,
        .mf = FEATURE_sse)
VOP_SEL(PINSRD, .rr = x_rr_PINSRD, .rm = x_rm_PINSRD, .xf = FEATURE_sse4_1)
VOP_SEL(PINSRQ, .rr = x_rr_PINSRQ, .rm = x_rm_PINSRQ, .xf = FEATURE_sse4_1)

/* To a register the lane is zero-extended to the whole register. With a memory destination the vector register is r0.
 */
#define EXTRACT(mn, lane, mask, st)                                                                                    \
    HANDLER(x_rr_##mn)                                                                                                 \
    {                                                                                                                  \
        if (!sse_ok(c, o))                                                                                             \
            return false;                                                                                              \
        op_set_r64(c, o->r0, c->v[o->r1].lane[o->imm & (mask)]);                                                       \
        return true;                                                                                                   \
    }                                                                                                                  \
    HANDLER(x_rm_##mn)                                                                                                 \
    {                                                                                                                  \
        return sse_ok(c, o) && st(c, o, c->v[o->r0].lane[o->imm & (mask)]);                                            \
    }
EXTRACT(PEXTRB, b, 15, op_st8)
EXTRACT(PEXTRW, w, 7, op_st16)
EXTRACT(PEXTRD, d, 3, op_st32)
EXTRACT(PEXTRQ, q, 1, op_st64)
HANDLER(m_PEXTRW)
{
    if (!mmx_ok(c, o))
        return false;
    mmx_enter(c);
    op_set_r64(c, o->r0, (uint16_t)(mm_get(c, o->r1) >> ((o->imm & 3) * 16)));
    return true;
}
op_fn *sel_PEXTRB(const struct decoded *d, struct op *o)
{
    return d->mem != DECODED_NO_MEM ? x_rm_PEXTRB : x_rr_PEXTRB;
}
op_fn *sel_PEXTRD(const struct decoded *d, struct op *o)
{
    return d->mem != DECODED_NO_MEM ? x_rm_PEXTRD : x_rr_PEXTRD;
}
op_fn *sel_PEXTRQ(const struct decoded *d, struct op *o)
{
    return d->mem != DECODED_NO_MEM ? x_rm_PEXTRQ : x_rr_PEXTRQ;
}
op_fn *sel_EXTRACTPS(const struct decoded *d, struct op *o)
{
    return sel_PEXTRD(d, o);
}
/* 0F C5 is SSE2 (SSE on MMX registers); 0F 3A 15, which can write memory, is SSE4.1. */
op_fn *sel_PEXTRW(const struct decoded *d, struct op *o)
{
    if (decoded_class(d, 1) == ZYDIS_REGCLASS_MMX)
        return model_has(d->model, FEATURE_sse) ? m_PEXTRW : NULL;
    if (!model_has(d->model, d->in.opcode_map == ZYDIS_OPCODE_MAP_0F ? FEATURE_sse2 : FEATURE_sse4_1))
        return NULL;
    return d->mem != DECODED_NO_MEM ? x_rm_PEXTRW : x_rr_PEXTRW;
}

INLINE v128 insertps(v128 a, uint32_t value, uint8_t imm)
{
    union lanes r = {a};
    r.d[(imm >> 4) & 3] = value;
    for (unsigned i = 0; i < 4; i++)
        if (imm >> i & 1)
            r.d[i] = 0;
    return r.v;
}
HANDLER(x_rr_INSERTPS)
{
    if (!sse_ok(c, o))
        return false;
    xmm_set(c, o->r0, insertps(xmm_get(c, o->r0), c->v[o->r1].d[(o->imm >> 6) & 3], (uint8_t)o->imm));
    return true;
}
HANDLER(x_rm_INSERTPS)
{
    uint32_t v;
    if (!sse_ok(c, o) || !op_ld32(c, o, &v))
        return false;
    xmm_set(c, o->r0, insertps(xmm_get(c, o->r0), v, (uint8_t)o->imm));
    return true;
}
VOP_SEL(INSERTPS, .rr = x_rr_INSERTPS, .rm = x_rm_INSERTPS, .xf = FEATURE_sse4_1)

/* --- SSE4A: bit fields. Length 0 means 64; index + length beyond 64 is undefined: the bits that exist are taken.
 * ------------------------------------------ */
INLINE uint64_t field_mask(unsigned len)
{
    return len ? mask_low(len) : ~0ull;
}
INLINE void extrq(struct cpu *c, unsigned r, unsigned len, unsigned index)
{
    xmm_set(c, r, v128_q((c->v[r].q[0] >> (index & 63)) & field_mask(len & 63), 0));
}
INLINE void insertq(struct cpu *c, unsigned r, uint64_t src, unsigned len, unsigned index)
{
    uint64_t m = field_mask(len & 63) << (index & 63);
    xmm_set(c, r, v128_q((c->v[r].q[0] & ~m) | ((src << (index & 63)) & m), 0));
}
HANDLER(x_ii_EXTRQ)
{
    if (!sse_ok(c, o))
        return false;
    extrq(c, o->r0, (uint8_t)o->imm, (uint8_t)o->disp);
    return true;
}
HANDLER(x_rr_EXTRQ)
{
    if (!sse_ok(c, o))
        return false;
    extrq(c, o->r0, c->v[o->r1].b[0], c->v[o->r1].b[1]);
    return true;
}
HANDLER(x_ii_INSERTQ)
{
    if (!sse_ok(c, o))
        return false;
    insertq(c, o->r0, c->v[o->r1].q[0], (uint8_t)o->imm, (uint8_t)o->disp);
    return true;
}
HANDLER(x_rr_INSERTQ)
{
    if (!sse_ok(c, o))
        return false;
    insertq(c, o->r0, c->v[o->r1].q[0], c->v[o->r1].b[8], c->v[o->r1].b[9]);
    return true;
}
op_fn *sel_EXTRQ(const struct decoded *d, struct op *o)
{
    return decoded_is_imm(d, 1) ? x_ii_EXTRQ : x_rr_EXTRQ;
}
op_fn *sel_INSERTQ(const struct decoded *d, struct op *o)
{
    return decoded_is_imm(d, 2) ? x_ii_INSERTQ : x_rr_INSERTQ;
}
