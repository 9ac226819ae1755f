/* ARP and neighbour discovery for the gateway's own addresses, learning who is where from
 * what is heard of others, and echo replies.  RFCs 826, 5227, 4861, 792, 4443.
 *
 * Ports that are guarded can say nothing false here (guard.h); those that are trusted are
 * believed, but for the gateway's addresses, which nobody takes. */
#include <netinet/icmp6.h>

#include "src/switch/gateway_private.h"
#include "util/bits.h"
#include "util/log.h"

enum {
    ARP_ETHERNET = 1,
    ARP_REQUEST = 1,
    ARP_REPLY = 2,
    ND_HOP_LIMIT = 255,
    ND_HEADER = 24,
    ND_TARGET = 8,
    ND_SOURCE_LINK = 1,
    ND_TARGET_LINK = 2,
    NA_ROUTER = 0x80,
    NA_SOLICITED = 0x40,
    NA_OVERRIDE = 0x20,
    ICMP4_ECHO_REPLY = 0,
    ICMP4_ECHO = 8,
    V6_HOP_LIMIT = 7,
    V4_TTL = 8,
    V4_CHECKSUM = 10,
    TTL = 64,
};

static const Mac broadcast = {{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};

/* ---- ARP ------------------------------------------------------------------------------
 */

static void build_arp(Gateway *gw, Builder *b, uint16_t op, const Mac *to,
                      const Ip *to_ip)
{
    static const Mac unknown;

    build_eth(b, to ? to : &broadcast, &gw->mac, ETHER_ARP);
    build_u16(b, ARP_ETHERNET);
    build_u16(b, ETHER_IPV4);
    build_u16(b, sizeof(gw->mac.b) << 8 | 4);
    build_u16(b, op);
    build_bytes(b, gw->mac.b, sizeof(gw->mac.b));
    build_u32(b, ip_to_v4(&gw->subnets.gateway4));
    build_bytes(b, to ? to->b : unknown.b, sizeof(unknown.b));
    build_u32(b, ip_to_v4(to_ip));
}

/* A trusted port, or one on a network without anti-spoofing, says that it is the gateway.
 */
static void complain(Gateway *gw, const Packet *p)
{
    static LogLimit limit;
    char ip[IP_TEXT], mac[MAC_TEXT];

    if (log_limit(&limit))
        log_warn("network '%s': %s says that it has %s, which is the gateway's",
                 gw->sw->name, mac_text(&p->src, mac), ip_text(&p->from, ip));
}

static bool arp_input(Gateway *gw, Port *from, Frame *f)
{
    const Packet *p = &f->p;
    Builder b;

    if (!gw->subnets.v4.bits)
        return false;
    if (ip_equal(&p->from, &gw->subnets.gateway4))
        complain(gw, p);
    else
        neighbour_seen(gw, &p->from, &p->arp_from);
    if (p->arp_op != ARP_REQUEST || !ip_equal(&p->to, &gw->subnets.gateway4))
        return false;
    build_arp(gw, &b, ARP_REPLY, &p->arp_from, &p->from);
    gateway_send_to(gw, from, &b);
    return true;
}

/* ---- neighbour discovery --------------------------------------------------------------
 */

/* The station that an option of the message names; false: none does, or it is malformed.
 */
static bool find_link(const Frame *f, uint8_t type, Mac *ret)
{
    const uint8_t *at = f->data + f->p.transport + ND_HEADER, *end = f->data + f->p.end;
    bool found = false;

    while (at < end) {
        size_t size = end - at >= 2 ? at[1] * 8u : 0;

        if (!size || size > (size_t)(end - at))
            return false;
        if (at[0] == type && at[1] == 1) {
            memcpy(ret->b, at + 2, sizeof(ret->b));
            found = true;
        }
        at += size;
    }
    return found;
}

/* RFC 4861, 7.2.4: to all if who asks has no address yet. */
static void advertise(Gateway *gw, Port *to, const Frame *f, const Ip *target)
{
    static const Ip all_nodes = {{0xff, 2, [15] = 1}};
    static const Mac all_nodes_mac = {{0x33, 0x33, 0, 0, 0, 1}};
    bool nobody = ip_is_unspecified(&f->p.from);
    bool router = gw->sw->config->mode != NETWORK_ISOLATED;
    Builder b;

    build_ip(&b, nobody ? &all_nodes_mac : &f->p.src, &gw->mac, target,
             nobody ? &all_nodes : &f->p.from, IPPROTO_ICMPV6, ND_HOP_LIMIT);
    build_u32(&b, (uint32_t)ND_NEIGHBOR_ADVERT << 24);
    build_u8(&b, (router ? NA_ROUTER : 0) | (nobody ? 0 : NA_SOLICITED) | NA_OVERRIDE);
    build_room(&b, 3);
    build_bytes(&b, target->b, sizeof(target->b));
    build_u16(&b, ND_TARGET_LINK << 8 | 1);
    build_bytes(&b, gw->mac.b, sizeof(gw->mac.b));
    gateway_send_to(gw, to, &b);
}

static bool solicitation(Gateway *gw, Port *from, const Frame *f, const Ip *target)
{
    Mac mac;

    if (!ip_is_unspecified(&f->p.from) && find_link(f, ND_SOURCE_LINK, &mac))
        neighbour_seen(gw, &f->p.from, &mac);
    if (!gateway_is(gw, target))
        return false;
    advertise(gw, from, f, target);
    return true;
}

static bool nd_input(Gateway *gw, Port *from, const Frame *f)
{
    const Packet *p = &f->p;
    Ip target;
    Mac mac;

    if (p->ttl != ND_HOP_LIMIT || p->icmp_code || p->fragment ||
        p->end - p->transport < ND_HEADER)
        return false;
    memcpy(target.b, f->data + p->transport + ND_TARGET, sizeof(target.b));
    if (p->icmp_type == ND_NEIGHBOR_SOLICIT)
        return solicitation(gw, from, f, &target);
    if (find_link(f, ND_TARGET_LINK, &mac))
        neighbour_seen(gw, &target, &mac);
    return false;
}

/* ---- asking others --------------------------------------------------------------------
 */

static void solicit(Gateway *gw, const Ip *ip, const Mac *known)
{
    const uint8_t *t = ip->b;
    Ip group = {{0xff, 2, [11] = 1, 0xff, t[13], t[14], t[15]}}; /* RFC 4291, 2.7.1 */
    Mac group_mac = {{0x33, 0x33, 0xff, t[13], t[14], t[15]}};
    Builder b;

    build_ip(&b, known ? known : &group_mac, &gw->mac, &gw->link_local,
             known ? ip : &group, IPPROTO_ICMPV6, ND_HOP_LIMIT);
    build_u32(&b, (uint32_t)ND_NEIGHBOR_SOLICIT << 24);
    build_u32(&b, 0);
    build_bytes(&b, ip->b, sizeof(ip->b));
    build_u16(&b, ND_SOURCE_LINK << 8 | 1);
    build_bytes(&b, gw->mac.b, sizeof(gw->mac.b));
    gateway_send(gw, &b);
}

void neighbour_ask(Gateway *gw, const Ip *ip, const Mac *known)
{
    Builder b;

    if (!ip_is_v4(ip)) {
        solicit(gw, ip, known);
        return;
    }
    build_arp(gw, &b, ARP_REQUEST, NULL, ip);
    if (known)
        memcpy(b.data, known->b, sizeof(known->b));
    gateway_send(gw, &b);
}

/* ---- echo -----------------------------------------------------------------------------
 */

/* A 16-bit word of a message changed: so does its checksum (RFC 1624), and what was wrong
 * with it before stays wrong. */
static void mend_checksum(uint8_t *at, uint16_t was, uint16_t is)
{
    uint32_t sum = (uint16_t)~load_be16(at);

    sum += (uint16_t)~was + is;
    sum = (sum & 0xffff) + (sum >> 16);
    sum = ~((sum & 0xffff) + (sum >> 16));
    store_be16(at, (uint16_t)sum);
}

static void swap_bytes(uint8_t *a, uint8_t *b, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        uint8_t c = a[i];

        a[i] = b[i];
        b[i] = c;
    }
}

/* In place, so that echoes of any size are answered; addresses turned round leave the
 * sums as they are. */
static bool echo_input(Gateway *gw, Port *from, Frame *f)
{
    Packet *p = &f->p;
    uint8_t *ip = f->data + p->net, *icmp = f->data + p->transport;
    bool v4 = p->kind == PACKET_IPV4;
    uint8_t reply = v4 ? ICMP4_ECHO_REPLY : ICMP6_ECHO_REPLY;

    if (p->icmp_type != (v4 ? ICMP4_ECHO : ICMP6_ECHO_REQUEST) || p->icmp_code ||
        p->fragment || !gateway_is(gw, &p->to) || ip_is_unspecified(&p->from) ||
        ip_is_multicast(&p->from))
        return false;
    mend_checksum(icmp + 2, (uint16_t)(icmp[0] << 8), (uint16_t)(reply << 8));
    icmp[0] = reply;
    if (v4) {
        mend_checksum(ip + V4_CHECKSUM, (uint16_t)(ip[V4_TTL] << 8), TTL << 8);
        ip[V4_TTL] = TTL;
        swap_bytes(ip + 12, ip + 16, 4);
    } else {
        ip[V6_HOP_LIMIT] = TTL;
        swap_bytes(ip + 8, ip + 24, 16);
    }
    memcpy(f->data, p->src.b, sizeof(p->src.b));
    memcpy(f->data + sizeof(p->src.b), gw->mac.b, sizeof(gw->mac.b));
    f->hdr = (VnetHdr){0};
    if (packet_parse(f->data, f->len, p))
        switch_send_to(from, f);
    return true;
}

static bool input(Gateway *gw, Port *from, Frame *f)
{
    const Packet *p = &f->p;

    if (p->kind == PACKET_ARP)
        return arp_input(gw, from, f);
    if (!p->transport || !((p->kind == PACKET_IPV4 && p->proto == IPPROTO_ICMP) ||
                           (p->kind == PACKET_IPV6 && p->proto == IPPROTO_ICMPV6)))
        return false;
    if (p->kind == PACKET_IPV6 &&
        (p->icmp_type == ND_NEIGHBOR_SOLICIT || p->icmp_type == ND_NEIGHBOR_ADVERT))
        return nd_input(gw, from, f);
    return echo_input(gw, from, f);
}

const GatewayPart gateway_arp = {.name = "arp", .input = input};
