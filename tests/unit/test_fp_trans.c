/* SPDX-License-Identifier: MIT
 *
 * test_fp_trans.c: the transcendental functions of hosts that are not x86-64, on any host: known values, and the same
 * bits everywhere. What silicon makes of them is compared by test_cpu_fpu_soft.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>

#include "src/cpu/fp_trans.h"

typedef unsigned __int128 u128;

enum function { SIN, COS, TAN, ATAN2, EXP2M1, YLOG2, YLOG2P1, FUNCTIONS };
static struct fp_wide evaluate(enum function f, const struct fp_num *y, const struct fp_num *x)
{
    switch (f) {
    case SIN: return fp_sin(x);
    case COS: return fp_cos(x);
    case TAN: return fp_tan(x);
    case ATAN2: return fp_atan2(y, x);
    case EXP2M1: return fp_exp2m1(x);
    case YLOG2: return fp_ylog2(y, x);
    default: return fp_ylog2p1(y, x);
    }
}

/* Sign, exponent, significand: sig * 2^(exp - 63). */
struct operand {
    bool sign;
    int exp;
    uint64_t sig;
};
/* The first 128 bits of the exact value; pi in the reduction of SIN, COS and TAN is the 66-bit one. */
/* clang-format off */
static const struct {
    enum function f;
    struct operand y, x;
    struct {
        bool sign;
        int exp;
        uint64_t hi, lo;
    } value;
} known[] = {
    {SIN, {0, 0, 0x8000000000000000}, {0, -20, 0xa69e0d37f2a74de4}, {0, -20, 0xa69e0d37f2784041, 0x131d179ef59b3ac6}},
    {SIN, {0, 0, 0x8000000000000000}, {0, -1, 0x8c5c7fd0a6a3a450}, {0, -1, 0x856f0a767d6803c3, 0xa8c92a3cfa204edb}},
    {SIN, {0, 0, 0x8000000000000000}, {0, 0, 0x892f902bd23f0824}, {0, -1, 0xe0c7a0d0528eeea5, 0xb11c020297a69899}},
    {SIN, {0, 0, 0x8000000000000000}, {0, 1, 0x9531985d5d9dc9f8}, {0, -1, 0xb97eca0ac728a8f4, 0x0768f793c859d404}},
    {SIN, {0, 0, 0x8000000000000000}, {0, 5, 0x81e74ef5e8e25d94}, {0, -1, 0xdf516d4a5e462498, 0x2b66092b5b37529f}},
    {SIN, {0, 0, 0x8000000000000000}, {0, 30, 0x9600a35a099950d8}, {0, -1, 0x99fe1371e0e1459c, 0x0cf08356d063f883}},
    {SIN, {0, 0, 0x8000000000000000}, {0, 62, 0x91e20b8f6b0d549b}, {0, -1, 0xe7efef2ee1817850, 0xb84e54d3d7f9131b}},
    {SIN, {0, 0, 0x8000000000000000}, {0, 1, 0xc90fdaa22168c235}, {1, -65, 0xffffffffffffffff, 0xffffffffffffffff}},
    {COS, {0, 0, 0x8000000000000000}, {0, -20, 0x8d116ece1738f7d9}, {0, -1, 0xffffffffff648795, 0x82263c8b9902315f}},
    {COS, {0, 0, 0x8000000000000000}, {0, -1, 0xd3ac94af0f21ddb6}, {0, -1, 0xad5cac4f11c084fa, 0x85a0d4449bb016f6}},
    {COS, {0, 0, 0x8000000000000000}, {1, 0, 0xf28c105d1fb17c23}, {1, -2, 0xa30d04a26e2f9853, 0xd170ac3ad199f84f}},
    {COS, {0, 0, 0x8000000000000000}, {0, 1, 0xa09f76b5a170b338}, {1, -1, 0xce92fe56e76c40cc, 0x7b688f2240499e62}},
    {COS, {0, 0, 0x8000000000000000}, {1, 5, 0x8fd630f1f29d0da9}, {1, -3, 0xac61127aa681ff82, 0xe0b7f2bb6421662b}},
    {COS, {0, 0, 0x8000000000000000}, {1, 30, 0xe58cda1495e60af5}, {1, -1, 0xc679f197b7da9efd, 0x2bbdd6d6cb089a6e}},
    {COS, {0, 0, 0x8000000000000000}, {0, 62, 0xb898d190f9ebdacc}, {0, -1, 0xdfa3e8cdf67876eb, 0x77a6ab0026fa6d6b}},
    {COS, {0, 0, 0x8000000000000000}, {0, 1, 0xc90fdaa22168c235}, {1, -1, 0xffffffffffffffff, 0xffffffffffffffff}},
    {TAN, {0, 0, 0x8000000000000000}, {0, -20, 0xdbc496cb8e81973e}, {0, -20, 0xdbc496cb8f598a41, 0x2d1c344f8095baaa}},
    {TAN, {0, 0, 0x8000000000000000}, {0, -1, 0xeb4cb2424a23d596}, {0, 0, 0xa7cc3e75b66f71a5, 0x9188e32ad4f19319}},
    {TAN, {0, 0, 0x8000000000000000}, {0, 0, 0x9e27a1c08a6a63ec}, {0, 1, 0xb7b7fc7c02f7abd5, 0x5428ba2634d1f536}},
    {TAN, {0, 0, 0x8000000000000000}, {1, 1, 0x8f6d05584ef8aa38}, {0, 0, 0xa17cb072250c57d6, 0x399c3cb6fc94f5b9}},
    {TAN, {0, 0, 0x8000000000000000}, {1, 5, 0xae44158bae97ba94}, {0, -2, 0xe21377401f000443, 0xba262f0c3bca0835}},
    {TAN, {0, 0, 0x8000000000000000}, {0, 30, 0x923a736994e3bf91}, {0, 6, 0xcb543d47e0fdd7b1, 0x5142041de3c1e211}},
    {TAN, {0, 0, 0x8000000000000000}, {1, 62, 0xdf557203301850c5}, {1, -3, 0xc2d5bf3beda2c3c5, 0x61df0f56724286bb}},
    {TAN, {0, 0, 0x8000000000000000}, {0, 1, 0xc90fdaa22168c235}, {0, -64, 0x8000000000000000, 0x0000000000000000}},
    {ATAN2, {0, 0, 0xb64ce4228c38fb29}, {0, 0, 0x8f4205b4907a70c3}, {0, -1, 0xe79de11f650e9a31, 0x25d1ec40ab8a586f}},
    {ATAN2, {1, 3, 0xff15052434b9b5df}, {1, -2, 0xed76b07e881ed162}, {1, 0, 0xccc8db94b7d59083, 0xdc979a85f72f5cbc}},
    {ATAN2, {1, -40, 0xf731af10506bf2ef}, {1, 3, 0xf403e430ec66a787}, {1, 1, 0xc90fdaa22160a786, 0xac7a1f076ac75249}},
    {ATAN2, {0, 70, 0xbf98e2774cbd87ad}, {1, 0, 0xb2f14c942e05319a}, {0, 0, 0xc90fdaa22168c234, 0xc6a4917d1e80ef5a}},
    {ATAN2, {1, -1, 0x94f4733f3e7d1bfb}, {1, 0, 0x867347214cdd2055}, {1, 1, 0xa8afc9ec844b2599, 0x5a96b48048000a05}},
    {ATAN2, {0, -30, 0xd7ee05cde00902c7}, {1, -29, 0xc9b64a0872e6cc3a}, {0, 1, 0xa99c0f04cd264247, 0x337e1c655e009023}},
    {EXP2M1, {0, 0, 0x8000000000000000}, {1, -60, 0x92bd4acefaecbd38}, {1, -61, 0xcb6c8d82f49152ba, 0x7906b8f9fc06f907}},
    {EXP2M1, {0, 0, 0x8000000000000000}, {0, -10, 0xeb0a18e8830e07bc}, {0, -10, 0xa304a9f4825b8b86, 0x0b3d53b33dfd4484}},
    {EXP2M1, {0, 0, 0x8000000000000000}, {0, -2, 0xd790f82ec1d3fcff}, {0, -2, 0xad81d49ae4032797, 0xdf60dca513bdc9d4}},
    {EXP2M1, {0, 0, 0x8000000000000000}, {0, -1, 0xfd2caf82eeeacbe2}, {0, -1, 0xfc19195d5ba2d54a, 0xadfa211b9ab51579}},
    {EXP2M1, {0, 0, 0x8000000000000000}, {0, -1, 0xf646e1f40a097c97}, {0, -1, 0xf2b2604c9e44c66a, 0xdeacb8c8375883b8}},
    {YLOG2, {0, 2, 0xb1fee08f57124242}, {0, 0, 0x8000000000000001}, {0, -60, 0x80658dcaa5602fc0, 0x42f9cacf58331a93}},
    {YLOG2, {0, 2, 0xff26144b98289fcd}, {0, -1, 0xffffffffffffffff}, {1, -61, 0xb80d08d6cf2075a8, 0x5cb5204ef91acbf4}},
    {YLOG2, {1, 2, 0xf4c9df6acc011cdd}, {0, 0, 0x93deef86ab1031d0}, {1, 0, 0xcbda95605c9333b9, 0x24ed2db85cd7de7f}},
    {YLOG2, {0, 2, 0x97f5e837d70820fe}, {0, -1, 0x8ede0d7ac3baea9e}, {1, 1, 0xffbd5a104279de36, 0x2801f82336c46154}},
    {YLOG2, {1, 2, 0xf95e8229451abd81}, {0, 300, 0xca02135e92b1d3f2}, {1, 11, 0x926f73bbfd2d9c2c, 0x0a0d36d7ef213cdd}},
    {YLOG2, {1, 2, 0x90a3d6b2aa05e11a}, {0, -16000, 0xd17f9acae01f5057}, {0, 16, 0x8d3e646d8c4c2d45, 0x76814d54e81fff0d}},
    {YLOG2P1, {0, 2, 0xb394fb36bb2d420f}, {0, -70, 0x93f448b3a5aa3c81}, {0, -67, 0x95bc476e157fe69d, 0x25f35f2035e31e1a}},
    {YLOG2P1, {1, 2, 0xd269a9a5ae658f33}, {0, -20, 0xb774eb5248db40af}, {1, -17, 0xd98a57fe420efb84, 0x8d340b44aabcdecd}},
    {YLOG2P1, {0, 2, 0xab2cd31ee3151288}, {0, -3, 0xf0ce583505c6af07}, {0, 0, 0xd0a0e5ee5d7edc48, 0xfde3a7e2de832820}},
    {YLOG2P1, {0, 2, 0xab0537e65affb229}, {1, -2, 0xfe62aa0a1df9fd78}, {1, 2, 0xa97819b5e0ee37a7, 0x6279f25998574b75}},
    {YLOG2P1, {0, 0, 0xc4aaeac137dc76fb}, {0, 9, 0xa11c70cf49952399}, {0, 3, 0xe57733f8bc179f39, 0x2334ccfd313e735f}},
};
/* clang-format on */

static struct fp_num number(const struct operand *o)
{
    return (struct fp_num){.cls = FPC_NORMAL, .sign = o->sign, .exp = o->exp, .sig = o->sig};
}

static void known_values(void **unused)
{
    (void)unused;
    for (unsigned i = 0; i < ARRAY_LEN(known); i++) {
        struct fp_num y = number(&known[i].y), x = number(&known[i].x);
        struct fp_wide w = evaluate(known[i].f, &y, &x);
        u128 want = (u128)known[i].value.hi << 64 | known[i].value.lo;
        u128 off = w.sig > want ? w.sig - want : want - w.sig;
        if (w.sign != known[i].value.sign || w.exp != known[i].value.exp || off >> 7)
            fail_msg("row %u: off by %llu * 2^-127", i, (unsigned long long)off);
    }
}

/* Checksums over random arguments: another compiler or host must give the same. */
static void same_bits(void **unused)
{
    static const uint64_t sums[FUNCTIONS] = {0xe6ec949b04f8cf08, 0x92e2d235d5af2230, 0xea775f66d911138f,
                                             0x4378a5a65e0d5928, 0xe17f07b3ffacfe82, 0x6e4d9c95b19adaf8,
                                             0x9fcb12a83d60942};
    uint64_t state = 0x9e3779b97f4a7c15;
    (void)unused;
    for (unsigned f = 0; f < FUNCTIONS; f++) {
        uint64_t sum = 0;
        for (unsigned k = 0; k < 4000; k++) {
            struct operand o[2];
            for (unsigned i = 0; i < 2; i++) {
                state = state * 6364136223846793005u + 1442695040888963407u;
                o[i] = (struct operand){state >> 63, (int)(state >> 40 & 127) - 90, 0};
                state = state * 6364136223846793005u + 1442695040888963407u;
                o[i].sig = state | BIT(63);
            }
            if (f == EXP2M1 && o[1].exp >= 0)
                o[1].exp = -1;
            if (f == YLOG2 || (f == YLOG2P1 && o[1].exp >= 0))
                o[1].sign = false;
            struct fp_num y = number(&o[0]), x = number(&o[1]);
            struct fp_wide w = evaluate((enum function)f, &y, &x);
            sum = (sum ^ (uint64_t)w.sig) * 0x100000001b3;
            sum = (sum ^ (uint64_t)(w.sig >> 64)) * 0x100000001b3;
            sum = (sum ^ (uint64_t)(int64_t)w.exp ^ w.sign) * 0x100000001b3;
        }
        if (sum != sums[f])
            fail_msg("function %u: sum %#llx", f, (unsigned long long)sum);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(known_values), cmocka_unit_test(same_bits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
