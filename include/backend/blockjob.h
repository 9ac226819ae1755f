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
