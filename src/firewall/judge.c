/* Whether a rule is about a packet. */
#include "src/firewall/rules.h"

static bool is_held(const Subject *s, const char *name)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(s->held); i++) {
        const GArray *whos = s->held[i] ? s->held[i]->who[END_TO] : NULL;

        for (unsigned j = 0; whos && j < whos->len; j++) {
            const Who *who = &g_array_index(whos, Who, j);

            if (who->kind == WHO_NAME && g_str_equal(who->name, name))
                return true;
        }
    }
    return false;
}

static bool who_is(const Who *who, const Ip *ip, const Subject *s, const FwWorld *world)
{
    switch (who->kind) {
    case WHO_ADDRESS:
        return ip_within(ip, &who->prefix);
    case WHO_VM:
        return world->is_vm && world->is_vm(world->opaque, who->name, ip);
    case WHO_GROUP:
        return world->is_group && world->is_group(world->opaque, who->name, ip);
    case WHO_NET:
        return world->is_network && world->is_network(world->opaque, who->name, ip);
    case WHO_NAME:
        return is_held(s, who->name) ||
               (world->is_name && world->is_name(world->opaque, who->name, ip));
    }
    return false;
}

static bool is_among(const GArray *whos, const Ip *ip, const Subject *s,
                     const FwWorld *world)
{
    for (unsigned i = 0; i < whos->len; i++) {
        if (who_is(&g_array_index(whos, Who, i), ip, s, world))
            return true;
    }
    return false;
}

static bool has_port(const GArray *ports, uint16_t port)
{
    for (unsigned i = 0; i < ports->len; i++) {
        const Ports *range = &g_array_index(ports, Ports, i);

        if (port >= range->first && port <= range->last)
            return true;
    }
    return false;
}

static bool has_type(const GArray *types, const Packet *p)
{
    for (unsigned i = 0; i < types->len; i++) {
        const IcmpType *type = &g_array_index(types, IcmpType, i);

        if (p->icmp_type == (p->kind == PACKET_IPV6 ? type->v6 : type->v4))
            return true;
    }
    return false;
}

static bool is_icmp(const Packet *p)
{
    return p->proto == (p->kind == PACKET_IPV6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

static bool proto_is(const Rule *rule, const Packet *p)
{
    if (rule->proto == PROTO_ANY)
        return true;
    if (rule->proto == PROTO_ICMP_BOTH)
        return is_icmp(p);
    return p->proto == rule->proto;
}

bool rule_matches(const Rule *rule, const Subject *s, const FwWorld *world)
{
    const Packet *p = s->p;
    bool ip = p->kind == PACKET_IPV4 || p->kind == PACKET_IPV6;

    if (rule->direction != s->direction || !proto_is(rule, p) ||
        (rule->proto != PROTO_ANY && !ip))
        return false;
    if ((rule->ports[END_FROM] || rule->ports[END_TO]) &&
        (!ip || (p->proto != IPPROTO_TCP && p->proto != IPPROTO_UDP) || !p->transport))
        return false;
    if ((rule->ports[END_FROM] && !has_port(rule->ports[END_FROM], p->from_port)) ||
        (rule->ports[END_TO] && !has_port(rule->ports[END_TO], p->to_port)))
        return false;
    if (rule->types && (!is_icmp(p) || !p->transport || !has_type(rule->types, p)))
        return false;
    if ((rule->who[END_FROM] || rule->who[END_TO]) && !ip)
        return false;
    if ((rule->who[END_FROM] && !is_among(rule->who[END_FROM], &p->from, s, world)) ||
        (rule->who[END_TO] && !is_among(rule->who[END_TO], &p->to, s, world)))
        return false;
    return !rule->filter || bpf_filter_match(rule->filter, s->frame, s->len);
}

Rule *set_judge(const Firewall *fw, const Subject *s, const FwWorld *world,
                unsigned *ret_rule)
{
    *ret_rule = index_find(fw->index, s, world);
    return *ret_rule == UINT_MAX ? fw->defaults[s->direction]
                                 : fw->rules->pdata[*ret_rule];
}
