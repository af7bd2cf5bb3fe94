/* SPDX-License-Identifier: MIT
 *
 * diff.h: the bare processor as an oracle. One instruction (or one REP run) is executed from the same state natively
 * and on the software processor; everything that software can see is compared.
 *
 * Both sides see the same linear addresses:
 *
 *   DIFF_CODE     2 pages, readable and executable, filled with INT3 around the instruction; then a hole
 *   DIFF_DATA     2 pages read-write, 1 page read-only; a hole on either side
 *   DIFF_LOW      the same three data pages again, below 64 KiB, for 16-bit addresses
 *
 * A case ends by #DB (TF is 1: one step) or by the #BP of the INT3 that stands at every other byte of the code pages
 * (TF is 0: a whole REP run), or by any other exception.
 */
#ifndef TESTS_DIFF_H
#define TESTS_DIFF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define DIFF_CODE       0x10000000u
#define DIFF_CODE_PAGES 2u
#define DIFF_DATA       0x20001000u
#define DIFF_LOW        0x9000u
#define DIFF_DATA_PAGES 3u /* the last one is read-only */
#define DIFF_PAGE       4096u
#define DIFF_GS_BASE    0x12340u

/* User selectors as Linux has them; our GDT is laid out alike. */
enum { DIFF_CS32 = 0x23, DIFF_DS = 0x2b, DIFF_CS64 = 0x33, DIFF_CS16 = 0x07 };
enum diff_mode { MODE64, MODE32, MODE16, MODE_COUNT };

enum {
    FL_CF = 1,
    FL_PF = 4,
    FL_AF = 16,
    FL_ZF = 64,
    FL_SF = 128,
    FL_TF = 256,
    FL_IF = 512,
    FL_DF = 1024,
    FL_OF = 2048
};
enum { FL_ARITH = FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF | FL_OF, FL_RF = 1 << 16, FL_AC = 1 << 18, FL_ID = 1 << 21 };

/* Segments of the LDT that DS, ES and SS may have outside of 64-bit mode, on both sides: (selector, base, limit in
 * bytes, access rights as in the VMCS, may SS have it). Kind 0 is flat. The 16-bit code segment is the LDT's first
 * entry. */
#define DIFF_SEGMENTS(X)                                                                                               \
    X(DIFF_DS, 0, 0xffffffff, 0xc0f3, true)             /* flat */                                                     \
    X(0x0f, DIFF_DATA, 0x27ff, 0x40f3, true)            /* read-write, a limit within */                               \
    X(0x17, DIFF_DATA - 0x1000, 0x17ff, 0x40f7, true)   /* expand-down to 4 GiB */                                     \
    X(0x1f, DIFF_DATA + 0x100, 0x1fff, 0x40f1, false)   /* read-only */                                                \
    X(0x27, DIFF_DATA, 0x1fff, 0x00f3, true)            /* 16-bit */                                                   \
    X(0x2f, DIFF_DATA - 0x8000, 0x87ff, 0x00f7, true)   /* expand-down to 64 KiB */                                    \
    X(0x37, DIFF_DATA, 0x2fff, 0x40fb, false)           /* readable code */                                            \
    X(0x3f, DIFF_DATA + 0x10, 0xffffffff, 0xc0f3, true) /* 4 GiB from elsewhere: offsets wrap */                       \
    X(0, 0, 0, 0x10000, false)                          /* null */
struct diff_segment {
    uint16_t sel;
    uint32_t base, limit, ar;
    bool stack;
};
extern const struct diff_segment diff_segments[];
enum { DIFF_SEGMENT_COUNT = 9, DIFF_SEG_DS = 0, DIFF_SEG_ES, DIFF_SEG_SS };

/* An FXSAVE64 image: the offsets that matter. */
enum {
    FX_FCW = 0,
    FX_FSW = 2,
    FX_FTW = 4,
    FX_FOP = 6,
    FX_FIP = 8,
    FX_FDP = 16,
    FX_MXCSR = 24,
    FX_ST = 32,
    FX_XMM = 160
};

struct dstate {
    uint64_t gpr[16]; /* in encoding order: rax rcx rdx rbx rsp rbp rsi rdi r8.. */
    uint64_t rip;     /* linear in MODE64/32; offset into the segment at DIFF_CODE in MODE16 */
    uint64_t rflags;
    uint64_t cr2;    /* out, for #PF */
    uint32_t error;  /* out */
    uint16_t vector; /* out */
    uint16_t mode;   /* enum diff_mode; as out: 0xff for a code selector that is none of ours */
    uint8_t seg[3];  /* in: kinds of DS, ES, SS */
    uint8_t fx[512] __attribute__((aligned(64)));
};

#define DIFF_CODE_FILL 0xcc
#define DIFF_SEQUENCE  12 /* instructions in a sequence, at most */
struct dcase {
    struct dstate in;
    uint8_t bytes[160];
    unsigned len;         /* bytes given */
    unsigned code_offset; /* where in the code pages */
    bool step;            /* TF */
    /* A sequence: where each instruction begins, and which flags are undefined there; one more entry for the end. */
    unsigned count;
    uint8_t at[DIFF_SEQUENCE + 1];
    uint32_t undefined[DIFF_SEQUENCE + 1];
    /* What is compared; filled by the generator. */
    uint64_t flags_mask;
    uint16_t fsw_mask;
    /* An access of several parts that faults: which part is tried first, whether others were done, and whether #AC or
     * #GP tells of a misaligned image is the implementation's choice. Any of #SS, #GP, #PF, #AC will do then; memory is
     * not compared. */
    bool loose_fault;
    bool loose_memory; /* a near CALL that faults may have written its return address */
    bool loose_state;  /* a restoring instruction that faults may have restored a part */
    bool skip_fault;   /* whether bytes that are masked out can fault is the implementation's choice */
    bool loose_gpr;    /* POPA that faults may have popped a part */
    bool low_counters; /* 32-bit addresses in 64-bit mode: a REP that faults or has nothing to do may have cleared the
                          upper halves */
    bool mmx;          /* a faulting MMX instruction may or may not have set TOP to 0 and the tags to valid */
    const char *name;
};

/* --- native.c: the bare processor ----------------------------------------------------------------------------------
 */
extern uint8_t *diff_native_code; /* writable alias of the code pages */
extern uint8_t *diff_native_data; /* writable alias of the data pages */
/* Maps everything. False with a line on stderr where the host cannot do it. */
bool diff_native_init(void);
bool diff_native_mode(enum diff_mode mode);
bool diff_native_segments(void); /* the LDT holds them */
/* Calls step(opaque, s) again and again: s holds the outcome of the last run and is to be replaced by the state of the
 * next; a false return ends the loop. The first call has s->vector 0xffff. */
void diff_native_loop(bool (*step)(void *, struct dstate *), void *opaque);

/* --- ours.c: the software processor ---------------------------------------------------------------------------------
 */
struct ours;
struct ours *diff_ours_new(const char *model);
void diff_ours_free(struct ours *);
uint8_t *diff_ours_data(struct ours *);
/* Runs the case from c->in; *s is the outcome. The data pages are the caller's to set. */
bool diff_ours_run(struct ours *, const struct dcase *c, struct dstate *s);

/* --- gen.c: instructions and states ---------------------------------------------------------------------------------
 */
struct rng {
    uint64_t s[2];
};
uint64_t rng_next(struct rng *r);
static inline uint32_t rng_below(struct rng *r, uint32_t n)
{
    return (uint32_t)((rng_next(r) >> 32) * n >> 32);
}

struct gen;
struct gen *diff_gen_new(bool low_ok, bool segments);
void diff_gen_free(struct gen *);
unsigned diff_families(const struct gen *);
const char *diff_family_name(const struct gen *, unsigned family);
unsigned diff_family_templates(const struct gen *, unsigned family, enum diff_mode mode);
/* Case `index` of the family for this seed: always the same. `data` is the data pages' contents, which it edits. False
 * if the draw has to be left out. */
bool diff_gen_case(struct gen *, unsigned family, enum diff_mode mode, uint64_t seed, uint64_t index, struct dcase *c,
                   uint8_t *data);
/* Lists the skipped mnemonics with their reasons. */
void diff_gen_list(struct gen *, FILE *);
/* A case given by its bytes (hexadecimal on the command line); the state is random. */
void diff_gen_bytes(struct gen *, const uint8_t *bytes, unsigned len, enum diff_mode mode, uint64_t seed,
                    uint64_t index, struct dcase *c, uint8_t *data);

#endif
