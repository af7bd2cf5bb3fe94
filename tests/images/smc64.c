/* SPDX-License-Identifier: MIT
 *
 * smc64.c: code that changes: written by itself, through another mapping, by the page table, by REP MOVS, within the
 * running block. SDM volume 3A, "Self-Modifying Code": a jump after the write is enough for the writing processor.
 */
#include "rt.h"

const char image_name[] = IMAGE_NAME;
#define ASM(...) __asm__ volatile(__VA_ARGS__)

typedef int fn(void);
static uint8_t *code = rt_pages[0];

static void put_mov(uint8_t *p, int v) /* mov $v, %eax; ret */
{
    p[0] = 0xb8;
    memcpy(p + 1, &v, 4);
    p[5] = 0xc3;
}
static int call(void *p)
{
    int r;
    ASM("call *%1" : "=a"(r) : "r"(p) : "memory", "rcx", "rdx", "rsi", "rdi", "cc");
    return r;
}

__asm__(".text\n.balign 64\n"
        /* changes the instruction right after itself, with a jump between */
        "smc_next: movl $2, smc_next_imm + 1(%rip)\n jmp 1f\n1:\nsmc_next_imm: mov $1, %eax\n ret\n"
        /* a loop that patches its own immediate each round: sum 0..9 */
        "smc_loop: xor %ecx, %ecx\n xor %eax, %eax\n1: mov %ecx, smc_loop_imm + 1(%rip)\n jmp "
        "smc_loop_imm\nsmc_loop_imm: mov $0, %edx\n"
        " add %edx, %eax\n inc %ecx\n cmp $10, %ecx\n jb 1b\n ret\n"
        /* REP MOVSB over code ahead, then into it */
        "smc_rep: lea smc_src(%rip), %rsi\n lea smc_dst(%rip), %rdi\n mov $6, %ecx\n cld\n rep movsb\n jmp smc_dst\n"
        "smc_dst: .byte 0xb8, 1, 0, 0, 0, 0xc3\nsmc_src: .byte 0xb8, 7, 0, 0, 0, 0xc3\n");
extern char smc_next[], smc_loop[], smc_rep[];

void image_main(void)
{
    put_mov(code, 1);
    check_eq("first run", (unsigned)call(code), 1);
    put_mov(code, 2);
    check_eq("after a write", (unsigned)call(code), 2);
    bool ok = true;
    for (int i = 0; i < 1000; i++) {
        put_mov(code, i);
        ok &= call(code) == i;
    }
    check("a thousand rewrites", ok);
    rt_map(3, (unsigned long)code, PTE_P | PTE_W);
    put_mov((uint8_t *)rt_window(3), 5);
    check_eq("written through another mapping", (unsigned)call(code), 5);
    put_mov(code, 6);
    check_eq("run through another mapping", (unsigned)call((void *)rt_window(3)), 6);
    put_mov(rt_pages[1], 77);
    rt_map(3, (unsigned long)rt_pages[1], PTE_P | PTE_W);
    check_eq("another page at the same linear address", (unsigned)call((void *)rt_window(3)), 77);
    check_eq("the old page is unchanged", (unsigned)call(code), 6);
    check_eq("the next instruction", (unsigned)call(smc_next), 2);
    check_eq("a loop that patches itself", (unsigned)call(smc_loop), 45);
    check_eq("REP MOVS over code", (unsigned)call(smc_rep), 7);
    /* code that crosses a page: write the second page only */
    uint8_t *cross = rt_pages[2] - 3;
    put_mov(cross, 0x01020304);
    check_eq("instruction across pages", (unsigned)call(cross), 0x01020304);
    rt_pages[2][1] = 0x55; /* the immediate's byte 3 */
    check_eq("its second page is written", (unsigned)call(cross), 0x55020304);
    rt_map(4, (unsigned long)rt_pages[1], PTE_P | PTE_W);
    rt_map(5, (unsigned long)rt_pages[2], PTE_P | PTE_W);
    check_eq("across pages through a mapping", (unsigned)call((void *)(rt_window(5) - 3)), 0x55020304);
    put_mov(rt_pages[4] - 3, 0x11121314);
    rt_map(5, (unsigned long)rt_pages[4], PTE_P | PTE_W); /* other second half */
    rt_map(4, (unsigned long)rt_pages[3], PTE_P | PTE_W);
    check_eq("both pages remapped", (unsigned)call((void *)(rt_window(5) - 3)), 0x11121314);
    /* writes by CALL's push and by atomic operations count too */
    put_mov(code, 0);
    (void)call(code);
    ASM("lock addl $9, %0" : "+m"(*(uint32_t *)(code + 1)));
    check_eq("locked write", (unsigned)call(code), 9);
    ASM("movnti %1, %0" : "=m"(*(uint32_t *)(code + 1)) : "r"(10));
    ASM("mfence");
    check_eq("non-temporal write", (unsigned)call(code), 10);
    ASM("movd %1, %%xmm0; movd %%xmm0, %0" : "=m"(*(uint32_t *)(code + 1)) : "r"(11));
    check_eq("SSE write", (unsigned)call(code), 11);
    ASM("mov %%rsp, %%rbx; lea 5(%0), %%rsp; pushq %1; mov %%rbx, %%rsp"
        :
        : "r"(code + 3), "r"(0x0000000cb8000000ul)
        : "rbx", "memory");
    /* PUSH wrote code[0..7]: 00 00 00 b8 0c 00 00 00: runs from code + 3 */
    code[8] = 0xc3;
    check_eq("PUSH into code", (unsigned)call(code + 3), 12);
}
