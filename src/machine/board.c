/* SPDX-License-Identifier: MIT
 *
 * board.c: the software PC's devices: who is at which port and address, which line goes where; and what firmware leaves
 * in memory and registers.
 *
 * Interrupt lines: ISA line n goes to the 8259s and to I/O APIC pin n, line 0 to pin 2; the 8259s' INTR to LINT0 of
 * every local APIC. A port access that is wider than the device, or reaches over its end, goes in halves, as the bus
 * splits it.
 *
 * DEVIATION: the VGA's addresses are plain memory.
 */
#include <stdio.h>

#include "src/dev/acpi_tables.h"
#include "src/machine/board.h"
#include "src/vmx/vmx.h"

#define SCI_IRQ  9
#define PM_PORT  0x600
#define RESET_IO 0xcf9
#define PIRQ_AB  10
#define PIRQ_CD  11

/* --- lines ---------------------------------------------------------------------------------------------------------
 */

static void update_isa(struct pc *pc, unsigned irq)
{
    uint16_t levels = (pc->isa_levels & ~pc->hpet_takes) | (pc->hpet_levels & pc->hpet_takes) | pc->pirq_levels;
    bool level = levels >> irq & 1;
    pic_set_line(&pc->pic, irq, level);
    ioapic_set_line(&pc->ioapic, irq == 0 ? 2 : irq, level);
}

static void isa_line(void *opaque, unsigned irq, bool level)
{
    struct pc *pc = opaque;
    pc->isa_levels = (uint16_t)((pc->isa_levels & ~(1u << irq)) | (unsigned)level << irq);
    update_isa(pc, irq);
}

static void pirq_line(void *opaque, unsigned irq, bool level)
{
    struct pc *pc = opaque;
    pc->pirq_levels = (uint16_t)((pc->pirq_levels & ~(1u << irq)) | (unsigned)level << irq);
    update_isa(pc, irq);
}

static void hpet_isa(void *opaque, unsigned irq, bool level)
{
    struct pc *pc = opaque;
    pc->hpet_levels = (uint16_t)((pc->hpet_levels & ~(1u << irq)) | (unsigned)level << irq);
    update_isa(pc, irq);
}

static void hpet_legacy(void *opaque, unsigned line, bool on)
{
    struct pc *pc = opaque;
    pc->hpet_takes = on ? 1u << 0 | 1u << 8 : 0;
    update_isa(pc, 0);
    update_isa(pc, 8);
}

static void hpet_pin(void *opaque, unsigned pin, bool level)
{
    struct pc *pc = opaque;
    ioapic_set_line(&pc->ioapic, pin, level);
}

static void testdev_line(void *opaque, unsigned line, bool level)
{
    struct pc *pc = opaque;
    if (line < 16)
        isa_line(pc, line, level);
    else
        ioapic_set_line(&pc->ioapic, line, level);
}

static void intx(void *opaque, unsigned line, bool level)
{
    struct pc *pc = opaque;
    isa_bridge_pirq(&pc->isa_bridge, line, level);
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
bool board_extint(void *opaque, int *vector)
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

void board_eoi(void *opaque, uint8_t vector)
{
    struct machine_cpu *mc = opaque;
    struct pc *pc = mc->machine->pc;
    ioapic_eoi(&pc->ioapic, vector);
}

static void memory_changed(struct pc *pc)
{
    for (unsigned i = 0; i < pc->machine->cpus; i++)
        tlb_flush_all(&pc->machine->cpu[i].cpu->tlbs);
    mem_code_bump(pc->machine->mem);
    cpu_attend(pc->machine->cpu[pc->current].cpu, ATT_KICK);
}

/* SDM 3C, "Restrictions on VMX Operation": A20M# is blocked there. DEVIATION: it stays so until the line's next change;
 * and the line goes to memory, not to each processor. */
static void a20_line(void *opaque, unsigned line, bool on)
{
    struct pc *pc = opaque;
    for (unsigned i = 0; i < pc->machine->cpus; i++)
        on |= vmx_on(pc->machine->cpu[i].cpu);
    if (mem_a20(pc->machine->mem) == on)
        return;
    mem_set_a20(pc->machine->mem, on);
    memory_changed(pc);
}

/* 82441FX, "PAM: Programmable Attribute Map Registers": nibbles, bit 0 reads, bit 1 writes go to RAM; the first is of
 * f0000h to fffffh, the others of 16 KiB each from c0000h on. */
static void pam_changed(void *opaque, const uint8_t reg[7])
{
    struct pc *pc = opaque;
    uint16_t read = 0, write = 0;
    for (unsigned part = 0; part < 16; part++) {
        unsigned n = part < 12 ? part + 2 : 1, nibble = reg[n / 2] >> n % 2 * 4;
        read |= (uint16_t)((nibble & 1) << part);
        write |= (uint16_t)((nibble >> 1 & 1) << part);
    }
    mem_set_shadow(pc->machine->mem, read, write);
    memory_changed(pc);
}

static void request(void *opaque, enum device_request what, uint32_t value)
{
    struct pc *pc = opaque;
    switch (what) {
    case DEVICE_POWER_OFF: pc_stop(pc, PC_POWER_OFF); break;
    case DEVICE_RESET: pc_stop(pc, PC_RESET); break;
    case DEVICE_EXIT:
        if (pc->outcome == PC_RUNNING)
            pc->exit_code = value;
        pc_stop(pc, PC_EXIT);
        break;
    }
}

static void serial_put(void *opaque, uint8_t byte)
{
    const struct board_serial *b = opaque;
    const struct pc_serial *s = &b->pc->platform.serial[b->index];
    if (s->out)
        s->out(s->opaque, byte);
}

/* A guest that polls gets the next byte as soon as it has taken one, not when the outside is looked at again. */
static void serial_drained(void *opaque)
{
    struct pc *pc = opaque;
    pc->next_poll = 0;
    cpu_attend(pc->machine->cpu[pc->current].cpu, ATT_KICK);
}

void board_poll(struct pc *pc, uint64_t now)
{
    for (unsigned i = 0; i < PC_SERIALS; i++) {
        const struct pc_serial *s = &pc->platform.serial[i];
        struct board_serial *b = &pc->serial[i];
        struct uart *u = &pc->uart[i];
        /* Nobody listens before a driver has opened the port: what came earlier would be lost with its FIFO reset. */
        while (!b->input_done && s->in && uart_listens(u) && uart_can_receive(u)) {
            int c = s->in(s->opaque);
            if (c == -1)
                break;
            if (c < 0)
                b->input_done = true;
            else
                uart_receive(u, now, (uint8_t)c);
        }
    }
}

/* --- time ----------------------------------------------------------------------------------------------------------
 */

uint64_t board_deadline(const struct pc *pc)
{
    uint64_t ns = MIN(pit_deadline(&pc->pit), rtc_deadline(&pc->rtc));
    for (unsigned i = 0; i < PC_SERIALS; i++)
        ns = MIN(ns, uart_deadline(&pc->uart[i]));
    ns = MIN(ns, hpet_deadline(&pc->hpet));
    return MIN(ns, acpi_pm_deadline(&pc->pm));
}

void board_run(struct pc *pc, uint64_t now)
{
    if (now >= pit_deadline(&pc->pit))
        pit_run(&pc->pit, now);
    if (now >= rtc_deadline(&pc->rtc))
        rtc_run(&pc->rtc, now);
    for (unsigned i = 0; i < PC_SERIALS; i++)
        if (now >= uart_deadline(&pc->uart[i]))
            uart_run(&pc->uart[i], now);
    if (now >= acpi_pm_deadline(&pc->pm))
        acpi_pm_run(&pc->pm, now);
    if (now >= hpet_deadline(&pc->hpet))
        hpet_run(&pc->hpet, now);
}

/* --- ports and windows ---------------------------------------------------------------------------------------------
 */

static void after_access(struct pc *pc)
{
    if (board_deadline(pc) < pc->slice_end)
        cpu_attend(pc->machine->cpu[pc->current].cpu, ATT_KICK);
}

/* The range that takes an access whole, or NULL. */
static const struct device_range *find_port(const struct pc *pc, uint16_t port, unsigned size)
{
    if (!pc->port[port])
        return NULL;
    const struct device_range *r = &pc->range[pc->port[port] - 1];
    return size <= r->ops->width && port + size <= r->base + r->len ? r : NULL;
}

const char *board_port_device(const struct pc *pc, uint16_t port, unsigned size)
{
    const struct device_range *r = find_port(pc, port, size);
    return r ? r->ops->name : NULL;
}

static uint32_t port_read(struct pc *pc, uint64_t now, uint16_t port, unsigned size)
{
    const struct device_range *r = find_port(pc, port, size);
    if (r) {
        pc->range_uses[r - pc->range][0]++;
        return (uint32_t)(r->ops->read(r->dev, now, port - r->base + r->offset, size) & device_ones(size));
    }
    if (size == 1)
        return 0xff;
    unsigned half = size / 2;
    uint32_t low = port_read(pc, now, port, half);
    return low | port_read(pc, now, (uint16_t)(port + half), half) << half * 8;
}

static void port_write(struct pc *pc, uint64_t now, uint16_t port, unsigned size, uint32_t value)
{
    const struct device_range *r = find_port(pc, port, size);
    if (r) {
        pc->range_uses[r - pc->range][1]++;
        r->ops->write(r->dev, now, port - r->base + r->offset, size, value & device_ones(size));
    } else if (size > 1) {
        unsigned half = size / 2;
        port_write(pc, now, port, half, value);
        port_write(pc, now, (uint16_t)(port + half), half, value >> half * 8);
    }
}

static uint32_t port_in(void *opaque, uint16_t port, unsigned size)
{
    struct pc *pc = opaque;
    uint32_t v = port_read(pc, pc_now(pc), port, size);
    after_access(pc);
    return v;
}

static void port_out(void *opaque, uint16_t port, unsigned size, uint32_t value)
{
    struct pc *pc = opaque;
    port_write(pc, pc_now(pc), port, size, value);
    after_access(pc);
}

static uint64_t window_read(void *opaque, hpa_t pa, unsigned size)
{
    struct board_window *w = opaque;
    w->pc->window_uses[w - w->pc->window][0]++;
    uint64_t v = device_read(w->ops, w->dev, pc_now(w->pc), pa.v - w->base, size);
    after_access(w->pc);
    return v;
}

static void window_write(void *opaque, hpa_t pa, unsigned size, uint64_t value)
{
    struct board_window *w = opaque;
    w->pc->window_uses[w - w->pc->window][1]++;
    device_write(w->ops, w->dev, pc_now(w->pc), pa.v - w->base, size, value);
    after_access(w->pc);
}

static bool show_window(struct pc *pc, struct board_window *w)
{
    static const struct mem_mmio_ops mmio_ops = {.read = window_read, .write = window_write};
    return mem_add_mmio(pc->machine->mem, HPA(w->base), w->len, &mmio_ops, w);
}

static bool add_window(struct pc *pc, uint64_t base, uint64_t len, const struct device_ops *ops, void *dev)
{
    struct board_window *w = &pc->window[pc->windows++];
    *w = (struct board_window){.pc = pc, .base = base, .len = len, .ops = ops, .dev = dev, .on = true};
    return show_window(pc, w);
}

/* What is added later stands over what is there. */
static struct device_range *add_ports(struct pc *pc, uint16_t base, unsigned len, uint64_t offset,
                                      const struct device_ops *ops, void *dev)
{
    struct device_range *r = &pc->range[pc->ranges++];
    *r = (struct device_range){.base = base, .len = len, .offset = offset, .ops = ops, .dev = dev};
    memset(&pc->port[base], (int)pc->ranges, len);
    return r;
}

/* Ranges that move: everything is laid out again, the fixed ones above them. */
static void place_ports(struct pc *pc)
{
    memset(pc->port, 0, sizeof pc->port);
    for (unsigned pass = 0; pass < 2; pass++)
        for (unsigned i = 0; i < pc->ranges; i++)
            if (pc->range[i].len && (i >= pc->fixed_ranges || &pc->range[i] == pc->pm_range) == !pass)
                memset(&pc->port[pc->range[i].base], (int)i + 1, pc->range[i].len);
}

static void pm_moved(void *opaque, uint16_t base)
{
    struct pc *pc = opaque;
    pc->pm_range->base = base;
    pc->pm_range->len = base ? ACPI_PM_PORTS : 0;
    place_ports(pc);
}

static void map_ports(struct pc *pc, const struct pci_bar *bar, uint64_t base, bool on)
{
    unsigned i = pc->fixed_ranges;
    while (i < pc->ranges && (on ? pc->range[i].len != 0 : pc->range[i].dev != bar->dev || pc->range[i].base != base))
        i++;
    if (i == BOARD_RANGES || (!on && i == pc->ranges))
        return;
    pc->ranges = MAX(pc->ranges, i + 1);
    pc->range[i] = (struct device_range){.base = base, .len = on ? bar->size : 0, .ops = bar->ops, .dev = bar->dev};
    place_ports(pc);
}

/* Where a BAR comes to lie over RAM or another window, that is what is seen. */
static void map_memory(struct pc *pc, const struct pci_bar *bar, uint64_t base, bool on)
{
    unsigned i = pc->fixed_windows;
    while (i < pc->windows &&
           (on ? pc->window[i].len != 0 : pc->window[i].dev != bar->dev || pc->window[i].base != base))
        i++;
    if (i == BOARD_WINDOWS || (!on && i == pc->windows))
        return;
    struct board_window *w = &pc->window[i];
    if (on) {
        pc->windows = MAX(pc->windows, i + 1);
        *w = (struct board_window){.pc = pc, .base = base, .len = bar->size, .ops = bar->ops, .dev = bar->dev};
        w->on = show_window(pc, w);
    } else {
        if (w->on)
            mem_remove(pc->machine->mem, HPA(w->base), w->len);
        *w = (struct board_window){0};
    }
}

static void map_bar(void *opaque, struct pci_function *f, unsigned bar, uint64_t base, bool on)
{
    const struct pci_bar *b = &f->bar[bar];
    if (b->io)
        map_ports(opaque, b, base, on);
    else
        map_memory(opaque, b, base, on);
}

static void smram_changed(void *opaque, uint8_t value)
{
    struct pc *pc = opaque;
    for (unsigned i = 0; i < pc->machine->cpus; i++)
        cpu_set_smram(pc->machine->cpu[i].cpu, value & CHIPSET_SMRAM_ON, value & CHIPSET_SMRAM_OPEN);
}

/* SMI# goes to every processor; one that waits for its start-up IPI does not see it. */
static void software_smi(void *opaque, uint8_t command)
{
    struct pc *pc = opaque;
    if (!(pci_get(&pc->pm_bridge.fn, CHIPSET_DEVACTB, 4) & CHIPSET_APMC_EN))
        return;
    for (unsigned i = 0; i < pc->machine->cpus; i++)
        if (pc->machine->cpu[i].cpu->activity != ACTIVITY_WAIT_SIPI)
            cpu_attend(pc->machine->cpu[i].cpu, ATT_SMI);
}

/* The first processor's; the others have no coprocessor error line on a PC. */
static void ferr(void *opaque)
{
    struct pc *pc = opaque;
    coprocessor_error(&pc->coprocessor);
}
static void ignne(void *opaque)
{
    struct pc *pc = opaque;
    struct cpu *c = pc->machine->cpu[0].cpu;
    c->ignne = c->mf_pending;
}

static void wire_chipset(struct pc *pc)
{
    pc->coprocessor.irq = (struct device_line){.set = isa_line, .opaque = pc, .line = 13};
    pc->coprocessor.ignne = ignne;
    pc->coprocessor.opaque = pc;
    pc->machine->cpu[0].cpu->ferr = ferr;
    pc->machine->cpu[0].cpu->ferr_opaque = pc;
    pc->host_bridge.smram = smram_changed;
    pc->host_bridge.opaque = pc;
    pc->apm.smi = software_smi;
    pc->apm.opaque = pc;
    pc->pci.map = map_bar;
    pc->pci.intx = intx;
    pc->pci.opaque = pc;
    pc->isa_bridge.irq = (struct device_line){.set = pirq_line, .opaque = pc};
    host_bridge_init(&pc->host_bridge, &pc->pci, PCI_DEVFN(0, 0));
    isa_bridge_init(&pc->isa_bridge, &pc->pci, PCI_DEVFN(1, 0));
    pm_bridge_init(&pc->pm_bridge, &pc->pci, PCI_DEVFN(1, 3));
    vga_init(&pc->vga);
    add_ports(pc, 0xcf8, 8, 0, &pci_ops, &pc->pci);
    add_ports(pc, 0xb2, 2, 0, &apm_ops, &pc->apm);
    add_ports(pc, 0x3c0, 32, 0, &vga_ops, &pc->vga);
}

static void wire_devices(struct pc *pc, const struct pc_config *config)
{
    struct device_control control = {.request = request, .opaque = pc};
    pc->pic.intr = (struct device_line){.set = intr_line, .opaque = pc};
    pc->pit.irq = (struct device_line){.set = isa_line, .opaque = pc, .line = 0};
    for (unsigned i = 0; i < PC_SERIALS; i++) {
        static const struct {
            uint16_t port;
            uint8_t irq;
        } com[PC_SERIALS] = {{0x3f8, 4}, {0x2f8, 3}};
        pc->serial[i] = (struct board_serial){.pc = pc, .index = i};
        pc->uart[i].irq = (struct device_line){.set = isa_line, .opaque = pc, .line = com[i].irq};
        pc->uart[i].tx = (struct device_out){.put = serial_put, .opaque = &pc->serial[i]};
        pc->uart[i].drained = serial_drained;
        pc->uart[i].drained_opaque = pc;
        uart_init(&pc->uart[i]);
        add_ports(pc, com[i].port, 8, 0, &uart_ops, &pc->uart[i]);
    }
    pc->e9.out = pc->uart[0].tx;
    pc->rtc.irq = (struct device_line){.set = isa_line, .opaque = pc, .line = 8};
    pc->pm.sci = (struct device_line){.set = isa_line, .opaque = pc, .line = SCI_IRQ};
    pc->i8042.a20 = (struct device_line){.set = a20_line, .opaque = pc};
    pc->hpet.irq = (struct device_line){.set = hpet_pin, .opaque = pc};
    pc->hpet.isa = (struct device_line){.set = hpet_isa, .opaque = pc};
    pc->hpet.legacy = (struct device_line){.set = hpet_legacy, .opaque = pc};
    pc->pm.control = pc->i8042.control = pc->debug_exit.control = control;
    pc->testdev.set_line = testdev_line;
    pc->testdev.opaque = pc;
    pc->ioapic.send = ioapic_send;
    pc->ioapic.opaque = pc;
    ioapic_init(&pc->ioapic, 0);
    pic_init(&pc->pic);
    pit_init(&pc->pit);
    rtc_init(&pc->rtc, 0, config->unix_time);
    i8042_init(&pc->i8042);
    acpi_pm_init(&pc->pm);
    hpet_init(&pc->hpet);

    add_ports(pc, 0x20, 2, 0, &pic_ops, &pc->pic);
    add_ports(pc, 0xa0, 2, 2, &pic_ops, &pc->pic);
    add_ports(pc, 0x4d0, 2, 4, &pic_ops, &pc->pic);
    add_ports(pc, 0x40, 4, 0, &pit_ops, &pc->pit);
    add_ports(pc, 0x61, 1, 4, &pit_ops, &pc->pit);
    add_ports(pc, 0x70, 2, 0, &rtc_ops, &pc->rtc);
    add_ports(pc, 0x60, 1, 0, &i8042_ops, &pc->i8042);
    add_ports(pc, 0x64, 1, 1, &i8042_ops, &pc->i8042);
    add_ports(pc, 0x92, 1, 2, &i8042_ops, &pc->i8042);
    pc->pm_range = add_ports(pc, PM_PORT, ACPI_PM_PORTS, 0, &acpi_pm_ops, &pc->pm);
    add_ports(pc, RESET_IO, 1, 12, &acpi_pm_ops, &pc->pm);
    add_ports(pc, 0xf0, 2, 0, &coprocessor_ops, &pc->coprocessor);
    add_ports(pc, 0x80, 1, 0, &latch_port_ops, &pc->post);
    add_ports(pc, 0xe9, 1, 0, &debug_port_ops, &pc->e9);
    add_ports(pc, 0xf4, 4, 0, &debug_exit_ops, &pc->debug_exit);
    add_ports(pc, 0x510, 12, 0, &fw_cfg_ops, &pc->fw_cfg);
    add_ports(pc, 0xe0, 8, 0, &testdev_ops, &pc->testdev);
    add_ports(pc, 0x2000, TESTDEV_LINES, 0, &testdev_line_ops, &pc->testdev);
}

/* --- what firmware leaves ------------------------------------------------------------------------------------------
 */

static void add_item(struct pc *pc, uint16_t key, const void *data, uint32_t size)
{
    pc->items[pc->fw_cfg.count++] = (struct fw_cfg_item){.key = key, .data = data, .size = size};
}

static void add_file(struct pc *pc, const char *name, const void *data, size_t size)
{
    static const unsigned first = FW_CFG_FILE_FIRST;
    struct fw_cfg_item *item = &pc->items[pc->fw_cfg.count];
    add_item(pc, (uint16_t)(first + pc->fw_cfg.count), data, (uint32_t)size);
    item->name = name;
}

static void add_sized(struct pc *pc, uint16_t size_key, uint32_t *place, uint16_t data_key, const void *data,
                      uint64_t size)
{
    *place = data ? (uint32_t)MIN(size, (uint64_t)UINT32_MAX) : 0;
    add_item(pc, size_key, place, sizeof *place);
    add_item(pc, data_key, data, *place);
}

static bool fw_memory(void *opaque, uint64_t gpa, void *buf, uint32_t len, bool write)
{
    struct pc *pc = opaque;
    struct mem *m = pc->machine->mem;
    uint64_t half = MIN((uint64_t)len, PAGE_SIZE - (gpa & PAGE_OFFSET));
    if (gpa + len < gpa || !mem_host(m, HPA(gpa), half, true) ||
        (len > half && !mem_host(m, HPA(gpa + half), len - half, true)))
        return false;
    if (write)
        mem_write(m, HPA(gpa), buf, len);
    else
        mem_read(m, HPA(gpa), buf, len);
    return true;
}

/* A kernel as its loader would take it: a bzImage's setup sectors by themselves. */
static void add_images(struct pc *pc, const struct pc_config *config)
{
    const uint8_t *image = config->image.data;
    uint64_t size = config->image.size, setup = 0;
    if (linux_boot_is(image, size)) {
        unsigned sectors = image[LINUX_SETUP_SECTS] ? image[LINUX_SETUP_SECTS] : 4;
        setup = MIN(size, (uint64_t)(sectors + 1) * 512);
    }
    const char *append = config->append ? config->append : "";
    add_sized(pc, FW_CFG_KERNEL_SIZE, &pc->fw.kernel_size, FW_CFG_KERNEL_DATA, image + setup, size - setup);
    add_sized(pc, FW_CFG_SETUP_SIZE, &pc->fw.setup_size, FW_CFG_SETUP_DATA, image, setup);
    add_sized(pc, FW_CFG_INITRD_SIZE, &pc->fw.initrd_size, FW_CFG_INITRD_DATA, config->initrd.data,
              config->initrd.size);
    add_sized(pc, FW_CFG_CMDLINE_SIZE, &pc->fw.cmdline_size, FW_CFG_CMDLINE_DATA, append, strlen(append) + 1);
}

static void fill_fw_cfg(struct pc *pc, const struct pc_config *config, size_t acpi)
{
    pc->fw.id = FW_CFG_ID_PORTS | FW_CFG_ID_DMA;
    pc->fw.ram = config->mem;
    pc->fw.cpus = (uint16_t)pc->machine->cpus;
    pc->fw.no_graphics = 1;
    pc->fw_cfg.items = pc->items;
    pc->fw_cfg.memory = fw_memory;
    pc->fw_cfg.opaque = pc;
    add_item(pc, FW_CFG_SIGNATURE, "QEMU", 4);
    add_item(pc, FW_CFG_ID, &pc->fw.id, sizeof pc->fw.id);
    add_item(pc, FW_CFG_RAM_SIZE, &pc->fw.ram, sizeof pc->fw.ram);
    add_item(pc, FW_CFG_NO_GRAPHICS, &pc->fw.no_graphics, sizeof pc->fw.no_graphics);
    add_item(pc, FW_CFG_NB_CPUS, &pc->fw.cpus, sizeof pc->fw.cpus);
    add_item(pc, FW_CFG_BOOT_DEVICE, &pc->fw.boot_device, sizeof pc->fw.boot_device);
    add_item(pc, FW_CFG_BOOT_MENU, &pc->fw.boot_menu, sizeof pc->fw.boot_menu);
    add_item(pc, FW_CFG_MAX_CPUS, &pc->fw.cpus, sizeof pc->fw.cpus);
    add_images(pc, config);
    memcpy(pc->acpi, mem_host(pc->machine->mem, HPA(PC_BIOS), acpi, false), acpi);
    add_file(pc, "etc/acpi/rsdp", pc->acpi, ACPI_RSDP_SIZE);
    add_file(pc, "etc/acpi/tables", pc->acpi + ACPI_RSDP_SIZE, acpi - ACPI_RSDP_SIZE);
    add_file(pc, "etc/e820", pc->map, pc->map_ranges * sizeof *pc->map);
}

/* The BIOS writer's part: RAM instead of ROM below 1 MiB, interrupts of the PCI bus, where the ACPI registers are. */
static void fill_chipset(struct pc *pc)
{
    static const uint8_t pirq[4] = {PIRQ_AB, PIRQ_AB, PIRQ_CD, PIRQ_CD};
    uint16_t levels = 1u << SCI_IRQ;
    pc->host_bridge.pam = pam_changed;
    pc->host_bridge.opaque = pc;
    for (unsigned i = 0; i < 7; i++)
        pci_config_write(&pc->host_bridge.fn, CHIPSET_PAM + i, 1, i ? 0x33 : 0x30);
    pci_config_write(&pc->host_bridge.fn, PCI_COMMAND, 2, 0x107);
    for (unsigned i = 0; i < 4; i++) {
        pci_config_write(&pc->isa_bridge.fn, CHIPSET_PIRQ + i, 1, pirq[i]);
        levels |= 1u << pirq[i];
    }
    struct pci_function *pm = &pc->pm_bridge.fn;
    pci_config_write(pm, PCI_INTERRUPT_LINE, 1, SCI_IRQ);
    pci_config_write(pm, PCI_COMMAND, 2, PCI_COMMAND_IO);
    pci_config_write(pm, CHIPSET_PMBA, 4, PM_PORT);
    pci_config_write(pm, CHIPSET_PMREGMISC, 1, 1);
    pc->pm_bridge.moved = pm_moved;
    pc->pm_bridge.opaque = pc;
    port_write(pc, 0, 0x4d0, 2, levels);
}

/* A system-management interrupt that nobody has prepared for does nothing: RSM, where SMBASE is at reset. */
static void fill_smm(struct pc *pc)
{
    mem_write(pc->machine->mem, HPA(0x38000), "\x0f\xaa", 2);
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

/* Returns the size of the ACPI tables, 0: no room. */
static size_t fill_bios(struct pc *pc)
{
    uint8_t *bda = mem_host(pc->machine->mem, HPA(0x400), 256, true);
    store16(bda + 0x00, 0x3f8);
    store16(bda + 0x02, 0x2f8);
    store16(bda + 0x0e, PC_EBDA >> 4);
    store16(bda + 0x13, PC_EBDA >> 10);
    uint8_t *ebda = mem_host(pc->machine->mem, HPA(PC_EBDA), PC_VGA - PC_EBDA, true);
    ebda[0] = (PC_VGA - PC_EBDA) >> 10;
    uint32_t one[4];
    cpu_cpuid(pc->machine->cpu[0].cpu, 1, 0, one);
    const struct acpi_config acpi = {.cpus = pc->machine->cpus,
                                     .lapic_base = PC_LAPIC,
                                     .ioapic_base = PC_IOAPIC,
                                     .ioapic_id = 0,
                                     .pm_base = PM_PORT,
                                     .reset_port = RESET_IO,
                                     .sci_irq = SCI_IRQ,
                                     .century = 0x32,
                                     .uart_port = 0x3f8,
                                     .uart_irq = 4,
                                     .uart2_port = 0x2f8,
                                     .uart2_irq = 3,
                                     .hpet_base = PC_HPET,
                                     .pci = true,
                                     .pci_hole = (uint32_t)PC_HOLE,
                                     .pirq = {PIRQ_AB, PIRQ_AB, PIRQ_CD, PIRQ_CD},
                                     .lapic_version = (uint8_t)pc->machine->cpu[0].lapic.config.version,
                                     .ioapic_version = 0x20,
                                     .cpu_signature = one[0],
                                     .cpu_features = one[3]};
    uint8_t *bios = mem_host(pc->machine->mem, HPA(PC_BIOS), PC_1M - PC_BIOS, true);
    size_t size = acpi_build_tables(bios, sizeof pc->acpi, PC_BIOS, &acpi);
    return mp_build_table(bios + (PC_MP_TABLE - PC_BIOS), PAGE_SIZE, PC_MP_TABLE, &acpi) ? size : 0;
}

bool board_create(struct pc *pc, const struct pc_config *config, uint64_t low, uint64_t high, char *error)
{
    static const struct vmenter_port_ops port_ops = {.in = port_in, .out = port_out};
    wire_chipset(pc);
    wire_devices(pc, config);
    pc->fixed_ranges = pc->ranges;
    vmenter_set_ports(pc->machine, &port_ops, pc);
    if (!add_window(pc, PC_IOAPIC, PAGE_SIZE, &ioapic_ops, &pc->ioapic) ||
        !add_window(pc, PC_HPET, PAGE_SIZE, &hpet_ops, &pc->hpet) ||
        !add_window(pc, PC_TESTDEV, TESTDEV_MEMORY, &testdev_memory_ops, &pc->testdev)) {
        snprintf(error, PC_ERROR_MAX, "the host has no memory left");
        return false;
    }
    pc->fixed_windows = pc->windows;
    pc->map_ranges = memory_map(pc->map, low, high);
    fill_chipset(pc);
    fill_smm(pc);
    fill_cmos(pc, low, high);
    size_t acpi = fill_bios(pc);
    if (!acpi) {
        snprintf(error, PC_ERROR_MAX, "the tables of the firmware do not fit below 1 MiB: use fewer --cpus");
        return false;
    }
    fill_fw_cfg(pc, config, acpi);
    return true;
}
