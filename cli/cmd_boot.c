/* SPDX-License-Identifier: MIT
 *
 * cmd_boot.c: `vmenter boot`: a whole PC on the software processor; an unmodified hypervisor or kernel is its host.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "src/machine/pc.h"

#define DEFAULT_MEM (UINT64_C(512) << 20)

enum {
    OPT_CPU,
    OPT_CPUS,
    OPT_MEM,
    OPT_APPEND,
    OPT_INITRD,
    OPT_MODULE,
    OPT_SERIAL,
    OPT_ENTRY,
    OPT_CLOCK,
    OPT_TIMEOUT,
    OPT_TRACE,
    OPT_STATS,
    OPT_HELP
};

static const struct option options[] = {
    {"cpu", "MODEL", "processor model, NAME[,+feature,-feature...] (max); vmenter cpus lists them", OPT_CPU},
    {"cpus", "N", "logical processors, 1 to 64 (1)", OPT_CPUS},
    {"mem", "SIZE", "RAM, with K, M or G (512M)", OPT_MEM},
    {"append", "TEXT", "the image's command line", OPT_APPEND},
    {"initrd", "FILE", "a Linux kernel's initial file system; the first module of another image", OPT_INITRD},
    {"module", "FILE[,ARGS]", "a module for a Multiboot or PVH image; may be given again", OPT_MODULE},
    {"serial", "stdio|FILE", "where the first serial port goes (stdio); given again, the second (nowhere)", OPT_SERIAL},
    {"entry", "16|32|64", "a Linux kernel's entry point (64 where it has one, else 32, else 16)", OPT_ENTRY},
    {"clock", "virtual|real", "what drives time: retired instructions, or the wall (real on a terminal, else virtual)",
     OPT_CLOCK},
    {"timeout", "SECONDS", "stop, with status 1, after so long on the wall", OPT_TIMEOUT},
    {"trace", "WHAT[=FILE]",
     "a line for each of: exits, entries, interrupts, exceptions, io, msr, insn, all (a comma list); to FILE or "
     "standard "
     "error; may be given again",
     OPT_TRACE},
    {"stats", NULL, "tables at the end, to standard error: instructions, exits, TLB, code cache, devices, time",
     OPT_STATS},
    {"help", NULL, "this help", OPT_HELP},
    {0},
};

/* The other end of a serial line that goes to a file. */
struct serial_file {
    const char *name;
    FILE *out;
};

struct arguments {
    bool stats, help, clock_given;
    const char *initrd;
    char *module[PC_MODULES_MAX];
    const char *serial[PC_SERIALS]; /* NULL: nowhere */
    unsigned serials;
    struct serial_file file[PC_SERIALS];
    struct cli_traces traces;
    uint64_t timeout_ns;
    struct pc_config pc;
};

static bool is_stdio(const char *serial)
{
    return serial && !strcmp(serial, "stdio");
}

static int parse(int argc, char **argv, struct arguments *a)
{
    struct option_parser p = {.options = options, .argc = argc, .argv = argv, .at = 1};
    bool real;
    char *end;
    for (int id; (id = option_next(&p)) != OPTION_END;) {
        switch (id) {
        case OPT_CPU: a->pc.model = p.value; break;
        case OPT_CPUS: {
            unsigned long n = strtoul(p.value, &end, 10);
            if (*p.value < '0' || *p.value > '9' || *end || n < 1 || n > 64) {
                return cli_error("--cpus %s: a number from 1 to 64 is wanted", p.value);
            }
            a->pc.cpus = (unsigned)n;
            break;
        }
        case OPT_MEM:
            if (!cli_parse_mem(p.value, PC_MEM_MIN, PC_MEM_MAX, &a->pc.mem)) {
                return EXIT_USAGE;
            }
            break;
        case OPT_APPEND: a->pc.append = p.value; break;
        case OPT_INITRD: a->initrd = p.value; break;
        case OPT_MODULE:
            if (a->pc.modules == PC_MODULES_MAX) {
                return cli_error("--module %s: more than %u modules", p.value, PC_MODULES_MAX);
            }
            a->pc.module[a->pc.modules++].name = p.value;
            break;
        case OPT_SERIAL:
            if (a->serials == PC_SERIALS) {
                return cli_error("--serial %s: the machine has %u serial ports", p.value, PC_SERIALS);
            }
            if (!*p.value) {
                return cli_error("--serial: 'stdio' or a file is wanted");
            }
            if (a->serials && is_stdio(a->serial[0]) && is_stdio(p.value)) {
                return cli_error("--serial stdio: standard input and output are the first serial port's already");
            }
            a->serial[a->serials++] = p.value;
            break;
        case OPT_ENTRY:
            a->pc.entry = !strcmp(p.value, "16") ? 16 : !strcmp(p.value, "32") ? 32 : !strcmp(p.value, "64") ? 64 : 0;
            if (!a->pc.entry) {
                return cli_error("--entry %s: 16, 32 or 64", p.value);
            }
            break;
        case OPT_CLOCK:
            a->clock_given = true;
            if (!cli_parse_clock(p.value, &real)) {
                return EXIT_USAGE;
            }
            a->pc.clock = real ? VMENTER_CLOCK_REAL : VMENTER_CLOCK_VIRTUAL;
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
        case OPTION_WORD:
            if (a->pc.image.name) {
                return cli_error("boot: '%s' is a second image: one is wanted", p.value);
            }
            a->pc.image.name = p.value;
            break;
        default: return EXIT_USAGE;
        }
    }
    return a->pc.image.name ? EXIT_OK : cli_error("boot: an image is needed: vmenter boot [OPTIONS] IMAGE");
}

static bool read_file(struct pc_file *f)
{
    void *data;
    if (!cli_read_file(f->name, &data, &f->size)) {
        return false;
    }
    f->data = data;
    return true;
}

/* Reads all files; FILE,ARGS of a module is taken apart, in a copy that the caller frees. */
static bool read_files(struct arguments *a)
{
    a->pc.initrd.name = a->initrd;
    if (!read_file(&a->pc.image) || (a->initrd && !read_file(&a->pc.initrd))) {
        return false;
    }
    for (unsigned i = 0; i < a->pc.modules; i++) {
        struct pc_file *f = &a->pc.module[i];
        a->module[i] = strdup(f->name);
        if (!a->module[i]) {
            cli_error("the host has no memory left");
            return false;
        }
        char *comma = strchr(a->module[i], ',');
        if (comma) {
            *comma = 0;
            f->args = comma + 1;
        }
        f->name = a->module[i];
        if (!read_file(f)) {
            return false;
        }
    }
    return true;
}

struct session {
    struct terminal terminal;
    struct serial_file *file; /* PC_SERIALS */
};

/* The terminal's words are the VMM's. */
static enum pc_outcome look(void *opaque)
{
    struct session *s = opaque;
    for (unsigned i = 0; i < PC_SERIALS; i++) {
        if (s->file[i].out) {
            fflush(s->file[i].out);
        }
    }
    switch (s->terminal.platform.poll(&s->terminal)) {
    case VMM_TIMEOUT: return PC_TIMEOUT;
    case VMM_QUIT: return PC_QUIT;
    default: return PC_RUNNING;
    }
}

static void wait_input(void *opaque, uint64_t ns)
{
    struct session *s = opaque;
    s->terminal.platform.wait(&s->terminal, ns);
}

static void write_line(void *opaque, const char *text)
{
    fprintf(stderr, "%s\n", text);
}

static void serial_out(void *opaque, uint8_t byte)
{
    putc(byte, ((struct serial_file *)opaque)->out);
}

static bool is_same_file(const char *a, const char *b)
{
    struct stat sa, sb;
    return a && b && !stat(a, &sa) && !stat(b, &sb) && S_ISREG(sa.st_mode) && sa.st_dev == sb.st_dev &&
           sa.st_ino == sb.st_ino;
}

/* A file that this run reads, or writes another port's bytes to. */
static bool is_in_use(const struct arguments *a, const char *name)
{
    bool used = is_same_file(name, a->pc.image.name) || is_same_file(name, a->initrd);
    for (unsigned i = 0; i < a->pc.modules; i++) {
        used |= is_same_file(name, a->module[i]);
    }
    for (unsigned i = 0; i < PC_SERIALS; i++) {
        used |= a->file[i].out && is_same_file(name, a->file[i].name);
    }
    return used;
}

static bool open_serial(struct arguments *a)
{
    for (unsigned i = 0; i < PC_SERIALS; i++) {
        if (!a->serial[i] || is_stdio(a->serial[i])) {
            continue;
        }
        struct serial_file *f = &a->file[i];
        if (is_in_use(a, a->serial[i])) {
            cli_error("--serial %s: this run uses that file already: name another", a->serial[i]);
            return false;
        }
        /* Without waiting for a pipe's other end. */
        int fd = open(a->serial[i], O_WRONLY | O_CREAT | O_TRUNC | O_NOCTTY | O_NONBLOCK | O_CLOEXEC, 0666);
        f->name = a->serial[i];
        f->out = fd < 0 ? NULL : fdopen(fd, "w");
        if (!f->out) {
            cli_error("--serial %s: cannot be written: %s", f->name, strerror(errno));
            return false;
        }
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
        a->pc.platform.serial[i] = (struct pc_serial){.opaque = f, .out = serial_out};
    }
    return true;
}

/* False after a message: not all that was sent is in the file. */
static bool close_serial(struct arguments *a)
{
    bool ok = true;
    for (unsigned i = 0; i < PC_SERIALS; i++) {
        struct serial_file *f = &a->file[i];
        bool failed = f->out && ferror(f->out);
        if (f->out && (fclose(f->out) || failed)) {
            cli_error("--serial %s: not everything could be written", f->name);
            ok = false;
        }
    }
    return ok;
}

static int run(struct arguments *a)
{
    char error[PC_ERROR_MAX];
    struct session s = {.file = a->file};
    bool uses_stdio = is_stdio(a->serial[0]) || is_stdio(a->serial[1]);
    if (!open_serial(a) || !cli_trace_open(&a->traces)) {
        return EXIT_USAGE;
    }
    terminal_open(&s.terminal, a->timeout_ns, uses_stdio);
    a->pc.platform.opaque = &s;
    a->pc.platform.poll = look;
    a->pc.platform.wait = wait_input;
    for (unsigned i = 0; i < PC_SERIALS; i++) {
        if (is_stdio(a->serial[i])) {
            a->pc.platform.serial[i] = (struct pc_serial){
                .opaque = &s.terminal, .out = s.terminal.platform.serial_out, .in = s.terminal.platform.serial_in};
        }
    }
    struct pc *pc = pc_create(&a->pc, error);
    if (!pc) {
        terminal_close(&s.terminal);
        return cli_error("%s", error);
    }
    int status = EXIT_GUEST;
    if (a->traces.count) {
        pc_trace(pc, cli_trace_what(&a->traces), cli_trace_line, &a->traces);
    }
    enum pc_outcome outcome = pc_run(pc);
    cli_trace_flush(&a->traces);
    terminal_flush(&s.terminal);
    switch (outcome) {
    case PC_POWER_OFF:
    case PC_QUIT: status = EXIT_OK; break;
    case PC_EXIT: status = (int)(pc_exit_code(pc) & 0xff); break;
    case PC_RESET: cli_error("the machine was reset; it is not started again"); break;
    default: pc_dump(pc, write_line, NULL); break;
    }
    if (a->stats) {
        pc_print_stats(pc, write_line, NULL);
    }
    pc_destroy(pc);
    terminal_close(&s.terminal);
    return status;
}

int cmd_boot(int argc, char **argv)
{
    struct arguments a = {.pc = {.model = "max", .cpus = 1, .mem = DEFAULT_MEM}};
    int status = parse(argc, argv, &a);
    if (status) {
        return status;
    }
    if (a.help) {
        puts("usage: vmenter boot [OPTIONS] IMAGE\n\n"
             "A PC whose processor has VMX or SVM. IMAGE is a Multiboot 1 or 2 image (ELF or flat), a Linux bzImage or "
             "a\nPVH ELF image, told apart by content; one that gzip packed is unpacked.\n");
        option_help(options);
        puts("\nOn a terminal: Ctrl-A x quits, Ctrl-A h helps. Else standard input is the first serial line.\n"
             "Exit status: 0 power-off; 2V+1 after V was written to port 0xf4; 1 a crash, a reset or a time-out; "
             "2 usage or\na bad file. docs/PC.md has the machine, and what each kind of image is given.");
        return EXIT_OK;
    }
    if (!a.serials) {
        a.serial[0] = "stdio";
    }
    if (!a.clock_given && isatty(STDIN_FILENO) && (is_stdio(a.serial[0]) || is_stdio(a.serial[1]))) {
        a.pc.clock = VMENTER_CLOCK_REAL;
    }
    a.pc.unix_time = a.pc.clock == VMENTER_CLOCK_REAL ? (uint64_t)time(NULL) : CLI_VIRTUAL_EPOCH;
    status = read_files(&a) ? run(&a) : EXIT_USAGE;
    bool written = close_serial(&a);
    if (!cli_trace_close(&a.traces) || !written) {
        status = EXIT_USAGE;
    }
    free((void *)a.pc.image.data);
    free((void *)a.pc.initrd.data);
    for (unsigned i = 0; i < a.pc.modules; i++) {
        free((void *)a.pc.module[i].data);
        free(a.module[i]);
    }
    return status;
}
