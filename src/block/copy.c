/* Copying within the kernel, for `hutch image convert`: by sharing blocks where the file
 * system can (ioctl FICLONERANGE: btrfs, XFS), else by copy_file_range(2), which a file
 * server carries out by itself.  See backend/image.h. */
#include <errno.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "image_private.h"

const char *image_extent_path(const Extent *e)
{
    return e->file->path;
}

static bool share(const Extent *e, int to, uint64_t offset)
{
    struct file_clone_range range = {.src_fd = e->file->fd,
                                     .src_offset = e->file_offset,
                                     .src_length = e->len,
                                     .dest_offset = offset};

    return ioctl(to, FICLONERANGE, &range) == 0;
}

static int copy_bytes(const Extent *e, int to, uint64_t offset)
{
    off_t from_at = (off_t)e->file_offset, to_at = (off_t)offset;
    uint64_t left = e->len;

    while (left) {
        ssize_t n = copy_file_range(e->file->fd, &from_at, to, &to_at, left, 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EXDEV && errno != EOPNOTSUPP && errno != EINVAL &&
            errno != ENOSYS)
            return errno;
        if (n <= 0)
            return ENOTSUP; /* also a file that ends early: read() knows what to say */
        left -= (uint64_t)n;
    }
    return 0;
}

int image_copy_range(BlockImage *from, BlockImage *to, uint64_t offset, uint64_t len,
                     bool copy)
{
    while (len) {
        Extent e;
        int err = image_chain_extent(from, offset, len, &e, NULL);

        if (err)
            return err;
        if (e.kind != EXTENT_DATA || e.file->fd < 0 || to->file->fd < 0 ||
            to->format != &raw_format)
            return ENOTSUP;
        if (!share(&e, to->file->fd, offset)) {
            err = copy ? copy_bytes(&e, to->file->fd, offset) : ENOTSUP;
            if (err)
                return err;
        }
        offset += e.len;
        len -= e.len;
    }
    return 0;
}

bool image_snapshot_show(BlockImage *img, const char *id_or_name, GError **error)
{
    if (!img->format->snapshot_show)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "'%s': hutch cannot read internal snapshots of a %s image: apply it "
                    "to a copy of the image",
                    img->path, img->format->name);
    return img->format->snapshot_show(img, id_or_name, error);
}
