/* SPDX-License-Identifier: MIT
 *
 * hosted.h: intrinsics of native code on the software processor: how one instruction is carried out, how what it raises
 * becomes an event, how a guest is entered and left.
 *
 * The processor is in host mode (c->guest is null) whenever native code runs. Its general registers are then scratch:
 * the operands of the instruction that is carried out. RIP means nothing and is kept.
 */
#ifndef HOSTED_HOSTED_H
#define HOSTED_HOSTED_H

#include "src/machine/machine.h"
#include "src/svm/svm.h"
#include "src/vmx/vmx.h"

enum hinsn {
#define HINSN(id, name, ud, gp, bytes) HINSN_##id,
#include "src/hosted/insn.def"
#undef HINSN
    HINSN_COUNT
};

/* What a processor-side entry (hosted_enter(), hosted_trap()) tells the assembly to do. */
enum hosted_outcome {
    HOSTED_GO = 0,      /* native code goes on with binding->regs, rip, rflags */
    HOSTED_VALID = 1,   /* VMfailValid: back to the caller */
    HOSTED_INVALID = 2, /* VMfailInvalid */
    HOSTED_EVENT = 3,   /* an exception waits in c->exc: hosted_raise() on the caller's stack */
};

/* The calling thread's binding; without one an event is raised (and the process aborted): NULL if a handler returned.
 */
struct binding *hosted_begin(enum hinsn id);
/* Carries out the row's bytes. False: it raised, the event handler has been called and came back. */
bool hosted_exec(struct binding *b, enum hinsn id);
/* The same, but leaves what it raises in c->exc. */
bool hosted_exec_quiet(struct binding *b, enum hinsn id);
/* Turns c->exc into an event. */
void hosted_raise(struct binding *b);
void hosted_event(struct binding *b, const struct vmenter_event *ev);
/* Interrupts and NMIs that the processor may take now go to the event handler. True: one did. */
bool hosted_poll(struct binding *b);
void hosted_halt(struct binding *b);

/* Runs the guest that has been entered until the processor is native code's again. False: something is in c->exc. */
bool hosted_run_guest(struct binding *b);
enum vmx_result hosted_vmx_enter(struct binding *b, bool resume);

#if defined(__x86_64__)
/* Native code goes on where the processor is: HOSTED_GO with the binding's regs, rip and rflags set, HOSTED_EVENT if
 * not ok. */
enum hosted_outcome hosted_go_from(struct binding *b, bool ok);
/* VMLAUNCH, VMRESUME or VMRUN with the binding's regs. */
enum hosted_outcome hosted_enter_trapped(struct binding *b, bool svm, bool resume, uint64_t next_rip);
#endif

const char *hosted_name(enum hinsn id);

#endif
