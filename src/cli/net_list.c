/* hutch net ls, inspect, ports, flows, forwards, routes, names: how networks are. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "network/place.h"
#include "src/cli/net.h"
#include "util/fd.h"
#include "util/json.h"

typedef struct ListArgs {
    bool json, quiet;
} ListArgs;

#define LIST_JSON                                                                        \
    {                                                                                    \
        .key = "json", .type = PARAM_BOOL, .offset = offsetof(ListArgs, json),           \
        .help = "print the result as JSON"                                               \
    }

const ParamTable net_list_args = {
    .size = sizeof(ListArgs),
    .desc = (const ParamDesc[]){LIST_JSON, {0}},
};
const ParamTable net_ls_args = {
    .size = sizeof(ListArgs),
    .desc = (const ParamDesc[]){LIST_JSON,
                                {.key = "quiet",
                                 .letter = 'q',
                                 .type = PARAM_BOOL,
                                 .offset = offsetof(ListArgs, quiet),
                                 .help = "print names only"},
                                {0}},
};

bool net_print(json_t *rows, const NetColumn *columns, bool json)
{
    if (!rows)
        return false;
    if (json) {
        cli_print_json(rows);
        return true;
    }
    net_print_rows(rows, columns);
    json_decref(rows);
    return true;
}

/* ---- ls -------------------------------------------------------------------------------
 */

static void add_ports(json_t *row, const char *name)
{
    g_autoptr(GError) gone = NULL; /* down by now, or it hangs */
    json_t *status = network_call(name, false, "query-status", NULL, &gone);
    json_t *ports = json_object_get(status, "ports");

    json_object_set_new(row, "state", json_string(status ? "up" : "unresponsive"));
    if (ports)
        json_object_set(row, "ports", ports);
    json_decref(status);
}

static json_t *row_of(const char *name)
{
    json_t *row = json_pack("{s:s, s:s}", "name", name, "state", "down");
    g_autoptr(GError) why = NULL;
    NetworkConfig *config = network_load(name, &why);

    if (!config) {
        json_object_set_new(row, "state", json_string("damaged"));
        json_object_set_new(row, "error", json_string(why->message));
        return row;
    }
    json_object_set_new(row, "mode", json_string(network_mode_names[config->mode]));
    if (config->subnet)
        json_object_set_new(row, "subnet", json_string(config->subnet));
    if (config->subnet6)
        json_object_set_new(row, "subnet6", json_string(config->subnet6));
    param_free(&network_params, config);
    json_object_set_new(row, "ports", json_integer(0));
    if (network_is_up(name))
        add_ports(row, name);
    return row;
}

static const NetColumn ls_columns[] = {
    {"NAME", "name"},
    {"MODE", "mode"},
    {"SUBNET", "subnet"},
    {"SUBNET6", "subnet6"},
    {"STATE", "state"},
    {"PORTS", "ports", true},
    {0},
};

bool net_act_ls(void *options, char **names, int *status, GError **error)
{
    const ListArgs *args = options;
    g_auto(GStrv) all = network_list(error);
    json_t *rows = all ? json_array() : NULL;

    for (char **n = all; n && *n; n++)
        if (args->quiet)
            puts(*n);
        else
            json_array_append_new(rows, row_of(*n));
    if (!args->quiet)
        return net_print(rows, ls_columns, args->json);
    json_decref(rows);
    return all != NULL;
}

/* ---- inspect --------------------------------------------------------------------------
 */

static json_t *config_of(const char *name, GError **error)
{
    NetworkConfig *config = network_load(name, error);
    json_t *json = config ? json_object() : NULL;

    for (const ParamDesc *d = network_params.desc; config && d->key; d++) {
        json_t *value = param_value_to_json(d, config);

        json_object_set_new(json, d->key, value ? value : json_null());
    }
    param_free(&network_params, config);
    return json;
}

/* The gateway's addresses and the folder: what follows from the config. */
static void add_places(json_t *all, const char *name)
{
    NetworkConfig *config = network_load(name, NULL);
    g_autofree char *folder = network_file(name, NULL);
    g_autofree char *run = network_place(name, NULL, NULL);
    json_t *gateway = json_array();
    NetworkSubnets has = {0};
    char text[IP_TEXT];

    if (config)
        network_subnets(config, &has);
    if (has.v4.bits)
        json_array_append_new(gateway, json_string(ip_text(&has.gateway4, text)));
    if (has.v6.bits)
        json_array_append_new(gateway, json_string(ip_text(&has.gateway6, text)));
    json_object_set_new(all, "gateway", gateway);
    json_object_set_new(all, "folder", json_string(folder));
    if (run)
        json_object_set_new(all, "run-folder", json_string(run));
    param_free(&network_params, config);
}

static void add_rules(json_t *all, const char *name)
{
    g_autofree char *path = network_file(name, NETWORK_RULES);
    g_autofree char *text = NULL;

    if (g_file_get_contents(path, &text, NULL, NULL))
        json_object_set_new(all, "firewall", json_string(text));
}

bool net_act_inspect(void *options, char **names, int *status, GError **error)
{
    static const char *const queries[][2] = {
        {"status", "query-status"},     {"ports", "query-ports"},
        {"leases", "query-leases"},     {"routes", "query-routes"},
        {"forwards", "query-forwards"}, {"limits", "query-limits"}};
    json_t *config = config_of(names[0], error), *all;
    bool up = config && network_is_up(names[0]);

    if (!config)
        return false;
    all = json_pack("{s:s, s:b, s:o}", "name", names[0], "up", up, "config", config);
    add_places(all, names[0]);
    add_rules(all, names[0]);
    for (unsigned i = 0; i < G_N_ELEMENTS(queries) && up; i++) {
        g_autoptr(GError) why = NULL;
        json_t *value = network_call(names[0], false, queries[i][1], NULL, &why);

        json_object_set_new(all, queries[i][0], value ? value : json_null());
    }
    cli_print_json(all);
    return true;
}

/* ---- what a switch lists --------------------------------------------------------------
 */

/* names: a network, and a port or none. */
static bool list(void *options, char **names, const char *command,
                 const NetColumn *columns, GError **error)
{
    const ListArgs *args = options;
    NetTarget t;
    bool ok;

    if (!net_target(names[0], names[1], &t, error))
        return false;
    ok = net_print(net_ask_list(&t, command, error), columns, args->json);
    net_target_clear(&t);
    return ok;
}

char *net_who(const json_t *row)
{
    g_autofree char *vm = net_cell(row, "vm"), *nic = net_cell(row, "nic");

    if (json_object_get(row, "path"))
        return net_cell(row, "path");
    if (!g_str_equal(vm, "-"))
        return g_str_equal(nic, "-") ? g_strdup(vm) : g_strconcat(vm, ":", nic, NULL);
    return net_cell(row, "kind");
}

static char *lost(const json_t *row)
{
    int64_t in = json_integer_value(
        json_object_get(json_object_get(row, "in"), "dropped"));
    int64_t out = json_integer_value(
        json_object_get(json_object_get(row, "out"), "dropped"));

    return g_strdup_printf("%" G_GINT64_FORMAT, in + out);
}

static char *link_text(const json_t *row)
{
    const json_t *retry = json_object_get(row, "retry");

    if (retry)
        return g_strdup_printf("retry %ds", (int)json_integer_value(retry));
    return g_strdup(json_is_true(json_object_get(row, "link")) ? "up" : "down");
}

static char *vlan(const json_t *row)
{
    return json_integer_value(json_object_get(row, "vlan")) ? net_cell(row, "vlan")
                                                            : g_strdup("-");
}

static const NetColumn port_columns[] = {
    {"PORT", "port", true},
    {"WHO", NULL, false, net_who},
    {"MAC", "mac"},
    {"ADDRESSES", "addresses"},
    {"LINK", NULL, false, link_text},
    {"VLAN", NULL, true, vlan},
    {"GROUPS", "groups"},
    {"FRAMES IN", "in.frames", true},
    {"BYTES IN", "in.bytes", true},
    {"FRAMES OUT", "out.frames", true},
    {"BYTES OUT", "out.bytes", true},
    {"DROPPED", NULL, true, lost},
    {0},
};

bool net_act_ports(void *options, char **names, int *status, GError **error)
{
    return list(options, names, "query-ports", port_columns, error);
}

static char *back_text(const json_t *row)
{
    return g_strdup(json_is_true(json_object_get(row, "up")) ? "up" : "down");
}

static char *any_address(const json_t *row)
{
    const char *address = json_get_text(row, "address");

    return g_strdup(*address ? address : "*");
}

static const NetColumn forward_columns[] = {
    {"PROTO", "proto"},
    {"ADDRESS", NULL, false, any_address},
    {"PORT", "port", true},
    {"VM", "vm"},
    {"PORT", "vm-port", true},
    {"NOW AT", "to"},
    {0},
};

bool net_act_forwards(void *options, char **names, int *status, GError **error)
{
    return list(options, names, "query-forwards", forward_columns, error);
}

static const NetColumn route_columns[] = {
    {"NETWORK", "network"},       {"STATE", NULL, false, back_text},
    {"SUBNET", "subnet"},         {"SUBNET6", "subnet6"},
    {"SENT", "sent", true},       {"RECEIVED", "received", true},
    {"DROPPED", "dropped", true}, {0},
};

/* As a switch would say it that has just begun. */
static json_t *route_that_is_down(const char *network)
{
    json_t *row = json_pack("{s:s, s:b, s:i, s:i, s:i}", "network", network, "up", false,
                            "sent", 0, "received", 0, "dropped", 0);
    NetworkConfig *config = network_load(network, NULL);

    if (config && config->subnet)
        json_object_set_new(row, "subnet", json_string(config->subnet));
    if (config && config->subnet6)
        json_object_set_new(row, "subnet6", json_string(config->subnet6));
    param_free(&network_params, config);
    return row;
}

/* A network without a switch has its routes, too, though none is up. */
static json_t *routes_of_config(const char *network, GError **error)
{
    NetworkConfig *config = network_load(network, error);
    json_t *rows = config ? json_array() : NULL;

    for (char **other = config ? config->routes : NULL; other && *other; other++)
        json_array_append_new(rows, route_that_is_down(*other));
    param_free(&network_params, config);
    return rows;
}

bool net_list_routes(char *network, bool json, GError **error)
{
    ListArgs args = {.json = json};
    char *names[] = {network, NULL};

    if (!network_is_up(network))
        return net_print(routes_of_config(network, error), route_columns, json);
    return list(&args, names, "query-routes", route_columns, error);
}

bool net_act_routes(void *options, char **names, int *status, GError **error)
{
    return net_list_routes(names[0], ((const ListArgs *)options)->json, error);
}

static const NetColumn name_columns[] = {
    {"NAME", "name"}, {"ADDRESS", "address"}, {"SECONDS LEFT", "ttl", true}, {0}};

bool net_act_names(void *options, char **names, int *status, GError **error)
{
    return list(options, names, "query-names", name_columns, error);
}

static const NetColumn flow_columns[] = {
    {"VM", NULL, false, net_who},
    {"PROTO", "proto"},
    {"FROM", "from"},
    {"PORT", "from-port", true},
    {"TO", "to"},
    {"PORT", "to-port", true},
    {"STATE", "state"},
    {"PACKETS", "packets", true},
    {"BYTES", "bytes", true},
    {"BACK", "packets-back", true},
    {"BYTES BACK", "bytes-back", true},
    {"IDLE", "idle", true},
    {0},
};

bool net_act_flows(void *options, char **names, int *status, GError **error)
{
    return list(options, names, "query-flows", flow_columns, error);
}
