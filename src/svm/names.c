/* SPDX-License-Identifier: MIT
 *
 * names.c: words for exit codes, from svm_exit.def.
 */
#include "src/svm/svm.h"

struct exit_row {
    uint64_t first, last;
    const char *name, *what, *info1, *info2;
};
static const struct exit_row rows[] = {
#define SVM_EXIT(code, name, what, i1, i2)              {(uint64_t)(code), (uint64_t)(code), #name, what, i1, i2},
#define SVM_EXIT_RANGE(first, last, name, what, i1, i2) {first, last, #name, what, i1, i2},
#include <vmenter/arch/svm_exit.def>
};

static const struct exit_row *find(uint64_t code)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (code >= rows[i].first && code <= rows[i].last)
            return &rows[i];
    return NULL;
}

uint64_t svm_slot_exit(uint8_t slot)
{
    return slot < 0xc0 ? slot : slot < 0xe0 ? 0x400u + (slot - 0xc0u) : ~UINT64_C(0xff) | slot;
}

const char *svm_exit_name(uint64_t code, unsigned *index)
{
    const struct exit_row *r = find(code);
    if (index)
        *index = r ? (unsigned)(code - r->first) : 0;
    return r ? r->name : NULL;
}

const char *svm_exit_what(uint64_t code)
{
    const struct exit_row *r = find(code);
    return r ? r->what : NULL;
}
