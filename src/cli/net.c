/* hutch net: the verbs there, and what their files share; see src/cli/net.h. */
#include "src/cli/net.h"

#include <limits.h>
#include <string.h>

#include "network/place.h"
#include "util/json.h"

const char net_about[] =
    "A network is made once and kept in a folder; its switch, a process of its own, is "
    "started by the first VM that joins it ('hutch run --net NAME') and ends with the "
    "last.  PORT is VM[:NIC], without NIC the VM's first card on that network, or :N, "
    "the number in 'hutch net ports'.";

const Verb net_verbs[] = {
    {.name = "create",
     .args = "NAME [OPTION]...",
     .help = "make a network",
     .act = net_act_create,
     .params = &net_create_args,
     .min_names = 1,
     .max_names = 1,
     .about = "Without --subnet the network gets the first of 10.5.0.0/24, 10.6.0.0/24, "
              "... that neither another network nor an interface of this host has, and "
              "no IPv6 addresses.  The first address of a subnet is the network's own: "
              "gateway, DHCP and DNS server."},
    {.name = "ls",
     .args = "[OPTION]...",
     .help = "list networks",
     .act = net_act_ls,
     .params = &net_ls_args},
    {.name = "inspect",
     .args = "NETWORK",
     .help = "tell all that is known of a network, as JSON",
     .names = NAMES_NETWORKS,
     .act = net_act_inspect,
     .params = &net_list_args,
     .min_names = 1,
     .max_names = 1},
    {.name = "set",
     .args = "NETWORK [KEY=VALUE|KEY+=VALUE|KEY-=VALUE]...",
     .help = "change a network, also while VMs are on it, or list what can be changed",
     .names = NAMES_NETWORKS,
     .act = net_act_set,
     .params = &net_set_args,
     .min_names = 1,
     .max_names = UINT_MAX,
     .about = "Keys are the options of 'hutch net create', and mode.  Those of which "
              "there may be several take += and -= too: forward+=tcp::8080-web:80.  All "
              "is changed or nothing: if the network's switch refuses, the old options "
              "stay."},
    {.name = "rm",
     .args = "NETWORK...",
     .help = "remove networks that no VM is on",
     .names = NAMES_NETWORKS,
     .act = net_act_rm,
     .params = &net_rm_args,
     .min_names = 1,
     .max_names = UINT_MAX},
    {.name = "connect",
     .args = "NETWORK VM[:NIC]|--stream SOCKET",
     .help = "plug a card of a running VM into a network, an added one or one it has",
     .names = NAMES_NETWORKS,
     .act = net_act_connect,
     .params = &net_connect_args,
     .min_names = 1,
     .max_names = 2,
     .about = net_connect_about},
    {.name = "disconnect",
     .args = "NETWORK PORT|--stream SOCKET",
     .help = "remove a card of a running VM from a network, or hang up on a port",
     .about = "The guest is asked to give the card up, and waited for.  A program that "
              "'hutch net connect --stream' joined is left for good, which else the "
              "network's next switch connects to again.",
     .names = NAMES_NETWORKS,
     .act = net_act_disconnect,
     .params = &net_disconnect_args,
     .min_names = 1,
     .max_names = 2},
    {.name = "ports",
     .args = "NETWORK",
     .help = "list what is on a network, with counters",
     .names = NAMES_NETWORKS,
     .act = net_act_ports,
     .params = &net_list_args,
     .min_names = 1,
     .max_names = 1},
    {.name = "leases",
     .args = "NETWORK",
     .help = "list which VM has which address, also of a network that is down",
     .names = NAMES_NETWORKS,
     .act = net_act_leases,
     .params = &net_lease_args,
     .min_names = 1,
     .max_names = 1},
    {.name = "flows",
     .args = "NETWORK [PORT]",
     .help = "list the connections that the firewall keeps track of",
     .names = NAMES_NETWORKS,
     .act = net_act_flows,
     .params = &net_list_args,
     .min_names = 1,
     .max_names = 2},
    {.name = "forwards",
     .args = "NETWORK",
     .help = "list which ports of this host lead to VMs",
     .names = NAMES_NETWORKS,
     .act = net_act_forwards,
     .params = &net_list_args,
     .min_names = 1,
     .max_names = 1},
    {.name = "routes",
     .args = "NETWORK",
     .help = "list the networks that packets are routed to",
     .names = NAMES_NETWORKS,
     .act = net_act_routes,
     .params = &net_list_args,
     .min_names = 1,
     .max_names = 1},
    {.name = "route",
     .args = "NETWORK ls|add|rm [NETWORK]...",
     .help = "add or remove routes to other networks, also while VMs are on it",
     .names = NAMES_NETWORKS,
     .act = net_act_route,
     .params = &net_set_args,
     .min_names = 2,
     .max_names = UINT_MAX,
     .about = "A route is used when the other network has one back: 'ls' shows whether "
              "it is up.  It is the key route of 'hutch net set'."},
    {.name = "names",
     .args = "NETWORK",
     .help = "list the addresses that its DNS gave for names, which rules may name",
     .names = NAMES_NETWORKS,
     .act = net_act_names,
     .params = &net_list_args,
     .min_names = 1,
     .max_names = 1},
    {.name = "capture",
     .args = "NETWORK [PORT]",
     .help = "write the frames of a network or a port to a file, for Wireshark",
     .names = NAMES_NETWORKS,
     .act = net_act_capture,
     .params = &net_capture_args,
     .min_names = 1,
     .max_names = 2,
     .about = net_capture_about},
    {.name = "port",
     .args = "NETWORK PORT [OPTION]...",
     .help = "set a port's VLANs, groups, trust",
     .names = NAMES_NETWORKS,
     .act = net_act_port,
     .params = &net_port_args,
     .min_names = 2,
     .max_names = 2,
     .about = "It holds while the VM stays on the network; 'hutch run --net' has the "
              "same keys for all of its life."},
    {.name = "limit",
     .args = "NETWORK PORT [OPTION]...",
     .help = "limit what a port sends and gets, or show the limits",
     .names = NAMES_NETWORKS,
     .act = net_act_limit,
     .params = &net_limit_args,
     .min_names = 2,
     .max_names = 2,
     .about = net_limit_about},
    {.name = "impair",
     .args = "NETWORK PORT [OPTION]...",
     .help = "make a port's wire slow or bad, to test applications, or show how it is",
     .names = NAMES_NETWORKS,
     .act = net_act_impair,
     .params = &net_impair_args,
     .min_names = 2,
     .max_names = 2,
     .about = net_impair_about},
    {.name = "log",
     .args = "NETWORK",
     .help = "print what the network's switch has said",
     .names = NAMES_NETWORKS,
     .act = net_act_log,
     .params = &net_log_args,
     .min_names = 1,
     .max_names = 1},
    {0},
};

/* ---- whom it is for ------------------------------------------------------------------
 */

static bool split_port(const char *port, NetTarget *ret, GError **error)
{
    const char *colon = strrchr(port, ':');
    guint64 number;

    if (*port == ':' &&
        g_ascii_string_to_unsigned(port + 1, 10, 0, 65535, &number, NULL)) {
        ret->has_port = true;
        ret->port = (unsigned)number;
        return true;
    }
    ret->vm = colon ? g_strndup(port, (gsize)(colon - port)) : g_strdup(port);
    ret->nic = colon ? g_strdup(colon + 1) : NULL;
    return (*ret->vm && (!ret->nic || *ret->nic)) ||
           fail(error, VM_ERROR_INVALID,
                "'%s' is not VM[:NIC], such as web:net0, nor a port's number, such as :3",
                port);
}

bool net_target(const char *network, const char *port, NetTarget *ret, GError **error)
{
    NetworkConfig *config = network_load(network, error);
    bool there = config != NULL;

    *ret = (NetTarget){.network = g_strdup(network)};
    param_free(&network_params, config);
    if (there && (!port || split_port(port, ret, error)))
        return true;
    net_target_clear(ret);
    return false;
}

bool net_target_parse(const char *text, NetTarget *ret, GError **error)
{
    const char *slash = strchr(text, '/');
    g_autofree char *network = g_strndup(text,
                                         slash ? (gsize)(slash - text) : strlen(text));

    return net_target(network, slash ? slash + 1 : NULL, ret, error);
}

void net_target_clear(NetTarget *t)
{
    g_clear_pointer(&t->network, g_free);
    g_clear_pointer(&t->vm, g_free);
    g_clear_pointer(&t->nic, g_free);
}

json_t *net_arguments(const NetTarget *t)
{
    json_t *arguments = json_object();

    if (t->vm)
        json_object_set_new(arguments, "vm", json_string(t->vm));
    if (t->nic)
        json_object_set_new(arguments, "nic", json_string(t->nic));
    if (t->has_port)
        json_object_set_new(arguments, "port", json_integer(t->port));
    return arguments;
}

bool net_is_port(const NetTarget *t, const json_t *port)
{
    if (t->has_port)
        return json_integer_value(json_object_get(port, "port")) == t->port;
    return t->vm && g_str_equal(json_get_text(port, "vm"), t->vm) &&
           (!t->nic || g_str_equal(json_get_text(port, "nic"), t->nic));
}

/* ---- asking --------------------------------------------------------------------------
 */

json_t *net_ask_list(const NetTarget *t, const char *command, GError **error)
{
    if (!network_is_up(t->network))
        return json_array();
    return network_call(t->network, false, command, net_arguments(t), error);
}

/* ---- notations -----------------------------------------------------------------------
 */

/* Digits, and perhaps a part of one; what follows is its unit. */
static bool parse_number(const char *text, double *ret, const char **ret_unit)
{
    size_t len = strspn(text, "0123456789.");
    g_autofree char *digits = g_strndup(text, len);
    char *end;
    double v = g_ascii_strtod(digits, &end);

    if (!g_ascii_isdigit(*text) || *end || v > 1e9)
        return false;
    *ret = v;
    *ret_unit = text + len;
    return true;
}

bool net_parse_percent(const char *text, double *ret, GError **error)
{
    const char *unit;
    double v;

    if (!parse_number(text, &v, &unit) || !g_str_equal(unit, "%") || v > 100)
        return fail(error, VM_ERROR_INVALID, "'%s' is not a percentage such as 0.5%%",
                    text);
    *ret = v / 100;
    return true;
}

bool net_parse_time(const char *text, uint64_t *ret_us, GError **error)
{
    static const struct {
        const char *name;
        double us;
    } units[] = {{"us", 1}, {"ms", 1e3}, {"s", 1e6}};
    const char *unit;
    double v;

    if (parse_number(text, &v, &unit))
        for (unsigned i = 0; i < G_N_ELEMENTS(units); i++)
            if (g_str_equal(unit, units[i].name) && v * units[i].us <= 3600e6) {
                *ret_us = (uint64_t)(v * units[i].us + 0.5);
                return true;
            }
    return fail(error, VM_ERROR_INVALID,
                "'%s' is not a time such as 20ms, 500us or 1s, of an hour at most", text);
}
