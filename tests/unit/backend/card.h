/* A network card's side of a backend, and the loop that it runs on.  It is the first
 * member of a test's scene, so that `opaque` is either. */
#pragma once

#include <glib.h>

#include "backend/netdev.h"

enum { CARD_WAIT_MS = 20000 };

typedef struct Card {
    IoLoop *loop;
    NetDev *nd;
    unsigned n_received, n_writable;
    int link; /* as told last; -1: never */
    IoTimer timer;
} Card;

static inline void card_on_writable(void *opaque)
{
    ((Card *)opaque)->n_writable++;
}

static inline void card_on_link(void *opaque, bool up)
{
    ((Card *)opaque)->link = up;
}

static inline void card_on_late(void *opaque)
{
    ioloop_quit(((Card *)opaque)->loop);
}

/* Runs the loop for so long. */
static inline void card_run(Card *c, int64_t ns)
{
    ioloop_timer(c->loop, &c->timer, clock_ns() + ns, card_on_late, c);
    ioloop_run(c->loop);
}

/* Runs it until `met` is, looking every millisecond; false: in vain. */
static inline bool card_until(Card *c, bool (*met)(Card *c))
{
    for (unsigned i = 0; i < CARD_WAIT_MS; i++) {
        if (met(c))
            return true;
        card_run(c, 1000000);
    }
    return false;
}

static inline bool card_link_is_down(Card *c)
{
    return c->link == 0;
}
