/* Ports: what is the same for all kinds of them; contract in switch.h. */
#include "src/switch/fdb.h"
#include "src/switch/gateway.h"
#include "src/switch/guard.h"
#include "src/switch/hold.h"
#include "src/switch/impair.h"
#include "src/switch/kept.h"
#include "src/switch/rules.h"
#include "src/switch/shape.h"
#include "src/switch/vlan.h"

#include "backend/netdev.h"

bool port_is_name(const char *text)
{
    size_t len = strlen(text);

    for (const char *p = text; *p; p++)
        if (!g_ascii_isgraph(*p) || *p == '/')
            return false;
    return len > 0 && len <= PORT_MAX_NAME;
}

Port *port_new(Switch *sw, const PortOps *ops, size_t size, GError **error)
{
    Port *port;
    unsigned id = 0;

    while (id < SWITCH_MAX_PORTS && sw->port[id])
        id++;
    if (id == SWITCH_MAX_PORTS) {
        fail(error, VM_ERROR_BUSY,
             "the network %s has %d ports, which is all that there can be", sw->name,
             SWITCH_MAX_PORTS);
        return NULL;
    }
    port = g_malloc0(size);
    port->ops = ops;
    port->sw = sw;
    port->id = id;
    port->link = true;
    port->gone = true; /* until it begins */
    port->guard = guard_new(port);
    sw->port[id] = port;
    sw->n_ports = MAX(sw->n_ports, id + 1);
    return port;
}

/* Its address belongs to it in its own VLAN; elsewhere it is learned as any. */
static void pin(Port *port)
{
    if (!mac_is_zero(&port->mac) && port->instance)
        fdb_pin(port->sw, port, &port->mac, port->vlan);
}

bool port_begin(Port *port, GError **error)
{
    /* What we went to ourselves is no VM, and rules are about VMs. */
    if (!port->gate && !port->service && !rules_port_begin(port, NULL, error))
        return false;
    port->gone = false;
    port->begun = true;
    pin(port);
    gateway_port_added(port->sw->gateway, port);
    kept_port_added(port);
    rules_world_changed(port->sw);
    if (port->sw->users_changed)
        port->sw->users_changed(port->sw);
    return true;
}

/* Those who had something to do with it. */
static void leave(Port *port)
{
    gateway_port_removed(port->sw->gateway, port);
    rules_world_changed(port->sw);
    if (!port->sw->ending)
        kept_port_removed(port);
}

void port_free(Port *port)
{
    Switch *sw = port->sw;

    port->gone = true;
    if (port->flush)
        switch_flush(sw);
    hold_forget(port);
    if (port->begun)
        leave(port);
    fdb_forget(sw, port);
    fw_gate_free(port->gate);
    firewall_unref(port->rules);
    guard_free(port->guard);
    for (Direction d = TO_VM; d < DIRECTIONS; d++) {
        shape_free(port->shape[d]);
        impair_free(port->impair[d]);
    }
    sw->port[port->id] = NULL;
    while (sw->n_ports && !sw->port[sw->n_ports - 1])
        sw->n_ports--;
    g_free(port->vm);
    g_free(port->nic);
    g_free(port->instance);
    g_free(port->kept_as);
    g_strfreev(port->groups);
    json_decref(port->changed);
    g_free(port->trunk);
    port->ops->free(port);
    if (sw->users_changed)
        sw->users_changed(sw);
}

void port_set_mac(Port *port, const Mac *mac)
{
    port->mac = *mac;
}

void port_lose_mac(Port *port)
{
    port->mac = (Mac){{0}};
    fdb_forget(port->sw, port);
}

/* What was learned at it is forgotten with the wire. */
static void link_changed(Port *port)
{
    fdb_forget(port->sw, port);
    pin(port);
}

void port_set_link(Port *port, bool up)
{
    if (port->link == up)
        return;
    port->link = up;
    link_changed(port);
    if (port->ops->link)
        port->ops->link(port, up);
}

void port_set_plugged(Port *port, bool plugged)
{
    if (port->unplugged == !plugged)
        return;
    port->unplugged = !plugged;
    link_changed(port);
}

/* A request of RARP (RFC 903) for itself, as hypervisors send it: it asks nobody for
 * anything that could be answered wrongly, and all switches on the way learn from it. */
void port_announce(Port *port)
{
    enum { LEN = 60, TYPE_AT = 12, ARP_AT = 14 };
    static const uint8_t arp[] = {0, 1, 8, 0, 6, 4, 0, 3};
    uint8_t bytes[FRAME_ROOM + LEN] = {0};
    Frame f = {.data = bytes + FRAME_ROOM, .len = LEN};

    if (mac_is_zero(&port->mac))
        return;
    memset(f.data, 0xff, sizeof(Mac));
    memcpy(f.data + sizeof(Mac), &port->mac, sizeof(Mac));
    f.data[TYPE_AT] = 0x80;
    f.data[TYPE_AT + 1] = 0x35;
    memcpy(f.data + ARP_AT, arp, sizeof(arp));
    memcpy(f.data + ARP_AT + 8, &port->mac, sizeof(Mac));
    memcpy(f.data + ARP_AT + 18, &port->mac, sizeof(Mac));
    switch_send_from(port, &f);
}

bool port_groups_parse(const json_t *labels, char ***ret, GError **error)
{
    const size_t n = json_array_size(labels);
    g_auto(GStrv) groups = NULL;

    if (!json_is_array(labels) || n > PORT_MAX_GROUPS)
        return fail(error, VM_ERROR_INVALID, "groups: an array of at most %d labels",
                    PORT_MAX_GROUPS);
    groups = g_new0(char *, n + 1);
    for (size_t i = 0; i < n; i++) {
        const char *label = json_string_value(json_array_get(labels, i));

        if (!label || !port_is_name(label))
            return fail(error, VM_ERROR_INVALID, "groups: a label is a name");
        groups[i] = g_strdup(label);
    }
    *ret = g_steal_pointer(&groups);
    return true;
}

void port_set_groups(Port *port, char **groups)
{
    g_strfreev(port->groups);
    port->groups = groups && *groups ? g_strdupv(groups) : NULL;
    rules_world_changed(port->sw);
}

void port_set_vlan(Port *port, uint16_t vlan)
{
    port->vlan = vlan;
    fdb_forget(port->sw, port);
    pin(port);
}

const char *port_text(const Port *port)
{
    static char text[200];

    if (port->vm)
        g_snprintf(text, sizeof(text), "port %u, %s of %s", port->id,
                   port->nic ? port->nic : "a card", port->vm);
    else
        g_snprintf(text, sizeof(text), "port %u, %s %s", port->id,
                   port->ops->kind[0] == 'u' ? "an" : "a", port->ops->kind);
    return text;
}

/* ---- what it can take -------------------------------------------------------------- */

bool port_takes(const Port *port, const VnetHdr *hdr)
{
    return (netdev_offloads_for(hdr) & ~port->offloads) == 0;
}

void port_offload(Port *port, const Frame *f,
                  bool (*each)(void *port, const uint8_t *frame, size_t len))
{
    if (f->hdr.gso_type == VNET_GSO_NONE && !(f->hdr.flags & VNET_NEEDS_CSUM))
        each(port, f->data, f->len);
    else
        vnet_segment(&f->hdr, f->data, f->len, port->sw->scratch, each, port);
}

/* ---- telling of it ----------------------------------------------------------------- */

static json_t *count_json(const PortCount *c)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "frames",
                     (json_int_t)counter_read(&c->frames), "bytes",
                     (json_int_t)counter_read(&c->bytes), "dropped",
                     (json_int_t)counter_read(&c->dropped), "spoofed",
                     (json_int_t)counter_read(&c->spoofed), "denied",
                     (json_int_t)counter_read(&c->denied), "limited",
                     (json_int_t)counter_read(&c->limited), "lost",
                     (json_int_t)counter_read(&c->lost));
}

static json_t *groups_json(const Port *port)
{
    json_t *list = json_array();

    for (char **g = port->groups; g && *g; g++)
        json_array_append_new(list, json_string(*g));
    return list;
}

static json_t *addresses_json(const Port *port)
{
    enum { MAX = 32 };
    Ip ip[MAX];
    unsigned n = guard_list(port->guard, ip, MAX);
    json_t *list = json_array();
    char text[IP_TEXT];

    for (unsigned i = 0; i < n; i++)
        json_array_append_new(list, json_string(ip_text(&ip[i], text)));
    return list;
}

json_t *port_json(Port *port)
{
    char mac[MAC_TEXT];
    json_t *json = json_pack(
        "{s:i, s:s, s:i, s:o, s:b, s:b, s:b, s:o, s:o, s:o}", "port", (int)port->id,
        "kind", port->ops->kind, "vlan", port->vlan, "trunk",
        vlan_trunk_json(port->trunk), "link", port->link && !port->unplugged, "trust",
        port->trusted, "firewall", port->rules != NULL, "groups", groups_json(port), "in",
        count_json(&port->count[TO_VM]), "out", count_json(&port->count[FROM_VM]));

    if (port->vm)
        json_object_set_new(json, "vm", json_string(port->vm));
    if (port->nic)
        json_object_set_new(json, "nic", json_string(port->nic));
    json_object_set_new(
        json, "flows",
        json_integer(port->gate ? (json_int_t)fw_gate_n_flows(port->gate) : 0));
    json_object_set_new(json, "addresses", addresses_json(port));
    if (!mac_is_zero(&port->mac))
        json_object_set_new(json, "mac", json_string(mac_text(&port->mac, mac)));
    if (port->ops->tell)
        port->ops->tell(port, json);
    return json;
}
