/* SPDX-License-Identifier: MIT
 *
 * run.c: the life of the guest: create, the loop of entries and exits with its one switch, destroy.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vmenter/intrin.h>

#include "vmm/vm.h"

void vmm_stop(struct vmm *v, enum vmm_outcome what, const char *why, ...)
{
    va_list ap;
    if (v->outcome != VMM_RUNNING) {
        return;
    }
    va_start(ap, why);
    vsnprintf(v->why, sizeof(v->why), why, ap);
    va_end(ap);
    v->outcome = what;
}

unsigned vmm_code_bits(struct vmm *v)
{
    struct hv_segment cs;
    v->hv->get_seg(v, HV_CS, &cs);
    if ((v->hv->get(v, HV_EFER) & EFER_LMA) && (cs.ar & 0x2000)) {
        return 64;
    }
    return cs.ar & 0x4000 ? 32 : 16;
}

/* ---- events --------------------------------------------------------------------------------------------------------
 */

/* SDM "Interrupt 8: Double Fault Exception (#DF)". */
static bool is_contributory(uint8_t vector)
{
    return vector == VECTOR_DE || (vector >= 10 && vector <= 13);
}

void vmm_queue_exception(struct vmm *v, uint8_t vector, bool has_error, uint32_t error)
{
    struct event e = {.valid = true, .type = EVENT_EXCEPTION, .vector = vector, .has_error = has_error, .error = error};
    const struct event *p = &v->pending;
    if (p->valid && p->type == EVENT_EXCEPTION) {
        if (p->vector == VECTOR_DF) {
            vmm_stop(v, VMM_CRASH, "triple fault: exception %u while a double fault was delivered", vector);
            return;
        }
        if ((is_contributory(p->vector) && is_contributory(vector)) ||
            (p->vector == VECTOR_PF && (vector == VECTOR_PF || is_contributory(vector)))) {
            e.vector = VECTOR_DF;
            e.has_error = true;
            e.error = 0;
        }
    }
    v->pending = e;
}

void vmm_skip(struct vmm *v, const struct exit *e)
{
    uint64_t rip = v->hv->get(v, HV_RIP);
    unsigned len = e->len;
    if (!len) { /* no NRIP save */
        len = emulate_length(v);
    }
    rip += len;
    v->hv->set(v, HV_RIP, vmm_code_bits(v) == 64 ? rip : (uint32_t)rip);
    v->hv->end_shadow(v);
    if (v->hv->get(v, HV_RFLAGS) & RFLAGS_TF) {
        v->hv->single_step(v);
    }
}

/* What the next entry injects, and whether a window is to be asked for. */
static void prepare_events(struct vmm *v)
{
    struct event e = v->pending;
    v->pending.valid = false;
    if (v->nmi_pending && (e.valid || !v->hv->can_nmi(v))) {
        v->hv->want_nmi(v);
    } else if (v->nmi_pending) {
        v->nmi_pending = false;
        e = (struct event){.valid = true, .type = EVENT_NMI, .vector = 2};
    }
    if (!e.valid && machine_has_interrupt(v) && v->hv->can_interrupt(v)) {
        int vector = machine_ack_interrupt(v);
        if (vector >= 0) {
            e = (struct event){.valid = true, .type = EVENT_INTERRUPT, .vector = (uint8_t)vector};
        }
    }
    v->hv->inject(v, &e);
    bool window = machine_has_interrupt(v);
    if (window != v->window) {
        v->window = window;
        v->hv->set_window(v, window);
    }
}

/* Looks at the outside world without anything for the guest, before the VMM takes a breath. */
#define IDLE_TURNS 200

/* HLT: until something that wakes the guest. */
static void idle(struct vmm *v)
{
    if (v->nmi_pending || v->pending.valid || (machine_has_interrupt(v) && v->hv->can_interrupt(v))) {
        v->halted = false;
        return;
    }
    if (!(v->hv->get(v, HV_RFLAGS) & RFLAGS_IF)) {
        vmm_stop(v, VMM_CRASH, "the guest halted with interrupts disabled: nothing can wake it");
        return;
    }
    uint64_t until = machine_deadline(v);
    if (v->config.real_clock) {
        uint64_t now = __rdtsc();
        if (until > now) {
            v->config.platform.wait(v->config.platform.opaque,
                                    device_muldiv(until - now, 1000000, (uint32_t)v->tsc_khz));
        }
        machine_poll_input(v);
    } else if (v->host_timer == HOST_TIMER_NONE) {
        if (!v->hv->wait || !v->hv->wait(v, until)) {
            vmm_stop(v, VMM_CRASH, "%s", v->error);
        }
    } else {
        host_timer_arm(v, until);
        _enable();
        __halt();
        _disable();
    }
    /* A guest that waits for its user lets the virtual clock race: not at full speed of the host. */
    if (!v->config.real_clock && ++v->idle_turns > IDLE_TURNS && !v->input_done) {
        v->config.platform.wait(v->config.platform.opaque, 1000000);
    }
}

/* ---- the switch ----------------------------------------------------------------------------------------------------
 */

static void exit_xsetbv(struct vmm *v, const struct exit *e)
{
    int leaf[4];
    uint64_t value = v->regs.rdx << 32 | (uint32_t)v->regs.rax;
    __cpuidex(leaf, 0xd, 0);
    uint64_t valid = (uint64_t)(unsigned)leaf[3] << 32 | (unsigned)leaf[0];
    /* SDM "XSETBV": bit 0 is always set, AVX needs SSE, the three AVX-512 parts go together and need AVX. */
    bool avx512 = value & 0xe0;
    if (v->hv->cpl(v) || (uint32_t)v->regs.rcx || (value & ~valid) || !(value & 1) || ((value & 4) && !(value & 2)) ||
        (avx512 && ((value & 0xe6) != 0xe6))) {
        vmm_queue_exception(v, VECTOR_GP, true, 0);
        return;
    }
    _xsetbv(0, value);
    vmm_skip(v, e);
}

static void handle_exit(struct vmm *v)
{
    const struct exit *e = &v->last;
    if (e->vectoring.valid) {
        v->pending = e->vectoring;
    }
    switch (e->kind) {
    case EXIT_CPUID:
        exit_cpuid(v);
        vmm_skip(v, e);
        break;
    case EXIT_HLT:
        vmm_skip(v, e);
        v->halted = true;
        break;
    case EXIT_IO: exit_io(v, e); break;
    case EXIT_RDMSR:
        if (exit_rdmsr(v)) {
            vmm_skip(v, e);
        }
        break;
    case EXIT_WRMSR:
        if (exit_wrmsr(v)) {
            vmm_skip(v, e);
        }
        break;
    case EXIT_CR:
        if (exit_cr(v, e)) {
            vmm_skip(v, e);
        }
        break;
    case EXIT_XSETBV: exit_xsetbv(v, e); break;
    case EXIT_CACHE:
    case EXIT_PAUSE: vmm_skip(v, e); break;
    case EXIT_SECOND: exit_second(v, e); break;
    case EXIT_INTERRUPT:
    case EXIT_TIMER: break; /* machine_run() at the top of the loop does what is due */
    case EXIT_NMI: v->next_poll = 0; break;
    case EXIT_WINDOW:
    case EXIT_NMI_WINDOW: break; /* prepare_events() injects */
    case EXIT_UNDEFINED: vmm_queue_exception(v, VECTOR_UD, false, 0); break;
    case EXIT_FORBIDDEN: vmm_queue_exception(v, VECTOR_GP, true, 0); break;
    case EXIT_TRIPLE: vmm_stop(v, VMM_CRASH, "triple fault"); break;
    case EXIT_ENTRY_FAILED: vmm_stop(v, VMM_CRASH, "entry refused: %s", e->name); break;
    case EXIT_EXCEPTION:
        vmm_stop(v, VMM_CRASH, "exception %u was intercepted, and none is asked for", e->exc.vector);
        break;
    case EXIT_UNEXPECTED:
        vmm_stop(v, VMM_CRASH, "an exit that nobody expects: %s (%#llx)", e->name, (unsigned long long)e->reason);
        break;
    }
}

static uint64_t time_ns(struct vmm *v)
{
    return v->config.stats && v->config.platform.time_ns ? v->config.platform.time_ns(v->config.platform.opaque) : 0;
}

enum vmm_outcome vmm_run(struct vmm *v)
{
    uint64_t left = time_ns(v);
    v->started_ns = left;
    while (v->outcome == VMM_RUNNING) {
        machine_run(v);
        if (v->outcome != VMM_RUNNING) {
            break;
        }
        if (v->halted) {
            idle(v);
            left = time_ns(v); /* sleep is nobody's handling time */
            continue;
        }
        v->idle_turns = 0;
        prepare_events(v);
        if (v->config.stats) {
            uint64_t now = time_ns(v);
            v->handled_ns = now - left;
        }
        if (!v->hv->enter(v, machine_deadline(v))) {
            vmm_stop(v, VMM_CRASH, "%s", v->error);
            break;
        }
        left = time_ns(v);
        v->hv->decode(v, &v->last);
        note_exit(v, &v->last);
        handle_exit(v);
    }
    return v->outcome;
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

static bool check_config(struct vmm *v)
{
    uint64_t mem = v->config.mem;
    if (mem < VMM_MEM_MIN || mem > VMM_MEM_MAX || mem % VMM_PAGE) {
        snprintf(v->error, sizeof(v->error),
                 "guest memory of %llu bytes: from %llu MiB to %llu GiB are possible, in steps of 4 KiB",
                 (unsigned long long)mem, (unsigned long long)VMM_MEM_MIN >> 20, (unsigned long long)VMM_MEM_MAX >> 30);
        return false;
    }
    return true;
}

static bool identify(struct vmm *v)
{
    int r[4] = {0};
    char vendor[13] = {0};
    __cpuidex(r, 0, 0);
    memcpy(vendor, &r[1], 4);
    memcpy(vendor + 4, &r[3], 4);
    memcpy(vendor + 8, &r[2], 4);
    v->intel = !strcmp(vendor, "GenuineIntel");
    if (strcmp(vendor, v->hv->vendor) != 0) {
        snprintf(v->error, sizeof(v->error),
                 "the processor model is %s, and %s is %s's: choose another --cpu (vmenter cpus lists them)", vendor,
                 v->hv->name, v->hv->vendor);
        return false;
    }
    __cpuidex(r, (int)0x80000008, 0);
    v->phys_bits = r[0] & 0xff;
    __cpuidex(r, 1, 0);
    if (r[2] & 1 << 26) { /* XSAVE: the guest's XCR0 is the processor's */
        __writecr4(__readcr4() | CR4_OSXSAVE);
    }
    return true;
}

struct vmm *vmm_create(const struct vmm_config *config, char error[VMM_ERROR_MAX])
{
    struct vmm *v = calloc(1, sizeof(*v));
    if (!v) {
        snprintf(error, VMM_ERROR_MAX, "the host has no memory left");
        return NULL;
    }
    v->config = *config;
    v->hv = config->svm ? &hv_svm : &hv_vmx;
    v->outcome = VMM_RUNNING;
    vmenter_set_event_handler(config->machine, host_timer_event, v);
    if (!check_config(v) || !identify(v) || !mem_init(v) || !host_timer_init(v) || !v->hv->init(v)) {
        /* An exception in an intrinsic says more than what came of it. */
        snprintf(error, VMM_ERROR_MAX, "%s", v->outcome == VMM_RUNNING ? v->error : v->why);
        free(v);
        return NULL;
    }
    machine_init(v);
    msr_init(v);
    if (!linux_load(v) || v->outcome != VMM_RUNNING) {
        snprintf(error, VMM_ERROR_MAX, "%s", v->outcome == VMM_RUNNING ? v->error : v->why);
        vmm_destroy(v);
        return NULL;
    }
    return v;
}

uint32_t vmm_exit_code(const struct vmm *v)
{
    return v->exit_code;
}

void vmm_destroy(struct vmm *v)
{
    if (v) {
        v->hv->off(v);
        free(v);
    }
}
