/* SPDX-License-Identifier: MIT
 *
 * entry.S: the intrinsics that enter a guest with the registers of native code, x86-64 System V. Their symbols may be called, or
 * jumped to with a return address on the stack, from assembly with any register holding the guest's:
 *
 *   __vmx_vmlaunch, __vmx_vmresume   as the instruction, then RET: on failure AL is 1 or 2, CF and ZF are as VMfailInvalid and
 *                                    VMfailValid set them, every other register is kept. A VM exit goes to HOST_RIP on HOST_RSP.
 *   vmenter_svm_vmrun_raw            as VMRUN with RAX = the VMCB's physical address, then RET: after the #VMEXIT RAX and RSP are the
 *                                    host's again, every other general register is the guest's.
 *   __svm_vmrun                      for C: keeps the callee-saved registers.
 *
 * They capture every general register in a block below the caller's RSP, which takes 160 bytes of the caller's stack; the software
 * processor runs on a stack of its own. What an entry raises is delivered on the caller's stack again, with unwind information.
 * x87 and vector registers are native code's again when it goes on: the software processor keeps the guest's in struct cpu.
 * Going on at HOST_RIP is an IRETQ to the same privilege: it loads RIP, RSP and RFLAGS at once and writes nothing.
 */
#if defined(__x86_64__)
#include "src/arch/probe.h"

/* struct binding; machine.h asserts these. */
#define BINDING_STACK_TOP 8
#define BINDING_REGS      16
#define BINDING_RIP       144
#define BINDING_RFLAGS    152
#define BINDING_VECTOR    160
#define BINDING_MASK      168
#define BINDING_HOW       176
#define BINDING_RUNNING   180
#define VECTOR_SIZE       2816

#define ENTRY_VMLAUNCH 0
#define ENTRY_VMRESUME 1
#define ENTRY_VMRUN    2

    .text

    /* Pushes all general registers so that (%rsp) is a block in the order of their encoding. */
    .macro push_block
    push %r15
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset r15, 0
    push %r14
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset r14, 0
    push %r13
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset r13, 0
    push %r12
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset r12, 0
    push %r11
    .cfi_adjust_cfa_offset 8
    push %r10
    .cfi_adjust_cfa_offset 8
    push %r9
    .cfi_adjust_cfa_offset 8
    push %r8
    .cfi_adjust_cfa_offset 8
    push %rdi
    .cfi_adjust_cfa_offset 8
    push %rsi
    .cfi_adjust_cfa_offset 8
    push %rbp
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset rbp, 0
    push %rsp
    .cfi_adjust_cfa_offset 8
    push %rbx
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset rbx, 0
    push %rdx
    .cfi_adjust_cfa_offset 8
    push %rcx
    .cfi_adjust_cfa_offset 8
    push %rax
    .cfi_adjust_cfa_offset 8
    .endm

    /* x87 and vector registers of native code, to and from the binding in %rbx. Clobbers rax, rcx, rdx. */
    .macro save_vector
    mov BINDING_VECTOR(%rbx), %rcx
    mov BINDING_MASK(%rbx), %eax
    xor %edx, %edx
    cmpl $1, BINDING_HOW(%rbx)
    je 51f
    ja 52f
    fxsave64 (%rcx)
    jmp 53f
51: xsave64 (%rcx)
    jmp 53f
52: xsavec64 (%rcx)
53: fninit
    ldmxcsr default_mxcsr(%rip)
    .endm

    .macro restore_vector
    mov BINDING_VECTOR(%rbx), %rcx
    mov BINDING_MASK(%rbx), %eax
    xor %edx, %edx
    cmpl $0, BINDING_HOW(%rbx)
    jne 51f
    fxrstor64 (%rcx)
    jmp 52f
51: xrstor64 (%rcx)
52:
    .endm

    .section .rodata
    .p2align 2
default_mxcsr:
    .long 0x1f80
    .text

    .macro entry symbol, instruction, which
    .globl \symbol
    .type \symbol, @function
    .p2align 4
\symbol:
    .cfi_startproc
    clc
    .byte CPU_PROBE_NOP_BYTES
    jc 9f
    push_block
    mov $\which, %r12d
    jmp hosted_entry
    /* The software processor executes this, as a guest: the instruction is the guest's. */
9:
    .cfi_def_cfa rsp, 8
    \instruction
    .ifnc \instruction, vmrun
    setc %al
    jz 8f
    add %al, %al
    ret
8:  mov $1, %al
    .endif
    ret
    .cfi_endproc
    .size \symbol, . - \symbol
    .endm

    entry __vmx_vmlaunch, vmlaunch, ENTRY_VMLAUNCH
    entry __vmx_vmresume, vmresume, ENTRY_VMRESUME
    entry vmenter_svm_vmrun_raw, vmrun, ENTRY_VMRUN

    /* (%rsp): block, return address above it; r12d: which. */
    .type hosted_entry, @function
    .p2align 4
hosted_entry:
    .cfi_startproc
    .cfi_def_cfa rsp, 136
    .cfi_offset r15, -16
    .cfi_offset r14, -24
    .cfi_offset r13, -32
    .cfi_offset r12, -40
    .cfi_offset rbp, -96
    .cfi_offset rbx, -112
    cld
    mov %rsp, %rbp
    .cfi_def_cfa_register rbp
    and $-16, %rsp
    mov machine_binding@gottpoff(%rip), %rbx
    mov %fs:(%rbx), %rbx
    test %rbx, %rbx
    jz 1f
    cmpl $0, BINDING_RUNNING(%rbx)
    jne 1f
    save_vector
1:  mov %r12d, %edi
    call hosted_entry_begin /* on the caller's stack: events unwind from here */
    test %rax, %rax
    jz 2f
    mov %rax, %rbx
    mov BINDING_STACK_TOP(%rbx), %rsp
    mov %rbx, %rdi
    mov %rbp, %rsi
    mov %r12d, %edx
    call hosted_enter
    test %eax, %eax
    jz hosted_go
    mov %rbp, %rsp
    and $-16, %rsp
    cmp $3, %eax
    jne 6f
    mov %rbx, %rdi
    call hosted_raise
2:  mov $2, %eax
    jmp 3f
6:  mov %eax, %r13d
    restore_vector
    mov %r13d, %eax
3:  mov %rbp, %rsp
    .cfi_def_cfa_register rsp
    cmp $ENTRY_VMRUN, %r12d
    je 4f
    movzbl %al, %eax
    mov %rax, (%rsp)
4:  cmpb $2, (%rsp) /* before the registers go: flags survive POP */
    pop %rax
    .cfi_adjust_cfa_offset -8
    pop %rcx
    .cfi_adjust_cfa_offset -8
    pop %rdx
    .cfi_adjust_cfa_offset -8
    pop %rbx
    .cfi_adjust_cfa_offset -8
    .cfi_restore rbx
    lea 8(%rsp), %rsp
    .cfi_adjust_cfa_offset -8
    pop %rbp
    .cfi_adjust_cfa_offset -8
    .cfi_restore rbp
    pop %rsi
    .cfi_adjust_cfa_offset -8
    pop %rdi
    .cfi_adjust_cfa_offset -8
    pop %r8
    .cfi_adjust_cfa_offset -8
    pop %r9
    .cfi_adjust_cfa_offset -8
    pop %r10
    .cfi_adjust_cfa_offset -8
    pop %r11
    .cfi_adjust_cfa_offset -8
    pop %r12
    .cfi_adjust_cfa_offset -8
    .cfi_restore r12
    pop %r13
    .cfi_adjust_cfa_offset -8
    .cfi_restore r13
    pop %r14
    .cfi_adjust_cfa_offset -8
    .cfi_restore r14
    pop %r15
    .cfi_adjust_cfa_offset -8
    .cfi_restore r15
    /* Equal: VMfailInvalid, CF = 1, ZF = 0. Else VMfailValid: CF = 0, ZF = 1. */
    je 5f
    cmp %eax, %eax
    ret
5:  test %rsp, %rsp
    stc
    ret
    .cfi_endproc
    .size hosted_entry, . - hosted_entry

    /* Native code goes on with regs, rip and rflags of the binding in %rbx. */
    .globl hosted_go
    .hidden hosted_go
    .type hosted_go, @function
    .p2align 4
hosted_go:
    .cfi_startproc
    .cfi_undefined rip
    restore_vector
    mov BINDING_STACK_TOP(%rbx), %rsp
    mov %ss, %eax
    push %rax
    push (BINDING_REGS + 8 * 4)(%rbx)
    push BINDING_RFLAGS(%rbx)
    mov %cs, %eax
    push %rax
    push BINDING_RIP(%rbx)
    mov (BINDING_REGS + 8 * 0)(%rbx), %rax
    mov (BINDING_REGS + 8 * 1)(%rbx), %rcx
    mov (BINDING_REGS + 8 * 2)(%rbx), %rdx
    mov (BINDING_REGS + 8 * 5)(%rbx), %rbp
    mov (BINDING_REGS + 8 * 6)(%rbx), %rsi
    mov (BINDING_REGS + 8 * 7)(%rbx), %rdi
    mov (BINDING_REGS + 8 * 8)(%rbx), %r8
    mov (BINDING_REGS + 8 * 9)(%rbx), %r9
    mov (BINDING_REGS + 8 * 10)(%rbx), %r10
    mov (BINDING_REGS + 8 * 11)(%rbx), %r11
    mov (BINDING_REGS + 8 * 12)(%rbx), %r12
    mov (BINDING_REGS + 8 * 13)(%rbx), %r13
    mov (BINDING_REGS + 8 * 14)(%rbx), %r14
    mov (BINDING_REGS + 8 * 15)(%rbx), %r15
    mov (BINDING_REGS + 8 * 3)(%rbx), %rbx
    iretq
    .cfi_endproc
    .size hosted_go, . - hosted_go

    /* The signal handler of trap.c lets the interrupted code go on here: rbx is the binding, rsp the software processor's stack, regs,
     * rip and rflags of the binding are those of the trapped instruction. */
    .globl hosted_trapped
    .hidden hosted_trapped
    .type hosted_trapped, @function
    .p2align 4
hosted_trapped:
    .cfi_startproc
    .cfi_undefined rip
    cld
    save_vector
    mov %rbx, %rdi
    call hosted_trap
    test %eax, %eax
    jz hosted_go
    /* An event: on the native stack, past its red zone. What the handler does may trap again: the state waits there. */
    mov (BINDING_REGS + 8 * 4)(%rbx), %rsp
    lea -128(%rsp), %rsp
    and $-64, %rsp
    sub $(VECTOR_SIZE + 192), %rsp
    mov %rsp, %rdi
    lea BINDING_REGS(%rbx), %rsi
    mov $18, %ecx
    rep movsq
    lea 192(%rsp), %rdi
    mov BINDING_VECTOR(%rbx), %rsi
    mov $(VECTOR_SIZE / 8), %ecx
    rep movsq
    mov %rbx, %rdi
    call hosted_trap_event
    lea BINDING_REGS(%rbx), %rdi
    mov %rsp, %rsi
    mov $18, %ecx
    rep movsq
    mov BINDING_VECTOR(%rbx), %rdi
    lea 192(%rsp), %rsi
    mov $(VECTOR_SIZE / 8), %ecx
    rep movsq
    jmp hosted_go
    .cfi_endproc
    .size hosted_trapped, . - hosted_trapped

    /* void __svm_vmrun(size_t vmcb_pa) */
    .globl __svm_vmrun
    .type __svm_vmrun, @function
    .p2align 4
__svm_vmrun:
    .cfi_startproc
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
    mov %rdi, %rax
    call vmenter_svm_vmrun_raw
    cld
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
    ret
    .cfi_endproc
    .size __svm_vmrun, . - __svm_vmrun
#endif
#if defined(__linux__) && defined(__ELF__)
    .section .note.GNU-stack, "", %progbits
#endif
