/* A disk kept as it is, for as long as somebody needs it: what the guest writes from a
 * moment on goes to an overlay.  `disk overlay` and snapshots do this; a snapshot for
 * several disks and the memory at one instant, so the work is in three steps.
 *
 *   prepare   the overlay is made and opened, and what can be flushed is
 *   switch    pointers are exchanged; no I/O, so this is all that a pause has to wait for
 *   settle    the old top is flushed, and open read-only from then on
 *
 * Between switch and settle the layer may hold writes of the guest's that are not on the
 * disk yet: it is `unsettled`, and each flush of the overlay flushes it as well, so that
 * what the guest was told is durable. */
#include <errno.h>
#include <unistd.h>

#include "job_private.h"

struct BlockLayer {
    BlockDev *dev;
    char *path;          /* of the overlay; NULL: none, the disk stays read-only */
    bool made, switched; /* the overlay's file; the disk */
    BlockImage *overlay; /* ours until it is the disk's */
    BlockImage *below;   /* what is kept; the disk's */
};

static bool make_overlay(BlockDev *dev, const char *path, int format, const char *below,
                         GError **error)
{
    g_autofree ImageCreate *how = param_new(&image_create_params);

    how->path = (char *)path;
    how->format = format;
    how->size = image_size_now(dev->top);
    how->backing = (char *)below;
    how->backing_format = (char *)dev->top->format->name;
    how->unsafe_backing = true; /* it is ours, and locked */
    return image_create(how, error);
}

static BlockImage *open_overlay(BlockDev *dev, const char *path, int format,
                                const char *below, GError **error)
{
    BlockOptions o = block_options_like(dev, path, format);
    g_autoptr(BlockImage) overlay = image_open(&o, IMAGE_NO_BACKING, error);

    if (!overlay)
        return NULL;
    image_mark_backing(overlay->file, below);
    errno = block_file_flush(overlay->file);
    if (!errno)
        return g_steal_pointer(&overlay);
    fail_errno(error, "'%s': write it to the disk", path);
    return NULL;
}

static bool prepare(BlockLayer *l, const BlockLayerOptions *o, GError **error)
{
    int format = o->format == BLOCK_FORMAT_AUTO ? BLOCK_FORMAT_QCOW2 : o->format;
    g_autofree char *name = block_absolute_path(o->name ? o->name : l->below->path);

    if (l->path) {
        l->made = !o->existing;
        if (l->made && !make_overlay(l->dev, l->path, format, name, error))
            return l->made = false;
        l->overlay = open_overlay(l->dev, l->path, format, name, error);
        if (!l->overlay)
            return false;
    }
    errno = image_flush(l->below);
    return !errno ||
           fail_errno(error, "'%s': write back what the guest wrote", l->below->path);
}

BlockLayer *block_layer_prepare(BlockDev *dev, const BlockLayerOptions *o, GError **error)
{
    BlockLayer *l;

    if (dev->readonly) {
        fail(error, VM_ERROR_INVALID,
             "'%s' is read-only: it needs no overlay, nothing is written to it",
             dev->path);
        return NULL;
    }
    if (!block_change_begin(dev, error))
        return NULL;
    l = g_new0(BlockLayer, 1);
    l->dev = dev;
    l->below = dev->top;
    l->path = g_strdup(o->path);
    if (prepare(l, o, error))
        return l;
    block_layer_free(l);
    return NULL;
}

void block_layer_switch(BlockLayer *l)
{
    BlockDev *dev = l->dev;

    if (!l->overlay || l->switched)
        return;
    block_gate_close(dev);
    lock_acquire(&dev->chain_lock);
    __atomic_store_n(&l->below->unsettled, true, __ATOMIC_RELAXED);
    l->overlay->backing = l->below;
    dev->top = l->overlay;
    lock_release(&dev->chain_lock);
    block_gate_open(dev);
    l->switched = true;
}

static bool reopen(BlockLayer *l, bool readonly, GError **error)
{
    bool ok;

    block_gate_close(l->dev);
    lock_acquire(&l->dev->chain_lock);
    ok = image_reopen(l->below, readonly, error);
    if (ok && readonly)
        __atomic_store_n(&l->below->unsettled, false, __ATOMIC_RELAXED);
    lock_release(&l->dev->chain_lock);
    block_gate_open(l->dev);
    return ok;
}

bool block_layer_settle(BlockLayer *l, GError **error)
{
    errno = image_flush(l->below); /* most of it while the guest goes on */
    if (errno)
        return fail_errno(error, "'%s': write back what the guest wrote", l->below->path);
    if (l->path) {
        g_autofree char *overlay = block_absolute_path(l->path);

        image_mark_overlay(l->below->file, overlay);
    }
    return reopen(l, true, error);
}

/* The overlay goes into the layer, by the job that does it for users. */
static bool merge(BlockLayer *l, GError **error)
{
    const BlockJobOptions o = {
        .type = BLOCK_JOB_COMMIT, .id = "snapshot-undo", .base = l->below->path};
    BlockJobInfo info = {0};
    bool ok;

    if (!block_job_start(l->dev, &o, error))
        return false;
    block_job_wait(l->dev);
    block_job_info(l->dev, &info);
    ok = !info.error && !info.cancelled;
    if (info.error)
        fail(error, VM_ERROR_IO, "%s", info.error);
    else if (!ok)
        fail(error, VM_ERROR_BUSY, "somebody cancelled it");
    block_job_info_clear(&info);
    block_job_dismiss(l->dev, NULL);
    return ok;
}

static bool undo_switched(BlockLayer *l, GError **error)
{
    bool ok;

    block_change_end(l->dev);
    ok = merge(l, error);
    if (ok && l->made)
        unlink(l->path);
    if (!ok)
        g_prefix_error(error,
                       "the disk goes on in '%s', which cannot be put back: ", l->path);
    l->dev = NULL; /* nothing of it is ours any more */
    return ok;
}

bool block_layer_undo(BlockLayer *l, GError **error)
{
    bool ok = true;

    if (l->switched)
        ok = undo_switched(l, error);
    else if (!l->overlay && image_readonly(l->below))
        ok = reopen(l, false, error);
    block_layer_free(l);
    return ok;
}

bool block_layer_move(BlockLayer *l, const char *path, const char *name, GError **error)
{
    BlockDev *dev = l->dev;
    BlockImage *old = l->below, *image;
    BlockOptions o = block_options_like(dev, path, BLOCK_FORMAT_RAW);

    o.readonly = true;
    while (!g_str_equal(block_format_names[o.format], old->format->name))
        o.format++;
    image = image_open(&o, IMAGE_NO_BACKING, error);
    if (!image)
        return false;
    g_free(image->path);
    g_free(image->file->path);
    image->path = g_strdup(name);
    image->file->path = g_strdup(name);
    block_gate_close(dev);
    lock_acquire(&dev->chain_lock);
    image->backing = old->backing;
    old->backing = NULL;
    l->overlay->backing = l->below = image;
    lock_release(&dev->chain_lock);
    block_gate_open(dev);
    image_free(old);
    return true;
}

void block_layer_free(BlockLayer *l)
{
    if (!l)
        return;
    if (l->dev) {
        if (!l->switched)
            image_free(l->overlay);
        block_change_end(l->dev);
        if (l->made && !l->switched)
            unlink(l->path);
    }
    g_free(l->path);
    g_free(l);
}

/* ---- at once -------------------------------------------------------------------------
 */

bool block_overlay(BlockDev *dev, const char *path, int format, bool existing,
                   GError **error)
{
    const BlockLayerOptions o = {.path = path, .format = format, .existing = existing};
    BlockLayer *l = block_layer_prepare(dev, &o, error);

    if (!l)
        return false;
    block_layer_switch(l);
    if (!block_layer_settle(l, error)) {
        block_layer_undo(l, NULL);
        return false;
    }
    block_layer_free(l);
    return true;
}
