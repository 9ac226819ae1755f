/* What place.c and place_look.c share. */
#pragma once

#include "control/place.h"

#define PLACE_LOCK "lock"

char *place_folder(const char *name, GError **error); /* a new string */

/* The number in a lock file; 0: none yet. */
pid_t place_read_pid(int lock_fd);
