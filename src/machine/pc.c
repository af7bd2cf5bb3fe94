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
 * NYI: SMM, one host thread for each processor.
 */
#include <stdio.h>
#include <stdlib.h>

#include "src/machine/board.h"
#include "src/machine/boot/boot.h"

#define POLL_NS     (UINT64_C(10) * 1000 * 1000) /* how often the outside world is looked at, machine's time */
#define DEAD_NS     (UINT64_C(10) * DEVICE_NS_PER_S)
#define QUANTUM     20000u  /* instructions of a turn, with more than one processor */
#define SLICE       100000u /* instructions between two looks at the real clock */
#define SOON_NS     1000u   /* a machine with an absurd timer comes forward all the same */
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
    struct pc *pc = ((struct vmenter_machine *)c->machine)->pc;
    if (until_tsc != UINT64_MAX)
        pc->wake = MIN(pc->wake, until_tsc - c->msr.tsc_adjust);
    return false;
}

static void prepare_processors(struct pc *pc)
{
    for (unsigned i = 0; i < pc->machine->cpus; i++) {
        struct machine_cpu *mc = &pc->machine->cpu[i];
        struct cpu *c = mc->cpu;
        c->native_host = false;
        c->idle = pc_idle;
        c->takes_turns = pc->machine->cpus > 1;
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
    if (high && !mem_add_ram(m->mem, HPA(PC_HIGH), high)) {
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

static void run_devices(struct pc *pc, uint64_t now)
{
    board_run(pc, now);
    if (now >= pc->next_poll) {
        pc->next_poll = now + POLL_NS;
        board_poll(pc, now);
        enum pc_outcome o = pc->platform.poll ? pc->platform.poll(pc->platform.opaque) : PC_RUNNING;
        if (o != PC_RUNNING)
            pc_stop(pc, o);
    }
}

/* One processor's turn. True: it did something. */
static bool turn(struct pc *pc, unsigned index)
{
    struct cpu *c = pc->machine->cpu[index].cpu;
    pc->current = index;
    uint64_t budget = SLICE;
    if (!c->real_clock) {
        uint64_t behind = pc->tsc - ticks(c), end = to_ticks(pc, pc->slice_end);
        if (behind) {
            c->skipped += behind;
            cpu_update_deadline(c);
        }
        budget = end > pc->tsc ? end - pc->tsc : 1;
    }
    if (pc->machine->cpus > 1)
        budget = MIN(budget, (uint64_t)QUANTUM);
    if (c->activity == ACTIVITY_MWAIT && c->mon_line && memcmp(c->mon_line, c->mon_data, sizeof c->mon_data) != 0)
        c->activity = ACTIVITY_ACTIVE;
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

enum pc_outcome pc_run(struct pc *pc)
{
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
    return pc->outcome;
}

/* --- words ---------------------------------------------------------------------------------------------------------
 */

typedef void line_fn(void *opaque, const char *text);

static void dump_code(struct pc *pc, struct cpu *c, line_fn *line, void *opaque)
{
    struct mmu_regs regs;
    struct mmu_result r;
    struct mmu_fault f;
    uint8_t code[16 * 4];
    unsigned len = 0;
    uint64_t la = c->mode == MODE_64 ? c->rip : (uint32_t)(c->rip + c->seg[SEG_CS].base);
    cpu_mmu_regs(c, &regs);
    while (len < sizeof code && mmu_translate(c->mem, &regs, c->second.kind == MMU_SECOND_NONE ? NULL : &c->second,
                                              LA(la + len), MMU_EXEC, &r, &f) == MMU_OK) {
        mem_read(c->mem, r.hpa, &code[len++], 1);
    }
    if (!len) {
        line(opaque, "  (the code at RIP is not mapped)");
        return;
    }
    char text[1024];
    vmenter_disassemble(code, len, c->rip,
                        c->mode == MODE_64   ? 64
                        : c->mode == MODE_32 ? 32
                                             : 16,
                        4, text, sizeof text);
    for (char *at = text, *end; (end = strchr(at, '\n')); at = end + 1) {
        char out[1100];
        *end = 0;
        snprintf(out, sizeof out, "  %s", at);
        line(opaque, out);
    }
}

static void dump_cpu(struct pc *pc, struct cpu *c, line_fn *line, void *opaque)
{
    static const char *const gpr[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                        "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    static const char *const seg[SEG_COUNT] = {"es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"};
    static const char *const activity[] = {"active", "halted", "shutdown", "waits for SIPI", "MWAIT"};
    char t[200];
#define LINE(...) (snprintf(t, sizeof t, __VA_ARGS__), line(opaque, t))
#define X(v)      ((unsigned long long)(v))
    LINE("processor %u: %s%s, %llu instructions retired", c->index,
         c->activity < ARRAY_LEN(activity) ? activity[c->activity] : "?", c->guest ? ", in guest mode" : "",
         X(c->icount));
    LINE("  rip %016llx  rflags %08llx  cpl %u", X(c->rip), X(cpu_rflags(c)), c->cpl);
    for (unsigned i = 0; i < 16; i += 4)
        LINE("  %-3s %016llx  %-3s %016llx  %-3s %016llx  %-3s %016llx", gpr[i], X(c->gpr[i]), gpr[i + 1],
             X(c->gpr[i + 1]), gpr[i + 2], X(c->gpr[i + 2]), gpr[i + 3], X(c->gpr[i + 3]));
    for (unsigned i = 0; i < SEG_COUNT; i += 2)
        LINE("  %-4s %04x base %016llx limit %08x ar %05x  %-4s %04x base %016llx limit %08x ar %05x", seg[i],
             c->seg[i].sel, X(c->seg[i].base), c->seg[i].limit, c->seg[i].ar, seg[i + 1], c->seg[i + 1].sel,
             X(c->seg[i + 1].base), c->seg[i + 1].limit, c->seg[i + 1].ar);
    LINE("  gdtr base %016llx limit %04x  idtr base %016llx limit %04x", X(c->gdtr.base), c->gdtr.limit,
         X(c->idtr.base), c->idtr.limit);
    LINE("  cr0 %08llx cr2 %016llx cr3 %016llx cr4 %08llx efer %llx", X(c->cr0), X(c->cr2), X(c->cr3), X(c->cr4),
         X(c->efer));
    dump_code(pc, c, line, opaque);
}

void pc_dump(struct pc *pc, line_fn *line, void *opaque)
{
    static const char *const why[] = {[PC_RUNNING] = "running",
                                      [PC_POWER_OFF] = "power-off",
                                      [PC_RESET] = "reset",
                                      [PC_EXIT] = "debug exit",
                                      [PC_CRASH] = "shutdown (triple fault or VMX abort)",
                                      [PC_HALTED] = "halted with interrupts disabled: nothing can wake it",
                                      [PC_TIMEOUT] = "time-out",
                                      [PC_QUIT] = "quit"};
    char t[200];
    snprintf(t, sizeof t, "%s: processor %u", why[pc->outcome], pc->current);
    line(opaque, t);
    /* NYI: the last events, the current VMCS or VMCB. */
    for (unsigned i = 0; i < pc->machine->cpus; i++)
        dump_cpu(pc, pc->machine->cpu[i].cpu, line, opaque);
}

void pc_print_stats(struct pc *pc, line_fn *line, void *opaque)
{
    char t[200];
    for (unsigned i = 0; i < pc->machine->cpus; i++) {
        const struct cpu *c = pc->machine->cpu[i].cpu;
        LINE("processor %u: %llu instructions, %llu interrupts, %llu VM entries, %llu VM exits", i, X(c->icount),
             X(c->stats.interrupts), X(c->stats.entries), X(c->stats.exits));
    }
    pc->current = 0;
    LINE("time: %llu.%06llu s on the machine's clock", X(pc_now(pc) / DEVICE_NS_PER_S),
         X(pc_now(pc) % DEVICE_NS_PER_S / 1000));
#undef LINE
#undef X
}
