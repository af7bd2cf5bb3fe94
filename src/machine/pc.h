/* SPDX-License-Identifier: MIT
 *
 * pc.h: the software PC: a whole machine whose host code, too, is executed by the software processor.
 *
 * What the PC needs of the operating system that it runs on (a terminal, the wall's time, waiting) comes through struct
 * pc_platform. All processors take turns on the calling thread.
 */
#ifndef MACHINE_PC_H
#define MACHINE_PC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <vmenter/vmenter.h>

#define PC_ERROR_MAX   512
#define PC_MODULES_MAX 64
#define PC_SERIALS     2

enum pc_outcome {
    PC_RUNNING,
    PC_POWER_OFF,
    PC_RESET,  /* the software asked for a reset */
    PC_EXIT,   /* it wrote to port 0xf4: pc_exit_code() */
    PC_CRASH,  /* shutdown (triple fault, VMX abort): pc_dump() says more */
    PC_HALTED, /* nothing can wake any processor */
    PC_TIMEOUT,
    PC_QUIT, /* the person at the terminal */
};

/* The far end of a serial line. Either function may be NULL: nobody reads what is sent, nothing ever comes. */
struct pc_serial {
    void *opaque;
    void (*out)(void *opaque, uint8_t byte);
    int (*in)(void *opaque); /* the next byte, -1: none now, -2: none ever again */
};

struct pc_platform {
    struct pc_serial
        serial[PC_SERIALS]; /* COM1 (0x3f8, IRQ 4; what is written to port 0xe9 too), COM2 (0x2f8, IRQ 3) */
    void *opaque;           /* of those below */
    /* Looked at every few milliseconds of the machine's time: PC_RUNNING, or why to stop. Flushes output. */
    enum pc_outcome (*poll)(void *opaque);
    /* Real clock: waits until input arrives or `ns` have passed. */
    void (*wait)(void *opaque, uint64_t ns);
};

struct pc_file {
    const char *name; /* for messages, and the first word of a module's string */
    const char *args; /* the rest of it; may be NULL */
    const void *data; /* the caller keeps it until pc_destroy() */
    size_t size;
};

struct pc_config {
    struct pc_platform platform;
    const char *model; /* as vmenter_config's */
    unsigned cpus;
    uint64_t mem; /* RAM, bytes, a multiple of 4096 */
    enum vmenter_clock clock;
    uint64_t unix_time; /* what the clock shows at the start */
    struct pc_file image;
    unsigned
        entry; /* which entry point of a Linux kernel: 16, 32 or 64 (bits); 0: 64 if there is one, else 32, else 16 */
    const char *append;    /* NULL: nothing */
    struct pc_file initrd; /* data NULL: none */
    struct pc_file module[PC_MODULES_MAX];
    unsigned modules;
};

#define PC_MEM_MIN (UINT64_C(2) << 20)
#define PC_MEM_MAX (UINT64_C(256) << 30)

struct pc;

/* Builds the machine and loads the image. NULL: `error` says in one line what is wrong and what to do. */
struct pc *pc_create(const struct pc_config *config, char error[PC_ERROR_MAX]);
enum pc_outcome pc_run(struct pc *pc);
/* What was written to port 0xf4, times 2, plus 1. */
uint32_t pc_exit_code(const struct pc *pc);
/* vmenter_trace() of its processors; before pc_run(). */
void pc_trace(struct pc *pc, unsigned what, vmenter_trace_fn line, void *opaque);
/* Why it stopped, and vmenter_dump(). Written through `line`, a line each; so are the statistics. */
void pc_dump(struct pc *pc, void (*line)(void *opaque, const char *text), void *opaque);
void pc_print_stats(struct pc *pc, void (*line)(void *opaque, const char *text), void *opaque);
void pc_destroy(struct pc *pc);

#endif
