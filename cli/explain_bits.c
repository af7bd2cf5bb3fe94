/* SPDX-License-Identifier: MIT
 *
 * explain_bits.c: a number bit by bit, by a format of vmx_bits.def or svm_bits.def.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "cli/explain.h"

static const struct bits {
    const char *format;
    uint8_t high, low;
    const char *name, *values;
} bits[] = {
#define VMX_BITS(format, high, low, name, values) {#format, high, low, name, values},
#include <vmenter/arch/vmx_bits.def>
#undef VMX_BITS
#define SVM_BITS(format, high, low, name, values) {"SVM_" #format, high, low, name, values},
#include <vmenter/arch/svm_bits.def>
#undef SVM_BITS
};
#define COUNT(array) (sizeof(array) / sizeof(*(array)))

static uint64_t field(uint64_t v, unsigned high, unsigned low)
{
    return v >> low & (~0ull >> (63 - (high - low)));
}

/* Word n of a list; false: there is none. */
static bool word_of(const char *list, uint64_t n, char *word, size_t size)
{
    *word = 0;
    for (; n; n--) {
        list = strchr(list, '|');
        if (!list++)
            return false;
    }
    snprintf(word, size, "%.*s", (int)strcspn(list, "|"), list);
    return true;
}

/* Every bit of v by a format; bits that no row has are named where they are 1. */
void explain_format(struct explain *x, const char *format, uint64_t v)
{
    static const char *const gpr[16] = {"RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
                                        "R8",  "R9",  "R10", "R11", "R12", "R13", "R14", "R15"};
    static const char *const segment[8] = {"ES", "CS", "SS", "DS", "FS", "GS", "reserved", "reserved"};
    uint64_t rest = v;
    char word[200];
    for (size_t i = 0; i < COUNT(bits); i++) {
        const struct bits *b = &bits[i];
        if (strcmp(b->format, format))
            continue;
        uint64_t n = field(v, b->high, b->low);
        rest &= ~((~0ull >> (63 - (b->high - b->low))) << b->low);
        if (!strcmp(b->values, "gpr"))
            snprintf(word, sizeof word, "%s", gpr[n & 15]);
        else if (!strcmp(b->values, "segment"))
            snprintf(word, sizeof word, "%s", segment[n & 7]);
        else if (!*b->values)
            *word = 0;
        else if (!word_of(b->values, n, word, sizeof word) || !*word) {
            if (b->high == b->low && !*word)
                continue;
            snprintf(word, sizeof word, "reserved");
        }
        explain_bits(x, b->high, b->low, n, b->name, word);
    }
    for (unsigned i = 0; i < 64; i++)
        if (rest >> i & 1)
            explain_bits(x, i, i, 1, "not defined here", "");
}

bool explain_same_name(const char *a, const char *b)
{
    for (; *a && *b; a++, b++)
        if (toupper((unsigned char)(*a == '-' || *a == ' ' ? '_' : *a)) != *b)
            return false;
    return !*a && !*b;
}

void explain_value(char *buf, size_t size, uint64_t v, bool decimal)
{
    snprintf(buf, size, decimal ? "%llu" : "0x%llx", (unsigned long long)v);
}
