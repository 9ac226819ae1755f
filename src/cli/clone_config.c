/* What of the template's Config a clone has otherwise: see snapshot/identity.h, and its
 * cards as the user said, its disks over the template's layers. */
#include <string.h>

#include "agent/agent.h"
#include "snapshot/identity.h"
#include "src/cli/clone.h"
#include "src/cli/restore.h"

/* Returns the ids of the cards that are said anew. */
static bool say_nets(CloneJob *job, const Clone *c, GPtrArray *ids, GError **error)
{
    const ConfigOption *option = config_option("net");

    for (char **net = job->args->net; net && *net; net++) {
        g_autofree char *value = clone_expand(*net, c->number);

        if (!restore_replace_device(job->cfg, option, value, error))
            return false;
        g_ptr_array_add(ids, g_strndup(value, strcspn(value, "=")));
    }
    g_ptr_array_add(ids, NULL);
    return true;
}

/* {"disk0": "FOLDER/NAME-disk0.qcow2"}; NULL: none are to be kept. */
static json_t *disk_paths(const CloneJob *job, const Clone *c)
{
    const Manifest *m = snapshot_restore_manifest(job->restore);
    json_t *paths = job->args->disks ? json_object() : NULL;

    for (unsigned i = 0; paths && i < m->disks->len; i++) {
        const ManifestDisk *d = m->disks->pdata[i];
        g_autofree char *leaf = g_strdup_printf("%s-%s.qcow2", c->name, d->id);
        g_autofree char *path = g_build_filename(job->args->disks, leaf, NULL);

        if (d->layer && !d->readonly)
            json_object_set_new(paths, d->id, json_string(path));
    }
    return paths;
}

static bool give_disks(CloneJob *job, const Clone *c, const Place *place, GError **error)
{
    json_t *paths = disk_paths(job, c);
    bool ok = snapshot_restore_disks(job->restore, job->cfg, place->folder, paths, error);

    json_decref(paths);
    return ok;
}

bool clone_give_config(CloneJob *job, const Clone *c, const Place *place, GError **error)
{
    g_autoptr(GPtrArray) ids = g_ptr_array_new_with_free_func(g_free);
    CloneIdentity who = {.name = c->name, .uuid = c->uuid, .folder = place->folder};
    Config *cfg = job->cfg;

    if (!say_nets(job, c, ids, error))
        return false;
    who.net = (const char *const *)ids->pdata;
    if (!identity_give_config(cfg, &who, error) || !config_finish(cfg, error) ||
        !give_disks(job, c, place, error))
        return false;
    if (!cfg->agent)
        return true;
    cfg->agent_socket = place_file(cfg->name, AGENT_SOCKET, error);
    return cfg->agent_socket != NULL;
}
