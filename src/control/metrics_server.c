/* The HTTP endpoint of metrics: answers GET /metrics (RFC 9112), on the main loop, one
 * request for each connection.  Contract in control/metrics.h.
 *
 * Bounds.  A request is 4 KiB at most, and a connection lasts seconds at most, whatever
 * its client does or does not; there are a few, and who comes on top is told so and hung
 * up on.  Nothing is sent that would have to be waited for.  What a client sends beyond
 * its request is read and forgotten, up to a limit, because closing on unread bytes would
 * take back the answer.  While nobody is connected, there is nothing but an entry in the
 * epoll set. */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "control/metrics.h"
#include "control/place.h"
#include "src/control/metrics_server.h"
#include "util/fd.h"
#include "util/log.h"
#include "util/unixsocket.h"

enum {
    MAX_CLIENTS = 16,
    MAX_REQUEST = 4096,
    MAX_FORGOTTEN = 64 * 1024,
    BACKLOG = 64,
    RETRY_NS = 100 * 1000 * 1000,
};

int64_t metrics_client_ns = 5000000000;

typedef struct Client {
    MetricsServer *server;
    int fd; /* -1: free */
    IoWatch watch;
    IoTimer limit;
    size_t n_in, out_at, forgotten;
    GString *out; /* NULL: the request is not complete */
    char in[MAX_REQUEST];
} Client;

struct MetricsServer {
    UnixListener unix_socket;
    int tcp_fd;
    IoLoop *loop; /* NULL: not started */
    IoWatch watch;
    IoTimer retry;
    char *(*text)(void *opaque);
    void *opaque;
    Client clients[MAX_CLIENTS];
};

/* ---- answers --------------------------------------------------------------------------
 */

typedef struct Status {
    const char *line, *body;
} Status;

static const Status ok = {"200 OK", NULL},
                    malformed = {"400 Bad Request", "this is no HTTP/1 request\n"},
                    elsewhere = {"404 Not Found", "metrics are at /metrics\n"},
                    only_get = {"405 Method Not Allowed", "metrics can only be read\n"},
                    too_long = {"431 Request Header Fields Too Large",
                                "a request may be 4 KiB long\n"},
                    too_many = {"503 Service Unavailable",
                                "too many clients are connected; try again\n"};

static GString *make_answer(const Status *status, const char *body, bool head)
{
    GString *out = g_string_new(NULL);

    g_string_append_printf(
        out,
        "HTTP/1.1 %s\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
        "Content-Length: %zu\r\nConnection: close\r\n%s\r\n",
        status->line, strlen(body), status == &only_get ? "Allow: GET, HEAD\r\n" : "");
    if (!head)
        g_string_append(out, body);
    return out;
}

/* The path of a target, which may be a whole URL (RFC 9112, 3.2.2), is /metrics. */
static bool is_ours(const char *target)
{
    if (g_ascii_strncasecmp(target, "http://", 7) == 0) {
        target = strchr(target + 7, '/');
        if (!target)
            return false;
    }
    return strcspn(target, "?#") == strlen("/metrics") &&
           g_str_has_prefix(target, "/metrics");
}

static const Status *judge(const char *line, bool *ret_head)
{
    g_auto(GStrv) words = g_strsplit(line, " ", 4);

    if (g_strv_length(words) != 3 || !g_str_has_prefix(words[2], "HTTP/1."))
        return &malformed;
    *ret_head = g_str_equal(words[0], "HEAD");
    if (!*ret_head && !g_str_equal(words[0], "GET"))
        return &only_get;
    return is_ours(words[1]) ? &ok : &elsewhere;
}

static void answer(Client *c)
{
    g_autofree char *line = g_strndup(c->in, c->n_in), *text = NULL;
    bool head = false;
    const Status *status;

    line[strcspn(line, "\r\n")] = '\0';
    status = judge(line, &head);
    if (status == &ok)
        text = c->server->text(c->server->opaque);
    c->out = make_answer(status, text ? text : status->body, head);
}

/* ---- a client -------------------------------------------------------------------------
 */

static void hang_up(Client *c)
{
    ioloop_timer_cancel(&c->limit);
    ioloop_unwatch(&c->watch);
    fd_close(&c->fd);
    if (c->out)
        g_string_free(c->out, TRUE);
    c->out = NULL;
}

static void on_limit(void *opaque)
{
    hang_up(opaque);
}

static bool is_complete(const Client *c)
{
    return memmem(c->in, c->n_in, "\r\n\r\n", 4) || memmem(c->in, c->n_in, "\n\n", 2);
}

/* False: nothing more for now, or the client is gone. */
static bool receive(Client *c, char *to, size_t room, size_t *ret_n)
{
    ssize_t n = recv(c->fd, to, room, MSG_DONTWAIT);

    *ret_n = n > 0 ? (size_t)n : 0;
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        hang_up(c);
    return n > 0;
}

static void read_request(Client *c)
{
    size_t n;

    if (!receive(c, c->in + c->n_in, sizeof(c->in) - c->n_in, &n))
        return;
    c->n_in += n;
    if (is_complete(c))
        answer(c);
    else if (c->n_in == sizeof(c->in))
        c->out = make_answer(&too_long, too_long.body, false);
}

static void forget(Client *c)
{
    size_t n;

    if (receive(c, c->in, sizeof(c->in), &n) && (c->forgotten += n) > MAX_FORGOTTEN)
        hang_up(c);
}

static void send_answer(Client *c)
{
    while (c->out_at < c->out->len) {
        ssize_t n = send(c->fd, c->out->str + c->out_at, c->out->len - c->out_at,
                         MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            ioloop_watch_events(&c->watch,
                                EPOLLOUT); /* one may say no more and still listen */
        else if (n < 0)
            hang_up(c);
        if (n < 0)
            return;
        c->out_at += (size_t)n;
    }
    /* Its end of the connection follows, or the limit. */
    shutdown(c->fd, SHUT_WR);
    ioloop_watch_events(&c->watch, EPOLLIN);
}

static void on_client(void *opaque, uint32_t events)
{
    Client *c = opaque;

    if (!c->out) {
        read_request(c);
        if (c->out)
            send_answer(c);
    } else if (c->out_at < c->out->len) {
        send_answer(c);
    } else {
        forget(c);
    }
}

/* ---- who comes ------------------------------------------------------------------------
 */

static void turn_away(int fd)
{
    GString *out = make_answer(&too_many, too_many.body, false);

    send(fd, out->str, out->len, MSG_NOSIGNAL | MSG_DONTWAIT);
    g_string_free(out, TRUE);
}

static void admit(MetricsServer *s, int fd)
{
    for (unsigned i = 0; i < MAX_CLIENTS; i++) {
        Client *c = &s->clients[i];

        if (c->fd >= 0)
            continue;
        c->fd = fd;
        c->n_in = c->out_at = c->forgotten = 0;
        if (ioloop_watch(s->loop, &c->watch, fd, EPOLLIN, on_client, c, NULL))
            ioloop_timer(s->loop, &c->limit, clock_ns() + metrics_client_ns, on_limit, c);
        else
            hang_up(c);
        return;
    }
    turn_away(fd);
    close(fd);
}

static int listen_fd(const MetricsServer *s)
{
    return s->tcp_fd >= 0 ? s->tcp_fd : s->unix_socket.fd;
}

static void wait_for_client(void *opaque);

static void on_connect(void *opaque, uint32_t events)
{
    MetricsServer *s = opaque;
    int fd = accept4(listen_fd(s), NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd >= 0) {
        admit(s, fd);
    } else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
        ioloop_unwatch(&s->watch); /* out of descriptors: not now, then */
        ioloop_timer(s->loop, &s->retry, clock_ns() + RETRY_NS, wait_for_client, s);
    }
}

static void wait_for_client(void *opaque)
{
    MetricsServer *s = opaque;

    if (!ioloop_watch(s->loop, &s->watch, listen_fd(s), EPOLLIN, on_connect, s, NULL))
        ioloop_timer(s->loop, &s->retry, clock_ns() + RETRY_NS, wait_for_client, s);
}

/* ---- the address ----------------------------------------------------------------------
 */

/* "HOST:PORT", "[HOST]:PORT", ":PORT", "PORT"; new strings. */
static void split_address(const char *address, char **ret_host, char **ret_port)
{
    const char *colon = strrchr(address, ':');
    size_t len = colon ? (size_t)(colon - address) : 0;

    if (len >= 2 && address[0] == '[' && address[len - 1] == ']') {
        address++;
        len -= 2;
    }
    *ret_host = len ? g_strndup(address, len) : g_strdup("127.0.0.1");
    *ret_port = g_strdup(colon ? colon + 1 : address);
    if (g_str_equal(*ret_host, "localhost")) {
        g_free(*ret_host);
        *ret_host = g_strdup("127.0.0.1");
    }
}

static bool is_port(const char *text)
{
    guint64 port;

    return g_ascii_string_to_unsigned(text, 10, 0, UINT16_MAX, &port, NULL);
}

static bool listen_on(MetricsServer *s, const struct addrinfo *to, const char *address,
                      GError **error)
{
    int on = 1;

    s->tcp_fd = socket(to->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
                       IPPROTO_TCP);
    if (s->tcp_fd < 0)
        return fail_errno(error, "make a socket for '%s'", address);
    setsockopt(s->tcp_fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    return (bind(s->tcp_fd, to->ai_addr, to->ai_addrlen) == 0 &&
            listen(s->tcp_fd, BACKLOG) == 0) ||
           fail_errno(error, "listen on '%s'", address);
}

static bool open_tcp(MetricsServer *s, const char *address, GError **error)
{
    const struct addrinfo hints = {
        .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
        .ai_socktype = SOCK_STREAM,
    };
    g_autofree char *host = NULL, *port = NULL;
    struct addrinfo *to = NULL;
    bool listens;

    split_address(address, &host, &port);
    if (!is_port(port) || getaddrinfo(host, port, &hints, &to) != 0)
        return fail(error, VM_ERROR_INVALID,
                    "'%s' is no address to listen on: write ADDR:PORT with an address in "
                    "numbers, :PORT, unix:PATH, or unix for metrics.sock in the run "
                    "folder",
                    address);
    listens = listen_on(s, to, address, error);
    freeaddrinfo(to);
    return listens;
}

static bool open_unix(MetricsServer *s, const char *path, const char *name,
                      GError **error)
{
    g_autofree char *own = NULL;

    if (!path && !name)
        return fail(error, VM_ERROR_INVALID,
                    "'unix' is a socket in the run folder, which a VM without a name "
                    "does not have; give --name, or unix:PATH");
    if (!path && !(own = place_file(name, "metrics.sock", error)))
        return false;
    return unix_listen(&s->unix_socket, path ? path : own, BACKLOG, error);
}

static bool open_address(MetricsServer *s, const char *address, const char *name,
                         GError **error)
{
    if (g_str_equal(address, "unix"))
        return open_unix(s, NULL, name, error);
    if (g_str_has_prefix(address, "unix:"))
        return open_unix(s, address + strlen("unix:"), name, error);
    return open_tcp(s, address, error);
}

/* ---- life-cycle -----------------------------------------------------------------------
 */

bool metrics_server_open(const char *address, const char *name, MetricsServer **ret,
                         GError **error)
{
    g_autoptr(MetricsServer) s = NULL;

    *ret = NULL;
    if (!address)
        return true;
    s = g_new0(MetricsServer, 1);
    s->tcp_fd = s->unix_socket.fd = -1;
    for (unsigned i = 0; i < MAX_CLIENTS; i++) {
        s->clients[i].server = s;
        s->clients[i].fd = -1;
    }
    if (!open_address(s, address, name, error)) {
        g_prefix_error(error, "metrics: ");
        return false;
    }
    *ret = g_steal_pointer(&s);
    return true;
}

bool metrics_server_start(MetricsServer *s, IoLoop *loop, char *(*text)(void *opaque),
                          void *opaque, GError **error)
{
    s->text = text;
    s->opaque = opaque;
    s->loop = loop;
    return ioloop_watch(loop, &s->watch, listen_fd(s), EPOLLIN, on_connect, s, error);
}

static char *machine_text(void *opaque)
{
    json_t *all = metrics_collect(opaque);
    char *text = metrics_text(&all, 1);

    json_decref(all);
    return text;
}

bool metrics_server_serve(MetricsServer *s, Machine *m, GError **error)
{
    return !s || metrics_server_start(s, machine_loop(m), machine_text, m, error);
}

void metrics_server_stop(MetricsServer *s)
{
    if (!s || !s->loop)
        return;
    ioloop_unwatch(&s->watch);
    ioloop_timer_cancel(&s->retry);
    for (unsigned i = 0; i < MAX_CLIENTS; i++)
        hang_up(&s->clients[i]);
    s->loop = NULL;
}

void metrics_server_free(MetricsServer *s)
{
    if (!s)
        return;
    metrics_server_stop(s);
    unix_unlisten(&s->unix_socket);
    fd_close(&s->tcp_fd);
    g_free(s);
}

unsigned metrics_server_port(const MetricsServer *s)
{
    struct sockaddr_storage at = {0};
    socklen_t len = sizeof(at);

    if (s->tcp_fd < 0 || getsockname(s->tcp_fd, (struct sockaddr *)&at, &len) < 0)
        return 0;
    return ntohs(at.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&at)->sin6_port
                                          : ((struct sockaddr_in *)&at)->sin_port);
}
