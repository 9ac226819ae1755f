/* Serving queues: what a virtio device does on its I/O thread between DRIVER_OK and reset
 * (virtio 1.2, 3.1.1, 2.7.13 for the device's side).
 *
 * A queue is served when its kick_fd is signalled, by the guest through the kernel, by a
 * transport's register, or by us when there is more to do than one turn of the loop may
 * take.  An idle device has nothing but an entry in the epoll set.
 *
 * Polling.  A device with its own I/O thread goes on looking at its rings for a moment
 * before it sleeps, with kicks turned off: that spares a busy guest the exits and us the
 * wake-ups.  The window grows while kicks come soon after we fell asleep and closes when
 * one comes late, so that an idle guest, or a slow one, costs nothing.  A device that is
 * about to answer requests opens it, because the driver may well send more at once. */
#include "util/fd.h"
#include "virtio/virtq_internal.h"

enum {
    SERVE_BUDGET = 4 * VQ_MAX_SIZE, /* requests per call of handle() */
    POLL_MIN_NS = 4000,
    POLL_MAX_NS = 50000,
};

/* True if a request was taken. */
static bool handle(VqSlot *s)
{
    Virtqueue *vq = &s->vq;
    VirtioDevice *v = vq->vdev;
    uint64_t before = counter_read(&vq->count.requests);

    vq->budget = SERVE_BUDGET;
    v->ops->handle(v, vq);
    if (!vq->budget)
        fd_event_signal(vq->kick_fd); /* let the loop's others have their turn first */
    vq->budget = VQ_NO_BUDGET;
    s->stalled = counter_read(&vq->count.requests) == before;
    return !s->stalled;
}

/* Kicks are off while we look, and on again when we leave, unless the poller goes on.
 * What came in between is looked at once with kicks on; what the device leaves then, it
 * leaves on purpose. */
static void serve(VqSlot *s)
{
    vq_disable_kicks(&s->vq);
    handle(s);
    if (!s->vq.vdev->polling.on && vq_enable_kicks(&s->vq))
        handle(s);
}

/* ---- polling ---------------------------------------------------------------------- */

/* A kick woke us.  Had we looked a little longer, we would not have slept: do so. */
static void adapt_window(VirtioPolling *p)
{
    int64_t slept = clock_ns() - p->last_work_ns;

    if (p->on || slept <= p->window_ns)
        return;
    if (slept > POLL_MAX_NS)
        p->window_ns = 0;
    else
        p->window_ns = CLAMP(p->window_ns * 2, POLL_MIN_NS, POLL_MAX_NS);
}

static void open_window(VirtioDevice *v)
{
    v->polling.on = true;
    for (unsigned i = 0; i < v->n_queues; i++)
        vq_disable_kicks(&v->queues[i].vq);
}

void virtio_expect(VirtioDevice *v)
{
    VirtioPolling *p = &v->polling;

    if (!p->on && p->window_ns && v->live && !v->quiesced)
        open_window(v);
}

/* True if something came just before kicks were on. */
static bool close_window(VirtioDevice *v)
{
    bool work = false;

    v->polling.on = false;
    for (unsigned i = 0; i < v->n_queues; i++)
        if (vq_enable_kicks(&v->queues[i].vq))
            work |= handle(&v->queues[i]);
    return work;
}

/* A queue that the device left alone (a network card's empty receive buffers) is not
 * offered to it again before it was seen empty or was kicked. */
static void look(VirtioDevice *v)
{
    for (unsigned i = 0; i < v->n_queues; i++) {
        VqSlot *s = &v->queues[i];

        if (!vq_has_work(&s->vq))
            s->stalled = false;
        else if (!s->stalled)
            handle(s);
    }
    if (v->ops->poll)
        v->ops->poll(v);
}

static bool on_poll(void *opaque)
{
    VirtioDevice *v = opaque;
    VirtioPolling *p = &v->polling;
    int64_t now = clock_ns();

    if (virtio_is_broken(v))
        return false;
    if (p->seen != v->activity) {
        p->seen = v->activity;
        p->last_work_ns = now;
    }
    if (now - p->last_work_ns >= p->window_ns)
        return p->on && close_window(v);
    if (!p->on)
        open_window(v);
    look(v);
    return true;
}

/* ---- life-cycle ------------------------------------------------------------------- */

static void on_kick(void *opaque, uint32_t events)
{
    VqSlot *s = opaque;
    VirtioDevice *v = s->vq.vdev;

    fd_event_take(s->vq.kick_fd);
    counter_add(&s->vq.count.kicks, 1);
    if (virtio_is_broken(v)) {
        ioloop_unwatch(&s->watch); /* or the guest could keep us busy for nothing */
        return;
    }
    if (v->ops->own_thread)
        adapt_window(&v->polling);
    serve(s);
}

/* Of rings that are elsewhere, only the kernel and that process know when there is work.
 */
static bool polls(const VirtioDevice *v)
{
    return v->ops->own_thread && !v->rings_elsewhere;
}

/* Queues may hold requests from before: each is looked at once without being kicked. */
static void listen(VirtioDevice *v)
{
    g_autoptr(GError) error = NULL;

    for (unsigned i = v->rings_elsewhere; i < v->n_queues; i++) {
        VqSlot *s = &v->queues[i];

        s->stalled = false;
        if (!s->vq.active)
            continue;
        if (!ioloop_watch(v->loop, &s->watch, s->vq.kick_fd, EPOLLIN, on_kick, s,
                          &error)) {
            virtio_broken(v, "queue %u: %s", i, error->message);
            return;
        }
        fd_event_signal(s->vq.kick_fd);
    }
    v->polling = (VirtioPolling){.poller = {.fn = on_poll, .opaque = v}};
    if (polls(v))
        ioloop_poller_add(v->loop, &v->polling.poller);
}

/* The device's own doings may still end, and return requests. */
static void unlisten(VirtioDevice *v)
{
    for (unsigned i = v->rings_elsewhere; i < v->n_queues; i++)
        ioloop_unwatch(&v->queues[i].watch);
    if (polls(v))
        ioloop_poller_remove(v->loop, &v->polling.poller);
    if (v->polling.on)
        close_window(v);
}

static bool activate_queues(VirtioDevice *v)
{
    for (unsigned i = 0; i < v->n_queues; i++) {
        VqSlot *s = &v->queues[i];

        s->vq.cfg = s->reg;
        if (s->reg.enabled &&
            !vq_activate(&s->vq, virtio_has_feature(v, VIRTIO_F_RING_PACKED),
                         virtio_has_feature(v, VIRTIO_F_EVENT_IDX),
                         virtio_has_feature(v, VIRTIO_F_INDIRECT_DESC)))
            return false;
    }
    return true;
}

void virtio_serve_start(VirtioDevice *v)
{
    g_autoptr(GError) error = NULL;

    v->live = true;
    if (!activate_queues(v))
        return;
    if (v->ops->activate && !v->ops->activate(v, &error))
        virtio_broken(v, "%s", error->message);
    else
        listen(v);
}

void virtio_serve_pause(VirtioDevice *v)
{
    unlisten(v);
    if (v->ops->quiesce)
        v->ops->quiesce(v);
    for (unsigned i = 0; i < v->n_queues; i++) {
        vq_notify(&v->queues[i].vq);
        v->queues[i].vq.active = false;
    }
}

void virtio_serve_resume(VirtioDevice *v)
{
    for (unsigned i = 0; i < v->n_queues; i++)
        v->queues[i].vq.active = v->queues[i].vq.desc != NULL;
    if (v->ops->resume)
        v->ops->resume(v);
    v->restored = false;
    listen(v);
}

void virtio_serve_stop(VirtioDevice *v)
{
    if (v->live && !v->quiesced)
        virtio_serve_pause(v);
    if (v->live && v->ops->reset)
        v->ops->reset(v);
    for (unsigned i = 0; i < v->n_queues; i++) {
        vq_deactivate(&v->queues[i].vq);
        fd_event_take(v->queues[i].vq.kick_fd);
    }
    v->live = v->restored = false;
}
