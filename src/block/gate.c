/* Changing a disk under a running guest.  The gate is closed: what is submitted from then
 * on is held back, and when nothing is active any more, whoever closed it may exchange
 * images, files and sizes.  Then it opens, and what was held goes on.
 *
 * The queue's thread is told by its event fd and answers with `gated`, so that neither
 * waits for the other's loop: a queue that is being drained opens as well. */
#include "block_private.h"
#include "util/fd.h"

static bool all_quiet(const BlockDev *dev)
{
    for (BlockQueue *q = dev->queues; q; q = q->next)
        if (!q->quiet)
            return false;
    return true;
}

void block_gate_close(BlockDev *dev)
{
    LOCK_GUARD(&dev->lock);

    while (dev->gate_owned)
        pthread_cond_wait(&dev->changed, &dev->lock.mutex);
    dev->gate_owned = true;
    __atomic_store_n(&dev->gate, true, __ATOMIC_RELEASE);
    for (BlockQueue *q = dev->queues; q; q = q->next)
        fd_event_signal(q->event_fd);
    while (!all_quiet(dev))
        pthread_cond_wait(&dev->changed, &dev->lock.mutex);
}

void block_gate_open(BlockDev *dev)
{
    LOCK_GUARD(&dev->lock);

    dev->gate_owned = false;
    for (BlockQueue *q = dev->queues; q; q = q->next)
        q->quiet = false;
    __atomic_store_n(&dev->size, image_size_now(dev->top), __ATOMIC_RELAXED);
    __atomic_store_n(&dev->gate, false, __ATOMIC_RELEASE);
    for (BlockQueue *q = dev->queues; q; q = q->next)
        fd_event_signal(q->event_fd);
    pthread_cond_broadcast(&dev->changed);
}

void block_gate_see(BlockQueue *q)
{
    BlockDev *dev = q->dev;
    bool closed = __atomic_load_n(&dev->gate, __ATOMIC_ACQUIRE);

    if (q->gated && !closed)
        block_map_forget_all(&q->map); /* all may have changed */
    q->gated = closed;
    if (!closed || q->active)
        return;
    lock_acquire(&dev->lock);
    if (dev->gate && !q->quiet) {
        q->quiet = true;
        pthread_cond_broadcast(&dev->changed);
    }
    lock_release(&dev->lock);
}

void block_gate_join(BlockQueue *q)
{
    BlockDev *dev = q->dev;

    lock_acquire(&dev->lock);
    q->next = dev->queues;
    q->gated = q->quiet = dev->gate;
    dev->queues = q;
    lock_release(&dev->lock);
}

void block_gate_leave(BlockQueue *q)
{
    BlockDev *dev = q->dev;

    lock_acquire(&dev->lock);
    for (BlockQueue **p = &dev->queues; *p; p = &(*p)->next)
        if (*p == q) {
            *p = q->next;
            break;
        }
    pthread_cond_broadcast(&dev->changed);
    lock_release(&dev->lock);
}
