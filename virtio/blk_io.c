/* Requests of a block device (virtio 1.2, 5.2.6), on its I/O thread.
 *
 * A request lives in a slot from vq_pop() to vq_push(); slots are taken last in, first
 * out, from an array per queue, so that memory is touched only as deep as the guest
 * queues. */
#include <errno.h>
#include <string.h>

#include "blk_private.h"
#include "util/bits.h"
#include "util/iov.h"

/* ---- slots and answers ---------------------------------------------------------------
 */

static BlkSlot *slot_take(BlkQueue *q)
{
    BlkSlot *s = q->free;

    if (s)
        q->free = s->next_free;
    else if (q->n_fresh < BLK_QUEUE_SIZE)
        s = &q->slots[q->n_fresh++];
    return s;
}

static void slot_give(BlkQueue *q, BlkSlot *s)
{
    s->next_free = q->free;
    q->free = s;
}

/* Once for each request, whatever became of it. */
static void answer(BlkSlot *s, BlkStatus status)
{
    Blk *b = s->blk;
    VqReq *req = &s->req;

    if (s->status)
        *s->status = status;
    if (s->cut)
        req->iov[req->n_read + req->n_write - 1].iov_len++;
    vq_push(s->vq, req, (uint32_t)iov_len(vq_writable(req), req->n_write));
    b->to_notify |= BIT64(s->vq->index);
    b->bytes -= s->bytes;
    slot_give(&b->queues[s->vq->index], s);
}

void blk_notify(void *opaque)
{
    Blk *b = opaque;

    for (; b->to_notify; b->to_notify &= b->to_notify - 1)
        vq_notify(&b->v.queues[__builtin_ctzll(b->to_notify)].vq);
    for (; b->held_back && b->bytes < BLK_MAX_BYTES; b->held_back &= b->held_back - 1)
        virtio_queue_kick(&b->v, (unsigned)__builtin_ctzll(b->held_back));
}

/* ---- failures ------------------------------------------------------------------------
 */

static const char *const op_names[] = {
    [BLOCK_READ] = "read",
    [BLOCK_WRITE] = "write",
    [BLOCK_FLUSH] = "flush",
    [BLOCK_DISCARD] = "discard",
    [BLOCK_WRITE_ZEROES] = "write zeroes",
};

static BlkOnError decide(const Blk *b, const BlockReq *io, int err)
{
    BlkOnError action = (BlkOnError)b->on_error[io->op != BLOCK_READ];

    if (action == BLK_ENOSPC)
        action = err == ENOSPC ? BLK_STOP : BLK_REPORT;
    return action == BLK_STOP && !b->v.env->stop ? BLK_REPORT : action;
}

static void tell(Blk *b, const BlockReq *io, int err, BlkOnError action)
{
    static const struct {
        const char *word, *text;
    } actions[] = {
        [BLK_REPORT] = {"report", "the guest sees an I/O error"},
        [BLK_STOP] = {"stop", "the VM is stopped; it tries again when told to continue"},
        [BLK_IGNORE] = {"ignore", "the guest is not told"},
    };
    const VirtioEnv *env = b->v.env;

    /* The first that stops the VM is told of in any case: who manages it waits for that.
     */
    if (!log_limit(&b->log_limit) && (action != BLK_STOP || b->stopped))
        return;
    log_warn("%s: %s at byte %" G_GUINT64_FORMAT ": %s; %s", b->v.id, op_names[io->op],
             io->offset, g_strerror(err), actions[action].text);
    if (env->event)
        env->event(env->opaque, "BLOCK_IO_ERROR",
                   json_pack("{s:s, s:s, s:s, s:s, s:b, s:s}", "device", b->v.id,
                             "node-name", b->v.id, "operation",
                             io->op == BLOCK_READ ? "read" : "write", "action",
                             actions[action].word, "nospace", err == ENOSPC, "reason",
                             g_strerror(err)));
}

static void fail_request(BlkSlot *s, int err)
{
    Blk *b = s->blk;
    BlkOnError action = decide(b, &s->io, err);

    tell(b, &s->io, err, action);
    if (action != BLK_STOP) {
        answer(s, action == BLK_IGNORE ? BLK_S_OK : BLK_S_IOERR);
        return;
    }
    s->next_free = b->stopped;
    b->stopped = s;
    b->v.env->stop(b->v.env->opaque, b->v.id);
}

void blk_forget(Blk *b)
{
    BlkSlot *s;

    while ((s = b->stopped)) {
        b->stopped = s->next_free;
        b->bytes -= s->bytes;
        slot_give(&b->queues[s->vq->index], s);
    }
}

VqReq *blk_stop_again(Blk *b, unsigned queue)
{
    BlkSlot *s = slot_take(&b->queues[queue]);

    if (!s)
        return NULL;
    s->blk = b;
    s->vq = &b->v.queues[queue].vq;
    s->bytes = 0;
    s->unserved = true;
    s->next_free = b->stopped;
    b->stopped = s;
    return &s->req;
}

/* Serving took the header off the first pieces, and the status off the last. */
void blk_popped(const BlkSlot *s, VqReq *ret)
{
    struct iovec *last = &ret->iov[s->req.n_read + s->req.n_write - 1];
    size_t missing;

    memcpy(ret, &s->req, sizeof(*ret));
    if (s->unserved)
        return;
    missing = ret->read_bytes - iov_len(vq_readable(ret), ret->n_read);
    if (missing) {
        struct iovec *first = &ret->iov[s->io.iov - s->req.iov];

        first->iov_base = (uint8_t *)first->iov_base - missing;
        first->iov_len += missing;
    }
    if (s->cut)
        last->iov_len++;
}

static void on_done(BlockReq *io, int err)
{
    BlkSlot *s = (BlkSlot *)io;
    bool changed = io->op != BLOCK_READ && io->op != BLOCK_FLUSH;

    virtio_expect(&s->blk->v);
    if (err) {
        fail_request(s, err);
    } else if (changed && !__atomic_load_n(&s->blk->writeback, __ATOMIC_RELAXED)) {
        io->op = BLOCK_FLUSH; /* block_poll() commits it */
        block_submit(s->blk->io, io);
    } else {
        answer(s, BLK_S_OK);
    }
}

/* ---- requests (5.2.6) -----------------------------------------------------------------
 */

static void submit(BlkSlot *s, BlockOp op, uint64_t offset, uint64_t len)
{
    s->io.op = op;
    s->io.offset = offset;
    s->io.len = len;
    s->io.done = on_done;
    s->bytes = op == BLOCK_DISCARD ? BLK_DISCARD_BYTES : len;
    s->blk->bytes += s->bytes;
    block_submit(s->blk->io, &s->io);
}

static bool in_range(const Blk *b, uint64_t sector, uint64_t len)
{
    uint64_t size = block_size(b->dev);

    return sector <= size / BLOCK_SECTOR &&
           range_within(sector * BLOCK_SECTOR, len, size);
}

static BlkStatus refuse(BlkSlot *s, BlockOp op, BlkStatus status)
{
    block_count_refused(s->blk->io, op);
    return status;
}

static BlkStatus transfer(BlkSlot *s, BlockOp op, uint64_t sector)
{
    uint64_t len = iov_len(s->io.iov, s->io.n_iov);

    if (len % BLOCK_SECTOR || !in_range(s->blk, sector, len) ||
        (op == BLOCK_WRITE && block_readonly(s->blk->dev)))
        return refuse(s, op, BLK_S_IOERR);
    if (!len)
        return BLK_S_OK;
    submit(s, op, sector * BLOCK_SECTOR, len);
    return BLK_S_GOES_ON;
}

/* DISCARD and WRITE_ZEROES; `data` is what followed the header. */
static BlkStatus change_range(BlkSlot *s, BlockOp op)
{
    const bool zeroes = op == BLOCK_WRITE_ZEROES;
    const Blk *b = s->blk;
    BlkRange r;

    if (!virtio_has_feature(&b->v, zeroes ? BLK_F_WRITE_ZEROES : BLK_F_DISCARD))
        return refuse(s, op, BLK_S_UNSUPP);
    /* One segment, as the config space says. */
    if (iov_len(s->io.iov, s->io.n_iov) != sizeof(r))
        return refuse(s, op, BLK_S_IOERR);
    iov_to_buf(s->io.iov, s->io.n_iov, 0, &r, sizeof(r));
    if (r.flags & ~(zeroes ? BLK_ZEROES_UNMAP : 0u))
        return refuse(s, op, BLK_S_UNSUPP);
    if (r.n_sectors > (zeroes ? BLK_MAX_WRITE_ZEROES : BLK_MAX_DISCARD) ||
        !in_range(b, r.sector, (uint64_t)r.n_sectors * BLOCK_SECTOR))
        return refuse(s, op, BLK_S_IOERR);
    s->io.may_unmap = r.flags & BLK_ZEROES_UNMAP;
    submit(s, op, r.sector * BLOCK_SECTOR, (uint64_t)r.n_sectors * BLOCK_SECTOR);
    return BLK_S_GOES_ON;
}

static BlkStatus get_id(BlkSlot *s)
{
    iov_from_buf(s->io.iov, s->io.n_iov, 0, s->blk->serial, BLK_ID_LEN);
    return BLK_S_OK;
}

/* The data of a request: what follows the header, */
static void use_readable(BlkSlot *s)
{
    struct iovec *iov = s->req.iov;
    size_t skip = sizeof(BlkHeader);
    unsigned n = s->req.n_read;

    for (; n && iov->iov_len <= skip; iov++, n--)
        skip -= iov->iov_len;
    if (n) {
        iov->iov_base = (uint8_t *)iov->iov_base + skip;
        iov->iov_len -= skip;
    }
    s->io.iov = iov;
    s->io.n_iov = n;
}

/* or what comes before the status. */
static void use_writable(BlkSlot *s)
{
    struct iovec *iov = s->req.iov + s->req.n_read;
    struct iovec *last = &iov[s->req.n_write - 1];

    s->io.iov = iov;
    s->io.n_iov = s->req.n_write;
    if (last->iov_len == 1) {
        s->io.n_iov--;
    } else {
        s->cut = true;
        last->iov_len--;
    }
}

static BlkStatus start(BlkSlot *s, const BlkHeader *h)
{
    switch (h->type) {
    case BLK_T_IN:
        use_writable(s);
        return transfer(s, BLOCK_READ, h->sector);
    case BLK_T_OUT:
        use_readable(s);
        return transfer(s, BLOCK_WRITE, h->sector);
    case BLK_T_FLUSH:
        submit(s, BLOCK_FLUSH, 0, 0);
        return BLK_S_GOES_ON;
    case BLK_T_GET_ID:
        use_writable(s);
        return get_id(s);
    case BLK_T_DISCARD:
        use_readable(s);
        return change_range(s, BLOCK_DISCARD);
    case BLK_T_WRITE_ZEROES:
        use_readable(s);
        return change_range(s, BLOCK_WRITE_ZEROES);
    default:
        return BLK_S_UNSUPP;
    }
}

static void serve(BlkSlot *s)
{
    VirtioDevice *v = &s->blk->v;
    const VqReq *req = &s->req;
    const struct iovec *last = &req->iov[req->n_read + req->n_write - 1];
    BlkStatus status = BLK_S_IOERR;
    BlkHeader h;

    s->cut = s->unserved = false;
    s->bytes = 0;
    s->status = NULL;
    if (iov_to_buf(vq_readable(req), req->n_read, 0, &h, sizeof(h)) < sizeof(h)) {
        virtio_broken(v, "a request without a whole header");
    } else if (!req->n_write) {
        virtio_broken(v, "a request without room for its status");
    } else {
        s->status = (uint8_t *)last->iov_base + last->iov_len - 1;
        status = start(s, &h);
    }
    if (status != BLK_S_GOES_ON)
        answer(s, status);
}

/* Once through the list: what fails again at once, comes back to its head. */
void blk_retry(Blk *b)
{
    BlkSlot *s = b->stopped, *next;

    b->stopped = NULL;
    for (; s; s = next) {
        next = s->next_free;
        if (s->unserved)
            serve(s);
        else
            block_submit(b->io, &s->io);
    }
    block_commit(b->io);
    blk_notify(b);
}

void blk_handle(VirtioDevice *v, Virtqueue *vq)
{
    Blk *b = (Blk *)v;
    BlkQueue *q = &b->queues[vq->index];
    BlkSlot *s;

    while (b->bytes < BLK_MAX_BYTES && (s = slot_take(q))) {
        if (!vq_pop(vq, &s->req)) {
            slot_give(q, s);
            break;
        }
        s->blk = b;
        s->vq = vq;
        serve(s);
    }
    if (b->bytes >= BLK_MAX_BYTES)
        b->held_back |= BIT64(vq->index);
    block_commit(b->io);
    blk_notify(b);
}
