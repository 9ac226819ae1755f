/* The host's side of vsock connections: unix sockets, as Firecracker defines them.
 *
 * A client connects to the device's path and says "CONNECT PORT"; once the guest has
 * accepted it is told "OK" and its own port, and the rest is bytes.  What it sends early
 * stays in its socket.  A guest's connection to port P of the host ends in a client's
 * connection of ours to whoever listens at the path with _P behind it.
 *
 * Bytes go between guest memory and socket without a stop, except those that a slow
 * socket does not take: they are kept in a ring of the size that the guest was told. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "util/fd.h"
#include "util/iov.h"
#include "virtio/vsock_private.h"

enum { FIRST_PORT = 1 << 30, N_PORTS = 1 << 30 }; /* of clients; guests use low ones */

/* ---- a client's first words ------------------------------------------------------- */

static uint32_t choose_port(Vsock *vs, uint32_t guest_port)
{
    uint32_t port;

    do
        port = FIRST_PORT + vs->last_port++ % N_PORTS;
    while (vsock_conn_find(vs, VSOCK_STREAM, port, guest_port));
    return port;
}

/* The line without its end. */
static bool parse_line(const char *line, unsigned len, uint32_t *ret_port)
{
    static const char verb[] = "CONNECT ";
    guint64 port;

    if (strlen(line) != len || !g_str_has_prefix(line, verb) ||
        !g_ascii_string_to_unsigned(line + strlen(verb), 10, 0, UINT32_MAX - 1, &port,
                                    NULL))
        return false;
    *ret_port = (uint32_t)port;
    return true;
}

static void obey_line(VsockConn *c)
{
    c->line[c->n_line - 1] = '\0';
    if (!parse_line(c->line, c->n_line - 1, &c->guest_port)) {
        vsock_conn_reset(c);
        return;
    }
    c->host_port = choose_port(c->vs, c->guest_port);
    c->state = VSOCK_ASKED;
    vsock_conn_hash(c);
    vsock_conn_tell(c, VSOCK_TELL_REQUEST);
    vsock_conn_limit(c);
}

/* Not one byte more than the line is taken from the socket. */
static void read_line(VsockConn *c)
{
    char *at = c->line + c->n_line, *end = NULL;
    ssize_t n = recv(c->fd, at, sizeof(c->line) - c->n_line, MSG_PEEK);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0) {
        end = memchr(at, '\n', (size_t)n);
        n = recv(c->fd, at, end ? (size_t)(end + 1 - at) : (size_t)n, 0);
    }
    c->n_line += n > 0 ? (unsigned)n : 0;
    if (end && n == end + 1 - at)
        obey_line(c);
    else if (n <= 0 || c->n_line == sizeof(c->line))
        vsock_conn_reset(c);
}

void vsock_host_accepted(VsockConn *c)
{
    char answer[32];
    int len = g_snprintf(answer, sizeof(answer), "OK %u\n", c->host_port);

    c->readable = true; /* it may have said something, and gone */
    vsock_conn_tell(c, 0);
    if (send(c->fd, answer, (size_t)len, MSG_NOSIGNAL) != len)
        vsock_conn_host_shut(c, VSOCK_NO_RCV);
}

int vsock_host_dial(const Vsock *vs, uint32_t port)
{
    char path[VSOCK_PATH_MAX + 12];

    g_snprintf(path, sizeof(path), "%s_%u", vs->path, port);
    return unix_connect_now(path, NULL);
}

/* ---- bytes from the guest --------------------------------------------------------- */

/* What the socket takes of it now; -1: nobody reads any more. */
static ssize_t try_send(VsockConn *c, struct iovec *iov, unsigned n)
{
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n};
    ssize_t sent;

    do
        sent = sendmsg(c->fd, &msg, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 && errno == EAGAIN ? 0 : sent;
}

static void lost_reader(VsockConn *c)
{
    if (c->state == VSOCK_OVER) {
        vsock_host_close(c);
        vsock_conn_release(c);
        return;
    }
    vsock_conn_forwarded(c, vsock_kept(c));
    vsock_conn_host_shut(c, VSOCK_NO_RCV);
}

/* All that the guest sent has been taken by the socket. */
static void all_sent(VsockConn *c)
{
    if (c->state == VSOCK_OVER) {
        vsock_host_close(c);
        vsock_conn_release(c);
    } else if (c->guest_shut & VSOCK_NO_SEND) {
        shutdown(c->fd, SHUT_WR);
    }
}

/* The parts of the ring from `at`, `len` bytes. */
static unsigned ring_parts(VsockConn *c, uint32_t at, uint32_t len, struct iovec part[2])
{
    uint32_t first = MIN(len, VSOCK_BUF - at);

    part[0] = (struct iovec){c->buf + at, first};
    part[1] = (struct iovec){c->buf, len - first};
    return len > first ? 2 : 1;
}

static void flush(VsockConn *c)
{
    struct iovec part[2];
    ssize_t n = try_send(c, part, ring_parts(c, c->buf_at, vsock_kept(c), part));

    if (n < 0) {
        lost_reader(c);
        return;
    }
    c->buf_at = (c->buf_at + (uint32_t)n) % VSOCK_BUF;
    vsock_conn_forwarded(c, (uint32_t)n);
    if (!vsock_kept(c))
        all_sent(c);
}

/* Keeps `len` bytes of the data from `offset` on; before there were `kept`. */
static bool keep(VsockConn *c, const struct iovec *data, unsigned n, size_t offset,
                 uint32_t len, uint32_t kept)
{
    struct iovec part[2];
    unsigned n_parts;

    if (!c->buf && !(c->buf = g_try_malloc(VSOCK_BUF)))
        return false;
    n_parts = ring_parts(c, (c->buf_at + kept) % VSOCK_BUF, len, part);
    for (unsigned i = 0; i < n_parts; i++) {
        iov_to_buf(data, n, offset, part[i].iov_base, part[i].iov_len);
        offset += part[i].iov_len;
    }
    return true;
}

void vsock_host_write(VsockConn *c, const struct iovec *data, unsigned n, uint32_t len)
{
    uint32_t kept = vsock_kept(c);
    ssize_t sent = 0;

    c->rx_cnt += len;
    if (!len) {
        return;
    } else if (c->fd < 0 || (c->host_shut & VSOCK_NO_RCV)) {
        vsock_conn_forwarded(c, len); /* to nobody, who was told so */
        return;
    }
    if (!kept && (sent = try_send(c, (struct iovec *)data, n)) < 0) {
        lost_reader(c);
        return;
    }
    if (sent < len && !keep(c, data, n, (size_t)sent, len - (uint32_t)sent, kept)) {
        vsock_conn_reset(c);
        return;
    }
    vsock_conn_forwarded(c, (uint32_t)sent);
    vsock_host_watch(c);
}

void vsock_host_shutdown(VsockConn *c)
{
    if (c->fd < 0)
        return;
    if (c->guest_shut & VSOCK_NO_RCV) {
        c->readable = false;
        shutdown(c->fd, SHUT_RD);
    }
    if ((c->guest_shut & VSOCK_NO_SEND) && !vsock_kept(c))
        all_sent(c);
    if (c->hung && c->state == VSOCK_OPEN && !vsock_listens(c))
        vsock_conn_host_shut(c, VSOCK_NO_MORE); /* what it left is not wanted */
    vsock_host_watch(c);
}

/* ---- bytes for the guest ---------------------------------------------------------- */

uint32_t vsock_host_read(VsockConn *c, const struct iovec *room, unsigned n, size_t max)
{
    struct iovec part[VQ_MAX_SIZE];
    struct msghdr msg = {.msg_iov = part};
    uint32_t credit = vsock_credit(c);
    ssize_t got;

    if (!c->readable || c->starved || !vsock_listens(c))
        return 0;
    /* Without credit: is there more, or is it the end? */
    msg.msg_iovlen = iov_slice(room, n, 0, MIN(max, MAX(credit, 1)), part);
    do
        got = recvmsg(c->fd, &msg, credit ? 0 : MSG_PEEK);
    while (got < 0 && errno == EINTR);
    if (got > 0 && !credit) {
        c->starved = true;
        c->tell |= VSOCK_ASK_CREDIT;
        return 0;
    }
    if (got > 0) {
        c->tx_cnt += (uint32_t)got;
        return (uint32_t)got;
    }
    c->readable = false;
    if (got == 0 || errno != EAGAIN)
        vsock_conn_host_shut(c, got == 0 && !c->hung ? VSOCK_NO_SEND : VSOCK_NO_MORE);
    return 0;
}

/* ---- the socket ------------------------------------------------------------------- */

static void on_open_socket(VsockConn *c, uint32_t events)
{
    if (vsock_listens(c)) {
        if (c->hung || (events & EPOLLIN)) {
            c->readable = true;
            vsock_conn_tell(c, 0);
        }
    } else if (c->hung) {
        vsock_conn_host_shut(c, VSOCK_NO_MORE);
    }
}

static void on_socket(void *opaque, uint32_t events)
{
    VsockConn *c = opaque;
    Vsock *vs = c->vs;

    if (events & (EPOLLHUP | EPOLLERR))
        c->hung = true;
    if (c->state == VSOCK_HELLO)
        read_line(c);
    else if (vsock_kept(c))
        flush(c);
    if (c->state == VSOCK_OPEN)
        on_open_socket(c, events);
    vsock_run_rx(vs);
    vsock_host_watch(c); /* what there was no receive buffer for, is not asked for */
}

void vsock_host_watch(VsockConn *c)
{
    uint32_t events = 0;

    if (c->fd < 0)
        return;
    if (c->state == VSOCK_HELLO || (vsock_listens(c) && !c->readable))
        events |= EPOLLIN;
    if (vsock_kept(c))
        events |= EPOLLOUT;
    if (c->hung)
        ioloop_unwatch(&c->watch); /* it would tell us for ever */
    else if (c->watch.loop)
        ioloop_watch_events(&c->watch, events);
    else if (!ioloop_watch(c->vs->v.loop, &c->watch, c->fd, events, on_socket, c, NULL))
        vsock_conn_reset(c);
}

void vsock_host_close(VsockConn *c)
{
    ioloop_unwatch(&c->watch);
    fd_close(&c->fd);
    c->fwd_cnt = c->rx_cnt;
    g_clear_pointer(&c->buf, g_free);
    c->readable = false;
}

void vsock_host_accept(Vsock *vs, int fd)
{
    VsockConn *c = vsock_conn_new(vs, VSOCK_HELLO);

    c->fd = fd;
    vsock_conn_limit(c);
    vsock_host_watch(c);
}
