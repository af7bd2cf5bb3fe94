/* SPDX-License-Identifier: MIT
 *
 * event.c: exceptions and interrupts from being raised to their handler's first instruction, and back by IRET.
 *
 * cpu_raise() notes an exception in c->exc and makes the state whole at the faulting instruction.
 * cpu_handle_exception() lets guest mode intercept it, then writes CR2 or DR6 and delivers. cpu_deliver() goes on until
 * some handler is entered, an interception made a VM exit, or the processor shuts down; c->vectoring is valid while it
 * runs, and holds the event whose delivery a nested exception or VM exit interrupts.
 *
 * SDM volume 3A, "Interrupt and Exception Handling", "8086 Emulation"; volume 2, "INT n/INTO/INT3/INT1",
 * "IRET/IRETD/IRETQ"; APM volume 2, "Exceptions and Interrupts".
 */
#include "src/cpu/sys.h"

/* --- raising ------------------------------------------------------------------------------------------------------ */

static bool has_error_code(unsigned vector)
{
    return BIT(vector) & (BIT(EXC_DF) | BIT(EXC_TS) | BIT(EXC_NP) | BIT(EXC_SS) | BIT(EXC_GP) | BIT(EXC_PF) |
                          BIT(EXC_AC) | BIT(EXC_CP) | BIT(EXC_VC) | BIT(EXC_SX));
}

/* The event comes from outside the program (SDM 3A, "Error Code", EXT): not INT n, INT3, INTO. To AMD no exception does
 * (APM 2, "Selector-Error Code"). */
static bool is_external(const struct cpu *c, const struct cpu_event *ev)
{
    if (model_is_amd(c->model))
        return ev->type == EVENT_EXTINT || ev->type == EVENT_NMI;
    return ev->type != EVENT_SOFTINT && ev->type != EVENT_SWEXC;
}

bool cpu_raise_event(struct cpu *c, const struct cpu_event *ev)
{
    struct cpu_event copy = *ev;
    if (c->cur)
        cpu_sync(c);
    copy.valid = true;
    if (copy.type == EVENT_HWEXC) {
        if (c->real_mode)
            copy.has_error = false;
        if (c->vectoring.valid && is_external(c, &c->vectoring) &&
            (copy.vector == EXC_TS || copy.vector == EXC_NP || copy.vector == EXC_SS || copy.vector == EXC_GP))
            copy.error |= 1;
    }
    c->exc = copy;
    return false;
}

bool cpu_raise(struct cpu *c, unsigned vector, uint32_t error)
{
    struct cpu_event ev = {.valid = true, .vector = (uint8_t)vector, .type = EVENT_HWEXC};
    if (has_error_code(vector)) {
        ev.has_error = true;
        ev.error = error;
    }
    return cpu_raise_event(c, &ev);
}

/* --- delivery -------------------------------------------------------------------------------------------------------
 */

/* What is pushed for RFLAGS: RF is set for faults (SDM 3A, "Instruction-Breakpoint Exception Condition": so that the
 * instruction's breakpoint does not come again). */
static uint64_t flags_image(const struct cpu *c, const struct cpu_event *ev)
{
    uint64_t f = cpu_rflags(c);
    if (ev->type == EVENT_HWEXC && ev->vector != EXC_DB && ev->vector != EXC_DF && ev->vector != EXC_MC)
        f |= FLAG_RF;
    return f;
}

static uint64_t return_ip(const struct cpu *c, const struct cpu_event *ev)
{
    if (ev->type == EVENT_SOFTINT || ev->type == EVENT_SWEXC || ev->type == EVENT_PRIV_SWEXC)
        return (c->rip + ev->insn_len) & c->ip_mask;
    return c->rip;
}

/* A real-mode handler, also that of a redirected INT n of virtual-8086 mode. */
static bool deliver_ivt(struct cpu *c, unsigned vector, uint64_t ip, uint64_t flags, uint64_t clear)
{
    uint8_t raw[4];
    uint64_t base = c->vm86 ? 0 : c->idtr.base;
    struct stack s;
    if (!c->vm86 && vector * 4 + 3 > c->idtr.limit)
        return cpu_raise(c, EXC_GP, vector * 8 + 2);
    if (!cpu_read(c, LA(base + vector * 4), raw, 4, MMU_READ | (c->vm86 ? MMU_USER : MMU_IMPLICIT)))
        return false;
    stack_current(c, &s);
    if (!stack_push(c, &s, flags & 0xffff, 2) || !stack_push(c, &s, c->seg[SEG_CS].sel, 2) || !stack_push(c, &s, ip, 2))
        return false;
    c->gpr[GPR_RSP] = s.sp;
    c->rip = load16(raw);
    cpu_set_rflags(c, cpu_rflags(c) & ~(clear | FLAG_TF | FLAG_RF | FLAG_AC));
    cpu_set_seg_real(c, SEG_CS, load16(raw + 2));
    return true;
}

/* SDM 3A, "Exception and Interrupt Handling in 64-bit Mode". */
static bool deliver_64(struct cpu *c, const struct cpu_event *ev, bool soft)
{
    uint32_t at = ev->vector * 16u, error = ev->vector * 8u + 2;
    uint8_t raw[16];
    struct desc d;

    if (at + 15 > c->idtr.limit)
        return cpu_raise(c, EXC_GP, error);
    if (!table_read(c, c->idtr.base + at, raw, 16))
        return false;
    uint64_t lo = load64(raw), hi = load64(raw + 8);
    unsigned type = lo >> 40 & 0x1f, gate_dpl = lo >> 45 & 3, ist = lo >> 32 & 7;
    if (type != SYS_INTR32 && type != SYS_TRAP32)
        return cpu_raise(c, EXC_GP, error);
    if (soft && gate_dpl < c->cpl)
        return cpu_raise(c, EXC_GP, error);
    if (!(lo & BIT(47)))
        return cpu_raise(c, EXC_NP, error);
    uint16_t sel = (uint16_t)(lo >> 16);
    uint64_t offset = (lo & 0xffff) | (lo >> 32 & 0xffff0000) | hi << 32;
    if (sel_null(sel))
        return cpu_raise(c, EXC_GP, 0);
    if (!desc_read(c, sel, EXC_GP, &d))
        return false;
    uint32_t ar = desc_ar(&d);
    if (!ar_is_code(ar) || AR_DPL(ar) > c->cpl || !(ar & AR_L) || (ar & AR_DB))
        return cpu_raise(c, EXC_GP, sel & 0xfffc);
    if (!(ar & AR_P))
        return cpu_raise(c, EXC_NP, sel & 0xfffc);
    unsigned cpl = ar_is_conforming(ar) ? c->cpl : AR_DPL(ar);
    uint64_t rsp = c->gpr[GPR_RSP];
    if (ist) {
        if (!tss_stack64(c, ist + 3, &rsp))
            return false;
    } else if (cpl != c->cpl) {
        if (!tss_stack64(c, cpl, &rsp))
            return false;
    }
    if (!canonical(c, offset))
        return cpu_raise(c, EXC_GP, 0);
    rsp &= ~15ull;

    uint64_t frame[6];
    unsigned n = 0;
    if (ev->has_error)
        frame[n++] = ev->error;
    frame[n++] = return_ip(c, ev);
    frame[n++] = c->seg[SEG_CS].sel;
    frame[n++] = flags_image(c, ev);
    frame[n++] = c->gpr[GPR_RSP];
    frame[n++] = c->seg[SEG_SS].sel;
    rsp -= n * 8;
    if (!canonical(c, rsp) || !canonical(c, rsp + n * 8 - 1))
        return cpu_raise(c, EXC_SS, 0);
    uint8_t image[48];
    for (unsigned i = 0; i < n; i++)
        store64(image + 8 * i, frame[i]);
    if (!cpu_write(c, LA(rsp), image, n * 8, MMU_WRITE | (cpl == 3 ? MMU_USER : 0)) || !desc_set_accessed(c, &d))
        return false;

    if (cpl != c->cpl)
        c->seg[SEG_SS] = (struct seg){.sel = (uint16_t)cpl, .ar = AR_UNUSABLE | cpl << 5};
    seg_from_desc(&c->seg[SEG_CS], (uint16_t)((sel & ~3u) | cpl), &d);
    c->gpr[GPR_RSP] = rsp;
    c->rip = offset;
    c->cpl = (uint8_t)cpl;
    c->rflags_rest &= ~(uint32_t)(FLAG_TF | FLAG_VM | FLAG_RF | FLAG_NT | (type == SYS_INTR32 ? FLAG_IF : 0));
    cpu_update_mode(c);
    return true;
}

/* SDM 3A, "Exception- or Interrupt-Handler Procedures", "Interrupt and Exception Handling in Virtual-8086 Mode". */
static bool deliver_protected(struct cpu *c, const struct cpu_event *ev, bool soft)
{
    uint32_t at = ev->vector * 8u, error = at + 2;
    uint8_t raw[8];
    struct desc d;

    if (at + 7 > c->idtr.limit)
        return cpu_raise(c, EXC_GP, error);
    if (!table_read(c, (uint32_t)(c->idtr.base + at), raw, 8))
        return false;
    uint64_t lo = load64(raw);
    unsigned type = lo >> 40 & 0x1f, gate_dpl = lo >> 45 & 3;
    if (type != SYS_TASK_GATE && type != SYS_INTR16 && type != SYS_TRAP16 && type != SYS_INTR32 && type != SYS_TRAP32)
        return cpu_raise(c, EXC_GP, error);
    if (soft && gate_dpl < c->cpl)
        return cpu_raise(c, EXC_GP, error);
    if (!(lo & BIT(47)))
        return cpu_raise(c, EXC_NP, error);
    uint16_t sel = (uint16_t)(lo >> 16);
    if (type == SYS_TASK_GATE)
        return cpu_task_switch(c, sel, 3, ev->has_error, ev->error);
    unsigned size = type & 8 ? 4 : 2;
    uint32_t offset = (uint32_t)(lo & 0xffff) | (size == 4 ? (uint32_t)(lo >> 32 & 0xffff0000) : 0);
    if (sel_null(sel))
        return cpu_raise(c, EXC_GP, 0);
    if (!desc_read(c, sel, EXC_GP, &d))
        return false;
    uint32_t ar = desc_ar(&d);
    if (!ar_is_code(ar) || AR_DPL(ar) > c->cpl)
        return cpu_raise(c, EXC_GP, sel & 0xfffc);
    if (!(ar & AR_P))
        return cpu_raise(c, EXC_NP, sel & 0xfffc);
    unsigned cpl = ar_is_conforming(ar) ? c->cpl : AR_DPL(ar);
    if (c->vm86 && cpl != 0)
        return cpu_raise(c, EXC_GP, sel & 0xfffc);

    struct stack s;
    bool inner = cpl != c->cpl;
    stack_current(c, &s);
    if (inner) {
        uint16_t ss;
        if (!tss_stack(c, cpl, &ss, &s.sp) || !seg_stack(c, ss, cpl, EXC_TS, &s.ss, false))
            return false;
        s.ssize = s.ss.ar & AR_DB ? 4 : 2;
        s.access = 0;
        s.error = ss & 0xfffc;
        s.flat = false;
        if (c->vm86) {
            static const uint8_t order[] = {SEG_GS, SEG_FS, SEG_DS, SEG_ES};
            for (unsigned i = 0; i < 4; i++)
                if (!stack_push(c, &s, c->seg[order[i]].sel, size))
                    return false;
        }
        if (!stack_push(c, &s, c->seg[SEG_SS].sel, size) || !stack_push(c, &s, c->gpr[GPR_RSP], size))
            return false;
    }
    if (!stack_push(c, &s, flags_image(c, ev), size) || !stack_push(c, &s, c->seg[SEG_CS].sel, size) ||
        !stack_push(c, &s, return_ip(c, ev), size))
        return false;
    if (ev->has_error && !stack_push(c, &s, ev->error, size))
        return false;
    if (offset > desc_limit(&d))
        return cpu_raise(c, EXC_GP, 0);
    if (!desc_set_accessed(c, &d))
        return false;

    if (c->vm86) {
        static const uint8_t nulls[] = {SEG_GS, SEG_FS, SEG_DS, SEG_ES};
        for (unsigned i = 0; i < 4; i++)
            seg_set_null(c, nulls[i], 0);
    }
    if (inner)
        c->seg[SEG_SS] = s.ss;
    c->gpr[GPR_RSP] = stack_merge(c->gpr[GPR_RSP], s.sp, s.ssize);
    seg_from_desc(&c->seg[SEG_CS], (uint16_t)((sel & ~3u) | cpl), &d);
    c->rip = offset;
    c->cpl = (uint8_t)cpl;
    c->rflags_rest &= ~(uint32_t)(FLAG_TF | FLAG_VM | FLAG_RF | FLAG_NT | (type & 1 ? 0 : FLAG_IF));
    cpu_update_mode(c);
    return true;
}

static bool deliver_once(struct cpu *c, const struct cpu_event *ev)
{
    bool soft = ev->type == EVENT_SOFTINT || ev->type == EVENT_SWEXC;
    if (c->real_mode)
        return deliver_ivt(c, ev->vector, return_ip(c, ev), cpu_rflags(c), FLAG_IF);
    if (c->long_mode)
        return deliver_64(c, ev, soft);
    return deliver_protected(c, ev, soft);
}

/* SDM 3A, "Interrupt 8 - Double Fault Exception (#DF)": conditions for generating a double fault. */
enum fault_class { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };
static enum fault_class classify(const struct cpu_event *ev)
{
    if (ev->type != EVENT_HWEXC)
        return BENIGN;
    switch (ev->vector) {
    case EXC_DE:
    case EXC_TS:
    case EXC_NP:
    case EXC_SS:
    case EXC_GP:
    case EXC_CP: return CONTRIBUTORY;
    case EXC_PF:
    case EXC_VE: return PAGE_FAULT;
    case EXC_DF: return DOUBLE_FAULT;
    }
    return BENIGN;
}

static void write_payload(struct cpu *c, const struct cpu_event *ev)
{
    if (ev->type != EVENT_HWEXC)
        return;
    if (ev->vector == EXC_PF) {
        c->cr2 = ev->payload;
    } else if (ev->vector == EXC_DB) {
        /* SDM 3B, "Debug Status Register (DR6)"; GD is clear in the handler; DEBUGCTL.LBR and BTF too. */
        c->dr[6] = (c->dr[6] & ~15ull) | ev->payload;
        c->dr[7] &= ~BIT(13);
        c->msr.debugctl &= ~(uint64_t)(DEBUGCTL_LBR | DEBUGCTL_BTF);
    }
}

/* Does nested, raised while c->vectoring was delivered, make a double or triple fault, is it intercepted? False: there
 * is nothing left to deliver. */
static bool combine(struct cpu *c, struct cpu_event *nested)
{
    /* SDM 3C, "Information for VM Exits During Event Delivery"; APM 2, "EXITINTINFO Pseudo-Code": the nested exception
     * itself is intercepted before it is combined with the first one. */
    if (c->guest && c->guest->exception && c->guest->exception(c, nested))
        return false;
    enum fault_class first = c->vectoring.valid ? classify(&c->vectoring) : BENIGN, second = classify(nested);
    if (first == DOUBLE_FAULT && (second == CONTRIBUTORY || second == PAGE_FAULT)) {
        if (c->guest && c->guest->triple_fault && c->guest->triple_fault(c))
            return false;
        cpu_note(c, WATCH_EXCEPTION, WATCH_SHUTDOWN, 0);
        c->activity = ACTIVITY_SHUTDOWN;
        c->stop = STOP_SHUTDOWN;
        return false;
    }
    if ((first == CONTRIBUTORY && second == CONTRIBUTORY) ||
        (first == PAGE_FAULT && (second == CONTRIBUTORY || second == PAGE_FAULT))) {
        if (second == PAGE_FAULT)
            write_payload(c, nested);
        *nested = (struct cpu_event){.valid = true, .vector = EXC_DF, .type = EVENT_HWEXC, .has_error = !c->real_mode};
        if (c->guest && c->guest->exception && c->guest->exception(c, nested))
            return false;
    }
    write_payload(c, nested);
    if (nested->vector < 32)
        c->stats.exceptions[nested->vector]++;
    return true;
}

bool cpu_deliver(struct cpu *c, const struct cpu_event *event)
{
    struct cpu_event ev = *event;
    uint64_t from = cpu_branch_address(c);
    ev.valid = true;
    c->cur = NULL;
    c->step_armed = false;
    for (;;) {
        c->exc.valid = false;
        c->vectoring = ev;
        cpu_note_event(c, &ev);
        bool done = deliver_once(c, &ev);
        if (done || !c->exc.valid) {
            c->vectoring.valid = false;
            if (!done)
                return false;
            c->shadow_sti = c->shadow_movss = false;
            c->activity = ACTIVITY_ACTIVE;
            c->nmi_unblocking_iret = false;
            c->delivered++;
            if (unlikely(c->msr.debugctl & DEBUGCTL_LBR))
                cpu_record_branch(c, from, true);
            return true;
        }
        ev = c->exc;
        c->exc.valid = false;
        if (!combine(c, &ev)) {
            c->vectoring.valid = false;
            return false;
        }
    }
}

void cpu_handle_exception(struct cpu *c)
{
    struct cpu_event ev = c->exc;
    if (!c->guest && c->native_host) {
        c->stop = STOP_FAULT;
        return;
    }
    c->exc.valid = false;
    c->cur = NULL;
    c->vectoring.valid = false;
    c->pending_dbg = 0;
    c->step_armed = false;
    if (combine(c, &ev))
        cpu_deliver(c, &ev);
}

/* INT n of virtual-8086 mode under CR4.VME. 1: redirected and done; 0: goes to the IDT; -1: raised. */
static int vme_interrupt(struct cpu *c, unsigned vector, uint64_t ip)
{
    const struct seg *tr = &c->seg[SEG_TR];
    uint8_t raw[2], map;
    if (tr->limit < 103) {
        cpu_raise(c, EXC_GP, 0);
        return -1;
    }
    if (!table_read(c, (uint32_t)(tr->base + 102), raw, 2))
        return -1;
    uint32_t at = (uint32_t)load16(raw) - 32 + vector / 8;
    if (load16(raw) < 32 || at > tr->limit) {
        cpu_raise(c, EXC_GP, 0);
        return -1;
    }
    if (!table_read(c, (uint32_t)(tr->base + at), &map, 1))
        return -1;
    if (map >> (vector & 7) & 1)
        return 0;
    uint64_t f = cpu_rflags(c);
    if (iopl(c) < 3) {
        f = (f & ~FLAG_IF) | (f & FLAG_VIF ? FLAG_IF : 0) | FLAG_IOPL;
        return deliver_ivt(c, vector, ip, f, FLAG_VIF) ? 1 : -1;
    }
    return deliver_ivt(c, vector, ip, f, FLAG_IF) ? 1 : -1;
}

/* RIP is that of the instruction. True: a handler is entered. */
bool cpu_software_interrupt(struct cpu *c, unsigned vector, enum event_type type, unsigned insn_len)
{
    struct cpu_event ev = {
        .valid = true, .vector = (uint8_t)vector, .type = (uint8_t)type, .insn_len = (uint8_t)insn_len};
    if (c->vm86 && type == EVENT_SOFTINT) {
        if (c->cr4 & CR4_VME) {
            uint64_t from = cpu_branch_address(c);
            int r = vme_interrupt(c, vector, (c->rip + insn_len) & 0xffff);
            if (r > 0 && (c->msr.debugctl & DEBUGCTL_LBR))
                cpu_record_branch(c, from, true);
            if (r)
                return r > 0;
        }
        if (iopl(c) < 3)
            return cpu_raise(c, EXC_GP, 0);
    }
    /* INT3, INTO and INT1 are exceptions to an exception bitmap; AMD's INT1 has an intercept of its own and no other.
     */
    if ((type == EVENT_SWEXC || (type == EVENT_PRIV_SWEXC && !model_is_amd(c->model))) && c->guest &&
        c->guest->exception && c->guest->exception(c, &ev))
        return false;
    if (vector == EXC_DB && type == EVENT_PRIV_SWEXC)
        c->pending_dbg = 0; /* what MOV SS held back: it is this #DB */
    return cpu_deliver(c, &ev);
}

/* --- IRET
 * --------------------------------------------------------------------------------------------------------------- */

/* The flags that an IRET or POPF of this size may change at this privilege. */
static uint64_t flags_mask(const struct cpu *c, unsigned osz)
{
    uint64_t m = FLAG_ARITH | FLAG_TF | FLAG_DF | FLAG_NT;
    if (c->cpl <= iopl(c))
        m |= FLAG_IF;
    if (c->cpl == 0)
        m |= FLAG_IOPL;
    if (osz >= 4)
        m |= FLAG_RF | FLAG_AC | FLAG_ID | (c->cpl == 0 ? FLAG_VIF | FLAG_VIP : 0);
    return m;
}

static void iret_done(struct cpu *c)
{
    c->nmi_unblocking_iret = false;
}

static bool iret_real(struct cpu *c, unsigned osz)
{
    struct stack s;
    uint64_t ip, cs, f, mask;
    stack_current(c, &s);
    if (c->vm86 && iopl(c) < 3 && (!(c->cr4 & CR4_VME) || osz != 2))
        return cpu_raise(c, EXC_GP, 0);
    if (!stack_pop(c, &s, &ip, osz) || !stack_pop(c, &s, &cs, osz) || !stack_pop(c, &s, &f, osz))
        return false;
    if (ip > c->seg[SEG_CS].limit)
        return cpu_raise(c, EXC_GP, 0);
    uint64_t old = cpu_rflags(c);
    if (c->vm86) {
        mask = flags_mask(c, osz) & ~FLAG_IOPL;
        if (iopl(c) < 3) { /* SDM 3A, "Virtual-8086 Mode Extensions": IF is VIF */
            if ((f & FLAG_TF) || ((f & FLAG_IF) && (old & FLAG_VIP)))
                return cpu_raise(c, EXC_GP, 0);
            mask = (mask & ~FLAG_IF) | FLAG_VIF;
            f = (f & ~FLAG_VIF) | (f & FLAG_IF ? FLAG_VIF : 0);
        }
    } else {
        mask = flags_mask(c, osz) & ~(FLAG_VIF | FLAG_VIP);
    }
    c->gpr[GPR_RSP] = s.sp;
    c->rip = ip;
    cpu_set_rflags(c, (old & ~(mask | FLAG_RF)) | (f & mask));
    cpu_set_seg_real(c, SEG_CS, (uint16_t)cs);
    iret_done(c);
    return true;
}

static bool iret_to_v86(struct cpu *c, struct stack *s, uint64_t ip, uint16_t cs, uint64_t f)
{
    uint64_t sp, sel[5]; /* SS, ES, DS, FS, GS */
    static const uint8_t order[] = {SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    if (!stack_pop(c, s, &sp, 4))
        return false;
    for (unsigned i = 0; i < 5; i++)
        if (!stack_pop(c, s, &sel[i], 4))
            return false;
    if (ip > 0xffff)
        return cpu_raise(c, EXC_GP, 0);
    c->cpl = 3;
    cpu_set_rflags(c, f & (FLAG_ARITH | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_RF | FLAG_VM |
                           FLAG_AC | FLAG_VIF | FLAG_VIP | FLAG_ID));
    for (unsigned i = 0; i < 5; i++)
        cpu_set_seg_real(c, order[i], (uint16_t)sel[i]);
    cpu_set_seg_real(c, SEG_CS, cs);
    c->gpr[GPR_RSP] = (uint32_t)sp;
    c->rip = ip;
    iret_done(c);
    return true;
}

/* SDM 3A, "Task Linking". */
static bool iret_task(struct cpu *c)
{
    uint8_t raw[2];
    if (!table_read(c, (uint32_t)c->seg[SEG_TR].base, raw, 2))
        return false;
    if (!cpu_task_switch(c, load16(raw), 1, false, 0))
        return false;
    iret_done(c);
    return true;
}

bool cpu_iret(struct cpu *c, unsigned osz)
{
    /* IRET lifts the blocking of NMIs, even when it faults then. */
    c->nmi_unblocking_iret = c->nmi_blocked;
    if (c->guest && c->guest->exited_iret) {
        if (c->guest->exited_iret(c))
            return false;
    } else if (c->nmi_blocked) {
        c->nmi_blocked = false;
        cpu_recheck_events(c);
    }
    if (c->real_mode || c->vm86)
        return iret_real(c, osz);
    if (c->rflags_rest & FLAG_NT)
        return c->long_mode ? cpu_raise(c, EXC_GP, 0) : iret_task(c);

    struct stack s;
    uint64_t ip, cs_word, f, sp = 0, ss_word = 0;
    struct desc d;
    bool from64 = c->mode == MODE_64, with_ss = from64;
    stack_current(c, &s);
    uint8_t image[40];
    /* The common case in one access; anything unusual takes the pops one by one for their order of faults. */
    if (from64 && osz == 8 && !c->check_all && canonical(c, s.sp) && canonical(c, s.sp + 39)) {
        if (!cpu_read(c, LA(s.sp), image, 40, MMU_READ | s.access))
            return false;
        ip = load64(image);
        cs_word = load64(image + 8);
        f = load64(image + 16);
        sp = load64(image + 24);
        ss_word = load64(image + 32);
        s.sp += 40;
    } else {
        if (!stack_pop(c, &s, &ip, osz) || !stack_pop(c, &s, &cs_word, osz) || !stack_pop(c, &s, &f, osz))
            return false;
        if (!c->long_mode && (f & FLAG_VM) && osz == 4 && c->cpl == 0)
            return iret_to_v86(c, &s, ip, (uint16_t)cs_word, f);
        if (from64 && (!stack_pop(c, &s, &sp, osz) || !stack_pop(c, &s, &ss_word, osz)))
            return false;
    }
    uint16_t sel = (uint16_t)cs_word;
    if (sel_null(sel))
        return cpu_raise(c, EXC_GP, 0);
    if (!desc_read(c, sel, EXC_GP, &d))
        return false;
    uint32_t ar = desc_ar(&d);
    unsigned rpl = sel & 3;
    if (!ar_is_code(ar) || rpl < c->cpl || (ar_is_conforming(ar) ? AR_DPL(ar) > rpl : AR_DPL(ar) != rpl))
        return cpu_raise(c, EXC_GP, sel & 0xfffc);
    bool to64 = c->long_mode && (ar & AR_L);
    if (to64 && (ar & AR_DB))
        return cpu_raise(c, EXC_GP, sel & 0xfffc);
    if (!(ar & AR_P))
        return cpu_raise(c, EXC_NP, sel & 0xfffc);
    struct seg ss = c->seg[SEG_SS];
    if (!with_ss && rpl > c->cpl) {
        with_ss = true;
        if (!stack_pop(c, &s, &sp, osz) || !stack_pop(c, &s, &ss_word, osz))
            return false;
    }
    if (with_ss && !seg_stack(c, (uint16_t)ss_word, rpl, EXC_GP, &ss, to64))
        return false;
    if (to64 ? !canonical(c, ip) : ip > desc_limit(&d))
        return cpu_raise(c, EXC_GP, 0);
    if (!desc_set_accessed(c, &d))
        return false;

    uint64_t mask = flags_mask(c, osz);
    uint64_t flags = (cpu_rflags(c) & ~(mask | FLAG_RF)) | (f & mask);
    bool outer = rpl != c->cpl;
    c->seg[SEG_SS] = ss;
    seg_from_desc(&c->seg[SEG_CS], sel, &d);
    c->cpl = (uint8_t)rpl;
    c->rip = ip;
    cpu_set_rflags(c, flags);
    cpu_update_mode(c);
    c->gpr[GPR_RSP] = with_ss ? stack_merge(c->gpr[GPR_RSP], sp, c->stack_size) : s.sp;
    if (outer)
        seg_drop_inner(c);
    iret_done(c);
    return true;
}
