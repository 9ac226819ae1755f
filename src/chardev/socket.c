/* A unix stream socket that we listen on, for one client at a time; others wait their
 * turn in the backlog.  The file is made for its owner only and removed at the end.
 * With a log, whoever comes is first told the last of what was said before. */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>

#include "src/chardev/chardev_private.h"
#include "util/unixsocket.h"

enum { RETRY_NS = 100 * 1000 * 1000, BACKLOG = 4 };

typedef struct Socket {
    UnixListener listener;
    IoWatch watch;
    IoTimer retry;
} Socket;

static void wait_for_client(void *opaque);

static void on_connect(void *opaque, uint32_t events)
{
    Chardev *c = opaque;
    Socket *s = c->backend;
    autofd in = accept4(s->listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    autofd out = in < 0 ? -1 : fcntl(in, F_DUPFD_CLOEXEC, 3);

    if (in < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED))
        return;
    ioloop_unwatch(&s->watch);
    if (in >= 0 && out >= 0)
        chardev_attach(c, fd_steal(&in), fd_steal(&out));
    else /* out of descriptors: not now, then */
        ioloop_timer(c->loop, &s->retry, clock_ns() + RETRY_NS, wait_for_client, c);
}

static void wait_for_client(void *opaque)
{
    Chardev *c = opaque;
    Socket *s = c->backend;

    if (!ioloop_watch(c->loop, &s->watch, s->listener.fd, EPOLLIN, on_connect, c, NULL))
        ioloop_timer(c->loop, &s->retry, clock_ns() + RETRY_NS, wait_for_client, c);
}

static void socket_hangup(Chardev *c)
{
    wait_for_client(c);
}

static bool socket_open(Chardev *c, const ChardevOptions *options, GError **error)
{
    Socket *s = c->backend = g_new0(Socket, 1);

    if (!unix_listen(&s->listener, options->socket, BACKLOG, error))
        return false;
    c->has_log = options->log != NULL;
    if (c->has_log && !logfile_open(&c->log, options->log, error))
        return false;
    c->sink = SINK_HOLD;
    wait_for_client(c);
    return true;
}

static void socket_close(Chardev *c)
{
    Socket *s = c->backend;

    if (!s)
        return;
    ioloop_unwatch(&s->watch);
    ioloop_timer_cancel(&s->retry);
    unix_unlisten(&s->listener);
    g_free(s);
}

const ChardevOps chardev_socket_ops = {.name = "socket",
                                       .open = socket_open,
                                       .close = socket_close,
                                       .hangup = socket_hangup};
