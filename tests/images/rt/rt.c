/* SPDX-License-Identifier: MIT
 * rt.c: the runtime of the test images, 64- and 32-bit alike. See rt.h. */
#include "rt.h"

#include <stdarg.h>

struct exc rt_exc;
volatile bool rt_armed;
void (*rt_irq[256])(struct regs *);
static unsigned failures, checks;
uint8_t rt_pages[64][4096] __attribute__((aligned(4096)));

enum { COM1 = 0x3f8 };

static void put(char ch)
{
    if (ch == '\n')
        put('\r');
    while (!(inb(COM1 + 5) & 0x20))
        ;
    outb(COM1, (uint8_t)ch);
}

static void put_number(unsigned long long v, unsigned base, unsigned width, char pad)
{
    char buf[24];
    unsigned n = 0;
    do {
        unsigned d = (unsigned)(base == 16 ? v & 15 : (uint32_t)v % 10); /* decimal: 32 bits suffice */
        buf[n++] = (char)(d < 10 ? '0' + d : 'a' + d - 10);
        v = base == 16 ? v >> 4 : (uint32_t)v / 10;
    } while (v);
    while (n < width)
        buf[n++] = pad;
    while (n--)
        put(buf[n]);
}

static void print(const char *fmt, va_list ap)
{
    for (; *fmt; fmt++) {
        if (*fmt != '%') {
            put(*fmt);
            continue;
        }
        char pad = ' ';
        unsigned width = 0, l = 0;
        if (*++fmt == '#')
            fmt++, put('0'), put('x');
        if (*fmt == '0')
            pad = *fmt++;
        while (*fmt >= '0' && *fmt <= '9')
            width = width * 10 + (unsigned)(*fmt++ - '0');
        while (*fmt == 'l')
            l++, fmt++;
        unsigned long long v = 0;
        if (*fmt == 'x' || *fmt == 'u' || *fmt == 'd')
            v = l >= 2 ? va_arg(ap, unsigned long long) : l ? va_arg(ap, unsigned long) : va_arg(ap, unsigned);
        switch (*fmt) {
        case 'x': put_number(v, 16, width, pad); break;
        case 'd':
        case 'u': put_number(v, 10, width, pad); break;
        case 'c': put((char)va_arg(ap, int)); break;
        case 's':
            for (const char *s = va_arg(ap, const char *); *s; s++)
                put(*s);
            break;
        default: put(*fmt); break;
        }
    }
}

void rt_printf(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    print(fmt, ap);
    va_end(ap);
}

static bool result(const char *name, bool ok)
{
    checks++;
    failures += !ok;
    rt_printf("%s %s", ok ? "PASS" : "FAIL", name);
    return ok;
}

void check(const char *name, bool ok)
{
    result(name, ok);
    rt_printf("\n");
}

void check_eq(const char *name, unsigned long long got, unsigned long long want)
{
    if (!result(name, got == want))
        rt_printf(" -- got %#llx, want %#llx", got, want);
    rt_printf("\n");
}

void fail(const char *name, const char *fmt, ...)
{
    va_list ap;
    result(name, false);
    rt_printf(" -- ");
    va_start(ap, fmt);
    print(fmt, ap);
    va_end(ap);
    rt_printf("\n");
}

void skip(const char *name, const char *why)
{
    rt_printf("SKIP %s -- %s\n", name, why);
}

static bool has_error(unsigned v)
{
    return v == 8 || (v >= 10 && v <= 14) || v == 17;
}

void expect_exc(const char *name, struct exc e, unsigned vector, unsigned long error)
{
    if (!result(name, e.vector == vector && (!has_error(vector) || e.error == error)))
        rt_printf(" -- got vector %u error %#lx rip %#lx cr2 %#lx, want %u %#lx", e.vector, e.error, e.rip, e.cr2,
                  vector, error);
    rt_printf("\n");
}

void expect_pf(const char *name, struct exc e, unsigned long error, unsigned long cr2)
{
    if (!result(name, e.vector == PF && e.error == error && e.cr2 == cr2))
        rt_printf(" -- got vector %u error %#lx cr2 %#lx rip %#lx, want 14 %#lx %#lx", e.vector, e.error, e.cr2, e.rip,
                  error, cr2);
    rt_printf("\n");
}

void expect_none(const char *name, struct exc e)
{
    expect_exc(name, e, NONE, 0);
}

void rt_end(void)
{
    rt_printf("%u checks, %u failed\nEND image %s\n", checks, failures, image_name);
    while (!(inb(COM1 + 5) & 0x40))
        ;
    outl(0xf4, failures ? 1 : 0);
    for (;;)
        __asm__ volatile("cli; hlt");
}

bool cpu_has(uint32_t leaf, unsigned reg, unsigned bit)
{
    if (cpuid(leaf & 0xffff0000, 0).a < leaf)
        return false;
    struct cpuid c = cpuid(leaf, 0);
    uint32_t v = reg == 0 ? c.a : reg == 1 ? c.b : reg == 2 ? c.c : c.d;
    return v >> bit & 1;
}

bool rt_on_bochs(void)
{
    outw(0x510, 0); /* our own PC has port 0xe9 too, and a fw_cfg, whose first item begins with Q */
    return inb(0xe9) == 0xe9 && inb(0x511) != 'Q';
}

bool rt_on_qemu(void)
{
    struct cpuid c = cpuid(0x40000000, 0);
    return cpuid(1, 0).c >> 31 && c.b == 0x54474354 && c.c == 0x43544743;
}

/* --- descriptor tables
 * ------------------------------------------------------------------------------------------------- */
volatile uint64_t rt_gdt[GDT_ENTRIES] __attribute__((aligned(16))) = {
    0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cffb000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff, 0,
    0, 0x00cf9b000000ffff, 0x00009b000000ffff, 0x000093000000ffff,
};
struct {
    uint16_t limit;
    unsigned long base;
} __attribute__((packed)) rt_gdtr = {sizeof rt_gdt - 1, (unsigned long)rt_gdt}, rt_idtr;

#ifdef __x86_64__
uint8_t rt_idt[256 * 16] __attribute__((aligned(16)));
__typeof__(rt_tss) rt_tss;
static uint8_t df_stack[4096] __attribute__((aligned(16)));
#else
uint8_t rt_idt[256 * 8] __attribute__((aligned(16)));
struct tss32 rt_tss __attribute__((aligned(4096)));
#endif
static uint8_t stack0[16384] __attribute__((aligned(16)));

extern uint8_t rt_stubs[];
void *rt_stub(unsigned vector)
{
    return rt_stubs + 16 * vector;
}

void rt_gate(unsigned vector, unsigned sel, unsigned long offset, unsigned type, unsigned ist)
{
    uint32_t lo = (uint32_t)(offset & 0xffff) | sel << 16, hi = (uint32_t)(offset & 0xffff0000) | type << 8 | ist;
    uint8_t *g = rt_idt + vector * (sizeof(long) * 2);
    memcpy(g, &lo, 4);
    memcpy(g + 4, &hi, 4);
#ifdef __x86_64__
    uint64_t up = offset >> 32;
    memcpy(g + 8, &up, 8);
#endif
}

void rt_set_rsp0(unsigned long rsp)
{
#ifdef __x86_64__
    rt_tss.rsp[0] = rsp;
#else
    rt_tss.esp0 = rsp;
#endif
}

void rt_longjmp(void) __attribute__((noreturn));
void rt_exception(struct regs *r);
void rt_exception(struct regs *r)
{
    unsigned v = (unsigned)r->vector;
    if (rt_irq[v]) {
        rt_irq[v](r);
        return;
    }
    rt_exc.vector = v;
    rt_exc.error = r->error;
    rt_exc.rip = r->rip;
    rt_exc.cs = r->cs;
    rt_exc.rflags = r->rflags;
    rt_exc.rsp = r->rsp;
    rt_exc.ss = r->ss;
    rt_exc.cr2 = rdcr2();
    rt_exc.dr6 = rddr6();
    rt_exc.rax = r->rax;
    rt_exc.rbx = r->rbx;
    rt_exc.rcx = r->rcx;
    rt_exc.rdx = r->rdx;
    if (rt_armed)
        rt_longjmp();
    rt_printf("FAIL unexpected exception %u error %#lx rip %#lx cs %#lx cr2 %#lx\n", v, rt_exc.error, rt_exc.rip,
              rt_exc.cs, rt_exc.cr2);
    failures++;
    rt_end();
}

void rt_map(unsigned page, unsigned long pa, unsigned long long flags)
{
    rt_window_pt[page] = (unsigned long)(pa | flags);
    invlpg(rt_window(page));
}

void rt_user_init(void)
{
    unsigned first = (RT_USER - RT_WINDOW) / 4096;
    for (unsigned i = 0; i * 4096 < (unsigned long)(rt_user_end - rt_user_start); i++)
        rt_map(first + i, (unsigned long)rt_user_start + i * 4096ul, PTE_P | PTE_W | PTE_U | PTE_A | PTE_D);
    static uint8_t stack[4 * 4096] __attribute__((aligned(4096)));
    for (unsigned i = 0; i < 4; i++)
        rt_map(first + 20 + i, (unsigned long)stack + i * 4096ul, PTE_P | PTE_W | PTE_U | PTE_A | PTE_D);
}

void rt_main(void);
void rt_main(void)
{
    static const uint8_t init[][2] = {{1, 0}, {3, 0x80}, {0, 1}, {1, 0}, {3, 3}, {2, 7}, {4, 3}};
    for (unsigned i = 0; i < sizeof init / 2; i++)
        outb((uint16_t)(COM1 + init[i][0]), init[i][1]);
    outb(0x21, 0xff); /* both 8259s masked */
    outb(0xa1, 0xff);
    for (unsigned v = 0; v < 256; v++)
#ifdef __x86_64__
        rt_gate(v, SEL_K64, (unsigned long)rt_stub(v), v == RT_RETURN || v == BP || v == OF ? 0xee : 0x8e,
                v == DF ? 1 : 0);
    rt_tss.ist[0] = (uint64_t)(df_stack + sizeof df_stack);
    rt_tss.iomap = sizeof rt_tss;
    rt_gdt[SEL_TSS / 8] = rt_desc((uint32_t)(uintptr_t)&rt_tss, sizeof rt_tss - 1, 0x89, 0);
    rt_gdt[SEL_TSS / 8 + 1] = (uintptr_t)&rt_tss >> 32;
#else
        rt_gate(v, SEL_K32, (unsigned long)rt_stub(v), v == RT_RETURN || v == BP || v == OF ? 0xee : 0x8e, 0);
    rt_tss.ss0 = SEL_KDATA;
    rt_tss.iomap = sizeof rt_tss;
    rt_gdt[SEL_TSS / 8] = rt_desc((uint32_t)&rt_tss, sizeof rt_tss - 1, 0x89, 0);
#endif
    rt_idtr.limit = sizeof rt_idt - 1;
    rt_idtr.base = (unsigned long)rt_idt;
    __asm__ volatile("lidt %0" : : "m"(rt_idtr));
    rt_set_rsp0((unsigned long)(stack0 + sizeof stack0));
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
    rt_user_init();
    rt_printf("BEGIN image %s\n", image_name);
    image_main();
    rt_end();
}

void *memset(void *d, int v, size_t n)
{
    for (uint8_t *p = d; n--;)
        *p++ = (uint8_t)v;
    return d;
}
void *memcpy(void *d, const void *s, size_t n)
{
    uint8_t *p = d;
    for (const uint8_t *q = s; n--;)
        *p++ = *q++;
    return d;
}
int memcmp(const void *a, const void *b, size_t n)
{
    const uint8_t *p = a, *q = b;
    for (; n--; p++, q++)
        if (*p != *q)
            return *p < *q ? -1 : 1;
    return 0;
}
