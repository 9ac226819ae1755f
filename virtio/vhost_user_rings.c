/* The rings of a device that another process serves: what they are when they start, what
 * comes back from them, and how they are stopped; see vhost_user_private.h. */
#include <poll.h>

#include "util/bits.h"
#include "util/fd.h"
#include "vhost_user_private.h"
#include "virtio/virtq_internal.h"

enum { ANSWER_MS = VHOST_ANSWER_MS, DRAIN_MS = 500, TICK_US = 200 };

static uint16_t ring_index(const void *area)
{
    return __atomic_load_n((const uint16_t *)area + 1, __ATOMIC_ACQUIRE);
}

/* Of the rings that it gets. */
static uint64_t features_for(const VhostDev *d)
{
    return (d->v.features & d->agreed) | (d->relay ? VHOST_RELAY_FEATURES : 0);
}

static bool wants_inflight(const VhostDev *d)
{
    return d->inflight.fd < 0 && vhost_user_has(&d->u, VHOST_USER_P_INFLIGHT);
}

static unsigned describe_rings(const VhostDev *d, VhostRing *rings)
{
    unsigned n = 0;

    for (unsigned i = 0; i < d->n_rings; i++) {
        const Virtqueue *vq = &d->v.queues[i].vq;
        const VhostQueue *q = &d->queues[i];

        if (vq->desc)
            rings[n++] = (VhostRing){
                .index = i,
                .size = vq->cfg.size,
                .base = q->base_known ? q->base : ring_index(vq->device),
                .desc = vq->desc,
                .driver = vq->driver,
                .device = vq->device,
                .device_gpa = vq->cfg.device,
                .disabled = i >= d->n_enabled,
                .kick_fd = vq->kick_fd,
                .call_fd = q->call_fd,
                .err_fd = d->err_fd,
            };
    }
    return n;
}

static void interrupt(VhostQueue *q)
{
    counter_add(&q->d->v.queues[q->index].vq.count.interrupts, 1);
    virtio_interrupt(&q->d->v, (int)q->index);
}

/* Both sides look once without having been told: what was signalled to or by the back end
 * before this one is lost with it. */
static void nudge(VhostDev *d)
{
    if (d->relay) {
        relay_nudge(d->relay);
        return;
    }
    for (unsigned i = 0; i < d->n_rings; i++)
        if (d->v.queues[i].vq.desc) {
            fd_event_signal_shared(d->v.queues[i].vq.kick_fd);
            interrupt(&d->queues[i]);
        }
}

bool vhost_rings_start(VhostDev *d, GError **error)
{
    VirtioDevice *v = &d->v;
    VhostRing rings[VIRTIO_MAX_QUEUES];
    VhostRegion extra = {.fd = -1};
    unsigned n;

    if (!d->relay)
        n = describe_rings(d, rings);
    else if (!relay_start(d->relay, rings, &n, &extra, error))
        return false;
    if (wants_inflight(d) &&
        !vhost_user_get_inflight(&d->u, (uint16_t)v->n_queues, v->ops->queue_size,
                                 &d->inflight, error))
        return false;
    if (!vhost_user_start(&d->u, features_for(d), v->gm, &extra, rings, n, &d->inflight,
                          error))
        return false;
    d->started = true;
    nudge(d);
    return true;
}

bool vhost_rings_enable(VhostDev *d, unsigned from, unsigned to, bool on, GError **error)
{
    for (unsigned i = from; i < to; i++)
        if (d->v.queues[i].vq.desc && !vhost_user_enable(&d->u, i, on, error))
            return false;
    return true;
}

void vhost_rings_reap_last(VhostDev *d)
{
    bool any;

    for (unsigned i = 0; d->relay && i < d->n_rings; i++)
        relay_reap(d->relay, i, &any, NULL);
}

bool vhost_rings_answers(VhostQueue *q)
{
    VhostDev *d = q->d;
    GError *why = NULL;
    bool any;

    if (!relay_reap(d->relay, q->index, &any, &why))
        vhost_dev_lost(d, why);
    return any;
}

/* The back end has used buffers. */
void vhost_rings_pass_on(VhostQueue *q)
{
    Virtqueue *vq = &q->d->v.queues[q->index].vq;

    if (!fd_event_take(q->call_fd) || !vq->desc)
        return;
    if (q->d->relay) {
        vhost_rings_answers(q);
        return;
    }
    interrupt(q);
}

static bool rings_are_empty(const VhostDev *d)
{
    if (d->relay)
        return relay_is_idle(d->relay);
    for (unsigned i = 0; i < d->n_rings; i++) {
        const Virtqueue *vq = &d->v.queues[i].vq;

        if (vq->desc && ring_index(vq->device) != ring_index(vq->driver))
            return false;
    }
    return true;
}

/* A back end that is stopped with requests in flight may forget or repeat them. */
static void drain(VhostDev *d)
{
    struct pollfd gone = {.fd = d->u.fd, .events = POLLIN};

    vhost_dev_limit(d, DRAIN_MS);
    while (!rings_are_empty(d) && clock_ns() < d->u.deadline_ns &&
           poll(&gone, 1, 0) == 0) {
        for (unsigned i = 0; i < d->n_rings; i++)
            vhost_rings_pass_on(&d->queues[i]);
        g_usleep(TICK_US);
    }
}

bool vhost_rings_stop(VhostDev *d, GError **error)
{
    if (!d->lossy)
        drain(d);
    vhost_dev_limit(d, ANSWER_MS);
    for (unsigned i = 0; i < d->n_rings; i++) {
        VhostQueue *q = &d->queues[i];

        if (!d->relay && !d->v.queues[i].vq.desc)
            continue;
        if (!vhost_user_stop(&d->u, i, &q->base, error))
            return false;
        q->base_known = !d->lossy;
    }
    vhost_rings_reap_last(d);
    if (d->relay)
        relay_stop(d->relay);
    d->started = false;
    return true;
}

void vhost_rings_note(VhostDev *d)
{
    for (unsigned i = 0; !d->relay && i < d->n_rings; i++) {
        Virtqueue *vq = &d->v.queues[i].vq;

        if (vq->desc)
            vq->avail_idx = vq->used_idx = ring_index(vq->device);
    }
}

void vhost_rings_direct(VhostDev *d, bool on)
{
    for (unsigned i = 0; !d->relay && i < d->n_rings; i++)
        virtio_direct(&d->v, i, on ? d->queues[i].call_fd : -1);
}
