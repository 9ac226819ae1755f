/* See snapshot/identity.h.
 *
 * A card's made-up MAC follows from its VM's name (virtio/net.c), so a clone's own one is
 * what comes of not saying any. */
#include "snapshot/identity.h"

#include <string.h>

typedef enum {
    DROP,   /* as if it had not been said */
    MOVE,   /* a file or socket: into the run folder */
    REFUSE, /* nobody but the user knows another one */
} Deed;

static const struct Rule {
    const char *option, *key;
    Deed deed;
} rules[] = {
    {"net", "mac", DROP},        {"net", "hostfwd", DROP}, {"net", "ifname", REFUSE},
    {"console", "socket", MOVE}, {"console", "log", MOVE}, {"console", "file", MOVE},
    {"serial", "socket", MOVE},  {"serial", "log", MOVE},  {"serial", "file", MOVE},
    {"vsock", "path", MOVE},
};

/* "RUN/console0-file". */
static json_t *moved(const CloneIdentity *who, const char *id, const json_t *path)
{
    g_autofree char *base = g_path_get_basename(json_string_value(path));
    g_autofree char *name = g_strdup_printf("%s-%s", id, base);
    g_autofree char *to = g_build_filename(who->folder, name, NULL);

    return json_string(to);
}

static bool change(json_t *options, const struct Rule *rule, const CloneIdentity *who,
                   const char *id, GError **error)
{
    const json_t *value = json_object_get(options, rule->key);

    if (!value)
        return true;
    switch (rule->deed) {
    case DROP:
        json_object_del(options, rule->key);
        return true;
    case MOVE:
        json_object_set_new(options, rule->key, moved(who, id, value));
        return true;
    case REFUSE:
        break;
    }
    return fail(error, VM_ERROR_INVALID,
                "%s: the interface '%s' serves one VM; say which is the clone's: --net "
                "%s=tap,ifname=IF, where %%d is the clone's number",
                id, json_string_value(value), id);
}

/* Another struct of options takes the place of *options. */
static bool change_all(const char *option, const ParamTable *table, void **options,
                       const CloneIdentity *who, const char *id, GError **error)
{
    json_t *json = param_to_json(table, *options);
    void *changed = param_new(table);
    bool ok = true;

    for (unsigned i = 0; ok && i < G_N_ELEMENTS(rules); i++)
        if (g_str_equal(rules[i].option, option))
            ok = change(json, &rules[i], who, id, error);
    ok = ok && param_from_json(table, changed, json, NULL, error);
    if (ok) {
        void *old = *options;

        *options = changed;
        changed = old;
    }
    json_decref(json);
    param_free(table, changed);
    return ok;
}

static bool is_said_anew(const CloneIdentity *who, const char *option, const char *id)
{
    return g_str_equal(option, "net") && who->net && id && g_strv_contains(who->net, id);
}

static bool give_device(ConfigDevice *d, const CloneIdentity *who, GError **error)
{
    const char *option = d->ops->option;
    const char *id = d->options ? ((VirtioCommonOptions *)d->options)->id : NULL;

    if (!d->ops->params || is_said_anew(who, option, id))
        return true;
    return change_all(option, d->ops->params, &d->options, who, id ? id : option, error);
}

bool identity_give_config(Config *cfg, const CloneIdentity *who, GError **error)
{
    static const char *const serials[CONFIG_MAX_SERIALS] = {"serial0", "serial1"};

    g_free(cfg->name);
    cfg->name = g_strdup(who->name);
    g_free(cfg->uuid);
    cfg->uuid = g_strdup(who->uuid);
    cfg->run_folder = true;
    g_clear_pointer(&cfg->control, g_free);
    g_clear_pointer(&cfg->control_readonly, g_free);
    if (cfg->metrics && !g_str_equal(cfg->metrics, "unix"))
        g_clear_pointer(&cfg->metrics, g_free);
    for (unsigned i = 0; i < CONFIG_MAX_SERIALS; i++)
        if (cfg->serial[i] &&
            !change_all("serial", &chardev_params, (void **)&cfg->serial[i], who,
                        serials[i], error))
            return false;
    for (unsigned i = 0; i < cfg->n_devices; i++)
        if (!give_device(&cfg->devices[i], who, error))
            return false;
    return true;
}
