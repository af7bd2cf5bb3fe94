/* SPDX-License-Identifier: MIT
 *
 * ops_sys2.c: flags, halting, fast system calls, IRET, far pointers, port I/O.
 *
 * SDM volume 2, each instruction's page; volume 3A, "Fast System Calls in 64-Bit Mode"; APM volume 3, "SYSCALL",
 * "SYSRET", "SYSENTER", "SYSEXIT", where the vendors differ.
 */
#include "src/cpu/decode.h"
#include "src/cpu/sys.h"

#define RAISE(c, vector)            ((void)cpu_raise(c, vector, 0))
#define INTERCEPT(c, o, what, info) (cpu_icpt_on(c, ICPT_##what) && cpu_intercept(c, o, ICPT_##what, info))

static bool amd(const struct cpu *c)
{
    return model_is_amd(c->model);
}

/* Something may be waiting for what this instruction changed: end the block. */
static bool must_look(const struct cpu *c)
{
    return __atomic_load_n(&c->attention, __ATOMIC_RELAXED) || c->intr_waiting || c->guest;
}

/* --- interrupt flag
 * ---------------------------------------------------------------------------------------------------- */

/* SDM 2, "CLI", "STI": 0: the real IF; 1: VIF; -1: #GP. */
static int if_kind(const struct cpu *c)
{
    if (c->real_mode)
        return 0;
    if (c->vm86)
        return iopl(c) == 3 ? 0 : c->cr4 & CR4_VME ? 1 : -1;
    if (c->cpl <= iopl(c))
        return 0;
    return c->cpl == 3 && (c->cr4 & CR4_PVI) ? 1 : -1;
}

void op_cli(struct cpu *c, const struct op *o)
{
    int kind = likely(c->cpl == 0 && !c->vm86) ? 0 : if_kind(c);
    if (unlikely(kind < 0)) {
        c->cur = o;
        return RAISE(c, EXC_GP);
    }
    c->rflags_rest &= ~(uint32_t)(kind ? FLAG_VIF : FLAG_IF);
    NEXT(c, o);
}

void op_sti(struct cpu *c, const struct op *o)
{
    int kind = likely(c->cpl == 0 && !c->vm86) ? 0 : if_kind(c);
    c->cur = o;
    if (unlikely(kind < 0))
        return RAISE(c, EXC_GP);
    if (kind) {
        if (c->rflags_rest & FLAG_VIP)
            return RAISE(c, EXC_GP);
        c->rflags_rest |= FLAG_VIF;
        NEXT(c, o);
    }
    if (!(c->rflags_rest & FLAG_IF)) {
        c->rflags_rest |= FLAG_IF;
        cpu_set_shadow(c, false);
        if (must_look(c)) {
            cpu_recheck_events(c);
            END_NEXT(c, o);
        }
    }
    NEXT(c, o);
}

/* --- PUSHF, POPF
 * --------------------------------------------------------------------------------------------------------- */

void op_pushf(struct cpu *c, const struct op *o)
{
    unsigned size = op_size(o);
    c->cur = o;
    if (INTERCEPT(c, o, PUSHF, 0))
        return;
    uint64_t f = cpu_rflags(c) & ~(FLAG_VM | FLAG_RF);
    if (unlikely(c->vm86 && iopl(c) < 3)) {
        if (!(c->cr4 & CR4_VME) || size != 2)
            return RAISE(c, EXC_GP);
        f = (f & ~FLAG_IF) | (f & FLAG_VIF ? FLAG_IF : 0) | FLAG_IOPL;
    }
    if (likely(c->mode == MODE_64 && size == 8)) {
        uint64_t sp = c->gpr[GPR_RSP] - 8;
        uint8_t *h = op_host(c, sp, 8, MMU_WRITE);
        if (likely(h)) {
            store64(h, f);
            c->gpr[GPR_RSP] = sp;
            NEXT(c, o);
        }
    }
    if (cpu_push(c, f, size))
        NEXT(c, o);
}

void op_popf(struct cpu *c, const struct op *o)
{
    unsigned size = op_size(o);
    uint64_t v, old_sp = c->gpr[GPR_RSP];
    c->cur = o;
    if (INTERCEPT(c, o, POPF, 0))
        return;
    if (unlikely(c->vm86 && iopl(c) < 3 && (!(c->cr4 & CR4_VME) || size != 2)))
        return RAISE(c, EXC_GP);
    const uint8_t *h = c->mode == MODE_64 && size == 8 ? op_host(c, old_sp, 8, MMU_READ) : NULL;
    if (likely(h)) {
        v = load64(h);
        c->gpr[GPR_RSP] = old_sp + 8;
    } else if (!cpu_pop(c, &v, size)) {
        return;
    }
    uint64_t old = cpu_rflags(c), mask = FLAG_ARITH | FLAG_TF | FLAG_DF | FLAG_NT;
    if (size >= 4)
        mask |= FLAG_AC | FLAG_ID;
    if (unlikely(c->vm86)) {
        if (iopl(c) == 3) {
            mask |= FLAG_IF;
        } else {
            if ((v & FLAG_TF) || ((v & FLAG_IF) && (old & FLAG_VIP))) {
                c->gpr[GPR_RSP] = old_sp;
                return RAISE(c, EXC_GP);
            }
            mask |= FLAG_VIF;
            v = (v & ~FLAG_VIF) | (v & FLAG_IF ? FLAG_VIF : 0);
        }
    } else {
        if (c->cpl <= iopl(c)) {
            mask |= FLAG_IF;
        } else if (c->cpl == 3 && (c->cr4 & CR4_PVI) && size == 2) {
            /* SDM 3A, "Protected-Mode Virtual Interrupts": a 16-bit POPF leaves VIF alone. */
        }
        if (c->cpl == 0)
            mask |= FLAG_IOPL;
        /* SDM 2, "POPF": VIP and VIF are cleared by a 32- or 64-bit one at CPL 0. */
        if (size >= 4 && c->cpl == 0 && !c->real_mode) {
            mask |= FLAG_VIP | FLAG_VIF;
            v &= ~(FLAG_VIP | FLAG_VIF);
        }
    }
    uint64_t new_ = (old & ~(mask | FLAG_RF)) | (v & mask), changed = (old ^ new_) & ~(uint64_t)FLAG_ARITH;
    if (likely(!(changed & ~(FLAG_IF | FLAG_DF | FLAG_ID | FLAG_NT | FLAG_IOPL)))) {
        flags_set_arith(c, new_);
        c->rflags_rest = (uint32_t)(new_ & ~(uint64_t)FLAG_ARITH);
        if (changed & new_ & FLAG_IF && must_look(c)) {
            cpu_recheck_events(c);
            END_NEXT(c, o);
        }
        NEXT(c, o);
    }
    cpu_set_rflags(c, new_);
    END_NEXT(c, o);
}

/* STAC and CLAC frame every copy from and to user memory: the view changes, nothing else. */
static void set_ac(struct cpu *c, const struct op *o, bool on)
{
    c->cur = o;
    if (c->cpl || c->real_mode)
        return RAISE(c, EXC_UD);
    c->rflags_rest = (uint32_t)bit_put(c->rflags_rest, 18, on);
    if (unlikely(c->check_all)) {
        cpu_update_mode(c);
        END_NEXT(c, o);
    }
    c->tlb = c->bank->e[(c->cr4 & CR4_SMAP) && !on ? TLB_SUP_SMAP : TLB_SUP];
    code_set_key(c);
    NEXT(c, o);
}
void op_stac(struct cpu *c, const struct op *o)
{
    set_ac(c, o, true);
}
void op_clac(struct cpu *c, const struct op *o)
{
    set_ac(c, o, false);
}

/* --- waiting
 * ------------------------------------------------------------------------------------------------------------- */

void op_hlt(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (c->cpl)
        return RAISE(c, EXC_GP);
    if (INTERCEPT(c, o, HLT, 0))
        return;
    c->activity = ACTIVITY_HLT;
    cpu_attend(c, ATT_INTR);
    END_NEXT(c, o);
}

static bool monitor_exists(const struct cpu *c)
{
    return amd(c) ? !c->cpl || (c->msr.hwcr & BIT(10)) : (c->msr.misc_enable & BIT(18)) && !c->cpl;
}

/* The address is rAX in DS or an overriding segment, without an operand that says so. */
static void implied_segment(const struct decoded *d, struct op *o)
{
    static const struct {
        ZydisInstructionAttributes attribute;
        uint8_t seg;
    } rows[] = {{ZYDIS_ATTRIB_HAS_SEGMENT_ES, SEG_ES},
                {ZYDIS_ATTRIB_HAS_SEGMENT_CS, SEG_CS},
                {ZYDIS_ATTRIB_HAS_SEGMENT_SS, SEG_SS},
                {ZYDIS_ATTRIB_HAS_SEGMENT_FS, SEG_FS},
                {ZYDIS_ATTRIB_HAS_SEGMENT_GS, SEG_GS}};
    o->seg = d->mode == MODE_64 ? SEG_NONE : SEG_DS;
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++)
        if ((d->in.attributes & rows[i].attribute) && (d->mode != MODE_64 || rows[i].seg >= SEG_FS))
            o->seg = rows[i].seg;
}

/* Another processor's stores to the line are seen by comparison. DEVIATION: a store of what stood there wakes nobody.
 */
static void arm_monitor(struct cpu *c, uint64_t la)
{
    struct mmu_regs regs;
    struct mmu_result r;
    struct mmu_fault f;
    c->mon_armed = true;
    c->mon_line = NULL;
    if (!c->takes_turns)
        return;
    cpu_mmu_regs(c, &regs);
    if (mmu_translate(c->mem, &regs, c->second.kind == MMU_SECOND_NONE ? NULL : &c->second, LA(la),
                      MMU_READ | MMU_PROBE | cpu_data_access(c), &r, &f) == MMU_OK)
        c->mon_line = mem_host(c->mem, HPA(r.hpa.v & ~63ull), sizeof c->mon_data, false);
    if (c->mon_line)
        memcpy(c->mon_data, c->mon_line, sizeof c->mon_data);
}

static void op_monitor(struct cpu *c, const struct op *o)
{
    uint8_t byte;
    uint64_t la;
    c->cur = o;
    if (!monitor_exists(c))
        return RAISE(c, EXC_UD);
    bool late = amd(c); /* AMD: all exceptions come before the intercept */
    if (!late && INTERCEPT(c, o, MONITOR, 0))
        return;
    c->cur = o;
    if ((uint32_t)c->gpr[GPR_RCX])
        return RAISE(c, EXC_GP);
    if (!cpu_seg_la(c, o->seg, c->gpr[GPR_RAX] & op_amask(o), 1, MMU_READ, &la) ||
        !cpu_read(c, LA(la), &byte, 1, MMU_READ | cpu_data_access(c)))
        return;
    if (late && INTERCEPT(c, o, MONITOR, 0))
        return;
    arm_monitor(c, la);
    NEXT(c, o);
}

static void op_umonitor(struct cpu *c, const struct op *o)
{
    c->cur = o;
    uint8_t byte;
    uint64_t la, offset = op_r64(c, o->r0) & op_amask(o);
    if (!cpu_seg_la(c, o->seg, offset, 1, MMU_READ, &la) ||
        !cpu_read(c, LA(la), &byte, 1, MMU_READ | cpu_data_access(c)))
        return;
    arm_monitor(c, la);
    NEXT(c, o);
}

op_fn *select_monitor(const struct decoded *d, struct op *o)
{
    implied_segment(d, o);
    return d->in.mnemonic == ZYDIS_MNEMONIC_MONITOR ? op_monitor : op_umonitor;
}

/* The processor wakes at interrupts. Another processor's store to the monitored line wakes it too: where processors
 * take turns, whoever gives them theirs compares the line; else the wait ends at once when there are others, as it may
 * for any implementation-dependent reason. */
void op_mwait(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (!monitor_exists(c))
        return RAISE(c, EXC_UD);
    if (!amd(c) && INTERCEPT(c, o, MWAIT, c->mon_armed))
        return;
    c->cur = o;
    if ((uint32_t)c->gpr[GPR_RCX] & ~1u)
        return RAISE(c, EXC_GP);
    if (amd(c) && INTERCEPT(c, o, MWAIT, c->mon_armed))
        return;
    bool armed = c->mon_armed;
    c->mon_armed = false;
    if (armed && (c->cpus <= 1 || (c->takes_turns && c->mon_line)) &&
        ((c->rflags_rest & FLAG_IF) || (c->gpr[GPR_RCX] & 1))) {
        c->activity = ACTIVITY_MWAIT;
        c->mwait_any = c->gpr[GPR_RCX] & 1;
        cpu_attend(c, ATT_INTR);
    }
    END_NEXT(c, o);
}

/* --- SYSCALL, SYSENTER
 * ------------------------------------------------------------------------------------------------------ */

static struct seg flat(uint16_t sel, bool code, unsigned dpl, bool l)
{
    return (struct seg){.sel = sel,
                        .limit = 0xffffffff,
                        .ar = AR_P | AR_S | AR_G | dpl << 5 | (code ? 0xb : 3) | (code && l ? AR_L : AR_DB)};
}

void op_syscall(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (!(c->efer & EFER_SCE) || (!amd(c) && c->mode != MODE_64))
        return RAISE(c, EXC_UD);
    if (unlikely(c->host_syscall != NULL) && c->guest) {
        uint64_t rip = c->rip, icount = c->icount;
        cpu_sync_next(c);
        if (c->host_syscall(c))
            return;
        c->rip = rip;
        c->icount = icount;
        c->cur = o;
    }
    uint64_t next = cpu_next_rip(c, o);
    uint16_t cs = (uint16_t)(c->msr.star >> 32) & 0xfffc;
    if (c->long_mode) {
        uint64_t f = cpu_rflags(c) & ~FLAG_RF;
        c->gpr[GPR_RCX] = next;
        c->gpr[GPR_R11] = f;
        c->rip = c->mode == MODE_64 ? c->msr.lstar : c->msr.cstar;
        f &= ~c->msr.sfmask;
        flags_set_arith(c, f);
        c->rflags_rest = (uint32_t)(f & ~(uint64_t)FLAG_ARITH) | FLAG_1;
        c->seg[SEG_CS] = flat(cs, true, 0, true);
    } else {
        c->gpr[GPR_RCX] = (uint32_t)next;
        c->rip = (uint32_t)c->msr.star;
        c->rflags_rest &= ~(uint32_t)(FLAG_IF | FLAG_VM | FLAG_RF);
        c->seg[SEG_CS] = flat(cs, true, 0, false);
    }
    if (!(c->rflags_rest & FLAG_TF))
        c->step_armed = false;
    c->seg[SEG_SS] = flat((uint16_t)(cs + 8), false, 0, false);
    c->cpl = 0;
    cpu_update_mode(c);
    END(c, o);
}

void op_sysret(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (!(c->efer & EFER_SCE) || (!amd(c) && c->mode != MODE_64))
        return RAISE(c, EXC_UD);
    if (c->real_mode || c->cpl)
        return RAISE(c, EXC_GP);
    bool to64 = op_size(o) == 8;
    uint16_t cs = (uint16_t)(c->msr.star >> 48);
    uint64_t rip = c->gpr[GPR_RCX];
    if (to64) {
        /* Intel checks here, AMD at the target: the fault is then taken at CPL 3. */
        if (!amd(c) && !canonical(c, rip))
            return RAISE(c, EXC_GP);
    } else {
        rip = (uint32_t)rip;
    }
    uint64_t f;
    if (c->long_mode)
        f = (c->gpr[GPR_R11] & 0x3c7fd7) | FLAG_1;
    else
        f = cpu_rflags(c) | FLAG_IF;
    struct seg ss = flat((uint16_t)((cs + 8) | 3), false, 3, false);
    if (amd(c)) { /* the selector and DPL alone; base, limit and the other attributes stay */
        uint16_t sel = ss.sel;
        ss = c->seg[SEG_SS];
        ss.sel = sel;
        ss.ar |= 3u << 5;
    }
    c->rip = rip;
    c->seg[SEG_CS] = flat((uint16_t)((cs + (to64 ? 16 : 0)) | 3), true, 3, to64);
    c->seg[SEG_SS] = ss;
    c->cpl = 3;
    cpu_set_rflags(c, f);
    cpu_update_mode(c);
    END(c, o);
}

void op_sysenter(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (amd(c) && c->long_mode)
        return RAISE(c, EXC_UD);
    uint16_t cs = (uint16_t)c->msr.sysenter_cs & 0xfffc;
    if (c->real_mode || !cs)
        return RAISE(c, EXC_GP);
    c->rflags_rest &= ~(uint32_t)(FLAG_VM | FLAG_IF | FLAG_RF);
    c->seg[SEG_CS] = flat(cs, true, 0, c->long_mode);
    c->seg[SEG_SS] = flat((uint16_t)(cs + 8), false, 0, false);
    c->cpl = 0;
    c->rip = c->long_mode ? c->msr.sysenter_eip : (uint32_t)c->msr.sysenter_eip;
    c->gpr[GPR_RSP] = c->long_mode ? c->msr.sysenter_esp : (uint32_t)c->msr.sysenter_esp;
    cpu_update_mode(c);
    END(c, o);
}

void op_sysexit(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (amd(c) && c->long_mode)
        return RAISE(c, EXC_UD);
    uint16_t cs = (uint16_t)c->msr.sysenter_cs & 0xfffc;
    bool to64 = c->long_mode && op_size(o) == 8;
    if (c->real_mode || !cs || c->cpl)
        return RAISE(c, EXC_GP);
    if (to64 && (!canonical(c, c->gpr[GPR_RCX]) || !canonical(c, c->gpr[GPR_RDX])))
        return RAISE(c, EXC_GP);
    c->rip = to64 ? c->gpr[GPR_RDX] : (uint32_t)c->gpr[GPR_RDX];
    c->gpr[GPR_RSP] = to64 ? c->gpr[GPR_RCX] : (uint32_t)c->gpr[GPR_RCX];
    c->seg[SEG_CS] = flat((uint16_t)((cs + (to64 ? 32 : 16)) | 3), true, 3, to64);
    c->seg[SEG_SS] = flat((uint16_t)((cs + (to64 ? 40 : 24)) | 3), false, 3, false);
    c->cpl = 3;
    cpu_update_mode(c);
    END(c, o);
}

/* --- IRET, far pointers, BOUND
 * --------------------------------------------------------------------------------------------------- */

void op_iret(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (INTERCEPT(c, o, IRET, 0))
        return;
    if (cpu_iret(c, op_size(o)))
        END(c, o);
}

/* --- port I/O
 * --------------------------------------------------------------------------------------------------------------------------
 */

/* True: a VM exit was made. la: of the memory operand of a string instruction. */
static bool icpt_io(struct cpu *c, const struct op *o, uint16_t port, unsigned size, bool in, bool string, bool imm,
                    unsigned seg, uint64_t la)
{
    if (!cpu_icpt_on(c, ICPT_IO) || !c->guest || !c->guest->io)
        return false;
    uint64_t rip = c->rip, icount = c->icount, pending_dbg = c->pending_dbg;
    c->cur = o;
    cpu_sync(c);
    c->icpt_op = o;
    bool exited =
        c->guest->io(c, port, size, in, string, o->flags & (OPF_REP | OPF_REPNE), imm, seg, op_asize(o), LA(la));
    c->icpt_op = NULL;
    if (!exited && !c->exc.valid) {
        c->rip = rip;
        c->icount = icount;
        c->pending_dbg = pending_dbg;
        c->cur = o;
    }
    return exited;
}

/* I/O devices see the exact time. */
static void io_read(struct cpu *c, uint16_t port, unsigned size, uint8_t *buf)
{
    uint32_t v = mem_port_in(c->mem, port, size);
    store32(buf, v);
    cpu_tell(c, WATCH_IO, port | size << 16 | BIT(24), v);
    if (unlikely(c->dr[7] & 0xff))
        cpu_io_breakpoint(c, port, size);
}
static void io_write(struct cpu *c, uint16_t port, unsigned size, uint32_t v)
{
    cpu_tell(c, WATCH_IO, port | size << 16, v);
    mem_port_out(c->mem, port, size, v);
    if (unlikely(c->dr[7] & 0xff))
        cpu_io_breakpoint(c, port, size);
}

static void note_smi(struct cpu *c, const struct op *o, uint16_t port, unsigned size, bool in, bool string, bool imm,
                     uint64_t la)
{
    if (unlikely(__atomic_load_n(&c->attention, __ATOMIC_RELAXED) & ATT_SMI))
        cpu_note_smi_io(c, o, port, size, in, string, imm, la);
}

/* Bytes: decode.h gives 1, 2 or 4 as the operand size; a 64-bit operand size is 32 bits here. */
static unsigned io_size(const struct op *o)
{
    return MIN(op_size(o), 4u);
}

static void in_port(struct cpu *c, const struct op *o, uint16_t port, bool imm)
{
    unsigned size = io_size(o);
    uint8_t raw[4];
    c->cur = o;
    if (!cpu_io_allowed(c, port, size) || icpt_io(c, o, port, size, true, false, imm, SEG_NONE, 0))
        return;
    io_read(c, port, size, raw);
    note_smi(c, o, port, size, true, false, imm, 0);
    switch (size) {
    case 1: op_set_r8(c, 0, raw[0]); break;
    case 2: op_set_r16(c, 0, load16(raw)); break;
    default: op_set_r32(c, 0, load32(raw)); break;
    }
    END_NEXT(c, o);
}
static void out_port(struct cpu *c, const struct op *o, uint16_t port, bool imm)
{
    unsigned size = io_size(o);
    c->cur = o;
    if (!cpu_io_allowed(c, port, size) || icpt_io(c, o, port, size, false, false, imm, SEG_NONE, 0))
        return;
    io_write(c, port, size, (uint32_t)(c->gpr[GPR_RAX] & mask_low(8 * size)));
    note_smi(c, o, port, size, false, false, imm, 0);
    END_NEXT(c, o);
}
static void op_in_imm(struct cpu *c, const struct op *o)
{
    in_port(c, o, (uint8_t)o->imm, true);
}
static void op_in_dx(struct cpu *c, const struct op *o)
{
    in_port(c, o, (uint16_t)c->gpr[GPR_RDX], false);
}
static void op_out_imm(struct cpu *c, const struct op *o)
{
    out_port(c, o, (uint8_t)o->imm, true);
}
static void op_out_dx(struct cpu *c, const struct op *o)
{
    out_port(c, o, (uint16_t)c->gpr[GPR_RDX], false);
}
op_fn *select_in(const struct decoded *d, struct op *o)
{
    return decoded_is_imm(d, 1) ? op_in_imm : op_in_dx;
}
op_fn *select_out(const struct decoded *d, struct op *o)
{
    return decoded_is_imm(d, 0) ? op_out_imm : op_out_dx;
}

#define IO_ROUNDS_MAX 1024u /* iterations before the clock is looked at; each counts as an instruction then */

/* INS and OUTS: one iteration is a whole instruction for faults, exits and interrupts (SDM 2, "REP"). */
static void string_io(struct cpu *c, const struct op *o, unsigned size, bool in)
{
    const bool rep = o->flags & (OPF_REP | OPF_REPNE);
    const uint64_t mask = op_amask(o);
    const unsigned index = in ? GPR_RDI : GPR_RSI;
    const unsigned seg = in ? (c->mode == MODE_64 ? SEG_NONE : SEG_ES) : o->seg;
    const uint16_t port = (uint16_t)c->gpr[GPR_RDX];
    unsigned rounds = 0;
    for (;;) {
        uint64_t count = c->gpr[GPR_RCX] & mask, la;
        uint8_t raw[4];
        c->cur = o;
        if (!cpu_io_allowed(c, port, size)) /* even if there is nothing to do */
            return;
        if (rep && !count)
            break;
        uint64_t offset = c->gpr[index] & mask;
        if (cpu_icpt_on(c, ICPT_IO)) {
            uint64_t plain = offset + c->seg_base64[seg];
            if (icpt_io(c, o, port, size, in, true, false, seg, c->mode == MODE_64 ? plain : (uint32_t)plain))
                return;
        }
        if (!cpu_seg_la(c, seg, offset, size, in ? MMU_WRITE : MMU_READ, &la))
            return;
        if (in) {
            /* The write must be possible before the port is read. */
            if (!cpu_probe(c, LA(la), size, MMU_WRITE | cpu_data_access(c)))
                return;
            io_read(c, port, size, raw);
            if (!op_write_slow(c, o, la, raw, size))
                return;
        } else {
            if (!op_read_slow(c, o, la, raw, size))
                return;
            io_write(c, port, size, size == 1 ? raw[0] : size == 2 ? load16(raw) : load32(raw));
        }
        note_smi(c, o, port, size, in, true, false, la);
        uint64_t next = c->gpr[index] + (c->rflags_rest & FLAG_DF ? -(uint64_t)size : size);
        if (op_asize(o) == 2)
            op_set_r16(c, 8 * index, (uint16_t)next);
        else
            c->gpr[index] = next & mask;
        if (!rep)
            break;
        if (op_asize(o) == 2)
            op_set_r16(c, 8 * GPR_RCX, (uint16_t)(count - 1));
        else
            c->gpr[GPR_RCX] = (count - 1) & mask;
        if (count == 1)
            break;
        if (++rounds == IO_ROUNDS_MAX || unlikely(__atomic_load_n(&c->attention, __ATOMIC_RELAXED))) {
            c->icount += rounds - 1;
            c->rflags_rest |= FLAG_RF; /* as in ops_string.c */
            c->rf_at = c->icount + o->n + 1;
            c->rip = (c->gpr[GPR_BLOCK] + o->ip) & c->ip_mask;
            END(c, o);
        }
    }
    END_NEXT(c, o);
}
void op_insb(struct cpu *c, const struct op *o)
{
    string_io(c, o, 1, true);
}
void op_insw(struct cpu *c, const struct op *o)
{
    string_io(c, o, 2, true);
}
void op_insd(struct cpu *c, const struct op *o)
{
    string_io(c, o, 4, true);
}
void op_outsb(struct cpu *c, const struct op *o)
{
    string_io(c, o, 1, false);
}
void op_outsw(struct cpu *c, const struct op *o)
{
    string_io(c, o, 2, false);
}
void op_outsd(struct cpu *c, const struct op *o)
{
    string_io(c, o, 4, false);
}
