/* Private to vhost_user_dev.c and the devices made with it: a virtio device whose queues
 * another process serves, the back end (backend/vhost_user.h).
 *
 * A kind of device is a VirtioOps whose functions are those below, a realize of its own,
 * which fills in what the kind decides and calls vhost_dev_realize(), and a release. */
#pragma once

#include "backend/vhost_user.h"
#include "backend/virtiofsd.h"
#include "virtio/virtio.h"

typedef struct VhostDev VhostDev;

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
    char *socket;        /* path of the back end's; NULL: helper starts it */
    Virtiofsd *helper;   /* owned; NULL: somebody else's back end */
    uint64_t features;   /* of the kind, which may be offered if the back end has them */
    uint32_t config_len; /* bytes of the config space that the back end has; 0: none */
    /* What the back end has is known: decides on v->n_queues. */
    bool (*agree)(VhostDev *d, GError **error);
    /* Optional, on the loop: the next back end has this config space.  A failure with
     * VM_ERROR_CORRUPT breaks the device. */
    bool (*came_back)(VhostDev *d, const uint8_t *config, GError **error);

    uint8_t config[VHOST_USER_MAX_CONFIG]; /* written once, by vhost_dev_realize() */

    VhostUser u;
    VhostLink link;
    IoWatch watch; /* of u.fd */
    IoTimer timer;
    int64_t retry_ns; /* how long to wait before the next try */
    LogLimit log_limit;
    VhostQueue *queues;
    int err_fd;
    IoWatch err_watch;
    VhostInflight inflight;
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

/* The loop: a writable part of the config space changed.  Tells the back end, now or when
 * it is back, by came_back. */
void vhost_dev_send_config(VhostDev *d, uint32_t offset, const void *buf, uint32_t len);

/* Kinds that have more to do on reset and release call ours. */
#define VHOST_DEV_OPS                                                                    \
    .remote = true, .own_thread = true, .activate = vhost_dev_activate,                  \
    .quiesce = vhost_dev_quiesce, .resume = vhost_dev_resume, .hurry = vhost_dev_hurry
