/* See control/place.h.
 *
 * A claim is an exclusive flock() on the file `lock`, which the kernel gives back when
 * the monitor dies, however that happens.  Who leaves unlinks `lock` while it is still
 * locked, so another may have opened it in time and hold a lock on a file that is not
 * there any more: after locking we look whether the folder still shows the file we
 * locked, and begin again if not. */
#include "control/place.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "util/fd.h"

#define LOCK_FILE   "lock"
#define SOCKET_FILE "control.sock"

enum { MAX_NAME = 64, MAX_TRIES = 100 };

static bool check_name(const char *name, GError **error)
{
    bool printable = g_utf8_validate(name, -1, NULL);

    for (const char *p = name; *p && printable; p++)
        printable = (unsigned char)*p >= ' ' && *p != 0x7f;
    if (!*name || *name == '.' || *name == '-' || strchr(name, '/') || !printable ||
        strlen(name) > MAX_NAME)
        return fail(error, VM_ERROR_INVALID,
                    "'%s' cannot be a VM's name: no '/' in it, no '.' or '-' first, "
                    "printable, and %d bytes at most",
                    name, MAX_NAME);
    return true;
}

/* Of all VMs. */
static char *parent_folder(const char *name, GError **error)
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

static char *folder_of(const char *name, GError **error)
{
    g_autofree char *parent = check_name(name, error) ? parent_folder(name, error) : NULL;

    return parent ? g_build_filename(parent, name, NULL) : NULL;
}

char *place_file(const char *name, const char *file, GError **error)
{
    g_autofree char *folder = folder_of(name, error);

    return folder ? g_build_filename(folder, file, NULL) : NULL;
}

char *place_find(const char *name, GError **error)
{
    return place_file(name, SOCKET_FILE, error);
}

char *place_socket(const Place *p)
{
    return g_build_filename(p->folder, SOCKET_FILE, NULL);
}

/* ---- claiming -------------------------------------------------------------------------
 */

static bool make_folders(const char *folder, GError **error)
{
    g_autofree char *parent = g_path_get_dirname(folder);

    if (g_mkdir_with_parents(parent, 0700) < 0)
        return fail_errno(error, "make the folder '%s'", parent);
    if (mkdir(folder, 0700) < 0 && errno != EEXIST)
        return fail_errno(error, "make the folder '%s'", folder);
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
    char pid[16] = "";
    ssize_t n = pread(lock_fd, pid, sizeof(pid) - 1, 0);
    int number = n > 0 ? atoi(pid) : 0;

    if (!number)
        return fail(error, VM_ERROR_BUSY,
                    "a VM named '%s' runs already; name this one otherwise", name);
    return fail(error, VM_ERROR_BUSY,
                "a VM named '%s' runs already (process %d); name this one otherwise",
                name, number);
}

static bool still_there(const Place *p)
{
    struct stat ours, there;

    return fstat(p->lock_fd, &ours) == 0 &&
           fstatat(p->folder_fd, LOCK_FILE, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
           ours.st_dev == there.st_dev && ours.st_ino == there.st_ino;
}

typedef enum { CLAIMED, AGAIN, FAILED } Claim;

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
    p->lock_fd = openat(p->folder_fd, LOCK_FILE,
                        O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (p->lock_fd < 0 && errno == ENOENT)
        return AGAIN; /* the folder is being removed */
    if (p->lock_fd < 0) {
        fail_errno(error, "open '%s/%s'", p->folder, LOCK_FILE);
        return FAILED;
    }
    if (flock(p->lock_fd, LOCK_EX | LOCK_NB) < 0) {
        if (errno == EWOULDBLOCK)
            fail_taken(p->lock_fd, name, error);
        else
            fail_errno(error, "lock '%s/%s'", p->folder, LOCK_FILE);
        return FAILED;
    }
    return still_there(p) ? CLAIMED : AGAIN;
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

    return (ftruncate(p->lock_fd, 0) == 0 && pwrite(p->lock_fd, text, len, 0) == len) ||
           fail_errno(error, "write '%s/%s'", p->folder, LOCK_FILE);
}

bool place_claim(Place *p, const char *name, GError **error)
{
    *p = (Place){.folder = folder_of(name, error), .folder_fd = -1, .lock_fd = -1};
    if (!p->folder)
        return false;
    if (!claim(p, name, error)) {
        close_all(p);
        g_clear_pointer(&p->folder, g_free);
        return false;
    }
    unlinkat(p->folder_fd, SOCKET_FILE, 0);
    unlinkat(p->folder_fd, "agent.sock", 0); /* else removed by its chardev */
    if (write_pid(p, error))
        return true;
    place_release(p);
    return false;
}

void place_release(Place *p)
{
    if (!p->folder)
        return;
    unlinkat(p->folder_fd, SOCKET_FILE, 0);
    unlinkat(p->folder_fd, "agent.lock", 0); /* of who has talked to the guest's agent */
    unlinkat(p->folder_fd, LOCK_FILE, 0);
    rmdir(p->folder); /* fails if the next has claimed it, or put something there */
    close_all(p);
    g_clear_pointer(&p->folder, g_free);
}
