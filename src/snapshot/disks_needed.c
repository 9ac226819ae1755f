/* Who needs the images in a snapshot's folder; see snapshot/disks.h.
 *
 * Only a folder's own layers go with it, and a snapshot that was taken of a VM restored
 * from another builds on that one's.  Its manifest names the first image, and each image
 * names the one below, so the chain is walked from there. */
#include <string.h>

#include "backend/image.h"
#include "snapshot/disks.h"
#include "snapshot/store.h"
#include "src/snapshot/layers.h"

static bool is_within(const char *path, const char *folder)
{
    size_t len = strlen(folder);

    return !strncmp(path, folder, len) && path[len] == '/';
}

/* Whether some disk of the snapshot `other` is made of an image in `folder`.  Names are
 * followed without asking who put them there, to be on the safe side; what cannot be
 * opened needs nothing, since it is gone or broken already. */
static bool builds_on(const char *other, const char *folder)
{
    g_autoptr(Manifest) m = manifest_read(other, NULL);
    bool found = false;

    for (unsigned i = 0; m && i < m->disks->len && !found; i++) {
        const ManifestDisk *d = m->disks->pdata[i];
        g_autofree char *path = NULL;
        json_t *chain;

        if (!d->layer || strstr(d->layer, "://"))
            continue;
        path = g_path_is_absolute(d->layer) ? g_strdup(d->layer)
                                            : g_build_filename(other, d->layer, NULL);
        chain = layer_chain_of(path, d->format, BLOCK_BACKING_ON, NULL);
        for (size_t j = 0; j < json_array_size(chain) && !found; j++)
            found = is_within(layer_path(chain, j), folder);
        json_decref(chain);
    }
    return found;
}

typedef struct Needed {
    const char *folder; /* canonical */
    GPtrArray *by;
    GHashTable *seen; /* folders that were looked at */
} Needed;

static void look_at(Needed *n, const char *other)
{
    g_autofree char *path = g_canonicalize_filename(other, NULL);

    if (g_str_equal(path, n->folder) || !g_hash_table_add(n->seen, g_strdup(path)))
        return;
    if (builds_on(path, n->folder))
        g_ptr_array_add(n->by, g_strdup_printf("the snapshot '%s'", path));
}

static void look_at_all(Needed *n, const char *in)
{
    GDir *dir = g_dir_open(in, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(in, name, NULL);

        if (g_str_has_suffix(name, STORE_SUFFIX))
            look_at(n, path);
    }
    if (dir)
        g_dir_close(dir);
}

static bool look_at_vms(Needed *n, GError **error)
{
    g_autofree char *disks = g_build_filename(n->folder, SNAP_DISKS, NULL);
    GDir *dir = g_dir_open(disks, 0, NULL);
    const char *name;
    bool ok = true;

    while (dir && ok && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(disks, name, NULL);
        bool used = false;

        ok = image_in_use(path, &used, error);
        if (used)
            g_ptr_array_add(n->by,
                            g_strdup_printf("a VM that runs, whose disk has '%s' below "
                                            "it",
                                            path));
    }
    if (dir)
        g_dir_close(dir);
    return ok;
}

GPtrArray *snapshot_disks_needed(const char *snapshot, GError **error)
{
    static const StoreKind kinds[] = {STORE_SNAPSHOTS, STORE_TEMPLATES, STORE_WARM};
    g_autofree char *folder = g_canonicalize_filename(snapshot, NULL);
    g_autofree char *beside = g_path_get_dirname(folder);
    g_autoptr(GHashTable)
        seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    Needed n = {folder, g_ptr_array_new_with_free_func(g_free), seen};

    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++) {
        g_autofree char *store = store_folder(kinds[i]);

        look_at_all(&n, store);
    }
    look_at_all(&n, beside);
    if (look_at_vms(&n, error))
        return n.by;
    g_ptr_array_free(n.by, TRUE);
    return NULL;
}
