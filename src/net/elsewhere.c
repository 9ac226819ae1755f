/* The wire of a card whose queues another process serves (vhost-user): frames never come
 * by here, so that this end has nothing to do.  What there is to it is in
 * virtio/net_vhost.c. */
#include "src/net/netdev_private.h"

bool netdev_is_elsewhere(const NetDevOptions *o, bool shared)
{
    if (o->type == NETDEV_VHOST_USER)
        return true;
    if (o->type != NETDEV_PASST || g_strcmp0(o->mode, "stream") == 0)
        return false;
    if (g_strcmp0(o->mode, "vhost-user") == 0)
        return true;
    return shared && o->queues <= 1 && passt_has_vhost_user(); /* it serves one pair */
}

static bool elsewhere_check(const NetDevOptions *o, GError **error)
{
    return o->path || fail(error, VM_ERROR_INVALID,
                           "at which socket is the program that serves it? Say so, as in "
                           "'--net vhost-user,path=SOCKET'");
}

/* Only cards have queues, and only when they are made.  Without a card it is an uplink.
 */
static NetDev *elsewhere_open(const NetDevOptions *o, const NetDevCard *card,
                              IoLoop *loop, GError **error)
{
    fail(error, VM_ERROR_UNSUPPORTED,
         card
             ? "a card that is there already cannot be given to another process; plug in "
               "a new one"
             : "an uplink has no queues that another process could serve; say "
               "mode=stream");
    return NULL;
}

static void elsewhere_close(NetDev *nd)
{
    g_free(nd);
}

static void elsewhere_set_reading(NetDev *nd, bool on)
{
}

static bool elsewhere_send(NetDev *nd, const struct iovec *iov, unsigned n)
{
    return true;
}

static ssize_t elsewhere_receive(NetDev *nd, const struct iovec *iov, unsigned n)
{
    return 0;
}

const NetDevOps netdev_vhost_user_ops = {
    .name = "vhost-user",
    .check = elsewhere_check,
    .open = elsewhere_open,
    .close = elsewhere_close,
    .set_reading = elsewhere_set_reading,
    .send = elsewhere_send,
    .receive = elsewhere_receive,
};

NetDev *netdev_open_elsewhere(IoLoop *loop)
{
    NetDev *nd = g_new0(NetDev, 1);

    nd->ops = &netdev_vhost_user_ops;
    nd->loop = loop;
    return nd;
}
