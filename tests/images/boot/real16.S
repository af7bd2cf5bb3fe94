/* SPDX-License-Identifier: MIT
 * real16.S: a bzImage that is its 16-bit set-up code alone: what a BIOS must answer, the same on ours and on another. */
    .set SECTORS, 7
    .code16
    .text
    .globl start
start:
    .org 0x1f1
    .byte SECTORS               /* of this code, but for the first */
    .word 0
    .long 1, 0
    .word 0
    .org 0x1fe
    .word 0xaa55
    .byte 0xeb, 0x6e            /* jump to 0x270 */
    .ascii "HdrS"
    .word 0x203, 0, 0, 0, 0
    .byte 0, 1                  /* loaded high */
    .word 0x8000
    .long 0x100000, 0, 0, 0
    .org 0x22c
    .long 0x37ffffff
    .org 0x270
    movw %ds, %ax               /* CS is 20h more than the others: make it the same */
    pushw %ax
    pushw $main
    lretw

/* %si: a text; %al: a character */
print:
    lodsb
    testb %al, %al
    jz 1f
    call put
    jmp print
1:  ret
put:
    pushw %dx
    pushw %ax
    movw $0x3fd, %dx
2:  inb %dx, %al
    testb $0x20, %al
    jz 2b
    popw %ax
    movw $0x3f8, %dx
    outb %al, %dx
    popw %dx
    ret

    .macro say text
    .section .rodata.str, "aMS", @progbits, 1
9:  .asciz "\text"
    .text
    movw $9b, %si
    .endm
/* PASS if the condition holds */
    .macro expect condition, name
    j\condition 7f
    say "FAIL "
    incw failures
    jmp 8f
7:  say "PASS "
8:  call print
    say "\name\n"
    call print
    .endm
    .macro service number
    stc                         /* who leaves the flags alone says "failed" */
    int $\number
    .endm

main:
    cld
    movw %ds, %ax
    movw %ax, %es
    say "BEGIN image real16\n"
    call print
    movl %cr0, %eax
    testb $1, %al
    expect z, "state: real mode"
    pushfw
    popw %ax
    testw $0x200, %ax
    expect z, "state: interrupts are off"

    /* e820: walk the whole map */
    xorl %ebx, %ebx
    movw $64, %bp
1:  movl $0xe820, %eax
    movl $0x534d4150, %edx
    movl $20, %ecx
    movw $range, %di
    service 0x15
    jc 2f
    cmpl $0x534d4150, %eax
    jne 2f
    cmpl $20, %ecx
    jne 2f
    cmpl $1, range + 16
    jne 3f
    cmpl $0x100000, range
    jne 3f
    orb $1, seen
3:  cmpl $0, range
    jne 3f
    orb $2, seen
3:  testl %ebx, %ebx
    jz 3f
    decw %bp
    jnz 1b
2:  orb $4, seen
3:  cmpb $3, seen
    expect e, "INT 15h e820h: a map with RAM from 0 and from 1 MiB, and an end"
    movl $0xe820, %eax
    xorl %ebx, %ebx
    xorl %edx, %edx
    movl $20, %ecx
    movw $range, %di
    service 0x15
    expect c, "INT 15h e820h: fails without SMAP"
    movw $0xe801, %ax
    service 0x15
    movw %ax, sizes
    expect nc, "INT 15h e801h"
    cmpw $0x3c00, sizes
    expect e, "INT 15h e801h: 15 MiB from 1 MiB on"
    movb $0x88, %ah
    service 0x15
    movw %ax, sizes
    expect nc, "INT 15h 88h"
    cmpw $0x3c00, sizes
    expect ae, "INT 15h 88h: at least 15 MiB"
    movw $0x2401, %ax
    service 0x15
    expect nc, "INT 15h 2401h: address line 20"
    movw $0x2402, %ax
    service 0x15
    cmpb $1, %al
    expect e, "INT 15h 2402h: it is on"
    movw $0x2403, %ax
    service 0x15
    expect nc, "INT 15h 2403h"
    movb $0x7f, %ah
    service 0x15
    expect c, "INT 15h 7fh: no such function"
    int $0x12
    cmpw $639, %ax
    expect e, "INT 12h: 639 KiB"
    int $0x11
    andw $0x0e00, %ax
    expect nz, "INT 11h: serial ports"
    movw $0x0800, %ax
    movb $0x80, %dl
    movw %ds, %bx
    service 0x13
    movw %bx, %ds
    movw %bx, %es
    expect c, "INT 13h 08h: no disk"
    movb $1, %ah
    int $0x16
    expect z, "INT 16h 01h: no key"
    movb $2, %ah
    int $0x16
    testb $0x0f, %al
    expect z, "INT 16h 02h: no shift keys"
    movb $0x0f, %ah
    int $0x10
    cmpw $0x5003, %ax
    expect e, "INT 10h 0fh: mode 3, 80 columns"
    movw $0x4f00, %ax
    movw %ds, %bx
    movl $0x12345678, %ebp
    pushw %bx
    movb $3, %ah
    movb $0, %bh
    int $0x10
    popw %bx
    cmpl $0x12345678, %ebp
    expect e, "INT 10h 03h: the cursor, other registers kept"
    movb $0, %ah
    int $0x1a
    cmpw $0x19, %cx
    expect b, "INT 1ah 00h: less than a day"
    say "END image real16\n"
    call print
    movw $0x3fd, %dx
1:  inb %dx, %al
    testb $0x40, %al
    jz 1b
    movb failures, %al
    outb %al, $0xf4
1:  hlt
    jmp 1b

    .data
failures: .word 0
seen: .word 0
sizes: .word 0
range: .skip 24
