/* The network card's receive queues (virtio 1.2, 5.1.6.3, 5.1.6.4).
 *
 * Frames are pulled: the host's end is read while the driver has buffers for it, straight
 * into these, and left alone when it has none, so that the host's queue holds back the
 * sender.
 *
 * Buffers are taken off the ring ahead of need and stay `staged` until a frame fills
 * them.  With mergeable buffers a frame may need many, and how many is known only after
 * it was read.  So a read goes into a list: the oldest staged buffers, as much as frames
 * of late needed, and after them `spill`, our own, for what they could not take, which is
 * then copied into further buffers.  Small frames thus cost a short list, large ones no
 * copy, and none is lost for want of a buffer: it is held until the driver offers more.
 *
 * A card that is `steered` learns from the frame which queue it is for, or what to report
 * of it: each frame is read into `spill`, and copied from there.  One that is held keeps
 * those for other queues waiting, so it is dropped if its own gets no buffers soon. */
#include "util/bits.h"
#include "util/iov.h"
#include "virtio/net_private.h"

enum {
    RX_BATCH = 128, /* frames per turn of the loop */
    RX_FLUSH = 16,  /* buffers shown to the driver together */
    RX_SMALL = 2048,
    HDR_NUM_BUFFERS = offsetof(VnetHdr, num_buffers),
};
static const int64_t HELD_NS = 2000000;

typedef enum { RX_MORE, RX_IDLE, RX_STARVED } RxVerdict;

/* ---- buffers ---------------------------------------------------------------------- */

static unsigned staged_reqs(const NetRx *rx)
{
    return rx->end_req - rx->first_req;
}

/* Room for a chain of any length; moves what is staged to the front to make it. */
static bool make_room(NetRx *rx)
{
    unsigned n_req = staged_reqs(rx), n_iov = rx->end_iov - rx->first_iov;

    if (n_req == RX_REQS || n_iov + VQ_MAX_SIZE > RX_IOVS)
        return false;
    if (rx->end_req < RX_REQS && rx->end_iov + VQ_MAX_SIZE <= RX_IOVS)
        return true;
    memmove(rx->req, rx->req + rx->first_req, n_req * sizeof(rx->req[0]));
    memmove(rx->iov, rx->iov + rx->first_iov, n_iov * sizeof(rx->iov[0]));
    rx->first_req = rx->first_iov = 0;
    rx->end_req = n_req;
    rx->end_iov = n_iov;
    return true;
}

/* Stages until there are `want` bytes: false if the ring or the room ends before. */
static bool stage(Net *n, unsigned pair, size_t want)
{
    NetRx *rx = &n->pair[pair].rx;
    VqReq *req = &rx->scratch;

    while (rx->bytes < want) {
        size_t bytes;

        if (!make_room(rx) || !vq_pop(net_rxq(n, pair), req))
            return false;
        bytes = iov_len(vq_writable(req), req->n_write);
        if (bytes < n->hdr_len) { /* 5.1.6.3.1 */
            virtio_broken(&n->v, "a receive buffer of %zu bytes", bytes);
            return false;
        }
        rx->req[rx->end_req++] = (RxReq){req->id, req->n_desc, req->n_write, bytes};
        memcpy(rx->iov + rx->end_iov, vq_writable(req),
               req->n_write * sizeof(rx->iov[0]));
        rx->end_iov += req->n_write;
        rx->bytes += bytes;
    }
    return true;
}

/* More than was staged is not to be had, whatever the driver offers. */
static bool is_full(Net *n, unsigned pair)
{
    const Virtqueue *vq = net_rxq(n, pair);

    return !make_room(&n->pair[pair].rx) || vq->held >= vq->cfg.size;
}

/* The staged request again, as vq_fill() and vq_unpop() know it. */
static const VqReq *as_req(NetRx *rx, const RxReq *r, const struct iovec *iov)
{
    VqReq *req = &rx->scratch;

    req->id = r->id;
    req->n_desc = r->n_desc;
    req->n_read = 0;
    req->read_bytes = 0;
    req->n_write = r->n_iov;
    memcpy(req->iov, iov, r->n_iov * sizeof(*iov));
    return req;
}

static void flush(Net *n, unsigned pair)
{
    vq_flush(net_rxq(n, pair));
    n->pair[pair].rx.filled = 0;
    vq_notify(net_rxq(n, pair));
}

/* Gives `len` bytes of frame, which lie in the oldest staged buffers, to the driver. */
static void give(Net *n, unsigned pair, size_t len)
{
    NetRx *rx = &n->pair[pair].rx;
    const struct iovec *iov = rx->iov + rx->first_iov;
    unsigned n_iov = rx->end_iov - rx->first_iov;
    uint16_t n_bufs = 0;
    uint8_t no_flags = 0;
    size_t frame = len - n->hdr_len;

    for (size_t bytes = 0; bytes < len; n_bufs++)
        bytes += rx->req[rx->first_req + n_bufs].bytes;
    iov_from_buf(iov, n_iov, HDR_NUM_BUFFERS, &n_bufs, sizeof(n_bufs));
    if (!virtio_has_feature(&n->v, NET_F_GUEST_CSUM)) /* 5.1.6.4.1 */
        iov_from_buf(iov, n_iov, 0, &no_flags, sizeof(no_flags));

    for (; n_bufs; n_bufs--) {
        RxReq *r = &rx->req[rx->first_req++];
        uint32_t written = (uint32_t)MIN(len, r->bytes);

        vq_fill(net_rxq(n, pair), as_req(rx, r, rx->iov + rx->first_iov), written);
        rx->filled++;
        rx->first_iov += r->n_iov;
        rx->bytes -= r->bytes;
        len -= written;
    }
    counter_add(&rx->count.frames, 1);
    counter_add(&rx->count.bytes, frame);
    if (rx->filled >= RX_FLUSH)
        flush(n, pair);
}

static void lose_held(Net *n, unsigned pair)
{
    NetRx *rx = &n->pair[pair].rx;

    if (rx->held)
        counter_add(&rx->count.dropped, 1);
    rx->held = 0;
    if (!pair)
        ioloop_timer_cancel(&n->held_timer);
}

/* The link is down: what the host has for us is taken from it and lost. */
static RxVerdict drop(NetPair *p)
{
    const struct iovec spill = {p->rx.spill, sizeof(p->rx.spill)};
    bool held = p->rx.held;

    p->rx.held = 0;
    if (!held && !netdev_receive(p->wire, &spill, 1))
        return RX_IDLE;
    counter_add(&p->rx.count.dropped, 1);
    return RX_MORE;
}

/* ---- a queue with a wire ----------------------------------------------------------- */

/* The list that the next frame is read into; *ret_room is what of it is guest memory. */
static unsigned make_list(const Net *n, NetRx *rx, size_t *ret_room)
{
    unsigned n_list = 0;

    *ret_room = 0;
    for (unsigned r = rx->first_req; r < rx->end_req && *ret_room < rx->want; r++) {
        *ret_room += rx->req[r].bytes;
        n_list += rx->req[r].n_iov;
    }
    memcpy(rx->list, rx->iov + rx->first_iov, n_list * sizeof(rx->list[0]));
    if (n->mergeable && *ret_room < NET_MAX_FRAME)
        rx->list[n_list++] = (struct iovec){rx->spill, sizeof(rx->spill)};
    return n_list;
}

static RxVerdict give_held(Net *n, unsigned pair)
{
    NetRx *rx = &n->pair[pair].rx;
    size_t len = rx->held;

    if (!stage(n, pair, len)) {
        if (!is_full(n, pair))
            return RX_STARVED;
        lose_held(n, pair); /* all that the driver can ever offer is too little for it */
        return RX_MORE;
    }
    iov_from_buf(rx->iov + rx->first_iov, rx->end_iov - rx->first_iov, rx->held_at,
                 rx->spill, len - rx->held_at);
    rx->held = 0;
    give(n, pair, len);
    return RX_MORE;
}

static RxVerdict receive(Net *n, unsigned pair)
{
    NetRx *rx = &n->pair[pair].rx;
    unsigned n_list;
    size_t room;
    ssize_t len;

    if (rx->held)
        return give_held(n, pair);
    stage(n, pair, rx->want);
    if (!staged_reqs(rx) || virtio_is_broken(&n->v))
        return RX_STARVED;
    n_list = make_list(n, rx, &room);
    len = netdev_receive(n->pair[pair].wire, rx->list, n_list);
    if (!len)
        return RX_IDLE;
    if (len < NET_HDR_LEN) {
        counter_add(&rx->count.dropped, 1);
        return RX_MORE;
    }
    if (n->mergeable)
        rx->want = (size_t)len > RX_SMALL ? NET_MAX_FRAME : RX_SMALL;
    if ((size_t)len > room) {
        rx->held = (size_t)len;
        rx->held_at = room;
        return give_held(n, pair);
    }
    give(n, pair, (size_t)len);
    return RX_MORE;
}

/* ---- a wire that several share, or hashes -------------------------------------------
 */

static RxVerdict wait_for_buffers(Net *n)
{
    if (!n->held_timer.loop)
        ioloop_timer(n->v.loop, &n->held_timer, clock_ns() + HELD_NS, n->held_timer.fn,
                     n);
    return RX_STARVED;
}

/* The frame in spill, with the driver's header, to the queue that it is for. */
static RxVerdict give_steered(Net *n)
{
    unsigned pair = n->held_pair;
    NetRx *rx = &n->pair[pair].rx;
    NetRx *from = &n->pair[0].rx;
    size_t body = from->held - NET_HDR_LEN, len = n->hdr_len + body;
    NetHashHdr h = {.hash_value = n->held_hash, .hash_report = n->held_report};
    const struct iovec *iov;
    unsigned n_iov;

    if (!stage(n, pair, n->mergeable ? len : 1)) {
        if (virtio_is_broken(&n->v) || !is_full(n, pair))
            return wait_for_buffers(n);
        lose_held(n, 0);
        return RX_MORE;
    }
    if (!n->mergeable && rx->req[rx->first_req].bytes < len) {
        lose_held(n, 0);
        return RX_MORE;
    }
    memcpy(&h.h, from->spill, sizeof(h.h));
    iov = rx->iov + rx->first_iov;
    n_iov = rx->end_iov - rx->first_iov;
    iov_from_buf(iov, n_iov, 0, &h, n->hdr_len);
    iov_from_buf(iov, n_iov, n->hdr_len, from->spill + NET_HDR_LEN, body);
    from->held = 0;
    ioloop_timer_cancel(&n->held_timer);
    give(n, pair, len);
    return RX_MORE;
}

static RxVerdict receive_steered(Net *n)
{
    NetRx *from = &n->pair[0].rx;
    const struct iovec spill = {from->spill, sizeof(from->spill)};
    ssize_t len;

    if (from->held)
        return give_steered(n);
    if (virtio_is_broken(&n->v))
        return RX_STARVED;
    len = netdev_receive(n->pair[0].wire, &spill, 1);
    if (!len)
        return RX_IDLE;
    if (len < NET_HDR_LEN) {
        counter_add(&from->count.dropped, 1);
        return RX_MORE;
    }
    from->held = (size_t)len;
    n->held_pair = net_steer(n, from->spill + NET_HDR_LEN, from->held - NET_HDR_LEN,
                             &n->held_hash, &n->held_report);
    return give_steered(n);
}

/* ---- either ----------------------------------------------------------------------- */

static RxVerdict receive_one(Net *n, unsigned pair)
{
    if (!net_link_is_up(n))
        return drop(&n->pair[pair]);
    return n->steered ? receive_steered(n) : receive(n, pair);
}

/* The queue whose buffers ran out; true: they have not, by now. */
static bool look_again(Net *n, unsigned pair)
{
    Virtqueue *vq = net_rxq(n, n->steered && n->pair[0].rx.held ? n->held_pair : pair);
    bool again = vq_enable_kicks(vq);

    if (again)
        vq_disable_kicks(vq);
    return again;
}

/* One turn at a pair's wire, for the queues `pair` to `end` - 1. */
static void run(Net *n, unsigned pair, unsigned end)
{
    bool starved = false;

    for (unsigned i = pair; i < end; i++) /* while there are buffers we need not hear of
                                             more */
        vq_disable_kicks(net_rxq(n, i));
    for (unsigned i = 0; i < RX_BATCH && !starved; i++) {
        RxVerdict verdict = receive_one(n, pair);

        if (verdict == RX_IDLE)
            break;
        starved = verdict == RX_STARVED && !look_again(n, pair);
    }
    for (unsigned i = pair; i < end; i++)
        flush(n, i);
    netdev_set_reading(n->pair[pair].wire, !starved && !virtio_is_broken(&n->v));
}

void net_rx_run(Net *n, unsigned pair)
{
    if (n->steered)
        run(n, 0, n->rx_pairs);
    else if (pair < n->rx_pairs)
        run(n, pair, pair + 1);
}

void net_rx_run_all(Net *n)
{
    for (unsigned i = 0; i < (n->steered ? 1 : n->rx_pairs); i++)
        net_rx_run(n, i);
}

static void held_too_long(void *opaque)
{
    Net *n = opaque;

    lose_held(n, 0);
    net_rx_run(n, 0);
}

void net_rx_start(Net *n)
{
    n->mergeable = virtio_has_feature(&n->v, NET_F_MRG_RXBUF);
    for (unsigned i = 0; i < n->max_pairs; i++)
        n->pair[i].rx.want = n->mergeable ? RX_SMALL : 1;
    n->held_timer.fn = held_too_long;
}

void net_rx_steering(Net *n)
{
    for (unsigned i = 0; i < n->max_pairs; i++)
        lose_held(n, i);
}

static void unstage(Net *n, unsigned pair)
{
    NetRx *rx = &n->pair[pair].rx;

    while (rx->end_req > rx->first_req) {
        const RxReq *r = &rx->req[--rx->end_req];

        rx->end_iov -= r->n_iov;
        vq_unpop(net_rxq(n, pair), as_req(rx, r, rx->iov + rx->end_iov));
    }
}

void net_rx_quiesce(Net *n)
{
    for (unsigned i = 0; i < n->max_pairs; i++) {
        netdev_set_reading(n->pair[i].wire, false);
        unstage(n, i);
        lose_held(n, i); /* its first part may have been in them */
    }
    net_rx_reset(n);
}

void net_rx_reset(Net *n)
{
    for (unsigned i = 0; i < n->max_pairs; i++) {
        NetRx *rx = &n->pair[i].rx;

        netdev_set_reading(n->pair[i].wire, false);
        rx->first_req = rx->end_req = rx->first_iov = rx->end_iov = rx->filled = 0;
        rx->bytes = rx->held = 0;
    }
    ioloop_timer_cancel(&n->held_timer);
}
