/* A bridge of the host as the other end of the card's wire (--net bridge=br0): a tap that
 * we make, with the bridge's largest packet, put into the bridge and set up.  It is not
 * persistent, so the kernel takes it away with our descriptor, however we end.
 *
 * That needs CAP_NET_ADMIN.  Who has not got it may have the administrator's word in
 * /etc/qemu/bridge.conf ("allow br0"), which QEMU's setuid helper acts upon: it does the
 * same, and hands the descriptor over (bridge_helper.c): one, which all pairs of a card
 * then share.
 *
 * A bridge without an address of its own takes the lowest of its ports', so the tap's
 * begins with fe, lest the host's change with each VM. */
#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "src/net/bridge_helper.h"
#include "src/net/netlink.h"
#include "src/net/tap_private.h"
#include "util/fd.h"

static bool bridge_check(const NetDevOptions *o, GError **error)
{
    if (!o->bridge)
        return fail(error, VM_ERROR_INVALID,
                    "which bridge of the host? Say so, as in '--net bridge=br0'");
    return !o->ifname || tap_check_name(o->ifname, error);
}

/* ---- the bridge ------------------------------------------------------------------- */

static bool fail_missing(int nl, const char *name, GError **error)
{
    g_autofree char *there = netlink_names(nl, "bridge");

    if (there)
        return fail(error, VM_ERROR_NOT_FOUND,
                    "this host has no interface %s; its bridges are: %s", name, there);
    return fail(error, VM_ERROR_NOT_FOUND,
                "this host has no interface %s, and no bridge at all: make one with "
                "'sudo ip link add %s type bridge && sudo ip link set %s up'",
                name, name, name);
}

static bool find_bridge(int nl, const char *name, NlLink *ret, GError **error)
{
    int err = netlink_get(nl, name, ret);

    if (err == ENODEV)
        return fail_missing(nl, name, error);
    if (err) {
        errno = err;
        return fail_errno(error, "look for bridge %s", name);
    }
    if (ret->flags & IFF_LOOPBACK)
        return fail(error, VM_ERROR_INVALID,
                    "interface %s is no bridge but the host's own loopback: --net user "
                    "lets a guest reach it",
                    name);
    if (!g_str_equal(ret->kind, "bridge"))
        return fail(error, VM_ERROR_INVALID,
                    "interface %s is no bridge but %s%s; to join it without one, use "
                    "--net macvtap,parent=%s",
                    name, ret->kind[0] ? "of kind " : "a network card", ret->kind, name);
    if (!(ret->flags & IFF_UP))
        log_warn("bridge %s is down: 'sudo ip link set %s up' lets frames pass", name,
                 name);
    return true;
}

/* ---- its new port ----------------------------------------------------------------- */

static bool fail_permission(const char *bridge, const GError *helper, GError **error)
{
    return fail(error, VM_ERROR_UNSUPPORTED,
                "no permission to put a tap into bridge %s: that takes CAP_NET_ADMIN, or "
                "a line 'allow %s' in /etc/qemu/bridge.conf for QEMU's bridge helper "
                "(%s); --net user needs neither",
                bridge, bridge, helper->message);
}

static bool use_helper(Tap *t, const char *bridge, GError **error)
{
    g_autoptr(GError) why = NULL;

    fd_close(&t->fd);
    t->fd = bridge_helper(bridge, t->ifname, &why);
    return t->fd >= 0 || fail_permission(bridge, why, error);
}

static bool join(Tap *t, int nl, const NlLink *bridge, GError **error)
{
    uint8_t mac[6] = {0xfe};
    NlChange change = {IFF_UP, bridge->index, bridge->mtu, mac};
    NlLink tap;
    int err;

    if (getrandom(mac + 1, 5, GRND_NONBLOCK) != 5)
        change.mac = NULL;
    err = netlink_get(nl, t->ifname, &tap);
    if (!err)
        err = netlink_change(nl, tap.index, &change);
    errno = err;
    return !err || fail_errno(error, "put tap interface %s into bridge %s", t->ifname,
                              bridge->name);
}

static bool plug(Tap *t, const NetDevOptions *o, unsigned queues, int nl,
                 const NlLink *bridge, GError **error)
{
    const char *ifname = o->ifname ? o->ifname : "";
    bool opened;

    if (*ifname && if_nametoindex(ifname))
        return fail(
            error, VM_ERROR_BUSY,
            "there is an interface %s already: give another ifname=, or, if it is "
            "a tap of yours in the bridge, --net tap,ifname=%s",
            ifname, ifname);
    if (tap_attach(t, ifname, queues, &opened))
        return join(t, nl, bridge, error) &&
               tap_add_queues(t, queues, tap_attach_queue, error);
    if (errno == EPERM || errno == EACCES)
        return use_helper(t, o->bridge, error);
    if (!opened)
        return tap_fail_open(errno, error);
    return fail_errno(error, "make a tap interface for bridge %s", o->bridge);
}

/* #syscalls socket(AF_NETLINK) sendto recvfrom */
static bool attach(Tap *t, const NetDevOptions *o, unsigned queues, GError **error)
{
    autofd nl = netlink_open();
    NlLink bridge;

    if (nl < 0)
        return fail_errno(error, "ask the kernel for its interfaces");
    if (!find_bridge(nl, o->bridge, &bridge, error) ||
        !plug(t, o, queues, nl, &bridge, error))
        return false;
    t->nd.mtu = bridge.mtu;
    log_info("made tap interface %s in bridge %s", t->ifname, o->bridge);
    return true;
}

static void bridge_close(NetDev *nd)
{
    tap_free((Tap *)nd);
}

static NetDev *bridge_open(const NetDevOptions *o, const NetDevCard *card, IoLoop *loop,
                           GError **error)
{
    Tap *t = tap_new();

    if (attach(t, o, card ? card->queues : 1, error) && tap_begin(t, loop, error))
        return &t->nd;
    tap_free(t);
    return NULL;
}

const NetDevOps netdev_bridge_ops = {
    .name = "bridge",
    .check = bridge_check,
    .open = bridge_open,
    .close = bridge_close,
    TAP_FRAMES,
};
