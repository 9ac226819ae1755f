/* The front end's half of the vhost-user protocol (QEMU's docs/interop/vhost-user.rst):
 * another process, the back end, serves the virtqueues of a device in memory that it
 * shares with us.
 *
 * Here are messages, bounded and checked, and no state of a device.  Whoever owns a
 * VhostUser calls it on one thread.  Functions that wait do so until the limit last set
 * by vhost_user_limit(), and not longer: a back end may hang.  It may also lie: then they
 * fail with VM_ERROR_CORRUPT, where silence is VM_ERROR_BUSY and a hang-up VM_ERROR_IO.
 * After any failure the connection is of no use, and is to be closed. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "core/guestmem.h"
#include "util/error.h"

/* Protocol features that we know what to do with. */
enum {
    VHOST_USER_P_MQ = 0,
    VHOST_USER_P_LOG_SHMFD = 1,
    VHOST_USER_P_RARP = 2,
    VHOST_USER_P_REPLY_ACK = 3,
    VHOST_USER_P_NET_MTU = 4,
    VHOST_USER_P_CONFIG = 9,
    VHOST_USER_P_INFLIGHT = 12,
    VHOST_USER_P_RESET_DEVICE = 13,
};

/* A bit of VhostUser.features that drivers never see: it logs what it writes. */
#define VHOST_F_LOG_ALL 26

/* As virtio's VIRTIO_MAX_QUEUES, and the largest config space a message can carry. */
enum { VHOST_USER_MAX_RINGS = 130, VHOST_USER_MAX_CONFIG = 256 };

typedef struct VhostUser {
    int fd;              /* the socket, non-blocking; -1: not connected */
    uint64_t features;   /* virtio features that the back end has */
    uint64_t protocol;   /* protocol features in use, as bits */
    uint64_t max_queues; /* UINT64_MAX: it does not say */
    int64_t deadline_ns; /* CLOCK_MONOTONIC */
} VhostUser;

/* Memory of the back end's in which it notes what it is at, kept here so that the next
 * one can go on from it.  It is never looked into. */
typedef struct VhostInflight {
    int fd; /* -1: none */
    uint64_t size, offset;
    uint16_t n_queues, queue_size;
} VhostInflight;

/* Memory besides guest RAM. */
typedef struct VhostRegion {
    uint64_t gpa, size;
    void *host;
    int fd; /* which it is all of; -1: there is none */
} VhostRegion;

typedef struct VhostRing {
    unsigned index;
    uint16_t size;
    uint16_t base;                /* the next available entry to look at */
    void *desc, *driver, *device; /* in guest RAM */
    bool disabled;                /* nothing is to come of it, or go through it */
    uint64_t device_gpa;          /* of `device`, where writes are logged */
    int kick_fd, call_fd, err_fd; /* eventfds; stay the caller's */
} VhostRing;

/* What follows may take until `ms` from now, all together. */
void vhost_user_limit(VhostUser *u, unsigned ms);

/* Takes over a connected socket and asks what the back end can; does not wait.  When the
 * socket is readable, vhost_user_greet() hears the answer and agrees on the rest. */
bool vhost_user_knock(VhostUser *u, int fd, GError **error);
bool vhost_user_greet(VhostUser *u, GError **error);
bool vhost_user_wait(VhostUser *u, GError **error); /* until it is readable */
void vhost_user_close(VhostUser *u);                /* harmless if not connected */

static inline bool vhost_user_has(const VhostUser *u, unsigned protocol_feature)
{
    return u->protocol >> protocol_feature & 1;
}

/* It can tell what it writes. */
static inline bool vhost_user_logs(const VhostUser *u)
{
    return u->features >> VHOST_F_LOG_ALL & 1 &&
           vhost_user_has(u, VHOST_USER_P_LOG_SHMFD);
}

/* The device's config space, its first `len` bytes; writing is for writable fields. */
bool vhost_user_get_config(VhostUser *u, void *buf, uint32_t len, GError **error);
bool vhost_user_set_config(VhostUser *u, uint32_t offset, const void *buf, uint32_t len,
                           GError **error);

/* Asks for memory to note requests in, for rings of up to queue_size entries. */
bool vhost_user_get_inflight(VhostUser *u, uint16_t n_queues, uint16_t queue_size,
                             VhostInflight *ret, GError **error);
void vhost_inflight_clear(VhostInflight *inflight);

/* Starts the rings with the features that the driver accepted.  Guest RAM must be shared
 * (gm->fd); while its log is on (gm->remote_log), what the back end writes is logged
 * there. extra and inflight may have no fd. */
bool vhost_user_start(VhostUser *u, uint64_t features, const GuestMem *gm,
                      const VhostRegion *extra, const VhostRing *rings, unsigned n,
                      const VhostInflight *inflight, GError **error);

/* Stops one ring; the back end does not touch it after it has answered with the next
 * available entry it would have looked at. */
bool vhost_user_stop(VhostUser *u, unsigned index, uint16_t *ret_base, GError **error);

/* A ring that runs is used from now on, or left alone, where the back end knows how. */
bool vhost_user_enable(VhostUser *u, unsigned index, bool on, GError **error);

/* Of a network card, where the back end knows how: say to the network that `mac` is here;
 * packets are of up to `mtu` bytes. */
bool vhost_user_send_rarp(VhostUser *u, const uint8_t mac[6], GError **error);
bool vhost_user_set_mtu(VhostUser *u, uint16_t mtu, GError **error);

/* Where the back end knows how: forget what the driver did. */
bool vhost_user_reset_device(VhostUser *u, GError **error);

/* ---- back ends that are programs of ours ------------------------------------------- */

/* A program that is started for a device, and again when it has ended.  All on the
 * device's loop. */
typedef struct VhostHelperOps {
    const char *name;
    int (*start)(void *helper, GError **error); /* a connected socket, or -1 */
    void (*stop)(void *helper);                 /* harmless when it does not run */
    void (*serves)(void *helper);               /* it has answered; NULL: no matter */
    int64_t (*next_start)(const void *helper);  /* on CLOCK_MONOTONIC */
    const char *(*last_words)(void *helper);    /* "" if there are none */
    void (*free)(void *helper);                 /* ends it */
} VhostHelperOps;
