/* Private to src/block: a file, as formats and engines see it: bytes at offsets.
 *
 * A table of functions stands for each kind of storage: files and devices of the host
 * (file_posix.c) and NBD exports (file_nbd.c).  All of them may sleep; what goes without,
 * the engines do on the descriptor itself, where there is one. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "backend/block.h"
#include "util/lock.h"

typedef struct BlockFile BlockFile;

/* What is to be moved still: bytes of a list from `skip` on, or zeroes if iov is NULL. */
typedef struct BlockTransfer {
    const struct iovec *iov;
    unsigned n_iov;
    uint64_t skip, offset, len;
} BlockTransfer;

static inline void block_transfer_advance(BlockTransfer *t, uint64_t n)
{
    t->skip += n;
    t->offset += n;
    t->len -= n;
}

/* Any thread that may sleep, several at a time, but for open, close and reopen.  int: 0
 * or an errno. */
typedef struct BlockFileOps {
    const char *name;
    bool (*open)(BlockFile *f, const BlockOptions *options, GError **error);
    void (*close)(BlockFile *f); /* also of what is half open */
    /* Moves all bytes of [skip, skip + len) of the list. */
    int (*rw)(BlockFile *f, bool write, uint64_t offset, const struct iovec *iov,
              unsigned n_iov, uint64_t skip, uint64_t len);
    int (*flush)(BlockFile *f);
    int (*zero)(BlockFile *f, uint64_t offset, uint64_t len, bool may_unmap);
    int (*discard)(BlockFile *f, uint64_t offset, uint64_t len); /* a hint */
    int (*truncate)(BlockFile *f, uint64_t size); /* ENOTSUP: cannot; sets f->size */
    /* Whether there is data at `offset`, and for how many bytes that is so. */
    int (*extent)(BlockFile *f, uint64_t offset, uint64_t len, bool *ret_data,
                  uint64_t *ret_len);
    /* The thread that opened it, nothing in flight: with or without writing, locks too. A
     * failure leaves all as it was. */
    bool (*reopen)(BlockFile *f, bool readonly, GError **error);
    /* Any thread, for a disk that is to be closed: what is in flight fails with EIO at
     * once, and so does what comes.  NULL: requests take no longer than the kernel does.
     */
    void (*cancel)(BlockFile *f);
} BlockFileOps;
extern const BlockFileOps block_posix_ops, block_nbd_ops;

/* Written by who opened it, before others see it, except where said. */
struct BlockFile {
    const BlockFileOps *ops;
    char *path;    /* as it was given: a name or a URI */
    int fd;        /* -1: engines cannot use it */
    uint64_t size; /* atomic: bytes, as far as we know */
    bool readonly;
    bool direct;    /* O_DIRECT is on */
    bool nowait;    /* asynchronous I/O on it does not sleep to be submitted */
    bool unsafe;    /* flushes are not carried out */
    bool is_device; /* a block device, not a file: of fixed size, and not zero when new */
    bool can_discard;
    bool zero_tail;               /* reads past the end give zeroes; set by formats */
    bool no_zero_range;           /* atomic: fallocate cannot zero here */
    unsigned mem_align, io_align; /* what it wants of addresses, and of offsets and
                                     lengths; 1 without O_DIRECT */
    unsigned logical, physical;   /* block sizes to show the guest */
    Lock rmw_lock;                /* leaf: one read-modify-write at a time */
    bool locked;                  /* we hold locks on it */
    void *priv;                   /* the ops' */
};

/* Main or a tool's thread.  Opens what options->path names, by options' cache, readonly
 * and lock; format and backing are not looked at. */
BlockFile *block_file_open(const BlockOptions *options, GError **error);
void block_file_close(BlockFile *f); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BlockFile, block_file_close)

/* True if `path` names an NBD export (nbd://, nbds://, nbd+unix://, nbds+unix://), not a
 * file. */
bool block_path_is_nbd(const char *path);

/* Main thread, nothing in flight: use the page cache from now on. */
void block_file_no_direct(BlockFile *f);
/* Returns false, with the sentence for cache=none where that is not possible. */
bool block_fail_direct(const BlockFile *f, GError **error);

static inline uint64_t block_file_size(const BlockFile *f)
{
    return __atomic_load_n(&f->size, __ATOMIC_RELAXED);
}

/* Any thread that may sleep. */
int block_file_rw(BlockFile *f, bool write, uint64_t offset, const struct iovec *iov,
                  unsigned n_iov, uint64_t skip, uint64_t len);
int block_file_read(BlockFile *f, uint64_t offset, void *buf, size_t len);
int block_file_write(BlockFile *f, uint64_t offset, const void *buf, size_t len);

static inline int block_file_flush(BlockFile *f)
{
    return f->unsafe ? 0 : f->ops->flush(f);
}

static inline int block_file_zero(BlockFile *f, uint64_t offset, uint64_t len,
                                  bool may_unmap)
{
    return f->ops->zero(f, offset, len, may_unmap);
}

static inline int block_file_discard(BlockFile *f, uint64_t offset, uint64_t len)
{
    return f->ops->discard(f, offset, len);
}

static inline int block_file_truncate(BlockFile *f, uint64_t size)
{
    return f->ops->truncate(f, size);
}

/* ---- lock.c ----------------------------------------------------------------------- */

/* Main or a tool's thread.  Takes the locks that a VM takes in QEMU, and gives them back:
 * closing alone would not, as long as an io_uring refers to the file. */
bool block_lock(int fd, const char *path, bool readonly, GError **error);
void block_unlock(int fd);

/* ---- sync.c: transfers on a descriptor, aligned as O_DIRECT wants --------------------
 */

/* Any thread: BLOCK_BOUNCE_SIZE bytes of its own, from the first use to its end, aligned
 * as O_DIRECT may want.  NULL: no memory. */
enum { BLOCK_BOUNCE_SIZE = 1024 * 1024 }; /* untouched, it costs nothing */
uint8_t *block_bounce_buffer(void);

int block_posix_rw(BlockFile *f, bool write, uint64_t offset, const struct iovec *iov,
                   unsigned n_iov, uint64_t skip, uint64_t len);
int block_posix_zero(BlockFile *f, uint64_t offset, uint64_t len, bool may_unmap);
int block_posix_discard(BlockFile *f, uint64_t offset, uint64_t len);
