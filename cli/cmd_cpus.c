/* SPDX-License-Identifier: MIT
 *
 * cmd_cpus.c: `vmenter cpus`: the processor models that --cpu takes.
 */
#include <stdio.h>
#include <string.h>

#include <vmenter/vmenter.h>

#include "cli/cli.h"

int cmd_cpus(int argc, char **argv)
{
    const struct vmenter_model *m;
    if (argc > 1 && !strcmp(argv[1], "--help")) {
        puts("usage: vmenter cpus\n\nLists the processor models for --cpu NAME[,+feature,-feature...].");
        return EXIT_OK;
    }
    if (argc > 1) {
        return cli_error("cpus: there is nothing to say with '%s'", argv[1]);
    }
    for (unsigned i = 0; (m = vmenter_model(i)); i++) {
        printf("%-16s %-6s %s\n", m->name, m->vendor, m->description);
    }
    return EXIT_OK;
}
