/* See port_stream.h.
 *
 * Everything is read into one buffer that all streams share; what is left of it when no
 * whole frame is there, or while the port is held (hold.h), is kept in memory of its own.
 * What is written goes through a buffer that is made at the first frame, and used from
 * its beginning whenever the socket has taken all of it. */
#include "src/switch/port_stream.h"

#include <errno.h>
#include <sys/socket.h>

#include "src/switch/hold.h"
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

typedef struct PortStream {
    Port port;
    int fd;
    IoWatch watch;
    IoPost closing;
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

/* ---- coming and going -------------------------------------------------------------- */

static void on_closing(void *opaque)
{
    port_free(opaque);
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
    switch_flush(s->port.sw);
    if (!fine)
        port_free(&s->port);
}

static void stream_resume(Port *port)
{
    PortStream *s = of(port);

    if (!go_on(s, false)) {
        port->gone = true;
        ioloop_post(port->sw->loop, &s->closing);
    }
}

static void stream_hang_up(Port *port)
{
    port->gone = true;
    ioloop_post(port->sw->loop, &of(port)->closing);
}

static void stream_free(Port *port)
{
    PortStream *s = of(port);

    ioloop_unpost(port->sw->loop, &s->closing);
    ioloop_unwatch(&s->watch);
    fd_close(&s->fd);
    g_free(s->kept);
    g_free(s->out);
    g_free(s);
}

static const PortOps stream_ops = {.kind = "stream",
                                   .send = stream_send,
                                   .flush = stream_flush,
                                   .resume = stream_resume,
                                   .hang_up = stream_hang_up,
                                   .free = stream_free};

/* Takes over fd. */
static Port *stream_new(Switch *sw, int fd, bool service, GError **error)
{
    autofd taken = fd;
    Port *port = port_new(sw, &stream_ops, sizeof(PortStream), error);
    PortStream *s = of(port);

    if (!port)
        return NULL;
    if (!sw->stream_buffer)
        sw->stream_buffer = g_malloc(FRAME_ROOM + IN_BYTES);
    s->fd = fd_steal(&taken);
    s->closing = (IoPost){.fn = on_closing, .opaque = s};
    port->service = service;
    port->trusted = service;
    if (ioloop_watch(sw->loop, &s->watch, s->fd, EPOLLIN, on_socket, s, error) &&
        port_begin(port, error))
        return port;
    port_free(port);
    return NULL;
}

void port_stream_accept(Switch *sw, int fd)
{
    static LogLimit limit;
    g_autoptr(GError) why = NULL;

    if (!stream_new(sw, fd, false, &why) && log_limit(&limit))
        log_warn("a stream was hung up on: %s", why->message);
}

Port *port_stream_connect(Switch *sw, const char *path, GError **error)
{
    int fd = unix_connect_now(path, error);

    return fd < 0 ? NULL : stream_new(sw, fd, true, error);
}
