/* SPDX-License-Identifier: MIT
 *
 * trace.c: where the lines of --trace go.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

bool cli_trace_add(struct cli_traces *t, const char *value)
{
    char words[128];
    const char *file = strchr(value, '=');
    size_t len = file ? (size_t)(file - value) : strlen(value);
    if (t->count == CLI_TRACES) {
        cli_error("--trace %s: given more than %d times", value, CLI_TRACES);
        return false;
    }
    struct cli_trace *n = &t->trace[t->count];
    n->what = 0;
    if (len < sizeof(words)) {
        memcpy(words, value, len);
        words[len] = 0;
        n->what = vmenter_trace_parse(words);
    }
    if (!n->what || (file && !file[1])) {
        cli_error("--trace %s: WHAT[=FILE] is wanted, WHAT a comma list of exits, entries, interrupts, exceptions, io, "
                  "msr, insn, all",
                  value);
        return false;
    }
    n->name = file ? file + 1 : NULL;
    t->count++;
    return true;
}

bool cli_trace_open(struct cli_traces *t)
{
    for (unsigned i = 0; i < t->count; i++) {
        struct cli_trace *n = &t->trace[i];
        for (unsigned j = 0; j < i && n->name; j++) {
            if (t->trace[j].name && !strcmp(t->trace[j].name, n->name)) {
                n->out = t->trace[j].out;
            }
        }
        if (!n->out) {
            n->out = n->name ? fopen(n->name, "w") : stderr;
        }
        if (!n->out) {
            cli_error("--trace %s: cannot be written: %s", n->name, strerror(errno));
            return false;
        }
    }
    return true;
}

bool cli_trace_close(struct cli_traces *t)
{
    bool ok = true;
    for (unsigned i = 0; i < t->count; i++) {
        FILE *out = t->trace[i].out;
        if (!out || out == stderr) {
            continue;
        }
        for (unsigned j = i; j < t->count; j++) { /* closed once */
            if (t->trace[j].out == out) {
                t->trace[j].out = NULL;
            }
        }
        bool failed = ferror(out);
        if (fclose(out) || failed) {
            cli_error("--trace %s: not everything could be written", t->trace[i].name);
            ok = false;
        }
    }
    return ok;
}

unsigned cli_trace_what(const struct cli_traces *t)
{
    unsigned what = 0;
    for (unsigned i = 0; i < t->count; i++) {
        what |= t->trace[i].what;
    }
    return what;
}

void cli_trace_line(void *traces, enum vmenter_trace kind, const char *line)
{
    const struct cli_traces *t = traces;
    for (unsigned i = 0; i < t->count; i++) {
        bool again = false; /* one file under two options takes a line once */
        for (unsigned j = 0; j < i; j++) {
            again |= t->trace[j].out == t->trace[i].out && (t->trace[j].what & kind);
        }
        if ((t->trace[i].what & kind) && !again) {
            fputs(line, t->trace[i].out);
            putc('\n', t->trace[i].out);
        }
    }
}

void cli_trace_flush(struct cli_traces *t)
{
    for (unsigned i = 0; i < t->count; i++) {
        if (t->trace[i].out) {
            fflush(t->trace[i].out);
        }
    }
}
