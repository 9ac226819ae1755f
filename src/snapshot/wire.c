/* See wire.h. */
#include "wire.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "util/fd.h"

enum { BACKLOG = 16 };

const char *const wire_files[] = {SNAP_MANIFEST, SNAP_CONFIG, SNAP_STATE, NULL};
static const char hello_magic[8] = {'H', 'U', 'T', 'C', 'H', 'S', 'N', 'P'};

/* ---- addresses ------------------------------------------------------------------------
 */

bool wire_is_address(const char *text)
{
    return g_str_has_prefix(text, "unix:") || g_str_has_prefix(text, "tcp:");
}

static struct addrinfo *resolve(const char *address, bool listen, GError **error)
{
    g_autofree char *host = g_strdup(address + strlen("tcp:"));
    char *port = strrchr(host, ':'), *name = host;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_NUMERICSERV | (listen ? AI_PASSIVE : 0)};
    struct addrinfo *to = NULL;
    int err = EAI_NONAME;

    if (port) {
        *port++ = 0;
        if (*name == '[' && g_str_has_suffix(name, "]")) {
            name[strlen(name) - 1] = 0;
            name++;
        }
        if (*name)
            err = getaddrinfo(name, port, &hints, &to);
    }
    if (err)
        fail(error, VM_ERROR_INVALID, "'%s' is not tcp:ADDRESS:PORT (%s)", address,
             gai_strerror(err));
    return err ? NULL : to;
}

static bool check_prefix(const char *address, GError **error)
{
    return wire_is_address(address) ||
           fail(error, VM_ERROR_INVALID,
                "'%s' is no address of a snapshot: give unix:PATH or tcp:ADDRESS:PORT",
                address);
}

/* ---- connections ----------------------------------------------------------------------
 */

/* A peer that is gone without a word is noticed. */
static void set_limits(int fd, bool tcp)
{
    struct timeval limit = {.tv_sec = WIRE_WAIT_S};
    int on = 1;

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    if (!tcp)
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
}

static int dial_tcp(const char *address, GError **error)
{
    struct addrinfo *all = resolve(address, false, error);
    int err = EHOSTUNREACH;
    autofd fd = -1;

    if (!all)
        return -1;
    for (struct addrinfo *a = all; a; a = a->ai_next) {
        fd_close(&fd);
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        set_limits(fd, true); /* the time for sending is that for connecting, too */
        if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) == 0)
            break;
        err = errno == EINPROGRESS ? ETIMEDOUT : errno;
        fd_close(&fd);
    }
    freeaddrinfo(all);
    errno = err;
    if (fd < 0)
        fail_errno(error, "connect to '%s'", address);
    return fd_steal(&fd);
}

int wire_dial(const char *address, GError **error)
{
    int fd;

    if (!check_prefix(address, error))
        return -1;
    if (g_str_has_prefix(address, "tcp:"))
        return dial_tcp(address, error);
    fd = unix_connect(address + strlen("unix:"), error);
    if (fd >= 0)
        set_limits(fd, false);
    return fd;
}

/* ---- listening ------------------------------------------------------------------------
 */

static int listen_tcp(const char *address, GError **error)
{
    struct addrinfo *to = resolve(address, true, error);
    autofd fd = -1;
    int on = 1;
    bool ok;

    if (!to)
        return -1;
    fd = socket(to->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    ok = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
         bind(fd, to->ai_addr, to->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0;
    freeaddrinfo(to);
    if (ok)
        return fd_steal(&fd);
    fail_errno(error, "listen on '%s'", address);
    return -1;
}

bool wire_listen(WireListener *l, const char *address, GError **error)
{
    *l = (WireListener){.fd = -1, .unix_socket.fd = -1};
    if (!check_prefix(address, error))
        return false;
    if (g_str_has_prefix(address, "tcp:"))
        l->fd = listen_tcp(address, error);
    else if (unix_listen(&l->unix_socket, address + strlen("unix:"), BACKLOG, error))
        l->fd = l->unix_socket.fd;
    return l->fd >= 0;
}

void wire_unlisten(WireListener *l)
{
    if (l->unix_socket.fd >= 0)
        unix_unlisten(&l->unix_socket);
    else
        fd_close(&l->fd);
    l->fd = -1;
}

char *wire_listens_at(const WireListener *l, const char *address)
{
    struct sockaddr_storage at;
    socklen_t len = sizeof(at);
    const char *port = strrchr(address, ':');

    if (g_str_has_prefix(address, "unix:") ||
        getsockname(l->fd, (struct sockaddr *)&at, &len) < 0)
        return g_strdup(address);
    return g_strdup_printf("%.*s:%u", (int)(port - address), address,
                           ntohs(at.ss_family == AF_INET6
                                     ? ((struct sockaddr_in6 *)&at)->sin6_port
                                     : ((struct sockaddr_in *)&at)->sin_port));
}

/* ---- bytes ----------------------------------------------------------------------------
 */

bool wire_send(int fd, const void *data, size_t len, GError **error)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = send(fd, (const char *)data + done, len - done, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN
                       ? fail(error, VM_ERROR_IO, "the other side takes nothing for %d s",
                              WIRE_WAIT_S)
                       : fail_errno(error, "send");
        done += (size_t)n;
    }
    return true;
}

bool wire_receive(int fd, void *data, size_t len, GError **error)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = recv(fd, (char *)data + done, len - done, 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN
                       ? fail(error, VM_ERROR_IO, "the other side said nothing for %d s",
                              WIRE_WAIT_S)
                       : fail_errno(error, "receive");
        if (n == 0)
            return fail(error, VM_ERROR_IO, "the other side hung up");
        done += (size_t)n;
    }
    return true;
}

bool wire_send_hello(int fd, GError **error)
{
    uint8_t hello[WIRE_HELLO] = {0};

    memcpy(hello, hello_magic, sizeof(hello_magic));
    store_le32(hello + 8, WIRE_VERSION);
    return wire_send(fd, hello, sizeof(hello), error);
}

bool wire_receive_hello(int fd, GError **error)
{
    uint8_t hello[WIRE_HELLO];

    if (!wire_receive(fd, hello, sizeof(hello), error))
        return false;
    if (memcmp(hello, hello_magic, sizeof(hello_magic)))
        return fail(error, VM_ERROR_CORRUPT,
                    "the other side is not one that serves or wants a snapshot");
    return load_le32(hello + 8) == WIRE_VERSION ||
           fail(error, VM_ERROR_UNSUPPORTED,
                "the other side speaks version %u, and this hutch %d: use the same one",
                load_le32(hello + 8), WIRE_VERSION);
}
