/* Virtqueues: what split and packed rings have in common (virtio 1.2, 2.6).
 *
 * Theory of operation.  The two layouts (virtq_split.c, virtq_packed.c) know where a
 * request is found and where it is returned.  What may be in it is checked here, once for
 * both, by the VqChain that collects it; and which requests are in flight is accounted
 * here, so that a driver that offers one twice, or a device that returns one twice, is
 * stopped before it does harm.
 *
 * Kicks.  Without EVENT_IDX we set a flag while we look at the ring anyway; with it we do
 * nothing, since the driver stays silent until the index that we last asked for.  Before
 * we stop looking we ask for the next one, and look once more: the full fence between the
 * two, and the driver's between its publishing and its reading of our wish, make sure
 * that at least one side sees the other (2.7.10, 2.8.10). */
#include "virtio/virtq_internal.h"

#include <inttypes.h>
#include <stdarg.h>

bool vq_break(Virtqueue *vq, const char *fmt, ...)
{
    char what[160];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    virtio_broken(vq->vdev, "queue %u: %s", vq->index, what);
    return false;
}

/* ---- chains ----------------------------------------------------------------------- */

VqChain chain_begin(Virtqueue *vq, VqReq *req)
{
    req->n_read = req->n_write = 0;
    req->read_bytes = 0;
    return (VqChain){.vq = vq, .req = req};
}

/* The longest chain is as long as the queue we offered (2.7.5.3.1), also when the driver
 * made its queue shorter: drivers count on it with indirect tables. */
static bool chain_step(VqChain *c)
{
    unsigned limit = c->vq->vdev->ops->queue_size;

    if (c->length++ < limit)
        return true;
    return vq_break(c->vq, "a chain loops or is longer than %u", limit);
}

bool chain_add(VqChain *c, uint64_t addr, uint32_t len, bool write)
{
    VqReq *req = c->req;
    void *host;

    if (!chain_step(c))
        return false;
    if (!len)
        return true; /* nothing to see: devices get no empty pieces */
    if (!write && req->n_write)
        return vq_break(c->vq, "a readable piece follows a writable one"); /* 2.7.4.2 */
    c->bytes += len;
    if (c->bytes > UINT32_MAX)
        return vq_break(c->vq, "a chain of more than 4 GiB"); /* 2.7.5.3.1 */
    host = gm_at(c->vq->vdev->gm, addr, len);
    if (!host)
        return vq_break(c->vq, "%" PRIu32 " bytes at 0x%" PRIx64 " are outside RAM", len,
                        addr);
    req->iov[req->n_read + req->n_write] = (struct iovec){host, len};
    if (write) {
        req->n_write++;
    } else {
        req->n_read++;
        req->read_bytes += len;
    }
    return true;
}

const uint8_t *chain_table(VqChain *c, uint64_t addr, uint32_t len, unsigned *ret_n)
{
    const uint8_t *table = NULL;

    if (!c->vq->indirect)
        vq_break(c->vq, "an indirect table, which was not negotiated");
    else if (!len || len % DESC_SIZE)
        vq_break(c->vq, "an indirect table of %" PRIu32 " bytes", len);
    else if (!(table = gm_at(c->vq->vdev->gm, addr, len)))
        vq_break(c->vq, "an indirect table at 0x%" PRIx64 ", outside RAM", addr);
    *ret_n = len / DESC_SIZE;
    return table;
}

bool chain_claim(VqChain *c, uint16_t id)
{
    Virtqueue *vq = c->vq;

    if (id >= vq->cfg.size)
        return vq_break(vq, "id %u in a queue of %u", id, vq->cfg.size);
    if (vq->busy[id / 64] & BIT64(id % 64))
        return vq_break(vq, "id %u is offered while it is in flight", id);
    vq->busy[id / 64] |= BIT64(id % 64);
    c->req->id = id;
    return true;
}

/* ---- requests --------------------------------------------------------------------- */

/* The rings may be touched. */
static bool usable(const Virtqueue *vq)
{
    return vq->active && !virtio_is_broken(vq->vdev);
}

/* Takes the request out of the account: false if it is not in it. */
static bool settle(Virtqueue *vq, const VqReq *req)
{
    uint64_t bit = BIT64(req->id % 64);

    if (req->id >= VQ_MAX_SIZE || !(vq->busy[req->id / 64] & bit))
        return false;
    vq->busy[req->id / 64] &= ~bit;
    vq->in_flight--;
    vq->held -= req->n_desc;
    return true;
}

bool vq_pop(Virtqueue *vq, VqReq *req)
{
    const VqLayout *layout = vq_layout(vq);

    if (!vq->budget || !usable(vq))
        return false;
    /* Empty: look once more after the driver can see that we want to be told. */
    if (!layout->pop(vq, req) &&
        (vq->kicks_off || !vq_enable_kicks(vq) || !layout->pop(vq, req)))
        return false;
    if (vq->budget != VQ_NO_BUDGET)
        vq->budget--;
    vq->in_flight++;
    vq->held += req->n_desc;
    counter_add(&vq->count.requests, 1);
    vq->vdev->activity++;
    return true;
}

void vq_unpop(Virtqueue *vq, const VqReq *req)
{
    if (!settle(vq, req))
        return;
    counter_add(&vq->count.requests, (uint64_t)-1);
    vq_layout(vq)->unpop(vq, req);
}

/* Tells the dirty log about the first `written` bytes of the writable part. */
static void mark_data(Virtqueue *vq, const VqReq *req, uint32_t written)
{
    const struct iovec *piece = vq_writable(req);

    if (!__atomic_load_n(&vq->vdev->gm->dirty_log, __ATOMIC_RELAXED))
        return;
    for (unsigned i = 0; i < req->n_write && written; i++) {
        uint32_t len = (uint32_t)MIN(piece[i].iov_len, written);

        gm_mark_dirty_host(vq->vdev->gm, piece[i].iov_base, len);
        written -= len;
    }
}

void vq_fill(Virtqueue *vq, const VqReq *req, uint32_t written)
{
    if (!settle(vq, req) || !usable(vq))
        return;
    mark_data(vq, req, written);
    vq_layout(vq)->fill(vq, req, written);
    vq->filled += req->n_desc;
    counter_add(&vq->count.bytes_read, req->read_bytes);
    counter_add(&vq->count.bytes_written, written);
}

void vq_flush(Virtqueue *vq)
{
    if (vq->filled && usable(vq)) {
        vq_layout(vq)->flush(vq);
        vq->unnotified = MIN(vq->unnotified + vq->filled, (unsigned)UINT16_MAX + 1);
        vq->vdev->activity++;
    }
    vq->filled = 0;
}

void vq_push(Virtqueue *vq, const VqReq *req, uint32_t written)
{
    vq_fill(vq, req, written);
    vq_flush(vq);
}

/* ---- notifications ---------------------------------------------------------------- */

void vq_notify(Virtqueue *vq)
{
    unsigned entries = vq->unnotified;

    if (!entries || !usable(vq))
        return;
    vq->unnotified = 0;
    /* The used index before the driver's wish: the driver writes its wish and then reads
     * the index, so that one of us sees the other (2.7.7.2). */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!vq_layout(vq)->wants_interrupt(vq, entries)) {
        counter_add(&vq->count.suppressed, 1);
        return;
    }
    counter_add(&vq->count.interrupts, 1);
    virtio_interrupt(vq->vdev, (int)vq->index);
}

bool vq_has_work(const Virtqueue *vq)
{
    return usable(vq) && vq_layout(vq)->has_work(vq);
}

bool vq_enable_kicks(Virtqueue *vq)
{
    if (!usable(vq))
        return false;
    vq_layout(vq)->show_kicks(vq, true);
    vq->kicks_off = false;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return vq_layout(vq)->has_work(vq);
}

void vq_disable_kicks(Virtqueue *vq)
{
    if (vq->kicks_off || !usable(vq))
        return;
    vq_layout(vq)->show_kicks(vq, false);
    vq->kicks_off = true;
}

/* ---- life-cycle ------------------------------------------------------------------- */

static void *map_area(Virtqueue *vq, unsigned area, uint64_t gpa)
{
    static const char *const name[] = {"descriptor", "driver", "device"};
    unsigned align;
    uint64_t len = vq_layout(vq)->area(vq, area, &align);
    void *host = gm_at(vq->vdev->gm, gpa, len);

    if (!is_aligned(gpa, align) || !host) {
        vq_break(vq, "the %s area at 0x%" PRIx64 " is %s", name[area], gpa,
                 host ? "not aligned" : "not in RAM");
        return NULL;
    }
    return host;
}

/* Without touching what is in the rings. */
static bool take_over(Virtqueue *vq, bool packed, bool event_idx, bool indirect)
{
    unsigned max = vq->vdev->ops->queue_size;

    const Virtqueue fresh = {
        .vdev = vq->vdev,
        .index = vq->index,
        .cfg = vq->cfg,
        .kick_fd = vq->kick_fd,
        .packed = packed,
        .event_idx = event_idx,
        .indirect = indirect,
        .avail_wrap = packed,
        .used_wrap = packed,
        .kicks_off = true,
        .budget = VQ_NO_BUDGET,
    };

    memcpy(vq, &fresh, offsetof(Virtqueue, count));
    if (!vq->cfg.size || vq->cfg.size > max || (!packed && !is_pow2(vq->cfg.size)))
        return vq_break(vq, "a size of %u, where %u is offered", vq->cfg.size, max);
    if ((vq->desc = map_area(vq, 0, vq->cfg.desc)) &&
        (vq->driver = map_area(vq, 1, vq->cfg.driver)) &&
        (vq->device = map_area(vq, 2, vq->cfg.device)))
        return true;
    vq->desc = NULL; /* it is not in use */
    return false;
}

bool vq_activate(Virtqueue *vq, bool packed, bool event_idx, bool indirect)
{
    if (!take_over(vq, packed, event_idx, indirect))
        return false;
    vq->active = true;
    vq_enable_kicks(vq);
    return true;
}

void vq_deactivate(Virtqueue *vq)
{
    vq->active = false;
    vq->in_flight = vq->held = vq->filled = vq->unnotified = 0;
    memset(vq->busy, 0, sizeof(vq->busy));
    vq->desc = vq->driver = vq->device = NULL;
}

/* ---- saved state ------------------------------------------------------------------ */

VqPosition vq_position(const Virtqueue *vq)
{
    return (VqPosition){.avail_idx = vq->avail_idx,
                        .used_idx = vq->used_idx,
                        .avail_wrap = vq->avail_wrap,
                        .used_wrap = vq->used_wrap};
}

bool vq_adopt(Virtqueue *vq, bool packed, bool event_idx, bool indirect,
              const VqPosition *at)
{
    if (!take_over(vq, packed, event_idx, indirect))
        return false;
    vq->avail_idx = vq->avail_seen = at->avail_idx;
    vq->used_idx = at->used_idx;
    vq->avail_wrap = at->avail_wrap;
    vq->used_wrap = at->used_wrap;
    return true;
}

bool vq_position_valid(const VqPosition *at, uint16_t size, bool packed,
                       unsigned *ret_in_flight)
{
    unsigned n = (uint16_t)(at->avail_idx - at->used_idx);

    if (packed) {
        if (at->avail_idx >= size || at->used_idx >= size)
            return false;
        n = at->avail_idx + (at->avail_wrap == at->used_wrap ? 0u : size) - at->used_idx;
    } else if (at->avail_wrap || at->used_wrap) {
        return false;
    }
    *ret_in_flight = n;
    return n <= size;
}

bool vq_claim(Virtqueue *vq, const VqClaim *claim, VqReq *ret)
{
    VqChain c = chain_begin(vq, ret);

    for (unsigned i = 0; i < claim->n_pieces; i++)
        if (!chain_add(&c, claim->piece[i].gpa, claim->piece[i].len, i >= claim->n_read))
            return false;
    if (!chain_claim(&c, claim->id))
        return false;
    ret->n_desc = claim->n_desc;
    vq->in_flight++;
    vq->held += claim->n_desc;
    return true;
}
