/* SPDX-License-Identifier: MIT
 *
 * instruction.c: the VMX instructions as operations that code executes: operands, VM exits in VMX non-root operation,
 * flags.
 *
 * SDM volume 3C, "VMX Instruction Reference", "Instructions That Cause VM Exits Unconditionally". What they do in root
 * operation is in insn.c. Order everywhere: #UD, VM exit, #GP(0), operand.
 */
#include "src/vmx/vmx_int.h"

#include "src/cpu/op.h"

/* "VM-Exit Instruction-Information Field": the parts that tables for instructions with a memory operand share, and the
 * registers of those with register forms. */
uint32_t vmx_insn_info(const struct op *o)
{
    if (!(o->flags & OPF_MEM))
        return BIT(10) | (uint32_t)(o->r0 >> 3) << 3 | (uint32_t)(o->r1 >> 3) << 28;
    bool has_base = o->base < GPR_ZERO, has_index = o->index < GPR_ZERO;
    unsigned seg = o->seg;
    if (seg == SEG_NONE)
        seg = has_base && (o->base == GPR_RSP || o->base == GPR_RBP) ? SEG_SS : SEG_DS;
    return (has_index ? o->scale | (uint32_t)o->index << 18 : (uint32_t)BIT(22)) | ((uint32_t)(o->size >> 4) - 1) << 7 |
           seg << 15 | (has_base ? (uint32_t)o->base << 23 : (uint32_t)BIT(27)) | (uint32_t)(o->r0 >> 3) << 28;
}

uint64_t vmx_insn_displacement(const struct cpu *c, const struct op *o)
{
    if (!(o->flags & OPF_MEM))
        return 0;
    return (uint64_t)o->disp + (o->base == GPR_BLOCK ? c->gpr[GPR_BLOCK] : 0);
}

/* Whether the instruction goes on in VMX root operation. reason: of the exit in non-root operation. */
static bool prologue(struct cpu *c, const struct op *o, uint32_t reason, bool operands, uint32_t info_mask)
{
    c->cur = o;
    if (!vmx_on(c) || c->real_mode || c->vm86 || (c->long_mode && c->mode != MODE_64)) {
        cpu_raise(c, EXC_UD, 0);
        return false;
    }
    if (c->guest) {
        uint32_t info = 0;
        if (operands)
            info = vmx_insn_info(o) & info_mask;
        if (reason == VMX_REASON_VMWRITE && !(o->flags & OPF_MEM)) /* Reg1 is the r/m operand, here the second one */
            info = (uint32_t)BIT(10) | (uint32_t)(o->r1 >> 3) << 3 | (uint32_t)(o->r0 >> 3) << 28;
        vmx_exit_insn(c, o, reason, operands ? vmx_insn_displacement(c, o) : 0, info);
        return false;
    }
    if (c->cpl) {
        cpu_raise(c, EXC_GP, 0);
        return false;
    }
    return true;
}
#define INFO_NO_REG2 0x0fffffffu
#define INFO_ALL     0xffffffffu

/* VMsucceed, VMfailValid, VMfailInvalid in the flags. */
static void set_flags(struct cpu *c, enum vmx_result r)
{
    flags_set_arith(c, r == VMX_FAIL_INVALID ? FLAG_CF : r == VMX_FAIL_VALID ? FLAG_ZF : 0);
}

static void finish(struct cpu *c, const struct op *o, enum vmx_result r)
{
    if (r == VMX_FAULT)
        return;
    set_flags(c, r);
    END_NEXT(c, o);
}

static void op_vmxon(struct cpu *c, const struct op *o)
{
    uint64_t pa;
    c->cur = o;
    if (!c->vmx || c->real_mode || c->vm86 || (c->long_mode && c->mode != MODE_64) || !(c->cr4 & CR4_VMXE)) {
        cpu_raise(c, EXC_UD, 0);
        return;
    }
    if (c->guest) {
        vmx_exit_insn(c, o, VMX_REASON_VMXON, vmx_insn_displacement(c, o), vmx_insn_info(o) & INFO_NO_REG2);
        return;
    }
    if (c->cpl) {
        cpu_raise(c, EXC_GP, 0);
        return;
    }
    if (!vmx_on(c) && !vmx_may_vmxon(c)) {
        cpu_raise(c, EXC_GP, 0);
        return;
    }
    if (vmx_on(c)) /* the operand is not read */
        pa = 0;
    else if (!op_ld64(c, o, &pa))
        return;
    finish(c, o, vmx_vmxon(c, pa));
}

static void op_vmxoff(struct cpu *c, const struct op *o)
{
    if (prologue(c, o, VMX_REASON_VMXOFF, false, 0))
        finish(c, o, vmx_vmxoff(c));
}

static void op_vmclear(struct cpu *c, const struct op *o)
{
    uint64_t pa;
    if (prologue(c, o, VMX_REASON_VMCLEAR, true, INFO_NO_REG2) && op_ld64(c, o, &pa))
        finish(c, o, vmx_vmclear(c, pa));
}

static void op_vmptrld(struct cpu *c, const struct op *o)
{
    uint64_t pa;
    if (prologue(c, o, VMX_REASON_VMPTRLD, true, INFO_NO_REG2) && op_ld64(c, o, &pa))
        finish(c, o, vmx_vmptrld(c, pa));
}

static void op_vmptrst(struct cpu *c, const struct op *o)
{
    uint64_t pa;
    if (prologue(c, o, VMX_REASON_VMPTRST, true, INFO_NO_REG2) && vmx_vmptrst(c, &pa) == VMX_SUCCEED &&
        op_st64(c, o, pa))
        finish(c, o, VMX_SUCCEED);
}

static bool is64(const struct op *o)
{
    return o->flags & OPF_O64;
}

/* "VMCS Shadowing": the VMCS that VMREAD and VMWRITE of this field access. False: raised, or a VM exit was made.
 * *result: that of the instruction, when *v is null. */
static bool accessed_vmcs(struct cpu *c, const struct op *o, bool write, uint64_t field, struct vmcs **v,
                          enum vmx_result *result)
{
    struct vmx_cpu *x = vmx_of(c);
    *result = VMX_FAIL_INVALID;
    *v = NULL;
    if (!c->guest || c->real_mode || c->vm86 || (c->long_mode && c->mode != MODE_64)) {
        *v = x ? x->cur : NULL;
        return prologue(c, o, write ? VMX_REASON_VMWRITE : VMX_REASON_VMREAD, true, INFO_ALL);
    }
    uint8_t byte = 0xff;
    if ((x->proc2 & VMX_PROC2_VMCS_SHADOWING) && !(field >> 15))
        mem_read(c->mem, HPA(x->cur->f[write ? F_VMWRITE_BITMAP : F_VMREAD_BITMAP] + field / 8), &byte, 1);
    if (byte >> (field & 7) & 1)
        return prologue(c, o, write ? VMX_REASON_VMWRITE : VMX_REASON_VMREAD, true, INFO_ALL);
    c->cur = o;
    if (c->cpl)
        return cpu_raise(c, EXC_GP, 0);
    uint64_t link = x->cur->f[F_VMCS_LINK_POINTER];
    *v = link == VMX_NO_VMCS ? NULL : vmcs_load(c, link);
    return true;
}

/* VMREAD r/m, r: the destination is the r/m operand, the encoding is in the register. */
static void op_vmread(struct cpu *c, const struct op *o)
{
    bool mem = o->flags & OPF_MEM;
    uint64_t value, field = is64(o) ? op_r64(c, mem ? o->r0 : o->r1) : op_r32(c, mem ? o->r0 : o->r1);
    struct vmcs *v;
    enum vmx_result r;
    if (!accessed_vmcs(c, o, false, field, &v, &r))
        return;
    if (v)
        r = vmx_read_component(c, v, field, &value);
    if (r == VMX_SUCCEED) {
        if (!mem)
            is64(o) ? op_set_r64(c, o->r0, value) : op_set_r32(c, o->r0, (uint32_t)value);
        else if (!(is64(o) ? op_st64(c, o, value) : op_st32(c, o, (uint32_t)value)))
            return;
    }
    finish(c, o, r);
}

static void op_vmwrite(struct cpu *c, const struct op *o)
{
    uint64_t value, field = is64(o) ? op_r64(c, o->r0) : op_r32(c, o->r0);
    struct vmcs *target;
    enum vmx_result r;
    if (!accessed_vmcs(c, o, true, field, &target, &r))
        return;
    if (!(o->flags & OPF_MEM))
        value = is64(o) ? op_r64(c, o->r1) : op_r32(c, o->r1);
    else if (is64(o)) {
        if (!op_ld64(c, o, &value))
            return;
    } else {
        uint32_t v;
        if (!op_ld32(c, o, &v))
            return;
        value = v;
    }
    if (target)
        r = vmx_write_component(c, target, field, value);
    finish(c, o, r);
}

static void enter(struct cpu *c, const struct op *o, bool launch)
{
    if (!prologue(c, o, launch ? VMX_REASON_VMLAUNCH : VMX_REASON_VMRESUME, false, 0))
        return;
    bool movss = c->shadow_movss && c->shadow_at == c->icount + o->n;
    cpu_sync_next(c);
    enum vmx_result r = vmx_enter_insn(c, launch, movss);
    if (r != VMX_SUCCEED)
        set_flags(c, r);
}

static void op_vmlaunch(struct cpu *c, const struct op *o)
{
    enter(c, o, true);
}

static void op_vmresume(struct cpu *c, const struct op *o)
{
    enter(c, o, false);
}

/* "VMCALL": in non-root operation it exits in any mode and at any privilege. */
static void op_vmcall(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (c->guest && vmx_on(c)) {
        vmx_exit_insn(c, o, VMX_REASON_VMCALL, 0, 0);
        return;
    }
    if (prologue(c, o, VMX_REASON_VMCALL, false, 0))
        finish(c, o, vmx_vmcall(c));
}

static void op_vmfunc(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (c->guest && c->guest->vmfunc && c->guest->vmfunc(c)) {
        if (c->cur)
            END_NEXT(c, o);
        return;
    }
    cpu_raise(c, EXC_UD, 0);
}

static void invalidate(struct cpu *c, const struct op *o, bool ept)
{
    uint64_t descriptor[2] = {0}, need = ept ? VMX_EPT_CAP_INVEPT : VMX_VPID_CAP_INVVPID;
    c->cur = o;
    if (!c->vmx || !(vmx_of(c)->caps.ept_vpid & need)) {
        cpu_raise(c, EXC_UD, 0);
        return;
    }
    if (!prologue(c, o, ept ? VMX_REASON_INVEPT : VMX_REASON_INVVPID, true, INFO_ALL))
        return;
    uint64_t type = is64(o) ? op_r64(c, o->r0) : op_r32(c, o->r0);
    bool known =
        ept ? type == VMX_INVEPT_SINGLE_CONTEXT || type == VMX_INVEPT_ALL_CONTEXT : type <= VMX_INVVPID_RETAIN_GLOBALS;
    if (known && !op_ld_n(c, o, descriptor, sizeof descriptor, 0))
        return;
    finish(c, o, ept ? vmx_invept(c, type, descriptor) : vmx_invvpid(c, type, descriptor));
}

static void op_invept(struct cpu *c, const struct op *o)
{
    invalidate(c, o, true);
}

static void op_invvpid(struct cpu *c, const struct op *o)
{
    invalidate(c, o, false);
}

void vmx_install_instructions(struct virt_ops *ops)
{
    static void (*const handlers[VIRT_COUNT])(struct cpu *, const struct op *) = {
        [VIRT_VMXON] = op_vmxon,     [VIRT_VMXOFF] = op_vmxoff,     [VIRT_VMCLEAR] = op_vmclear,
        [VIRT_VMPTRLD] = op_vmptrld, [VIRT_VMPTRST] = op_vmptrst,   [VIRT_VMREAD] = op_vmread,
        [VIRT_VMWRITE] = op_vmwrite, [VIRT_VMLAUNCH] = op_vmlaunch, [VIRT_VMRESUME] = op_vmresume,
        [VIRT_VMCALL] = op_vmcall,   [VIRT_VMFUNC] = op_vmfunc,     [VIRT_INVEPT] = op_invept,
        [VIRT_INVVPID] = op_invvpid,
    };
    memcpy(ops->insn, handlers, sizeof handlers);
}
