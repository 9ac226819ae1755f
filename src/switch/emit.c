/* Frames of the gateway's own (emit.h). */
#include "src/switch/emit.h"

enum {
    ICMP_UNREACHABLE = 3,
    ICMP_TIME_EXCEEDED = 11,
    ICMP6_UNREACHABLE = 1,
    ICMP6_TOO_BIG = 2,
    ICMP6_TIME_EXCEEDED = 3,
    ICMP6_INFORMATIONAL = 128, /* and above: no errors */
    MAX_QUOTE4 = 548,          /* RFC 1812, 4.3.2.3: 576 bytes in all */
    MAX_QUOTE6 = 1280 - 40 - 8,
};

#define NS_PER_S 1000000000ll

/* Type and code of each, by family. */
static const struct {
    uint8_t type4, code4, type6, code6;
} refusals[] = {
    [REFUSED_NO_ROUTE] = {ICMP_UNREACHABLE, 0, ICMP6_UNREACHABLE, 0},
    [REFUSED_PROHIBITED] = {ICMP_UNREACHABLE, 13, ICMP6_UNREACHABLE, 1},
    [REFUSED_PORT] = {ICMP_UNREACHABLE, 3, ICMP6_UNREACHABLE, 4},
    [REFUSED_TOO_BIG] = {ICMP_UNREACHABLE, 4, ICMP6_TOO_BIG, 0},
    [REFUSED_TTL] = {ICMP_TIME_EXCEEDED, 0, ICMP6_TIME_EXCEEDED, 0},
};

void emit(Switch *sw, Builder *b, uint16_t vlan)
{
    uint8_t room[FRAME_ROOM + BUILD_MAX];
    Frame f = {.data = room + FRAME_ROOM, .len = b->len, .vlan = vlan};

    if (!build_end(b))
        return;
    memcpy(f.data, b->data, b->len);
    switch_send(sw, &f);
}

static bool is_icmp_error(const Packet *p)
{
    switch (p->proto) {
    case IPPROTO_ICMP:
        return p->icmp_type == ICMP_UNREACHABLE || p->icmp_type == ICMP_TIME_EXCEEDED ||
               p->icmp_type == 4 || p->icmp_type == 5 || p->icmp_type == 12;
    case IPPROTO_ICMPV6:
        return p->icmp_type < ICMP6_INFORMATIONAL || p->icmp_type == 137; /* redirect */
    default:
        return false;
    }
}

bool refusal_may(int64_t *bucket_ns, int64_t now_ns)
{
    if (*bucket_ns > now_ns + NS_PER_S)
        return false;
    *bucket_ns = MAX(*bucket_ns, now_ns) + NS_PER_S / REFUSALS_PER_S;
    return true;
}

bool build_refusal(Builder *b, const Frame *f, const Ip *from, Refusal why, unsigned mtu)
{
    static const Mac nobody;
    const Packet *p = &f->p;
    bool v4 = p->kind == PACKET_IPV4;
    size_t quote = MIN(p->end - p->net, v4 ? MAX_QUOTE4 : MAX_QUOTE6);

    if (!p->first || is_icmp_error(p) || mac_is_group(&p->dst) ||
        ip_is_multicast(&p->to) || ip_is_multicast(&p->from) ||
        ip_is_unspecified(&p->from))
        return false;
    *b = (Builder){0};
    build_ip(b, &nobody, &nobody, from, &p->from, v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6, 0);
    build_u8(b, v4 ? refusals[why].type4 : refusals[why].type6);
    build_u8(b, v4 ? refusals[why].code4 : refusals[why].code6);
    build_u16(b, 0);
    build_u32(b, why == REFUSED_TOO_BIG ? mtu : 0);
    build_bytes(b, f->data + p->net, quote);
    return build_end(b);
}

bool build_reset(Builder *b, const Frame *f)
{
    const Packet *p = &f->p;
    bool acks = p->tcp_flags & PACKET_TCP_ACK;
    uint32_t len;

    if (!p->transport || p->fragment || p->tcp_flags & PACKET_TCP_RST ||
        !frame_tcp_sum_ok(f))
        return false;
    len = p->end - p->payload + !!(p->tcp_flags & PACKET_TCP_SYN) +
          !!(p->tcp_flags & PACKET_TCP_FIN);
    build_ip(b, &p->src, &p->dst, &p->to, &p->from, IPPROTO_TCP, 0);
    build_tcp(b, p->to_port, p->from_port, acks ? p->tcp_ack : 0,
              acks ? 0 : p->tcp_seq + len,
              acks ? PACKET_TCP_RST : PACKET_TCP_RST | PACKET_TCP_ACK, 0, 0);
    return build_end(b);
}
