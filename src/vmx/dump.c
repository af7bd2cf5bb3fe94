/* SPDX-License-Identifier: MIT
 *
 * dump.c: VMX in words: the fields of a VMCS a line each, and what an exit reason, an exit qualification, an event and
 * a control word mean.
 *
 * Nothing here knows a processor but vmx_dump(): a VMCS is a function that gives the value of a field. SDM volume 3C,
 * "Virtual Machine Control Structures"; the exit qualifications: "VM Exits", "Basic VM-Exit Information".
 */
#include "src/arch/names.h"
#include "src/base/text.h"
#include "src/vmx/vmx_int.h"

static const char *const gpr_name[16] = {"RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
                                         "R8",  "R9",  "R10", "R11", "R12", "R13", "R14", "R15"};

/* --- control words ----------------------------------------------------------------------------------------------- */

enum word { WORD_PIN, WORD_PROC, WORD_PROC2, WORD_PROC3, WORD_EXIT, WORD_EXIT2, WORD_ENTRY, WORD_VMFUNC };
static const struct {
    uint8_t word, bit;
    const char *name;
} controls[] = {
#define VMX_CTL(word, bit, name, class, since, feature, text) {WORD_##word, bit, #name},
#include <vmenter/arch/vmx_ctl.def>
#undef VMX_CTL
};

static void add_controls(struct text *t, enum word word, uint64_t v)
{
    for (unsigned i = 0; i < ARRAY_LEN(controls); i++)
        if (controls[i].word == word && v >> controls[i].bit & 1)
            text_add(t, "%s%s", t->len ? " " : "", controls[i].name);
}

/* --- events ------------------------------------------------------------------------------------------------------ */

/* "Format of the VM-Exit Interruption-Information Field". */
static void add_event(struct text *t, uint32_t info)
{
    static const char *const types[8] = {[VMX_EVENT_EXTERNAL_INTERRUPT] = "external interrupt",
                                         [1] = "reserved type",
                                         [VMX_EVENT_NMI] = "NMI",
                                         [VMX_EVENT_HARDWARE_EXCEPTION] = "exception",
                                         [VMX_EVENT_SOFTWARE_INTERRUPT] = "software interrupt",
                                         [VMX_EVENT_PRIVILEGED_SOFTWARE_EXCEPTION] = "privileged software exception",
                                         [VMX_EVENT_SOFTWARE_EXCEPTION] = "software exception",
                                         [VMX_EVENT_OTHER] = "other event"};
    if (!(info & VMX_INTR_VALID))
        return;
    unsigned vector = VMX_INTR_VECTOR(info), type = VMX_INTR_TYPE(info);
    bool exception = type == VMX_EVENT_HARDWARE_EXCEPTION || type == VMX_EVENT_SOFTWARE_EXCEPTION ||
                     type == VMX_EVENT_PRIVILEGED_SOFTWARE_EXCEPTION;
    const char *name = exception ? exception_name(vector) : NULL;
    text_add(t, "%s %u", types[type], vector);
    if (name)
        text_add(t, " %s", name);
    if (info & VMX_INTR_ERROR_CODE)
        text_add(t, ", with error code");
    if (info & VMX_INTR_NMI_UNBLOCKING_IRET)
        text_add(t, ", NMI unblocking due to IRET");
}

/* --- exit reasons and qualifications ------------------------------------------------------------------------------ */

const char *vmx_exit_name(uint32_t reason)
{
    switch (VMX_REASON_BASIC(reason)) {
#define VMX_EXIT(number, name, valid, text)                                                                            \
    case number:                                                                                                       \
        return #name;
#include <vmenter/arch/vmx_exit.def>
#undef VMX_EXIT
    }
    return "RESERVED";
}

static void add_reason(struct text *t, uint32_t reason)
{
    text_add(t, "%s", vmx_exit_name(reason));
    if (reason & VMX_REASON_ENTRY_FAILURE)
        text_add(t, ", VM-entry failure");
    if (reason & VMX_REASON_FROM_VMX_ROOT)
        text_add(t, ", from VMX root operation");
    if (reason & VMX_REASON_PENDING_MTF)
        text_add(t, ", pending MTF");
    if (reason & VMX_REASON_ENCLAVE)
        text_add(t, ", enclave mode");
    if (reason & VMX_REASON_BUS_LOCK_BIT)
        text_add(t, ", bus lock");
}

static void add_flag(struct text *t, bool on, const char *word)
{
    if (on)
        text_add(t, "%s%s", t->len ? " " : "", word);
}

/* "Exit Qualification for Control-Register Accesses". */
static void add_cr_access(struct text *t, uint64_t q)
{
    unsigned cr = q & 15, gpr = q >> 8 & 15;
    switch (q >> 4 & 3) {
    case 0: text_add(t, "MOV CR%u, %s", cr, gpr_name[gpr]); break;
    case 1: text_add(t, "MOV %s, CR%u", gpr_name[gpr], cr); break;
    case 2: text_add(t, "CLTS"); break;
    default: text_add(t, "LMSW %s 0x%x", q & BIT(6) ? "memory," : "register,", (unsigned)(q >> 16 & 0xffff)); break;
    }
}

/* "Exit Qualification for EPT Violations". */
static void add_ept_violation(struct text *t, uint64_t q)
{
    add_flag(t, q & BIT(0), "read");
    add_flag(t, q & BIT(1), "write");
    add_flag(t, q & BIT(2), "fetch");
    text_add(t, "; page allows %s%s%s", q & BIT(3) ? "r" : "-", q & BIT(4) ? "w" : "-", q & BIT(5) ? "x" : "-");
    if (q & BIT(7))
        text_add(t, "; linear address valid, %s", q & BIT(8) ? "its translation" : "paging structure or table walk");
    if (q & BIT(12))
        text_add(t, "; NMI unblocking due to IRET");
    if (q & BIT(16))
        text_add(t, "; asynchronous");
}

static void add_task_switch(struct text *t, uint64_t q)
{
    static const char *const by[] = {"CALL", "IRET", "JMP", "task gate in IDT"};
    text_add(t, "%s, TSS selector 0x%x", by[q >> 30 & 3], (unsigned)(q & 0xffff));
}

static void add_apic_access(struct text *t, uint64_t q)
{
    static const char *const what[16] = {[0] = "linear read",
                                         [1] = "linear write",
                                         [2] = "linear fetch",
                                         [3] = "linear, event delivery",
                                         [4] = "linear, monitoring",
                                         [10] = "guest-physical, event delivery",
                                         [15] = "guest-physical, fetch or execution"};
    const char *w = what[q >> 12 & 15];
    text_add(t, "offset 0x%x, %s", (unsigned)(q & 0xfff), w ? w : "reserved type");
}

static void add_qualification(struct text *t, uint32_t reason, uint64_t q)
{
    if (reason & VMX_REASON_ENTRY_FAILURE) {
        switch (VMX_REASON_BASIC(reason)) {
        case VMX_REASON_ENTRY_FAILURE_MSR_LOADING: text_add(t, "entry %llu of the MSR-load area", TX(q)); break;
        case VMX_REASON_ENTRY_FAILURE_GUEST_STATE:
            add_flag(t, q == VMX_ENTRY_FAILURE_PDPTE, "PDPTE");
            add_flag(t, q == VMX_ENTRY_FAILURE_NMI, "injection of NMI under blocking by STI");
            add_flag(t, q == VMX_ENTRY_FAILURE_LINK_POINTER, "VMCS link pointer");
            break;
        }
        return;
    }
    switch (VMX_REASON_BASIC(reason)) {
    case VMX_REASON_EXCEPTION_OR_NMI:
        if (q)
            text_add(t, "address or debug bits 0x%llx", TX(q));
        break;
    case VMX_REASON_STARTUP_IPI: text_add(t, "vector 0x%x", (unsigned)(q & 0xff)); break;
    case VMX_REASON_TASK_SWITCH: add_task_switch(t, q); break;
    case VMX_REASON_INVLPG: text_add(t, "linear address 0x%llx", TX(q)); break;
    case VMX_REASON_CONTROL_REGISTER_ACCESS: add_cr_access(t, q); break;
    case VMX_REASON_MOV_DR:
        if (q & BIT(4))
            text_add(t, "MOV %s, DR%u", gpr_name[q >> 8 & 15], (unsigned)(q & 7));
        else
            text_add(t, "MOV DR%u, %s", (unsigned)(q & 7), gpr_name[q >> 8 & 15]);
        break;
    case VMX_REASON_IO_INSTRUCTION:
        text_add(t, "%s%s%s port 0x%x, size %u", q & BIT(5) ? "REP " : "", q & BIT(3) ? "IN" : "OUT",
                 q & BIT(4) ? "S" : "", (unsigned)(q >> 16 & 0xffff), (unsigned)(q & 7) + 1);
        break;
    case VMX_REASON_MWAIT: text_add(t, "monitor %sarmed", q & 1 ? "" : "not "); break;
    case VMX_REASON_APIC_ACCESS: add_apic_access(t, q); break;
    case VMX_REASON_VIRTUALIZED_EOI: text_add(t, "vector 0x%x", (unsigned)(q & 0xff)); break;
    case VMX_REASON_APIC_WRITE: text_add(t, "offset 0x%x", (unsigned)(q & 0xfff)); break;
    case VMX_REASON_EPT_VIOLATION: add_ept_violation(t, q); break;
    case VMX_REASON_PAGE_MODIFICATION_LOG_FULL: add_flag(t, q & BIT(12), "NMI unblocking due to IRET"); break;
    }
}

size_t vmx_describe_qualification(uint32_t reason, uint64_t qualification, char *buf, size_t size)
{
    struct text t = text_begin(buf, size);
    add_qualification(&t, reason, qualification);
    return t.len;
}

/* --- fields ------------------------------------------------------------------------------------------------------ */

static void add_access_rights(struct text *t, uint32_t ar)
{
    if (ar & AR_UNUSABLE) {
        text_add(t, "unusable");
        return;
    }
    text_add(t, "type %u", ar & AR_TYPE);
    add_flag(t, !(ar & AR_S), "system");
    text_add(t, " DPL %u", AR_DPL(ar));
    add_flag(t, !(ar & AR_P), "not present");
    add_flag(t, ar & AR_L, "L");
    add_flag(t, ar & AR_DB, "D/B");
    add_flag(t, ar & AR_G, "G");
}

static void add_field(struct text *t, int slot, uint64_t v, uint32_t reason)
{
    static const char *const activities[] = {"active", "HLT", "shutdown", "wait for SIPI"};
    switch (slot) {
    case F_PIN_CONTROLS: add_controls(t, WORD_PIN, v); break;
    case F_PROC_CONTROLS: add_controls(t, WORD_PROC, v); break;
    case F_PROC2_CONTROLS: add_controls(t, WORD_PROC2, v); break;
    case F_PROC3_CONTROLS: add_controls(t, WORD_PROC3, v); break;
    case F_EXIT_CONTROLS: add_controls(t, WORD_EXIT, v); break;
    case F_EXIT2_CONTROLS: add_controls(t, WORD_EXIT2, v); break;
    case F_ENTRY_CONTROLS: add_controls(t, WORD_ENTRY, v); break;
    case F_VM_FUNCTION_CONTROLS: add_controls(t, WORD_VMFUNC, v); break;
    case F_EXIT_REASON: add_reason(t, (uint32_t)v); break;
    case F_EXIT_QUALIFICATION: add_qualification(t, reason, v); break;
    case F_ENTRY_INTERRUPTION_INFO:
    case F_EXIT_INTERRUPTION_INFO:
    case F_IDT_VECTORING_INFO: add_event(t, (uint32_t)v); break;
    case F_VM_INSTRUCTION_ERROR:
        if (v)
            text_add(t, "%s", vmenter_vmx_error_text((uint32_t)v));
        break;
    case F_GUEST_ACTIVITY_STATE:
        if (v < ARRAY_LEN(activities))
            text_add(t, "%s", activities[v]);
        break;
    case F_GUEST_INTERRUPTIBILITY_STATE:
        add_flag(t, v & VMX_BLOCKING_BY_STI, "blocking-by-STI");
        add_flag(t, v & VMX_BLOCKING_BY_MOV_SS, "blocking-by-MOV-SS");
        add_flag(t, v & VMX_BLOCKING_BY_SMI, "blocking-by-SMI");
        add_flag(t, v & VMX_BLOCKING_BY_NMI, "blocking-by-NMI");
        add_flag(t, v & VMX_ENCLAVE_INTERRUPTION, "enclave-interruption");
        break;
    }
    if (slot >= F_GUEST_ES_ACCESS_RIGHTS && slot <= F_GUEST_TR_ACCESS_RIGHTS)
        add_access_rights(t, (uint32_t)v);
}

size_t vmx_describe_field(uint32_t encoding, uint64_t value, uint32_t reason, char *buf, size_t size)
{
    struct text t = text_begin(buf, size);
    add_field(&t, vmcs_slot_of(encoding), value, reason);
    return t.len;
}

size_t vmx_dump_fields(vmx_field_fn *get, void *opaque, char *buf, size_t size)
{
    static const struct {
        enum vmcs_type type;
        const char *title;
    } areas[] = {{VMCS_TYPE_GUEST, "guest-state area"},
                 {VMCS_TYPE_HOST, "host-state area"},
                 {VMCS_TYPE_CONTROL, "control fields"},
                 {VMCS_TYPE_READ_ONLY, "VM-exit information"}};
    struct text t = text_begin(buf, size);
    uint64_t v, reason = 0;
    get(opaque, VMCS_EXIT_REASON, &reason);
    for (unsigned a = 0; a < ARRAY_LEN(areas); a++) {
        text_add(&t, "# %s\n", areas[a].title);
        for (int i = 0; i < F_COUNT; i++) {
            if (vmcs_rows[i].type != areas[a].type || !get(opaque, vmcs_rows[i].encoding, &v))
                continue;
            char words[640];
            struct text w = text_begin(words, sizeof words);
            add_field(&w, i, v, (uint32_t)reason);
            text_add(&t, "%-35s = 0x%llx%s%s\n", vmcs_rows[i].name, TX(v), w.len ? "  # " : "", words);
        }
    }
    return t.len;
}

bool vmx_current_field(const struct cpu *c, uint32_t encoding, uint64_t *value)
{
    const struct vmx_cpu *x = c->vmx;
    return x && x->cur && vmcs_read(&x->caps, x->cur, encoding, value);
}

uint64_t vmx_current_pointer(const struct cpu *c)
{
    const struct vmx_cpu *x = c->vmx;
    return x && x->cur ? x->cur->pa : VMX_NO_VMCS;
}

static bool current_field(void *opaque, uint32_t encoding, uint64_t *value)
{
    const struct vmx_cpu *x = opaque;
    return vmcs_read(&x->caps, x->cur, encoding, value);
}

size_t vmx_dump(struct cpu *c, char *buf, size_t size)
{
    struct vmx_cpu *x = vmx_of(c);
    if (!x || !x->cur) {
        if (size)
            *buf = 0;
        return 0;
    }
    return vmx_dump_fields(current_field, x, buf, size);
}
