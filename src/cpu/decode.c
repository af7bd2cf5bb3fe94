/* SPDX-License-Identifier: MIT
 *
 * decode.c: see decode.h. Zydis knows the encodings; the tables know the handlers; here are the rules between the two:
 * which features bring a mnemonic into being, which modes lack it, how its operands stand in the op.
 */
#include "src/cpu/decode.h"

struct insn_row {
    op_fn *fn;
    op_select *select;
    uint16_t feature; /* enum feature */
    uint16_t flags;   /* INSN_* */
};

static const struct insn_row rows[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
#define FN(f)                   .fn = f
#define SEL(f)                  .select = f
#define INSN(mn, feat, fl, how) [ZYDIS_MNEMONIC_##mn] = {how, .feature = FEATURE_##feat, .flags = fl},
#include "src/cpu/insn_int.def"
#include "src/cpu/insn_sys.def"
#include "src/cpu/insn_fpu.def"
#include "src/cpu/insn_sse.def"
#undef INSN
#undef SEL
#undef FN
};

void decoder_init(struct decoder *d, const struct model *model)
{
    static const ZydisMachineMode machine[3] = {ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_MACHINE_MODE_LEGACY_32,
                                                ZYDIS_MACHINE_MODE_LONG_64};
    static const ZydisStackWidth width[3] = {ZYDIS_STACK_WIDTH_16, ZYDIS_STACK_WIDTH_32, ZYDIS_STACK_WIDTH_64};
    d->model = model;
    for (unsigned i = 0; i < 3; i++) {
        ZydisDecoder *z = &d->z[i];
        ZydisDecoderInit(z, machine[i], width[i]);
        ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_KNC, ZYAN_FALSE);
        ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
        ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_AMD_BRANCHES, model_is_amd(model));
        ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE); /* ENDBR and RDSSP are NOPs */
        ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_LZCNT, model_has(model, FEATURE_lzcnt));
        ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_TZCNT, model_has(model, FEATURE_bmi1));
        ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_WBNOINVD, model_has(model, FEATURE_wbnoinvd));
        ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_CLDEMOTE, model_has(model, FEATURE_cldemote));
    }
}

unsigned decode_register(ZydisRegister r)
{
    int id = ZydisRegisterGetId(r);
    switch (ZydisRegisterGetClass(r)) {
    case ZYDIS_REGCLASS_GPR8:
        /* Zydis numbers AL CL DL BL AH CH DH BH SPL BPL SIL DIL R8B...: the ids of the class run in that order. */
        if (r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_BL)
            return 8u * (unsigned)(r - ZYDIS_REGISTER_AL);
        if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
            return 8u * (unsigned)(r - ZYDIS_REGISTER_AH) + 1;
        return 8u * ((unsigned)(r - ZYDIS_REGISTER_SPL) + 4);
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64: return 8u * (unsigned)id;
    case ZYDIS_REGCLASS_SEGMENT:
        switch (r) {
        case ZYDIS_REGISTER_ES: return SEG_ES;
        case ZYDIS_REGISTER_CS: return SEG_CS;
        case ZYDIS_REGISTER_SS: return SEG_SS;
        case ZYDIS_REGISTER_FS: return SEG_FS;
        case ZYDIS_REGISTER_GS: return SEG_GS;
        default: return SEG_DS;
        }
    default: return id < 0 ? 0 : (unsigned)id;
    }
}

static uint8_t gpr_index(ZydisRegister r)
{
    switch (ZydisRegisterGetClass(r)) {
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64: return (uint8_t)(decode_register(r) / 8);
    case ZYDIS_REGCLASS_IP: return GPR_BLOCK;
    default: return GPR_ZERO;
    }
}

static uint8_t log2_bytes(unsigned width)
{
    switch (width) {
    case 16: return 1;
    case 32: return 2;
    case 64: return 3;
    case 128: return 4;
    case 256: return 5;
    default: return 0;
    }
}

static void lay_memory(const struct decoded *d, struct op *o, const ZydisDecodedOperandMem *m, unsigned at)
{
    o->flags |= OPF_MEM;
    o->base = gpr_index(m->base);
    o->index = gpr_index(m->index);
    o->scale = m->scale == 8 ? 3 : m->scale == 4 ? 2 : m->scale == 2 ? 1 : 0;
    o->disp = m->disp.value;
    /* ERRATUM: Zydis 4.0.0, with a 32-bit address size in 64-bit mode, takes SIB base 101b and mod 00b with REX.B for
     * R13D where it means: no base, a 32-bit displacement. */
    if (d->mode == MODE_64 && d->in.raw.sib.offset && d->in.raw.sib.base == 5 && d->in.raw.modrm.mod == 0) {
        o->base = GPR_ZERO;
        o->disp = d->in.raw.disp.value;
    }
    if (o->base == GPR_BLOCK)
        o->disp += at + d->in.length;
    unsigned seg = decode_register(m->segment);
    /* In 64-bit mode SS has base 0 like SEG_NONE, but tells #SS from #GP. */
    o->seg = d->mode != MODE_64 || seg == SEG_FS || seg == SEG_GS || seg == SEG_SS ? (uint8_t)seg : SEG_NONE;
}

static void lay_operands(struct decoded *d, struct op *o, unsigned at)
{
    unsigned regs = 0, imms = 0;
    bool swap = false;
    d->mem = DECODED_NO_MEM;
    for (unsigned i = 0; i < d->in.operand_count; i++) {
        const ZydisDecodedOperand *p = &d->op[i];
        if (p->type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        unsigned base = gpr_index(p->mem.base);
        bool hidden = i >= d->in.operand_count_visible;
        if (hidden && (base == GPR_RSP || base == GPR_RBP)) /* the stack */
            continue;
        if (d->mem == DECODED_NO_MEM || (hidden && base == GPR_RSI))
            d->mem = (uint8_t)i;
    }
    if (d->mem != DECODED_NO_MEM && d->mem >= d->in.operand_count_visible)
        lay_memory(d, o, &d->op[d->mem].mem, at);
    else if (d->mem == DECODED_NO_MEM)
        o->seg = SEG_SS; /* pushes and pops */
    for (unsigned i = 0; i < d->in.operand_count_visible; i++) {
        const ZydisDecodedOperand *p = &d->op[i];
        switch (p->type) {
        case ZYDIS_OPERAND_TYPE_REGISTER:
            if (ZydisRegisterGetClass(p->reg.value) == ZYDIS_REGCLASS_IP ||
                ZydisRegisterGetClass(p->reg.value) == ZYDIS_REGCLASS_FLAGS)
                break;
            if (regs == 0)
                o->r0 = (uint8_t)decode_register(p->reg.value);
            else if (regs == 1)
                o->r1 = (uint8_t)decode_register(p->reg.value);
            else if (regs == 2 && !imms)
                o->imm = (int32_t)decode_register(p->reg.value);
            regs++;
            break;
        case ZYDIS_OPERAND_TYPE_MEMORY:
            if (i == d->mem) {
                lay_memory(d, o, &p->mem, at);
                swap = regs == 0;
            }
            break;
        case ZYDIS_OPERAND_TYPE_POINTER:
            o->disp = p->ptr.offset;
            o->imm = p->ptr.segment;
            break;
        case ZYDIS_OPERAND_TYPE_IMMEDIATE: {
            uint64_t v = p->imm.value.u;
            if (p->imm.is_relative) {
                o->disp = (int64_t)(v + at + d->in.length);
                imms++;
                break;
            }
            if (imms < 2 && d->in.raw.imm[imms].size && d->in.raw.imm[imms].size < 64)
                v = sign_extend(v, d->in.raw.imm[imms].size);
            if (imms == 0) {
                o->imm = (int32_t)v;
                if (d->mem == DECODED_NO_MEM)
                    o->disp = (int64_t)v;
            } else if (imms == 1) {
                o->disp = (int64_t)v;
            }
            imms++;
            break;
        }
        default: break;
        }
    }
    if (swap)
        o->flags |= OPF_SWAP;
}

/* F2 and F3 repeat string instructions; of several the last one counts. */
static uint8_t repeat_prefix(const ZydisDecodedInstruction *in)
{
    if (in->meta.category != ZYDIS_CATEGORY_STRINGOP && in->meta.category != ZYDIS_CATEGORY_IOSTRINGOP)
        return in->attributes & ZYDIS_ATTRIB_HAS_REP ? OPF_REP : 0;
    uint8_t rep = 0;
    for (unsigned i = 0; i < in->raw.prefix_count; i++) {
        if (in->raw.prefixes[i].value == 0xf3)
            rep = OPF_REP;
        else if (in->raw.prefixes[i].value == 0xf2)
            rep = OPF_REPNE;
    }
    return rep;
}

static void op_check_cpl0(struct cpu *c, const struct op *o)
{
    if (unlikely(c->cpl)) {
        c->cur = o;
        cpu_raise(c, EXC_GP, 0);
        return;
    }
    NEXT(c, o);
}

enum decode_result decode_insn(const struct decoder *dec, unsigned code, const uint8_t *bytes, unsigned avail,
                               unsigned at, unsigned n, struct op out[DECODE_OPS_MAX], unsigned *count, unsigned *len)
{
    struct decoded d;
    struct op *o = &out[0];
    *o = (struct op){
        .fn = op_raise_ud, .ip = (uint16_t)at, .n = (uint8_t)n, .base = GPR_ZERO, .index = GPR_ZERO, .seg = SEG_NONE};
    *count = 1;
    d.model = dec->model;
    d.mode = code & CODE_MODE;
    d.real = code & CODE_REAL;
    d.bytes = bytes;
    bool ends = false;
    d.ends = &ends;
    bool links = false;
    d.links = &links;
    ZyanStatus s = ZydisDecoderDecodeFull(&dec->z[d.mode], bytes, avail, &d.in, d.op);
    if (ZYAN_FAILED(s)) {
        *len = MIN(avail, 15u);
        o->len = (uint8_t)*len;
        if (s == ZYDIS_STATUS_NO_MORE_DATA && avail < 15)
            return DECODE_MORE;
        if (s == ZYDIS_STATUS_INSTRUCTION_TOO_LONG || s == ZYDIS_STATUS_NO_MORE_DATA)
            o->fn = op_raise_gp0;
        return DECODE_END;
    }
    *len = d.in.length;
    o->len = d.in.length;
    const struct insn_row *row = &rows[d.in.mnemonic];
    if ((!row->fn && !row->select) || !model_has(dec->model, row->feature) || (row->flags & INSN_NO_REAL && d.real) ||
        (row->flags & INSN_NO64 && d.mode == MODE_64))
        return DECODE_END;
    o->size = (uint8_t)(log2_bytes(d.in.operand_width) | log2_bytes(d.in.address_width) << 4);
    if (d.mode == MODE_64)
        o->flags |= OPF_O64;
    if (d.mode != MODE_64 || d.in.address_width != 64)
        o->flags |= OPF_LEGACY;
    if (d.in.attributes & ZYDIS_ATTRIB_HAS_LOCK)
        o->flags |= OPF_LOCK;
    o->flags |= repeat_prefix(&d.in);
    lay_operands(&d, o, at);
    op_fn *fn = row->fn ? row->fn : row->select(&d, o);
    if (!fn) {
        o->fn = op_raise_ud;
        return DECODE_END;
    }
    o->fn = fn;
    ends |= (row->flags & INSN_END) != 0;
    if (row->flags & INSN_CPL0) {
        out[1] = out[0];
        out[0].fn = op_check_cpl0;
        *count = 2;
    }
    return links  ? (d.in.meta.category == ZYDIS_CATEGORY_COND_BR ? DECODE_LINK_IF : DECODE_LINK)
           : ends ? DECODE_END
                  : DECODE_OK;
}

void op_raise_ud(struct cpu *c, const struct op *o)
{
    c->cur = o;
    cpu_raise(c, EXC_UD, 0);
}

void op_raise_gp0(struct cpu *c, const struct op *o)
{
    c->cur = o;
    cpu_raise(c, EXC_GP, 0);
}

void op_leave_block(struct cpu *c, const struct op *o)
{
    c->rip = (c->gpr[GPR_BLOCK] + o->ip) & c->ip_mask;
    c->icount += o->n;
}
