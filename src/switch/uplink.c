/* Uplinks (uplink.h).  The port says which it is: its `instance` is the config's text. */
#include "src/switch/uplink.h"

#include "src/switch/port_netdev.h"

typedef struct UplinkOptions {
    NetDevOptions netdev;
} UplinkOptions;

static const ParamDesc uplink_desc[] = {NETDEV_PARAMS(UplinkOptions, netdev), {0}};

static bool check(void *options, GError **error)
{
    return netdev_check(&((UplinkOptions *)options)->netdev, error);
}

static const ParamTable uplink_params = {
    .size = sizeof(UplinkOptions),
    .desc = uplink_desc,
    .check = check,
};

static Port *find(Switch *sw)
{
    for (unsigned i = 0; i < sw->n_ports; i++) {
        Port *p = sw->port[i];

        if (p && p->service && !p->gone && g_str_equal(p->ops->kind, "uplink"))
            return p;
    }
    return NULL;
}

static Port *open_uplink(Switch *sw, const char *text, GError **error)
{
    UplinkOptions *options = param_new(&uplink_params);
    Port *port = NULL;

    if (param_parse(&uplink_params, options, text, error))
        port = port_netdev_new(sw, &options->netdev, error);
    param_free(&uplink_params, options);
    if (port)
        port->instance = g_strdup(text);
    else
        g_prefix_error(error, "uplink=%s: ", text);
    return port;
}

bool uplink_configure(Switch *sw, GError **error)
{
    const char *text = sw->config->uplink;
    Port *old = find(sw);

    if (old && g_strcmp0(old->instance, text) == 0)
        return true;
    if (text && !open_uplink(sw, text, error))
        return false;
    if (old)
        port_free(old);
    return true;
}
