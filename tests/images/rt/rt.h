/* SPDX-License-Identifier: MIT
 *
 * rt.h: the runtime of the bootable test images: Multiboot 1 start in 64-bit (boot64.S) or 32-bit protected mode
 * (boot32.S), serial output on COM1, an IDT whose handlers hand exceptions to the test, a GDT and page tables to play
 * with.
 *
 * An image prints one line a check, the same on every processor that follows the manual:
 *     PASS name            FAIL name: what was seen            SKIP name: the feature that is absent
 * and ends with the line "END image NAME" and a write to port 0xf4 (status 0 passed, 1 failed).
 *
 *     struct exc e = TRY(asm volatile("ud2"));
 *     expect_exc("ud2", e, UD, 0);
 */
#ifndef IMAGES_RT_H
#define IMAGES_RT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* --- selectors of the GDT that the runtime sets up
 * -------------------------------------------------------------------- */
enum {
    SEL_K64 = 0x08,     /* 64-bit code, DPL 0 (unused by boot32) */
    SEL_KDATA = 0x10,   /* flat data, DPL 0 */
    SEL_U32 = 0x1b,     /* 32-bit code, DPL 3 */
    SEL_UDATA = 0x23,   /* flat data, DPL 3 */
    SEL_U64 = 0x2b,     /* 64-bit code, DPL 3 */
    SEL_TSS = 0x30,     /* 16 bytes in long mode */
    SEL_K32 = 0x40,     /* flat 32-bit code, DPL 0 */
    SEL_K16 = 0x48,     /* 16-bit code, DPL 0, base 0, limit 64 KiB */
    SEL_KDATA16 = 0x50, /* 16-bit data, DPL 0, base 0, limit 64 KiB */
    SEL_FREE = 0x58,    /* from here on the test's own */
    GDT_ENTRIES = 64
};
extern volatile uint64_t rt_gdt[GDT_ENTRIES];
/* A descriptor: base, limit (as stored), access byte, flags (G 8, D 4, L 2, AVL 1). */
static inline uint64_t rt_desc(uint32_t base, uint32_t limit, uint8_t access, uint8_t flags)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
           (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56;
}

/* --- exceptions
 * ------------------------------------------------------------------------------------------------------------ */
enum { DE = 0, DB, NMI, BP, OF, BR, UD, NM, DF, TS = 10, NP, SS, GP, PF, MF = 16, AC, MC, XM, NONE = 0xffff };

struct regs { /* what the stubs push; the processor's part is last */
#ifdef __x86_64__
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
    uint64_t vector, error, rip, cs, rflags, rsp, ss;
#else
    uint32_t gs, fs, es, ds;
    uint32_t rdi, rsi, rbp, esp_unused, rbx, rdx, rcx, rax;
    uint32_t vector, error, rip, cs, rflags, rsp, ss; /* rsp, ss: only from another privilege level */
    uint32_t v86_es, v86_ds, v86_fs, v86_gs;          /* only from virtual-8086 mode */
#endif
};
struct exc {
    unsigned vector; /* NONE: no exception */
    unsigned long error;
    unsigned long rip, cs, rflags, rsp, ss, cr2, dr6;
    unsigned long rax, rbx, rcx, rdx;
};
extern struct exc rt_exc;
extern volatile bool rt_armed;
extern void (*rt_irq[256])(struct regs *); /* a handler that returns (IRET) instead */
int rt_setjmp(void) __attribute__((returns_twice));
#define TRY(...)                                                                                                       \
    ({                                                                                                                 \
        rt_exc = (struct exc){.vector = NONE};                                                                         \
        if (!rt_setjmp()) {                                                                                            \
            rt_armed = true;                                                                                           \
            __VA_ARGS__;                                                                                               \
        }                                                                                                              \
        rt_armed = false;                                                                                              \
        rt_exc;                                                                                                        \
    })

/* Goes to any mode by IRET with this frame and these registers; comes back by TRY's way on any exception, or on INT
 * 0x80 (vector 0x80), the way back for code at CPL 3. */
struct go {
    unsigned long rip, cs, rflags, rsp, ss;
    unsigned long rax, rbx, rcx, rdx, rsi, rdi;
#ifndef __x86_64__
    unsigned long v86_es, v86_ds, v86_fs, v86_gs;
#endif
};
void rt_go(const struct go *g) __attribute__((noreturn));
#define RT_RETURN 0x80

/* --- output
 * ------------------------------------------------------------------------------------------------------------------ */
void rt_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void check(const char *name, bool ok);
void check_eq(const char *name, unsigned long long got, unsigned long long want);
void fail(const char *name, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void skip(const char *name, const char *why);
/* The exception has this vector and error code (where it has one). */
void expect_exc(const char *name, struct exc e, unsigned vector, unsigned long error);
void expect_pf(const char *name, struct exc e, unsigned long error, unsigned long cr2);
void expect_none(const char *name, struct exc e);
void rt_end(void) __attribute__((noreturn));

void image_main(void); /* the image */
extern const char image_name[];

/* --- memory
 * -------------------------------------------------------------------------------------------------------------------
 */
/* Physical memory below 4 GiB is mapped to itself, supervisor, writable, in large pages. The window [RT_WINDOW, + 2
 * MiB) has 4-KiB pages that the test maps as it likes; all table levels above allow user and write. */
#define RT_WINDOW 0x40000000ul
extern volatile unsigned long rt_window_pt[]; /* 512 entries (boot64), 1024 (boot32) */
enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_PWT = 8, PTE_PCD = 16, PTE_A = 32, PTE_D = 64, PTE_PS = 128, PTE_G = 256 };
#define PTE_NX (1ull << 63)
static inline unsigned long rt_window(unsigned page)
{
    return RT_WINDOW + page * 4096ul;
}
void rt_map(unsigned page, unsigned long pa, unsigned long long flags); /* and INVLPG */
extern uint8_t rt_pages[64][4096];                                      /* zeroed memory for tests */

/* The section that user-mode code lives in: 4 pages, mapped user at RT_USER. */
#define RT_USER        (RT_WINDOW + 0x100000)
#define RT_USER_STACK  (RT_USER + 0x18000) /* top; 4 pages below it are mapped */
#define USER_ADDR(sym) (RT_USER + ((unsigned long)(sym) - (unsigned long)rt_user_start))
extern char rt_user_start[], rt_user_end[];
void rt_user_init(void);
/* The top of the stack for entries from CPL 3. */
void rt_set_rsp0(unsigned long rsp);
#ifdef __x86_64__
extern struct {
    uint32_t reserved0;
    uint64_t rsp[3] __attribute__((packed));
    uint64_t reserved1 __attribute__((packed));
    uint64_t ist[7] __attribute__((packed));
    uint64_t reserved2 __attribute__((packed));
    uint16_t reserved3, iomap;
    uint8_t map[32];
} __attribute__((packed)) rt_tss;
#else
struct tss32 {
    uint16_t link, r0;
    uint32_t esp0;
    uint16_t ss0, r1;
    uint32_t esp1;
    uint16_t ss1, r2;
    uint32_t esp2;
    uint16_t ss2, r3;
    uint32_t cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi;
    uint16_t es, r4, cs, r5, ss, r6, ds, r7, fs, r8, gs, r9, ldt, r10, trap, iomap;
    uint8_t map[32 + 8192 + 8];
};
extern struct tss32 rt_tss;
#endif
/* A gate: type with DPL and P (0x8e interrupt gate, 0xee with DPL 3, 0x8f trap gate, 0x85 task gate). */
void rt_gate(unsigned vector, unsigned sel, unsigned long offset, unsigned type, unsigned ist);
void *rt_stub(unsigned vector);
extern uint8_t rt_idt[];

/* --- instructions
 * ---------------------------------------------------------------------------------------------------------------- */
static inline void outb(uint16_t p, uint8_t v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(p));
}
static inline void outl(uint16_t p, uint32_t v)
{
    __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(p));
}
static inline void outw(uint16_t p, uint16_t v)
{
    __asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(p));
}
static inline uint8_t inb(uint16_t p)
{
    uint8_t v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(p));
    return v;
}
static inline uint64_t rdmsr(uint32_t i)
{
    uint32_t lo, hi;
    __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(i) : "memory");
    return (uint64_t)hi << 32 | lo;
}
static inline void wrmsr(uint32_t i, uint64_t v)
{
    __asm__ volatile("wrmsr" : : "c"(i), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
}
struct cpuid {
    uint32_t a, b, c, d;
};
static inline struct cpuid cpuid(uint32_t leaf, uint32_t sub)
{
    struct cpuid r;
    __asm__ volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(sub));
    return r;
}
/* Is the leaf there at all, and the bit in it? reg: 0 a, 1 b, 2 c, 3 d. */
bool cpu_has(uint32_t leaf, unsigned reg, unsigned bit);
/* QEMU TCG: a few checks that it does not make would end the image. */
bool rt_on_qemu(void);
bool rt_on_bochs(void); /* started with its port 0xe9 */
#define CPU_CR(n)                                                                                                      \
    static inline unsigned long rdcr##n(void)                                                                          \
    {                                                                                                                  \
        unsigned long v;                                                                                               \
        __asm__ volatile("mov %%cr" #n ", %0" : "=r"(v) : : "memory");                                                 \
        return v;                                                                                                      \
    }                                                                                                                  \
    static inline void wrcr##n(unsigned long v)                                                                        \
    {                                                                                                                  \
        __asm__ volatile("mov %0, %%cr" #n : : "r"(v) : "memory");                                                     \
    }
CPU_CR(0)
CPU_CR(2)
CPU_CR(3)
CPU_CR(4)
#ifdef __x86_64__
CPU_CR(8)
#endif
#define CPU_DR(n)                                                                                                      \
    static inline unsigned long rddr##n(void)                                                                          \
    {                                                                                                                  \
        unsigned long v;                                                                                               \
        __asm__ volatile("mov %%dr" #n ", %0" : "=r"(v) : : "memory");                                                 \
        return v;                                                                                                      \
    }                                                                                                                  \
    static inline void wrdr##n(unsigned long v)                                                                        \
    {                                                                                                                  \
        __asm__ volatile("mov %0, %%dr" #n : : "r"(v) : "memory");                                                     \
    }
CPU_DR(0)
CPU_DR(1)
CPU_DR(2)
CPU_DR(3)
CPU_DR(6)
CPU_DR(7)
static inline void invlpg(unsigned long la)
{
    __asm__ volatile("invlpg (%0)" : : "r"(la) : "memory");
}
static inline void cli(void)
{
    __asm__ volatile("cli" : : : "memory");
}
static inline void sti(void)
{
    __asm__ volatile("sti" : : : "memory");
}
static inline unsigned long rdflags(void)
{
    unsigned long f;
    __asm__ volatile("pushf; pop %0" : "=r"(f) : : "memory");
    return f;
}
static inline uint8_t peek8(unsigned long la)
{
    return *(volatile uint8_t *)la;
}
static inline uint64_t peek64(unsigned long la)
{
    return *(volatile uint64_t *)la;
}
static inline void poke8(unsigned long la, uint8_t v)
{
    *(volatile uint8_t *)la = v;
}
static inline void poke64(unsigned long la, uint64_t v)
{
    *(volatile uint64_t *)la = v;
}
static inline void poke32(unsigned long la, uint32_t v)
{
    *(volatile uint32_t *)la = v;
}

#define MSR_EFER  0xc0000080u
#define EFER_SCE  1ul
#define EFER_LME  0x100ul
#define EFER_LMA  0x400ul
#define EFER_NXE  0x800ul
#define EFER_SVME 0x1000ul

void *memset(void *, int, size_t);
void *memcpy(void *, const void *, size_t);
int memcmp(const void *, const void *, size_t);

#endif
