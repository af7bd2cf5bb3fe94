/* SPDX-License-Identifier: MIT
 *
 * enter.c: entering guests: <vmenter/enter.h>, and the processor's side of entry.S.
 *
 * enter.h needs no assembly: the guest runs in the call, on the caller's stack. HOST_RIP and HOST_RSP get addresses
 * that are canonical and otherwise without meaning.
 */
#include <vmenter/enter.h>

#include "src/hosted/hosted.h"

#define VMCS_HOST_RSP 0x6c14
#define VMCS_HOST_RIP 0x6c16

_Static_assert(offsetof(struct binding, stack_top) == 8, "entry.S");
_Static_assert(offsetof(struct binding, regs) == 16, "entry.S");
_Static_assert(offsetof(struct binding, rip) == 144, "entry.S");
_Static_assert(offsetof(struct binding, rflags) == 152, "entry.S");
_Static_assert(offsetof(struct binding, vector) == 160, "entry.S");
_Static_assert(offsetof(struct binding, vector_mask) == 168, "entry.S");
_Static_assert(offsetof(struct binding, vector_how) == 176, "entry.S");
_Static_assert(offsetof(struct binding, running) == 180, "entry.S");
_Static_assert(MACHINE_VECTOR_SIZE == 2816, "entry.S");

#if defined(__x86_64__)
unsigned char hosted_native_vmenter_vmlaunch(struct vmenter_regs *regs);
unsigned char hosted_native_vmenter_vmresume(struct vmenter_regs *regs);
void hosted_native_vmenter_vmrun(size_t vmcb_pa, struct vmenter_regs *regs);
#endif

static void load_block(struct cpu *c, const struct vmenter_regs *regs)
{
    uint64_t rsp = c->gpr[GPR_RSP];
    memcpy(c->gpr, regs->reg, sizeof regs->reg);
    c->gpr[GPR_RSP] = rsp;
}

static void store_block(const struct cpu *c, struct vmenter_regs *regs)
{
    uint64_t unused = regs->rsp_unused;
    memcpy(regs->reg, c->gpr, sizeof regs->reg);
    regs->rsp_unused = unused;
}

/* --- enter.h
 * ------------------------------------------------------------------------------------------------------------ */

static unsigned char vmx_block(struct vmenter_regs *regs, bool resume)
{
    struct binding *b = hosted_begin(resume ? HINSN_VMRESUME : HINSN_VMLAUNCH);
    if (!b)
        return 2;
    struct cpu *c = b->cpu;
    enum vmx_result r = vmx_vmwrite(c, VMCS_HOST_RSP, (uintptr_t)regs);
    if (r == VMX_SUCCEED)
        r = vmx_vmwrite(c, VMCS_HOST_RIP, 0);
    if (r == VMX_SUCCEED) {
        load_block(c, regs);
        r = hosted_vmx_enter(b, resume);
    }
    if (r == VMX_FAIL_VALID || r == VMX_FAIL_INVALID)
        return (unsigned char)r;
    if (r == VMX_FAULT || !hosted_run_guest(b)) {
        hosted_raise(b);
        return 2;
    }
    store_block(c, regs);
    return 0;
}

unsigned char vmenter_vmlaunch(struct vmenter_regs *regs)
{
#if defined(__x86_64__)
    if (unlikely(machine_is_guest()))
        return hosted_native_vmenter_vmlaunch(regs);
#endif
    return vmx_block(regs, false);
}

unsigned char vmenter_vmresume(struct vmenter_regs *regs)
{
#if defined(__x86_64__)
    if (unlikely(machine_is_guest()))
        return hosted_native_vmenter_vmresume(regs);
#endif
    return vmx_block(regs, true);
}

static bool svm_enter(struct binding *b, uint64_t vmcb_pa, uint64_t next_rip)
{
    struct cpu *c = b->cpu;
    mem_code_bump(c->mem);
    c->cur = NULL;
    c->icount++;
    c->gpr[GPR_RAX] = vmcb_pa; /* the operand; the host save area keeps it */
    c->rip = next_rip;
    return svm_vmrun(c, vmcb_pa) && hosted_run_guest(b);
}

void vmenter_vmrun(size_t vmcb_pa, struct vmenter_regs *regs)
{
#if defined(__x86_64__)
    if (unlikely(machine_is_guest())) {
        hosted_native_vmenter_vmrun(vmcb_pa, regs);
        return;
    }
#endif
    struct binding *b = hosted_begin(HINSN_VMRUN);
    if (!b)
        return;
    struct cpu *c = b->cpu;
    uint64_t rax = regs->rax;
    load_block(c, regs);
    if (!svm_enter(b, vmcb_pa, c->rip)) {
        hosted_raise(b);
        return;
    }
    store_block(c, regs);
    regs->rax = rax;
}

/* --- entry.S
 * -------------------------------------------------------------------------------------------------------------- */

#if defined(__x86_64__)

enum { ENTRY_VMLAUNCH, ENTRY_VMRESUME, ENTRY_VMRUN };

/* The frames between here and HOST_RSP are left without a return: tells AddressSanitizer, where it is linked and this
 * is the thread's own stack. */
void __asan_handle_no_return(void) __attribute__((weak));

static COLD void frames_end(void)
{
    pthread_attr_t attr;
    void *base;
    size_t size;
    if (pthread_getattr_np(pthread_self(), &attr))
        return;
    if (!pthread_attr_getstack(&attr, &base, &size) &&
        (uint8_t *)__builtin_frame_address(0) - (uint8_t *)base < (ptrdiff_t)size &&
        (uint8_t *)__builtin_frame_address(0) >= (uint8_t *)base)
        __asan_handle_no_return();
    pthread_attr_destroy(&attr);
}

struct binding *hosted_entry_begin(unsigned which);
enum hosted_outcome hosted_enter(struct binding *b, const uint64_t *block, unsigned which);

struct binding *hosted_entry_begin(unsigned which)
{
    static const enum hinsn id[] = {HINSN_VMLAUNCH, HINSN_VMRESUME, HINSN_VMRUN};
    if (__asan_handle_no_return)
        frames_end();
    return hosted_begin(id[which]);
}

/* block: the captured general registers, then the return address. */
enum hosted_outcome hosted_enter(struct binding *b, const uint64_t *block, unsigned which)
{
    struct cpu *c = b->cpu;
    memcpy(c->gpr, block, 16 * sizeof *block);
    c->gpr[GPR_RSP] = (uintptr_t)(block + 17);
    if (which == ENTRY_VMRUN)
        return hosted_go_from(b, svm_enter(b, c->gpr[GPR_RAX], block[16]));
    enum vmx_result r = hosted_vmx_enter(b, which == ENTRY_VMRESUME);
    if (r == VMX_FAIL_VALID || r == VMX_FAIL_INVALID)
        return (enum hosted_outcome)r;
    return hosted_go_from(b, r == VMX_SUCCEED && hosted_run_guest(b));
}

/* The processor's registers become native code's. */
enum hosted_outcome hosted_go_from(struct binding *b, bool ok)
{
    struct cpu *c = b->cpu;
    if (!ok)
        return HOSTED_EVENT;
    memcpy(b->regs, c->gpr, sizeof b->regs);
    b->rip = c->rip;
    b->rflags = FLAG_1 | (cpu_rflags(c) & (FLAG_ARITH | FLAG_DF));
    return HOSTED_GO;
}

enum hosted_outcome hosted_enter_trapped(struct binding *b, bool svm, bool resume, uint64_t next_rip)
{
    struct cpu *c = b->cpu;
    memcpy(c->gpr, b->regs, sizeof b->regs);
    if (svm)
        return hosted_go_from(b, svm_enter(b, c->gpr[GPR_RAX], next_rip));
    enum vmx_result r = hosted_vmx_enter(b, resume);
    if (r == VMX_FAIL_VALID || r == VMX_FAIL_INVALID)
        return (enum hosted_outcome)r;
    return hosted_go_from(b, r == VMX_SUCCEED && hosted_run_guest(b));
}

#endif
