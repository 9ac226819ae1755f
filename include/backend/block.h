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
#include "util/counter.h"
#include "util/error.h"
#include "util/ioloop.h"

typedef struct BlockDev BlockDev;
typedef struct BlockQueue BlockQueue;
typedef struct BlockReq BlockReq;
typedef struct BlockJob BlockJob;

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
    BLOCK_CACHE_WRITETHROUGH,
    BLOCK_CACHE_UNSAFE
} BlockCache;
typedef enum { BLOCK_BACKING_AUTO, BLOCK_BACKING_ON, BLOCK_BACKING_OFF } BlockBacking;

/* Limits, a second; 0: none.  A burst is how much may come on top at once, after a rest.
 */
typedef struct BlockLimits {
    uint64_t bps, bps_read, bps_write, bps_burst;     /* bytes */
    uint64_t iops, iops_read, iops_write, iops_burst; /* requests */
} BlockLimits;

typedef struct BlockOptions {
    char *path;
    int format; /* BlockFormat: AUTO goes by the name alone, never by content */
    bool readonly;
    int aio;     /* BlockAio: AUTO takes the first that works: io_uring, libaio (with
                    cache=none), threads */
    int cache;   /* BlockCache: NONE is O_DIRECT; AUTO is NONE where the file can, else
                    WRITEBACK; WRITETHROUGH flushes each write; UNSAFE answers flushes at
                    once */
    bool lock;   /* take OFD locks on the bytes QEMU uses; on unless locking=off */
    int backing; /* BlockBacking: AUTO follows what hutch itself put below it */
    BlockLimits limits;
    char *throttle_group; /* limits are shared with the disks that name the same */
    uint64_t cache_size;  /* bytes of metadata to keep in memory, for each image; 0: the
                             format's default */
} BlockOptions;

/* The keys of BlockLimits. */
#define BLOCK_LIMIT_PARAMS(type_, member)                                                \
    {.key = "bps",                                                                       \
     .type = PARAM_SIZE,                                                                 \
     .offset = offsetof(type_, member.bps),                                              \
     .arg = "SIZE",                                                                      \
     .help = "bytes a second, reads and writes together"},                               \
        {.key = "bps-read",                                                              \
         .type = PARAM_SIZE,                                                             \
         .offset = offsetof(type_, member.bps_read),                                     \
         .arg = "SIZE",                                                                  \
         .help = "bytes a second, of reads"},                                            \
        {.key = "bps-write",                                                             \
         .type = PARAM_SIZE,                                                             \
         .offset = offsetof(type_, member.bps_write),                                    \
         .arg = "SIZE",                                                                  \
         .help = "bytes a second, of writes"},                                           \
        {.key = "bps-burst",                                                             \
         .type = PARAM_SIZE,                                                             \
         .offset = offsetof(type_, member.bps_burst),                                    \
         .arg = "SIZE",                                                                  \
         .help = "bytes that may come at once after a rest"},                            \
        {.key = "iops",                                                                  \
         .type = PARAM_UINT,                                                             \
         .offset = offsetof(type_, member.iops),                                         \
         .arg = "N",                                                                     \
         .help = "requests a second, reads and writes together"},                        \
        {.key = "iops-read",                                                             \
         .type = PARAM_UINT,                                                             \
         .offset = offsetof(type_, member.iops_read),                                    \
         .arg = "N",                                                                     \
         .help = "requests a second, of reads"},                                         \
        {.key = "iops-write",                                                            \
         .type = PARAM_UINT,                                                             \
         .offset = offsetof(type_, member.iops_write),                                   \
         .arg = "N",                                                                     \
         .help = "requests a second, of writes"},                                        \
    {                                                                                    \
        .key = "iops-burst", .type = PARAM_UINT,                                         \
        .offset = offsetof(type_, member.iops_burst), .arg = "N",                        \
        .help = "requests that may come at once after a rest"                            \
    }

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
        {.key = "backing",                                                               \
         .type = PARAM_ENUM,                                                             \
         .offset = offsetof(type_, member.backing),                                      \
         .choices = block_backing_names,                                                 \
         .def = "auto",                                                                  \
         .help = "open the files that an image names; auto: if hutch put them there"},   \
        {.key = "cache-size",                                                            \
         .type = PARAM_SIZE,                                                             \
         .offset = offsetof(type_, member.cache_size),                                   \
         .arg = "SIZE",                                                                  \
         .help = "metadata of a qcow2 image kept in memory; 0: 32M at most"},            \
        BLOCK_LIMIT_PARAMS(type_, member.limits),                                        \
        {.key = "throttle-group",                                                        \
         .type = PARAM_STRING,                                                           \
         .offset = offsetof(type_, member.throttle_group),                               \
         .arg = "NAME",                                                                  \
         .help = "share the limits with the disks that name the same group"},            \
    {                                                                                    \
        .key = "locking", .type = PARAM_BOOL, .offset = offsetof(type_, member.lock),    \
        .def = "on", .help = "keep other VMs, QEMU's too, from using the file"           \
    }

extern const char *const block_format_names[];
extern const char *const block_aio_names[];
extern const char *const block_cache_names[];
extern const char *const block_backing_names[];

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
    uint64_t priv[16];
};

/* Main thread.  Errors name the file.  A raw image that begins with another format's
 * magic is refused unless format=raw was given.  Close needs every queue freed; NULL is
 * fine. */
BlockDev *block_open(const BlockOptions *options, GError **error);
void block_close(BlockDev *dev);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BlockDev, block_close)

/* Any thread: the VM ends.  Requests that storage of other hosts does not answer within
 * seconds fail from now on, so that block_drain() and block_close() do not wait for ever.
 */
void block_hurry(BlockDev *dev);

/* The main thread uses a disk for another thread, which gives it back.  A disk that is
 * closed meanwhile stays open for that thread: the main thread does not wait for it. */
void block_use(BlockDev *dev);
void block_unuse(BlockDev *dev);

uint64_t block_size(const BlockDev *dev); /* bytes */
bool block_readonly(const BlockDev *dev);
/* What a disk has done since it was opened; zeroes that are written count as writes.
 * Numbers are of requests that have ended, but for the refused ones, which never began:
 * those outside of the disk, and what its header may not ask for. */
typedef enum {
    BLOCK_COUNT_READ,
    BLOCK_COUNT_WRITE,
    BLOCK_COUNT_FLUSH,
    BLOCK_COUNT_DISCARD,
    BLOCK_COUNTS
} BlockCount;

typedef struct BlockCounters {
    uint64_t ops, bytes; /* that went well */
    uint64_t failed, refused;
    uint64_t ns;     /* from submission to the end, failures too, of all together */
    Histogram times; /* the same of each */
} BlockCounters;

typedef struct BlockStats {
    BlockCounters of[BLOCK_COUNTS];
    uint64_t
        end; /* of the write that went furthest, in bytes; the largest of the queues */
} BlockStats;
void block_stats(BlockDev *dev, BlockStats *ret); /* any thread */

/* The loop's thread: a request that the device refused before it was one. */
void block_count_refused(BlockQueue *q, BlockOp op);

/* Any thread.  Replaces all limits; those of a group are the group's. */
void block_set_limits(BlockDev *dev, const BlockLimits *limits);
void block_limits(BlockDev *dev, BlockLimits *ret);
const char *block_throttle_group(const BlockDev *dev); /* NULL: none */

/* Before there is a queue.  fn is called on any thread when the size has changed. */
void block_on_resize(BlockDev *dev, void (*fn)(void *opaque), void *opaque);

bool block_can_discard(const BlockDev *dev);
bool block_writethrough(const BlockDev *dev); /* each write is to be flushed */
bool block_is_direct(const BlockDev *dev);    /* O_DIRECT is on, in the top image */
bool block_is_unsafe(const BlockDev *dev);    /* flushes are not carried out */
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
