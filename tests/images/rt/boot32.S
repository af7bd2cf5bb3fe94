/* SPDX-License-Identifier: MIT
 * boot32.S: Multiboot 1 entry; stays in 32-bit protected mode with paging (4-MiB pages); stubs, setjmp, IRET. See rt.h. */
    .section .multiboot, "a"
    .balign 4
    .long 0x1badb002, 0, -0x1badb002

    .section .text.boot, "ax"
    .globl rt_start
rt_start:
    cli
    cld
    movl $rt_stack_top, %esp
    lgdt rt_gdtr
    ljmp $0x40, $1f
1:  movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw %ax, %fs
    movw %ax, %gs
    movl $rt_pd, %edi
    movl $0x83, %eax
    movl $1024, %ecx
1:  movl %eax, (%edi)
    addl $0x400000, %eax
    addl $4, %edi
    loop 1b
    movl $rt_window_pt + 7, rt_pd + 0x40000000 / 0x400000 * 4
    movl $rt_pd, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    andl $~0x20, %eax
    orl $0x610, %eax            /* PSE, OSFXSR, OSXMMEXCPT */
    movl %eax, %cr4
    movl %cr0, %eax
    andl $~0x60000004, %eax
    orl $0x80010022, %eax
    movl %eax, %cr0
    call rt_main
1:  hlt
    jmp 1b

    .text
    .balign 16
    .globl rt_stubs
rt_stubs:
    .set v, 0
    .rept 256
    .balign 16
    .if !(v == 8 || (v >= 10 && v <= 14) || v == 17 || v == 21 || v == 29 || v == 30)
    pushl $0
    .endif
    pushl $v
    jmp rt_common
    .set v, v + 1
    .endr

rt_common:
    pushal
    pushl %ds
    pushl %es
    pushl %fs
    pushl %gs
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    cld
    movl %esp, %eax
    pushl %eax
    call rt_exception
    addl $4, %esp
    popl %gs
    popl %fs
    popl %es
    popl %ds
    popal
    addl $8, %esp
    iretl

    .globl rt_setjmp
rt_setjmp:
    movl (%esp), %eax
    movl %eax, rt_jmp
    movl %esp, rt_jmp + 4
    movl %ebx, rt_jmp + 8
    movl %ebp, rt_jmp + 12
    movl %esi, rt_jmp + 16
    movl %edi, rt_jmp + 20
    xorl %eax, %eax
    ret

    .globl rt_longjmp
rt_longjmp:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl rt_jmp + 4, %esp
    movl rt_jmp + 8, %ebx
    movl rt_jmp + 12, %ebp
    movl rt_jmp + 16, %esi
    movl rt_jmp + 20, %edi
    movl rt_jmp, %eax
    movl %eax, (%esp)
    pushl $2
    popfl
    movl $1, %eax
    ret

    .globl rt_go
rt_go:
    movl 4(%esp), %edi
    testl $0x20000, 8(%edi)
    jz 1f
    pushl 56(%edi)
    pushl 52(%edi)
    pushl 48(%edi)
    pushl 44(%edi)
    jmp 2f
1:  movw 48(%edi), %ax
    movw %ax, %ds
    movw 44(%edi), %ax
    movw %ax, %es
    movw $0x10, %ax
    movw %ax, %ds
2:  pushl 16(%edi)
    pushl 12(%edi)
    pushl 8(%edi)
    pushl 4(%edi)
    pushl 0(%edi)
    movl 20(%edi), %eax
    movl 24(%edi), %ebx
    movl 28(%edi), %ecx
    movl 32(%edi), %edx
    movl 36(%edi), %esi
    movl 40(%edi), %edi
    .globl rt_go_iret
rt_go_iret:
    iretl

    .section .bss
    .balign 4096
    .globl rt_pd, rt_window_pt
rt_pd:        .skip 4096
rt_window_pt: .skip 4096
    .skip 65536
    .globl rt_stack_top
rt_stack_top:
rt_jmp: .skip 64

    .section .note.GNU-stack, "", @progbits
