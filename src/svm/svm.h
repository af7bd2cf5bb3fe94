/* SPDX-License-Identifier: MIT
 *
 * svm.h: AMD SVM on the software processor: what the processor's rooms, the hosted intrinsics and the machine use.
 *
 * APM volume 2, chapter "Secure Virtual Machine". The functions here carry out one instruction each with all its checks
 * but the opcode's own (there is no operation): they are the body of the instruction handlers and of the intrinsics
 * alike. They return false when the instruction raised an exception (c->exc holds it, undelivered; state unchanged) or,
 * in guest mode, when it was intercepted and the #VMEXIT is made. The caller has synchronised RIP to the instruction.
 */
#ifndef SVM_SVM_H
#define SVM_SVM_H

#include "src/cpu/cpu.h"
#include <vmenter/svm.h>

/* Gives the processor SVM if its model has it: allocates c->svm, installs its instructions and MSRs. False: no memory.
 */
bool svm_attach(struct cpu *c);
void svm_detach(struct cpu *c);

/* VMRUN of the VMCB at physical address pa. c->rip: with c->cur set that of the instruction (the host goes on after
 * it); else the place where the host goes on. True: the guest is entered (c->guest is set: go on with cpu_run()), or a
 * #VMEXIT came at once (c->guest is null, the exit code is in the VMCB; with native_host c->stop is STOP_EXIT). */
bool svm_vmrun(struct cpu *c, uint64_t pa);
bool svm_vmload(struct cpu *c, uint64_t pa);
bool svm_vmsave(struct cpu *c, uint64_t pa);
bool svm_stgi(struct cpu *c);
bool svm_clgi(struct cpu *c);
bool svm_skinit(struct cpu *c, uint32_t slb);
bool svm_invlpga(struct cpu *c, uint64_t la, uint32_t asid);
bool svm_vmmcall(struct cpu *c);

/* The rules that the last VMRUN found broken, a line each: the row's id, what was found, the manual's section and
 * sentence. Empty when it was not refused. Length as snprintf does. */
size_t svm_explain(struct cpu *c, char *buf, size_t size);

/* What the rules need to know of a processor model. */
void svm_caps_init(struct vmenter_svm_caps *caps, const struct model *m);

/* The VMCB of the running guest or of the last VMRUN, as it stands in memory, and its address. False: none yet. */
bool svm_last_vmcb(const struct cpu *c, struct vmcb *v, uint64_t *pa);

/* A number from 0 to 255 for each exit code (cpu.stats.reasons), and back: the lowest code of that slot. */
INLINE uint8_t svm_exit_slot(uint64_t code)
{
    return (uint8_t)(code < 0x400 ? MIN(code, UINT64_C(0xbf)) : code < 0x420 ? 0xc0 + (code - 0x400) : code);
}
uint64_t svm_slot_exit(uint8_t slot);

/* Names of exit codes; families give the first one's name and *index. NULL: reserved. */
const char *svm_exit_name(uint64_t code, unsigned *index);
const char *svm_exit_what(uint64_t code);
/* The name with the member of a family: "CR3_WRITE", "EXCEPTION 14 #PF"; and what EXITINFO1 says with that code (may be
 * empty). Length as snprintf does. */
size_t svm_describe_exit(uint64_t code, char *buf, size_t size);
size_t svm_describe_info1(uint64_t code, uint64_t info1, char *buf, size_t size);

/* A VMCB as text (dump.c): a line for each field, in two groups.
 *     save.cs.attrib = 0xVALUE  # words
 * The name is that of a member of struct vmcb; blanks stand as they like; what follows '#' is for people, and so are
 * lines that begin with it. `vmenter check` reads this. Length as snprintf does. */
size_t svm_dump_vmcb(const struct vmcb *v, char *buf, size_t size);
/* The same, of fields all of whose bytes are not 0 in known[]. */
size_t svm_dump_known(const struct vmcb *v, const uint8_t *known, char *buf, size_t size);

#endif
