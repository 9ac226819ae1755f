/* A unix stream socket that we listen on, for one client at a time; others wait their
 * turn in the backlog.  The file is made for its owner only and removed at the end. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "src/chardev/chardev_private.h"

enum { RETRY_NS = 100 * 1000 * 1000 };

typedef struct Socket {
    int fd;
    IoWatch watch;
    IoTimer retry;
    char *path; /* NULL until bound */
    dev_t dev;  /* of the file we made, so as to remove no other */
    ino_t ino;
} Socket;

static void wait_for_client(void *opaque);

static void on_connect(void *opaque, uint32_t events)
{
    Chardev *c = opaque;
    Socket *s = c->backend;
    autofd in = accept4(s->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
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

    if (!ioloop_watch(c->loop, &s->watch, s->fd, EPOLLIN, on_connect, c, NULL))
        ioloop_timer(c->loop, &s->retry, clock_ns() + RETRY_NS, wait_for_client, c);
}

static void socket_hangup(Chardev *c)
{
    wait_for_client(c);
}

/* A file that nobody listens behind was left by a process that was killed. */
static bool remove_stale(const struct sockaddr_un *addr, GError **error)
{
    struct stat st;
    autofd probe = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (lstat(addr->sun_path, &st) == 0 && !S_ISSOCK(st.st_mode))
        return fail(error, VM_ERROR_INVALID,
                    "'%s' exists and is not a socket; name another path or remove it",
                    addr->sun_path);
    if (probe < 0 || connect(probe, (const struct sockaddr *)addr, sizeof(*addr)) == 0 ||
        errno != ECONNREFUSED)
        return fail(error, VM_ERROR_BUSY,
                    "somebody listens on '%s' already; name another path or end that",
                    addr->sun_path);
    if (unlink(addr->sun_path) < 0 && errno != ENOENT)
        return fail_errno(error, "remove the stale socket '%s'", addr->sun_path);
    return true;
}

static bool bind_and_listen(int fd, const struct sockaddr_un *addr, GError **error)
{
    const struct sockaddr *sa = (const struct sockaddr *)addr;

    /* Linux makes the file with the socket's own mode, so there is no moment in which
     * others could connect, and no umask to change for the whole process. */
    if (fchmod(fd, 0600) < 0)
        return fail_errno(error, "make the socket private");
    if (bind(fd, sa, sizeof(*addr)) < 0) {
        if (errno != EADDRINUSE)
            return fail_errno(error, "make the socket '%s'", addr->sun_path);
        if (!remove_stale(addr, error))
            return false;
        if (bind(fd, sa, sizeof(*addr)) < 0)
            return fail_errno(error, "make the socket '%s'", addr->sun_path);
    }
    if (listen(fd, 4) < 0)
        return fail_errno(error, "listen on '%s'", addr->sun_path);
    return true;
}

static bool socket_open(Chardev *c, const ChardevOptions *options, GError **error)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    Socket *s = c->backend = g_new0(Socket, 1);
    struct stat st;

    s->fd = -1;
    if (strlen(options->socket) >= sizeof(addr.sun_path))
        return fail(error, VM_ERROR_INVALID,
                    "the path '%s' is too long for a socket: %zu bytes at most",
                    options->socket, sizeof(addr.sun_path) - 1);
    strcpy(addr.sun_path, options->socket);
    s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd < 0)
        return fail_errno(error, "make a socket");
    if (!bind_and_listen(s->fd, &addr, error))
        return false;
    if (lstat(addr.sun_path, &st) < 0)
        return fail_errno(error, "find the socket '%s'", addr.sun_path);
    s->path = g_strdup(addr.sun_path);
    s->dev = st.st_dev;
    s->ino = st.st_ino;
    c->sink = SINK_HOLD;
    wait_for_client(c);
    return true;
}

static void socket_close(Chardev *c)
{
    Socket *s = c->backend;
    struct stat st;

    if (!s)
        return;
    ioloop_unwatch(&s->watch);
    ioloop_timer_cancel(&s->retry);
    if (s->path && lstat(s->path, &st) == 0 && st.st_dev == s->dev && st.st_ino == s->ino)
        unlink(s->path);
    fd_close(&s->fd);
    g_free(s->path);
    g_free(s);
}

const ChardevOps chardev_socket_ops = {.name = "socket",
                                       .open = socket_open,
                                       .close = socket_close,
                                       .hangup = socket_hangup};
