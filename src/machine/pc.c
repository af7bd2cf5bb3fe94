/* SPDX-License-Identifier: MIT
 *
 * pc.c: the software PC: who is at which port and address, which line goes where, whose turn it is, whose time has
 * come.
 *
 * Interrupt lines: ISA line n goes to the 8259s and to I/O APIC pin n, line 0 to pin 2; the 8259s' INTR to LINT0 of
 * every local APIC. Firmware's work is done at the start: the local APIC of the first processor in virtual wire mode,
 * MTRRs, CMOS, ACPI tables, the BIOS data area.
 *
 * Time. There is one clock for the whole machine. On the virtual clock it counts the instructions of all processors
 * together: a processor's counter is brought up to it at the start of its turn, so that no processor ever reads a TSC
 * that lies behind what another has read. A turn ends with the quantum, with HLT, or with PAUSE. When all wait, time
 * goes on to the next deadline.
 *
 * DEVIATION: the VGA's addresses are plain memory, address line 20 is always on.
 * NYI: PCI (every function is absent), HPET, SMM, the MP table, a second UART, one host thread for each processor.
 */
#include <stdio.h>
#include <stdlib.h>

#include "src/cpu/sys.h"
#include "src/dev/acpi_pm.h"
#include "src/dev/acpi_tables.h"
#include "src/dev/fw_cfg.h"
#include "src/dev/i8042.h"
#include "src/dev/ioapic.h"
#include "src/dev/misc.h"
#include "src/dev/pic.h"
#include "src/dev/pit.h"
#include "src/dev/rtc.h"
#include "src/dev/uart.h"
#include "src/machine/boot/boot.h"
#include "src/machine/machine.h"
#include "src/machine/pc.h"

#define SCI_IRQ  9
#define PM_PORT  0x600
#define RESET_IO 0xcf9
#define PORTS    24

#define POLL_NS      (UINT64_C(10) * 1000 * 1000) /* how often the outside world is looked at, machine's time */
#define DEAD_NS      (UINT64_C(10) * DEVICE_NS_PER_S)
#define QUANTUM      20000u  /* instructions of a turn, with more than one processor */
#define SLICE        100000u /* instructions between two looks at the real clock */
#define SOON_NS      1000u   /* a machine with an absurd timer comes forward all the same */
#define WAIT_MAX_NS  (UINT64_C(10) * 1000 * 1000)
#define FW_CFG_ITEMS 6

struct pc {
    struct vmenter_machine *machine;
    struct pc_platform platform;
    enum pc_outcome outcome;
    uint32_t exit_code;
    bool input_done;
    unsigned current;            /* the processor whose turn it is */
    uint64_t tsc;                /* the machine's clock, ticks; virtual clock only */
    uint64_t wake;               /* the earliest deadline that an idle processor named, ticks */
    uint64_t slice_end;          /* ns: devices are looked at then */
    uint64_t next_poll, working; /* ns; the latter: when a processor last did something */
    struct pic pic;
    struct pit pit;
    struct rtc rtc;
    struct uart uart;
    struct i8042 i8042;
    struct ioapic ioapic;
    struct acpi_pm pm;
    struct pci_none pci;
    struct latch_port post;
    struct debug_port e9;
    struct debug_exit debug_exit;
    struct fw_cfg fw_cfg;
    struct fw_cfg_item items[FW_CFG_ITEMS];
    uint64_t fw_ram;
    uint32_t fw_id;
    uint16_t fw_cpus;
    struct memory_range map[MEMORY_MAP_MAX];
    struct device_range ports[PORTS];
    unsigned nports;
};

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

static uint64_t pc_now(struct pc *pc)
{
    return to_ns(pc, ticks(pc->machine->cpu[pc->current].cpu));
}

/* --- lines ---------------------------------------------------------------------------------------------------------
 */

static void stop(struct pc *pc, enum pc_outcome why)
{
    if (pc->outcome == PC_RUNNING)
        pc->outcome = why;
    cpu_attend(pc->machine->cpu[pc->current].cpu, ATT_KICK);
}

static void isa_line(void *opaque, unsigned irq, bool level)
{
    struct pc *pc = opaque;
    pic_set_line(&pc->pic, irq, level);
    ioapic_set_line(&pc->ioapic, irq == 0 ? 2 : irq, level);
}

static void intr_line(void *opaque, unsigned line, bool level)
{
    struct pc *pc = opaque;
    for (unsigned i = 0; i < pc->machine->cpus; i++) {
        lapic_lint(&pc->machine->cpu[i].lapic, 0, level);
        cpu_attend(pc->machine->cpu[i].cpu, ATT_INTR);
    }
}

/* The 8259s' vector, for a processor whose local APIC lets INTR through. */
static bool extint(void *opaque, int *vector)
{
    struct machine_cpu *mc = opaque;
    struct pc *pc = mc->machine->pc;
    if (!lapic_extint(&mc->lapic))
        return false;
    if (vector) {
        lapic_extint_ack(&mc->lapic);
        *vector = pic_ack(&pc->pic);
    }
    return true;
}

static bool ioapic_send(void *opaque, const struct apic_msg *msg)
{
    struct pc *pc = opaque;
    struct lapic *all[MACHINE_CPUS_MAX];
    for (unsigned i = 0; i < pc->machine->cpus; i++)
        all[i] = &pc->machine->cpu[i].lapic;
    return apic_route(all, pc->machine->cpus, NULL, msg);
}

static void lapic_eoi(void *opaque, uint8_t vector)
{
    struct machine_cpu *mc = opaque;
    struct pc *pc = mc->machine->pc;
    ioapic_eoi(&pc->ioapic, vector);
}

static void request(void *opaque, enum device_request what, uint32_t value)
{
    struct pc *pc = opaque;
    switch (what) {
    case DEVICE_POWER_OFF: stop(pc, PC_POWER_OFF); break;
    case DEVICE_RESET: stop(pc, PC_RESET); break;
    case DEVICE_EXIT:
        if (pc->outcome == PC_RUNNING)
            pc->exit_code = value;
        stop(pc, PC_EXIT);
        break;
    }
}

static void serial_put(void *opaque, uint8_t byte)
{
    struct pc *pc = opaque;
    if (pc->platform.serial_out)
        pc->platform.serial_out(pc->platform.opaque, byte);
}

static void poll_input(struct pc *pc, uint64_t now)
{
    const struct pc_platform *p = &pc->platform;
    /* Nobody listens before a driver has opened the port: what came earlier would be lost with its FIFO reset. */
    while (!pc->input_done && p->serial_in && uart_listens(&pc->uart) && uart_can_receive(&pc->uart)) {
        int c = p->serial_in(p->opaque);
        if (c == -1)
            break;
        if (c < 0)
            pc->input_done = true;
        else
            uart_receive(&pc->uart, now, (uint8_t)c);
    }
}

/* --- ports and windows ---------------------------------------------------------------------------------------------
 */

static uint64_t device_deadline(const struct pc *pc)
{
    uint64_t ns = MIN(pit_deadline(&pc->pit), rtc_deadline(&pc->rtc));
    ns = MIN(ns, uart_deadline(&pc->uart));
    return MIN(ns, acpi_pm_deadline(&pc->pm));
}

static const struct device_range *find_port(const struct pc *pc, uint16_t port)
{
    for (unsigned i = 0; i < pc->nports; i++)
        if (port >= pc->ports[i].base && port - pc->ports[i].base < pc->ports[i].len)
            return &pc->ports[i];
    return NULL;
}

static void after_access(struct pc *pc)
{
    if (device_deadline(pc) < pc->slice_end)
        cpu_attend(pc->machine->cpu[pc->current].cpu, ATT_KICK);
}

static uint32_t port_in(void *opaque, uint16_t port, unsigned size)
{
    struct pc *pc = opaque;
    const struct device_range *r = find_port(pc, port);
    if (!r)
        return (uint32_t)device_ones(size);
    uint32_t v = (uint32_t)device_read(r->ops, r->dev, pc_now(pc), port - r->base + r->offset, size);
    after_access(pc);
    return v;
}

static void port_out(void *opaque, uint16_t port, unsigned size, uint32_t value)
{
    struct pc *pc = opaque;
    const struct device_range *r = find_port(pc, port);
    if (!r)
        return;
    device_write(r->ops, r->dev, pc_now(pc), port - r->base + r->offset, size, value);
    after_access(pc);
}

static uint64_t ioapic_mmio_read(void *opaque, hpa_t pa, unsigned size)
{
    struct pc *pc = opaque;
    return device_read(&ioapic_ops, &pc->ioapic, pc_now(pc), pa.v & PAGE_OFFSET, size);
}

static void ioapic_mmio_write(void *opaque, hpa_t pa, unsigned size, uint64_t value)
{
    struct pc *pc = opaque;
    device_write(&ioapic_ops, &pc->ioapic, pc_now(pc), pa.v & PAGE_OFFSET, size, value);
}

static void add_ports(struct pc *pc, uint16_t base, unsigned len, uint64_t offset, const struct device_ops *ops,
                      void *dev)
{
    pc->ports[pc->nports++] = (struct device_range){.base = base, .len = len, .offset = offset, .ops = ops, .dev = dev};
}

static void wire_devices(struct pc *pc, const struct pc_config *config)
{
    struct device_control control = {.request = request, .opaque = pc};
    pc->pic.intr = (struct device_line){.set = intr_line, .opaque = pc};
    pc->pit.irq = (struct device_line){.set = isa_line, .opaque = pc, .line = 0};
    pc->uart.irq = (struct device_line){.set = isa_line, .opaque = pc, .line = 4};
    pc->uart.tx = pc->e9.out = (struct device_out){.put = serial_put, .opaque = pc};
    pc->rtc.irq = (struct device_line){.set = isa_line, .opaque = pc, .line = 8};
    pc->pm.sci = (struct device_line){.set = isa_line, .opaque = pc, .line = SCI_IRQ};
    pc->pm.control = pc->i8042.control = pc->debug_exit.control = control;
    pc->ioapic.send = ioapic_send;
    pc->ioapic.opaque = pc;
    ioapic_init(&pc->ioapic, 0);
    pic_init(&pc->pic);
    pit_init(&pc->pit);
    rtc_init(&pc->rtc, 0, config->unix_time);
    uart_init(&pc->uart);
    i8042_init(&pc->i8042);
    acpi_pm_init(&pc->pm);

    add_ports(pc, 0x3f8, 8, 0, &uart_ops, &pc->uart);
    add_ports(pc, 0x20, 2, 0, &pic_ops, &pc->pic);
    add_ports(pc, 0xa0, 2, 2, &pic_ops, &pc->pic);
    add_ports(pc, 0x4d0, 2, 4, &pic_ops, &pc->pic);
    add_ports(pc, 0x40, 4, 0, &pit_ops, &pc->pit);
    add_ports(pc, 0x61, 1, 4, &pit_ops, &pc->pit);
    add_ports(pc, 0x70, 2, 0, &rtc_ops, &pc->rtc);
    add_ports(pc, 0x60, 1, 0, &i8042_ops, &pc->i8042);
    add_ports(pc, 0x64, 1, 1, &i8042_ops, &pc->i8042);
    add_ports(pc, 0x92, 1, 2, &i8042_ops, &pc->i8042);
    add_ports(pc, PM_PORT, 12, 0, &acpi_pm_ops, &pc->pm);
    add_ports(pc, RESET_IO, 1, 12, &acpi_pm_ops, &pc->pm);
    add_ports(pc, 0xcf8, 8, 0, &pci_none_ops, &pc->pci);
    add_ports(pc, 0x80, 1, 0, &latch_port_ops, &pc->post);
    add_ports(pc, 0xe9, 1, 0, &debug_port_ops, &pc->e9);
    add_ports(pc, 0xf4, 4, 0, &debug_exit_ops, &pc->debug_exit);
    add_ports(pc, 0x510, 2, 0, &fw_cfg_ops, &pc->fw_cfg);
}

/* --- what firmware leaves ------------------------------------------------------------------------------------------
 */

static void fill_fw_cfg(struct pc *pc, uint64_t ram, unsigned ranges)
{
    pc->fw_id = 1; /* the port interface alone */
    pc->fw_ram = ram;
    pc->fw_cpus = (uint16_t)pc->machine->cpus;
    const struct fw_cfg_item items[FW_CFG_ITEMS] = {
        {FW_CFG_SIGNATURE, NULL, "QEMU", 4},
        {FW_CFG_ID, NULL, &pc->fw_id, sizeof pc->fw_id},
        {FW_CFG_RAM_SIZE, NULL, &pc->fw_ram, sizeof pc->fw_ram},
        {FW_CFG_NB_CPUS, NULL, &pc->fw_cpus, sizeof pc->fw_cpus},
        {FW_CFG_MAX_CPUS, NULL, &pc->fw_cpus, sizeof pc->fw_cpus},
        {FW_CFG_FILE_FIRST, "etc/e820", pc->map, ranges * (uint32_t)sizeof *pc->map},
    };
    memcpy(pc->items, items, sizeof items);
    pc->fw_cfg.items = pc->items;
    pc->fw_cfg.count = FW_CFG_ITEMS;
}

static void fill_cmos(struct pc *pc, uint64_t low, uint64_t high)
{
    uint64_t ext = MIN((low - PC_1M) >> 10, UINT64_C(0xffff));
    uint64_t ext16 = low > (16u << 20) ? (low - (16u << 20)) >> 16 : 0;
    struct rtc *r = &pc->rtc;
    rtc_set_cmos(r, 0x15, 640 & 0xff);
    rtc_set_cmos(r, 0x16, 640 >> 8);
    rtc_set_cmos(r, 0x17, (uint8_t)ext);
    rtc_set_cmos(r, 0x18, (uint8_t)(ext >> 8));
    rtc_set_cmos(r, 0x30, (uint8_t)ext);
    rtc_set_cmos(r, 0x31, (uint8_t)(ext >> 8));
    rtc_set_cmos(r, 0x34, (uint8_t)ext16);
    rtc_set_cmos(r, 0x35, (uint8_t)(ext16 >> 8));
    rtc_set_cmos(r, 0x5b, (uint8_t)(high >> 16));
    rtc_set_cmos(r, 0x5c, (uint8_t)(high >> 24));
    rtc_set_cmos(r, 0x5d, (uint8_t)(high >> 32));
    rtc_set_cmos(r, 0x5f, (uint8_t)(pc->machine->cpus - 1));
}

static bool fill_bios(struct pc *pc)
{
    uint8_t *bda = mem_host(pc->machine->mem, HPA(0x400), 256, true);
    store16(bda + 0x00, 0x3f8);
    store16(bda + 0x0e, PC_EBDA >> 4);
    store16(bda + 0x13, PC_EBDA >> 10);
    uint8_t *ebda = mem_host(pc->machine->mem, HPA(PC_EBDA), PC_VGA - PC_EBDA, true);
    ebda[0] = (PC_VGA - PC_EBDA) >> 10;
    const struct acpi_config acpi = {.cpus = pc->machine->cpus,
                                     .lapic_base = PC_LAPIC,
                                     .ioapic_base = PC_IOAPIC,
                                     .ioapic_id = 0,
                                     .pm_base = PM_PORT,
                                     .reset_port = RESET_IO,
                                     .sci_irq = SCI_IRQ,
                                     .century = 0x32,
                                     .uart_port = 0x3f8,
                                     .uart_irq = 4};
    uint8_t *bios = mem_host(pc->machine->mem, HPA(PC_BIOS), PC_1M - PC_BIOS, true);
    return acpi_build_tables(bios, PC_1M - PC_BIOS - 4096, PC_BIOS, &acpi) != 0;
}

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
        c->intr_line = extint;
        c->intr_opaque = mc;
        c->msr.mtrr_def_type = 0x806; /* write-back everywhere */
        mc->lapic.host.eoi = lapic_eoi;
    }
    /* MultiProcessor Specification, "Virtual Wire Mode". */
    struct machine_cpu *bsp = &pc->machine->cpu[0];
    uint64_t now = ticks(bsp->cpu);
    lapic_write(&bsp->lapic, now, LAPIC_SVR, 0x1ff);
    lapic_write(&bsp->lapic, now, LAPIC_LINT0, APIC_EXTINT << 8);
    lapic_write(&bsp->lapic, now, LAPIC_LINT1, APIC_NMI << 8);
}

/* --- life ----------------------------------------------------------------------------------------------------------
 */

static bool build(struct pc *pc, const struct pc_config *config, char *error)
{
    static const struct vmenter_port_ops port_ops = {.in = port_in, .out = port_out};
    static const struct mem_mmio_ops mmio_ops = {.read = ioapic_mmio_read, .write = ioapic_mmio_write};
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
        !mem_add_mmio(m->mem, HPA(PC_IOAPIC), PAGE_SIZE, &mmio_ops, pc)) {
        snprintf(error, PC_ERROR_MAX, "the host has no memory for a machine with %llu MiB of RAM: use a smaller --mem",
                 (unsigned long long)(config->mem >> 20));
        return false;
    }
    vmenter_set_ports(m, &port_ops, pc);
    wire_devices(pc, config);
    prepare_processors(pc);
    unsigned ranges = memory_map(pc->map, low, high);
    fill_fw_cfg(pc, config->mem, ranges);
    fill_cmos(pc, low, high);
    if (!fill_bios(pc)) {
        snprintf(error, PC_ERROR_MAX, "the ACPI tables do not fit below 1 MiB: use fewer --cpus");
        return false;
    }

    struct boot *b = calloc(1, sizeof *b);
    if (!b) {
        snprintf(error, PC_ERROR_MAX, "the host has no memory left");
        return false;
    }
    *b = (struct boot){.machine = m, .config = config, .low = low, .ranges = ranges, .error = error};
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
    if (now >= pit_deadline(&pc->pit))
        pit_run(&pc->pit, now);
    if (now >= rtc_deadline(&pc->rtc))
        rtc_run(&pc->rtc, now);
    if (now >= uart_deadline(&pc->uart))
        uart_run(&pc->uart, now);
    if (now >= acpi_pm_deadline(&pc->pm))
        acpi_pm_run(&pc->pm, now);
    if (now >= pc->next_poll) {
        pc->next_poll = now + POLL_NS;
        poll_input(pc, now);
        enum pc_outcome o = pc->platform.poll ? pc->platform.poll(pc->platform.opaque) : PC_RUNNING;
        if (o != PC_RUNNING)
            stop(pc, o);
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
        stop(pc, PC_CRASH);
    else if (why == STOP_RESET)
        stop(pc, PC_RESET);
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
        pc->slice_end = MIN(device_deadline(pc), pc->next_poll);
        pc->slice_end = MAX(pc->slice_end, now + SOON_NS);
        pc->wake = to_ticks(pc, pc->slice_end);
        bool worked = false;
        for (unsigned i = 0; i < pc->machine->cpus && pc->outcome == PC_RUNNING; i++)
            worked |= turn(pc, i);
        if (worked) {
            pc->working = now;
        } else if (now - MIN(pc->working, now) > DEAD_NS && all_deaf(pc)) {
            stop(pc, PC_HALTED);
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
