/* SPDX-License-Identifier: MIT
 *
 * x87_host.c: x87 computations on the host's own unit.
 *
 * Each function is one asm statement that starts and ends with the x87 stack empty, as the ABI has it between
 * functions. The host's sticky flags are kept a subset of the guest's while everything is masked, so that they need no
 * clearing (x87_begin()); with something unmasked they are cleared first, the operation runs under the guest's own
 * control word, and a pending exception is cleared before a waiting instruction could report it to the host's kernel.
 */
#include "src/cpu/x87.h"

#if defined(__x86_64__) && !defined(VMENTER_SOFT_FP)

void x87_begin(struct x87_env *e, uint16_t cw, uint16_t sw)
{
    uint16_t host_sw;
    __asm__ volatile("fnstcw %0" : "=m"(e->host_cw));
    __asm__ volatile("fnstsw %0" : "=a"(host_sw));
    e->cw = cw;
    if ((host_sw & ~sw & 0x3f) || (cw & 0x3f) != 0x3f)
        __asm__ volatile("fnclex");
    if (cw != e->host_cw)
        __asm__ volatile("fldcw %0" : : "m"(e->cw));
}

void x87_end(const struct x87_env *e, uint16_t sw)
{
    uint16_t now = e->cw;
    if (sw & X87_ES) { /* operands may be left on the stack */
        __asm__ volatile("fninit");
        now = 0x37f;
    }
    if (now != e->host_cw)
        __asm__ volatile("fldcw %0" : : "m"(e->host_cw));
}

/* Status into AX; a pending exception is cleared. */
#define STATUS "fnstsw %%ax\n\ttestb $0x80, %%al\n\tjz 1f\n\tfnclex\n1:\t"

#define F(n, i)                                                                                                        \
    uint16_t x87_##n(const struct x87_env *e, const f80 *a, f80 *r)                                                    \
    {                                                                                                                  \
        uint16_t sw;                                                                                                   \
        __asm__ volatile("fldt %2\n\t" i "\n\t" STATUS "fstpt %1" : "=&a"(sw), "=m"(*r) : "m"(*a) : "cc");             \
        return sw;                                                                                                     \
    }
X87_UNARY(F)
#undef F
#define F(n, i)                                                                                                        \
    uint16_t x87_##n(const struct x87_env *e, const f80 *a, const f80 *b, f80 *r)                                      \
    {                                                                                                                  \
        uint16_t sw;                                                                                                   \
        __asm__ volatile("fldt %3\n\tfldt %2\n\t" i "\n\t" STATUS "fstpt %1\n\tfstp %%st(0)"                           \
                         : "=&a"(sw), "=m"(*r)                                                                         \
                         : "m"(*a), "m"(*b)                                                                            \
                         : "cc");                                                                                      \
        return sw;                                                                                                     \
    }
X87_BINARY(F)
#undef F
#define F(n, i)                                                                                                        \
    uint16_t x87_##n(const struct x87_env *e, const f80 *a, const f80 *b, f80 *r)                                      \
    {                                                                                                                  \
        uint16_t sw;                                                                                                   \
        __asm__ volatile("fldt %3\n\tfldt %2\n\t" i "\n\t" STATUS "fstpt %1"                                           \
                         : "=&a"(sw), "=m"(*r)                                                                         \
                         : "m"(*a), "m"(*b)                                                                            \
                         : "cc");                                                                                      \
        return sw;                                                                                                     \
    }
X87_BINARY_POP(F)
#undef F
/* C2: out of range, nothing was pushed. After an unmasked exception the second store may find an empty stack: x87_end()
 * resets. */
#define F(n, i)                                                                                                        \
    uint16_t x87_##n(const struct x87_env *e, const f80 *a, f80 *r0, f80 *r1)                                          \
    {                                                                                                                  \
        uint16_t sw, c2 = X87_C2 >> 8;                                                                                 \
        if (__builtin_strcmp(i, "fxtract") == 0)                                                                       \
            c2 = 0;                                                                                                    \
        __asm__ volatile("fldt %3\n\t" i "\n\t" STATUS "testb %b4, %%ah\n\tjnz 2f\n\tfstpt %2\n2:\tfstpt %1"           \
                         : "=&a"(sw), "=m"(*r0), "=m"(*r1)                                                             \
                         : "m"(*a), "Q"(c2)                                                                            \
                         : "cc");                                                                                      \
        return sw;                                                                                                     \
    }
X87_TWO(F)
#undef F
#define F(n, i)                                                                                                        \
    uint16_t x87_##n(const struct x87_env *e, const f80 *a, const f80 *b)                                              \
    {                                                                                                                  \
        uint16_t sw;                                                                                                   \
        __asm__ volatile("fldt %2\n\tfldt %1\n\t" i "\n\t" STATUS "fstp %%st(0)\n\tfstp %%st(0)"                       \
                         : "=&a"(sw)                                                                                   \
                         : "m"(*a), "m"(*b)                                                                            \
                         : "cc");                                                                                      \
        return sw;                                                                                                     \
    }
X87_COMPARE(F)
#undef F
#define F(n, i)                                                                                                        \
    uint16_t x87_##n(const struct x87_env *e, const f80 *a)                                                            \
    {                                                                                                                  \
        uint16_t sw;                                                                                                   \
        __asm__ volatile("fldt %1\n\t" i "\n\t" STATUS "fstp %%st(0)" : "=&a"(sw) : "m"(*a) : "cc");                   \
        return sw;                                                                                                     \
    }
X87_TEST(F)
#undef F
#define F(n, i, t)                                                                                                     \
    uint16_t x87_##n(const struct x87_env *e, const f80 *a, const t *m, f80 *r)                                        \
    {                                                                                                                  \
        uint16_t sw;                                                                                                   \
        __asm__ volatile("fldt %2\n\t" i " %3\n\t" STATUS "fstpt %1" : "=&a"(sw), "=m"(*r) : "m"(*a), "m"(*m) : "cc"); \
        return sw;                                                                                                     \
    }
X87_BINARY_MEM(F)
#undef F
#define F(n, i, t)                                                                                                     \
    uint16_t x87_##n(const struct x87_env *e, const f80 *a, const t *m)                                                \
    {                                                                                                                  \
        uint16_t sw;                                                                                                   \
        __asm__ volatile("fldt %1\n\t" i " %2\n\t" STATUS "fstp %%st(0)" : "=&a"(sw) : "m"(*a), "m"(*m) : "cc");       \
        return sw;                                                                                                     \
    }
X87_COMPARE_MEM(F)
#undef F
#define F(n, i, t)                                                                                                     \
    uint16_t x87_##n(const struct x87_env *e, const t *m, f80 *r)                                                      \
    {                                                                                                                  \
        uint16_t sw;                                                                                                   \
        __asm__ volatile(i " %2\n\t" STATUS "fstpt %1" : "=&a"(sw), "=m"(*r) : "m"(*m) : "cc");                        \
        return sw;                                                                                                     \
    }
X87_LOAD(F)
#undef F
#define F(n, i, t)                                                                                                     \
    uint16_t x87_##n(const struct x87_env *e, const f80 *a, t *m)                                                      \
    {                                                                                                                  \
        uint16_t sw;                                                                                                   \
        __asm__ volatile("fldt %2\n\t" i " %1\n\t" STATUS : "=&a"(sw), "+m"(*m) : "m"(*a) : "cc");                     \
        return sw;                                                                                                     \
    }
X87_STORE(F)
#undef F
#define F(n, i)                                                                                                        \
    uint16_t x87_##n(const struct x87_env *e, f80 *r)                                                                  \
    {                                                                                                                  \
        uint16_t sw;                                                                                                   \
        __asm__ volatile(i "\n\t" STATUS "fstpt %1" : "=&a"(sw), "=m"(*r) : : "cc");                                   \
        return sw;                                                                                                     \
    }
X87_CONST(F)
#undef F

#endif
