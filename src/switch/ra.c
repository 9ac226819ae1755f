/* Router advertisements: RFC 4861, 6.2; DNS in them RFC 8106, routes RFC
 * 4191.  To who asks at once, to
 * all when the config changes and seldom otherwise: an idle network is woken twice an
 * hour.
 *
 * They say that hosts form their own addresses of the prefix, and that DHCPv6 has
 * addresses and DNS, too (M and O).  On an isolated network there is no way out, and the
 * gateway is no router (its lifetime is 0).  A network with dhcp=off sends none. */
#include <netinet/icmp6.h>

#include "src/switch/leases.h"
#include "src/switch/outside.h"

#define SECOND_NS 1000000000ll

enum {
    INTERVAL_MIN_S = 1200, /* RFC 4861, 6.2.1: MaxRtrAdvInterval may be 1800 */
    INTERVAL_MAX_S = 1800,
    ROUTER_S = 9000,
    OLD_PREFIX_S = 2 * 60 * 60, /* hosts keep one no shorter: RFC 4862, 5.5.3 */
    HOP_LIMIT = 64,
    ND_HOP_LIMIT = 255,
    RS_HEADER = 8,
    FLAG_MANAGED = 0x80,
    FLAG_OTHER = 0x40,
    OPT_SOURCE_LINK = 1,
    OPT_PREFIX = 3,
    OPT_MTU = 5,
    OPT_ROUTE = 24,
    OPT_RDNSS = 25,
    OPT_DNSSL = 31,
    PREFIX_ON_LINK = 0x80,
    PREFIX_AUTONOMOUS = 0x40,
    UNITS = 8, /* bytes, which options count in */
    MAX_ROUTES = 16,
};

static const Ip all_nodes = {{0xff, 2, [15] = 1}};
static const Mac all_nodes_mac = {{0x33, 0x33, 0, 0, 0, 1}};

struct Ra {
    Gateway *gw;
    IpPrefix prefix; /* that was advertised last */
    unsigned n_routes;
    IpPrefix route[MAX_ROUTES]; /* likewise */
    IoTimer timer;              /* armed while there are ports */
};

static bool serves(const Gateway *gw)
{
    return gw->subnets.v6.bits && gw->sw->config->dhcp;
}

/* ---- the message ----------------------------------------------------------------------
 */

static void option(Builder *b, uint8_t type, uint8_t units)
{
    build_u8(b, type);
    build_u8(b, units);
}

static void put_prefix(Builder *b, const IpPrefix *prefix, uint32_t valid_s,
                       uint32_t preferred_s)
{
    option(b, OPT_PREFIX, 4);
    build_u8(b, prefix->bits);
    build_u8(b, PREFIX_ON_LINK | PREFIX_AUTONOMOUS);
    build_u32(b, valid_s);
    build_u32(b, preferred_s);
    build_u32(b, 0);
    build_bytes(b, prefix->ip.b, sizeof(prefix->ip.b));
}

static bool is_among(const IpPrefix *p, const IpPrefix *all, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (all[i].bits == p->bits && ip_equal(&all[i].ip, &p->ip))
            return true;
    return false;
}

/* RFC 4191, 2.3, of medium preference; networks' prefixes have 64 bits (config.c). */
static void put_route(Builder *b, const IpPrefix *to, uint32_t lifetime_s)
{
    option(b, OPT_ROUTE, 2);
    build_u8(b, to->bits);
    build_u8(b, 0);
    build_u32(b, lifetime_s);
    build_bytes(b, to->ip.b, UNITS);
}

/* To other networks; those that were told of and are there no more are over. */
static void put_routes(Builder *b, const Ra *ra)
{
    IpPrefix to[MAX_ROUTES];
    unsigned n = serves(ra->gw) ? outside_routes(ra->gw, true, to, MAX_ROUTES) : 0;

    for (unsigned i = 0; i < n; i++)
        put_route(b, &to[i], ROUTER_S);
    for (unsigned i = 0; i < ra->n_routes; i++)
        if (!is_among(&ra->route[i], to, n))
            put_route(b, &ra->route[i], 0);
}

static void put_dns(Builder *b, const Gateway *gw)
{
    size_t at;

    option(b, OPT_RDNSS, 3);
    build_u16(b, 0);
    build_u32(b, LEASE_S);
    build_bytes(b, gw->subnets.gateway6.b, sizeof(gw->subnets.gateway6.b));
    at = b->len;
    option(b, OPT_DNSSL, 0);
    build_u16(b, 0);
    build_u32(b, LEASE_S);
    build_domain_labels(b, gw);
    build_room(b, (UNITS - (b->len - at) % UNITS) % UNITS);
    if (!b->full)
        b->data[at + 1] = (uint8_t)((b->len - at) / UNITS);
}

static void build_ra(const Ra *ra, Builder *b, const Mac *mac, const Ip *to)
{
    const Gateway *gw = ra->gw;
    const NetworkConfig *config = gw->sw->config;
    bool moved = ra->prefix.bits && !ip_equal(&ra->prefix.ip, &gw->subnets.v6.ip);

    build_ip(b, mac, &gw->mac, &gw->link_local, to, IPPROTO_ICMPV6, ND_HOP_LIMIT);
    build_u32(b, (uint32_t)ND_ROUTER_ADVERT << 24);
    build_u8(b, HOP_LIMIT);
    build_u8(b, serves(gw) ? FLAG_MANAGED | FLAG_OTHER : 0);
    build_u16(b, serves(gw) && config->mode != NETWORK_ISOLATED ? ROUTER_S : 0);
    build_u32(b, 0); /* reachable time, retransmissions: hosts' own */
    build_u32(b, 0);
    option(b, OPT_SOURCE_LINK, 1);
    build_bytes(b, gw->mac.b, sizeof(gw->mac.b));
    option(b, OPT_MTU, 1);
    build_u16(b, 0);
    build_u32(b, (uint32_t)config->mtu);
    if (serves(gw))
        put_prefix(b, &gw->subnets.v6, LEASE_S, LEASE_S);
    if (moved || (ra->prefix.bits && !serves(gw)))
        put_prefix(b, &ra->prefix, OLD_PREFIX_S, 0);
    put_routes(b, ra);
    if (serves(gw) && config->dns)
        put_dns(b, gw);
}

/* ---- to all, now and then -------------------------------------------------------------
 */

static void arm(Ra *ra);

static void to_all(Ra *ra)
{
    Builder b;

    build_ra(ra, &b, &all_nodes_mac, &all_nodes);
    gateway_send(ra->gw, &b);
    switch_flush(ra->gw->sw);
}

static void on_timer(void *opaque)
{
    Ra *ra = opaque;

    switch_turn(ra->gw->sw);
    to_all(ra);
    arm(ra);
}

static void arm(Ra *ra)
{
    int64_t s = g_random_int_range(INTERVAL_MIN_S, INTERVAL_MAX_S);

    ioloop_timer(ra->gw->sw->loop, &ra->timer, clock_ns() + s * SECOND_NS, on_timer, ra);
}

static bool start(Gateway *gw, GError **error)
{
    gw->ra = g_new0(Ra, 1);
    gw->ra->gw = gw;
    if (serves(gw))
        gw->ra->prefix = gw->subnets.v6;
    return true;
}

static void stop(Gateway *gw)
{
    if (gw->ra)
        ioloop_timer_cancel(&gw->ra->timer);
    g_clear_pointer(&gw->ra, g_free);
}

/* Hosts hear at once what is new, and that an old prefix is not to be used any more. */
static bool reconfigure(Gateway *gw, GError **error)
{
    Ra *ra = gw->ra;

    if (!serves(gw) && !ra->prefix.bits)
        return true;
    to_all(ra);
    ra->prefix = serves(gw) ? gw->subnets.v6 : (IpPrefix){.bits = 0};
    if (serves(gw))
        arm(ra);
    else
        ioloop_timer_cancel(&ra->timer);
    return true;
}

void ra_routes_changed(Gateway *gw)
{
    Ra *ra = gw->ra;
    IpPrefix to[MAX_ROUTES];
    unsigned n = serves(gw) ? outside_routes(gw, true, to, MAX_ROUTES) : 0;
    bool same = n == ra->n_routes;

    for (unsigned i = 0; i < n; i++)
        same &= is_among(&to[i], ra->route, ra->n_routes);
    if (same)
        return;
    if (serves(gw))
        to_all(ra);
    memcpy(ra->route, to, n * sizeof(to[0]));
    ra->n_routes = n;
}

static void port_added(Gateway *gw, Port *port)
{
    if (serves(gw) && !gw->ra->timer.loop)
        arm(gw->ra);
}

static void port_removed(Gateway *gw, Port *port)
{
    for (unsigned i = 0; i < gw->sw->n_ports; i++)
        if (gw->sw->port[i] && gw->sw->port[i] != port)
            return;
    ioloop_timer_cancel(&gw->ra->timer);
}

/* ---- to who asks ----------------------------------------------------------------------
 */

static bool is_solicitation(const Packet *p)
{
    return p->kind == PACKET_IPV6 && p->proto == IPPROTO_ICMPV6 && p->transport &&
           !p->fragment && p->icmp_type == ND_ROUTER_SOLICIT && !p->icmp_code &&
           p->ttl == ND_HOP_LIMIT && p->end - p->transport >= RS_HEADER;
}

/* At that port only; other routers (of trusted ports) hear the question, too. */
static bool input(Gateway *gw, Port *from, Frame *f)
{
    bool nobody = ip_is_unspecified(&f->p.from);
    Builder b;

    if (!is_solicitation(&f->p) || !serves(gw))
        return false;
    build_ra(gw->ra, &b, nobody ? &all_nodes_mac : &f->p.src,
             nobody ? &all_nodes : &f->p.from);
    gateway_send_to(gw, from, &b);
    return false;
}

const GatewayPart gateway_ra = {
    .name = "ra",
    .start = start,
    .stop = stop,
    .reconfigure = reconfigure,
    .input = input,
    .port_added = port_added,
    .port_removed = port_removed,
};
