/* SPDX-License-Identifier: MIT
 *
 * The high precision event timer, by the IA-PC HPET Specification. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "src/dev/hpet.h"

enum { ID = 0, CONFIG = 0x10, STATUS = 0x20, COUNTER = 0xf0 };
#define TIMER(n)   (0x100u + (n)*0x20u)
#define COMPARE(n) (0x108u + (n)*0x20u)
enum { LEVEL = 2, INT = 4, PERIODIC = 8, SET = 0x40, BITS32 = 0x100, PIN20 = 20 << 9, PIN21 = 21 << 9 };

static struct {
    unsigned rises[32], isa_rises[16];
    bool pin[32], isa[16], legacy;
} seen;

static void on_pin(void *o, unsigned pin, bool level)
{
    seen.rises[pin] += level && !seen.pin[pin];
    seen.pin[pin] = level;
}
static void on_isa(void *o, unsigned irq, bool level)
{
    seen.isa_rises[irq] += level && !seen.isa[irq];
    seen.isa[irq] = level;
}
static void on_legacy(void *o, unsigned line, bool level)
{
    seen.legacy = level;
}

static struct hpet *hpet(void)
{
    static struct hpet h;
    memset(&h, 0, sizeof h);
    memset(&seen, 0, sizeof seen);
    h.irq.set = on_pin;
    h.isa.set = on_isa;
    h.legacy.set = on_legacy;
    hpet_init(&h);
    return &h;
}
static uint64_t rd(struct hpet *h, uint64_t now, unsigned reg)
{
    return device_read(&hpet_ops, h, now, reg, 8);
}
static void wr(struct hpet *h, uint64_t now, unsigned reg, uint64_t v)
{
    device_write(&hpet_ops, h, now, reg, 8, v);
}

static void identity_and_counter(void **state)
{
    struct hpet *h = hpet();
    uint64_t id = rd(h, 0, ID);
    assert_int_equal(id >> 32, 10000000);  /* femtoseconds */
    assert_int_equal(id >> 8 & 31, 3 - 1); /* the last timer */
    assert_true(id & 1 << 13);             /* 64 bits */
    assert_true(id & 1 << 15);             /* legacy replacement */
    assert_true(id & 0xff);
    wr(h, 500, COUNTER, 1000);
    assert_int_equal(rd(h, 10000, COUNTER), 1000); /* stands */
    wr(h, 10000, CONFIG, 1);
    assert_int_equal(rd(h, 10000, COUNTER), 1000);
    assert_int_equal(rd(h, 10990, COUNTER), 1099);
    wr(h, 11000, COUNTER, 5); /* not while it runs */
    assert_int_equal(rd(h, 11000, COUNTER), 1100);
    wr(h, 12000, CONFIG, 0);
    assert_int_equal(rd(h, 90000, COUNTER), 1200);
    device_write(&hpet_ops, h, 0, COUNTER + 4, 4, 7); /* halves */
    assert_int_equal(rd(h, 0, COUNTER), UINT64_C(7) << 32 | 1200);
    assert_int_equal(device_read(&hpet_ops, h, 0, COUNTER + 4, 4), 7);
    assert_int_equal(rd(h, 0, TIMER(0)) & 0x8030, 0x30);
    assert_int_equal(rd(h, 0, TIMER(1)) & 0x8030, 0x20); /* the first alone is periodic; no FSB */
    assert_int_equal(rd(h, 0, TIMER(1)) >> 32, 0x00f00000);
}

static void one_shot(void **state)
{
    struct hpet *h = hpet();
    wr(h, 0, TIMER(1), INT | PIN20);
    wr(h, 0, COMPARE(1), 100);
    assert_int_equal(hpet_deadline(h), DEVICE_NEVER); /* stands */
    wr(h, 0, CONFIG, 1);
    assert_int_equal(hpet_deadline(h), 1000);
    hpet_run(h, 999);
    assert_int_equal(seen.rises[20], 0);
    hpet_run(h, 1000);
    assert_int_equal(seen.rises[20], 1);
    assert_int_equal(hpet_deadline(h), DEVICE_NEVER); /* in 2^64 ticks */
    wr(h, 2000, TIMER(1), INT | PIN21 | BITS32);
    wr(h, 2000, COMPARE(1), 50); /* has gone by: comes when 32 bits have gone round */
    assert_int_equal(hpet_deadline(h), ((UINT64_C(1) << 32) + 50) * 10);
    hpet_run(h, ((UINT64_C(1) << 32) + 50) * 10);
    assert_int_equal(seen.rises[21], 1);
    wr(h, 0, TIMER(1), 7 << 9); /* no such pin */
    assert_int_equal(rd(h, 0, TIMER(1)) >> 9 & 31, 0);
}

static void periodic(void **state)
{
    struct hpet *h = hpet();
    wr(h, 0, CONFIG, 1);
    wr(h, 1000, TIMER(0), INT | PERIODIC | SET | PIN20);
    wr(h, 1000, COMPARE(0), 300); /* the first match */
    wr(h, 1000, COMPARE(0), 50);  /* the period */
    assert_int_equal(rd(h, 1000, TIMER(0)) & SET, 0);
    assert_int_equal(rd(h, 1000, COMPARE(0)), 300);
    assert_int_equal(hpet_deadline(h), 3000);
    for (uint64_t t = 0; t <= 5000; t += 10)
        hpet_run(h, 1000 + t);
    assert_int_equal(seen.rises[20], 7); /* 3000, 3500 ... 6000 */
    hpet_run(h, 1000000);
    assert_int_equal(seen.rises[20], 8); /* many at once are one */
    assert_int_equal(rd(h, 1000000, COMPARE(0)), 100050);
    wr(h, 1000000, TIMER(1), INT | PERIODIC | PIN20);
    assert_int_equal(rd(h, 1000000, TIMER(1)) & PERIODIC, 0);
}

static void level(void **state)
{
    struct hpet *h = hpet();
    wr(h, 0, TIMER(2), INT | LEVEL | PIN21);
    wr(h, 0, COMPARE(2), 10);
    wr(h, 0, CONFIG, 1);
    hpet_run(h, 100);
    assert_true(seen.pin[21]);
    assert_int_equal(rd(h, 200, STATUS), 4);
    wr(h, 200, STATUS, 3);
    assert_true(seen.pin[21]);
    wr(h, 200, STATUS, 4); /* a one clears */
    assert_false(seen.pin[21]);
    wr(h, 200, COMPARE(2), 30);
    hpet_run(h, 300);
    assert_true(seen.pin[21]);
    wr(h, 300, TIMER(2), LEVEL | PIN21);
    assert_false(seen.pin[21]);
    assert_int_equal(rd(h, 300, STATUS), 4);
}

static void legacy_replacement(void **state)
{
    struct hpet *h = hpet();
    wr(h, 0, TIMER(0), INT | PIN20);
    wr(h, 0, TIMER(1), INT | PIN20);
    wr(h, 0, COMPARE(0), 10);
    wr(h, 0, COMPARE(1), 20);
    wr(h, 0, CONFIG, 3);
    assert_true(seen.legacy);
    hpet_run(h, 1000);
    assert_int_equal(seen.isa_rises[0], 1);
    assert_int_equal(seen.isa_rises[8], 1);
    assert_int_equal(seen.rises[20], 0);
    wr(h, 1000, CONFIG, 1);
    assert_false(seen.legacy);
}

static uint64_t next(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    return *x ^= *x << 17;
}

/* Whatever is written: the deadline lies ahead, what was due is done, and running at it does it. */
static void random_programs(void **state)
{
    struct hpet *h = hpet();
    uint64_t x = 88172645463325252u, now = 0;
    for (unsigned i = 0; i < 300000; i++) {
        uint64_t r = next(&x);
        static const unsigned size[4] = {1, 2, 4, 8};
        uint64_t v = r >> 20 & 1 ? next(&x) : next(&x) & 0xffff;
        if (r & 1)
            device_write(&hpet_ops, h, now, r >> 8 & 0x3ff, size[r >> 1 & 3], v);
        else
            wr(h, now,
               (unsigned[]){CONFIG, STATUS, COUNTER, TIMER(0), COMPARE(0), TIMER(1), COMPARE(1), TIMER(2)}[r >> 4 & 7],
               v);
        uint64_t d = hpet_deadline(h);
        assert_true(d > now);
        now += r >> 40 & 1 ? next(&x) >> 40 : next(&x) & 0xff;
        if (d <= now) {
            now = d;
            hpet_run(h, now);
            assert_true(hpet_deadline(h) > now);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identity_and_counter),
        cmocka_unit_test(one_shot),
        cmocka_unit_test(periodic),
        cmocka_unit_test(level),
        cmocka_unit_test(legacy_replacement),
        cmocka_unit_test(random_programs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
