/* SPDX-License-Identifier: MIT
 *
 * test_vmx_pc.c: a host that itself runs on the software processor: the VMX instructions as code executes them, their
 * flags, their faults, VM entries and exits between two guests of the same loop.
 */
#include "vmx_rig.h"

#if defined(__x86_64__)

enum {
    HOST_CODE = 0x40000,
    HOST_DATA = 0x48000,
    HOST_TABLE = 0x49000,
    HOST_STACK = 0x4f000,
    HOST_IDT = 0x4a000,
    HOST_GDT = 0x4b000,
    HOST_TSS = 0x4c000
};

/* Data, 8 bytes each from HOST_DATA: 0 VMXON pointer, 1 VMCS pointer, 2.. results. RBX points to it. */
__asm__(".pushsection .rodata\n"
        ".globl vmx_pc_code, vmx_pc_exit, vmx_pc_fault, vmx_pc_end\n"
        "vmx_pc_code:\n"
        "  vmxon (%rbx)\n"
        "  pushfq; popq 16(%rbx)\n"
        "  vmxon (%rbx)\n" /* VMfailInvalid: there is no current VMCS */
        "  pushfq; popq 24(%rbx)\n"
        "  vmclear 8(%rbx)\n"
        "  vmptrld 8(%rbx)\n"
        "  pushfq; popq 32(%rbx)\n"
        "  vmptrst 40(%rbx)\n"
        "  mov $0x49000, %rsi\n"
        "1: mov (%rsi), %rax\n"
        "  cmp $-1, %rax\n"
        "  je 2f\n"
        "  vmwrite 8(%rsi), %rax\n"
        "  jbe 9f\n"
        "  add $16, %rsi\n"
        "  jmp 1b\n"
        "2: mov $0x681f, %eax\n" /* high half of a natural-width field */
        "  vmread %rax, %rcx\n"
        "  pushfq; popq 48(%rbx)\n"
        "  vmresume\n" /* not launched */
        "  pushfq; popq 56(%rbx)\n"
        "  mov $0x4400, %eax\n"
        "  vmread %rax, 64(%rbx)\n"
        "  vmlaunch\n"
        "9: pushfq; popq 72(%rbx)\n"
        "  hlt\n"
        "vmx_pc_exit:\n"
        "  mov $0x48000, %rbx\n"
        "  incq 80(%rbx)\n"
        "  mov $0x4402, %eax\n"
        "  vmread %rax, %rcx\n"
        "  mov %rcx, 88(%rbx)\n"
        "  cmp $10, %ecx\n"
        "  jne 3f\n"
        "  mov $0x681e, %edx\n"
        "  vmread %rdx, %rax\n"
        "  add $2, %rax\n"
        "  vmwrite %rax, %rdx\n"
        "  vmresume\n"
        "  jmp 9b\n"
        "3: vmclear 8(%rbx)\n"
        "  vmxoff\n"
        "  pushfq; popq 96(%rbx)\n"
        "  vmxoff\n" /* #UD */
        "vmx_pc_fault:\n"
        "  mov $0x48000, %rbx\n"
        "  incq 104(%rbx)\n"
        "  hlt\n"
        "vmx_pc_end:\n"
        ".popsection\n");
extern const uint8_t vmx_pc_code[], vmx_pc_exit[], vmx_pc_fault[], vmx_pc_end[];

static uint64_t result(struct rig *r, unsigned i)
{
    uint64_t v;
    mem_read(r->mem, HPA(HOST_DATA + 8 * i), &v, 8);
    return v;
}

static void test_host(void **state)
{
    struct rig *r = rig_create("max");
    struct cpu *c = r->c;
    /* The VMCS that the host is to write: made by the rig, then read out. */
    rig_vmcs(r, RIG_LONG);
    rig_w(r, VMCS_HOST_RIP, HOST_CODE + (vmx_pc_exit - vmx_pc_code));
    rig_w(r, VMCS_HOST_RSP, HOST_STACK);
    rig_w(r, VMCS_HOST_IDTR_BASE, HOST_IDT);
    rig_w(r, VMCS_HOST_GDTR_BASE, HOST_GDT);
    rig_w(r, VMCS_HOST_TR_BASE, HOST_TSS);
    uint64_t at = HOST_TABLE;
    for (unsigned i = 0; i < F_COUNT; i++)
        if (r->x->caps.field[i] && vmcs_rows[i].type != VMCS_TYPE_READ_ONLY) {
            rig_store(r, at, vmcs_rows[i].encoding);
            rig_store(r, at + 8, r->x->cur->f[i]);
            at += 16;
        }
    rig_store(r, at, UINT64_MAX);
    assert_int_equal(vmx_vmclear(c, RIG_VMCS), VMX_SUCCEED);
    uint8_t zero[4088] = {0};
    rig_bytes(r, RIG_VMCS + 8, zero, sizeof zero);
    assert_int_equal(vmx_vmxoff(c), VMX_SUCCEED);

    rig_bytes(r, HOST_CODE, vmx_pc_code, (unsigned)(vmx_pc_end - vmx_pc_code));
    rig_store(r, HOST_DATA, RIG_VMXON);
    rig_store(r, HOST_DATA + 8, RIG_VMCS);
    uint64_t handler = HOST_CODE + (uint64_t)(vmx_pc_fault - vmx_pc_code);
    rig_store(r, HOST_IDT + 16 * EXC_UD, (handler & 0xffff) | 8 << 16 | 0x8eull << 40 | (handler & 0xffff0000) << 32);
    rig_store(r, HOST_GDT + 8, 0x00af9b000000ffff);
    rig_store(r, HOST_GDT + 16, 0x00cf93000000ffff);
    /* The guest: three CPUIDs, then HLT. */
    rig_bytes(r, RIG_CODE, "\x0f\xa2\x0f\xa2\x0f\xa2\xf4", 7);

    c->native_host = false;
    c->idtr = (struct dtable){HOST_IDT, 0xfff};
    c->gdtr = (struct dtable){HOST_GDT, 0xfff};
    c->gpr[GPR_RBX] = HOST_DATA;
    c->gpr[GPR_RSP] = HOST_STACK;
    c->rip = HOST_CODE;
    enum cpu_stop stop = cpu_run(c, 100000);
    if (stop != STOP_IDLE)
        fail_msg("stop %d rip %llx", (int)stop, (unsigned long long)c->rip);
    assert_int_equal(result(r, 2) & 0x8d5, 0);
    assert_int_equal(result(r, 3) & 0x8d5, FLAG_CF);
    assert_int_equal(result(r, 4) & 0x8d5, 0);
    assert_int_equal(result(r, 5), RIG_VMCS);
    assert_int_equal(result(r, 6) & 0x8d5, FLAG_ZF);
    assert_int_equal(result(r, 7) & 0x8d5, FLAG_ZF);
    assert_int_equal(result(r, 8), VMX_ERR_VMRESUME_NONLAUNCHED);
    assert_int_equal(result(r, 9), 0);
    assert_int_equal(result(r, 10), 4);
    assert_int_equal(result(r, 11), VMX_REASON_HLT);
    assert_int_equal(result(r, 12) & 0x8d5, 0);
    assert_int_equal(result(r, 13), 1);
    assert_false(vmx_on(c));
    rig_destroy(r);
}

/* #UD and #GP of each instruction by mode and privilege, as code meets them. */
static void test_faults(void **state)
{
    static const uint8_t codes[][5] = {
        {0x0f, 0x01, 0xc2},       /* vmlaunch */
        {0x0f, 0x01, 0xc3},       /* vmresume */
        {0x0f, 0x01, 0xc4},       /* vmxoff */
        {0x0f, 0x01, 0xc1},       /* vmcall */
        {0x0f, 0xc7, 0x33},       /* vmptrld [rbx] */
        {0x0f, 0xc7, 0x3b},       /* vmptrst [rbx] */
        {0x66, 0x0f, 0xc7, 0x33}, /* vmclear [rbx] */
        {0x0f, 0x78, 0xc1},       /* vmread rcx, rax */
        {0x0f, 0x79, 0xc1},       /* vmwrite rax, rcx */
        {0x66, 0x0f, 0x38, 0x80, 0x03},
        {0x66, 0x0f, 0x38, 0x81, 0x03},
    };
    for (unsigned i = 0; i < ARRAY_LEN(codes); i++)
        for (unsigned situation = 0; situation < 3; situation++) {
            struct rig *r = rig_create("max");
            struct cpu *c = r->c;
            rig_tables(r);
            if (situation) /* 0: not in VMX operation: #UD; 1: CPL 3: #GP; 2: compatibility mode: #UD */
                assert_int_equal(vmx_vmxon(c, RIG_VMXON), VMX_SUCCEED);
            if (situation == 1) {
                c->cpl = 3;
                c->seg[SEG_CS].sel = 0x23;
                c->seg[SEG_CS].ar |= 3 << 5;
                c->seg[SEG_SS].sel = 0x2b;
                c->seg[SEG_SS].ar |= 3 << 5;
            } else if (situation == 2) {
                c->seg[SEG_CS].ar = AR_P | AR_S | 11 | AR_DB | AR_G;
            }
            cpu_update_translation(c);
            rig_bytes(r, RIG_CODE, codes[i], 5);
            c->gpr[GPR_RBX] = 1ull << 60; /* the operand is not looked at */
            c->rip = RIG_CODE;
            assert_int_equal(cpu_run(c, 10), STOP_FAULT);
            if (c->exc.vector != (situation == 1 ? EXC_GP : EXC_UD))
                fail_msg("code %u situation %u: vector %u", i, situation, c->exc.vector);
            assert_int_equal(c->rip, RIG_CODE);
            rig_destroy(r);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_host), cmocka_unit_test(test_faults)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else
int main(void)
{
    return 0;
}
#endif
