/* DNS's messages on connections (dns_tcp.h). */
#include "src/switch/dns_tcp.h"

#include "src/switch/tcp.h"
#include "util/bits.h"

enum {
    PREFIX = 2,
    MAX_OWED = 8, /* questions of a connection under way; more wait to be read */
};

struct DnsTcp {
    Tcp *tcp;
    DnsAsked *asked;
    void *opaque;
};

/* A message that will never be whole in our window is none that we could answer, and one
 * that is an answer is none at all. */
static size_t take(void *opaque, TcpConn *c, const uint8_t *bytes, size_t len)
{
    DnsTcp *d = opaque;
    const TcpPeer *p = tcp_peer(c);
    DnsAsker asker = {.port = p->port,
                      .mac = p->mac,
                      .ip = p->ip,
                      .server = p->own,
                      .ask_port = p->ip_port,
                      .vlan = p->vlan,
                      .stream = tcp_id(c)};
    size_t n;

    if (len < PREFIX || tcp_owed(c) >= MAX_OWED)
        return 0;
    n = load_be16(bytes);
    if (PREFIX + n > len && PREFIX + n <= TCP_IN)
        return 0;
    if (n < DNS_HEADER || PREFIX + n > TCP_IN || bytes[PREFIX + 2] & DNS_QR >> 8) {
        tcp_abort(c);
        return len;
    }
    tcp_owe(c, 1);
    if (!d->asked(d->opaque, &asker, bytes + PREFIX, n))
        tcp_abort(c);
    return PREFIX + n;
}

static const TcpOps ops = {
    .take = take, .idle_ns = 10 * 1000000000ll, .retry_ns = 1000000000ll};

DnsTcp *dns_tcp_new(Switch *sw, Gateway *gw, DnsAsked *asked, void *opaque)
{
    DnsTcp *d = g_new0(DnsTcp, 1);

    *d = (DnsTcp){.tcp = tcp_new(sw, gw, &ops, d), .asked = asked, .opaque = opaque};
    return d;
}

void dns_tcp_free(DnsTcp *d)
{
    if (d)
        tcp_free(d->tcp);
    g_free(d);
}

void dns_tcp_input(DnsTcp *d, Port *from, const Frame *f)
{
    tcp_input(d->tcp, from, f);
}

void dns_tcp_answer(DnsTcp *d, const DnsAsker *asker, const void *message, size_t len)
{
    TcpConn *c = tcp_find(d->tcp, asker->port, asker->stream);
    uint8_t prefix[PREFIX];

    if (!c)
        return;
    store_be16(prefix, (unsigned)len);
    tcp_write(c, prefix, sizeof(prefix));
    tcp_write(c, message, len);
    tcp_owe(c, -1);
    tcp_flush(c);
}

void dns_tcp_port_removed(DnsTcp *d, const Port *port)
{
    tcp_port_removed(d->tcp, port);
}
