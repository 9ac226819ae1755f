/* A tap interface of the host as the other end of the card's wire.
 *
 * Whose interface it is.  One that is there already belongs to the administrator, who
 * made it ('ip tuntap add'), put it into a bridge or gave it an address, and set it up:
 * we attach to it and change nothing.  One that is not there is made by us, which needs
 * CAP_NET_ADMIN: then we set it up too, because a fresh interface that is down is of no
 * use to anyone, and it goes away with us.  Addresses, bridges and routes are never
 * touched; --net bridge= (bridge.c) does that. */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "src/net/tap_private.h"
#include "util/fd.h"

static bool tap_check(const NetDevOptions *o, GError **error)
{
    if (o->hostfwd && o->hostfwd[0])
        return fail(error, VM_ERROR_INVALID,
                    "hostfwd= goes with user mode; through a tap the guest is reached "
                    "at its own address");
    if (o->restrict_)
        return fail(error, VM_ERROR_INVALID,
                    "restrict goes with user mode; limit a tap with the host's firewall");
    if (o->hostname)
        return fail(error, VM_ERROR_INVALID,
                    "hostname= goes with user mode, which is what serves DHCP");
    return !o->ifname || tap_check_name(o->ifname, error);
}

static bool fail_attach(int err, const char *ifname, bool existed, GError **error)
{
    const char *name = ifname[0] ? ifname : "tap0";

    if (err == EBUSY)
        return fail(error, VM_ERROR_BUSY,
                    "tap interface %s is in use by another program: stop that, or make "
                    "another with 'sudo ip tuntap add dev NAME mode tap' and give "
                    "ifname=NAME",
                    name);
    if ((err == EPERM || err == EACCES) && existed)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "tap interface %s was made for another user: make one for %s with "
                    "'sudo ip tuntap add dev NAME mode tap user %s' and give ifname=NAME",
                    name, g_get_user_name(), g_get_user_name());
    if (err == EPERM || err == EACCES)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "no permission to make a tap interface: make it with 'sudo ip tuntap "
                    "add dev %s mode tap user %s && sudo ip link set %s up' and give "
                    "ifname=%s, or use --net user",
                    name, g_get_user_name(), name, name);
    if (err == EINVAL && existed)
        return fail(error, VM_ERROR_INVALID,
                    "interface %s is not a tap: make one with 'sudo ip "
                    "tuntap add dev NAME mode tap' and give ifname=NAME",
                    name);
    errno = err;
    return fail_errno(error, "attach to tap interface %s", name);
}

/* Sets an interface of our own up; warns about somebody else's that is down, since that
 * is what is wrong most often when a guest has no network. */
static bool bring_up(Tap *t, bool existed, GError **error)
{
    autofd sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq ifr = {0};

    memcpy(ifr.ifr_name, t->ifname, sizeof(ifr.ifr_name));
    if (sock < 0 || ioctl(sock, SIOCGIFFLAGS, &ifr) < 0)
        return existed || fail_errno(error, "read the flags of interface %s", t->ifname);
    if (ifr.ifr_flags & IFF_UP)
        return true;
    if (existed) {
        log_warn("tap interface %s is down: 'sudo ip link set %s up' lets frames pass",
                 t->ifname, t->ifname);
        return true;
    }
    ifr.ifr_flags |= IFF_UP;
    if (ioctl(sock, SIOCSIFFLAGS, &ifr) < 0)
        return fail_errno(error, "set interface %s up", t->ifname);
    return true;
}

/* Somebody else's interface that was made with one queue carries all pairs of the card.
 */
static bool add_queues(Tap *t, unsigned n, GError **error)
{
    if (t->several)
        return tap_add_queues(t, n, tap_attach_queue, error);
    log_warn("tap interface %s was made with one queue, which the card's %u pairs share: "
             "make it with 'sudo ip tuntap add dev %s mode tap multi_queue'",
             t->ifname, n, t->ifname);
    return true;
}

/* #syscalls ioctl(SIOCGIFFLAGS SIOCSIFFLAGS) socket */
static bool attach(Tap *t, const char *ifname, unsigned queues, GError **error)
{
    bool existed = ifname && if_nametoindex(ifname);
    bool opened;

    if (!tap_attach(t, ifname ? ifname : "", queues, &opened))
        return opened ? fail_attach(errno, ifname ? ifname : "", existed, error)
                      : tap_fail_open(errno, error);
    if (!bring_up(t, existed, error) || (queues > 1 && !add_queues(t, queues, error)))
        return false;
    if (!ifname)
        log_info("made tap interface %s", t->ifname);
    return true;
}

static void tap_close(NetDev *nd)
{
    tap_free((Tap *)nd);
}

static NetDev *tap_open(const NetDevOptions *o, const NetDevCard *card, IoLoop *loop,
                        GError **error)
{
    Tap *t = tap_new();

    if (attach(t, o->ifname, card ? card->queues : 1, error) && tap_begin(t, loop, error))
        return &t->nd;
    tap_free(t);
    return NULL;
}

const NetDevOps netdev_tap_ops = {
    .name = "tap",
    .check = tap_check,
    .open = tap_open,
    .close = tap_close,
    TAP_FRAMES,
};
