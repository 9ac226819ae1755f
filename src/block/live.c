/* What changes at once below a disk in use: its size, a new layer, another image. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "job_private.h"

bool block_no_job(BlockDev *dev, GError **error)
{
    BlockJobInfo info;
    bool busy = block_job_info(dev, &info) && info.status != BLOCK_JOB_FINISHED;

    if (busy)
        fail(error, VM_ERROR_BUSY,
             "'%s' is being worked on by the job '%s': wait for it, or cancel it",
             dev->path, info.id);
    block_job_info_clear(&info);
    return !busy;
}

static void tell_size(BlockDev *dev)
{
    if (dev->on_resize)
        dev->on_resize(dev->resize_opaque);
}

bool block_resize(BlockDev *dev, uint64_t size, GError **error)
{
    bool ok;

    if (size < BLOCK_SECTOR || size % BLOCK_SECTOR)
        return fail(error, VM_ERROR_INVALID,
                    "'%s' cannot be of %" G_GUINT64_FORMAT
                    " bytes: a disk is of whole sectors of %d bytes",
                    dev->path, size, BLOCK_SECTOR);
    if (!block_no_job(dev, error))
        return false;
    block_gate_close(dev);
    ok = image_resize(dev->top, size, error);
    block_gate_open(dev);
    if (ok)
        tell_size(dev);
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

bool block_change_image(BlockDev *dev, const BlockOptions *options, GError **error)
{
    BlockOptions o = block_options_like(dev, options->path, options->format);
    BlockImage *old, *new_;

    if (!block_no_job(dev, error))
        return false;
    o.backing = options->backing;
    new_ = image_open(&o, 0, error);
    if (!new_)
        return false;
    block_gate_close(dev);
    old = dev->top;
    errno = image_flush(old);
    if (errno) {
        fail_errno(error, "'%s': write back what the guest wrote", old->path);
        block_gate_open(dev);
        image_free(new_);
        return false;
    }
    lock_acquire(&dev->chain_lock);
    dev->top = new_;
    lock_release(&dev->chain_lock);
    block_gate_open(dev);
    image_free(old);
    tell_size(dev);
    return true;
}

/* ---- an overlay ----------------------------------------------------------------------
 */

static bool make_overlay(BlockDev *dev, const char *path, int format, GError **error)
{
    g_autofree char *below = block_absolute_path(dev->top->path);
    g_autofree ImageCreate *how = param_new(&image_create_params);

    how->path = (char *)path;
    how->format = format == BLOCK_FORMAT_AUTO ? BLOCK_FORMAT_QCOW2 : format;
    how->size = image_size_now(dev->top);
    how->backing = below;
    how->backing_format = (char *)dev->top->format->name;
    how->unsafe_backing = true; /* it is ours, and locked */
    return image_create(how, error);
}

/* The gate is closed. */
static bool put_on_top(BlockDev *dev, BlockImage *overlay, GError **error)
{
    BlockImage *old = dev->top;

    errno = image_flush(old);
    if (errno)
        return fail_errno(error, "'%s': write back what the guest wrote", old->path);
    if (!image_reopen(old, true, error))
        return false;
    lock_acquire(&dev->chain_lock);
    overlay->backing = old;
    dev->top = overlay;
    lock_release(&dev->chain_lock);
    return true;
}

bool block_overlay(BlockDev *dev, const char *path, int format, bool existing,
                   GError **error)
{
    BlockOptions o = block_options_like(
        dev, path, format == BLOCK_FORMAT_AUTO ? BLOCK_FORMAT_QCOW2 : format);
    BlockImage *overlay;
    bool ok;

    if (dev->readonly)
        return fail(error, VM_ERROR_INVALID,
                    "'%s' is read-only: it needs no overlay, nothing is written to it",
                    dev->path);
    if (!block_no_job(dev, error) ||
        (!existing && !make_overlay(dev, path, format, error)))
        return false;
    overlay = image_open(&o, IMAGE_NO_BACKING, error);
    if (overlay) {
        g_autofree char *below = block_absolute_path(dev->top->path);

        image_mark_backing(overlay->file, below);
        block_gate_close(dev);
        ok = put_on_top(dev, overlay, error);
        block_gate_open(dev);
        if (ok)
            return true;
        image_free(overlay);
    }
    if (!existing)
        unlink(path);
    return false;
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
