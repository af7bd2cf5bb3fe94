/* SPDX-License-Identifier: MIT
 *
 * lapic.h: a local APIC: xAPIC registers, x2APIC MSRs, timer, interrupt messages (IPIs, I/O APIC, MSI).
 *
 * A pure model that serves as a software processor's own APIC and as the one that a VMM emulates for its guest. It
 * knows no processor: it answers which vector is wanted (lapic_pending_vector), is told of the acknowledgement
 * (lapic_ack), and tells the host by callbacks when that answer may have changed, when a message is to be routed, and
 * when an EOI is to be broadcast.
 *
 * Time: unlike the other devices, `now` is the TSC (ticks of the raw, never written counter); s.tsc_offset is what
 * is added to get the value that the guest reads. Deadlines are raw TSC ticks too.
 *
 * Not here: the extended register space of AMD (0x400 and up), the redirection hint of MSIs (the sender's part), SMM.
 */
#ifndef VMENTER_DEV_LAPIC_H
#define VMENTER_DEV_LAPIC_H

#include <vmenter/device.h>

/* Delivery modes, as encoded in the ICR, the LVT and I/O APIC entries. */
enum apic_delivery {
    APIC_FIXED = 0,
    APIC_LOWEST = 1,
    APIC_SMI = 2,
    APIC_NMI = 4,
    APIC_INIT = 5,
    APIC_STARTUP = 6,
    APIC_EXTINT = 7,
};

enum apic_shorthand { APIC_TO_DEST = 0, APIC_TO_SELF = 1, APIC_TO_ALL = 2, APIC_TO_OTHERS = 3 };

struct apic_msg {
    uint32_t dest;
    uint8_t vector;
    uint8_t delivery;  /* enum apic_delivery */
    uint8_t shorthand; /* enum apic_shorthand; IPIs only */
    bool logical;
    bool level; /* trigger mode */
};

struct lapic;

struct lapic_host {
    void *opaque;
    /* lapic_pending_vector() or lapic_extint() may have changed. */
    void (*changed)(void *opaque, struct lapic *l);
    /* The ICR was written: route the message, for example by apic_route() over all local APICs. */
    void (*send)(void *opaque, struct lapic *from, const struct apic_msg *msg);
    /* The end of a level-triggered interrupt: to every I/O APIC. */
    void (*eoi)(void *opaque, uint8_t vector);
    /* NMI, SMI, INIT, or STARTUP with its vector, for this APIC's processor. On INIT the host also calls lapic_reset(l,
     * true). */
    void (*signal)(void *opaque, struct lapic *l, enum apic_delivery what, uint8_t vector);
};

struct lapic_config {
    uint32_t initial_id;
    uint32_t version;          /* the version register; bit 24 says that EOI broadcasts can be suppressed */
    uint32_t tsc_num, tsc_den; /* TSC ticks per tick of the timer's clock at divide by 1, a ratio below 2^32 both */
    uint8_t phys_bits;         /* width of a physical address, for IA32_APIC_BASE */
    bool bsp;
    bool x2apic;
    bool tsc_deadline;
};

enum {
    LAPIC_LVT_CMCI,
    LAPIC_LVT_TIMER,
    LAPIC_LVT_THERMAL,
    LAPIC_LVT_PMC,
    LAPIC_LVT_LINT0,
    LAPIC_LVT_LINT1,
    LAPIC_LVT_ERROR,
    LAPIC_LVTS
};

struct lapic_state {
    uint64_t base;         /* IA32_APIC_BASE */
    uint64_t timer_start;  /* raw TSC when timer_count was loaded */
    uint64_t timer_expiry; /* raw TSC, DEVICE_NEVER when stopped */
    uint64_t tsc_deadline; /* as written, in the guest's TSC; 0: not armed */
    uint64_t tsc_offset;   /* guest's TSC minus raw TSC, modulo 2^64 */
    uint32_t irr[8], isr[8], tmr[8];
    uint32_t lvt[LAPIC_LVTS];
    uint32_t id; /* xAPIC mode: 8 bits */
    uint32_t ldr, dfr, svr, tpr;
    uint32_t esr, esr_pending;
    uint32_t icr_low, icr_high;
    uint32_t timer_initial, timer_count, timer_divide;
    bool lint[2];
    bool extint; /* an ExtINT message waits for its acknowledgement */
    bool error_busy;
};

struct lapic {
    struct lapic_host host;
    struct lapic_config config;
    struct lapic_state s;
};

/* Register offsets in the xAPIC page; the x2APIC MSR is 0x800 + offset / 16. */
enum {
    LAPIC_ID = 0x20,
    LAPIC_VERSION = 0x30,
    LAPIC_TPR = 0x80,
    LAPIC_APR = 0x90,
    LAPIC_PPR = 0xa0,
    LAPIC_EOI = 0xb0,
    LAPIC_RRD = 0xc0,
    LAPIC_LDR = 0xd0,
    LAPIC_DFR = 0xe0,
    LAPIC_SVR = 0xf0,
    LAPIC_ISR = 0x100,
    LAPIC_TMR = 0x180,
    LAPIC_IRR = 0x200,
    LAPIC_ESR = 0x280,
    LAPIC_CMCI = 0x2f0,
    LAPIC_ICR_LOW = 0x300,
    LAPIC_ICR_HIGH = 0x310,
    LAPIC_TIMER = 0x320,
    LAPIC_THERMAL = 0x330,
    LAPIC_PMC = 0x340,
    LAPIC_LINT0 = 0x350,
    LAPIC_LINT1 = 0x360,
    LAPIC_ERROR = 0x370,
    LAPIC_TIMER_INITIAL = 0x380,
    LAPIC_TIMER_CURRENT = 0x390,
    LAPIC_TIMER_DIVIDE = 0x3e0,
    LAPIC_SELF_IPI = 0x3f0, /* x2APIC only */
};

#define LAPIC_MSR_BASE         0x1bu  /* IA32_APIC_BASE */
#define LAPIC_MSR_TSC_DEADLINE 0x6e0u /* IA32_TSC_DEADLINE */
#define LAPIC_MSR_X2APIC       0x800u /* to 0x8ff */

#define LAPIC_BASE_BSP  (1u << 8)
#define LAPIC_BASE_EXTD (1u << 10)
#define LAPIC_BASE_EN   (1u << 11)

#define LAPIC_VERSION_INTEL                                                                                            \
    0x01050015u /* integrated, 6 LVT entries: no CMCI, as IA32_MCG_CAP says; EOI-broadcast suppression */
#define LAPIC_VERSION_AMD 0x00050010u /* 6 LVT entries */

/* Sets the power-up state; `host` and `config` are set before. */
void lapic_init(struct lapic *l);
/* `init`: by INIT (keeps IA32_APIC_BASE and the xAPIC ID); else power-up. */
void lapic_reset(struct lapic *l, bool init);

/* A 32-bit access to the xAPIC page; offset below 4096. Ignored, and reads as ones, unless in xAPIC mode. */
uint32_t lapic_read(struct lapic *l, uint64_t now, uint32_t offset);
void lapic_write(struct lapic *l, uint64_t now, uint32_t offset, uint32_t value);

/* IA32_APIC_BASE, IA32_TSC_DEADLINE and the x2APIC MSRs. False: #GP(0). */
bool lapic_read_msr(struct lapic *l, uint64_t now, uint32_t msr, uint64_t *value);
bool lapic_write_msr(struct lapic *l, uint64_t now, uint32_t msr, uint64_t value);

/* The vector that the processor should take, -1 if none is above the processor priority. */
int lapic_pending_vector(const struct lapic *l);
/* The processor takes lapic_pending_vector(): it moves from IRR to ISR. Returns it, or the spurious vector if there is
 * none. */
uint8_t lapic_ack(struct lapic *l);
/* The 8259's INTR is asserted and gets through (LVT in ExtINT mode, or the APIC is disabled): ask the 8259 for the
 * vector. */
bool lapic_extint(const struct lapic *l);
/* The processor acknowledged an ExtINT. */
void lapic_extint_ack(struct lapic *l);

/* CR8. 0 to 15. */
void lapic_set_tpr(struct lapic *l, uint8_t cr8);
uint8_t lapic_get_tpr(const struct lapic *l);

/* The level of LINT0 or LINT1. */
void lapic_lint(struct lapic *l, unsigned pin, bool level);
/* Another local source fires (LAPIC_LVT_CMCI, _THERMAL, _PMC). */
void lapic_local(struct lapic *l, unsigned lvt);

uint64_t lapic_deadline(const struct lapic *l);
void lapic_run(struct lapic *l, uint64_t now);

/* The guest's TSC is now raw + offset (WRMSR to IA32_TIME_STAMP_COUNTER or IA32_TSC_ADJUST). */
void lapic_set_tsc_offset(struct lapic *l, uint64_t now, uint64_t offset);

/* Whether a message for this destination is for this APIC. */
bool lapic_match(const struct lapic *l, uint32_t dest, bool logical);
/* Takes a message. True if it was accepted (a software-disabled APIC refuses all but INIT, STARTUP, NMI, SMI). */
bool lapic_accept(struct lapic *l, const struct apic_msg *msg);
/* Routes a message over `n` local APICs; `from` is the sender of an IPI, else NULL. Returns how many accepted it. */
unsigned apic_route(struct lapic *const *apics, unsigned n, struct lapic *from, const struct apic_msg *msg);

#endif
