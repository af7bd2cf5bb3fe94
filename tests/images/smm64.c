/* SPDX-License-Identifier: MIT
 *
 * smm64.c: system-management mode: SMI by IPI and by port 0xb2, the state-save area, RSM, SMBASE, SMRAM, NMIs, and SMI
 * in VMX and SVM guests. SDM volume 3C, "System Management Mode"; APM volume 2, "System-Management Mode".
 */
#include "guest.h"
#include <vmenter/enter.h>

const char image_name[] = IMAGE_NAME;
#define ASM(...) __asm__ volatile(__VA_ARGS__)
#define PA(p)    ((unsigned long long)(unsigned long)(p))

/* The handler: notes CR0, CR4, CS and FLAGS, copies the last KiB of its 64 KiB, sends itself an NMI if told, stores a
 * value into the state-save area if told, and returns. CS is based on SMBASE, the other segments on 0. */
__asm__(".section .low, \"ax\"\n.code16\n"
        "smm_code: movl %cr0, %eax\n addr32 movl %eax, smm_cr0\n"
        "movl %cr4, %eax\n addr32 movl %eax, smm_cr4\n"
        "movw %cs, %ax\n addr32 movw %ax, smm_cs\n"
        "pushfw\n popw %ax\n addr32 movw %ax, smm_flags\n"
        "movl $0xfc00, %esi\n movl $smm_area, %edi\n movl $256, %ecx\n cld\n"
        "1: addr32 movl %cs:(%esi), %eax\n addr32 movl %eax, (%edi)\n addl $4, %esi\n addl $4, %edi\n loop 1b\n"
        "addr32 incl smm_count\n"
        "addr32 movl smm_nmi, %eax\n testl %eax, %eax\n jz 2f\n"
        "addr32 movl %eax, 0xfee00300\n"
        "movl $1000, %ecx\n 3: nop\n loop 3b\n"
        "addr32 movl nmis, %eax\n addr32 movl %eax, nmis_in_smm\n"
        "2: addr32 movl patch_at, %ebx\n testl %ebx, %ebx\n jz 2f\n"
        "addr32 movl patch_value, %eax\n addr32 movl %eax, %cs:(%ebx)\n"
        "addr32 movl patch_once, %eax\n testl %eax, %eax\n jz 2f\n addr32 movl $0, patch_at\n"
        "2: rsm\n"
        "smm_code_end:\n.code64\n.text\n");
extern char smm_code[], smm_code_end[];
volatile uint32_t smm_cr0, smm_cr4, smm_count, smm_nmi, patch_at, patch_value, patch_once, nmis, nmis_in_smm;
volatile uint16_t smm_cs, smm_flags;
uint8_t smm_area[1024] __attribute__((aligned(16)));

static uint64_t area(unsigned offset, unsigned size) /* from SMBASE */
{
    uint64_t v = 0;
    memcpy(&v, smm_area + offset - 0xfc00, size);
    return v;
}
static bool amd; /* the format of the state-save area */
#define SAVED(intel_at, amd_at, size) area(amd ? (amd_at) : (intel_at), size)

static uint32_t pci_address(unsigned devfn, unsigned reg)
{
    return 0x80000000u | devfn << 8 | (reg & 0xfc);
}
static uint8_t host_bridge_read(unsigned reg)
{
    outl(0xcf8, pci_address(0, reg));
    return inb((uint16_t)(0xcfc + (reg & 3)));
}
static void host_bridge_write(unsigned reg, uint8_t v)
{
    outl(0xcf8, pci_address(0, reg));
    outb((uint16_t)(0xcfc + (reg & 3)), v);
}

static void put_handler(unsigned long smbase)
{
    memcpy((void *)(smbase + 0x8000), smm_code, (size_t)(smm_code_end - smm_code));
}
static void apic(unsigned reg, uint32_t v)
{
    *(volatile uint32_t *)(0xfee00000ul + reg) = v;
}
static uint32_t apic_id(void)
{
    return *(volatile uint32_t *)0xfee00020ul & 0xff000000;
}
static void pause(void)
{
    for (unsigned i = 0; i < 1000; i++)
        ASM("pause");
}
/* An SMI to this processor; it is there before the next instruction but a few. */
static void send_smi(void)
{
    apic(0x310, apic_id());
    apic(0x300, 0x4200);
    pause();
}
static void on_nmi(struct regs *r)
{
    nmis++;
}

static void basics(void)
{
    struct exc e = TRY(ASM("rsm"));
    expect_exc("RSM outside of SMM", e, UD, 0);
    uint64_t rbx = 0x1111222233334444, r15 = 0x5555666677778888;
    ASM("mov %[a], %%rbx\n mov %[b], %%r15\n mov $0xfee00000, %%edx\n movl %[id], 0x310(%%rdx)\n movl $0x4200, "
        "0x300(%%rdx)\n"
        "mov $1000, %%ecx\n 1: pause\n loop 1b\n mov %%rbx, %[a]\n mov %%r15, %[b]"
        : [a] "+m"(rbx), [b] "+m"(r15)
        : [id] "S"(apic_id())
        : "rax", "rcx", "rdx", "rbx", "r15", "memory", "cc");
    check_eq("SMI by IPI", smm_count, 1);
    check_eq("in SMM: CR0.PE, EM, TS, PG", smm_cr0 & 0x8000000d, 0);
    check_eq("in SMM: other bits of CR0", smm_cr0 & 0x7ffffff2, rdcr0() & 0x7ffffff2);
    check_eq("in SMM: CR4", smm_cr4, 0);
    check_eq("in SMM: flags", smm_flags & 0x0fd7 & ~0x8d5, 2);
    check_eq("saved CR0", SAVED(0xfff8, 0xff58, 8), rdcr0());
    check_eq("saved CR3", SAVED(0xfff0, 0xff50, 8), rdcr3());
    check_eq("saved EFER", SAVED(0xffe0, 0xfed0, 8), rdmsr(MSR_EFER));
    check_eq("saved DR7", SAVED(0xffc8, 0xff60, 8), 0x400);
    check_eq("saved RBX", SAVED(0xff74, 0xffe0, 8), 0x1111222233334444);
    check_eq("saved R15", SAVED(0xff1c, 0xff80, 8), 0x5555666677778888);
    check_eq("saved CS selector", SAVED(0xffac, 0xfe10, 2), SEL_K64);
    check_eq("saved SS selector", SAVED(0xffb0, 0xfe20, 2), SEL_KDATA);
    check_eq("saved TR selector", SAVED(0xffc4, 0xfe90, 2), SEL_TSS);
    check("saved RIP", SAVED(0xffd8, 0xff78, 8) > 0x100000 && SAVED(0xffd8, 0xff78, 8) < 0x800000);
    check_eq("auto-HALT slot after no HLT", SAVED(0xff02, 0xfec9, 1), 0);
    check_eq("RBX comes back", rbx, 0x1111222233334444);
    check_eq("R15 comes back", r15, 0x5555666677778888);
}

/* What the handler stores is what RSM loads. */
static void changed(void)
{
    uint64_t rbx = 1;
    patch_at = amd ? 0xffe0 : 0xff74, patch_value = 0xabcd1234;
    ASM("mov %[a], %%rbx\n mov $0xfee00000, %%edx\n movl %[id], 0x310(%%rdx)\n movl $0x4200, 0x300(%%rdx)\n"
        "mov $1000, %%ecx\n 1: pause\n loop 1b\n mov %%rbx, %[a]"
        : [a] "+m"(rbx)
        : [id] "S"(apic_id())
        : "rax", "rcx", "rdx", "rbx", "memory", "cc");
    check_eq("RBX changed by the handler", rbx, 0xabcd1234);
    patch_at = 0;
}

static unsigned long smbase(void)
{
    return (unsigned long)SAVED(0xfef8, 0xff00, 4);
}

static void relocation(void)
{
    unsigned long old = smbase();
    check_eq("CS is SMBASE >> 4", smm_cs, old >> 4);
    put_handler(0x50000);
    patch_at = amd ? 0xff00 : 0xfef8, patch_value = 0x50000;
    send_smi();
    patch_at = 0, smm_count = 0;
    send_smi();
    check_eq("SMI at the new SMBASE", smm_cs, 0x5000);
    check_eq("saved SMBASE", smbase(), 0x50000);
    patch_at = amd ? 0xff00 : 0xfef8, patch_value = (uint32_t)old;
    send_smi();
    patch_at = 0;
    send_smi();
    check_eq("SMI at the old one again", smm_cs, old >> 4);
    check_eq("SMIs", smm_count, 3);
}

static void nmi_blocking(void)
{
    rt_irq[NMI] = on_nmi;
    apic(0x310, apic_id());
    smm_nmi = 0x4400;
    send_smi();
    smm_nmi = 0;
    check_eq("NMI in SMM waits", nmis_in_smm, 0);
    check_eq("and comes after RSM", nmis, 1);
}

static void smram(void)
{
    uint8_t old = host_bridge_read(0x72);
    volatile uint8_t *ram = (volatile uint8_t *)0xa0000;
    host_bridge_write(0x72, 0x4a);
    ram[0x100] = 0x5a;
    check_eq("SMRAM, open", ram[0x100], 0x5a);
    host_bridge_write(0x72, 0x0a);
    check("SMRAM, closed", ram[0x100] != 0x5a);
    host_bridge_write(0x72, 0x4a);
    check_eq("SMRAM, open again", ram[0x100], 0x5a);
    /* A handler in it is reached although it is closed. */
    put_handler(0xa0000);
    host_bridge_write(0x72, 0x0a);
    unsigned long was = smbase();
    patch_at = amd ? 0xff00 : 0xfef8, patch_value = 0xa0000;
    send_smi();
    patch_at = 0;
    smm_cs = 0;
    send_smi();
    check_eq("a handler in closed SMRAM", smm_cs, 0xa000);
    patch_at = amd ? 0xff00 : 0xfef8, patch_value = (uint32_t)was;
    send_smi();
    patch_at = 0;
    host_bridge_write(0x72, old);
}

/* Port 0xb2 of the PIIX4: with the state of the I/O instruction. */
static void by_port(void)
{
    outl(0xcf8, pci_address(1 << 3 | 3, 0));
    unsigned long id;
    ASM("inl %%dx, %%eax" : "=a"(id) : "d"(0xcfc));
    if (id != 0x71138086) {
        skip("SMI by port 0xb2", "no PIIX4");
        return;
    }
    outl(0xcf8, pci_address(1 << 3 | 3, 0x58));
    outl(0xcfc, 1u << 25);
    smm_count = 0;
    outb(0xb2, 7);
    pause();
    check_eq("SMI by port 0xb2", smm_count, 1);
    uint32_t info = (uint32_t)SAVED(0xffa4, 0xfec0, 4);
    check_eq("I/O state", info, amd ? 0xb2u << 16 | 1 << 4 | 2 : 0xb2u << 16 | 8 << 4 | 1 << 1 | 1);
    check_eq("port 0xb2 reads back", inb(0xb2), 7);
    /* "I/O Instruction Restart": executed once more, which is another SMI; the handler asks for it no longer then. */
    patch_at = amd ? 0xfec8 : 0xff00, patch_value = 0xff;
    smm_count = 0;
    patch_once = 1;
    outb(0xb2, 9);
    pause();
    patch_once = 0;
    check_eq("OUT restarted once", smm_count, 2);
    outl(0xcf8, pci_address(1 << 3 | 3, 0x58));
    outl(0xcfc, 0);
}

/* --- guests: the guest sends the SMI itself, and goes on */
__asm__(".text\n"
        "guest_smi_vmx: mov $0xfee00000, %edx\n movl $0x4200, 0x300(%rdx)\n mov $1000, %ecx\n 1: pause\n loop 1b\n "
        "vmcall\n hlt\n"
        "guest_smi_svm: mov $0xfee00000, %edx\n movl $0x4200, 0x300(%rdx)\n mov $1000, %ecx\n 1: pause\n loop 1b\n "
        "vmmcall\n hlt\n");
extern char guest_smi_vmx[], guest_smi_svm[];
static struct vmenter_regs regs;

static void vmx(void)
{
    check("VMXON", rt_vmx_start(rt_pages[0], rt_pages[1]));
    smm_count = 0;
    send_smi();
    check_eq("SMI in VMX root operation", smm_count, 1);
    check_eq("CR4.VMXE in SMM", smm_cr4, 0);
    check("CR4.VMXE after RSM", rdcr4() & 0x2000);
    unsigned long long vmcs = 0;
    __vmx_vmptrst(&vmcs);
    check_eq("the current VMCS after RSM", vmcs, PA(rt_pages[1]));
    rt_vmcs_fill(0, 0);
    __vmx_vmwrite(VMCS_GUEST_RIP, PA(guest_smi_vmx));
    __vmx_vmwrite(VMCS_GUEST_RSP, PA(rt_pages[4]));
    smm_count = 0;
    apic(0x310, apic_id());
    regs = (struct vmenter_regs){.rdi = 0x1234567812345678};
    check_eq("VMLAUNCH", vmenter_vmlaunch(&regs), 0);
    size_t reason = 0;
    __vmx_vmread(VMCS_EXIT_REASON, &reason);
    check_eq("the guest goes on after its SMI", reason, VMX_REASON_VMCALL);
    check_eq("SMI in a guest is no VM exit", smm_count, 1);
    check_eq("the guest's RDI", regs.rdi, 0x1234567812345678);
    check_eq("saved RIP is the guest's", SAVED(0xffd8, 0xff78, 8) - PA(guest_smi_vmx) < 64, 1);
    __vmx_off();
}

static struct vmcb *const v = (struct vmcb *)rt_pages[1];
static void svm_setup(void)
{
    rt_vmcb_fill(v);
    v->save.rip = PA(guest_smi_svm), v->save.rsp = PA(rt_pages[4]);
    smm_count = 0;
    apic(0x310, apic_id());
    regs = (struct vmenter_regs){.rdi = 0x1234567812345678};
}
static void svm(void)
{
    rt_svm_start(rt_pages[0]);
    svm_setup();
    vmenter_vmrun(PA(v), &regs);
    __svm_stgi();
    check_eq("the guest goes on after its SMI", v->control.exitcode, SVM_EXIT_VMMCALL);
    check_eq("SMI in a guest, not intercepted", smm_count, 1);
    check_eq("the guest's RDI", regs.rdi, 0x1234567812345678);
    svm_setup();
    vmcb_set_intercept(v, SVM_EXIT_SMI);
    vmenter_vmrun(PA(v), &regs);
    check_eq("SMI intercepted", v->control.exitcode, SVM_EXIT_SMI);
    check_eq("GIF=0 holds it", smm_count, 0);
    __svm_stgi();
    pause();
    check_eq("STGI lets it in", smm_count, 1);
}

void image_main(void)
{
    uint32_t vendor = cpuid(0, 0).b;
    amd = vendor == 0x68747541 || rt_on_qemu() || rt_on_bochs(); /* they have AMD's format for every model */
    host_bridge_write(0x72, 0x4a);
    put_handler(0x30000);
    put_handler(0xa0000); /* where a BIOS left it */
    host_bridge_write(0x72, 0x0a);
    basics();
    changed();
    relocation();
    nmi_blocking();
    smram();
    by_port();
    if (cpu_has(1, 2, 5))
        vmx();
    if (cpu_has(0x80000001, 2, 2))
        svm();
}
