/* hutch net create, set, route, rm: what a network is. */
#include <stdio.h>
#include <string.h>

#include "firewall/firewall.h"
#include "network/place.h"
#include "src/cli/net.h"
#include "util/json.h"

/* ---- create ---------------------------------------------------------------------------
 */

typedef struct CreateArgs {
    NetworkConfig config;
    bool isolated, nat, routed, json;
    char *firewall;
} CreateArgs;

#define CREATE_ROW(key_, type_, member_, help_, ...)                                     \
    {                                                                                    \
        .key = key_, .type = type_, .offset = offsetof(CreateArgs, member_),             \
        .help = help_, ##__VA_ARGS__                                                     \
    }

const ParamTable net_create_args = {
    .size = sizeof(CreateArgs),
    .desc = (const ParamDesc[]){CREATE_ROW("isolated", PARAM_BOOL, isolated,
                                           "its VMs reach each other, and nothing else"),
                                CREATE_ROW("nat", PARAM_BOOL, nat,
                                           "they reach what this host does, with its "
                                           "addresses; the default"),
                                CREATE_ROW("routed", PARAM_BOOL, routed,
                                           "they reach the networks of --route"),
                                NETWORK_PARAMS(CreateArgs, config),
                                CREATE_ROW("firewall", PARAM_PATH, firewall,
                                           "rules for all of its VMs (docs/firewall.md)",
                                           .arg = "FILE"),
                                CREATE_ROW("json", PARAM_BOOL, json,
                                           "print what was made, as JSON"),
                                {0}},
};

static bool take_mode(CreateArgs *args, GError **error)
{
    if (args->isolated + args->nat + args->routed > 1)
        return fail(error, VM_ERROR_INVALID,
                    "--isolated, --nat and --routed: give one of them");
    args->config.mode = args->isolated ? NETWORK_ISOLATED
                        : args->routed ? NETWORK_ROUTED
                                       : NETWORK_NAT;
    if (!args->config.subnet)
        args->config.subnet = g_strdup("auto");
    return true;
}

static bool read_rules(const char *path, char **ret, GError **error)
{
    g_autoptr(GError) why = NULL;
    g_autoptr(Firewall) fw = NULL;

    if (!g_file_get_contents(path, ret, NULL, &why))
        return fail(error, VM_ERROR_IO, "%s", why->message);
    fw = firewall_parse(*ret, path, error);
    return fw != NULL;
}

static void print_made(const char *name, const NetworkConfig *config)
{
    printf("%s: %s", name, network_mode_names[config->mode]);
    if (config->subnet)
        printf(", %s", config->subnet);
    if (config->subnet6)
        printf(", %s", config->subnet6);
    putchar('\n');
}

bool net_act_create(void *options, char **names, int *status, GError **error)
{
    CreateArgs *args = options;
    g_autofree char *rules = NULL;

    if (!take_mode(args, error) ||
        (args->firewall && !read_rules(args->firewall, &rules, error)) ||
        !network_create(names[0], &args->config, error))
        return false;
    if (rules && !network_write(names[0], NETWORK_RULES, rules, error)) {
        network_remove(names[0], NULL);
        return false;
    }
    if (args->json)
        cli_print_json(param_to_json(&network_params, &args->config));
    else
        print_made(names[0], &args->config);
    return true;
}

/* ---- set ------------------------------------------------------------------------------
 */

typedef struct SetArgs {
    bool json;
} SetArgs;

const ParamTable net_set_args = {
    .size = sizeof(SetArgs),
    .desc = (const ParamDesc[]){{.key = "json",
                                 .type = PARAM_BOOL,
                                 .offset = offsetof(SetArgs, json),
                                 .help = "print how all is afterwards, as JSON"},
                                {0}},
};

static bool fail_key(const char *key, GError **error)
{
    g_autoptr(GString) keys = g_string_new(NULL);

    for (const ParamDesc *d = network_params.desc; d->key; d++) {
        if (param_similar(key, d->key))
            return fail(error, VM_ERROR_INVALID, "there is no '%s'; did you mean '%s'?",
                        key, d->key);
        g_string_append_printf(keys, "%s%s", keys->len ? ", " : "", d->key);
    }
    return fail(error, VM_ERROR_INVALID,
                "there is no '%s'; what can be set of a network is: %s", key, keys->str);
}

/* Takes the first that is `value` out of a list. */
static bool take_out(char **list, const char *value)
{
    for (; list && *list; list++)
        if (g_str_equal(*list, value)) {
            g_free(*list);
            for (; *list; list++)
                list[0] = list[1];
            return true;
        }
    return false;
}

/* '=' exchanges all of a list: by the values between commas, or by none. */
static bool set_list(const ParamDesc *d, NetworkConfig *config, char how,
                     const char *value, GError **error)
{
    g_auto(GStrv) values = g_strsplit(value, ",", -1);
    char ***list = (char ***)((char *)config + d->offset);

    if (how == '=')
        param_clear(d, config);
    for (char **v = values; *v; v++) {
        if (how != '-' && **v && !param_set(d, config, *v, error))
            return false;
        if (how == '-' && !take_out(*list, *v))
            return fail(error, VM_ERROR_NOT_FOUND, "%s: the network has no '%s'", d->key,
                        *v);
    }
    return true;
}

static bool set_pair(NetworkConfig *config, const char *pair, GError **error)
{
    const char *equals = strchr(pair, '=');
    char how = equals && equals > pair && strchr("+-", equals[-1]) ? equals[-1] : '=';
    g_autofree char *key = equals ? g_strndup(pair, (gsize)(equals - pair) - (how != '='))
                                  : NULL;
    const ParamDesc *d = network_params.desc;

    if (!equals)
        return fail(error, VM_ERROR_INVALID, "'%s' is not KEY=VALUE", pair);
    while (d->key && !g_str_equal(d->key, key))
        d++;
    if (!d->key)
        return fail_key(key, error);
    if (d->type == PARAM_LIST)
        return set_list(d, config, how, equals + 1, error);
    if (how != '=')
        return fail(error, VM_ERROR_INVALID,
                    "%s: there is one value only, which %s=VALUE sets", d->key, d->key);
    return param_set(d, config, equals + 1, error);
}

/* A switch that refuses gets its old config back. */
static bool apply(const char *name, NetworkConfig *config, GError **error)
{
    NetworkConfig *old = network_load(name, error);
    json_t *reply = NULL;
    bool ok = old && network_store(name, config, error);

    if (ok && network_is_up(name)) {
        reply = network_call(name, false, "reconfigure", NULL, error);
        ok = reply != NULL;
        if (!ok && !network_store(name, old, NULL))
            g_prefix_error(error, "(and its old options could not be put back) ");
    }
    json_decref(reply);
    param_free(&network_params, old);
    return ok;
}

static json_t *config_json(const NetworkConfig *config)
{
    json_t *all = json_object();

    for (const ParamDesc *d = network_params.desc; d->key; d++) {
        json_t *value = param_value_to_json(d, config);

        json_object_set_new(all, d->key, value ? value : json_null());
    }
    return all;
}

static char *cell_of(const json_t *all, const ParamDesc *d)
{
    if (d->type == PARAM_BOOL)
        return g_strdup(json_is_true(json_object_get(all, d->key)) ? "on" : "off");
    return net_cell(all, d->key);
}

static void print_keys(const NetworkConfig *config)
{
    json_t *all = config_json(config);
    int width = 0;

    for (const ParamDesc *d = network_params.desc; d->key; d++) {
        g_autofree char *text = cell_of(all, d);

        width = MAX(width, (int)strlen(text));
    }
    for (const ParamDesc *d = network_params.desc; d->key; d++) {
        g_autofree char *text = cell_of(all, d), *help = help_key_text(d);

        printf("%-8s  %-*s  %s\n", d->key, width, text, help);
    }
    json_decref(all);
}

bool net_act_set(void *options, char **names, int *status, GError **error)
{
    const SetArgs *args = options;
    NetworkConfig *config = network_load(names[0], error);
    bool ok = config != NULL;

    for (char **pair = names + 1; ok && *pair; pair++)
        ok = set_pair(config, *pair, error);
    if (ok && names[1])
        ok = apply(names[0], config, error);
    if (ok && args->json)
        cli_print_json(config_json(config));
    else if (ok && !names[1])
        print_keys(config);
    param_free(&network_params, config);
    return ok;
}

/* ---- route ----------------------------------------------------------------------------
 */

static bool has_route(const NetworkConfig *config, const char *other)
{
    return config->routes && g_strv_contains((const char *const *)config->routes, other);
}

static bool change_route(const char *name, NetworkConfig *config, bool add,
                         const char *other, GError **error)
{
    g_autofree char *pair = g_strdup_printf("route%c=%s", add ? '+' : '-', other);
    NetworkConfig *there = add ? network_load(other, error) : NULL;
    bool known = !add || there;

    param_free(&network_params, there);
    if (known && add && has_route(config, other))
        return fail(error, VM_ERROR_BUSY, "network '%s' has a route to '%s' already",
                    name, other);
    if (!add && !has_route(config, other))
        return fail(error, VM_ERROR_NOT_FOUND, "network '%s' has no route to '%s'", name,
                    other);
    return known && set_pair(config, pair, error);
}

static bool change_routes(const char *name, bool add, char **others, GError **error)
{
    NetworkConfig *config = network_load(name, error);
    bool ok = config != NULL;

    for (; ok && *others; others++)
        ok = change_route(name, config, add, *others, error);
    ok = ok && apply(name, config, error);
    param_free(&network_params, config);
    return ok;
}

bool net_act_route(void *options, char **names, int *status, GError **error)
{
    static const char *const ways[] = {"ls", "add", "rm", NULL};
    const SetArgs *args = options;
    const bool ls = g_str_equal(names[1], ways[0]);

    if (!g_strv_contains(ways, names[1]) || ls != !names[2])
        return fail(error, VM_ERROR_INVALID,
                    "'%s': give ls, or add or rm and the networks", names[1]);
    if (!ls && !change_routes(names[0], g_str_equal(names[1], ways[1]), names + 2, error))
        return false;
    return !(ls || args->json) || net_list_routes(names[0], args->json, error);
}

/* ---- rm -------------------------------------------------------------------------------
 */

typedef struct RmArgs {
    bool force;
} RmArgs;

const ParamTable net_rm_args = {
    .size = sizeof(RmArgs),
    .desc = (const ParamDesc[]){{.key = "force",
                                 .letter = 'f',
                                 .type = PARAM_BOOL,
                                 .offset = offsetof(RmArgs, force),
                                 .help = "also with VMs on it, whose links go down, and "
                                         "though others have routes to it"},
                                {0}},
};

/* "web", or "a stream on port 3"; a new string. */
static char *who_is(const json_t *port)
{
    const char *vm = json_get_text(port, "vm");

    if (*vm)
        return g_strdup(vm);
    return g_strdup_printf("a %s on port %d", json_get_text(port, "kind"),
                           (int)json_integer_value(json_object_get(port, "port")));
}

/* Who is on it, with commas; a new string, "" if nobody is. */
static char *who_is_on(const char *name, GError **error)
{
    const NetTarget t = {.network = (char *)name};
    json_t *ports = net_ask_list(&t, "query-ports", error), *port;
    g_autoptr(GPtrArray) who = g_ptr_array_new_with_free_func(g_free);
    bool ok = ports != NULL;
    size_t i;

    json_array_foreach(ports, i, port)
    {
        g_autofree char *one = who_is(port);

        if (!g_str_equal(json_get_text(port, "kind"), "uplink") &&
            !g_ptr_array_find_with_equal_func(who, one, g_str_equal, NULL))
            g_ptr_array_add(who, g_steal_pointer(&one));
    }
    json_decref(ports);
    g_ptr_array_add(who, NULL);
    return ok ? g_strjoinv(", ", (char **)who->pdata) : NULL;
}

static bool check_routes(const char *name, GError **error)
{
    g_auto(GStrv) names = network_list(NULL);

    for (char **n = names; n && *n; n++) {
        NetworkConfig *other = network_load(*n, NULL);
        bool has = other && has_route(other, name);

        param_free(&network_params, other);
        if (has)
            return fail(error, VM_ERROR_BUSY,
                        "network '%s' has a route to '%s': 'hutch net route %s rm %s' "
                        "first, or use --force",
                        *n, name, *n, name);
    }
    return true;
}

static bool check_unused(const char *name, GError **error)
{
    g_autofree char *who = who_is_on(name, error);

    if (!who)
        return false;
    return !*who || fail(error, VM_ERROR_BUSY,
                         "network '%s' is in use by %s: stop or disconnect what is on "
                         "it, or use --force",
                         name, who);
}

static bool remove_one(const char *name, bool force, GError **error)
{
    g_autoptr(GError) why = NULL, gone = NULL;
    NetworkConfig *config = network_load(name, &why);
    json_t *reply = NULL;

    param_free(&network_params, config);
    if (why && why->code == VM_ERROR_NOT_FOUND) { /* what cannot be read can go */
        g_propagate_error(error, g_steal_pointer(&why));
        return false;
    }
    if (!force && (!check_unused(name, error) || !check_routes(name, error)))
        return false;
    if (!network_remove(name, error))
        return false;
    if (network_is_up(name))
        reply = network_call(name, false, "quit", NULL, &gone); /* it may just have */
    json_decref(reply);
    return true;
}

bool net_act_rm(void *options, char **names, int *status, GError **error)
{
    const RmArgs *args = options;

    for (; *names; names++)
        if (!remove_one(*names, args->force, error))
            return false;
    return true;
}
