/* SPDX-License-Identifier: MIT
 *
 * workload.c: see workload.h. Freestanding; SSE2 for the double and vector ones. Sizes are chosen so that each executes
 * one to two hundred million instructions.
 */
#include "workload.h"

#include <emmintrin.h>

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9e3779b97f4a7c15ull;
    return h ^ h >> 29;
}
static uint32_t lcg(uint32_t *s)
{
    return *s = *s * 1664525u + 1013904223u;
}

/* Shifts, adds, multiplies and a data-dependent branch; registers only. */
static uint64_t integer(uint8_t *memory)
{
    uint64_t a = 1, b = 0x123456789abcdefull, n = 0;
    for (unsigned i = 0; i < 12000000; i++) {
        a ^= a << 13, a ^= a >> 7, a ^= a << 17;
        b += a * 3 + i;
        if (b & 4)
            n += b >> 60;
    }
    return mix(a, mix(b, n));
}

static uint64_t sieve(uint8_t *memory)
{
    enum { N = 2000000 };
    uint64_t primes = 0, sum = 0;
    for (unsigned round = 0; round < 4; round++) {
        for (unsigned i = 0; i < N; i++)
            memory[i] = 1;
        for (unsigned i = 2; i * i < N; i++)
            if (memory[i])
                for (unsigned j = i * i; j < N; j += i)
                    memory[j] = 0;
        for (unsigned i = 2; i < N; i++)
            if (memory[i])
                primes++, sum += i;
    }
    return mix(primes, sum);
}

/* A random cycle through 16 MiB, one load depending on the one before: caches and TLB. */
static uint64_t chase(uint8_t *memory)
{
    enum { N = 1 << 21 };
    uint64_t *next = (uint64_t *)memory;
    uint32_t seed = 7;
    for (uint32_t i = 0; i < N; i++)
        next[i] = i;
    for (uint32_t i = N - 1; i; i--) { /* Sattolo: one cycle through all */
        uint32_t j = lcg(&seed) % i;
        uint64_t t = next[i];
        next[i] = next[j], next[j] = t;
    }
    uint64_t p = 0, h = 0;
    for (unsigned i = 0; i < 6000000; i++) {
        p = next[p];
        h += p;
    }
    return mix(p, h);
}

static uint64_t matmul(uint8_t *memory)
{
    enum { N = 192 };
    double(*a)[N] = (void *)memory, (*b)[N] = a + N, (*c)[N] = b + N;
    for (unsigned i = 0; i < N; i++)
        for (unsigned j = 0; j < N; j++)
            a[i][j] = (double)(i + 2 * j) / 7.0, b[i][j] = (double)(3 * i + j) / 11.0;
    uint64_t h = 0;
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < N; i++)
            for (unsigned j = 0; j < N; j++) {
                double s = 0;
                for (unsigned k = 0; k < N; k++)
                    s += a[i][k] * b[k][j];
                c[i][j] = s;
            }
        for (unsigned i = 0; i < N; i++)
            a[i][i] += c[i][(i + round) % N] / 1e6;
    }
    for (unsigned i = 0; i < N; i++)
        for (unsigned j = 0; j < N; j++) {
            union {
                double d;
                uint64_t u;
            } v = {c[i][j]};
            h = mix(h, v.u);
        }
    return h;
}

static __attribute__((noinline)) uint64_t fibonacci(uint64_t n)
{
    /* The barrier keeps one call of the two from becoming a loop. */
    __asm__("" : "+r"(n));
    if (n < 2)
        return n;
    uint64_t one = fibonacci(n - 1);
    __asm__("" : "+r"(one));
    return one + fibonacci(n - 2);
}
static uint64_t recursion(uint8_t *memory)
{
    return mix(0, fibonacci(34));
}

/* --- SHA-256 (FIPS 180-4); its constants are the fractions of cube roots of primes, computed here */
static uint32_t cube_root_fraction(unsigned p)
{
    /* The greatest x with x^3 <= p * 2^96, then its low 32 bits: bit by bit, in 128-bit arithmetic. x < 2^35. */
    uint64_t x = 0;
    for (int bit = 34; bit >= 0; bit--) {
        uint64_t y = x | 1ull << bit;
        unsigned __int128 square = (unsigned __int128)y * y; /* < 2^70 */
        unsigned __int128 high = (square >> 32) * y, low = (square & 0xffffffff) * y;
        /* y^3 = high * 2^32 + low; compare with p * 2^96 after dropping 32 bits. */
        unsigned __int128 cube = high + (low >> 32);
        if (cube < (unsigned __int128)p << 64)
            x = y;
    }
    return (uint32_t)x;
}
static uint32_t rotate(uint32_t v, unsigned n)
{
    return v >> n | v << (32 - n);
}
static void sha256_block(uint32_t h[8], const uint32_t k[64], const uint8_t *p)
{
    uint32_t w[64], s[8];
    for (unsigned i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
    for (unsigned i = 16; i < 64; i++)
        w[i] = w[i - 16] + (rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 7] +
               (rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10);
    for (unsigned i = 0; i < 8; i++)
        s[i] = h[i];
    for (unsigned i = 0; i < 64; i++) {
        uint32_t t1 = s[7] + (rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25)) +
                      ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
        uint32_t t2 =
            (rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        s[7] = s[6], s[6] = s[5], s[5] = s[4], s[4] = s[3] + t1, s[3] = s[2], s[2] = s[1], s[1] = s[0], s[0] = t1 + t2;
    }
    for (unsigned i = 0; i < 8; i++)
        h[i] += s[i];
}
static uint64_t sha256(uint8_t *memory)
{
    static const uint32_t initial[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    enum { SIZE = 1 << 20, ROUNDS = 4 };
    uint32_t k[64], h[8], seed = 3;
    unsigned n = 0;
    for (unsigned p = 2; n < 64; p++) {
        bool prime = true;
        for (unsigned d = 2; d * d <= p; d++)
            prime = prime && p % d;
        if (prime)
            k[n++] = cube_root_fraction(p);
    }
    for (unsigned i = 0; i < 8; i++)
        h[i] = initial[i];
    for (unsigned i = 0; i < SIZE; i++)
        memory[i] = (uint8_t)(lcg(&seed) >> 24);
    for (unsigned round = 0; round < ROUNDS; round++)
        for (unsigned i = 0; i < SIZE; i += 64)
            sha256_block(h, k, memory + i);
    return (uint64_t)h[0] << 32 | h[7];
}

/* REP MOVSB, MOVSQ, STOSQ, CMPSB and SCASB over 64 KiB. */
static uint64_t strings(uint8_t *memory)
{
    enum { SIZE = 65536 };
    uint64_t h = 0;
    uint32_t seed = 11;
    for (unsigned i = 0; i < SIZE; i++)
        memory[i] = (uint8_t)(lcg(&seed) >> 24 | 1);
    for (unsigned round = 0; round < 400; round++) {
        const uint8_t *s = memory;
        uint8_t *d = memory + SIZE + (round & 7);
        uint64_t n = SIZE, v = round, at;
        memory[(round * 97u) % SIZE] = 0;
        __asm__ volatile("rep movsb" : "+S"(s), "+D"(d), "+c"(n) : : "memory");
        s = memory, d = memory + 3 * SIZE, n = SIZE / 8;
        __asm__ volatile("rep movsq" : "+S"(s), "+D"(d), "+c"(n) : : "memory");
        d = memory + 5 * SIZE, n = SIZE / 8;
        __asm__ volatile("rep stosq" : "+D"(d), "+c"(n) : "a"(v) : "memory");
        s = memory, d = memory + SIZE + (round & 7), n = SIZE / 4;
        __asm__ volatile("repe cmpsb" : "+S"(s), "+D"(d), "+c"(n) : : "memory", "cc");
        at = n;
        d = memory, n = SIZE;
        __asm__ volatile("repne scasb" : "+D"(d), "+c"(n) : "a"(0) : "memory", "cc");
        h = mix(h, at + n);
        memory[(round * 97u) % SIZE] = (uint8_t)round | 1;
    }
    return h;
}

/* 16 bytes at a time: load, add, store. */
static uint64_t vector(uint8_t *memory)
{
    enum { SIZE = 1 << 20 };
    __m128i *a = (__m128i *)memory, *b = (__m128i *)(memory + SIZE);
    for (unsigned i = 0; i < SIZE / 16; i++)
        a[i] = _mm_set1_epi32((int)i);
    for (unsigned round = 0; round < 320; round++) {
        __m128i k = _mm_set1_epi16((short)round);
        for (unsigned i = 0; i < SIZE / 16; i++)
            _mm_store_si128(b + i, _mm_add_epi16(_mm_xor_si128(_mm_load_si128(a + i), _mm_load_si128(b + i)), k));
    }
    uint64_t h = 0;
    for (unsigned i = 0; i < SIZE / 8; i += 512)
        h = mix(h, ((uint64_t *)b)[i]);
    return h;
}

static void quicksort(uint32_t *v, long low, long high)
{
    while (low < high) {
        uint32_t pivot = v[(low + high) / 2];
        long i = low, j = high;
        while (i <= j) {
            while (v[i] < pivot)
                i++;
            while (v[j] > pivot)
                j--;
            if (i <= j) {
                uint32_t t = v[i];
                v[i++] = v[j], v[j--] = t;
            }
        }
        quicksort(v, low, j);
        low = i;
    }
}
static uint64_t sort(uint8_t *memory)
{
    enum { N = 700000 };
    uint32_t *v = (uint32_t *)memory, seed = 5;
    uint64_t h = 0;
    for (unsigned i = 0; i < N; i++)
        v[i] = lcg(&seed);
    quicksort(v, 0, N - 1);
    for (unsigned i = 0; i < N; i += 37)
        h = mix(h, v[i]);
    return h;
}

/* A function whose immediate operand is rewritten before each call. */
static uint64_t self_modifying(uint8_t *memory)
{
    static const uint8_t code[] = {0xb8, 0,    0, 0, 0,    /* mov eax, imm32 */
                                   0x69, 0xc0, 3, 0, 0, 0, /* imul eax, eax, 3 */
                                   0x01, 0xf8,             /* add eax, edi */
                                   0xc3};
    uint8_t *f = memory + 4096 * 5;
    for (unsigned i = 0; i < sizeof code; i++)
        f[i] = code[i];
    uint32_t r = 1;
    for (uint32_t i = 0; i < 300000; i++) {
        *(volatile uint32_t *)(f + 1) = i ^ r;
        r = ((uint32_t(*)(uint32_t))(void *)f)(r);
    }
    return mix(0, r);
}

/* An address space switch, then one access to each of 48 pages. */
static uint64_t reload_cr3(uint8_t *memory)
{
    uint64_t h = 0;
    for (unsigned i = 0; i < 48; i++)
        memory[i * 4096u] = (uint8_t)i;
    for (unsigned i = 0; i < 100000; i++) {
        uint64_t cr3;
        __asm__ volatile("mov %%cr3, %0\n\tmov %0, %%cr3" : "=r"(cr3) : : "memory");
        for (unsigned p = 0; p < 48; p++)
            h += ((volatile uint8_t *)memory)[p * 4096u];
    }
    return mix(0, h);
}

const struct workload workloads[] = {
    {"integer", integer, false},    {"sieve", sieve, false},         {"chase", chase, false},
    {"matmul", matmul, false},      {"recursion", recursion, false}, {"sha256", sha256, false},
    {"strings", strings, false},    {"vector", vector, false},       {"sort", sort, false},
    {"smc", self_modifying, false}, {"cr3", reload_cr3, true},
};
const unsigned workload_count = sizeof workloads / sizeof workloads[0];
