/* See snapshot/file.h. */
#include "snapshot/file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "util/fd.h"

GBytes *snap_file_read(const char *path, uint64_t max, GError **error)
{
    autofd fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    g_autofree char *data = NULL;
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0) {
        fail_errno(error, "'%s': open it", path);
        return NULL;
    }
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > max) {
        fail(error, VM_ERROR_CORRUPT, "'%s': it is not a file, or too large a one", path);
        return NULL;
    }
    data = g_try_malloc((size_t)st.st_size + 1);
    if (!data) {
        fail(error, VM_ERROR_IO, "'%s': no room in memory for it", path);
        return NULL;
    }
    if (!fd_pread_all(fd, data, (size_t)st.st_size, 0, error)) {
        g_prefix_error(error, "'%s': ", path);
        return NULL;
    }
    data[st.st_size] = 0;
    return g_bytes_new_take(g_steal_pointer(&data), (size_t)st.st_size);
}
