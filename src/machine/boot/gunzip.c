/* SPDX-License-Identifier: MIT
 *
 * gunzip.c: an image that is packed by gzip (RFC 1952, "GZIP file format specification"; RFC 1951, "DEFLATE Compressed
 * Data Format Specification"). Plain rather than fast: an image is unpacked once, in some tenths of a second.
 *
 * Every read is checked against the input's end, every distance against what was written, the output against the
 * caller's bound; the check sum and the length at the end must be right.
 */
#include <stdlib.h>

#include "src/machine/boot/boot.h"

#define BITS_MAX     15u /* the longest code */
#define LITERALS_MAX 288u
#define DIST_MAX     30u
#define END          256u

struct unpack {
    const uint8_t *in;
    size_t size, at; /* of the input */
    uint64_t hold;   /* bits taken from it and not yet used, the next one lowest */
    unsigned held;
    uint8_t *out;
    size_t used, room, max;
    size_t member; /* where the present member's output begins */
    const char *error;
};

static bool fail(struct unpack *u, const char *why)
{
    if (!u->error)
        u->error = why;
    return false;
}

/* After an error: zeros. n is at most 16. */
static unsigned take(struct unpack *u, unsigned n)
{
    while (u->held < n) {
        if (u->at == u->size) {
            fail(u, "it is truncated; fetch it again");
            return 0;
        }
        u->hold |= (uint64_t)u->in[u->at++] << u->held;
        u->held += 8;
    }
    unsigned v = (unsigned)(u->hold & ((1u << n) - 1));
    u->hold >>= n;
    u->held -= n;
    return v;
}

static unsigned take_byte(struct unpack *u)
{
    return take(u, 8);
}

static bool put(struct unpack *u, uint8_t byte)
{
    if (u->used == u->room) {
        size_t room = u->room ? MIN(u->room * 2, u->max) : MIN((size_t)1 << 20, u->max);
        uint8_t *bigger = room > u->room ? realloc(u->out, room) : NULL;
        if (!bigger)
            return fail(u, "what is in it does not fit into the RAM: use a larger --mem");
        u->out = bigger;
        u->room = room;
    }
    u->out[u->used++] = byte;
    return true;
}

/* "Use of Huffman coding in the deflate format": codes of a length are consecutive, in the order of their symbols, and
 * begin where those of the length before end, with a zero appended. */
struct code {
    uint16_t count[BITS_MAX + 1];
    uint16_t symbol[LITERALS_MAX]; /* in the order of codes */
};

/* False: more codes than their lengths leave room for. */
static bool make_code(struct code *c, const uint8_t *length, unsigned n)
{
    uint16_t at[BITS_MAX + 2] = {0};
    int left = 1;
    *c = (struct code){0};
    for (unsigned i = 0; i < n; i++)
        c->count[length[i]]++;
    c->count[0] = 0;
    for (unsigned bits = 1; bits <= BITS_MAX; bits++) {
        left = left * 2 - c->count[bits];
        if (left < 0)
            return false;
        at[bits + 1] = (uint16_t)(at[bits] + c->count[bits]);
    }
    for (unsigned i = 0; i < n; i++)
        if (length[i])
            c->symbol[at[length[i]]++] = (uint16_t)i;
    return true;
}

static unsigned decode(struct unpack *u, const struct code *c)
{
    unsigned code = 0, first = 0, before = 0;
    for (unsigned bits = 1; bits <= BITS_MAX && !u->error; bits++) {
        code = code << 1 | take(u, 1);
        if (code - first < c->count[bits])
            return c->symbol[before + (code - first)];
        before += c->count[bits];
        first = (first + c->count[bits]) << 1;
    }
    fail(u, "it is damaged (a code that stands for nothing); fetch it again");
    return END;
}

/* "Compressed blocks (length and distance codes)". */
static bool unpack_codes(struct unpack *u, const struct code *literals, const struct code *distances)
{
    while (!u->error) {
        unsigned symbol = decode(u, literals);
        if (symbol < END) {
            put(u, (uint8_t)symbol);
            continue;
        }
        if (symbol == END)
            break;
        /* Lengths: 8 codes without extra bits, then 4 each with 1 to 5; the last is 258 alone. */
        unsigned n = symbol - END - 1, len;
        if (n >= 29)
            return fail(u, "it is damaged (a length that is not defined); fetch it again");
        if (n < 8)
            len = n + 3;
        else if (n == 28)
            len = 258;
        else
            len = (4 + n % 4) << (n / 4 - 1), len += 3 + take(u, n / 4 - 1);
        /* Distances: 4 codes without extra bits, then 2 each with 1 to 13. */
        n = decode(u, distances);
        if (n >= DIST_MAX)
            return fail(u, "it is damaged (a distance that is not defined); fetch it again");
        size_t dist = n < 4 ? n + 1 : ((size_t)(2 + n % 2) << (n / 2 - 1)) + 1 + take(u, n / 2 - 1);
        if (dist > u->used - u->member)
            return fail(u, "it is damaged (it copies from before its start); fetch it again");
        while (len-- && put(u, u->out[u->used - dist]))
            ;
    }
    return !u->error;
}

static bool unpack_dynamic(struct unpack *u)
{
    static const uint8_t order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    uint8_t length[LITERALS_MAX + 32] = {0};
    struct code lengths, literals, distances;
    unsigned nlit = 257 + take(u, 5), ndist = 1 + take(u, 5), ncode = 4 + take(u, 4);
    for (unsigned i = 0; i < ncode; i++)
        length[order[i]] = (uint8_t)take(u, 3);
    if (nlit > 286 || !make_code(&lengths, length, 19))
        return fail(u, "it is damaged (its tables); fetch it again");
    memset(length, 0, sizeof length);
    for (unsigned i = 0; i < nlit + ndist && !u->error;) {
        unsigned symbol = decode(u, &lengths), n = 1;
        uint8_t value = (uint8_t)symbol;
        if (symbol > 15) {
            value = symbol == 16 && i ? length[i - 1] : 0;
            n = symbol == 18 ? 11 + take(u, 7) : 3 + take(u, symbol == 17 ? 3 : 2);
            if (symbol > 18 || (symbol == 16 && !i) || n > nlit + ndist - i)
                return fail(u, "it is damaged (its tables); fetch it again");
        }
        while (n--)
            length[i++] = value;
    }
    if (u->error || !make_code(&literals, length, nlit) || !make_code(&distances, length + nlit, ndist))
        return fail(u, "it is damaged (its tables); fetch it again");
    return unpack_codes(u, &literals, &distances);
}

static bool unpack_fixed(struct unpack *u)
{
    uint8_t length[LITERALS_MAX], five[32];
    struct code literals, distances;
    for (unsigned i = 0; i < LITERALS_MAX; i++)
        length[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    memset(five, 5, sizeof five);
    make_code(&literals, length, LITERALS_MAX);
    make_code(&distances, five, sizeof five);
    return unpack_codes(u, &literals, &distances);
}

static void to_byte(struct unpack *u)
{
    unsigned odd = u->held % 8;
    u->hold >>= odd;
    u->held -= odd;
}

static bool unpack_stored(struct unpack *u)
{
    to_byte(u);
    unsigned len = take(u, 16), inverse = take(u, 16);
    if (!u->error && (len ^ inverse) != 0xffff)
        return fail(u, "it is damaged (a block's length); fetch it again");
    while (len-- && !u->error)
        put(u, (uint8_t)take_byte(u));
    return !u->error;
}

static bool unpack_blocks(struct unpack *u)
{
    for (bool last = false; !last && !u->error;) {
        last = take(u, 1);
        switch (take(u, 2)) {
        case 0: unpack_stored(u); break;
        case 1: unpack_fixed(u); break;
        case 2: unpack_dynamic(u); break;
        default: fail(u, "it is damaged (a kind of block that is not defined); fetch it again"); break;
        }
    }
    return !u->error;
}

static uint32_t check_sum(const uint8_t *p, size_t n)
{
    uint32_t table[256], crc = UINT32_MAX;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t v = i;
        for (unsigned k = 0; k < 8; k++)
            v = v >> 1 ^ (v & 1 ? 0xedb88320 : 0);
        table[i] = v;
    }
    while (n--)
        crc = crc >> 8 ^ table[(crc ^ *p++) & 0xff];
    return ~crc;
}

/* "Member format". */
static bool unpack_member(struct unpack *u)
{
    enum { HAS_CRC = 2, HAS_EXTRA = 4, HAS_NAME = 8, HAS_COMMENT = 16 };
    unsigned magic = take(u, 16), method = take_byte(u), flags = take_byte(u);
    if (!u->error && (magic != 0x8b1f || method != 8 || flags > 31))
        return fail(u, "its header is damaged; fetch it again");
    for (unsigned i = 0; i < 6; i++)
        take_byte(u);
    if (flags & HAS_EXTRA)
        for (unsigned n = take(u, 16); n-- && !u->error;)
            take_byte(u);
    for (unsigned n = !!(flags & HAS_NAME) + !!(flags & HAS_COMMENT); n && !u->error;)
        n -= !take_byte(u);
    if (flags & HAS_CRC)
        take(u, 16);
    u->member = u->used;
    if (u->error || !unpack_blocks(u))
        return false;
    to_byte(u);
    uint32_t crc = take(u, 16), len;
    crc |= take(u, 16) << 16;
    len = take(u, 16);
    len |= take(u, 16) << 16;
    if (!u->error && (len != (uint32_t)(u->used - u->member) ||
                      crc != check_sum(u->out ? u->out + u->member : NULL, u->used - u->member)))
        return fail(u, "its check sum is wrong; fetch it again");
    return !u->error;
}

const char *gunzip(const uint8_t *in, size_t size, size_t max, uint8_t **data, size_t *len)
{
    struct unpack u = {.in = in, .size = size, .max = max};
    /* Members follow one another; zeros after the last are padding. A member ends with whole bytes: no bit is held. */
    do {
        unpack_member(&u);
    } while (!u.error && u.at < u.size && u.in[u.at] == 0x1f);
    *data = u.out;
    *len = u.used;
    return u.error;
}
