/* SPDX-License-Identifier: MIT
 *
 * test_cpu_icpt.c: where interception stands among an instruction's checks (SDM volume 3C, "Relative Priority of Faults
 * and VM Exits"; APM volume 2, "Instruction Intercepts"), what the calls into guest mode carry, and events between
 * instructions: INIT, start-up, time, virtual interrupts of the legacy modes. Guest mode is a stub that notes the
 * calls.
 */
#include "tests/unit/cpu_rig.h"

#if defined(__x86_64__)

static struct {
    unsigned insn, io, msr, cr, dr, exception, second, triple, task;
    int what; /* last */
    uint64_t info;
    uint64_t rip;
    unsigned len;
    struct cpu_event ev, vectoring;
    bool exit; /* the stub says that it made a VM exit */
} seen;

static bool note(struct cpu *c, unsigned *n)
{
    ++*n;
    seen.rip = c->rip;
    seen.len = c->insn_len;
    assert_null(c->cur); /* the state is whole */
    if (seen.exit)
        c->stop = STOP_KICK;
    return seen.exit;
}
static bool g_insn(struct cpu *c, enum icpt what, uint64_t info)
{
    seen.what = (int)what;
    seen.info = info;
    return note(c, &seen.insn);
}
static bool g_io(struct cpu *c, uint16_t port, unsigned size, bool in, bool string, bool rep, bool imm, unsigned seg,
                 unsigned asz, la_t la)
{
    seen.info = la.v;
    return note(c, &seen.io);
}
static bool g_msr(struct cpu *c, uint32_t msr, bool write)
{
    return note(c, &seen.msr);
}
static bool g_cr(struct cpu *c, unsigned cr, unsigned op, unsigned gpr, uint64_t *value, bool mem, la_t la)
{
    seen.what = (int)op;
    seen.info = *value;
    return note(c, &seen.cr);
}
static bool g_dr(struct cpu *c, unsigned dr, bool write, unsigned gpr)
{
    return note(c, &seen.dr);
}
static bool g_exception(struct cpu *c, const struct cpu_event *ev)
{
    seen.ev = *ev;
    seen.vectoring = c->vectoring;
    return note(c, &seen.exception);
}
static bool g_triple(struct cpu *c)
{
    seen.exit = true;
    return note(c, &seen.triple);
}
static const struct guest_ops guest = {.insn = g_insn,
                                       .io = g_io,
                                       .msr = g_msr,
                                       .cr = g_cr,
                                       .dr = g_dr,
                                       .exception = g_exception,
                                       .triple_fault = g_triple};

static struct world *guest_mode(const char *model, unsigned cpl, bool exit)
{
    struct world *w = long_mode(model, cpl);
    memset(&seen, 0, sizeof seen);
    seen.exit = exit;
    w->c->guest = &guest;
    w->c->icpt = ~0ull;
    return w;
}

CODE(i_hlt, 64, "hlt")
CODE(i_cpuid, 64, "nop; cpuid; ud2")
CODE(i_rdmsr, 64, "mov $0x12345, %ecx; rdmsr; ud2")
CODE(i_cr0, 64, "mov %rax, %cr0; ud2")
CODE(i_dr, 64, "mov %rax, %dr3; ud2")
CODE(i_in, 64, "in %dx, %al; ud2")
CODE(i_invlpg, 64, "invlpg 0x12345678(%rbx); ud2")
CODE(i_int3, 64, "int3")
CODE(i_intn, 64, "int $0x81")
CODE(i_int1, 64, ".byte 0xf1")
CODE(i_xsetbv, 64, "xsetbv; ud2")
CODE(i_pf, 64, "movl $1, 0x1f0010")
CODE(i_insb, 64, "rep insb; ud2")
/* The instruction alone; the call's outcome is what counts. */
static enum cpu_stop one(struct world *w)
{
    return cpu_step(w->c, true);
}

static void faults_and_exits(void **state)
{
    static const char *const models[] = {"max", "max-amd"};
    for (unsigned amd = 0; amd < 2; amd++) {
        const char *m = models[amd];
        struct world *w = guest_mode(m, 3, true);
        struct cpu *c = w->c;
        load(w, i_hlt, i_hlt_end); /* #GP by privilege before the exit */
        one(w);
        assert_true(c->exc.valid && c->exc.vector == EXC_GP);
        assert_int_equal(seen.insn, 0);
        c->exc.valid = false;
        load(w, i_rdmsr, i_rdmsr_end);
        one(w);
        one(w);
        assert_true(c->exc.valid && c->exc.vector == EXC_GP);
        assert_int_equal(seen.msr, 0);
        world_free(w);

        w = guest_mode(m, 0, true); /* an MSR that does not exist: the exit comes before #GP */
        load(w, i_rdmsr, i_rdmsr_end);
        one(w);
        one(w);
        assert_false(w->c->exc.valid);
        assert_int_equal(seen.msr, 1);
        assert_int_equal(seen.rip, CODE_AT + 5);
        assert_int_equal(seen.len, 2);
        world_free(w);

        w = guest_mode(m, 0, true); /* an invalid CR0: Intel exits first, AMD raises #GP first */
        w->c->gpr[GPR_RAX] = CR0_PG;
        load(w, i_cr0, i_cr0_end);
        one(w);
        assert_int_equal(seen.cr, amd ? 0 : 1);
        assert_int_equal(w->c->exc.valid, amd);
        world_free(w);

        w = guest_mode(m, 3, true); /* MOV DR at CPL 3: Intel exits first */
        load(w, i_dr, i_dr_end);
        one(w);
        assert_int_equal(seen.dr, amd ? 0 : 1);
        assert_int_equal(w->c->exc.valid, amd);
        world_free(w);

        w = guest_mode(m, 3, true); /* the I/O permission map comes before the exit */
        w->c->gpr[GPR_RDX] = 0x4000;
        load(w, i_in, i_in_end);
        one(w);
        assert_true(w->c->exc.valid);
        assert_int_equal(seen.io, 0);
        world_free(w);

        w = guest_mode(m, 0, true); /* XSETBV: CR4.OSXSAVE before, the value after */
        load(w, i_xsetbv, i_xsetbv_end);
        one(w);
        assert_true(w->c->exc.valid && w->c->exc.vector == EXC_UD);
        w->c->exc.valid = false;
        w->c->cr4 |= CR4_OSXSAVE;
        w->c->gpr[GPR_RCX] = 5;
        load(w, i_xsetbv, i_xsetbv_end);
        one(w);
        assert_false(w->c->exc.valid);
        assert_int_equal(seen.what, ICPT_XSETBV);
        world_free(w);

        w = guest_mode(m, 0, true); /* INS: the exit comes before the memory operand's fault, which it does not see */
        w->c->gpr[GPR_RDI] = NO_PAGE;
        w->c->gpr[GPR_RCX] = 2;
        load(w, i_insb, i_insb_end);
        one(w);
        assert_int_equal(seen.io, 1);
        assert_int_equal(seen.info, NO_PAGE);
        assert_false(w->c->exc.valid);
        assert_int_equal(w->port_calls, 0);
        world_free(w);

        w = guest_mode(m, 0, true);
        w->c->gpr[GPR_RBX] = 0x1000;
        load(w, i_invlpg, i_invlpg_end);
        one(w);
        assert_int_equal(seen.info, 0x12346678);
        world_free(w);

        w = guest_mode(m, 0, false); /* an exit that is declined changes nothing */
        load(w, i_cpuid, i_cpuid_end);
        one(w);
        one(w);
        assert_int_equal(seen.insn, 1);
        assert_int_equal(w->c->rip, CODE_AT + 3);
        assert_int_equal(w->c->icount, 2);
        world_free(w);

        /* Software exceptions are exceptions, INT n is none. INT1: Intel's #DB bit; AMD has ICEBP alone. */
        w = guest_mode(m, 0, true);
        load(w, i_int3, i_int3_end);
        one(w);
        assert_int_equal(seen.exception, 1);
        assert_int_equal(seen.ev.vector, EXC_BP);
        assert_int_equal(seen.ev.type, EVENT_SWEXC);
        assert_int_equal(seen.ev.insn_len, 1);
        assert_int_equal(seen.rip, CODE_AT);
        world_free(w);
        w = guest_mode(m, 0, true);
        w->c->icpt = 0;
        load(w, i_intn, i_intn_end);
        one(w);
        assert_int_equal(seen.exception, 0);
        world_free(w);
        w = guest_mode(m, 0, true);
        w->c->icpt = 0;
        load(w, i_int1, i_int1_end);
        one(w);
        assert_int_equal(seen.exception, !amd);
        world_free(w);

        /* CR2 is the guest's only when the #PF is delivered. */
        w = guest_mode(m, 0, true);
        w->c->cr2 = 0x77;
        load(w, i_pf, i_pf_end);
        cpu_run(w->c, 1);
        assert_int_equal(seen.exception, 1);
        assert_int_equal(seen.ev.payload, 0x1f0010);
        assert_int_equal(seen.ev.error, 2);
        assert_int_equal(w->c->cr2, 0x77);
        world_free(w);

        /* A fault while INT n is delivered: the vectoring information says what was. */
        w = guest_mode(m, 0, true);
        w->c->icpt = 0;
        wr64(w, IDT + 16 * 0x81, 0);
        load(w, i_intn, i_intn_end);
        one(w);
        assert_int_equal(seen.exception, 1);
        assert_int_equal(seen.ev.vector, EXC_GP);
        assert_true(seen.vectoring.valid);
        assert_int_equal(seen.vectoring.vector, 0x81);
        assert_int_equal(seen.vectoring.type, EVENT_SOFTINT);
        assert_int_equal(seen.vectoring.insn_len, 2);
        assert_false(w->c->vectoring.valid); /* it is over with the exit */
        world_free(w);

        /* Triple fault. */
        w = guest_mode(m, 0, false);
        w->c->idtr.limit = 0;
        load(w, i_int3, i_int3_end);
        cpu_run(w->c, 1);
        assert_int_equal(seen.triple, 1);
        assert_int_not_equal(w->c->activity, ACTIVITY_SHUTDOWN);
        world_free(w);
    }
}

/* --- INIT, start-up, time
 * -------------------------------------------------------------------------------------------------- */

static void init_and_startup(void **state)
{
    struct world *w = long_mode("max", 0);
    struct cpu *c = w->c;
    c->bsp = false;
    c->msr.pat = 0x0606060606060606;
    cpu_attend(c, ATT_INIT);
    load(w, i_hlt, i_hlt_end);
    assert_int_equal(cpu_run(c, 10), STOP_IDLE);
    assert_int_equal(c->activity, ACTIVITY_WAIT_SIPI);
    assert_int_equal(c->msr.pat, 0x0606060606060606); /* INIT keeps it */
    assert_int_equal(c->cr0 & (CR0_PE | CR0_PG), 0);
    assert_int_equal(c->efer, 0);
    w->vector = 0x40; /* interrupts do not wake it */
    cpu_attend(c, ATT_INTR);
    assert_int_equal(cpu_run(c, 10), STOP_IDLE);
    c->sipi_vector = 0x10;
    cpu_attend(c, ATT_SIPI);
    assert_int_equal(cpu_run(c, 10), STOP_IDLE);
    assert_int_equal(c->activity, ACTIVITY_HLT); /* it ran the HLT at 1000:0000 */
    assert_int_equal(c->seg[SEG_CS].sel, 0x1000);
    assert_int_equal(c->rip, 1);
    world_free(w);
}

static uint64_t timer_at;
static bool timer_ran;
static uint64_t t_deadline(void *o)
{
    return timer_ran ? UINT64_MAX : timer_at;
}
static void t_run(void *o, uint64_t tsc)
{
    if (!timer_ran && tsc >= timer_at) {
        timer_ran = true;
        ((struct world *)o)->vector = 0x50;
        cpu_attend(((struct world *)o)->c, ATT_INTR);
    }
}
CODE(t_sti_hlt, 64, "sti; hlt; ud2")
CODE(t_loop, 64, "sti; 1: jmp 1b")
static void virtual_time(void **state)
{
    static const struct cpu_apic_ops ops = {
        .pending = apic_pending, .ack = apic_ack, .deadline = t_deadline, .run = t_run};
    struct world *w = long_mode("max", 0);
    struct cpu *c = w->c;
    c->apic_ops = &ops;
    timer_ran = false;
    timer_at = 1000000;
    cpu_update_deadline(c);
    load(w, t_sti_hlt, t_sti_hlt_end);
    assert_int_equal(go(w), 0x50); /* the idle time is skipped */
    assert_in_range(cpu_tsc(c), 1000000, 1000010);
    assert_true(c->icount < 20);
    world_free(w);

    w = long_mode("max", 0);
    c = w->c;
    c->apic_ops = &ops;
    timer_ran = false;
    timer_at = 5000;
    cpu_update_deadline(c);
    load(w, t_loop, t_loop_end);
    assert_int_equal(go(w), 0x50); /* an endless loop is left when its time has come */
    assert_in_range(cpu_tsc(c), 5000, 5100);
    world_free(w);
}

/* --- virtual interrupts of protected mode
 * ------------------------------------------------------------------------------------- */

CODE(p_sti, 32, "sti; pushf; pop %eax; cli; int3")
static void protected_mode_virtual_interrupts(void **state)
{
    struct world *w = protected_mode("max", 3);
    w->c->cr4 |= CR4_PVI;
    load(w, p_sti, p_sti_end);
    assert_int_equal(go(w), 3);
    assert_false(w->c->gpr[GPR_RAX] & FLAG_IF);
    assert_true(w->c->gpr[GPR_RAX] & FLAG_VIF);
    assert_false(rd32(w, w->c->gpr[GPR_RSP] + 8) & FLAG_VIF);
    world_free(w);

    w = protected_mode("max", 3); /* without PVI */
    load(w, p_sti, p_sti_end);
    assert_int_equal(go(w), EXC_GP);
    world_free(w);

    w = protected_mode("max", 3); /* STI with VIP pending */
    w->c->cr4 |= CR4_PVI;
    cpu_set_rflags(w->c, FLAG_1 | FLAG_VIP);
    load(w, p_sti, p_sti_end);
    assert_int_equal(go(w), EXC_GP);
    world_free(w);
}

/* --- CPUID
 * -----------------------------------------------------------------------------------------------------------------------
 */

static void cpuid_leaves(void **state)
{
    for (unsigned i = 0; model_get(i); i++) {
        const struct model *m = model_get(i);
        struct world *w = long_mode(m->name, 0);
        uint32_t r[4], s[4];
        cpu_cpuid(w->c, 0, 0, r);
        assert_int_equal(r[0], m->max_basic);
        assert_memory_equal(&r[1], model_is_amd(m) ? "Auth" : "Genu", 4);
        cpu_cpuid(w->c, 1, 0, r);
        assert_false(r[2] & (1u << 27)); /* OSXSAVE */
        assert_false(r[2] & (1u << 31)); /* no hypervisor */
        assert_true(r[3] & (1u << 9));
        w->c->cr4 |= CR4_OSXSAVE;
        cpu_cpuid(w->c, 1, 0, s);
        assert_int_equal(s[2], r[2] | 1u << 27);
        w->c->msr.apic_base &= ~BIT(11);
        cpu_cpuid(w->c, 1, 0, s);
        assert_false(s[3] & (1u << 9));
        cpu_cpuid(w->c, 0x80000008, 0, r);
        assert_int_equal(r[0] & 0xff, m->maxphyaddr);
        assert_int_equal(r[0] >> 8 & 0xff, m->has[FEATURE_la57] ? 57 : 48);
        /* Past the end: Intel the highest basic leaf, AMD zeros. */
        cpu_cpuid(w->c, 0x40000000, 0, r);
        cpu_cpuid(w->c, m->max_basic, 0, s);
        if (model_is_amd(m))
            memset(s, 0, sizeof s);
        assert_memory_equal(r, s, sizeof r);
        if (m->has[FEATURE_xsave]) {
            cpu_cpuid(w->c, 0xd, 0, r);
            assert_int_equal(r[0], model_xcr0(m));
            assert_int_equal(r[1], 576);
            w->c->xcr0 = model_xcr0(m);
            cpu_cpuid(w->c, 0xd, 0, s);
            assert_int_equal(s[1], s[2]);
        }
        world_free(w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(faults_and_exits), cmocka_unit_test(init_and_startup),
        cmocka_unit_test(virtual_time),     cmocka_unit_test(protected_mode_virtual_interrupts),
        cmocka_unit_test(cpuid_leaves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else
int main(void)
{
    return 0;
}
#endif
