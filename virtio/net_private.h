/* The network card's parts: net.c (options, features, life-cycle), net_rx.c, net_tx.c,
 * net_ctrl.c.  Everything here belongs to the card's I/O thread, except what is marked
 * atomic, which vCPUs read through the config space. */
#pragma once

#include "backend/netdev.h"
#include "util/counter.h"
#include "virtio/net.h"

/* virtio 1.2, 5.1.2: there is one queue pair, so the control queue is the third. */
enum { NET_RXQ = 0, NET_TXQ = 1, NET_CTRLQ = 2, NET_QUEUES = 3, NET_QUEUE_SIZE = 256 };

/* 5.1.3 */
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
    NET_F_CTRL_MAC_ADDR = 23,
};

enum { NET_S_LINK_UP = 1, NET_S_ANNOUNCE = 2 }; /* 5.1.4 */

/* 5.1.6 */
typedef struct NetHdr {
    uint8_t flags, gso_type;
    uint16_t hdr_len, gso_size, csum_start, csum_offset, num_buffers;
} NetHdr;
_Static_assert(sizeof(NetHdr) == NET_HDR_LEN, "as backends and drivers have it");

enum {
    NET_HDR_NEEDS_CSUM = 1,
    NET_GSO_NONE = 0,
    NET_GSO_TCPV4 = 1,
    NET_GSO_TCPV6 = 4,
    NET_GSO_ECN = 0x80,
};

/* Receive buffers taken off the ring and not yet filled, oldest first; net_rx.c. */
enum { RX_REQS = NET_QUEUE_SIZE, RX_IOVS = 2 * VQ_MAX_SIZE };

typedef struct RxReq {
    uint16_t id, n_desc, n_iov;
    size_t bytes;
} RxReq;

typedef struct NetRx {
    bool mergeable;
    size_t want;  /* bytes of buffers to offer to the next frame */
    size_t bytes; /* staged */
    unsigned first_req, end_req, first_iov, end_iov;
    unsigned filled; /* requests filled since the last flush */
    size_t held;     /* length of a frame that waits for buffers; 0: none */
    size_t held_at;  /* so much of it is in the staged buffers, the rest in spill */
    NetCounters count;
    RxReq req[RX_REQS];
    struct iovec iov[RX_IOVS];
    struct iovec list[RX_IOVS + 1];
    VqReq scratch;
    uint8_t spill[NET_MAX_FRAME];
} NetRx;

typedef struct NetTx {
    bool waiting; /* req is popped, and the host cannot take it yet */
    NetCounters count;
    size_t len; /* of the frame in iov, without the header */
    NetHdr hdr; /* our copy: the guest's may change after it was checked */
    unsigned n_iov;
    struct iovec iov[VQ_MAX_SIZE + 1];
    VqReq req;
} NetTx;

typedef struct Net {
    VirtioDevice v;
    NetDev *nd;
    uint64_t mac;      /* atomic; the low six bytes, first byte lowest */
    uint16_t status;   /* atomic; NET_S_* */
    uint64_t own_mac;  /* back to this at a reset */
    uint64_t wire_mac; /* as the NetDev knows it */
    uint16_t mtu;      /* 0: not told */
    unsigned offloads; /* NET_OFFLOAD_*: what the driver takes now */
    bool mac_given;    /* by the user, and not made up */
    NetTx tx;
    NetRx rx; /* last: ends with a big buffer that is seldom touched */
} Net;

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

/* Offload feature bits as NET_OFFLOAD_*; `guest`: those of GUEST_*, else of HOST_*. */
unsigned net_offloads_of(uint64_t features, bool guest);

/* What the driver takes from now on, NET_OFFLOAD_*. */
void net_set_offloads(Net *n, unsigned offloads);

/* The card's address from now on; the wire is told of a new one. */
void net_set_mac(Net *n, uint64_t mac);

void net_rx_start(Net *n);   /* the driver is there: `features` are final */
void net_rx_run(Net *n);     /* frames may be waiting, or there are buffers again */
void net_rx_quiesce(Net *n); /* gives staged buffers back to the ring */
void net_rx_reset(Net *n);   /* forgets them */

void net_tx_run(Net *n);
void net_tx_writable(Net *n);
void net_tx_quiesce(Net *n);
void net_tx_reset(Net *n);

void net_ctrl_run(Net *n);
