/* SPDX-License-Identifier: MIT
 *
 * ops_int_flow.c: the stack, near branches, loops, software interrupts. Far transfers are those of seg.c; here are the
 * near ones and the operands of the far ones.
 */
#include "src/cpu/ops_int.h"
#include "src/cpu/code.h"

/* --- the stack -------------------------------------------------------------------------------------------------------
 */

static bool sp_la(struct cpu *c, const struct op *o, uint64_t offset, unsigned size, unsigned access, uint64_t *la)
{
    if (c->mode == MODE_64) {
        *la = offset;
        if (unlikely((o->flags & OPF_MEM) && !(mmu_canonical(offset, c->cr4 & CR4_LA57) &&
                                               mmu_canonical(offset + size - 1, c->cr4 & CR4_LA57)))) {
            c->cur = o; /* the operation's segment is that of its memory operand */
            return cpu_raise(c, EXC_SS, 0);
        }
        return true;
    }
    c->cur = o;
    return cpu_seg_la(c, SEG_SS, offset & sp_mask(c), size, access, la);
}
bool sp_load(struct cpu *c, const struct op *o, uint64_t offset, uint64_t *v, unsigned size)
{
    uint64_t la;
    *v = 0;
    if (!sp_la(c, o, offset, size, MMU_READ, &la))
        return false;
    uint16_t v16;
    uint32_t v32;
    bool ok;
    switch (size) {
    case 2:
        ok = op_load16(c, o, la, &v16);
        *v = ok ? v16 : 0;
        return ok;
    case 4:
        ok = op_load32(c, o, la, &v32);
        *v = ok ? v32 : 0;
        return ok;
    default: return op_load64(c, o, la, v);
    }
}
bool sp_store(struct cpu *c, const struct op *o, uint64_t offset, uint64_t v, unsigned size)
{
    uint64_t la;
    if (!sp_la(c, o, offset, size, MMU_WRITE, &la))
        return false;
    return size == 2   ? op_store16(c, o, la, (uint16_t)v)
           : size == 4 ? op_store32(c, o, la, (uint32_t)v)
                       : op_store64(c, o, la, v);
}
bool sp_push(struct cpu *c, const struct op *o, uint64_t v, unsigned size)
{
    uint64_t sp = c->gpr[GPR_RSP] - size;
    if (!sp_store(c, o, sp, v, size))
        return false;
    sp_set(c, sp);
    return true;
}
bool sp_pop(struct cpu *c, const struct op *o, uint64_t *v, unsigned size)
{
    if (!sp_load(c, o, c->gpr[GPR_RSP], v, size))
        return false;
    sp_set(c, c->gpr[GPR_RSP] + size);
    return true;
}

static uint64_t reg_value(const struct cpu *c, unsigned r, unsigned size)
{
    return size == 8 ? R(64, r) : size == 4 ? R(32, r) : R(16, r);
}
static void reg_write(struct cpu *c, unsigned r, uint64_t v, unsigned size)
{
    if (size == 8)
        W(64, r, v);
    else if (size == 4)
        W(32, r, (uint32_t)v);
    else
        W(16, r, (uint16_t)v);
}

static NOINLINE void push_r(struct cpu *c, const struct op *o)
{
    if (!sp_push(c, o, reg_value(c, o->r0, op_size(o)), op_size(o)))
        return;
    NEXT(c, o);
}
static void push_r64_fast(struct cpu *c, const struct op *o)
{
    uint64_t sp = c->gpr[GPR_RSP] - 8;
    uint8_t *h;
    if (unlikely(!host_hit(c, sp, 8, MMU_WRITE, &h)))
        return push_r(c, o);
    store64(h, R(64, o->r0));
    c->gpr[GPR_RSP] = sp;
    NEXT(c, o);
}
static void push_imm(struct cpu *c, const struct op *o)
{
    if (!sp_push(c, o, (uint64_t)o->disp, op_size(o)))
        return;
    NEXT(c, o);
}
static void push_sreg(struct cpu *c, const struct op *o)
{
    if (!sp_push(c, o, c->seg[o->r0].sel, op_size(o)))
        return;
    NEXT(c, o);
}
static bool load_sized(struct cpu *c, const struct op *o, unsigned size, uint64_t *v)
{
    uint16_t v16;
    uint32_t v32;
    switch (size) {
    case 2:
        if (!op_ld16(c, o, &v16))
            return false;
        *v = v16;
        return true;
    case 4:
        if (!op_ld32(c, o, &v32))
            return false;
        *v = v32;
        return true;
    default: return op_ld64(c, o, v);
    }
}
static void push_m(struct cpu *c, const struct op *o)
{
    {
        uint64_t v;
        if (!load_sized(c, o, op_size(o), &v) || !sp_push(c, o, v, op_size(o)))
            return;
    }
    NEXT(c, o);
}
op_fn *select_push(const struct decoded *d, struct op *o)
{
    if (o->flags & OPF_MEM)
        return push_m;
    if (decoded_is_imm(d, 0))
        return push_imm;
    if (decoded_class(d, 0) == ZYDIS_REGCLASS_SEGMENT)
        return push_sreg;
    return d->mode == MODE_64 && op_size(o) == 8 ? push_r64_fast : push_r;
}

static NOINLINE void pop_r(struct cpu *c, const struct op *o)
{
    {
        uint64_t v;
        if (!sp_pop(c, o, &v, op_size(o)))
            return;
        reg_write(c, o->r0, v, op_size(o)); /* POP SP: the value, not the increment */
    }
    NEXT(c, o);
}
static void pop_r64_fast(struct cpu *c, const struct op *o)
{
    uint8_t *h;
    if (unlikely(!host_hit(c, c->gpr[GPR_RSP], 8, MMU_READ, &h)))
        return pop_r(c, o);
    uint64_t v = load64(h);
    c->gpr[GPR_RSP] += 8;
    W(64, o->r0, v);
    NEXT(c, o);
}
/* RSP after a pop of `size` bytes. RSP itself changes when nothing can fault or exit any more: a VM exit has loaded the
 * host's. */
static uint64_t sp_popped(struct cpu *c, unsigned size)
{
    uint64_t sp = c->gpr[GPR_RSP];
    sp_set(c, sp + size);
    uint64_t popped = c->gpr[GPR_RSP];
    c->gpr[GPR_RSP] = sp;
    return popped;
}
/* The destination's address is computed with the incremented RSP. */
static void pop_m(struct cpu *c, const struct op *o)
{
    {
        unsigned size = op_size(o);
        uint64_t v, popped = sp_popped(c, size);
        if (!sp_load(c, o, c->gpr[GPR_RSP], &v, size))
            return;
        struct op store = *o;
        if (o->base == GPR_RSP)
            store.disp += (int64_t)(popped - c->gpr[GPR_RSP]);
        if (!(size == 2   ? op_st16(c, &store, (uint16_t)v)
              : size == 4 ? op_st32(c, &store, (uint32_t)v)
                          : op_st64(c, &store, v)))
            return;
        c->cur = o;
        c->gpr[GPR_RSP] = popped;
    }
    NEXT(c, o);
}
static void pop_sreg(struct cpu *c, const struct op *o)
{
    {
        uint64_t v, popped = sp_popped(c, op_size(o));
        /* The new SS has its own idea of the stack's width; the increment is by the old one's, as the pop was. */
        if (!sp_load(c, o, c->gpr[GPR_RSP], &v, op_size(o)))
            return;
        c->cur = o;
        if (!cpu_load_seg(c, o->r0, (uint16_t)v))
            return;
        c->gpr[GPR_RSP] = popped;
        if (o->r0 == SEG_SS)
            cpu_set_shadow(c, true);
    }
    END_NEXT(c, o);
}
op_fn *select_pop(const struct decoded *d, struct op *o)
{
    if (o->flags & OPF_MEM)
        return pop_m;
    if (decoded_class(d, 0) == ZYDIS_REGCLASS_SEGMENT) {
        decoded_ends(d);
        return pop_sreg;
    }
    return d->mode == MODE_64 && op_size(o) == 8 ? pop_r64_fast : pop_r;
}

static void op_pusha(struct cpu *c, const struct op *o, unsigned size)
{
    uint64_t sp = c->gpr[GPR_RSP];
    for (unsigned i = 0; i < 8; i++)
        if (!sp_store(c, o, sp - (i + 1) * size, i == GPR_RSP ? sp : c->gpr[i], size))
            return;
    sp_set(c, sp - 8 * size);
    NEXT(c, o);
}
void op_pushaw(struct cpu *c, const struct op *o)
{
    op_pusha(c, o, 2);
}
void op_pushad(struct cpu *c, const struct op *o)
{
    op_pusha(c, o, 4);
}
static void op_popa(struct cpu *c, const struct op *o, unsigned size)
{
    {
        uint64_t sp = c->gpr[GPR_RSP], v;
        for (unsigned i = 0; i < 8; i++) { /* a fault leaves those that are popped, and the stack pointer as it was */
            if (!sp_load(c, o, sp + i * size, &v, size))
                return;
            if (7 - i != GPR_RSP)
                reg_write(c, 8 * (7 - i), v, size);
        }
        sp_set(c, sp + 8 * size);
    }
    NEXT(c, o);
}
void op_popaw(struct cpu *c, const struct op *o)
{
    op_popa(c, o, 2);
}
void op_popad(struct cpu *c, const struct op *o)
{
    op_popa(c, o, 4);
}

/* SDM volume 2A, "ENTER": the level is modulo 32. A probe at the end faults as the write by the new frame would. */
void op_enter(struct cpu *c, const struct op *o)
{
    {
        unsigned size = op_size(o), level = (unsigned)o->disp & 31;
        uint64_t alloc = (uint16_t)o->imm, sp = c->gpr[GPR_RSP], bp = c->gpr[GPR_RBP];
        uint64_t at = sp - size, frame = at;
        if (!sp_store(c, o, at, bp, size))
            return;
        for (unsigned i = 1; i < level; i++) {
            uint64_t v;
            at -= size;
            if (!sp_load(c, o, bp - i * size, &v, size) || !sp_store(c, o, at, v, size))
                return;
        }
        if (level) {
            at -= size;
            if (!sp_store(c, o, at, frame, size))
                return;
        }
        at -= alloc;
        uint64_t la;
        c->cur = o;
        if (c->mode == MODE_64)
            la = at;
        else if (!cpu_seg_la(c, SEG_SS, at & sp_mask(c), size, MMU_WRITE, &la))
            return;
        if (!op_host(c, la, 1, MMU_WRITE)) {
            uint8_t dummy[8];
            if (!op_rmw_slow(c, o, la, dummy, size))
                return;
        }
        sp_set(c, at);
        /* The frame pointer takes the whole stack pointer, of which a 16-bit stack leaves the upper half as it was. */
        if (size == 2)
            W(16, 8 * GPR_RBP, (uint16_t)frame);
        else if (c->stack_size == 2)
            W(32, 8 * GPR_RBP, (uint32_t)((sp & ~0xffffull) | (frame & 0xffff)));
        else
            reg_write(c, 8 * GPR_RBP, frame, size);
    }
    NEXT(c, o);
}
void op_leave(struct cpu *c, const struct op *o)
{
    {
        unsigned size = op_size(o);
        uint64_t bp = c->gpr[GPR_RBP], v;
        if (!sp_load(c, o, bp, &v, size))
            return;
        sp_set(c, bp + size);
        reg_write(c, 8 * GPR_RBP, v, size);
    }
    NEXT(c, o);
}

/* --- near branches
 * ------------------------------------------------------------------------------------------------------- */

bool branch_check(struct cpu *c, const struct op *o, uint64_t *target)
{
    if (op_size(o) == 2)
        *target &= 0xffff;
    if (c->mode == MODE_64) {
        if (likely(canonical(c, *target)))
            return true;
    } else {
        *target &= 0xffffffff;
        if (likely(*target <= c->seg[SEG_CS].limit))
            return true;
    }
    c->cur = o;
    return cpu_raise(c, EXC_GP, 0);
}

/* The handlers named _fast are for 64-bit mode with its operand size. */
static void jmp_rel_fast(struct cpu *c, const struct op *o)
{
    c->rip = c->gpr[GPR_BLOCK] + (uint64_t)o->disp;
    c->icount += o->n + 1u;
    GO_LINKED(c, o, 1);
}
static void jmp_rel(struct cpu *c, const struct op *o)
{
    {
        uint64_t target = c->gpr[GPR_BLOCK] + (uint64_t)o->disp;
        if (!branch_check(c, o, &target))
            return;
        c->rip = target;
    }
    END(c, o);
}
static void jmp_r_fast(struct cpu *c, const struct op *o)
{
    {
        uint64_t target = R(64, o->r0);
        if (unlikely(!canonical(c, target)))
            return (void)branch_check(c, o, &target);
        c->rip = target;
        c->icount += o->n + 1u;
    }
    GO_ON(c);
}
static void jmp_r(struct cpu *c, const struct op *o)
{
    {
        uint64_t target = reg_value(c, o->r0, op_size(o));
        if (!branch_check(c, o, &target))
            return;
        c->rip = target;
    }
    END(c, o);
}
static NOINLINE void jmp_m(struct cpu *c, const struct op *o)
{
    {
        uint64_t target;
        if (!load_sized(c, o, op_size(o), &target) || !branch_check(c, o, &target))
            return;
        c->rip = target;
    }
    END(c, o);
}
static void jmp_m_fast(struct cpu *c, const struct op *o)
{
    uint8_t *h;
    if (unlikely(!host_hit(c, fast_la(c, o), 8, MMU_READ, &h) || !canonical(c, load64(h))))
        return jmp_m(c, o);
    c->rip = load64(h);
    c->icount += o->n + 1u;
    GO_ON(c);
}

/* The far pointer of JMP, CALL: in the instruction or in memory, offset first. */
static bool far_operand(struct cpu *c, const struct op *o, uint16_t *sel, uint64_t *offset)
{
    unsigned size = op_size(o);
    uint8_t buf[10];
    c->cur = o;
    if (!(o->flags & OPF_MEM)) {
        *sel = (uint16_t)o->imm;
        *offset = (uint64_t)o->disp;
        return true;
    }
    if (!op_ld_far(c, o, buf))
        return false;
    c->cur = o;
    *sel = load16(buf + size);
    *offset = size == 2 ? load16(buf) : size == 4 ? load32(buf) : load64(buf);
    return true;
}
static void jmp_far(struct cpu *c, const struct op *o)
{
    {
        uint16_t sel;
        uint64_t offset;
        if (!far_operand(c, o, &sel, &offset) || !cpu_far_jump(c, sel, offset, op_size(o)))
            return;
    }
    END(c, o);
}
static void call_far(struct cpu *c, const struct op *o)
{
    {
        uint16_t sel;
        uint64_t offset;
        if (!far_operand(c, o, &sel, &offset) || !cpu_far_call(c, sel, offset, op_size(o)))
            return;
    }
    END(c, o);
}
static void ret_far(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (!cpu_far_return(c, op_size(o), (uint16_t)o->imm))
        return;
    END(c, o);
}

/* m16:64 exists with REX.W on Intel only. */
static bool far_size(const struct decoded *d, struct op *o)
{
    if ((o->size & 15) == 3 && model_is_amd(d->model))
        o->size = (uint8_t)((o->size & 0xf0) | 2);
    return true;
}
op_fn *select_jmp(const struct decoded *d, struct op *o)
{
    bool fast = d->mode == MODE_64 && op_size(o) == 8;
    if (d->in.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
        return far_size(d, o) ? jmp_far : NULL;
    if (decoded_is_imm(d, 0)) {
        if (!fast)
            return jmp_rel;
        decoded_links(d);
        return jmp_rel_fast;
    }
    if (o->flags & OPF_MEM)
        return fast && !is_legacy(o) ? jmp_m_fast : jmp_m;
    return fast ? jmp_r_fast : jmp_r;
}

static NOINLINE void call_to(struct cpu *c, const struct op *o, uint64_t target)
{
    if (!branch_check(c, o, &target) || !sp_push(c, o, next_ip(c, o) & c->ip_mask, op_size(o)))
        return;
    c->rip = target;
    END(c, o);
}
static NOINLINE void call_rel(struct cpu *c, const struct op *o)
{
    call_to(c, o, c->gpr[GPR_BLOCK] + (uint64_t)o->disp);
}
static void call_rel_fast(struct cpu *c, const struct op *o)
{
    uint64_t sp = c->gpr[GPR_RSP] - 8;
    uint8_t *h;
    if (unlikely(!host_hit(c, sp, 8, MMU_WRITE, &h)))
        return call_rel(c, o);
    store64(h, next_ip(c, o));
    c->gpr[GPR_RSP] = sp;
    c->rip = c->gpr[GPR_BLOCK] + (uint64_t)o->disp;
    c->icount += o->n + 1u;
    GO_ON(c);
}
static NOINLINE void call_r(struct cpu *c, const struct op *o)
{
    call_to(c, o, reg_value(c, o->r0, op_size(o)));
}
static void call_r_fast(struct cpu *c, const struct op *o)
{
    uint64_t sp = c->gpr[GPR_RSP] - 8, target = R(64, o->r0);
    uint8_t *h;
    if (unlikely(!host_hit(c, sp, 8, MMU_WRITE, &h) || !canonical(c, target)))
        return call_r(c, o);
    store64(h, next_ip(c, o));
    c->gpr[GPR_RSP] = sp;
    c->rip = target;
    c->icount += o->n + 1u;
    GO_ON(c);
}
static void call_m(struct cpu *c, const struct op *o)
{
    uint64_t target;
    if (!load_sized(c, o, op_size(o), &target))
        return;
    call_to(c, o, target);
}
op_fn *select_call(const struct decoded *d, struct op *o)
{
    bool fast = d->mode == MODE_64 && op_size(o) == 8;
    if (d->in.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
        return far_size(d, o) ? call_far : NULL;
    if (decoded_is_imm(d, 0))
        return fast ? call_rel_fast : call_rel;
    if (o->flags & OPF_MEM)
        return call_m;
    return fast ? call_r_fast : call_r;
}

static NOINLINE void ret(struct cpu *c, const struct op *o)
{
    {
        uint64_t target, size = op_size(o);
        if (!sp_load(c, o, c->gpr[GPR_RSP], &target, (unsigned)size) || !branch_check(c, o, &target))
            return;
        sp_set(c, c->gpr[GPR_RSP] + size + (uint16_t)o->imm);
        c->rip = target;
    }
    END(c, o);
}
static void ret_fast(struct cpu *c, const struct op *o)
{
    uint8_t *h;
    if (unlikely(!host_hit(c, c->gpr[GPR_RSP], 8, MMU_READ, &h) || !canonical(c, load64(h))))
        return ret(c, o);
    c->rip = load64(h);
    c->gpr[GPR_RSP] += 8 + (uint64_t)(uint16_t)o->imm;
    c->icount += o->n + 1u;
    GO_ON(c);
}
op_fn *select_ret(const struct decoded *d, struct op *o)
{
    if (d->in.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
        return ret_far;
    return d->mode == MODE_64 && op_size(o) == 8 ? ret_fast : ret;
}

/* Conditional ones. In 64-bit mode imm is the distance of the next instruction from the block's start. */
static NOINLINE void branch_if(struct cpu *c, const struct op *o, bool taken)
{
    if (taken) {
        uint64_t target = c->gpr[GPR_BLOCK] + (uint64_t)o->disp;
        if (!branch_check(c, o, &target))
            return;
        c->rip = target;
    } else {
        c->rip = next_ip(c, o) & c->ip_mask;
    }
    END(c, o);
}
#define DEFINE_JCC(cc)                                                                                                 \
    static void jcc_fast##cc(struct cpu *c, const struct op *o)                                                        \
    {                                                                                                                  \
        uint64_t start = c->gpr[GPR_BLOCK];                                                                            \
        c->icount += o->n + 1u;                                                                                        \
        if (flags_cond(c, cc)) {                                                                                       \
            c->rip = start + (uint64_t)o->disp;                                                                        \
            GO_LINKED(c, o, 1);                                                                                        \
        }                                                                                                              \
        c->rip = start + (uint64_t)(int64_t)o->imm;                                                                    \
        GO_LINKED(c, o, 0);                                                                                            \
    }                                                                                                                  \
    static void jcc##cc(struct cpu *c, const struct op *o)                                                             \
    {                                                                                                                  \
        branch_if(c, o, flags_cond(c, cc));                                                                            \
    }
#define ALL_CC(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
ALL_CC(DEFINE_JCC)
op_fn *select_jcc(const struct decoded *d, struct op *o)
{
#define FAST(cc) jcc_fast##cc,
#define SLOW(cc) jcc##cc,
    static op_fn *const fast[16] = {ALL_CC(FAST)}, *const slow[16] = {ALL_CC(SLOW)};
#undef FAST
#undef SLOW
    unsigned cc = d->in.opcode & 15;
    if (d->mode != MODE_64 || op_size(o) != 8)
        return slow[cc];
    o->imm = o->ip + o->len;
    o->r0 = (uint8_t)cc; /* for op_fuse_branch() */
    decoded_links(d);
    return fast[cc];
}

/* The counter has the address size. */
static uint64_t counter(const struct cpu *c, const struct op *o)
{
    return c->gpr[GPR_RCX] & op_amask(o);
}
static void counter_set(struct cpu *c, const struct op *o, uint64_t v)
{
    reg_write(c, 8 * GPR_RCX, v, op_asize(o));
}
void op_jcxz(struct cpu *c, const struct op *o)
{
    branch_if(c, o, counter(c, o) == 0);
}
/* A LOOP that faults has not counted. */
static void loop_if(struct cpu *c, const struct op *o, bool condition)
{
    uint64_t n = (counter(c, o) - 1) & op_amask(o);
    bool taken = n && condition;
    if (taken) {
        uint64_t target = c->gpr[GPR_BLOCK] + (uint64_t)o->disp;
        if (!branch_check(c, o, &target))
            return;
        c->rip = target;
    } else {
        c->rip = next_ip(c, o) & c->ip_mask;
    }
    counter_set(c, o, n);
    END(c, o);
}
void op_loop(struct cpu *c, const struct op *o)
{
    loop_if(c, o, true);
}
void op_loope(struct cpu *c, const struct op *o)
{
    loop_if(c, o, flag_zf(c));
}
void op_loopne(struct cpu *c, const struct op *o)
{
    loop_if(c, o, !flag_zf(c));
}

/* --- software interrupts
 * ---------------------------------------------------------------------------------------------------- */

static void software_interrupt(struct cpu *c, const struct op *o, unsigned vector, enum event_type type)
{
    c->cur = o;
    cpu_sync(c);
    if (cpu_software_interrupt(c, vector, type, o->len))
        c->icount++;
}
void op_int(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (cpu_icpt_on(c, ICPT_SWINT) && cpu_intercept(c, o, ICPT_SWINT, (uint8_t)o->imm))
        return;
    software_interrupt(c, o, (uint8_t)o->imm, EVENT_SOFTINT);
}
void op_int3(struct cpu *c, const struct op *o)
{
    software_interrupt(c, o, EXC_BP, EVENT_SWEXC);
}
void op_int1(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (cpu_icpt_on(c, ICPT_ICEBP) && cpu_intercept(c, o, ICPT_ICEBP, 0))
        return;
    software_interrupt(c, o, EXC_DB, EVENT_PRIV_SWEXC);
}
void op_into(struct cpu *c, const struct op *o)
{
    if (flag_of(c))
        return software_interrupt(c, o, EXC_OF, EVENT_SWEXC);
    END_NEXT(c, o);
}
