/* See hold.h.  Those that wait stand in one list of the switch, in the order in which
 * their time is over, as it is the same for all. */
#include "src/switch/hold.h"

/* Nobody waits for it any more, or for as long as counts. */
static void note_wait(Port *to, int64_t now_ns)
{
    if (to->hold_since_ns)
        to->held_ns += MIN(now_ns - to->hold_since_ns, HOLD_NS);
    to->hold_since_ns = 0;
}

/* Whether it is worth waiting for: by what it took. */
static bool may_hold(Port *to)
{
    const uint64_t bytes = to->count[TO_VM].bytes;

    if (to->held_ns < HOLD_NS)
        return true;
    if (bytes - to->held_from < HOLD_BYTES)
        return false;
    to->held_ns = 0;
    to->held_from = bytes;
    return true;
}

/* Those for whom it holds are taken off the list and read on. */
static void release(Switch *sw, const Port *to, int64_t until_ns)
{
    Port **at = &sw->waiting, *released = NULL;

    while (*at) {
        Port *port = *at;

        if (port->waits_for != to && port->wait_end_ns > until_ns) {
            at = &port->next_waiting;
            continue;
        }
        *at = port->next_waiting;
        port->next_waiting = released;
        released = port;
        if (port->waits_for != to) {
            port->waits_for->stalled = true;
            note_wait(port->waits_for, sw->now_ns);
        }
        port->waits_for = NULL;
    }
    while (released) {
        Port *port = released;

        released = port->next_waiting;
        port->next_waiting = NULL;
        if (port->ops->resume && !port->gone)
            port->ops->resume(port);
    }
}

static void arm_timer(Switch *sw);

static void on_timer(void *opaque)
{
    Switch *sw = opaque;

    switch_turn(sw);
    release(sw, NULL, sw->now_ns);
    arm_timer(sw);
    switch_flush(sw);
}

static void arm_timer(Switch *sw)
{
    if (sw->waiting && !sw->hold_timer.loop)
        ioloop_timer(sw->loop, &sw->hold_timer, sw->waiting->wait_end_ns, on_timer, sw);
}

void hold_full(Port *to)
{
    to->full = true;
}

void hold_room(Port *to)
{
    if (!to->full)
        return;
    to->full = false;
    to->stalled = false;
    note_wait(to, to->sw->now_ns);
    release(to->sw, to, INT64_MIN);
}

void hold_source(Port *from, Port *to)
{
    Port **at = &from->sw->waiting;

    if (!to->full || to->stalled || from == to || from->waits_for || !may_hold(to))
        return;
    if (!to->hold_since_ns)
        to->hold_since_ns = from->sw->now_ns;
    from->waits_for = to;
    from->wait_end_ns = from->sw->now_ns + HOLD_NS;
    while (*at)
        at = &(*at)->next_waiting;
    *at = from;
    arm_timer(from->sw);
}

void hold_forget(Port *port)
{
    Port **at = &port->sw->waiting;

    while (*at && *at != port)
        at = &(*at)->next_waiting;
    if (*at)
        *at = port->next_waiting;
    port->waits_for = NULL;
    release(port->sw, port, INT64_MIN);
}
