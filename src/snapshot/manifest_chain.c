/* A diff and those it builds on. */
#include <stdlib.h>

#include "snapshot/store.h"
#include "src/snapshot/manifest_private.h"
#include "util/error.h"
#include "util/fd.h"

char *manifest_parent_folder(const Manifest *m, const char *folder)
{
    g_autofree char *real = NULL, *beside = NULL;

    if (!m->parent_path)
        return NULL;
    if (g_path_is_absolute(m->parent_path))
        return g_strdup(m->parent_path);
    real = realpath(folder, NULL); /* of "." and of links: what is beside it */
    beside = g_path_get_dirname(real ? real : folder);
    return g_build_filename(beside, m->parent_path, NULL);
}

static void free_link(void *opaque)
{
    ManifestLink *l = opaque;

    g_free(l->folder);
    manifest_free(l->manifest);
    g_free(l);
}

/* As the one before it says. */
static bool check_link(const ManifestLink *child, const ManifestLink *l, GError **error)
{
    const Manifest *c = child->manifest, *m = l->manifest;

    if (g_strcmp0(c->parent_id, m->id))
        return fail(error, VM_ERROR_CORRUPT,
                    "'%s': its parent '%s' is another snapshot than it was (%s, not %s): "
                    "put back the one it was made from",
                    child->folder, l->folder, m->id, c->parent_id);
    return c->ram_size == m->ram_size ||
           fail(error, VM_ERROR_CORRUPT,
                "'%s': its parent '%s' has %" G_GUINT64_FORMAT
                " bytes of RAM, and it has %" G_GUINT64_FORMAT,
                child->folder, l->folder, m->ram_size, c->ram_size);
}

static bool is_among(const GPtrArray *chain, const Manifest *m)
{
    for (unsigned i = 0; i < chain->len; i++) {
        const ManifestLink *l = g_ptr_array_index(chain, i);

        if (g_str_equal(l->manifest->id, m->id))
            return true;
    }
    return false;
}

/* Takes `folder`. */
static bool add_link(GPtrArray *chain, char *folder, GError **error)
{
    const ManifestLink *child = chain->len ? g_ptr_array_index(chain, chain->len - 1)
                                           : NULL;
    ManifestLink *l = g_new0(ManifestLink, 1);
    bool ok;

    l->folder = folder;
    l->manifest = manifest_read(folder, error);
    ok = l->manifest != NULL;

    if (!ok && child)
        g_prefix_error(error, "'%s' needs its parent: ", child->folder);
    if (ok && child)
        ok = check_link(child, l, error);
    if (ok && (is_among(chain, l->manifest) || chain->len == MANIFEST_MAX_DEPTH))
        ok = fail(error, VM_ERROR_CORRUPT,
                  "'%s': its parents go in a circle, or are more than %d", folder,
                  MANIFEST_MAX_DEPTH);
    g_ptr_array_add(chain, l);
    return ok;
}

GPtrArray *manifest_chain(const char *folder, GError **error)
{
    g_autoptr(GPtrArray) chain = g_ptr_array_new_with_free_func(free_link);
    char *next = g_strdup(folder);

    while (next) {
        const ManifestLink *l;

        if (!add_link(chain, next, error))
            return NULL;
        l = g_ptr_array_index(chain, chain->len - 1);
        next = manifest_parent_folder(l->manifest, l->folder);
    }
    return g_steal_pointer(&chain);
}

/* ---- holding it ----------------------------------------------------------------------
 */

GArray *manifest_holds_new(void)
{
    GArray *fds = g_array_new(FALSE, FALSE, sizeof(int));

    g_array_set_clear_func(fds, (GDestroyNotify)fd_close);
    return fds;
}

bool manifest_hold_chain(const char *folder, GArray *holds, unsigned *ret_links,
                         GError **error)
{
    g_autoptr(GPtrArray) chain = manifest_chain(folder, error);

    for (unsigned i = 0; chain && i < chain->len; i++) {
        const ManifestLink *l = g_ptr_array_index(chain, i);
        int fd = store_hold(l->folder, error);

        if (fd < 0)
            return false;
        g_array_append_val(holds, fd);
    }
    *ret_links = chain ? chain->len : 0;
    return chain != NULL;
}
