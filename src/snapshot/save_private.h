/* A snapshot in the making, as its files share it: save.c (from its claim to its folder),
 * save_rounds.c (pages of guest RAM, copied) and save_steps.c (what the main thread does
 * for it).  The control thread's, which waits while the main thread has it. */
#pragma once

#include "snapshot/disks.h"
#include "snapshot/manifest.h"
#include "snapshot/memory.h"
#include "snapshot/save.h"
#include "src/snapshot/keeper.h"

typedef struct Save {
    Machine *m;
    const SnapshotOptions *o;
    SnapshotKeeper *keeper;
    char *partial;  /* the folder while it is not complete; NULL: not made */
    int partial_fd; /* locked, so that nobody takes it for what a dead monitor left */
    Manifest *manifest;
    SnapMemoryWriter *memory;
    SnapshotDisks *disks;
    PageSet todo; /* to be copied; what is in it differs from the file */
    bool was_logging;

    /* Of a restored VM, as the main thread saw it in the beginning: a reset since then is
     * in the logs as a write to all of RAM. */
    char *from;    /* the snapshot's folder; NULL: it does without */
    bool arriving; /* its memory is still coming */

    /* Filled in by the pause. */
    GBytes *state;
    json_t *config;
    bool paused; /* held since then: o->stop */

    SnapshotFigures f;
    int64_t began_ns;
    double ns_per_page; /* of the last round */
    GError **error;     /* of a step on the main thread */
    bool ok;            /* it went well */
} Save;

void save_publish(Save *s); /* its figures, for who asks */

/* ---- save_rounds.c ------------------------------------------------------------- */

/* What the logs of writes have goes to `todo`, and to what the next diff has. */
bool save_fetch(Save *s, GError **error);
bool save_copy_pages(Save *s, GError **error); /* all of `todo`, which is empty then */
bool save_copy_rounds(Save *s,
                      GError **error); /* beside the guest, until little is left */

/* ---- save_steps.c -------------------------------------------------------------- */

/* Everything that can be refused is refused here, with nothing paused or written. */
void save_begin(void *save);
void save_pause(void *save);       /* the last pages, the state, the disks switched */
void save_go_on(void *save);       /* after a pause that is held */
void save_end_vm(void *save);      /* likewise */
void save_forget_logs(void *save); /* nothing will need them */
