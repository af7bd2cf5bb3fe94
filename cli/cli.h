/* SPDX-License-Identifier: MIT
 *
 * cli.h: what the commands of `vmenter` share: the table of commands, options, messages, files, the terminal.
 *
 * Exit status: 0 as asked; 1 the guest crashed or timed out; 2 usage or a bad file.
 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <vmenter/vmenter.h>

#include "vmm/vmm.h"

enum { EXIT_OK = 0, EXIT_GUEST = 1, EXIT_USAGE = 2 };

struct command {
    const char *name;
    const char *summary;
    int (*run)(int argc, char **argv); /* argv[0] is the command's name */
};

int cmd_boot(int argc, char **argv);
int cmd_guest(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_cpus(int argc, char **argv);
int cmd_explain(int argc, char **argv);

/* "vmenter: " and one line on standard error. Returns EXIT_USAGE. */
int cli_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* An option of the form --name VALUE or --name=VALUE, or a flag. */
struct option {
    const char *name;  /* without the dashes */
    const char *value; /* what help calls it; NULL: a flag. "[=X]": the value is optional and follows = */
    const char *help;
    int id;
};
struct option_parser {
    const struct option *options; /* ends with a NULL name */
    int argc;
    char **argv;
    int at;            /* next argument; start with 1 */
    const char *value; /* of the option returned */
};
enum { OPTION_END = -1, OPTION_BAD = -2, OPTION_WORD = -3 };
/* The id of the next option, OPTION_END, OPTION_WORD (value is an argument that is no option), or OPTION_BAD after a
 * message. */
int option_next(struct option_parser *p);
void option_help(const struct option *options);

/* A size with K, M, G or T. False: not a number, or above 2^63. */
bool cli_parse_size(const char *text, uint64_t *bytes);
/* A size of RAM in whole pages, within bounds and what the host has. False after a message that names --mem. */
bool cli_parse_mem(const char *text, uint64_t min, uint64_t max, uint64_t *mem);
/* What a machine's clock shows at the start of a run in virtual time: always the same. */
#define CLI_VIRTUAL_EPOCH UINT64_C(1735689600) /* 2025-01-01 00:00:00 UTC */
/* An MSR's name as the SDM has it, of one that has a name. */
#define CLI_MSR_NAME_MAX 48
const char *cli_msr_name(uint32_t msr, char name[CLI_MSR_NAME_MAX]);
/* --clock real|virtual. False after a message. */
bool cli_parse_clock(const char *text, bool *real);
/* Seconds, with a fraction. */
bool cli_parse_seconds(const char *text, uint64_t *ns);

/* --trace WHAT[=FILE], given any number of times up to CLI_TRACES; lines go to standard error without a FILE. A file
 * that is named twice is one file. */
#define CLI_TRACES 8
struct cli_traces {
    unsigned count;
    struct cli_trace {
        unsigned what;    /* enum vmenter_trace */
        const char *name; /* NULL: standard error */
        void *out;        /* FILE * */
    } trace[CLI_TRACES];
};
/* Takes an option's value. False after a message. */
bool cli_trace_add(struct cli_traces *t, const char *value);
/* Opens the files. False after a message. */
bool cli_trace_open(struct cli_traces *t);
/* False after a message: not every line is in its file. */
bool cli_trace_close(struct cli_traces *t);
unsigned cli_trace_what(const struct cli_traces *t);                          /* all that is asked for */
void cli_trace_line(void *traces, enum vmenter_trace kind, const char *line); /* vmenter_trace_fn */
void cli_trace_flush(struct cli_traces *t);

#define CLI_FILE_MAX (UINT64_C(4) << 30)
/* Reads a whole regular file, of at most CLI_FILE_MAX bytes and half of the host's RAM. False after a message. The
 * caller frees *data. */
bool cli_read_file(const char *path, void **data, size_t *size);

/* The terminal, standard input and output, time: the platform of a guest (terminal.c). */
struct terminal {
    struct vmm_platform platform;
    bool interactive; /* standard input is a terminal: raw while the guest runs */
    bool eof, escape, quit;
    uint64_t deadline_ns; /* 0: none */
    char out[4096];
    size_t out_used;
    unsigned char in[256];
    size_t in_at, in_used;
    void *saved; /* terminal settings */
};
/* `timeout_ns` 0: none. Not `serial`: standard input is left alone. */
void terminal_open(struct terminal *t, uint64_t timeout_ns, bool serial);
void terminal_flush(struct terminal *t);
void terminal_close(struct terminal *t);
uint64_t terminal_time_ns(void);

#endif
