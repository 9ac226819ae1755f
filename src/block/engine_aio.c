/* Linux AIO (io_submit(2)) on files open with O_DIRECT, where alone it is asynchronous.
 *
 * A batch goes out with one system call.  Completions cost none: the kernel writes them
 * to a ring that it maps into our memory (struct aio_ring of Linux's fs/aio.c, which
 * accepts a head moved by user space), and signals an eventfd. */
#include <errno.h>
#include <libaio.h>
#include <limits.h>
#include <string.h>

#include "block_private.h"

enum {
    MAX_EVENTS = 256, /* in the kernel at once; the rest waits here.  Rings come out of
                         fs.aio-max-nr, which all processes share */
    BATCH = 64,
    RING_MAGIC = 0xa10a10a1,
};

typedef struct AioRing {
    unsigned id, nr;
    unsigned head; /* ours */
    unsigned tail; /* the kernel's */
    unsigned magic, compat_features, incompat_features, header_length;
    struct io_event events[];
} AioRing;

typedef struct AioEngine {
    int event_fd;
    io_context_t ctx;
    bool has_ring;
    unsigned in_kernel, limit;
    BlockList pending;
} AioEngine;

_Static_assert(sizeof(struct iocb) <= sizeof(((BlockPriv *)0)->engine), "iocb");

static struct iocb *iocb_of(BlockReq *req)
{
    return (struct iocb *)(void *)block_priv(req)->engine;
}

static bool setup(unsigned depth, io_context_t *ctx, GError **error)
{
    int r;

    *ctx = NULL;
    r = io_setup((int)depth, ctx);
    if (r == 0)
        return true;
    errno = -r;
    return r == -EAGAIN
               ? fail_errno(error,
                            "set up Linux AIO: all of fs.aio-max-nr is used (raise "
                            "it, or choose aio=threads)")
               : fail_errno(error, "set up Linux AIO (aio=threads does without)");
}

/* A context is kept for the first queue: to destroy one takes tens of milliseconds. */
static bool aio_probe(BlockDev *dev, GError **error)
{
    io_context_t ctx;

    if (!dev->top->file->direct)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "Linux AIO is asynchronous only with O_DIRECT, which is off here or "
                    "not possible on this file system (choose aio=io_uring or "
                    "aio=threads)");
    if (!setup(MAX_EVENTS, &ctx, error))
        return false;
    dev->spare = ctx;
    return true;
}

static void aio_unprobe(BlockDev *dev)
{
    if (dev->spare)
        io_destroy(dev->spare);
}

static void *aio_start(BlockQueue *q, GError **error)
{
    AioEngine *e = g_new0(AioEngine, 1);

    e->event_fd = q->event_fd;
    e->limit = MIN(q->depth, MAX_EVENTS);
    e->ctx = __atomic_exchange_n(&q->dev->spare, NULL, __ATOMIC_ACQ_REL);
    if (!e->ctx && !setup(e->limit, &e->ctx, error)) {
        g_prefix_error(error, "'%s': ", q->dev->path);
        g_free(e);
        return NULL;
    }
    e->has_ring = ((AioRing *)(void *)e->ctx)->magic == RING_MAGIC;
    return e;
}

static void aio_stop(void *engine)
{
    AioEngine *e = engine;

    io_destroy(e->ctx);
    g_free(e);
}

static void aio_submit(void *engine, BlockReq *req)
{
    AioEngine *e = engine;
    BlockPriv *priv = block_priv(req);
    struct iocb *cb = iocb_of(req);
    long long offset = (long long)priv->file_offset;
    bool write = req->op == BLOCK_WRITE;

    if (req->op == BLOCK_FLUSH)
        io_prep_fdsync(cb, priv->fd);
    else if (req->n_iov == 1 && req->len <= INT_MAX)
        (write ? io_prep_pwrite : io_prep_pread)(cb, priv->fd, req->iov->iov_base,
                                                 req->len, offset);
    else
        (write ? io_prep_pwritev : io_prep_preadv)(cb, priv->fd, req->iov,
                                                   (int)req->n_iov, offset);
    io_set_eventfd(cb, e->event_fd);
    cb->data = req;
    block_list_add(&e->pending, req);
}

/* As many of the oldest pending requests as there is room for; they stay pending. */
static int gather(AioEngine *e, struct iocb *batch[BATCH])
{
    unsigned room = MIN(e->limit - e->in_kernel, BATCH);
    unsigned n = 0;

    for (BlockReq *req = e->pending.head; req && n < room; req = req->next)
        batch[n++] = iocb_of(req);
    return (int)n;
}

static void aio_commit(void *engine)
{
    AioEngine *e = engine;
    struct iocb *batch[BATCH];
    int n;

    while ((n = gather(e, batch)) > 0) {
        int r = io_submit(e->ctx, n, batch);

        if (r == -EINTR)
            continue;
        if (r == -EAGAIN && e->in_kernel)
            return; /* a completion makes room, and calls us again */
        if (r <= 0) {
            /* The first one's fault, or the kernel is out of memory. */
            block_use_worker(block_list_take(&e->pending));
            continue;
        }
        e->in_kernel += (unsigned)r;
        while (r--)
            block_list_take(&e->pending);
    }
}

static void finish(AioEngine *e, const struct io_event *ev)
{
    e->in_kernel--;
    /* res is a long that the header calls unsigned. */
    block_finish_io(ev->data, (int64_t)(long)ev->res);
}

static unsigned reap_ring(AioEngine *e)
{
    AioRing *ring = (AioRing *)(void *)e->ctx;
    unsigned head = ring->head, n = 0;
    unsigned tail = __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);

    for (; head != tail; n++) {
        struct io_event ev = ring->events[head];

        head = head + 1 == ring->nr ? 0 : head + 1;
        /* Before finish(), which may commit: the kernel counts free slots by it. */
        __atomic_store_n(&ring->head, head, __ATOMIC_RELEASE);
        finish(e, &ev);
    }
    return n;
}

static unsigned reap_by_call(AioEngine *e)
{
    struct io_event events[BATCH];
    struct timespec now = {0};
    unsigned total = 0;
    int n;

    while (e->in_kernel && (n = io_getevents(e->ctx, 0, BATCH, events, &now)) > 0) {
        for (int i = 0; i < n; i++)
            finish(e, &events[i]);
        total += (unsigned)n;
    }
    return total;
}

static unsigned aio_reap(void *engine)
{
    AioEngine *e = engine;

    if (!e->in_kernel)
        return 0;
    return e->has_ring ? reap_ring(e) : reap_by_call(e);
}

const BlockEngine block_libaio_engine = {
    .name = "libaio",
    .only_direct = true,
    .probe = aio_probe,
    .unprobe = aio_unprobe,
    .start = aio_start,
    .stop = aio_stop,
    .submit = aio_submit,
    .commit = aio_commit,
    .reap = aio_reap,
};
