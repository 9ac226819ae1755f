/* Private to virtio/virtq*.c, virtio.c, serve.c and vhost_user_*.c: what the two layouts
 * of a ring share, and the device's two sides, its registers and its I/O thread. */
#pragma once

#include "util/bits.h"
#include "util/counter.h"
#include "virtio/virtio.h"

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 }; /* virtio 1.2, 2.7.5, 2.8.1 */
enum { DESC_SIZE = 16, VQ_NO_BUDGET = UINT32_MAX };

/* How a layout does what virtq.h promises.  pop and unpop touch only positions: the
 * accounting of requests in flight is common. */
typedef struct VqLayout {
    bool (*pop)(Virtqueue *vq, VqReq *req);
    void (*unpop)(Virtqueue *vq, const VqReq *req);
    void (*fill)(Virtqueue *vq, const VqReq *req, uint32_t written);
    void (*flush)(Virtqueue *vq);
    bool (*wants_interrupt)(Virtqueue *vq, unsigned entries); /* after a full fence */
    bool (*has_work)(const Virtqueue *vq);
    void (*show_kicks)(Virtqueue *vq, bool on); /* as the driver is to see it */
    /* Bytes of the three areas, and their alignment. */
    uint64_t (*area)(const Virtqueue *vq, unsigned area, unsigned *align);
} VqLayout;

extern const VqLayout vq_split, vq_packed;

static inline const VqLayout *vq_layout(const Virtqueue *vq)
{
    return vq->packed ? &vq_packed : &vq_split;
}

/* The guest broke a rule: the device is broken.  Always false. */
bool vq_break(Virtqueue *vq, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/* We wrote to a ring. */
static inline void vq_wrote(Virtqueue *vq, const void *at, uint64_t len)
{
    GuestMem *gm = vq->vdev->gm;

    if (__atomic_load_n(&gm->dirty_log, __ATOMIC_RELAXED))
        gm_mark_dirty_host(gm, at, len);
}

/* Copies a descriptor out of guest RAM, once: the compiler must not look at the original
 * again after it was checked. */
static inline void desc_copy(void *to, const void *from)
{
    memcpy(to, from, DESC_SIZE);
    __asm__ volatile("" ::: "memory");
}

/* A chain on its way into a request; every descriptor of it is counted, so that neither
 * loops nor endless tables cost more than `limit` steps. */
typedef struct VqChain {
    Virtqueue *vq;
    VqReq *req;
    uint64_t bytes;
    unsigned length;
} VqChain;

VqChain chain_begin(Virtqueue *vq, VqReq *req);
bool chain_add(VqChain *c, uint64_t addr, uint32_t len, bool write);
/* The table that an indirect descriptor points to, in RAM, and its number of entries. */
const uint8_t *chain_table(VqChain *c, uint64_t addr, uint32_t len, unsigned *ret_n);
/* Marks the id as in flight: false if it is out of range or in flight already. */
bool chain_claim(VqChain *c, uint16_t id);

/* ---- saved state: virtq.c, any thread while the queue is not served ------------------
 */

/* Where a queue stands in its ring; with its registers and the accepted features, all
 * there is to know of it while nothing is in flight. */
typedef struct VqPosition {
    uint16_t avail_idx, used_idx; /* split: free-running; packed: positions */
    bool avail_wrap, used_wrap;   /* packed; false in split rings */
} VqPosition;

VqPosition vq_position(const Virtqueue *vq);

/* Whether there can be such a position in a queue of `size`; *ret_in_flight: the ring
 * entries between what was taken and what was returned. */
bool vq_position_valid(const VqPosition *at, uint16_t size, bool packed,
                       unsigned *ret_in_flight);

/* Like vq_activate(), from a position of before and without touching the rings: the queue
 * is as it is in a pause. */
bool vq_adopt(Virtqueue *vq, bool packed, bool event_idx, bool indirect,
              const VqPosition *at);

/* A request that was popped and not yet pushed.  Its pieces are named, because a packed
 * ring may have lost the descriptors of it since. */
typedef struct VqPiece {
    uint64_t gpa;
    uint32_t len;
    uint8_t pad[4];
} VqPiece;

typedef struct VqClaim {
    uint16_t id, n_desc;
    uint16_t n_read, n_pieces; /* the readable ones, and all */
    const VqPiece *piece;
} VqClaim;

/* After vq_adopt(): the request is in flight again.  False: the device is broken, because
 * a driver could not have offered it. */
bool vq_claim(Virtqueue *vq, const VqClaim *claim, VqReq *ret);

/* ---- virtio.c --------------------------------------------------------------------- */

void virtio_interrupt(VirtioDevice *v, int queue);
void virtio_direct(VirtioDevice *v, unsigned queue, int fd); /* VirtioBinding's */

/* ---- serve.c: the device's I/O thread, or any while its loop does not run -----------
 */

/* From DRIVER_OK to reset; the middle two hold the device still in between. */
void virtio_serve_start(VirtioDevice *v);
void virtio_serve_pause(VirtioDevice *v);
void virtio_serve_resume(VirtioDevice *v);
void virtio_serve_stop(VirtioDevice *v);
