/* hutch net connect, disconnect: cards of VMs that run come to a network, move to
 * another, or go; and sockets of other programs are joined. */
#include <stdio.h>
#include <string.h>

#include "control/client.h"
#include "network/place.h"
#include "src/cli/net.h"
#include "util/ioloop.h"
#include "util/json.h"

typedef struct ConnectArgs {
    char *stream, *mac, *firewall;
    char **ip, **groups;
    bool json, force;
    uint64_t timeout_s;
} ConnectArgs;

#define CONNECT_ROW(key_, type_, member_, ...)                                           \
    {                                                                                    \
        .key = key_, .type = type_, .offset = offsetof(ConnectArgs, member_),            \
        ##__VA_ARGS__                                                                    \
    }

const ParamTable net_connect_args = {
    .size = sizeof(ConnectArgs),
    .desc =
        (const ParamDesc[]){
            CONNECT_ROW(
                "stream", PARAM_PATH, stream, .arg = "SOCKET",
                .help = "join a unix socket where another program listens, such as "
                        "passt"),
            CONNECT_ROW("mac", PARAM_STRING, mac, .arg = "MAC",
                        .help = "of a card that is added"),
            CONNECT_ROW("ip", PARAM_LIST, ip, .arg = "ADDRESS",
                        .help = "an address of a card that is added"),
            CONNECT_ROW("group", PARAM_LIST, groups, .arg = "NAME",
                        .help = "a label of it, for rules"),
            CONNECT_ROW("firewall", PARAM_PATH, firewall, .arg = "FILE",
                        .help = "rules for it"),
            CONNECT_ROW("json", PARAM_BOOL, json, .help = "print the result as JSON"),
            {0}},
};

const ParamTable net_disconnect_args = {
    .size = sizeof(ConnectArgs),
    .desc =
        (const ParamDesc[]){
            CONNECT_ROW("stream", PARAM_PATH, stream, .arg = "SOCKET",
                        .help = "leave the program that --stream joined, for good"),
            CONNECT_ROW("force", PARAM_BOOL, force,
                        .help = "do not ask the guest: the switch hangs up"),
            CONNECT_ROW("timeout", PARAM_UINT, timeout_s, .letter = 't', .def = "10",
                        .max = 1000000, .arg = "SECONDS",
                        .help = "how long to wait for the guest; 0: not at all"),
            {0}},
};

const char net_connect_about[] =
    "A card that the VM has (hutch net connect red web:net0) moves: it keeps its MAC "
    "address, its cable is out for a moment, so that the guest asks for an address anew, "
    "and it is announced.  Else a card is added, of that id or of one that is free.  A "
    "program that --stream joined is connected to again when it or the switch ends, "
    "until 'hutch net disconnect'.";

/* ---- cards ----------------------------------------------------------------------------
 */

/* Whether the VM has a device of that id; -1 on failure. */
static int has_card(ControlClient *c, const char *id, GError **error)
{
    json_t *all = control_client_call(c, "x-hutch-query-devices", NULL, error), *device;
    bool found = false;
    size_t i;

    if (!all)
        return -1;
    json_array_foreach(all, i, device)
        found = found || g_str_equal(json_get_text(device, "id"), id);
    json_decref(all);
    return found;
}

static json_t *move(ControlClient *c, const NetTarget *t, GError **error)
{
    json_t *reply = control_client_call(
        c, "x-hutch-net-connect",
        json_pack("{s:s, s:s}", "id", t->nic, "network", t->network), error);

    json_decref(reply);
    return reply ? json_pack("{s:s}", "id", t->nic) : NULL;
}

static void set_text(json_t *value, const char *key, const char *text)
{
    if (text)
        json_object_set_new(value, key, json_string(text));
}

static void set_list(json_t *value, const char *key, char **list)
{
    json_t *array = json_array();

    for (; list && *list; list++)
        json_array_append_new(array, json_string(*list));
    if (json_array_size(array))
        json_object_set(value, key, array);
    json_decref(array);
}

static json_t *add(ControlClient *c, const NetTarget *t, const ConnectArgs *args,
                   GError **error)
{
    g_autofree char *rules = args->firewall
                                 ? g_canonicalize_filename(args->firewall, NULL)
                                 : NULL;
    json_t *value = json_pack("{s:s, s:s}", "type", "network", "network", t->network);

    set_text(value, "id", t->nic);
    set_text(value, "mac", args->mac);
    set_text(value, "firewall", rules);
    set_list(value, "ip", args->ip);
    set_list(value, "group", args->groups);
    return control_client_call(c, "x-hutch-device-add",
                               json_pack("{s:s, s:o}", "option", "net", "value", value),
                               error);
}

static bool connect_card(const NetTarget *t, const ConnectArgs *args, GError **error)
{
    g_autoptr(ControlClient) c = control_client_connect(t->vm, error);
    int has = !c ? -1 : t->nic ? has_card(c, t->nic, error) : 0;
    json_t *reply;

    if (has < 0)
        return false;
    reply = has ? move(c, t, error) : add(c, t, args, error);
    if (!reply) {
        g_prefix_error(error, "VM '%s': ", t->vm);
        return false;
    }
    if (args->json)
        cli_print_json(json_incref(reply));
    else
        printf("%s:%s\n", t->vm, json_get_text(reply, "id"));
    json_decref(reply);
    return true;
}

/* ---- streams --------------------------------------------------------------------------
 */

static bool connect_stream(const NetTarget *t, const ConnectArgs *args, GError **error)
{
    g_autofree char *path = g_canonicalize_filename(args->stream, NULL);
    json_t *reply = network_call(t->network, true, "connect-stream",
                                 json_pack("{s:s}", "path", path), error);

    if (!reply)
        return false;
    if (args->json)
        cli_print_json(json_incref(reply));
    json_decref(reply);
    return true;
}

bool net_act_connect(void *options, char **names, int *status, GError **error)
{
    const ConnectArgs *args = options;
    NetTarget t;
    bool ok;

    if (!names[1] == !args->stream)
        return fail(error, VM_ERROR_INVALID,
                    "what is to be connected? Give VM[:NIC] or --stream SOCKET");
    if (!net_target(names[0], names[1], &t, error))
        return false;
    if (t.has_port) {
        net_target_clear(&t);
        return fail(error, VM_ERROR_INVALID, "'%s' is on a network already", names[1]);
    }
    ok = args->stream ? connect_stream(&t, args, error) : connect_card(&t, args, error);
    net_target_clear(&t);
    return ok;
}

/* ---- going ----------------------------------------------------------------------------
 */

/* Which card of the VM it is, if it was not said: the one that is on the network. */
static bool find_nic(NetTarget *t, GError **error)
{
    json_t *ports = network_call(t->network, false, "query-ports", NULL, error), *port;
    bool ok = ports != NULL;
    size_t i;

    json_array_foreach(ports, i, port)
    {
        if (!net_is_port(t, port))
            continue;
        if (!t->nic)
            t->nic = g_strdup(json_get_text(port, "nic"));
        json_decref(ports);
        return true;
    }
    json_decref(ports);
    return ok && fail(error, VM_ERROR_NOT_FOUND,
                      "VM '%s' has no such card on network '%s'", t->vm, t->network);
}

static bool is_deleted(const json_t *event, const char *id)
{
    return g_str_equal(json_get_text(event, "event"), "DEVICE_DELETED") &&
           g_str_equal(json_get_text(json_object_get(event, "data"), "device"), id);
}

/* A VM that ends meanwhile has left, too. */
static bool wait_until_ejected(ControlClient *c, const NetTarget *t, uint64_t timeout_s,
                               GError **error)
{
    const int64_t deadline_ns = clock_ns() + (int64_t)timeout_s * 1000000000;
    g_autoptr(GError) why = NULL;
    json_t *event;

    while ((event = control_client_event(c, clock_left_ms(deadline_ns), &why))) {
        bool deleted = is_deleted(event, t->nic);

        json_decref(event);
        if (deleted)
            return true;
    }
    return why || fail(error, VM_ERROR_BUSY,
                       "VM '%s' was asked to give up %s and has not within %d s: it "
                       "leaves when its guest lets go, or at once with --force",
                       t->vm, t->nic, (int)timeout_s);
}

static bool remove_card(const NetTarget *t, uint64_t timeout_s, GError **error)
{
    g_autoptr(ControlClient) c = control_client_connect(t->vm, error);
    json_t *reply = c ? control_client_call(c, "device_del",
                                            json_pack("{s:s}", "id", t->nic), error)
                      : NULL;
    bool asked = reply != NULL;

    if (c && !asked)
        g_prefix_error(error, "VM '%s': ", t->vm);
    json_decref(reply);
    return asked && (!timeout_s || wait_until_ejected(c, t, timeout_s, error));
}

/* Also of a network that is down: its next switch would go there again. */
static bool leave_stream(const NetTarget *t, const char *stream, GError **error)
{
    g_autofree char *path = g_canonicalize_filename(stream, NULL);
    json_t *reply = network_call(t->network, true, "disconnect",
                                 json_pack("{s:s}", "path", path), error);

    json_decref(reply);
    return reply != NULL;
}

static bool hang_up(const NetTarget *t, GError **error)
{
    json_t *reply = network_call(t->network, false, "disconnect", net_arguments(t),
                                 error);

    json_decref(reply);
    return reply != NULL;
}

bool net_act_disconnect(void *options, char **names, int *status, GError **error)
{
    const ConnectArgs *args = options;
    NetTarget t;
    bool ok;

    if (!names[1] == !args->stream)
        return fail(
            error, VM_ERROR_INVALID,
            "what is to be disconnected? Give VM[:NIC], :PORT or --stream SOCKET");
    if (!net_target(names[0], names[1], &t, error))
        return false;
    if (args->stream)
        ok = leave_stream(&t, args->stream, error);
    else if (args->force || t.has_port)
        ok = hang_up(&t, error);
    else
        ok = find_nic(&t, error) && remove_card(&t, args->timeout_s, error);
    net_target_clear(&t);
    return ok;
}
