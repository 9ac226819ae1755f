/* Private to virtio/vsock*.c: packets, connections and the device that holds them
 * (virtio 1.2, 5.10).
 *
 * Theory of operation.  A connection has two halves that end separately: the guest's,
 * which is known by its pair of ports and is in the hash, and the host's, which is a unix
 * socket.  Its slot is free again when both are gone.
 *
 * Nothing is queued for the guest.  What a connection has to tell it is a set of bits,
 * and the packet is made when there is a receive buffer for it; bytes stay in the socket
 * until then.  A packet that is to be refused takes a slot for its RST, too, and with no
 * slot left the transmit queue is not popped: so the guest can make us hold no more than
 * the slots that were allocated with the VM, and one buffer of VSOCK_BUF bytes per
 * connection, which is what we let it send ahead.
 *
 * All of it belongs to the device's I/O thread. */
#pragma once

#include <glib.h>

#include "util/bits.h"
#include "util/unixsocket.h"
#include "virtio/virtio.h"

enum { VSOCK_RX, VSOCK_TX, VSOCK_EVENT, VSOCK_QUEUES }; /* 5.10.2 */

enum {
    VSOCK_HOST_CID = 2,
    VSOCK_CONNS = 1024, /* at a time; more wait, or are refused */
    VSOCK_SPARE = 64,   /* slots kept for the RSTs of those */
    VSOCK_SLOTS = VSOCK_CONNS + VSOCK_SPARE,
    VSOCK_BUCKETS = 1024,
    VSOCK_BUF = 128 * 1024, /* our buf_alloc: bytes that a slow socket makes us keep */
    VSOCK_MAX_DATA = 64 * 1024, /* in one packet of ours */
    VSOCK_LINE = 19,            /* CONNECT 4294967294, and the end of the line */
    VSOCK_PATH_MAX = 96,        /* _PORT comes after it, in 108 bytes */
};

/* How long a client may take to say CONNECT, a guest to answer it, and a guest to say
 * goodbye to a connection whose host side is gone. */
static const int64_t VSOCK_LIMIT_NS = 10000000000;

/* 5.10.6 */
typedef struct __attribute__((packed)) VsockHdr {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port;
    uint32_t len;
    uint16_t type, op;
    uint32_t flags;
    uint32_t buf_alloc, fwd_cnt;
} VsockHdr;

enum { VSOCK_STREAM = 1 };
enum {
    VSOCK_OP_REQUEST = 1,
    VSOCK_OP_RESPONSE = 2,
    VSOCK_OP_RST = 3,
    VSOCK_OP_SHUTDOWN = 4,
    VSOCK_OP_RW = 5,
    VSOCK_OP_CREDIT_UPDATE = 6,
    VSOCK_OP_CREDIT_REQUEST = 7,
};
/* Flags of SHUTDOWN: who says so will receive, or send, no more. */
enum { VSOCK_NO_RCV = 1, VSOCK_NO_SEND = 2, VSOCK_NO_MORE = 3 };

typedef enum VsockState {
    VSOCK_FREE,
    VSOCK_HELLO, /* a client is yet to say which port it wants: no guest's half */
    VSOCK_ASKED, /* the guest is told, or about to be told, of a client's wish */
    VSOCK_OPEN,
    VSOCK_OVER, /* for the guest: but for an RST, nothing more is said or listened to */
} VsockState;

/* What the guest is to be told, but for bytes; the lowest comes first. */
enum {
    VSOCK_TELL_RST = 1,
    VSOCK_TELL_REQUEST = 2,
    VSOCK_TELL_RESPONSE = 4,
    VSOCK_TELL_SHUTDOWN = 8,
    VSOCK_TELL_CREDIT = 16,
    VSOCK_ASK_CREDIT = 32,
};

typedef struct Vsock Vsock;

typedef struct VsockConn {
    Vsock *vs;
    VsockState state;
    GList link; /* in vs->free, or in vs->ready if `queued` */
    bool queued;
    IoTimer timer;

    /* The guest's half. */
    bool hashed;
    uint16_t type; /* STREAM, but of what is refused */
    uint32_t host_port, guest_port;
    struct VsockConn *next;                        /* in the hash */
    unsigned tell;                                 /* VSOCK_TELL_ bits */
    unsigned guest_shut, host_shut;                /* VSOCK_NO_ bits, as each said them */
    uint32_t tx_cnt, peer_buf_alloc, peer_fwd_cnt; /* to the guest (5.10.6.3) */
    uint32_t rx_cnt, fwd_cnt, fwd_told;            /* from the guest */

    /* The host's half. */
    int fd; /* -1: gone */
    IoWatch watch;
    bool readable;   /* there may be bytes, or the end of them */
    bool starved;    /* there are, and the guest lets us send none */
    bool hung;       /* nobody is there: no more comes, and none is taken */
    uint8_t *buf;    /* a ring of VSOCK_BUF bytes, made when a socket is first slow */
    uint32_t buf_at; /* the oldest of the rx_cnt - fwd_cnt bytes in it */
    char line[VSOCK_LINE];
    unsigned n_line;
} VsockConn;

struct Vsock {
    VirtioDevice v;
    uint64_t cid;
    char path[VSOCK_PATH_MAX + 1];
    UnixListener listener;
    bool open;         /* the guest has a driver: clients are let in */
    IoWatch accepting; /* not watched: there is no room, or not `open` */
    IoTimer retry;     /* of accepting, when the host was short of something */
    int64_t limit_ns;  /* VSOCK_LIMIT_NS */
    bool paused;       /* time limits do not run */
    bool tx_held;      /* the transmit queue waits for a slot */
    bool reset_owed;   /* the guest is to be told that its connections are gone */
    uint32_t last_port;
    GQueue free, ready; /* slots without a use; with something for the guest */
    VsockConn *bucket[VSOCK_BUCKETS];
    VsockConn slot[VSOCK_SLOTS];
};

/* Bytes from the guest that the socket did not take yet. */
static inline uint32_t vsock_kept(const VsockConn *c)
{
    return c->rx_cnt - c->fwd_cnt;
}

/* Bytes that the guest has room for (5.10.6.3): none if what it says makes no sense. */
static inline uint32_t vsock_credit(const VsockConn *c)
{
    uint32_t under_way = c->tx_cnt - c->peer_fwd_cnt;

    return under_way < c->peer_buf_alloc ? c->peer_buf_alloc - under_way : 0;
}

/* Whether what comes from the socket is for the guest. */
static inline bool vsock_listens(const VsockConn *c)
{
    return c->state == VSOCK_OPEN && !(c->guest_shut & VSOCK_NO_RCV) &&
           !(c->host_shut & VSOCK_NO_SEND);
}

/* ---- vsock.c ---------------------------------------------------------------------- */

/* A slot is free again: who waited for one may go on. */
void vsock_slot_freed(Vsock *vs);

/* Fills receive buffers with what connections have for the guest, in turn. */
void vsock_run_rx(Vsock *vs);

/* ---- vsock_conn.c ----------------------------------------------------------------- */

void vsock_conns_init(Vsock *vs);
bool vsock_conns_known(const Vsock *vs); /* does the guest know of any? */
VsockConn *vsock_conn_find(const Vsock *vs, uint16_t type, uint32_t host_port,
                           uint32_t guest_port);

/* A slot; there must be one. */
VsockConn *vsock_conn_new(Vsock *vs, VsockState state);

/* Puts it into the hash under its ports / forgets it if both halves are gone. */
void vsock_conn_hash(VsockConn *c);
void vsock_conn_release(VsockConn *c);

/* It has something for the guest: these bits, or 0 for bytes. */
void vsock_conn_tell(VsockConn *c, unsigned what);

/* Starts its time limit. */
void vsock_conn_limit(VsockConn *c);

/* What the host's side says of itself: VSOCK_NO_ bits. */
void vsock_conn_host_shut(VsockConn *c, unsigned flags);

/* Ends it from our side: the socket is closed, and the guest told by an RST. */
void vsock_conn_reset(VsockConn *c);

/* So many bytes of the guest's are gone from our buffer. */
void vsock_conn_forwarded(VsockConn *c, uint32_t bytes);

/* Whether there is a slot for one more connection / for one more answer. */
bool vsock_conn_room(const Vsock *vs);
bool vsock_answer_room(const Vsock *vs);

/* A packet of the guest, which is for the host and from the guest's CID; data is its
 * `hdr->len` bytes.  There must be room for an answer. */
void vsock_conn_packet(Vsock *vs, const VsockHdr *hdr, const struct iovec *data,
                       unsigned n);

/* Makes the connection's next packet: reads up to hdr->len bytes into `room`, and fills
 * in *hdr.  False if there is nothing to be said after all. */
bool vsock_conn_speak(VsockConn *c, VsockHdr *hdr, const struct iovec *room, unsigned n);

/* Stops and starts the time limits; ends all connections without a word. */
void vsock_conns_pause(Vsock *vs);
void vsock_conns_resume(Vsock *vs);
void vsock_conns_end(Vsock *vs);

/* ---- vsock_host.c: the socket of a connection ---------------------------------------
 */

/* A client of ours came; takes the (non-blocking) socket.  There must be room. */
void vsock_host_accept(Vsock *vs, int fd);

/* A socket to whoever listens for the guest's connections to `port`; -1: nobody does. */
int vsock_host_dial(const Vsock *vs, uint32_t port);

/* Has the socket watched for what matters in the connection's state. */
void vsock_host_watch(VsockConn *c);
void vsock_host_close(VsockConn *c);

/* The guest accepted: the client is told its port. */
void vsock_host_accepted(VsockConn *c);

/* Bytes for the guest, up to `max`; 0: none now, or the guest lets us send none. */
uint32_t vsock_host_read(VsockConn *c, const struct iovec *room, unsigned n, size_t max);

/* Bytes from the guest, for which it had credit: written, or kept. */
void vsock_host_write(VsockConn *c, const struct iovec *data, unsigned n, uint32_t len);

/* The guest said that it will receive, or send, no more (c->guest_shut). */
void vsock_host_shutdown(VsockConn *c);
