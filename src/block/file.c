/* Opening a file by its name: which kind of storage it is, and what all kinds share. */
#include "file_private.h"

const char *const block_cache_names[] = {"auto",         "none",   "writeback",
                                         "writethrough", "unsafe", NULL};

bool block_path_is_nbd(const char *path)
{
    static const char *const schemes[] = {"nbd://", "nbds://", "nbd+unix://",
                                          "nbds+unix://"};

    for (unsigned i = 0; i < G_N_ELEMENTS(schemes); i++)
        if (g_str_has_prefix(path, schemes[i]))
            return true;
    return false;
}

BlockFile *block_file_open(const BlockOptions *options, GError **error)
{
    g_autoptr(BlockFile) f = g_new0(BlockFile, 1);

    f->ops = block_path_is_nbd(options->path) ? &block_nbd_ops : &block_posix_ops;
    f->path = g_strdup(options->path);
    f->fd = -1;
    f->readonly = options->readonly;
    f->unsafe = options->cache == BLOCK_CACHE_UNSAFE;
    f->mem_align = f->io_align = 1;
    f->logical = f->physical = BLOCK_SECTOR;
    lock_init(&f->rmw_lock);
    return f->ops->open(f, options, error) ? g_steal_pointer(&f) : NULL;
}

void block_file_close(BlockFile *f)
{
    if (!f)
        return;
    f->ops->close(f);
    lock_finish(&f->rmw_lock);
    g_free(f->path);
    g_free(f);
}

/* A write past the end makes a file longer. */
static void note_growth(BlockFile *f, uint64_t end)
{
    uint64_t size = block_file_size(f);

    while (!f->is_device && end > size &&
           !__atomic_compare_exchange_n(&f->size, &size, end, true, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED))
        continue;
}

int block_file_rw(BlockFile *f, bool write, uint64_t offset, const struct iovec *iov,
                  unsigned n_iov, uint64_t skip, uint64_t len)
{
    int err = f->ops->rw(f, write, offset, iov, n_iov, skip, len);

    if (write && !err)
        note_growth(f, offset + len);
    return err;
}

int block_file_read(BlockFile *f, uint64_t offset, void *buf, size_t len)
{
    const struct iovec iov = {buf, len};

    return block_file_rw(f, false, offset, &iov, 1, 0, len);
}

int block_file_write(BlockFile *f, uint64_t offset, const void *buf, size_t len)
{
    const struct iovec iov = {(void *)buf, len};

    return block_file_rw(f, true, offset, &iov, 1, 0, len);
}
