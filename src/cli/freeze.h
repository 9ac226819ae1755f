/* File systems of a guest that stand still for a moment, by its agent. */
#pragma once

#include <signal.h>

#include "agent/agent.h"

typedef struct Freeze {
    const char *vm;
    Agent *agent; /* NULL: it is over */
    bool frozen;
    sigset_t signals; /* that were blocked before */
} Freeze;

/* Freezes them.  Whether it succeeds or not, freeze_end() is due: a guest that did not
 * say that it is frozen may have taken too long to say it.  Until then SIGINT, SIGTERM
 * and SIGHUP wait, because a guest that stays frozen is lost. */
bool freeze_begin(Freeze *f, const char *vm, GError **error);

/* Thaws them, once.  `ok` is how things went since; if they went well and the guest does
 * not thaw, that is the error, which says that `there` ("the overlay") is there. */
bool freeze_end(Freeze *f, bool ok, const char *there, GError **error);
