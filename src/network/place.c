/* Finding a network's switch, and starting it; see network/place.h.
 *
 * Joining is a lock, a connect and no more while the switch runs.  If it does not, who
 * gets start.lock alone starts it, and the others, who wait for that lock, find it
 * running. */
#include "network/place.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "network/config.h"
#include "src/network/spawn.h"
#include "util/fd.h"
#include "util/unixsocket.h"

#define START_LOCK "start.lock"

static char *parent_folder(const char *name, GError **error)
{
    const char *runtime = g_getenv("XDG_RUNTIME_DIR");

    if (runtime && g_path_is_absolute(runtime))
        return g_build_filename(runtime, "hutch-net", NULL);
    if (geteuid() == 0)
        return g_strdup("/run/hutch-net");
    fail(error, VM_ERROR_UNSUPPORTED,
         "network '%s': there is no folder for its sockets; set XDG_RUNTIME_DIR", name);
    return NULL;
}

char *network_place(const char *name, const char *file, GError **error)
{
    g_autofree char *parent = network_check_name(name, error) ? parent_folder(name, error)
                                                              : NULL;

    return parent ? g_build_filename(parent, name, file, NULL) : NULL;
}

bool network_make_place(const char *name, GError **error)
{
    g_autofree char *folder = network_place(name, NULL, error);
    struct stat st;

    if (!folder)
        return false;
    if (g_mkdir_with_parents(folder, 0700) < 0)
        return fail_errno(error, "network '%s': make the folder '%s'", name, folder);
    if (lstat(folder, &st) < 0)
        return fail_errno(error, "network '%s': look at '%s'", name, folder);
    if (S_ISDIR(st.st_mode) && st.st_uid == geteuid() && !(st.st_mode & 0077))
        return true;
    return fail(error, VM_ERROR_INVALID,
                "network '%s': '%s' is not a folder of this user's alone; remove it",
                name, folder);
}

int network_lock_start(const char *name, int how, GError **error)
{
    g_autofree char *path = network_place(name, START_LOCK, error);
    autofd fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600) : -1;
    int result;

    if (!path)
        return -1;
    if (fd < 0) {
        fail_errno(error, "network '%s': open '%s'", name, path);
        return -1;
    }
    do
        result = flock(fd, how);
    while (result < 0 && errno == EINTR);
    if (result == 0)
        return fd_steal(&fd);
    if (errno == EWOULDBLOCK)
        fail(error, VM_ERROR_BUSY, "network '%s' is being joined or started", name);
    else
        fail_errno(error, "network '%s': lock '%s'", name, path);
    return -1;
}

bool network_is_up(const char *name)
{
    g_autofree char *path = network_place(name, NETWORK_CONTROL, NULL);
    autofd fd = path ? unix_connect_now(path, NULL) : -1;

    return fd >= 0 || (path && errno == EAGAIN);
}

/* No switch, as opposed to one that cannot be reached. */
static bool is_down(int err)
{
    return err == ENOENT || err == ECONNREFUSED || err == ECONNRESET;
}

/* With start.lock held as `how` says; -1 without an error: it does not run. */
static int connect_locked(const char *name, const char *socket, GError **error)
{
    g_autofree char *path = network_place(name, socket, error);
    g_autoptr(GError) why = NULL;
    int fd = path ? unix_connect(path, &why) : -1;

    if (fd < 0 && path && !is_down(errno))
        g_propagate_prefixed_error(error, g_steal_pointer(&why), "network '%s': ", name);
    return fd;
}

static int join_running(const char *name, const char *socket, GError **error)
{
    autofd lock = network_lock_start(name, LOCK_SH, NULL);

    return lock < 0 ? -1 : connect_locked(name, socket, error);
}

/* Nobody else starts it now; another may have been faster. */
static int start_and_join(const char *name, const char *socket, GError **error)
{
    g_autoptr(GError) why = NULL;
    autofd lock = -1;
    int fd;

    if (!network_make_place(name, error))
        return -1;
    lock = network_lock_start(name, LOCK_EX, error);
    if (lock < 0)
        return -1;
    fd = connect_locked(name, socket, &why);
    if (fd >= 0 || why) {
        if (why)
            g_propagate_error(error, g_steal_pointer(&why));
        return fd;
    }
    if (!spawn_switch(name, error))
        return -1;
    fd = connect_locked(name, socket, &why);
    if (why)
        g_propagate_error(error, g_steal_pointer(&why));
    else if (fd < 0)
        fail(error, VM_ERROR_IO, "network '%s': its switch ended as soon as it began",
             name);
    return fd;
}

static bool is_there(const char *name, GError **error)
{
    NetworkConfig *config = network_load(name, error);
    bool there = config;

    param_free(&network_params, config);
    return there;
}

int network_join(const char *name, const char *socket, GError **error)
{
    g_autoptr(GError) why = NULL;
    int fd;

    if (!network_check_name(name, error))
        return -1;
    fd = join_running(name, socket, &why);
    if (fd < 0 && why)
        g_propagate_error(error, g_steal_pointer(&why));
    else if (fd < 0 && is_there(name, error))
        fd = start_and_join(name, socket, error);
    return fd;
}
