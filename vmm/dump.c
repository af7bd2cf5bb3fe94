/* SPDX-License-Identifier: MIT
 *
 * dump.c: what the VMM tells of its exits: the trace, the table, and everything about the guest when it has come to a
 * bad end.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "vmm/vm.h"

struct sink {
    void (*line)(void *opaque, const char *text);
    void *opaque;
};

static void say(const struct sink *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(const struct sink *s, const char *fmt, ...)
{
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    s->line(s->opaque, text);
}

/* A text of several lines. */
static void say_lines(const struct sink *s, char *text, const char *indent)
{
    for (char *next; text && *text; text = next) {
        next = strchr(text, '\n');
        if (next) {
            *next++ = 0;
        }
        say(s, "%s%s", indent, text);
    }
}

static struct exit_stat *stat_of(struct vmm *v, const struct exit *e)
{
    unsigned i = (unsigned)(e->reason ^ e->reason >> 6) % STAT_SLOTS;
    for (unsigned n = 0; n < STAT_SLOTS; n++, i = (i + 1) % STAT_SLOTS) {
        struct exit_stat *s = &v->stats[i];
        if (s->name && s->reason == e->reason) {
            return s;
        }
        if (!s->name) {
            s->name = e->name;
            s->reason = e->reason;
            return s;
        }
    }
    return &v->stats[i];
}

/* Called at each exit. The handling time of the exit before was measured up to the entry that this one ended. */
void note_exit(struct vmm *v, const struct exit *e)
{
    struct exit_note *n = &v->ring[v->exits % RING_SLOTS];
    if (v->config.stats) {
        if (v->exits) {
            const struct exit_note *p = &v->ring[(v->exits - 1) % RING_SLOTS];
            const struct exit before = {.reason = p->reason, .name = p->name};
            stat_of(v, &before)->ns += v->handled_ns;
        }
        stat_of(v, e)->count++;
    }
    *n = (struct exit_note){
        .name = e->name, .reason = e->reason, .rip = v->hv->get(v, HV_RIP), .info = {e->info[0], e->info[1]}};
    v->exits++;
    if (v->config.platform.trace) {
        char text[200];
        snprintf(text, sizeof(text), "%llu %llu %s rip=%#llx info=%#llx,%#llx rax=%#llx rcx=%#llx rdx=%#llx",
                 (unsigned long long)v->exits, (unsigned long long)machine_now(v), n->name, (unsigned long long)n->rip,
                 (unsigned long long)n->info[0], (unsigned long long)n->info[1], (unsigned long long)v->regs.rax,
                 (unsigned long long)v->regs.rcx, (unsigned long long)v->regs.rdx);
        v->config.platform.trace(v->config.platform.opaque, text);
    }
}

void vmm_print_stats(struct vmm *v, void (*line)(void *opaque, const char *text), void *opaque)
{
    const struct sink s = {line, opaque};
    struct exit_stat *order[STAT_SLOTS];
    unsigned n = 0;
    uint64_t count = 0, ns = 0;
    for (unsigned i = 0; i < STAT_SLOTS; i++) {
        if (v->stats[i].name) {
            unsigned at = n++;
            for (; at && order[at - 1]->count < v->stats[i].count; at--) {
                order[at] = order[at - 1];
            }
            order[at] = &v->stats[i];
            count += v->stats[i].count;
            ns += v->stats[i].ns;
        }
    }
    say(&s, "%-28s %12s %7s %12s %10s", v->hv->name, "exits", "share", "handled, ms", "each, ns");
    for (unsigned i = 0; i < n; i++) {
        const struct exit_stat *e = order[i];
        say(&s, "%-28s %12llu %6.1f%% %12.3f %10.0f", e->name, (unsigned long long)e->count,
            100.0 * (double)e->count / (double)count, (double)e->ns / 1e6, (double)e->ns / (double)e->count);
    }
    say(&s, "%-28s %12llu %6.1f%% %12.3f", "all", (unsigned long long)count, count ? 100.0 : 0.0, (double)ns / 1e6);
    struct vmenter_stats st;
    vmenter_get_stats(&st);
    say(&s, "%llu instructions, guest time %.3f s; %llu TLB fills, %llu instructions decoded, %llu blocks invalidated",
        (unsigned long long)st.instructions, (double)machine_now(v) / 1e9, (unsigned long long)st.tlb_fills,
        (unsigned long long)st.blocks_decoded, (unsigned long long)st.blocks_invalidated);
}

static void dump_registers(struct vmm *v, const struct sink *s)
{
    static const char *const name[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                         "r8 ", "r9 ", "r10", "r11", "r12", "r13", "r14", "r15"};
    static const char *const seg[HV_SEGS] = {"es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr", "gdtr", "idtr"};
    for (unsigned i = 0; i < 16; i += 4) {
        say(s, "  %s %016llx  %s %016llx  %s %016llx  %s %016llx", name[i], (unsigned long long)v->regs.reg[i],
            name[i + 1], (unsigned long long)v->regs.reg[i + 1], name[i + 2], (unsigned long long)v->regs.reg[i + 2],
            name[i + 3], (unsigned long long)v->regs.reg[i + 3]);
    }
    say(s, "  rip %016llx  rflags %08llx  cpl %u", (unsigned long long)v->hv->get(v, HV_RIP),
        (unsigned long long)v->hv->get(v, HV_RFLAGS), v->hv->cpl(v));
    say(s, "  cr0 %08llx  cr2 %016llx  cr3 %016llx  cr4 %08llx  efer %04llx", (unsigned long long)v->hv->get(v, HV_CR0),
        (unsigned long long)v->hv->get(v, HV_CR2), (unsigned long long)v->hv->get(v, HV_CR3),
        (unsigned long long)v->hv->get(v, HV_CR4), (unsigned long long)v->hv->get(v, HV_EFER));
    for (unsigned i = 0; i < HV_SEGS; i++) {
        struct hv_segment g;
        v->hv->get_seg(v, (enum hv_seg)i, &g);
        say(s, "  %-4s %04x  base %016llx  limit %08x  rights %05x", seg[i], g.sel, (unsigned long long)g.base, g.limit,
            g.ar);
    }
}

static void dump_code(struct vmm *v, const struct sink *s)
{
    uint8_t code[64];
    char text[1600], hex[3 * 32 + 1] = "";
    struct hv_segment cs;
    unsigned bits = vmm_code_bits(v);
    v->hv->get_seg(v, HV_CS, &cs);
    uint64_t rip = v->hv->get(v, HV_RIP);
    unsigned n = mem_peek(v, (bits == 64 ? 0 : cs.base) + rip, code, sizeof(code));
    if (!n) {
        say(s, "code: nothing is mapped at rip");
        return;
    }
    for (unsigned i = 0; i < n && i < 32; i++) {
        snprintf(hex + i * 3, 4, "%02x ", code[i]);
    }
    say(s, "code, %u-bit: %s", bits, hex);
    if (vmenter_disassemble(code, n, rip, bits, 8, text, sizeof(text))) {
        say_lines(s, text, "  ");
    }
}

void vmm_dump(struct vmm *v, void (*line)(void *opaque, const char *text), void *opaque)
{
    const struct sink s = {line, opaque};
    char text[2000];
    say(&s, "%s guest: %s", v->hv->name, v->why);
    if (vmenter_explain_entry(text, sizeof(text))) {
        say(&s, "why the entry was refused:");
        say_lines(&s, text, "  ");
    }
    say(&s, "after %llu exits, %.6f s of guest time%s", (unsigned long long)v->exits, (double)machine_now(v) / 1e9,
        v->halted ? ", halted" : "");
    dump_registers(v, &s);
    dump_code(v, &s);
    say(&s, "last exits, the latest last:");
    for (uint64_t i = v->exits > RING_SLOTS ? v->exits - RING_SLOTS : 0; i < v->exits; i++) {
        const struct exit_note *n = &v->ring[i % RING_SLOTS];
        say(&s, "  %-24s rip %016llx  info %#llx %#llx", n->name, (unsigned long long)n->rip,
            (unsigned long long)n->info[0], (unsigned long long)n->info[1]);
    }
}
