/* Private to vhost_user_dev.c and the devices made with it: a virtio device whose queues
 * another process serves, the back end (backend/vhost_user.h).
 *
 * A kind of device is a VirtioOps whose functions are those below, a realize of its own,
 * which fills in what the kind decides and calls vhost_dev_realize(), and a release. */
#pragma once

#include "backend/vhost_user.h"
#include "util/unixsocket.h"
#include "virtio/virtio.h"

typedef struct VhostDev VhostDev;
typedef struct Relay Relay;

typedef enum {
    LINK_DOWN,     /* not connected; the timer tries again */
    LINK_KNOCKING, /* connected, and waiting for the first answer */
    LINK_UP,       /* agreed on everything */
    LINK_LIED, /* closed for good, or until the driver's reset: the device is broken */
} VhostLink;

typedef struct VhostQueue {
    VhostDev *d;
    unsigned index;
    int call_fd; /* the back end's signal that it used buffers */
    IoWatch watch;
    uint16_t base; /* where a ring that was stopped goes on */
    bool base_known;
} VhostQueue;

/* Owned by its loop but for what is said otherwise. */
struct VhostDev {
    VirtioDevice v;

    /* The kind's, before vhost_dev_realize(). */
    char *socket; /* path of the back end's; NULL: helper starts it */
    bool listens; /* the back end connects to that path, and not we */
    void *helper; /* owned; NULL: somebody else's back end */
    const VhostHelperOps *helper_ops;
    uint64_t features; /* of the kind, which may be offered if the back end has them */
    bool in_order; /* back ends of the kind answer requests in their order, so that the
                      used index tells what one had in flight */
    bool lossy; /* of what is in flight, something may be lost, or done twice: frames */
    uint32_t config_len; /* bytes of the config space that the back end has; 0: none */
    /* What the back end has is known: decides on v->n_queues, and on n_rings if it is to
     * have only the first of them.  May offer features of our own besides. */
    bool (*agree)(VhostDev *d, GError **error);
    /* Optional, on the loop: the next back end has this config space.  A failure with
     * VM_ERROR_CORRUPT breaks the device. */
    bool (*came_back)(VhostDev *d, const uint8_t *config, GError **error);
    void (*link_changed)(VhostDev *d, bool up); /* optional, on the loop */

    /* On the loop. */
    uint64_t agreed;    /* features that it has, and may be used; does not change */
    unsigned n_rings;   /* the back end's: the first of the device's queues */
    unsigned n_enabled; /* of these, that are used: all of them unless it is said */
    bool cut;           /* the back end is not to serve them, though it is there */

    /* Written once, by vhost_dev_realize(); a kind looks at it as its structure. */
    _Alignas(uint64_t) uint8_t config[VHOST_USER_MAX_CONFIG];

    VhostUser u;
    VhostLink link;
    IoWatch watch; /* of u.fd */
    UnixListener listener;
    IoWatch accept_watch;
    IoTimer timer;
    int64_t retry_ns; /* how long to wait before the next try */
    LogLimit log_limit;
    bool told; /* of the last loss */
    VhostQueue *queues;
    int err_fd;
    IoWatch err_watch;
    VhostInflight inflight;
    Relay *relay; /* NULL: the back end has the driver's own rings */
    bool logs;    /* the back end can tell what it writes; does not change */
    bool running; /* the driver wants its queues served */
    bool started; /* and the back end was told so */
    bool hurry;   /* atomic: the VM ends */
};

/* Main thread.  init comes first in a kind's realize; release frees what the kind has
 * set, too, and is for VirtioOps. */
void vhost_dev_init(VirtioDevice *v);
bool vhost_dev_realize(VhostDev *d, GError **error);
void vhost_dev_release(VirtioDevice *v);

/* For VirtioOps. */
bool vhost_dev_activate(VirtioDevice *v, GError **error);
void vhost_dev_quiesce(VirtioDevice *v);
void vhost_dev_resume(VirtioDevice *v);
void vhost_dev_reset(VirtioDevice *v);
void vhost_dev_hurry(VirtioDevice *v);
bool vhost_dev_poll(VirtioDevice *v);

/* The loop: a writable part of the config space changed.  Tells the back end, now or when
 * it is back, by came_back. */
void vhost_dev_send_config(VhostDev *d, uint32_t offset, const void *buf, uint32_t len);

/* The loop.  Others of the rings are used from now on; the cable is cut, or is whole. */
void vhost_dev_use(VhostDev *d, unsigned n_enabled);
void vhost_dev_cut(VhostDev *d, bool cut);

/* Kinds that have more to do on reset and release call ours. */
#define VHOST_DEV_OPS                                                                    \
    .remote = true, .own_thread = true, .activate = vhost_dev_activate,                  \
    .handle = relay_handle, .poll = vhost_dev_poll, .quiesce = vhost_dev_quiesce,        \
    .resume = vhost_dev_resume, .hurry = vhost_dev_hurry

/* The loop.  The back end is gone, or is to go, which `why` says (taken over): the device
 * is broken if it was a lie, else another connection is tried later. */
void vhost_dev_lost(VhostDev *d, GError *why);
void vhost_dev_limit(VhostDev *d,
                     unsigned ms); /* of what is asked next; less at the end */

/* ---- vhost_user_dev.c: the loop ------------------------------------------------------
 */

enum { VHOST_ANSWER_MS = 1000 }; /* for a back end that is there */

/* If the driver and the back end are both there, and nothing is against it. */
void vhost_link_start(VhostDev *d);
void vhost_link_try_later(VhostDev *d);

/* ---- vhost_user_rings.c: the loop ---------------------------------------------------
 */

/* Of rings that the back end has: what our checks of rings and the base's arithmetic
 * know.  Packed rings are not among them. */
#define VHOST_RING_FEATURES                                                              \
    (BIT64(VIRTIO_F_VERSION_1) | BIT64(VIRTIO_F_INDIRECT_DESC) |                         \
     BIT64(VIRTIO_F_EVENT_IDX))

/* What a back end must have to get rings of ours. */
#define VHOST_RELAY_FEATURES (BIT64(VIRTIO_F_VERSION_1) | BIT64(VIRTIO_F_INDIRECT_DESC))

/* Within the limit that is set; and within limits of its own, with what is in flight
 * done, if the back end does it. */
bool vhost_rings_start(VhostDev *d, GError **error);
bool vhost_rings_stop(VhostDev *d, GError **error);

/* In activate, resume and quiesce only: whether interrupts of the driver's own rings may
 * pass us by.  The eventfds are the same for all back ends. */
void vhost_rings_direct(VhostDev *d, bool on);

void vhost_rings_note(VhostDev *d); /* stopped: where they stand, for who saves them */

bool vhost_rings_enable(VhostDev *d, unsigned from, unsigned to, bool on, GError **error);
void vhost_rings_pass_on(VhostQueue *q); /* if the back end has signalled it */
bool vhost_rings_answers(VhostQueue *q); /* relayed ones; true if there were some */
void vhost_rings_reap_last(VhostDev *d); /* of one that goes: lies no longer matter */

/* ---- vhost_user_relay.c: the loop, but for making and freeing -----------------------
 */

Relay *relay_new(VhostDev *d, GError **error); /* v->n_queues is known */
void relay_free(Relay *r);                     /* NULL is fine */

/* Requests of the driver on their way to the back end, if there is one: VirtioOps'. */
void relay_handle(VirtioDevice *v, Virtqueue *vq);

/* Returns what the back end has answered on a queue to the driver; fails when that cannot
 * be.  Harmless when there is no back end. */
bool relay_reap(Relay *r, unsigned queue, bool *ret_any, GError **error);
bool relay_is_idle(const Relay *r); /* nothing is in flight */

/* New rings for a new back end, with what is in flight in them, and after it was told of
 * them a kick for each. */
bool relay_start(Relay *r, VhostRing *rings, unsigned *ret_n, VhostRegion *ret_region,
                 GError **error);
void relay_nudge(Relay *r);
void relay_stop(Relay *r);   /* the back end is gone, what is in flight stays so */
void relay_forget(Relay *r); /* the driver is: nothing is in flight */
