/* SPDX-License-Identifier: MIT
 *
 * intrin_inline.h: the part of <vmenter/intrin.h> that needs no privilege and no logical processor: bits, interlocked
 * operations, strings, 128-bit arithmetic, barriers. The same hosted and native. Not to be included by itself.
 *
 * The interlocked operations and bit scans are macros over the type of the object that is pointed to: MSVC's `long` may
 * be declared as int or, on LP64, left as it stands in the source.
 */
#ifndef VMENTER_INTRIN_INLINE_H
#define VMENTER_INTRIN_INLINE_H

#if defined(__GNUC__) && !defined(VMENTER_BUILDING)
#pragma GCC system_header /* statement expressions and casts are no business of the program's warnings */
#endif

#define VMENTER_INLINE static __inline__ __attribute__((__always_inline__, __unused__))

/* --- barriers and odds and ends ----------------------------------------------------------------------------------- */
VMENTER_INLINE void vmenter_barrier(void)
{
    __asm__ __volatile__("" ::: "memory");
}
#define _ReadWriteBarrier()       vmenter_barrier()
#define _ReadBarrier()            vmenter_barrier()
#define _WriteBarrier()           vmenter_barrier()
#define __faststorefence()        __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define _ReturnAddress()          __builtin_return_address(0)
#define _AddressOfReturnAddress() ((void *)((void **)__builtin_frame_address(0) + 1))
#ifndef __noop
#define __noop(...) ((void)0)
#endif
#undef __nop
#undef __debugbreak
#undef _mm_pause
#undef _mm_lfence
#undef _mm_sfence
#undef _mm_mfence
#define __nop()        vmenter_nop()
#define __debugbreak() vmenter_debugbreak()
#define _mm_pause()    vmenter_pause()
#if defined(__x86_64__)
/* The compiler's own fences want SSE2 switched on. */
VMENTER_INLINE void vmenter_nop(void)
{
    __asm__ __volatile__("nop");
}
VMENTER_INLINE void vmenter_debugbreak(void)
{
    __asm__ __volatile__("int3" ::: "memory");
}
VMENTER_INLINE void vmenter_pause(void)
{
    __asm__ __volatile__("pause" ::: "memory");
}
VMENTER_INLINE void vmenter_lfence(void)
{
    __asm__ __volatile__("lfence" ::: "memory");
}
VMENTER_INLINE void vmenter_sfence(void)
{
    __asm__ __volatile__("sfence" ::: "memory");
}
VMENTER_INLINE void vmenter_mfence(void)
{
    __asm__ __volatile__("mfence" ::: "memory");
}
#define _mm_lfence() vmenter_lfence()
#define _mm_sfence() vmenter_sfence()
#define _mm_mfence() vmenter_mfence()
#else
VMENTER_INLINE void vmenter_nop(void)
{
    __asm__ __volatile__("");
}
VMENTER_INLINE void vmenter_debugbreak(void)
{
    __builtin_trap();
}
VMENTER_INLINE void vmenter_pause(void)
{
    __asm__ __volatile__("" ::: "memory");
}
#define _mm_lfence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define _mm_sfence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define _mm_mfence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#endif

/* --- bits --------------------------------------------------------------------------------------------------------- */
#define VMENTER_SCAN(index, mask, type, expression)                                                                    \
    __extension__({                                                                                                    \
        type vmenter_mask_ = (type)(mask);                                                                             \
        unsigned char vmenter_found_ = vmenter_mask_ != 0;                                                             \
        if (vmenter_found_)                                                                                            \
            *(index) = (expression);                                                                                   \
        vmenter_found_;                                                                                                \
    })
#undef _BitScanForward
#undef _BitScanReverse
#undef _BitScanForward64
#undef _BitScanReverse64
#define _BitScanForward(index, mask) VMENTER_SCAN(index, mask, unsigned int, (unsigned)__builtin_ctz(vmenter_mask_))
#define _BitScanReverse(index, mask)                                                                                   \
    VMENTER_SCAN(index, mask, unsigned int, 31u - (unsigned)__builtin_clz(vmenter_mask_))
#define _BitScanForward64(index, mask)                                                                                 \
    VMENTER_SCAN(index, mask, unsigned long long, (unsigned)__builtin_ctzll(vmenter_mask_))
#define _BitScanReverse64(index, mask)                                                                                 \
    VMENTER_SCAN(index, mask, unsigned long long, 63u - (unsigned)__builtin_clzll(vmenter_mask_))

/* BT and kin address a bit string: the offset is signed and reaches beyond the addressed element. */
#define VMENTER_BIT_BYTE(a, b) ((volatile unsigned char *)(uintptr_t)(a) + ((b) >> 3))
#define VMENTER_BIT_FAMILY(suffix, type)                                                                               \
    VMENTER_INLINE unsigned char vmenter_bittest##suffix(const volatile void *a, type b)                               \
    {                                                                                                                  \
        return (unsigned char)(*VMENTER_BIT_BYTE(a, b) >> (b & 7) & 1);                                                \
    }                                                                                                                  \
    VMENTER_INLINE unsigned char vmenter_bittestandset##suffix(volatile void *a, type b)                               \
    {                                                                                                                  \
        volatile unsigned char *p = VMENTER_BIT_BYTE(a, b);                                                            \
        unsigned char old = *p;                                                                                        \
        *p = (unsigned char)(old | 1u << (b & 7));                                                                     \
        return (unsigned char)(old >> (b & 7) & 1);                                                                    \
    }                                                                                                                  \
    VMENTER_INLINE unsigned char vmenter_bittestandreset##suffix(volatile void *a, type b)                             \
    {                                                                                                                  \
        volatile unsigned char *p = VMENTER_BIT_BYTE(a, b);                                                            \
        unsigned char old = *p;                                                                                        \
        *p = (unsigned char)(old & ~(1u << (b & 7)));                                                                  \
        return (unsigned char)(old >> (b & 7) & 1);                                                                    \
    }                                                                                                                  \
    VMENTER_INLINE unsigned char vmenter_bittestandcomplement##suffix(volatile void *a, type b)                        \
    {                                                                                                                  \
        volatile unsigned char *p = VMENTER_BIT_BYTE(a, b);                                                            \
        unsigned char old = *p;                                                                                        \
        *p = (unsigned char)(old ^ 1u << (b & 7));                                                                     \
        return (unsigned char)(old >> (b & 7) & 1);                                                                    \
    }                                                                                                                  \
    VMENTER_INLINE unsigned char vmenter_interlockedbittestandset##suffix(volatile void *a, type b)                    \
    {                                                                                                                  \
        unsigned char bit = (unsigned char)(1u << (b & 7));                                                            \
        return (__atomic_fetch_or(VMENTER_BIT_BYTE(a, b), bit, __ATOMIC_SEQ_CST) & bit) != 0;                          \
    }                                                                                                                  \
    VMENTER_INLINE unsigned char vmenter_interlockedbittestandreset##suffix(volatile void *a, type b)                  \
    {                                                                                                                  \
        unsigned char bit = (unsigned char)(1u << (b & 7));                                                            \
        return (__atomic_fetch_and(VMENTER_BIT_BYTE(a, b), (unsigned char)~bit, __ATOMIC_SEQ_CST) & bit) != 0;         \
    }
VMENTER_BIT_FAMILY(, vmenter_msvc_long)
VMENTER_BIT_FAMILY(64, long long)
#undef VMENTER_BIT_FAMILY
#undef _bittest
#define _bittest(a, b) vmenter_bittest(a, b)
#undef _bittest64
#define _bittest64(a, b) vmenter_bittest64(a, b)
#undef _bittestandset
#define _bittestandset(a, b) vmenter_bittestandset(a, b)
#undef _bittestandset64
#define _bittestandset64(a, b) vmenter_bittestandset64(a, b)
#undef _bittestandreset
#define _bittestandreset(a, b) vmenter_bittestandreset(a, b)
#undef _bittestandreset64
#define _bittestandreset64(a, b) vmenter_bittestandreset64(a, b)
#undef _bittestandcomplement
#define _bittestandcomplement(a, b) vmenter_bittestandcomplement(a, b)
#undef _bittestandcomplement64
#define _bittestandcomplement64(a, b) vmenter_bittestandcomplement64(a, b)
#undef _interlockedbittestandset
#define _interlockedbittestandset(a, b) vmenter_interlockedbittestandset(a, b)
#undef _interlockedbittestandset64
#define _interlockedbittestandset64(a, b) vmenter_interlockedbittestandset64(a, b)
#undef _interlockedbittestandreset
#define _interlockedbittestandreset(a, b) vmenter_interlockedbittestandreset(a, b)
#undef _interlockedbittestandreset64
#define _interlockedbittestandreset64(a, b) vmenter_interlockedbittestandreset64(a, b)

#undef __popcnt
#undef __popcnt16
#undef __popcnt64
#undef __lzcnt
#undef __lzcnt16
#undef __lzcnt64
#define __popcnt(value)   ((unsigned int)__builtin_popcount((unsigned int)(value)))
#define __popcnt16(value) ((unsigned short)__builtin_popcount((unsigned short)(value)))
#define __popcnt64(value) ((unsigned long long)__builtin_popcountll(value))
#define __lzcnt(value)    vmenter_lzcnt(value)
#define __lzcnt16(value)  vmenter_lzcnt16(value)
#define __lzcnt64(value)  vmenter_lzcnt64(value)
VMENTER_INLINE unsigned int vmenter_lzcnt(unsigned int v)
{
    return v ? (unsigned)__builtin_clz(v) : 32;
}
VMENTER_INLINE unsigned short vmenter_lzcnt16(unsigned short v)
{
    return v ? (unsigned short)(__builtin_clz(v) - 16) : 16;
}
VMENTER_INLINE unsigned long long vmenter_lzcnt64(unsigned long long v)
{
    return v ? (unsigned long long)__builtin_clzll(v) : 64;
}

#undef _byteswap_ushort
#undef _byteswap_ulong
#undef _byteswap_uint64
#define _byteswap_ushort(value) __builtin_bswap16(value)
#define _byteswap_ulong(value)  __builtin_bswap32(value)
#define _byteswap_uint64(value) __builtin_bswap64(value)

#define VMENTER_ROTATE(name, bits, type, left)                                                                         \
    VMENTER_INLINE type name(type value, int shift)                                                                    \
    {                                                                                                                  \
        unsigned n = (unsigned)((left) ? shift : -shift) & (bits - 1u);                                                \
        return (type)(n ? value << n | value >> (bits - n) : value);                                                   \
    }
VMENTER_ROTATE(vmenter_rotl8, 8, unsigned char, 1)
VMENTER_ROTATE(vmenter_rotr8, 8, unsigned char, 0)
VMENTER_ROTATE(vmenter_rotl16, 16, unsigned short, 1)
VMENTER_ROTATE(vmenter_rotr16, 16, unsigned short, 0)
VMENTER_ROTATE(vmenter_rotl32, 32, unsigned int, 1)
VMENTER_ROTATE(vmenter_rotr32, 32, unsigned int, 0)
VMENTER_ROTATE(vmenter_rotl64, 64, unsigned long long, 1)
VMENTER_ROTATE(vmenter_rotr64, 64, unsigned long long, 0)
#undef VMENTER_ROTATE
#undef _rotl8
#undef _rotr8
#undef _rotl16
#undef _rotr16
#undef _rotl
#undef _rotr
#undef _rotl64
#undef _rotr64
#undef _lrotl
#undef _lrotr
#define _rotl8(value, shift)  vmenter_rotl8(value, shift)
#define _rotr8(value, shift)  vmenter_rotr8(value, shift)
#define _rotl16(value, shift) vmenter_rotl16(value, shift)
#define _rotr16(value, shift) vmenter_rotr16(value, shift)
#define _rotl(value, shift)   vmenter_rotl32(value, shift)
#define _rotr(value, shift)   vmenter_rotr32(value, shift)
#define _rotl64(value, shift) vmenter_rotl64(value, shift)
#define _rotr64(value, shift) vmenter_rotr64(value, shift)
#define _lrotl(value, shift)  vmenter_rotl32(value, shift)
#define _lrotr(value, shift)  vmenter_rotr32(value, shift)

/* --- shifts and products of 64 and 128 bits ----------------------------------------------------------------------- */
__extension__ typedef unsigned __int128 vmenter_u128;
__extension__ typedef __int128 vmenter_i128;

VMENTER_INLINE unsigned long long vmenter_ll_lshift(unsigned long long value, int n)
{
    return value << (n & 63);
}
VMENTER_INLINE long long vmenter_ll_rshift(long long value, int n)
{
    return value >> (n & 63);
}
VMENTER_INLINE unsigned long long vmenter_ull_rshift(unsigned long long value, int n)
{
    return value >> (n & 63);
}
VMENTER_INLINE unsigned long long vmenter_shiftleft128(unsigned long long low, unsigned long long high, unsigned char n)
{
    return (unsigned long long)((((vmenter_u128)high << 64 | low) << (n & 63)) >> 64);
}
VMENTER_INLINE unsigned long long vmenter_shiftright128(unsigned long long low, unsigned long long high,
                                                        unsigned char n)
{
    return (unsigned long long)(((vmenter_u128)high << 64 | low) >> (n & 63));
}
VMENTER_INLINE long long vmenter_emul(int a, int b)
{
    return (long long)a * b;
}
VMENTER_INLINE unsigned long long vmenter_emulu(unsigned int a, unsigned int b)
{
    return (unsigned long long)a * b;
}
VMENTER_INLINE long long vmenter_mulh(long long a, long long b)
{
    return (long long)((vmenter_i128)a * b >> 64);
}
VMENTER_INLINE unsigned long long vmenter_umulh(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)((vmenter_u128)a * b >> 64);
}
VMENTER_INLINE long long vmenter_mul128(long long a, long long b, void *high)
{
    vmenter_i128 product = (vmenter_i128)a * b;
    long long h = (long long)(product >> 64);
    __builtin_memcpy(high, &h, sizeof(h));
    return (long long)product;
}
VMENTER_INLINE unsigned long long vmenter_umul128(unsigned long long a, unsigned long long b, void *high)
{
    vmenter_u128 product = (vmenter_u128)a * b;
    unsigned long long h = (unsigned long long)(product >> 64);
    __builtin_memcpy(high, &h, sizeof(h));
    return (unsigned long long)product;
}
#define __shiftleft128(low, high, n)  vmenter_shiftleft128(low, high, n)
#define __shiftright128(low, high, n) vmenter_shiftright128(low, high, n)
#define __emul(a, b)                  vmenter_emul(a, b)
#define __emulu(a, b)                 vmenter_emulu(a, b)
#define __mulh(a, b)                  vmenter_mulh(a, b)
#define __umulh(a, b)                 vmenter_umulh(a, b)
#define __ll_lshift(value, n)         vmenter_ll_lshift(value, n)
#define __ll_rshift(value, n)         vmenter_ll_rshift(value, n)
#define __ull_rshift(value, n)        vmenter_ull_rshift(value, n)
#define _mul128(a, b, high)           vmenter_mul128(a, b, high)
#define _umul128(a, b, high)          vmenter_umul128(a, b, high)
#if defined(__x86_64__)
/* One DIV or IDIV: #DE on a zero divisor or a quotient that does not fit, as MSVC's. */
VMENTER_INLINE long long vmenter_div128(long long high, long long low, long long divisor, void *remainder)
{
    long long quotient, rest;
    __asm__("idivq %4" : "=a"(quotient), "=d"(rest) : "0"(low), "1"(high), "rm"(divisor) : "cc");
    __builtin_memcpy(remainder, &rest, sizeof(rest));
    return quotient;
}
VMENTER_INLINE unsigned long long vmenter_udiv128(unsigned long long high, unsigned long long low,
                                                  unsigned long long divisor, void *remainder)
{
    unsigned long long quotient, rest;
    __asm__("divq %4" : "=a"(quotient), "=d"(rest) : "0"(low), "1"(high), "rm"(divisor) : "cc");
    __builtin_memcpy(remainder, &rest, sizeof(rest));
    return quotient;
}
#define _div128(high, low, divisor, remainder)  vmenter_div128(high, low, divisor, remainder)
#define _udiv128(high, low, divisor, remainder) vmenter_udiv128(high, low, divisor, remainder)
#endif

/* --- strings: count elements of 1, 2, 4 or 8 bytes, upwards ------------------------------------------------------- */
#if defined(__x86_64__)
#define VMENTER_STRING(letter, type)                                                                                   \
    VMENTER_INLINE void vmenter_stos##letter(void *destination, type value, size_t count)                              \
    {                                                                                                                  \
        __asm__ __volatile__("rep stos" VMENTER_STRING_##letter                                                        \
                             : "+D"(destination), "+c"(count)                                                          \
                             : "a"(value)                                                                              \
                             : "memory");                                                                              \
    }                                                                                                                  \
    VMENTER_INLINE void vmenter_movs##letter(void *destination, const void *source, size_t count)                      \
    {                                                                                                                  \
        __asm__ __volatile__("rep movs" VMENTER_STRING_##letter                                                        \
                             : "+D"(destination), "+S"(source), "+c"(count)                                            \
                             :                                                                                         \
                             : "memory");                                                                              \
    }
#define VMENTER_STRING_b "b"
#define VMENTER_STRING_w "w"
#define VMENTER_STRING_d "l"
#define VMENTER_STRING_q "q"
#else
#define VMENTER_STRING(letter, type)                                                                                   \
    VMENTER_INLINE void vmenter_stos##letter(void *destination, type value, size_t count)                              \
    {                                                                                                                  \
        for (unsigned char *p = (unsigned char *)destination; count; count--, p += sizeof(value))                      \
            __builtin_memcpy(p, &value, sizeof(value));                                                                \
    }                                                                                                                  \
    VMENTER_INLINE void vmenter_movs##letter(void *destination, const void *source, size_t count)                      \
    {                                                                                                                  \
        unsigned char *d = (unsigned char *)destination;                                                               \
        const unsigned char *s = (const unsigned char *)source;                                                        \
        for (; count; count--, d += sizeof(type), s += sizeof(type)) {                                                 \
            type unit;                                                                                                 \
            __builtin_memcpy(&unit, s, sizeof(unit));                                                                  \
            __builtin_memcpy(d, &unit, sizeof(unit));                                                                  \
        }                                                                                                              \
    }
#endif
VMENTER_STRING(b, unsigned char)
VMENTER_STRING(w, unsigned short)
VMENTER_STRING(d, vmenter_msvc_ulong)
VMENTER_STRING(q, unsigned long long)
#undef VMENTER_STRING
#define __stosb(destination, value, count)  vmenter_stosb(destination, value, count)
#define __stosw(destination, value, count)  vmenter_stosw(destination, value, count)
#define __stosd(destination, value, count)  vmenter_stosd(destination, value, count)
#define __stosq(destination, value, count)  vmenter_stosq(destination, value, count)
#define __movsb(destination, source, count) vmenter_movsb(destination, source, count)
#define __movsw(destination, source, count) vmenter_movsw(destination, source, count)
#define __movsd(destination, source, count) vmenter_movsd(destination, source, count)
#define __movsq(destination, source, count) vmenter_movsq(destination, source, count)

/* --- interlocked: the width is that of the object pointed to ------------------------------------------------------ */
#define VMENTER_SC __ATOMIC_SEQ_CST
#define VMENTER_CMPXCHG(p, value, comparand)                                                                           \
    __extension__({                                                                                                    \
        __typeof__(__atomic_load_n(p, __ATOMIC_RELAXED)) vmenter_old_ =                                                \
            (__typeof__(__atomic_load_n(p, __ATOMIC_RELAXED)))(comparand);                                             \
        __atomic_compare_exchange_n(p, &vmenter_old_, (__typeof__(__atomic_load_n(p, __ATOMIC_RELAXED)))(value), 0,    \
                                    VMENTER_SC, VMENTER_SC);                                                           \
        vmenter_old_;                                                                                                  \
    })

#define _InterlockedIncrement(p)                                __atomic_add_fetch(p, 1, VMENTER_SC)
#define _InterlockedIncrement16(p)                              __atomic_add_fetch(p, 1, VMENTER_SC)
#define _InterlockedIncrement64(p)                              __atomic_add_fetch(p, 1, VMENTER_SC)
#define _InterlockedDecrement(p)                                __atomic_sub_fetch(p, 1, VMENTER_SC)
#define _InterlockedDecrement16(p)                              __atomic_sub_fetch(p, 1, VMENTER_SC)
#define _InterlockedDecrement64(p)                              __atomic_sub_fetch(p, 1, VMENTER_SC)
#define _InterlockedExchange(p, v)                              __atomic_exchange_n(p, v, VMENTER_SC)
#define _InterlockedExchange8(p, v)                             __atomic_exchange_n(p, v, VMENTER_SC)
#define _InterlockedExchange16(p, v)                            __atomic_exchange_n(p, v, VMENTER_SC)
#define _InterlockedExchange64(p, v)                            __atomic_exchange_n(p, v, VMENTER_SC)
#define _InterlockedExchangePointer(p, v)                       __atomic_exchange_n(p, v, VMENTER_SC)
#define _InterlockedExchangeAdd(p, v)                           __atomic_fetch_add(p, v, VMENTER_SC)
#define _InterlockedExchangeAdd8(p, v)                          __atomic_fetch_add(p, v, VMENTER_SC)
#define _InterlockedExchangeAdd16(p, v)                         __atomic_fetch_add(p, v, VMENTER_SC)
#define _InterlockedExchangeAdd64(p, v)                         __atomic_fetch_add(p, v, VMENTER_SC)
#define _InterlockedAnd(p, v)                                   __atomic_fetch_and(p, v, VMENTER_SC)
#define _InterlockedAnd8(p, v)                                  __atomic_fetch_and(p, v, VMENTER_SC)
#define _InterlockedAnd16(p, v)                                 __atomic_fetch_and(p, v, VMENTER_SC)
#define _InterlockedAnd64(p, v)                                 __atomic_fetch_and(p, v, VMENTER_SC)
#define _InterlockedAnd64_np(p, v)                              __atomic_fetch_and(p, v, VMENTER_SC)
#define _InterlockedOr(p, v)                                    __atomic_fetch_or(p, v, VMENTER_SC)
#define _InterlockedOr8(p, v)                                   __atomic_fetch_or(p, v, VMENTER_SC)
#define _InterlockedOr16(p, v)                                  __atomic_fetch_or(p, v, VMENTER_SC)
#define _InterlockedOr64(p, v)                                  __atomic_fetch_or(p, v, VMENTER_SC)
#define _InterlockedOr64_np(p, v)                               __atomic_fetch_or(p, v, VMENTER_SC)
#define _InterlockedXor(p, v)                                   __atomic_fetch_xor(p, v, VMENTER_SC)
#define _InterlockedXor8(p, v)                                  __atomic_fetch_xor(p, v, VMENTER_SC)
#define _InterlockedXor16(p, v)                                 __atomic_fetch_xor(p, v, VMENTER_SC)
#define _InterlockedXor64(p, v)                                 __atomic_fetch_xor(p, v, VMENTER_SC)
#define _InterlockedXor64_np(p, v)                              __atomic_fetch_xor(p, v, VMENTER_SC)
#define _InterlockedCompareExchange(p, value, comparand)        VMENTER_CMPXCHG(p, value, comparand)
#define _InterlockedCompareExchange8(p, value, comparand)       VMENTER_CMPXCHG(p, value, comparand)
#define _InterlockedCompareExchange16(p, value, comparand)      VMENTER_CMPXCHG(p, value, comparand)
#define _InterlockedCompareExchange64(p, value, comparand)      VMENTER_CMPXCHG(p, value, comparand)
#define _InterlockedCompareExchangePointer(p, value, comparand) VMENTER_CMPXCHG(p, value, comparand)

/* destination is 16-byte aligned. 1 when it held comparand_result, which gets the old value either way. */
VMENTER_INLINE unsigned char vmenter_cmpxchg128(volatile void *destination, unsigned long long high,
                                                unsigned long long low, void *comparand_result)
{
#if defined(__x86_64__)
    unsigned long long old[2];
    unsigned char equal;
    __builtin_memcpy(old, comparand_result, sizeof(old));
    __asm__ __volatile__("lock cmpxchg16b %1"
                         : "=@ccz"(equal), "+m"(*(volatile vmenter_u128 *)destination), "+a"(old[0]), "+d"(old[1])
                         : "b"(low), "c"(high)
                         : "memory");
    __builtin_memcpy(comparand_result, old, sizeof(old));
    return equal;
#else
    vmenter_u128 old, value = (vmenter_u128)high << 64 | low;
    __builtin_memcpy(&old, comparand_result, sizeof(old));
    vmenter_u128 seen = __sync_val_compare_and_swap((volatile vmenter_u128 *)destination, old, value);
    __builtin_memcpy(comparand_result, &seen, sizeof(seen));
    return seen == old;
#endif
}
#define _InterlockedCompareExchange128(destination, high, low, comparand_result)                                       \
    vmenter_cmpxchg128(destination, (unsigned long long)(high), (unsigned long long)(low), comparand_result)

#endif
