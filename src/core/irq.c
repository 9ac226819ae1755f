/* See core/irq.h. */
#include "core/irq.h"

#include "util/fd.h"

void irq_controller_init(IrqController *ic, const IrqOps *ops, void *opaque)
{
    *ic = (IrqController){.ops = ops, .opaque = opaque};
    lock_init(&ic->lock);
}

void irq_connect(IrqLine *line, IrqController *ic, unsigned gsi)
{
    *line = (IrqLine){.ic = gsi < IRQ_MAX_GSI ? ic : NULL, .gsi = gsi};
}

/* The call to the controller is made under the lock: two threads that change a shared pin
 * must reach it in the order in which they changed the count. */
void irq_set(IrqLine *line, bool level)
{
    IrqController *ic = line->ic;
    unsigned *asserted;

    if (!ic)
        return;
    LOCK_GUARD(&ic->lock);
    if (line->level == level)
        return;
    line->level = level;
    asserted = &ic->asserted[line->gsi];
    if (level ? (*asserted)++ == 0 : --*asserted == 0)
        ic->ops->set_gsi(ic->opaque, line->gsi, level);
}

static bool msi_alloc(Msi *msi, IrqController *ic)
{
    autofd fd = fd_event(NULL);
    int handle;

    if (fd < 0)
        return false;
    handle = ic->ops->msi_alloc(ic->opaque, NULL);
    if (handle < 0)
        return false;
    *msi = (Msi){.ic = ic, .handle = handle, .eventfd = fd_steal(&fd)};
    return true;
}

bool msi_route(Msi *msi, IrqController *ic, uint64_t addr, uint32_t data)
{
    bool fresh = !msi->ic;

    if (!fresh && msi->addr == addr && msi->data == data)
        return true;
    if (fresh && !msi_alloc(msi, ic))
        return false;
    if (!ic->ops->msi_route(ic->opaque, msi->handle, addr, data) ||
        (fresh && !ic->ops->msi_bind(ic->opaque, msi->handle, msi->eventfd, true))) {
        if (fresh)
            msi_finish(msi);
        return false;
    }
    msi->addr = addr;
    msi->data = data;
    return true;
}

void msi_fire(const Msi *msi)
{
    if (msi->ic)
        fd_event_signal(msi->eventfd);
}

bool msi_join(const Msi *msi, int fd, bool on)
{
    return msi->ic && msi->ic->ops->msi_bind(msi->ic->opaque, msi->handle, fd, on);
}

void msi_finish(Msi *msi)
{
    if (!msi->ic)
        return;
    msi->ic->ops->msi_bind(msi->ic->opaque, msi->handle, msi->eventfd, false);
    msi->ic->ops->msi_free(msi->ic->opaque, msi->handle);
    fd_close(&msi->eventfd);
    *msi = (Msi){0};
}
