/* SPDX-License-Identifier: MIT
 *
 * apic.c: the local APIC model of src/dev wired to the processors of a machine: registers, interrupts, IPIs, the timer
 * on the processor's TSC, and waiting for what they bring.
 *
 * The model counts raw TSC ticks that nobody writes: the processor's TSC without what IA32_TSC_ADJUST has gathered. One
 * lock guards all local APICs of a machine; with one processor it is not taken.
 */
#include <time.h>

#include "src/machine/machine.h"

static void apic_lock(struct vmenter_machine *m)
{
    if (m->cpus > 1)
        pthread_mutex_lock(&m->apic_lock);
}

static void apic_unlock(struct vmenter_machine *m)
{
    if (m->cpus > 1)
        pthread_mutex_unlock(&m->apic_lock);
}

static uint64_t raw_tsc(struct machine_cpu *mc)
{
    return cpu_tsc(mc->cpu) - mc->cpu->msr.tsc_adjust;
}

/* Brings the model's idea of the guest-visible TSC up to date, and the time with it. */
static uint64_t apic_now(struct machine_cpu *mc)
{
    uint64_t now = raw_tsc(mc);
    if (mc->lapic.s.tsc_offset != mc->cpu->msr.tsc_adjust)
        lapic_set_tsc_offset(&mc->lapic, now, mc->cpu->msr.tsc_adjust);
    return now;
}

/* --- what the model asks of its host; the lock is held --------------------------------------------------------------
 */

static void apic_changed(void *opaque, struct lapic *l)
{
    struct machine_cpu *mc = opaque;
    cpu_attend(mc->cpu, ATT_INTR);
    if (mc->machine->cpus > 1)
        pthread_cond_broadcast(&mc->machine->wake);
}

static void apic_send(void *opaque, struct lapic *from, const struct apic_msg *msg)
{
    struct machine_cpu *mc = opaque;
    struct vmenter_machine *m = mc->machine;
    struct lapic *all[MACHINE_CPUS_MAX];
    for (unsigned i = 0; i < m->cpus; i++)
        all[i] = &m->cpu[i].lapic;
    apic_route(all, m->cpus, from, msg);
}

static void apic_signal(void *opaque, struct lapic *l, enum apic_delivery what, uint8_t vector)
{
    struct machine_cpu *mc = opaque;
    struct cpu *c = mc->cpu;
    switch (what) {
    case APIC_NMI: cpu_attend(c, ATT_NMI); break;
    case APIC_SMI: cpu_attend(c, ATT_SMI); break;
    /* ORDER: a start-up IPI counts if it comes after the INIT, also where the processor sees both at once; the first
     * one counts. */
    case APIC_INIT:
        __atomic_fetch_and(&c->attention, ~(uint32_t)ATT_SIPI, __ATOMIC_SEQ_CST);
        cpu_attend(c, ATT_INIT);
        break;
    case APIC_STARTUP:
        if (!(__atomic_load_n(&c->attention, __ATOMIC_SEQ_CST) & ATT_SIPI))
            c->sipi_vector = vector;
        cpu_attend(c, ATT_SIPI);
        break;
    default: return;
    }
    if (mc->machine->cpus > 1)
        pthread_cond_broadcast(&mc->machine->wake);
}

/* --- what the processor asks of the model ----------------------------------------------------------------------------
 */

static int op_pending(void *apic)
{
    struct machine_cpu *mc = apic;
    apic_lock(mc->machine);
    int vector = lapic_pending_vector(&mc->lapic);
    apic_unlock(mc->machine);
    return vector;
}

static int op_ack(void *apic)
{
    struct machine_cpu *mc = apic;
    apic_lock(mc->machine);
    int vector = lapic_ack(&mc->lapic);
    apic_unlock(mc->machine);
    return vector;
}

static bool op_rdmsr(void *apic, uint32_t msr, uint64_t *v)
{
    struct machine_cpu *mc = apic;
    apic_lock(mc->machine);
    bool ok = lapic_read_msr(&mc->lapic, apic_now(mc), msr, v);
    apic_unlock(mc->machine);
    return ok;
}

static bool op_wrmsr(void *apic, uint32_t msr, uint64_t v)
{
    struct machine_cpu *mc = apic;
    apic_lock(mc->machine);
    bool ok = lapic_write_msr(&mc->lapic, apic_now(mc), msr, v);
    apic_unlock(mc->machine);
    cpu_update_deadline(mc->cpu);
    return ok;
}

static uint64_t op_get_tpr(void *apic)
{
    struct machine_cpu *mc = apic;
    apic_lock(mc->machine);
    uint64_t cr8 = lapic_get_tpr(&mc->lapic);
    apic_unlock(mc->machine);
    return cr8;
}

static void op_set_tpr(void *apic, uint64_t cr8)
{
    struct machine_cpu *mc = apic;
    apic_lock(mc->machine);
    lapic_set_tpr(&mc->lapic, (uint8_t)(cr8 & 15));
    apic_unlock(mc->machine);
}

static bool op_mmio(void *apic, hpa_t pa, uint64_t *page)
{
    struct machine_cpu *mc = apic;
    uint64_t base = mc->lapic.s.base; /* written by this processor alone */
    *page = base & PAGE_BASE & mask_low(mc->machine->model.maxphyaddr);
    return (base & (LAPIC_BASE_EN | LAPIC_BASE_EXTD)) == LAPIC_BASE_EN && (pa.v & PAGE_BASE) == *page;
}

static uint32_t op_read(void *apic, unsigned offset)
{
    struct machine_cpu *mc = apic;
    apic_lock(mc->machine);
    uint32_t v = lapic_read(&mc->lapic, apic_now(mc), offset);
    apic_unlock(mc->machine);
    return v;
}

static void op_write(void *apic, unsigned offset, uint32_t v)
{
    struct machine_cpu *mc = apic;
    apic_lock(mc->machine);
    lapic_write(&mc->lapic, apic_now(mc), offset, v);
    apic_unlock(mc->machine);
    cpu_update_deadline(mc->cpu);
}

static uint64_t op_deadline(void *apic)
{
    struct machine_cpu *mc = apic;
    apic_lock(mc->machine);
    apic_now(mc);
    uint64_t raw = lapic_deadline(&mc->lapic);
    apic_unlock(mc->machine);
    return raw == DEVICE_NEVER ? UINT64_MAX : raw + mc->cpu->msr.tsc_adjust;
}

static void op_run(void *apic, uint64_t tsc)
{
    struct machine_cpu *mc = apic;
    apic_lock(mc->machine);
    apic_now(mc);
    lapic_run(&mc->lapic, tsc - mc->cpu->msr.tsc_adjust);
    apic_unlock(mc->machine);
}

static void op_reset(void *apic, bool init)
{
    struct machine_cpu *mc = apic;
    apic_lock(mc->machine);
    lapic_reset(&mc->lapic, init);
    apic_unlock(mc->machine);
}

static void op_send(void *apic, uint32_t destination, uint8_t vector)
{
    struct machine_cpu *mc = apic;
    const struct apic_msg msg = {.dest = destination, .vector = vector, .delivery = APIC_FIXED};
    apic_lock(mc->machine);
    apic_send(mc, &mc->lapic, &msg);
    apic_unlock(mc->machine);
}

static const struct cpu_apic_ops apic_ops = {
    .pending = op_pending,
    .ack = op_ack,
    .rdmsr = op_rdmsr,
    .wrmsr = op_wrmsr,
    .get_tpr = op_get_tpr,
    .set_tpr = op_set_tpr,
    .mmio = op_mmio,
    .read = op_read,
    .write = op_write,
    .deadline = op_deadline,
    .run = op_run,
    .reset = op_reset,
    .send = op_send,
};

void machine_apic_attach(struct vmenter_machine *m, struct machine_cpu *mc)
{
    bool amd = model_is_amd(&m->model);
    mc->lapic.host =
        (struct lapic_host){.opaque = mc, .changed = apic_changed, .send = apic_send, .signal = apic_signal};
    mc->lapic.config = (struct lapic_config){
        .initial_id = mc->cpu->index,
        .version = amd ? LAPIC_VERSION_AMD : LAPIC_VERSION_INTEL,
        .tsc_num = 1, /* CPUID leaf 0x15: the timer's clock is the TSC's */
        .tsc_den = 1,
        .phys_bits = m->model.maxphyaddr,
        .bsp = mc->cpu->bsp,
        .x2apic = model_has(&m->model, FEATURE_x2apic),
        .tsc_deadline = model_has(&m->model, FEATURE_tsc_deadline_timer),
    };
    lapic_init(&mc->lapic);
    mc->cpu->apic_ops = &apic_ops;
    mc->cpu->apic = mc;
}

/* --- waiting
 * ----------------------------------------------------------------------------------------------------------- */

#define IDLE_SLICE_NS                                                                                                  \
    1000000 /* a processor that no cond signals (a kick from a signal handler) is seen this late at most */

/* Is there more to attend to than what the processor knows that it cannot take? */
static bool awake(struct machine_cpu *mc)
{
    struct cpu *c = mc->cpu;
    if (__atomic_load_n(&c->attention, __ATOMIC_ACQUIRE) & (ATT_NMI | ATT_SMI | ATT_INIT | ATT_SIPI | ATT_KICK))
        return true;
    return !c->intr_waiting && lapic_pending_vector(&mc->lapic) >= 0;
}

bool machine_idle(struct cpu *c, uint64_t until_tsc)
{
    struct machine_cpu *mc = c->apic;
    struct vmenter_machine *m = mc->machine;
    uint64_t now = cpu_tsc(c);
    if (until_tsc <= now)
        return true;
    if (m->clock == VMENTER_CLOCK_VIRTUAL && until_tsc != UINT64_MAX) {
        c->tsc_base += until_tsc - now;
        return true;
    }
    uint64_t ns = IDLE_SLICE_NS;
    if (until_tsc != UINT64_MAX)
        ns = MIN(ns, (uint64_t)((double)(until_tsc - now) * 1e9 / (double)m->tsc_hz) + 1);
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += (long)ns;
    if (t.tv_nsec >= 1000000000) {
        t.tv_nsec -= 1000000000;
        t.tv_sec++;
    }
    pthread_mutex_lock(&m->apic_lock);
    if (!awake(mc))
        pthread_cond_timedwait(&m->wake, &m->apic_lock, &t);
    pthread_mutex_unlock(&m->apic_lock);
    return true;
}
