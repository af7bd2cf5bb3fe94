/* SPDX-License-Identifier: MIT
 *
 * vmm.h: the reference VMM's face to its command: one guest operating system under VMX or SVM.
 *
 * The VMM is written against the intrinsics and the device models alone. What it needs of the operating system that it
 * runs on (a terminal, a clock on the wall, waiting) comes through struct vmm_platform.
 */
#ifndef VMM_VMM_H
#define VMM_VMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VMM_ERROR_MAX 256

struct vmenter_machine;

enum vmm_outcome {
    VMM_RUNNING,
    VMM_POWER_OFF, /* the guest powered off */
    VMM_RESET,     /* the guest asked for a reset */
    VMM_EXIT,      /* the guest wrote to the debug-exit port: see exit_code */
    VMM_CRASH,     /* triple fault, or an exit that nobody expects: vmm_dump() says more */
    VMM_TIMEOUT,
    VMM_QUIT, /* the person at the terminal */
};

struct vmm_platform {
    void *opaque;
    void (*serial_out)(void *opaque, uint8_t byte);
    /* The next byte for the guest's serial line, -1: none now, -2: none ever again. */
    int (*serial_in)(void *opaque);
    /* Looked at every few milliseconds of guest time: VMM_RUNNING, or why to stop (quit, time-out). Flushes output. */
    enum vmm_outcome (*poll)(void *opaque);
    /* Real clock: waits until input arrives or `ns` have passed. */
    void (*wait)(void *opaque, uint64_t ns);
    uint64_t (*time_ns)(void *opaque);             /* monotonic; for statistics */
    void (*trace)(void *opaque, const char *line); /* NULL: no trace */
};

struct vmm_file {
    const char *name; /* for messages */
    const void *data; /* the caller keeps it until vmm_create() returns */
    size_t size;
};

struct vmm_config {
    struct vmenter_machine *machine; /* bound to the calling thread, with vmm_machine_ram() bytes of RAM */
    struct vmm_platform platform;
    struct vmm_file kernel;
    struct vmm_file initrd; /* data NULL: none */
    const char *cmdline;
    uint64_t mem;       /* guest RAM, bytes, a multiple of 4096 */
    uint64_t unix_time; /* what the guest's clock shows at the start */
    bool svm;           /* else VMX */
    bool real_clock;
    bool stats;
};

struct vmm;

/* Guest RAM that the VMM can give, inclusive. */
#define VMM_MEM_MIN (UINT64_C(16) << 20)
#define VMM_MEM_MAX (UINT64_C(512) << 30)

/* RAM that a machine needs for a guest with `mem` bytes. */
uint64_t vmm_machine_ram(uint64_t mem);

/* Builds the guest and turns on VMX or SVM on the bound processor. NULL: `error` says in one line what is wrong and
 * what to do. */
struct vmm *vmm_create(const struct vmm_config *config, char error[VMM_ERROR_MAX]);
enum vmm_outcome vmm_run(struct vmm *v);
/* What went wrong: reason, registers, code, last exits. Written through `line`, a line each. */
void vmm_dump(struct vmm *v, void (*line)(void *opaque, const char *text), void *opaque);
/* The table of exits by reason with counts and time. */
void vmm_print_stats(struct vmm *v, void (*line)(void *opaque, const char *text), void *opaque);
uint32_t vmm_exit_code(const struct vmm *v);
void vmm_destroy(struct vmm *v);

#endif
