/* Frames through a descriptor of the kernel's tap: what tap, bridge and macvtap have in
 * common, once each has its interface (tap_io.c). */
#pragma once

#include <limits.h>
#include <net/if.h>

#include "src/net/netdev_private.h"
#include "util/log.h"

typedef struct Tap {
    NetDev nd;
    int fd;
    char ifname[IFNAMSIZ];
    IoWatch watch;
    LogLimit warned;
    bool want_write; /* a send returned false */
    unsigned number; /* of the queue; the first is the one that all else is said to */
    bool attached;   /* of the others: frames may come by it */
    bool several;    /* the interface may have several queues */
    bool gone;       /* the interface was deleted under us: nothing in, nothing out */
    int index;       /* macvtap: the link is ours, and is deleted at the end */
    int owner_fd;    /* macvtap: says that its owner lives */
    bool all_frames; /* macvtap: of any address */
    struct iovec list[IOV_MAX];
} Tap;

/* Nothing is attached; tap_free() at any time from then on. */
Tap *tap_new(void);
void tap_free(Tap *t);

/* Attaches to the tap interface of that name, or makes it ("": the kernel names it), by
 * the first of `queues`, or the only one if it was made so, which t->several tells; false
 * with errno.  *ret_opened: /dev/net/tun could be opened, and it is the interface that
 * could not be had. */
bool tap_attach(Tap *t, const char *ifname, unsigned queues, bool *ret_opened);
bool tap_attach_queue(Tap *t, Tap *queue);   /* one more of t's; false with errno */
bool tap_fail_open(int err, GError **error); /* the sentence if not; always false */

/* The card's other queues, by `open`, which is to have queue->fd; tap_queues.c. */
bool tap_add_queues(Tap *t, unsigned n, bool (*open)(Tap *t, Tap *queue), GError **error);
void tap_free_queues(Tap *t);

/* t->fd and t->ifname are there, and those of its queues: frames may go. */
bool tap_begin(Tap *t, IoLoop *loop, GError **error);

bool tap_check_name(const char *ifname, GError **error);

/* The functions of NetDevOps that move frames. */
void tap_set_offloads(NetDev *nd, unsigned offloads);
void tap_set_reading(NetDev *nd, bool on);
bool tap_send(NetDev *nd, const struct iovec *iov, unsigned n);
ssize_t tap_receive(NetDev *nd, const struct iovec *iov, unsigned n);
bool tap_use_queues(NetDev *nd, unsigned n);

#define TAP_FRAMES                                                                       \
    .set_offloads = tap_set_offloads, .set_reading = tap_set_reading, .send = tap_send,  \
    .receive = tap_receive, .use_queues = tap_use_queues
