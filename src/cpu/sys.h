/* SPDX-License-Identifier: MIT
 *
 * sys.h: what seg.c, event.c, task.c, control.c, msr.c and ops_sys*.c share.
 *
 * The rules that every function here keeps:
 *   - All memory work comes before the first change of register state; a function that returns false has changed none
 * (bytes below the stack pointer aside), and the exception is in c->exc or a VM exit is made.
 *   - A selector's error code gets its EXT bit in cpu_raise(), from c->vectoring.
 *   - c->cur is the running operation, or null when RIP already is that of the instruction.
 */
#ifndef CPU_SYS_H
#define CPU_SYS_H

#include "src/arch/model.h"
#include "src/cpu/code.h"

#define AR_CODE     0x18u /* S and the code bit */
#define AR_WRITABLE 0x02u /* data */
#define AR_READABLE 0x02u /* code */
#define AR_CONFORM  0x04u /* code */
#define AR_DOWN     0x04u /* data: expand-down */
#define AR_ACCESSED 0x01u
#define AR_KIND     0x1fu /* S and type */
/* System descriptor types. */
enum {
    SYS_TSS16 = 1,
    SYS_LDT = 2,
    SYS_TSS16_BUSY = 3,
    SYS_CALL16 = 4,
    SYS_TASK_GATE = 5,
    SYS_INTR16 = 6,
    SYS_TRAP16 = 7,
    SYS_TSS32 = 9,
    SYS_TSS32_BUSY = 11,
    SYS_CALL32 = 12,
    SYS_INTR32 = 14,
    SYS_TRAP32 = 15
};

struct desc {
    uint64_t lo, hi; /* hi: second half of a 16-byte descriptor */
    uint64_t la;     /* where it stands */
};
INLINE uint32_t desc_ar(const struct desc *d)
{
    return (uint32_t)(d->lo >> 40) & 0xf0ffu;
}
INLINE uint32_t desc_limit(const struct desc *d)
{
    uint32_t limit = (uint32_t)(d->lo & 0xffff) | ((uint32_t)(d->lo >> 32) & 0xf0000u);
    return d->lo & BIT(55) ? limit << 12 | 0xfff : limit;
}
INLINE uint32_t desc_base(const struct desc *d)
{
    return (uint32_t)(d->lo >> 16 & 0xffffff) | (uint32_t)(d->lo >> 32 & 0xff000000);
}
INLINE bool ar_is_code(uint32_t ar)
{
    return (ar & AR_CODE) == AR_CODE;
}
INLINE bool ar_is_conforming(uint32_t ar)
{
    return (ar & (AR_CODE | AR_CONFORM)) == (AR_CODE | AR_CONFORM);
}
INLINE bool ar_is_writable(uint32_t ar)
{
    return (ar & (AR_CODE | AR_WRITABLE)) == (AR_S | AR_WRITABLE);
}
INLINE bool sel_null(uint16_t sel)
{
    return !(sel & ~3u);
}
INLINE bool canonical(const struct cpu *c, uint64_t la)
{
    return mmu_canonical(la, c->cr4 & CR4_LA57);
}
/* Bases in MSRs, hidden segment bases, GDTR and IDTR, and invalidations take what the processor could translate,
 * whatever CR4.LA57 says. */
INLINE bool canonical_wide(const struct cpu *c, uint64_t la)
{
    return mmu_canonical(la, model_has(c->model, FEATURE_la57));
}
INLINE unsigned iopl(const struct cpu *c)
{
    return c->rflags_rest >> 12 & 3;
}
INLINE unsigned cpu_op_bytes(const struct cpu *c)
{
    return c->mode == MODE_64 ? 8 : c->mode == MODE_32 ? 4 : 2;
}

/* An implicit read of a descriptor table or TSS. */
bool table_read(struct cpu *c, uint64_t la, void *buf, unsigned len);
/* The 8-byte descriptor of sel; beyond the table's limit, or in a null LDT: `vector`(sel). The selector is not null. */
bool desc_read(struct cpu *c, uint16_t sel, unsigned vector, struct desc *d);
/* A system descriptor: 16 bytes in long mode. */
bool desc_read_system(struct cpu *c, uint16_t sel, unsigned vector, struct desc *d);
bool desc_set_accessed(struct cpu *c, struct desc *d);
void seg_from_desc(struct seg *s, uint16_t sel, const struct desc *d);
void seg_set_null(struct cpu *c, unsigned n, uint16_t sel);
/* The checks and the loading of a stack segment for privilege `cpl`: faults are `vector`(sel). */
bool seg_stack(struct cpu *c, uint16_t sel, unsigned cpl, unsigned vector, struct seg *out, bool null64);
/* Is [offset, offset+size) inside a data or stack segment's limit? */
bool seg_in_limit(const struct seg *s, uint32_t offset, unsigned size);

/* A stack that is not the current one yet. */
struct stack {
    uint64_t sp;
    struct seg ss;
    uint8_t ssize;   /* bytes in the stack pointer: 2, 4, 8 */
    uint32_t access; /* MMU_USER or 0 */
    uint16_t error;  /* selector of the #SS that its limit gives */
    bool flat;       /* 64-bit: no base, no limit, canonical */
};
void stack_current(const struct cpu *c, struct stack *s);
bool stack_push(struct cpu *c, struct stack *s, uint64_t v, unsigned size);
bool stack_pop(struct cpu *c, struct stack *s, uint64_t *v, unsigned size);
uint64_t stack_mask(const struct stack *s);
/* Writes sp into a stack-pointer register as wide as ssize says. */
INLINE uint64_t stack_merge(uint64_t old, uint64_t sp, unsigned ssize)
{
    return ssize == 8 ? sp : ssize == 4 ? (uint32_t)sp : (old & ~0xffffull) | (sp & 0xffff);
}

/* The stack of an inner privilege from the current TSS. */
bool tss_stack(struct cpu *c, unsigned dpl, uint16_t *ss, uint64_t *sp);
bool tss_stack64(struct cpu *c, unsigned index /* 0-2 RSPn, 4-10 ISTn + 3 */, uint64_t *rsp);

/* Sets CS and what follows from it. */
void seg_load_cs(struct cpu *c, const struct seg *cs, unsigned cpl);
/* After an outward return: data segments that the outer privilege may not use become null. */
void seg_drop_inner(struct cpu *c);

/* How many instructions are retired when the running operation is: where its RF or interrupt shadow counts from. */
INLINE uint64_t retire_count(const struct cpu *c)
{
    return c->cur ? c->icount + c->cur->n + 1 : c->icount;
}
void cpu_io_breakpoint(struct cpu *c, uint16_t port, unsigned len);

/* Checks of CR0 and CR4 values; nothing raised. */
bool cr0_valid(struct cpu *c, uint64_t v);
bool cr3_valid(struct cpu *c, uint64_t v);
bool cr4_valid(struct cpu *c, uint64_t v);

/* Next deadline of the local APIC and of guest mode, in TSC; UINT64_MAX: none. */
uint64_t cpu_next_event(struct cpu *c);
void cpu_run_timers(struct cpu *c);

#endif
