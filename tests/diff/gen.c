/* SPDX-License-Identifier: MIT
 *
 * gen.c: draws instructions and states.
 *
 * Instructions come from the opcode maps themselves: every opcode byte of every map, with each mandatory prefix, each
 * value of ModRM.reg where that selects the instruction, register and memory form, REX.W; what the decoder accepts and
 * rules.def does not leave out is a template, grouped into families. So no instruction can be forgotten. A case takes
 * its family's templates in turn and draws the rest: registers, addressing form, further prefixes, immediates, and a
 * state full of boundary values in which the memory operands fall on mapped memory, or on purpose do not.
 *
 * What the decoder rejects is the family "ud": the bare processor says whether it is #UD.
 */
#include "tests/diff/diff.h"

#include <Zydis/Zydis.h>
#include <stdlib.h>
#include <string.h>

/* --- random numbers: xorshift128+, seeded by splitmix64 -------------------------------------------------------------
 */
uint64_t rng_next(struct rng *r)
{
    uint64_t a = r->s[0], b = r->s[1];
    r->s[0] = b;
    a ^= a << 23;
    r->s[1] = a ^ b ^ (a >> 18) ^ (b >> 5);
    return r->s[1] + b;
}

static void rng_seed(struct rng *r, uint64_t seed)
{
    for (int i = 0; i < 2; i++) {
        uint64_t z = (seed += 0x9e3779b97f4a7c15);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
        r->s[i] = z ^ (z >> 31);
    }
    r->s[0] |= 1;
}

static bool one_in(struct rng *r, uint32_t n)
{
    return rng_below(r, n) == 0;
}

static uint64_t interesting(struct rng *r)
{
    static const uint64_t list[] = {0,
                                    1,
                                    2,
                                    3,
                                    7,
                                    8,
                                    15,
                                    16,
                                    31,
                                    32,
                                    63,
                                    64,
                                    0x7f,
                                    0x80,
                                    0xff,
                                    0x100,
                                    0x7fff,
                                    0x8000,
                                    0xffff,
                                    0x10000,
                                    0x7fffffff,
                                    0x80000000,
                                    0xffffffff,
                                    0x100000000,
                                    0x7fffffffffffffff,
                                    0x8000000000000000,
                                    0xffffffffffffffff,
                                    0xfffffffffffffffe,
                                    0xffffffffffffff80,
                                    0xffffffffffff8000,
                                    0xffffffff80000000,
                                    0x5555555555555555,
                                    0xaaaaaaaaaaaaaaaa,
                                    0x0f0f0f0f0f0f0f0f,
                                    0x9999999999999999,
                                    0x0123456789abcdef};
    uint64_t v = rng_next(r);
    switch (v & 7) {
    case 0:
    case 1: return list[(v >> 8) % (sizeof list / sizeof *list)];
    case 2: return list[(v >> 8) % (sizeof list / sizeof *list)] ^ (1ull << ((v >> 3) & 63));
    case 3: return (v >> 8) & 0xff;
    case 4: return 1ull << ((v >> 8) & 63);
    default: return rng_next(r);
    }
}

static uint32_t float32(struct rng *r)
{
    static const uint32_t list[] = {0,          0x80000000, 1,          0x80000001, 0x007fffff, 0x00800000, 0x80800000,
                                    0x3f800000, 0xbf800000, 0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000, 0x7fc00000,
                                    0xffc00000, 0x7f800001, 0xff812345, 0x7fc54321, 0x4f000000, 0xcf000000, 0x4effffff,
                                    0x5f000000, 0xdf000000, 0x3f000000, 0x3fc00000, 0x40200000, 0x4b000000, 0x4b7fffff,
                                    0x33800000, 0x4f800000, 0x3f7fffff, 0x3f800001, 0x34000000, 0x1a000000, 0x20000000};
    uint64_t v = rng_next(r);
    switch (v & 3) {
    case 0: return list[(v >> 8) % (sizeof list / sizeof *list)];
    case 1: return (uint32_t)(v >> 32);
    case 2: return ((uint32_t)(v >> 32) & 0x807fffff) | (uint32_t)(0x70 + ((v >> 8) & 31)) << 23; /* near 1 */
    default: {                                                                                    /* a small integer */
        float f = (float)(int)((v >> 40) & 0xffff) - 32768.0f;
        uint32_t u;
        memcpy(&u, &f, 4);
        return u;
    }
    }
}

static uint64_t float64(struct rng *r)
{
    static const uint64_t list[] = {0,
                                    0x8000000000000000,
                                    1,
                                    0x8000000000000001,
                                    0x000fffffffffffff,
                                    0x0010000000000000,
                                    0x8010000000000000,
                                    0x3ff0000000000000,
                                    0xbff0000000000000,
                                    0x7fefffffffffffff,
                                    0xffefffffffffffff,
                                    0x7ff0000000000000,
                                    0xfff0000000000000,
                                    0x7ff8000000000000,
                                    0xfff8000000000000,
                                    0x7ff0000000000001,
                                    0xfff0123456789abc,
                                    0x7ff8765432100000,
                                    0x41dfffffffc00000,
                                    0x41e0000000000000,
                                    0xc1e0000000000000,
                                    0xc1e0000000200000,
                                    0x43e0000000000000,
                                    0xc3e0000000000000,
                                    0x43dfffffffffffff,
                                    0x3fe0000000000000,
                                    0x3ff8000000000000,
                                    0x4004000000000000,
                                    0x47efffffe0000000,
                                    0x47effffff0000000,
                                    0x380fffffffffffff,
                                    0x36a0000000000000,
                                    0x3810000000000000,
                                    0x3fefffffffffffff,
                                    0x3ff0000000000001,
                                    0x4330000000000000,
                                    0x41f0000000000000};
    uint64_t v = rng_next(r);
    switch (v & 3) {
    case 0: return list[(v >> 8) % (sizeof list / sizeof *list)];
    case 1: return rng_next(r);
    case 2: return (rng_next(r) & 0x800fffffffffffff) | (0x3f0 + ((v >> 8) & 31)) << 52;
    default: {
        double f = (double)(int)((v >> 32) & 0xffffff) - 8388608.0;
        uint64_t u;
        memcpy(&u, &f, 8);
        return u;
    }
    }
}

/* Every class that the x87 knows, the unsupported ones (pseudo-infinity, pseudo-NaN, unnormal) and pseudo-denormals
 * too. */
static void float80(struct rng *r, uint8_t *p)
{
    static const struct {
        uint16_t se;
        uint64_t m;
    } list[] = {{0, 0},
                {0x8000, 0},
                {0, 1},
                {0, 0x7fffffffffffffff},
                {0, 0x8000000000000000},
                {0x8000, 0x8000000000000001},
                {1, 0x8000000000000000},
                {0x3fff, 0x8000000000000000},
                {0xbfff, 0x8000000000000000},
                {0x7ffe, ~0ull},
                {0xfffe, ~0ull},
                {0x7fff, 0x8000000000000000},
                {0xffff, 0x8000000000000000},
                {0x7fff, 0xc000000000000000},
                {0xffff, 0xc000000000000000},
                {0x7fff, 0x8000000000000001},
                {0xffff, 0xa000000000000000},
                {0x7fff, 0xc123456789abcdef},
                {0x7fff, 0},
                {0x7fff, 1},
                {0xffff, 0x4000000000000000},
                {0x3fff, 0x4000000000000000},
                {1, 0},
                {0x4000, 0x1234567812345678},
                {0x403e, 0x8000000000000000},
                {0xc03e, 0x8000000000000000},
                {0x403d, ~0ull},
                {0x401e, 0x8000000000000000},
                {0xc01e, 0x8000000100000000},
                {0x400e, 0x8000000000000000},
                {0xc00e, 0x8001000000000000},
                {0x3ffe, 0x8000000000000000},
                {0x3ffe, ~0ull},
                {0x4000, 0xc90fdaa22168c235},
                {0x3fff, 0xc000000000000000},
                {0x4000, 0xa000000000000000},
                {0x403f, 0x8000000000000000},
                {0x3fbe, 0x8000000000000000},
                {0x3c01, 0x8000000000000000},
                {0x3bcd, 0x8000000000000000},
                {0x3f81, 0x8000000000000000},
                {0x3f6a, 0x8000000000000000},
                {0x43fe, 0xfffffffffffff800},
                {0x407e, 0xffffff0000000000},
                {0x407e, 0xffffff8000000000},
                {0x403a, 0xde0b6b3a763fffff}};
    uint64_t v = rng_next(r), m;
    uint16_t se;
    switch (v & 7) {
    case 0:
    case 1:
    case 2: {
        unsigned k = (unsigned)((v >> 8) % (sizeof list / sizeof *list));
        se = list[k].se, m = list[k].m;
        break;
    }
    case 3: se = (uint16_t)(v >> 16), m = rng_next(r); break;
    case 4: se = (uint16_t)(v >> 16), m = rng_next(r) | 1ull << 63; break;
    case 5:
        se = (uint16_t)(((v >> 16) & 0x8000) | (0x3fff - 40 + ((v >> 8) & 127))), m = rng_next(r) | 1ull << 63;
        break;
    case 6:
        se = (uint16_t)(((v >> 16) & 0x8000) | (0x3fff + ((v >> 8) & 7))),
        m = (rng_next(r) & 0xffff) << 48 | 1ull << 63;
        break;
    default: se = (uint16_t)(((v >> 16) & 0x8000) | (0x3ffe + ((v >> 8) & 1))), m = rng_next(r) | 1ull << 63; break;
    }
    memcpy(p, &m, 8);
    memcpy(p + 8, &se, 2);
}

enum elem { EL_INT, EL_F32, EL_F64, EL_F80, EL_BCD };

static void fill(struct rng *r, uint8_t *p, unsigned len, enum elem e)
{
    uint8_t buf[16];
    for (unsigned i = 0; i < len;) {
        unsigned n;
        uint64_t q;
        uint32_t d;
        switch (e) {
        case EL_F32: d = float32(r), memcpy(buf, &d, n = 4); break;
        case EL_F64: q = float64(r), memcpy(buf, &q, n = 8); break;
        case EL_F80: float80(r, buf), n = 10; break;
        case EL_BCD:
            for (n = 0; n < 9; n++)
                buf[n] = (uint8_t)(rng_below(r, 10) | rng_below(r, 10) << 4);
            buf[n++] = (uint8_t)(rng_below(r, 2) << 7);
            if (one_in(r, 8))
                buf[rng_below(r, 10)] = (uint8_t)rng_next(r);
            break;
        default:
            q = interesting(r);
            switch (rng_below(r, 8)) {
            case 0: q = (q & 0xff) * 0x0101010101010101; break;
            case 1: q = (q & 0xffff) * 0x0001000100010001; break;
            case 2: q = (q & 0xffffffff) * 0x0000000100000001; break;
            }
            memcpy(buf, &q, n = 8);
            break;
        }
        if (n > len - i)
            n = len - i;
        memcpy(p + i, buf, n);
        i += n;
    }
}

/* --- templates
 * -------------------------------------------------------------------------------------------------------- */
enum { FORM_NONE, FORM_REG, FORM_MEM };

struct tmpl {
    uint8_t mode, vex, map, pp, opcode, form, reg, rm, w;
    uint8_t fixed_rm; /* rm selects the instruction: not to be drawn */
    uint8_t fixed_reg;
};

struct family {
    const char *name;
    struct tmpl *t[MODE_COUNT];
    unsigned count[MODE_COUNT], room[MODE_COUNT];
};

struct gen {
    ZydisDecoder dec[MODE_COUNT];
    bool low, segments;
    struct family fam[40];
    unsigned families;
};

struct insn {
    ZydisDecodedInstruction i;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

static bool decode(const struct gen *g, unsigned mode, const uint8_t *b, unsigned len, struct insn *x)
{
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&g->dec[mode], b, len, &x->i, x->op)))
        return false;
    /* Zydis 4.0.0, with a 32-bit address size in 64-bit mode, takes SIB base 101b, mod 00b, REX.B for R13D. */
    if (mode == MODE64 && x->i.raw.sib.offset && x->i.raw.sib.base == 5 && x->i.raw.modrm.mod == 0)
        for (unsigned k = 0; k < x->i.operand_count; k++)
            if (x->op[k].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM && x->op[k].type == ZYDIS_OPERAND_TYPE_MEMORY) {
                x->op[k].mem.base = ZYDIS_REGISTER_NONE;
                x->op[k].mem.disp.value = x->i.raw.disp.value;
            }
    return true;
}

static const char *skip_reason(const struct insn *x)
{
    switch (x->i.mnemonic) {
/* clang-format off */
#define SKIP(m, why) case ZYDIS_MNEMONIC_##m: return why;
#include "tests/diff/rules.def"
        /* clang-format on */
    default: break;
    }
    switch (x->i.meta.isa_set) {
#define CLAIMED(s) case ZYDIS_ISA_SET_##s:
#include "tests/diff/rules.def"
        break;
    default: return "not offered by the software processor yet";
    }
    if (x->i.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
        return "loads a segment of the host's GDT";
    if (x->i.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_FS)
        return "FS is the harness's own thread pointer";
    for (unsigned k = 0; k < x->i.operand_count; k++)
        if (x->op[k].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ZydisRegisterGetClass(x->op[k].reg.value) == ZYDIS_REGCLASS_SEGMENT &&
            x->op[k].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
            return "loads a segment of the host's GDT";
        else if (x->op[k].type == ZYDIS_OPERAND_TYPE_REGISTER &&
                 ZydisRegisterGetClass(x->op[k].reg.value) == ZYDIS_REGCLASS_SEGMENT &&
                 x->op[k].visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN)
            return "the selectors are the host kernel's";
    return NULL;
}

static const char *family_of(const struct insn *x)
{
    if (x->i.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED)
        return "privileged";
    switch (x->i.mnemonic) {
    case ZYDIS_MNEMONIC_MUL:
    case ZYDIS_MNEMONIC_IMUL:
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
    case ZYDIS_MNEMONIC_MULX: return "muldiv";
    case ZYDIS_MNEMONIC_XADD:
    case ZYDIS_MNEMONIC_CMPXCHG:
    case ZYDIS_MNEMONIC_CMPXCHG8B:
    case ZYDIS_MNEMONIC_CMPXCHG16B:
    case ZYDIS_MNEMONIC_XCHG: return "exchange";
    case ZYDIS_MNEMONIC_ENTER:
    case ZYDIS_MNEMONIC_LEAVE: return "stack";
    case ZYDIS_MNEMONIC_BOUND:
    case ZYDIS_MNEMONIC_INT3:
    case ZYDIS_MNEMONIC_INT1:
    case ZYDIS_MNEMONIC_INTO: return "flow";
    case ZYDIS_MNEMONIC_CRC32: return "bits";
    default: break;
    }
    switch (x->i.meta.isa_set) {
    case ZYDIS_ISA_SET_X87:
    case ZYDIS_ISA_SET_FCMOV:
    case ZYDIS_ISA_SET_SSE3X87: return "x87";
    case ZYDIS_ISA_SET_PENTIUMMMX:
    case ZYDIS_ISA_SET_SSE2MMX:
    case ZYDIS_ISA_SET_SSSE3MMX: return x->i.meta.category == ZYDIS_CATEGORY_SYSTEM ? "privileged" : "mmx";
    case ZYDIS_ISA_SET_SSE:
    case ZYDIS_ISA_SET_SSEMXCSR: return "sse";
    case ZYDIS_ISA_SET_SSE2: return "sse2";
    case ZYDIS_ISA_SET_SSE3:
    case ZYDIS_ISA_SET_SSSE3: return "sse3";
    case ZYDIS_ISA_SET_SSE4:
    case ZYDIS_ISA_SET_SSE42: return "sse4";
    case ZYDIS_ISA_SET_AES:
    case ZYDIS_ISA_SET_PCLMULQDQ: return "aes";
    case ZYDIS_ISA_SET_FXSAVE:
    case ZYDIS_ISA_SET_FXSAVE64:
    case ZYDIS_ISA_SET_XSAVE:
    case ZYDIS_ISA_SET_XSAVEC:
    case ZYDIS_ISA_SET_XSAVEOPT: return "xsave";
    case ZYDIS_ISA_SET_BMI1:
    case ZYDIS_ISA_SET_BMI2:
    case ZYDIS_ISA_SET_LZCNT:
    case ZYDIS_ISA_SET_POPCNT: return "bits";
    case ZYDIS_ISA_SET_ADOX_ADCX: return "alu";
    default: break;
    }
    switch (x->i.meta.category) {
    case ZYDIS_CATEGORY_BINARY:
    case ZYDIS_CATEGORY_LOGICAL: return "alu";
    case ZYDIS_CATEGORY_SHIFT:
    case ZYDIS_CATEGORY_ROTATE: return "shift";
    case ZYDIS_CATEGORY_DECIMAL: return "bcd";
    case ZYDIS_CATEGORY_BITBYTE: return "bits";
    case ZYDIS_CATEGORY_STRINGOP: return "string";
    case ZYDIS_CATEGORY_PUSH:
    case ZYDIS_CATEGORY_POP: return "stack";
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_COND_BR:
    case ZYDIS_CATEGORY_UNCOND_BR: return "flow";
    case ZYDIS_CATEGORY_CMOV:
    case ZYDIS_CATEGORY_SETCC: return "cond";
    case ZYDIS_CATEGORY_FLAGOP: return "flags";
    case ZYDIS_CATEGORY_IO:
    case ZYDIS_CATEGORY_IOSTRINGOP:
    case ZYDIS_CATEGORY_SYSTEM:
    case ZYDIS_CATEGORY_INTERRUPT: return "privileged";
    case ZYDIS_CATEGORY_DATAXFER:
    case ZYDIS_CATEGORY_CONVERT: return "move";
    default: return "misc";
    }
}

static struct family *family(struct gen *g, const char *name)
{
    for (unsigned i = 0; i < g->families; i++)
        if (strcmp(g->fam[i].name, name) == 0)
            return &g->fam[i];
    g->fam[g->families].name = name;
    return &g->fam[g->families++];
}

static void add(struct family *f, const struct tmpl *t)
{
    unsigned m = t->mode;
    if (f->count[m] == f->room[m]) {
        f->room[m] = f->room[m] ? f->room[m] * 2 : 64;
        f->t[m] = realloc(f->t[m], f->room[m] * sizeof *f->t[m]);
        if (!f->t[m])
            abort();
    }
    f->t[m][f->count[m]++] = *t;
}

/* The bytes up to ModRM; with `rex` bits R, X, B. */
static unsigned put_opcode(uint8_t *b, const struct tmpl *t, unsigned rex, bool force_rex, unsigned vvvv)
{
    static const uint8_t pp[] = {0, 0x66, 0xf3, 0xf2};
    unsigned n = 0;
    if (t->vex) {
        b[n++] = 0xc4;
        b[n++] = (uint8_t)((~rex & 7) << 5 | t->map);
        b[n++] = (uint8_t)(t->w << 7 | (~vvvv & 15) << 3 | t->pp);
        b[n++] = t->opcode;
        return n;
    }
    if (t->pp)
        b[n++] = pp[t->pp];
    if (t->mode == MODE64 && (rex || t->w || force_rex))
        b[n++] = (uint8_t)(0x40 | t->w << 3 | rex);
    if (t->map)
        b[n++] = 0x0f;
    if (t->map == 2)
        b[n++] = 0x38;
    if (t->map == 3)
        b[n++] = 0x3a;
    b[n++] = t->opcode;
    return n;
}

/* rm selects the instruction where ModRM is an opcode extension with mod 3. */
static bool rm_is_opcode(const struct tmpl *t)
{
    if (t->form != FORM_REG || t->vex)
        return false;
    if (t->map == 0)
        return t->opcode >= 0xd8 && t->opcode <= 0xdf;
    return t->map == 1 && (t->opcode == 0x01 || t->opcode == 0xae);
}

static void enumerate(struct gen *g, struct tmpl t)
{
    uint8_t b[24] = {0};
    struct insn x;
    unsigned n = put_opcode(b, &t, 0, false, 0);
    b[n] = (uint8_t)((t.form == FORM_REG ? 3
                      : t.mode == MODE16 ? 2
                                         : 2)
                         << 6 |
                     t.reg << 3 |
                     (t.form == FORM_REG ? t.rm
                      : t.mode == MODE16 ? 4
                                         : 3));
    if (!decode(g, t.mode, b, sizeof b, &x)) {
        if (!t.vex && t.rm == 0)
            add(family(g, "ud"), &t);
        return;
    }
    if (x.i.length <= n - 1)
        return; /* the opcode was a prefix */
    if (!(x.i.attributes & ZYDIS_ATTRIB_HAS_MODRM)) {
        if (t.reg || t.rm || t.form != FORM_REG)
            return;
        t.form = FORM_NONE;
    }
    if (x.i.raw.prefix_count && t.pp && x.i.raw.prefixes[0].type == ZYDIS_PREFIX_TYPE_IGNORED)
        return;
    if (t.w && !t.vex &&
        x.i.opcode_map <= ZYDIS_OPCODE_MAP_0F3A) { /* REX.W that changes nothing is no template of its own */
        struct insn y;
        struct tmpl u = t;
        uint8_t bb[24] = {0};
        u.w = 0;
        unsigned m = put_opcode(bb, &u, 0, false, 0);
        bb[m] = b[n];
        if (decode(g, t.mode, bb, sizeof bb, &y) && y.i.mnemonic == x.i.mnemonic &&
            y.i.operand_width == x.i.operand_width)
            return;
    }
    if (skip_reason(&x))
        return;
    bool reg_operand = false, rm_operand = false;
    for (unsigned k = 0; k < x.i.operand_count; k++) {
        reg_operand |= x.op[k].encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG;
        rm_operand |= x.op[k].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM;
    }
    if (t.form != FORM_NONE && reg_operand && t.reg)
        return;
    t.fixed_reg = t.form != FORM_NONE && !reg_operand;
    t.fixed_rm = t.form == FORM_REG && rm_is_opcode(&t) && !(rm_operand && t.map);
    if (t.form == FORM_REG && !t.fixed_rm && t.rm)
        return;
    add(family(g, family_of(&x)), &t);
}

struct gen *diff_gen_new(bool low_ok, bool segments)
{
    struct gen *g = calloc(1, sizeof *g);
    if (!g)
        return NULL;
    g->low = low_ok;
    g->segments = segments;
    ZydisDecoderInit(&g->dec[MODE64], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisDecoderInit(&g->dec[MODE32], ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
    ZydisDecoderInit(&g->dec[MODE16], ZYDIS_MACHINE_MODE_LONG_COMPAT_16, ZYDIS_STACK_WIDTH_32);
    static const char *const order[] = {"alu",        "shift", "muldiv",   "bcd",       "bits",   "exchange", "move",
                                        "cond",       "flags", "stack",    "flow",      "string", "misc",     "x87",
                                        "mmx",        "sse",   "sse2",     "sse3",      "sse4",   "aes",      "xsave",
                                        "privileged", "ud",    "sequence", "fpsequence"};
    for (unsigned i = 0; i < sizeof order / sizeof *order; i++)
        family(g, order[i]);
    for (unsigned mode = 0; mode < MODE_COUNT; mode++)
        for (unsigned vex = 0; vex < 2; vex++)
            for (unsigned map = vex; map < 4; map++)
                for (unsigned op = 0; op < 256; op++) {
                    static const uint8_t prefix[] = {0x0f, 0x26, 0x2e, 0x36, 0x3e, 0x64,
                                                     0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3};
                    if (map == 0 &&
                        (memchr(prefix, (int)op, sizeof prefix) || (mode == MODE64 && op >= 0x40 && op <= 0x4f)))
                        continue;
                    if (map == 1 && (op == 0x38 || op == 0x3a))
                        continue;
                    for (unsigned pp = 0; pp < 4; pp++)
                        for (unsigned w = 0; w < (mode == MODE64 || vex ? 2 : 1); w++)
                            for (unsigned form = FORM_REG; form <= FORM_MEM; form++)
                                for (unsigned reg = 0; reg < 8; reg++) {
                                    struct tmpl t = {.mode = (uint8_t)mode,
                                                     .vex = (uint8_t)vex,
                                                     .map = (uint8_t)map,
                                                     .pp = (uint8_t)pp,
                                                     .opcode = (uint8_t)op,
                                                     .form = (uint8_t)form,
                                                     .reg = (uint8_t)reg,
                                                     .w = (uint8_t)w};
                                    unsigned rms = rm_is_opcode(&t) ? 8 : 1;
                                    for (t.rm = 0; t.rm < rms; t.rm++)
                                        enumerate(g, t);
                                }
                }
    return g;
}

void diff_gen_free(struct gen *g)
{
    for (unsigned i = 0; i < g->families; i++)
        for (unsigned m = 0; m < MODE_COUNT; m++)
            free(g->fam[i].t[m]);
    free(g);
}

unsigned diff_families(const struct gen *g)
{
    return g->families;
}
const char *diff_family_name(const struct gen *g, unsigned f)
{
    return g->fam[f].name;
}
unsigned diff_family_templates(const struct gen *g, unsigned f, enum diff_mode mode)
{
    if (strstr(g->fam[f].name, "sequence"))
        return 1;
    return g->fam[f].count[mode];
}

void diff_gen_list(struct gen *g, FILE *f)
{
    for (unsigned i = 0; i < g->families; i++)
        fprintf(f, "family %-12s templates: %5u in 64-bit, %5u in 32-bit, %5u in 16-bit code\n", g->fam[i].name,
                g->fam[i].count[0], g->fam[i].count[1], g->fam[i].count[2]);
#define SKIP(m, why) fprintf(f, "left out: %-12s %s\n", #m, why);
#include "tests/diff/rules.def"
}

/* --- states
 * ------------------------------------------------------------------------------------------------------------- */
static void random_fp(struct rng *r, uint8_t *fx, enum elem e, unsigned mode)
{
    memset(fx, 0, 512);
    uint16_t fcw = 0x0040 | 0x3f;
    static const uint16_t pc[] = {0x300, 0x300, 0x200, 0};
    fcw |= pc[rng_below(r, 4)] | (uint16_t)(one_in(r, 2) ? rng_below(r, 4) << 10 : 0);
    if (one_in(r, 4))
        fcw &= (uint16_t)(rng_next(r) | 0xffc0);
    uint16_t fsw = (uint16_t)(rng_next(r) & 0x7f00);
    if (one_in(r, 4))
        fsw |= (uint16_t)(rng_next(r) & 0x7f);
    if (fsw & ~fcw & 0x3f) {
        if (one_in(r, 4))
            fsw |= 0x8080;
        else
            fsw &= (uint16_t)(fcw | ~0x3fu);
    }
    uint8_t ftw = one_in(r, 2) ? 0xff : one_in(r, 3) ? 0 : (uint8_t)rng_next(r);
    memcpy(fx + FX_FCW, &fcw, 2);
    memcpy(fx + FX_FSW, &fsw, 2);
    fx[FX_FTW] = ftw;
    for (unsigned i = 0; i < 8; i++) {
        if (e == EL_INT) {
            fill(r, fx + FX_ST + 16 * i, 8, EL_INT);
            uint16_t se = one_in(r, 2) ? 0xffff : (uint16_t)rng_next(r);
            memcpy(fx + FX_ST + 16 * i + 8, &se, 2);
        } else {
            float80(r, fx + FX_ST + 16 * i);
        }
    }
    uint32_t mxcsr = 0x1f80 | (uint32_t)(one_in(r, 2) ? rng_below(r, 4) << 13 : 0);
    if (one_in(r, 4))
        mxcsr |= (uint32_t)(rng_next(r) & 0x8040);
    if (one_in(r, 4))
        mxcsr |= (uint32_t)(rng_next(r) & 0x3f);
    if (one_in(r, 4))
        mxcsr &= (uint32_t)(rng_next(r) | ~0x1f80u);
    memcpy(fx + FX_MXCSR, &mxcsr, 4);
    fill(r, fx + FX_XMM, mode == MODE64 ? 256 : 128, e == EL_F80 || e == EL_BCD ? EL_INT : e);
}

static enum elem elem_of(const struct insn *x)
{
    for (unsigned k = 0; k < x->i.operand_count; k++)
        switch (x->op[k].element_type) {
        case ZYDIS_ELEMENT_TYPE_FLOAT32: return EL_F32;
        case ZYDIS_ELEMENT_TYPE_FLOAT64: return EL_F64;
        case ZYDIS_ELEMENT_TYPE_FLOAT80: return EL_F80;
        case ZYDIS_ELEMENT_TYPE_LONGBCD: return EL_BCD;
        default: break;
        }
    return EL_INT;
}

static enum elem elem_of_op(const ZydisDecodedOperand *op)
{
    switch (op->element_type) {
    case ZYDIS_ELEMENT_TYPE_FLOAT32: return EL_F32;
    case ZYDIS_ELEMENT_TYPE_FLOAT64: return EL_F64;
    case ZYDIS_ELEMENT_TYPE_FLOAT80: return EL_F80;
    case ZYDIS_ELEMENT_TYPE_LONGBCD: return EL_BCD;
    default: return EL_INT;
    }
}

const struct diff_segment diff_segments[] = {
#define ROW(sel, base, limit, ar, stack) {sel, base, limit, ar, stack},
    DIFF_SEGMENTS(ROW)
#undef ROW
};

/* The segment of a memory operand outside of 64-bit mode; NULL: CS, FS, GS, or 64-bit mode. */
static const struct diff_segment *segment_of(const struct dcase *c, ZydisRegister seg)
{
    if (c->in.mode == MODE64)
        return NULL;
    switch (seg) {
    case ZYDIS_REGISTER_DS: return &diff_segments[c->in.seg[DIFF_SEG_DS]];
    case ZYDIS_REGISTER_ES: return &diff_segments[c->in.seg[DIFF_SEG_ES]];
    case ZYDIS_REGISTER_SS: return &diff_segments[c->in.seg[DIFF_SEG_SS]];
    default: return NULL;
    }
}

static uint64_t width_mask(unsigned bits)
{
    return bits >= 64 ? ~0ull : (1ull << bits) - 1;
}

static void set_low(uint64_t *reg, unsigned bits, uint64_t v)
{
    *reg = (*reg & ~width_mask(bits)) | (v & width_mask(bits));
}

/* A data address for an operand of `size` bytes; and where it lies in the data pages. */
static uint64_t pick_target(struct rng *r, uint32_t base, unsigned size, unsigned align)
{
    unsigned k = size > 1 ? 1 + rng_below(r, size - 1) : 1;
    uint32_t rw_end = base + (DIFF_DATA_PAGES - 1) * DIFF_PAGE, end = rw_end + DIFF_PAGE;
    switch (rng_below(r, 48)) {
    case 0: return end - k;
    case 1: return base - k;
    case 2: return base + DIFF_PAGE - k;
    case 3: return rw_end - k;
    case 4: return rw_end + rng_below(r, 256);
    case 5: return base - 64 - rng_below(r, 3000);
    default: break;
    }
    uint32_t t = base + 512 + rng_below(r, (DIFF_DATA_PAGES - 1) * DIFF_PAGE - 1024 - size);
    if (!one_in(r, 3))
        t &= ~(align - 1);
    return t;
}

/* Makes operand `op` fall on a data address, by changing its base, its index or its displacement. Returns the address,
 * or 0. */
static uint64_t place(const struct gen *g, struct rng *r, struct dcase *c, struct insn *x,
                      const ZydisDecodedOperand *op, unsigned size)
{
    unsigned aw = x->i.address_width;
    uint64_t *gpr = c->in.gpr, segbase = 0;
    bool stack =
        op->mem.base == ZYDIS_REGISTER_RSP || op->mem.base == ZYDIS_REGISTER_ESP || op->mem.base == ZYDIS_REGISTER_SP;
    if (op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN && stack)
        aw = c->in.mode == MODE64 ? 64 : 32;
    const struct diff_segment *seg = segment_of(c, op->mem.segment);
    if (seg)
        segbase = seg->base;
    if (aw == 16 && !segbase && !g->low)
        return 0;
    if (c->in.mode == MODE64 && op->mem.segment == ZYDIS_REGISTER_GS) {
        if (aw == 16)
            return 0;
        segbase = DIFF_GS_BASE;
    }
    unsigned align = size >= 16 ? 16 : size ? 1u << (31 - __builtin_clz(size)) : 1;
    if (size >= 512)
        align = 64;
    uint64_t target = pick_target(r, aw == 16 && !segbase ? DIFF_LOW : DIFF_DATA, size ? size : 1, align);
    if (seg && segbase && one_in(r, 8)) { /* around the limit */
        target = segbase + seg->limit + 1 - (size ? rng_below(r, 2 * size + 1) : 0);
        if (size >= 512 && !one_in(r, 3))
            target &= ~(uint64_t)(align - 1);
    }
    uint64_t want = target - segbase;
    uint64_t disp = (uint64_t)op->mem.disp.value;
    int b = op->mem.base == ZYDIS_REGISTER_NONE ? -1 : ZydisRegisterGetId(op->mem.base);
    int i = op->mem.index == ZYDIS_REGISTER_NONE ? -1 : ZydisRegisterGetId(op->mem.index);
    unsigned scale = op->mem.scale ? op->mem.scale : 1;
    bool rip = op->mem.base == ZYDIS_REGISTER_RIP || op->mem.base == ZYDIS_REGISTER_EIP;
    if (rip || (b < 0 && i < 0)) {
        if (!x->i.raw.disp.size)
            return 0;
        uint64_t d = rip ? want - (DIFF_CODE + c->code_offset + x->i.length) : want;
        memcpy(c->bytes + x->i.raw.disp.offset, &d, x->i.raw.disp.size / 8);
    } else if (x->i.mnemonic == ZYDIS_MNEMONIC_XLAT) {
        set_low(&gpr[3], aw, want - (gpr[0] & 0xff));
    } else if (b >= 0 && b != i) {
        uint64_t idx = i >= 0 ? gpr[i] * scale : 0;
        set_low(&gpr[b], aw, want - disp - idx);
    } else {
        unsigned f = scale + (b >= 0 ? 1 : 0);
        uint64_t q = (want - disp) & width_mask(aw);
        set_low(&gpr[i], aw, q / f);
        target -= q % f;
    }
    return target;
}

static uint8_t *data_at(uint8_t *data, uint64_t la, unsigned size)
{
    uint64_t off = la - DIFF_DATA;
    if (off + size > DIFF_DATA_PAGES * DIFF_PAGE || off > DIFF_DATA_PAGES * DIFF_PAGE)
        off = la - DIFF_LOW;
    if (off > DIFF_DATA_PAGES * DIFF_PAGE || off + size > DIFF_DATA_PAGES * DIFF_PAGE)
        return NULL;
    return data + off;
}

/* XSAVE and FXSAVE images that the restoring instructions (mostly) accept. */
static void fill_image(struct rng *r, uint8_t *p, unsigned mode)
{
    random_fp(r, p, one_in(r, 2) ? EL_F80 : EL_F32, mode);
    memset(p + 512, 0, 64);
    if (one_in(r, 8))
        memset(p + FX_MXCSR + 2, 0xff, 2);
    p[512] = (uint8_t)rng_below(r, 4);
    if (one_in(r, 16))
        p[512 + 16 + rng_below(r, 48)] = (uint8_t)rng_next(r);
    if (one_in(r, 4)) { /* compacted */
        p[520] = (uint8_t)(p[512] | rng_below(r, 4));
        p[527] = 0x80;
    }
}

static uint64_t code_target(struct rng *r, unsigned mode)
{
    uint64_t t = rng_below(r, DIFF_CODE_PAGES * DIFF_PAGE);
    if (one_in(r, 8))
        return interesting(r);
    return mode == MODE16 ? t : DIFF_CODE + t;
}

static bool is_rep(const struct insn *x)
{
    return x->i.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE);
}

/* Values that make the instruction's own cases likely, and what its result leaves undefined. */
static bool tweak(struct rng *r, struct dcase *c, struct insn *x, uint64_t first_la, uint8_t *data)
{
    uint64_t *gpr = c->in.gpr;
    unsigned ow = x->i.operand_width;
    unsigned count = 0;
    uint8_t *mem = first_la ? data_at(data, first_la, 16) : NULL;

    switch (x->i.mnemonic) {
#define UNDEFINED(m, f)                                                                                                \
    case ZYDIS_MNEMONIC_##m:                                                                                           \
        c->flags_mask &= ~(uint64_t)(f);                                                                               \
        break;
#include "tests/diff/rules.def"
    default: break;
    }
    switch (x->i.mnemonic) {
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD: {
        const ZydisDecodedOperand *k = &x->op[x->i.operand_count_visible - 1];
        bool dbl = x->i.mnemonic == ZYDIS_MNEMONIC_SHLD || x->i.mnemonic == ZYDIS_MNEMONIC_SHRD;
        bool rot = x->i.mnemonic == ZYDIS_MNEMONIC_ROL || x->i.mnemonic == ZYDIS_MNEMONIC_ROR ||
                   x->i.mnemonic == ZYDIS_MNEMONIC_RCL || x->i.mnemonic == ZYDIS_MNEMONIC_RCR;
        count = (unsigned)(k->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? k->imm.value.u : gpr[1]);
        count &= ow == 64 ? 63 : 31;
        if (!rot && count)
            c->flags_mask &= ~(uint64_t)FL_AF;
        if (count > 1)
            c->flags_mask &= ~(uint64_t)FL_OF;
        if (!rot && !dbl && count >= ow && x->i.mnemonic != ZYDIS_MNEMONIC_SAR)
            c->flags_mask &= ~(uint64_t)FL_CF;
        if (dbl && count > ow)
            return false; /* result undefined */
        break;
    }
    case ZYDIS_MNEMONIC_BSWAP: return ow != 16;
    case ZYDIS_MNEMONIC_AAM:
    case ZYDIS_MNEMONIC_AAD: break;
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
        switch (rng_below(r, 4)) {
        case 0: break;
        case 1: gpr[2] = 0; break;
        case 2: gpr[2] = gpr[0] >> (ow - 1) & 1 ? ~0ull : 0; break;
        case 3: set_low(&gpr[2], ow, rng_below(r, 256)); break;
        }
        if (ow == 8 && !one_in(r, 4))
            gpr[0] &= ~0xf000ull;
        break;
    case ZYDIS_MNEMONIC_CMPXCHG:
        if (mem && one_in(r, 2))
            memcpy(&gpr[0], mem, ow / 8);
        break;
    case ZYDIS_MNEMONIC_CMPXCHG8B:
        if (mem && one_in(r, 2)) {
            uint32_t m[2];
            memcpy(m, mem, 8);
            set_low(&gpr[0], 32, m[0]);
            set_low(&gpr[2], 32, m[1]);
        }
        break;
    case ZYDIS_MNEMONIC_CMPXCHG16B:
        if (mem && one_in(r, 2)) {
            memcpy(&gpr[0], mem, 8);
            memcpy(&gpr[2], mem + 8, 8);
        }
        break;
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
        gpr[0] &= ~0xfffffffcull;
        c->skip_fault = !(gpr[0] & 3); /* is the legacy area touched then? */
        gpr[2] &= ~0xffffffffull;
        break;
    default: break;
    }
    (void)count;
    return true;
}

static void finish(struct gen *g, struct rng *r, struct dcase *c, uint8_t *data, unsigned mode, bool stepped_only)
{
    struct insn x;
    (void)stepped_only;
    c->in.mode = (uint16_t)mode;
    c->flags_mask = ~0ull;
    c->fsw_mask = 0xffff;
    c->code_offset = one_in(r, 16)   ? DIFF_PAGE - rng_below(r, 16)
                     : one_in(r, 32) ? 2 * DIFF_PAGE - 1 - rng_below(r, 16)
                                     : 64 + rng_below(r, DIFF_PAGE - 128);
    memset(c->in.gpr, 0, sizeof c->in.gpr);
    for (int i = 0; i < (mode == MODE64 ? 16 : 8); i++)
        c->in.gpr[i] = interesting(r);
    if (mode != MODE64)
        for (int i = 0; i < 8; i++)
            c->in.gpr[i] &= 0xffffffff;
    memset(c->in.seg, 0, sizeof c->in.seg);
    if (g->segments && mode != MODE64 && one_in(r, 3))
        for (unsigned i = 0; i < 3; i++) {
            unsigned k = rng_below(r, DIFF_SEGMENT_COUNT);
            c->in.seg[i] = (uint8_t)(i == DIFF_SEG_SS && !diff_segments[k].stack ? 0 : k);
        }
    const struct diff_segment *ss = &diff_segments[c->in.seg[DIFF_SEG_SS]];
    set_low(&c->in.gpr[4], 64, DIFF_DATA - ss->base + 2048 + (rng_below(r, 4096) & ~7u));
    if (mode != MODE64 && !(ss->ar & 0x4000)) /* a 16-bit stack: the upper half of ESP is kept */
        c->in.gpr[4] = (c->in.gpr[4] & 0xffff) | (interesting(r) & 0xffff0000);
    if (c->in.seg[DIFF_SEG_SS] && one_in(r, 6))
        set_low(&c->in.gpr[4], ss->ar & 0x4000 ? 32 : 16, ss->limit + 1 - 16 + rng_below(r, 32));
    c->in.rflags = 0x202 | (rng_next(r) & FL_ARITH) | (one_in(r, 4) ? FL_DF : 0) | (one_in(r, 8) ? FL_AC : 0);

    bool ok = decode(g, mode, c->bytes, c->len, &x);
    enum elem e = ok ? elem_of(&x) : EL_INT;
    if (one_in(r, 8))
        e = (enum elem)rng_below(r, EL_F80 + 1);
    random_fp(r, c->in.fx, e, mode);
    c->step = true;
    if (!ok) {
        c->name = "(invalid)";
    } else {
        c->len = x.i.length;
        c->name = ZydisMnemonicGetString(x.i.mnemonic);
        if (x.i.cpu_flags)
            c->flags_mask &= ~(uint64_t)x.i.cpu_flags->undefined;
        if (x.i.fpu_flags) {
            unsigned u = x.i.fpu_flags->undefined;
            c->fsw_mask &= (uint16_t) ~((u & 1 ? 1 << 8 : 0) | (u & 2 ? 1 << 9 : 0) | (u & 4 ? 1 << 10 : 0) |
                                        (u & 8 ? 1 << 14 : 0));
        }
        /* bit strings reach far: keep the offset near */
        if ((x.i.mnemonic == ZYDIS_MNEMONIC_BT || x.i.mnemonic == ZYDIS_MNEMONIC_BTS ||
             x.i.mnemonic == ZYDIS_MNEMONIC_BTR || x.i.mnemonic == ZYDIS_MNEMONIC_BTC) &&
            x.op[1].type == ZYDIS_OPERAND_TYPE_REGISTER && !one_in(r, 8))
            c->in.gpr[ZydisRegisterGetId(x.op[1].reg.value)] = (uint64_t)((int64_t)rng_below(r, 8000) - 4000);
        /* Silicon's fast strings see an overlap by linear addresses: none through the alias below 64 KiB. */
        if (x.i.meta.category == ZYDIS_CATEGORY_STRINGOP && x.i.address_width == 16)
            c->in.seg[DIFF_SEG_DS] = c->in.seg[DIFF_SEG_ES] = c->in.seg[DIFF_SEG_SS] = 0;
        if (is_rep(&x)) {
            uint64_t n = one_in(r, 8) ? rng_below(r, 10000) : rng_below(r, 40);
            if (!one_in(r, 32))
                set_low(&c->in.gpr[1], mode == MODE64 && x.i.address_width == 64 ? 64 : x.i.address_width, n);
        }
        for (unsigned k = 0; k < x.i.operand_count; k++) {
            if (x.op[k].type == ZYDIS_OPERAND_TYPE_MEMORY && x.op[k].mem.type != ZYDIS_MEMOP_TYPE_AGEN &&
                x.op[k].size > 128)
                c->loose_fault = true;
            if (x.op[k].type == ZYDIS_OPERAND_TYPE_MEMORY && x.op[k].size == 80)
                c->loose_memory = c->loose_fault = true; /* accessed in two parts */
            if (x.op[k].type == ZYDIS_OPERAND_TYPE_REGISTER &&
                ZydisRegisterGetClass(x.op[k].reg.value) == ZYDIS_REGCLASS_MMX)
                c->mmx = true;
        }
        switch (x.i.mnemonic) {
        case ZYDIS_MNEMONIC_CALL: c->loose_memory = true; /* fallthrough */
        case ZYDIS_MNEMONIC_CMPSB:                        /* which operand is read first? */
        case ZYDIS_MNEMONIC_CMPSW:
        case ZYDIS_MNEMONIC_CMPSD:
        case ZYDIS_MNEMONIC_CMPSQ:
        case ZYDIS_MNEMONIC_ENTER: c->loose_fault = true; break;
        case ZYDIS_MNEMONIC_MASKMOVQ:
        case ZYDIS_MNEMONIC_MASKMOVDQU: c->skip_fault = true; break;
        case ZYDIS_MNEMONIC_POPA:
        case ZYDIS_MNEMONIC_POPAD: c->loose_gpr = true; break;
        case ZYDIS_MNEMONIC_FLDENV: c->loose_state = true; /* fallthrough */
        case ZYDIS_MNEMONIC_FNSTENV: c->loose_fault = true; break;
        case ZYDIS_MNEMONIC_XRSTOR:
        case ZYDIS_MNEMONIC_XRSTOR64: c->loose_state = true; break;
        default: break;
        }
        c->low_counters = mode == MODE64 && x.i.address_width == 32 && is_rep(&x);
        uint64_t first = 0;
        bool branch = x.i.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE;
        for (int pass = 0; pass < 2; pass++) /* hidden operands first: a visible one may share a register with them */
            for (unsigned k = 0; k < x.i.operand_count; k++) {
                const ZydisDecodedOperand *op = &x.op[k];
                if (op->type != ZYDIS_OPERAND_TYPE_MEMORY || op->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
                    continue;
                bool hidden = op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN;
                if (hidden != (pass == 0))
                    continue;
                unsigned size = op->size / 8;
                if (size > 1024)
                    size = 1024;
                if (one_in(r, 40))
                    continue; /* wherever it falls */
                bool stack = hidden && ZydisRegisterGetId(op->mem.base) == 4;
                if (stack && !one_in(r, 3)) {
                    uint8_t *p = data_at(data, (ss->ar & 0x4000 ? c->in.gpr[4] : c->in.gpr[4] & 0xffff) + ss->base, 8);
                    if (p && (branch || one_in(r, 2))) {
                        uint64_t t = branch ? code_target(r, mode) : interesting(r);
                        memcpy(p, &t, 8);
                    }
                    continue;
                }
                uint64_t la = place(g, r, c, &x, op, size);
                if (!la)
                    continue;
                if (!hidden || !first)
                    first = la;
                uint8_t *p = data_at(data, la, size);
                if (!p) { /* partly outside: fill what is inside */
                    p = data_at(data, la, 1);
                    if (p)
                        size = (unsigned)(DIFF_DATA_PAGES * DIFF_PAGE - (uint64_t)(p - data));
                }
                if (!p || size == 0)
                    continue;
                if (size >= 512) {
                    uint8_t image[1024] = {0};
                    fill_image(r, image, mode);
                    memcpy(p, image, size < 1024 ? size : 1024);
                } else if (branch) {
                    uint64_t t = code_target(r, mode);
                    memcpy(p, &t, size < 8 ? size : 8);
                } else if (x.i.mnemonic == ZYDIS_MNEMONIC_LDMXCSR && !one_in(r, 4)) {
                    uint8_t image[512];
                    random_fp(r, image, EL_INT, mode);
                    memcpy(p, image + FX_MXCSR, size < 4 ? size : 4);
                } else {
                    fill(r, p, size, elem_of_op(op));
                }
            }
        if (x.i.meta.category == ZYDIS_CATEGORY_PUSH || x.i.meta.category == ZYDIS_CATEGORY_POP || branch)
            if (one_in(r, 64))
                c->in.gpr[4] = interesting(r);
        if (branch && x.op[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ZydisRegisterGetClass(x.op[0].reg.value) != ZYDIS_REGCLASS_IP)
            c->in.gpr[ZydisRegisterGetId(x.op[0].reg.value) & 15] = code_target(r, mode);
        if (x.i.mnemonic == ZYDIS_MNEMONIC_ENTER || x.i.mnemonic == ZYDIS_MNEMONIC_LEAVE)
            c->in.gpr[5] = one_in(r, 16) ? interesting(r) : DIFF_DATA + 1024 + rng_below(r, 6000);
        if (mode != MODE64)
            for (int i = 0; i < 8; i++)
                c->in.gpr[i] &= 0xffffffff;
        if (!tweak(r, c, &x, first, data))
            c->name = NULL;
        if (!branch)
            c->step = is_rep(&x) ? one_in(r, 4) : one_in(r, 2);
        if (skip_reason(&x))
            c->name = NULL;
    }
    if (c->step)
        c->in.rflags |= FL_TF;
    c->in.rip = (mode == MODE16 ? 0 : DIFF_CODE) + c->code_offset;
    /* Cut what lies past the end of the code pages: the fetch faults there. */
    if (c->code_offset + c->len > DIFF_CODE_PAGES * DIFF_PAGE)
        c->len = DIFF_CODE_PAGES * DIFF_PAGE - c->code_offset;
}

static void seed_case(struct rng *r, unsigned family, enum diff_mode mode, uint64_t seed, uint64_t index)
{
    rng_seed(r, seed * 0x100000001b3 ^ ((uint64_t)family << 58 | (uint64_t)mode << 56) ^ index);
}

/* --- sequences: what single instructions can't show: flags that are computed late, operations that are fused, blocks
 * ------------ */

/* The flags that the instruction leaves undefined; false: it has no place in a sequence. */
static bool sequence_flags(const struct insn *x, uint32_t undefined, uint32_t *after)
{
    uint32_t tested = 0, written = 0, undef = 0;
    if (x->i.cpu_flags) {
        tested = x->i.cpu_flags->tested;
        undef = x->i.cpu_flags->undefined;
        written = x->i.cpu_flags->modified | x->i.cpu_flags->set_0 | x->i.cpu_flags->set_1;
    }
    switch (x->i.mnemonic) {
#define UNDEFINED(m, f)                                                                                                \
    case ZYDIS_MNEMONIC_##m:                                                                                           \
        undef |= (uint32_t)(f);                                                                                        \
        break;
#include "tests/diff/rules.def"
    default: break;
    }
    switch (x->i.mnemonic) {
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD: {
        const ZydisDecodedOperand *k = &x->op[x->i.operand_count_visible - 1];
        if (k->type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
            return false;
        unsigned count = (unsigned)k->imm.value.u & (x->i.operand_width == 64 ? 63 : 31);
        if (count >= x->i.operand_width)
            return false;
        bool rotate = x->i.mnemonic != ZYDIS_MNEMONIC_SHL && x->i.mnemonic != ZYDIS_MNEMONIC_SHR &&
                      x->i.mnemonic != ZYDIS_MNEMONIC_SAR && x->i.mnemonic != ZYDIS_MNEMONIC_SHLD &&
                      x->i.mnemonic != ZYDIS_MNEMONIC_SHRD;
        written = count == 0 ? 0 : rotate ? FL_CF | FL_OF : FL_ARITH;
        undef = count == 0 ? 0 : (rotate ? 0 : FL_AF) | (count > 1 ? FL_OF : 0);
        break;
    }
    case ZYDIS_MNEMONIC_BSWAP:
        if (x->i.operand_width == 16)
            return false;
        break;
    case ZYDIS_MNEMONIC_BSF: /* a destination that may be undefined */
    case ZYDIS_MNEMONIC_BSR:
    case ZYDIS_MNEMONIC_POPF: /* TF */
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
    case ZYDIS_MNEMONIC_PUSHF:
    case ZYDIS_MNEMONIC_PUSHFD:
    case ZYDIS_MNEMONIC_PUSHFQ:
    case ZYDIS_MNEMONIC_ENTER:
    case ZYDIS_MNEMONIC_FNSTSW:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FRSTOR: return false;
    case ZYDIS_MNEMONIC_LAHF: tested = FL_ARITH & ~FL_OF; break;
    default: break;
    }
    if (tested & undefined)
        return false;
    *after = ((undefined & ~written) | undef) & FL_ARITH;
    return true;
}

/* Encodes one instruction of template t with register operands or an absolute address in the data pages. */
static unsigned sequence_insn(const struct gen *g, struct rng *r, const struct tmpl *t, uint8_t *b, struct insn *x)
{
    unsigned mode = t->mode, n = 0, rex = mode == MODE64 ? rng_below(r, 8) : 0;
    if (mode == MODE16 && t->form == FORM_MEM && !g->low)
        return 0;
    if (t->form == FORM_MEM)
        rex &= 4;
    n = put_opcode(b, t, rex, false, t->vex && t->map == 3 ? 0 : rng_below(r, mode == MODE64 ? 16 : 8));
    unsigned reg = t->fixed_reg ? t->reg : rng_below(r, 8);
    if (t->form == FORM_REG) {
        b[n++] = (uint8_t)(0xc0 | reg << 3 | (t->fixed_rm ? t->rm : rng_below(r, 8)));
    } else if (t->form == FORM_MEM) {
        uint32_t la = (mode == MODE16 ? DIFF_LOW : DIFF_DATA) + 512 + rng_below(r, 16) * 16 +
                      (one_in(r, 8) ? rng_below(r, 16) : 0);
        b[n++] = (uint8_t)(reg << 3 | (mode == MODE64 ? 4 : mode == MODE32 ? 5 : 6));
        if (mode == MODE64)
            b[n++] = 0x25;
        memcpy(b + n, &la, 4);
        n += mode == MODE16 ? 2 : 4;
    }
    for (unsigned i = 0; i < 8; i += 4) {
        uint32_t v = (uint32_t)(one_in(r, 2) ? rng_next(r) : interesting(r));
        memcpy(b + n + i, &v, 4);
    }
    if (!decode(g, mode, b, 15, x) || skip_reason(x) || x->i.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE)
        return 0;
    for (unsigned k = 0; k < x->i.operand_count; k++) { /* no implicit memory but the stack's */
        const ZydisDecodedOperand *op = &x->op[k];
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && op->mem.type != ZYDIS_MEMOP_TYPE_AGEN &&
            (op->mem.base != ZYDIS_REGISTER_NONE || op->mem.index != ZYDIS_REGISTER_NONE) &&
            !(op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN && ZydisRegisterGetId(op->mem.base) == 4))
            return 0;
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY &&
            (op->size > 128 || op->encoding == ZYDIS_OPERAND_ENCODING_DISP16_32_64))
            return 0;
        if (t->form == FORM_MEM && op->type == ZYDIS_OPERAND_TYPE_REGISTER &&
            x->i.meta.category == ZYDIS_CATEGORY_BITBYTE && k < 2) /* a bit string reaches far */
            return 0;
    }
    return x->i.length;
}

static bool sequence(struct gen *g, struct rng *r, bool fp, enum diff_mode mode, struct dcase *c, uint8_t *data)
{
    static const char *const from[2][8] = {{"alu", "alu", "shift", "muldiv", "bits", "exchange", "move", "cond"},
                                           {"x87", "mmx", "sse", "sse2", "sse4", "sse3", "alu", "x87"}};
    uint32_t undefined = 0, joins[DIFF_SEQUENCE + 2] = {0};
    unsigned n = 0, want = 2 + rng_below(r, DIFF_SEQUENCE - 4);
    bool loop = (mode != MODE16 || g->low) && one_in(r, 2);
    if (loop) /* the counter leaves CF as the round before had it */
        undefined = FL_CF;
    bool joined[DIFF_SEQUENCE + 2] = {false};
    uint8_t jump_at[DIFF_SEQUENCE] = {0};
    unsigned jump_to[DIFF_SEQUENCE] = {0}, jumps = 0;
    unsigned fsw_undefined = 0;
    memset(c, 0, sizeof *c);
    while (c->count < want) {
        struct insn x;
        uint8_t b[24];
        if (joined[c->count])
            undefined |= joins[c->count];
        c->at[c->count] = (uint8_t)n;
        c->undefined[c->count] = undefined;
        if (c->count && one_in(r, 4)) { /* Jcc or JMP forward, over one or two */
            unsigned cc = rng_below(r, 17), to = c->count + 1 + rng_below(r, 3);
            static const uint32_t tests[8] = {FL_OF, FL_CF, FL_ZF,         FL_CF | FL_ZF,
                                              FL_SF, FL_PF, FL_SF | FL_OF, FL_SF | FL_OF | FL_ZF};
            if (cc < 16 && tests[cc >> 1] & undefined)
                continue;
            to = to > want ? want : to;
            jump_at[jumps] = (uint8_t)(n + 1), jump_to[jumps++] = to;
            joins[to] |= undefined, joined[to] = true;
            c->bytes[n++] = cc < 16 ? (uint8_t)(0x70 | cc) : 0xeb;
            c->bytes[n++] = 0;
            c->count++;
            continue;
        }
        const struct family *f = family(g, from[fp][rng_below(r, 8)]);
        const struct tmpl *t = &f->t[mode][rng_below(r, f->count[mode])];
        unsigned len = sequence_insn(g, r, t, b, &x);
        uint32_t after = 0;
        if (!len || !sequence_flags(&x, undefined, &after))
            continue;
        if (x.i.fpu_flags)
            fsw_undefined |= x.i.fpu_flags->undefined;
        memcpy(c->bytes + n, b, len);
        n += len;
        c->count++;
        undefined = after;
    }
    if (loop) { /* DEC of a counter in memory, JNZ to the start */
        uint32_t la = (mode == MODE16 ? DIFF_LOW : DIFF_DATA) + 256;
        unsigned w = mode == MODE16 ? 2 : 4;
        if (joined[c->count])
            undefined |= joins[c->count];
        c->at[c->count] = (uint8_t)n;
        c->undefined[c->count++] = undefined;
        c->bytes[n++] = 0xff;
        c->bytes[n++] = mode == MODE64 ? 0x0c : mode == MODE32 ? 0x0d : 0x0e;
        if (mode == MODE64)
            c->bytes[n++] = 0x25;
        memcpy(c->bytes + n, &la, w);
        n += w;
        undefined &= FL_CF;
        c->at[c->count] = (uint8_t)n;
        c->undefined[c->count++] = undefined;
        int32_t back = -(int32_t)(n + 2 + w);
        c->bytes[n++] = 0x0f;
        c->bytes[n++] = 0x85;
        memcpy(c->bytes + n, &back, w);
        n += w;
        uint32_t rounds = 1 + rng_below(r, 60);
        memcpy(data + 256, &rounds, 4);
    }
    if (joined[c->count])
        undefined |= joins[c->count];
    c->at[c->count] = (uint8_t)n;
    c->undefined[c->count] = undefined;
    for (unsigned i = 0; i < jumps; i++)
        c->bytes[jump_at[i]] = (uint8_t)(c->at[jump_to[i]] - jump_at[i] - 1);
    c->len = n;
    c->in.mode = (uint16_t)mode;
    c->code_offset = 64 + rng_below(r, DIFF_PAGE - 256);
    if (one_in(r, 16))
        c->code_offset = DIFF_PAGE - rng_below(r, n); /* across pages */
    for (int i = 0; i < (mode == MODE64 ? 16 : 8); i++)
        c->in.gpr[i] = mode == MODE64 ? interesting(r) : interesting(r) & 0xffffffff;
    c->in.gpr[4] = DIFF_DATA + 2048 + (rng_below(r, 4096) & ~7u);
    c->in.rflags = 0x202 | (rng_next(r) & FL_ARITH) | (one_in(r, 4) ? FL_DF : 0);
    random_fp(r, c->in.fx, fp ? (enum elem)rng_below(r, EL_F80 + 1) : EL_INT, mode);
    for (unsigned i = 0; i < 272; i += 16)
        fill(r, data + 512 + i, 16, fp ? (enum elem)rng_below(r, EL_F80 + 1) : EL_INT);
    c->flags_mask = ~(uint64_t)undefined;
    c->fsw_mask = (uint16_t) ~((fsw_undefined & 1 ? 1 << 8 : 0) | (fsw_undefined & 2 ? 1 << 9 : 0) |
                               (fsw_undefined & 4 ? 1 << 10 : 0) | (fsw_undefined & 8 ? 1 << 14 : 0));
    c->mmx = fp; /* what a faulting MMX instruction leaves of the x87 state */
    c->loose_memory = false;
    c->name = fp ? "fpsequence" : "sequence";
    c->in.rip = (mode == MODE16 ? 0 : DIFF_CODE) + c->code_offset;
    return true;
}

bool diff_gen_case(struct gen *g, unsigned family, enum diff_mode mode, uint64_t seed, uint64_t index, struct dcase *c,
                   uint8_t *data)
{
    struct rng rr, *r = &rr;
    const struct family *f = &g->fam[family];
    seed_case(r, family, mode, seed, index);
    if (strstr(f->name, "sequence"))
        return sequence(g, r, f->name[0] == 'f', mode, c, data);
    if (!f->count[mode])
        return false;
    const struct tmpl *t = &f->t[mode][index % f->count[mode]];
    memset(c, 0, sizeof *c);

    uint8_t *b = c->bytes;
    unsigned n = 0;
    if (one_in(r, 8)) { /* prefixes that do nothing, or that change or forbid */
        static const uint8_t extra[] = {0x2e, 0x36, 0x3e, 0x26, 0x65, 0x67, 0x67,
                                        0x67, 0x66, 0x66, 0xf0, 0xf2, 0xf3, 0x48};
        unsigned k = one_in(r, 64) ? 9 : 1 + one_in(r, 8);
        while (k--)
            b[n++] = extra[rng_below(r, sizeof extra - (one_in(r, 4) ? 0 : 4))];
    }
    bool lockable = t->form == FORM_MEM && t->map < 2 && one_in(r, 8);
    if (lockable)
        b[n++] = 0xf0;
    unsigned rex = mode == MODE64 && one_in(r, 2) ? rng_below(r, 8) : 0;
    if (t->vex && mode != MODE64)
        rex = 0;
    unsigned vvvv = mode == MODE64 ? rng_below(r, 16) : rng_below(r, 8);
    if (t->vex && t->map == 3) /* RORX: vvvv is not an operand */
        vvvv = 0;
    n += put_opcode(b + n, t, rex, one_in(r, 4), vvvv);
    if (t->form != FORM_NONE) {
        unsigned reg = t->fixed_reg ? t->reg : rng_below(r, 8);
        unsigned mod = 3, rm = t->fixed_rm ? t->rm : rng_below(r, 8);
        if (t->form == FORM_MEM)
            mod = rng_below(r, 3);
        b[n++] = (uint8_t)(mod << 6 | reg << 3 | rm);
    }
    unsigned rest = 15 - n > 12 ? 12 : n < 15 ? 15 - n : 0;
    for (unsigned i = 0; i < rest; i += 4) {
        uint32_t v = (uint32_t)(one_in(r, 2) ? rng_next(r) : interesting(r));
        memcpy(b + n + i, &v, 4);
    }
    c->len = n + rest > 15 ? 15 : n + rest;
    finish(g, r, c, data, mode, false);
    return c->name != NULL;
}

void diff_gen_bytes(struct gen *g, const uint8_t *bytes, unsigned len, enum diff_mode mode, uint64_t seed,
                    uint64_t index, struct dcase *c, uint8_t *data)
{
    struct rng rr, *r = &rr;
    seed_case(r, 63, mode, seed, index);
    memset(c, 0, sizeof *c);
    memcpy(c->bytes, bytes, len);
    c->len = len;
    finish(g, r, c, data, mode, false);
    if (!c->name)
        c->name = "(left out)";
}
