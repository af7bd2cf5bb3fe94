/* SPDX-License-Identifier: MIT
 *
 * test_cpu_sys.c: rules of exceptions, interrupts, privilege, control registers and debug facilities, each by a few
 * instructions on a bare processor. A handler is one HLT: where the processor stands tells what was delivered.
 */
#include "tests/unit/cpu_rig.h"

#if defined(__x86_64__)

/* --- exceptions in 64-bit mode
 * ---------------------------------------------------------------------------------------- */

CODE(t_de, 64, "nop; xor %ecx,%ecx; div %ecx; hlt")
static void fault_frame(void **state)
{
    struct world *w = long_mode("max", 0);
    struct cpu *c = w->c;
    c->gpr[GPR_RSP] = STACK0 - 3; /* the frame is aligned to 16 */
    load(w, t_de, t_de_end);
    assert_int_equal(go(w), EXC_DE);
    uint64_t sp = c->gpr[GPR_RSP];
    assert_int_equal(sp, ((STACK0 - 3) & ~15) - 40);
    assert_int_equal(rd64(w, sp), CODE_AT + 3);
    assert_int_equal(rd64(w, sp + 8), CS64);
    assert_true(rd64(w, sp + 16) & FLAG_RF);
    assert_int_equal(rd64(w, sp + 24), STACK0 - 3);
    assert_int_equal(rd64(w, sp + 32), DS);
    world_free(w);
}

CODE(t_ud, 64, "ud2")
CODE(t_gp_sel, 64, "mov $0x100, %eax; mov %eax, %ds")
CODE(t_gp_sel_ext, 64, "mov $0x7b, %eax; mov %eax, %ds")
CODE(t_np, 64, "mov $0x78, %eax; mov %eax, %ds")
CODE(t_ss_rpl, 64, "mov $0x13, %eax; mov %eax, %ss")
CODE(t_noncanon, 64, "mov $0x8000000000000000, %rax; mov (%rax), %eax")
CODE(t_noncanon_ss, 64, "mov $0x8000000000000000, %rbp; mov (%rbp), %eax")
CODE(t_pf, 64, "movl $1, 0x1f0010")
CODE(t_int81, 64, "int $0x81")
CODE(t_int80, 64, "int $0x80")
CODE(t_int3, 64, "int3")
struct expect {
    const uint8_t *code, *end;
    unsigned cpl;
    int vector;
    int64_t error; /* -1: none is pushed */
    uint64_t rip;  /* pushed, from CODE_AT */
};
static void exceptions(void **state)
{
    static const struct expect cases[] = {
#define C(n) n, n##_end
        {C(t_ud), 0, EXC_UD, -1, 0},
        {C(t_gp_sel), 0, EXC_GP, 0x100, 5},
        {C(t_gp_sel_ext), 0, EXC_GP, 0x78, 5}, /* RPL 3 > DPL 0, before present */
        {C(t_np), 0, EXC_NP, 0x78, 5},
        {C(t_ss_rpl), 0, EXC_GP, 0x10, 5},
        {C(t_noncanon), 0, EXC_GP, 0, 10},
        {C(t_noncanon_ss), 0, EXC_SS, 0, 10},
        {C(t_pf), 0, EXC_PF, 2, 0},
        {C(t_pf), 3, EXC_PF, 6, 0},
        {C(t_int81), 3, EXC_GP, 0x81 * 8 + 2, 0},
        {C(t_int81), 0, 0x81, -1, 2},
        {C(t_int80), 3, 0x80, -1, 2},
        {C(t_int3), 3, EXC_BP, -1, 1},
    };
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        const struct expect *e = &cases[i];
        struct world *w = long_mode("max", e->cpl);
        load(w, e->code, e->end);
        int v = go(w);
        if (v != e->vector)
            fail_msg("case %u: vector %d, not %d", i, v, e->vector);
        uint64_t sp = w->c->gpr[GPR_RSP];
        if (e->error >= 0) {
            if ((int64_t)rd64(w, sp) != e->error)
                fail_msg("case %u: error code %#llx", i, (unsigned long long)rd64(w, sp));
            sp += 8;
        }
        if (rd64(w, sp) != CODE_AT + e->rip)
            fail_msg("case %u: RIP %#llx", i, (unsigned long long)rd64(w, sp));
        assert_int_equal(rd64(w, sp + 24), e->cpl ? STACK3 : STACK0);
        assert_int_equal(sp + 40, STACK0);
        assert_int_equal(w->c->seg[SEG_SS].sel, e->cpl ? 0 : DS); /* null when the privilege changed */
        if (e->vector == EXC_PF)
            assert_int_equal(w->c->cr2, 0x1f0010);
        world_free(w);
    }
}

static void interrupt_stack_table(void **state)
{
    struct world *w = long_mode("max", 0);
    gate(w, EXC_UD, CS64, HANDLERS + 16 * EXC_UD, 15, 0, 1);
    w->c->rflags_rest |= FLAG_IF;
    load(w, t_ud, t_ud_end);
    assert_int_equal(go(w), EXC_UD);
    assert_int_equal(w->c->gpr[GPR_RSP], STACK_IST - 40);
    assert_true(w->c->rflags_rest & FLAG_IF); /* a trap gate leaves IF */
    world_free(w);
}

/* EXT in an error code: while an event from outside is delivered; on Intel's processors an earlier exception is one
 * (SDM 3A, "Error Code"), on AMD's it is the program's own (APM 2, "Selector-Error Code"). */
static void error_code_ext(void **state)
{
    for (unsigned amd = 0; amd < 2; amd++) {
        for (unsigned external = 0; external < 2; external++) {
            struct world *w = long_mode(amd ? "max-amd" : "max", 0);
            unsigned vector = external ? 0x40 : EXC_UD;
            wr64(w, IDT + 16 * vector, rd64(w, IDT + 16 * vector) & ~BIT(47)); /* its gate is not present */
            load(w, t_ud, t_ud_end);
            if (external) {
                w->vector = (int)vector;
                cpu_attend(w->c, ATT_INTR);
                cpu_set_rflags(w->c, cpu_rflags(w->c) | FLAG_IF);
            }
            assert_int_equal(go(w), EXC_NP);
            assert_int_equal(rd64(w, w->c->gpr[GPR_RSP]), vector << 3 | 2 | (external || !amd));
            world_free(w);
        }
    }
}

static void double_and_triple_fault(void **state)
{
    /* #GP whose gate is not present: #NP while delivering #GP is #DF, with error code 0. */
    struct world *w = long_mode("max", 0);
    wr64(w, IDT + 16 * EXC_GP, 0x00008e0000000000);
    load(w, t_gp_sel, t_gp_sel_end);
    assert_int_equal(go(w), EXC_DF);
    assert_int_equal(rd64(w, w->c->gpr[GPR_RSP]), 0);
    assert_int_equal(rd64(w, w->c->gpr[GPR_RSP] + 8), CODE_AT + 5);
    world_free(w);
    /* #UD is benign: #GP while delivering it is a #GP, with the gate's error code and EXT. */
    w = long_mode("max", 0);
    wr64(w, IDT + 16 * EXC_UD, 0);
    load(w, t_ud, t_ud_end);
    assert_int_equal(go(w), EXC_GP);
    assert_int_equal(rd64(w, w->c->gpr[GPR_RSP]), EXC_UD * 8 + 2 + 1);
    world_free(w);
    /* INT n from the program: no EXT. */
    w = long_mode("max", 0);
    wr64(w, IDT + 16 * 0x81, 0);
    load(w, t_int81, t_int81_end);
    assert_int_equal(go(w), EXC_GP);
    assert_int_equal(rd64(w, w->c->gpr[GPR_RSP]), 0x81 * 8 + 2);
    world_free(w);
    /* No IDT at all. */
    w = long_mode("max", 0);
    w->c->idtr.limit = 0;
    load(w, t_ud, t_ud_end);
    assert_int_equal(go(w), -3);
    world_free(w);
    /* A page fault while a page fault is delivered. */
    w = long_mode("max", 0);
    w->c->gpr[GPR_RSP] = NO_PAGE + 0x800;
    gate(w, EXC_DF, CS64, HANDLERS + 16 * EXC_DF, 14, 0, 1);
    load(w, t_pf, t_pf_end);
    assert_int_equal(go(w), EXC_DF);
    world_free(w);
}

/* --- interrupts and shadows
 * ---------------------------------------------------------------------------------------------- */

CODE(t_sti_nop, 64, "sti; nop; nop; cli; hlt")
CODE(t_sti_cli, 64, "sti; cli; nop; nop; hlt")
CODE(t_sti_movss, 64, "sti; mov %eax, %ss; nop; nop; hlt")
CODE(t_popf_if, 64, "pushq $0x202; popfq; nop; cli; hlt")
CODE(t_hlt_wake, 64, "sti; hlt; nop; ud2")
static void interrupt_shadow(void **state)
{
    struct world *w = long_mode("max", 0);
    w->vector = 0x40;
    cpu_attend(w->c, ATT_INTR);
    load(w, t_sti_nop, t_sti_nop_end);
    assert_int_equal(go(w), 0x40);
    assert_int_equal(rd64(w, w->c->gpr[GPR_RSP]), CODE_AT + 2); /* after the instruction that follows STI */
    world_free(w);

    w = long_mode("max", 0);
    w->vector = 0x40;
    cpu_attend(w->c, ATT_INTR);
    load(w, t_sti_cli, t_sti_cli_end);
    assert_int_equal(go(w), -1);
    assert_int_equal(w->vector, 0x40); /* still pending */
    world_free(w);

    w = long_mode("max", 0);
    w->c->gpr[GPR_RAX] = DS;
    w->vector = 0x40;
    cpu_attend(w->c, ATT_INTR);
    load(w, t_sti_movss, t_sti_movss_end);
    assert_int_equal(go(w), 0x40);
    world_free(w);

    w = long_mode("max", 0);
    w->vector = 0x40;
    cpu_attend(w->c, ATT_INTR);
    load(w, t_popf_if, t_popf_if_end);
    assert_int_equal(go(w), 0x40);
    assert_int_equal(rd64(w, w->c->gpr[GPR_RSP]), CODE_AT + 6); /* POPF has no shadow */
    world_free(w);
}

static void halt_and_wake(void **state)
{
    struct world *w = long_mode("max", 0);
    load(w, t_hlt_wake, t_hlt_wake_end);
    assert_int_equal(go(w), -1);
    assert_int_equal(w->c->activity, ACTIVITY_HLT);
    assert_int_equal(cpu_run(w->c, 100), STOP_IDLE); /* it stays halted */
    w->vector = 0x41;
    cpu_attend(w->c, ATT_INTR);
    assert_int_equal(go(w), 0x41);
    assert_int_equal(rd64(w, w->c->gpr[GPR_RSP]), CODE_AT + 2);
    world_free(w);
}

/* Where processors take turns, a PAUSE that is met again is the turn's last instruction: what stands after it, as the
 * LOCK BTS that takes a spin lock back, is the next turn's. Met once, it goes on. */
CODE(t_pause, 64, "inc %eax\n pause\n inc %eax\n inc %eax\n hlt")
CODE(t_pause_loop, 64, "1: inc %eax\n pause\n cmp $3, %eax\n jb 1b\n hlt")
static void pause_ends_turn(void **state)
{
    struct world *w = long_mode("max", 0);
    w->c->takes_turns = true;
    w->c->turn_pause = UINT64_MAX;
    load(w, t_pause_loop, t_pause_loop_end);
    w->c->gpr[GPR_RAX] = 0;
    uint64_t before = w->c->icount;
    assert_int_equal(cpu_run(w->c, 100), STOP_KICK);
    assert_int_equal(w->c->gpr[GPR_RAX], 2);
    assert_int_equal(w->c->rip, CODE_AT + 4);
    assert_int_equal(w->c->icount - before, 6);
    w->c->turn_pause = UINT64_MAX;
    assert_int_equal(cpu_run(w->c, 100), STOP_IDLE); /* the last one is met once */
    assert_int_equal(w->c->gpr[GPR_RAX], 3);
    world_free(w);
}

/* An NMI that comes with a kick is delivered when the processor goes on. */
static void kick_and_nmi(void **state)
{
    struct world *w = long_mode("max", 0);
    load(w, t_pause, t_pause_end);
    cpu_attend(w->c, ATT_KICK | ATT_NMI);
    assert_int_equal(cpu_run(w->c, 100), STOP_KICK);
    assert_int_equal(go(w), EXC_NMI);
    assert_int_equal(rd64(w, w->c->gpr[GPR_RSP]), CODE_AT);
    world_free(w);
}

/* A debug trap and an NMI that are there together: both are delivered, the trap first. */
static void trap_and_nmi(void **state)
{
    struct world *w = long_mode("max", 0);
    load(w, t_pause, t_pause_end);
    w->c->pending_dbg = BIT(14); /* BS */
    cpu_attend(w->c, ATT_TRAP | ATT_NMI);
    assert_int_equal(go(w), EXC_NMI);
    assert_int_equal(rd64(w, w->c->gpr[GPR_RSP]), HANDLERS + 16 * EXC_DB);
    world_free(w);
}

CODE(t_iretq, 64, "iretq")
static void nmi_blocking(void **state)
{
    struct world *w = long_mode("max", 0);
    load(w, t_hlt_wake, t_hlt_wake_end);
    assert_int_equal(go(w), -1);
    cpu_attend(w->c, ATT_NMI);
    assert_int_equal(go(w), 2);
    assert_true(w->c->nmi_blocked);
    cpu_attend(w->c, ATT_NMI); /* a second one waits for IRET */
    assert_int_equal(cpu_run(w->c, 100), STOP_IDLE);
    assert_true(w->c->nmi_pending);
    mem_write(w->mem, HPA(HANDLERS + 16 * 2 + 1), t_iretq, 2);
    w->c->activity = ACTIVITY_ACTIVE;
    assert_int_equal(cpu_run(w->c, 1), STOP_BUDGET); /* IRET, and then the NMI again at once */
    assert_int_equal(w->c->rip, HANDLERS + 16 * 2);
    assert_int_equal(rd64(w, w->c->gpr[GPR_RSP]), CODE_AT + 2);
    assert_true(w->c->nmi_blocked);
    world_free(w);
}

/* --- single step and breakpoints
 * -------------------------------------------------------------------------------------------- */

CODE(t_tf, 64, "pushq $0x102; popfq; nop; nop; hlt")
CODE(t_tf_ss, 64, "pushq $0x102; popfq; mov %eax, %ss; nop; nop; hlt")
CODE(t_tf_int, 64, "pushq $0x102; popfq; int $0x81; hlt")
CODE(t_tf_off, 64, "pushq $0x102; pushq $2; mov %rsp, %rbx; pop %rcx; popfq; lea (%rbx), %rsp; nop; hlt")
static void single_step(void **state)
{
    struct world *w = long_mode("max", 0);
    load(w, t_tf, t_tf_end);
    assert_int_equal(go(w), EXC_DB);
    assert_int_equal(rd64(w, w->c->gpr[GPR_RSP]), CODE_AT + 7); /* after the instruction that follows POPF */
    assert_int_equal(w->c->dr[6], 0xffff4ff0);
    assert_true(rd64(w, w->c->gpr[GPR_RSP] + 16) & FLAG_TF);
    assert_false(w->c->rflags_rest & FLAG_TF);
    world_free(w);

    w = long_mode("max", 0); /* MOV SS holds the trap back for one instruction */
    w->c->gpr[GPR_RAX] = DS;
    load(w, t_tf_ss, t_tf_ss_end);
    assert_int_equal(go(w), EXC_DB);
    assert_int_equal(rd64(w, w->c->gpr[GPR_RSP]), CODE_AT + 9);
    world_free(w);

    w = long_mode("max", 0); /* INT n clears TF: no trap in front of the handler */
    load(w, t_tf_int, t_tf_int_end);
    assert_int_equal(go(w), 0x81);
    world_free(w);
}

/* DEBUGCTL.LBR and BTF on Intel. */
CODE(t_lbr, 64, "jmp 1f; hlt; 1: xor %eax, %eax; jnz 2f; jz 3f; 2: hlt; 3: call 4f; hlt; 4: loop 4b; int $0x81")
static void branch_records(void **state)
{
    struct world *w = long_mode("max", 0);
    struct cpu *c = w->c;
    c->msr.debugctl = 1;
    cpu_update_mode(c);
    c->gpr[GPR_RCX] = 3;
    load(w, t_lbr, t_lbr_end);
    assert_int_equal(go(w), 0x81);
    assert_int_equal(c->msr.last_branch[0], CODE_AT + 18); /* INT n */
    assert_int_equal(c->msr.last_branch[1], HANDLERS + 16 * 0x81);
    assert_int_equal(c->msr.last_branch[2], CODE_AT + 16); /* LOOP, not the one that falls through */
    assert_int_equal(c->msr.last_branch[3], CODE_AT + 16);
    world_free(w);

    w = long_mode("max", 0); /* the trap after the branch, not before it */
    c = w->c;
    c->msr.debugctl = 2;
    load(w, t_lbr, t_lbr_end);
    cpu_set_rflags(c, FLAG_1 | FLAG_TF);
    cpu_update_mode(c);
    c->rip = CODE_AT + 3;
    assert_int_equal(go(w), EXC_DB);
    assert_int_equal(rd64(w, c->gpr[GPR_RSP]), CODE_AT + 10); /* past XOR and the JNZ that is not taken */
    assert_int_equal(c->dr[6], 0xffff4ff0);
    assert_int_equal(c->msr.debugctl, 0);
    assert_int_equal(c->msr.last_branch[0], 0);
    world_free(w);
}

CODE(t_bp, 64, "nop; nop; nop; hlt")
CODE(t_bp_data, 64, "movl $5, 0x40004; nop; nop; hlt")
CODE(t_bp_read, 64, "mov 0x40004, %eax; nop; hlt")
CODE(t_bp_ss, 64, "mov 0x40004, %ss; .byte 0xf1; nop; hlt")
CODE(t_gd, 64, "mov %dr0, %rax; hlt")
static void breakpoints(void **state)
{
    struct world *w = long_mode("max", 0);
    struct cpu *c = w->c;
    load(w, t_bp, t_bp_end);
    assert_true(cpu_write_dr(c, 1, CODE_AT + 1));
    assert_true(cpu_write_dr(c, 7, 0x404));
    assert_int_equal(go(w), EXC_DB);
    uint64_t sp = c->gpr[GPR_RSP];
    assert_int_equal(rd64(w, sp), CODE_AT + 1); /* a fault: before the instruction */
    assert_int_equal(c->dr[6], 0xffff0ff2);
    assert_false(rd64(w, sp + 16) & FLAG_RF);
    /* With RF in the image the instruction runs. */
    wr64(w, sp + 16, rd64(w, sp + 16) | FLAG_RF);
    mem_write(w->mem, HPA(HANDLERS + 16 * EXC_DB + 1), t_iretq, 2);
    c->activity = ACTIVITY_ACTIVE;
    assert_int_equal(go(w), -1);
    assert_int_equal(c->rip, CODE_AT + 4);
    world_free(w);

    w = long_mode("max", 0);
    c = w->c;
    load(w, t_bp_data, t_bp_data_end);
    assert_true(cpu_write_dr(c, 0, DATA + 4));
    assert_true(cpu_write_dr(c, 7, 0x402 | 0xd0000)); /* DR0: write, 4 bytes */
    assert_int_equal(go(w), EXC_DB);
    assert_int_equal(rd64(w, c->gpr[GPR_RSP]), CODE_AT + 11); /* a trap: after it */
    assert_int_equal(c->dr[6], 0xffff0ff1);
    assert_int_equal(rd32(w, DATA + 4), 5);
    world_free(w);

    w = long_mode("max", 0);
    load(w, t_bp_read, t_bp_read_end);
    assert_true(cpu_write_dr(w->c, 0, DATA + 4));
    assert_true(cpu_write_dr(w->c, 7, 0x402 | 0xd0000)); /* a read does not match */
    assert_int_equal(go(w), -1);
    world_free(w);

    w = long_mode("max", 0); /* held back by MOV SS, a data breakpoint is INT1's #DB too: one is delivered */
    wr32(w, DATA + 4, DS);
    load(w, t_bp_ss, t_bp_ss_end);
    assert_true(cpu_write_dr(w->c, 0, DATA + 4));
    assert_true(cpu_write_dr(w->c, 7, 0x402 | 0xf0000));
    assert_int_equal(go(w), EXC_DB);
    assert_int_equal(rd64(w, w->c->gpr[GPR_RSP]), CODE_AT + 8);
    world_free(w);

    w = long_mode("max", 0);
    load(w, t_gd, t_gd_end);
    assert_true(cpu_write_dr(w->c, 7, 0x2400));
    assert_int_equal(go(w), EXC_DB);
    assert_int_equal(w->c->dr[6], 0xffff2ff0);
    assert_int_equal(w->c->dr[7], 0x400); /* GD is off in the handler */
    assert_int_equal(rd64(w, w->c->gpr[GPR_RSP]), CODE_AT);
    world_free(w);
}

/* --- system calls
 * --------------------------------------------------------------------------------------------------------------- */

CODE(t_syscall, 64, "syscall; hlt")
CODE(t_sysretq, 64, "sysretq")
static void syscall_sysret(void **state)
{
    struct world *w = long_mode("max", 3);
    struct cpu *c = w->c;
    load(w, t_syscall, t_syscall_end);
    cpu_set_rflags(c, FLAG_1 | FLAG_IF | FLAG_CF);
    assert_int_equal(go(w), 200);
    assert_int_equal(c->gpr[GPR_RCX], CODE_AT + 2);
    assert_int_equal(c->gpr[GPR_R11], FLAG_1 | FLAG_IF | FLAG_CF);
    assert_int_equal(c->cpl, 0);
    assert_int_equal(c->seg[SEG_CS].sel, CS64);
    assert_int_equal(c->seg[SEG_SS].sel, CS64 + 8);
    assert_int_equal(cpu_rflags(c), FLAG_1 | FLAG_CF);
    assert_int_equal(c->gpr[GPR_RSP], STACK3);
    /* and back */
    mem_write(w->mem, HPA(HANDLERS + 16 * 200 + 1), t_sysretq, 3);
    c->activity = ACTIVITY_ACTIVE;
    assert_int_equal(go(w), EXC_GP); /* HLT at CPL 3 */
    assert_int_equal(rd64(w, c->gpr[GPR_RSP] + 8), CODE_AT + 2);
    assert_int_equal(rd64(w, c->gpr[GPR_RSP] + 16), UCS64 | 3);
    assert_int_equal(rd64(w, c->gpr[GPR_RSP] + 40), UDS | 3);
    world_free(w);

    /* A non-canonical return address: Intel faults at CPL 0, AMD at CPL 3. */
    static const char *models[] = {"max", "max-amd"};
    for (unsigned i = 0; i < 2; i++) {
        w = long_mode(models[i], 0);
        w->c->gpr[GPR_RCX] = 0x8000000000000000;
        w->c->gpr[GPR_R11] = 2;
        load(w, t_sysretq, t_sysretq_end);
        assert_int_equal(go(w), EXC_GP);
        assert_int_equal(rd64(w, w->c->gpr[GPR_RSP] + 16) & 3, i ? 3 : 0);
        world_free(w);
    }
}

/* --- control registers, MSRs
 * ------------------------------------------------------------------------------------------------------ */

static void control_registers(void **state)
{
    struct world *w = long_mode("max", 0);
    struct cpu *c = w->c;
    assert_false(cpu_write_cr0(c, (c->cr0 & ~CR0_PE))); /* PG without PE */
    assert_false(cpu_write_cr0(c, c->cr0 | CR0_NW));    /* NW without CD */
    assert_false(cpu_write_cr0(c, c->cr0 | BIT(32)));
    assert_false(cpu_write_cr0(c, c->cr0 & ~CR0_PG)); /* in 64-bit mode */
    assert_true(cpu_write_cr0(c, c->cr0 | BIT(6)));   /* reserved bits below 32 are dropped */
    assert_false(c->cr0 & BIT(6));
    assert_false(cpu_write_cr4(c, c->cr4 & ~CR4_PAE)); /* in IA-32e mode */
    assert_false(cpu_write_cr4(c, c->cr4 | CR4_LA57));
    assert_false(cpu_write_cr4(c, c->cr4 | BIT(15)));
    c->cr3 |= 0x18;
    assert_false(cpu_write_cr4(c, c->cr4 | CR4_PCIDE)); /* CR3 11:0 must be 0 */
    c->cr3 = PML4;
    assert_true(cpu_write_cr4(c, c->cr4 | CR4_PCIDE));
    assert_false(cpu_write_cr0(c, c->cr0 & ~CR0_PG));
    assert_false(cpu_write_cr3(c, BIT(52)));
    assert_true(cpu_write_cr3(c, PML4 | BIT(63)));
    assert_int_equal(c->cr3, PML4);
    assert_false(cpu_write_cr8(c, 16));
    c->exc.valid = false;
    world_free(w);
}

static void msrs(void **state)
{
    struct world *w = long_mode("max", 0);
    struct cpu *c = w->c;
    uint64_t v;
    assert_false(cpu_rdmsr(c, 0x12345, &v));
    assert_false(cpu_wrmsr(c, 0xc0000082, 0x8000000000000000));
    assert_true(cpu_wrmsr(c, 0xc0000082, 0xffff800000000000));
    assert_true(cpu_rdmsr(c, 0xc0000082, &v));
    assert_int_equal(v, 0xffff800000000000);
    assert_false(cpu_wrmsr(c, 0xc0000080, c->efer ^ EFER_LME)); /* while paging is on */
    assert_false(cpu_wrmsr(c, 0xc0000080, c->efer | BIT(1)));
    assert_false(cpu_wrmsr(c, 0xc0000080, c->efer | EFER_SVME)); /* Intel */
    assert_true(cpu_wrmsr(c, 0xc0000080, c->efer & ~EFER_LMA));  /* LMA is read-only */
    assert_true(c->efer & EFER_LMA);
    assert_false(cpu_wrmsr(c, 0x277, 2)); /* PAT type 2 */
    assert_true(cpu_wrmsr(c, 0x277, 0x0007040600070406));
    assert_false(cpu_wrmsr(c, 0x200, 2)); /* MTRR type 2 */
    assert_true(cpu_wrmsr(c, 0x10, 1000000));
    assert_true(cpu_rdmsr(c, 0x10, &v));
    assert_int_equal(v, 1000000);
    assert_true(cpu_rdmsr(c, 0x3b, &v));
    assert_int_equal(v, 1000000 - 0 - 0);
    assert_false(cpu_rdmsr(c, 0xc0010015, &v)); /* AMD's */
    world_free(w);
    w = long_mode("max-amd", 0);
    assert_true(cpu_rdmsr(w->c, 0xc0010015, &v));
    assert_false(cpu_rdmsr(w->c, 0x3a, &v));
    world_free(w);
}

/* "Processor Programming Reference", families 17h and 19h, "MSRC001_1004 [CPUID Features]" and its neighbours: they
 * read as CPUID does, and CPUID reads as they are written; the bits that follow CR4 do so only while they are set. */
static void cpuid_overrides(void **state)
{
    static const struct {
        uint32_t msr, leaf;
        unsigned low, high;
    } regs[] = {{0xc0011002, 7, 1, 0}, {0xc0011003, 6, 2, 0}, {0xc0011004, 1, 3, 2}, {0xc0011005, 0x80000001, 3, 2}};
    struct world *w = long_mode("max-amd", 0);
    struct cpu *c = w->c;
    uint32_t usual[4], out[4];
    uint64_t v;
    c->cr4 |= CR4_OSXSAVE | CR4_PKE;
    for (unsigned i = 0; i < ARRAY_LEN(regs); i++) {
        cpu_cpuid(c, regs[i].leaf, 0, usual);
        assert_true(cpu_rdmsr(c, regs[i].msr, &v));
        assert_int_equal((uint32_t)v, usual[regs[i].low]);
        assert_int_equal(v >> 32, usual[regs[i].high]);
        uint64_t other = v ^ 0x8000000400000001;
        assert_true(cpu_wrmsr(c, regs[i].msr, other));
        cpu_cpuid(c, regs[i].leaf, 0, out);
        assert_int_equal(out[regs[i].low], (uint32_t)other);
        assert_int_equal(out[regs[i].high], other >> 32);
        cpu_cpuid(c, 0, 0, out);
        assert_int_equal(out[1], 0x68747541); /* other leaves are as before */
        assert_true(cpu_wrmsr(c, regs[i].msr, v));
        cpu_cpuid(c, regs[i].leaf, 0, out);
        assert_memory_equal(out, usual, sizeof out);
    }
    assert_true(cpu_rdmsr(c, 0xc0011004, &v));
    c->cr4 &= ~(uint64_t)CR4_OSXSAVE;
    cpu_cpuid(c, 1, 0, out);
    assert_false(out[2] & BIT(27));
    assert_true(v & BIT(32 + 27));
    assert_true(cpu_wrmsr(c, 0xc0011004, v & ~BIT(32 + 27)));
    cpu_cpuid(c, 1, 0, out);
    assert_false(out[2] & BIT(27));
    c->cr4 |= CR4_OSXSAVE;
    cpu_cpuid(c, 1, 0, out);
    assert_false(out[2] & BIT(27));
    world_free(w);
    w = long_mode("max", 0);
    assert_false(cpu_rdmsr(w->c, 0xc0011004, &v));
    world_free(w);
}

CODE(t_sgdt, 64, "sgdt 0x40000; ud2")
CODE(t_in, 64, "in %dx, %al; ud2")
CODE(t_insb, 64, "rep insb; ud2")
CODE(t_rdtsc, 64, "rdtsc; ud2")
static void user_privilege(void **state)
{
    struct world *w = long_mode("max", 3);
    load(w, t_sgdt, t_sgdt_end);
    assert_int_equal(go(w), EXC_UD);
    world_free(w);
    w = long_mode("max", 3);
    w->c->cr4 |= CR4_UMIP;
    load(w, t_sgdt, t_sgdt_end);
    assert_int_equal(go(w), EXC_GP);
    world_free(w);
    w = long_mode("max", 3);
    w->c->cr4 |= CR4_TSD;
    load(w, t_rdtsc, t_rdtsc_end);
    assert_int_equal(go(w), EXC_GP);
    world_free(w);

    /* The I/O permission map: port 8 is denied, 9 is allowed. */
    for (unsigned port = 8; port <= 9; port++) {
        w = long_mode("max", 3);
        uint8_t map[2] = {0xff, 0x01};
        mem_write(w->mem, HPA(TSS + 0x68), map, 2);
        w->port_in = 0x5a;
        w->c->gpr[GPR_RDX] = port;
        load(w, t_in, t_in_end);
        assert_int_equal(go(w), port == 8 ? EXC_GP : EXC_UD);
        assert_int_equal(w->port_calls, port == 8 ? 0 : 1);
        world_free(w);
    }
    /* A port is not read when the write would fault; what was done before is kept. */
    w = long_mode("max", 0);
    w->c->gpr[GPR_RCX] = 8;
    w->c->gpr[GPR_RDI] = NO_PAGE - 3;
    load(w, t_insb, t_insb_end);
    assert_int_equal(go(w), EXC_PF);
    assert_int_equal(w->port_calls, 3);
    assert_int_equal(w->c->gpr[GPR_RCX], 5);
    assert_int_equal(w->c->gpr[GPR_RDI], NO_PAGE);
    assert_int_equal(w->c->cr2, NO_PAGE);
    world_free(w);
}

CODE(t_iret_user, 64, "pushq $0x2b; pushq $0x26000; pushq $0x202; pushq $0x33; pushq $0x10020; iretq")
CODE(t_iret_bad, 64, "pushq $0x10; pushq $0x26000; pushq $0x202; pushq $0x33; pushq $0x10020; iretq")
CODE(t_iret_nt, 64, "pushq $0x4002; popfq; iretq")
static void iret_64(void **state)
{
    struct world *w = long_mode("max", 0);
    load(w, t_iret_user, t_iret_user_end);
    assert_int_equal(cpu_run(w->c, 6), STOP_BUDGET);
    assert_int_equal(w->c->cpl, 3);
    assert_int_equal(w->c->rip, 0x10020);
    assert_int_equal(w->c->gpr[GPR_RSP], STACK3);
    assert_int_equal(w->c->seg[SEG_DS].ar & AR_UNUSABLE, AR_UNUSABLE); /* DPL 0 data is dropped */
    world_free(w);
    w = long_mode("max", 0); /* of a null selector its RPL is; what is hidden of FS stays */
    load(w, t_iret_user, t_iret_user_end);
    assert_true(cpu_load_seg(w->c, SEG_ES, 3) && cpu_load_seg(w->c, SEG_FS, 2));
    w->c->seg[SEG_FS].base = 0x1234;
    assert_int_equal(cpu_run(w->c, 6), STOP_BUDGET);
    assert_int_equal(w->c->cpl, 3);
    assert_int_equal(w->c->seg[SEG_ES].sel, 0);
    assert_int_equal(w->c->seg[SEG_FS].sel, 0);
    assert_int_equal(w->c->seg[SEG_FS].base, 0x1234);
    world_free(w);
    w = long_mode("max", 0);
    load(w, t_iret_bad, t_iret_bad_end);
    assert_int_equal(go(w), EXC_GP);
    assert_int_equal(rd64(w, w->c->gpr[GPR_RSP]), 0x10); /* SS with the wrong RPL */
    world_free(w);
    w = long_mode("max", 0);
    load(w, t_iret_nt, t_iret_nt_end);
    assert_int_equal(go(w), EXC_GP);
    assert_int_equal(rd64(w, w->c->gpr[GPR_RSP]), 0);
    world_free(w);
}

/* --- legacy modes
 * -------------------------------------------------------------------------------------------------------------------
 */

CODE(t_call_gate, 32, "pushl $0x11111111; pushl $0x22222222; lcall $0x53, $0")
static void call_gate_with_parameters(void **state)
{
    struct world *w = protected_mode("max", 3);
    wr64(w, GDT + GATE,
         (uint64_t)(HANDLERS & 0xffff) | (uint64_t)CS32 << 16 | 2ull << 32 | 0xecull << 40 |
             (uint64_t)(HANDLERS >> 16) << 48);
    wr32(w, TSS + 4, STACK1);
    load(w, t_call_gate, t_call_gate_end);
    assert_int_equal(go(w), 0);
    uint64_t sp = w->c->gpr[GPR_RSP];
    assert_int_equal(sp, STACK1 - 24);
    assert_int_equal(rd32(w, sp), CODE_AT + 17);
    assert_int_equal(rd32(w, sp + 4), UCS32 | 3);
    assert_int_equal(rd32(w, sp + 8), 0x22222222);
    assert_int_equal(rd32(w, sp + 12), 0x11111111);
    assert_int_equal(rd32(w, sp + 16), STACK3 - 8);
    assert_int_equal(rd32(w, sp + 20), UDS | 3);
    assert_int_equal(w->c->cpl, 0);
    world_free(w);
}

CODE(t_task_call, 32, "lcall $0x68, $0; mov $7, %edx; hlt")
CODE(t_task_jmp, 32, "ljmp $0x68, $0; hlt")
CODE(t_iretd, 32, "iret; hlt")
static void tss_image(struct world *w, uint32_t eip, uint32_t eflags)
{
    wr32(w, TSS2 + 32, eip);
    wr32(w, TSS2 + 36, eflags);
    wr32(w, TSS2 + 40, 0xaaaa); /* EAX */
    wr32(w, TSS2 + 56, STACK1); /* ESP */
    for (unsigned i = 0; i < 6; i++)
        wr32(w, TSS2 + 72 + 4 * i, i == 1 ? CS32 : DS);
}
static void task_switch(void **state)
{
    struct world *w = protected_mode("max", 0);
    struct cpu *c = w->c;
    tss_image(w, HANDLERS, 2);
    mem_write(w->mem, HPA(HANDLERS), t_iretd, 2);
    load(w, t_task_call, t_task_call_end);
    c->gpr[GPR_RBX] = 0x1234;
    cpu_run(c, 1);
    assert_int_equal(c->rip, HANDLERS);
    assert_int_equal(c->gpr[GPR_RAX], 0xaaaa);
    assert_int_equal(c->gpr[GPR_RSP], STACK1);
    assert_int_equal(c->seg[SEG_TR].sel, TR32B);
    assert_true(c->rflags_rest & FLAG_NT);
    assert_true(c->cr0 & CR0_TS);
    assert_int_equal(rd32(w, TSS2) & 0xffff, TR32);         /* back link */
    assert_int_equal(rd64(w, GDT + TR32) >> 40 & 0xf, 0xb); /* both are busy */
    assert_int_equal(rd64(w, GDT + TR32B) >> 40 & 0xf, 0xb);
    assert_int_equal(rd32(w, TSS + 32), CODE_AT + 7);
    assert_int_equal(rd32(w, TSS + 52), 0x1234); /* EBX */
    assert_int_equal(go(w), -1);                 /* IRET returns to the caller */
    assert_int_equal(c->gpr[GPR_RDX], 7);
    assert_int_equal(c->gpr[GPR_RBX], 0x1234);
    assert_int_equal(c->seg[SEG_TR].sel, TR32);
    assert_int_equal(rd64(w, GDT + TR32B) >> 40 & 0xf, 9); /* available again */
    assert_false(rd32(w, TSS2 + 36) & FLAG_NT);
    world_free(w);

    w = protected_mode("max", 0);
    tss_image(w, HANDLERS + 16, 2);
    load(w, t_task_jmp, t_task_jmp_end);
    assert_int_equal(go(w), 1);
    assert_int_equal(rd64(w, GDT + TR32) >> 40 & 0xf, 9);
    assert_false(w->c->rflags_rest & FLAG_NT);
    world_free(w);

    /* A busy TSS: #GP(selector). */
    w = protected_mode("max", 0);
    gdt_put(w, TR32B, TSS2, 0x67, 0x008b);
    load(w, t_task_jmp, t_task_jmp_end);
    assert_int_equal(go(w), EXC_GP);
    assert_int_equal(rd32(w, w->c->gpr[GPR_RSP]), TR32B);
    world_free(w);

    /* A bad stack segment in the new task: #TS(selector), in the new task. */
    w = protected_mode("max", 0);
    tss_image(w, HANDLERS + 16, 2);
    wr32(w, TSS2 + 72 + 8, CS32);
    /* its handler needs a stack: a task gate */
    load(w, t_task_jmp, t_task_jmp_end);
    gate(w, EXC_TS, TR32, 0, 5, 0, 0);
    wr32(w, TSS + 36, 2);
    assert_int_equal(cpu_step(w->c, true), STOP_NONE);
    assert_true(w->c->exc.valid);
    assert_int_equal(w->c->exc.vector, EXC_TS);
    assert_int_equal(w->c->exc.error, CS32);
    assert_int_equal(w->c->seg[SEG_TR].sel, TR32B);
    assert_int_equal(w->c->rip, HANDLERS + 16);
    world_free(w);
}

CODE(t_v86_enter, 32,
     "pushl $0; pushl $0; pushl $0x4000; pushl $0; pushl $0x3000; pushl $0x100; pushl %eax; pushl $0x1000; pushl $0; "
     "iret")
CODE(t_v86_int, 16, "int $0x21; hlt")
CODE(t_v86_cli, 16, "cli; hlt")
CODE(t_v86_pushf, 16, "pushf; pop %ax; int3")
static struct world *v86(uint32_t eflags, const uint8_t *code, const uint8_t *end, uint64_t cr4)
{
    struct world *w = protected_mode("max", 0);
    w->c->cr4 |= cr4;
    cpu_update_mode(w->c);
    load(w, t_v86_enter, t_v86_enter_end);
    w->c->gpr[GPR_RAX] = eflags;
    mem_write(w->mem, HPA(CODE_AT + 0x1000), code, (unsigned)(end - code));
    wr32(w, CODE_AT - 0x10000 + 0x100, 0);
    return w;
}
static void virtual_8086(void **state)
{
    /* The test's code segment 0x1000 is linear 0x10000, where the code that enters stands: put ours over it. */
    struct world *w = v86(0x20002 | 3 << 12, t_v86_int, t_v86_int_end, 0);
    cpu_run(w->c, 10);
    assert_true(w->c->vm86);
    assert_int_equal(w->c->cpl, 3);
    assert_int_equal(w->c->seg[SEG_DS].sel, 0x4000);
    assert_int_equal(w->c->seg[SEG_DS].base, 0x40000);
    assert_int_equal(w->c->gpr[GPR_RSP], 0x100);
    mem_write(w->mem, HPA(CODE_AT), t_v86_int, 3);
    gate(w, 0x21, CS32, HANDLERS + 16 * 0x21, 14, 3, 0);
    assert_int_equal(go(w), 0x21); /* IOPL 3: through the IDT, the stack of ring 0, nine words */
    uint64_t sp = w->c->gpr[GPR_RSP];
    assert_int_equal(sp, STACK0 - 36);
    assert_int_equal(rd32(w, sp), 2);
    assert_int_equal(rd32(w, sp + 4), 0x1000);
    assert_true(rd32(w, sp + 8) & FLAG_VM);
    assert_int_equal(rd32(w, sp + 16), 0x3000);
    assert_int_equal(rd32(w, sp + 24), 0x4000);
    assert_int_equal(w->c->seg[SEG_DS].sel, 0);
    assert_true(w->c->seg[SEG_DS].ar & AR_UNUSABLE);
    world_free(w);

    w = v86(0x20002, t_v86_int, t_v86_int_end, 0); /* IOPL 0, no VME: #GP(0) */
    cpu_run(w->c, 10);
    mem_write(w->mem, HPA(CODE_AT), t_v86_int, 3);
    assert_int_equal(go(w), EXC_GP);
    assert_int_equal(rd32(w, w->c->gpr[GPR_RSP]), 0);
    world_free(w);

    /* VME, redirection bit clear: the 8086 handler, IF of the image is VIF. */
    w = v86(0x20002 | FLAG_VIF, t_v86_int, t_v86_int_end, CR4_VME);
    cpu_run(w->c, 10);
    mem_write(w->mem, HPA(CODE_AT), t_v86_int, 3);
    wr32(w, 0x21 * 4, 0x30000000 | 0x20); /* 3000:0020 */
    cpu_run(w->c, 1);
    assert_int_equal(w->c->rip, 0x20);
    assert_int_equal(w->c->seg[SEG_CS].sel, 0x3000);
    assert_true(w->c->vm86);
    assert_int_equal(w->c->gpr[GPR_RSP], 0x100 - 6);
    assert_int_equal(rd32(w, 0x30000 + 0x100 - 6), 2 | 0x1000 << 16);
    assert_true(rd32(w, 0x30000 + 0x100 - 2) & FLAG_IF);
    assert_false(w->c->rflags_rest & FLAG_VIF);
    world_free(w);

    w = v86(0x20002 | FLAG_VIF, t_v86_cli, t_v86_cli_end, CR4_VME);
    cpu_run(w->c, 10);
    mem_write(w->mem, HPA(CODE_AT), t_v86_cli, 2);
    cpu_run(w->c, 1);
    assert_false(w->c->rflags_rest & FLAG_VIF);
    assert_true(w->c->vm86);
    world_free(w);
}

CODE(t_real_int, 16, "int $0x21; hlt")
static void real_mode(void **state)
{
    struct world *w = world_new("max");
    struct cpu *c = w->c;
    assert_int_equal(c->rip, 0xfff0); /* the state after reset */
    assert_int_equal(c->seg[SEG_CS].base, 0xffff0000);
    assert_int_equal(c->cr0, 0x60000010);
    assert_int_equal(cpu_rflags(c), 2);
    cpu_set_seg_real(c, SEG_CS, 0x1000);
    c->idtr.limit = 0x3ff;
    load(w, t_real_int, t_real_int_end);
    c->rip = 0;
    c->gpr[GPR_RSP] = 0x800;
    wr32(w, 0x21 * 4, 0x30000000);
    cpu_set_rflags(c, FLAG_1 | FLAG_IF | FLAG_CF);
    assert_int_equal(cpu_run(c, 100), STOP_IDLE);
    assert_int_equal(c->rip, 1);
    assert_int_equal(c->seg[SEG_CS].sel, 0x3000);
    assert_int_equal(rd32(w, 0x7fa), 2 | 0x1000 << 16);
    assert_int_equal(rd32(w, 0x7fe) & 0xffff, 0x203);
    assert_false(c->rflags_rest & FLAG_IF);
    world_free(w);
}

static void models(void **state)
{
    struct model m;
    char err[128];
    for (unsigned i = 0; model_get(i); i++) {
        assert_true(model_parse(&m, model_get(i)->name, err, sizeof err));
        /* What a model needs it has: parsing changes nothing. */
        assert_memory_equal(m.has, model_get(i)->has, sizeof m.has);
    }
    assert_false(model_parse(&m, "i386", err, sizeof err));
    assert_non_null(strstr(err, "i386"));
    assert_false(model_parse(&m, "max,+nonsense", err, sizeof err));
    assert_non_null(strstr(err, "nonsense"));
    assert_false(model_parse(&m, "max,+svm", err, sizeof err));
    assert_false(model_parse(&m, "max,+avx2", err, sizeof err));
    assert_false(model_parse(&m, "max,-lm", err, sizeof err));
    assert_true(model_parse(&m, "max,-sse4_1,-ept", err, sizeof err));
    assert_false(model_has(&m, FEATURE_sse4_2));
    assert_false(model_has(&m, FEATURE_unrestricted_guest));
    assert_true(model_has(&m, FEATURE_vpid));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(models),
        cmocka_unit_test(fault_frame),
        cmocka_unit_test(exceptions),
        cmocka_unit_test(interrupt_stack_table),
        cmocka_unit_test(error_code_ext),
        cmocka_unit_test(double_and_triple_fault),
        cmocka_unit_test(interrupt_shadow),
        cmocka_unit_test(halt_and_wake),
        cmocka_unit_test(pause_ends_turn),
        cmocka_unit_test(kick_and_nmi),
        cmocka_unit_test(trap_and_nmi),
        cmocka_unit_test(nmi_blocking),
        cmocka_unit_test(single_step),
        cmocka_unit_test(branch_records),
        cmocka_unit_test(breakpoints),
        cmocka_unit_test(syscall_sysret),
        cmocka_unit_test(control_registers),
        cmocka_unit_test(msrs),
        cmocka_unit_test(cpuid_overrides),
        cmocka_unit_test(user_privilege),
        cmocka_unit_test(iret_64),
        cmocka_unit_test(call_gate_with_parameters),
        cmocka_unit_test(task_switch),
        cmocka_unit_test(virtual_8086),
        cmocka_unit_test(real_mode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else
int main(void)
{
    return 0;
}
#endif
