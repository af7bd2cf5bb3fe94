/* SPDX-License-Identifier: MIT
 *
 * test_vmx_guest.c: guests in every mode that run a few instructions and leave: reason, qualification, information
 * fields, what is saved, what is loaded, event injection.
 */
#include "vmx_rig.h"

#define CODE(r, ...)                                                                                                   \
    do {                                                                                                               \
        static const uint8_t code_[] = {__VA_ARGS__};                                                                  \
        rig_bytes(r, RIG_CODE, code_, sizeof code_);                                                                   \
    } while (0)

static struct rig *start(const char *model, enum rig_mode mode)
{
    struct rig *r = rig_create(model);
    rig_vmcs(r, mode);
    return r;
}

static void expect_exit_(struct rig *r, unsigned line, uint32_t reason)
{
    uint32_t got = rig_enter(r);
    if (got != reason) {
        char why[2000];
        vmx_explain(r->c, why, sizeof why);
        fail_msg("line %u: exit %u (%x) instead of %u; qualification %llx rip %llx\n%s", line, got & 0xffff, got,
                 reason, (unsigned long long)rig_r(r, VMCS_EXIT_QUALIFICATION),
                 (unsigned long long)rig_r(r, VMCS_GUEST_RIP), why);
    }
}
#define expect_exit(r, reason) expect_exit_(r, __LINE__, reason)
static void expect_field_(struct rig *r, unsigned line, uint32_t field, uint64_t v)
{
    uint64_t got = rig_r(r, field);
    if (got != v)
        fail_msg("line %u: %s is %llx instead of %llx", line, vmenter_vmcs_field_name(field), (unsigned long long)got,
                 (unsigned long long)v);
}
#define expect_field(r, field, v) expect_field_(r, __LINE__, VMCS_##field, v)
/* On over the instruction that exited. */
static void step_over(struct rig *r)
{
    rig_w(r, VMCS_GUEST_RIP, rig_r(r, VMCS_GUEST_RIP) + rig_r(r, VMCS_EXIT_INSTRUCTION_LENGTH));
}
static void set(struct rig *r, uint32_t field, uint64_t bits_)
{
    rig_w(r, field, rig_r(r, field) | bits_);
}
static void clear(struct rig *r, uint32_t field, uint64_t bits_)
{
    rig_w(r, field, rig_r(r, field) & ~bits_);
}

/* mov eax, 0x12345678 (16-bit: with 66); cpuid; hlt: in every mode. */
static void test_modes(void **state)
{
    static const enum rig_mode modes[] = {RIG_REAL, RIG_PROT16, RIG_PROT32, RIG_PAGED32, RIG_V86, RIG_LONG};
    for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
        bool narrow = modes[i] == RIG_REAL || modes[i] == RIG_PROT16 || modes[i] == RIG_V86;
        struct rig *r = start("max", modes[i]);
        if (narrow)
            CODE(r, 0x66, 0xb8, 0x78, 0x56, 0x34, 0x12, 0x0f, 0xa2, 0xf4);
        else
            CODE(r, 0xb8, 0x78, 0x56, 0x34, 0x12, 0x90, 0x0f, 0xa2, 0xf4);
        uint64_t rip = rig_r(r, VMCS_GUEST_RIP);
        expect_exit(r, VMX_REASON_CPUID);
        assert_int_equal(r->c->gpr[GPR_RAX], 0x12345678);
        expect_field(r, GUEST_RIP, rip + 6);
        expect_field(r, EXIT_INSTRUCTION_LENGTH, 2);
        expect_field(r, EXIT_QUALIFICATION, 0);
        expect_field(r, IDT_VECTORING_INFO, 0);
        expect_field(r, EXIT_INTERRUPTION_INFO, 0);
        /* The host is back. */
        assert_true(r->c->mode == MODE_64 && r->c->cpl == 0 && r->c->cr3 == RIG_HOST_PML4);
        assert_int_equal(cpu_rflags(r->c), 2);
        assert_int_equal(r->c->seg[SEG_CS].sel, 8);
        assert_true(r->c->seg[SEG_LDTR].ar & AR_UNUSABLE);
        assert_int_equal(r->c->dr[7], 0x400);
        step_over(r);
        if (modes[i] == RIG_V86) { /* HLT is privileged */
            set(r, VMCS_EXCEPTION_BITMAP, BIT(EXC_GP));
            expect_exit(r, VMX_REASON_EXCEPTION_OR_NMI);
            expect_field(r, EXIT_INTERRUPTION_INFO, 0x80000b0d);
            expect_field(r, EXIT_INTERRUPTION_ERROR_CODE, 0);
        } else {
            expect_exit(r, VMX_REASON_HLT);
            expect_field(r, EXIT_INSTRUCTION_LENGTH, 1);
        }
        expect_field(r, GUEST_RIP, rip + 8);
        rig_destroy(r);
    }
}

/* The older models: no unrestricted guest, no EPT. */
static void test_models(void **state)
{
    static const char *const models[] = {"penryn", "nehalem", "icelake-server", "icelake-server,-ept",
                                         "icelake-server,-vpid"};
    for (unsigned i = 0; i < ARRAY_LEN(models); i++) {
        struct rig *r = start(models[i], RIG_LONG);
        CODE(r, 0xb9, 0x05, 0x00, 0x00, 0x00, 0x0f, 0xa2, 0xf4);
        expect_exit(r, VMX_REASON_CPUID);
        assert_int_equal(r->c->gpr[GPR_RCX], 5);
        step_over(r);
        expect_exit(r, VMX_REASON_HLT);
        rig_destroy(r);
    }
    struct rig *r = start("nehalem", RIG_REAL);
    assert_int_equal(rig_enter(r), VMX_REASON_ENTRY_FAILURE_GUEST_STATE | VMX_REASON_ENTRY_FAILURE);
    char why[1000];
    vmx_explain(r->c, why, sizeof why);
    assert_non_null(strstr(why, "guest.cr0.fixed"));
    rig_destroy(r);
}

/* "Exit Qualification for I/O Instructions"; bitmaps. */
static void test_io(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    /* in al, 0x60; out dx, eax; rep outsb; in ax, dx; hlt */
    CODE(r, 0xe4, 0x60, 0xef, 0xf3, 0x6e, 0x66, 0xed, 0xf4);
    set(r, VMCS_PROC_CONTROLS, VMX_PROC_UNCONDITIONAL_IO_EXITING);
    r->c->gpr[GPR_RDX] = 0x3f8;
    r->c->gpr[GPR_RCX] = 4;
    r->c->gpr[GPR_RSI] = RIG_STACK;
    expect_exit(r, VMX_REASON_IO_INSTRUCTION);
    expect_field(r, EXIT_QUALIFICATION, 0x600048);
    expect_field(r, EXIT_INSTRUCTION_LENGTH, 2);
    step_over(r);
    expect_exit(r, VMX_REASON_IO_INSTRUCTION);
    expect_field(r, EXIT_QUALIFICATION, 0x3f80003);
    step_over(r);
    expect_exit(r, VMX_REASON_IO_INSTRUCTION);
    expect_field(r, EXIT_QUALIFICATION, 0x3f80030);
    expect_field(r, GUEST_LINEAR_ADDRESS, RIG_STACK);
    expect_field(r, EXIT_INSTRUCTION_INFO, 2 << 7 | SEG_DS << 15);
    step_over(r);
    expect_exit(r, VMX_REASON_IO_INSTRUCTION);
    expect_field(r, EXIT_QUALIFICATION, 0x3f80009);
    step_over(r);
    expect_exit(r, VMX_REASON_HLT);
    /* Bitmaps: only the port whose bit is 1; unconditional exiting is ignored then. */
    rig_w(r, VMCS_IO_BITMAP_A, RIG_IOBITMAP_A);
    rig_w(r, VMCS_IO_BITMAP_B, RIG_IOBITMAP_B);
    set(r, VMCS_PROC_CONTROLS, VMX_PROC_USE_IO_BITMAPS);
    CODE(r, 0xe4, 0x60, 0xe4, 0x61, 0x66, 0xe5, 0x60, 0x66, 0xba, 0xff, 0xff, 0x66, 0xed, 0xec, 0xf4);
    rig_bytes(r, RIG_IOBITMAP_A + 0x61 / 8, "\x02", 1);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    expect_exit(r, VMX_REASON_IO_INSTRUCTION);
    expect_field(r, EXIT_QUALIFICATION, 0x610048);
    expect_field(r, GUEST_RIP, RIG_CODE + 2);
    step_over(r);
    expect_exit(r, VMX_REASON_IO_INSTRUCTION); /* a word at 0x60 covers 0x61 */
    expect_field(r, EXIT_QUALIFICATION, 0x600049);
    step_over(r);
    expect_exit(r, VMX_REASON_IO_INSTRUCTION); /* wraps around 0xffff */
    expect_field(r, EXIT_QUALIFICATION, 0xffff0009);
    step_over(r);
    expect_exit(r, VMX_REASON_HLT);
    rig_destroy(r);
}

/* MSR bitmaps. */
static void test_msr(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    /* mov ecx, 0x174; rdmsr; wrmsr; mov ecx, 0xc0000081; rdmsr; mov ecx, 0x40000000; rdmsr; hlt */
    CODE(r, 0xb9, 0x74, 0x01, 0x00, 0x00, 0x0f, 0x32, 0x0f, 0x30, 0xb9, 0x81, 0x00, 0x00, 0xc0, 0x0f, 0x32, 0xb9, 0x00,
         0x00, 0x00, 0x40, 0x0f, 0x32, 0xf4);
    expect_exit(r, VMX_REASON_RDMSR);
    step_over(r);
    expect_exit(r, VMX_REASON_WRMSR);
    step_over(r);
    expect_exit(r, VMX_REASON_RDMSR);
    assert_int_equal(r->c->gpr[GPR_RCX], 0xc0000081);
    set(r, VMCS_PROC_CONTROLS, VMX_PROC_USE_MSR_BITMAPS);
    rig_w(r, VMCS_MSR_BITMAPS, RIG_MSRBITMAP);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    r->c->msr.lstar = 0;
    rig_w(r, VMCS_GUEST_SYSENTER_CS, 0x77);
    rig_bytes(r, RIG_MSRBITMAP + 0x800 + 0x174 / 8, "\x10", 1); /* writes of 0x174 */
    rig_bytes(r, RIG_MSRBITMAP + 0x400 + 0x81 / 8, "\x02", 1);  /* reads of 0xc0000081 */
    expect_exit(r, VMX_REASON_WRMSR);
    assert_int_equal(r->c->gpr[GPR_RAX], 0x77);
    step_over(r);
    expect_exit(r, VMX_REASON_RDMSR);
    assert_int_equal(r->c->gpr[GPR_RCX], 0xc0000081);
    step_over(r);
    expect_exit(r, VMX_REASON_RDMSR); /* in neither range: always */
    assert_int_equal(r->c->gpr[GPR_RCX], 0x40000000);
    rig_destroy(r);
}

/* Control registers: masks, shadows, targets. */
static void test_cr(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    /* mov rax, cr0; mov cr0, rax; mov rbx, cr4; mov r9, cr3; mov cr3, r9; clts; hlt */
    CODE(r, 0x0f, 0x20, 0xc0, 0x0f, 0x22, 0xc0, 0x0f, 0x20, 0xe3, 0x41, 0x0f, 0x20, 0xd9, 0x41, 0x0f, 0x22, 0xd9, 0x0f,
         0x06, 0xf4);
    rig_w(r, VMCS_CR0_GUEST_HOST_MASK, CR0_NE | CR0_TS);
    rig_w(r, VMCS_CR0_READ_SHADOW, CR0_TS);
    rig_w(r, VMCS_CR4_GUEST_HOST_MASK, CR4_VMXE);
    uint64_t cr0 = rig_r(r, VMCS_GUEST_CR0);
    expect_exit(r, VMX_REASON_CONTROL_REGISTER_ACCESS); /* CLTS: TS is the host's and set in the shadow */
    expect_field(r, EXIT_QUALIFICATION, 0x20);
    expect_field(r, GUEST_RIP, RIG_CODE + 17);
    assert_int_equal(r->c->gpr[GPR_RAX], (cr0 & ~CR0_NE) | CR0_TS);
    assert_int_equal(r->c->gpr[GPR_RBX], rig_r(r, VMCS_GUEST_CR4) & ~CR4_VMXE);
    assert_int_equal(r->c->gpr[GPR_R9], RIG_GUEST_PML4);
    expect_field(r, GUEST_CR0, cr0); /* the host's bits kept */
    rig_w(r, VMCS_CR0_READ_SHADOW, 0);
    expect_exit(r, VMX_REASON_HLT); /* shadow clear: CLTS does nothing */
    /* MOV to CR0 that differs from the shadow; CR3 exiting and its targets. */
    rig_w(r, VMCS_CR0_READ_SHADOW, CR0_NE);
    r->c->gpr[GPR_RAX] = cr0 & ~CR0_NE;
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE + 3);
    set(r, VMCS_PROC_CONTROLS, VMX_PROC_CR3_LOAD_EXITING | VMX_PROC_CR3_STORE_EXITING);
    expect_exit(r, VMX_REASON_CONTROL_REGISTER_ACCESS);
    expect_field(r, EXIT_QUALIFICATION, 0);
    step_over(r);
    expect_exit(r, VMX_REASON_CONTROL_REGISTER_ACCESS);
    expect_field(r, EXIT_QUALIFICATION, 0x913);
    step_over(r);
    expect_exit(r, VMX_REASON_CONTROL_REGISTER_ACCESS);
    expect_field(r, EXIT_QUALIFICATION, 0x903);
    expect_field(r, EXIT_INSTRUCTION_LENGTH, 4);
    rig_w(r, VMCS_CR3_TARGET_COUNT, 2);
    rig_w(r, VMCS_CR3_TARGET_VALUE_1, RIG_GUEST_PML4);
    expect_exit(r, VMX_REASON_HLT);
    /* LMSW, by register and by memory; SMSW reads the shadow. */
    CODE(r, 0x0f, 0x01, 0xf0, 0x0f, 0x01, 0x34, 0x25, 0x00, 0x80, 0x00, 0x00, 0x0f, 0x01, 0xe3, 0xf4);
    rig_w(r, VMCS_CR0_GUEST_HOST_MASK, 0xf);
    rig_w(r, VMCS_CR0_READ_SHADOW, CR0_PE);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    r->c->gpr[GPR_RAX] = 0xb;
    rig_bytes(r, 0x8000, "\x07\x12", 2);
    expect_exit(r, VMX_REASON_CONTROL_REGISTER_ACCESS);
    expect_field(r, EXIT_QUALIFICATION, 0xb0030);
    step_over(r);
    expect_exit(r, VMX_REASON_CONTROL_REGISTER_ACCESS);
    expect_field(r, EXIT_QUALIFICATION, 0x12070070);
    expect_field(r, GUEST_LINEAR_ADDRESS, 0x8000);
    step_over(r);
    rig_w(r, VMCS_CR0_READ_SHADOW, 0xd);
    expect_exit(r, VMX_REASON_HLT);
    assert_int_equal(r->c->gpr[GPR_RBX] & 0xf, 0xd);
    rig_destroy(r);
}

/* MOV DR, RDTSC, INVLPG, WBINVD, PAUSE, MONITOR, descriptor tables, RDRAND, INVPCID: their controls and information. */
static void test_instructions(void **state)
{
    static const struct {
        uint8_t code[12];
        uint32_t proc, proc2, reason;
        uint64_t qualification;
        uint32_t len, info;
    } rows[] = {
        {{0x0f, 0x23, 0xfb}, VMX_PROC_MOV_DR_EXITING, 0, VMX_REASON_MOV_DR, 0x307, 3, 0},
        {{0x41, 0x0f, 0x21, 0xf0}, VMX_PROC_MOV_DR_EXITING, 0, VMX_REASON_MOV_DR, 0x816, 4, 0},
        {{0x0f, 0x31}, VMX_PROC_RDTSC_EXITING, 0, VMX_REASON_RDTSC, 0, 2, 0},
        {{0x0f, 0x01, 0xf9}, VMX_PROC_RDTSC_EXITING, VMX_PROC2_ENABLE_RDTSCP, VMX_REASON_RDTSCP, 0, 3, 0},
        {{0x0f, 0x33}, VMX_PROC_RDPMC_EXITING, 0, VMX_REASON_RDPMC, 0, 2, 0},
        {{0x0f, 0x01, 0x3c, 0x25, 0x00, 0x50, 0x34, 0x12},
         VMX_PROC_INVLPG_EXITING,
         0,
         VMX_REASON_INVLPG,
         0x12345000,
         8,
         0},
        {{0x0f, 0x09}, 0, VMX_PROC2_WBINVD_EXITING, VMX_REASON_WBINVD, 0, 2, 0},
        {{0x0f, 0x08}, 0, 0, VMX_REASON_INVD, 0, 2, 0},
        {{0xf3, 0x90}, VMX_PROC_PAUSE_EXITING, 0, VMX_REASON_PAUSE, 0, 2, 0},
        {{0x0f, 0x01, 0xc8}, VMX_PROC_MONITOR_EXITING, 0, VMX_REASON_MONITOR, 0, 3, 0},
        {{0x0f, 0x01, 0xc9}, VMX_PROC_MWAIT_EXITING, 0, VMX_REASON_MWAIT, 0, 3, 0},
        {{0x0f, 0x01, 0xd1}, 0, 0, VMX_REASON_XSETBV, 0, 3, 0},
        {{0x0f, 0x01, 0xc1}, 0, 0, VMX_REASON_VMCALL, 0, 3, 0},
        {{0x0f, 0x01, 0xc2}, 0, 0, VMX_REASON_VMLAUNCH, 0, 3, 0},
        {{0x0f, 0x01, 0xc3}, 0, 0, VMX_REASON_VMRESUME, 0, 3, 0},
        {{0x0f, 0x01, 0xc4}, 0, 0, VMX_REASON_VMXOFF, 0, 3, 0},
        /* sgdt [rbx+rcx*4+0x11]; lidt [rip+0x10]; str eax; lldt [fs:0x22] */
        {{0x0f, 0x01, 0x44, 0x8b, 0x11},
         0,
         VMX_PROC2_DESCRIPTOR_TABLE_EXITING,
         VMX_REASON_GDTR_OR_IDTR_ACCESS,
         0x11,
         5,
         2 | 2 << 7 | 1 << 11 | SEG_DS << 15 | GPR_RCX << 18 | GPR_RBX << 23},
        {{0x0f, 0x01, 0x1d, 0x10, 0, 0, 0},
         0,
         VMX_PROC2_DESCRIPTOR_TABLE_EXITING,
         VMX_REASON_GDTR_OR_IDTR_ACCESS,
         RIG_CODE + 0x17,
         7,
         2 << 7 | 1 << 11 | SEG_DS << 15 | 1 << 22 | 1 << 27 | 3 << 28},
        {{0x0f, 0x00, 0xc9},
         0,
         VMX_PROC2_DESCRIPTOR_TABLE_EXITING,
         VMX_REASON_LDTR_OR_TR_ACCESS,
         0,
         3,
         1 << 10 | GPR_RCX << 3 | 1 << 28},
        {{0x64, 0x0f, 0x00, 0x14, 0x25, 0x22, 0, 0, 0},
         0,
         VMX_PROC2_DESCRIPTOR_TABLE_EXITING,
         VMX_REASON_LDTR_OR_TR_ACCESS,
         0x22,
         9,
         2 << 7 | SEG_FS << 15 | 1 << 22 | 1 << 27 | 2 << 28},
        {{0x49, 0x0f, 0xc7, 0xf3}, 0, VMX_PROC2_RDRAND_EXITING, VMX_REASON_RDRAND, 0, 4, GPR_R11 << 3 | 2 << 11},
        {{0x0f, 0xc7, 0xff}, 0, VMX_PROC2_RDSEED_EXITING, VMX_REASON_RDSEED, 0, 3, GPR_RDI << 3 | 1 << 11},
        /* invpcid rsi, [rsp+8] */
        {{0x66, 0x0f, 0x38, 0x82, 0x74, 0x24, 0x08},
         VMX_PROC_INVLPG_EXITING,
         VMX_PROC2_ENABLE_INVPCID,
         VMX_REASON_INVPCID,
         8,
         7,
         2 << 7 | SEG_SS << 15 | 1 << 22 | GPR_RSP << 23 | GPR_RSI << 28},
        /* vmptrld [rax]; vmread [rdx], rcx; vmread rdx, rcx; vmwrite rdi, r8 (operand in r8); invept rax, [rbp-8] */
        {{0x0f, 0xc7, 0x30}, 0, 0, VMX_REASON_VMPTRLD, 0, 3, 2 << 7 | SEG_DS << 15 | 1 << 22 | GPR_RAX << 23},
        {{0x0f, 0x78, 0x0a},
         0,
         0,
         VMX_REASON_VMREAD,
         0,
         3,
         2 << 7 | SEG_DS << 15 | 1 << 22 | GPR_RDX << 23 | GPR_RCX << 28},
        {{0x0f, 0x78, 0xca}, 0, 0, VMX_REASON_VMREAD, 0, 3, 1 << 10 | GPR_RDX << 3 | GPR_RCX << 28},
        {{0x41, 0x0f, 0x79, 0xf8}, 0, 0, VMX_REASON_VMWRITE, 0, 4, 1 << 10 | GPR_R8 << 3 | GPR_RDI << 28},
        {{0x66, 0x0f, 0x38, 0x80, 0x45, 0xf8},
         0,
         0,
         VMX_REASON_INVEPT,
         UINT64_MAX - 7,
         6,
         2 << 7 | SEG_SS << 15 | 1 << 22 | GPR_RBP << 23 | GPR_RAX << 28},
        {{0xf3, 0x0f, 0xc7, 0x33}, 0, 0, VMX_REASON_VMXON, 0, 4, 2 << 7 | SEG_DS << 15 | 1 << 22 | GPR_RBX << 23},
        {{0x66, 0x0f, 0xc7, 0x31}, 0, 0, VMX_REASON_VMCLEAR, 0, 4, 2 << 7 | SEG_DS << 15 | 1 << 22 | GPR_RCX << 23},
    };
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        struct rig *r = start("max", RIG_LONG);
        rig_bytes(r, RIG_CODE, rows[i].code, sizeof rows[i].code);
        set(r, VMCS_PROC_CONTROLS, rows[i].proc);
        set(r, VMCS_PROC2_CONTROLS, rows[i].proc2);
        set(r, VMCS_GUEST_CR4, CR4_OSXSAVE);
        for (unsigned g = 0; g < 16; g++)
            r->c->gpr[g] = RIG_STACK - 0x800;
        uint32_t got = rig_enter(r);
        if (got != rows[i].reason || rig_r(r, VMCS_EXIT_QUALIFICATION) != rows[i].qualification ||
            rig_r(r, VMCS_EXIT_INSTRUCTION_LENGTH) != rows[i].len ||
            rig_r(r, VMCS_EXIT_INSTRUCTION_INFO) != rows[i].info)
            fail_msg("row %u (%s): exit %u qualification %llx length %llu information %llx (not %x)", i,
                     vmenter_vmx_reason_name(rows[i].reason), got,
                     (unsigned long long)rig_r(r, VMCS_EXIT_QUALIFICATION),
                     (unsigned long long)rig_r(r, VMCS_EXIT_INSTRUCTION_LENGTH),
                     (unsigned long long)rig_r(r, VMCS_EXIT_INSTRUCTION_INFO), rows[i].info);
        expect_field(r, GUEST_RIP, RIG_CODE);
        rig_destroy(r);
    }
}

/* "Changes to Instruction Behavior": #UD where a control does not enable the instruction. */
static void test_enables(void **state)
{
    static const struct {
        uint8_t code[8];
        uint32_t proc2;
    } rows[] = {
        {{0x0f, 0x01, 0xf9, 0xf4}, VMX_PROC2_ENABLE_RDTSCP},
        {{0xf3, 0x0f, 0xc7, 0xf8, 0xf4}, VMX_PROC2_ENABLE_RDTSCP},
        {{0x66, 0x0f, 0x38, 0x82, 0x74, 0x24, 0x08, 0xf4}, VMX_PROC2_ENABLE_INVPCID},
        {{0x0f, 0xc7, 0x28, 0xf4}, VMX_PROC2_ENABLE_XSAVES},
    };
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        struct rig *r = start("max", RIG_LONG);
        rig_bytes(r, RIG_CODE, rows[i].code, 8);
        set(r, VMCS_EXCEPTION_BITMAP, BIT(EXC_UD) | BIT(EXC_GP));
        set(r, VMCS_GUEST_CR4, CR4_OSXSAVE | CR4_OSFXSR);
        r->c->gpr[GPR_RSI] = 2;
        r->c->gpr[GPR_RAX] = RIG_STACK - 0x1000;
        expect_exit(r, VMX_REASON_EXCEPTION_OR_NMI);
        expect_field(r, EXIT_INTERRUPTION_INFO, 0x80000306);
        set(r, VMCS_PROC2_CONTROLS, rows[i].proc2);
        expect_exit(r, VMX_REASON_HLT);
        rig_destroy(r);
    }
}

/* The exception bitmap; page-fault mask and match; double and triple fault; IDT vectoring. */
static void test_exceptions(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    /* mov [0x40000000000], al: linear address above what the guest's tables map */
    CODE(r, 0xa2, 0, 0, 0, 0, 0, 4, 0, 0, 0xf4);
    set(r, VMCS_EXCEPTION_BITMAP, BIT(EXC_PF));
    expect_exit(r, VMX_REASON_EXCEPTION_OR_NMI);
    expect_field(r, EXIT_INTERRUPTION_INFO, 0x80000b0e);
    expect_field(r, EXIT_INTERRUPTION_ERROR_CODE, 2);
    expect_field(r, EXIT_QUALIFICATION, 0x40000000000);
    assert_int_equal(r->c->cr2, 0);
    assert_true(rig_r(r, VMCS_GUEST_RFLAGS) & FLAG_RF);
    clear(r, VMCS_GUEST_RFLAGS, FLAG_RF);
    /* The error code does not match: no exit; the handler's HLT exits. */
    rig_w(r, VMCS_PAGE_FAULT_ERROR_CODE_MASK, 2);
    expect_exit(r, VMX_REASON_HLT);
    expect_field(r, GUEST_RIP, RIG_HANDLER + 16 * EXC_PF);
    assert_true(r->c->cr2 == 0x40000000000);
    /* Bitmap bit 0 turns it round. */
    clear(r, VMCS_EXCEPTION_BITMAP, BIT(EXC_PF));
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    expect_exit(r, VMX_REASON_EXCEPTION_OR_NMI);
    rig_w(r, VMCS_PAGE_FAULT_ERROR_CODE_MASK, 0);

    /* #PF whose gate is not present: #NP during delivery; intercepted it is an exit with IDT-vectoring information. */
    clear(r, VMCS_GUEST_RFLAGS, FLAG_RF);
    rig_store(r, RIG_GUEST_IDT + 16 * EXC_PF, 0);
    set(r, VMCS_EXCEPTION_BITMAP, BIT(EXC_GP));
    expect_exit(r, VMX_REASON_EXCEPTION_OR_NMI);
    expect_field(r, EXIT_INTERRUPTION_INFO, 0x80000b0d);
    expect_field(r, EXIT_INTERRUPTION_ERROR_CODE, 16 * 0 + EXC_PF * 8 + 3);
    expect_field(r, IDT_VECTORING_INFO, 0x80000b0e);
    expect_field(r, IDT_VECTORING_ERROR_CODE, 2);
    expect_field(r, GUEST_RIP, RIG_CODE);
    /* Not intercepted: #DF, which is, and is no exit during delivery. */
    rig_w(r, VMCS_EXCEPTION_BITMAP, BIT(EXC_DF));
    expect_exit(r, VMX_REASON_EXCEPTION_OR_NMI);
    expect_field(r, EXIT_INTERRUPTION_INFO, 0x80000b08);
    expect_field(r, IDT_VECTORING_INFO, 0);
    /* Nor that, with a bad gate too: triple fault. */
    rig_w(r, VMCS_EXCEPTION_BITMAP, 0);
    rig_store(r, RIG_GUEST_IDT + 16 * EXC_DF, 0);
    expect_exit(r, VMX_REASON_TRIPLE_FAULT);
    expect_field(r, GUEST_RIP, RIG_CODE);
    expect_field(r, IDT_VECTORING_INFO, 0);
    rig_destroy(r);

    /* INT3 and INTO are exceptions with a length; INT n is none. */
    r = start("max", RIG_LONG);
    CODE(r, 0xcc, 0xcd, 0x21, 0xf4);
    set(r, VMCS_EXCEPTION_BITMAP, 0xffffffff);
    expect_exit(r, VMX_REASON_EXCEPTION_OR_NMI);
    expect_field(r, EXIT_INTERRUPTION_INFO, 0x80000603);
    expect_field(r, EXIT_INSTRUCTION_LENGTH, 1);
    expect_field(r, GUEST_RIP, RIG_CODE);
    step_over(r);
    expect_exit(r, VMX_REASON_HLT);
    expect_field(r, GUEST_RIP, RIG_HANDLER + 16 * 0x21);
    rig_destroy(r);

    /* Single step. */
    r = start("max", RIG_LONG);
    CODE(r, 0x90, 0x90, 0xf4);
    set(r, VMCS_EXCEPTION_BITMAP, BIT(EXC_DB));
    set(r, VMCS_GUEST_RFLAGS, FLAG_TF);
    expect_exit(r, VMX_REASON_EXCEPTION_OR_NMI);
    expect_field(r, EXIT_INTERRUPTION_INFO, 0x80000301);
    expect_field(r, EXIT_QUALIFICATION, BIT(14));
    expect_field(r, GUEST_RIP, RIG_CODE + 1);
    rig_destroy(r);
}

/* "EPT Violations", "EPT Misconfigurations". */
static void test_ept(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    /* mov [0x600000], eax; mov eax, [0x600000]; jmp to 0x600000 */
    CODE(r, 0x89, 0x04, 0x25, 0x08, 0x00, 0x60, 0x00, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00, 0xb8, 0, 0, 0x60, 0,
         0xff, 0xe0);
    rig_store(r, RIG_EPT_PD + 8 * 3, 0);
    expect_exit(r, VMX_REASON_EPT_VIOLATION);
    expect_field(r, EXIT_QUALIFICATION, 0x782); /* a user-mode address of a read/write page */
    expect_field(r, GUEST_PHYSICAL_ADDRESS, 0x600008);
    expect_field(r, GUEST_LINEAR_ADDRESS, 0x600008);
    expect_field(r, GUEST_RIP, RIG_CODE);
    /* Mapped read-only: the entry was not present, so nothing is cached. */
    rig_store(r, RIG_EPT_PD + 8 * 3, 0x600000 | VMX_EPT_LARGE | VMX_EPT_READ | VMX_EPT_MEMORY_TYPE(6));
    expect_exit(r, VMX_REASON_EPT_VIOLATION);
    expect_field(r, EXIT_QUALIFICATION, 0x78a);
    uint64_t inv[2] = {rig_r(r, VMCS_EPT_POINTER), 0};
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE + 7);
    expect_exit(r, VMX_REASON_EPT_VIOLATION); /* the read is allowed; the fetch is not */
    expect_field(r, EXIT_QUALIFICATION, 0x78c);
    expect_field(r, GUEST_RIP, 0x600000);
    rig_store(r, RIG_EPT_PD + 8 * 3, 0x600000 | VMX_EPT_LARGE | VMX_EPT_WRITE | VMX_EPT_MEMORY_TYPE(6));
    assert_int_equal(vmx_invept(r->c, VMX_INVEPT_SINGLE_CONTEXT, inv), VMX_SUCCEED);
    expect_exit(r, VMX_REASON_EPT_MISCONFIGURATION);
    expect_field(r, GUEST_PHYSICAL_ADDRESS, 0x600000);
    rig_store(r, RIG_EPT_PD + 8 * 3, 0x600000 | VMX_EPT_LARGE | 7 | VMX_EPT_MEMORY_TYPE(6));
    rig_bytes(r, 0x600000, "\xf4", 1);
    expect_exit(r, VMX_REASON_HLT);
    expect_field(r, GUEST_RIP, 0x600000);
    /* A guest paging structure that EPT does not map: not the final translation. */
    rig_store(r, RIG_GUEST_PML4 + 8 * 1, 0x800000 | 7);
    rig_store(r, RIG_EPT_PD + 8 * 4, 0);
    CODE(r, 0xa0, 0x10, 0, 0, 0, 0x80, 0, 0, 0, 0xf4);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    inv[0] = rig_r(r, VMCS_EPT_POINTER);
    assert_int_equal(vmx_invept(r->c, VMX_INVEPT_SINGLE_CONTEXT, inv), VMX_SUCCEED);
    expect_exit(r, VMX_REASON_EPT_VIOLATION);
    expect_field(r, EXIT_QUALIFICATION, 0x81);
    expect_field(r, GUEST_PHYSICAL_ADDRESS, 0x800000);
    expect_field(r, GUEST_LINEAR_ADDRESS, 0x8000000010);
    rig_destroy(r);
}

/* A data breakpoint is due when its instruction is carried out, not where an exit comes instead of it; what MOV SS
 * holds back is saved
 * ("Saving Non-Register State"). */
static void test_ept_breakpoint(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    /* mov [0x600008], eax; nop; mov ss, [0x600008]; mov [0x600010], eax; hlt */
    CODE(r, 0x89, 0x04, 0x25, 0x08, 0x00, 0x60, 0x00, 0x90, 0x8e, 0x14, 0x25, 0x08, 0x00, 0x60, 0x00, 0x89, 0x04, 0x25,
         0x10, 0x00, 0x60, 0x00, 0xf4);
    set(r, VMCS_ENTRY_CONTROLS, VMX_ENTRY_LOAD_DEBUG_CONTROLS);
    set(r, VMCS_EXCEPTION_BITMAP, BIT(EXC_DB));
    rig_w(r, VMCS_GUEST_DR7, 0x400 | 2 | 0xf0000); /* DR0: reads and writes of 4 bytes */
    r->c->dr[0] = 0x600008;
    r->c->gpr[GPR_RAX] = 0;
    rig_store(r, RIG_EPT_PD + 8 * 3, 0);
    expect_exit(r, VMX_REASON_EPT_VIOLATION);
    expect_field(r, GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
    rig_store(r, RIG_EPT_PD + 8 * 3, 0x600000 | VMX_EPT_LARGE | 7 | VMX_EPT_MEMORY_TYPE(6));
    expect_exit(r, VMX_REASON_EXCEPTION_OR_NMI);
    expect_field(r, EXIT_QUALIFICATION, 1);
    expect_field(r, GUEST_RIP, RIG_CODE + 7);
    rig_w(r, VMCS_EXIT_CONTROLS, rig_r(r, VMCS_EXIT_CONTROLS) | VMX_EXIT_SAVE_DEBUG_CONTROLS);
    rig_store(r, 0x600008, 0x10);
    rig_store(r, RIG_EPT_PD + 8 * 3, 0x600000 | VMX_EPT_LARGE | 1 | VMX_EPT_MEMORY_TYPE(6));
    uint64_t inv[2] = {rig_r(r, VMCS_EPT_POINTER), 0};
    assert_int_equal(vmx_invept(r->c, VMX_INVEPT_SINGLE_CONTEXT, inv), VMX_SUCCEED);
    expect_exit(r, VMX_REASON_EPT_VIOLATION);
    expect_field(r, GUEST_RIP, RIG_CODE + 15);
    expect_field(r, GUEST_PENDING_DEBUG_EXCEPTIONS, 0x1001);
    expect_field(r, GUEST_INTERRUPTIBILITY_STATE, VMX_BLOCKING_BY_MOV_SS);
    rig_store(r, RIG_EPT_PD + 8 * 3, 0x600000 | VMX_EPT_LARGE | 7 | VMX_EPT_MEMORY_TYPE(6));
    expect_exit(r, VMX_REASON_EXCEPTION_OR_NMI);
    expect_field(r, EXIT_QUALIFICATION, 1);
    expect_field(r, GUEST_RIP, RIG_CODE + 22);
    rig_destroy(r);
}

/* Cached translations stay until they are invalidated; VPID keeps them across entries and exits. */
static void test_stale(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    CODE(r, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00, 0x0f, 0xa2, 0xeb, 0xf5);
    rig_store(r, 0x600000, 0x1111);
    rig_store(r, 0x800000, 0x2222);
    expect_exit(r, VMX_REASON_CPUID);
    assert_int_equal(r->c->gpr[GPR_RAX], 0x1111);
    rig_store(r, RIG_EPT_PD + 8 * 3, 0x800000 | VMX_EPT_LARGE | 7 | VMX_EPT_MEMORY_TYPE(6));
    step_over(r);
    expect_exit(r, VMX_REASON_CPUID);
    assert_int_equal(r->c->gpr[GPR_RAX], 0x1111);
    uint64_t inv[2] = {rig_r(r, VMCS_EPT_POINTER), 0};
    assert_int_equal(vmx_invept(r->c, VMX_INVEPT_SINGLE_CONTEXT, inv), VMX_SUCCEED);
    step_over(r);
    expect_exit(r, VMX_REASON_CPUID);
    assert_int_equal(r->c->gpr[GPR_RAX], 0x2222);
    rig_destroy(r);
}

/* "Exit Qualification for EPT Violations", bits 9 to 11: the page as the guest's own tables have it. */
static void test_ept_advanced(void **state)
{
    static const struct {
        uint64_t pde, bits;
    } pages[] = {
        {7, 6}, {5, 2}, {3, 4}, {1, 0}, {7 | BIT(63), 0xe}, {1 | BIT(63), 8}, {1 | 1 << 6, 0},
    };
    static const char *const models[] = {"max", "nehalem"};
    for (unsigned m = 0; m < 2; m++)
        for (unsigned i = 0; i < ARRAY_LEN(pages); i++) {
            struct rig *r = start(models[m], RIG_LONG);
            CODE(r, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00); /* mov eax, [0x600000] */
            rig_store(r, RIG_GUEST_PD + 8 * 3, 0x600000 | 0x80 | pages[i].pde);
            rig_store(r, RIG_EPT_PD + 8 * 3, 0);
            expect_exit(r, VMX_REASON_EPT_VIOLATION);
            expect_field(r, EXIT_QUALIFICATION, 0x181 | (m ? 0 : pages[i].bits << 8));
            rig_destroy(r);
        }
    struct rig *r = start("max", RIG_PROT32); /* no paging */
    CODE(r, 0xa1, 0x00, 0x00, 0x60, 0x00);
    rig_store(r, RIG_EPT_PD + 8 * 3, 0);
    expect_exit(r, VMX_REASON_EPT_VIOLATION);
    expect_field(r, EXIT_QUALIFICATION, 0x781);
    rig_destroy(r);
}

/* Two VMCSs of one VPID whose guests differ in CR0.WP: a translation that one has used gives the other no rights. */
static void test_shared_vpid(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    CODE(r, 0x89, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00, 0xf4); /* mov [0x600000], eax; hlt */
    rig_store(r, RIG_GUEST_PD + 8 * 3, 0x600000 | 0x85);     /* read-only */
    expect_exit(r, VMX_REASON_HLT);
    uint64_t f[F_COUNT];
    memcpy(f, r->x->cur->f, sizeof f);
    assert_int_equal(vmx_vmclear(r->c, RIG_VMCS2), VMX_SUCCEED);
    assert_int_equal(vmx_vmptrld(r->c, RIG_VMCS2), VMX_SUCCEED);
    for (unsigned i = 0; i < F_COUNT; i++)
        if (r->x->caps.field[i] && vmcs_rows[i].type != VMCS_TYPE_READ_ONLY)
            rig_w(r, vmcs_rows[i].encoding, f[i]);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    set(r, VMCS_GUEST_CR0, CR0_WP);
    set(r, VMCS_EXCEPTION_BITMAP, BIT(EXC_PF));
    for (unsigned i = 0; i < 3; i++) { /* back and forth */
        assert_int_equal(vmx_vmptrld(r->c, RIG_VMCS2), VMX_SUCCEED);
        expect_exit(r, VMX_REASON_EXCEPTION_OR_NMI);
        expect_field(r, EXIT_INTERRUPTION_ERROR_CODE, 3);
        assert_int_equal(vmx_vmptrld(r->c, RIG_VMCS), VMX_SUCCEED);
        rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
        expect_exit(r, VMX_REASON_HLT);
    }
    rig_destroy(r);
}

/* "Monitor Trap Flag": before the debug trap of the same instruction, which stays pending; after an event delivered
 * through the IDT, before its handler's first instruction. */
static void test_mtf_order(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    CODE(r, 0x90, 0x90, 0x0f, 0x0b);
    set(r, VMCS_PROC_CONTROLS, VMX_PROC_MONITOR_TRAP_FLAG);
    set(r, VMCS_GUEST_RFLAGS, FLAG_TF);
    expect_exit(r, VMX_REASON_MONITOR_TRAP_FLAG);
    expect_field(r, GUEST_RIP, RIG_CODE + 1);
    expect_field(r, GUEST_PENDING_DEBUG_EXCEPTIONS, VMX_PENDING_DBG_BS);
    /* The pending trap is delivered at the next entry, and that is what the MTF exit follows. */
    expect_exit(r, VMX_REASON_MONITOR_TRAP_FLAG);
    expect_field(r, GUEST_RIP, RIG_HANDLER + 16 * EXC_DB);
    expect_field(r, GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
    /* A fault of the first instruction. */
    clear(r, VMCS_GUEST_RFLAGS, FLAG_TF);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE + 2);
    expect_exit(r, VMX_REASON_MONITOR_TRAP_FLAG);
    expect_field(r, GUEST_RIP, RIG_HANDLER + 16 * EXC_UD);
    /* An NMI, without NMI exiting. */
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    r->c->nmi_blocked = false;
    cpu_attend(r->c, ATT_NMI);
    expect_exit(r, VMX_REASON_MONITOR_TRAP_FLAG);
    expect_field(r, GUEST_RIP, RIG_HANDLER + 16 * EXC_NMI);
    /* INT n is an instruction: after it, in the handler. */
    CODE(r, 0xcd, 0x06);
    rig_w(r, VMCS_GUEST_INTERRUPTIBILITY_STATE, 0);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    expect_exit(r, VMX_REASON_MONITOR_TRAP_FLAG);
    expect_field(r, GUEST_RIP, RIG_HANDLER + 16 * 6);
    rig_destroy(r);
}

/* UMWAIT and TPAUSE: #UD without the control; with it an exit under RDTSC exiting, after the check of CR4.TSD and
 * before that of the operand. */
static void test_user_wait(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    set(r, VMCS_EXCEPTION_BITMAP, BIT(EXC_UD) | BIT(EXC_GP));
    r->c->gpr[GPR_RBX] = 1;
    CODE(r, 0x66, 0x0f, 0xae, 0xf3, 0xf2, 0x0f, 0xae, 0xf3, 0xf4); /* tpause ebx; umwait ebx; hlt */
    expect_exit(r, VMX_REASON_EXCEPTION_OR_NMI);
    expect_field(r, EXIT_INTERRUPTION_INFO, 0x80000306);
    set(r, VMCS_PROC2_CONTROLS, VMX_PROC2_ENABLE_USER_WAIT_AND_PAUSE);
    expect_exit(r, VMX_REASON_HLT);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    set(r, VMCS_PROC_CONTROLS, VMX_PROC_RDTSC_EXITING);
    r->c->gpr[GPR_RBX] = 2; /* reserved: the exit comes first */
    expect_exit(r, VMX_REASON_TPAUSE);
    expect_field(r, EXIT_INSTRUCTION_LENGTH, 4);
    assert_int_equal(rig_r(r, VMCS_EXIT_INSTRUCTION_INFO) & 0x1878, 3 << 3 | 1 << 11);
    step_over(r);
    expect_exit(r, VMX_REASON_UMWAIT);
    clear(r, VMCS_PROC_CONTROLS, VMX_PROC_RDTSC_EXITING);
    expect_exit(r, VMX_REASON_EXCEPTION_OR_NMI);
    expect_field(r, EXIT_INTERRUPTION_INFO, 0x80000b0d);
    rig_destroy(r);
    /* A model without WAITPKG offers no such control. */
    r = start("icelake-server", RIG_LONG);
    set(r, VMCS_PROC2_CONTROLS, VMX_PROC2_ENABLE_USER_WAIT_AND_PAUSE);
    assert_int_equal(rig_enter(r), 1000 + VMX_ERR_ENTRY_INVALID_CONTROLS);
    rig_destroy(r);
}

/* INVVPID, individual-address: that address's translations of that VPID, global ones and those of every PCID and
 * EPTP included; no other's. */
static void test_invvpid_address(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    /* mov eax, [0x600000]; mov ebx, [0x800000]; cpuid */
    CODE(r, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00, 0x8b, 0x1c, 0x25, 0x00, 0x00, 0x80, 0x00, 0x0f, 0xa2);
    rig_store(r, 0x600000, 0x1111);
    rig_store(r, 0x800000, 0x2222);
    rig_store(r, 0xa00000, 0x3333);
    rig_store(r, RIG_GUEST_PD + 8 * 3, 0x600000 | 0x187);
    set(r, VMCS_GUEST_CR4, CR4_PGE | CR4_PCIDE);
    expect_exit(r, VMX_REASON_CPUID);
    rig_store(r, RIG_GUEST_PD + 8 * 3, 0xa00000 | 0x187);
    rig_store(r, RIG_GUEST_PD + 8 * 4, 0xa00000 | 0x187);
    uint64_t inv[2] = {2, 0x600000}; /* another VPID */
    assert_int_equal(vmx_invvpid(r->c, VMX_INVVPID_ADDRESS, inv), VMX_SUCCEED);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    expect_exit(r, VMX_REASON_CPUID);
    assert_int_equal(r->c->gpr[GPR_RAX], 0x1111);
    rig_w(r, VMCS_GUEST_CR3, RIG_GUEST_PML4 | 5); /* another PCID runs meanwhile */
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE + 14);
    expect_exit(r, VMX_REASON_CPUID);
    inv[0] = 1;
    assert_int_equal(vmx_invvpid(r->c, VMX_INVVPID_ADDRESS, inv), VMX_SUCCEED);
    rig_w(r, VMCS_GUEST_CR3, RIG_GUEST_PML4);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    expect_exit(r, VMX_REASON_CPUID);
    assert_int_equal(r->c->gpr[GPR_RAX], 0x3333);
    assert_int_equal(r->c->gpr[GPR_RBX], 0x2222); /* stays */
    inv[1] = 0x8000000000000;
    assert_int_equal(vmx_invvpid(r->c, VMX_INVVPID_ADDRESS, inv), VMX_FAIL_VALID);
    rig_destroy(r);
}

/* "Operations that Invalidate Cached Mappings": INVLPG and MOV to CR3 in a guest, "for combined mappings, all
 * EPTRTAs". */
static void test_invlpg_eptps(void **state)
{
    static const uint8_t invlpg[] = {0x0f, 0x01, 0x3c, 0x25, 0, 0, 0x60, 0, 0x0f, 0xa2};
    static const uint8_t mov_cr3[] = {0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8, 0x0f, 0xa2};
    for (unsigned i = 0; i < 2; i++) {
        struct rig *r = start("max", RIG_LONG);
        uint64_t eptp = rig_r(r, VMCS_EPT_POINTER);
        CODE(r, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00, 0x0f, 0xa2);
        i ? rig_bytes(r, RIG_CODE + 32, mov_cr3, sizeof mov_cr3) : rig_bytes(r, RIG_CODE + 32, invlpg, sizeof invlpg);
        clear(r, VMCS_PROC_CONTROLS, VMX_PROC_CR3_LOAD_EXITING | VMX_PROC_CR3_STORE_EXITING);
        rig_store(r, 0x600000, 0x1111);
        rig_store(r, 0xa00000, 0x3333);
        expect_exit(r, VMX_REASON_CPUID);
        assert_int_equal(r->c->gpr[GPR_RAX], 0x1111);
        rig_store(r, RIG_GUEST_PD + 8 * 3, 0xa00000 | 0x87);
        rig_w(r, VMCS_GUEST_RIP, RIG_CODE + 32);
        rig_w(r, VMCS_EPT_POINTER, eptp | VMX_EPTP_ACCESSED_DIRTY); /* another EPTP */
        expect_exit(r, VMX_REASON_CPUID);
        rig_w(r, VMCS_EPT_POINTER, eptp);
        rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
        expect_exit(r, VMX_REASON_CPUID);
        assert_int_equal(r->c->gpr[GPR_RAX], 0x3333);
        rig_destroy(r);
    }
}

/* PKRS, which VM entry loads: rights by the old value are gone. */
static void test_loaded_pkrs(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    CODE(r, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00, 0x0f, 0xa2);
    rig_store(r, RIG_GUEST_PML4, RIG_GUEST_PDPT | 3);
    rig_store(r, RIG_GUEST_PD + 8 * 3, 0x600000 | 0xe3 | 1ull << 59);
    set(r, VMCS_EXCEPTION_BITMAP, BIT(EXC_PF));
    set(r, VMCS_GUEST_CR4, CR4_PKS);
    set(r, VMCS_ENTRY_CONTROLS, VMX_ENTRY_LOAD_PKRS);
    expect_exit(r, VMX_REASON_CPUID);
    rig_w(r, VMCS_GUEST_PKRS, 4);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    expect_exit(r, VMX_REASON_EXCEPTION_OR_NMI);
    expect_field(r, EXIT_INTERRUPTION_ERROR_CODE, 0x21);
    rig_destroy(r);
}

/* Mode-based execute control, which another VMCS with the same VPID and EPTP has not. */
static void test_shared_mbec(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    CODE(r, 0x0f, 0xa2);
    rig_store(r, RIG_EPT_PD, VMX_EPT_LARGE | VMX_EPT_MEMORY_TYPE(6) | 3 | VMX_EPT_EXECUTE_USER);
    rig_store(r, RIG_EPT_PML4, RIG_EPT_PDPT | 7 | VMX_EPT_EXECUTE_USER);
    rig_store(r, RIG_EPT_PDPT, RIG_EPT_PD | 7 | VMX_EPT_EXECUTE_USER);
    set(r, VMCS_PROC2_CONTROLS, VMX_PROC2_MODE_BASED_EXECUTE_CONTROL);
    expect_exit(r, VMX_REASON_CPUID); /* a user page */
    clear(r, VMCS_PROC2_CONTROLS, VMX_PROC2_MODE_BASED_EXECUTE_CONTROL);
    expect_exit(r, VMX_REASON_EPT_VIOLATION);
    rig_destroy(r);
}

/* "Event Injection": into the handler, with error code, into real mode, software events. */
static void test_injection(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    CODE(r, 0x90, 0x90, 0xf4);
    uint64_t frame;
    rig_w(r, VMCS_ENTRY_INTERRUPTION_INFO, 0x80000b0e);
    rig_w(r, VMCS_ENTRY_EXCEPTION_ERROR_CODE, 0x1234);
    r->c->cr2 = 0x77;
    expect_exit(r, VMX_REASON_HLT);
    expect_field(r, GUEST_RIP, RIG_HANDLER + 16 * EXC_PF);
    expect_field(r, GUEST_RSP, RIG_STACK - 48);
    expect_field(r, ENTRY_INTERRUPTION_INFO, 0xb0e);
    assert_int_equal(r->c->cr2, 0x77);
    mem_read(r->mem, HPA(RIG_STACK - 48), &frame, 8);
    assert_int_equal(frame, 0x1234);
    mem_read(r->mem, HPA(RIG_STACK - 40), &frame, 8);
    assert_int_equal(frame, RIG_CODE);
    /* Software interrupt: the return address is behind the instruction. */
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    rig_w(r, VMCS_GUEST_RSP, RIG_STACK);
    rig_store(r, RIG_GUEST_IDT + 16 * 0x40,
              0x8eull << 40 | 0x08 << 16 | ((RIG_HANDLER + 0x400) & 0xffff) |
                  (uint64_t)((RIG_HANDLER + 0x400) >> 16) << 48);
    rig_w(r, VMCS_ENTRY_INTERRUPTION_INFO, 0x80000440);
    rig_w(r, VMCS_ENTRY_INSTRUCTION_LENGTH, 2);
    expect_exit(r, VMX_REASON_HLT);
    expect_field(r, GUEST_RIP, RIG_HANDLER + 0x400);
    mem_read(r->mem, HPA(RIG_STACK - 40), &frame, 8);
    assert_int_equal(frame, RIG_CODE + 2);
    /* A fault during the delivery: IDT-vectoring information says what was injected. */
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    rig_w(r, VMCS_GUEST_RSP, RIG_STACK);
    rig_w(r, VMCS_GUEST_IDTR_LIMIT, 0x0ff);
    set(r, VMCS_EXCEPTION_BITMAP, BIT(EXC_GP));
    rig_w(r, VMCS_ENTRY_INTERRUPTION_INFO, 0x80000440);
    expect_exit(r, VMX_REASON_EXCEPTION_OR_NMI);
    expect_field(r, EXIT_INTERRUPTION_INFO, 0x80000b0d);
    expect_field(r, EXIT_INTERRUPTION_ERROR_CODE, 0x40 * 8 + 2);
    expect_field(r, IDT_VECTORING_INFO, 0x80000440);
    expect_field(r, EXIT_INSTRUCTION_LENGTH, 2);
    expect_field(r, GUEST_RIP, RIG_CODE);
    rig_destroy(r);

    r = start("max", RIG_REAL);
    CODE(r, 0xf4);
    uint32_t vector = 0x3000 << 16 | 0x1000; /* 3000:1000 */
    rig_bytes(r, 0x20 * 4, &vector, 4);
    rig_bytes(r, RIG_HANDLER, "\xf4", 1);
    set(r, VMCS_GUEST_RFLAGS, FLAG_IF);
    rig_w(r, VMCS_ENTRY_INTERRUPTION_INFO, 0x80000020);
    expect_exit(r, VMX_REASON_HLT);
    expect_field(r, GUEST_RIP, 0x1000);
    expect_field(r, GUEST_CS_BASE, 0x30000);
    assert_false(rig_r(r, VMCS_GUEST_RFLAGS) & FLAG_IF);
    rig_destroy(r);
}

/* Interrupt and NMI windows, external interrupts, NMIs, virtual NMIs, blocking by STI. */
static void test_windows(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    CODE(r, 0x90, 0xfb, 0x90, 0x90, 0xf4); /* nop; sti; nop; nop; hlt */
    set(r, VMCS_PROC_CONTROLS, VMX_PROC_INTERRUPT_WINDOW_EXITING);
    expect_exit(r, VMX_REASON_INTERRUPT_WINDOW);
    expect_field(r, GUEST_RIP, RIG_CODE + 3); /* after STI's shadow */
    expect_field(r, GUEST_INTERRUPTIBILITY_STATE, 0);
    expect_exit(r, VMX_REASON_INTERRUPT_WINDOW); /* at once, no instruction between */
    expect_field(r, GUEST_RIP, RIG_CODE + 3);
    rig_w(r, VMCS_GUEST_INTERRUPTIBILITY_STATE, VMX_BLOCKING_BY_STI);
    expect_exit(r, VMX_REASON_INTERRUPT_WINDOW);
    expect_field(r, GUEST_RIP, RIG_CODE + 4);
    rig_destroy(r);

    r = start("max", RIG_LONG);
    CODE(r, 0x90, 0xf4, 0x48, 0xcf); /* nop; hlt; iretq */
    set(r, VMCS_PIN_CONTROLS, VMX_PIN_NMI_EXITING | VMX_PIN_VIRTUAL_NMIS);
    set(r, VMCS_PROC_CONTROLS, VMX_PROC_NMI_WINDOW_EXITING);
    expect_exit(r, VMX_REASON_NMI_WINDOW);
    expect_field(r, GUEST_RIP, RIG_CODE);
    rig_w(r, VMCS_ENTRY_INTERRUPTION_INFO, 0x80000202);
    expect_exit(r, VMX_REASON_HLT); /* the NMI blocks the window */
    expect_field(r, GUEST_RIP, RIG_HANDLER + 32);
    expect_field(r, GUEST_INTERRUPTIBILITY_STATE, VMX_BLOCKING_BY_NMI);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE + 2);
    expect_exit(r, VMX_REASON_NMI_WINDOW); /* IRET ends it */
    expect_field(r, GUEST_RIP, RIG_CODE);
    expect_field(r, GUEST_INTERRUPTIBILITY_STATE, 0);
    /* A physical NMI. */
    clear(r, VMCS_PROC_CONTROLS, VMX_PROC_NMI_WINDOW_EXITING);
    cpu_attend(r->c, ATT_NMI);
    expect_exit(r, VMX_REASON_EXCEPTION_OR_NMI);
    expect_field(r, EXIT_INTERRUPTION_INFO, 0x80000202);
    assert_true(r->c->nmi_blocked);
    rig_destroy(r);
}

static int pending_vector;
static int apic_pending(void *apic)
{
    return pending_vector;
}
static int apic_ack(void *apic)
{
    int v = pending_vector;
    pending_vector = -1;
    return v;
}
static void test_interrupts(void **state)
{
    static const struct cpu_apic_ops apic = {.pending = apic_pending, .ack = apic_ack};
    struct rig *r = start("max", RIG_LONG);
    r->c->apic_ops = &apic;
    CODE(r, 0x90, 0xeb, 0xfd); /* nop; jmp back */
    set(r, VMCS_PIN_CONTROLS, VMX_PIN_EXTERNAL_INTERRUPT_EXITING);
    pending_vector = 0x51;
    cpu_attend(r->c, ATT_INTR);
    expect_exit(r, VMX_REASON_EXTERNAL_INTERRUPT); /* whatever RFLAGS.IF is; not acknowledged */
    expect_field(r, EXIT_INTERRUPTION_INFO, 0);
    assert_int_equal(pending_vector, 0x51);
    set(r, VMCS_EXIT_CONTROLS, VMX_EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT);
    expect_exit(r, VMX_REASON_EXTERNAL_INTERRUPT);
    expect_field(r, EXIT_INTERRUPTION_INFO, 0x80000051);
    assert_int_equal(pending_vector, -1);
    /* Not exiting: into the guest, when its IF allows. */
    clear(r, VMCS_PIN_CONTROLS, VMX_PIN_EXTERNAL_INTERRUPT_EXITING);
    set(r, VMCS_GUEST_RFLAGS, FLAG_IF);
    pending_vector = 0x52;
    rig_bytes(r, RIG_HANDLER + 16 * 0x52, "\xf4", 1);
    cpu_attend(r->c, ATT_INTR);
    expect_exit(r, VMX_REASON_HLT);
    expect_field(r, GUEST_RIP, RIG_HANDLER + 16 * 0x52);
    rig_destroy(r);
}

/* The preemption timer, the monitor trap flag, activity states. */
static void test_timer_mtf_activity(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    CODE(r, 0xeb, 0xfe);
    set(r, VMCS_PIN_CONTROLS, VMX_PIN_ACTIVATE_PREEMPTION_TIMER);
    rig_w(r, VMCS_PREEMPTION_TIMER_VALUE, 10);
    uint64_t before = cpu_tsc(r->c);
    expect_exit(r, VMX_REASON_PREEMPTION_TIMER_EXPIRED);
    uint64_t took = cpu_tsc(r->c) - before;
    assert_true(took >= 9 * 32 && took <= 11 * 32 + 192);
    rig_w(r, VMCS_PREEMPTION_TIMER_VALUE, 0);
    before = r->c->icount;
    expect_exit(r, VMX_REASON_PREEMPTION_TIMER_EXPIRED); /* before any instruction */
    assert_int_equal(r->c->icount, before);
    /* Saved at an exit. */
    set(r, VMCS_EXIT_CONTROLS, VMX_EXIT_SAVE_PREEMPTION_TIMER_VALUE);
    CODE(r, 0x90, 0x0f, 0xa2);
    rig_w(r, VMCS_PREEMPTION_TIMER_VALUE, 1000);
    expect_exit(r, VMX_REASON_CPUID);
    assert_true(rig_r(r, VMCS_PREEMPTION_TIMER_VALUE) <= 996 && rig_r(r, VMCS_PREEMPTION_TIMER_VALUE) >= 994);
    /* HLT activity state: woken by the timer. */
    rig_w(r, VMCS_GUEST_ACTIVITY_STATE, VMX_ACTIVITY_HLT);
    expect_exit(r, VMX_REASON_PREEMPTION_TIMER_EXPIRED);
    expect_field(r, GUEST_ACTIVITY_STATE, VMX_ACTIVITY_HLT);
    expect_field(r, GUEST_RIP, RIG_CODE + 1);
    clear(r, VMCS_EXIT_CONTROLS, VMX_EXIT_SAVE_PREEMPTION_TIMER_VALUE);
    clear(r, VMCS_PIN_CONTROLS, VMX_PIN_ACTIVATE_PREEMPTION_TIMER);
    /* HLT activity state with an injected interrupt: active afterwards. */
    set(r, VMCS_GUEST_RFLAGS, FLAG_IF);
    rig_bytes(r, RIG_HANDLER + 16 * 0x21, "\x0f\xa2", 2);
    rig_w(r, VMCS_ENTRY_INTERRUPTION_INFO, 0x80000021);
    expect_exit(r, VMX_REASON_CPUID);
    expect_field(r, GUEST_ACTIVITY_STATE, VMX_ACTIVITY_ACTIVE);
    /* Shutdown: the timer runs, an NMI comes through. */
    set(r, VMCS_PIN_CONTROLS, VMX_PIN_ACTIVATE_PREEMPTION_TIMER | VMX_PIN_NMI_EXITING);
    rig_w(r, VMCS_GUEST_ACTIVITY_STATE, VMX_ACTIVITY_SHUTDOWN);
    rig_w(r, VMCS_PREEMPTION_TIMER_VALUE, 100);
    expect_exit(r, VMX_REASON_PREEMPTION_TIMER_EXPIRED);
    expect_field(r, GUEST_ACTIVITY_STATE, VMX_ACTIVITY_SHUTDOWN);
    cpu_attend(r->c, ATT_NMI);
    expect_exit(r, VMX_REASON_EXCEPTION_OR_NMI);
    clear(r, VMCS_PIN_CONTROLS, VMX_PIN_ACTIVATE_PREEMPTION_TIMER | VMX_PIN_NMI_EXITING);
    /* Wait-for-SIPI. */
    rig_w(r, VMCS_GUEST_ACTIVITY_STATE, VMX_ACTIVITY_WAIT_SIPI);
    r->c->sipi_vector = 0x9a;
    cpu_attend(r->c, ATT_SIPI);
    expect_exit(r, VMX_REASON_STARTUP_IPI);
    expect_field(r, EXIT_QUALIFICATION, 0x9a);
    rig_w(r, VMCS_GUEST_ACTIVITY_STATE, VMX_ACTIVITY_ACTIVE);
    /* Monitor trap flag: after each instruction, and after an injected event before the handler's first. */
    CODE(r, 0x90, 0x90, 0xf4);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    set(r, VMCS_PROC_CONTROLS, VMX_PROC_MONITOR_TRAP_FLAG);
    expect_exit(r, VMX_REASON_MONITOR_TRAP_FLAG);
    expect_field(r, GUEST_RIP, RIG_CODE + 1);
    expect_exit(r, VMX_REASON_MONITOR_TRAP_FLAG);
    expect_field(r, GUEST_RIP, RIG_CODE + 2);
    expect_exit(r, VMX_REASON_HLT);
    rig_w(r, VMCS_GUEST_RSP, RIG_STACK);
    rig_w(r, VMCS_ENTRY_INTERRUPTION_INFO, 0x80000306);
    expect_exit(r, VMX_REASON_MONITOR_TRAP_FLAG);
    expect_field(r, GUEST_RIP, RIG_HANDLER + 16 * EXC_UD);
    /* Injection of a pending MTF VM exit, without the control. */
    clear(r, VMCS_PROC_CONTROLS, VMX_PROC_MONITOR_TRAP_FLAG);
    rig_w(r, VMCS_ENTRY_INTERRUPTION_INFO, 0x80000700);
    expect_exit(r, VMX_REASON_MONITOR_TRAP_FLAG);
    expect_field(r, GUEST_RIP, RIG_HANDLER + 16 * EXC_UD);
    /* INIT. */
    cpu_attend(r->c, ATT_INIT);
    expect_exit(r, VMX_REASON_INIT_SIGNAL);
    rig_destroy(r);
}

/* MSR areas, and their failures. */
static void test_msr_areas(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    struct vmx_msr_entry e[3] = {{.index = 0xc0000081, .value = 0x1111},
                                 {.index = 0x174, .value = 0x22},
                                 {.index = 0xc0000102, .value = 0x3333}};
    CODE(r, 0x0f, 0xa2);
    rig_bytes(r, RIG_MSRAREA, e, sizeof e);
    rig_bytes(r, RIG_MSRAREA + 0x100, e, sizeof e);
    struct vmx_msr_entry host[1] = {{.index = 0xc0000081, .value = 0x9999}};
    rig_bytes(r, RIG_MSRAREA + 0x200, host, sizeof host);
    rig_w(r, VMCS_ENTRY_MSR_LOAD_ADDRESS, RIG_MSRAREA);
    rig_w(r, VMCS_ENTRY_MSR_LOAD_COUNT, 3);
    rig_w(r, VMCS_EXIT_MSR_STORE_ADDRESS, RIG_MSRAREA + 0x100);
    rig_w(r, VMCS_EXIT_MSR_STORE_COUNT, 3);
    rig_w(r, VMCS_EXIT_MSR_LOAD_ADDRESS, RIG_MSRAREA + 0x200);
    rig_w(r, VMCS_EXIT_MSR_LOAD_COUNT, 1);
    e[0].value = 0;
    rig_bytes(r, RIG_MSRAREA + 0x100, e, sizeof e);
    expect_exit(r, VMX_REASON_CPUID);
    mem_read(r->mem, HPA(RIG_MSRAREA + 0x100), e, sizeof e);
    assert_int_equal(e[0].value, 0x1111);
    assert_int_equal(e[2].value, 0x3333);
    assert_int_equal(r->c->msr.star, 0x9999);
    expect_field(r, GUEST_SYSENTER_CS, 0x22);
    /* The TSC is stored without the guest's offset. */
    struct vmx_msr_entry tsc = {.index = 0x10};
    rig_bytes(r, RIG_MSRAREA + 0x100, &tsc, sizeof tsc);
    rig_w(r, VMCS_EXIT_MSR_STORE_COUNT, 1);
    set(r, VMCS_PROC_CONTROLS, VMX_PROC_USE_TSC_OFFSETTING);
    rig_w(r, VMCS_TSC_OFFSET, BIT(40));
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    expect_exit(r, VMX_REASON_CPUID);
    mem_read(r->mem, HPA(RIG_MSRAREA + 0x100), &tsc, sizeof tsc);
    assert_true(tsc.value && tsc.value <= cpu_tsc(r->c));
    /* The second entry is bad: exit 34, qualification 2. */
    uint32_t bad = 0xc0000100;
    rig_bytes(r, RIG_MSRAREA + 16, &bad, 4);
    assert_int_equal(rig_enter(r), VMX_REASON_ENTRY_FAILURE_MSR_LOADING | VMX_REASON_ENTRY_FAILURE);
    expect_field(r, EXIT_QUALIFICATION, 2);
    rig_destroy(r);
}

/* What the guest changed is in the VMCS; TSC offset; a guest that turns paging on. */
static void test_state(void **state)
{
    struct rig *r = start("max", RIG_PROT32);
    /* mov eax, PD32; mov cr3, eax; mov eax, cr4; or al, 0x10; mov cr4, eax; mov eax, cr0; or eax, 0x80000000; mov cr0,
     * eax; hlt */
    CODE(r, 0xb8, 0x00, 0x40, 0x01, 0x00, 0x0f, 0x22, 0xd8, 0x0f, 0x20, 0xe0, 0x0c, 0x10, 0x0f, 0x22, 0xe0, 0x0f, 0x20,
         0xc0, 0x0d, 0, 0, 0, 0x80, 0x0f, 0x22, 0xc0, 0xf4);
    expect_exit(r, VMX_REASON_HLT);
    expect_field(r, GUEST_CR3, RIG_GUEST_PD32);
    assert_true(rig_r(r, VMCS_GUEST_CR0) & CR0_PG);
    assert_true(rig_r(r, VMCS_GUEST_CR4) & CR4_PSE);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE + 0x1b);
    expect_exit(r, VMX_REASON_HLT);
    rig_destroy(r);

    r = start("max", RIG_LONG);
    CODE(r, 0x0f, 0x31, 0xf4);
    set(r, VMCS_PROC_CONTROLS, VMX_PROC_USE_TSC_OFFSETTING);
    set(r, VMCS_PROC2_CONTROLS, VMX_PROC2_USE_TSC_SCALING);
    rig_w(r, VMCS_TSC_OFFSET, 0x100000000000);
    rig_w(r, VMCS_TSC_MULTIPLIER, 2ull << 48);
    uint64_t now = cpu_tsc(r->c);
    expect_exit(r, VMX_REASON_HLT);
    uint64_t tsc = r->c->gpr[GPR_RAX] | r->c->gpr[GPR_RDX] << 32;
    assert_true(tsc >= 0x100000000000 + 2 * now && tsc <= 0x100000000000 + 2 * now + 100);
    rig_destroy(r);

    /* A real-mode guest into long mode: "IA-32e mode guest" follows. */
    r = start("max", RIG_PROT32);
    static const uint8_t go64[] = {
        0xb8, 0x00, 0x20, 0x01, 0x00, 0x0f, 0x22, 0xd8,                                     /* mov cr3, GUEST_PML4 */
        0x0f, 0x20, 0xe0, 0x0c, 0x20, 0x0f, 0x22, 0xe0,                                     /* cr4 |= PAE */
        0xb9, 0x80, 0x00, 0x00, 0xc0, 0x0f, 0x32, 0x0d, 0x00, 0x01, 0x00, 0x00, 0x0f, 0x30, /* EFER.LME */
        0x0f, 0x20, 0xc0, 0x0d, 0,    0,    0,    0x80, 0x0f, 0x22, 0xc0,                   /* cr0 |= PG */
        0xea, 0x00, 0x08, 0x03, 0x00, 0x08, 0x00, /* jmp far 8:RIG_CODE+0x800 */
    };
    rig_bytes(r, RIG_CODE, go64, sizeof go64);
    rig_bytes(r, RIG_CODE + 0x800, "\x48\xb8\x88\x77\x66\x55\x44\x33\x22\x11\xf4", 11);
    set(r, VMCS_PROC_CONTROLS, VMX_PROC_USE_MSR_BITMAPS);
    rig_w(r, VMCS_MSR_BITMAPS, RIG_MSRBITMAP);
    expect_exit(r, VMX_REASON_HLT);
    assert_true(r->c->gpr[GPR_RAX] == 0x1122334455667788);
    assert_true(rig_r(r, VMCS_ENTRY_CONTROLS) & VMX_ENTRY_IA32E_MODE_GUEST);
    expect_field(r, GUEST_EFER, EFER_LME | EFER_LMA);
    expect_field(r, GUEST_CS_SELECTOR, 8);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE + 0x800);
    expect_exit(r, VMX_REASON_HLT);
    rig_destroy(r);
}

/* "Monitor Trap Flag": before a debug trap; behind the delivery of an event; one iteration of a repeated instruction;
 * from the HLT state; not in the shutdown state. */
static void test_mtf(void **state)
{
    static const struct cpu_apic_ops apic = {.pending = apic_pending, .ack = apic_ack};
    struct rig *r = start("max", RIG_LONG);
    CODE(r, 0x90, 0x90, 0xf4);
    set(r, VMCS_PROC_CONTROLS, VMX_PROC_MONITOR_TRAP_FLAG);
    /* A single-step trap of the same instruction: the exit comes first and saves it as pending. */
    set(r, VMCS_GUEST_RFLAGS, FLAG_TF);
    expect_exit(r, VMX_REASON_MONITOR_TRAP_FLAG);
    expect_field(r, GUEST_RIP, RIG_CODE + 1);
    expect_field(r, GUEST_PENDING_DEBUG_EXCEPTIONS, VMX_PENDING_DBG_BS);
    assert_int_equal(r->c->dr[6] & VMX_PENDING_DBG_BS, 0);
    /* It is delivered at the next entry, and a boundary is behind its delivery. */
    expect_exit(r, VMX_REASON_MONITOR_TRAP_FLAG);
    expect_field(r, GUEST_RIP, RIG_HANDLER + 16 * EXC_DB);
    expect_field(r, GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
    assert_true(r->c->dr[6] & VMX_PENDING_DBG_BS);
    clear(r, VMCS_GUEST_RFLAGS, FLAG_TF);
    /* An external interrupt that the guest takes. */
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    set(r, VMCS_GUEST_RFLAGS, FLAG_IF);
    r->c->apic_ops = &apic;
    pending_vector = 0x41;
    cpu_attend(r->c, ATT_INTR);
    expect_exit(r, VMX_REASON_MONITOR_TRAP_FLAG);
    expect_field(r, GUEST_RIP, RIG_HANDLER + 16 * 0x41);
    r->c->apic_ops = NULL;
    /* An NMI; here out of the HLT state. */
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    rig_w(r, VMCS_GUEST_RFLAGS, 2);
    rig_w(r, VMCS_GUEST_ACTIVITY_STATE, VMX_ACTIVITY_HLT);
    cpu_attend(r->c, ATT_NMI);
    expect_exit(r, VMX_REASON_MONITOR_TRAP_FLAG);
    expect_field(r, GUEST_RIP, RIG_HANDLER + 16 * EXC_NMI);
    expect_field(r, GUEST_ACTIVITY_STATE, VMX_ACTIVITY_ACTIVE);
    /* The same out of the shutdown state, where no MTF exit happens: not even an injected one. */
    rig_w(r, VMCS_GUEST_INTERRUPTIBILITY_STATE, 0);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    rig_w(r, VMCS_GUEST_ACTIVITY_STATE, VMX_ACTIVITY_SHUTDOWN);
    rig_w(r, VMCS_ENTRY_INTERRUPTION_INFO, 0);
    cpu_attend(r->c, ATT_NMI);
    expect_exit(r, VMX_REASON_MONITOR_TRAP_FLAG);
    expect_field(r, GUEST_RIP, RIG_HANDLER + 16 * EXC_NMI);
    rig_w(r, VMCS_GUEST_INTERRUPTIBILITY_STATE, 0);
    /* A fault, INT n, INT3: behind the delivery. */
    static const struct {
        uint8_t code[2];
        unsigned vector;
    } faults[] = {{{0x0f, 0x0b}, EXC_UD}, {{0xcd, 0x42}, 0x42}, {{0xcc}, EXC_BP}};
    for (unsigned i = 0; i < ARRAY_LEN(faults); i++) {
        rig_bytes(r, RIG_CODE, faults[i].code, 2);
        rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
        expect_exit(r, VMX_REASON_MONITOR_TRAP_FLAG);
        expect_field(r, GUEST_RIP, RIG_HANDLER + 16 * faults[i].vector);
    }
    /* REP STOSB: one iteration. */
    CODE(r, 0xf3, 0xaa, 0xf4);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    r->c->gpr[GPR_RCX] = 3;
    r->c->gpr[GPR_RDI] = 0x600000;
    expect_exit(r, VMX_REASON_MONITOR_TRAP_FLAG);
    expect_field(r, GUEST_RIP, RIG_CODE);
    assert_int_equal(r->c->gpr[GPR_RCX], 2);
    /* HLT: from the HLT state. */
    clear(r, VMCS_PROC_CONTROLS, VMX_PROC_HLT_EXITING);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE + 2);
    expect_exit(r, VMX_REASON_MONITOR_TRAP_FLAG);
    expect_field(r, GUEST_RIP, RIG_CODE + 3);
    expect_field(r, GUEST_ACTIVITY_STATE, VMX_ACTIVITY_HLT);
    /* INIT comes before a pending MTF exit. */
    rig_w(r, VMCS_ENTRY_INTERRUPTION_INFO, 0x80000700);
    cpu_attend(r->c, ATT_INIT);
    expect_exit(r, VMX_REASON_INIT_SIGNAL);
    rig_destroy(r);
}

/* "APIC-Write Emulation": before SMIs and INIT. */
static void test_apic_write_first(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    CODE(r, 0xb8, 2, 0, 0, 0, 0x44, 0x0f, 0x22, 0xc0, 0x90, 0xf4);
    set(r, VMCS_PROC_CONTROLS, VMX_PROC_USE_TPR_SHADOW);
    set(r, VMCS_PROC2_CONTROLS, VMX_PROC2_VIRTUALIZE_APIC_ACCESSES);
    rig_w(r, VMCS_APIC_ACCESS_ADDRESS, 0x600000);
    rig_w(r, VMCS_VIRTUAL_APIC_ADDRESS, RIG_VAPIC);
    rig_w(r, VMCS_TPR_THRESHOLD, 4);
    cpu_attend(r->c, ATT_INIT);
    expect_exit(r, VMX_REASON_TPR_BELOW_THRESHOLD); /* induced by the entry */
    rig_w(r, VMCS_TPR_THRESHOLD, 0);
    expect_exit(r, VMX_REASON_INIT_SIGNAL); /* still pending */
    rig_w(r, VMCS_TPR_THRESHOLD, 4);
    rig_w(r, VMCS_GUEST_ACTIVITY_STATE, VMX_ACTIVITY_SHUTDOWN); /* none induced there */
    cpu_attend(r->c, ATT_INIT);
    expect_exit(r, VMX_REASON_INIT_SIGNAL);
    rig_destroy(r);
}

/* TPR shadow. */
static void test_tpr(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    /* mov eax, 5; mov cr8, rax; mov rbx, cr8; mov eax, 2; mov cr8, rax; nop; hlt */
    CODE(r, 0xb8, 5, 0, 0, 0, 0x44, 0x0f, 0x22, 0xc0, 0x44, 0x0f, 0x20, 0xc3, 0xb8, 2, 0, 0, 0, 0x44, 0x0f, 0x22, 0xc0,
         0x90, 0xf4);
    set(r, VMCS_PROC_CONTROLS, VMX_PROC_USE_TPR_SHADOW);
    rig_w(r, VMCS_VIRTUAL_APIC_ADDRESS, RIG_VAPIC);
    rig_w(r, VMCS_TPR_THRESHOLD, 4);
    rig_bytes(r, RIG_VAPIC + 0x80, "\x40", 1);
    expect_exit(r, VMX_REASON_TPR_BELOW_THRESHOLD);
    assert_int_equal(r->c->gpr[GPR_RBX], 5);
    expect_field(r, GUEST_RIP, RIG_CODE + 22);
    uint8_t vtpr;
    mem_read(r->mem, HPA(RIG_VAPIC + 0x80), &vtpr, 1);
    assert_int_equal(vtpr, 0x20);
    assert_int_equal(rig_enter(r), 1000 + VMX_ERR_ENTRY_INVALID_CONTROLS); /* threshold above VTPR */
    rig_w(r, VMCS_TPR_THRESHOLD, 0);
    expect_exit(r, VMX_REASON_HLT);
    /* CR8 exiting goes first. */
    set(r, VMCS_PROC_CONTROLS, VMX_PROC_CR8_LOAD_EXITING | VMX_PROC_CR8_STORE_EXITING);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    expect_exit(r, VMX_REASON_CONTROL_REGISTER_ACCESS);
    expect_field(r, EXIT_QUALIFICATION, 8);
    step_over(r);
    expect_exit(r, VMX_REASON_CONTROL_REGISTER_ACCESS);
    expect_field(r, EXIT_QUALIFICATION, 0x318);
    rig_destroy(r);
}

/* A 32-bit host would need a 32-bit VMXON; here: task switches of a 32-bit guest. */
static void test_task_switch(void **state)
{
    struct rig *r = start("max", RIG_PROT32);
    rig_store(r, RIG_GUEST_GDT + 0x38, 0x0000890000000067 | (uint64_t)0x3000 << 16 | 2ull << 32);
    CODE(r, 0x9a, 0, 0, 0, 0, 0x38, 0, 0xf4);
    expect_exit(r, VMX_REASON_TASK_SWITCH);
    expect_field(r, EXIT_QUALIFICATION, 0x38);
    expect_field(r, EXIT_INSTRUCTION_LENGTH, 7);
    expect_field(r, GUEST_RIP, RIG_CODE);
    CODE(r, 0xea, 0, 0, 0, 0, 0x38, 0, 0xf4);
    expect_exit(r, VMX_REASON_TASK_SWITCH);
    expect_field(r, EXIT_QUALIFICATION, 0x38 | 2ull << 30);
    rig_store(r, RIG_GUEST_IDT + 8 * EXC_UD, 0x0000850000380000);
    CODE(r, 0x0f, 0x0b);
    expect_exit(r, VMX_REASON_TASK_SWITCH);
    expect_field(r, EXIT_QUALIFICATION, 0x38 | 3ull << 30);
    expect_field(r, IDT_VECTORING_INFO, 0x80000306);
    rig_destroy(r);
}

/* "Treatment of Task Switches": faults of the new TSS's descriptor come first; TSSs of both sizes. */
static void test_task_switch_checks(void **state)
{
#define GPF 0x80000b0du
#define NPF 0x80000b0bu
#define TSF 0x80000b0au
    static const struct {
        uint64_t descriptor; /* base 0x23000 */
        uint32_t info;       /* 0: task switch */
    } cases[] = {
        {0x0000890000000067, 0},   {0x0000890000000066, TSF}, {0x000081000000002b, 0},   {0x000081000000002a, TSF},
        {0x00008b0000000067, GPF}, {0x0000830000000067, GPF}, {0x0000090000000067, NPF}, {0x0000010000000066, NPF},
        {0x00008b0000000066, GPF}, {0x0000820000000067, GPF},
    };
    struct rig *r = start("max", RIG_PROT32);
    CODE(r, 0x9a, 0, 0, 0, 0, 0x38, 0, 0xf4);
    set(r, VMCS_EXCEPTION_BITMAP, BIT(EXC_GP) | BIT(EXC_NP) | BIT(EXC_TS));
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        rig_store(r, RIG_GUEST_GDT + 0x38, cases[i].descriptor | (uint64_t)0x3000 << 16 | 2ull << 32);
        if (!cases[i].info) {
            expect_exit(r, VMX_REASON_TASK_SWITCH);
            expect_field(r, EXIT_QUALIFICATION, 0x38);
            continue;
        }
        expect_exit(r, VMX_REASON_EXCEPTION_OR_NMI);
        expect_field(r, EXIT_INTERRUPTION_INFO, cases[i].info);
        expect_field(r, EXIT_INTERRUPTION_ERROR_CODE, 0x38);
    }
    /* IRET goes back to a busy one. */
    CODE(r, 0xcf);
    set(r, VMCS_GUEST_RFLAGS, FLAG_NT);
    uint16_t link = 0x38;
    rig_bytes(r, RIG_GUEST_TSS, &link, 2);
    rig_store(r, RIG_GUEST_GDT + 0x38, 0x00008b0000000067 | (uint64_t)0x3000 << 16 | 2ull << 32);
    expect_exit(r, VMX_REASON_TASK_SWITCH);
    expect_field(r, EXIT_QUALIFICATION, 0x38 | 1ull << 30);
    rig_store(r, RIG_GUEST_GDT + 0x38, 0x0000890000000067 | (uint64_t)0x3000 << 16 | 2ull << 32);
    expect_exit(r, VMX_REASON_EXCEPTION_OR_NMI);
    expect_field(r, EXIT_INTERRUPTION_INFO, TSF);
    rig_destroy(r);
}

/* "Initializing and Migrating a VMCS": VMCLEAR on one logical processor, VMPTRLD and VMLAUNCH on another. */
static void test_migration(void **state)
{
    struct rig *a = start("max", RIG_LONG), b = {.model = a->model, .mem = a->mem};
    uint32_t revision = VMCS_REVISION;
    enum { VMXON_B = 0x24000 };
    CODE(a, 0x0f, 0xa2, 0xf4);
    rig_bytes(a, VMXON_B, &revision, 4);
    b.c = cpu_create(b.mem, &b.model, 1);
    assert_non_null(b.c);
    b.c->native_host = true;
    assert_true(vmx_attach(b.c));
    b.x = vmx_of(b.c);
    rig_host_state(b.c);
    assert_int_equal(vmx_vmxon(b.c, VMXON_B), VMX_SUCCEED);
    for (unsigned i = 0; i < 3; i++) {
        struct rig *from = i & 1 ? &b : a, *to = i & 1 ? a : &b;
        expect_exit(from, VMX_REASON_CPUID);
        rig_w(from, VMCS_TSC_OFFSET, 0x1234 + i);
        assert_int_equal(vmx_vmclear(from->c, RIG_VMCS), VMX_SUCCEED);
        assert_int_equal(vmx_vmread(from->c, VMCS_TSC_OFFSET, &(uint64_t){0}), VMX_FAIL_INVALID); /* no current VMCS */
        assert_int_equal(vmx_vmptrld(to->c, RIG_VMCS), VMX_SUCCEED);
        expect_field(to, TSC_OFFSET, 0x1234 + i);
        expect_field(to, EXIT_REASON, VMX_REASON_CPUID);
        assert_int_equal(vmx_vmresume(to->c), VMX_FAIL_VALID); /* its launch state is clear */
        expect_field(to, VM_INSTRUCTION_ERROR, VMX_ERR_VMRESUME_NONLAUNCHED);
        rig_w(to, VMCS_GUEST_RIP, RIG_CODE + 2);
        expect_exit(to, VMX_REASON_HLT);
        assert_int_equal(vmx_vmlaunch(to->c), VMX_FAIL_VALID);
        expect_field(to, VM_INSTRUCTION_ERROR, VMX_ERR_VMLAUNCH_NONCLEAR);
        rig_w(to, VMCS_GUEST_RIP, RIG_CODE);
    }
    vmx_detach(b.c);
    cpu_destroy(b.c);
    rig_destroy(a);
}

/* "Other Causes of VM Exits", VMXON, VMXOFF: INIT is blocked in VMX root operation, stays pending, and comes with
 * VMXOFF. */
static void test_init_blocked(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    r->c->native_host = false;
    CODE(r, 0x90, 0x90, 0x90, 0x90, 0xf4);
    r->c->rip = RIG_CODE;
    cpu_attend(r->c, ATT_INIT);
    cpu_step(r->c, false);
    assert_int_equal(r->c->rip, RIG_CODE + 1);
    assert_true(vmx_on(r->c));
    assert_int_equal(vmx_vmxoff(r->c), VMX_SUCCEED);
    cpu_step(r->c, false);
    assert_int_equal(r->c->rip, 0xfff0);
    assert_int_equal(r->c->seg[SEG_CS].base, 0xffff0000);
    rig_destroy(r);
}

/* "VMCS Shadowing": VMREAD and VMWRITE by the bitmaps, of the VMCS that the link pointer names. */
static void test_shadowing(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    uint32_t shadow = VMCS_REVISION | VMX_REGION_SHADOW;
    /* vmread rcx, rax; vmwrite rdx, rbx; pushf; pop rsi; hlt */
    CODE(r, 0x0f, 0x78, 0xc1, 0x0f, 0x79, 0xd3, 0x9c, 0x5e, 0xf4);
    rig_bytes(r, RIG_VMCS2, &shadow, 4);
    assert_int_equal(vmx_vmptrld(r->c, RIG_VMCS2), VMX_SUCCEED);
    rig_w(r, VMCS_GUEST_RIP, 0x1234);
    assert_int_equal(vmx_vmlaunch(r->c), VMX_FAIL_INVALID); /* a shadow VMCS is not entered */
    assert_int_equal(vmx_vmptrld(r->c, RIG_VMCS), VMX_SUCCEED);
    set(r, VMCS_PROC2_CONTROLS, VMX_PROC2_VMCS_SHADOWING);
    rig_w(r, VMCS_VMREAD_BITMAP, RIG_IOBITMAP_A);
    rig_w(r, VMCS_VMWRITE_BITMAP, RIG_IOBITMAP_B);
    rig_w(r, VMCS_VMCS_LINK_POINTER, RIG_VMCS2);
    r->c->gpr[GPR_RAX] = VMCS_GUEST_RIP;
    r->c->gpr[GPR_RDX] = VMCS_GUEST_RSP;
    r->c->gpr[GPR_RBX] = 0x5678;
    expect_exit(r, VMX_REASON_HLT);
    assert_int_equal(r->c->gpr[GPR_RCX], 0x1234);
    assert_int_equal(r->c->gpr[GPR_RSI] & 0x8d5, 0);
    /* A bit of the VMREAD bitmap; an encoding beyond it. */
    rig_bytes(r, RIG_IOBITMAP_A + VMCS_GUEST_RIP / 8, "\x40", 1);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    expect_exit(r, VMX_REASON_VMREAD);
    r->c->gpr[GPR_RDX] = 0x8000;
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE + 3);
    expect_exit(r, VMX_REASON_VMWRITE);
    /* No such field: VMfailValid in the guest. */
    r->c->gpr[GPR_RDX] = 0x7000;
    expect_exit(r, VMX_REASON_HLT);
    assert_int_equal(r->c->gpr[GPR_RSI] & 0x8d5, FLAG_ZF);
    expect_field(r, VM_INSTRUCTION_ERROR, VMX_ERR_UNSUPPORTED_COMPONENT); /* of the current VMCS */
    /* No VMCS: VMfailInvalid. */
    rig_w(r, VMCS_VMCS_LINK_POINTER, UINT64_MAX);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE + 3);
    expect_exit(r, VMX_REASON_HLT);
    assert_int_equal(r->c->gpr[GPR_RSI] & 0x8d5, FLAG_CF);
    assert_int_equal(vmx_vmptrld(r->c, RIG_VMCS2), VMX_SUCCEED);
    expect_field(r, GUEST_RSP, 0x5678);
    rig_destroy(r);
}

/* VMFUNC 0 and its exits; #VE with its area. */
static void test_vmfunc_ve(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    enum { PML4 = 0x24000, PDPT = 0x25000, PD = 0x26000, LIST = 0x27000, AREA = 0x28000 };
    uint8_t zero[4096] = {0};
    rig_bytes(r, LIST, zero, 4096);
    rig_bytes(r, AREA, zero, 4096);
    for (unsigned i = 0; i < 512; i++)
        rig_store(r, PD + 8 * i, (uint64_t)i << 21 | VMX_EPT_MEMORY_TYPE(6) | VMX_EPT_LARGE | 7);
    rig_store(r, PD + 8 * 3, 0x800000 | VMX_EPT_LARGE | 7 | VMX_EPT_MEMORY_TYPE(6)); /* 0x600000 is 0x800000 there */
    rig_store(r, PML4, PDPT | 7);
    rig_store(r, PDPT, PD | 7);
    rig_store(r, LIST, rig_r(r, VMCS_EPT_POINTER));
    rig_store(r, LIST + 8, PML4 | VMX_EPTP_WALK_4 | VMX_EPTP_WB);
    rig_store(r, LIST + 16, PML4 | 1);
    rig_store(r, LIST + 24, PML4 | VMX_EPTP_WALK_5 | VMX_EPTP_WB);
    rig_store(r, 0x600000, 0x1111);
    rig_store(r, 0x800000, 0x2222);
    /* xor eax, eax; vmfunc; mov ebx, [0x600000]; hlt */
    CODE(r, 0x31, 0xc0, 0x0f, 0x01, 0xd4, 0x8b, 0x1c, 0x25, 0, 0, 0x60, 0, 0xf4);
    set(r, VMCS_EXCEPTION_BITMAP, BIT(EXC_UD));
    expect_exit(r, VMX_REASON_EXCEPTION_OR_NMI); /* not enabled: #UD */
    set(r, VMCS_PROC2_CONTROLS, VMX_PROC2_ENABLE_VM_FUNCTIONS | VMX_PROC2_EPT_VIOLATION_VE);
    rig_w(r, VMCS_VE_INFORMATION_ADDRESS, AREA);
    expect_exit(r, VMX_REASON_VMFUNC); /* this function is not */
    expect_field(r, EXIT_INSTRUCTION_LENGTH, 3);
    rig_w(r, VMCS_VM_FUNCTION_CONTROLS, VMX_VMFUNC_EPTP_SWITCHING);
    rig_w(r, VMCS_EPTP_LIST_ADDRESS, LIST);
    r->c->gpr[GPR_RCX] = 2;
    expect_exit(r, VMX_REASON_VMFUNC); /* not an EPTP */
    r->c->gpr[GPR_RCX] = 512;
    expect_exit(r, VMX_REASON_VMFUNC);
    r->c->gpr[GPR_RCX] = 3;
    expect_exit(r, VMX_REASON_VMFUNC); /* of another page-walk length */
    r->c->gpr[GPR_RCX] = 1;
    expect_exit(r, VMX_REASON_HLT);
    assert_int_equal(r->c->gpr[GPR_RBX], 0x2222);
    expect_field(r, EPT_POINTER, PML4 | VMX_EPTP_WALK_4 | VMX_EPTP_WB);
    expect_field(r, EPTP_INDEX, 1);
    /* An EPT violation becomes #VE, once; the area's busy word makes the next one an exit. */
    rig_store(r, PD + 8 * 4, 0);
    rig_store(r, PD + 8 * 5, VMX_EPT_SUPPRESS_VE);
    CODE(r, 0xa2, 0x08, 0, 0x80, 0, 0, 0, 0, 0, 0xf4);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    rig_bytes(r, RIG_HANDLER + 16 * EXC_VE, "\x0f\xa2", 2);
    expect_exit(r, VMX_REASON_CPUID);
    expect_field(r, GUEST_RIP, RIG_HANDLER + 16 * EXC_VE);
    uint64_t area[5];
    mem_read(r->mem, HPA(AREA), area, sizeof area);
    assert_true(area[0] == (VMX_REASON_EPT_VIOLATION | 0xffffffffull << 32));
    assert_int_equal(area[1], 0x782);
    assert_int_equal(area[2], 0x800008);
    assert_int_equal(area[3], 0x800008);
    assert_int_equal(area[4] & 0xffff, 1);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    expect_exit(r, VMX_REASON_EPT_VIOLATION);
    /* Suppressed by the entry. */
    rig_bytes(r, AREA + 4, zero, 4);
    CODE(r, 0xa2, 0x08, 0, 0xa0, 0, 0, 0, 0, 0, 0xf4);
    expect_exit(r, VMX_REASON_EPT_VIOLATION);
    expect_field(r, GUEST_PHYSICAL_ADDRESS, 0xa00008);
    /* By the exception bitmap. */
    rig_store(r, PD + 8 * 5, 0);
    set(r, VMCS_EXCEPTION_BITMAP, BIT(EXC_VE));
    expect_exit(r, VMX_REASON_EXCEPTION_OR_NMI);
    expect_field(r, EXIT_INTERRUPTION_INFO, 0x80000314);
    rig_destroy(r);
}

/* "Page-Modification Logging". */
static void test_pml(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    enum { LOG = 0x24000 };
    uint64_t v;
    /* mov [0x600008], eax; mov [0x600010], eax; mov [0x800000], eax; hlt */
    CODE(r, 0x89, 0x04, 0x25, 0x08, 0, 0x60, 0, 0x89, 0x04, 0x25, 0x10, 0, 0x60, 0, 0x89, 0x04, 0x25, 0, 0, 0x80, 0,
         0xf4);
    set(r, VMCS_PROC2_CONTROLS, VMX_PROC2_ENABLE_PML);
    set(r, VMCS_EPT_POINTER, VMX_EPTP_ACCESSED_DIRTY);
    rig_w(r, VMCS_PML_ADDRESS, LOG);
    rig_w(r, VMCS_GUEST_PML_INDEX, 511);
    /* The guest's paging structures lie in the first 2 MBytes: their page is logged first. */
    expect_exit(r, VMX_REASON_HLT);
    expect_field(r, GUEST_PML_INDEX, 508);
    mem_read(r->mem, HPA(LOG + 8 * 510), &v, 8);
    assert_int_equal(v, 0x600000);
    mem_read(r->mem, HPA(LOG + 8 * 509), &v, 8);
    assert_int_equal(v, 0x800000);
    /* Full: the exit comes before the write. */
    rig_store(r, RIG_EPT_PD + 8 * 3, 0x600000 | VMX_EPT_LARGE | 7 | VMX_EPT_MEMORY_TYPE(6));
    uint64_t inv[2] = {rig_r(r, VMCS_EPT_POINTER), 0};
    assert_int_equal(vmx_invept(r->c, VMX_INVEPT_SINGLE_CONTEXT, inv), VMX_SUCCEED);
    rig_w(r, VMCS_GUEST_PML_INDEX, 0xffff);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    rig_store(r, 0x600008, 0x77);
    expect_exit(r, VMX_REASON_PAGE_MODIFICATION_LOG_FULL);
    expect_field(r, GUEST_RIP, RIG_CODE);
    mem_read(r->mem, HPA(0x600008), &v, 8);
    assert_int_equal(v, 0x77);
    rig_destroy(r);
}

static void test_pause_loop(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    CODE(r, 0xf3, 0x90, 0xeb, 0xfc); /* pause; jmp back */
    set(r, VMCS_PROC2_CONTROLS, VMX_PROC2_PAUSE_LOOP_EXITING);
    rig_w(r, VMCS_PLE_GAP, 10);
    rig_w(r, VMCS_PLE_WINDOW, 1000);
    uint64_t before = cpu_tsc(r->c);
    expect_exit(r, VMX_REASON_PAUSE);
    uint64_t took = cpu_tsc(r->c) - before;
    assert_true(took >= 1000 && took < 1140);
    rig_destroy(r);
}

static void vapic_w(struct rig *r, unsigned offset, uint32_t v)
{
    rig_bytes(r, RIG_VAPIC + offset, &v, 4);
}
static uint32_t vapic_r(struct rig *r, unsigned offset)
{
    uint32_t v;
    mem_read(r->mem, HPA(RIG_VAPIC + offset), &v, 4);
    return v;
}

/* "Virtualizing Memory-Mapped APIC Accesses": what is virtualized, what exits with which qualification. */
static void test_apic_access(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    enum { APIC = 0x600000 };
    /* mov eax, [APIC+0x80]; mov dword [APIC+0x80], 0x30; nop; mov eax, [APIC+0x20]; mov [APIC+0xb0], eax; call APIC */
    CODE(r, 0x8b, 0x04, 0x25, 0x80, 0, 0x60, 0, 0xc7, 0x04, 0x25, 0x80, 0, 0x60, 0, 0x30, 0, 0, 0, 0x90, 0x8b, 0x04,
         0x25, 0x20, 0, 0x60, 0, 0x89, 0x04, 0x25, 0xb0, 0, 0x60, 0, 0xb8, 0, 0, 0x60, 0, 0xff, 0xe0);
    set(r, VMCS_PROC_CONTROLS, VMX_PROC_USE_TPR_SHADOW);
    set(r, VMCS_PROC2_CONTROLS, VMX_PROC2_VIRTUALIZE_APIC_ACCESSES);
    rig_w(r, VMCS_VIRTUAL_APIC_ADDRESS, RIG_VAPIC);
    rig_w(r, VMCS_APIC_ACCESS_ADDRESS, APIC);
    rig_w(r, VMCS_TPR_THRESHOLD, 4);
    vapic_w(r, 0x80, 0x55);
    expect_exit(r, VMX_REASON_TPR_BELOW_THRESHOLD); /* trap-like: after the store */
    assert_int_equal((uint32_t)r->c->gpr[GPR_RAX], 0x55);
    assert_int_equal(vapic_r(r, 0x80), 0x30);
    expect_field(r, GUEST_RIP, RIG_CODE + 18);
    rig_w(r, VMCS_TPR_THRESHOLD, 0);
    expect_exit(r, VMX_REASON_APIC_ACCESS);
    expect_field(r, EXIT_QUALIFICATION, 0x20);
    expect_field(r, GUEST_RIP, RIG_CODE + 19);
    expect_field(r, EXIT_INSTRUCTION_LENGTH, 7);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE + 26);
    expect_exit(r, VMX_REASON_APIC_ACCESS);
    expect_field(r, EXIT_QUALIFICATION, 0xb0 | 1 << 12);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE + 33);
    expect_exit(r, VMX_REASON_APIC_ACCESS);
    expect_field(r, EXIT_QUALIFICATION, 2 << 12);
    /* The registers are virtualized: reads come from the page, a write of one that has no emulation is an APIC-write
     * exit. */
    set(r, VMCS_PROC2_CONTROLS, VMX_PROC2_APIC_REGISTER_VIRTUALIZATION);
    vapic_w(r, 0x20, 0x07000000);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE + 19);
    expect_exit(r, VMX_REASON_APIC_WRITE);
    expect_field(r, EXIT_QUALIFICATION, 0xb0);
    expect_field(r, GUEST_RIP, RIG_CODE + 33);
    assert_int_equal((uint32_t)r->c->gpr[GPR_RAX], 0x07000000);
    assert_int_equal(vapic_r(r, 0xb0), 0x07000000); /* cleared by EOI virtualization alone */
    /* A threshold above VTPR at the entry. */
    rig_w(r, VMCS_TPR_THRESHOLD, 5);
    expect_exit(r, VMX_REASON_TPR_BELOW_THRESHOLD);
    expect_field(r, GUEST_RIP, RIG_CODE + 33);
    rig_destroy(r);
}

/* Virtual-interrupt delivery: priority, EOI, EOI-exit bitmap, self-IPI, x2APIC MSRs. */
static void test_virtual_interrupts(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    /* The guest: sti; nop; nop; hlt. The handler of 0x51: mov ecx, 0x80b; xor eax, eax; xor edx, edx; wrmsr (EOI);
     * cpuid. */
    CODE(r, 0xfb, 0x90, 0x90, 0xf4);
    rig_bytes(r, RIG_HANDLER + 16 * 0x51, "\xb9\x0b\x08\x00\x00\x31\xc0\x31\xd2\x0f\x30\x0f\xa2", 13);
    set(r, VMCS_PIN_CONTROLS, VMX_PIN_EXTERNAL_INTERRUPT_EXITING);
    set(r, VMCS_PROC_CONTROLS, VMX_PROC_USE_TPR_SHADOW | VMX_PROC_USE_MSR_BITMAPS);
    set(r, VMCS_PROC2_CONTROLS,
        VMX_PROC2_VIRTUALIZE_X2APIC_MODE | VMX_PROC2_VIRTUAL_INTERRUPT_DELIVERY |
            VMX_PROC2_APIC_REGISTER_VIRTUALIZATION);
    rig_w(r, VMCS_MSR_BITMAPS, RIG_MSRBITMAP);
    rig_w(r, VMCS_VIRTUAL_APIC_ADDRESS, RIG_VAPIC);
    vapic_w(r, 0x200 + 0x51 / 32 * 16, 1u << (0x51 & 31));
    vapic_w(r, 0x200 + 0x31 / 32 * 16, 1u << (0x31 & 31));
    rig_w(r, VMCS_GUEST_INTERRUPT_STATUS, 0x51);
    expect_exit(r, VMX_REASON_CPUID); /* delivered behind STI's shadow, and its EOI done */
    expect_field(r, GUEST_INTERRUPT_STATUS, 0x31);
    uint64_t pushed;
    mem_read(r->mem, HPA(RIG_STACK - 40), &pushed, 8);
    assert_int_equal(pushed, RIG_CODE + 2);
    assert_int_equal(vapic_r(r, 0x100 + 0x51 / 32 * 16), 0);
    assert_int_equal(vapic_r(r, 0x200 + 0x51 / 32 * 16), 0);
    assert_int_equal(vapic_r(r, 0xa0), 0);
    /* TPR holds 0x31 back. */
    vapic_w(r, 0x80, 0x30);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    expect_exit(r, VMX_REASON_HLT);
    expect_field(r, GUEST_RIP, RIG_CODE + 3);
    assert_int_equal(vapic_r(r, 0xa0), 0x30);
    /* EOI-exit bitmap. */
    vapic_w(r, 0x80, 0);
    rig_bytes(r, RIG_HANDLER + 16 * 0x31, "\xb9\x0b\x08\x00\x00\x31\xc0\x31\xd2\x0f\x30\x0f\xa2", 13);
    rig_w(r, VMCS_EOI_EXIT_BITMAP_0, BIT(0x31));
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE + 1);
    rig_w(r, VMCS_GUEST_RFLAGS, 2 | FLAG_IF);
    expect_exit(r, VMX_REASON_VIRTUALIZED_EOI);
    expect_field(r, EXIT_QUALIFICATION, 0x31);
    expect_field(r, GUEST_RIP, RIG_HANDLER + 16 * 0x31 + 11);
    expect_field(r, GUEST_INTERRUPT_STATUS, 0);
    /* Self-IPI by MSR: mov ecx, 0x83f; mov eax, 0x61; xor edx, edx; wrmsr; hlt. */
    CODE(r, 0xb9, 0x3f, 0x08, 0, 0, 0xb8, 0x61, 0, 0, 0, 0x31, 0xd2, 0x0f, 0x30, 0xf4);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    rig_w(r, VMCS_GUEST_RFLAGS, 2 | FLAG_IF);
    expect_exit(r, VMX_REASON_HLT);
    expect_field(r, GUEST_RIP, RIG_HANDLER + 16 * 0x61);
    expect_field(r, GUEST_INTERRUPT_STATUS, 0x6100);
    assert_int_equal(vapic_r(r, 0xa0), 0x60);
    /* A vector below 16 is left to the monitor; reserved bits are #GP. */
    CODE(r, 0xb9, 0x3f, 0x08, 0, 0, 0xb8, 0x0e, 0, 0, 0, 0x31, 0xd2, 0x0f, 0x30, 0xf4);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    expect_exit(r, VMX_REASON_APIC_WRITE);
    expect_field(r, EXIT_QUALIFICATION, 0x3f0);
    expect_field(r, GUEST_RIP, RIG_CODE + 14);
    assert_int_equal(vapic_r(r, 0x3f0), 0x0e);
    /* TPR by MSR: reads back; reserved bits are #GP. */
    CODE(r, 0xb9, 0x08, 0x08, 0, 0, 0xb8, 0x77, 0, 0, 0, 0x31, 0xd2, 0x0f, 0x30, 0x0f, 0x32, 0xf4);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    expect_exit(r, VMX_REASON_HLT);
    expect_field(r, GUEST_RIP, RIG_CODE + 16);
    assert_int_equal(r->c->gpr[GPR_RAX], 0x77);
    assert_int_equal(vapic_r(r, 0xa0), 0x77);
    CODE(r, 0xb9, 0x08, 0x08, 0, 0, 0xb8, 0x77, 1, 0, 0, 0x31, 0xd2, 0x0f, 0x30, 0xf4);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    set(r, VMCS_EXCEPTION_BITMAP, BIT(EXC_GP));
    expect_exit(r, VMX_REASON_EXCEPTION_OR_NMI);
    expect_field(r, EXIT_INTERRUPTION_INFO, 0x80000b0d);
    rig_destroy(r);
}

/* "Posted-Interrupt Processing". */
static void test_posted(void **state)
{
    static const struct cpu_apic_ops apic = {.pending = apic_pending, .ack = apic_ack};
    struct rig *r = start("max", RIG_LONG);
    enum { PID = 0x24000 };
    r->c->apic_ops = &apic;
    CODE(r, 0x90, 0xeb, 0xfd);
    set(r, VMCS_PIN_CONTROLS, VMX_PIN_EXTERNAL_INTERRUPT_EXITING | VMX_PIN_PROCESS_POSTED_INTERRUPTS);
    set(r, VMCS_EXIT_CONTROLS, VMX_EXIT_ACKNOWLEDGE_INTERRUPT_ON_EXIT);
    set(r, VMCS_PROC_CONTROLS, VMX_PROC_USE_TPR_SHADOW);
    set(r, VMCS_PROC2_CONTROLS, VMX_PROC2_VIRTUAL_INTERRUPT_DELIVERY);
    rig_w(r, VMCS_VIRTUAL_APIC_ADDRESS, RIG_VAPIC);
    rig_w(r, VMCS_POSTED_INTERRUPT_NOTIFICATION_VECTOR, 0xf2);
    rig_w(r, VMCS_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, PID);
    set(r, VMCS_GUEST_RFLAGS, FLAG_IF);
    rig_store(r, PID + 8 * 1, BIT(0x51 - 64));
    rig_store(r, PID + 32, 1);
    pending_vector = 0xf2;
    cpu_attend(r->c, ATT_INTR);
    expect_exit(r, VMX_REASON_HLT); /* in the handler of the posted vector */
    expect_field(r, GUEST_RIP, RIG_HANDLER + 16 * 0x51);
    expect_field(r, GUEST_INTERRUPT_STATUS, 0x5100);
    uint64_t on;
    mem_read(r->mem, HPA(PID + 32), &on, 8);
    assert_int_equal(on & 1, 0);
    mem_read(r->mem, HPA(PID + 8), &on, 8);
    assert_int_equal(on, 0);
    pending_vector = 0x41; /* any other interrupt exits */
    cpu_attend(r->c, ATT_INTR);
    expect_exit(r, VMX_REASON_EXTERNAL_INTERRUPT);
    expect_field(r, EXIT_INTERRUPTION_INFO, 0x80000041);
    rig_destroy(r);
}

static struct {
    unsigned count;
    uint32_t destination;
    uint8_t vector;
} sent;
static void apic_send(void *apic, uint32_t destination, uint8_t vector)
{
    sent.count++;
    sent.destination = destination;
    sent.vector = vector;
}

/* "IPI Virtualization": by WRMSR to the x2APIC's ICR and by a store to the APIC-access page; what it is not for exits
 * after the write. */
static void test_ipi(void **state)
{
    static const struct cpu_apic_ops apic = {.pending = apic_pending, .ack = apic_ack, .send = apic_send};
    enum { TABLE = 0x24000, PID = 0x25000, PAGE_ = 0x600000 };
    static const struct {
        uint32_t icr, target;
        uint64_t pointer, notify;
        uint32_t exit; /* 0: #GP; HLT: virtualized */
        bool notified;
    } cases[] = {
        {0x41, 1, PID | 1, 0x0000123400f20000, VMX_REASON_HLT, true},
        {0x4041, 1, PID | 1, 0x0000123400f20000, VMX_REASON_HLT, true}, /* level assert */
        {0x41, 1, PID | 1, 0x0000123400f20001, VMX_REASON_HLT, false},  /* ON */
        {0x41, 1, PID | 1, 0x0000123400f20002, VMX_REASON_HLT, false},  /* SN */
        {0x41, 1, PID, 0, VMX_REASON_APIC_WRITE, false},                /* not valid */
        {0x41, 1, PID | 3, 0, VMX_REASON_APIC_WRITE, false},            /* reserved bits of the pointer */
        {0x41, 1, PID | 1 | 1ull << 50, 0, VMX_REASON_APIC_WRITE, false},
        {0x41, 3, PID | 1, 0, VMX_REASON_APIC_WRITE, false},    /* beyond the last index */
        {0x0f, 1, PID | 1, 0, VMX_REASON_APIC_WRITE, false},    /* vector */
        {0x441, 1, PID | 1, 0, VMX_REASON_APIC_WRITE, false},   /* NMI */
        {0x841, 1, PID | 1, 0, VMX_REASON_APIC_WRITE, false},   /* logical */
        {0x8041, 1, PID | 1, 0, VMX_REASON_APIC_WRITE, false},  /* level-triggered */
        {0xc0041, 1, PID | 1, 0, VMX_REASON_APIC_WRITE, false}, /* all but self */
        {0x1041, 1, PID | 1, 0, 0, false},                      /* reserved bits of the MSR */
        {0x100041, 1, PID | 1, 0, 0, false},
    };
    for (unsigned mode = 0; mode < 2; mode++)
        for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
            struct rig *r = start("max", RIG_LONG);
            bool x2apic = mode == 0;
            r->c->apic_ops = &apic;
            r->c->msr.apic_base = 0xfee00800 | (x2apic ? BIT(10) : 0);
            memset(&sent, 0, sizeof sent);
            if (x2apic)
                CODE(r, 0x0f, 0x30, 0xf4); /* wrmsr; hlt */
            else
                CODE(r, 0x89, 0x04, 0x25, 0x00, 0x03, 0x60, 0x00, 0xf4); /* mov [0x600300], eax; hlt */
            set(r, VMCS_PROC_CONTROLS,
                VMX_PROC_USE_TPR_SHADOW | VMX_PROC_USE_MSR_BITMAPS | VMX_PROC_ACTIVATE_TERTIARY_CONTROLS);
            set(r, VMCS_PROC2_CONTROLS, x2apic ? VMX_PROC2_VIRTUALIZE_X2APIC_MODE : VMX_PROC2_VIRTUALIZE_APIC_ACCESSES);
            rig_w(r, VMCS_PROC3_CONTROLS, VMX_PROC3_IPI_VIRTUALIZATION);
            rig_w(r, VMCS_MSR_BITMAPS, RIG_MSRBITMAP);
            rig_w(r, VMCS_VIRTUAL_APIC_ADDRESS, RIG_VAPIC);
            rig_w(r, VMCS_APIC_ACCESS_ADDRESS, PAGE_);
            rig_w(r, VMCS_PID_POINTER_TABLE_ADDRESS, TABLE);
            rig_w(r, VMCS_LAST_PID_POINTER_INDEX, 2);
            set(r, VMCS_EXCEPTION_BITMAP, BIT(EXC_GP));
            rig_store(r, TABLE + 8 * cases[i].target, cases[i].pointer);
            for (unsigned n = 0; n < 4; n++)
                rig_store(r, PID + 8 * n, 0);
            rig_store(r, PID + 32, cases[i].notify);
            r->c->gpr[GPR_RAX] = cases[i].icr;
            r->c->gpr[GPR_RDX] = cases[i].target;
            r->c->gpr[GPR_RCX] = 0x830;
            if (!x2apic)
                vapic_w(r, 0x310, cases[i].target << 24);
            uint32_t want = cases[i].exit ? cases[i].exit
                            : x2apic      ? VMX_REASON_EXCEPTION_OR_NMI
                                          : VMX_REASON_APIC_WRITE;
            expect_exit(r, want);
            if (want == VMX_REASON_APIC_WRITE) {
                expect_field(r, EXIT_QUALIFICATION, 0x300);
                expect_field(r, GUEST_RIP, RIG_CODE + (x2apic ? 2 : 7)); /* trap-like */
                assert_int_equal(vapic_r(r, 0x300), cases[i].icr);
            }
            uint64_t pir, on;
            mem_read(r->mem, HPA(PID + 8), &pir, 8);
            mem_read(r->mem, HPA(PID + 32), &on, 8);
            assert_int_equal(pir, want == VMX_REASON_HLT ? BIT(1) : 0);
            assert_int_equal(on, cases[i].notify | (cases[i].notified ? 1 : 0));
            assert_int_equal(sent.count, cases[i].notified);
            if (cases[i].notified) {
                assert_int_equal(sent.vector, 0xf2);
                assert_int_equal(sent.destination, x2apic ? 0x1234 : 0x12);
            }
            rig_destroy(r);
        }
    /* Without the control WRMSR goes to the processor's own APIC, and a model without it has no such fields. */
    struct rig *r = rig_create("max,-ipi_virt,-ept_paging_write,-guest_paging_verification");
    assert_false(r->x->caps.field[F_PROC3_CONTROLS] || r->x->caps.field[F_PID_POINTER_TABLE_ADDRESS]);
    assert_false(r->x->caps.proc.may & VMX_PROC_ACTIVATE_TERTIARY_CONTROLS);
    rig_destroy(r);
}

/* 4-KByte EPT entries for the 2 MBytes at `from`: an identity mapping with these bits. */
static void split(struct rig *r, uint64_t from, uint64_t pt, uint64_t bits_)
{
    for (unsigned i = 0; i < 512; i++)
        rig_store(r, pt + 8 * i, (from + i * 4096ull) | VMX_EPT_MEMORY_TYPE(6) | bits_);
    rig_store(r, RIG_EPT_PD + 8 * (from >> 21), pt | 7);
}
static void flush_ept(struct rig *r)
{
    uint64_t inv[2] = {rig_r(r, VMCS_EPT_POINTER), 0};
    assert_int_equal(vmx_invept(r->c, VMX_INVEPT_SINGLE_CONTEXT, inv), VMX_SUCCEED);
}
static void set_proc3(struct rig *r, uint64_t bits_)
{
    set(r, VMCS_PROC_CONTROLS, VMX_PROC_ACTIVATE_TERTIARY_CONTROLS);
    rig_w(r, VMCS_PROC3_CONTROLS, bits_);
}
enum { FREE1 = 0x24000, FREE2 = 0x25000, FREE3 = 0x26000, FREE4 = 0x27000, FREE5 = 0x28000 };

/* "Guest-Physical Accesses to the APIC-Access Page": a paging structure there; type 15, in an event's delivery 10. */
static void test_apic_physical(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    CODE(r, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00, 0xf4);
    expect_exit(r, VMX_REASON_HLT);
    set(r, VMCS_PROC_CONTROLS, VMX_PROC_USE_TPR_SHADOW);
    set(r, VMCS_PROC2_CONTROLS, VMX_PROC2_VIRTUALIZE_APIC_ACCESSES);
    rig_w(r, VMCS_VIRTUAL_APIC_ADDRESS, RIG_VAPIC);
    rig_w(r, VMCS_APIC_ACCESS_ADDRESS, RIG_GUEST_PDPT);
    flush_ept(r);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    expect_exit(r, VMX_REASON_APIC_ACCESS);
    expect_field(r, EXIT_QUALIFICATION, 15 << 12);
    expect_field(r, GUEST_RIP, RIG_CODE);
    expect_field(r, IDT_VECTORING_INFO, 0);
    rig_w(r, VMCS_ENTRY_INTERRUPTION_INFO, 0x80000306);
    expect_exit(r, VMX_REASON_APIC_ACCESS);
    expect_field(r, EXIT_QUALIFICATION, 10 << 12);
    expect_field(r, IDT_VECTORING_INFO, 0x80000306);
    /* Another page. */
    rig_w(r, VMCS_APIC_ACCESS_ADDRESS, 0x600000);
    expect_exit(r, VMX_REASON_APIC_ACCESS);
    expect_field(r, EXIT_QUALIFICATION, 0);
    rig_destroy(r);
}

/* "EPT paging-write control": paging may update a page that the guest may not write. */
static void test_paging_write(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    static const unsigned tables[] = {RIG_GUEST_PML4 >> 12, RIG_GUEST_PDPT >> 12, RIG_GUEST_PD >> 12};
    for (unsigned ad = 0; ad < 2; ad++) {
        rig_tables(r);
        rig_descriptors(r, true);
        split(r, 0, FREE1, 7);
        CODE(r, 0xf4, 0x90, 0x89, 0x04, 0x25, 0x00, 0x50, 0x01, 0x00); /* hlt; mov [RIG_GUEST_PD], eax */
        rig_w(r, VMCS_PROC3_CONTROLS, 0);
        for (unsigned i = 0; i < 3; i++)
            rig_store(r, FREE1 + 8 * tables[i], tables[i] << 12 | VMX_EPT_MEMORY_TYPE(6) | 5 | VMX_EPT_PAGING_WRITE);
        rig_w(r, VMCS_EPT_POINTER, RIG_EPT_PML4 | VMX_EPTP_WALK_4 | VMX_EPTP_WB | (ad ? VMX_EPTP_ACCESSED_DIRTY : 0));
        flush_ept(r);
        rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
        expect_exit(r, VMX_REASON_EPT_VIOLATION); /* without the control the bit is ignored */
        expect_field(r, EXIT_QUALIFICATION, 0xab);
        expect_field(r, GUEST_PHYSICAL_ADDRESS, RIG_GUEST_PML4);
        set_proc3(r, VMX_PROC3_EPT_PAGING_WRITE_CONTROL);
        expect_exit(r, VMX_REASON_HLT);
        rig_w(r, VMCS_GUEST_RIP, RIG_CODE + 2);
        expect_exit(r, VMX_REASON_EPT_VIOLATION); /* the guest's own write */
        expect_field(r, GUEST_PHYSICAL_ADDRESS, RIG_GUEST_PD);
        expect_field(r, EXIT_QUALIFICATION, 0x7aa);
        uint64_t pml4e;
        mem_read(r->mem, HPA(RIG_GUEST_PML4), &pml4e, 8);
        assert_true(pml4e & 0x20);
        /* One of them without the bit. */
        rig_store(r, FREE1 + 8 * tables[2], RIG_GUEST_PD | VMX_EPT_MEMORY_TYPE(6) | 5);
        rig_store(r, RIG_GUEST_PD, 0x87);
        flush_ept(r);
        rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
        expect_exit(r, VMX_REASON_EPT_VIOLATION);
        expect_field(r, GUEST_PHYSICAL_ADDRESS, RIG_GUEST_PD);
    }
    /* "EPT Misconfigurations": paging-write access to a page that cannot be read. */
    rig_store(r, FREE1 + 8 * tables[2], RIG_GUEST_PD | VMX_EPT_MEMORY_TYPE(6) | 4 | VMX_EPT_PAGING_WRITE);
    flush_ept(r);
    expect_exit(r, VMX_REASON_EPT_MISCONFIGURATION);
    /* The control needs EPT. */
    clear(r, VMCS_PROC2_CONTROLS, VMX_PROC2_ENABLE_EPT | VMX_PROC2_UNRESTRICTED_GUEST);
    assert_int_equal(rig_enter(r), 1000 + VMX_ERR_ENTRY_INVALID_CONTROLS);
    rig_destroy(r);
}

/* "Guest-paging verification": a page that may be reached through paging structures with paging-write access alone. */
static void test_verification(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    static const unsigned tables[] = {RIG_GUEST_PML4 >> 12, RIG_GUEST_PDPT >> 12, RIG_GUEST_PD >> 12};
    CODE(r, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00, 0xf4);
    split(r, 0, FREE1, 7);
    set_proc3(r, VMX_PROC3_EPT_PAGING_WRITE_CONTROL);
    rig_store(r, RIG_EPT_PD + 8 * 3,
              0x600000 | VMX_EPT_LARGE | VMX_EPT_MEMORY_TYPE(6) | 7 | VMX_EPT_VERIFY_GUEST_PAGING);
    expect_exit(r, VMX_REASON_HLT); /* without the control the bit is ignored */
    set_proc3(r, VMX_PROC3_EPT_PAGING_WRITE_CONTROL | VMX_PROC3_GUEST_PAGING_VERIFICATION);
    for (unsigned i = 0; i <= 3; i++) {
        rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
        if (i == 3) {
            expect_exit(r, VMX_REASON_HLT);
            break;
        }
        expect_exit(r, VMX_REASON_EPT_VIOLATION);
        expect_field(r, EXIT_QUALIFICATION, 0x87b9);
        expect_field(r, GUEST_PHYSICAL_ADDRESS, 0x600000);
        expect_exit(r, VMX_REASON_EPT_VIOLATION); /* by what is remembered of the tables, too */
        expect_field(r, EXIT_QUALIFICATION, 0x87b9);
        rig_store(r, FREE1 + 8 * tables[i], tables[i] << 12 | VMX_EPT_MEMORY_TYPE(6) | 7 | VMX_EPT_PAGING_WRITE);
        flush_ept(r);
    }
    rig_destroy(r);
}

/* "HLAT Paging": addresses in the protected linear range, restart, page faults. */
static void test_hlat(void **state)
{
    struct rig *r = start("max,+hlat", RIG_LONG);
    CODE(r, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00, 0xf4);
    enum { PML4 = FREE1, PDPT = FREE2, PD = FREE3 };
    uint8_t zero[4096] = {0};
    rig_bytes(r, PML4, zero, 4096);
    rig_bytes(r, PDPT, zero, 4096);
    rig_store(r, PML4, PDPT | 7);
    rig_store(r, PML4 + 8 * 256, PDPT | 7);
    rig_store(r, PDPT, PD | 7);
    for (unsigned i = 0; i < 512; i++)
        rig_store(r, PD + 8 * i, VMX_HLAT_RESTART | 1);
    rig_store(r, PD + 8 * 3, 0x800000 | 0x83);
    rig_store(r, 0x600000, 0x1111);
    rig_store(r, 0x800000, 0x2222);
    set(r, VMCS_EXCEPTION_BITMAP, BIT(EXC_PF));
    set_proc3(r, VMX_PROC3_ENABLE_HLAT);
    rig_w(r, VMCS_HLAT_POINTER, PML4);
    expect_exit(r, VMX_REASON_HLT); /* the code by ordinary paging, after the restart */
    assert_int_equal(r->c->gpr[GPR_RAX], 0x2222);
    /* A prefix of one bit: the upper half. */
    rig_w(r, VMCS_HLAT_PREFIX_SIZE, 1);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    expect_exit(r, VMX_REASON_HLT);
    assert_int_equal(r->c->gpr[GPR_RAX], 0x1111);
    CODE(r, 0xa1, 0x00, 0x00, 0x60, 0x00, 0x00, 0x80, 0xff, 0xff, 0xf4);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    expect_exit(r, VMX_REASON_HLT);
    assert_int_equal(r->c->gpr[GPR_RAX], 0x2222);
    /* No translation by HLAT paging: the error code's HLAT flag. By ordinary paging after a restart: without. */
    uint64_t inv[2] = {1, 0xffff800000600000};
    rig_store(r, PD + 8 * 3, 0);
    assert_int_equal(vmx_invvpid(r->c, VMX_INVVPID_ADDRESS, inv), VMX_SUCCEED);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    expect_exit(r, VMX_REASON_EXCEPTION_OR_NMI);
    expect_field(r, EXIT_INTERRUPTION_ERROR_CODE, 0x80);
    rig_store(r, PD + 8 * 3, 0x800000 | 0x83 | 1 << 13);
    expect_exit(r, VMX_REASON_EXCEPTION_OR_NMI);
    expect_field(r, EXIT_INTERRUPTION_ERROR_CODE, 0x89);
    rig_store(r, PD + 8 * 3, VMX_HLAT_RESTART | 1);
    expect_exit(r, VMX_REASON_EXCEPTION_OR_NMI);
    expect_field(r, EXIT_INTERRUPTION_ERROR_CODE, 0);
    rig_w(r, VMCS_HLAT_PREFIX_SIZE, 53);
    assert_int_equal(rig_enter(r), 1000 + VMX_ERR_ENTRY_INVALID_CONTROLS);
    rig_destroy(r);
}

/* "Sub-Page Write Permissions": 128 bytes by 128 bytes; SPP-related events. */
static void test_spp(void **state)
{
    struct rig *r = start("max", RIG_LONG);
    uint8_t zero[4096] = {0};
    for (uint64_t pa = FREE2; pa <= FREE5; pa += 4096)
        rig_bytes(r, pa, zero, 4096);
    split(r, 0x600000, FREE1, 5 | VMX_EPT_SUB_PAGE_WRITE);
    rig_store(r, FREE2, FREE3 | 1);
    rig_store(r, FREE3, FREE4 | 1);
    rig_store(r, FREE4 + 8 * 3, FREE5 | 1);
    rig_store(r, FREE5, BIT(2)); /* sub-page 1 */
    /* mov [0x600080], eax; lock inc dword [0x6000fc]; mov [0x600100], eax; hlt; mov [0x6000fc], rax; hlt */
    CODE(r, 0x89, 0x04, 0x25, 0x80, 0x00, 0x60, 0x00, 0xf0, 0xff, 0x04, 0x25, 0xfc, 0x00, 0x60, 0x00, 0x89, 0x04, 0x25,
         0x00, 0x01, 0x60, 0x00, 0xf4, 0x48, 0x89, 0x04, 0x25, 0xfc, 0x00, 0x60, 0x00, 0xf4);
    rig_store(r, 0x6000fc, 0x77);
    expect_exit(r, VMX_REASON_EPT_VIOLATION); /* without the control the bit is ignored */
    expect_field(r, GUEST_RIP, RIG_CODE);
    set(r, VMCS_PROC2_CONTROLS, VMX_PROC2_SUB_PAGE_WRITE_PERMISSIONS);
    rig_w(r, VMCS_SPPT_POINTER, FREE2);
    r->c->gpr[GPR_RAX] = 0x1234;
    expect_exit(r, VMX_REASON_EPT_VIOLATION);
    expect_field(r, GUEST_RIP, RIG_CODE + 15);
    expect_field(r, GUEST_PHYSICAL_ADDRESS, 0x600100);
    expect_field(r, EXIT_QUALIFICATION, 0x7aa);
    uint32_t v;
    mem_read(r->mem, HPA(0x600080), &v, 4);
    assert_int_equal(v, 0x1234);
    mem_read(r->mem, HPA(0x6000fc), &v, 4);
    assert_int_equal(v, 0x78);
    /* An access to two sub-pages is not eligible, even where both may be written. */
    rig_store(r, FREE5, BIT(2) | BIT(4));
    expect_exit(r, VMX_REASON_HLT);
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE + 23);
    expect_exit(r, VMX_REASON_EPT_VIOLATION);
    /* Misconfiguration and miss. */
    rig_store(r, FREE5, BIT(2) | BIT(3));
    rig_w(r, VMCS_GUEST_RIP, RIG_CODE);
    expect_exit(r, VMX_REASON_SPP_RELATED_EVENT);
    expect_field(r, EXIT_QUALIFICATION, 0);
    expect_field(r, GUEST_LINEAR_ADDRESS, 0x600080);
    expect_field(r, GUEST_PHYSICAL_ADDRESS, 0x600080);
    rig_store(r, FREE4 + 8 * 3, 0);
    expect_exit(r, VMX_REASON_SPP_RELATED_EVENT);
    expect_field(r, EXIT_QUALIFICATION, 0x800);
    rig_store(r, FREE4 + 8 * 3, FREE5 | 3);
    expect_exit(r, VMX_REASON_SPP_RELATED_EVENT);
    expect_field(r, EXIT_QUALIFICATION, 0);
    rig_destroy(r);
}

/* PAE paging: PDPTEs from the VMCS under EPT, from memory without it; what the guest loads is saved. */
static void test_pae(void **state)
{
    static const char *const models[] = {"max", "icelake-server,-ept"};
    for (unsigned i = 0; i < 2; i++) {
        struct rig *r = start(models[i], RIG_PAGED32);
        enum { PDPT = 0x24000 };
        bool ept = i == 0;
        /* mov eax, [0x600000]; hlt; mov cr3, ebx; hlt */
        CODE(r, 0xa1, 0, 0, 0x60, 0, 0xf4, 0x0f, 0x22, 0xdb, 0xf4);
        rig_store(r, 0x600000, 0x4711);
        set(r, VMCS_GUEST_CR4, CR4_PAE);
        rig_w(r, VMCS_GUEST_CR3, PDPT);
        rig_store(r, PDPT, ept ? 0 : RIG_GUEST_PD | 1);
        for (unsigned n = 1; n < 8; n++)
            rig_store(r, PDPT + 8 * n, 0);
        if (ept) {
            rig_w(r, VMCS_GUEST_PDPTE0, RIG_GUEST_PD | 1);
            rig_w(r, VMCS_GUEST_PDPTE1, 0);
            rig_w(r, VMCS_GUEST_PDPTE2, 0);
            rig_w(r, VMCS_GUEST_PDPTE3, 0);
        }
        expect_exit(r, VMX_REASON_HLT);
        assert_int_equal(r->c->gpr[GPR_RAX], 0x4711);
        /* MOV to CR3 loads them anew. */
        rig_store(r, PDPT + 0x20, RIG_GUEST_PD | 1);
        rig_store(r, PDPT + 0x28, RIG_GUEST_PD | 0x1001);
        r->c->gpr[GPR_RBX] = PDPT + 0x20;
        rig_w(r, VMCS_GUEST_RIP, RIG_CODE + 6);
        expect_exit(r, VMX_REASON_HLT);
        expect_field(r, GUEST_CR3, PDPT + 0x20);
        if (ept)
            expect_field(r, GUEST_PDPTE1, RIG_GUEST_PD | 0x1001);
        /* A reserved bit: the entry fails. */
        if (ept)
            rig_w(r, VMCS_GUEST_PDPTE2, 1 | BIT(1));
        else
            rig_store(r, PDPT + 0x30, 1 | BIT(1));
        expect_exit(r, VMX_REASON_ENTRY_FAILURE | VMX_REASON_ENTRY_FAILURE_GUEST_STATE);
        expect_field(r, EXIT_QUALIFICATION, VMX_ENTRY_FAILURE_PDPTE);
        rig_destroy(r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pae),
        cmocka_unit_test(test_apic_access),
        cmocka_unit_test(test_virtual_interrupts),
        cmocka_unit_test(test_posted),
        cmocka_unit_test(test_ipi),
        cmocka_unit_test(test_shadowing),
        cmocka_unit_test(test_vmfunc_ve),
        cmocka_unit_test(test_pml),
        cmocka_unit_test(test_pause_loop),
        cmocka_unit_test(test_modes),
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_io),
        cmocka_unit_test(test_msr),
        cmocka_unit_test(test_cr),
        cmocka_unit_test(test_instructions),
        cmocka_unit_test(test_enables),
        cmocka_unit_test(test_exceptions),
        cmocka_unit_test(test_ept),
        cmocka_unit_test(test_ept_breakpoint),
        cmocka_unit_test(test_stale),
        cmocka_unit_test(test_injection),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_interrupts),
        cmocka_unit_test(test_timer_mtf_activity),
        cmocka_unit_test(test_mtf_order),
        cmocka_unit_test(test_ept_advanced),
        cmocka_unit_test(test_shared_vpid),
        cmocka_unit_test(test_user_wait),
        cmocka_unit_test(test_mtf),
        cmocka_unit_test(test_apic_write_first),
        cmocka_unit_test(test_invvpid_address),
        cmocka_unit_test(test_invlpg_eptps),
        cmocka_unit_test(test_loaded_pkrs),
        cmocka_unit_test(test_task_switch_checks),
        cmocka_unit_test(test_migration),
        cmocka_unit_test(test_init_blocked),
        cmocka_unit_test(test_apic_physical),
        cmocka_unit_test(test_paging_write),
        cmocka_unit_test(test_verification),
        cmocka_unit_test(test_hlat),
        cmocka_unit_test(test_spp),
        cmocka_unit_test(test_shared_mbec),
        cmocka_unit_test(test_msr_areas),
        cmocka_unit_test(test_state),
        cmocka_unit_test(test_tpr),
        cmocka_unit_test(test_task_switch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
