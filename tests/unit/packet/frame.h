/* Frames for tests, put together piece by piece:
 *
 *     frame_ip(&f, "10.0.0.1", "10.0.0.2", IPPROTO_TCP);
 *     frame_tcp(&f, 1024, 80, PACKET_TCP_SYN);
 *     frame_parse(&f);
 *
 * Lengths are filled in as pieces are added; checksums are not. */
#pragma once

#include <glib.h>

#include "packet/packet.h"

typedef struct TestFrame {
    uint8_t b[4096];
    size_t len;
    bool v6;
    size_t ip, udp; /* where the headers are; 0: none */
    Packet p;
} TestFrame;

static inline void put16(uint8_t *at, unsigned v)
{
    at[0] = (uint8_t)(v >> 8);
    at[1] = (uint8_t)v;
}

static inline void put32(uint8_t *at, uint32_t v)
{
    put16(at, v >> 16);
    put16(at + 2, v & 0xffff);
}

static inline uint8_t *frame_room(TestFrame *f, size_t len)
{
    uint8_t *at = f->b + f->len;

    g_assert_cmpuint(f->len + len, <=, sizeof(f->b));
    memset(at, 0, len);
    f->len += len;
    if (f->ip && f->v6)
        put16(f->b + f->ip + 4, (unsigned)(f->len - f->ip - 40));
    else if (f->ip)
        put16(f->b + f->ip + 2, (unsigned)(f->len - f->ip));
    if (f->udp)
        put16(f->b + f->udp + 4, (unsigned)(f->len - f->udp));
    return at;
}

static inline void frame_eth(TestFrame *f, unsigned ether_type)
{
    static const uint8_t macs[12] = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1};

    f->len = f->ip = f->udp = 0;
    memcpy(frame_room(f, ETH_HEADER), macs, 12);
    put16(f->b + 12, ether_type);
}

static inline Ip frame_addr(const char *text)
{
    Ip ip;

    g_assert_true(ip_parse(text, &ip, NULL));
    return ip;
}

static inline void frame_ip_of(TestFrame *f, const Ip *from, const Ip *to, unsigned proto)
{
    f->v6 = !ip_is_v4(from);
    frame_eth(f, f->v6 ? ETHER_IPV6 : ETHER_IPV4);
    f->ip = f->len;
    uint8_t *ip = frame_room(f, f->v6 ? 40 : 20);
    ip[0] = f->v6 ? 0x60 : 0x45;
    ip[f->v6 ? 6 : 9] = (uint8_t)proto;
    ip[f->v6 ? 7 : 8] = 64;
    memcpy(ip + (f->v6 ? 8 : 12), from->b + (f->v6 ? 0 : 12), f->v6 ? 16 : 4);
    memcpy(ip + (f->v6 ? 24 : 16), to->b + (f->v6 ? 0 : 12), f->v6 ? 16 : 4);
}

static inline void frame_ip(TestFrame *f, const char *from, const char *to,
                            unsigned proto)
{
    Ip a = frame_addr(from), b = frame_addr(to);

    frame_ip_of(f, &a, &b, proto);
}

/* Of IPv4, or a fragment header of IPv6 (before which `proto` was FRAGMENT, 44). */
static inline void frame_fragment(TestFrame *f, unsigned id, unsigned offset, bool more,
                                  unsigned next)
{
    if (!f->v6) {
        put16(f->b + f->ip + 4, id);
        put16(f->b + f->ip + 6, offset / 8 | (more ? 0x2000 : 0));
        return;
    }
    uint8_t *h = frame_room(f, 8);
    h[0] = (uint8_t)next;
    put16(h + 2, offset | more);
    put32(h + 4, id);
}

static inline void frame_tcp(TestFrame *f, unsigned from, unsigned to, unsigned flags)
{
    uint8_t *t = frame_room(f, 20);

    put16(t, from);
    put16(t + 2, to);
    put32(t + 4, 1000);
    put32(t + 8, 2000);
    t[12] = 5 << 4;
    t[13] = (uint8_t)flags;
}

static inline void frame_udp(TestFrame *f, unsigned from, unsigned to)
{
    size_t at = f->len;
    uint8_t *t = frame_room(f, 8);

    put16(t, from);
    put16(t + 2, to);
    put16(t + 4, 8);
    f->udp = at;
}

static inline void frame_icmp(TestFrame *f, unsigned type, unsigned code, unsigned id)
{
    uint8_t *t = frame_room(f, 8);

    t[0] = (uint8_t)type;
    t[1] = (uint8_t)code;
    put16(t + 4, id);
}

/* What an ICMP error carries: the beginning of another frame's packet. */
static inline void frame_quote(TestFrame *f, const TestFrame *other, size_t len)
{
    len = MIN(len, other->len - other->ip);
    memcpy(frame_room(f, len), other->b + other->ip, len);
}

static inline const Packet *frame_parse(TestFrame *f)
{
    g_assert_true(packet_parse(f->b, f->len, &f->p));
    return &f->p;
}
