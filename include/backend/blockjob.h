/* Changing what is below a disk while the guest uses it: another image on top, fewer
 * layers, a copy elsewhere.  What takes long is a job: it runs on a thread of its own,
 * can be watched and cancelled, and a crash in its middle loses nothing the guest wrote.
 *
 * A disk has one job at a time.  The functions here that return bool may sleep and are
 * for threads that may: not for a loop's.  block_job_*() that only look or ask are for
 * any thread. */
#pragma once

#include <jansson.h>

#include "backend/block.h"
#include "backend/image.h"

/* At once, under the running guest. */

/* The guest sees the new size by on_resize.  Shrinking is for those who know. */
bool block_resize(BlockDev *dev, uint64_t size, GError **error);

/* New writes go to a new image, `overlay`, whose backing image is what the disk was until
 * now: that stays as it is at this moment.  existing: overlay is there already, and is
 * used as it is. */
bool block_overlay(BlockDev *dev, const char *overlay, int format, bool existing,
                   GError **error);

/* The same in steps, for who needs several disks at one instant.  The layer is what the
 * disk was until the switch.  From prepare to free nobody else changes the disk's images.
 */
typedef struct BlockLayer BlockLayer;
typedef struct BlockLayerOptions {
    const char *path; /* of the overlay; NULL: none, the disk is read-only once it is
                         settled, which is for a VM that stops */
    int format;       /* BlockFormat; AUTO is qcow2 */
    bool existing;    /* the overlay is there already */
    const char *name; /* what the overlay says is below it; NULL: the path of that */
} BlockLayerOptions;

/* Sleeps.  Makes and opens the overlay, and flushes what can be.  Refused: a read-only
 * disk, and one that a job or a command is changing. */
BlockLayer *block_layer_prepare(BlockDev *dev, const BlockLayerOptions *o,
                                GError **error);

/* Waits for what is in flight, and for no I/O of its own: also on the main thread, while
 * the machine is paused. */
void block_layer_switch(BlockLayer *l);

/* Sleeps, the guest may run.  After this the layer is complete on the disk, does not
 * change any more, and is open read-only, with the locks of a reader. */
bool block_layer_settle(BlockLayer *l, GError **error);

/* Sleeps.  After settle: the file of the layer has been copied or linked to `path`, which
 * is used from now on, and will be known as `name`. */
bool block_layer_move(BlockLayer *l, const char *path, const char *name, GError **error);

/* Sleeps, the guest may run, in any state.  The disk is what it was: what the guest wrote
 * to the overlay goes to where it would have gone, and the overlay's file is removed.
 * Frees l.  On failure the disk goes on in the overlay, and nothing is lost. */
bool block_layer_undo(BlockLayer *l, GError **error);

/* Sleeps.  It stays switched; if it was not, the overlay is removed.  NULL is fine. */
void block_layer_free(BlockLayer *l);

/* The disk is another image from now on, of the same writability. */
bool block_change_image(BlockDev *dev, const BlockOptions *options, GError **error);

/* From the top to the bottom: {"filename", "format", ...} each, as query-block's. */
json_t *block_chain_info(BlockDev *dev);

typedef enum {
    BLOCK_JOB_STREAM, /* what shows from below is copied into the top image */
    BLOCK_JOB_COMMIT, /* what is in `top` and between goes into `base` */
    BLOCK_JOB_MIRROR, /* everything goes into another image as well */
} BlockJobType;

typedef enum {
    BLOCK_JOB_RUNNING,
    BLOCK_JOB_READY,    /* all is copied, and kept so, until it is told to complete */
    BLOCK_JOB_FINISHED, /* see error */
} BlockJobStatus;

typedef struct BlockJobInfo {
    char id[64];
    BlockJobType type;
    BlockJobStatus status;
    bool cancelled, paused;
    uint64_t done, total, speed; /* bytes */
    char *error;                 /* owned; NULL: none */
} BlockJobInfo;

typedef struct BlockJobOptions {
    BlockJobType type;
    const char *id;     /* NULL: the disk's */
    const char *base;   /* STREAM: copied from above this one, which stays below; COMMIT:
                           copied   into this one; NULL: all of the chain, the lowest */
    const char *top;    /* COMMIT: the topmost that goes; NULL: the disk's top image */
    const char *target; /* MIRROR: path or URI; made anew unless `existing` */
    int target_format;  /* BlockFormat; AUTO goes by the name */
    bool existing;
    bool only_top;   /* MIRROR: only what the top image has; its backing image is the
                        copy's */
    bool wait_ready; /* do not complete by itself: stay READY until told */
    uint64_t speed;  /* bytes a second; 0: no limit */
    /* Any thread: its status changed. */
    void (*changed)(void *opaque, const BlockJobInfo *info);
    void *opaque;
} BlockJobOptions;

extern const char *const block_job_type_names[]; /* "stream", "commit", "mirror" */

/* Fails if there is a job already, or what is asked makes no sense for the chain. */
bool block_job_start(BlockDev *dev, const BlockJobOptions *options, GError **error);

/* False: the disk has had no job, or it was dismissed. */
bool block_job_info(BlockDev *dev, BlockJobInfo *ret);
void block_job_info_clear(BlockJobInfo *info);

bool block_job_cancel(BlockDev *dev, GError **error);   /* asks */
bool block_job_complete(BlockDev *dev, GError **error); /* asks; it must be READY */
bool block_job_set_speed(BlockDev *dev, uint64_t speed, GError **error);
bool block_job_set_paused(BlockDev *dev, bool paused, GError **error);
/* Forgets one that is FINISHED. */
bool block_job_dismiss(BlockDev *dev, GError **error);
/* Waits until it is FINISHED, or READY if it waits there. */
void block_job_wait(BlockDev *dev);

/* src/block's: cancels, waits, frees. */
void block_job_free(BlockJob *job);
