/* SPDX-License-Identifier: MIT
 *
 * explain.h: `vmenter explain`: what a kind of thing to explain is, and how an explanation is said: a headline and rows
 * of bits, as text or as JSON.
 */
#ifndef CLI_EXPLAIN_H
#define CLI_EXPLAIN_H

#include "cli/cli.h"

struct explain {
    bool json;
    unsigned rows, things;
    bool open; /* a thing is begun */
};
/* A thing: "exit reason", "48", "EPT violation". */
void explain_begin(struct explain *x, const char *kind, const char *value, const char *meaning);
/* Bits high..low of it: their value, what they are, what the value means (may be empty). */
void explain_bits(struct explain *x, unsigned high, unsigned low, uint64_t value, const char *name,
                  const char *meaning);
/* A line of words that is no bits. */
void explain_note(struct explain *x, const char *name, const char *meaning);
void explain_end(struct explain *x);

/* Every bit of v by a format of vmx_bits.def, or (SVM_ before its name) svm_bits.def; bits that no row has are named
 * where they are 1. */
void explain_format(struct explain *x, const char *format, uint64_t v);

struct explain_kind {
    const char *name, *arguments, *help;
    int (*run)(struct explain *x, int argc, char **argv); /* argv[0] is the kind's name */
};
extern const struct explain_kind explain_vmx_kinds[], explain_svm_kinds[]; /* end with a NULL name */

/* "NAME" or "NAME=VALUE" of --json and numbers that the kinds share: a number in any base strtoull knows. */
bool explain_number(const char *text, uint64_t *value);
/* A name as it is typed, in any case, with - or a blank for _; `name` is in capitals. */
bool explain_same_name(const char *typed, const char *name);
void explain_value(char *buf, size_t size, uint64_t v, bool decimal);

#endif
