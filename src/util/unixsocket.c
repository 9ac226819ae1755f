/* See util/unixsocket.h. */
#include "util/unixsocket.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "util/fd.h"

static bool make_address(struct sockaddr_un *addr, const char *path, GError **error)
{
    *addr = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(addr->sun_path))
        return fail(error, VM_ERROR_INVALID,
                    "the path '%s' is too long for a socket: %zu bytes at most", path,
                    sizeof(addr->sun_path) - 1);
    strcpy(addr->sun_path, path);
    return true;
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

static bool bind_private(int fd, const struct sockaddr_un *addr, GError **error)
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
    return true;
}

bool unix_listen(UnixListener *l, const char *path, int backlog, GError **error)
{
    struct sockaddr_un addr;
    struct stat st;

    *l = (UnixListener){.fd = -1};
    if (!make_address(&addr, path, error))
        return false;
    l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (l->fd < 0)
        return fail_errno(error, "make a socket");
    if (!bind_private(l->fd, &addr, error))
        return false;
    if (lstat(path, &st) < 0)
        return fail_errno(error, "find the socket '%s'", path);
    l->path = g_strdup(path);
    l->dev = st.st_dev;
    l->ino = st.st_ino;
    return listen(l->fd, backlog) == 0 || fail_errno(error, "listen on '%s'", path);
}

void unix_unlisten(UnixListener *l)
{
    struct stat st;

    if (l->path && lstat(l->path, &st) == 0 && st.st_dev == l->dev && st.st_ino == l->ino)
        unlink(l->path);
    fd_close(&l->fd);
    g_clear_pointer(&l->path, g_free);
}

static int connect_as(const char *path, int type, GError **error)
{
    struct sockaddr_un addr;
    autofd fd = -1;
    int failed;

    errno = ENAMETOOLONG;
    if (!make_address(&addr, path, error))
        return -1;
    fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        fail_errno(error, "make a socket");
        return -1;
    }
    if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0)
        return fd_steal(&fd);
    failed = errno;
    fail_errno(error, "connect to '%s'", path);
    fd_close(&fd);
    errno = failed;
    return -1;
}

int unix_connect(const char *path, GError **error)
{
    return connect_as(path, SOCK_STREAM, error);
}

int unix_connect_now(const char *path, GError **error)
{
    return connect_as(path, SOCK_STREAM | SOCK_NONBLOCK, error);
}
