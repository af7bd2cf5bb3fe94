/* SPDX-License-Identifier: MIT
 *
 * trace.c: what happens in a machine's processors as lines of text: vmenter_trace().
 *
 * A line is
 *     TIME PROCESSOR host|guest EVENT NAME key=value... ["words"]
 * docs/PC.md states it event by event. A number is decimal without 0x, hexadecimal with it. Words in quotes are for
 * people. Names come from the tables of the architecture.
 */
#include "src/arch/names.h"
#include "src/base/text.h"
#include "src/machine/machine.h"
#include "src/svm/svm.h"
#include "src/vmx/vmx.h"
#include <vmenter/vmx.h>

_Static_assert((int)WATCH_EXIT == VMENTER_TRACE_EXITS && (int)WATCH_ENTRY == VMENTER_TRACE_ENTRIES &&
                   (int)WATCH_INTERRUPT == VMENTER_TRACE_INTERRUPTS &&
                   (int)WATCH_EXCEPTION == VMENTER_TRACE_EXCEPTIONS && (int)WATCH_IO == VMENTER_TRACE_IO &&
                   (int)WATCH_MSR == VMENTER_TRACE_MSR && (int)WATCH_INSN == VMENTER_TRACE_INSN,
               "one set of bits");

unsigned vmenter_trace_parse(const char *list)
{
    static const struct {
        const char *word;
        unsigned what;
    } words[] = {{"exits", VMENTER_TRACE_EXITS},
                 {"entries", VMENTER_TRACE_ENTRIES},
                 {"interrupts", VMENTER_TRACE_INTERRUPTS},
                 {"exceptions", VMENTER_TRACE_EXCEPTIONS},
                 {"io", VMENTER_TRACE_IO},
                 {"msr", VMENTER_TRACE_MSR},
                 {"insn", VMENTER_TRACE_INSN},
                 {"all", VMENTER_TRACE_ALL}};
    unsigned what = 0;
    for (;;) {
        size_t len = strcspn(list, ",");
        unsigned found = 0;
        for (unsigned i = 0; i < ARRAY_LEN(words); i++)
            if (strlen(words[i].word) == len && !memcmp(words[i].word, list, len))
                found = words[i].what;
        if (!found)
            return 0;
        what |= found;
        list += len;
        if (!*list++)
            return what;
    }
}

static void add_quoted(struct text *t, const char *words)
{
    if (*words)
        text_add(t, " \"%s\"", words);
}

/* --- exits ----------------------------------------------------------------------------------------------------------
 */

/* The information fields that a basic exit reason defines: letters of vmx_exit.def. */
static const char *vmx_valid(uint32_t reason)
{
    switch (VMX_REASON_BASIC(reason)) {
#define VMX_EXIT(number, name, valid, text)                                                                            \
    case number:                                                                                                       \
        return valid;
#include <vmenter/arch/vmx_exit.def>
#undef VMX_EXIT
    }
    return "";
}

static uint64_t field(const struct cpu *c, uint32_t encoding)
{
    uint64_t v = 0;
    vmx_current_field(c, encoding, &v);
    return v;
}

static void add_vmx_exit(struct text *t, const struct cpu *c, const struct cpu_note *n, bool now)
{
    static const struct {
        char letter;
        const char *key;
        uint32_t field;
    } keys[] = {{'l', "la", VMCS_GUEST_LINEAR_ADDRESS},
                {'p', "pa", VMCS_GUEST_PHYSICAL_ADDRESS},
                {'n', "len", VMCS_EXIT_INSTRUCTION_LENGTH},
                {'i', "info", VMCS_EXIT_INSTRUCTION_INFO}};
    uint32_t reason = (uint32_t)n->a;
    const char *valid = vmx_valid(reason);
    char words[200];
    struct text w = TEXT(words);
    if (strchr(valid, 'q'))
        text_add(t, " qualification=0x%llx", TX(n->b));
    w.len = vmx_describe_qualification(reason, n->b, words, sizeof words);
    if (now) {
        uint32_t event = (uint32_t)field(c, VMCS_EXIT_INTERRUPTION_INFO),
                 vectoring = (uint32_t)field(c, VMCS_IDT_VECTORING_INFO);
        bool failed = reason & VMX_REASON_ENTRY_FAILURE;
        for (unsigned i = 0; i < ARRAY_LEN(keys); i++)
            if (strchr(valid, keys[i].letter))
                text_add(t, " %s=0x%llx", keys[i].key, TX(field(c, keys[i].field)));
        if (strchr(valid, 'v')) {
            text_add(t, " event=0x%x", event);
            if (event & VMX_INTR_ERROR_CODE)
                text_add(t, " error=0x%llx", TX(field(c, VMCS_EXIT_INTERRUPTION_ERROR_CODE)));
            char what[100];
            vmx_describe_field(VMCS_EXIT_INTERRUPTION_INFO, event, reason, what, sizeof what);
            text_add(&w, "%s%s", w.len ? "; " : "", what);
        }
        if (!failed && (vectoring & VMX_INTR_VALID)) {
            char what[100];
            vmx_describe_field(VMCS_IDT_VECTORING_INFO, vectoring, reason, what, sizeof what);
            text_add(t, " vectoring=0x%x", vectoring);
            text_add(&w, "%sduring %s", w.len ? "; " : "", what);
        }
    }
    if (w.len)
        add_quoted(t, words);
}

static void add_svm_exit(struct text *t, const struct cpu *c, const struct cpu_note *n, bool now)
{
    char words[200];
    struct vmcb v;
    uint64_t pa;
    text_add(t, " info1=0x%llx", TX(n->b));
    if (now && svm_last_vmcb(c, &v, &pa)) {
        text_add(t, " info2=0x%llx", TX(v.control.exitinfo2));
        if (v.control.exitintinfo & VMCB_EVENT_VALID)
            text_add(t, " vectoring=0x%llx", TX(v.control.exitintinfo));
    }
    svm_describe_info1(n->a, n->b, words, sizeof words);
    add_quoted(t, words);
}

/* "EXCEPTION 14 #PF" is one word in a trace: EXCEPTION.14.#PF would be none; the number stands in a key. */
static void add_svm_name(struct text *t, uint64_t code)
{
    char name[80];
    svm_describe_exit(code, name, sizeof name);
    char *blank = strchr(name, ' ');
    if (blank)
        *blank = 0;
    text_add(t, "%s", name);
    if (blank && code < 0x60)
        text_add(t, " vector=%u", (unsigned)(code & 31));
}

/* --- events ---------------------------------------------------------------------------------------------------------
 */

static void add_at(struct text *t, const struct cpu_note *n)
{
    text_add(t, " at=%04x:%0*llx", n->cs, n->mode == MODE_64 ? 16 : 8, TX(n->rip));
}

/* Of what an event is that went through the IDT. */
static void add_event_name(struct text *t, const struct cpu_note *n)
{
    static const char *const types[8] = {
        [EVENT_EXTINT] = "external",  [EVENT_NMI] = "nmi",         [EVENT_HWEXC] = "hardware",
        [EVENT_SOFTINT] = "software", [EVENT_PRIV_SWEXC] = "int1", [EVENT_SWEXC] = "software"};
    unsigned vector = n->a & 0xff, type = n->a >> 8 & 7;
    const char *name = n->what == WATCH_EXCEPTION ? exception_name(vector) : NULL;
    if (n->a & WATCH_INIT)
        text_add(t, "INIT");
    else if (n->a & WATCH_SIPI)
        text_add(t, "SIPI vector=0x%x", vector);
    else if (n->a & (WATCH_SMI | WATCH_RSM))
        text_add(t, n->a & WATCH_SMI ? "SMI" : "RSM");
    else if (n->a & WATCH_SHUTDOWN)
        text_add(t, n->b ? "VMX_ABORT indicator=%llu" : "SHUTDOWN", TX(n->b));
    else if (name)
        text_add(t, "%s type=%s", name, types[type]);
    else
        text_add(t, "0x%x type=%s", vector, types[type] ? types[type] : "other");
    if (n->a & BIT(16))
        text_add(t, " error=0x%x", (unsigned)(n->a >> 32));
    if (n->what == WATCH_EXCEPTION && vector == EXC_PF && !(n->a & WATCH_SHUTDOWN))
        text_add(t, " address=0x%llx", TX(n->b));
}

static void add_msr_name(struct text *t, uint32_t msr)
{
    const char *name = msr_name(msr);
    if (name)
        text_add(t, "%s number=0x%x", name, msr);
    else
        text_add(t, "0x%x number=0x%x", msr, msr);
}

static void add_insn(struct text *t, const struct cpu_note *n)
{
    char line[300];
    unsigned bits_ = n->mode == MODE_64 ? 64 : n->mode == MODE_32 ? 32 : 16;
    text_add(t, "%04x:%0*llx ", n->cs, n->mode == MODE_64 ? 16 : 8, TX(n->rip));
    vmenter_disassemble((const void *)(uintptr_t)n->a, n->b, n->rip, bits_, 1, line, sizeof line);
    /* ADDRESS  BYTES  TEXT: the address is there already. */
    char *p = line + strcspn(line, " \n");
    p += strspn(p, " ");
    p[strcspn(p, "\n")] = 0;
    text_add(t, "%s", p);
}

/* now: the processor and its VMCS are as they were when it happened. */
static void describe(struct text *t, const struct cpu *c, const struct cpu_note *n, bool now)
{
    static const char *const entries[4] = {
        [WATCH_VMLAUNCH] = "VMLAUNCH", [WATCH_VMRESUME] = "VMRESUME", [WATCH_VMRUN] = "VMRUN"};
    switch ((enum cpu_watch)n->what) {
    case WATCH_EXIT:
        text_add(t, "exit ");
        if (c->svm)
            add_svm_name(t, n->a);
        else
            text_add(t, "%s", vmx_exit_name((uint32_t)n->a));
        add_at(t, n);
        if (c->svm)
            add_svm_exit(t, c, n, now);
        else
            add_vmx_exit(t, c, n, now);
        break;
    case WATCH_ENTRY:
        text_add(t, "entry %s", entries[n->a & WATCH_ENTRY_KIND]);
        add_at(t, n);
        if (n->a & WATCH_ENTRY_FAILED) {
            text_add(t, " failed=%llu", TX(n->b));
            add_quoted(t, n->b ? vmenter_vmx_error_text((uint32_t)n->b) : "no current VMCS that can be entered");
            break;
        }
        text_add(t, c->svm ? " vmcb=0x%llx" : " vmcs=0x%llx", TX(n->b));
        if (now && !c->svm) {
            uint64_t event = field(c, VMCS_ENTRY_INTERRUPTION_INFO);
            char words[100];
            if (event & VMX_INTR_VALID) {
                vmx_describe_field(VMCS_ENTRY_INTERRUPTION_INFO, event, 0, words, sizeof words);
                text_add(t, " inject=0x%llx", TX(event));
                add_quoted(t, words);
            }
        } else if (now) {
            struct vmcb v;
            uint64_t pa;
            if (svm_last_vmcb(c, &v, &pa) && (v.control.eventinj & VMCB_EVENT_VALID))
                text_add(t, " inject=0x%llx", TX(v.control.eventinj));
        }
        break;
    case WATCH_INTERRUPT:
    case WATCH_EXCEPTION:
        text_add(t, n->what == WATCH_INTERRUPT ? "interrupt " : "exception ");
        add_event_name(t, n);
        add_at(t, n);
        break;
    case WATCH_IO: {
        const struct vmenter_machine *m = c->machine;
        unsigned size = n->a >> 16 & 0xff;
        const char *device = m && m->pc ? board_port_device(m->pc, (uint16_t)n->a, size) : NULL;
        text_add(t, "io %s port=0x%x size=%u value=0x%llx", n->a & BIT(24) ? "in" : "out", (unsigned)(n->a & 0xffff),
                 size, TX(n->b));
        if (device)
            text_add(t, " device=%s", device);
        add_at(t, n);
        break;
    }
    case WATCH_MSR:
        text_add(t, "msr %s ", n->a & BIT(32) ? "write" : "read");
        add_msr_name(t, (uint32_t)n->a);
        if (n->a & BIT(33))
            text_add(t, " fault=#GP");
        if (!(n->a & BIT(33)) || n->a & BIT(32))
            text_add(t, " value=0x%llx", TX(n->b));
        add_at(t, n);
        break;
    case WATCH_INSN:
        text_add(t, "insn ");
        add_insn(t, n);
        break;
    }
}

void machine_describe(struct text *t, const struct cpu *c, const struct cpu_note *n)
{
    describe(t, c, n, false);
}

static void begin(struct text *t, struct cpu *c, const struct cpu_note *n)
{
    text_add(t, "%llu %u %s ", TX(cpu_tsc(c) - c->msr.tsc_adjust), c->index, n->guest ? "guest" : "host");
}

/* The rules that a refused entry broke, a line each. */
static void tell_rules(struct cpu *c, const struct cpu_note *n)
{
    struct vmenter_machine *m = c->machine;
    char rules[4096], line[1024];
    size_t len = c->svm ? svm_explain(c, rules, sizeof rules) : vmx_explain(c, rules, sizeof rules);
    if (len >= sizeof rules)
        rules[sizeof rules - 1] = 0;
    for (char *at = rules, *end; *at; at = end) {
        end = at + strcspn(at, "\n");
        if (*end)
            *end++ = 0;
        struct text t = TEXT(line);
        begin(&t, c, n);
        text_add(&t, "rule %s", at);
        m->trace(m->trace_opaque, (enum vmenter_trace)n->what, line);
    }
}

static void watch(struct cpu *c, const struct cpu_note *n)
{
    struct vmenter_machine *m = c->machine;
    char line[1024];
    struct text t = TEXT(line);
    begin(&t, c, n);
    describe(&t, c, n, true);
    m->trace(m->trace_opaque, (enum vmenter_trace)n->what, line);
    bool refused = n->what == WATCH_ENTRY ? n->a & WATCH_ENTRY_FAILED
                   : n->what == WATCH_EXIT
                       ? c->svm ? n->a == (uint64_t)SVM_EXIT_INVALID : (n->a & VMX_REASON_ENTRY_FAILURE) != 0
                       : false;
    if (refused)
        tell_rules(c, n);
}

void vmenter_trace(struct vmenter_machine *m, unsigned what, vmenter_trace_fn line, void *opaque)
{
    m->trace = line;
    m->trace_opaque = opaque;
    for (unsigned i = 0; i < m->cpus; i++)
        cpu_set_watch(m->cpu[i].cpu, line ? what & VMENTER_TRACE_ALL : 0, watch, NULL);
}
