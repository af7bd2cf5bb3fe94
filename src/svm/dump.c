/* SPDX-License-Identifier: MIT
 *
 * dump.c: SVM in words: the fields of a VMCB a line each, and what an exit code's EXITINFO1, an event and the
 * intercepts mean.
 *
 * Nothing here knows a processor: a VMCB is its 4096 bytes. APM volume 2, appendix "VMCB Layout"; chapter "Secure
 * Virtual Machine".
 */
#include "src/arch/names.h"
#include "src/base/text.h"
#include "src/svm/svm_cpu.h"

static const char *const gpr_name[16] = {"RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
                                         "R8",  "R9",  "R10", "R11", "R12", "R13", "R14", "R15"};

static void add_word(struct text *t, bool on, const char *word)
{
    if (on)
        text_add(t, "%s%s", t->len ? " " : "", word);
}

/* --- exits ---------------------------------------------------------------------------------------------------------
 */

/* A family's member has its number at the place of the first one's: CR3_WRITE, EXCEPTION 14. */
static void add_exit_name(struct text *t, uint64_t code)
{
    unsigned index;
    const char *name = svm_exit_name(code, &index);
    if (!name) {
        text_add(t, "reserved");
    } else if (code < 0x40 || !strcmp(name, "CR0_WRITE_TRAP")) {
        text_add(t, "%.2s%u%s", name, index, name + 3);
    } else if (code >= 0x40 && code < 0x60) {
        const char *e = exception_name(index);
        text_add(t, "%s %u%s%s", name, index, e ? " " : "", e ? e : "");
    } else {
        text_add(t, "%s", name);
        if (index)
            text_add(t, " + %u", index);
    }
}

size_t svm_describe_exit(uint64_t code, char *buf, size_t size)
{
    struct text t = text_begin(buf, size);
    add_exit_name(&t, code);
    return t.len;
}

static void add_info1(struct text *t, uint64_t code, uint64_t info1)
{
    if (code < 0x40) {
        if (info1 & SVM_CR_MOV || code >= SVM_EXIT_DR0_READ)
            text_add(t, "MOV %s", gpr_name[SVM_CR_GPR(info1)]);
        return;
    }
    switch (code) {
    case SVM_EXIT_IOIO:
        text_add(t, "%s%s%s port 0x%x, size %u", info1 & SVM_IOIO_REP ? "REP " : "", info1 & SVM_IOIO_IN ? "IN" : "OUT",
                 info1 & SVM_IOIO_STR ? "S" : "", SVM_IOIO_PORT(info1), SVM_IOIO_SIZE(info1));
        break;
    case SVM_EXIT_MSR: text_add(t, info1 & 1 ? "WRMSR" : "RDMSR"); break;
    case SVM_EXIT_NPF:
        add_word(t, !(info1 & SVM_NPF_RW) && !(info1 & SVM_NPF_ID), "read");
        add_word(t, info1 & SVM_NPF_RW, "write");
        add_word(t, info1 & SVM_NPF_ID, "fetch");
        add_word(t, !(info1 & SVM_NPF_P), "not-present");
        add_word(t, info1 & SVM_NPF_P, "present");
        add_word(t, info1 & SVM_NPF_RSV, "reserved-bit");
        add_word(t, info1 & SVM_NPF_FINAL, "final-address");
        add_word(t, info1 & SVM_NPF_TABLE, "page-table");
        break;
    case SVM_EXIT_TASK_SWITCH: text_add(t, "TSS selector 0x%x", (unsigned)(info1 & 0xffff)); break;
    case SVM_EXIT_CR0_SEL_WRITE:
        if (info1 & SVM_CR_MOV)
            text_add(t, "MOV %s", gpr_name[SVM_CR_GPR(info1)]);
        break;
    }
    if (code == SVM_EXIT_EXCEPTION + 14)
        text_add(t, "error code 0x%x", (unsigned)info1);
}

size_t svm_describe_info1(uint64_t code, uint64_t info1, char *buf, size_t size)
{
    struct text t = text_begin(buf, size);
    add_info1(&t, code, info1);
    return t.len;
}

/* --- fields --------------------------------------------------------------------------------------------------------
 */

/* "Event Injection", EVENTINJ and EXITINTINFO. */
static void add_event(struct text *t, uint64_t e)
{
    static const char *const types[8] = {[VMCB_EVENT_INTR] = "interrupt",
                                         [1] = "reserved type",
                                         [VMCB_EVENT_NMI] = "NMI",
                                         [VMCB_EVENT_EXCEPTION] = "exception",
                                         [VMCB_EVENT_SOFTINT] = "software interrupt",
                                         [5] = "reserved type",
                                         [6] = "reserved type",
                                         [7] = "reserved type"};
    if (!(e & VMCB_EVENT_VALID))
        return;
    const char *name = VMCB_EVENT_TYPE(e) == VMCB_EVENT_EXCEPTION ? exception_name(VMCB_EVENT_VECTOR(e)) : NULL;
    text_add(t, "%s %u%s%s", types[VMCB_EVENT_TYPE(e)], VMCB_EVENT_VECTOR(e), name ? " " : "", name ? name : "");
    if (e & VMCB_EVENT_ERROR_VALID)
        text_add(t, ", error code 0x%x", VMCB_EVENT_ERROR(e));
}

/* The intercepts that bits [first, first + count) of the control area ask for. */
static void add_intercepts(struct text *t, unsigned first, unsigned count, uint64_t v)
{
    for (unsigned i = 0; i < count; i++)
        if (v >> i & 1 && svm_exit_name(first + i, NULL)) {
            text_add(t, "%s", t->len ? ", " : "");
            add_exit_name(t, first + i);
        }
}

static void add_clean(struct text *t, uint64_t v)
{
    static const char *const names[] = {"I",  "IOPM", "ASID", "TPR", "NP",   "CR", "DR",
                                        "DT", "SEG",  "CR2",  "LBR", "AVIC", "CET"};
    for (unsigned i = 0; i < ARRAY_LEN(names); i++)
        add_word(t, v >> i & 1, names[i]);
}

static void add_vintr(struct text *t, uint64_t v)
{
    add_word(t, v & VMCB_VINTR_IRQ, "V_IRQ");
    add_word(t, v & VMCB_VINTR_GIF, "VGIF");
    add_word(t, v & VMCB_VINTR_NMI, "V_NMI");
    add_word(t, v & VMCB_VINTR_NMI_MASK, "V_NMI_MASK");
    add_word(t, v & VMCB_VINTR_IGN_TPR, "V_IGN_TPR");
    add_word(t, v & VMCB_VINTR_MASKING, "V_INTR_MASKING");
    add_word(t, v & VMCB_VINTR_GIF_ENABLE, "V_GIF_ENABLE");
    add_word(t, v & VMCB_VINTR_NMI_ENABLE, "V_NMI_ENABLE");
    add_word(t, v & VMCB_VINTR_AVIC_ENABLE, "AVIC_ENABLE");
    if (v & VMCB_VINTR_IRQ)
        text_add(t, " vector 0x%x", (unsigned)(v >> 32 & 0xff));
}

static void add_words(struct text *t, const struct vmcb *v, unsigned offset, uint64_t value)
{
#define AT(field) case offsetof(struct vmcb, field)
    switch (offset) {
        AT(control.intercept_cr_read)
            : AT(control.intercept_cr_write)
            : AT(control.intercept_dr_read) : AT(control.intercept_dr_write) : add_intercepts(t, offset * 8, 16, value);
        break;
        AT(control.intercept_exception)
            : AT(control.intercept_misc1)
            : AT(control.intercept_misc2) : AT(control.intercept_misc3) : add_intercepts(t, offset * 8, 32, value);
        break;
        AT(control.vintr) : add_vintr(t, value);
        break;
        AT(control.interrupt_shadow) : add_word(t, value & VMCB_INTERRUPT_SHADOW, "interrupt shadow");
        break;
        AT(control.exitcode) : add_exit_name(t, value);
        break;
        AT(control.exitinfo1) : add_info1(t, v->control.exitcode, value);
        break;
        AT(control.exitintinfo) : AT(control.eventinj) : add_event(t, value);
        break;
        AT(control.nested_ctl) : add_word(t, value & VMCB_NP_ENABLE, "NP_ENABLE");
        break;
        AT(control.virt_ext) : add_word(t, value & VMCB_LBR_ENABLE, "LBR");
        add_word(t, value & VMCB_VIRT_VMSAVE_VMLOAD, "virtual VMSAVE/VMLOAD");
        break;
        AT(control.clean) : add_clean(t, value);
        break;
    }
#undef AT
}

struct image {
    const struct vmcb *v;
    const uint8_t *known; /* by byte; NULL: all */
};

static void add_line(struct text *t, const struct image *i, const char *name, unsigned offset, unsigned size,
                     uint64_t value)
{
    char words[1200];
    struct text w = text_begin(words, sizeof words);
    for (unsigned n = 0; i->known && n < size; n++)
        if (!i->known[offset + n])
            return;
    add_words(&w, i->v, offset, value);
    text_add(t, "%-32s = 0x%llx%s%s\n", name, TX(value), w.len ? "  # " : "", words);
}

static void add_seg(struct text *t, const struct image *i, const char *const name[4], unsigned offset,
                    const struct vmcb_seg *s)
{
    add_line(t, i, name[0], offset + offsetof(struct vmcb_seg, sel), sizeof s->sel, s->sel);
    add_line(t, i, name[1], offset + offsetof(struct vmcb_seg, attrib), sizeof s->attrib, s->attrib);
    add_line(t, i, name[2], offset + offsetof(struct vmcb_seg, limit), sizeof s->limit, s->limit);
    add_line(t, i, name[3], offset + offsetof(struct vmcb_seg, base), sizeof s->base, s->base);
}

static void add_bytes(struct text *t, const char *name, const uint8_t *b, unsigned len)
{
    text_add(t, "# %s:", name);
    for (unsigned i = 0; i < len; i++)
        text_add(t, " %02x", b[i]);
    text_add(t, "\n");
}

bool svm_last_vmcb(const struct cpu *c, struct vmcb *v, uint64_t *pa)
{
    const struct svm_cpu *s = c->svm;
    if (!s || s->last_pa == SVM_NO_PA)
        return false;
    *pa = s->last_pa;
    mem_read(c->mem, HPA(s->last_pa), v, sizeof *v);
    return true;
}

size_t svm_dump_known(const struct vmcb *v, const uint8_t *known, char *buf, size_t size)
{
    const struct image i = {v, known};
    struct text t = text_begin(buf, size);
#define LINE_u8(area, name)                                                                                            \
    add_line(&t, &i, #area "." #name, offsetof(struct vmcb, area.name), sizeof v->area.name, v->area.name);
#define LINE_u16 LINE_u8
#define LINE_u32 LINE_u8
#define LINE_u64 LINE_u8
#define LINE_insn15(area, name)                                                                                        \
    if (!known || known[offsetof(struct vmcb, area.name)])                                                             \
        add_bytes(&t, #area "." #name, v->area.name, sizeof v->area.name);
#define LINE_seg(area, name)                                                                                           \
    add_seg(&t, &i,                                                                                                    \
            (const char *const[]){#area "." #name ".sel", #area "." #name ".attrib", #area "." #name ".limit",         \
                                  #area "." #name ".base"},                                                            \
            offsetof(struct vmcb, area.name), &v->area.name);
    text_add(&t, "# state save area\n");
#define VMCB_CONTROL(offset, type, name, group)
#define VMCB_CONTROL_GAP(offset, bytes)
#define VMCB_SAVE(offset, type, name, group) LINE_##type(save, name)
#define VMCB_SAVE_GAP(offset, bytes)
#include <vmenter/arch/vmcb.def>
    text_add(&t, "# control area\n");
#define VMCB_CONTROL(offset, type, name, group) LINE_##type(control, name)
#define VMCB_CONTROL_GAP(offset, bytes)
#define VMCB_SAVE(offset, type, name, group)
#define VMCB_SAVE_GAP(offset, bytes)
#include <vmenter/arch/vmcb.def>
    return t.len;
}

size_t svm_dump_vmcb(const struct vmcb *v, char *buf, size_t size)
{
    return svm_dump_known(v, NULL, buf, size);
}
