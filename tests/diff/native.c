/* SPDX-License-Identifier: MIT
 *
 * native.c: runs one instruction on the bare processor from a given state. Linux x86-64.
 *
 * A signal frame holds the whole state that a user program has: general registers, RFLAGS, CS, and the XSAVE image. So
 * a case is loaded by editing the frame of the previous case's signal and returning from the handler; the case's own
 * end (#DB, #BP or a fault) is the next signal. One signal a case, nothing of ours between the state and the
 * instruction.
 */
#include "tests/diff/diff.h"

#include <asm/ldt.h>
#include <asm/prctl.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

uint8_t *diff_native_code, *diff_native_data;

static struct {
    bool low, cs16;
    bool in_test, first;
    bool (*step)(void *, struct dstate *);
    void *opaque;
    gregset_t home;
    uint8_t home_fx[512];
    uint8_t saved_fx[512];
} nat;

enum { ALT_STACK = 1 << 20 };

static void *map_fixed(uint64_t la, size_t len, int prot, int fd, off_t off)
{
    void *p = mmap((void *)la, len, prot, MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, fd, off);
    return p == (void *)la ? p : NULL;
}

static const int greg_of[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

void diff_native_signal(int sig, siginfo_t *info, void *uctx);
/* The kernel leaves AC (and DF is cleared by it) as the interrupted code had it: clear AC before compiled code runs. */
__asm__(".text\n.globl diff_native_entry\n.hidden diff_native_entry\ndiff_native_entry:\n"
        "    pushfq\n    andq $~0x244400, (%rsp)\n    popfq\n    jmp diff_native_signal\n");
void diff_native_entry(int sig, siginfo_t *info, void *uctx);

static uint16_t mode_of_cs(uint16_t cs)
{
    switch (cs) {
    case DIFF_CS64: return MODE64;
    case DIFF_CS32: return MODE32;
    case DIFF_CS16: return MODE16;
    default: return 0xff;
    }
}

void diff_native_signal(int sig, siginfo_t *info, void *uctx)
{
    ucontext_t *u = uctx;
    greg_t *g = u->uc_mcontext.gregs;
    uint8_t *fx = (uint8_t *)u->uc_mcontext.fpregs;
    static struct dstate s;

    if (!nat.in_test) {
        static const char msg[] = "tests/diff: the harness or the software processor crashed (signal outside a case)\n";
        (void)!write(2, msg, sizeof msg - 1);
        signal(sig, SIG_DFL);
        raise(sig);
        return;
    }
    nat.in_test = false;
    if (nat.first) {
        nat.first = false;
        memcpy(nat.home, g, sizeof nat.home);
        memcpy(nat.home_fx, fx, 464);
        memset(&s, 0, sizeof s);
        memcpy(s.fx, fx, 464);
        s.vector = 0xffff;
    } else {
        for (int i = 0; i < 16; i++)
            s.gpr[i] = (uint64_t)g[greg_of[i]];
        s.rip = (uint64_t)g[REG_RIP];
        s.rflags = (uint64_t)g[REG_EFL];
        s.vector = (uint16_t)g[REG_TRAPNO];
        s.error = (uint32_t)g[REG_ERR];
        s.cr2 = (uint64_t)g[REG_CR2];
        s.mode = mode_of_cs((uint16_t)g[REG_CSGSFS]);
        memcpy(s.fx, fx, 416);
    }
    if (nat.step(nat.opaque, &s)) {
        __asm__ volatile("mov %0, %%ds; mov %1, %%es"
                         :
                         : "r"(diff_segments[s.seg[DIFF_SEG_DS]].sel), "r"(diff_segments[s.seg[DIFF_SEG_ES]].sel));
        static const uint16_t cs[] = {DIFF_CS64, DIFF_CS32, DIFF_CS16};
        for (int i = 0; i < 16; i++)
            g[greg_of[i]] = (greg_t)s.gpr[i];
        g[REG_RIP] = (greg_t)s.rip;
        g[REG_EFL] = (greg_t)s.rflags;
        g[REG_CSGSFS] = (greg_t)(cs[s.mode] | (uint64_t)diff_segments[s.seg[DIFF_SEG_SS]].sel << 48);
        memcpy(fx, s.fx, 416);
        *(uint64_t *)(fx + 512) |= 3; /* XSTATE_BV: x87 and SSE are in the image */
        nat.in_test = true;
    } else {
        memcpy(g, nat.home, sizeof nat.home);
        memcpy(fx, nat.home_fx, 464);
        *(uint64_t *)(fx + 512) |= 3;
    }
}

void diff_native_loop(bool (*step)(void *, struct dstate *), void *opaque)
{
    nat.step = step;
    nat.opaque = opaque;
    nat.first = nat.in_test = true;
    raise(SIGUSR1);
}

bool diff_native_segments(void)
{
    return nat.cs16;
}

bool diff_native_mode(enum diff_mode mode)
{
    return mode == MODE16 ? nat.cs16 && nat.low : true;
}

bool diff_native_init(void)
{
    int fd = memfd_create("diff", 0);
    size_t code = DIFF_CODE_PAGES * DIFF_PAGE, data = DIFF_DATA_PAGES * DIFF_PAGE, rw = data - DIFF_PAGE;
    if (fd < 0 || ftruncate(fd, (off_t)(code + data)) != 0)
        return perror("tests/diff: memfd"), false;
    diff_native_code = mmap(NULL, code + data, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (diff_native_code == MAP_FAILED)
        return perror("tests/diff: mmap"), false;
    diff_native_data = diff_native_code + code;
    if (!map_fixed(DIFF_CODE, code, PROT_READ | PROT_EXEC, fd, 0) ||
        !map_fixed(DIFF_DATA, rw, PROT_READ | PROT_WRITE, fd, (off_t)code) ||
        !map_fixed(DIFF_DATA + rw, DIFF_PAGE, PROT_READ, fd, (off_t)(code + rw)))
        return perror("tests/diff: fixed mapping"), false;
    nat.low = map_fixed(DIFF_LOW, rw, PROT_READ | PROT_WRITE, fd, (off_t)code) &&
              map_fixed(DIFF_LOW + rw, DIFF_PAGE, PROT_READ, fd, (off_t)(code + rw));
    close(fd);

    struct user_desc d = {.entry_number = 0, .base_addr = DIFF_CODE, .limit = 0xffff, .contents = 2};
    nat.cs16 = syscall(SYS_modify_ldt, 1, &d, sizeof d) == 0;
    for (unsigned i = 1; i < DIFF_SEGMENT_COUNT && diff_segments[i].sel; i++) {
        const struct diff_segment *g = &diff_segments[i];
        bool pages = g->ar & 0x8000, exec = g->ar & 8;
        struct user_desc e = {.entry_number = g->sel >> 3,
                              .base_addr = g->base,
                              .limit = pages ? g->limit >> 12 : g->limit,
                              .limit_in_pages = pages,
                              .seg_32bit = g->ar >> 14 & 1,
                              .contents = exec        ? 2
                                          : g->ar & 4 ? 1
                                                      : 0,
                              .read_exec_only = !(g->ar & 2)};
        if (syscall(SYS_modify_ldt, 1, &e, sizeof e) != 0)
            nat.cs16 = false;
    }
    if (syscall(SYS_arch_prctl, ARCH_SET_GS, DIFF_GS_BASE) != 0)
        return perror("tests/diff: GS base"), false;
    __asm__ volatile("mov %0, %%ds; mov %0, %%es" : : "r"(DIFF_DS));

    stack_t ss = {.ss_sp = malloc(ALT_STACK), .ss_size = ALT_STACK};
    if (!ss.ss_sp || sigaltstack(&ss, NULL) != 0)
        return perror("tests/diff: sigaltstack"), false;
    struct sigaction sa = {.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    sa.sa_sigaction = diff_native_entry;
    static const int sigs[] = {SIGILL, SIGTRAP, SIGSEGV, SIGBUS, SIGFPE, SIGUSR1};
    for (unsigned i = 0; i < sizeof sigs / sizeof *sigs; i++)
        if (sigaction(sigs[i], &sa, NULL) != 0)
            return perror("tests/diff: sigaction"), false;
    return true;
}
