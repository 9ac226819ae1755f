/* passt as the other end of the card's wire (--net passt): the host's network for a guest
 * without privilege, as --net user is, but in a process of its own, with the host's own
 * addresses and the kernel's sockets (passt(1)).  It is started and ended with the card,
 * and started again if it ends before: the guest's connections are lost then, its
 * addresses are not.
 *
 * This is its mode=stream; passt_vhost.c is the other.
 *
 * passt does DHCP, DHCPv6 and router advertisements; there is nothing to be saved. */
#include <unistd.h>

#include "src/net/frames.h"
#include "src/net/passt_child.h"
#include "util/log.h"

typedef struct Passt {
    NetDev nd;
    FrameSocket socket;
    PasstChild *child;
    IoTimer again;
    char *id;
} Passt;

static bool passt_check(const NetDevOptions *o, GError **error)
{
    static const char *const modes[] = {"auto", "stream", "vhost-user", NULL};

    if (o->mode && !g_strv_contains(modes, o->mode))
        return fail(error, VM_ERROR_INVALID,
                    "mode=%s is not how a card is joined to passt: mode=vhost-user, "
                    "mode=stream, or mode=auto, which is the first of these that it can",
                    o->mode);
    for (char **f = o->hostfwd; f && *f; f++) {
        HostFwd fwd;

        if (!hostfwd_parse(*f, &fwd, error))
            return false;
    }
    return true;
}

/* ---- supervision ------------------------------------------------------------------ */

static const int64_t AGAIN_NS = 60 * 1000000000ll; /* after a start that failed */

/* Frames are lost until it is there, as without a cable. */
static void start_again(void *opaque)
{
    Passt *p = opaque;
    g_autoptr(GError) why = NULL;
    int fd = passt_child_start(p->child, &why);

    if (fd >= 0 && frames_attach(&p->socket, p->nd.loop, fd, &why))
        return;
    log_warn("%s: passt could not be started, which is tried again in a minute: %s",
             p->id, why->message);
    passt_child_stop(p->child);
    ioloop_timer(p->nd.loop, &p->again, clock_ns() + AGAIN_NS, start_again, p);
}

static void on_lost(void *opaque, const char *reason)
{
    Passt *p = opaque;
    const char *words = passt_child_last_words(p->child);
    int64_t next = passt_child_next_start(p->child);

    log_warn("%s: passt ended (%s), and is started again%s; the guest's connections "
             "through it are lost",
             p->id, words[0] ? words : reason,
             next > clock_ns() ? " in a minute, since it does so often" : "");
    passt_child_stop(p->child);
    ioloop_timer(p->nd.loop, &p->again, next, start_again, p);
}

/* ---- life-cycle ------------------------------------------------------------------- */

static void passt_close(NetDev *nd)
{
    Passt *p = (Passt *)nd;

    ioloop_timer_cancel(&p->again);
    frames_finish(&p->socket);
    passt_child_free(p->child);
    g_free(p->id);
    g_free(p);
}

static bool start(Passt *p, IoLoop *loop, const uint8_t mac[6], GError **error)
{
    int fd = passt_child_start(p->child, error);

    if (fd < 0)
        return false;
    if (!passt_child_wait(p->child, fd, mac, error)) {
        close(fd);
        return false;
    }
    return frames_attach(&p->socket, loop, fd, error);
}

static NetDev *passt_open(const NetDevOptions *o, const NetDevCard *card, IoLoop *loop,
                          GError **error)
{
    static const uint8_t any[6] = {2, 0, 0, 0, 0, 1};
    const char *id = card ? card->id : "uplink";
    Passt *p;

    if (g_strcmp0(o->mode, "vhost-user") == 0)
        return netdev_vhost_user_ops.open(o, card, loop, error);
    p = g_new0(Passt, 1);

    p->id = g_strdup(id);
    frames_init(&p->socket, &p->nd, loop, on_lost, p);
    p->child = passt_child_new(o, PASST_STREAM, id, loop, error);
    if (p->child && start(p, loop, card ? card->mac : any, error))
        return &p->nd;
    passt_close(&p->nd);
    return NULL;
}

/* ---- frames ----------------------------------------------------------------------- */

static void passt_set_reading(NetDev *nd, bool on)
{
    frames_set_reading(&((Passt *)nd)->socket, on);
}

static bool passt_send(NetDev *nd, const struct iovec *iov, unsigned n)
{
    return frames_send(&((Passt *)nd)->socket, iov, n);
}

static void passt_flush(NetDev *nd)
{
    frames_flush(&((Passt *)nd)->socket);
}

static ssize_t passt_receive(NetDev *nd, const struct iovec *iov, unsigned n)
{
    return frames_receive(&((Passt *)nd)->socket, iov, n);
}

const NetDevOps netdev_passt_ops = {
    .name = "passt",
    .check = passt_check,
    .open = passt_open,
    .close = passt_close,
    .set_reading = passt_set_reading,
    .send = passt_send,
    .flush = passt_flush,
    .receive = passt_receive,
};
