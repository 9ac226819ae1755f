/* Keeping two VMs off one disk, whichever monitor runs them.
 *
 * QEMU (block/file-posix.c) represents each permission by two bytes of the file, on
 * which it takes shared OFD locks: byte 100 + p says "I use permission p", byte 200 + p
 * "nobody else may use p".  Whoever starts takes its locks first and looks for conflicts
 * then, so that of two that start together at least one sees the other.
 *
 * We take what QEMU takes for a VM's disk: read (and write), letting others read only,
 * if they can live with us writing. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "backend/image.h"
#include "block_private.h"
#include "util/bits.h"
#include "util/fd.h"

enum { USED_BASE = 100, UNSHARED_BASE = 200 };
enum { PATIENCE = 20, PATIENCE_STEP_US = 10000 };

/* QEMU's BLK_PERM_ bits, by number */
enum { PERM_CONSISTENT_READ = 0, PERM_WRITE = 1, PERM_RESIZE = 3, N_PERMS = 4 };

static bool set_shared(int fd, int byte)
{
    struct flock fl = {
        .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    return fcntl(fd, F_OFD_SETLK, &fl) == 0;
}

/* True if somebody else has a lock on the byte. */
static bool is_taken(int fd, int byte)
{
    struct flock fl = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    return fcntl(fd, F_OFD_GETLK, &fl) == 0 && fl.l_type != F_UNLCK;
}

/* ---- who holds it: an OFD lock names nobody, but /proc/PID/fdinfo does ------------- */

static bool fd_holds_lock(const char *pid, const char *fd, const struct stat *file)
{
    g_autofree char *link = g_strdup_printf("/proc/%s/fd/%s", pid, fd);
    g_autofree char *info = g_strdup_printf("/proc/%s/fdinfo/%s", pid, fd);
    g_autofree char *text = NULL;
    struct stat st;

    return stat(link, &st) == 0 && st.st_dev == file->st_dev &&
           st.st_ino == file->st_ino && g_file_get_contents(info, &text, NULL, NULL) &&
           strstr(text, "OFDLCK");
}

static bool process_holds_lock(const char *pid, int own_fd, const struct stat *file)
{
    g_autofree char *path = g_strdup_printf("/proc/%s/fd", pid);
    bool self = atoi(pid) == getpid();
    DIR *dir = opendir(path); /* fails for other users' processes */
    bool found = false;
    struct dirent *e;

    while (dir && !found && (e = readdir(dir)))
        found = e->d_name[0] != '.' && !(self && atoi(e->d_name) == own_fd) &&
                fd_holds_lock(pid, e->d_name, file);
    if (dir)
        closedir(dir);
    return found;
}

static char *describe_process(const char *pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%s/comm", pid);
    g_autofree char *name = NULL;

    if (atoi(pid) == getpid())
        return g_strdup("this VM itself, as another disk");
    if (!g_file_get_contents(path, &name, NULL, NULL))
        return g_strdup_printf("process %s", pid);
    return g_strdup_printf("%s (process %s)", g_strstrip(name), pid);
}

static char *describe_holder(int fd)
{
    DIR *dir = opendir("/proc");
    char *holder = NULL;
    struct dirent *e;
    struct stat file;

    while (dir && !holder && fstat(fd, &file) == 0 && (e = readdir(dir)))
        if (g_ascii_isdigit(e->d_name[0]) && process_holds_lock(e->d_name, fd, &file))
            holder = describe_process(e->d_name);
    if (dir)
        closedir(dir);
    return holder; /* NULL: nobody that we can see */
}

/* ---- the locks -------------------------------------------------------------------- */

/* False with errno 0: somebody is in the way. */
static bool try_lock(int fd, bool readonly)
{
    const unsigned uses = BIT(PERM_CONSISTENT_READ) | (readonly ? 0 : BIT(PERM_WRITE));
    const unsigned unshared = BIT(PERM_WRITE) | BIT(PERM_RESIZE);

    for (int p = 0; p < N_PERMS; p++) {
        if (((uses & BIT(p)) && !set_shared(fd, USED_BASE + p)) ||
            ((unshared & BIT(p)) && !set_shared(fd, UNSHARED_BASE + p))) {
            if (errno == EAGAIN || errno == EACCES)
                errno = 0;
            return false;
        }
    }
    errno = 0;
    for (int p = 0; p < N_PERMS; p++)
        if (((uses & BIT(p)) && is_taken(fd, UNSHARED_BASE + p)) ||
            ((unshared & BIT(p)) && is_taken(fd, USED_BASE + p)))
            return false;
    return true;
}

bool block_lock(int fd, const char *path, bool readonly, GError **error)
{
    g_autofree char *holder = NULL;

    /* A monitor that was just killed keeps its locks until its last request is done, and
     * the kernel has taken its rings apart: nobody then, and for a moment. */
    for (int tries = 0; !try_lock(fd, readonly); tries++) {
        if (errno)
            return fail_errno(error, "'%s': lock it (locking=off does without)", path);
        block_unlock(fd);
        holder = describe_holder(fd);
        if (holder || tries == PATIENCE) {
            return fail(error, VM_ERROR_BUSY,
                        "'%s' is in use by %s: stop that first, use a copy, or give "
                        "every user of it readonly",
                        path,
                        holder ? holder : "a process that cannot be seen from here");
        }
        g_usleep(PATIENCE_STEP_US);
    }
    return true;
}

void block_unlock(int fd)
{
    struct flock fl = {.l_type = F_UNLCK,
                       .l_whence = SEEK_SET,
                       .l_start = USED_BASE,
                       .l_len = UNSHARED_BASE + N_PERMS - USED_BASE};

    fcntl(fd, F_OFD_SETLK, &fl);
}

bool image_in_use(const char *path, bool *ret, GError **error)
{
    autofd fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return fail_errno(error, "'%s'", path);
    *ret = false;
    for (int p = 0; p < N_PERMS; p++)
        *ret |= is_taken(fd, USED_BASE + p) || is_taken(fd, UNSHARED_BASE + p);
    return true;
}
