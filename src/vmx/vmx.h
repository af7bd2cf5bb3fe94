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

/* A VMCS as text (dump.c): a line for each field that `get` knows, in groups.
 *     NAME = 0xVALUE  # words
 * NAME is that of vmcs.def; blanks stand as they like; what follows '#' is for people, and so are lines that begin with
 * it. `vmenter check` reads this. Length as snprintf does. */
typedef bool vmx_field_fn(void *opaque, uint32_t encoding, uint64_t *value); /* false: there is no such field */
size_t vmx_dump_fields(vmx_field_fn *get, void *opaque, char *buf, size_t size);
/* The same of the current VMCS, all fields that the model has; empty when there is none. */
size_t vmx_dump(struct cpu *c, char *buf, size_t size);

/* A field of the current VMCS, for whoever looks at the processor from outside; its address, UINT64_MAX: none. */
bool vmx_current_field(const struct cpu *c, uint32_t encoding, uint64_t *value);
uint64_t vmx_current_pointer(const struct cpu *c);

/* Words: of a field's value (what is more than a number: controls, reasons, events, access rights), of an exit
 * qualification. reason: the whole exit-reason field that goes with it. May be empty. Length as snprintf does. */
size_t vmx_describe_field(uint32_t encoding, uint64_t value, uint32_t reason, char *buf, size_t size);
size_t vmx_describe_qualification(uint32_t reason, uint64_t qualification, char *buf, size_t size);
const char *vmx_exit_name(uint32_t reason); /* of vmx_exit.def; "RESERVED" */

#endif
