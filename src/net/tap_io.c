/* Frames through a descriptor of the kernel's tap (Linux,
 * Documentation/networking/tuntap.rst; header: virtio 1.2, 5.1.6), with the virtio header
 * on each, so that checksums and segmentation are left to whoever does them last.
 *
 * Frames go from guest memory to the kernel and back without a copy of ours. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "src/net/tap_private.h"
#include "util/fd.h"
#include "util/iov.h"

enum {
    TAP_OFFLOADS = NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 |
                   NET_OFFLOAD_ECN,
    TAP_USO = NET_OFFLOAD_USO4 | NET_OFFLOAD_USO6 /* Linux 6.2: both, or none */
};
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

_Static_assert(NET_OFFLOAD_CSUM == TUN_F_CSUM && NET_OFFLOAD_TSO4 == TUN_F_TSO4 &&
                   NET_OFFLOAD_TSO6 == TUN_F_TSO6 && NET_OFFLOAD_ECN == TUN_F_TSO_ECN &&
                   NET_OFFLOAD_USO4 == TUN_F_USO4 && NET_OFFLOAD_USO6 == TUN_F_USO6,
               "offloads are handed to the kernel as they are");

/* ---- beginning and end ------------------------------------------------------------ */

Tap *tap_new(void)
{
    Tap *t = g_new0(Tap, 1);

    t->fd = t->owner_fd = -1;
    return t;
}

void tap_free(Tap *t)
{
    tap_free_queues(t);
    ioloop_unwatch(&t->watch);
    fd_close(&t->fd);
    fd_close(&t->owner_fd);
    g_free(t);
}

/* #syscalls openat ioctl(TUNSETIFF) */
bool tap_attach(Tap *t, const char *ifname, unsigned queues, bool *ret_opened)
{
    struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int err;

    if (queues > 1)
        ifr.ifr_flags |= IFF_MULTI_QUEUE;
    g_strlcpy(ifr.ifr_name, ifname, sizeof(ifr.ifr_name));
    t->fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    *ret_opened = t->fd >= 0;
    err = t->fd < 0 ? -1 : ioctl(t->fd, TUNSETIFF, &ifr);
    if (err < 0 && errno == EINVAL && t->fd >= 0 && if_nametoindex(ifname)) {
        ifr.ifr_flags ^= IFF_MULTI_QUEUE; /* it was made the other way */
        err = ioctl(t->fd, TUNSETIFF, &ifr);
    }
    if (err < 0)
        return false;
    g_strlcpy(t->ifname, ifr.ifr_name, sizeof(t->ifname));
    t->several = ifr.ifr_flags & IFF_MULTI_QUEUE;
    return true;
}

bool tap_attach_queue(Tap *t, Tap *queue)
{
    bool opened;

    return tap_attach(queue, t->ifname, NETDEV_MAX_QUEUES, &opened);
}

bool tap_fail_open(int err, GError **error)
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

bool tap_check_name(const char *ifname, GError **error)
{
    if (!ifname[0] || strlen(ifname) >= IFNAMSIZ || strpbrk(ifname, "/ \t\n:%") ||
        g_str_equal(ifname, ".") || g_str_equal(ifname, ".."))
        return fail(
            error, VM_ERROR_INVALID,
            "ifname=%s cannot name an interface: give 1 to %d characters, no blanks, "
            "'/', ':' or '%%'",
            ifname, IFNAMSIZ - 1);
    return true;
}

static void on_event(void *opaque, uint32_t events);

static bool takes_offloads(Tap *t, unsigned offloads)
{
    return ioctl(t->fd, TUNSETOFFLOAD, (unsigned long)offloads) == 0;
}

/* Offloads are the interface's, the length of headers a macvtap's queue's. */
static bool begin_queue(Tap *t, IoLoop *loop, GError **error)
{
    const int hdr_len = NET_HDR_LEN;

    if (ioctl(t->fd, TUNSETVNETHDRSZ, &hdr_len) < 0)
        return fail_errno(error, "set the header length of interface %s", t->ifname);
    return ioloop_watch(loop, &t->watch, t->fd, 0, on_event, t, error);
}

/* #syscalls ioctl(TUNSETVNETHDRSZ TUNSETOFFLOAD) */
bool tap_begin(Tap *t, IoLoop *loop, GError **error)
{
    for (unsigned i = 0; i < netdev_queues(&t->nd); i++)
        if (!begin_queue((Tap *)netdev_queue(&t->nd, i), loop, error))
            return false;
    if (takes_offloads(t, TAP_OFFLOADS | TAP_USO))
        t->nd.offloads = TAP_OFFLOADS | TAP_USO;
    else if (takes_offloads(t, TAP_OFFLOADS))
        t->nd.offloads = TAP_OFFLOADS;
    takes_offloads(t, 0); /* until the guest says what it can take */
    for (unsigned i = 1; i < netdev_queues(&t->nd); i++)
        netdev_queue(&t->nd, i)->offloads = t->nd.offloads;
    return true;
}

/* ---- frames ----------------------------------------------------------------------- */

static void update_watch(Tap *t)
{
    if (!t->gone)
        ioloop_watch_events(&t->watch, (t->nd.reading ? EPOLLIN : 0u) |
                                           (t->want_write ? EPOLLOUT : 0u));
}

static void gone(Tap *t)
{
    if (t->gone)
        return;
    if (!t->number)
        log_warn("interface %s was deleted: the guest's card has no network from here on",
                 t->ifname);
    t->gone = true;
    ioloop_unwatch(&t->watch); /* epoll would report the error for ever */
}

static void on_event(void *opaque, uint32_t events)
{
    Tap *t = opaque;

    if ((events & EPOLLOUT) && t->want_write) {
        t->want_write = false;
        update_watch(t);
        if (t->nd.writable)
            t->nd.writable(t->nd.opaque);
    }
    /* A deleted interface shows as an error on the descriptor, whatever we wait for. */
    if ((events & (EPOLLERR | EPOLLHUP)) && !(events & EPOLLIN)) {
        gone(t);
        return;
    }
    if ((events & EPOLLIN) && t->nd.reading && t->nd.readable)
        t->nd.readable(t->nd.opaque);
}

void tap_set_offloads(NetDev *nd, unsigned offloads)
{
    Tap *t = (Tap *)nd;

    if ((offloads & TAP_USO) != TAP_USO)
        offloads &= ~(unsigned)TAP_USO;
    if (!t->gone && !takes_offloads(t, offloads) && log_limit(&t->warned))
        log_warn("interface %s: set offloads %#x: %s", t->ifname, offloads,
                 g_strerror(errno));
}

void tap_set_reading(NetDev *nd, bool on)
{
    update_watch((Tap *)nd);
}

/* readv() and writev() without what makes them points of cancellation: a twentieth of
 * what a frame costs. */
static ssize_t read_frame(int fd, const struct iovec *iov, unsigned n)
{
    return syscall(SYS_readv, fd, iov, n);
}

static ssize_t write_frame(int fd, const struct iovec *iov, unsigned n)
{
    return syscall(SYS_writev, fd, iov, n);
}

bool tap_send(NetDev *nd, const struct iovec *iov, unsigned n)
{
    Tap *t = (Tap *)nd;

    while (!t->gone && write_frame(t->fd, iov, n) < 0) {
        if (errno == EAGAIN) {
            t->want_write = true;
            update_watch(t);
            return false;
        }
        if (errno == EBADFD)
            gone(t);
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
    len = read_frame(t->fd, t->list, n + 1);
    if (len <= 0 || (size_t)len <= room)
        return len;
    errno = EMSGSIZE;
    return -1;
}

ssize_t tap_receive(NetDev *nd, const struct iovec *iov, unsigned n)
{
    Tap *t = (Tap *)nd;
    size_t room = iov_len(iov, n);

    while (!t->gone) {
        ssize_t len = room < NET_MAX_FRAME ? receive_checked(t, iov, n, room)
                                           : read_frame(t->fd, iov, n);

        if (len > 0)
            return len;
        if (len == 0 || errno == EAGAIN)
            return 0;
        if (errno == EMSGSIZE || errno == EINVAL || errno == EFAULT)
            return -1;
        if (errno == EBADFD || errno == EIO)
            gone(t);
        else if (errno != EINTR)
            return 0;
    }
    return 0;
}
