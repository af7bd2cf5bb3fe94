/* SPDX-License-Identifier: MIT
 *
 * text.h: text that is put together in a buffer of the caller's: cut off at its end, but measured whole, so that the
 * length is what snprintf would return.
 */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include <stdarg.h>
#include <stdio.h>

#include "src/base/base.h"

struct text {
    char *buf;
    size_t size, len; /* len: of the whole text, without the terminating null */
};
#define TEXT(array) ((struct text){.buf = (array), .size = sizeof(array)})

INLINE struct text text_begin(char *buf, size_t size)
{
    if (size)
        buf[0] = 0;
    return (struct text){.buf = buf, .size = size};
}

static inline __attribute__((format(printf, 2, 3))) void text_add(struct text *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    size_t at = t->len < t->size ? t->len : t->size;
    int n = vsnprintf(t->size > at ? t->buf + at : NULL, t->size - at, fmt, ap);
    va_end(ap);
    if (n > 0)
        t->len += (size_t)n;
}

/* A number for printf's %llx, whatever uint64_t is on this host. */
#define TX(v) ((unsigned long long)(v))

#endif
