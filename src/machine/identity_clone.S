/* SPDX-License-Identifier: MIT
 *
 * identity_clone.S: a clone with a stack for the child, executed for a guest of identity mode. The kernel starts the child at the
 * instruction after SYSCALL with the registers of the parent, which are the guest's; the address where it goes on waits below
 * the top of its stack.
 */
#if defined(__linux__) && defined(__x86_64__)
    .text
    .globl identity_clone
    .hidden identity_clone
    .type identity_clone, @function
    .p2align 4
    /* uint64_t identity_clone(const uint64_t gpr[16] (rdi), uint64_t guest_rip (rsi), uint64_t child_stack (rdx)) */
identity_clone:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsi, -8(%rdx)
    mov (%rdi), %rax
    mov 16(%rdi), %rdx
    mov 24(%rdi), %rbx
    mov 40(%rdi), %rbp
    mov 48(%rdi), %rsi
    mov 64(%rdi), %r8
    mov 72(%rdi), %r9
    mov 80(%rdi), %r10
    mov 96(%rdi), %r12
    mov 104(%rdi), %r13
    mov 112(%rdi), %r14
    mov 120(%rdi), %r15
    mov 56(%rdi), %rdi
    syscall
    test %rax, %rax
    jz 1f
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
1:  mov -8(%rsp), %rcx
    jmp *%rcx
    .size identity_clone, . - identity_clone
#endif
#if defined(__linux__) && defined(__ELF__)
    .section .note.GNU-stack, "", %progbits
#endif
