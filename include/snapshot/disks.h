/* A snapshot's disks: their images as they were at the pause, which nothing writes to
 * from then on.
 *
 * Taking one.  Before the pause each disk that can be written to gets an overlay, a qcow2
 * image beside its own, STEM.SNAPSHOT.qcow2.  In the pause, the same as the memory's, all
 * disks are switched to them, which waits for no I/O.  What a disk was until then is the
 * snapshot's layer; the VM goes on in the overlay, also when it is started again later.
 * A layer in the VM's run folder, where restored VMs have theirs, is brought into
 * NAME.snap/disks, since that folder goes with the VM.
 *
 * Using one.  Who restores it gets an overlay of its own over each layer.  A layer that
 * has changed since is refused: the guest's memory knows what was on its disks.
 *
 *     snapshot_disks_new       main thread
 *     snapshot_disks_prepare   a thread that may sleep, while the VM runs
 *     snapshot_disks_switch    main thread, in the pause
 *     snapshot_disks_finish    a thread that may sleep, the VM may run
 *     snapshot_disks_done      the same, when the folder has its name
 *  or snapshot_disks_undo      at any point: the disks are what they were before
 */
#pragma once

#include "machine/machine.h"
#include "snapshot/manifest.h"

typedef struct SnapshotDisks SnapshotDisks;

typedef struct SnapshotDisksOptions {
    const char *folder;     /* NAME.snap: the name that it will have; absolute */
    const char *run_folder; /* the VM's; what is in it ends with the VM.  NULL: none */
    const char *overlays;   /* a folder for the overlays; NULL: beside the images */
    bool no_disks;          /* they are left alone: the memory's instant only */
    bool stop;              /* the VM ends after this: it needs no overlays */
} SnapshotDisksOptions;

/* Looks which disks there are.  Cannot fail; the strings are copied. */
SnapshotDisks *snapshot_disks_new(Machine *m, const SnapshotDisksOptions *o);

/* Refused: a disk that a job is working on, one without a place for its overlay. */
bool snapshot_disks_prepare(SnapshotDisks *d, GError **error);

/* All or none.  Refused: a disk has come since snapshot_disks_new(). */
bool snapshot_disks_switch(SnapshotDisks *d, GError **error);

/* Flushes the layers and describes them in the manifest.  `partial` is what the folder is
 * called until it is complete; files in it are taken into the manifest, too. */
bool snapshot_disks_finish(SnapshotDisks *d, const char *partial, Manifest *m,
                           GError **error);

/* Both free d.  Undo: what the guest has written to overlays meanwhile goes back to where
 * it would have gone, and their files are removed; if that cannot be done, the disk goes
 * on in its overlay, and the error says so. */
void snapshot_disks_done(SnapshotDisks *d);
bool snapshot_disks_undo(SnapshotDisks *d, GError **error);

/* ---- restoring ------------------------------------------------------------------------
 */

/* A thread that may sleep, before the machine is made.  Changes a Config's JSON: each
 * disk of the manifest is an overlay, made here, over its layer.  They are made in
 * `folder`, the VM's run folder; or where `paths` says, {"disk0": "/a/file"} (NULL: says
 * nothing): a new file, which outlives the VM, or if there is one, the layer itself in
 * another place.  `made` gets the paths of the new files (char *); on failure they are
 * removed, and `config` is left as it comes. */
bool snapshot_disks_restore(json_t *config, const Manifest *m, const char *snapshot,
                            const char *folder, const json_t *paths, GPtrArray *made,
                            GError **error);

/* Adds what would stop snapshot_disks_restore(), and what the user should know before
 * (both char *: a sentence with its cure). */
void snapshot_disks_check(const Manifest *m, const char *snapshot, GPtrArray *problems,
                          GPtrArray *warnings);

/* ---- removing -------------------------------------------------------------------------
 */

/* Who needs the layers in that snapshot's folder beside itself: other snapshots and
 * templates in the stores and beside it, and VMs that run.  An array of char *, empty if
 * the folder may go; NULL on failure.  Layers outside of a folder are the user's images,
 * and never removed with a snapshot. */
GPtrArray *snapshot_disks_needed(const char *snapshot, GError **error);
