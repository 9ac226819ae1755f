/* The pages that a guest touched in the first seconds after it was restored: recorded by
 * the first restore, in the file working-set beside the snapshot, and read ahead by those
 * after it, on a thread of its own while the guest begins.
 *
 * For RAM that is mapped from files.  The file is advice: it holds page numbers alone, as
 * memory.map does (docs/snapshot-format.md), is checked as that is, and whatever it says,
 * what the guest reads is the snapshot's. */
#pragma once

#include "core/guestmem.h"

typedef struct WorkingSet WorkingSet;

/* Main thread, RAM mapped and guarded (gm_guard), nothing runs.  Begins to read ahead, or
 * to record.  NULL if there is nothing to do; what fails later is not told, as nothing
 * depends on it. */
WorkingSet *working_set_start(const char *folder, GuestMem *gm);
void working_set_close(WorkingSet *w); /* NULL is fine; RAM may be gone already */
