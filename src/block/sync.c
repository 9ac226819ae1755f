/* Disk I/O done step by step, on a worker thread that may sleep.
 *
 * O_DIRECT wants addresses, offsets and lengths aligned.  What is not goes through the
 * worker's bounce buffer, a piece at a time; a write that covers a block only in part
 * then reads the block first.  Two of those on one block would lose one's data, so they
 * take rmw_lock; that no other write to the block is under way is the queue's doing. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#include "block_private.h"
#include "util/bits.h"
#include "util/iov.h"

enum { PIECES = 128 }; /* of a scatter/gather list handed to the kernel at once */

static int rw_buf(const BlockDev *dev, bool write, uint64_t offset, uint8_t *buf,
                  size_t len)
{
    while (len) {
        ssize_t n = write ? pwrite(dev->fd, buf, len, (off_t)offset)
                          : pread(dev->fd, buf, len, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? errno : EIO; /* the file has become shorter */
        /* After a short transfer O_DIRECT needs an aligned start: do the rest of the
         * block again. */
        n = (ssize_t)align_down((uint64_t)n, n < (ssize_t)len ? dev->io_align : 1);
        if (n == 0)
            return EIO;
        buf += n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

/* The next stretch of the list that fits `out`: returns its length. */
static size_t next_stretch(const BlockReq *req, uint64_t skip, uint64_t len,
                           struct iovec out[PIECES], unsigned *ret_n)
{
    size_t total = 0;
    unsigned n = 0;

    for (unsigned i = 0; i < req->n_iov && n < PIECES && total < len; i++) {
        size_t part = req->iov[i].iov_len;

        if (skip >= part) {
            skip -= part;
            continue;
        }
        part = MIN(part - skip, len - total);
        out[n++] = (struct iovec){(char *)req->iov[i].iov_base + skip, part};
        total += part;
        skip = 0;
    }
    *ret_n = n;
    return total;
}

static bool stretch_is_aligned(const BlockDev *dev, const struct iovec *iov, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (!is_aligned((uintptr_t)iov[i].iov_base, dev->mem_align) ||
            !is_aligned(iov[i].iov_len, dev->io_align))
            return false;
    return true;
}

/* ---- through the bounce buffer ----------------------------------------------------- */

static int read_window(const BlockDev *dev, uint64_t offset, const BlockReq *req,
                       uint64_t skip, size_t len, uint8_t *bounce)
{
    uint64_t start = align_down(offset, dev->io_align);
    uint64_t end = align_up(offset + len, dev->io_align);
    int err = rw_buf(dev, false, start, bounce, end - start);

    if (!err)
        iov_from_buf(req->iov, req->n_iov, skip, bounce + (offset - start), len);
    return err;
}

/* Writes [offset, offset + len) from the list, or zeroes if req is NULL. */
static int write_window(BlockDev *dev, uint64_t offset, const BlockReq *req,
                        uint64_t skip, size_t len, uint8_t *bounce)
{
    uint64_t start = align_down(offset, dev->io_align);
    uint64_t end = align_up(offset + len, dev->io_align);
    bool head = start != offset, tail = end != offset + len;
    int err = 0;

    if (head || tail)
        lock_acquire(&dev->rmw_lock);
    if (head)
        err = rw_buf(dev, false, start, bounce, dev->io_align);
    if (!err && tail && !(head && end - start == dev->io_align))
        err = rw_buf(dev, false, end - dev->io_align,
                     bounce + (end - dev->io_align - start), dev->io_align);
    if (!err) {
        if (req)
            iov_to_buf(req->iov, req->n_iov, skip, bounce + (offset - start), len);
        else
            memset(bounce + (offset - start), 0, len);
        err = rw_buf(dev, true, start, bounce, end - start);
    }
    if (head || tail)
        lock_release(&dev->rmw_lock);
    return err;
}

static int bounce_rw(BlockDev *dev, bool write, uint64_t offset, const BlockReq *req,
                     uint64_t skip, uint64_t len, uint8_t *bounce)
{
    int err = 0;

    while (len && !err) {
        /* Up to where the buffer would end if the window began at the block. */
        uint64_t limit = align_down(offset, dev->io_align) + BLOCK_BOUNCE_SIZE;
        size_t n = MIN(len, limit - offset);

        err = write ? write_window(dev, offset, req, skip, n, bounce)
                    : read_window(dev, offset, req, skip, n, bounce);
        offset += n;
        skip += n;
        len -= n;
    }
    return err;
}

int block_file_rw(BlockDev *dev, bool write, uint64_t offset, const BlockReq *req,
                  uint64_t skip, uint64_t len, uint8_t *bounce)
{
    struct iovec iov[PIECES];

    while (len) {
        unsigned n;
        size_t stretch = next_stretch(req, skip, len, iov, &n);
        ssize_t done;

        if (!stretch)
            return EINVAL; /* the list is shorter than the request */
        if (!is_aligned(offset, dev->io_align) || !stretch_is_aligned(dev, iov, n))
            return bounce_rw(dev, write, offset, req, skip, len, bounce);
        done = write ? pwritev(dev->fd, iov, (int)n, (off_t)offset)
                     : preadv(dev->fd, iov, (int)n, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0 && errno == EINVAL && dev->direct) /* pickier than it told us */
            return bounce_rw(dev, write, offset, req, skip, len, bounce);
        if (done <= 0)
            return done < 0 ? errno : EIO;
        offset += (uint64_t)done;
        skip += (uint64_t)done;
        len -= (uint64_t)done;
    }
    return 0;
}

/* ---- what is not a transfer ---------------------------------------------------------
 */

static int allocate(const BlockDev *dev, int mode, uint64_t offset, uint64_t len)
{
    int r;

    do
        r = fallocate(dev->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len);
    while (r < 0 && errno == EINTR);
    return r < 0 ? errno : 0;
}

static bool is_unsupported(int err)
{
    return err == EOPNOTSUPP || err == ENOSYS || err == EINVAL || err == ENODEV;
}

int block_file_zero(BlockDev *dev, uint64_t offset, uint64_t len, bool may_unmap,
                    uint8_t *bounce)
{
    int err = EOPNOTSUPP;

    /* On a block device, a hole is made only if the hardware promises zeroes. */
    if (may_unmap && dev->can_discard)
        err = allocate(dev, FALLOC_FL_PUNCH_HOLE, offset, len);
    if (is_unsupported(err) && !__atomic_load_n(&dev->no_zero_range, __ATOMIC_RELAXED)) {
        err = allocate(dev, FALLOC_FL_ZERO_RANGE, offset, len);
        if (err == EOPNOTSUPP)
            __atomic_store_n(&dev->no_zero_range, true, __ATOMIC_RELAXED);
    }
    return is_unsupported(err) ? bounce_rw(dev, true, offset, NULL, 0, len, bounce) : err;
}

int block_file_discard(BlockDev *dev, uint64_t offset, uint64_t len)
{
    uint64_t range[2] = {offset, len};
    int err = 0;

    if (!dev->is_device)
        err = allocate(dev, FALLOC_FL_PUNCH_HOLE, offset, len);
    else if (ioctl(dev->fd, BLKDISCARD, range) < 0)
        err = errno;
    return is_unsupported(err) ? 0 : err; /* it is only a hint */
}

int block_file_flush(BlockDev *dev)
{
    if (dev->unsafe)
        return 0;
    return fdatasync(dev->fd) < 0 ? errno : 0;
}
