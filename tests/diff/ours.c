/* SPDX-License-Identifier: MIT
 *
 * ours.c: runs a case on the software processor: 64-bit tables that map the case's linear addresses as the host's
 * kernel does for the native side, CPL 3, and an IDT whose handlers are one HLT each. So an exception goes the whole
 * way through delivery, and what it was is read from where the processor halted and from the frame it pushed.
 */
#include "tests/diff/diff.h"
#include "src/arch/model.h"
#include "src/cpu/cpu.h"

#include <stdlib.h>
#include <string.h>

/* Physical layout. Supervisor memory is mapped at SUP + physical address. */
enum {
    PA_TABLES = 0x10000,
    PA_SYS = 0x80000,      /* IDT, GDT, LDT, TSS */
    PA_HANDLERS = 0x90000, /* 256 HLTs */
    PA_STACK = 0xa0000,    /* one page */
    PA_CODE = 0x100000,
    PA_DATA = 0x110000,
    RAM = 0x200000
};
#define SUP    0xffff800000000000ull
#define IDT_LA (SUP + PA_SYS)
#define GDT_LA (SUP + PA_SYS + 0x1000)
#define LDT_LA (SUP + PA_SYS + 0x1100)
#define TSS_LA (SUP + PA_SYS + 0x1200)

struct ours {
    struct model model;
    struct mem *mem;
    struct cpu *cpu;
    uint8_t *ram;
    uint64_t next_table;
    uint64_t cr4;
};

static uint64_t *table_at(struct ours *o, uint64_t entry)
{
    return (uint64_t *)(o->ram + (entry & 0xffffffffff000));
}

static void map(struct ours *o, uint64_t la, uint64_t pa, uint64_t flags)
{
    uint64_t *t = (uint64_t *)(o->ram + PA_TABLES);
    for (unsigned shift = 39; shift > 12; shift -= 9) {
        uint64_t *e = &t[la >> shift & 511];
        if (!(*e & 1)) {
            *e = o->next_table | 0x67;
            o->next_table += 4096;
        }
        t = table_at(o, *e);
    }
    t[la >> 12 & 511] = pa | flags;
}

struct ours *diff_ours_new(const char *name)
{
    struct ours *o = calloc(1, sizeof *o);
    char error[256];
    if (!o || !model_parse(&o->model, name, error, sizeof error))
        return free(o), NULL;
    o->mem = mem_create();
    if (!o->mem || !mem_add_ram(o->mem, (hpa_t){0}, RAM) || !(o->ram = mem_host(o->mem, (hpa_t){0}, RAM, true)) ||
        !(o->cpu = cpu_create(o->mem, &o->model, 0)))
        return diff_ours_free(o), NULL;
    enum { P = 1, W = 2, U = 4, AD = 0x60 };
    const uint64_t nx = 1ull << 63;
    o->next_table = PA_TABLES + 4096;
    for (uint64_t pa = PA_SYS; pa <= PA_STACK; pa += 4096)
        map(o, SUP + pa, pa, P | W | AD);
    for (unsigned i = 0; i < DIFF_CODE_PAGES; i++)
        map(o, DIFF_CODE + i * 4096, PA_CODE + i * 4096, P | U | AD);
    for (unsigned i = 0; i < DIFF_DATA_PAGES; i++) {
        uint64_t f = P | U | AD | nx | (i == DIFF_DATA_PAGES - 1 ? 0 : W);
        map(o, DIFF_DATA + i * 4096, PA_DATA + i * 4096, f);
        map(o, DIFF_LOW + i * 4096, PA_DATA + i * 4096, f);
    }
    memset(o->ram + PA_CODE, DIFF_CODE_FILL, DIFF_CODE_PAGES * 4096);
    memset(o->ram + PA_HANDLERS, 0xf4, 256);
    uint64_t *gdt = (uint64_t *)(o->ram + PA_SYS + 0x1000), *ldt = (uint64_t *)(o->ram + PA_SYS + 0x1100);
    gdt[2] = 0x00af9b000000ffff;
    gdt[3] = 0x00cf93000000ffff;
    gdt[4] = 0x00cffb000000ffff;
    gdt[5] = 0x00cff3000000ffff;
    gdt[6] = 0x00affb000000ffff;
    ldt[0] = 0x1000fb000000ffff;
    for (unsigned v = 0; v < 256; v++) {
        uint64_t h = SUP + PA_HANDLERS + v, *g = (uint64_t *)(o->ram + PA_SYS + 16 * v);
        uint64_t type = v == 3 || v == 4 ? 0xee : 0x8e;
        g[0] = (h & 0xffff) | 0x10 << 16 | type << 40 | (h >> 16 & 0xffff) << 48;
        g[1] = h >> 32;
    }
    memcpy(o->ram + PA_SYS + 0x1204, &(uint64_t){SUP + PA_STACK + 4096}, 8);
    memcpy(o->ram + PA_SYS + 0x1200 + 102, &(uint16_t){104}, 2); /* no I/O permission map */

    o->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_PGE | CR4_PSE | CR4_MCE;
    if (model_has(&o->model, FEATURE_xsave))
        o->cr4 |= CR4_OSXSAVE;
    if (model_has(&o->model, FEATURE_fsgsbase))
        o->cr4 |= CR4_FSGSBASE;
    if (model_has(&o->model, FEATURE_smep))
        o->cr4 |= CR4_SMEP;
    if (model_has(&o->model, FEATURE_smap))
        o->cr4 |= CR4_SMAP;
    if (model_has(&o->model, FEATURE_umip))
        o->cr4 |= CR4_UMIP;
    struct cpu *c = o->cpu;
    c->real_clock = true; /* HLT comes back */
    c->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
    c->cr3 = PA_TABLES;
    c->cr4 = o->cr4;
    c->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    c->xcr0 = 3;
    c->gdtr = (struct dtable){GDT_LA, 7 * 8 - 1};
    c->idtr = (struct dtable){IDT_LA, 4095};
    c->seg[SEG_LDTR] = (struct seg){.base = LDT_LA, .limit = 7, .ar = 0x82, .sel = 0x70};
    c->seg[SEG_TR] = (struct seg){.base = TSS_LA, .limit = 103, .ar = 0x8b, .sel = 0x40};
    return o;
}

void diff_ours_free(struct ours *o)
{
    if (!o)
        return;
    if (o->cpu)
        cpu_destroy(o->cpu);
    if (o->mem)
        mem_destroy(o->mem);
    free(o);
}

uint8_t *diff_ours_data(struct ours *o)
{
    return o->ram + PA_DATA;
}

static void load_fx(struct cpu *c, const uint8_t *fx)
{
    uint16_t fsw;
    memset(&c->x87, 0, sizeof c->x87);
    memcpy(&c->x87.cw, fx + FX_FCW, 2);
    memcpy(&fsw, fx + FX_FSW, 2);
    c->x87.top = fsw >> 11 & 7;
    c->x87.sw = fsw & ~0x3800;
    c->x87.tag = fx[FX_FTW];
    c->mf_pending = (fsw & ~c->x87.cw & 0x3f) != 0;
    for (unsigned i = 0; i < 8; i++) {
        struct f80 *r = &c->x87.st[(c->x87.top + i) & 7];
        memcpy(&r->frac, fx + FX_ST + 16 * i, 8);
        memcpy(&r->sexp, fx + FX_ST + 16 * i + 8, 2);
    }
    memcpy(&c->mxcsr, fx + FX_MXCSR, 4);
    for (unsigned i = 0; i < 16; i++) {
        memset(&c->v[i], 0, sizeof c->v[i]);
        memcpy(&c->v[i], fx + FX_XMM + 16 * i, 16);
    }
}

static void store_fx(const struct cpu *c, uint8_t *fx)
{
    memset(fx, 0, 512);
    uint16_t fsw = (uint16_t)((c->x87.sw & ~0x3800) | c->x87.top << 11);
    memcpy(fx + FX_FCW, &c->x87.cw, 2);
    memcpy(fx + FX_FSW, &fsw, 2);
    fx[FX_FTW] = c->x87.tag;
    for (unsigned i = 0; i < 8; i++) {
        const struct f80 *r = &c->x87.st[(c->x87.top + i) & 7];
        memcpy(fx + FX_ST + 16 * i, &r->frac, 8);
        memcpy(fx + FX_ST + 16 * i + 8, &r->sexp, 2);
    }
    memcpy(fx + FX_FOP, &c->x87.fop, 2);
    memcpy(fx + FX_FIP, &c->x87.fip, 8);
    memcpy(fx + FX_FDP, &c->x87.fdp, 8);
    memcpy(fx + FX_MXCSR, &c->mxcsr, 4);
    for (unsigned i = 0; i < 16; i++)
        memcpy(fx + FX_XMM + 16 * i, &c->v[i], 16);
}

bool diff_ours_run(struct ours *o, const struct dcase *t, struct dstate *s)
{
    static const struct seg cs[] = {
        [MODE64] = {0, 0xffffffff, 0xa0fb, DIFF_CS64},
        [MODE32] = {0, 0xffffffff, 0xc0fb, DIFF_CS32},
        [MODE16] = {DIFF_CODE, 0xffff, 0x00fb, DIFF_CS16},
    };
    struct cpu *c = o->cpu;
    mem_write(o->mem, (hpa_t){PA_CODE + t->code_offset}, t->bytes, t->len);
    memcpy(c->gpr, t->in.gpr, sizeof t->in.gpr);
    c->gpr[GPR_ZERO] = 0;
    c->rip = t->in.rip;
    c->seg[SEG_CS] = cs[t->in.mode];
    static const unsigned which[3] = {[DIFF_SEG_DS] = SEG_DS, [DIFF_SEG_ES] = SEG_ES, [DIFF_SEG_SS] = SEG_SS};
    for (unsigned i = 0; i < 3; i++) {
        const struct diff_segment *g = &diff_segments[t->in.seg[i]];
        c->seg[which[i]] = (struct seg){g->base, g->limit, g->ar, g->sel};
    }
    c->seg[SEG_FS] = (struct seg){.ar = AR_UNUSABLE};
    c->seg[SEG_GS] = (struct seg){.ar = AR_UNUSABLE, .base = DIFF_GS_BASE};
    c->cpl = 3;
    load_fx(c, t->in.fx);
    c->activity = ACTIVITY_ACTIVE;
    c->shadow_sti = c->shadow_movss = false;
    c->pending_dbg = 0;
    c->dr[6] = 0xffff0ff0;
    c->cr2 = 0;
    c->exc.valid = c->vectoring.valid = false;
    cpu_set_rflags(c, t->in.rflags);
    cpu_update_translation(c);

    enum cpu_stop stop = cpu_run(c, 200000);
    memset(s, 0, sizeof *s);
    memcpy(s->gpr, c->gpr, sizeof s->gpr);
    uint64_t at = c->rip - (SUP + PA_HANDLERS) - 1;
    bool ended = stop == STOP_IDLE && at < 256;
    if (ended) {
        /* what was pushed: SS RSP RFLAGS CS RIP [error] */
        s->vector = (uint16_t)at;
        bool err = at == 8 || (at >= 10 && at <= 14) || at == 17 || at == 21;
        uint64_t off = c->gpr[GPR_RSP] - (SUP + PA_STACK);
        const uint64_t *f = (const uint64_t *)(o->ram + PA_STACK + (off & 0xff8));
        if (err)
            s->error = (uint32_t)*f++;
        s->rip = f[0];
        s->mode = f[1] == DIFF_CS64 ? MODE64 : f[1] == DIFF_CS32 ? MODE32 : f[1] == DIFF_CS16 ? MODE16 : 0xff;
        s->rflags = f[2];
        s->gpr[4] = f[3];
        s->cr2 = c->cr2;
    }
    store_fx(c, s->fx);
    uint8_t fill[sizeof t->bytes];
    memset(fill, DIFF_CODE_FILL, sizeof fill);
    mem_write(o->mem, (hpa_t){PA_CODE + t->code_offset}, fill, t->len);
    return ended;
}
