/* hutch set: what can be changed of a running VM, all of it in one notation.
 *
 * Each kind of device has a table of keys in `kinds`, a struct that the table is of, and
 * two functions: one fills in the struct with how things are, the other carries out what
 * has become different.  So what is not given stays as it is, and whatever is added to
 * the tables is listed, parsed and explained without more. */
#include "src/cli/set.h"

#include <stdio.h>
#include <string.h>

#include "control/client.h"
#include "src/cli/disk.h"
#include "src/cli/fleet.h"
#include "util/json.h"

typedef struct SetArgs {
    bool json;
} SetArgs;

const ParamTable set_args = {
    .size = sizeof(SetArgs),
    .desc = (const ParamDesc[]){{.key = "json",
                                 .type = PARAM_BOOL,
                                 .offset = offsetof(SetArgs, json),
                                 .help = "print how all is afterwards, as JSON"},
                                {0}},
};

const char set_about[] =
    "VM is a name, or the path of a control socket, with a '/' in it.  Without "
    "KEY=VALUE, "
    "what can be set is listed, and how it is.  What is not given stays as it is.";
const char set_notes[] =
    "Keys are a device's id, a dot and what is to be set of it: disk0.bps=10M "
    "disk0.size=40G net0.link=down.  A limit of 0 is none.  All are checked before the "
    "first is carried out, and then done one device after the other.";

/* ---- disks ----------------------------------------------------------------------------
 */

typedef struct DiskValues {
    uint64_t size;
    BlockLimits limits;
} DiskValues;

static const ParamTable disk_keys = {
    .size = sizeof(DiskValues),
    .desc = (const ParamDesc[]){{.key = "size",
                                 .type = PARAM_SIZE,
                                 .offset = offsetof(DiskValues, size),
                                 .help = "how large it is; the guest sees it at once"},
                                BLOCK_LIMIT_PARAMS(DiskValues, limits),
                                {0}},
};

static uint64_t number(const json_t *object, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(object, key));
}

/* `of`: an element of query-block. */
static void load_disk(void *values, const json_t *of)
{
    const json_t *in = json_object_get(of, "inserted");

    *(DiskValues *)values = (DiskValues){
        .size = number(json_object_get(in, "image"), "virtual-size"),
        .limits = {.bps = number(in, "bps"),
                   .bps_read = number(in, "bps_rd"),
                   .bps_write = number(in, "bps_wr"),
                   .bps_burst = number(in, "bps_max"),
                   .iops = number(in, "iops"),
                   .iops_read = number(in, "iops_rd"),
                   .iops_write = number(in, "iops_wr"),
                   .iops_burst = number(in, "iops_max")}};
}

static bool store_disk(ControlClient *c, const char *id, const void *before,
                       const void *wanted, GError **error)
{
    const DiskValues *was = before, *is = wanted;

    if (is->size != was->size && !disk_set_size(c, id, is->size, error))
        return false;
    return memcmp(&is->limits, &was->limits, sizeof(is->limits)) == 0 ||
           disk_set_limits(c, id, &is->limits, error);
}

/* ---- network cards --------------------------------------------------------------------
 */

typedef struct CardValues {
    int link;
    char *network;
} CardValues;

static const char *const links[] = {"down", "up", NULL};
static const ParamTable card_keys = {
    .size = sizeof(CardValues),
    .desc = (const ParamDesc[]){{.key = "link",
                                 .type = PARAM_ENUM,
                                 .offset = offsetof(CardValues, link),
                                 .choices = links,
                                 .help = "down: as if the cable were unplugged"},
                                {.key = "network",
                                 .type = PARAM_STRING,
                                 .offset = offsetof(CardValues, network),
                                 .help = "that it is on (or user): it is plugged in "
                                         "there, and its guest sees the link go and "
                                         "come"},
                                {0}},
};

/* `of`: an element of x-hutch-query-devices. */
static void load_card(void *values, const json_t *of)
{
    CardValues *v = values;

    v->link = json_is_true(json_object_get(of, "link"));
    v->network = g_strdup(json_get_text(of, "network"));
}

static bool connect_card(ControlClient *c, const char *id, const char *network,
                         GError **error)
{
    const char *key = g_str_equal(network, "user") ? "type" : "network";
    json_t *reply = control_client_call(
        c, "x-hutch-net-connect", json_pack("{s:s, s:s}", "id", id, key, network), error);

    json_decref(reply);
    return reply != NULL;
}

static bool store_card(ControlClient *c, const char *id, const void *before,
                       const void *wanted, GError **error)
{
    const CardValues *was = before, *is = wanted;
    json_t *reply;

    if (!g_str_equal(is->network, was->network) &&
        !connect_card(c, id, is->network, error))
        return false;
    if (is->link == was->link)
        return true;
    reply = control_client_call(
        c, "set_link", json_pack("{s:s, s:b}", "name", id, "up", is->link), error);
    json_decref(reply);
    return reply != NULL;
}

/* ---- what can be set ------------------------------------------------------------------
 */

static const struct Kind {
    const char *option; /* of hutch run, which makes such a device */
    const ParamTable *keys;
    const char *query, *id; /* what tells of them, and which member is the id */
    void (*load)(void *values, const json_t *of);
    bool (*store)(ControlClient *c, const char *id, const void *before,
                  const void *wanted, GError **error);
} kinds[] = {
    {"disk", &disk_keys, "query-block", "device", load_disk, store_disk},
    {"net", &card_keys, "x-hutch-query-devices", "id", load_card, store_card},
};

/* A device that something can be set of. */
typedef struct Target {
    const struct Kind *kind;
    char *id;
    void *was, *wanted; /* structs of kind->keys */
} Target;

static void target_clear(void *target)
{
    Target *t = target;

    g_free(t->id);
    param_free(t->kind->keys, t->was);
    param_free(t->kind->keys, t->wanted);
}

static void add_target(GArray *all, const struct Kind *kind, const json_t *of)
{
    Target t = {.kind = kind, .id = g_strdup(json_get_text(of, kind->id))};

    t.was = param_new(kind->keys);
    t.wanted = param_new(kind->keys);
    kind->load(t.was, of);
    kind->load(t.wanted, of);
    g_array_append_val(all, t);
}

/* Only x-hutch-query-devices tells of all kinds. */
static bool is_of(const struct Kind *kind, const json_t *of)
{
    const json_t *option = json_object_get(of, "option");

    return !option || g_str_equal(json_string_value(option), kind->option);
}

/* Of the VM as it is; a new array of Targets. */
static GArray *load(ControlClient *c, GError **error)
{
    g_autoptr(GArray) all = g_array_new(FALSE, FALSE, sizeof(Target));

    g_array_set_clear_func(all, target_clear);
    for (const struct Kind *kind = kinds; kind < kinds + G_N_ELEMENTS(kinds); kind++) {
        json_t *list = control_client_call(c, kind->query, NULL, error), *of;
        size_t i;

        if (!list)
            return NULL;
        json_array_foreach(list, i, of) if (is_of(kind, of)) add_target(all, kind, of);
        json_decref(list);
    }
    return g_steal_pointer(&all);
}

/* ---- setting --------------------------------------------------------------------------
 */

/* What `text` begins with is the id of one, and a dot. */
static Target *find_target(GArray *all, const char *text, GError **error)
{
    g_autoptr(GString) ids = g_string_new(NULL);

    for (unsigned i = 0; i < all->len; i++) {
        Target *t = &g_array_index(all, Target, i);
        size_t n = strlen(t->id);

        if (strncmp(text, t->id, n) == 0 && text[n] == '.')
            return t;
        g_string_append_printf(ids, "%s%s", ids->len ? ", " : "", t->id);
    }
    if (ids->len)
        fail(error, VM_ERROR_NOT_FOUND, "ID.KEY=VALUE is wanted, where ID is one of: %s",
             ids->str);
    else
        fail(error, VM_ERROR_NOT_FOUND,
             "the VM has no device that anything can be set of");
    return NULL;
}

static bool fail_unknown(const Target *t, const char *key, GError **error)
{
    g_autoptr(GString) keys = g_string_new(NULL);

    for (const ParamDesc *d = t->kind->keys->desc; d->key; d++) {
        if (param_similar(key, d->key))
            return fail(error, VM_ERROR_INVALID, "did you mean %s.%s?", t->id, d->key);
        g_string_append_printf(keys, "%s%s", keys->len ? ", " : "", d->key);
    }
    return fail(error, VM_ERROR_INVALID, "what can be set of %s is: %s", t->id,
                keys->str);
}

static bool parse_pair(GArray *all, const char *text, GError **error)
{
    Target *t = find_target(all, text, error);
    const char *pair = t ? text + strlen(t->id) + 1 : NULL;
    const char *equals = t ? strchr(pair, '=') : NULL;
    g_autofree char *key = equals ? g_strndup(pair, (gsize)(equals - pair)) : NULL;

    if (!t)
        return false;
    if (!equals)
        return fail(error, VM_ERROR_INVALID, "there is no value: %s.KEY=VALUE is wanted",
                    t->id);
    for (const ParamDesc *d = t->kind->keys->desc; d->key; d++)
        if (g_str_equal(d->key, key))
            return param_set(d, t->wanted, equals + 1, error);
    return fail_unknown(t, key, error);
}

static bool parse(GArray *all, char **pairs, GError **error)
{
    for (; *pairs; pairs++)
        if (!parse_pair(all, *pairs, error)) {
            g_prefix_error(error, "'%s': ", *pairs);
            return false;
        }
    return true;
}

static bool store(ControlClient *c, GArray *all, GError **error)
{
    for (unsigned i = 0; i < all->len; i++) {
        const Target *t = &g_array_index(all, Target, i);

        if (!t->kind->store(c, t->id, t->was, t->wanted, error)) {
            g_prefix_error(error, "%s: ", t->id);
            return false;
        }
    }
    return true;
}

/* ---- showing --------------------------------------------------------------------------
 */

typedef void Show(void *opaque, const char *key, const ParamDesc *desc,
                  const void *values);

static void each_key(const GArray *all, Show *show, void *opaque)
{
    for (unsigned i = 0; i < all->len; i++) {
        const Target *t = &g_array_index(all, Target, i);

        for (const ParamDesc *d = t->kind->keys->desc; d->key; d++) {
            g_autofree char *key = g_strconcat(t->id, ".", d->key, NULL);

            show(opaque, key, d, t->was);
        }
    }
}

static void measure(void *width, const char *key, const ParamDesc *desc,
                    const void *values)
{
    *(int *)width = MAX(*(int *)width, (int)strlen(key));
}

/* As it would be given. */
static void print_key(void *width, const char *key, const ParamDesc *desc,
                      const void *values)
{
    json_t *value = param_value_to_json(desc, values);
    g_autofree char *help = help_key_text(desc);
    g_autofree char *text = json_is_string(value)
                                ? g_strdup(json_string_value(value))
                                : g_strdup_printf("%" JSON_INTEGER_FORMAT,
                                                  json_integer_value(value));

    printf("%-*s  %-8s  %s\n", *(int *)width, key, text, help);
    json_decref(value);
}

/* Sizes are bytes here, always. */
static void add_key(void *json, const char *key, const ParamDesc *desc,
                    const void *values)
{
    const uint64_t *number = (const void *)((const char *)values + desc->offset);

    json_object_set_new(json, key,
                        desc->type == PARAM_SIZE ? json_integer((json_int_t)*number)
                                                 : param_value_to_json(desc, values));
}

static void print_all(const GArray *all, bool as_json)
{
    json_t *json = as_json ? json_object() : NULL;
    int width = 0;

    if (json) {
        each_key(all, add_key, json);
        cli_print_json(json);
        return;
    }
    each_key(all, measure, &width);
    each_key(all, print_key, &width);
}

bool set_act(void *options, char **names, int *status, GError **error)
{
    const SetArgs *args = options;
    g_autoptr(ControlClient) c = control_client_connect(names[0], error);
    g_autoptr(GArray) all = c ? load(c, error) : NULL, now = NULL;

    if (!all)
        return false;
    if (!names[1]) {
        print_all(all, args->json);
        return true;
    }
    if (!parse(all, names + 1, error) || !store(c, all, error)) {
        g_prefix_error(error, "VM '%s': ", names[0]);
        return false;
    }
    if (!args->json)
        return true;
    now = load(c, error);
    if (now)
        print_all(now, true);
    return now != NULL;
}
