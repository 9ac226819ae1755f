/* A connection between two switches: messages behind a length of four bytes, big-endian,
 * over a stream socket that never makes anybody wait: what does not fit is lost, as on
 * any wire.  The switch's thread. */
#pragma once

#include <stdint.h>
#include <sys/uio.h>

#include "util/ioloop.h"

enum { ROUTE_MAX_MESSAGE = 12 + 65550 };

typedef struct RouteLink RouteLink;

typedef struct RouteLinkOps {
    /* `bytes` are the receiver's to write to, with room for `ROUTE_ROOM` before them. The
     * link may be freed in it, and then false is to be returned. */
    bool (*message)(void *opaque, uint8_t *bytes, size_t len);
    /* The other side hung up, or talks nonsense; the link is to be freed in it. */
    void (*gone)(void *opaque);
    void (*idle)(void *opaque); /* after a batch of messages */
} RouteLinkOps;

enum { ROUTE_ROOM = 16 };

/* Takes the socket over, which does not block.  NULL on failure, and it is closed. */
RouteLink *route_link_new(IoLoop *loop, int fd, const RouteLinkOps *ops, void *opaque,
                          GError **error);
void route_link_free(RouteLink *link); /* NULL is fine */
void route_link_set_opaque(RouteLink *link, const RouteLinkOps *ops, void *opaque);

/* False: there is no room, and the message is lost. */
bool route_link_send(RouteLink *link, const struct iovec *iov, unsigned n);
