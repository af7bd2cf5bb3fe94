/* SPDX-License-Identifier: MIT
 *
 * machine.c: <vmenter/vmenter.h>: machines, their memory, the threads that are bound to their processors.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <Zydis/Zydis.h>

#include "src/cpu/code.h"
#include "src/machine/machine.h"
#include "src/svm/svm.h"
#include "src/vmx/vmx.h"

#define TSC_HZ 1000000000ull /* virtual: an instruction is a nanosecond; real: the TSC counts nanoseconds */

/* The software processor's own stack, for guests that __vmx_vmlaunch() enters. */
#define BINDING_STACK_SIZE (256u << 10)

__thread struct binding *machine_binding __attribute__((tls_model("initial-exec"), visibility("hidden")));

/* --- create, destroy
 * --------------------------------------------------------------------------------------------------- */

static enum vmenter_status fail(enum vmenter_status status, char *error, const char *message)
{
    if (error)
        snprintf(error, VMENTER_ERROR_MAX, "%s", message);
    return status;
}

static enum vmenter_status check_config(const struct vmenter_config *config, struct vmenter_config *c, char *error)
{
    if (!config || config->size < offsetof(struct vmenter_config, flags) + sizeof config->flags)
        return fail(VMENTER_EINVAL, error, "configuration: member `size` must be sizeof(struct vmenter_config)");
    *c = (struct vmenter_config){0};
    memcpy(c, config, MIN(config->size, sizeof *c));
    if (!c->model)
        c->model = "max";
    if (!c->cpus)
        c->cpus = 1;
    if (c->cpus > MACHINE_CPUS_MAX) {
        if (error)
            snprintf(error, VMENTER_ERROR_MAX, "%u logical processors: from 1 to %u are possible", c->cpus,
                     MACHINE_CPUS_MAX);
        return VMENTER_EINVAL;
    }
    if (c->ram & PAGE_OFFSET)
        return fail(VMENTER_EINVAL, error, "ram: must be a multiple of 4096 bytes");
    if (c->flags & ~(unsigned)(VMENTER_IDENTITY | VMENTER_HOST_SYSCALLS | VMENTER_RESET | VMENTER_EXACT_TABLES))
        return fail(VMENTER_EINVAL, error, "flags: unknown bits of enum vmenter_flags are set");
    if ((c->flags & VMENTER_HOST_SYSCALLS) && !(c->flags & VMENTER_IDENTITY))
        return fail(VMENTER_EINVAL, error, "VMENTER_HOST_SYSCALLS needs VMENTER_IDENTITY");
    if ((c->flags & VMENTER_IDENTITY) && (c->flags & VMENTER_RESET))
        return fail(VMENTER_EINVAL, error, "VMENTER_RESET and VMENTER_IDENTITY exclude one another");
    if (c->clock != VMENTER_CLOCK_VIRTUAL && c->clock != VMENTER_CLOCK_REAL)
        return fail(VMENTER_EINVAL, error, "clock: VMENTER_CLOCK_VIRTUAL or VMENTER_CLOCK_REAL");
    return VMENTER_OK;
}

static bool create_cpu(struct vmenter_machine *m, unsigned i)
{
    struct machine_cpu *mc = &m->cpu[i];
    struct cpu *c = cpu_create(m->mem, &m->model, i);
    if (!c)
        return false;
    mc->machine = m;
    mc->cpu = c;
    c->machine = m;
    c->native_host = true;
    c->identity = m->flags & VMENTER_IDENTITY;
    c->fold_tables = c->identity && !(m->flags & VMENTER_EXACT_TABLES);
    c->host_syscall = m->flags & VMENTER_HOST_SYSCALLS ? identity_syscall : NULL;
    c->real_clock = m->clock == VMENTER_CLOCK_REAL;
    c->tsc_hz = m->tsc_hz;
    c->real_start = m->real_start;
    c->cpus = m->cpus;
    c->bsp = i == 0;
    if (c->real_clock || m->cpus > 1)
        c->idle = machine_idle;
    machine_apic_attach(m, mc);
    if (!vmx_attach(c) || !svm_attach(c))
        return false;
    if (m->flags & VMENTER_RESET)
        cpu_update_translation(c);
    else
        machine_start_state(m, c);
    return true;
}

static bool build(struct vmenter_machine *m, const struct vmenter_config *c)
{
    m->mem = mem_create();
    if (!m->mem)
        return false;
    m->firmware_pa = MAX(FIRMWARE_BASE, (c->ram + 0x1fffff) & ~0x1fffffull);
    if (c->flags & VMENTER_IDENTITY) {
        if (!identity_create(m))
            return false;
    } else if (c->ram && !mem_add_ram(m->mem, HPA(0), c->ram)) {
        return false;
    }
    if (!(c->flags & VMENTER_RESET) && !machine_firmware_create(m))
        return false;
    for (unsigned i = 0; i < m->cpus; i++)
        if (!create_cpu(m, i))
            return false;
    return true;
}

enum vmenter_status vmenter_create(const struct vmenter_config *config, struct vmenter_machine **out,
                                   char error[VMENTER_ERROR_MAX])
{
    struct vmenter_config c;
    if (error)
        error[0] = 0;
    if (!out)
        return fail(VMENTER_EINVAL, error, "vmenter_create: `out` is NULL");
    *out = NULL;
    enum vmenter_status status = check_config(config, &c, error);
    if (status)
        return status;

    struct vmenter_machine *m = calloc(1, sizeof *m);
    if (!m)
        return fail(VMENTER_ENOMEM, error, "no memory for a machine");
    if (!model_parse(&m->model, c.model, error, VMENTER_ERROR_MAX)) {
        free(m);
        return VMENTER_ENOMODEL;
    }
    if (c.flags & VMENTER_IDENTITY) {
        /* The process's addresses have 47 bits, and a page table for all of them wants large pages. */
        m->model.maxphyaddr = MAX(m->model.maxphyaddr, (uint8_t)48);
        m->model.has[FEATURE_pdpe1gb] = true;
        c.ram = 0;
    } else if (c.ram >> m->model.maxphyaddr || c.ram > (256ull << 30)) {
        if (error)
            snprintf(error, VMENTER_ERROR_MAX,
                     "%llu MiB of RAM: model %s has %u physical address bits, and 256 GiB is the most that is possible",
                     (unsigned long long)(c.ram >> 20), m->model.name, m->model.maxphyaddr);
        free(m);
        return VMENTER_EINVAL;
    }
    m->flags = c.flags;
    m->clock = c.clock;
    m->cpus = c.cpus;
    m->ram = c.ram;
    m->tsc_hz = TSC_HZ;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    m->real_start = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    pthread_mutex_init(&m->apic_lock, NULL);
    pthread_cond_init(&m->wake, NULL);
    if (!build(m, &c)) {
        vmenter_destroy(m);
        if (error)
            snprintf(error, VMENTER_ERROR_MAX, "the host has no memory for a machine with %llu MiB of RAM",
                     (unsigned long long)(c.ram >> 20));
        return VMENTER_ENOMEM;
    }
    *out = m;
    return VMENTER_OK;
}

void vmenter_destroy(struct vmenter_machine *m)
{
    if (!m || machine_is_guest())
        return;
    if (machine_binding && machine_binding->machine == m)
        vmenter_unbind();
    for (unsigned i = 0; i < m->cpus; i++) {
        struct cpu *c = m->cpu[i].cpu;
        if (!c)
            continue;
        svm_detach(c);
        vmx_detach(c);
        cpu_destroy(c);
    }
    if (m->mem)
        mem_destroy(m->mem);
    machine_firmware_destroy(m);
    identity_destroy(m);
    pthread_cond_destroy(&m->wake);
    pthread_mutex_destroy(&m->apic_lock);
    free(m);
}

/* --- binding
 * ----------------------------------------------------------------------------------------------------------- */

#if defined(__x86_64__)
/* Which registers of native code the entries from assembly and the traps keep, and how. PKRU and the tiles of AMX are
 * not touched meanwhile. */
static bool binding_vector(struct binding *b)
{
    uint32_t eax, ebx, ecx, edx;
    b->vector = aligned_alloc(64, MACHINE_VECTOR_SIZE);
    if (!b->vector)
        return false;
    memset(b->vector, 0, MACHINE_VECTOR_SIZE);
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & 1u << 27))
        return true;
    __asm__("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    b->vector_mask = eax & 0xe7;
    b->vector_how = 1;
    if (__get_cpuid_count(0xd, 1, &eax, &ebx, &ecx, &edx) && eax & 2)
        b->vector_how = 2;
    return true;
}
#else
static bool binding_vector(struct binding *b)
{
    return true;
}
#endif

static bool binding_stack(struct binding *b)
{
    b->stack_size = BINDING_STACK_SIZE + 65536;
    b->stack = mmap(NULL, b->stack_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (b->stack == MAP_FAILED)
        return false;
    mprotect(b->stack, 65536, PROT_NONE); /* the guard, as wide as any host's page */
    b->stack_top = (uint8_t *)b->stack + b->stack_size;
    return true;
}

enum vmenter_status vmenter_bind(struct vmenter_machine *m, unsigned index)
{
    if (!m || index >= m->cpus)
        return VMENTER_EINVAL;
    if (machine_is_guest())
        return VMENTER_EBUSY;
    struct machine_cpu *mc = &m->cpu[index];
    struct binding *b = machine_binding;
    if (b && b->cpu == mc->cpu)
        return VMENTER_OK;
    if (b && b->running)
        return VMENTER_EBUSY;

    struct binding *fresh = calloc(1, sizeof *fresh);
    if (!fresh || !binding_vector(fresh) || !binding_stack(fresh)) {
        if (fresh)
            free(fresh->vector);
        free(fresh);
        return VMENTER_ENOMEM;
    }
    struct binding *none = NULL;
    if (!__atomic_compare_exchange_n(&mc->bound, &none, fresh, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        munmap(fresh->stack, fresh->stack_size);
        free(fresh->vector);
        free(fresh);
        return VMENTER_EBUSY;
    }
    fresh->machine = m;
    fresh->cpu = mc->cpu;
    fresh->index = index;
    if (b) {
        fresh->trapping = b->trapping;
        fresh->signal_stack = b->signal_stack;
        fresh->signal_stack_size = b->signal_stack_size;
        fresh->release = b->release;
        b->release = NULL;
    }
    vmenter_unbind();
    machine_binding = fresh;
    if (m->flags & VMENTER_IDENTITY)
        identity_bind(mc->cpu);
    return VMENTER_OK;
}

void vmenter_unbind(void)
{
    struct binding *b = machine_binding;
    if (!b || b->running || machine_is_guest())
        return;
    machine_binding = NULL;
    __atomic_store_n(&b->machine->cpu[b->index].bound, NULL, __ATOMIC_RELEASE);
    if (b->release)
        b->release(b);
    munmap(b->stack, b->stack_size);
    free(b->exec);
    free(b->vector);
    free(b);
}

struct vmenter_machine *vmenter_bound(void)
{
    return machine_binding ? machine_binding->machine : NULL;
}

/* --- memory, ports, events
 * --------------------------------------------------------------------------------------------- */

void *vmenter_host_ptr(struct vmenter_machine *m, uint64_t pa, uint64_t len)
{
    return m ? mem_host(m->mem, HPA(pa), len, false) : NULL;
}

uint64_t vmenter_phys_addr(struct vmenter_machine *m, const void *ptr)
{
    return m ? mem_phys(m->mem, ptr) : UINT64_MAX;
}

/* A translation that some processor holds must not outlive a change of the memory map. */
static void memory_changed(struct vmenter_machine *m)
{
    for (unsigned i = 0; i < m->cpus; i++)
        tlb_flush_all(&m->cpu[i].cpu->tlbs);
    mem_code_bump(m->mem);
}

enum vmenter_status vmenter_map(struct vmenter_machine *m, uint64_t pa, void *ptr, uint64_t len, unsigned flags)
{
    if (!m || !ptr || !len || ((pa | (uintptr_t)ptr | len) & PAGE_OFFSET) ||
        (flags & ~(unsigned)VMENTER_MAP_READONLY) || pa + (len - 1) < pa || (pa + (len - 1)) >> m->model.maxphyaddr)
        return VMENTER_EINVAL;
    if (!mem_add_host(m->mem, HPA(pa), ptr, len, flags & VMENTER_MAP_READONLY))
        return VMENTER_EBUSY;
    memory_changed(m);
    return VMENTER_OK;
}

enum vmenter_status vmenter_unmap(struct vmenter_machine *m, uint64_t pa, uint64_t len)
{
    if (!m || pa < m->ram || pa == m->firmware_pa || !mem_remove(m->mem, HPA(pa), len))
        return VMENTER_EINVAL;
    memory_changed(m);
    return VMENTER_OK;
}

static uint32_t port_in(void *opaque, uint16_t port, unsigned size)
{
    struct vmenter_machine *m = opaque;
    return m->ports.in ? m->ports.in(m->ports_opaque, port, size) : ~0u;
}

static void port_out(void *opaque, uint16_t port, unsigned size, uint32_t value)
{
    struct vmenter_machine *m = opaque;
    if (m->ports.out)
        m->ports.out(m->ports_opaque, port, size, value);
}

void vmenter_set_ports(struct vmenter_machine *m, const struct vmenter_port_ops *ops, void *opaque)
{
    static const struct mem_port_ops mem_ports = {.in = port_in, .out = port_out};
    m->ports = ops ? *ops : (struct vmenter_port_ops){0};
    m->ports_opaque = opaque;
    mem_set_ports(m->mem, ops ? &mem_ports : NULL, m);
}

void vmenter_set_event_handler(struct vmenter_machine *m, vmenter_event_handler handler, void *opaque)
{
    m->on_event = handler;
    m->on_event_opaque = opaque;
}

void vmenter_kick(struct vmenter_machine *m, unsigned index)
{
    if (m && index < m->cpus)
        cpu_attend(m->cpu[index].cpu, ATT_NMI);
}

/* --- what happened
 * -------------------------------------------------------------------------------------------------------- */

void vmenter_get_stats(struct vmenter_stats *out)
{
    *out = (struct vmenter_stats){0};
    if (!machine_binding)
        return;
    const struct cpu *c = machine_binding->cpu;
    out->instructions = c->icount;
    out->entries = c->stats.entries;
    out->exits = c->stats.exits;
    out->tlb_fills = c->tlbs.fills;
    out->blocks_decoded = c->code->decoded;
    out->blocks_invalidated = c->code->killed;
}

uint64_t vmenter_tsc_hz(const struct vmenter_machine *m)
{
    return m->tsc_hz;
}

size_t vmenter_explain_entry(char *buf, size_t size)
{
    if (size)
        buf[0] = 0;
    if (!machine_binding)
        return 0;
    struct cpu *c = machine_binding->cpu;
    return c->svm ? svm_explain(c, buf, size) : c->vmx ? vmx_explain(c, buf, size) : 0;
}

size_t vmenter_disassemble(const void *code, size_t len, uint64_t rip, unsigned bits_, unsigned max, char *buf,
                           size_t size)
{
    static const ZydisMachineMode modes[] = {ZYDIS_MACHINE_MODE_LONG_COMPAT_16, ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
                                             ZYDIS_MACHINE_MODE_LONG_64};
    unsigned mode = bits_ == 16 ? 0 : bits_ == 32 ? 1 : 2;
    ZydisDecoder decoder;
    ZydisFormatter formatter;
    ZydisDecoderInit(&decoder, modes[mode],
                     mode == 2   ? ZYDIS_STACK_WIDTH_64
                     : mode == 1 ? ZYDIS_STACK_WIDTH_32
                                 : ZYDIS_STACK_WIDTH_16);
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);

    const uint8_t *p = code;
    size_t total = 0;
    if (size)
        buf[0] = 0;
    for (unsigned n = 0; n < max && len; n++) {
        ZydisDecodedInstruction in;
        ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
        char text[128];
        size_t used = 1;
        if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, p, len, &in, op))) {
            ZydisFormatterFormatInstruction(&formatter, &in, op, in.operand_count_visible, text, sizeof text, rip,
                                            NULL);
            used = in.length;
        } else {
            snprintf(text, sizeof text, "db 0x%02x", *p);
        }
        char bytes[2 * 15 + 1] = "";
        for (size_t i = 0; i < used; i++)
            snprintf(bytes + 2 * i, 3, "%02x", p[i]);
        int w = snprintf(total < size ? buf + total : NULL, total < size ? size - total : 0, "%016llx  %-22s %s\n",
                         (unsigned long long)rip, bytes, text);
        total += (size_t)(w > 0 ? w : 0);
        p += used;
        len -= used;
        rip += used;
    }
    return total;
}

const struct vmenter_model *vmenter_model(unsigned index)
{
    /* The public view of the model table, row by row. */
    static const struct vmenter_model models[] = {
#define F(name)
#define VENDOR_NAME_VENDOR_INTEL "intel"
#define VENDOR_NAME_VENDOR_AMD   "amd"
#define MODEL(name_, description_, vendor_, ...)                                                                       \
    {.name = name_, .vendor = VENDOR_NAME_##vendor_, .description = description_},
#include "src/arch/model.def"
#undef MODEL
#undef F
    };
    return index < ARRAY_LEN(models) ? &models[index] : NULL;
}
