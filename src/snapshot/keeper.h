/* What a VM remembers from one snapshot to the next; the machine has it. */
#pragma once

#include "machine/machine.h"
#include "snapshot/save.h"
#include "src/snapshot/pages.h"
#include "util/lock.h"

/* The thread that makes a snapshot owns it all while `busy`, and nobody otherwise. */
typedef struct SnapshotKeeper {
    Lock lock; /* guards the next two */
    bool busy;
    SnapshotFigures figures; /* of the one being made, or the last */

    bool logging;                /* the dirty logs are on, since the last snapshot */
    PageSet changed;             /* written since then, and no longer in the logs */
    char *last_folder, *last_id; /* the last snapshot; NULL: none that a diff can be to */
} SnapshotKeeper;

/* Main thread: makes it if need be.  It stays as long as the machine. */
SnapshotKeeper *keeper_of(Machine *m);
