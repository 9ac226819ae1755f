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
    bool gone;       /* the interface was deleted under us: nothing in, nothing out */
    int index;       /* macvtap: the link is ours, and is deleted at the end */
    int owner_fd;    /* macvtap: says that its owner lives */
    bool all_frames; /* macvtap: of any address */
    struct iovec list[IOV_MAX];
} Tap;

/* Nothing is attached; tap_free() at any time from then on. */
Tap *tap_new(void);
void tap_free(Tap *t);

/* Attaches to the tap interface of that name, or makes it ("": the kernel names it);
 * false with errno.  *ret_opened: /dev/net/tun could be opened, and it is the interface
 * that could not be had. */
bool tap_attach(Tap *t, const char *ifname, bool *ret_opened);
bool tap_fail_open(int err, GError **error); /* the sentence if not; always false */

/* t->fd and t->ifname are there: frames may go. */
bool tap_begin(Tap *t, IoLoop *loop, GError **error);

bool tap_check_name(const char *ifname, GError **error);

/* The functions of NetDevOps that move frames. */
void tap_set_offloads(NetDev *nd, unsigned offloads);
void tap_set_reading(NetDev *nd, bool on);
bool tap_send(NetDev *nd, const struct iovec *iov, unsigned n);
ssize_t tap_receive(NetDev *nd, const struct iovec *iov, unsigned n);

#define TAP_FRAMES                                                                       \
    .set_offloads = tap_set_offloads, .set_reading = tap_set_reading, .send = tap_send,  \
    .receive = tap_receive
