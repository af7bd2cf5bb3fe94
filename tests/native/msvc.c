/* SPDX-License-Identifier: MIT
 *
 * msvc.c: a source as it is written for MSVC: `#include <intrin.h>`, MSVC's types, every intrinsic that public
 * hypervisors call. Compiled by tests/native/msvc as C and C++, hosted and native; linked, never run.
 */
#include <intrin.h>

typedef unsigned __int64 UINT64;
typedef unsigned __int32 UINT32;
typedef unsigned long ULONG; /* as it stands in the source: 64 bits wide on LP64 */
typedef long LONG;
typedef unsigned char UCHAR;
typedef size_t SIZE_T;

#pragma pack(push, 1)
typedef struct _DESCRIPTOR_TABLE {
    unsigned short Limit;
    UINT64 Base;
} DESCRIPTOR_TABLE;
#pragma pack(pop)

/* Keywords, annotations, and assembly functions of the source's own under names that MSVC has not. */
typedef struct __declspec(align(16)) _ALIGNED {
    __declspec(align(4096)) UCHAR Page[4096];
} ALIGNED;
static_assert(sizeof(ALIGNED) == 4096, "__declspec(align)");
#if defined(__cplusplus)
extern "C" {
#endif
void _str(_Out_ unsigned short *Tr);
void _sldt(_Out_ unsigned short *Ldtr);
unsigned short _readcs(void);
void _ltr(_In_ ULONG Tr);
__declspec(noinline) unsigned char __vmx_invept(_In_ ULONG Type, _In_reads_bytes_(16) void *Descriptor);
unsigned char __vmx_vmcall(_In_ UINT64 Number, _In_opt_ UINT64 Parameter);
__declspec(noreturn) void __cdecl Restore(_In_ const void *Context);
#if defined(__cplusplus)
}
#endif

static UINT64 Region = 0x1000;
static volatile LONG Lock;
static volatile __int64 Lock64;

static __forceinline UINT64 Adjust(ULONG Msr, ULONG Controls)
{
    UINT64 Value = __readmsr(Msr);
    Controls &= (ULONG)(Value >> 32);
    Controls |= (ULONG)Value;
    return Controls;
}

int UseVmx(void);
int UseVmx(void)
{
    SIZE_T Value = 0;
    UCHAR Result = 0;
    Result |= __vmx_on(&Region);
    Result |= __vmx_vmclear(&Region);
    Result |= __vmx_vmptrld(&Region);
    __vmx_vmptrst(&Region);
    Result |= __vmx_vmread(0x681e, &Value);
    Result |= __vmx_vmwrite(0x4000, Adjust(0x481, 0));
    Result |= __vmx_vmlaunch();
    Result |= __vmx_vmresume();
    __vmx_off();
    return Result;
}

void UseSvm(void);
void UseSvm(void)
{
    __svm_vmrun((SIZE_T)Region);
    __svm_vmload((SIZE_T)Region);
    __svm_vmsave((SIZE_T)Region);
    __svm_clgi();
    __svm_stgi();
    __svm_invlpga((void *)0, 1);
    __svm_skinit(0);
}

UINT64 UseSystem(void);
UINT64 UseSystem(void)
{
    DESCRIPTOR_TABLE Table;
    int Registers[4] = {0};
    UINT64 Sum = 0;
    unsigned int Aux = 0;
    UCHAR Bytes[16];
    unsigned short Words[4];
    ULONG Dwords[4];

    __cpuid(Registers, 1);
    __cpuidex(Registers, 7, 0);
    Sum += __readcr0() + __readcr2() + __readcr3() + __readcr4() + __readcr8();
    __writecr0(Sum), __writecr2(Sum), __writecr3(Sum), __writecr4(Sum | 0x2000), __writecr8(0);
    Sum += __readmsr(0xC0000080);
    __writemsr(0xC0000080, Sum | 0x1000);
    Sum += __readdr(0) + __readdr(7);
    __writedr(7, 0x400);
    Sum += __readeflags() + __getcallerseflags();
    __writeeflags(Sum);
    __sidt(&Table), __lidt(&Table), _sgdt(&Table), _lgdt(&Table);
    Sum += __segmentlimit(0x10);
    __invlpg((void *)Table.Base);
    __wbinvd();
    _disable(), _enable(), __halt();
    Sum += __rdtsc() + __rdtscp(&Aux) + __readpmc(0);
    Sum += _xgetbv(0);
    _xsetbv(0, 7);
    Sum += __inbyte(0x60) + __inword(0x60) + __indword(0x60);
    __outbyte(0x80, 1), __outword(0x80, 1), __outdword(0x80, 1);
    __inbytestring(0x60, Bytes, 16), __inwordstring(0x60, Words, 4), __indwordstring(0x60, Dwords, 2);
    __outbytestring(0x60, Bytes, 16), __outwordstring(0x60, Words, 4), __outdwordstring(0x60, Dwords, 2);
    Sum += _readfsbase_u64();
    _writefsbase_u64(Sum), _writegsbase_u64(Sum);
    Sum += __readgsbyte(0) + __readgsword(0) + __readgsdword(0) + __readgsqword(0x188);
    Sum += __readfsbyte(0) + __readfsword(0) + __readfsdword(0);
    return Sum;
}

UINT64 UseOthers(void *Buffer);
UINT64 UseOthers(void *Buffer)
{
    ULONG Index = 0;
    UINT64 Sum = 0, High = 0, Random64;
    unsigned short Random16;
    UINT32 Random32;
    LONG Bits[4] = {0};
    __int64 Bits64[4] = {0};
    UINT32 Short = 0;

    Sum += _BitScanForward(&Index, 5) + _BitScanForward64(&Index, 5) + _BitScanReverse(&Index, 5) +
           _BitScanReverse64(&Index, 5);
    Sum += _bittest(Bits, 3) + _bittest64(Bits64, 3) + _bittestandset(Bits, 3) + _bittestandset64(Bits64, 3);
    Sum += _bittestandreset(Bits, 3) + _bittestandreset64(Bits64, 3) + _bittestandcomplement(Bits, 3);
    Sum += _bittestandcomplement64(Bits64, 3);
    Sum += _interlockedbittestandset(&Lock, 0) + _interlockedbittestandreset(&Lock, 0);
    Sum += _interlockedbittestandset64(&Lock64, 0) + _interlockedbittestandreset64(&Lock64, 0);
    Sum += _InterlockedIncrement(&Lock) + _InterlockedDecrement(&Lock) + _InterlockedExchange(&Lock, 1);
    Sum += _InterlockedCompareExchange(&Lock, 1, 0) + _InterlockedAnd(&Lock, 1) + _InterlockedOr(&Lock, 1);
    Sum += _InterlockedXor(&Lock, 1) + _InterlockedIncrement64(&Lock64) + _InterlockedDecrement64(&Lock64);
    Sum += _InterlockedAnd64(&Lock64, 1) + _InterlockedOr64(&Lock64, 1) + _InterlockedXor64(&Lock64, 1);
    Sum += _InterlockedExchange64(&Lock64, 1) + _InterlockedCompareExchange64(&Lock64, 1, 0);
    __stosb((unsigned char *)Buffer, 0, 4096);
    __stosw((unsigned short *)Buffer, 0, 2048);
    __stosd((unsigned long *)Buffer, 0, 1024);
    __stosq((UINT64 *)Buffer, 0, 512);
    __movsb((unsigned char *)Buffer, (unsigned char *)Buffer + 1, 16);
    __movsw((unsigned short *)Buffer, (unsigned short *)Buffer + 1, 16);
    __movsd((unsigned long *)Buffer, (unsigned long *)Buffer + 1, 16);
    __movsq((UINT64 *)Buffer, (UINT64 *)Buffer + 1, 16);
    Sum += __popcnt64(Sum) + __popcnt(Short) + _umul128(Sum, Sum, &High);
    Sum += (UINT64)_rdrand16_step(&Random16) + _rdrand32_step(&Random32) + _rdrand64_step(&Random64);
    Sum += (UINT64)_rdseed16_step(&Random16) + _rdseed32_step(&Random32) + _rdseed64_step(&Random64);
    Sum += (UINT64)(SIZE_T)_ReturnAddress() + (UINT64)(SIZE_T)_AddressOfReturnAddress();
    _mm_pause(), _mm_lfence(), _mm_mfence(), _mm_sfence();
    _ReadWriteBarrier();
    __nop();
    if (Sum == 1)
        __debugbreak();
    if (Sum == 2)
        __ud2();
    if (Sum == 3)
        __int2c();
    if (Sum == 4)
        __fastfail(7);
    return Sum + High + Random16 + Random32 + Random64;
}

#if !defined(VMENTER_NATIVE)
int main(void)
{
    static volatile int Never;
    static UINT64 Buffer[513];
    return Never ? UseVmx() + (int)UseSystem() + (int)UseOthers(Buffer) + (UseSvm(), 0) : 0;
}
#endif
