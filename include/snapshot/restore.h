/* Making a VM from a snapshot's folder.  Everything is checked before anything is started
 * or changed: whether this host's processor can go on with the guest, the config, the
 * state's framing and sums, and that the memory is there; each section is checked when
 * the device is made that it belongs to, and the guest runs when all were taken. */
#pragma once

#include "machine/machine.h"
#include "snapshot/manifest.h"

/* RESTORE_PRIVATE maps what can be mapped; what cannot (compressed, in huge pages, from a
 * server) comes lazily if this host lets us, else it is copied. */
typedef enum { RESTORE_PRIVATE, RESTORE_COPY, RESTORE_LAZY } RestoreMemory;
extern const char *const restore_memory_names[];
extern const char *const restore_clock_names[]; /* ClockMode's */

typedef struct RestoreOptions {
    int memory;       /* RestoreMemory: how guest RAM comes from the files */
    int clock;        /* ClockMode */
    bool working_set; /* its first pages are recorded, and read ahead from then on */
    bool trust; /* a foreign one's config may reach out of the VM: snapshot/foreign.h */
} RestoreOptions;

typedef struct SnapshotRestore SnapshotRestore;

/* Main thread, as all here.  Opens a snapshot's folder, or what is served at unix:PATH or
 * tcp:ADDRESS:PORT (snapshot/remote.h), holds it (store_hold), checks it,
 * and reads its config on top of `cfg`, which is new.  It must outlive the machine. */
SnapshotRestore *snapshot_restore_open(const char *folder, const RestoreOptions *options,
                                       Config *cfg, GError **error);

/* Sleeps.  Refuses what a foreign snapshot may not reach (snapshot/foreign.h).  Gives
 * `cfg`, which is as it is going to be but for this, the snapshot's disks:
 * overlays over them are made in `run_folder`, or where `paths` says, an object of paths
 * by disks' ids (snapshot/disks.h).  NULL: there is none.  What is made is removed again
 * if no machine comes of it. */
bool snapshot_restore_disks(SnapshotRestore *r, Config *cfg, const char *run_folder,
                            const json_t *paths, GError **error);
/* Only the first: for who has to know before another VM is ended. */
bool snapshot_restore_allowed(const SnapshotRestore *r, const Config *cfg,
                              const json_t *paths, GError **error);
/* Removes those files if no machine has taken them; NULL is fine.  Before the run folder
 * is given back: its name may be another VM's by the next moment. */
void snapshot_restore_undo(SnapshotRestore *r);
void snapshot_restore_free(SnapshotRestore *r); /* NULL is fine; undoes as well */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapshotRestore, snapshot_restore_free)

/* For machine_new(); NULL for NULL. */
const MachineRestore *snapshot_restore_machine(const SnapshotRestore *r);
const Manifest *snapshot_restore_manifest(const SnapshotRestore *r);

/* A new object, for people and programs that look at the VM later: "kind" ("snapshot",
 * "template", "warm start", "VM": what its clones have in common, or "server"), "name",
 * "path" but for servers, and "id". */
json_t *snapshot_restore_origin(const MachineRestore *machine);

/* Of a machine that was made by one; the folder is NULL once it was let go. */
const char *snapshot_restored_folder(const Machine *m); /* NULL: it came from a server */
bool snapshot_restored_arriving(
    const Machine *m); /* parts of its RAM are not there yet */
const Manifest *snapshot_restored_manifest(const Machine *m);

/* Main thread.  Its memory has nothing of the folder any more (snapshot/detach.h), which
 * others may remove from now on.  Harmless on a machine that was powered on. */
void snapshot_restored_let_go(Machine *m);
