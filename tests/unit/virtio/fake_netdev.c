#include "fake_netdev.h"

#include <string.h>

#include "util/iov.h"

FakeNetDev fake;

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
    memset(&fake, 0, sizeof(fake));
    fake.can = can;
}

uint8_t fake_byte(size_t at, uint8_t mark)
{
    return at < NET_HDR_LEN ? (at == 0 ? 2 : 0) : (uint8_t)(mark + at * 7 + (at >> 8));
}

static void tell(void)
{
    for (unsigned i = 0; i < 8 && fake.reading && fake.at_in < fake.n_in; i++)
        fake.readable(fake.opaque);
}

static FakeFrame *add_frame(size_t len)
{
    FakeFrame *f;

    if (fake.at_in == fake.n_in)
        fake.at_in = fake.n_in = 0;
    g_assert_cmpuint(fake.n_in, <, FAKE_FRAMES);
    f = &fake.in[fake.n_in++];
    f->len = len;
    return f;
}

void fake_push_frame(const void *frame, size_t len)
{
    FakeFrame *f = add_frame(NET_HDR_LEN + len);

    memset(f->b, 0, NET_HDR_LEN);
    memcpy(f->b + NET_HDR_LEN, frame, len);
    tell();
}

void fake_push(size_t len, uint8_t mark)
{
    FakeFrame *f = add_frame(len);

    for (size_t i = 0; i < len; i++)
        f->b[i] = fake_byte(i, mark);
    tell();
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

bool netdev_send(NetDev *nd, const struct iovec *iov, unsigned n)
{
    if (fake.busy)
        return false;
    fake.sent.len = iov_to_buf(iov, n, 0, fake.sent.b, sizeof(fake.sent.b));
    fake.n_sent++;
    return true;
}

ssize_t netdev_receive(NetDev *nd, const struct iovec *iov, unsigned n)
{
    const FakeFrame *f = &fake.in[fake.at_in];

    if (fake.at_in == fake.n_in)
        return 0;
    fake.at_in++;
    return iov_from_buf(iov, n, 0, f->b, f->len) < f->len ? -1 : (ssize_t)f->len;
}

void netdev_set_handlers(NetDev *nd, void (*readable)(void *opaque),
                         void (*writable)(void *opaque), void *opaque)
{
    fake.readable = readable;
    fake.writable = writable;
    fake.opaque = opaque;
}

void netdev_set_answered(NetDev *nd, void (*answered)(void *opaque, uint16_t port))
{
}

void netdev_set_reading(NetDev *nd, bool on)
{
    fake.reading = on;
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
