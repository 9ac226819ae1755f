/* A queue of requests: from block_submit() to done().
 *
 * Requests go out as they come, and come back in any order, but for two cases.  With
 * O_DIRECT, a write that covers only part of a block of the host's has to read the rest
 * of the block and write it back, and would undo another write to the block that is under
 * way; and what an image frees may be given to another write while an old one is still on
 * its way there.  Such a request waits until nothing is active, then runs alone, and
 * whatever is submitted meanwhile is held behind it, in order.
 *
 * A transfer that is one piece of a file goes to the engine as it is, one of several
 * pieces by parts (parts.c), and everything else to the workers.
 *
 * Completions come in batches: one wake-up, done() for each, then batch_end() once. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>

#include "block_private.h"
#include "util/bits.h"
#include "util/fd.h"

#define LIMITS_LOOK_NS (100 * 1000 * 1000)
enum {
    PATIENCE_MS = 3000,
    ASIDE_WORKERS = 4, /* beside an engine */
    MAX_WORKERS = 16,  /* as the engine */
    MAP_SHIFT = 16,    /* 64 KiB: what nearly all qcow2 images have for clusters */
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
    q->loop = loop;
    q->depth = MAX(depth, 1);
    q->map.shift = dev->top->format == &raw_format ? 0 : MAP_SHIFT;
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
    block_gate_join(q);
    return g_steal_pointer(&q);
}

void block_queue_free(BlockQueue *q)
{
    if (!q)
        return;
    block_gate_leave(q);
    ioloop_timer_cancel(&q->wake);
    ioloop_unwatch(&q->watch);
    block_map_forget_all(&q->map);
    block_parts_free(&q->parts);
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

static bool buffers_aligned(const BlockFile *f, const BlockReq *req)
{
    uint64_t bases = 0, lens = block_priv((BlockReq *)req)->file_offset | req->len;

    if (!f->direct)
        return true;
    for (unsigned i = 0; i < req->n_iov; i++) {
        bases |= (uintptr_t)req->iov[i].iov_base;
        lens |= req->iov[i].iov_len;
    }
    return is_aligned(bases, f->mem_align) && is_aligned(lens, f->io_align);
}

static bool engine_takes(BlockQueue *q, const BlockFile *f, BlockReq *req)
{
    block_priv(req)->fd = f->fd;
    return f->fd >= 0 && (f->direct || !q->dev->engine->only_direct);
}

bool block_aim(BlockQueue *q, BlockReq *req, const Extent *e)
{
    block_priv(req)->file_offset = e->file_offset;
    return req->n_iov <= IOV_MAX && engine_takes(q, e->file, req) &&
           buffers_aligned(e->file, req);
}

/* All of it is one piece of one file. */
static bool map_transfer(BlockQueue *q, BlockReq *req)
{
    Extent e;

    if (block_map_lookup(&q->map, q->dev->top, req->offset, req->len, &e))
        return false;
    return e.kind == EXTENT_DATA && e.len == req->len &&
           (req->op == BLOCK_READ || e.in_place) && block_aim(q, req, &e);
}

static bool fits_engine(BlockQueue *q, BlockReq *req)
{
    if (req->op == BLOCK_FLUSH)
        return !q->dev->unsafe && !image_flush_is_slow(q->dev->top) &&
               engine_takes(q, q->dev->top->file, req);
    return is_transfer(req) && map_transfer(q, req);
}

static bool fits_parts(const BlockQueue *q, const BlockReq *req)
{
    return is_transfer(req) && q->map.shift && q->dev->engine != &block_threads_engine;
}

/* What has to read before it writes, and what frees places that others write to. */
static bool runs_alone(const BlockDev *dev, const BlockReq *req)
{
    const BlockImage *top = dev->top;

    switch (req->op) {
    case BLOCK_WRITE:
        return !is_aligned(req->offset | req->len, top->file->io_align);
    case BLOCK_WRITE_ZEROES:
        return top->slow_discard ||
               !is_aligned(req->offset | req->len, top->file->io_align);
    case BLOCK_DISCARD:
        return top->slow_discard;
    case BLOCK_READ:
    case BLOCK_FLUSH:
        break;
    }
    return false;
}

static void dispatch(BlockQueue *q, BlockReq *req)
{
    q->active++;
    if (fits_engine(q, req))
        q->dev->engine->submit(q->engine, req);
    else if (!fits_parts(q, req) || !block_parts_submit(q, req))
        block_use_worker(req);
}

void block_use_worker(BlockReq *req)
{
    BlockPriv *priv = block_priv(req);

    priv->slow = true;
    block_workers_submit(priv->q->workers, req);
}

/* Answered by block_poll(), which has to be called for that. */
static void answer_later(BlockQueue *q, BlockReq *req, int err)
{
    block_priv(req)->err = err;
    if (!q->instant.head)
        fd_event_signal(q->event_fd);
    block_list_add(&q->instant, req);
}

/* The gate is open: only now is it certain what the disk is, which may have become
 * smaller or another image while the request waited. */
static void dispatch_held(BlockQueue *q)
{
    while (q->held.head && !q->exclusive && !q->gated) {
        BlockReq *req = q->held.head;
        bool alone = runs_alone(q->dev, req);

        if (alone && q->active)
            return;
        block_list_take(&q->held);
        if (!range_within(req->offset, req->len, image_size_now(q->dev->top))) {
            answer_later(q, req, EIO);
            continue;
        }
        block_priv(req)->alone = q->exclusive = alone;
        dispatch(q, req);
    }
}

/* What can be said without I/O: an errno, 0, or -1 for "go on". */
static int judge(BlockDev *dev, BlockReq *req)
{
    if (req->op == BLOCK_FLUSH) {
        req->offset = req->len = 0;
        return dev->readonly ? 0 : -1;
    }
    if (req->op != BLOCK_READ && dev->readonly)
        return EPERM;
    if (!range_within(req->offset, req->len, block_size(dev)))
        return EIO;
    return req->len ? -1 : 0;
}

static void admit(BlockQueue *q, BlockReq *req)
{
    block_list_add(&q->held, req);
    dispatch_held(q);
}

/* ---- limits --------------------------------------------------------------------------
 */

static void reserve(BlockQueue *q, BlockReq *req, int64_t now_ns)
{
    block_priv(req)->turn_ns = block_throttle_reserve(
        q->dev->throttle, req->op != BLOCK_READ, req->op == BLOCK_DISCARD ? 0 : req->len,
        now_ns);
}

static void on_turn(void *opaque);

/* Looks again before long: somebody may change the limits. */
static void set_alarm(BlockQueue *q, int64_t turn_ns, int64_t now_ns)
{
    ioloop_timer(q->loop, &q->wake, MIN(turn_ns, now_ns + LIMITS_LOOK_NS), on_turn, q);
}

static void see_new_limits(BlockQueue *q, int64_t now_ns)
{
    unsigned set = block_throttle_generation(q->dev->throttle);

    for (unsigned dir = 0; dir < G_N_ELEMENTS(q->waiting) && set != q->limits; dir++)
        if (q->waiting[dir].head)
            reserve(q, q->waiting[dir].head, now_ns);
    q->limits = set;
}

/* Each direction keeps its order; only the first of each has a place in time. */
static void on_turn(void *opaque)
{
    BlockQueue *q = opaque;
    int64_t now_ns = clock_ns(), next_ns = INT64_MAX;

    see_new_limits(q, now_ns);
    for (unsigned dir = 0; dir < G_N_ELEMENTS(q->waiting); dir++) {
        BlockReq *req;

        while ((req = q->waiting[dir].head) &&
               (q->draining || block_priv(req)->turn_ns <= now_ns)) {
            block_list_take(&q->waiting[dir]);
            admit(q, req);
            if (q->waiting[dir].head)
                reserve(q, q->waiting[dir].head, now_ns);
        }
        if (req)
            next_ns = MIN(next_ns, block_priv(req)->turn_ns);
    }
    if (next_ns != INT64_MAX)
        set_alarm(q, next_ns, now_ns);
    block_commit(q);
}

static bool has_to_wait(BlockQueue *q, BlockReq *req)
{
    BlockList *list = &q->waiting[req->op != BLOCK_READ];
    int64_t now_ns = block_priv(req)->start_ns;

    if (req->op == BLOCK_FLUSH)
        return false;
    if (!list->head) {
        if (!block_throttle_on(q->dev->throttle))
            return false;
        /* Who drains does not wait, but what goes out counts: or a guest could reset its
         * device to get around its limits. */
        reserve(q, req, now_ns);
        if (q->draining || block_priv(req)->turn_ns <= now_ns)
            return false;
    }
    block_list_add(list, req);
    if (list->head == req &&
        (!q->wake.loop || q->wake.deadline_ns > block_priv(req)->turn_ns))
        set_alarm(q, block_priv(req)->turn_ns, now_ns);
    return true;
}

void block_submit(BlockQueue *q, BlockReq *req)
{
    BlockPriv *priv = block_priv(req);
    int err;

    *priv = (BlockPriv){.q = q, .start_ns = clock_ns()};
    q->in_flight++;
    err = judge(q->dev, req);
    if (err >= 0) {
        answer_later(q, req, err);
    } else if (!has_to_wait(q, req)) {
        admit(q, req);
    }
}

void block_commit(BlockQueue *q)
{
    q->dev->engine->commit(q->engine);
}

/* ---- and back ---------------------------------------------------------------------- */

static const BlockCount counted_as[] = {
    [BLOCK_READ] = BLOCK_COUNT_READ,          [BLOCK_WRITE] = BLOCK_COUNT_WRITE,
    [BLOCK_FLUSH] = BLOCK_COUNT_FLUSH,        [BLOCK_DISCARD] = BLOCK_COUNT_DISCARD,
    [BLOCK_WRITE_ZEROES] = BLOCK_COUNT_WRITE,
};

static void count(BlockQueue *q, const BlockReq *req, int err)
{
    BlockCount kind = counted_as[req->op];
    BlockCounters *c = &q->stats.of[kind];
    uint64_t ns = (uint64_t)(clock_ns() - block_priv((BlockReq *)req)->start_ns);

    if (err) {
        counter_add(&c->failed, 1);
    } else {
        counter_add(&c->ops, 1);
        counter_add(&c->bytes, req->len);
    }
    counter_add(&c->ns, ns);
    histogram_add(&c->times, ns);
    if (kind == BLOCK_COUNT_WRITE && req->offset + req->len > q->stats.end)
        counter_add(&q->stats.end, req->offset + req->len - q->stats.end);
}

void block_count_refused(BlockQueue *q, BlockOp op)
{
    counter_add(&q->stats.of[counted_as[op]].refused, 1);
}

static void answer(BlockQueue *q, BlockReq *req, int err)
{
    q->in_flight--;
    count(q, req, err);
    req->done(req, err);
}

/* Before the submitter hears of it. */
static void note_change(BlockQueue *q, const BlockReq *req)
{
    if (req->op == BLOCK_READ || req->op == BLOCK_FLUSH)
        return;
    if (block_priv((BlockReq *)req)->slow && q->map.shift)
        block_map_forget(&q->map, req->offset, req->len);
    if (q->dev->dirty)
        block_dirty_mark(q->dev->dirty, req->offset, req->len);
}

void block_finish(BlockReq *req, int err)
{
    BlockQueue *q = block_priv(req)->q;

    if (block_priv(req)->whole) {
        block_parts_finish(req, err);
        return;
    }
    q->active--;
    if (block_priv(req)->alone)
        q->exclusive = false;
    note_change(q, req);
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
        priv->skip = align_down((uint64_t)res, priv->q->dev->top->file->io_align);
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
    if (q->gated || __atomic_load_n(&q->dev->gate, __ATOMIC_ACQUIRE))
        block_gate_see(q);
    if (q->instant.head)
        n += answer_instant(q);
    dispatch_held(q);
    if (n && q->batch_end)
        q->batch_end(q->batch_opaque);
    block_commit(q);
    return n > 0;
}

/* Nothing was done for a while. */
static void lose_patience(BlockQueue *q)
{
    if (!__atomic_load_n(&q->dev->hurry, __ATOMIC_ACQUIRE))
        return;
    lock_acquire(&q->dev->chain_lock);
    image_cancel(q->dev->top);
    lock_release(&q->dev->chain_lock);
}

void block_drain(BlockQueue *q)
{
    struct pollfd p = {.fd = q->event_fd, .events = POLLIN};

    q->draining = true;
    on_turn(q);
    for (;;) {
        fd_event_take(q->event_fd); /* first: what is signalled later is seen by poll() */
        block_poll(q);
        if (!q->in_flight)
            break;
        if (poll(&p, 1, PATIENCE_MS) == 0)
            lose_patience(q);
    }
    q->draining = false;
}
