/* The parts of user-mode networking that stand on their own: src/net/slirp_filter.c and
 * src/net/slirp_fds.c.  All on the card's I/O thread. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"

/* ---- which frames pass ----------------------------------------------------------------
 */

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

/* ---- libslirp's sockets
 * ---------------------------------------------------------------- */

enum {
    SLIRP_MAX_FD = 1 << 16,   /* a descriptor above is not polled */
    SLIRP_MAX_SOCKETS = 1024, /* libslirp's buffers for one are up to 256 KiB */
};

typedef struct SlirpFd {
    bool open;
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
    unsigned current;
    SlirpFdList list[2];
    SlirpFdList ready;
    SlirpFd at[SLIRP_MAX_FD]; /* by descriptor */
} SlirpFds;

bool slirp_fds_init(SlirpFds *f, GError **error); /* of zeroed memory */
void slirp_fds_finish(SlirpFds *f);

void slirp_fds_opened(SlirpFds *f, int fd);
void slirp_fds_closing(SlirpFds *f, int fd); /* before the descriptor is closed */

/* In this order, each turn: collect what happened (optional), ask for it; begin, say what
 * is wanted, sync.  _want returns libslirp's index of the socket, or -1. */
void slirp_fds_collect(SlirpFds *f);
int slirp_fds_revents(const SlirpFds *f, int index);
void slirp_fds_begin(SlirpFds *f);
int slirp_fds_want(SlirpFds *f, int fd, int events);
void slirp_fds_sync(SlirpFds *f);
