/* See port_netdev.h. */
#include "src/switch/port_netdev.h"

#include "src/switch/hold.h"

enum { BATCH = 64 };

typedef struct PortNetdev {
    Port port;
    NetDev *nd;
    IoPost closing;
    bool blocked; /* a frame was not taken, and it will say when it takes more */
    bool sent;
} PortNetdev;

static PortNetdev *of(Port *port)
{
    return (PortNetdev *)port;
}

static bool receive_one(PortNetdev *n)
{
    Frame f = {.data = n->port.sw->buffer + FRAME_ROOM};
    struct iovec iov[2] = {{&f.hdr, sizeof(f.hdr)}, {f.data, PACKET_MAX + ETH_TAG}};
    ssize_t len = netdev_receive(n->nd, iov, 2);

    if (len == 0)
        return false;
    f.hdr.flags &= VNET_NEEDS_CSUM;
    if (len > (ssize_t)sizeof(f.hdr)) {
        f.len = (size_t)len - sizeof(f.hdr);
        switch_receive(&n->port, &f);
    }
    return true;
}

static void on_readable(void *opaque)
{
    PortNetdev *n = opaque;
    unsigned left = BATCH;

    switch_turn(n->port.sw);
    while (left && !n->port.waits_for && receive_one(n))
        left--;
    if (n->port.waits_for)
        netdev_set_reading(n->nd, false);
    switch_flush(n->port.sw);
}

static void on_writable(void *opaque)
{
    PortNetdev *n = opaque;

    switch_turn(n->port.sw);
    n->blocked = false;
    hold_room(&n->port);
    switch_flush(n->port.sw);
}

static void netdev_resume_port(Port *port)
{
    netdev_set_reading(of(port)->nd, true);
}

static bool put(PortNetdev *n, const VnetHdr *hdr, const uint8_t *frame, size_t len)
{
    struct iovec iov[2] = {{(void *)hdr, sizeof(*hdr)}, {(void *)frame, len}};

    n->sent = !n->blocked && netdev_send(n->nd, iov, 2);
    if (n->sent)
        return true;
    n->blocked = true;
    hold_full(&n->port);
    return false;
}
_Static_assert(sizeof(VnetHdr) == NET_HDR_LEN, "as backends have it");

static bool put_piece(void *port, const uint8_t *frame, size_t len)
{
    static const VnetHdr plain = {.num_buffers = 1};

    return put(port, &plain, frame, len);
}

static bool netdev_send_port(Port *port, const Frame *f)
{
    PortNetdev *n = of(port);
    VnetHdr hdr = f->hdr;

    hdr.num_buffers = 1;
    if (port_takes(port, &hdr))
        return put(n, &hdr, f->data, f->len);
    n->sent = false;
    port_offload(port, f, put_piece);
    return n->sent;
}

static void netdev_flush_port(Port *port)
{
}

static void on_closing(void *opaque)
{
    port_free(opaque);
}

static void netdev_hang_up(Port *port)
{
    port->gone = true;
    ioloop_post(port->sw->loop, &of(port)->closing);
}

static void netdev_free_port(Port *port)
{
    PortNetdev *n = of(port);

    ioloop_unpost(port->sw->loop, &n->closing);
    netdev_close(n->nd);
    g_free(n);
}

static const PortOps netdev_ops = {.kind = "uplink",
                                   .send = netdev_send_port,
                                   .flush = netdev_flush_port,
                                   .resume = netdev_resume_port,
                                   .hang_up = netdev_hang_up,
                                   .free = netdev_free_port};

Port *port_netdev_new(Switch *sw, const NetDevOptions *options, const char *kept_as,
                      GError **error)
{
    Port *port = port_new(sw, &netdev_ops, sizeof(PortNetdev), error);
    PortNetdev *n = of(port);

    if (!port)
        return NULL;
    port->service = true;
    port->trusted = true;
    port->kept_as = g_strdup(kept_as);
    n->closing = (IoPost){.fn = on_closing, .opaque = n};
    n->nd = netdev_open(options, NULL, sw->loop, error);
    if (!n->nd || !port_begin(port, error)) {
        port_free(port);
        return NULL;
    }
    netdev_set_offloads(n->nd, netdev_offloads(n->nd));
    port->offloads = netdev_offloads(n->nd);
    netdev_set_handlers(n->nd, on_readable, on_writable, n);
    netdev_set_reading(n->nd, true);
    return port;
}
