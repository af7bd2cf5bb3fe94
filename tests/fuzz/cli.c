/* SPDX-License-Identifier: MIT
 *
 * cli.c: the `vmenter` command with files and words that are damaged at random. It ends by itself, by no signal, in
 * bounded time and with bounded output; status 2 comes with nothing on standard output and one line on standard error.
 *     cli VMENTER COUNT SEED check|boot|guest|explain [FILE...]
 * Case number n of a run is that of seed SEED + n: COUNT 1 repeats it. The damaged file stays in TMPDIR when it fails.
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SECONDS_MAX 60
#define OUTPUT_MAX  (8 << 20)
#define FILE_MAX    (1 << 20)
#define COUNT(a)    (sizeof(a) / sizeof(*(a)))

static uint64_t state;
static uint64_t rng(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state * UINT64_C(0x2545f4914f6cdd1d);
}
static unsigned below(size_t n)
{
    return (unsigned)((rng() >> 33) % n);
}

static uint8_t data[2 * FILE_MAX];
static size_t size;

static void damage(int binary)
{
    static const uint32_t edge[] = {0, 1, 0x7fffffff, 0x80000000, 0xffffffff, 0xfffff000, 0x1000, 0xffff};
    for (unsigned i = below(6) + !binary; i > 0 && size > 8; i--) {
        size_t at = below(binary && below(4) ? (size < 4096 ? size - 4 : 4092) : size - 4), n = 1 + below(64);
        switch (below(binary ? 6 : 8)) {
        case 0: data[at] ^= (uint8_t)(1u << below(8)); break;
        case 1: data[at] = (uint8_t)rng(); break;
        case 2:
        case 3: memcpy(data + at, &edge[below(COUNT(edge))], 4); break;
        case 4: size = below(8) ? size : at; break;
        case 5: /* something of it once more */
            n = n < size - at ? n : size - at;
            memmove(data + below(size - n), data + at, n);
            break;
        case 6: data[at] = (uint8_t) "0x=# \n\t-,:;fF9"[below(14)]; break;
        default: /* longer */
            n = below(5000);
            if (size + n < sizeof data) {
                memmove(data + at + n, data + at, size - at);
                memset(data + at, data[at], n);
                size += n;
            }
        }
    }
}

static void code(const void *bytes, size_t n)
{
    memcpy(data + size, bytes, n);
    size += n;
}

/* A kernel by Linux's 64-bit boot protocol, of code that goes to every device. */
static void hostile_kernel(void)
{
    static const uint16_t ports[] = {0x20, 0x21,  0x40,  0x43,  0x60,  0x61,  0x64,  0x70,  0x71,  0x80,  0x92,  0xa0,
                                     0xa1, 0x3f8, 0x3f9, 0x3fc, 0x4d0, 0x510, 0x511, 0x600, 0x608, 0xcf8, 0xcfc, 0xcf9};
    static const uint32_t at[] = {0xfee00000, 0xfee00300, 0xfee00380, 0xfee00320, 0xfec00000, 0xfec00010, 0xfed00000,
                                  0xfee000b0, 0xfee00080, 0xb8000,    0x80000000, 0xfff,      0x3fffffc,  0x4000000};
    static const uint8_t strings[][3] = {"\xf3\xaa", "\xf3\x6c", "\xf3\x6e", "\xf3\xa4", "\xf3\x6f", "\xf2\xae"};
    static const uint8_t other[][3] = {"\x0f\xa2", "\x0f\x32", "\x0f\x30", "\xfb\x90",
                                       "\xf4\x90", "\x0f\x09", "\xcd\x03"};
    memset(data, 0, 0x600);
    data[0x1f1] = 1;
    memcpy(data + 0x1fe, "\x55\xaa\xeb\x66HdrS\x0c\x02", 10);
    data[0x211] = 1;
    memcpy(data + 0x22c, "\xff\xff\xff\x7f\x00\x00\x20\x00\x01\x15\x01\x00\xff\x07", 14);
    data[0x25b] = 1;
    data[0x262] = 0x10;
    size = 0x600;
    /* mov eax, PML4; mov cr3, rax; lidt; mov esp, stack */
    code("\xb8\x00\x40\x00\x01\x0f\x22\xd8\x0f\x01\x1c\x25\xf0\x3f\x00\x01\xbc\x00\x00\x02\x01", 21);
    while (size < 0x4000) {
        uint32_t v = (uint32_t)(rng() >> below(64)), a = at[below(COUNT(at))] + (below(3) ? 0 : below(4096));
        uint16_t port = below(4) ? (uint16_t)(ports[below(COUNT(ports))] + below(3)) : (uint16_t)rng();
        code("\xb8", 1); /* mov eax, v; mov edx, port */
        code(&v, 4);
        code("\x66\xba", 2);
        code(&port, 2);
        switch (below(8)) {
        case 0 ... 2: code(&"\xec\xed\xee\xef"[below(4)], 1); break;
        case 3 ... 4: /* mov esi, a; mov [rsi], eax or mov eax, [rsi] */
            code("\xbe", 1);
            code(&a, 4);
            code(below(3) ? "\x89\x06" : "\x8b\x06", 2);
            break;
        case 5: /* mov edi, a; mov ecx, v */
            v = below(3) ? v & 0xfff : v;
            code("\xbf", 1);
            code(&a, 4);
            code("\xb9", 1);
            code(&v, 4);
            code(strings[below(COUNT(strings))], 2);
            break;
        case 6:
            code("\xb9", 1), code(&(uint32_t){below(2) ? 0x1b : 0x800 + below(64)}, 4), code(other[1 + below(2)], 2);
            break;
        default: code(other[below(COUNT(other) - !!below(16))], 2); break;
        }
    }
    int32_t back = 0x600 - (int32_t)size - 5;
    code("\xe9", 1);
    code(&back, 4);
    /* At the load address, 16 MiB: an exception goes on somewhere; page tables for 4 GiB; an IDT. */
    static const uint8_t handler[] = {0x0f, 0x31, 0x25, 0xff, 0x1f, 0, 0, 0x05, 0x40, 0x02,
                                      0,    1,    0xbc, 0,    0,    2, 1, 0xff, 0xe0};
    uint8_t *image = data + 0x400;
    memset(data + size, 0, 0xc400 - size);
    memcpy(image + 0x3f00, handler, sizeof handler);
    memcpy(image + 0x3ff0, "\xff\x0f\x00\xa0\x00\x01", 6);
    memcpy(image + 0x4000, &(uint64_t){0x1005003}, 8);
    for (uint64_t i = 0; i < 2048; i++) {
        memcpy(image + 0x5000 + 8 * (i & 3), &(uint64_t){0x1006003 + (i & 3) * 4096}, 8);
        memcpy(image + 0x6000 + 8 * i, &(uint64_t){i << 21 | 0x83}, 8);
    }
    for (unsigned i = 0; i < 256; i++)
        memcpy(image + 0xa000 + 16 * i, &(uint64_t){UINT64_C(0x01008e0000103f00)}, 8);
    size = 0xc400;
}

static int run(char **argv, const char *out, const char *err, int *status)
{
    pid_t child = fork();
    if (child < 0)
        return 0;
    if (child == 0) {
        struct rlimit output = {OUTPUT_MAX, OUTPUT_MAX};
        if (strcmp(argv[1], "boot") && strcmp(argv[1], "guest")) /* what a guest writes is its own business */
            setrlimit(RLIMIT_FSIZE, &output);
        else
            out = "/dev/null";
        if (!freopen("/dev/null", "r", stdin) || !freopen(out, "w", stdout) || !freopen(err, "w", stderr))
            _exit(99);
        execv(argv[0], argv);
        _exit(99);
    }
    for (unsigned ms = 0; ms < SECONDS_MAX * 1000; ms += 2) {
        if (waitpid(child, status, WNOHANG) == child)
            return 1;
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    kill(child, SIGKILL);
    waitpid(child, status, 0);
    return 0;
}

static size_t lines(const char *name, size_t *bytes, int *sanitizer)
{
    static char buf[1 << 16];
    size_t n = 0, got;
    FILE *f = fopen(name, "r");
    *bytes = 0;
    while (f && (got = fread(buf, 1, sizeof buf - 1, f)) > 0) {
        buf[got] = 0;
        *bytes += got;
        for (size_t i = 0; i < got; i++)
            n += buf[i] == '\n';
        *sanitizer |= strstr(buf, "Sanitizer") || strstr(buf, "runtime error:");
    }
    if (f)
        fclose(f);
    return n;
}

static const char *word(void)
{
    static char w[8][600];
    static unsigned next;
    static const char *const known[] = {"vmx-exit",
                                        "vmx-error",
                                        "vmcs",
                                        "msr",
                                        "vmx-interruption-info",
                                        "vmx-instruction-info",
                                        "svm-exit",
                                        "vmcb",
                                        "eventinj",
                                        "exitintinfo",
                                        "--qualification",
                                        "--info",
                                        "--json",
                                        "--info1",
                                        "--info2",
                                        "--exitintinfo",
                                        "48",
                                        "0x1e",
                                        "GUEST_RIP",
                                        "EPT_VIOLATION",
                                        "0x480",
                                        "save.cr0",
                                        "0x6800=3",
                                        "GUEST_CS_ACCESS_RIGHTS=0xa09b",
                                        "NPF",
                                        "0x400",
                                        "",
                                        "-1",
                                        "--"};
    char *s = w[next++ % 8];
    snprintf(s, 600, "%s", known[below(COUNT(known))]);
    switch (below(8)) {
    case 0: snprintf(s, 600, "0x%llx", (unsigned long long)(rng() >> below(64))); break;
    case 1: snprintf(s, 600, "%llu", (unsigned long long)(rng() >> below(64))); break;
    case 2:
        if (*s)
            s[below(strlen(s))] = (char)(1 + below(254));
        break;
    case 3:
        for (unsigned i = 0; !below(8) && i < 599; i++)
            s[i] = (char)(33 + below(90)), s[i + 1] = 0;
        break;
    default: break;
    }
    return s;
}

int main(int argc, char **argv)
{
    if (argc < 5)
        return 2;
    unsigned long count = strtoul(argv[2], NULL, 0), bad = 0;
    uint64_t seed = strtoull(argv[3], NULL, 0);
    const char *what = argv[4], *tmp = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    char in[4096], out[4096], err[4096];
    snprintf(in, sizeof in, "%s/fuzz-cli.%ld.in", tmp, (long)getpid());
    snprintf(out, sizeof out, "%s/fuzz-cli.%ld.out", tmp, (long)getpid());
    snprintf(err, sizeof err, "%s/fuzz-cli.%ld.err", tmp, (long)getpid());
    setenv("ASAN_OPTIONS", "abort_on_error=1:allocator_may_return_null=1", 1);
    setenv("UBSAN_OPTIONS", "abort_on_error=1:halt_on_error=1", 1);
    for (unsigned long n = 0; n < count && bad < 5; n++) {
        char *args[12] = {argv[1], argv[4]}, *made_up[4] = {0};
        unsigned a = 2, words = 0;
        state = (seed + n) * UINT64_C(0x9e3779b97f4a7c15) | 1;
        rng();
        if (!strcmp(what, "explain")) {
            for (unsigned i = below(5); i > 0; i--)
                args[a++] = made_up[words++] = strdup(word());
        } else if (argc > 5 || !strcmp(what, "guest")) {
            int made = argc == 5 || below(4);
            FILE *f;
            if (!strcmp(what, "guest") && made) {
                hostile_kernel();
            } else {
                f = fopen(argv[5 + below((size_t)argc - 5)], "rb");
                size = f ? fread(data, 1, FILE_MAX, f) : 0;
                if (f)
                    fclose(f);
                damage(strcmp(what, "check") != 0);
            }
            f = fopen(in, "wb");
            if (!f || fwrite(data, 1, size, f) != size || fclose(f))
                return 2;
            static const char *const check[] = {"--json", "--all", "--convert", "--host-mode=32", "--cpu=penryn"};
            if (!strcmp(what, "check")) {
                if (below(2))
                    args[a++] = (char *)check[below(COUNT(check))];
            } else {
                args[a++] = "--timeout=1";
                args[a++] = "--mem=64M";
            }
            if (!strcmp(what, "guest")) {
                args[a++] = below(2) ? "--vmx" : "--svm";
                args[a++] = below(2) ? "--clock=real" : "--clock=virtual";
                args[a++] = "--kernel";
            }
            args[a++] = in;
        }
        int status = 0, sanitizer = 0, ended = run(args, out, err, &status);
        size_t out_bytes, err_bytes, err_lines;
        lines(out, &out_bytes, &sanitizer);
        err_lines = lines(err, &err_bytes, &sanitizer);
        int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
        int guest = !strcmp(what, "boot"); /* status: what the guest says */
        if (!ended || code < 0 || sanitizer || (code > 2 && !guest) || code == 99 || err_bytes > 1 << 20 ||
            (code == 2 && !guest && (out_bytes || err_lines != 1))) {
            printf("cli %s, seed %llu: %s, status %#x, %zu bytes out, %zu lines of errors%s:", what,
                   (unsigned long long)(seed + n), ended ? "ended" : "did not end", (unsigned)status, out_bytes,
                   err_lines, sanitizer ? ", sanitizer" : "");
            for (unsigned i = 1; args[i]; i++)
                printf(" '%s'", args[i]);
            printf("\n");
            bad++;
        }
        while (words > 0)
            free(made_up[--words]);
    }
    if (!bad && !getenv("FUZZ_SHOW")) {
        unlink(in);
        unlink(out);
        unlink(err);
    }
    return bad ? 1 : 0;
}
