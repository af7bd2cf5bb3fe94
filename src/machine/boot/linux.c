/* SPDX-License-Identifier: MIT
 *
 * linux.c: a bzImage in the PC: memory by src/dev/linux_boot.h, registers by "64-bit Boot Protocol" (long mode, flat
 * segments __BOOT_CS 0x10 and __BOOT_DS 0x18, RSI boot_params, interrupts off).
 */
#include "src/machine/boot/boot.h"

static void *linux_ram(void *opaque, uint64_t pa, uint64_t len)
{
    struct boot *b = opaque;
    return mem_host(b->machine->mem, HPA(pa), len, true);
}

bool boot_linux(struct boot *b)
{
    const struct pc_config *k = b->config;
    if (k->modules)
        return boot_fail(b, "%s: a Linux kernel takes no modules: use --initrd", k->module[0].name);
    struct linux_boot l = {.kernel = {k->image.data, k->image.size},
                           .initrd = {k->initrd.data, k->initrd.size},
                           .cmdline = k->append,
                           .low = b->low,
                           .map = b->map,
                           .ranges = b->ranges,
                           .rsdp = PC_BIOS,
                           .ram = linux_ram,
                           .opaque = b};
    if (!linux_boot_load(&l))
        return boot_fail(b, "%s: %s",
                         l.about == LINUX_INITRD    ? k->initrd.name
                         : l.about == LINUX_CMDLINE ? "--append"
                                                    : k->image.name,
                         l.error);
    struct cpu *c = b->machine->cpu[0].cpu;
    boot_flat(c, 0x10, AR_G | AR_L | AR_P | AR_S | 0xb, 0x18);
    c->seg[SEG_TR] = (struct seg){.limit = 0x67, .ar = AR_P | 0xb, .sel = 0x20};
    c->gdtr = (struct dtable){.base = LINUX_BOOT_GDT, .limit = 63};
    c->idtr = (struct dtable){0};
    c->efer = (EFER_LME | EFER_LMA | EFER_NXE) & (model_efer_bits(&b->machine->model) | EFER_LMA);
    c->cr3 = LINUX_BOOT_PAGING;
    c->cr4 = CR4_PAE;
    c->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    c->rip = l.entry;
    c->gpr[GPR_RSP] = LINUX_BOOT_STACK;
    c->gpr[GPR_RSI] = LINUX_BOOT_PARAMS;
    return true;
}
