/* SPDX-License-Identifier: MIT
 *
 * seg.c: segments: descriptors, loads of segment registers, limits, stacks, far transfers.
 *
 * SDM volume 3A, "Protection"; "Protected-Mode Memory Management"; volume 2, the instructions' pages; APM volume 2,
 * "Segmented Virtual Memory". The functions keep sys.h's rules. Task switches are in task.c, IRET in event.c.
 */
#include "src/cpu/sys.h"

/* --- descriptors ---------------------------------------------------------------------------------------------- */

bool table_read(struct cpu *c, uint64_t la, void *buf, unsigned len)
{
    if (c->long_mode && unlikely(!canonical(c, la) || !canonical(c, la + len - 1)))
        return cpu_raise(c, EXC_GP, 0);
    return cpu_read(c, LA(la), buf, len, MMU_READ | MMU_IMPLICIT);
}

static bool desc_place(struct cpu *c, uint16_t sel, unsigned size, unsigned vector, uint64_t *la)
{
    uint64_t base, limit;
    if (sel & 4) {
        const struct seg *ldt = &c->seg[SEG_LDTR];
        if (ldt->ar & AR_UNUSABLE)
            return cpu_raise(c, vector, sel & 0xfffc);
        base = ldt->base;
        limit = ldt->limit;
    } else {
        base = c->gdtr.base;
        limit = c->gdtr.limit;
    }
    if ((uint64_t)(sel & ~7u) + size - 1 > limit)
        return cpu_raise(c, vector, sel & 0xfffc);
    *la = base + (sel & ~7u);
    if (!c->long_mode)
        *la = (uint32_t)*la;
    return true;
}

bool desc_read(struct cpu *c, uint16_t sel, unsigned vector, struct desc *d)
{
    uint8_t raw[8];
    if (!desc_place(c, sel, 8, vector, &d->la) || !table_read(c, d->la, raw, 8))
        return false;
    d->lo = load64(raw);
    d->hi = 0;
    return true;
}

bool desc_read_system(struct cpu *c, uint16_t sel, unsigned vector, struct desc *d)
{
    if (!c->long_mode)
        return desc_read(c, sel, vector, d);
    uint8_t raw[16];
    if (!desc_place(c, sel, 16, vector, &d->la) || !table_read(c, d->la, raw, 16))
        return false;
    d->lo = load64(raw);
    d->hi = load64(raw + 8);
    return true;
}

bool desc_set_accessed(struct cpu *c, struct desc *d)
{
    if (d->lo & BIT(40))
        return true;
    uint8_t type = (uint8_t)(d->lo >> 40) | 1;
    if (!cpu_write(c, LA(d->la + 5), &type, 1, MMU_WRITE | MMU_IMPLICIT))
        return false;
    d->lo |= BIT(40);
    return true;
}

void seg_from_desc(struct seg *s, uint16_t sel, const struct desc *d)
{
    s->sel = sel;
    s->base = desc_base(d);
    s->limit = desc_limit(d);
    s->ar = desc_ar(d);
}

void seg_set_null(struct cpu *c, unsigned n, uint16_t sel)
{
    struct seg *s = &c->seg[n];
    s->sel = sel;
    s->ar = AR_UNUSABLE;
    /* AMD before NullSelectorClearsBase keeps base and limit. */
    if (!model_is_amd(c->model) || model_has(c->model, FEATURE_null_sel_clears_base)) {
        s->base = 0;
        s->limit = 0;
    }
}

static void derive(struct cpu *c, unsigned n)
{
    const struct seg *s = &c->seg[n];
    if (n == SEG_SS || n == SEG_CS)
        cpu_update_mode(c);
    else if (n < SEG_LDTR)
        c->seg_base64[n] = c->mode == MODE_64 && n != SEG_FS && n != SEG_GS ? 0 : s->base;
}

void cpu_set_seg_real(struct cpu *c, unsigned seg, uint16_t sel)
{
    struct seg *s = &c->seg[seg];
    s->sel = sel;
    s->base = (uint32_t)sel << 4;
    if (c->vm86) {
        s->limit = 0xffff;
        s->ar = AR_P | AR_S | 3 | 3u << 5;
    } else if (s->ar & AR_UNUSABLE || !(s->ar & AR_P)) {
        /* Limit and attributes stay what they were (SDM 3A, "Switching Back to Real-Address Mode"), but the segment is
         * usable. */
        s->ar = AR_P | AR_S | 3;
    }
    derive(c, seg);
}

bool seg_stack(struct cpu *c, uint16_t sel, unsigned cpl, unsigned vector, struct seg *out, bool null64)
{
    struct desc d;
    if (sel_null(sel)) {
        if (!null64 || cpl == 3 || (sel & 3) != cpl)
            return cpu_raise(c, vector, 0);
        *out = (struct seg){.sel = sel, .ar = AR_UNUSABLE | cpl << 5};
        return true;
    }
    if (!desc_read(c, sel, vector, &d))
        return false;
    uint32_t ar = desc_ar(&d);
    if ((sel & 3) != cpl || !ar_is_writable(ar) || AR_DPL(ar) != cpl)
        return cpu_raise(c, vector, sel & 0xfffc);
    if (!(ar & AR_P))
        return cpu_raise(c, EXC_SS, sel & 0xfffc);
    if (!desc_set_accessed(c, &d))
        return false;
    seg_from_desc(out, sel, &d);
    return true;
}

bool cpu_load_seg(struct cpu *c, unsigned seg, uint16_t sel)
{
    if (c->real_mode || c->vm86) {
        cpu_set_seg_real(c, seg, sel);
        return true;
    }
    if (seg == SEG_SS) {
        struct seg ss;
        if (!seg_stack(c, sel, c->cpl, EXC_GP, &ss, c->mode == MODE_64))
            return false;
        c->seg[SEG_SS] = ss;
        cpu_update_mode(c);
        return true;
    }
    if (sel_null(sel)) {
        seg_set_null(c, seg, sel);
        derive(c, seg);
        return true;
    }
    struct desc d;
    if (!desc_read(c, sel, EXC_GP, &d))
        return false;
    uint32_t ar = desc_ar(&d);
    if (!(ar & AR_S) || (ar_is_code(ar) && !(ar & AR_READABLE)))
        return cpu_raise(c, EXC_GP, sel & 0xfffc);
    if (!ar_is_conforming(ar) && ((unsigned)(sel & 3) > AR_DPL(ar) || c->cpl > AR_DPL(ar)))
        return cpu_raise(c, EXC_GP, sel & 0xfffc);
    if (!(ar & AR_P))
        return cpu_raise(c, EXC_NP, sel & 0xfffc);
    if (!desc_set_accessed(c, &d))
        return false;
    seg_from_desc(&c->seg[seg], sel, &d);
    derive(c, seg);
    return true;
}

/* --- limits ----------------------------------------------------------------------------------------------------- */

bool seg_in_limit(const struct seg *s, uint32_t offset, unsigned size)
{
    uint64_t last = (uint64_t)offset + size - 1;
    if ((s->ar & AR_KIND & ~(AR_ACCESSED | AR_WRITABLE)) == (AR_S | AR_DOWN)) {
        uint32_t top = s->ar & AR_DB ? 0xffffffff : 0xffff;
        return offset > s->limit && last <= top;
    }
    /* Whether an access that wraps in a segment of 4 GiB faults is an implementation's choice (SDM volume 3A, "Limit
     * Checking"). Silicon lets it pass in a flat segment, and faults with another base. */
    return last <= s->limit || (s->limit == 0xffffffff && !s->base);
}

bool cpu_seg_la(struct cpu *c, unsigned seg, uint64_t offset, unsigned size, unsigned access, uint64_t *la)
{
    if (c->mode == MODE_64) {
        *la = offset + c->seg_base64[seg];
        if (unlikely(!canonical(c, *la) || !canonical(c, *la + size - 1)))
            return cpu_raise(c, seg == SEG_SS ? EXC_SS : EXC_GP, 0);
        return true;
    }
    const struct seg *s = &c->seg[seg];
    unsigned vector = seg == SEG_SS ? EXC_SS : EXC_GP;
    uint32_t ar = s->ar;
    if (unlikely(ar & AR_UNUSABLE))
        return cpu_raise(c, vector, 0);
    if (!c->real_mode && !c->vm86) {
        if ((access & MMU_ACCESS_MASK) == MMU_WRITE ? !ar_is_writable(ar) : ar_is_code(ar) && !(ar & AR_READABLE))
            return cpu_raise(c, vector, 0);
    }
    if (unlikely(!seg_in_limit(s, (uint32_t)offset, size)))
        return cpu_raise(c, vector, 0);
    *la = (uint32_t)(offset + s->base);
    return true;
}

/* --- stacks ------------------------------------------------------------------------------------------------------- */

void stack_current(const struct cpu *c, struct stack *s)
{
    s->sp = c->gpr[GPR_RSP];
    s->ss = c->seg[SEG_SS];
    s->ssize = c->stack_size;
    s->access = cpu_data_access(c);
    s->error = 0;
    s->flat = c->mode == MODE_64;
}

uint64_t stack_mask(const struct stack *s)
{
    return mask_low(8u * s->ssize);
}

static bool stack_la(struct cpu *c, const struct stack *s, uint64_t sp, unsigned size, uint64_t *la)
{
    if (s->flat) {
        *la = sp;
        if (!canonical(c, sp) || !canonical(c, sp + size - 1))
            return cpu_raise(c, EXC_SS, s->error);
        return true;
    }
    if ((s->ss.ar & AR_UNUSABLE) || !seg_in_limit(&s->ss, (uint32_t)sp, size))
        return cpu_raise(c, EXC_SS, s->error);
    *la = (uint32_t)(sp + s->ss.base);
    return true;
}

static bool stack_check(struct cpu *c, const struct stack *s, uint64_t la, unsigned size, bool write)
{
    if (likely(!c->check_all))
        return true;
    if ((s->access & MMU_USER) && c->cpl == 3 && (c->cr0 & CR0_AM) && (c->rflags_rest & FLAG_AC) && (la & (size - 1)))
        return cpu_raise(c, EXC_AC, 0);
    if (c->dr[7] & 0xff)
        cpu_data_breakpoint(c, LA(la), size, write);
    return true;
}

bool stack_push(struct cpu *c, struct stack *s, uint64_t v, unsigned size)
{
    uint64_t sp = (s->sp - size) & stack_mask(s), la;
    uint8_t raw[8];
    store64(raw, v);
    if (!stack_la(c, s, sp, size, &la) || !stack_check(c, s, la, size, true) ||
        !cpu_write(c, LA(la), raw, size, MMU_WRITE | s->access))
        return false;
    s->sp = stack_merge(s->sp, sp, s->ssize);
    return true;
}

bool stack_pop(struct cpu *c, struct stack *s, uint64_t *v, unsigned size)
{
    uint64_t sp = s->sp & stack_mask(s), la;
    uint8_t raw[8] = {0};
    if (!stack_la(c, s, sp, size, &la) || !stack_check(c, s, la, size, false) ||
        !cpu_read(c, LA(la), raw, size, MMU_READ | s->access))
        return false;
    *v = load64(raw);
    s->sp = stack_merge(s->sp, sp + size, s->ssize);
    return true;
}

bool cpu_push(struct cpu *c, uint64_t v, unsigned size)
{
    struct stack s;
    stack_current(c, &s);
    if (!stack_push(c, &s, v, size))
        return false;
    c->gpr[GPR_RSP] = s.sp;
    return true;
}

bool cpu_pop(struct cpu *c, uint64_t *v, unsigned size)
{
    struct stack s;
    stack_current(c, &s);
    if (!stack_pop(c, &s, v, size))
        return false;
    c->gpr[GPR_RSP] = s.sp;
    return true;
}

/* --- the TSS's stacks ------------------------------------------------------------------------------------------------
 */

/* SDM 3A, "Task-State Segment (TSS)". */
bool tss_stack(struct cpu *c, unsigned dpl, uint16_t *ss, uint64_t *sp)
{
    const struct seg *tr = &c->seg[SEG_TR];
    uint8_t raw[8];
    if ((tr->ar & 0xf) == SYS_TSS16_BUSY || (tr->ar & 0xf) == SYS_TSS16) {
        uint32_t at = dpl * 4 + 2;
        if (at + 3 > tr->limit)
            return cpu_raise(c, EXC_TS, tr->sel & 0xfffc);
        if (!table_read(c, (uint32_t)(tr->base + at), raw, 4))
            return false;
        *sp = load16(raw);
        *ss = load16(raw + 2);
        return true;
    }
    uint32_t at = dpl * 8 + 4;
    if (at + 5 > tr->limit)
        return cpu_raise(c, EXC_TS, tr->sel & 0xfffc);
    if (!table_read(c, (uint32_t)(tr->base + at), raw, 6))
        return false;
    *sp = load32(raw);
    *ss = load16(raw + 4);
    return true;
}

bool tss_stack64(struct cpu *c, unsigned index, uint64_t *rsp)
{
    const struct seg *tr = &c->seg[SEG_TR];
    uint8_t raw[8];
    uint32_t at = index * 8 + 4;
    if (at + 7 > tr->limit)
        return cpu_raise(c, EXC_TS, tr->sel & 0xfffc);
    if (!table_read(c, tr->base + at, raw, 8))
        return false;
    *rsp = load64(raw);
    if (!canonical(c, *rsp))
        return cpu_raise(c, EXC_SS, 0);
    return true;
}

/* --- code segments
 * ------------------------------------------------------------------------------------------------------ */

void seg_load_cs(struct cpu *c, const struct seg *cs, unsigned cpl)
{
    c->seg[SEG_CS] = *cs;
    c->seg[SEG_CS].sel = (uint16_t)((cs->sel & ~3u) | cpl);
    c->cpl = (uint8_t)cpl;
    cpu_update_mode(c);
}

void seg_drop_inner(struct cpu *c)
{
    static const uint8_t data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    for (unsigned i = 0; i < ARRAY_LEN(data); i++) {
        struct seg *s = &c->seg[data[i]];
        if (sel_null(s->sel))
            s->sel = 0; /* of a null selector, the RPL goes too */
        if (!(s->ar & AR_UNUSABLE) && !ar_is_conforming(s->ar) && AR_DPL(s->ar) < c->cpl) {
            seg_set_null(c, data[i], 0);
            derive(c, data[i]);
        }
    }
}

/* Is the target inside the code segment it goes to? */
static bool code_target(struct cpu *c, uint32_t ar, uint32_t limit, uint64_t offset)
{
    if (c->long_mode && (ar & AR_L)) {
        if (!canonical(c, offset))
            return cpu_raise(c, EXC_GP, 0);
        return true;
    }
    return offset <= limit || cpu_raise(c, EXC_GP, 0);
}

/* SDM 2, JMP and CALL, far, to a code segment directly: the privilege checks. RPL, DPL against CPL. */
static bool code_direct(struct cpu *c, uint16_t sel, struct desc *d)
{
    uint32_t ar = desc_ar(d);
    if (ar_is_conforming(ar)) {
        if (AR_DPL(ar) > c->cpl)
            return cpu_raise(c, EXC_GP, sel & 0xfffc);
    } else if ((unsigned)(sel & 3) > c->cpl || AR_DPL(ar) != c->cpl) {
        return cpu_raise(c, EXC_GP, sel & 0xfffc);
    }
    if (c->long_mode && (ar & AR_L) && (ar & AR_DB))
        return cpu_raise(c, EXC_GP, sel & 0xfffc);
    if (!(ar & AR_P))
        return cpu_raise(c, EXC_NP, sel & 0xfffc);
    return true;
}

struct gate {
    uint16_t sel;
    uint64_t offset;
    unsigned params, size; /* size of a slot: 2, 4, 8 */
    struct desc code;      /* the code segment it leads to */
};

/* A call gate's own checks and its target's. SDM 3A, "Accessing a Code Segment Through a Call Gate". */
static bool call_gate(struct cpu *c, uint16_t sel, const struct desc *d, bool jump, struct gate *g)
{
    uint32_t ar = desc_ar(d);
    struct desc whole = *d;
    if (AR_DPL(ar) < c->cpl || (unsigned)(sel & 3) > AR_DPL(ar))
        return cpu_raise(c, EXC_GP, sel & 0xfffc);
    if (!(ar & AR_P))
        return cpu_raise(c, EXC_NP, sel & 0xfffc);
    if (c->long_mode) {
        if (!desc_read_system(c, sel, EXC_GP, &whole))
            return false;
        if (whole.hi >> 40 & 0x1f)
            return cpu_raise(c, EXC_GP, sel & 0xfffc);
    }
    g->sel = (uint16_t)(whole.lo >> 16);
    g->size = c->long_mode ? 8 : (ar & 0xf) == SYS_CALL16 ? 2 : 4;
    g->params = c->long_mode ? 0 : (unsigned)(whole.lo >> 32 & 0x1f);
    g->offset = (whole.lo & 0xffff) | (whole.lo >> 32 & 0xffff0000);
    if (g->size == 2)
        g->offset &= 0xffff;
    if (c->long_mode)
        g->offset |= whole.hi << 32;
    if (sel_null(g->sel))
        return cpu_raise(c, EXC_GP, 0);
    if (!desc_read(c, g->sel, EXC_GP, &g->code))
        return false;
    uint32_t car = desc_ar(&g->code);
    if (!ar_is_code(car) || AR_DPL(car) > c->cpl || (jump && !ar_is_conforming(car) && AR_DPL(car) != c->cpl))
        return cpu_raise(c, EXC_GP, g->sel & 0xfffc);
    if (c->long_mode && (!(car & AR_L) || (car & AR_DB)))
        return cpu_raise(c, EXC_GP, g->sel & 0xfffc);
    if (!(car & AR_P))
        return cpu_raise(c, EXC_NP, g->sel & 0xfffc);
    return true;
}

/* Where execution goes on after the running instruction. */
static uint64_t return_ip(const struct cpu *c)
{
    return c->cur ? cpu_next_rip(c, c->cur) : c->rip + c->insn_len;
}

static uint64_t mask_ip(uint64_t ip, unsigned osz)
{
    return osz == 2 ? ip & 0xffff : osz == 4 ? ip & 0xffffffff : ip;
}

bool cpu_far_jump(struct cpu *c, uint16_t sel, uint64_t offset, unsigned osz)
{
    struct desc d;
    struct seg cs;
    offset = mask_ip(offset, osz);
    if (c->real_mode || c->vm86) {
        if (offset > c->seg[SEG_CS].limit)
            return cpu_raise(c, EXC_GP, 0);
        c->rip = offset;
        cpu_set_seg_real(c, SEG_CS, sel);
        return true;
    }
    if (sel_null(sel))
        return cpu_raise(c, EXC_GP, 0);
    if (!desc_read(c, sel, EXC_GP, &d))
        return false;
    uint32_t ar = desc_ar(&d);
    if (ar_is_code(ar)) {
        if (!code_direct(c, sel, &d) || !code_target(c, ar, desc_limit(&d), offset) || !desc_set_accessed(c, &d))
            return false;
        seg_from_desc(&cs, sel, &d);
        c->rip = offset;
        seg_load_cs(c, &cs, c->cpl);
        return true;
    }
    if (ar & AR_S)
        return cpu_raise(c, EXC_GP, sel & 0xfffc);
    switch (ar & 0xf) {
    case SYS_CALL16:
        if (c->long_mode)
            break;
        /* fall through */
    case SYS_CALL32: {
        struct gate g;
        if (!call_gate(c, sel, &d, true, &g) || !code_target(c, desc_ar(&g.code), desc_limit(&g.code), g.offset) ||
            !desc_set_accessed(c, &g.code))
            return false;
        seg_from_desc(&cs, g.sel, &g.code);
        c->rip = g.offset;
        seg_load_cs(c, &cs, c->cpl);
        return true;
    }
    case SYS_TASK_GATE:
        if (c->long_mode)
            break;
        if (AR_DPL(ar) < c->cpl || (unsigned)(sel & 3) > AR_DPL(ar))
            return cpu_raise(c, EXC_GP, sel & 0xfffc);
        if (!(ar & AR_P))
            return cpu_raise(c, EXC_NP, sel & 0xfffc);
        return cpu_task_switch(c, (uint16_t)(d.lo >> 16), 2, false, 0);
    case SYS_TSS16:
    case SYS_TSS32:
        if (c->long_mode)
            break;
        if (AR_DPL(ar) < c->cpl || (unsigned)(sel & 3) > AR_DPL(ar))
            return cpu_raise(c, EXC_GP, sel & 0xfffc);
        if (!(ar & AR_P))
            return cpu_raise(c, EXC_NP, sel & 0xfffc);
        return cpu_task_switch(c, sel, 2, false, 0);
    }
    return cpu_raise(c, EXC_GP, sel & 0xfffc);
}

bool cpu_far_call(struct cpu *c, uint16_t sel, uint64_t offset, unsigned osz)
{
    struct desc d;
    struct seg cs;
    struct stack s;
    uint64_t back = return_ip(c);
    uint16_t old_cs = c->seg[SEG_CS].sel;

    offset = mask_ip(offset, osz);
    stack_current(c, &s);
    if (c->real_mode || c->vm86) {
        if (!stack_push(c, &s, old_cs, osz) || !stack_push(c, &s, back, osz))
            return false;
        if (offset > c->seg[SEG_CS].limit)
            return cpu_raise(c, EXC_GP, 0);
        c->gpr[GPR_RSP] = s.sp;
        c->rip = offset;
        cpu_set_seg_real(c, SEG_CS, sel);
        return true;
    }
    if (sel_null(sel))
        return cpu_raise(c, EXC_GP, 0);
    if (!desc_read(c, sel, EXC_GP, &d))
        return false;
    uint32_t ar = desc_ar(&d);
    if (ar_is_code(ar)) {
        if (!code_direct(c, sel, &d))
            return false;
        if (!stack_push(c, &s, old_cs, osz) || !stack_push(c, &s, back, osz))
            return false;
        if (!code_target(c, ar, desc_limit(&d), offset) || !desc_set_accessed(c, &d))
            return false;
        seg_from_desc(&cs, sel, &d);
        c->gpr[GPR_RSP] = s.sp;
        c->rip = offset;
        seg_load_cs(c, &cs, c->cpl);
        return true;
    }
    if (ar & AR_S)
        return cpu_raise(c, EXC_GP, sel & 0xfffc);
    switch (ar & 0xf) {
    case SYS_CALL16:
        if (c->long_mode)
            break;
        /* fall through */
    case SYS_CALL32: {
        struct gate g;
        if (!call_gate(c, sel, &d, false, &g))
            return false;
        uint32_t car = desc_ar(&g.code);
        if (ar_is_conforming(car) || AR_DPL(car) == c->cpl) {
            if (c->long_mode)
                s.flat = true, s.ssize = 8;
            if (!stack_push(c, &s, old_cs, g.size) || !stack_push(c, &s, back, g.size) ||
                !code_target(c, car, desc_limit(&g.code), g.offset) || !desc_set_accessed(c, &g.code))
                return false;
            seg_from_desc(&cs, g.sel, &g.code);
            c->gpr[GPR_RSP] = stack_merge(c->gpr[GPR_RSP], s.sp, s.ssize);
            c->rip = g.offset;
            seg_load_cs(c, &cs, c->cpl);
            return true;
        }
        /* To more privilege: the inner stack, parameters copied. */
        unsigned dpl = AR_DPL(car);
        struct stack in = {.access = 0};
        uint64_t old_sp = c->gpr[GPR_RSP];
        uint16_t old_ss = c->seg[SEG_SS].sel, ss;
        uint64_t param[32];
        if (c->long_mode) {
            if (!tss_stack64(c, dpl, &in.sp))
                return false;
            in.ss = (struct seg){.sel = (uint16_t)dpl, .ar = AR_UNUSABLE | dpl << 5};
            in.ssize = 8;
            in.flat = true;
        } else {
            if (!tss_stack(c, dpl, &ss, &in.sp) || !seg_stack(c, ss, dpl, EXC_TS, &in.ss, false))
                return false;
            in.ssize = in.ss.ar & AR_DB ? 4 : 2;
            in.error = ss & 0xfffc;
            struct stack out = s;
            for (unsigned i = 0; i < g.params; i++)
                if (!stack_pop(c, &out, &param[i], g.size))
                    return false;
        }
        if (!stack_push(c, &in, old_ss, g.size) || !stack_push(c, &in, old_sp, g.size))
            return false;
        for (unsigned i = g.params; i-- > 0;)
            if (!stack_push(c, &in, param[i], g.size))
                return false;
        if (!stack_push(c, &in, old_cs, g.size) || !stack_push(c, &in, back, g.size) ||
            !code_target(c, car, desc_limit(&g.code), g.offset) || !desc_set_accessed(c, &g.code))
            return false;
        seg_from_desc(&cs, g.sel, &g.code);
        c->seg[SEG_SS] = in.ss;
        c->gpr[GPR_RSP] = stack_merge(c->gpr[GPR_RSP], in.sp, in.ssize);
        c->rip = g.offset;
        seg_load_cs(c, &cs, dpl);
        return true;
    }
    case SYS_TASK_GATE:
        if (c->long_mode)
            break;
        if (AR_DPL(ar) < c->cpl || (unsigned)(sel & 3) > AR_DPL(ar))
            return cpu_raise(c, EXC_GP, sel & 0xfffc);
        if (!(ar & AR_P))
            return cpu_raise(c, EXC_NP, sel & 0xfffc);
        return cpu_task_switch(c, (uint16_t)(d.lo >> 16), 0, false, 0);
    case SYS_TSS16:
    case SYS_TSS32:
        if (c->long_mode)
            break;
        if (AR_DPL(ar) < c->cpl || (unsigned)(sel & 3) > AR_DPL(ar))
            return cpu_raise(c, EXC_GP, sel & 0xfffc);
        if (!(ar & AR_P))
            return cpu_raise(c, EXC_NP, sel & 0xfffc);
        return cpu_task_switch(c, sel, 0, false, 0);
    }
    return cpu_raise(c, EXC_GP, sel & 0xfffc);
}

/* SDM 2, RET, far. */
bool cpu_far_return(struct cpu *c, unsigned osz, unsigned pop)
{
    struct stack s;
    uint64_t ip, cs_word, sp, ss_word;
    stack_current(c, &s);
    if (!stack_pop(c, &s, &ip, osz) || !stack_pop(c, &s, &cs_word, osz))
        return false;
    uint16_t sel = (uint16_t)cs_word;
    if (c->real_mode || c->vm86) {
        if (ip > c->seg[SEG_CS].limit)
            return cpu_raise(c, EXC_GP, 0);
        c->gpr[GPR_RSP] = stack_merge(c->gpr[GPR_RSP], s.sp + pop, s.ssize);
        c->rip = ip;
        cpu_set_seg_real(c, SEG_CS, sel);
        return true;
    }
    if (sel_null(sel))
        return cpu_raise(c, EXC_GP, 0);
    struct desc d;
    if (!desc_read(c, sel, EXC_GP, &d))
        return false;
    uint32_t ar = desc_ar(&d);
    unsigned rpl = sel & 3;
    if (!ar_is_code(ar) || rpl < c->cpl || (ar_is_conforming(ar) ? AR_DPL(ar) > rpl : AR_DPL(ar) != rpl))
        return cpu_raise(c, EXC_GP, sel & 0xfffc);
    if (c->long_mode && (ar & AR_L) && (ar & AR_DB))
        return cpu_raise(c, EXC_GP, sel & 0xfffc);
    if (!(ar & AR_P))
        return cpu_raise(c, EXC_NP, sel & 0xfffc);
    struct seg cs, ss;
    if (rpl == c->cpl) {
        if (!code_target(c, ar, desc_limit(&d), ip) || !desc_set_accessed(c, &d))
            return false;
        seg_from_desc(&cs, sel, &d);
        c->gpr[GPR_RSP] = stack_merge(c->gpr[GPR_RSP], s.sp + pop, s.ssize);
        c->rip = ip;
        seg_load_cs(c, &cs, c->cpl);
        return true;
    }
    s.sp = stack_merge(s.sp, s.sp + pop, s.ssize);
    if (!stack_pop(c, &s, &sp, osz) || !stack_pop(c, &s, &ss_word, osz))
        return false;
    bool to64 = c->long_mode && (ar & AR_L);
    if (!seg_stack(c, (uint16_t)ss_word, rpl, EXC_GP, &ss, to64) || !code_target(c, ar, desc_limit(&d), ip) ||
        !desc_set_accessed(c, &d))
        return false;
    seg_from_desc(&cs, sel, &d);
    c->seg[SEG_SS] = ss;
    c->rip = ip;
    seg_load_cs(c, &cs, rpl);
    c->gpr[GPR_RSP] = stack_merge(c->gpr[GPR_RSP], sp + pop, c->stack_size);
    seg_drop_inner(c);
    return true;
}

/* SDM 1, "I/O Permission Bit Map"; "I/O Privilege Level". */
bool cpu_io_allowed(struct cpu *c, uint16_t port, unsigned size)
{
    if (c->real_mode || (!c->vm86 && c->cpl <= iopl(c)))
        return true;
    const struct seg *tr = &c->seg[SEG_TR];
    uint8_t raw[2];
    uint32_t kind = tr->ar & 0xf;
    if ((tr->ar & AR_UNUSABLE) || (kind != SYS_TSS32_BUSY && kind != SYS_TSS32) || tr->limit < 103)
        return cpu_raise(c, EXC_GP, 0);
    uint64_t wrap = c->long_mode ? ~0ull : 0xffffffff;
    if (!table_read(c, (tr->base + 102) & wrap, raw, 2))
        return false;
    uint32_t at = load16(raw) + port / 8u;
    if (at + 1 > tr->limit)
        return cpu_raise(c, EXC_GP, 0);
    if (!table_read(c, (tr->base + at) & wrap, raw, 2))
        return false;
    if (load16(raw) >> (port & 7) & mask_low(size))
        return cpu_raise(c, EXC_GP, 0);
    return true;
}
