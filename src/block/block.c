/* Disks: an image, and the engine that carries out its requests. */
#include "backend/block.h"

#include "block_private.h"

const char *const block_aio_names[] = {"auto", "libaio", "io_uring", "threads", NULL};

/* ---- the engine ----------------------------------------------------------------------
 */

/* By BlockAio. */
static const BlockEngine *const engines[] = {
    [BLOCK_AIO_LIBAIO] = &block_libaio_engine,
    [BLOCK_AIO_IO_URING] = &block_io_uring_engine,
    [BLOCK_AIO_THREADS] = &block_threads_engine,
};

/* What AUTO tries.  io_uring goes first because a request costs it less processor time,
 * and because a libaio context takes tens of milliseconds to give back, for which the end
 * of a VM would wait; but not where it would hand each request to a thread. */
static const BlockAio preferred[][3] = {
    [false] = {BLOCK_AIO_LIBAIO, BLOCK_AIO_IO_URING, BLOCK_AIO_THREADS},
    [true] = {BLOCK_AIO_IO_URING, BLOCK_AIO_LIBAIO, BLOCK_AIO_THREADS},
};

static bool choose_engine(BlockDev *dev, int aio, GError **error)
{
    if (aio != BLOCK_AIO_AUTO) {
        dev->engine = engines[aio];
        if (dev->engine->probe(dev, error))
            return true;
        g_prefix_error(error, "'%s': ", dev->path);
        return false;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(preferred[0]); i++) {
        dev->engine = engines[preferred[dev->top->file->nowait][i]];
        if (dev->engine->probe(dev, NULL))
            break; /* threads at the latest */
    }
    return true;
}

/* ---- opening and closing -------------------------------------------------------------
 */

BlockDev *block_open(const BlockOptions *options, GError **error)
{
    g_autoptr(BlockDev) dev = g_new0(BlockDev, 1);
    const BlockFile *f;

    dev->path = g_strdup(options->path);
    lock_init(&dev->chain_lock);
    lock_init(&dev->lock);
    pthread_cond_init(&dev->changed, NULL);
    dev->throttle = block_throttle_get(options->throttle_group);
    dev->top = image_open(options, 0, error);
    if (!dev->top || !image_check_overlay(dev->top, error) ||
        !choose_engine(dev, options->aio, error))
        return NULL;
    f = dev->top->file;
    dev->direct = f->direct;
    dev->options = *options;
    dev->options.path = dev->options.throttle_group = NULL;
    dev->size = image_size_now(dev->top);
    dev->readonly = options->readonly;
    dev->unsafe = options->cache == BLOCK_CACHE_UNSAFE;
    dev->writethrough = options->cache == BLOCK_CACHE_WRITETHROUGH;
    dev->can_discard = !options->readonly && f->can_discard;
    dev->logical = f->logical;
    dev->physical = MAX(f->physical, MAX(f->logical, f->io_align));
    /* A group keeps its limits until somebody who joins it brings others. */
    if (block_limits_any(&options->limits))
        block_throttle_set(dev->throttle, &options->limits);
    return g_steal_pointer(&dev);
}

static void destroy(BlockDev *dev)
{
    block_job_free(dev->job);
    if (dev->engine && dev->engine->unprobe)
        dev->engine->unprobe(dev);
    image_free(dev->top);
    block_throttle_put(dev->throttle);
    pthread_cond_destroy(&dev->changed);
    lock_finish(&dev->lock);
    lock_finish(&dev->chain_lock);
    g_free(dev->path);
    g_free(dev);
}

void block_close(BlockDev *dev)
{
    bool used;

    if (!dev)
        return;
    lock_acquire(&dev->lock);
    dev->on_resize = NULL;
    while (dev->telling)
        pthread_cond_wait(&dev->changed, &dev->lock.mutex);
    dev->closed = true;
    used = dev->uses;
    lock_release(&dev->lock);
    if (!used)
        destroy(dev);
}

uint64_t block_size(const BlockDev *dev)
{
    return __atomic_load_n(&dev->size, __ATOMIC_RELAXED);
}

bool block_readonly(const BlockDev *dev)
{
    return dev->readonly;
}

bool block_can_discard(const BlockDev *dev)
{
    return dev->can_discard;
}

bool block_writethrough(const BlockDev *dev)
{
    return dev->writethrough;
}

bool block_is_direct(const BlockDev *dev)
{
    return dev->direct;
}

bool block_is_unsafe(const BlockDev *dev)
{
    return dev->unsafe;
}

const char *block_engine_name(const BlockDev *dev)
{
    return dev->engine->name;
}

unsigned block_logical_size(const BlockDev *dev)
{
    return dev->logical;
}

unsigned block_physical_size(const BlockDev *dev)
{
    return dev->physical;
}

void block_on_resize(BlockDev *dev, void (*fn)(void *opaque), void *opaque)
{
    dev->on_resize = fn;
    dev->resize_opaque = opaque;
}

void block_hurry(BlockDev *dev)
{
    __atomic_store_n(&dev->hurry, true, __ATOMIC_RELEASE);
    block_job_cancel(dev, NULL);
}

void block_use(BlockDev *dev)
{
    LOCK_GUARD(&dev->lock);
    dev->uses++;
}

void block_unuse(BlockDev *dev)
{
    bool last;

    lock_acquire(&dev->lock);
    last = !--dev->uses && dev->closed;
    lock_release(&dev->lock);
    if (last)
        destroy(dev);
}

/* ---- limits and figures ---------------------------------------------------------------
 */

void block_set_limits(BlockDev *dev, const BlockLimits *limits)
{
    block_throttle_set(dev->throttle, limits);
}

void block_limits(BlockDev *dev, BlockLimits *ret)
{
    block_throttle_read(dev->throttle, ret);
}

const char *block_throttle_group(const BlockDev *dev)
{
    return block_throttle_name(dev->throttle);
}

void block_stats(BlockDev *dev, BlockStats *ret)
{
    const unsigned n = sizeof(ret->of) / (sizeof(uint64_t));
    uint64_t *sum = (uint64_t *)ret->of;

    *ret = (BlockStats){0};
    LOCK_GUARD(&dev->lock);
    for (BlockQueue *q = dev->queues; q; q = q->next) {
        for (unsigned i = 0; i < n; i++)
            sum[i] += counter_read((const uint64_t *)q->stats.of + i);
        ret->end = MAX(ret->end, counter_read(&q->stats.end));
    }
}
