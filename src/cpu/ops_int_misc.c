/* SPDX-License-Identifier: MIT
 *
 * ops_int_misc.c: what is neither arithmetic nor control flow: far-pointer loads, BOUND, XLAT, CRC32, random numbers,
 * hints and fences, the probe NOP.
 */
#include "src/cpu/ops_int.h"

#include <unistd.h>

/* --- LDS, LES, LFS, LGS, LSS ------------------------------------------------------------------------------------- */

INLINE void load_far_pointer(struct cpu *c, const struct op *o, unsigned seg)
{
    unsigned size = op_size(o);
    uint8_t buf[10];
    if (!op_ld_far(c, o, buf))
        return;
    c->cur = o;
    if (!cpu_load_seg(c, seg, load16(buf + size)))
        return;
    if (size == 8)
        W(64, o->r0, load64(buf));
    else if (size == 4)
        W(32, o->r0, load32(buf));
    else
        W(16, o->r0, load16(buf));
    END_NEXT(c, o);
}
#define DEFINE_LOAD_FAR(name, seg)                                                                                     \
    void op_##name(struct cpu *c, const struct op *o)                                                                  \
    {                                                                                                                  \
        load_far_pointer(c, o, seg);                                                                                   \
    }
DEFINE_LOAD_FAR(lds, SEG_DS)
DEFINE_LOAD_FAR(les, SEG_ES)
DEFINE_LOAD_FAR(lfs, SEG_FS)
DEFINE_LOAD_FAR(lgs, SEG_GS)
DEFINE_LOAD_FAR(lss, SEG_SS)

/* --- BOUND, XLAT ---------------------------------------------------------------------------------------------------
 */

/* The bounds are two accesses. */
void op_bound(struct cpu *c, const struct op *o)
{
    {
        int64_t bound[2], v = op_size(o) == 2 ? (int16_t)R(16, o->r0) : (int32_t)R(32, o->r0);
        for (unsigned i = 0; i < 2; i++) {
            uint64_t la;
            uint16_t b16;
            uint32_t b32;
            if (!op_la_plus(c, o, i * op_size(o), op_size(o), MMU_READ, &la))
                return;
            if (op_size(o) == 2) {
                if (!op_load16(c, o, la, &b16))
                    return;
                bound[i] = (int16_t)b16;
            } else {
                if (!op_load32(c, o, la, &b32))
                    return;
                bound[i] = (int32_t)b32;
            }
            if (v < bound[0]) /* before the upper bound is read */
                break;
        }
        if (v < bound[0] || v > bound[1]) {
            c->cur = o;
            cpu_raise(c, EXC_BR, 0);
            return;
        }
    }
    NEXT(c, o);
}

void op_xlat(struct cpu *c, const struct op *o)
{
    {
        uint64_t la, offset = c->gpr[GPR_RBX] + R(8, 8 * GPR_RAX);
        uint8_t v;
        if (is_legacy(o)) {
            if (!op_legacy_la(c, o, offset, 1, MMU_READ, &la))
                return;
        } else {
            la = offset + c->seg_base64[o->seg];
        }
        if (!op_load8(c, o, la, &v))
            return;
        W(8, 8 * GPR_RAX, v);
    }
    NEXT(c, o);
}

/* --- CRC32 (iSCSI polynomial, bits reflected)
 * --------------------------------------------------------------------------- */

static uint32_t crc32c(uint32_t crc, uint64_t v, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        crc ^= (uint8_t)(v >> (8 * i));
        for (unsigned k = 0; k < 8; k++)
            crc = crc >> 1 ^ (0x82f63b78u & -(crc & 1));
    }
    return crc;
}
#define DEFINE_CRC32(S, _)                                                                                             \
    HANDLER_REG(crc32_rr##S, W(64, o->r0, crc32c(R(32, o->r0), R(S, o->r1), S / 8)))                                   \
    HANDLER_LOAD(S, crc32_rm##S, W(64, o->r0, crc32c(R(32, o->r0), m, S / 8)))
ALL_SIZES(DEFINE_CRC32, )
op_fn *select_crc32(const struct decoded *d, struct op *o)
{
    static op_fn *const rr[4] = {crc32_rr8, crc32_rr16, crc32_rr32, crc32_rr64};
    static const struct mem_forms rm = {.fast = {crc32_rm8_fast, crc32_rm16_fast, crc32_rm32_fast, crc32_rm64_fast},
                                        .slow = {crc32_rm8_slow, crc32_rm16_slow, crc32_rm32_slow, crc32_rm64_slow}};
    unsigned size = decoded_log2(d, 1);
    return o->flags & OPF_MEM ? pick_mem(&rm, size, o) : rr[size];
}

/* --- random numbers, RDPID
 * --------------------------------------------------------------------------------------------------- */

/* On the virtual clock a fixed sequence for each processor (splitmix64); on the real one the host's. */
static uint64_t random64(struct cpu *c)
{
    uint64_t r;
    if (c->real_clock && getentropy(&r, sizeof r) == 0)
        return r;
    uint64_t z = c->random += 0x9e3779b97f4a7c15ull;
    z ^= (uint64_t)c->index << 56;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}
static void random_number(struct cpu *c, const struct op *o, enum icpt what)
{
    c->cur = o;
    if (cpu_icpt_on(c, what) && cpu_intercept(c, o, what, o->r0))
        return;
    uint64_t v = random64(c);
    switch (o->size & 15) {
    case 1: W(16, o->r0, (uint16_t)v); break;
    case 2: W(32, o->r0, (uint32_t)v); break;
    default: W(64, o->r0, v); break;
    }
    flags_set_arith(c, FLAG_CF);
    NEXT(c, o);
}
void op_rdrand(struct cpu *c, const struct op *o)
{
    random_number(c, o, ICPT_RDRAND);
}
void op_rdseed(struct cpu *c, const struct op *o)
{
    random_number(c, o, ICPT_RDSEED);
}
void op_rdpid(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (cpu_icpt_on(c, ICPT_RDPID) && cpu_intercept(c, o, ICPT_RDPID, 0))
        return;
    W(64, o->r0, (uint32_t)c->msr.tsc_aux);
    NEXT(c, o);
}

/* --- hints, fences, cache lines
 * ------------------------------------------------------------------------------------------------- */

void op_nop(struct cpu *c, const struct op *o)
{
    NEXT(c, o);
}
static void probe_nop(struct cpu *c, const struct op *o)
{
    if (c->identity)
        flags_set_cf(c, true);
    NEXT(c, o);
}
op_fn *select_nop(const struct decoded *d, struct op *o)
{
    static const uint8_t probe[] = {CPU_PROBE_NOP_BYTES};
    if (d->mode == MODE_64 && d->in.length == sizeof probe && !memcmp(d->bytes, probe, sizeof probe))
        return probe_nop;
    return op_nop;
}
void op_pause(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (cpu_icpt_on(c, ICPT_PAUSE) && cpu_intercept(c, o, ICPT_PAUSE, 0))
        return;
    if (unlikely(c->takes_turns) && !(c->others_wait && c->others_wait(c))) {
        /* Met again in the same turn, it is a loop's that waits, and the turn ends: here, not with the block, for a
         * lock taken back after PAUSE would never be seen free. Met once, it is a short delay. */
        uint64_t rip = c->gpr[GPR_BLOCK] + o->ip;
        if (rip == c->turn_pause) {
            cpu_attend(c, ATT_KICK);
            END_NEXT(c, o);
        }
        if (c->turn_pause == UINT64_MAX)
            c->turn_pause = rip;
    }
    NEXT(c, o);
}
void op_fence(struct cpu *c, const struct op *o)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    NEXT(c, o);
}
void op_serialize(struct cpu *c, const struct op *o)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    END_NEXT(c, o);
}
/* CLFLUSH, CLFLUSHOPT, CLWB: checked as a byte load. */
void op_cache_line(struct cpu *c, const struct op *o)
{
    {
        uint64_t la;
        uint8_t v;
        if (!op_la(c, o, 1, MMU_READ, &la) || !op_load8(c, o, la, &v))
            return;
    }
    NEXT(c, o);
}

/* MOVDIR64B: the destination is an offset in ES. */
void op_movdir64b(struct cpu *c, const struct op *o)
{
    {
        uint8_t buf[64];
        uint64_t la = R(64, o->r0) & op_amask(o);
        if (!op_ld_n(c, o, buf, 64, 0))
            return;
        c->cur = o;
        if (c->mode != MODE_64 && !cpu_seg_la(c, SEG_ES, la, 64, MMU_WRITE, &la))
            return;
        if (la & 63) {
            cpu_raise(c, EXC_GP, 0);
            return;
        }
        if (!op_write_slow(c, o, la, buf, 64))
            return;
    }
    NEXT(c, o);
}
/* CLZERO (AMD): the cache line that holds rAX's address. */
void op_clzero(struct cpu *c, const struct op *o)
{
    {
        static const uint8_t zero[64];
        uint64_t la, offset = R(64, 8 * GPR_RAX) & op_amask(o) & ~63ull;
        if (is_legacy(o)) {
            if (!op_legacy_la(c, o, offset, 64, MMU_WRITE, &la))
                return;
        } else {
            la = offset + c->seg_base64[o->seg];
        }
        if (!op_write_slow(c, o, la & ~63ull, zero, 64))
            return;
    }
    NEXT(c, o);
}
