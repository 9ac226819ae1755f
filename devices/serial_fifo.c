/* The FIFOs of the 16550A, and the interrupt line, which is a function of them and of the
 * registers.  Everything under the device's lock: on vCPU threads when the guest reads
 * and writes, on the main loop when the chardev's handlers are called, which take it. */
#include <string.h>

#include "devices/serial_private.h"

/* ---- the line, a function of the registers ------------------------------------- */

static unsigned rx_trigger(const Serial *u)
{
    static const uint8_t level[4] = {1, 4, 8, 14};

    return u->s.fcr & FCR_ENABLE ? level[u->s.fcr >> FCR_TRIGGER_SHIFT] : 1;
}

uint8_t serial_pending_interrupt(const Serial *u)
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

void serial_update_irq(Serial *u)
{
    irq_set(&u->irq, serial_pending_interrupt(u) != IIR_NONE);
}

/* ---- receiving ----------------------------------------------------------------- */

unsigned serial_rx_room(const Serial *u)
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

    if (!serial_rx_room(u)) {
        s->lsr |= LSR_OE;
        return;
    }
    s->rx_break |= is_break << s->rx_count;
    s->rx[s->rx_count++] = byte;
    if (s->rx_count == 1)
        reveal_break(u);
}

void serial_rx_empty(Serial *u)
{
    if (u->chardev && !(u->s.mcr & MCR_LOOP))
        chardev_accept_input(u->chardev);
}

uint8_t serial_rx_pop(Serial *u)
{
    SerialState *s = &u->s;
    uint8_t byte = s->rx[0];

    if (!s->rx_count)
        return 0;
    memmove(s->rx, s->rx + 1, --s->rx_count);
    s->rx_break >>= 1;
    reveal_break(u);
    if (!s->rx_count)
        serial_rx_empty(u);
    return byte;
}

/* ---- sending ------------------------------------------------------------------- */

void serial_tx_flush(Serial *u)
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

void serial_tx_push(Serial *u, uint8_t byte)
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
    serial_tx_flush(u);
}

/* ---- the chardev's handlers: main thread --------------------------------------- */

static size_t on_room(void *opaque)
{
    Serial *u = opaque;

    LOCK_GUARD(&u->dev.lock);
    return u->s.mcr & MCR_LOOP ? 0 : serial_rx_room(u);
}

static void on_input(void *opaque, const uint8_t *buf, size_t len)
{
    Serial *u = opaque;

    LOCK_GUARD(&u->dev.lock);
    for (size_t i = 0; i < len; i++)
        rx_push(u, buf[i], false);
    serial_update_irq(u);
}

static void on_drained(void *opaque)
{
    Serial *u = opaque;

    LOCK_GUARD(&u->dev.lock);
    serial_tx_flush(u);
    serial_update_irq(u);
}

static void on_event(void *opaque, ChardevEvent event)
{
    Serial *u = opaque;

    if (event != CHARDEV_BREAK)
        return;
    LOCK_GUARD(&u->dev.lock);
    rx_push(u, 0, true);
    serial_update_irq(u);
}

const ChardevHandlers serial_handlers = {on_room, on_input, on_drained, on_event};
