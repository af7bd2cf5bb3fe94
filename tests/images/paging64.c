/* SPDX-License-Identifier: MIT
 *
 * paging64.c: 4-level paging: rights, error codes, accessed and dirty bits, WP, NX, SMEP, SMAP, protection keys,
 * reserved bits, large pages, global pages, PCIDs, INVLPG and INVPCID. SDM volume 3A, "Paging".
 */
#include "rt.h"

const char image_name[] = IMAGE_NAME;
#define ASM(...) __asm__ volatile(__VA_ARGS__)
#define UASM(name, code)                                                                                               \
    __asm__(".pushsection .user, \"ax\"\n.globl " #name "\n" #name ":\n" code "\n    int $0x80\n.popsection\n");       \
    extern char name[]

extern volatile unsigned long rt_pml4[], rt_pdpt[], rt_pd[];
UASM(u_read, "mov (%rdi), %al");
UASM(u_write, "mov %al, (%rdi)");
UASM(u_exec, "call *%rdi");
UASM(u_rmw, "lock addb $0, (%rdi)");
UASM(u_cmpxchg, "mov $1, %al; lock cmpxchg %cl, (%rdi)"); /* compares unequal: still a write access */
__asm__(".pushsection .text\nk_ret: ret\n.popsection\n");
extern char k_ret[];

enum { EP = 1, EW = 2, EU = 4, ERSVD = 8, EI = 16, EPK = 32 };
enum { PAGE = 3 };
#define LA  rt_window(PAGE)
#define PTE rt_window_pt[PAGE]
static bool nxe;

static struct exc user(char *code, unsigned long rdi)
{
    struct go g = {
        .rip = USER_ADDR(code), .cs = SEL_U64, .rflags = 0x202, .rsp = RT_USER_STACK - 64, .ss = SEL_UDATA, .rdi = rdi};
    return TRY(rt_go(&g));
}
static struct exc kread(unsigned long la)
{
    return TRY((void)peek8(la));
}
static struct exc kwrite(unsigned long la)
{
    return TRY(poke8(la, 0xc3));
}
static struct exc kexec_(unsigned long la)
{
    return TRY(ASM("call *%0" : : "r"(la) : "memory"));
}

static unsigned long phys(unsigned i)
{
    return (unsigned long)rt_pages[i];
}

static void rights(void)
{
    memset(rt_pages[0], 0xc3, 4096); /* RET everywhere */
    rt_map(PAGE, 0, 0);
    expect_pf("absent, read", kread(LA + 5), 0, LA + 5);
    expect_pf("absent, write", kwrite(LA + 5), EW, LA + 5);
    expect_pf("absent, fetch, NXE=0", kexec_(LA + 5), 0, LA + 5);
    expect_pf("absent, user read", user(u_read, LA + 5), EU, LA + 5);
    expect_pf("absent, user locked RMW", user(u_rmw, LA + 5), EU | EW, LA + 5);

    rt_map(PAGE, phys(0), PTE_P);
    expect_none("read-only supervisor page, read", kread(LA));
    check_eq("read sets A, not D", PTE & (PTE_A | PTE_D), PTE_A);
    expect_pf("read-only page, write, WP=1", kwrite(LA), EP | EW, LA);
    check_eq("a faulting write leaves D", PTE & PTE_D, 0);
    wrcr0(rdcr0() & ~0x10000ul);
    expect_none("read-only page, write, WP=0", kwrite(LA));
    check_eq("write sets D with WP=0", PTE & (PTE_A | PTE_D), PTE_A | PTE_D);
    expect_pf("read-only supervisor page, user write, WP=0", user(u_write, LA), EP | EW | EU, LA);
    wrcr0(rdcr0() | 0x10000);
    expect_pf("WP=1 again", kwrite(LA), EP | EW, LA);
    expect_pf("supervisor page, user read", user(u_read, LA), EP | EU, LA);
    expect_pf("supervisor page, user fetch", user(u_exec, LA), EP | EU, LA);

    rt_map(PAGE, phys(0), PTE_P | PTE_U);
    expect_exc("read-only user page, user read", user(u_read, LA), RT_RETURN, 0);
    expect_pf("read-only user page, user write", user(u_write, LA), EP | EW | EU, LA);
    expect_pf("read-only user page, CMPXCHG that fails", user(u_cmpxchg, LA), EP | EW | EU, LA);
    expect_exc("read-only user page, user fetch", user(u_exec, LA), RT_RETURN, 0);
    rt_map(PAGE, phys(0), PTE_P | PTE_U | PTE_W);
    expect_exc("writable user page, user write", user(u_write, LA), RT_RETURN, 0);
    check_eq("user write sets A and D", PTE & (PTE_A | PTE_D), PTE_A | PTE_D);
    rt_map(PAGE, phys(0), PTE_P | PTE_U | PTE_W);
    expect_exc("writable user page, CMPXCHG that fails", user(u_cmpxchg, LA), RT_RETURN, 0);
    check_eq("a CMPXCHG that fails sets D", PTE & (PTE_A | PTE_D), PTE_A | PTE_D);
    rt_map(PAGE, phys(0), PTE_P | PTE_U | PTE_W);
    expect_exc("user fetch", user(u_exec, LA), RT_RETURN, 0);
    check_eq("a fetch sets A", PTE & (PTE_A | PTE_D), PTE_A);

    /* An access that crosses from a present into an absent page: the address of the second page, and nothing written */
    rt_map(PAGE, phys(0), PTE_P | PTE_W);
    rt_map(PAGE + 1, 0, 0);
    memset(rt_pages[0] + 4088, 0x11, 8);
    struct exc e = TRY(*(volatile uint64_t *)(LA + 4092) = ~0ull);
    expect_pf("write across a page boundary into an absent page", e, EW, LA + 4096);
    check_eq("... has written nothing", *(uint64_t *)(rt_pages[0] + 4088), 0x1111111111111111);
    rt_map(PAGE, 0, 0);
    e = TRY(*(volatile uint64_t *)(LA + 4092) = ~0ull);
    expect_pf("write across two absent pages", e, EW, LA + 4092);
    memset(rt_pages[0], 0xc3, 4096);
}

static void levels(void)
{
    /* The rights are the AND over all levels. */
    volatile unsigned long *pde = &rt_pd[RT_WINDOW / 0x200000];
    unsigned long old = *pde;
    rt_map(PAGE, phys(0), PTE_P | PTE_U | PTE_W);
    *pde = old & ~PTE_W;
    wrcr3(rdcr3());
    expect_pf("PDE read-only: write", kwrite(LA), EP | EW, LA);
    *pde = old & ~PTE_U;
    wrcr3(rdcr3());
    expect_none("PDE supervisor: supervisor write", kwrite(LA));
    rt_map(PAGE, phys(0), PTE_P | PTE_U | PTE_W);
    *pde = old & ~PTE_P;
    wrcr3(rdcr3());
    expect_pf("PDE absent", kread(LA), 0, LA);
    *pde = old & ~PTE_A;
    wrcr3(rdcr3());
    expect_none("PDE A clear: read", kread(LA));
    check_eq("PDE A set by the walk", *pde & (PTE_A | PTE_D), PTE_A | (old & PTE_D));
    *pde = old;
    wrcr3(rdcr3());
    /* 2-MiB page: a second mapping of the first 2 MiB at RT_WINDOW + 2 MiB; D in the PDE */
    volatile unsigned long *big = pde + 1;
    unsigned long oldbig = *big, la = RT_WINDOW + 0x200000;
    *big = 0 | PTE_P | PTE_W | PTE_PS;
    wrcr3(rdcr3());
    expect_none("2-MiB page, read", kread(la + 0x100000));
    check_eq("2-MiB page: A", *big & (PTE_A | PTE_D), PTE_A);
    expect_none("2-MiB page, write", kwrite(la + (phys(0) & 0x1fffff)));
    check_eq("2-MiB page: D", *big & (PTE_A | PTE_D), PTE_A | PTE_D);
    *big = 0x2000 | PTE_P | PTE_W | PTE_PS; /* bit 13: reserved in a 2-MiB PDE */
    wrcr3(rdcr3());
    expect_pf("2-MiB page with a reserved bit", kread(la), EP | ERSVD, la);
    *big = oldbig;
    wrcr3(rdcr3());
    /* reserved: PS in the PML4E */
    volatile unsigned long *pml4e = &rt_pml4[1];
    *pml4e = (unsigned long)rt_pdpt | 7 | PTE_PS;
    wrcr3(rdcr3());
    expect_pf("PML4E with PS", kread(1ul << 39), EP | ERSVD, 1ul << 39);
    *pml4e = 0;
    wrcr3(rdcr3());
    /* 1-GiB pages, or their absence */
    rt_pdpt[5] = 0 | PTE_P | PTE_W | PTE_PS;
    wrcr3(rdcr3());
    la = 5ul << 30;
    if (cpu_has(0x80000001, 3, 26)) {
        struct exc e = TRY(check_eq("1-GiB page maps", *(volatile uint32_t *)(la + (unsigned long)k_ret) & 0xff, 0xc3));
        expect_none("1-GiB page, read", e);
        rt_pdpt[5] = 0x40000 | PTE_P | PTE_W | PTE_PS;
        wrcr3(rdcr3());
        expect_pf("1-GiB page with a reserved bit", kread(la), EP | ERSVD, la);
    } else {
        expect_pf("1-GiB page without the feature", kread(la), EP | ERSVD, la);
    }
    rt_pdpt[5] = 0;
    wrcr3(rdcr3());
    /* A physical address beyond MAXPHYADDR */
    unsigned width = cpuid(0x80000008, 0).a & 0xff;
    if (width < 52) {
        rt_map(PAGE, 1ul << width, PTE_P | PTE_W | PTE_U);
        expect_pf("PTE beyond MAXPHYADDR", kread(LA), EP | ERSVD, LA);
        expect_pf("PTE beyond MAXPHYADDR, user write", user(u_write, LA), EP | ERSVD | EU | EW, LA);
        if (!rt_on_qemu()) {
            struct exc e = TRY(wrcr3(rdcr3() | 1ul << width));
            expect_exc("CR3 beyond MAXPHYADDR", e, GP, 0);
        }
    }
    rt_map(PAGE, phys(0), PTE_P | PTE_W | PTE_U | PTE_NX);
    expect_pf("PTE bit 63 with NXE=0 is reserved", kread(LA), EP | ERSVD, LA);
}

static void nx(void)
{
    if (!cpu_has(0x80000001, 3, 20)) {
        skip("NX", "no execute-disable");
        return;
    }
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
    nxe = true;
    rt_map(PAGE, phys(0), PTE_P | PTE_W | PTE_U | PTE_NX);
    expect_none("NX page, read", kread(LA));
    expect_pf("NX page, fetch", kexec_(LA), EP | EI, LA);
    expect_pf("NX page, user fetch", user(u_exec, LA), EP | EI | EU, LA);
    rt_map(PAGE, 0, 0);
    expect_pf("absent, fetch, NXE=1", kexec_(LA), EI, LA);
    rt_map(PAGE, phys(0), PTE_P | PTE_W | PTE_U);
    rt_map(PAGE + 1, 0, 0);
    memset(rt_pages[0] + 4094, 0x90, 2); /* NOPs run into the next page */
    expect_pf("fetch runs into an absent page", kexec_(LA + 4094), EI, LA + 4096);
    rt_pages[0][4094] = 0x48, rt_pages[0][4095] = 0xb8; /* MOV RAX, imm64: crosses */
    struct exc e = kexec_(LA + 4094);
    expect_pf("instruction crosses into an absent page", e, EI, LA + 4096);
    check_eq("... RIP is the instruction's", e.rip, LA + 4094);
    memset(rt_pages[0], 0xc3, 4096);
}

static void smep_smap(void)
{
    if (!cpu_has(7, 1, 7)) {
        skip("SMEP", "no SMEP");
    } else {
        rt_map(PAGE, phys(0), PTE_P | PTE_W | PTE_U);
        expect_none("SMEP=0: supervisor fetch from a user page", kexec_(LA));
        wrcr4(rdcr4() | 1ul << 20);
        expect_pf("SMEP=1: supervisor fetch from a user page", kexec_(LA), EP | EI, LA);
        expect_none("SMEP=1: supervisor read of a user page", kread(LA));
        expect_exc("SMEP=1: user fetch", user(u_exec, LA), RT_RETURN, 0);
        wrcr4(rdcr4() & ~(1ul << 20));
    }
    if (!cpu_has(7, 1, 20)) {
        skip("SMAP", "no SMAP");
        return;
    }
    if (rt_on_qemu()) { /* it faults IRET to CPL 3 with SMAP */
        skip("SMAP", "QEMU");
        return;
    }
    rt_map(PAGE, phys(0), PTE_P | PTE_W | PTE_U);
    wrcr4(rdcr4() | 1ul << 21);
    struct exc e = kread(LA);
    expect_pf("SMAP=1, AC=0: supervisor read of a user page", e, EP, LA);
    expect_pf("SMAP=1, AC=0: supervisor write of a user page", kwrite(LA), EP | EW, LA);
    e = TRY(ASM("stac"); (void)peek8(LA));
    expect_none("SMAP=1, STAC: supervisor read of a user page", e);
    e = TRY(ASM("stac"); ASM("clac"); (void)peek8(LA));
    expect_pf("SMAP=1, CLAC: supervisor read of a user page", e, EP, LA);
    expect_exc("SMAP=1: user read", user(u_read, LA), RT_RETURN, 0);
    e = TRY(ASM("mov $0, %%eax; stac; lgdt (%0)" : : "r"(LA) : "rax"));
    ASM("clac");
    /* LGDT reads explicitly at CPL 0 (allowed with AC); the pages' content is 0xc3: a base that is not canonical */
    expect_exc("SMAP=1, AC=1: LGDT of a non-canonical base", e, GP, 0);
    wrcr4(rdcr4() & ~(1ul << 21));
}

static void pkeys(void)
{
    if (!cpu_has(7, 2, 3)) {
        skip("protection keys", "no PKU");
        return;
    }
    wrcr4(rdcr4() | 1ul << 22);
    rt_map(PAGE, phys(0), PTE_P | PTE_W | PTE_U | 5ul << 59);
    ASM("wrpkru" : : "a"(1 << 10), "c"(0), "d"(0)); /* AD for key 5 */
    expect_pf("PKRU.AD: user read", user(u_read, LA), EP | EU | EPK, LA);
    expect_pf("PKRU.AD: user write", user(u_write, LA), EP | EU | EW | EPK, LA);
    expect_exc("PKRU.AD: user fetch", user(u_exec, LA), RT_RETURN, 0);
    expect_pf("PKRU.AD: supervisor read of a user page", kread(LA), EP | EPK, LA);
    ASM("wrpkru" : : "a"(2 << 10), "c"(0), "d"(0)); /* WD */
    expect_exc("PKRU.WD: user read", user(u_read, LA), RT_RETURN, 0);
    expect_pf("PKRU.WD: user write", user(u_write, LA), EP | EU | EW | EPK, LA);
    expect_pf("PKRU.WD, WP=1: supervisor write", kwrite(LA), EP | EW | EPK, LA);
    wrcr0(rdcr0() & ~0x10000ul);
    expect_none("PKRU.WD, WP=0: supervisor write", kwrite(LA));
    wrcr0(rdcr0() | 0x10000);
    rt_map(PAGE, phys(0), PTE_P | PTE_W | 5ul << 59);
    expect_none("PKRU: a supervisor page has no key", kwrite(LA));
    uint32_t lo;
    ASM("rdpkru" : "=a"(lo) : "c"(0) : "rdx");
    check_eq("RDPKRU", lo, 2 << 10);
    struct exc e = TRY(ASM("wrpkru" : : "a"(0), "c"(1), "d"(0)));
    expect_exc("WRPKRU with ECX", e, GP, 0);
    e = TRY(ASM("wrpkru" : : "a"(0), "c"(0), "d"(1)));
    expect_exc("WRPKRU with EDX", e, GP, 0);
    ASM("wrpkru" : : "a"(0), "c"(0), "d"(0));
    wrcr4(rdcr4() & ~(1ul << 22));
    e = TRY(ASM("rdpkru" : : "c"(0) : "rax", "rdx"));
    expect_exc("RDPKRU with CR4.PKE=0", e, UD, 0);
}

/* What invalidates what. Only the architecture's guarantees: after the invalidation the new mapping is seen. */
static void invalidation(void)
{
    rt_pages[1][0] = 1;
    rt_pages[2][0] = 2;
    rt_map(PAGE, phys(1), PTE_P | PTE_W);
    check_eq("before", peek8(LA), 1);
    rt_window_pt[PAGE] = phys(2) | PTE_P | PTE_W;
    invlpg(LA);
    check_eq("INVLPG", peek8(LA), 2);
    rt_window_pt[PAGE] = phys(1) | PTE_P | PTE_W;
    wrcr3(rdcr3());
    check_eq("MOV CR3", peek8(LA), 1);
    wrcr4(rdcr4() | 0x80);
    rt_map(PAGE, phys(1), PTE_P | PTE_W | PTE_G);
    check_eq("global page", peek8(LA), 1);
    rt_window_pt[PAGE] = phys(2) | PTE_P | PTE_W | PTE_G;
    invlpg(LA);
    check_eq("INVLPG of a global page", peek8(LA), 2);
    rt_window_pt[PAGE] = phys(1) | PTE_P | PTE_W | PTE_G;
    wrcr4(rdcr4() & ~0x80ul);
    check_eq("CR4.PGE cleared: global pages dropped", peek8(LA), 1);
    wrcr4(rdcr4() | 0x80);
    rt_window_pt[PAGE] = phys(2) | PTE_P | PTE_W | PTE_G;
    wrcr4(rdcr4() & ~0x80ul);
    wrcr4(rdcr4() | 0x80);
    check_eq("CR4.PGE toggled", peek8(LA), 2);
    wrcr4(rdcr4() & ~0x80ul);
    rt_window_pt[PAGE] = phys(1) | PTE_P | PTE_W;
    wrcr0(rdcr0()); /* no invalidation is promised; CR3 does it */
    wrcr3(rdcr3());
    check_eq("MOV CR3 again", peek8(LA), 1);
    /* More rights need no invalidation: the fault's walk sees the new entry. */
    rt_map(PAGE, phys(1), PTE_P);
    (void)peek8(LA);
    rt_window_pt[PAGE] |= PTE_W;
    struct exc e = kwrite(LA);
    check("a stale read-only entry either faults or the new one is used", e.vector == NONE || e.vector == PF);
    e = kwrite(LA);
    expect_none("after the fault (or without it) the write is done", e);
    rt_pages[1][0] = 1;
    rt_map(PAGE, 0, 0);
    e = kread(LA);
    rt_window_pt[PAGE] = phys(1) | PTE_P | PTE_W;
    check_eq("an absent entry is not cached", peek8(LA), 1);
    /* INVLPG does not fault on an absent or non-canonical address */
    e = TRY(invlpg(0x8000000000000000));
    expect_none("INVLPG of a non-canonical address", e);

    if (!cpu_has(1, 2, 17)) {
        skip("PCID", "no PCID");
        return;
    }
    if (!cpu_has(7, 1, 10))
        skip("INVPCID", "no INVPCID");
    e = TRY(wrcr3(rdcr3() | 1); wrcr4(rdcr4() | 1ul << 17));
    expect_exc("CR4.PCIDE with CR3[11:0] not 0", e, GP, 0);
    wrcr3((unsigned long)rt_pml4);
    wrcr4(rdcr4() | 1ul << 17);
    rt_map(PAGE, phys(1), PTE_P | PTE_W);
    wrcr3((unsigned long)rt_pml4 | 1);
    check_eq("PCID 1 sees the page", peek8(LA), 1);
    rt_window_pt[PAGE] = phys(2) | PTE_P | PTE_W;
    wrcr3((unsigned long)rt_pml4 | 2);
    check_eq("a fresh PCID walks", peek8(LA), 2);
    wrcr3((unsigned long)rt_pml4 | 1);
    check_eq("MOV CR3 with bit 63 clear drops the PCID's entries", peek8(LA), 2);
    rt_window_pt[PAGE] = phys(1) | PTE_P | PTE_W;
    invlpg(LA);
    wrcr3((unsigned long)rt_pml4 | 2 | 1ul << 63);
    check("bit 63: old entries of PCID 2 may stay", peek8(LA) == 1 || peek8(LA) == 2);
    check_eq("CR3 does not keep bit 63", rdcr3(), (unsigned long)rt_pml4 | 2);
    if (cpu_has(7, 1, 10)) {
        struct {
            uint64_t pcid, la;
        } d = {2, LA};
        ASM("invpcid %0, %1" : : "m"(d), "r"(0ul) : "memory");
        check_eq("INVPCID type 0", peek8(LA), 1);
        rt_window_pt[PAGE] = phys(2) | PTE_P | PTE_W;
        ASM("invpcid %0, %1" : : "m"(d), "r"(1ul) : "memory");
        check_eq("INVPCID type 1", peek8(LA), 2);
        rt_window_pt[PAGE] = phys(1) | PTE_P | PTE_W;
        ASM("invpcid %0, %1" : : "m"(d), "r"(2ul) : "memory");
        check_eq("INVPCID type 2", peek8(LA), 1);
        rt_window_pt[PAGE] = phys(2) | PTE_P | PTE_W;
        ASM("invpcid %0, %1" : : "m"(d), "r"(3ul) : "memory");
        check_eq("INVPCID type 3", peek8(LA), 2);
        e = TRY(ASM("invpcid %0, %1" : : "m"(d), "r"(4ul) : "memory"));
        expect_exc("INVPCID type 4", e, GP, 0);
        d.pcid = 0x1000;
        e = TRY(ASM("invpcid %0, %1" : : "m"(d), "r"(1ul) : "memory"));
        expect_exc("INVPCID with reserved descriptor bits", e, GP, 0);
        d.pcid = 2, d.la = 0x8000000000000000;
        e = TRY(ASM("invpcid %0, %1" : : "m"(d), "r"(0ul) : "memory"));
        expect_exc("INVPCID type 0 with a non-canonical address", e, GP, 0);
    }
    wrcr3((unsigned long)rt_pml4);
    wrcr4(rdcr4() & ~(1ul << 17));
}

void image_main(void)
{
    rights();
    levels();
    nx();
    smep_smap();
    pkeys();
    invalidation();
}
