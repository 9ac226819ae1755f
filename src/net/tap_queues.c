/* Several queues of a tap or macvtap: a descriptor for each, opened on the same interface
 * (Linux, Documentation/networking/tuntap.rst, "Multiqueue").
 *
 * The kernel spreads what is for the guest over those that are attached, each flow to the
 * one that it was sent by last, and sends by any, attached or not.  All are opened with
 * the card, so that what is not to be had is known then, and all but the first are
 * detached until the guest uses its pairs: a queue that nobody reads would be a hole for
 * the flows that the kernel puts there. */
#include <errno.h>
#include <linux/if_tun.h>
#include <string.h>
#include <sys/ioctl.h>

#include "src/net/tap_private.h"
#include "util/fd.h"

/* #syscalls ioctl(TUNSETQUEUE) */
static bool attach(Tap *t, bool on)
{
    struct ifreq ifr = {.ifr_flags = on ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE};

    if (t->attached == on)
        return true;
    if (ioctl(t->fd, TUNSETQUEUE, &ifr) < 0)
        return false;
    t->attached = on;
    return true;
}

static Tap *queue_of(Tap *t, unsigned i)
{
    return (Tap *)netdev_queue(&t->nd, i);
}

/* The highest goes first, since the kernel puts the last of its table into the gap. */
bool tap_use_queues(NetDev *nd, unsigned n)
{
    Tap *t = (Tap *)nd;
    unsigned all = netdev_queues(nd);

    for (unsigned i = all; i-- > n;)
        if (!attach(queue_of(t, i), false) && !t->gone && log_limit(&t->warned))
            log_warn("interface %s: detach queue %u: %s", t->ifname, i,
                     g_strerror(errno));
    for (unsigned i = 1; i < n; i++) {
        if (attach(queue_of(t, i), true))
            continue;
        if (!t->gone && log_limit(&t->warned))
            log_warn("interface %s: attach queue %u: %s; frames for all pairs of the "
                     "card come by one",
                     t->ifname, i, g_strerror(errno));
        return false;
    }
    return true;
}

bool tap_add_queues(Tap *t, unsigned n, bool (*open)(Tap *t, Tap *queue), GError **error)
{
    for (unsigned i = 1; i < n; i++) {
        Tap *queue = tap_new();

        t->nd.queue[i] = &queue->nd;
        t->nd.n_queues = i + 1;
        memcpy(queue->ifname, t->ifname, sizeof(queue->ifname));
        queue->number = i;
        queue->attached = true;
        if (!open(t, queue))
            return fail_errno(error, "open queue %u of interface %s", i, t->ifname);
    }
    return tap_use_queues(&t->nd, 1) ||
           fail_errno(error, "detach queues of interface %s", t->ifname);
}

void tap_free_queues(Tap *t)
{
    for (unsigned i = 1; i < t->nd.n_queues; i++)
        tap_free(queue_of(t, i));
    t->nd.n_queues = 0;
}
