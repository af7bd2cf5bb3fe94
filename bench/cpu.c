/* SPDX-License-Identifier: MIT
 *
 * cpu.c: instructions a second of small loops in 64-bit mode on the software processor. Prints "name value unit" lines;
 * -DN takes the counts.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "src/cpu/code.h"

#define PT    0x10000ull
#define BEGIN 0x100000ull
#define COUNT 100000000ull

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void measure(struct cpu *c, const char *name, const uint8_t *code, unsigned len)
{
    double best = 1e9;
    mem_write(c->mem, HPA(BEGIN), code, len);
    c->rip = BEGIN;
    c->gpr[GPR_RSP] = 0x200000;
    c->gpr[GPR_RBX] = 0x300000;
    c->gpr[GPR_RSI] = 0x300100;
    c->gpr[GPR_RCX] = 0;
    cpu_run(c, 10000);
    for (unsigned i = 0; i < 3; i++) {
        uint64_t from = c->icount;
        double t = now();
        if (cpu_run(c, COUNT) != STOP_BUDGET) {
            printf("cpu_%s failed stop\n", name);
            return;
        }
        t = (now() - t) / (double)(c->icount - from);
        best = t < best ? t : best;
    }
    printf("cpu_%s %.1f M/s\n", name, 1e-6 / best);
}
#define MEASURE(name, ...) measure(c, name, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

int main(void)
{
    struct model model;
    struct mem *m = mem_create();
    struct cpu *c = NULL;
    if (!m || !model_parse(&model, "max", NULL, 0) || !mem_add_ram(m, HPA(0), 64 << 20) ||
        !(c = cpu_create(m, &model, 0)))
        return 2;
    uint64_t e = (PT + 0x1000) | 3;
    mem_write(m, HPA(PT), &e, 8);
    e = (PT + 0x2000) | 3;
    mem_write(m, HPA(PT + 0x1000), &e, 8);
    for (unsigned i = 0; i < 32; i++) {
        e = (uint64_t)i << 21 | 0x83;
        mem_write(m, HPA(PT + 0x2000 + 8 * i), &e, 8);
    }
    c->cr0 = CR0_PE | CR0_PG | CR0_WP;
    c->cr4 = CR4_PAE;
    c->efer = EFER_LME | EFER_LMA | EFER_NXE;
    c->cr3 = PT;
    for (unsigned s = 0; s < 6; s++)
        c->seg[s] = (struct seg){.limit = ~0u, .ar = s == SEG_CS ? 0xa09b : 0xc093, .sel = (uint16_t)(s << 3)};
    c->cpl = 0;
    c->rflags_rest = 2;
    cpu_update_translation(c);

    /* add rax, rbx; add rbx, 7; xor rdx, rax; mov rsi, rdx; sub rsi, rbx; inc rcx; lea rdi, [rsi+rcx+16]; and rax, rdi;
     * jmp */
    MEASURE("alu", 0x48, 0x01, 0xd8, 0x48, 0x83, 0xc3, 0x07, 0x48, 0x31, 0xc2, 0x48, 0x89, 0xd6, 0x48, 0x29, 0xde, 0x48,
            0xff, 0xc1, 0x48, 0x8d, 0x7c, 0x0e, 0x10, 0x48, 0x21, 0xf8, 0xeb, 0xe1);
    /* mov rax, [rbx]; add rax, [rbx+8]; mov [rsi], rax; inc qword [rsi+8]; mov edx, [rbx+rcx*4]; and ecx, 15; inc ecx;
     * jmp */
    MEASURE("memory", 0x48, 0x8b, 0x03, 0x48, 0x03, 0x43, 0x08, 0x48, 0x89, 0x06, 0x48, 0xff, 0x46, 0x08, 0x8b, 0x14,
            0x8b, 0x83, 0xe1, 0x0f, 0xff, 0xc1, 0xeb, 0xe8);
    /* add rax, rcx; dec rcx; jne; jmp */
    MEASURE("loop3", 0x48, 0x01, 0xc8, 0x48, 0xff, 0xc9, 0x75, 0xf8, 0xeb, 0xf6);
    /* mov rdx, [rbx]; add rax, rdx; inc rcx; cmp rcx, rdi; jne; jmp */
    MEASURE("loop5", 0x48, 0x8b, 0x13, 0x48, 0x01, 0xd0, 0x48, 0xff, 0xc1, 0x48, 0x39, 0xf9, 0x75, 0xf2, 0xeb, 0xf0);
    /* call 1f; inc rcx; jmp; 1: push rbx; mov rbx, rsp; pop rbx; ret */
    MEASURE("call", 0xe8, 0x05, 0, 0, 0, 0x48, 0xff, 0xc1, 0xeb, 0xf6, 0x53, 0x48, 0x89, 0xe3, 0x5b, 0xc3);
    /* imul rax, rax, 214013; add rax, 2531011; bt rax, 17; jc 1f; inc rcx; 1: jmp */
    MEASURE("branchy", 0x48, 0x69, 0xc0, 0xfd, 0x43, 0x03, 0x00, 0x48, 0x05, 0xc3, 0x9e, 0x26, 0x00, 0x48, 0x0f, 0xba,
            0xe0, 0x11, 0x72, 0x03, 0x48, 0xff, 0xc1, 0xeb, 0xe7);
    cpu_destroy(c);
    mem_destroy(m);
    return 0;
}
