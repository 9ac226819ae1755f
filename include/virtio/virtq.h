/* Virtqueues, split (virtio 1.2, 2.7) and packed (2.8), behind one contract.
 *
 * All checking of descriptors happens here: what vq_pop() hands out lies in guest RAM,
 * device-readable parts first, at most VQ_MAX_SIZE pieces, no loops.  A guest that breaks
 * a rule breaks its device (virtio_broken()), and vq_pop() then returns false for ever.
 *
 * A Virtqueue belongs to the transport until DRIVER_OK, then to its I/O thread, until
 * quiesce or reset gives it back.  Geometry is copied at DRIVER_OK and never read from a
 * register again. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "core/guestmem.h"

typedef struct VirtioDevice VirtioDevice;
typedef struct Virtqueue Virtqueue;

enum { VQ_MAX_SIZE = 256 };

/* What the driver wrote before DRIVER_OK; the transport's registers. */
typedef struct VqConfig {
    uint16_t size; /* a power of two for split rings, at most max_size */
    bool enabled;
    uint64_t desc, driver, device; /* guest-physical addresses of the three areas */
} VqConfig;

/* One request.  iov holds n_read device-readable pieces, then n_write device-writable
 * ones, pointing into guest RAM (hostile: copy before checking). */
typedef struct VqReq {
    uint16_t id;     /* split: head index; packed: buffer id */
    uint16_t n_desc; /* ring entries it takes */
    uint16_t n_read, n_write;
    uint32_t read_bytes; /* in the readable pieces together */
    struct iovec iov[VQ_MAX_SIZE];
} VqReq;

static inline const struct iovec *vq_readable(const VqReq *req)
{
    return req->iov;
}

static inline const struct iovec *vq_writable(const VqReq *req)
{
    return req->iov + req->n_read;
}

/* Counters (util/counter.h) of the queue's owner, since the device was made. */
typedef struct VqCounters {
    uint64_t requests;                  /* popped, and not given back */
    uint64_t bytes_read, bytes_written; /* from the driver, and to it, by those pushed */
    uint64_t kicks;                     /* notifications by the driver that woke us */
    uint64_t interrupts, suppressed; /* those sent, and those the driver did not want */
} VqCounters;

struct Virtqueue {
    VirtioDevice *vdev;
    unsigned index;
    VqConfig cfg; /* frozen copy */
    bool active;  /* between activation and quiesce or reset */
    bool packed, event_idx, indirect;
    int kick_fd; /* signalled by the guest's notification */

    /* Host addresses of the three areas, checked at activation. */
    void *desc, *driver, *device;

    /* Split: free-running indices.  Packed: position and wrap counter. */
    uint16_t avail_idx, used_idx;    /* next to pop, next to push */
    bool avail_wrap, used_wrap;      /* packed */
    uint16_t avail_seen;             /* split: the driver's index as last read */
    bool kicks_off;                  /* we asked the driver not to notify */
    uint16_t kick_at;                /* event_idx: where we last asked to be notified */
    unsigned in_flight;              /* popped, not yet pushed */
    unsigned held;                   /* the ring entries they take */
    uint64_t busy[VQ_MAX_SIZE / 64]; /* their ids, as bits */
    unsigned filled;                 /* ring entries filled, not yet flushed */
    uint16_t first_flags;            /* packed: of the first of these */
    unsigned unnotified;             /* ring entries flushed since the last vq_notify() */
    unsigned budget;                 /* pops left until handle() has to let others run */
    VqCounters count;                /* last: activation leaves it alone */
};

/* The queue's owner.  True: *req is a request, to be pushed exactly once (or unpopped);
 * its id is below VQ_MAX_SIZE and no other request in flight has it.  False: nothing now,
 * because the queue is empty, not active, or broken, or because this call of handle() has
 * had its share.  Unless vq_disable_kicks() was called, handle() will then be called when
 * there is more. */
bool vq_pop(Virtqueue *vq, VqReq *req);

/* Gives the most recently popped request back to the ring, as if never popped; may be
 * repeated, newest first, for those not yet filled. */
void vq_unpop(Virtqueue *vq, const VqReq *req);

/* Returns a request with `written` bytes filled in from the start of its writable part.
 * vq_push is vq_fill and vq_flush of one; several fills become visible to the driver
 * together at vq_flush.
 *
 * Requests that are not in flight are ignored: a completion that comes after a reset is
 * harmless.  A request of a broken device is dropped: the driver learns by the reset. */
void vq_push(Virtqueue *vq, const VqReq *req, uint32_t written);
void vq_fill(Virtqueue *vq, const VqReq *req, uint32_t written);
void vq_flush(Virtqueue *vq);

/* Interrupts the driver if it wants to know of what was pushed since the last call. */
void vq_notify(Virtqueue *vq);

/* Asks the driver to notify us again (true: something is already there, so look again) or
 * not to. vq_has_work() looks without consuming. */
bool vq_enable_kicks(Virtqueue *vq);
void vq_disable_kicks(Virtqueue *vq);
bool vq_has_work(const Virtqueue *vq);

/* Takes over the rings described by vq->cfg.  If they are not wholly in RAM, not aligned
 * as 2.7 and 2.8 say, or of a size that is not allowed, breaks the device and returns
 * false. vq_deactivate forgets the rings and what was in flight. */
bool vq_activate(Virtqueue *vq, bool packed, bool event_idx, bool indirect);
void vq_deactivate(Virtqueue *vq);
