/* SPDX-License-Identifier: MIT
 *
 * real32.c: real-address mode: interrupts through the vector table, faults without error codes, 64-KiB limits, far
 * transfers, single step, 32-bit operands and addresses, segments that keep a protected-mode limit. SDM volume 3A,
 * "8086 Emulation".
 */
#include "rt.h"

const char image_name[] = IMAGE_NAME;
#define ASM(...) __asm__ volatile(__VA_ARGS__)

/* Physical memory: 0x500 parameters and results, 0x1000 the switching code, 0x2000 vector stubs (8 bytes each), 0x8000
 * the code under test (segment 0x800), 0x9000 + its stack (segment 0x900), 0x20000 data (segment 0x2000). */
struct rm {
    uint32_t eax, ebx, ecx, edx, esi, edi, ebp; /* 0x500 */
    uint16_t ds, es, fs, gs;                    /* 0x51c */
    uint16_t sp, ss;                            /* 0x524 */
    uint16_t ip, cs, flags, vector;             /* 0x528 */
    uint32_t pm_esp;                            /* 0x530 */
};
#define RM ((volatile struct rm *)0x500)

__asm__(
    ".section .low, \"ax\"\n"
    ".globl rm_blob, rm_end, rm_common\n"
    ".code16\n"
    "rm_blob:\n" /* at 0x1000, entered as 16-bit protected mode code, base 0 */
    "  mov $0x50, %ax\n  mov %ax, %ds\n  mov %ax, %es\n  mov %ax, %ss\n  mov %ax, %fs\n  mov %ax, %gs\n"
    "  mov %cr0, %eax\n  and $0x7ffffffe, %eax\n  mov %eax, %cr0\n"
    "  ljmp $0, $(1f - rm_blob + 0x1000)\n"
    "1: xor %ax, %ax\n  mov %ax, %ds\n"
    "  lidtl %cs:(rm_ivt - rm_blob + 0x1000)\n"
    "  mov 0x526, %ss\n  mov 0x524, %sp\n"
    "  pushw 0x52c\n  pushw 0x52a\n  pushw 0x528\n"
    "  mov 0x51e, %es\n  mov 0x520, %fs\n  mov 0x522, %gs\n"
    "  mov 0x500, %eax\n  mov 0x504, %ebx\n  mov 0x508, %ecx\n  mov 0x50c, %edx\n  mov 0x510, %esi\n  mov 0x514, "
    "%edi\n  mov 0x518, %ebp\n"
    "  mov 0x51c, %ds\n"
    "  iretw\n"
    "rm_ivt: .word 0x3ff\n .long 0\n"
    "rm_common:\n" /* stack: vector, IP, CS, FLAGS */
    "  mov %eax, %cs:0x500\n  mov %ebx, %cs:0x504\n  mov %ecx, %cs:0x508\n  mov %edx, %cs:0x50c\n  mov %esi, "
    "%cs:0x510\n"
    "  mov %edi, %cs:0x514\n  mov %ebp, %cs:0x518\n  mov %ds, %cs:0x51c\n  mov %es, %cs:0x51e\n"
    "  popw %cs:0x52e\n  popw %cs:0x528\n  popw %cs:0x52a\n  popw %cs:0x52c\n  mov %sp, %cs:0x524\n  mov %ss, "
    "%cs:0x526\n"
    "  mov %cr0, %eax\n  or $1, %eax\n  mov %eax, %cr0\n"
    "  ljmpl $0x40, $rm_back\n"
    "rm_end:\n"
    ".code32\n.text\n"
    "rm_back:\n  mov $0x10, %eax\n  mov %eax, %ds\n  mov %eax, %es\n  mov %eax, %ss\n  mov %eax, %fs\n  mov %eax, %gs\n"
    "  mov 0x530, %esp\n  mov %cr0, %eax\n  or $0x80000000, %eax\n  mov %eax, %cr0\n  lidtl rt_idtr\n"
    "  popal\n  popfl\n  ret\n"
    ".globl rm_go\nrm_go:\n  pushfl\n  pushal\n  mov %esp, 0x530\n  cli\n  ljmp $0x48, $0x1000\n");
extern char rm_blob[], rm_end[], rm_common[];
extern uint8_t rt_idtr[];
void rm_go(void);

static void setup(void)
{
    memcpy((void *)0x1000, rm_blob, (size_t)(rm_end - rm_blob));
    uint16_t common = (uint16_t)(0x1000 + (rm_common - rm_blob));
    for (unsigned v = 0; v < 256; v++) {
        uint8_t *s = (uint8_t *)(0x2000 + 8 * v);
        s[0] = 0x68, s[1] = (uint8_t)v, s[2] = 0; /* PUSH imm16 */
        uint16_t rel = (uint16_t)(common - (0x2000 + 8 * v + 6));
        s[3] = 0xe9, s[4] = (uint8_t)rel, s[5] = (uint8_t)(rel >> 8);
        *(volatile uint16_t *)(4 * v) = (uint16_t)(0x2000 + 8 * v);
        *(volatile uint16_t *)(4 * v + 2) = 0;
    }
}

static struct rm in, out;
static void run(const uint8_t *code, unsigned n)
{
    uint8_t *at = (uint8_t *)0x8000;
    memset(at, 0xcc, 64);
    memcpy(at, code, n);
    in.ds = in.ds ? in.ds : 0x2000;
    in.es = in.es ? in.es : 0x2000;
    in.ss = in.ss ? in.ss : 0x900;
    in.sp = in.sp ? in.sp : 0x1000;
    in.cs = in.cs ? in.cs : 0x800;
    in.flags |= 2;
    memcpy((void *)0x500, &in, sizeof in);
    rm_go();
    memcpy(&out, (const void *)0x500, sizeof out);
}
#define RUN(...)                                                                                                       \
    do {                                                                                                               \
        static const uint8_t c_[] = {__VA_ARGS__};                                                                     \
        run(c_, sizeof c_);                                                                                            \
        in = (struct rm){0};                                                                                           \
    } while (0)
static void expect(const char *name, unsigned vector, unsigned ip)
{
    if (out.vector == vector && out.ip == ip)
        check(name, true);
    else
        fail(name, "vector %u ip %#x, want %u %#x", out.vector, out.ip, vector, ip);
}

void image_main(void)
{
    setup();
    RUN(0xcd, 0x80);
    expect("INT n", 0x80, 2);
    check_eq("INT n: CS", out.cs, 0x800);
    check_eq("INT n: SP is back", out.sp, 0x1000);
    in.flags = 0x202;
    RUN(0xcd, 0x80);
    check_eq("INT n: IF pushed", out.flags & 0x200, 0x200);
    RUN(0x9c, 0x58, 0xcc); /* pushf; pop ax; int3 */
    expect("INT3", 3, 3);
    check_eq("FLAGS at the start", out.eax & 0x3f02, 2);
    RUN(0x0f, 0x0b);
    expect("UD2: the instruction's IP", 6, 0);
    RUN(0x31, 0xc9, 0xf7, 0xf1);
    expect("DIV by 0", 0, 2);
    RUN(0x0f, 0x00, 0xd0);
    expect("LLDT", 6, 0);
    RUN(0x0f, 0x00, 0xd8);
    expect("LTR", 6, 0);
    RUN(0x0f, 0x02, 0xc0);
    expect("LAR", 6, 0);
    RUN(0x63, 0xc0);
    expect("ARPL", 6, 0);
    RUN(0x0f, 0x05);
    expect("SYSCALL", 6, 0);
    RUN(0x0f, 0x01, 0xe0, 0xcc); /* smsw ax */
    expect("SMSW", 3, 4);
    check_eq("SMSW: PE is 0", out.eax & 1, 0);
    RUN(0xb0, 0x7f, 0xfe, 0xc0, 0xce);
    expect("INTO", 4, 5);
    RUN(0xf1);
    expect("INT1", 1, 1);
    in.eax = 5;
    RUN(0x62, 0x06, 0x10, 0x00); /* bound ax, [0x10]: zeros */
    expect("BOUND", 5, 0);
    /* 64-KiB limits */
    RUN(0xa1, 0xfe, 0xff, 0xcc);
    expect("word at 0xfffe", 3, 4);
    RUN(0xa1, 0xff, 0xff);
    expect("word at 0xffff", 13, 0);
    RUN(0x66, 0xa1, 0xfd, 0xff);
    expect("doubleword at 0xfffd", 13, 0);
    in.sp = 0xffff;
    RUN(0x58);
    expect("POP at 0xffff", 12, 0);
    in.sp = 2;
    RUN(0x90, 0x50, 0xcc); /* IRETW leaves SP = 2: PUSH makes it 0 */
    expect("PUSH at SP 2", 3, 3);
    RUN(0x67, 0x66, 0xa1, 0x00, 0x00, 0x01, 0x00);
    expect("32-bit offset beyond 64 KiB", 13, 0);
    in.ebx = 0xfff0;
    RUN(0x67, 0x8a, 0x43, 0x0f, 0xcc); /* mov al, [ebx + 15] */
    expect("32-bit address within 64 KiB", 3, 5);
    in.ebx = 0xfff0;
    RUN(0x8a, 0x47, 0x20, 0xcc); /* mov al, [bx + 0x20]: wraps */
    expect("16-bit address wraps", 3, 4);
    in.ebp = 0xffff;
    RUN(0x8b, 0x46, 0x00);
    expect("BP-relative word at 0xffff", 12, 0);
    /* running to the end of the segment */
    if (!rt_on_qemu()) { /* it wraps */
        *(volatile uint8_t *)0x17fff = 0x90;
        RUN(0xe9, 0xfc, 0x7f + 0x80); /* jmp to 0xffff: cs 0x800 -> linear 0x17fff */
        if (out.vector == 13 && (out.ip == 0 || out.ip == 0xffff))
            check("IP runs past 0xffff", true);
        else
            fail("IP runs past 0xffff", "vector %u ip %#x", out.vector, out.ip);
    }
    /* far transfers */
    *(volatile uint8_t *)0x8100 = 0xcb;                  /* retf */
    RUN(0x9a, 0x00, 0x00, 0x10, 0x08, 0x8c, 0xc8, 0xcc); /* call 0x810:0; mov ax, cs; int3 */
    expect("far CALL and RET", 3, 8);
    check_eq("far CALL and RET: CS", out.eax & 0xffff, 0x800);
    *(volatile uint32_t *)0x8104 = 0xccc88c; /* mov ax, cs; int3 */
    RUN(0xea, 0x04, 0x00, 0x10, 0x08);
    check_eq("far JMP: CS", out.cs, 0x810);
    expect("far JMP", 3, 7);
    RUN(0xb8, 0x00, 0x12, 0x8e, 0xd0, 0xbc, 0x34, 0x12, 0x8c, 0xd3, 0x54, 0x59,
        0xcc); /* mov ss, 0x1200; mov sp, 0x1234; mov bx, ss; push sp; pop cx */
    check_eq("MOV SS", out.ebx & 0xffff, 0x1200);
    check_eq("PUSH SP pushes the old value", out.ecx & 0xffff, 0x1234);
    /* segment arithmetic, also at the very top: 0xffff:0x0010 is 1 MiB with A20 on */
    *(volatile uint16_t *)0x20040 = 0xbeef;
    in.ds = 0x2004;
    RUN(0xa1, 0x00, 0x00, 0xcc);
    check_eq("segment arithmetic", out.eax & 0xffff, 0xbeef);
    in.ds = 0xffff;
    uint16_t above = *(volatile uint16_t *)0x100000;
    RUN(0xa1, 0x10, 0x00, 0xcc);
    check_eq("0xffff:0x10 is 1 MiB", out.eax & 0xffff, above);
    /* single step and strings */
    in.flags = 0x100;
    RUN(0x90, 0x90);
    expect("single step", 1, 1);
    in.esi = 0xfffe, in.ecx = 0x10003;
    RUN(0xfc, 0xf3, 0xac, 0xcc); /* rep lodsb: SI wraps, CX counts */
    check_eq("REP LODSB: SI wraps", out.esi, 1);
    check_eq("REP LODSB: the upper half of ECX is kept", out.ecx, 0x10000);
    in.ecx = 0x10002;
    RUN(0x31, 0xc0, 0x40, 0xe2, 0xfd, 0xcc); /* inc ax; loop */
    check_eq("LOOP counts CX", out.eax & 0xffff, 2);
    in.eax = 0x12345678;
    RUN(0x66, 0x50, 0x5b, 0x59, 0xcc); /* push eax; pop bx; pop cx */
    check_eq("PUSH EAX: low half first", out.ebx & 0xffff, 0x5678);
    check_eq("PUSH EAX: then the high", out.ecx & 0xffff, 0x1234);
    RUN(0x66, 0x9c, 0x66, 0x58, 0xcc); /* pushfd; pop eax */
    check_eq("PUSHFD", out.eax & 0xffff0002, 2);
    RUN(0x66, 0x68, 0x02, 0x00, 0x00, 0x00, 0x66, 0x68, 0x00, 0x08, 0x00, 0x00, 0x66, 0x68, 0x18, 0x00, 0x00, 0x00,
        0x66, 0xcf, 0xf4, 0xf4, 0xf4, 0xf4, 0xcc);
    expect("IRETD", 3, 0x19);
    RUN(0xcd, 0x90);
    expect("another vector", 0x90, 2);
    /* A limit of the IDT: lidt with 0x3ff less */
    {
        struct {
            uint16_t limit;
            uint32_t base;
        } __attribute__((packed)) idt = {0x80 * 4 - 1, 0};
        memcpy((void *)0x20060, &idt, 6);
        RUN(0x0f, 0x01, 0x1e, 0x60, 0x00, 0xcd, 0x7f); /* lidt [0x60]; int 0x7f */
        expect("INT within the IDT's limit", 0x7f, 7);
        memcpy((void *)0x20060, &idt, 6);
        RUN(0x0f, 0x01, 0x1e, 0x60, 0x00, 0xcd, 0x80);
        expect("INT beyond the IDT's limit", 13, 5);
    }
    /* A limit that was loaded in protected mode stays: 4 GiB in GS while PE was 1 */
    *(volatile uint32_t *)0x30000 = 0x600df00d;
    in.edi = 0x30000;
    RUN(0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0, /* PE = 1 */
        0xbb, 0x10, 0x00, 0x8e, 0xeb,                   /* mov gs, 0x10: flat */
        0x24, 0xfe, 0x0f, 0x22, 0xc0,                   /* PE = 0 */
        0x65, 0x67, 0x66, 0x8b, 0x0f, 0xcc);            /* mov ecx, gs:[edi] */
    expect("a 4-GiB limit survives in real mode", 3, 24);
    check_eq("a 4-GiB limit survives in real mode: data", out.ecx, 0x600df00d);
    /* Loading a segment register in real mode keeps that limit */
    *(volatile uint32_t *)0x31000 = 0x600df11d;
    in.edi = 0x30000;
    RUN(0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0, 0xbb, 0x10, 0x00, 0x8e, 0xeb, 0x24, 0xfe, 0x0f, 0x22, 0xc0,
        0xbb, 0x00, 0x01, 0x8e, 0xeb, 0x65, 0x67, 0x66, 0x8b, 0x0f, 0xcc); /* gs = 0x100: base 0x1000 */
    check_eq("... and the base is the selector's", out.ecx, 0x600df11d);
    check_eq("protected mode works afterwards", rdcr0() >> 31, 1);
    struct exc e = TRY(ASM("ud2"));
    expect_exc("exceptions work afterwards", e, UD, 0);
}
