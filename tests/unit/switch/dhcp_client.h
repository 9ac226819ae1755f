/* A DHCPv4 client's side, for tests: messages put together option by option. */
#pragma once

#include "tests/unit/switch/gateway_net.h"

enum { DISCOVER = 1, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM };

typedef struct DhcpOptions {
    const char *requested, *server, *ciaddr; /* NULL: left out */
    const char *wanted;                      /* bytes of the list of parameters */
    const char *client_id;
    uint16_t max_size, flags;
    const Mac *chaddr; /* NULL: the port's */
    bool renew;        /* to the server itself, from ciaddr */
} DhcpOptions;

static inline void dhcp_put_ip(Builder *b, uint8_t code, const char *text)
{
    Ip ip;

    if (!text)
        return;
    ip = net_ip(text);
    build_u8(b, code);
    build_u8(b, 4);
    build_u32(b, ip_to_v4(&ip));
}

static inline void dhcp_put_bytes(Builder *b, uint8_t code, const char *bytes)
{
    if (!bytes)
        return;
    build_u8(b, code);
    build_u8(b, (uint8_t)strlen(bytes));
    build_bytes(b, bytes, strlen(bytes));
}

static inline void dhcp_build(Builder *b, const Port *port, uint8_t type,
                              const DhcpOptions *o)
{
    Ip from = net_ip(o->ciaddr ? o->ciaddr : "0.0.0.0");
    Ip to = o->renew ? net.sw.subnets.gateway4 : net_ip("255.255.255.255");
    const Mac *chaddr = o->chaddr ? o->chaddr : &port->mac;

    build_ip(b, o->renew ? gateway_mac(net.sw.gateway) : &net_broadcast, &port->mac,
             &from, &to, IPPROTO_UDP, 0);
    build_udp(b, 68, 67);
    build_u32(b, 0x01010600);
    build_u32(b, 0xfeedbeef); /* xid */
    build_u16(b, 0);
    build_u16(b, o->flags);
    build_u32(b, o->ciaddr ? ip_to_v4(&from) : 0);
    build_room(b, 12);
    build_bytes(b, chaddr->b, 6);
    build_room(b, 10 + 64 + 128);
    build_u32(b, 0x63825363);
    build_u8(b, 53);
    build_u8(b, 1);
    build_u8(b, type);
    dhcp_put_ip(b, 50, o->requested);
    dhcp_put_ip(b, 54, o->server);
    dhcp_put_bytes(b, 55, o->wanted);
    dhcp_put_bytes(b, 61, o->client_id);
    if (o->max_size) {
        build_u16(b, 57 << 8 | 2);
        build_u16(b, o->max_size);
    }
    build_u8(b, 255);
}

/* The option's value in an answer, and its length; NULL: it is not there. */
static inline const uint8_t *dhcp_option(const NetSent *s, uint8_t code, size_t *ret_len)
{
    const uint8_t *at = s->data + s->p.payload + 240, *end = s->data + s->p.end;

    while (at + 2 <= end && *at != 255) {
        if (*at == 0) {
            at++;
            continue;
        }
        if (*at == code) {
            *ret_len = at[1];
            return at + 2;
        }
        at += at[1] + 2;
    }
    return NULL;
}

static inline uint8_t dhcp_type(const NetSent *s)
{
    size_t len = 0;
    const uint8_t *type = dhcp_option(s, 53, &len);

    return type && len == 1 ? *type : 0;
}

/* Sends it and returns the type of the answer; 0: there was none.  *ret: what it was
 * given. */
static inline uint8_t dhcp_ask(Port *port, uint8_t type, const DhcpOptions *o, Ip *ret)
{
    Builder b;

    net_clear();
    dhcp_build(&b, port, type, o);
    if (!net_input(port, &b) || !net.n_sent)
        return 0;
    g_assert_cmpuint(net.n_sent, ==, 1);
    g_assert_true(net.sent[0].to == port);
    g_assert_cmpuint(net.sent[0].p.to_port, ==, 68);
    *ret = ip_from_v4_bytes(net.sent[0].data + net.sent[0].p.payload + 16);
    return dhcp_type(&net.sent[0]);
}

/* All four messages; NULL: it got none.  Static text. */
static inline const char *dhcp_lease(Port *port)
{
    static char text[IP_TEXT];
    char server[IP_TEXT];
    Ip ip, again;

    ip_text(&net.sw.subnets.gateway4, server);
    if (dhcp_ask(port, DISCOVER, &(DhcpOptions){0}, &ip) != OFFER)
        return NULL;
    ip_text(&ip, text);
    if (dhcp_ask(port, REQUEST, &(DhcpOptions){.requested = text, .server = server},
                 &again) != ACK)
        return NULL;
    g_assert_true(ip_equal(&ip, &again));
    return text;
}
