/* SPDX-License-Identifier: MIT
 *
 * known.h: what may not be known of the place where a guest is entered; for <vmenter/vmx.h> and <vmenter/svm.h>.
 */
#ifndef VMENTER_KNOWN_H
#define VMENTER_KNOWN_H

enum vmenter_known { VMENTER_UNKNOWN = 0, VMENTER_NO = 1, VMENTER_YES = 2 };

#endif
