/* Where a named VM is found: its run folder, $XDG_RUNTIME_DIR/hutch/NAME, or
 * /run/hutch/NAME for root without XDG_RUNTIME_DIR.  In it are
 *
 *     control.sock   the control socket
 *     lock           the monitor's process id; flock()ed by it while it lives
 *
 * so that a name belongs to one VM at a time, and what a dead monitor has left is known
 * as such.  Both ends of the socket use this: the monitor, and who talks to it. */
#pragma once

#include "util/error.h"

typedef struct Place {
    char *folder; /* NULL: not claimed */
    int folder_fd, lock_fd;
} Place;

/* Any thread.  Claims the folder, making it if need be; removes what a dead monitor left
 * in it.  Fails when a VM of that name runs.  place_release() removes the folder;
 * harmless on one that was not claimed (or zeroed). */
bool place_claim(Place *p, const char *name, GError **error);
void place_release(Place *p);

/* The control socket's path in a claimed folder / that of the VM `name`.  New strings;
 * the second fails on names that cannot be one's. */
char *place_socket(const Place *p);
char *place_find(const char *name, GError **error);

/* The path of some other file in the run folder of the VM `name`, there or not; a new
 * string. */
char *place_file(const char *name, const char *file, GError **error);
