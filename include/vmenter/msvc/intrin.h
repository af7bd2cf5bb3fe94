/* SPDX-License-Identifier: MIT
 *
 * msvc/intrin.h: put this folder on the include path (-I include/vmenter/msvc) and sources written for MSVC find
 * <vmenter/intrin.h> where they say #include <intrin.h>. MSVC's keywords that have no meaning elsewhere are given
 * one here when the compiler lacks them (GCC; Clang has most of them under -fms-extensions).
 */
#if defined(_MSC_VER)
#error "vmenter: leave include/vmenter/msvc off the include path of a Microsoft-compatible compiler"
#endif

#include <vmenter/intrin.h>

#ifndef VMENTER_MSVC_INTRIN_H
#define VMENTER_MSVC_INTRIN_H

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

#endif
