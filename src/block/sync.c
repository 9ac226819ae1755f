/* Transfers on a file's descriptor, step by step, on a thread that may sleep.
 *
 * O_DIRECT wants addresses, offsets and lengths aligned.  What is not goes through the
 * thread's bounce buffer, a piece at a time; a write that covers a block only in part
 * then reads the block first.  Two of those on one block would lose one's data, so they
 * take rmw_lock; that no other write to the block is under way is the caller's doing. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "file_private.h"
#include "util/bits.h"
#include "util/iov.h"

enum {
    PIECES = 128,             /* of a scatter/gather list handed to the kernel at once */
    WINDOW = 128 * 1024,      /* of the bounce buffer that is used at once */
    BOUNCE_ALIGN = 64 * 1024, /* the most that O_DIRECT is used with */
};

/* ---- the bounce buffer: one a thread, from its first use to its end ------------------
 */

static pthread_key_t bounce_key;
static pthread_once_t bounce_once = PTHREAD_ONCE_INIT;

static void make_bounce_key(void)
{
    pthread_key_create(&bounce_key, free);
}

uint8_t *block_bounce_buffer(void)
{
    uint8_t *buf;

    pthread_once(&bounce_once, make_bounce_key);
    buf = pthread_getspecific(bounce_key);
    if (!buf && (buf = aligned_alloc(BOUNCE_ALIGN, BLOCK_BOUNCE_SIZE)))
        pthread_setspecific(bounce_key, buf);
    return buf;
}

/* ---- one buffer
 * ------------------------------------------------------------------------
 */

static bool at_end(const BlockFile *f, uint64_t offset)
{
    struct stat st;

    return f->zero_tail && fstat(f->fd, &st) == 0 && offset >= (uint64_t)st.st_size;
}

static int rw_buf(const BlockFile *f, bool write, uint64_t offset, uint8_t *buf,
                  size_t len)
{
    while (len) {
        ssize_t n = write ? pwrite(f->fd, buf, len, (off_t)offset)
                          : pread(f->fd, buf, len, (off_t)offset);
        size_t whole;

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno;
        if (!write && (size_t)n < len && at_end(f, offset + (size_t)n)) {
            memset(buf + n, 0, len - (size_t)n);
            return 0;
        }
        /* After a short transfer O_DIRECT needs an aligned start: do the rest of the
         * block again. */
        whole = (size_t)n < len ? align_down((size_t)n, f->io_align) : (size_t)n;
        if (whole == 0)
            return EIO; /* the file has become shorter */
        buf += whole;
        offset += whole;
        len -= whole;
    }
    return 0;
}

static int read_window(const BlockFile *f, const BlockTransfer *t, size_t len,
                       uint8_t *bounce)
{
    uint64_t start = align_down(t->offset, f->io_align);
    uint64_t end = align_up(t->offset + len, f->io_align);
    int err = rw_buf(f, false, start, bounce, end - start);

    if (!err)
        iov_from_buf(t->iov, t->n_iov, t->skip, bounce + (t->offset - start), len);
    return err;
}

static int write_window(BlockFile *f, const BlockTransfer *t, size_t len, uint8_t *bounce)
{
    uint64_t start = align_down(t->offset, f->io_align);
    uint64_t end = align_up(t->offset + len, f->io_align);
    bool head = start != t->offset, tail = end != t->offset + len;
    int err = 0;

    if (head || tail)
        lock_acquire(&f->rmw_lock);
    if (head)
        err = rw_buf(f, false, start, bounce, f->io_align);
    if (!err && tail && !(head && end - start == f->io_align))
        err = rw_buf(f, false, end - f->io_align, bounce + (end - f->io_align - start),
                     f->io_align);
    if (!err) {
        if (t->iov)
            iov_to_buf(t->iov, t->n_iov, t->skip, bounce + (t->offset - start), len);
        else
            memset(bounce + (t->offset - start), 0, len);
        err = rw_buf(f, true, start, bounce, end - start);
    }
    if (head || tail)
        lock_release(&f->rmw_lock);
    return err;
}

static int bounce_rw(BlockFile *f, bool write, BlockTransfer t)
{
    uint8_t *bounce = block_bounce_buffer();
    int err = bounce ? 0 : ENOMEM;

    while (t.len && !err) {
        /* Up to where the buffer would end if the window began at the block. */
        uint64_t limit = align_down(t.offset, f->io_align) + WINDOW;
        size_t n = MIN(t.len, limit - t.offset);

        err = write ? write_window(f, &t, n, bounce) : read_window(f, &t, n, bounce);
        block_transfer_advance(&t, n);
    }
    return err;
}

/* ---- a list ---------------------------------------------------------------------------
 */

/* The next stretch that fits `out`: returns its length. */
static size_t next_stretch(const BlockTransfer *t, struct iovec out[PIECES],
                           unsigned *ret_n)
{
    uint64_t skip = t->skip;
    size_t total = 0;
    unsigned n = 0;

    for (unsigned i = 0; i < t->n_iov && n < PIECES && total < t->len; i++) {
        size_t part = t->iov[i].iov_len;

        if (skip >= part) {
            skip -= part;
            continue;
        }
        part = MIN(part - skip, t->len - total);
        out[n++] = (struct iovec){(char *)t->iov[i].iov_base + skip, part};
        total += part;
        skip = 0;
    }
    *ret_n = n;
    return total;
}

static bool stretch_is_aligned(const BlockFile *f, const struct iovec *iov, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (!is_aligned((uintptr_t)iov[i].iov_base, f->mem_align) ||
            !is_aligned(iov[i].iov_len, f->io_align))
            return false;
    return true;
}

int block_posix_rw(BlockFile *f, bool write, uint64_t offset, const struct iovec *iov,
                   unsigned n_iov, uint64_t skip, uint64_t len)
{
    BlockTransfer t = {iov, n_iov, skip, offset, len};
    struct iovec part[PIECES];

    while (t.len) {
        unsigned n;
        size_t stretch = next_stretch(&t, part, &n);
        ssize_t done;

        if (!stretch)
            return EINVAL; /* the list is shorter than the request */
        if (!is_aligned(t.offset, f->io_align) || !stretch_is_aligned(f, part, n))
            return bounce_rw(f, write, t);
        done = write ? pwritev(f->fd, part, (int)n, (off_t)t.offset)
                     : preadv(f->fd, part, (int)n, (off_t)t.offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0 && errno == EINVAL && f->direct) /* pickier than it told us */
            return bounce_rw(f, write, t);
        if (done < 0)
            return errno;
        if (!write && (size_t)done < stretch && at_end(f, t.offset + (size_t)done)) {
            iov_fill(iov, n_iov, t.skip + (size_t)done, 0, t.len - (size_t)done);
            return 0;
        }
        if (done == 0)
            return EIO;
        block_transfer_advance(&t, (uint64_t)done);
    }
    return 0;
}

/* ---- what is not a transfer ---------------------------------------------------------
 */

static int allocate(const BlockFile *f, int mode, uint64_t offset, uint64_t len)
{
    int r;

    do
        r = fallocate(f->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len);
    while (r < 0 && errno == EINTR);
    return r < 0 ? errno : 0;
}

static bool is_unsupported(int err)
{
    return err == EOPNOTSUPP || err == ENOSYS || err == EINVAL || err == ENODEV;
}

int block_posix_zero(BlockFile *f, uint64_t offset, uint64_t len, bool may_unmap)
{
    int err = EOPNOTSUPP;

    /* On a block device, a hole is made only if the hardware promises zeroes. */
    if (may_unmap && f->can_discard)
        err = allocate(f, FALLOC_FL_PUNCH_HOLE, offset, len);
    if (is_unsupported(err) && !__atomic_load_n(&f->no_zero_range, __ATOMIC_RELAXED)) {
        err = allocate(f, FALLOC_FL_ZERO_RANGE, offset, len);
        if (err == EOPNOTSUPP)
            __atomic_store_n(&f->no_zero_range, true, __ATOMIC_RELAXED);
    }
    return is_unsupported(err)
               ? bounce_rw(f, true, (BlockTransfer){.offset = offset, .len = len})
               : err;
}

int block_posix_discard(BlockFile *f, uint64_t offset, uint64_t len)
{
    uint64_t range[2] = {offset, len};
    int err = 0;

    if (!f->is_device)
        err = allocate(f, FALLOC_FL_PUNCH_HOLE, offset, len);
    else if (ioctl(f->fd, BLKDISCARD, range) < 0)
        err = errno;
    return is_unsupported(err) ? 0 : err; /* it is only a hint */
}
