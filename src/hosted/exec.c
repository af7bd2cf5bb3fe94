/* SPDX-License-Identifier: MIT
 *
 * exec.c: one instruction on the bound processor, the events that come of it, and guests until they exit.
 *
 * An intrinsic is executed by the very operation that executes the instruction in a guest: decoded once for each
 * thread, run with the operands in the processor's general registers. Nothing is fetched from memory.
 */
#include <stdio.h>
#include <stdlib.h>

#include "src/cpu/decode.h"
#include "src/hosted/hosted.h"

struct row {
    const char *name, *ud, *gp;
    const char *bytes;
    uint8_t len;
};
static const struct row rows[HINSN_COUNT] = {
#define HINSN(id, name_, ud_, gp_, bytes_)                                                                             \
    [HINSN_##id] = {.name = name_, .ud = ud_, .gp = gp_, .bytes = bytes_, .len = sizeof(bytes_) - 1},
#include "src/hosted/insn.def"
#undef HINSN
};

/* Decoded rows of one thread. */
struct decoded_row {
    struct op op[DECODE_OPS_MAX + 1];
};
struct exec_cache {
    struct decoder decoder;
    struct decoded_row row[HINSN_COUNT];
};

const char *hosted_name(enum hinsn id)
{
    return rows[id].name;
}

/* --- events
 * --------------------------------------------------------------------------------------------------------------- */

static const char *const exception_name[32] = {
    "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", NULL,  "#TS",
    "#NP", "#SS", "#GP", "#PF", NULL,  "#MF", "#AC", "#MC", "#XM", "#VE", "#CP",
};

static COLD void default_event(const struct vmenter_event *ev)
{
    char what[32];
    const char *name = ev->vector < 32 ? exception_name[ev->vector] : NULL;
    if (ev->is_interrupt || !name)
        snprintf(what, sizeof what, ev->is_interrupt ? "interrupt, vector 0x%02x" : "vector 0x%02x", ev->vector);
    else if (ev->has_error_code)
        snprintf(what, sizeof what, "%s(0x%x)", name, ev->error_code);
    else
        snprintf(what, sizeof what, "%s", name);
    fprintf(stderr, "vmenter: %s%s%s%s%s\n", ev->intrinsic ? ev->intrinsic : "", ev->intrinsic ? ": " : "", what,
            ev->rule && *ev->rule ? ": " : "", ev->rule ? ev->rule : "");
    if (ev->is_interrupt)
        fputs("vmenter: no handler takes it: see vmenter_set_event_handler()\n", stderr);
    fflush(stderr);
    abort(); /* DEFAULT-HANDLER: <vmenter/vmenter.h> says so */
}

void hosted_event(struct binding *b, const struct vmenter_event *ev)
{
    struct vmenter_machine *m = b ? b->machine : NULL;
    if (m && m->on_event)
        m->on_event(m->on_event_opaque, ev);
    else
        default_event(ev);
}

static const char *generic_rule(unsigned vector)
{
    switch (vector) {
    case EXC_UD: return "The instruction does not exist on this model or in this mode.";
    case EXC_GP: return "SDM volume 2, the instruction's section \"64-Bit Mode Exceptions\".";
    case EXC_PF: return "The processor's page tables do not allow the access; CR2 has the address.";
    case EXC_NP: return "The segment or gate is not present.";
    case EXC_DF: return "The processor shut down: a triple fault outside of a guest, or a VMX abort.";
    default: return "";
    }
}

void hosted_raise(struct binding *b)
{
    struct cpu *c = b->cpu;
    struct cpu_event exc = c->exc;
    enum hinsn id = b->doing;
    c->exc = (struct cpu_event){0};
    if (!exc.valid)
        return;
    if (exc.vector == EXC_PF)
        c->cr2 = exc.payload;
    const char *rule = exc.vector == EXC_UD ? rows[id].ud : exc.vector == EXC_GP ? rows[id].gp : "";
    struct vmenter_event ev = {
        .vector = exc.vector,
        .has_error_code = exc.has_error,
        .error_code = exc.error,
        .intrinsic = rows[id].name,
        .rule = *rule ? rule : generic_rule(exc.vector),
    };
    hosted_event(b, &ev);
}

struct binding *hosted_begin(enum hinsn id)
{
    struct binding *b = machine_binding;
    if (likely(b && !b->running)) {
        b->doing = (unsigned)id;
        b->woken = false;
        return b;
    }
    struct vmenter_event ev = {
        .vector = EXC_UD,
        .intrinsic = rows[id].name,
        .rule = b ? "called from a port handler or a signal handler while the processor runs a guest"
                  : "this thread has no logical processor: call vmenter_create() and vmenter_bind() first",
    };
    hosted_event(b, &ev);
    return NULL;
}

/* --- one instruction
 * --------------------------------------------------------------------------------------------------------- */

static COLD bool decode_row(struct binding *b, enum hinsn id)
{
    struct exec_cache *x = b->exec;
    if (!x) {
        x = b->exec = calloc(1, sizeof *x);
        if (!x)
            return false;
        decoder_init(&x->decoder, b->cpu->model);
    }
    uint8_t bytes[16] = {0};
    unsigned count, len;
    struct decoded_row *r = &x->row[id];
    memcpy(bytes, rows[id].bytes, rows[id].len);
    decode_insn(&x->decoder, MODE_64, bytes, sizeof bytes, 0, 0, r->op, &count, &len);
    r->op[count] = (struct op){
        .fn = op_leave_block, .ip = (uint16_t)len, .n = 1, .base = GPR_ZERO, .index = GPR_ZERO, .seg = SEG_NONE};
    return true;
}

bool hosted_exec_quiet(struct binding *b, enum hinsn id)
{
    struct cpu *c = b->cpu;
    struct exec_cache *x = b->exec;
    b->doing = (unsigned)id;
    if (unlikely(!x || !x->row[id].op[0].fn)) {
        if (!decode_row(b, id))
            return cpu_raise(c, EXC_MC, 0);
        x = b->exec;
    }
    uint64_t rip = c->rip;
    const struct op *op = x->row[id].op;
    c->gpr[GPR_BLOCK] = rip;
    c->cur = NULL;
    op->fn(c, op);
    c->cur = NULL;
    c->rip = rip;
    return likely(!c->exc.valid);
}

bool hosted_exec(struct binding *b, enum hinsn id)
{
    if (likely(hosted_exec_quiet(b, id)))
        return true;
    hosted_raise(b);
    return false;
}

/* --- interrupts of the host
 * ---------------------------------------------------------------------------------------------------- */

static void host_time(struct cpu *c)
{
    if (c->real_clock || c->icount >= c->deadline) {
        c->apic_ops->run(c->apic, cpu_tsc(c));
        cpu_update_deadline(c);
    }
    if (__atomic_fetch_and(&c->attention, ~(uint32_t)ATT_NMI, __ATOMIC_SEQ_CST) & ATT_NMI)
        c->nmi_pending = true;
}

static void deliver(struct binding *b, uint8_t vector)
{
    struct cpu *c = b->cpu;
    struct vmenter_event ev = {.vector = vector, .is_interrupt = true, .intrinsic = rows[b->doing].name, .rule = ""};
    /* As through an interrupt gate; the handler's return is the IRET. */
    uint32_t was = c->rflags_rest & (uint32_t)FLAG_IF;
    c->rflags_rest &= ~(uint32_t)FLAG_IF;
    hosted_event(b, &ev);
    c->rflags_rest |= was;
}

bool hosted_poll(struct binding *b)
{
    struct cpu *c = b->cpu;
    bool any = false;
    for (;;) {
        host_time(c);
        if (!c->gif)
            break;
        if (c->nmi_pending && !c->nmi_blocked) {
            c->nmi_pending = false;
            c->nmi_blocked = true;
            deliver(b, EXC_NMI);
            c->nmi_blocked = false;
            any = true;
            continue;
        }
        if (!(c->rflags_rest & FLAG_IF) || c->apic_ops->pending(c->apic) < 0)
            break;
        deliver(b, (uint8_t)c->apic_ops->ack(c->apic));
        any = true;
    }
    return any;
}

void hosted_halt(struct binding *b)
{
    struct cpu *c = b->cpu;
    for (;;) {
        if (hosted_poll(b))
            return;
        /* A processor would go on sleeping over what IF, GIF or the NMI blocking hold back; native code is asked to
         * look. What came since the poll and is held back by nothing is the next poll's. */
        bool nmi_held = !c->gif || c->nmi_blocked, intr_held = !c->gif || !(c->rflags_rest & FLAG_IF);
        if ((nmi_held && c->nmi_pending) || (intr_held && c->apic_ops->pending(c->apic) >= 0))
            return;
        machine_idle(c, c->apic_ops->deadline(c->apic));
        c->apic_ops->run(c->apic, cpu_tsc(c));
        cpu_update_deadline(c);
    }
}

/* --- guests
 * ------------------------------------------------------------------------------------------------------------------------
 */

static bool lost(struct cpu *c)
{
    c->exc = (struct cpu_event){.valid = true, .vector = EXC_DF, .type = EVENT_HWEXC, .has_error = true};
    return false;
}

bool hosted_run_guest(struct binding *b)
{
    struct cpu *c = b->cpu;
    bool ok = true;
    b->running = true;
    while (ok && c->guest) {
        switch (cpu_run(c, UINT64_MAX)) {
        case STOP_FAULT: ok = false; break;
        case STOP_SHUTDOWN:
        case STOP_RESET: ok = lost(c); break;
        case STOP_IDLE: machine_idle(c, UINT64_MAX); break;
        default: break;
        }
    }
    b->running = false;
    return ok && !c->exc.valid;
}

enum vmx_result hosted_vmx_enter(struct binding *b, bool resume)
{
    struct cpu *c = b->cpu;
    mem_code_bump(c->mem); /* native code may have written the guest's code */
    c->cur = NULL;
    c->icount++;
    return resume ? vmx_vmresume(c) : vmx_vmlaunch(c);
}
