/* SPDX-License-Identifier: MIT
 *
 * machine.c: the guest's devices: who is at which port and address, which line goes where, and whose time has come.
 *
 * Interrupt lines as on a PC: ISA line n goes to the 8259s and to I/O APIC pin n, line 0 to pin 2; the 8259s' INTR to
 * LINT0.
 */
#include <vmenter/intrin.h>

#include "vmm/vm.h"

#define SCI_IRQ 9
#define POLL_NS (UINT64_C(10) * 1000 * 1000) /* how often the outside world is looked at, guest time */

/* ---- time ----------------------------------------------------------------------------------------------------------
 */

static uint64_t tsc_to_ns(const struct vmm *v, uint64_t tsc)
{
    return device_muldiv(tsc - v->tsc_start, 1000000, (uint32_t)v->tsc_khz);
}

uint64_t machine_tsc_of(struct vmm *v, uint64_t ns)
{
    if (ns >= DEVICE_NEVER / 8) {
        return DEVICE_NEVER;
    }
    return v->tsc_start + device_muldiv_up(ns, (uint32_t)v->tsc_khz, 1000000);
}

uint64_t machine_now(struct vmm *v)
{
    return tsc_to_ns(v, __rdtsc());
}

/* ---- lines ---------------------------------------------------------------------------------------------------------
 */

static void isa_line(void *opaque, unsigned irq, bool level)
{
    struct vmm *v = opaque;
    pic_set_line(&v->pic, irq, level);
    ioapic_set_line(&v->ioapic, irq == 0 ? 2 : irq, level);
}

static void intr_line(void *opaque, unsigned line, bool level)
{
    struct vmm *v = opaque;
    lapic_lint(&v->lapic, 0, level);
}

static bool ioapic_send(void *opaque, const struct apic_msg *msg)
{
    struct vmm *v = opaque;
    struct lapic *const all[] = {&v->lapic};
    return apic_route(all, 1, NULL, msg);
}

static void lapic_send(void *opaque, struct lapic *from, const struct apic_msg *msg)
{
    struct vmm *v = opaque;
    struct lapic *const all[] = {&v->lapic};
    apic_route(all, 1, from, msg);
}

static void lapic_eoi(void *opaque, uint8_t vector)
{
    struct vmm *v = opaque;
    ioapic_eoi(&v->ioapic, vector);
}

static void lapic_signal(void *opaque, struct lapic *l, enum apic_delivery what, uint8_t vector)
{
    struct vmm *v = opaque;
    switch (what) {
    case APIC_NMI: v->nmi_pending = true; break;
    case APIC_INIT: vmm_stop(v, VMM_RESET, "the guest sent INIT to its only processor"); break;
    default: break; /* SMI: no SMM; STARTUP: only a processor in wait-for-SIPI listens */
    }
}

/* ---- requests and output -------------------------------------------------------------------------------------- */

static void request(void *opaque, enum device_request what, uint32_t value)
{
    struct vmm *v = opaque;
    switch (what) {
    case DEVICE_POWER_OFF: vmm_stop(v, VMM_POWER_OFF, "power off"); break;
    case DEVICE_RESET: vmm_stop(v, VMM_RESET, "reset"); break;
    case DEVICE_EXIT:
        v->exit_code = value;
        vmm_stop(v, VMM_EXIT, "debug exit with code %u", value);
        break;
    }
}

static void serial_put(void *opaque, uint8_t byte)
{
    struct vmm *v = opaque;
    if (v->config.platform.serial_out) {
        v->config.platform.serial_out(v->config.platform.opaque, byte);
    }
}

void machine_poll_input(struct vmm *v)
{
    const struct vmm_platform *p = &v->config.platform;
    /* Nobody listens before the guest's driver has opened the port: what came earlier would be lost with its FIFO
     * reset. */
    while (!v->input_done && p->serial_in && uart_listens(&v->uart) && uart_can_receive(&v->uart)) {
        int c = p->serial_in(p->opaque);
        if (c == -1) {
            break;
        }
        if (c < 0) {
            v->input_done = true;
            break;
        }
        uart_receive(&v->uart, machine_now(v), (uint8_t)c);
    }
}

/* ---- the map -------------------------------------------------------------------------------------------------- */

static void add_ports(struct vmm *v, uint16_t base, unsigned len, uint64_t offset, const struct device_ops *ops,
                      void *dev)
{
    v->ports[v->nports++] = (struct device_range){.base = base, .len = len, .offset = offset, .ops = ops, .dev = dev};
}

void machine_init(struct vmm *v)
{
    struct device_control control = {.request = request, .opaque = v};
    v->tsc_khz = vmenter_tsc_hz(v->config.machine) / 1000;
    v->tsc_start = __rdtsc();

    v->pic.intr = (struct device_line){.set = intr_line, .opaque = v};
    v->pit.irq = (struct device_line){.set = isa_line, .opaque = v, .line = 0};
    v->uart.irq = (struct device_line){.set = isa_line, .opaque = v, .line = 4};
    v->uart.tx = (struct device_out){.put = serial_put, .opaque = v};
    v->rtc.irq = (struct device_line){.set = isa_line, .opaque = v, .line = 8};
    v->pm.sci = (struct device_line){.set = isa_line, .opaque = v, .line = SCI_IRQ};
    v->pm.control = v->i8042.control = v->debug_exit.control = control;
    v->e9.out = v->uart.tx;
    v->ioapic.send = ioapic_send;
    v->ioapic.opaque = v;
    v->lapic.host = (struct lapic_host){.opaque = v, .send = lapic_send, .eoi = lapic_eoi, .signal = lapic_signal};
    int crystal[4];
    __cpuidex(crystal, 0, 0);
    if ((unsigned)crystal[0] >= 0x15) {
        __cpuidex(crystal, 0x15, 0);
    } else {
        crystal[0] = crystal[1] = 0;
    }
    bool enumerated = crystal[0] && crystal[1];
    v->lapic.config = (struct lapic_config){.version = v->intel ? LAPIC_VERSION_INTEL : LAPIC_VERSION_AMD,
                                            /* SDM "APIC Timer": the core crystal clock where CPUID.15H tells it */
                                            .tsc_num = enumerated ? (uint32_t)crystal[1] : 16,
                                            .tsc_den = enumerated ? (uint32_t)crystal[0] : 1,
                                            .phys_bits = (uint8_t)v->phys_bits,
                                            .bsp = true,
                                            .x2apic = true,
                                            .tsc_deadline = true};
    ioapic_init(&v->ioapic, 1);
    lapic_init(&v->lapic);
    pic_init(&v->pic);
    pit_init(&v->pit);
    rtc_init(&v->rtc, 0, v->config.unix_time);
    uart_init(&v->uart);
    i8042_init(&v->i8042);
    acpi_pm_init(&v->pm);

    v->nports = 0;
    add_ports(v, 0x20, 2, 0, &pic_ops, &v->pic);
    add_ports(v, 0xa0, 2, 2, &pic_ops, &v->pic);
    add_ports(v, 0x4d0, 2, 4, &pic_ops, &v->pic);
    add_ports(v, 0x40, 4, 0, &pit_ops, &v->pit);
    add_ports(v, 0x61, 1, 4, &pit_ops, &v->pit);
    add_ports(v, 0x70, 2, 0, &rtc_ops, &v->rtc);
    add_ports(v, 0x3f8, 8, 0, &uart_ops, &v->uart);
    add_ports(v, 0x60, 1, 0, &i8042_ops, &v->i8042);
    add_ports(v, 0x64, 1, 1, &i8042_ops, &v->i8042);
    add_ports(v, 0x92, 1, 2, &i8042_ops, &v->i8042);
    add_ports(v, 0x600, 12, 0, &acpi_pm_ops, &v->pm);
    add_ports(v, 0xcf9, 1, 12, &acpi_pm_ops, &v->pm);
    add_ports(v, 0xcf8, 8, 0, &pci_none_ops, &v->pci);
    add_ports(v, 0x80, 1, 0, &latch_port_ops, &v->post);
    add_ports(v, 0xe9, 1, 0, &debug_port_ops, &v->e9);
    add_ports(v, 0xf4, 4, 0, &debug_exit_ops, &v->debug_exit);
}

static const struct device_range *find_port(const struct vmm *v, uint16_t port)
{
    for (unsigned i = 0; i < v->nports; i++) {
        if (port - v->ports[i].base < v->ports[i].len && port >= v->ports[i].base) {
            return &v->ports[i];
        }
    }
    return NULL;
}

uint32_t machine_port_in(struct vmm *v, uint16_t port, unsigned size)
{
    const struct device_range *r = find_port(v, port);
    if (!r) {
        return (uint32_t)device_ones(size);
    }
    return (uint32_t)device_read(r->ops, r->dev, machine_now(v), port - r->base + r->offset, size);
}

void machine_port_out(struct vmm *v, uint16_t port, unsigned size, uint32_t value)
{
    const struct device_range *r = find_port(v, port);
    if (r) {
        device_write(r->ops, r->dev, machine_now(v), port - r->base + r->offset, size, value);
    }
}

static bool in_lapic(const struct vmm *v, uint64_t gpa)
{
    uint64_t base = v->lapic.s.base;
    return (base & (LAPIC_BASE_EN | LAPIC_BASE_EXTD)) == LAPIC_BASE_EN &&
           (gpa & ~UINT64_C(0xfff)) == (base & ~UINT64_C(0xfff));
}

uint64_t machine_mmio_read(struct vmm *v, uint64_t gpa, unsigned size)
{
    if (in_lapic(v, gpa)) {
        uint32_t word = lapic_read(&v->lapic, __rdtsc(), gpa & 0xffc);
        return word >> (gpa & 3) * 8 & device_ones(size);
    }
    if ((gpa & ~UINT64_C(0xfff)) == GUEST_IOAPIC) {
        return device_read(&ioapic_ops, &v->ioapic, machine_now(v), gpa & 0xfff, size);
    }
    return device_ones(size);
}

void machine_mmio_write(struct vmm *v, uint64_t gpa, unsigned size, uint64_t value)
{
    if (in_lapic(v, gpa)) {
        lapic_write(&v->lapic, __rdtsc(), gpa & 0xfff, (uint32_t)value);
    } else if ((gpa & ~UINT64_C(0xfff)) == GUEST_IOAPIC) {
        device_write(&ioapic_ops, &v->ioapic, machine_now(v), gpa & 0xfff, size, value);
    }
}

/* ---- running -------------------------------------------------------------------------------------------------- */

static uint64_t min64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

void machine_run(struct vmm *v)
{
    uint64_t tsc = __rdtsc(), now = tsc_to_ns(v, tsc);
    if (tsc >= lapic_deadline(&v->lapic)) {
        lapic_run(&v->lapic, tsc);
    }
    if (now >= pit_deadline(&v->pit)) {
        pit_run(&v->pit, now);
    }
    if (now >= rtc_deadline(&v->rtc)) {
        rtc_run(&v->rtc, now);
    }
    if (now >= uart_deadline(&v->uart)) {
        uart_run(&v->uart, now);
    }
    if (now >= acpi_pm_deadline(&v->pm)) {
        acpi_pm_run(&v->pm, now);
    }
    if (now >= v->next_poll) {
        v->next_poll = now + POLL_NS;
        machine_poll_input(v);
        if (v->config.platform.poll) {
            enum vmm_outcome o = v->config.platform.poll(v->config.platform.opaque);
            if (o != VMM_RUNNING) {
                vmm_stop(v, o, o == VMM_TIMEOUT ? "time-out" : "quit");
            }
        }
    }
}

uint64_t machine_deadline(struct vmm *v)
{
    uint64_t ns = v->next_poll;
    ns = min64(ns, pit_deadline(&v->pit));
    ns = min64(ns, rtc_deadline(&v->rtc));
    ns = min64(ns, uart_deadline(&v->uart));
    ns = min64(ns, acpi_pm_deadline(&v->pm));
    uint64_t until = min64(machine_tsc_of(v, ns), lapic_deadline(&v->lapic)), soon = __rdtsc() + v->tsc_khz / 1000;
    /* A microsecond at least: a guest with an absurd timer comes forward all the same. */
    return until < soon ? soon : until;
}

bool machine_has_interrupt(struct vmm *v)
{
    return lapic_extint(&v->lapic) || lapic_pending_vector(&v->lapic) >= 0;
}

int machine_ack_interrupt(struct vmm *v)
{
    if (lapic_extint(&v->lapic)) {
        lapic_extint_ack(&v->lapic);
        return pic_ack(&v->pic);
    }
    return lapic_pending_vector(&v->lapic) >= 0 ? lapic_ack(&v->lapic) : -1;
}
