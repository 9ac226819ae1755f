/* File systems of a guest that stand still for a moment, by its agent; and of one that is
 * restored from such a moment. */
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

/* A VM that begins to run, restored from a snapshot that was made with --freeze, and has
 * a port for an agent: thaws it; the error says that it runs all the same. */
bool freeze_thaw_restored(const char *vm, GError **error);
/* The same by another process, for a monitor to be, which has no threads yet.  It waits
 * for the VM, and says itself what goes wrong. */
void freeze_thaw_beside(const char *vm);
/* Of a VM that waits to be continued: says what is to be done then. */
void freeze_say_paused(const char *vm);
