/* The commands about ports and the switch itself; docs/networks.md says what they take
 * and return. */
#include <unistd.h>

#include "src/switch/control.h"
#include "src/switch/fdb.h"
#include "src/switch/kept.h"
#include "src/switch/port_stream.h"
#include "src/switch/vlan.h"
#include "util/json.h"

static unsigned count_ports(const Switch *sw)
{
    unsigned n = 0;

    for (unsigned i = 0; i < sw->n_ports; i++)
        n += sw->port[i] && !sw->port[i]->gone;
    return n;
}

static json_t *query_status(Switch *sw, json_t *arguments, GError **error)
{
    return json_pack("{s:s, s:i, s:s, s:i, s:I, s:i}", "name", sw->name, "pid",
                     (int)getpid(), "mode", network_mode_names[sw->config->mode], "ports",
                     (int)count_ports(sw), "uptime",
                     (json_int_t)((sw->now_ns - sw->started_ns) / 1000000000),
                     "addresses", (int)fdb_count(sw));
}

static json_t *query_ports(Switch *sw, json_t *arguments, GError **error)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < sw->n_ports; i++)
        if (sw->port[i] && !sw->port[i]->gone)
            json_array_append_new(list, port_json(sw->port[i]));
    return list;
}

static json_t *query_fdb(Switch *sw, json_t *arguments, GError **error)
{
    return fdb_json(sw);
}

/* ---- set-port ------------------------------------------------------------------------
 * All of it is looked at before any of it is done. */

typedef struct Change {
    const json_t *link, *trust;
    int vlan; /* -1: stays */
    bool set_trunk;
    uint8_t *trunk;
    char **groups; /* NULL: stay */
} Change;

static void change_free(Change *c)
{
    g_free(c->trunk);
    g_strfreev(c->groups);
}

static bool read_bool(const json_t *arguments, const char *key, const json_t **ret,
                      GError **error)
{
    *ret = json_object_get(arguments, key);
    return !*ret || json_is_boolean(*ret) ||
           fail(error, VM_ERROR_INVALID, "%s: true or false is needed", key);
}

static bool read_vlan(const json_t *arguments, Change *ret, GError **error)
{
    const json_t *vlan = json_object_get(arguments, "vlan");
    json_int_t n = json_integer_value(vlan);

    ret->vlan = vlan ? (int)CLAMP(n, -1, VLAN_MAX + 1) : -1;
    return !vlan || (json_is_integer(vlan) && n >= 0 && n <= VLAN_MAX) ||
           fail(error, VM_ERROR_INVALID,
                "vlan: a number from 1 to %d is needed, or 0 for none", VLAN_MAX);
}

static bool read_change(const json_t *arguments, Change *ret, GError **error)
{
    const json_t *trunk = json_object_get(arguments, "trunk");
    const json_t *groups = json_object_get(arguments, "groups");

    *ret = (Change){.vlan = -1, .set_trunk = trunk != NULL};
    return read_bool(arguments, "link", &ret->link, error) &&
           read_bool(arguments, "trust", &ret->trust, error) &&
           read_vlan(arguments, ret, error) &&
           (!groups || port_groups_parse(groups, &ret->groups, error)) &&
           (!trunk || vlan_trunk_parse(trunk, &ret->trunk, error));
}

static void apply(Port *port, Change *c)
{
    if (c->link)
        port_set_link(port, json_is_true(c->link));
    if (c->trust)
        port->trusted = json_is_true(c->trust);
    if (c->groups)
        port_set_groups(port, c->groups);
    if (c->set_trunk) {
        g_free(port->trunk);
        port->trunk = g_steal_pointer(&c->trunk);
    }
    if (c->vlan >= 0 || c->set_trunk)
        port_set_vlan(port, c->vlan >= 0 ? (uint16_t)c->vlan : port->vlan);
}

static void remember(Port *port, const json_t *values)
{
    static const char *const keys[] = {"link", "trust", "vlan", "trunk", "groups"};

    if (!port->changed)
        port->changed = json_object();
    for (unsigned i = 0; i < G_N_ELEMENTS(keys); i++)
        if (json_object_get(values, keys[i]))
            json_object_set(port->changed, keys[i], json_object_get(values, keys[i]));
}

bool port_change(Port *port, const json_t *values, GError **error)
{
    Change change;
    bool fine = read_change(values, &change, error);

    if (fine) {
        apply(port, &change);
        remember(port, values);
    }
    change_free(&change);
    return fine;
}

static json_t *set_port(Switch *sw, json_t *arguments, GError **error)
{
    Port *port = command_port(sw, arguments, error);

    if (!port || !port_change(port, arguments, error))
        return NULL;
    kept_port_changed(port);
    return json_object();
}

/* ---- the rest ---------------------------------------------------------------------- */

static json_t *reconfigure(Switch *sw, json_t *arguments, GError **error)
{
    return switch_reconfigure(sw, error) ? json_object() : NULL;
}

static json_t *connect_stream(Switch *sw, json_t *arguments, GError **error)
{
    const char *path = json_get_text(arguments, "path");
    Port *port;

    if (!g_path_is_absolute(path)) {
        fail(error, VM_ERROR_INVALID, "path: the whole path of a socket is needed");
        return NULL;
    }
    port = port_stream_connect(sw, path, error);
    return port ? json_pack("{s:i}", "port", (int)port->id) : NULL;
}

static json_t *disconnect(Switch *sw, json_t *arguments, GError **error)
{
    const char *path = json_get_text(arguments, "path");
    Port *port = *path ? port_stream_find(sw, path, error)
                       : command_port(sw, arguments, error);

    if (!port)
        return NULL;
    port->ops->hang_up(port);
    return json_object();
}

static json_t *quit(Switch *sw, json_t *arguments, GError **error)
{
    ioloop_quit(sw->loop);
    return json_object();
}

const SwitchCommand switch_commands[] = {
    {"query-status", query_status},
    {"query-ports", query_ports},
    {"query-fdb", query_fdb},
    {"set-port", set_port},
    {"reconfigure", reconfigure},
    {"connect-stream", connect_stream},
    {"disconnect", disconnect},
    {"quit", quit},
    {},
};
