/* SPDX-License-Identifier: MIT
 *
 * bios.S: the real-mode services that an image's own 16-bit code may ask for: memory sizes and map, A20, the equipment
 * list, the time of day; and, for everything that this PC does not have, the answer that says so. No screen, no disk, no
 * keyboard: text mode calls do nothing, disks fail, there is never a key.
 *
 * Runs at f000:f000. boot/bios.c puts it there, fills the data at f000:f800, and points the interrupt vectors to the
 * words at its start. It is kept as bytes in bios_code.h, so that building needs no assembler for x86:
 * tools/bios-code > src/machine/boot/bios_code.h.
 *
 * Services return by IRET with the carry flag of the caller's frame changed. Nothing here enables interrupts but waiting
 * for a key.
 */
    .code16
    .set VIDEO_MODE, 0x449
    .set TICKS, 0x46c
    .set MIDNIGHT, 0x470
    .set EQUIPMENT, 0x410
    .set BASE_MEMORY, 0x413
    .set DATA, 0xf800           /* struct bios_data in bios.c */
    .set D_RANGES, DATA
    .set D_EXTENDED, DATA + 2   /* KiB above 1 MiB, at most 63 MiB */
    .set D_BELOW16, DATA + 4    /* KiB from 1 to 16 MiB */
    .set D_ABOVE16, DATA + 6    /* 64-KiB blocks from 16 MiB to the hole */
    .set D_MAP, DATA + 8        /* 20 bytes each */
    .set SMAP, 0x534d4150

/* ORDER: the offsets of the handlers, as enum bios_handler in bios.c. */
    .word ignore, timer, irq_low, irq_high, video, equipment, base_memory, disk, system, keyboard, clock, unsupported

ignore:
    iret

/* IRQ 0: the ticks since midnight, and the hook. */
timer:
    pushl %eax
    pushw %ds
    xorw %ax, %ax
    movw %ax, %ds
    movl TICKS, %eax
    incl %eax
    cmpl $0x1800b0, %eax
    jb 1f
    xorl %eax, %eax
    movb $1, MIDNIGHT
1:  movl %eax, TICKS
    popw %ds
    int $0x1c
    popl %eax
irq_low:
    pushw %ax
    movb $0x20, %al
    outb %al, $0x20
    popw %ax
    iret
irq_high:
    pushw %ax
    movb $0x20, %al
    outb %al, $0xa0
    outb %al, $0x20
    popw %ax
    iret

/* INT 10h. Functions 00 to 03 and 0f are those of a colour text screen; the newer ones are not there (AX as it was). */
video:
    cmpb $0x03, %ah
    je 1f
    cmpb $0x0f, %ah
    jne ignore
    movw $0x5003, %ax           /* 80 columns, mode 3 */
    movb $0, %bh
    iret
1:  movw $0x0607, %cx
    xorw %dx, %dx
    iret

equipment:
    pushw %ds
    pushw $0
    popw %ds
    movw EQUIPMENT, %ax
    popw %ds
    iret

base_memory:
    pushw %ds
    pushw $0
    popw %ds
    movw BASE_MEMORY, %ax
    popw %ds
    iret

/* INT 13h: no drive of that number. Function 15h says it without an error. */
disk:
    cmpb $0x15, %ah
    je 2f
    cmpb $0x08, %ah
    jne 1f
    xorb %dl, %dl               /* how many there are */
1:  movb $1, %ah
    jmp fail
2:  movb $0, %ah
    jmp succeed

fail:
    pushw %bp
    movw %sp, %bp
    orb $1, 6(%bp)
    popw %bp
    iret
succeed:
    pushw %bp
    movw %sp, %bp
    andb $0xfe, 6(%bp)
    popw %bp
    iret

unsupported:
    movb $0x86, %ah
    jmp fail

/* INT 15h. */
system:
    cmpw $0xe820, %ax
    je memory_map
    cmpw $0xe801, %ax
    je memory_sizes
    cmpb $0x88, %ah
    je extended_memory
    cmpb $0x24, %ah
    jne unsupported
    cmpb $0x03, %al             /* A20: always on; it can be "enabled", and asked for */
    je 2f
    cmpb $0x02, %al
    je 1f
    cmpb $0x01, %al
    jne unsupported
    movb $0, %ah
    jmp succeed
1:  movw $0x0001, %ax
    jmp succeed
2:  movb $0, %ah
    movw $3, %bx
    jmp succeed

extended_memory:
    movw %cs:D_EXTENDED, %ax
    jmp succeed

memory_sizes:
    movw %cs:D_BELOW16, %ax
    movw %ax, %cx
    movw %cs:D_ABOVE16, %bx
    movw %bx, %dx
    jmp succeed

/* EBX the number of the range, ES:DI room for ECX bytes (20 at least), EDX "SMAP". */
memory_map:
    cmpl $SMAP, %edx
    jne unsupported
    cmpl $20, %ecx
    jb unsupported
    movzwl %cs:D_RANGES, %eax
    cmpl %eax, %ebx
    jae unsupported
    pushw %si
    pushw %di
    imulw $20, %bx, %si
    addw $D_MAP, %si
    movw $10, %cx
    cld
1:  movsw %cs:(%si), %es:(%di)
    loop 1b
    popw %di
    popw %si
    incl %ebx
    cmpl %eax, %ebx
    jb 1f
    xorl %ebx, %ebx
1:  movl $20, %ecx
    movl $SMAP, %eax
    jmp succeed

/* INT 16h: nothing is ever pressed. Who waits for a key waits for ever. */
keyboard:
    testb $0xef, %ah            /* 00, 10h: wait */
    jnz 1f
0:  sti
    hlt
    jmp 0b
1:  pushw %bp
    movw %sp, %bp
    orb $0x40, 6(%bp)           /* ZF: no key */
    popw %bp
    cmpb $0x02, %ah
    je 2f
    cmpb $0x12, %ah
    je 2f
    iret
2:  movb $0, %al                /* no shift keys */
    iret

/* INT 1ah, function 00: ticks since midnight. PCI BIOS is not there (AH 86h, and no "PCI " in EDX). */
clock:
    testb %ah, %ah
    jnz unsupported
    pushw %ds
    pushw $0
    popw %ds
    movw TICKS, %dx
    movw TICKS + 2, %cx
    movb MIDNIGHT, %al
    movb $0, MIDNIGHT
    popw %ds
    jmp succeed
