/* See port_stream.h.
 *
 * Everything is read into one buffer that all streams share; what is left of it when no
 * whole frame is there, or while the port is held (hold.h), is kept in memory of its own.
 * What is written goes through a buffer that is made at the first frame, and used from
 * its beginning whenever the socket has taken all of it. */
#include "src/switch/port_stream.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "src/switch/hold.h"
#include "src/switch/kept.h"
#include "src/switch/peer.h"
#include "util/bits.h"
#include "util/fd.h"
#include "util/log.h"
#include "util/unixsocket.h"

enum {
    PREFIX = 4,
    IN_BYTES = 128 * 1024, /* at least one frame; read at once */
    OUT_BYTES = 160 * 1024,
    OUT_FULL = OUT_BYTES - (PREFIX + PACKET_MAX + ETH_TAG),
    WRITE_AT = 32 * 1024, /* of a turn, without waiting for its end */
};

/* Between two tries to connect again: twice as long each time. */
#define FIRST_WAIT_NS 100000000ll
#define LAST_WAIT_NS  10000000000ll

typedef struct PortStream {
    Port port;
    int fd; /* -1: nobody is there */
    IoWatch watch;
    IoPost closing;
    char *path; /* where we went to; NULL: it came to us */
    IoTimer again;
    int64_t wait_ns;
    uint8_t *kept; /* read and not yet looked at */
    size_t n_kept, kept_room;
    uint8_t *out; /* NULL: nothing was ever sent */
    size_t out_at, out_len;
    bool sent;
} PortStream;

static PortStream *of(Port *port)
{
    return (PortStream *)port;
}

static void set_events(PortStream *s)
{
    uint32_t events = s->port.waits_for ? 0 : EPOLLIN;

    if (s->out_at < s->out_len)
        events |= EPOLLOUT;
    ioloop_watch_events(&s->watch, events);
}

/* ---- from it ----------------------------------------------------------------------- */

/* The frame lies in the buffer behind its length, and may be written to, as what is
 * before it was looked at already. */
static void receive(PortStream *s, uint8_t *frame, uint32_t len)
{
    Frame f = {.data = frame, .len = len};

    switch_receive(&s->port, &f);
}

/* Returns how many bytes were used up, or -1: it does not keep to the format. */
static ssize_t receive_all(PortStream *s, uint8_t *bytes, size_t n)
{
    static LogLimit limit; /* of all: it may come back at once */
    size_t at = 0;

    while (!s->port.waits_for && n - at >= PREFIX) {
        uint32_t len = load_be32(bytes + at);

        if (len == 0 || len > PACKET_MAX + ETH_TAG) {
            if (log_limit(&limit))
                log_warn("%s: sent a length of %u bytes, which no frame has, and is hung "
                         "up on",
                         port_text(&s->port), len);
            return -1;
        }
        if (n - at - PREFIX < len)
            break;
        receive(s, bytes + at + PREFIX, len);
        at += PREFIX + len;
    }
    return (ssize_t)at;
}

static void keep(PortStream *s, const uint8_t *bytes, size_t n)
{
    if (n > s->kept_room) {
        g_free(s->kept);
        s->kept = g_malloc(n);
        s->kept_room = n;
    }
    if (n)
        memcpy(s->kept, bytes, n);
    s->n_kept = n;
}

/* Goes on with what was kept and, if `more`, with what the socket has.  False: it is to
 * be closed. */
static bool go_on(PortStream *s, bool more)
{
    uint8_t *bytes = s->port.sw->stream_buffer + FRAME_ROOM;
    size_t n = s->n_kept;
    ssize_t got = 0, used;

    if (n)
        memcpy(bytes, s->kept, n);
    if (more && n < IN_BYTES) {
        got = recv(s->fd, bytes + n, IN_BYTES - n, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
            return false;
    }
    if (got > 0)
        s->wait_ns = FIRST_WAIT_NS; /* it is one that works */
    n += (size_t)MAX(got, 0);
    used = receive_all(s, bytes, n);
    if (used < 0)
        return false;
    if (got > 0 || used > 0)
        keep(s, bytes + used, n - (size_t)used);
    set_events(s);
    return true;
}
_Static_assert((int)IN_BYTES >= (int)PREFIX + (int)PACKET_MAX + (int)ETH_TAG,
               "a frame that is not whole leaves room to read more of it");

/* ---- to it ------------------------------------------------------------------------- */

static void write_out(PortStream *s)
{
    while (s->out_at < s->out_len) {
        ssize_t n = send(s->fd, s->out + s->out_at, s->out_len - s->out_at,
                         MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0) /* its end is seen when it is read from */
            s->out_at = s->out_len;
        else
            s->out_at += (size_t)n;
    }
    if (s->out_at == s->out_len)
        s->out_at = s->out_len = 0;
}

static bool put(void *port, const uint8_t *frame, size_t len)
{
    PortStream *s = port;
    uint8_t *at;

    if (s->out_len + PREFIX + len > OUT_BYTES || s->out_len >= WRITE_AT)
        write_out(s);
    s->sent = s->out_len + PREFIX + len <= OUT_BYTES;
    if (!s->sent)
        return false;
    at = s->out + s->out_len;
    store_be32(at, (uint32_t)len);
    memcpy(at + PREFIX, frame, len);
    s->out_len += PREFIX + len;
    return true;
}

static bool stream_send(Port *port, const Frame *f)
{
    PortStream *s = of(port);

    if (!s->out)
        s->out = g_malloc(OUT_BYTES);
    s->sent = false;
    port_offload(port, f, put);
    if (s->out_len > OUT_FULL) {
        write_out(s);
        if (s->out_len > OUT_FULL)
            hold_full(port);
    }
    return s->sent;
}

static void stream_flush(Port *port)
{
    PortStream *s = of(port);

    write_out(s);
    if (port->full && s->out_len <= OUT_FULL)
        hold_room(port);
    set_events(s);
}

/* ---- going there again ------------------------------------------------------------- */

static void on_socket(void *opaque, uint32_t events);

static bool watch(PortStream *s, GError **error)
{
    return ioloop_watch(s->port.sw->loop, &s->watch, s->fd, EPOLLIN, on_socket, s, error);
}

static void on_again(void *opaque);

static void try_later(PortStream *s)
{
    ioloop_timer(s->port.sw->loop, &s->again, clock_ns() + s->wait_ns, on_again, s);
    s->wait_ns = MIN(2 * s->wait_ns, LAST_WAIT_NS);
}

static void on_again(void *opaque)
{
    PortStream *s = opaque;

    switch_turn(s->port.sw);
    s->fd = unix_connect_now(s->path, NULL);
    if (s->fd >= 0 && !watch(s, NULL))
        fd_close(&s->fd);
    if (s->fd < 0)
        try_later(s);
    else
        port_set_plugged(&s->port, true);
}

/* Its program is gone, and what it was sent.  Who is there next may be another. */
static void unplug(PortStream *s)
{
    static LogLimit limit;

    if (log_limit(&limit))
        log_info("%s: '%s' has hung up, and is connected to again when it is back",
                 port_text(&s->port), s->path);
    ioloop_unwatch(&s->watch);
    fd_close(&s->fd);
    s->n_kept = s->out_at = s->out_len = 0;
    port_set_plugged(&s->port, false);
    port_lose_mac(&s->port);
    hold_room(&s->port);
    try_later(s);
}

static void stream_tell(const Port *port, json_t *json)
{
    const PortStream *s = (const PortStream *)port;

    if (s->path)
        json_object_set_new(json, "path", json_string(s->path));
    if (s->again.loop)
        json_object_set_new(
            json, "retry",
            json_integer((clock_left_ns(s->again.deadline_ns) + 999999999) / 1000000000));
}

/* ---- coming and going -------------------------------------------------------------- */

/* It was hung up on by its user, or what was kept of it made no sense. */
static void on_closing(void *opaque)
{
    PortStream *s = opaque;
    Switch *sw = s->port.sw;

    switch_turn(sw);
    if (s->path && !s->port.gone)
        unplug(s);
    else
        port_free(&s->port);
    switch_flush(sw);
}

static void on_socket(void *opaque, uint32_t events)
{
    PortStream *s = opaque;
    bool fine = true;

    switch_turn(s->port.sw);
    if (events & EPOLLOUT)
        stream_flush(&s->port);
    if (s->port.waits_for)
        fine = !(events & (EPOLLHUP | EPOLLERR)); /* nobody reads what it has left */
    else if (events & ~(uint32_t)EPOLLOUT)
        fine = go_on(s, true);
    if (!fine && s->path)
        unplug(s);
    switch_flush(s->port.sw);
    if (!fine && !s->path)
        port_free(&s->port);
}

static void stream_resume(Port *port)
{
    PortStream *s = of(port);

    if (s->fd < 0 || go_on(s, false))
        return;
    if (!s->path)
        port->gone = true;
    ioloop_post(port->sw->loop, &s->closing);
}

static void stream_hang_up(Port *port)
{
    kept_port_removed(port); /* now: somebody may connect to it again at once */
    g_clear_pointer(&port->kept_as, g_free);
    port->gone = true;
    ioloop_post(port->sw->loop, &of(port)->closing);
}

static void stream_free(Port *port)
{
    PortStream *s = of(port);

    ioloop_unpost(port->sw->loop, &s->closing);
    ioloop_timer_cancel(&s->again);
    ioloop_unwatch(&s->watch);
    fd_close(&s->fd);
    g_free(s->path);
    g_free(s->kept);
    g_free(s->out);
    g_free(s);
}

static const PortOps stream_ops = {.kind = "stream",
                                   .send = stream_send,
                                   .flush = stream_flush,
                                   .resume = stream_resume,
                                   .tell = stream_tell,
                                   .hang_up = stream_hang_up,
                                   .free = stream_free};

/* Takes over fd, which may be -1, and `path`. */
static PortStream *stream_new(Switch *sw, int fd, char *path, GError **error)
{
    autofd taken = fd;
    Port *port = port_new(sw, &stream_ops, sizeof(PortStream), error);
    PortStream *s = of(port);

    if (!port) {
        g_free(path);
        return NULL;
    }
    if (!sw->stream_buffer)
        sw->stream_buffer = g_malloc(FRAME_ROOM + IN_BYTES);
    s->fd = fd_steal(&taken);
    s->path = path;
    s->wait_ns = FIRST_WAIT_NS;
    s->closing = (IoPost){.fn = on_closing, .opaque = s};
    port->service = port->trusted = path != NULL;
    return s;
}

static bool begin(PortStream *s, GError **error)
{
    if ((s->fd < 0 || watch(s, error)) && port_begin(&s->port, error))
        return true;
    port_free(&s->port);
    return false;
}

/* ---- who has come ------------------------------------------------------------------ */

/* What is set for a stream comes back with its program when there is a new switch, as for
 * a VM, and whatever it sends.  The smallest number that it has not for another. */
static unsigned number_of(const Switch *sw, const char *program)
{
    bool used[SWITCH_MAX_PORTS] = {false};
    unsigned n = 0;

    for (unsigned i = 0; i < sw->n_ports; i++) {
        const char *key = sw->port[i] ? sw->port[i]->kept_as : NULL;

        if (key && g_str_has_prefix(key, program))
            used[strtoul(key + strlen(program), NULL, 10) % SWITCH_MAX_PORTS] = true;
    }
    while (n < SWITCH_MAX_PORTS - 1 && used[n])
        n++;
    return n;
}

void port_stream_accept(Switch *sw, int fd)
{
    static LogLimit limit;
    g_autoptr(GError) why = NULL;
    g_autofree char *program = peer_program(fd);
    PortStream *s = stream_new(sw, fd, NULL, &why);

    if (s && program)
        s->port.kept_as = g_strdup_printf("%s%u", program, number_of(sw, program));
    if ((!s || !begin(s, &why)) && log_limit(&limit))
        log_warn("a stream was hung up on: %s", why->message);
}

/* ---- whom we go to ----------------------------------------------------------------- */

static PortStream *find(Switch *sw, const char *path)
{
    for (unsigned i = 0; i < sw->n_ports; i++) {
        Port *port = sw->port[i];

        if (port && port->ops == &stream_ops && !port->gone &&
            g_strcmp0(of(port)->path, path) == 0)
            return of(port);
    }
    return NULL;
}

Port *port_stream_find(Switch *sw, const char *path, GError **error)
{
    PortStream *s = find(sw, path);

    if (s)
        return &s->port;
    fail(error, VM_ERROR_NOT_FOUND, "this network is not connected to '%s'", path);
    return NULL;
}

static PortStream *go_to(Switch *sw, int fd, const char *path, GError **error)
{
    PortStream *s = stream_new(sw, fd, g_strdup(path), error);

    if (!s)
        return NULL;
    s->port.kept_as = g_strconcat(KEPT_CONNECT, path, NULL);
    s->port.unplugged = fd < 0;
    return begin(s, error) ? s : NULL;
}

Port *port_stream_connect(Switch *sw, const char *path, GError **error)
{
    PortStream *s = find(sw, path);
    int fd;

    if (s) {
        fail(error, VM_ERROR_BUSY, "this network is connected to '%s' already, by %s",
             path, port_text(&s->port));
        return NULL;
    }
    fd = unix_connect_now(path, error);
    s = fd < 0 ? NULL : go_to(sw, fd, path, error);
    if (!s)
        return NULL;
    kept_port_changed(&s->port);
    return &s->port;
}

void port_stream_connect_again(Switch *sw)
{
    g_auto(GStrv) paths = kept_connections(sw);

    for (char **path = paths; *path; path++) {
        g_autoptr(GError) why = NULL;
        PortStream *s = find(sw, *path) ? NULL : go_to(sw, -1, *path, &why);

        if (s)
            on_again(s);
        if (why)
            log_warn("network %s: '%s' is not connected to: %s", sw->name, *path,
                     why->message);
    }
}
