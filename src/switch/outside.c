/* Where a packet goes that was sent to the gateway and is for none of its own protocols
 * (outside.h): to DNS, to another network, to the host's network, back to a host of this
 * one; or nowhere, which its sender is told by ICMP.  As routers do (RFC 1812, 5.3.1; RFC
 * 8200, 3) it takes one from the packet's hop limit.
 *
 *     isolated  nothing leaves: there is no code on its way that could send it
 *     routed    to the networks that config.routes names
 *     nat       to those, and the rest to libslirp */
#include "src/switch/outside.h"

#include "src/switch/dns.h"
#include "src/switch/emit.h"
#include "src/switch/forward.h"
#include "src/switch/gateway_private.h"
#include "src/switch/nat.h"
#include "src/switch/route.h"
#include "util/bits.h"

enum { V4_TTL = 8, V4_CHECKSUM = 10, V6_HOP_LIMIT = 7 };

struct Outside {
    Switch *sw;
    Gateway *gw;
    Names *names;
    Dns *dns;
    Routes *routes;
    Nat *nat; /* NULL: not in this mode */
    Forwards *forwards;
    IoPost follow;       /* addresses of VMs have changed */
    int64_t refusals_ns; /* of other networks: emit.h */
};

/* ---- ICMP errors ---------------------------------------------------------------------
 */

/* from NULL: it came over a route. */
static void tell(Outside *o, Port *from, const Frame *f, Refusal why)
{
    const NetworkSubnets *s = &o->sw->subnets;
    bool v4 = f->p.kind == PACKET_IPV4;
    Builder b;

    if (!(v4 ? s->v4.bits : s->v6.bits) ||
        !build_refusal(&b, f, v4 ? &s->gateway4 : &s->gateway6, why,
                       (unsigned)o->sw->config->mtu) ||
        !refusal_may(from ? &from->refusals_ns : &o->refusals_ns, o->sw->now_ns))
        return;
    if (from) {
        memcpy(b.data, f->p.src.b, sizeof(f->p.src.b));
        memcpy(b.data + sizeof(Mac), gateway_mac(o->gw)->b, sizeof(Mac));
        emit(o->sw, &b, f->vlan);
    } else {
        Frame error = {.data = b.data, .len = b.len};

        routes_send(o->routes, &error, &f->p.from);
    }
}

/* ---- routing -------------------------------------------------------------------------
 */

/* One hop; false: it was its last.  The checksum follows by the difference (RFC 1624). */
static bool hop(Frame *f)
{
    uint8_t *ip = f->data + f->p.net;
    uint32_t sum;

    if (f->p.ttl <= 1)
        return false;
    if (f->p.kind == PACKET_IPV6) {
        ip[V6_HOP_LIMIT]--;
    } else {
        ip[V4_TTL]--;
        sum = load_be16(ip + V4_CHECKSUM) + 0x100u;
        sum += sum >> 16;
        store_be16(ip + V4_CHECKSUM, (uint16_t)sum);
    }
    f->p.ttl--;
    return true;
}

static bool is_here(const Outside *o, const Ip *ip)
{
    const NetworkSubnets *s = &o->sw->subnets;
    const IpPrefix *subnet = ip_is_v4(ip) ? &s->v4 : &s->v6;

    return subnet->bits && ip_within(ip, subnet);
}

/* The biggest packet that it becomes, with its headers from IP on. */
static size_t packet_len(const Frame *f)
{
    if ((f->hdr.gso_type & ~VNET_GSO_ECN) == VNET_GSO_NONE)
        return f->p.end - f->p.net;
    return (f->p.payload ? f->p.payload - f->p.net : 0) + f->hdr.gso_size;
}

static void leave(Outside *o, Port *from, Frame *f)
{
    switch (routes_send(o->routes, f, &f->p.to)) {
    case ROUTE_SENT:
        return;
    case ROUTE_DOWN:
        tell(o, from, f, REFUSED_NO_ROUTE);
        return;
    case ROUTE_NONE:
        break;
    }
    if (!o->nat)
        tell(o, from, f, REFUSED_NO_ROUTE);
    else if (!nat_input(o->nat, f))
        tell(o, from, f, REFUSED_PROHIBITED);
}

/* To the gateway itself: replies to connections that the host has made, or what nobody is
 * there for. */
static void input_for_gateway(Outside *o, Port *from, Frame *f)
{
    bool ports = f->p.proto == IPPROTO_TCP || f->p.proto == IPPROTO_UDP;

    if (dns_input(o->dns, from, f) || !ports)
        return;
    if (!o->nat || !nat_input(o->nat, f))
        tell(o, from, f, REFUSED_PORT);
}

static bool input(Gateway *gw, Port *from, Frame *f)
{
    Outside *o = gw->outside;
    const Packet *p = &f->p;

    if (!mac_equal(&p->dst, &gw->mac) ||
        (p->kind != PACKET_IPV4 && p->kind != PACKET_IPV6))
        return false;
    if (gateway_is(gw, &p->to))
        input_for_gateway(o, from, f);
    else if (ip_is_multicast(&p->to) || ip_is_unspecified(&p->to) ||
             ip_is_link_local(&p->to) || ip_is_link_local(&p->from))
        ; /* not for routers: RFC 4291, 2.5.6; RFC 3927, 7 */
    else if (!hop(f))
        tell(o, from, f, REFUSED_TTL);
    else if (is_here(o, &p->to))
        gateway_to_host(gw, f);
    else
        leave(o, from, f);
    return true;
}

void outside_send_back(Gateway *gw, Frame *f)
{
    Outside *o = gw->outside;

    if (!packet_parse(f->data, f->len, &f->p))
        return;
    if (is_here(o, &f->p.to) && !gateway_is(gw, &f->p.to))
        gateway_to_host(gw, f);
    else if (routes_send(o->routes, f, &f->p.to) == ROUTE_NONE && o->nat)
        nat_input(o->nat, f);
}

/* In place, of any size: addresses turned round leave the IP checksum as it is, and the
 * type's change is added to ICMP's. */
static void answer_echo(Outside *o, Frame *f)
{
    bool v4 = f->p.kind == PACKET_IPV4;
    uint8_t *icmp = f->data + f->p.transport, *ip = f->data + f->p.net;
    size_t at = v4 ? 12 : 8, len = v4 ? 4 : 16;
    uint8_t from[16];
    uint32_t sum;

    if (!f->p.transport || f->p.icmp_type != (v4 ? 8 : 128))
        return;
    memcpy(from, ip + at, len);
    memcpy(ip + at, ip + at + len, len);
    memcpy(ip + at + len, from, len);
    icmp[0] = v4 ? 0 : 129;
    sum = load_be16(icmp + 2) + (v4 ? 0x800u : 0xfeffu);
    sum += sum >> 16;
    store_be16(icmp + 2, (uint16_t)sum);
    routes_send(o->routes, f, &f->p.from);
}

/* From another network. */
static void from_route(void *opaque, Frame *f)
{
    Outside *o = opaque;
    bool icmp = f->p.proto == IPPROTO_ICMP || f->p.proto == IPPROTO_ICMPV6;

    if (!is_here(o, &f->p.to)) /* routes lead to one network, and not through it */
        tell(o, NULL, f, REFUSED_NO_ROUTE);
    else if (!hop(f))
        tell(o, NULL, f, REFUSED_TTL);
    else if (gateway_is(o->gw, &f->p.to) && icmp)
        answer_echo(o, f);
    else if (gateway_is(o->gw, &f->p.to))
        tell(o, NULL, f, REFUSED_PORT);
    else if (packet_len(f) > o->sw->config->mtu)
        tell(o, NULL, f, REFUSED_TOO_BIG);
    else
        gateway_to_host(o->gw, f);
}

/* ---- life ----------------------------------------------------------------------------
 */

static const RouteOps route_ops = {from_route};

static void follow(void *opaque)
{
    Outside *o = opaque;

    forwards_follow(o->forwards);
}

static bool configure_nat(Outside *o, GError **error)
{
    bool wanted = o->sw->config->mode == NETWORK_NAT;
    Nat *old = o->nat;
    bool made = wanted && (!old || !nat_fits(old, o->sw));

    if (made) {
        o->nat = nat_new(o->sw, o->gw, error);
        if (!o->nat) {
            o->nat = old;
            return false;
        }
    } else if (!wanted) {
        o->nat = NULL;
    }
    if (!forwards_set(o->forwards, o->nat ? nat_netdev(o->nat) : NULL, error)) {
        if (made)
            nat_free(o->nat);
        o->nat = old;
        return false;
    }
    if (old != o->nat)
        nat_free(old);
    return true;
}

static bool configure(Outside *o, GError **error)
{
    return configure_nat(o, error) && dns_reconfigure(o->dns, error) &&
           routes_set(o->routes, error);
}

static void stop(Gateway *gw)
{
    Outside *o = g_steal_pointer(&gw->outside);

    if (!o)
        return;
    ioloop_unpost(o->sw->loop, &o->follow);
    routes_free(o->routes);
    forwards_free(o->forwards);
    nat_free(o->nat);
    dns_free(o->dns);
    names_free(o->names);
    g_free(o);
}

static bool start(Gateway *gw, GError **error)
{
    Outside *o = g_new0(Outside, 1);

    gw->outside = o;
    o->sw = gw->sw;
    o->gw = gw;
    o->follow = (IoPost){.fn = follow, .opaque = o};
    o->names = names_new();
    o->forwards = forwards_new(o->sw, gw);
    o->routes = routes_new(o->sw, &route_ops, o);
    o->dns = dns_new(o->sw, gw, o->names, error);
    return o->dns && configure(o, error);
}

static bool reconfigure(Gateway *gw, GError **error)
{
    if (!configure(gw->outside, error))
        return false;
    ra_routes_changed(gw);
    return true;
}

static void port_removed(Gateway *gw, Port *port)
{
    dns_port_removed(gw->outside->dns, port);
}

void outside_addresses_changed(Gateway *gw)
{
    if (gw->outside)
        ioloop_post(gw->sw->loop, &gw->outside->follow);
}

const GatewayPart gateway_outside = {
    .name = "outside",
    .start = start,
    .stop = stop,
    .reconfigure = reconfigure,
    .input = input,
    .port_removed = port_removed,
};

/* ---- what others ask -----------------------------------------------------------------
 */

bool outside_is_network(Gateway *gw, const char *network, const Ip *ip)
{
    return gw->outside && routes_is_network(gw->outside->routes, network, ip);
}

bool outside_is_name(Gateway *gw, const char *pattern, const Ip *ip)
{
    return gw->outside && names_have(gw->outside->names, pattern, ip, gw->sw->now_ns);
}

unsigned outside_routes(const Gateway *gw, bool v6, IpPrefix *ret, unsigned max)
{
    return gw->outside ? routes_list(gw->outside->routes, v6, ret, max) : 0;
}

json_t *outside_query_names(Switch *sw, json_t *arguments, GError **error)
{
    return names_json(sw->gateway->outside->names, clock_ns());
}

json_t *outside_query_forwards(Switch *sw, json_t *arguments, GError **error)
{
    return forwards_json(sw->gateway->outside->forwards);
}

json_t *outside_query_routes(Switch *sw, json_t *arguments, GError **error)
{
    return routes_json(sw->gateway->outside->routes);
}
