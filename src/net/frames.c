/* Frames over a stream socket; contract in frames.h. */
#include "src/net/frames.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "packet/packet.h"
#include "util/bits.h"
#include "util/fd.h"
#include "util/iov.h"

enum { WRITE_AT = 32 * 1024 /* bytes that are not held until the flush */ };

static void update_watch(FrameSocket *s)
{
    if (s->fd >= 0)
        ioloop_watch_events(&s->watch, (s->nd->reading ? EPOLLIN : 0u) |
                                           (s->want_write ? EPOLLOUT : 0u));
}

/* ---- beginning and end ------------------------------------------------------------ */

static void on_more(void *opaque);
static void on_event(void *opaque, uint32_t events);

void frames_init(FrameSocket *s, NetDev *nd, IoLoop *loop,
                 void (*lost)(void *opaque, const char *why), void *opaque)
{
    *s = (FrameSocket){.nd = nd, .fd = -1, .lost = lost, .opaque = opaque};
    s->nd->loop = loop;
    s->more = (IoPost){.fn = on_more, .opaque = s};
    s->in = g_malloc(FRAMES_BYTES);
    s->out = g_malloc(FRAMES_BYTES);
}

void frames_detach(FrameSocket *s)
{
    ioloop_unwatch(&s->watch);
    ioloop_unpost(s->nd->loop, &s->more);
    fd_close(&s->fd);
    s->in_at = s->in_end = s->out_at = s->out_end = 0;
}

void frames_finish(FrameSocket *s)
{
    if (s->nd)
        frames_detach(s);
    g_free(s->in);
    g_free(s->out);
}

bool frames_attach(FrameSocket *s, IoLoop *loop, int fd, GError **error)
{
    frames_detach(s);
    s->fd = fd;
    if (!fd_set_nonblock(fd, true, error) ||
        !ioloop_watch(loop, &s->watch, fd, 0, on_event, s, error)) {
        frames_detach(s);
        return false;
    }
    update_watch(s);
    return true;
}

/* A card that waits to send goes on: what it sends is lost, as without a cable. */
static void lose(FrameSocket *s, const char *why)
{
    bool waited = s->want_write;

    frames_detach(s);
    s->want_write = false;
    s->lost(s->opaque, why);
    if (waited && s->nd->writable)
        s->nd->writable(s->nd->opaque);
}

/* ---- out -------------------------------------------------------------------------- */

static void write_out(FrameSocket *s)
{
    while (s->fd >= 0 && s->out_at < s->out_end) {
        ssize_t n = send(s->fd, s->out + s->out_at, s->out_end - s->out_at, MSG_NOSIGNAL);

        if (n > 0)
            s->out_at += (size_t)n;
        else if (n < 0 && errno == EINTR)
            continue;
        else
            break; /* full; or gone, which reading will tell */
    }
    if (s->out_at == s->out_end)
        s->out_at = s->out_end = 0;
}

static bool has_room(const FrameSocket *s, size_t len)
{
    return FRAMES_BYTES - s->out_end >= FRAMES_PREFIX + len;
}

static bool make_room(FrameSocket *s, size_t len)
{
    if (has_room(s, len))
        return true;
    write_out(s);
    memmove(s->out, s->out + s->out_at, s->out_end - s->out_at);
    s->out_end -= s->out_at;
    s->out_at = 0;
    return has_room(s, len);
}

bool frames_send(FrameSocket *s, const struct iovec *iov, unsigned n)
{
    size_t len = iov_len(iov, n) - NET_HDR_LEN;

    if (s->fd < 0)
        return true;
    if (!make_room(s, len)) {
        s->want_write = true;
        update_watch(s);
        return false;
    }
    store_be32(s->out + s->out_end, (uint32_t)len);
    iov_to_buf(iov, n, NET_HDR_LEN, s->out + s->out_end + FRAMES_PREFIX, len);
    s->out_end += FRAMES_PREFIX + len;
    if (s->out_end - s->out_at >= WRITE_AT)
        write_out(s);
    return true;
}

/* What the socket does not take now goes when it can. */
void frames_flush(FrameSocket *s)
{
    write_out(s);
    if (s->out_at < s->out_end && !(s->watch.events & EPOLLOUT) && s->fd >= 0)
        ioloop_watch_events(&s->watch, s->watch.events | EPOLLOUT);
}

static void on_writable(FrameSocket *s)
{
    bool waited = s->want_write;

    write_out(s);
    if (s->out_at < s->out_end)
        return;
    s->want_write = false;
    update_watch(s);
    if (waited && s->nd->writable)
        s->nd->writable(s->nd->opaque);
}

/* ---- in --------------------------------------------------------------------------- */

/* The next whole frame in the buffer; 0: there is none.  One of a length that no frame
 * has ends the connection. */
static uint32_t frame_in(FrameSocket *s)
{
    size_t have = s->in_end - s->in_at;
    uint32_t len;

    if (have < FRAMES_PREFIX)
        return 0;
    len = load_be32(s->in + s->in_at);
    if (!len || len > PACKET_MAX) {
        lose(s, "a frame of a length that no frame has");
        return 0;
    }
    return have - FRAMES_PREFIX >= len ? len : 0;
}

/* True if something came. */
static bool read_in(FrameSocket *s)
{
    ssize_t n;

    memmove(s->in, s->in + s->in_at, s->in_end - s->in_at);
    s->in_end -= s->in_at;
    s->in_at = 0;
    n = s->fd < 0 ? -1 : recv(s->fd, s->in + s->in_end, FRAMES_BYTES - s->in_end, 0);
    if (n > 0)
        s->in_end += (size_t)n;
    else if (s->fd >= 0 && (n == 0 || (errno != EAGAIN && errno != EINTR)))
        lose(s, n ? g_strerror(errno) : "it hung up");
    return n > 0;
}

/* Waits for reading while there may be more in the buffer: the socket need not be
 * readable then. */
static void look_for_more(FrameSocket *s)
{
    if (s->nd->reading && s->in_end - s->in_at > FRAMES_PREFIX)
        ioloop_post(s->nd->loop, &s->more);
}

ssize_t frames_receive(FrameSocket *s, const struct iovec *iov, unsigned n)
{
    static const uint8_t header[NET_HDR_LEN];
    uint32_t len = frame_in(s);
    const uint8_t *frame;

    if (!len && read_in(s))
        len = frame_in(s);
    if (!len)
        return 0;
    frame = s->in + s->in_at + FRAMES_PREFIX;
    s->in_at += FRAMES_PREFIX + len;
    if (iov_from_buf(iov, n, 0, header, NET_HDR_LEN) < NET_HDR_LEN ||
        iov_from_buf(iov, n, NET_HDR_LEN, frame, len) < len)
        return -1;
    return NET_HDR_LEN + (ssize_t)len;
}

static void on_readable(FrameSocket *s)
{
    if (s->nd->reading && s->nd->readable)
        s->nd->readable(s->nd->opaque);
    look_for_more(s);
}

static void on_more(void *opaque)
{
    FrameSocket *s = opaque;

    if (frame_in(s))
        on_readable(s);
}

void frames_set_reading(FrameSocket *s, bool on)
{
    update_watch(s);
    look_for_more(s);
}

/* A hang-up is seen by reading what there is up to it; while the card takes nothing, it
 * has to be asked for. */
static void on_event(void *opaque, uint32_t events)
{
    FrameSocket *s = opaque;

    if (events & EPOLLOUT)
        on_writable(s);
    if (s->fd >= 0 && (events & EPOLLIN))
        on_readable(s);
    else if (s->fd >= 0 && (events & (EPOLLHUP | EPOLLERR)))
        lose(s, "it hung up");
}
