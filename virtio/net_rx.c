/* The network card's receive queue (virtio 1.2, 5.1.6.3, 5.1.6.4).
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
 */
#include "util/bits.h"
#include "util/iov.h"
#include "virtio/net_private.h"

enum {
    RX_BATCH = 64, /* frames per turn of the loop */
    RX_FLUSH = 16, /* buffers shown to the driver together */
    RX_SMALL = 2048,
    HDR_NUM_BUFFERS = offsetof(NetHdr, num_buffers),
};

typedef enum { RX_MORE, RX_IDLE, RX_STARVED } RxVerdict;

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
static bool stage(Net *n, size_t want)
{
    NetRx *rx = &n->rx;
    VqReq *req = &rx->scratch;

    while (rx->bytes < want) {
        size_t bytes;

        if (!make_room(rx) || !vq_pop(net_queue(n, NET_RXQ), req))
            return false;
        bytes = iov_len(vq_writable(req), req->n_write);
        if (bytes < NET_HDR_LEN) { /* 5.1.6.3.1 */
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

/* The staged request again, as vq_fill() and vq_unpop() know it. */
static const VqReq *as_req(NetRx *rx, const RxReq *r, const struct iovec *iov)
{
    rx->scratch.id = r->id;
    rx->scratch.n_desc = r->n_desc;
    rx->scratch.n_read = 0;
    rx->scratch.read_bytes = 0;
    rx->scratch.n_write = r->n_iov;
    memcpy(rx->scratch.iov, iov, r->n_iov * sizeof(*iov));
    return &rx->scratch;
}

static void flush(Net *n)
{
    vq_flush(net_queue(n, NET_RXQ));
    n->rx.filled = 0;
    vq_notify(net_queue(n, NET_RXQ));
}

/* Gives `len` bytes of frame, which lie in the oldest staged buffers, to the driver. */
static void give(Net *n, size_t len)
{
    NetRx *rx = &n->rx;
    const struct iovec *iov = rx->iov + rx->first_iov;
    unsigned n_iov = rx->end_iov - rx->first_iov;
    uint16_t n_bufs = 0;
    uint8_t no_flags = 0;
    size_t frame = len;

    for (size_t bytes = 0; bytes < len; n_bufs++)
        bytes += rx->req[rx->first_req + n_bufs].bytes;
    iov_from_buf(iov, n_iov, HDR_NUM_BUFFERS, &n_bufs, sizeof(n_bufs));
    if (!virtio_has_feature(&n->v, NET_F_GUEST_CSUM)) /* 5.1.6.4.1 */
        iov_from_buf(iov, n_iov, 0, &no_flags, sizeof(no_flags));

    for (; n_bufs; n_bufs--) {
        RxReq *r = &rx->req[rx->first_req++];
        uint32_t written = (uint32_t)MIN(len, r->bytes);

        vq_fill(net_queue(n, NET_RXQ), as_req(rx, r, rx->iov + rx->first_iov), written);
        rx->filled++;
        rx->first_iov += r->n_iov;
        rx->bytes -= r->bytes;
        len -= written;
    }
    counter_add(&rx->count.frames, 1);
    counter_add(&rx->count.bytes, frame - NET_HDR_LEN);
    if (rx->filled >= RX_FLUSH)
        flush(n);
}

/* The list that the next frame is read into; *ret_room is what of it is guest memory. */
static unsigned make_list(Net *n, size_t *ret_room)
{
    NetRx *rx = &n->rx;
    unsigned n_list = 0;

    *ret_room = 0;
    for (unsigned r = rx->first_req; r < rx->end_req && *ret_room < rx->want; r++) {
        *ret_room += rx->req[r].bytes;
        n_list += rx->req[r].n_iov;
    }
    memcpy(rx->list, rx->iov + rx->first_iov, n_list * sizeof(rx->list[0]));
    if (rx->mergeable && *ret_room < NET_MAX_FRAME)
        rx->list[n_list++] = (struct iovec){rx->spill, sizeof(rx->spill)};
    return n_list;
}

static RxVerdict give_held(Net *n)
{
    NetRx *rx = &n->rx;
    size_t len = rx->held;

    if (!stage(n, len)) {
        if (make_room(rx) &&
            net_queue(n, NET_RXQ)->held < net_queue(n, NET_RXQ)->cfg.size)
            return RX_STARVED;
        counter_add(&rx->count.dropped,
                    1); /* all that the driver can ever offer is too little for it */
        rx->held = 0;
        return RX_MORE;
    }
    iov_from_buf(rx->iov + rx->first_iov, rx->end_iov - rx->first_iov, rx->held_at,
                 rx->spill, len - rx->held_at);
    rx->held = 0;
    give(n, len);
    return RX_MORE;
}

/* The link is down: what the host has for us is taken from it and lost. */
static RxVerdict drop(Net *n)
{
    NetRx *rx = &n->rx;
    const struct iovec spill = {rx->spill, sizeof(rx->spill)};
    bool held = rx->held;

    rx->held = 0;
    if (!held && !netdev_receive(n->nd, &spill, 1))
        return RX_IDLE;
    counter_add(&rx->count.dropped, 1);
    return RX_MORE;
}

static RxVerdict receive(Net *n)
{
    NetRx *rx = &n->rx;
    unsigned n_list;
    size_t room;
    ssize_t len;

    if (!net_link_is_up(n))
        return drop(n);
    if (rx->held)
        return give_held(n);
    stage(n, rx->want);
    if (!staged_reqs(rx) || virtio_is_broken(&n->v))
        return RX_STARVED;
    n_list = make_list(n, &room);
    len = netdev_receive(n->nd, rx->list, n_list);
    if (!len)
        return RX_IDLE;
    if (len < NET_HDR_LEN) {
        counter_add(&rx->count.dropped, 1);
        return RX_MORE;
    }
    if (rx->mergeable)
        rx->want = (size_t)len > RX_SMALL ? NET_MAX_FRAME : RX_SMALL;
    if ((size_t)len > room) {
        rx->held = (size_t)len;
        rx->held_at = room;
        return give_held(n);
    }
    give(n, (size_t)len);
    return RX_MORE;
}

void net_rx_run(Net *n)
{
    Virtqueue *vq = net_queue(n, NET_RXQ);
    bool starved = false;

    vq_disable_kicks(vq); /* while there are buffers we need not hear of more */
    for (unsigned i = 0; i < RX_BATCH && !starved; i++) {
        RxVerdict verdict = receive(n);

        if (verdict == RX_IDLE)
            break;
        starved = verdict == RX_STARVED;
        if (starved && vq_enable_kicks(vq)) {
            vq_disable_kicks(vq);
            starved = false;
        }
    }
    flush(n);
    netdev_set_reading(n->nd, !starved && !virtio_is_broken(&n->v));
}

void net_rx_start(Net *n)
{
    n->rx.mergeable = virtio_has_feature(&n->v, NET_F_MRG_RXBUF);
    n->rx.want = n->rx.mergeable ? RX_SMALL : 1;
}

void net_rx_quiesce(Net *n)
{
    NetRx *rx = &n->rx;

    netdev_set_reading(n->nd, false);
    while (rx->end_req > rx->first_req) {
        const RxReq *r = &rx->req[--rx->end_req];

        rx->end_iov -= r->n_iov;
        vq_unpop(net_queue(n, NET_RXQ), as_req(rx, r, rx->iov + rx->end_iov));
    }
    if (rx->held) /* its first part was in them */
        counter_add(&rx->count.dropped, 1);
    net_rx_reset(n);
}

void net_rx_reset(Net *n)
{
    NetRx *rx = &n->rx;

    rx->first_req = rx->end_req = rx->first_iov = rx->end_iov = rx->filled = 0;
    rx->bytes = rx->held = 0;
    netdev_set_reading(n->nd, false);
}
