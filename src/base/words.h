/* SPDX-License-Identifier: MIT
 *
 * words.h: a line of text without a C library, for what is built into hypervisors: cut off at the buffer's end, but
 * measured whole, as snprintf does. (text.h is the hosted one.)
 */
#ifndef BASE_WORDS_H
#define BASE_WORDS_H

#include <stddef.h>
#include <stdint.h>

struct words {
    char *buf;
    size_t size, at; /* at: of the whole */
};

static inline void words_char(struct words *w, char c)
{
    if (w->at + 1 < w->size)
        w->buf[w->at] = c;
    w->at++;
}
static inline void words_add(struct words *w, const char *s)
{
    while (*s)
        words_char(w, *s++);
}
static inline void words_hex(struct words *w, uint64_t v)
{
    unsigned digits = 1;
    while (digits < 16 && v >> (4 * digits))
        digits++;
    words_add(w, "0x");
    while (digits--)
        words_char(w, "0123456789abcdef"[v >> (4 * digits) & 15]);
}
static inline void words_number(struct words *w, unsigned v)
{
    char digits[10];
    unsigned n = 0;
    do {
        digits[n++] = (char)('0' + v % 10);
        v /= 10;
    } while (v);
    while (n)
        words_char(w, digits[--n]);
}
static inline size_t words_end(struct words *w)
{
    if (w->size)
        w->buf[w->at < w->size ? w->at : w->size - 1] = 0;
    return w->at;
}

/* What changes from `found` to `nearest`, bit by bit: ": set "PE" (bit 0), clear bits 63:32". Nothing when there is
 * much to be said. name: of a bit of the field; NULL: it has none. */
static inline void words_bits(struct words *w, uint32_t field, uint64_t bits, const char *verb,
                              const char *(*name)(uint32_t field, unsigned bit))
{
    words_add(w, verb);
    const char *between = " ";
    for (unsigned i = 0; i < 64; i++) {
        if (!(bits >> i & 1))
            continue;
        unsigned last = i;
        const char *word = name(field, i);
        if (!word)
            while (last < 63 && (bits >> (last + 1) & 1) && !name(field, last + 1))
                last++;
        words_add(w, between);
        between = ", ";
        if (word) {
            words_char(w, '"');
            words_add(w, word);
            words_add(w, "\" (bit ");
            words_number(w, i);
            words_char(w, ')');
        } else if (last > i) {
            words_add(w, "bits ");
            words_number(w, last);
            words_char(w, ':');
            words_number(w, i);
        } else {
            words_add(w, "bit ");
            words_number(w, i);
        }
        i = last;
    }
}
static inline void words_change(struct words *w, uint32_t field, uint64_t found, uint64_t nearest,
                                const char *(*name)(uint32_t field, unsigned bit))
{
    uint64_t on = nearest & ~found, off = found & ~nearest;
    unsigned count = 0;
    for (uint64_t v = on | off; v; v &= v - 1)
        count++;
    if (!count || count > 8)
        return;
    if (on)
        words_bits(w, field, on, ": set", name);
    if (off)
        words_bits(w, field, off, on ? ", clear" : ": clear", name);
}

#endif
