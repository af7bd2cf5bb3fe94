/* SPDX-License-Identifier: MIT
 *
 * test_cpu_fpu_soft.c: test_cpu_fpu.c over the arithmetic of hosts that are not x86-64: computed in integers, it must
 * give the bare processor's bits too.
 */
#define VMENTER_SOFT_FP
#include "src/cpu/ops_sse_fp.c"
#include "src/cpu/x87_soft.c"

#include "tests/unit/test_cpu_fpu.c"
