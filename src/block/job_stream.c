/* Stream: what shows from the layers below is copied into the top one, until those are
 * not needed any more.  Each step is an allocation like the guest's own, so that a crash
 * leaves a chain as valid as before, with less to do. */
#include <errno.h>

#include "job_private.h"

static bool prepare(BlockJob *job, GError **error)
{
    BlockImage *top = job->dev->top;

    job->top = top;
    if (!top->backing)
        return fail(error, VM_ERROR_INVALID, "'%s' has no backing image to stream from",
                    top->path);
    if (job->dev->readonly)
        return fail(error, VM_ERROR_INVALID,
                    "'%s' is read-only: nothing is copied into it", top->path);
    if (!job->options.base)
        return true;
    job->base = block_job_find(top->backing, job->options.base, error);
    return job->base != NULL;
}

static bool copies(const Extent *e, unsigned depth, unsigned base_depth, bool has_base)
{
    if (depth == 0 || depth >= base_depth)
        return false;
    /* Below it there is nothing, and nothing reads as zeroes; but not with a base. */
    return e->kind != EXTENT_ZERO || has_base;
}

/* The layers between go, once nobody reads them. */
static bool drop_layers(BlockJob *job, GError **error)
{
    BlockImage *top = job->top, *between = top->backing, *last = between;
    g_autofree char *below = job->base ? block_absolute_path(job->base->path) : NULL;
    bool ok;

    if (between == job->base)
        return true;
    while (last->backing != job->base)
        last = last->backing;
    block_gate_close(job->dev);
    errno = image_flush(top);
    ok = !errno || fail_errno(error, "'%s': write it back", top->path);
    lock_acquire(&job->dev->chain_lock);
    ok = ok &&
         image_set_backing(top, below, job->base ? job->base->format->name : NULL, error);
    if (ok) {
        top->backing = job->base;
        last->backing = NULL;
    }
    lock_release(&job->dev->chain_lock);
    block_gate_open(job->dev);
    if (ok)
        image_free(between);
    return ok;
}

static bool run(BlockJob *job, GError **error)
{
    uint64_t size = image_size_now(job->top);
    unsigned base_depth = 0;

    for (BlockImage *img = job->top; img != job->base; img = img->backing)
        base_depth++;
    for (uint64_t at = 0; at < size;) {
        uint64_t moved = 0;
        unsigned depth;
        Extent e;
        int err = image_chain_extent(job->top, at, MIN(size - at, JOB_CHUNK), &e, &depth);

        if (!err && copies(&e, depth, base_depth, job->base != NULL)) {
            moved = e.len;
            err = image_copy_up(job->top, at, e.len);
        }
        errno = err;
        if (err)
            return fail_errno(error, "copy into '%s' at byte %" G_GUINT64_FORMAT,
                              job->top->path, at);
        at += e.len;
        if (!block_job_go_on(job, at, size, moved))
            return false;
    }
    return drop_layers(job, error);
}

static void release(BlockJob *job)
{
}

const BlockJobKind block_job_stream = {
    .prepare = prepare, .run = run, .release = release};
