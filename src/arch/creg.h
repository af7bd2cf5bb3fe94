/* SPDX-License-Identifier: MIT
 *
 * creg.h: CR0_PE ... EFER_AIBRSE, the masks of creg.def's bits.
 */
#ifndef ARCH_CREG_H
#define ARCH_CREG_H

#include "src/base/base.h"

enum creg_bit {
#define CREG(reg, name, bit, feature, title) reg##_##name = BIT(bit),
#include "src/arch/creg.def"
#undef CREG
    CREG_BIT_WIDE = BIT(63) /* masks are used as 64-bit numbers: ~CR0_PG too */
};

#endif
