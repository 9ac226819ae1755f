/* Block device (virtio 1.2, 5.2): sectors of a BlockDev.
 *
 * Theory.  All queues are served by the device's one I/O thread and share one BlockQueue,
 * so that requests of several queues go to the host in one batch.  A request lives in a
 * slot from vq_pop() to vq_push(); slots are taken last in, first out, from an array per
 * queue, so that memory is touched only as deep as the guest queues.
 *
 * The cache.  Writes are volatile until a flush, unless the driver did not negotiate
 * flushes or turned the cache off (5.2.5.2, writeback): then each write is followed by a
 * flush of ours before it is completed. */
#include <errno.h>
#include <string.h>

#include "backend/block.h"
#include "util/bits.h"
#include "util/iov.h"
#include "util/log.h"
#include "virtio/devices.h"

/* 5.2.3 */
enum {
    BLK_F_SEG_MAX = 2,
    BLK_F_RO = 5,
    BLK_F_BLK_SIZE = 6,
    BLK_F_FLUSH = 9,
    BLK_F_TOPOLOGY = 10,
    BLK_F_CONFIG_WCE = 11,
    BLK_F_MQ = 12,
    BLK_F_DISCARD = 13,
    BLK_F_WRITE_ZEROES = 14,
};

/* 5.2.6 */
enum {
    BLK_T_IN = 0,
    BLK_T_OUT = 1,
    BLK_T_FLUSH = 4,
    BLK_T_GET_ID = 8,
    BLK_T_DISCARD = 11,
    BLK_T_WRITE_ZEROES = 13,
};
typedef enum { BLK_S_OK = 0, BLK_S_IOERR = 1, BLK_S_UNSUPP = 2, BLK_S_GOES_ON } BlkStatus;

enum {
    BLK_QUEUE_SIZE = 256,
    BLK_SEG_MAX = 126, /* with header and status, half a queue: drivers may shorten it */
    BLK_ID_LEN = 20,
    BLK_MAX_QUEUES = 64,
    /* More than this gains nothing, since one I/O thread serves them all: several queues
     * only spare the guest's CPUs a shared lock, and each costs it an interrupt vector.
     */
    BLK_AUTO_QUEUES = 4,
    BLK_MAX_DISCARD = 1 << 22,      /* sectors: 2 GiB */
    BLK_MAX_WRITE_ZEROES = 1 << 18, /* 128 MiB, which may have to be written */
    BLK_ZEROES_UNMAP = 1,
    /* Of data in flight; what comes on top waits in the rings.  Pausing, resetting and
     * ending a VM wait for all that is in flight, and a request may be of 4 GiB. */
    BLK_MAX_BYTES = 256 << 20,
};

typedef struct BlkHeader {
    uint32_t type, reserved;
    uint64_t sector;
} BlkHeader;

typedef struct BlkRange {
    uint64_t sector;
    uint32_t n_sectors, flags;
} BlkRange;

/* 5.2.4 */
typedef struct BlkConfig {
    uint64_t capacity;
    uint32_t size_max, seg_max;
    uint16_t cylinders;
    uint8_t heads, sectors;
    uint32_t blk_size;
    uint8_t physical_block_exp, alignment_offset;
    uint16_t min_io_size;
    uint32_t opt_io_size;
    uint8_t writeback, unused0;
    uint16_t num_queues;
    uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
    uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
    uint8_t write_zeroes_may_unmap, unused1[3];
} BlkConfig;
_Static_assert(sizeof(BlkConfig) == 64 && offsetof(BlkConfig, writeback) == 32 &&
                   offsetof(BlkConfig, write_zeroes_may_unmap) == 56,
               "virtio 1.2, 5.2.4");

typedef struct BlkOptions {
    VirtioCommonOptions common;
    BlockOptions block;
    uint64_t queues; /* 0: as many as CPUs, within reason */
    char *serial;
} BlkOptions;

typedef struct Blk Blk;
typedef struct BlkSlot BlkSlot;

struct BlkSlot {
    BlockReq io; /* first */
    Blk *blk;
    Virtqueue *vq;
    BlkSlot *next_free;
    uint8_t *status; /* in guest RAM */
    bool cut;        /* the last writable piece lost its last byte, the status */
    uint64_t bytes;  /* its part of blk->bytes */
    VqReq req;
};

typedef struct BlkQueue {
    BlkSlot *slots; /* one per ring entry: ids in flight are unique */
    BlkSlot *free;
    unsigned n_fresh; /* slots[n_fresh...] have never been used */
} BlkQueue;

struct Blk {
    VirtioDevice v;
    BlockDev *dev;
    char serial[BLK_ID_LEN];
    bool writeback; /* atomic: vCPU threads write it in the config space */

    /* The I/O thread's */
    BlockQueue *io;
    BlkQueue *queues;
    uint64_t to_notify; /* a bit per queue that was pushed to */
    uint64_t held_back; /* a bit per queue that was left because of BLK_MAX_BYTES */
    uint64_t bytes;     /* in flight */
    LogLimit log_limit;
};

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

static void notify(void *opaque)
{
    Blk *b = opaque;

    for (; b->to_notify; b->to_notify &= b->to_notify - 1)
        vq_notify(&b->v.queues[__builtin_ctzll(b->to_notify)].vq);
    for (; b->held_back && b->bytes < BLK_MAX_BYTES; b->held_back &= b->held_back - 1)
        virtio_queue_kick(&b->v, (unsigned)__builtin_ctzll(b->held_back));
}

static void log_failure(Blk *b, const BlockReq *io, int err)
{
    static const char *const what[] = {
        [BLOCK_READ] = "read",
        [BLOCK_WRITE] = "write",
        [BLOCK_FLUSH] = "flush",
        [BLOCK_DISCARD] = "discard",
        [BLOCK_WRITE_ZEROES] = "write zeroes",
    };

    if (log_limit(&b->log_limit))
        log_warn("%s: %s at byte %" G_GUINT64_FORMAT ": %s; the guest sees an I/O error",
                 b->v.id, what[io->op], io->offset, g_strerror(err));
}

static void on_done(BlockReq *io, int err)
{
    BlkSlot *s = (BlkSlot *)io;
    bool changed = io->op != BLOCK_READ && io->op != BLOCK_FLUSH;

    if (err)
        log_failure(s->blk, io, err);
    if (!err && changed && !__atomic_load_n(&s->blk->writeback, __ATOMIC_RELAXED)) {
        io->op = BLOCK_FLUSH; /* block_poll() commits it */
        block_submit(s->blk->io, io);
        return;
    }
    answer(s, err ? BLK_S_IOERR : BLK_S_OK);
}

/* ---- requests (5.2.6) -----------------------------------------------------------------
 */

static void submit(BlkSlot *s, BlockOp op, uint64_t offset, uint64_t len)
{
    s->io.op = op;
    s->io.offset = offset;
    s->io.len = len;
    s->io.done = on_done;
    s->bytes = op == BLOCK_DISCARD ? 0 : len; /* which moves none */
    s->blk->bytes += s->bytes;
    block_submit(s->blk->io, &s->io);
}

static bool in_range(const Blk *b, uint64_t sector, uint64_t len)
{
    uint64_t size = block_size(b->dev);

    return sector <= size / BLOCK_SECTOR &&
           range_within(sector * BLOCK_SECTOR, len, size);
}

static BlkStatus transfer(BlkSlot *s, BlockOp op, uint64_t sector)
{
    uint64_t len = iov_len(s->io.iov, s->io.n_iov);

    if (len % BLOCK_SECTOR || !in_range(s->blk, sector, len) ||
        (op == BLOCK_WRITE && block_readonly(s->blk->dev)))
        return BLK_S_IOERR;
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
        return BLK_S_UNSUPP;
    /* One segment, as the config space says. */
    if (iov_len(s->io.iov, s->io.n_iov) != sizeof(r))
        return BLK_S_IOERR;
    iov_to_buf(s->io.iov, s->io.n_iov, 0, &r, sizeof(r));
    if (r.flags & ~(zeroes ? BLK_ZEROES_UNMAP : 0u))
        return BLK_S_UNSUPP;
    if (r.n_sectors > (zeroes ? BLK_MAX_WRITE_ZEROES : BLK_MAX_DISCARD) ||
        !in_range(b, r.sector, (uint64_t)r.n_sectors * BLOCK_SECTOR))
        return BLK_S_IOERR;
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

    s->cut = false;
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

static void blk_handle(VirtioDevice *v, Virtqueue *vq)
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
    notify(b);
}

static bool blk_poll(VirtioDevice *v)
{
    return block_poll(((Blk *)v)->io);
}

/* ---- configuration --------------------------------------------------------------------
 */

static void blk_config_read(VirtioDevice *v, uint32_t offset, void *buf, uint32_t len)
{
    const Blk *b = (const Blk *)v;
    unsigned logical = block_logical_size(b->dev);
    unsigned physical = block_physical_size(b->dev);
    const BlkConfig c = {
        .capacity = block_size(b->dev) / BLOCK_SECTOR,
        .seg_max = BLK_SEG_MAX,
        .blk_size = logical,
        .physical_block_exp = (uint8_t)__builtin_ctz(physical / logical),
        .min_io_size = (uint16_t)(physical / logical),
        .writeback = __atomic_load_n(&b->writeback, __ATOMIC_RELAXED),
        .num_queues = (uint16_t)v->n_queues,
        .max_discard_sectors = BLK_MAX_DISCARD,
        .max_discard_seg = 1,
        .discard_sector_alignment = physical / BLOCK_SECTOR,
        .max_write_zeroes_sectors = BLK_MAX_WRITE_ZEROES,
        .max_write_zeroes_seg = 1,
        .write_zeroes_may_unmap = block_can_discard(b->dev),
    };

    memcpy(buf, (const uint8_t *)&c + offset, len);
}

static void blk_config_write(VirtioDevice *v, uint32_t offset, const void *buf,
                             uint32_t len)
{
    const uint32_t at = offsetof(BlkConfig, writeback);
    Blk *b = (Blk *)v;

    if (offset <= at && at - offset < len && virtio_has_feature(v, BLK_F_CONFIG_WCE) &&
        virtio_has_feature(v, BLK_F_FLUSH))
        __atomic_store_n(&b->writeback, ((const uint8_t *)buf)[at - offset] != 0,
                         __ATOMIC_RELAXED);
}

/* ---- life-cycle -----------------------------------------------------------------------
 */

typedef struct MakeQueue {
    Blk *blk;
    GError **error;
} MakeQueue;

static void make_queue(void *opaque)
{
    MakeQueue *m = opaque;
    Blk *b = m->blk;

    b->io = block_queue_new(b->dev, b->v.loop, b->v.n_queues * BLK_QUEUE_SIZE, m->error);
    if (b->io)
        block_queue_on_batch(b->io, notify, b);
}

static void free_queue(void *opaque)
{
    block_queue_free(opaque);
}

static uint64_t features(const Blk *b)
{
    uint64_t f = BIT64(BLK_F_SEG_MAX) | BIT64(BLK_F_BLK_SIZE) | BIT64(BLK_F_TOPOLOGY) |
                 BIT64(BLK_F_FLUSH) | BIT64(BLK_F_CONFIG_WCE);

    if (b->v.n_queues > 1)
        f |= BIT64(BLK_F_MQ);
    if (block_readonly(b->dev))
        return f | BIT64(BLK_F_RO);
    if (block_can_discard(b->dev))
        f |= BIT64(BLK_F_DISCARD);
    return f | BIT64(BLK_F_WRITE_ZEROES);
}

static bool blk_realize(VirtioDevice *v, const void *opaque, GError **error)
{
    const BlkOptions *o = opaque;
    Blk *b = (Blk *)v;

    b->dev = block_open(&o->block, error);
    if (!b->dev)
        return false;
    v->n_queues = o->queues ? (unsigned)o->queues : MIN(v->env->n_cpus, BLK_AUTO_QUEUES);
    v->n_queues = MAX(v->n_queues, 1);
    v->offered = features(b);
    b->writeback = true;
    if (o->serial)
        memcpy(b->serial, o->serial, MIN(strlen(o->serial), BLK_ID_LEN));

    b->queues = g_new0(BlkQueue, v->n_queues);
    for (unsigned i = 0; i < v->n_queues; i++) {
        b->queues[i].slots = g_try_new0(BlkSlot, BLK_QUEUE_SIZE);
        if (!b->queues[i].slots)
            return fail(error, VM_ERROR_IO, "out of memory for %u queues", v->n_queues);
    }
    ioloop_call(v->loop, make_queue, &(MakeQueue){b, error});
    return b->io != NULL;
}

static void blk_release(VirtioDevice *v)
{
    Blk *b = (Blk *)v;

    if (b->io)
        ioloop_call(v->loop, free_queue, b->io);
    for (unsigned i = 0; b->queues && i < v->n_queues; i++)
        g_free(b->queues[i].slots);
    g_free(b->queues);
    block_close(b->dev);
}

/* 5.2.5.2: without flushes there is no write cache. */
static bool blk_activate(VirtioDevice *v, GError **error)
{
    if (!virtio_has_feature(v, BLK_F_FLUSH))
        __atomic_store_n(&((Blk *)v)->writeback, false, __ATOMIC_RELAXED);
    return true;
}

static void blk_quiesce(VirtioDevice *v)
{
    block_drain(((Blk *)v)->io);
}

static void blk_reset(VirtioDevice *v)
{
    __atomic_store_n(&((Blk *)v)->writeback, true, __ATOMIC_RELAXED);
}

static bool blk_check(void *opaque, GError **error)
{
    const BlkOptions *o = opaque;

    return !o->serial || strlen(o->serial) <= BLK_ID_LEN ||
           fail(error, VM_ERROR_INVALID, "serial '%s' is longer than %d bytes", o->serial,
                BLK_ID_LEN);
}

static const ParamDesc blk_desc[] = {
    BLOCK_PARAMS(BlkOptions, block),
    VIRTIO_PARAMS(BlkOptions, common),
    {.key = "queues",
     .type = PARAM_UINT,
     .offset = offsetof(BlkOptions, queues),
     .max = BLK_MAX_QUEUES,
     .arg = "N",
     .help = "request queues; 0: one per CPU, up to 4"},
    {.key = "serial",
     .type = PARAM_STRING,
     .offset = offsetof(BlkOptions, serial),
     .arg = "STR",
     .help = "serial number, up to 20 bytes"},
    {},
};

static const ParamTable blk_params = {
    .size = sizeof(BlkOptions), .desc = blk_desc, .check = blk_check};

const VirtioOps virtio_blk_ops = {
    .name = "blk",
    .id = 2,
    .pci_class = 0x010000, /* mass storage, SCSI: what guests expect of virtio */
    .option = "disk",
    .help = "a disk",
    .params = &blk_params,
    .size = sizeof(Blk),
    .queue_size = BLK_QUEUE_SIZE,
    .config_size = offsetof(BlkConfig, unused1) + sizeof(((BlkConfig *)0)->unused1),
    .own_thread = true,
    .realize = blk_realize,
    .release = blk_release,
    .config_read = blk_config_read,
    .config_write = blk_config_write,
    .activate = blk_activate,
    .handle = blk_handle,
    .poll = blk_poll,
    .quiesce = blk_quiesce,
    .reset = blk_reset,
};
