/* A card on a named network: frames go through two rings that its switch reads and
 * writes (network/ring.h), and a socket says who we are and hears of the link
 * (network/port.h).
 *
 * A frame is copied from guest memory into the ring once, and from the ring into guest
 * memory once.  While frames come we go on looking for a moment before we sleep, as
 * virtio/serve.c does with a guest's rings, so that a busy network costs no wake-ups, and
 * an idle one costs nothing.  A ring that is full holds the guest's queue back, until the
 * switch signals that there is room.  What a burst has filled is given back to the host
 * when the ring has been empty for a moment.
 *
 * When the switch dies the socket hangs up.  Frames are lost from then on, as on a cable
 * that is out for a moment, and a thread joins again (port_rejoin.c), which starts
 * another switch if nobody else has.  The guest sees no link go. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#include "network/port.h"
#include "src/net/port_private.h"
#include "util/fd.h"
#include "util/iov.h"
#include "util/json.h"
#include "util/log.h"

enum {
    PORT_OFFLOADS = NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 |
                    NET_OFFLOAD_ECN | NET_OFFLOAD_USO4 | NET_OFFLOAD_USO6,
    RELEASE_EVERY = 16, /* frames */
    POLL_MIN_NS = 4000,
    POLL_MAX_NS = 50000,
    MS_NS = 1000000,
    RETRY_MAX_MS = 5000,
    MAX_LINE = 1024,
};

typedef struct PortDev {
    NetDev nd;
    char *network, *id;
    json_t *hello;
    PortJoined joined;
    bool attached;
    Ring to_switch, from_switch;
    IoWatch sock_watch, hear_watch;

    bool want_write; /* a send returned false */
    bool asleep;     /* the switch signals frames */
    unsigned taken;  /* frames that were not released yet */
    IoTimer rest;    /* to_switch is to be given back */
    IoPoller poller;
    int64_t window_ns, last_work_ns;

    unsigned offloads; /* as the guest takes them */
    bool pulled;       /* the cable, at our side */
    unsigned told_offloads;
    bool told_pulled, announce; /* announce: to be told */
    char line[MAX_LINE];
    size_t n_line;

    PortRejoin *rejoin;
    IoTimer retry;
    unsigned retry_ms; /* until the next; 0: at once */
    int64_t joined_ns;
    bool complained;
    bool dismissed; /* somebody has disconnected us, and we stay away */
} PortDev;

static PortDev *port_of(NetDev *nd)
{
    return (PortDev *)nd;
}

/* ---- who we are -----------------------------------------------------------------------
 */

static char *hello_line(PortDev *d)
{
    char *text, *line;

    json_object_set_new(d->hello, "offloads", json_integer(d->offloads));
    text = json_dumps(d->hello, JSON_COMPACT);
    line = g_strconcat(text, "\n", NULL);
    free(text);
    return line;
}

/* ---- the socket -----------------------------------------------------------------------
 */

static void lose_switch(PortDev *d, const char *why);

/* What has changed since it was told last.  A socket that is full is tried again when it
 * is not: only the latest counts, so that a guest cannot make a queue grow. */
static void tell(PortDev *d)
{
    char text[128];
    int len = 0;
    ssize_t n;

    if (!d->attached)
        return;
    if (d->told_offloads != d->offloads)
        len += g_snprintf(text + len, sizeof(text) - (gulong)len, "{\"offloads\": %u}\n",
                          d->offloads);
    if (d->told_pulled != d->pulled)
        len += g_snprintf(text + len, sizeof(text) - (gulong)len, "{\"link\": %s}\n",
                          d->pulled ? "false" : "true");
    if (d->announce)
        len += g_snprintf(text + len, sizeof(text) - (gulong)len,
                          "{\"announce\": true}\n");
    if (!len)
        return;
    n = send(d->joined.sock, text, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n == len) {
        d->told_offloads = d->offloads;
        d->told_pulled = d->pulled;
        d->announce = false;
        ioloop_watch_events(&d->sock_watch, EPOLLIN);
    } else if (n < 0 && errno == EAGAIN) {
        ioloop_watch_events(&d->sock_watch, EPOLLIN | EPOLLOUT);
    } else if (n >= 0) {
        lose_switch(d, "it does not listen"); /* half of a line cannot be taken back */
    }
}

static void hear_line(PortDev *d, const char *text)
{
    json_t *said = json_loads(text, 0, NULL);
    json_t *link = json_object_get(said, "link");

    if (json_is_boolean(link))
        netdev_link_changed(&d->nd, json_is_true(link));
    d->dismissed |= json_is_true(json_object_get(said, "leave"));
    json_decref(said);
}

static void hear(PortDev *d)
{
    ssize_t n = recv(d->joined.sock, d->line + d->n_line, MAX_LINE - 1 - d->n_line, 0);
    char *end;

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        lose_switch(d, "it has ended");
        return;
    }
    d->n_line += (size_t)n;
    d->line[d->n_line] = '\0';
    while ((end = strchr(d->line, '\n'))) {
        *end = '\0';
        hear_line(d, d->line);
        d->n_line -= (size_t)(end + 1 - d->line);
        memmove(d->line, end + 1, d->n_line + 1);
    }
    if (d->n_line == MAX_LINE - 1 || strlen(d->line) != d->n_line)
        lose_switch(d, "it talks nonsense");
}

static void on_socket(void *opaque, uint32_t events)
{
    PortDev *d = opaque;

    if (events & EPOLLOUT)
        tell(d);
    if (d->attached && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        hear(d);
}

/* ---- frames ---------------------------------------------------------------------------
 */

static bool port_send(NetDev *nd, const struct iovec *iov, unsigned n)
{
    PortDev *d = port_of(nd);

    if (!d->attached || iov_len(iov, n) > RING_MAX_RECORD)
        return true;
    if (ring_put(&d->to_switch, iov, n))
        return true;
    d->want_write = true;
    return false;
}

static void rest_later(PortDev *d);

static void on_rest(void *opaque)
{
    PortDev *d = opaque;

    if (ring_shrink(&d->to_switch))
        rest_later(d);
}

static void rest_later(PortDev *d)
{
    if (!d->rest.loop && ring_is_stretched(&d->to_switch))
        ioloop_timer(d->nd.loop, &d->rest, clock_ns() + RING_REST_MS * (int64_t)MS_NS,
                     on_rest, d);
}

static void port_flush(NetDev *nd)
{
    PortDev *d = port_of(nd);

    if (!d->attached)
        return;
    ring_flush(&d->to_switch);
    rest_later(d);
}

static void release(PortDev *d)
{
    if (d->taken)
        ring_release(&d->from_switch);
    d->taken = 0;
}

static ssize_t port_receive(NetDev *nd, const struct iovec *iov, unsigned n)
{
    PortDev *d = port_of(nd);
    const uint8_t *frame = NULL;
    uint32_t len;
    size_t room;

    if (d->attached)
        frame = ring_peek(&d->from_switch, &len);
    if (!frame) {
        if (d->attached)
            release(d);
        return 0;
    }
    room = iov_len(iov, n);
    if (len <= room)
        iov_from_buf(iov, n, 0, frame, len);
    ring_take(&d->from_switch);
    if (++d->taken == RELEASE_EVERY)
        release(d);
    return len && len <= room ? (ssize_t)len : -1;
}

/* ---- waking up ------------------------------------------------------------------------
 */

static void adapt_window(PortDev *d)
{
    int64_t slept = clock_ns() - d->last_work_ns;

    if (slept > POLL_MAX_NS)
        d->window_ns = 0;
    else
        d->window_ns = CLAMP(d->window_ns * 2, POLL_MIN_NS, POLL_MAX_NS);
}

/* Frames for us, or room for ours.  A switch that closes its end does not wake us any
 * more; that it has ended, or wants us to leave, its socket says. */
static void on_wake(void *opaque, uint32_t events)
{
    PortDev *d = opaque;

    if (!fd_event_take(d->joined.hear_fd) && (events & EPOLLHUP))
        ioloop_unwatch(&d->hear_watch);
    if (d->asleep)
        adapt_window(d);
    ring_awake(&d->from_switch);
    d->asleep = false;
    rest_later(d);
    if (d->want_write) {
        d->want_write = false;
        if (d->nd.writable)
            d->nd.writable(d->nd.opaque);
    }
}

/* True while there is something to be done at once. */
static bool port_poll(void *opaque)
{
    PortDev *d = opaque;
    uint32_t len;
    int64_t now;

    if (!d->attached)
        return false;
    release(d);
    if (!d->nd.reading || d->asleep)
        return false;
    now = clock_ns();
    if (!ring_peek(&d->from_switch, &len)) {
        if (now - d->last_work_ns < d->window_ns)
            return true;
        if (ring_sleep(&d->from_switch)) {
            d->asleep = true;
            return false;
        }
    }
    d->last_work_ns = now;
    if (d->nd.readable)
        d->nd.readable(d->nd.opaque);
    if (d->attached)
        release(d);
    return true;
}

static void port_set_reading(NetDev *nd, bool on)
{
    PortDev *d = port_of(nd);

    if (on && d->attached && d->asleep) { /* the poller looks before the loop sleeps */
        ring_awake(&d->from_switch);
        d->asleep = false;
    }
}

/* ---- coming and going -----------------------------------------------------------------
 */

static void unmap(PortDev *d)
{
    ioloop_unwatch(&d->sock_watch);
    ioloop_unwatch(&d->hear_watch);
    ioloop_timer_cancel(&d->rest);
    port_leave(&d->joined);
    d->attached = false;
    d->asleep = false;
    d->taken = 0;
    d->n_line = 0;
}

/* Takes *joined over. */
static bool attach(PortDev *d, PortJoined *joined, GError **error)
{
    d->joined = *joined;
    *joined = (PortJoined){.sock = -1, .tell_fd = -1, .hear_fd = -1};
    if (!ioloop_watch(d->nd.loop, &d->sock_watch, d->joined.sock, EPOLLIN, on_socket, d,
                      error) ||
        !ioloop_watch(d->nd.loop, &d->hear_watch, d->joined.hear_fd, EPOLLIN, on_wake, d,
                      error)) {
        unmap(d);
        return false;
    }
    ring_attach(&d->to_switch, d->joined.memory, 1, 0, true, d->joined.tell_fd);
    ring_attach(&d->from_switch, d->joined.memory, 1, 0, false, d->joined.tell_fd);
    d->attached = true;
    d->joined_ns = clock_ns();
    d->told_pulled = false;
    d->nd.mtu = d->joined.mtu;
    netdev_link_changed(&d->nd, d->joined.link);
    tell(d);
    return true;
}

static void on_retry(void *opaque);

static void try_later(PortDev *d, const char *why)
{
    if (!d->complained && d->retry_ms)
        log_warn("%s: network '%s' is lost (%s), and is tried again", d->id, d->network,
                 why);
    d->complained |= d->retry_ms != 0;
    ioloop_timer(d->nd.loop, &d->retry, clock_ns() + d->retry_ms * (int64_t)MS_NS,
                 on_retry, d);
    d->retry_ms = CLAMP(d->retry_ms * 2, 10, RETRY_MAX_MS);
}

static void on_rejoined(void *opaque, PortJoined *joined, const char *why)
{
    PortDev *d = opaque;
    g_autoptr(GError) error = NULL;

    if (joined && attach(d, joined, &error)) {
        log_info("%s: is on network '%s' again", d->id, d->network);
        d->complained = false;
    }
    g_clear_pointer(&d->rejoin, port_rejoin_free);
    if (!d->attached)
        try_later(d, error ? error->message : why);
}

static void on_retry(void *opaque)
{
    PortDev *d = opaque;
    g_autofree char *hello = hello_line(d);
    g_autoptr(GError) error = NULL;

    d->told_offloads = d->offloads;
    d->rejoin = port_rejoin(d->nd.loop, d->network, hello, on_rejoined, d, &error);
    if (!d->rejoin)
        try_later(d, error->message);
}

static void lose_switch(PortDev *d, const char *why)
{
    if (!d->attached)
        return;
    unmap(d);
    if (clock_ns() - d->joined_ns > RETRY_MAX_MS * (int64_t)MS_NS)
        d->retry_ms = 0; /* or it ends as soon as it is joined */
    if (d->dismissed) {
        log_info("%s: was disconnected from network '%s'", d->id, d->network);
        netdev_link_changed(&d->nd, false);
    } else {
        log_info("%s: the switch of network '%s' is lost: %s", d->id, d->network, why);
        try_later(d, why);
    }
    if (d->want_write) { /* there is room in what is lost */
        d->want_write = false;
        if (d->nd.writable)
            d->nd.writable(d->nd.opaque);
    }
}

static bool join(PortDev *d, GError **error)
{
    g_autofree char *hello = hello_line(d);
    PortJoined joined;

    return port_join(d->network, hello, &joined, error) && attach(d, &joined, error);
}

/* The switch lets the same card of the same VM take its place again. */
static bool port_readdress(NetDev *nd, const uint8_t m[6], GError **error)
{
    PortDev *d = port_of(nd);

    json_object_set_new(d->hello, "mac", port_mac(m));
    if (!d->attached) /* it will be said */
        return true;
    unmap(d);
    return join(d, error);
}

static void port_close(NetDev *nd)
{
    PortDev *d = port_of(nd);

    if (d->poller.fn)
        ioloop_poller_remove(nd->loop, &d->poller);
    ioloop_timer_cancel(&d->retry);
    port_rejoin_free(d->rejoin);
    unmap(d);
    json_decref(d->hello);
    g_free(d->network);
    g_free(d->id);
    g_free(d);
}

static NetDev *port_open(const NetDevOptions *o, const NetDevCard *card, IoLoop *loop,
                         GError **error)
{
    PortDev *d;

    if (!card) {
        fail(error, VM_ERROR_INVALID, "only a VM's card can be on a network");
        return NULL;
    }
    d = g_new0(PortDev, 1);
    d->joined = (PortJoined){.sock = -1, .tell_fd = -1, .hear_fd = -1};
    d->nd.loop = loop;
    d->nd.offloads = PORT_OFFLOADS;
    d->network = g_strdup(o->network);
    d->id = g_strdup(card->id);
    d->hello = port_hello(o, card, error);
    if (!d->hello || !join(d, error)) {
        port_close(&d->nd);
        return NULL;
    }
    d->poller = (IoPoller){.fn = port_poll, .opaque = d};
    ioloop_poller_add(loop, &d->poller);
    return &d->nd;
}

/* ---- what the guest does --------------------------------------------------------------
 */

static void port_set_offloads(NetDev *nd, unsigned offloads)
{
    port_of(nd)->offloads = offloads;
    tell(port_of(nd));
}

static void port_set_link(NetDev *nd, bool up)
{
    port_of(nd)->pulled = !up;
    tell(port_of(nd));
}

static void port_announce(NetDev *nd)
{
    port_of(nd)->announce = true;
    tell(port_of(nd));
}

const NetDevOps netdev_network_ops = {
    .name = "network",
    .check = port_check,
    .open = port_open,
    .close = port_close,
    .set_offloads = port_set_offloads,
    .set_reading = port_set_reading,
    .set_link = port_set_link,
    .announce = port_announce,
    .readdress = port_readdress,
    .send = port_send,
    .flush = port_flush,
    .receive = port_receive,
};
