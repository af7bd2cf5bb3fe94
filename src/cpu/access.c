/* SPDX-License-Identifier: MIT
 *
 * access.c: a processor's accesses to memory by linear address: what the fast path of op.h does not settle.
 *
 * Every access ends here in `struct place`: where in the machine's physical space a piece within one page lies, and its
 * host pointer if it is plain memory. A TLB entry that still stands decides, whatever the tables say now; a right that
 * the entry does not grant makes a new walk, as the manuals allow (SDM volume 3A, "Invalidation": a fault may follow a
 * fresh walk). A write is done when all of its pieces are known to be writable, so that one that faults has written
 * nothing.
 */
#include "src/cpu/op.h"
#include "src/arch/model.h"

struct place {
    uint8_t *host; /* NULL: not plain memory */
    hpa_t pa;
    bool apic; /* in the local APIC's page */
    unsigned apic_offset;
    enum tlb_view view;
    unsigned slot; /* of the TLB entry that decided */
};

void cpu_mmu_regs(const struct cpu *c, struct mmu_regs *out)
{
    *out = (struct mmu_regs){
        .cr0 = c->cr0,
        .cr3 = c->cr3,
        .cr4 = c->cr4,
        .efer = c->efer,
        .pdpte = {c->pdpte[0], c->pdpte[1], c->pdpte[2], c->pdpte[3]},
        /* APM 2, "Legacy PAE mode" under nested paging: the guest's PDPEs are read at each walk. */
        .pdpte_in_memory = c->second.kind == MMU_SECOND_NPT,
        .ac = c->rflags_rest & FLAG_AC,
        .pkru = c->pkru,
        .pkrs = (uint32_t)c->msr.pkrs,
        .maxphyaddr = c->model->maxphyaddr,
        .gbpages = model_has(c->model, FEATURE_pdpe1gb),
        .amd = model_is_amd(c->model),
        .smram_alias = c->smram_alias,
    };
}

static const struct mmu_second *second_of(const struct cpu *c)
{
    return c->second.kind == MMU_SECOND_NONE ? NULL : &c->second;
}

static enum tlb_view view_for(const struct cpu *c, unsigned access)
{
    if (access & MMU_USER)
        return TLB_USER;
    if (!(c->cr4 & CR4_SMAP))
        return TLB_SUP;
    return (access & MMU_IMPLICIT) || !(c->rflags_rest & FLAG_AC) ? TLB_SUP_SMAP : TLB_SUP;
}

/* What a translation grants to a view, further walks aside: SDM 3A, "Determination of Access Rights". */
static void grant(const struct cpu *c, enum tlb_view view, const struct mmu_result *r, struct tlb_grant *g)
{
    bool paging = c->cr0 & CR0_PG, wp = c->cr0 & CR0_WP;
    bool rd = r->readable, wr = r->writable, ex = r->executable;
    if (paging) {
        if (view == TLB_USER) {
            rd &= r->user;
            wr &= r->user;
            ex &= r->user;
        } else {
            if (!wp)
                wr = r->sup_writable;
            if (r->user && view == TLB_SUP_SMAP)
                rd = wr = false;
            if (r->user && (c->cr4 & CR4_SMEP))
                ex = false;
        }
        if ((c->efer & EFER_LMA) && (c->cr4 & (r->user ? CR4_PKE : CR4_PKS))) {
            uint32_t key = (r->user ? c->pkru : (uint32_t)c->msr.pkrs) >> (2 * r->pkey) & 3;
            rd &= !(key & 1);
            wr &= !(key & 1) && !((key & 2) && (view == TLB_USER || wp));
        }
    }
    g->rd = rd;
    g->wr = wr && rd; /* an access that reads and writes looks at the write tag alone */
    g->ex = ex;
    /* Mode-based execution under EPT: the right was computed for the page's own kind. */
}

static bool apic_page(struct cpu *c, hpa_t pa, unsigned *offset)
{
    uint64_t page;
    if (!c->apic_ops || !c->apic_ops->mmio || !c->apic_ops->mmio(c->apic, pa, &page))
        return false;
    *offset = pa.v & PAGE_OFFSET;
    return true;
}

static bool raise_walk_fault(struct cpu *c, const struct mmu_fault *f, la_t la, unsigned access)
{
    if (f->kind == MMU_PAGE_FAULT) {
        struct cpu_event ev = {.valid = true,
                               .vector = EXC_PF,
                               .type = EVENT_HWEXC,
                               .has_error = true,
                               .error = (uint32_t)f->error,
                               .payload = la.v};
        return cpu_raise_event(c, &ev);
    }
    cpu_sync(c);
    c->guest->second_fault(c, f, la, access);
    return false;
}

/* Identity mode: an address of the process that the process does not have, or may not write, is the page fault that it
 * would be natively: the flat paging maps more than the process has. */
static bool raise_missing_page(struct cpu *c, la_t la, unsigned access, bool present)
{
    unsigned kind = access & MMU_ACCESS_MASK;
    bool id = kind == MMU_EXEC && ((c->cr4 & CR4_SMEP) || (c->efer & EFER_NXE));
    struct mmu_fault f = {.kind = MMU_PAGE_FAULT,
                          .error = (present ? PFEC_P : 0) | (kind == MMU_WRITE ? PFEC_W : 0) |
                                   (access & MMU_USER ? PFEC_U : 0) | (id ? PFEC_ID : 0),
                          .la_valid = true};
    return raise_walk_fault(c, &f, la, access);
}

/* Finds the place of an access that lies in one page. False: a fault is raised or a VM exit made. */
static bool place_find(struct cpu *c, la_t la, unsigned len, unsigned access, struct place *p)
{
    enum tlb_view view = view_for(c, access);
    unsigned kind = access & MMU_ACCESS_MASK, slot = tlb_slot(la.v);
    uint64_t page = la.v & PAGE_BASE, offset = la.v & PAGE_OFFSET;
    const struct tlb_info *i = &c->bank->i[view][slot];

    if (!(i->valid && i->la == page && (kind == MMU_READ ? i->rd : kind == MMU_WRITE ? i->wr : i->ex))) {
        struct mmu_regs regs;
        struct mmu_result r;
        struct mmu_fault f;
        struct tlb_grant g = {0};
        cpu_mmu_regs(c, &regs);
        if (mmu_translate(c->mem, &regs, second_of(c), la, access | MMU_LENGTH(len), &r, &f) != MMU_OK)
            return raise_walk_fault(c, &f, la, access);
        grant(c, view, &r, &g);
        r.hpa = cpu_smram(c, r.hpa);
        hpa_t hpa = HPA(r.hpa.v & PAGE_BASE);
        uint8_t *host = NULL;
        unsigned unused;
        if (hpa.v != c->apic_access_page && !apic_page(c, hpa, &unused)) {
            host = mem_host(c->mem, hpa, PAGE_SIZE, g.wr);
            if (!host && g.wr) { /* read-only memory: readable directly, writes are dropped on the slow path */
                host = mem_host(c->mem, hpa, PAGE_SIZE, false);
                g.hold_write = true;
            }
            if (unlikely(c->identity) && hpa.v == page && (!host || g.hold_write) && mem_own(c->mem, hpa)) {
                if (!host || kind == MMU_WRITE)
                    return raise_missing_page(c, la, access, host);
                g.wr = false;
                g.hold_write = false;
            }
        }
        g.hold_write |= mem_code_noted(c->mem, hpa) != 0;
        tlb_fill(&c->tlbs, c->bank, view, la, &r, host, &g);
        code_set_key(c);
    }
    p->view = view;
    p->slot = slot;
    p->pa = HPA(i->page.v | offset);
    p->host = i->host ? i->host + offset : NULL;
    if (unlikely((p->pa.v & PAGE_BASE) == c->apic_access_page)) {
        p->apic = false;
        p->host = NULL;
        return c->guest->apic_access(c, la, (unsigned)offset, len, access, &p->pa);
    }
    p->apic = !p->host && apic_page(c, p->pa, &p->apic_offset);
    return true;
}

static void place_read(struct cpu *c, const struct place *p, void *buf, unsigned len)
{
    if (p->host) {
        memcpy(buf, p->host, len);
    } else if (p->apic) {
        /* Registers are 32 bits wide on 16-byte boundaries; what lies between reads as zero. */
        uint8_t *b = buf;
        for (unsigned k = 0; k < len; k++) {
            unsigned at = p->apic_offset + k;
            b[k] = (at & 15) < 4 ? (uint8_t)(c->apic_ops->read(c->apic, at & ~15u) >> (8 * (at & 3))) : 0;
        }
    } else {
        mem_read(c->mem, p->pa, buf, len);
    }
}

/* A page that may hold decoded code was written. noted: how many had noted it before the write. */
static void place_written(struct cpu *c, const struct place *p, unsigned len, unsigned noted)
{
    hpa_t page = HPA(p->pa.v & PAGE_BASE);
    if (noted) {
        unsigned own = code_noted(c, page);
        if (own)
            code_written(c, p->pa, len);
        if (noted > own) /* another processor decoded from it */
            mem_code_bump(c->mem);
    }
    if (!mem_code_noted(c->mem, page)) /* its last block is gone */
        tlb_restore_write(c->bank, p->view, p->slot, page);
}

static void place_write(struct cpu *c, const struct place *p, const void *buf, unsigned len)
{
    if (p->apic) {
        if (len >= 4 && !(p->apic_offset & 3))
            c->apic_ops->write(c->apic, p->apic_offset, load32(buf));
        return;
    }
    unsigned noted = p->host ? mem_code_noted(c->mem, HPA(p->pa.v & PAGE_BASE)) : 0;
    if (!p->host || !mem_host(c->mem, p->pa, len, true)) {
        mem_write(c->mem, p->pa, buf, len);
        return;
    }
    memcpy(p->host, buf, len);
    place_written(c, p, len, noted);
}

/* --- accesses that may cross a page
 * ------------------------------------------------------------------------------------- */

/* An access cut at the page boundary. len up to 4096. */
struct span {
    struct place p[2];
    unsigned len[2];
};

static bool span_find(struct cpu *c, la_t la, unsigned len, unsigned access, struct span *s)
{
    uint64_t room = PAGE_SIZE - (la.v & PAGE_OFFSET);
    s->len[0] = (unsigned)MIN((uint64_t)len, room);
    s->len[1] = len - s->len[0];
    if (!place_find(c, la, s->len[0], access, &s->p[0]))
        return false;
    if (!s->len[1])
        return true;
    uint64_t next = la.v + s->len[0];
    if (!c->long_mode ||
        (c->mode != MODE_64 && la.v <= 0xffffffff)) /* implicit accesses of compatibility mode are not cut */
        next &= 0xffffffff;
    if (!place_find(c, LA(next), s->len[1], access, &s->p[1]))
        return false;
    /* The second fill may have displaced what the first found, but not what a place holds. */
    return true;
}

static void span_read(struct cpu *c, const struct span *s, void *buf)
{
    place_read(c, &s->p[0], buf, s->len[0]);
    if (s->len[1])
        place_read(c, &s->p[1], (uint8_t *)buf + s->len[0], s->len[1]);
}

static void span_write(struct cpu *c, const struct span *s, const void *buf)
{
    place_write(c, &s->p[0], buf, s->len[0]);
    if (s->len[1])
        place_write(c, &s->p[1], (const uint8_t *)buf + s->len[0], s->len[1]);
}

bool cpu_read(struct cpu *c, la_t la, void *buf, unsigned len, unsigned access)
{
    struct span s;
    if (!span_find(c, la, len, access, &s))
        return false;
    span_read(c, &s, buf);
    return true;
}

bool cpu_write(struct cpu *c, la_t la, const void *buf, unsigned len, unsigned access)
{
    struct span s;
    if (!span_find(c, la, len, access | MMU_WRITE, &s))
        return false;
    span_write(c, &s, buf);
    return true;
}

bool cpu_probe(struct cpu *c, la_t la, unsigned len, unsigned access)
{
    struct span s;
    return span_find(c, la, len, access, &s);
}

bool cpu_translate(struct cpu *c, la_t la, unsigned access, struct mmu_result *out)
{
    struct mmu_regs regs;
    struct mmu_fault f;
    cpu_mmu_regs(c, &regs);
    if (mmu_translate(c->mem, &regs, second_of(c), la, access, out, &f) != MMU_OK)
        return raise_walk_fault(c, &f, la, access);
    return true;
}

bool cpu_fetch_page(struct cpu *c, la_t la, hpa_t *page, uint8_t **host)
{
    if (c->mode == MODE_64 && !mmu_canonical(la.v, c->cr4 & CR4_LA57))
        return cpu_raise(c, EXC_GP, 0);
    struct place p;
    if (!place_find(c, la, 0, MMU_EXEC | cpu_data_access(c), &p)) /* CR2: the very address */
        return false;
    *page = HPA(p.pa.v & PAGE_BASE);
    *host = p.host ? p.host - (la.v & PAGE_OFFSET) : NULL;
    return true;
}

/* --- slow paths of op.h
 * ---------------------------------------------------------------------------------------------------- */

/* In 64-bit mode an address based on RSP or RBP, and every stack access, is relative to SS: its faults are #SS. */
static bool stack_relative(const struct op *o)
{
    return o->seg == SEG_SS ||
           ((o->flags & OPF_MEM) && o->seg == SEG_NONE && (o->base == GPR_RSP || o->base == GPR_RBP));
}

/* SDM volume 3A, "Alignment-Check Exception (#AC)": alignment by data type; here by size, which tells them apart: 10:
 * an extended-precision value; 14, 28, 94, 108: x87 environments and images. The 16 bytes of a vector are not checked.
 */
static unsigned checked_alignment(unsigned size)
{
    switch (size) {
    case 1:
    case 2:
    case 4:
    case 8: return size;
    case 10: return 8;
    case 14:
    case 94: return 2;
    case 6:
    case 28:
    case 108: return 4;
    default: return 1;
    }
}

static bool canonical_check(struct cpu *c, const struct op *o, uint64_t la, unsigned size)
{
    c->cur = o;
    bool la57 = c->cr4 & CR4_LA57;
    if (unlikely(c->mode == MODE_64 && (!mmu_canonical(la, la57) || !mmu_canonical(la + size - 1, la57))))
        return cpu_raise(c, stack_relative(o) ? EXC_SS : EXC_GP, 0);
    return true;
}

static bool alignment_check(struct cpu *c, const struct op *o, uint64_t la, unsigned size)
{
    c->cur = o;
    if (c->cpl == 3 && (c->cr0 & CR0_AM) && (c->rflags_rest & FLAG_AC) && (la & (checked_alignment(size) - 1)))
        return cpu_raise(c, EXC_AC, 0);
    return true;
}

static bool data_breakpoints(struct cpu *c, const struct op *o, uint64_t la, unsigned size, bool write)
{
    c->cur = o;
    if (c->dr[7] & 0xff)
        cpu_data_breakpoint(c, LA(la), size, write);
    return true;
}

/* The checks that the fast path's tag stands for, except paging. An operand that begins below the canonical range's end
 * is first checked for its alignment, then for where it ends: as silicon. */
static bool explicit_checks(struct cpu *c, const struct op *o, uint64_t la, unsigned size, bool write)
{
    if (likely(!c->check_all))
        return canonical_check(c, o, la, size);
    return canonical_check(c, o, la, 1) && alignment_check(c, o, la, size) && canonical_check(c, o, la, size) &&
           data_breakpoints(c, o, la, size, write);
}

bool op_read_slow(struct cpu *c, const struct op *o, uint64_t la, void *buf, unsigned size)
{
    return explicit_checks(c, o, la, size, false) && cpu_read(c, LA(la), buf, size, cpu_data_access(c));
}

bool op_write_slow(struct cpu *c, const struct op *o, uint64_t la, const void *buf, unsigned size)
{
    return explicit_checks(c, o, la, size, true) && cpu_write(c, LA(la), buf, size, cpu_data_access(c));
}

bool op_rmw_slow(struct cpu *c, const struct op *o, uint64_t la, void *buf, unsigned size)
{
    struct span s;
    if (!explicit_checks(c, o, la, size, true) || !span_find(c, LA(la), size, cpu_data_access(c) | MMU_WRITE, &s))
        return false;
    span_read(c, &s, buf);
    return true;
}

bool op_cas_slow(struct cpu *c, const struct op *o, uint64_t la, void *seen, const void *want, unsigned size)
{
    struct span s;
    if (!span_find(c, LA(la), size, cpu_data_access(c) | MMU_WRITE, &s))
        return true; /* cannot be: op_rmw_slow() came first */
    const struct place *p = &s.p[0];
    bool aligned = !(la & (size - 1));
#if defined(__x86_64__)
    aligned = true;
#endif
    if (s.len[1] || size > 8 || !aligned || !p->host || !mem_host(c->mem, p->pa, size, true)) {
        span_write(c, &s, want);
        return true;
    }
    unsigned noted = mem_code_noted(c->mem, HPA(p->pa.v & PAGE_BASE));
    bool ok;
    switch (size) {
#define CAS_SIZE(bits_)                                                                                                \
    case bits_ / 8: {                                                                                                  \
        uint##bits_##_t old = load##bits_(seen);                                                                       \
        uint##bits_##_t was = __sync_val_compare_and_swap((uint##bits_##_t *)p->host, old, load##bits_(want));         \
        ok = was == old;                                                                                               \
        store##bits_(seen, was);                                                                                       \
        break;                                                                                                         \
    }
        CAS_SIZE(8)
        CAS_SIZE(16)
        CAS_SIZE(32)
    default: CAS_SIZE(64)
#undef CAS_SIZE
    }
    if (ok)
        place_written(c, p, size, noted);
    return ok;
}

bool op_legacy_la(struct cpu *c, const struct op *o, uint64_t offset, unsigned size, unsigned access, uint64_t *la)
{
    offset &= op_amask(o);
    if (o->flags & OPF_O64) { /* a 32-bit address size in 64-bit mode: no segment but FS and GS */
        *la = offset + c->seg_base64[o->seg];
        return true;
    }
    c->cur = o;
    return cpu_seg_la(c, o->seg, offset, size, access, la);
}

static bool operand_la(struct cpu *c, const struct op *o, unsigned size, unsigned access, unsigned align, uint64_t *la)
{
    /* An alignment that gives #GP is looked at before the segment's limit, which may give #SS. */
    if (align && (o->flags & OPF_LEGACY) && !(o->flags & OPF_O64) &&
        (((op_offset(c, o) & op_amask(o)) + c->seg_base64[o->seg]) & (align - 1))) {
        c->cur = o;
        return cpu_raise(c, EXC_GP, 0);
    }
    if (!op_la(c, o, size, access, la))
        return false;
    if (align && (*la & (align - 1))) { /* also where the address is not canonical and relative to SS */
        c->cur = o;
        return cpu_raise(c, EXC_GP, 0);
    }
    return true;
}

bool op_ld_n(struct cpu *c, const struct op *o, void *buf, unsigned size, unsigned align)
{
    uint64_t la;
    if (!operand_la(c, o, size, MMU_READ, align, &la))
        return false;
    const uint8_t *h = op_host(c, la, size, MMU_READ);
    if (likely(h)) {
        memcpy(buf, h, size);
        return true;
    }
    return op_read_slow(c, o, la, buf, size);
}

bool op_st_n(struct cpu *c, const struct op *o, const void *buf, unsigned size, unsigned align)
{
    uint64_t la;
    if (!operand_la(c, o, size, MMU_WRITE, align, &la))
        return false;
    uint8_t *h = op_host(c, la, size, MMU_WRITE);
    if (likely(h)) {
        memcpy(h, buf, size);
        return true;
    }
    return op_write_slow(c, o, la, buf, size);
}

/* --- operands of several parts
 * ----------------------------------------------------------------------------------------------- */

/* Does the operand, made of parts, reach over the end of its address size, so that it goes on at offset 0? Then *p says
 * where it is divided: a part that begins below the end is not cut there. */
static bool goes_on_at_zero(const struct cpu *c, const struct op *o, unsigned size, const struct op_part *parts,
                            unsigned which, struct op_pieces *p)
{
    if (likely(!(o->flags & OPF_LEGACY)))
        return false;
    uint64_t mask = op_amask(o), room = mask - (op_offset(c, o) & mask) + 1;
    if (likely(room >= size))
        return false;
    unsigned end = (unsigned)room;
    p->from = size;
    for (; parts->size; parts++) {
        unsigned at = parts->at, past = at + (unsigned)parts->size * parts->count, cut;
        if (!(parts->which & which))
            continue;
        if (parts->which & which & ~OP_PART_LIMIT)
            p->from = MIN(p->from, at);
        if (end > at && end < past && (cut = (end - at) % parts->size))
            end += parts->size - cut;
    }
    p->len[0] = MIN(end, size);
    p->len[1] = size - p->len[0];
    p->from = MIN(p->from, p->len[0]);
    return p->len[1];
}

bool op_parts_find(struct cpu *c, const struct op *o, unsigned size, unsigned align, unsigned access,
                   const struct op_part *parts, unsigned which, struct op_pieces *p)
{
    if (likely(!goes_on_at_zero(c, o, size, parts, which, p))) {
        *p = (struct op_pieces){.len = {size, 0}};
        return operand_la(c, o, size, access, align, &p->la[0]);
    }
    if (!operand_la(c, o, p->len[0], access, align, &p->la[0]) ||
        !op_la_plus(c, o, p->len[0], p->len[1], access, &p->la[1]))
        return false;
    for (unsigned i = 0; i < 2; i++)
        if (!canonical_check(c, o, p->la[i], p->len[i]))
            return false;
    return true;
}

/* An operand in two pieces: all checks come before anything is read or written. */
static bool pieces_checks(struct cpu *c, const struct op *o, const struct op_pieces *p, bool write)
{
    unsigned access = cpu_data_access(c) | (write ? MMU_WRITE : MMU_READ), n = p->len[0] - p->from;
    uint64_t la = p->la[0] + p->from;
    return (!c->check_all ||
            (alignment_check(c, o, p->la[0], p->len[0] + p->len[1]) && (!n || data_breakpoints(c, o, la, n, write)) &&
             data_breakpoints(c, o, p->la[1], p->len[1], write))) &&
           (!n || cpu_probe(c, LA(la), n, access)) && cpu_probe(c, LA(p->la[1]), p->len[1], access);
}

static bool pieces_read(struct cpu *c, const struct op *o, const struct op_pieces *p, uint8_t *buf, bool to_write)
{
    unsigned access = cpu_data_access(c), n = p->len[0] - p->from;
    c->cur = o;
    return pieces_checks(c, o, p, to_write) && (!n || cpu_read(c, LA(p->la[0] + p->from), buf + p->from, n, access)) &&
           cpu_read(c, LA(p->la[1]), buf + p->len[0], p->len[1], access);
}

static bool pieces_write(struct cpu *c, const struct op *o, const struct op_pieces *p, const uint8_t *buf)
{
    unsigned access = cpu_data_access(c), n = p->len[0] - p->from;
    c->cur = o;
    return pieces_checks(c, o, p, true) && (!n || cpu_write(c, LA(p->la[0] + p->from), buf + p->from, n, access)) &&
           cpu_write(c, LA(p->la[1]), buf + p->len[0], p->len[1], access);
}

bool op_parts_read(struct cpu *c, const struct op *o, const struct op_pieces *p, void *buf)
{
    if (unlikely(p->len[1]))
        return pieces_read(c, o, p, buf, false);
    const uint8_t *h = op_host(c, p->la[0], p->len[0], MMU_READ);
    if (likely(h)) {
        memcpy(buf, h, p->len[0]);
        return true;
    }
    return op_read_slow(c, o, p->la[0], buf, p->len[0]);
}

bool op_parts_rmw(struct cpu *c, const struct op *o, const struct op_pieces *p, void *buf)
{
    return unlikely(p->len[1]) ? pieces_read(c, o, p, buf, true) : op_rmw_slow(c, o, p->la[0], buf, p->len[0]);
}

bool op_parts_write(struct cpu *c, const struct op *o, const struct op_pieces *p, const void *buf)
{
    if (unlikely(p->len[1]))
        return pieces_write(c, o, p, buf);
    uint8_t *h = op_host(c, p->la[0], p->len[0], MMU_WRITE);
    if (likely(h)) {
        memcpy(h, buf, p->len[0]);
        return true;
    }
    return op_write_slow(c, o, p->la[0], buf, p->len[0]);
}

bool op_ld_parts(struct cpu *c, const struct op *o, void *buf, unsigned size, unsigned align,
                 const struct op_part *parts, unsigned which)
{
    struct op_pieces p;
    return op_parts_find(c, o, size, align, MMU_READ, parts, which, &p) && op_parts_read(c, o, &p, buf);
}

bool op_st_parts(struct cpu *c, const struct op *o, const void *buf, unsigned size, unsigned align,
                 const struct op_part *parts, unsigned which)
{
    struct op_pieces p;
    return op_parts_find(c, o, size, align, MMU_WRITE, parts, which, &p) && op_parts_write(c, o, &p, buf);
}

/* --- context
 * ----------------------------------------------------------------------------------------------------------------- */

static struct tlb_context context_of(const struct cpu *c)
{
    return (struct tlb_context){
        .vpid = c->vpid,
        .pcid = c->cr4 & CR4_PCIDE ? (uint16_t)(c->cr3 & 0xfff) : 0,
        .root = c->second.kind == MMU_SECOND_NONE ? 0 : c->second.root,
    };
}

void cpu_update_translation(struct cpu *c)
{
    struct tlb_context ctx = context_of(c);
    c->bank = tlb_select(&c->tlbs, &ctx);
    cpu_update_mode(c);
}

void cpu_invlpg(struct cpu *c, la_t la)
{
    struct tlb_context ctx = context_of(c);
    tlb_flush_page(&c->tlbs, &ctx, la, true);
    code_set_key(c);
}
