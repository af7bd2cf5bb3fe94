/* SPDX-License-Identifier: MIT
 *
 * base.h: bits, branches, assertions. Knows no x86.
 */
#ifndef BASE_BASE_H
#define BASE_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define likely(x)     __builtin_expect(!!(x), 1)
#define unlikely(x)   __builtin_expect(!!(x), 0)
#define ARRAY_LEN(a)  (sizeof(a) / sizeof((a)[0]))
#define BIT(n)        (1ULL << (n))
#define INLINE        static inline __attribute__((always_inline))
#define NOINLINE      __attribute__((noinline))
#define COLD          __attribute__((noinline, cold))
#define UNUSED        __attribute__((unused))
#define CONCAT_(a, b) a##b
#define CONCAT(a, b)  CONCAT_(a, b)

/* Bits hi..lo of v, shifted down. hi - lo may be 63. */
INLINE uint64_t bits(uint64_t v, unsigned hi, unsigned lo)
{
    return (v >> lo) & (~0ULL >> (63 - (hi - lo)));
}
/* v with bit n set to on. */
INLINE uint64_t bit_put(uint64_t v, unsigned n, bool on)
{
    return (v & ~BIT(n)) | ((uint64_t)on << n);
}
/* The low n bits set; n may be 64. */
INLINE uint64_t mask_low(unsigned n)
{
    return n >= 64 ? ~0ULL : BIT(n) - 1;
}
/* The low `bits_` bits of v as a signed number, extended to 64 bits. */
INLINE uint64_t sign_extend(uint64_t v, unsigned bits_)
{
    return (uint64_t)((int64_t)(v << (64 - bits_)) >> (64 - bits_));
}
#define MIN(a, b)                                                                                                      \
    ({                                                                                                                 \
        __typeof__(a) a_ = (a);                                                                                        \
        __typeof__(b) b_ = (b);                                                                                        \
        a_ < b_ ? a_ : b_;                                                                                             \
    })
#define MAX(a, b)                                                                                                      \
    ({                                                                                                                 \
        __typeof__(a) a_ = (a);                                                                                        \
        __typeof__(b) b_ = (b);                                                                                        \
        a_ > b_ ? a_ : b_;                                                                                             \
    })

/* Three kinds of address that must not be mixed up. la: linear. gpa: guest-physical (what one-level paging gives in
 * guest mode under a second-level table). hpa: physical address of the machine. Outside guest mode gpa and hpa are the
 * same number. */
typedef struct {
    uint64_t v;
} la_t;
typedef struct {
    uint64_t v;
} gpa_t;
typedef struct {
    uint64_t v;
} hpa_t;
#define LA(x)  ((la_t){(x)})
#define GPA(x) ((gpa_t){(x)})
#define HPA(x) ((hpa_t){(x)})

#define PAGE_SIZE   4096u
#define PAGE_OFFSET 4095ull
#define PAGE_BASE   (~4095ull)

/* Unaligned access to memory that others may also write: one move each, no alignment assumption, no aliasing
 * assumption. */
#define BASE_UNALIGNED(bits_)                                                                                          \
    INLINE uint##bits_##_t load##bits_(const void *p)                                                                  \
    {                                                                                                                  \
        uint##bits_##_t v;                                                                                             \
        __builtin_memcpy(&v, p, sizeof v);                                                                             \
        return v;                                                                                                      \
    }                                                                                                                  \
    INLINE void store##bits_(void *p, uint##bits_##_t v)                                                               \
    {                                                                                                                  \
        __builtin_memcpy(p, &v, sizeof v);                                                                             \
    }
BASE_UNALIGNED(8)
BASE_UNALIGNED(16)
BASE_UNALIGNED(32)
BASE_UNALIGNED(64)
#undef BASE_UNALIGNED

#endif
