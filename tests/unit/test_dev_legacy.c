/* SPDX-License-Identifier: MIT
 *
 * 8259A, 8254, MC146818, 16550A, ACPI fixed hardware, by their data sheets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "src/dev/acpi_pm.h"
#include "src/dev/acpi_tables.h"
#include "src/dev/i8042.h"
#include "src/dev/misc.h"
#include "src/dev/pic.h"
#include "src/dev/pit.h"
#include "src/dev/rtc.h"
#include "src/dev/uart.h"

struct wire {
    bool level;
    unsigned rises;
};

static void on_line(void *o, unsigned line, bool level)
{
    struct wire *w = o;
    w->rises += level && !w->level;
    w->level = level;
}

static uint8_t in(const struct device_ops *ops, void *dev, uint64_t now, unsigned offset)
{
    return (uint8_t)device_read(ops, dev, now, offset, 1);
}

static void out(const struct device_ops *ops, void *dev, uint64_t now, unsigned offset, uint8_t v)
{
    device_write(ops, dev, now, offset, 1, v);
}

/* ---- 8259A ---------------------------------------------------------------------------------------------------- */

static struct wire intr;

static struct pic *pic(void)
{
    static struct pic p;
    memset(&p, 0, sizeof(p));
    intr = (struct wire){0};
    p.intr = (struct device_line){.set = on_line, .opaque = &intr};
    pic_init(&p);
    static const uint8_t master[] = {0x11, 0x20, 0x04, 0x01}, slave[] = {0x11, 0x28, 0x02, 0x01};
    for (unsigned i = 0; i < 4; i++) {
        out(&pic_ops, &p, 0, i ? 1 : 0, master[i]);
        out(&pic_ops, &p, 0, i ? 3 : 2, slave[i]);
    }
    return &p;
}

static void pulse(struct pic *p, unsigned line)
{
    pic_set_line(p, line, false);
    pic_set_line(p, line, true);
}

static void pic_fixed_priority(void **state)
{
    struct pic *p = pic();
    pulse(p, 4);
    pulse(p, 1);
    assert_true(intr.level);
    assert_int_equal(pic_ack(p), 0x21);
    assert_false(intr.level); /* 4 waits under 1 */
    pulse(p, 0);
    assert_int_equal(pic_ack(p), 0x20); /* nests */
    out(&pic_ops, p, 0, 0, 0x20);
    out(&pic_ops, p, 0, 0, 0x20);
    assert_int_equal(pic_ack(p), 0x24);
    out(&pic_ops, p, 0, 0, 0x0b);
    assert_int_equal(in(&pic_ops, p, 0, 0), 0x10); /* ISR */
    out(&pic_ops, p, 0, 0, 0x64);                  /* specific EOI */
    assert_int_equal(in(&pic_ops, p, 0, 0), 0);
}

static void pic_edge_is_one_request(void **state)
{
    struct pic *p = pic();
    pulse(p, 3);
    assert_int_equal(pic_ack(p), 0x23);
    out(&pic_ops, p, 0, 0, 0x20);
    assert_false(intr.level); /* still high, no new edge */
    pulse(p, 3);
    pic_set_line(p, 3, false); /* gone before INTA */
    assert_false(intr.level);
    assert_int_equal(pic_ack(p), 0x27); /* spurious, nothing in service */
    out(&pic_ops, p, 0, 0, 0x0b);
    assert_int_equal(in(&pic_ops, p, 0, 0), 0);
}

static void pic_level_by_elcr(void **state)
{
    struct pic *p = pic();
    out(&pic_ops, p, 0, 4, 0xff);
    assert_int_equal(in(&pic_ops, p, 0, 4), 0xf8); /* lines 0 to 2 stay edge */
    pic_set_line(p, 5, true);
    assert_int_equal(pic_ack(p), 0x25);
    out(&pic_ops, p, 0, 0, 0x20);
    assert_true(intr.level); /* as long as the line is high */
    pic_set_line(p, 5, false);
    assert_false(intr.level);
}

static void pic_cascade(void **state)
{
    struct pic *p = pic();
    pulse(p, 12);
    pulse(p, 8);
    assert_int_equal(pic_ack(p), 0x28);
    assert_false(intr.level);
    out(&pic_ops, p, 0, 2, 0x20); /* slave's EOI: 12 comes up, but the master's 2 is in service */
    assert_false(intr.level);
    out(&pic_ops, p, 0, 0, 0x20);
    assert_int_equal(pic_ack(p), 0x2c);
}

static void pic_mask_and_special_mask(void **state)
{
    struct pic *p = pic();
    out(&pic_ops, p, 0, 1, 0x02);
    assert_int_equal(in(&pic_ops, p, 0, 1), 0x02);
    pulse(p, 1);
    assert_false(intr.level);
    out(&pic_ops, p, 0, 1, 0);
    assert_int_equal(pic_ack(p), 0x21);
    pulse(p, 6);
    assert_false(intr.level);
    out(&pic_ops, p, 0, 1, 0x02);
    out(&pic_ops, p, 0, 0, 0x68); /* special mask: a masked in-service level does not hold back */
    assert_true(intr.level);
    assert_int_equal(pic_ack(p), 0x26);
}

static void pic_rotation_aeoi_poll(void **state)
{
    struct pic *p = pic();
    out(&pic_ops, p, 0, 0, 0xc3); /* lowest is 3: 4 is highest */
    pulse(p, 0);
    pulse(p, 4);
    assert_int_equal(pic_ack(p), 0x24);
    out(&pic_ops, p, 0, 0, 0xa0); /* rotate on non-specific EOI: 4 is lowest now */
    pulse(p, 4);
    assert_int_equal(pic_ack(p), 0x20);
    out(&pic_ops, p, 0, 0, 0x20);
    out(&pic_ops, p, 0, 0, 0x0c); /* poll */
    assert_int_equal(in(&pic_ops, p, 0, 0), 0x84);
    out(&pic_ops, p, 0, 0, 0x20);
    out(&pic_ops, p, 0, 0, 0x0c);
    assert_int_equal(in(&pic_ops, p, 0, 0), 0);
    out(&pic_ops, p, 0, 0, 0x11);
    out(&pic_ops, p, 0, 1, 0x40);
    out(&pic_ops, p, 0, 1, 0x04);
    out(&pic_ops, p, 0, 1, 0x03); /* AEOI */
    pulse(p, 7);
    assert_int_equal(pic_ack(p), 0x47);
    pulse(p, 7);
    assert_int_equal(pic_ack(p), 0x47); /* nothing stays in service */
}

/* ---- 8254 ----------------------------------------------------------------------------------------------------- */

static struct wire irq0;

static struct pit *pit(void)
{
    static struct pit p;
    memset(&p, 0, sizeof(p));
    p.irq = (struct device_line){.set = on_line, .opaque = &irq0};
    pit_init(&p);
    irq0 = (struct wire){.level = true};
    return &p;
}

static uint64_t ns(uint64_t ticks)
{
    return device_muldiv_up(ticks, DEVICE_NS_PER_S, PIT_HZ);
}

static unsigned count_of(struct pit *p, uint64_t now, unsigned ch)
{
    out(&pit_ops, p, now, 3, (uint8_t)(ch << 6));
    unsigned low = in(&pit_ops, p, now, ch);
    return low | in(&pit_ops, p, now, ch) << 8;
}

static void pit_rate_generator(void **state)
{
    struct pit *p = pit();
    out(&pit_ops, p, 0, 3, 0x34);
    out(&pit_ops, p, 0, 0, 1000 & 0xff);
    out(&pit_ops, p, 0, 0, 1000 >> 8);
    assert_int_equal(count_of(p, ns(1), 0), 1000);
    assert_int_equal(count_of(p, ns(1 + 400), 0), 600);
    assert_int_equal(pit_deadline(p), ns(1001));
    for (unsigned n = 1; n <= 5; n++) {
        pit_run(p, ns(1 + n * 1000));
        assert_int_equal(irq0.rises, n);
        assert_int_equal(pit_deadline(p), ns(1 + (n + 1) * 1000));
    }
    /* a new count is taken at the end of the period */
    out(&pit_ops, p, ns(5500), 0, 100);
    out(&pit_ops, p, ns(5500), 0, 0);
    assert_int_equal(pit_deadline(p), ns(6001));
    pit_run(p, ns(6001));
    assert_int_equal(pit_deadline(p), ns(6101));
}

static void pit_terminal_count(void **state)
{
    struct pit *p = pit();
    out(&pit_ops, p, 0, 3, 0x30);
    assert_false(irq0.level); /* OUT is low from the control word on */
    out(&pit_ops, p, 0, 0, 50);
    assert_true(pit_deadline(p) == DEVICE_NEVER); /* half a count does not count */
    out(&pit_ops, p, 0, 0, 0);
    pit_run(p, ns(50));
    assert_false(irq0.level);
    pit_run(p, ns(51));
    assert_true(irq0.level);
    assert_true(pit_deadline(p) == DEVICE_NEVER);
    assert_int_equal(count_of(p, ns(61), 0), 65536 - 10); /* it wraps and goes on */
    assert_int_equal(irq0.rises, 1);
}

static void pit_strobe(void **state)
{
    struct pit *p = pit();
    out(&pit_ops, p, 0, 3, 0x18); /* low byte only, mode 4 */
    out(&pit_ops, p, 0, 0, 20);
    assert_true(irq0.level);
    assert_int_equal(pit_deadline(p), ns(22));
    pit_run(p, ns(22));
    assert_int_equal(irq0.rises, 1);
    pit_run(p, ns(100000));
    assert_int_equal(irq0.rises, 1);
}

static void pit_square_wave(void **state)
{
    struct pit *p = pit();
    out(&pit_ops, p, 0, 3, 0x36);
    out(&pit_ops, p, 0, 0, 7);
    out(&pit_ops, p, 0, 0, 0);
    /* odd: high for 4, low for 3 */
    static const bool level[] = {1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 0};
    for (unsigned i = 0; i < sizeof(level); i++) {
        pit_run(p, ns(1 + i));
        assert_int_equal(irq0.level, level[i]);
    }
    pit_run(p, ns(1 + 7000));
    assert_true(irq0.level);
}

static void pit_gate_and_speaker_port(void **state)
{
    struct pit *p = pit();
    out(&pit_ops, p, 0, 3, 0xb0); /* channel 2, mode 0 */
    out(&pit_ops, p, 0, 2, 100);
    out(&pit_ops, p, 0, 2, 0);
    assert_int_equal(in(&pit_ops, p, ns(1000), 4) & 0x20, 0); /* the gate is low: it does not count */
    out(&pit_ops, p, ns(1000), 4, 1);
    assert_int_equal(in(&pit_ops, p, ns(1050), 4) & 0x21, 0x01);
    assert_int_equal(in(&pit_ops, p, ns(1101), 4) & 0x21, 0x21);
}

static void pit_read_back_and_bcd(void **state)
{
    struct pit *p = pit();
    out(&pit_ops, p, 0, 3, 0x35); /* BCD, mode 2 */
    out(&pit_ops, p, 0, 0, 0x00);
    out(&pit_ops, p, 0, 0, 0x10); /* 1000 */
    assert_int_equal(pit_deadline(p), ns(1001));
    assert_int_equal(count_of(p, ns(1 + 1), 0), 0x999);
    out(&pit_ops, p, ns(10), 3, 0xc2); /* latch status and count of channel 0 */
    assert_int_equal(in(&pit_ops, p, ns(20), 0), 0x80 | 0x30 | 4 | 1);
    assert_int_equal(in(&pit_ops, p, ns(30), 0), 0x91); /* 991 at tick 10 */
    assert_int_equal(in(&pit_ops, p, ns(40), 0), 0x09);
}

/* ---- MC146818 ------------------------------------------------------------------------------------------------- */

static struct wire irq8;
#define EPOCH UINT64_C(1709207999) /* 2024-02-29 11:59:59 UTC, a Thursday */

static struct rtc *rtc(void)
{
    static struct rtc r;
    memset(&r, 0, sizeof(r));
    irq8 = (struct wire){0};
    r.irq = (struct device_line){.set = on_line, .opaque = &irq8};
    rtc_init(&r, 0, EPOCH);
    return &r;
}

static uint8_t cmos(struct rtc *r, uint64_t now, uint8_t i)
{
    out(&rtc_ops, r, now, 0, i);
    return in(&rtc_ops, r, now, 1);
}

static void set_cmos(struct rtc *r, uint64_t now, uint8_t i, uint8_t v)
{
    out(&rtc_ops, r, now, 0, i);
    out(&rtc_ops, r, now, 1, v);
}

static void rtc_tells_the_time(void **state)
{
    struct rtc *r = rtc();
    const uint64_t s = DEVICE_NS_PER_S;
    static const uint8_t bcd[][2] = {{0, 0x59}, {2, 0x59}, {4, 0x11}, {6, 5},
                                     {7, 0x29}, {8, 2},    {9, 0x24}, {0x32, 0x20}};
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(cmos(r, s / 2, bcd[i][0]), bcd[i][1]);
    }
    assert_int_equal(cmos(r, s / 2, 10) & 0x80, 0);
    assert_int_equal(cmos(r, s - 100000, 10) & 0x80, 0x80); /* update in progress */
    assert_int_equal(cmos(r, s, 4), 0x12);
    set_cmos(r, s, 11, 0x00); /* 12-hour */
    assert_int_equal(cmos(r, s, 4), 0x92);
    set_cmos(r, s, 11, 0x06); /* binary, 24-hour */
    assert_int_equal(cmos(r, s + 86399 * s, 0), 59);
    assert_int_equal(cmos(r, s + 43200 * s, 7), 1); /* the first of March */
    assert_int_equal(cmos(r, 0, 13), 0x80);
}

static void rtc_set_holds_and_takes_the_time(void **state)
{
    struct rtc *r = rtc();
    const uint64_t s = DEVICE_NS_PER_S;
    set_cmos(r, s, 11, 0x82);
    assert_int_equal(cmos(r, 10 * s, 0), 0x00); /* stands still */
    set_cmos(r, 10 * s, 0, 0x30);
    set_cmos(r, 10 * s, 9, 0x31);
    set_cmos(r, 10 * s, 11, 0x02);
    assert_int_equal(cmos(r, 10 * s, 0), 0x30);
    assert_int_equal(cmos(r, 11 * s, 0), 0x31);
    assert_int_equal(cmos(r, 11 * s, 9), 0x31);
}

static void rtc_interrupts(void **state)
{
    struct rtc *r = rtc();
    const uint64_t s = DEVICE_NS_PER_S;
    assert_true(rtc_deadline(r) == DEVICE_NEVER);
    set_cmos(r, 0, 11, 0x12); /* update-ended */
    assert_int_equal(rtc_deadline(r), s);
    rtc_run(r, s);
    assert_true(irq8.level);
    assert_int_equal(cmos(r, s, 12), 0x90 | 0x40); /* PF stands without its enable */
    assert_false(irq8.level);
    assert_int_equal(cmos(r, s, 12), 0); /* reading clears */
    set_cmos(r, s, 1, 0x05);
    set_cmos(r, s, 3, 0xff);
    set_cmos(r, s, 5, 0xff);
    set_cmos(r, s, 11, 0x22); /* alarm at every minute's second 5 */
    for (uint64_t t = 2; t < 6; t++) {
        rtc_run(r, t * s);
        assert_false(irq8.level);
    }
    rtc_run(r, 6 * s);
    assert_true(irq8.level);
    assert_int_equal(cmos(r, 6 * s, 12) & 0xa0, 0xa0);
    set_cmos(r, 6 * s, 11, 0x42); /* periodic, 1024 Hz */
    assert_int_equal(rtc_deadline(r), 6 * s + device_muldiv_up(32, s, 32768));
    rtc_run(r, rtc_deadline(r));
    assert_true(irq8.level);
}

/* ---- 16550A --------------------------------------------------------------------------------------------------- */

static struct wire irq4;
static char sent[64];
static unsigned nsent;

static void on_tx(void *o, uint8_t byte)
{
    sent[nsent++ % 64] = (char)byte;
}

static struct uart *uart(void)
{
    static struct uart u;
    memset(&u, 0, sizeof(u));
    irq4 = (struct wire){0};
    nsent = 0;
    u.irq = (struct device_line){.set = on_line, .opaque = &irq4};
    u.tx = (struct device_out){.put = on_tx};
    uart_init(&u);
    return &u;
}

static uint8_t rd(struct uart *u, unsigned reg)
{
    return in(&uart_ops, u, 0, reg);
}
static void wr(struct uart *u, unsigned reg, uint8_t v)
{
    out(&uart_ops, u, 0, reg, v);
}

static void uart_is_found_as_16550a(void **state)
{
    struct uart *u = uart();
    wr(u, 1, 0x0f);
    assert_int_equal(rd(u, 1), 0x0f);
    wr(u, 1, 0xff);
    assert_int_equal(rd(u, 1), 0x0f); /* the upper half reads 0 */
    wr(u, 1, 0);
    wr(u, 7, 0x5a);
    assert_int_equal(rd(u, 7), 0x5a);
    assert_int_equal(rd(u, 2) & 0xc0, 0);
    wr(u, 2, 1);
    assert_int_equal(rd(u, 2) & 0xf0, 0xc0); /* both FIFO bits: not a 16550 without A, not a 16750 */
    wr(u, 4, 0x1a);                          /* loopback: RTS, OUT2 */
    assert_int_equal(rd(u, 6) & 0xf0, 0x90);
    wr(u, 3, 0x80);
    wr(u, 0, 12);
    wr(u, 1, 0);
    assert_int_equal(rd(u, 0), 12);
    wr(u, 3, 3);
    assert_int_equal(rd(u, 5), 0x60);
}

static void uart_transmits_and_interrupts(void **state)
{
    struct uart *u = uart();
    wr(u, 4, 0x08);
    wr(u, 1, 2);
    assert_true(irq4.level); /* THRE is set: enabling raises it */
    assert_int_equal(rd(u, 2), 2);
    assert_false(irq4.level); /* reading IIR clears it */
    assert_int_equal(rd(u, 2), 1);
    wr(u, 0, 'A');
    assert_int_equal(nsent, 1);
    assert_int_equal(sent[0], 'A');
    assert_true(irq4.level);
    assert_int_equal(irq4.rises, 2);
    wr(u, 4, 0); /* OUT2 gates the line */
    assert_false(irq4.level);
}

/* Input waits until somebody listens: by interrupt, or by looking again and again. */
static void uart_listens_by_interrupt_or_polling(void **state)
{
    struct uart *u = uart();
    assert_false(uart_listens(u));
    wr(u, 1, 1);
    assert_true(uart_listens(u));
    wr(u, 1, 0);
    for (int i = 0; i < 1000; i++) { /* sending looks once for each byte */
        rd(u, 5);
        wr(u, 0, 'x');
    }
    assert_false(uart_listens(u));
    for (int i = 0; i < UART_POLLS; i++)
        rd(u, 5);
    assert_true(uart_listens(u));
    rd(u, 0);
    assert_true(uart_listens(u));
    rd(u, 5), wr(u, 0, 'x'), rd(u, 5), wr(u, 0, 'x'); /* an echo does not end it */
    rd(u, 5), rd(u, 5);
    assert_true(uart_listens(u));
    wr(u, 2, 7); /* a driver that sets the port up begins anew */
    assert_false(uart_listens(u));
}

static void uart_receives_through_the_fifo(void **state)
{
    struct uart *u = uart();
    wr(u, 4, 0x08);
    wr(u, 2, 0x81); /* trigger at 8 */
    wr(u, 1, 5);
    for (unsigned i = 0; i < 7; i++) {
        uart_receive(u, 0, (uint8_t)('0' + i));
    }
    assert_false(irq4.level);
    assert_true(uart_deadline(u) != DEVICE_NEVER);
    uart_run(u, uart_deadline(u));
    assert_int_equal(rd(u, 2), 0xcc); /* character time-out */
    assert_int_equal(rd(u, 0), '0');
    assert_false(irq4.level);
    uart_receive(u, 0, 'x');
    uart_receive(u, 0, 'y');
    assert_int_equal(rd(u, 2), 0xc4);
    for (unsigned i = 0; i < 20; i++) {
        uart_receive(u, 0, 'z');
    }
    assert_false(uart_can_receive(u));
    assert_int_equal(rd(u, 2), 0xc6); /* overrun is line status, above data */
    assert_int_equal(rd(u, 5) & 3, 3);
    assert_int_equal(rd(u, 5) & 2, 0);
    assert_int_equal(rd(u, 2), 0xc4);
    assert_int_equal(rd(u, 0), '1');
}

static void uart_loopback_and_break(void **state)
{
    struct uart *u = uart();
    wr(u, 4, 0x10);
    wr(u, 0, 'q');
    assert_int_equal(nsent, 0);
    assert_int_equal(rd(u, 5) & 1, 1);
    assert_int_equal(rd(u, 0), 'q');
    wr(u, 4, 0);
    uart_break(u, 0);
    assert_int_equal(rd(u, 5) & 0x11, 0x11);
    assert_int_equal(rd(u, 5) & 0x10, 0);
}

/* ---- the rest ------------------------------------------------------------------------------------------------- */

static enum device_request asked;
static uint32_t asked_value;
static unsigned asks;
static void on_request(void *o, enum device_request what, uint32_t value)
{
    asked = what;
    asked_value = value;
    asks++;
}

static void acpi_pm_blocks(void **state)
{
    struct acpi_pm p = {.control = {.request = on_request}};
    struct wire sci = {0};
    p.sci = (struct device_line){.set = on_line, .opaque = &sci};
    acpi_pm_init(&p);
    asks = 0;
    assert_int_equal(device_read(&acpi_pm_ops, &p, DEVICE_NS_PER_S, 8, 4), 3579545);
    assert_int_equal(device_read(&acpi_pm_ops, &p, 0, 4, 2), 1); /* SCI_EN */
    device_write(&acpi_pm_ops, &p, 0, 2, 2, 0x100);
    acpi_pm_power_button(&p);
    assert_true(sci.level);
    device_write(&acpi_pm_ops, &p, 0, 0, 2, 0x100); /* a one clears */
    assert_false(sci.level);
    device_write(&acpi_pm_ops, &p, 0, 4, 2, ACPI_PM_S5 << 10);
    assert_int_equal(asks, 0); /* SLP_EN is what does it */
    device_write(&acpi_pm_ops, &p, 0, 4, 2, ACPI_PM_S5 << 10 | 0x2000);
    assert_int_equal(asks, 1);
    assert_int_equal(asked, DEVICE_POWER_OFF);
    device_write(&acpi_pm_ops, &p, 0, 12, 1, 6);
    assert_int_equal(asked, DEVICE_RESET);
    device_write(&acpi_pm_ops, &p, 0, 2, 2, 1);
    uint64_t at = acpi_pm_deadline(&p);
    acpi_pm_run(&p, at - 1000);
    assert_false(sci.level);
    acpi_pm_run(&p, at); /* the timer's top bit has changed */
    assert_true(sci.level);
}

static uint32_t le32(const uint8_t *p)
{
    return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint8_t sum(const uint8_t *p, unsigned len)
{
    uint8_t s = 0;
    while (len--) {
        s += *p++;
    }
    return s;
}

static void acpi_tables_are_consistent(void **state)
{
    static uint8_t buf[8192];
    const struct acpi_config c = {.cpus = 3,
                                  .lapic_base = 0xfee00000,
                                  .ioapic_base = 0xfec00000,
                                  .ioapic_id = 5,
                                  .pm_base = 0x600,
                                  .reset_port = 0xcf9,
                                  .sci_irq = 9,
                                  .century = 0x32,
                                  .uart_port = 0x3f8,
                                  .uart_irq = 4};
    const uint32_t gpa = 0xe0000;
    size_t n = acpi_build_tables(buf, sizeof(buf), gpa, &c);
    assert_true(n > 0);
    assert_memory_equal(buf, "RSD PTR ", 8);
    assert_int_equal(sum(buf, 20), 0);
    assert_int_equal(sum(buf, 36), 0);
    const uint8_t *xsdt = buf + le32(buf + 24) - gpa, *rsdt = buf + le32(buf + 16) - gpa;
    assert_memory_equal(rsdt, "RSDT", 4); /* "Root System Description Table": the same tables, for ACPI 1.0 */
    assert_int_equal(sum(rsdt, le32(rsdt + 4)), 0);
    assert_int_equal(le32(rsdt + 4) - 36, (le32(xsdt + 4) - 36) / 2);
    for (unsigned i = 0; i < (le32(rsdt + 4) - 36) / 4; i++)
        assert_int_equal(le32(rsdt + 36 + i * 4), le32(xsdt + 36 + i * 8));
    assert_memory_equal(xsdt, "XSDT", 4);
    assert_int_equal(sum(xsdt, le32(xsdt + 4)), 0);
    static const char *const names[] = {"FACP", "APIC"};
    for (unsigned i = 0; i < 2; i++) {
        const uint8_t *t = buf + le32(xsdt + 36 + i * 8) - gpa;
        assert_memory_equal(t, names[i], 4);
        assert_int_equal(sum(t, le32(t + 4)), 0);
        if (i == 0) {
            assert_int_equal(le32(t + 4), 276); /* ACPI 6.x FADT */
            const uint8_t *dsdt = buf + le32(t + 40) - gpa, *facs = buf + le32(t + 36) - gpa;
            assert_memory_equal(dsdt, "DSDT", 4);
            assert_int_equal(sum(dsdt, le32(dsdt + 4)), 0);
            assert_memory_equal(facs, "FACS", 4);
            assert_int_equal((facs - buf) % 64, 0);
            assert_int_equal(le32(t + 132), le32(t + 36)); /* X_FIRMWARE_CTRL and FIRMWARE_CTRL agree */
            assert_int_equal(le32(t + 136), 0);
            assert_int_equal(le32(t + 76), 0x608);
            /* Name (_S5_, Package (4) {5, 5, 0, 0}) with a two-byte package length */
            static const uint8_t s5[] = {0x08, '_', 'S', '5', '_', 0x12, 0x49, 0x00, 4, 0x0a, 5, 0x0a, 5, 0, 0};
            assert_memory_equal(dsdt + 36, s5, sizeof(s5));
        }
    }
    assert_int_equal(acpi_build_tables(buf, n - 1, gpa, &c), 0);
}

/* The MADT and the MultiProcessor table tell of the same processors, I/O APIC and interrupts. */
static void mp_table_agrees(void **state)
{
    static uint8_t buf[32768], mp[8192];
    const struct acpi_config c = {.cpus = 64,
                                  .lapic_base = 0xfee00000,
                                  .ioapic_base = 0xfec00000,
                                  .ioapic_id = 2,
                                  .pm_base = 0x600,
                                  .sci_irq = 9,
                                  .hpet_base = 0xfed00000,
                                  .pci = true,
                                  .pci_hole = 0xc0000000,
                                  .pirq = {10, 10, 11, 5},
                                  .lapic_version = 0x15,
                                  .ioapic_version = 0x20};
    const uint32_t gpa = 0xe0000, mp_gpa = 0xfe000;
    assert_true(acpi_build_tables(buf, sizeof(buf), gpa, &c) > 0);
    const uint8_t *xsdt = buf + le32(buf + 24) - gpa, *madt = buf + le32(xsdt + 44) - gpa;
    const uint8_t *hpet = buf + le32(xsdt + 52) - gpa;
    assert_int_equal(le32(xsdt + 4), 36 + 3 * 8);
    assert_memory_equal(hpet, "HPET", 4);
    assert_int_equal(sum(hpet, le32(hpet + 4)), 0);
    assert_int_equal(le32(hpet + 44), 0xfed00000);
    assert_memory_equal(madt, "APIC", 4);
    unsigned cpus = 0, gsi[16], flags[16];
    for (unsigned i = 0; i < 16; i++) {
        gsi[i] = i;
        flags[i] = 0;
    }
    for (const uint8_t *e = madt + 44; e < madt + le32(madt + 4); e += e[1]) {
        assert_true(e[1] >= 2);
        cpus += e[0] == 0;
        if (e[0] == 2) {
            gsi[e[3]] = le32(e + 4);
            flags[e[3]] = e[8];
        }
    }
    assert_int_equal(cpus, 64);

    size_t n = mp_build_table(mp, sizeof(mp), mp_gpa, &c);
    assert_memory_equal(mp, "_MP_", 4);
    assert_int_equal(sum(mp, 16), 0);
    assert_int_equal(le32(mp + 4), mp_gpa + 16);
    const uint8_t *table = mp + 16, *end = table + (table[4] | table[5] << 8), *e = table + 44;
    assert_memory_equal(table, "PCMP", 4);
    assert_ptr_equal(end, mp + n);
    assert_int_equal(sum(table, (size_t)(end - table)), 0);
    assert_int_equal(le32(table + 36), 0xfee00000);
    unsigned entries = 0, kind[5] = {0}, local = 0;
    for (; e < end; e += e[0] == 0 ? 20 : 8, entries++) {
        assert_true(e[0] < 5);
        switch (e[0]) {
        case 0:
            assert_int_equal(e[1], kind[0]);
            assert_int_equal(e[3], kind[0] ? 1 : 3);
            break;
        case 2:
            assert_int_equal(e[1], 2);
            assert_int_equal(le32(e + 4), 0xfec00000);
            break;
        case 3:
            assert_int_equal(e[6], 2);
            if (e[4] == 1) { /* ISA */
                assert_int_equal(e[7], gsi[e[5]]);
                assert_int_equal(e[2], flags[e[5]]);
            } else { /* slot 1 has PIRQA for INTA# */
                assert_int_equal(e[7], c.pirq[((e[5] >> 2) + (e[5] & 3) + 3) & 3]);
                assert_int_equal(e[2], 0x0d);
            }
            break;
        case 4: local |= 1u << (e[1] == 3 ? 0 : e[1] == 1 ? 1 : 7) << e[7] * 8; break;
        }
        kind[e[0]]++;
    }
    assert_ptr_equal(e, end);
    assert_int_equal(entries, table[34] | table[35] << 8);
    assert_int_equal(kind[0], 64);
    assert_int_equal(kind[1], 2);
    assert_int_equal(kind[2], 1);
    assert_int_equal(local, 0x0201); /* ExtINT at LINT0, NMI at LINT1 */
    assert_int_equal(mp_build_table(mp, n - 1, mp_gpa, &c), 0);
}

static void small_devices(void **state)
{
    struct pci_none pci = {0};
    struct i8042 k = {.control = {.request = on_request}};
    struct debug_exit x = {.control = {.request = on_request}};
    device_write(&pci_none_ops, &pci, 0, 0, 4, 0x80000003);
    assert_int_equal(device_read(&pci_none_ops, &pci, 0, 0, 4), 0x80000000);
    assert_int_equal(device_read(&pci_none_ops, &pci, 0, 4, 4), UINT32_MAX);
    i8042_init(&k);
    out(&i8042_ops, &k, 0, 1, 0xaa);
    assert_int_equal(in(&i8042_ops, &k, 0, 1) & 1, 1);
    assert_int_equal(in(&i8042_ops, &k, 0, 0), 0x55);
    assert_int_equal(in(&i8042_ops, &k, 0, 1) & 1, 0);
    asks = 0;
    out(&i8042_ops, &k, 0, 1, 0xfe);
    assert_int_equal(asks, 1);
    assert_int_equal(asked, DEVICE_RESET);
    device_write(&debug_exit_ops, &x, 0, 0, 4, 16);
    assert_int_equal(asked, DEVICE_EXIT);
    assert_int_equal(asked_value, 33);
    struct debug_port e9 = {{0}};
    assert_int_equal(in(&debug_port_ops, &e9, 0, 0), 0xe9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pic_fixed_priority),
        cmocka_unit_test(pic_edge_is_one_request),
        cmocka_unit_test(pic_level_by_elcr),
        cmocka_unit_test(pic_cascade),
        cmocka_unit_test(pic_mask_and_special_mask),
        cmocka_unit_test(pic_rotation_aeoi_poll),
        cmocka_unit_test(pit_rate_generator),
        cmocka_unit_test(pit_terminal_count),
        cmocka_unit_test(pit_strobe),
        cmocka_unit_test(pit_square_wave),
        cmocka_unit_test(pit_gate_and_speaker_port),
        cmocka_unit_test(pit_read_back_and_bcd),
        cmocka_unit_test(rtc_tells_the_time),
        cmocka_unit_test(rtc_set_holds_and_takes_the_time),
        cmocka_unit_test(rtc_interrupts),
        cmocka_unit_test(uart_is_found_as_16550a),
        cmocka_unit_test(uart_transmits_and_interrupts),
        cmocka_unit_test(uart_listens_by_interrupt_or_polling),
        cmocka_unit_test(uart_receives_through_the_fifo),
        cmocka_unit_test(uart_loopback_and_break),
        cmocka_unit_test(acpi_pm_blocks),
        cmocka_unit_test(acpi_tables_are_consistent),
        cmocka_unit_test(mp_table_agrees),
        cmocka_unit_test(small_devices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
