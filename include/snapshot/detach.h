/* A VM that was restored has memory of the snapshot's files (MAP_PRIVATE), until it has
 * written to it.  This makes it independent of them. */
#pragma once

#include "machine/machine.h"

/* A thread that may sleep; the guest goes on.  Gives the machine a copy of its own of
 * each page that is a file's, and returns how many bytes it looked at.  *ending (atomic,
 * or NULL) ends it early, with VM_ERROR_BUSY.  Pages that no file has stay as they are:
 * zeroes until they are written to. */
bool snapshot_detach_memory(Machine *m, const bool *ending, uint64_t *ret_bytes,
                            GError **error);
