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
 * Registers: vCPU threads, under the device's lock. */
#include "devices/regs.h"
#include "devices/serial_private.h"
#include "devices/state_private.h"

enum { SERIAL_PORTS = 8, CLOSE_TIMEOUT_MS = 1000 };

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

/* ---- registers ----------------------------------------------------------------- */

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
    uint8_t pending = serial_pending_interrupt(u);

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
        serial_rx_empty(u);
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
    if ((was & MCR_LOOP) && serial_rx_room(u))
        serial_rx_empty(u);
}

static uint8_t serial_read8(Device *d, unsigned reg)
{
    Serial *u = (Serial *)d;
    bool dlab = u->s.lcr & LCR_DLAB;
    uint8_t value = 0;

    switch (reg) {
    case RBR_THR:
        value = dlab ? u->s.divisor : serial_rx_pop(u);
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
    serial_update_irq(u);
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
            serial_tx_push(u, value);
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
    serial_update_irq(u);
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

/* ---- life ---------------------------------------------------------------------- */

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
    serial_update_irq(u);
    serial_rx_empty(u);
}

/* After a load, what waited in the transmit FIFO is to be sent. */
static void serial_resume(Device *d)
{
    Serial *u = (Serial *)d;

    LOCK_GUARD(&d->lock);
    if (u->chardev)
        chardev_restored(u->chardev);
    serial_tx_flush(u);
    serial_update_irq(u);
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
    serial_update_irq(u);
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
