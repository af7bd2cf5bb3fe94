/* SPDX-License-Identifier: MIT
 *
 * linux.c: a bzImage in the PC: memory by src/dev/linux_boot.h, registers as it says.
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
                           .bits = k->entry,
                           .ram = linux_ram,
                           .opaque = b};
    if (!linux_boot_load(&l))
        return boot_fail(b, "%s: %s",
                         l.about == LINUX_INITRD    ? k->initrd.name
                         : l.about == LINUX_CMDLINE ? "--append"
                                                    : k->image.name,
                         l.error);
    struct cpu *c = b->machine->cpu[0].cpu;
    memset(c->gpr, 0, sizeof c->gpr);
    c->rip = l.entry;
    if (l.bits == 16) {
        for (unsigned i = 0; i < 6; i++)
            c->seg[i] = (struct seg){
                .base = LINUX_BOOT_PARAMS, .limit = 0xffff, .ar = AR_P | AR_S | 3, .sel = LINUX_BOOT_PARAMS >> 4};
        c->seg[SEG_CS].base += 0x200;
        c->seg[SEG_CS].sel += 0x20;
        c->seg[SEG_CS].ar = AR_P | AR_S | 0xb;
        c->idtr = (struct dtable){.limit = 0x3ff};
        c->cr0 = CR0_ET;
        c->gpr[GPR_RSP] = LINUX_BOOT_HEAP_END;
        return true;
    }
    boot_flat(c, 0x10, AR_G | (l.bits == 64 ? AR_L : AR_DB) | AR_P | AR_S | 0xb, 0x18);
    c->seg[SEG_TR] = (struct seg){.limit = 0x67, .ar = AR_P | 0xb, .sel = 0x20};
    c->gdtr = (struct dtable){.base = LINUX_BOOT_GDT, .limit = 63};
    c->idtr = (struct dtable){0};
    c->gpr[GPR_RSI] = LINUX_BOOT_PARAMS;
    if (l.bits == 32) {
        c->cr0 = CR0_PE | CR0_ET;
        return true;
    }
    c->efer = (EFER_LME | EFER_LMA | EFER_NXE) & (model_efer_bits(&b->machine->model) | EFER_LMA);
    c->cr3 = LINUX_BOOT_PAGING;
    c->cr4 = CR4_PAE;
    c->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    c->gpr[GPR_RSP] = LINUX_BOOT_STACK;
    return true;
}
