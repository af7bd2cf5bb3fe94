/* SPDX-License-Identifier: MIT
 * start.S: the headers of every protocol, by -DMB1, -DMB2 or -DPVH, with -DFLAT the addresses of a file that is no ELF,
 * with -DVIDEO, -DRELOCATABLE what it asks for besides; the entry, which runs wherever it was put. */
#ifdef MB1
    .section .multiboot, "a"
#ifdef FLAT
#define FLAGS 0x10003
#elif defined VIDEO
#define FLAGS 7
#else
#define FLAGS 3
#endif
    .balign 4
header:
    .long 0x1badb002, FLAGS, -(0x1badb002 + FLAGS)
#ifdef FLAT
    .long header, image_start, image_data_end, image_end, start
#else
    .long 0, 0, 0, 0, 0
#endif
    .long 1, 80, 25, 0          /* text */
#endif

#ifdef MB2
    .section .multiboot, "a"
    .balign 8
header2:
    .long 0xe85250d6, 0, header2_end - header2, -(0xe85250d6 + (header2_end - header2))
    .balign 8
    .short 1, 0                 /* information: memory, map, sections, RSDP */
    .long 24, 4, 6, 9, 14
    .balign 8
    .short 6, 0                 /* modules on pages */
    .long 8
    .balign 8
    .short 4, 1                 /* console: text is taken */
    .long 12, 2
    .balign 8
    .short 7, 1                 /* EFI boot services, optional */
    .long 8
#ifdef FLAT
    .balign 8
    .short 2, 0
    .long 24, header2, image_start, image_data_end, image_end
    .balign 8
    .short 3, 0
    .long 12, start
#endif
#ifdef RELOCATABLE
    .balign 8
    .short 10, 0                /* to the highest place below 128 MiB, on 2 MiB */
    .long 24, 0x200000, 0x7ffffff, 0x200000, 2
#endif
    .balign 8
    .short 0, 0
    .long 8
header2_end:
#endif

#ifdef PVH
    .section .note.xen, "a", @note
    .balign 4
    .long 4, 4, 18
    .asciz "Xen"
    .long start
#endif

    .section .text.start, "ax"
    .globl start
start:
    movl %esp, %esi
    call 1f                     /* the stack of the loader is used for these four bytes alone */
1:  popl %ebp
    leal stack_end - 1b(%ebp), %esp
    pushfl
    subl $1b, %ebp
    pushl %ebp                  /* how far we were moved */
    pushl %ebx
    pushl %eax
    call show
1:  hlt
    jmp 1b

    .globl marker
marker:                         /* found again through the symbol table */
    .long 0x600dcafe

    .bss
    .balign 16
    .skip 16384
stack_end:
