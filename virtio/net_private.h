/* The network card's parts: net.c (options, features, life-cycle), net_rx.c, net_tx.c,
 * net_ctrl.c, net_steer.c and net_hash.c (which queue a frame is for), net_state.c.
 * Everything here belongs to the card's I/O thread, except what is marked atomic, which
 * vCPUs read through the config space. */
#pragma once

#include "backend/netdev.h"
#include "packet/offload.h"
#include "util/counter.h"
#include "util/lock.h"
#include "vhost_user_private.h"
#include "virtio/net.h"

/* virtio 1.2, 5.1.2: pairs of queues, receive before transmit, and the control queue
 * after the last pair that the driver may use: net_ctrl_queue(). */
enum {
    NET_RXQ = 0,
    NET_TXQ = 1,
    NET_CTRLQ = 2, /* of a card with one pair */
    NET_QUEUE_SIZE = 256,
    NET_MAX_PAIRS = NETDEV_MAX_QUEUES,
};

/* 5.1.3; USO is virtio 1.3's */
enum {
    NET_F_CSUM = 0,
    NET_F_GUEST_CSUM = 1,
    NET_F_CTRL_GUEST_OFFLOADS = 2,
    NET_F_MTU = 3,
    NET_F_MAC = 5,
    NET_F_GUEST_TSO4 = 7,
    NET_F_GUEST_TSO6 = 8,
    NET_F_GUEST_ECN = 9,
    NET_F_HOST_TSO4 = 11,
    NET_F_HOST_TSO6 = 12,
    NET_F_HOST_ECN = 13,
    NET_F_MRG_RXBUF = 15,
    NET_F_STATUS = 16,
    NET_F_CTRL_VQ = 17,
    NET_F_CTRL_RX = 18,
    NET_F_GUEST_ANNOUNCE = 21,
    NET_F_MQ = 22,
    NET_F_CTRL_MAC_ADDR = 23,
    NET_F_GUEST_USO4 = 54,
    NET_F_GUEST_USO6 = 55,
    NET_F_HOST_USO = 56,
    NET_F_HASH_REPORT = 57,
    NET_F_RSS = 60,
};

enum { NET_S_LINK_UP = 1, NET_S_ANNOUNCE = 2 }; /* 5.1.4 */

_Static_assert(sizeof(VnetHdr) == NET_HDR_LEN, "as backends and drivers have it");

/* With VIRTIO_NET_F_HASH_REPORT these follow, both ways. */
typedef struct NetHashHdr {
    VnetHdr h;
    uint32_t hash_value;
    uint16_t hash_report, padding;
} NetHashHdr;
_Static_assert(sizeof(NetHashHdr) == 20, "as drivers have it");

/* ---- which queue a frame is for -----------------------------------------------------
 */

/* 5.1.6.4.3.1: types of hashes, as bits, and what hash_report says: the bit's number and
 * one.  Those of IPv6 with extension headers are not offered. */
enum {
    NET_HASH_IPV4 = 1,
    NET_HASH_TCPV4 = 2,
    NET_HASH_UDPV4 = 4,
    NET_HASH_IPV6 = 8,
    NET_HASH_TCPV6 = 16,
    NET_HASH_UDPV6 = 32,
    NET_HASHES = 63,
};
enum { NET_KEY_MAX = 40, NET_TABLE_MAX = 128 };

/* What the driver said last of steering and of hashes (5.1.6.5.5, 5.1.6.5.6.4). */
typedef struct NetSteering {
    uint32_t hash_types; /* NET_HASH_* */
    uint16_t pairs;      /* that are in use without RSS; at least 1 */
    uint16_t unclassified;
    uint16_t table_len; /* a power of two; 0: no RSS */
    uint16_t table[NET_TABLE_MAX];
    uint8_t key_len;
    uint8_t key[NET_KEY_MAX];
} NetSteering;

/* Toeplitz hashes of up to 36 bytes under one key, four bits at a time (net_hash.c). */
enum { NET_HASH_INPUT = 36 };
typedef struct NetToeplitz {
    uint32_t part[2 * NET_HASH_INPUT][16];
} NetToeplitz;
void net_toeplitz_init(NetToeplitz *t, const uint8_t *key, size_t key_len);
uint32_t net_toeplitz(const NetToeplitz *t, const uint8_t *input, size_t len);

/* The hash of a frame (without the virtio header) by those of `types` that apply, and
 * what was hashed as NET_HASH_*; 0: nothing of it (5.1.6.4.3.2, 5.1.6.4.3.3). */
unsigned net_hash_frame(const NetToeplitz *t, uint32_t types, const uint8_t *frame,
                        size_t len, uint32_t *ret_hash);

/* The flow that a frame belongs to, the same in both directions; 0: none. */
uint32_t net_flow_of(const uint8_t *frame, size_t len);

/* ---- receiving and sending ----------------------------------------------------------
 */

/* Receive buffers taken off the ring and not yet filled, oldest first; net_rx.c. */
enum { RX_REQS = NET_QUEUE_SIZE, RX_IOVS = 2 * VQ_MAX_SIZE };

typedef struct RxReq {
    uint16_t id, n_desc, n_iov;
    size_t bytes;
} RxReq;

/* Of one queue.  A frame that waits for buffers is held: so much of it as held_at in the
 * staged buffers, the rest in spill. */
typedef struct NetRx {
    size_t bytes; /* staged */
    unsigned first_req, end_req, first_iov, end_iov;
    unsigned filled; /* requests filled since the last flush */
    size_t want;     /* bytes of buffers to offer to the next frame */
    size_t held;     /* its length with a header of ours; 0: none */
    size_t held_at;
    NetCounters count;
    RxReq req[RX_REQS];
    struct iovec iov[RX_IOVS];
    struct iovec list[RX_IOVS + 1];
    VqReq scratch;
    uint8_t spill[NET_MAX_FRAME]; /* last: big, and seldom touched */
} NetRx;

/* Of one queue. */
typedef struct NetTx {
    NetCounters count;
    bool waiting; /* req is popped, and the host cannot take it yet */
    size_t len;   /* of the frame in iov, without the header */
    VnetHdr hdr;  /* our copy: the guest's may change after it was checked */
    unsigned n_iov;
    struct iovec iov[VQ_MAX_SIZE + 1];
    VqReq req;
} NetTx;

/* A pair of queues and what is at their other end: a queue of the wire of its own, if it
 * has several, else the only one. */
typedef struct Net Net;
typedef struct NetPair {
    Net *net;
    unsigned index;
    NetDev *wire;
    NetTx tx;
    NetRx rx;
} NetPair;

enum { NET_FLOWS = 1024 };

/* net_link.c's. */
typedef struct NetLink {
    Lock lock;
    unsigned cuts;   /* under it: who has cut the link */
    IoPost tell;     /* the network, of what the user did */
    IoTimer moved;   /* the link comes back */
    json_t *options; /* main thread: those of the wire, as of param_to_json() */
    bool changed;    /* main thread: they are not those the card was made with */
} NetLink;

struct Net {
    union {
        VirtioDevice v;
        VhostDev remote; /* with is_remote */
    };
    bool is_remote; /* another process serves the pairs: net_vhost.c; does not change */
    NetDev *nd;     /* the wire */
    NetLink link;
    uint64_t mac;      /* atomic; the low six bytes, first byte lowest */
    uint16_t status;   /* atomic; NET_S_* */
    uint64_t own_mac;  /* back to this at a reset */
    uint64_t wire_mac; /* as the NetDev knows it */
    uint16_t mtu;      /* 0: not told */
    uint16_t max_pairs;
    unsigned offloads; /* NET_OFFLOAD_*: what the driver takes now */
    bool mac_given;    /* by the user, and not made up */

    /* What features and commands come to; net_steer.c. */
    NetSteering steering;
    bool steered;            /* a frame's queue is known only after a look at it: all
                                come by the wire's first, and the pairs share it */
    unsigned rx_pairs;       /* so many receive queues may get frames */
    unsigned hdr_len;        /* of the driver's header */
    NetToeplitz toeplitz;    /* of steering.key */
    uint8_t flow[NET_FLOWS]; /* where the flow was sent from last, and one; 0: nowhere */

    bool mergeable;

    /* Steered: the frame held, if one is, is in the first pair's spill, and for this. */
    unsigned held_pair;
    uint32_t held_hash;
    uint16_t held_report;
    IoTimer held_timer; /* it has waited long enough */

    unsigned tx_first; /* the queue that was asked first when the host was ready again */
    NetPair *pair;     /* max_pairs of them */
};

static inline Net *net_of(VirtioDevice *v)
{
    return (Net *)v;
}

/* False: the cable is unplugged (set_link), and frames end here, both ways. */
static inline bool net_link_is_up(const Net *n)
{
    return __atomic_load_n(&n->status, __ATOMIC_RELAXED) & NET_S_LINK_UP;
}

static inline Virtqueue *net_queue(Net *n, unsigned queue)
{
    return &n->v.queues[queue].vq;
}

static inline Virtqueue *net_rxq(Net *n, unsigned pair)
{
    return net_queue(n, 2 * pair + NET_RXQ);
}

static inline Virtqueue *net_txq(Net *n, unsigned pair)
{
    return net_queue(n, 2 * pair + NET_TXQ);
}

/* 5.1.2: a driver that knows nothing of several pairs has the third queue for it. */
static inline unsigned net_ctrl_queue(const Net *n)
{
    return 2 *
           (virtio_has_feature(&n->v, NET_F_MQ) || virtio_has_feature(&n->v, NET_F_RSS)
                ? n->max_pairs
                : 1u);
}

/* Offload feature bits as NET_OFFLOAD_*; `guest`: those of GUEST_*, else of HOST_*. */
unsigned net_offloads_of(uint64_t features, bool guest);

/* What the driver takes from now on, NET_OFFLOAD_*. */
void net_set_offloads(Net *n, unsigned offloads);

/* The card's address from now on; the wire is told of a new one. */
void net_set_mac(Net *n, uint64_t mac);

/* Steering.  valid: what a driver may ask for, given what it negotiated.  set: takes it,
 * or what holds before it says anything; nothing that it points to is kept.  choose: the
 * pair of a frame without its virtio header, with the hash to be reported. */
bool net_steering_valid(const Net *n, const NetSteering *s);
void net_steering_set(Net *n, const NetSteering *s);
void net_steering_reset(Net *n);

/* On the loop: what was taken is made true of the wire, which may be another now. */
void net_steering_wire(Net *n);
unsigned net_steer(Net *n, const uint8_t *frame, size_t len, uint32_t *ret_hash,
                   uint16_t *ret_report);
void net_steer_sent(Net *n, unsigned pair, const struct iovec *iov, unsigned n_iov);

/* ---- of a card that another process serves: net_vhost.c -----------------------------
 */

enum { NET_TELL_MS = 1000 }; /* for the other process to answer */

bool net_vhost_realize(Net *n, const NetDevOptions *o, GError **error); /* main thread */
void net_vhost_rings(Net *n); /* the driver is there: `features` are final */
void net_vhost_pairs(Net *n); /* rx_pairs has changed */
void net_vhost_announce(Net *n);
bool net_vhost_load(const Net *n, GError **error);
const char *net_pinned(const VirtioDevice *v);

/* Those of a card that do not depend on what is at its other end. */
uint64_t net_own_features(const Net *n);

/* The network's side of the link, as it says. */
void net_network_link(Net *n, bool up);

void net_link_init(Net *n, const NetDevOptions *options);
void net_link_finish(Net *n); /* on the loop */

/* On the loop: a new end of the cable, with all that it calls back. */
NetDev *net_open_wire(Net *n, const NetDevOptions *options, GError **error);
void net_plug(Net *n, NetDev *nd); /* from here on it is the pairs' other end */
void net_describe(VirtioDevice *v, json_t *option);

/* The status as a snapshot keeps it. */
uint16_t net_status_to_save(Net *n);
void net_status_load(Net *n, uint16_t status);

/* The card is at another place: the network and the guest are told. */
void net_announce(Net *n);

void net_rx_start(Net *n);              /* the driver is there: `features` are final */
void net_rx_run(Net *n, unsigned pair); /* frames may be waiting, or it has buffers */
void net_rx_run_all(Net *n);
void net_rx_steering(Net *n); /* is about to change: what is on its way is given up */
void net_rx_quiesce(Net *n);  /* gives staged buffers back to the ring */
void net_rx_reset(Net *n);    /* forgets them */

void net_tx_run(Net *n, unsigned pair);
void net_tx_writable(Net *n, const NetDev *wire); /* takes frames again */
void net_tx_quiesce(Net *n);
void net_tx_reset(Net *n);

void net_ctrl_run(Net *n);

/* Saved state, of VirtioOps; net_state.c. */
void net_save(VirtioDevice *v, StateWriter *w);
bool net_load(VirtioDevice *v, StateReader *r, GError **error);
