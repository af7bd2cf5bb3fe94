/* SPDX-License-Identifier: MIT
 *
 * names.h: words for numbers of the architecture: exceptions, model-specific registers.
 */
#ifndef ARCH_NAMES_H
#define ARCH_NAMES_H

#include "src/base/base.h"

/* "#PF", "NMI"; NULL: no exception has that vector. */
const char *exception_name(unsigned vector);

/* The name of an MSR, that of msr.def where it has a row; members of families as "MTRR_PHYS". NULL: not known. */
const char *msr_name(uint32_t msr);

#endif
