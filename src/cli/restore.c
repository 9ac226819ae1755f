/* See src/cli/restore.h.
 *
 * A restored guest has the machine that it was saved in.  What can be replaced is what
 * the guest does not see: names, sockets, and behind which file, interface or terminal a
 * device is. */
#include "src/cli/restore.h"

#include <string.h>

#include "snapshot/remote.h"
#include "snapshot/store.h"
#include "util/json.h"

/* Options that are the monitor's, not the machine's. */
static const char *const free_options[] = {
    "name",   "uuid", "control", "control-readonly", "metrics",
    "paused", "json", "timeout", "no-reboot",        NULL,
};

/* Keys of devices that the guest has read, or that tell one device from another. */
static const char *const fixed_keys[] = {
    "id", "packed", "mac", "mtu", "queues", "serial", "name", "cid", "tag", NULL,
};

static bool fail_option(const char *name, GError **error)
{
    g_autofree char *all = g_strjoinv(", --", (char **)(uintptr_t)free_options);

    return fail(error, VM_ERROR_INVALID,
                "--%s: a restored VM has the machine that it was saved with; beside "
                "--restore go --%s, --serial, and options of its devices as "
                "--disk ID=PATH or --net ID=tap",
                name, all);
}

static ConfigDevice *find_device(Config *cfg, const ConfigOption *o, const char *id)
{
    for (unsigned i = 0; i < cfg->n_devices; i++) {
        ConfigDevice *d = &cfg->devices[i];

        if (d->ops == o->ops && d->options &&
            !g_strcmp0(((VirtioCommonOptions *)d->options)->id, id))
            return d;
    }
    return NULL;
}

static bool fail_device(const Config *cfg, const ConfigOption *o, GError **error)
{
    g_autoptr(GString) ids = g_string_new(NULL);

    for (unsigned i = 0; i < cfg->n_devices; i++)
        if (cfg->devices[i].ops == o->ops && cfg->devices[i].options)
            g_string_append_printf(ids, "%s%s", ids->len ? ", " : "",
                                   ((VirtioCommonOptions *)cfg->devices[i].options)->id);
    return ids->len ? fail(error, VM_ERROR_INVALID,
                           "--%s: with --restore it is ID=VALUE, and ID is one of: %s",
                           o->name, ids->str)
                    : fail(error, VM_ERROR_INVALID,
                           "--%s: the snapshot's machine has none, and gets none by "
                           "being restored",
                           o->name);
}

/* What the old options have and the new ones did not say.  Another file keeps how it is
 * to be used, but for its format; another interface or terminal is as if new. */
static void keep_rest(json_t *now, const json_t *was, const ParamTable *table)
{
    const char *key;
    json_t *value;

    if (table->desc->type != PARAM_PATH)
        return;
    json_object_foreach((json_t *)was, key, value)
    {
        if (!json_object_get(now, key) && !g_str_equal(key, "format"))
            json_object_set(now, key, value);
    }
}

/* What was said, of which the rest may be missing: it comes from what was. */
static bool parse_some(const ParamTable *table, void *given, const char *text,
                       GError **error)
{
    g_autofree ParamDesc *desc = NULL;
    ParamTable some = *table;
    unsigned n = 0;

    while (table->desc[n].key)
        n++;
    desc = g_memdup2(table->desc, (n + 1) * sizeof(*desc));
    for (unsigned i = 0; i < n; i++)
        desc[i].required = false;
    some.desc = desc;
    some.check = NULL; /* all of it is checked in the end */
    return param_parse(&some, given, text, error);
}

/* Its new options: those that the guest knows of stay. */
static bool replace(ConfigDevice *d, const ParamTable *table, const char *text,
                    GError **error)
{
    void *given = param_new(table), *merged = param_new(table);
    json_t *was = param_to_json(table, d->options), *now = NULL;
    json_t *unsaid = param_to_json(table, given);
    bool ok = parse_some(table, given, text, error);

    if (ok)
        now = param_to_json(table, given);
    for (const char *const *key = fixed_keys; ok && *key; key++) {
        json_t *kept = json_object_get(was, *key), *said = json_object_get(now, *key);

        if (said && !json_equal(said, kept) &&
            !json_equal(said, json_object_get(unsaid, *key)))
            ok = fail(error, VM_ERROR_INVALID,
                      "%s: the guest knows it already, and it stays", *key);
        else if (kept)
            json_object_set(now, *key, kept);
    }
    if (ok)
        keep_rest(now, was, table);
    ok = ok && param_from_json(table, merged, now, NULL, error);
    if (ok) {
        void *old = d->options;

        d->options = merged;
        d->foreign = false;
        merged = old;
    }
    json_decref(was);
    json_decref(now);
    json_decref(unsaid);
    param_free(table, given);
    param_free(table, merged);
    return ok;
}

bool restore_replace_device(Config *cfg, const ConfigOption *o, const char *value,
                            GError **error)
{
    const char *equals = value ? strchr(value, '=') : NULL;
    g_autofree char *id = equals ? g_strndup(value, (gsize)(equals - value)) : NULL;
    ConfigDevice *d = id ? find_device(cfg, o, id) : NULL;

    if (!d)
        return fail_device(cfg, o, error);
    if (replace(d, o->table, equals + 1, error))
        return true;
    g_prefix_error(error, "--%s %s: ", o->name, id);
    return false;
}

/* In the order given: COM1, then COM2. */
static bool replace_serial(Config *cfg, const ConfigOption *o, unsigned i,
                           const char *value, GError **error)
{
    void *options;

    if (i >= CONFIG_MAX_SERIALS || !cfg->serial[i])
        return fail(error, VM_ERROR_INVALID,
                    "--serial: the snapshot's machine has not so many serial ports");
    options = param_new(o->table);
    if (!param_parse(o->table, options, value, error)) {
        param_free(o->table, options);
        g_prefix_error(error, "--serial: ");
        return false;
    }
    param_free(o->table, cfg->serial[i]);
    cfg->serial[i] = options;
    cfg->serial_foreign[i] = false;
    return true;
}

static bool apply(Config *cfg, const Arguments *a, GError **error)
{
    unsigned n_serial = 0;

    for (unsigned i = 0; i < a->n_given; i++) {
        const char *value = a->given[i].value;
        const ConfigOption *o = config_option(a->given[i].option->name);
        bool ok;

        if (!o)
            continue; /* one of `hutch run` itself */
        if (g_strv_contains(free_options, o->name)) {
            ok = config_set(cfg, o, value, error);
            if (!ok)
                g_prefix_error(error, "--");
        } else if (g_str_equal(o->name, "serial")) {
            ok = replace_serial(cfg, o, n_serial++, value, error);
        } else if (o->ops && o->table) {
            ok = restore_replace_device(cfg, o, value, error);
        } else {
            ok = fail_option(o->name, error);
        }
        if (!ok)
            return false;
    }
    return true;
}

SnapshotRestore *restore_open(const RunOptions *options, const Arguments *a, Config *cfg,
                              GError **error)
{
    const RestoreOptions how = {.memory = options->memory_from,
                                .clock = options->clock,
                                .working_set = options->working_set,
                                .trust = options->trust};
    g_autofree char *folder = remote_is_address(options->restore)
                                  ? g_strdup(options->restore)
                                  : store_find(STORE_SNAPSHOTS, options->restore, error);
    g_autoptr(SnapshotRestore)
        r = folder ? snapshot_restore_open(folder, &how, cfg, error) : NULL;

    return r && apply(cfg, a, error) ? g_steal_pointer(&r) : NULL;
}

/* Where --disk ID=FILE says; its other keys are in the Config by now. */
static json_t *disk_paths(const Arguments *a, const Config *cfg)
{
    json_t *paths = json_object(), *config = config_to_json(cfg), *disk;
    size_t k;

    for (unsigned i = 0; i < a->n_given; i++) {
        const char *value = a->given[i].value;

        if (!g_str_equal(a->given[i].option->name, "disk") || !value)
            continue;
        json_array_foreach(json_object_get(config, "disk"), k, disk)
        {
            g_autofree char *prefix = g_strconcat(json_get_text(disk, "id"), "=", NULL);

            if (g_str_has_prefix(value, prefix))
                json_object_set(paths, json_get_text(disk, "id"),
                                json_object_get(disk, "path"));
        }
    }
    json_decref(config);
    return paths;
}

bool restore_disks(SnapshotRestore *r, const Arguments *a, Config *cfg,
                   const char *run_folder, GError **error)
{
    json_t *paths = disk_paths(a, cfg);
    bool ok = snapshot_restore_disks(r, cfg, run_folder, paths, error);

    json_decref(paths);
    return ok;
}
