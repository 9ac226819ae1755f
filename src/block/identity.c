/* Image files as files: what one is known by, and copies.
 *
 * What was built on an image has to know that it is still the same.  Reading all of it
 * would take minutes where restoring a VM takes milliseconds, so it is known by what
 * every change changes: the time of the last write, with the size and the two ends of the
 * file, the first of which says what a qcow2 image is. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image_private.h"
#include "util/fd.h"

enum { END = 4096, DIGEST = 32, KEPT = 12 };

/* As much as there is; a short end is as good as a long one. */
static bool add_end(GChecksum *sum, int fd, uint64_t offset)
{
    uint8_t buf[END];
    ssize_t n;

    do
        n = pread(fd, buf, sizeof(buf), (off_t)offset);
    while (n < 0 && errno == EINTR);
    if (n > 0)
        g_checksum_update(sum, buf, n);
    return n >= 0;
}

static void add_number(GChecksum *sum, int64_t number)
{
    g_checksum_update(sum, (const guchar *)&(int64_t){GINT64_TO_LE(number)}, 8);
}

static char *digest(GChecksum *sum)
{
    uint8_t raw[DIGEST];
    gsize len = sizeof(raw);

    g_checksum_get_digest(sum, raw, &len);
    return g_base64_encode(raw, KEPT);
}

char *image_identity(const char *path, bool by_time, GError **error)
{
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    autofd fd = -1;
    struct stat st;
    off_t size;

    if (block_path_is_nbd(path))
        return g_strdup(IMAGE_UNKNOWN);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    if (size < 0 || fstat(fd, &st) < 0 || !add_end(sum, fd, 0) ||
        !add_end(sum, fd, (uint64_t)MAX(size - END, 0))) {
        fail_errno(error, "'%s'", path);
        return NULL;
    }
    add_number(sum, size);
    if (by_time && S_ISREG(st.st_mode)) {
        add_number(sum, st.st_mtim.tv_sec);
        add_number(sum, st.st_mtim.tv_nsec);
    }
    return digest(sum);
}

/* ---- copies --------------------------------------------------------------------------
 */

/* [at, end) of one file to the same place of the other. */
static bool copy_piece(int from, int to, uint64_t at, uint64_t end)
{
    uint8_t buf[16 * END];
    ssize_t n = 0;

    for (; at < end; at += (uint64_t)n) {
        do
            n = pread(from, buf, MIN(sizeof(buf), end - at), (off_t)at);
        while (n < 0 && errno == EINTR);
        if (n > 0 && pwrite(to, buf, (size_t)n, (off_t)at) != n)
            return false;
        if (n <= 0)
            return n == 0;
    }
    return true;
}

static bool copy_data(int from, int to)
{
    off_t size = lseek(from, 0, SEEK_END), at = 0, end;

    if (size < 0 || ftruncate(to, size) < 0)
        return false;
    for (; at < size; at = end) {
        at = lseek(from, at, SEEK_DATA);
        if (at < 0)
            return errno == ENXIO; /* the rest is a hole */
        end = lseek(from, at, SEEK_HOLE);
        if (end < 0 || !copy_piece(from, to, (uint64_t)at, (uint64_t)end))
            return false;
    }
    return true;
}

bool image_copy_file(const char *from, const char *to, GError **error)
{
    autofd in = open(from, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC), out = -1;
    struct stat st;

    if (in < 0 || fstat(in, &st) < 0)
        return fail_errno(error, "'%s': open it", from);
    out = open(to, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, st.st_mode & 0666);
    if (out < 0)
        return fail_errno(error, "'%s': make it", to);
    errno = EIO; /* of a write that was cut short */
    if (copy_data(in, out) && fsync(out) == 0) {
        image_copy_mark(in, out);
        return true;
    }
    fail_errno(error, "copy '%s' to '%s'", from, to);
    unlink(to);
    return false;
}
