/* SPDX-License-Identifier: MIT
 *
 * acpi_pm.c: ACPI specification, "ACPI Hardware Specification", "Fixed Hardware Feature Space". There is no SMI command
 * port: the machine is in ACPI mode always (SCI_EN reads as one).
 */
#include "src/dev/acpi_pm.h"

enum { REG_STATUS = 0, REG_ENABLE = 2, REG_CONTROL = 4, REG_TIMER = 8, REG_RESET = 12 };

#define PM1_TIMER       0x0001
#define PM1_GLOBAL      0x0020
#define PM1_PWRBTN      0x0100
#define PM1_SLPBTN      0x0200
#define PM1_RTC         0x0400
#define PM1_WAKE        0x8000
#define PM1_STATUS_BITS (PM1_TIMER | PM1_GLOBAL | PM1_PWRBTN | PM1_SLPBTN | PM1_RTC | PM1_WAKE)
#define PM1_ENABLE_BITS (PM1_TIMER | PM1_GLOBAL | PM1_PWRBTN | PM1_SLPBTN | PM1_RTC)

#define PM1_SCI_EN       0x0001
#define PM1_SLP_TYP(v)   ((v) >> 10 & 7)
#define PM1_SLP_EN       0x2000
#define PM1_CONTROL_BITS 0x1c07

static uint64_t ticks(uint64_t now)
{
    return device_muldiv(now, ACPI_PM_TIMER_HZ, DEVICE_NS_PER_S);
}

static void update(struct acpi_pm *p)
{
    device_line_set(&p->sci, p->s.status & p->s.enable & PM1_ENABLE_BITS);
}

void acpi_pm_run(struct acpi_pm *p, uint64_t now)
{
    uint64_t n = ticks(now) >> 31;
    if (n != p->s.overflow_done) {
        p->s.overflow_done = n;
        p->s.status |= PM1_TIMER;
        update(p);
    }
}

uint64_t acpi_pm_deadline(const struct acpi_pm *p)
{
    if (!(p->s.enable & PM1_TIMER) || (p->s.status & PM1_TIMER)) {
        return DEVICE_NEVER;
    }
    return device_muldiv_up((p->s.overflow_done + 1) << 31, DEVICE_NS_PER_S, ACPI_PM_TIMER_HZ);
}

void acpi_pm_power_button(struct acpi_pm *p)
{
    p->s.status |= PM1_PWRBTN;
    update(p);
}

static void request(struct acpi_pm *p, enum device_request what)
{
    if (p->control.request) {
        p->control.request(p->control.opaque, what, 0);
    }
}

static uint64_t acpi_pm_read(void *dev, uint64_t now, uint64_t offset, unsigned size)
{
    struct acpi_pm *p = dev;
    acpi_pm_run(p, now);
    unsigned shift = (offset & 1) * 8;
    if (offset >= REG_TIMER && offset < REG_RESET) {
        return (uint32_t)ticks(now) >> (offset & 3) * 8;
    }
    switch (offset & ~UINT64_C(1)) {
    case REG_STATUS: return (p->s.status | (size == 4 ? (uint32_t)p->s.enable << 16 : 0)) >> shift;
    case REG_ENABLE: return p->s.enable >> shift;
    case REG_CONTROL: return (p->s.control | PM1_SCI_EN) >> shift;
    case REG_RESET: return p->s.reset;
    }
    return 0;
}

static void write_control(struct acpi_pm *p, uint16_t v)
{
    p->s.control = v & PM1_CONTROL_BITS;
    if ((v & PM1_SLP_EN) && PM1_SLP_TYP(v) == ACPI_PM_S5) {
        request(p, DEVICE_POWER_OFF);
    }
}

static void acpi_pm_write(void *dev, uint64_t now, uint64_t offset, unsigned size, uint64_t value)
{
    struct acpi_pm *p = dev;
    acpi_pm_run(p, now);
    unsigned shift = (offset & 1) * 8;
    uint16_t v = value << shift, mask = size == 1 ? 0xff << shift : 0xffff;
    switch (offset & ~UINT64_C(1)) {
    case REG_STATUS:
        p->s.status &= ~(v & PM1_STATUS_BITS); /* ones clear */
        if (size == 4) {
            p->s.enable = value >> 16 & PM1_ENABLE_BITS;
        }
        break;
    case REG_ENABLE: p->s.enable = ((p->s.enable & ~mask) | (v & mask)) & PM1_ENABLE_BITS; break;
    case REG_CONTROL: write_control(p, (p->s.control & ~mask) | (v & mask)); break;
    case REG_RESET: /* bit 2 starts what bits 1 and 3 select; all are a reset here */
        p->s.reset = value & 0x0a;
        if (value & 4) {
            request(p, DEVICE_RESET);
        }
        break;
    }
    update(p);
}

void acpi_pm_init(struct acpi_pm *p)
{
    p->s = (struct acpi_pm_state){0};
    update(p);
}

static void run(void *dev, uint64_t now)
{
    acpi_pm_run(dev, now);
}
static uint64_t deadline(const void *dev)
{
    return acpi_pm_deadline(dev);
}

const struct device_ops acpi_pm_ops = {
    .name = "acpi-pm", .width = 4, .read = acpi_pm_read, .write = acpi_pm_write, .run = run, .deadline = deadline};
