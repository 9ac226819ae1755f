/* The table of leases, by name and by address; see leases_private.h. */
#include "src/switch/leases_private.h"
#include "src/switch/outside.h"
#include "src/switch/rules.h"

const Ip no_ip;

int64_t leases_now(void)
{
    return g_get_real_time() / G_USEC_PER_SEC;
}

static guint hash_ip(gconstpointer key)
{
    uint64_t half[2];

    memcpy(half, key, sizeof(half));
    return (guint)((half[0] * 31 + half[1]) * 0x9e3779b97f4a7c15 >> 32);
}

static gboolean same_ip(gconstpointer a, gconstpointer b)
{
    return ip_equal(a, b);
}

Leases *leases_new(Gateway *gw)
{
    Leases *l = g_new0(Leases, 1);

    l->gw = gw;
    l->by_key = g_hash_table_new(g_str_hash, g_str_equal);
    l->by_ip = g_hash_table_new(hash_ip, same_ip);
    return l;
}

static char *key_of(const char *vm, const char *nic, const Mac *mac)
{
    char text[MAC_TEXT];

    return vm ? g_strdup_printf("%s/%s", vm, nic ? nic : "")
              : g_strdup(mac_text(mac, text));
}

Lease *leases_by_ip(Leases *l, const Ip *ip)
{
    return g_hash_table_lookup(l->by_ip, ip);
}

Lease *leases_by_name(Leases *l, const char *vm, const char *nic, const Mac *mac)
{
    g_autofree char *key = key_of(vm, nic, mac);

    return g_hash_table_lookup(l->by_key, key);
}

void leases_bound_changed(Leases *l)
{
    outside_addresses_changed(l->gw);
    rules_world_changed(l->gw->sw);
}

void leases_set_ip(Leases *l, Lease *lease, bool v6, const Ip *ip)
{
    Lease *before = ip ? leases_by_ip(l, ip) : NULL;
    bool was_bound = lease->bound[v6];

    if (before == lease)
        return;
    if (before)
        leases_set_ip(l, before, v6, NULL);
    if (ip_is_set(&lease->ip[v6])) {
        g_hash_table_remove(l->by_ip, &lease->ip[v6]);
        if (lease->port)
            guard_remove_lease(lease->port->guard, &lease->ip[v6]);
    }
    lease->ip[v6] = ip ? *ip : no_ip;
    lease->bound[v6] = false;
    lease->until[v6] = 0;
    if (ip_is_set(&lease->ip[v6]))
        g_hash_table_insert(l->by_ip, &lease->ip[v6], lease);
    if (was_bound)
        leases_bound_changed(l);
}

void leases_remove(Leases *l, Lease *lease)
{
    leases_set_ip(l, lease, false, NULL);
    leases_set_ip(l, lease, true, NULL);
    g_queue_unlink(&l->all, &lease->link);
    g_hash_table_remove(l->by_key, lease->key);
    g_free(lease->key);
    g_free(lease->vm);
    g_free(lease->nic);
    g_free(lease);
}

/* The one to be given up first: that of a station before that of a VM. */
static Lease *least_wanted(Leases *l)
{
    Lease *vm = NULL;

    for (GList *i = l->all.head; i; i = i->next) {
        Lease *lease = i->data;

        if (lease->port)
            continue;
        if (!lease->vm)
            return lease;
        if (!vm)
            vm = lease;
    }
    return vm;
}

Lease *leases_add(Leases *l, const char *vm, const char *nic, const Mac *mac)
{
    Lease *lease;

    if (l->all.length >= LEASES_MAX) {
        lease = least_wanted(l);
        if (!lease)
            return NULL;
        leases_remove(l, lease);
    }
    lease = g_new0(Lease, 1);
    lease->key = key_of(vm, nic, mac);
    lease->vm = g_strdup(vm);
    lease->nic = g_strdup(nic);
    lease->mac = *mac;
    lease->seen = leases_now();
    lease->link.data = lease;
    g_queue_push_tail_link(&l->all, &lease->link);
    g_hash_table_insert(l->by_key, lease->key, lease);
    return lease;
}

void leases_seen(Leases *l, Lease *lease)
{
    lease->seen = leases_now();
    g_queue_unlink(&l->all, &lease->link);
    g_queue_push_tail_link(&l->all, &lease->link);
}

void leases_free(Leases *l)
{
    while (l->all.head) {
        ((Lease *)l->all.head->data)->port = NULL; /* ports may be gone */
        leases_remove(l, l->all.head->data);
    }
    g_hash_table_unref(l->by_key);
    g_hash_table_unref(l->by_ip);
    g_free(l);
}
