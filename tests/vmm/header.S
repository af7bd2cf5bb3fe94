/* The real-mode part of a bzImage, as far as the 64-bit boot protocol looks at it: two sectors. */
    .section .text
    .org 0x1f1
    .byte 1                     /* setup_sects */
    .word 0
    .long PAGES * 256           /* syssize, in 16 bytes */
    .word 0, 0xffff, 0
    .word 0xaa55
    .byte 0xeb, 0x6e            /* jump: the header ends at 0x270 */
    .ascii "HdrS"
    .word 0x20f
    .org 0x211
    .byte 1                     /* loaded high */
    .org 0x22c
    .long 0x7fffffff            /* initrd_addr_max */
    .long 0x200000
    .byte 1, 21
    .word 1                     /* XLF_KERNEL_64 */
    .long 255                   /* cmdline_size */
    .org 0x258
    .quad 0x1000000             /* pref_address */
    .long 0x200000              /* init_size */
    .org 0x400
