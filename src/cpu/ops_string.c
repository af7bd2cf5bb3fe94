/* SPDX-License-Identifier: MIT
 *
 * ops_string.c: MOVS, CMPS, STOS, LODS, SCAS and their repetition. (INS and OUTS are in ops_sys.c.)
 *
 * SDM volume 1, "Operating on Strings"; volume 2B, "REP/REPE/REPZ/REPNE/REPNZ". Registers are those after the last
 * iteration that is complete whenever an instruction stops: at a fault, and when attention asks: then RIP stays and the
 * instruction goes on later. Each such part counts as one retired instruction, and a long one as so many more as it did
 * work: the clock, and whoever asked for a number of instructions, must not wait for gigabytes. MOVS and STOS that run
 * upwards go by whole runs within a page.
 */
#include "src/cpu/ops_int.h"

/* Work: an iteration, or a run within a page with so many bytes to the unit. */
#define WORK_MAX   4096u /* before attention and the clock are looked at */
#define WORK_FREE  64u   /* up to here it is the work of one instruction */
#define WORK_BYTES 256u

enum kind { MOVS, CMPS, STOS, LODS, SCAS };

INLINE bool string_la(struct cpu *c, const struct op *o, unsigned seg, uint64_t offset, unsigned size, unsigned access,
                      uint64_t *la)
{
    if (likely(c->mode == MODE_64)) {
        *la = offset + (seg == SEG_ES ? 0 : c->seg_base64[seg]);
        return true;
    }
    c->cur = o;
    return cpu_seg_la(c, seg, offset, size, access, la);
}
INLINE bool string_load(struct cpu *c, const struct op *o, uint64_t la, uint64_t *v, unsigned size)
{
    uint8_t v8;
    uint16_t v16;
    uint32_t v32;
    bool ok;
    switch (size) {
    case 1: ok = op_load8(c, o, la, &v8), *v = v8; return ok;
    case 2: ok = op_load16(c, o, la, &v16), *v = v16; return ok;
    case 4: ok = op_load32(c, o, la, &v32), *v = v32; return ok;
    default: return op_load64(c, o, la, v);
    }
}
INLINE bool string_store(struct cpu *c, const struct op *o, uint64_t la, uint64_t v, unsigned size)
{
    switch (size) {
    case 1: return op_store8(c, o, la, (uint8_t)v);
    case 2: return op_store16(c, o, la, (uint16_t)v);
    case 4: return op_store32(c, o, la, (uint32_t)v);
    default: return op_store64(c, o, la, v);
    }
}
/* A register of the address size. */
INLINE void index_set(struct cpu *c, const struct op *o, unsigned r, uint64_t v)
{
    switch (o->size >> 4) {
    case 1: op_set_r16(c, 8 * r, (uint16_t)v); break;
    case 2: c->gpr[r] = (uint32_t)v; break;
    default: c->gpr[r] = v; break;
    }
}
INLINE void compare(struct cpu *c, uint64_t a, uint64_t b, unsigned size)
{
    uint64_t r = a - b;
    switch (size) {
    case 1: flags_set(c, SX(8, r), flags_sub_cv(a, b, r), 8); break;
    case 2: flags_set(c, SX(16, r), flags_sub_cv(a, b, r), 16); break;
    case 4: flags_set(c, SX(32, r), flags_sub_cv(a, b, r), 32); break;
    default: flags_set(c, r, flags_sub_cv(a, b, r), 64); break;
    }
}
INLINE uint64_t accumulator(const struct cpu *c, unsigned size)
{
    return c->gpr[GPR_RAX] & mask_low(8 * size);
}

/* One iteration: memory, then registers and flags. False: raised. */
INLINE bool iteration(struct cpu *c, const struct op *o, enum kind kind, unsigned size, uint64_t amask, uint64_t step)
{
    uint64_t si = c->gpr[GPR_RSI] & amask, di = c->gpr[GPR_RDI] & amask, la, v = 0, w = 0;
    bool source = kind == MOVS || kind == CMPS || kind == LODS, dest = kind != LODS;
    /* Of two operands in memory CMPS reads the one at rDI first. */
    if (kind == CMPS && (!string_la(c, o, SEG_ES, di, size, MMU_READ, &la) || !string_load(c, o, la, &w, size)))
        return false;
    if (source && (!string_la(c, o, o->seg, si, size, MMU_READ, &la) || !string_load(c, o, la, &v, size)))
        return false;
    switch (kind) {
    case MOVS:
    case STOS:
        if (kind == STOS)
            v = accumulator(c, size);
        if (!string_la(c, o, SEG_ES, di, size, MMU_WRITE, &la) || !string_store(c, o, la, v, size))
            return false;
        break;
    case CMPS:
    case SCAS:
        if (kind == SCAS) {
            v = accumulator(c, size);
            if (!string_la(c, o, SEG_ES, di, size, MMU_READ, &la) || !string_load(c, o, la, &w, size))
                return false;
        }
        compare(c, v, w, size);
        break;
    case LODS:
        switch (size) {
        case 1: W(8, 8 * GPR_RAX, (uint8_t)v); break;
        case 2: W(16, 8 * GPR_RAX, (uint16_t)v); break;
        default: c->gpr[GPR_RAX] = v; break;
        }
        break;
    }
    if (source)
        index_set(c, o, GPR_RSI, si + step);
    if (dest)
        index_set(c, o, GPR_RDI, di + step);
    return true;
}

/* Bytes that can be accessed upwards from this offset within one page, wrap and limit, through the TLB; *h is where. 0:
 * none. */
static uint64_t run_of(struct cpu *c, unsigned seg, uint64_t offset, unsigned size, uint64_t amask, unsigned access,
                       uint8_t **h)
{
    uint64_t la, room;
    if (c->mode == MODE_64) {
        la = offset + (seg == SEG_ES ? 0 : c->seg_base64[seg]);
        room = amask - offset;
    } else {
        const struct seg *s = &c->seg[seg];
        bool code = s->ar & 8, ok = access == MMU_READ ? !code || s->ar & 2 : !code && s->ar & 2;
        if (s->ar & AR_UNUSABLE || !(s->ar & AR_P) || (!code && s->ar & 4) || !(ok || c->real_mode || c->vm86) ||
            offset > s->limit)
            return 0;
        la = (uint32_t)(offset + s->base);
        room = MIN((uint64_t)s->limit, amask) - offset;
    }
    if (room < size)
        return 0;
    *h = op_host(c, la, size, access);
    return *h ? MIN(room, PAGE_SIZE - (la & PAGE_OFFSET)) & ~(uint64_t)(size - 1) : 0;
}

/* As many iterations at once as a run in the pages allows; 0: none. */
static uint64_t bulk(struct cpu *c, const struct op *o, enum kind kind, unsigned size, uint64_t amask, uint64_t count)
{
    uint64_t si = c->gpr[GPR_RSI] & amask, di = c->gpr[GPR_RDI] & amask;
    uint8_t *to, *from = NULL;
    uint64_t n = run_of(c, SEG_ES, di, size, amask, MMU_WRITE, &to);
    if (kind == MOVS && n)
        n = MIN(n, run_of(c, o->seg, si, size, amask, MMU_READ, &from));
    n = MIN(n / size, count);
    if (!n)
        return 0;
    uint64_t len = n * size;
    if (kind == MOVS) {
        if ((uintptr_t)to - (uintptr_t)from >= len) {
            memmove(to, from, len);
        } else if ((uintptr_t)to - (uintptr_t)from >= size) { /* each iteration reads what an earlier one wrote */
            for (uint64_t i = 0; i < len; i += size)
                memcpy(to + i, from + i, size);
        } else {
            return 0;
        }
        index_set(c, o, GPR_RSI, si + len);
    } else {
        uint64_t v = accumulator(c, size);
        switch (size) {
        case 1: memset(to, (int)v, len); break;
        case 2:
            for (uint64_t i = 0; i < len; i += 2)
                store16(to + i, (uint16_t)v);
            break;
        case 4:
            for (uint64_t i = 0; i < len; i += 4)
                store32(to + i, (uint32_t)v);
            break;
        default:
            for (uint64_t i = 0; i < len; i += 8)
                store64(to + i, v);
            break;
        }
    }
    index_set(c, o, GPR_RDI, di + len);
    return n;
}

INLINE void once(struct cpu *c, const struct op *o, enum kind kind, unsigned size)
{
    uint64_t step = c->rflags_rest & FLAG_DF ? -(uint64_t)size : size;
    if (!iteration(c, o, kind, size, op_amask(o), step))
        return;
    NEXT(c, o);
}

INLINE void worked(struct cpu *c, uint64_t work)
{
    if (unlikely(work > WORK_FREE))
        c->icount += work;
}

INLINE void repeat(struct cpu *c, const struct op *o, enum kind kind, unsigned size)
{
    uint64_t amask = op_amask(o), count = c->gpr[GPR_RCX] & amask;
    bool down = c->rflags_rest & FLAG_DF, compares = kind == CMPS || kind == SCAS;
    uint64_t step = down ? -(uint64_t)size : size, work = 0;
    /* Where a repeated comparison stops before its end, the flags are still those before the instruction. */
    const uint64_t res = c->lf_res, cv = c->lf_cv;
    const uint32_t aux = c->lf_aux;
    uint32_t attention = __atomic_load_n(&c->attention, __ATOMIC_RELAXED);
    uint64_t work_max = attention & ATT_STEP ? 1 : WORK_MAX, look = 256;
    if (op_asize(o) == 4 && c->mode == MODE_64) {
        /* Processors clear the upper halves before the first iteration: those of the indices only where strings are
         * moved fast. */
        c->gpr[GPR_RCX] = count;
        if (kind == MOVS)
            c->gpr[GPR_RSI] = (uint32_t)c->gpr[GPR_RSI];
        if (kind == MOVS || kind == STOS)
            c->gpr[GPR_RDI] = (uint32_t)c->gpr[GPR_RDI];
    }
    while (count) {
        if (work >= look) {
            if (work >= work_max ||
                __atomic_load_n(&c->attention, __ATOMIC_RELAXED) & ~(uint32_t)(ATT_STEP | ATT_SHADOW))
                break;
            look = work + 256;
        }
        uint64_t n = 0;
        if ((kind == MOVS || kind == STOS) && !down && work_max > 1)
            n = bulk(c, o, kind, size, amask, count);
        if (!n) {
            if (!iteration(c, o, kind, size, amask, step)) {
                if (compares)
                    c->lf_res = res, c->lf_cv = cv, c->lf_aux = aux;
                worked(c, work);
                return; /* all else is as before this iteration */
            }
            n = 1;
        }
        count -= n;
        work += n == 1 ? 1 : 1 + n * size / WORK_BYTES;
        index_set(c, o, GPR_RCX, count);
        if (compares && flag_zf(c) != !!(o->flags & OPF_REP)) {
            worked(c, work);
            NEXT(c, o);
        }
        if (work_max == 1)
            break;
    }
    worked(c, work);
    if (!count)
        NEXT(c, o);
    if (compares)
        c->lf_res = res, c->lf_cv = cv, c->lf_aux = aux;
    /* An event that comes between iterations pushes RF (SDM volume 3B, "Instruction-Breakpoint Exception Condition").
     */
    c->rflags_rest |= FLAG_RF;
    c->rf_at = c->icount + o->n + 1;
    c->rip = (c->gpr[GPR_BLOCK] + o->ip) & c->ip_mask;
    END(c, o);
}

#define DEFINE_STRING(name, kind)                                                                                      \
    static void name##_once1(struct cpu *c, const struct op *o)                                                        \
    {                                                                                                                  \
        once(c, o, kind, 1);                                                                                           \
    }                                                                                                                  \
    static void name##_once2(struct cpu *c, const struct op *o)                                                        \
    {                                                                                                                  \
        once(c, o, kind, 2);                                                                                           \
    }                                                                                                                  \
    static void name##_once4(struct cpu *c, const struct op *o)                                                        \
    {                                                                                                                  \
        once(c, o, kind, 4);                                                                                           \
    }                                                                                                                  \
    static void name##_once8(struct cpu *c, const struct op *o)                                                        \
    {                                                                                                                  \
        once(c, o, kind, 8);                                                                                           \
    }                                                                                                                  \
    static void name##_rep1(struct cpu *c, const struct op *o)                                                         \
    {                                                                                                                  \
        repeat(c, o, kind, 1);                                                                                         \
    }                                                                                                                  \
    static void name##_rep2(struct cpu *c, const struct op *o)                                                         \
    {                                                                                                                  \
        repeat(c, o, kind, 2);                                                                                         \
    }                                                                                                                  \
    static void name##_rep4(struct cpu *c, const struct op *o)                                                         \
    {                                                                                                                  \
        repeat(c, o, kind, 4);                                                                                         \
    }                                                                                                                  \
    static void name##_rep8(struct cpu *c, const struct op *o)                                                         \
    {                                                                                                                  \
        repeat(c, o, kind, 8);                                                                                         \
    }                                                                                                                  \
    op_fn *select_##name(const struct decoded *d, struct op *o)                                                        \
    {                                                                                                                  \
        static op_fn *const one[4] = {name##_once1, name##_once2, name##_once4, name##_once8};                         \
        static op_fn *const rep[4] = {name##_rep1, name##_rep2, name##_rep4, name##_rep8};                             \
        return (o->flags & (OPF_REP | OPF_REPNE) ? rep : one)[o->size & 3];                                            \
    }
DEFINE_STRING(movs, MOVS)
DEFINE_STRING(cmps, CMPS)
DEFINE_STRING(stos, STOS)
DEFINE_STRING(lods, LODS)
DEFINE_STRING(scas, SCAS)

/* Their mnemonics are also those of SSE2's scalar moves and comparisons. */
op_fn *select_movsd(const struct decoded *d, struct op *o)
{
    if (d->in.meta.category == ZYDIS_CATEGORY_STRINGOP)
        return select_movs(d, o);
    return model_has(d->model, FEATURE_sse2) ? sel_MOVSD_sse(d, o) : NULL;
}
op_fn *select_cmpsd(const struct decoded *d, struct op *o)
{
    if (d->in.meta.category == ZYDIS_CATEGORY_STRINGOP)
        return select_cmps(d, o);
    return model_has(d->model, FEATURE_sse2) ? sel_CMPSD_sse(d, o) : NULL;
}
