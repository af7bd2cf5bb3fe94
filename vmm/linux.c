/* SPDX-License-Identifier: MIT
 *
 * linux.c: the guest's first state: a bzImage by the 64-bit boot protocol (src/dev/linux_boot.h), ACPI tables at
 * GUEST_BIOS, registers.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "src/dev/acpi_tables.h"
#include "src/dev/linux_boot.h"
#include "vmm/vm.h"

static bool fail(struct vmm *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool fail(struct vmm *v, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(v->error, sizeof(v->error), fmt, ap);
    va_end(ap);
    return false;
}

static void set_segment(struct vmm *v, enum hv_seg s, uint16_t sel, uint32_t ar, uint32_t limit, uint64_t base)
{
    const struct hv_segment seg = {.sel = sel, .ar = ar, .limit = limit, .base = base};
    v->hv->set_seg(v, s, &seg);
}

/* "64-bit Boot Protocol": long mode, flat segments __BOOT_CS 0x10 and __BOOT_DS 0x18, RSI boot_params, interrupts off.
 */
static void set_state(struct vmm *v, uint64_t entry)
{
    set_segment(v, HV_GDTR, 0, 0, 63, LINUX_BOOT_GDT);
    set_segment(v, HV_IDTR, 0, 0, 0, 0);
    set_segment(v, HV_CS, 0x10, 0xa09b, UINT32_MAX, 0);
    const enum hv_seg data[] = {HV_DS, HV_ES, HV_SS, HV_FS, HV_GS};
    for (unsigned i = 0; i < sizeof(data) / sizeof(*data); i++) {
        set_segment(v, data[i], 0x18, 0xc093, UINT32_MAX, 0);
    }
    set_segment(v, HV_LDTR, 0, HV_AR_UNUSABLE, 0, 0);
    set_segment(v, HV_TR, 0x20, 0x8b, 0x67, 0);
    v->hv->set(v, HV_EFER, EFER_LME | EFER_LMA | EFER_NXE);
    v->hv->set(v, HV_CR3, LINUX_BOOT_PAGING);
    v->hv->set(v, HV_CR4, CR4_PAE);
    v->hv->set(v, HV_CR0, CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG);
    v->hv->set(v, HV_DR7, 0x400);
    v->hv->set(v, HV_PAT, UINT64_C(0x0007040600070406));
    v->hv->set(v, HV_RFLAGS, RFLAGS_1);
    v->hv->set(v, HV_RIP, entry);
    v->hv->set(v, HV_RSP, LINUX_BOOT_STACK);
    v->regs.rsi = LINUX_BOOT_PARAMS;
}

static void *guest_ram(void *opaque, uint64_t gpa, uint64_t len)
{
    return mem_guest(opaque, gpa, len);
}

bool linux_load(struct vmm *v)
{
    struct memory_range map[MEMORY_MAP_MAX];
    struct linux_boot b = {.kernel = {v->config.kernel.data, v->config.kernel.size},
                           .initrd = {v->config.initrd.data, v->config.initrd.size},
                           .cmdline = v->config.cmdline,
                           .low = v->low,
                           .map = map,
                           .ranges = memory_map(map, v->low, v->high),
                           .rsdp = GUEST_BIOS,
                           .bits = 64,
                           .ram = guest_ram,
                           .opaque = v};
    if (!linux_boot_load(&b)) {
        return fail(v, "%s: %s",
                    b.about == LINUX_INITRD    ? v->config.initrd.name
                    : b.about == LINUX_CMDLINE ? "--append"
                                               : v->config.kernel.name,
                    b.error);
    }
    const struct acpi_config acpi = {.cpus = 1,
                                     .lapic_base = GUEST_LAPIC,
                                     .ioapic_base = GUEST_IOAPIC,
                                     .ioapic_id = 1,
                                     .pm_base = 0x600,
                                     .reset_port = 0xcf9,
                                     .sci_irq = 9,
                                     .century = 0x32,
                                     .uart_port = 0x3f8,
                                     .uart_irq = 4};
    uint8_t *bios = mem_guest(v, GUEST_BIOS, GUEST_1M - GUEST_BIOS);
    memset(bios, 0, GUEST_1M - GUEST_BIOS);
    if (!acpi_build_tables(bios, GUEST_1M - GUEST_BIOS, GUEST_BIOS, &acpi)) {
        return fail(v, "the ACPI tables do not fit below 1 MiB");
    }
    set_state(v, b.entry);
    return true;
}
