/* SPDX-License-Identifier: MIT
 *
 * test_fuzz.c: hostile software on the software PC: random code, biased towards what only privileged software does, in
 * every mode, with descriptor tables, page tables, VMCSs and VMCBs that are good but for a few random changes. Whatever
 * it does, the process lives, cpu_run() comes back in bounded time and with few more instructions than asked for, and
 * the process does not grow.
 *
 * VMENTER_FUZZ=N: that many cases (default 1500). FUZZ_SEED=S: the first case's seed; a case is a function of its seed
 * alone, so VMENTER_FUZZ=1 FUZZ_SEED=S repeats it. FUZZ_SHOW=1 prints where each case ended.
 */
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "src/cpu/flags.h"
#include "src/machine/board.h"
#include "src/svm/svm.h"
#include "src/svm/svm_cpu.h"
#include "vmx_rig.h"

#define FUZZ_MEM      (UINT64_C(4) << 20)
#define FUZZ_HOST     UINT64_C(0x50000)
#define FUZZ_GUEST    RIG_CODE
#define FUZZ_VMCB     UINT64_C(0x40000)
#define FUZZ_HSAVE    UINT64_C(0x41000)
#define FUZZ_IOPM     UINT64_C(0x42000)
#define FUZZ_MSRPM    UINT64_C(0x45000)
#define FUZZ_PAE      UINT64_C(0x47000)
#define FUZZ_SIZE     1536u   /* bytes of code */
#define FUZZ_CASE_MAX 60u     /* seconds for one case, sanitizers included */
#define FUZZ_OVER     100000u /* instructions more than asked for: the rest of a block with strings in it */

static uint64_t state, case_seed;
static uint64_t rng(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state * UINT64_C(0x2545f4914f6cdd1d);
}
static unsigned below(unsigned n)
{
    return (unsigned)(rng() >> 33) % n;
}
static void seed_rng(uint64_t seed)
{
    case_seed = seed;
    state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    state = state ? state : 1;
    for (unsigned i = 0; i < 8; i++)
        rng();
}

static void too_long(int sig)
{
    static const char text[] = "test_fuzz: a case does not end: FUZZ_SEED=";
    char digits[24];
    unsigned n = sizeof digits;
    uint64_t v = case_seed;
    digits[--n] = '\n';
    do
        digits[--n] = (char)('0' + v % 10);
    while ((v /= 10) != 0);
    if (write(2, text, sizeof text - 1) < 0 || write(2, digits + n, sizeof digits - n) < 0)
        _exit(3);
    abort();
}

/* --- values ------------------------------------------------------------------------------------------------------- */

/* Addresses where something is, ends, or nothing is. */
static uint64_t some_address(void)
{
    static const uint64_t at[] = {0,
                                  FUZZ_HOST,
                                  FUZZ_GUEST,
                                  FUZZ_VMCB,
                                  RIG_VMXON,
                                  RIG_VMCS,
                                  RIG_VMCS2,
                                  RIG_MSRBITMAP,
                                  RIG_VAPIC,
                                  RIG_MSRAREA,
                                  RIG_HOST_PML4,
                                  RIG_GUEST_PDPT,
                                  RIG_GUEST_PD,
                                  RIG_EPT_PML4,
                                  RIG_EPT_PDPT,
                                  RIG_EPT_PD,
                                  RIG_GUEST_GDT,
                                  RIG_GUEST_IDT,
                                  RIG_GUEST_TSS,
                                  RIG_STACK,
                                  0xa0000,
                                  0xb8000,
                                  0xfffff,
                                  FUZZ_MEM - 0x1000,
                                  FUZZ_MEM - 8,
                                  FUZZ_MEM - 1,
                                  FUZZ_MEM,
                                  PC_HOLE,
                                  PC_LAPIC,
                                  PC_IOAPIC,
                                  PC_HPET,
                                  0xff800000,
                                  0xfffff000,
                                  0xffffffff,
                                  PC_HIGH,
                                  UINT64_C(1) << 39,
                                  (UINT64_C(1) << 46) - 0x1000,
                                  (UINT64_C(1) << 47) - 1,
                                  UINT64_C(1) << 47,
                                  UINT64_C(1) << 52,
                                  UINT64_C(0xffff800000000000),
                                  UINT64_C(0xfffffffffffff000),
                                  UINT64_MAX};
    uint64_t a = at[below(ARRAY_LEN(at))];
    switch (below(8)) {
    case 0: return a + below(4096);
    case 1: return a - below(64);
    case 2: return a | 7;
    case 3: return a | BIT(below(12)) | 0x1e;
    default: return a;
    }
}

static uint64_t some_value(uint64_t old)
{
    switch (below(9)) {
    case 0: return old + 1;
    case 1: return old - 1;
    case 2: return rng();
    case 3: return rng() >> below(64);
    case 4: return BIT(below(64)) - below(2);
    case 5:
    case 6: return old ^ BIT(below(64));
    default: return some_address();
    }
}

/* --- code --------------------------------------------------------------------------------------------------------- */

struct out {
    uint8_t b[FUZZ_SIZE + 64];
    unsigned n, bits;
    bool amd;
};
static void put(struct out *o, const void *bytes, unsigned n)
{
    if (o->n + n <= FUZZ_SIZE) {
        memcpy(o->b + o->n, bytes, n);
        o->n += n;
    }
}
static void put1(struct out *o, unsigned b)
{
    uint8_t v = (uint8_t)b;
    put(o, &v, 1);
}
static void put32(struct out *o, uint64_t v)
{
    put(o, &v, o->bits == 16 ? 2 : 4);
}

static void put_load(struct out *o, unsigned reg, uint64_t v)
{
    if (o->bits == 64) {
        put1(o, 0x48 | (reg >> 3));
        put1(o, 0xb8 | (reg & 7));
        put(o, &v, 8);
        return;
    }
    if (o->bits == 16)
        put1(o, 0x66);
    put1(o, 0xb8 | (reg & 7));
    put(o, &v, 4);
}

/* [absolute address], register or /digit `reg`. */
static void put_absolute(struct out *o, unsigned reg, uint64_t at)
{
    if (o->bits == 64) {
        put1(o, 0x04 | (reg & 7) << 3);
        put1(o, 0x25);
    } else {
        put1(o, (o->bits == 16 ? 0x06 : 0x05) | (reg & 7) << 3);
    }
    put32(o, at);
}

/* What stands after the opcode, any operands. */
static void put_modrm(struct out *o)
{
    unsigned modrm = (unsigned)rng() & 0xff;
    if (!below(3)) {
        put_absolute(o, modrm >> 3, some_address());
        return;
    }
    if (below(3) == 0)
        modrm |= 0xc0;
    put1(o, modrm);
    if (modrm < 0xc0 && (modrm & 7) == 4 && o->bits != 16)
        put1(o, (unsigned)rng() & 0xff);
    if (modrm >> 6 == 1) {
        put1(o, (unsigned)rng() & 0xff);
    } else if (modrm >> 6 == 2) {
        put32(o, some_value(0));
    }
}

enum { M = 1, I8 = 2, IZ = 4 }; /* ModRM follows; an immediate of a byte; one of the operand size */
static const struct pattern {
    uint8_t bytes[4], n, how;
} patterns[] = {
    {{0x0f, 0x00}, 2, M},
    {{0x0f, 0x01}, 2, M},
    {{0x0f, 0x02}, 2, M},
    {{0x0f, 0x03}, 2, M},
    {{0x0f, 0x05}, 2, 0},
    {{0x0f, 0x06}, 2, 0},
    {{0x0f, 0x07}, 2, 0},
    {{0x0f, 0x08}, 2, 0},
    {{0x0f, 0x09}, 2, 0},
    {{0x0f, 0x20}, 2, M},
    {{0x0f, 0x21}, 2, M},
    {{0x0f, 0x22}, 2, M},
    {{0x0f, 0x23}, 2, M},
    {{0x0f, 0x30}, 2, 0},
    {{0x0f, 0x31}, 2, 0},
    {{0x0f, 0x32}, 2, 0},
    {{0x0f, 0x33}, 2, 0},
    {{0x0f, 0x34}, 2, 0},
    {{0x0f, 0x35}, 2, 0},
    {{0x0f, 0x37}, 2, 0},
    {{0x0f, 0x78}, 2, M},
    {{0x0f, 0x79}, 2, M},
    {{0x0f, 0xa0}, 2, 0},
    {{0x0f, 0xa1}, 2, 0},
    {{0x0f, 0xa2}, 2, 0},
    {{0x0f, 0xaa}, 2, 0},
    {{0x0f, 0xae}, 2, M},
    {{0x0f, 0xc7}, 2, M},
    {{0x0f, 0xb2}, 2, M},
    {{0x0f, 0xb4}, 2, M},
    {{0x0f, 0xb5}, 2, M},
    {{0x0f, 0x0b}, 2, 0},
    {{0x0f, 0x01, 0xc0}, 3, 0},
    {{0x0f, 0x01, 0xc1}, 3, 0},
    {{0x0f, 0x01, 0xc2}, 3, 0},
    {{0x0f, 0x01, 0xc3}, 3, 0},
    {{0x0f, 0x01, 0xc4}, 3, 0},
    {{0x0f, 0x01, 0xc8}, 3, 0},
    {{0x0f, 0x01, 0xc9}, 3, 0},
    {{0x0f, 0x01, 0xca}, 3, 0},
    {{0x0f, 0x01, 0xd0}, 3, 0},
    {{0x0f, 0x01, 0xd1}, 3, 0},
    {{0x0f, 0x01, 0xd4}, 3, 0},
    {{0x0f, 0x01, 0xd8}, 3, 0},
    {{0x0f, 0x01, 0xd9}, 3, 0},
    {{0x0f, 0x01, 0xda}, 3, 0},
    {{0x0f, 0x01, 0xdb}, 3, 0},
    {{0x0f, 0x01, 0xdc}, 3, 0},
    {{0x0f, 0x01, 0xdd}, 3, 0},
    {{0x0f, 0x01, 0xde}, 3, 0},
    {{0x0f, 0x01, 0xdf}, 3, 0},
    {{0x0f, 0x01, 0xf8}, 3, 0},
    {{0x0f, 0x01, 0xf9}, 3, 0},
    {{0x66, 0x0f, 0x38, 0x80}, 4, M},
    {{0x66, 0x0f, 0x38, 0x81}, 4, M},
    {{0x66, 0x0f, 0x38, 0x82}, 4, M},
    {{0x66, 0x0f, 0xc7}, 3, M},
    {{0xf3, 0x0f, 0xc7}, 3, M},
    {{0xf3, 0x0f, 0xae}, 3, M},
    {{0x8e}, 1, M},
    {{0x8c}, 1, M},
    {{0x8b}, 1, M},
    {{0x89}, 1, M},
    {{0x06}, 1, 0},
    {{0x07}, 1, 0},
    {{0x0e}, 1, 0},
    {{0x16}, 1, 0},
    {{0x17}, 1, 0},
    {{0x1e}, 1, 0},
    {{0x1f}, 1, 0},
    {{0x60}, 1, 0},
    {{0x61}, 1, 0},
    {{0x62}, 1, M},
    {{0x63}, 1, M},
    {{0x6c}, 1, 0},
    {{0x6e}, 1, 0},
    {{0xf3, 0x6d}, 2, 0},
    {{0xf3, 0x6f}, 2, 0},
    {{0x9c}, 1, 0},
    {{0x9d}, 1, 0},
    {{0xc4}, 1, M},
    {{0xc5}, 1, M},
    {{0xc8}, 1, IZ},
    {{0xc9}, 1, 0},
    {{0xca}, 1, IZ},
    {{0xcb}, 1, 0},
    {{0xcc}, 1, 0},
    {{0xcd}, 1, I8},
    {{0xce}, 1, 0},
    {{0xcf}, 1, 0},
    {{0x48, 0xcf}, 2, 0},
    {{0x66, 0xcf}, 2, 0},
    {{0xf1}, 1, 0},
    {{0xf4}, 1, 0},
    {{0xfa}, 1, 0},
    {{0xfb}, 1, 0},
    {{0xfb, 0xf4}, 2, 0},
    {{0xff}, 1, M},
    {{0x48, 0xff}, 2, M},
    {{0xe4}, 1, I8},
    {{0xe6}, 1, I8},
    {{0xec}, 1, 0},
    {{0xee}, 1, 0},
    {{0xed}, 1, 0},
    {{0xef}, 1, 0},
    {{0xf3, 0xa4}, 2, 0},
    {{0xf3, 0xab}, 2, 0},
    {{0xf2, 0xae}, 2, 0},
    {{0xf3, 0x48, 0xa5}, 3, 0},
    {{0xf0, 0x0f, 0xb1}, 3, M},
    {{0xf0, 0x48, 0x0f, 0xc7}, 4, M},
    {{0xdd}, 1, M},
    {{0xd9}, 1, M},
    {{0xdb}, 1, M},
    {{0x0f, 0x77}, 2, 0},
    {{0xd7}, 1, 0},
    {{0xf3, 0x90}, 2, 0},
    {{0x0f, 0x01, 0xcf}, 3, 0},
    {{0x0f, 0xc3}, 2, M},
};

static void put_pattern(struct out *o)
{
    const struct pattern *p = &patterns[below(ARRAY_LEN(patterns))];
    static const uint8_t prefix[] = {0x66, 0x67, 0x2e, 0x36, 0x64, 0x65, 0xf2, 0xf3, 0x48, 0x4f, 0xf0};
    if (!below(8))
        put1(o, prefix[below(ARRAY_LEN(prefix))]);
    put(o, p->bytes, p->n);
    if (p->how & M)
        put_modrm(o);
    if (p->how & I8)
        put1(o, (unsigned)rng() & 0xff);
    if (p->how & IZ)
        put32(o, rng() & below(2) * 0xffff);
}

static uint32_t some_msr(bool amd)
{
    static const uint32_t common[] = {0x10,       0x1b,       0x3a,       0x3b,       0x9e,       0x174,
                                      0x175,      0x176,      0x1a0,      0x1d9,      0x200,      0x277,
                                      0x2ff,      0x6e0,      0xda0,      0xc0000080, 0xc0000081, 0xc0000082,
                                      0xc0000083, 0xc0000084, 0xc0000100, 0xc0000101, 0xc0000102, 0xc0000103};
    static const uint32_t svm[] = {0xc0010010, 0xc0010015, 0xc0010111, 0xc0010112, 0xc0010113,
                                   0xc0010114, 0xc0010115, 0xc0010116, 0xc0010117, 0xc0000104,
                                   0xc0010016, 0xc0010017, 0xc001001a, 0xc0010020, 0xc0010118};
    switch (below(6)) {
    case 0: return 0x800 + below(0x40);
    case 1: return amd ? svm[below(ARRAY_LEN(svm))] : 0x480 + below(0x16);
    case 2: return (uint32_t)rng() & 0xc0011fff;
    default: return common[below(ARRAY_LEN(common))];
    }
}

static void put_store(struct out *o, uint64_t at, uint64_t v)
{
    if (o->bits == 16)
        put1(o, 0x66);
    put1(o, 0xc7);
    put_absolute(o, 0, at);
    put(o, &v, 4);
}

static void put_jump(struct out *o, unsigned opcode, uint64_t at, uint64_t to)
{
    put1(o, opcode);
    put32(o, to - (at + o->n + (o->bits == 16 ? 2 : 4)));
}

static void put_some(struct out *o, uint64_t at)
{
    switch (below(22)) {
    case 0 ... 5: put_pattern(o); break;
    case 6: put_load(o, below(8), some_value(0)); break;
    case 7: /* an MSR */
        put_load(o, GPR_RCX, some_msr(o->amd));
        put_load(o, GPR_RAX, below(2) ? some_address() & 0xffffffff : rng() & 0xffffffff & BIT(below(32)));
        put_load(o, GPR_RDX, below(3) ? 0 : some_value(0) & 0xffffffff);
        put(o, below(4) ? "\x0f\x30" : "\x0f\x32", 2);
        break;
    case 8: { /* a port; ports that end the machine are the PC's business */
        static const uint16_t ports[] = {0x20, 0x21, 0x40,  0x43,  0x60,  0x64,  0x70,  0x71,  0x92,  0xa0,  0xb2,
                                         0xb3, 0xe9, 0x2f8, 0x3f8, 0x3d4, 0x3d5, 0x510, 0x511, 0x514, 0xcf8, 0xcfc};
        put_load(o, GPR_RDX, below(2) ? ports[below(ARRAY_LEN(ports))] : rng() & 0xffff);
        put1(o, (unsigned)(0xec | below(4)));
        break;
    }
    case 9: /* stores, over code too */ put_store(o, below(2) ? at + below(FUZZ_SIZE) : some_address(), rng()); break;
    case 10: /* string stores */
        put_load(o, GPR_RDI, some_address());
        put_load(o, GPR_RCX, rng() >> below(64) & 0x3fff);
        put(o, below(2) ? "\xf3\xaa" : "\xf3\xa4", 2);
        break;
    case 11: /* a control register, near what it is */
        put(o, "\x0f\x20", 2);
        put1(o, 0xc0 | (unsigned)((const uint8_t[]){0, 3, 4, 0}[below(4)] << 3));
        if (o->bits == 64)
            put1(o, 0x48);
        put(o, "\x0f\xba\xf8", 3); /* btc eax, bit */
        put1(o, below(32));
        put(o, "\x0f\x22", 2);
        put1(o, 0xc0 | (unsigned)((const uint8_t[]){0, 3, 4, 0}[below(4)] << 3));
        break;
    case 12: /* IPIs to itself; the local APIC's registers */
        if (below(2)) {
            put_store(o, PC_LAPIC + 0x310, 0);
            put_store(o, PC_LAPIC + 0x300, (rng() & 0x7ff) | 0x4000 | below(4) << 18);
        } else {
            put_store(o, PC_LAPIC + (rng() & 0xff0), rng() >> below(32));
        }
        break;
    case 13: /* far transfers */
        if (o->bits != 64 && below(2)) {
            put1(o, below(2) ? 0xea : 0x9a);
            put32(o, below(2) ? at + below(FUZZ_SIZE) : some_address());
            put(o, (const uint16_t[]){(uint16_t)(8 * below(9))}, 2);
        } else {
            for (unsigned i = 2 + below(4); i > 0; i--) {
                put1(o, 0x68);
                put32(o, (const uint64_t[]){at + below(FUZZ_SIZE), 8u * below(9) + below(4), some_address(),
                                            rng() & 0x3ffff}[below(4)]);
            }
            put(o, below(2) ? "\x48\xcb" : "\x48\xcf", 2);
        }
        break;
    case 14:
    case 15: /* virtual machines: change something, enter */
        if (o->amd) {
            static const uint8_t what[] = {0xd8, 0xd8, 0xd8, 0xda, 0xdb, 0xdc, 0xdd, 0xdf, 0xd9};
            for (unsigned i = below(3); i > 0; i--)
                put_store(o, FUZZ_VMCB + (rng() & (below(2) ? 0xffc : 0xfc)), some_value(0));
            put_load(o, GPR_RAX, below(6) ? FUZZ_VMCB : some_address());
            put(o, "\x0f\x01", 2);
            put1(o, what[below(ARRAY_LEN(what))]);
        } else {
            for (unsigned i = below(3); i > 0; i--) {
                put_load(o, GPR_RAX, vmcs_rows[below(F_COUNT)].encoding);
                put_load(o, GPR_RCX, some_value(0));
                put(o, below(5) ? "\x0f\x79\xc1" : "\x0f\x78\xc1", 3);
            }
            put(o, below(2) ? "\x0f\x01\xc2" : "\x0f\x01\xc3", 3);
        }
        break;
    case 16: /* pointers to VMCSs, INVEPT and the like with operands in memory */
        put_store(o, RIG_STACK - 0x800, some_address());
        put_store(o, RIG_STACK - 0x7fc, below(4) ? 0 : rng());
        put_load(o, GPR_RAX, below(5));
        put(o, (const char *[]){"\x0f\xc7", "\x66\x0f\xc7", "\xf3\x0f\xc7", "\x0f\xc7"}[below(4)],
            2 + (unsigned)below(2));
        put_absolute(o, 6 + below(2), RIG_STACK - 0x800);
        break;
    case 17: { /* vector instructions of any kind */
        uint8_t v[] = {0x62, (uint8_t)(0xf1 + below(3)), (uint8_t)(0x7c | below(4)), (uint8_t)(rng() & 0x7f),
                       (uint8_t)rng()};
        uint8_t w[] = {0xc4, (uint8_t)(0xe1 + below(3)), (uint8_t)(rng() & 0xff), (uint8_t)rng()};
        if (below(2))
            put(o, v, sizeof v);
        else
            put(o, w, sizeof w);
        put_modrm(o);
        break;
    }
    case 18: put_jump(o, below(2) ? 0xe9 : 0xe8, at, at + below(FUZZ_SIZE)); break;
    case 19: /* any bytes */
        for (unsigned i = 1 + below(6); i > 0; i--)
            put1(o, (unsigned)rng() & 0xff);
        break;
    case 20: /* flags: TF, NT, AC, IF, ... */
        put1(o, 0x68);
        put32(o, rng() & 0x3f7fd7);
        put1(o, 0x9d);
        break;
    default: /* tables moved */
        if (below(4)) {
            put_pattern(o);
            break;
        }
        put_store(o, RIG_STACK - 0x700, some_value(0));
        put_store(o, RIG_STACK - 0x6fc, some_address());
        put(o, "\x0f\x01", 2);
        put_absolute(o, 2 + below(2), RIG_STACK - 0x700);
        break;
    }
}

/* enter: begins with an entry into the guest. */
static void write_code(struct mem *m, uint64_t at, unsigned bits, bool amd, bool enter)
{
    static struct out o;
    memset(&o, 0, sizeof o);
    o.bits = bits;
    o.amd = amd;
    if (enter && amd)
        put_load(&o, GPR_RAX, FUZZ_VMCB);
    if (enter)
        put(&o, amd ? "\x0f\x01\xd8" : "\x0f\x01\xc2", 3);
    while (o.n < FUZZ_SIZE - 80)
        put_some(&o, at);
    put_jump(&o, 0xe9, at, at);
    mem_write(m, HPA(at), o.b, o.n);
}

/* --- a machine ---------------------------------------------------------------------------------------------------- */

struct outside {
    unsigned long bytes;
};
static void on_byte(void *o, uint8_t byte)
{
    ((struct outside *)o)->bytes++;
}
static int on_want(void *o)
{
    return below(3) ? -1 : (int)below(256);
}

static struct pc *machine(struct outside *w, const char *model, unsigned cpus)
{
    static uint32_t image[16];
    char error[PC_ERROR_MAX];
    const uint32_t header[8] = {0x1badb002, 0x10000, -(0x1badb002u + 0x10000u), 0x200000, 0x200000, 0, 0, 0x200020};
    memset(image, 0xf4, sizeof image);
    memcpy(image, header, sizeof header);
    struct pc_config config = {.platform = {.opaque = w},
                               .model = model,
                               .cpus = cpus,
                               .mem = FUZZ_MEM,
                               .image = {.name = "fuzz", .data = image, .size = sizeof image}};
    for (unsigned i = 0; i < PC_SERIALS; i++)
        config.platform.serial[i] = (struct pc_serial){.opaque = w, .out = on_byte, .in = on_want};
    struct pc *pc = pc_create(&config, error);
    if (!pc)
        fail_msg("%s", error);
    return pc;
}

static struct seg descriptor(struct rig *r, unsigned sel, unsigned rpl)
{
    uint64_t d = 0;
    mem_read(r->mem, HPA(RIG_GUEST_GDT + sel), &d, 8);
    uint32_t limit = (uint32_t)((d & 0xffff) | (d >> 32 & 0xf0000));
    return (struct seg){.sel = (uint16_t)(sel | rpl),
                        .base = (d >> 16 & 0xffffff) | (d >> 32 & 0xff000000),
                        .limit = d & BIT(55) ? limit << 12 | 0xfff : limit,
                        .ar = d >> 40 & 0xf0ff};
}

/* The processor in a mode, with the rig's tables. */
static unsigned start(struct rig *r, enum rig_mode mode, bool user)
{
    struct cpu *c = r->c;
    bool wide = mode == RIG_LONG, flat = mode != RIG_REAL && mode != RIG_V86 && mode != RIG_PROT16;
    rig_tables(r);
    rig_descriptors(r, wide);
    rig_store(r, RIG_GUEST_GDT + 0x38, 0x00cffb000000ffff); /* 32-bit user code */
    rig_store(r, RIG_GUEST_GDT + 0x40, 0x0000e50000300000); /* a task gate */
    for (unsigned i = 0; i < 4; i++)
        rig_store(r, FUZZ_PAE + 8 * i, (RIG_GUEST_PD + 0) | 1);
    cpu_set_rflags(c, FLAG_1);
    c->cr4 = mode == RIG_LONG ? CR4_PAE | CR4_OSFXSR | CR4_OSXSAVE : mode == RIG_PROT32 ? CR4_PAE : CR4_PSE;
    c->efer = wide ? EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE : 0;
    c->cr0 = CR0_ET | CR0_NE | (mode == RIG_REAL ? 0 : CR0_PE) |
             (wide || mode == RIG_PAGED32 || mode == RIG_V86 ? CR0_PG : 0);
    c->cr3 = wide ? RIG_HOST_PML4 : mode == RIG_PAGED32 || mode == RIG_V86 ? RIG_GUEST_PD32 : FUZZ_PAE;
    if (wide)
        c->xcr0 = 7;
    c->cpl = mode == RIG_V86 || (user && flat) ? 3 : 0;
    for (unsigned i = 0; i <= SEG_GS; i++) {
        bool code = i == SEG_CS;
        if (flat)
            c->seg[i] = c->cpl ? descriptor(r, code ? (wide ? 0x20 : 0x38) : 0x28, 3)
                               : descriptor(r, code ? (wide ? 0x08 : 0x18) : 0x10, 0);
        else
            c->seg[i] = (struct seg){.sel = code ? FUZZ_HOST >> 4 : 0,
                                     .base = code ? FUZZ_HOST : 0,
                                     .limit = 0xffff,
                                     .ar = mode == RIG_V86 ? 0xf3
                                           : code          ? 0x9b
                                                           : 0x93};
    }
    c->seg[SEG_TR] = descriptor(r, 0x30, 0);
    c->seg[SEG_LDTR] = (struct seg){.ar = AR_UNUSABLE};
    c->gdtr = (struct dtable){RIG_GUEST_GDT, 0x47};
    c->idtr = (struct dtable){mode == RIG_REAL ? 0 : RIG_GUEST_IDT, 0xfff};
    c->gpr[GPR_RSP] = RIG_STACK - 0x400;
    c->rip = flat ? FUZZ_HOST : 0;
    cpu_set_rflags(c, FLAG_1 | (mode == RIG_V86 ? FLAG_VM : 0) | (below(2) ? FLAG_IF : 0));
    cpu_update_translation(c);
    return wide ? 64 : flat ? 32 : 16;
}

static bool has_field(void *opaque, uint32_t encoding, uint64_t *value)
{
    return vmx_vmread(((struct rig *)opaque)->c, encoding, value) == VMX_SUCCEED;
}

static void prepare_vmx(struct rig *r, enum rig_mode mode)
{
    struct cpu *c = r->c;
    uint32_t revision = VMCS_REVISION;
    rig_bytes(r, RIG_VMXON, &revision, 4);
    rig_bytes(r, RIG_VMCS, &revision, 4);
    rig_bytes(r, RIG_VMCS2, &revision, 4);
    c->cr4 |= CR4_VMXE;
    c->cr0 |= CR0_NE;
    rig_vmcs(r, mode);
    rig_w(r, VMCS_HOST_CS_SELECTOR, c->seg[SEG_CS].sel);
    rig_w(r, VMCS_HOST_TR_SELECTOR, 0x30);
    rig_w(r, VMCS_HOST_TR_BASE, RIG_GUEST_TSS);
    rig_w(r, VMCS_HOST_GDTR_BASE, RIG_GUEST_GDT);
    rig_w(r, VMCS_HOST_IDTR_BASE, RIG_GUEST_IDT);
    rig_w(r, VMCS_HOST_RIP, FUZZ_HOST + below(FUZZ_SIZE));
    rig_w(r, VMCS_HOST_RSP, RIG_STACK - 0x400);
    rig_w(r, VMCS_IO_BITMAP_A, RIG_IOBITMAP_A);
    rig_w(r, VMCS_IO_BITMAP_B, RIG_IOBITMAP_B);
    rig_w_if(r, VMCS_MSR_BITMAPS, RIG_MSRBITMAP);
    rig_w_if(r, VMCS_VIRTUAL_APIC_ADDRESS, RIG_VAPIC);
    struct vmenter_vmcs v;
    struct vmenter_vmx_caps caps;
    vmx_caps_publish(&r->x->caps, &caps);
    struct vmenter_vmx_host host = rig_check(r, NULL, NULL).host;
    host.ia32e_mode = c->efer & EFER_LMA ? VMENTER_YES : VMENTER_NO;
    vmenter_vmcs_read(&v, has_field, r);
    for (unsigned i = below(3) * below(20); i > 0; i--) {
        uint64_t old = 0;
        uint32_t e = vmcs_rows[below(F_COUNT)].encoding;
        if (vmenter_vmcs_get(&v, e, &old))
            vmenter_vmcs_set(&v, e, some_value(old));
    }
    if (below(2)) { /* everything that has an address of its own, on */
        uint64_t p = 0;
        vmenter_vmcs_get(&v, VMCS_PROC_CONTROLS, &p);
        vmenter_vmcs_set(&v, VMCS_PROC_CONTROLS, p | VMX_PROC_ACTIVATE_SECONDARY_CONTROLS | rng());
        vmenter_vmcs_set(&v, VMCS_PROC2_CONTROLS, rng() | VMX_PROC2_ENABLE_EPT);
        vmenter_vmcs_set(&v, VMCS_PIN_CONTROLS, rng());
    }
    if (below(8) && vmenter_vmx_round(&v, &caps, &host) < 0)
        return;
    for (unsigned i = 0; i < F_COUNT; i++) {
        uint64_t x;
        if (r->x->caps.field[i] && vmcs_rows[i].type != VMCS_TYPE_READ_ONLY &&
            vmenter_vmcs_get(&v, vmcs_rows[i].encoding, &x))
            rig_w(r, vmcs_rows[i].encoding, x);
    }
}

static void prepare_svm(struct rig *r, enum rig_mode mode)
{
    struct cpu *c = r->c;
    struct vmcb v;
    struct vmenter_svm_caps caps;
    memset(&v, 0, sizeof v);
    c->efer |= EFER_SVME;
    c->msr.vm_hsave_pa = FUZZ_HSAVE;
    vmcb_set_intercept(&v, SVM_EXIT_VMRUN);
    v.control.guest_asid = 1 + below(3);
    v.control.nested_ctl = below(3) ? VMCB_NP_ENABLE : 0;
    v.control.ncr3 = RIG_HOST_PML4;
    v.control.iopm_base_pa = FUZZ_IOPM;
    v.control.msrpm_base_pa = FUZZ_MSRPM;
    v.save.g_pat = 0x0007040600070406;
    v.save.efer = EFER_SVME | (mode == RIG_LONG ? EFER_LME | EFER_LMA : 0);
    v.save.cr0 = c->cr0;
    v.save.cr3 = c->cr3;
    v.save.cr4 = c->cr4;
    v.save.cr0 =
        CR0_ET | CR0_NE | (mode == RIG_REAL ? 0 : CR0_PE) | (mode == RIG_LONG || mode == RIG_PAGED32 ? CR0_PG : 0);
    v.save.cr3 = mode == RIG_LONG ? RIG_GUEST_PML4 : RIG_GUEST_PD32;
    v.save.cr4 = mode == RIG_LONG ? CR4_PAE : CR4_PSE;
    struct vmcb_seg *s[] = {&v.save.es, &v.save.cs, &v.save.ss, &v.save.ds, &v.save.fs, &v.save.gs};
    for (unsigned i = 0; i < 6; i++) {
        bool code = i == 1;
        s[i]->limit = mode == RIG_REAL ? 0xffff : 0xffffffff;
        s[i]->attrib = (uint16_t)(mode == RIG_REAL ? 0x093 : code ? (mode == RIG_LONG ? 0xa9b : 0xc9b) : 0xc93);
        s[i]->sel = (uint16_t)(mode == RIG_REAL ? 0 : code ? 8 : 0x10);
    }
    v.save.gdtr.base = RIG_GUEST_GDT;
    v.save.gdtr.limit = 0x47;
    v.save.idtr.base = mode == RIG_REAL ? 0 : RIG_GUEST_IDT;
    v.save.idtr.limit = 0xfff;
    v.save.rip = mode == RIG_REAL ? 0 : FUZZ_GUEST;
    v.save.cs.base = mode == RIG_REAL ? FUZZ_GUEST : 0;
    v.save.rsp = RIG_STACK & (mode == RIG_REAL ? 0xffff : ~0u);
    v.save.rflags = FLAG_1;
    v.save.dr6 = 0xffff0ff0;
    v.save.dr7 = 0x400;
    for (unsigned i = below(3) * below(12); i > 0; i--) {
        uint8_t *at = (uint8_t *)&v + (below(2) ? 0x400 + 8 * below(80) : 8 * below(0x20));
        store64(at, some_value(load64(at)));
    }
    svm_caps_init(&caps, c->model);
    struct vmenter_svm_host host = {.paging = c->cr0 & CR0_PG ? VMENTER_YES : VMENTER_NO,
                                    .long_mode = c->efer & EFER_LMA ? VMENTER_YES : VMENTER_NO,
                                    .read_memory = rig_read_memory,
                                    .opaque = r};
    if (below(8))
        vmenter_svm_round(&v, NULL, &caps, &host);
    rig_bytes(r, FUZZ_VMCB, &v, sizeof v);
}

/* Changes of the structures that lie in memory. */
static void damage(struct rig *r)
{
    static const uint32_t pages[] = {
        RIG_GUEST_GDT, RIG_GUEST_IDT, RIG_GUEST_TSS,       RIG_HOST_PML4,        RIG_GUEST_PML4,    RIG_GUEST_PDPT,
        RIG_GUEST_PD,  RIG_EPT_PML4,  RIG_EPT_PDPT,        RIG_EPT_PD,           RIG_GUEST_PD32,    RIG_VAPIC,
        RIG_MSRAREA,   RIG_VMCS,      (uint32_t)FUZZ_VMCB, (uint32_t)FUZZ_HSAVE, (uint32_t)FUZZ_PAE};
    uint32_t page = pages[below(ARRAY_LEN(pages))];
    uint64_t at = page + 8 * (below(3) ? below(10) : below(512)), old = 0;
    mem_read(r->mem, HPA(at), &old, 8);
    rig_store(r, at, below(3) ? some_value(old) : old ^ BIT(below(64)) ^ BIT(40 + below(8)));
}

static void run_case(uint64_t seed, unsigned long *entries)
{
    static const char *const models[] = {"max", "max-amd", "max", "max-amd", "penryn", "icelake-server,-vpid"};
    static const enum rig_mode modes[] = {RIG_LONG,   RIG_LONG,   RIG_LONG,    RIG_REAL,
                                          RIG_PROT16, RIG_PROT32, RIG_PAGED32, RIG_V86};
    struct outside w = {0};
    seed_rng(seed);
    alarm(FUZZ_CASE_MAX);
    unsigned cpus = 1 + !below(6);
    struct pc *pc = machine(&w, models[below(ARRAY_LEN(models))], cpus);
    struct rig r = {.mem = pc->machine->mem, .c = pc->machine->cpu[0].cpu, .x = vmx_of(pc->machine->cpu[0].cpu)};
    struct cpu *c = r.c;
    r.model = *c->model;
    bool amd = model_is_amd(c->model);
    enum rig_mode mode = modes[below(ARRAY_LEN(modes))], guest = modes[below(ARRAY_LEN(modes))];
    bool user = !below(6);
    c->activity = ACTIVITY_ACTIVE;
    unsigned bits = start(&r, mode, user), guest_bits = guest == RIG_LONG                             ? 64
                                                        : guest == RIG_PROT32 || guest == RIG_PAGED32 ? 32
                                                                                                      : 16;
    bool virtual = c->cpl == 0 && (mode == RIG_LONG || mode == RIG_PAGED32) && below(4);
    if (virtual && !amd && r.x) {
        prepare_vmx(&r, guest);
    } else if (virtual && amd && c->svm) {
        prepare_svm(&r, guest);
        start(&r, mode, user);
        c->efer |= EFER_SVME;
        cpu_update_translation(c);
    }
    write_code(r.mem, FUZZ_HOST, bits, amd, virtual && below(8));
    write_code(r.mem, FUZZ_GUEST, guest_bits, amd, false);
    for (unsigned i = 0; i < 256; i++) { /* handlers go on somewhere */
        uint8_t h[16];
        int32_t rel = (int32_t)(FUZZ_HOST + below(FUZZ_SIZE) - (RIG_HANDLER + 16 * i + 9));
        memset(h, 0x90, sizeof h);
        if (!below(16))
            h[0] = 0xf4;
        h[4] = 0xe9;
        memcpy(h + 5, &rel, 4);
        if (!below(8))
            memcpy(h, below(2) ? "\x48\xcf" : "\x66\xcf", 2);
        rig_bytes(&r, RIG_HANDLER + 16 * i, h, sizeof h);
        uint32_t vector = (uint32_t)(FUZZ_HOST << 12 | below(FUZZ_SIZE)); /* real mode's */
        rig_bytes(&r, 4 * i, &vector, 4);
    }
    for (unsigned i = below(4) ? below(5) : below(60); i > 0; i--)
        damage(&r);
    static const uint32_t smbase[] = {
        0x30000, 0x30000, 0xa0000, 0xffff8000, 0xfffff000, 0x3f0000, 0x3f8000, 0xfee00000 - 0x8000, 0x18000};
    c->msr.smbase = smbase[below(ARRAY_LEN(smbase))];
    for (unsigned g = 0; g < 16; g++)
        if (g != GPR_RSP)
            c->gpr[g] = some_value(FUZZ_VMCB);

    enum cpu_stop why = STOP_NONE;
    for (unsigned turn = 0; turn < 10; turn++) {
        uint64_t budget = below(2) ? below(200) : below(3000);
        pc->current = cpus > 1 ? turn % cpus : 0;
        struct cpu *d = pc->machine->cpu[pc->current].cpu;
        uint64_t before = d->icount;
        if (!below(3))
            cpu_attend(d, 1u << below(5));
        why = cpu_run(d, budget);
        if (d->icount - before > budget + FUZZ_OVER)
            fail_msg("FUZZ_SEED=%llu: %llu instructions, asked for %llu", (unsigned long long)seed,
                     (unsigned long long)(d->icount - before), (unsigned long long)budget);
        if (why == STOP_IDLE) {
            d->skipped += rng() >> (20 + below(40));
            cpu_update_deadline(d);
            cpu_attend(d, below(2) ? ATT_NMI : ATT_SMI);
        } else if (why == STOP_SHUTDOWN || why == STOP_RESET) {
            if (cpus == 1)
                break;
        } else if (why == STOP_KICK) {
            pc->outcome = PC_RUNNING;
        }
        pc->tsc = MAX(pc->tsc, cpu_tsc(d) - d->msr.tsc_adjust);
        for (unsigned k = 0; k < cpus; k++) {
            struct cpu *e = pc->machine->cpu[k].cpu;
            e->skipped += pc->tsc - (cpu_tsc(e) - e->msr.tsc_adjust);
            cpu_update_deadline(e);
        }
        board_run(pc, pc_now(pc));
        if (!below(3))
            damage(&r); /* behind the processors' backs */
        mem_code_bump(r.mem);
    }
    *entries += c->stats.entries;
    if (getenv("FUZZ_SHOW"))
        printf("seed %llu: %s mode %d guest %d virtual %d: stop %d, %llu instructions, %llu entries, rip %llx\n",
               (unsigned long long)seed, c->model->name, mode, guest, virtual, why, (unsigned long long)c->icount,
               (unsigned long long)c->stats.entries, (unsigned long long)c->rip);
    static char text[1 << 16]; /* what a dump shows of it */
    if (c->vmx && vmx_on(c))
        vmx_dump(c, text, sizeof text);
    if (c->vmx)
        vmx_explain(c, text, sizeof text);
    if (c->svm)
        svm_explain(c, text, sizeof text);
    pc_destroy(pc);
    alarm(0);
}

static long grown_to(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_maxrss;
}

static void test_processor(void **unused)
{
    const char *n = getenv("VMENTER_FUZZ"), *s = getenv("FUZZ_SEED");
    unsigned long cases = n ? strtoul(n, NULL, 0) : 1500, entries = 0;
    uint64_t first = s ? strtoull(s, NULL, 0) : 1;
    long early = 0;
    signal(SIGALRM, too_long);
    for (unsigned long i = 0; i < cases; i++) {
        if (getenv("FUZZ_TRACE")) {
            fprintf(stderr, "FUZZ_SEED=%llu\n", (unsigned long long)(first + i));
        }
        run_case(first + i, &entries);
        if (i == cases / 4)
            early = grown_to();
    }
    printf("%lu cases from FUZZ_SEED=%llu, %lu entries, %ld KiB, then %ld\n", cases, (unsigned long long)first, entries,
           early, grown_to());
    if (cases >= 1000) {
        assert_true(entries > cases / 4);
        assert_true(grown_to() < early + early / 2 + 65536);
    }
}

/* A repeated string instruction takes time by what it does: it ends neither clock nor budget, wherever it goes. */
static void test_strings(void **unused)
{
    static const uint8_t code[][3] = {{0xf3, 0xaa}, {0xf3, 0xab}, {0xf3, 0xa5},
                                      {0xf3, 0xac}, {0xf3, 0x6e}, {0xf3, 0x6d}};
    static const uint32_t at[] = {0x100000, 0x80000000, PC_HPET, 0xa0000};
    for (unsigned i = 0; i < ARRAY_LEN(code) * ARRAY_LEN(at); i++) {
        struct outside w = {0};
        struct pc *pc = machine(&w, "max", 1);
        struct rig r = {.mem = pc->machine->mem, .c = pc->machine->cpu[0].cpu};
        struct cpu *c = r.c;
        start(&r, RIG_PROT32, false);
        rig_bytes(&r, FUZZ_HOST, code[i / ARRAY_LEN(at)], 2);
        c->gpr[GPR_RCX] = 0x10000000;
        c->gpr[GPR_RSI] = c->gpr[GPR_RDI] = at[i % ARRAY_LEN(at)];
        c->gpr[GPR_RDX] = 0x80;
        uint64_t before = cpu_tsc(c);
        while (cpu_tsc(c) - before < 20000) {
            enum cpu_stop why = cpu_run(c, 20000 - (cpu_tsc(c) - before));
            assert_true(why == STOP_BUDGET || why == STOP_KICK); /* the latter: a device has something to do */
        }
        uint64_t done = 0x10000000 - c->gpr[GPR_RCX], took = cpu_tsc(c) - before;
        if (c->rip != FUZZ_HOST || !done || done > 20000 * 1024 || took < 20000 || took > 30000)
            fail_msg("%u: %llu iterations in %llu ticks, RIP %llx", i, (unsigned long long)done,
                     (unsigned long long)took, (unsigned long long)c->rip);
        pc_destroy(pc);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_strings), cmocka_unit_test(test_processor)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
