/* Which networks VMs are on, and their addresses there: what the networks' switches say,
 * who are asked all at once. */
#include <string.h>

#include "network/config.h"
#include "network/place.h"
#include "src/cli/fleet.h"
#include "util/json.h"

enum { ANSWER_MS = 1000 };

/* A new reference. */
static json_t *card_of(const char *network, const json_t *port)
{
    json_t *card = json_pack("{s:s, s:s}", "network", network, "id",
                             json_get_text(port, "nic"));
    json_t *mac = json_object_get(port, "mac");
    json_t *addresses = json_object_get(port, "addresses");

    if (json_is_string(mac))
        json_object_set(card, "mac", mac);
    if (json_is_array(addresses))
        json_object_set(card, "addresses", addresses);
    return card;
}

/* `lists`: arrays by VMs' names, borrowed. */
static void add_ports(GHashTable *lists, const char *network, const json_t *ports)
{
    json_t *port;
    size_t i;

    json_array_foreach(ports, i, port)
    {
        json_t *list = g_hash_table_lookup(lists, json_get_text(port, "vm"));

        if (list)
            json_array_append_new(list, card_of(network, port));
    }
}

static void ask(GHashTable *lists, char **networks)
{
    unsigned n = g_strv_length(networks);
    g_autofree json_t **ports = g_new0(json_t *, n + 1);

    network_ask(networks, n, "query-ports", ANSWER_MS, ports);
    for (unsigned i = 0; i < n; i++) {
        add_ports(lists, networks[i], ports[i]);
        json_decref(ports[i]);
    }
}

void fleet_add_networks(const json_t *vms)
{
    g_autoptr(GHashTable) lists = g_hash_table_new(g_str_hash, g_str_equal);
    g_auto(GStrv) networks = network_list(NULL);
    json_t *vm;
    size_t i;

    json_array_foreach(vms, i, vm)
    {
        json_t *list;

        if (!json_object_get(vm, "pid"))
            continue;
        list = json_array();
        if (json_object_set_new(vm, "networks", list) == 0)
            g_hash_table_insert(lists, (char *)json_get_text(vm, "name"), list);
    }
    if (networks && g_hash_table_size(lists))
        ask(lists, networks);
}

/* The first of IPv4 if there is one, else the first of all; "": it has none yet. */
static const char *address_of(const json_t *card)
{
    json_t *addresses = json_object_get(card, "addresses"), *one;
    size_t i;

    json_array_foreach(addresses, i, one)
    {
        const char *text = json_string_value(one);

        if (text && !strchr(text, ':'))
            return text;
    }
    one = json_array_get(addresses, 0);
    return json_is_string(one) ? json_string_value(one) : "";
}

char *fleet_networks_text(const json_t *vm)
{
    GString *text = g_string_new(NULL);
    json_t *card;
    size_t i;

    json_array_foreach(json_object_get(vm, "networks"), i, card)
    {
        const char *address = address_of(card);

        g_string_append_printf(text, "%s%s%s%s", i ? ", " : "",
                               json_get_text(card, "network"), *address ? " " : "",
                               address);
    }
    if (!text->len)
        g_string_append_c(text, '-');
    return g_string_free(text, FALSE);
}
