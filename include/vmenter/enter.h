/* SPDX-License-Identifier: MIT
 *
 * enter.h: VM entry with a block of general registers, the portable way, hosted and native alike.
 *
 * The general registers of the block are loaded, the guest is entered; at the VM exit the guest's general registers are
 * stored in the block and the call returns. RSP is not in the block: it is a field of the VMCS or VMCB; so is RAX under
 * SVM (vmenter_vmrun() ignores and does not write `rax`). x87, MMX and vector registers: hosted, the guest has its own,
 * kept with the logical processor; native, they pass through as on the processor.
 */
#ifndef VMENTER_ENTER_H
#define VMENTER_ENTER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* In the order of the registers' encoding, so that reg[n] is what a ModRM field or an exit qualification names. */
struct vmenter_regs {
    union {
        __extension__ struct {
            uint64_t rax, rcx, rdx, rbx, rsp_unused, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15;
        };
        uint64_t reg[16];
    };
};

/* 0 after a VM exit (read the VMCS for why); 1 VMfailValid, 2 VMfailInvalid: at once, the block untouched.
 * These write HOST_RSP and HOST_RIP of the current VMCS themselves; the other host-state fields are the caller's. */
unsigned char vmenter_vmlaunch(struct vmenter_regs *regs);
unsigned char vmenter_vmresume(struct vmenter_regs *regs);

/* VMRUN with the VMCB at physical address vmcb_pa (4096-byte aligned). Returns after the #VMEXIT, with GIF clear. */
void vmenter_vmrun(size_t vmcb_pa, struct vmenter_regs *regs);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
