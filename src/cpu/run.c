/* SPDX-License-Identifier: MIT
 *
 * run.c: a processor's life, and the loop that runs blocks.
 *
 * Between blocks the state is whole and `cur` is null. The loop looks at attention and at the deadline before each
 * block; what has to happen then is cpu_service()'s affair. While the processor is halted, cpu_service() returns true
 * or sets `stop`.
 *
 * One instruction (or one iteration of a repeated one) at a time, in blocks of BLOCK_STEP: while ATT_STEP or ATT_SHADOW
 * stand, near the end of the budget, where a block would run over the code segment's limit, and in cpu_step().
 */
#include "src/cpu/code.h"

#include <stdlib.h>

struct cpu *cpu_create(struct mem *mem, const struct model *model, unsigned index)
{
    struct cpu *c = aligned_alloc(64, (sizeof *c + 63) & ~(size_t)63);
    if (!c)
        return NULL;
    memset(c, 0, sizeof *c);
    c->apic_access_page = UINT64_MAX;
    c->mem = mem;
    c->model = model;
    c->index = index;
    c->bsp = index == 0;
    c->deadline = UINT64_MAX;
    if (!tlb_init(&c->tlbs)) {
        free(c);
        return NULL;
    }
    c->bank = tlb_select(&c->tlbs, &(struct tlb_context){0});
    c->tlb = c->tlbs.nothing;
    if (!code_create(c)) {
        tlb_free(&c->tlbs);
        free(c);
        return NULL;
    }
    cpu_reset(c, false);
    return c;
}

void cpu_destroy(struct cpu *c)
{
    if (!c)
        return;
    code_destroy(c);
    tlb_free(&c->tlbs);
    free(c);
}

void cpu_attend(struct cpu *c, uint32_t bits)
{
    __atomic_fetch_or(&c->attention, bits, __ATOMIC_SEQ_CST);
}

uint64_t cpu_next_rip(const struct cpu *c, const struct op *o)
{
    return (c->gpr[GPR_BLOCK] + o->ip + o->len) & c->ip_mask;
}

void cpu_sync(struct cpu *c)
{
    const struct op *o = c->cur;
    if (!o)
        return;
    c->rip = (c->gpr[GPR_BLOCK] + o->ip) & c->ip_mask;
    c->icount += o->n;
    c->insn_len = o->len;
    c->cur = NULL;
    /* The instruction is not carried out: what it met at data breakpoints is not due. */
    if (unlikely(c->pending_dbg))
        c->pending_dbg &= cpu_in_shadow(c) && c->shadow_movss ? c->held_dbg : 0;
}

void cpu_sync_next(struct cpu *c)
{
    const struct op *o = c->cur;
    if (!o)
        return;
    c->rip = cpu_next_rip(c, o);
    c->icount += o->n + 1u;
    c->insn_len = o->len;
    c->cur = NULL;
}

static void run_block(struct cpu *c, struct block *b)
{
    c->gpr[GPR_BLOCK] = c->rip;
    b->ops->fn(c, b->ops);
}

static void exception(struct cpu *c)
{
    cpu_sync(c);
    cpu_handle_exception(c);
    /* A delivery takes time too: a handler that can't execute its first instruction must not stop the clock. */
    c->icount++;
}

/* --- branch records ------------------------------------------------------------------------------------------------ *
 * SDM 3B, "Last Branch, Interrupt, and Exception Recording" (LIP: a linear address); APM 2, "Control-Transfer
 * Recording" (rIP). Branches are recorded, and told from other instructions for BTF, while instructions run one at a
 * time, so that without DEBUGCTL.LBR and RFLAGS.TF nobody looks for them. */

uint64_t cpu_branch_address(const struct cpu *c)
{
    if (c->mode == MODE_64 || model_is_amd(c->model))
        return c->rip;
    return (uint32_t)(c->seg[SEG_CS].base + c->rip);
}

void cpu_record_branch(struct cpu *c, uint64_t from, bool event)
{
    uint64_t *r = c->msr.last_branch;
    if (event) { /* the last branch before it */
        r[2] = r[0];
        r[3] = r[1];
    }
    r[0] = from;
    r[1] = cpu_branch_address(c);
}

enum branch { NO_BRANCH, CONDITIONAL, ALWAYS_TAKEN };

/* Of an instruction that is known to decode. Those that deliver an event are recorded there. */
static enum branch branch_kind(const uint8_t *p, unsigned len, bool mode64)
{
    const uint8_t *end = p + len;
    for (; p < end; p++) {
        switch (*p) {
        case 0x26:
        case 0x2e:
        case 0x36:
        case 0x3e:
        case 0x64:
        case 0x65:
        case 0x66:
        case 0x67:
        case 0xf0:
        case 0xf2:
        case 0xf3: continue;
        }
        if (!mode64 || (*p & 0xf0) != 0x40)
            break;
    }
    if (p >= end)
        return NO_BRANCH;
    unsigned op = *p++, next = p < end ? *p : 0;
    switch (op) {
    case 0xe0: /* LOOPNE, LOOPE, LOOP, JCXZ */
    case 0xe1:
    case 0xe2:
    case 0xe3: return CONDITIONAL;
    case 0xc2: /* RET, far RET, IRET, CALL, JMP */
    case 0xc3:
    case 0xca:
    case 0xcb:
    case 0xcf:
    case 0xe8:
    case 0xe9:
    case 0xeb: return ALWAYS_TAKEN;
    case 0x9a:
    case 0xea: return mode64 ? NO_BRANCH : ALWAYS_TAKEN;
    case 0xff: return (next >> 3 & 7) >= 2 && (next >> 3 & 7) <= 5 ? ALWAYS_TAKEN : NO_BRANCH;
    case 0x0f:
        if (next >> 4 == 8)
            return CONDITIONAL;
        /* SYSCALL, SYSRET, SYSENTER, SYSEXIT */
        return next == 0x05 || next == 0x07 || next == 0x34 || next == 0x35 ? ALWAYS_TAKEN : NO_BRANCH;
    }
    return op >> 4 == 7 ? CONDITIONAL : NO_BRANCH;
}

/* DEVIATION: a conditional branch that is taken to the instruction behind it counts as not taken. */
static NOINLINE void run_block_recording(struct cpu *c, struct block *b)
{
    enum branch kind = branch_kind(b->bytes, b->len, c->mode == MODE_64);
    uint64_t from = cpu_branch_address(c), next = (c->rip + b->len) & c->ip_mask;
    uint64_t world = c->stats.entries + c->stats.exits, delivered = c->delivered;
    run_block(c, b);
    if (kind == NO_BRANCH || c->exc.valid || world != c->stats.entries + c->stats.exits || delivered != c->delivered)
        return;
    if (kind == CONDITIONAL && c->rip == next)
        return;
    c->branched = true;
    if (c->msr.debugctl & DEBUGCTL_LBR)
        cpu_record_branch(c, from, false);
}

static void run_one(struct cpu *c, bool hold)
{
    struct block *b = code_find(c, true);
    c->horizon = 0;
    c->branched = false;
    if (likely(b)) {
        cpu_tell(c, WATCH_INSN, (uintptr_t)b->bytes, b->len);
        if (unlikely(c->msr.debugctl & (DEBUGCTL_LBR | DEBUGCTL_BTF)))
            run_block_recording(c, b);
        else
            run_block(c, b);
    }
    if (unlikely(c->exc.valid)) {
        if (hold)
            cpu_sync(c);
        else
            exception(c);
    }
    c->cur = NULL;
}

/* Blocks go on to blocks for so many instructions. A handler whose call of the next one is not a tail call adds a frame
 * each time. */
#define CHAIN_MAX 512u

INLINE uint32_t attention(const struct cpu *c)
{
    return __atomic_load_n(&c->attention, __ATOMIC_ACQUIRE);
}

/* True: look again before running anything. */
static NOINLINE bool service(struct cpu *c)
{
    if (attention(c) & ATT_TLB) {
        __atomic_fetch_and(&c->attention, ~(uint32_t)ATT_TLB, __ATOMIC_SEQ_CST);
        tlb_withdraw_all_writes(&c->tlbs);
        mem_code_bump(c->mem); /* what was written directly since the page was noted */
    }
    if (!attention(c) && c->icount < c->deadline)
        return false;
    return cpu_service(c);
}

enum cpu_stop cpu_run(struct cpu *c, uint64_t max_insns)
{
    uint64_t end = max_insns > UINT64_MAX - c->icount ? UINT64_MAX : c->icount + max_insns;
    uint64_t near_end = end >= OP_BLOCK_MAX ? end - OP_BLOCK_MAX : 0;
    c->stop = STOP_NONE;
    c->cur = NULL;
    cpu_fpu_enter(c);
    while (!c->stop) {
        if (unlikely(attention(c) || c->icount >= c->deadline)) {
            if (service(c)) {
                if (unlikely(c->icount >= end) && !c->stop)
                    c->stop = STOP_BUDGET;
                continue;
            }
            if (c->icount < end && attention(c) & (ATT_STEP | ATT_SHADOW)) {
                run_one(c, false);
                continue;
            }
        }
        if (unlikely(c->icount >= near_end)) {
            if (c->icount >= end) {
                c->stop = STOP_BUDGET;
                break;
            }
            run_one(c, false);
            continue;
        }
        /* ORDER: what was read of the deadline is refreshed by whoever changes it (cpu_update_deadline). */
        c->horizon = MIN(c->deadline, near_end);
        c->horizon = MIN(c->horizon, c->icount + CHAIN_MAX);
        struct block *b = code_lookup(c);
        if (unlikely(!b)) {
            b = code_find(c, false);
            if (unlikely(!b)) {
                if (c->exc.valid)
                    exception(c);
                continue;
            }
        }
        c->gpr[GPR_BLOCK] = c->rip;
        b->ops->fn(c, b->ops);
        if (unlikely(c->exc.valid))
            exception(c);
        c->cur = NULL;
    }
    cpu_fpu_leave(c);
    return c->stop;
}

enum cpu_stop cpu_step(struct cpu *c, bool hold)
{
    c->stop = STOP_NONE;
    c->cur = NULL;
    if (attention(c) || c->icount >= c->deadline) {
        if (service(c))
            return c->stop;
    }
    if (!c->stop) {
        cpu_fpu_enter(c);
        run_one(c, hold);
        cpu_fpu_leave(c);
    }
    return c->stop;
}
