/* Worker threads: a small pool for each queue.
 *
 * Every queue has one, for the requests that its engine cannot carry out; with
 * aio=threads it is the engine.  A thread takes one request at a time from a list that is
 * as long as the queue is deep, and gives it back on another.  Threads are added while
 * all are busy, up to a limit; what cannot be had is done without. */
#include <errno.h>
#include <pthread.h>

#include "block_private.h"
#include "util/fd.h"
#include "util/log.h"

enum { MAX_WORKERS = 16, STACK_SIZE = 256 * 1024 };

typedef struct Worker {
    BlockWorkers *pool;
    pthread_t thread;
} Worker;

struct BlockWorkers {
    BlockDev *dev;
    int event_fd;
    unsigned max, n; /* the queue's thread's */
    Worker worker[MAX_WORKERS];

    Lock lock; /* leaf; guards the rest */
    pthread_cond_t work;
    BlockList todo, finished;
    unsigned idle, n_todo;
    unsigned n_finished; /* also read without the lock */
    bool stop;
};

static int perform(BlockImage *img, const BlockReq *req, uint64_t skip)
{
    uint64_t offset = req->offset + skip, len = req->len - skip;

    switch (req->op) {
    case BLOCK_READ:
        return image_readv(img, offset, req->iov, req->n_iov, skip, len);
    case BLOCK_WRITE:
        return image_writev(img, offset, req->iov, req->n_iov, skip, len);
    case BLOCK_FLUSH:
        return image_flush(img);
    case BLOCK_DISCARD:
        return image_discard(img, offset, len);
    case BLOCK_WRITE_ZEROES:
        return image_zero(img, offset, len, req->may_unmap);
    }
    return EINVAL;
}

static void *worker_thread(void *opaque)
{
    Worker *worker = opaque;
    BlockWorkers *w = worker->pool;

    thread_set_name("disk-worker");
    lock_acquire(&w->lock);
    while (!w->stop) {
        BlockReq *req = block_list_take(&w->todo);

        if (!req) {
            w->idle++;
            pthread_cond_wait(&w->work, &w->lock.mutex);
            w->idle--;
            continue;
        }
        w->n_todo--;
        lock_release(&w->lock);
        block_priv(req)->err = perform(w->dev->top, req, block_priv(req)->skip);
        lock_acquire(&w->lock);
        block_list_add(&w->finished, req);
        if (__atomic_fetch_add(&w->n_finished, 1, __ATOMIC_RELEASE) == 0)
            fd_event_signal(w->event_fd);
    }
    lock_release(&w->lock);
    return NULL;
}

static int add_worker(BlockWorkers *w)
{
    Worker *worker = &w->worker[w->n];
    pthread_attr_t attr;
    int err;

    worker->pool = w;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_SIZE);
    err = pthread_create(&worker->thread, &attr, worker_thread, worker);
    pthread_attr_destroy(&attr);
    if (!err)
        w->n++;
    return err;
}

BlockWorkers *block_workers_start(BlockQueue *q, unsigned max, GError **error)
{
    BlockWorkers *w = g_new0(BlockWorkers, 1);

    w->dev = q->dev;
    w->event_fd = q->event_fd;
    w->max = MIN(max, MAX_WORKERS);
    lock_init(&w->lock);
    pthread_cond_init(&w->work, NULL);
    errno = add_worker(w);
    if (errno) {
        fail_errno(error, "'%s': start a worker thread", q->dev->path);
        block_workers_stop(w);
        return NULL;
    }
    return w;
}

void block_workers_stop(BlockWorkers *w)
{
    if (!w)
        return;
    lock_acquire(&w->lock);
    w->stop = true;
    pthread_cond_broadcast(&w->work);
    lock_release(&w->lock);
    for (unsigned i = 0; i < w->n; i++)
        pthread_join(w->worker[i].thread, NULL);
    pthread_cond_destroy(&w->work);
    lock_finish(&w->lock);
    g_free(w);
}

void block_workers_submit(BlockWorkers *w, BlockReq *req)
{
    bool more;

    lock_acquire(&w->lock);
    block_list_add(&w->todo, req);
    more = ++w->n_todo > w->idle;
    pthread_cond_signal(&w->work);
    lock_release(&w->lock);
    if (more && w->n < w->max)
        add_worker(w);
}

unsigned block_workers_reap(BlockWorkers *w)
{
    BlockList finished;
    BlockReq *req;
    unsigned n;

    if (!__atomic_load_n(&w->n_finished, __ATOMIC_ACQUIRE))
        return 0;
    lock_acquire(&w->lock);
    finished = w->finished;
    w->finished.head = NULL;
    n = w->n_finished;
    __atomic_store_n(&w->n_finished, 0, __ATOMIC_RELAXED);
    lock_release(&w->lock);
    while ((req = block_list_take(&finished)))
        block_finish(req, block_priv(req)->err);
    return n;
}

/* ---- the engine: all of it with the workers ---------------------------------------- */

static bool threads_probe(BlockDev *dev, GError **error)
{
    return true;
}

static void *threads_start(BlockQueue *q, GError **error)
{
    return q; /* whose workers run already */
}

static void threads_stop(void *engine)
{
}

static void threads_submit(void *engine, BlockReq *req)
{
    block_use_worker(req);
}

static void threads_commit(void *engine)
{
}

static unsigned threads_reap(void *engine)
{
    return 0;
}

const BlockEngine block_threads_engine = {
    .name = "threads",
    .probe = threads_probe,
    .start = threads_start,
    .stop = threads_stop,
    .submit = threads_submit,
    .commit = threads_commit,
    .reap = threads_reap,
};
