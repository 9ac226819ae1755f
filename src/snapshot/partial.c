/* See snapshot/partial.h.
 *
 * Theory.  A folder that is being made is locked (flock) by whoever makes it, which the
 * kernel undoes however a process ends.  Between making one and locking it, the folder
 * around is locked, and so it is while leftovers are looked for. */
#include "snapshot/partial.h"

#include <fcntl.h>
#include <string.h>
#include <sys/file.h>

#include "snapshot/store.h"
#include "util/fd.h"

static int open_folder(const char *path)
{
    return open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* store_begin() hides it by a '.', and store_remove(), which may have been interrupted as
 * well, by one more. */
static bool is_leftover(const char *name, const char *prefix)
{
    size_t dots = strspn(name, ".");

    return dots && g_str_has_prefix(name + dots, prefix);
}

/* Nobody else's business: what cannot be removed stays. */
static void remove_leftovers(const char *parent, const char *prefix)
{
    GDir *dir = g_dir_open(parent, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(parent, name, NULL);
        autofd fd = -1;

        if (!is_leftover(name, prefix))
            continue;
        fd = open_folder(path);
        if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
            store_remove(path, NULL);
    }
    if (dir)
        g_dir_close(dir);
}

char *partial_begin(const char *folder, bool replaces, int *ret_lock_fd, GError **error)
{
    g_autofree char *parent = g_path_get_dirname(folder);
    g_autofree char *leaf = g_path_get_basename(folder);
    g_autofree char *prefix = g_strconcat(leaf, ".partial-", NULL);
    g_autofree char *made = NULL;
    autofd around = -1;

    if (!store_make_parent(folder, error))
        return NULL;
    around = open_folder(parent);
    if (around < 0 || flock(around, LOCK_EX) < 0) {
        fail_errno(error, "lock the folder '%s'", parent);
        return NULL;
    }
    remove_leftovers(parent, prefix);
    made = replaces ? store_begin_beside(folder, error) : store_begin(folder, error);
    if (!made)
        return NULL;
    *ret_lock_fd = open_folder(made);
    if (*ret_lock_fd < 0 || flock(*ret_lock_fd, LOCK_EX | LOCK_NB) < 0) {
        fail_errno(error, "lock the folder '%s'", made);
        store_remove(made, NULL);
        return NULL;
    }
    return g_steal_pointer(&made);
}
