/* A host interface as the other end of the card's wire: Linux tap with the virtio header
 * on each frame, so that checksums and segmentation are left to whoever does them last
 * (Linux, Documentation/networking/tuntap.rst; header: virtio 1.2, 5.1.6).
 *
 * Whose interface it is.  One that is there already belongs to the administrator, who
 * made it ('ip tuntap add'), put it into a bridge or gave it an address, and set it up:
 * we attach to it and change nothing.  One that is not there is made by us, which needs
 * CAP_NET_ADMIN: then we set it up too, because a fresh interface that is down is of no
 * use to anyone, and it goes away with us.  Addresses, bridges and routes are never
 * touched.
 *
 * Frames go from guest memory to the kernel and back without a copy of ours. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "src/net/netdev_private.h"
#include "util/fd.h"
#include "util/iov.h"
#include "util/log.h"

enum {
    TAP_OFFLOADS = NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 |
                   NET_OFFLOAD_ECN
};

_Static_assert(NET_OFFLOAD_CSUM == TUN_F_CSUM && NET_OFFLOAD_TSO4 == TUN_F_TSO4 &&
                   NET_OFFLOAD_TSO6 == TUN_F_TSO6 && NET_OFFLOAD_ECN == TUN_F_TSO_ECN,
               "offloads are handed to the kernel as they are");

typedef struct Tap {
    NetDev nd;
    int fd;
    char ifname[IFNAMSIZ];
    IoWatch watch;
    LogLimit warned;
    bool want_write; /* a send returned false */
    bool gone;       /* the interface was deleted under us: nothing in, nothing out */
    struct iovec list[IOV_MAX];
} Tap;

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
    if (!o->ifname)
        return true;
    if (!o->ifname[0] || strlen(o->ifname) >= IFNAMSIZ ||
        strpbrk(o->ifname, "/ \t\n:%") || g_str_equal(o->ifname, ".") ||
        g_str_equal(o->ifname, ".."))
        return fail(error, VM_ERROR_INVALID,
                    "ifname=%s cannot name an interface: give 1 to %d characters, no "
                    "blanks, '/', ':' or '%%'",
                    o->ifname, IFNAMSIZ - 1);
    return true;
}

static bool fail_open(int err, GError **error)
{
    if (err == ENOENT || err == ENODEV || err == ENXIO)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "this host has no /dev/net/tun: load it with 'sudo modprobe tun', or "
                    "use --net user");
    if (err == EACCES || err == EPERM)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "no permission to open /dev/net/tun: ask root for access to it, or "
                    "use --net user, which needs none");
    errno = err;
    return fail_errno(error, "open /dev/net/tun");
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
                    "interface %s is not a tap with one queue: make one with 'sudo ip "
                    "tuntap add dev NAME mode tap' and give ifname=NAME",
                    name);
    errno = err;
    return fail_errno(error, "attach to tap interface %s", name);
}

/* Sets an interface of our own up; warns about somebody else's that is down, since that
 * is what is wrong most often when a guest has no network. */
static bool tap_bring_up(Tap *t, bool existed, GError **error)
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

/* #syscalls openat ioctl(TUNSETIFF TUNSETVNETHDRSZ TUNSETOFFLOAD SIOCGIFFLAGS
 * SIOCSIFFLAGS) socket */
static bool tap_attach(Tap *t, const char *ifname, GError **error)
{
    const int hdr_len = NET_HDR_LEN;
    bool existed = ifname && if_nametoindex(ifname);
    struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};

    if (ifname)
        g_strlcpy(ifr.ifr_name, ifname, sizeof(ifr.ifr_name));
    t->fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (t->fd < 0)
        return fail_open(errno, error);
    if (ioctl(t->fd, TUNSETIFF, &ifr) < 0)
        return fail_attach(errno, ifname ? ifname : "", existed, error);
    memcpy(t->ifname, ifr.ifr_name, sizeof(t->ifname));
    t->ifname[IFNAMSIZ - 1] = 0;

    if (ioctl(t->fd, TUNSETVNETHDRSZ, &hdr_len) < 0)
        return fail_errno(error, "set the header length of tap interface %s", t->ifname);
    if (ioctl(t->fd, TUNSETOFFLOAD, (unsigned long)TAP_OFFLOADS) == 0)
        t->nd.offloads = TAP_OFFLOADS;
    ioctl(t->fd, TUNSETOFFLOAD, 0ul); /* until the guest says what it can take */
    if (!tap_bring_up(t, existed, error))
        return false;
    if (!ifname)
        log_info("made tap interface %s", t->ifname);
    return true;
}

static void tap_update_watch(Tap *t)
{
    if (!t->gone)
        ioloop_watch_events(&t->watch, (t->nd.reading ? EPOLLIN : 0u) |
                                           (t->want_write ? EPOLLOUT : 0u));
}

static void tap_gone(Tap *t)
{
    if (t->gone)
        return;
    log_warn("tap interface %s was deleted: the guest's card has no network from here on",
             t->ifname);
    t->gone = true;
    ioloop_unwatch(&t->watch); /* epoll would report the error for ever */
}

static void tap_event(void *opaque, uint32_t events)
{
    Tap *t = opaque;

    if ((events & EPOLLOUT) && t->want_write) {
        t->want_write = false;
        tap_update_watch(t);
        if (t->nd.writable)
            t->nd.writable(t->nd.opaque);
    }
    /* A deleted interface shows as an error on the descriptor, whatever we wait for. */
    if ((events & (EPOLLERR | EPOLLHUP)) && !(events & EPOLLIN)) {
        tap_gone(t);
        return;
    }
    if ((events & EPOLLIN) && t->nd.reading && t->nd.readable)
        t->nd.readable(t->nd.opaque);
}

static void tap_close(NetDev *nd)
{
    Tap *t = (Tap *)nd;

    ioloop_unwatch(&t->watch);
    fd_close(&t->fd);
    g_free(t);
}

static NetDev *tap_open(const NetDevOptions *o, const NetDevCard *card, IoLoop *loop,
                        GError **error)
{
    Tap *t = g_new0(Tap, 1);

    t->fd = -1;
    if (!tap_attach(t, o->ifname, error) ||
        !ioloop_watch(loop, &t->watch, t->fd, 0, tap_event, t, error)) {
        tap_close(&t->nd);
        return NULL;
    }
    return &t->nd;
}

static void tap_set_offloads(NetDev *nd, unsigned offloads)
{
    Tap *t = (Tap *)nd;

    if (!t->gone && ioctl(t->fd, TUNSETOFFLOAD, (unsigned long)offloads) < 0 &&
        log_limit(&t->warned))
        log_warn("tap interface %s: set offloads %#x: %s", t->ifname, offloads,
                 g_strerror(errno));
}

static void tap_set_reading(NetDev *nd, bool on)
{
    tap_update_watch((Tap *)nd);
}

static bool tap_send(NetDev *nd, const struct iovec *iov, unsigned n)
{
    Tap *t = (Tap *)nd;

    while (!t->gone && writev(t->fd, iov, (int)n) < 0) {
        if (errno == EAGAIN) {
            t->want_write = true;
            tap_update_watch(t);
            return false;
        }
        if (errno == EBADFD)
            tap_gone(t);
        /* EIO: the interface is down; EINVAL: the kernel dislikes the header; and so on:
         * the frame is lost, as on a wire. */
        if (errno != EINTR)
            break;
    }
    return true;
}

/* The kernel cuts a frame short when the list is, without a word: one byte more than the
 * caller's tells us. */
static ssize_t receive_checked(Tap *t, const struct iovec *iov, unsigned n, size_t room)
{
    uint8_t too_much;
    ssize_t len;

    if (n >= G_N_ELEMENTS(t->list)) {
        errno = EINVAL;
        return -1;
    }
    memcpy(t->list, iov, n * sizeof(*iov));
    t->list[n] = (struct iovec){&too_much, sizeof(too_much)};
    len = readv(t->fd, t->list, (int)n + 1);
    if (len <= 0 || (size_t)len <= room)
        return len;
    errno = EMSGSIZE;
    return -1;
}

static ssize_t tap_receive(NetDev *nd, const struct iovec *iov, unsigned n)
{
    Tap *t = (Tap *)nd;
    size_t room = iov_len(iov, n);

    while (!t->gone) {
        ssize_t len = room < NET_MAX_FRAME ? receive_checked(t, iov, n, room)
                                           : readv(t->fd, iov, (int)n);

        if (len > 0)
            return len;
        if (len == 0 || errno == EAGAIN)
            return 0;
        if (errno == EMSGSIZE || errno == EINVAL || errno == EFAULT)
            return -1;
        if (errno == EBADFD || errno == EIO)
            tap_gone(t);
        else if (errno != EINTR)
            return 0;
    }
    return 0;
}

const NetDevOps netdev_tap_ops = {
    .name = "tap",
    .check = tap_check,
    .open = tap_open,
    .close = tap_close,
    .set_offloads = tap_set_offloads,
    .set_reading = tap_set_reading,
    .send = tap_send,
    .receive = tap_receive,
};
