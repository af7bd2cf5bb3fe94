/* SPDX-License-Identifier: MIT
 * boot64.S: Multiboot 1 entry to 64-bit mode; exception stubs; setjmp; IRET to anywhere. See rt.h. */
    .section .multiboot, "a"
    .balign 4
    .long 0x1badb002, 0, -0x1badb002

    .section .text.boot, "ax"
    .code32
    .globl rt_start
rt_start:
    cli
    cld
    movl $rt_stack_top, %esp
    lgdt rt_gdtr
    /* PML4[0] -> PDPT; PDPT[0..3] -> 4 page directories of 2-MiB pages; the directory entry of RT_WINDOW -> a page table */
    movl $rt_pdpt + 7, rt_pml4
    movl $rt_pd, %eax
    orl $7, %eax
    movl $rt_pdpt, %edi
    movl $4, %ecx
1:  movl %eax, (%edi)
    addl $4096, %eax
    addl $8, %edi
    loop 1b
    movl $rt_pd, %edi
    movl $0x83, %eax
    movl $2048, %ecx
1:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 1b
    movl $rt_window_pt + 7, rt_pd + 0x40000000 / 0x200000 * 8
    movl $rt_pml4, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x620, %eax            /* PAE, OSFXSR, OSXMMEXCPT */
    movl %eax, %cr4
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax            /* LME */
    wrmsr
    movl %cr0, %eax
    andl $~0x60000004, %eax     /* CD, NW, EM off */
    orl $0x80010022, %eax       /* PG, WP, NE, MP */
    movl %eax, %cr0
    ljmp $8, $1f
    .code64
1:  movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw %ax, %fs
    movw %ax, %gs
    movabsq $rt_stack_top, %rsp
    xorl %ebp, %ebp
    call rt_main
1:  hlt
    jmp 1b

    .text
    /* One stub a vector, 16 bytes each. */
    .balign 16
    .globl rt_stubs
rt_stubs:
    .set v, 0
    .rept 256
    .balign 16
    .if !(v == 8 || (v >= 10 && v <= 14) || v == 17 || v == 21 || v == 29 || v == 30)
    pushq $0
    .endif
    pushq $v
    jmp rt_common
    .set v, v + 1
    .endr

rt_common:
    pushq %rax
    pushq %rcx
    pushq %rdx
    pushq %rbx
    pushq %rbp
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    cld
    movq %rsp, %rdi
    movq %rsp, %rbx
    andq $-16, %rsp
    call rt_exception
    movq %rbx, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rdi
    popq %rsi
    popq %rbp
    popq %rbx
    popq %rdx
    popq %rcx
    popq %rax
    addq $16, %rsp
    iretq

    .globl rt_setjmp
rt_setjmp:
    movq (%rsp), %rax
    movq %rax, rt_jmp
    movq %rsp, rt_jmp + 8
    movq %rbx, rt_jmp + 16
    movq %rbp, rt_jmp + 24
    movq %r12, rt_jmp + 32
    movq %r13, rt_jmp + 40
    movq %r14, rt_jmp + 48
    movq %r15, rt_jmp + 56
    xorl %eax, %eax
    ret

    .globl rt_longjmp
rt_longjmp:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movq rt_jmp + 8, %rsp
    movq rt_jmp + 16, %rbx
    movq rt_jmp + 24, %rbp
    movq rt_jmp + 32, %r12
    movq rt_jmp + 40, %r13
    movq rt_jmp + 48, %r14
    movq rt_jmp + 56, %r15
    movq rt_jmp, %rax
    movq %rax, (%rsp)
    pushq $2
    popfq
    movl $1, %eax
    ret

    .globl rt_go
rt_go:
    pushq 32(%rdi)
    pushq 24(%rdi)
    pushq 16(%rdi)
    pushq 8(%rdi)
    pushq 0(%rdi)
    movq 40(%rdi), %rax
    movq 48(%rdi), %rbx
    movq 56(%rdi), %rcx
    movq 64(%rdi), %rdx
    movq 72(%rdi), %rsi
    movq 80(%rdi), %rdi
    .globl rt_go_iret
rt_go_iret:
    iretq

    .section .bss
    .balign 4096
    .globl rt_pml4, rt_pdpt, rt_pd, rt_window_pt
rt_pml4:      .skip 4096
rt_pdpt:      .skip 4096
rt_pd:        .skip 4 * 4096
rt_window_pt: .skip 4096
    .skip 65536
    .globl rt_stack_top
rt_stack_top:
rt_jmp: .skip 64

    .section .note.GNU-stack, "", @progbits
