/* query-leases and lease-release (docs/networks.md). */
#include "src/switch/leases_private.h"

static void add_json(json_t *list, Leases *l, const Lease *lease, bool v6)
{
    char mac[MAC_TEXT], text[IP_TEXT];
    const Ip *ip = &lease->ip[v6];
    Ip by_hand;
    bool is_static = leases_static_vm(l, ip) ||
                     (lease->port && guard_by_hand(lease->port->guard, v6, &by_hand) &&
                      ip_equal(&by_hand, ip));
    json_t *one = json_pack("{s:s, s:s, s:b}", "mac", mac_text(&lease->mac, mac),
                            "address", ip_text(ip, text), "static", is_static);

    if (lease->vm)
        json_object_set_new(one, "vm", json_string(lease->vm));
    if (lease->nic)
        json_object_set_new(one, "nic", json_string(lease->nic));
    if (lease->until[v6])
        json_object_set_new(one, "expires",
                            json_integer(MAX(lease->until[v6] - leases_now(), 0)));
    json_array_append_new(list, one);
}

json_t *gateway_query_leases(Switch *sw, json_t *arguments, GError **error)
{
    Leases *l = sw->gateway->leases;
    json_t *list = json_array();

    for (GList *i = l->all.head; i; i = i->next)
        for (unsigned v6 = 0; v6 < FAMILIES; v6++) {
            Lease *lease = i->data;

            if (lease->bound[v6])
                add_json(list, l, lease, v6);
        }
    return list;
}

static bool is_meant(const Lease *lease, const char *vm, const Ip *ip)
{
    if (vm)
        return g_strcmp0(lease->vm, vm) == 0;
    return ip_equal(&lease->ip[ip_family(ip)], ip);
}

json_t *gateway_lease_release(Switch *sw, json_t *arguments, GError **error)
{
    Leases *l = sw->gateway->leases;
    const char *vm = NULL, *address = NULL;
    bool found = false;
    Ip ip = no_ip;

    if (json_unpack(arguments, "{s?s, s?s}", "vm", &vm, "address", &address) < 0 ||
        !vm == !address) {
        fail(error, VM_ERROR_INVALID, "lease-release needs either 'vm' or 'address'");
        return NULL;
    }
    if (address && !ip_parse(address, &ip, error))
        return NULL;
    for (GList *i = l->all.head, *next; i; i = next) {
        Lease *lease = i->data;

        next = i->next;
        if (!is_meant(lease, vm, &ip))
            continue;
        found = true;
        leases_remove(l, lease);
    }
    if (!found) {
        fail(error, VM_ERROR_NOT_FOUND, "no lease of network '%s' is %s '%s'", sw->name,
             vm ? "of VM" : "for", vm ? vm : address);
        return NULL;
    }
    leases_write_soon(l);
    return json_object();
}
