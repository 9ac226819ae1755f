/* Disks as devices see them: a size and a queue of requests.  Formats and engines are
 * behind this header; a device knows neither.
 *
 * Ownership.  A BlockDev belongs to the main thread, which opens and closes it.  Each
 * I/O thread that submits has its own BlockQueue, made and freed on that thread; nothing
 * is shared between queues but the file.  A BlockReq belongs to its submitter, who keeps
 * it (and its buffers) still until done() and never allocates one per request. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "core/param.h"
#include "util/error.h"
#include "util/ioloop.h"

typedef struct BlockDev BlockDev;
typedef struct BlockQueue BlockQueue;
typedef struct BlockReq BlockReq;

typedef enum { BLOCK_FORMAT_AUTO, BLOCK_FORMAT_RAW, BLOCK_FORMAT_QCOW2 } BlockFormat;
typedef enum {
    BLOCK_AIO_AUTO,
    BLOCK_AIO_LIBAIO,
    BLOCK_AIO_IO_URING,
    BLOCK_AIO_THREADS
} BlockAio;
typedef enum {
    BLOCK_CACHE_AUTO,
    BLOCK_CACHE_NONE,
    BLOCK_CACHE_WRITEBACK,
    BLOCK_CACHE_UNSAFE
} BlockCache;

typedef struct BlockOptions {
    char *path;
    int format; /* BlockFormat: AUTO goes by the name alone, never by content */
    bool readonly;
    int aio;   /* BlockAio: AUTO takes the first that works: io_uring, libaio (with
                  cache=none), threads */
    int cache; /* BlockCache: NONE is O_DIRECT; AUTO is NONE where the file can, else
                  WRITEBACK; UNSAFE answers flushes at once */
    bool lock; /* take OFD locks on the bytes QEMU uses; on unless locking=off */
} BlockOptions;

/* The keys of BlockOptions, for a device's own table to include; `type_` is the struct
 * and `member` the BlockOptions in it. */
#define BLOCK_PARAMS(type_, member)                                                      \
    {.key = "path",                                                                      \
     .type = PARAM_PATH,                                                                 \
     .offset = offsetof(type_, member.path),                                             \
     .arg = "FILE",                                                                      \
     .help = "image file or block device",                                               \
     .required = true},                                                                  \
        {.key = "format",                                                                \
         .type = PARAM_ENUM,                                                             \
         .offset = offsetof(type_, member.format),                                       \
         .choices = block_format_names,                                                  \
         .def = "auto",                                                                  \
         .help = "auto: by the name, .qcow2 is qcow2 and all else raw"},                 \
        {.key = "readonly",                                                              \
         .type = PARAM_BOOL,                                                             \
         .offset = offsetof(type_, member.readonly),                                     \
         .help = "refuse writes; several VMs may then share the file"},                  \
        {.key = "aio",                                                                   \
         .type = PARAM_ENUM,                                                             \
         .offset = offsetof(type_, member.aio),                                          \
         .choices = block_aio_names,                                                     \
         .def = "auto",                                                                  \
         .help = "how requests reach the file"},                                         \
        {.key = "cache",                                                                 \
         .type = PARAM_ENUM,                                                             \
         .offset = offsetof(type_, member.cache),                                        \
         .choices = block_cache_names,                                                   \
         .def = "auto",                                                                  \
         .help = "none: O_DIRECT; unsafe: flushes are not carried out"},                 \
    {                                                                                    \
        .key = "locking", .type = PARAM_BOOL, .offset = offsetof(type_, member.lock),    \
        .def = "on", .help = "keep other VMs, QEMU's too, from using the file"           \
    }

extern const char *const block_format_names[];
extern const char *const block_aio_names[];
extern const char *const block_cache_names[];

typedef enum {
    BLOCK_READ,
    BLOCK_WRITE,
    BLOCK_FLUSH,
    BLOCK_DISCARD,      /* the contents may become anything, zeroes in practice */
    BLOCK_WRITE_ZEROES, /* reads as zeroes afterwards; may_unmap allows holes */
} BlockOp;

enum { BLOCK_SECTOR = 512 };

struct BlockReq {
    BlockOp op;
    bool may_unmap;
    uint64_t offset, len;    /* bytes, multiples of BLOCK_SECTOR */
    const struct iovec *iov; /* READ, WRITE: exactly len bytes; any alignment */
    unsigned n_iov;
    /* On the queue's loop, never from within block_submit().  err is 0 or an errno. */
    void (*done)(BlockReq *req, int err);

    /* src/block's, while the request is in flight. */
    BlockReq *next;
    uint64_t priv[12];
};

/* Main thread.  Errors name the file.  A raw image that begins with another format's
 * magic is refused unless format=raw was given.  Close needs every queue freed; NULL is
 * fine. */
BlockDev *block_open(const BlockOptions *options, GError **error);
void block_close(BlockDev *dev);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BlockDev, block_close)

uint64_t block_size(const BlockDev *dev); /* bytes */
bool block_readonly(const BlockDev *dev);
bool block_can_discard(const BlockDev *dev);
const char *block_engine_name(const BlockDev *dev);
/* Block sizes to tell the guest: the smallest it should address, and what costs the host
 * no read before a write.  Powers of two, logical <= physical. */
unsigned block_logical_size(const BlockDev *dev);
unsigned block_physical_size(const BlockDev *dev);

/* The loop's thread.  depth is the most requests in flight (at least 1); the caller keeps
 * to it.  Requests out of range, or writes to a read-only disk, come back with EIO/EPERM.
 */
BlockQueue *block_queue_new(BlockDev *dev, IoLoop *loop, unsigned depth, GError **error);
void block_queue_free(BlockQueue *q); /* nothing in flight; NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BlockQueue, block_queue_free)

/* The loop's thread.  fn is called once after each batch of done() calls: the place to
 * interrupt the guest. */
void block_queue_on_batch(BlockQueue *q, void (*fn)(void *opaque), void *opaque);

/* The loop's thread.  Submit takes the request; requests gather until block_commit()
 * sends them to the host in one system call where the engine can.  block_poll() completes
 * what has finished, without waiting; true if there was any.  block_drain() returns when
 * nothing is in flight. */
void block_submit(BlockQueue *q, BlockReq *req);
void block_commit(BlockQueue *q);
bool block_poll(BlockQueue *q);
void block_drain(BlockQueue *q);
