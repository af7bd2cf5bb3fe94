/* SPDX-License-Identifier: MIT
 *
 * smp64.c: INIT, start-up and NMI between two processors. SDM volume 3A, "MP Initialization Protocol Algorithm for MP
 * Systems" and "Issuing Interprocessor Interrupts"; APM volume 2, "Multiple-Processor Initialization".
 *
 * The other processor runs real-mode code at AP_CODE: it counts its starts, tells its CS and spins.
 */
#include "rt.h"

const char image_name[] = IMAGE_NAME;
#define ASM(...) __asm__ volatile(__VA_ARGS__)
#define APIC     0xfee00000ul
#define ICR      0x300
#define ICR2     0x310
#define AP_CODE  0x8000ul
#define AP_CODE2 0x9000ul
#define DATA     0x7e00ul
#define INIT     0x4500u
#define STARTUP  0x4600u

struct shared {
    volatile uint16_t starts, cs, spins, nmis, release;
};
static struct shared *const shared = (struct shared *)DATA;

/* Position-independent, below 64 KiB: data is addressed with DS = 0. */
static const uint8_t ap_code[] = {
    0xfa,                         /*     cli                         */
    0x31, 0xc0,                   /*     xor ax, ax                  */
    0x8e, 0xd8,                   /*     mov ds, ax                  */
    0x8e, 0xd0,                   /*     mov ss, ax                  */
    0xbc, 0x00, 0x7e,             /*     mov sp, 0x7e00              */
    0x8c, 0xc8,                   /*     mov ax, cs                  */
    0xa3, 0x02, 0x7e,             /*     mov [cs_], ax               */
    0xf0, 0xff, 0x06, 0x00, 0x7e, /*     lock inc word [starts]      */
    0xff, 0x06, 0x04, 0x7e,       /* 1:  inc word [spins]            */
    0xf3, 0x90,                   /*     pause                       */
    0xeb, 0xf8,                   /*     jmp 1b                      */
};
/* Its NMI handler, by the interrupt vector table at 0. */
static const uint8_t nmi_code[] = {
    0xff, 0x06, 0x06, 0x7e, /* inc word [nmis] */
    0xcf,                   /* iret            */
};
#define NMI_CODE 0x7f00ul

static void wr(unsigned r, uint32_t v)
{
    *(volatile uint32_t *)(APIC + r) = v;
}
static void send(uint32_t what)
{
    wr(ICR2, 1u << 24);
    wr(ICR, what);
    while (*(volatile uint32_t *)(APIC + ICR) & 0x1000)
        ;
}
static bool reaches(volatile uint16_t *p, uint16_t v)
{
    for (unsigned long i = 0; i < 20000000 && *p != v; i++)
        ASM("pause");
    return *p == v;
}
static bool moves(volatile uint16_t *p)
{
    uint16_t old = *p;
    for (unsigned long i = 0; i < 2000000; i++) {
        if (*p != old)
            return true;
        ASM("pause");
    }
    return false;
}
/* What was sent has arrived, and whatever it made the processor do has been done. */
static void settle(void)
{
    for (unsigned i = 0; i < 200000; i++)
        ASM("pause");
}

void image_main(void)
{
    memcpy((void *)AP_CODE, ap_code, sizeof ap_code);
    memcpy((void *)AP_CODE2, ap_code, sizeof ap_code);
    memcpy((void *)NMI_CODE, nmi_code, sizeof nmi_code);
    *(volatile uint32_t *)(2 * 4ul) = NMI_CODE; /* segment 0 */
    memset((void *)DATA, 0, sizeof *shared);

    send(INIT);
    settle();
    check("INIT alone starts nothing", shared->starts == 0);
    send(STARTUP | AP_CODE >> 12);
    check("a start-up IPI starts it", reaches(&shared->starts, 1));
    check_eq("... with CS of the vector", shared->cs, AP_CODE >> 4);
    check("... and it runs", moves(&shared->spins));
    send(STARTUP | AP_CODE2 >> 12);
    settle();
    check_eq("a processor that runs ignores a start-up IPI", shared->starts, 1);
    check("... and goes on", moves(&shared->spins));

    send(0x4400);
    check("NMI reaches it", reaches(&shared->nmis, 1));
    check("... and it goes on", moves(&shared->spins));

    send(INIT);
    settle();
    check("INIT stops it", !moves(&shared->spins));
    if (!rt_on_qemu()) { /* it wakes there, at the reset vector */
        send(0x4400);
        settle();
        check_eq("one that waits for start-up takes no NMI", shared->nmis, 1);
    }
    send(STARTUP | AP_CODE2 >> 12);
    check("it starts again", reaches(&shared->starts, 2));
    check_eq("... at the new vector", shared->cs, AP_CODE2 >> 4);
    check("... and runs", moves(&shared->spins));

    /* Nobody waits between the IPIs: the two start-up IPIs come after the INIT all the same, and count as one. */
    send(INIT);
    send(STARTUP | AP_CODE >> 12);
    send(STARTUP | AP_CODE >> 12);
    check("INIT, start-up, start-up in a row", reaches(&shared->starts, 3));
    check_eq("... with CS of the vector", shared->cs, AP_CODE >> 4);
    settle();
    check_eq("... once", shared->starts, 3);
    check("... and it runs", moves(&shared->spins));

    /* A start-up IPI before the INIT is not one after it. */
    send(STARTUP | AP_CODE2 >> 12);
    send(INIT);
    settle();
    check_eq("start-up, INIT: nothing starts", shared->starts, 3);
    check("... and it waits", !moves(&shared->spins));
    send(STARTUP | AP_CODE >> 12);
    check("... until the next start-up IPI", reaches(&shared->starts, 4));
}
