/* Messages between switches (route_link.h). */
#include "src/switch/route_link.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "util/fd.h"
#include "util/iov.h"

enum {
    LENGTH = 4,
    IN_BYTES = 256 * 1024,
    OUT_BYTES = 512 * 1024,
    MAX_PARTS = 4,
    READS = 4, /* in one turn: others are waiting too */
};

struct RouteLink {
    IoLoop *loop;
    int fd;
    IoWatch watch;
    const RouteLinkOps *ops;
    void *opaque;
    uint8_t *in, *out;
    size_t in_len;          /* bytes that are there */
    size_t out_at, out_len; /* those that the kernel did not take yet */
};

static void ready(void *opaque, uint32_t events);

RouteLink *route_link_new(IoLoop *loop, int fd, const RouteLinkOps *ops, void *opaque,
                          GError **error)
{
    RouteLink *l = g_new0(RouteLink, 1);

    l->loop = loop;
    l->fd = fd;
    l->ops = ops;
    l->opaque = opaque;
    if (!ioloop_watch(loop, &l->watch, fd, EPOLLIN, ready, l, error)) {
        route_link_free(l);
        return NULL;
    }
    l->in = g_malloc(ROUTE_ROOM + IN_BYTES);
    l->out = g_malloc(OUT_BYTES);
    return l;
}

void route_link_free(RouteLink *l)
{
    if (!l)
        return;
    ioloop_unwatch(&l->watch);
    fd_close(&l->fd);
    g_free(l->in);
    g_free(l->out);
    g_free(l);
}

void route_link_set_opaque(RouteLink *l, const RouteLinkOps *ops, void *opaque)
{
    l->ops = ops;
    l->opaque = opaque;
}

/* ---- out ------------------------------------------------------------------------------
 */

static void watch_out(RouteLink *l)
{
    ioloop_watch_events(&l->watch, EPOLLIN | (l->out_len ? EPOLLOUT : 0u));
}

/* What the kernel did not take of a message that it has begun, so it has to follow. */
static void keep(RouteLink *l, const struct iovec *iov, unsigned n, size_t from)
{
    size_t len = iov_len(iov, n) - from;

    if (l->out_at) {
        memmove(l->out, l->out + l->out_at, l->out_len);
        l->out_at = 0;
    }
    iov_to_buf(iov, n, from, l->out + l->out_len, len);
    l->out_len += len;
    watch_out(l);
}

bool route_link_send(RouteLink *l, const struct iovec *iov, unsigned n)
{
    struct iovec all[MAX_PARTS];
    size_t len = iov_len(iov, n);
    uint8_t head[LENGTH] = {(uint8_t)(len >> 24), (uint8_t)(len >> 16),
                            (uint8_t)(len >> 8), (uint8_t)len};
    struct msghdr msg = {.msg_iov = all, .msg_iovlen = n + 1};
    ssize_t sent = 0;

    if (n >= MAX_PARTS || len > ROUTE_MAX_MESSAGE)
        return false;
    all[0] = (struct iovec){head, sizeof(head)};
    memcpy(all + 1, iov, n * sizeof(*iov));
    len += sizeof(head);
    if (!l->out_len) {
        sent = sendmsg(l->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0)
            return false; /* no room; or it has gone, which reading finds */
    } else if (len > OUT_BYTES - l->out_len) {
        return false;
    }
    if ((size_t)sent < len)
        keep(l, all, n + 1, (size_t)sent);
    return true;
}

/* False: it has gone. */
static bool send_kept(RouteLink *l)
{
    ssize_t sent = send(l->fd, l->out + l->out_at, l->out_len,
                        MSG_DONTWAIT | MSG_NOSIGNAL);

    if (sent < 0)
        return errno == EAGAIN || errno == EINTR;
    l->out_at += (size_t)sent;
    l->out_len -= (size_t)sent;
    if (!l->out_len)
        l->out_at = 0;
    watch_out(l);
    return true;
}

/* ---- in -------------------------------------------------------------------------------
 */

typedef enum { GOES_ON, GONE, FREED } Fate;

/* The whole messages of what was read. */
static Fate give_messages(RouteLink *l)
{
    uint8_t *bytes = l->in + ROUTE_ROOM;
    size_t at = 0;

    while (l->in_len - at >= LENGTH) {
        const uint8_t *p = bytes + at;
        size_t len = (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];

        if (len > ROUTE_MAX_MESSAGE)
            return GONE;
        if (l->in_len - at - LENGTH < len)
            break;
        at += LENGTH + len;
        if (!l->ops->message(l->opaque, bytes + at - len, len))
            return FREED;
    }
    memmove(bytes, bytes + at, l->in_len - at);
    l->in_len -= at;
    return GOES_ON;
}

static Fate read_some(RouteLink *l)
{
    for (unsigned i = 0; i < READS; i++) {
        size_t room = IN_BYTES - l->in_len;
        ssize_t n = recv(l->fd, l->in + ROUTE_ROOM + l->in_len, room, MSG_DONTWAIT);
        Fate fate;

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return GOES_ON;
        if (n <= 0)
            return GONE;
        l->in_len += (size_t)n;
        fate = give_messages(l);
        if (fate != GOES_ON || (size_t)n < room)
            return fate;
    }
    return GOES_ON;
}

static void ready(void *opaque, uint32_t events)
{
    RouteLink *l = opaque;
    Fate fate = GOES_ON;

    if ((events & EPOLLOUT) && l->out_len && !send_kept(l))
        fate = GONE;
    if (fate == GOES_ON && (events & ~(uint32_t)EPOLLOUT))
        fate = read_some(l);
    if (fate == GONE)
        l->ops->gone(l->opaque);
    else if (fate == GOES_ON)
        l->ops->idle(l->opaque);
}
