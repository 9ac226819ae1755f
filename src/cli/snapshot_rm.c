/* hutch snapshot rm: what nobody needs any more. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "snapshot/disks.h"
#include "src/cli/snapshot.h"
#include "util/fd.h"

SNAPSHOT_TABLE(snapshot_rm_args,
               {.key = "force",
                .letter = 'f',
                .type = PARAM_BOOL,
                .offset = offsetof(SnapshotArgs, force),
                .help = "also where the manifest is damaged, so that who needs it cannot "
                        "be told"},
               SNAPSHOT_ARG_JSON);

/* What there is besides: those of the stores, and beside the folder itself. */
static void add_beside(GPtrArray *all, const char *folder)
{
    g_autofree char *parent = g_path_get_dirname(folder);
    GDir *dir = g_dir_open(parent, 0, NULL);
    const char *leaf;

    while (dir && (leaf = g_dir_read_name(dir))) {
        char *path = g_build_filename(parent, leaf, NULL);
        g_autoptr(GError) why = NULL;
        Manifest *m = *leaf == '.' ? NULL : manifest_read(path, &why);
        Snap *s = g_new0(Snap, 1);

        *s = (Snap){.name = g_strdup(path), .folder = path, .manifest = m};
        g_ptr_array_add(all, s);
    }
    if (dir)
        g_dir_close(dir);
}

static GPtrArray *everything(GPtrArray *chosen)
{
    GPtrArray *all = g_ptr_array_new_with_free_func(snap_free);

    for (StoreKind kind = STORE_SNAPSHOTS; kind <= STORE_WARM; kind++) {
        g_autoptr(GPtrArray) some = snap_list(kind, NULL);

        while (some && some->len)
            g_ptr_array_add(all, g_ptr_array_steal_index_fast(some, 0));
    }
    for (unsigned i = 0; i < chosen->len; i++) {
        const Snap *s = g_ptr_array_index(chosen, i);

        if (strchr(s->name, '/'))
            add_beside(all, s->folder);
    }
    return all;
}

static bool is_child(const Snap *child, const Snap *s)
{
    return child->manifest && s->manifest && child->manifest->parent_id &&
           g_str_equal(child->manifest->parent_id, s->manifest->id);
}

static bool is_chosen(GPtrArray *chosen, const Snap *s)
{
    for (unsigned i = 0; i < chosen->len; i++) {
        const Snap *c = g_ptr_array_index(chosen, i);

        if (c->manifest && s->manifest && g_str_equal(c->manifest->id, s->manifest->id))
            return true;
    }
    return false;
}

static const char *what(const Snap *s)
{
    return s->kind == STORE_TEMPLATES ? "template " : "";
}

static bool check_children(GPtrArray *chosen, GPtrArray *all, const Snap *s,
                           GError **error)
{
    g_autoptr(GString) names = g_string_new(NULL);

    for (unsigned i = 0; i < all->len; i++) {
        const Snap *child = g_ptr_array_index(all, i);

        if (is_child(child, s) && !is_chosen(chosen, child))
            g_string_append_printf(names, "%s%s'%s'", names->len ? ", " : "", what(child),
                                   child->name);
    }
    return !names->len ||
           fail(error, VM_ERROR_BUSY,
                "'%s' is what %s builds on: remove that too, or make it whole first by "
                "'hutch snapshot merge'",
                s->name, names->str);
}

/* The images in its folder. */
static bool check_disks(const Snap *s, GError **error)
{
    g_autoptr(GPtrArray) by = snapshot_disks_needed(s->folder, error);

    if (!by)
        return false;
    return !by->len || fail(error, VM_ERROR_BUSY,
                            "the disks in '%s' are needed by %s: remove that first",
                            s->name, (char *)g_ptr_array_index(by, 0));
}

static bool remove_one(const SnapshotArgs *args, const Snap *s, GError **error)
{
    autofd lock = store_seize(s->folder, args->force ? NULL : error);

    if ((lock < 0 && !args->force) || !check_disks(s, error))
        return false;
    if (!store_remove(s->folder, error))
        return false;
    if (!args->common.json)
        printf("%s\n", s->name);
    return true;
}

/* Children before parents, so that what is left after a failure is whole. */
static bool remove_all(const SnapshotArgs *args, GPtrArray *chosen, GError **error)
{
    while (chosen->len) {
        unsigned pick = 0;

        for (unsigned i = 0; i < chosen->len; i++) {
            bool has_child = false;

            for (unsigned j = 0; j < chosen->len; j++)
                has_child |= is_child(g_ptr_array_index(chosen, j),
                                      g_ptr_array_index(chosen, i));
            pick = has_child ? pick : i;
        }
        if (!remove_one(args, g_ptr_array_index(chosen, pick), error))
            return false;
        g_ptr_array_remove_index(chosen, pick);
    }
    return true;
}

static bool choose(StoreKind kind, const SnapshotArgs *args, char **names,
                   GPtrArray *chosen, GError **error)
{
    for (char **name = names; *name; name++) {
        char *folder = store_find(kind, *name, error);
        g_autoptr(GError) why = NULL;
        Snap *s;

        if (!folder)
            return false;
        s = g_new0(Snap, 1);
        *s = (Snap){.name = g_strdup(*name),
                    .folder = folder,
                    .manifest = manifest_read(folder, &why)};
        g_ptr_array_add(chosen, s);
        if (why && !args->force) {
            g_propagate_error(error, g_steal_pointer(&why));
            g_prefix_error(error, "--force removes it all the same: ");
            return false;
        }
    }
    return true;
}

static bool check_all(GPtrArray *chosen, GError **error)
{
    g_autoptr(GPtrArray) all = everything(chosen);

    for (unsigned i = 0; i < chosen->len; i++) {
        const Snap *s = g_ptr_array_index(chosen, i);

        if (!check_children(chosen, all, s, error) || !snapshot_check_users(s, error))
            return false;
    }
    return true;
}

bool snapshot_rm_store(StoreKind kind, const void *options, char **names, GError **error)
{
    const SnapshotArgs *args = options;
    g_autoptr(GPtrArray) chosen = g_ptr_array_new_with_free_func(snap_free);

    if (!choose(kind, args, names, chosen, error) || !check_all(chosen, error) ||
        !remove_all(args, chosen, error))
        return false;
    if (args->common.json) {
        json_t *list = json_array();

        for (; *names; names++)
            json_array_append_new(list, json_string(*names));
        cli_print_json(list);
    }
    return true;
}

bool snapshot_act_rm(void *options, char **names, int *status, GError **error)
{
    return snapshot_rm_store(STORE_SNAPSHOTS, options, names, error);
}
