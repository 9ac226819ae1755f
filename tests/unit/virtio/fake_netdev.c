#include "fake_netdev.h"

#include <string.h>

#include "util/iov.h"

FakeNetDev fake_queue[NETDEV_MAX_QUEUES];

static FakeNetDev *of(NetDev *nd)
{
    return (FakeNetDev *)nd;
}

const char *const netdev_type_names[] = {"user",  "tap",    "bridge",  "macvtap",
                                         "passt", "stream", "network", NULL};

unsigned netdev_mtu(const NetDev *nd)
{
    return 0;
}

bool netdev_link(const NetDev *nd)
{
    return true;
}

void netdev_set_link_handler(NetDev *nd, void (*link)(void *opaque, bool up))
{
}

void netdev_set_link(NetDev *nd, bool up)
{
}

void netdev_set_mac(NetDev *nd, const uint8_t mac[6])
{
    memcpy(fake.mac, mac, 6);
}

void netdev_expect(NetDev *nd, unsigned offloads)
{
    fake.expected = offloads;
}

bool netdev_readdress(NetDev *nd, const uint8_t mac[6], GError **error)
{
    return true;
}

void netdev_flush(NetDev *nd)
{
}

void netdev_announce(NetDev *nd)
{
}

void fake_reset(unsigned can)
{
    for (unsigned i = 0; i < NETDEV_MAX_QUEUES; i++)
        memset(&fake_queue[i], 0, offsetof(FakeNetDev, in));
    fake.can = can;
}

uint8_t fake_byte(size_t at, uint8_t mark)
{
    return at < NET_HDR_LEN ? (at == 0 ? 2 : 0) : (uint8_t)(mark + at * 7 + (at >> 8));
}

static void tell(const FakeNetDev *q)
{
    for (unsigned i = 0; i < 8 && q->reading && q->at_in < q->n_in; i++)
        q->readable(q->opaque);
}

static FakeFrame *add_frame(FakeNetDev *q, size_t len)
{
    FakeFrame *f;

    if (q->at_in == q->n_in)
        q->at_in = q->n_in = 0;
    g_assert_cmpuint(q->n_in, <, FAKE_FRAMES);
    f = &q->in[q->n_in++];
    f->len = len;
    return f;
}

void fake_push_frame(const void *frame, size_t len)
{
    FakeFrame *f = add_frame(&fake, NET_HDR_LEN + len);

    memset(f->b, 0, NET_HDR_LEN);
    memcpy(f->b + NET_HDR_LEN, frame, len);
    tell(&fake);
}

void fake_push(size_t len, uint8_t mark)
{
    fake_push_to(0, len, mark);
}

void fake_push_to(unsigned queue, size_t len, uint8_t mark)
{
    FakeFrame *f = add_frame(&fake_queue[queue], len);

    for (size_t i = 0; i < len; i++)
        f->b[i] = fake_byte(i, mark);
    tell(&fake_queue[queue]);
}

void fake_ready(void)
{
    fake.busy = false;
    fake.writable(fake.opaque);
}

/* ---- what the card calls ---------------------------------------------------------- */

bool netdev_check(NetDevOptions *options, GError **error)
{
    return true;
}

NetDev *netdev_open(const NetDevOptions *options, const NetDevCard *card, IoLoop *loop,
                    GError **error)
{
    return (NetDev *)&fake;
}

void netdev_close(NetDev *nd)
{
}

unsigned netdev_offloads(const NetDev *nd)
{
    return fake.can;
}

void netdev_set_offloads(NetDev *nd, unsigned offloads)
{
    fake.offloads = offloads;
}

unsigned netdev_queues(const NetDev *nd)
{
    return MAX(fake.queues, 1);
}

NetDev *netdev_queue(NetDev *nd, unsigned queue)
{
    return queue < netdev_queues(nd) ? (NetDev *)&fake_queue[queue] : NULL;
}

bool netdev_use_queues(NetDev *nd, unsigned n)
{
    bool can = n == 1 || (n <= fake.queues && !fake.refuses);

    fake.used = can ? n : 1;
    return can;
}

bool netdev_send(NetDev *nd, const struct iovec *iov, unsigned n)
{
    FakeNetDev *q = of(nd);

    if (q->busy)
        return false;
    q->sent.len = iov_to_buf(iov, n, 0, q->sent.b, sizeof(q->sent.b));
    q->n_sent++;
    return true;
}

ssize_t netdev_receive(NetDev *nd, const struct iovec *iov, unsigned n)
{
    FakeNetDev *q = of(nd);
    const FakeFrame *f = &q->in[q->at_in];

    if (q->at_in == q->n_in)
        return 0;
    q->at_in++;
    return iov_from_buf(iov, n, 0, f->b, f->len) < f->len ? -1 : (ssize_t)f->len;
}

void netdev_set_handlers(NetDev *nd, void (*readable)(void *opaque),
                         void (*writable)(void *opaque), void *opaque)
{
    of(nd)->readable = readable;
    of(nd)->writable = writable;
    of(nd)->opaque = opaque;
}

void netdev_set_answered(NetDev *nd, void (*answered)(void *opaque, uint16_t port))
{
}

void netdev_set_reading(NetDev *nd, bool on)
{
    of(nd)->reading = on;
}

void netdev_save(NetDev *nd, const char *section, StateWriter *w)
{
}

bool netdev_load(NetDev *nd, const char *section, StateReader *r, GError **error)
{
    return true;
}

void netdev_restored(NetDev *nd)
{
    fake.restored++;
}
