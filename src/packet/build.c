/* Frames put together from their headers (build.h): RFCs 791, 768, 8200, 4443, 9293.
 * Lengths and checksums are known last, and so are written last. */
#include "packet/build.h"

#include "packet/offload.h"
#include "util/bits.h"

enum {
    IPV4_HEADER = 20,
    UDP_HEADER = 8,
    TCP_HEADER = 20,
    TCP_MSS = 2, /* the option, of four bytes */
    TTL_DEFAULT = 64,
    V4_LENGTH = 2,
    V4_DONT_FRAGMENT = 0x4000,
    V4_PROTO = 9,
    V4_CHECKSUM = 10,
    V4_ADDRESSES = 12,
    V6_LENGTH = 4,
    V6_PROTO = 6,
    V6_ADDRESSES = 8,
};

void *build_room(Builder *b, size_t len)
{
    uint8_t *at = b->data + b->len;

    if (b->full || len > sizeof(b->data) - b->len) {
        b->full = true;
        return NULL;
    }
    memset(at, 0, len);
    b->len += len;
    return at;
}

void build_bytes(Builder *b, const void *bytes, size_t len)
{
    void *at = build_room(b, len);

    if (at && len)
        memcpy(at, bytes, len);
}

void build_u8(Builder *b, uint8_t v)
{
    build_bytes(b, &v, sizeof(v));
}

void build_u16(Builder *b, uint16_t v)
{
    uint16_t be = htons(v);

    build_bytes(b, &be, sizeof(be));
}

void build_u32(Builder *b, uint32_t v)
{
    uint32_t be = htonl(v);

    build_bytes(b, &be, sizeof(be));
}

void build_eth(Builder *b, const Mac *dst, const Mac *src, uint16_t ether_type)
{
    b->len = b->net = b->transport = 0;
    b->full = false;
    build_bytes(b, dst->b, sizeof(dst->b));
    build_bytes(b, src->b, sizeof(src->b));
    build_u16(b, ether_type);
    b->net = (uint32_t)b->len;
}

static void v4_header(Builder *b, const Ip *from, const Ip *to, uint8_t proto,
                      uint8_t ttl)
{
    build_u16(b, 0x4500);
    build_u16(b, 0); /* length */
    build_u16(b, 0);
    build_u16(b, V4_DONT_FRAGMENT);
    build_u8(b, ttl);
    build_u8(b, proto);
    build_u16(b, 0); /* checksum */
    build_u32(b, ip_to_v4(from));
    build_u32(b, ip_to_v4(to));
}

static void v6_header(Builder *b, const Ip *from, const Ip *to, uint8_t proto,
                      uint8_t ttl)
{
    build_u32(b, 6u << 28);
    build_u16(b, 0); /* length */
    build_u8(b, proto);
    build_u8(b, ttl);
    build_bytes(b, from->b, sizeof(from->b));
    build_bytes(b, to->b, sizeof(to->b));
}

void build_ip(Builder *b, const Mac *dst, const Mac *src, const Ip *from, const Ip *to,
              uint8_t proto, uint8_t ttl)
{
    bool v4 = ip_is_v4(from);

    build_eth(b, dst, src, v4 ? ETHER_IPV4 : ETHER_IPV6);
    (v4 ? v4_header : v6_header)(b, from, to, proto, ttl ? ttl : TTL_DEFAULT);
    b->transport = (uint32_t)b->len;
}

void build_udp(Builder *b, uint16_t from_port, uint16_t to_port)
{
    build_u16(b, from_port);
    build_u16(b, to_port);
    build_u32(b, 0); /* length and checksum */
}

void build_tcp(Builder *b, uint16_t from_port, uint16_t to_port, uint32_t seq,
               uint32_t ack, uint8_t flags, uint16_t window, uint16_t mss)
{
    unsigned header = TCP_HEADER + (mss ? 4 : 0);

    build_u16(b, from_port);
    build_u16(b, to_port);
    build_u32(b, seq);
    build_u32(b, ack);
    build_u8(b, (uint8_t)(header / 4 << 4));
    build_u8(b, flags);
    build_u16(b, window);
    build_u32(b, 0); /* checksum, urgent */
    if (mss)
        build_u32(b, TCP_MSS << 24 | 4 << 16 | mss);
}

/* The sum of the pseudo header: RFC 768; RFC 8200, 8.1. */
static uint32_t pseudo_header(const uint8_t *addresses, size_t len, uint8_t proto,
                              size_t n)
{
    uint8_t rest[4] = {0, proto, (uint8_t)(n >> 8), (uint8_t)n};

    return checksum_add(checksum_add(0, addresses, len), rest, sizeof(rest));
}

/* Where the transport's checksum is in its header; 0: it has none that we know. */
static size_t checksum_at(uint8_t proto)
{
    return proto == IPPROTO_UDP                               ? 6
           : proto == IPPROTO_TCP                             ? 16
           : proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6 ? 2
                                                              : 0;
}

/* Returns whether the transport's header is there. */
static bool end_transport(Builder *b, uint8_t proto, uint32_t pseudo)
{
    uint8_t *header = b->data + b->transport;
    size_t len = b->len - b->transport, at = checksum_at(proto);
    uint16_t sum;

    if (!at)
        return true;
    if (len < (proto == IPPROTO_TCP ? TCP_HEADER : UDP_HEADER)) /* of ICMP too */
        return false;
    if (proto == IPPROTO_UDP)
        store_be16(header + 4, len);
    store_be16(header + at, 0);
    sum = checksum_end(checksum_add(proto == IPPROTO_ICMP ? 0 : pseudo, header, len));
    if (proto == IPPROTO_UDP && sum == 0)
        sum = 0xffff; /* zero says that there is none */
    memcpy(header + at, &sum, sizeof(sum));
    return true;
}

bool build_end(Builder *b)
{
    uint8_t *ip = b->data + b->net;
    size_t len = b->len - b->transport;
    uint16_t sum;

    if (b->full)
        return false;
    if (!b->transport) /* no IP */
        return true;
    if (ip[0] >> 4 == 6) {
        store_be16(ip + V6_LENGTH, len);
        return end_transport(b, ip[V6_PROTO],
                             pseudo_header(ip + V6_ADDRESSES, 32, ip[V6_PROTO], len));
    }
    store_be16(ip + V4_LENGTH, IPV4_HEADER + len);
    store_be16(ip + V4_CHECKSUM, 0);
    sum = checksum_end(checksum_add(0, ip, IPV4_HEADER));
    memcpy(ip + V4_CHECKSUM, &sum, sizeof(sum));
    return end_transport(b, ip[V4_PROTO],
                         pseudo_header(ip + V4_ADDRESSES, 8, ip[V4_PROTO], len));
}
