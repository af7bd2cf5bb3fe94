/* SPDX-License-Identifier: MIT
 *
 * workload.h: the fixed workloads of the benchmark. Each is the same work wherever it runs: a process, the bare
 * processor of a PC, a guest. It returns a checksum of its result, so that contenders can be seen to have done it.
 */
#ifndef BENCH_WORKLOAD_H
#define BENCH_WORKLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Working memory that the workloads share: WORKLOAD_MEMORY bytes, 4-KiB aligned, writable and executable. */
#define WORKLOAD_MEMORY (24u << 20)

struct workload {
    const char *name;
    uint64_t (*run)(uint8_t *memory);
    bool kernel; /* needs ring 0 */
};
extern const struct workload workloads[];
extern const unsigned workload_count;

#endif
