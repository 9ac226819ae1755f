/* Private to src/block: how formats, queues and engines fit together.
 *
 *     BlockReq -> queue.c: range checks, ordering of read-modify-write
 *              -> format:  where in the file it lies          (raw.c; qcow2 later)
 *              -> engine:  asynchronous I/O on the file       (engine_*.c)
 *           or -> workers: a thread that may sleep            (engine_threads.c, sync.c)
 *
 * An engine carries out what is one aligned transfer, and flushes.  Everything else goes
 * to the workers, which do it step by step: buffers or sectors that O_DIRECT refuses,
 * transfers cut short, discards, ranges to be zeroed. */
#pragma once

#include "backend/block.h"
#include "util/lock.h"

typedef struct BlockEngine BlockEngine;
typedef struct BlockFormatOps BlockFormatOps;
typedef struct BlockWorkers BlockWorkers;

enum {
    BLOCK_BOUNCE_SIZE = 128 * 1024, /* bytes per worker */
    BLOCK_MAX_ALIGN = 64 * 1024,    /* of O_DIRECT; above, the page cache is used */
};

/* Written by the main thread before the first queue is made, then only read, except
 * where said. */
struct BlockDev {
    char *path;
    int fd;
    uint64_t size;
    bool readonly;
    bool direct;    /* O_DIRECT is on */
    bool unsafe;    /* flushes are not carried out */
    bool is_device; /* a block device, not a file */
    bool can_discard;
    bool no_zero_range;           /* atomic: fallocate cannot zero here; set by workers */
    unsigned mem_align, io_align; /* what the file wants of addresses, and of offsets and
                                     lengths; 1 without O_DIRECT */
    unsigned logical, physical;   /* block sizes to show the guest */
    const BlockFormatOps *format;
    const BlockEngine *engine;
    void *spare;   /* atomic; the engine's, see probe() */
    Lock rmw_lock; /* leaf, workers: one read-modify-write at a time */
};

/* What an image format is.  One const table each, listed in block.c. */
struct BlockFormatOps {
    const char *name;

    /* Main thread, the file open and locked: judges the file, which is hostile, and sets
     * dev->size.  `named`: the user gave this format explicitly. */
    bool (*open)(BlockDev *dev, bool named, GError **error);

    /* The queue's thread, on the hot path: true if all of a READ or WRITE is one piece
     * of the file, at *ret_offset.  False leaves it to perform(). */
    bool (*map)(const BlockDev *dev, const BlockReq *req, uint64_t *ret_offset);

    /* A worker thread: carries out the request but for its first `skip` bytes, which
     * have been.  Returns 0 or an errno. */
    int (*perform)(BlockDev *dev, const BlockReq *req, uint64_t skip, uint8_t *bounce);
};
extern const BlockFormatOps block_raw_format;

/* For open(): reads the first *len bytes of the file; fewer at its end, with *len
 * changed.
 */
bool block_read_head(const BlockDev *dev, void *buf, size_t *len, GError **error);

typedef struct BlockList {
    BlockReq *head, *tail;
} BlockList;

struct BlockQueue {
    BlockDev *dev;
    unsigned depth;
    unsigned in_flight; /* submitted, not yet done() */
    unsigned active;    /* of these, with the engine or the workers */

    /* Whoever finishes a request adds to it.  The watch is edge-triggered, so that
     * nobody has to read it. */
    int event_fd;
    IoWatch watch;

    void *engine; /* its state */
    BlockWorkers *workers;

    BlockList instant; /* to be answered without I/O, with BlockPriv.err */
    BlockList held;    /* behind a read-modify-write, in order of submission */
    bool exclusive;    /* a read-modify-write is active, alone */

    void (*batch_end)(void *opaque);
    void *batch_opaque;
};

/* What an engine is.  State belongs to one queue and to its thread. */
struct BlockEngine {
    const char *name;

    /* Main thread.  Whether it can serve this file on this host.  What was made to find
     * out may be left in dev->spare, for the first queue or for unprobe(). */
    bool (*probe)(BlockDev *dev, GError **error);
    void (*unprobe)(BlockDev *dev); /* NULL: nothing to do */

    void *(*start)(BlockQueue *q, GError **error); /* NULL: failed */
    void (*stop)(void *engine);                    /* nothing in flight */

    /* READ, WRITE (mapped and aligned) and FLUSH.  commit() sends what was submitted, as
     * far as there is room, and is called again after completions. */
    void (*submit)(void *engine, BlockReq *req);
    void (*commit)(void *engine);

    /* Hands over what has finished by block_finish_io(); returns how many. */
    unsigned (*reap)(void *engine);
};
extern const BlockEngine block_libaio_engine, block_io_uring_engine, block_threads_engine;

/* The part of a request that is ours, in BlockReq.priv. */
typedef struct BlockPriv {
    BlockQueue *q;
    uint64_t file_offset; /* READ, WRITE with the engine */
    uint64_t skip;        /* bytes done before the workers got it */
    int err;              /* the verdict */
    bool slow;            /* with the workers */
    bool rmw;             /* may have to read before it writes: runs alone */
    uint64_t engine[8];   /* struct iocb */
} BlockPriv;
_Static_assert(sizeof(BlockPriv) <= sizeof(((BlockReq *)0)->priv), "BlockReq.priv");

static inline BlockPriv *block_priv(BlockReq *req)
{
    return (BlockPriv *)(void *)req->priv;
}

static inline void block_list_add(BlockList *list, BlockReq *req)
{
    req->next = NULL;
    if (list->head)
        list->tail->next = req;
    else
        list->head = req;
    list->tail = req;
}

static inline BlockReq *block_list_take(BlockList *list)
{
    BlockReq *req = list->head;

    if (req)
        list->head = req->next;
    return req;
}

/* ---- queue.c, for engines and workers, on the queue's thread ---------------------- */

/* The engine is done: res is a byte count (0 for a flush) or a negative errno. */
void block_finish_io(BlockReq *req, int64_t res);
/* The workers are. */
void block_finish(BlockReq *req, int err);
/* The engine cannot: let the workers try. */
void block_use_worker(BlockReq *req);

/* ---- engine_threads.c ------------------------------------------------------------- */

/* The queue's thread.  A pool of at most `max` threads; one at once, others as the need
 * arises. */
BlockWorkers *block_workers_start(BlockQueue *q, unsigned max, GError **error);
void block_workers_stop(BlockWorkers *w); /* NULL is fine */
void block_workers_submit(BlockWorkers *w, BlockReq *req);
unsigned block_workers_reap(BlockWorkers *w);

/* ---- sync.c: a worker thread.  0 or an errno -------------------------------------- */

/* Moves bytes [skip, skip + len) of the request's list from or to the file at `offset`,
 * by way of the bounce buffer where O_DIRECT wants that. */
int block_file_rw(BlockDev *dev, bool write, uint64_t offset, const BlockReq *req,
                  uint64_t skip, uint64_t len, uint8_t *bounce);
int block_file_zero(BlockDev *dev, uint64_t offset, uint64_t len, bool may_unmap,
                    uint8_t *bounce);
int block_file_discard(BlockDev *dev, uint64_t offset, uint64_t len);
int block_file_flush(BlockDev *dev);

/* ---- lock.c ----------------------------------------------------------------------- */

/* Main thread.  Takes the locks that a VM takes in QEMU, and gives them back: closing
 * alone would not, as long as an io_uring refers to the file. */
bool block_lock(int fd, const char *path, bool readonly, GError **error);
void block_unlock(int fd);
