/* hutch run --restore: a Config from a snapshot, and what may be said on top of it. */
#pragma once

#include "snapshot/restore.h"
#include "src/cli/cli.h"

/* Opens the snapshot that the options name and makes the Config from it; NULL with a
 * sentence.  An option that would make it another machine is refused by name. */
SnapshotRestore *restore_open(const RunOptions *options, const Arguments *a, Config *cfg,
                              GError **error);

/* Replaces the options of one of its devices; `value` is "ID=VALUE". */
bool restore_replace_device(Config *cfg, const ConfigOption *o, const char *value,
                            GError **error);

/* Sleeps.  Its disks, when the Config has its name and run folder (NULL: none). */
bool restore_disks(SnapshotRestore *r, const Arguments *a, Config *cfg,
                   const char *run_folder, GError **error);
