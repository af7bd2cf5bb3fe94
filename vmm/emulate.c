/* SPDX-License-Identifier: MIT
 *
 * emulate.c: accesses of the guest to guest-physical addresses that are not RAM: the instruction at RIP is decoded and
 * carried out on the device.
 *
 * Covers the instructions that drivers use on device registers: moves in all forms, string moves, and the two-operand
 * arithmetic ones. One operand is in memory and is the one that the exit told of; what else the instruction touches
 * (the other side of MOVS) goes through the guest's paging.
 */
#include <string.h>

#include <Zydis/Zydis.h>

#include "vmm/vm.h"

struct insn {
    ZydisDecodedInstruction i;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

static bool decode(struct vmm *v, struct insn *in)
{
    uint8_t code[ZYDIS_MAX_INSTRUCTION_LENGTH];
    ZydisDecoder d;
    unsigned n = v->hv->insn_bytes(v, code), bits = vmm_code_bits(v);
    if (!n) {
        struct hv_segment cs;
        v->hv->get_seg(v, HV_CS, &cs);
        n = mem_peek(v, (bits == 64 ? 0 : cs.base) + v->hv->get(v, HV_RIP), code, sizeof(code));
    }
    ZydisDecoderInit(&d,
                     bits == 64   ? ZYDIS_MACHINE_MODE_LONG_64
                     : bits == 32 ? ZYDIS_MACHINE_MODE_LEGACY_32
                                  : ZYDIS_MACHINE_MODE_LEGACY_16,
                     bits == 64   ? ZYDIS_STACK_WIDTH_64
                     : bits == 32 ? ZYDIS_STACK_WIDTH_32
                                  : ZYDIS_STACK_WIDTH_16);
    return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&d, code, n, &in->i, in->op));
}

unsigned emulate_length(struct vmm *v)
{
    struct insn in;
    return decode(v, &in) ? in.i.length : 0;
}

uint8_t emulate_segment(struct vmm *v)
{
    struct insn in;
    for (unsigned i = 0; decode(v, &in) && i < in.i.operand_count; i++) {
        const ZydisDecodedOperand *o = &in.op[i];
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.base != ZYDIS_REGISTER_NONE) {
            return (uint8_t)(HV_ES + (o->mem.segment - ZYDIS_REGISTER_ES));
        }
    }
    return HV_DS;
}

uint8_t emulate_gpr(struct vmm *v)
{
    struct insn in;
    if (!decode(v, &in)) {
        return 0;
    }
    return (uint8_t)((in.i.raw.modrm.rm | (in.i.raw.rex.B ? 8 : 0)) & 15);
}

/* ---- registers ------------------------------------------------------------------------------------------------ */

static bool is_high_byte(ZydisRegister r)
{
    return r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH;
}

static uint64_t read_reg(struct vmm *v, ZydisRegister r)
{
    if (is_high_byte(r)) {
        return v->regs.reg[r - ZYDIS_REGISTER_AH] >> 8 & 0xff;
    }
    return v->regs.reg[ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r)) & 15];
}

static void write_reg(struct vmm *v, ZydisRegister r, unsigned size, uint64_t value)
{
    if (is_high_byte(r)) {
        uint64_t *p = &v->regs.reg[r - ZYDIS_REGISTER_AH];
        *p = (*p & ~UINT64_C(0xff00)) | (value & 0xff) << 8;
        return;
    }
    uint64_t *p =
        &v->regs.reg[ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r)) & 15];
    *p = size == 8 ? value : size == 4 ? (uint32_t)value : (*p & ~device_ones(size)) | (value & device_ones(size));
}

static int64_t sign_extend(uint64_t value, unsigned size)
{
    unsigned shift = 64 - size * 8;
    return (int64_t)(value << shift) >> shift;
}

/* ---- operands ------------------------------------------------------------------------------------------------- */

static unsigned size_of(const ZydisDecodedOperand *o)
{
    return o->size / 8;
}

static uint64_t read_operand(struct vmm *v, const struct exit *e, const ZydisDecodedOperand *o)
{
    uint64_t value;
    switch (o->type) {
    case ZYDIS_OPERAND_TYPE_MEMORY: return machine_mmio_read(v, e->mem.gpa, size_of(o));
    case ZYDIS_OPERAND_TYPE_IMMEDIATE: value = o->imm.value.u; break;
    default: value = read_reg(v, o->reg.value); break;
    }
    return value & device_ones(size_of(o));
}

static void write_operand(struct vmm *v, const struct exit *e, const ZydisDecodedOperand *o, uint64_t value)
{
    if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        machine_mmio_write(v, e->mem.gpa, size_of(o), value & device_ones(size_of(o)));
    } else {
        write_reg(v, o->reg.value, size_of(o), value);
    }
}

/* ---- arithmetic ----------------------------------------------------------------------------------------------- */

enum { CF = 0x1, PF = 0x4, AF = 0x10, ZF = 0x40, SF = 0x80, OF = 0x800 };

static void set_flags(struct vmm *v, uint64_t set, uint64_t keep)
{
    uint64_t f = v->hv->get(v, HV_RFLAGS);
    const uint64_t all = CF | PF | AF | ZF | SF | OF;
    v->hv->set(v, HV_RFLAGS, (f & ~(all & ~keep)) | (set & ~keep));
}

static uint64_t result_flags(uint64_t r, unsigned size)
{
    r &= device_ones(size);
    return (r ? 0 : ZF) | (r >> (size * 8 - 1) & 1 ? SF : 0) | (__builtin_parity((unsigned)r & 0xff) ? 0 : PF);
}

/* a op b with flags. Returns whether the mnemonic is one of these. */
static bool arithmetic(struct vmm *v, ZydisMnemonic m, uint64_t a, uint64_t b, unsigned size, uint64_t *r, bool *writes)
{
    uint64_t top = UINT64_C(1) << (size * 8 - 1), mask = device_ones(size), f = 0, carry;
    *writes = true;
    switch (m) {
    case ZYDIS_MNEMONIC_AND: *r = a & b; break;
    case ZYDIS_MNEMONIC_TEST:
        *r = a & b;
        *writes = false;
        break;
    case ZYDIS_MNEMONIC_OR: *r = a | b; break;
    case ZYDIS_MNEMONIC_XOR: *r = a ^ b; break;
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_XADD:
    case ZYDIS_MNEMONIC_INC:
        *r = (a + b) & mask;
        carry = (a & b) | ((a | b) & ~*r);
        f = (carry & top ? CF : 0) | (carry & 8 ? AF : 0) | ((a ^ *r) & (b ^ *r) & top ? OF : 0);
        break;
    case ZYDIS_MNEMONIC_CMP:
    case ZYDIS_MNEMONIC_SUB:
    case ZYDIS_MNEMONIC_DEC:
        *r = (a - b) & mask;
        carry = (~a & b) | ((~a | b) & *r);
        f = (carry & top ? CF : 0) | (carry & 8 ? AF : 0) | ((a ^ b) & (a ^ *r) & top ? OF : 0);
        *writes = m != ZYDIS_MNEMONIC_CMP;
        break;
    default: return false;
    }
    set_flags(v, f | result_flags(*r, size), m == ZYDIS_MNEMONIC_INC || m == ZYDIS_MNEMONIC_DEC ? CF : 0);
    return true;
}

/* ---- strings -------------------------------------------------------------------------------------------------- */

static void step(uint64_t *reg, unsigned addr_bits, int64_t by)
{
    uint64_t sum = *reg + (uint64_t)by;
    *reg = addr_bits == 64 ? sum : addr_bits == 32 ? (uint32_t)sum : (*reg & ~UINT64_C(0xffff)) | (sum & 0xffff);
}

static uint64_t linear(struct vmm *v, ZydisRegister seg, uint64_t offset, unsigned addr_bits)
{
    struct hv_segment s = {0};
    offset &= device_ones(addr_bits / 8);
    if (seg >= ZYDIS_REGISTER_ES && seg <= ZYDIS_REGISTER_GS &&
        (vmm_code_bits(v) != 64 || seg == ZYDIS_REGISTER_FS || seg == ZYDIS_REGISTER_GS)) {
        v->hv->get_seg(v, (enum hv_seg)(seg - ZYDIS_REGISTER_ES), &s);
    }
    return s.base + offset;
}

/* One element of MOVS, STOS or LODS; the guest comes back for the next. False: a fault was queued. */
static bool string_step(struct vmm *v, const struct exit *e, const struct insn *in)
{
    unsigned as = in->i.address_width, size = in->i.operand_width / 8;
    bool rep = in->i.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE);
    int64_t by = v->hv->get(v, HV_RFLAGS) & 0x400 ? -(int64_t)size : size;
    struct event fault;
    uint64_t value = v->regs.rax, gpa;
    bool movs = in->i.mnemonic == ZYDIS_MNEMONIC_MOVSB || in->i.mnemonic == ZYDIS_MNEMONIC_MOVSW ||
                in->i.mnemonic == ZYDIS_MNEMONIC_MOVSD || in->i.mnemonic == ZYDIS_MNEMONIC_MOVSQ;
    bool lods = in->i.mnemonic == ZYDIS_MNEMONIC_LODSB || in->i.mnemonic == ZYDIS_MNEMONIC_LODSW ||
                in->i.mnemonic == ZYDIS_MNEMONIC_LODSD || in->i.mnemonic == ZYDIS_MNEMONIC_LODSQ;
    if (rep && !(v->regs.rcx & device_ones(as / 8))) {
        return true;
    }
    if (movs || lods) {
        ZydisRegister seg = in->op[movs ? 1 : 0].type == ZYDIS_OPERAND_TYPE_MEMORY ? in->op[movs ? 1 : 0].mem.segment
                                                                                   : ZYDIS_REGISTER_DS;
        if (lods) {
            seg = in->op[1].mem.segment;
        }
        uint64_t la = linear(v, seg, v->regs.rsi, as);
        if (!mem_walk(v, la, ACCESS_READ, v->hv->cpl(v), &gpa, &fault)) {
            vmm_queue_exception(v, fault.vector, fault.has_error, fault.error);
            return false;
        }
        void *p = mem_guest(v, gpa, size);
        value = 0;
        if (p) {
            memcpy(&value, p, size);
        } else {
            value = machine_mmio_read(v, gpa, size);
        }
    }
    if (lods) {
        write_reg(v, ZYDIS_REGISTER_RAX, size, value);
    } else {
        uint64_t la = linear(v, ZYDIS_REGISTER_ES, v->regs.rdi, as);
        if (!mem_walk(v, la, ACCESS_WRITE, v->hv->cpl(v), &gpa, &fault)) {
            vmm_queue_exception(v, fault.vector, fault.has_error, fault.error);
            return false;
        }
        void *p = mem_guest(v, gpa, size);
        if (p) {
            memcpy(p, &value, size);
        } else {
            machine_mmio_write(v, gpa, size, value & device_ones(size));
        }
        step(&v->regs.rdi, as, by);
    }
    if (movs || lods) {
        step(&v->regs.rsi, as, by);
    }
    if (rep) {
        step(&v->regs.rcx, as, -1);
        return !(v->regs.rcx & device_ones(as / 8));
    }
    return true;
}

/* ---- the exit ------------------------------------------------------------------------------------------------- */

/* True: the instruction is complete. */
static bool carry_out(struct vmm *v, const struct exit *e, const struct insn *in)
{
    const ZydisDecodedOperand *d = &in->op[0], *s = &in->op[1];
    uint64_t a, r;
    bool writes;
    switch (in->i.mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
    case ZYDIS_MNEMONIC_MOVNTI:
    case ZYDIS_MNEMONIC_MOVZX: write_operand(v, e, d, read_operand(v, e, s)); return true;
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD:
        write_operand(v, e, d, (uint64_t)sign_extend(read_operand(v, e, s), size_of(s)));
        return true;
    case ZYDIS_MNEMONIC_MOVBE: {
        uint64_t x = __builtin_bswap64(read_operand(v, e, s)) >> (64 - s->size);
        write_operand(v, e, d, x);
        return true;
    }
    case ZYDIS_MNEMONIC_XCHG:
        a = read_operand(v, e, d);
        r = read_operand(v, e, s);
        write_operand(v, e, d, r);
        write_operand(v, e, s, a);
        return true;
    case ZYDIS_MNEMONIC_NOT: write_operand(v, e, d, ~read_operand(v, e, d)); return true;
    case ZYDIS_MNEMONIC_MOVSB:
    case ZYDIS_MNEMONIC_MOVSW:
    case ZYDIS_MNEMONIC_MOVSD:
    case ZYDIS_MNEMONIC_MOVSQ:
    case ZYDIS_MNEMONIC_STOSB:
    case ZYDIS_MNEMONIC_STOSW:
    case ZYDIS_MNEMONIC_STOSD:
    case ZYDIS_MNEMONIC_STOSQ:
    case ZYDIS_MNEMONIC_LODSB:
    case ZYDIS_MNEMONIC_LODSW:
    case ZYDIS_MNEMONIC_LODSD:
    case ZYDIS_MNEMONIC_LODSQ: return string_step(v, e, in);
    case ZYDIS_MNEMONIC_PREFETCHNTA:
    case ZYDIS_MNEMONIC_CLFLUSH: return true;
    case ZYDIS_MNEMONIC_INC:
    case ZYDIS_MNEMONIC_DEC:
        arithmetic(v, in->i.mnemonic, read_operand(v, e, d), 1, size_of(d), &r, &writes);
        write_operand(v, e, d, r);
        return true;
    default: break;
    }
    a = read_operand(v, e, d);
    uint64_t b = s->type == ZYDIS_OPERAND_TYPE_UNUSED ? 0 : read_operand(v, e, s);
    if (s->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        b = s->imm.value.u & device_ones(size_of(d));
    }
    if (in->i.operand_count >= 2 && arithmetic(v, in->i.mnemonic, a, b, size_of(d), &r, &writes)) {
        if (in->i.mnemonic == ZYDIS_MNEMONIC_XADD) {
            write_operand(v, e, s, a);
        }
        if (writes) {
            write_operand(v, e, d, r);
        }
        return true;
    }
    vmm_stop(v, VMM_CRASH,
             "%s on guest-physical %#llx, where there is no RAM: this VMM does not emulate the instruction",
             ZydisMnemonicGetString(in->i.mnemonic), (unsigned long long)e->mem.gpa);
    return false;
}

void exit_second(struct vmm *v, const struct exit *e)
{
    struct insn in;
    struct exit done = *e;
    unsigned long long gpa = e->mem.gpa;
    if (mem_guest(v, e->mem.gpa, 1)) {
        vmm_stop(v, VMM_CRASH, "access to guest-physical %#llx was refused, though it is mapped RAM", gpa);
    } else if (e->mem.table) {
        vmm_stop(v, VMM_CRASH, "the guest's page tables are at guest-physical %#llx, where there is no RAM", gpa);
    } else if (e->mem.fetch) {
        vmm_stop(v, VMM_CRASH, "the guest executes at guest-physical %#llx, where there is no RAM", gpa);
    } else if (e->vectoring.valid) {
        vmm_stop(v, VMM_CRASH, "event %u is delivered to guest-physical %#llx, where there is no RAM",
                 e->vectoring.vector, gpa);
    } else if (!decode(v, &in)) {
        vmm_stop(v, VMM_CRASH, "the instruction that accesses guest-physical %#llx cannot be decoded", gpa);
    } else if (carry_out(v, e, &in)) {
        done.len = in.i.length;
        vmm_skip(v, &done);
    }
}
