/* SPDX-License-Identifier: MIT
 *
 * pc32.c: what software finds on any PC: PCI by configuration mechanism #1, 8254 and port 0x61, CMOS, keyboard
 * controller, address line 20, interrupt edge/level registers, ACPI and MultiProcessor tables and the PM timer, HPET,
 * the text screen, serial ports; and the firmware configuration interface where there is one.
 */
#include "rt.h"

const char image_name[] = IMAGE_NAME;
#define ASM(...) __asm__ volatile(__VA_ARGS__)

static uint32_t inl(uint16_t p)
{
    uint32_t v;
    ASM("inl %1, %0" : "=a"(v) : "Nd"(p));
    return v;
}
static uint16_t inw(uint16_t p)
{
    uint16_t v;
    ASM("inw %1, %0" : "=a"(v) : "Nd"(p));
    return v;
}
static volatile uint32_t *mem32(unsigned long at)
{
    return (volatile uint32_t *)at;
}

/* --- PCI */

static void pci_at(unsigned slot, unsigned fn, unsigned reg)
{
    outl(0xcf8, 0x80000000u | slot << 11 | fn << 8 | (reg & 0xfc));
}
static uint32_t pci(unsigned slot, unsigned fn, unsigned reg)
{
    pci_at(slot, fn, reg);
    return inl(0xcfc);
}
static void pci_set(unsigned slot, unsigned fn, unsigned reg, uint32_t v)
{
    pci_at(slot, fn, reg);
    outl(0xcfc, v);
}

static void test_pci(void)
{
    outl(0xcf8, 0x8000f8fc);
    check_eq("PCI: the address register reads back", inl(0xcf8), 0x8000f8fc);
    uint32_t id = pci(0, 0, 0);
    check_eq("PCI: host bridge: Intel 440FX", id, 0x12378086);
    pci_at(0, 0, 0);
    check_eq("PCI: by words", inw(0xcfc) | (uint32_t)inw(0xcfe) << 16, id);
    check_eq("PCI: by bytes", inb(0xcfc) | inb(0xcfd) << 8 | inb(0xcfe) << 16 | (uint32_t)inb(0xcff) << 24, id);
    outb(0xcf8, 0x55); /* a byte is not for the address register */
    check_eq("PCI: a byte access to the address register is somebody else's", inl(0xcfc), id);
    check_eq("PCI: class of the host bridge", pci(0, 0, 8) >> 8, 0x060000);
    pci_set(0, 0, 0, 0);
    check_eq("PCI: the identity is read-only", pci(0, 0, 0), id);
    check_eq("PCI: memory space and bus master are wired", pci(0, 0, 4) & 6, 6);
    check_eq("PCI: ISA bridge: class", pci(1, 0, 8) >> 8, 0x060100);
    check_eq("PCI: ISA bridge: PIIX3", pci(1, 0, 0), 0x70008086);
    check_eq("PCI: ISA bridge: more functions", pci(1, 0, 12) >> 16 & 0xff, 0x80);
    check_eq("PCI: power management: PIIX4", pci(1, 3, 0), 0x71138086);
    check_eq("PCI: nobody is in slot 30", pci(30, 0, 0), 0xffffffff);
    outl(0xcf8, 0x80ff0000);
    check_eq("PCI: nor on bus 255", inl(0xcfc), 0xffffffff);
    outl(0xcf8, 0);
    check_eq("PCI: without the enable bit the window is no window", inl(0xcfc), 0xffffffff);
    uint32_t pirq = pci(1, 0, 0x60);
    pci_set(1, 0, 0x60, 0x8080800b);
    check_eq("PCI: interrupt routing registers keep what is written", pci(1, 0, 0x60), 0x8080800b);
    pci_set(1, 0, 0x60, pirq);
}

/* Memory attributes of d0000h to d3fffh. */
static void pam(unsigned nibble)
{
    pci_set(0, 0, 0x5c, (pci(0, 0, 0x5c) & ~0xfu) | nibble);
}
static void test_pam(void)
{
    volatile uint32_t *at = mem32(0xd0100);
    uint32_t before = pci(0, 0, 0x5c);
    pam(3);
    *at = 0x12345678;
    check_eq("PAM: RAM for reads and writes", *at, 0x12345678);
    pam(1);
    *at = 0xaaaaaaaa;
    check_eq("PAM: writes are dropped", *at, 0x12345678);
    pam(2);
    check("PAM: reads do not see RAM", *at != 0x12345678);
    *at = 0x9abcdef0;
    check("PAM: reads do not see what is written", *at != 0x9abcdef0);
    pam(0);
    *at = 0x55555555;
    pam(3);
    check_eq("PAM: but it is there", *at, 0x9abcdef0);
    pci_set(0, 0, 0x5c, before);
}

/* --- interrupt controllers, timer, CMOS */

static volatile unsigned irqs[16];
static volatile uint16_t x87_status;
static void on_irq(struct regs *r)
{
    unsigned irq = (unsigned)r->vector - 0x50;
    irqs[irq & 15]++;
    if (irq == 8) {
        outb(0x70, 0x0c);
        inb(0x71);
    }
    if (irq == 13) { /* the coprocessor's error: IGNNE# until the exception is cleared */
        outb(0xf0, 0);
        ASM("fnstsw %0" : "=am"(x87_status));
        ASM("fnclex");
    }
    if (irq & 8)
        outb(0xa0, 0x20);
    outb(0x20, 0x20);
}
static void pic_init(void)
{
    static const uint8_t init[2][3] = {{0x50, 4, 1}, {0x58, 2, 1}};
    for (unsigned i = 0; i < 2; i++) {
        uint16_t p = i ? 0xa0 : 0x20;
        outb(p, 0x11);
        for (unsigned n = 0; n < 3; n++)
            outb(p + 1, init[i][n]);
        outb(p + 1, 0xff);
    }
    for (unsigned i = 0; i < 16; i++)
        rt_irq[0x50 + i] = on_irq;
}
/* Until it has come, or a second or so has gone. */
static bool irq_within(unsigned irq, unsigned n)
{
    for (unsigned long i = 0; i < 3000000 && irqs[irq] < n; i++)
        ASM("sti; nop; nop; cli" : : : "memory");
    return irqs[irq] >= n;
}

/* SDM volume 1, "MS-DOS Compatibility Sub-mode": with CR0.NE = 0 an x87 exception is interrupt 13. */
static void test_coprocessor(void)
{
    uint32_t cr0 = rdcr0();
    if (rt_on_qemu()) {
        skip("CR0.NE=0: interrupt 13", "FERR# ends the emulator");
        return;
    }
    wrcr0((cr0 & ~0x2cu) | 2); /* MP; not NE, TS, EM */
    irqs[13] = 0;
    outb(0x21, 0xfb);
    outb(0xa1, 0xdf);
    static const uint16_t control = 0x37b; /* division by zero unmasked */
    struct exc e = TRY(ASM("fninit\n fldcw %0\n fld1\n fldz\n fdivrp\n sti\n fwait\n cli" : : "m"(control) : "memory"));
    expect_none("CR0.NE=0: no #MF", e);
    check("CR0.NE=0: interrupt 13", irq_within(13, 1));
    check_eq("its status word: ES, ZE", x87_status & 0x84, 0x84);
    check_eq("once", irqs[13], 1);
    outb(0xa1, 0xff);
    outb(0x21, 0xff);
    wrcr0(cr0 | 0x20);
    e = TRY(ASM("fninit\n fldcw %0\n fld1\n fldz\n fdivrp\n fwait" : : "m"(control) : "memory"));
    expect_exc("CR0.NE=1: #MF", e, MF, 0);
    ASM("fninit");
    wrcr0(cr0);
}

static void test_legacy(void)
{
    uint8_t elcr[2] = {inb(0x4d0), inb(0x4d1)};
    outb(0x4d0, 0xff);
    outb(0x4d1, 0xff);
    check_eq("ELCR: timer, keyboard, cascade, clock and coprocessor are edges always", inb(0x4d0) | inb(0x4d1) << 8,
             0xdef8);
    outb(0x4d0, 0);
    outb(0x4d1, 0);
    check_eq("ELCR: all edges", inb(0x4d0) | inb(0x4d1), 0);
    outb(0x4d0, elcr[0]);
    outb(0x4d1, elcr[1]);

    outb(0x61, (inb(0x61) & 0xfc) | 1); /* gate on, no sound */
    outb(0x43, 0xb0);                   /* channel 2, mode 0 */
    outb(0x42, 0xff);
    outb(0x42, 0x10);
    check("port 0x61: OUT of channel 2 is low while it counts", !(inb(0x61) & 0x20));
    unsigned long i = 0;
    while (!(inb(0x61) & 0x20) && i < 20000000)
        i++;
    check("port 0x61: OUT of channel 2 rises at its end", inb(0x61) & 0x20);
    unsigned seen = 0;
    for (i = 0; i < 1000000 && seen != 3; i++)
        seen |= inb(0x61) & 0x10 ? 1 : 2;
    check_eq("port 0x61: refresh turns", seen, 3);
    outb(0x61, inb(0x61) & 0xfc);
    check_eq("port 0x61: gate and speaker read back", inb(0x61) & 3, 0);

    pic_init();
    irqs[0] = 0;
    outb(0x43, 0x34); /* channel 0, rate generator, 1 kHz */
    outb(0x40, 0xa9);
    outb(0x40, 0x04);
    outb(0x21, 0xfe);
    check("the 8254 interrupts through the 8259s", irq_within(0, 3));
    outb(0x21, 0xff);

    outb(0x70, 0x15);
    unsigned base = inb(0x71);
    outb(0x70, 0x16);
    base |= inb(0x71) << 8;
    check("CMOS: base memory, KiB", base == 640 || base == 639);
    outb(0x70, 0x34);
    unsigned above = inb(0x71);
    outb(0x70, 0x35);
    above |= inb(0x71) << 8;
    check("CMOS: memory above 16 MiB, 64 KiB each", above > 0x800 && above <= 0xc000);
    outb(0x70, 0x17);
    unsigned ext = inb(0x71);
    outb(0x70, 0x18);
    ext |= inb(0x71) << 8;
    check("CMOS: extended memory, KiB, as much as fits", ext >= 0xfc00);
    outb(0x70, 0x0d);
    check_eq("CMOS: valid", inb(0x71), 0x80);
    outb(0x70, 0x0f);
    outb(0x71, 0x5a);
    outb(0x70, 0x0f);
    check_eq("CMOS: the shutdown byte keeps", inb(0x71), 0x5a);
    outb(0x70, 0x0f);
    outb(0x71, 0);
    outb(0x80, 0x12);
}

/* --- keyboard controller and address line 20 */

static bool kbd_send(uint8_t command)
{
    for (unsigned long i = 0; i < 1000000 && (inb(0x64) & 2); i++)
        ;
    outb(0x64, command);
    return true;
}
static int kbd_answer(void)
{
    for (unsigned long i = 0; i < 1000000; i++)
        if (inb(0x64) & 1)
            return inb(0x60);
    return -1;
}
static void kbd_data(uint8_t v)
{
    for (unsigned long i = 0; i < 1000000 && (inb(0x64) & 2); i++)
        ;
    outb(0x60, v);
}

/* Runs in low memory, without paging, without a stack: reads [esi] while the line is low. */
__asm__(".section .low, \"ax\"\n"
        "a20_blob:\n"
        "  mov %esp, %ebp\n"
        "  mov %cr0, %ecx\n  mov %ecx, %ebx\n  and $0x7fffffff, %ecx\n  mov %ecx, %cr0\n"
        "  inb $0x92, %al\n  and $0xfc, %al\n  outb %al, $0x92\n  jmp 1f\n1:\n"
        "  mov (%esi), %edi\n"
        "  movl $0x0badcafe, 4(%esi)\n"
        "  or $2, %al\n  outb %al, $0x92\n  jmp 1f\n1:\n"
        "  mov (%esi), %edx\n"
        "  mov %ebx, %cr0\n  mov %ebp, %esp\n  ret\n"
        "a20_end:\n.text\n");
extern char a20_blob[], a20_end[];

static void test_i8042(void)
{
    while (inb(0x64) & 1)
        inb(0x60);
    kbd_send(0xad);
    kbd_send(0xaa);
    check_eq("8042: self test", (unsigned)kbd_answer(), 0x55);
    kbd_send(0xab);
    check_eq("8042: interface test", (unsigned)kbd_answer(), 0);
    kbd_send(0x60);
    kbd_data(0x74);
    kbd_send(0x20);
    check_eq("8042: the command byte reads back", (unsigned)kbd_answer(), 0x74);
    kbd_send(0xd0);
    check_eq("8042: output port: address line 20 is on, reset is not", (unsigned)kbd_answer() & 3, 3);

    memcpy((void *)0x8000, a20_blob, (size_t)(a20_end - a20_blob));
    *mem32(0x600000) = 0x11111111;
    *mem32(0x700000) = 0x22222222;
    *mem32(0x600004) = *mem32(0x700004) = 0;
    uint32_t low, high;
    ASM("push %%ebp; push %%ebx; mov $0x8000, %%eax; call *%%eax; pop %%ebx; pop %%ebp"
        : "=D"(low), "=d"(high)
        : "S"(0x700000)
        : "eax", "ecx", "memory", "cc");
    check_eq("A20 low: an odd megabyte is the even one below", low, 0x11111111);
    check_eq("A20 low: writes too", *mem32(0x600004), 0x0badcafe);
    check_eq("A20 low: and not the odd one", *mem32(0x700004), 0);
    check_eq("A20 high again", high, 0x22222222);
}

/* --- tables of the firmware */

static bool sums(const uint8_t *p, size_t n)
{
    uint8_t s = 0;
    while (n--)
        s += *p++;
    return s == 0;
}
static const uint8_t *find(const char *what, size_t len, unsigned long from, unsigned long to)
{
    for (unsigned long at = from; at < to; at += 16)
        if (!memcmp((const void *)at, what, len))
            return (const uint8_t *)at;
    return NULL;
}
static uint32_t le32(const uint8_t *p)
{
    return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}
static const uint8_t *acpi_table(const uint8_t *rsdp, const char *name)
{
    const uint8_t *rsdt = (const uint8_t *)le32(rsdp + (rsdp[15] >= 2 ? 24 : 16));
    unsigned size = rsdp[15] >= 2 ? 8 : 4;
    for (const uint8_t *e = rsdt + 36; e < rsdt + le32(rsdt + 4); e += size)
        if (!memcmp((const void *)le32(e), name, 4))
            return (const uint8_t *)le32(e);
    return NULL;
}

static unsigned madt_cpus;
static void test_tables(void)
{
    const uint8_t *rsdp = find("RSD PTR ", 8, 0xe0000, 0x100000);
    check("ACPI: RSDP in the BIOS area", rsdp && sums(rsdp, 20));
    if (!rsdp)
        return;
    const uint8_t *fadt = acpi_table(rsdp, "FACP"), *madt = acpi_table(rsdp, "APIC");
    check("ACPI: FADT and MADT", fadt && sums(fadt, le32(fadt + 4)) && madt && sums(madt, le32(madt + 4)));
    if (!fadt || !madt)
        return;
    const uint8_t *dsdt = (const uint8_t *)le32(fadt + 40);
    check("ACPI: DSDT", !memcmp(dsdt, "DSDT", 4) && sums(dsdt, le32(dsdt + 4)));
    uint32_t io = 0, timer = 0;
    for (const uint8_t *e = madt + 44; e < madt + le32(madt + 4); e += e[1]) {
        madt_cpus += e[0] == 0 && (e[4] & 1);
        if (e[0] == 1)
            io = le32(e + 4);
        if (e[0] == 2 && e[3] == 0)
            timer = le32(e + 4);
    }
    check_eq("ACPI: local APICs at", le32(madt + 36), rdmsr(0x1b) & 0xfffff000);
    check_eq("ACPI: I/O APIC at", io, 0xfec00000);
    check_eq("ACPI: the timer is at pin 2", timer, 2);
    *mem32(io) = 1;
    check("I/O APIC: 24 pins", (*mem32(io + 16) >> 16 & 0xff) == 23);

    const uint8_t *mp = find("_MP_", 4, 0xf0000, 0x100000);
    if (!mp)
        mp = find("_MP_", 4, 0x9fc00, 0xa0000);
    if (mp) {
        const uint8_t *t = (const uint8_t *)le32(mp + 4);
        unsigned cpus = 0, boot = 0, entries = t[34] | t[35] << 8, extint = 0;
        check("MP: pointer and table", sums(mp, 16) && !memcmp(t, "PCMP", 4) && sums(t, t[4] | t[5] << 8));
        const uint8_t *e = t + 44;
        for (unsigned i = 0; i < entries; i++, e += e[0] == 0 ? 20 : 8) {
            cpus += e[0] == 0 && (e[3] & 1);
            boot += e[0] == 0 && (e[3] & 2);
            extint += (e[0] == 3 || e[0] == 4) && e[1] == 3 && e[7] == 0;
        }
        check_eq("MP: as many processors as the MADT has", cpus, madt_cpus);
        check_eq("MP: one bootstrap processor", boot, 1);
        check_eq("MP: the 8259s are at pin 0 of a local or I/O APIC", extint, 1);
    } else {
        skip("MP: pointer and table", "no table");
    }

    uint16_t port = (uint16_t)le32(fadt + 76);
    uint32_t a = inl(port), b = a;
    for (unsigned long i = 0; i < 1000000 && ((b - a) & 0xffffff) < 1000; i++)
        b = inl(port);
    check("ACPI: the PM timer runs", ((b - a) & 0xffffff) >= 1000);
    /* Against the 8254: 3.579545 MHz is three times its clock. */
    outb(0x61, (inb(0x61) & 0xfc) | 1);
    outb(0x43, 0xb0);
    outb(0x42, 0xff);
    outb(0x42, 0xff);
    a = inl(port);
    for (unsigned long i = 0; i < 20000000 && !(inb(0x61) & 0x20); i++)
        ;
    b = (inl(port) - a) & 0xffffff;
    check("ACPI: the PM timer's rate", b > 190000 && b < 205000);
}

/* --- HPET */

#define HPET 0xfed00000ul
static uint64_t hpet_count(void)
{
    return *mem32(HPET + 0xf0);
}
static void test_hpet(void)
{
    uint32_t id = *mem32(HPET);
    uint32_t period = *mem32(HPET + 4); /* femtoseconds */
    check("HPET: Intel's, with legacy replacement", id >> 16 == 0x8086 && (id & 0x8000));
    check("HPET: three timers, 64 bits", (id >> 8 & 31) >= 2 && (id & 0x2000));
    check("HPET: period at most 100 ns", period && period <= 100000000);
    *mem32(HPET + 0x10) = 0;
    uint64_t c = hpet_count();
    for (volatile unsigned i = 0; i < 10000; i++)
        ;
    check_eq("HPET: stands still", hpet_count(), c);
    *mem32(HPET + 0xf0) = 0xfffffff0;
    *mem32(HPET + 0xf4) = 0;
    check_eq("HPET: the counter can be written then", *mem32(HPET + 0xf0), 0xfffffff0);
    *mem32(HPET + 0x10) = 1;
    for (unsigned long i = 0; i < 1000000 && !*mem32(HPET + 0xf4); i++)
        ;
    check_eq("HPET: runs over 32 bits", *mem32(HPET + 0xf4), 1);
    *mem32(HPET + 0x10) = 0;
    *mem32(HPET + 0xf0) = *mem32(HPET + 0xf4) = 0;

    uint32_t tick = 1000000000u / (period / 1000); /* a millisecond's */
    *mem32(HPET + 0x100) = 0x14c;                  /* periodic, interrupts, edge, 32 bits, comparator follows */
    *mem32(HPET + 0x108) = tick;
    *mem32(HPET + 0x108) = tick;
    irqs[0] = 0;
    outb(0x43, 0x30); /* the 8254 is quiet */
    outb(0x21, 0xfe);
    irqs[0] = 0;
    *mem32(HPET + 0x10) = 3;
    check("HPET: a periodic timer in the 8254's place", irq_within(0, 5));
    *mem32(HPET + 0x100) = 0;
    unsigned n = irqs[0];
    for (volatile unsigned i = 0; i < 100000; i++)
        ;
    ASM("sti; nop; nop; cli");
    check("HPET: and quiet again", irqs[0] <= n + 1);
    outb(0x21, 0xfb);
    outb(0xa1, 0xfe);
    irqs[8] = 0;
    *mem32(HPET + 0x120) = 4;
    *mem32(HPET + 0x128) = (uint32_t)hpet_count() + tick;
    *mem32(HPET + 0x12c) = 0;
    check("HPET: timer 1 in the clock's place", irq_within(8, 1));
    *mem32(HPET + 0x120) = 0;
    outb(0xa1, 0xff);
    outb(0x21, 0xff);
    *mem32(HPET + 0x10) = 0;
}

/* --- screen, serial lines, firmware configuration */

static void test_rest(void)
{
    volatile uint16_t *screen = (volatile uint16_t *)0xb8000;
    screen[0] = 0x0741;
    screen[1999] = 0x1f5a;
    check("VGA: text memory", screen[0] == 0x0741 && screen[1999] == 0x1f5a);
    outb(0x3d4, 0x0e);
    outb(0x3d5, 0x03);
    outb(0x3d4, 0x0f);
    outb(0x3d5, 0x9c);
    outb(0x3d4, 0x0e);
    check_eq("VGA: the cursor's place reads back", inb(0x3d5), 0x03);
    unsigned seen = 0;
    for (unsigned long i = 0; i < 3000000 && seen != 3; i++)
        seen |= inb(0x3da) & 8 ? 1 : 2;
    check_eq("VGA: the vertical retrace comes and goes", seen, 3);

    outb(0x2ff, 0x5a);
    if (inb(0x2ff) != 0x5a) {
        skip("COM2: loopback", "no second port");
    } else {
        outb(0x2fc, 0x10);
        outb(0x2f8, 0xa7);
        for (unsigned long i = 0; i < 1000000 && !(inb(0x2fd) & 1); i++)
            ;
        check_eq("COM2: loopback", inb(0x2f8), 0xa7);
        outb(0x2fc, 0x08);
        irqs[3] = 0;
        outb(0x21, 0xf7);
        outb(0x2f9, 2); /* the transmitter is empty */
        check("COM2: interrupt 3", irq_within(3, 1));
        outb(0x2f9, 0);
        outb(0x21, 0xff);
    }

    char signature[5] = {0};
    outw(0x510, 0);
    for (unsigned i = 0; i < 4; i++)
        signature[i] = (char)inb(0x511);
    if (memcmp(signature, "QEMU", 4)) {
        skip("fw_cfg: version", "there is none");
        return;
    }
    outw(0x510, 1);
    check_eq("fw_cfg: version", inb(0x511) & 3, 3);
    outw(0x510, 5);
    check_eq("fw_cfg: as many processors as the MADT has", inb(0x511), madt_cpus);
    outw(0x510, 0x19);
    unsigned files = 0, found = 0;
    for (unsigned i = 0; i < 4; i++)
        files = files << 8 | inb(0x511);
    for (unsigned f = 0; f < files; f++) {
        char entry[64];
        for (unsigned i = 0; i < 64; i++)
            entry[i] = (char)inb(0x511);
        found |= !memcmp(entry + 8, "etc/e820", 9);
    }
    check("fw_cfg: etc/e820 is a file", found);
    check("fw_cfg: DMA's signature", inl(0x514) == 0x554d4551 && inl(0x518) == 0x47464320);
    static volatile uint32_t access[4];
    static volatile uint8_t to[8];
    access[0] = __builtin_bswap32(0 << 16 | 8 | 2); /* select and read item 0 */
    access[1] = __builtin_bswap32(6);
    access[2] = 0;
    access[3] = __builtin_bswap32((uint32_t)to);
    outl(0x514, 0);
    outl(0x518, __builtin_bswap32((uint32_t)access));
    for (unsigned long i = 0; i < 1000000 && access[0]; i++)
        ;
    check("fw_cfg: DMA copies", !access[0] && !memcmp((const void *)to, "QEMU\0", 6));
}

void image_main(void)
{
    cli();
    test_pci();
    test_pam();
    test_legacy();
    test_coprocessor();
    test_i8042();
    test_tables();
    test_hpet();
    test_rest();
}
