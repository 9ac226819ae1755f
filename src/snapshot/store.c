/* Names and folders of snapshots; see snapshot/store.h. */
#include "snapshot/store.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/param.h"
#include "snapshot/manifest.h"
#include "util/fd.h"
#include "util/folder.h"

static const struct {
    const char *what, *variable, *leaf;
    bool cache;
} kinds[] = {
    [STORE_SNAPSHOTS] = {"snapshot", "HUTCH_SNAPSHOTS", "snapshots", false},
    [STORE_TEMPLATES] = {"template", "HUTCH_TEMPLATES", "templates", false},
    [STORE_WARM] = {"warm start", "HUTCH_WARM", "warm", true},
};

/* ---- names ---------------------------------------------------------------------------
 */

char *store_folder(StoreKind kind)
{
    const char *given = g_getenv(kinds[kind].variable);

    if (given && *given)
        return g_strdup(given);
    return g_build_filename(kinds[kind].cache ? g_get_user_cache_dir()
                                              : g_get_user_data_dir(),
                            "hutch", kinds[kind].leaf, NULL);
}

bool store_check_name(StoreKind kind, const char *name, GError **error)
{
    bool printable = g_utf8_validate(name, -1, NULL);

    for (const char *p = name; printable && *p; p = g_utf8_next_char(p))
        printable = g_unichar_isprint(g_utf8_get_char(p));
    if (!*name || *name == '.' || *name == '-' || strchr(name, '/') || !printable ||
        strlen(name) > STORE_MAX_NAME)
        return fail(error, VM_ERROR_INVALID,
                    "'%s' cannot be a %s's name: no '.' or '-' first, printable, and %d "
                    "bytes at most; a path has a '/' in it",
                    name, kinds[kind].what, STORE_MAX_NAME);
    return true;
}

char *store_path(StoreKind kind, const char *name, GError **error)
{
    g_autofree char *leaf = g_strconcat(name, STORE_SUFFIX, NULL);
    g_autofree char *folder = NULL;

    if (strchr(name, '/')) {
        g_autofree char *path = g_strdup(name);

        while (strlen(path) > 1 && g_str_has_suffix(path, "/"))
            path[strlen(path) - 1] = 0;
        if (g_str_has_suffix(path, STORE_SUFFIX) || g_file_test(path, G_FILE_TEST_IS_DIR))
            return g_steal_pointer(&path);
        return g_strconcat(path, STORE_SUFFIX, NULL);
    }
    if (!store_check_name(kind, name, error))
        return NULL;
    folder = store_folder(kind);
    return g_build_filename(folder, leaf, NULL);
}

static bool has_manifest(const char *folder)
{
    g_autofree char *path = g_build_filename(folder, SNAP_MANIFEST, NULL);

    return access(path, F_OK) == 0;
}

/* A name that was probably meant, a new string; or NULL. */
static char *near(StoreKind kind, const char *name)
{
    g_auto(GStrv) names = store_list(kind, NULL);

    for (char **n = names; n && *n; n++)
        if (param_similar(name, *n))
            return g_strdup(*n);
    return NULL;
}

char *store_find(StoreKind kind, const char *name, GError **error)
{
    g_autofree char *path = store_path(kind, name, error);
    const char *what = kinds[kind].what;
    g_autofree char *other = NULL;

    if (!path || has_manifest(path))
        return g_steal_pointer(&path);
    if (g_file_test(path, G_FILE_TEST_IS_DIR)) {
        fail(error, VM_ERROR_NOT_FOUND, "'%s' is not a %s: it has no " SNAP_MANIFEST,
             path, what);
        return NULL;
    }
    other = strchr(name, '/') ? NULL : near(kind, name);
    if (other)
        fail(error, VM_ERROR_NOT_FOUND, "there is no %s '%s' (%s); did you mean '%s'?",
             what, name, path, other);
    else
        fail(error, VM_ERROR_NOT_FOUND, "there is no %s '%s' (%s)", what, name, path);
    return NULL;
}

static char *name_of(const char *store, const char *leaf, const void *opaque)
{
    const StoreKind *kind = opaque;
    g_autofree char *path = g_build_filename(store, leaf, NULL);
    g_autofree char *name = g_strndup(leaf, strlen(leaf) -
                                                MIN(strlen(leaf), strlen(STORE_SUFFIX)));

    if (g_str_has_suffix(leaf, STORE_SUFFIX) && store_check_name(*kind, name, NULL) &&
        has_manifest(path))
        return g_steal_pointer(&name);
    return NULL;
}

char **store_list(StoreKind kind, GError **error)
{
    g_autofree char *folder = store_folder(kind);

    return folder_names(folder, name_of, &kind, error);
}

char *store_name(StoreKind kind, const char *folder)
{
    g_autofree char *store = store_folder(kind);
    g_autofree char *parent = g_path_get_dirname(folder);
    g_autofree char *leaf = g_path_get_basename(folder);

    if (!g_str_equal(store, parent) || !g_str_has_suffix(leaf, STORE_SUFFIX))
        return g_strdup(folder);
    leaf[strlen(leaf) - strlen(STORE_SUFFIX)] = 0;
    return g_steal_pointer(&leaf);
}

bool store_make_parent(const char *folder, GError **error)
{
    g_autofree char *parent = g_path_get_dirname(folder);

    return g_mkdir_with_parents(parent, 0700) == 0 ||
           fail_errno(error, "make the folder '%s'", parent);
}

/* ---- use -----------------------------------------------------------------------------
 */

/* Whether the path still shows the file that was locked: it may have been removed, or
 * exchanged, before the lock was had. */
static bool still_there(int fd, const char *path)
{
    struct stat a, b;

    return fstat(fd, &a) == 0 && stat(path, &b) == 0 && a.st_ino == b.st_ino &&
           a.st_dev == b.st_dev;
}

/* -1 on failure. */
static int lock_manifest(const char *folder, short type, GError **error)
{
    g_autofree char *path = g_build_filename(folder, SNAP_MANIFEST, NULL);
    autofd fd = open(path, (type == F_RDLCK ? O_RDONLY : O_RDWR) | O_NOFOLLOW |
                               O_NONBLOCK | O_CLOEXEC);
    struct flock whole = {.l_type = type, .l_whence = SEEK_SET};

    if (fd < 0) {
        fail_errno(error, "'%s': open it", path);
        return -1;
    }
    if (fcntl(fd, F_OFD_SETLK, &whole) == 0) {
        if (still_there(fd, path))
            return fd_steal(&fd);
        fail(error, VM_ERROR_BUSY, "'%s' was removed or exchanged just now", folder);
    } else if (errno != EAGAIN && errno != EACCES) {
        fail_errno(error, "'%s': lock it", path);
    } else if (type == F_RDLCK) {
        fail(error, VM_ERROR_BUSY, "'%s' is being removed or merged", folder);
    } else {
        fail(error, VM_ERROR_BUSY, "'%s' is in use", folder);
    }
    return -1;
}

int store_hold(const char *folder, GError **error)
{
    return lock_manifest(folder, F_RDLCK, error);
}

int store_seize(const char *folder, GError **error)
{
    return lock_manifest(folder, F_WRLCK, error);
}

bool store_in_use(const char *folder)
{
    g_autofree char *path = g_build_filename(folder, SNAP_MANIFEST, NULL);
    autofd fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

    return fd >= 0 && fcntl(fd, F_OFD_GETLK, &whole) == 0 && whole.l_type != F_UNLCK;
}
