/* SPDX-License-Identifier: MIT
 *
 * rtc.c: MC146818A (Motorola data sheet, "Time, Calendar and Alarm Locations", "Registers").
 *
 * The time is a number of nanoseconds; the registers are made from it when they are read. While the clock is stopped
 * (SET, or the divider in reset) the registers stand still in `ram` and are turned back into a time when it starts
 * again. Not here: daylight saving (DSE), square-wave output.
 */
#include "src/dev/rtc.h"

enum {
    SECONDS,
    SECONDS_ALARM,
    MINUTES,
    MINUTES_ALARM,
    HOURS,
    HOURS_ALARM,
    WEEKDAY,
    DAY,
    MONTH,
    YEAR,
    REG_A,
    REG_B,
    REG_C,
    REG_D,
    CENTURY = 0x32
};

#define A_UIP     0x80
#define A_DIVIDER 0x70
#define B_SET     0x80
#define B_PIE     0x40
#define B_AIE     0x20
#define B_UIE     0x10
#define B_BINARY  0x04
#define B_24H     0x02
#define C_IRQ     0x80
#define C_PF      0x40
#define C_AF      0x20
#define C_UF      0x10
#define UIP_NS    244000u /* UIP is set this long before an update */

struct civil {
    unsigned year, month, day, hour, minute, second, weekday; /* month, day from 1; weekday 0 is Sunday */
};

/* Days since 1970-01-01 of a date in the Gregorian calendar, years from 1970 (era arithmetic on March-based years). */
static uint64_t days_from_civil(unsigned y, unsigned m, unsigned d)
{
    y -= m <= 2;
    unsigned era = y / 400, yoe = y % 400;
    unsigned doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
    unsigned doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    return (uint64_t)era * 146097 + doe - 719468;
}

static struct civil civil_from_seconds(uint64_t t)
{
    uint64_t days = t / 86400 + 719468;
    unsigned s = t % 86400, era = days / 146097, doe = days % 146097;
    unsigned yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    unsigned doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
    struct civil c = {
        .day = doy - (153 * mp + 2) / 5 + 1,
        .month = mp < 10 ? mp + 3 : mp - 9,
        .hour = s / 3600,
        .minute = s / 60 % 60,
        .second = s % 60,
        .weekday = (t / 86400 + 4) % 7,
    };
    c.year = yoe + era * 400 + (c.month <= 2);
    return c;
}

static uint8_t to_bcd(unsigned v)
{
    return v / 10 % 10 << 4 | v % 10;
}
static unsigned from_bcd(uint8_t v)
{
    return (v >> 4) * 10 + (v & 15);
}
static uint8_t encode(const struct rtc *r, unsigned v)
{
    return r->s.ram[REG_B] & B_BINARY ? v : to_bcd(v);
}
static unsigned decode(const struct rtc *r, uint8_t v)
{
    return r->s.ram[REG_B] & B_BINARY ? v : from_bcd(v);
}

static uint8_t encode_hour(const struct rtc *r, unsigned h)
{
    if (r->s.ram[REG_B] & B_24H) {
        return encode(r, h);
    }
    return encode(r, h % 12 ? h % 12 : 12) | (h >= 12 ? 0x80 : 0);
}

static unsigned decode_hour(const struct rtc *r, uint8_t v)
{
    if (r->s.ram[REG_B] & B_24H) {
        return decode(r, v);
    }
    return decode(r, v & 0x7f) % 12 + (v & 0x80 ? 12 : 0);
}

static uint64_t time_ns(const struct rtc *r, uint64_t now)
{
    return now + r->s.offset_ns;
}

static void fill_registers(struct rtc *r, uint64_t seconds)
{
    struct civil c = civil_from_seconds(seconds);
    uint8_t *ram = r->s.ram;
    ram[SECONDS] = encode(r, c.second);
    ram[MINUTES] = encode(r, c.minute);
    ram[HOURS] = encode_hour(r, c.hour);
    ram[WEEKDAY] = encode(r, c.weekday + 1);
    ram[DAY] = encode(r, c.day);
    ram[MONTH] = encode(r, c.month);
    ram[YEAR] = encode(r, c.year % 100);
    ram[CENTURY] = to_bcd(c.year / 100);
}

/* The registers as seconds. Values out of range are taken as the counters would: modulo nothing, simply added up. */
static uint64_t read_registers(const struct rtc *r)
{
    const uint8_t *ram = r->s.ram;
    unsigned month = decode(r, ram[MONTH]), day = decode(r, ram[DAY]);
    unsigned year = from_bcd(ram[CENTURY]) * 100 + decode(r, ram[YEAR]);
    month = month < 1 ? 1 : month > 12 ? 12 : month;
    year = year < 1970 ? 1970 : year;
    uint64_t days = days_from_civil(year, month, day < 1 ? 1 : day);
    return days * 86400 + decode_hour(r, ram[HOURS]) * 3600 + decode(r, ram[MINUTES]) * 60 + decode(r, ram[SECONDS]);
}

static bool should_stop(const struct rtc *r)
{
    return (r->s.ram[REG_B] & B_SET) || (r->s.ram[REG_A] & A_DIVIDER) > 0x20;
}

static void update_line(struct rtc *r)
{
    uint8_t *c = &r->s.ram[REG_C];
    if (*c & r->s.ram[REG_B] & (C_PF | C_AF | C_UF)) { /* the flags stand where their enables do */
        *c |= C_IRQ;
    } else {
        *c &= ~C_IRQ;
    }
    device_line_set(&r->irq, *c & C_IRQ);
}

/* Length of a period in 1/32768 s; 0: none. */
static unsigned period(const struct rtc *r)
{
    unsigned rate = r->s.ram[REG_A] & 15;
    if (!rate || (r->s.ram[REG_A] & A_DIVIDER) > 0x20) {
        return 0;
    }
    return 1u << ((rate < 3 ? rate + 7 : rate) - 1);
}

static bool alarm_matches(const struct rtc *r, uint64_t second)
{
    const uint8_t *ram = r->s.ram;
    unsigned s = second % 86400;
    return (ram[SECONDS_ALARM] >= 0xc0 || decode(r, ram[SECONDS_ALARM]) == s % 60) &&
           (ram[MINUTES_ALARM] >= 0xc0 || decode(r, ram[MINUTES_ALARM]) == s / 60 % 60) &&
           (ram[HOURS_ALARM] >= 0xc0 || decode_hour(r, ram[HOURS_ALARM]) == s / 3600);
}

static uint64_t periods_at(uint64_t now)
{
    return device_muldiv(now, 32768, DEVICE_NS_PER_S);
}

void rtc_run(struct rtc *r, uint64_t now)
{
    unsigned p = period(r);
    if (p) {
        uint64_t n = periods_at(now) / p;
        if (n > r->s.period_done / p) {
            r->s.ram[REG_C] |= C_PF;
        }
        r->s.period_done = n * p;
    }
    if (!r->s.stopped) {
        uint64_t second = time_ns(r, now) / DEVICE_NS_PER_S;
        if (second > r->s.second_done) {
            r->s.ram[REG_C] |= C_UF;
            uint64_t first = second - r->s.second_done > 86400 ? second - 86400 : r->s.second_done;
            for (uint64_t t = first + 1; t <= second && !(r->s.ram[REG_C] & C_AF); t++) {
                if (alarm_matches(r, t)) {
                    r->s.ram[REG_C] |= C_AF;
                }
            }
            r->s.second_done = second;
        }
    }
    update_line(r);
}

uint64_t rtc_deadline(const struct rtc *r)
{
    uint64_t at = DEVICE_NEVER;
    uint8_t b = r->s.ram[REG_B], c = r->s.ram[REG_C];
    unsigned p = period(r);
    if (p && (b & B_PIE) && !(c & C_PF)) {
        at = device_muldiv_up(r->s.period_done + p, DEVICE_NS_PER_S, 32768);
    }
    if (!r->s.stopped && (((b & B_UIE) && !(c & C_UF)) || ((b & B_AIE) && !(c & C_AF)))) {
        uint64_t update = (r->s.second_done + 1) * DEVICE_NS_PER_S - r->s.offset_ns;
        at = update < at ? update : at;
    }
    return at;
}

/* After a write to A or B: stop or start the clock. */
static void stop_or_start(struct rtc *r, uint64_t now, uint64_t seconds, uint8_t old_a)
{
    bool stop = should_stop(r);
    if (stop && !r->s.stopped) {
        fill_registers(r, seconds);
    } else if (!stop && r->s.stopped) {
        uint64_t ns = read_registers(r) * DEVICE_NS_PER_S;
        if ((old_a & A_DIVIDER) > 0x20) {
            ns += DEVICE_NS_PER_S / 2; /* data sheet: the first update is half a second after the divider's release */
        } else {
            ns += time_ns(r, now) % DEVICE_NS_PER_S; /* SET alone does not disturb the divider */
        }
        r->s.offset_ns = ns - now;
        r->s.second_done = ns / DEVICE_NS_PER_S;
    }
    r->s.stopped = stop;
}

static bool is_time(uint8_t i)
{
    return i == SECONDS || i == MINUTES || i == HOURS || (i >= WEEKDAY && i <= YEAR) || i == CENTURY;
}

static void write_register(struct rtc *r, uint64_t now, uint8_t i, uint8_t v)
{
    uint64_t ns = time_ns(r, now), seconds = ns / DEVICE_NS_PER_S;
    uint8_t old_a = r->s.ram[REG_A];
    switch (i) {
    case REG_A:
        r->s.ram[REG_A] = v & ~A_UIP;
        r->s.period_done = periods_at(now);
        stop_or_start(r, now, seconds, old_a);
        break;
    case REG_B:
        if (v & B_SET) {
            v &= ~B_UIE; /* data sheet: SET clears UIE */
        }
        if (!r->s.stopped) {
            fill_registers(r, seconds);
        }
        r->s.ram[REG_B] = v;
        stop_or_start(r, now, seconds, old_a);
        break;
    case REG_C:
    case REG_D: return;
    default:
        if (is_time(i) && !r->s.stopped) {
            fill_registers(r, seconds);
            r->s.ram[i] = v;
            r->s.offset_ns = read_registers(r) * DEVICE_NS_PER_S + ns % DEVICE_NS_PER_S - now;
            r->s.second_done = time_ns(r, now) / DEVICE_NS_PER_S;
        } else {
            r->s.ram[i] = v;
        }
        return;
    }
    update_line(r);
}

static uint64_t rtc_read(void *dev, uint64_t now, uint64_t offset, unsigned size)
{
    struct rtc *r = dev;
    if (!(offset & 1)) {
        return 0xff; /* port 0x70 is write-only */
    }
    rtc_run(r, now);
    uint8_t i = r->s.index, v;
    if (is_time(i) && !r->s.stopped) {
        fill_registers(r, time_ns(r, now) / DEVICE_NS_PER_S);
    }
    switch (i) {
    case REG_A:
        v = r->s.ram[REG_A];
        if (!r->s.stopped && time_ns(r, now) % DEVICE_NS_PER_S >= DEVICE_NS_PER_S - UIP_NS) {
            v |= A_UIP;
        }
        return v;
    case REG_C:
        v = r->s.ram[REG_C];
        r->s.ram[REG_C] = 0;
        update_line(r);
        return v;
    case REG_D: return 0x80; /* VRT: the battery is good */
    }
    return r->s.ram[i];
}

static void rtc_write(void *dev, uint64_t now, uint64_t offset, unsigned size, uint64_t value)
{
    struct rtc *r = dev;
    if (!(offset & 1)) {
        r->s.index = value & 0x7f;
        r->s.nmi_off = value & 0x80;
        return;
    }
    rtc_run(r, now);
    write_register(r, now, r->s.index, value);
}

void rtc_set_cmos(struct rtc *r, uint8_t index, uint8_t value)
{
    r->s.ram[index & 0x7f] = value;
}

void rtc_init(struct rtc *r, uint64_t now, uint64_t unix_time)
{
    r->s = (struct rtc_state){0};
    r->s.offset_ns = unix_time * DEVICE_NS_PER_S - now;
    r->s.second_done = unix_time;
    r->s.period_done = periods_at(now);
    r->s.ram[REG_A] = 0x26;
    r->s.ram[REG_B] = B_24H;
    update_line(r);
}

static void run(void *dev, uint64_t now)
{
    rtc_run(dev, now);
}
static uint64_t deadline(const void *dev)
{
    return rtc_deadline(dev);
}

const struct device_ops rtc_ops = {
    .name = "rtc", .width = 1, .read = rtc_read, .write = rtc_write, .run = run, .deadline = deadline};
