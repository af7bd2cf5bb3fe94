/* SPDX-License-Identifier: MIT
 *
 * dump.c: the state of a machine's processors in words, and what they have done: vmenter_dump(), vmenter_print_stats().
 *
 * A dump changes nothing: no accessed bit, no TLB entry. What cannot be read is said so.
 */
#include <Zydis/Zydis.h>

#include "src/base/text.h"
#include "src/cpu/code.h"
#include "src/arch/names.h"
#include "src/machine/machine.h"
#include "src/svm/svm.h"
#include "src/vmx/vmx.h"

#define CODE_BEFORE 16u /* bytes of code looked at before RIP, and from it on */
#define CODE_AFTER  48u
#define STACK_WORDS 16u

struct sink {
    vmenter_line_fn line;
    void *opaque;
};

static void say(const struct sink *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(const struct sink *s, const char *fmt, ...)
{
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    s->line(s->opaque, text);
}

/* The lines of a text that ends each with a newline. */
static void say_lines(const struct sink *s, char *text)
{
    char out[1400];
    for (char *at = text, *end; (end = strchr(at, '\n')); at = end + 1) {
        *end = 0;
        snprintf(out, sizeof out, "  %s", at);
        s->line(s->opaque, out);
    }
}

/* --- memory ---------------------------------------------------------------------------------------------------------
 */

/* What is mapped of [la, la + len), for the supervisor without restrictions. */
static unsigned peek(const struct cpu *c, uint64_t la, uint8_t *buf, unsigned len)
{
    struct mmu_regs regs;
    struct mmu_result r;
    struct mmu_fault f;
    const struct mmu_second *second = c->second.kind == MMU_SECOND_NONE ? NULL : &c->second;
    unsigned got = 0;
    cpu_mmu_regs(c, &regs);
    regs.cr4 &= ~(uint64_t)(CR4_SMAP | CR4_PKE | CR4_PKS);
    while (got < len) {
        unsigned part = (unsigned)MIN((uint64_t)len - got, PAGE_SIZE - ((la + got) & PAGE_OFFSET));
        if (mmu_translate(c->mem, &regs, second, LA(la + got), MMU_READ | MMU_PROBE, &r, &f) != MMU_OK)
            break;
        const uint8_t *host = mem_host(c->mem, r.hpa, part, false); /* a device is not read: it might notice */
        if (!host)
            break;
        memcpy(buf + got, host, part);
        got += part;
    }
    return got;
}

/* The most bytes before code[at] that are whole instructions up to there: a guess. */
static unsigned look_back(const uint8_t *code, unsigned at, unsigned bits_)
{
    ZydisDecoder d;
    ZydisDecodedInstruction in;
    ZydisDecoderInit(&d,
                     bits_ == 64   ? ZYDIS_MACHINE_MODE_LONG_64
                     : bits_ == 32 ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32
                                   : ZYDIS_MACHINE_MODE_LONG_COMPAT_16,
                     bits_ == 64   ? ZYDIS_STACK_WIDTH_64
                     : bits_ == 32 ? ZYDIS_STACK_WIDTH_32
                                   : ZYDIS_STACK_WIDTH_16);
    for (unsigned from = 0; from < at; from++) {
        unsigned p = from;
        while (p < at && ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&d, NULL, code + p, at - p, &in)))
            p += in.length;
        if (p == at)
            return at - from;
    }
    return 0;
}

static void dump_code(const struct cpu *c, const struct sink *s)
{
    uint8_t code[CODE_BEFORE + CODE_AFTER];
    char text[2048];
    unsigned bits_ = c->mode == MODE_64 ? 64 : c->mode == MODE_32 ? 32 : 16;
    uint64_t la = code_la(c), mask = c->mode == MODE_64 ? ~UINT64_C(0) : 0xffffffff;
    unsigned after = peek(c, la, code + CODE_BEFORE, CODE_AFTER);
    if (!after) {
        say(s, "  code: nothing is mapped at rip");
        return;
    }
    unsigned before = c->rip >= CODE_BEFORE && peek(c, (la - CODE_BEFORE) & mask, code, CODE_BEFORE) == CODE_BEFORE
                          ? look_back(code, CODE_BEFORE, bits_)
                          : 0;
    say(s, "  code, %u-bit:", bits_);
    if (before) {
        vmenter_disassemble(code + CODE_BEFORE - before, before, c->rip - before, bits_, CODE_BEFORE, text,
                            sizeof text);
        say_lines(s, text);
    }
    vmenter_disassemble(code + CODE_BEFORE, after, c->rip, bits_, 8, text, sizeof text);
    char *rest = strchr(text, '\n');
    if (rest) { /* the instruction at RIP is marked */
        *rest = 0;
        say(s, "> %s", text);
        say_lines(s, rest + 1);
    }
}

static void dump_stack(const struct cpu *c, const struct sink *s)
{
    unsigned size = c->stack_size, per_line = 32 / size;
    uint64_t sp = c->gpr[GPR_RSP], la;
    uint8_t raw[STACK_WORDS * 8];
    if (size == 8)
        la = sp;
    else
        la = (uint32_t)(c->seg[SEG_SS].base + (sp & mask_low(8 * size)));
    unsigned got = peek(c, la, raw, STACK_WORDS * size) / size;
    if (!got) {
        say(s, "  stack: nothing is mapped at rsp");
        return;
    }
    say(s, "  stack:");
    for (unsigned i = 0; i < got; i += per_line) {
        char line[160];
        struct text t = TEXT(line);
        text_add(&t, "  %0*llx ", size == 8 ? 16 : 8, TX(la + i * size));
        for (unsigned j = i; j < MIN(got, i + per_line); j++) {
            uint64_t v = 0;
            memcpy(&v, raw + j * size, size);
            text_add(&t, " %0*llx", (int)size * 2, TX(v));
        }
        s->line(s->opaque, line);
    }
}

/* --- a processor ----------------------------------------------------------------------------------------------------
 */

static void dump_registers(const struct cpu *c, const struct sink *s)
{
    static const char *const gpr[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                        "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    static const char *const seg[SEG_COUNT] = {"es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"};
    say(s, "  rip %016llx  rflags %08llx  cpl %u  %s%s", TX(c->rip), TX(cpu_rflags(c)), c->cpl,
        c->mode == MODE_64   ? "64-bit"
        : c->real_mode       ? "real mode"
        : c->vm86            ? "virtual-8086"
        : c->mode == MODE_32 ? "32-bit"
                             : "16-bit",
        cpu_in_shadow(c) ? ", interrupt shadow" : "");
    for (unsigned i = 0; i < 16; i += 4)
        say(s, "  %-3s %016llx  %-3s %016llx  %-3s %016llx  %-3s %016llx", gpr[i], TX(c->gpr[i]), gpr[i + 1],
            TX(c->gpr[i + 1]), gpr[i + 2], TX(c->gpr[i + 2]), gpr[i + 3], TX(c->gpr[i + 3]));
    for (unsigned i = 0; i < SEG_COUNT; i += 2)
        say(s, "  %-4s %04x base %016llx limit %08x ar %05x  %-4s %04x base %016llx limit %08x ar %05x", seg[i],
            c->seg[i].sel, TX(c->seg[i].base), c->seg[i].limit, c->seg[i].ar, seg[i + 1], c->seg[i + 1].sel,
            TX(c->seg[i + 1].base), c->seg[i + 1].limit, c->seg[i + 1].ar);
    say(s, "  gdtr base %016llx limit %04x  idtr base %016llx limit %04x", TX(c->gdtr.base), c->gdtr.limit,
        TX(c->idtr.base), c->idtr.limit);
    say(s, "  cr0 %08llx cr2 %016llx cr3 %016llx cr4 %08llx efer %llx", TX(c->cr0), TX(c->cr2), TX(c->cr3), TX(c->cr4),
        TX(c->efer));
    say(s, "  dr0 %016llx dr1 %016llx dr2 %016llx dr3 %016llx dr6 %08llx dr7 %08llx", TX(c->dr[0]), TX(c->dr[1]),
        TX(c->dr[2]), TX(c->dr[3]), TX(c->dr[6]), TX(c->dr[7]));
}

static void dump_events(const struct cpu *c, const struct sink *s)
{
    char text[400];
    if (!c->noted)
        return;
    say(s, "  last events, the latest last:");
    for (unsigned i = c->noted > CPU_NOTES ? c->noted - CPU_NOTES : 0; i < c->noted; i++) {
        const struct cpu_note *n = &c->note[i % CPU_NOTES];
        struct text t = TEXT(text);
        text_add(&t, "  after %llu instructions: %s ", TX(n->icount), n->guest ? "guest" : "host");
        machine_describe(&t, c, n);
        s->line(s->opaque, text);
    }
}

/* VMX or SVM as far as software has begun to use it. */
static void dump_virtual(struct cpu *c, const struct sink *s)
{
    static const char stale[] = ": the guest is running, its registers are those above";
    char rules[4096], text[16 * 1024];
    struct vmcb v;
    uint64_t pa;
    size_t len = c->svm ? svm_explain(c, rules, sizeof rules) : vmx_explain(c, rules, sizeof rules);
    if (len) {
        say(s, "  the last VM entry was refused:");
        say_lines(s, rules);
    }
    if (c->svm && svm_last_vmcb(c, &v, &pa)) {
        say(s, "  VMCB at 0x%llx%s", TX(pa), c->guest ? stale : "");
        svm_dump_vmcb(&v, text, sizeof text);
        say_lines(s, text);
    } else if (vmx_on(c) && vmx_current_pointer(c) != UINT64_MAX) {
        say(s, "  current VMCS at 0x%llx%s", TX(vmx_current_pointer(c)), c->guest ? stale : "");
        vmx_dump(c, text, sizeof text);
        say_lines(s, text);
    }
}

void machine_dump_cpu(struct cpu *c, vmenter_line_fn line, void *opaque)
{
    static const char *const activity[] = {"active", "halted", "shutdown", "waits for SIPI", "MWAIT"};
    const struct sink s = {line, opaque};
    say(&s, "processor %u: %s%s, %llu instructions retired, %llu entries, %llu exits", c->index,
        c->activity < ARRAY_LEN(activity) ? activity[c->activity] : "?", c->guest ? ", in guest mode" : "",
        TX(c->icount), TX(c->stats.entries), TX(c->stats.exits));
    dump_registers(c, &s);
    if (c->activity != ACTIVITY_WAIT_SIPI) {
        dump_code(c, &s);
        dump_stack(c, &s);
    }
    dump_events(c, &s);
    dump_virtual(c, &s);
}

void vmenter_dump(struct vmenter_machine *m, vmenter_line_fn line, void *opaque)
{
    for (unsigned i = 0; i < m->cpus; i++)
        machine_dump_cpu(m->cpu[i].cpu, line, opaque);
}

/* --- what has happened ----------------------------------------------------------------------------------------------
 */

static uint64_t sum_exceptions(const struct cpu *c)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < ARRAY_LEN(c->stats.exceptions); i++)
        n += c->stats.exceptions[i];
    return n;
}

static void exit_slot_name(const struct cpu *c, unsigned slot, char *buf, size_t size)
{
    if (c->svm)
        svm_describe_exit(svm_slot_exit((uint8_t)slot), buf, size);
    else
        snprintf(buf, size, "%s", vmx_exit_name(slot));
}

/* Counts by slot, the most frequent first. */
static void print_counts(const struct sink *s, const struct vmenter_machine *m, const char *title,
                         const uint64_t *count, unsigned slots, bool exits)
{
    uint8_t order[256];
    unsigned used = 0;
    uint64_t all = 0;
    for (unsigned i = 0; i < slots; i++) {
        if (!count[i])
            continue;
        unsigned at = used++;
        for (; at && count[order[at - 1]] < count[i]; at--)
            order[at] = order[at - 1];
        order[at] = (uint8_t)i;
        all += count[i];
    }
    if (!all)
        return;
    say(s, "%-36s %14s %7s", title, "count", "share");
    for (unsigned i = 0; i < used; i++) {
        char name[64];
        if (exits)
            exit_slot_name(m->cpu[0].cpu, order[i], name, sizeof name);
        else
            snprintf(name, sizeof name, "%s", exception_name(order[i]) ? exception_name(order[i]) : "?");
        say(s, "  %-34s %14llu %6.1f%%", name, TX(count[order[i]]), 100.0 * (double)count[order[i]] / (double)all);
    }
}

void vmenter_print_stats(struct vmenter_machine *m, vmenter_line_fn line, void *opaque)
{
    const struct sink s = {line, opaque};
    uint64_t reasons[256] = {0}, exceptions[32] = {0};
    say(&s, "%-12s %16s %12s %12s %12s %12s", "processor", "instructions", "interrupts", "exceptions", "VM entries",
        "VM exits");
    for (unsigned i = 0; i < m->cpus; i++) {
        const struct cpu *c = m->cpu[i].cpu;
        say(&s, "%-12u %16llu %12llu %12llu %12llu %12llu", i, TX(c->icount), TX(c->stats.interrupts),
            TX(sum_exceptions(c)), TX(c->stats.entries), TX(c->stats.exits));
        for (unsigned r = 0; r < 256; r++)
            reasons[r] += c->stats.reasons[r];
        for (unsigned e = 0; e < 32; e++)
            exceptions[e] += c->stats.exceptions[e];
    }
    print_counts(&s, m, "exits", reasons, 256, true);
    print_counts(&s, m, "exceptions", exceptions, 32, false);
    say(&s, "%-12s %16s %12s %12s %12s %12s %12s %12s", "processor", "TLB fills", "flushes", "of a page", "blocks made",
        "dropped", "compared", "cache flushes");
    for (unsigned i = 0; i < m->cpus; i++) {
        const struct cpu *c = m->cpu[i].cpu;
        say(&s, "%-12u %16llu %12llu %12llu %12llu %12llu %12llu %12llu", i, TX(c->tlbs.fills), TX(c->tlbs.flushes),
            TX(c->tlbs.page_flushes), TX(c->code->made), TX(c->code->killed), TX(c->code->compared),
            TX(c->code->flushes));
    }
}
