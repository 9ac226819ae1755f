/* Folders of snapshots that are being made, and what is left of them when the monitor
 * that made one was killed. */
#pragma once

#include "util/error.h"

/* Any thread; may sleep.  As store_begin() (`replaces`: as store_begin_beside()), after
 * removing what others that were to become the same folder have left over.  *ret_lock_fd
 * is to be closed when the folder has its name, or is gone. */
char *partial_begin(const char *folder, bool replaces, int *ret_lock_fd, GError **error);
