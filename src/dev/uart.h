/* SPDX-License-Identifier: MIT
 *
 * uart.h: a 16550A serial port.
 *
 * Register space: 0 to 7. Output: `irq` (gated by OUT2, as on a PC) and `tx` for bytes sent. Bytes that arrive are
 * pushed by the host with uart_receive() while uart_can_receive().
 */
#ifndef VMENTER_DEV_UART_H
#define VMENTER_DEV_UART_H

#include <vmenter/device.h>

#define UART_FIFO  16
#define UART_POLLS 16

struct uart_state {
    uint8_t fifo[UART_FIFO], fifo_errors[UART_FIFO]; /* LSR error bits of each byte */
    uint8_t head, used;
    uint8_t ier, fcr, lcr, mcr, lsr, msr, scratch;
    uint16_t divisor;
    bool thre_pending;   /* the transmitter-empty interrupt, until IIR is read or a byte written */
    bool timeout;        /* character time-out */
    uint64_t timeout_at; /* ns, DEVICE_NEVER */
    uint8_t polls;       /* reads of LSR that no byte to send followed, since the port was set up */
    uint8_t modem_in;    /* CTS, DSR, RI, DCD as MSR bits 4 to 7 */
};

struct uart {
    struct device_line irq;
    struct device_out tx;
    void (*drained)(void *opaque); /* the guest took the last byte that was there; may be NULL */
    void *drained_opaque;
    struct uart_state s;
};

void uart_init(struct uart *u);
/* Room for another byte, and a receiver that is not in loopback. */
bool uart_can_receive(const struct uart *u);
/* A byte arrives. Without room it is lost and the guest sees an overrun. */
void uart_receive(struct uart *u, uint64_t now, uint8_t byte);
/* A break condition arrives. */
void uart_break(struct uart *u, uint64_t now);
/* Whether somebody listens: the guest has asked to be interrupted by what arrives, or looks again and again whether
 * something did. (One that polls in order to send sends after each look.) */
static inline bool uart_listens(const struct uart *u)
{
    return (u->s.ier & 1) || u->s.polls >= UART_POLLS;
}
void uart_run(struct uart *u, uint64_t now);
uint64_t uart_deadline(const struct uart *u);

extern const struct device_ops uart_ops;

#endif
