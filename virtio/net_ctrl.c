/* The network card's control queue (virtio 1.2, 5.1.6.5): commands of a class, a number
 * and data, each answered with one byte.
 *
 * The card never filters what it receives by address: a device may fall back to that at
 * any time (footnote of 5.1.6.5.2), drivers filter for themselves, and on a bridge there
 * is little to be gained.  The filter commands are checked and accepted all the same. */
#include <string.h>

#include "util/bits.h"
#include "util/iov.h"
#include "virtio/net_private.h"

enum { CTRL_OK = 0, CTRL_ERR = 1 };

enum { CTRL_RX = 0, CTRL_RX_PROMISC = 0, CTRL_RX_ALLMULTI = 1 };
enum { CTRL_MAC = 1, CTRL_MAC_TABLE_SET = 0, CTRL_MAC_ADDR_SET = 1 };
enum { CTRL_ANNOUNCE = 3, CTRL_ANNOUNCE_ACK = 0 };
enum { CTRL_MQ = 4, CTRL_MQ_PAIRS = 0, CTRL_MQ_RSS = 1, CTRL_MQ_HASH = 2 };
enum { CTRL_OFFLOADS = 5, CTRL_OFFLOADS_SET = 0 };

enum { CTRL_HEADER = 2, MAC_LEN = 6, CTRL_MAX_DATA = 8 * 1024 };

/* One command's data, still in guest memory: read with iov_to_buf(), once. */
typedef struct CtrlData {
    const VqReq *req;
    size_t len; /* without the header */
} CtrlData;

static bool data_at(const CtrlData *d, size_t offset, void *buf, size_t len)
{
    return range_within(offset, len, d->len) &&
           iov_to_buf(vq_readable(d->req), d->req->n_read, CTRL_HEADER + offset, buf,
                      len) == len;
}

/* 5.1.6.5.1: on or off */
static bool ctrl_rx(Net *n, uint8_t command, const CtrlData *d)
{
    uint8_t on;

    return virtio_has_feature(&n->v, NET_F_CTRL_RX) && command <= CTRL_RX_ALLMULTI &&
           d->len == sizeof(on) && data_at(d, 0, &on, sizeof(on)) && on <= 1;
}

/* 5.1.6.5.2: a table of unicast and one of multicast addresses, nothing after them. */
static bool mac_table_valid(const CtrlData *d)
{
    size_t at = 0;

    for (int i = 0; i < 2; i++) {
        uint32_t entries;

        if (!data_at(d, at, &entries, sizeof(entries)))
            return false;
        at += sizeof(entries);
        if (entries > (d->len - at) / MAC_LEN)
            return false;
        at += (size_t)entries * MAC_LEN;
    }
    return at == d->len;
}

static bool set_mac(Net *n, const CtrlData *d)
{
    uint64_t mac = 0;

    if (d->len != MAC_LEN || !data_at(d, 0, &mac, MAC_LEN) || !mac || (mac & 1))
        return false;
    net_set_mac(n, mac);
    return true;
}

static bool ctrl_mac(Net *n, uint8_t command, const CtrlData *d)
{
    switch (command) {
    case CTRL_MAC_TABLE_SET:
        return virtio_has_feature(&n->v, NET_F_CTRL_RX) && mac_table_valid(d);
    case CTRL_MAC_ADDR_SET:
        return virtio_has_feature(&n->v, NET_F_CTRL_MAC_ADDR) && set_mac(n, d);
    default:
        return false;
    }
}

/* 5.1.6.5.4 */
static bool ctrl_announce(Net *n, uint8_t command, const CtrlData *d)
{
    if (!virtio_has_feature(&n->v, NET_F_GUEST_ANNOUNCE) ||
        command != CTRL_ANNOUNCE_ACK || d->len)
        return false;
    __atomic_fetch_and(&n->status, (uint16_t)~NET_S_ANNOUNCE, __ATOMIC_RELAXED);
    return true;
}

/* 5.1.6.5.6.1: a subset of what was negotiated, by feature bits */
static bool ctrl_offloads(Net *n, uint8_t command, const CtrlData *d)
{
    const uint64_t known = BIT64(NET_F_GUEST_CSUM) | BIT64(NET_F_GUEST_TSO4) |
                           BIT64(NET_F_GUEST_TSO6) | BIT64(NET_F_GUEST_ECN) |
                           BIT64(NET_F_GUEST_USO4) | BIT64(NET_F_GUEST_USO6);
    uint64_t set;

    if (!virtio_has_feature(&n->v, NET_F_CTRL_GUEST_OFFLOADS) ||
        command != CTRL_OFFLOADS_SET || d->len != sizeof(set) ||
        !data_at(d, 0, &set, sizeof(set)) || (set & ~(n->v.features & known)))
        return false;
    net_set_offloads(n, net_offloads_of(set, true));
    return true;
}

/* 5.1.6.5.5: automatic steering from now on. */
static bool set_pairs(Net *n, const CtrlData *d)
{
    NetSteering s = n->steering;

    s.table_len = s.unclassified = 0;
    if (!virtio_has_feature(&n->v, NET_F_HASH_REPORT))
        s.hash_types = 0;
    if (!virtio_has_feature(&n->v, NET_F_MQ) || d->len != sizeof(s.pairs) ||
        !data_at(d, 0, &s.pairs, sizeof(s.pairs)) || !net_steering_valid(n, &s))
        return false;
    net_steering_set(n, &s);
    return true;
}

/* The end of both kinds of configuration: the key's length, the key, nothing more. */
static bool take_key(const CtrlData *d, size_t at, NetSteering *s)
{
    return data_at(d, at, &s->key_len, 1) && s->key_len <= NET_KEY_MAX &&
           d->len == at + 1 + s->key_len && data_at(d, at + 1, s->key, s->key_len);
}

/* 5.1.6.5.7.1: struct virtio_net_rss_config */
static bool set_rss(Net *n, const CtrlData *d)
{
    enum { MASK_AT = 4, UNCLASSIFIED_AT = 6, TABLE_AT = 8 };
    NetSteering s = {.pairs = n->steering.pairs};
    uint16_t mask, max_tx;
    size_t after;

    if (!virtio_has_feature(&n->v, NET_F_RSS) ||
        !data_at(d, 0, &s.hash_types, sizeof(s.hash_types)) ||
        !data_at(d, MASK_AT, &mask, sizeof(mask)) || mask >= NET_TABLE_MAX ||
        !data_at(d, UNCLASSIFIED_AT, &s.unclassified, sizeof(s.unclassified)))
        return false;
    s.table_len = mask + 1;
    after = TABLE_AT + s.table_len * sizeof(s.table[0]);
    if (!data_at(d, TABLE_AT, s.table, s.table_len * sizeof(s.table[0])) ||
        !data_at(d, after, &max_tx, sizeof(max_tx)) || !max_tx || max_tx > n->max_pairs ||
        !take_key(d, after + sizeof(max_tx), &s) || !net_steering_valid(n, &s))
        return false;
    net_steering_set(n, &s);
    return true;
}

/* 5.1.6.5.6.4: struct virtio_net_hash_config, which says nothing of queues */
static bool set_hash(Net *n, const CtrlData *d)
{
    enum { KEY_AT = 12 /* after what is reserved */ };
    NetSteering s = n->steering;

    if (!virtio_has_feature(&n->v, NET_F_HASH_REPORT) ||
        !data_at(d, 0, &s.hash_types, sizeof(s.hash_types)) || !take_key(d, KEY_AT, &s) ||
        !net_steering_valid(n, &s))
        return false;
    net_steering_set(n, &s);
    return true;
}

static bool set_steering(Net *n, uint8_t command, const CtrlData *d)
{
    switch (command) {
    case CTRL_MQ_PAIRS:
        return set_pairs(n, d);
    case CTRL_MQ_RSS:
        return set_rss(n, d);
    case CTRL_MQ_HASH:
        return set_hash(n, d);
    default:
        return false;
    }
}

/* Frames may go now that waited for a queue's buffers. */
static bool ctrl_mq(Net *n, uint8_t command, const CtrlData *d)
{
    bool ok = set_steering(n, command, d);

    if (ok && n->is_remote) {
        net_vhost_pairs(n);
    } else if (ok) {
        net_steering_wire(n);
        net_rx_run_all(n);
    }
    return ok;
}

static bool carry_out(Net *n, const VqReq *req)
{
    uint8_t header[CTRL_HEADER];
    size_t len = iov_len(vq_readable(req), req->n_read);
    CtrlData d = {req, len - CTRL_HEADER};

    if (len < CTRL_HEADER || d.len > CTRL_MAX_DATA)
        return false;
    iov_to_buf(vq_readable(req), req->n_read, 0, header, sizeof(header));
    switch (header[0]) {
    case CTRL_RX:
        return ctrl_rx(n, header[1], &d);
    case CTRL_MAC:
        return ctrl_mac(n, header[1], &d);
    case CTRL_ANNOUNCE:
        return ctrl_announce(n, header[1], &d);
    case CTRL_MQ:
        return ctrl_mq(n, header[1], &d);
    case CTRL_OFFLOADS:
        return ctrl_offloads(n, header[1], &d);
    default:
        return false;
    }
}

void net_ctrl_run(Net *n)
{
    Virtqueue *vq = net_queue(n, net_ctrl_queue(n));
    VqReq req;

    while (vq_pop(vq, &req)) {
        uint8_t ack = carry_out(n, &req) ? CTRL_OK : CTRL_ERR;

        vq_push(vq, &req,
                (uint32_t)iov_from_buf(vq_writable(&req), req.n_write, 0, &ack, 1));
    }
    vq_notify(vq);
}
