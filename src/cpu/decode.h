/* SPDX-License-Identifier: MIT
 *
 * decode.h: from bytes to operations. Zydis decodes, insn_*.def says who executes.
 *
 * How operands stand in struct op when a handler or a select function sees it. "Operands" are those that Zydis calls
 * visible (explicit and implicit, not hidden), in Intel order.
 *
 * - Registers: the first one in r0, the second in r1, the third in imm (only where no immediate claims imm). General
 *   registers: byte offset into gpr (AH, CH, DH, BH: 8 * n + 1); all others: the number. RIP never.
 *
 * - Memory: OPF_MEM and base, index, scale, disp, seg; OPF_SWAP when it comes before every register (it is the
 *   destination of `op r/m, r`). RIP-relative: base GPR_BLOCK. Hidden operands (string instructions, XLAT, MASKMOVQ)
 *   count too, but for the stack's; of two the one at rSI. In 64-bit mode seg is SEG_NONE, or FS, GS, or SS (base 0
 *   too, but #SS instead of #GP). Without a memory operand seg is SEG_SS: pushes and pops fault with #SS.
 *
 * - Immediate: the first one in imm (low 32 bits, sign-extended by its own size); without a memory operand disp has all
 *   64 bits. The second one (ENTER, INSERTQ, EXTRQ): disp.
 *
 * - Relative: disp is the distance of the target from the block's start (a 16-bit operand size truncates: the handler's
 *   affair). Far pointer: disp is the offset, imm the selector.
 *
 * - size: low nibble log2 of the operand size in bytes (Zydis's operand_width: 1 for byte forms), high nibble log2 of
 *   the address size.
 *
 * OPF_REP is set by F3 and OPF_REPNE by F2 where the prefix means repetition; OPF_LOCK by a legal LOCK. Mandatory
 * prefixes are no prefixes here. OPF_O64: the code runs in 64-bit mode.
 *
 * A select function returns the handler for the form and may change the op; NULL is #UD.
 */
#ifndef CPU_DECODE_H
#define CPU_DECODE_H

#include <Zydis/Zydis.h>

#include "src/arch/model.h"
#include "src/cpu/op.h"

struct decoded {
    ZydisDecodedInstruction in;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    const struct model *model;
    uint8_t mode; /* enum decode_mode */
    bool real;    /* real or virtual-8086 mode */
    uint8_t mem;  /* index of the memory operand in op[], or DECODED_NO_MEM */
    const uint8_t *bytes;
    bool *ends;  /* a select function sets it when the block must end with this form: decoded_ends() */
    bool *links; /* decoded_links() */
};
/* The handler of this form goes on by GO_LINKED: the place after its operation is a struct code_link. */
INLINE void decoded_links(const struct decoded *d)
{
    *d->links = true;
}
INLINE void decoded_ends(const struct decoded *d)
{
    *d->ends = true;
}
#define DECODED_NO_MEM 0xff

typedef op_fn *op_select(const struct decoded *d, struct op *o);

/* Size in bytes of operand i; whether it is memory, a register of that class. */
INLINE unsigned decoded_size(const struct decoded *d, unsigned i)
{
    return d->op[i].size / 8u;
}
INLINE bool decoded_is_mem(const struct decoded *d, unsigned i)
{
    return i < d->in.operand_count_visible && d->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY;
}
INLINE bool decoded_is_imm(const struct decoded *d, unsigned i)
{
    return i < d->in.operand_count_visible && d->op[i].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
}
INLINE bool decoded_is_reg(const struct decoded *d, unsigned i)
{
    return i < d->in.operand_count_visible && d->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER;
}
INLINE ZydisRegisterClass decoded_class(const struct decoded *d, unsigned i)
{
    return decoded_is_reg(d, i) ? ZydisRegisterGetClass(d->op[i].reg.value) : ZYDIS_REGCLASS_INVALID;
}
/* The number by which struct op names a register (see above). */
unsigned decode_register(ZydisRegister r);

struct decoder {
    ZydisDecoder z[3]; /* by enum decode_mode */
    const struct model *model;
};
void decoder_init(struct decoder *d, const struct model *model);

/* Flags of the code that is decoded; part of a block's key. */
enum { CODE_MODE = 3 /* enum decode_mode */, CODE_REAL = 4 };

enum decode_result {
    DECODE_OK,
    DECODE_END,     /* the block ends with this instruction */
    DECODE_LINK,    /* the same, and its handler keeps links in the operation that follows */
    DECODE_LINK_IF, /* the same, and it is a conditional branch */
    DECODE_MORE,    /* more bytes are needed than there are */
};
#define DECODE_OPS_MAX 2 /* operations that one instruction can become */
/* One instruction. at: its offset from the block's start; n: its number in the block. Bytes that are no instruction
 * become an operation that raises #UD (or #GP, when they are too many). */
enum decode_result decode_insn(const struct decoder *d, unsigned code, const uint8_t *bytes, unsigned avail,
                               unsigned at, unsigned n, struct op out[DECODE_OPS_MAX], unsigned *count, unsigned *len);

/* Handlers without a row. */
op_fn op_raise_ud;    /* #UD */
op_fn op_raise_gp0;   /* #GP(0) */
op_fn op_leave_block; /* leaves the block before this operation */

/* ops_int.c: makes one operation of a comparison and the conditional branch (a DECODE_LINK) behind it. False: left as
 * they are. */
bool op_fuse_branch(struct op *first, const struct op *branch);

/* MOV to and from control and debug registers share a mnemonic with the MOV of ops_int.c; ops_sys.c has them. r0, r1:
 * as for every MOV. */
op_fn op_mov_to_cr, op_mov_from_cr, op_mov_to_dr, op_mov_from_dr;

/* MOVSD and CMPSD with vector registers: ops_sse*.c. */
op_select sel_MOVSD_sse, sel_CMPSD_sse;

/* Every handler and select function of the tables has a prototype here. */
#define FN(f)                   op_fn f;
#define SEL(f)                  op_select f;
#define INSN(mn, feat, fl, how) how
#include "src/cpu/insn_int.def"
#include "src/cpu/insn_sys.def"
#include "src/cpu/insn_fpu.def"
#include "src/cpu/insn_sse.def"
#undef INSN
#undef SEL
#undef FN

#endif
