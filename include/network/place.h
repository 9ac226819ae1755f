/* Where a running network is found: the switch's run folder,
 * $XDG_RUNTIME_DIR/hutch-net/NAME
 * (/run/hutch-net/NAME for root without it).  In it are
 *
 *     lock          held by the switch while it lives (its process id is in it)
 *     port.sock     for VMs of hutch: include/network/port.h
 *     stream.sock   for others: frames behind a 4-byte big-endian length, the wire format
 *                   of QEMU's -netdev stream and of passt
 *     route.sock    for switches of other networks that it has routes to
 *     control.sock  JSON, a line a message: {"execute": COMMAND, "arguments": {...}} is
 *                   answered with {"return": ...} or {"error": {"class", "desc"}}
 *     log           what the switch says
 *
 *     start.lock    held (flock) by who joins, shared, and by who starts or ends, alone
 *
 * The first user starts the switch and it ends some time after the last one left: it
 * takes start.lock alone, without waiting, looks whether somebody has connected
 * meanwhile, and if not takes its sockets away and ends.  So nobody joins a switch that
 * is about to go.
 *
 * Starting: `hutch-switch NAME` is run with start.lock held by who starts it (the switch
 * does not take it then).  Its standard output is a pipe, on which it says "ready\n" when
 * its sockets listen, or one line with what is wrong; then it closes it.  Its standard
 * error is `log`.  It is in a session of its own, has no other descriptor, and is
 * nobody's child.
 *
 * Any thread, but it waits: up to NETWORK_START_MS for a switch to begin. */
#pragma once

#include <jansson.h>

#include "util/error.h"

enum { NETWORK_START_MS = 10000 };

#define NETWORK_PORT    "port.sock"
#define NETWORK_STREAM  "stream.sock"
#define NETWORK_CONTROL "control.sock"
#define NETWORK_ROUTE   "route.sock"
#define NETWORK_LOCK    "lock"
#define NETWORK_LOG     "log"

/* A new string; no folder is made. */
char *network_place(const char *name, const char *file, GError **error);

/* Makes the run folder where it is missing, for its owner only; refuses one of others'.
 */
bool network_make_place(const char *name, GError **error);

/* start.lock of a run folder that is there: `how` as for flock(2).  Close it to let go of
 * it.  -1 with VM_ERROR_BUSY if `how` says not to wait and others hold it. */
int network_lock_start(const char *name, int how, GError **error);

/* Whether its switch runs now. */
bool network_is_up(const char *name);

/* The path of the program hutch-switch, a new string: $HUTCH_SWITCH, or beside this one;
 * NULL with an error if it is not there. */
char *network_switch_program(GError **error);

/* A connected stream socket to one of the sockets above, whose switch is started if need
 * be; -1 with VM_ERROR_NOT_FOUND if there is no such network.  The switch is the program
 * hutch-switch beside this one, or $HUTCH_SWITCH. */
int network_join(const char *name, const char *socket, GError **error);

/* One command over control.sock, of a switch that runs (`start`: or is started), and what
 * it returned, a new reference.  Takes `arguments`, which may be NULL.  VM_ERROR_BUSY: it
 * does not run. */
json_t *network_call(const char *name, bool start, const char *command, json_t *arguments,
                     GError **error);

/* The same command, which takes no arguments, to `n` networks at once: what each returned
 * goes to `ret`, which has room for them; NULL: it is not in use, refused, or did not
 * answer within limit_ms, of which one that hangs costs all of them no more. */
void network_ask(char *const *names, unsigned n, const char *command, int limit_ms,
                 json_t **ret);
