/* The parts of user-mode networking that stand on their own, beside slirp.c.  All on the
 * card's I/O thread. */
#pragma once

#include <libslirp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/net/netdev_private.h"
#include "state/state.h"
#include "util/error.h"

/* ---- which frames pass --------------------------------------------------------- */

/* Zero-initialise. */
typedef struct SlirpFilter {
    int64_t window_ms; /* when the window began */
    uint64_t fragment_bytes;
} SlirpFilter;

/* When every socket is taken (`full`), only what needs no new one passes: as a full NAT
 * table does, this drops new connections and all datagrams. */
bool slirp_filter_admits(SlirpFilter *filter, const uint8_t *f, size_t len, bool full);

/* The port on which the guest takes up a TCP connection with this frame (SYN and ACK);
 * 0: it does not. */
uint16_t slirp_filter_accepts(const uint8_t *f, size_t len);

/* ---- libslirp's sockets -------------------------------------------------------- */

enum {
    SLIRP_MAX_FD = 1 << 16,   /* a descriptor above is not polled */
    SLIRP_MAX_SOCKETS = 1024, /* libslirp's buffers for one are up to 256 KiB */
    SLIRP_OWNERS = 4096,      /* a power of two */
    SLIRP_NOBODY = SLIRP_OWNERS,
};

typedef struct SlirpFd {
    bool open;
    uint16_t owner;
    uint8_t polled;  /* SLIRP_POLL_*: as it is in the epoll set; 0: it is not */
    uint8_t wanted;  /* as libslirp asks, from begin to sync */
    uint8_t revents; /* from collect to begin */
} SlirpFd;

/* Two lists of descriptors change places at each sync; forwards come on top of the
 * sockets that are counted. */
typedef struct SlirpFdList {
    unsigned n;
    int fd[2 * SLIRP_MAX_SOCKETS];
} SlirpFdList;

typedef struct SlirpFds {
    int epoll_fd;
    unsigned n_open; /* sockets libslirp made at the guest's or a client's word */
    uint16_t of_owner[SLIRP_OWNERS]; /* and of those, each guest's */
    unsigned current;
    SlirpFdList list[2];
    SlirpFdList ready;
    SlirpFd at[SLIRP_MAX_FD]; /* by descriptor */
} SlirpFds;

bool slirp_fds_init(SlirpFds *f, GError **error); /* of zeroed memory */
void slirp_fds_finish(SlirpFds *f);

/* The guest that a frame is from, by its Ethernet source; two may be taken for one, once
 * in SLIRP_OWNERS times. */
unsigned slirp_fds_owner(const uint8_t *frame, size_t len);

/* Whether no guest may have a socket more: there are `max`, or `owner` has as many as are
 * left for all.  So one alone has half of them at most, two a third each, and who comes
 * always finds some.  SLIRP_NOBODY has no such share. */
bool slirp_fds_full(const SlirpFds *f, unsigned owner, unsigned max);

void slirp_fds_opened(SlirpFds *f, int fd, unsigned owner);
void slirp_fds_closing(SlirpFds *f, int fd); /* before the descriptor is closed */

/* In this order, each turn: collect what happened (optional), ask for it; begin, say what
 * is wanted, sync.  _want returns libslirp's index of the socket, or -1. */
void slirp_fds_collect(SlirpFds *f);
int slirp_fds_revents(const SlirpFds *f, int index);
void slirp_fds_begin(SlirpFds *f);
int slirp_fds_want(SlirpFds *f, int fd, int events);
void slirp_fds_sync(SlirpFds *f);

/* ---- TCP connections of the guest: slirp_flows.c ------------------------------- */

enum { SLIRP_MAX_FLOWS = 1024 /* a power of two */, SLIRP_PROBE_LEN = 74 };

/* One that the guest has with `peer`, as the guest's segments show it. */
typedef struct SlirpFlow {
    uint8_t guest[16], peer[16]; /* IPv4: the first four bytes */
    uint32_t seq, ack;           /* the guest's next byte, and the next that it awaits */
    uint16_t guest_port, peer_port;
    bool used, ipv6, guest_fin, peer_fin;
} SlirpFlow;

/* Zero-initialise. */
typedef struct SlirpFlows {
    uint8_t mac[6]; /* the guest's, as its frames have it */
    SlirpFlow flow[SLIRP_MAX_FLOWS];
} SlirpFlows;

/* A frame from the guest, and one to it. */
void slirp_flows_sent(SlirpFlows *f, const uint8_t *frame, size_t len);
void slirp_flows_received(SlirpFlows *f, const uint8_t *frame, size_t len);

/* Those that there are, in an order that only depends on them; and some more. */
unsigned slirp_flows_list(const SlirpFlows *f, SlirpFlow list[SLIRP_MAX_FLOWS]);
void slirp_flows_add(SlirpFlows *f, const SlirpFlow *list, unsigned n);

/* A segment of the peer's that makes the guest say where it stands; returns its length.
 */
size_t slirp_flow_probe(const SlirpFlows *f, const SlirpFlow *flow,
                        uint8_t frame[SLIRP_PROBE_LEN]);

/* ---- what a guest knows of its user network, saved: slirp_state.c -------------- */

enum { SLIRP_LEASES = 16 };

typedef struct SlirpLease { /* of the address DHCP's first + index */
    uint8_t mac[6];
    bool taken;
} SlirpLease;

typedef struct UserState {
    uint16_t ip_id; /* of the next IPv4 packet */
    SlirpLease lease[SLIRP_LEASES];
    uint8_t guest_mac[6];
    uint32_t n_flows;
    SlirpFlow flow[SLIRP_MAX_FLOWS];
} UserState;

/* Between libslirp and the struct; libslirp's lock held. */
void slirp_state_get(Slirp *slirp, UserState *ret);
void slirp_state_put(Slirp *slirp, const UserState *s);

/* ---- which network it plays: slirp_network.c; libslirp's lock held ------------- */

enum { SLIRP_MTU = 1500 };

bool slirp_check(const NetDevOptions *o, GError **error); /* any thread, without lock */

/* What is made of the options; refers to them. */
void slirp_configure(SlirpConfig *ret, const NetDevOptions *o);

/* The host listens for the guest, as a text of hostfwd= or a switch says, from now on, or
 * not any more. */
bool slirp_forward_text(Slirp *slirp, const char *text, HostFwd *ret, GError **error);
bool slirp_forward(Slirp *slirp, const NetDevForward *fwd, GError **error);
void slirp_unforward(Slirp *slirp, const NetDevForward *fwd);
