/* SPDX-License-Identifier: MIT
 *
 * vmenter.h: machines made of software processors, for a program that uses the intrinsics in an ordinary process.
 *
 * A machine is a physical address space and one or more logical processors. A thread binds one logical processor;
 * from then on the intrinsics of <vmenter/intrin.h> that this thread calls act on it, as the instructions would on
 * the processor under a thread in ring 0. There is no global state: several machines may live in one process.
 *
 * Threads: a machine's functions may be called from any thread unless stated otherwise. A logical processor is bound
 * to at most one thread at a time. Functions that take no machine act on the calling thread's bound processor.
 *
 * Addresses and sizes are in bytes. Physical addresses are uint64_t here: the public face has no one-member structs.
 */
#ifndef VMENTER_VMENTER_H
#define VMENTER_VMENTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__) && defined(VMENTER_BUILDING)
#define VMENTER_API __attribute__((visibility("default")))
#else
#define VMENTER_API
#endif

struct vmenter_machine;

/* Status of functions that can fail. 0 is success; a message for a person goes to the error buffer where one is given.
 */
enum vmenter_status {
    VMENTER_OK = 0,
    VMENTER_EINVAL,   /* an argument is outside what the function states */
    VMENTER_ENOMEM,   /* the host has no memory left */
    VMENTER_ENOMODEL, /* no processor model or feature of that name */
    VMENTER_EBUSY,    /* the logical processor is bound to another thread, or the address range is taken */
    VMENTER_EUNBOUND, /* the calling thread has no bound processor */
    VMENTER_ENOSYS,   /* this host cannot do it (for example trapping on a host that is not Linux x86-64) */
};

/* Virtual: retired instructions drive the TSC and every timer (the same input gives the same run). Real: wall clock. */
enum vmenter_clock { VMENTER_CLOCK_VIRTUAL = 0, VMENTER_CLOCK_REAL = 1 };

enum vmenter_flags {
    /* Physical address = linear address = the process's own address: a VMCS region may be a static array or come from
     * malloc. The bound processor starts as the calling thread: 64-bit mode, CPL 0, its FS and GS bases, a flat paging
     * that maps each address to itself. `ram` is not used. */
    VMENTER_IDENTITY = 1 << 0,
    /* Identity mode only: SYSCALL executed by a guest reaches the host's kernel with the guest's registers. */
    VMENTER_HOST_SYSCALLS = 1 << 1,
    /* The processor starts as firmware would leave it to a VMM: long mode is on, CPL 0, flat segments, paging maps the
     * low 512 GiB to themselves, interrupts disabled. This is what a hosted VMM without identity mode wants, and the
     * default. With VMENTER_RESET it starts at the reset vector instead. */
    VMENTER_RESET = 1 << 2,
    /* Identity mode only. EPT and nested tables of a VMM that map the first 512 GiB to themselves and have no entry at
     * all for an address beyond them (where a process's libraries and stack are) serve that address too, taken modulo
     * 512 GiB: such a VMM runs as it is. With this flag they do not, and it is an EPT violation or nested page fault.
     */
    VMENTER_EXACT_TABLES = 1 << 3,
};

#define VMENTER_ERROR_MAX 256

/* Zero-initialise, set what matters. `size` is sizeof(struct vmenter_config), so that members can be added. */
struct vmenter_config {
    size_t size;
    const char *model; /* "NAME[,+feature,-feature...]" as `vmenter cpus` lists them; NULL: "max" */
    unsigned cpus;     /* logical processors, 1 to 64; 0 means 1 */
    uint64_t ram; /* bytes of RAM from physical address 0, a multiple of 4096; taken from the host as it is touched */
    enum vmenter_clock clock;
    unsigned flags; /* enum vmenter_flags */
};

/* Creates a machine. On failure *out is NULL and `error` (may be NULL) holds one line that names the thing and the
 * remedy. The caller owns the machine and ends it with vmenter_destroy(). */
VMENTER_API enum vmenter_status vmenter_create(const struct vmenter_config *config, struct vmenter_machine **out,
                                               char error[VMENTER_ERROR_MAX]);

/* Ends a machine. No thread may be bound to it but the caller, which is unbound. NULL is allowed. */
VMENTER_API void vmenter_destroy(struct vmenter_machine *m);

/* Binds logical processor `index` to the calling thread (replacing what it had bound) / gives it back. */
VMENTER_API enum vmenter_status vmenter_bind(struct vmenter_machine *m, unsigned index);
VMENTER_API void vmenter_unbind(void);
/* The machine bound to the calling thread, or NULL. */
VMENTER_API struct vmenter_machine *vmenter_bound(void);

/* The host pointer to [pa, pa+len) of RAM or mapped memory, contiguous; NULL if any byte is neither. Valid until the
 * range is unmapped or the machine ends. What the host writes there is seen by the guest from its next VM entry. */
VMENTER_API void *vmenter_host_ptr(struct vmenter_machine *m, uint64_t pa, uint64_t len);

/* The physical address of a host pointer into the machine's memory; UINT64_MAX if it points elsewhere. */
VMENTER_API uint64_t vmenter_phys_addr(struct vmenter_machine *m, const void *ptr);

/* Maps the caller's memory at physical address `pa`. Both addresses and `len` are multiples of 4096. The caller keeps
 * ownership and keeps the memory alive until vmenter_unmap() or the machine's end. */
enum vmenter_map_flags { VMENTER_MAP_READONLY = 1 };
VMENTER_API enum vmenter_status vmenter_map(struct vmenter_machine *m, uint64_t pa, void *ptr, uint64_t len,
                                            unsigned flags);
VMENTER_API enum vmenter_status vmenter_unmap(struct vmenter_machine *m, uint64_t pa, uint64_t len);

/* Port I/O of the host (the __inbyte family). Without a handler reads give all ones and writes are dropped.
 * `size` is 1, 2 or 4. Called on the thread that executes the instruction. */
struct vmenter_port_ops {
    uint32_t (*in)(void *opaque, uint16_t port, unsigned size);
    void (*out)(void *opaque, uint16_t port, unsigned size, uint32_t value);
};
VMENTER_API void vmenter_set_ports(struct vmenter_machine *m, const struct vmenter_port_ops *ops, void *opaque);

/* An exception that an intrinsic raised (no instruction would have gone on), or an interrupt that the host's
 * processor takes when its IF (and GIF) allow. rule is one sentence with the manual's section. */
struct vmenter_event {
    uint8_t vector;
    bool is_interrupt; /* an external interrupt or NMI, not an exception */
    bool has_error_code;
    uint32_t error_code;
    const char *intrinsic; /* the name of the intrinsic that raised it, or NULL */
    const char *rule;
};
/* The handler may return: for an exception the intrinsic then returns 2 (VMX) or zero/nothing, without its effect; for
 * an interrupt execution goes on. It may also leave by longjmp or a C++ exception. NULL restores the default:
 * exceptions are printed with their rule and abort the process; interrupts without a handler do the same. One handler
 * for each machine. */
typedef void (*vmenter_event_handler)(void *opaque, const struct vmenter_event *event);
VMENTER_API void vmenter_set_event_handler(struct vmenter_machine *m, vmenter_event_handler handler, void *opaque);

/* Linux x86-64: VMX, SVM and privileged instructions that the calling thread's native code executes raw are caught
 * (SIGSEGV, SIGILL) and carried out on the bound logical processor. docs/INTRINSICS.md lists what a process cannot
 * trap. */
VMENTER_API enum vmenter_status vmenter_trap(bool on);

/* Retired instructions, TSC and the like of the bound processor. */
struct vmenter_stats {
    uint64_t instructions; /* retired, guest and software host together */
    uint64_t entries;      /* successful VM entries and VMRUNs */
    uint64_t exits;
    uint64_t tlb_fills;
    uint64_t blocks_decoded;
    uint64_t blocks_invalidated;
};
VMENTER_API void vmenter_get_stats(struct vmenter_stats *out);

/* A line of text for a person or a program, without a newline. */
typedef void (*vmenter_line_fn)(void *opaque, const char *line);

/* What can be traced. */
enum vmenter_trace {
    VMENTER_TRACE_EXITS = 1 << 0,      /* VM exits, with their information decoded; refused entries with their rules */
    VMENTER_TRACE_ENTRIES = 1 << 1,    /* VM entries, made and refused */
    VMENTER_TRACE_INTERRUPTS = 1 << 2, /* that are delivered: external, NMI, INT n; INIT and SIPI */
    VMENTER_TRACE_EXCEPTIONS = 1 << 3, /* that are delivered; shutdown */
    VMENTER_TRACE_IO = 1 << 4,         /* port accesses by instructions */
    VMENTER_TRACE_MSR = 1 << 5,        /* RDMSR and WRMSR */
    VMENTER_TRACE_INSN = 1 << 6, /* every instruction, before it is executed; one at a time, so that interrupts may come
                                    at other instructions than without */
    VMENTER_TRACE_ALL = (1 << 7) - 1
};
/* The set of a comma list of exits, entries, interrupts, exceptions, io, msr, insn, all; 0: a word is none of them. */
VMENTER_API unsigned vmenter_trace_parse(const char *list);
/* From now on `line` is called for what happens on any processor of the machine, on the thread that runs it; docs/PC.md
 * has the grammar. `kind` is the one bit of enum vmenter_trace that the line belongs to. what: a set of them, 0: no
 * trace. No processor of the machine may run meanwhile. One trace for each machine. */
typedef void (*vmenter_trace_fn)(void *opaque, enum vmenter_trace kind, const char *line);
VMENTER_API void vmenter_trace(struct vmenter_machine *m, unsigned what, vmenter_trace_fn line, void *opaque);
/* The state of all processors in words: registers, code, stack, the last events, the current VMCS or the last VMCB. No
 * processor of the machine may run meanwhile. */
VMENTER_API void vmenter_dump(struct vmenter_machine *m, vmenter_line_fn line, void *opaque);
/* What has happened, in tables. No processor of the machine may run meanwhile. */
VMENTER_API void vmenter_print_stats(struct vmenter_machine *m, vmenter_line_fn line, void *opaque);

/* Ticks of the machine's TSC per second: what `__rdtsc` counts. */
VMENTER_API uint64_t vmenter_tsc_hz(const struct vmenter_machine *m);

/* Asks the bound or any other processor of the machine to leave guest mode soon, from any thread or a signal handler:
 * it is delivered as an NMI to that logical processor. */
VMENTER_API void vmenter_kick(struct vmenter_machine *m, unsigned index);

/* Words for a failed entry: writes the reasons that the last VM entry or VMRUN on the bound processor was refused, one
 * line each, with the manual's section titles; returns the length as snprintf does. Empty when the last entry
 * succeeded. */
VMENTER_API size_t vmenter_explain_entry(char *buf, size_t size);

/* Disassembles `len` bytes at `code` as if at `rip`, in Intel syntax, a line each, up to `max` instructions.
 * bits is 16, 32 or 64. Returns the length as snprintf does. */
VMENTER_API size_t vmenter_disassemble(const void *code, size_t len, uint64_t rip, unsigned bits, unsigned max,
                                       char *buf, size_t size);

/* Processor models, in the order of their age. index from 0; NULL past the end. */
struct vmenter_model {
    const char *name;
    const char *vendor; /* "intel" or "amd" */
    const char *description;
};
VMENTER_API const struct vmenter_model *vmenter_model(unsigned index);

#ifdef __cplusplus
}
#endif
#endif
