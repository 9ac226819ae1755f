/* Reading a snapshot's small files whole. */
#pragma once

#include <stdint.h>

#include "util/error.h"

/* What the regular file `path`, of at most `max` bytes, holds; a zero that is not counted
 * follows it.  No link is followed at its last part, and no pipe waited for.  NULL on
 * failure: VM_ERROR_CORRUPT if it is something else, or larger.  Any thread. */
GBytes *snap_file_read(const char *path, uint64_t max, GError **error);
