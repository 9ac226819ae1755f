/* See util/logfile.h. */
#include "util/logfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "util/fd.h"

static bool open_part(LogFile *l, int flags)
{
    struct stat st;

    l->fd = openat(l->folder_fd, l->name,
                   O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_CLOEXEC | flags, 0600);
    if (l->fd < 0 || fstat(l->fd, &st) < 0)
        return false;
    l->size = (size_t)st.st_size;
    return true;
}

bool logfile_open(LogFile *l, const char *path, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(path);

    *l = (LogFile){.fd = -1, .name = g_path_get_basename(path)};
    l->folder_fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (l->folder_fd < 0)
        return fail_errno(error, "open the folder '%s'", folder);
    return open_part(l, 0) || fail_errno(error, "open the log '%s'", path);
}

void logfile_close(LogFile *l)
{
    fd_close(&l->fd);
    fd_close(&l->folder_fd);
    g_clear_pointer(&l->name, g_free);
}

/* If it cannot be renamed it is begun anew: the bound is what counts. */
static bool rotate(LogFile *l)
{
    g_autofree char *older = g_strconcat(l->name, ".1", NULL);

    renameat(l->folder_fd, l->name, l->folder_fd, older);
    fd_close(&l->fd);
    return open_part(l, O_TRUNC);
}

bool logfile_write(LogFile *l, const void *buf, size_t len)
{
    const char *at = buf;

    while (len) {
        ssize_t n;

        if ((l->fd < 0 || l->size >= LOGFILE_MAX) && !rotate(l))
            return false;
        n = write(l->fd, at, MIN(len, LOGFILE_MAX - l->size));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        at += n;
        len -= (size_t)n;
        l->size += (size_t)n;
    }
    return true;
}
