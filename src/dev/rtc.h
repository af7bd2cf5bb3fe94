/* SPDX-License-Identifier: MIT
 *
 * rtc.h: MC146818 real-time clock with 128 bytes of CMOS memory.
 *
 * Register space: 0, 1 the ports 0x70, 0x71. The host sets the time once, at init; from there it follows `now`.
 */
#ifndef VMENTER_DEV_RTC_H
#define VMENTER_DEV_RTC_H

#include <vmenter/device.h>

struct rtc_state {
    uint64_t offset_ns;   /* time since 1970-01-01 in ns is now + offset_ns (modulo 2^64) */
    uint64_t second_done; /* seconds up to which updates have been carried out */
    uint64_t period_done; /* periods of 1/32768 s up to which the periodic flag has been set */
    uint8_t ram[128];     /* the time registers here are the clock's when it is stopped */
    uint8_t index;
    bool nmi_off;
    bool stopped; /* SET in register B, or the divider held in reset */
};

struct rtc {
    struct device_line irq;
    struct rtc_state s;
};

/* `unix_time`: seconds since 1970-01-01 00:00 UTC at time `now`. */
void rtc_init(struct rtc *r, uint64_t now, uint64_t unix_time);
void rtc_set_cmos(struct rtc *r, uint8_t index, uint8_t value);
void rtc_run(struct rtc *r, uint64_t now);
uint64_t rtc_deadline(const struct rtc *r);

extern const struct device_ops rtc_ops;

#endif
