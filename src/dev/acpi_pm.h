/* SPDX-License-Identifier: MIT
 *
 * acpi_pm.h: ACPI fixed hardware: PM1 event and control blocks, PM timer, and the reset register at port 0xcf9.
 *
 * Register space: 0 PM1 status, 2 PM1 enable, 4 PM1 control, 8 PM timer (32 bits), 12 reset register. Output: `sci`,
 * level. SLP_TYP for power-off (S5) is ACPI_PM_S5; the DSDT that acpi_build_tables() makes says the same.
 */
#ifndef VMENTER_DEV_ACPI_PM_H
#define VMENTER_DEV_ACPI_PM_H

#include <vmenter/device.h>

#define ACPI_PM_TIMER_HZ    3579545u
#define ACPI_PM_S5          5u
#define ACPI_PM_PORTS       12u /* without the reset register */
#define ACPI_PM_RESET_VALUE 0x06u

struct acpi_pm_state {
    uint64_t overflow_done; /* changes of the timer's top bit that have been carried out */
    uint16_t status, enable, control;
    uint8_t reset;
};

struct acpi_pm {
    struct device_line sci;
    struct device_control control;
    struct acpi_pm_state s;
};

void acpi_pm_init(struct acpi_pm *p);
/* Somebody pressed the power button. */
void acpi_pm_power_button(struct acpi_pm *p);
void acpi_pm_run(struct acpi_pm *p, uint64_t now);
uint64_t acpi_pm_deadline(const struct acpi_pm *p);

extern const struct device_ops acpi_pm_ops;

#endif
