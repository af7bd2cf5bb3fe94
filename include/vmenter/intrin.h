/* SPDX-License-Identifier: MIT
 *
 * intrin.h: the intrinsics that a virtual machine monitor is written with, by MSVC's names, for GCC and Clang, C11 and
 * C++17, 64-bit targets.
 *
 * Two modes, the same source for both:
 *   hosted   each privileged intrinsic is a call that acts on the software processor bound to the calling thread
 *            (vmenter_bind() of <vmenter/vmenter.h>). Link with -lvmenter. Any 64-bit little-endian host.
 *   native   each intrinsic is its one instruction, for ring 0 of an x86-64 processor. Chosen with -DVMENTER_NATIVE, or
 * by itself in a freestanding compilation. Nothing to link, except src/native/enter.S for <vmenter/enter.h>. Under MSVC
 * this header is <intrin.h> of the compiler.
 *
 * Types. MSVC's `unsigned __int64` is `unsigned long long` here and its `unsigned long` is 32 bits wide: `unsigned int`
 * on targets whose long has 64 bits. Where MSVC wants a pointer to a 64-bit value, `unsigned long *` (a uint64_t of
 * Linux) is taken as well; where it wants a pointer to bytes, words or longs, any object pointer is taken.
 *
 * Results of the VMX instructions: 0 the operation succeeded; 1 it failed and the VM-instruction error field of the
 * current VMCS says why (VMfailValid); 2 it failed and there is no current VMCS (VMfailInvalid).
 *
 * An intrinsic whose instruction would fault raises that exception: hosted, to the event handler of
 * <vmenter/vmenter.h>; native, on the processor. docs/INTRINSICS.md has the list with each one's faults, and the rules
 * for assembly callers.
 */
#ifndef VMENTER_INTRIN_H
#define VMENTER_INTRIN_H

#if defined(__GNUC__) && !defined(VMENTER_BUILDING)
#pragma GCC system_header /* statement expressions and casts are no business of the program's warnings */
#endif

#if defined(_MSC_VER)
#include <intrin.h>
#else

#if !defined(__LP64__) && !defined(_LP64)
#error "vmenter/intrin.h: a 64-bit target is needed (LP64)"
#endif

#include <stddef.h>
#include <stdint.h>

#if !defined(VMENTER_NATIVE) && defined(__STDC_HOSTED__) && !__STDC_HOSTED__
#define VMENTER_NATIVE 1
#endif
#if defined(VMENTER_NATIVE) && !defined(__x86_64__)
#error "vmenter/intrin.h: native intrinsics are instructions of an x86-64 processor"
#endif

/* The compiler's own headers first: what they define under MSVC's names is replaced below where it must act on the
 * logical processor or wants a -m flag. Including them again later changes nothing, they are guarded. */
#if defined(__x86_64__)
#include <x86intrin.h>
#include <cpuid.h>
#endif

#include <vmenter/enter.h>

#if defined(VMENTER_NATIVE)
#define VMENTER_INTRIN static __inline__ __attribute__((__always_inline__, __unused__))
#elif defined(VMENTER_BUILDING)
#define VMENTER_INTRIN __attribute__((__visibility__("default")))
#else
#define VMENTER_INTRIN extern
#endif

/* MSVC's `unsigned long` and `long`. */
typedef unsigned int vmenter_msvc_ulong;
typedef int vmenter_msvc_long;

/* --- names that the compiler's headers have too: ours stand in their place ---------------------------------------- */
#undef __rdtsc
#undef __rdtscp
#undef __readeflags
#undef __writeeflags
#undef _xgetbv
#undef _xsetbv
#undef _invpcid
#undef __cpuidex
#undef _rdrand16_step
#undef _rdrand32_step
#undef _rdrand64_step
#undef _rdseed16_step
#undef _rdseed32_step
#undef _rdseed64_step
#undef _readfsbase_u32
#undef _readfsbase_u64
#undef _readgsbase_u32
#undef _readgsbase_u64
#undef _writefsbase_u32
#undef _writefsbase_u64
#undef _writegsbase_u32
#undef _writegsbase_u64
#define __rdtsc          vmenter_rdtsc
#define __rdtscp         vmenter_rdtscp
#define __readeflags     vmenter_readeflags
#define __writeeflags    vmenter_writeeflags
#define _xgetbv          vmenter_xgetbv
#define _xsetbv          vmenter_xsetbv
#define _invpcid         vmenter_invpcid
#define __cpuidex        vmenter_cpuidex
#define _rdrand16_step   vmenter_rdrand16_step
#define _rdrand32_step   vmenter_rdrand32_step
#define _rdrand64_step   vmenter_rdrand64_step
#define _rdseed16_step   vmenter_rdseed16_step
#define _rdseed32_step   vmenter_rdseed32_step
#define _rdseed64_step   vmenter_rdseed64_step
#define _readfsbase_u32  vmenter_readfsbase_u32
#define _readfsbase_u64  vmenter_readfsbase_u64
#define _readgsbase_u32  vmenter_readgsbase_u32
#define _readgsbase_u64  vmenter_readgsbase_u64
#define _writefsbase_u32 vmenter_writefsbase_u32
#define _writefsbase_u64 vmenter_writefsbase_u64
#define _writegsbase_u32 vmenter_writegsbase_u32
#define _writegsbase_u64 vmenter_writegsbase_u64

/* Clang has some more as builtins under -fms-extensions: of the host's processor. */
#undef __readfsbyte
#undef __readfsword
#undef __readfsdword
#undef __readfsqword
#undef __readgsbyte
#undef __readgsword
#undef __readgsdword
#undef __readgsqword
#undef __writefsbyte
#undef __writefsword
#undef __writefsdword
#undef __writefsqword
#undef __writegsbyte
#undef __writegsword
#undef __writegsdword
#undef __writegsqword
#undef __addfsbyte
#undef __addfsword
#undef __addfsdword
#undef __addfsqword
#undef __addgsbyte
#undef __addgsword
#undef __addgsdword
#undef __addgsqword
#undef __incfsbyte
#undef __incfsword
#undef __incfsdword
#undef __incfsqword
#undef __incgsbyte
#undef __incgsword
#undef __incgsdword
#undef __incgsqword
#undef __ud2
#undef __int2c
#undef __fastfail
#define __readfsbyte   vmenter_readfsbyte
#define __readfsword   vmenter_readfsword
#define __readfsdword  vmenter_readfsdword
#define __readfsqword  vmenter_readfsqword
#define __readgsbyte   vmenter_readgsbyte
#define __readgsword   vmenter_readgsword
#define __readgsdword  vmenter_readgsdword
#define __readgsqword  vmenter_readgsqword
#define __writefsbyte  vmenter_writefsbyte
#define __writefsword  vmenter_writefsword
#define __writefsdword vmenter_writefsdword
#define __writefsqword vmenter_writefsqword
#define __writegsbyte  vmenter_writegsbyte
#define __writegsword  vmenter_writegsword
#define __writegsdword vmenter_writegsdword
#define __writegsqword vmenter_writegsqword
#define __addfsbyte    vmenter_addfsbyte
#define __addfsword    vmenter_addfsword
#define __addfsdword   vmenter_addfsdword
#define __addfsqword   vmenter_addfsqword
#define __addgsbyte    vmenter_addgsbyte
#define __addgsword    vmenter_addgsword
#define __addgsdword   vmenter_addgsdword
#define __addgsqword   vmenter_addgsqword
#define __incfsbyte    vmenter_incfsbyte
#define __incfsword    vmenter_incfsword
#define __incfsdword   vmenter_incfsdword
#define __incfsqword   vmenter_incfsqword
#define __incgsbyte    vmenter_incgsbyte
#define __incgsword    vmenter_incgsword
#define __incgsdword   vmenter_incgsdword
#define __incgsqword   vmenter_incgsqword
#define __ud2          vmenter_ud2
#define __int2c        vmenter_int2c
#define __fastfail     vmenter_fastfail

/* __cpuid with two arguments is MSVC's, with five the macro of <cpuid.h> (the bare instruction). */
#undef __cpuid
#define VMENTER_CPUID_PICK(a1, a2, a3, a4, a5, name, ...) name
#define vmenter_cpuid5(leaf, a, b, c, d)                  __cpuid_count(leaf, 0, a, b, c, d)
#define __cpuid(...)                                                                                                   \
    VMENTER_CPUID_PICK(__VA_ARGS__, vmenter_cpuid5, , , vmenter_cpuid, , )                                             \
    (__VA_ARGS__)

#include <vmenter/intrin_names.h>

#ifdef __cplusplus
extern "C" {
#endif

/* --- VMX ----------------------------------------------------------------------------------------------------------
 * The operand of VMXON, VMCLEAR and VMPTRLD is a variable that holds the region's physical address. */

/* Enters VMX operation. #UD without CR4.VMXE, #GP when IA32_FEATURE_CONTROL, CR0 or CR4 do not allow it. */
VMENTER_INTRIN unsigned char __vmx_on(unsigned long long *region_pa);
/* Leaves VMX operation. */
VMENTER_INTRIN void __vmx_off(void);
/* Makes the VMCS's launch state Clear and writes it back; if it was the current one, there is none afterwards. */
VMENTER_INTRIN unsigned char __vmx_vmclear(unsigned long long *vmcs_pa);
/* Makes the VMCS the current one. */
VMENTER_INTRIN unsigned char __vmx_vmptrld(unsigned long long *vmcs_pa);
/* Stores the current-VMCS pointer; all ones when there is none. */
VMENTER_INTRIN void __vmx_vmptrst(unsigned long long *vmcs_pa);
/* *value is written when the result is 0 only. */
VMENTER_INTRIN unsigned char __vmx_vmread(size_t field, size_t *value);
VMENTER_INTRIN unsigned char __vmx_vmwrite(size_t field, size_t value);
/* Enter the guest with the general registers as they are. They return on failure only, with every other register kept;
 * a VM exit continues at the VMCS's HOST_RIP on HOST_RSP with the guest's general registers in the processor (hosted:
 * on x86-64 hosts; elsewhere they report #UD, use enter.h). */
VMENTER_INTRIN unsigned char __vmx_vmlaunch(void);
VMENTER_INTRIN unsigned char __vmx_vmresume(void);

/* 16-byte descriptors, as the instructions take them. */
VMENTER_INTRIN unsigned char __vmx_invept(size_t type, const void *descriptor);
VMENTER_INTRIN unsigned char __vmx_invvpid(size_t type, const void *descriptor);
/* VMCALL with rax, rcx, rdx, rbx, rsi, rdi and r8 to r11 of the block; what the VMM leaves in them is stored back. 0
 * from a guest whose VMM leaves CF and ZF clear; in VMX root operation 1 or 2. */
VMENTER_INTRIN unsigned char __vmx_vmcall(struct vmenter_regs *regs);
/* VMFUNC with EAX = function, ECX = index. #UD outside of a guest. */
VMENTER_INTRIN void __vmx_vmfunc(unsigned int function, unsigned int index);

/* --- SVM ----------------------------------------------------------------------------------------------------------
 * #UD without EFER.SVME; a VMCB address that is no multiple of 4096 or not physical is #GP. */

/* VMRUN; returns after the #VMEXIT with GIF clear. Safe to call from C: callee-saved registers are kept, rbp too; the
 * guest starts with the caller's general registers (RAX and RSP from the VMCB). vmenter_vmrun() takes a block. */
VMENTER_INTRIN void __svm_vmrun(size_t vmcb_pa);
VMENTER_INTRIN void __svm_vmload(size_t vmcb_pa);
VMENTER_INTRIN void __svm_vmsave(size_t vmcb_pa);
VMENTER_INTRIN void __svm_clgi(void);
VMENTER_INTRIN void __svm_stgi(void);
VMENTER_INTRIN void __svm_invlpga(void *la, int asid);
VMENTER_INTRIN void __svm_skinit(int slb_pa);
/* VMMCALL with the registers of __vmx_vmcall(). #UD outside of a guest. */
VMENTER_INTRIN void __svm_vmmcall(struct vmenter_regs *regs);

/* --- model-specific, control and debug registers, flags ----------------------------------------------------------- */
VMENTER_INTRIN unsigned long long __readmsr(vmenter_msvc_ulong msr);
VMENTER_INTRIN void __writemsr(vmenter_msvc_ulong msr, unsigned long long value);
VMENTER_INTRIN unsigned long long __readcr0(void);
VMENTER_INTRIN unsigned long long __readcr2(void);
VMENTER_INTRIN unsigned long long __readcr3(void);
VMENTER_INTRIN unsigned long long __readcr4(void);
VMENTER_INTRIN unsigned long long __readcr8(void);
VMENTER_INTRIN void __writecr0(unsigned long long value);
VMENTER_INTRIN void __writecr2(unsigned long long value);
VMENTER_INTRIN void __writecr3(unsigned long long value);
VMENTER_INTRIN void __writecr4(unsigned long long value);
VMENTER_INTRIN void __writecr8(unsigned long long value);
VMENTER_INTRIN unsigned long long __readdr(unsigned int n);
VMENTER_INTRIN void __writedr(unsigned int n, unsigned long long value);
VMENTER_INTRIN unsigned long long __readeflags(void);
VMENTER_INTRIN void __writeeflags(unsigned long long value);
VMENTER_INTRIN unsigned int __getcallerseflags(void);
VMENTER_INTRIN void _disable(void);
VMENTER_INTRIN void _enable(void);
VMENTER_INTRIN void __halt(void);
VMENTER_INTRIN unsigned long long _xgetbv(unsigned int xcr);
VMENTER_INTRIN void _xsetbv(unsigned int xcr, unsigned long long value);
VMENTER_INTRIN void _clac(void);
VMENTER_INTRIN void _stac(void);

/* --- identification, time, counters ------------------------------------------------------------------------------- */
VMENTER_INTRIN void vmenter_cpuid(int info[4], int leaf); /* __cpuid */
VMENTER_INTRIN void __cpuidex(int info[4], int leaf, int subleaf);
VMENTER_INTRIN unsigned long long __rdtsc(void);
VMENTER_INTRIN unsigned long long __rdtscp(unsigned int *aux);
VMENTER_INTRIN unsigned long long __readpmc(vmenter_msvc_ulong counter);
VMENTER_INTRIN int _rdrand16_step(unsigned short *value);
VMENTER_INTRIN int _rdrand32_step(unsigned int *value);
VMENTER_INTRIN int _rdrand64_step(unsigned long long *value);
VMENTER_INTRIN int _rdseed16_step(unsigned short *value);
VMENTER_INTRIN int _rdseed32_step(unsigned int *value);
VMENTER_INTRIN int _rdseed64_step(unsigned long long *value);

/* --- descriptor tables and selectors --------------------------------------------------------------------------------
 * The table registers are ten bytes: a 16-bit limit and a 64-bit base. */
VMENTER_INTRIN void __sidt(void *destination);
VMENTER_INTRIN void __lidt(void *source);
VMENTER_INTRIN void _sgdt(void *destination);
VMENTER_INTRIN void _lgdt(void *source);
/* LSL: the limit in bytes, 0 when the selector gives none. LAR: as the instruction stores it, 0 when it gives none. */
VMENTER_INTRIN vmenter_msvc_ulong __segmentlimit(vmenter_msvc_ulong selector);
VMENTER_INTRIN unsigned int _lar(unsigned short selector);
VMENTER_INTRIN unsigned short _str(void);
VMENTER_INTRIN unsigned short _sldt(void);
VMENTER_INTRIN void _ltr(unsigned short selector);
VMENTER_INTRIN void _lldt(unsigned short selector);
VMENTER_INTRIN unsigned short _readcs(void);
VMENTER_INTRIN unsigned short _readds(void);
VMENTER_INTRIN unsigned short _reades(void);
VMENTER_INTRIN unsigned short _readfs(void);
VMENTER_INTRIN unsigned short _readgs(void);
VMENTER_INTRIN unsigned short _readss(void);
VMENTER_INTRIN void _writeds(unsigned short selector);
VMENTER_INTRIN void _writees(unsigned short selector);
VMENTER_INTRIN void _writefs(unsigned short selector);
VMENTER_INTRIN void _writegs(unsigned short selector);
VMENTER_INTRIN void _writess(unsigned short selector);
VMENTER_INTRIN void _swapgs(void);
VMENTER_INTRIN unsigned int _readfsbase_u32(void);
VMENTER_INTRIN unsigned long long _readfsbase_u64(void);
VMENTER_INTRIN unsigned int _readgsbase_u32(void);
VMENTER_INTRIN unsigned long long _readgsbase_u64(void);
VMENTER_INTRIN void _writefsbase_u32(unsigned int base);
VMENTER_INTRIN void _writefsbase_u64(unsigned long long base);
VMENTER_INTRIN void _writegsbase_u32(unsigned int base);
VMENTER_INTRIN void _writegsbase_u64(unsigned long long base);

/* Memory at FS or GS base + offset: the logical processor's, not the host thread's (whose FS is its TLS). */
#define VMENTER_SEG_ACCESS(seg, size, type)                                                                            \
    VMENTER_INTRIN type __read##seg##size(vmenter_msvc_ulong offset);                                                  \
    VMENTER_INTRIN void __write##seg##size(vmenter_msvc_ulong offset, type value);                                     \
    VMENTER_INTRIN void __add##seg##size(vmenter_msvc_ulong offset, type value);                                       \
    VMENTER_INTRIN void __inc##seg##size(vmenter_msvc_ulong offset);
#define VMENTER_SEG_ACCESSES(X)                                                                                        \
    X(fs, byte, unsigned char)                                                                                         \
    X(fs, word, unsigned short)                                                                                        \
    X(fs, dword, vmenter_msvc_ulong)                                                                                   \
    X(fs, qword, unsigned long long)                                                                                   \
    X(gs, byte, unsigned char)                                                                                         \
    X(gs, word, unsigned short)                                                                                        \
    X(gs, dword, vmenter_msvc_ulong)                                                                                   \
    X(gs, qword, unsigned long long)
VMENTER_SEG_ACCESSES(VMENTER_SEG_ACCESS)

/* --- caches and translations -------------------------------------------------------------------------------------- */
VMENTER_INTRIN void __invlpg(void *la);
VMENTER_INTRIN void _invpcid(unsigned int type, void *descriptor);
VMENTER_INTRIN void __wbinvd(void);

/* --- port I/O ----------------------------------------------------------------------------------------------------- */
VMENTER_INTRIN unsigned char __inbyte(unsigned short port);
VMENTER_INTRIN unsigned short __inword(unsigned short port);
VMENTER_INTRIN vmenter_msvc_ulong __indword(unsigned short port);
VMENTER_INTRIN void __outbyte(unsigned short port, unsigned char data);
VMENTER_INTRIN void __outword(unsigned short port, unsigned short data);
VMENTER_INTRIN void __outdword(unsigned short port, vmenter_msvc_ulong data);
/* `count` units of 1, 2 or 4 bytes. */
VMENTER_INTRIN void __inbytestring(unsigned short port, void *buffer, vmenter_msvc_ulong count);
VMENTER_INTRIN void __inwordstring(unsigned short port, void *buffer, vmenter_msvc_ulong count);
VMENTER_INTRIN void __indwordstring(unsigned short port, void *buffer, vmenter_msvc_ulong count);
VMENTER_INTRIN void __outbytestring(unsigned short port, const void *buffer, vmenter_msvc_ulong count);
VMENTER_INTRIN void __outwordstring(unsigned short port, const void *buffer, vmenter_msvc_ulong count);
VMENTER_INTRIN void __outdwordstring(unsigned short port, const void *buffer, vmenter_msvc_ulong count);

/* --- deliberate exceptions ------------------------------------------------------------------------------------------
 * __ud2: #UD. __int2c: INT 2Ch, failed assertion. __fastfail: INT 29h with ECX = code, does not return. */
VMENTER_INTRIN void __ud2(void);
VMENTER_INTRIN void __int2c(void);
VMENTER_INTRIN void __fastfail(unsigned int code) __attribute__((__noreturn__));

#ifdef __cplusplus
}
#endif

#if defined(VMENTER_NATIVE)
#include <vmenter/native.h>
#endif

/* --- a uint64_t is as good as an unsigned __int64 ------------------------------------------------------------------
 */
#ifdef __cplusplus
extern "C++" { /* also where the header is included inside of extern "C" */
#define VMENTER_U64_OVERLOAD(ret, name)                                                                                \
    static __inline__ ret name(unsigned long *p)                                                                       \
    {                                                                                                                  \
        return name(reinterpret_cast<unsigned long long *>(p));                                                        \
    }
VMENTER_U64_OVERLOAD(unsigned char, __vmx_on)
VMENTER_U64_OVERLOAD(unsigned char, __vmx_vmclear)
VMENTER_U64_OVERLOAD(unsigned char, __vmx_vmptrld)
VMENTER_U64_OVERLOAD(void, __vmx_vmptrst)
VMENTER_U64_OVERLOAD(int, _rdrand64_step)
VMENTER_U64_OVERLOAD(int, _rdseed64_step)
static __inline__ unsigned char __vmx_vmread(size_t field, unsigned long long *value)
{
    return __vmx_vmread(field, reinterpret_cast<size_t *>(value));
}
}
#else
#define VMENTER_U64P(p)          _Generic((p), unsigned long * : (unsigned long long *)(p), default : (p))
#define VMENTER_SIZEP(p)         _Generic((p), unsigned long long * : (size_t *)(p), default : (p))
#define __vmx_on(p)              (__vmx_on)(VMENTER_U64P(p))
#define __vmx_vmclear(p)         (__vmx_vmclear)(VMENTER_U64P(p))
#define __vmx_vmptrld(p)         (__vmx_vmptrld)(VMENTER_U64P(p))
#define __vmx_vmptrst(p)         (__vmx_vmptrst)(VMENTER_U64P(p))
#define __vmx_vmread(field, p)   (__vmx_vmread)(field, VMENTER_SIZEP(p))
#define vmenter_rdrand64_step(p) (vmenter_rdrand64_step)(VMENTER_U64P(p))
#define vmenter_rdseed64_step(p) (vmenter_rdseed64_step)(VMENTER_U64P(p))
#endif

#include <vmenter/intrin_inline.h>

#endif /* !_MSC_VER */
#endif

/* Who includes this header by its own name means our names, also after <msvc/intrin.h>. */
#if !defined(_MSC_VER) && !defined(VMENTER_FROM_MSVC)
#define VMENTER_OWN_NAMES 1
#include <vmenter/intrin_names.h>
#endif
