/* SPDX-License-Identifier: MIT
 *
 * vm.h: struct vmm, the inside of the reference VMM, and what its files offer one another.
 *
 * Machine memory: [0, VMM_AREA) is the VMM's (control structures, bitmaps, second-level tables), the guest's RAM
 * follows. Guest-physical RAM is [0, GUEST_HOLE) and, if there is more, from 4 GiB on; between are the APICs.
 */
#ifndef VMM_VM_H
#define VMM_VM_H

#include <vmenter/enter.h>
#include <vmenter/vmenter.h>

#include "src/dev/acpi_pm.h"
#include "src/dev/i8042.h"
#include "src/dev/ioapic.h"
#include "src/dev/lapic.h"
#include "src/dev/linux_boot.h"
#include "src/dev/misc.h"
#include "src/dev/pic.h"
#include "src/dev/pit.h"
#include "src/dev/rtc.h"
#include "src/dev/uart.h"
#include "vmm/hv.h"
#include "vmm/vmm.h"

#define VMM_PAGE     4096u
#define VMM_AREA     (UINT64_C(16) << 20)
#define GUEST_HOLE   PC_HOLE
#define GUEST_HIGH   PC_HIGH
#define GUEST_LAPIC  PC_LAPIC
#define GUEST_IOAPIC PC_IOAPIC
#define GUEST_VGA    PC_VGA
#define GUEST_BIOS   PC_BIOS
#define GUEST_1M     PC_1M

#define CR0_PE      (UINT64_C(1) << 0)
#define CR0_MP      (UINT64_C(1) << 1)
#define CR0_TS      (UINT64_C(1) << 3)
#define CR0_ET      (UINT64_C(1) << 4)
#define CR0_NE      (UINT64_C(1) << 5)
#define CR0_WP      (UINT64_C(1) << 16)
#define CR0_NW      (UINT64_C(1) << 29)
#define CR0_CD      (UINT64_C(1) << 30)
#define CR0_PG      (UINT64_C(1) << 31)
#define CR4_PSE     (UINT64_C(1) << 4)
#define CR4_PAE     (UINT64_C(1) << 5)
#define CR4_LA57    (UINT64_C(1) << 12)
#define CR4_VMXE    (UINT64_C(1) << 13)
#define CR4_OSXSAVE (UINT64_C(1) << 18)
#define CR4_SMAP    (UINT64_C(1) << 21)
#define CR4_PKE     (UINT64_C(1) << 22)
#define EFER_SCE    (UINT64_C(1) << 0)
#define EFER_LME    (UINT64_C(1) << 8)
#define EFER_LMA    (UINT64_C(1) << 10)
#define EFER_NXE    (UINT64_C(1) << 11)
#define RFLAGS_1    (UINT64_C(1) << 1)
#define RFLAGS_TF   (UINT64_C(1) << 8)
#define RFLAGS_IF   (UINT64_C(1) << 9)
#define RFLAGS_RF   (UINT64_C(1) << 16)
#define RFLAGS_VM   (UINT64_C(1) << 17)
#define RFLAGS_AC   (UINT64_C(1) << 18)

enum { VECTOR_DE = 0, VECTOR_DB = 1, VECTOR_UD = 6, VECTOR_DF = 8, VECTOR_GP = 13, VECTOR_PF = 14 };

/* MSRs that more than one file names. */
#define MSR_TSC          0x10u
#define MSR_APIC_BASE    0x1bu
#define MSR_TSC_ADJUST   0x3bu
#define MSR_SYSENTER_CS  0x174u
#define MSR_SYSENTER_ESP 0x175u
#define MSR_SYSENTER_EIP 0x176u
#define MSR_DEBUGCTL     0x1d9u
#define MSR_PAT          0x277u
#define MSR_EFER         0xc0000080u
#define MSR_STAR         0xc0000081u
#define MSR_LSTAR        0xc0000082u
#define MSR_CSTAR        0xc0000083u
#define MSR_SFMASK       0xc0000084u
#define MSR_FS_BASE      0xc0000100u
#define MSR_GS_BASE      0xc0000101u
#define MSR_KERNEL_GS    0xc0000102u
#define MSR_TSC_AUX      0xc0000103u

enum { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI };

#define STAT_SLOTS 96
#define RING_SLOTS 32
struct exit_stat {
    const char *name;
    uint64_t reason, count, ns;
};
struct exit_note {
    const char *name;
    uint64_t rip, reason, info[2];
};

/* MSRs that the guest may set and that mean nothing to us: kept. */
struct guest_msrs {
    uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_phys[16];
    uint64_t misc_enable, tsc_adjust, mcg_status, spec_ctrl;
    uint64_t syscfg, hwcr, de_cfg, nb_cfg;
    uint64_t patch_level;
};

struct hv_vmx_state; /* vmx.c */
struct hv_svm_state; /* svm.c */

struct vmm {
    struct vmm_config config;
    const struct hv_ops *hv;
    union {
        struct hv_vmx_state *vmx;
        struct hv_svm_state *svm;
    };
    enum vmm_outcome outcome;
    uint32_t exit_code;
    char error[VMM_ERROR_MAX];

    /* memory */
    uint8_t *ram;        /* guest-physical 0 */
    uint64_t ram_pa;     /* its machine-physical address */
    uint64_t low, high;  /* bytes of guest RAM below the hole, and above 4 GiB */
    uint64_t alloc_next; /* bump allocator of machine pages */
    uint64_t second;     /* machine-physical address of the second-level root */

    /* virtual processor */
    struct vmenter_regs regs; /* all general registers; RSP (and RAX under SVM) are synchronised by enter and decode */
    struct event pending;     /* exception or re-injection for the next entry */
    bool nmi_pending, window;
    unsigned idle_turns;
    bool halted;
    struct guest_msrs msr;
    unsigned phys_bits;
    bool intel;

    /* time */
    uint64_t tsc_khz, tsc_start;
    uint64_t next_poll;        /* ns */
    uint64_t host_timer_armed; /* host TSC; 0: not */
    uint32_t host_timer_tsc;   /* TSC ticks in a known number of the timer's (host_timer.c) */
    enum { HOST_TIMER_NONE, HOST_TIMER_DEADLINE, HOST_TIMER_ONE_SHOT } host_timer;
    bool input_done;

    /* devices */
    struct lapic lapic;
    struct ioapic ioapic;
    struct pic pic;
    struct pit pit;
    struct rtc rtc;
    struct uart uart;
    struct i8042 i8042;
    struct acpi_pm pm;
    struct pci_none pci;
    struct debug_port e9;
    struct debug_exit debug_exit;
    struct latch_port post;
    struct device_range ports[24];
    unsigned nports;

    /* watching */
    struct exit last;
    struct exit_note ring[RING_SLOTS];
    uint64_t exits;
    struct exit_stat stats[STAT_SLOTS];
    uint64_t handled_ns, started_ns;
    char why[VMM_ERROR_MAX]; /* of a crash */
};

/* memory.c: machine pages for the VMM, guest-physical memory, second-level tables, guest-linear accesses */
bool mem_init(struct vmm *v);
/* `n` zeroed machine pages; NULL: the VMM's area is full. *pa is their physical address. */
void *mem_alloc(struct vmm *v, unsigned n, uint64_t *pa);
/* Host pointer to guest-physical memory; NULL if any byte is not RAM. */
void *mem_guest(struct vmm *v, uint64_t gpa, uint64_t len);
/* Maps guest RAM with the given entry bits: EPT's or the nested tables'. */
struct second_format {
    uint64_t table, leaf;
    uint64_t large; /* 0: no large pages */
};
bool mem_build_second(struct vmm *v, const struct second_format *f);
/* Adds one 4 KiB page. */
bool mem_map_second(struct vmm *v, const struct second_format *f, uint64_t gpa, uint64_t pa);
enum { ACCESS_READ = 0, ACCESS_WRITE = 1, ACCESS_FETCH = 2 };
/* Guest-linear to guest-physical with the guest's paging: permissions, accessed and dirty bits. False: *fault is the
 * #PF (CR2 is set). */
bool mem_walk(struct vmm *v, uint64_t la, unsigned access, unsigned cpl, uint64_t *gpa, struct event *fault);
/* Copies; on a fault nothing is known of the part that was not copied. Memory that is not RAM reads as ones, writes are
 * dropped. */
bool mem_read_linear(struct vmm *v, uint64_t la, void *buf, unsigned len, unsigned access, struct event *fault);
bool mem_write_linear(struct vmm *v, uint64_t la, const void *buf, unsigned len, struct event *fault);
/* The same without a fault and without touching A and D bits: for dumps. Returns the bytes read. */
unsigned mem_peek(struct vmm *v, uint64_t la, void *buf, unsigned len);

/* linux.c */
bool linux_load(struct vmm *v);

/* machine.c: the guest's devices */
void machine_init(struct vmm *v);
uint64_t machine_now(struct vmm *v);                 /* ns */
uint64_t machine_tsc_of(struct vmm *v, uint64_t ns); /* host TSC at that time */
void machine_run(struct vmm *v);                     /* everything whose time has come */
uint64_t machine_deadline(struct vmm *v);            /* host TSC, DEVICE_NEVER */
uint32_t machine_port_in(struct vmm *v, uint16_t port, unsigned size);
void machine_port_out(struct vmm *v, uint16_t port, unsigned size, uint32_t value);
uint64_t machine_mmio_read(struct vmm *v, uint64_t gpa, unsigned size);
void machine_mmio_write(struct vmm *v, uint64_t gpa, unsigned size, uint64_t value);
bool machine_has_interrupt(struct vmm *v);
int machine_ack_interrupt(struct vmm *v);
void machine_poll_input(struct vmm *v);

/* exits */
void exit_cpuid(struct vmm *v);
bool exit_rdmsr(struct vmm *v); /* false: #GP was queued */
bool exit_wrmsr(struct vmm *v);
bool exit_cr(struct vmm *v, const struct exit *e);
void exit_io(struct vmm *v, const struct exit *e);
void exit_second(struct vmm *v, const struct exit *e);
uint8_t emulate_segment(struct vmm *v); /* enum hv_seg of the string instruction's source at RIP */
uint8_t emulate_gpr(struct vmm *v);     /* general register of the MOV CRn at RIP */
unsigned emulate_length(struct vmm *v); /* of the instruction at RIP; 0: it cannot be decoded */
void msr_init(struct vmm *v);

/* run.c */
void vmm_queue_exception(struct vmm *v, uint8_t vector, bool has_error, uint32_t error);
void vmm_skip(struct vmm *v, const struct exit *e); /* past the instruction of the exit */
void vmm_stop(struct vmm *v, enum vmm_outcome what, const char *why, ...) __attribute__((format(printf, 3, 4)));
unsigned vmm_code_bits(struct vmm *v); /* 16, 32, 64 */

/* host_timer.c: the host processor's own local APIC, for control at a time */
bool host_timer_init(struct vmm *v);
void host_timer_arm(struct vmm *v, uint64_t tsc);
void host_timer_event(void *opaque, const struct vmenter_event *e);

/* dump.c */
void note_exit(struct vmm *v, const struct exit *e);

#endif
