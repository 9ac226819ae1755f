/* Which address a lease has (leases.h).  It follows from the name, so that it would most
 * often be the same even if leases.json were lost: a hash says where in the subnet to
 * begin looking for one that is free. */
#include "src/switch/leases_private.h"

#include "util/log.h"

enum {
    V4_FIRST = 2, /* after the network and its gateway */
    V6_FIRST = 0x10000,
    V6_POOL = 0x7fff0000,
};

/* The addresses that are given: pool_size() of them, from pool_first() on. */
static Ip pool_first(const Gateway *gw, bool v6)
{
    return v6 ? ip_plus(&gw->subnets.v6.ip, V6_FIRST)
              : ip_plus(&gw->subnets.v4.ip, V4_FIRST);
}

static uint32_t pool_size(const Gateway *gw, bool v6)
{
    unsigned bits = v6 ? gw->subnets.v6.bits : gw->subnets.v4.bits;

    if (!bits)
        return 0;
    return v6 ? V6_POOL : (uint32_t)(1ull << (128 - bits)) - V4_FIRST - 1;
}

bool leases_in_pool(const Gateway *gw, const Ip *ip)
{
    const IpPrefix *p = ip_family(ip) ? &gw->subnets.v6 : &gw->subnets.v4;
    Ip last;

    if (!p->bits || !ip_within(ip, p) || ip_equal(ip, &p->ip) || gateway_is(gw, ip))
        return false;
    last = ip_prefix_last(p);
    return ip_family(ip) || !ip_equal(ip, &last);
}

static bool is_declined(const Leases *l, const Ip *ip)
{
    for (unsigned i = 0; i < DECLINED_MAX; i++)
        if (ip_equal(&l->declined[i].ip, ip) &&
            l->declined[i].until_ns > l->gw->sw->now_ns)
            return true;
    return false;
}

/* Nobody but this port may have it: neither by config nor by use. */
static bool may_have(Leases *l, const Port *port, const Ip *ip)
{
    const char *vm = leases_static_vm(l, ip);
    Port *owner = guard_owner(l->gw->sw, ip);

    if (vm && g_strcmp0(vm, port->vm))
        return false;
    return !owner || owner == port;
}

static bool is_free(Leases *l, const Port *port, const Ip *ip)
{
    return !leases_by_ip(l, ip) && may_have(l, port, ip) && leases_in_pool(l->gw, ip);
}

/* Given by hand to this port, or by config to its VM's first vNIC: no lease stands in the
 * way, unless who has it runs. */
static bool reserved(Leases *l, Port *port, bool v6, Ip *ret)
{
    if (guard_by_hand(port->guard, v6, ret) && leases_in_pool(l->gw, ret))
        return true;
    if (!port->vm || port_find(l->gw->sw, port->vm, NULL) != port)
        return false;
    for (unsigned i = 0; i < l->statics->len; i++) {
        const Static *s = &g_array_index(l->statics, Static, i);
        Lease *lease = leases_by_ip(l, &s->ip);

        if (ip_family(&s->ip) != v6 || !g_str_equal(s->vm, port->vm))
            continue;
        *ret = s->ip;
        return may_have(l, port, &s->ip) &&
               (!lease || !lease->port || lease->port == port);
    }
    return false;
}

/* FNV-1a. */
static uint32_t hash(const char *text)
{
    uint32_t h = 0x811c9dc5;

    for (; *text; text++)
        h = (h ^ (uint8_t)*text) * 0x01000193;
    return h ^ h >> 15;
}

/* The first that is free from where the name says; those that somebody declined last. */
static bool find_free(Leases *l, const Lease *lease, const Port *port, bool v6, Ip *ret)
{
    Ip first = pool_first(l->gw, v6);
    uint32_t size = pool_size(l->gw, v6), at = size ? hash(lease->key) % size : 0;
    /* More than could be taken. */
    uint32_t tries = MIN(size, LEASES_MAX + 2 * SWITCH_MAX_PORTS + DECLINED_MAX);

    for (unsigned pass = 0; pass < 2; pass++)
        for (uint32_t i = 0; i < tries; i++) {
            *ret = ip_plus(&first, (uint32_t)(((uint64_t)at + i) % size));
            if (is_free(l, port, ret) && (pass || !is_declined(l, ret)))
                return true;
        }
    return false;
}

/* That of who was not seen for longest, a station before a VM. */
static bool take_over(Leases *l, const Lease *lease, const Port *port, bool v6, Ip *ret)
{
    for (unsigned vms = 0; vms < 2; vms++)
        for (GList *i = l->all.head; i; i = i->next) {
            Lease *other = i->data;

            if (other->port || other == lease || !ip_is_set(&other->ip[v6]) ||
                (other->vm && !vms) || !may_have(l, port, &other->ip[v6]))
                continue;
            *ret = other->ip[v6];
            return true;
        }
    return false;
}

static void complain(Leases *l, const Lease *lease, bool v6)
{
    static LogLimit limit;
    const Gateway *gw = l->gw;
    char subnet[IP_TEXT + 4];

    if (log_limit(&limit))
        log_warn(
            "network '%s': all addresses of %s are in use, and '%s' gets none; give the "
            "network a larger subnet",
            gw->sw->name, ip_prefix_text(v6 ? &gw->subnets.v6 : &gw->subnets.v4, subnet),
            lease->key);
}

bool leases_choose(Leases *l, Lease *lease, Port *port, bool v6, const Ip *wanted)
{
    Ip *has = &lease->ip[v6], ip;
    bool keeps;

    if (!pool_size(l->gw, v6))
        return false;
    if (reserved(l, port, v6, &ip)) {
        leases_set_ip(l, lease, v6, &ip);
        return true;
    }
    keeps = ip_is_set(has) && leases_in_pool(l->gw, has) && may_have(l, port, has);
    if (keeps && lease->bound[v6])
        return true;
    if (wanted && ip_family(wanted) == v6 && is_free(l, port, wanted))
        ip = *wanted;
    else if (keeps)
        return true;
    else if (!find_free(l, lease, port, v6, &ip) && !take_over(l, lease, port, v6, &ip)) {
        complain(l, lease, v6);
        return false;
    }
    leases_set_ip(l, lease, v6, &ip);
    return true;
}
