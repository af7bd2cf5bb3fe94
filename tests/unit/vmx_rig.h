/* SPDX-License-Identifier: MIT
 *
 * vmx_rig.h: a processor with VMX on, and a VMCS that passes every check, for the tests of src/vmx.
 *
 * Memory map (16 MiB of RAM): see the RIG_ constants. Guest pages are identity-mapped by the guest's own tables and by
 * EPT.
 */
#ifndef TESTS_VMX_RIG_H
#define TESTS_VMX_RIG_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "src/arch/model.h"
#include "src/cpu/cpu.h"
#include "src/mem/mem.h"
#include "src/vmx/vmx.h"
#include "src/vmx/vmx_int.h"

enum {
    RIG_RAM = 16 << 20,
    RIG_VMXON = 0x1000,
    RIG_VMCS = 0x2000,
    RIG_VMCS2 = 0x3000,
    RIG_MSRBITMAP = 0x4000,
    RIG_IOBITMAP_A = 0x5000,
    RIG_IOBITMAP_B = 0x6000,
    RIG_VAPIC = 0x7000,
    RIG_MSRAREA = 0x8000,
    RIG_HOST_PML4 = 0x10000,
    RIG_GUEST_PML4 = 0x12000, /* PML4, PDPT, PD with 2-MByte pages */
    RIG_GUEST_PDPT = 0x13000,
    RIG_GUEST_PD = 0x15000,
    RIG_GUEST_PD32 = 0x14000, /* 32-bit paging, 4-MByte pages */
    RIG_EPT_PML4 = 0x16000,
    RIG_EPT_PDPT = 0x17000,
    RIG_EPT_PD = 0x18000, /* 2-MByte pages */
    RIG_GUEST_GDT = 0x20000,
    RIG_GUEST_IDT = 0x21000,
    RIG_GUEST_TSS = 0x22000,
    RIG_CODE = 0x30000,
    RIG_HANDLER = 0x31000, /* exception handlers: vector n at RIG_HANDLER + 16 * n */
    RIG_STACK = 0x3f000,
    RIG_STACK0 = 0x3e000,
};

struct rig {
    struct model model;
    struct mem *mem;
    struct cpu *c;
    struct vmx_cpu *x;
};

static inline void rig_store(struct rig *r, uint64_t pa, uint64_t v)
{
    mem_write(r->mem, HPA(pa), &v, 8);
}

static inline void rig_bytes(struct rig *r, uint64_t pa, const void *bytes, unsigned len)
{
    mem_write(r->mem, HPA(pa), bytes, len);
}

/* The host: 64-bit mode, flat paging, as native code in ring 0 sees it. */
static inline void rig_host_state(struct cpu *c)
{
    c->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    c->cr3 = RIG_HOST_PML4;
    c->cr4 = CR4_PAE | CR4_VMXE;
    c->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
    for (unsigned i = 0; i < SEG_LDTR; i++)
        c->seg[i] = (struct seg){.limit = 0xffffffff, .ar = AR_P | AR_S | 3 | AR_DB | AR_G, .sel = 0x10};
    c->seg[SEG_CS] = (struct seg){.limit = 0xffffffff, .ar = AR_P | AR_S | 11 | AR_L | AR_G, .sel = 8};
    c->seg[SEG_TR] = (struct seg){.limit = 0x67, .ar = AR_P | 11, .sel = 0x18};
    c->cpl = 0;
    c->rflags_rest = FLAG_1;
    cpu_update_translation(c);
}

static inline struct rig *rig_create(const char *model)
{
    struct rig *r = calloc(1, sizeof *r);
    char error[256];
    assert_true(model_parse(&r->model, model, error, sizeof error));
    r->mem = mem_create();
    assert_non_null(r->mem);
    assert_true(mem_add_ram(r->mem, HPA(0), RIG_RAM));
    r->c = cpu_create(r->mem, &r->model, 0);
    assert_non_null(r->c);
    r->c->native_host = true;
    assert_true(vmx_attach(r->c));
    r->x = vmx_of(r->c);
    rig_host_state(r->c);
    uint32_t revision = VMCS_REVISION;
    rig_bytes(r, RIG_VMXON, &revision, 4);
    rig_bytes(r, RIG_VMCS, &revision, 4);
    rig_bytes(r, RIG_VMCS2, &revision, 4);
    return r;
}

static inline void rig_destroy(struct rig *r)
{
    vmx_detach(r->c);
    cpu_destroy(r->c);
    mem_destroy(r->mem);
    free(r);
}

static inline void rig_w(struct rig *r, uint32_t field, uint64_t v)
{
    if (vmx_vmwrite(r->c, field, v) != VMX_SUCCEED)
        fail_msg("VMWRITE %s", vmenter_vmcs_field_name(field));
}
static inline uint64_t rig_r(struct rig *r, uint32_t field)
{
    uint64_t v = 0;
    if (vmx_vmread(r->c, field, &v) != VMX_SUCCEED)
        fail_msg("VMREAD %s", vmenter_vmcs_field_name(field));
    return v;
}

/* Where the model has the field. */
static inline void rig_w_if(struct rig *r, uint32_t field, uint64_t v)
{
    if (r->x->caps.field[vmcs_slot_of(field)])
        rig_w(r, field, v);
}

enum rig_mode { RIG_REAL, RIG_PROT16, RIG_PROT32, RIG_PAGED32, RIG_V86, RIG_LONG };

static inline void rig_tables(struct rig *r)
{
    uint8_t zero[4096] = {0};
    for (uint64_t pa = RIG_MSRBITMAP; pa < RIG_HANDLER; pa += 4096)
        rig_bytes(r, pa, zero, 4096);
    for (unsigned i = 0; i < 512; i++) {
        rig_store(r, RIG_GUEST_PD + 8 * i, (uint64_t)i << 21 | 0x87); /* user, so that CPL 3 runs too */
        rig_store(r, RIG_EPT_PD + 8 * i, (uint64_t)i << 21 | VMX_EPT_MEMORY_TYPE(6) | VMX_EPT_LARGE | 7);
    }
    for (unsigned i = 0; i < 1024; i++) {
        uint32_t pde = i << 22 | 0x87;
        rig_bytes(r, RIG_GUEST_PD32 + 4 * i, &pde, 4);
    }
    rig_store(r, RIG_GUEST_PML4, RIG_GUEST_PDPT | 7);
    rig_store(r, RIG_GUEST_PDPT, RIG_GUEST_PD | 7);
    rig_store(r, RIG_HOST_PML4, RIG_GUEST_PDPT | 7);
    rig_store(r, RIG_EPT_PML4, RIG_EPT_PDPT | 7);
    rig_store(r, RIG_EPT_PDPT, RIG_EPT_PD | 7);
}

/* GDT: 08 64-bit code, 10 data, 18 32-bit code, 20 64-bit user code, 28 user data, 30 TSS. IDT: interrupt gates to the
 * handlers, each HLT. */
static inline void rig_descriptors(struct rig *r, bool wide)
{
    rig_store(r, RIG_GUEST_GDT + 0x08, 0x00af9b000000ffff);
    rig_store(r, RIG_GUEST_GDT + 0x10, 0x00cf93000000ffff);
    rig_store(r, RIG_GUEST_GDT + 0x18, 0x00cf9b000000ffff);
    rig_store(r, RIG_GUEST_GDT + 0x20, 0x00affb000000ffff);
    rig_store(r, RIG_GUEST_GDT + 0x28, 0x00cff3000000ffff);
    rig_store(r, RIG_GUEST_GDT + 0x30,
              0x00008b0000000067 | (uint64_t)(RIG_GUEST_TSS & 0xffff) << 16 |
                  (uint64_t)(RIG_GUEST_TSS >> 16 & 0xff) << 32);
    rig_store(r, RIG_GUEST_TSS + 4, RIG_STACK0);
    uint32_t ss0 = 0x10;
    if (!wide)
        rig_bytes(r, RIG_GUEST_TSS + 8, &ss0, 4);
    for (unsigned i = 0; i < 256; i++) {
        uint64_t at = RIG_HANDLER + 16 * i,
                 lo = (at & 0xffff) | (wide ? 0x08ull : 0x18ull) << 16 | 0x8eull << 40 | (at & 0xffff0000) << 32;
        rig_store(r, RIG_GUEST_IDT + (wide ? 16 : 8) * i, lo);
        if (wide)
            rig_store(r, RIG_GUEST_IDT + 16 * i + 8, 0);
        rig_bytes(r, at, "\xf4", 1);
    }
}

static inline void rig_segment(struct rig *r, unsigned seg, uint16_t sel, uint64_t base, uint32_t limit, uint32_t ar)
{
    rig_w(r, VMCS_GUEST_ES_SELECTOR + 2 * seg, sel);
    rig_w(r, VMCS_GUEST_ES_BASE + 2 * seg, base);
    rig_w(r, VMCS_GUEST_ES_LIMIT + 2 * seg, limit);
    rig_w(r, VMCS_GUEST_ES_ACCESS_RIGHTS + 2 * seg, ar);
}

static inline bool rig_read_memory(void *opaque, uint64_t address, void *to, size_t bytes)
{
    struct rig *r = opaque;
    mem_read(r->mem, HPA(address), to, bytes);
    return true;
}

/* The rules over fields, for an entry of the rig's host. */
static inline struct vmx_check rig_check(struct rig *r, const struct vmx_caps *caps, const uint64_t *f)
{
    return (struct vmx_check){.caps = caps,
                              .f = f,
                              .host = {.ia32e_mode = VMENTER_YES,
                                       .has_vmcs_pointer = true,
                                       .vmcs_pointer = RIG_VMCS,
                                       .read_memory = rig_read_memory,
                                       .opaque = r}};
}

static inline bool rig_has(const struct vmx_allowed *a, uint32_t bit)
{
    return a->may & bit;
}

/* VMXON, VMCLEAR, VMPTRLD, and a VMCS that enters a guest of that mode at RIG_CODE with HLT exiting. */
static inline void rig_vmcs(struct rig *r, enum rig_mode mode)
{
    struct cpu *c = r->c;
    struct vmx_caps *caps = &r->x->caps;
    if (!vmx_on(c))
        assert_int_equal(vmx_vmxon(c, RIG_VMXON), VMX_SUCCEED);
    assert_int_equal(vmx_vmclear(c, RIG_VMCS), VMX_SUCCEED);
    assert_int_equal(vmx_vmptrld(c, RIG_VMCS), VMX_SUCCEED);
    rig_tables(r);
    rig_descriptors(r, mode == RIG_LONG);
    uint32_t proc2 = 0;
    if (rig_has(&caps->proc2, VMX_PROC2_ENABLE_EPT))
        proc2 |= VMX_PROC2_ENABLE_EPT;
    if (rig_has(&caps->proc2, VMX_PROC2_UNRESTRICTED_GUEST))
        proc2 |= VMX_PROC2_UNRESTRICTED_GUEST;
    if (rig_has(&caps->proc2, VMX_PROC2_ENABLE_VPID))
        proc2 |= VMX_PROC2_ENABLE_VPID;
    for (unsigned i = 0; i < F_COUNT; i++)
        if (caps->field[i] && vmcs_rows[i].type != VMCS_TYPE_READ_ONLY)
            rig_w(r, vmcs_rows[i].encoding, 0);
    rig_w(r, VMCS_PIN_CONTROLS, caps->pin.must);
    rig_w(r, VMCS_PROC_CONTROLS,
          caps->proc.must | VMX_PROC_HLT_EXITING | (proc2 ? (uint32_t)VMX_PROC_ACTIVATE_SECONDARY_CONTROLS : 0));
    rig_w_if(r, VMCS_PROC2_CONTROLS, proc2);
    rig_w(r, VMCS_EXIT_CONTROLS,
          caps->exit.must | (caps->exit.may & (VMX_EXIT_HOST_ADDRESS_SPACE_SIZE | VMX_EXIT_SAVE_EFER |
                                               VMX_EXIT_LOAD_EFER | VMX_EXIT_SAVE_DEBUG_CONTROLS)));
    rig_w(r, VMCS_ENTRY_CONTROLS,
          caps->entry.must | (caps->entry.may & (VMX_ENTRY_LOAD_EFER | VMX_ENTRY_LOAD_DEBUG_CONTROLS |
                                                 (mode == RIG_LONG ? VMX_ENTRY_IA32E_MODE_GUEST : 0))));
    if (proc2 & VMX_PROC2_ENABLE_VPID)
        rig_w(r, VMCS_VPID, 1);
    if (proc2 & VMX_PROC2_ENABLE_EPT)
        rig_w(r, VMCS_EPT_POINTER, RIG_EPT_PML4 | VMX_EPTP_WALK_4 | VMX_EPTP_WB);
    rig_w(r, VMCS_VMCS_LINK_POINTER, UINT64_MAX);

    rig_w(r, VMCS_HOST_CR0, c->cr0);
    rig_w(r, VMCS_HOST_CR3, c->cr3);
    rig_w(r, VMCS_HOST_CR4, c->cr4);
    rig_w_if(r, VMCS_HOST_EFER, c->efer);
    rig_w(r, VMCS_HOST_CS_SELECTOR, 8);
    rig_w(r, VMCS_HOST_SS_SELECTOR, 0x10);
    rig_w(r, VMCS_HOST_DS_SELECTOR, 0x10);
    rig_w(r, VMCS_HOST_ES_SELECTOR, 0x10);
    rig_w(r, VMCS_HOST_FS_SELECTOR, 0x10);
    rig_w(r, VMCS_HOST_GS_SELECTOR, 0x10);
    rig_w(r, VMCS_HOST_TR_SELECTOR, 0x18);
    rig_w(r, VMCS_HOST_RIP, 0x123456);
    rig_w(r, VMCS_HOST_RSP, 0x654320);

    uint64_t ne = CR0_NE | CR0_ET;
    rig_w(r, VMCS_GUEST_CR4,
          CR4_VMXE | (mode == RIG_LONG                         ? CR4_PAE
                      : mode == RIG_PAGED32 || mode == RIG_V86 ? CR4_PSE
                                                               : 0));
    rig_w(r, VMCS_GUEST_CR0,
          mode == RIG_REAL                           ? ne
          : mode == RIG_PROT16 || mode == RIG_PROT32 ? ne | CR0_PE
                                                     : ne | CR0_PE | CR0_PG);
    rig_w(r, VMCS_GUEST_CR3,
          mode == RIG_LONG                         ? RIG_GUEST_PML4
          : mode == RIG_PAGED32 || mode == RIG_V86 ? RIG_GUEST_PD32
                                                   : 0);
    rig_w_if(r, VMCS_GUEST_EFER, mode == RIG_LONG ? EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE : 0);
    rig_w(r, VMCS_GUEST_DR7, 0x400);
    for (unsigned i = 0; i <= SEG_GS; i++)
        switch (mode) {
        case RIG_REAL: rig_segment(r, i, 0, 0, 0xffff, i == SEG_CS ? 0x9b : 0x93); break;
        case RIG_V86: rig_segment(r, i, 0, 0, 0xffff, 0xf3); break;
        case RIG_PROT16: rig_segment(r, i, 0x10, 0, 0xffff, i == SEG_CS ? 0x9b : 0x93); break;
        case RIG_LONG: rig_segment(r, i, i == SEG_CS ? 8 : 0x10, 0, 0xffffffff, i == SEG_CS ? 0xa09b : 0xc093); break;
        default: rig_segment(r, i, i == SEG_CS ? 0x18 : 0x10, 0, 0xffffffff, i == SEG_CS ? 0xc09b : 0xc093); break;
        }
    rig_segment(r, SEG_TR, 0x30, RIG_GUEST_TSS, 0x67, 0x8b);
    rig_segment(r, SEG_LDTR, 0, 0, 0, AR_UNUSABLE);
    rig_w(r, VMCS_GUEST_GDTR_BASE, RIG_GUEST_GDT);
    rig_w(r, VMCS_GUEST_GDTR_LIMIT, 0x3f);
    rig_w(r, VMCS_GUEST_IDTR_BASE, mode == RIG_REAL ? 0 : RIG_GUEST_IDT);
    rig_w(r, VMCS_GUEST_IDTR_LIMIT, 0xfff);
    rig_w(r, VMCS_GUEST_RFLAGS, 2 | (mode == RIG_V86 ? FLAG_VM : 0));
    if (mode == RIG_REAL || mode == RIG_V86) {
        rig_w(r, VMCS_GUEST_CS_SELECTOR, RIG_CODE >> 4);
        rig_w(r, VMCS_GUEST_CS_BASE, RIG_CODE);
        rig_w(r, VMCS_GUEST_RIP, 0);
        rig_w(r, VMCS_GUEST_RSP, 0xf000);
        if (mode == RIG_V86) {
            rig_w(r, VMCS_GUEST_SS_SELECTOR, 0x3000);
            rig_w(r, VMCS_GUEST_SS_BASE, 0x30000);
        }
    } else if (mode == RIG_PROT16) {
        rig_w(r, VMCS_GUEST_CS_BASE, RIG_CODE);
        rig_w(r, VMCS_GUEST_RIP, 0);
        rig_w(r, VMCS_GUEST_RSP, 0xf000);
    } else {
        rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
        rig_w(r, VMCS_GUEST_RSP, RIG_STACK);
    }
}

/* Enters and runs until the VM exit; the basic exit reason with bit 31, or 1000 + VM-instruction error, 2000 for
 * VMfailInvalid. */
static inline uint32_t rig_enter(struct rig *r)
{
    struct cpu *c = r->c;
    enum vmx_result v = r->x->cur && r->x->cur->launched ? vmx_vmresume(c) : vmx_vmlaunch(c);
    if (v == VMX_FAIL_VALID)
        return 1000 + (uint32_t)rig_r(r, VMCS_VM_INSTRUCTION_ERROR);
    if (v == VMX_FAIL_INVALID)
        return 2000;
    assert_int_equal(v, VMX_SUCCEED);
    if (c->guest) {
        enum cpu_stop stop = cpu_run(c, 1000000);
        if (stop != STOP_EXIT)
            fail_msg("cpu_run() stopped with %d, rip %llx", (int)stop, (unsigned long long)c->rip);
    }
    assert_null(c->guest);
    assert_int_equal(c->rip, 0x123456);
    assert_int_equal(c->gpr[GPR_RSP], 0x654320);
    return (uint32_t)rig_r(r, VMCS_EXIT_REASON);
}

#endif
