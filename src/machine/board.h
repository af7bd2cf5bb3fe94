/* SPDX-License-Identifier: MIT
 *
 * board.h: the inside of the software PC. pc.c has its life: building, turns, time, words; board.c has its devices: who
 * is at which port and address, which line goes where, and what firmware leaves in memory and registers.
 */
#ifndef MACHINE_BOARD_H
#define MACHINE_BOARD_H

#include "src/cpu/sys.h"
#include "src/dev/acpi_pm.h"
#include "src/dev/chipset.h"
#include "src/dev/fw_cfg.h"
#include "src/dev/hpet.h"
#include "src/dev/i8042.h"
#include "src/dev/ioapic.h"
#include "src/dev/linux_boot.h"
#include "src/dev/misc.h"
#include "src/dev/pci.h"
#include "src/dev/pic.h"
#include "src/dev/pit.h"
#include "src/dev/rtc.h"
#include "src/dev/testdev.h"
#include "src/dev/uart.h"
#include "src/dev/vga.h"
#include "src/machine/machine.h"
#include "src/machine/pc.h"

#define BOARD_RANGES   48
#define BOARD_WINDOWS  16
#define BOARD_ACPI_MAX 16384u
#define FW_CFG_ITEMS   24

struct board_window { /* of memory-mapped registers */
    struct pc *pc;
    uint64_t base, len;
    bool on; /* the window of a BAR: memory shows it, for no RAM is there */
    const struct device_ops *ops;
    void *dev;
};

struct board_serial {
    struct pc *pc;
    unsigned index;
    bool input_done;
};

struct pc {
    struct vmenter_machine *machine;
    struct pc_platform platform;
    enum pc_outcome outcome;
    uint32_t exit_code;
    unsigned current;            /* the processor whose turn it is */
    uint64_t tsc;                /* the machine's clock, ticks; virtual clock only */
    uint64_t wake;               /* the earliest deadline that an idle processor named, ticks */
    uint64_t slice_end;          /* ns: devices are looked at then */
    uint64_t host_ns;            /* of the host's processor, used by pc_run() */
    uint64_t next_poll, working; /* ns; the latter: when a processor last did something */
    uint64_t patience;           /* host's ns: when the outside world is looked at in any case */

    struct pic pic;
    struct pit pit;
    struct rtc rtc;
    struct uart uart[PC_SERIALS];
    struct board_serial serial[PC_SERIALS];
    struct i8042 i8042;
    struct ioapic ioapic;
    struct acpi_pm pm;
    struct hpet hpet;
    struct pci_bus pci;
    struct host_bridge host_bridge;
    struct isa_bridge isa_bridge;
    struct pm_bridge pm_bridge;
    struct vga vga;
    struct coprocessor coprocessor;
    struct latch_port post;
    struct apm apm;
    struct debug_port e9;
    struct debug_exit debug_exit;
    struct testdev testdev;
    struct fw_cfg fw_cfg;

    struct fw_cfg_item items[FW_CFG_ITEMS];
    struct {
        uint64_t ram;
        uint32_t id, kernel_size, setup_size, initrd_size, cmdline_size;
        uint16_t cpus, no_graphics, boot_menu, boot_device;
    } fw;                         /* what small items show */
    uint8_t acpi[BOARD_ACPI_MAX]; /* as they stood at the start */
    struct memory_range map[MEMORY_MAP_MAX];
    unsigned map_ranges;

    struct device_range range[BOARD_RANGES];                             /* of ports */
    unsigned ranges, fixed_ranges;                                       /* those after the latter are BARs */
    uint64_t range_uses[BOARD_RANGES][2], window_uses[BOARD_WINDOWS][2]; /* reads, writes */
    struct device_range *pm_range;
    /* Levels of the ISA interrupts: by their devices, by the PCI bus, by the HPET, which may replace 0 and 8. */
    uint16_t isa_levels, pirq_levels, hpet_levels, hpet_takes;
    uint8_t port[65536]; /* index of the range, plus one; 0: nothing there */
    struct board_window window[BOARD_WINDOWS];
    unsigned windows, fixed_windows;
};

/* pc.c */
uint64_t pc_now(struct pc *pc); /* ns */
void pc_stop(struct pc *pc, enum pc_outcome why);

/* board.c. RAM is there: [0, low) and [PC_HIGH, PC_HIGH + high). False: `error` is written. */
bool board_create(struct pc *pc, const struct pc_config *config, uint64_t low, uint64_t high, char *error);
uint64_t board_deadline(const struct pc *pc); /* ns: when some device next needs board_run() */
void board_run(struct pc *pc, uint64_t now);  /* the devices' time has come */
void board_poll(struct pc *pc, uint64_t now); /* the outside world's */
bool board_extint(void *opaque, int *vector); /* cpu's intr_line: the 8259s; opaque is a struct machine_cpu */
void board_eoi(void *opaque, uint8_t vector); /* a local APIC's EOI broadcast; the same */

#endif
