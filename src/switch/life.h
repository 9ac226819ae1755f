/* How long a switch lives: it is started by its first user and ends LINGER_NS after the
 * last one, a port or a client, has left. */
#pragma once

#include "src/switch/switch.h"

typedef struct Life {
    Switch *sw;
    IoTimer timer;
    IoWatch signals;
    int lock_fd, signal_fd, start_fd; /* -1: none */
} Life;

/* Takes `lock` of the run folder, which it makes, and writes our process id there;
 * VM_ERROR_BUSY if the network has a switch.  To be called first. */
bool life_begin(Life *life, const char *name, GError **error);

/* From here on it ends by itself, and by SIGTERM, SIGINT and SIGHUP. */
bool life_watch(Life *life, Switch *sw, GError **error);

/* Lets go of all that it holds, at the very end: after the sockets are gone. */
void life_end(Life *life);
