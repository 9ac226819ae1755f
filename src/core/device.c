/* See core/device.h. */
#include "core/device.h"

void device_init(Device *d, const DeviceOps *ops, const char *id)
{
    d->ops = ops;
    lock_init(&d->lock);
    g_strlcpy(d->id, id, sizeof(d->id));
}

void device_finish(Device *d)
{
    lock_finish(&d->lock);
}

void device_reset(Device *d)
{
    if (d->ops->reset)
        d->ops->reset(d);
}

void device_quiesce(Device *d)
{
    if (d->ops->quiesce)
        d->ops->quiesce(d);
}

void device_resume(Device *d)
{
    if (d->ops->resume)
        d->ops->resume(d);
}

void device_release(Device *d)
{
    if (d && d->ops->release)
        d->ops->release(d);
}

const char *device_pinned(const Device *d)
{
    return d->ops->pinned ? d->ops->pinned(d) : NULL;
}

void device_save(Device *d, StateWriter *w)
{
    if (d->ops->save)
        d->ops->save(d, w);
}

bool device_load(Device *d, StateReader *r, GError **error)
{
    return !d->ops->load || d->ops->load(d, r, error);
}
