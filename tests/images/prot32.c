/* SPDX-License-Identifier: MIT
 *
 * prot32.c: 32- and 16-bit protected mode: segment limits and types, expand-down data, privilege, call gates with
 * parameters, hardware task switches, exceptions through 16-bit gates, virtual-8086 mode. SDM volume 3A, "Protection",
 * "Task Management", "8086 Emulation".
 */
#include "rt.h"

const char image_name[] = IMAGE_NAME;
#define ASM(...) __asm__ volatile(__VA_ARGS__)
#define UASM(name, code)                                                                                               \
    __asm__(".pushsection .user, \"ax\"\n.globl " #name "\n" #name ":\n" code "\n    int $0x80\n.popsection\n");       \
    extern char name[]

enum {
    SEL_A = SEL_FREE,
    SEL_B = SEL_FREE + 8,
    SEL_C = SEL_FREE + 16,
    SEL_D = SEL_FREE + 24,
    SEL_LDT = SEL_FREE + 32,
    SEL_TASK2 = SEL_FREE + 40,
    SEL_TASKGATE = SEL_FREE + 48,
    SEL_E = SEL_FREE + 56,
    SEL_TASK3 = SEL_FREE + 64
};
static void desc(unsigned sel, uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
    rt_gdt[sel / 8] = rt_desc(base, limit, (uint8_t)access, (uint8_t)flags);
}
static void gate(unsigned sel, unsigned type, unsigned target, uint32_t offset, unsigned params)
{
    rt_gdt[sel / 8] = (offset & 0xffff) | (uint64_t)target << 16 | (uint64_t)params << 32 | (uint64_t)type << 40 |
                      (uint64_t)(offset >> 16) << 48;
}
static struct exc load(const char seg, unsigned sel)
{
    switch (seg) {
    case 'd': return TRY(ASM("mov %0, %%fs" : : "r"(sel) : "memory"));
    default: return TRY(ASM("mov %0, %%ss" : : "r"(sel) : "memory"));
    }
}
#define FS(insn, ...) TRY(ASM(insn : __VA_ARGS__))

static void segments(void)
{
    struct exc e;
    uint32_t v;
    uint32_t base = (uint32_t)rt_pages[0];
    desc(SEL_A, base, 0x0f, 0x92, 4); /* 16 bytes, writable */
    expect_none("load a data segment", load('d', SEL_A));
    e = TRY(ASM("movl %%fs:12, %0" : "=r"(v)));
    expect_none("read up to the limit", e);
    e = TRY(ASM("movl %%fs:13, %0" : "=r"(v)));
    expect_exc("read across the limit", e, GP, 0);
    e = TRY(ASM("movb %%fs:15, %b0" : "=q"(v)));
    expect_none("read of the last byte", e);
    e = TRY(ASM("movb %%fs:16, %b0" : "=q"(v)));
    expect_exc("read beyond the limit", e, GP, 0);
    e = TRY(ASM("movl %%fs:0xfffffffe, %0" : "=r"(v)));
    expect_exc("read that wraps", e, GP, 0);
    desc(SEL_A, base, 0x0f, 0x90, 4); /* read-only */
    load('d', SEL_A);
    e = TRY(ASM("movl %0, %%fs:0" : : "r"(1) : "memory"));
    expect_exc("write of a read-only segment", e, GP, 0);
    desc(SEL_A, base, 0x0f, 0x9a, 4); /* code, readable */
    expect_none("load readable code as data", load('d', SEL_A));
    e = TRY(ASM("movl %0, %%fs:0" : : "r"(1) : "memory"));
    expect_exc("write of a code segment", e, GP, 0);
    e = TRY(ASM("movl %%fs:0, %0" : "=r"(v)));
    expect_none("read of a readable code segment", e);
    desc(SEL_A, base, 0x0f, 0x98, 4);
    expect_exc("load execute-only code as data", load('d', SEL_A), GP, SEL_A);
    desc(SEL_A, base, 0x0f, 0x82, 4); /* a system descriptor (LDT) */
    expect_exc("load a system segment", load('d', SEL_A), GP, SEL_A);
    desc(SEL_A, base, 0x0f, 0x12, 4);
    expect_exc("load an absent segment", load('d', SEL_A), NP, SEL_A);
    expect_exc("load beyond the GDT", load('d', 0x5000), GP, 0x5000);
    expect_none("load null", load('d', 0));
    e = TRY(ASM("movl %%fs:0, %0" : "=r"(v)));
    expect_exc("access through a null segment", e, GP, 0);
    expect_none("null with an RPL", load('d', 3));
    desc(SEL_A, base, 0x0f, 0x92, 4);
    expect_exc("RPL 3 with DPL 0", load('d', SEL_A | 3), GP, SEL_A);
    desc(SEL_A, base, 0x0f, 0x9e, 4); /* conforming, readable: no privilege check */
    expect_none("RPL 3 with conforming code", load('d', SEL_A | 3));
    /* expand-down: valid offsets are limit+1 .. 0xffff or 0xffffffff */
    desc(SEL_A, base - 0x1000, 0xfff, 0x96, 4);
    load('d', SEL_A);
    e = TRY(ASM("movl %%fs:0x1000, %0" : "=r"(v)));
    expect_none("expand-down: first valid", e);
    e = TRY(ASM("movl %%fs:0xffe, %0" : "=r"(v)));
    expect_exc("expand-down: below", e, GP, 0);
    desc(SEL_A, base - 0x1000, 0xfff, 0x96, 0); /* B = 0: up to 0xffff */
    load('d', SEL_A);
    e = TRY(ASM("movl %%fs:0xfffc, %0" : "=r"(v)));
    expect_none("expand-down, B=0: last valid", e);
    e = TRY(ASM("movl %%fs:0x10000, %0" : "=r"(v)));
    expect_exc("expand-down, B=0: beyond 64 KiB", e, GP, 0);
    /* granularity */
    desc(SEL_A, base, 0, 0x92, 0xc);
    load('d', SEL_A);
    e = TRY(ASM("movl %%fs:0xffc, %0" : "=r"(v)));
    expect_none("G=1: limit 0 is 4 KiB", e);
    e = TRY(ASM("movl %%fs:0xffd, %0" : "=r"(v)));
    expect_exc("G=1: beyond", e, GP, 0);
    check_eq("accessed bit set by the load", rt_gdt[SEL_A / 8] >> 40 & 1, 1);
    load('d', 0);
    /* the stack segment */
    expect_exc("SS: null", load('s', 0), GP, 0);
    expect_exc("SS: read-only", (desc(SEL_A, 0, 0xfffff, 0x90, 0xc), load('s', SEL_A)), GP, SEL_A);
    expect_exc("SS: code", load('s', SEL_K32), GP, SEL_K32);
    expect_exc("SS: DPL 3", load('s', SEL_UDATA & ~3), GP, SEL_UDATA & ~3);
    expect_exc("SS: absent", (desc(SEL_A, 0, 0xfffff, 0x12, 0xc), load('s', SEL_A)), SS, SEL_A);
}

/* BOUND, INTO, LDS and others that exist here only */
static void legacy_instructions(void)
{
    struct exc e;
    static const int32_t bounds[2] = {-5, 5};
    e = TRY(ASM("bound %0, %1" : : "r"(5), "m"(bounds)));
    expect_none("BOUND inside", e);
    e = TRY(ASM("bound %0, %1" : : "r"(6), "m"(bounds)));
    expect_exc("BOUND above", e, BR, 0);
    e = TRY(ASM("bound %0, %1" : : "r"(-6), "m"(bounds)));
    expect_exc("BOUND below", e, BR, 0);
    e = TRY(ASM("movb $0x7f, %%al; incb %%al; into" : : : "eax", "cc"));
    expect_exc("INTO with OF", e, OF, 0);
    e = TRY(ASM("xorl %%eax, %%eax; into" : : : "eax", "cc"));
    expect_none("INTO without OF", e);
    e = TRY(ASM(".byte 0xd4, 0" : : : "eax", "cc"));
    expect_exc("AAM 0", e, DE, 0);
    uint16_t a = 0x0106;
    struct {
        uint32_t off;
        uint16_t sel;
    } __attribute__((packed)) ptr = {0x1234, SEL_UDATA};
    volatile uint32_t off_out = 0, fs_out = 0;
    uint32_t off, fs;
    e = TRY(ASM("lfs %2, %0; mov %%fs, %1" : "=r"(off), "=r"(fs) : "m"(ptr)); off_out = off; fs_out = fs);
    check("LFS", off_out == 0x1234 && fs_out == SEL_UDATA);
    ptr.sel = 0x5000;
    e = TRY(ASM("lfs %1, %0" : "=r"(off) : "m"(ptr)));
    expect_exc("LFS beyond the GDT", e, GP, 0x5000);
    e = TRY(ASM(".byte 0xc4, 0xc0")); /* LES eax, eax */
    expect_exc("LES with a register", e, UD, 0);
    uint8_t zf;
    a = SEL_UDATA & ~3;
    uint16_t b = SEL_UDATA;
    ASM("arpl %2, %0; setz %1" : "+r"(a), "=q"(zf) : "r"(b) : "cc");
    check("ARPL raises the RPL", zf && a == SEL_UDATA);
    e = TRY(ASM("pushal; popal; das; daa; aaa; aas" : : : "eax", "cc"));
    expect_none("PUSHA, POPA, BCD", e);
    e = TRY(ASM("pushw %%ds; popw %%fs; push %%cs; pop %%eax" : : : "eax", "memory"));
    expect_none("16-bit segment push and pop", e);
    e = TRY(ASM(".byte 0x82, 0xc0, 0x01" : : : "eax", "cc"));
    expect_none("opcode 82", e);
}

/* --- privilege
 * ------------------------------------------------------------------------------------------------------------------ */
UASM(u_ok, "mov %cs, %eax");
UASM(u_hlt, "hlt");
UASM(u_in, "inb $0x80, %al");
UASM(u_cli, "cli");
UASM(u_pushf, "pushf; pop %eax; sti; cli; pushf; pop %ebx");
UASM(u_gate, "mov %esp, %esi; push $0x11111111; push $0x22222222; lcall $0x5b, $0; mov %cs, %ebx; mov %esp, %edx");
UASM(u_far, "lcall $0x40, $0x100000");
UASM(u_farself, "lcall $0x1b, $0");
UASM(u_movss, "mov $0x10, %eax; mov %eax, %ss");
UASM(u_int20, "int $0x20");
UASM(u_push, "push %eax");
UASM(u_ebp, "mov $0x100, %ebp; mov (%ebp), %eax");
static struct exc user(char *code, unsigned long flags)
{
    struct go g = {.rip = USER_ADDR(code),
                   .cs = SEL_U32,
                   .rflags = flags,
                   .rsp = RT_USER_STACK - 64,
                   .ss = SEL_UDATA,
                   .v86_es = SEL_UDATA,
                   .v86_ds = SEL_UDATA};
    return TRY(rt_go(&g));
}

uint32_t cg_cs, cg_ss, cg_esp, cg_frame[6];
__asm__(".text\ncg_entry:\n pushl %ds\n pushl %eax\n movl $0x10, %eax\n movl %eax, %ds\n movl %cs, %eax\n movl %eax, "
        "cg_cs\n movl %ss, %eax\n movl %eax, cg_ss\n"
        " leal 8(%esp), %eax\n movl %eax, cg_esp\n"
        " movl 8(%esp), %eax\n movl %eax, cg_frame\n movl 12(%esp), %eax\n movl %eax, cg_frame + 4\n movl 16(%esp), "
        "%eax\n movl %eax, cg_frame + 8\n"
        " movl 20(%esp), %eax\n movl %eax, cg_frame + 12\n movl 24(%esp), %eax\n movl %eax, cg_frame + 16\n movl "
        "28(%esp), %eax\n movl %eax, cg_frame + 20\n"
        " popl %eax\n popl %ds\n lretl $8\n");
extern char cg_entry[];

static void privilege(void)
{
    struct exc e = user(u_ok, 0x202);
    expect_exc("cpl3 code", e, RT_RETURN, 0);
    check_eq("cpl3 CS", e.rax, SEL_U32);
    expect_exc("cpl3 HLT", user(u_hlt, 0x202), GP, 0);
    expect_exc("cpl3 IN", user(u_in, 0x202), GP, 0);
    expect_exc("cpl3 CLI", user(u_cli, 0x202), GP, 0);
    expect_exc("cpl3 IN with IOPL 3", user(u_in, 0x3202), RT_RETURN, 0);
    e = user(u_pushf, 0x3202);
    expect_exc("cpl3 STI and CLI with IOPL 3", e, RT_RETURN, 0);
    check_eq("... IF", e.rbx & 0x3200, 0x3000);
    expect_exc("cpl3 far CALL to DPL 0", user(u_far, 0x202), GP, SEL_K32);
    expect_exc("cpl3 MOV SS, DPL 0", user(u_movss, 0x202), GP, SEL_KDATA);
    expect_exc("cpl3 INT to a DPL 0 gate", user(u_int20, 0x202), GP, 0x20 * 8 + 2);
    /* call gate with two parameters */
    gate(SEL_A, 0xec, SEL_K32, (uint32_t)cg_entry, 2);
    e = user(u_gate, 0x202);
    expect_exc("CALL through a gate with parameters", e, RT_RETURN, 0);
    check_eq("gate: CS", cg_cs, SEL_K32);
    check_eq("gate: SS from the TSS", cg_ss, SEL_KDATA);
    check_eq("gate: ESP from the TSS", cg_esp, rt_tss.esp0 - 24);
    check_eq("gate: CS pushed", cg_frame[1] & 0xffff, SEL_U32);
    check_eq("gate: parameter 1 (pushed last)", cg_frame[2], 0x22222222);
    check_eq("gate: parameter 2", cg_frame[3], 0x11111111);
    check_eq("gate: ESP pushed", cg_frame[4], RT_USER_STACK - 64 - 8);
    check_eq("gate: SS pushed", cg_frame[5] & 0xffff, SEL_UDATA);
    check_eq("RET 8 releases the parameters on both stacks", e.rdx, RT_USER_STACK - 64);
    gate(SEL_A, 0x8c, SEL_K32, (uint32_t)cg_entry, 2);
    expect_exc("gate with DPL 0", user(u_gate, 0x202), GP, SEL_A);
    gate(SEL_A, 0x6c, SEL_K32, (uint32_t)cg_entry, 2);
    expect_exc("gate not present", user(u_gate, 0x202), NP, SEL_A);
    gate(SEL_A, 0xec, SEL_KDATA, (uint32_t)cg_entry, 2);
    expect_exc("gate to data", user(u_gate, 0x202), GP, SEL_KDATA);
    gate(SEL_A, 0xec, SEL_K32, 0xfffffff0, 2);
    desc(SEL_E, 0, 0x0fff, 0x9a, 4);
    gate(SEL_A, 0xec, SEL_E, 0x2000, 2);
    expect_exc("gate beyond the code's limit", user(u_gate, 0x202), GP, 0);
    gate(SEL_A, 0xec, SEL_K32, (uint32_t)cg_entry, 2);
    /* a small stack segment of DPL 3 */
    desc(SEL_E, RT_USER_STACK - 4096, 0xff, 0xf2, 4);
    struct go g = {.rip = USER_ADDR(u_push),
                   .cs = SEL_U32,
                   .rflags = 0x202,
                   .rsp = 0x100,
                   .ss = SEL_E | 3,
                   .v86_es = SEL_UDATA,
                   .v86_ds = SEL_UDATA};
    e = TRY(rt_go(&g));
    expect_exc("PUSH within a small stack segment", e, RT_RETURN, 0);
    check_eq("... ESP", e.rsp, 0xfc);
    g.rsp = 0x108;
    expect_exc("PUSH beyond the stack's limit", TRY(rt_go(&g)), SS, 0);
    g.rsp = 2;
    expect_exc("PUSH that wraps", TRY(rt_go(&g)), SS, 0);
    g.rip = USER_ADDR(u_ebp), g.rsp = 0x80;
    expect_exc("EBP-based read beyond the stack's limit", TRY(rt_go(&g)), SS, 0);
    desc(SEL_E, RT_USER_STACK - 0x10000, 0xffff, 0xf2, 0); /* 16-bit stack: SP wraps within 64 KiB, upper ESP is kept */
    g.rip = USER_ADDR(u_push), g.rsp = 0x12340000 | 0xf000;
    e = TRY(rt_go(&g));
    expect_exc("PUSH on a 16-bit stack", e, RT_RETURN, 0);
    check_eq("... uses SP", e.rsp & 0xffff, 0xeffc);
    desc(SEL_E, 0, 0xfffff, 0x72, 0xc);
    expect_exc("IRET with an absent SS", TRY(rt_go(&g)), SS, SEL_E);
    g.ss = 0;
    expect_exc("IRET with a null SS", TRY(rt_go(&g)), GP, 0);
    g.ss = SEL_UDATA, g.cs = SEL_K32 | 3;
    expect_exc("IRET to DPL 0 code with RPL 3", TRY(rt_go(&g)), GP, SEL_K32);
    g.cs = SEL_U32, g.rip = USER_ADDR(u_ok);
    desc(SEL_E, 0, 0xff, 0xfa, 4);
    g.cs = SEL_E | 3;
    expect_exc("IRET beyond the code's limit", TRY(rt_go(&g)), GP, 0);
}

/* --- task switches
 * ------------------------------------------------------------------------------------------------------------------ */
static struct tss32 tss2;
static uint8_t task_stack[4096] __attribute__((aligned(16)));
uint32_t task_seen[8];
__asm__(".text\n"
        "task_entry:\n movl %eax, task_seen\n movl %esp, task_seen + 4\n pushfl\n popl task_seen + 8\n strl %eax\n "
        "movl %eax, task_seen + 12\n"
        " movl %cr0, %eax\n movl %eax, task_seen + 16\n movl $0x77, %ebx\n iretl\n"
        /* entered a second time, it goes on here: the task keeps its place */
        " movl $0x2222, task_seen + 20\n iretl\n"
        "task_jmp_entry:\n movl $0x3333, task_seen + 24\n ljmp $0x30, $0\n jmp task_jmp_entry\n"
        "task_fault_entry:\n movl (%esp), %eax\n movl %eax, task_seen + 28\n addl $4, %esp\n movl $recovered, rt_tss + "
        "32\n iretl\n jmp task_fault_entry\n"
        "recovered: movl $task_rec_esp, %esp\n movl (%esp), %esp\n ret\n"
        "fault_call: movl %esp, task_rec_esp\n ud2\n"
        "fault_call_gp: movl %esp, task_rec_esp\n movl $0x5000, %eax\n movl %eax, %fs\n ret\n"
        ".data\ntask_rec_esp: .long 0\n.text\n");
extern char task_entry[], task_jmp_entry[], task_fault_entry[], fault_call[], fault_call_gp[];

static struct tss32 tss3;
uint32_t ts_seen[2];
__asm__(".text\nts_entry: popl ts_seen\n andl $~0x200, rt_gdt + 0x30 + 4\n ljmp $0x30, $0\n jmp ts_entry\n");
extern char ts_entry[];
static void task_setup(void *entry)
{
    memset(&tss2, 0, 104);
    tss2.cr3 = rdcr3();
    tss2.eip = (uint32_t)entry;
    tss2.eflags = 2;
    tss2.eax = 0xabcd;
    tss2.esp = (uint32_t)(task_stack + sizeof task_stack);
    tss2.cs = SEL_K32;
    tss2.ss = tss2.ds = tss2.es = tss2.fs = tss2.gs = SEL_KDATA;
    tss2.iomap = 104;
    desc(SEL_TASK2, (uint32_t)&tss2, 103, 0x89, 0);
    memset(task_seen, 0, sizeof task_seen);
}

static void tasks(void)
{
    struct exc e;
    rt_tss.cr3 = rdcr3(); /* a switch does not save CR3 */
    task_setup(task_entry);
    e = TRY(ASM("lcall %0, $0" : : "i"(SEL_TASK2) : "memory", "eax", "ecx", "edx", "cc"));
    expect_none("CALL to a TSS and IRET back", e);
    check_eq("task: EAX from the TSS", task_seen[0], 0xabcd);
    check_eq("task: ESP from the TSS", task_seen[1], (uint32_t)(task_stack + sizeof task_stack));
    check_eq("task: NT set", task_seen[2] & 0x4000, 0x4000);
    check_eq("task: TR", task_seen[3], SEL_TASK2);
    check_eq("task: CR0.TS set", task_seen[4] & 8, 8);
    check_eq("task: back link", tss2.link, SEL_TSS);
    check_eq("task: saved EBX", tss2.ebx, 0x77);
    check_eq("task: not busy after IRET", rt_gdt[SEL_TASK2 / 8] >> 40 & 0xff, 0x89);
    check_eq("old task: busy", rt_gdt[SEL_TSS / 8] >> 40 & 0xff, 0x8b);
    check_eq("task: saved EFLAGS without NT", tss2.eflags & 0x4000, 0);
    ASM("clts");
    e = TRY(ASM("lcall %0, $0" : : "i"(SEL_TASK2) : "memory", "eax", "ecx", "edx", "cc"));
    expect_none("the second CALL goes on where the task left", e);
    check_eq("... there", task_seen[5], 0x2222);
    gate(SEL_TASKGATE, 0x85, SEL_TASK2, 0, 0);
    task_setup(task_entry);
    e = TRY(ASM("lcall %0, $0" : : "i"(SEL_TASKGATE) : "memory", "eax", "ecx", "edx", "cc"));
    expect_none("CALL through a task gate", e);
    check_eq("... arrived", task_seen[3], SEL_TASK2);
    task_setup(task_jmp_entry);
    e = TRY(ASM("ljmp %0, $0" : : "i"(SEL_TASK2) : "memory", "eax", "ecx", "edx", "cc"));
    expect_none("JMP to a TSS and JMP back", e);
    check_eq("... arrived", task_seen[6], 0x3333);
    check_eq("JMP does not nest: no back link", tss2.link, 0);
    check_eq("JMP: NT clear", rdflags() & 0x4000, 0);
    check_eq("JMP away clears busy", rt_gdt[SEL_TASK2 / 8] >> 40 & 0xff, 0x89);
    ASM("clts");
    /* refusals */
    desc(SEL_TASK2, (uint32_t)&tss2, 103, 0x8b, 0);
    e = TRY(ASM("lcall %0, $0" : : "i"(SEL_TASK2) : "memory"));
    expect_exc("CALL to a busy TSS", e, GP, SEL_TASK2);
    desc(SEL_TASK2, (uint32_t)&tss2, 103, 0x09, 0);
    e = TRY(ASM("lcall %0, $0" : : "i"(SEL_TASK2) : "memory"));
    expect_exc("CALL to an absent TSS", e, NP, SEL_TASK2);
    desc(SEL_TASK2, (uint32_t)&tss2, 102, 0x89, 0);
    e = TRY(ASM("lcall %0, $0" : : "i"(SEL_TASK2) : "memory"));
    expect_exc("CALL to a TSS that is too short", e, TS, SEL_TASK2);
    /* A bad segment in the new TSS: the fault comes in the new task, whose stack may not be there yet: a third task
     * takes #TS, and jumps back to the first. */
    memset(&tss3, 0, 104);
    tss3.cr3 = rdcr3();
    tss3.eip = (uint32_t)ts_entry;
    tss3.eflags = 2;
    tss3.esp = (uint32_t)(rt_pages[20] + 4096);
    tss3.cs = SEL_K32;
    tss3.ss = tss3.ds = tss3.es = tss3.fs = tss3.gs = SEL_KDATA;
    tss3.iomap = 104;
    desc(SEL_TASK3, (uint32_t)&tss3, 103, 0x89, 0);
    rt_gate(TS, SEL_TASK3, 0, 0x85, 0);
    static const struct {
        const char *name;
        unsigned cs, ss, ldt, ds, error;
    } bad[] = {
        {"new task with an SS of another DPL", SEL_K32, SEL_UDATA & ~3, 0, SEL_KDATA, SEL_UDATA & ~3},
        {"new task with a null SS", SEL_K32, 0, 0, SEL_KDATA, 0},
        {"new task with a data CS", SEL_KDATA, SEL_KDATA, 0, SEL_KDATA, SEL_KDATA},
        {"new task with a null CS", 0, SEL_KDATA, 0, SEL_KDATA, 0},
        {"new task with a bad LDT", SEL_K32, SEL_KDATA, 0x5000, SEL_KDATA, 0x5000},
        {"new task with a DS beyond the GDT", SEL_K32, SEL_KDATA, 0, 0x5000, 0x5000},
    };
    for (volatile unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        task_setup(task_entry);
        tss2.cs = (uint16_t)bad[i].cs, tss2.ss = (uint16_t)bad[i].ss, tss2.ldt = (uint16_t)bad[i].ldt,
        tss2.ds = (uint16_t)bad[i].ds;
        ts_seen[0] = 0xbad;
        e = TRY(ASM("lcall %0, $0" : : "i"(SEL_TASK2) : "memory", "eax", "ecx", "edx", "cc"));
        check_eq(bad[i].name, ts_seen[0], bad[i].error);
        check_eq("... raised in the context of the new task", tss3.link, SEL_TASK2);
        ASM("clts");
        rt_gdt[SEL_TASK3 / 8] &= ~(2ull << 40);
    }
    rt_gate(TS, SEL_K32, (uint32_t)rt_stub(TS), 0x8e, 0);
    /* IRET with NT and a back link that is no TSS */
    rt_tss.link = SEL_KDATA;
    e = TRY(ASM("pushf; orl $0x4000, (%%esp); popf; iretl" : : : "cc", "memory"));
    ASM("pushf; andl $~0x4000, (%%esp); popf" : : : "cc", "memory");
    expect_exc("IRET with NT to no TSS", e, TS, SEL_KDATA);
    /* An exception through a task gate, with its error code on the new task's stack */
    task_setup(task_fault_entry);
    rt_gate(GP, SEL_TASK2, 0, 0x85, 0);
    e = TRY(ASM("call fault_call_gp" : : : "eax", "ecx", "edx", "memory", "cc"));
    rt_gate(GP, SEL_K32, (uint32_t)rt_stub(GP), 0x8e, 0);
    expect_none("#GP through a task gate", e);
    check_eq("... error code pushed", task_seen[7], 0x5000);
    ASM("clts");
    ASM("mov %0, %%fs" : : "r"(SEL_KDATA));
}

/* --- virtual-8086 mode
 * ------------------------------------------------------------------------------------------------------------ */
static struct exc v86(const uint8_t *code, unsigned n, unsigned long flags)
{
    uint8_t *low = (uint8_t *)0x8000;
    memset(low, 0xf4, 64);
    memcpy(low, code, n);
    struct go g = {.rip = 0,
                   .cs = 0x800,
                   .rflags = flags | 0x20002,
                   .rsp = 0xff00,
                   .ss = 0x900,
                   .v86_ds = 0x800,
                   .v86_es = 0x800,
                   .v86_fs = 0x1234,
                   .v86_gs = 0x4321,
                   .rax = 0x1234};
    return TRY(rt_go(&g));
}
#define V86(flags, ...)                                                                                                \
    ({                                                                                                                 \
        static const uint8_t c_[] = {__VA_ARGS__};                                                                     \
        v86(c_, sizeof c_, flags);                                                                                     \
    })

static void v8086(void)
{
    extern volatile unsigned long rt_pd[];
    rt_pd[0] |= PTE_U;
    wrcr3(rdcr3());
    struct exc e = V86(0x3000, 0xcd, 0x80);
    expect_exc("v86 INT n with IOPL 3, gate DPL 3", e, RT_RETURN, 0);
    check_eq("v86: pushed CS", e.cs & 0xffff, 0x800);
    check_eq("v86: pushed IP after INT", e.rip, 2);
    check_eq("v86: pushed VM", e.rflags & 0x20000, 0x20000);
    check_eq("v86: pushed SS", e.ss & 0xffff, 0x900);
    check_eq("v86: pushed SP", e.rsp & 0xffff, 0xff00);
    e = V86(0, 0xcd, 0x80);
    expect_exc("v86 INT n with IOPL 0", e, GP, 0);
    e = V86(0x3000, 0xcd, 0x20);
    expect_exc("v86 INT n with IOPL 3, gate DPL 0", e, GP, 0x20 * 8 + 2);
    expect_exc("v86 CLI with IOPL 0", V86(0, 0xfa), GP, 0);
    expect_exc("v86 STI with IOPL 0", V86(0, 0xfb), GP, 0);
    expect_exc("v86 PUSHF with IOPL 0", V86(0, 0x9c), GP, 0);
    expect_exc("v86 POPF with IOPL 0", V86(0, 0x9d), GP, 0);
    expect_exc("v86 IRET with IOPL 0", V86(0, 0xcf), GP, 0);
    expect_exc("v86 INT3 with IOPL 0", V86(0, 0xcc), BP, 0);
    expect_exc("v86 HLT", V86(0x3000, 0xf4), GP, 0);
    expect_exc("v86 MOV from CR0", V86(0x3000, 0x0f, 0x20, 0xc0), GP, 0);
    expect_exc("v86 LGDT", V86(0x3000, 0x0f, 0x01, 0x16, 0, 0), GP, 0);
    expect_exc("v86 LLDT", V86(0x3000, 0x0f, 0x00, 0xd0), UD, 0);
    expect_exc("v86 LAR", V86(0x3000, 0x0f, 0x02, 0xc0), UD, 0);
    expect_exc("v86 ARPL", V86(0x3000, 0x63, 0xc0), UD, 0);
    expect_exc("v86 UD2", V86(0x3000, 0x0f, 0x0b), UD, 0);
    expect_exc("v86 IN without permission", V86(0x3000, 0xe4, 0x80), GP, 0);
    rt_tss.iomap = (uint16_t)((char *)rt_tss.map - (char *)&rt_tss);
    memset(rt_tss.map, 0, sizeof rt_tss.map);
    rt_gdt[SEL_TSS / 8] = rt_desc((uint32_t)&rt_tss, sizeof rt_tss - 1, 0x89, 0);
    ASM("ltr %w0" : : "r"(SEL_TSS));
    expect_exc("v86 IN with permission, IOPL 0", V86(0, 0xe4, 0x80, 0xcc), BP, 0);
    /* mov ax, cs; mov bx, ds; mov cx, fs; push cs; pop dx; int3 */
    e = V86(0x3000, 0x8c, 0xc8, 0x8c, 0xdb, 0x8c, 0xe1, 0x0e, 0x5a, 0xcc);
    check_eq("v86: CS", e.rax & 0xffff, 0x800);
    check_eq("v86: DS", e.rbx & 0xffff, 0x800);
    check_eq("v86: FS", e.rcx & 0xffff, 0x1234);
    check_eq("v86: PUSH CS", e.rdx & 0xffff, 0x800);
    /* mov ax, 0x900; mov ds, ax; mov word [0x10], 0xbeef; mov ax, 0x8f0; mov es, ax; mov bx, es:[0x110]; int3 */
    e = V86(0x3000, 0xb8, 0x00, 0x09, 0x8e, 0xd8, 0xc7, 0x06, 0x10, 0x00, 0xef, 0xbe, 0xb8, 0xf0, 0x08, 0x8e, 0xc0,
            0x26, 0x8b, 0x1e, 0x10, 0x01, 0xcc);
    check_eq("v86: segment arithmetic", e.rbx & 0xffff, 0xbeef);
    /* jmp far 0x801:0x0000 (address 0x8010) */
    {
        static const uint8_t jmp[] = {0xea, 0x00, 0x00, 0x01, 0x08};
        uint8_t code[32];
        memset(code, 0xf4, sizeof code);
        memcpy(code, jmp, sizeof jmp);
        code[16] = 0x8c, code[17] = 0xc8, code[18] = 0xcc;
        e = v86(code, sizeof code, 0x3000);
        check_eq("v86: far JMP", e.rax & 0xffff, 0x801);
    }
    e = V86(0x3000, 0xa1, 0xff, 0xff, 0xcc); /* a word at offset 0xffff crosses the 64-KiB limit */
    expect_exc("v86: word at offset 0xffff", e, GP, 0);
    e = V86(0x3000, 0xbc, 0x01, 0x00, 0x58, 0xcc); /* mov sp, 1; pop ax: fine; */
    expect_exc("v86: POP from 1", e, BP, 0);
    e = V86(0x3000, 0xbc, 0xff, 0xff, 0x58, 0xcc); /* pop at 0xffff crosses */
    expect_exc("v86: POP across 64 KiB", e, SS, 0);
    e = V86(0x3000, 0x67, 0x66, 0xa1, 0x00, 0x00, 0x01, 0x00, 0xcc); /* 32-bit address 0x10000 */
    expect_exc("v86: 32-bit offset beyond 64 KiB", e, GP, 0);
    e = V86(0x3000, 0x66, 0xb8, 0x78, 0x56, 0x34, 0x12, 0x66, 0x50, 0x66, 0x5b, 0xcc);
    check_eq("v86: 32-bit operands", e.rbx, 0x12345678);
    e = V86(0x3000, 0xfb, 0x9c, 0x58, 0xfa, 0x9c, 0x5b, 0xcc); /* sti; pushf; pop ax; cli; pushf; pop bx */
    check_eq("v86: STI with IOPL 3", e.rax & 0x200, 0x200);
    check_eq("v86: CLI with IOPL 3", e.rbx & 0x200, 0);
    check_eq("v86: PUSHF shows IOPL 3", e.rax & 0x3000, 0x3000);
    e = V86(0x3100, 0x90, 0x90);
    expect_exc("v86: single step", e, DB, 0);
    check_eq("v86: single step, IP", e.rip, 1);
    if (!cpu_has(1, 3, 1)) {
        skip("VME", "no VME");
        return;
    }
    /* VME: with IOPL 0 CLI and STI act on VIF, and INT n redirects through the real-mode table when its bit is clear */
    wrcr4(rdcr4() | 1);
    memset(rt_tss.map, 0xff, 32);
    e = V86(0, 0xfb, 0x9c, 0x58, 0xfa, 0x9c, 0x5b, 0xcc);
    expect_exc("VME: STI, PUSHF, CLI with IOPL 0", e, BP, 0);
    check_eq("VME: PUSHF shows VIF as IF", e.rax & 0x200, 0x200);
    check_eq("VME: PUSHF shows IOPL 3", e.rax & 0x3000, 0x3000);
    check_eq("VME: CLI clears VIF", e.rbx & 0x200, 0);
    check_eq("VME: VIF in the frame", e.rflags & 0x80000, 0);
    e = V86(0, 0xfb, 0xcc);
    check_eq("VME: VIF set in the frame", e.rflags & 0x80000, 0x80000);
    e = V86(0x100000, 0xfb, 0x90);
    expect_exc("VME: STI with VIP", e, GP, 0);
    /* the redirection map lies in the 32 bytes before the I/O map; rt_tss.map is [32 bytes redirection][I/O map] */
    rt_tss.iomap = (uint16_t)((char *)rt_tss.map + 32 - (char *)&rt_tss);
    rt_tss.map[0x21 / 8] &= (uint8_t) ~(1 << (0x21 & 7));
    *(volatile uint16_t *)(0x21 * 4) = 0x20;      /* IP */
    *(volatile uint16_t *)(0x21 * 4 + 2) = 0x800; /* CS */
    {
        uint8_t code[64];
        memset(code, 0xf4, sizeof code);
        code[0] = 0xfb, code[1] = 0xcd, code[2] = 0x21, code[3] = 0x9c, code[4] = 0x58, code[5] = 0xcc;
        code[0x20] = 0x9c, code[0x21] = 0x5b, code[0x22] = 0xcf; /* pushf; pop bx; iret */
        e = v86(code, sizeof code, 0);
        expect_exc("VME: INT n through the real-mode table", e, BP, 0);
        check_eq("VME: ... VIF clear in the handler", e.rbx & 0x200, 0);
        check_eq("VME: ... VIF back after IRET", e.rax & 0x200, 0x200);
        check_eq("VME: ... came back", e.rip, 6);
    }
    wrcr4(rdcr4() & ~1ul);
}

/* --- 16-bit protected mode
 * ------------------------------------------------------------------------------------------------------------ */
__asm__(".section .low, \"ax\"\n.code16\n"
        "p16_entry:\n mov %ss, %dx\n mov %esp, %ebx\n push $0x1234\n pop %ax\n movl $0x10002, %ecx\n"
        "1: loop 1b\n" /* CX, not ECX */
        " jmp 2f\n2: lretl\np16_end:\n.code32\n.text\n");
extern char p16_entry[], p16_end[];

static void protected16(void)
{
    memcpy((void *)0x7000, p16_entry, (size_t)(p16_end - p16_entry));
    uint32_t ax, cx, bx;
    struct {
        uint32_t off;
        uint16_t sel;
    } __attribute__((packed)) ptr = {0x7000, SEL_K16};
    ASM("lcall *%3" : "=a"(ax), "=c"(cx), "=b"(bx) : "m"(ptr) : "edx", "memory", "cc");
    check_eq("16-bit code: PUSH imm, POP", ax & 0xffff, 0x1234);
    check_eq("16-bit code: LOOP counts CX", cx, 0x10000);
    /* the IP limit */
    struct exc e;
    desc(SEL_A, 0x7000, 0x0f, 0x9a, 0);
    memset((void *)0x7000, 0x90, 32);
    ptr.sel = SEL_A, ptr.off = 0x0c;
    e = TRY(ASM("lcall *%0" : : "m"(ptr) : "memory"));
    expect_exc("running past the code segment's limit", e, GP, 0);
    check_eq("... at the limit", e.rip, 0x10);
    ptr.off = 0x10;
    e = TRY(ASM("lcall *%0" : : "m"(ptr) : "memory"));
    expect_exc("far CALL beyond the limit", e, GP, 0);
    /* exception through a 16-bit interrupt gate: 16-bit frame */
    static const uint8_t code16[] = {0x90};
    (void)code16;
    /* handler at 0x7100 (16-bit code segment base 0): movw (%esp), ax.. : pop ax; pop cx; pop dx; push dx; push cx;
     * push ax; iretw */
    static const uint8_t h[] = {0x58, 0x59, 0x5a, 0x52, 0x51, 0x50, 0xcf};
    memcpy((void *)0x7100, h, sizeof h);
    rt_gate(0x60, SEL_K16, 0x7100, 0x86, 0);
    /* IP is truncated to 16 bits in the frame: so the caller must lie low: mov; int 0x60; lret at 0x7200 */
    static const uint8_t c[] = {0xcd, 0x60, 0xcb};
    memcpy((void *)0x7200, c, sizeof c);
    desc(SEL_B, 0, 0xffff, 0x9a, 4); /* 32-bit code below 64 KiB */
    ptr.sel = SEL_B, ptr.off = 0x7200;
    uint32_t dx;
    ASM("lcall *%3" : "=a"(ax), "=c"(cx), "=d"(dx) : "m"(ptr) : "memory", "cc");
    check_eq("16-bit gate: IP pushed", ax & 0xffff, 0x7202);
    check_eq("16-bit gate: CS pushed", cx & 0xffff, SEL_B);
    check_eq("16-bit gate: FLAGS pushed", dx & 2, 2);
}

void image_main(void)
{
    segments();
    legacy_instructions();
    privilege();
    tasks();
    protected16();
    v8086();
}
