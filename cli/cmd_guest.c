/* SPDX-License-Identifier: MIT
 *
 * cmd_guest.c: `vmenter guest`: a guest operating system under the reference VMM.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <vmenter/vmenter.h>

#include "cli/cli.h"

#define DEFAULT_MEM    (UINT64_C(256) << 20)
#define DEFAULT_KERNEL "build/guest/vmlinuz"
#define DEFAULT_INITRD "build/guest/initrd.img"
#define DEFAULT_APPEND "console=ttyS0"

enum {
    OPT_VMX,
    OPT_SVM,
    OPT_CPU,
    OPT_MEM,
    OPT_KERNEL,
    OPT_INITRD,
    OPT_NO_INITRD,
    OPT_APPEND,
    OPT_CLOCK,
    OPT_TIMEOUT,
    OPT_TRACE,
    OPT_STATS,
    OPT_HELP
};

static const struct option options[] = {
    {"vmx", NULL, "under Intel VMX", OPT_VMX},
    {"svm", NULL, "under AMD SVM", OPT_SVM},
    {"cpu", "MODEL", "processor model, NAME[,+feature,-feature...]; vmenter cpus lists them", OPT_CPU},
    {"mem", "SIZE", "guest RAM, with K, M or G (256M)", OPT_MEM},
    {"kernel", "FILE", "a Linux bzImage (" DEFAULT_KERNEL ")", OPT_KERNEL},
    {"initrd", "FILE", "its initial file system (" DEFAULT_INITRD ", unless --kernel is given)", OPT_INITRD},
    {"append", "TEXT", "more kernel parameters, after " DEFAULT_APPEND, OPT_APPEND},
    {"clock", "virtual|real", "what drives time: retired instructions, or the wall (real on a terminal, else virtual)",
     OPT_CLOCK},
    {"timeout", "SECONDS", "stop, with status 1, after so long on the wall", OPT_TIMEOUT},
    {"trace", "WHAT[=FILE]",
     "a line for each of: exits, entries, interrupts, exceptions, io, msr, insn, all (a comma list); to FILE or "
     "standard "
     "error; may be given again",
     OPT_TRACE},
    {"stats", NULL, "a table of exits at the end", OPT_STATS},
    {"help", NULL, "this help", OPT_HELP},
    {0},
};

struct arguments {
    bool vmx, svm, stats, help, real, clock_given;
    const char *cpu, *kernel, *initrd, *append;
    struct cli_traces traces;
    uint64_t mem, timeout_ns;
};

/* EXIT_OK, or the status to end with. */
static int parse(int argc, char **argv, struct arguments *a)
{
    struct option_parser p = {.options = options, .argc = argc, .argv = argv, .at = 1};
    for (int id; (id = option_next(&p)) != OPTION_END;) {
        switch (id) {
        case OPT_VMX: a->vmx = true; break;
        case OPT_SVM: a->svm = true; break;
        case OPT_CPU: a->cpu = p.value; break;
        case OPT_MEM:
            if (!cli_parse_mem(p.value, VMM_MEM_MIN, VMM_MEM_MAX, &a->mem)) {
                return EXIT_USAGE;
            }
            break;
        case OPT_KERNEL: a->kernel = p.value; break;
        case OPT_INITRD: a->initrd = p.value; break;
        case OPT_APPEND: a->append = p.value; break;
        case OPT_CLOCK:
            a->clock_given = true;
            if (!cli_parse_clock(p.value, &a->real)) {
                return EXIT_USAGE;
            }
            break;
        case OPT_TIMEOUT:
            if (!cli_parse_seconds(p.value, &a->timeout_ns)) {
                return cli_error("--timeout %s: not a number of seconds above 0", p.value);
            }
            break;
        case OPT_TRACE:
            if (!cli_trace_add(&a->traces, p.value)) {
                return EXIT_USAGE;
            }
            break;
        case OPT_STATS: a->stats = true; break;
        case OPT_HELP: a->help = true; return EXIT_OK;
        case OPTION_WORD: return cli_error("guest: '%s' is not an option: vmenter guest --help lists them", p.value);
        default: return EXIT_USAGE;
        }
    }
    if (a->vmx == a->svm) {
        return cli_error("guest: one of --vmx and --svm is needed%s", a->vmx ? ", not both" : "");
    }
    return EXIT_OK;
}

/* The newest model of the vendor, when none is given. */
static const char *default_model(bool svm)
{
    const struct vmenter_model *m;
    const char *name = NULL;
    for (unsigned i = 0; (m = vmenter_model(i)); i++) {
        if (!strcmp(m->vendor, svm ? "amd" : "intel")) {
            name = m->name;
        }
    }
    return name ? name : "max";
}

struct lines {
    FILE *out;
};
static void write_line(void *opaque, const char *text)
{
    struct lines *l = opaque;
    fprintf(l->out, "%s\n", text);
}

struct session {
    struct terminal terminal;
    struct cli_traces *traces;
};

/* The VMM's line for an exit. The platform's opaque is the terminal, which stands first in the session. */
static void trace_exit(void *opaque, const char *line)
{
    struct session *s = opaque;
    cli_trace_line(s->traces, VMENTER_TRACE_EXITS, line);
}

static int run(struct arguments *a, struct vmm_config *c)
{
    char error[VMENTER_ERROR_MAX];
    struct session s = {0};
    struct vmenter_config mc = {.size = sizeof(mc), .model = a->cpu ? a->cpu : default_model(a->svm), .cpus = 1};
    struct vmenter_machine *m;
    mc.ram = vmm_machine_ram(a->mem);
    mc.clock = a->real ? VMENTER_CLOCK_REAL : VMENTER_CLOCK_VIRTUAL;
    if (vmenter_create(&mc, &m, error) != VMENTER_OK) {
        return cli_error("%s", error);
    }
    if (vmenter_bind(m, 0) != VMENTER_OK) {
        vmenter_destroy(m);
        return cli_error("the processor cannot be bound to this thread");
    }
    unsigned what = cli_trace_what(&a->traces);
    s.traces = &a->traces;
    if (!cli_trace_open(&a->traces)) {
        cli_trace_close(&a->traces);
        vmenter_destroy(m);
        return EXIT_USAGE;
    }
    vmenter_trace(m, what & ~(unsigned)VMENTER_TRACE_EXITS, cli_trace_line, &a->traces);
    terminal_open(&s.terminal, a->timeout_ns, true);
    c->machine = m;
    c->platform = s.terminal.platform;
    c->platform.opaque = &s;
    c->platform.trace = what & VMENTER_TRACE_EXITS ? trace_exit : NULL;
    int status = EXIT_USAGE;
    struct vmm *v = vmm_create(c, error);
    if (!v) {
        terminal_close(&s.terminal);
        cli_error("%s", error);
    } else {
        enum vmm_outcome outcome = vmm_run(v);
        struct lines err = {stderr}, out = {stdout};
        terminal_close(&s.terminal);
        status = outcome == VMM_POWER_OFF || outcome == VMM_QUIT || (outcome == VMM_EXIT && vmm_exit_code(v) == 1)
                     ? EXIT_OK
                     : EXIT_GUEST;
        if (outcome == VMM_CRASH || outcome == VMM_TIMEOUT) {
            fputc('\n', stderr);
            vmm_dump(v, write_line, &err);
        } else if (outcome == VMM_RESET) {
            cli_error("the guest asked for a reset; it is not started again");
        } else if (outcome == VMM_EXIT && status) {
            cli_error("the guest ended through the debug-exit port with code %u", vmm_exit_code(v));
        }
        if (a->stats) {
            vmm_print_stats(v, write_line, &out);
        }
        vmm_destroy(v);
    }
    if (!cli_trace_close(&a->traces)) {
        status = EXIT_USAGE;
    }
    vmenter_unbind();
    vmenter_destroy(m);
    return status;
}

int cmd_guest(int argc, char **argv)
{
    struct arguments a = {.mem = DEFAULT_MEM};
    int status = parse(argc, argv, &a);
    if (status) {
        return status;
    }
    if (a.help) {
        puts("usage: vmenter guest --vmx|--svm [OPTIONS]\n");
        option_help(options);
        puts("\nOn a terminal: Ctrl-A x quits, Ctrl-A h helps. Else standard input is the guest's serial line.\n"
             "Exit status: 0 the guest powered off, 1 it crashed or timed out, 2 usage or a bad file.");
        return EXIT_OK;
    }
    bool own_kernel = !a.kernel;
    struct vmm_config c = {.mem = a.mem, .svm = a.svm, .stats = a.stats};
    if (!a.clock_given) {
        a.real = isatty(STDIN_FILENO);
    }
    c.real_clock = a.real;
    c.unix_time = a.real ? (uint64_t)time(NULL) : CLI_VIRTUAL_EPOCH;
    c.kernel.name = a.kernel ? a.kernel : DEFAULT_KERNEL;
    c.initrd.name = a.initrd ? a.initrd : own_kernel ? DEFAULT_INITRD : NULL;
    if (own_kernel && access(DEFAULT_KERNEL, F_OK)) {
        return cli_error(DEFAULT_KERNEL ": not there: `make run` fetches it, or give --kernel");
    }
    void *kernel = NULL, *initrd = NULL;
    if (!cli_read_file(c.kernel.name, &kernel, &c.kernel.size) ||
        (c.initrd.name && !cli_read_file(c.initrd.name, &initrd, &c.initrd.size))) {
        free(kernel);
        return EXIT_USAGE;
    }
    c.kernel.data = kernel;
    c.initrd.data = initrd;
    char *cmdline = malloc(strlen(DEFAULT_APPEND) + 2 + (a.append ? strlen(a.append) : 0));
    if (!cmdline) {
        status = cli_error("the host has no memory left");
    } else {
        sprintf(cmdline, "%s%s%s", DEFAULT_APPEND, a.append ? " " : "", a.append ? a.append : "");
        c.cmdline = cmdline;
        status = run(&a, &c);
    }
    free(cmdline);
    free(kernel);
    free(initrd);
    return status;
}
