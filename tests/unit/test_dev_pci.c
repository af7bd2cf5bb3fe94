/* SPDX-License-Identifier: MIT
 *
 * PCI configuration mechanism #1, BARs, INTx; the chipset's functions; by the PCI specification and the data sheets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "src/dev/chipset.h"
#include "src/dev/vga.h"

struct rig {
    struct pci_bus bus;
    struct host_bridge host;
    struct isa_bridge isa;
    struct pm_bridge pm;
    struct pci_function card[2];
    uint64_t base[PCI_BARS];
    unsigned maps, unmaps;
    bool irq[16];
    uint8_t smram;
    uint16_t pm_base;
};

static void on_map(void *o, struct pci_function *f, unsigned bar, uint64_t base, bool on)
{
    struct rig *r = o;
    on ? r->maps++ : r->unmaps++;
    r->base[bar] = on ? base : 0;
}
static void on_intx(void *o, unsigned line, bool level)
{
    isa_bridge_pirq(&((struct rig *)o)->isa, line, level);
}
static void on_irq(void *o, unsigned irq, bool level)
{
    ((struct rig *)o)->irq[irq] = level;
}
static void on_smram(void *o, uint8_t value)
{
    ((struct rig *)o)->smram = value;
}
static void on_moved(void *o, uint16_t base)
{
    ((struct rig *)o)->pm_base = base;
}

static struct rig *rig(void)
{
    static struct rig r;
    memset(&r, 0, sizeof r);
    r.bus.map = on_map;
    r.bus.intx = on_intx;
    r.bus.opaque = &r;
    r.host.smram = on_smram;
    r.host.opaque = &r;
    r.isa.irq = (struct device_line){.set = on_irq, .opaque = &r};
    r.pm.moved = on_moved;
    r.pm.opaque = &r;
    host_bridge_init(&r.host, &r.bus, PCI_DEVFN(0, 0));
    isa_bridge_init(&r.isa, &r.bus, PCI_DEVFN(1, 0));
    pm_bridge_init(&r.pm, &r.bus, PCI_DEVFN(1, 3));
    static const struct pci_id id = {.vendor = 0x1234, .device = 0x5678, .class_code = 0xff0000, .pin = 1};
    for (unsigned i = 0; i < 2; i++) {
        r.card[i].bar[0] = (struct pci_bar){.size = 0x1000};
        r.card[i].bar[1] = (struct pci_bar){.size = 32, .io = true};
        pci_add(&r.bus, &r.card[i], (uint8_t)PCI_DEVFN(3 + i * 4, 0), &id);
    }
    return &r;
}

static void select(struct rig *r, unsigned devfn, unsigned offset)
{
    device_write(&pci_ops, &r->bus, 0, 0, 4, 0x80000000u | devfn << 8 | (offset & 0xfc));
}
static uint32_t get(struct rig *r, unsigned devfn, unsigned offset, unsigned size)
{
    select(r, devfn, offset);
    return (uint32_t)device_read(&pci_ops, &r->bus, 0, 4 + (offset & 3), size);
}
static void set(struct rig *r, unsigned devfn, unsigned offset, unsigned size, uint32_t v)
{
    select(r, devfn, offset);
    device_write(&pci_ops, &r->bus, 0, 4 + (offset & 3), size, v);
}

static void mechanism(void **state)
{
    struct rig *r = rig();
    device_write(&pci_ops, &r->bus, 0, 0, 4, 0xffffffff);
    assert_int_equal(device_read(&pci_ops, &r->bus, 0, 0, 4), 0x80fffffc); /* reserved bits are 0 */
    device_write(&pci_ops, &r->bus, 0, 0, 2, 0); /* double words alone reach the address register */
    device_write(&pci_ops, &r->bus, 0, 1, 1, 0);
    assert_int_equal(device_read(&pci_ops, &r->bus, 0, 0, 4), 0x80fffffc);
    assert_int_equal(device_read(&pci_ops, &r->bus, 0, 0, 2), 0xffff);
    assert_int_equal(get(r, PCI_DEVFN(0, 0), 0, 4), 0x12378086);
    assert_int_equal(get(r, PCI_DEVFN(0, 0), 2, 2), 0x1237);
    assert_int_equal(get(r, PCI_DEVFN(0, 0), 1, 1), 0x80);
    assert_int_equal(get(r, PCI_DEVFN(1, 0), 0, 4), 0x70008086);
    assert_int_equal(get(r, PCI_DEVFN(1, 3), 0, 4), 0x71138086);
    assert_int_equal(get(r, PCI_DEVFN(1, 0), PCI_HEADER_TYPE, 1), 0x80); /* more functions than one */
    assert_int_equal(get(r, PCI_DEVFN(1, 0), PCI_REVISION + 1, 1) | get(r, PCI_DEVFN(1, 0), 0x0a, 2) << 8, 0x060100);
    assert_int_equal(get(r, PCI_DEVFN(2, 0), 0, 4), 0xffffffff);
    assert_int_equal(get(r, PCI_DEVFN(1, 1), 0, 2), 0xffff);
    device_write(&pci_ops, &r->bus, 0, 0, 4, 0x80010000); /* bus 1 */
    assert_int_equal(device_read(&pci_ops, &r->bus, 0, 4, 4), 0xffffffff);
    device_write(&pci_ops, &r->bus, 0, 0, 4, 0); /* not enabled */
    assert_int_equal(device_read(&pci_ops, &r->bus, 0, 4, 4), 0xffffffff);
}

static void read_only_and_clear(void **state)
{
    struct rig *r = rig();
    unsigned card = PCI_DEVFN(3, 0);
    set(r, card, PCI_VENDOR, 4, 0);
    set(r, card, PCI_REVISION, 4, 0xffffffff);
    assert_int_equal(get(r, card, PCI_VENDOR, 4), 0x56781234);
    assert_int_equal(get(r, card, PCI_REVISION, 4), 0xff000000);
    set(r, card, PCI_COMMAND, 2, 0xffff);
    assert_int_equal(get(r, card, PCI_COMMAND, 2), 0x0547);
    r->card[0].s.config[PCI_STATUS + 1] |= 0x20; /* received master abort */
    set(r, card, PCI_STATUS, 2, 0x0000);
    assert_int_equal(get(r, card, PCI_STATUS, 2), 0x2200);
    set(r, card, PCI_STATUS, 2, 0x2000);
    assert_int_equal(get(r, card, PCI_STATUS, 2), 0x0200);
    set(r, PCI_DEVFN(0, 0), PCI_COMMAND, 2, 0); /* the host bridge's is wired */
    assert_int_equal(get(r, PCI_DEVFN(0, 0), PCI_COMMAND, 2), 6);
    set(r, PCI_DEVFN(0, 0), PCI_STATUS, 2, 0xffff);
    assert_int_equal(get(r, PCI_DEVFN(0, 0), PCI_STATUS, 2), 0x0280);
}

static void bars(void **state)
{
    struct rig *r = rig();
    unsigned card = PCI_DEVFN(3, 0);
    set(r, card, 0x10, 4, 0xffffffff);
    set(r, card, 0x14, 4, 0xffffffff);
    set(r, card, 0x18, 4, 0xffffffff);
    assert_int_equal(get(r, card, 0x10, 4), 0xfffff000);
    assert_int_equal(get(r, card, 0x14, 4), 0xffffffe1);
    assert_int_equal(get(r, card, 0x18, 4), 0);
    set(r, card, 0x10, 4, 0xe0000000);
    set(r, card, 0x14, 4, 0xc000);
    assert_int_equal(r->maps, 0); /* not decoded yet */
    set(r, card, PCI_COMMAND, 2, PCI_COMMAND_IO);
    assert_int_equal(r->base[1], 0xc000);
    assert_int_equal(r->base[0], 0);
    set(r, card, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
    assert_int_equal(r->base[0], 0xe0000000);
    set(r, card, 0x11, 1, 0x55); /* by bytes; low bits do not exist */
    assert_int_equal(r->base[0], 0xe0005000);
    set(r, card, 0x10, 4, 0xffffffff); /* sizing while it decodes */
    assert_int_equal(r->base[0], 0);
    set(r, card, 0x10, 4, 0xe0000000);
    assert_int_equal(r->base[0], 0xe0000000);
    set(r, card, 0x14, 4, 0x1c000); /* no ports there */
    assert_int_equal(r->base[1], 0);
    set(r, card, PCI_COMMAND, 2, 0);
    assert_int_equal(r->base[0], 0);
    assert_int_equal(r->maps, r->unmaps);
}

static void interrupts(void **state)
{
    struct rig *r = rig();
    pci_set_intx(&r->card[0], true); /* slot 3: PIRQC */
    assert_false(r->irq[11]);
    assert_int_equal(get(r, PCI_DEVFN(3, 0), PCI_STATUS, 1), 0x08);
    set(r, PCI_DEVFN(1, 0), CHIPSET_PIRQ + 2, 1, 11);
    assert_true(r->irq[11]);
    pci_set_intx(&r->card[1], true); /* slot 7: the same line */
    pci_set_intx(&r->card[0], false);
    assert_true(r->irq[11]);
    set(r, PCI_DEVFN(1, 0), CHIPSET_PIRQ + 2, 1, 5);
    assert_false(r->irq[11]);
    assert_true(r->irq[5]);
    set(r, PCI_DEVFN(7, 0), PCI_COMMAND, 2, PCI_COMMAND_NO_INTX);
    assert_false(r->irq[5]);
    assert_int_equal(get(r, PCI_DEVFN(7, 0), PCI_STATUS, 1), 0x08); /* the status shows it all the same */
    set(r, PCI_DEVFN(7, 0), PCI_COMMAND, 2, 0);
    assert_true(r->irq[5]);
    set(r, PCI_DEVFN(1, 0), CHIPSET_PIRQ + 2, 1, CHIPSET_PIRQ_OFF | 5);
    assert_false(r->irq[5]);
    set(r, PCI_DEVFN(1, 0), CHIPSET_PIRQ + 2, 1, 8); /* reserved */
    assert_false(r->irq[8]);
}

static void smram(void **state)
{
    struct rig *r = rig();
    unsigned host = PCI_DEVFN(0, 0);
    assert_int_equal(get(r, host, CHIPSET_SMRAM, 1), 0x02);
    set(r, host, CHIPSET_SMRAM, 1, CHIPSET_SMRAM_OPEN | CHIPSET_SMRAM_ON);
    assert_int_equal(r->smram, 0x4a);
    set(r, host, CHIPSET_SMRAM, 1, CHIPSET_SMRAM_OPEN | CHIPSET_SMRAM_LOCK | CHIPSET_SMRAM_ON);
    assert_int_equal(r->smram, 0x1a); /* locking closes */
    set(r, host, CHIPSET_SMRAM, 1, CHIPSET_SMRAM_OPEN | CHIPSET_SMRAM_ON);
    assert_int_equal(get(r, host, CHIPSET_SMRAM, 1), 0x1a);
    assert_int_equal(r->smram, 0x1a);
}

static void pm_moves(void **state)
{
    struct rig *r = rig();
    unsigned pm = PCI_DEVFN(1, 3);
    set(r, pm, CHIPSET_PMBA, 4, 0xb03f);
    assert_int_equal(get(r, pm, CHIPSET_PMBA, 4), 0xb001);
    assert_int_equal(r->pm_base, 0);
    set(r, pm, CHIPSET_PMREGMISC, 1, 0xff);
    assert_int_equal(get(r, pm, CHIPSET_PMREGMISC, 1), 1);
    assert_int_equal(r->pm_base, 0xb000);
    set(r, pm, CHIPSET_PMBA + 1, 1, 0x06);
    assert_int_equal(r->pm_base, 0x0600);
    set(r, pm, CHIPSET_PMREGMISC, 1, 0);
    assert_int_equal(r->pm_base, 0);
}

static uint8_t in(struct vga *v, uint64_t now, unsigned offset)
{
    return (uint8_t)device_read(&vga_ops, v, now, offset, 1);
}
static void out(struct vga *v, unsigned offset, uint8_t value)
{
    device_write(&vga_ops, v, 0, offset, 1, value);
}

static void vga(void **state)
{
    static struct vga v;
    vga_init(&v);
    out(&v, 0x14, 0x0e); /* the cursor's place */
    out(&v, 0x15, 0x07);
    out(&v, 0x14, 0x0f);
    out(&v, 0x15, 0x80);
    assert_int_equal(in(&v, 0, 0x15), 0x80);
    out(&v, 0x14, 0x0e);
    assert_int_equal(in(&v, 0, 0x15), 0x07);
    in(&v, 0, 0x1a); /* the flip-flop: index first */
    out(&v, 0x00, 0x10);
    out(&v, 0x00, 0x5a);
    in(&v, 0, 0x1a);
    out(&v, 0x00, 0x10);
    assert_int_equal(in(&v, 0, 0x01), 0x5a);
    unsigned seen = 0, edges = 0; /* retrace comes and goes: 70 times a second */
    for (uint64_t t = 0; t < DEVICE_NS_PER_S; t += 10000) {
        unsigned now = in(&v, t, 0x1a) >> 3 & 1;
        edges += now && !seen;
        seen = now;
    }
    assert_in_range(edges, 69, 71);
    out(&v, 0x07, 255); /* the palette wraps */
    for (unsigned i = 0; i < 1000; i++)
        in(&v, 0, 0x09);
    out(&v, 0x08, 255);
    for (unsigned i = 0; i < 1000; i++)
        out(&v, 0x09, 0xff);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mechanism), cmocka_unit_test(read_only_and_clear),
        cmocka_unit_test(bars),      cmocka_unit_test(interrupts),
        cmocka_unit_test(smram),     cmocka_unit_test(pm_moves),
        cmocka_unit_test(vga),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
