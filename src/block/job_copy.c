/* Commit and mirror: the contents of some layers are copied to another image, the base or
 * a new one, while the guest goes on writing.
 *
 * What the guest changes meanwhile is noted, a bit a chunk, and copied again.  When
 * little is left the gate is closed, the rest is copied, and the disk moves over to the
 * other image.  Until that moment the layers above hold all the guest wrote: a crash
 * loses nothing, wherever it comes. */
#include <errno.h>
#include <stdlib.h>

#include "job_private.h"

enum {
    DIRTY_MIN_SHIFT = 16,
    DIRTY_MAX_BITS = 1 << 24,
    FEW = 64,        /* chunks: so many are left to the moment when the gate is closed */
    MAX_ROUNDS = 50, /* a guest that writes faster than we copy is stopped for the rest */
};
#define READY_STEP_NS (100 * 1000 * 1000)

/* ---- what changed -------------------------------------------------------------------
 */

static BlockDirty *dirty_new(uint64_t size)
{
    BlockDirty *d = g_new0(BlockDirty, 1);

    d->shift = DIRTY_MIN_SHIFT;
    while (size >> d->shift >= DIRTY_MAX_BITS)
        d->shift++;
    d->n = (size >> d->shift) + 1;
    d->words = calloc(d->n / 64 + 1, sizeof(*d->words));
    return d;
}

static void dirty_free(BlockDirty *d)
{
    if (d)
        free(d->words);
    g_free(d);
}

void block_dirty_mark(BlockDirty *d, uint64_t offset, uint64_t len)
{
    if (!len)
        return;
    for (uint64_t i = offset >> d->shift; i <= (offset + len - 1) >> d->shift; i++)
        __atomic_fetch_or(&d->words[i / 64], 1ull << i % 64, __ATOMIC_RELEASE);
}

static uint64_t dirty_count(const BlockDirty *d)
{
    uint64_t sum = 0;

    for (uint64_t w = 0; w <= d->n / 64; w++)
        sum += (uint64_t)__builtin_popcountll(
            __atomic_load_n(&d->words[w], __ATOMIC_RELAXED));
    return sum;
}

/* ---- before and after ----------------------------------------------------------------
 */

static void set_dirty(BlockJob *job, BlockDirty *d)
{
    block_gate_close(job->dev);
    job->dev->dirty = d;
    block_gate_open(job->dev);
}

static bool grow_target(BlockJob *job, GError **error)
{
    uint64_t size = image_size_now(job->top);
    bool ok;

    if (image_size_now(job->target) >= size)
        return true;
    block_gate_close(job->dev);
    ok = image_resize(job->target, size, error);
    block_gate_open(job->dev);
    return ok;
}

/* Under the gate, since requests may be on their way to the descriptor that changes. */
static bool reopen(BlockJob *job, BlockImage *img, bool readonly, GError **error)
{
    bool ok;

    block_gate_close(job->dev);
    lock_acquire(&job->dev->chain_lock);
    ok = image_reopen(img, readonly, error);
    lock_release(&job->dev->chain_lock);
    block_gate_open(job->dev);
    return ok;
}

static bool prepare_commit(BlockJob *job, GError **error)
{
    BlockImage *disk = job->dev->top;

    job->top = job->options.top ? block_job_find(disk, job->options.top, error) : disk;
    if (!job->top)
        return false;
    if (!job->top->backing)
        return fail(error, VM_ERROR_INVALID,
                    "'%s' has no backing image to be committed into", job->top->path);
    job->active = job->top == disk;
    if (job->options.base) {
        job->base = block_job_find(job->top->backing, job->options.base, error);
        if (!job->base)
            return false;
    } else {
        for (job->base = job->top->backing; job->base->backing;)
            job->base = job->base->backing;
    }
    if (!reopen(job, job->base, false, error))
        return false;
    job->target = job->base;
    return true;
}

static bool make_target(BlockJob *job, const char *path, GError **error)
{
    BlockImage *below = job->options.only_top ? job->top->backing : NULL;
    g_autofree char *below_path = below ? block_absolute_path(below->path) : NULL;
    g_autofree ImageCreate *how = param_new(&image_create_params);

    how->path = (char *)path;
    how->format = job->options.target_format;
    how->size = image_size_now(job->top);
    if (below) {
        how->backing = below_path;
        how->backing_format = (char *)below->format->name;
        how->unsafe_backing = true;
    }
    return image_create(how, error);
}

/* Lent to the target, so that clusters that it gets only in part are completed from
 * there; its header says the same, for later. */
static bool lend_backing(BlockJob *job, GError **error)
{
    BlockImage *below = job->top->backing;
    g_autofree char *name = block_absolute_path(below->path);

    if (!image_set_backing(job->target, name, below->format->name, error))
        return false;
    job->target->backing = below;
    return true;
}

static bool prepare_mirror(BlockJob *job, GError **error)
{
    const char *path = job->options.target;
    BlockOptions o;

    job->top = job->dev->top;
    if (!path)
        return fail(error, VM_ERROR_INVALID, "a mirror needs a target");
    if (!job->options.existing && !block_path_is_nbd(path) &&
        !make_target(job, path, error))
        return false;
    o = block_options_like(job->dev, path, job->options.target_format);
    o.readonly = false;
    job->target = image_open(&o, IMAGE_NO_BACKING, error);
    if (!job->target)
        return false;
    return !job->options.only_top || !job->top->backing || lend_backing(job, error);
}

static bool prepare(BlockJob *job, GError **error)
{
    bool mirror = job->type == BLOCK_JOB_MIRROR;

    job->active = mirror;
    if (job->dev->readonly && !mirror)
        return fail(error, VM_ERROR_INVALID,
                    "'%s' is read-only: there is nothing to commit", job->dev->path);
    if (!(mirror ? prepare_mirror(job, error) : prepare_commit(job, error)) ||
        !grow_target(job, error))
        return false;
    if (job->active)
        set_dirty(job, dirty_new(image_size_now(job->top)));
    return true;
}

static void release(BlockJob *job)
{
    BlockDirty *dirty = job->dev->dirty;

    if (dirty) {
        set_dirty(job, NULL);
        dirty_free(dirty);
    }
    if (!job->target)
        return; /* given away, or never opened */
    if (job->type == BLOCK_JOB_COMMIT) {
        reopen(job, job->target, true, NULL);
    } else {
        job->target->backing = NULL;
        image_free(job->target);
    }
}

/* ---- copying -------------------------------------------------------------------------
 */

static const BlockImage *stop_layer(const BlockJob *job)
{
    if (job->type == BLOCK_JOB_COMMIT)
        return job->base;
    return job->options.only_top ? job->top->backing : NULL;
}

static bool copy(BlockJob *job, uint64_t offset, uint64_t len, GError **error)
{
    errno = block_job_copy_range(job, job->top, stop_layer(job), job->target, offset,
                                 len);
    return !errno || fail_errno(error, "copy to '%s' at byte %" G_GUINT64_FORMAT,
                                job->target->path, offset);
}

static bool copy_all(BlockJob *job, GError **error)
{
    uint64_t size = image_size_now(job->top);

    for (uint64_t at = 0; at < size;) {
        uint64_t n = MIN(size - at, JOB_CHUNK);

        if (!copy(job, at, n, error))
            return false;
        at += n;
        if (!block_job_go_on(job, at, size, n))
            return false;
    }
    return true;
}

/* One round over what was noted.  `gated`: to the end, without looking up. */
static bool copy_dirty(BlockJob *job, bool gated, GError **error)
{
    BlockDirty *d = job->dev->dirty;
    uint64_t size = image_size_now(job->top);

    for (uint64_t w = 0; w <= d->n / 64; w++) {
        uint64_t bits = __atomic_exchange_n(&d->words[w], 0, __ATOMIC_ACQUIRE);

        for (; bits; bits &= bits - 1) {
            uint64_t at = (w * 64 + (uint64_t)__builtin_ctzll(bits)) << d->shift;
            uint64_t n = at < size ? MIN(size - at, 1ull << d->shift) : 0;

            if (n && !copy(job, at, n, error))
                return false;
            if (!gated && !block_job_go_on(job, size, size, n))
                return false;
        }
    }
    return true;
}

/* Until little is left, and the user wants to finish. */
static bool converge(BlockJob *job, GError **error)
{
    for (unsigned round = 0;;) {
        bool few = dirty_count(job->dev->dirty) <= FEW || ++round >= MAX_ROUNDS;

        if (few && block_job_ready(job, READY_STEP_NS))
            return true;
        if (block_job_is_cancelled(job))
            return false;
        if (!copy_dirty(job, false, error))
            return false;
    }
}

/* ---- moving over ---------------------------------------------------------------------
 */

static void cut_off(BlockImage *from, BlockImage *at)
{
    while (from->backing != at)
        from = from->backing;
    from->backing = NULL;
}

/* The gate is closed: what was the top is not the disk's any more. */
static void pivot(BlockJob *job)
{
    LOCK_GUARD(&job->dev->chain_lock);
    if (job->type == BLOCK_JOB_COMMIT) {
        cut_off(job->top, job->base);
        image_set_committed(job->base);
    } else if (job->options.only_top)
        job->top->backing = NULL; /* the target has it now */
    job->dev->top = job->target;
}

static bool finish_active(BlockJob *job, GError **error)
{
    BlockImage *old = job->top;
    bool ok;

    block_gate_close(job->dev);
    ok = copy_dirty(job, true, error);
    if (ok) {
        errno = image_flush(job->target);
        ok = !errno || fail_errno(error, "'%s': write it back", job->target->path);
    }
    if (ok) {
        pivot(job);
        job->target = NULL;
    }
    block_gate_open(job->dev);
    if (ok)
        image_free(old);
    return ok;
}

/* What is above the layers that go refers to the base from now on. */
static bool finish_below(BlockJob *job, GError **error)
{
    BlockImage *above = job->dev->top, *old = job->top;
    g_autofree char *name = block_absolute_path(job->base->path);
    bool ok, was_readonly;

    while (above->backing != job->top)
        above = above->backing;
    was_readonly = above->readonly;
    block_gate_close(job->dev);
    errno = image_flush(job->base);
    ok = !errno || fail_errno(error, "'%s': write it back", job->base->path);
    lock_acquire(&job->dev->chain_lock);
    ok = ok && image_reopen(above, false, error);
    if (ok) {
        ok = image_set_backing(above, name, job->base->format->name, error);
        if (ok) {
            g_autofree char *overlay = block_absolute_path(above->path);

            cut_off(old, job->base);
            above->backing = job->base;
            image_mark_overlay(job->base->file, overlay);
        }
        if (was_readonly)
            image_reopen(above, true, NULL);
    }
    lock_release(&job->dev->chain_lock);
    block_gate_open(job->dev);
    if (ok)
        image_free(old);
    return ok;
}

static bool run(BlockJob *job, GError **error)
{
    if (!copy_all(job, error))
        return false;
    if (!job->active)
        return finish_below(job, error);
    return converge(job, error) && finish_active(job, error);
}

const BlockJobKind block_job_copy = {.prepare = prepare, .run = run, .release = release};
