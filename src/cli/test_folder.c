/* Temporary folders of cells: see test.h.
 *
 * The folder's file `lock` is flock()ed by the cell and, as it inherits the open file, by
 * its keeper: the kernel gives the lock back when the last of them has died, and whoever
 * gets it then removes the folder.  A folder without `lock` is somebody's who kept it, or
 * has just been made and is empty: rmdir() tells. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "control/place.h"
#include "src/cli/test.h"
#include "util/fd.h"

#define PREFIX    "hutch-test-"
#define LOCK_FILE "lock"

enum { MAX_TRIES = 100, MAX_DEPTH = 16 };

static char *base_folder(void)
{
    const char *given = g_getenv("TMPDIR");

    /* Overlays may become large, and /tmp is often in memory. */
    return g_strdup(given && g_path_is_absolute(given) ? given : "/var/tmp");
}

/* ---- removing --------------------------------------------------------------------- */

static bool is_dots(const char *name)
{
    return g_str_equal(name, ".") || g_str_equal(name, "..");
}

/* Empties the folder `fd`, and closes it; what cannot be removed stays. */
static void empty_folder(int fd, unsigned depth)
{
    DIR *dir = fdopendir(fd);
    struct dirent *e;

    if (!dir) {
        close(fd);
        return;
    }
    while ((e = readdir(dir))) {
        int below;

        if (is_dots(e->d_name) || unlinkat(fd, e->d_name, 0) == 0 || depth == MAX_DEPTH)
            continue;
        below = openat(fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (below >= 0) {
            empty_folder(below, depth + 1);
            unlinkat(fd, e->d_name, AT_REMOVEDIR);
        }
    }
    closedir(dir);
}

static void remove_tree(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    if (fd >= 0)
        empty_folder(fd, 0);
    rmdir(path);
}

/* A monitor that was killed has left it; whoever can claim it may remove it.  False: it
 * is not dead yet. */
static bool remove_run_folder(const char *vm)
{
    g_autofree char *lock = place_file(vm, "lock", NULL);
    g_autofree char *folder = lock ? g_path_get_dirname(lock) : NULL;
    Place place;

    if (!folder || access(folder, F_OK) < 0)
        return true;
    if (!place_claim(&place, vm, NULL))
        return false;
    empty_folder(dup(place.folder_fd), 0);
    place_release(&place);
    return true;
}

void test_folder_remove(TestFolder *f)
{
    if (f->path && remove_run_folder(f->vm)) {
        remove_tree(f->path);
        test_folder_leave(f);
    }
    test_folder_let_go(f); /* or for another sweep */
}

void test_folder_leave(TestFolder *f)
{
    g_autofree char *lock = f->path ? g_build_filename(f->path, LOCK_FILE, NULL) : NULL;

    if (lock)
        unlink(lock); /* with it goes the sign that it is to be removed */
    test_folder_let_go(f);
}

void test_folder_let_go(TestFolder *f)
{
    if (f->path)
        fd_close(&f->lock_fd);
    g_clear_pointer(&f->path, g_free);
    g_clear_pointer(&f->vm, g_free);
}

/* ---- making ----------------------------------------------------------------------- */

/* The open, locked file; -1: somebody sweeps here, or a failure with errno. */
static int lock_in(const char *folder, int flags)
{
    g_autofree char *path = g_build_filename(folder, LOCK_FILE, NULL);
    int fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC | flags, 0600);
    struct stat ours, there;

    if (fd < 0)
        return -1;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0 && fstat(fd, &ours) == 0 &&
        lstat(path, &there) == 0 && ours.st_ino == there.st_ino &&
        ours.st_dev == there.st_dev)
        return fd;
    close(fd);
    errno = EWOULDBLOCK;
    return -1;
}

static char *vm_of(const char *folder)
{
    return g_strdup_printf("test-%s", strrchr(folder, '-') + 1);
}

/* Where run folders are made by default can be written to. */
static bool has_runtime_folder(void)
{
    const char *runtime = g_getenv("XDG_RUNTIME_DIR");

    if (runtime && g_path_is_absolute(runtime))
        return access(runtime, W_OK | X_OK) == 0;
    return geteuid() == 0 && access("/run", W_OK | X_OK) == 0;
}

static bool make_runtime_folder(const char *folder, GError **error)
{
    g_autofree char *path = g_build_filename(folder, "run", NULL);

    if (has_runtime_folder())
        return true;
    if (mkdir(path, 0700) < 0)
        return fail_errno(error, "make the folder '%s'", path);
    return g_setenv("XDG_RUNTIME_DIR", path, TRUE) ||
           fail(error, VM_ERROR_IO, "set XDG_RUNTIME_DIR");
}

bool test_folder_make(TestFolder *f, GError **error)
{
    g_autofree char *base = base_folder();

    *f = (TestFolder){.lock_fd = -1};
    for (unsigned i = 0; i < MAX_TRIES; i++) {
        g_autofree char *path = g_build_filename(base, PREFIX "XXXXXX", NULL);

        if (!mkdtemp(path))
            return fail_errno(
                error, "make a folder in '%s' (TMPDIR can name another place)", base);
        f->lock_fd = lock_in(path, O_CREAT);
        if (f->lock_fd < 0 && errno != EWOULDBLOCK && errno != ENOENT)
            return fail_errno(error, "make the file '%s/" LOCK_FILE "'", path);
        if (f->lock_fd < 0)
            continue; /* swept away before it was ours */
        f->vm = vm_of(path);
        f->path = g_steal_pointer(&path);
        if (make_runtime_folder(f->path, error))
            return true;
        test_folder_remove(f);
        return false;
    }
    return fail(error, VM_ERROR_BUSY, "folders in '%s' are removed again and again",
                base);
}

/* ---- sweeping --------------------------------------------------------------------- */

static void sweep(const char *path)
{
    TestFolder f = {.lock_fd = -1};
    struct stat st;

    if (lstat(path, &st) < 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid())
        return;
    f.lock_fd = lock_in(path, 0);
    if (f.lock_fd < 0) {
        if (errno == ENOENT)
            rmdir(path);
        return;
    }
    f.path = g_strdup(path);
    f.vm = vm_of(path);
    test_folder_remove(&f);
}

void test_folder_sweep(void)
{
    g_autofree char *base = base_folder();
    GDir *dir = g_dir_open(base, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir)))
        if (g_str_has_prefix(name, PREFIX) && strlen(name) == strlen(PREFIX "XXXXXX")) {
            g_autofree char *path = g_build_filename(base, name, NULL);

            sweep(path);
        }
    if (dir)
        g_dir_close(dir);
}
