/* A macvtap as the other end of the card's wire (--net macvtap,parent=eth0): an interface
 * with the card's address on top of one of the host's, made for this card by netlink and
 * deleted at its end (Linux, drivers/net/macvtap.c, macvlan.c).  That needs
 * CAP_NET_ADMIN, and access to the device node of its queues, /dev/tapN.
 *
 * Nothing takes a macvtap away when its user is killed.  So each of ours has a name made
 * for it, and while its user lives, a unix socket that is bound to that name in the
 * abstract namespace, which is the network namespace's as the interface is, and which
 * the kernel releases however we end.  Whoever makes a macvtap first deletes those whose
 * name nobody holds any more.
 *
 * The node.  udev or devtmpfs make /dev/tapN, by the number of the interface, which in a
 * network namespace of its own may be that of another's.  sysfs knows which device is
 * ours, so a node of other numbers is not opened; one of our own, in a folder that is
 * gone again at once, takes its place where that is permitted. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

#include "src/net/netlink.h"
#include "src/net/tap_private.h"
#include "util/fd.h"

#define PREFIX "hutch"
enum { DIGITS = 8 };

static const struct {
    const char *name;
    uint32_t mode;
} modes[] = {
    {"bridge", MACVLAN_MODE_BRIDGE},
    {"private", MACVLAN_MODE_PRIVATE},
    {"vepa", MACVLAN_MODE_VEPA},
    {"passthru", MACVLAN_MODE_PASSTHRU},
};

/* 0: there is no such mode. */
static uint32_t mode_of(const NetDevOptions *o)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(modes); i++)
        if (!o->mode || g_str_equal(o->mode, modes[i].name))
            return modes[i].mode;
    return 0;
}

static bool macvtap_check(const NetDevOptions *o, GError **error)
{
    if (!o->parent)
        return fail(error, VM_ERROR_INVALID,
                    "on top of which interface of the host? Say so, as in '--net "
                    "macvtap,parent=eth0'");
    return mode_of(o) ||
           fail(error, VM_ERROR_INVALID,
                "mode=%s is not one of a macvtap's: bridge, private, vepa or passthru",
                o->mode);
}

/* ---- whose it is ------------------------------------------------------------------ */

/* A socket that holds the name: -1 if another has it, or on failure. */
static int hold_name(const char *ifname)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int n = snprintf(a.sun_path + 1, sizeof(a.sun_path) - 1, "hutch-link/%s", ifname);
    autofd fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&a,
                       (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n)) < 0)
        return -1;
    return fd_steal(&fd);
}

static bool is_ours(const NlLink *l)
{
    const char *digits = l->name + strlen(PREFIX);

    return g_str_equal(l->kind, "macvtap") && g_str_has_prefix(l->name, PREFIX) &&
           strlen(digits) == DIGITS && strspn(digits, "0123456789abcdef") == DIGITS;
}

static void delete_if_left(void *opaque, const NlLink *l)
{
    const int *nl = opaque;
    autofd held = is_ours(l) ? hold_name(l->name) : -1;

    if (held >= 0 && netlink_delete(*nl, l->index) == 0)
        log_info("deleted macvtap %s, whose VM was killed", l->name);
}

/* On two sockets: deleting is asked while the list is being heard. */
static void delete_left_ones(int nl)
{
    autofd changes = netlink_open();

    if (changes >= 0)
        netlink_list(nl, delete_if_left, &changes);
}

/* ---- its device node -------------------------------------------------------------- */

/* Of the queue, as sysfs has it; false: it has not got it. */
static bool device_of(const char *ifname, int index, dev_t *ret)
{
    g_autofree char *path = g_strdup_printf("/sys/class/net/%s/macvtap/tap%d/dev", ifname,
                                            index);
    g_autofree char *text = NULL;
    unsigned major, minor;

    if (!g_file_get_contents(path, &text, NULL, NULL) ||
        sscanf(text, "%u:%u", &major, &minor) != 2)
        return false;
    *ret = makedev(major, minor);
    return true;
}

/* Opens the node that is there, if it is that device. */
static int open_node(const char *path, dev_t device)
{
    autofd fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    struct stat st;

    if (fd < 0)
        return -1;
    if (fstat(fd, &st) < 0 || !S_ISCHR(st.st_mode) || st.st_rdev != device) {
        errno = ENOENT;
        return -1;
    }
    return fd_steal(&fd);
}

/* A node of our own, for as long as it takes to open it.  In /dev, since other places
 * are mounted so that no device can be opened there. */
static int make_node(dev_t device)
{
    char folder[] = "/dev/hutch-XXXXXX";
    g_autofree char *path = NULL;
    int fd = -1, err;

    if (!mkdtemp(folder))
        return -1;
    path = g_build_filename(folder, "tap", NULL);
    if (mknod(path, S_IFCHR | 0600, device) == 0)
        fd = open_node(path, device);
    err = errno;
    unlink(path);
    rmdir(folder);
    errno = err;
    return fd;
}

/* False with errno; ENODEV: /sys does not show it. */
static bool open_queue(Tap *t, Tap *queue)
{
    g_autofree char *path = g_strdup_printf("/dev/tap%d", t->index);
    struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR |
                                     IFF_MULTI_QUEUE};
    dev_t device;

    errno = ENODEV;
    if (!device_of(t->ifname, t->index, &device))
        return false;
    queue->fd = open_node(path, device);
    if (queue->fd < 0 && errno == ENOENT)
        queue->fd = make_node(device);
    return queue->fd >= 0 && ioctl(queue->fd, TUNSETIFF, &ifr) == 0;
}

static bool open_first(Tap *t, GError **error)
{
    if (open_queue(t, t))
        return true;

    if (errno == ENODEV)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "/sys does not show macvtap %s: it has to be mounted, in the network "
                    "namespace that the VM is in",
                    t->ifname);
    if (errno == EACCES || errno == EPERM)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "no permission to open /dev/tap%d, the device of macvtap %s: run as "
                    "root, or have a udev rule give it to %s",
                    t->index, t->ifname, g_get_user_name());
    return fail_errno(error, "open /dev/tap%d, the device of macvtap %s", t->index,
                      t->ifname);
}

/* ---- the interface ---------------------------------------------------------------- */

static bool fail_parent(int nl, const char *parent, GError **error)
{
    g_autofree char *there = netlink_names(nl, NULL);

    return fail(error, VM_ERROR_NOT_FOUND, "this host has no interface %s; there %s %s",
                parent, there ? "are:" : "is", there ? there : "none");
}

static bool fail_add(const NetDevOptions *o, int err, GError **error)
{
    if (err == EPERM || err == EACCES)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "no permission to make a macvtap on %s: that takes CAP_NET_ADMIN; "
                    "--net user needs none",
                    o->parent);
    if (err == EOPNOTSUPP)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "this host has no macvtap: load it with 'sudo modprobe macvtap'");
    if (err == EBUSY || err == EINVAL)
        return fail(error, VM_ERROR_BUSY,
                    "interface %s can carry no macvtap with mode=%s (%s): it may be a "
                    "bridge's port (use --net bridge=), have a macvtap with "
                    "mode=passthru, or be of a kind that cannot",
                    o->parent, o->mode ? o->mode : modes[0].name, g_strerror(err));
    errno = err;
    return fail_errno(error, "make a macvtap on %s", o->parent);
}

static bool choose_name(Tap *t, GError **error)
{
    uint32_t random;

    if (getrandom(&random, sizeof(random), 0) != sizeof(random))
        return fail_errno(error, "make up a name");
    snprintf(t->ifname, sizeof(t->ifname), PREFIX "%08x", random);
    t->owner_fd = hold_name(t->ifname);
    return t->owner_fd >= 0 || fail_errno(error, "hold the name %s", t->ifname);
}

/* All multicast, because what the guest listens to is not told to us. */
static bool set_up(Tap *t, int nl, const NlLink *parent, const uint8_t mac[6],
                   GError **error)
{
    const NlChange change = {.flags = IFF_UP | IFF_ALLMULTI};
    NlLink link;
    int err = netlink_get(nl, t->ifname, &link);

    if (!err) {
        t->index = link.index;
        t->nd.mtu = link.mtu;
        err = netlink_change(nl, t->index, &change);
    }
    if (err == EADDRINUSE)
        return fail(error, VM_ERROR_BUSY,
                    "interface %s, or another macvtap on it, has the address "
                    "%02x:%02x:%02x:%02x:%02x:%02x: give this card another with mac=",
                    parent->name, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
    errno = err;
    return !err || fail_errno(error, "set macvtap %s up", t->ifname);
}

static bool attach(Tap *t, const NetDevOptions *o, const NetDevCard *card, GError **error)
{
    autofd nl = netlink_open();
    NlLink parent;
    int err;

    if (nl < 0)
        return fail_errno(error, "ask the kernel for its interfaces");
    if (netlink_get(nl, o->parent, &parent) != 0)
        return fail_parent(nl, o->parent, error);
    if (!(parent.flags & IFF_UP))
        log_warn("interface %s is down: 'sudo ip link set %s up' lets frames pass",
                 o->parent, o->parent);
    delete_left_ones(nl);
    if (!choose_name(t, error))
        return false;
    t->all_frames = mode_of(o) == MACVLAN_MODE_PASSTHRU;
    err = netlink_add_macvtap(nl, t->ifname, parent.index, mode_of(o), card->mac);
    if (err)
        return fail_add(o, err, error);
    return set_up(t, nl, &parent, card->mac, error) && open_first(t, error) &&
           tap_add_queues(t, card->queues, open_queue, error);
}

static void macvtap_close(NetDev *nd)
{
    Tap *t = (Tap *)nd;
    autofd nl = t->index ? netlink_open() : -1;
    int err = nl >= 0 ? netlink_delete(nl, t->index) : 0;

    if (err && !t->gone)
        log_warn("macvtap %s is left behind: %s", t->ifname, g_strerror(err));
    tap_free(t);
}

static NetDev *macvtap_open(const NetDevOptions *o, const NetDevCard *card, IoLoop *loop,
                            GError **error)
{
    Tap *t = tap_new();

    if (!card)
        fail(error, VM_ERROR_INVALID, "a macvtap has a card's address, and this is none");
    else if (attach(t, o, card, error) && tap_begin(t, loop, error))
        return &t->nd;
    macvtap_close(&t->nd);
    return NULL;
}

/* The interface takes frames for its own address only; in mode passthru all of them, and
 * its address is its parent's, which is not ours to change. */
static void macvtap_set_mac(NetDev *nd, const uint8_t mac[6])
{
    Tap *t = (Tap *)nd;
    const NlChange change = {.mac = mac};
    autofd nl = t->all_frames ? -1 : netlink_open();
    int err = nl >= 0 ? netlink_change(nl, t->index, &change) : 0;

    if (err && !t->gone && log_limit(&t->warned))
        log_warn("macvtap %s does not take the address that the guest gave its card: %s",
                 t->ifname, g_strerror(err));
}

const NetDevOps netdev_macvtap_ops = {
    .name = "macvtap",
    .check = macvtap_check,
    .open = macvtap_open,
    .close = macvtap_close,
    .set_mac = macvtap_set_mac,
    TAP_FRAMES,
};
