/* A guest of user-mode networking, made of frames: builds what it sends, picks what it
 * waits for.  Used by test_slirp.c alone. */
#pragma once

#include <arpa/inet.h>
#include <glib.h>
#include <string.h>

#include "backend/netdev.h"

enum { ETH = 14, IP = 20, UDP = 8, TCP = 20, IP6 = 40 };
enum { ETH_ARP = 0x0806, ETH_IP4 = 0x0800, ETH_IP6 = 0x86dd };
enum { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_PSH = 8, TCP_ACK = 16 };
enum { HOST = 0x0a000202, NAMES = 0x0a000203, GUEST = 0x0a00020f };

static const uint8_t guest_mac[6] = {0x52, 0x54, 0, 0x12, 0x34, 0x56};
static const uint8_t host_mac[6] = {0x52, 0x55, 10, 0, 2, 2};
static const uint8_t everyone[6] = {255, 255, 255, 255, 255, 255};

/* A frame without the virtio header. */
typedef struct Pkt {
    size_t len;
    uint8_t b[2048];
} Pkt;

static inline void put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static inline void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v & 0xffff);
}

static inline unsigned get16(const uint8_t *p)
{
    return (unsigned)p[0] << 8 | p[1];
}

static inline uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static inline uint32_t sum16(const uint8_t *p, size_t len, uint32_t sum)
{
    for (size_t i = 0; i + 1 < len; i += 2)
        sum += get16(p + i);
    if (len & 1)
        sum += (uint32_t)p[len - 1] << 8;
    return sum;
}

static inline unsigned fold(uint32_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return ~sum & 0xffff;
}

static inline void eth(Pkt *p, const uint8_t dst[6], unsigned type)
{
    memset(p, 0, sizeof(*p));
    memcpy(p->b, dst, 6);
    memcpy(p->b + 6, guest_mac, 6);
    put16(p->b + 12, type);
    p->len = ETH;
}

static inline Pkt arp(unsigned op, uint32_t from, uint32_t to)
{
    Pkt p;
    uint8_t *a = p.b + ETH;

    eth(&p, everyone, ETH_ARP);
    put16(a, 1);
    put16(a + 2, ETH_IP4);
    a[4] = 6;
    a[5] = 4;
    put16(a + 6, op);
    memcpy(a + 8, guest_mac, 6);
    put32(a + 14, from);
    put32(a + 24, to);
    p.len = ETH + 28;
    return p;
}

/* The payload, of `len` bytes, is in place behind the header. */
static inline void ip4(Pkt *p, unsigned proto, uint32_t from, uint32_t to, size_t len)
{
    uint8_t *h = p->b + ETH;

    h[0] = 0x45;
    put16(h + 2, (unsigned)(IP + len));
    h[8] = 64;
    h[9] = (uint8_t)proto;
    put32(h + 12, from);
    put32(h + 16, to);
    put16(h + 10, fold(sum16(h, IP, 0)));
    p->len = ETH + IP + len;
}

static inline unsigned l4_sum(const Pkt *p, size_t len)
{
    const uint8_t *h = p->b + ETH;

    return fold(sum16(h + IP, len, sum16(h + 12, 8, h[9] + (uint32_t)len)));
}

static inline Pkt udp(uint32_t from, unsigned sport, uint32_t to, unsigned dport,
                      const void *data, size_t len)
{
    Pkt p;
    uint8_t *h = p.b + ETH + IP;

    eth(&p, host_mac, ETH_IP4);
    put16(h, sport);
    put16(h + 2, dport);
    put16(h + 4, (unsigned)(UDP + len));
    memcpy(h + UDP, data, len);
    ip4(&p, IPPROTO_UDP, from, to, UDP + len);
    put16(h + 6, l4_sum(&p, UDP + len));
    return p;
}

static inline Pkt tcp(unsigned sport, uint32_t to, unsigned dport, unsigned flags,
                      uint32_t seq, uint32_t ack, const char *data)
{
    Pkt p;
    uint8_t *h = p.b + ETH + IP;
    size_t len = strlen(data);

    eth(&p, host_mac, ETH_IP4);
    put16(h, sport);
    put16(h + 2, dport);
    put32(h + 4, seq);
    put32(h + 8, ack);
    h[12] = TCP / 4 << 4;
    h[13] = (uint8_t)flags;
    put16(h + 14, 65535);
    memcpy(h + TCP, data, len);
    ip4(&p, IPPROTO_TCP, GUEST, to, TCP + len);
    put16(h + 16, l4_sum(&p, TCP + len));
    return p;
}

static inline Pkt ping(uint32_t to, unsigned seq)
{
    Pkt p;
    uint8_t *h = p.b + ETH + IP;

    eth(&p, host_mac, ETH_IP4);
    h[0] = 8;
    put16(h + 6, seq);
    memcpy(h + 8, "hutch", 5);
    put16(h + 2, fold(sum16(h, 13, 0)));
    ip4(&p, IPPROTO_ICMP, GUEST, to, 13);
    return p;
}

/* DHCPDISCOVER (1) or DHCPREQUEST (3), RFC 2131. */
static inline Pkt dhcp(unsigned type)
{
    uint8_t m[300] = {1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef};
    uint8_t *o = m + 236;
    Pkt p;

    memcpy(m + 28, guest_mac, 6);
    put32(o, 0x63825363);
    o[4] = 53;
    o[5] = 1;
    o[6] = (uint8_t)type;
    o[7] = 50; /* requested address */
    o[8] = 4;
    put32(o + 9, GUEST);
    o[13] = 255;
    p = udp(0, 68, 0xffffffff, 67, m, sizeof(m));
    memcpy(p.b, everyone, 6);
    return p;
}

/* The value of a DHCP option, or NULL. */
static inline const uint8_t *dhcp_option(const Pkt *p, unsigned code, unsigned *ret_len)
{
    const uint8_t *o = p->b + ETH + IP + UDP + 240, *end = p->b + p->len;

    while (o + 2 <= end && o[0] != 255) {
        if (o[0] == code) {
            *ret_len = o[1];
            return o + 2;
        }
        o += o[0] ? 2 + o[1] : 1;
    }
    return NULL;
}

/* ICMPv6 of the given type and body from fe80::1234 to `to`. */
static inline Pkt icmp6(const char *to, unsigned type, const uint8_t *body, size_t len)
{
    Pkt p;
    uint8_t *h = p.b + ETH, *m = h + IP6;
    uint8_t multicast[6] = {0x33, 0x33};

    eth(&p, host_mac, ETH_IP6);
    h[0] = 0x60;
    put16(h + 4, (unsigned)(4 + len));
    h[6] = IPPROTO_ICMPV6;
    h[7] = 255;
    inet_pton(AF_INET6, "fe80::1234", h + 8);
    inet_pton(AF_INET6, to, h + 24);
    if (h[24] == 0xff) {
        memcpy(multicast + 2, h + 36, 4);
        memcpy(p.b, multicast, 6);
    }
    m[0] = (uint8_t)type;
    memcpy(m + 4, body, len);
    put16(m + 2,
          fold(sum16(h + 8, 32, sum16(m, 4 + len, IPPROTO_ICMPV6 + 4 + (uint32_t)len))));
    p.len = ETH + IP6 + 4 + len;
    return p;
}

/* ---- what arrived -------------------------------------------------------------------
 */

static inline bool is_ip4(const Pkt *p, unsigned proto)
{
    return get16(p->b + 12) == ETH_IP4 && p->b[ETH + 9] == proto;
}

static inline bool is_arp(const Pkt *p, unsigned op)
{
    return get16(p->b + 12) == ETH_ARP && get16(p->b + ETH + 6) == op;
}

static inline const uint8_t *l4(const Pkt *p)
{
    return p->b + ETH + IP;
}

static inline size_t tcp_data(const Pkt *p, const uint8_t **ret)
{
    size_t header = (size_t)(l4(p)[12] >> 4) * 4;

    *ret = l4(p) + header;
    return get16(p->b + ETH + 2) - IP - header;
}
