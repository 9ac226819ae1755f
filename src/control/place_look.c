/* Finding VMs by their run folders; see control/place.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "src/control/place_private.h"
#include "util/fd.h"
#include "util/folder.h"

enum { MAX_NAME = 64 };

bool place_check_name(const char *name, GError **error)
{
    bool printable = g_utf8_validate(name, -1, NULL);

    for (const char *p = name; printable && *p; p = g_utf8_next_char(p))
        printable = g_unichar_isprint(g_utf8_get_char(p));
    if (!*name || *name == '.' || *name == '-' || strchr(name, '/') || !printable ||
        strlen(name) > MAX_NAME)
        return fail(error, VM_ERROR_INVALID,
                    "'%s' cannot be a VM's name: no '/' in it, no '.' or '-' first, "
                    "printable, and %d bytes at most",
                    name, MAX_NAME);
    return true;
}

char *place_parent(const char *name, GError **error)
{
    const char *runtime = g_getenv("XDG_RUNTIME_DIR");

    if (runtime && g_path_is_absolute(runtime))
        return g_build_filename(runtime, "hutch", NULL);
    if (geteuid() == 0)
        return g_strdup("/run/hutch");
    fail(
        error, VM_ERROR_UNSUPPORTED,
        "VM '%s': there is no folder for its control socket; set XDG_RUNTIME_DIR, or use "
        "a socket's path (--control) instead of a name",
        name);
    return NULL;
}

char *place_folder(const char *name, GError **error)
{
    g_autofree char *parent = place_check_name(name, error) ? place_parent(name, error)
                                                            : NULL;

    return parent ? g_build_filename(parent, name, NULL) : NULL;
}

char *place_file(const char *name, const char *file, GError **error)
{
    g_autofree char *folder = place_folder(name, error);

    return folder ? g_build_filename(folder, file, NULL) : NULL;
}

char *place_find(const char *name, GError **error)
{
    return place_file(name, PLACE_SOCKET, error);
}

pid_t place_read_pid(int lock_fd)
{
    char pid[16] = "";

    return pread(lock_fd, pid, sizeof(pid) - 1, 0) > 0 ? MAX(atoi(pid), 0) : 0;
}

/* ---- one VM ---------------------------------------------------------------------------
 */

static bool is_held(int lock_fd)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

    return fcntl(lock_fd, F_OFD_GETLK, &whole) == 0 && whole.l_type != F_UNLCK;
}

/* -1 without an error and with *ret_none: it is not there. */
static int open_lock(const char *name, bool *ret_none, GError **error)
{
    g_autofree char *path = place_file(name, PLACE_LOCK, error);
    int fd;

    *ret_none = false;
    if (!path)
        return -1;
    fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    *ret_none = fd < 0 && (errno == ENOENT || errno == ENOTDIR);
    if (fd < 0 && !*ret_none)
        fail_errno(error, "open '%s'", path);
    return fd;
}

/* A detached VM's result is what is left when its lock has gone. */
static void look_for_result(const char *name, PlaceInfo *ret)
{
    g_autofree char *path = place_file(name, PLACE_RESULT, NULL);
    struct stat st;

    if (path && lstat(path, &st) == 0 && S_ISREG(st.st_mode))
        ret->state = PLACE_ENDED;
}

bool place_look(const char *name, PlaceInfo *ret, GError **error)
{
    bool none;
    autofd fd = open_lock(name, &none, error);
    struct stat st;

    *ret = (PlaceInfo){.state = PLACE_NONE};
    if (none) {
        look_for_result(name, ret);
        return true;
    }
    if (fd < 0)
        return false;
    ret->state = is_held(fd) ? PLACE_RUNNING : PLACE_DEAD;
    ret->pid = place_read_pid(fd);
    if (fstat(fd, &st) == 0)
        ret->started = st.st_mtime;
    /* It may have ended between two looks. */
    if (ret->state == PLACE_DEAD && st.st_nlink == 0) {
        *ret = (PlaceInfo){.state = PLACE_NONE};
        look_for_result(name, ret);
    }
    return true;
}

/* The number in the file is its holder's.  When it is held still after the pidfd was
 * made, the process behind that is the holder: had that one died before, the lock would
 * be free. */
bool place_fail(const char *name, PlaceState state, GError **error)
{
    if (state == PLACE_NONE)
        return fail(error, VM_ERROR_NOT_FOUND,
                    "there is no VM named '%s'; 'hutch ps' lists them", name);
    return fail(error, VM_ERROR_NOT_FOUND,
                state == PLACE_DEAD
                    ? "the VM '%s' does not run any more: its monitor was killed"
                    : "the VM '%s' has ended; 'hutch wait' tells how",
                name);
}

int place_pidfd(const char *name, GError **error)
{
    bool none;
    autofd lock = open_lock(name, &none, error);
    pid_t pid = lock < 0 ? 0 : place_read_pid(lock);
    autofd fd = -1;

    if (lock < 0 && !none)
        return -1;
    if (pid > 0 && is_held(lock))
        fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd >= 0 && is_held(lock))
        return fd_steal(&fd);
    fail(error, VM_ERROR_NOT_FOUND, "the VM '%s' does not run", name);
    return -1;
}

/* ---- all of them ----------------------------------------------------------------------
 */

static char *name_of(const char *parent, const char *leaf, const void *opaque)
{
    return place_check_name(leaf, NULL) ? g_strdup(leaf) : NULL;
}

char **place_list(GError **error)
{
    g_autofree char *parent = place_parent("", error);

    return parent ? folder_names(parent, name_of, NULL, error) : NULL;
}
