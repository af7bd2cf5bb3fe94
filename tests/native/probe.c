/* SPDX-License-Identifier: MIT
 *
 * probe.c: every native intrinsic in functions of its own, for tests/native/disasm to read the disassembly of. Compiled
 * as C and as C++, at every level of optimization; never run.
 *
 * T(id, "mnemonic", "operands", result, parameters, call): function t_id holds the instruction once, and at -O1 and up
 * with operands that match the regular expression (AT&T syntax, the parameters being in RDI, RSI, RDX by the calling
 * convention). M(id, "mnemonic", parameters, call): function m_id stores 1, 2 and 3 to memory around two calls; none
 * may move or vanish.
 */
#define VMENTER_NATIVE 1
#include <vmenter/intrin.h>

extern volatile int probe_unused;
int probe_g;

#define T(id, mnemonic, operands, result, parameters, call)                                                            \
    result t_##id parameters;                                                                                          \
    result t_##id parameters                                                                                           \
    {                                                                                                                  \
        return call;                                                                                                   \
    }
#define M(id, mnemonic, parameters, call)                                                                              \
    void m_##id parameters;                                                                                            \
    void m_##id parameters                                                                                             \
    {                                                                                                                  \
        probe_g = 1;                                                                                                   \
        call;                                                                                                          \
        probe_g = 2;                                                                                                   \
        call;                                                                                                          \
        probe_g = 3;                                                                                                   \
    }

#ifdef __cplusplus
extern "C" {
#endif
typedef unsigned long long u64;
typedef unsigned char u8;
typedef unsigned short u16;

T(vmxon, "vmxon", "\\(%rdi\\)", u8, (u64 * p), __vmx_on(p))
T(vmxoff, "vmxoff", "", void, (void), __vmx_off())
T(vmclear, "vmclear", "\\(%rdi\\)", u8, (u64 * p), __vmx_vmclear(p))
T(vmptrld, "vmptrld", "\\(%rdi\\)", u8, (u64 * p), __vmx_vmptrld(p))
T(vmptrst, "vmptrst", "\\(%rdi\\)", void, (u64 * p), __vmx_vmptrst(p))
T(vmread, "vmread", "%rdi,%r..?", u8, (size_t f, size_t *v), __vmx_vmread(f, v))
T(vmwrite, "vmwrite", "%rsi,%rdi", u8, (size_t f, size_t v), __vmx_vmwrite(f, v))
T(vmlaunch, "vmlaunch", "", u8, (void), __vmx_vmlaunch())
T(vmresume, "vmresume", "", u8, (void), __vmx_vmresume())
T(invept, "invept", "\\(%rsi\\),%rdi", u8, (size_t t, const void *d), __vmx_invept(t, d))
T(invvpid, "invvpid", "\\(%rsi\\),%rdi", u8, (size_t t, const void *d), __vmx_invvpid(t, d))
T(vmcall, "vmcall", "", u8, (struct vmenter_regs * r), __vmx_vmcall(r))
T(vmfunc, "vmfunc", "", void, (unsigned f, unsigned i), __vmx_vmfunc(f, i))
T(vmrun, "vmrun", "(%rax)?", void, (size_t pa), __svm_vmrun(pa))
T(vmload, "vmload", "(%rax)?", void, (size_t pa), __svm_vmload(pa))
T(vmsave, "vmsave", "(%rax)?", void, (size_t pa), __svm_vmsave(pa))
T(stgi, "stgi", "", void, (void), __svm_stgi())
T(clgi, "clgi", "", void, (void), __svm_clgi())
T(invlpga, "invlpga", "(%rax,%ecx)?", void, (void *a, int i), __svm_invlpga(a, i))
T(skinit, "skinit", "(%eax)?", void, (int a), __svm_skinit(a))
T(vmmcall, "vmmcall", "", void, (struct vmenter_regs * r), __svm_vmmcall(r))
T(rdmsr, "rdmsr", "", u64, (unsigned m), __readmsr(m))
T(wrmsr, "wrmsr", "", void, (unsigned m, u64 v), __writemsr(m, v))
T(rcr0, "mov", "%cr0,%r..?", u64, (void), __readcr0())
T(rcr2, "mov", "%cr2,%r..?", u64, (void), __readcr2())
T(rcr3, "mov", "%cr3,%r..?", u64, (void), __readcr3())
T(rcr4, "mov", "%cr4,%r..?", u64, (void), __readcr4())
T(rcr8, "mov", "%cr8,%r..?", u64, (void), __readcr8())
T(wcr0, "mov", "%rdi,%cr0", void, (u64 v), __writecr0(v))
T(wcr2, "mov", "%rdi,%cr2", void, (u64 v), __writecr2(v))
T(wcr3, "mov", "%rdi,%cr3", void, (u64 v), __writecr3(v))
T(wcr4, "mov", "%rdi,%cr4", void, (u64 v), __writecr4(v))
T(wcr8, "mov", "%rdi,%cr8", void, (u64 v), __writecr8(v))
T(rdr7, "mov", "%db7,%r..?", u64, (void), __readdr(7))
T(wdr6, "mov", "%rdi,%db6", void, (u64 v), __writedr(6, v))
T(pushf, "pushf", "", u64, (void), __readeflags())
T(popf, "popf", "", void, (u64 v), __writeeflags(v))
T(cli, "cli", "", void, (void), _disable())
T(sti, "sti", "", void, (void), _enable())
T(hlt, "hlt", "", void, (void), __halt())
T(xgetbv, "xgetbv", "", u64, (unsigned x), _xgetbv(x))
T(xsetbv, "xsetbv", "", void, (unsigned x, u64 v), _xsetbv(x, v))
T(clac, "clac", "", void, (void), _clac())
T(stac, "stac", "", void, (void), _stac())
T(cpuid, "cpuid", "", void, (int *i, int l), __cpuid(i, l))
T(cpuidex, "cpuid", "", void, (int *i, int l, int s), __cpuidex(i, l, s))
T(rdtsc, "rdtsc", "", u64, (void), __rdtsc())
T(rdtscp, "rdtscp", "", u64, (unsigned *a), __rdtscp(a))
T(rdpmc, "rdpmc", "", u64, (unsigned c), __readpmc(c))
T(rdrand16, "rdrand", "%.x", int, (u16 * p), _rdrand16_step(p))
T(rdrand32, "rdrand", "%e..", int, (unsigned *p), _rdrand32_step(p))
T(rdrand64, "rdrand", "%r..?", int, (u64 * p), _rdrand64_step(p))
T(rdseed64, "rdseed", "%r..?", int, (u64 * p), _rdseed64_step(p))
T(sidt, "sidt", "\\(%rdi\\)", void, (void *p), __sidt(p))
T(lidt, "lidt", "\\(%rdi\\)", void, (void *p), __lidt(p))
T(sgdt, "sgdt", "\\(%rdi\\)", void, (void *p), _sgdt(p))
T(lgdt, "lgdt", "\\(%rdi\\)", void, (void *p), _lgdt(p))
T(lsl, "lsl", "%[er]?di,%e..", unsigned, (unsigned s), __segmentlimit(s))
T(lar, "lar", "%[er]?..,%e..", unsigned, (u16 s), _lar(s))
T(str, "str", "%e..", u16, (void), _str())
T(sldt, "sldt", "%e..", u16, (void), _sldt())
T(ltr, "ltr", "%di", void, (u16 s), _ltr(s))
T(lldt, "lldt", "%di", void, (u16 s), _lldt(s))
T(rcs, "mov", "%cs,%e..", u16, (void), _readcs())
T(wds, "mov", "%[e]?di,%ds", void, (u16 s), _writeds(s))
T(wss, "mov", "%[e]?di,%ss", void, (u16 s), _writess(s))
T(swapgs, "swapgs", "", void, (void), _swapgs())
T(rdfsbase, "rdfsbase", "%r..?", u64, (void), _readfsbase_u64())
T(rdgsbase, "rdgsbase", "%r..?", u64, (void), _readgsbase_u64())
T(wrfsbase, "wrfsbase", "%rdi", void, (u64 v), _writefsbase_u64(v))
T(wrgsbase, "wrgsbase", "%rdi", void, (u64 v), _writegsbase_u64(v))
T(rgsb, "mov", "%gs:\\(%r..?\\),%.l", u8, (unsigned o), __readgsbyte(o))
T(rgsq, "mov", "%gs:\\(%r..?\\),%r..?", u64, (unsigned o), __readgsqword(o))
T(wgsd, "mov", "%esi,%gs:\\(%r..?\\)", void, (unsigned o, unsigned v), __writegsdword(o, v))
T(agsw, "add", "%si,%gs:\\(%r..?\\)", void, (unsigned o, u16 v), __addgsword(o, v))
T(ifsq, "incq", "%fs:\\(%r..?\\)", void, (unsigned o), __incfsqword(o))
T(invlpg, "invlpg", "\\(%rdi\\)", void, (void *a), __invlpg(a))
T(invpcid, "invpcid", "\\(%rsi\\),%r..?", void, (unsigned t, void *d), _invpcid(t, d))
T(wbinvd, "wbinvd", "", void, (void), __wbinvd())
T(inb, "in", "\\(%dx\\),%al", u8, (u16 p), __inbyte(p))
T(inw, "in", "\\(%dx\\),%ax", u16, (u16 p), __inword(p))
T(inl, "in", "\\(%dx\\),%eax", unsigned, (u16 p), __indword(p))
T(outb, "out", "%al,\\(%dx\\)", void, (u16 p, u8 v), __outbyte(p, v))
T(outw, "out", "%ax,\\(%dx\\)", void, (u16 p, u16 v), __outword(p, v))
T(outl, "out", "%eax,\\(%dx\\)", void, (u16 p, unsigned v), __outdword(p, v))
T(insb, "insb", "\\(%dx\\),%es:\\(%rdi\\)", void, (u16 p, void *b, unsigned n), __inbytestring(p, b, n))
T(outsl, "outsl", "%ds:\\(%rsi\\),\\(%dx\\)", void, (u16 p, void *b, unsigned n), __outdwordstring(p, b, n))
T(stosq, "stos", "%rax,%es:\\(%rdi\\)", void, (u64 * d, u64 v, size_t n), __stosq(d, v, n))
T(movsb, "movsb", "%ds:\\(%rsi\\),%es:\\(%rdi\\)", void, (u8 * d, const u8 *s, size_t n), __movsb(d, s, n))
T(cmpxchg16b, "cmpxchg16b", "\\(%rdi\\)", u8, (long long *d, long long *c), _InterlockedCompareExchange128(d, 1, 2, c))

M(vmxon, "vmxon", (u64 * p), __vmx_on(p))
M(vmclear, "vmclear", (u64 * p), __vmx_vmclear(p))
M(vmptrld, "vmptrld", (u64 * p), __vmx_vmptrld(p))
M(vmptrst, "vmptrst", (u64 * p), __vmx_vmptrst(p))
M(vmread, "vmread", (size_t f, size_t *v), __vmx_vmread(f, v))
M(vmwrite, "vmwrite", (size_t f, size_t v), __vmx_vmwrite(f, v))
M(vmlaunch, "vmlaunch", (void), __vmx_vmlaunch())
M(vmresume, "vmresume", (void), __vmx_vmresume())
M(vmxoff, "vmxoff", (void), __vmx_off())
M(invept, "invept", (size_t t, const void *d), __vmx_invept(t, d))
M(invvpid, "invvpid", (size_t t, const void *d), __vmx_invvpid(t, d))
M(vmcall, "vmcall", (struct vmenter_regs * r), __vmx_vmcall(r))
M(vmmcall, "vmmcall", (struct vmenter_regs * r), __svm_vmmcall(r))
M(vmrun, "vmrun", (size_t pa), __svm_vmrun(pa))
M(vmload, "vmload", (size_t pa), __svm_vmload(pa))
M(vmsave, "vmsave", (size_t pa), __svm_vmsave(pa))
M(stgi, "stgi", (void), __svm_stgi())
M(clgi, "clgi", (void), __svm_clgi())
M(invlpga, "invlpga", (void *a, int i), __svm_invlpga(a, i))
M(rdmsr, "rdmsr", (unsigned m), __readmsr(m))
M(wrmsr, "wrmsr", (unsigned m, u64 v), __writemsr(m, v))
M(popf, "popf", (u64 v), __writeeflags(v))
M(cli, "cli", (void), _disable())
M(sti, "sti", (void), _enable())
M(hlt, "hlt", (void), __halt())
M(invlpg, "invlpg", (void *a), __invlpg(a))
M(wbinvd, "wbinvd", (void), __wbinvd())
M(lidt, "lidt", (void *p), __lidt(p))
M(lgdt, "lgdt", (void *p), _lgdt(p))
M(inb, "in", (u16 p), __inbyte(p))
M(outl, "out", (u16 p, unsigned v), __outdword(p, v))

#ifdef __cplusplus
}
#endif
