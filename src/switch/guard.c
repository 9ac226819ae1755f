/* Which addresses a port has (guard.h), and how it comes by new ones.
 *
 * An address is one port's.  Those by hand and by lease are kept until they are taken
 * away; those that were learned from what the port sends are first come, first served: of
 * a bounded number, and somebody else's once they were not used for LEARNED_IDLE_NS.
 * There are few addresses a port and what is looked up is nearly always its first, so
 * that these are plain arrays; all ports are asked only when an address is new. */
#include "src/switch/gateway_private.h"
#include "src/switch/leases.h"
#include "src/switch/outside.h"

#define SECOND_NS       1000000000ll
#define LEARNED_IDLE_NS (600 * SECOND_NS) /* after that, another port may learn it */
#define LEARNED_MOVE_NS                                                                  \
    (60 * SECOND_NS) /* after that, the same port may learn another                      \
                      */

enum { GUARD_MAX_GIVEN = 32, GUARD_MAX_LEARNED = 16 };

typedef enum { BY_HAND, BY_LEASE, LEARNED } Origin;

typedef struct Address {
    Ip ip;
    Origin origin;
    int64_t used_ns; /* LEARNED */
} Address;

struct Guard {
    Port *port;
    unsigned n, n_learned;
    Address address[GUARD_MAX_GIVEN + GUARD_MAX_LEARNED];
};

Guard *guard_new(Port *port)
{
    Guard *guard = g_new0(Guard, 1);

    guard->port = port;
    return guard;
}

void guard_free(Guard *guard)
{
    g_free(guard);
}

static Address *find(const Guard *guard, const Ip *ip)
{
    for (unsigned i = 0; guard && i < guard->n; i++)
        if (ip_equal(&guard->address[i].ip, ip))
            return (Address *)&guard->address[i];
    return NULL;
}

static void take_away(Guard *guard, Address *a)
{
    guard->n_learned -= a->origin == LEARNED;
    *a = guard->address[--guard->n];
}

void guard_remove_lease(Guard *guard, const Ip *ip)
{
    Address *a = find(guard, ip);

    if (a && a->origin != BY_HAND)
        take_away(guard, a);
}

unsigned guard_list(const Guard *guard, Ip *ret, unsigned max)
{
    unsigned n = 0;

    for (; guard && n < guard->n && n < max; n++)
        ret[n] = guard->address[n].ip;
    return n;
}

bool guard_by_hand(const Guard *guard, bool v6, Ip *ret)
{
    for (unsigned i = 0; guard && i < guard->n; i++)
        if (guard->address[i].origin == BY_HAND &&
            ip_is_v4(&guard->address[i].ip) != v6) {
            *ret = guard->address[i].ip;
            return true;
        }
    return false;
}

/* ---- all ports of the network -------------------------------------------------------
 */

/* Another's, by hand, by lease, or learned and in use. */
static Port *owner_but(Switch *sw, const Ip *ip, const Port *but)
{
    for (unsigned i = 0; i < sw->n_ports; i++) {
        Port *port = sw->port[i];
        Address *a = port && port != but ? find(port->guard, ip) : NULL;

        if (a && (a->origin != LEARNED || sw->now_ns - a->used_ns < LEARNED_IDLE_NS))
            return port;
    }
    return NULL;
}

Port *guard_owner(Switch *sw, const Ip *ip)
{
    return owner_but(sw, ip, NULL);
}

static bool is_gateways(const Switch *sw, const Ip *ip)
{
    return sw->gateway && gateway_is(sw->gateway, ip);
}

/* The station whose MAC an address was formed of (RFC 4291, appendix A): a VM that has
 * not yet said anything is to find its address free. */
static bool formed_of_anothers_mac(Port *port, const Ip *ip)
{
    const uint8_t *b = ip->b;
    Mac mac = {{b[8] ^ 2, b[9], b[10], b[13], b[14], b[15]}};
    Port *other;

    if (b[11] != 0xff || b[12] != 0xfe || mac_equal(&mac, &port->mac))
        return false;
    other = port_by_mac(port->sw, &mac);
    return other && other != port;
}

static void changed(const Switch *sw)
{
    if (sw->gateway)
        outside_addresses_changed(sw->gateway);
}

/* ---- addresses that are given -------------------------------------------------------
 */

static void take_from_learners(Switch *sw, const Ip *ip)
{
    for (unsigned i = 0; i < sw->n_ports; i++) {
        Address *a = sw->port[i] ? find(sw->port[i]->guard, ip) : NULL;

        if (a && a->origin == LEARNED)
            take_away(sw->port[i]->guard, a);
    }
}

static bool given_to_another(Guard *guard, const Ip *ip, GError **error)
{
    Switch *sw = guard->port->sw;
    char text[IP_TEXT];

    for (unsigned i = 0; i < sw->n_ports; i++) {
        Port *port = sw->port[i];
        Address *a = port && port != guard->port ? find(port->guard, ip) : NULL;

        if (!a || a->origin == LEARNED)
            continue;
        fail(error, VM_ERROR_BUSY,
             "%s belongs to %s '%s' on network '%s' %s; choose another",
             ip_text(ip, text), port->vm ? "VM" : "port",
             port->vm ? port->vm : port->ops->kind, sw->name,
             a->origin == BY_HAND ? "already" : "by a lease");
        return true;
    }
    return false;
}

static bool give(Guard *guard, const Ip *ip, Origin origin, GError **error)
{
    Switch *sw = guard->port->sw;
    char text[IP_TEXT];
    Address *a;

    if (ip_is_unspecified(ip) || ip_is_multicast(ip))
        return fail(error, VM_ERROR_INVALID, "%s is no address that a VM can have",
                    ip_text(ip, text));
    if (is_gateways(sw, ip))
        return fail(error, VM_ERROR_BUSY,
                    "%s is the gateway of network '%s'; choose another",
                    ip_text(ip, text), sw->name);
    if (given_to_another(guard, ip, error))
        return false;
    take_from_learners(sw, ip);
    a = find(guard, ip);
    if (a) {
        a->origin = MIN(a->origin, origin);
        return true;
    }
    if (guard->n - guard->n_learned == GUARD_MAX_GIVEN)
        return fail(error, VM_ERROR_INVALID,
                    "a vNIC can be given %d addresses, and no more", GUARD_MAX_GIVEN);
    guard->address[guard->n++] = (Address){.ip = *ip, .origin = origin};
    changed(sw);
    return true;
}

bool guard_add(Guard *guard, const Ip *ip, GError **error)
{
    return give(guard, ip, BY_HAND, error);
}

bool guard_add_lease(Guard *guard, const Ip *ip, GError **error)
{
    return give(guard, ip, BY_LEASE, error);
}

/* ---- addresses that are learned -----------------------------------------------------
 */

/* Whether addresses of this kind are to be had by using them. */
static bool may_be_learned(const Switch *sw, const Ip *ip)
{
    bool v4 = ip_is_v4(ip);
    const IpPrefix *subnet = v4 ? &sw->subnets.v4 : &sw->subnets.v6;
    Ip last;

    if (ip_is_unspecified(ip) || ip_is_multicast(ip) ||
        (v4 && sw->config->dhcp && subnet->bits))
        return false;
    if (ip_is_link_local(ip) || !subnet->bits)
        return true;
    last = ip_prefix_last(subnet);
    /* IPv6's first one is every router's (RFC 4291, 2.6.1). */
    return ip_within(ip, subnet) && !ip_equal(ip, &subnet->ip) &&
           !(v4 && ip_equal(ip, &last));
}

/* The learned one that was not used for longest; NULL: there is room for one more. */
static Address *to_give_up(Guard *guard)
{
    Address *oldest = NULL;

    if (guard->n_learned < GUARD_MAX_LEARNED)
        return NULL;
    for (unsigned i = 0; i < guard->n; i++) {
        Address *a = &guard->address[i];

        if (a->origin == LEARNED && (!oldest || a->used_ns < oldest->used_ns))
            oldest = a;
    }
    return oldest;
}

/* What is dear is looked at last: a guest may ask for this with each frame. */
static bool learn(Port *port, const Ip *ip)
{
    Switch *sw = port->sw;
    Guard *guard = port->guard;
    Address *old = to_give_up(guard);

    if ((old && sw->now_ns - old->used_ns < LEARNED_MOVE_NS) || !may_be_learned(sw, ip) ||
        is_gateways(sw, ip) || (!ip_is_v4(ip) && formed_of_anothers_mac(port, ip)) ||
        (sw->gateway && leases_has_another(sw->gateway, port, ip)) ||
        owner_but(sw, ip, port))
        return false;
    take_from_learners(sw, ip); /* who has not used it for long */
    if (old)
        take_away(guard, old);
    guard->n_learned++;
    guard->address[guard->n++] = (Address){
        .ip = *ip, .origin = LEARNED, .used_ns = sw->now_ns};
    changed(sw);
    return true;
}

bool guard_claim(Port *port, const Ip *ip)
{
    Address *a = find(port->guard, ip);

    if (!a)
        return learn(port, ip);
    a->used_ns = port->sw->now_ns;
    return true;
}
