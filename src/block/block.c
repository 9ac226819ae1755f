/* Opening disks: which file, in which format, how cached, by which engine.
 *
 * Order matters: the file is opened without side effects, locked, and only then read. */
#include "backend/block.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "block_private.h"
#include "util/bits.h"
#include "util/fd.h"

const char *const block_format_names[] = {"auto", "raw", "qcow2", NULL};
const char *const block_aio_names[] = {"auto", "libaio", "io_uring", "threads", NULL};
const char *const block_cache_names[] = {"auto", "none", "writeback", "unsafe", NULL};

enum { FILE_PHYSICAL = 4096 }; /* block size of file systems, nearly always */

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

static bool get_size(BlockDev *dev, GError **error)
{
    struct stat st;
    int logical = 0;
    unsigned physical = 0;

    if (fstat(dev->fd, &st) < 0)
        return fail_errno(error, "'%s'", dev->path);
    dev->is_device = S_ISBLK(st.st_mode);
    if (!dev->is_device) {
        dev->size = (uint64_t)st.st_size;
        dev->logical = BLOCK_SECTOR;
        dev->physical = FILE_PHYSICAL;
        return true;
    }
    if (ioctl(dev->fd, BLKGETSIZE64, &dev->size) < 0)
        return fail_errno(error, "'%s': ask for its size", dev->path);
    if (ioctl(dev->fd, BLKSSZGET, &logical) < 0 || !is_pow2((uint64_t)logical))
        logical = BLOCK_SECTOR;
    if (ioctl(dev->fd, BLKPBSZGET, &physical) < 0 || !is_pow2(physical))
        physical = 0;
    dev->logical = MAX((unsigned)logical, BLOCK_SECTOR);
    dev->physical = MAX(physical, dev->logical);
    return true;
}

static bool open_file(BlockDev *dev, const BlockOptions *options, GError **error)
{
    if (!check_type(dev->path, error))
        return false;
    dev->fd = open(dev->path, (options->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    if (dev->fd < 0 && !options->readonly &&
        (errno == EACCES || errno == EROFS || errno == EPERM))
        return fail_errno(
            error, "'%s': open it for writing (add readonly to only read it)", dev->path);
    if (dev->fd < 0)
        return fail_errno(error, "'%s': open it", dev->path);
    return (!options->lock || block_lock(dev->fd, dev->path, dev->readonly, error)) &&
           get_size(dev, error);
}

/* ---- O_DIRECT -----------------------------------------------------------------------
 */

static bool set_direct(BlockDev *dev, bool on)
{
    int flags = fcntl(dev->fd, F_GETFL);

    return flags >= 0 &&
           fcntl(dev->fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT) == 0;
}

/* What the kernel says (statx, Linux 6.1); 0: it does not. */
static void ask_alignment(const BlockDev *dev, unsigned *mem, unsigned *io)
{
    *mem = *io = 0;
#ifdef STATX_DIOALIGN
    struct statx stx;

    if (statx(dev->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
        (stx.stx_mask & STATX_DIOALIGN) && is_pow2(stx.stx_dio_mem_align) &&
        is_pow2(stx.stx_dio_offset_align)) {
        *mem = stx.stx_dio_mem_align;
        *io = stx.stx_dio_offset_align;
    }
#endif
}

/* Whether one block can be read; the first is always there. */
static bool try_alignment(const BlockDev *dev, unsigned io, void *buf)
{
    ssize_t n;

    do
        n = pread(dev->fd, buf, io, 0);
    while (n < 0 && errno == EINTR);
    return n >= 0;
}

/* Finds the alignment that works, trying what the kernel said and then larger ones. */
static bool probe_alignment(BlockDev *dev)
{
    unsigned mem, io;
    void *buf = aligned_alloc(BLOCK_MAX_ALIGN, BLOCK_MAX_ALIGN);
    bool found = false;

    ask_alignment(dev, &mem, &io);
    io = MAX(io, BLOCK_SECTOR); /* guests address nothing smaller */
    for (; buf && io <= BLOCK_MAX_ALIGN && !found; io *= 2) {
        found = try_alignment(dev, io, buf);
        dev->io_align = io;
        dev->mem_align = mem ? mem : MAX(io, BLOCK_SECTOR);
    }
    free(buf);
    return found && dev->mem_align <= BLOCK_MAX_ALIGN &&
           is_aligned(dev->size, dev->io_align);
}

static bool setup_cache(BlockDev *dev, int cache, GError **error)
{
    dev->unsafe = cache == BLOCK_CACHE_UNSAFE;
    if (cache == BLOCK_CACHE_AUTO || cache == BLOCK_CACHE_NONE) {
        dev->direct = set_direct(dev, true) && probe_alignment(dev);
        if (dev->direct)
            return true;
        if (cache == BLOCK_CACHE_NONE)
            return fail(error, VM_ERROR_UNSUPPORTED,
                        "'%s' cannot be used with O_DIRECT on its file system, or is not "
                        "a whole number of its blocks: cache=none is not possible, "
                        "choose cache=writeback",
                        dev->path);
        set_direct(dev, false);
    }
    dev->io_align = dev->mem_align = 1;
    return true;
}

bool block_read_head(const BlockDev *dev, void *buf, size_t *len, GError **error)
{
    *len = MIN(*len, dev->size);
    if (fd_pread_all(dev->fd, buf, *len, 0, error))
        return true;
    g_prefix_error(error, "'%s': ", dev->path);
    return false;
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

static bool can_discard(const BlockDev *dev)
{
    uint64_t beyond = align_up(dev->size, FILE_PHYSICAL);
    struct stat st;

    if (dev->readonly || fstat(dev->fd, &st) < 0)
        return false;
    if (dev->is_device)
        return device_discards(&st);
    /* A hole after the end changes nothing, but tells. */
    return fallocate(dev->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)beyond,
                     FILE_PHYSICAL) == 0;
}

/* ---- format and engine ---------------------------------------------------------------
 */

static const BlockFormatOps *choose_format(const BlockOptions *options, GError **error)
{
    int format = options->format;

    if (format == BLOCK_FORMAT_AUTO && g_str_has_suffix(options->path, ".qcow2"))
        format = BLOCK_FORMAT_QCOW2;
    if (format != BLOCK_FORMAT_QCOW2)
        return &block_raw_format;
    fail(error, VM_ERROR_UNSUPPORTED,
         "'%s' is a qcow2 image, which this version cannot use yet: convert it with "
         "'qemu-img convert -O raw IN.qcow2 OUT.raw'%s",
         options->path,
         options->format == BLOCK_FORMAT_AUTO ? ", or add format=raw if it is not" : "");
    return NULL;
}

/* By BlockAio. */
static const BlockEngine *const engines[] = {
    [BLOCK_AIO_LIBAIO] = &block_libaio_engine,
    [BLOCK_AIO_IO_URING] = &block_io_uring_engine,
    [BLOCK_AIO_THREADS] = &block_threads_engine,
};

/* What AUTO tries.  io_uring goes first because a request costs it less processor time,
 * and because a libaio context takes tens of milliseconds to give back, for which the end
 * of a VM would wait. */
static const BlockAio preferred[] = {
    BLOCK_AIO_IO_URING,
    BLOCK_AIO_LIBAIO,
    BLOCK_AIO_THREADS,
};

static bool choose_engine(BlockDev *dev, int aio, GError **error)
{
    if (aio != BLOCK_AIO_AUTO) {
        dev->engine = engines[aio];
        if (dev->engine->probe(dev, error))
            return true;
        g_prefix_error(error, "'%s': ", dev->path);
        return false;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(preferred); i++) {
        dev->engine = engines[preferred[i]];
        if (dev->engine->probe(dev, NULL))
            break; /* threads at the latest */
    }
    return true;
}

BlockDev *block_open(const BlockOptions *options, GError **error)
{
    const BlockFormatOps *format = choose_format(options, error);
    g_autoptr(BlockDev) dev = NULL;

    if (!format)
        return NULL;
    dev = g_new0(BlockDev, 1);
    dev->fd = -1;
    dev->path = g_strdup(options->path);
    dev->readonly = options->readonly;
    dev->format = format;
    lock_init(&dev->rmw_lock);
    if (!open_file(dev, options, error) ||
        !format->open(dev, options->format != BLOCK_FORMAT_AUTO, error) ||
        !setup_cache(dev, options->cache, error) ||
        !choose_engine(dev, options->aio, error))
        return NULL;
    dev->can_discard = can_discard(dev);
    return g_steal_pointer(&dev);
}

void block_close(BlockDev *dev)
{
    if (!dev)
        return;
    if (dev->engine && dev->engine->unprobe)
        dev->engine->unprobe(dev);
    if (dev->fd >= 0)
        block_unlock(dev->fd);
    fd_close(&dev->fd);
    lock_finish(&dev->rmw_lock);
    g_free(dev->path);
    g_free(dev);
}

uint64_t block_size(const BlockDev *dev)
{
    return dev->size;
}

bool block_readonly(const BlockDev *dev)
{
    return dev->readonly;
}

bool block_can_discard(const BlockDev *dev)
{
    return dev->can_discard;
}

const char *block_engine_name(const BlockDev *dev)
{
    return dev->engine->name;
}

unsigned block_logical_size(const BlockDev *dev)
{
    return dev->logical;
}

unsigned block_physical_size(const BlockDev *dev)
{
    return MAX(dev->physical, MAX(dev->logical, dev->io_align));
}
