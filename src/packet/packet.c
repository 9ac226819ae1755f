/* Reads Ethernet frames; see packet/packet.h.  What is inconsistent is `malformed`, so
 * that what hosts would read differently from us never gets to be judged.
 *
 * An IP packet is malformed if its header or total length do not fit in the frame, if a
 * fragment cannot be one (not a multiple of eight and more follow; beyond 65,535), if it
 * is IPv6 with extension headers that are not whole in the first fragment (RFC 7112), too
 * many, out of order in a way that matters (a second fragment header), a routing header
 * of type 0 (RFC 5095), or an address that is IPv4's mapped (never on the wire: RFC 4291,
 * 2.5.5.2), which rules would take for IPv4. */
#include "packet/packet.h"

#include "packet/offload.h"
#include "util/bits.h"

enum {
    MAX_EXTENSIONS = 8,
    IP_MAX = 65535,
    IPV6_HEADER = 40,
    HOP_BY_HOP = 0,
    ROUTING = 43,
    FRAGMENT = 44,
    AUTHENTICATION = 51,
    OPTIONS = 60,
};

/* RFC 826, for IPv4 on Ethernet. */
static bool parse_arp(const uint8_t *frame, size_t len, Packet *p)
{
    const uint8_t *a = frame + ETH_HEADER;

    if (len < ETH_HEADER + 28 || load_be16(a) != 1 || load_be16(a + 2) != ETHER_IPV4 ||
        a[4] != 6 || a[5] != 4)
        return false;
    p->kind = PACKET_ARP;
    p->net = ETH_HEADER;
    p->end = ETH_HEADER + 28;
    p->arp_op = load_be16(a + 6);
    memcpy(p->arp_from.b, a + 8, 6);
    p->from = ip_from_v4_bytes(a + 14);
    memcpy(p->arp_to.b, a + 18, 6);
    p->to = ip_from_v4_bytes(a + 24);
    return true;
}

static void note_icmp(const uint8_t *t, Packet *p)
{
    bool echo = p->kind == PACKET_IPV4 ? t[0] == 8 || t[0] == 0
                                       : t[0] == 128 || t[0] == 129;

    p->icmp_type = t[0];
    p->icmp_code = t[1];
    p->icmp_id = echo ? load_be16(t + 4) : 0;
}

/* What is behind the IP headers, at `at`, whose bytes are there up to p->end. */
static void parse_transport(const uint8_t *frame, uint32_t at, Packet *p)
{
    const uint8_t *t = frame + at;
    uint32_t have = p->end - at, header = 0;

    switch (p->proto) {
    case IPPROTO_TCP:
        if (have < 20 || (header = (t[12] >> 4) * 4u) < 20 || header > have)
            return;
        p->tcp_seq = load_be32(t + 4);
        p->tcp_ack = load_be32(t + 8);
        p->tcp_flags = t[13];
        p->from_port = load_be16(t);
        p->to_port = load_be16(t + 2);
        break;
    case IPPROTO_UDP:
        header = 8;
        if (have < header || load_be16(t + 4) < header ||
            (!p->fragment && load_be16(t + 4) > have))
            return;
        p->from_port = load_be16(t);
        p->to_port = load_be16(t + 2);
        break;
    case IPPROTO_ICMP:
    case IPPROTO_ICMPV6:
        header = 8;
        if (have < header)
            return;
        note_icmp(t, p);
        break;
    }
    p->transport = at;
    p->payload = at + header;
}

/* The fragment fields, for both families.  `bytes`: of the packet in this fragment. */
static bool note_fragment(Packet *p, uint16_t in_eights, bool more, uint32_t bytes)
{
    p->offset = in_eights * 8u;
    p->bytes = bytes;
    p->more = more;
    p->fragment = p->offset || more;
    p->first = p->offset == 0;
    return p->offset + bytes <= IP_MAX && !(more && bytes % 8) &&
           !(p->fragment && !bytes);
}

static bool parse_ipv4(const uint8_t *frame, size_t len, Packet *p)
{
    const uint8_t *ip = frame + ETH_HEADER;
    size_t have = len - ETH_HEADER;
    uint32_t header, total;

    if (have < 20 || ip[0] >> 4 != 4)
        return false;
    header = (ip[0] & 15) * 4u;
    total = load_be16(ip + 2);
    if (header < 20 || header > total || total > have)
        return false;
    p->kind = PACKET_IPV4;
    p->net = ETH_HEADER;
    p->end = ETH_HEADER + total;
    p->id = load_be16(ip + 4);
    p->ttl = ip[8];
    p->proto = ip[9];
    p->from = ip_from_v4_bytes(ip + 12);
    p->to = ip_from_v4_bytes(ip + 16);
    if (!note_fragment(p, load_be16(ip + 6) & 0x1fff, load_be16(ip + 6) & 0x2000,
                       total - header))
        return false;
    if (p->first)
        parse_transport(frame, ETH_HEADER + header, p);
    return true;
}

/* Goes past IPv6's extension headers (RFC 8200, 4), from *at up to `end`; sets proto and
 * the fragment's fields.  False: they are not whole, or not what they should be. */
static bool skip_extensions(const uint8_t *frame, uint32_t *at, uint32_t end, Packet *p)
{
    bool fragmented = false;

    p->first = true;
    for (unsigned n = 0; n <= MAX_EXTENSIONS; n++) {
        const uint8_t *h = frame + *at;
        uint32_t size;

        switch (p->proto) {
        case HOP_BY_HOP:
        case ROUTING:
        case OPTIONS:
        case FRAGMENT:
        case AUTHENTICATION:
            break;
        default:
            return true;
        }
        if (end - *at < 8 || (p->proto == HOP_BY_HOP && n > 0) ||
            (p->proto == ROUTING && h[2] == 0) || (p->proto == FRAGMENT && fragmented))
            return false;
        size = (h[1] + 1) * 8u;
        if (p->proto == AUTHENTICATION)
            size = (h[1] + 2) * 4u; /* RFC 4302, 2.2 */
        if (p->proto == FRAGMENT)
            size = 8;
        if (size > end - *at)
            return false;
        if (p->proto == FRAGMENT) {
            fragmented = true;
            p->id = load_be32(h + 4);
            if (!note_fragment(p, load_be16(h + 2) >> 3, h[3] & 1, end - *at - 8))
                return false;
        }
        p->proto = h[0];
        *at += size;
        if (!p->first)
            return true;
    }
    return false;
}

static bool parse_ipv6(const uint8_t *frame, size_t len, Packet *p)
{
    const uint8_t *ip = frame + ETH_HEADER;
    uint32_t at = ETH_HEADER + IPV6_HEADER;

    if (len < at || ip[0] >> 4 != 6 || load_be16(ip + 4) > len - at)
        return false;
    p->kind = PACKET_IPV6;
    p->net = ETH_HEADER;
    p->end = at + load_be16(ip + 4);
    p->proto = ip[6];
    p->ttl = ip[7];
    memcpy(p->from.b, ip + 8, 16);
    memcpy(p->to.b, ip + 24, 16);
    if (ip_is_v4(&p->from) || ip_is_v4(&p->to) || !skip_extensions(frame, &at, p->end, p))
        return false;
    if (p->first)
        parse_transport(frame, at, p);
    return true;
}

bool packet_parse(const uint8_t *frame, size_t len, Packet *ret)
{
    Packet p = {0};
    bool good = true;

    if (len < ETH_MIN_FRAME)
        return false;
    memcpy(p.dst.b, frame, 6);
    memcpy(p.src.b, frame + 6, 6);
    p.ether_type = load_be16(frame + 12);
    *ret = p;
    switch (p.ether_type) {
    case ETHER_ARP:
        good = parse_arp(frame, len, ret);
        break;
    case ETHER_IPV4:
        good = parse_ipv4(frame, len, ret);
        break;
    case ETHER_IPV6:
        good = parse_ipv6(frame, len, ret);
        break;
    }
    if (!good) {
        *ret = p;
        ret->malformed = true;
    }
    return true;
}

/* RFC 792; RFC 4443, 2.1.  Redirects are none: nobody is told a route by a flow. */
static bool is_error(const Packet *p)
{
    if (p->proto == IPPROTO_ICMPV6)
        return p->kind == PACKET_IPV6 && p->icmp_type >= 1 && p->icmp_type <= 4;
    return p->kind == PACKET_IPV4 && p->proto == IPPROTO_ICMP &&
           (p->icmp_type == 3 || p->icmp_type == 4 || p->icmp_type == 11 ||
            p->icmp_type == 12);
}

bool packet_parse_quoted(const Packet *p, const uint8_t *frame, size_t len, Packet *ret)
{
    const uint8_t *ip = frame + p->payload, *t;
    uint32_t at, have;
    Packet q = {.kind = p->kind, .first = true};

    if (!p->transport || p->fragment || p->end > len || !is_error(p))
        return false;
    have = p->end - p->payload;
    if (p->kind == PACKET_IPV4) {
        at = (have ? ip[0] & 15u : 0) * 4;
        if (at < 20 || have < at || ip[0] >> 4 != 4 || load_be16(ip + 6) & 0x1fff)
            return false;
        q.proto = ip[9];
        q.from = ip_from_v4_bytes(ip + 12);
        q.to = ip_from_v4_bytes(ip + 16);
    } else {
        at = IPV6_HEADER;
        if (have < at || ip[0] >> 4 != 6)
            return false;
        q.proto = ip[6];
        memcpy(q.from.b, ip + 8, 16);
        memcpy(q.to.b, ip + 24, 16);
        if (ip_is_v4(&q.from) || ip_is_v4(&q.to) || !skip_extensions(ip, &at, have, &q) ||
            !q.first)
            return false;
    }
    t = ip + at;
    switch (q.proto) {
    case IPPROTO_TCP:
    case IPPROTO_UDP:
        if (have - at < 8)
            return false;
        q.from_port = load_be16(t);
        q.to_port = load_be16(t + 2);
        break;
    case IPPROTO_ICMP:
    case IPPROTO_ICMPV6:
        if (have - at < 8)
            return false;
        note_icmp(t, &q);
        break;
    }
    *ret = q;
    return true;
}

bool packet_tcp_sum_ok(const Packet *p, const uint8_t *frame)
{
    bool v6 = p->kind == PACKET_IPV6;
    size_t len = p->end - p->transport;
    uint8_t rest[] = {0, IPPROTO_TCP, (uint8_t)(len >> 8), (uint8_t)len};
    uint32_t sum = checksum_add(0, frame + p->net + (v6 ? 8 : 12), v6 ? 32 : 8);

    sum = checksum_add(sum, rest, sizeof(rest));
    return checksum_end(checksum_add(sum, frame + p->transport, len)) == 0;
}
