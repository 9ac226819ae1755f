/* A network's gateway (gateway.h): which parts it has, and who of them a frame is for. */
#include "src/switch/gateway_private.h"

#include "src/switch/outside.h"
#include "util/log.h"

/* Those before have what those after them use. */
static const GatewayPart *const parts[] = {
    &gateway_neighbours, &gateway_leases, &gateway_arp,     &gateway_dhcp,
    &gateway_dhcp6,      &gateway_ra,     &gateway_outside,
};

const SwitchCommand gateway_commands[] = {
    {"query-leases", gateway_query_leases}, {"lease-release", gateway_lease_release},
    {"query-names", outside_query_names},   {"query-forwards", outside_query_forwards},
    {"query-routes", outside_query_routes}, {NULL, NULL},
};

/* A locally administered address that is the network's for as long as it has its name:
 * VMs keep it in their tables while the switch is started again.  FNV-1a, 64 bits. */
static Mac mac_by_name(const char *name)
{
    uint64_t hash = 0xcbf29ce484222325;
    Mac mac = {{2}};

    for (; *name; name++)
        hash = (hash ^ (uint8_t)*name) * 0x100000001b3;
    for (unsigned i = 1; i < sizeof(mac.b); i++)
        mac.b[i] = (uint8_t)(hash >> (i * 8));
    return mac;
}

Gateway *gateway_new(Switch *sw, GError **error)
{
    Gateway *gw = g_new0(Gateway, 1);

    gw->sw = sw;
    gw->mac = mac_by_name(sw->name);
    gw->link_local = ip_link_local_of(&gw->mac);
    gw->subnets = sw->subnets;
    for (unsigned i = 0; i < G_N_ELEMENTS(parts); i++)
        if (parts[i]->start && !parts[i]->start(gw, error)) {
            gateway_free(gw);
            return NULL;
        }
    return gw;
}

void gateway_free(Gateway *gw)
{
    if (!gw)
        return;
    for (unsigned i = G_N_ELEMENTS(parts); i-- > 0;)
        if (parts[i]->stop)
            parts[i]->stop(gw);
    g_free(gw);
}

bool gateway_reconfigure(Gateway *gw, GError **error)
{
    gw->subnets = gw->sw->subnets;
    for (unsigned i = 0; i < G_N_ELEMENTS(parts); i++)
        if (parts[i]->reconfigure && !parts[i]->reconfigure(gw, error))
            return false;
    return true;
}

bool gateway_input(Gateway *gw, Port *from, Frame *f)
{
    bool ours = mac_equal(&f->p.dst, &gw->mac);

    if (f->vlan || (!ours && !mac_is_group(&f->p.dst)))
        return false;
    for (unsigned i = 0; i < G_N_ELEMENTS(parts); i++)
        if (parts[i]->input && parts[i]->input(gw, from, f))
            return true;
    return ours;
}

void gateway_port_added(Gateway *gw, Port *port)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(parts); i++)
        if (parts[i]->port_added)
            parts[i]->port_added(gw, port);
}

void gateway_port_removed(Gateway *gw, Port *port)
{
    for (unsigned i = G_N_ELEMENTS(parts); i-- > 0;)
        if (parts[i]->port_removed)
            parts[i]->port_removed(gw, port);
}

const Mac *gateway_mac(const Gateway *gw)
{
    return &gw->mac;
}

bool gateway_is(const Gateway *gw, const Ip *ip)
{
    return (gw->subnets.v4.bits && ip_equal(ip, &gw->subnets.gateway4)) ||
           (gw->subnets.v6.bits && ip_equal(ip, &gw->subnets.gateway6)) ||
           ip_equal(ip, &gw->link_local);
}

void build_domain_labels(Builder *b, const Gateway *gw)
{
    g_autofree char *domain = network_domain(gw->sw->name, gw->sw->config);

    for (const char *label = domain; *label;) {
        size_t len = strcspn(label, ".");

        build_u8(b, (uint8_t)len);
        build_bytes(b, label, len);
        label += len + (label[len] == '.');
    }
    build_u8(b, 0);
}

/* ---- frames of its own ---------------------------------------------------------------
 */

static void send_built(Gateway *gw, Port *to, Builder *b)
{
    static LogLimit limit;
    uint8_t room[FRAME_ROOM + BUILD_MAX];
    Frame f = {.data = room + FRAME_ROOM, .len = b->len};

    if (!build_end(b)) {
        if (log_limit(&limit))
            log_warn("network '%s': an answer was too long, and was not sent",
                     gw->sw->name);
        return;
    }
    memcpy(f.data, b->data, b->len);
    if (!packet_parse(f.data, f.len, &f.p))
        return;
    if (to)
        switch_send_to(to, &f);
    else
        switch_send(gw->sw, &f);
}

void gateway_send(Gateway *gw, Builder *b)
{
    send_built(gw, NULL, b);
}

void gateway_send_to(Gateway *gw, Port *to, Builder *b)
{
    send_built(gw, to, b);
}

/* ---- what rules may ask --------------------------------------------------------------
 */

static bool is_vm(void *opaque, const char *vm, const Ip *ip)
{
    const char *name = gateway_vm_of(opaque, ip);

    return name && g_str_equal(name, vm);
}

static bool is_group(void *opaque, const char *group, const Ip *ip)
{
    Gateway *gw = opaque;
    Port *port = guard_owner(gw->sw, ip);

    return port && port->groups &&
           g_strv_contains((const char *const *)port->groups, group);
}

static bool is_network(void *opaque, const char *network, const Ip *ip)
{
    Gateway *gw = opaque;
    const NetworkSubnets *s = &gw->subnets;
    const IpPrefix *subnet = ip_is_v4(ip) ? &s->v4 : &s->v6;

    if (g_str_equal(network, gw->sw->name))
        return subnet->bits && ip_within(ip, subnet);
    return outside_is_network(gw, network, ip);
}

static bool is_name(void *opaque, const char *pattern, const Ip *ip)
{
    return outside_is_name(opaque, pattern, ip);
}

static bool is_dns(void *opaque, const Ip *ip)
{
    const Gateway *gw = opaque;

    return gw->sw->config->dns && gateway_is(gw, ip);
}

static bool is_dhcp(void *opaque, const Ip *ip)
{
    return gateway_is(opaque, ip);
}

void gateway_world(Gateway *gw, FwWorld *ret)
{
    *ret = (FwWorld){
        .is_vm = is_vm,
        .is_group = is_group,
        .is_network = is_network,
        .is_name = is_name,
        .is_dns = is_dns,
        .is_dhcp = is_dhcp,
        .opaque = gw,
    };
}
