/* User-mode networking: libslirp plays the guest's router, DHCP and DNS server, and turns
 * its connections into sockets of this process.  No privilege is needed.
 * slirp_network.c says which network that is.
 *
 * libslirp wants to be asked, before each sleep, which sockets it waits for, and told,
 * after it, what happened to them.  The first is the job of a poller on the card's loop,
 * which is called before each sleep and does nothing unless something happened to
 * libslirp since (`stale`); so the cost of going through its sockets is paid once per
 * turn of the loop, not once per frame.  slirp_fds.c has the rest.
 *
 * Frames to the guest wait in a bounded ring.  Above half of it, sockets are no longer
 * read, so that the kernel holds the data back; what arrives at a full ring is dropped.
 *
 * libslirp parses what the guest sends, on this thread; slirp_filter.c stands before it.
 * Its messages go to our log, rate-limited.
 *
 * libslirp keeps its clock and its DNS cache in globals, so instances on two threads must
 * not be in it at once: one lock, taken without contention unless there are two such
 * cards.  It is a leaf. */
#include <libslirp.h>
#include <linux/if_ether.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>

#include "packet/offload.h"
#include "src/net/netdev_private.h"
#include "src/net/slirp_private.h"
#include "util/iov.h"
#include "util/lock.h"
#include "util/log.h"

enum {
    RING_FRAMES = 512, /* a power of two */
    RING_CROWDED = RING_FRAMES / 2,
    MAX_UNANSWERED = 32,   /* further forwards are not told of */
    NOTHING_DUE_MS = 1000, /* what libslirp answers when it waits for nothing */
    QUIET_MS = 120000,     /* after which nothing is left of connections that ended */
};

typedef struct Frame {
    uint16_t len;
    uint8_t data[ETH_HLEN + SLIRP_MTU];
} Frame;

typedef struct User User;

typedef struct UserTimer {
    IoTimer timer;
    User *user;
    SlirpTimerId id;
    void *cb_opaque;
} UserTimer;

struct User {
    NetDev nd;
    Slirp *slirp;
    UserTimer timers[SLIRP_TIMER_NUM];
    IoTimer deadline;
    IoPoller poller;
    IoWatch sockets; /* of fds.epoll_fd */
    bool stale;      /* something happened: take a turn before sleeping */
    bool has_event;  /* `sockets` is readable */
    bool is_due;     /* the deadline has come */
    int64_t busy_ns; /* when anything last happened but that */
    bool routed;     /* somebody routes to it, and needs no router advertisements */
    unsigned max_sockets;
    unsigned sender; /* the guest whose frame libslirp is given; else SLIRP_NOBODY */
    SlirpFilter filter;
    SlirpFlows flows;
    unsigned next_probe;   /* of flows.flow: those before it are probed, or need not be */
    unsigned n_unanswered; /* ports that are forwarded to, and nobody has taken up */
    uint16_t unanswered[MAX_UNANSWERED];

    uint32_t head, tail; /* of ring, free-running: next to fill, next to take */
    uint8_t out[NET_MAX_FRAME];
    Frame ring[RING_FRAMES];
    SlirpFds fds; /* last, and big: pages that are not used are not there */
};

static Lock libslirp_lock = LOCK_INIT;

static User *user_of(NetDev *nd)
{
    return (User *)nd;
}

/* ---- what libslirp calls: loop's thread, libslirp_lock held -------------------- */

static ssize_t on_frame(const void *buf, size_t len, void *opaque)
{
    User *u = opaque;
    Frame *f = &u->ring[u->head % RING_FRAMES];

    /* The length is returned in any case: a drop is no error to libslirp. */
    if (u->head - u->tail == RING_FRAMES || len > sizeof(f->data))
        return (ssize_t)len;
    memcpy(f->data, buf, len);
    f->len = (uint16_t)len;
    u->head++;
    slirp_flows_received(&u->flows, f->data, len);
    return (ssize_t)len;
}

static void on_guest_error(const char *msg, void *opaque)
{
    static LogLimit limit;

    if (log_limit(&limit))
        log_debug("user network: %s", msg);
}

static int64_t on_clock(void *opaque)
{
    return clock_ns();
}

static void *on_timer_new(SlirpTimerId id, void *cb_opaque, void *opaque)
{
    User *u = opaque;
    UserTimer *t = &u->timers[id];

    t->user = u;
    t->id = id;
    t->cb_opaque = cb_opaque;
    return t;
}

static void on_timer_free(void *timer, void *opaque)
{
    UserTimer *t = timer;

    ioloop_timer_cancel(&t->timer);
}

static void timer_expired(void *opaque)
{
    UserTimer *t = opaque;

    LOCK_GUARD(&libslirp_lock);
    slirp_handle_timer(t->user->slirp, t->id, t->cb_opaque);
    t->user->stale = true;
}

static void on_timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
    User *u = opaque;
    UserTimer *t = timer;

    if (u->routed && t->id == SLIRP_TIMER_RA)
        return;
    ioloop_timer(u->nd.loop, &t->timer, expire_ms * 1000000, timer_expired, t);
}

static void on_register_fd(int fd, void *opaque)
{
    User *u = opaque;

    slirp_fds_opened(&u->fds, fd, u->sender);
}

static void on_unregister_fd(int fd, void *opaque)
{
    slirp_fds_closing(&((User *)opaque)->fds, fd);
}

static void on_notify(void *opaque)
{
    User *u = opaque;

    u->stale = true;
}

static const SlirpCb user_callbacks = {
    .send_packet = on_frame,
    .guest_error = on_guest_error,
    .clock_get_ns = on_clock,
    .timer_free = on_timer_free,
    .timer_mod = on_timer_mod,
    .register_poll_fd = on_register_fd,
    .unregister_poll_fd = on_unregister_fd,
    .notify = on_notify,
    .timer_new_opaque = on_timer_new,
};

static void on_log(const char *domain, GLogLevelFlags level, const char *message,
                   void *opaque)
{
    static LogLimit limit;

    if (log_limit(&limit))
        log_debug("user network: libslirp: %s", message);
}

/* ---- the turn: libslirp's view of its sockets ---------------------------------- */

static int on_revents(int fd, void *opaque)
{
    return slirp_fds_revents(&((User *)opaque)->fds, fd);
}

static int on_poll_fd(int fd, int events, void *opaque)
{
    User *u = opaque;

    if (u->head - u->tail > RING_CROWDED)
        events &= SLIRP_POLL_OUT | SLIRP_POLL_ERR;
    return slirp_fds_want(&u->fds, fd, events);
}

static void deadline_expired(void *opaque)
{
    User *u = opaque;

    u->stale = u->is_due = true;
}

/* libslirp wants to be asked twice a second as long as it listens anywhere, for the sake
 * of connections that there may be; not so here when there are none, nor were a while
 * ago. */
static bool is_quiet(User *u)
{
    int64_t now_ns = clock_ns();

    if (u->fds.n_open || !u->is_due)
        u->busy_ns = now_ns;
    u->is_due = false;
    return now_ns - u->busy_ns > QUIET_MS * 1000000ll;
}

static void user_turn(User *u)
{
    uint32_t wait_ms = UINT32_MAX;
    bool has_event = u->has_event, quiet = is_quiet(u);

    u->has_event = u->stale = false;
    LOCK_GUARD(&libslirp_lock);
    if (has_event)
        slirp_fds_collect(&u->fds);
    slirp_pollfds_poll(u->slirp, 0, on_revents, u); /* sends what it has queued, too */
    slirp_fds_begin(&u->fds);
    slirp_pollfds_fill(u->slirp, &wait_ms, on_poll_fd, u);
    slirp_fds_sync(&u->fds);
    if (wait_ms < NOTHING_DUE_MS && !quiet)
        ioloop_timer(u->nd.loop, &u->deadline, clock_ns() + wait_ms * 1000000ll,
                     deadline_expired, u);
    else
        ioloop_timer_cancel(&u->deadline);
}

static bool has_frame(const User *u)
{
    return u->head != u->tail;
}

/* Connections from before a restore, as far as there is room in the ring. */
static void probe_flows(User *u)
{
    for (; u->next_probe < SLIRP_MAX_FLOWS; u->next_probe++) {
        Frame *f = &u->ring[u->head % RING_FRAMES];
        SlirpFlow *flow = &u->flows.flow[u->next_probe];

        if (u->head - u->tail >= RING_CROWDED)
            return;
        if (flow->used) {
            f->len = (uint16_t)slirp_flow_probe(&u->flows, flow, f->data);
            u->head++;
        }
    }
}

static bool user_poll(void *opaque)
{
    User *u = opaque;

    if (u->next_probe < SLIRP_MAX_FLOWS)
        probe_flows(u);
    if (u->stale)
        user_turn(u);
    if (has_frame(u) && u->nd.reading && u->nd.readable)
        u->nd.readable(u->nd.opaque);
    return u->stale ||
           (u->nd.reading && (has_frame(u) || u->next_probe < SLIRP_MAX_FLOWS));
}

static void sockets_event(void *opaque, uint32_t events)
{
    User *u = opaque;

    u->stale = u->has_event = true;
}

/* ---- frames -------------------------------------------------------------------- */

/* Tells once of each forwarded port that the guest takes up a connection there. */
static void look_for_answer(User *u, size_t len)
{
    uint16_t port = slirp_filter_accepts(u->out, len);

    for (unsigned i = 0; port && i < u->n_unanswered; i++) {
        if (u->unanswered[i] != port)
            continue;
        u->unanswered[i] = u->unanswered[--u->n_unanswered];
        if (u->nd.answered)
            u->nd.answered(u->nd.opaque, port);
        return;
    }
}

static bool user_send(NetDev *nd, const struct iovec *iov, unsigned n)
{
    User *u = user_of(nd);
    size_t len = iov_to_buf(iov, n, NET_HDR_LEN, u->out, sizeof(u->out));
    unsigned sender = u->routed ? slirp_fds_owner(u->out, len) : SLIRP_NOBODY;
    VnetHdr hdr;

    if (u->nd.offloads) {
        iov_to_buf(iov, n, 0, &hdr, sizeof(hdr));
        vnet_finish_checksum(&hdr, u->out, len);
    }
    slirp_flows_sent(&u->flows, u->out, len);
    if (slirp_filter_admits(&u->filter, u->out, len,
                            slirp_fds_full(&u->fds, sender, u->max_sockets))) {
        LOCK_GUARD(&libslirp_lock);
        u->sender = sender;
        slirp_input(u->slirp, u->out, (int)len);
        u->sender = SLIRP_NOBODY;
        u->stale = true;
    }
    if (u->n_unanswered)
        look_for_answer(u, len);
    return true;
}

static ssize_t user_receive(NetDev *nd, const struct iovec *iov, unsigned n)
{
    User *u = user_of(nd);
    const Frame *f = &u->ring[u->tail % RING_FRAMES];
    size_t len;

    if (!has_frame(u))
        return 0;
    len = NET_HDR_LEN + f->len;
    if (iov_len(iov, n) >= len) {
        iov_fill(iov, n, 0, 0, NET_HDR_LEN);
        iov_from_buf(iov, n, NET_HDR_LEN, f->data, f->len);
    } else {
        len = 0;
    }
    u->tail++;
    if (u->head - u->tail == RING_CROWDED)
        u->stale = true; /* room again: back to reading the sockets */
    if (!has_frame(u))
        u->head = u->tail = 0; /* stay on few pages */
    return len ? (ssize_t)len : -1;
}

static void user_set_reading(NetDev *nd, bool on)
{
    /* The poller looks at nd->reading before each sleep. */
}

/* ---- forwards ------------------------------------------------------------------- */

static bool user_forward(NetDev *nd, const NetDevForward *fwd, GError **error)
{
    User *u = user_of(nd);

    LOCK_GUARD(&libslirp_lock);
    if (!slirp_forward(u->slirp, fwd, error))
        return false;
    u->stale = true;
    return true;
}

static void user_unforward(NetDev *nd, const NetDevForward *fwd)
{
    User *u = user_of(nd);

    LOCK_GUARD(&libslirp_lock);
    slirp_unforward(u->slirp, fwd);
    u->stale = true;
}

/* Those of hostfwd=. */
static bool add_forwards(User *u, char **texts, GError **error)
{
    for (; texts && *texts; texts++) {
        HostFwd fwd;

        if (!slirp_forward_text(u->slirp, *texts, &fwd, error))
            return false;
        if (!fwd.udp && u->n_unanswered < MAX_UNANSWERED)
            u->unanswered[u->n_unanswered++] = fwd.guest_port;
    }
    return true;
}

/* ---- open and close ------------------------------------------------------------ */

/* Once in a process: libslirp's messages to our log, and no SIGPIPE, which its plain
 * send() would raise when a guest writes to a connection that the other side has closed.
 */
static void prepare_process_locked(void)
{
    static bool done;
    struct sigaction sa;

    if (done)
        return;
    done = true;
    g_log_set_handler("Slirp", G_LOG_LEVEL_MASK | G_LOG_FLAG_RECURSION, on_log, NULL);
    if (sigaction(SIGPIPE, NULL, &sa) == 0 && sa.sa_handler == SIG_DFL)
        signal(SIGPIPE, SIG_IGN);
}

/* Leaves the rest of the process half of the descriptors it may have. */
static unsigned socket_limit(void)
{
    struct rlimit r = {.rlim_cur = 1024};

    getrlimit(RLIMIT_NOFILE, &r);
    return (unsigned)MIN(r.rlim_cur / 2, (rlim_t)SLIRP_MAX_SOCKETS);
}

static void user_close(NetDev *nd)
{
    User *u = user_of(nd);

    if (u->poller.fn)
        ioloop_poller_remove(nd->loop, &u->poller);
    if (u->slirp) {
        LOCK_GUARD(&libslirp_lock);
        slirp_cleanup(u->slirp);
    }
    for (unsigned i = 0; i < SLIRP_TIMER_NUM; i++)
        ioloop_timer_cancel(&u->timers[i].timer);
    ioloop_timer_cancel(&u->deadline);
    ioloop_unwatch(&u->sockets);
    slirp_fds_finish(&u->fds);
    g_free(u);
}

static bool user_start(User *u, const NetDevOptions *o, GError **error)
{
    SlirpConfig config;

    if (!slirp_fds_init(&u->fds, error))
        return false;
    if (!ioloop_watch(u->nd.loop, &u->sockets, u->fds.epoll_fd, EPOLLIN, sockets_event, u,
                      error))
        return false;
    LOCK_GUARD(&libslirp_lock);
    prepare_process_locked();
    slirp_configure(&config, o);
    u->slirp = slirp_new(&config, &user_callbacks, u);
    if (!u->slirp)
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "libslirp %s refused to start the user network: install 4.7 or later",
                    slirp_version_string());
    return add_forwards(u, o->hostfwd, error);
}

static NetDev *user_open(const NetDevOptions *o, const NetDevCard *card, IoLoop *loop,
                         GError **error)
{
    User *u = g_new0(User, 1);

    u->nd.loop = loop;
    u->fds.epoll_fd = -1; /* half-built is closed, too */
    u->routed = o->subnet;
    u->max_sockets = socket_limit();
    u->sender = SLIRP_NOBODY;
    /* It takes IPv4 segments of any size, but IPv6 packets of its MTU only. */
    u->nd.offloads = u->routed ? NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 : 0;
    u->next_probe = SLIRP_MAX_FLOWS;
    if (!user_start(u, o, error)) {
        user_close(&u->nd);
        return NULL;
    }
    u->stale = true;
    u->poller = (IoPoller){.fn = user_poll, .opaque = u};
    ioloop_poller_add(loop, &u->poller);
    return &u->nd;
}

/* ---- saved state --------------------------------------------------------------- */

static void user_save(NetDev *nd, UserState *ret)
{
    User *u = user_of(nd);

    memcpy(ret->guest_mac, u->flows.mac, sizeof(ret->guest_mac));
    ret->n_flows = slirp_flows_list(&u->flows, ret->flow);
    LOCK_GUARD(&libslirp_lock);
    slirp_state_get(u->slirp, ret);
}

static void user_load(NetDev *nd, const UserState *s)
{
    User *u = user_of(nd);

    memcpy(u->flows.mac, s->guest_mac, sizeof(u->flows.mac));
    slirp_flows_add(&u->flows, s->flow, s->n_flows);
    LOCK_GUARD(&libslirp_lock);
    slirp_state_put(u->slirp, s);
}

static void user_restored(NetDev *nd)
{
    user_of(nd)->next_probe = 0;
}

const NetDevOps netdev_user_ops = {
    .name = "user",
    .check = slirp_check,
    .open = user_open,
    .close = user_close,
    .set_reading = user_set_reading,
    .send = user_send,
    .receive = user_receive,
    .forward = user_forward,
    .unforward = user_unforward,
    .save = user_save,
    .load = user_load,
    .restored = user_restored,
};
