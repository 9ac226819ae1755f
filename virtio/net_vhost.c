/* A network card whose queues another process serves: passt, or whoever is at the socket
 * of --net vhost-user (DPDK, VPP).  Frames go from the guest's memory to that process,
 * and interrupts and kicks through the kernel; nothing of it passes by us.  What is ours
 * is the config space and the control queue, which comes after the last pair
 * (net_ctrl.c).
 *
 * Offered are the offloads that the back end has.  Not offered: RSS, hash reports, and
 * offloads that change while the card runs, which the protocol has no words for.
 *
 * A card without its cable is one whose rings are stopped: what the guest sends stays in
 * them.  A driver that uses fewer pairs than there are has the others disabled.
 *
 * Back ends that can say what they write (VHOST_F_LOG_ALL) can be saved with the guest:
 * between two frames there is nothing they know that the rings do not. */
#include <string.h>

#include "util/bits.h"
#include "virtio/net_private.h"

static const uint64_t net_data_features = BIT64(NET_F_CSUM) | BIT64(NET_F_GUEST_CSUM) |
                                          BIT64(NET_F_GUEST_TSO4) |
                                          BIT64(NET_F_GUEST_TSO6) |
                                          BIT64(NET_F_GUEST_ECN) |
                                          BIT64(NET_F_HOST_TSO4) |
                                          BIT64(NET_F_HOST_TSO6) | BIT64(NET_F_HOST_ECN) |
                                          BIT64(NET_F_MRG_RXBUF);

static Net *net_of_remote(VhostDev *d)
{
    return net_of(&d->v);
}

/* ---- what is agreed on ------------------------------------------------------------ */

static bool check_pairs(const VhostDev *d, unsigned pairs, GError **error)
{
    uint64_t most = vhost_user_has(&d->u, VHOST_USER_P_MQ) ? d->u.max_queues : 1;

    return pairs <= most || fail(error, VM_ERROR_INVALID,
                                 "the back end serves %" G_GUINT64_FORMAT
                                 " pairs of queues, and queues=%u is wanted; lower it",
                                 most, pairs);
}

/* The back end counts in pairs, where vhost_user_dev.c counts queues. */
static bool net_agree(VhostDev *d, GError **error)
{
    Net *n = net_of_remote(d);

    if (!check_pairs(d, n->max_pairs, error))
        return false;
    d->u.max_queues = VIRTIO_MAX_QUEUES;
    d->n_rings = 2u * n->max_pairs;
    d->v.n_queues = d->n_rings + 1;
    d->v.offered |= net_own_features(n);
    return true;
}

static bool tell_mtu(VhostDev *d, GError **error)
{
    const Net *n = net_of_remote(d);

    return !n->mtu || vhost_user_set_mtu(&d->u, n->mtu, error);
}

static bool net_came_back(VhostDev *d, const uint8_t *config, GError **error)
{
    return check_pairs(d, net_of_remote(d)->max_pairs, error) && tell_mtu(d, error);
}

/* passt is back before a guest would notice. */
static void net_link_changed(VhostDev *d, bool up)
{
    if (!d->helper)
        net_network_link(net_of_remote(d), up);
}

/* ---- life-cycle ------------------------------------------------------------------- */

static bool find_back_end(VhostDev *d, const NetDevOptions *o, GError **error)
{
    if (o->type == NETDEV_VHOST_USER) {
        d->socket = g_strdup(o->path);
        d->listens = o->listen;
        return true;
    }
    d->helper_ops = &passt_helper_ops;
    d->helper = passt_helper_new(o, d->v.id, d->v.loop, error);
    return d->helper != NULL;
}

typedef struct MtuCall {
    VhostDev *d;
    bool ok;
    GError **error;
} MtuCall;

static void tell_mtu_first(void *opaque)
{
    MtuCall *call = opaque;

    vhost_dev_limit(call->d, NET_TELL_MS);
    call->ok = tell_mtu(call->d, call->error);
}

bool net_vhost_realize(Net *n, const NetDevOptions *o, GError **error)
{
    VhostDev *d = &n->remote;
    MtuCall call = {.d = d, .error = error};

    vhost_dev_init(&n->v);
    d->features = net_data_features;
    d->in_order = d->lossy = true;
    d->agree = net_agree;
    d->came_back = net_came_back;
    d->link_changed = net_link_changed;
    if (!find_back_end(d, o, error) || !vhost_dev_realize(d, error))
        return false;
    n->is_remote = true;
    ioloop_call(n->v.loop, tell_mtu_first, &call);
    return call.ok;
}

/* Which queue is the control queue depends on what was agreed on with the driver. */
void net_vhost_rings(Net *n)
{
    n->v.rings_elsewhere = n->remote.n_rings = net_ctrl_queue(n);
    net_vhost_pairs(n);
}

void net_vhost_pairs(Net *n)
{
    vhost_dev_use(&n->remote, 2u * n->rx_pairs);
}

void net_vhost_announce(Net *n)
{
    VhostDev *d = &n->remote;
    GError *why = NULL;
    uint8_t mac[6];

    if (d->link != LINK_UP)
        return;
    store_le(mac, __atomic_load_n(&n->mac, __ATOMIC_RELAXED), sizeof(mac));
    vhost_dev_limit(d, NET_TELL_MS);
    if (!vhost_user_send_rarp(&d->u, mac, &why))
        vhost_dev_lost(d, why);
}

/* What a guest may leave to the host, and some back ends have done by us where they
 * cannot, is nobody's here; what it merely can take is not sent. */
bool net_vhost_load(const Net *n, GError **error)
{
    const uint64_t left_to_us = BIT64(NET_F_HOST_USO);

    return !(n->v.features & left_to_us & ~n->remote.agreed) ||
           fail(
               error, VM_ERROR_UNSUPPORTED,
               "the guest leaves the cutting of UDP to the host, and the process that "
               "serves the card cannot do that; restore with the kind of network that it "
               "was saved with (--net ID=...)");
}

const char *net_pinned(const VirtioDevice *v)
{
    const Net *n = (const Net *)v;

    return n->is_remote && !n->remote.logs
               ? "the process that serves it cannot tell what it writes into the guest's "
                 "memory (VHOST_F_LOG_ALL); take the card out of the guest first"
               : NULL;
}
