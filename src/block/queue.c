/* A queue of requests: from block_submit() to done().
 *
 * Requests go out as they come, and come back in any order, but for one case: with
 * O_DIRECT, a write that covers only part of a block of the host's has to read the rest
 * of the block and write it back, and would undo another write to the block that is under
 * way.  Such a request waits until nothing is active, then runs alone, and whatever is
 * submitted meanwhile is held behind it, in order.  Guests whose sectors are as large as
 * the host's never see this.
 *
 * Completions come in batches: one wake-up, done() for each, then batch_end() once. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>

#include "block_private.h"
#include "util/bits.h"
#include "util/fd.h"

enum {
    ASIDE_WORKERS = 4, /* beside an engine */
    MAX_WORKERS = 16,  /* as the engine */
};

static void on_event(void *opaque, uint32_t events)
{
    block_poll(opaque);
}

BlockQueue *block_queue_new(BlockDev *dev, IoLoop *loop, unsigned depth, GError **error)
{
    bool threads = dev->engine == &block_threads_engine;
    g_autoptr(BlockQueue) q = g_new0(BlockQueue, 1);

    q->dev = dev;
    q->depth = MAX(depth, 1);
    q->event_fd = fd_event(error);
    if (q->event_fd < 0)
        return NULL;
    q->workers = block_workers_start(
        q, MIN(q->depth, threads ? MAX_WORKERS : ASIDE_WORKERS), error);
    if (!q->workers)
        return NULL;
    q->engine = dev->engine->start(q, error);
    if (!q->engine)
        return NULL;
    if (!ioloop_watch(loop, &q->watch, q->event_fd, EPOLLIN | EPOLLET, on_event, q,
                      error))
        return NULL;
    return g_steal_pointer(&q);
}

void block_queue_free(BlockQueue *q)
{
    if (!q)
        return;
    ioloop_unwatch(&q->watch);
    block_workers_stop(q->workers);
    if (q->engine)
        q->dev->engine->stop(q->engine);
    fd_close(&q->event_fd);
    g_free(q);
}

void block_queue_on_batch(BlockQueue *q, void (*fn)(void *opaque), void *opaque)
{
    q->batch_end = fn;
    q->batch_opaque = opaque;
}

/* ---- out --------------------------------------------------------------------------- */

static bool is_transfer(const BlockReq *req)
{
    return req->op == BLOCK_READ || req->op == BLOCK_WRITE;
}

static bool buffers_aligned(const BlockDev *dev, const BlockReq *req)
{
    uint64_t bases = 0, lens = req->offset | req->len;

    if (!dev->direct)
        return true;
    for (unsigned i = 0; i < req->n_iov; i++) {
        bases |= (uintptr_t)req->iov[i].iov_base;
        lens |= req->iov[i].iov_len;
    }
    return is_aligned(bases, dev->mem_align) && is_aligned(lens, dev->io_align);
}

static bool fits_engine(const BlockDev *dev, BlockReq *req)
{
    if (req->op == BLOCK_FLUSH)
        return true;
    return is_transfer(req) && req->n_iov <= IOV_MAX &&
           dev->format->map(dev, req, &block_priv(req)->file_offset) &&
           buffers_aligned(dev, req);
}

static bool may_read_to_write(const BlockDev *dev, const BlockReq *req)
{
    return (req->op == BLOCK_WRITE || req->op == BLOCK_WRITE_ZEROES) &&
           !is_aligned(req->offset | req->len, dev->io_align);
}

static void dispatch(BlockQueue *q, BlockReq *req)
{
    q->active++;
    if (fits_engine(q->dev, req))
        q->dev->engine->submit(q->engine, req);
    else
        block_use_worker(req);
}

void block_use_worker(BlockReq *req)
{
    BlockPriv *priv = block_priv(req);

    priv->slow = true;
    block_workers_submit(priv->q->workers, req);
}

static void dispatch_held(BlockQueue *q)
{
    while (q->held.head && !q->exclusive) {
        bool rmw = block_priv(q->held.head)->rmw;

        if (rmw && q->active)
            return;
        q->exclusive = rmw;
        dispatch(q, block_list_take(&q->held));
    }
}

/* What can be said without I/O: an errno, 0, or -1 for "go on". */
static int judge(const BlockDev *dev, const BlockReq *req)
{
    if (req->op == BLOCK_FLUSH)
        return dev->unsafe || dev->readonly ? 0 : -1;
    if (req->op != BLOCK_READ && dev->readonly)
        return EPERM;
    if (!range_within(req->offset, req->len, dev->size))
        return EIO;
    return req->len ? -1 : 0;
}

void block_submit(BlockQueue *q, BlockReq *req)
{
    BlockPriv *priv = block_priv(req);

    *priv = (BlockPriv){.q = q, .err = judge(q->dev, req)};
    q->in_flight++;
    if (priv->err >= 0) {
        if (!q->instant.head) /* block_poll() answers it, and has to be called */
            fd_event_signal(q->event_fd);
        block_list_add(&q->instant, req);
        return;
    }
    priv->rmw = may_read_to_write(q->dev, req);
    if (priv->rmw || q->held.head || q->exclusive) {
        block_list_add(&q->held, req);
        dispatch_held(q);
    } else {
        dispatch(q, req);
    }
}

void block_commit(BlockQueue *q)
{
    q->dev->engine->commit(q->engine);
}

/* ---- and back ---------------------------------------------------------------------- */

static void answer(BlockQueue *q, BlockReq *req, int err)
{
    q->in_flight--;
    req->done(req, err);
}

void block_finish(BlockReq *req, int err)
{
    BlockQueue *q = block_priv(req)->q;

    q->active--;
    if (block_priv(req)->rmw)
        q->exclusive = false;
    answer(q, req, err);
}

void block_finish_io(BlockReq *req, int64_t res)
{
    uint64_t want = is_transfer(req) ? req->len : 0;
    BlockPriv *priv = block_priv(req);

    if (res >= 0 && (uint64_t)res >= want) {
        block_finish(req, 0);
        return;
    }
    switch (res) {
    case -EINVAL: /* pickier about alignment than it told us */
    case -EAGAIN:
    case -EINTR:
    case -EOPNOTSUPP:
        block_use_worker(req);
        return;
    default:
        break;
    }
    if (res < 0) {
        block_finish(req, (int)-res);
    } else { /* cut short: the rest is done step by step, from a block's start */
        priv->skip = align_down((uint64_t)res, priv->q->dev->io_align);
        block_use_worker(req);
    }
}

static unsigned answer_instant(BlockQueue *q)
{
    BlockList list = q->instant; /* what done() adds is for the next time */
    BlockReq *req;
    unsigned n = 0;

    q->instant.head = NULL;
    for (; (req = block_list_take(&list)); n++)
        answer(q, req, block_priv(req)->err);
    return n;
}

bool block_poll(BlockQueue *q)
{
    unsigned n = q->dev->engine->reap(q->engine);

    n += block_workers_reap(q->workers);
    if (q->instant.head)
        n += answer_instant(q);
    dispatch_held(q);
    if (n && q->batch_end)
        q->batch_end(q->batch_opaque);
    block_commit(q);
    return n > 0;
}

void block_drain(BlockQueue *q)
{
    struct pollfd p = {.fd = q->event_fd, .events = POLLIN};

    block_commit(q);
    for (;;) {
        fd_event_take(q->event_fd); /* first: what is signalled later is seen by poll() */
        block_poll(q);
        if (!q->in_flight)
            return;
        poll(&p, 1, -1);
    }
}
