/* The DHCP server of a network: RFC 2131.  Addresses are leases.c's; this is the protocol
 * between a client and them.
 *
 * It is the only server of its network and so says no (NAK) to what it does not know.
 * Clients are told apart by the port that they are at, not by what they say of
 * themselves, and answers go to that port alone. */
#include "src/switch/dhcp_message.h"
#include "src/switch/leases.h"

enum {
    BOOT_REPLY = 2,
    ETHERNET = 1,
    CHADDR_LEN = 16,
    SNAME_AND_FILE = 64 + 128,
    MIN_MESSAGE = 300, /* RFC 951: older clients expect so much */
};

#define COOKIE 0x63825363

static const Mac broadcast_mac = {{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};

/* yiaddr NULL: none is told.  To whom: RFC 2131, 4.1. */
static void answer(Gateway *gw, Port *port, const DhcpMessage *m, uint8_t type,
                   const Ip *yiaddr)
{
    static const uint8_t no_bytes[CHADDR_LEN];
    Ip everybody = ip_from_v4(0xffffffff), to = everybody;
    const Mac *mac = &m->chaddr;
    Builder b;
    size_t message;

    if (type != DHCP_NAK && !ip_is_unspecified(&m->ciaddr))
        to = m->ciaddr;
    else if (type != DHCP_NAK && yiaddr && !(m->flags & DHCP_BROADCAST))
        to = *yiaddr;
    else
        mac = &broadcast_mac;
    build_ip(&b, mac, &gw->mac, &gw->subnets.gateway4, &to, IPPROTO_UDP, 0);
    build_udp(&b, DHCP_SERVER_PORT, DHCP_CLIENT_PORT);
    message = b.len;
    build_u8(&b, BOOT_REPLY);
    build_u8(&b, ETHERNET);
    build_u8(&b, sizeof(m->chaddr.b));
    build_u8(&b, 0);
    build_bytes(&b, m->xid, 4);
    build_u16(&b, 0);
    build_u16(&b, m->flags);
    build_u32(&b, type == DHCP_NAK ? 0 : ip_to_v4(&m->ciaddr));
    build_u32(&b, yiaddr ? ip_to_v4(yiaddr) : 0);
    build_u32(&b, 0); /* siaddr: nobody boots from here */
    build_u32(&b, 0); /* giaddr */
    build_bytes(&b, m->chaddr.b, sizeof(m->chaddr.b));
    build_bytes(&b, no_bytes, CHADDR_LEN - sizeof(m->chaddr.b));
    build_room(&b, SNAME_AND_FILE);
    build_u32(&b, COOKIE);
    dhcp_options(gw, port, m, type, &b);
    if (b.len - message < MIN_MESSAGE)
        build_room(&b, MIN_MESSAGE - (b.len - message));
    gateway_send_to(gw, port, &b);
}

static void discover(Gateway *gw, Port *port, const DhcpMessage *m)
{
    Ip ip;

    if (leases_offer(gw, port, &m->chaddr, false, &m->requested, &ip))
        answer(gw, port, m, DHCP_OFFER, &ip);
}

/* Selecting, after a restart, renewing or rebinding (4.3.2): in each it is told what it
 * asked for, or no. */
static void request(Gateway *gw, Port *port, const DhcpMessage *m)
{
    const Ip *wanted = ip_is_v4(&m->requested) ? &m->requested : &m->ciaddr;
    Ip ip;

    if (ip_is_v4(&m->server) && !ip_equal(&m->server, &gw->subnets.gateway4))
        return; /* it took another's offer */
    if (ip_is_unspecified(wanted))
        return;
    if (leases_offer(gw, port, &m->chaddr, false, wanted, &ip) && ip_equal(&ip, wanted) &&
        leases_bind(gw, port, &m->chaddr, &ip))
        answer(gw, port, m, DHCP_ACK, &ip);
    else
        answer(gw, port, m, DHCP_NAK, NULL);
}

static void inform(Gateway *gw, Port *port, const DhcpMessage *m)
{
    if (!ip_is_unspecified(&m->ciaddr))
        answer(gw, port, m, DHCP_ACK, NULL);
}

static bool input(Gateway *gw, Port *port, Frame *f)
{
    const Packet *p = &f->p;
    DhcpMessage m;

    if (!gw->sw->config->dhcp || !gw->subnets.v4.bits || p->kind != PACKET_IPV4 ||
        p->proto != IPPROTO_UDP || !p->transport || p->fragment ||
        p->to_port != DHCP_SERVER_PORT || p->from_port != DHCP_CLIENT_PORT)
        return false;
    if (!dhcp_parse(f->data + p->payload, p->end - p->payload, &m))
        return true;
    switch (m.type) {
    case DHCP_DISCOVER:
        discover(gw, port, &m);
        break;
    case DHCP_REQUEST:
        request(gw, port, &m);
        break;
    case DHCP_DECLINE:
        leases_decline(gw, port, &m.chaddr, &m.requested);
        break;
    case DHCP_RELEASE:
        leases_release(gw, port, &m.chaddr, &m.ciaddr);
        break;
    case DHCP_INFORM:
        inform(gw, port, &m);
        break;
    }
    return true;
}

const GatewayPart gateway_dhcp = {.name = "dhcp", .input = input};
