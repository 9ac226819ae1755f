/* The 16550A as its files share it: serial.c, its registers and its life, and
 * serial_fifo.c, the bytes on their way between guest and chardev. */
#pragma once

#include "devices/platform.h"

enum { FIFO_SIZE = 16 };

/* Table II, "Summary of registers"; the first two are the divisor while LCR_DLAB. */
enum { RBR_THR, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR };

enum { IER_RX = 1, IER_TX = 2, IER_LINE = 4, IER_MODEM = 8, IER_MASK = 15 };
enum {
    IIR_NONE = 1,
    IIR_MODEM = 0,
    IIR_TX = 2,
    IIR_RX = 4,
    IIR_LINE = 6,
    IIR_TIMEOUT = 12,
    IIR_FIFOS = 0xc0,
};
enum { FCR_ENABLE = 1, FCR_RESET_RX = 2, FCR_RESET_TX = 4, FCR_TRIGGER_SHIFT = 6 };
enum { LCR_DLAB = 0x80 };
enum {
    MCR_DTR = 1,
    MCR_RTS = 2,
    MCR_OUT1 = 4,
    MCR_OUT2 = 8,
    MCR_LOOP = 16,
    MCR_MASK = 31
};
enum {
    LSR_DR = 1,
    LSR_OE = 2,
    LSR_BI = 16,
    LSR_THRE = 32,
    LSR_TEMT = 64,
    LSR_FIFO_ERROR = 128,
};
enum {
    MSR_DELTA = 15,
    MSR_TERI = 4,
    MSR_CTS = 16,
    MSR_DSR = 32,
    MSR_RI = 64,
    MSR_DCD = 128
};

typedef struct SerialState { /* guest-visible */
    uint16_t divisor;
    uint16_t rx_break; /* bit n: the n-th byte of rx stands for a break */
    uint8_t ier, fcr, lcr, mcr, msr, scr;
    uint8_t lsr;          /* OE and BI; the rest is a function of the FIFOs */
    uint8_t tx_interrupt; /* THRE interrupt pending: cleared by reading IIR */
    uint8_t rx_count, tx_count;
    uint8_t rx[FIFO_SIZE], tx[FIFO_SIZE]; /* oldest first */
    uint8_t user_output;                  /* since power-on: events were told of it */
} SerialState;

typedef struct Serial {
    Device dev;
    SerialState s;
    BusRegion region;
    Bus *pio;
    IrqLine irq;
    Chardev *chardev;
    const PlatformEvents *events; /* NULL: nobody is told */
} Serial;

/* The highest pending interrupt in the data sheet's order: one of IIR_*. */
uint8_t serial_pending_interrupt(const Serial *u);
void serial_update_irq(Serial *u); /* call after any change */

unsigned serial_rx_room(const Serial *u);
uint8_t serial_rx_pop(Serial *u); /* 0 if there is none */
/* More input is asked for when the FIFO is empty, so that it comes in whole FIFOs. */
void serial_rx_empty(Serial *u);

void serial_tx_push(Serial *u, uint8_t byte);
/* Hands on what the chardev takes.  The interrupt says that THR *became* empty. */
void serial_tx_flush(Serial *u);

extern const ChardevHandlers serial_handlers; /* opaque: the Serial */
