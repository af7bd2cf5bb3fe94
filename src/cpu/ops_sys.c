/* SPDX-License-Identifier: MIT
 *
 * ops_sys.c: system instructions: control and debug registers, MSRs, descriptor tables, flags, time, caches.
 *
 * Each handler follows its page in SDM volume 2. Where an interception stands among the checks is said by SDM volume
 * 3C, "Relative Priority of Faults and VM Exits" (faults by opcode and privilege first, others after the exit), and by
 * APM volume 2, "Instruction Intercepts"; where the two differ the handler asks for the vendor.
 *
 * User-mode entries and returns, I/O and interrupts are in ops_sys2.c.
 */
#include "src/cpu/decode.h"
#include "src/cpu/sys.h"

#define RAISE(c, vector) ((void)cpu_raise(c, vector, 0))

static bool amd(const struct cpu *c)
{
    return model_is_amd(c->model);
}

/* --- interception ---------------------------------------------------------------------------------------------------
 */

/* Leaves the block for a call into guest mode; here_back() undoes it when guest mode did nothing. */
struct here {
    uint64_t rip, icount, pending_dbg;
    const struct op *op;
};
static struct here here_leave(struct cpu *c, const struct op *o)
{
    struct here h = {c->rip, c->icount, c->pending_dbg, o};
    c->cur = o;
    cpu_sync(c);
    c->icpt_op = o;
    return h;
}
static bool here_back(struct cpu *c, struct here h, bool exited)
{
    c->icpt_op = NULL;
    if (!exited && !c->exc.valid) {
        c->rip = h.rip;
        c->icount = h.icount;
        c->pending_dbg = h.pending_dbg;
        c->cur = h.op;
    }
    return exited;
}

bool cpu_intercept(struct cpu *c, const struct op *o, enum icpt what, uint64_t info)
{
    struct here h = here_leave(c, o);
    return here_back(c, h, c->guest && c->guest->insn && c->guest->insn(c, what, info));
}
#define INTERCEPT(c, o, what, info) (cpu_icpt_on(c, ICPT_##what) && cpu_intercept(c, o, ICPT_##what, info))

static bool icpt_cr(struct cpu *c, const struct op *o, unsigned cr, unsigned op, unsigned gpr, uint64_t *v, bool mem,
                    la_t la)
{
    if (!cpu_icpt_on(c, ICPT_CR) || !c->guest || !c->guest->cr)
        return false;
    struct here h = here_leave(c, o);
    return here_back(c, h, c->guest->cr(c, cr, op, gpr, v, mem, la));
}
static bool icpt_dr(struct cpu *c, const struct op *o, unsigned dr, bool write, unsigned gpr)
{
    if (!cpu_icpt_on(c, ICPT_DR) || !c->guest || !c->guest->dr)
        return false;
    struct here h = here_leave(c, o);
    return here_back(c, h, c->guest->dr(c, dr, write, gpr));
}
static bool icpt_msr(struct cpu *c, const struct op *o, uint32_t msr, bool write)
{
    if (!cpu_icpt_on(c, ICPT_MSR) || !c->guest || !c->guest->msr)
        return false;
    struct here h = here_leave(c, o);
    return here_back(c, h, c->guest->msr(c, msr, write));
}

/* #GP(0) unless CPL is 0. */
static bool cpl0(struct cpu *c)
{
    return likely(c->cpl == 0) || cpu_raise(c, EXC_GP, 0);
}

/* --- control registers
 * ------------------------------------------------------------------------------------------------ */

static bool cr_exists(const struct cpu *c, unsigned cr)
{
    return cr == 0 || cr == 2 || cr == 3 || cr == 4 || (cr == 8 && c->mode == MODE_64);
}

void op_mov_to_cr(struct cpu *c, const struct op *o)
{
    unsigned cr = o->r0;
    uint64_t v = c->mode == MODE_64 ? op_r64(c, o->r1) : op_r32(c, o->r1);
    c->cur = o;
    if (!cr_exists(c, cr))
        return RAISE(c, EXC_UD);
    if (!cpl0(c))
        return;
    /* AMD: exceptions but those of memory come before the intercept. */
    if (amd(c) && ((cr == 0 && !cr0_valid(c, v)) || (cr == 3 && !cr3_valid(c, v)) || (cr == 4 && !cr4_valid(c, v)) ||
                   (cr == 8 && v >> 4)))
        return RAISE(c, EXC_GP);
    if (icpt_cr(c, o, cr, 0, o->r1 >> 3, &v, false, LA(0)))
        return;
    bool ok = true;
    switch (cr) {
    case 0: ok = cpu_write_cr0(c, v); break;
    case 2: c->cr2 = v; break;
    case 3: ok = cpu_write_cr3(c, v); break;
    case 4: ok = cpu_write_cr4(c, v); break;
    case 8: ok = cpu_write_cr8(c, v); break;
    }
    if (ok)
        END_NEXT(c, o);
}

void op_mov_from_cr(struct cpu *c, const struct op *o)
{
    unsigned cr = o->r1;
    uint64_t v = 0;
    c->cur = o;
    if (!cr_exists(c, cr))
        return RAISE(c, EXC_UD);
    if (!cpl0(c))
        return;
    switch (cr) {
    case 0: v = c->cr0; break;
    case 2: v = c->cr2; break;
    case 3: v = c->cr3; break;
    case 4: v = c->cr4; break;
    }
    if (icpt_cr(c, o, cr, 1, o->r0 >> 3, &v, false, LA(0)))
        return;
    if (cr == 8)
        v = cpu_read_cr8(c);
    if (c->mode == MODE_64)
        op_set_r64(c, o->r0, v);
    else
        op_set_r32(c, o->r0, (uint32_t)v);
    END_NEXT(c, o);
}

void op_clts(struct cpu *c, const struct op *o)
{
    uint64_t v = c->cr0 & ~CR0_TS;
    c->cur = o;
    if (!cpl0(c) || icpt_cr(c, o, 0, 2, 0, &v, false, LA(0)))
        return;
    c->cr0 = v;
    END_NEXT(c, o);
}

void op_lmsw(struct cpu *c, const struct op *o)
{
    uint64_t la = 0, v;
    uint16_t src;
    bool mem = o->flags & OPF_MEM;
    c->cur = o;
    if (!cpl0(c))
        return;
    if (mem) {
        if (!op_la(c, o, 2, MMU_READ, &la) || !op_load16(c, o, la, &src))
            return;
        c->cur = o;
    } else {
        src = op_r16(c, o->r0);
    }
    v = src;
    if (icpt_cr(c, o, 0, 3, mem ? 0 : o->r0 >> 3, &v, mem, LA(la)))
        return;
    /* PE can be set, not cleared. */
    uint64_t cr0 = (c->cr0 & ~(uint64_t)(CR0_MP | CR0_EM | CR0_TS)) | (v & (CR0_PE | CR0_MP | CR0_EM | CR0_TS));
    if (cpu_write_cr0(c, cr0))
        END_NEXT(c, o);
}

/* UMIP: SGDT, SIDT, SLDT, STR, SMSW. */
static bool umip(struct cpu *c)
{
    return likely(c->cpl == 0 || !(c->cr4 & CR4_UMIP)) || cpu_raise(c, EXC_GP, 0);
}

/* A selector or machine status word to r/m16, or a register of any width. */
static bool store_word(struct cpu *c, const struct op *o, uint64_t v)
{
    if (o->flags & OPF_MEM)
        return op_st16(c, o, (uint16_t)v);
    switch (op_size(o)) {
    case 2: op_set_r16(c, o->r0, (uint16_t)v); break;
    case 4: op_set_r32(c, o->r0, (uint32_t)v); break;
    default: op_set_r64(c, o->r0, v); break;
    }
    return true;
}

void op_smsw(struct cpu *c, const struct op *o)
{
    uint64_t v = c->cr0;
    c->cur = o;
    if (!umip(c) || icpt_cr(c, o, 0, 4, o->flags & OPF_MEM ? 0 : o->r0 >> 3, &v, o->flags & OPF_MEM, LA(0)))
        return;
    if (store_word(c, o, v))
        END_NEXT(c, o);
}

/* --- debug registers
 * -------------------------------------------------------------------------------------------------- */

/* The checks of MOV DR. Intel: the exit comes before #GP by privilege and #UD by CR4.DE (SDM 3C, "Instructions That
 * Cause VM Exits Conditionally"). */
static bool dr_checks(struct cpu *c, const struct op *o, unsigned dr, bool write, unsigned gpr)
{
    c->cur = o;
    if (!amd(c) && icpt_dr(c, o, dr, write, gpr))
        return false;
    if (dr > 7 || ((dr == 4 || dr == 5) && (c->cr4 & CR4_DE)))
        return cpu_raise(c, EXC_UD, 0);
    if (!cpl0(c))
        return false;
    if (c->dr[7] & BIT(13)) {
        struct cpu_event ev = {.valid = true, .vector = EXC_DB, .type = EVENT_HWEXC, .payload = BIT(13)};
        return cpu_raise_event(c, &ev);
    }
    if (write && dr >= 4 && c->mode == MODE_64 && op_r64(c, o->r1) >> 32)
        return cpu_raise(c, EXC_GP, 0);
    return !(amd(c) && icpt_dr(c, o, dr, write, gpr));
}

void op_mov_to_dr(struct cpu *c, const struct op *o)
{
    if (!dr_checks(c, o, o->r0, true, o->r1 >> 3))
        return;
    if (cpu_write_dr(c, o->r0, c->mode == MODE_64 ? op_r64(c, o->r1) : op_r32(c, o->r1)))
        END_NEXT(c, o);
}

void op_mov_from_dr(struct cpu *c, const struct op *o)
{
    unsigned dr = o->r1;
    if (!dr_checks(c, o, dr, false, o->r0 >> 3))
        return;
    uint64_t v = c->dr[dr == 4 || dr == 5 ? dr + 2 : dr];
    if (c->mode == MODE_64)
        op_set_r64(c, o->r0, v);
    else
        op_set_r32(c, o->r0, (uint32_t)v);
    END_NEXT(c, o);
}

/* --- MSRs, CPUID, time
 * --------------------------------------------------------------------------------------------------- */

static void set_edx_eax(struct cpu *c, uint64_t v)
{
    c->gpr[GPR_RAX] = (uint32_t)v;
    c->gpr[GPR_RDX] = v >> 32;
}
static uint64_t edx_eax(const struct cpu *c)
{
    return (uint32_t)c->gpr[GPR_RAX] | c->gpr[GPR_RDX] << 32;
}

void op_rdmsr(struct cpu *c, const struct op *o)
{
    uint64_t v;
    uint32_t msr = (uint32_t)c->gpr[GPR_RCX];
    c->cur = o;
    if (!cpl0(c) || icpt_msr(c, o, msr, false))
        return;
    bool ok = cpu_rdmsr(c, msr, &v);
    cpu_tell(c, WATCH_MSR, msr | (ok ? 0 : BIT(33)), v);
    if (!ok)
        return RAISE(c, EXC_GP);
    set_edx_eax(c, v);
    END_NEXT(c, o);
}

void op_wrmsr(struct cpu *c, const struct op *o)
{
    uint32_t msr = (uint32_t)c->gpr[GPR_RCX];
    c->cur = o;
    if (!cpl0(c) || icpt_msr(c, o, msr, true))
        return;
    bool ok = cpu_wrmsr(c, msr, edx_eax(c));
    cpu_tell(c, WATCH_MSR, msr | BIT(32) | (ok ? 0 : BIT(33)), edx_eax(c));
    if (!ok)
        return RAISE(c, EXC_GP);
    END_NEXT(c, o);
}

void op_cpuid(struct cpu *c, const struct op *o)
{
    uint32_t r[4];
    c->cur = o;
    if (INTERCEPT(c, o, CPUID, 0))
        return;
    cpu_cpuid(c, (uint32_t)c->gpr[GPR_RAX], (uint32_t)c->gpr[GPR_RCX], r);
    c->gpr[GPR_RAX] = r[0];
    c->gpr[GPR_RBX] = r[1];
    c->gpr[GPR_RCX] = r[2];
    c->gpr[GPR_RDX] = r[3];
    NEXT(c, o);
}

static uint64_t tsc_seen(struct cpu *c)
{
    uint64_t v = cpu_tsc(c);
    return c->guest && c->guest->tsc ? c->guest->tsc(c, v) : v;
}

void op_rdtsc(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if ((c->cr4 & CR4_TSD) && c->cpl)
        return RAISE(c, EXC_GP);
    if (INTERCEPT(c, o, RDTSC, 0))
        return;
    set_edx_eax(c, tsc_seen(c));
    NEXT(c, o);
}

void op_rdtscp(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if ((c->cr4 & CR4_TSD) && c->cpl) /* the guest for whom it is undefined has RDPID undefined too */
        return RAISE(c, cpu_icpt_on(c, ICPT_RDPID) ? EXC_UD : EXC_GP);
    if (INTERCEPT(c, o, RDTSCP, 0))
        return;
    set_edx_eax(c, tsc_seen(c));
    c->gpr[GPR_RCX] = (uint32_t)c->msr.tsc_aux;
    NEXT(c, o);
}

void op_rdpmc(struct cpu *c, const struct op *o)
{
    uint32_t n = (uint32_t)c->gpr[GPR_RCX];
    c->cur = o;
    if (c->cpl && !(c->cr4 & CR4_PCE))
        return RAISE(c, EXC_GP);
    if (amd(c) && n > 3)
        return RAISE(c, EXC_GP);
    if (INTERCEPT(c, o, RDPMC, 0))
        return;
    if (!amd(c)) /* there are no counters */
        return RAISE(c, EXC_GP);
    set_edx_eax(c, c->msr.k7_perf[4 + n]);
    NEXT(c, o);
}

void op_rdpru(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if ((c->cr4 & CR4_TSD) && c->cpl)
        return RAISE(c, EXC_GP);
    if (INTERCEPT(c, o, RDPRU, 0))
        return;
    set_edx_eax(c, (uint32_t)c->gpr[GPR_RCX] <= 1 ? cpu_tsc(c) : 0);
    flags_set_cf(c, (uint32_t)c->gpr[GPR_RCX] <= 1);
    NEXT(c, o);
}

/* --- descriptor tables
 * ---------------------------------------------------------------------------------------------------- */

bool cpu_load_dtable(struct cpu *c, struct dtable *t, uint16_t limit, uint64_t base)
{
    if (!canonical_wide(c, base))
        return cpu_raise(c, EXC_GP, 0);
    t->base = base;
    t->limit = limit;
    return true;
}

static void load_table(struct cpu *c, const struct op *o, struct dtable *t)
{
    uint8_t raw[10] = {0};
    if (!op_ld_n(c, o, raw, c->mode == MODE_64 ? 10 : 6, 0))
        return;
    c->cur = o;
    uint64_t base = load64(raw + 2);
    if (c->mode != MODE_64)
        base &= op_size(o) == 2 ? 0xffffff : 0xffffffff;
    if (cpu_load_dtable(c, t, load16(raw), base))
        END_NEXT(c, o);
}

static void store_table(struct cpu *c, const struct op *o, const struct dtable *t)
{
    uint8_t raw[10];
    store16(raw, t->limit);
    store64(raw + 2, t->base);
    if (op_st_n(c, o, raw, c->mode == MODE_64 ? 10 : 6, 0))
        NEXT(c, o);
}

void op_lgdt(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (cpl0(c) && !INTERCEPT(c, o, LGDT, 0))
        load_table(c, o, &c->gdtr);
}
void op_lidt(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (cpl0(c) && !INTERCEPT(c, o, LIDT, 0))
        load_table(c, o, &c->idtr);
}
void op_sgdt(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (umip(c) && !INTERCEPT(c, o, SGDT, 0))
        store_table(c, o, &c->gdtr);
}
void op_sidt(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (umip(c) && !INTERCEPT(c, o, SIDT, 0))
        store_table(c, o, &c->idtr);
}
void op_sldt(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (umip(c) && !INTERCEPT(c, o, SLDT, 0) && store_word(c, o, c->seg[SEG_LDTR].sel))
        NEXT(c, o);
}
void op_str(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (umip(c) && !INTERCEPT(c, o, STR, 0) && store_word(c, o, c->seg[SEG_TR].sel))
        NEXT(c, o);
}

static bool source_word(struct cpu *c, const struct op *o, unsigned reg, uint16_t *v)
{
    if (o->flags & OPF_MEM) {
        if (!op_ld16(c, o, v))
            return false;
        c->cur = o;
        return true;
    }
    *v = op_r16(c, reg);
    return true;
}

void op_lldt(struct cpu *c, const struct op *o)
{
    uint16_t sel;
    struct desc d;
    c->cur = o;
    if (!cpl0(c) || INTERCEPT(c, o, LLDT, 0) || !source_word(c, o, o->r0, &sel))
        return;
    struct seg *ldt = &c->seg[SEG_LDTR];
    if (sel_null(sel)) {
        ldt->sel = sel;
        ldt->ar = AR_UNUSABLE;
        END_NEXT(c, o);
    }
    if (sel & 4) {
        (void)cpu_raise(c, EXC_GP, sel & 0xfffc);
        return;
    }
    if (!desc_read_system(c, sel, EXC_GP, &d))
        return;
    uint32_t ar = desc_ar(&d);
    if ((ar & AR_KIND) != SYS_LDT || (c->long_mode && (d.hi >> 40 & 0x1f))) {
        (void)cpu_raise(c, EXC_GP, sel & 0xfffc);
        return;
    }
    if (!(ar & AR_P)) {
        (void)cpu_raise(c, EXC_NP, sel & 0xfffc);
        return;
    }
    uint64_t base = desc_base(&d) | (c->long_mode ? d.hi << 32 : 0);
    if (c->long_mode && !canonical_wide(c, base)) {
        (void)cpu_raise(c, EXC_GP, sel & 0xfffc);
        return;
    }
    seg_from_desc(ldt, sel, &d);
    ldt->base = base;
    END_NEXT(c, o);
}

void op_ltr(struct cpu *c, const struct op *o)
{
    uint16_t sel;
    struct desc d;
    c->cur = o;
    if (!cpl0(c) || INTERCEPT(c, o, LTR, 0) || !source_word(c, o, o->r0, &sel))
        return;
    if (sel_null(sel))
        return RAISE(c, EXC_GP);
    if (sel & 4) {
        (void)cpu_raise(c, EXC_GP, sel & 0xfffc);
        return;
    }
    if (!desc_read_system(c, sel, EXC_GP, &d))
        return;
    uint32_t ar = desc_ar(&d), kind = ar & AR_KIND;
    if ((kind != SYS_TSS32 && (kind != SYS_TSS16 || c->long_mode)) || (c->long_mode && (d.hi >> 40 & 0x1f))) {
        (void)cpu_raise(c, EXC_GP, sel & 0xfffc);
        return;
    }
    if (!(ar & AR_P)) {
        (void)cpu_raise(c, EXC_NP, sel & 0xfffc);
        return;
    }
    uint64_t base = desc_base(&d) | (c->long_mode ? d.hi << 32 : 0);
    if (c->long_mode && !canonical_wide(c, base)) {
        (void)cpu_raise(c, EXC_GP, sel & 0xfffc);
        return;
    }
    uint8_t busy = (uint8_t)(d.lo >> 40) | 2;
    if (!cpu_write(c, LA(d.la + 5), &busy, 1, MMU_WRITE | MMU_IMPLICIT))
        return;
    d.lo |= BIT(41);
    seg_from_desc(&c->seg[SEG_TR], sel, &d);
    c->seg[SEG_TR].base = base;
    END_NEXT(c, o);
}

/* --- LAR, LSL, VERR, VERW, ARPL
 * ----------------------------------------------------------------------------------------------- */

static void set_zf(struct cpu *c, bool zf)
{
    flags_set_arith(c, (flags_arith(c) & ~FLAG_ZF) | (zf ? FLAG_ZF : 0));
}

/* The descriptor if it is inside its table: 1; 0: it is not; -1: raised. */
static int look(struct cpu *c, uint16_t sel, struct desc *d)
{
    const struct seg *ldt = &c->seg[SEG_LDTR];
    uint64_t base = sel & 4 ? ldt->base : c->gdtr.base, limit = sel & 4 ? ldt->limit : c->gdtr.limit;
    uint8_t raw[8];
    if (sel_null(sel) || ((sel & 4) && (ldt->ar & AR_UNUSABLE)) || (sel & ~7u) + 7ull > limit)
        return 0;
    d->la = base + (sel & ~7u);
    if (!c->long_mode)
        d->la = (uint32_t)d->la;
    if (!table_read(c, d->la, raw, 8))
        return -1;
    d->lo = load64(raw);
    d->hi = 0;
    return 1;
}

static bool visible(const struct cpu *c, uint16_t sel, uint32_t ar)
{
    return ar_is_conforming(ar) || (AR_DPL(ar) >= c->cpl && AR_DPL(ar) >= (unsigned)(sel & 3));
}

static void lar_lsl(struct cpu *c, const struct op *o, uint32_t system_kinds, bool limit)
{
    uint16_t sel;
    struct desc d;
    c->cur = o;
    if (!source_word(c, o, o->r1, &sel))
        return;
    int r = look(c, sel, &d);
    if (r < 0)
        return;
    if (r) {
        uint32_t ar = desc_ar(&d);
        r = ((ar & AR_S) || (system_kinds >> (ar & 15) & 1)) && visible(c, sel, ar);
    }
    if (r) {
        uint32_t v = limit ? desc_limit(&d) : (uint32_t)(d.lo >> 32) & 0x00ffff00;
        switch (op_size(o)) {
        case 2: op_set_r16(c, o->r0, (uint16_t)v); break;
        default: op_set_r32(c, o->r0, v); break;
        }
    }
    set_zf(c, r);
    NEXT(c, o);
}

void op_lar(struct cpu *c, const struct op *o)
{
    lar_lsl(c, o, c->long_mode ? 1u << 2 | 1u << 9 | 1u << 11 | 1u << 12 : 0x1a3e, false);
}
void op_lsl(struct cpu *c, const struct op *o)
{
    lar_lsl(c, o, c->long_mode ? 1u << 2 | 1u << 9 | 1u << 11 : 0x0a0e, true);
}

static void verify(struct cpu *c, const struct op *o, bool write)
{
    uint16_t sel;
    struct desc d;
    c->cur = o;
    if (!source_word(c, o, o->r0, &sel))
        return;
    int r = look(c, sel, &d);
    if (r < 0)
        return;
    if (r) {
        uint32_t ar = desc_ar(&d);
        r = (ar & AR_S) && visible(c, sel, ar) && (write ? ar_is_writable(ar) : !ar_is_code(ar) || (ar & AR_READABLE));
    }
    set_zf(c, r);
    NEXT(c, o);
}
void op_verr(struct cpu *c, const struct op *o)
{
    verify(c, o, false);
}
void op_verw(struct cpu *c, const struct op *o)
{
    verify(c, o, true);
}

void op_arpl(struct cpu *c, const struct op *o)
{
    uint64_t la = 0;
    uint16_t dst, src = op_r16(c, o->flags & OPF_MEM ? o->r0 : o->r1);
    if (o->flags & OPF_MEM) {
        /* Memory is written only if the RPL changes. */
        if (!op_la(c, o, 2, MMU_READ, &la) || !op_read_slow(c, o, la, &dst, 2))
            return;
    } else {
        dst = op_r16(c, o->r0);
    }
    bool raise = (dst & 3) < (src & 3);
    if (raise)
        dst = (uint16_t)((dst & ~3u) | (src & 3));
    if (o->flags & OPF_MEM) {
        if (raise && (!op_la(c, o, 2, MMU_WRITE, &la) || !op_write_slow(c, o, la, &dst, 2)))
            return;
    } else if (raise) {
        op_set_r16(c, o->r0, dst);
    }
    set_zf(c, raise);
    NEXT(c, o);
}

/* --- caches, TLB
 * ------------------------------------------------------------------------------------------------------------------ */

void op_invd(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (cpl0(c) && !INTERCEPT(c, o, INVD, 0))
        END_NEXT(c, o);
}
void op_wbinvd(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (cpl0(c) && !INTERCEPT(c, o, WBINVD, 0))
        END_NEXT(c, o);
}

void op_invlpg(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (!cpl0(c))
        return;
    /* The segment's base counts, its limit does not. */
    uint64_t la = op_ea(c, o) + c->seg_base64[o->seg];
    if (c->mode != MODE_64)
        la &= 0xffffffff;
    if (INTERCEPT(c, o, INVLPG, la))
        return;
    if (canonical_wide(c, la))
        cpu_invlpg(c, LA(la));
    END_NEXT(c, o);
}

/* SDM 2, "INVPCID". */
bool cpu_invpcid(struct cpu *c, uint64_t type, uint64_t pcid, uint64_t la)
{
    if (type > 3 || pcid >> 12 || (type < 2 && pcid && !(c->cr4 & CR4_PCIDE)) || (type == 0 && !canonical_wide(c, la)))
        return cpu_raise(c, EXC_GP, 0);
    switch (type) {
    case 0: {
        struct tlb_context ctx = {.vpid = c->vpid, .pcid = (uint16_t)pcid};
        tlb_flush_page(&c->tlbs, &ctx, LA(la), false);
        break;
    }
    case 1: tlb_flush_matching(&c->tlbs, c->vpid, (int)pcid, 0, true, true); break;
    case 2: tlb_flush_matching(&c->tlbs, c->vpid, -1, 0, true, false); break;
    case 3: tlb_flush_matching(&c->tlbs, c->vpid, -1, 0, true, true); break;
    }
    cpu_update_mode(c);
    return true;
}

void op_invpcid(struct cpu *c, const struct op *o)
{
    uint8_t raw[16];
    c->cur = o;
    if (!cpl0(c))
        return;
    uint64_t type = c->mode == MODE_64 ? op_r64(c, o->r0) : op_r32(c, o->r0);
    if (INTERCEPT(c, o, INVPCID, type))
        return;
    if (type > 3)
        return RAISE(c, EXC_GP);
    if (!op_ld_n(c, o, raw, 16, 0))
        return;
    c->cur = o;
    if (cpu_invpcid(c, type, load64(raw), load64(raw + 8)))
        END_NEXT(c, o);
}

/* --- extended state and protection keys
 * ------------------------------------------------------------------------------------------------ */

void op_xsetbv(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (!(c->cr4 & CR4_OSXSAVE))
        return RAISE(c, EXC_UD);
    if (!cpl0(c) || INTERCEPT(c, o, XSETBV, 0))
        return;
    if ((uint32_t)c->gpr[GPR_RCX])
        return RAISE(c, EXC_GP);
    if (cpu_write_xcr0(c, edx_eax(c)))
        END_NEXT(c, o);
}

void op_xgetbv(struct cpu *c, const struct op *o)
{
    uint32_t n = (uint32_t)c->gpr[GPR_RCX];
    c->cur = o;
    if (!(c->cr4 & CR4_OSXSAVE))
        return RAISE(c, EXC_UD);
    if (n > (model_has(c->model, FEATURE_xgetbv1) ? 1u : 0u))
        return RAISE(c, EXC_GP);
    set_edx_eax(c, c->xcr0); /* every component counts as in use */
    NEXT(c, o);
}

void op_rdpkru(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (!(c->cr4 & CR4_PKE))
        return RAISE(c, EXC_UD);
    if ((uint32_t)c->gpr[GPR_RCX])
        return RAISE(c, EXC_GP);
    set_edx_eax(c, c->pkru);
    NEXT(c, o);
}

void op_wrpkru(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (!(c->cr4 & CR4_PKE))
        return RAISE(c, EXC_UD);
    if ((uint32_t)c->gpr[GPR_RCX] || (uint32_t)c->gpr[GPR_RDX])
        return RAISE(c, EXC_GP);
    cpu_write_pkru(c, (uint32_t)c->gpr[GPR_RAX]);
    END_NEXT(c, o);
}

/* --- segment bases
 * -----------------------------------------------------------------------------------------------------------------------
 */

void op_swapgs(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (c->mode != MODE_64)
        return RAISE(c, EXC_UD);
    if (!cpl0(c))
        return;
    uint64_t base = c->seg[SEG_GS].base;
    c->seg[SEG_GS].base = c->seg_base64[SEG_GS] = c->msr.kernel_gs_base;
    c->msr.kernel_gs_base = base;
    NEXT(c, o);
}

static void read_base(struct cpu *c, const struct op *o, unsigned seg)
{
    c->cur = o;
    if (c->mode != MODE_64 || !(c->cr4 & CR4_FSGSBASE))
        return RAISE(c, EXC_UD);
    if (op_size(o) == 8)
        op_set_r64(c, o->r0, c->seg[seg].base);
    else
        op_set_r32(c, o->r0, (uint32_t)c->seg[seg].base);
    NEXT(c, o);
}
static void write_base(struct cpu *c, const struct op *o, unsigned seg)
{
    c->cur = o;
    if (c->mode != MODE_64 || !(c->cr4 & CR4_FSGSBASE))
        return RAISE(c, EXC_UD);
    uint64_t v = op_size(o) == 8 ? op_r64(c, o->r0) : op_r32(c, o->r0);
    if (!canonical_wide(c, v))
        return RAISE(c, EXC_GP);
    c->seg[seg].base = c->seg_base64[seg] = v;
    NEXT(c, o);
}
void op_rdfsbase(struct cpu *c, const struct op *o)
{
    read_base(c, o, SEG_FS);
}
void op_rdgsbase(struct cpu *c, const struct op *o)
{
    read_base(c, o, SEG_GS);
}
void op_wrfsbase(struct cpu *c, const struct op *o)
{
    write_base(c, o, SEG_FS);
}
void op_wrgsbase(struct cpu *c, const struct op *o)
{
    write_base(c, o, SEG_GS);
}

/* --- the rest
 * ------------------------------------------------------------------------------------------------------------------------------
 */

/* Unused in this processor's models' SMX: GETSEC is #UD without CR4.SMXE. */
void op_getsec(struct cpu *c, const struct op *o)
{
    c->cur = o;
    RAISE(c, EXC_UD);
}

/* UMWAIT and TPAUSE may end at once (SDM 2: for any implementation-dependent reason). */
static bool may_wait(struct cpu *c)
{
    return !(c->cr4 & CR4_TSD) || !c->cpl || cpu_raise(c, EXC_GP, 0);
}
static void timed_wait(struct cpu *c, const struct op *o)
{
    if (op_r32(c, o->r0) & ~1u)
        return RAISE(c, EXC_GP);
    flags_set_arith(c, 0);
    END_NEXT(c, o);
}
void op_umwait(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (may_wait(c) && !INTERCEPT(c, o, UMWAIT, 0))
        timed_wait(c, o);
}
void op_tpause(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (may_wait(c) && !INTERCEPT(c, o, TPAUSE, 0))
        timed_wait(c, o);
}

/* --- VMX and SVM
 * ------------------------------------------------------------------------------------------------------------------------------
 */

#define VIRT_OP(NAME)                                                                                                  \
    void op_virt_##NAME(struct cpu *c, const struct op *o)                                                             \
    {                                                                                                                  \
        c->cur = o;                                                                                                    \
        if (!c->virt || !c->virt->insn[VIRT_##NAME])                                                                   \
            return RAISE(c, EXC_UD);                                                                                   \
        c->virt->insn[VIRT_##NAME](c, o);                                                                              \
    }
VIRT_OP(VMXON)
VIRT_OP(VMXOFF)
VIRT_OP(VMCLEAR)
VIRT_OP(VMPTRLD)
VIRT_OP(VMPTRST)
VIRT_OP(VMREAD)
VIRT_OP(VMWRITE)
VIRT_OP(VMLAUNCH)
VIRT_OP(VMRESUME)
VIRT_OP(VMCALL)
VIRT_OP(VMFUNC)
VIRT_OP(INVEPT)
VIRT_OP(INVVPID)
VIRT_OP(VMRUN)
VIRT_OP(VMLOAD)
VIRT_OP(VMSAVE)
VIRT_OP(STGI)
VIRT_OP(CLGI)
VIRT_OP(VMMCALL)
VIRT_OP(SKINIT)
VIRT_OP(INVLPGA)
