/* The network card's transmit queues (virtio 1.2, 5.1.6.1, 5.1.6.2): each request is one
 * frame with its header, handed to the host from where it lies in guest memory.  Only the
 * header is copied, so that the one that was checked is the one that is used.
 *
 * A frame that breaks the rules, or meets a link that is down, is dropped and counted, as
 * on a wire; the driver gets its buffer back as if it had been sent. */
#include "util/iov.h"
#include "virtio/net_private.h"

enum { TX_BATCH = 256 /* frames per turn of the loop */, ETH_HEADER = 14 };

static bool gso_allowed(const Net *n, uint8_t gso_type)
{
    if ((gso_type & VNET_GSO_ECN) && !virtio_has_feature(&n->v, NET_F_HOST_ECN))
        return false;
    switch (gso_type & ~VNET_GSO_ECN) {
    case VNET_GSO_TCPV4:
        return virtio_has_feature(&n->v, NET_F_HOST_TSO4);
    case VNET_GSO_TCPV6:
        return virtio_has_feature(&n->v, NET_F_HOST_TSO6);
    case VNET_GSO_UDP_L4:
        return !(gso_type & VNET_GSO_ECN) && virtio_has_feature(&n->v, NET_F_HOST_USO);
    default:
        return false;
    }
}

/* 5.1.6.2.1: what the driver may ask for, given what it negotiated.  `len` is the frame
 * without the header. */
static bool header_valid(const Net *n, const VnetHdr *h, size_t len)
{
    bool csum = h->flags & VNET_NEEDS_CSUM;

    if (csum && (!virtio_has_feature(&n->v, NET_F_CSUM) ||
                 (size_t)h->csum_start + h->csum_offset + sizeof(uint16_t) > len))
        return false;
    if (h->gso_type == VNET_GSO_NONE)
        return true;
    return csum && h->gso_size && h->hdr_len <= len && gso_allowed(n, h->gso_type);
}

/* Makes tx->iov of tx->req: false if the frame is to be dropped. */
static bool prepare(Net *n, NetTx *tx)
{
    const struct iovec *iov = vq_readable(&tx->req);
    unsigned n_iov = tx->req.n_read;
    size_t len = iov_len(iov, n_iov);

    if (len < n->hdr_len + ETH_HEADER || len > n->hdr_len + NET_MAX_FRAME - NET_HDR_LEN)
        return false;
    iov_to_buf(iov, n_iov, 0, &tx->hdr, sizeof(tx->hdr));
    len -= n->hdr_len;
    if (!header_valid(n, &tx->hdr, len))
        return false;
    tx->hdr.flags &= VNET_NEEDS_CSUM;
    tx->hdr.num_buffers = 0;
    if (tx->hdr.gso_type == VNET_GSO_NONE)
        tx->hdr.hdr_len = tx->hdr.gso_size = 0;
    tx->len = len;
    tx->iov[0] = (struct iovec){&tx->hdr, sizeof(tx->hdr)};
    tx->n_iov = 1 + iov_slice(iov, n_iov, n->hdr_len, len, tx->iov + 1);
    return true;
}

/* False: the host cannot take it now, and it stays with us until net_tx_writable(). */
static bool send(Net *n, unsigned pair)
{
    NetTx *tx = &n->pair[pair].tx;

    tx->waiting = !netdev_send(n->pair[pair].wire, tx->iov, tx->n_iov);
    if (tx->waiting)
        return false;
    counter_add(&tx->count.frames, 1);
    counter_add(&tx->count.bytes, tx->len);
    vq_push(net_txq(n, pair), &tx->req, 0);
    return true;
}

/* True if there may be more after TX_BATCH frames. */
static bool send_batch(Net *n, unsigned pair)
{
    Virtqueue *vq = net_txq(n, pair);
    NetTx *tx = &n->pair[pair].tx;

    for (unsigned i = 0; i < TX_BATCH; i++) {
        if (!vq_pop(vq, &tx->req))
            return false;
        if (!net_link_is_up(n) || !prepare(n, tx)) {
            counter_add(&tx->count.dropped, 1);
            vq_push(vq, &tx->req, 0);
            continue;
        }
        if (n->steered)
            net_steer_sent(n, pair, tx->iov + 1, tx->n_iov - 1);
        if (!send(n, pair))
            return false;
    }
    return true;
}

void net_tx_run(Net *n, unsigned pair)
{
    if (n->pair[pair].tx.waiting)
        return;
    if (send_batch(n, pair))
        virtio_queue_kick(&n->v, 2 * pair + NET_TXQ); /* the loop's others first */
    netdev_flush(n->pair[pair].wire);
    vq_notify(net_txq(n, pair));
}

/* Each queue in turn, beginning with another each time, so that none is always last. */
void net_tx_writable(Net *n, const NetDev *wire)
{
    unsigned first = n->tx_first++;

    for (unsigned i = 0; i < n->max_pairs; i++) {
        unsigned pair = (first + i) % n->max_pairs;

        if (n->pair[pair].wire == wire && n->pair[pair].tx.waiting && send(n, pair))
            net_tx_run(n, pair);
    }
}

void net_tx_quiesce(Net *n)
{
    for (unsigned i = 0; i < n->max_pairs; i++)
        if (n->pair[i].tx.waiting)
            vq_unpop(net_txq(n, i), &n->pair[i].tx.req);
    net_tx_reset(n);
}

void net_tx_reset(Net *n)
{
    for (unsigned i = 0; i < n->max_pairs; i++)
        n->pair[i].tx.waiting = false;
}
