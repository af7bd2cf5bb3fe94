/* SPDX-License-Identifier: MIT
 *
 * state.c: the state in which a hosted VMM finds its logical processor: what firmware and an operating system would
 * have left it. 64-bit mode at CPL 0, flat segments, a page table that maps addresses to themselves, a GDT, a TSS, an
 * empty IDT, VMX allowed by IA32_FEATURE_CONTROL, interrupts disabled.
 *
 * The tables live in memory of the machine outside of RAM, for all processors together but for the TSS.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "src/machine/machine.h"

/* Offsets in the firmware's memory. */
#define FW_GDT  0x0000ull /* 256 bytes for each processor */
#define FW_TSS  0x4000ull /* 256 bytes for each processor */
#define FW_IDT  0x8000ull /* one page of gates that are not present */
#define FW_PML4 0x9000ull
#define FW_PDPT 0xa000ull

#define SEL_CODE 0x10
#define SEL_DATA 0x18
#define SEL_TSS  0x40
#define TSS_SIZE 0x68

#define GIB (1ull << 30)

static void fw_store(struct vmenter_machine *m, uint64_t offset, uint64_t v)
{
    store64(m->firmware + offset, v);
}

/* Maps [0, slots * 512 GiB) to itself. In identity mode these are pages of a process: software may run on the selectors
 * that it has there (CS 0x33), that is at CPL 3. */
static void build_paging(struct vmenter_machine *m, unsigned slots, bool gbpages)
{
    uint64_t table = PTE_P | PTE_W | PTE_A | (m->flags & VMENTER_IDENTITY ? PTE_U : 0);
    uint64_t large = table | PTE_D | PTE_PS;
    uint64_t pd = FW_PDPT + slots * PAGE_SIZE;
    for (unsigned i = 0; i < slots; i++) {
        uint64_t pdpt = FW_PDPT + i * PAGE_SIZE;
        fw_store(m, FW_PML4 + i * 8, (m->firmware_pa + pdpt) | table);
        for (unsigned j = 0; j < 512; j++) {
            uint64_t base = (uint64_t)i * 512 * GIB + j * GIB;
            if (gbpages) {
                fw_store(m, pdpt + j * 8, base | large);
                continue;
            }
            fw_store(m, pdpt + j * 8, (m->firmware_pa + pd) | table);
            for (unsigned k = 0; k < 512; k++)
                fw_store(m, pd + k * 8, (base + ((uint64_t)k << 21)) | large);
            pd += PAGE_SIZE;
        }
    }
}

bool machine_firmware_create(struct vmenter_machine *m)
{
    bool identity = m->flags & VMENTER_IDENTITY;
    bool gbpages = model_has(&m->model, FEATURE_pdpe1gb);
    unsigned slots = identity ? 256 : 1;
    uint64_t size = FW_PDPT + (uint64_t)slots * PAGE_SIZE + (gbpages ? 0 : (uint64_t)slots * 512 * PAGE_SIZE);
    void *p = MAP_FAILED;
#ifdef MAP_32BIT
    if (identity) /* low, for VMMs whose second-level tables map the first 512 GiB alone */
        p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_32BIT, -1, 0);
#endif
    if (p == MAP_FAILED)
        p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return false;
    m->firmware = p;
    m->firmware_size = size;
    if (identity)
        m->firmware_pa = (uintptr_t)p;
    if (!mem_add_host(m->mem, HPA(m->firmware_pa), p, size, false))
        return false;

    build_paging(m, slots, gbpages);
    for (unsigned i = 0; i < m->cpus; i++) {
        uint64_t gdt = FW_GDT + i * 256, tss = m->firmware_pa + FW_TSS + i * 256;
        fw_store(m, gdt + 0x08, 0x00cf9b000000ffffull); /* 32-bit code */
        fw_store(m, gdt + SEL_CODE, 0x00af9b000000ffffull);
        fw_store(m, gdt + SEL_DATA, 0x00cf93000000ffffull);
        fw_store(m, gdt + 0x20, 0x00cffb000000ffffull); /* CPL 3: 32-bit code, data, 64-bit code */
        fw_store(m, gdt + 0x28, 0x00cff3000000ffffull);
        fw_store(m, gdt + 0x30, 0x00affb000000ffffull);
        fw_store(m, gdt + SEL_TSS, (TSS_SIZE - 1) | (tss & 0xffffff) << 16 | 0x8bull << 40 | (tss >> 24 & 0xff) << 56);
        fw_store(m, gdt + SEL_TSS + 8, tss >> 32);
        store16(m->firmware + FW_TSS + i * 256 + 0x66, TSS_SIZE); /* no I/O permission map */
    }
    return true;
}

void machine_firmware_destroy(struct vmenter_machine *m)
{
    if (m->firmware)
        munmap(m->firmware, m->firmware_size);
}

static void flat(struct cpu *c, unsigned seg, uint16_t sel, uint32_t ar)
{
    c->seg[seg] = (struct seg){.base = 0, .limit = 0xffffffff, .ar = ar, .sel = sel};
}

void machine_start_state(struct vmenter_machine *m, struct cpu *c)
{
    uint64_t cr4 = model_cr4_bits(&m->model);

    flat(c, SEG_CS, SEL_CODE, AR_G | AR_L | AR_P | AR_S | 0xb);
    static const unsigned data[] = {SEG_SS, SEG_DS, SEG_ES, SEG_FS, SEG_GS};
    for (unsigned i = 0; i < ARRAY_LEN(data); i++)
        flat(c, data[i], SEL_DATA, AR_G | AR_DB | AR_P | AR_S | 0x3);
    c->seg[SEG_LDTR] = (struct seg){.ar = AR_UNUSABLE};
    c->seg[SEG_TR] = (struct seg){
        .base = m->firmware_pa + FW_TSS + c->index * 256, .limit = TSS_SIZE - 1, .ar = AR_P | 0xb, .sel = SEL_TSS};
    c->gdtr = (struct dtable){.base = m->firmware_pa + FW_GDT + c->index * 256, .limit = SEL_TSS + 15};
    c->idtr = (struct dtable){.base = m->firmware_pa + FW_IDT, .limit = 0xfff};

    c->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
    if (m->flags & VMENTER_IDENTITY) /* RFLAGS.AC is a mere mark for ring 0's software, on CPL-3 selectors too */
        c->cr0 &= ~(uint64_t)CR0_AM;
    c->cr3 = m->firmware_pa + FW_PML4;
    c->cr4 = (CR4_PAE | CR4_PGE | CR4_MCE | CR4_DE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE) & cr4;
    c->efer = (EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE) & (model_efer_bits(&m->model) | EFER_LMA);
    c->xcr0 = c->cr4 & CR4_OSXSAVE ? XSTATE_X87 | XSTATE_SSE : XSTATE_X87;
    c->x87.cw = 0x37f;
    c->mxcsr = 0x1f80;
    c->msr.pat = 0x0007040600070406ull;
    c->msr.mtrr_def_type = 0x806;                                       /* write-back everywhere */
    c->msr.feature_control = model_has(&m->model, FEATURE_vmx) ? 5 : 1; /* locked, VMX outside SMX */
    cpu_set_rflags(c, FLAG_1);
    c->rip = m->firmware_pa;
    c->activity = ACTIVITY_ACTIVE;
    cpu_update_translation(c);
}
