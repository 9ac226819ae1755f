/* Which of a network card's receive queues a frame is for (virtio 1.2, 5.1.6.5.5), where
 * the wire has not decided that by queues of its own.
 *
 * RSS: the driver's table says, by the frame's hash.  Otherwise a frame goes where its
 * flow was sent from last, because there the guest's CPU is that waits for it
 * ("automatic receive steering"), and one of an unknown flow to any queue, the same each
 * time.  What flows were sent is forgotten with the number of pairs, and not saved.
 *
 * A card whose driver uses one pair, and wants no hash, never comes here. */
#include <string.h>

#include "util/bits.h"
#include "util/iov.h"
#include "virtio/net_private.h"

enum { HEADERS = 128 /* bytes of a frame that a flow is told by */ };

static bool has_rss(const NetSteering *s)
{
    return s->table_len;
}

/* ---- the driver's wishes ---------------------------------------------------------- */

static bool table_valid(const Net *n, const NetSteering *s)
{
    if (s->table_len > NET_TABLE_MAX || !is_pow2(s->table_len) ||
        s->unclassified >= n->max_pairs)
        return false;
    for (unsigned i = 0; i < s->table_len; i++)
        if (s->table[i] >= n->max_pairs)
            return false;
    return true;
}

bool net_steering_valid(const Net *n, const NetSteering *s)
{
    bool hashes = virtio_has_feature(&n->v, NET_F_RSS) ||
                  virtio_has_feature(&n->v, NET_F_HASH_REPORT);
    bool several = virtio_has_feature(&n->v, NET_F_MQ) ||
                   virtio_has_feature(&n->v, NET_F_RSS);

    if (s->key_len > NET_KEY_MAX || (s->hash_types & ~(uint32_t)NET_HASHES) ||
        (!hashes && (s->hash_types || s->key_len)))
        return false;
    if (!s->pairs || s->pairs > (several ? n->max_pairs : 1))
        return false;
    return !has_rss(s) || (virtio_has_feature(&n->v, NET_F_RSS) && table_valid(n, s));
}

static unsigned pairs_of(const NetSteering *s)
{
    unsigned last = s->unclassified;

    if (!has_rss(s))
        return s->pairs;
    for (unsigned i = 0; i < s->table_len; i++)
        last = MAX(last, s->table[i]);
    return last + 1;
}

void net_steering_set(Net *n, const NetSteering *s)
{
    bool report = virtio_has_feature(&n->v, NET_F_HASH_REPORT);

    net_rx_steering(n);
    n->steering = *s;
    n->rx_pairs = pairs_of(s);
    n->hdr_len = report ? sizeof(NetHashHdr) : sizeof(VnetHdr);
    if (s->hash_types)
        net_toeplitz_init(&n->toeplitz, s->key, s->key_len);
    memset(n->flow, 0, sizeof(n->flow));
    n->steered = report || n->rx_pairs > 1;
}

/* A wire with several queues knows flows as we do, but neither the driver's table nor its
 * hashes: then all frames come by the first, and we look at each. */
void net_steering_wire(Net *n)
{
    bool report = virtio_has_feature(&n->v, NET_F_HASH_REPORT);
    bool looked_at = report || has_rss(&n->steering);
    bool spread = netdev_use_queues(n->nd, looked_at ? 1 : n->rx_pairs);

    n->steered = report || (n->rx_pairs > 1 && (looked_at || !spread));
    for (unsigned i = n->steered ? 1 : n->rx_pairs; i < netdev_queues(n->nd); i++)
        netdev_set_reading(netdev_queue(n->nd, i), false);
}

void net_steering_reset(Net *n)
{
    const NetSteering one = {.pairs = 1};

    net_steering_set(n, &one);
}

/* ---- frames ----------------------------------------------------------------------- */

static uint16_t report_of(unsigned type)
{
    return type ? (uint16_t)(__builtin_ctz(type) + 1) : 0;
}

static unsigned by_flow(const Net *n, const uint8_t *frame, size_t len)
{
    uint32_t flow = net_flow_of(frame, len);
    unsigned from = n->flow[flow % NET_FLOWS];

    if (!flow)
        return 0;
    return from && from <= n->rx_pairs ? from - 1 : (flow >> 16) % n->rx_pairs;
}

unsigned net_steer(Net *n, const uint8_t *frame, size_t len, uint32_t *ret_hash,
                   uint16_t *ret_report)
{
    const NetSteering *s = &n->steering;
    unsigned type = net_hash_frame(&n->toeplitz, s->hash_types, frame, len, ret_hash);

    *ret_report = report_of(type);
    if (has_rss(s))
        return type ? s->table[*ret_hash & (s->table_len - 1u)] : s->unclassified;
    return n->rx_pairs > 1 ? by_flow(n, frame, len) : 0;
}

/* The frame's beginning is copied, because the guest may change it meanwhile: that is
 * all that a flow is told by, and what is longer is cut where it says it ends. */
void net_steer_sent(Net *n, unsigned pair, const struct iovec *iov, unsigned n_iov)
{
    uint8_t headers[HEADERS];
    size_t len;
    uint32_t flow;

    if (n->rx_pairs < 2 || has_rss(&n->steering))
        return;
    len = iov_to_buf(iov, n_iov, 0, headers, sizeof(headers));
    flow = net_flow_of(headers, len);
    if (flow)
        n->flow[flow % NET_FLOWS] = (uint8_t)(pair + 1);
}
