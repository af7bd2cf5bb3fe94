/* SPDX-License-Identifier: MIT
 *
 * msvc/intrin.h: put this folder on the include path (-I include/vmenter/msvc) and sources written for MSVC find
 * <vmenter/intrin.h> where they say #include <intrin.h>. MSVC's keywords that have no meaning elsewhere are given
 * one here when the compiler lacks them (GCC; Clang has most of them under -fms-extensions).
 */
#if defined(_MSC_VER)
#error "vmenter: leave include/vmenter/msvc off the include path of a Microsoft-compatible compiler"
#endif

#define VMENTER_FROM_MSVC 1
#include <vmenter/intrin.h>
#undef VMENTER_FROM_MSVC

/* Names that MSVC lacks belong to the source, which has its own assembly functions of them, with prototypes of its own.
 * Ours are vmenter_str() and so on here; or include <vmenter/intrin.h> too. */
#ifndef VMENTER_OWN_NAMES
#undef __vmx_invept
#undef __vmx_invvpid
#undef __vmx_vmcall
#undef __vmx_vmfunc
#undef __svm_vmmcall
#undef _lar
#undef _ltr
#undef _lldt
#undef _writeds
#undef _writees
#undef _writefs
#undef _writegs
#undef _writess
#undef _str
#undef _sldt
#undef _readcs
#undef _readds
#undef _reades
#undef _readfs
#undef _readgs
#undef _readss
#undef _swapgs
#endif

#ifndef VMENTER_MSVC_INTRIN_H
#define VMENTER_MSVC_INTRIN_H

#include "sal.h"

#ifndef __int8
#define __int8 char
#endif
#ifndef __int16
#define __int16 short
#endif
#ifndef __int32
#define __int32 int
#endif
#ifndef __int64
#define __int64 long long
#endif
#ifndef __forceinline
#define __forceinline __inline__ __attribute__((__always_inline__))
#endif
#ifndef __assume
#define __assume(condition) ((condition) ? (void)0 : __builtin_unreachable())
#endif

/* __declspec(align(n)), (noreturn), (noinline), ... : GCC has no such keyword, Clang by -fms-extensions.
 * dllexport, nothrow, novtable and their like mean nothing. */
#ifndef __is_identifier
#define VMENTER_DECLSPEC_IS_FREE 1
#elif __is_identifier(__declspec)
#define VMENTER_DECLSPEC_IS_FREE 1
#endif
#if defined(VMENTER_DECLSPEC_IS_FREE) && !defined(__declspec)
#define __declspec(specifier) VMENTER_DECLSPEC_##specifier
#define VMENTER_DECLSPEC_align(n)       __attribute__((__aligned__(n)))
#define VMENTER_DECLSPEC_noreturn       __attribute__((__noreturn__))
#define VMENTER_DECLSPEC_noinline       __attribute__((__noinline__))
#define VMENTER_DECLSPEC_naked          __attribute__((__naked__))
#define VMENTER_DECLSPEC_allocate(name) __attribute__((__section__(name)))
#define VMENTER_DECLSPEC_code_seg(name) __attribute__((__section__(name)))
#define VMENTER_DECLSPEC_selectany      __attribute__((__weak__))
#define VMENTER_DECLSPEC_thread         __thread
#define VMENTER_DECLSPEC_deprecated     __attribute__((__deprecated__))
#define VMENTER_DECLSPEC_restrict       __attribute__((__malloc__))
#define VMENTER_DECLSPEC_noalias
#define VMENTER_DECLSPEC_nothrow
#define VMENTER_DECLSPEC_novtable
#define VMENTER_DECLSPEC_dllexport
#define VMENTER_DECLSPEC_dllimport
#define VMENTER_DECLSPEC_safebuffers
#define VMENTER_DECLSPEC_guard(cf)
#define VMENTER_DECLSPEC_uuid(id)
#endif

/* Calling conventions that x64 ignores: everything has the platform's. */
#ifndef __cdecl
#define __cdecl
#endif
#ifndef __stdcall
#define __stdcall
#endif
#ifndef __fastcall
#define __fastcall
#endif
#ifndef __unaligned
#define __unaligned
#endif
#ifndef __w64
#define __w64
#endif

/* Static analysis. */
#ifndef __analysis_assume
#define __analysis_assume(condition) ((void)0)
#endif
#ifndef _Analysis_assume_
#define _Analysis_assume_(condition) ((void)0)
#endif

/* MSVC's C has static_assert without <assert.h>. */
#if !defined(__cplusplus) && !defined(static_assert)
#define static_assert _Static_assert
#endif

#endif
