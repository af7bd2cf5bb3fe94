/* SPDX-License-Identifier: MIT
 *
 * insn.c: the VMX instructions in VMX root operation, as functions; instruction.c decodes their operands.
 *
 * SDM volume 3C, "VMX Instruction Reference": the checks stand in the order of each instruction's Operation section.
 */
#include "src/vmx/vmx_int.h"

#include <stdlib.h>

bool vmx_on(const struct cpu *c)
{
    return c->vmx && vmx_of(c)->on && !c->in_smm;
}

/* "Conventions": VMfail(ErrorNumber). */
enum vmx_result vmx_fail(struct cpu *c, unsigned error)
{
    struct vmx_cpu *x = vmx_of(c);
    if (!x->cur)
        return VMX_FAIL_INVALID;
    vmcs_set(x->cur, F_VM_INSTRUCTION_ERROR, error);
    return VMX_FAIL_VALID;
}

static enum vmx_result raise(struct cpu *c, unsigned vector)
{
    cpu_raise(c, vector, 0);
    return VMX_FAULT;
}

/* CR0.PE = 0, or RFLAGS.VM = 1, or IA32_EFER.LMA = 1 and CS.L = 0. */
static bool bad_mode(const struct cpu *c)
{
    return c->real_mode || c->vm86 || (c->long_mode && c->mode != MODE_64);
}

bool vmx_insn_allowed(struct cpu *c)
{
    if (!vmx_on(c) || bad_mode(c))
        return cpu_raise(c, EXC_UD, 0);
    if (c->cpl)
        return cpu_raise(c, EXC_GP, 0);
    return true;
}

/* A VMXON or VMCS pointer: 4-KByte aligned, no bits beyond the physical-address width (or beyond 32 bits where
 * IA32_VMX_BASIC says so). */
static bool good_pointer(const struct vmx_cpu *x, uint64_t pa)
{
    unsigned width = x->caps.basic & VMX_BASIC_32BIT_ADDRESSES ? 32 : x->caps.maxphyaddr;
    return !(pa & PAGE_OFFSET) && !(pa & ~mask_low(width));
}

static uint32_t region_revision(struct cpu *c, uint64_t pa)
{
    uint32_t v;
    mem_read(c->mem, HPA(pa), &v, sizeof v);
    return v;
}

/* VMXON's conditions for #GP(0) beside CPL. There is no SMX operation. */
bool vmx_may_vmxon(const struct cpu *c)
{
    const struct vmx_cpu *x = vmx_of(c);
    uint64_t need = VMX_FEATURE_CONTROL_LOCK | VMX_FEATURE_CONTROL_VMX;
    return !(~c->cr0 & x->caps.cr0_fixed0) && !(c->cr0 & ~x->caps.cr0_fixed1) && !(~c->cr4 & x->caps.cr4_fixed0) &&
           !(c->cr4 & ~x->caps.cr4_fixed1) && (c->msr.feature_control & need) == need && mem_a20(c->mem);
}

enum vmx_result vmx_vmxon(struct cpu *c, uint64_t pa)
{
    struct vmx_cpu *x = vmx_of(c);
    if (!x || bad_mode(c) || !(c->cr4 & CR4_VMXE))
        return raise(c, EXC_UD);
    if (x->on) {
        if (c->cpl)
            return raise(c, EXC_GP);
        return vmx_fail(c, VMX_ERR_VMXON_IN_VMX_ROOT);
    }
    if (c->cpl || !vmx_may_vmxon(c))
        return raise(c, EXC_GP);
    if (!good_pointer(x, pa) || region_revision(c, pa) != VMX_BASIC_REVISION(x->caps.basic))
        return VMX_FAIL_INVALID;
    x->cur = NULL;
    x->on = true;
    x->vmxon_pa = pa;
    x->epoch++;
    return VMX_SUCCEED;
}

enum vmx_result vmx_vmxoff(struct cpu *c)
{
    if (!vmx_insn_allowed(c))
        return VMX_FAULT;
    struct vmx_cpu *x = vmx_of(c);
    /* VMCSs that are still active: their data goes to memory, where a VMPTRLD of a later VMX operation finds it. */
    for (unsigned i = 0; i < VMX_POOL; i++) {
        if (x->pool[i].last_used)
            vmcs_store(c, &x->pool[i]);
        x->pool[i].last_used = 0;
    }
    x->cur = NULL;
    x->on = false;
    cpu_attend(c, c->init_pending ? ATT_INIT : 0); /* "unblock INIT" */
    return VMX_SUCCEED;
}

enum vmx_result vmx_vmclear(struct cpu *c, uint64_t pa)
{
    if (!vmx_insn_allowed(c))
        return VMX_FAULT;
    struct vmx_cpu *x = vmx_of(c);
    if (!good_pointer(x, pa))
        return vmx_fail(c, VMX_ERR_VMCLEAR_INVALID_ADDRESS);
    if (pa == x->vmxon_pa)
        return vmx_fail(c, VMX_ERR_VMCLEAR_VMXON_POINTER);
    struct vmcs *v = vmcs_find(x, pa);
    if (v) {
        v->launched = false;
        vmcs_store(c, v);
        v->last_used = 0;
        if (v == x->cur)
            x->cur = NULL;
    } else {
        uint32_t clear = 0;
        mem_write(c->mem, HPA(pa + 8), &clear, sizeof clear);
    }
    return VMX_SUCCEED;
}

enum vmx_result vmx_vmptrld(struct cpu *c, uint64_t pa)
{
    if (!vmx_insn_allowed(c))
        return VMX_FAULT;
    struct vmx_cpu *x = vmx_of(c);
    if (!good_pointer(x, pa))
        return vmx_fail(c, VMX_ERR_VMPTRLD_INVALID_ADDRESS);
    if (pa == x->vmxon_pa)
        return vmx_fail(c, VMX_ERR_VMPTRLD_VMXON_POINTER);
    uint32_t revision = region_revision(c, pa);
    if ((revision & ~VMX_REGION_SHADOW) != VMX_BASIC_REVISION(x->caps.basic) ||
        ((revision & VMX_REGION_SHADOW) && !(x->caps.proc2.may & VMX_PROC2_VMCS_SHADOWING)))
        return vmx_fail(c, VMX_ERR_VMPTRLD_INCORRECT_REVISION);
    x->cur = vmcs_load(c, pa);
    x->cur->revision = revision;
    return VMX_SUCCEED;
}

enum vmx_result vmx_vmptrst(struct cpu *c, uint64_t *pa)
{
    if (!vmx_insn_allowed(c))
        return VMX_FAULT;
    struct vmx_cpu *x = vmx_of(c);
    *pa = x->cur ? x->cur->pa : VMX_NO_VMCS;
    return VMX_SUCCEED;
}

/* VMfailValid: the error is told in the current VMCS, also where a guest's access went to its shadow VMCS. */
static enum vmx_result fail_valid(struct vmcs *v, unsigned error)
{
    vmcs_set(v, F_VM_INSTRUCTION_ERROR, error);
    return VMX_FAIL_VALID;
}

enum vmx_result vmx_read_component(struct cpu *c, struct vmcs *v, uint64_t field, uint64_t *value)
{
    if (!vmcs_read(&vmx_of(c)->caps, v, field, value))
        return fail_valid(vmx_of(c)->cur, VMX_ERR_UNSUPPORTED_COMPONENT);
    return VMX_SUCCEED;
}

enum vmx_result vmx_write_component(struct cpu *c, struct vmcs *v, uint64_t field, uint64_t value)
{
    const struct vmx_caps *caps = &vmx_of(c)->caps;
    int slot = vmcs_slot_of(field);
    if (slot < 0 || !caps->field[slot] || ((field & 1) && vmcs_rows[slot].width != VMCS_WIDTH_64))
        return fail_valid(vmx_of(c)->cur, VMX_ERR_UNSUPPORTED_COMPONENT);
    if (vmcs_rows[slot].type == VMCS_TYPE_READ_ONLY && !(caps->misc & VMX_MISC_VMWRITE_ANY_FIELD))
        return fail_valid(vmx_of(c)->cur, VMX_ERR_READ_ONLY_COMPONENT);
    vmcs_write(v, slot, field & 1, value);
    return VMX_SUCCEED;
}

enum vmx_result vmx_vmread(struct cpu *c, uint64_t field, uint64_t *value)
{
    if (!vmx_insn_allowed(c))
        return VMX_FAULT;
    struct vmcs *v = vmx_of(c)->cur;
    return v ? vmx_read_component(c, v, field, value) : VMX_FAIL_INVALID;
}

enum vmx_result vmx_vmwrite(struct cpu *c, uint64_t field, uint64_t value)
{
    if (!vmx_insn_allowed(c))
        return VMX_FAULT;
    struct vmcs *v = vmx_of(c)->cur;
    return v ? vmx_write_component(c, v, field, value) : VMX_FAIL_INVALID;
}

/* "Basic VM-Entry Checks". */
static enum vmx_result try_enter(struct cpu *c, bool launch, bool movss)
{
    struct vmx_cpu *x = vmx_of(c);
    x->broken.count = 0;
    if (!x->cur || (x->cur->revision & VMX_REGION_SHADOW))
        return VMX_FAIL_INVALID;
    if (movss)
        return vmx_fail(c, VMX_ERR_ENTRY_BLOCKED_BY_MOV_SS);
    if (launch && x->cur->launched)
        return vmx_fail(c, VMX_ERR_VMLAUNCH_NONCLEAR);
    if (!launch && !x->cur->launched)
        return vmx_fail(c, VMX_ERR_VMRESUME_NONLAUNCHED);
    if (!launch && x->cur->epoch != x->epoch)
        return vmx_fail(c, VMX_ERR_VMRESUME_AFTER_VMXOFF);
    return vmx_enter(c, launch);
}

enum vmx_result vmx_enter_insn(struct cpu *c, bool launch, bool movss)
{
    if (!vmx_insn_allowed(c))
        return VMX_FAULT;
    enum vmx_result r = try_enter(c, launch, movss);
    if (unlikely(r != VMX_SUCCEED))
        cpu_note(c, WATCH_ENTRY, WATCH_ENTRY_FAILED | (launch ? WATCH_VMLAUNCH : WATCH_VMRESUME),
                 r == VMX_FAIL_VALID ? vmx_of(c)->cur->f[F_VM_INSTRUCTION_ERROR] : 0);
    return r;
}

enum vmx_result vmx_vmlaunch(struct cpu *c)
{
    return vmx_enter_insn(c, true, false);
}

enum vmx_result vmx_vmresume(struct cpu *c)
{
    return vmx_enter_insn(c, false, false);
}

enum vmx_result vmx_invept(struct cpu *c, uint64_t type, const uint64_t descriptor[2])
{
    if (vmx_on(c) && !(vmx_of(c)->caps.ept_vpid & VMX_EPT_CAP_INVEPT))
        return raise(c, EXC_UD);
    if (!vmx_insn_allowed(c))
        return VMX_FAULT;
    switch (type) {
    case VMX_INVEPT_SINGLE_CONTEXT:
        if (!vmx_eptp_valid(&vmx_of(c)->caps, descriptor[0]))
            return vmx_fail(c, VMX_ERR_INVALID_OPERAND);
        /* Translations are tagged with the whole EPTP, INVEPT goes by its EPTRTA: every EPTP that can have it. */
        for (unsigned low = 0; low < 8; low++) {
            uint64_t eptp = (descriptor[0] & VMX_EPTRTA) | (low & 1 ? VMX_EPTP_WB : VMX_EPTP_UC) |
                            (low & 2 ? VMX_EPTP_WALK_5 : VMX_EPTP_WALK_4) | (low & 4 ? VMX_EPTP_ACCESSED_DIRTY : 0);
            tlb_flush_matching(&c->tlbs, -1, -1, eptp, false, false);
        }
        break;
    case VMX_INVEPT_ALL_CONTEXT: tlb_flush_all(&c->tlbs); break;
    default: return vmx_fail(c, VMX_ERR_INVALID_OPERAND);
    }
    return VMX_SUCCEED;
}

enum vmx_result vmx_invvpid(struct cpu *c, uint64_t type, const uint64_t descriptor[2])
{
    if (vmx_on(c) && !(vmx_of(c)->caps.ept_vpid & VMX_VPID_CAP_INVVPID))
        return raise(c, EXC_UD);
    if (!vmx_insn_allowed(c))
        return VMX_FAULT;
    uint16_t vpid = (uint16_t)descriptor[0];
    if (type > VMX_INVVPID_RETAIN_GLOBALS || (descriptor[0] >> 16))
        return vmx_fail(c, VMX_ERR_INVALID_OPERAND);
    if (!vpid && type != VMX_INVVPID_ALL_CONTEXT)
        return vmx_fail(c, VMX_ERR_INVALID_OPERAND);
    switch (type) {
    case VMX_INVVPID_ADDRESS:
        if (!mmu_canonical(descriptor[1], c->cr4 & CR4_LA57))
            return vmx_fail(c, VMX_ERR_INVALID_OPERAND);
        tlb_flush_address(&c->tlbs, vpid, LA(descriptor[1]));
        break;
    case VMX_INVVPID_SINGLE_CONTEXT: tlb_flush_matching(&c->tlbs, vpid, -1, 0, true, false); break;
    case VMX_INVVPID_ALL_CONTEXT: tlb_flush_all(&c->tlbs); break;
    case VMX_INVVPID_RETAIN_GLOBALS: tlb_flush_matching(&c->tlbs, vpid, -1, 0, true, true); break;
    }
    return VMX_SUCCEED;
}

enum vmx_result vmx_vmcall(struct cpu *c)
{
    if (!vmx_insn_allowed(c))
        return VMX_FAULT;
    /* The dual-monitor treatment of SMIs and SMM is offered by no model. */
    return vmx_fail(c, VMX_ERR_VMCALL_IN_VMX_ROOT);
}

enum vmx_result vmx_vmfunc(struct cpu *c)
{
    return raise(c, EXC_UD);
}

/* --- MSRs, control registers, reset --------------------------------------------------------------------------------
 */

static bool vmx_rdmsr(struct cpu *c, uint32_t msr, uint64_t *v, bool *fault)
{
    if (msr == VMX_MSR_FEATURE_CONTROL) {
        *v = c->msr.feature_control;
        return true;
    }
    if (msr < VMX_MSR_BASIC || msr > VMX_MSR_EXIT_CTLS2)
        return false;
    *fault = !vmx_caps_msr(&vmx_of(c)->caps, msr, v);
    return true;
}

static bool vmx_wrmsr(struct cpu *c, uint32_t msr, uint64_t v, bool *fault)
{
    if (msr == VMX_MSR_FEATURE_CONTROL) {
        /* No SMX: bits 1 and 15:8 are reserved. */
        *fault = (c->msr.feature_control & VMX_FEATURE_CONTROL_LOCK) ||
                 (v & ~(VMX_FEATURE_CONTROL_LOCK | VMX_FEATURE_CONTROL_VMX));
        if (!*fault)
            c->msr.feature_control = v;
        return true;
    }
    if (msr < VMX_MSR_BASIC || msr > VMX_MSR_EXIT_CTLS2)
        return false;
    *fault = true;
    return true;
}

/* "Restrictions on VMX Operation". */
static bool vmx_cr_fixed(struct cpu *c, unsigned cr, uint64_t v)
{
    const struct vmx_cpu *x = vmx_of(c);
    /* "Protection of CR4.VMXE in SMM". */
    if (c->in_smm)
        return cr != 4 || !(v & CR4_VMXE);
    if (!x->on)
        return true;
    if (cr == 4)
        return !(~v & x->caps.cr4_fixed0) && !(v & ~x->caps.cr4_fixed1);
    uint64_t fixed0 = x->caps.cr0_fixed0;
    if (c->guest && (x->proc2 & VMX_PROC2_UNRESTRICTED_GUEST))
        fixed0 &= ~(CR0_PE | CR0_PG);
    return !(~v & fixed0) && !(v & ~x->caps.cr0_fixed1);
}

static bool vmx_init_blocked(struct cpu *c)
{
    return vmx_of(c)->on && !c->guest;
}

/* "Default Treatment of RSM". */
static void vmx_rsm(struct cpu *c, bool to_guest, uint64_t *cr0, uint64_t *cr4)
{
    const struct vmx_cpu *x = vmx_of(c);
    *cr4 &= ~(uint64_t)CR4_VMXE;
    if (!x->on) {
        *cr4 |= c->smm.vmxe ? CR4_VMXE : 0;
        return;
    }
    uint64_t fixed0 = x->caps.cr0_fixed0;
    if (to_guest && (x->proc2 & VMX_PROC2_UNRESTRICTED_GUEST))
        fixed0 &= ~(CR0_PE | CR0_PG);
    *cr0 = (*cr0 | fixed0) & x->caps.cr0_fixed1;
    *cr4 = (*cr4 | x->caps.cr4_fixed0) & x->caps.cr4_fixed1;
}

static void vmx_reset(struct cpu *c)
{
    struct vmx_cpu *x = vmx_of(c);
    for (unsigned i = 0; i < VMX_POOL; i++)
        x->pool[i].last_used = 0;
    x->on = false;
    x->cur = NULL;
    x->broken.count = 0;
    c->msr.feature_control = VMX_FEATURE_CONTROL_LOCK | VMX_FEATURE_CONTROL_VMX;
}

bool vmx_attach(struct cpu *c)
{
    if (!model_has(c->model, FEATURE_vmx))
        return true;
    struct vmx_cpu *x = calloc(1, sizeof *x);
    if (!x)
        return false;
    c->vmx = x;
    vmx_caps_init(&x->caps, c->model);
    x->ops = (struct virt_ops){
        .rdmsr = vmx_rdmsr,
        .wrmsr = vmx_wrmsr,
        .cr_fixed = vmx_cr_fixed,
        .init_blocked = vmx_init_blocked,
        .rsm = vmx_rsm,
        .reset = vmx_reset,
    };
    vmx_install_instructions(&x->ops);
    c->virt = &x->ops;
    vmx_reset(c);
    return true;
}

void vmx_detach(struct cpu *c)
{
    if (c->virt && c->vmx && c->virt == &vmx_of(c)->ops)
        c->virt = NULL;
    free(c->vmx);
    c->vmx = NULL;
}
