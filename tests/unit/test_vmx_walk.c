/* SPDX-License-Identifier: MIT
 *
 * test_vmx_walk.c: a random walk over VMCS states. Whatever is in the fields, an entry succeeds exactly when no rule is
 * broken, also when most groups of fields are not checked again; and nothing that a guest then does ends the process.
 *
 * VMX_WALK=N in the environment: that many entries (default 20000). VMX_SEED: where the walk starts.
 */
#include "vmx_rig.h"

static uint64_t rng_state;
static uint64_t rng(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}
static unsigned below(unsigned n)
{
    return (unsigned)(rng() >> 33) % n;
}

static uint64_t boundary(uint64_t old)
{
    static const uint64_t values[] = {0,
                                      1,
                                      2,
                                      7,
                                      0x10,
                                      0xff,
                                      0x100,
                                      0x1000,
                                      0xffff,
                                      0x10000,
                                      0x7fffffff,
                                      0x80000000,
                                      0xffffffff,
                                      0x100000000,
                                      0x7fffffffffff,
                                      0x800000000000,
                                      0xffff800000000000,
                                      0xffffffffffffffff,
                                      0x7fffffffffffffff};
    switch (below(6)) {
    case 0: return values[below(ARRAY_LEN(values))];
    case 1: return old + 1;
    case 2: return old - 1;
    case 3: return rng();
    case 4: return rng() >> below(64);
    default: return old ^ BIT(below(64));
    }
}

/* Fields that decide much, more often than the others. */
static unsigned pick_slot(void)
{
    static const uint8_t often[] = {F_PIN_CONTROLS,
                                    F_PROC_CONTROLS,
                                    F_PROC2_CONTROLS,
                                    F_EXIT_CONTROLS,
                                    F_ENTRY_CONTROLS,
                                    F_GUEST_CR0,
                                    F_GUEST_CR4,
                                    F_GUEST_EFER,
                                    F_GUEST_RFLAGS,
                                    F_GUEST_CS_ACCESS_RIGHTS,
                                    F_GUEST_SS_ACCESS_RIGHTS,
                                    F_GUEST_ACTIVITY_STATE,
                                    F_GUEST_INTERRUPTIBILITY_STATE,
                                    F_ENTRY_INTERRUPTION_INFO,
                                    F_GUEST_PENDING_DEBUG_EXCEPTIONS,
                                    F_EXCEPTION_BITMAP,
                                    F_GUEST_RIP,
                                    F_GUEST_CR3,
                                    F_EPT_POINTER};
    return below(2) ? often[below(ARRAY_LEN(often))] : below(F_COUNT);
}

static const uint8_t snippets[][8] = {
    {0x0f, 0xa2},             /* cpuid */
    {0xf4},                   /* hlt */
    {0x0f, 0x20, 0xc0},       /* mov rax, cr0 */
    {0x0f, 0x22, 0xc0},       /* mov cr0, rax */
    {0x0f, 0x22, 0xe0},       /* mov cr4, rax */
    {0x0f, 0x22, 0xd8},       /* mov cr3, rax */
    {0x0f, 0x30},             /* wrmsr */
    {0x0f, 0x32},             /* rdmsr */
    {0xe4, 0x60},             /* in */
    {0x6e},                   /* outsb */
    {0xfb},                   /* sti */
    {0xfa},                   /* cli */
    {0x8e, 0xd0},             /* mov ss, ax */
    {0x8e, 0xd8},             /* mov ds, ax */
    {0xcd, 0x21},             /* int */
    {0xcc},                   /* int3 */
    {0xcf},                   /* iret */
    {0x9d},                   /* popf */
    {0x9c},                   /* pushf */
    {0x0f, 0x01, 0xd9},       /* vmmcall */
    {0x0f, 0x01, 0xc1},       /* vmcall */
    {0x0f, 0x01, 0xc2},       /* vmlaunch */
    {0x0f, 0x78, 0xc1},       /* vmread */
    {0x0f, 0x79, 0xc1},       /* vmwrite */
    {0x0f, 0x01, 0x38},       /* invlpg */
    {0x0f, 0x01, 0x10},       /* lgdt */
    {0x0f, 0x00, 0xd8},       /* ltr ax */
    {0x0f, 0x0b},             /* ud2 */
    {0x8b, 0x00},             /* mov eax, [rax] */
    {0x89, 0x18},             /* mov [rax], ebx */
    {0xa4},                   /* movsb */
    {0xf3, 0x90},             /* pause */
    {0x0f, 0x01, 0xf0},       /* lmsw ax */
    {0x0f, 0x06},             /* clts */
    {0x0f, 0x23, 0xf8},       /* mov dr7, rax */
    {0xea, 0, 0, 0, 0, 8, 0}, /* jmp far */
    {0xcb},                   /* retf */
    {0x0f, 0x05},             /* syscall */
    {0x0f, 0x34},             /* sysenter */
    {0x0f, 0x01, 0xd4},       /* vmfunc */
    {0xf1},                   /* int1 */
};

static void fresh(struct rig *r)
{
    static const enum rig_mode modes[] = {RIG_REAL, RIG_PROT16, RIG_PROT32, RIG_PAGED32, RIG_V86, RIG_LONG, RIG_LONG};
    uint32_t revision = VMCS_REVISION; /* guests write anywhere */
    rig_bytes(r, RIG_VMXON, &revision, 4);
    rig_bytes(r, RIG_VMCS, &revision, 4);
    rig_vmcs(r, modes[below(ARRAY_LEN(modes))]);
    uint8_t code[256];
    for (unsigned i = 0; i < sizeof code; i += 8)
        memcpy(code + i, snippets[below(ARRAY_LEN(snippets))], 8);
    for (unsigned i = 0; i < sizeof code; i++)
        if (!code[i])
            code[i] = 0x90;
    rig_bytes(r, RIG_CODE, code, sizeof code);
    rig_w(r, VMCS_IO_BITMAP_A, RIG_IOBITMAP_A);
    rig_w(r, VMCS_IO_BITMAP_B, RIG_IOBITMAP_B);
    if (r->x->caps.field[F_MSR_BITMAPS])
        rig_w(r, VMCS_MSR_BITMAPS, RIG_MSRBITMAP);
    if (r->x->caps.field[F_VIRTUAL_APIC_ADDRESS])
        rig_w(r, VMCS_VIRTUAL_APIC_ADDRESS, RIG_VAPIC);
    if (r->x->caps.field[F_TSC_MULTIPLIER])
        rig_w(r, VMCS_TSC_MULTIPLIER, 1ull << 48);
}

static void walk(const char *model, unsigned long entries)
{
    struct rig *r = rig_create(model);
    struct cpu *c = r->c;
    unsigned long entered = 0, refused = 0, until_fresh = 0;
    for (unsigned long n = 0; n < entries; n++) {
        rig_host_state(c);
        if (!until_fresh--) {
            fresh(r);
            until_fresh = below(24);
        }
        for (unsigned i = below(3); i > 0; i--) {
            unsigned slot = pick_slot();
            if (r->x->caps.field[slot])
                vmx_vmwrite(c, vmcs_rows[slot].encoding, boundary(r->x->cur->f[slot]));
        }
        for (unsigned g = 0; g < 16; g++)
            if (!below(4))
                c->gpr[g] = boundary(c->gpr[g]) & (below(2) ? ~0ull : 0xffffff);
        struct vmx_broken b;
        struct vmx_check k = rig_check(r, &r->x->caps, r->x->cur->f);
        b.count = (unsigned)vmx_check_list(&k, b.rule, VMX_BROKEN_MAX);
        uint32_t outcome = vmenter_vmx_outcome(b.rule, b.count, NULL);
        uint64_t entries_before = c->stats.entries;
        enum vmx_result v = r->x->cur->launched ? vmx_vmresume(c) : vmx_vmlaunch(c);
        if (b.count) {
            bool right = outcome < 100 ? v == VMX_FAIL_VALID && r->x->cur->f[F_VM_INSTRUCTION_ERROR] == outcome
                                       : v == VMX_SUCCEED && !c->guest && r->x->cur->f[F_EXIT_REASON] == outcome;
            if (!right || r->x->broken.count == 0)
                fail_msg("%s: entry %lu: %s is broken, result %d reason %llx", model, n, vmx_check_id(b.rule[0].row),
                         (int)v, (unsigned long long)r->x->cur->f[F_EXIT_REASON]);
            refused++;
            until_fresh = until_fresh ? below(3) : 0;
            continue;
        }
        assert_int_equal(v, VMX_SUCCEED);
        if (c->stats.entries == entries_before) { /* only what lies in memory may refuse now */
            uint32_t reason = (uint32_t)r->x->cur->f[F_EXIT_REASON];
            assert_true(reason == 0x80000022 || (reason == 0x80000021 && r->x->broken.rule[0].row == VMX_CHECK_PDPTE));
            continue;
        }
        entered++;
        if (!below(8))
            cpu_attend(c, 1u << below(5));
        if (c->guest)
            cpu_run(c, below(300));
        if (c->guest) { /* still there: budget, idle, shutdown */
            cpu_attend(c, ATT_INIT);
            cpu_run(c, 1000);
            c->init_pending = false;
        }
        c->init_pending = c->nmi_pending = c->sipi_pending = c->smi_pending = false;
        c->nmi_blocked = false;
        if (c->guest || c->activity == ACTIVITY_SHUTDOWN || !vmx_on(c)) { /* VMX abort, or shut down for good */
            rig_destroy(r);
            r = rig_create(model);
            c = r->c;
            until_fresh = 0;
        }
        c->exc.valid = false;
    }
    printf("%s: %lu entered, %lu refused\n", model, entered, refused);
    assert_true(entered > entries / 10 && refused > entries / 20);
    rig_destroy(r);
}

static void test_walk(void **state)
{
    const char *n = getenv("VMX_WALK"), *seed = getenv("VMX_SEED");
    unsigned long entries = n ? strtoul(n, NULL, 0) : 20000;
    rng_state = seed ? strtoull(seed, NULL, 0) | 1 : 0x243f6a8885a308d3;
    walk("max", entries / 2);
    walk("icelake-server,-vpid", entries / 4);
    walk("nehalem", entries / 8);
    walk("penryn", entries / 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_walk)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
