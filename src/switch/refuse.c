/* Answers to what rules reject (refuse.h). */
#include "src/switch/refuse.h"

#include "src/switch/emit.h"
#include "src/switch/fdb.h"
#include "src/switch/outside.h"

/* ---- what is never answered ----------------------------------------------------------
 */

static bool is_of_many(const Switch *sw, const Ip *ip)
{
    const IpPrefix *subnet = &sw->subnets.v4;
    Ip last;

    if (!ip_is_v4(ip))
        return ip_is_multicast(ip) || ip_is_unspecified(ip);
    if (ip_is_multicast(ip) || ip_is_unspecified(ip) || ip_to_v4(ip) == UINT32_MAX)
        return true;
    last = ip_prefix_last(subnet);
    return subnet->bits && (ip_equal(ip, &last) || ip_equal(ip, &subnet->ip));
}

/* Flooded frames are at ports that they were not sent to. */
static bool is_between_two(const Port *port, Direction direction, const Packet *p)
{
    return (p->kind == PACKET_IPV4 || p->kind == PACKET_IPV6) && !mac_is_group(&p->dst) &&
           (direction == FROM_VM || mac_equal(&p->dst, &port->mac)) &&
           !is_of_many(port->sw, &p->from) && !is_of_many(port->sw, &p->to);
}

/* ---- the answer ----------------------------------------------------------------------
 */

static bool build_error(Builder *b, const Frame *f)
{
    const Packet *p = &f->p;
    Refusal why = p->proto == IPPROTO_UDP ? REFUSED_PORT : REFUSED_PROHIBITED;

    if (!build_refusal(b, f, &p->to, why, 0))
        return false;
    memcpy(b->data, p->src.b, sizeof(Mac));
    memcpy(b->data + sizeof(Mac), p->dst.b, sizeof(Mac));
    return true;
}

/* ---- and who gets it -----------------------------------------------------------------
 */

void refuse(Port *port, Direction direction, const Frame *f)
{
    Switch *sw = port->sw;
    bool routed = direction == TO_VM && mac_equal(&f->p.src, gateway_mac(sw->gateway));
    Port *asker = direction == FROM_VM ? port
                  : routed             ? NULL
                                       : fdb_find(sw, &f->p.src, f->vlan);
    uint8_t room[FRAME_ROOM + BUILD_MAX];
    Frame answer = {.data = room + FRAME_ROOM, .vlan = f->vlan};
    Builder b;

    if ((!asker && !routed) || !is_between_two(port, direction, &f->p) ||
        !(f->p.proto == IPPROTO_TCP ? build_reset(&b, f) : build_error(&b, f)) ||
        !refusal_may(asker ? &asker->refusals_ns : &port->refusals_ns, sw->now_ns))
        return;
    memcpy(answer.data, b.data, b.len);
    answer.len = b.len;
    if (routed)
        outside_send_back(sw->gateway, &answer);
    else if (direction == FROM_VM)
        switch_answer(asker, &answer);
    else
        switch_send_to(asker, &answer);
}
