/* Whose lease is whose: what DHCP, the config and ports do with them (leases.h). */
#include "src/switch/leases_private.h"

#include "util/log.h"

#define DECLINED_NS (600 * 1000000000ll)

enum {
    SEEN_S = 60 * 60 /* noted in the file no more often */,
    DECLINES_S = 60 * 60,
    STATIONS_MAX = 64
};

/* ---- whose lease it is ----------------------------------------------------------------
 */

/* Such ports lead to several stations, or may say that they do. */
static bool has_stations(const Port *port)
{
    return port->trusted || port->sw->config->spoof;
}

/* The port's own lease, or the station's at it: then *ret_vm is NULL. */
static Lease *find(Leases *l, const Port *port, const Mac **mac, const char **ret_vm)
{
    Lease *lease;

    if (!has_stations(port) && !mac_is_zero(&port->mac))
        *mac = &port->mac;
    *ret_vm = mac_equal(*mac, &port->mac) || mac_is_zero(&port->mac) ? port->vm : NULL;
    lease = leases_by_name(l, *ret_vm, port->nic, *mac);
    if (!*ret_vm || !lease || !lease->port || lease->port == port)
        return lease;
    *ret_vm = NULL; /* a second VM of that name is a station */
    return leases_by_name(l, NULL, NULL, *mac);
}

/* Those that a port brought in beyond reason make room for its next. */
static void limit_stations(Leases *l, const Port *port)
{
    Lease *oldest = NULL;
    unsigned n = 0;

    for (GList *i = l->all.head; i; i = i->next) {
        Lease *lease = i->data;

        if (lease->port != port || lease->vm)
            continue;
        n++;
        if (!oldest)
            oldest = lease;
    }
    if (n >= STATIONS_MAX)
        leases_remove(l, oldest);
}

static Lease *find_or_add(Leases *l, Port *port, const Mac *mac)
{
    const char *vm;
    Lease *lease = find(l, port, &mac, &vm);

    if (!lease) {
        if (!vm)
            limit_stations(l, port);
        lease = leases_add(l, vm, vm ? port->nic : NULL, mac);
    }
    if (lease) {
        lease->port = port;
        lease->mac = *mac;
    }
    return lease;
}

bool leases_has_another(Gateway *gw, const Port *port, const Ip *ip)
{
    Leases *l = gw->leases;
    const char *vm = leases_static_vm(l, ip);
    Lease *lease = leases_by_ip(l, ip);

    if (vm)
        return !port->vm || !g_str_equal(vm, port->vm);
    if (!lease || lease->port == port)
        return false;
    return !lease->vm || !port->vm || !g_str_equal(lease->vm, port->vm) ||
           g_strcmp0(lease->nic, port->nic);
}

/* ---- what DHCP does -------------------------------------------------------------------
 */

bool leases_offer(Gateway *gw, Port *port, const Mac *mac, bool v6, const Ip *wanted,
                  Ip *ret)
{
    Leases *l = gw->leases;
    Lease *lease = find_or_add(l, port, mac);

    if (!lease || !leases_choose(l, lease, port, v6, wanted))
        return false;
    *ret = lease->ip[v6];
    return true;
}

bool leases_bind(Gateway *gw, Port *port, const Mac *mac, const Ip *ip)
{
    Leases *l = gw->leases;
    Lease *lease = find_or_add(l, port, mac);
    bool v6 = ip_family(ip), news;

    if (!lease || !ip_equal(&lease->ip[v6], ip) ||
        (port->guard && !guard_add_lease(port->guard, ip, NULL)))
        return false;
    news = !lease->bound[v6];
    lease->bound[v6] = true;
    lease->until[v6] = leases_now() + LEASE_S;
    if (news) {
        leases_bound_changed(l);
        leases_write_soon(l);
    }
    if (!news && leases_now() - lease->seen > SEEN_S)
        leases_write_later(l);
    leases_seen(l, lease);
    return true;
}

static Lease *find_that_has(Gateway *gw, Port *port, const Mac *mac, const Ip *ip)
{
    const char *vm;
    Lease *lease = find(gw->leases, port, &mac, &vm);

    return lease && ip_is_set(ip) && ip_equal(&lease->ip[ip_family(ip)], ip) ? lease
                                                                             : NULL;
}

void leases_release(Gateway *gw, Port *port, const Mac *mac, const Ip *ip)
{
    Lease *lease = find_that_has(gw, port, mac, ip);

    if (!lease)
        return;
    lease->until[ip_family(ip)] = 0;
    if (port->guard)
        guard_remove_lease(port->guard, ip);
}

void leases_decline(Gateway *gw, Port *port, const Mac *mac, const Ip *ip)
{
    static LogLimit limit;
    Leases *l = gw->leases;
    Lease *lease = find_that_has(gw, port, mac, ip);
    char text[IP_TEXT];

    if (lease && leases_now() - lease->declined_at > DECLINES_S)
        lease->declines = 0;
    if (!lease || lease->declines >= DECLINES_MAX || leases_static_vm(l, ip))
        return;
    if (log_limit(&limit))
        log_warn("network '%s': '%s' says that another station uses %s, and gets another "
                 "address",
                 gw->sw->name, lease->key, ip_text(ip, text));
    lease->declines++;
    lease->declined_at = leases_now();
    l->declined[l->next_declined++ % DECLINED_MAX] = (Declined){*ip, gw->sw->now_ns +
                                                                         DECLINED_NS};
    leases_set_ip(l, lease, ip_family(ip), NULL);
    leases_write_later(l);
}

/* ---- the network's config -------------------------------------------------------------
 */

static void static_clear(void *one)
{
    g_free(((Static *)one)->vm);
}

const char *leases_static_vm(Leases *l, const Ip *ip)
{
    for (unsigned i = 0; i < l->statics->len; i++) {
        const Static *s = &g_array_index(l->statics, Static, i);

        if (ip_equal(&s->ip, ip))
            return s->vm;
    }
    return NULL;
}

static void read_statics(Leases *l)
{
    g_array_set_size(l->statics, 0);
    for (char **text = l->gw->sw->config->leases; text && *text; text++) {
        Static one;

        if (network_lease_parse(*text, &one.vm, &one.ip, NULL)) /* else: was refused */
            g_array_append_val(l->statics, one);
    }
}

static bool start(Gateway *gw, GError **error)
{
    Leases *l = leases_new(gw);

    l->statics = g_array_new(FALSE, FALSE, sizeof(Static));
    g_array_set_clear_func(l->statics, static_clear);
    gw->leases = l;
    read_statics(l);
    leases_load(l);
    return true;
}

static void stop(Gateway *gw)
{
    Leases *l = g_steal_pointer(&gw->leases);

    if (!l)
        return;
    leases_write_now(l);
    ioloop_timer_cancel(&l->timer);
    g_array_unref(l->statics);
    leases_free(l);
}

static bool reconfigure(Gateway *gw, GError **error)
{
    Leases *l = gw->leases;

    read_statics(l);
    for (GList *i = l->all.head; i; i = i->next)
        for (unsigned v6 = 0; v6 < FAMILIES; v6++) {
            Lease *lease = i->data;

            if (!ip_is_set(&lease->ip[v6]) || leases_in_pool(gw, &lease->ip[v6]))
                continue;
            leases_set_ip(l, lease, v6, NULL);
            leases_write_later(l);
        }
    return true;
}

/* ---- ports ----------------------------------------------------------------------------
 */

/* After a restart of the switch it goes on with the address that it has. */
static void restore(Leases *l, Lease *lease, Port *port, bool v6)
{
    const Ip *ip = &lease->ip[v6];

    if (lease->bound[v6] && port->guard && l->gw->sw->config->dhcp &&
        !guard_add_lease(port->guard, ip, NULL))
        leases_set_ip(l, lease, v6, NULL);
}

/* What it was given by hand is known when it does not run, too. */
static void note_by_hand(Leases *l, Port *port, bool v6)
{
    Lease *lease;
    Ip ip;

    if (!guard_by_hand(port->guard, v6, &ip) || !leases_in_pool(l->gw, &ip))
        return;
    lease = find_or_add(l, port, &port->mac);
    if (!lease)
        return;
    if (!ip_equal(&lease->ip[v6], &ip)) {
        leases_set_ip(l, lease, v6, &ip);
        leases_write_later(l);
    }
    lease->bound[v6] = true;
    leases_bound_changed(l);
}

static void port_added(Gateway *gw, Port *port)
{
    Leases *l = gw->leases;
    const Mac *mac = &port->mac;
    const char *vm;
    Lease *lease = mac_is_zero(mac) && !port->vm ? NULL : find(l, port, &mac, &vm);

    if (lease) {
        lease->port = port;
        lease->mac = *mac;
        leases_seen(l, lease);
    }
    for (unsigned v6 = 0; v6 < FAMILIES; v6++) {
        if (port->vm)
            note_by_hand(l, port, v6);
        if (lease)
            restore(l, lease, port, v6);
    }
}

static void port_removed(Gateway *gw, Port *port)
{
    Leases *l = gw->leases;

    for (GList *i = l->all.head, *next; i; i = next) {
        Lease *lease = i->data;

        next = i->next;
        if (lease->port != port)
            continue;
        lease->port = NULL;
        lease->until[0] = lease->until[1] = 0;
        leases_seen(l, lease);
        if (!lease->bound[0] && !lease->bound[1])
            leases_remove(l, lease);
        else
            leases_write_later(l);
    }
}

const GatewayPart gateway_leases = {
    .name = "leases",
    .start = start,
    .stop = stop,
    .reconfigure = reconfigure,
    .port_added = port_added,
    .port_removed = port_removed,
};

/* ---- for names and rules --------------------------------------------------------------
 */

const char *gateway_vm_of(Gateway *gw, const Ip *ip)
{
    Lease *lease = leases_by_ip(gw->leases, ip);
    bool bound = lease && lease->bound[ip_family(ip)];
    Port *port = bound && lease->port ? lease->port : guard_owner(gw->sw, ip);

    if (port)
        return port->vm;
    return bound ? lease->vm : NULL;
}

/* The first lease that has one; the VM's first vNIC was there first. */
static const Ip *leased(Gateway *gw, const char *vm, bool v6)
{
    const Ip *found = NULL;

    for (GList *i = gw->leases->all.head; i; i = i->next) {
        Lease *lease = i->data;

        if (!lease->bound[v6] || g_strcmp0(lease->vm, vm))
            continue;
        if (lease->port)
            return &lease->ip[v6];
        if (!found)
            found = &lease->ip[v6];
    }
    return found;
}

bool gateway_address_of(Gateway *gw, const char *vm, bool v6, Ip *ret)
{
    const Ip *ip = leased(gw, vm, v6);
    Port *port = port_find(gw->sw, vm, NULL);
    Ip all[64];
    unsigned n = port ? guard_list(port->guard, all, G_N_ELEMENTS(all)) : 0;

    if (ip) {
        *ret = *ip;
        return true;
    }
    for (unsigned i = 0; i < n; i++)
        if (ip_family(&all[i]) == v6 && !ip_is_link_local(&all[i])) {
            *ret = all[i];
            return true;
        }
    return false;
}
