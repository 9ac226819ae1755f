/* Using a snapshot's disks: what is below them is looked at, and each gets an overlay
 * over its layer; see snapshot/disks.h. */
#include <string.h>
#include <unistd.h>

#include "backend/image.h"
#include "snapshot/disks.h"
#include "src/snapshot/layers.h"
#include "util/json.h"

/* ---- the disk in the config -----------------------------------------------------------
 */

/* By its id, which a disk that was given none has by its place. */
static json_t *find_config(const json_t *config, const char *id)
{
    const json_t *all = json_object_get(config, "disk");
    json_t *disk;
    size_t i;

    json_array_foreach(all, i, disk)
    {
        g_autofree char *by_place = g_strdup_printf("disk%zu", i);
        const char *own = json_get_text(disk, "id");

        if (g_str_equal(*own ? own : by_place, id))
            return disk;
    }
    return NULL;
}

static int backing_choice(const json_t *disk)
{
    for (int i = 0; block_backing_names[i]; i++)
        if (g_str_equal(json_get_text(disk, "backing"), block_backing_names[i]))
            return i;
    return BLOCK_BACKING_AUTO;
}

/* ---- is it what it was? ---------------------------------------------------------------
 */

static bool compare(const json_t *chain, const char *is, const char *was, GError **error)
{
    g_auto(GStrv) now = g_strsplit(is, " ", -1), then = g_strsplit(was, " ", -1);
    guint n = g_strv_length(then);

    for (guint i = 0; i < n && now[i]; i++)
        if (!g_str_equal(now[i], then[i]))
            return fail(error, VM_ERROR_INVALID,
                        "'%s' has changed since the snapshot was taken, and is not what "
                        "the guest's memory knows; put it back (a copy has to keep the "
                        "time of the last write, as cp -p does), or take a snapshot anew",
                        layer_path(chain, i));
    return g_strv_length(now) == n ||
           fail(error, VM_ERROR_INVALID,
                "'%s' has %u images below it now, and had %u when the snapshot was "
                "taken; put back what it was, or take a snapshot anew",
                layer_path(chain, 0), g_strv_length(now) - 1, n - 1);
}

/* A manifest that knows each image by its contents needs no marks to tell who put them
 * there, which copies and some file systems have not. */
static bool look_at(const ManifestDisk *d, const char *path, int backing, GError **error)
{
    bool inside = !g_path_is_absolute(d->layer) && !strstr(d->layer, "://");
    bool follow = d->layer_id && backing != BLOCK_BACKING_OFF;
    json_t *chain = layer_chain_of(path, d->format, follow ? BLOCK_BACKING_ON : backing,
                                   error);
    g_autofree char *is = chain ? layers_identity(chain, inside, error) : NULL;
    bool ok = is && (!d->layer_id || compare(chain, is, d->layer_id, error));

    json_decref(chain);
    return ok;
}

/* A new string: where the layer is. */
static char *layer_place(const ManifestDisk *d, const char *snapshot)
{
    return g_path_is_absolute(d->layer) || strstr(d->layer, "://")
               ? g_strdup(d->layer)
               : g_build_filename(snapshot, d->layer, NULL);
}

/* ---- making the disk ------------------------------------------------------------------
 */

static bool make_overlay(const ManifestDisk *d, const char *layer, const char *path,
                         GError **error)
{
    ImageCreate *how = param_new(&image_create_params);
    bool ok;

    how->path = g_strdup(path);
    how->format = BLOCK_FORMAT_QCOW2;
    how->backing = g_strdup(layer);
    how->backing_format = g_strdup(d->format);
    ok = image_create(how, error);
    param_free(&image_create_params, how);
    return ok;
}

/* Where O_DIRECT is not possible on an overlay that ends with the VM, it is not needed.
 */
static void set_image(json_t *disk, const ManifestDisk *d, const char *path,
                      const char *format)
{
    if (d->layer_id && backing_choice(disk) == BLOCK_BACKING_AUTO)
        json_object_set_new(disk, "backing", json_string("on")); /* look_at() did */
    json_object_set_new(disk, "path", json_string(path));
    json_object_set_new(disk, "format", json_string(format));
    if (g_str_equal(json_get_text(disk, "cache"), "none"))
        json_object_set_new(disk, "cache", json_string("auto"));
}

static bool restore(json_t *disk, const ManifestDisk *d, const char *snapshot,
                    const char *folder, const char *given, GPtrArray *made,
                    GError **error)
{
    g_autofree char *there = given ? layer_absolute(given) : NULL;
    bool is_layer = there && access(there, F_OK) == 0;
    g_autofree char *layer = NULL, *overlay = NULL;

    if (!d->layer) { /* the disk was left alone, and is used as it is now */
        if (there)
            json_object_set_new(disk, "path", json_string(there));
        return true;
    }
    layer = is_layer ? g_strdup(there) : layer_place(d, snapshot);
    if (!look_at(d, layer, backing_choice(disk), error))
        return false;
    if (d->readonly) {
        set_image(disk, d, layer, d->format);
        return true;
    }
    overlay = there && !is_layer ? g_strdup(there)
                                 : g_strdup_printf("%s/%s.qcow2", folder, d->id);
    if (!make_overlay(d, layer, overlay, error))
        return false;
    set_image(disk, d, overlay, block_format_names[BLOCK_FORMAT_QCOW2]);
    g_ptr_array_add(made, g_steal_pointer(&overlay));
    return true;
}

/* A path for a disk that is not there was meant for another. */
static bool check_paths(const Manifest *m, const json_t *paths, GError **error)
{
    const char *id;
    const json_t *path;

    json_object_foreach((json_t *)paths, id, path)
    {
        bool found = false;

        for (unsigned i = 0; i < m->disks->len; i++)
            found |= g_str_equal(((ManifestDisk *)m->disks->pdata[i])->id, id);
        if (!found)
            return fail(error, VM_ERROR_NOT_FOUND, "the snapshot has no disk '%s'", id);
    }
    return true;
}

static bool restore_all(json_t *config, const Manifest *m, const char *snapshot,
                        const char *folder, const json_t *paths, GPtrArray *made,
                        GError **error)
{
    for (unsigned i = 0; i < m->disks->len; i++) {
        const ManifestDisk *d = m->disks->pdata[i];
        json_t *disk = find_config(config, d->id);
        const char *given = json_string_value(json_object_get(paths, d->id));

        if (!disk)
            return fail(error, VM_ERROR_CORRUPT,
                        "disk '%s' is in the snapshot's manifest and not in its config",
                        d->id);
        if (!restore(disk, d, snapshot, folder, given, made, error)) {
            g_prefix_error(error, "disk '%s': ", d->id);
            return false;
        }
    }
    return true;
}

bool snapshot_disks_restore(json_t *config, const Manifest *m, const char *snapshot,
                            const char *folder, const json_t *paths, GPtrArray *made,
                            GError **error)
{
    guint before = made->len;

    if (check_paths(m, paths, error) &&
        restore_all(config, m, snapshot, folder, paths, made, error))
        return true;
    for (guint i = before; i < made->len; i++)
        unlink(made->pdata[i]);
    g_ptr_array_set_size(made, (gint)before);
    return false;
}

/* ---- beforehand -----------------------------------------------------------------------
 */

void snapshot_disks_check(const Manifest *m, const char *snapshot, GPtrArray *problems,
                          GPtrArray *warnings)
{
    g_autofree char *file = g_build_filename(snapshot, SNAP_CONFIG, NULL);
    json_t *config = json_load_file(file, 0, NULL); /* NULL: others tell of it */

    for (unsigned i = 0; i < m->disks->len; i++) {
        const ManifestDisk *d = m->disks->pdata[i];
        g_autofree char *path = d->layer ? layer_place(d, snapshot) : NULL;
        g_autoptr(GError) error = NULL;

        if (!path)
            g_ptr_array_add(
                warnings, g_strdup_printf(
                              "disk '%s' is not part of the snapshot (--no-disks): what "
                              "the guest's memory knows of it is older than what is on "
                              "it; give it the disk of that time by --disk %s=FILE",
                              d->id, d->id));
        else if (!look_at(d, path, backing_choice(find_config(config, d->id)), &error))
            g_ptr_array_add(problems,
                            g_strdup_printf("disk '%s': %s", d->id, error->message));
    }
    json_decref(config);
}
