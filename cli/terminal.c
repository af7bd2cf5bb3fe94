/* SPDX-License-Identifier: MIT
 *
 * terminal.c: standard input and output as a guest's serial line, and the clock on the wall.
 *
 * On a terminal the input is raw, and Ctrl-A is the escape: Ctrl-A x quits, Ctrl-A h helps, Ctrl-A Ctrl-A is one
 * Ctrl-A. From a file or a pipe every byte goes to the guest, as it takes them; what has not arrived when the guest
 * looks is not waited for, so a run is repeatable when the input is a file, or is there from the start.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"

#define ESCAPE 1 /* Ctrl-A */

uint64_t terminal_time_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* A signal that would end the process ends the guest's run first, so that the terminal is given back. */
static volatile sig_atomic_t ended_by;
static const int ending[] = {SIGINT, SIGTERM, SIGHUP};

static void on_signal(int number)
{
    ended_by = number;
}

void terminal_flush(struct terminal *t)
{
    size_t done = 0;
    while (done < t->out_used) {
        ssize_t n = write(STDOUT_FILENO, t->out + done, t->out_used - done);
        if (n > 0) {
            done += (size_t)n;
        } else if (n < 0 && errno == EAGAIN) {
            struct pollfd p = {.fd = STDOUT_FILENO, .events = POLLOUT};
            poll(&p, 1, 100);
        } else if (n < 0 && errno != EINTR) {
            break; /* nobody reads any more: what the guest says is lost, it goes on */
        }
    }
    t->out_used = 0;
}

static void put(struct terminal *t, char c)
{
    if (t->out_used == sizeof(t->out)) {
        terminal_flush(t);
    }
    t->out[t->out_used++] = c;
}

static void put_text(struct terminal *t, const char *text)
{
    while (*text) {
        put(t, *text++);
    }
}

static void serial_out(void *opaque, uint8_t byte)
{
    struct terminal *t = opaque;
    put(t, (char)byte);
    if (byte == '\n') { /* whoever follows the output sees a line when it is said */
        terminal_flush(t);
    }
}

/* Fetches what is there. */
static void fill(struct terminal *t)
{
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    if (t->eof || t->in_at < t->in_used || poll(&p, 1, 0) <= 0) {
        return;
    }
    ssize_t n = read(STDIN_FILENO, t->in, sizeof(t->in));
    t->in_at = 0;
    t->in_used = n > 0 ? (size_t)n : 0;
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        t->eof = true;
    }
}

/* A byte after the escape. True: it is for the guest. */
static bool escaped(struct terminal *t, int c)
{
    t->escape = false;
    switch (c) {
    case 'x':
    case 'X': t->quit = true; return false;
    case 'h':
    case 'H':
    case '?':
        put_text(t, "\r\nCtrl-A x  quit\r\nCtrl-A h  this help\r\nCtrl-A Ctrl-A  one Ctrl-A for the guest\r\n");
        return false;
    case ESCAPE: return true;
    }
    return false;
}

static int serial_in(void *opaque)
{
    struct terminal *t = opaque;
    for (;;) {
        fill(t);
        if (t->in_at == t->in_used) {
            return t->eof ? -2 : -1;
        }
        int c = t->in[t->in_at++];
        if (!t->interactive) {
            return c;
        }
        if (t->escape) {
            if (escaped(t, c)) {
                return c;
            }
        } else if (c == ESCAPE) {
            t->escape = true;
        } else {
            return c;
        }
    }
}

static enum vmm_outcome look(void *opaque)
{
    struct terminal *t = opaque;
    terminal_flush(t);
    if (t->interactive && !t->quit && t->in_at == t->in_used) {
        /* Ctrl-A x works although the guest does not listen: look at the keys without taking them from it. */
        fill(t);
        for (size_t i = 0; i + 1 < t->in_used; i++) {
            t->quit |= t->in[i] == ESCAPE && (t->in[i + 1] | 32) == 'x';
        }
        t->quit |= t->escape && t->in_used && (t->in[0] | 32) == 'x';
    }
    if (t->quit || ended_by) {
        return VMM_QUIT;
    }
    return t->deadline_ns && terminal_time_ns() >= t->deadline_ns ? VMM_TIMEOUT : VMM_RUNNING;
}

static void wait_input(void *opaque, uint64_t ns)
{
    struct terminal *t = opaque;
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    struct timespec ts = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
    bool wants = !t->eof && t->in_at == t->in_used;
    terminal_flush(t);
    ppoll(&p, wants ? 1 : 0, &ts, NULL);
}

static uint64_t time_ns(void *opaque)
{
    return terminal_time_ns();
}

void terminal_open(struct terminal *t, uint64_t timeout_ns, bool serial)
{
    *t = (struct terminal){.interactive = serial && isatty(STDIN_FILENO), .eof = !serial};
    t->platform = (struct vmm_platform){.opaque = t,
                                        .serial_out = serial_out,
                                        .serial_in = serial_in,
                                        .poll = look,
                                        .wait = wait_input,
                                        .time_ns = time_ns};
    t->deadline_ns = timeout_ns ? terminal_time_ns() + timeout_ns : 0;
    for (size_t i = 0; i < sizeof(ending) / sizeof(*ending); i++) {
        signal(ending[i], on_signal);
    }
    if (t->interactive) {
        struct termios raw, *saved = malloc(sizeof(*saved));
        if (saved && tcgetattr(STDIN_FILENO, saved) == 0) {
            t->saved = saved;
            raw = *saved;
            cfmakeraw(&raw);
            raw.c_oflag |= OPOST | ONLCR; /* our own lines */
            tcsetattr(STDIN_FILENO, TCSANOW, &raw);
        } else {
            free(saved);
        }
    }
}

void terminal_close(struct terminal *t)
{
    terminal_flush(t);
    if (t->saved) {
        tcsetattr(STDIN_FILENO, TCSANOW, t->saved);
        free(t->saved);
        t->saved = NULL;
    }
    for (size_t i = 0; i < sizeof(ending) / sizeof(*ending); i++) {
        signal(ending[i], SIG_DFL);
    }
    if (ended_by) {
        raise(ended_by);
    }
}
