/* SPDX-License-Identifier: MIT
 *
 * uart.c: PC16550D (National Semiconductor data sheet, "Registers", "FIFO Interrupt Mode Operation").
 *
 * The transmitter takes no time: a byte that is written has been sent, THRE and TEMT are always set, and the
 * transmitter-empty interrupt comes at once.
 */
#include "src/dev/uart.h"

enum { REG_DATA, REG_IER, REG_IIR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR };

#define IER_RX         0x01
#define IER_TX         0x02
#define IER_LINE       0x04
#define IER_MODEM      0x08
#define IIR_NONE       0x01
#define IIR_LINE       0x06
#define IIR_RX         0x04
#define IIR_TIMEOUT    0x0c
#define IIR_TX         0x02
#define IIR_MODEM      0x00
#define IIR_FIFOS      0xc0
#define FCR_ENABLE     0x01
#define FCR_CLEAR_RX   0x02
#define FCR_CLEAR_TX   0x04
#define LCR_DLAB       0x80
#define MCR_DTR        0x01
#define MCR_RTS        0x02
#define MCR_OUT1       0x04
#define MCR_OUT2       0x08
#define MCR_LOOP       0x10
#define LSR_READY      0x01
#define LSR_OVERRUN    0x02
#define LSR_BREAK      0x10
#define LSR_ERRORS     0x1e
#define LSR_THRE       0x20
#define LSR_TEMT       0x40
#define LSR_FIFO_ERROR 0x80
#define MSR_CTS        0x10
#define MSR_DSR        0x20
#define MSR_RI         0x40
#define MSR_DCD        0x80

static bool has_fifo(const struct uart *u)
{
    return u->s.fcr & FCR_ENABLE;
}

static unsigned trigger(const struct uart *u)
{
    static const uint8_t levels[4] = {1, 4, 8, 14};
    return has_fifo(u) ? levels[u->s.fcr >> 6] : 1;
}

static uint8_t interrupt_id(const struct uart *u)
{
    if ((u->s.ier & IER_LINE) && (u->s.lsr & LSR_ERRORS)) {
        return IIR_LINE;
    }
    if (u->s.ier & IER_RX) {
        if (u->s.used >= trigger(u)) {
            return IIR_RX;
        }
        if (u->s.timeout) {
            return IIR_TIMEOUT;
        }
    }
    if ((u->s.ier & IER_TX) && u->s.thre_pending) {
        return IIR_TX;
    }
    if ((u->s.ier & IER_MODEM) && (u->s.msr & 0xf)) {
        return IIR_MODEM;
    }
    return IIR_NONE;
}

static void update(struct uart *u)
{
    bool out2 = (u->s.mcr & MCR_OUT2) && !(u->s.mcr & MCR_LOOP);
    device_line_set(&u->irq, interrupt_id(u) != IIR_NONE && out2);
}

/* Nanoseconds of four characters: start, data, parity and stop bits at 115200 / divisor. */
static uint64_t four_chars(const struct uart *u)
{
    unsigned bits = 1 + 5 + (u->s.lcr & 3) + (u->s.lcr >> 3 & 1) + 1 + (u->s.lcr >> 2 & 1);
    return UINT64_C(4) * bits * (u->s.divisor ? u->s.divisor : 1) * DEVICE_NS_PER_S / 115200;
}

static void rearm_timeout(struct uart *u, uint64_t now)
{
    u->s.timeout = false;
    u->s.timeout_at = has_fifo(u) && u->s.used ? now + four_chars(u) : DEVICE_NEVER;
}

void uart_run(struct uart *u, uint64_t now)
{
    if (now >= u->s.timeout_at) {
        u->s.timeout_at = DEVICE_NEVER;
        u->s.timeout = u->s.used;
        update(u);
    }
}

uint64_t uart_deadline(const struct uart *u)
{
    bool matters = (u->s.ier & IER_RX) && u->s.used < trigger(u);
    return matters ? u->s.timeout_at : DEVICE_NEVER;
}

/* The byte at the head brings its errors into the LSR. */
static void update_ready(struct uart *u)
{
    u->s.lsr &= ~(LSR_READY | LSR_FIFO_ERROR);
    if (u->s.used) {
        u->s.lsr |= LSR_READY | u->s.fifo_errors[u->s.head];
        u->s.fifo_errors[u->s.head] = 0;
    }
    for (unsigned i = 0; has_fifo(u) && i < u->s.used; i++) {
        if (u->s.fifo_errors[(u->s.head + i) % UART_FIFO]) {
            u->s.lsr |= LSR_FIFO_ERROR;
        }
    }
}

static void push(struct uart *u, uint64_t now, uint8_t byte, uint8_t errors)
{
    unsigned room = has_fifo(u) ? UART_FIFO : 1;
    if (u->s.used >= room) {
        u->s.lsr |= LSR_OVERRUN;
        if (!has_fifo(u)) {
            u->s.fifo[u->s.head] = byte; /* without FIFOs the new byte destroys the old one */
        }
    } else {
        unsigned tail = (u->s.head + u->s.used++) % UART_FIFO;
        u->s.fifo[tail] = byte;
        u->s.fifo_errors[tail] = errors;
    }
    update_ready(u);
    rearm_timeout(u, now);
    update(u);
}

bool uart_can_receive(const struct uart *u)
{
    return !(u->s.mcr & MCR_LOOP) && u->s.used < (has_fifo(u) ? UART_FIFO : 1);
}

void uart_receive(struct uart *u, uint64_t now, uint8_t byte)
{
    if (!(u->s.mcr & MCR_LOOP)) {
        push(u, now, byte, 0);
    }
}

void uart_break(struct uart *u, uint64_t now)
{
    if (!(u->s.mcr & MCR_LOOP)) {
        push(u, now, 0, LSR_BREAK);
    }
}

static void set_modem_inputs(struct uart *u, uint8_t in)
{
    uint8_t diff = (u->s.msr ^ in) & 0xf0;
    uint8_t delta = diff >> 4;
    if (in & MSR_RI) {
        delta &= ~(MSR_RI >> 4); /* TERI: the trailing edge only */
    }
    u->s.msr = in | (u->s.msr & 0xf) | delta;
}

static uint8_t loop_inputs(uint8_t mcr)
{
    return (mcr & MCR_RTS ? MSR_CTS : 0) | (mcr & MCR_DTR ? MSR_DSR : 0) | (mcr & MCR_OUT1 ? MSR_RI : 0) |
           (mcr & MCR_OUT2 ? MSR_DCD : 0);
}

static void clear_rx(struct uart *u)
{
    u->s.head = u->s.used = 0;
    u->s.timeout = false;
    u->s.timeout_at = DEVICE_NEVER;
    __builtin_memset(u->s.fifo_errors, 0, sizeof(u->s.fifo_errors));
    update_ready(u);
}

static uint64_t uart_read(void *dev, uint64_t now, uint64_t offset, unsigned size)
{
    struct uart *u = dev;
    uint8_t v = 0;
    uart_run(u, now);
    switch (offset & 7) {
    case REG_DATA:
        if (u->s.lcr & LCR_DLAB) {
            return u->s.divisor & 0xff;
        }
        v = u->s.fifo[u->s.head];
        if (u->s.used) {
            u->s.used--;
            u->s.head = (u->s.head + 1) % UART_FIFO;
            rearm_timeout(u, now);
            if (!u->s.used && u->drained) {
                u->drained(u->drained_opaque);
            }
        }
        update_ready(u);
        break;
    case REG_IER: return u->s.lcr & LCR_DLAB ? u->s.divisor >> 8 : u->s.ier;
    case REG_IIR:
        v = interrupt_id(u);
        if (v == IIR_TX) {
            u->s.thre_pending = false;
        }
        v |= has_fifo(u) ? IIR_FIFOS : 0;
        break;
    case REG_LCR: return u->s.lcr;
    case REG_MCR: return u->s.mcr;
    case REG_LSR:
        v = u->s.lsr | LSR_THRE | LSR_TEMT;
        u->s.lsr &= ~LSR_ERRORS;
        u->s.polls += u->s.polls < UART_POLLS + 1;
        break;
    case REG_MSR:
        v = u->s.msr;
        u->s.msr &= 0xf0;
        break;
    case REG_SCR: return u->s.scratch;
    }
    update(u);
    return v;
}

static void transmit(struct uart *u, uint64_t now, uint8_t byte)
{
    u->s.thre_pending = false;
    update(u);
    if (u->s.mcr & MCR_LOOP) {
        push(u, now, byte, 0);
    } else if (u->tx.put) {
        u->tx.put(u->tx.opaque, byte);
    }
    u->s.thre_pending = true;
}

static void uart_write(void *dev, uint64_t now, uint64_t offset, unsigned size, uint64_t value)
{
    struct uart *u = dev;
    uint8_t v = value;
    uart_run(u, now);
    if ((offset & 7) != REG_DATA) {
        u->s.polls = 0;
    } else if (u->s.polls) {
        u->s.polls--;
    }
    switch (offset & 7) {
    case REG_DATA:
        if (u->s.lcr & LCR_DLAB) {
            u->s.divisor = (u->s.divisor & 0xff00) | v;
        } else {
            transmit(u, now, v);
        }
        break;
    case REG_IER:
        if (u->s.lcr & LCR_DLAB) {
            u->s.divisor = (uint16_t)(v << 8) | (u->s.divisor & 0xff);
        } else {
            if (v & ~u->s.ier & IER_TX) {
                u->s.thre_pending = true; /* THRE is set: enabling its interrupt raises it */
            }
            u->s.ier = v & 0xf;
        }
        break;
    case REG_IIR: /* FCR */
        if ((v ^ u->s.fcr) & FCR_ENABLE) {
            clear_rx(u);
        }
        if (!(v & FCR_ENABLE)) {
            u->s.fcr = 0;
            break;
        }
        if (v & FCR_CLEAR_RX) {
            clear_rx(u);
        }
        u->s.fcr = v & ~(FCR_CLEAR_RX | FCR_CLEAR_TX);
        break;
    case REG_LCR: u->s.lcr = v; break;
    case REG_MCR:
        u->s.mcr = v & 0x1f;
        set_modem_inputs(u, v & MCR_LOOP ? loop_inputs(v) : u->s.modem_in);
        break;
    case REG_MSR:
    case REG_LSR: break; /* for factory testing */
    case REG_SCR: u->s.scratch = v; break;
    }
    update(u);
}

void uart_init(struct uart *u)
{
    u->s = (struct uart_state){0};
    u->s.divisor = 1;
    u->s.modem_in = MSR_CTS | MSR_DSR | MSR_DCD;
    u->s.msr = u->s.modem_in;
    u->s.timeout_at = DEVICE_NEVER;
    u->s.thre_pending = true;
    update(u);
}

static void run(void *dev, uint64_t now)
{
    uart_run(dev, now);
}
static uint64_t deadline(const void *dev)
{
    return uart_deadline(dev);
}

const struct device_ops uart_ops = {
    .name = "uart", .width = 1, .read = uart_read, .write = uart_write, .run = run, .deadline = deadline};
