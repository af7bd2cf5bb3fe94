/* SPDX-License-Identifier: MIT
 *
 * main.c: `vmenter COMMAND [OPTIONS]`.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

#ifndef VMENTER_VERSION
#define VMENTER_VERSION "0.1.0"
#endif

static const struct command commands[] = {
    {"boot", "boot a hypervisor or a kernel on a PC whose processor has VMX or SVM", cmd_boot},
    {"guest", "run a guest operating system under VMX or SVM", cmd_guest},
    {"cpus", "list the processor models", cmd_cpus},
    {"check", "which rules of a VM entry a dumped VMCS or VMCB breaks", cmd_check},
    {"explain", "what a number or name of VMX or SVM means", cmd_explain},
};

int cli_error(const char *fmt, ...)
{
    /* One line, whatever a file is called. */
    char text[8192];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    for (char *p = text; *p; p++) {
        if ((unsigned char)*p < ' ' || *p == 0x7f) {
            *p = '?';
        }
    }
    fprintf(stderr, "vmenter: %s\n", text);
    return EXIT_USAGE;
}

static void help(FILE *out)
{
    fputs("Intel VMX and AMD SVM in software.\n\nusage: vmenter COMMAND [OPTIONS]\n\n", out);
    for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++) {
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].summary);
    }
    fputs("\nvmenter COMMAND --help tells a command's options; vmenter --version the version.\n", out);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        return cli_error("a command is needed: vmenter --help lists them");
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        help(stdout);
        return EXIT_OK;
    }
    if (!strcmp(argv[1], "--version")) {
        puts("vmenter " VMENTER_VERSION);
        return EXIT_OK;
    }
    for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++) {
        if (!strcmp(argv[1], commands[i].name)) {
            return commands[i].run(argc - 1, argv + 1);
        }
    }
    return cli_error("there is no command '%s': vmenter --help lists them", argv[1]);
}
