/* hutch disk: the disks of a running VM. */
#pragma once

#include "backend/block.h"
#include "control/client.h"
#include "src/cli/cli.h"

extern const Verb disk_verbs[]; /* ends with a NULL name */

/* What hutch set does as well; `disk` is its id.  The limits are all of them: zero is
 * none. */
bool disk_set_size(ControlClient *c, const char *disk, uint64_t size, GError **error);
/* Copies all that is below a disk's image into it, and waits until that is done. */
bool disk_stream(const char *vm, const char *disk, GError **error);
bool disk_set_limits(ControlClient *c, const char *disk, const BlockLimits *l,
                     GError **error);
