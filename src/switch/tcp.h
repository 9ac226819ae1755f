/* The end of TCP that listens, for what the gateway itself serves: no socket, no process
 * and no route is behind it, so that it is there on isolated networks, for both families,
 * and knows which port each connection is from.  RFC 9293, with the checks of RFC 5961.
 *
 * What it leaves out, and a peer cannot miss: segments out of order are not kept (they
 * are sent again), no window scaling, SACK or timestamps are offered, and what is under
 * way is at most ten segments (RFC 6928), one after a loss.
 *
 * Guests are hostile: a port has TCP_MAX_OF_PORT connections, a network TCP_MAX, of which
 * who has most loses the oldest to who has fewer; a connection that stands still ends.
 * There is a timer while there are connections, and no other.  The switch's thread. */
#pragma once

#include "src/switch/gateway.h"

typedef struct Tcp Tcp;
typedef struct TcpConn TcpConn;

enum {
    TCP_MAX = 256,
    TCP_MAX_OF_PORT = 8,
    TCP_IN = 4096,        /* bytes that wait for `take`: its receive window */
    TCP_OUT = 128 * 1024, /* and that wait to be sent and acknowledged */
};

typedef struct TcpOps {
    /* Of the bytes that came so far it takes some from the beginning, and returns how
     * many: 0, if more have to come, or it wants no more now.  Called again after
     * tcp_flush().  It may call what is below, but for tcp_free(). */
    size_t (*take)(void *opaque, TcpConn *c, const uint8_t *bytes, size_t len);
    int64_t idle_ns;  /* it ends after so long without a byte, either way */
    int64_t retry_ns; /* until the first segment is sent again; doubles */
} TcpOps;

/* Who is at the other end. */
typedef struct TcpPeer {
    unsigned port; /* the switch's */
    Mac mac;
    Ip ip, own; /* own: the gateway's address */
    uint16_t ip_port, own_port, vlan;
} TcpPeer;

Tcp *tcp_new(Switch *sw, Gateway *gw, const TcpOps *ops, void *opaque);
void tcp_free(Tcp *t); /* says nothing to anybody; NULL is fine */

/* A TCP packet to an address of the gateway, and a port that is served. */
void tcp_input(Tcp *t, Port *from, const Frame *f);
void tcp_port_removed(Tcp *t, const Port *port);

const TcpPeer *tcp_peer(const TcpConn *c);
uint64_t tcp_id(const TcpConn *c); /* not 0, and no other's ever */
TcpConn *tcp_find(const Tcp *t, unsigned port, uint64_t id); /* NULL: it has ended */
unsigned tcp_count(const Tcp *t);

/* What is owed for what was taken: while there is some, the connection goes on though its
 * peer has closed its half. */
unsigned tcp_owed(const TcpConn *c);
void tcp_owe(TcpConn *c, int more);

/* Puts bytes after those that wait; what finds no room ends the connection. */
void tcp_write(TcpConn *c, const void *bytes, size_t len);
void tcp_abort(TcpConn *c);
/* Sends what was written, or ends what was aborted; `c` may be gone. */
void tcp_flush(TcpConn *c);
