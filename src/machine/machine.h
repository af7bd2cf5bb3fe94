/* SPDX-License-Identifier: MIT
 *
 * machine.h: a machine: memory, logical processors with their local APICs, and the threads that are bound to them.
 *
 * Invariants: a processor is run by the thread that is bound to it and by no other; others reach it through
 * cpu_attend() alone. The local APICs of a machine are guarded by one lock, because an IPI is one processor's write to
 * another's. The bound thread's `struct binding` is the one thread-local of the library.
 */
#ifndef MACHINE_MACHINE_H
#define MACHINE_MACHINE_H

#include <pthread.h>
#include <vmenter/vmenter.h>

#include "src/arch/model.h"
#include "src/cpu/cpu.h"
#include "src/dev/lapic.h"

#define MACHINE_CPUS_MAX 64

/* Physical memory that the machine itself needs outside of RAM: page tables, GDT, TSS and IDT that a processor starts
 * with. At FIRMWARE_BASE, or after RAM that reaches there, or at its host address in identity mode. */
#define FIRMWARE_BASE 0xff800000ull

struct machine_cpu {
    struct vmenter_machine *machine;
    struct cpu *cpu;
    struct lapic lapic;
    struct binding *bound; /* atomic */
    uint64_t wakes;        /* a software PC's processor that waits: its next deadline, ticks */
};

/* Mapped pages of the process, for identity mode (identity.c). */
struct identity_map;

struct vmenter_machine {
    struct mem *mem;
    struct model model;
    unsigned flags; /* enum vmenter_flags */
    enum vmenter_clock clock;
    uint64_t ram; /* bytes from 0 */
    uint64_t tsc_hz;
    uint64_t real_start; /* host's monotonic clock at creation, ns */
    unsigned cpus;
    struct machine_cpu cpu[MACHINE_CPUS_MAX];
    pthread_mutex_t apic_lock;
    pthread_cond_t wake; /* with apic_lock: somebody's attention was called while it slept */
    uint8_t *firmware;
    uint64_t firmware_pa, firmware_size;
    struct identity_map *identity;
    struct vmenter_port_ops ports;
    bool has_ports;
    void *ports_opaque;
    vmenter_event_handler on_event;
    void *on_event_opaque;
    struct pc *pc; /* the software PC that it belongs to, or NULL */
    vmenter_trace_fn trace;
    void *trace_opaque;
};

/* x87, SSE, AVX and AVX-512 in either of XSAVE's formats. */
#define MACHINE_VECTOR_SIZE 2816

/* One thread that has bound a processor. entry.S knows the offsets of the first members. */
struct binding {
    struct cpu *cpu;
    uint8_t *stack_top;   /* of the software processor's own stack, 16-byte aligned */
    uint64_t regs[16];    /* general registers of native code, by encoding: captured by an entry or a trap, loaded by a
                             resume */
    uint64_t rip, rflags; /* of that native code */
    uint8_t
        *vector; /* its x87 and vector registers: MACHINE_VECTOR_SIZE bytes, 64-byte aligned, as XSAVE stores them */
    uint64_t vector_mask; /* components of XCR0 that are kept */
    uint32_t vector_how;  /* 0: FXSAVE, 1: XSAVE, 2: XSAVEC */
    uint32_t running;     /* a guest runs: the software processor's stack is in use */
    /* not known to entry.S */
    struct vmenter_machine *machine;
    unsigned index;
    void *stack; /* mapping with a guard page */
    size_t stack_size;
    void *signal_stack; /* alternate signal stack that vmenter_trap() set, NULL if the thread had its own */
    size_t signal_stack_size;
    bool trapping;
    void (*release)(struct binding *b); /* undoes vmenter_trap(); NULL: nothing to undo */
    bool woken;     /* _enable() has just delivered what a following __halt() would have waited for */
    unsigned doing; /* enum hinsn: the intrinsic that runs, for events */
    void *exec;     /* decoded instructions of the intrinsics (src/hosted/exec.c); one block of malloc's */
};

/* NULL: this thread has bound no processor. */
extern __thread struct binding *machine_binding __attribute__((tls_model("initial-exec"), visibility("hidden")));

/* state.c: the state that a hosted VMM finds. False: no memory. */
bool machine_firmware_create(struct vmenter_machine *m);
void machine_firmware_destroy(struct vmenter_machine *m);
void machine_start_state(struct vmenter_machine *m, struct cpu *c);

/* apic.c */
void machine_apic_attach(struct vmenter_machine *m, struct machine_cpu *mc);
/* Lets time pass (virtual clock) until the processor's TSC is until_tsc, or sleeps (real clock, or nothing to wait for)
 * until then or until there is something to attend to, but not for long: look again. Returns true. */
bool machine_idle(struct cpu *c, uint64_t until_tsc);

/* trace.c: a processor's event in words: "exit CPUID at=0010:ffffffff81000000 ...". */
struct text;
void machine_describe(struct text *t, const struct cpu *c, const struct cpu_note *n);
/* dump.c */
void machine_dump_cpu(struct cpu *c, vmenter_line_fn line, void *opaque);
/* board.c: the name of the device at a port of the software PC, or NULL. */
const char *board_port_device(const struct pc *pc, uint16_t port, unsigned size);

/* identity.c */
bool identity_create(struct vmenter_machine *m);
void identity_destroy(struct vmenter_machine *m);
/* The calling thread's segment bases become the processor's. */
void identity_bind(struct cpu *c);
bool identity_syscall(struct cpu *c);

#define MACHINE_STRING_(...) #__VA_ARGS__
#define MACHINE_STRING(...)  MACHINE_STRING_(__VA_ARGS__)
/* True when the caller is executed by the software processor itself: a guest in identity mode. */
static inline bool machine_is_guest(void)
{
#if defined(__x86_64__)
    bool guest;
    __asm__ volatile("clc\n\t.byte " MACHINE_STRING(CPU_PROBE_NOP_BYTES) : "=@ccc"(guest));
    return guest;
#else
    return false;
#endif
}

#endif
