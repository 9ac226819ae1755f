/* Requests passed on to a back end that keeps no account of what it has in flight; see
 * vhost_user_private.h.
 *
 * Such a back end, when it dies with requests that it answers in any order, leaves rings
 * from which nobody can tell which of them it has answered.  So the driver's rings are
 * served here, by vq_pop() and vq_push() as those of any device, and the back end gets
 * rings of ours, in memory that the guest does not see: what is in flight is then known
 * to the request, and the next back end gets exactly that.  Data are not copied.  The
 * price is a wake-up of the I/O thread for each batch of requests; the polling of
 * serve.c spares most of them under load.
 *
 * Our ring.  A request keeps its id: entry `id` of the descriptor table points to an
 * indirect table of its own, of which only we write.  For each connection there is new
 * memory, since the back end before it may hang rather than be dead, and write late.
 *
 * The back end may write anything to that memory at any time: of it we read the used
 * ring, once, and check what we read against what is in flight. */
#include <string.h>
#include <sys/mman.h>

#include "util/bits.h"
#include "util/fd.h"
#include "vhost_user_private.h"
#include "virtio/virtq_internal.h"

/* Where the back end is told that it lies: above what a guest's memory can reach. */
#define RELAY_GPA BIT64(45)

enum { TABLE_BYTES = VQ_MAX_SIZE * DESC_SIZE, USED_NO_NOTIFY = 1 };

/* virtio 1.2, 2.7.5, 2.7.6, 2.7.8 */
typedef struct RelayDesc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
} RelayDesc;

typedef struct RelayMemory {
    RelayDesc desc[VQ_MAX_SIZE];
    struct {
        uint16_t flags, idx, ring[VQ_MAX_SIZE], event;
    } avail;
    _Alignas(GM_PAGE_SIZE) struct {
        uint16_t flags, idx;
        struct {
            uint32_t id, len;
        } ring[VQ_MAX_SIZE];
        uint16_t event;
    } used;
    _Alignas(GM_PAGE_SIZE) RelayDesc table[VQ_MAX_SIZE][VQ_MAX_SIZE];
} RelayMemory;

/* Of one queue; the loop's. */
typedef struct RelayQueue {
    RelayMemory *m; /* in Relay.memory */
    int kick_fd;
    uint16_t avail_idx, used_idx;
    VqReq *req; /* by id */
    bool busy[VQ_MAX_SIZE];
    uint64_t order[VQ_MAX_SIZE]; /* by id: when it came */
    unsigned n_busy;
} RelayQueue;

struct Relay {
    VhostDev *d;
    int fd;              /* of the memory; -1: none, there is no connection */
    RelayMemory *memory; /* one for each queue */
    size_t size;
    uint64_t n_requests;
    RelayQueue queue[];
};

/* ---- making ----------------------------------------------------------------------- */

Relay *relay_new(VhostDev *d, GError **error)
{
    unsigned n = d->v.n_queues;
    Relay *r = g_malloc0(sizeof(*r) + n * sizeof(r->queue[0]));

    r->d = d;
    r->fd = -1;
    r->size = n * sizeof(RelayMemory);
    for (unsigned i = 0; i < n; i++)
        r->queue[i].kick_fd = -1;
    for (unsigned i = 0; i < n; i++) {
        r->queue[i].req = g_try_new0(VqReq, VQ_MAX_SIZE);
        r->queue[i].kick_fd = fd_event(error);
        if (r->queue[i].kick_fd < 0 || !r->queue[i].req) {
            if (r->queue[i].kick_fd >= 0)
                fail(error, VM_ERROR_IO, "out of memory for %u queues", n);
            relay_free(r);
            return NULL;
        }
    }
    return r;
}

static void drop_memory(Relay *r)
{
    if (r->memory)
        munmap(r->memory, r->size);
    fd_close(&r->fd);
    r->memory = NULL;
}

void relay_free(Relay *r)
{
    if (!r)
        return;
    drop_memory(r);
    for (unsigned i = 0; i < r->d->v.n_queues; i++) {
        fd_close(&r->queue[i].kick_fd);
        g_free(r->queue[i].req);
    }
    g_free(r);
}

static bool make_memory(Relay *r, GError **error)
{
    void *host;

    drop_memory(r);
    r->fd = fd_memory("vhost-rings", r->size, 0);
    if (r->fd < 0)
        return fail_errno(error, "memory for rings");
    host = mmap(NULL, r->size, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, 0);
    if (host == MAP_FAILED)
        return fail_errno(error, "map memory for rings");
    r->memory = host;
    return true;
}

/* ---- requests to the back end ----------------------------------------------------- */

static uint64_t gpa_of(const GuestMem *gm, const void *host)
{
    for (unsigned i = 0; i < gm->n_regions; i++) {
        const GuestRegion *region = &gm->region[i];

        if ((const uint8_t *)host >= region->host &&
            (const uint8_t *)host < region->host + region->size)
            return region->gpa + (uint64_t)((const uint8_t *)host - region->host);
    }
    return 0; /* not reached: vq_pop() hands out guest RAM */
}

static void write_table(const Relay *r, RelayQueue *q, unsigned id)
{
    const VqReq *req = &q->req[id];
    unsigned n = req->n_read + req->n_write;
    RelayDesc *table = q->m->table[id];
    uint64_t at = RELAY_GPA + (uint64_t)((uint8_t *)table - (uint8_t *)r->memory);

    for (unsigned i = 0; i < n; i++)
        table[i] = (RelayDesc){
            .addr = gpa_of(r->d->v.gm, req->iov[i].iov_base),
            .len = (uint32_t)req->iov[i].iov_len,
            .flags = (i + 1 < n ? DESC_NEXT : 0) | (i >= req->n_read ? DESC_WRITE : 0),
            .next = (uint16_t)(i + 1),
        };
    q->m->desc[id] = (RelayDesc){at, n * DESC_SIZE, DESC_INDIRECT, 0};
}

static void submit(const Relay *r, RelayQueue *q, unsigned id)
{
    write_table(r, q, id);
    q->m->avail.ring[q->avail_idx++ % VQ_MAX_SIZE] = (uint16_t)id;
}

/* Shows what was submitted, and tells the back end unless it looks by itself. */
static void publish(RelayQueue *q)
{
    __atomic_store_n(&q->m->avail.idx, q->avail_idx, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!(__atomic_load_n(&q->m->used.flags, __ATOMIC_RELAXED) & USED_NO_NOTIFY))
        fd_event_signal_shared(q->kick_fd);
}

/* A request without any piece cannot be passed on, as its table would be empty. */
static bool take(Relay *r, RelayQueue *q, Virtqueue *vq, const VqReq *req)
{
    unsigned n = req->n_read + req->n_write;

    if (!n) {
        vq_push(vq, req, 0);
        return false;
    }
    memcpy(&q->req[req->id], req, offsetof(VqReq, iov) + n * sizeof(req->iov[0]));
    q->order[req->id] = r->n_requests++;
    q->busy[req->id] = true;
    q->n_busy++;
    return true;
}

void relay_handle(VirtioDevice *v, Virtqueue *vq)
{
    Relay *r = ((VhostDev *)v)->relay;
    RelayQueue *q = &r->queue[vq->index];
    bool any = false;
    VqReq req;

    while (vq_pop(vq, &req))
        if (take(r, q, vq, &req) && r->memory) {
            submit(r, q, req.id);
            any = true;
        }
    if (any)
        publish(q);
    vq_notify(vq);
}

/* ---- and back --------------------------------------------------------------------- */

bool relay_reap(Relay *r, unsigned index, bool *ret_any, GError **error)
{
    RelayQueue *q = &r->queue[index];
    Virtqueue *vq = &r->d->v.queues[index].vq;
    uint16_t end;

    *ret_any = false;
    if (!r->memory)
        return true;
    end = __atomic_load_n(&q->m->used.idx, __ATOMIC_ACQUIRE);
    if (end == q->used_idx)
        return true;
    virtio_expect(&r->d->v);
    for (; q->used_idx != end; q->used_idx++) {
        uint32_t id = __atomic_load_n(&q->m->used.ring[q->used_idx % VQ_MAX_SIZE].id,
                                      __ATOMIC_RELAXED);
        uint32_t len = __atomic_load_n(&q->m->used.ring[q->used_idx % VQ_MAX_SIZE].len,
                                       __ATOMIC_RELAXED);

        if (id >= VQ_MAX_SIZE || !q->busy[id])
            return fail(error, VM_ERROR_CORRUPT,
                        "the back end answers a request that it was not given");
        q->busy[id] = false;
        q->n_busy--;
        vq_fill(vq, &q->req[id], len);
        *ret_any = true;
    }
    vq_flush(vq);
    vq_notify(vq);
    return true;
}

bool relay_is_idle(const Relay *r)
{
    for (unsigned i = 0; i < r->d->v.n_queues; i++)
        if (r->queue[i].n_busy)
            return false;
    return true;
}

void relay_forget(Relay *r)
{
    drop_memory(r);
    for (unsigned i = 0; i < r->d->v.n_queues; i++) {
        memset(r->queue[i].busy, 0, sizeof(r->queue[i].busy));
        r->queue[i].n_busy = 0;
    }
}

/* ---- a new connection ------------------------------------------------------------- */

static int by_order(const void *a, const void *b, void *opaque)
{
    const RelayQueue *q = opaque;
    uint64_t x = q->order[*(const uint16_t *)a], y = q->order[*(const uint16_t *)b];

    return x < y ? -1 : x > y;
}

/* In the order in which they came. */
static void submit_again(const Relay *r, RelayQueue *q)
{
    uint16_t ids[VQ_MAX_SIZE];
    unsigned n = 0;

    for (unsigned id = 0; id < VQ_MAX_SIZE; id++)
        if (q->busy[id])
            ids[n++] = (uint16_t)id;
    qsort_r(ids, n, sizeof(ids[0]), by_order, q);
    for (unsigned i = 0; i < n; i++)
        submit(r, q, ids[i]);
    __atomic_store_n(&q->m->avail.idx, q->avail_idx, __ATOMIC_RELEASE);
}

bool relay_start(Relay *r, VhostRing *rings, unsigned *ret_n, VhostRegion *ret_region,
                 GError **error)
{
    unsigned n = r->d->v.n_queues;

    if (!make_memory(r, error))
        return false;
    for (unsigned i = 0; i < n; i++) {
        RelayQueue *q = &r->queue[i];

        q->m = &r->memory[i];
        q->avail_idx = q->used_idx = 0;
        submit_again(r, q);
        rings[i] = (VhostRing){.index = i,
                               .size = VQ_MAX_SIZE,
                               .desc = q->m->desc,
                               .driver = &q->m->avail,
                               .device = &q->m->used,
                               .kick_fd = q->kick_fd,
                               .call_fd = r->d->queues[i].call_fd,
                               .err_fd = r->d->err_fd};
    }
    *ret_n = n;
    *ret_region = (VhostRegion){RELAY_GPA, r->size, r->memory, r->fd};
    return true;
}

void relay_nudge(Relay *r)
{
    for (unsigned i = 0; i < r->d->v.n_queues; i++)
        fd_event_signal_shared(r->queue[i].kick_fd);
}

void relay_stop(Relay *r)
{
    drop_memory(r);
}
