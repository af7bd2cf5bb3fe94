/* SPDX-License-Identifier: MIT
 *
 * pc.c: the software PC's life: building it, whose turn it is, whose time has come, words about it. board.c has its
 * devices.
 *
 * Time. There is one clock for the whole machine. On the virtual clock it counts the instructions of all processors
 * together: a processor's counter is brought up to it at the start of its turn, so that no processor ever reads a TSC
 * that lies behind what another has read. A turn ends with the quantum, with HLT, or with PAUSE. When all wait, time
 * goes on to the next deadline.
 *
 * NYI: one host thread for each processor.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "src/machine/board.h"
#include "src/machine/boot/boot.h"

#define POLL_NS (UINT64_C(10) * 1000 * 1000) /* how often the outside world is looked at, machine's time */
#define DEAD_NS (UINT64_C(10) * DEVICE_NS_PER_S)
#define QUANTUM 20000u  /* instructions of a turn, with more than one processor */
#define SLICE   100000u /* instructions between two looks at the host's clock */
#define PATIENCE_NS                                                                                                    \
    (UINT64_C(50) * 1000 * 1000) /* of the host's time between two looks at the outside world, at most */
#define SOON_NS     1000u        /* a machine with an absurd timer comes forward all the same */
#define WAIT_MAX_NS (UINT64_C(10) * 1000 * 1000)

/* --- time ----------------------------------------------------------------------------------------------------------
 */

/* Ticks that nobody can write. */
static uint64_t ticks(struct cpu *c)
{
    return cpu_tsc(c) - c->msr.tsc_adjust;
}

static uint64_t to_ns(const struct pc *pc, uint64_t tsc)
{
    return device_muldiv(tsc, DEVICE_NS_PER_S, (uint32_t)pc->machine->tsc_hz);
}

static uint64_t to_ticks(const struct pc *pc, uint64_t ns)
{
    return ns >= DEVICE_NEVER / 8 ? UINT64_MAX : device_muldiv_up(ns, (uint32_t)pc->machine->tsc_hz, DEVICE_NS_PER_S);
}

uint64_t pc_now(struct pc *pc)
{
    return to_ns(pc, ticks(pc->machine->cpu[pc->current].cpu));
}

void pc_stop(struct pc *pc, enum pc_outcome why)
{
    if (pc->outcome == PC_RUNNING)
        pc->outcome = why;
    cpu_attend(pc->machine->cpu[pc->current].cpu, ATT_KICK);
}

/* --- life ----------------------------------------------------------------------------------------------------------
 */

static bool pc_idle(struct cpu *c, uint64_t until_tsc)
{
    struct vmenter_machine *m = c->machine;
    m->cpu[c->index].wakes = until_tsc == UINT64_MAX ? UINT64_MAX : until_tsc - c->msr.tsc_adjust;
    m->pc->wake = MIN(m->pc->wake, m->cpu[c->index].wakes);
    return false;
}

/* Whether a processor waits, and nothing has come for it since it was found waiting. */
static bool waits(const struct cpu *c)
{
    return c->activity != ACTIVITY_ACTIVE && __atomic_load_n(&c->attention, __ATOMIC_RELAXED) == ATT_IDLE &&
           !(c->activity == ACTIVITY_MWAIT && c->mon_line && memcmp(c->mon_line, c->mon_data, sizeof c->mon_data) != 0);
}

static bool pc_others_wait(struct cpu *c)
{
    const struct vmenter_machine *m = c->machine;
    for (unsigned i = 0; i < m->cpus; i++)
        if (i != c->index && !waits(m->cpu[i].cpu))
            return false;
    return true;
}

static void prepare_processors(struct pc *pc)
{
    for (unsigned i = 0; i < pc->machine->cpus; i++) {
        struct machine_cpu *mc = &pc->machine->cpu[i];
        struct cpu *c = mc->cpu;
        c->native_host = false;
        c->idle = pc_idle;
        c->takes_turns = pc->machine->cpus > 1;
        c->others_wait = pc_others_wait;
        c->intr_line = board_extint;
        c->intr_opaque = mc;
        c->msr.mtrr_def_type = 0x806; /* write-back everywhere */
        mc->lapic.host.eoi = board_eoi;
    }
    /* MultiProcessor Specification, "Virtual Wire Mode". */
    struct machine_cpu *bsp = &pc->machine->cpu[0];
    uint64_t now = ticks(bsp->cpu);
    lapic_write(&bsp->lapic, now, LAPIC_SVR, 0x1ff);
    lapic_write(&bsp->lapic, now, LAPIC_LINT0, APIC_EXTINT << 8);
    lapic_write(&bsp->lapic, now, LAPIC_LINT1, APIC_NMI << 8);
}

static bool build(struct pc *pc, const struct pc_config *config, char *error)
{
    uint64_t low = MIN(config->mem, PC_HOLE), high = config->mem - low;
    struct vmenter_config vc = {.size = sizeof vc,
                                .model = config->model,
                                .cpus = config->cpus,
                                .ram = low,
                                .clock = config->clock,
                                .flags = VMENTER_RESET};
    if (vmenter_create(&vc, &pc->machine, error) != VMENTER_OK)
        return false;
    struct vmenter_machine *m = pc->machine;
    m->pc = pc;
    if ((PC_HIGH + high) >> m->model.maxphyaddr && high) {
        snprintf(error, PC_ERROR_MAX, "%llu MiB of RAM: model %s has %u physical address bits: use a smaller --mem",
                 (unsigned long long)(config->mem >> 20), m->model.name, m->model.maxphyaddr);
        return false;
    }
    if ((high && !mem_add_ram(m->mem, HPA(PC_HIGH), high)) ||
        !mem_add_ram(m->mem, HPA(SMM_RAM + SMM_ALIAS), SMM_RAM_SIZE)) {
        snprintf(error, PC_ERROR_MAX, "the host has no memory for a machine with %llu MiB of RAM: use a smaller --mem",
                 (unsigned long long)(config->mem >> 20));
        return false;
    }
    prepare_processors(pc);
    if (!board_create(pc, config, low, high, error))
        return false;

    struct boot *b = calloc(1, sizeof *b);
    if (!b) {
        snprintf(error, PC_ERROR_MAX, "the host has no memory left");
        return false;
    }
    *b = (struct boot){.machine = m, .config = config, .low = low, .ranges = pc->map_ranges, .error = error};
    memcpy(b->map, pc->map, sizeof b->map);
    bool ok = boot_load(b);
    free(b);
    cpu_update_translation(m->cpu[0].cpu);
    return ok;
}

struct pc *pc_create(const struct pc_config *config, char error[PC_ERROR_MAX])
{
    struct pc *pc = calloc(1, sizeof *pc);
    if (!pc) {
        snprintf(error, PC_ERROR_MAX, "the host has no memory left");
        return NULL;
    }
    pc->platform = config->platform;
    if (!build(pc, config, error)) {
        pc_destroy(pc);
        return NULL;
    }
    return pc;
}

void pc_destroy(struct pc *pc)
{
    if (pc)
        vmenter_destroy(pc->machine);
    free(pc);
}

uint32_t pc_exit_code(const struct pc *pc)
{
    return pc->exit_code;
}

/* --- running -------------------------------------------------------------------------------------------------------
 */

static uint64_t host_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * DEVICE_NS_PER_S + (uint64_t)t.tv_nsec;
}

/* A guest whose instructions are slow must not keep the platform from its time-out: this look does nothing to the
 * machine. */
static void run_devices(struct pc *pc, uint64_t now)
{
    bool due = now >= pc->next_poll;
    board_run(pc, now);
    if (due || host_ns() >= pc->patience) {
        if (due) {
            pc->next_poll = now + POLL_NS;
            board_poll(pc, now);
        }
        pc->patience = host_ns() + PATIENCE_NS;
        enum pc_outcome o = pc->platform.poll ? pc->platform.poll(pc->platform.opaque) : PC_RUNNING;
        if (o != PC_RUNNING)
            pc_stop(pc, o);
    }
}

/* One processor's turn. True: it did something. */
static bool turn(struct pc *pc, unsigned index)
{
    struct cpu *c = pc->machine->cpu[index].cpu;
    uint64_t budget = SLICE;
    if (!c->real_clock && waits(c) && pc->tsc < pc->machine->cpu[index].wakes) {
        pc->wake = MIN(pc->wake, pc->machine->cpu[index].wakes);
        return false;
    }
    pc->current = index;
    if (!c->real_clock) {
        uint64_t behind = pc->tsc - ticks(c), end = to_ticks(pc, pc->slice_end);
        if (behind) {
            c->skipped += behind;
            cpu_update_deadline(c);
        }
        budget = end > pc->tsc ? MIN(end - pc->tsc, budget) : 1;
    }
    if (pc->machine->cpus > 1)
        budget = MIN(budget, (uint64_t)QUANTUM);
    if (c->activity == ACTIVITY_MWAIT && c->mon_line && memcmp(c->mon_line, c->mon_data, sizeof c->mon_data) != 0)
        c->activity = ACTIVITY_ACTIVE;
    c->turn_pause = UINT64_MAX;
    uint64_t before = c->icount;
    enum cpu_stop why = cpu_run(c, budget);
    if (!c->real_clock)
        pc->tsc = ticks(c);
    if (why == STOP_SHUTDOWN)
        pc_stop(pc, PC_CRASH);
    else if (why == STOP_RESET)
        pc_stop(pc, PC_RESET);
    return c->icount != before || why != STOP_IDLE;
}

/* Whether all processors wait with interrupts disabled. */
static bool all_deaf(const struct pc *pc)
{
    for (unsigned i = 0; i < pc->machine->cpus; i++) {
        const struct cpu *c = pc->machine->cpu[i].cpu;
        if (c->activity != ACTIVITY_WAIT_SIPI && (c->guest || (cpu_rflags(c) & FLAG_IF)))
            return false;
    }
    return true;
}

static uint64_t host_cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * DEVICE_NS_PER_S + (uint64_t)t.tv_nsec;
}

enum pc_outcome pc_run(struct pc *pc)
{
    uint64_t from = host_cpu_ns();
    bool real = pc->machine->clock == VMENTER_CLOCK_REAL;
    if (!real)
        pc->tsc = ticks(pc->machine->cpu[0].cpu);
    while (pc->outcome == PC_RUNNING) {
        uint64_t now = real ? pc_now(pc) : to_ns(pc, pc->tsc);
        run_devices(pc, now);
        pc->slice_end = MIN(board_deadline(pc), pc->next_poll);
        pc->slice_end = MAX(pc->slice_end, now + SOON_NS);
        pc->wake = to_ticks(pc, pc->slice_end);
        bool worked = false;
        for (unsigned i = 0; i < pc->machine->cpus && pc->outcome == PC_RUNNING; i++)
            worked |= turn(pc, i);
        if (worked) {
            pc->working = now;
        } else if (now - MIN(pc->working, now) > DEAD_NS && all_deaf(pc)) {
            pc_stop(pc, PC_HALTED);
        } else if (!real) {
            pc->tsc = MAX(pc->tsc, pc->wake);
        } else if (pc->platform.wait) {
            uint64_t wake = to_ns(pc, pc->wake);
            now = pc_now(pc);
            if (wake > now)
                pc->platform.wait(pc->platform.opaque, MIN(wake - now, WAIT_MAX_NS));
        }
    }
    pc->host_ns += host_cpu_ns() - from;
    return pc->outcome;
}

/* --- words ---------------------------------------------------------------------------------------------------------
 */

void pc_dump(struct pc *pc, void (*line)(void *opaque, const char *text), void *opaque)
{
    static const char *const why[] = {
        [PC_RUNNING] = "running",  [PC_POWER_OFF] = "power-off",
        [PC_RESET] = "reset",      [PC_EXIT] = "debug exit",
        [PC_CRASH] = "shutdown",   [PC_HALTED] = "halted with interrupts disabled: nothing can wake it",
        [PC_TIMEOUT] = "time-out", [PC_QUIT] = "quit"};
    const struct cpu *c = pc->machine->cpu[pc->current].cpu;
    char words[80] = "", t[200];
    if (pc->outcome == PC_CRASH && c->noted) {
        const struct cpu_note *n = &c->note[(c->noted - 1) % CPU_NOTES];
        if (n->what == WATCH_EXCEPTION && (n->a & WATCH_SHUTDOWN) && n->b)
            snprintf(words, sizeof words, ": VMX abort, indicator %llu", (unsigned long long)n->b);
        else if (n->what == WATCH_EXCEPTION && (n->a & WATCH_SHUTDOWN))
            snprintf(words, sizeof words, ": triple fault");
    }
    snprintf(t, sizeof t, "%s%s: processor %u", why[pc->outcome], words, pc->current);
    line(opaque, t);
    vmenter_dump(pc->machine, line, opaque);
}

/* One line for each device that was used, whatever number of ranges it has. */
static void print_devices(const struct pc *pc, void (*line)(void *opaque, const char *text), void *opaque)
{
    struct {
        const char *name;
        uint64_t reads, writes;
    } sum[BOARD_RANGES + BOARD_WINDOWS];
    unsigned count = 0;
    char t[200];
    for (unsigned i = 0; i < BOARD_RANGES + BOARD_WINDOWS; i++) {
        bool port = i < BOARD_RANGES;
        const uint64_t *uses = port ? pc->range_uses[i] : pc->window_uses[i - BOARD_RANGES];
        const struct device_ops *ops = port ? pc->range[i].ops : pc->window[i - BOARD_RANGES].ops;
        const char *name = ops && ops->name ? ops->name : "?";
        unsigned n = 0;
        if (!uses[0] && !uses[1])
            continue;
        while (n < count && strcmp(sum[n].name, name) != 0)
            n++;
        if (n == count) {
            count++;
            sum[n].name = name;
            sum[n].reads = sum[n].writes = 0;
        }
        sum[n].reads += uses[0];
        sum[n].writes += uses[1];
    }
    if (!count)
        return;
    snprintf(t, sizeof t, "%-24s %14s %14s", "device", "reads", "writes");
    line(opaque, t);
    for (unsigned n = 0; n < count; n++) {
        snprintf(t, sizeof t, "  %-22s %14llu %14llu", sum[n].name, (unsigned long long)sum[n].reads,
                 (unsigned long long)sum[n].writes);
        line(opaque, t);
    }
}

void pc_print_stats(struct pc *pc, void (*line)(void *opaque, const char *text), void *opaque)
{
    char t[200];
    uint64_t instructions = 0;
    vmenter_print_stats(pc->machine, line, opaque);
    print_devices(pc, line, opaque);
    for (unsigned i = 0; i < pc->machine->cpus; i++)
        instructions += pc->machine->cpu[i].cpu->icount;
    pc->current = 0;
    double host = (double)pc->host_ns * 1e-9;
    snprintf(t, sizeof t, "time: %.6f s on the machine's clock, %.3f s of the host's processor, %.1f MIPS",
             (double)pc_now(pc) * 1e-9, host, host > 0 ? (double)instructions * 1e-6 / host : 0.0);
    line(opaque, t);
}

void pc_trace(struct pc *pc, unsigned what, vmenter_trace_fn line, void *opaque)
{
    vmenter_trace(pc->machine, what, line, opaque);
}
