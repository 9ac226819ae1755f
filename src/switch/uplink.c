/* Uplinks (uplink.h).  The port says which it is: its `kept_as` has the config's text. */
#include "src/switch/uplink.h"

#include "src/switch/kept.h"
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

static Port *open_uplink(Switch *sw, const char *text, const char *key, GError **error)
{
    UplinkOptions *options = param_new(&uplink_params);
    Port *port = NULL;

    if (param_parse(&uplink_params, options, text, error))
        port = port_netdev_new(sw, &options->netdev, key, error);
    param_free(&uplink_params, options);
    if (!port)
        g_prefix_error(error, "uplink=%s: ", text);
    return port;
}

bool uplink_configure(Switch *sw, GError **error)
{
    const char *text = sw->config->uplink;
    g_autofree char *key = text ? g_strconcat(KEPT_UPLINK, text, NULL) : NULL;
    Port *old = find(sw);

    if (old && g_strcmp0(old->kept_as, key) == 0)
        return true;
    if (text && !open_uplink(sw, text, key, error))
        return false;
    if (old)
        port_free(old);
    return true;
}
