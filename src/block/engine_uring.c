/* io_uring (io_uring(7)), for files in the page cache as well as with O_DIRECT.
 *
 * May be missing from the build, or from the host: old kernels, sysctl
 * kernel.io_uring_disabled, a container's seccomp filter. */
#include "hutch-config.h"

#include "block_private.h"

#ifdef HAVE_IO_URING

#include <errno.h>
#include <liburing.h>
#include <limits.h>

#include "util/fd.h"

enum { MAX_BATCH = 128, MAX_EVENTS = 1024 };

typedef struct UringEngine {
    struct io_uring ring;
    int event_fd;
    unsigned in_kernel, limit;
    BlockList pending;
} UringEngine;

static bool setup(struct io_uring *ring, unsigned depth, GError **error)
{
    struct io_uring_params p = {.flags = IORING_SETUP_CQSIZE | IORING_SETUP_COOP_TASKRUN |
                                         IORING_SETUP_TASKRUN_FLAG,
                                .cq_entries = depth};
    int r = io_uring_queue_init_params(MIN(depth, MAX_BATCH), ring, &p);

    if (r == -EINVAL) { /* before Linux 5.19 */
        p = (struct io_uring_params){.flags = IORING_SETUP_CQSIZE, .cq_entries = depth};
        r = io_uring_queue_init_params(MIN(depth, MAX_BATCH), ring, &p);
    }
    if (r == 0)
        return true;
    errno = -r;
    switch (r) {
    case -EPERM:
    case -EACCES:
        return fail_errno(error, "io_uring is forbidden here, by sysctl "
                                 "kernel.io_uring_disabled or a seccomp filter (choose "
                                 "aio=libaio or aio=threads)");
    case -ENOSYS:
        return fail_errno(error, "io_uring is not in this kernel (choose aio=libaio or "
                                 "aio=threads)");
    default:
        return fail_errno(error, "set up io_uring (aio=threads does without)");
    }
}

static bool uring_probe(BlockDev *dev, GError **error)
{
    struct io_uring ring;
    struct io_uring_probe *ops;
    bool ok;

    if (!setup(&ring, 8, error))
        return false;
    ops = io_uring_get_probe_ring(&ring);
    ok = ops && io_uring_opcode_supported(ops, IORING_OP_READ);
    io_uring_free_probe(ops);
    io_uring_queue_exit(&ring);
    return ok || fail(error, VM_ERROR_UNSUPPORTED,
                      "io_uring of this kernel is too old (Linux 5.6 is needed; choose "
                      "aio=libaio or aio=threads)");
}

static void uring_stop(void *engine)
{
    UringEngine *e = engine;

    io_uring_queue_exit(&e->ring);
    g_free(e);
}

static void *uring_start(BlockQueue *q, GError **error)
{
    UringEngine *e = g_new0(UringEngine, 1);
    int r;

    e->event_fd = q->event_fd;
    e->limit = MIN(q->depth, MAX_EVENTS);
    if (!setup(&e->ring, e->limit, error)) {
        g_prefix_error(error, "'%s': ", q->dev->path);
        g_free(e);
        return NULL;
    }
    r = io_uring_register_eventfd(&e->ring, q->event_fd);
    if (r < 0) {
        errno = -r;
        fail_errno(error, "'%s': set up io_uring (aio=threads does without)",
                   q->dev->path);
        uring_stop(e);
        return NULL;
    }
    return e;
}

static void uring_submit(void *engine, BlockReq *req)
{
    UringEngine *e = engine;

    block_list_add(&e->pending, req);
}

static void prepare(struct io_uring_sqe *sqe, BlockReq *req)
{
    uint64_t offset = block_priv(req)->file_offset;
    bool write = req->op == BLOCK_WRITE;
    int fd = block_priv(req)->fd;

    if (req->op == BLOCK_FLUSH)
        io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
    else if (req->n_iov == 1 && req->len <= INT_MAX && write)
        io_uring_prep_write(sqe, fd, req->iov->iov_base, (unsigned)req->len, offset);
    else if (req->n_iov == 1 && req->len <= INT_MAX)
        io_uring_prep_read(sqe, fd, req->iov->iov_base, (unsigned)req->len, offset);
    else if (write)
        io_uring_prep_writev(sqe, fd, req->iov, req->n_iov, offset);
    else
        io_uring_prep_readv(sqe, fd, req->iov, req->n_iov, offset);
    io_uring_sqe_set_data(sqe, req);
}

static void uring_commit(void *engine)
{
    UringEngine *e = engine;
    struct io_uring_sqe *sqe;

    while (e->pending.head || io_uring_sq_ready(&e->ring)) {
        int r;

        while (e->pending.head && e->in_kernel < e->limit &&
               (sqe = io_uring_get_sqe(&e->ring))) {
            prepare(sqe, block_list_take(&e->pending));
            e->in_kernel++;
        }
        if (!io_uring_sq_ready(&e->ring))
            return; /* full: a completion calls us again */
        r = io_uring_submit(&e->ring);
        if (r <= 0 && r != -EINTR) {
            /* Short of memory.  The entries stay in the ring; if no completion is to
             * come, ask to be called again. */
            if (io_uring_sq_ready(&e->ring) == e->in_kernel)
                fd_event_signal(e->event_fd);
            return;
        }
    }
}

static unsigned uring_reap(void *engine)
{
    UringEngine *e = engine;
    struct io_uring_cqe *cqe;
    unsigned n = 0, most = e->in_kernel;

    /* What is finished after this began has signalled the eventfd again. */
    for (; n < most && io_uring_peek_cqe(&e->ring, &cqe) == 0; n++) {
        BlockReq *req = io_uring_cqe_get_data(cqe);
        int res = cqe->res;

        io_uring_cqe_seen(&e->ring, cqe);
        e->in_kernel--;
        block_finish_io(req, res);
    }
    return n;
}

const BlockEngine block_io_uring_engine = {
    .name = "io_uring",
    .probe = uring_probe,
    .start = uring_start,
    .stop = uring_stop,
    .submit = uring_submit,
    .commit = uring_commit,
    .reap = uring_reap,
};

#else

static bool uring_probe(BlockDev *dev, GError **error)
{
    return fail(error, VM_ERROR_UNSUPPORTED,
                "this hutch was built without io_uring (choose aio=libaio or "
                "aio=threads)");
}

const BlockEngine block_io_uring_engine = {.name = "io_uring", .probe = uring_probe};

#endif
