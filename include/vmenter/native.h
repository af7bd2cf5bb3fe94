/* SPDX-License-Identifier: MIT
 *
 * native.h: the intrinsics of <vmenter/intrin.h> as instructions of an x86-64 processor (GNU assembler syntax, GCC and
 * Clang).
 *
 * Invariants: one instruction each (port strings: one with REP); flags that carry the outcome are outputs of the asm
 * statement, not read back from RFLAGS later; memory operands have the width that the instruction accesses; everything
 * that orders or touches memory clobbers "memory"; nothing is stored below RSP, where the red zone may be. Two
 * exceptions, each said at its place: reading and writing RFLAGS, which only PUSHF and POPF can, and VMRUN, which
 * leaves no register but RSP to find the frame with.
 *
 * VMENTER_NATIVE_NAME(name) names the functions: the intrinsics' own names by default. The hosted library includes this
 * file a second way, with a prefix.
 */
#ifndef VMENTER_NATIVE_H
#define VMENTER_NATIVE_H

#if defined(__GNUC__) && !defined(VMENTER_BUILDING)
#pragma GCC system_header /* statement expressions and casts are no business of the program's warnings */
#endif

#ifndef VMENTER_NATIVE_NAME
#define VMENTER_NATIVE_NAME(name) name
#endif
#define VMENTER_N(type, name)                                                                                          \
    static __inline__ __attribute__((__always_inline__, __unused__)) type VMENTER_NATIVE_NAME(name)

#ifdef __cplusplus
extern "C" {
#endif

/* Ten bytes for SGDT and kin, sixteen for INVEPT, INVVPID and INVPCID: for operands of the right width. */
struct vmenter_bytes10 {
    unsigned char byte[10];
} __attribute__((__may_alias__));
struct vmenter_bytes16 {
    unsigned char byte[16];
} __attribute__((__may_alias__));

/* VMfailInvalid sets CF, VMfailValid sets ZF, VMsucceed clears both. Never both. */
#define VMENTER_FLAG_OUTPUTS "=@ccc"(invalid), "=@ccz"(valid)
#define VMENTER_VMX_RESULT   ((unsigned char)(invalid ? 2 : valid))

/* --- VMX ---------------------------------------------------------------------------------------------------------- */
#define VMENTER_VMX_POINTER(name, mnemonic)                                                                            \
    VMENTER_N(unsigned char, name)(unsigned long long *pa)                                                             \
    {                                                                                                                  \
        unsigned char invalid, valid;                                                                                  \
        __asm__ __volatile__(mnemonic " %2" : VMENTER_FLAG_OUTPUTS : "m"(*pa) : "memory");                             \
        return VMENTER_VMX_RESULT;                                                                                     \
    }
VMENTER_VMX_POINTER(__vmx_on, "vmxon")
VMENTER_VMX_POINTER(__vmx_vmclear, "vmclear")
VMENTER_VMX_POINTER(__vmx_vmptrld, "vmptrld")
#undef VMENTER_VMX_POINTER

VMENTER_N(void, __vmx_off)(void)
{
    __asm__ __volatile__("vmxoff" ::: "cc", "memory");
}
VMENTER_N(void, __vmx_vmptrst)(unsigned long long *pa)
{
    __asm__ __volatile__("vmptrst %0" : "=m"(*pa) : : "cc", "memory");
}
VMENTER_N(unsigned char, __vmx_vmread)(size_t field, size_t *value)
{
    unsigned char invalid, valid;
    size_t v;
    __asm__ __volatile__("vmread %3, %2" : VMENTER_FLAG_OUTPUTS, "=r"(v) : "r"(field) : "memory");
    if (!(invalid | valid))
        __builtin_memcpy(value, &v, sizeof(v));
    return VMENTER_VMX_RESULT;
}
VMENTER_N(unsigned char, __vmx_vmwrite)(size_t field, size_t value)
{
    unsigned char invalid, valid;
    __asm__ __volatile__("vmwrite %2, %3" : VMENTER_FLAG_OUTPUTS : "r"(value), "r"(field) : "memory");
    return VMENTER_VMX_RESULT;
}
VMENTER_N(unsigned char, __vmx_vmlaunch)(void)
{
    unsigned char invalid, valid;
    __asm__ __volatile__("vmlaunch" : VMENTER_FLAG_OUTPUTS : : "memory");
    return VMENTER_VMX_RESULT;
}
VMENTER_N(unsigned char, __vmx_vmresume)(void)
{
    unsigned char invalid, valid;
    __asm__ __volatile__("vmresume" : VMENTER_FLAG_OUTPUTS : : "memory");
    return VMENTER_VMX_RESULT;
}
VMENTER_N(unsigned char, __vmx_invept)(size_t type, const void *descriptor)
{
    unsigned char invalid, valid;
    __asm__ __volatile__("invept %2, %3"
                         : VMENTER_FLAG_OUTPUTS
                         : "m"(*(const struct vmenter_bytes16 *)descriptor), "r"(type)
                         : "memory");
    return VMENTER_VMX_RESULT;
}
VMENTER_N(unsigned char, __vmx_invvpid)(size_t type, const void *descriptor)
{
    unsigned char invalid, valid;
    __asm__ __volatile__("invvpid %2, %3"
                         : VMENTER_FLAG_OUTPUTS
                         : "m"(*(const struct vmenter_bytes16 *)descriptor), "r"(type)
                         : "memory");
    return VMENTER_VMX_RESULT;
}
VMENTER_N(unsigned char, __vmx_vmcall)(struct vmenter_regs *regs)
{
    unsigned char invalid, valid;
    uint64_t rax = regs->rax, rcx = regs->rcx, rdx = regs->rdx, rbx = regs->rbx, rsi = regs->rsi, rdi = regs->rdi;
    register uint64_t r8 __asm__("r8") = regs->r8;
    register uint64_t r9 __asm__("r9") = regs->r9;
    register uint64_t r10 __asm__("r10") = regs->r10;
    register uint64_t r11 __asm__("r11") = regs->r11;
    __asm__ __volatile__("vmcall"
                         : VMENTER_FLAG_OUTPUTS, "+a"(rax), "+c"(rcx), "+d"(rdx), "+b"(rbx), "+S"(rsi), "+D"(rdi),
                           "+r"(r8), "+r"(r9), "+r"(r10), "+r"(r11)
                         :
                         : "memory");
    regs->rax = rax, regs->rcx = rcx, regs->rdx = rdx, regs->rbx = rbx, regs->rsi = rsi, regs->rdi = rdi;
    regs->r8 = r8, regs->r9 = r9, regs->r10 = r10, regs->r11 = r11;
    return VMENTER_VMX_RESULT;
}
VMENTER_N(void, __vmx_vmfunc)(unsigned int function, unsigned int index)
{
    __asm__ __volatile__("vmfunc" : : "a"(function), "c"(index) : "memory");
}

/* --- SVM ---------------------------------------------------------------------------------------------------------- */
/* After the #VMEXIT RSP is the host's again (and RAX); every other general register is the guest's. RBP, which a frame
 * may need and GCC does not let an asm clobber, waits on the stack, past the red zone. */
VMENTER_N(void, __svm_vmrun)(size_t vmcb_pa)
{
    __asm__ __volatile__("lea -136(%%rsp), %%rsp\n\t"
                         "mov %%rbp, (%%rsp)\n\t"
                         "vmrun %%rax\n\t"
                         "mov (%%rsp), %%rbp\n\t"
                         "lea 136(%%rsp), %%rsp"
                         : "+a"(vmcb_pa)
                         :
                         : "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
                           "cc", "memory");
}
VMENTER_N(void, __svm_vmload)(size_t vmcb_pa)
{
    __asm__ __volatile__("vmload %%rax" : : "a"(vmcb_pa) : "memory");
}
VMENTER_N(void, __svm_vmsave)(size_t vmcb_pa)
{
    __asm__ __volatile__("vmsave %%rax" : : "a"(vmcb_pa) : "memory");
}
VMENTER_N(void, __svm_clgi)(void)
{
    __asm__ __volatile__("clgi" ::: "memory");
}
VMENTER_N(void, __svm_stgi)(void)
{
    __asm__ __volatile__("stgi" ::: "memory");
}
VMENTER_N(void, __svm_invlpga)(void *la, int asid)
{
    __asm__ __volatile__("invlpga %%rax, %%ecx" : : "a"(la), "c"(asid) : "memory");
}
VMENTER_N(void, __svm_skinit)(int slb_pa)
{
    __asm__ __volatile__("skinit %%eax" : : "a"(slb_pa) : "memory");
}
VMENTER_N(void, __svm_vmmcall)(struct vmenter_regs *regs)
{
    uint64_t rax = regs->rax, rcx = regs->rcx, rdx = regs->rdx, rbx = regs->rbx, rsi = regs->rsi, rdi = regs->rdi;
    register uint64_t r8 __asm__("r8") = regs->r8;
    register uint64_t r9 __asm__("r9") = regs->r9;
    register uint64_t r10 __asm__("r10") = regs->r10;
    register uint64_t r11 __asm__("r11") = regs->r11;
    __asm__ __volatile__("vmmcall"
                         : "+a"(rax), "+c"(rcx), "+d"(rdx), "+b"(rbx), "+S"(rsi), "+D"(rdi), "+r"(r8), "+r"(r9),
                           "+r"(r10), "+r"(r11)
                         :
                         : "cc", "memory");
    regs->rax = rax, regs->rcx = rcx, regs->rdx = rdx, regs->rbx = rbx, regs->rsi = rsi, regs->rdi = rdi;
    regs->r8 = r8, regs->r9 = r9, regs->r10 = r10, regs->r11 = r11;
}

/* --- model-specific, control and debug registers, flags ----------------------------------------------------------- */
VMENTER_N(unsigned long long, __readmsr)(vmenter_msvc_ulong msr)
{
    uint32_t low, high;
    __asm__ __volatile__("rdmsr" : "=a"(low), "=d"(high) : "c"(msr) : "memory");
    return (unsigned long long)high << 32 | low;
}
VMENTER_N(void, __writemsr)(vmenter_msvc_ulong msr, unsigned long long value)
{
    __asm__ __volatile__("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}
#define VMENTER_READ_WRITE(read, write, reg)                                                                           \
    VMENTER_N(unsigned long long, read)(void)                                                                          \
    {                                                                                                                  \
        unsigned long long v;                                                                                          \
        __asm__ __volatile__("mov %%" reg ", %0" : "=r"(v) : : "memory");                                              \
        return v;                                                                                                      \
    }                                                                                                                  \
    VMENTER_N(void, write)(unsigned long long value)                                                                   \
    {                                                                                                                  \
        __asm__ __volatile__("mov %0, %%" reg : : "r"(value) : "cc", "memory");                                        \
    }
VMENTER_READ_WRITE(__readcr0, __writecr0, "cr0")
VMENTER_READ_WRITE(__readcr2, __writecr2, "cr2")
VMENTER_READ_WRITE(__readcr3, __writecr3, "cr3")
VMENTER_READ_WRITE(__readcr4, __writecr4, "cr4")
VMENTER_READ_WRITE(__readcr8, __writecr8, "cr8")
#undef VMENTER_READ_WRITE

VMENTER_N(unsigned long long, __readdr)(unsigned int n)
{
    unsigned long long v;
    switch (n & 7) {
    case 0: __asm__ __volatile__("mov %%db0, %0" : "=r"(v) : : "memory"); break;
    case 1: __asm__ __volatile__("mov %%db1, %0" : "=r"(v) : : "memory"); break;
    case 2: __asm__ __volatile__("mov %%db2, %0" : "=r"(v) : : "memory"); break;
    case 3: __asm__ __volatile__("mov %%db3, %0" : "=r"(v) : : "memory"); break;
    case 4: __asm__ __volatile__("mov %%db4, %0" : "=r"(v) : : "memory"); break;
    case 5: __asm__ __volatile__("mov %%db5, %0" : "=r"(v) : : "memory"); break;
    case 6: __asm__ __volatile__("mov %%db6, %0" : "=r"(v) : : "memory"); break;
    default: __asm__ __volatile__("mov %%db7, %0" : "=r"(v) : : "memory"); break;
    }
    return v;
}
VMENTER_N(void, __writedr)(unsigned int n, unsigned long long value)
{
    switch (n & 7) {
    case 0: __asm__ __volatile__("mov %0, %%db0" : : "r"(value) : "cc", "memory"); break;
    case 1: __asm__ __volatile__("mov %0, %%db1" : : "r"(value) : "cc", "memory"); break;
    case 2: __asm__ __volatile__("mov %0, %%db2" : : "r"(value) : "cc", "memory"); break;
    case 3: __asm__ __volatile__("mov %0, %%db3" : : "r"(value) : "cc", "memory"); break;
    case 4: __asm__ __volatile__("mov %0, %%db4" : : "r"(value) : "cc", "memory"); break;
    case 5: __asm__ __volatile__("mov %0, %%db5" : : "r"(value) : "cc", "memory"); break;
    case 6: __asm__ __volatile__("mov %0, %%db6" : : "r"(value) : "cc", "memory"); break;
    default: __asm__ __volatile__("mov %0, %%db7" : : "r"(value) : "cc", "memory"); break;
    }
}
/* PUSHF and POPF write the stack; the compiler's builtins keep them off the red zone. */
VMENTER_N(unsigned long long, __readeflags)(void)
{
    return __builtin_ia32_readeflags_u64();
}
VMENTER_N(void, __writeeflags)(unsigned long long value)
{
    __asm__ __volatile__("" ::: "memory");
    __builtin_ia32_writeeflags_u64(value);
    __asm__ __volatile__("" ::: "cc", "memory");
}
VMENTER_N(unsigned int, __getcallerseflags)(void)
{
    return (unsigned int)__builtin_ia32_readeflags_u64();
}
VMENTER_N(void, _disable)(void)
{
    __asm__ __volatile__("cli" ::: "cc", "memory");
}
VMENTER_N(void, _enable)(void)
{
    __asm__ __volatile__("sti" ::: "cc", "memory");
}
VMENTER_N(void, __halt)(void)
{
    __asm__ __volatile__("hlt" ::: "memory");
}
VMENTER_N(unsigned long long, _xgetbv)(unsigned int xcr)
{
    uint32_t low, high;
    __asm__ __volatile__("xgetbv" : "=a"(low), "=d"(high) : "c"(xcr) : "memory");
    return (unsigned long long)high << 32 | low;
}
VMENTER_N(void, _xsetbv)(unsigned int xcr, unsigned long long value)
{
    __asm__ __volatile__("xsetbv" : : "c"(xcr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}
VMENTER_N(void, _clac)(void)
{
    __asm__ __volatile__("clac" ::: "cc", "memory");
}
VMENTER_N(void, _stac)(void)
{
    __asm__ __volatile__("stac" ::: "cc", "memory");
}

/* --- identification, time, counters ------------------------------------------------------------------------------- */
VMENTER_N(void, __cpuidex)(int info[4], int leaf, int subleaf)
{
    uint32_t regs[4];
    __asm__ __volatile__("cpuid"
                         : "=a"(regs[0]), "=b"(regs[1]), "=c"(regs[2]), "=d"(regs[3])
                         : "0"(leaf), "2"(subleaf)
                         : "memory");
    __builtin_memcpy(info, regs, sizeof(regs));
}
VMENTER_N(void, vmenter_cpuid)(int info[4], int leaf)
{
    uint32_t regs[4];
    __asm__ __volatile__("cpuid"
                         : "=a"(regs[0]), "=b"(regs[1]), "=c"(regs[2]), "=d"(regs[3])
                         : "0"(leaf), "2"(0)
                         : "memory");
    __builtin_memcpy(info, regs, sizeof(regs));
}
VMENTER_N(unsigned long long, __rdtsc)(void)
{
    uint32_t low, high;
    __asm__ __volatile__("rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return (unsigned long long)high << 32 | low;
}
VMENTER_N(unsigned long long, __rdtscp)(unsigned int *aux)
{
    uint32_t low, high, c;
    __asm__ __volatile__("rdtscp" : "=a"(low), "=d"(high), "=c"(c) : : "memory");
    *aux = c;
    return (unsigned long long)high << 32 | low;
}
VMENTER_N(unsigned long long, __readpmc)(vmenter_msvc_ulong counter)
{
    uint32_t low, high;
    __asm__ __volatile__("rdpmc" : "=a"(low), "=d"(high) : "c"(counter) : "memory");
    return (unsigned long long)high << 32 | low;
}
#define VMENTER_RANDOM(name, mnemonic, type)                                                                           \
    VMENTER_N(int, name)(type * value)                                                                                 \
    {                                                                                                                  \
        type v;                                                                                                        \
        unsigned char ok;                                                                                              \
        __asm__ __volatile__(mnemonic " %1" : "=@ccc"(ok), "=r"(v));                                                   \
        __builtin_memcpy(value, &v, sizeof(v));                                                                        \
        return ok;                                                                                                     \
    }
VMENTER_RANDOM(_rdrand16_step, "rdrand", unsigned short)
VMENTER_RANDOM(_rdrand32_step, "rdrand", unsigned int)
VMENTER_RANDOM(_rdrand64_step, "rdrand", unsigned long long)
VMENTER_RANDOM(_rdseed16_step, "rdseed", unsigned short)
VMENTER_RANDOM(_rdseed32_step, "rdseed", unsigned int)
VMENTER_RANDOM(_rdseed64_step, "rdseed", unsigned long long)
#undef VMENTER_RANDOM

/* --- descriptor tables and selectors ------------------------------------------------------------------------------ */
VMENTER_N(void, __sidt)(void *destination)
{
    __asm__ __volatile__("sidt %0" : "=m"(*(struct vmenter_bytes10 *)destination) : : "memory");
}
VMENTER_N(void, __lidt)(void *source)
{
    __asm__ __volatile__("lidt %0" : : "m"(*(struct vmenter_bytes10 *)source) : "memory");
}
VMENTER_N(void, _sgdt)(void *destination)
{
    __asm__ __volatile__("sgdt %0" : "=m"(*(struct vmenter_bytes10 *)destination) : : "memory");
}
VMENTER_N(void, _lgdt)(void *source)
{
    __asm__ __volatile__("lgdt %0" : : "m"(*(struct vmenter_bytes10 *)source) : "memory");
}
VMENTER_N(vmenter_msvc_ulong, __segmentlimit)(vmenter_msvc_ulong selector)
{
    vmenter_msvc_ulong limit = 0;
    __asm__ __volatile__("lsl %1, %0" : "+r"(limit) : "r"(selector) : "cc", "memory");
    return limit;
}
VMENTER_N(unsigned int, _lar)(unsigned short selector)
{
    unsigned int rights = 0;
    __asm__ __volatile__("lar %1, %0" : "+r"(rights) : "r"((unsigned int)selector) : "cc", "memory");
    return rights;
}
#define VMENTER_STORE_SELECTOR(name, instruction)                                                                      \
    VMENTER_N(unsigned short, name)(void)                                                                              \
    {                                                                                                                  \
        unsigned int v;                                                                                                \
        __asm__ __volatile__(instruction " %0" : "=r"(v) : : "memory");                                                \
        return (unsigned short)v;                                                                                      \
    }
#define VMENTER_LOAD_SELECTOR(name, before, after)                                                                     \
    VMENTER_N(void, name)(unsigned short selector)                                                                     \
    {                                                                                                                  \
        __asm__ __volatile__(before "%w0" after : : "r"(selector) : "memory");                                         \
    }
VMENTER_STORE_SELECTOR(_str, "str")
VMENTER_STORE_SELECTOR(_sldt, "sldt")
VMENTER_STORE_SELECTOR(_readcs, "mov %%cs,")
VMENTER_STORE_SELECTOR(_readds, "mov %%ds,")
VMENTER_STORE_SELECTOR(_reades, "mov %%es,")
VMENTER_STORE_SELECTOR(_readfs, "mov %%fs,")
VMENTER_STORE_SELECTOR(_readgs, "mov %%gs,")
VMENTER_STORE_SELECTOR(_readss, "mov %%ss,")
VMENTER_LOAD_SELECTOR(_ltr, "ltr ", "")
VMENTER_LOAD_SELECTOR(_lldt, "lldt ", "")
VMENTER_LOAD_SELECTOR(_writeds, "mov ", ", %%ds")
VMENTER_LOAD_SELECTOR(_writees, "mov ", ", %%es")
VMENTER_LOAD_SELECTOR(_writefs, "mov ", ", %%fs")
VMENTER_LOAD_SELECTOR(_writegs, "mov ", ", %%gs")
VMENTER_LOAD_SELECTOR(_writess, "mov ", ", %%ss")
#undef VMENTER_STORE_SELECTOR
#undef VMENTER_LOAD_SELECTOR
VMENTER_N(void, _swapgs)(void)
{
    __asm__ __volatile__("swapgs" ::: "memory");
}

#define VMENTER_SEGMENT_BASE(read, write, mnemonic, type)                                                              \
    VMENTER_N(type, read)(void)                                                                                        \
    {                                                                                                                  \
        type v;                                                                                                        \
        __asm__ __volatile__("rd" mnemonic " %0" : "=r"(v) : : "memory");                                              \
        return v;                                                                                                      \
    }                                                                                                                  \
    VMENTER_N(void, write)(type base)                                                                                  \
    {                                                                                                                  \
        __asm__ __volatile__("wr" mnemonic " %0" : : "r"(base) : "memory");                                            \
    }
VMENTER_SEGMENT_BASE(_readfsbase_u32, _writefsbase_u32, "fsbase", unsigned int)
VMENTER_SEGMENT_BASE(_readfsbase_u64, _writefsbase_u64, "fsbase", unsigned long long)
VMENTER_SEGMENT_BASE(_readgsbase_u32, _writegsbase_u32, "gsbase", unsigned int)
VMENTER_SEGMENT_BASE(_readgsbase_u64, _writegsbase_u64, "gsbase", unsigned long long)
#undef VMENTER_SEGMENT_BASE

#define VMENTER_SEG_suffix_byte  "b"
#define VMENTER_SEG_suffix_word  "w"
#define VMENTER_SEG_suffix_dword "l"
#define VMENTER_SEG_suffix_qword "q"
#define VMENTER_SEG_NATIVE(seg, size, type)                                                                            \
    VMENTER_N(type, __read##seg##size)(vmenter_msvc_ulong offset)                                                      \
    {                                                                                                                  \
        type v;                                                                                                        \
        __asm__ __volatile__("mov" VMENTER_SEG_suffix_##size " %%" #seg ":(%1), %0"                                    \
                             : "=q"(v)                                                                                 \
                             : "r"((size_t)offset)                                                                     \
                             : "memory");                                                                              \
        return v;                                                                                                      \
    }                                                                                                                  \
    VMENTER_N(void, __write##seg##size)(vmenter_msvc_ulong offset, type value)                                         \
    {                                                                                                                  \
        __asm__ __volatile__("mov" VMENTER_SEG_suffix_##size " %0, %%" #seg ":(%1)"                                    \
                             :                                                                                         \
                             : "q"(value), "r"((size_t)offset)                                                         \
                             : "memory");                                                                              \
    }                                                                                                                  \
    VMENTER_N(void, __add##seg##size)(vmenter_msvc_ulong offset, type value)                                           \
    {                                                                                                                  \
        __asm__ __volatile__("add" VMENTER_SEG_suffix_##size " %0, %%" #seg ":(%1)"                                    \
                             :                                                                                         \
                             : "q"(value), "r"((size_t)offset)                                                         \
                             : "cc", "memory");                                                                        \
    }                                                                                                                  \
    VMENTER_N(void, __inc##seg##size)(vmenter_msvc_ulong offset)                                                       \
    {                                                                                                                  \
        __asm__ __volatile__("inc" VMENTER_SEG_suffix_##size " %%" #seg ":(%0)"                                        \
                             :                                                                                         \
                             : "r"((size_t)offset)                                                                     \
                             : "cc", "memory");                                                                        \
    }
VMENTER_SEG_ACCESSES(VMENTER_SEG_NATIVE)
#undef VMENTER_SEG_NATIVE

/* --- caches and translations -------------------------------------------------------------------------------------- */
VMENTER_N(void, __invlpg)(void *la)
{
    __asm__ __volatile__("invlpg (%0)" : : "r"(la) : "memory");
}
VMENTER_N(void, _invpcid)(unsigned int type, void *descriptor)
{
    __asm__ __volatile__("invpcid %0, %1" : : "m"(*(struct vmenter_bytes16 *)descriptor), "r"((size_t)type) : "memory");
}
VMENTER_N(void, __wbinvd)(void)
{
    __asm__ __volatile__("wbinvd" ::: "memory");
}

/* --- port I/O ----------------------------------------------------------------------------------------------------- */
#define VMENTER_PORT(in, out, ins, outs, letter, modifier, type)                                                       \
    VMENTER_N(type, in)(unsigned short port)                                                                           \
    {                                                                                                                  \
        type v;                                                                                                        \
        __asm__ __volatile__("in" letter " %w1, %" modifier "0" : "=a"(v) : "Nd"(port) : "memory");                    \
        return v;                                                                                                      \
    }                                                                                                                  \
    VMENTER_N(void, out)(unsigned short port, type data)                                                               \
    {                                                                                                                  \
        __asm__ __volatile__("out" letter " %" modifier "1, %w0" : : "Nd"(port), "a"(data) : "memory");                \
    }                                                                                                                  \
    VMENTER_N(void, ins)(unsigned short port, void *buffer, vmenter_msvc_ulong count)                                  \
    {                                                                                                                  \
        size_t n = count;                                                                                              \
        __asm__ __volatile__("rep ins" letter : "+D"(buffer), "+c"(n) : "d"(port) : "memory");                         \
    }                                                                                                                  \
    VMENTER_N(void, outs)(unsigned short port, const void *buffer, vmenter_msvc_ulong count)                           \
    {                                                                                                                  \
        size_t n = count;                                                                                              \
        __asm__ __volatile__("rep outs" letter : "+S"(buffer), "+c"(n) : "d"(port) : "memory");                        \
    }
VMENTER_PORT(__inbyte, __outbyte, __inbytestring, __outbytestring, "b", "b", unsigned char)
VMENTER_PORT(__inword, __outword, __inwordstring, __outwordstring, "w", "w", unsigned short)
VMENTER_PORT(__indword, __outdword, __indwordstring, __outdwordstring, "l", "k", vmenter_msvc_ulong)
#undef VMENTER_PORT

/* --- deliberate exceptions ---------------------------------------------------------------------------------------- */
VMENTER_N(void, __ud2)(void)
{
    __asm__ __volatile__("ud2" ::: "memory");
}
VMENTER_N(void, __int2c)(void)
{
    __asm__ __volatile__("int $0x2c" ::: "memory");
}
VMENTER_N(void, __fastfail)(unsigned int code)
{
    __asm__ __volatile__("int $0x29" : : "c"(code) : "memory");
    __builtin_unreachable();
}

#ifdef __cplusplus
}
#endif
#endif
