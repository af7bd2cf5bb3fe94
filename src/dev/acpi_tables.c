/* SPDX-License-Identifier: MIT
 *
 * acpi_tables.c: ACPI specification 6.4, "ACPI Software Programming Model" (tables) and "ACPI Machine Language (AML)
 * Specification" (the DSDT, emitted by hand). A pure function of its configuration.
 */
#include "src/dev/acpi_tables.h"
#include "src/dev/acpi_pm.h"
#include "src/dev/hpet.h"

struct out {
    uint8_t *p;
    size_t used, size;
    bool full;
};

static void put8(struct out *o, uint8_t v)
{
    if (o->used < o->size) {
        o->p[o->used++] = v;
    } else {
        o->full = true;
    }
}

static void put_le(struct out *o, uint64_t v, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        put8(o, (uint8_t)(v >> (i * 8)));
    }
}

static void put_str(struct out *o, const char *s, unsigned len)
{
    for (unsigned i = 0; i < len; i++) {
        put8(o, *s ? *s++ : ' ');
    }
}

static void align(struct out *o, size_t to)
{
    while (o->used % to && !o->full) {
        put8(o, 0);
    }
}

static void patch_le(struct out *o, size_t at, uint64_t v, unsigned bytes)
{
    for (unsigned i = 0; i < bytes && at + i < o->used; i++) {
        o->p[at + i] = (uint8_t)(v >> (i * 8));
    }
}

static void patch_checksum(struct out *o, size_t start, size_t end, size_t at)
{
    uint8_t sum = 0;
    if (o->full) {
        return;
    }
    o->p[at] = 0;
    for (size_t i = start; i < end; i++) {
        sum += o->p[i];
    }
    o->p[at] = (uint8_t)-sum;
}

/* "System Description Table Header" */
static size_t begin_table(struct out *o, const char *signature, uint8_t revision)
{
    align(o, 16);
    size_t start = o->used;
    put_str(o, signature, 4);
    put_le(o, 0, 4); /* length, by end_table */
    put8(o, revision);
    put8(o, 0); /* checksum */
    put_str(o, "VMENTR", 6);
    put_str(o, "VMENTERM", 8);
    put_le(o, 1, 4);
    put_str(o, "VMEN", 4);
    put_le(o, 1, 4);
    return start;
}

static void end_table(struct out *o, size_t start)
{
    patch_le(o, start + 4, o->used - start, 4);
    patch_checksum(o, start, o->used, start + 9);
}

/* ---- AML ------------------------------------------------------------------------------------------------------ */

/* Opens a package of a length to be known later (two bytes of PkgLength are kept). */
static size_t aml_begin(struct out *o)
{
    put_le(o, 0, 2);
    return o->used - 2;
}

/* "Package Length Encoding": two bytes, low nibble in the first; the length counts itself. */
static void aml_end(struct out *o, size_t at)
{
    size_t len = o->used - at;
    patch_le(o, at, 0x40 | (len & 15) | (len >> 4) << 8, 2);
}

static void aml_name(struct out *o, const char *name)
{
    put8(o, 0x08);
    put_str(o, name, 4);
}

static void aml_byte(struct out *o, uint8_t v)
{
    put8(o, 0x0a);
    put8(o, v);
}

static size_t aml_device(struct out *o, const char *name)
{
    put_le(o, 0x825b, 2);
    size_t at = aml_begin(o);
    put_str(o, name, 4);
    return at;
}

/* _HID of a PNP device: EISA ID "PNPxxxx". */
static void aml_pnp(struct out *o, uint16_t id)
{
    aml_name(o, "_HID");
    put8(o, 0x0c);
    put_le(o, 0xd041, 2);
    put8(o, id >> 8);
    put8(o, id & 0xff);
}

static void aml_dword(struct out *o, uint32_t v)
{
    put8(o, 0x0c);
    put_le(o, v, 4);
}

/* Opens Scope (\\_SB). */
static size_t aml_scope(struct out *o)
{
    put8(o, 0x10);
    size_t scope = aml_begin(o);
    put8(o, '\\');
    put_str(o, "_SB_", 4);
    return scope;
}

/* _CRS with one range of ports and one ISA interrupt ("Small Resource Data Types"). */
static void aml_crs(struct out *o, uint16_t port, uint8_t len, uint8_t irq)
{
    aml_name(o, "_CRS");
    put8(o, 0x11);
    size_t at = aml_begin(o);
    aml_byte(o, 13);
    put8(o, 0x47);
    put8(o, 1); /* decodes 16 bits */
    put_le(o, port, 2);
    put_le(o, port, 2);
    put8(o, 1);
    put8(o, len);
    put8(o, 0x22);
    put_le(o, 1u << irq, 2);
    put_le(o, 0x0079, 2);
    aml_end(o, at);
}

#define SCOPE_DEVICES 64u /* a package's length of two bytes holds that many */

static void build_processors(struct out *o, const struct acpi_config *c)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t scope = 0;
    for (unsigned i = 0; i < c->cpus; i++) {
        if (i % SCOPE_DEVICES == 0) {
            scope = aml_scope(o);
        }
        const char name[4] = {'C', '0', hex[i >> 4 & 15], hex[i & 15]};
        size_t dev = aml_device(o, name);
        aml_name(o, "_HID");
        put8(o, 0x0d);
        put_str(o, "ACPI0007", 8);
        put8(o, 0);
        aml_name(o, "_UID");
        aml_byte(o, (uint8_t)i);
        aml_end(o, dev);
        if (i % SCOPE_DEVICES == SCOPE_DEVICES - 1 || i + 1 == c->cpus) {
            aml_end(o, scope);
        }
    }
}

static void build_hpet_device(struct out *o, const struct acpi_config *c)
{
    size_t dev = aml_device(o, "HPET");
    aml_pnp(o, 0x0103);
    aml_name(o, "_CRS");
    put8(o, 0x11);
    size_t at = aml_begin(o);
    aml_byte(o, 14);
    put8(o, 0x86); /* "32-Bit Fixed Memory Range Descriptor", read-only */
    put_le(o, 9, 2);
    put8(o, 0);
    put_le(o, c->hpet_base, 4);
    put_le(o, 0x400, 4);
    put_le(o, 0x0079, 2);
    aml_end(o, at);
    aml_end(o, dev);
}

/* "Word Address Space Descriptor" and "DWord Address Space Descriptor": a range that the bridge hands on. */
static void aml_range(struct out *o, unsigned bytes, uint8_t type, uint8_t flags, uint32_t from, uint32_t to)
{
    put8(o, bytes == 2 ? 0x88 : 0x87);
    put_le(o, 3 + 5 * bytes, 2);
    put8(o, type);
    put8(o, 0x0c); /* produced, decoded positively, both ends fixed */
    put8(o, flags);
    put_le(o, 0, bytes);
    put_le(o, from, bytes);
    put_le(o, to, bytes);
    put_le(o, 0, bytes);
    put_le(o, to - from + 1, bytes);
}

#define PCI_SLOTS 32u

static void build_pci(struct out *o, const struct acpi_config *c)
{
    aml_pnp(o, 0x0a03);
    aml_name(o, "_UID");
    put8(o, 0);
    aml_name(o, "_BBN");
    put8(o, 0);
    aml_name(o, "_CRS");
    put8(o, 0x11);
    size_t at = aml_begin(o);
    aml_byte(o, 16 + 8 + 2 * 16 + 2 * 26 + 2);
    aml_range(o, 2, 2, 0, 0, 0xff); /* buses */
    put8(o, 0x47);                  /* configuration mechanism #1, the bridge's own */
    put8(o, 1);
    put_le(o, 0xcf8, 2);
    put_le(o, 0xcf8, 2);
    put8(o, 1);
    put8(o, 8);
    aml_range(o, 2, 1, 3, 0x0000, 0x0cf7);
    aml_range(o, 2, 1, 3, 0x0d00, 0xffff);
    aml_range(o, 4, 0, 1, 0xa0000, 0xbffff);
    aml_range(o, 4, 0, 1, c->pci_hole, c->ioapic_base - 1);
    put_le(o, 0x0079, 2);
    aml_end(o, at);

    aml_name(o, "_PRT"); /* "Global System Interrupt" form: the firmware has routed, and says where to */
    put8(o, 0x12);
    at = aml_begin(o);
    put8(o, PCI_SLOTS * 4);
    for (unsigned i = 0; i < PCI_SLOTS * 4; i++) {
        unsigned slot = i / 4, pin = i % 4;
        put8(o, 0x12);
        size_t entry = aml_begin(o);
        put8(o, 4);
        aml_dword(o, slot << 16 | 0xffff);
        aml_byte(o, (uint8_t)pin);
        put8(o, 0);
        aml_byte(o, c->pirq[(slot + pin + 3) & 3]);
        aml_end(o, entry);
    }
    aml_end(o, at);
}

static void build_isa(struct out *o, const struct acpi_config *c)
{
    size_t isa = 0;
    if (c->pci) {
        isa = aml_device(o, "ISA_");
        aml_name(o, "_ADR");
        aml_dword(o, 0x00010000);
    }
    for (unsigned i = 0; i < 2; i++) {
        uint16_t port = i ? c->uart2_port : c->uart_port;
        if (port) {
            size_t dev = aml_device(o, i ? "COM2" : "COM1");
            aml_pnp(o, 0x0501);
            aml_name(o, "_UID");
            aml_byte(o, (uint8_t)(i + 1));
            aml_crs(o, port, 8, i ? c->uart2_irq : c->uart_irq);
            aml_end(o, dev);
        }
    }
    size_t dev = aml_device(o, "RTC_");
    aml_pnp(o, 0x0b00);
    aml_crs(o, 0x70, 2, 8);
    aml_end(o, dev);
    if (c->pci) {
        aml_end(o, isa);
    }
}

static void build_dsdt(struct out *o, const struct acpi_config *c)
{
    size_t start = begin_table(o, "DSDT", 2);
    aml_name(o, "_S5_");
    put8(o, 0x12);
    size_t pkg = aml_begin(o);
    put8(o, 4);
    aml_byte(o, ACPI_PM_S5);
    aml_byte(o, ACPI_PM_S5);
    put8(o, 0);
    put8(o, 0);
    aml_end(o, pkg);

    build_processors(o, c);
    size_t scope = aml_scope(o), pci = 0;
    if (c->hpet_base) {
        build_hpet_device(o, c);
    }
    if (c->pci) {
        pci = aml_device(o, "PCI0");
        build_pci(o, c);
    }
    build_isa(o, c);
    if (c->pci) {
        aml_end(o, pci);
    }
    aml_end(o, scope);
    end_table(o, start);
}

/* ---- fixed tables --------------------------------------------------------------------------------------------- */

/* "Generic Address Structure" in I/O space. */
static void put_gas(struct out *o, uint16_t port, uint8_t bits)
{
    put8(o, 1);
    put8(o, port ? bits : 0);
    put8(o, 0);
    put8(o, !port ? 0 : bits == 8 ? 1 : bits == 16 ? 2 : 3);
    put_le(o, port, 8);
}

static void build_fadt(struct out *o, const struct acpi_config *c, uint32_t facs, uint32_t dsdt)
{
    uint16_t status = c->pm_base, control = c->pm_base + 4, timer = c->pm_base + 8;
    size_t start = begin_table(o, "FACP", 6);
    put_le(o, facs, 4);
    put_le(o, dsdt, 4);
    put8(o, 0);
    put8(o, 0); /* preferred profile: unspecified */
    put_le(o, c->sci_irq, 2);
    put_le(o, 0, 4); /* no SMI command port: always in ACPI mode */
    put_le(o, 0, 4);
    put_le(o, status, 4);
    put_le(o, 0, 4);
    put_le(o, control, 4);
    put_le(o, 0, 4);
    put_le(o, 0, 4);
    put_le(o, timer, 4);
    put_le(o, 0, 8);
    put8(o, 4); /* lengths: PM1 event, PM1 control, PM2 control, PM timer, GPE0, GPE1, GPE1 base, CST */
    put8(o, 2);
    put8(o, 0);
    put8(o, 4);
    put_le(o, 0, 4);
    put_le(o, 101, 2);  /* no C2 */
    put_le(o, 1001, 2); /* no C3 */
    put_le(o, 0, 4);
    put_le(o, 0, 4); /* duty offset, width, day alarm, month alarm */
    put8(o, c->century);
    put_le(o, 0x0001 | 0x0004, 2); /* legacy devices; no VGA; no 8042 to drive */
    put8(o, 0);
    /* WBINVD, C1, no sleep button, no fixed RTC wake, 32-bit timer, reset register */
    put_le(o, 1u << 0 | 1u << 2 | 1u << 5 | 1u << 6 | 1u << 8 | 1u << 10, 4);
    put_gas(o, c->reset_port, 8);
    put8(o, ACPI_PM_RESET_VALUE);
    put_le(o, 0, 2);
    put8(o, 4);         /* minor revision: 6.4 */
    put_le(o, facs, 8); /* X_FIRMWARE_CTRL: the same */
    put_le(o, dsdt, 8);
    put_gas(o, status, 32);
    put_gas(o, 0, 0);
    put_gas(o, control, 16);
    put_gas(o, 0, 0);
    put_gas(o, 0, 0);
    put_gas(o, timer, 32);
    put_gas(o, 0, 0);
    put_gas(o, 0, 0);
    put_gas(o, 0, 0); /* sleep control and status: hardware-reduced machines only */
    put_gas(o, 0, 0);
    put_le(o, 0, 8);
    end_table(o, start);
}

static void put_override(struct out *o, uint8_t irq, uint32_t gsi, uint16_t flags)
{
    put8(o, 2);
    put8(o, 10);
    put8(o, 0);
    put8(o, irq);
    put_le(o, gsi, 4);
    put_le(o, flags, 2);
}

static void build_madt(struct out *o, const struct acpi_config *c)
{
    size_t start = begin_table(o, "APIC", 5);
    put_le(o, c->lapic_base, 4);
    put_le(o, 1, 4); /* there are 8259s too */
    for (unsigned i = 0; i < c->cpus; i++) {
        put8(o, 0);
        put8(o, 8);
        put8(o, (uint8_t)i);
        put8(o, (uint8_t)i);
        put_le(o, 1, 4);
    }
    put8(o, 1);
    put8(o, 12);
    put8(o, c->ioapic_id);
    put8(o, 0);
    put_le(o, c->ioapic_base, 4);
    put_le(o, 0, 4);
    put_override(o, 0, 2, 0);
    put_override(o, c->sci_irq, c->sci_irq, 0x000d); /* active high, level */
    put8(o, 4);                                      /* NMI at LINT1 of every processor */
    put8(o, 6);
    put8(o, 0xff);
    put_le(o, 0, 2);
    put8(o, 1);
    end_table(o, start);
}

/* IA-PC HPET Specification, "The ACPI 2.0 HPET Description Table (HPET)" */
static void build_hpet(struct out *o, const struct acpi_config *c)
{
    size_t start = begin_table(o, "HPET", 1);
    put_le(o, HPET_ID, 4);
    put_le(o, 0, 4); /* in memory */
    put_le(o, c->hpet_base, 8);
    put8(o, 0);         /* the first */
    put_le(o, 1000, 2); /* ticks of the shortest period */
    put8(o, 0);
    end_table(o, start);
}

size_t acpi_build_tables(void *buf, size_t size, uint64_t gpa, const struct acpi_config *c)
{
    struct out o = {.p = buf, .size = size};

    /* RSDP: the addresses of RSDT and XSDT are known after it. */
    put_str(&o, "RSD PTR ", 8);
    put8(&o, 0);
    put_str(&o, "VMENTR", 6);
    put8(&o, 2);
    put_le(&o, 0, 4);
    put_le(&o, 36, 4);
    put_le(&o, 0, 8);
    put_le(&o, 0, 4);

    align(&o, 64);
    size_t facs = o.used;
    put_str(&o, "FACS", 4);
    put_le(&o, 64, 4);
    put_le(&o, 0, 8); /* hardware signature, waking vector */
    put_le(&o, 0, 8); /* global lock, flags */
    put_le(&o, 0, 8); /* 64-bit waking vector */
    put8(&o, 2);      /* version */
    align(&o, 64);

    size_t dsdt = o.used;
    build_dsdt(&o, c);
    align(&o, 16);
    size_t fadt = o.used;
    build_fadt(&o, c, (uint32_t)(gpa + facs), (uint32_t)(gpa + dsdt));
    align(&o, 16);
    size_t madt = o.used;
    build_madt(&o, c);
    align(&o, 16);
    size_t hpet = o.used;
    if (c->hpet_base) {
        build_hpet(&o, c);
        align(&o, 16);
    }
    size_t root[2]; /* RSDT, for software that knows ACPI 1.0 alone, and XSDT: addresses of 4 and of 8 bytes */
    for (unsigned i = 0; i < 2; i++) {
        const unsigned bytes = i ? 8 : 4;
        root[i] = begin_table(&o, i ? "XSDT" : "RSDT", 1);
        put_le(&o, gpa + fadt, bytes);
        put_le(&o, gpa + madt, bytes);
        if (c->hpet_base) {
            put_le(&o, gpa + hpet, bytes);
        }
        end_table(&o, root[i]);
        align(&o, 16);
    }
    if (o.full) {
        return 0;
    }
    patch_le(&o, 16, gpa + root[0], 4);
    patch_le(&o, 24, gpa + root[1], 8);
    patch_checksum(&o, 0, 20, 8);
    patch_checksum(&o, 0, 36, 32);
    return o.used;
}

/* ---- MultiProcessor Specification 1.4 -------------------------------------------------------------------------- */

enum { MP_CPU = 0, MP_BUS = 1, MP_IOAPIC = 2, MP_INTERRUPT = 3, MP_LOCAL = 4 };
enum { MP_INT = 0, MP_NMI = 1, MP_EXTINT = 3 };
enum { MP_BUS_PCI = 0, MP_BUS_ISA = 1 };
#define MP_HIGH_LEVEL 0x000du /* as in the MADT: active high, level */

/* "I/O Interrupt Assignment Entries", "Local Interrupt Assignment Entries" */
static unsigned mp_interrupt(struct out *o, unsigned entry, unsigned type, unsigned flags, unsigned bus, unsigned irq,
                             unsigned apic, unsigned pin)
{
    put8(o, (uint8_t)entry);
    put8(o, (uint8_t)type);
    put_le(o, flags, 2);
    put8(o, (uint8_t)bus);
    put8(o, (uint8_t)irq);
    put8(o, (uint8_t)apic);
    put8(o, (uint8_t)pin);
    return 1;
}

static unsigned mp_entries(struct out *o, const struct acpi_config *c)
{
    unsigned n = c->cpus;
    for (unsigned i = 0; i < c->cpus; i++) {
        put8(o, MP_CPU);
        put8(o, (uint8_t)i);
        put8(o, c->lapic_version);
        put8(o, i == 0 ? 3 : 1); /* enabled; the bootstrap processor */
        put_le(o, c->cpu_signature, 4);
        put_le(o, c->cpu_features, 4);
        put_le(o, 0, 8);
    }
    for (unsigned bus = c->pci ? MP_BUS_PCI : MP_BUS_ISA; bus <= MP_BUS_ISA; bus++, n++) {
        put8(o, MP_BUS);
        put8(o, (uint8_t)bus);
        put_str(o, bus == MP_BUS_PCI ? "PCI" : "ISA", 6);
    }
    put8(o, MP_IOAPIC);
    put8(o, c->ioapic_id);
    put8(o, c->ioapic_version);
    put8(o, 1);
    put_le(o, c->ioapic_base, 4);
    n++;
    for (unsigned slot = 1; c->pci && slot < PCI_SLOTS; slot++) {
        for (unsigned pin = 0; pin < 4; pin++) {
            n += mp_interrupt(o, MP_INTERRUPT, MP_INT, MP_HIGH_LEVEL, MP_BUS_PCI, slot << 2 | pin, c->ioapic_id,
                              c->pirq[(slot + pin + 3) & 3]);
        }
    }
    for (unsigned irq = 0; irq < 16; irq++) {
        bool pci = false;
        for (unsigned i = 0; c->pci && i < 4; i++) {
            pci |= c->pirq[i] == irq;
        }
        if (irq != 2 && !pci) {
            n += mp_interrupt(o, MP_INTERRUPT, MP_INT, irq == c->sci_irq ? MP_HIGH_LEVEL : 0, MP_BUS_ISA, irq,
                              c->ioapic_id, irq == 0 ? 2 : irq);
        }
    }
    n += mp_interrupt(o, MP_LOCAL, MP_EXTINT, 0, MP_BUS_ISA, 0, 0xff, 0);
    return n + mp_interrupt(o, MP_LOCAL, MP_NMI, 0, MP_BUS_ISA, 0, 0xff, 1);
}

size_t mp_build_table(void *buf, size_t size, uint64_t gpa, const struct acpi_config *c)
{
    struct out o = {.p = buf, .size = size};
    put_str(&o, "_MP_", 4); /* "MP Floating Pointer Structure" */
    put_le(&o, gpa + 16, 4);
    put8(&o, 1); /* 16 bytes */
    put8(&o, 4); /* version 1.4 */
    put8(&o, 0);
    put_le(&o, 0, 5); /* there is a table; virtual wire mode */

    size_t table = o.used; /* "MP Configuration Table Header" */
    put_str(&o, "PCMP", 4);
    put_le(&o, 0, 2);
    put8(&o, 4);
    put8(&o, 0);
    put_str(&o, "VMENTER", 8);
    put_str(&o, "PC", 12);
    put_le(&o, 0, 6); /* no OEM table */
    put_le(&o, 0, 2);
    put_le(&o, c->lapic_base, 4);
    put_le(&o, 0, 4); /* nor an extended one */
    unsigned entries = mp_entries(&o, c);
    if (o.full) {
        return 0;
    }
    patch_le(&o, table + 4, o.used - table, 2);
    patch_le(&o, table + 34, entries, 2);
    patch_checksum(&o, table, o.used, table + 7);
    patch_checksum(&o, 0, table, 10);
    return o.used;
}
