/* SPDX-License-Identifier: MIT
 *
 * vmx.h: Intel VMX on the software processor: what the processor's rooms, the hosted intrinsics and the machine use.
 *
 * SDM volume 3C. The functions here carry out one instruction each, with all its checks but those of the opcode and the
 * memory operand: they are the body of the instruction handlers and of the intrinsics alike, in VMX root operation.
 * The caller has synchronised RIP and flags. They do not touch the arithmetic flags: the handlers do, by the result.
 */
#ifndef VMX_VMX_H
#define VMX_VMX_H

#include "src/cpu/cpu.h"

enum vmx_result {
    VMX_SUCCEED = 0,      /* VMsucceed */
    VMX_FAIL_VALID = 1,   /* VMfailValid: the error number is in the VM-instruction error field of the current VMCS */
    VMX_FAIL_INVALID = 2, /* VMfailInvalid */
    VMX_FAULT = 3,        /* an exception is raised: c->exc holds it, undelivered; nothing else has changed */
};

/* Gives the processor VMX if its model has it: allocates c->vmx, installs instructions and MSRs in c->virt.
 * IA32_FEATURE_CONTROL is left as firmware leaves it: VMX outside SMX is enabled, and it is locked. False: no memory.
 */
bool vmx_attach(struct cpu *c);
void vmx_detach(struct cpu *c);

/* The instructions. Addresses are physical, fields are encodings (enum vmcs_field of <vmenter/vmx.h>). */
enum vmx_result vmx_vmxon(struct cpu *c, uint64_t pa);
enum vmx_result vmx_vmxoff(struct cpu *c);
enum vmx_result vmx_vmclear(struct cpu *c, uint64_t pa);
enum vmx_result vmx_vmptrld(struct cpu *c, uint64_t pa);
enum vmx_result vmx_vmptrst(struct cpu *c, uint64_t *pa); /* UINT64_MAX: no current VMCS */
enum vmx_result vmx_vmread(struct cpu *c, uint64_t field, uint64_t *value);
enum vmx_result vmx_vmwrite(struct cpu *c, uint64_t field, uint64_t value);
/* On VMX_SUCCEED the guest is entered (c->guest is set: go on with cpu_run()), or the entry failed while it loaded
 * guest state and the VM exit is made, or injection led to one at once (c->guest is null; with native_host c->stop is
 * STOP_EXIT). */
enum vmx_result vmx_vmlaunch(struct cpu *c);
enum vmx_result vmx_vmresume(struct cpu *c);
enum vmx_result vmx_invept(struct cpu *c, uint64_t type, const uint64_t descriptor[2]);
enum vmx_result vmx_invvpid(struct cpu *c, uint64_t type, const uint64_t descriptor[2]);
enum vmx_result vmx_vmcall(struct cpu *c);
enum vmx_result vmx_vmfunc(struct cpu *c); /* #UD outside guest mode */

/* In VMX operation? Is there a current VMCS? */
bool vmx_on(const struct cpu *c);

/* The rules that the last VM entry found broken, a line each: the row's id, what was found, the manual's section and
 * sentence. Empty when it was not refused. Length as snprintf does. */
size_t vmx_explain(struct cpu *c, char *buf, size_t size);

/* Every field of the current VMCS that the model has, a line each, for dumps. Length as snprintf does. */
size_t vmx_dump(struct cpu *c, char *buf, size_t size);

#endif
