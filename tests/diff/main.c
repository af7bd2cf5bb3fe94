/* SPDX-License-Identifier: MIT
 *
 * main.c: the differential test's driver: draws cases, runs both sides, compares, reports.
 *
 *   diff [--family NAME|all] [--mode 64|32|16|all] [--seed N] [--count N] [--case N] [--bytes HEX] [--model NAME]
 *        [--native-only] [--ours-only] [--fails N] [--show] [--list]
 *
 * A failing case prints its bytes, its text, the state before, what differs after, and the command line that repeats
 * it.
 */
#include "tests/diff/diff.h"

#include <Zydis/Zydis.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { DATA_LEN = DIFF_DATA_PAGES * DIFF_PAGE, CODE_LEN = DIFF_CODE_PAGES * DIFF_PAGE };

struct run {
    struct gen *gen;
    struct ours *ours;
    const char *model;
    const char *self;
    unsigned family;
    enum diff_mode mode;
    uint64_t seed, count, index, end;
    bool single, show, native_only, ours_only;
    const uint8_t *bytes;
    unsigned bytes_len;

    struct dcase c;
    bool have;
    uint8_t base[DATA_LEN];   /* the data pages' contents before every case's own edits */
    uint8_t before[DATA_LEN]; /* and before this case */
    uint64_t ran, left_out, failed, failed_shown, max_fails;
    uint64_t by_vector[32];
    char last_name[32];
    uint64_t fail_names_n;
    struct {
        char name[24];
        uint64_t n;
    } fail_names[256];
};

static const char *const mode_name[] = {"64", "32", "16"};
static const char *const gpr_name[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                       "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

static void put_code(uint8_t *code, const struct dcase *c)
{
    memcpy(code + c->code_offset, c->bytes, c->len);
}

static void clear_code(uint8_t *code, const struct dcase *c)
{
    memset(code + c->code_offset, DIFF_CODE_FILL, c->len);
}

static void hexdump(const char *what, const uint8_t *p, unsigned n)
{
    printf("%s", what);
    for (unsigned i = 0; i < n; i++)
        printf(" %02x", p[i]);
    printf("\n");
}

static void disassemble(const struct dcase *c, char *out, size_t size)
{
    static const ZydisMachineMode mm[] = {ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
                                          ZYDIS_MACHINE_MODE_LONG_COMPAT_16};
    static const ZydisStackWidth sw[] = {ZYDIS_STACK_WIDTH_64, ZYDIS_STACK_WIDTH_32, ZYDIS_STACK_WIDTH_32};
    ZydisDecoder d;
    ZydisDecodedInstruction i;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    ZydisFormatter f;
    ZydisDecoderInit(&d, mm[c->in.mode], sw[c->in.mode]);
    ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL);
    if (ZYAN_FAILED(ZydisDecoderDecodeFull(&d, c->bytes, c->len, &i, op)) ||
        ZYAN_FAILED(ZydisFormatterFormatInstruction(&f, &i, op, i.operand_count_visible, out, size, c->in.rip, NULL)))
        snprintf(out, size, "(not an instruction to the decoder)");
}

static void print_fx(const char *what, const uint8_t *fx)
{
    uint16_t fcw, fsw;
    uint32_t mx;
    memcpy(&fcw, fx, 2), memcpy(&fsw, fx + 2, 2), memcpy(&mx, fx + FX_MXCSR, 4);
    printf("  %s fcw=%04x fsw=%04x ftw=%02x mxcsr=%08x\n", what, fcw, fsw, fx[FX_FTW], mx);
}

static void print_in(const struct dcase *c)
{
    for (int i = 0; i < (c->in.mode == MODE64 ? 16 : 8); i++)
        printf("  %-3s=%016llx%s", gpr_name[i], (unsigned long long)c->in.gpr[i], i % 4 == 3 ? "\n" : "");
    for (unsigned i = 0; i < 3 && c->in.mode != MODE64; i++) {
        const struct diff_segment *g = &diff_segments[c->in.seg[i]];
        printf("  %s=%04x base %08x limit %08x rights %05x\n",
               i == 0   ? "ds"
               : i == 1 ? "es"
                        : "ss",
               g->sel, g->base, g->limit, g->ar);
    }
    printf("  rip=%016llx  rflags=%08llx\n", (unsigned long long)c->in.rip, (unsigned long long)c->in.rflags);
    print_fx("in: ", c->in.fx);
    for (int i = 0; i < 8; i++) {
        const uint8_t *p = c->in.fx + FX_ST + 16 * i;
        printf("  st%d=%04x:%016llx%s", i, p[8] | p[9] << 8, (unsigned long long)*(const uint64_t *)p,
               i % 4 == 3 ? "\n" : "");
    }
    for (int i = 0; i < (c->in.mode == MODE64 ? 16 : 8); i++) {
        const uint64_t *p = (const uint64_t *)(c->in.fx + FX_XMM + 16 * i);
        printf("  xmm%d=%016llx:%016llx%s", i, (unsigned long long)p[1], (unsigned long long)p[0],
               i % 4 == 3 ? "\n" : "");
    }
}

/* What of an exception software sees: an error code where there is one, CR2 for #PF. */
static bool has_error(unsigned vector)
{
    return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21;
}

struct delta {
    bool print;
    unsigned n;
};
#define DIFFER(d, ...)                                                                                                 \
    do {                                                                                                               \
        (d)->n++;                                                                                                      \
        if ((d)->print)                                                                                                \
            printf("  DIFFERS " __VA_ARGS__);                                                                          \
    } while (0)
#define ULL(x) ((unsigned long long)(x))

static bool memory_fault(unsigned vector)
{
    return (vector >= 12 && vector <= 14) || vector == 17;
}

static unsigned compare(const struct run *r, const struct dstate *a, const struct dstate *o, bool print)
{
    struct delta dd = {.print = print}, *d = &dd;
    const struct dcase *c = &r->c;
    bool fault = a->vector != 1 && a->vector != 3 && (c->count || a->rip == c->in.rip);
    bool loose = c->loose_fault && memory_fault(a->vector) && memory_fault(o->vector);

    bool low = c->low_counters && (fault || (uint32_t)c->in.gpr[1] == 0);
    if (c->skip_fault && (memory_fault(a->vector) || memory_fault(o->vector)))
        return 0;
    /* A longer decoder look-ahead than silicon's, at the end of the code pages. */
    if (strcmp(c->name, "(invalid)") == 0 && o->vector == 14 && o->cr2 == DIFF_CODE + CODE_LEN)
        return 0;
    if (loose)
        ;
    else if (a->vector != o->vector)
        DIFFER(d, "vector: native %u, ours %u\n", a->vector, o->vector);
    else if (has_error(a->vector) && a->error != o->error)
        DIFFER(d, "error code: native %#x, ours %#x\n", a->error, o->error);
    if (!loose && a->vector == 14 && o->vector == 14 && a->cr2 != o->cr2)
        DIFFER(d, "cr2: native %#llx, ours %#llx\n", ULL(a->cr2), ULL(o->cr2));
    if (a->mode != o->mode)
        DIFFER(d, "code segment: native mode %u, ours %u\n", a->mode, o->mode);
    if (a->rip != o->rip)
        DIFFER(d, "rip: native %#llx, ours %#llx\n", ULL(a->rip), ULL(o->rip));
    for (int i = 0; i < (c->in.mode == MODE64 ? 16 : 8); i++)
        if ((a->gpr[i] ^ o->gpr[i]) & (low && (i == 1 || i == 6 || i == 7) ? 0xffffffff : ~0ull) &&
            !(fault && c->loose_gpr))
            DIFFER(d, "%s: native %016llx, ours %016llx\n", gpr_name[i], ULL(a->gpr[i]), ULL(o->gpr[i]));
    uint64_t fm = fault ? ~0ull : c->flags_mask;
    for (unsigned i = 0; i < c->count; i++) /* a sequence that ended early */
        if (a->rip == c->in.rip + c->at[i])
            fm = ~(uint64_t)c->undefined[i];
    if ((a->rflags ^ o->rflags) & fm)
        DIFFER(d, "rflags: native %06llx, ours %06llx (compared %06llx)\n", ULL(a->rflags), ULL(o->rflags),
               ULL(fm & 0xffffff));
    const uint8_t *nd = diff_native_data, *od = diff_ours_data(r->ours);
    if (!(loose || (c->loose_memory && fault)) && memcmp(nd, od, DATA_LEN) != 0)
        for (unsigned i = 0, shown = 0; i < DATA_LEN && shown < 32; i++)
            if (nd[i] != od[i]) {
                DIFFER(d, "memory data+%#x: before %02x, native %02x, ours %02x\n", i, r->before[i], nd[i], od[i]);
                shown++;
            }
    if (loose && c->loose_state)
        return d->n;
    for (int i = 0; i < (c->in.mode == MODE64 ? 16 : 8); i++) {
        const uint64_t *p = (const uint64_t *)(a->fx + FX_XMM + 16 * i),
                       *q = (const uint64_t *)(o->fx + FX_XMM + 16 * i);
        if (p[0] != q[0] || p[1] != q[1])
            DIFFER(d, "xmm%d: native %016llx:%016llx, ours %016llx:%016llx\n", i, ULL(p[1]), ULL(p[0]), ULL(q[1]),
                   ULL(q[0]));
    }
    uint32_t am, om;
    memcpy(&am, a->fx + FX_MXCSR, 4), memcpy(&om, o->fx + FX_MXCSR, 4);
    if (am != om)
        DIFFER(d, "mxcsr: native %08x, ours %08x\n", am, om);
    if (fault && c->mmx)
        return d->n;
    if (c->in.mode == MODE64 && !fault) { /* XSAVE's 64-bit form has them whole */
        uint64_t ap[2], op[2];
        memcpy(ap, a->fx + FX_FIP, 16), memcpy(op, o->fx + FX_FIP, 16);
        if (ap[0] != op[0])
            DIFFER(d, "x87 FIP: native %llx, ours %llx\n", ULL(ap[0]), ULL(op[0]));
        if (ap[1] != op[1])
            DIFFER(d, "x87 FDP: native %llx, ours %llx\n", ULL(ap[1]), ULL(op[1]));
        if (memcmp(a->fx + FX_FOP, o->fx + FX_FOP, 2) != 0)
            DIFFER(d, "x87 FOP: native %02x%02x, ours %02x%02x\n", a->fx[FX_FOP + 1], a->fx[FX_FOP], o->fx[FX_FOP + 1],
                   o->fx[FX_FOP]);
    }
    uint16_t an, on;
    memcpy(&an, a->fx, 2), memcpy(&on, o->fx, 2);
    if (an != on)
        DIFFER(d, "fcw: native %04x, ours %04x\n", an, on);
    memcpy(&an, a->fx + FX_FSW, 2), memcpy(&on, o->fx + FX_FSW, 2);
    if ((an ^ on) & (fault && !c->count ? 0xffff : c->fsw_mask))
        DIFFER(d, "fsw: native %04x, ours %04x (compared %04x)\n", an, on, c->fsw_mask);
    if (a->fx[FX_FTW] != o->fx[FX_FTW])
        DIFFER(d, "ftw: native %02x, ours %02x\n", a->fx[FX_FTW], o->fx[FX_FTW]);
    for (int i = 0; i < 8; i++) {
        const uint8_t *p = a->fx + FX_ST + 16 * i, *q = o->fx + FX_ST + 16 * i;
        if (memcmp(p, q, 10) != 0)
            DIFFER(d, "st%d: native %04x:%016llx, ours %04x:%016llx\n", i, p[8] | p[9] << 8, ULL(*(const uint64_t *)p),
                   q[8] | q[9] << 8, ULL(*(const uint64_t *)q));
    }
    return d->n;
}

/* The kernel tells a program about a fault on its own half that a page was there, whether or not. */
static void normalise(struct dstate *s)
{
    if (s->vector == 14 && s->cr2 >= 0x7ffffffff000)
        s->error |= 1;
}

static void note_failure(struct run *r, const char *name)
{
    for (unsigned i = 0; i < r->fail_names_n; i++)
        if (strncmp(r->fail_names[i].name, name, sizeof r->fail_names[i].name - 1) == 0) {
            r->fail_names[i].n++;
            return;
        }
    if (r->fail_names_n < 256) {
        snprintf(r->fail_names[r->fail_names_n].name, sizeof r->fail_names[0].name, "%s", name);
        r->fail_names[r->fail_names_n++].n = 1;
    }
}

static void judge(struct run *r, struct dstate *native)
{
    struct dstate ours = {0};
    normalise(native);
    r->ran++;
    r->by_vector[native->vector & 31]++;
    if (r->native_only) {
        if (r->show) {
            char text[128];
            disassemble(&r->c, text, sizeof text);
            hexdump("bytes:", r->c.bytes, r->c.len);
            printf("%s\n", text);
            print_in(&r->c);
            printf("out: vector %u error %#x cr2 %#llx rip %#llx flags %#llx\n", native->vector, native->error,
                   ULL(native->cr2), ULL(native->rip), ULL(native->rflags));
        }
        return;
    }
    bool ran = diff_ours_run(r->ours, &r->c, &ours);
    normalise(&ours);
    /* An encoding that our decoder rejects but that this processor, being newer, executes says nothing. */
    if (strcmp(r->c.name, "(invalid)") == 0 && native->vector != 6) {
        r->left_out++;
        return;
    }
    unsigned n = ran ? compare(r, native, &ours, false) : 1;
    if (!n && !r->show)
        return;
    if (n) {
        r->failed++;
        bool again = false;
        for (unsigned i = 0; i < r->fail_names_n; i++)
            again |= strncmp(r->fail_names[i].name, r->c.name, sizeof r->fail_names[0].name - 1) == 0 &&
                     r->fail_names[i].n >= 2;
        note_failure(r, r->c.name);
        if (r->failed_shown >= r->max_fails || (again && !r->single))
            return;
        r->failed_shown++;
    }
    char text[128];
    disassemble(&r->c, text, sizeof text);
    printf("%s %s-bit case %llu of family %s, %s:\n", n ? "FAIL" : "ok", mode_name[r->mode], ULL(r->index),
           r->bytes ? "(bytes)" : diff_family_name(r->gen, r->family), r->c.step ? "one step" : "run");
    hexdump("  bytes:", r->c.bytes, r->c.len);
    for (unsigned i = 0; i < r->c.count; i++) {
        struct dcase one = r->c;
        memmove(one.bytes, one.bytes + one.at[i], sizeof one.bytes - one.at[i]);
        one.in.rip += one.at[i];
        disassemble(&one, text, sizeof text);
        printf("  %2u %#llx %s\n", i, ULL(one.in.rip), text);
    }
    if (!r->c.count)
        printf("  %s\n", text);
    print_in(&r->c);
    printf("  native: vector %u error %#x rip %#llx rflags %#llx\n", native->vector, native->error, ULL(native->rip),
           ULL(native->rflags));
    print_fx("out:", native->fx);
    if (!ran)
        printf("  DIFFERS ours did not end (budget or shutdown)\n");
    else
        compare(r, native, &ours, true);
    if (n && !r->bytes)
        printf("  repeat: %s --family %s --mode %s --seed %llu --case %llu\n", r->self,
               diff_family_name(r->gen, r->family), mode_name[r->mode], ULL(r->seed), ULL(r->index));
}

static bool step(void *opaque, struct dstate *s)
{
    struct run *r = opaque;
    if (r->have) {
        clear_code(diff_native_code, &r->c);
        judge(r, s);
        r->have = false;
        r->index++;
    }
    while (r->index < r->end) {
        memcpy(r->before, r->base, DATA_LEN);
        bool ok = true;
        if (r->bytes)
            diff_gen_bytes(r->gen, r->bytes, r->bytes_len, r->mode, r->seed, r->index, &r->c, r->before);
        else
            ok = diff_gen_case(r->gen, r->family, r->mode, r->seed, r->index, &r->c, r->before);
        if (!ok) {
            r->left_out++;
            r->index++;
            continue;
        }
        memcpy(diff_native_data, r->before, DATA_LEN);
        if (!r->native_only)
            memcpy(diff_ours_data(r->ours), r->before, DATA_LEN);
        put_code(diff_native_code, &r->c);
        /* The parts of the frame that a case does not set stay the kernel's. */
        memcpy(s, &r->c.in, sizeof *s);
        r->have = true;
        return true;
    }
    return false;
}

static void ours_loop(struct run *r)
{
    struct dstate out;
    for (; r->index < r->end; r->index++) {
        memcpy(r->before, r->base, DATA_LEN);
        if (!diff_gen_case(r->gen, r->family, r->mode, r->seed, r->index, &r->c, r->before)) {
            r->left_out++;
            continue;
        }
        memcpy(diff_ours_data(r->ours), r->before, DATA_LEN);
        r->failed += !diff_ours_run(r->ours, &r->c, &out);
        r->ran++;
    }
}

static unsigned parse_bytes(const char *s, uint8_t *out)
{
    unsigned n = 0;
    for (; *s && n < 15; s++) {
        unsigned v;
        if (*s == ' ' || *s == ',')
            continue;
        if (sscanf(s, "%2x", &v) != 1)
            return 0;
        out[n++] = (uint8_t)v;
        s++;
    }
    return n;
}

int main(int argc, char **argv)
{
    static struct run r;
    const char *family = "all", *mode = "all";
    uint8_t bytes[16];
    bool list = false;
    uint64_t only = UINT64_MAX;
    r.seed = 1, r.count = 2000, r.max_fails = 10, r.model = "max", r.self = argv[0];
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(a, "--native-only") == 0)
            r.native_only = true;
        else if (strcmp(a, "--ours-only") == 0) /* nothing is compared: for the sanitizers */
            r.ours_only = true;
        else if (strcmp(a, "--show") == 0)
            r.show = true;
        else if (strcmp(a, "--list") == 0)
            list = true;
        else if (!v)
            goto usage;
        else if (i++, strcmp(a, "--family") == 0)
            family = v;
        else if (strcmp(a, "--mode") == 0)
            mode = v;
        else if (strcmp(a, "--seed") == 0)
            r.seed = strtoull(v, NULL, 0);
        else if (strcmp(a, "--count") == 0)
            r.count = strtoull(v, NULL, 0);
        else if (strcmp(a, "--case") == 0)
            only = strtoull(v, NULL, 0);
        else if (strcmp(a, "--fails") == 0)
            r.max_fails = strtoull(v, NULL, 0);
        else if (strcmp(a, "--model") == 0)
            r.model = v;
        else if (strcmp(a, "--bytes") == 0) {
            r.bytes_len = parse_bytes(v, bytes);
            r.bytes = bytes;
            if (!r.bytes_len)
                goto usage;
        } else
            goto usage;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!r.ours_only && !diff_native_init())
        return 2;
    r.gen = diff_gen_new(r.ours_only || diff_native_mode(MODE16), r.ours_only || diff_native_segments());
    if (!r.gen)
        return 2;
    if (list) {
        diff_gen_list(r.gen, stdout);
        return 0;
    }
    struct rng fillr = {{0x1234567, 0x89abcdef}};
    for (unsigned i = 0; i < DATA_LEN; i += 8) {
        uint64_t v = rng_next(&fillr);
        memcpy(r.base + i, &v, 8);
    }
    if (!r.ours_only)
        memset(diff_native_code, DIFF_CODE_FILL, CODE_LEN);
    if (!r.native_only) {
        r.ours = diff_ours_new(r.model);
        if (!r.ours) {
            fprintf(stderr, "tests/diff: no machine of model %s\n", r.model);
            return 2;
        }
    }
    bool known = strcmp(family, "all") == 0 || r.bytes;
    uint64_t total = 0, failed = 0;
    for (r.family = 0; r.family < diff_families(r.gen); r.family++) {
        const char *name = diff_family_name(r.gen, r.family);
        if (r.bytes ? r.family > 0 : strcmp(family, "all") != 0 && strcmp(family, name) != 0)
            continue;
        known = true;
        struct timespec t0, t1;
        clock_gettime(CLOCK_MONOTONIC, &t0);
        r.ran = r.failed = r.left_out = r.fail_names_n = r.failed_shown = 0;
        unsigned modes = 0;
        for (unsigned m = 0; m < MODE_COUNT; m++) {
            r.mode = (enum diff_mode)m;
            if ((strcmp(mode, "all") != 0 && strcmp(mode, mode_name[m]) != 0) ||
                (!r.ours_only && !diff_native_mode(r.mode)))
                continue;
            if (!r.bytes && !diff_family_templates(r.gen, r.family, r.mode))
                continue;
            modes++;
            /* A family's count is shared out: half to 64-bit code where all modes are asked for. */
            uint64_t n = strcmp(mode, "all") != 0 ? r.count : m == MODE64 ? r.count / 2 : r.count / 4;
            if (strcmp(name, "bcd") == 0)
                n = strcmp(mode, "all") != 0 ? r.count : r.count / 2;
            r.index = only != UINT64_MAX ? only : 0;
            r.single = only != UINT64_MAX;
            r.end = only != UINT64_MAX ? only + 1 : n;
            r.have = false;
            if (r.ours_only)
                ours_loop(&r);
            else
                diff_native_loop(step, &r);
        }
        clock_gettime(CLOCK_MONOTONIC, &t1);
        double s = (double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) * 1e-9;
        if (!modes)
            continue;
        printf("%-10s %8llu cases, %6llu left out, %6llu differ, %5.1f us each", r.bytes ? "(bytes)" : name, ULL(r.ran),
               ULL(r.left_out), ULL(r.failed), r.ran ? s * 1e6 / (double)r.ran : 0);
        for (unsigned i = 0; i < r.fail_names_n && i < 40; i++)
            printf("%s%s:%llu", i ? " " : " [", r.fail_names[i].name, ULL(r.fail_names[i].n));
        printf("%s\n", r.fail_names_n ? "]" : "");
        total += r.ran, failed += r.failed;
    }
    if (!known) {
        fprintf(stderr, "tests/diff: no family %s (see --list)\n", family);
        return 2;
    }
    printf("%llu cases, %llu differ (seed %llu)\n", ULL(total), ULL(failed), ULL(r.seed));
    if (r.native_only) {
        for (unsigned i = 0; i < 32; i++)
            if (r.by_vector[i])
                printf("  ended by vector %u: %llu\n", i, ULL(r.by_vector[i]));
    }
    diff_gen_free(r.gen);
    if (r.ours)
        diff_ours_free(r.ours);
    return failed != 0;
usage:
    fprintf(stderr,
            "usage: diff [--family NAME|all] [--mode 64|32|16|all] [--seed N] [--count N] [--case N] [--bytes HEX]\n"
            "            [--model NAME] [--native-only] [--ours-only] [--fails N] [--show] [--list]\n");
    return 2;
}
