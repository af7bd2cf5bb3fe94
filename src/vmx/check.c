/* SPDX-License-Identifier: MIT
 *
 * check.c: the checks of VM entries, over a VMCS's fields and capabilities; knows no processor.
 *
 * SDM volume 3C, "Checks on VMX Controls and Host-State Area", "Checking and Loading Guest State". Each check is a row
 * of vmx_check.def, whose expressions are compiled twice: into the functions that a VM entry runs, which stop at the
 * first broken rule, and into vmx_check_each(), which goes on, notes which fields each verdict depends on, and can live
 * with fields that are not known.
 *
 * Freestanding: <vmenter/vmx.h>, its tables and vmx_check.def are all it needs; no library, no allocation, no state.
 */
#include "src/vmx/check.h"

enum creg_bit {
#define CREG(reg, name, bit, feature, title) reg##_##name = 1ull << (bit),
#include "src/arch/creg.def"
#undef CREG
    CREG_BIT_WIDE = 1ull << 63 /* masks are used as 64-bit numbers */
};
#define S_CET_RESERVED 0x3c0ull
#define S_CET_SUPPRESS (1ull << 10)
#define S_CET_BOTH     (3ull << 10)
#define FLAG_TF        (1ull << 8)
#define FLAG_IF        (1ull << 9)
#define FLAG_VM        (1ull << 17)
#define DEBUGCTL_BTF   (1ull << 1)

/* --- fields ----------------------------------------------------------------------------------------------------- */

static const uint16_t encodings[F_COUNT] = {
#define VMCS(name, encoding, when, group, text) [F_##name] = encoding,
#include <vmenter/arch/vmcs.def>
#undef VMCS
};

/* By width, type and index: slot + 1. */
#define INDEX_BITS 6
#define DENSE(encoding)                                                                                                \
    ((((encoding) >> 10 & 3) | ((encoding) >> 13 & 3) << 2) << INDEX_BITS | ((encoding) >> 1 & 0x1ff))
static const uint8_t slots[16 << INDEX_BITS] = {
#define VMCS(name, encoding, when, group, text) [DENSE(encoding)] = F_##name + 1,
#include <vmenter/arch/vmcs.def>
#undef VMCS
};
#define VMCS(name, encoding, when, group, text)                                                                        \
    _Static_assert(((encoding) >> 1 & 0x1ff) < 1 << INDEX_BITS && !((encoding)&0xffff9001), "VMCS_" #name);
#include <vmenter/arch/vmcs.def>
#undef VMCS

int vmcs_slot_of(uint64_t encoding)
{
    if ((encoding & ~0x6ffeull & ~1ull) || (encoding >> 1 & 0x1ff) >= 1 << INDEX_BITS)
        return -1;
    return slots[DENSE(encoding)] - 1;
}

uint32_t vmcs_encoding_of(unsigned slot)
{
    return encodings[slot];
}

static bool is_known(const uint64_t *known, unsigned slot)
{
    return known[slot >> 6] >> (slot & 63) & 1;
}

static uint64_t cut(unsigned slot, uint64_t value)
{
    switch (VMCS_FIELD_WIDTH(encodings[slot])) {
    case VMCS_WIDTH_16: return (uint16_t)value;
    case VMCS_WIDTH_32: return (uint32_t)value;
    }
    return value;
}

bool vmenter_vmcs_get(const struct vmenter_vmcs *v, uint32_t encoding, uint64_t *value)
{
    int slot = vmcs_slot_of(encoding);
    if (slot < 0 || !is_known(v->known, (unsigned)slot))
        return false;
    if ((encoding & VMCS_HIGH) && VMCS_FIELD_WIDTH(encoding) != VMCS_WIDTH_64)
        return false;
    *value = encoding & VMCS_HIGH ? v->value[slot] >> 32 : v->value[slot];
    return true;
}

bool vmenter_vmcs_set(struct vmenter_vmcs *v, uint32_t encoding, uint64_t value)
{
    int slot = vmcs_slot_of(encoding);
    if (slot < 0)
        return false;
    if (encoding & VMCS_HIGH) {
        if (VMCS_FIELD_WIDTH(encoding) != VMCS_WIDTH_64)
            return false;
        value = value << 32 | (uint32_t)v->value[slot];
    }
    v->value[slot] = cut((unsigned)slot, value);
    v->known[slot >> 6] |= 1ull << (slot & 63);
    return true;
}

void vmenter_vmcs_read(struct vmenter_vmcs *v, bool (*read)(void *opaque, uint32_t encoding, uint64_t *value),
                       void *opaque)
{
    for (unsigned i = 0; i < sizeof v->known / sizeof *v->known; i++)
        v->known[i] = 0;
    for (unsigned slot = 0; slot < F_COUNT; slot++) {
        uint64_t value = 0;
        v->value[slot] = 0;
        if (read(opaque, encodings[slot], &value))
            vmenter_vmcs_set(v, encodings[slot], value);
    }
}

/* --- pure functions for the rows ----------------------------------------------------------------------------------
 */

static bool in_bounds(uint64_t v, struct vmx_allowed a)
{
    return (v & a.must) == a.must && !(v & ~a.may);
}
static uint64_t width_mask(const struct vmx_caps *caps)
{
    return caps->maxphyaddr >= 64 ? ~0ull : (1ull << caps->maxphyaddr) - 1;
}
static uint64_t page_mask(const struct vmx_caps *caps)
{
    return width_mask(caps) & ~4095ull;
}
static bool page_address(const struct vmx_caps *caps, uint64_t pa)
{
    return !(pa & ~page_mask(caps));
}

/* MSR areas: 16 bytes each entry. */
static bool area_address_ok(const struct vmx_caps *caps, uint64_t pa)
{
    return !(pa & ~(width_mask(caps) & ~15ull));
}
static bool area_ok(const struct vmx_caps *caps, uint64_t pa, uint64_t count)
{
    return area_address_ok(caps, pa) && !((pa + count * 16 - 1) & ~width_mask(caps));
}
static uint64_t area_max(const struct vmx_caps *caps, uint64_t pa)
{
    uint64_t max = (width_mask(caps) - pa + 1) / 16;
    return max > 0xffffffff ? 0xffffffff : max;
}

static uint64_t extend(uint64_t v, unsigned bits)
{
    return bits >= 64 ? v : (uint64_t)((int64_t)(v << (64 - bits)) >> (64 - bits));
}
static bool extends(uint64_t v, unsigned bits)
{
    return extend(v, bits) == v;
}
/* Of bases and MSRs: by the processor's linear-address width, whatever CR4.LA57 is. */
static bool canonical(const struct vmx_caps *caps, uint64_t la)
{
    return extends(la, caps->linear_width);
}
static uint64_t canonical_near(const struct vmx_caps *caps, uint64_t la)
{
    return extend(la, caps->linear_width);
}
/* Of RIP: bits 63:N are identical, which bit N-1 need not be. */
static bool identical_above(const struct vmx_caps *caps, uint64_t la)
{
    return extends(la, caps->linear_width + 1u);
}

/* IA32_PAT with every byte that no memory type has made one: 2 and 3 become 0 and 1, others lose their high bits. */
static uint64_t pat_near(uint64_t v)
{
    v &= 0x0707070707070707ull;
    uint64_t low = ~v >> 2 & 0x0101010101010101ull; /* of types 0 to 3 */
    return v & ~(low << 1);
}

static bool vector_has_error_code(unsigned vector)
{
    return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}
static bool inject_vector_ok(unsigned type, unsigned vector)
{
    switch (type) {
    case VMX_EVENT_NMI: return vector == 2;
    case VMX_EVENT_HARDWARE_EXCEPTION: return vector <= 31;
    case VMX_EVENT_OTHER: return vector == 0;
    }
    return true;
}
static unsigned inject_vector_near(unsigned type, unsigned vector)
{
    return type == VMX_EVENT_NMI ? 2 : type == VMX_EVENT_HARDWARE_EXCEPTION ? vector & 31 : 0;
}
/* `may`: a hardware exception outside real mode. */
static bool inject_error_ok(const struct vmx_caps *caps, uint64_t info, bool may)
{
    bool deliver = info & VMX_INTR_ERROR_CODE;
    if (caps->basic & VMX_BASIC_ANY_ERROR_CODE)
        return may || !deliver;
    return deliver == (may && vector_has_error_code(VMX_INTR_VECTOR(info)));
}

static bool eptp_type_ok(const struct vmx_caps *caps, uint64_t eptp)
{
    unsigned type = eptp & 7;
    return (type == VMX_EPTP_UC && (caps->ept_vpid & VMX_EPT_CAP_UC)) ||
           (type == VMX_EPTP_WB && (caps->ept_vpid & VMX_EPT_CAP_WB));
}
static uint64_t eptp_best_type(const struct vmx_caps *caps)
{
    return caps->ept_vpid & VMX_EPT_CAP_WB ? VMX_EPTP_WB : VMX_EPTP_UC;
}
static bool eptp_walk_ok(const struct vmx_caps *caps, uint64_t eptp)
{
    unsigned walk = eptp >> 3 & 7;
    return (walk == 3 && (caps->ept_vpid & VMX_EPT_CAP_WALK_4)) || (walk == 4 && (caps->ept_vpid & VMX_EPT_CAP_WALK_5));
}
static uint64_t eptp_best_walk(const struct vmx_caps *caps)
{
    return caps->ept_vpid & VMX_EPT_CAP_WALK_4 ? VMX_EPTP_WALK_4 : VMX_EPTP_WALK_5;
}
static bool eptp_ad_ok(const struct vmx_caps *caps, uint64_t eptp)
{
    return !(eptp & VMX_EPTP_ACCESSED_DIRTY) || (caps->ept_vpid & VMX_EPT_CAP_ACCESSED_DIRTY);
}
static uint64_t eptp_reserved(const struct vmx_caps *caps)
{
    return ~width_mask(caps) | 0xf00 |
           (caps->ept_vpid & VMX_EPT_CAP_SUPERVISOR_SHADOW_STACK ? 0 : VMX_EPTP_SUPERVISOR_SHADOW_STACK);
}
bool vmx_eptp_valid(const struct vmx_caps *caps, uint64_t eptp)
{
    return eptp_type_ok(caps, eptp) && eptp_walk_ok(caps, eptp) && eptp_ad_ok(caps, eptp) &&
           !(eptp & eptp_reserved(caps));
}

static bool data_type_ok(uint32_t ar)
{
    return (ar & 1) && (!(ar & 8) || (ar & 2));
}
static uint64_t with_dpl(uint64_t ar, uint64_t dpl)
{
    return (ar & ~0x60ull) | (dpl & 3) << VMX_AR_DPL_SHIFT;
}
static bool granularity_ok(uint64_t limit, uint32_t ar)
{
    if (ar & VMX_AR_G)
        return (limit & 0xfff) == 0xfff;
    return !(limit >> 20);
}
/* No G fits the limit. */
static bool granularity_hopeless(uint64_t limit)
{
    return limit >> 20 && (limit & 0xfff) != 0xfff;
}

static bool activity_allows(uint64_t activity, unsigned type, unsigned vector)
{
    enum { DB = 1, MC = 18 };
    switch (activity) {
    case VMX_ACTIVITY_HLT:
        return type == VMX_EVENT_EXTERNAL_INTERRUPT || type == VMX_EVENT_NMI ||
               (type == VMX_EVENT_HARDWARE_EXCEPTION && (vector == DB || vector == MC)) ||
               (type == VMX_EVENT_OTHER && vector == 0);
    case VMX_ACTIVITY_SHUTDOWN: return type == VMX_EVENT_NMI || (type == VMX_EVENT_HARDWARE_EXCEPTION && vector == MC);
    case VMX_ACTIVITY_WAIT_SIPI: return false;
    }
    return true;
}

static uint64_t pdpte_reserved(const struct vmx_caps *caps)
{
    return ~width_mask(caps) | 0x1e6;
}
static bool pdpte_ok(const struct vmx_caps *caps, uint64_t pdpte)
{
    return !(pdpte & 1) || !(pdpte & pdpte_reserved(caps));
}

uint32_t vmx_proc2(const uint64_t *f)
{
    return f[F_PROC_CONTROLS] >> 31 & 1 ? (uint32_t)f[F_PROC2_CONTROLS] : 0;
}

/* --- words of the rows' expressions -------------------------------------------------------------------------------
 */
#define CAPS            (k->caps)
#define BIT_OF(w, name) ((uint64_t)(uint32_t)VMX_##w##_##name)
#define WORD_PIN        F(PIN_CONTROLS)
#define WORD_PROC       F(PROC_CONTROLS)
#define WORD_PROC2      (F(PROC_CONTROLS) >> 31 & 1 ? F(PROC2_CONTROLS) : 0)
#define WORD_PROC3      (F(PROC_CONTROLS) >> 17 & 1 ? F(PROC3_CONTROLS) : 0)
#define WORD_EXIT       F(EXIT_CONTROLS)
#define WORD_EXIT2      (F(EXIT_CONTROLS) >> 31 & 1 ? F(EXIT2_CONTROLS) : 0)
#define WORD_ENTRY      F(ENTRY_CONTROLS)
#define ON(w, name)     (WORD_##w & BIT_OF(w, name))
#define OFF(w, name)    (~BIT_OF(w, name))
/* The word with a bit set where that may be, and else with the bit cleared that needs it. */
#define SET_OR_CLEAR(w, caps_, needed, needs)                                                                          \
    (k->caps->caps_.may & BIT_OF(w, needed) ? WORD_##w | BIT_OF(w, needed) : WORD_##w & OFF(w, needs))
#define HOST_WIDE     ON(EXIT, HOST_ADDRESS_SPACE_SIZE)
#define GUEST64       ON(ENTRY, IA32E_MODE_GUEST)
#define FREE_GUEST    ON(PROC2, UNRESTRICTED_GUEST)
#define V86           (F(GUEST_RFLAGS) & FLAG_VM)
#define SEL(r)        F(GUEST_##r##_SELECTOR)
#define BASE(r)       F(GUEST_##r##_BASE)
#define LIMIT(r)      F(GUEST_##r##_LIMIT)
#define AR(r)         ((uint32_t)F(GUEST_##r##_ACCESS_RIGHTS))
#define USABLE(r)     (!(AR(r) & VMX_AR_UNUSABLE))
#define CODE64        (GUEST64 && (AR(CS) & VMX_AR_L))
#define INJECT        (F(ENTRY_INTERRUPTION_INFO) & VMX_INTR_VALID)
#define INJECT_TYPE   VMX_INTR_TYPE((uint32_t)F(ENTRY_INTERRUPTION_INFO))
#define INJECT_VECTOR VMX_INTR_VECTOR((uint32_t)F(ENTRY_INTERRUPTION_INFO))
#define BLOCKED(by)   (F(GUEST_INTERRUPTIBILITY_STATE) & VMX_BLOCKING_BY_##by)

/* --- the rules, fast ---------------------------------------------------------------------------------------------- */

static uint64_t memory_now(const struct vmx_check *k, unsigned bytes, uint64_t address)
{
    uint64_t v = 0;
    if (!k->host.read_memory || !k->host.read_memory(k->host.opaque, address, &v, bytes))
        return ~0ull >> (64 - 8 * bytes);
    return v;
}

#define F(name)                (f[F_##name])
#define MEMORY(bytes, address) memory_now(k, bytes, address)
#define CURRENT_VMCS           (k->host.vmcs_pointer)
#define IN_IA32E_MODE          (k->host.ia32e_mode == VMENTER_YES)
#define IN_SMM                 (k->host.smm == VMENTER_YES)
#define RULE(applies, holds)                                                                                           \
    if (__builtin_expect((applies) && !(holds), 0))                                                                    \
        return false;
#define VMX_CHECK(area, name, id, section, sentence, field, applies, holds, nearest) CHECK_##area(applies, holds)
#define VMX_CHECKS(area, groups_)                                                    if (AREA_##area && (groups & (groups_))) {
#define VMX_CHECKS_END                                                               }

#define CHECK_LOAD(applies, holds)
#define AREA_LOAD                 0
#define CHECK_CTL(applies, holds) RULE(applies, holds)
#define CHECK_HOST(applies, holds)
#define CHECK_GUEST(applies, holds)
#define AREA_CTL   1
#define AREA_HOST  0
#define AREA_GUEST 0
bool vmx_controls_hold(const struct vmx_check *k, uint32_t groups)
{
    const uint64_t *f = k->f;
#include "src/arch/vmx_check.def"
    return true;
}
#undef CHECK_CTL
#undef CHECK_HOST
#undef AREA_CTL
#undef AREA_HOST

#define CHECK_CTL(applies, holds)
#define CHECK_HOST(applies, holds) RULE(applies, holds)
#define AREA_CTL                   0
#define AREA_HOST                  1
bool vmx_host_holds(const struct vmx_check *k, uint32_t groups)
{
    const uint64_t *f = k->f;
#include "src/arch/vmx_check.def"
    return true;
}
#undef CHECK_HOST
#undef CHECK_GUEST
#undef AREA_HOST
#undef AREA_GUEST

#define CHECK_HOST(applies, holds)
#define CHECK_GUEST(applies, holds) RULE(applies, holds)
#define AREA_HOST                   0
#define AREA_GUEST                  1
bool vmx_guest_holds(const struct vmx_check *k, uint32_t groups)
{
    const uint64_t *f = k->f;
#include "src/arch/vmx_check.def"
    return true;
}
#undef CHECK_CTL
#undef CHECK_HOST
#undef CHECK_GUEST
#undef CHECK_LOAD
#undef AREA_CTL
#undef AREA_HOST
#undef AREA_GUEST
#undef AREA_LOAD
#undef VMX_CHECK
#undef VMX_CHECKS
#undef VMX_CHECKS_END
#undef F
#undef MEMORY
#undef CURRENT_VMCS
#undef IN_IA32E_MODE
#undef IN_SMM

/* --- the rules, in full ------------------------------------------------------------------------------------------- */

static const struct {
    const char *id, *section, *text;
    uint8_t area;
} rows[VMX_CHECK_COUNT] = {
#define CTL                                               VMENTER_VMX_CONTROLS
#define HOST                                              VMENTER_VMX_HOST
#define GUEST                                             VMENTER_VMX_GUEST
#define LOAD                                              VMENTER_VMX_LOADING
#define VMX_CHECK(area_, name, id_, section_, text_, ...) [VMX_CHECK_##name] = {id_, section_, text_, area_},
#define VMX_CHECKS(area, groups)
#define VMX_CHECKS_END
#include "src/arch/vmx_check.def"
#undef VMX_CHECK
#undef VMX_CHECKS
#undef VMX_CHECKS_END
#undef CTL
#undef HOST
#undef GUEST
#undef LOAD
};

const char *vmx_check_id(unsigned row)
{
    return row < VMX_CHECK_COUNT ? rows[row].id : "?";
}

/* What the rule that is being judged has read. */
struct judge {
    const struct vmx_check *k;
    uint8_t reads;
    uint8_t slot[VMENTER_VMX_FINDING_FIELDS];
    bool lacks;
    uint32_t lacking;
    uint64_t lacking_address;
    uint32_t entry; /* of the MSR-load area, from 1, that broke the rule */
};

static void lack(struct judge *j, uint32_t what, uint64_t address)
{
    if (j->lacks)
        return;
    j->lacks = true;
    j->lacking = what;
    j->lacking_address = address;
}

static __attribute__((noinline)) uint64_t read_field(struct judge *j, unsigned slot)
{
    unsigned i = 0;
    while (i < j->reads && j->slot[i] != slot)
        i++;
    if (i == j->reads && i < VMENTER_VMX_FINDING_FIELDS)
        j->slot[j->reads++] = (uint8_t)slot;
    if (!j->k->known || is_known(j->k->known, slot))
        return j->k->f[slot];
    lack(j, encodings[slot], 0);
    return 0;
}

static uint64_t read_memory(struct judge *j, unsigned bytes, uint64_t address)
{
    uint64_t v = 0;
    if (j->lacks) /* the address itself may not be known */
        return 0;
    if (!j->k->host.read_memory || !j->k->host.read_memory(j->k->host.opaque, address, &v, bytes))
        lack(j, VMENTER_VMX_LACKS_MEMORY, address);
    return v;
}

static bool in_ia32e_mode(struct judge *j)
{
    if (j->k->host.ia32e_mode == VMENTER_UNKNOWN)
        lack(j, VMENTER_VMX_LACKS_MODE, 0);
    return j->k->host.ia32e_mode == VMENTER_YES;
}

static uint64_t current_vmcs(struct judge *j)
{
    if (!j->k->host.has_vmcs_pointer)
        lack(j, VMENTER_VMX_LACKS_POINTER, 0);
    return j->k->host.vmcs_pointer;
}

static bool loadable(uint32_t msr)
{
    return msr != 0xc0000100 && msr != 0xc0000101 && msr >> 8 != 8 && msr != 0x9b && msr != 0x79;
}

/* The first 8 bytes of entry n of the VM-entry MSR-load area: the MSR's number, and 32 reserved bits. False: there is
 * no entry n, or no more than the list may have; or memory is not known. */
static bool msr_entry(struct judge *j, uint32_t n, uint64_t *entry)
{
    if (n >= read_field(j, F_ENTRY_MSR_LOAD_COUNT) || n >= VMX_MISC_MSR_LIST_MAX(j->k->caps->misc))
        return false;
    *entry = read_memory(j, 8, read_field(j, F_ENTRY_MSR_LOAD_ADDRESS) + 16ull * n);
    return !j->lacks;
}

struct nearest {
    bool has, bits;
    uint64_t must, may, value;
};
static inline struct nearest as_mask(uint64_t must, uint64_t may)
{
    return (struct nearest){.has = true, .bits = true, .must = must, .may = may | must};
}
static struct nearest as_value(uint64_t value)
{
    return (struct nearest){.has = true, .value = value};
}

static __attribute__((noinline)) struct vmenter_vmx_finding describe(const struct judge *j, unsigned row, unsigned slot,
                                                                     struct nearest n)
{
    const struct vmx_check *k = j->k;
    struct vmenter_vmx_finding e = {.id = rows[row].id, .section = rows[row].section, .rule = rows[row].text};
    e.row = (uint16_t)row;
    e.area = rows[row].area;
    e.judged = !j->lacks;
    e.may = ~0ull;
    e.entry = j->entry;
    if (j->lacks) {
        e.lacking = j->lacking;
        e.lacking_address = j->lacking_address;
    }
    e.field[e.fields++] = encodings[slot];
    for (unsigned i = 0; i < j->reads && e.fields < VMENTER_VMX_FINDING_FIELDS; i++)
        if (j->slot[i] != slot)
            e.field[e.fields++] = encodings[j->slot[i]];
    if (!k->known || is_known(k->known, slot))
        e.found = k->f[slot];
    if (!j->lacks && n.has) {
        e.has_nearest = true;
        if (n.bits) {
            e.must = n.must;
            e.may = n.may;
            e.nearest = (e.found | n.must) & n.may;
        } else {
            e.nearest = n.value;
        }
        e.nearest = cut(slot, e.nearest);
    }
    return e;
}

#define F(name)                read_field(&j, F_##name)
#define MEMORY(bytes, address) read_memory(&j, bytes, address)
#define CURRENT_VMCS           current_vmcs(&j)
#define IN_IA32E_MODE          in_ia32e_mode(&j)
#define IN_SMM                 (k->host.smm == VMENTER_YES)
#define MASK(must, may)        as_mask(must, may)
#define VALUE(value)           as_value(value)
#define NONE                   ((struct nearest){0})
/* Every entry of the MSR-load area; `entry` is its first 8 bytes. */
#define EACH_MSR(holds)                                                                                                \
    ({                                                                                                                 \
        bool all = true;                                                                                               \
        uint64_t entry;                                                                                                \
        for (uint32_t n = 0; all && msr_entry(&j, n, &entry); n++)                                                     \
            if (!(holds)) {                                                                                            \
                all = false;                                                                                           \
                j.entry = n + 1;                                                                                       \
            }                                                                                                          \
        all;                                                                                                           \
    })
#define NOT_REFUSED (!(j.entry = k->refused))
#define VMX_CHECK(area, name, id, section, sentence, field_, applies, holds, nearest_)                                 \
    j.reads = 0;                                                                                                       \
    j.entry = 0;                                                                                                       \
    j.lacks = false;                                                                                                   \
    if (((applies) && !(holds)) || j.lacks) {                                                                          \
        struct judge read = j;                                                                                         \
        unsigned slot = (field_);                                                                                      \
        struct vmenter_vmx_finding e = describe(&read, VMX_CHECK_##name, slot, nearest_);                              \
        found(opaque, VMX_CHECK_##name, &e);                                                                           \
    }
#define VMX_CHECKS(area, groups)
#define VMX_CHECKS_END

void vmx_check_each(const struct vmx_check *k,
                    void (*found)(void *opaque, unsigned row, const struct vmenter_vmx_finding *finding), void *opaque)
{
    struct judge j = {.k = k};
#include "src/arch/vmx_check.def"
}

struct list {
    struct vmenter_vmx_finding *at;
    size_t count, max;
};

static void append(void *opaque, unsigned row, const struct vmenter_vmx_finding *finding)
{
    struct list *l = opaque;
    if (l->count < l->max)
        l->at[l->count] = *finding;
    l->count++;
}

size_t vmx_check_list(const struct vmx_check *k, struct vmenter_vmx_finding *findings, size_t max)
{
    struct list l = {findings, 0, max};
    vmx_check_each(k, append, &l);
    return l.count;
}

/* --- for everybody ------------------------------------------------------------------------------------------------ */

static struct vmx_allowed halves(uint64_t msr)
{
    return (struct vmx_allowed){(uint32_t)msr, msr >> 32};
}

/* "VMX Capability Reporting Facility". */
void vmx_caps_decode(const struct vmenter_vmx_caps *from, struct vmx_caps *to)
{
#define MSR(name) (from->msr[VMX_MSR_##name - VMX_MSR_BASIC])
    bool exact = MSR(BASIC) & VMX_BASIC_TRUE_CONTROLS;
    to->basic = MSR(BASIC);
    to->misc = MSR(MISC);
    to->plain_pin = halves(MSR(PINBASED_CTLS));
    to->plain_proc = halves(MSR(PROCBASED_CTLS));
    to->plain_exit = halves(MSR(EXIT_CTLS));
    to->plain_entry = halves(MSR(ENTRY_CTLS));
    to->pin = exact ? halves(MSR(TRUE_PINBASED_CTLS)) : to->plain_pin;
    to->proc = exact ? halves(MSR(TRUE_PROCBASED_CTLS)) : to->plain_proc;
    to->exit = exact ? halves(MSR(TRUE_EXIT_CTLS)) : to->plain_exit;
    to->entry = exact ? halves(MSR(TRUE_ENTRY_CTLS)) : to->plain_entry;
    to->proc2 = to->proc.may & BIT_OF(PROC, ACTIVATE_SECONDARY_CONTROLS) ? halves(MSR(PROCBASED_CTLS2))
                                                                         : (struct vmx_allowed){0, 0};
    to->proc3 =
        (struct vmx_allowed){0, to->proc.may & BIT_OF(PROC, ACTIVATE_TERTIARY_CONTROLS) ? MSR(PROCBASED_CTLS3) : 0};
    to->exit2 = (struct vmx_allowed){0, to->exit.may & BIT_OF(EXIT, ACTIVATE_SECONDARY_CONTROLS) ? MSR(EXIT_CTLS2) : 0};
    to->vmfunc = (struct vmx_allowed){0, to->proc2.may & BIT_OF(PROC2, ENABLE_VM_FUNCTIONS) ? MSR(VMFUNC) : 0};
    to->ept_vpid = to->proc2.may & (BIT_OF(PROC2, ENABLE_EPT) | BIT_OF(PROC2, ENABLE_VPID)) ? MSR(EPT_VPID_CAP) : 0;
    to->cr0_fixed0 = MSR(CR0_FIXED0);
    to->cr0_fixed1 = MSR(CR0_FIXED1);
    to->cr4_fixed0 = MSR(CR4_FIXED0);
    to->cr4_fixed1 = MSR(CR4_FIXED1);
    to->vmcs_enum = MSR(VMCS_ENUM);
    to->efer_bits = from->efer_bits;
    to->debugctl_bits = from->debugctl_bits;
    to->perf_global_bits = from->perf_global_bits;
    to->rtit_ctl_bits = from->rtit_ctl_bits;
    to->lbr_ctl_bits = from->lbr_ctl_bits;
    to->pending_debug_bits = from->pending_debug_bits;
    to->sgx = from->sgx;
    to->maxphyaddr = from->physical_bits;
    to->linear_width = from->linear_bits;
#undef MSR
}

size_t vmenter_vmx_check(const struct vmenter_vmcs *v, const struct vmenter_vmx_caps *caps,
                         const struct vmenter_vmx_host *host, struct vmenter_vmx_finding *findings, size_t max)
{
    struct vmx_caps decoded;
    vmx_caps_decode(caps, &decoded);
    struct vmx_check k = {.caps = &decoded, .f = v->value, .known = v->known, .host = *host};
    return vmx_check_list(&k, findings, max);
}

uint32_t vmenter_vmx_outcome(const struct vmenter_vmx_finding *findings, size_t count, uint64_t *qualification)
{
    for (size_t i = 0; i < count; i++) {
        const struct vmenter_vmx_finding *e = &findings[i];
        if (!e->judged)
            continue;
        if (e->area == VMENTER_VMX_CONTROLS)
            return VMX_ERR_ENTRY_INVALID_CONTROLS;
        if (e->area == VMENTER_VMX_HOST)
            return VMX_ERR_ENTRY_INVALID_HOST_STATE;
        if (e->area == VMENTER_VMX_LOADING) { /* the first entry that any of the rules refuses */
            uint32_t entry = e->entry;
            for (size_t n = i + 1; n < count; n++)
                if (findings[n].judged && findings[n].entry < entry)
                    entry = findings[n].entry;
            if (qualification)
                *qualification = entry;
            return VMX_REASON_ENTRY_FAILURE | VMX_REASON_ENTRY_FAILURE_MSR_LOADING;
        }
        if (qualification)
            *qualification =
                e->row >= VMX_CHECK_LINK_ADDRESS && e->row <= VMX_CHECK_LINK_CURRENT ? VMX_ENTRY_FAILURE_LINK_POINTER
                : e->row == VMX_CHECK_PDPTE || e->row == VMX_CHECK_PDPTE_MEMORY      ? VMX_ENTRY_FAILURE_PDPTE
                                                                                     : VMX_ENTRY_FAILURE_DEFAULT;
        return VMX_REASON_ENTRY_FAILURE | VMX_REASON_ENTRY_FAILURE_GUEST_STATE;
    }
    return 0;
}

/* --- rounding ----------------------------------------------------------------------------------------------------- */

struct rounding {
    struct vmenter_vmcs *v;
    bool broken;
    uint8_t changed[F_COUNT];
};

static void correct(void *opaque, unsigned row, const struct vmenter_vmx_finding *finding)
{
    struct rounding *r = opaque;
    if (!finding->judged)
        return;
    r->broken = true;
    int slot = vmcs_slot_of(finding->field[0]);
    if (finding->has_nearest) {
        r->v->value[slot] = finding->nearest;
    } else if (finding->area == VMENTER_VMX_LOADING) { /* what memory holds no field corrects: leave it out */
        slot = F_ENTRY_MSR_LOAD_COUNT;
        r->v->value[slot] = finding->entry - 1;
    } else { /* PDPTEs in memory: no PAE paging */
        slot = F_GUEST_CR4;
        r->v->value[slot] &= ~CR4_PAE;
    }
    r->changed[slot] = 1;
}

static void see_broken(void *opaque, unsigned row, const struct vmenter_vmx_finding *finding)
{
    bool *broken = opaque;
    *broken |= finding->judged;
}

/* Corrections of controls clear what lacks a prerequisite, and those of state follow the controls: no correction calls
 * for one of an earlier kind but through fields that are then settled. The bound is for capabilities that contradict
 * each other. */
#define PASSES 16

int vmenter_vmx_round(struct vmenter_vmcs *v, const struct vmenter_vmx_caps *caps, const struct vmenter_vmx_host *host)
{
    struct vmx_caps decoded;
    struct rounding r = {.v = v};
    uint64_t before[F_COUNT];
    vmx_caps_decode(caps, &decoded);
    struct vmx_check k = {.caps = &decoded, .f = v->value, .known = v->known, .host = *host};
    for (unsigned i = 0; i < F_COUNT; i++)
        before[i] = v->value[i];
    for (unsigned pass = 0;; pass++) {
        r.broken = false;
        vmx_check_each(&k, correct, &r);
        if (!r.broken)
            break;
        if (pass == PASSES)
            return -1;
    }
    int changes = 0;
    for (unsigned i = F_COUNT; i-- > 0;) {
        if (!r.changed[i] || v->value[i] == before[i])
            continue;
        uint64_t rounded = v->value[i];
        bool broken = false;
        v->value[i] = before[i];
        vmx_check_each(&k, see_broken, &broken);
        if (broken) {
            v->value[i] = rounded;
            changes++;
        }
    }
    return changes;
}
