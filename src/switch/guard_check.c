/* What a guarded port may send (guard.h): each frame's claims about who sends it, and the
 * messages that only a network itself may send.  RFCs 826, 5227, 4861, 4862, 6105 (RA
 * guard) and 7113 (ways around it), 7610 (DHCP shield).
 *
 * What is not understood cannot be checked and does not pass: malformed packets, frames
 * with a tag or an LLC header (which some systems unwrap), fragments that hide what they
 * are. */
#include <netinet/icmp6.h>

#include "src/switch/gateway.h"
#include "src/switch/guard.h"

enum {
    ARP_REQUEST = 1,
    ARP_REPLY = 2,
    DHCP_SERVER = 67,
    DHCP_CLIENT = 68,
    DHCP6_CLIENT = 546,
    DHCP6_SERVER = 547,
    ICMP4_REDIRECT = 5,
    ICMP4_ROUTER = 9, /* RFC 1256 */
    PROTO_VRRP = 112, /* and CARP: another router's address for the asking */
    ETHER_LOWEST = 0x600,
    ETHER_QINQ = 0x88a8,
    MLD_REPORT = 131,
    MLD_DONE = 132,
    MLD2_REPORT = 143,
    ND_INVERSE = 141,
    ND_INVERSE_REPLY = 142,
    ROUTER_RENUMBERING = 138,
    ND_HOP_LIMIT = 255,
    ND_HEADER = 24, /* of neighbour solicitations and advertisements */
    RS_HEADER = 8,
    ND_SOURCE_LINK = 1,
    ND_TARGET_LINK = 2,
    ND_LINK_UNITS = 1, /* of eight bytes: the length of an Ethernet address's option */
};

/* A port whose MAC is not known has that of its first frame, unless somebody has it. */
static bool take_mac(Port *port, const Mac *src)
{
    Switch *sw = port->sw;

    if (mac_is_group(src) || mac_is_zero(src) || port_by_mac(sw, src) ||
        (sw->gateway && mac_equal(src, gateway_mac(sw->gateway))))
        return false;
    port_set_mac(port, src);
    return true;
}

/* Bridges' own frames (IEEE 802.1D, 7.12.6), tags, and 802.2. */
static bool other_ok(const Packet *p)
{
    static const uint8_t bridges[] = {0x01, 0x80, 0xc2, 0, 0};

    return !p->malformed && p->ether_type >= ETHER_LOWEST &&
           p->ether_type != ETHER_VLAN && p->ether_type != ETHER_QINQ &&
           !(memcmp(p->dst.b, bridges, sizeof(bridges)) == 0 && p->dst.b[5] < 0x10);
}

static bool arp_ok(Port *port, const Packet *p)
{
    if ((p->arp_op != ARP_REQUEST && p->arp_op != ARP_REPLY) ||
        !mac_equal(&p->arp_from, &port->mac))
        return false;
    /* A probe says nothing of its sender (RFC 5227, 2.1.1). */
    if (p->arp_op == ARP_REQUEST && ip_is_unspecified(&p->from))
        return true;
    return guard_claim(port, &p->from);
}

/* The beginning of a packet whose kind of content cannot be seen. */
static bool hidden(const Packet *p)
{
    bool checked = p->proto == IPPROTO_UDP || p->proto == IPPROTO_ICMP ||
                   p->proto == IPPROTO_ICMPV6;

    return p->first && !p->transport &&
           (checked || (p->fragment && p->kind == PACKET_IPV6));
}

/* A client's message to the network's own server, which goes no further: it may have an
 * address that is not its own any more, and will hear so. */
static bool to_dhcp(const Port *port, const Frame *f)
{
    const Switch *sw = port->sw;
    const Packet *p = &f->p;

    if (p->fragment || p->from_port != DHCP_CLIENT || p->to_port != DHCP_SERVER)
        return false;
    return ip_is_unspecified(&p->from) ||
           (sw->config->dhcp && sw->subnets.v4.bits && !f->vlan && sw->gateway &&
            (mac_is_group(&p->dst) || mac_equal(&p->dst, gateway_mac(sw->gateway))));
}

static bool v4_ok(Port *port, const Frame *f)
{
    const Packet *p = &f->p;
    bool udp = p->proto == IPPROTO_UDP && p->transport;
    bool icmp = p->proto == IPPROTO_ICMP && p->transport;

    if (hidden(p) || p->proto == PROTO_VRRP ||
        (udp && (p->from_port == DHCP_SERVER || p->to_port == DHCP_CLIENT)) ||
        (icmp && (p->icmp_type == ICMP4_REDIRECT || p->icmp_type == ICMP4_ROUTER)))
        return false;
    if (udp && to_dhcp(port, f))
        return true;
    return !ip_is_unspecified(&p->from) && guard_claim(port, &p->from);
}

/* Options of ND that name a station name this one. */
static bool nd_options_ok(const Port *port, const uint8_t *at, size_t len)
{
    while (len) {
        size_t size = len >= 2 ? at[1] * 8u : 0;

        if (!size || size > len)
            return false;
        if ((at[0] == ND_SOURCE_LINK || at[0] == ND_TARGET_LINK) &&
            (at[1] != ND_LINK_UNITS || memcmp(at + 2, port->mac.b, sizeof(port->mac.b))))
            return false;
        at += size;
        len -= size;
    }
    return true;
}

/* RFC 4861, 7.1.1 and 7.1.2: from the link itself, and in one piece (RFC 6980). */
static bool nd_ok(Port *port, const Frame *f)
{
    const Packet *p = &f->p;
    const uint8_t *nd = f->data + p->transport;
    size_t header = p->icmp_type == ND_ROUTER_SOLICIT ? RS_HEADER : ND_HEADER;
    size_t len = p->end - p->transport;
    Ip target;

    if (p->ttl != ND_HOP_LIMIT || p->fragment || p->icmp_code || len < header ||
        !nd_options_ok(port, nd + header, len - header))
        return false;
    if (p->icmp_type == ND_ROUTER_SOLICIT)
        return true;
    memcpy(target.b, nd + RS_HEADER, sizeof(target.b));
    if (p->icmp_type == ND_NEIGHBOR_ADVERT)
        return guard_claim(port, &target);
    /* Looking whether an address is free (RFC 4862, 5.4.2) is a first claim to it; who
     * has it will say so. */
    if (ip_is_unspecified(&p->from))
        guard_claim(port, &target);
    return true;
}

static bool icmp6_ok(Port *port, const Frame *f)
{
    switch (f->p.icmp_type) {
    case ND_ROUTER_SOLICIT:
    case ND_NEIGHBOR_SOLICIT:
    case ND_NEIGHBOR_ADVERT:
        return nd_ok(port, f);
    case ND_ROUTER_ADVERT:
    case ND_REDIRECT:
    case ROUTER_RENUMBERING:
    case ND_INVERSE:
    case ND_INVERSE_REPLY:
        return false;
    default:
        return true;
    }
}

/* Who has no address yet looks whether one is free, asks for routers, joins groups. */
static bool may_have_no_address(const Packet *p)
{
    return p->proto == IPPROTO_ICMPV6 && p->transport && ip_is_multicast(&p->to) &&
           (p->icmp_type == ND_NEIGHBOR_SOLICIT || p->icmp_type == ND_ROUTER_SOLICIT ||
            p->icmp_type == MLD_REPORT || p->icmp_type == MLD_DONE ||
            p->icmp_type == MLD2_REPORT);
}

static bool v6_ok(Port *port, const Frame *f)
{
    const Packet *p = &f->p;
    bool udp = p->proto == IPPROTO_UDP && p->transport;

    if (hidden(p) || p->proto == PROTO_VRRP ||
        (udp && (p->from_port == DHCP6_SERVER || p->to_port == DHCP6_CLIENT)))
        return false;
    if (!(ip_is_unspecified(&p->from) ? may_have_no_address(p)
                                      : guard_claim(port, &p->from)))
        return false;
    return p->proto != IPPROTO_ICMPV6 || !p->transport || icmp6_ok(port, f);
}

bool guard_check(Port *port, const Frame *f)
{
    bool known = !mac_is_zero(&port->mac) || take_mac(port, &f->p.src);

    if (port->trusted || !port->guard || port->sw->config->spoof)
        return true;
    if (!known || !mac_equal(&f->p.src, &port->mac))
        return false;
    switch (f->p.kind) {
    case PACKET_ARP:
        return arp_ok(port, &f->p);
    case PACKET_IPV4:
        return v4_ok(port, f);
    case PACKET_IPV6:
        return v6_ok(port, f);
    case PACKET_OTHER:
        break;
    }
    return other_ok(&f->p);
}
