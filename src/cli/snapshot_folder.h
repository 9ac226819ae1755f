/* What merge, export and import share: folders being made from others.  Main thread. */
#pragma once

#include "src/cli/snapshot.h"

/* Fills an empty folder with a full snapshot that is what `folder` and its parents are
 * together, but not yet on the disk (store_commit() puts it there).  `id`: what it will
 * be known by; NULL: as `folder` is. */
bool snapshot_merge_into(const char *folder, const char *partial, const char *id,
                         const ImageArgs *args, GError **error);
