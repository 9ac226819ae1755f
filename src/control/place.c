/* Claiming a name; see control/place.h.
 *
 * A claim is an exclusive lock of the open file (F_OFD_SETLK) on the file `lock`, which
 * the kernel gives back when the monitor dies, however that happens; others can look
 * whether it is held without taking it.  A lock file serves one monitor only: who finds
 * one that is not empty and that nobody holds removes it and begins again, so that the
 * number in it is always its holder's.
 *
 * Who leaves unlinks `lock` while it is still locked, so another may have opened it in
 * time and hold a lock on a file that is not there any more, or in a folder that has
 * another name by now: after locking we look whether the path still shows the file we
 * locked, and begin again if not. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "src/control/place_private.h"
#include "util/fd.h"

enum { MAX_TRIES = 100 };

/* A full run folder is the host's everyday trouble: memory, mostly.  `what`: "write". */
static bool fail_path(const char *what, const char *path, GError **error)
{
    if (errno == ENOSPC || errno == EDQUOT)
        return fail(error, VM_ERROR_IO,
                    "%s '%s': its file system is full; free some room there ('hutch rm' "
                    "ended VMs), or set XDG_RUNTIME_DIR otherwise",
                    what, path);
    return fail_errno(error, "%s '%s'", what, path);
}

static bool fail_making(const Place *p, const char *file, GError **error)
{
    int err = errno;
    g_autofree char *path = place_path(p, file);

    errno = err;
    return fail_path("write", path, error);
}

static bool make_folders(const char *folder, GError **error)
{
    g_autofree char *parent = g_path_get_dirname(folder);

    if (g_mkdir_with_parents(parent, 0700) < 0)
        return fail_path("make the folder", parent, error);
    if (mkdir(folder, 0700) < 0 && errno != EEXIST)
        return fail_path("make the folder", folder, error);
    return true;
}

/* Nobody else may have made it for us. */
static bool check_owner(int fd, const char *folder, GError **error)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return fail_errno(error, "look at '%s'", folder);
    if (st.st_uid != geteuid())
        return fail(error, VM_ERROR_INVALID,
                    "the run folder '%s' belongs to user %u; remove it, or name the VM "
                    "otherwise",
                    folder, (unsigned)st.st_uid);
    return fchmod(fd, 0700) == 0 || fail_errno(error, "make '%s' private", folder);
}

static bool fail_taken(int lock_fd, const char *name, GError **error)
{
    pid_t pid = place_read_pid(lock_fd);

    if (!pid)
        return fail(error, VM_ERROR_BUSY,
                    "a VM named '%s' runs already; name this one otherwise", name);
    return fail(error, VM_ERROR_BUSY,
                "a VM named '%s' runs already (process %d); name this one otherwise",
                name, (int)pid);
}

static bool still_there(const Place *p, struct stat *ours)
{
    g_autofree char *path = place_path(p, PLACE_LOCK);
    struct stat there;

    return fstat(p->lock_fd, ours) == 0 && lstat(path, &there) == 0 &&
           ours->st_dev == there.st_dev && ours->st_ino == there.st_ino;
}

typedef enum { CLAIMED, AGAIN, FAILED } Claim;

static Claim lock_it(Place *p, const char *name, GError **error)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    struct stat st;

    if (fcntl(p->lock_fd, F_OFD_SETLK, &whole) < 0) {
        if (errno == EAGAIN || errno == EACCES)
            fail_taken(p->lock_fd, name, error);
        else
            fail_errno(error, "lock '%s/%s'", p->folder, PLACE_LOCK);
        return FAILED;
    }
    if (!still_there(p, &st))
        return AGAIN;
    if (!st.st_size)
        return CLAIMED;
    unlinkat(p->folder_fd, PLACE_LOCK, 0); /* a dead monitor's */
    return AGAIN;
}

static Claim try_claim(Place *p, const char *name, GError **error)
{
    if (!make_folders(p->folder, error))
        return FAILED;
    p->folder_fd = open(p->folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (p->folder_fd < 0 && errno == ENOENT)
        return AGAIN;
    if (p->folder_fd < 0) {
        fail_errno(error, "open the folder '%s'", p->folder);
        return FAILED;
    }
    if (!check_owner(p->folder_fd, p->folder, error))
        return FAILED;
    p->lock_fd = openat(p->folder_fd, PLACE_LOCK,
                        O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (p->lock_fd < 0 && errno == ENOENT)
        return AGAIN; /* the folder is being removed */
    if (p->lock_fd < 0) {
        fail_making(p, PLACE_LOCK, error);
        rmdir(p->folder); /* ours, if nothing is in it */
        return FAILED;
    }
    return lock_it(p, name, error);
}

static void close_all(Place *p)
{
    fd_close(&p->lock_fd);
    fd_close(&p->folder_fd);
}

static bool claim(Place *p, const char *name, GError **error)
{
    for (unsigned i = 0; i < MAX_TRIES; i++) {
        Claim result = try_claim(p, name, error);

        if (result != AGAIN)
            return result == CLAIMED;
        close_all(p);
    }
    return fail(error, VM_ERROR_BUSY, "the run folder '%s' is removed again and again",
                p->folder);
}

static bool write_pid(const Place *p, GError **error)
{
    char text[16];
    int len = snprintf(text, sizeof(text), "%d\n", (int)getpid());

    return pwrite(p->lock_fd, text, len, 0) == len || fail_making(p, PLACE_LOCK, error);
}

/* ---- what is in it --------------------------------------------------------------------
 */

static bool outlives(const char *file)
{
    static const char *const kept[] = {PLACE_CONFIG, PLACE_LOG,    PLACE_CONSOLE_LOG,
                                       PLACE_RESULT, PLACE_ORIGIN, NULL};
    size_t len = strlen(file);
    g_autofree char *whole = g_strndup(file,
                                       len - (g_str_has_suffix(file, ".1") ? 2 : 0));

    return g_strv_contains(kept, whole);
}

/* Everything but the lock, and what is to be kept. */
static void sweep(const Place *p, bool keep)
{
    int fd = fcntl(p->folder_fd, F_DUPFD_CLOEXEC, 3);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;

    if (!dir) {
        fd_close(&fd);
        return;
    }
    rewinddir(dir);
    while ((e = readdir(dir)))
        if (!g_str_equal(e->d_name, ".") && !g_str_equal(e->d_name, "..") &&
            !g_str_equal(e->d_name, PLACE_LOCK) && !(keep && outlives(e->d_name)))
            unlinkat(p->folder_fd, e->d_name, e->d_type == DT_DIR ? AT_REMOVEDIR : 0);
    closedir(dir);
}

static void leave(Place *p, bool keep)
{
    if (!p->folder)
        return;
    sweep(p, keep);
    unlinkat(p->folder_fd, PLACE_LOCK, 0);
    if (!keep)
        rmdir(p->folder); /* fails if the next has claimed it */
    close_all(p);
    g_clear_pointer(&p->folder, g_free);
}

void place_release(Place *p)
{
    leave(p, false);
}

void place_keep(Place *p)
{
    leave(p, true);
}

bool place_claim(Place *p, const char *name, GError **error)
{
    *p = (Place){.folder = place_folder(name, error), .folder_fd = -1, .lock_fd = -1};
    if (!p->folder)
        return false;
    if (!claim(p, name, error)) {
        close_all(p);
        g_clear_pointer(&p->folder, g_free);
        return false;
    }
    sweep(p, false);
    if (write_pid(p, error))
        return true;
    place_release(p);
    return false;
}

char *place_path(const Place *p, const char *file)
{
    return g_build_filename(p->folder, file, NULL);
}

char *place_name(const Place *p)
{
    return g_path_get_basename(p->folder);
}

bool place_rename(Place *p, const char *name, GError **error)
{
    g_autofree char *to = place_folder(name, error);

    if (!to)
        return false;
    if (renameat2(AT_FDCWD, p->folder, AT_FDCWD, to, RENAME_NOREPLACE) < 0) {
        if (errno == EEXIST)
            return fail(error, VM_ERROR_BUSY,
                        "there is a VM named '%s' already; choose another name, or "
                        "'hutch rm' that one",
                        name);
        return fail_errno(error, "rename the run folder '%s' to '%s'", p->folder, to);
    }
    g_free(p->folder);
    p->folder = g_steal_pointer(&to);
    return true;
}

bool place_move(const char *name, const char *to, GError **error)
{
    Place p = {.folder = place_folder(name, error), .folder_fd = -1, .lock_fd = -1};
    bool claimed = p.folder && claim(&p, name, error), ok = false;

    if (claimed && faccessat(p.folder_fd, PLACE_RESULT, F_OK, 0) < 0) {
        fail(error, VM_ERROR_NOT_FOUND, "the VM '%s' was removed meanwhile", name);
        place_release(&p);
        return false;
    }
    if (claimed) {
        ok = place_rename(&p, to, error);
        unlinkat(p.folder_fd, PLACE_LOCK, 0);
    }
    close_all(&p);
    g_free(p.folder);
    return ok;
}

bool place_tidy(const char *name)
{
    g_autofree char *folder = place_folder(name, NULL);

    return folder && rmdir(folder) == 0;
}

bool place_write(const Place *p, const char *file, const char *text, GError **error)
{
    g_autofree char *partial = g_strconcat(file, ".partial", NULL);
    autofd fd = openat(p->folder_fd, partial,
                       O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    ssize_t len = (ssize_t)strlen(text), n = fd < 0 ? -1 : write(fd, text, len);

    if (n >= 0 && n < len)
        errno = ENOSPC; /* what else would cut it short */
    if (n == len && renameat(p->folder_fd, partial, p->folder_fd, file) == 0)
        return true;
    fail_making(p, file, error);
    unlinkat(p->folder_fd, partial, 0);
    return false;
}
