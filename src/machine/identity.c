/* SPDX-License-Identifier: MIT
 *
 * identity.c: identity mode: physical addresses are the process's own. Which pages exist, what the calling thread's
 * segment bases are, and SYSCALL of a guest that reaches the host's kernel.
 *
 * The map of the process is read from /proc/self/maps when a page is asked for that the last reading does not know, and
 * after a guest's system call that changes mappings. Nothing here calls malloc or stdio: the software processor may be
 * running a guest that stopped inside of them. A page that native code unmaps while a guest still uses it is the
 * program's fault, as a freed page under a DMA is.
 *
 * Where the host has no /proc/self/maps, every address below 2^47 counts as mapped.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "src/machine/machine.h"

struct range {
    uint64_t start, end;
    bool write, grows_down;
};

struct identity_map {
    struct vmenter_machine *machine;
    struct range *range; /* sorted, disjoint */
    unsigned count, room;
    unsigned hit; /* where the last look-up succeeded */
    bool known;   /* there is a /proc/self/maps */
    uint8_t lock;
    char buf[16384];
};

/* --- the map
 * ---------------------------------------------------------------------------------------------------------- */

static void map_lock(struct identity_map *im)
{
    while (__atomic_test_and_set(&im->lock, __ATOMIC_ACQUIRE))
        sched_yield();
}

static void map_unlock(struct identity_map *im)
{
    __atomic_clear(&im->lock, __ATOMIC_RELEASE);
}

static bool add_range(struct identity_map *im, const struct range *r)
{
    struct range *last = im->count ? &im->range[im->count - 1] : NULL;
    if (last && last->end == r->start && last->write == r->write && !r->grows_down && !last->grows_down) {
        last->end = r->end;
        return true;
    }
    if (im->count == im->room) {
        size_t old = im->room * sizeof *im->range, size = MAX(old * 2, (size_t)65536);
        void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            return false;
        if (old) {
            memcpy(p, im->range, old);
            munmap(im->range, old);
        }
        im->range = p;
        im->room = (unsigned)(size / sizeof *im->range);
    }
    im->range[im->count++] = *r;
    return true;
}

static const char *parse_hex(const char *p, uint64_t *v)
{
    for (*v = 0;; p++) {
        unsigned digit = *p >= '0' && *p <= '9'   ? (unsigned)(*p - '0')
                         : *p >= 'a' && *p <= 'f' ? (unsigned)(*p - 'a') + 10
                                                  : 16;
        if (digit == 16)
            return p;
        *v = *v << 4 | digit;
    }
}

/* "start-end rwxp offset dev inode   name". Pages that can't be read do not exist for the processor. */
static void parse_line(struct identity_map *im, const char *line, size_t len)
{
    struct range r = {0};
    const char *p = parse_hex(line, &r.start);
    if (*p != '-')
        return;
    p = parse_hex(p + 1, &r.end);
    if (*p != ' ' || p[1] != 'r')
        return;
    r.write = p[2] == 'w';
    r.grows_down = len > 7 && memcmp(line + len - 7, "[stack]", 7) == 0;
    if (r.grows_down) {
        /* The kernel grows it at the first touch, down to the limit and not into its neighbour. */
        struct rlimit limit;
        uint64_t size = 8u << 20, below = im->count ? im->range[im->count - 1].end + (1u << 20) : 0;
        if (getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
            size = limit.rlim_cur;
        uint64_t lowest = r.end > size ? r.end - size : 0;
        lowest = (lowest > below ? lowest : below) & PAGE_BASE;
        if (lowest < r.start)
            r.start = lowest;
    }
    add_range(im, &r);
}

static void read_maps(struct identity_map *im)
{
    int saved = errno, fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    im->count = 0;
    im->hit = 0;
    im->known = fd >= 0;
    if (fd < 0) {
        errno = saved;
        return;
    }
    size_t have = 0;
    for (;;) {
        ssize_t n = read(fd, im->buf + have, sizeof im->buf - 1 - have);
        if (n < 0 && errno == EINTR)
            continue;
        if (n > 0)
            have += (size_t)n;
        size_t at = 0;
        for (;;) {
            char *end = memchr(im->buf + at, '\n', have - at);
            if (!end)
                break;
            *end = 0;
            parse_line(im, im->buf + at, (size_t)(end - (im->buf + at)));
            at = (size_t)(end - im->buf) + 1;
        }
        if (n <= 0)
            break;
        if (at == 0 && have == sizeof im->buf - 1)
            have = 0; /* a line longer than the buffer: cannot be, a path has 4096 characters at most */
        memmove(im->buf, im->buf + at, have - at);
        have -= at;
    }
    close(fd);
    errno = saved;
}

static bool find(struct identity_map *im, uint64_t page, bool write)
{
    if (im->hit < im->count) {
        const struct range *r = &im->range[im->hit];
        if (page >= r->start && page < r->end)
            return r->write || !write;
    }
    unsigned lo = 0, hi = im->count;
    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;
        if (im->range[mid].end <= page)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo == im->count || page < im->range[lo].start)
        return false;
    im->hit = lo;
    return im->range[lo].write || !write;
}

static bool probe(void *opaque, uintptr_t page, bool write)
{
    struct identity_map *im = opaque;
    map_lock(im);
    bool ok = find(im, page, write);
    if (!ok) {
        read_maps(im);
        ok = im->known ? find(im, page, write) : page && !((uint64_t)page >> 47);
    }
    map_unlock(im);
    return ok;
}

bool identity_create(struct vmenter_machine *m)
{
    struct identity_map *im = calloc(1, sizeof *im);
    if (!im)
        return false;
    im->machine = m;
    m->identity = im;
    mem_set_identity(m->mem, probe, im);
    return true;
}

void identity_destroy(struct vmenter_machine *m)
{
    struct identity_map *im = m->identity;
    if (!im)
        return;
    if (im->range)
        munmap(im->range, im->room * sizeof *im->range);
    free(im);
}

/* --- system calls of a guest
 * ------------------------------------------------------------------------------------------- */

#if defined(__linux__) && defined(__x86_64__)

#define ARCH_SET_GS_ 0x1001
#define ARCH_SET_FS_ 0x1002
#define ARCH_GET_FS_ 0x1003
#define ARCH_GET_GS_ 0x1004

static uint64_t host_syscall(uint64_t nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f)
{
    register uint64_t r10 __asm__("r10") = d;
    register uint64_t r8 __asm__("r8") = e;
    register uint64_t r9 __asm__("r9") = f;
    uint64_t ret = nr;
    __asm__ volatile("syscall"
                     : "+a"(ret)
                     : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return ret;
}

/* A clone whose child starts on a stack of its own. The child is a native thread: it goes on at guest_rip with the
 * guest's registers, outside of the machine. Returns what the parent gets. (identity_clone.S) */
uint64_t identity_clone(const uint64_t gpr[16], uint64_t guest_rip, uint64_t child_stack);

void identity_bind(struct cpu *c)
{
    uint64_t fs = 0, gs = 0;
    host_syscall(SYS_arch_prctl, ARCH_GET_FS_, (uintptr_t)&fs, 0, 0, 0, 0);
    host_syscall(SYS_arch_prctl, ARCH_GET_GS_, (uintptr_t)&gs, 0, 0, 0, 0);
    c->seg[SEG_FS].base = fs;
    c->seg[SEG_GS].base = gs;
    cpu_update_mode(c);
}

/* The guest thread's own segment bases: those of the software processor's thread stay as they are. */
static uint64_t guest_arch_prctl(struct cpu *c, uint64_t code, uint64_t addr)
{
    unsigned seg = code == ARCH_SET_GS_ || code == ARCH_GET_GS_ ? SEG_GS : SEG_FS;
    switch (code) {
    case ARCH_SET_FS_:
    case ARCH_SET_GS_:
        if (addr >> 47)
            return (uint64_t)-EPERM;
        c->seg[seg].base = addr;
        cpu_update_mode(c);
        return 0;
    case ARCH_GET_FS_:
    case ARCH_GET_GS_: {
        uint64_t base = c->seg[seg].base;
        uint8_t *p = mem_host(c->mem, HPA(addr), 8, true);
        if (!p)
            return (uint64_t)-EFAULT;
        store64(p, base);
        return 0;
    }
    default: return host_syscall(SYS_arch_prctl, code, addr, 0, 0, 0, 0);
    }
}

/* clone and clone3: what the child is to be. */
static bool clone_stack(struct cpu *c, uint64_t nr, uint64_t *flags, uint64_t *stack)
{
    if (nr == SYS_clone) {
        *flags = c->gpr[GPR_RDI];
        *stack = c->gpr[GPR_RSI];
        return true;
    }
    const uint8_t *args = mem_host(c->mem, HPA(c->gpr[GPR_RDI]), 64, false);
    if (!args || c->gpr[GPR_RSI] < 64)
        return false;
    *flags = load64(args);
    *stack = load64(args + 40) ? load64(args + 40) + load64(args + 48) : 0;
    return true;
}

bool identity_syscall(struct cpu *c)
{
    struct machine_cpu *mc = c->apic;
    struct vmenter_machine *m = mc->machine;
    uint64_t *g = c->gpr, nr = g[GPR_RAX], ret, flags = 0, stack = 0;

    switch (nr) {
    case SYS_arch_prctl: ret = guest_arch_prctl(c, g[GPR_RDI], g[GPR_RSI]); break;
    case SYS_rt_sigreturn:
        /* Signal handlers run as native code and return natively; a guest has no frame to return from. */
        ret = (uint64_t)-ENOSYS;
        break;
    case SYS_vfork:
        /* Parent and child would share the software processor's stack: a child with its own copy instead. */
        ret = host_syscall(SYS_fork, 0, 0, 0, 0, 0, 0);
        break;
    case SYS_clone:
    case SYS_clone3:
        if (clone_stack(c, nr, &flags, &stack) && stack) {
            uint8_t *slot = mem_host(c->mem, HPA(stack - 8), 8, true);
            ret = slot ? identity_clone(g, c->rip, stack) : (uint64_t)-EFAULT;
        } else if (flags & CLONE_VM) {
            ret = nr == SYS_clone ? host_syscall(nr, flags & ~(uint64_t)(CLONE_VM | CLONE_VFORK), 0, g[GPR_RDX],
                                                 g[GPR_R10], g[GPR_R8], 0)
                                  : (uint64_t)-EINVAL;
        } else {
            ret = host_syscall(nr, g[GPR_RDI], g[GPR_RSI], g[GPR_RDX], g[GPR_R10], g[GPR_R8], 0);
        }
        break;
    default: ret = host_syscall(nr, g[GPR_RDI], g[GPR_RSI], g[GPR_RDX], g[GPR_R10], g[GPR_R8], g[GPR_R9]); break;
    }
    g[GPR_RAX] = ret;
    g[GPR_RCX] = c->rip;
    g[GPR_R11] = cpu_rflags(c);

    switch (nr) {
    case SYS_mmap:
    case SYS_munmap:
    case SYS_mremap:
    case SYS_mprotect:
    case SYS_brk:
    case SYS_shmat:
    case SYS_shmdt:
        map_lock(m->identity);
        m->identity->count = 0;
        map_unlock(m->identity);
        tlb_flush_all(&c->tlbs);
        break;
    }
    mem_code_bump(m->mem); /* the kernel may have written code */
    return true;
}

#else

void identity_bind(struct cpu *c) {}

bool identity_syscall(struct cpu *c)
{
    return false;
}

#endif
