/* SPDX-License-Identifier: MIT
 *
 * The software PC under a guest that writes and reads everything at random: ports, device windows, PCI configuration
 * with BARs that move over RAM and over other devices, the local APIC's base. Nothing crashes, hangs, or sends more
 * than it was given; RAM that nobody wrote stays as it was. Deterministic.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "src/machine/board.h"

#define MEM   (UINT64_C(16) << 20)
#define GUARD UINT64_C(0x800000) /* 4 MiB of RAM that is only read */

static uint64_t random64(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    return *x ^= *x << 17;
}

struct outside {
    unsigned long bytes, polls, polls_max, input;
};
static void on_byte(void *o, uint8_t byte)
{
    ((struct outside *)o)->bytes++;
}
static int on_want(void *o)
{
    struct outside *w = o;
    return w->input++ % 3 ? (int)(w->input & 0xff) : -1;
}
static enum pc_outcome on_poll(void *o)
{
    struct outside *w = o;
    return ++w->polls > w->polls_max ? PC_TIMEOUT : PC_RUNNING;
}

/* Multiboot 1, by address fields, at 0x200000. */
static struct pc *machine(struct outside *w, unsigned cpus, const char *model, const uint8_t *code, size_t size)
{
    static uint32_t image[64];
    char error[PC_ERROR_MAX];
    memset(image, 0xf4, sizeof image);
    const uint32_t header[8] = {0x1badb002, 0x10000, -(0x1badb002u + 0x10000u), 0x200000, 0x200000, 0, 0, 0x200020};
    memcpy(image, header, sizeof header);
    memcpy(image + 8, code, size);
    struct pc_config config = {.platform = {.opaque = w, .poll = on_poll},
                               .model = model,
                               .cpus = cpus,
                               .mem = MEM,
                               .image = {.name = "fuzz", .data = image, .size = sizeof image}};
    for (unsigned i = 0; i < PC_SERIALS; i++)
        config.platform.serial[i] = (struct pc_serial){.opaque = w, .out = on_byte, .in = on_want};
    struct pc *pc = pc_create(&config, error);
    if (!pc)
        fail_msg("%s", error);
    return pc;
}

static unsigned long card_hits;
static uint64_t card_read(void *dev, uint64_t now, uint64_t offset, unsigned size)
{
    assert_true(offset + size <= *(const uint32_t *)dev);
    card_hits++;
    return offset;
}
static void card_write(void *dev, uint64_t now, uint64_t offset, unsigned size, uint64_t value)
{
    assert_true(offset + size <= *(const uint32_t *)dev);
}
static const struct device_ops card_ops = {.width = 4, .read = card_read, .write = card_write};

/* DMA writes where the guest says: here, but for the guard. */
static bool (*real_memory)(void *opaque, uint64_t gpa, void *buf, uint32_t len, bool write);
static bool guarded_memory(void *opaque, uint64_t gpa, void *buf, uint32_t len, bool write)
{
    return (gpa + len <= GUARD || gpa >= MEM) && real_memory(opaque, gpa, buf, len, write);
}

static uint16_t some_port(const struct pc *pc, uint64_t r)
{
    const struct device_range *d = &pc->range[(r >> 8) % pc->ranges];
    return (uint16_t)(r & 15 ? d->base + (r >> 20) % (d->len + 2) - 1 : r >> 16);
}

static uint64_t some_address(const struct pc *pc, uint64_t r)
{
    static const uint64_t at[] = {PC_IOAPIC, PC_HPET, PC_LAPIC,     GUARD,
                                  MEM - 8,   PC_HOLE, PC_HIGH - 16, UINT64_C(1) << 40};
    uint64_t base = at[r & 7];
    if ((r >> 3 & 3) == 0)
        base = pc->machine->cpu[0].lapic.s.base & PAGE_BASE;
    else if ((r >> 3 & 3) == 1)
        base = pc->window[(r >> 8) % pc->windows].base;
    return base + (r >> 16 & 0x400 ? r >> 32 & 0x3ff : (r >> 32) & 0x3f8);
}

static void every_register(void **state)
{
    static uint32_t sizes[4] = {4096, 256, 65536, 4};
    static struct pci_function card;
    static const struct pci_id id = {.vendor = 0x1234, .device = 1, .class_code = 0xff0000, .pin = 2};
    static const uint8_t code[] = {0xf4};
    struct outside w = {0};
    struct pc *pc = machine(&w, 2, "max", code, sizeof code);
    struct mem *m = pc->machine->mem;
    memset(&card, 0, sizeof card);
    for (unsigned i = 0; i < 4; i++)
        card.bar[i] = (struct pci_bar){.size = sizes[i], .io = i & 1, .ops = &card_ops, .dev = &sizes[i]};
    real_memory = pc->fw_cfg.memory;
    pc->fw_cfg.memory = guarded_memory;
    pci_add(&pc->pci, &card, PCI_DEVFN(5, 0), &id);

    uint64_t x = 0x123456789abcdef, accesses = 0;
    unsigned long n = getenv("VMENTER_FUZZ") ? strtoul(getenv("VMENTER_FUZZ"), NULL, 0) : 1000000;
    uint8_t *guard = mem_host(m, HPA(GUARD), UINT64_C(4) << 20, true);
    memset(guard, 0x5a, 4 << 20);
    for (unsigned long i = 0; i < n; i++) {
        uint64_t r = random64(&x), v = random64(&x);
        unsigned size = 1u << (r >> 60) % 3;
        struct cpu *c = pc->machine->cpu[r >> 58 & 1].cpu;
        uint64_t pa = some_address(pc, r >> 4);
        pc->current = r >> 58 & 1;
        switch (r & 15) {
        case 0 ... 3: mem_port_out(m, some_port(pc, v), size, (uint32_t)random64(&x)); break;
        case 4 ... 6: mem_port_in(m, some_port(pc, v), size); break;
        case 7: /* configuration: mostly of functions that are there */
            mem_port_out(m, 0xcf8, 4, 0x80000000u | (uint32_t[]){0, 8, 11, 40}[v & 3] << 8 | (v >> 8 & 0xfc));
            mem_port_out(m, (uint16_t)(0xcfc + (v >> 16 & 3)), size, (uint32_t)random64(&x));
            break;
        case 8: /* the card's BARs and command */
            pci_config_write(&card, v & 1 ? PCI_COMMAND : PCI_BAR0 + (v >> 4) % 4 * 4, 4,
                             v & 1 ? (uint32_t)(v >> 32) | 3 : (uint32_t)some_address(pc, v >> 8));
            pci_set_intx(&card, v >> 60 & 1);
            break;
        case 9: /* only of RAM that may be written */
            if (pa < GUARD || pa > MEM)
                mem_write(m, HPA(pa), &v, 1 + (r >> 50) % 8);
            break;
        case 10: mem_read(m, HPA(pa), &v, 1 + (r >> 50) % 8); break;
        case 11: /* as a processor makes them: the local APIC is in the way */
            if (pa < UINT64_C(1) << 32 && (pa < GUARD || pa > MEM))
                cpu_write(c, LA(pa), &v, size, MMU_WRITE);
            c->exc = (struct cpu_event){0};
            break;
        case 12:
            if (pa < UINT64_C(1) << 32)
                cpu_read(c, LA(pa), &v, size, MMU_READ);
            c->exc = (struct cpu_event){0};
            break;
        case 13: {
            static const uint64_t base[] = {PC_LAPIC, PC_HPET, PC_IOAPIC, GUARD, PC_HOLE, 0x1000, MEM, PC_1M};
            if ((v >> 8 & 63) == 0)
                cpu_wrmsr(c, LAPIC_MSR_BASE, base[v & 7] | LAPIC_BASE_EN);
            c->exc = (struct cpu_event){0};
            break;
        }
        default:
            c->skipped += v >> (40 + (v & 15)); /* time goes on */
            for (unsigned k = 0; k < 2; k++)
                if (pc->tsc < cpu_tsc(pc->machine->cpu[k].cpu) - pc->machine->cpu[k].cpu->msr.tsc_adjust)
                    pc->tsc = cpu_tsc(pc->machine->cpu[k].cpu) - pc->machine->cpu[k].cpu->msr.tsc_adjust;
            for (unsigned k = 0; k < 2; k++) {
                struct cpu *d = pc->machine->cpu[k].cpu;
                d->skipped += pc->tsc - (cpu_tsc(d) - d->msr.tsc_adjust);
            }
            board_run(pc, pc_now(pc));
            board_poll(pc, pc_now(pc));
            break;
        }
        accesses++;
        pc->outcome = PC_RUNNING; /* a reset or a power-off that was asked for */
        mem_set_a20(m, true);
    }
    assert_int_equal(accesses, n);
    assert_true(card_hits > n / 10000);
    assert_true(w.bytes > 0 && w.bytes <= 4 * n);
    for (unsigned i = 0; i < 4 << 20; i++)
        if (guard[i] != 0x5a)
            fail_msg("RAM at %#llx was written", (unsigned long long)(GUARD + i));
    pc_destroy(pc);
}

/* The same by the instructions of a guest, to whatever end it makes. */
static void by_instructions(void **state)
{
    static const uint8_t code[] = {
        0xbe, 0,    0,    0,    0,    /* mov esi, seed */
        0x89, 0xf0,                   /* next: mov eax, esi */
        0xc1, 0xe0, 0x0d,             /* shl eax, 13 */
        0x31, 0xc6,                   /* xor esi, eax */
        0x89, 0xf0,                   /* mov eax, esi */
        0xc1, 0xe8, 0x11,             /* shr eax, 17 */
        0x31, 0xc6,                   /* xor esi, eax */
        0x89, 0xf0,                   /* mov eax, esi */
        0xc1, 0xe0, 0x05,             /* shl eax, 5 */
        0x31, 0xc6,                   /* xor esi, eax */
        0x89, 0xf2,                   /* mov edx, esi */
        0x89, 0xf0,                   /* mov eax, esi */
        0x81, 0xe2, 0xff, 0x0f, 0, 0, /* and edx, 0xfff */
        0xc1, 0xc8, 0x0b,             /* ror eax, 11 */
        0xee, 0x66, 0xef, 0xef,       /* out dx, al; out dx, ax; out dx, eax */
        0xec, 0x66, 0xed, 0xed,       /* in */
        0xeb, 0xd4,                   /* jmp next */
    };
    unsigned ends[PC_QUIT + 1] = {0};
    for (unsigned seed = 1; seed <= 60; seed++) {
        struct outside w = {.polls_max = 1};
        uint8_t with_seed[sizeof code];
        memcpy(with_seed, code, sizeof code);
        uint32_t start = seed * 2654435761u;
        memcpy(with_seed + 1, &start, 4);
        assert_int_equal(with_seed[sizeof code - 1], (uint8_t)(5 - (int)sizeof code));
        struct pc *pc = machine(&w, 1 + seed % 2, seed % 2 ? "max" : "max-amd", with_seed, sizeof code);
        ends[pc_run(pc)]++;
        pc_destroy(pc);
    }
    assert_int_equal(ends[PC_CRASH], 0);
    assert_true(ends[PC_EXIT] + ends[PC_RESET] > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_register),
        cmocka_unit_test(by_instructions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
