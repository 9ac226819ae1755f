/* Private to the job files: what a kind of job is, and what it uses. */
#pragma once

#include "block_private.h"

typedef struct BlockJobKind BlockJobKind;

struct BlockJob {
    BlockDev *dev;
    BlockJobType type;
    char *id, *base_path, *top_path, *target_path;
    BlockJobOptions options; /* its strings are the above */
    pthread_t thread;
    void *buffer; /* JOB_CHUNK bytes, aligned */

    /* The kind's own. */
    BlockImage *top, *base, *target;
    bool active; /* COMMIT of the disk's top image */

    Lock lock; /* leaf; guards the rest */
    pthread_cond_t asked;
    BlockJobStatus status;
    bool cancel, complete, paused;
    uint64_t done, total, speed;
    int64_t paid_until_ns;
    GError *error;
};

enum { JOB_CHUNK = 1 << 20 };

/* The first two on the thread that starts the job; run() on the job's; all may sleep.
 * prepare() opens what is needed, release() gives it back, however it ended. */
struct BlockJobKind {
    bool (*prepare)(BlockJob *job, GError **error);
    bool (*run)(BlockJob *job, GError **error);
    void (*release)(BlockJob *job);
};
extern const BlockJobKind block_job_stream, block_job_copy;

/* The job's thread.  False: it was cancelled, which is no error.  Sleeps for the speed
 * limit and while the job is paused. */
bool block_job_go_on(BlockJob *job, uint64_t done, uint64_t total, uint64_t moved);
/* Waits until the job is told to complete, or `ns` are over; true: it is to complete. */
bool block_job_ready(BlockJob *job, int64_t ns);
bool block_job_is_cancelled(BlockJob *job);

/* The layer of the chain that `path` names; NULL: there is none, with a sentence. */
BlockImage *block_job_find(BlockImage *chain, const char *path, GError **error);

/* Copies what `from` shows in [offset, offset + len), in the layers above `stop` only
 * (NULL: all), to the same place in `to`. */
int block_job_copy_range(BlockJob *job, BlockImage *from, const BlockImage *stop,
                         BlockImage *to, uint64_t offset, uint64_t len);

/* ---- live.c -------------------------------------------------------------------------
 */

/* The right to change the disk's images, until block_change_end(); nobody else has it
 * then, and no job is at work. */
bool block_change_begin(BlockDev *dev, GError **error);
void block_change_end(BlockDev *dev);
/* As the disk was opened, but for these. */
BlockOptions block_options_like(const BlockDev *dev, const char *path, int format);
char *block_absolute_path(const char *path);
