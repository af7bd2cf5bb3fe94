/* SPDX-License-Identifier: MIT
 *
 * options.c: options, sizes, files.
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "src/arch/names.h"

int option_next(struct option_parser *p)
{
    if (p->at >= p->argc) {
        return OPTION_END;
    }
    char *arg = p->argv[p->at++];
    if (strncmp(arg, "--", 2) != 0 || !arg[2]) {
        p->value = arg;
        return OPTION_WORD;
    }
    char *equals = strchr(arg, '=');
    size_t len = equals ? (size_t)(equals - arg) - 2 : strlen(arg) - 2;
    for (const struct option *o = p->options; o->name; o++) {
        if (strlen(o->name) != len || strncmp(arg + 2, o->name, len) != 0) {
            continue;
        }
        p->value = equals ? equals + 1 : NULL;
        if (!o->value && equals) {
            cli_error("--%s takes no value", o->name);
            return OPTION_BAD;
        }
        if (o->value && o->value[0] != '[' && !equals) {
            if (p->at >= p->argc) {
                cli_error("--%s needs a value: --%s %s", o->name, o->name, o->value);
                return OPTION_BAD;
            }
            p->value = p->argv[p->at++];
        }
        return o->id;
    }
    cli_error("%s: there is no option '%.*s': vmenter %s --help lists them", p->argv[0], (int)len + 2, arg, p->argv[0]);
    return OPTION_BAD;
}

void option_help(const struct option *options)
{
    for (const struct option *o = options; o->name; o++) {
        char left[64];
        snprintf(left, sizeof(left), "--%s%s%s", o->name, o->value && o->value[0] != '[' ? " " : "",
                 o->value ? o->value : "");
        printf("  %-24s %s\n", left, o->help);
    }
}

bool cli_parse_size(const char *text, uint64_t *bytes)
{
    char *end;
    unsigned shift = 0;
    errno = 0;
    if (*text < '0' || *text > '9') {
        return false;
    }
    unsigned long long n = strtoull(text, &end, 0);
    switch (*end) {
    case 'k':
    case 'K': shift = 10; break;
    case 'm':
    case 'M': shift = 20; break;
    case 'g':
    case 'G': shift = 30; break;
    case 't':
    case 'T': shift = 40; break;
    case 0: break;
    default: return false;
    }
    end += *end != 0;
    if (!strcmp(end, "iB") || !strcmp(end, "B")) {
        end += strlen(end);
    }
    if (*end || errno || n > (UINT64_MAX >> 1) >> shift) {
        return false;
    }
    *bytes = (uint64_t)n << shift;
    return true;
}

bool cli_parse_mem(const char *text, uint64_t min, uint64_t max, uint64_t *mem)
{
    if (!cli_parse_size(text, mem)) {
        cli_error("--mem %s: not a size: a number with K, M or G is wanted, such as 256M", text);
        return false;
    }
    uint64_t host = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGE_SIZE);
    *mem &= ~UINT64_C(4095);
    if (*mem < min) {
        cli_error("--mem %s: too little: at least %lluM", text, (unsigned long long)min >> 20);
        return false;
    }
    if (*mem > max || *mem > host) {
        cli_error("--mem %s: more than %s: at most %lluM", text, *mem > host ? "this host has" : "a machine can have",
                  (unsigned long long)(host < max ? host : max) >> 20);
        return false;
    }
    return true;
}

const char *cli_msr_name(uint32_t msr, char name[CLI_MSR_NAME_MAX])
{
    snprintf(name, CLI_MSR_NAME_MAX, "IA32_%s", msr_name(msr));
    return name;
}

bool cli_parse_clock(const char *text, bool *real)
{
    *real = !strcmp(text, "real");
    if (!*real && strcmp(text, "virtual") != 0) {
        cli_error("--clock %s: virtual or real", text);
        return false;
    }
    return true;
}

bool cli_parse_seconds(const char *text, uint64_t *ns)
{
    char *end;
    double s = strtod(text, &end);
    if (end == text || *end || !isfinite(s) || s <= 0 || s > 1e9) {
        return false;
    }
    *ns = (uint64_t)(s * 1e9);
    return true;
}

bool cli_read_file(const char *path, void **data, size_t *size)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* without waiting for a pipe's other end */
    if (fd < 0 || fstat(fd, &st)) {
        cli_error("%s: %s", path, strerror(errno));
        return false;
    }
    FILE *f = S_ISREG(st.st_mode) ? fdopen(fd, "rb") : NULL;
    if (!f) {
        cli_error("%s: is a %s, a regular file is wanted", path, S_ISDIR(st.st_mode) ? "directory" : "pipe or device");
        close(fd);
        return false;
    }
    char *buf = NULL;
    size_t used = 0, room = 0;
    /* Files of /proc say nothing of their size, or too much. */
    uint64_t limit = (uint64_t)sysconf(_SC_PHYS_PAGES) / 2 * (uint64_t)sysconf(_SC_PAGE_SIZE);
    limit = limit < CLI_FILE_MAX ? limit : CLI_FILE_MAX;
    for (;;) {
        if (used > limit || (uint64_t)st.st_size > limit) {
            cli_error("%s: has more than %llu MiB: a boot image or module of a sensible size is wanted", path,
                      (unsigned long long)limit >> 20);
            break;
        }
        if (used == room) {
            room = room ? room * 2 : st.st_size > 0 ? (size_t)st.st_size + 1 : 65536;
            char *bigger = realloc(buf, room);
            if (!bigger) {
                cli_error("%s: the host has no memory for it", path);
                break;
            }
            buf = bigger;
        }
        size_t n = fread(buf + used, 1, room - used, f);
        used += n;
        if (!n) {
            if (ferror(f)) {
                cli_error("%s: %s", path, strerror(errno));
                break;
            }
            fclose(f);
            *data = buf;
            *size = used;
            return true;
        }
    }
    free(buf);
    fclose(f);
    return false;
}
