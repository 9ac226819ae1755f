/* Files and block devices of the host: which one, how cached, with whom shared.
 *
 * Order matters: a file is opened without side effects, locked, and only then read. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>

#include "file_private.h"
#include "util/bits.h"
#include "util/fd.h"

enum {
    FILE_PHYSICAL = 4096,  /* block size of file systems, nearly always */
    MAX_ALIGN = 64 * 1024, /* of O_DIRECT; above, the page cache is used */
};

/* ---- the file ---------------------------------------------------------------------- */

/* Looked at before it is opened: opening a pipe would wait, and a tape rewind. */
static bool check_type(const char *path, GError **error)
{
    struct stat st;

    if (stat(path, &st) < 0)
        return fail_errno(error, "'%s'", path);
    if (S_ISDIR(st.st_mode))
        return fail(error, VM_ERROR_INVALID,
                    "'%s' is a directory: a disk needs a file or a block device", path);
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return fail(error, VM_ERROR_INVALID,
                    "'%s' is neither a file nor a block device, and cannot be read like "
                    "a disk",
                    path);
    return true;
}

static bool get_size(BlockFile *f, GError **error)
{
    struct stat st;
    int logical = 0;
    unsigned physical = 0;

    if (fstat(f->fd, &st) < 0)
        return fail_errno(error, "'%s'", f->path);
    f->is_device = S_ISBLK(st.st_mode);
    if (!f->is_device) {
        f->size = (uint64_t)st.st_size;
        f->logical = BLOCK_SECTOR;
        f->physical = FILE_PHYSICAL;
        return true;
    }
    if (ioctl(f->fd, BLKGETSIZE64, &f->size) < 0)
        return fail_errno(error, "'%s': ask for its size", f->path);
    if (ioctl(f->fd, BLKSSZGET, &logical) < 0 || !is_pow2((uint64_t)logical))
        logical = BLOCK_SECTOR;
    if (ioctl(f->fd, BLKPBSZGET, &physical) < 0 || !is_pow2(physical))
        physical = 0;
    f->logical = MAX((unsigned)logical, BLOCK_SECTOR);
    f->physical = MAX(physical, f->logical);
    return true;
}

static bool open_file(BlockFile *f, const BlockOptions *options, GError **error)
{
    if (!check_type(f->path, error))
        return false;
    f->fd = open(f->path, (options->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    if (f->fd < 0 && !options->readonly &&
        (errno == EACCES || errno == EROFS || errno == EPERM))
        return fail_errno(
            error, "'%s': open it for writing (add readonly to only read it)", f->path);
    if (f->fd < 0)
        return fail_errno(error, "'%s': open it", f->path);
    if (options->lock && !block_lock(f->fd, f->path, f->readonly, error))
        return false;
    f->locked = options->lock;
    return get_size(f, error);
}

/* ---- O_DIRECT -----------------------------------------------------------------------
 */

static bool set_direct(BlockFile *f, bool on)
{
    int flags = fcntl(f->fd, F_GETFL);

    return flags >= 0 &&
           fcntl(f->fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT) == 0;
}

/* What the kernel says (statx, Linux 6.1); 0: it does not. */
static void ask_alignment(const BlockFile *f, unsigned *mem, unsigned *io)
{
    *mem = *io = 0;
#ifdef STATX_DIOALIGN
    struct statx stx;

    if (statx(f->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
        (stx.stx_mask & STATX_DIOALIGN) && is_pow2(stx.stx_dio_mem_align) &&
        is_pow2(stx.stx_dio_offset_align)) {
        *mem = stx.stx_dio_mem_align;
        *io = stx.stx_dio_offset_align;
    }
#endif
}

/* Whether one block can be read; the first is always there. */
static bool try_alignment(const BlockFile *f, unsigned io, void *buf)
{
    ssize_t n;

    do
        n = pread(f->fd, buf, io, 0);
    while (n < 0 && errno == EINTR);
    return n >= 0;
}

/* Whether the file system can say that a read would sleep.  Where it cannot, tmpfs for
 * one, io_uring hands each request to a thread, and libaio is the faster. */
static bool try_nowait(const BlockFile *f, unsigned io, void *buf)
{
    const struct iovec iov = {buf, io};

    return preadv2(f->fd, &iov, 1, 0, RWF_NOWAIT) >= 0 || errno == EAGAIN;
}

/* Finds the alignment that works, trying what the kernel said and then larger ones. */
static bool probe_alignment(BlockFile *f)
{
    unsigned mem, io;
    void *buf = aligned_alloc(MAX_ALIGN, MAX_ALIGN);
    bool found = false;

    ask_alignment(f, &mem, &io);
    io = MAX(io, BLOCK_SECTOR); /* guests address nothing smaller */
    for (; buf && io <= MAX_ALIGN && !found; io *= 2) {
        found = try_alignment(f, io, buf);
        f->io_align = io;
        f->mem_align = mem ? mem : MAX(io, BLOCK_SECTOR);
    }
    f->nowait = found && try_nowait(f, f->io_align, buf);
    free(buf);
    return found && f->mem_align <= MAX_ALIGN;
}

static bool setup_cache(BlockFile *f, int cache, GError **error)
{
    if (cache == BLOCK_CACHE_AUTO || cache == BLOCK_CACHE_NONE) {
        f->direct = set_direct(f, true) && probe_alignment(f);
        if (f->direct)
            return true;
        if (cache == BLOCK_CACHE_NONE)
            return block_fail_direct(f, error);
    }
    block_file_no_direct(f);
    return true;
}

bool block_fail_direct(const BlockFile *f, GError **error)
{
    return fail(error, VM_ERROR_UNSUPPORTED,
                "'%s' cannot be used with O_DIRECT on its file system, or is not a whole "
                "number of its blocks: cache=none is not possible, choose "
                "cache=writeback",
                f->path);
}

void block_file_no_direct(BlockFile *f)
{
    if (f->fd >= 0)
        set_direct(f, false);
    f->direct = false;
    f->io_align = f->mem_align = 1;
}

/* ---- discard -------------------------------------------------------------------------
 */

static bool device_discards(const struct stat *st)
{
    unsigned maj = major(st->st_rdev), min = minor(st->st_rdev);
    /* A partition's limits are the whole disk's. */
    const char *const dirs[] = {"", "../"};

    for (unsigned i = 0; i < G_N_ELEMENTS(dirs); i++) {
        g_autofree char *path = g_strdup_printf(
            "/sys/dev/block/%u:%u/%squeue/discard_max_bytes", maj, min, dirs[i]);
        g_autofree char *text = NULL;

        if (g_file_get_contents(path, &text, NULL, NULL))
            return g_ascii_strtoull(text, NULL, 10) > 0;
    }
    return false;
}

static bool can_discard(const BlockFile *f)
{
    uint64_t beyond = align_up(f->size, FILE_PHYSICAL);
    struct stat st;

    if (f->readonly || fstat(f->fd, &st) < 0)
        return false;
    if (f->is_device)
        return device_discards(&st);
    /* A hole after the end changes nothing, but tells. */
    if (fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)beyond,
                  FILE_PHYSICAL) < 0)
        return false;
    /* Nor may the time of the last write change, by which a snapshot knows its layers: a
     * VM that is refused has opened its disks as well. */
    futimens(f->fd, (struct timespec[]){{.tv_nsec = UTIME_OMIT}, st.st_mtim});
    return true;
}

/* ---- the functions of a file ------------------------------------------------------- */

static bool posix_open(BlockFile *f, const BlockOptions *options, GError **error)
{
    if (!open_file(f, options, error) || !setup_cache(f, options->cache, error))
        return false;
    f->can_discard = can_discard(f);
    return true;
}

static void posix_close(BlockFile *f)
{
    if (f->locked)
        block_unlock(f->fd);
    fd_close(&f->fd);
}

static int posix_flush(BlockFile *f)
{
    return fdatasync(f->fd) < 0 ? errno : 0;
}

static int posix_truncate(BlockFile *f, uint64_t size)
{
    if (f->is_device) /* which others make larger */
        return get_size(f, NULL) && f->size >= size ? 0 : ENOTSUP;
    if (ftruncate(f->fd, (off_t)size) < 0)
        return errno;
    __atomic_store_n(&f->size, size, __ATOMIC_RELAXED);
    return 0;
}

static int posix_extent(BlockFile *f, uint64_t offset, uint64_t len, bool *ret_data,
                        uint64_t *ret_len)
{
    off_t data = f->is_device ? -1 : lseek(f->fd, (off_t)offset, SEEK_DATA);
    off_t hole;

    *ret_data = true;
    *ret_len = len;
    if (data < 0) {
        /* ENXIO: no data from here to the end.  Anything else: no such knowledge. */
        *ret_data = f->is_device || errno != ENXIO;
        return 0;
    }
    if ((uint64_t)data > offset) {
        *ret_data = false;
        *ret_len = MIN(len, (uint64_t)data - offset);
        return 0;
    }
    hole = lseek(f->fd, (off_t)offset, SEEK_HOLE);
    if (hole > (off_t)offset)
        *ret_len = MIN(len, (uint64_t)hole - offset);
    return 0;
}

/* A description of its own, so with locks of its own: ours go first, or they would be in
 * their way. */
static bool posix_reopen(BlockFile *f, bool readonly, GError **error)
{
    autofd fd = -1;
    struct stat was, is;

    if (f->readonly == readonly)
        return true;
    fd = open(f->path,
              (readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | (f->direct ? O_DIRECT : 0));
    if (fd < 0)
        return fail_errno(error, "'%s': open it again for %s", f->path,
                          readonly ? "reading" : "writing");
    if (fstat(f->fd, &was) < 0 || fstat(fd, &is) < 0 || was.st_dev != is.st_dev ||
        was.st_ino != is.st_ino)
        return fail(error, VM_ERROR_INVALID,
                    "'%s' has become another file since it was opened; put the old one "
                    "back",
                    f->path);
    if (f->locked) {
        block_unlock(f->fd);
        if (!block_lock(fd, f->path, readonly, error)) {
            block_lock(f->fd, f->path, f->readonly, NULL);
            return false;
        }
    }
    close(f->fd);
    f->fd = fd_steal(&fd);
    f->readonly = readonly;
    f->can_discard = can_discard(f);
    return true;
}

const BlockFileOps block_posix_ops = {
    .name = "file",
    .open = posix_open,
    .close = posix_close,
    .rw = block_posix_rw,
    .flush = posix_flush,
    .zero = block_posix_zero,
    .discard = block_posix_discard,
    .truncate = posix_truncate,
    .extent = posix_extent,
    .reopen = posix_reopen,
};
