/* SPDX-License-Identifier: MIT
 *
 * pvh.c: an ELF image with a Xen note PHYS32_ENTRY ("x86/HVM direct boot ABI", Xen's public/arch-x86/hvm/start_info.h):
 * Linux's vmlinux, FreeBSD's kernel, unikernels. The command line is --append alone; the modules are --initrd and
 * --module, each with its arguments.
 */
#include "src/machine/boot/boot.h"

#define MAGIC 0x336ec578u

struct start_info {
    uint32_t magic, version, flags, nr_modules;
    uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
    uint32_t memmap_entries, reserved;
};
struct module {
    uint64_t paddr, size, cmdline_paddr, reserved;
};
struct mmap_entry {
    uint64_t addr, size;
    uint32_t type, reserved;
};

static bool build_info(struct boot *b, uint32_t *info_pa)
{
    const struct pc_config *k = b->config;
    struct boot_module mods[BOOT_MODULES_MAX];
    unsigned n = boot_list_modules(b, mods);
    uint64_t at_mods = sizeof(struct start_info), at_map = at_mods + n * sizeof(struct module);
    uint64_t used = at_map + b->ranges * sizeof(struct mmap_entry);
    const char *append = k->append ? k->append : "";
    uint64_t size = used + boot_string_size(append, NULL);
    for (unsigned i = 0; i < n; i++)
        size += boot_string_size(mods[i].f->args ? mods[i].f->args : "", NULL);
    uint64_t top = boot_top(b), pa;
    uint8_t *p = boot_info(b, size, top, &pa);
    if (!p)
        return false;
    if (!boot_load_modules(b, mods, n, top))
        return false;
    struct start_info info = {.magic = MAGIC,
                              .version = 1,
                              .nr_modules = n,
                              .modlist_paddr = n ? pa + at_mods : 0,
                              .cmdline_paddr = pa + used,
                              .rsdp_paddr = PC_BIOS,
                              .memmap_paddr = pa + at_map,
                              .memmap_entries = b->ranges};
    boot_put_string(p + used, append, NULL);
    used += boot_string_size(append, NULL);
    for (unsigned i = 0; i < n; i++) {
        const char *args = mods[i].f->args;
        struct module m = {.paddr = mods[i].base, .size = mods[i].f->size};
        if (args) {
            m.cmdline_paddr = pa + used;
            boot_put_string(p + used, args, NULL);
            used += boot_string_size(args, NULL);
        }
        memcpy(p + at_mods + i * sizeof m, &m, sizeof m);
    }
    for (unsigned i = 0; i < b->ranges; i++) {
        struct mmap_entry e = {.addr = b->map[i].base, .size = b->map[i].len, .type = b->map[i].type};
        memcpy(p + at_map + i * sizeof e, &e, sizeof e);
    }
    memcpy(p, &info, sizeof info);
    *info_pa = (uint32_t)pa;
    return true;
}

bool pvh_load(struct boot *b, uint64_t entry)
{
    struct elf_file e;
    struct boot_image im;
    uint32_t info = 0;
    if (!elf_open(b, &e) || !elf_image(b, &e, &im))
        return false;
    im.entry = entry; /* physical, by the note */
    if (!boot_load_image(b, &im) || !build_info(b, &info))
        return false;
    boot_start32(b, (uint32_t)entry, 0, info);
    return true;
}
