/* What changes at once below a disk in use: its size, another image. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "job_private.h"

static bool job_is_at_work(const BlockDev *dev)
{
    BlockJobStatus status;

    if (!dev->job)
        return false;
    lock_acquire(&dev->job->lock);
    status = dev->job->status;
    lock_release(&dev->job->lock);
    return status != BLOCK_JOB_FINISHED;
}

bool block_change_begin(BlockDev *dev, GError **error)
{
    LOCK_GUARD(&dev->lock);
    if (dev->changing)
        return fail(error, VM_ERROR_BUSY,
                    "'%s' is being changed by another command: wait for that", dev->path);
    if (job_is_at_work(dev))
        return fail(error, VM_ERROR_BUSY,
                    "'%s' is being worked on by the job '%s': wait for it, or cancel it",
                    dev->path, dev->job->id);
    dev->changing = true;
    return true;
}

void block_change_end(BlockDev *dev)
{
    LOCK_GUARD(&dev->lock);
    dev->changing = false;
}

static void tell_size(BlockDev *dev)
{
    void (*fn)(void *opaque);

    lock_acquire(&dev->lock);
    fn = dev->on_resize;
    dev->telling = fn != NULL; /* one at a time: who changes the size has the right to */
    lock_release(&dev->lock);
    if (!fn)
        return;
    fn(dev->resize_opaque);
    lock_acquire(&dev->lock);
    dev->telling = false;
    pthread_cond_broadcast(&dev->changed);
    lock_release(&dev->lock);
}

bool block_resize(BlockDev *dev, uint64_t size, GError **error)
{
    uint64_t was = block_size(dev);
    bool ok;

    if (size < BLOCK_SECTOR || size % BLOCK_SECTOR)
        return fail(error, VM_ERROR_INVALID,
                    "'%s' cannot be of %" G_GUINT64_FORMAT
                    " bytes: a disk is of whole sectors of %d bytes",
                    dev->path, size, BLOCK_SECTOR);
    if (!block_change_begin(dev, error))
        return false;
    block_gate_close(dev);
    ok = image_resize(dev->top, size, error);
    block_gate_open(dev);
    if (block_size(dev) != was)
        tell_size(dev);
    block_change_end(dev);
    return ok;
}

/* ---- another image -------------------------------------------------------------------
 */

BlockOptions block_options_like(const BlockDev *dev, const char *path, int format)
{
    BlockOptions o = dev->options;

    o.path = (char *)path;
    o.format = format;
    o.throttle_group = NULL;
    return o;
}

char *block_absolute_path(const char *path)
{
    g_autofree char *here = NULL;

    if (block_path_is_nbd(path) || g_path_is_absolute(path))
        return g_strdup(path);
    here = g_get_current_dir();
    return g_build_filename(here, path, NULL);
}

static bool exchange(BlockDev *dev, BlockImage *image, GError **error)
{
    BlockImage *old = dev->top;
    bool ok;

    block_gate_close(dev);
    errno = image_flush(old);
    ok = !errno || fail_errno(error, "'%s': write back what the guest wrote", old->path);
    if (ok) {
        lock_acquire(&dev->chain_lock);
        dev->top = image;
        lock_release(&dev->chain_lock);
    }
    block_gate_open(dev);
    image_free(ok ? old : image);
    return ok;
}

bool block_change_image(BlockDev *dev, const BlockOptions *options, GError **error)
{
    BlockOptions o = block_options_like(dev, options->path, options->format);
    BlockImage *image;
    bool ok;

    if (!block_change_begin(dev, error))
        return false;
    o.backing = options->backing;
    image = image_open(&o, 0, error);
    ok = image && exchange(dev, image, error);
    if (ok)
        tell_size(dev);
    block_change_end(dev);
    return ok;
}

/* ---- looking -------------------------------------------------------------------------
 */

json_t *block_chain_info(BlockDev *dev)
{
    json_t *chain = json_array();

    LOCK_GUARD(&dev->chain_lock);
    for (BlockImage *img = dev->top; img; img = img->backing)
        json_array_append_new(chain, image_info(img));
    return chain;
}
