/* Checksums and segments; contract in packet/offload.h.  A segment is cut as RFC 9293 and
 * RFC 3168 have it on the wire: every frame has the headers of the first, with its own
 * sequence number, lengths and checksums; what says that the sender is done (FIN, PSH) is
 * on the last one only, and the answer to congestion (CWR) on the first only.  Datagrams
 * (USO) have lengths and checksums of their own, and nothing else (RFC 768). */
#include "packet/offload.h"

#include <netinet/in.h>
#include <string.h>

#include "packet/packet.h"
#include "util/bits.h"

enum {
    IP4_HEADER = 20,
    IP6_HEADER = 40,
    TCP_HEADER = 20,
    TCP_CHECKSUM = 16,
    UDP_HEADER = 8,
    UDP_LENGTH = 4,
    UDP_CHECKSUM = 6,
    TCP_SEQ = 4,
    TCP_FLAGS = 13,
    TCP_CWR = 0x80,
    IP6_MAX_EXTENSIONS = 8,
    /* What one frame may be multiplied by is bounded: the least that Linux sends in a
     * segment (tcp_min_snd_mss) is 48 with the options, and the most datagrams that it
     * sends at once (UDP_MAX_SEGMENTS) are 128 of any size. */
    GSO_MIN = 32,
    USO_MAX_PIECES = 128,
};

/* Where the headers of a segment to be cut are. */
typedef struct Segment {
    bool v6;
    uint8_t proto; /* of the header at l4 */
    size_t net, l4, payload, end;
} Segment;

/* ---- checksums ----------------------------------------------------------------------
 */

static uint64_t add_carry(uint64_t sum, uint64_t v)
{
    sum += v;
    return sum + (sum < v);
}

static uint64_t load(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

/* The order of bytes does not matter to the sum (RFC 1071, 2.B), nor the width of words
 * (2.C). */
uint32_t checksum_add(uint32_t sum, const void *bytes, size_t len)
{
    const uint8_t *p = bytes;
    uint64_t a = sum, b = 0;

    for (; len >= 32; p += 32, len -= 32) {
        a = add_carry(a, load(p));
        b = add_carry(b, load(p + 8));
        a = add_carry(a, load(p + 16));
        b = add_carry(b, load(p + 24));
    }
    for (; len >= 8; p += 8, len -= 8)
        a = add_carry(a, load(p));
    if (len) {
        uint8_t rest[8] = {0};

        memcpy(rest, p, len);
        b = add_carry(b, load(rest));
    }
    a = add_carry(a, b);
    a = (a & 0xffffffff) + (a >> 32);
    return (uint32_t)((a & 0xffffffff) + (a >> 32));
}

uint16_t checksum_end(uint32_t sum)
{
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

/* 0 would say to UDP that there is no checksum (RFC 768), and is the same number. */
static void put_checksum(uint8_t *at, uint32_t sum)
{
    uint16_t end = checksum_end(sum);

    if (!end)
        end = 0xffff;
    memcpy(at, &end, sizeof(end));
}

void vnet_finish_checksum(VnetHdr *hdr, uint8_t *frame, size_t len)
{
    uint8_t *start = frame + hdr->csum_start;

    if (!(hdr->flags & VNET_NEEDS_CSUM))
        return;
    /* What is at its place is the sum of the pseudo header. */
    put_checksum(start + hdr->csum_offset, checksum_add(0, start, len - hdr->csum_start));
    hdr->flags &= (uint8_t)~VNET_NEEDS_CSUM;
}

/* ---- segments -----------------------------------------------------------------------
 */

static bool find_ip4(const uint8_t *frame, size_t len, Segment *s)
{
    const uint8_t *ip = frame + s->net;

    if (s->net + IP4_HEADER > len || ip[0] >> 4 != 4 || ip[9] != s->proto ||
        load_be16(ip + 6) & 0x3fff /* a fragment */)
        return false;
    s->l4 = s->net + (ip[0] & 15) * 4u;
    s->end = s->net + load_be16(ip + 2);
    return s->l4 >= s->net + IP4_HEADER;
}

/* RFC 8200, 4: to TCP or UDP by way of options and routing headers. */
static bool find_ip6(const uint8_t *frame, size_t len, Segment *s)
{
    const uint8_t *ip = frame + s->net;
    uint8_t next;

    if (s->net + IP6_HEADER > len || ip[0] >> 4 != 6)
        return false;
    next = ip[6];
    s->l4 = s->net + IP6_HEADER;
    s->end = s->l4 + load_be16(ip + 4);
    for (unsigned i = 0; i < IP6_MAX_EXTENSIONS && next != s->proto; i++) {
        if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS)
            return false;
        if (s->l4 + 8 > len)
            return false;
        next = frame[s->l4];
        s->l4 += 8 + frame[s->l4 + 1] * 8u;
    }
    return next == s->proto;
}

/* Where what is cut begins: false if there is no whole header before it. */
static bool find_payload(const uint8_t *frame, Segment *s)
{
    const bool udp = s->proto == IPPROTO_UDP;
    size_t least = udp ? UDP_HEADER : TCP_HEADER;

    if (s->l4 + least > s->end)
        return false;
    s->payload = s->l4 + (udp ? least : (frame[s->l4 + 12] >> 4) * 4u);
    return s->payload >= s->l4 + least && s->payload <= s->end;
}

/* Which kind of IP a header of USO means, the frame says. */
static bool find_segment(const VnetHdr *hdr, const uint8_t *frame, size_t len, Segment *s)
{
    const uint8_t gso = hdr->gso_type & (uint8_t)~VNET_GSO_ECN;
    uint16_t type = load_be16(frame + ETH_HEADER - 2);
    bool found;

    s->net = ETH_HEADER;
    if (type == ETHER_VLAN && len >= ETH_HEADER + ETH_TAG) {
        s->net += ETH_TAG;
        type = load_be16(frame + s->net - 2);
    }
    s->proto = gso == VNET_GSO_UDP_L4 ? IPPROTO_UDP : IPPROTO_TCP;
    s->v6 = gso == VNET_GSO_TCPV6 || (gso == VNET_GSO_UDP_L4 && type == ETHER_IPV6);
    if (type != (s->v6 ? ETHER_IPV6 : ETHER_IPV4))
        return false;
    found = s->v6 ? find_ip6(frame, len, s) : find_ip4(frame, len, s);
    return found && s->end <= len && find_payload(frame, s);
}

static size_t checksum_at(const Segment *s)
{
    return s->proto == IPPROTO_UDP ? UDP_CHECKSUM : TCP_CHECKSUM;
}

static bool gso_known(const VnetHdr *hdr)
{
    switch (hdr->gso_type & ~VNET_GSO_ECN) {
    case VNET_GSO_TCPV4:
    case VNET_GSO_TCPV6:
        return hdr->gso_size >= GSO_MIN;
    case VNET_GSO_UDP_L4:
        return !(hdr->gso_type & VNET_GSO_ECN) && hdr->gso_size;
    default:
        return false;
    }
}

static bool pieces_valid(const VnetHdr *hdr, const Segment *s)
{
    const size_t whole = s->end - s->payload;

    if (s->proto == IPPROTO_UDP && whole > (size_t)hdr->gso_size * USO_MAX_PIECES)
        return false;
    return whole <= hdr->gso_size || s->payload + hdr->gso_size <= VNET_SCRATCH;
}

bool vnet_hdr_valid(const VnetHdr *hdr, const uint8_t *frame, size_t len)
{
    Segment s;

    if (len < ETH_HEADER)
        return false;
    if ((hdr->flags & VNET_NEEDS_CSUM) &&
        (hdr->csum_start < ETH_HEADER ||
         (size_t)hdr->csum_start + hdr->csum_offset + sizeof(uint16_t) > len))
        return false;
    if (hdr->gso_type == VNET_GSO_NONE)
        return true;
    if (!gso_known(hdr) || !(hdr->flags & VNET_NEEDS_CSUM) ||
        !find_segment(hdr, frame, len, &s))
        return false;
    return hdr->csum_start == s.l4 && hdr->csum_offset == checksum_at(&s) &&
           pieces_valid(hdr, &s);
}

/* The sum of the pseudo header: addresses, protocol, length of what is summed up. */
static uint32_t pseudo_sum(const Segment *s, const uint8_t *frame, size_t l4_len)
{
    uint8_t rest[8] = {0, 0, 0, 0, 0, 0, 0, s->proto};
    uint32_t sum = s->v6 ? checksum_add(0, frame + s->net + 8, 32)
                         : checksum_add(0, frame + s->net + 12, 8);

    store_be32(rest, (uint32_t)l4_len);
    return checksum_add(sum, rest, sizeof(rest));
}

static void fix_tcp(uint8_t *tcp, size_t at, unsigned number, bool last)
{
    store_be32(tcp + TCP_SEQ, load_be32(tcp + TCP_SEQ) + (uint32_t)at);
    if (number)
        tcp[TCP_FLAGS] &= (uint8_t)~TCP_CWR;
    if (!last)
        tcp[TCP_FLAGS] &= (uint8_t) ~(PACKET_TCP_FIN | PACKET_TCP_PSH);
}

/* The headers of the piece of `len` bytes at `at` of the payload; they are in `frame`
 * already, as the big segment has them. */
static void fix_headers(const Segment *s, uint8_t *frame, size_t at, size_t len,
                        unsigned number, bool last)
{
    uint8_t *ip = frame + s->net, *l4 = frame + s->l4;
    const size_t l4_len = s->payload - s->l4 + len;

    if (s->v6) {
        store_be16(ip + 4, s->l4 - s->net - IP6_HEADER + l4_len);
    } else {
        store_be16(ip + 2, s->l4 - s->net + l4_len);
        store_be16(ip + 4, load_be16(ip + 4) + number);
        memset(ip + 10, 0, 2);
        put_checksum(ip + 10, checksum_add(0, ip, s->l4 - s->net));
    }
    if (s->proto == IPPROTO_UDP)
        store_be16(l4 + UDP_LENGTH, l4_len);
    else
        fix_tcp(l4, at, number, last);
    memset(l4 + checksum_at(s), 0, 2);
    put_checksum(l4 + checksum_at(s),
                 checksum_add(pseudo_sum(s, frame, l4_len), l4, l4_len));
}

static void cut(const VnetHdr *hdr, const Segment *s, const uint8_t *frame,
                uint8_t *scratch,
                bool (*each)(void *opaque, const uint8_t *frame, size_t len),
                void *opaque)
{
    const size_t whole = s->end - s->payload;
    size_t at = 0;
    unsigned number = 0;

    do {
        const size_t len = whole - at < hdr->gso_size ? whole - at : hdr->gso_size;

        memcpy(scratch, frame, s->payload);
        memcpy(scratch + s->payload, frame + s->payload + at, len);
        fix_headers(s, scratch, at, len, number++, at + len == whole);
        if (!each(opaque, scratch, s->payload + len))
            return;
        at += len;
    } while (at < whole);
}

void vnet_segment(const VnetHdr *hdr, const uint8_t *frame, size_t len, uint8_t *scratch,
                  bool (*each)(void *opaque, const uint8_t *frame, size_t len),
                  void *opaque)
{
    VnetHdr copy = *hdr;
    Segment s;

    if (hdr->gso_type != VNET_GSO_NONE && find_segment(hdr, frame, len, &s) &&
        s.end - s.payload > hdr->gso_size) {
        cut(hdr, &s, frame, scratch, each, opaque);
    } else if (!(hdr->flags & VNET_NEEDS_CSUM)) {
        each(opaque, frame, len);
    } else if (len <= VNET_SCRATCH) {
        memcpy(scratch, frame, len);
        vnet_finish_checksum(&copy, scratch, len);
        each(opaque, scratch, len);
    }
}
