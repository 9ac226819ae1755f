/* Saving a VM that runs into a folder (docs/snapshots.md): rounds of copying guest RAM
 * while the guest goes on, one short pause for the rest of it and the devices, and then
 * what is slow, hashes and the disk, while the guest goes on again.
 *
 * The folder is complete or absent, whenever and however the process ends; a failure at
 * any stage leaves the VM running as before, and nothing on the disk. */
#pragma once

#include "machine/machine.h"

typedef struct SnapshotOptions {
    const char *folder;     /* to be made: an absolute path that ends in ".snap" */
    const char *name;       /* the VM's name now; NULL: it has none */
    const char *run_folder; /* its run folder; NULL: it has none */
    bool diff;              /* only what changed since the VM's last snapshot */
    bool no_disks;          /* leave the disks alone: only the memory's instant is kept */
    bool stop;   /* the guest does not go on, and the VM ends when all is written */
    bool zstd;   /* compress memory */
    bool frozen; /* somebody froze the guest's file systems */

    /* Runs fn on the main thread and returns when it is done; false: the VM has ended,
     * and it has not run. */
    bool (*on_main)(void *opaque, void (*fn)(void *arg), void *arg, GError **error);
    /* The caller's thread, and may wait for main: another stage has begun.  May be NULL.
     */
    void (*changed)(void *opaque);
    const bool *ending; /* atomic: the VM has ended; may be NULL */
    void *opaque;
} SnapshotOptions;

typedef enum {
    SNAPSHOT_NONE,   /* none was made yet */
    SNAPSHOT_COPY,   /* rounds, beside the guest */
    SNAPSHOT_PAUSE,  /* the guest stands still */
    SNAPSHOT_FINISH, /* hashes and the disk */
    SNAPSHOT_DONE,
    SNAPSHOT_FAILED,
} SnapshotStage;
extern const char *const snapshot_stage_names[];

/* Of the snapshot that is being made, or was made last. */
typedef struct SnapshotFigures {
    int stage;             /* SnapshotStage */
    uint64_t pages;        /* copied until now, some of them several times */
    uint64_t total;        /* pages to copy, as far as is known; later rounds add to it */
    unsigned rounds;       /* that the guest ran beside */
    uint64_t pause_ns;     /* how long it stood still */
    uint64_t paused_pages; /* copied meanwhile */
    uint64_t kept;         /* pages that the folder has */
    uint64_t total_ns;
} SnapshotFigures;

/* A thread that may sleep, and not the main thread.  VM_ERROR_BUSY: one is being made
 * already.  `ret` may be NULL. */
bool snapshot_create(Machine *m, const SnapshotOptions *options, SnapshotFigures *ret,
                     GError **error);

/* Main thread.  How far it is. */
void snapshot_figures(Machine *m, SnapshotFigures *ret);
