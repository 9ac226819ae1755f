/* The link of a virtio network card, for who changes it at run time, and what the card
 * counts, for who shows it. */
#pragma once

#include "virtio/virtio.h"

struct NetDevOptions; /* backend/netdev.h */

/* Any thread.  Plugs or unplugs the cable (virtio 1.2, 5.1.4): the guest is told by a
 * config change, and while the link is down frames are dropped both ways.  A reset leaves
 * it as it is.  False: v is no network card. */
bool virtio_net_set_link(VirtioDevice *v, bool up);

/* Any thread.  Whether it is plugged in.  False: v is no network card. */
bool virtio_net_link(const VirtioDevice *v, bool *ret_up);

/* Main thread.  Plugs the card in elsewhere, while the guest runs: it keeps its address,
 * sees its link go and come, and is asked to make itself known there.  The new place is
 * opened first, and on failure nothing has changed. */
bool virtio_net_move(VirtioDevice *v, const struct NetDevOptions *options,
                     GError **error);

/* Main thread.  Where its cable leads, as of param_to_json(); the card's.  NULL: v is no
 * network card. */
const json_t *virtio_net_wire(const VirtioDevice *v);

/* Any thread.  The card's address as its driver uses it, which a restored one brought
 * along or a guest has set, and the card's own, which it has again after a reset.  False:
 * v is no network card. */
bool virtio_net_macs(const VirtioDevice *v, uint8_t ret_now[6], uint8_t ret_own[6]);

typedef struct NetCounters {
    uint64_t frames, bytes; /* that went through; bytes without the virtio header */
    uint64_t dropped;       /* frames that could not */
} NetCounters;

typedef struct NetStats {
    NetCounters rx, tx; /* to the guest, and from it */
} NetStats;

/* Any thread.  False: v is no network card. */
bool virtio_net_stats(const VirtioDevice *v, NetStats *ret);
