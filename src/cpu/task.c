/* SPDX-License-Identifier: MIT
 *
 * task.c: task switches by CALL, JMP, IRET and task gates.
 *
 * SDM volume 3A, "Task Management", "Task Switching"; the steps stand in the manual's order. Up to the commit point
 * (the loading of TR) a fault is the old task's; after it the new task is the current one and the fault is raised
 * there.
 */
#include "src/cpu/sys.h"

enum { BY_CALL = 0, BY_IRET = 1, BY_JMP = 2, BY_GATE = 3 };

/* A task's image: what its TSS holds. */
struct image {
    uint64_t cr3, eip, eflags;
    uint64_t gpr[8];
    uint16_t seg[6], ldt; /* ES CS SS DS FS GS */
    bool trap;
};

static const uint8_t seg_order[6] = {SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS};

static void parse(const uint8_t *t, bool is32, struct image *im)
{
    memset(im, 0, sizeof *im);
    if (is32) {
        im->cr3 = load32(t + 28);
        im->eip = load32(t + 32);
        im->eflags = load32(t + 36);
        for (unsigned i = 0; i < 8; i++)
            im->gpr[i] = load32(t + 40 + 4 * i);
        for (unsigned i = 0; i < 6; i++)
            im->seg[i] = load16(t + 72 + 4 * i);
        im->ldt = load16(t + 96);
        im->trap = t[100] & 1;
    } else {
        im->eip = load16(t + 14);
        im->eflags = load16(t + 16);
        for (unsigned i = 0; i < 8; i++)
            im->gpr[i] = load16(t + 18 + 2 * i) | 0xffff0000u;
        for (unsigned i = 0; i < 4; i++)
            im->seg[i] = load16(t + 34 + 2 * i);
        im->ldt = load16(t + 42);
    }
}

/* The old task's dynamic state. */
static bool save(struct cpu *c, bool is32, uint64_t eip, uint64_t flags)
{
    uint64_t base = c->seg[SEG_TR].base;
    uint8_t t[72];
    if (is32) { /* EIP to GS: offsets 32 to 95 */
        store32(t, (uint32_t)eip);
        store32(t + 4, (uint32_t)flags);
        for (unsigned i = 0; i < 8; i++)
            store32(t + 8 + 4 * i, (uint32_t)c->gpr[i]);
        for (unsigned i = 0; i < 6; i++)
            store32(t + 40 + 4 * i, c->seg[seg_order[i]].sel);
        return cpu_write(c, LA((uint32_t)(base + 32)), t, 64, MMU_WRITE | MMU_IMPLICIT);
    }
    store16(t, (uint16_t)eip);
    store16(t + 2, (uint16_t)flags);
    for (unsigned i = 0; i < 8; i++)
        store16(t + 4 + 2 * i, (uint16_t)c->gpr[i]);
    for (unsigned i = 0; i < 4; i++)
        store16(t + 20 + 2 * i, c->seg[seg_order[i]].sel);
    return cpu_write(c, LA((uint32_t)(base + 14)), t, 28, MMU_WRITE | MMU_IMPLICIT);
}

static bool set_busy(struct cpu *c, uint16_t sel, bool busy)
{
    uint8_t type;
    uint64_t la = (uint32_t)(c->gdtr.base + (sel & ~7u) + 5);
    if (!table_read(c, la, &type, 1))
        return false;
    type = busy ? type | 2 : type & ~2;
    return cpu_write(c, LA(la), &type, 1, MMU_WRITE | MMU_IMPLICIT);
}

/* SDM 3A, "Task Switching", table "Exception Conditions Checked During a Task Switch": the new task's LDTR and
 * segments. */
static bool load_ldt(struct cpu *c, uint16_t sel)
{
    struct seg *ldt = &c->seg[SEG_LDTR];
    struct desc d;
    *ldt = (struct seg){.sel = sel, .ar = AR_UNUSABLE};
    if (sel_null(sel))
        return true;
    if (sel & 4)
        return cpu_raise(c, EXC_TS, sel & 0xfffc);
    if (!desc_read(c, sel, EXC_TS, &d))
        return false;
    uint32_t ar = desc_ar(&d);
    if ((ar & AR_KIND) != SYS_LDT || !(ar & AR_P))
        return cpu_raise(c, EXC_TS, sel & 0xfffc);
    seg_from_desc(ldt, sel, &d);
    return true;
}

static bool load_code(struct cpu *c, uint16_t sel)
{
    struct desc d;
    if (sel_null(sel))
        return cpu_raise(c, EXC_TS, 0);
    if (!desc_read(c, sel, EXC_TS, &d))
        return false;
    uint32_t ar = desc_ar(&d);
    unsigned rpl = sel & 3;
    if (!ar_is_code(ar) || (ar_is_conforming(ar) ? AR_DPL(ar) > rpl : AR_DPL(ar) != rpl))
        return cpu_raise(c, EXC_TS, sel & 0xfffc);
    if (!(ar & AR_P))
        return cpu_raise(c, EXC_NP, sel & 0xfffc);
    if (!desc_set_accessed(c, &d))
        return false;
    seg_from_desc(&c->seg[SEG_CS], sel, &d);
    return true;
}

static bool load_data(struct cpu *c, unsigned seg, uint16_t sel)
{
    struct desc d;
    if (sel_null(sel))
        return true;
    if (!desc_read(c, sel, EXC_TS, &d))
        return false;
    uint32_t ar = desc_ar(&d);
    if (!(ar & AR_S) || (ar_is_code(ar) && !(ar & AR_READABLE)))
        return cpu_raise(c, EXC_TS, sel & 0xfffc);
    if (!ar_is_conforming(ar) && ((unsigned)(sel & 3) > AR_DPL(ar) || c->cpl > AR_DPL(ar)))
        return cpu_raise(c, EXC_TS, sel & 0xfffc);
    if (!(ar & AR_P))
        return cpu_raise(c, EXC_NP, sel & 0xfffc);
    if (!desc_set_accessed(c, &d))
        return false;
    seg_from_desc(&c->seg[seg], sel, &d);
    return true;
}

/* source: 0 CALL, 1 IRET, 2 JMP, 3 task gate in the IDT. True: the new task runs at c->rip. */
bool cpu_task_switch(struct cpu *c, uint16_t sel, unsigned source, bool has_error, uint32_t error)
{
    struct desc d;
    unsigned bad = source == BY_IRET ? EXC_TS : EXC_GP;
    const struct op *o = c->cur;

    /* SDM 3C, "Treatment of Task Switches": the exit comes behind the checks of the new TSS's selector and descriptor,
     * its limit included. APM 2, "Task Switch Intercept", likewise. */
    uint64_t back = o ? cpu_next_rip(c, o) : c->rip;
    if (source == BY_GATE) {
        back = c->rip;
        if (c->vectoring.valid && (c->vectoring.type == EVENT_SOFTINT || c->vectoring.type == EVENT_SWEXC ||
                                   c->vectoring.type == EVENT_PRIV_SWEXC))
            back += c->vectoring.insn_len;
    }

    if (sel_null(sel) && source == BY_GATE)
        return cpu_raise(c, EXC_GP, 0);
    if ((sel & 4) || sel_null(sel))
        return cpu_raise(c, bad, sel & 0xfffc);
    if (!desc_read(c, sel, bad, &d))
        return false;
    uint32_t ar = desc_ar(&d), kind = ar & AR_KIND;
    bool busy = kind == SYS_TSS16_BUSY || kind == SYS_TSS32_BUSY,
         is_tss = busy || kind == SYS_TSS16 || kind == SYS_TSS32;
    if (!is_tss || busy != (source == BY_IRET))
        return cpu_raise(c, bad, sel & 0xfffc);
    if (!(ar & AR_P))
        return cpu_raise(c, EXC_NP, sel & 0xfffc);
    bool new32 = kind & 8;
    if (desc_limit(&d) < (new32 ? 103u : 43u))
        return cpu_raise(c, EXC_TS, sel & 0xfffc);
    if (c->guest && c->guest->task_switch) {
        uint64_t rip = c->rip, icount = c->icount, pending_dbg = c->pending_dbg;
        cpu_sync(c);
        c->icpt_op = o;
        bool exited = c->guest->task_switch(c, sel, source, has_error, error);
        c->icpt_op = NULL;
        if (exited)
            return false;
        c->rip = rip;
        c->icount = icount;
        c->pending_dbg = pending_dbg;
        c->cur = o;
    }
    bool old32 = c->seg[SEG_TR].ar & 8;
    uint32_t base = desc_base(&d);
    if (c->seg[SEG_TR].limit < (old32 ? 95u : 41u))
        return cpu_raise(c, EXC_TS, c->seg[SEG_TR].sel & 0xfffc);

    /* Read the new task's image, and make sure that what will be written can be. */
    uint8_t t[104] = {0};
    struct image im;
    if (!table_read(c, base, t, new32 ? 104 : 44))
        return false;
    parse(t, new32, &im);
    if (!cpu_probe(c, LA((uint32_t)c->seg[SEG_TR].base), old32 ? 96 : 42, MMU_WRITE | MMU_IMPLICIT) ||
        !cpu_probe(c, LA(base), 2, MMU_WRITE | MMU_IMPLICIT))
        return false;

    /* Steps 5 to 8: the old task is not busy after JMP and IRET, NT of the saved flags is clear after IRET, the back
     * link. */
    uint64_t flags = cpu_rflags(c);
    if (source == BY_GATE && c->vectoring.valid && c->vectoring.type == EVENT_HWEXC && c->vectoring.vector != EXC_DB &&
        c->vectoring.vector != EXC_DF)
        flags |= FLAG_RF;
    if ((source == BY_JMP || source == BY_IRET) && !set_busy(c, c->seg[SEG_TR].sel, false))
        return false;
    if (!save(c, old32, back, source == BY_IRET ? flags & ~FLAG_NT : flags))
        return false;
    if (source == BY_CALL || source == BY_GATE) {
        uint8_t link[2];
        store16(link, c->seg[SEG_TR].sel);
        if (!cpu_write(c, LA(base), link, 2, MMU_WRITE | MMU_IMPLICIT))
            return false;
        im.eflags |= FLAG_NT;
    }
    if (source != BY_IRET && !set_busy(c, sel, true))
        return false;

    /* Commit: TR, then the whole image; faults from here on belong to the new task. */
    if (o) {
        cpu_sync_next(c);       /* the instruction is done: a fault does not repeat it */
        c->icount -= o->n + 1u; /* END counts it */
    }
    seg_from_desc(&c->seg[SEG_TR], sel, &d);
    c->seg[SEG_TR].ar |= 2;
    c->cr0 |= CR0_TS;
    for (unsigned i = 0; i < 8; i++)
        c->gpr[i] = im.gpr[i];
    c->rip = im.eip;
    c->dr[7] &= ~0x155ull; /* local breakpoints are the old task's */
    for (unsigned i = 0; i < 6; i++) {
        struct seg *s = &c->seg[seg_order[i]];
        s->sel = im.seg[i];
        s->ar = AR_UNUSABLE;
    }
    c->seg[SEG_LDTR].sel = im.ldt;
    c->seg[SEG_LDTR].ar = AR_UNUSABLE;
    bool v86 = new32 && (im.eflags & FLAG_VM);
    c->cpl = v86 ? 3 : im.seg[1] & 3;
    cpu_set_rflags(c, new32 ? im.eflags : im.eflags & 0xffff);
    if (o)
        c->rf_at += o->n + 1u;
    cpu_update_mode(c);
    if (new32 && (c->cr0 & CR0_PG) && !cpu_write_cr3(c, im.cr3))
        return false;
    if (!load_ldt(c, im.ldt))
        return false;
    if (v86) {
        for (unsigned i = 0; i < 6; i++)
            cpu_set_seg_real(c, seg_order[i], im.seg[i]);
    } else {
        struct seg ss;
        if (!load_code(c, im.seg[1]))
            return false;
        if (!seg_stack(c, im.seg[2], c->cpl, EXC_TS, &ss, false))
            return false;
        c->seg[SEG_SS] = ss;
        static const uint8_t data[] = {0, 3, 4, 5};
        for (unsigned i = 0; i < 4; i++)
            if (!load_data(c, seg_order[data[i]], im.seg[data[i]]))
                return false;
    }
    cpu_update_mode(c);
    if (im.trap) {
        c->pending_dbg |= BIT(15);
        cpu_attend(c, ATT_TRAP);
    }
    if (has_error && !cpu_push(c, error, new32 ? 4 : 2))
        return false;
    if (c->rip > c->seg[SEG_CS].limit)
        return cpu_raise(c, EXC_GP, 0);
    return true;
}
