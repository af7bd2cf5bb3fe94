/* SPDX-License-Identifier: MIT
 *
 * test_cpu_int.c: the decoder's rules, blocks and their invalidation, exact stops, and the integer instructions' flags
 * against a reference that works bit by bit. (The wide comparison with the bare processor is in tests/diff.)
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>

#include "src/cpu/code.h"

#define RAM   (64u << 20)
#define CODE  0x100000ull
#define STACK 0x200000ull
#define DATA  0x300000ull
#define PT    0x10000ull    /* PML4 */
#define HOLE  0x3ffff000ull /* not mapped */

struct env {
    struct mem *m;
    struct cpu *c;
    struct model model;
};

static uint8_t *host(struct env *e, uint64_t pa)
{
    return mem_host(e->m, HPA(pa), 1, true);
}
static void put64(struct env *e, uint64_t pa, uint64_t v)
{
    mem_write(e->m, HPA(pa), &v, 8);
}
static uint64_t get64(struct env *e, uint64_t pa)
{
    uint64_t v;
    mem_read(e->m, HPA(pa), &v, 8);
    return v;
}

static void flat(struct cpu *c, unsigned seg, uint32_t ar)
{
    c->seg[seg] = (struct seg){.limit = 0xffffffff, .ar = ar, .sel = (uint16_t)(seg << 3)};
}

/* Ring 0, 64-bit mode, the first 16 MiB mapped one to one by 4-KiB pages. */
static int setup(void **state)
{
    struct env *e = calloc(1, sizeof *e);
    assert_non_null(e);
    assert_true(model_parse(&e->model, "max", NULL, 0));
    e->m = mem_create();
    assert_true(mem_add_ram(e->m, HPA(0), RAM));
    e->c = cpu_create(e->m, &e->model, 0);
    assert_non_null(e->c);
    struct cpu *c = e->c;
    put64(e, PT, (PT + 0x1000) | 3);
    put64(e, PT + 0x1000, (PT + 0x2000) | 3);
    for (unsigned i = 0; i < 8; i++) {
        put64(e, PT + 0x2000 + 8 * i, (PT + 0x3000 + 0x1000 * i) | 3);
        for (unsigned k = 0; k < 512; k++)
            put64(e, PT + 0x3000 + 0x1000 * i + 8 * k, ((uint64_t)i << 21 | (uint64_t)k << 12) | 3);
    }
    c->cr0 = CR0_PE | CR0_PG | CR0_WP | CR0_ET | CR0_NE;
    c->cr4 = CR4_PAE;
    c->efer = EFER_LME | EFER_LMA | EFER_NXE;
    c->cr3 = PT;
    for (unsigned s = 0; s < 6; s++)
        flat(c, s, s == SEG_CS ? 0xa09b : 0xc093);
    c->cpl = 0;
    c->rflags_rest = FLAG_1;
    cpu_update_translation(c);
    c->rip = CODE;
    c->gpr[GPR_RSP] = STACK;
    *state = e;
    return 0;
}
static int teardown(void **state)
{
    struct env *e = *state;
    cpu_destroy(e->c);
    mem_destroy(e->m);
    free(e);
    return 0;
}

static void load(struct env *e, uint64_t at, const void *code, unsigned len)
{
    mem_write(e->m, HPA(at), code, len);
    e->c->rip = at;
}
#define LOAD(e, at, ...)                                                                                               \
    do {                                                                                                               \
        static const uint8_t code_[] = {__VA_ARGS__};                                                                  \
        load((e), (at), code_, sizeof code_);                                                                          \
    } while (0)

/* One instruction; the vector that it raised, or -1. */
static int step(struct env *e)
{
    cpu_step(e->c, true);
    if (!e->c->exc.valid)
        return -1;
    e->c->exc.valid = false;
    return e->c->exc.vector;
}

/* --- flags
 * -------------------------------------------------------------------------------------------------------------- */

static uint64_t rnd(uint64_t *s)
{
    *s ^= *s << 13, *s ^= *s >> 7, *s ^= *s << 17;
    switch (*s >> 60 & 3) {
    case 0: return *s;
    case 1: return (*s >> 8 & 3) - 1;
    case 2: return 1ull << (*s & 63);
    default: return (1ull << (*s & 63)) - 1;
    }
}
/* a + b + carry (or a - b - carry) one bit after the other. */
static uint64_t reference(uint64_t a, uint64_t b, bool carry, bool subtract, unsigned width, uint32_t *flags)
{
    uint64_t r = 0;
    bool ci = carry, before = false;
    uint32_t f = 0;
    for (unsigned i = 0; i < width; i++) {
        unsigned x = a >> i & 1, y = b >> i & 1;
        r |= (uint64_t)((x ^ y ^ ci) & 1) << i;
        before = ci;
        ci = subtract ? (!x && (y || ci)) || (y && ci) : (x && y) || (ci && (x || y));
        if (i == 3 && ci)
            f |= FLAG_AF;
    }
    f |= (ci ? FLAG_CF : 0) | (ci != before ? FLAG_OF : 0) | (r ? 0 : FLAG_ZF) | (r >> (width - 1) & 1 ? FLAG_SF : 0);
    unsigned ones = 0;
    for (unsigned i = 0; i < 8; i++)
        ones += r >> i & 1;
    *flags = f | (ones & 1 ? 0 : FLAG_PF);
    return r;
}

static void test_add_sub_flags(void **state)
{
    struct env *e = *state;
    struct cpu *c = e->c;
    uint64_t seed = 0x1234567;
    static const uint8_t opcode[4] = {0x00, 0x10, 0x18, 0x28}; /* ADD ADC SBB SUB r/m8, r8; | 1: wide */
    for (unsigned n = 0; n < 4; n++)
        for (unsigned w = 0; w < 4; w++) {
            uint8_t code[4] = {0x90, 0x90, 0x90, 0xd8}; /* rax, rbx */
            unsigned width = 8u << w;
            code[2] = (uint8_t)(opcode[n] | (w > 0));
            code[1] = w == 3 ? 0x48 : w == 1 ? 0x66 : 0x40;
            load(e, CODE + 64 * (4 * n + w), code, 4);
            uint64_t start = c->rip + 1;
            for (unsigned k = 0; k < 2000; k++) {
                uint64_t a = rnd(&seed), b = rnd(&seed), mask = mask_low(width);
                bool carry = rnd(&seed) & 1;
                uint32_t want;
                c->gpr[GPR_RAX] = a;
                c->gpr[GPR_RBX] = b;
                flags_set_arith(c, carry ? FLAG_CF : 0);
                c->rip = start;
                assert_int_equal(step(e), -1);
                uint64_t r = reference(a & mask, b & mask, carry && (n == 1 || n == 2), n >= 2, width, &want);
                assert_int_equal(c->gpr[GPR_RAX] & mask, r);
                assert_int_equal(c->gpr[GPR_RAX] & ~mask, width == 32 ? 0 : a & ~mask);
                assert_int_equal(flags_arith(c), want);
            }
        }
}

/* Any RFLAGS image goes in and comes out again; INC and DEC keep CF. */
static void test_flags_round_trip(void **state)
{
    struct env *e = *state;
    struct cpu *c = e->c;
    LOAD(e, CODE, 0xfe, 0xc0, 0xfe, 0xc8); /* INC AL; DEC AL */
    for (unsigned i = 0; i < 64; i++) {
        uint32_t f = (i & 1 ? FLAG_CF : 0) | (i & 2 ? FLAG_PF : 0) | (i & 4 ? FLAG_AF : 0) | (i & 8 ? FLAG_ZF : 0) |
                     (i & 16 ? FLAG_SF : 0) | (i & 32 ? FLAG_OF : 0);
        flags_set_arith(c, f);
        assert_int_equal(flags_arith(c), f);
        for (unsigned cc = 0; cc < 16; cc++) {
            bool cf = f & FLAG_CF, zf = f & FLAG_ZF, sf = f & FLAG_SF, of = f & FLAG_OF, pf = f & FLAG_PF;
            bool base[8] = {of, cf, zf, cf || zf, sf, pf, sf != of, zf || sf != of};
            assert_int_equal(flags_cond(c, cc), base[cc >> 1] ^ (cc & 1));
        }
        for (unsigned al = 0; al < 256; al++) {
            uint32_t want;
            c->gpr[GPR_RAX] = al;
            c->rip = CODE;
            flags_set_arith(c, f);
            step(e);
            reference(al, 1, false, false, 8, &want);
            assert_int_equal(flags_arith(c), (want & ~(uint32_t)FLAG_CF) | (f & FLAG_CF));
            c->gpr[GPR_RAX] = al;
            step(e);
            reference(al, 1, false, true, 8, &want);
            assert_int_equal(flags_arith(c), (want & ~(uint32_t)FLAG_CF) | (f & FLAG_CF));
        }
    }
}

/* --- decoding
 * ------------------------------------------------------------------------------------------------------------- */

static void test_undefined(void **state)
{
    struct env *e = *state;
    LOAD(e, CODE, 0xf0, 0x01, 0xd8); /* LOCK with a register destination */
    assert_int_equal(step(e), EXC_UD);
    assert_int_equal(e->c->rip, CODE);
    LOAD(e, CODE, 0xf0, 0x8b, 0x03); /* LOCK MOV */
    assert_int_equal(step(e), EXC_UD);
    LOAD(e, CODE, 0xf0, 0x39, 0x03); /* LOCK CMP */
    assert_int_equal(step(e), EXC_UD);
    LOAD(e, CODE, 0x0f, 0x0b);
    assert_int_equal(step(e), EXC_UD);
    LOAD(e, CODE, 0x37); /* AAA in 64-bit mode */
    assert_int_equal(step(e), EXC_UD);
    LOAD(e, CODE, 0x8d, 0xc0); /* LEA from a register */
    assert_int_equal(step(e), EXC_UD);
    LOAD(e, CODE, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
         0x90); /* 16 bytes */
    assert_int_equal(step(e), EXC_GP);
    LOAD(e, CODE, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90); /* 15 */
    assert_int_equal(step(e), -1);
    assert_int_equal(e->c->rip, CODE + 15);
}

/* Without BMI1 F3 0F BC is BSF: the destination stays when the source is zero. */
static void test_features(void **state)
{
    struct env *e = *state;
    LOAD(e, CODE, 0xf3, 0x0f, 0xbc, 0xc3);
    e->c->gpr[GPR_RAX] = 77;
    e->c->gpr[GPR_RBX] = 0;
    assert_int_equal(step(e), -1);
    assert_int_equal(e->c->gpr[GPR_RAX], 32);
    e->model.has[FEATURE_bmi1] = false;
    decoder_init(&e->c->code->decoder, &e->model);
    code_flush(e->c);
    e->c->rip = CODE;
    e->c->gpr[GPR_RAX] = 77;
    assert_int_equal(step(e), -1);
    assert_int_equal(e->c->gpr[GPR_RAX], 77);
    LOAD(e, CODE, 0xc4, 0xe2, 0x60, 0xf2, 0xc0); /* ANDN */
    assert_int_equal(step(e), EXC_UD);
}

/* --- blocks
 * --------------------------------------------------------------------------------------------------------------- */

/* A loop of four instructions stops exactly where it is told to, however the budget is cut. */
static void test_exact_stop(void **state)
{
    struct env *e = *state;
    struct cpu *c = e->c;
    /* 0: inc rax; 3: add rbx, rax; 6: dec ecx; 8: jmp 0 */
    LOAD(e, CODE, 0x48, 0xff, 0xc0, 0x48, 0x01, 0xc3, 0xff, 0xc9, 0xeb, 0xf6);
    static const uint64_t at[4] = {0, 3, 6, 8};
    uint64_t total = 0;
    for (unsigned n = 0; n < 400; n++) {
        uint64_t part = n < 200 ? n : n * 7;
        assert_int_equal(cpu_run(c, part), STOP_BUDGET);
        total += part;
        assert_int_equal(c->icount, total);
        assert_int_equal(c->rip, CODE + at[total % 4]);
        assert_int_equal(c->gpr[GPR_RAX], (total + 3) / 4);
    }
}

/* A store into the same block is seen by the next instruction. */
static void test_self_modifying(void **state)
{
    struct env *e = *state;
    struct cpu *c = e->c;
    /* 0: mov byte [rip+1], 7 (the immediate of the next); 7: mov al, 1; 9: mov bl, al; 11: jmp 0 */
    LOAD(e, CODE, 0xc6, 0x05, 0x01, 0x00, 0x00, 0x00, 0x07, 0xb0, 0x01, 0x88, 0xc3, 0xeb, 0xf3);
    assert_int_equal(cpu_run(c, 4), STOP_BUDGET);
    assert_int_equal(c->gpr[GPR_RBX], 7);
    /* whole blocks, with the value counted up: 0: inc byte [rip+1]; 6: mov al, 0; 8: movzx ecx, al; 11: add rdx, rcx;
     * 14: jmp 0 */
    LOAD(e, CODE + 0x1000, 0xfe, 0x05, 0x01, 0x00, 0x00, 0x00, 0xb0, 0x00, 0x0f, 0xb6, 0xc8, 0x48, 0x01, 0xca, 0xeb,
         0xf0);
    c->gpr[GPR_RDX] = 0;
    assert_int_equal(cpu_run(c, 5 * 100), STOP_BUDGET);
    assert_int_equal(c->gpr[GPR_RDX], 100 * 101 / 2);
    assert_int_equal(c->rip, CODE + 0x1000);
}

/* A block that another one of the same page branches to is changed again and again. */
static void test_modified_target(void **state)
{
    struct env *e = *state;
    struct cpu *c = e->c;
    /* 0: inc byte [rip+0x22] (the immediate at 0x28); 6: jmp 0x27;  0x27: mov al, 0; 0x29: movzx ecx, al; 0x2c: add
     * rdx, rcx; 0x2f: jmp 0 */
    LOAD(e, CODE, 0xfe, 0x05, 0x22, 0x00, 0x00, 0x00, 0xeb, 0x1f);
    LOAD(e, CODE + 0x27, 0xb0, 0x00, 0x0f, 0xb6, 0xc8, 0x48, 0x01, 0xca, 0xeb, 0xcf);
    c->rip = CODE;
    c->gpr[GPR_RDX] = 0;
    assert_int_equal(cpu_run(c, 6 * 100), STOP_BUDGET);
    assert_int_equal(c->gpr[GPR_RDX], 100 * 101 / 2);
}

/* A page whose code was overwritten stays noted while it may become code again, and is plain data again after enough
 * writes. */
static void test_code_becomes_data(void **state)
{
    struct env *e = *state;
    struct cpu *c = e->c;
    /* The page of CODE + 0x1000: one instruction, jumped to and then written over, from here: 0: jmp [rbx]; the other:
     * jmp back to 2; 2: mov [rbx+1], al; 5: dec ecx; 7: jnz 2; 9: hlt */
    LOAD(e, CODE, 0xff, 0xe3, 0x88, 0x43, 0x01, 0xff, 0xc9, 0x75, 0xf9, 0xf4);
    LOAD(e, CODE + 0x1000, 0xff, 0xe6); /* jmp rsi */
    c->gpr[GPR_RBX] = CODE + 0x1000;
    c->gpr[GPR_RSI] = CODE + 2;
    c->gpr[GPR_RCX] = 1000;
    assert_int_equal(cpu_run(c, 2 + 3), STOP_BUDGET);
    assert_true(mem_code_noted(c->mem, HPA(CODE + 0x1000)) > 0);
    uint64_t killed = c->code->killed;
    assert_int_equal(killed, 1);
    assert_int_equal(cpu_run(c, 3 * 500), STOP_BUDGET);
    assert_int_equal(c->code->killed, killed);
    assert_int_equal(mem_code_noted(c->mem, HPA(CODE + 0x1000)), 0);
}

/* A comparison and the branch behind it run as one operation: same flags, same way as one by one. */
static void test_compare_and_branch(void **state)
{
    struct env *e = *state;
    struct cpu *c = e->c;
    static const uint8_t first[][5] = {
        /* length, bytes: with rax and rbx */
        {2, 0x38, 0xd8},             /* cmp al, bl */
        {3, 0x66, 0x39, 0xd8},       /* cmp ax, bx */
        {2, 0x39, 0xd8},             /* cmp eax, ebx */
        {3, 0x48, 0x39, 0xd8},       /* cmp rax, rbx */
        {2, 0x3c, 0xff},             /* cmp al, -1 */
        {4, 0x66, 0x83, 0xf8, 0x01}, /* cmp ax, 1 */
        {3, 0x83, 0xf8, 0xff},       /* cmp eax, -1 */
        {4, 0x48, 0x83, 0xf8, 0x01}, /* cmp rax, 1 */
        {2, 0x84, 0xd8},             /* test al, bl */
        {3, 0x66, 0x85, 0xd8},       /* test ax, bx */
        {2, 0x85, 0xd8},             /* test eax, ebx */
        {3, 0x48, 0x85, 0xd8},       /* test rax, rbx */
        {2, 0xa8, 0x80},             /* test al, 0x80 */
        {2, 0xff, 0xc8},             /* dec eax */
        {3, 0x48, 0xff, 0xc8},       /* dec rax */
        {3, 0x83, 0xe8, 0x01},       /* sub eax, 1 */
        {4, 0x48, 0x83, 0xe8, 0x80}, /* sub rax, -128 */
        {3, 0x83, 0xc0, 0x7f},       /* add eax, 127 */
        {4, 0x48, 0x83, 0xc0, 0x01}, /* add rax, 1 */
        {3, 0x83, 0xe0, 0x0f},       /* and eax, 15 */
    };
    uint64_t seed = 99, at = CODE;
    for (unsigned f = 0; f < ARRAY_LEN(first); f++)
        for (unsigned cc = 0; cc < 16; cc++, at += 32) {
            uint8_t code[16] = {0};
            unsigned n = first[f][0];
            memcpy(code, first[f] + 1, n);
            memcpy(code + n, (const uint8_t[]){(uint8_t)(0x70 | cc), 2, 0xeb, 0xfe, 0xeb, 0xfe}, 6);
            load(e, at, code, sizeof code);
            for (unsigned k = 0; k < 40; k++) {
                uint64_t a = rnd(&seed), b = rnd(&seed) & 1 ? a : rnd(&seed);
                uint32_t flags_in = (uint32_t)rnd(&seed) & FLAG_ARITH;
                c->gpr[GPR_RAX] = a, c->gpr[GPR_RBX] = b, c->rip = at;
                flags_set_arith(c, flags_in);
                step(e);
                step(e);
                uint64_t rip = c->rip, rax = c->gpr[GPR_RAX];
                uint32_t flags = flags_arith(c);
                c->gpr[GPR_RAX] = a, c->gpr[GPR_RBX] = b, c->rip = at;
                flags_set_arith(c, flags_in);
                cpu_run(c, 100);
                assert_int_equal(c->rip, rip);
                assert_int_equal(c->gpr[GPR_RAX], rax);
                assert_int_equal(flags_arith(c), flags);
            }
        }
}

/* Code that something else than the processor changed: a device's write, or memory behind its back with a bump of the
 * epoch. */
static void test_foreign_write(void **state)
{
    struct env *e = *state;
    struct cpu *c = e->c;
    LOAD(e, CODE, 0xb0, 0x01, 0xeb, 0xfc); /* 0: mov al, 1; 2: jmp 0 */
    cpu_run(c, 1000);
    assert_int_equal(c->gpr[GPR_RAX] & 0xff, 1);
    mem_write(e->m, HPA(CODE + 1), &(uint8_t){2}, 1);
    cpu_run(c, 1000);
    assert_int_equal(c->gpr[GPR_RAX] & 0xff, 2);
    host(e, CODE)[1] = 3;
    mem_code_bump(e->m);
    cpu_run(c, 1000);
    assert_int_equal(c->gpr[GPR_RAX] & 0xff, 3);
}

/* Two processors: code that one runs is changed by the other, which could write to that page directly before. */
static void test_cross_modifying(void **state)
{
    struct env *e = *state;
    struct cpu *a = e->c, *b = cpu_create(e->m, &e->model, 1);
    assert_non_null(b);
    b->cr0 = a->cr0, b->cr4 = a->cr4, b->efer = a->efer, b->cr3 = a->cr3, b->cpl = 0;
    memcpy(b->seg, a->seg, sizeof b->seg);
    b->activity = ACTIVITY_ACTIVE;
    cpu_update_translation(b);
    LOAD(e, CODE, 0xb0, 0x01, 0xeb, 0xfc);          /* A: mov al, 1; jmp */
    LOAD(e, CODE + 0x1000, 0x88, 0x1e, 0xeb, 0xfc); /* B: mov [rsi], bl; jmp */
    b->gpr[GPR_RSI] = CODE + 0x80;
    b->rip = CODE + 0x1000;
    cpu_run(b, 1000); /* B's translation of A's page is writable */
    for (unsigned v = 2; v < 10; v++) {
        a->rip = CODE;
        cpu_run(a, 1000);
        assert_int_equal(a->gpr[GPR_RAX] & 0xff, v - 1);
        b->gpr[GPR_RSI] = CODE + 1;
        b->gpr[GPR_RBX] = v;
        cpu_run(b, 1000);
    }
    cpu_destroy(b);
}

static void *run_thread(void *c)
{
    cpu_run(c, 3 * 20000 + 10);
    return NULL;
}
/* Two processors on two threads count in one place by LOCK INC: beside the code that they run, where writes take the
 * long way, and in a page of data. */
static void test_locked(void **state)
{
    struct env *e = *state;
    struct cpu *c[2] = {e->c, cpu_create(e->m, &e->model, 1)};
    assert_non_null(c[1]);
    LOAD(e, CODE, 0xf0, 0x48, 0xff, 0x06, 0x48, 0xff, 0xc9, 0x75, 0xf7, 0xeb,
         0xfe); /* lock inc qword [rsi]; dec rcx; jne; jmp $ */
    c[1]->cr0 = c[0]->cr0, c[1]->cr4 = c[0]->cr4, c[1]->efer = c[0]->efer, c[1]->cr3 = c[0]->cr3, c[1]->cpl = 0;
    memcpy(c[1]->seg, c[0]->seg, sizeof c[1]->seg);
    c[1]->activity = ACTIVITY_ACTIVE;
    cpu_update_translation(c[1]);
    for (unsigned k = 0; k < 2; k++) {
        uint64_t counter = k ? DATA : CODE + 0x800;
        pthread_t t[2];
        put64(e, counter, 0);
        for (unsigned i = 0; i < 2; i++) {
            c[i]->rip = CODE;
            c[i]->gpr[GPR_RSI] = counter;
            c[i]->gpr[GPR_RCX] = 20000;
            assert_int_equal(pthread_create(&t[i], NULL, run_thread, c[i]), 0);
        }
        for (unsigned i = 0; i < 2; i++)
            pthread_join(t[i], NULL);
        assert_int_equal(get64(e, counter), 40000);
    }
    cpu_destroy(c[1]);
}

/* Data on a page that holds code: writes that hit no block leave the blocks alone. */
static void test_data_beside_code(void **state)
{
    struct env *e = *state;
    struct cpu *c = e->c;
    /* 0: inc dword [rip + 0x3fa] -> 0x400; 6: jmp 0 */
    LOAD(e, CODE, 0xff, 0x05, 0xfa, 0x03, 0x00, 0x00, 0xeb, 0xf8);
    cpu_run(c, 2000);
    assert_int_equal(get64(e, CODE + 0x400), 1000);
    assert_int_equal(c->code->killed, 0);
}

/* An instruction across a page boundary follows the second page's mapping and content, and its fetch faults there. */
static void test_page_crossing(void **state)
{
    struct env *e = *state;
    struct cpu *c = e->c;
    uint64_t at = CODE + 0x1000 - 2;
    LOAD(e, at, 0xb8, 0x11, 0x22, 0x33, 0x44, 0x90); /* mov eax, 0x44332211 */
    assert_int_equal(step(e), -1);
    assert_int_equal(c->gpr[GPR_RAX], 0x44332211);
    assert_int_equal(c->rip, at + 5);
    mem_write(e->m, HPA(CODE + 0x1002), &(uint8_t){0x55}, 1);
    c->rip = at;
    cpu_run(c, 1);
    assert_int_equal(c->gpr[GPR_RAX], 0x55332211);
    /* the next page elsewhere */
    uint64_t pte = PT + 0x3000 + 0x1000 * (CODE >> 21) + 8 * ((CODE >> 12 & 511) + 1);
    mem_write(e->m, HPA(DATA), (const uint8_t[]){0xaa, 0xbb, 0xcc, 0x90}, 4);
    put64(e, pte, DATA | 3);
    cpu_invlpg(c, LA(CODE + 0x1000));
    c->rip = at;
    cpu_run(c, 1);
    assert_int_equal(c->gpr[GPR_RAX], 0xccbbaa11);
    put64(e, pte, 0);
    cpu_invlpg(c, LA(CODE + 0x1000));
    c->rip = at;
    cpu_step(c, true);
    assert_true(c->exc.valid);
    assert_int_equal(c->exc.vector, EXC_PF);
    assert_int_equal(c->exc.payload, CODE + 0x1000);
    assert_int_equal(c->rip, at);
    c->exc.valid = false;
    put64(e, pte, (CODE + 0x1000) | 3);
}

/* A fault in the middle of a block: the instructions before it are retired, the faulting one has done nothing. */
static void test_fault_in_block(void **state)
{
    struct env *e = *state;
    struct cpu *c = e->c;
    /* 0: inc rax; 3: add [rbx], rax; 6: inc rax; 9: jmp -> */
    LOAD(e, CODE, 0x48, 0xff, 0xc0, 0x48, 0x01, 0x03, 0x48, 0xff, 0xc0, 0xeb, 0xf5);
    c->gpr[GPR_RBX] = HOLE;
    c->native_host = true; /* the exception stays in c->exc */
    assert_int_equal(cpu_run(c, 1000), STOP_FAULT);
    assert_true(c->exc.valid);
    assert_int_equal(c->exc.vector, EXC_PF);
    assert_int_equal(c->exc.payload, HOLE);
    assert_int_equal(c->exc.error, 2);
    assert_int_equal(c->rip, CODE + 3);
    assert_int_equal(c->gpr[GPR_RAX], 1);
    c->exc.valid = false;
}

/* REP MOVSB that runs into an unmapped page stops there with its registers up to date, and goes on when the page is
 * there. */
static void test_rep_restart(void **state)
{
    struct env *e = *state;
    struct cpu *c = e->c;
    LOAD(e, CODE, 0xf3, 0xa4);
    uint64_t pte = PT + 0x3000 + 0x1000 * (DATA >> 21) + 8 * ((DATA >> 12 & 511) + 1);
    for (unsigned i = 0; i < 64; i++)
        host(e, DATA + 0x4000)[i] = (uint8_t)(i + 1);
    put64(e, pte, 0);
    cpu_invlpg(c, LA(DATA + 0x1000));
    c->gpr[GPR_RSI] = DATA + 0x4000;
    c->gpr[GPR_RDI] = DATA + 0x1000 - 10;
    c->gpr[GPR_RCX] = 64;
    cpu_step(c, true);
    assert_true(c->exc.valid);
    assert_int_equal(c->exc.vector, EXC_PF);
    assert_int_equal(c->exc.payload, DATA + 0x1000);
    assert_int_equal(c->gpr[GPR_RCX], 54);
    assert_int_equal(c->gpr[GPR_RDI], DATA + 0x1000);
    assert_int_equal(c->rip, CODE);
    c->exc.valid = false;
    put64(e, pte, (DATA + 0x1000) | 3);
    cpu_run(c, 1);
    assert_int_equal(c->gpr[GPR_RCX], 0);
    assert_int_equal(c->rip, CODE + 2);
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(host(e, DATA + 0x1000 - 10)[i], i + 1);
}

/* Overlapping MOVSB replicates; MOVSQ with DF runs down. */
static void test_rep_overlap(void **state)
{
    struct env *e = *state;
    struct cpu *c = e->c;
    LOAD(e, CODE, 0xf3, 0xa4);
    memset(host(e, DATA), 0, 64);
    host(e, DATA)[0] = 1, host(e, DATA)[1] = 2, host(e, DATA)[2] = 3;
    c->gpr[GPR_RSI] = DATA;
    c->gpr[GPR_RDI] = DATA + 3;
    c->gpr[GPR_RCX] = 30;
    cpu_run(c, 1);
    for (unsigned i = 0; i < 33; i++)
        assert_int_equal(host(e, DATA)[i], i % 3 + 1);
    assert_int_equal(host(e, DATA)[33], 0);
    LOAD(e, CODE + 16, 0xfd, 0xf3, 0x48, 0xab); /* STD; REP STOSQ */
    c->gpr[GPR_RDI] = DATA + 56;
    c->gpr[GPR_RCX] = 8;
    c->gpr[GPR_RAX] = 0x1122334455667788;
    cpu_run(c, 2);
    assert_int_equal(c->gpr[GPR_RDI], DATA - 8);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(get64(e, DATA + 8 * i), 0x1122334455667788);
    c->rflags_rest &= ~(uint32_t)FLAG_DF;
}

/* PUSH and POP of RSP, of memory by RSP, and a push that faults. */
static void test_stack(void **state)
{
    struct env *e = *state;
    struct cpu *c = e->c;
    LOAD(e, CODE, 0x54, 0x5c, 0x68, 0xff, 0xff, 0xff, 0xff, 0x8f, 0x04,
         0x24); /* push rsp; pop rsp; push -1; pop [rsp] */
    cpu_run(c, 1);
    assert_int_equal(c->gpr[GPR_RSP], STACK - 8);
    assert_int_equal(get64(e, STACK - 8), STACK);
    cpu_run(c, 1);
    assert_int_equal(c->gpr[GPR_RSP], STACK);
    put64(e, STACK, 5);
    cpu_run(c, 2);
    assert_int_equal(get64(e, STACK), ~0ull); /* the address is that after the increment */
    assert_int_equal(c->gpr[GPR_RSP], STACK);
    c->rip = CODE;
    c->gpr[GPR_RSP] = HOLE + 8;
    assert_int_equal(step(e), EXC_PF);
    assert_int_equal(c->gpr[GPR_RSP], HOLE + 8);
    c->rip = CODE;
    c->gpr[GPR_RSP] = 0x8000000000000000;
    assert_int_equal(step(e), EXC_SS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_add_sub_flags, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flags_round_trip, setup, teardown),
        cmocka_unit_test_setup_teardown(test_undefined, setup, teardown),
        cmocka_unit_test_setup_teardown(test_features, setup, teardown),
        cmocka_unit_test_setup_teardown(test_exact_stop, setup, teardown),
        cmocka_unit_test_setup_teardown(test_self_modifying, setup, teardown),
        cmocka_unit_test_setup_teardown(test_code_becomes_data, setup, teardown),
        cmocka_unit_test_setup_teardown(test_modified_target, setup, teardown),
        cmocka_unit_test_setup_teardown(test_compare_and_branch, setup, teardown),
        cmocka_unit_test_setup_teardown(test_foreign_write, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cross_modifying, setup, teardown),
        cmocka_unit_test_setup_teardown(test_locked, setup, teardown),
        cmocka_unit_test_setup_teardown(test_data_beside_code, setup, teardown),
        cmocka_unit_test_setup_teardown(test_page_crossing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fault_in_block, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rep_restart, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rep_overlap, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stack, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
