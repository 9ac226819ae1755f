/* Serving a snapshot to those who restore it elsewhere: `hutch snapshot serve`. */
#pragma once

#include "util/error.h"

/* Main thread of a process that does nothing else.  Serves a folder, which it holds, at
 * unix:PATH or tcp:ADDRESS:PORT until SIGINT or SIGTERM.  Read-only; everybody who can
 * connect may read.  `ready` is called with the address when clients may come. */
bool snapshot_serve(const char *folder, const char *address,
                    void (*ready)(void *opaque, const char *address), void *opaque,
                    GError **error);
