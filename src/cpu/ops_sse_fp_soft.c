/* SPDX-License-Identifier: MIT
 *
 * ops_sse_fp_soft.c: the handlers of ops_sse_fp.c once more, over fp.h: for an x86-64 host while an exception is
 * unmasked.
 */
#if defined(__x86_64__)
#define VMENTER_SOFT_FP
#define VMENTER_SOFT_TWIN 1
#include "src/cpu/ops_sse_fp.c"
#endif
