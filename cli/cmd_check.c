/* SPDX-License-Identifier: MIT
 *
 * cmd_check.c: `vmenter check FILE|-`: which rules of a VM entry a dumped VMCS breaks, of VMRUN a dumped VMCB.
 *
 * Exit status: 0 no rule is broken; 1 one is; 2 the dump is not to be read, or usage.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/check.h"
#include "src/svm/svm.h"
#include "src/vmx/vmx.h"

#define TEXT_MAX (64u << 20) /* bytes of a dump */

static const struct check_format *const formats[] = {&check_format_own, &check_format_log_vmx, &check_format_log_svm};

/* --- what the readers share ---------------------------------------------------------------------------------------
 */

struct check_image *check_list_add(struct check_list *list, enum check_kind kind, unsigned line)
{
    struct check_image *i = calloc(1, sizeof *i);
    if (!i) {
        list->failed = true;
        return NULL;
    }
    i->kind = kind;
    i->line = line;
    *(list->last ? &list->last->next : &list->first) = i;
    list->last = i;
    list->images++;
    return i;
}

bool check_vmcb_set(struct check_image *image, unsigned offset, unsigned size, uint64_t value)
{
    bool fresh = false;
    for (unsigned i = 0; i < size; i++)
        fresh |= !image->svm.known[offset + i];
    for (unsigned i = 0; fresh && i < size; i++) {
        ((uint8_t *)&image->svm.vmcb)[offset + i] = (uint8_t)(value >> (8 * i));
        image->svm.known[offset + i] = 1;
    }
    image->fields += fresh;
    return fresh;
}

bool check_hex(const char **at, uint64_t *value)
{
    const char *p = *at;
    unsigned digits = 0;
    uint64_t v = 0;
    if (p[0] == '0' && (p[1] == 'x' || p[1] == 'X') && isxdigit((unsigned char)p[2]))
        p += 2;
    for (; isxdigit((unsigned char)*p); p++) {
        int c = tolower((unsigned char)*p);
        digits += digits || c != '0';
        v = v << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    if (p == *at || digits > 16 || isalnum((unsigned char)*p) || *p == '_')
        return false;
    *at = p;
    *value = v;
    return true;
}

static const char *skip_blanks(const char *p)
{
    while (*p == ' ' || *p == '\t')
        p++;
    return p;
}

/* Behind "[...] " where the brackets hold what a log puts there: digits, dots, letters of a date. */
static const char *skip_brackets(const char *p)
{
    const char *end = *p == '[' ? strchr(p, ']') : NULL;
    if (!end || end - p > 60)
        return p;
    for (const char *q = p + 1; q < end; q++)
        if (!isalnum((unsigned char)*q) && !strchr(" .:+-,", *q))
            return p;
    return skip_blanks(end + 1);
}

static const char *skip_log_prefix(const char *line)
{
    static const char *const modules[] = {"kvm_intel: ", "kvm_amd: ", "kvm: ", "KVM: ", "SVM: "};
    const char *p = skip_blanks(line), *q;
    if (p[0] == '<' && isdigit((unsigned char)p[1]) && (q = strchr(p, '>')) && q - p < 5)
        p = skip_blanks(q + 1);
    if ((q = strstr(p, "(XEN)")) && q - p < 100)
        p = skip_blanks(q + 5);
    else if ((q = strstr(p, " kernel: ")) && q - p < 100)
        p = skip_blanks(q + 9);
    p = skip_brackets(p);
    p = skip_brackets(p); /* CPU or thread number, after the time */
    for (size_t i = 0; i < sizeof(modules) / sizeof(*modules); i++)
        if (!strncmp(p, modules[i], strlen(modules[i])))
            p = skip_blanks(p + strlen(modules[i]));
    return p;
}

bool check_line(const char **text, char *line, size_t size)
{
    if (!**text)
        return false;
    size_t len = strcspn(*text, "\n"), n = len < size - 1 ? len : size - 1;
    memcpy(line, *text, n);
    line[n] = 0;
    *text += len + ((*text)[len] == '\n');
    for (char *p = line; *p; p++)
        if (*p == '\r' || (*p != '\t' && iscntrl((unsigned char)*p)))
            *p = ' ';
    const char *rest = skip_log_prefix(line);
    memmove(line, rest, strlen(rest) + 1);
    for (size_t end = strlen(line); end && line[end - 1] == ' ';)
        line[--end] = 0;
    return true;
}

/* --- the report --------------------------------------------------------------------------------------------------- */

static void json_string(const char *s)
{
    putchar('"');
    for (; *s; s++) {
        if (*s == '"' || *s == '\\')
            putchar('\\');
        if ((unsigned char)*s < 32 || (unsigned char)*s >= 127) /* a dump need not be UTF-8 */
            printf("\\u%04x", (unsigned char)*s);
        else
            putchar(*s);
    }
    putchar('"');
}

static void json_member(const char *name, const char *value)
{
    printf(", \"%s\": ", name);
    json_string(value);
}

static void json_problem(enum check_kind kind, const struct check_problem *p)
{
    printf("{\"id\": ");
    json_string(p->id);
    json_member("area", p->area);
    json_member("manual", p->manual);
    json_member("section", p->section);
    json_member("rule", p->rule);
    json_member("field", p->field);
    printf(", \"%s\": \"0x%x\"", kind == CHECK_VMX ? "encoding" : "offset", p->where);
    if (p->judged)
        printf(", \"found\": \"0x%llx\"", (unsigned long long)p->found);
    else
        json_member("lacking", p->lacking);
    if (p->has_nearest)
        printf(", \"nearest\": \"0x%llx\"", (unsigned long long)p->nearest);
    printf("}");
}

static void report_json(const struct check_image *i, const struct check_verdict *v, bool first)
{
    printf("%s\n  {\"line\": %u, \"fields\": %u, \"kind\": \"%s\"", first ? "" : ",", i->line, i->fields,
           i->kind == CHECK_VMX ? "VMCS" : "VMCB");
    json_member("title", i->title);
    json_member("says", i->says);
    json_member("processor", v->processor);
    json_member("outcome", v->outcome);
    if (v->error)
        printf(", \"vm_instruction_error\": %llu", (unsigned long long)v->error);
    if (v->reason && i->kind == CHECK_SVM)
        printf(", \"exit_code\": \"0x%llx\"", (unsigned long long)v->reason);
    else if (v->reason)
        printf(", \"exit_reason\": \"0x%llx\", \"qualification\": \"0x%llx\"", (unsigned long long)v->reason,
               (unsigned long long)v->qualification);
    for (int judged = 1; judged >= 0; judged--) {
        const char *between = "\n    ";
        printf(",\n   \"%s\": [", judged ? "broken" : "not_judged");
        for (size_t n = 0; n < v->problems; n++) {
            if (v->problem[n].judged != judged)
                continue;
            fputs(between, stdout);
            json_problem(i->kind, &v->problem[n]);
            between = ",\n    ";
        }
        putchar(']');
    }
    putchar('}');
}

static void report_text(const struct check_options *o, const struct check_image *i, const struct check_verdict *v,
                        const char *path, const struct check_format *format)
{
    size_t unjudged = 0;
    printf("%s:%u: %s in a %s%s%s, %u fields\n", path, i->line, i->kind == CHECK_VMX ? "VMCS" : "VMCB", format->name,
           *i->title ? ", " : "", i->title, i->fields);
    printf("  checked against: %s\n", v->processor);
    for (size_t n = 0; n < v->problems; n++) {
        if (v->problem[n].judged)
            printf("  broken: %s\n", v->problem[n].text);
        else
            unjudged++;
    }
    if (unjudged) {
        printf("  not judged: %zu rules, because the dump does not carry", unjudged);
        const char *between = " ";
        for (size_t n = 0; n < v->problems; n++) {
            const struct check_problem *p = &v->problem[n];
            bool before = p->judged;
            for (size_t m = 0; m < n && !before; m++)
                before = !v->problem[m].judged && !strcmp(v->problem[m].lacking, p->lacking);
            if (before)
                continue;
            printf("%s%s", between, p->lacking);
            between = ", ";
        }
        putchar('\n');
        for (size_t n = 0; o->all && n < v->problems; n++)
            if (!v->problem[n].judged)
                printf("    %s\n", v->problem[n].text);
    }
    printf("  %s\n", v->outcome);
    if (*i->says)
        printf("  the dump says: %s\n", i->says);
}

static bool known_field(void *opaque, uint32_t encoding, uint64_t *value)
{
    return vmenter_vmcs_get(opaque, encoding, value);
}

static size_t dump(struct check_image *i, char *text, size_t size)
{
    return i->kind == CHECK_VMX ? vmx_dump_fields(known_field, &i->vmx, text, size)
                                : svm_dump_known(&i->svm.vmcb, i->svm.known, text, size);
}

static void print_fields(struct check_image *i)
{
    size_t size = dump(i, NULL, 0) + 1;
    char *text = malloc(size);
    if (!text)
        return;
    dump(i, text, size);
    if (*i->title)
        printf("# %s\n", i->title);
    fputs(text, stdout);
    free(text);
}

/* --- the command -------------------------------------------------------------------------------------------------- */

/* *raw: it is no text but a page of 4096 bytes. */
static bool read_text(const char *path, char **text, bool *raw)
{
    bool input = !strcmp(path, "-");
    FILE *f = input ? stdin : fopen(path, "rb");
    size_t used = 0, room = 0;
    *text = NULL;
    if (!f) {
        cli_error("check: %s: %s", path, strerror(errno));
        return false;
    }
    for (;;) {
        if (room - used < 4096) {
            room = room ? room * 2 : 65536;
            char *bigger = room <= TEXT_MAX ? realloc(*text, room) : NULL;
            if (!bigger) {
                cli_error("check: %s: is too large for a dump", path);
                break;
            }
            *text = bigger;
        }
        size_t n = fread(*text + used, 1, room - used - 1, f);
        if (!n) {
            if (ferror(f)) {
                cli_error("check: %s: %s", path, strerror(errno));
                break;
            }
            *raw = used == sizeof(struct vmcb) && memchr(*text, 0, used);
            if (!*raw && memchr(*text, 0, used)) {
                cli_error("check: %s: is no text", path);
                break;
            }
            (*text)[used] = 0;
            if (!input)
                fclose(f);
            return true;
        }
        used += n;
    }
    if (!input)
        fclose(f);
    free(*text);
    *text = NULL;
    return false;
}

/* The page that VMRUN is given. */
static const struct check_format format_page = {"raw VMCB page", "a VMCB as it lies in memory: 4096 bytes", NULL};

static void read_page(const char *page, struct check_list *list)
{
    struct check_image *i = check_list_add(list, CHECK_SVM, 1);
    if (!i)
        return;
    memcpy(&i->svm.vmcb, page, sizeof i->svm.vmcb);
    memset(i->svm.known, 1, sizeof i->svm.known);
    i->fields = 0
#define VMCB_CONTROL(offset, type, name, group) +1
#define VMCB_CONTROL_GAP(offset, bytes)
#define VMCB_SAVE(offset, type, name, group) +1
#define VMCB_SAVE_GAP(offset, bytes)
#include <vmenter/arch/vmcb.def>
        ;
}

static void free_list(struct check_list *list)
{
    while (list->first) {
        struct check_image *next = list->first->next;
        free(list->first);
        list->first = next;
    }
    *list = (struct check_list){0};
}

enum { OPT_CPU, OPT_MSRS, OPT_HOST_MODE, OPT_JSON, OPT_ALL, OPT_CONVERT, OPT_HELP };
static const struct option options[] = {
    {"cpu", "MODEL", "check against a processor model, NAME[,+feature,-feature...]; vmenter cpus lists them", OPT_CPU},
    {"msrs", "FILE", "check against the capability MSRs in FILE: lines 0x480 = 0xVALUE, or rdmsr's", OPT_MSRS},
    {"host-mode", "32|64", "the host is outside, in IA-32e mode (else by its RIP and IA32_EFER, where they say)",
     OPT_HOST_MODE},
    {"json", NULL, "the report as JSON", OPT_JSON},
    {"all", NULL, "name each rule that could not be judged", OPT_ALL},
    {"convert", NULL, "no check: what was read, as vmenter's own dump", OPT_CONVERT},
    {"help", NULL, "this help", OPT_HELP},
    {0},
};

static void help(void)
{
    puts(
        "usage: vmenter check [OPTIONS] FILE|-\n\n"
        "Which rules of a VM entry the VMCS in a dump breaks, of VMRUN the VMCB: each with what was found, what is\n"
        "allowed, the nearest legal value, and the manual's section. The dump is pasted as it is; what it is, is told\n"
        "by its content:");
    for (size_t i = 0; i < sizeof(formats) / sizeof(*formats); i++)
        printf("  %s\n", formats[i]->what);
    printf("  %s\n", format_page.what);
    puts("Without --cpu and --msrs any processor counts: one that offers all that the manual has.\n");
    option_help(options);
    puts("\nExit status: 0 no rule is broken, 1 one is, 2 the dump is not to be read.");
}

int cmd_check(int argc, char **argv)
{
    struct option_parser p = {.options = options, .argc = argc, .argv = argv, .at = 1};
    struct check_options o = {0};
    const char *path = NULL;
    bool json = false, convert = false;
    for (int id; (id = option_next(&p)) != OPTION_END;) {
        switch (id) {
        case OPT_CPU: o.cpu = p.value; break;
        case OPT_MSRS: o.msrs = p.value; break;
        case OPT_HOST_MODE:
            if (strcmp(p.value, "32") && strcmp(p.value, "64"))
                return cli_error("check: --host-mode is 32 or 64, not '%s'", p.value);
            o.host_mode = p.value;
            break;
        case OPT_JSON: json = true; break;
        case OPT_ALL: o.all = true; break;
        case OPT_CONVERT: convert = true; break;
        case OPT_HELP: help(); return EXIT_OK;
        case OPTION_WORD:
            if (path)
                return cli_error("check: one dump at a time: '%s' is a second", p.value);
            path = p.value;
            break;
        default: return EXIT_USAGE;
        }
    }
    if (!path)
        return cli_error("check: a dump is wanted: vmenter check FILE, or - for standard input");
    if (o.cpu && o.msrs)
        return cli_error("check: --cpu and --msrs exclude each other");
    char *text;
    bool raw = false;
    if (!read_text(path, &text, &raw))
        return EXIT_USAGE;
    struct check_list best = {0};
    const struct check_format *format = NULL;
    if (raw) {
        read_page(text, &best);
        format = best.failed ? NULL : &format_page;
    }
    for (size_t i = 0; !raw && i < sizeof(formats) / sizeof(*formats); i++) {
        struct check_list list = {0};
        formats[i]->read(text, &list);
        if (list.images && !list.failed && (!format || list.taken > best.taken)) {
            free_list(&best);
            best = list;
            format = formats[i];
        } else {
            free_list(&list);
        }
    }
    free(text);
    if (!format)
        return cli_error("check: %s: holds no dump of a VMCS or VMCB that is known: vmenter check --help lists them",
                         path);

    int status = EXIT_OK;
    if (convert) {
        for (struct check_image *i = best.first; i; i = i->next)
            print_fields(i);
        free_list(&best);
        return status;
    }
    if (json) {
        printf("{\"file\": ");
        json_string(path);
        json_member("format", format->name);
        printf(", \"images\": [");
    }
    for (struct check_image *i = best.first; i && status != EXIT_USAGE; i = i->next) {
        struct check_verdict v = {0};
        if (!(i->kind == CHECK_VMX ? check_vmx : check_svm)(&o, i, &v)) {
            status = EXIT_USAGE;
        } else {
            if (json)
                report_json(i, &v, i == best.first);
            else
                report_text(&o, i, &v, path, format);
            status = v.broken ? EXIT_GUEST : status;
        }
        free(v.problem);
    }
    if (json)
        puts("]}");
    free_list(&best);
    return status;
}
