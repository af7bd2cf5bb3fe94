/* SPDX-License-Identifier: MIT
 *
 * ops_sse_crypto.c: AES, PCLMULQDQ, SHA.
 *
 * AES and carry-less multiplication run on the host's own where it has them; else, and SHA always, in portable code.
 * SDM volume 2, the instructions' pages; FIPS 197; FIPS 180-4.
 */
#include "src/cpu/simd.h"

/* --- AES -------------------------------------------------------------------------------------------------------------
 */
static const uint8_t sbox[256] = {
    0x63, 0x7c, 0x77, 0x7b, 0xf2, 0x6b, 0x6f, 0xc5, 0x30, 0x01, 0x67, 0x2b, 0xfe, 0xd7, 0xab, 0x76, 0xca, 0x82, 0xc9,
    0x7d, 0xfa, 0x59, 0x47, 0xf0, 0xad, 0xd4, 0xa2, 0xaf, 0x9c, 0xa4, 0x72, 0xc0, 0xb7, 0xfd, 0x93, 0x26, 0x36, 0x3f,
    0xf7, 0xcc, 0x34, 0xa5, 0xe5, 0xf1, 0x71, 0xd8, 0x31, 0x15, 0x04, 0xc7, 0x23, 0xc3, 0x18, 0x96, 0x05, 0x9a, 0x07,
    0x12, 0x80, 0xe2, 0xeb, 0x27, 0xb2, 0x75, 0x09, 0x83, 0x2c, 0x1a, 0x1b, 0x6e, 0x5a, 0xa0, 0x52, 0x3b, 0xd6, 0xb3,
    0x29, 0xe3, 0x2f, 0x84, 0x53, 0xd1, 0x00, 0xed, 0x20, 0xfc, 0xb1, 0x5b, 0x6a, 0xcb, 0xbe, 0x39, 0x4a, 0x4c, 0x58,
    0xcf, 0xd0, 0xef, 0xaa, 0xfb, 0x43, 0x4d, 0x33, 0x85, 0x45, 0xf9, 0x02, 0x7f, 0x50, 0x3c, 0x9f, 0xa8, 0x51, 0xa3,
    0x40, 0x8f, 0x92, 0x9d, 0x38, 0xf5, 0xbc, 0xb6, 0xda, 0x21, 0x10, 0xff, 0xf3, 0xd2, 0xcd, 0x0c, 0x13, 0xec, 0x5f,
    0x97, 0x44, 0x17, 0xc4, 0xa7, 0x7e, 0x3d, 0x64, 0x5d, 0x19, 0x73, 0x60, 0x81, 0x4f, 0xdc, 0x22, 0x2a, 0x90, 0x88,
    0x46, 0xee, 0xb8, 0x14, 0xde, 0x5e, 0x0b, 0xdb, 0xe0, 0x32, 0x3a, 0x0a, 0x49, 0x06, 0x24, 0x5c, 0xc2, 0xd3, 0xac,
    0x62, 0x91, 0x95, 0xe4, 0x79, 0xe7, 0xc8, 0x37, 0x6d, 0x8d, 0xd5, 0x4e, 0xa9, 0x6c, 0x56, 0xf4, 0xea, 0x65, 0x7a,
    0xae, 0x08, 0xba, 0x78, 0x25, 0x2e, 0x1c, 0xa6, 0xb4, 0xc6, 0xe8, 0xdd, 0x74, 0x1f, 0x4b, 0xbd, 0x8b, 0x8a, 0x70,
    0x3e, 0xb5, 0x66, 0x48, 0x03, 0xf6, 0x0e, 0x61, 0x35, 0x57, 0xb9, 0x86, 0xc1, 0x1d, 0x9e, 0xe1, 0xf8, 0x98, 0x11,
    0x69, 0xd9, 0x8e, 0x94, 0x9b, 0x1e, 0x87, 0xe9, 0xce, 0x55, 0x28, 0xdf, 0x8c, 0xa1, 0x89, 0x0d, 0xbf, 0xe6, 0x42,
    0x68, 0x41, 0x99, 0x2d, 0x0f, 0xb0, 0x54, 0xbb, 0x16,
};
static const uint8_t inv_sbox[256] = {
    0x52, 0x09, 0x6a, 0xd5, 0x30, 0x36, 0xa5, 0x38, 0xbf, 0x40, 0xa3, 0x9e, 0x81, 0xf3, 0xd7, 0xfb, 0x7c, 0xe3, 0x39,
    0x82, 0x9b, 0x2f, 0xff, 0x87, 0x34, 0x8e, 0x43, 0x44, 0xc4, 0xde, 0xe9, 0xcb, 0x54, 0x7b, 0x94, 0x32, 0xa6, 0xc2,
    0x23, 0x3d, 0xee, 0x4c, 0x95, 0x0b, 0x42, 0xfa, 0xc3, 0x4e, 0x08, 0x2e, 0xa1, 0x66, 0x28, 0xd9, 0x24, 0xb2, 0x76,
    0x5b, 0xa2, 0x49, 0x6d, 0x8b, 0xd1, 0x25, 0x72, 0xf8, 0xf6, 0x64, 0x86, 0x68, 0x98, 0x16, 0xd4, 0xa4, 0x5c, 0xcc,
    0x5d, 0x65, 0xb6, 0x92, 0x6c, 0x70, 0x48, 0x50, 0xfd, 0xed, 0xb9, 0xda, 0x5e, 0x15, 0x46, 0x57, 0xa7, 0x8d, 0x9d,
    0x84, 0x90, 0xd8, 0xab, 0x00, 0x8c, 0xbc, 0xd3, 0x0a, 0xf7, 0xe4, 0x58, 0x05, 0xb8, 0xb3, 0x45, 0x06, 0xd0, 0x2c,
    0x1e, 0x8f, 0xca, 0x3f, 0x0f, 0x02, 0xc1, 0xaf, 0xbd, 0x03, 0x01, 0x13, 0x8a, 0x6b, 0x3a, 0x91, 0x11, 0x41, 0x4f,
    0x67, 0xdc, 0xea, 0x97, 0xf2, 0xcf, 0xce, 0xf0, 0xb4, 0xe6, 0x73, 0x96, 0xac, 0x74, 0x22, 0xe7, 0xad, 0x35, 0x85,
    0xe2, 0xf9, 0x37, 0xe8, 0x1c, 0x75, 0xdf, 0x6e, 0x47, 0xf1, 0x1a, 0x71, 0x1d, 0x29, 0xc5, 0x89, 0x6f, 0xb7, 0x62,
    0x0e, 0xaa, 0x18, 0xbe, 0x1b, 0xfc, 0x56, 0x3e, 0x4b, 0xc6, 0xd2, 0x79, 0x20, 0x9a, 0xdb, 0xc0, 0xfe, 0x78, 0xcd,
    0x5a, 0xf4, 0x1f, 0xdd, 0xa8, 0x33, 0x88, 0x07, 0xc7, 0x31, 0xb1, 0x12, 0x10, 0x59, 0x27, 0x80, 0xec, 0x5f, 0x60,
    0x51, 0x7f, 0xa9, 0x19, 0xb5, 0x4a, 0x0d, 0x2d, 0xe5, 0x7a, 0x9f, 0x93, 0xc9, 0x9c, 0xef, 0xa0, 0xe0, 0x3b, 0x4d,
    0xae, 0x2a, 0xf5, 0xb0, 0xc8, 0xeb, 0xbb, 0x3c, 0x83, 0x53, 0x99, 0x61, 0x17, 0x2b, 0x04, 0x7e, 0xba, 0x77, 0xd6,
    0x26, 0xe1, 0x69, 0x14, 0x63, 0x55, 0x21, 0x0c, 0x7d,
};

static uint8_t times2(uint8_t x)
{
    return (uint8_t)(x << 1 ^ (x & 0x80 ? 0x1b : 0));
}
static void mix_columns(uint8_t *s)
{
    for (unsigned i = 0; i < 16; i += 4) {
        uint8_t a = s[i], b = s[i + 1], c = s[i + 2], d = s[i + 3], all = a ^ b ^ c ^ d;
        s[i] = a ^ all ^ times2(a ^ b);
        s[i + 1] = b ^ all ^ times2(b ^ c);
        s[i + 2] = c ^ all ^ times2(c ^ d);
        s[i + 3] = d ^ all ^ times2(d ^ a);
    }
}
static void inv_mix_columns(uint8_t *s)
{
    for (unsigned i = 0; i < 16; i += 4) {
        uint8_t u = times2(times2(s[i] ^ s[i + 2])), v = times2(times2(s[i + 1] ^ s[i + 3]));
        s[i] ^= u;
        s[i + 1] ^= v;
        s[i + 2] ^= u;
        s[i + 3] ^= v;
    }
    mix_columns(s);
}
/* ShiftRows and SubBytes of one round, either way. */
static NOINLINE v128 aes_round(v128 a, v128 key, bool inverse, bool last)
{
    union lanes p = {a}, r;
    for (unsigned i = 0; i < 16; i++) {
        unsigned from = (inverse ? i - 4 * (i & 3) : i + 4 * (i & 3)) & 15;
        r.b[i] = (inverse ? inv_sbox : sbox)[p.b[from]];
    }
    if (!last) {
        if (inverse)
            inv_mix_columns(r.b);
        else
            mix_columns(r.b);
    }
    return r.v ^ key;
}
#if HOST_X86
#define AES_HOST(insn)                                                                                                 \
    if (HOST_HAS("aes")) {                                                                                             \
        __asm__(insn " %1, %0" : "+x"(a) : "x"(b));                                                                    \
        return a;                                                                                                      \
    }
#else
#define AES_HOST(insn)
#endif
#define AES(mn, insn, inverse, last)                                                                                   \
    VOPX(mn, aes)                                                                                                      \
    {                                                                                                                  \
        AES_HOST(insn)                                                                                                 \
        return aes_round(a, b, inverse, last);                                                                         \
    }
AES(AESENC, "aesenc", false, false)
AES(AESENCLAST, "aesenclast", false, true)
AES(AESDEC, "aesdec", true, false)
AES(AESDECLAST, "aesdeclast", true, true)
VOPX(AESIMC, aes)
{
    union lanes r = {b};
    inv_mix_columns(r.b);
    return r.v;
}
INLINE uint32_t sub_word(uint32_t w)
{
    return sbox[w & 255] | (uint32_t)sbox[w >> 8 & 255] << 8 | (uint32_t)sbox[w >> 16 & 255] << 16 |
           (uint32_t)sbox[w >> 24] << 24;
}
INLINE uint32_t ror(uint32_t x, unsigned n)
{
    return x >> n | x << (32 - n);
}
INLINE uint32_t rol(uint32_t x, unsigned n)
{
    return x << n | x >> (32 - n);
}
VOPX(AESKEYGENASSIST, aes)
{
    union lanes q = {b}, r;
    r.d[0] = sub_word(q.d[1]);
    r.d[1] = ror(r.d[0], 8) ^ imm;
    r.d[2] = sub_word(q.d[3]);
    r.d[3] = ror(r.d[2], 8) ^ imm;
    return r.v;
}

/* --- carry-less multiplication
 * ---------------------------------------------------------------------------------------------- */
VOPX(PCLMULQDQ, pclmulqdq)
{
    uint64_t x = (uint64_t)(imm & 1 ? a[1] : a[0]), y = (uint64_t)(imm & 16 ? b[1] : b[0]);
#if HOST_X86
    if (HOST_HAS("pclmul")) {
        v128 p = v128_q(x, 0), q = v128_q(y, 0);
        __asm__("pclmulqdq $0, %1, %0" : "+x"(p) : "x"(q));
        return p;
    }
#endif
    uint64_t lo = 0, hi = 0;
    for (unsigned i = 0; i < 64; i++)
        if (y >> i & 1) {
            lo ^= x << i;
            hi ^= i ? x >> (64 - i) : 0;
        }
    return v128_q(lo, hi);
}

/* --- SHA: the manuals count words from the top
 * -------------------------------------------------------------------------------- */
VOPX(SHA1NEXTE, sha_ni)
{
    union lanes p = {a}, r = {b};
    r.d[3] += rol(p.d[3], 30);
    return r.v;
}
VOPX(SHA1MSG1, sha_ni)
{
    union lanes p = {a}, q = {b}, r;
    r.d[3] = p.d[1] ^ p.d[3];
    r.d[2] = p.d[0] ^ p.d[2];
    r.d[1] = q.d[3] ^ p.d[1];
    r.d[0] = q.d[2] ^ p.d[0];
    return r.v;
}
VOPX(SHA1MSG2, sha_ni)
{
    union lanes p = {a}, q = {b}, r;
    r.d[3] = rol(p.d[3] ^ q.d[2], 1);
    r.d[2] = rol(p.d[2] ^ q.d[1], 1);
    r.d[1] = rol(p.d[1] ^ q.d[0], 1);
    r.d[0] = rol(p.d[0] ^ r.d[3], 1);
    return r.v;
}
VOPX(SHA1RNDS4, sha_ni)
{
    static const uint32_t k[4] = {0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6};
    union lanes p = {a}, q = {b}, r;
    uint32_t A = p.d[3], B = p.d[2], C = p.d[1], D = p.d[0], E = 0; /* the first word comes with E added */
    for (unsigned i = 0; i < 4; i++) {
        uint32_t f = (imm & 3) == 0 ? (B & C) ^ (~B & D) : (imm & 3) == 2 ? (B & C) ^ (B & D) ^ (C & D) : B ^ C ^ D;
        uint32_t t = f + rol(A, 5) + q.d[3 - i] + E + k[imm & 3];
        E = D;
        D = C;
        C = rol(B, 30);
        B = A;
        A = t;
    }
    r.d[3] = A;
    r.d[2] = B;
    r.d[1] = C;
    r.d[0] = D;
    return r.v;
}
INLINE uint32_t sigma0(uint32_t x)
{
    return ror(x, 7) ^ ror(x, 18) ^ x >> 3;
}
INLINE uint32_t sigma1(uint32_t x)
{
    return ror(x, 17) ^ ror(x, 19) ^ x >> 10;
}
VOPX(SHA256MSG1, sha_ni)
{
    union lanes p = {a}, q = {b}, r;
    for (unsigned i = 0; i < 4; i++)
        r.d[i] = p.d[i] + sigma0(i == 3 ? q.d[0] : p.d[i + 1]);
    return r.v;
}
VOPX(SHA256MSG2, sha_ni)
{
    union lanes p = {a}, q = {b}, r;
    r.d[0] = p.d[0] + sigma1(q.d[2]);
    r.d[1] = p.d[1] + sigma1(q.d[3]);
    r.d[2] = p.d[2] + sigma1(r.d[0]);
    r.d[3] = p.d[3] + sigma1(r.d[1]);
    return r.v;
}
/* The two round inputs are in XMM0. */
static v128 sha256_rounds(v128 a, v128 b, v128 wk)
{
    union lanes p = {a}, q = {b}, w = {wk}, r;
    uint32_t A = q.d[3], B = q.d[2], C = p.d[3], D = p.d[2], E = q.d[1], F = q.d[0], G = p.d[1], H = p.d[0];
    for (unsigned i = 0; i < 2; i++) {
        uint32_t t = ((E & F) ^ (~E & G)) + (ror(E, 6) ^ ror(E, 11) ^ ror(E, 25)) + w.d[i] + H;
        uint32_t u = ((A & B) ^ (A & C) ^ (B & C)) + (ror(A, 2) ^ ror(A, 13) ^ ror(A, 22));
        H = G;
        G = F;
        F = E;
        E = t + D;
        D = C;
        C = B;
        B = A;
        A = t + u;
    }
    r.d[3] = A;
    r.d[2] = B;
    r.d[1] = E;
    r.d[0] = F;
    return r.v;
}
HANDLER(x_rr_SHA256RNDS2)
{
    if (!sse_ok(c, o))
        return false;
    xmm_set(c, o->r0, sha256_rounds(xmm_get(c, o->r0), xmm_get(c, o->r1), xmm_get(c, 0)));
    return true;
}
HANDLER(x_rm_SHA256RNDS2)
{
    v128 b;
    if (!sse_ok(c, o) || !sse_ld128(c, o, &b))
        return false;
    xmm_set(c, o->r0, sha256_rounds(xmm_get(c, o->r0), b, xmm_get(c, 0)));
    return true;
}
VOP_SEL(SHA256RNDS2, .rr = x_rr_SHA256RNDS2, .rm = x_rm_SHA256RNDS2, .xf = FEATURE_sha_ni)
