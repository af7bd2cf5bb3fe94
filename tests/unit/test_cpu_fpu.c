/* SPDX-License-Identifier: MIT
 *
 * test_cpu_fpu.c: x87, MMX and SSE instructions against the bare processor.
 *
 * Every encoding of the escape opcodes D8-DF and of the maps 0F, 0F 38 and 0F 3A that the decoder gives to a vector or
 * x87 instruction is executed natively and by its handler from the same state: register forms and a memory operand at
 * [rbx]. What is compared: the FXSAVE image, RAX, the arithmetic flags, 128 bytes of memory, and whether #XM came.
 *
 * VMENTER_FPU_CASES=N runs N cases of each encoding; VMENTER_FPU_ONLY=hex tells one encoding's bytes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "src/cpu/decode.h"
#include "src/cpu/fpu.h"

#if defined(__x86_64__)

struct state {
    uint8_t fx[512] __attribute__((aligned(4096))); /* a state lies in one page: it has no slow path to memory */
    uint64_t rax, rcx, rflags;
    uint8_t vector; /* 0: none */
    uint8_t mem[1024] __attribute__((aligned(64)));
};

/* --- random states
 * ------------------------------------------------------------------------------------------------------------- */
static uint64_t rnd_state = 0x9e3779b97f4a7c15;
static uint64_t rnd(void)
{
    rnd_state ^= rnd_state << 13;
    rnd_state ^= rnd_state >> 7;
    rnd_state ^= rnd_state << 17;
    return rnd_state * 0x2545f4914f6cdd1d;
}
static unsigned pick(unsigned n)
{
    return (unsigned)((rnd() >> 32) * n >> 32);
}
static uint64_t some_f64(void)
{
    static const uint64_t special[] = {0,
                                       1,
                                       0xfffffffffffff,
                                       0x10000000000000,
                                       0x3ff0000000000000,
                                       0x3fefffffffffffff,
                                       0x7fefffffffffffff,
                                       0x7ff0000000000000,
                                       0x7ff0000000000001,
                                       0x7ff8000000000000,
                                       0x7fffffffffffffff,
                                       0x41dfffffffc00000,
                                       0x41e0000000000000,
                                       0x43e0000000000000,
                                       0x3fe0000000000000,
                                       0x36a0000000000000,
                                       0x3810000000000000,
                                       0x380fffffffffffff,
                                       0x47efffffe0000000,
                                       0x4330000000000001,
                                       0x4340000000000000,
                                       0x7ff4000000000000};
    uint64_t v = special[pick(ARRAY_LEN(special))];
    switch (pick(6)) {
    case 0: v = rnd(); break;
    case 1: v = (rnd() & 0x800fffffffffffff) | (uint64_t)(1023 - 4 + pick(70)) << 52; break;
    case 2: v = (rnd() & 0x800fffffffffffff) | (uint64_t)(pick(2) ? pick(60) : 2046 - pick(60)) << 52; break;
    case 3: v = rnd() & 0x800fffffffffffff & (~0ull << pick(52)); break;
    }
    return v ^ (rnd() & 1ull << 63);
}
static uint32_t some_f32(void)
{
    static const uint32_t special[] = {0,          1,          0x7fffff,   0x800000,   0x3f800000, 0x3f7fffff,
                                       0x7f7fffff, 0x7f800000, 0x7f800001, 0x7fc00000, 0x7fffffff, 0x4effffff,
                                       0x4f000000, 0x5f000000, 0x3f000000, 0x4b000001, 0x7fa00000};
    uint32_t v = special[pick(ARRAY_LEN(special))];
    switch (pick(6)) {
    case 0: v = (uint32_t)rnd(); break;
    case 1: v = ((uint32_t)rnd() & 0x807fffff) | (127 - 4 + pick(40)) << 23; break;
    case 2: v = ((uint32_t)rnd() & 0x807fffff) | (pick(2) ? pick(30) : 254 - pick(30)) << 23; break;
    case 3: v = (uint32_t)rnd() & 0x807fffff & (~0u << pick(23)); break;
    }
    return v ^ ((uint32_t)rnd() & 1u << 31);
}
static void some_f80(uint8_t *p)
{
    static const uint16_t exps[] = {0,      1,      0x3fff, 0x3ffe, 0x7fff, 0x7ffe, 0x403e,
                                    0x403d, 0x401e, 0x3fbf, 0x3c01, 0x3f81, 0x407e, 0x43fe};
    uint64_t frac = rnd() | 1ull << 63;
    uint16_t e = (uint16_t)(0x3fff - 70 + pick(140));
    switch (pick(8)) {
    case 0: e = exps[pick(ARRAY_LEN(exps))]; break;
    case 1:
        e = exps[pick(ARRAY_LEN(exps))];
        frac = 1ull << 63;
        break;
    case 2: e = (uint16_t)(pick(3) ? 0x3fff + pick(20) - 10 : rnd() & 0x7fff); break;
    case 3: frac &= ~0ull << pick(64); break;
    case 4:
        if (pick(4) == 0) {
            e = pick(2) ? 0 : 0x7fff;
            frac = pick(2) ? rnd() : pick(2) ? 0 : 1ull << 63;
        }
        break;
    case 5:
        if (pick(6) == 0) /* unsupported encodings */
            frac = rnd() >> pick(64);
        break;
    case 6: /* integers */
        e = (uint16_t)(0x3fff + pick(66));
        frac = (rnd() | 1ull << 63) & (~0ull << pick(64));
        break;
    }
    memcpy(p, &frac, 8);
    e |= rnd() & 0x8000;
    memcpy(p + 8, &e, 2);
    memset(p + 10, 0, 6);
}
static void some_vector(uint8_t *p)
{
    uint64_t q[2];
    switch (pick(4)) {
    case 0: q[0] = rnd(), q[1] = rnd(); break;
    case 1: q[0] = some_f64(), q[1] = some_f64(); break;
    case 2: q[0] = some_f32() | (uint64_t)some_f32() << 32, q[1] = some_f32() | (uint64_t)some_f32() << 32; break;
    default:
        for (unsigned i = 0; i < 2; i++) { /* small and saturating integers */
            uint64_t m = rnd() & rnd() & 0x0101010101010101;
            q[i] = (rnd() & 0x0f0f0f0f0f0f0f0f) ^ (m << 7) ^ (rnd() & 1 ? 0x7f7f7f7f7f7f7f7f : 0);
        }
        break;
    }
    memcpy(p, q, 16);
}
static void some_state(struct state *s, bool x87)
{
    memset(s, 0, sizeof *s);
    uint16_t cw = 0x037f, sw, ftw = 0xff;
    if (x87) {
        cw = (uint16_t)(0x7f | (pick(3) ? 3 : pick(4)) << 8 | pick(4) << 10);
        if (pick(3) == 0)
            cw &= (uint16_t) ~(rnd() & 0x3f);
        if (pick(3) == 0)
            ftw = (uint8_t)rnd();
        else if (pick(2))
            ftw = 0x7f;
    } else if (pick(4) == 0) {
        ftw = (uint8_t)rnd();
    }
    sw = (uint16_t)(rnd() & 0x7f7f & ~(~cw & 0x3f));
    if (!pick(2))
        sw &= 0x7f00;
    store16(s->fx, cw);
    store16(s->fx + 2, sw);
    s->fx[4] = (uint8_t)ftw;
    uint32_t mx = 0x1f80 | (rnd() & 0x3f);
    if (pick(2))
        mx |= (uint32_t)rnd() & 0xe040;
    if (pick(3) == 0)
        mx &= ~((uint32_t)rnd() & 0x1f80);
    store32(s->fx + 24, mx);
    store32(s->fx + 28, 0xffff);
    for (unsigned i = 0; i < 8; i++)
        some_f80(s->fx + 32 + 16 * i);
    for (unsigned i = 0; i < 16; i++)
        some_vector(s->fx + 160 + 16 * i);
    s->rax = pick(2) ? rnd() : (uint64_t)(int64_t)(int8_t)rnd();
    s->rcx = rnd();
    s->rflags = 0x202 | (rnd() & 0x8d5);
    for (unsigned i = 0; i < 128; i++)
        s->mem[i] = (uint8_t)rnd();
    switch (pick(5)) {
    case 0: some_f80(s->mem); break;
    case 1:
        for (unsigned i = 0; i < 4; i++)
            store32(s->mem + 4 * i, some_f32());
        break;
    case 2:
        for (unsigned i = 0; i < 2; i++)
            store64(s->mem + 8 * i, some_f64());
        break;
    case 3: store64(s->mem, (uint64_t)(int64_t)(int16_t)rnd()); break;
    case 4:
        for (unsigned i = 0; i < 10; i++)
            s->mem[i] = (uint8_t)(pick(10) | pick(10) << 4);
        s->mem[9] &= 0x80;
        break;
    }
}

/* An XSAVE area in memory, mostly well-formed; RFBM within x87 and SSE. */
static void some_area(struct state *s)
{
    struct state other;
    some_state(&other, true);
    memcpy(s->mem, other.fx, 416);
    for (unsigned i = 416; i < 1024; i++)
        s->mem[i] = (uint8_t)rnd();
    s->rax = rnd() & 3;
    s->rcx = 0;
    memset(s->mem + 512, 0, 64);
    s->mem[512] = (uint8_t)(rnd() & 3);
    if (pick(3) == 0) {
        store64(s->mem + 520, 1ull << 63 | (rnd() & 3));
        s->mem[512] &= s->mem[520];
    }
    switch (pick(10)) {
    case 0: { /* not the components that the host alone has */
        unsigned at = pick(64);
        if ((at & 7) > 2 || at >= 16)
            s->mem[512 + at] |= (uint8_t)(1u << pick(8));
        break;
    }
    case 1: s->mem[24 + pick(4)] = (uint8_t)rnd(); break;
    case 2: store64(s->mem + 520, rnd() & 1ull << 63); break;
    }
}

/* --- the bare processor
 * --------------------------------------------------------------------------------------------------------------- */
static uint8_t *code;
static struct state *native_out;
static unsigned native_len;
static uint8_t host_fx[512] __attribute__((aligned(64)));

static void on_fpe(int sig, siginfo_t *info, void *uc_)
{
    ucontext_t *uc = uc_;
    (void)info;
    native_out->vector = sig == SIGFPE ? EXC_XM : sig == SIGILL ? EXC_UD : EXC_GP;
    struct _libc_fpstate *fp = uc->uc_mcontext.fpregs;
    fp->mxcsr |= 0x1f80;
    store32(native_out->fx + 448, fp->mxcsr); /* software-available bytes; see run_native() */
    uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)(code + native_len);
}

static NOINLINE void run_native(struct state *s, const uint8_t *bytes, unsigned len)
{
    uint32_t masks = load32(s->fx + 24) & 0x1f80;
    memcpy(code, bytes, len);
    code[len] = 0xc3;
    native_len = len;
    native_out = s;
    s->vector = 0;
    __asm__ volatile("fxsave64 %[host]\n\t"
                     "fxrstor64 (%[s])\n\t"
                     "sub $256, %%rsp\n\t"
                     "push %%rbx\n\tpush %%rbp\n\tpush %[s]\n\t"
                     "mov %[s], %%rbp\n\t"
                     "lea %c[mem](%%rbp), %%rbx\n\t"
                     "mov %c[rax](%%rbp), %%rax\n\t"
                     "mov %c[rcx](%%rbp), %%rcx\n\t"
                     "mov %%rcx, %%rdx\n\t"
                     "push %c[fl](%%rbp)\n\tpopfq\n\t"
                     "call *%%rsi\n\t"
                     "pushfq\n\tpop %c[fl](%%rbp)\n\t"
                     "mov %%rax, %c[rax](%%rbp)\n\t"
                     "mov %%rcx, %c[rcx](%%rbp)\n\t"
                     "fxsave64 (%%rbp)\n\t"
                     "pop %[s]\n\tpop %%rbp\n\tpop %%rbx\n\t"
                     "add $256, %%rsp\n\t"
                     "fnclex\n\tfxrstor64 %[host]\n\tcld"
                     :
                     : [s] "d"(s), [code] "S"(code), [host] "m"(host_fx), [mem] "i"(offsetof(struct state, mem)),
                       [rax] "i"(offsetof(struct state, rax)), [rcx] "i"(offsetof(struct state, rcx)),
                       [fl] "i"(offsetof(struct state, rflags))
                     : "rax", "rcx", "rdi", "r8", "memory", "cc");
    if (s->vector) /* the handler had masked everything */
        store32(s->fx + 24, (load32(s->fx + 24) & ~0x1f80u) | masks);
}

/* --- ours
 * ----------------------------------------------------------------------------------------------------------------------------------
 */

static struct cpu *cpu;
static struct decoder decoder;
static const struct model *model;

static void stop(struct cpu *c, const struct op *o)
{
    (void)o;
    c->icount = 1;
}
static void run_ours(struct state *s, const struct op *op)
{
    struct cpu *c = cpu;
    static struct tlb_entry tlb[TLB_ENTRIES];
    struct op ops[3] = {*op, {.fn = stop, .n = 1}, {.fn = stop, .n = 2}};
    uint64_t la = (uint64_t)(uintptr_t)s->mem;
    for (unsigned i = 0; i < 2; i++) {
        uint64_t page = (la & PAGE_BASE) + i * PAGE_SIZE;
        tlb[tlb_slot(page)] = (struct tlb_entry){.tag = {page, page, page}};
    }
    c->tlb = tlb;
    c->mode = MODE_64;
    c->ip_mask = ~0ull;
    c->cr0 = CR0_PE | CR0_PG | CR0_NE | CR0_MP;
    c->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    c->xcr0 = XSTATE_X87 | XSTATE_SSE;
    c->icount = 0;
    c->cur = NULL;
    c->exc.valid = false;
    c->gpr[GPR_RBX] = la;
    c->gpr[GPR_RAX] = s->rax;
    c->gpr[GPR_RCX] = c->gpr[GPR_RDX] = s->rcx;
    c->gpr[GPR_BLOCK] = (uint64_t)(uintptr_t)code;
    flags_set_arith(c, s->rflags);
    fpu_x87_from_image(c, s->fx, true);
    c->mxcsr = load32(s->fx + 24);
    for (unsigned i = 0; i < 16; i++)
        memcpy(&c->v[i], s->fx + 160 + 16 * i, 16);

    cpu_fpu_enter(c);
    ops[0].fn(c, ops);
    cpu_fpu_leave(c);

    s->vector = c->exc.valid ? c->exc.vector : 0;
    fpu_x87_to_image(c, s->fx, true);
    store32(s->fx + 24, c->mxcsr);
    for (unsigned i = 0; i < 16; i++)
        memcpy(s->fx + 160 + 16 * i, &c->v[i], 16);
    s->rax = c->gpr[GPR_RAX];
    s->rcx = c->gpr[GPR_RCX];
    s->rflags = (s->rflags & ~(uint64_t)FLAG_ARITH) | flags_arith(c);
}

/* --- comparison
 * ------------------------------------------------------------------------------------------------------------------------------
 */
static unsigned cases = 12, failures, shown, limit = 40, encodings;
static bool fptrs = false;

/* One line a differing part: before, native, ours. */
static void show(const char *what, unsigned n, const uint8_t *in, const uint8_t *native, const uint8_t *ours,
                 bool always)
{
    const uint8_t *three[] = {in, native, ours};
    if (!always && !memcmp(native, ours, n))
        return;
    printf("  %s%-5s", memcmp(native, ours, n) ? "* " : "  ", what);
    for (unsigned k = 0; k < 3; k++) {
        printf(k == 0 ? "  in " : k == 1 ? "  native " : "  ours ");
        for (unsigned i = n; i--;)
            printf("%02x", three[k][i]);
    }
    printf("\n");
}
static void dump(const struct state *in, const struct state *native, const struct state *ours, bool x87, bool xsave)
{
    char name[8];
#define SHOW(what, n, field, always)                                                                                   \
    show(what, n, (const uint8_t *)&in->field, (const uint8_t *)&native->field, (const uint8_t *)&ours->field, always)
    SHOW("cw", 2, fx[0], x87);
    SHOW("sw", 2, fx[2], x87);
    SHOW("tw", 1, fx[4], x87);
    SHOW("fop", 2, fx[6], false);
    SHOW("fip", 8, fx[8], false);
    SHOW("fdp", 8, fx[16], false);
    SHOW("mxcsr", 4, fx[24], !x87);
    SHOW("rax", 8, rax, false);
    SHOW("flags", 2, rflags, false);
    SHOW("vec", 1, vector, false);
    for (unsigned i = 0; i < 8; i++) {
        snprintf(name, sizeof name, "st%u", i);
        SHOW(name, 10, fx[32 + 16 * i], x87 && i < 2);
    }
    for (unsigned i = 0; i < 16; i++) {
        snprintf(name, sizeof name, "xmm%u", i);
        SHOW(name, 16, fx[160 + 16 * i], !x87 && i < 2);
    }
    SHOW("mem", 16, mem[0], true);
    for (unsigned i = 16; i < 1024; i += 16) {
        snprintf(name, sizeof name, "m%u", i);
        SHOW(name, 16, mem[i], xsave && (i == 16 || (i >= 512 && i < 576)));
    }
}

/* The transcendental instructions in integers: silicon's results are within an ulp of the correctly rounded ones (SDM
 * volume 1, "Transcendental Instruction Accuracy"), which are ours. How many are to be equal, in percent; 0: another
 * instruction. */
static unsigned least_equal(ZydisMnemonic m)
{
#ifdef VMENTER_SOFT_FP
    switch (m) {
    case ZYDIS_MNEMONIC_FSIN:
    case ZYDIS_MNEMONIC_FCOS: return 97;
    case ZYDIS_MNEMONIC_FPATAN:
    case ZYDIS_MNEMONIC_FSINCOS: return 96;
    case ZYDIS_MNEMONIC_FYL2X: return 95;
    case ZYDIS_MNEMONIC_FPTAN:
    case ZYDIS_MNEMONIC_F2XM1: return 94;
    case ZYDIS_MNEMONIC_FYL2XP1: return 92;
    default: break;
    }
#endif
    (void)m;
    return 0;
}
/* Takes over silicon's registers where ours are an ulp away, and then C1, which tells how the last one was rounded.
 * True: something was taken over. */
static bool forgive_an_ulp(const struct state *native, struct state *ours)
{
    bool any = (load16(native->fx + 2) ^ load16(ours->fx + 2)) == X87_C1;
    for (unsigned i = 0; i < 8; i++) {
        const uint8_t *n = native->fx + 32 + 16 * i;
        uint8_t *o = ours->fx + 32 + 16 * i;
        /* Sign, exponent and fraction as one number, whose successor is the next value. */
        unsigned __int128 a = (unsigned __int128)load16(n + 8) << 63 | (load64(n) & ~BIT(63)),
                          b = (unsigned __int128)load16(o + 8) << 63 | (load64(o) & ~BIT(63));
        bool next = a - b == 1 || b - a == 1;
        if (next && ((load64(n) & load64(o)) >> 63 || !(load16(n + 8) & 0x7fff) || !(load16(o + 8) & 0x7fff))) {
            memcpy(o, n, 10);
            any = true;
        }
    }
    if (any) {
        uint16_t sw = load16(ours->fx + 2);
        store16(ours->fx + 2, (uint16_t)((sw & ~X87_C1) | (load16(native->fx + 2) & X87_C1)));
    }
    return any;
}

static void compare_encoding(const uint8_t *bytes, unsigned len)
{
    struct op op[DECODE_OPS_MAX];
    unsigned count, n;
    ZydisDecodedInstruction in;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    uint8_t padded[16] = {0};
    memcpy(padded, bytes, len);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder.z[MODE_64], padded, 15, &in, ops)))
        return;
    if (decode_insn(&decoder, MODE_64, padded, 15, 0, 0, op, &count, &n) == DECODE_MORE || n != len ||
        op[0].fn == op_raise_ud)
        return;
    const char *name = ZydisMnemonicGetString(in.mnemonic);
    switch (in.meta.isa_ext) {
    case ZYDIS_ISA_EXT_XSAVE:
    case ZYDIS_ISA_EXT_XSAVEC:
    case ZYDIS_ISA_EXT_X87:
    case ZYDIS_ISA_EXT_MMX:
    case ZYDIS_ISA_EXT_SSE:
    case ZYDIS_ISA_EXT_SSE2:
    case ZYDIS_ISA_EXT_SSE3:
    case ZYDIS_ISA_EXT_SSSE3:
    case ZYDIS_ISA_EXT_SSE4:
    case ZYDIS_ISA_EXT_AES:
    case ZYDIS_ISA_EXT_PCLMULQDQ:
    case ZYDIS_ISA_EXT_SHA: break;
    default: return;
    }
    switch (in.mnemonic) {
    case ZYDIS_MNEMONIC_PREFETCHNTA:
    case ZYDIS_MNEMONIC_PREFETCHT0:
    case ZYDIS_MNEMONIC_PREFETCHT1:
    case ZYDIS_MNEMONIC_PREFETCHT2:
    case ZYDIS_MNEMONIC_CLFLUSH:
    case ZYDIS_MNEMONIC_MASKMOVQ: /* their operand is at RDI */
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_FXRSTOR: /* 512 bytes */
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXSAVE: return;
    default: break;
    }
    encodings++;
    bool x87 = in.meta.isa_ext == ZYDIS_ISA_EXT_X87;
    bool xsave = in.meta.isa_ext == ZYDIS_ISA_EXT_XSAVE || in.meta.isa_ext == ZYDIS_ISA_EXT_XSAVEC;
    if (xsave && (in.mnemonic == ZYDIS_MNEMONIC_XGETBV || in.mnemonic == ZYDIS_MNEMONIC_XSETBV))
        return;
    static struct state in_state, native, ours;
    unsigned bad = 0, near = 0, share = least_equal(in.mnemonic), n_cases = share ? MAX(cases, 5000u) : cases;
    for (unsigned i = 0; i < n_cases; i++) {
        some_state(&in_state, x87);
        if (in.mnemonic == ZYDIS_MNEMONIC_LDMXCSR)
            store32(in_state.mem, (uint32_t)rnd() & 0xffff);
        if (in.mnemonic == ZYDIS_MNEMONIC_FLDENV || in.mnemonic == ZYDIS_MNEMONIC_FRSTOR)
            memset(in_state.mem, 0, 28);
        if (xsave)
            some_area(&in_state);
        native = in_state;
        ours = in_state;
        run_native(&native, bytes, len);
        run_ours(&ours, op);
        memset(native.fx + 416, 0, 96);
        memset(ours.fx + 416, 0, 96);
        if (load64(ours.fx + 16) == (uint64_t)(uintptr_t)ours.mem)
            store64(ours.fx + 16, (uint64_t)(uintptr_t)native.mem);
        if (!fptrs)
            memcpy(ours.fx + 6, native.fx + 6, 18);
        store64(ours.fx + 28, load32(native.fx + 28) | (uint64_t)load32(ours.fx + 32) << 32);
        near += share && forgive_an_ulp(&native, &ours);
        bool same = !memcmp(native.fx, ours.fx, 416) && native.rax == ours.rax && native.rcx == ours.rcx &&
                    !((native.rflags ^ ours.rflags) & FLAG_ARITH) && native.vector == ours.vector;
        unsigned from = 0;
        if (in.mnemonic == ZYDIS_MNEMONIC_FNSTENV || in.mnemonic == ZYDIS_MNEMONIC_FNSAVE)
            from = 28;
        same = same && !memcmp(native.mem + from, ours.mem + from, (xsave ? 1024 : 128) - from);
        /* Silicon may have loaded registers before it finds MXCSR's reserved bits. */
        if (xsave && native.vector == EXC_GP && ours.vector == EXC_GP)
            same = true;
        if (same)
            continue;
        failures++;
        if (bad++ < 1 && shown < limit) {
            shown++;
            printf("%s:", name);
            for (unsigned k = 0; k < len; k++)
                printf(" %02x", bytes[k]);
            printf(" case %u\n", i);
            dump(&in_state, &native, &ours, x87, xsave);
        }
    }
    if (share) {
        printf("%s: %.2f%% equal, the others within an ulp\n", name, 100.0 * (n_cases - near) / n_cases);
        failures += n_cases - near < n_cases * (uint64_t)share / 100;
    }
    if (bad)
        printf("%s %02x %02x %02x %02x %02x: %u of %u differ\n", name, bytes[0], bytes[1], bytes[2], bytes[3], bytes[4],
               bad, n_cases);
}

static bool host_fdp_excptn_only(void)
{
    uint32_t a = 7, b, c = 0, d;
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return b >> 6 & 1;
}
static void start(void)
{
    const char *n = getenv("VMENTER_FPU_CASES");
    if (n)
        cases = (unsigned)atoi(n);
    limit = getenv("VMENTER_FPU_SHOW") ? 1000 : 20;
    failures = shown = encodings = 0;
    code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(code != MAP_FAILED);
    struct sigaction sa = {.sa_sigaction = on_fpe, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGFPE, &sa, NULL);
    sigaction(SIGILL, &sa, NULL);
    sigaction(SIGSEGV, &sa, NULL);
    model = model_find("max");
    assert_non_null(model);
    decoder_init(&decoder, model);
    /* FIP, FDP and FOP are kept as a recent Intel processor does it. */
    fptrs = model_has(model, FEATURE_fdp_excptn_only) && host_fdp_excptn_only();
    if (!cpu) {
        cpu = aligned_alloc(64, (sizeof *cpu + 63) & ~63ull);
        memset(cpu, 0, sizeof *cpu);
        cpu->model = model;
    }
}
static void finish(void)
{
    printf("%u encodings, %u cases each, %u differ\n", encodings, cases, failures);
    munmap(code, 4096);
    signal(SIGFPE, SIG_DFL);
    signal(SIGILL, SIG_DFL);
    signal(SIGSEGV, SIG_DFL);
    assert_int_equal(failures, 0);
}

static void x87_encodings(void **unused)
{
    (void)unused;
    start();
    for (unsigned esc = 0xd8; esc < 0xe0; esc++) {
        for (unsigned reg = 0; reg < 8; reg++)
            compare_encoding((uint8_t[]){(uint8_t)esc, (uint8_t)(reg << 3 | 3)}, 2);
        for (unsigned m = 0xc0; m < 0x100; m++)
            compare_encoding((uint8_t[]){(uint8_t)esc, (uint8_t)m}, 2);
    }
    finish();
}

static void vector_map(const uint8_t *map, unsigned n, bool imm_always)
{
    static const uint8_t prefix[] = {0, 0x66, 0xf3, 0xf2}, modrm[] = {0x03, 0x0b, 0xc0, 0xc1, 0xca, 0xd1, 0xc8};
    for (unsigned opc = 0; opc < 256; opc++)
        for (unsigned p = 0; p < 4; p++)
            for (unsigned rex = 0; rex < 2; rex++)
                for (unsigned m = 0; m < ARRAY_LEN(modrm) + 16; m++) {
                    uint8_t b[16];
                    unsigned k = 0;
                    if (n == 1 && (opc == 0x38 || opc == 0x3a))
                        continue;
                    if (prefix[p])
                        b[k++] = prefix[p];
                    if (rex)
                        b[k++] = 0x48;
                    memcpy(b + k, map, n);
                    k += n;
                    b[k++] = (uint8_t)opc;
                    /* the group opcodes 71-73, AE and a few more want every ModRM.reg */
                    if (m < ARRAY_LEN(modrm))
                        b[k++] = modrm[m];
                    else if (n == 1 && ((opc >= 0x71 && opc <= 0x73) || opc == 0xae || opc == 0xc7))
                        b[k++] = (uint8_t)((m - ARRAY_LEN(modrm)) << 3 & 0x38) | (m - ARRAY_LEN(modrm) < 8 ? 0xc1 : 3);
                    else
                        continue;
                    ZydisDecodedInstruction in;
                    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
                    memset(b + k, 0, 8);
                    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder.z[MODE_64], b, 15, &in, ops)))
                        continue;
                    if (in.length == k) {
                        compare_encoding(b, k);
                    } else if (in.length == k + 1) {
                        unsigned few = cases, step = imm_always ? 60 : 90;
                        cases = cases / 4 + 1;
                        for (unsigned imm = pick(step); imm < 256; imm += 1 + pick(step)) {
                            b[k] = (uint8_t)imm;
                            compare_encoding(b, k + 1);
                        }
                        cases = few;
                    }
                }
}
static void vector_0f(void **unused)
{
    (void)unused;
    start();
    vector_map((const uint8_t[]){0x0f}, 1, false);
    finish();
}
static void vector_0f38(void **unused)
{
    (void)unused;
    start();
    vector_map((const uint8_t[]){0x0f, 0x38}, 2, false);
    finish();
}
static void vector_0f3a(void **unused)
{
    (void)unused;
    start();
    vector_map((const uint8_t[]){0x0f, 0x3a}, 2, true);
    finish();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(x87_encodings), cmocka_unit_test(vector_0f),
                                       cmocka_unit_test(vector_0f38), cmocka_unit_test(vector_0f3a)};
    setvbuf(stdout, NULL, _IONBF, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#else
int main(void)
{
    return 0;
}
#endif
