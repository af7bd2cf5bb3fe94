/* SPDX-License-Identifier: MIT
 *
 * check.c: VMRUN's consistency checks, over a VMCB and a processor's capabilities; knows no processor. APM volume 2,
 * "Canonicalization and Consistency Checks".
 *
 * Each check is a row of svm_check.def, whose expressions are compiled twice: into svm_check(), which VMRUN runs and
 * which gives a bit for each broken row, and into svm_check_list(), which notes which fields each verdict depends on,
 * and can live with fields that are not known.
 *
 * Freestanding: <vmenter/svm.h>, svm_check.def and creg.def are all it needs; no library, no allocation, no state.
 */
#include "src/svm/check.h"

enum creg_bit {
#define CREG(reg, name, bit, feature, title) reg##_##name = 1ull << (bit),
#include "src/arch/creg.def"
#undef CREG
    CREG_BIT_WIDE = 1ull << 63 /* masks are used as 64-bit numbers */
};
#define VMCB_CLEAN_ALWAYS 0u

#define CAP(member) (k->caps->member)

/* --- as VMRUN runs them ------------------------------------------------------------------------------------------- */

#define V(field)       (v->field)
#define HOST_PAGING    (k->host.paging == VMENTER_YES)
#define HOST_LONG_MODE (k->host.long_mode == VMENTER_YES)
#define PDPTE_BAD(cr3) (k->pdpte_bad == VMENTER_YES)
#define SVM_CHECK(id, g1, g2, found, section, sentence, broken, nearest)                                               \
    if ((VMCB_CLEAN_##g1 == 0 || (dirty & (VMCB_CLEAN_##g1 | VMCB_CLEAN_##g2))) && __builtin_expect(!!(broken), 0))    \
        bad |= 1ull << SVM_CHECK_##id;

uint64_t svm_check(const struct vmcb *v, const struct svm_check *k, uint32_t dirty)
{
    uint64_t bad = 0;
#include "src/arch/svm_check.def"
    return bad;
}
#undef V
#undef HOST_PAGING
#undef HOST_LONG_MODE
#undef PDPTE_BAD

/* --- in full ------------------------------------------------------------------------------------------------------ */

static const struct {
    const char *id, *section, *text;
    uint16_t offset, size;
    uint32_t groups;
} rows[SVM_CHECK_COUNT] = {
#define SVM_CHECK(id, g1, g2, found, section, sentence, broken, nearest)                                               \
    {#id,                                                                                                              \
     section,                                                                                                          \
     sentence,                                                                                                         \
     offsetof(struct vmcb, found),                                                                                     \
     sizeof(((struct vmcb *)0)->found),                                                                                \
     VMCB_CLEAN_##g1 | VMCB_CLEAN_##g2},
#include "src/arch/svm_check.def"
};

uint32_t svm_check_groups(unsigned row)
{
    return row < SVM_CHECK_COUNT ? rows[row].groups : 0;
}

static uint64_t load(const struct vmcb *v, unsigned offset, unsigned size)
{
    const uint8_t *p = (const uint8_t *)v + offset;
    uint64_t n = 0;
    while (size--)
        n = n << 8 | p[size];
    return n;
}

static void store(struct vmcb *v, unsigned offset, unsigned size, uint64_t n)
{
    uint8_t *p = (uint8_t *)v + offset;
    for (; size--; n >>= 8)
        *p++ = (uint8_t)n;
}

/* What the rule that is being judged has read. */
struct judge {
    const struct svm_check *k;
    const struct vmcb *v;
    uint8_t reads;
    uint16_t field[VMENTER_SVM_FINDING_FIELDS];
    bool lacks;
    uint32_t lacking;
    uint64_t lacking_address;
};

static void lack(struct judge *j, uint32_t what, uint64_t address)
{
    if (j->lacks)
        return;
    j->lacks = true;
    j->lacking = what;
    j->lacking_address = address;
}

static bool is_known(const struct svm_check *k, unsigned offset, unsigned size)
{
    bool all = true;
    for (unsigned i = 0; k->known && i < size; i++)
        all = all && k->known[offset + i];
    return all;
}

static __attribute__((noinline)) uint64_t read_field(struct judge *j, unsigned offset, unsigned size)
{
    unsigned i = 0;
    while (i < j->reads && j->field[i] != offset)
        i++;
    if (i == j->reads && i < VMENTER_SVM_FINDING_FIELDS)
        j->field[j->reads++] = (uint16_t)offset;
    if (is_known(j->k, offset, size))
        return load(j->v, offset, size);
    lack(j, offset, 0);
    return 0;
}

static bool host_is(struct judge *j, enum vmenter_known what, uint32_t name)
{
    if (what == VMENTER_UNKNOWN)
        lack(j, name, 0);
    return what == VMENTER_YES;
}

/* "Legacy PAE Mode": in a present PDPTE bits 2:1, 8:5 and those from the width of physical addresses on must be 0. */
static bool pdpte_bad(struct judge *j, uint64_t cr3)
{
    const struct svm_check *k = j->k;
    uint64_t at = cr3 & 0xffffffe0, reserved = ~((1ull << CAP(physical_bits)) - 1) | 0x1e6;
    if (k->pdpte_bad != VMENTER_UNKNOWN || j->lacks)
        return k->pdpte_bad == VMENTER_YES;
    for (unsigned i = 0; i < 4; i++) {
        uint64_t e = 0;
        if (!k->host.read_memory || !k->host.read_memory(k->host.opaque, at + 8 * i, &e, sizeof e))
            lack(j, VMENTER_SVM_LACKS_MEMORY, at + 8 * i);
        else if ((e & 1) && (e & reserved))
            return true;
    }
    return false;
}

struct nearest {
    bool has, bits;
    uint64_t must, may, value;
};

static __attribute__((noinline)) struct vmenter_svm_finding describe(const struct judge *j, unsigned row,
                                                                     struct nearest n)
{
    unsigned offset = rows[row].offset, size = rows[row].size;
    struct vmenter_svm_finding e = {.id = rows[row].id, .section = rows[row].section, .rule = rows[row].text};
    e.row = (uint16_t)row;
    e.judged = !j->lacks;
    e.size = (uint8_t)size;
    e.may = ~0ull;
    if (j->lacks) {
        e.lacking = j->lacking;
        e.lacking_address = j->lacking_address;
    }
    e.field[e.fields++] = (uint16_t)offset;
    for (unsigned i = 0; i < j->reads && e.fields < VMENTER_SVM_FINDING_FIELDS; i++)
        if (j->field[i] != offset)
            e.field[e.fields++] = j->field[i];
    if (is_known(j->k, offset, size))
        e.found = load(j->v, offset, size);
    if (!j->lacks && n.has) {
        uint64_t all = ~0ull >> (64 - 8 * size);
        e.has_nearest = true;
        if (n.bits) {
            e.must = n.must;
            e.may = n.may;
        }
        e.nearest = (n.bits ? (e.found | n.must) & n.may : n.value) & all;
    }
    return e;
}

#define V(field)          read_field(&j, offsetof(struct vmcb, field), sizeof(((struct vmcb *)0)->field))
#define HOST_PAGING       host_is(&j, k->host.paging, VMENTER_SVM_LACKS_PAGING)
#define HOST_LONG_MODE    host_is(&j, k->host.long_mode, VMENTER_SVM_LACKS_MODE)
#define PDPTE_BAD(cr3)    pdpte_bad(&j, cr3)
#define MASK(must_, may_) ((struct nearest){.has = true, .bits = true, .must = (must_), .may = (may_) | (must_)})
#define VALUE(v)          ((struct nearest){.has = true, .value = (v)})
#define NONE              ((struct nearest){.has = false})
#define SVM_CHECK(id, g1, g2, found, section, sentence, broken, nearest_)                                              \
    j.reads = 0;                                                                                                       \
    j.lacks = false;                                                                                                   \
    if ((of >> SVM_CHECK_##id & 1) && ((broken) || j.lacks)) {                                                         \
        struct judge read = j;                                                                                         \
        struct vmenter_svm_finding e = describe(&read, SVM_CHECK_##id, nearest_);                                      \
        take(opaque, &e);                                                                                              \
    }

/* Each finding among the rows `of`, with the VMCB as it stands when the row is reached. */
static void each(const struct vmcb *v, const struct svm_check *k, uint64_t of,
                 void (*take)(void *opaque, const struct vmenter_svm_finding *finding), void *opaque)
{
    struct judge j = {.k = k, .v = v};
#include "src/arch/svm_check.def"
}

struct list {
    struct vmenter_svm_finding *at;
    size_t count, max;
};

static void append(void *opaque, const struct vmenter_svm_finding *finding)
{
    struct list *l = opaque;
    if (l->count < l->max)
        l->at[l->count] = *finding;
    l->count++;
}

size_t svm_check_list(const struct vmcb *v, const struct svm_check *k, uint64_t of,
                      struct vmenter_svm_finding *findings, size_t max)
{
    struct list l = {findings, 0, max};
    each(v, k, of, append, &l);
    return l.count;
}

size_t vmenter_svm_check(const struct vmcb *v, const uint8_t *known, const struct vmenter_svm_caps *caps,
                         const struct vmenter_svm_host *host, struct vmenter_svm_finding *findings, size_t max)
{
    struct svm_check k = {.caps = caps, .known = known, .host = *host};
    return svm_check_list(v, &k, ~0ull, findings, max);
}

/* --- rounding ----------------------------------------------------------------------------------------------------- */

struct change {
    uint16_t offset;
    uint8_t size;
    uint64_t before;
};
struct rounding {
    struct vmcb *v;
    bool broken;
    unsigned count;
    struct change change[SVM_CHECK_COUNT]; /* a row corrects one field, so there are no more */
};

static void correct(void *opaque, const struct vmenter_svm_finding *e)
{
    struct rounding *r = opaque;
    if (!e->judged)
        return;
    /* PDPTEs in memory: no field corrects them, so no PAE paging. */
    unsigned offset = e->has_nearest ? e->field[0] : offsetof(struct vmcb, save.cr4);
    unsigned size = e->has_nearest ? e->size : 8, i = 0;
    uint64_t old = load(r->v, offset, size);
    r->broken = true;
    while (i < r->count && r->change[i].offset != offset)
        i++;
    if (i == r->count)
        r->change[r->count++] = (struct change){(uint16_t)offset, (uint8_t)size, old};
    store(r->v, offset, size, e->has_nearest ? e->nearest : old & ~CR4_PAE);
}

static void see_broken(void *opaque, const struct vmenter_svm_finding *e)
{
    bool *broken = opaque;
    *broken = *broken || e->judged;
}

/* A correction can break a later row, hardly an earlier one. The bound is for capabilities that contradict each other:
 * no ASID but 0, EFER without SVME. */
#define PASSES 8

int vmenter_svm_round(struct vmcb *v, const uint8_t *known, const struct vmenter_svm_caps *caps,
                      const struct vmenter_svm_host *host)
{
    struct svm_check k = {.caps = caps, .known = known, .host = *host};
    struct rounding r = {.v = v};
    for (unsigned pass = 0;; pass++) {
        r.broken = false;
        each(v, &k, ~0ull, correct, &r);
        if (!r.broken)
            break;
        if (pass == PASSES)
            return -1;
    }
    int changes = 0;
    for (unsigned i = r.count; i-- > 0;) {
        const struct change *c = &r.change[i];
        uint64_t rounded = load(v, c->offset, c->size);
        bool broken = false;
        if (rounded == c->before)
            continue;
        store(v, c->offset, c->size, c->before);
        each(v, &k, ~0ull, see_broken, &broken);
        if (broken) {
            store(v, c->offset, c->size, rounded);
            changes++;
        }
    }
    return changes;
}
