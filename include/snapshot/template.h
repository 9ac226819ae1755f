/* Templates: snapshots that VMs are cloned from.  A template is a folder as any
 * snapshot's (snapshot/manifest.h), in a store of its own, and is not a diff. */
#pragma once

#include "snapshot/store.h"

/* A thread that may sleep.  Makes the template `folder` of a snapshot.  Files are linked
 * where both are on one file system, so that it costs nothing and stays when the snapshot
 * is removed; else they are copied, holes as holes.  VM_ERROR_INVALID: it is a diff. */
bool template_from_snapshot(const char *snapshot, const char *folder, GError **error);

/* Removes a snapshot's folder that nobody holds, and whose disks nobody has below his
 * own; VM_ERROR_BUSY: somebody does. */
bool snapshot_remove_unused(const char *folder, GError **error);

/* ---- without a name: for the clones of a VM -------------------------------------------
 *
 * Its maker and its users hold it (store_hold); who finds that nobody does removes it. If
 * the VM was a clone itself, the layers of its disks are in there, and it stays as well
 * until that VM ends. */

/* A new string: the path of one that is not there yet. */
char *template_anonymous(void);

bool template_is_anonymous(const char *folder);

/* Removes it if it is one and nobody uses it. */
void template_drop(const char *folder);

/* The same for all that were left, by processes that were killed. */
void template_sweep(void);
