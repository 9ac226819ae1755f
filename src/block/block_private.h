/* Private to src/block: how disks, queues and engines fit together.
 *
 *     BlockReq -> queue.c: range checks, ordering of read-modify-write
 *              -> image:   where in which file it lies        (image.c, formats)
 *              -> engine:  asynchronous I/O on the file       (engine_*.c), or on
 *                          several places of files            (parts.c)
 *           or -> workers: a thread that may sleep            (engine_threads.c, image.c)
 *
 * An engine carries out what is one aligned transfer, and flushes.  Everything else goes
 * to the workers, which do it step by step: buffers or sectors that O_DIRECT refuses,
 * transfers cut short, what has to be allocated first, discards, ranges to be zeroed. */
#pragma once

#include "backend/block.h"
#include "backend/blockjob.h"
#include "image_private.h"
#include "util/lock.h"

typedef struct BlockEngine BlockEngine;
typedef struct BlockWorkers BlockWorkers;
typedef struct BlockThrottle BlockThrottle;
typedef struct BlockDirty BlockDirty;

/* Written by the main thread before the first queue is made, then only read, except
 * where said. */
struct BlockDev {
    char *path;
    BlockImage *top; /* changes only with the gate closed */
    uint64_t size;   /* atomic: top's, for threads that may not look at it */
    bool readonly;
    bool unsafe; /* flushes are not carried out */
    bool writethrough;
    bool direct; /* the first image was opened with O_DIRECT */
    bool can_discard;
    unsigned logical, physical; /* block sizes to show the guest */
    const BlockEngine *engine;
    void *spare; /* atomic; the engine's, see probe() */
    BlockThrottle *throttle;
    BlockOptions options; /* as opened; its strings are gone */

    Lock chain_lock; /* held while `top` or what is below it changes, or is walked by
                        who is not the disk's job */
    Lock lock;       /* leaf; guards the rest, but for what is said */
    pthread_cond_t changed; /* of the gate */
    bool gate;              /* closed; also read without the lock */
    bool gate_owned;
    BlockQueue *queues;
    void (*on_resize)(void *opaque);
    void *resize_opaque;
    BlockJob *job;     /* the last one; see job.c */
    bool changing;     /* by a command that is not a job, or one that starts a job */
    unsigned uses;     /* block_use() */
    bool closed;       /* the last who uses it frees it */
    bool telling;      /* on_resize is being called */
    bool hurry;        /* atomic: block_hurry() */
    BlockDirty *dirty; /* changes only with the gate closed */
};

/* One bit a chunk of the disk: written since a job looked. */
struct BlockDirty {
    unsigned shift;
    uint64_t n;      /* bits */
    uint64_t *words; /* atomic */
};
void block_dirty_mark(BlockDirty *d, uint64_t offset, uint64_t len);

typedef struct BlockList {
    BlockReq *head, *tail;
} BlockList;

/* map.c */
typedef struct BlockMapEntry {
    BlockFile *file; /* NULL: empty */
    uint64_t file_offset, granule;
    bool in_place;
} BlockMapEntry;
typedef struct BlockMap {
    unsigned shift;         /* a granule is 1 << shift bytes; 0: nothing is to be kept */
    BlockMapEntry *entries; /* NULL: none yet */
} BlockMap;

/* parts.c */
typedef struct BlockPart BlockPart;
typedef struct BlockParts {
    BlockPart *store; /* NULL: none yet */
    unsigned n_used;  /* of the store, at one time or another */
    BlockList free;   /* of these, those that are not in use */
} BlockParts;

struct BlockQueue {
    BlockDev *dev;
    IoLoop *loop;
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
    BlockList held;    /* behind one that runs alone, in order of submission */
    bool exclusive;    /* that one is active */
    bool draining;     /* limits do not count */

    BlockList waiting[2]; /* for their time by the throttle: reads, writes */
    IoTimer wake;
    unsigned limits; /* generation that waiting[] goes by */

    BlockMap map;
    BlockParts parts;
    BlockStats stats; /* counters, of this thread */

    bool gated;       /* as this thread has seen the gate */
    bool quiet;       /* under dev->lock: gated with nothing active */
    BlockQueue *next; /* under dev->lock: of dev->queues */

    void (*batch_end)(void *opaque);
    void *batch_opaque;
};

/* What an engine is.  State belongs to one queue and to its thread. */
struct BlockEngine {
    const char *name;
    bool only_direct; /* asynchronous on files with O_DIRECT only */

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
    int fd;               /* with the engine */
    unsigned n_parts;     /* with the engine or the workers */
    uint64_t file_offset; /* READ, WRITE with the engine */
    uint64_t skip;        /* bytes done before the workers got it */
    int64_t start_ns;     /* when it was submitted */
    int64_t turn_ns;      /* when it may begin; the first of q->waiting has one */
    int err;              /* the verdict */
    bool slow;            /* with the workers */
    bool alone;           /* nothing else may be active with it, see queue.c */
    BlockReq *whole;      /* of which it is a part; NULL: of none */
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
/* Whether the engine can carry out a transfer whose bytes are all at e: then it has what
 * submit() needs. */
bool block_aim(BlockQueue *q, BlockReq *req, const Extent *e);

/* ---- parts.c: the queue's thread --------------------------------------------------- */

/* Submits an active transfer by parts; false, and nothing is done, if it is not one that
 * can be. */
bool block_parts_submit(BlockQueue *q, BlockReq *whole);
void block_parts_finish(BlockReq *part, int err); /* block_finish()'s */
void block_parts_free(BlockParts *p);             /* none is in use */

/* ---- engine_threads.c ------------------------------------------------------------- */

/* The queue's thread.  A pool of at most `max` threads; one at once, others as the need
 * arises. */
BlockWorkers *block_workers_start(BlockQueue *q, unsigned max, GError **error);
void block_workers_stop(BlockWorkers *w); /* NULL is fine */
void block_workers_submit(BlockWorkers *w, BlockReq *req);
unsigned block_workers_reap(BlockWorkers *w);

/* ---- gate.c ----------------------------------------------------------------------- */

/* A thread that may sleep, and no loop's.  On return nothing is active, and nothing will
 * be until block_gate_open(): images may be exchanged.  One closes it at a time; the
 * others wait. */
void block_gate_close(BlockDev *dev);
void block_gate_open(BlockDev *dev);

/* The queue's thread. */
void block_gate_see(BlockQueue *q);
void block_gate_join(BlockQueue *q);
void block_gate_leave(BlockQueue *q);

/* ---- map.c: the queue's thread ------------------------------------------------------
 */

/* As image_lookup_now(), and remembers. */
int block_map_lookup(BlockMap *m, BlockImage *top, uint64_t offset, uint64_t len,
                     Extent *ret);
void block_map_forget(BlockMap *m, uint64_t offset, uint64_t len);
void block_map_forget_all(BlockMap *m);

/* ---- throttle.c: any thread ----------------------------------------------------------
 */

/* The group of that name, made at its first use; NULL: one without a name. */
BlockThrottle *block_throttle_get(const char *name);
void block_throttle_put(BlockThrottle *t); /* NULL is fine */
void block_throttle_set(BlockThrottle *t, const BlockLimits *limits);
void block_throttle_read(BlockThrottle *t, BlockLimits *ret);
const char *block_throttle_name(const BlockThrottle *t);
bool block_throttle_on(const BlockThrottle *t);
unsigned block_throttle_generation(const BlockThrottle *t); /* of block_throttle_set() */
bool block_limits_any(const BlockLimits *limits);
/* When a request may begin (CLOCK_MONOTONIC, not before now): its place is taken. */
int64_t block_throttle_reserve(BlockThrottle *t, bool write, uint64_t bytes,
                               int64_t now_ns);
