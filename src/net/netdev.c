/* Which backend a network card gets, and what is the same for all of them; contract in
 * backend/netdev.h. */
#include "backend/netdev.h"

#include "backend/state_tables.h"
#include "src/net/netdev_private.h"
#include "src/net/slirp_private.h"

const char *const netdev_type_names[] = {"user", "tap", NULL};

static const NetDevOps *const ops_of[] = {
    [NETDEV_USER] = &netdev_user_ops,
    [NETDEV_TAP] = &netdev_tap_ops,
};

bool netdev_check(NetDevOptions *options, GError **error)
{
    if (!options->type)
        return fail(error, VM_ERROR_INVALID,
                    "key 'type' is missing: begin with the kind of network, as in "
                    "'--net user'");
    return ops_of[options->type]->check(options, error);
}

NetDev *netdev_open(const NetDevOptions *options, IoLoop *loop, GError **error)
{
    const NetDevOps *ops = ops_of[options->type];
    NetDev *nd;

    if (!ops->check(options, error))
        return NULL;
    nd = ops->open(options, loop, error);
    if (nd) {
        nd->ops = ops;
        nd->loop = loop;
    }
    return nd;
}

void netdev_close(NetDev *nd)
{
    if (nd)
        nd->ops->close(nd);
}

unsigned netdev_offloads(const NetDev *nd)
{
    return nd->offloads;
}

void netdev_set_offloads(NetDev *nd, unsigned offloads)
{
    const unsigned tso = NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6;

    /* What a driver must not do (virtio 1.2, 5.1.3.1) is made harmless here, once: no
     * segmentation without checksums, no ECN without segmentation. */
    offloads &= nd->offloads;
    if (!(offloads & NET_OFFLOAD_CSUM))
        offloads = 0;
    if (!(offloads & tso))
        offloads &= ~(unsigned)NET_OFFLOAD_ECN;
    if (nd->ops->set_offloads)
        nd->ops->set_offloads(nd, offloads);
}

bool netdev_send(NetDev *nd, const struct iovec *iov, unsigned n)
{
    return nd->ops->send(nd, iov, n);
}

ssize_t netdev_receive(NetDev *nd, const struct iovec *iov, unsigned n)
{
    return nd->ops->receive(nd, iov, n);
}

void netdev_set_handlers(NetDev *nd, void (*readable)(void *opaque),
                         void (*writable)(void *opaque), void *opaque)
{
    nd->readable = readable;
    nd->writable = writable;
    nd->opaque = opaque;
}

void netdev_set_answered(NetDev *nd, void (*answered)(void *opaque, uint16_t port))
{
    nd->answered = answered;
}

void netdev_set_reading(NetDev *nd, bool on)
{
    if (nd->reading == on)
        return;
    nd->reading = on;
    nd->ops->set_reading(nd, on);
}

void netdev_save(NetDev *nd, const char *section, StateWriter *w)
{
    g_autofree UserState *s = NULL;

    if (!nd->ops->save)
        return;
    s = g_new0(UserState, 1);
    nd->ops->save(nd, s);
    state_put(w, section, &netdev_user_state_table, s);
}

/* A network that is played for the guest may take the place of a real one, and the other
 * way round. */
bool netdev_load(NetDev *nd, const char *section, StateReader *r, GError **error)
{
    g_autofree UserState *s = NULL;

    if (!state_has(r, section))
        return true;
    s = g_new0(UserState, 1);
    if (!state_get(r, section, &netdev_user_state_table, s, error))
        return false;
    if (nd->ops->load)
        nd->ops->load(nd, s);
    return true;
}

void netdev_restored(NetDev *nd)
{
    if (nd->ops->restored)
        nd->ops->restored(nd);
}
