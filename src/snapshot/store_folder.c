/* Folders that are complete or not there; see snapshot/store.h. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snapshot/store.h"
#include "util/fd.h"

enum { MAX_DEPTH = 4 }; /* of folders in a snapshot */

static bool fail_there(const char *folder, GError **error)
{
    return fail(error, VM_ERROR_BUSY,
                "'%s' exists already: remove it, or choose another name", folder);
}

/* Beside it, under a name that no snapshot has: the first '.' hides it. */
static char *name_beside(const char *folder, const char *what)
{
    g_autofree char *parent = g_path_get_dirname(folder);
    g_autofree char *leaf = g_path_get_basename(folder);
    g_autofree char *name = g_strdup_printf(".%s.%s-%08x", leaf, what, g_random_int());

    return g_build_filename(parent, name, NULL);
}

char *store_begin(const char *folder, GError **error)
{
    if (!store_make_parent(folder, error))
        return NULL;
    if (access(folder, F_OK) == 0) {
        fail_there(folder, error);
        return NULL;
    }
    return store_begin_beside(folder, error);
}

char *store_begin_beside(const char *folder, GError **error)
{
    g_autofree char *partial = name_beside(folder, "partial");

    if (mkdir(partial, 0700) < 0) {
        fail_errno(error, "make the folder '%s'", partial);
        return NULL;
    }
    return g_steal_pointer(&partial);
}

/* ---- every file in it ----------------------------------------------------------------
 */

typedef bool ForFile(int folder_fd, const char *name, bool is_folder);

/* The names first, the folder's own is not among them.  Links are not followed. */
static bool each_file(int folder_fd, unsigned depth, ForFile *fn)
{
    int fd = openat(folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;
    bool ok = dir != NULL;

    if (!dir)
        fd_close(&fd);
    while (ok && (e = readdir(dir))) {
        autofd below = -1;

        if (g_str_equal(e->d_name, ".") || g_str_equal(e->d_name, ".."))
            continue;
        below = openat(folder_fd, e->d_name,
                       O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        ok = below < 0 || (depth && each_file(below, depth - 1, fn));
        ok = ok && fn(folder_fd, e->d_name, below >= 0);
    }
    if (dir)
        closedir(dir);
    return ok;
}

static bool sync_one(int folder_fd, const char *name, bool is_folder)
{
    autofd fd = openat(folder_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

    return fd >= 0 && fsync(fd) == 0;
}

static bool remove_one(int folder_fd, const char *name, bool is_folder)
{
    return unlinkat(folder_fd, name, is_folder ? AT_REMOVEDIR : 0) == 0;
}

static bool sync_folder(const char *folder, bool files)
{
    autofd fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return fd >= 0 && (!files || each_file(fd, MAX_DEPTH, sync_one)) && fsync(fd) == 0;
}

static bool sync_parent(const char *folder)
{
    g_autofree char *parent = g_path_get_dirname(folder);

    return sync_folder(parent, false);
}

static bool empty_folder(const char *folder, GError **error)
{
    autofd fd = open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    return (fd >= 0 && each_file(fd, MAX_DEPTH, remove_one) && rmdir(folder) == 0) ||
           fail_errno(error, "remove '%s'", folder);
}

/* ---- names ---------------------------------------------------------------------------
 */

static bool give_name(const char *partial, const char *folder, unsigned how,
                      GError **error)
{
    if (!sync_folder(partial, true))
        return fail_errno(error, "'%s': put it on the disk", partial);
    if (renameat2(AT_FDCWD, partial, AT_FDCWD, folder, how) < 0)
        return errno == EEXIST
                   ? fail_there(folder, error)
                   : fail_errno(error, "'%s': give the folder its name", folder);
    return sync_parent(folder) ||
           fail_errno(error, "'%s': put its name on the disk", folder);
}

bool store_commit(const char *partial, const char *folder, GError **error)
{
    return give_name(partial, folder, RENAME_NOREPLACE, error);
}

bool store_replace(const char *partial, const char *folder, GError **error)
{
    return give_name(partial, folder, RENAME_EXCHANGE, error) &&
           empty_folder(partial, error);
}

bool store_remove(const char *folder, GError **error)
{
    g_autofree char *away = name_beside(folder, "removed");

    if (rename(folder, away) < 0)
        return fail_errno(error, "remove '%s'", folder);
    return empty_folder(away, error);
}
