/* SPDX-License-Identifier: MIT
 *
 * driver.c: runs a test image on our processor: vmenter-image IMAGE [--cpu MODEL] [--insns N] [--mem BYTES] [--trace
 * N].
 *
 * The least that an image needs: a machine in the state that Multiboot 1 gives ("Machine state"), the image's segments
 * in memory, a serial port that is always ready, port 0xf4. Status: what the image wrote to 0xf4; 2: bad usage or file;
 * 3: it did not end.
 */
#include "src/machine/machine.h"

#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct board {
    struct cpu *cpu;
    bool ended;
    int status;
    uint8_t lcr;
};

static uint32_t port_in(void *opaque, uint16_t port, unsigned size)
{
    switch (port) {
    case 0x3fd: return 0x60; /* transmitter empty */
    case 0x3fe: return 0xb0;
    case 0x3fa: return 0x01;
    default: return ~0u;
    }
}

static void port_out(void *opaque, uint16_t port, unsigned size, uint32_t value)
{
    struct board *b = opaque;
    if (port == 0x3fb)
        b->lcr = (uint8_t)value;
    else if (port == 0x3f8 && !(b->lcr & 0x80) && (char)value != '\r')
        putchar((char)value);
    if (port == 0xf4) {
        b->ended = true;
        b->status = (int)(value & 1);
        cpu_attend(b->cpu, ATT_KICK);
    }
}

static uint8_t *load_file(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    fseek(f, 0, SEEK_END);
    long n = ftell(f);
    rewind(f);
    uint8_t *p = n > 0 ? malloc((size_t)n) : NULL;
    if (p && fread(p, 1, (size_t)n, f) != (size_t)n) {
        free(p);
        p = NULL;
    }
    fclose(f);
    *size = (size_t)n;
    return p;
}

static bool load_image(struct vmenter_machine *m, const uint8_t *file, size_t size, uint32_t *entry)
{
    const Elf32_Ehdr *h = (const Elf32_Ehdr *)file;
    if (size < sizeof *h || memcmp(h->e_ident, ELFMAG, 4) != 0 || h->e_ident[EI_CLASS] != ELFCLASS32)
        return false;
    for (unsigned i = 0; i < h->e_phnum; i++) {
        if (h->e_phoff + (i + 1) * sizeof(Elf32_Phdr) > size)
            return false;
        const Elf32_Phdr *p = (const Elf32_Phdr *)(file + h->e_phoff) + i;
        if (p->p_type != PT_LOAD || !p->p_memsz)
            continue;
        uint8_t *to = vmenter_host_ptr(m, p->p_paddr, p->p_memsz);
        if (!to || (uint64_t)p->p_offset + p->p_filesz > size || p->p_filesz > p->p_memsz)
            return false;
        memcpy(to, file + p->p_offset, p->p_filesz);
        memset(to + p->p_filesz, 0, p->p_memsz - p->p_filesz);
    }
    *entry = h->e_entry;
    return true;
}

static void multiboot_state(struct cpu *c, uint32_t entry)
{
    c->cr0 = CR0_PE | CR0_ET;
    c->cr3 = c->cr4 = c->efer = 0;
    memset(c->gpr, 0, sizeof c->gpr);
    const struct seg data = {0, 0xffffffff, 0xc093, 0x10}, code = {0, 0xffffffff, 0xc09b, 0x08};
    for (unsigned i = 0; i < 6; i++)
        c->seg[i] = i == SEG_CS ? code : data;
    c->seg[SEG_LDTR] = (struct seg){0, 0xffff, 0x82, 0};
    c->seg[SEG_TR] = (struct seg){0, 0xffff, 0x8b, 0};
    c->gdtr = c->idtr = (struct dtable){0, 0};
    c->cpl = 0;
    c->rip = entry;
    c->gpr[GPR_RAX] = 0x2badb002;
    c->gpr[GPR_RSP] = 0x80000;
    c->activity = ACTIVITY_ACTIVE;
    c->native_host = false;
    cpu_set_rflags(c, 2);
    cpu_update_translation(c);
}

int main(int argc, char **argv)
{
    struct vmenter_config config = {.size = sizeof config, .model = "max", .ram = 512u << 20, .flags = VMENTER_RESET};
    struct vmenter_port_ops ops = {port_in, port_out};
    struct board board = {0};
    struct vmenter_machine *m;
    char error[VMENTER_ERROR_MAX];
    const char *path = NULL;
    uint64_t insns = 4000000000u;
    size_t size;
    uint32_t entry;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--cpu") == 0 && i + 1 < argc)
            config.model = argv[++i];
        else if (strcmp(argv[i], "--insns") == 0 && i + 1 < argc)
            insns = strtoull(argv[++i], NULL, 0);
        else if (strcmp(argv[i], "--mem") == 0 && i + 1 < argc)
            config.ram = strtoull(argv[++i], NULL, 0);
        else if (argv[i][0] != '-' && !path)
            path = argv[i];
        else
            path = NULL, argc = 0;
    }
    if (!path) {
        fprintf(stderr, "usage: vmenter-image IMAGE [--cpu MODEL] [--insns N] [--mem BYTES]\n");
        return 2;
    }
    uint8_t *file = load_file(path, &size);
    if (!file) {
        fprintf(stderr, "vmenter-image: can't read %s\n", path);
        return 2;
    }
    if (vmenter_create(&config, &m, error) != VMENTER_OK) {
        fprintf(stderr, "vmenter-image: %s\n", error);
        return 2;
    }
    vmenter_set_ports(m, &ops, &board);
    if (!load_image(m, file, size, &entry)) {
        fprintf(stderr, "vmenter-image: %s is not an ELF32 image that fits in memory\n", path);
        return 2;
    }
    free(file);
    struct cpu *c = board.cpu = m->cpu[0].cpu;
    multiboot_state(c, entry);
    enum cpu_stop stop = STOP_NONE;
    while (!board.ended && c->icount < insns) {
        stop = cpu_run(c, insns - c->icount);
        if (stop == STOP_SHUTDOWN || stop == STOP_IDLE || stop == STOP_RESET)
            break;
    }
    fflush(stdout);
    if (!board.ended)
        fprintf(stderr, "vmenter-image: %s at rip %#llx cs %#x after %llu instructions\n",
                stop == STOP_SHUTDOWN ? "shutdown"
                : stop == STOP_IDLE   ? "halted"
                                      : "no end",
                (unsigned long long)c->rip, c->seg[SEG_CS].sel, (unsigned long long)c->icount);
    vmenter_destroy(m);
    return board.ended ? board.status : 3;
}
