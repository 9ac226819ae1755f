/* --net stream: a card whose wire is a unix socket to another program, QEMU's -netdev
 * stream for one.  Who listens serves one other side at a time; who connects does so
 * again, when the other side has gone, until it is there.  Meanwhile the link is down. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "src/net/frames.h"
#include "util/log.h"
#include "util/unixsocket.h"

enum { RETRY_MIN_MS = 100, RETRY_MAX_MS = 5000, MS_NS = 1000000 };

typedef struct Stream {
    NetDev nd;
    FrameSocket socket;
    char *path, *id;
    UnixListener listener; /* path NULL: we connect */
    IoWatch accept_watch;
    IoTimer retry;
    int64_t retry_ms;
    LogLimit log;
} Stream;

static Stream *stream_of(NetDev *nd)
{
    return (Stream *)nd;
}

static bool stream_check(const NetDevOptions *o, GError **error)
{
    if (o->path && *o->path)
        return true;
    return fail(error, VM_ERROR_INVALID,
                "path= is missing: the unix socket where the other program listens, or, "
                "with listen, where it is to connect");
}

/* ---- connecting -----------------------------------------------------------------------
 */

static void on_retry(void *opaque)
{
    Stream *s = opaque;
    int fd = unix_connect_now(s->path, NULL);

    if (fd >= 0 && frames_attach(&s->socket, s->nd.loop, fd, NULL)) {
        s->retry_ms = RETRY_MIN_MS;
        log_info("%s: connected to '%s' again", s->id, s->path);
        netdev_link_changed(&s->nd, true);
        return;
    }
    s->retry_ms = MIN(s->retry_ms * 2, RETRY_MAX_MS);
    ioloop_timer(s->nd.loop, &s->retry, clock_ns() + s->retry_ms * MS_NS, on_retry, s);
}

static bool start_connecting(Stream *s, GError **error)
{
    int fd = unix_connect_now(s->path, error);

    return fd >= 0 && frames_attach(&s->socket, s->nd.loop, fd, error);
}

/* ---- listening ------------------------------------------------------------------------
 */

/* Others wait in the socket's queue while one is connected. */
static void on_accept(void *opaque, uint32_t events)
{
    Stream *s = opaque;
    int fd = accept4(s->listener.fd, NULL, NULL, SOCK_CLOEXEC);

    if (fd < 0 || !frames_attach(&s->socket, s->nd.loop, fd, NULL))
        return;
    ioloop_watch_events(&s->accept_watch, 0);
    netdev_link_changed(&s->nd, true);
}

static bool start_listening(Stream *s, GError **error)
{
    s->nd.link_down = true;
    return unix_listen(&s->listener, s->path, 1, error) &&
           ioloop_watch(s->nd.loop, &s->accept_watch, s->listener.fd, EPOLLIN, on_accept,
                        s, error);
}

/* ---- life-cycle -----------------------------------------------------------------------
 */

static void on_lost(void *opaque, const char *why)
{
    Stream *s = opaque;

    if (log_limit(&s->log))
        log_warn("%s: the stream at '%s' is lost: %s", s->id, s->path, why);
    netdev_link_changed(&s->nd, false);
    if (s->listener.path)
        ioloop_watch_events(&s->accept_watch, EPOLLIN);
    else
        ioloop_timer(s->nd.loop, &s->retry, clock_ns() + s->retry_ms * MS_NS, on_retry,
                     s);
}

static void stream_close(NetDev *nd)
{
    Stream *s = stream_of(nd);

    ioloop_timer_cancel(&s->retry);
    ioloop_unwatch(&s->accept_watch);
    unix_unlisten(&s->listener);
    frames_finish(&s->socket);
    g_free(s->path);
    g_free(s->id);
    g_free(s);
}

static NetDev *stream_open(const NetDevOptions *o, const NetDevCard *card, IoLoop *loop,
                           GError **error)
{
    Stream *s = g_new0(Stream, 1);

    frames_init(&s->socket, &s->nd, loop, on_lost, s);
    s->listener.fd = -1;
    s->path = g_strdup(o->path);
    s->id = g_strdup(card ? card->id : "stream");
    s->retry_ms = RETRY_MIN_MS;
    if (o->listen ? start_listening(s, error) : start_connecting(s, error))
        return &s->nd;
    stream_close(&s->nd);
    return NULL;
}

/* ---- frames ---------------------------------------------------------------------------
 */

static void stream_set_reading(NetDev *nd, bool on)
{
    frames_set_reading(&stream_of(nd)->socket, on);
}

static bool stream_send(NetDev *nd, const struct iovec *iov, unsigned n)
{
    return frames_send(&stream_of(nd)->socket, iov, n);
}

static void stream_flush(NetDev *nd)
{
    frames_flush(&stream_of(nd)->socket);
}

static ssize_t stream_receive(NetDev *nd, const struct iovec *iov, unsigned n)
{
    return frames_receive(&stream_of(nd)->socket, iov, n);
}

const NetDevOps netdev_stream_ops = {
    .name = "stream",
    .check = stream_check,
    .open = stream_open,
    .close = stream_close,
    .set_reading = stream_set_reading,
    .send = stream_send,
    .flush = stream_flush,
    .receive = stream_receive,
};
