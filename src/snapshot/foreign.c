/* See snapshot/foreign.h.
 *
 * What reaches out is told by the devices' own tables, so that a device that is yet to
 * come is judged, too: whatever has a path.  Only network cards need a rule. */
#include "snapshot/foreign.h"

#include <string.h>
#include <unistd.h>

#include "util/json.h"
#include "util/log.h"

/* ---- what reaches out -----------------------------------------------------------------
 */

static bool has_path(const ParamTable *table, const json_t *said)
{
    for (const ParamDesc *d = table->desc; d->key; d++)
        if (d->type == PARAM_PATH && json_object_get(said, d->key))
            return true;
    return false;
}

/* User networking leads to all that this host's programs can connect to. */
static bool is_open_net(const json_t *said)
{
    return !g_str_equal(json_get_text(said, "type"), "user") ||
           !json_is_true(json_object_get(said, "restrict")) ||
           json_object_get(said, "hostfwd");
}

static bool reaches_out(const char *option, const ParamTable *table, const void *options)
{
    json_t *said = options ? param_to_json(table, options) : NULL;
    bool out = said && (has_path(table, said) ||
                        (g_str_equal(option, "net") && is_open_net(said)));

    json_decref(said);
    return out;
}

static void leave_out(const char *option, char **value)
{
    if (*value)
        log_info("--%s is left out: the snapshot is from elsewhere", option);
    g_clear_pointer(value, g_free);
}

void foreign_mark(Config *cfg)
{
    for (unsigned i = 0; i < cfg->n_devices; i++) {
        ConfigDevice *d = &cfg->devices[i];

        d->foreign = reaches_out(d->ops->option, d->ops->params, d->options);
    }
    for (unsigned i = 0; i < CONFIG_MAX_SERIALS; i++)
        cfg->serial_foreign[i] = reaches_out("serial", &chardev_params, cfg->serial[i]);
    leave_out("kernel", &cfg->kernel);
    leave_out("initrd", &cfg->initrd);
    leave_out("control", &cfg->control);
    leave_out("control-readonly", &cfg->control_readonly);
    leave_out("metrics", &cfg->metrics);
}

/* ---- is it allowed? -------------------------------------------------------------------
 */

static const char *id_of(const ConfigDevice *d)
{
    const char *id = d->options ? ((VirtioCommonOptions *)d->options)->id : NULL;

    return id ? id : "";
}

/* Its image is in the snapshot, and will take the place of its path: that of the first
 * disk of that id. */
static bool is_kept(const Config *cfg, unsigned i, const Manifest *m)
{
    const ConfigDevice *disk = &cfg->devices[i];
    bool kept = false;

    for (unsigned j = 0; j < i; j++)
        if (g_str_equal(id_of(&cfg->devices[j]), id_of(disk)))
            return false;
    for (unsigned j = 0; j < m->disks->len; j++) {
        const ManifestDisk *d = m->disks->pdata[j];

        kept |= d->layer && g_str_equal(d->id, id_of(disk));
    }
    return kept && g_str_equal(disk->ops->option, "disk");
}

static bool is_inside(const char *layer)
{
    return !g_path_is_absolute(layer) && !strstr(layer, "://");
}

/* The layer is this file, then, not one that the manifest names. */
static bool is_given(const json_t *paths, const char *id)
{
    const char *path = json_string_value(json_object_get(paths, id));

    return path && access(path, F_OK) == 0;
}

static void add(GString *list, const char *option, const char *id)
{
    g_string_append_printf(list, "%s--%s%s%s", list->len ? ", " : "", option,
                           *id ? " " : "", id);
}

bool foreign_allowed(const Config *cfg, const Manifest *m, const json_t *paths,
                     GError **error)
{
    g_autoptr(GString) list = g_string_new(NULL);

    for (unsigned i = 0; i < CONFIG_MAX_SERIALS; i++)
        if (cfg->serial_foreign[i])
            add(list, "serial", "");
    for (unsigned i = 0; i < cfg->n_devices; i++)
        if (cfg->devices[i].foreign && !is_kept(cfg, i, m))
            add(list, cfg->devices[i].ops->option, id_of(&cfg->devices[i]));
    for (unsigned i = 0; i < m->disks->len; i++) {
        const ManifestDisk *d = m->disks->pdata[i];

        if (d->layer && !is_inside(d->layer) && !is_given(paths, d->id))
            add(list, "disk", d->id);
    }
    return !list->len ||
           fail(error, VM_ERROR_UNSUPPORTED,
                "the snapshot is from elsewhere, and its config names files, sockets or "
                "networks of this host that nobody here has chosen (%s): say them anew "
                "(--net ID=..., --console ID=..., --disk ID=FILE), or look at them by "
                "'hutch snapshot inspect' and give --trust",
                list->str);
}

bool foreign_allowed_as_is(Config *cfg, const Manifest *m, GError **error)
{
    foreign_mark(cfg);
    return foreign_allowed(cfg, m, NULL, error);
}
