/* See snapshot/template.h.  What makes a template without a name safe from being swept
 * before anybody holds it is the number in its name: that of the process that makes it,
 * and which must be dead, or have let go. */
#include "snapshot/template.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/image.h"
#include "snapshot/disks.h"
#include "snapshot/manifest.h"
#include "snapshot/partial.h"
#include "util/fd.h"

#define ANONYMOUS ".clone-"

/* ---- of a snapshot --------------------------------------------------------------------
 */

/* A file that is not there is one of those that not every snapshot has. */
static bool take_file(const char *snapshot, const char *partial, const char *name,
                      GError **error)
{
    g_autofree char *from = g_build_filename(snapshot, name, NULL);
    g_autofree char *to = g_build_filename(partial, name, NULL);
    g_autofree char *folder = g_path_get_dirname(to);

    if (access(from, F_OK) < 0)
        return true;
    if (mkdir(folder, 0700) < 0 && errno != EEXIST)
        return fail_errno(error, "make the folder '%s'", folder);
    return link(from, to) == 0 || image_copy_file(from, to, error);
}

static bool take_files(const Manifest *m, const char *snapshot, const char *partial,
                       GError **error)
{
    static const char *const unlisted[] = {SNAP_MEMORY, SNAP_MEMORY_ZST, SNAP_MEMORY_SUMS,
                                           SNAP_WORKING_SET};

    for (unsigned i = 0; i < m->files->len; i++)
        if (!take_file(snapshot, partial,
                       ((const ManifestFile *)m->files->pdata[i])->name, error))
            return false;
    for (unsigned i = 0; i < G_N_ELEMENTS(unlisted); i++)
        if (!take_file(snapshot, partial, unlisted[i], error))
            return false;
    return true;
}

/* Another snapshot than that one: what builds on that does not build on this. */
static bool write_manifest(Manifest *m, const char *partial, GError **error)
{
    g_free(m->id);
    m->id = g_uuid_string_random();
    return manifest_write(m, partial, error);
}

bool template_from_snapshot(const char *snapshot, const char *folder, GError **error)
{
    autofd hold = store_hold(snapshot, error);
    g_autoptr(Manifest) m = hold < 0 ? NULL : manifest_read(snapshot, error);
    g_autofree char *partial = NULL;
    autofd lock = -1;

    if (!m)
        return false;
    if (m->parent_id)
        return fail(error, VM_ERROR_INVALID,
                    "'%s' is a diff, and a template has to be whole: 'hutch snapshot "
                    "merge' makes it so",
                    snapshot);
    partial = partial_begin(folder, false, &lock, error);
    if (!partial)
        return false;
    if (take_files(m, snapshot, partial, error) && write_manifest(m, partial, error) &&
        store_commit(partial, folder, error))
        return true;
    store_remove(partial, NULL);
    return false;
}

bool snapshot_remove_unused(const char *folder, GError **error)
{
    autofd lock = store_seize(folder, error);
    g_autoptr(GPtrArray) by = lock < 0 ? NULL : snapshot_disks_needed(folder, error);

    if (!by)
        return false;
    if (by->len)
        return fail(error, VM_ERROR_BUSY, "'%s' is in use by %s", folder,
                    (char *)by->pdata[0]);
    return store_remove(folder, error);
}

/* ---- without a name -------------------------------------------------------------------
 */

char *template_anonymous(void)
{
    g_autofree char *store = store_folder(STORE_TEMPLATES);
    g_autofree char *uuid = g_uuid_string_random();
    g_autofree char *leaf = g_strdup_printf(ANONYMOUS "%d-%s" STORE_SUFFIX, (int)getpid(),
                                            uuid);

    return g_build_filename(store, leaf, NULL);
}

bool template_is_anonymous(const char *folder)
{
    g_autofree char *leaf = g_path_get_basename(folder);

    return g_str_has_prefix(leaf, ANONYMOUS);
}

void template_drop(const char *folder)
{
    if (template_is_anonymous(folder))
        snapshot_remove_unused(folder, NULL);
}

/* Another one has the number by now: then it is swept later. */
static bool maker_lives(const char *leaf)
{
    pid_t pid = atoi(leaf + strlen(ANONYMOUS));

    return pid > 0 && (kill(pid, 0) == 0 || errno == EPERM);
}

void template_sweep(void)
{
    g_autofree char *store = store_folder(STORE_TEMPLATES);
    GDir *dir = g_dir_open(store, 0, NULL);
    const char *leaf;

    while (dir && (leaf = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(store, leaf, NULL);

        if (g_str_has_prefix(leaf, ANONYMOUS) && g_str_has_suffix(leaf, STORE_SUFFIX) &&
            !maker_lives(leaf))
            template_drop(path);
    }
    if (dir)
        g_dir_close(dir);
}
