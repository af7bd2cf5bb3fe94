/* SPDX-License-Identifier: MIT
 *
 * timeline.c: runs a contender and times the stretches that its lines name.
 *
 *   timeline [--pty] [--lines FIFO] [--from TEXT --to TEXT] COMMAND [ARGUMENT]...
 *
 * COMMAND's output, or with --lines what is written to FIFO, is read line by line. For each pair of lines "BEGIN name",
 * "END name checksum" it prints "name seconds checksum", seconds being the CPU time of COMMAND and of all its threads
 * in between: other load on the machine does not count. "END image" ends it, and COMMAND with it. With --from and --to
 * it prints the seconds between the lines that hold these texts, and the latter ends it. --pty: COMMAND gets a terminal
 * of its own.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SILENCE = 120 }; /* seconds without a byte: given up */

/* Nanoseconds on a processor of all threads of the process that are still there. */
static unsigned long long cpu_time(pid_t pid)
{
    char path[300];
    unsigned long long sum = 0, ns;
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *d = opendir(path);
    if (!d)
        return 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", (int)pid, e->d_name);
        FILE *f = fopen(path, "r");
        if (f && fscanf(f, "%llu", &ns) == 1)
            sum += ns;
        if (f)
            fclose(f);
    }
    closedir(d);
    return sum;
}

static char name[128];
static unsigned long long began;
static const char *from_text, *to_text;

/* True at the end. */
static bool line(pid_t pid, const char *s)
{
    char word[128], sum[64];
    if (to_text) {
        if (!began && strstr(s, from_text))
            began = cpu_time(pid);
        if (!strstr(s, to_text))
            return false;
        printf("%.2f\n", (double)(cpu_time(pid) - began) * 1e-9);
        return true;
    }
    if (sscanf(s, "BEGIN %127s", name) == 1) {
        began = cpu_time(pid);
    } else if (!strncmp(s, "END image", 9)) {
        return true;
    } else if (sscanf(s, "END %127s %63s", word, sum) == 2 && !strcmp(word, name)) {
        printf("%s %.4f %s\n", name, (double)(cpu_time(pid) - began) * 1e-9, sum);
        fflush(stdout);
    }
    return false;
}

int main(int argc, char **argv)
{
    bool pty = false;
    const char *lines = NULL;
    int at = 1;
    for (; at < argc && argv[at][0] == '-'; at++)
        if (!strcmp(argv[at], "--pty"))
            pty = true;
        else if (!strcmp(argv[at], "--lines") && at + 1 < argc)
            lines = argv[++at];
        else if (!strcmp(argv[at], "--from") && at + 1 < argc)
            from_text = argv[++at];
        else if (!strcmp(argv[at], "--to") && at + 1 < argc)
            to_text = argv[++at];
        else
            break;
    if (at >= argc || argv[at][0] == '-' || !from_text != !to_text) {
        fputs("usage: timeline [--pty] [--lines FIFO] [--from TEXT --to TEXT] COMMAND [ARGUMENT]...\n", stderr);
        return 2;
    }
    /* Open for writing too: no end of file while the contender has not opened it yet. */
    int from = lines ? open(lines, O_RDWR | O_NONBLOCK) : -1, out[2] = {-1, -1}, master = -1;
    if ((lines && from < 0) || (!lines && pipe(out) < 0)) {
        fprintf(stderr, "timeline: %s: %s\n", lines ? lines : "pipe", strerror(errno));
        return 1;
    }
    pid_t pid = pty ? forkpty(&master, NULL, NULL, NULL) : fork();
    if (pid == 0) {
        if (!lines)
            dup2(out[1], 1);
        if (!pty && !freopen("/dev/null", "r", stdin))
            _exit(127);
        execvp(argv[at], argv + at);
        _exit(127);
    }
    if (!lines) {
        close(out[1]);
        from = out[0];
    }
    char buf[4096], text[256];
    size_t have = 0;
    bool done = false;
    while (!done) {
        struct pollfd p[2] = {{from, POLLIN, 0}, {master, POLLIN, 0}};
        if (poll(p, 2, SILENCE * 1000) <= 0)
            break;
        if (p[1].revents && read(master, buf, sizeof buf) <= 0) /* what it paints is not looked at */
            break;
        if (!p[0].revents)
            continue;
        ssize_t n = read(from, buf, sizeof buf);
        if (n <= 0)
            break;
        for (ssize_t i = 0; i < n && !done; i++) {
            if (buf[i] != '\n') {
                if (buf[i] != '\r' && have < sizeof text - 1)
                    text[have++] = buf[i];
                continue;
            }
            text[have] = 0;
            have = 0;
            done = line(pid, text);
        }
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return done ? 0 : 1;
}
