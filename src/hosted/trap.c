/* SPDX-License-Identifier: MIT
 *
 * trap.c: VMX, SVM and privileged instructions that native code executes raw: the host's kernel answers them with
 * SIGSEGV (#GP) or SIGILL (#UD); they are carried out on the bound processor, and native code goes on after them.
 *
 * The signal handler only looks whether the instruction is one of these, keeps the registers in the binding and lets
 * the thread go on at hosted_trapped (entry.S), on the software processor's stack. So nothing below runs in a signal
 * handler, but take().
 *
 * Instructions without a memory operand are executed by the software processor as they are, with native code's
 * registers. A memory operand is in the process, at native code's addresses: those instructions are taken apart here.
 *
 * Signal dispositions belong to the process, so what stood there before vmenter_trap() does too: trap_process is the
 * library's one object at file scope besides the thread-local.
 */
#include "src/hosted/hosted.h"

#if defined(__linux__) && defined(__x86_64__)

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <Zydis/Zydis.h>
#include <ucontext.h>

#include "src/cpu/decode.h"

static const int trap_signals[] = {SIGSEGV, SIGILL, SIGBUS};
#define TRAP_SIGNALS ARRAY_LEN(trap_signals)

static struct {
    pthread_mutex_t lock;
    unsigned users; /* threads that trap */
    struct sigaction before[TRAP_SIGNALS];
} trap_process = {.lock = PTHREAD_MUTEX_INITIALIZER};

extern const char hosted_trapped[];
enum hosted_outcome hosted_trap(struct binding *b);
void hosted_trap_event(struct binding *b);

struct trapped {
    ZydisDecodedInstruction in;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    uint8_t bytes[15];
};

/* --- which instructions
 * --------------------------------------------------------------------------------------------------- */

static bool is_control(ZydisRegister r)
{
    ZydisRegisterClass k = ZydisRegisterGetClass(r);
    return k == ZYDIS_REGCLASS_CONTROL || k == ZYDIS_REGCLASS_DEBUG;
}

/* The row that names the instruction in an event; HINSN_COUNT: not one of ours. */
static enum hinsn row_of(const struct trapped *t)
{
    switch (t->in.mnemonic) {
    case ZYDIS_MNEMONIC_VMXON: return HINSN_VMXON;
    case ZYDIS_MNEMONIC_VMXOFF: return HINSN_VMXOFF;
    case ZYDIS_MNEMONIC_VMCLEAR: return HINSN_VMCLEAR;
    case ZYDIS_MNEMONIC_VMPTRLD: return HINSN_VMPTRLD;
    case ZYDIS_MNEMONIC_VMPTRST: return HINSN_VMPTRST;
    case ZYDIS_MNEMONIC_VMREAD: return HINSN_VMREAD;
    case ZYDIS_MNEMONIC_VMWRITE: return HINSN_VMWRITE;
    case ZYDIS_MNEMONIC_VMLAUNCH: return HINSN_VMLAUNCH;
    case ZYDIS_MNEMONIC_VMRESUME: return HINSN_VMRESUME;
    case ZYDIS_MNEMONIC_INVEPT: return HINSN_INVEPT;
    case ZYDIS_MNEMONIC_INVVPID: return HINSN_INVVPID;
    case ZYDIS_MNEMONIC_VMCALL: return HINSN_VMCALL;
    case ZYDIS_MNEMONIC_VMFUNC: return HINSN_VMFUNC;
    case ZYDIS_MNEMONIC_VMRUN: return HINSN_VMRUN;
    case ZYDIS_MNEMONIC_VMLOAD: return HINSN_VMLOAD;
    case ZYDIS_MNEMONIC_VMSAVE: return HINSN_VMSAVE;
    case ZYDIS_MNEMONIC_STGI: return HINSN_STGI;
    case ZYDIS_MNEMONIC_CLGI: return HINSN_CLGI;
    case ZYDIS_MNEMONIC_INVLPGA: return HINSN_INVLPGA;
    case ZYDIS_MNEMONIC_SKINIT: return HINSN_SKINIT;
    case ZYDIS_MNEMONIC_VMMCALL: return HINSN_VMMCALL;
    case ZYDIS_MNEMONIC_RDMSR: return HINSN_RDMSR;
    case ZYDIS_MNEMONIC_WRMSR: return HINSN_WRMSR;
    case ZYDIS_MNEMONIC_CLI: return HINSN_CLI;
    case ZYDIS_MNEMONIC_STI: return HINSN_STI;
    case ZYDIS_MNEMONIC_HLT: return HINSN_HLT;
    case ZYDIS_MNEMONIC_CLTS: return HINSN_CLTS;
    case ZYDIS_MNEMONIC_LMSW: return HINSN_LMSW;
    case ZYDIS_MNEMONIC_XSETBV: return HINSN_XSETBV;
    case ZYDIS_MNEMONIC_CLAC: return HINSN_CLAC;
    case ZYDIS_MNEMONIC_STAC: return HINSN_STAC;
    case ZYDIS_MNEMONIC_RDPMC: return HINSN_RDPMC;
    case ZYDIS_MNEMONIC_LGDT: return HINSN_LGDT;
    case ZYDIS_MNEMONIC_LIDT: return HINSN_LIDT;
    case ZYDIS_MNEMONIC_LTR: return HINSN_LTR;
    case ZYDIS_MNEMONIC_LLDT: return HINSN_LLDT;
    case ZYDIS_MNEMONIC_SWAPGS: return HINSN_SWAPGS;
    case ZYDIS_MNEMONIC_INVLPG: return HINSN_INVLPG;
    case ZYDIS_MNEMONIC_INVPCID: return HINSN_INVPCID;
    case ZYDIS_MNEMONIC_INVD: return HINSN_INVD;
    case ZYDIS_MNEMONIC_WBINVD: return HINSN_WBINVD;
    case ZYDIS_MNEMONIC_IN:
    case ZYDIS_MNEMONIC_INSB:
    case ZYDIS_MNEMONIC_INSW:
    case ZYDIS_MNEMONIC_INSD: return HINSN_IN32;
    case ZYDIS_MNEMONIC_OUT:
    case ZYDIS_MNEMONIC_OUTSB:
    case ZYDIS_MNEMONIC_OUTSW:
    case ZYDIS_MNEMONIC_OUTSD: return HINSN_OUT32;
    case ZYDIS_MNEMONIC_MOV:
        if (t->op[0].type != ZYDIS_OPERAND_TYPE_REGISTER || t->op[1].type != ZYDIS_OPERAND_TYPE_REGISTER)
            return HINSN_COUNT;
        if (is_control(t->op[0].reg.value))
            return ZydisRegisterGetClass(t->op[0].reg.value) == ZYDIS_REGCLASS_CONTROL ? HINSN_WRITE_CR0
                                                                                       : HINSN_WRITE_DR0;
        if (is_control(t->op[1].reg.value))
            return ZydisRegisterGetClass(t->op[1].reg.value) == ZYDIS_REGCLASS_CONTROL ? HINSN_READ_CR0
                                                                                       : HINSN_READ_DR0;
        return HINSN_COUNT;
    default: return HINSN_COUNT;
    }
}

/* The kernel raised the signal for the instruction at rip, so its bytes are readable; the page behind it only as far as
 * they reach. */
static bool decode(uint64_t rip, struct trapped *t)
{
    ZydisDecoder d;
    ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    size_t n = MIN(sizeof t->bytes, (size_t)(PAGE_SIZE - (rip & PAGE_OFFSET)));
    memcpy(t->bytes, (const void *)(uintptr_t)rip, n);
    ZyanStatus s = ZydisDecoderDecodeFull(&d, t->bytes, n, &t->in, t->op);
    for (; s == ZYDIS_STATUS_NO_MORE_DATA && n < sizeof t->bytes; n++) {
        t->bytes[n] = *(const uint8_t *)(uintptr_t)(rip + n);
        s = ZydisDecoderDecodeFull(&d, t->bytes, n + 1, &t->in, t->op);
    }
    return ZYAN_SUCCESS(s);
}

/* --- the signal
 * ------------------------------------------------------------------------------------------------------------ */

static const int greg_of[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static bool take(struct binding *b, ucontext_t *uc)
{
    greg_t *g = uc->uc_mcontext.gregs;
    struct trapped t;
    if (b->running || (g[REG_TRAPNO] != EXC_GP && g[REG_TRAPNO] != EXC_UD))
        return false;
    if (!decode((uint64_t)g[REG_RIP], &t) || row_of(&t) == HINSN_COUNT)
        return false;
    for (unsigned i = 0; i < 16; i++)
        b->regs[i] = (uint64_t)g[greg_of[i]];
    b->rip = (uint64_t)g[REG_RIP];
    b->rflags = (uint64_t)g[REG_EFL];
    g[REG_RIP] = (greg_t)(uintptr_t)hosted_trapped;
    g[REG_RSP] = (greg_t)(uintptr_t)b->stack_top;
    g[REG_RBX] = (greg_t)(uintptr_t)b;
    g[REG_EFL] &= ~(greg_t)(FLAG_DF | FLAG_TF | FLAG_AC);
    return true;
}

/* An alignment check: native code restored a context whose RFLAGS have AC set (VMMs mark by it who was launched). Ring
 * 0 would not be checked, so the thread's flag goes; the processor's own is another. */
static bool alignment_check(int sig, const siginfo_t *info, ucontext_t *uc)
{
    greg_t *flags = &uc->uc_mcontext.gregs[REG_EFL];
    if (sig != SIGBUS || info->si_code != BUS_ADRALN || !(*flags & FLAG_AC))
        return false;
    *flags &= ~(greg_t)FLAG_AC;
    return true;
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
    /* The kernel leaves AC as it was. */
    __asm__ volatile("lea -128(%%rsp), %%rsp; pushfq; andl $~0x40000, (%%rsp); popfq; lea 128(%%rsp), %%rsp" ::
                         : "memory", "cc");
    struct binding *b = machine_binding;
    if (b && b->trapping && alignment_check(sig, info, context))
        return;
    if (b && b->trapping && take(b, context))
        return;
    for (unsigned i = 0; i < TRAP_SIGNALS; i++) {
        const struct sigaction *before = &trap_process.before[i];
        if (trap_signals[i] != sig)
            continue;
        if (before->sa_flags & SA_SIGINFO) {
            before->sa_sigaction(sig, info, context);
        } else if (before->sa_handler == SIG_DFL || before->sa_handler == SIG_IGN) {
            /* The instruction is executed again and meets the default. */
            struct sigaction dfl = {.sa_handler = SIG_DFL};
            sigaction(sig, &dfl, NULL);
            if (info->si_code <= 0)
                raise(sig); /* sent, not caused: nothing would send it again */
        } else {
            before->sa_handler(sig);
        }
    }
}

static void release(struct binding *b)
{
    /* From here on alignment checks are the program's own: no AC that a restored context has left. (Past the red zone:
     * the caller's own frame may end in it.) */
    __asm__ volatile("lea -128(%%rsp), %%rsp; pushfq; andl %0, (%%rsp); popfq; lea 128(%%rsp), %%rsp"
                     :
                     : "i"(~(int)FLAG_AC)
                     : "memory", "cc");
    pthread_mutex_lock(&trap_process.lock);
    if (--trap_process.users == 0)
        for (unsigned i = 0; i < TRAP_SIGNALS; i++)
            sigaction(trap_signals[i], &trap_process.before[i], NULL);
    pthread_mutex_unlock(&trap_process.lock);
    if (b->signal_stack) {
        stack_t off = {.ss_flags = SS_DISABLE};
        sigaltstack(&off, NULL);
        munmap(b->signal_stack, b->signal_stack_size);
        b->signal_stack = NULL;
    }
    b->trapping = false;
    b->release = NULL;
}

enum vmenter_status vmenter_trap(bool on)
{
    struct binding *b = machine_binding;
    if (!b)
        return VMENTER_EUNBOUND;
    if (b->trapping == on)
        return VMENTER_OK;
    if (!on) {
        release(b);
        return VMENTER_OK;
    }
    stack_t now;
    if (sigaltstack(NULL, &now) == 0 && (now.ss_flags & SS_DISABLE)) {
        b->signal_stack_size = 65536;
        b->signal_stack = mmap(NULL, b->signal_stack_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (b->signal_stack == MAP_FAILED) {
            b->signal_stack = NULL;
            return VMENTER_ENOMEM;
        }
        stack_t fresh = {.ss_sp = b->signal_stack, .ss_size = b->signal_stack_size};
        sigaltstack(&fresh, NULL);
    }
    pthread_mutex_lock(&trap_process.lock);
    if (trap_process.users++ == 0) {
        struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
        sigemptyset(&sa.sa_mask);
        for (unsigned i = 0; i < TRAP_SIGNALS; i++)
            sigaction(trap_signals[i], &sa, &trap_process.before[i]);
    }
    pthread_mutex_unlock(&trap_process.lock);
    b->release = release;
    b->trapping = true;
    return VMENTER_OK;
}

/* --- carrying out
 * ------------------------------------------------------------------------------------------------------------ */

static uint64_t register_value(const struct binding *b, ZydisRegister r)
{
    if (r == ZYDIS_REGISTER_NONE)
        return 0;
    ZyanI8 id = ZydisRegisterGetId(r);
    return id < 0 || id > 15 ? 0 : b->regs[id];
}

static uint64_t segment_base(ZydisRegister seg)
{
    uint64_t base = 0;
    if (seg == ZYDIS_REGISTER_FS)
        syscall(SYS_arch_prctl, 0x1003, &base);
    else if (seg == ZYDIS_REGISTER_GS)
        syscall(SYS_arch_prctl, 0x1004, &base);
    return base;
}

/* Native address of operand i. */
static void *operand_address(const struct binding *b, const struct trapped *t, unsigned i)
{
    const ZydisDecodedOperand *o = &t->op[i];
    uint64_t ea = (uint64_t)o->mem.disp.value;
    if (o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP)
        ea += b->rip + t->in.length;
    else
        ea += register_value(b, o->mem.base);
    ea += register_value(b, o->mem.index) * o->mem.scale;
    if (t->in.address_width == 32)
        ea = (uint32_t)ea;
    return (void *)(uintptr_t)(ea + segment_base(o->mem.segment));
}

static bool has_memory(const struct trapped *t)
{
    for (unsigned i = 0; i < t->in.operand_count_visible; i++)
        if (t->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
            return true;
    return false;
}

/* A 64-bit register or memory operand. */
static uint64_t value64(const struct binding *b, const struct trapped *t, unsigned i)
{
    return t->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY ? load64(operand_address(b, t, i))
                                                      : register_value(b, t->op[i].reg.value);
}

static void set_arith(struct binding *b, uint64_t flags)
{
    b->rflags = (b->rflags & ~FLAG_ARITH) | (flags & FLAG_ARITH);
}

/* "Conventions" of the VMX instruction reference. False: it raised; should the event's handler come back, it looks like
 * VMfailInvalid. */
static bool vmx_flags(struct binding *b, enum vmx_result r)
{
    set_arith(b, r == VMX_SUCCEED ? 0 : r == VMX_FAIL_VALID ? FLAG_ZF : FLAG_CF);
    b->cpu->icount++;
    return r != VMX_FAULT;
}

/* Executes the instruction's own bytes with native code's registers. */
static bool execute(struct binding *b, const struct trapped *t)
{
    struct cpu *c = b->cpu;
    struct op op[DECODE_OPS_MAX + 1];
    struct decoder decoder;
    unsigned count, len;
    decoder_init(&decoder, c->model);
    decode_insn(&decoder, MODE_64, t->bytes, sizeof t->bytes, 0, 0, op, &count, &len);
    op[count] = (struct op){
        .fn = op_leave_block, .ip = (uint16_t)len, .n = 1, .base = GPR_ZERO, .index = GPR_ZERO, .seg = SEG_NONE};
    uint64_t rip = c->rip;
    memcpy(c->gpr, b->regs, sizeof b->regs);
    cpu_set_rflags(c, (cpu_rflags(c) & ~FLAG_ARITH) | (b->rflags & FLAG_ARITH));
    c->gpr[GPR_BLOCK] = b->rip; /* RIP-relative operands are native code's */
    c->cur = NULL;
    op->fn(c, op);
    c->cur = NULL;
    c->rip = rip;
    if (c->exc.valid)
        return false;
    memcpy(b->regs, c->gpr, sizeof b->regs);
    set_arith(b, cpu_rflags(c));
    return true;
}

static bool load_table(struct binding *b, struct dtable *table, const uint8_t *source)
{
    return cpu_load_dtable(b->cpu, table, load16(source), load64(source + 2));
}

/* INS and OUTS: one unit at a time through the port instructions' rows. */
static bool port_string(struct binding *b, const struct trapped *t, bool in)
{
    struct cpu *c = b->cpu;
    unsigned size = t->in.operand_width / 8u, log2 = size == 1 ? 0 : size == 2 ? 1 : 2;
    bool rep = t->in.attributes & ZYDIS_ATTRIB_HAS_REP;
    uint64_t *p = &b->regs[in ? GPR_RDI : GPR_RSI], *count = &b->regs[GPR_RCX];
    uint64_t step = b->rflags & FLAG_DF ? -(uint64_t)size : size;
    while (!rep || *count) {
        c->gpr[GPR_RDX] = b->regs[GPR_RDX];
        c->gpr[GPR_RAX] = 0;
        if (!in)
            memcpy(&c->gpr[GPR_RAX], (const void *)(uintptr_t)*p, size);
        if (!hosted_exec_quiet(b, (enum hinsn)((in ? HINSN_IN8 : HINSN_OUT8) + (int)log2)))
            return false;
        if (in)
            memcpy((void *)(uintptr_t)*p, &c->gpr[GPR_RAX], size);
        *p += step;
        if (!rep)
            break;
        --*count;
    }
    return true;
}

/* A 16-bit selector or machine status word in memory, by the register form. */
static bool with_word(struct binding *b, const struct trapped *t, enum hinsn id)
{
    b->cpu->gpr[GPR_RAX] = load16(operand_address(b, t, 0));
    return hosted_exec_quiet(b, id);
}

static bool carry_out(struct binding *b, const struct trapped *t, enum hinsn id)
{
    struct cpu *c = b->cpu;
    uint64_t v = 0;
    c->cur = NULL;
    switch (id) {
    case HINSN_VMXON: return vmx_flags(b, vmx_vmxon(c, value64(b, t, 0)));
    case HINSN_VMCLEAR: return vmx_flags(b, vmx_vmclear(c, value64(b, t, 0)));
    case HINSN_VMPTRLD: return vmx_flags(b, vmx_vmptrld(c, value64(b, t, 0)));
    case HINSN_VMPTRST:
        if (!vmx_flags(b, vmx_vmptrst(c, &v)))
            return false;
        store64(operand_address(b, t, 0), v);
        return true;
    case HINSN_VMREAD: {
        enum vmx_result r = vmx_vmread(c, register_value(b, t->op[1].reg.value), &v);
        if (r == VMX_SUCCEED) {
            if (t->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY)
                store64(operand_address(b, t, 0), v);
            else
                b->regs[ZydisRegisterGetId(t->op[0].reg.value) & 15] = v;
        }
        return vmx_flags(b, r);
    }
    case HINSN_VMWRITE: return vmx_flags(b, vmx_vmwrite(c, register_value(b, t->op[0].reg.value), value64(b, t, 1)));
    case HINSN_INVEPT:
    case HINSN_INVVPID: {
        uint64_t d[2], type = register_value(b, t->op[0].reg.value);
        memcpy(d, operand_address(b, t, 1), sizeof d);
        return vmx_flags(b, id == HINSN_INVEPT ? vmx_invept(c, type, d) : vmx_invvpid(c, type, d));
    }
    case HINSN_INVPCID: {
        const uint8_t *d = operand_address(b, t, 1);
        if (!model_has(c->model, FEATURE_invpcid))
            return cpu_raise(c, EXC_UD, 0);
        return cpu_invpcid(c, register_value(b, t->op[0].reg.value), load64(d), load64(d + 8));
    }
    case HINSN_LGDT: return load_table(b, &c->gdtr, operand_address(b, t, 0));
    case HINSN_LIDT: return load_table(b, &c->idtr, operand_address(b, t, 0));
    case HINSN_LTR:
    case HINSN_LLDT:
    case HINSN_LMSW: return has_memory(t) ? with_word(b, t, id) : execute(b, t);
    case HINSN_IN32:
    case HINSN_OUT32:
        if (t->in.mnemonic == ZYDIS_MNEMONIC_IN || t->in.mnemonic == ZYDIS_MNEMONIC_OUT)
            return execute(b, t);
        return port_string(b, t, id == HINSN_IN32);
    case HINSN_HLT: return true; /* hosted_trap_event() */
    default: return execute(b, t);
    }
}

/* Called by entry.S on the software processor's stack. HOSTED_EVENT: hosted_trap_event() is to be called on native
 * code's. */
enum hosted_outcome hosted_trap(struct binding *b)
{
    struct trapped t;
    if (!decode(b->rip, &t))
        return HOSTED_GO;
    enum hinsn id = row_of(&t);
    uint64_t next = b->rip + t.in.length;
    b->doing = (unsigned)id;

    if (id == HINSN_VMLAUNCH || id == HINSN_VMRESUME || id == HINSN_VMRUN) {
        enum hosted_outcome o = hosted_enter_trapped(b, id == HINSN_VMRUN, id == HINSN_VMRESUME, next);
        if (o == HOSTED_GO)
            return HOSTED_GO;
        b->rip = next;
        if (id != HINSN_VMRUN)
            vmx_flags(b, (enum vmx_result)o);
        return o == HOSTED_EVENT ? HOSTED_EVENT : HOSTED_GO;
    }
    bool ok = carry_out(b, &t, id);
    b->rip = next;
    if (!ok)
        return HOSTED_EVENT;
    switch (id) { /* what may let an interrupt in */
    case HINSN_STI:
    case HINSN_HLT:
    case HINSN_STGI:
    case HINSN_WRMSR:
    case HINSN_WRITE_CR0: return HOSTED_EVENT;
    default: return HOSTED_GO;
    }
}

void hosted_trap_event(struct binding *b)
{
    struct cpu *c = b->cpu;
    if (c->exc.valid) {
        hosted_raise(b);
        return;
    }
    bool woken = b->woken;
    b->woken = false;
    if (b->doing == HINSN_HLT) {
        if (!woken)
            hosted_halt(b);
        return;
    }
    if (b->doing == HINSN_STI) {
        __atomic_fetch_and(&c->attention, ~(uint32_t)ATT_SHADOW, __ATOMIC_SEQ_CST);
        c->shadow_sti = false;
        bool any = hosted_poll(b);
        b->woken = any;
        return;
    }
    hosted_poll(b);
}

#else

enum vmenter_status vmenter_trap(bool on)
{
    return !machine_binding ? VMENTER_EUNBOUND : on ? VMENTER_ENOSYS : VMENTER_OK;
}

#endif
