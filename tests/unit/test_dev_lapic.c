/* SPDX-License-Identifier: MIT
 *
 * The local APIC: rules of SDM Vol. 3A, "Advanced Programmable Interrupt Controller (APIC)". */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "src/dev/ioapic.h"
#include "src/dev/lapic.h"

struct board {
    struct lapic l[3];
    struct lapic *all[3];
    struct ioapic io;
    unsigned nmi[3], init[3], sipi[3], eois;
    uint8_t last_eoi, sipi_vector;
};

static void on_send(void *o, struct lapic *from, const struct apic_msg *m)
{
    struct board *b = o;
    apic_route(b->all, 3, from, m);
}

static void on_eoi(void *o, uint8_t vector)
{
    struct board *b = o;
    b->eois++;
    b->last_eoi = vector;
    ioapic_eoi(&b->io, vector);
}

static void on_signal(void *o, struct lapic *l, enum apic_delivery what, uint8_t vector)
{
    struct board *b = o;
    unsigned i = (unsigned)(l - b->l);
    b->nmi[i] += what == APIC_NMI;
    b->init[i] += what == APIC_INIT;
    b->sipi[i] += what == APIC_STARTUP;
    b->sipi_vector = vector;
}

static bool on_io(void *o, const struct apic_msg *m)
{
    struct board *b = o;
    return apic_route(b->all, 3, NULL, m);
}

static struct board *board(void)
{
    static struct board b;
    memset(&b, 0, sizeof(b));
    for (unsigned i = 0; i < 3; i++) {
        b.all[i] = &b.l[i];
        b.l[i].host = (struct lapic_host){.opaque = &b, .send = on_send, .eoi = on_eoi, .signal = on_signal};
        b.l[i].config = (struct lapic_config){.initial_id = i,
                                              .version = LAPIC_VERSION_INTEL,
                                              .tsc_num = 80,
                                              .tsc_den = 1,
                                              .phys_bits = 39,
                                              .bsp = i == 0,
                                              .x2apic = true,
                                              .tsc_deadline = true};
        lapic_init(&b.l[i]);
        lapic_write(&b.l[i], 0, LAPIC_SVR, 0x1ff);
    }
    ioapic_init(&b.io, 1);
    b.io.send = on_io;
    b.io.opaque = &b;
    return &b;
}

static bool fixed(struct lapic *l, uint8_t vector, bool level)
{
    struct apic_msg m = {.vector = vector, .delivery = APIC_FIXED, .level = level};
    return lapic_accept(l, &m);
}

static void x2apic(struct lapic *l)
{
    assert_true(lapic_write_msr(l, 0, LAPIC_MSR_BASE, l->s.base | LAPIC_BASE_EXTD));
}

static void reset_state_is_the_manuals(void **state)
{
    struct lapic *l = &board()->l[0];
    lapic_reset(l, false);
    uint64_t base;
    assert_true(lapic_read_msr(l, 0, LAPIC_MSR_BASE, &base));
    assert_int_equal(base, 0xfee00900);
    assert_int_equal(lapic_read(l, 0, LAPIC_SVR), 0xff);
    assert_int_equal(lapic_read(l, 0, LAPIC_DFR), 0xffffffff);
    assert_int_equal(lapic_read(l, 0, LAPIC_LINT0), 0x10000);
    assert_int_equal(lapic_read(l, 0, LAPIC_TIMER), 0x10000);
    assert_int_equal(lapic_read(l, 0, LAPIC_TPR), 0);
    assert_false(fixed(l, 0x40, false)); /* software-disabled */
}

static void highest_vector_first_and_priority_class_blocks(void **state)
{
    struct lapic *l = &board()->l[0];
    assert_int_equal(lapic_pending_vector(l), -1);
    fixed(l, 0x31, false);
    fixed(l, 0x52, false);
    assert_int_equal(lapic_ack(l), 0x52);
    assert_int_equal(lapic_pending_vector(l), -1); /* 0x31 waits under 0x52 */
    fixed(l, 0x5f, false);
    assert_int_equal(lapic_pending_vector(l), -1); /* same class */
    fixed(l, 0x60, false);
    assert_int_equal(lapic_ack(l), 0x60); /* nests */
    assert_int_equal(lapic_read(l, 0, LAPIC_PPR), 0x60);
    lapic_write(l, 0, LAPIC_EOI, 0);
    lapic_write(l, 0, LAPIC_EOI, 0);
    assert_int_equal(lapic_ack(l), 0x5f);
    lapic_write(l, 0, LAPIC_EOI, 0);
    assert_int_equal(lapic_ack(l), 0x31);
}

static void task_priority_holds_back(void **state)
{
    struct lapic *l = &board()->l[0];
    fixed(l, 0x45, false);
    lapic_set_tpr(l, 4);
    assert_int_equal(lapic_read(l, 0, LAPIC_TPR), 0x40);
    assert_int_equal(lapic_pending_vector(l), -1);
    assert_int_equal(lapic_ack(l), 0xff); /* spurious: nothing goes to ISR */
    assert_int_equal(lapic_read(l, 0, LAPIC_ISR + 0x70), 0);
    lapic_set_tpr(l, 3);
    assert_int_equal(lapic_pending_vector(l), 0x45);
}

static void low_vectors_are_illegal(void **state)
{
    struct lapic *l = &board()->l[0];
    lapic_write(l, 0, LAPIC_ERROR, 0xe0);
    assert_false(fixed(l, 15, false));
    assert_int_equal(lapic_read(l, 0, LAPIC_ESR), 0); /* until ESR is written */
    lapic_write(l, 0, LAPIC_ESR, 0);
    assert_int_equal(lapic_read(l, 0, LAPIC_ESR), 0x40);
    assert_int_equal(lapic_ack(l), 0xe0);
    lapic_write(l, 0, LAPIC_ESR, 0);
    assert_int_equal(lapic_read(l, 0, LAPIC_ESR), 0);
    lapic_write(l, 0, LAPIC_ICR_LOW, 0x40005); /* to self, fixed, vector 5 */
    lapic_write(l, 0, LAPIC_ESR, 0);
    assert_int_equal(lapic_read(l, 0, LAPIC_ESR), 0x20);
}

static void level_eoi_is_broadcast_unless_suppressed(void **state)
{
    struct board *b = board();
    struct lapic *l = &b->l[0];
    fixed(l, 0x41, true);
    assert_int_equal(lapic_read(l, 0, LAPIC_TMR + 0x20), 2);
    lapic_ack(l);
    lapic_write(l, 0, LAPIC_EOI, 0);
    assert_int_equal(b->eois, 1);
    assert_int_equal(b->last_eoi, 0x41);
    fixed(l, 0x41, false); /* edge clears TMR */
    lapic_ack(l);
    lapic_write(l, 0, LAPIC_EOI, 0);
    assert_int_equal(b->eois, 1);
    lapic_write(l, 0, LAPIC_SVR, 0x11ff);
    fixed(l, 0x41, true);
    lapic_ack(l);
    lapic_write(l, 0, LAPIC_EOI, 0);
    assert_int_equal(b->eois, 1);
}

static void one_shot_counts_at_the_divided_clock(void **state)
{
    struct lapic *l = &board()->l[0];
    lapic_write(l, 1000, LAPIC_TIMER, 0x50);
    lapic_write(l, 1000, LAPIC_TIMER_DIVIDE, 0xb); /* by 1 */
    lapic_write(l, 1000, LAPIC_TIMER_INITIAL, 100);
    assert_int_equal(lapic_deadline(l), 1000 + 100 * 80);
    assert_int_equal(lapic_read(l, 1000 + 40 * 80, LAPIC_TIMER_CURRENT), 60);
    lapic_run(l, 1000 + 100 * 80 - 1);
    assert_int_equal(lapic_pending_vector(l), -1);
    lapic_run(l, 1000 + 100 * 80);
    assert_int_equal(lapic_ack(l), 0x50);
    assert_int_equal(lapic_read(l, 20000, LAPIC_TIMER_CURRENT), 0);
    assert_true(lapic_deadline(l) == DEVICE_NEVER);
    static const uint32_t by[] = {2, 4, 8, 16, 32, 64, 128, 1}, code[] = {0, 1, 2, 3, 8, 9, 10, 11};
    for (unsigned i = 0; i < 8; i++) {
        lapic_write(l, 100000, LAPIC_TIMER_DIVIDE, code[i]);
        lapic_write(l, 100000, LAPIC_TIMER_INITIAL, 10);
        assert_int_equal(lapic_deadline(l), 100000 + 10 * by[i] * 80);
    }
}

static void periodic_reloads_without_drift(void **state)
{
    struct lapic *l = &board()->l[0];
    lapic_write(l, 0, LAPIC_TIMER, 0x20051);
    lapic_write(l, 0, LAPIC_TIMER_DIVIDE, 0xb);
    lapic_write(l, 0, LAPIC_TIMER_INITIAL, 10);
    for (uint64_t n = 1; n < 5; n++) {
        assert_int_equal(lapic_deadline(l), n * 800);
        lapic_run(l, n * 800 + 3); /* late: the next is not */
        assert_int_equal(lapic_ack(l), 0x51);
        lapic_write(l, n * 800 + 4, LAPIC_EOI, 0);
    }
    lapic_run(l, 8000 + 1); /* several missed: one interrupt */
    assert_int_equal(lapic_deadline(l), 8800);
    lapic_write(l, 8100, LAPIC_TIMER_INITIAL, 0); /* stops */
    assert_true(lapic_deadline(l) == DEVICE_NEVER);
}

static void masked_timer_counts_silently(void **state)
{
    struct lapic *l = &board()->l[0];
    lapic_write(l, 0, LAPIC_TIMER, 0x10050);
    lapic_write(l, 0, LAPIC_TIMER_DIVIDE, 0xb);
    lapic_write(l, 0, LAPIC_TIMER_INITIAL, 10);
    assert_true(lapic_deadline(l) == DEVICE_NEVER);
    assert_int_equal(lapic_read(l, 400, LAPIC_TIMER_CURRENT), 5);
    lapic_run(l, 900);
    lapic_write(l, 1000, LAPIC_TIMER, 0x50);
    lapic_run(l, 5000);
    assert_int_equal(lapic_pending_vector(l), -1);
}

static void tsc_deadline_mode(void **state)
{
    struct lapic *l = &board()->l[0];
    uint64_t v;
    assert_true(lapic_write_msr(l, 0, LAPIC_MSR_TSC_DEADLINE, 500)); /* wrong mode: ignored */
    assert_true(lapic_read_msr(l, 0, LAPIC_MSR_TSC_DEADLINE, &v));
    assert_int_equal(v, 0);
    lapic_write(l, 0, LAPIC_TIMER, 0x40052);
    lapic_write(l, 0, LAPIC_TIMER_INITIAL, 77); /* ignored in this mode */
    assert_int_equal(lapic_read(l, 0, LAPIC_TIMER_INITIAL), 0);
    lapic_write_msr(l, 10, LAPIC_MSR_TSC_DEADLINE, 500);
    assert_int_equal(lapic_deadline(l), 500);
    lapic_read_msr(l, 499, LAPIC_MSR_TSC_DEADLINE, &v);
    assert_int_equal(v, 500);
    lapic_run(l, 500);
    assert_int_equal(lapic_ack(l), 0x52);
    lapic_write(l, 500, LAPIC_EOI, 0);
    lapic_read_msr(l, 501, LAPIC_MSR_TSC_DEADLINE, &v);
    assert_int_equal(v, 0);                               /* disarmed */
    lapic_write_msr(l, 600, LAPIC_MSR_TSC_DEADLINE, 599); /* in the past: at once */
    assert_int_equal(lapic_ack(l), 0x52);
    lapic_write(l, 600, LAPIC_EOI, 0);
    lapic_write_msr(l, 700, LAPIC_MSR_TSC_DEADLINE, 900);
    lapic_write_msr(l, 710, LAPIC_MSR_TSC_DEADLINE, 0); /* disarms */
    lapic_run(l, 1000);
    assert_int_equal(lapic_pending_vector(l), -1);
    lapic_write_msr(l, 1000, LAPIC_MSR_TSC_DEADLINE, 2000);
    lapic_write(l, 1000, LAPIC_TIMER, 0x52); /* leaving the mode disarms */
    lapic_run(l, 3000);
    assert_int_equal(lapic_pending_vector(l), -1);
    /* the guest's TSC runs ahead by 10000 */
    lapic_set_tsc_offset(l, 3000, 10000);
    lapic_write(l, 3000, LAPIC_TIMER, 0x40052);
    lapic_write_msr(l, 3000, LAPIC_MSR_TSC_DEADLINE, 13500);
    assert_int_equal(lapic_deadline(l), 3500);
}

static void destinations_in_xapic_mode(void **state)
{
    struct board *b = board();
    assert_true(lapic_match(&b->l[1], 1, false));
    assert_false(lapic_match(&b->l[1], 2, false));
    assert_true(lapic_match(&b->l[1], 0xff, false));
    lapic_write(&b->l[1], 0, LAPIC_LDR, 0x02000000);
    assert_true(lapic_match(&b->l[1], 0x06, true));
    assert_false(lapic_match(&b->l[1], 0x05, true));
    lapic_write(&b->l[1], 0, LAPIC_DFR, 0x0fffffff); /* cluster model */
    lapic_write(&b->l[1], 0, LAPIC_LDR, 0x32000000);
    assert_true(lapic_match(&b->l[1], 0x36, true));
    assert_false(lapic_match(&b->l[1], 0x26, true));
    assert_true(lapic_match(&b->l[1], 0xf2, true));
}

static void destinations_in_x2apic_mode(void **state)
{
    struct board *b = board();
    b->l[2].config.initial_id = 0x123;
    x2apic(&b->l[2]);
    uint64_t v;
    assert_true(lapic_read_msr(&b->l[2], 0, 0x80d, &v));
    assert_int_equal(v, 0x12u << 16 | 1 << 3);
    assert_true(lapic_match(&b->l[2], 0x123, false));
    assert_true(lapic_match(&b->l[2], UINT32_MAX, false));
    assert_false(lapic_match(&b->l[2], 0xff, false));
    assert_true(lapic_match(&b->l[2], 0x120018, true));
    assert_false(lapic_match(&b->l[2], 0x120010, true));
    assert_false(lapic_match(&b->l[2], 0x130018, true));
}

static void ipis_and_shorthands(void **state)
{
    struct board *b = board();
    lapic_write(&b->l[0], 0, LAPIC_ICR_HIGH, 2u << 24);
    lapic_write(&b->l[0], 0, LAPIC_ICR_LOW, 0x61);
    assert_int_equal(lapic_pending_vector(&b->l[2]), 0x61);
    assert_int_equal(lapic_pending_vector(&b->l[1]), -1);
    lapic_write(&b->l[0], 0, LAPIC_ICR_LOW, 0xc0062); /* all but self */
    assert_int_equal(lapic_pending_vector(&b->l[0]), -1);
    assert_int_equal(lapic_pending_vector(&b->l[1]), 0x62);
    lapic_write(&b->l[0], 0, LAPIC_ICR_LOW, 0x80063); /* all */
    assert_int_equal(lapic_pending_vector(&b->l[0]), 0x63);
    lapic_write(&b->l[0], 0, LAPIC_ICR_LOW, 0xc4500); /* INIT, assert */
    assert_int_equal(b->init[1] + b->init[2], 2);
    assert_int_equal(b->init[0], 0);
    lapic_write(&b->l[0], 0, LAPIC_ICR_LOW, 0xc8500); /* INIT level de-assert: nobody is reset */
    assert_int_equal(b->init[1], 1);
    lapic_write(&b->l[0], 0, LAPIC_ICR_HIGH, 1u << 24);
    lapic_write(&b->l[0], 0, LAPIC_ICR_LOW, 0x4698);
    assert_int_equal(b->sipi[1], 1);
    assert_int_equal(b->sipi_vector, 0x98);
    lapic_write(&b->l[0], 0, LAPIC_ICR_LOW, 0x4400);
    assert_int_equal(b->nmi[1], 1);
}

static void lowest_priority_goes_to_the_least_busy(void **state)
{
    struct board *b = board();
    lapic_set_tpr(&b->l[0], 8);
    lapic_set_tpr(&b->l[1], 2);
    lapic_set_tpr(&b->l[2], 5);
    struct apic_msg m = {.dest = 0xff, .vector = 0x99, .delivery = APIC_LOWEST};
    assert_int_equal(apic_route(b->all, 3, NULL, &m), 1);
    assert_int_equal(lapic_pending_vector(&b->l[1]), 0x99);
    assert_int_equal(lapic_pending_vector(&b->l[2]), -1);
}

static void mode_transitions(void **state)
{
    struct lapic *l = &board()->l[0];
    uint64_t en = 0xfee00000 | LAPIC_BASE_BSP | LAPIC_BASE_EN, extd = en | LAPIC_BASE_EXTD, v;
    assert_false(lapic_write_msr(l, 0, LAPIC_MSR_BASE, 0xfee00000 | LAPIC_BASE_EXTD)); /* EXTD without EN */
    assert_true(lapic_write_msr(l, 0, LAPIC_MSR_BASE, extd));
    assert_false(lapic_write_msr(l, 0, LAPIC_MSR_BASE, en)); /* x2APIC to xAPIC */
    assert_true(lapic_write_msr(l, 0, LAPIC_MSR_BASE, 0xfee00000));
    assert_false(lapic_write_msr(l, 0, LAPIC_MSR_BASE, extd)); /* disabled to x2APIC */
    assert_true(lapic_write_msr(l, 0, LAPIC_MSR_BASE, en));
    assert_int_equal(lapic_read(l, 0, LAPIC_SVR), 0xff);                         /* the state was lost */
    assert_false(lapic_write_msr(l, 0, LAPIC_MSR_BASE, en | UINT64_C(1) << 39)); /* beyond MAXPHYADDR */
    assert_false(lapic_write_msr(l, 0, LAPIC_MSR_BASE, en | 1));
    assert_false(lapic_read_msr(l, 0, 0x802, &v)); /* x2APIC MSRs in xAPIC mode */
}

static void x2apic_registers_fault_as_documented(void **state)
{
    struct board *b = board();
    struct lapic *l = &b->l[0];
    uint64_t v;
    x2apic(l);
    assert_int_equal(lapic_read(l, 0, LAPIC_SVR), UINT32_MAX); /* no MMIO now */
    assert_false(lapic_write_msr(l, 0, 0x802, 1));             /* ID is read-only */
    assert_false(lapic_write_msr(l, 0, 0x80d, 1));             /* LDR too */
    assert_false(lapic_read_msr(l, 0, 0x80e, &v));             /* no DFR */
    assert_false(lapic_read_msr(l, 0, 0x80b, &v));             /* EOI is write-only */
    assert_false(lapic_write_msr(l, 0, 0x80b, 1));
    assert_true(lapic_write_msr(l, 0, 0x80b, 0));
    assert_false(lapic_write_msr(l, 0, 0x828, 1));
    assert_false(lapic_write_msr(l, 0, 0x808, 0x100));
    assert_false(lapic_write_msr(l, 0, 0x808, UINT64_C(1) << 32));
    assert_false(lapic_write_msr(l, 0, 0x831, 0)); /* the ICR is one register */
    assert_false(lapic_write_msr(l, 0, 0x832, 0x80000));
    assert_true(lapic_write_msr(l, 0, 0x83f, 0x77));
    assert_int_equal(lapic_ack(l), 0x77);
    assert_false(lapic_read_msr(l, 0, 0x83f, &v));
    assert_true(lapic_write_msr(l, 0, 0x830, UINT64_C(2) << 32 | 0x4400));
    assert_int_equal(b->nmi[2], 1);
    assert_false(lapic_write_msr(l, 0, 0x830, 0x100000));
}

static void init_keeps_base_and_id(void **state)
{
    struct lapic *l = &board()->l[1];
    x2apic(l);
    lapic_write_msr(l, 0, 0x80f, 0x1ff);
    fixed(l, 0x44, false);
    lapic_reset(l, true);
    uint64_t v;
    assert_true(lapic_read_msr(l, 0, 0x802, &v));
    assert_int_equal(v, 1);
    assert_true(lapic_read_msr(l, 0, 0x80d, &v));
    assert_int_equal(v, 2);
    assert_int_equal(lapic_pending_vector(l), -1);
}

static void software_disable_masks_and_holds(void **state)
{
    struct lapic *l = &board()->l[0];
    lapic_write(l, 0, LAPIC_LINT0, 0x700);
    fixed(l, 0x44, false);
    lapic_write(l, 0, LAPIC_SVR, 0xff);
    assert_int_equal(lapic_read(l, 0, LAPIC_LINT0), 0x10700);
    lapic_write(l, 0, LAPIC_LINT0, 0x700);
    assert_int_equal(lapic_read(l, 0, LAPIC_LINT0), 0x10700); /* masks cannot be cleared */
    assert_int_equal(lapic_pending_vector(l), 0x44);          /* what was pending still is */
    assert_false(fixed(l, 0x45, false));
    struct apic_msg nmi = {.delivery = APIC_NMI};
    assert_true(lapic_accept(l, &nmi));
}

static void lint_pins(void **state)
{
    struct board *b = board();
    struct lapic *l = &b->l[0];
    lapic_write(l, 0, LAPIC_LINT0, 0x700);
    lapic_write(l, 0, LAPIC_LINT1, 0x400);
    lapic_lint(l, 0, true);
    assert_true(lapic_extint(l));
    lapic_lint(l, 0, false);
    assert_false(lapic_extint(l));
    lapic_lint(l, 1, true);
    lapic_lint(l, 1, true);
    assert_int_equal(b->nmi[0], 1);         /* an edge */
    lapic_write(l, 0, LAPIC_LINT0, 0x8055); /* fixed, level */
    lapic_lint(l, 0, true);
    assert_int_equal(lapic_read(l, 0, LAPIC_LINT0), 0xc055); /* remote IRR */
    assert_int_equal(lapic_ack(l), 0x55);
    assert_int_equal(lapic_pending_vector(l), -1);
    lapic_write(l, 0, LAPIC_EOI, 0);
    assert_int_equal(lapic_pending_vector(l), 0x55); /* the line is still high */
}

static void io_write(struct board *b, unsigned index, uint32_t v)
{
    device_write(&ioapic_ops, &b->io, 0, 0, 4, index);
    device_write(&ioapic_ops, &b->io, 0, 0x10, 4, v);
}

static uint32_t io_read(struct board *b, unsigned index)
{
    device_write(&ioapic_ops, &b->io, 0, 0, 4, index);
    return (uint32_t)device_read(&ioapic_ops, &b->io, 0, 0x10, 4);
}

static void ioapic_registers(void **state)
{
    struct board *b = board();
    assert_int_equal(io_read(b, 1), 0x170020);
    assert_int_equal(io_read(b, 0x10), 0x10000);
    io_write(b, 0x12, 0xffffffff);
    assert_int_equal(io_read(b, 0x12), 0x1afff); /* delivery status and remote IRR are read-only */
    io_write(b, 0, 0x0f000000);
    assert_int_equal(io_read(b, 0), 0x0f000000);
}

static void ioapic_edges(void **state)
{
    struct board *b = board();
    io_write(b, 0x10 + 2 * 4 + 1, 1u << 24);
    ioapic_set_line(&b->io, 4, true);
    io_write(b, 0x10 + 2 * 4, 0x34);
    assert_int_equal(lapic_pending_vector(&b->l[1]), -1); /* the edge was lost under the mask */
    ioapic_set_line(&b->io, 4, false);
    ioapic_set_line(&b->io, 4, true);
    assert_int_equal(lapic_ack(&b->l[1]), 0x34);
    lapic_write(&b->l[1], 0, LAPIC_EOI, 0);
    assert_int_equal(lapic_pending_vector(&b->l[1]), -1);
}

static void ioapic_levels_repeat_until_the_line_falls(void **state)
{
    struct board *b = board();
    struct lapic *l = &b->l[0];
    io_write(b, 0x10 + 2 * 9, 0x8039);
    ioapic_set_line(&b->io, 9, true);
    assert_int_equal(io_read(b, 0x10 + 2 * 9), 0xc039);
    assert_int_equal(lapic_ack(l), 0x39);
    assert_int_equal(lapic_pending_vector(l), -1);
    lapic_write(l, 0, LAPIC_EOI, 0);
    assert_int_equal(lapic_ack(l), 0x39); /* again */
    ioapic_set_line(&b->io, 9, false);
    lapic_write(l, 0, LAPIC_EOI, 0);
    assert_int_equal(lapic_pending_vector(l), -1);
    assert_int_equal(io_read(b, 0x10 + 2 * 9), 0x8039);
    io_write(b, 0x10 + 2 * 9, 0x1a039); /* active low, masked */
    io_write(b, 0x10 + 2 * 9, 0xa039);  /* the line is low: active */
    assert_int_equal(lapic_ack(l), 0x39);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reset_state_is_the_manuals),
        cmocka_unit_test(highest_vector_first_and_priority_class_blocks),
        cmocka_unit_test(task_priority_holds_back),
        cmocka_unit_test(low_vectors_are_illegal),
        cmocka_unit_test(level_eoi_is_broadcast_unless_suppressed),
        cmocka_unit_test(one_shot_counts_at_the_divided_clock),
        cmocka_unit_test(periodic_reloads_without_drift),
        cmocka_unit_test(masked_timer_counts_silently),
        cmocka_unit_test(tsc_deadline_mode),
        cmocka_unit_test(destinations_in_xapic_mode),
        cmocka_unit_test(destinations_in_x2apic_mode),
        cmocka_unit_test(ipis_and_shorthands),
        cmocka_unit_test(lowest_priority_goes_to_the_least_busy),
        cmocka_unit_test(mode_transitions),
        cmocka_unit_test(x2apic_registers_fault_as_documented),
        cmocka_unit_test(init_keeps_base_and_id),
        cmocka_unit_test(software_disable_masks_and_holds),
        cmocka_unit_test(lint_pins),
        cmocka_unit_test(ioapic_registers),
        cmocka_unit_test(ioapic_edges),
        cmocka_unit_test(ioapic_levels_repeat_until_the_line_falls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
