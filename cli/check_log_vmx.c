/* SPDX-License-Identifier: MIT
 *
 * check_log_vmx.c: VMCSs in logs of Linux KVM (dump_vmcs) and of Xen (the 'v' key, a failed entry). The two forms are
 * related: areas that begin with *** ... ***, in them words with values; what differs stands in the table too.
 *
 * A word is looked for in its context first (the register whose line it is), so that a line which mail has wrapped is
 * read as well. What is not known is passed over.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "cli/check.h"

enum { GUEST = 1, HOST = 2, CONTROL = 4 };
enum context {
    NO,
    CR0,
    CR4,
    CR3,
    SYSENTER,
    ENTRY,
    EXIT,
    VECTORING,
    PLE,
    TARGETS,
    CS,
    DS,
    SS,
    ES,
    FS,
    GS,
    LDTR,
    TR,
    GDTR,
    IDTR
};

#define NOTHING 0xffffffffu /* not a field: passed over with its value */
#define SPLIT   0xfffffffeu /* SVI and RVI, the two bytes of the guest interrupt status */

static const struct word {
    uint8_t area, context;
    const char *text;  /* a blank stands for any number of them; '%' for a value */
    uint8_t opens;     /* the context that it opens */
    uint32_t field[2]; /* encodings of the values */
} words[] = {
    {GUEST, NO, "CR0:", CR0, {0}},
    {GUEST, NO, "CR4:", CR4, {0}},
    {GUEST, CR0, "actual = %", 0, {VMCS_GUEST_CR0}},
    {GUEST, CR0, "shadow = %", 0, {VMCS_CR0_READ_SHADOW}},
    {GUEST, CR0, "gh_mask = %", 0, {VMCS_CR0_GUEST_HOST_MASK}},
    {GUEST, CR4, "actual = %", 0, {VMCS_GUEST_CR4}},
    {GUEST, CR4, "shadow = %", 0, {VMCS_CR4_READ_SHADOW}},
    {GUEST, CR4, "gh_mask = %", 0, {VMCS_CR4_GUEST_HOST_MASK}},
    {GUEST, NO, "CR3:", CR3, {0}},
    {GUEST, CR3, "actual = %", 0, {VMCS_GUEST_CR3}},
    {GUEST, CR3, "target_count = %", 0, {VMCS_CR3_TARGET_COUNT}},
    {GUEST, NO, "CR3 = %", 0, {VMCS_GUEST_CR3}},
    {GUEST, NO, "target0 = %", 0, {VMCS_CR3_TARGET_VALUE_0}},
    {GUEST, NO, "target1 = %", 0, {VMCS_CR3_TARGET_VALUE_1}},
    {GUEST, NO, "target2 = %", 0, {VMCS_CR3_TARGET_VALUE_2}},
    {GUEST, NO, "target3 = %", 0, {VMCS_CR3_TARGET_VALUE_3}},
    {GUEST, NO, "PDPTR0 = %", 0, {VMCS_GUEST_PDPTE0}},
    {GUEST, NO, "PDPTR1 = %", 0, {VMCS_GUEST_PDPTE1}},
    {GUEST, NO, "PDPTR2 = %", 0, {VMCS_GUEST_PDPTE2}},
    {GUEST, NO, "PDPTR3 = %", 0, {VMCS_GUEST_PDPTE3}},
    {GUEST, NO, "PDPTE0 = %", 0, {VMCS_GUEST_PDPTE0}},
    {GUEST, NO, "PDPTE1 = %", 0, {VMCS_GUEST_PDPTE1}},
    {GUEST, NO, "PDPTE2 = %", 0, {VMCS_GUEST_PDPTE2}},
    {GUEST, NO, "PDPTE3 = %", 0, {VMCS_GUEST_PDPTE3}},
    {GUEST, NO, "RSP = %", 0, {VMCS_GUEST_RSP}},
    {GUEST, NO, "RIP = %", 0, {VMCS_GUEST_RIP}},
    {GUEST, NO, "RFLAGS = %", 0, {VMCS_GUEST_RFLAGS}},
    {GUEST, NO, "DR7 = %", 0, {VMCS_GUEST_DR7}},
    {GUEST | HOST, NO, "Sysenter", SYSENTER, {0}},
    {GUEST, SYSENTER, "RSP = %", 0, {VMCS_GUEST_SYSENTER_ESP}},
    {GUEST, SYSENTER, "CS:RIP = %:%", 0, {VMCS_GUEST_SYSENTER_CS, VMCS_GUEST_SYSENTER_EIP}},
#define SEGMENT(r)                                                                                                     \
    {GUEST, NO, #r ":", r, {0}}, {GUEST, r, "sel = %", 0, {VMCS_GUEST_##r##_SELECTOR}},                                \
        {GUEST, r, "attr = %", 0, {VMCS_GUEST_##r##_ACCESS_RIGHTS}},                                                   \
        {GUEST, r, "limit = %", 0, {VMCS_GUEST_##r##_LIMIT}},                                                          \
    {                                                                                                                  \
        GUEST, r, "base = %", 0,                                                                                       \
        {                                                                                                              \
            VMCS_GUEST_##r##_BASE                                                                                      \
        }                                                                                                              \
    }
    SEGMENT(CS),
    SEGMENT(DS),
    SEGMENT(SS),
    SEGMENT(ES),
    SEGMENT(FS),
    SEGMENT(GS),
    SEGMENT(LDTR),
    SEGMENT(TR),
#define TABLE(r)                                                                                                       \
    {GUEST, NO, #r ":", r, {0}}, {GUEST, r, "limit = %", 0, {VMCS_GUEST_##r##_LIMIT}},                                 \
    {                                                                                                                  \
        GUEST, r, "base = %", 0,                                                                                       \
        {                                                                                                              \
            VMCS_GUEST_##r##_BASE                                                                                      \
        }                                                                                                              \
    }
    TABLE(GDTR),
    TABLE(IDTR),
    {GUEST, NO, "EFER(MSR LL) = %", 0, {NOTHING}},
    {GUEST, NO, "EFER(VMCS) = %", 0, {VMCS_GUEST_EFER}},
    {GUEST, NO, "EFER = %", 0, {VMCS_GUEST_EFER}},
    {GUEST, NO, "PAT = %", 0, {VMCS_GUEST_PAT}},
    {GUEST, NO, "PreemptionTimer = %", 0, {VMCS_PREEMPTION_TIMER_VALUE}},
    {GUEST, NO, "SM Base = %", 0, {VMCS_GUEST_SMBASE}},
    {GUEST, NO, "DebugCtl = %", 0, {VMCS_GUEST_DEBUGCTL}},
    {GUEST, NO, "DebugExceptions = %", 0, {VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS}},
    {GUEST, NO, "PerfGlobCtl = %", 0, {VMCS_GUEST_PERF_GLOBAL_CTRL}},
    {GUEST, NO, "BndCfgS = %", 0, {VMCS_GUEST_BNDCFGS}},
    {GUEST, NO, "ArchLBRCtl = %", 0, {VMCS_GUEST_LBR_CTL}},
    {GUEST, NO, "PKRS = %", 0, {VMCS_GUEST_PKRS}},
    {GUEST, NO, "S_CET = %", 0, {VMCS_GUEST_S_CET}},
    {GUEST, NO, "SSP TABLE = %", 0, {VMCS_GUEST_INTERRUPT_SSP_TABLE_ADDR}},
    {GUEST, NO, "SSP = %", 0, {VMCS_GUEST_SSP}},
    {GUEST, NO, "Interruptibility = %", 0, {VMCS_GUEST_INTERRUPTIBILITY_STATE}},
    {GUEST, NO, "ActivityState = %", 0, {VMCS_GUEST_ACTIVITY_STATE}},
    {GUEST, NO, "InterruptStatus = %", 0, {VMCS_GUEST_INTERRUPT_STATUS}},

    {HOST, NO, "RIP = %", 0, {VMCS_HOST_RIP}},
    {HOST, NO, "RSP = %", 0, {VMCS_HOST_RSP}},
    {HOST, SYSENTER, "RSP = %", 0, {VMCS_HOST_SYSENTER_ESP}},
    {HOST, SYSENTER, "CS:RIP = %:%", 0, {VMCS_HOST_SYSENTER_CS, VMCS_HOST_SYSENTER_EIP}},
    {HOST, NO, "CS = %", 0, {VMCS_HOST_CS_SELECTOR}},
    {HOST, NO, "SS = %", 0, {VMCS_HOST_SS_SELECTOR}},
    {HOST, NO, "DS = %", 0, {VMCS_HOST_DS_SELECTOR}},
    {HOST, NO, "ES = %", 0, {VMCS_HOST_ES_SELECTOR}},
    {HOST, NO, "FS = %", 0, {VMCS_HOST_FS_SELECTOR}},
    {HOST, NO, "GS = %", 0, {VMCS_HOST_GS_SELECTOR}},
    {HOST, NO, "TR = %", 0, {VMCS_HOST_TR_SELECTOR}},
    {HOST, NO, "FSBase = %", 0, {VMCS_HOST_FS_BASE}},
    {HOST, NO, "GSBase = %", 0, {VMCS_HOST_GS_BASE}},
    {HOST, NO, "TRBase = %", 0, {VMCS_HOST_TR_BASE}},
    {HOST, NO, "GDTBase = %", 0, {VMCS_HOST_GDTR_BASE}},
    {HOST, NO, "IDTBase = %", 0, {VMCS_HOST_IDTR_BASE}},
    {HOST, NO, "CR0 = %", 0, {VMCS_HOST_CR0}},
    {HOST, NO, "CR3 = %", 0, {VMCS_HOST_CR3}},
    {HOST, NO, "CR4 = %", 0, {VMCS_HOST_CR4}},
    {HOST, NO, "EFER = %", 0, {VMCS_HOST_EFER}},
    {HOST, NO, "PAT = %", 0, {VMCS_HOST_PAT}},
    {HOST, NO, "PerfGlobCtl = %", 0, {VMCS_HOST_PERF_GLOBAL_CTRL}},
    {HOST, NO, "PKRS = %", 0, {VMCS_HOST_PKRS}},
    {HOST, NO, "S_CET = %", 0, {VMCS_HOST_S_CET}},
    {HOST, NO, "SSP TABLE = %", 0, {VMCS_HOST_INTERRUPT_SSP_TABLE_ADDR}},
    {HOST, NO, "SSP = %", 0, {VMCS_HOST_SSP}},

    {CONTROL, NO, "PinBased = %", 0, {VMCS_PIN_CONTROLS}},
    {CONTROL, NO, "CPUBased = %", 0, {VMCS_PROC_CONTROLS}},
    {CONTROL, NO, "SecondaryExec = %", 0, {VMCS_PROC2_CONTROLS}},
    {CONTROL, NO, "TertiaryExec = %", 0, {VMCS_PROC3_CONTROLS}},
    {CONTROL, NO, "EntryControls = %", 0, {VMCS_ENTRY_CONTROLS}},
    {CONTROL, NO, "ExitControls = %", 0, {VMCS_EXIT_CONTROLS}},
    {CONTROL, NO, "ExceptionBitmap = %", 0, {VMCS_EXCEPTION_BITMAP}},
    {CONTROL, NO, "PFECmask = %", 0, {VMCS_PAGE_FAULT_ERROR_CODE_MASK}},
    {CONTROL, NO, "PFECmatch = %", 0, {VMCS_PAGE_FAULT_ERROR_CODE_MATCH}},
    {CONTROL, NO, "VMEntry:", ENTRY, {0}},
    {CONTROL, ENTRY, "intr_info = %", 0, {VMCS_ENTRY_INTERRUPTION_INFO}},
    {CONTROL, ENTRY, "errcode = %", 0, {VMCS_ENTRY_EXCEPTION_ERROR_CODE}},
    {CONTROL, ENTRY, "ilen = %", 0, {VMCS_ENTRY_INSTRUCTION_LENGTH}},
    {CONTROL, NO, "VMExit:", EXIT, {0}},
    {CONTROL, EXIT, "intr_info = %", 0, {VMCS_EXIT_INTERRUPTION_INFO}},
    {CONTROL, EXIT, "errcode = %", 0, {VMCS_EXIT_INTERRUPTION_ERROR_CODE}},
    {CONTROL, EXIT, "ilen = %", 0, {VMCS_EXIT_INSTRUCTION_LENGTH}},
    {CONTROL, NO, "reason = %", 0, {VMCS_EXIT_REASON}},
    {CONTROL, NO, "qualification = %", 0, {VMCS_EXIT_QUALIFICATION}},
    {CONTROL, NO, "IDTVectoring:", VECTORING, {0}},
    {CONTROL, VECTORING, "info = %", 0, {VMCS_IDT_VECTORING_INFO}},
    {CONTROL, VECTORING, "errcode = %", 0, {VMCS_IDT_VECTORING_ERROR_CODE}},
    {CONTROL, NO, "TSC Offset = %", 0, {VMCS_TSC_OFFSET}},
    {CONTROL, NO, "TSC Multiplier = %", 0, {VMCS_TSC_MULTIPLIER}},
    {CONTROL, NO, "SVI|RVI = %|%", 0, {SPLIT, SPLIT}},
    {CONTROL, NO, "TPR Threshold = %", 0, {VMCS_TPR_THRESHOLD}},
    {CONTROL, NO, "PostedIntrVec = %", 0, {VMCS_POSTED_INTERRUPT_NOTIFICATION_VECTOR}},
    {CONTROL, NO, "APIC-access addr = %", 0, {VMCS_APIC_ACCESS_ADDRESS}},
    {CONTROL, NO, "virt-APIC addr = %", 0, {VMCS_VIRTUAL_APIC_ADDRESS}},
    {CONTROL, NO, "EPT pointer = %", 0, {VMCS_EPT_POINTER}},
    {CONTROL, NO, "EPTP index = %", 0, {VMCS_EPTP_INDEX}},
    {CONTROL, NO, "CR3 target0 = %", TARGETS, {VMCS_CR3_TARGET_VALUE_0}},
    {CONTROL, NO, "CR3 target2 = %", TARGETS, {VMCS_CR3_TARGET_VALUE_2}},
    {CONTROL, TARGETS, "target1 = %", 0, {VMCS_CR3_TARGET_VALUE_1}},
    {CONTROL, TARGETS, "target3 = %", 0, {VMCS_CR3_TARGET_VALUE_3}},
    {CONTROL, NO, "PLE", PLE, {0}},
    {CONTROL, PLE, "Gap = %", 0, {VMCS_PLE_GAP}},
    {CONTROL, PLE, "Window = %", 0, {VMCS_PLE_WINDOW}},
    {CONTROL, NO, "Virtual processor ID = %", 0, {VMCS_VPID}},
    {CONTROL, NO, "VMfunc controls = %", 0, {VMCS_VM_FUNCTION_CONTROLS}},
    {CONTROL, NO, "VE info address = %", 0, {VMCS_VE_INFORMATION_ADDRESS}},
};

/* Xen's columns: sel attr limit base; limit base for a table. */
static const struct {
    uint8_t context;
    uint32_t field[4];
} columns[] = {
#define COLUMNS(r)                                                                                                     \
    {                                                                                                                  \
        r,                                                                                                             \
        {                                                                                                              \
            VMCS_GUEST_##r##_SELECTOR, VMCS_GUEST_##r##_ACCESS_RIGHTS, VMCS_GUEST_##r##_LIMIT, VMCS_GUEST_##r##_BASE   \
        }                                                                                                              \
    }
    COLUMNS(CS),
    COLUMNS(DS),
    COLUMNS(SS),
    COLUMNS(ES),
    COLUMNS(FS),
    COLUMNS(GS),
    COLUMNS(LDTR),
    COLUMNS(TR),
    {GDTR, {VMCS_GUEST_GDTR_LIMIT, VMCS_GUEST_GDTR_BASE, NOTHING, NOTHING}},
    {IDTR, {VMCS_GUEST_IDTR_LIMIT, VMCS_GUEST_IDTR_BASE, NOTHING, NOTHING}},
};

static const char *blanks(const char *p)
{
    while (*p == ' ' || *p == '\t')
        p++;
    return p;
}

/* The end of the word and its values at p; NULL: it is another word. */
static const char *match(const char *p, const struct word *w, uint64_t values[2])
{
    unsigned n = 0;
    for (const char *t = w->text; *t; t++) {
        if (*t == ' ') {
            p = blanks(p);
        } else if (*t == '%') {
            if (!check_hex(&p, &values[n++]))
                return NULL;
        } else if (*p++ != *t) {
            return NULL;
        }
    }
    return p;
}

struct reader {
    struct check_list *list;
    struct check_image *image;
    uint8_t area, context, before; /* before: the context in which the line before ended */
    unsigned line, column;
    char title[120];
};

static void set(struct reader *r, uint32_t encoding, uint64_t value)
{
    if (encoding != NOTHING && vmenter_vmcs_set(&r->image->vmx, encoding, value))
        r->image->fields++;
    r->list->taken++;
}

/* A word at p in that context: what follows it; NULL: none. */
static const char *take(struct reader *r, const char *p, uint8_t context)
{
    uint64_t v[2] = {0, 0};
    for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
        const struct word *w = &words[i];
        const char *end = w->context == context && (w->area & r->area) ? match(p, w, v) : NULL;
        if (!end)
            continue;
        if (w->opens) {
            r->context = w->opens;
            r->column = 0;
        }
        if (w->field[0] == SPLIT) {
            set(r, VMCS_GUEST_INTERRUPT_STATUS, (v[0] & 0xff) << 8 | (v[1] & 0xff));
        } else if (strchr(w->text, '%')) {
            /* What the guest gets by another way than the field. */
            const char *after = blanks(end);
            bool other = !strncmp(after, "(autoload)", 10) || !strncmp(after, "(effective)", 11);
            set(r, other ? NOTHING : w->field[0], v[0]);
            if (strstr(w->text, "%:%"))
                set(r, w->field[1], v[1]);
        }
        return end;
    }
    return NULL;
}

static const char *take_column(struct reader *r, const char *p)
{
    uint64_t v;
    for (size_t i = 0; i < sizeof(columns) / sizeof(*columns); i++) {
        if (columns[i].context != r->context || r->column >= 4 || columns[i].field[r->column] == NOTHING)
            continue;
        if (!check_hex(&p, &v))
            return NULL;
        set(r, columns[i].field[r->column++], v);
        return p;
    }
    return NULL;
}

static void read_words(struct reader *r, const char *p)
{
    r->before = r->context;
    r->context = NO;
    bool first = true;
    while (*(p = blanks(p))) {
        const char *end = r->context ? take(r, p, r->context) : NULL;
        if (!end && r->context)
            end = take_column(r, p);
        if (!end)
            end = take(r, p, NO);
        if (!end && first && r->before) {
            r->context = r->before;
            end = take(r, p, r->context);
            if (!end)
                end = take_column(r, p);
            if (!end)
                r->context = NO;
        }
        first = false;
        if (!end && *p == '(') { /* a remark */
            end = strchr(p, ')');
            end = end ? end + 1 : p + strlen(p);
        }
        if (!end) {
            end = p + strcspn(p, " \t,");
            end += *end == ',';
        }
        p = end + (*end == ',');
    }
}

/* Where its area begins; false: the line is none. */
static bool read_heading(struct reader *r, const char *line)
{
    static const struct {
        const char *text;
        uint8_t area;
    } headings[] = {{"*** Guest State ***", GUEST}, {"*** Host State ***", HOST}, {"*** Control State ***", CONTROL}};
    for (size_t i = 0; i < 3; i++) {
        if (strncmp(line, headings[i].text, strlen(headings[i].text)))
            continue;
        r->area = headings[i].area;
        r->context = NO;
        r->list->taken++;
        if (r->area == GUEST || !r->image) {
            r->image = check_list_add(r->list, CHECK_VMX, r->line);
            if (r->image)
                memcpy(r->image->title, r->title, sizeof r->title);
            r->title[0] = 0;
        }
        return true;
    }
    return false;
}

static void read_log(const char *text, struct check_list *list)
{
    struct reader r = {.list = list};
    char line[1000], domain[24] = "";
    while (r.line++, check_line(&text, line, sizeof line)) {
        unsigned number;
        if (read_heading(&r, line)) {
            if (!r.image)
                return;
        } else if (!strncmp(line, "VMCS ", 5) || strstr(line, "vmentry failure") || strstr(line, "Failed vm entry")) {
            snprintf(r.title, sizeof r.title, "%.100s", line);
            r.area = 0;
        } else if (sscanf(line, ">>> Domain %u <<<", &number) == 1) {
            snprintf(domain, sizeof domain, "domain %u ", number);
            r.area = 0;
        } else if (*domain && sscanf(blanks(line), "VCPU %u", &number) == 1) {
            snprintf(r.title, sizeof r.title, "%sVCPU %u", domain, number);
            r.area = 0;
        } else if (!strncmp(line, "*****", 5)) {
            r.area = 0;
        } else if (r.area && r.image) {
            read_words(&r, line);
        }
    }
    for (struct check_image *i = list->first; i; i = i->next) {
        uint64_t reason, q = 0;
        if (!vmenter_vmcs_get(&i->vmx, VMCS_EXIT_REASON, &reason) || !reason)
            continue;
        vmenter_vmcs_get(&i->vmx, VMCS_EXIT_QUALIFICATION, &q);
        snprintf(i->says, sizeof i->says, "exit reason 0x%llx, %s, qualification 0x%llx", (unsigned long long)reason,
                 vmenter_vmx_reason_name(VMX_REASON_BASIC((uint32_t)reason)), (unsigned long long)q);
    }
}

const struct check_format check_format_log_vmx = {
    "KVM or Xen log", "VMCSs in the log of Linux KVM (dmesg, with kvm_intel.dump_invalid_vmcs=1) or of Xen (xl dmesg)",
    read_log};
