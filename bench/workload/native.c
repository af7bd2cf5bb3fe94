/* SPDX-License-Identifier: MIT
 *
 * native.c: the workloads in a process on the bare processor, with the lines of the image.
 */
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>

#include "workload.h"

int main(void)
{
    uint8_t *memory =
        mmap(NULL, WORKLOAD_MEMORY, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        perror("bench/native: mmap");
        return 1;
    }
    setvbuf(stdout, NULL, _IONBF, 0);
    for (unsigned i = 0; i < workload_count; i++)
        if (!workloads[i].kernel) {
            printf("BEGIN bare.%s\n", workloads[i].name);
            printf("END bare.%s %016" PRIx64 "\n", workloads[i].name, workloads[i].run(memory));
        }
    puts("END image native");
    return 0;
}
