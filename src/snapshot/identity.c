/* See snapshot/identity.h.
 *
 * A card's MAC is made from the VM's UUID and the card's id: one that was made up for the
 * template would be restored with it. */
#include "snapshot/identity.h"

#include <string.h>

typedef enum {
    DROP,    /* as if it had not been said */
    MOVE,    /* a file or socket: into the run folder */
    ADDRESS, /* another MAC, said or not */
    REFUSE,  /* nobody but the user knows another one */
} Deed;

static const struct Rule {
    const char *option, *key;
    Deed deed;
} rules[] = {
    {"net", "mac", ADDRESS},   {"net", "hostfwd", DROP},  {"net", "ip", DROP},
    {"net", "ifname", REFUSE}, {"net", "path", REFUSE},   {"console", "socket", MOVE},
    {"console", "log", MOVE},  {"console", "file", MOVE}, {"serial", "socket", MOVE},
    {"serial", "log", MOVE},   {"serial", "file", MOVE},  {"vsock", "path", MOVE},
};

/* "RUN/console0-file". */
static json_t *moved(const CloneIdentity *who, const char *id, const json_t *path)
{
    g_autofree char *base = g_path_get_basename(json_string_value(path));
    g_autofree char *name = g_strdup_printf("%s-%s", id, base);
    g_autofree char *to = g_build_filename(who->folder, name, NULL);

    return json_string(to);
}

/* Locally administered, one station's. */
static json_t *address(const CloneIdentity *who, const char *id)
{
    g_autofree char *text = g_strconcat(who->uuid, "/", id, NULL);
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    guint8 mac[32];
    gsize len = sizeof(mac);

    g_checksum_update(sum, (const guchar *)text, -1);
    g_checksum_get_digest(sum, mac, &len);
    return json_sprintf("%02x:%02x:%02x:%02x:%02x:%02x", (mac[0] & ~1u) | 2u, mac[1],
                        mac[2], mac[3], mac[4], mac[5]);
}

static bool change(json_t *options, const struct Rule *rule, const CloneIdentity *who,
                   const char *id, GError **error)
{
    const json_t *value = json_object_get(options, rule->key);

    if (!value && rule->deed != ADDRESS)
        return true;
    switch (rule->deed) {
    case DROP:
        json_object_del(options, rule->key);
        return true;
    case ADDRESS:
        json_object_set_new(options, rule->key, address(who, id));
        return true;
    case MOVE:
        json_object_set_new(options, rule->key, moved(who, id, value));
        return true;
    case REFUSE:
        break;
    }
    if (g_str_equal(rule->key, "path"))
        return fail(error, VM_ERROR_INVALID,
                    "%s: the stream '%s' serves one VM; say which is the clone's: --net "
                    "%s=stream,path=SOCKET, where %%d is the clone's number",
                    id, json_string_value(value), id);
    return fail(error, VM_ERROR_INVALID,
                "%s: the interface '%s' serves one VM; say which is the clone's: --net "
                "%s=tap,ifname=IF, where %%d is the clone's number",
                id, json_string_value(value), id);
}

static bool is_said_anew(const CloneIdentity *who, const char *option, const char *id)
{
    return g_str_equal(option, "net") && who->net && id && g_strv_contains(who->net, id);
}

/* Another struct of options takes the place of *options. */
static bool change_all(const char *option, const ParamTable *table, void **options,
                       const CloneIdentity *who, const char *id, GError **error)
{
    json_t *json = param_to_json(table, *options);
    void *changed = param_new(table);
    bool ok = true;

    for (unsigned i = 0; ok && i < G_N_ELEMENTS(rules); i++)
        if (g_str_equal(rules[i].option, option) &&
            (rules[i].deed == ADDRESS || !is_said_anew(who, option, id)))
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

static bool give_device(ConfigDevice *d, const CloneIdentity *who, GError **error)
{
    const char *option = d->ops->option;
    const char *id = d->options ? ((VirtioCommonOptions *)d->options)->id : NULL;

    return !d->ops->params ||
           change_all(option, d->ops->params, &d->options, who, id ? id : option, error);
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
