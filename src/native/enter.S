/* SPDX-License-Identifier: MIT
 *
 * enter.S: <vmenter/enter.h> for ring 0 of an x86-64 processor, System V calling convention. Freestanding: add this one file
 * to an image. Assembles with GCC and Clang, position-independent.
 *
 * Invariants: every callee-saved register is kept; the block is reached after the exit through RSP alone, which the VMCS (or the
 * host save area) restores: no register that the guest controls is ever an address; a failed entry finds its way by RSP too and
 * leaves the block untouched. HOST_RSP and HOST_RIP are written here. Nothing below RSP is used.
 *
 * NAME(x) may be defined from outside to give the symbols a prefix (the hosted library carries this file along).
 */
#ifndef NAME
#define NAME(x) x
#endif

#define REG_RAX 0
#define REG_RCX 8
#define REG_RDX 16
#define REG_RBX 24
#define REG_RBP 40
#define REG_RSI 48
#define REG_RDI 56
#define REG_R8  64
#define REG_R9  72
#define REG_R10 80
#define REG_R11 88
#define REG_R12 96
#define REG_R13 104
#define REG_R14 112
#define REG_R15 120

/* SDM volume 3, appendix "Field Encoding in VMCS", natural-width host-state fields. */
#define VMCS_HOST_RSP 0x6c14
#define VMCS_HOST_RIP 0x6c16

    .text

    .macro push_callee_saved
    push %rbp
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset rbp, 0
    push %rbx
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset rbx, 0
    push %r12
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset r12, 0
    push %r13
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset r13, 0
    push %r14
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset r14, 0
    push %r15
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset r15, 0
    .endm

    .macro pop_callee_saved
    pop %r15
    .cfi_adjust_cfa_offset -8
    .cfi_restore r15
    pop %r14
    .cfi_adjust_cfa_offset -8
    .cfi_restore r14
    pop %r13
    .cfi_adjust_cfa_offset -8
    .cfi_restore r13
    pop %r12
    .cfi_adjust_cfa_offset -8
    .cfi_restore r12
    pop %rbx
    .cfi_adjust_cfa_offset -8
    .cfi_restore rbx
    pop %rbp
    .cfi_adjust_cfa_offset -8
    .cfi_restore rbp
    .endm

    /* All but RAX, RDI and RSI, from the block at \base. */
    .macro load_block base
    mov REG_RCX(\base), %rcx
    mov REG_RDX(\base), %rdx
    mov REG_RBX(\base), %rbx
    mov REG_RBP(\base), %rbp
    mov REG_R8(\base), %r8
    mov REG_R9(\base), %r9
    mov REG_R10(\base), %r10
    mov REG_R11(\base), %r11
    mov REG_R12(\base), %r12
    mov REG_R13(\base), %r13
    mov REG_R14(\base), %r14
    mov REG_R15(\base), %r15
    .endm

    .macro store_block base
    mov %rcx, REG_RCX(\base)
    mov %rdx, REG_RDX(\base)
    mov %rbx, REG_RBX(\base)
    mov %rbp, REG_RBP(\base)
    mov %r8, REG_R8(\base)
    mov %r9, REG_R9(\base)
    mov %r10, REG_R10(\base)
    mov %r11, REG_R11(\base)
    mov %r12, REG_R12(\base)
    mov %r13, REG_R13(\base)
    mov %r14, REG_R14(\base)
    mov %r15, REG_R15(\base)
    .endm

    /* unsigned char NAME(vmenter_vmlaunch)(struct vmenter_regs *rdi), and vmresume. */
    .macro vmx_enter symbol, instruction
    .globl \symbol
    .type \symbol, @function
    .p2align 4
\symbol:
    .cfi_startproc
    push_callee_saved
    push %rdi /* (%rsp): the block, until the exit */
    .cfi_adjust_cfa_offset 8

    mov $VMCS_HOST_RSP, %eax
    vmwrite %rsp, %rax
    jbe 2f
    mov $VMCS_HOST_RIP, %eax
    lea 1f(%rip), %rcx
    vmwrite %rcx, %rax
    jbe 2f

    load_block %rdi
    mov REG_RAX(%rdi), %rax
    mov REG_RSI(%rdi), %rsi
    mov REG_RDI(%rdi), %rdi
    \instruction

    /* Refused, by VMWRITE or by the entry: CF is VMfailInvalid, ZF is VMfailValid. Moves keep the flags. */
2:  setc %al
    setz %cl
    movzbl %al, %eax
    movzbl %cl, %ecx
    lea (%rcx, %rax, 2), %eax
    jmp 3f

    /* The VM exit comes here: RSP as VMWRITE took it, RFLAGS clear. */
1:  xchg %rdi, (%rsp)
    mov %rax, REG_RAX(%rdi)
    mov %rsi, REG_RSI(%rdi)
    store_block %rdi
    mov (%rsp), %rax
    mov %rax, REG_RDI(%rdi)
    xor %eax, %eax

3:  lea 8(%rsp), %rsp
    .cfi_adjust_cfa_offset -8
    pop_callee_saved
    ret
    .cfi_endproc
    .size \symbol, . - \symbol
    .endm

    vmx_enter NAME(vmenter_vmlaunch), vmlaunch
    vmx_enter NAME(vmenter_vmresume), vmresume

    /* void NAME(vmenter_vmrun)(size_t rdi, struct vmenter_regs *rsi). RAX and RSP pass through the VMCB. */
    .globl NAME(vmenter_vmrun)
    .type NAME(vmenter_vmrun), @function
    .p2align 4
NAME(vmenter_vmrun):
    .cfi_startproc
    push_callee_saved
    push %rsi
    .cfi_adjust_cfa_offset 8
    mov %rdi, %rax
    load_block %rsi
    mov REG_RDI(%rsi), %rdi
    mov REG_RSI(%rsi), %rsi
    vmrun %rax
    xchg %rsi, (%rsp)
    mov %rdi, REG_RDI(%rsi)
    store_block %rsi
    mov (%rsp), %rax
    mov %rax, REG_RSI(%rsi)
    lea 8(%rsp), %rsp
    .cfi_adjust_cfa_offset -8
    pop_callee_saved
    ret
    .cfi_endproc
    .size NAME(vmenter_vmrun), . - NAME(vmenter_vmrun)

    .section .note.GNU-stack, "", @progbits
