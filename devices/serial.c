/* 16550A UART (National Semiconductor PC16550D data sheet, June 1995), as wired in a PC.
 *
 * The line has no speed: a byte written is handed to the chardev at once.  When that is
 * full, the byte waits in the transmit FIFO with THRE low until drained() says that there
 * is room, so that a slow reader slows the guest's driver and nothing is lost.  Input
 * comes only as room() allows.  The character timeout of the receive FIFO is immediate.
 *
 * OUT2, which gates the interrupt on a PC's board, does not here: drivers that forget it
 * work on most emulated machines, and those that set it cannot tell.
 *
 * Registers: vCPU threads, under the device's lock.  The chardev's handlers run on the
 * main loop and take it. */
#include "devices/platform.h"
#include "devices/regs.h"
#include "devices/state_private.h"

enum { SERIAL_PORTS = 8, FIFO_SIZE = 16, CLOSE_TIMEOUT_MS = 1000 };

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

static const StateField serial_fields[] = {
    STATE_FIELD(SerialState, divisor, 1, U16, .help = "of the baud rate"),
    STATE_FIELD(SerialState, rx_break, 2, U16, .help = "a bit for each break in rx"),
    STATE_FIELD(SerialState, ier, 3, U8, .max = IER_MASK, .help = "interrupt enable"),
    STATE_FIELD(SerialState, fcr, 4, U8, .help = "FIFO control"),
    STATE_FIELD(SerialState, lcr, 5, U8, .help = "line control"),
    STATE_FIELD(SerialState, mcr, 6, U8, .max = MCR_MASK, .help = "modem control"),
    STATE_FIELD(SerialState, msr, 7, U8, .help = "modem status"),
    STATE_FIELD(SerialState, scr, 8, U8, .help = "scratch"),
    STATE_FIELD(SerialState, lsr, 9, U8, .help = "line status: overrun and break"),
    STATE_FIELD(SerialState, tx_interrupt, 10, BOOL, .help = "THRE interrupt pending"),
    STATE_FIELD(SerialState, rx_count, 11, U8, .max = FIFO_SIZE, .help = "bytes in rx"),
    STATE_FIELD(SerialState, tx_count, 12, U8, .max = FIFO_SIZE, .help = "bytes in tx"),
    STATE_INTS(SerialState, rx, 13, U8, .help = "received, not read; oldest first"),
    STATE_INTS(SerialState, tx, 14, U8, .help = "sent, not taken; oldest first"),
    STATE_FIELD(SerialState, user_output, 15, BOOL, .help = "a driver's output was seen"),
    STATE_HOLE_AT_END(SerialState, user_output),
    {},
};

/* No more breaks than bytes; FCR as write_fcr() leaves it, LSR what is not worked out. */
static bool serial_check(const void *p, GError **error)
{
    const SerialState *s = p;
    uint8_t fcr = s->fcr & FCR_ENABLE ? FCR_ENABLE | 3 << FCR_TRIGGER_SHIFT : 0;

    if (s->rx_break >> s->rx_count)
        return fail(error, VM_ERROR_CORRUPT, "there are more breaks than bytes received");
    if (s->fcr & ~fcr)
        return fail(error, VM_ERROR_CORRUPT, "the FIFO control register is 0x%x", s->fcr);
    if (s->lsr & ~(LSR_OE | LSR_BI))
        return fail(error, VM_ERROR_CORRUPT, "the line status register is 0x%x", s->lsr);
    return true;
}

const StateTable serial_state_table = {.name = "serial",
                                       .version = 1,
                                       .size = sizeof(SerialState),
                                       .fields = serial_fields,
                                       .check = serial_check};

typedef struct Serial {
    Device dev;
    SerialState s;
    BusRegion region;
    Bus *pio;
    IrqLine irq;
    Chardev *chardev;
    const PlatformEvents *events; /* NULL: nobody is told */
} Serial;

/* ---- the line, a function of the registers --------------------------------- */

static unsigned rx_trigger(const Serial *u)
{
    static const uint8_t level[4] = {1, 4, 8, 14};

    return u->s.fcr & FCR_ENABLE ? level[u->s.fcr >> FCR_TRIGGER_SHIFT] : 1;
}

/* The highest pending interrupt in the data sheet's order. */
static uint8_t pending_interrupt(const Serial *u)
{
    const SerialState *s = &u->s;

    if ((s->ier & IER_LINE) && s->lsr)
        return IIR_LINE;
    if ((s->ier & IER_RX) && s->rx_count)
        return s->rx_count >= rx_trigger(u) ? IIR_RX : IIR_TIMEOUT;
    if ((s->ier & IER_TX) && s->tx_interrupt)
        return IIR_TX;
    if ((s->ier & IER_MODEM) && (s->msr & MSR_DELTA))
        return IIR_MODEM;
    return IIR_NONE;
}

/* Call after any change. */
static void update_irq(Serial *u)
{
    irq_set(&u->irq, pending_interrupt(u) != IIR_NONE);
}

/* ---- receiving ------------------------------------------------------------- */

static unsigned rx_room(const Serial *u)
{
    unsigned size = u->s.fcr & FCR_ENABLE ? FIFO_SIZE : 1;

    return u->s.rx_count < size ? size - u->s.rx_count : 0;
}

/* An error shows in LSR when its byte gets to the head of the FIFO. */
static void reveal_break(Serial *u)
{
    if (u->s.rx_break & 1)
        u->s.lsr |= LSR_BI;
}

static void rx_push(Serial *u, uint8_t byte, bool is_break)
{
    SerialState *s = &u->s;

    if (!rx_room(u)) {
        s->lsr |= LSR_OE;
        return;
    }
    s->rx_break |= is_break << s->rx_count;
    s->rx[s->rx_count++] = byte;
    if (s->rx_count == 1)
        reveal_break(u);
}

/* More input is asked for when the FIFO is empty, so that it comes in whole FIFOs. */
static void rx_empty(Serial *u)
{
    if (u->chardev && !(u->s.mcr & MCR_LOOP))
        chardev_accept_input(u->chardev);
}

static uint8_t rx_pop(Serial *u)
{
    SerialState *s = &u->s;
    uint8_t byte = s->rx[0];

    if (!s->rx_count)
        return 0;
    memmove(s->rx, s->rx + 1, --s->rx_count);
    s->rx_break >>= 1;
    reveal_break(u);
    if (!s->rx_count)
        rx_empty(u);
    return byte;
}

/* ---- sending --------------------------------------------------------------- */

/* Hands on what the chardev takes.  The interrupt says that THR *became* empty. */
static void tx_flush(Serial *u)
{
    SerialState *s = &u->s;
    size_t n;

    if (!s->tx_count)
        return;
    n = u->chardev ? chardev_write(u->chardev, s->tx, s->tx_count) : s->tx_count;
    s->tx_count -= n;
    memmove(s->tx, s->tx + n, s->tx_count);
    if (!s->tx_count)
        s->tx_interrupt = true;
}

static void tx_push(Serial *u, uint8_t byte)
{
    SerialState *s = &u->s;
    unsigned size = s->fcr & FCR_ENABLE ? FIFO_SIZE : 1;

    s->tx_interrupt = false;
    if (s->mcr & MCR_LOOP) {
        rx_push(u, byte, false);
        s->tx_interrupt = true;
        return;
    }
    if (s->tx_count >= size)
        return; /* the driver wrote without THRE: lost, as on the chip */
    s->tx[s->tx_count++] = byte;
    if ((s->ier & IER_TX) && !s->user_output && u->events) {
        s->user_output = true;
        u->events->user_output(u->events->opaque);
    }
    tx_flush(u);
}

/* ---- registers ------------------------------------------------------------- */

/* Modem inputs: a cable to a peer that is always there, or in loopback our own outputs
 * (data sheet, 8.6.7).  A change sets its delta bit; RI only when it falls. */
static void update_modem(Serial *u)
{
    SerialState *s = &u->s;
    uint8_t was = s->msr & ~MSR_DELTA, now = 0, delta;

    if (s->mcr & MCR_LOOP)
        now = (s->mcr & MCR_RTS ? MSR_CTS : 0) | (s->mcr & MCR_DTR ? MSR_DSR : 0) |
              (s->mcr & MCR_OUT1 ? MSR_RI : 0) | (s->mcr & MCR_OUT2 ? MSR_DCD : 0);
    else if (u->chardev)
        now = MSR_CTS | MSR_DSR | MSR_DCD;
    delta = (was ^ now) >> 4;
    if (now & MSR_RI)
        delta &= ~MSR_TERI;
    s->msr = now | (s->msr & MSR_DELTA) | delta;
}

static uint8_t read_iir(Serial *u)
{
    uint8_t pending = pending_interrupt(u);

    if (pending == IIR_TX)
        u->s.tx_interrupt = false;
    return pending | (u->s.fcr & FCR_ENABLE ? IIR_FIFOS : 0);
}

static uint8_t read_lsr(Serial *u)
{
    SerialState *s = &u->s;
    uint8_t value = s->lsr;

    if (s->rx_count)
        value |= LSR_DR;
    if (!s->tx_count)
        value |= LSR_THRE | LSR_TEMT;
    if ((s->fcr & FCR_ENABLE) && s->rx_break)
        value |= LSR_FIFO_ERROR;
    s->lsr = 0;
    s->rx_break &= ~1;
    return value;
}

static uint8_t read_msr(Serial *u)
{
    uint8_t value = u->s.msr;

    u->s.msr &= ~MSR_DELTA;
    return value;
}

/* Switching the FIFOs on or off empties them; the other bits count only with bit 0. */
static void write_fcr(Serial *u, uint8_t value)
{
    SerialState *s = &u->s;
    bool toggled = (s->fcr ^ value) & FCR_ENABLE;

    if (toggled || (value & FCR_ENABLE && value & FCR_RESET_RX)) {
        s->rx_count = s->rx_break = 0;
        rx_empty(u);
    }
    /* What waits for the chardev was sent, as far as the guest knows: it is not dropped
     * by a reset of the FIFO, which on the chip would find it empty. */
    s->fcr = value & FCR_ENABLE ? value & (FCR_ENABLE | 3 << FCR_TRIGGER_SHIFT) : 0;
}

static void write_ier(Serial *u, uint8_t value)
{
    uint8_t set = value & ~u->s.ier;

    u->s.ier = value & IER_MASK;
    if ((set & IER_TX) && !u->s.tx_count)
        u->s.tx_interrupt = true;
}

static void write_mcr(Serial *u, uint8_t value)
{
    uint8_t was = u->s.mcr;

    u->s.mcr = value & MCR_MASK;
    update_modem(u);
    if ((was & MCR_LOOP) && rx_room(u))
        rx_empty(u);
}

static uint8_t serial_read8(Device *d, unsigned reg)
{
    Serial *u = (Serial *)d;
    bool dlab = u->s.lcr & LCR_DLAB;
    uint8_t value = 0;

    switch (reg) {
    case RBR_THR:
        value = dlab ? u->s.divisor : rx_pop(u);
        break;
    case IER:
        value = dlab ? u->s.divisor >> 8 : u->s.ier;
        break;
    case IIR_FCR:
        value = read_iir(u);
        break;
    case LCR:
        value = u->s.lcr;
        break;
    case MCR:
        value = u->s.mcr;
        break;
    case LSR:
        value = read_lsr(u);
        break;
    case MSR:
        value = read_msr(u);
        break;
    case SCR:
        value = u->s.scr;
        break;
    }
    update_irq(u);
    return value;
}

static void serial_write8(Device *d, unsigned reg, uint8_t value)
{
    Serial *u = (Serial *)d;
    bool dlab = u->s.lcr & LCR_DLAB;

    switch (reg) {
    case RBR_THR:
        if (dlab)
            u->s.divisor = (u->s.divisor & 0xff00) | value;
        else
            tx_push(u, value);
        break;
    case IER:
        if (dlab)
            u->s.divisor = (u->s.divisor & 0xff) | value << 8;
        else
            write_ier(u, value);
        break;
    case IIR_FCR:
        write_fcr(u, value);
        break;
    case LCR:
        u->s.lcr = value;
        break;
    case MCR:
        write_mcr(u, value);
        break;
    case SCR:
        u->s.scr = value;
        break;
    }
    update_irq(u);
}

static uint64_t serial_read(Device *d, uint64_t offset, unsigned size)
{
    return regs_read(d, offset, size, SERIAL_PORTS, serial_read8);
}

static void serial_write(Device *d, uint64_t offset, unsigned size, uint64_t value)
{
    regs_write(d, offset, size, value, SERIAL_PORTS, serial_write8);
}

static const BusOps serial_bus_ops = {serial_read, serial_write};

/* ---- the chardev's handlers: main thread ----------------------------------- */

static size_t on_room(void *opaque)
{
    Serial *u = opaque;

    LOCK_GUARD(&u->dev.lock);
    return u->s.mcr & MCR_LOOP ? 0 : rx_room(u);
}

static void on_input(void *opaque, const uint8_t *buf, size_t len)
{
    Serial *u = opaque;

    LOCK_GUARD(&u->dev.lock);
    for (size_t i = 0; i < len; i++)
        rx_push(u, buf[i], false);
    update_irq(u);
}

static void on_drained(void *opaque)
{
    Serial *u = opaque;

    LOCK_GUARD(&u->dev.lock);
    tx_flush(u);
    update_irq(u);
}

static void on_event(void *opaque, ChardevEvent event)
{
    Serial *u = opaque;

    if (event != CHARDEV_BREAK)
        return;
    LOCK_GUARD(&u->dev.lock);
    rx_push(u, 0, true);
    update_irq(u);
}

static const ChardevHandlers serial_handlers = {on_room, on_input, on_drained, on_event};

/* ---- life ------------------------------------------------------------------ */

static void serial_reset(Device *d)
{
    Serial *u = (Serial *)d;

    SerialState was;

    LOCK_GUARD(&d->lock);
    was = u->s;
    u->s = (SerialState){.divisor = 12}; /* 9600 baud, as firmware leaves it */
    u->s.tx_count = was.tx_count;        /* still to be sent; see write_fcr() */
    memcpy(u->s.tx, was.tx, sizeof(was.tx));
    update_modem(u);
    u->s.msr &= ~MSR_DELTA;
    update_irq(u);
    rx_empty(u);
}

/* After a load, what waited in the transmit FIFO is to be sent. */
static void serial_resume(Device *d)
{
    Serial *u = (Serial *)d;

    LOCK_GUARD(&d->lock);
    if (u->chardev)
        chardev_restored(u->chardev);
    tx_flush(u);
    update_irq(u);
}

static void serial_save(Device *d, StateWriter *w)
{
    g_autofree char *section = g_strdup_printf("%s/chardev", d->id);
    Serial *u = (Serial *)d;

    LOCK_GUARD(&d->lock);
    state_put(w, d->id, &serial_state_table, &u->s);
    if (u->chardev)
        chardev_save(u->chardev, section, w);
}

static bool serial_load(Device *d, StateReader *r, GError **error)
{
    g_autofree char *section = g_strdup_printf("%s/chardev", d->id);
    Serial *u = (Serial *)d;

    LOCK_GUARD(&d->lock);
    if (!state_get(r, d->id, &serial_state_table, &u->s, error) ||
        !chardev_load(u->chardev, section, r, error))
        return false;
    update_irq(u);
    return true;
}

static void serial_release(Device *d)
{
    Serial *u = (Serial *)d;

    bus_unmap(u->pio, &u->region);
    chardev_close(u->chardev, CLOSE_TIMEOUT_MS);
    irq_set(&u->irq, false);
    device_finish(d);
    g_free(u);
}

static const DeviceOps serial_ops = {
    .name = "serial",
    .reset = serial_reset,
    .resume = serial_resume,
    .release = serial_release,
    .save = serial_save,
    .load = serial_load,
};

Device *serial_new(const char *id, Bus *pio, uint16_t base, IrqController *ic,
                   unsigned gsi, Chardev *chardev, IoLoop *main,
                   const PlatformEvents *events)
{
    Serial *u = g_new0(Serial, 1);

    device_init(&u->dev, &serial_ops, id);
    irq_connect(&u->irq, ic, gsi);
    u->pio = pio;
    u->chardev = chardev;
    u->events = events;
    u->region = (BusRegion){.dev = &u->dev, .ops = &serial_bus_ops, .size = SERIAL_PORTS};
    if (chardev)
        chardev_set_handlers(chardev, &serial_handlers, u);
    serial_reset(&u->dev);
    bus_map(pio, &u->region, base);
    return &u->dev;
}
