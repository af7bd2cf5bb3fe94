/* SPDX-License-Identifier: MIT
 *
 * cpu_rig.h: a bare processor with memory, descriptor tables and handlers, for tests that run a few instructions on it.
 * A handler is one HLT: where the processor stands tells what was delivered.
 */
#ifndef TESTS_CPU_RIG_H
#define TESTS_CPU_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "src/arch/model.h"
#include "src/cpu/cpu.h"
#include "src/cpu/flags.h"

#define CODE(name, bits_, text)                                                                                        \
    __asm__(".pushsection .rodata\n" #name ":\n.code" #bits_ "\n" text "\n" #name "_end:\n.code64\n.popsection\n");    \
    extern const uint8_t name[], name##_end[];

/* Memory of the test machine. */
enum {
    PML4 = 0x1000,
    PDPT = 0x2000,
    PD = 0x3000,
    PT_LOW = 0x4000,
    GDT = 0x5000,
    IDT = 0x6000,
    TSS = 0x8000,
    TSS2 = 0x9000,
    LDT = 0xa000,
    CODE_AT = 0x10000,
    STACK0 = 0x20000,
    STACK1 = 0x22000,
    STACK_IST = 0x24000,
    STACK3 = 0x26000,
    HANDLERS = 0x30000,
    DATA = 0x40000,
    NO_PAGE = 0x1f0000,
    RAM = 0x400000,
};
/* Selectors. */
enum {
    CS64 = 0x08,
    DS = 0x10,
    CS32 = 0x18,
    UCS32 = 0x20,
    UDS = 0x28,
    UCS64 = 0x30,
    TR64 = 0x38 /* 16 bytes */,
    CS16 = 0x48,
    GATE = 0x50,
    TR32 = 0x60,
    TR32B = 0x68,
    LDTSEL = 0x70,
    NP_DS = 0x78,
    CONF32 = 0x80,
    TGATE = 0x88,
    GDT_LIMIT = 0x8f
};

struct world {
    struct mem *mem;
    struct cpu *c;
    int vector; /* what the interrupt controller holds, -1: nothing */
    uint32_t port_in;
    unsigned port_calls;
};

UNUSED static uint64_t rd64(struct world *w, uint64_t pa)
{
    uint64_t v;
    mem_read(w->mem, HPA(pa), &v, 8);
    return v;
}
UNUSED static uint32_t rd32(struct world *w, uint64_t pa)
{
    uint32_t v;
    mem_read(w->mem, HPA(pa), &v, 4);
    return v;
}
UNUSED static void wr64(struct world *w, uint64_t pa, uint64_t v)
{
    mem_write(w->mem, HPA(pa), &v, 8);
}
UNUSED static void wr32(struct world *w, uint64_t pa, uint32_t v)
{
    mem_write(w->mem, HPA(pa), &v, 4);
}
UNUSED static void wr16(struct world *w, uint64_t pa, uint16_t v)
{
    mem_write(w->mem, HPA(pa), &v, 2);
}

UNUSED static int apic_pending(void *o)
{
    return ((struct world *)o)->vector;
}
UNUSED static int apic_ack(void *o)
{
    struct world *w = o;
    int v = w->vector;
    w->vector = -1;
    return v;
}
static const struct cpu_apic_ops apic = {.pending = apic_pending, .ack = apic_ack};

UNUSED static uint32_t port_in(void *o, uint16_t port, unsigned size)
{
    struct world *w = o;
    w->port_calls++;
    return w->port_in;
}
UNUSED static void port_out(void *o, uint16_t port, unsigned size, uint32_t v)
{
    ((struct world *)o)->port_calls++;
}
static const struct mem_port_ops ports = {port_in, port_out};

UNUSED static void gdt_put(struct world *w, unsigned sel, uint32_t base, uint32_t limit, uint32_t ar)
{
    uint64_t d = (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(ar & 0xf0ff) << 40 |
                 (uint64_t)(limit & 0xf0000) << 32 | (uint64_t)(base >> 24) << 56;
    wr64(w, GDT + sel, d);
}

/* A gate for `vector`: 64-bit, or 32-bit when the machine is in legacy mode. */
UNUSED static void gate(struct world *w, unsigned vector, uint16_t sel, uint64_t offset, unsigned type, unsigned dpl,
                        unsigned ist)
{
    uint64_t lo = (offset & 0xffff) | (uint64_t)sel << 16 | (uint64_t)ist << 32 |
                  (uint64_t)(0x80 | dpl << 5 | type) << 40 | (offset & 0xffff0000) << 32;
    if (w->c->efer & EFER_LMA) {
        wr64(w, IDT + 16 * vector, lo);
        wr64(w, IDT + 16 * vector + 8, offset >> 32);
    } else {
        wr64(w, IDT + 8 * vector, lo);
    }
}

UNUSED static struct seg segment(struct world *w, unsigned sel)
{
    uint64_t d = rd64(w, GDT + (sel & ~7u));
    uint32_t limit = (uint32_t)((d & 0xffff) | (d >> 32 & 0xf0000));
    return (struct seg){.sel = (uint16_t)sel,
                        .base = (d >> 16 & 0xffffff) | (d >> 32 & 0xff000000),
                        .limit = d & BIT(55) ? limit << 12 | 0xfff : limit,
                        .ar = d >> 40 & 0xf0ff};
}

UNUSED static struct world *world_new(const char *model)
{
    static struct model m; /* the tests run one after another */
    struct world *w = test_calloc(1, sizeof *w);
    assert_true(model_parse(&m, model, NULL, 0));
    w->vector = -1;
    w->mem = mem_create();
    assert_non_null(w->mem);
    assert_true(mem_add_ram(w->mem, HPA(0), RAM));
    mem_set_ports(w->mem, &ports, w);
    w->c = cpu_create(w->mem, &m, 0);
    assert_non_null(w->c);
    w->c->apic_ops = &apic;
    w->c->apic = w;
    gdt_put(w, CS64, 0, 0xfffff, 0xa09b);
    gdt_put(w, DS, 0, 0xfffff, 0xc093);
    gdt_put(w, CS32, 0, 0xfffff, 0xc09b);
    gdt_put(w, UCS32, 0, 0xfffff, 0xc0fb);
    gdt_put(w, UDS, 0, 0xfffff, 0xc0f3);
    gdt_put(w, UCS64, 0, 0xfffff, 0xa0fb);
    gdt_put(w, CS16, 0, 0xffff, 0x009b);
    gdt_put(w, TR64, TSS, 0x67 + 32, 0x008b);
    gdt_put(w, TR32, TSS, 0x67 + 0x2100, 0x0089);
    gdt_put(w, TR32B, TSS2, 0x67, 0x0089);
    gdt_put(w, LDTSEL, LDT, 0xff, 0x0082);
    gdt_put(w, NP_DS, 0, 0xfffff, 0xc013);
    gdt_put(w, CONF32, 0, 0xfffff, 0xc09f);
    for (unsigned i = 0; i < 256; i++) {
        uint8_t hlt = 0xf4;
        mem_write(w->mem, HPA(HANDLERS + 16 * i), &hlt, 1);
    }
    return w;
}

UNUSED static void world_free(struct world *w)
{
    cpu_destroy(w->c);
    mem_destroy(w->mem);
    test_free(w);
}

UNUSED static void load(struct world *w, const uint8_t *code, const uint8_t *end)
{
    mem_write(w->mem, HPA(CODE_AT), code, (unsigned)(end - code));
    w->c->rip = CODE_AT;
}

/* 64-bit mode, CPL 0 or 3, identity paging: the low 2 MiB in user pages of 4 KiB, NO_PAGE is not there. */
UNUSED static struct world *long_mode(const char *model, unsigned cpl)
{
    struct world *w = world_new(model);
    struct cpu *c = w->c;
    wr64(w, PML4, PDPT | 7);
    wr64(w, PDPT, PD | 7);
    wr64(w, PD, PT_LOW | 7);
    wr64(w, PD + 8, 0x200000 | 0x87);
    for (unsigned i = 0; i < 512; i++)
        wr64(w, PT_LOW + 8 * i, i * 0x1000u == NO_PAGE ? 0 : (i * 0x1000u) | 7);
    c->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    c->cr0 = CR0_PE | CR0_PG | CR0_NE | CR0_ET | CR0_WP;
    c->cr4 = CR4_PAE | CR4_OSFXSR;
    c->cr3 = PML4;
    c->cpl = (uint8_t)cpl;
    c->seg[SEG_CS] = segment(w, cpl ? UCS64 | 3 : CS64);
    c->seg[SEG_SS] = segment(w, cpl ? UDS | 3 : DS);
    c->seg[SEG_DS] = c->seg[SEG_ES] = c->seg[SEG_FS] = c->seg[SEG_GS] = segment(w, cpl ? UDS | 3 : DS);
    c->seg[SEG_TR] = segment(w, TR64);
    c->seg[SEG_LDTR] = (struct seg){.ar = AR_UNUSABLE};
    wr64(w, TSS + 4, STACK0);
    wr64(w, TSS + 12, STACK1);
    wr64(w, TSS + 36, STACK_IST);
    wr16(w, TSS + 102, 0x68);
    c->gdtr = (struct dtable){GDT, GDT_LIMIT};
    c->idtr = (struct dtable){IDT, 0xfff};
    for (unsigned i = 0; i < 256; i++)
        gate(w, i, CS64, HANDLERS + 16 * i, 14, i == 3 || i == 0x80 ? 3 : 0, 0);
    c->gpr[GPR_RSP] = cpl ? STACK3 : STACK0;
    c->msr.star = (uint64_t)CS64 << 32 | (uint64_t)(UCS32 | 3) << 48;
    c->msr.lstar = HANDLERS + 16 * 200;
    c->msr.sfmask = FLAG_IF | FLAG_TF | FLAG_DF;
    cpu_set_rflags(c, FLAG_1);
    cpu_update_translation(c);
    return w;
}

/* 32-bit protected mode without paging. */
UNUSED static struct world *protected_mode(const char *model, unsigned cpl)
{
    struct world *w = world_new(model);
    struct cpu *c = w->c;
    c->cr0 = CR0_PE | CR0_NE | CR0_ET;
    c->cpl = (uint8_t)cpl;
    c->seg[SEG_CS] = segment(w, cpl ? UCS32 | 3 : CS32);
    c->seg[SEG_SS] = c->seg[SEG_DS] = c->seg[SEG_ES] = c->seg[SEG_FS] = c->seg[SEG_GS] = segment(w, cpl ? UDS | 3 : DS);
    gdt_put(w, TR32, TSS, 0x67 + 0x2100, 0x008b);
    c->seg[SEG_TR] = segment(w, TR32);
    c->seg[SEG_LDTR] = (struct seg){.ar = AR_UNUSABLE};
    wr32(w, TSS + 4, STACK0);
    wr16(w, TSS + 8, DS);
    wr16(w, TSS + 102, 0x88);
    c->gdtr = (struct dtable){GDT, GDT_LIMIT};
    c->idtr = (struct dtable){IDT, 0x7ff};
    for (unsigned i = 0; i < 256; i++)
        gate(w, i, CS32, HANDLERS + 16 * i, 14, i == 3 || i == 0x80 ? 3 : 0, 0);
    c->gpr[GPR_RSP] = cpl ? STACK3 : STACK0;
    cpu_set_rflags(c, FLAG_1);
    cpu_update_translation(c);
    return w;
}

/* Runs until HLT. The vector whose handler the processor halted in; -1: it halted elsewhere; -2: it did not halt. */
UNUSED static int go(struct world *w)
{
    enum cpu_stop s = cpu_run(w->c, 10000);
    if (s != STOP_IDLE)
        return s == STOP_SHUTDOWN ? -3 : -2;
    uint64_t at = w->c->rip - 1 - HANDLERS;
    return at < 4096 && !(at & 15) ? (int)(at / 16) : -1;
}

#endif
