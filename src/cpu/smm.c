/* SPDX-License-Identifier: MIT
 *
 * smm.c: system-management mode: entry by SMI, RSM, and where SMRAM is.
 *
 * The state goes to and from memory as smm.def says. What the manuals keep inside of the processor (guest mode, the
 * shadow of STI or MOV SS, blocking of NMIs, CPL: SDM volume 3C, "Default Treatment of SMI Delivery", VMX-critical
 * state) is kept in struct cpu, so a handler cannot change it.
 *
 * SMRAM at 0xa0000 lies under the display's memory: a processor that sees it uses the physical addresses with
 * SMM_ALIAS added, which nothing else reaches.
 *
 * SDM volume 3C, "System Management Mode"; APM volume 2, "System-Management Mode".
 * NYI: TSEG, SMRRs, D_CLS of the host bridge, the dual-monitor treatment of SMIs.
 */
#include "src/cpu/sys.h"

enum smm_format { INTEL, AMD };

struct smm_seg {
    uint64_t sel, attrib, limit, base;
};
struct smm_image {
    uint64_t gpr[16], rip, rflags, cr0, cr3, cr4, efer, dr6, dr7;
    struct smm_seg es, cs, ss, ds, fs, gs, ldtr, tr, gdtr, idtr;
    uint64_t ldtr_base_high, gdtr_base_high, idtr_base_high;
    uint64_t revision, smbase, halt_restart;
    uint64_t io_restart, io_info, io_address, io_rip, io_rcx, io_rsi, io_rdi;
    uint64_t ept_enabled, eptp, svm_guest, svm_vmcb, svm_ncr3;
};

static const struct smm_row {
    uint8_t format, bytes;
    uint16_t offset, member;
} rows[] = {
#define SMM_FIELD(f, off, n, m) {f, n, off, offsetof(struct smm_image, m)},
#define SMM_HIDDEN(f, off, m)                                                                                          \
    SMM_FIELD(f, off + 2, 2, m.attrib) SMM_FIELD(f, off + 4, 4, m.limit) SMM_FIELD(f, off + 8, 8, m.base)
#define SMM_SEG(f, off, m) SMM_FIELD(f, off, 2, m.sel) SMM_HIDDEN(f, off, m)
#include "src/arch/smm.def"
#undef SMM_SEG
#undef SMM_HIDDEN
#undef SMM_FIELD
};

static enum smm_format format_of(const struct cpu *c)
{
    return model_is_amd(c->model) ? AMD : INTEL;
}

hpa_t cpu_smram(const struct cpu *c, hpa_t pa)
{
    return c->smram_alias && pa.v - SMM_RAM < SMM_RAM_SIZE ? HPA(pa.v + c->smram_alias) : pa;
}

/* Translations made in the other view of SMRAM go. */
static void update_smram(struct cpu *c)
{
    bool sees = c->smram_open || (c->smram_on && c->in_smm);
    c->smram_alias = sees ? SMM_ALIAS : 0;
    tlb_flush_all(&c->tlbs);
}

void cpu_set_smram(struct cpu *c, bool on, bool open)
{
    c->smram_on = on;
    c->smram_open = on && open;
    update_smram(c);
    cpu_update_translation(c);
}

static void transfer(struct cpu *c, struct smm_image *s, bool save)
{
    enum smm_format format = format_of(c);
    for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct smm_row *r = &rows[i];
        uint8_t *member = (uint8_t *)s + r->member, buf[8] = {0};
        hpa_t at = cpu_smram(c, HPA(c->msr.smbase + r->offset));
        if (r->format != format)
            continue;
        if (save) {
            store64(buf, *(const uint64_t *)(const void *)member);
            mem_write(c->mem, at, buf, r->bytes);
        } else {
            mem_read(c->mem, at, buf, r->bytes);
            *(uint64_t *)(void *)member = load64(buf);
        }
    }
}

/* Attributes as in a VMCB: 12 bits; a segment that is not usable is not present. */
static struct smm_seg save_seg(const struct seg *g)
{
    uint32_t ar = g->ar & AR_UNUSABLE ? g->ar & ~(uint32_t)AR_P : g->ar;
    return (struct smm_seg){
        .sel = g->sel, .attrib = (ar & 0xff) | (ar >> 4 & 0xf00), .limit = g->limit, .base = g->base};
}
static struct seg load_seg(const struct cpu *c, const struct smm_seg *s)
{
    uint32_t a = (uint32_t)s->attrib;
    return (struct seg){.sel = (uint16_t)s->sel,
                        .ar = (a & 0xff) | (a & 0xf00) << 4 | (a & AR_P ? 0 : AR_UNUSABLE),
                        .limit = (uint32_t)s->limit,
                        .base = sign_extend(s->base, model_has(c->model, FEATURE_la57) ? 57 : 48)};
}
static struct smm_seg save_table(const struct dtable *t)
{
    return (struct smm_seg){.limit = t->limit, .base = t->base};
}
static struct dtable load_table(const struct cpu *c, const struct smm_seg *s)
{
    return (struct dtable){.limit = (uint16_t)s->limit,
                           .base = sign_extend(s->base, model_has(c->model, FEATURE_la57) ? 57 : 48)};
}

/* --- I/O instructions that an SMI follows ---------------------------------------------------------------------------
 */

/* SDM 3C, "I/O State Implementation", "I/O Instruction Type Encodings"; APM 2, "SMM I/O Trap Offset". */
static uint32_t io_info(const struct cpu *c)
{
    const struct cpu_smi_io *io = &c->smi_io;
    if (format_of(c) == AMD)
        return (uint32_t)io->port << 16 | (uint32_t)io->size << 4 | io->rep << 3 | io->string << 2 | 1 << 1 | io->in;
    return (uint32_t)io->port << 16 | io->in << 4 | io->string << 5 | io->rep << 6 | io->imm << 7 |
           (uint32_t)io->size << 1 | 1;
}

void cpu_note_smi_io(struct cpu *c, const struct op *o, uint16_t port, unsigned size, bool in, bool string, bool imm,
                     uint64_t la)
{
    c->smi_io = (struct cpu_smi_io){.at = c->icount + o->n + 1,
                                    .rip = (c->gpr[GPR_BLOCK] + o->ip) & c->ip_mask,
                                    .rcx = c->gpr[GPR_RCX],
                                    .rsi = c->gpr[GPR_RSI],
                                    .rdi = c->gpr[GPR_RDI],
                                    .la = la,
                                    .port = port,
                                    .size = (uint8_t)size,
                                    .in = in,
                                    .string = string,
                                    .rep = o->flags & (OPF_REP | OPF_REPNE),
                                    .imm = imm};
}

/* --- entry and exit ------------------------------------------------------------------------------------------------
 */

static void set_smm(struct cpu *c, bool in)
{
    c->in_smm = in;
    update_smram(c);
}

static struct seg real_segment(uint16_t sel, uint64_t base, unsigned type)
{
    return (struct seg){.sel = sel, .base = base, .limit = 0xffffffff, .ar = AR_P | AR_S | AR_G | type};
}

void cpu_smm_enter(struct cpu *c)
{
    struct smm_image s = {.rip = c->rip,
                          .rflags = cpu_rflags(c),
                          .cr0 = c->cr0,
                          .cr3 = c->cr3,
                          .cr4 = c->cr4,
                          .efer = c->efer,
                          .dr6 = c->dr[6],
                          .dr7 = c->dr[7],
                          .es = save_seg(&c->seg[SEG_ES]),
                          .cs = save_seg(&c->seg[SEG_CS]),
                          .ss = save_seg(&c->seg[SEG_SS]),
                          .ds = save_seg(&c->seg[SEG_DS]),
                          .fs = save_seg(&c->seg[SEG_FS]),
                          .gs = save_seg(&c->seg[SEG_GS]),
                          .ldtr = save_seg(&c->seg[SEG_LDTR]),
                          .tr = save_seg(&c->seg[SEG_TR]),
                          .gdtr = save_table(&c->gdtr),
                          .idtr = save_table(&c->idtr),
                          .ldtr_base_high = c->seg[SEG_LDTR].base >> 32,
                          .gdtr_base_high = c->gdtr.base >> 32,
                          .idtr_base_high = c->idtr.base >> 32,
                          .revision = format_of(c) == AMD ? 0x30064 : 0x30100,
                          .smbase = c->msr.smbase,
                          .halt_restart = c->activity == ACTIVITY_HLT};
    memcpy(s.gpr, c->gpr, sizeof s.gpr);
    if (c->smi_io.size && c->smi_io.at == c->icount) {
        s.io_info = io_info(c);
        s.io_address = c->smi_io.string ? c->smi_io.la : 0;
        s.io_rip = c->smi_io.rip;
        s.io_rcx = c->smi_io.rcx;
        s.io_rsi = c->smi_io.rsi;
        s.io_rdi = c->smi_io.rdi;
    }
    c->smi_io.size = 0;
    cpu_note(c, WATCH_INTERRUPT, WATCH_SMI, 0);
    if (c->second.kind == MMU_SECOND_EPT)
        s.ept_enabled = 1, s.eptp = c->second.root;
    if (c->guest && format_of(c) == AMD)
        s.svm_guest = 1, s.svm_ncr3 = c->second.root;

    struct cpu_smm_kept *k = &c->smm;
    *k = (struct cpu_smm_kept){.guest = c->guest,
                               .icpt = c->icpt,
                               .second = c->second,
                               .vpid = c->vpid,
                               .step_guest = c->step_guest,
                               .apic_access_page = c->apic_access_page,
                               .cpl = c->cpl,
                               .nmi_blocked = c->nmi_blocked,
                               .shadow_sti = cpu_in_shadow(c) && c->shadow_sti,
                               .shadow_movss = cpu_in_shadow(c) && c->shadow_movss,
                               .vmxe = c->cr4 & CR4_VMXE,
                               .pending_dbg = c->pending_dbg};
    c->guest = NULL;
    c->icpt = 0;
    c->second = (struct mmu_second){0};
    c->vpid = 0;
    c->step_guest = false;
    c->apic_access_page = UINT64_MAX;
    set_smm(c, true);
    transfer(c, &s, true);

    /* SDM 3C, "Processor State in SMM"; APM 2, "SMM-Initial State". */
    c->cr0 &= ~(CR0_PE | CR0_EM | CR0_TS | CR0_PG);
    c->cr4 = 0;
    c->efer = 0;
    c->dr[7] = 0x400;
    c->rip = 0x8000;
    flags_set_arith(c, 0);
    c->rflags_rest = FLAG_1;
    c->cpl = 0;
    c->seg[SEG_CS] = real_segment((uint16_t)(c->msr.smbase >> 4), c->msr.smbase, 0xb);
    for (unsigned i = 0; i < 6; i++)
        if (i != SEG_CS)
            c->seg[i] = real_segment(0, 0, 3);
    c->shadow_sti = c->shadow_movss = false;
    c->pending_dbg = 0;
    c->step_armed = false;
    c->mon_armed = false;
    c->nmi_blocked = true;
    c->activity = ACTIVITY_ACTIVE;
    c->cur = NULL;
    cpu_update_translation(c);
    cpu_update_deadline(c);
}

/* SDM 3C, "Exiting From SMM": what sends RSM into shutdown. */
static bool image_valid(const struct cpu *c, const struct smm_image *s)
{
    bool pg = s->cr0 & CR0_PG, lma = s->efer & EFER_LMA;
    return !(s->cr0 >> 32) && !(pg && !(s->cr0 & CR0_PE)) && !((s->cr0 & CR0_NW) && !(s->cr0 & CR0_CD)) &&
           !(s->cr4 & ~model_cr4_bits(c->model)) && lma == (pg && (s->efer & EFER_LME)) &&
           !(lma && !(s->cr4 & CR4_PAE)) && !((s->cr4 & CR4_PCIDE) && !lma) && !(s->efer & ~model_efer_bits(c->model));
}

void cpu_smm_leave(struct cpu *c)
{
    struct smm_image s = {0};
    const struct cpu_smm_kept *k = &c->smm;
    transfer(c, &s, false);
    if (format_of(c) == INTEL) {
        s.ldtr.base |= s.ldtr_base_high << 32;
        s.gdtr.base |= s.gdtr_base_high << 32;
        s.idtr.base |= s.idtr_base_high << 32;
    }
    /* SDM 3C, "Default Treatment of RSM": CR4.VMXE is the processor's own, not the image's. */
    if (c->virt && c->virt->rsm)
        c->virt->rsm(c, k->guest != NULL, &s.cr0, &s.cr4);
    c->cur = NULL;
    if (!image_valid(c, &s)) {
        c->activity = ACTIVITY_SHUTDOWN;
        c->stop = STOP_SHUTDOWN;
        return;
    }
    c->msr.smbase = (uint32_t)s.smbase;
    memcpy(c->gpr, s.gpr, sizeof s.gpr);
    c->rip = s.rip;
    if (s.io_restart & 0xff && s.io_info) {
        c->rip = s.io_rip;
        c->gpr[GPR_RCX] = s.io_rcx;
        c->gpr[GPR_RSI] = s.io_rsi;
        c->gpr[GPR_RDI] = s.io_rdi;
    }
    c->cr0 =
        (s.cr0 & (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)) | CR0_ET;
    c->cr3 = s.cr3 & (s.efer & EFER_LMA ? mask_low(c->model->maxphyaddr) : 0xffffffff);
    c->cr4 = s.cr4;
    c->efer = s.efer;
    c->dr[6] = (s.dr6 | 0xffff0ff0) & ~0x1000ull & 0xffffffff;
    c->dr[7] = (s.dr7 & 0xffff2fff) | 0x400;
    static const uint8_t which[8] = {SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_LDTR, SEG_TR};
    const struct smm_seg *from[8] = {&s.es, &s.cs, &s.ss, &s.ds, &s.fs, &s.gs, &s.ldtr, &s.tr};
    for (unsigned i = 0; i < 8; i++)
        c->seg[which[i]] = load_seg(c, from[i]);
    c->seg[SEG_CS].ar = (c->seg[SEG_CS].ar | AR_P | AR_S) & ~(uint32_t)AR_UNUSABLE;
    c->gdtr = load_table(c, &s.gdtr);
    c->idtr = load_table(c, &s.idtr);
    if (!(c->efer & EFER_LMA) || !(c->seg[SEG_CS].ar & AR_L))
        c->rip &= 0xffffffff;

    c->guest = k->guest;
    c->icpt = k->icpt;
    c->second = k->second;
    c->vpid = k->vpid;
    c->step_guest = k->step_guest;
    c->apic_access_page = k->apic_access_page;
    c->cpl = k->cpl;
    c->nmi_blocked = k->nmi_blocked;
    c->pending_dbg = k->pending_dbg;
    set_smm(c, false);
    if ((c->cr0 & CR0_PG) && (c->cr4 & CR4_PAE) && !(c->efer & EFER_LMA)) {
        struct mmu_regs r;
        struct mmu_fault f;
        cpu_mmu_regs(c, &r);
        mmu_load_pdptes(c->mem, &r, c->second.kind == MMU_SECOND_NONE ? NULL : &c->second, c->cr3, c->pdpte, &f);
    }
    cpu_set_rflags(c, s.rflags);
    cpu_update_translation(c);
    c->shadow_sti = k->shadow_sti;
    c->shadow_movss = k->shadow_movss;
    c->shadow_at = c->icount;
    uint32_t pending = (k->pending_dbg ? ATT_TRAP : 0) | (cpu_in_shadow(c) ? ATT_SHADOW : 0);
    if (s.halt_restart & 1) {
        c->activity = ACTIVITY_HLT;
        pending |= ATT_INTR;
    }
    if (pending)
        cpu_attend(c, pending);
    cpu_recheck_events(c);
    cpu_update_deadline(c);
}

/* APM 2, "SMM_CTL": what a monitor that contains SMM uses. */
void cpu_smm_command(struct cpu *c, unsigned bits_)
{
    if (bits_ & 1) /* DISMISS */
        c->smi_pending = false;
    if (bits_ & 2) { /* ENTER */
        set_smm(c, true);
        c->smm.nmi_blocked = c->nmi_blocked;
        c->nmi_blocked = true;
    }
    if (bits_ & 8) { /* EXIT */
        set_smm(c, false);
        c->nmi_blocked = c->smm.nmi_blocked;
    }
    cpu_update_translation(c);
    cpu_recheck_events(c);
}

void op_rsm(struct cpu *c, const struct op *o)
{
    c->cur = o;
    if (cpu_icpt_on(c, ICPT_RSM) && cpu_intercept(c, o, ICPT_RSM, 0))
        return;
    if (!c->in_smm) {
        cpu_raise(c, EXC_UD, 0);
        return;
    }
    cpu_note(c, WATCH_INTERRUPT, WATCH_RSM, 0);
    c->icount += (uint64_t)o->n + 1;
    cpu_smm_leave(c);
}
