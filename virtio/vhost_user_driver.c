/* What a driver, a pause and a person do to a virtio device that another process serves,
 * whether it is there or not; see vhost_user_private.h.  All on the device's loop but
 * vhost_dev_hurry(). */
#include "util/fd.h"
#include "vhost_user_private.h"

enum { ANSWER_MS = VHOST_ANSWER_MS };

static VhostDev *of(VirtioDevice *v)
{
    return (VhostDev *)v;
}

bool vhost_dev_activate(VirtioDevice *v, GError **error)
{
    VhostDev *d = of(v);

    d->running = true;
    if (d->link == LINK_LIED) { /* the driver's reset gives it another chance */
        d->link = LINK_DOWN;
        vhost_link_try_later(d);
    }
    vhost_rings_direct(d, true);
    vhost_link_start(d);
    return true;
}

void vhost_dev_quiesce(VirtioDevice *v)
{
    VhostDev *d = of(v);
    GError *why = NULL;

    d->running = false;
    if (!d->logs) /* it may be unplugged, and the next snapshot be a diff */
        gm_mark_dirty_host(v->gm, v->gm->base, v->gm->size);
    if (d->started && !vhost_rings_stop(d, &why))
        vhost_dev_lost(d, why);
    vhost_rings_direct(d, false);
    for (unsigned i = 0; i < d->n_rings; i++)
        vhost_rings_pass_on(&d->queues[i]);
    vhost_rings_note(d);
}

void vhost_dev_resume(VirtioDevice *v)
{
    VhostDev *d = of(v);

    d->running = true;
    vhost_rings_direct(d, true);
    vhost_link_start(d);
}

void vhost_dev_reset(VirtioDevice *v)
{
    VhostDev *d = of(v);
    GError *why = NULL;

    vhost_inflight_clear(&d->inflight);
    if (d->relay)
        relay_forget(d->relay);
    for (unsigned i = 0; i < v->n_queues; i++) {
        d->queues[i].base_known = false;
        fd_event_take(d->queues[i].call_fd);
    }
    vhost_dev_limit(d, ANSWER_MS);
    if (d->link == LINK_UP && !vhost_user_reset_device(&d->u, &why))
        vhost_dev_lost(d, why);
}

bool vhost_dev_poll(VirtioDevice *v)
{
    VhostDev *d = of(v);
    bool any = false;

    for (unsigned i = 0; d->relay && i < v->n_queues; i++)
        any |= vhost_rings_answers(&d->queues[i]);
    return any;
}

void vhost_dev_use(VhostDev *d, unsigned n_enabled)
{
    unsigned before = d->n_enabled, least = MIN(before, n_enabled);
    GError *why = NULL;

    d->n_enabled = n_enabled;
    if (!d->started)
        return;
    vhost_dev_limit(d, ANSWER_MS);
    if (!vhost_rings_enable(d, least, before, false, &why) ||
        !vhost_rings_enable(d, least, n_enabled, true, &why))
        vhost_dev_lost(d, why);
}

void vhost_dev_cut(VhostDev *d, bool cut)
{
    GError *why = NULL;

    d->cut = cut;
    if (cut && d->started && !vhost_rings_stop(d, &why))
        vhost_dev_lost(d, why);
    vhost_link_start(d);
}

void vhost_dev_hurry(VirtioDevice *v)
{
    __atomic_store_n(&of(v)->hurry, true, __ATOMIC_RELAXED);
}

void vhost_dev_send_config(VhostDev *d, uint32_t offset, const void *buf, uint32_t len)
{
    GError *why = NULL;

    if (d->link != LINK_UP)
        return;
    vhost_dev_limit(d, ANSWER_MS);
    if (!vhost_user_set_config(&d->u, offset, buf, len, &why))
        vhost_dev_lost(d, why);
}
