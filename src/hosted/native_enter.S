/* SPDX-License-Identifier: MIT
 *
 * native_enter.S: <vmenter/enter.h> as instructions, for native code that the software processor executes as a guest.
 */
#if defined(__x86_64__)
#define NAME(x) hosted_native_##x
#include "src/native/enter.S"
    .hidden hosted_native_vmenter_vmlaunch
    .hidden hosted_native_vmenter_vmresume
    .hidden hosted_native_vmenter_vmrun
#endif
#if defined(__linux__) && defined(__ELF__)
    .section .note.GNU-stack, "", %progbits
#endif
