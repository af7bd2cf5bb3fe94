/* SPDX-License-Identifier: MIT
 *
 * fpu.h: the x87 and SSE state as a whole: images, tag words, MXCSR.
 */
#ifndef CPU_FPU_H
#define CPU_FPU_H

#include "src/cpu/op.h"

#define MXCSR_DEFAULT 0x1f80u
#define MXCSR_FLAGS   0x003fu
#define MXCSR_DAZ     BIT(6)
#define MXCSR_MASKS   0x1f80u
#define MXCSR_RC(m)   (((m) >> 13) & 3u)
#define MXCSR_FTZ     BIT(15)
#define MXCSR_MM      BIT(17)

/* The status word's and control word's bits. */
enum {
    X87_IE = 1,
    X87_DE = 2,
    X87_ZE = 4,
    X87_OE = 8,
    X87_UE = 16,
    X87_PE = 32,
    X87_SF = 64,
    X87_ES = 128,
    X87_C0 = 0x100,
    X87_C1 = 0x200,
    X87_C2 = 0x400,
    X87_C3 = 0x4000,
    X87_B = 0x8000,
    X87_CC = 0x4700
};

/* Bits of MXCSR that exist on this model; others are #GP(0). */
uint32_t fpu_mxcsr_mask(const struct cpu *c);

void fpu_x87_init(struct cpu *c); /* FNINIT */
/* No exception waits: FERR# goes, and with it what answers it. */
INLINE void fpu_no_error(struct cpu *c)
{
    c->mf_pending = c->ignne = false;
}
/* Sets or clears SW.ES and SW.B and mf_pending by the control word's masks. */
void fpu_update_summary(struct cpu *c);

INLINE uint16_t fpu_sw(const struct cpu *c) /* with TOP */
{
    return (uint16_t)((c->x87.sw & ~0x3800u) | (unsigned)(c->x87.top & 7) << 11);
}
/* Sets all from a status word image; ES and B follow from the flags and the control word, which must already be set. */
void fpu_set_sw(struct cpu *c, uint16_t sw);
/* The 16-bit tag word, two bits a register: 0 valid, 1 zero, 2 special, 3 empty. */
uint16_t fpu_full_tags(const struct cpu *c);
void fpu_set_full_tags(struct cpu *c, uint16_t tags);

/* A waiting instruction found mf_pending: raises #MF and returns false, or true when it is to go on (CR0.NE = 0). */
bool fpu_pending(struct cpu *c, const struct op *o);

/* The legacy region of FXSAVE and XSAVE, 512 bytes. */
void fpu_x87_to_image(const struct cpu *c, uint8_t *image, bool rex_w); /* bytes 0-23 and 32-159, MXCSR not */
void fpu_x87_from_image(struct cpu *c, const uint8_t *image, bool rex_w);

void fpu_host_x87_save(struct cpu *c);

/* MOVSD and CMPSD on vector registers: the mnemonics' rows are those of the string instructions. */
op_fn *sel_MOVSD_sse(const struct decoded *d, struct op *o);
op_fn *sel_CMPSD_sse(const struct decoded *d, struct op *o);

#endif
