/* Commands about network cards, under QMP's names (qapi/net.json of QEMU 7.2): the wire
 * that a card to come is plugged into, and the plug of one that is there. */
#include "backend/netdev.h"
#include "control/control.h"
#include "src/control/parts.h"
#include "util/json.h"
#include "virtio/net.h"

/* ---- netdev_add -----------------------------------------------------------------------
 */

typedef struct NetdevArgs {
    char *id;
    int type;
} NetdevArgs;

static const ParamTable netdev_args = {
    .size = sizeof(NetdevArgs),
    .desc = (const ParamDesc[]){{.key = "id",
                                 .type = PARAM_STRING,
                                 .offset = offsetof(NetdevArgs, id),
                                 .help = "its name, for device_add's netdev",
                                 .required = true},
                                {.key = "type",
                                 .type = PARAM_ENUM,
                                 .offset = offsetof(NetdevArgs, type),
                                 .choices = netdev_type_names,
                                 .min = NETDEV_USER,
                                 .help = "and the keys of --net that go with it",
                                 .required = true},
                                {0}},
};

/* So that the macro finds its options under a member's name. */
typedef struct NetDevAlone {
    NetDevOptions o;
} NetDevAlone;

static bool check_netdev(void *options, GError **error)
{
    return netdev_check(options, error);
}

static const ParamTable netdev_table = {
    .size = sizeof(NetDevAlone),
    .desc = (const ParamDesc[]){NETDEV_PARAMS(NetDevAlone, o), {0}},
    .check = check_netdev,
};

/* QMP has [{"str": "tcp::2222-:22"}] where we have ["tcp::2222-:22"]. */
static void flatten_list(json_t *options, const char *key)
{
    json_t *list = json_object_get(options, key), *item;
    size_t i;

    if (!json_is_array(list))
        return;
    list = json_copy(list);
    json_array_foreach(list, i, item)
    {
        if (json_is_string(json_object_get(item, "str")) && json_object_size(item) == 1)
            json_array_set(list, i, json_object_get(item, "str"));
    }
    json_object_set_new(options, key, list);
}

/* What says no more than what we do anyway: no scripts, and no vhost. */
static void drop_what_is_so(json_t *options)
{
    static const char *const scripts[] = {"script", "downscript"};

    for (unsigned i = 0; i < G_N_ELEMENTS(scripts); i++) {
        const char *script = json_string_value(json_object_get(options, scripts[i]));

        if (script && (!*script || g_str_equal(script, "no")))
            json_object_del(options, scripts[i]);
    }
    if (json_is_false(json_object_get(options, "vhost")))
        json_object_del(options, "vhost");
}

/* A stream's socket is {"addr": {"type": "unix", "path": ...}, "server": ...} in QMP. */
static void take_stream(json_t *options)
{
    json_t *addr = json_object_get(options, "addr"), *server;

    if (!g_str_equal(json_get_text(options, "type"), "stream") ||
        !g_str_equal(json_get_text(addr, "type"), "unix"))
        return;
    json_object_set(options, "path", json_object_get(addr, "path"));
    json_object_del(options, "addr");
    server = json_object_get(options, "server");
    if (server)
        json_object_set(options, "listen", server);
    json_object_del(options, "server");
}

static bool is_netdev(json_t *options, GError **error)
{
    void *checked = param_new(&netdev_table);
    bool ok = param_from_json(&netdev_table, checked, options, NULL, error);

    param_free(&netdev_table, checked);
    return ok;
}

static json_t *netdev_add(ControlCall *call, GError **error)
{
    const NetdevArgs *args = call->args;
    json_t *options = json_copy(call->json);

    json_object_del(options, "id");
    flatten_list(options, "hostfwd");
    drop_what_is_so(options);
    take_stream(options);
    if (!is_netdev(options, error)) {
        g_prefix_error(error, "netdev '%s': ", args->id);
        json_decref(options);
        return NULL;
    }
    return parts_add(call->parts, PART_NET, args->id, options, NULL, error)
               ? json_object()
               : NULL;
}

/* ---- netdev_del -----------------------------------------------------------------------
 */

static json_t *netdev_del(ControlCall *call, GError **error)
{
    const PartArgs *args = call->args;

    return parts_remove(call->parts, call->machine, PART_NET, args->id, error)
               ? json_object()
               : NULL;
}

/* ---- x-hutch-net-connect --------------------------------------------------------------
 */

static const ParamTable connect_args = {
    .size = sizeof(PartArgs),
    .desc = (const ParamDesc[]){{.key = "id",
                                 .type = PARAM_STRING,
                                 .offset = offsetof(PartArgs, id),
                                 .help = "of a card, which is plugged in elsewhere: "
                                         "network=NAME, or other keys of --net",
                                 .required = true},
                                {0}},
};

static bool move_card(VirtioDevice *v, json_t *options, GError **error)
{
    NetDevAlone *to = param_new(&netdev_table);
    bool ok = param_from_json(&netdev_table, to, options, NULL, error) &&
              virtio_net_move(v, &to->o, error);

    param_free(&netdev_table, to);
    return ok;
}

static json_t *x_net_connect(ControlCall *call, GError **error)
{
    const PartArgs *args = call->args;
    VirtioDevice *v = machine_find_device(call->machine, args->id);
    json_t *options = json_copy(call->json);
    bool ok = v && virtio_net_wire(v);

    json_object_del(options, "id");
    if (!ok)
        fail(error, VM_ERROR_NOT_FOUND, "there is no network card '%s'", args->id);
    else if (!(ok = move_card(v, options, error)))
        g_prefix_error(error, "%s: ", args->id);
    json_decref(options);
    return ok ? json_object() : NULL;
}

/* ---- set_link -------------------------------------------------------------------------
 */

typedef struct LinkArgs {
    char *name;
    bool up;
} LinkArgs;

static const ParamTable link_args = {
    .size = sizeof(LinkArgs),
    .desc = (const ParamDesc[]){{.key = "name",
                                 .type = PARAM_STRING,
                                 .offset = offsetof(LinkArgs, name),
                                 .help = "id of a card, or of its netdev",
                                 .required = true},
                                {.key = "up",
                                 .type = PARAM_BOOL,
                                 .offset = offsetof(LinkArgs, up),
                                 .help = "false: as if the cable were unplugged",
                                 .required = true},
                                {0}},
};

static json_t *set_link(ControlCall *call, GError **error)
{
    const LinkArgs *args = call->args;
    const Part *part = parts_find(call->parts, PART_NET, args->name);
    const char *id = part && part->user ? part->user : args->name;
    VirtioDevice *v = machine_find_device(call->machine, id);

    if (v && virtio_net_set_link(v, args->up))
        return json_object();
    fail(error, VM_ERROR_NOT_FOUND,
         part ? "no card has netdev '%s'" : "there is no network card '%s'", args->name);
    return NULL;
}

static const ControlCommand commands[] = {
    {"netdev_add", &netdev_args, NULL, CONTROL_OPEN, netdev_add},
    {"netdev_del", &part_args, NULL, 0, netdev_del},
    {"x-hutch-net-connect", &connect_args, NULL, CONTROL_OPEN, x_net_connect},
    {"set_link", &link_args, NULL, 0, set_link},
    {0},
};

const ControlTable control_net_table = {commands, (const ControlEvent[]){{0}}};
