/* Jobs: a thread that changes a disk's images while the guest goes on; what all kinds
 * share. */
#include "job_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/log.h"

const char *const block_job_type_names[] = {"stream", "commit", "mirror", NULL};

static const BlockJobKind *const kinds[] = {
    [BLOCK_JOB_STREAM] = &block_job_stream,
    [BLOCK_JOB_COMMIT] = &block_job_copy,
    [BLOCK_JOB_MIRROR] = &block_job_copy,
};

static void describe(BlockJob *job, BlockJobInfo *ret)
{
    LOCK_GUARD(&job->lock);
    *ret = (BlockJobInfo){
        .type = job->type,
        .status = job->status,
        .cancelled = job->cancel,
        .paused = job->paused,
        .done = job->done,
        .total = job->total,
        .speed = job->speed,
        .error = job->error ? g_strdup(job->error->message) : NULL,
    };
    g_strlcpy(ret->id, job->id ? job->id : "job", sizeof(ret->id));
}

static void tell(BlockJob *job)
{
    BlockJobInfo info;

    if (!job->options.changed)
        return;
    describe(job, &info);
    job->options.changed(job->options.opaque, &info);
    block_job_info_clear(&info);
}

static void set_status(BlockJob *job, BlockJobStatus status)
{
    bool changed;

    lock_acquire(&job->lock);
    changed = job->status != status;
    job->status = status;
    pthread_cond_broadcast(&job->asked);
    lock_release(&job->lock);
    if (changed)
        tell(job);
}

/* ---- the job's thread ----------------------------------------------------------------
 */

static void wait_until(BlockJob *job, int64_t ns)
{
    struct timespec t = {ns / 1000000000, ns % 1000000000};

    pthread_cond_timedwait(&job->asked, &job->lock.mutex, &t);
}

bool block_job_go_on(BlockJob *job, uint64_t done, uint64_t total, uint64_t moved)
{
    bool cancelled;

    lock_acquire(&job->lock);
    job->done = done;
    job->total = total;
    if (job->speed && moved)
        job->paid_until_ns = MAX(job->paid_until_ns, clock_ns()) +
                             (int64_t)((double)moved * 1e9 / (double)job->speed);
    while (!job->cancel &&
           (job->paused || (job->speed && job->paid_until_ns > clock_ns())))
        if (job->paused)
            pthread_cond_wait(&job->asked, &job->lock.mutex);
        else
            wait_until(job, job->paid_until_ns);
    cancelled = job->cancel;
    lock_release(&job->lock);
    return !cancelled;
}

bool block_job_ready(BlockJob *job, int64_t ns)
{
    int64_t end = clock_ns() + ns;
    bool complete;

    if (!job->options.wait_ready)
        return true;
    set_status(job, BLOCK_JOB_READY);
    lock_acquire(&job->lock);
    while (!job->complete && !job->cancel && clock_ns() < end)
        wait_until(job, end);
    complete = job->complete;
    lock_release(&job->lock);
    return complete;
}

bool block_job_is_cancelled(BlockJob *job)
{
    LOCK_GUARD(&job->lock);
    return job->cancel;
}

static void *job_thread(void *opaque)
{
    BlockJob *job = opaque;
    GError *error = NULL;
    bool ok;

    thread_set_name("disk-job");
    tell(job);
    ok = kinds[job->type]->run(job, &error);
    if (error)
        log_warn("job '%s' on '%s': %s", job->id, job->dev->path, error->message);
    kinds[job->type]->release(job);
    lock_acquire(&job->lock);
    job->error = error;
    if (ok)
        job->cancel = false; /* it came too late */
    lock_release(&job->lock);
    set_status(job, BLOCK_JOB_FINISHED);
    return NULL;
}

/* ---- starting and ending -------------------------------------------------------------
 */

static void destroy(BlockJob *job)
{
    free(job->buffer);
    g_free(job->id);
    g_free(job->base_path);
    g_free(job->top_path);
    g_free(job->target_path);
    g_clear_error(&job->error);
    pthread_cond_destroy(&job->asked);
    lock_finish(&job->lock);
    g_free(job);
}

void block_job_free(BlockJob *job)
{
    if (!job)
        return;
    lock_acquire(&job->lock);
    job->cancel = true;
    pthread_cond_broadcast(&job->asked);
    lock_release(&job->lock);
    pthread_join(job->thread, NULL);
    destroy(job);
}

static BlockJob *new_job(BlockDev *dev, const BlockJobOptions *o)
{
    BlockJob *job = g_new0(BlockJob, 1);
    pthread_condattr_t attr;

    job->dev = dev;
    job->type = o->type;
    job->options = *o;
    job->id = g_strdup(o->id);
    job->options.base = job->base_path = g_strdup(o->base);
    job->options.top = job->top_path = g_strdup(o->top);
    job->options.target = job->target_path = g_strdup(o->target);
    job->speed = o->speed;
    job->total = block_size(dev);
    lock_init(&job->lock);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&job->asked, &attr);
    pthread_condattr_destroy(&attr);
    job->buffer = aligned_alloc(4096, JOB_CHUNK);
    return job;
}

static bool start(BlockJob *job, GError **error)
{
    if (!job->buffer)
        return fail(error, VM_ERROR_IO, "no memory for a job");
    if (!kinds[job->type]->prepare(job, error)) {
        kinds[job->type]->release(job);
        return false;
    }
    errno = pthread_create(&job->thread, NULL, job_thread, job);
    if (errno) {
        fail_errno(error, "start a thread for a job");
        kinds[job->type]->release(job);
        return false;
    }
    return true;
}

/* The last job, which has ended; who changes the disk may take it. */
static BlockJob *take_old(BlockDev *dev)
{
    BlockJob *old;

    LOCK_GUARD(&dev->lock);
    old = dev->job;
    dev->job = NULL;
    return old;
}

bool block_job_start(BlockDev *dev, const BlockJobOptions *options, GError **error)
{
    BlockJob *job;

    if (!block_change_begin(dev, error))
        return false;
    block_job_free(take_old(dev));
    job = new_job(dev, options);
    if (!start(job, error)) {
        destroy(job);
        job = NULL;
    }
    lock_acquire(&dev->lock);
    dev->job = job;
    dev->changing = false;
    lock_release(&dev->lock);
    return job != NULL;
}

/* ---- asking ---------------------------------------------------------------------------
 */

bool block_job_info(BlockDev *dev, BlockJobInfo *ret)
{
    *ret = (BlockJobInfo){0};
    LOCK_GUARD(&dev->lock);
    if (!dev->job)
        return false;
    describe(dev->job, ret);
    return true;
}

void block_job_info_clear(BlockJobInfo *info)
{
    g_free(info->error);
    info->error = NULL;
}

/* With dev->lock and job->lock held: the job that runs, or NULL with a sentence. */
static BlockJob *enter(BlockDev *dev, GError **error)
{
    lock_acquire(&dev->lock);
    if (dev->job) {
        lock_acquire(&dev->job->lock);
        if (dev->job->status != BLOCK_JOB_FINISHED)
            return dev->job;
        lock_release(&dev->job->lock);
    }
    lock_release(&dev->lock);
    fail(error, VM_ERROR_INVALID, "'%s' has no job at work", dev->path);
    return NULL;
}

static bool leave(BlockDev *dev, BlockJob *job, bool ok)
{
    pthread_cond_broadcast(&job->asked);
    lock_release(&job->lock);
    lock_release(&dev->lock);
    return ok;
}

bool block_job_cancel(BlockDev *dev, GError **error)
{
    BlockJob *job = enter(dev, error);

    if (!job)
        return false;
    job->cancel = true;
    return leave(dev, job, true);
}

bool block_job_complete(BlockDev *dev, GError **error)
{
    BlockJob *job = enter(dev, error);

    if (!job)
        return false;
    job->complete = job->status == BLOCK_JOB_READY;
    if (!job->complete)
        fail(error, VM_ERROR_BUSY,
             "the job '%s' is not ready to complete: it still copies", job->id);
    return leave(dev, job, job->complete);
}

bool block_job_set_speed(BlockDev *dev, uint64_t speed, GError **error)
{
    BlockJob *job = enter(dev, error);

    if (!job)
        return false;
    job->speed = speed;
    job->paid_until_ns = 0;
    return leave(dev, job, true);
}

bool block_job_set_paused(BlockDev *dev, bool paused, GError **error)
{
    BlockJob *job = enter(dev, error);

    if (!job)
        return false;
    job->paused = paused;
    return leave(dev, job, true);
}

bool block_job_dismiss(BlockDev *dev, GError **error)
{
    BlockJob *job;

    if (!block_change_begin(dev, error))
        return false;
    job = take_old(dev);
    block_change_end(dev);
    block_job_free(job);
    return job || fail(error, VM_ERROR_INVALID, "'%s' has no job", dev->path);
}

void block_job_wait(BlockDev *dev)
{
    BlockJobInfo info;

    while (block_job_info(dev, &info) && info.status == BLOCK_JOB_RUNNING) {
        block_job_info_clear(&info);
        g_usleep(10000);
    }
    block_job_info_clear(&info);
}

/* ---- for the kinds --------------------------------------------------------------------
 */

BlockImage *block_job_find(BlockImage *chain, const char *path, GError **error)
{
    g_autofree char *wanted = g_canonicalize_filename(path, NULL);

    for (BlockImage *img = chain; img; img = img->backing) {
        g_autofree char *here = g_canonicalize_filename(img->path, NULL);

        if (g_str_equal(path, img->path) || g_str_equal(wanted, here))
            return img;
    }
    fail(error, VM_ERROR_INVALID, "'%s' is not one of the images of '%s'", path,
         chain->path);
    return NULL;
}

static unsigned depth_of(const BlockImage *from, const BlockImage *stop)
{
    unsigned depth = 0;

    for (; from && from != stop; from = from->backing)
        depth++;
    return depth;
}

int block_job_copy_range(BlockJob *job, BlockImage *from, const BlockImage *stop,
                         BlockImage *to, uint64_t offset, uint64_t len)
{
    unsigned stop_depth = depth_of(from, stop);
    int err = 0;

    while (len && !err) {
        unsigned depth;
        Extent e;

        err = image_chain_extent(from, offset, MIN(len, JOB_CHUNK), &e, &depth);
        if (err)
            return err;
        if (depth >= stop_depth) {
            /* what is at `stop` is there already */
        } else if (e.kind == EXTENT_ZERO) {
            err = image_zero(to, offset, e.len, true);
        } else {
            err = image_read(from, offset, job->buffer, e.len);
            if (!err)
                err = image_write(to, offset, job->buffer, e.len);
        }
        offset += e.len;
        len -= e.len;
    }
    return err;
}
