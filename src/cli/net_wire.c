/* hutch net limit, impair, port: what one port's wire is like.  Without options each
 * shows how it is. */
#include <stdio.h>
#include <string.h>

#include "network/place.h"
#include "src/cli/net.h"
#include "util/json.h"

/* The options of the three. */
typedef struct WireArgs {
    bool json, clear, cut, restore;
    int direction, trust; /* plus one; 0: not given */
    char *rate, *burst;   /* sizes; NULL: not given, as all of these */
    char *packets, *packet_burst;
    char *delay, *jitter, *loss, *duplicate, *reorder, *corrupt, *seed;
    char *vlan, *trunk, *groups;
} WireArgs;

#define WIRE_ROW(key_, member_, ...)                                                     \
    {                                                                                    \
        .key = key_, .type = PARAM_STRING, .offset = offsetof(WireArgs, member_),        \
        ##__VA_ARGS__                                                                    \
    }
#define WIRE_FLAG(key_, member_, ...)                                                    \
    {                                                                                    \
        .key = key_, .type = PARAM_BOOL, .offset = offsetof(WireArgs, member_),          \
        ##__VA_ARGS__                                                                    \
    }

static const char *const directions[] = {"in", "out", "both", NULL};
static const char *const on_off[] = {"off", "on", NULL};

#define WIRE_DIRECTION                                                                   \
    {                                                                                    \
        .key = "direction", .type = PARAM_ENUM, .offset = offsetof(WireArgs, direction), \
        .choices = directions, .min = 1,                                                 \
        .help = "to the VM, from it, or both, which is the default"                      \
    }
#define WIRE_JSON WIRE_FLAG("json", json, .help = "print how it is afterwards, as JSON")

const ParamTable net_limit_args = {
    .size = sizeof(WireArgs),
    .desc = (const ParamDesc[]){WIRE_DIRECTION,
                                WIRE_ROW("rate", rate, .arg = "SIZE",
                                         .help = "bytes a second, such as 10M; 0: any"),
                                WIRE_ROW("burst", burst, .arg = "SIZE",
                                         .help = "bytes that may come at once; 0: a "
                                                 "tenth of a second's"),
                                WIRE_ROW("packets", packets, .arg = "N",
                                         .help = "packets a second; 0: any number"),
                                WIRE_ROW("packet-burst", packet_burst, .arg = "N",
                                         .help = "packets that may come at once; 0: a "
                                                 "tenth of a second's"),
                                WIRE_FLAG("clear", clear,
                                          .help = "no limit, of that direction"),
                                WIRE_JSON,
                                {0}},
};
const ParamTable net_impair_args = {
    .size = sizeof(WireArgs),
    .desc =
        (const ParamDesc[]){
            WIRE_DIRECTION,
            WIRE_ROW("delay", delay, .arg = "TIME",
                     .help = "each packet comes so much later: 20ms"),
            WIRE_ROW("jitter", jitter, .arg = "TIME",
                     .help = "and that much earlier or later still"),
            WIRE_ROW("loss", loss, .arg = "PERCENT", .help = "packets that are lost: 1%"),
            WIRE_ROW("duplicate", duplicate, .arg = "PERCENT",
                     .help = "packets that come twice"),
            WIRE_ROW("reorder", reorder, .arg = "PERCENT",
                     .help = "packets that come before others"),
            WIRE_ROW("corrupt", corrupt, .arg = "PERCENT",
                     .help = "packets with a wrong bit"),
            WIRE_ROW("seed", seed, .arg = "N",
                     .help = "of the random numbers, to repeat a run"),
            WIRE_FLAG("clear", clear, .help = "a good wire again, of that direction"),
            WIRE_FLAG("cut", cut, .help = "cut the cable: the link is down"),
            WIRE_FLAG("restore", restore, .help = "mend it"),
            WIRE_JSON,
            {0}},
};
const ParamTable net_port_args = {
    .size = sizeof(WireArgs),
    .desc =
        (const ParamDesc[]){
            WIRE_ROW("vlan", vlan, .arg = "N",
                     .help = "the VLAN of its untagged frames, 1 to 4094; 0: none"),
            WIRE_ROW("trunk", trunk, .arg = "N[,N]...",
                     .help = "VLANs of its tagged frames; '': none"),
            WIRE_ROW("groups", groups, .arg = "NAME[,NAME]...",
                     .help = "labels that firewall rules may name; '': none"),
            {.key = "trust",
             .type = PARAM_ENUM,
             .offset = offsetof(WireArgs, trust),
             .choices = on_off,
             .min = 1,
             .help = "on: it may use any address, and serve DHCP"},
            WIRE_JSON,
            {0}},
};

const char net_limit_about[] =
    "What is beyond a limit is dropped.  What is not given stays as it is; without "
    "options, the limits are shown.  They hold while the VM stays on the network.";
const char net_impair_about[] =
    "What is not given stays as it is; without options, it is shown.  It holds while the "
    "VM stays on the network.  A frame is delayed, lost and so on for each direction by "
    "itself, so that a delay of both is twice in a ping's time.";

/* ---- arguments ------------------------------------------------------------------------
 */

/* Notations of options: each puts a JSON number under the key. */
typedef bool Take(const char *text, json_t **ret, GError **error);

static bool take_size(const char *text, json_t **ret, GError **error)
{
    uint64_t v;

    if (!param_parse_size(text, &v, error))
        return false;
    *ret = json_integer((json_int_t)MIN(v, (uint64_t)INT64_MAX));
    return true;
}

static bool take_number(const char *text, json_t **ret, GError **error)
{
    guint64 v;

    if (!g_ascii_string_to_unsigned(text, 10, 0, INT64_MAX, &v, NULL))
        return fail(error, VM_ERROR_INVALID, "'%s' is not a number", text);
    *ret = json_integer((json_int_t)v);
    return true;
}

static bool take_time(const char *text, json_t **ret, GError **error)
{
    uint64_t us;

    if (!net_parse_time(text, &us, error))
        return false;
    *ret = json_integer((json_int_t)us);
    return true;
}

static bool take_percent(const char *text, json_t **ret, GError **error)
{
    double v;

    if (!net_parse_percent(text, &v, error))
        return false;
    *ret = json_real(v);
    return true;
}

static bool take_vlan(const char *text, json_t **ret, GError **error)
{
    guint64 v;

    if (!g_ascii_string_to_unsigned(text, 10, 0, 4094, &v, NULL))
        return fail(error, VM_ERROR_INVALID, "'%s' is not a VLAN: 1 to 4094, or 0", text);
    *ret = json_integer((json_int_t)v);
    return true;
}

static bool take_list(const char *text, Take *each, json_t **ret, GError **error)
{
    g_auto(GStrv) items = g_strsplit(text, ",", -1);
    json_t *array = json_array(), *one;

    for (char **i = items; *i; i++) {
        if (each && !each(*i, &one, error)) {
            json_decref(array);
            return false;
        }
        json_array_append_new(array, each ? one : json_string(*i));
    }
    *ret = array;
    return true;
}

static bool take_vlans(const char *text, json_t **ret, GError **error)
{
    return take_list(text, take_vlan, ret, error);
}

static bool take_names(const char *text, json_t **ret, GError **error)
{
    return take_list(text, NULL, ret, error);
}

/* ---- and back -------------------------------------------------------------------------
 */

typedef char *Text(const json_t *value);

static char *size_text(const json_t *value)
{
    static const char units[] = " KMGT";
    json_int_t v = json_integer_value(value);
    const char *unit = units;

    for (; v && v % 1024 == 0 && unit[1]; unit++)
        v /= 1024;
    return g_strdup_printf("%" JSON_INTEGER_FORMAT "%.*s", v, unit > units, unit);
}

static char *number_text(const json_t *value)
{
    return g_strdup_printf("%" JSON_INTEGER_FORMAT, json_integer_value(value));
}

static char *time_text(const json_t *value)
{
    json_int_t us = json_integer_value(value);

    return us % 1000 ? g_strdup_printf("%" JSON_INTEGER_FORMAT "us", us)
                     : g_strdup_printf("%" JSON_INTEGER_FORMAT "ms", us / 1000);
}

static char *percent_text(const json_t *value)
{
    return g_strdup_printf("%g%%", json_number_value(value) * 100);
}

/* An option, and how it is called and written in messages. */
typedef struct Key {
    const char *option, *key;
    size_t offset;
    Take *take;
    Text *text; /* NULL: it is not shown so */
} Key;

static const Key limit_keys[] = {
    {"rate", "bytes-per-s", offsetof(WireArgs, rate), take_size, size_text},
    {"burst", "burst-bytes", offsetof(WireArgs, burst), take_size, size_text},
    {"packets", "frames-per-s", offsetof(WireArgs, packets), take_number, number_text},
    {"packet-burst", "burst-frames", offsetof(WireArgs, packet_burst), take_number,
     number_text},
    {0},
};
static const Key impair_keys[] = {
    {"delay", "delay-us", offsetof(WireArgs, delay), take_time, time_text},
    {"jitter", "jitter-us", offsetof(WireArgs, jitter), take_time, time_text},
    {"loss", "loss", offsetof(WireArgs, loss), take_percent, percent_text},
    {"duplicate", "duplicate", offsetof(WireArgs, duplicate), take_percent, percent_text},
    {"reorder", "reorder", offsetof(WireArgs, reorder), take_percent, percent_text},
    {"corrupt", "corrupt", offsetof(WireArgs, corrupt), take_percent, percent_text},
    {"seed", "seed", offsetof(WireArgs, seed), take_number, number_text},
    {0},
};
static const Key port_keys[] = {
    {"vlan", "vlan", offsetof(WireArgs, vlan), take_vlan},
    {"trunk", "trunk", offsetof(WireArgs, trunk), take_vlans},
    {"groups", "groups", offsetof(WireArgs, groups), take_names},
    {0},
};

/* Puts what was given into `arguments`. */
static bool take_all(const Key *keys, const WireArgs *args, json_t *arguments,
                     GError **error)
{
    for (; keys->option; keys++) {
        const char *text = *(char *const *)((const char *)args + keys->offset);
        json_t *value;

        if (!text)
            continue;
        if (!keys->take(text, &value, error)) {
            g_prefix_error(error, "--%s: ", keys->option);
            return false;
        }
        json_object_set_new(arguments, keys->key, value);
    }
    return true;
}

/* ---- showing --------------------------------------------------------------------------
 */

/* What `of` (limit or impair) says of a direction, as its options would. */
static void print_direction(const json_t *port, const char *direction, const char *of,
                            const Key *keys)
{
    const json_t *how = json_object_get(json_object_get(port, direction), of);
    g_autoptr(GString) all = g_string_new(NULL);

    for (const Key *k = keys; k->option; k++) {
        const json_t *value = json_object_get(how, k->key);
        g_autofree char *text = json_number_value(value) > 0 ? k->text(value) : NULL;

        if (text)
            g_string_append_printf(all, "%s%s %s", all->len ? ", " : "", k->option, text);
    }
    printf("%-3s  %s\n", direction, all->len ? all->str : "-");
}

/* Takes the reply of query-limits and of what sets them. */
static void print_limits(json_t *reply, const char *of, const Key *keys, bool json)
{
    const json_t *port = json_array_get(reply, 0);

    if (json) {
        cli_print_json(reply);
        return;
    }
    print_direction(port, "in", of, keys);
    print_direction(port, "out", of, keys);
    if (keys == impair_keys && json_is_false(json_object_get(port, "link")))
        puts("cut; --restore mends it");
    json_decref(reply);
}

/* ---- doing ----------------------------------------------------------------------------
 */

static json_t *call(const NetTarget *t, const char *command, json_t *arguments,
                    GError **error)
{
    return network_call(t->network, false, command, arguments, error);
}

/* What was given stays; a wire has a word for it, so that its delayed packets go on. */
static void clear_all(const Key *keys, json_t *arguments)
{
    if (keys == impair_keys)
        json_object_set_new(arguments, "clear", json_true());
    for (const Key *k = keys; k->key && keys == limit_keys; k++)
        if (!json_object_get(arguments, k->key))
            json_object_set_new(arguments, k->key, json_integer(0));
}

/* Sends `command` if any key was given, and prints how it is then. */
static bool set_limits(const NetTarget *t, const WireArgs *args, const char *command,
                       const char *of, const Key *keys, GError **error)
{
    static const char *const words[] = {"both", "in", "out", "both"};
    json_t *arguments = net_arguments(t), *reply;
    size_t before = json_object_size(arguments);
    bool set;

    if (!take_all(keys, args, arguments, error)) {
        json_decref(arguments);
        return false;
    }
    if (args->clear)
        clear_all(keys, arguments);
    set = json_object_size(arguments) > before;
    if (set)
        json_object_set_new(arguments, "direction", json_string(words[args->direction]));
    reply = call(t, set ? command : "query-limits", arguments, error);
    if (!reply)
        return false;
    if (!set || args->json)
        print_limits(reply, of, keys, args->json);
    else
        json_decref(reply);
    return true;
}

static bool set_link(const NetTarget *t, bool up, GError **error)
{
    json_t *arguments = net_arguments(t), *reply;

    json_object_set_new(arguments, "link", json_boolean(up));
    reply = call(t, "set-port", arguments, error);
    json_decref(reply);
    return reply != NULL;
}

bool net_act_limit(void *options, char **names, int *status, GError **error)
{
    NetTarget t;
    bool ok;

    if (!net_target(names[0], names[1], &t, error))
        return false;
    ok = set_limits(&t, options, "set-limit", "limit", limit_keys, error);
    net_target_clear(&t);
    return ok;
}

static bool impair(const NetTarget *t, const WireArgs *args, GError **error)
{
    bool wire = false;

    if (args->cut && args->restore)
        return fail(error, VM_ERROR_INVALID, "--cut and --restore: give one of them");
    if ((args->cut || args->restore) && !set_link(t, args->restore, error))
        return false;
    for (const Key *k = impair_keys; k->option; k++)
        wire = wire || *(char *const *)((const char *)args + k->offset);
    if ((args->cut || args->restore) && !wire && !args->clear)
        return true;
    return set_limits(t, args, "set-impair", "impair", impair_keys, error);
}

bool net_act_impair(void *options, char **names, int *status, GError **error)
{
    NetTarget t;
    bool ok;

    if (!net_target(names[0], names[1], &t, error))
        return false;
    ok = impair(&t, options, error);
    net_target_clear(&t);
    return ok;
}

/* The element of query-ports; a new reference. */
static json_t *find_port(const NetTarget *t, GError **error)
{
    json_t *ports = call(t, "query-ports", NULL, error), *port, *found = NULL;
    size_t i;

    json_array_foreach(ports, i, port)
    {
        if (!found && net_is_port(t, port))
            found = json_incref(port);
    }
    if (ports && !found)
        fail(error, VM_ERROR_NOT_FOUND, "network '%s' has no such port", t->network);
    json_decref(ports);
    return found;
}

static bool set_port(const NetTarget *t, const WireArgs *args, GError **error)
{
    json_t *arguments = net_arguments(t), *reply;
    size_t before = json_object_size(arguments);

    if (!take_all(port_keys, args, arguments, error)) {
        json_decref(arguments);
        return false;
    }
    if (args->trust)
        json_object_set_new(arguments, "trust", json_boolean(args->trust == 2));
    if (json_object_size(arguments) == before) {
        json_decref(arguments);
        return true;
    }
    reply = call(t, "set-port", arguments, error);
    json_decref(reply);
    return reply != NULL;
}

static void print_port(const json_t *port)
{
    static const char *const keys[] = {"port",      "mac",    "link",  "vlan", "trunk",
                                       "addresses", "groups", "trust", NULL};

    for (const char *const *k = keys; *k; k++) {
        g_autofree char *text = net_cell(port, *k);

        printf("%-9s  %s\n", *k, text);
    }
}

bool net_act_port(void *options, char **names, int *status, GError **error)
{
    const WireArgs *args = options;
    bool given = args->vlan || args->trunk || args->groups || args->trust, ok;
    json_t *port = NULL;
    NetTarget t;

    if (!net_target(names[0], names[1], &t, error))
        return false;
    ok = set_port(&t, args, error);
    if (ok && (!given || args->json)) {
        port = find_port(&t, error);
        ok = port != NULL;
    }
    if (port && args->json)
        cli_print_json(json_incref(port));
    else if (port)
        print_port(port);
    json_decref(port);
    net_target_clear(&t);
    return ok;
}
