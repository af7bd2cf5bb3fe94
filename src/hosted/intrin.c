/* SPDX-License-Identifier: MIT
 *
 * intrin.c: <vmenter/intrin.h> and <vmenter/enter.h> on the software processor that is bound to the calling thread.
 *
 * Every intrinsic begins with the question whether the software processor itself executes this code, as a guest in
 * identity mode; then it is the one instruction that native.h makes of it. Else it is carried out on the bound
 * processor: by the operation that executes the instruction in a guest (hosted_exec), or by the function of src/vmx or
 * src/svm that the operation calls where the operand is in the process's memory.
 *
 * A faulting instruction has no effect; when its event handler returns, the intrinsic gives 2, or zero.
 */
#define VMENTER_HOSTED_LIBRARY
#include <vmenter/intrin.h>

#include "src/hosted/hosted.h"

/* In C the names that take both kinds of 64-bit pointer are macros too. */
#undef __vmx_on
#undef __vmx_vmclear
#undef __vmx_vmptrld
#undef __vmx_vmptrst
#undef __vmx_vmread
#undef vmenter_rdrand64_step
#undef vmenter_rdseed64_step

/* As a guest of identity mode: the instruction. */
#if defined(__x86_64__)
#define VMENTER_NATIVE_NAME(name)  VMENTER_NATIVE_NAME_(name)
#define VMENTER_NATIVE_NAME_(name) native_##name
#include <vmenter/native.h>
#define AS_GUEST(name, ...)                                                                                            \
    if (unlikely(machine_is_guest()))                                                                                  \
    return VMENTER_NATIVE_NAME(name)(__VA_ARGS__)
#define AS_GUEST_VOID(name, ...)                                                                                       \
    if (unlikely(machine_is_guest())) {                                                                                \
        VMENTER_NATIVE_NAME(name)(__VA_ARGS__);                                                                        \
        return;                                                                                                        \
    }
#else
#define AS_GUEST(name, ...)
#define AS_GUEST_VOID(name, ...)
#endif

/* Begins the intrinsic or returns `otherwise` (nothing is bound and a handler came back). */
#define BEGIN(id, otherwise)                                                                                           \
    struct binding *b = hosted_begin(HINSN_##id);                                                                      \
    if (unlikely(!b))                                                                                                  \
        return otherwise;                                                                                              \
    struct cpu *c = b->cpu;                                                                                            \
    (void)c
#define BEGIN_VOID(id) BEGIN(id, )

/* The result of a function of src/vmx; a fault becomes an event and then 2. */
static unsigned char vmx_outcome(struct binding *b, enum vmx_result r)
{
    b->cpu->icount++;
    if (likely(r != VMX_FAULT))
        return (unsigned char)r;
    hosted_raise(b);
    return 2;
}

/* --- VMX
 * ----------------------------------------------------------------------------------------------------------------- */

unsigned char __vmx_on(unsigned long long *region_pa)
{
    AS_GUEST(__vmx_on, region_pa);
    BEGIN(VMXON, 2);
    return vmx_outcome(b, vmx_vmxon(c, *region_pa));
}

void __vmx_off(void)
{
    AS_GUEST_VOID(__vmx_off);
    BEGIN_VOID(VMXOFF);
    vmx_outcome(b, vmx_vmxoff(c));
}

unsigned char __vmx_vmclear(unsigned long long *vmcs_pa)
{
    AS_GUEST(__vmx_vmclear, vmcs_pa);
    BEGIN(VMCLEAR, 2);
    return vmx_outcome(b, vmx_vmclear(c, *vmcs_pa));
}

unsigned char __vmx_vmptrld(unsigned long long *vmcs_pa)
{
    AS_GUEST(__vmx_vmptrld, vmcs_pa);
    BEGIN(VMPTRLD, 2);
    return vmx_outcome(b, vmx_vmptrld(c, *vmcs_pa));
}

void __vmx_vmptrst(unsigned long long *vmcs_pa)
{
    AS_GUEST_VOID(__vmx_vmptrst, vmcs_pa);
    BEGIN_VOID(VMPTRST);
    uint64_t pa = 0;
    enum vmx_result r = vmx_vmptrst(c, &pa);
    if (r == VMX_SUCCEED)
        store64(vmcs_pa, pa);
    vmx_outcome(b, r);
}

unsigned char __vmx_vmread(size_t field, size_t *value)
{
    AS_GUEST(__vmx_vmread, field, value);
    BEGIN(VMREAD, 2);
    uint64_t v = 0;
    enum vmx_result r = vmx_vmread(c, field, &v);
    if (r == VMX_SUCCEED)
        store64(value, v);
    return vmx_outcome(b, r);
}

unsigned char __vmx_vmwrite(size_t field, size_t value)
{
    AS_GUEST(__vmx_vmwrite, field, value);
    BEGIN(VMWRITE, 2);
    return vmx_outcome(b, vmx_vmwrite(c, field, value));
}

unsigned char __vmx_invept(size_t type, const void *descriptor)
{
    AS_GUEST(__vmx_invept, type, descriptor);
    BEGIN(INVEPT, 2);
    uint64_t d[2];
    memcpy(d, descriptor, sizeof d);
    return vmx_outcome(b, vmx_invept(c, type, d));
}

unsigned char __vmx_invvpid(size_t type, const void *descriptor)
{
    AS_GUEST(__vmx_invvpid, type, descriptor);
    BEGIN(INVVPID, 2);
    uint64_t d[2];
    memcpy(d, descriptor, sizeof d);
    return vmx_outcome(b, vmx_invvpid(c, type, d));
}

unsigned char __vmx_vmcall(struct vmenter_regs *regs)
{
    AS_GUEST(__vmx_vmcall, regs);
    BEGIN(VMCALL, 2);
    return vmx_outcome(b, vmx_vmcall(c));
}

void __vmx_vmfunc(unsigned int function, unsigned int index)
{
    AS_GUEST_VOID(__vmx_vmfunc, function, index);
    BEGIN_VOID(VMFUNC);
    c->gpr[GPR_RAX] = function;
    c->gpr[GPR_RCX] = index;
    vmx_outcome(b, vmx_vmfunc(c));
}

#if !defined(__x86_64__)
/* Entering with the registers of native code needs a native x86-64: entry.S. */
static unsigned char no_plain_entry(enum hinsn id)
{
    struct vmenter_event ev = {.vector = EXC_UD,
                               .intrinsic = hosted_name(id),
                               .rule = "general registers pass to the guest as they are on x86-64 hosts alone: use "
                                       "<vmenter/enter.h>"};
    hosted_event(machine_binding, &ev);
    return 2;
}
unsigned char __vmx_vmlaunch(void)
{
    return no_plain_entry(HINSN_VMLAUNCH);
}
unsigned char __vmx_vmresume(void)
{
    return no_plain_entry(HINSN_VMRESUME);
}
void __svm_vmrun(size_t vmcb_pa)
{
    struct vmenter_regs regs = {{{0}}};
    vmenter_vmrun(vmcb_pa, &regs);
}
#endif

/* --- SVM
 * ------------------------------------------------------------------------------------------------------------------ */

static void svm_outcome(struct binding *b, bool ok)
{
    b->cpu->icount++;
    if (unlikely(!ok))
        hosted_raise(b);
}

void __svm_vmload(size_t vmcb_pa)
{
    AS_GUEST_VOID(__svm_vmload, vmcb_pa);
    BEGIN_VOID(VMLOAD);
    svm_outcome(b, svm_vmload(c, vmcb_pa));
}

void __svm_vmsave(size_t vmcb_pa)
{
    AS_GUEST_VOID(__svm_vmsave, vmcb_pa);
    BEGIN_VOID(VMSAVE);
    svm_outcome(b, svm_vmsave(c, vmcb_pa));
}

void __svm_clgi(void)
{
    AS_GUEST_VOID(__svm_clgi);
    BEGIN_VOID(CLGI);
    svm_outcome(b, svm_clgi(c));
}

void __svm_stgi(void)
{
    AS_GUEST_VOID(__svm_stgi);
    BEGIN_VOID(STGI);
    svm_outcome(b, svm_stgi(c));
    hosted_poll(b);
}

void __svm_invlpga(void *la, int asid)
{
    AS_GUEST_VOID(__svm_invlpga, la, asid);
    BEGIN_VOID(INVLPGA);
    svm_outcome(b, svm_invlpga(c, (uintptr_t)la, (uint32_t)asid));
}

void __svm_skinit(int slb_pa)
{
    AS_GUEST_VOID(__svm_skinit, slb_pa);
    BEGIN_VOID(SKINIT);
    svm_outcome(b, svm_skinit(c, (uint32_t)slb_pa));
}

void __svm_vmmcall(struct vmenter_regs *regs)
{
    AS_GUEST_VOID(__svm_vmmcall, regs);
    BEGIN_VOID(VMMCALL);
    svm_outcome(b, svm_vmmcall(c));
}

/* --- intrinsics that are one executed row
 * --------------------------------------------------------------------------------- */

static unsigned long long edx_eax(const struct cpu *c)
{
    return c->gpr[GPR_RDX] << 32 | (uint32_t)c->gpr[GPR_RAX];
}

static void set_edx_eax(struct cpu *c, unsigned long long v)
{
    c->gpr[GPR_RAX] = (uint32_t)v;
    c->gpr[GPR_RDX] = v >> 32;
}

unsigned long long __readmsr(vmenter_msvc_ulong msr)
{
    AS_GUEST(__readmsr, msr);
    BEGIN(RDMSR, 0);
    c->gpr[GPR_RCX] = msr;
    return hosted_exec(b, HINSN_RDMSR) ? edx_eax(c) : 0;
}

void __writemsr(vmenter_msvc_ulong msr, unsigned long long value)
{
    AS_GUEST_VOID(__writemsr, msr, value);
    BEGIN_VOID(WRMSR);
    c->gpr[GPR_RCX] = msr;
    set_edx_eax(c, value);
    hosted_exec(b, HINSN_WRMSR);
    hosted_poll(b); /* an IPI to itself, a timer that is due, an EOI */
}

/* RAX out; RAX in. */
#define READ_RAX(type, name, id)                                                                                       \
    type name(void)                                                                                                    \
    {                                                                                                                  \
        AS_GUEST(name);                                                                                                \
        BEGIN(id, 0);                                                                                                  \
        c->gpr[GPR_RAX] = 0;                                                                                           \
        return hosted_exec(b, HINSN_##id) ? (type)c->gpr[GPR_RAX] : 0;                                                 \
    }
#define WRITE_RAX(type, name, id)                                                                                      \
    void name(type value)                                                                                              \
    {                                                                                                                  \
        AS_GUEST_VOID(name, value);                                                                                    \
        BEGIN_VOID(id);                                                                                                \
        c->gpr[GPR_RAX] = value;                                                                                       \
        hosted_exec(b, HINSN_##id);                                                                                    \
    }
#define PLAIN(name, id)                                                                                                \
    void name(void)                                                                                                    \
    {                                                                                                                  \
        AS_GUEST_VOID(name);                                                                                           \
        BEGIN_VOID(id);                                                                                                \
        hosted_exec(b, HINSN_##id);                                                                                    \
    }
#define POLLING

READ_RAX(unsigned long long, __readcr0, READ_CR0)
READ_RAX(unsigned long long, __readcr2, READ_CR2)
READ_RAX(unsigned long long, __readcr3, READ_CR3)
READ_RAX(unsigned long long, __readcr4, READ_CR4)
READ_RAX(unsigned long long, __readcr8, READ_CR8)
WRITE_RAX(unsigned long long, __writecr0, WRITE_CR0)
WRITE_RAX(unsigned long long, __writecr2, WRITE_CR2)
WRITE_RAX(unsigned long long, __writecr3, WRITE_CR3)
WRITE_RAX(unsigned long long, __writecr4, WRITE_CR4)

void __writecr8(unsigned long long value)
{
    AS_GUEST_VOID(__writecr8, value);
    BEGIN_VOID(WRITE_CR8);
    c->gpr[GPR_RAX] = value;
    hosted_exec(b, HINSN_WRITE_CR8);
    hosted_poll(b);
}

unsigned long long __readdr(unsigned int n)
{
    AS_GUEST(__readdr, n);
    BEGIN(READ_DR0, 0);
    return hosted_exec(b, (enum hinsn)(HINSN_READ_DR0 + (n & 7))) ? c->gpr[GPR_RAX] : 0;
}

void __writedr(unsigned int n, unsigned long long value)
{
    AS_GUEST_VOID(__writedr, n, value);
    BEGIN_VOID(WRITE_DR0);
    c->gpr[GPR_RAX] = value;
    hosted_exec(b, (enum hinsn)(HINSN_WRITE_DR0 + (n & 7)));
}

unsigned long long __readeflags(void)
{
    AS_GUEST(__readeflags);
    BEGIN(READ_FLAGS, 0);
    c->icount++;
    return cpu_rflags(c) & ~(FLAG_VM | FLAG_RF); /* PUSHF */
}

void __writeeflags(unsigned long long value)
{
    AS_GUEST_VOID(__writeeflags, value);
    BEGIN_VOID(WRITE_FLAGS);
    /* POPFQ at CPL 0: SDM volume 2, "POPF/POPFD/POPFQ". */
    uint64_t can = FLAG_ARITH | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_AC | FLAG_ID;
    cpu_set_rflags(c, (cpu_rflags(c) & ~(can | FLAG_RF)) | (value & can));
    c->icount++;
    hosted_poll(b);
}

unsigned int __getcallerseflags(void)
{
    return (unsigned int)__readeflags();
}

PLAIN(_disable, CLI)
PLAIN(_clac, CLAC)
PLAIN(_stac, STAC)
PLAIN(_swapgs, SWAPGS)
PLAIN(__wbinvd, WBINVD)
PLAIN(__ud2, UD2)

void _enable(void)
{
    AS_GUEST_VOID(_enable);
    BEGIN_VOID(STI);
    hosted_exec(b, HINSN_STI);
    /* The instruction after STI is native code's: the shadow is over. */
    __atomic_fetch_and(&c->attention, ~(uint32_t)ATT_SHADOW, __ATOMIC_SEQ_CST);
    c->shadow_sti = false;
    /* "STI; HLT" must not sleep over what STI let in. */
    bool woken = hosted_poll(b);
    b->woken = woken;
}

void __halt(void)
{
    AS_GUEST_VOID(__halt);
    struct binding *waiting = machine_binding;
    if (waiting && waiting->woken) {
        waiting->woken = false;
        return;
    }
    BEGIN_VOID(HLT);
    c->icount++;
    hosted_halt(b);
}

unsigned long long _xgetbv(unsigned int xcr)
{
    AS_GUEST(_xgetbv, xcr);
    BEGIN(XGETBV, 0);
    c->gpr[GPR_RCX] = xcr;
    return hosted_exec(b, HINSN_XGETBV) ? edx_eax(c) : 0;
}

void _xsetbv(unsigned int xcr, unsigned long long value)
{
    AS_GUEST_VOID(_xsetbv, xcr, value);
    BEGIN_VOID(XSETBV);
    c->gpr[GPR_RCX] = xcr;
    set_edx_eax(c, value);
    hosted_exec(b, HINSN_XSETBV);
}

/* --- identification, time, counters
 * ----------------------------------------------------------------------------------------- */

void __cpuidex(int info[4], int leaf, int subleaf)
{
    AS_GUEST_VOID(__cpuidex, info, leaf, subleaf);
    BEGIN_VOID(CPUID);
    c->gpr[GPR_RAX] = (uint32_t)leaf;
    c->gpr[GPR_RCX] = (uint32_t)subleaf;
    if (!hosted_exec(b, HINSN_CPUID))
        return;
    info[0] = (int)c->gpr[GPR_RAX];
    info[1] = (int)c->gpr[GPR_RBX];
    info[2] = (int)c->gpr[GPR_RCX];
    info[3] = (int)c->gpr[GPR_RDX];
}

void vmenter_cpuid(int info[4], int leaf)
{
    __cpuidex(info, leaf, 0);
}

unsigned long long __rdtsc(void)
{
    AS_GUEST(__rdtsc);
    BEGIN(RDTSC, 0);
    return hosted_exec(b, HINSN_RDTSC) ? edx_eax(c) : 0;
}

unsigned long long __rdtscp(unsigned int *aux)
{
    AS_GUEST(__rdtscp, aux);
    BEGIN(RDTSCP, 0);
    if (!hosted_exec(b, HINSN_RDTSCP))
        return 0;
    *aux = (uint32_t)c->gpr[GPR_RCX];
    return edx_eax(c);
}

unsigned long long __readpmc(vmenter_msvc_ulong counter)
{
    AS_GUEST(__readpmc, counter);
    BEGIN(RDPMC, 0);
    c->gpr[GPR_RCX] = counter;
    return hosted_exec(b, HINSN_RDPMC) ? edx_eax(c) : 0;
}

#define RANDOM(name, id, type)                                                                                         \
    int name(type *value)                                                                                              \
    {                                                                                                                  \
        AS_GUEST(name, value);                                                                                         \
        BEGIN(id, 0);                                                                                                  \
        if (!hosted_exec(b, HINSN_##id))                                                                               \
            return 0;                                                                                                  \
        type v = (type)c->gpr[GPR_RAX];                                                                                \
        memcpy(value, &v, sizeof v);                                                                                   \
        return cpu_rflags(c) & FLAG_CF;                                                                                \
    }
RANDOM(_rdrand16_step, RDRAND16, unsigned short)
RANDOM(_rdrand32_step, RDRAND32, unsigned int)
RANDOM(_rdrand64_step, RDRAND64, unsigned long long)
RANDOM(_rdseed16_step, RDSEED16, unsigned short)
RANDOM(_rdseed32_step, RDSEED32, unsigned int)
RANDOM(_rdseed64_step, RDSEED64, unsigned long long)

/* --- descriptor tables and selectors
 * ------------------------------------------------------------------------------------------ */

static void store_table(const struct dtable *t, void *destination)
{
    store16(destination, t->limit);
    store64((uint8_t *)destination + 2, t->base);
}

static void load_table(struct binding *b, struct dtable *t, const void *source)
{
    b->cpu->icount++;
    b->cpu->cur = NULL;
    if (!cpu_load_dtable(b->cpu, t, load16(source), load64((const uint8_t *)source + 2)))
        hosted_raise(b);
}

void __sidt(void *destination)
{
    AS_GUEST_VOID(__sidt, destination);
    BEGIN_VOID(SIDT);
    store_table(&c->idtr, destination);
}

void __lidt(void *source)
{
    AS_GUEST_VOID(__lidt, source);
    BEGIN_VOID(LIDT);
    load_table(b, &c->idtr, source);
}

void _sgdt(void *destination)
{
    AS_GUEST_VOID(_sgdt, destination);
    BEGIN_VOID(SGDT);
    store_table(&c->gdtr, destination);
}

void _lgdt(void *source)
{
    AS_GUEST_VOID(_lgdt, source);
    BEGIN_VOID(LGDT);
    load_table(b, &c->gdtr, source);
}

vmenter_msvc_ulong __segmentlimit(vmenter_msvc_ulong selector)
{
    AS_GUEST(__segmentlimit, selector);
    BEGIN(LSL, 0);
    c->gpr[GPR_RAX] = 0;
    c->gpr[GPR_RCX] = selector;
    return hosted_exec(b, HINSN_LSL) ? (vmenter_msvc_ulong)c->gpr[GPR_RAX] : 0;
}

unsigned int _lar(unsigned short selector)
{
    AS_GUEST(_lar, selector);
    BEGIN(LAR, 0);
    c->gpr[GPR_RAX] = 0;
    c->gpr[GPR_RCX] = selector;
    return hosted_exec(b, HINSN_LAR) ? (unsigned int)c->gpr[GPR_RAX] : 0;
}

READ_RAX(unsigned short, _str, STR)
READ_RAX(unsigned short, _sldt, SLDT)
READ_RAX(unsigned short, _readcs, READ_CS)
READ_RAX(unsigned short, _readds, READ_DS)
READ_RAX(unsigned short, _reades, READ_ES)
READ_RAX(unsigned short, _readfs, READ_FS)
READ_RAX(unsigned short, _readgs, READ_GS)
READ_RAX(unsigned short, _readss, READ_SS)
WRITE_RAX(unsigned short, _ltr, LTR)
WRITE_RAX(unsigned short, _lldt, LLDT)
WRITE_RAX(unsigned short, _writeds, WRITE_DS)
WRITE_RAX(unsigned short, _writees, WRITE_ES)
WRITE_RAX(unsigned short, _writefs, WRITE_FS)
WRITE_RAX(unsigned short, _writegs, WRITE_GS)
WRITE_RAX(unsigned short, _writess, WRITE_SS)
READ_RAX(unsigned int, _readfsbase_u32, RDFSBASE32)
READ_RAX(unsigned long long, _readfsbase_u64, RDFSBASE64)
READ_RAX(unsigned int, _readgsbase_u32, RDGSBASE32)
READ_RAX(unsigned long long, _readgsbase_u64, RDGSBASE64)
WRITE_RAX(unsigned int, _writefsbase_u32, WRFSBASE32)
WRITE_RAX(unsigned long long, _writefsbase_u64, WRFSBASE64)
WRITE_RAX(unsigned int, _writegsbase_u32, WRGSBASE32)
WRITE_RAX(unsigned long long, _writegsbase_u64, WRGSBASE64)

#define SEG_byte                BYTE
#define SEG_word                WORD
#define SEG_dword               DWORD
#define SEG_qword               QWORD
#define SEG_fs                  FS
#define SEG_gs                  GS
#define SEG_ID(verb, seg, size) CONCAT(CONCAT(HINSN_##verb##_, seg), size)
#define SEG_HOSTED(seg, size, type)                                                                                    \
    type __read##seg##size(vmenter_msvc_ulong offset)                                                                  \
    {                                                                                                                  \
        AS_GUEST(__read##seg##size, offset);                                                                           \
        struct binding *b = hosted_begin(SEG_ID(READ, SEG_##seg, SEG_##size));                                         \
        if (!b)                                                                                                        \
            return 0;                                                                                                  \
        b->cpu->gpr[GPR_RCX] = offset;                                                                                 \
        b->cpu->gpr[GPR_RAX] = 0;                                                                                      \
        return hosted_exec(b, SEG_ID(READ, SEG_##seg, SEG_##size)) ? (type)b->cpu->gpr[GPR_RAX] : 0;                   \
    }                                                                                                                  \
    void __write##seg##size(vmenter_msvc_ulong offset, type value)                                                     \
    {                                                                                                                  \
        AS_GUEST_VOID(__write##seg##size, offset, value);                                                              \
        struct binding *b = hosted_begin(SEG_ID(WRITE, SEG_##seg, SEG_##size));                                        \
        if (!b)                                                                                                        \
            return;                                                                                                    \
        b->cpu->gpr[GPR_RCX] = offset;                                                                                 \
        b->cpu->gpr[GPR_RAX] = value;                                                                                  \
        hosted_exec(b, SEG_ID(WRITE, SEG_##seg, SEG_##size));                                                          \
    }                                                                                                                  \
    void __add##seg##size(vmenter_msvc_ulong offset, type value)                                                       \
    {                                                                                                                  \
        AS_GUEST_VOID(__add##seg##size, offset, value);                                                                \
        struct binding *b = hosted_begin(SEG_ID(ADD, SEG_##seg, SEG_##size));                                          \
        if (!b)                                                                                                        \
            return;                                                                                                    \
        b->cpu->gpr[GPR_RCX] = offset;                                                                                 \
        b->cpu->gpr[GPR_RAX] = value;                                                                                  \
        hosted_exec(b, SEG_ID(ADD, SEG_##seg, SEG_##size));                                                            \
    }                                                                                                                  \
    void __inc##seg##size(vmenter_msvc_ulong offset)                                                                   \
    {                                                                                                                  \
        AS_GUEST_VOID(__inc##seg##size, offset);                                                                       \
        struct binding *b = hosted_begin(SEG_ID(INC, SEG_##seg, SEG_##size));                                          \
        if (!b)                                                                                                        \
            return;                                                                                                    \
        b->cpu->gpr[GPR_RCX] = offset;                                                                                 \
        hosted_exec(b, SEG_ID(INC, SEG_##seg, SEG_##size));                                                            \
    }
VMENTER_SEG_ACCESSES(SEG_HOSTED)

/* --- caches and translations
 * ---------------------------------------------------------------------------------------------------- */

void __invlpg(void *la)
{
    AS_GUEST_VOID(__invlpg, la);
    BEGIN_VOID(INVLPG);
    c->gpr[GPR_RAX] = (uintptr_t)la;
    hosted_exec(b, HINSN_INVLPG);
}

void _invpcid(unsigned int type, void *descriptor)
{
    AS_GUEST_VOID(_invpcid, type, descriptor);
    BEGIN_VOID(INVPCID);
    if (!model_has(c->model, FEATURE_invpcid)) {
        cpu_raise(c, EXC_UD, 0);
        hosted_raise(b);
        return;
    }
    c->icount++;
    c->cur = NULL;
    if (!cpu_invpcid(c, type, load64(descriptor), load64((const uint8_t *)descriptor + 8)))
        hosted_raise(b);
}

/* --- port I/O
 * --------------------------------------------------------------------------------------------------------------------
 */

#define PORT(bits_, in, out, ins, outs, type)                                                                          \
    type in(unsigned short port)                                                                                       \
    {                                                                                                                  \
        AS_GUEST(in, port);                                                                                            \
        BEGIN(IN##bits_, 0);                                                                                           \
        c->gpr[GPR_RDX] = port;                                                                                        \
        return hosted_exec(b, HINSN_IN##bits_) ? (type)c->gpr[GPR_RAX] : 0;                                            \
    }                                                                                                                  \
    void out(unsigned short port, type data)                                                                           \
    {                                                                                                                  \
        AS_GUEST_VOID(out, port, data);                                                                                \
        BEGIN_VOID(OUT##bits_);                                                                                        \
        c->gpr[GPR_RDX] = port;                                                                                        \
        c->gpr[GPR_RAX] = data;                                                                                        \
        hosted_exec(b, HINSN_OUT##bits_);                                                                              \
    }                                                                                                                  \
    void ins(unsigned short port, void *buffer, vmenter_msvc_ulong count)                                              \
    {                                                                                                                  \
        AS_GUEST_VOID(ins, port, buffer, count);                                                                       \
        for (uint8_t *p = buffer; count; count--, p += sizeof(type)) {                                                 \
            type v = in(port);                                                                                         \
            memcpy(p, &v, sizeof v);                                                                                   \
        }                                                                                                              \
    }                                                                                                                  \
    void outs(unsigned short port, const void *buffer, vmenter_msvc_ulong count)                                       \
    {                                                                                                                  \
        AS_GUEST_VOID(outs, port, buffer, count);                                                                      \
        for (const uint8_t *p = buffer; count; count--, p += sizeof(type)) {                                           \
            type v;                                                                                                    \
            memcpy(&v, p, sizeof v);                                                                                   \
            out(port, v);                                                                                              \
        }                                                                                                              \
    }
PORT(8, __inbyte, __outbyte, __inbytestring, __outbytestring, unsigned char)
PORT(16, __inword, __outword, __inwordstring, __outwordstring, unsigned short)
PORT(32, __indword, __outdword, __indwordstring, __outdwordstring, vmenter_msvc_ulong)

/* --- deliberate exceptions
 * --------------------------------------------------------------------------------------------------------- */

static void software_interrupt(struct binding *b, uint8_t vector, const char *rule)
{
    struct vmenter_event ev = {.vector = vector, .intrinsic = hosted_name(b->doing), .rule = rule};
    hosted_event(b, &ev);
}

void __int2c(void)
{
    AS_GUEST_VOID(__int2c);
    BEGIN_VOID(INT2C);
    software_interrupt(b, 0x2c, "INT 2Ch: an assertion of the program failed");
}

void __fastfail(unsigned int code)
{
#if defined(__x86_64__)
    if (machine_is_guest())
        native_vmenter_fastfail(code);
#endif
    struct binding *b = hosted_begin(HINSN_INT29);
    if (b)
        software_interrupt(b, 0x29, "INT 29h: the program asked to be ended at once");
    __builtin_trap();
}

/* --- the short names that MSVC lacks, for assembly; a program's own functions of these names come first --------------
 */
#define SHORT_NAME(short_name, name)                                                                                   \
    extern __typeof__(name) short_##name __asm__(short_name) __attribute__((weak, alias(#name), visibility("default")))
SHORT_NAME("__vmx_invept", vmenter_vmx_invept);
SHORT_NAME("__vmx_invvpid", vmenter_vmx_invvpid);
SHORT_NAME("__vmx_vmcall", vmenter_vmx_vmcall);
SHORT_NAME("__vmx_vmfunc", vmenter_vmx_vmfunc);
SHORT_NAME("__svm_vmmcall", vmenter_svm_vmmcall);
SHORT_NAME("_lar", vmenter_lar);
SHORT_NAME("_ltr", vmenter_ltr);
SHORT_NAME("_lldt", vmenter_lldt);
SHORT_NAME("_str", vmenter_str);
SHORT_NAME("_sldt", vmenter_sldt);
SHORT_NAME("_readcs", vmenter_readcs);
SHORT_NAME("_readds", vmenter_readds);
SHORT_NAME("_reades", vmenter_reades);
SHORT_NAME("_readfs", vmenter_readfs);
SHORT_NAME("_readgs", vmenter_readgs);
SHORT_NAME("_readss", vmenter_readss);
SHORT_NAME("_writeds", vmenter_writeds);
SHORT_NAME("_writees", vmenter_writees);
SHORT_NAME("_writefs", vmenter_writefs);
SHORT_NAME("_writegs", vmenter_writegs);
SHORT_NAME("_writess", vmenter_writess);
SHORT_NAME("_swapgs", vmenter_swapgs);
