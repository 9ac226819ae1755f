/* A virtio device that another process serves (vhost-user); see vhost_user_private.h.
 *
 * Theory of operation.  The driver's registers are ours, as for every device.  At
 * DRIVER_OK the back end gets guest RAM, the rings, and two eventfds for each: the kick,
 * which is the one that the kernel signals for the guest, and the call, which the kernel
 * turns into the interrupt of an MSI-X vector.  So requests cost us nothing.  We watch
 * the call, too: it reaches us when the kernel does not take it, because the vector is
 * masked, or there is none (INTx, virtio-mmio), and we pass it on.
 *
 * Loss.  A back end may die.  The guest is not told: its requests wait, and the next back
 * end goes on.  What the first one was at, the second finds in the in-flight memory,
 * where back ends keep one.  Of a kind that answers in order, the used index says the
 * same.  All others do not get the driver's rings, but ours (vhost_user_relay.c).
 *
 * All of this is done by a small machine on the device's loop:
 *
 *     DOWN --timer--> KNOCKING --answer--> UP --hang-up--> DOWN
 *
 * and only the step at the answer waits, for replies of a back end that is alive, and not
 * longer than ANSWER_MS.  What the vCPU or main thread wait for, DRIVER_OK, reset and
 * pause, is bounded likewise; a back end that exceeds it is dropped, and one that says
 * what cannot be breaks the device.
 *
 * Pause.  The rings are first given half a second to become empty, then stopped, each of
 * which returns where it is to go on. */
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "util/bits.h"
#include "util/fd.h"
#include "util/unixsocket.h"
#include "vhost_user_private.h"

enum {
    START_MS = 10000, /* the first time: a helper has to start, and a person waits */
    ANSWER_MS = VHOST_ANSWER_MS,
    HURRY_MS = 100,
};
static const int64_t KNOCK_NS = 10 * 1000000000ll, RETRY_MIN_NS = 10000000,
                     RETRY_MAX_NS = 1000000000, STABLE_NS = 1000000000;

static void retry(void *opaque);
static void on_socket(void *opaque, uint32_t events);
static void on_visitor(void *opaque, uint32_t events);

static VhostDev *of(VirtioDevice *v)
{
    return (VhostDev *)v;
}

void vhost_dev_limit(VhostDev *d, unsigned ms)
{
    vhost_user_limit(&d->u, __atomic_load_n(&d->hurry, __ATOMIC_RELAXED) ? HURRY_MS : ms);
}

/* ---- losing the back end ---------------------------------------------------------- */

static void disconnect(VhostDev *d)
{
    ioloop_timer_cancel(&d->timer);
    ioloop_unwatch(&d->watch);
    vhost_user_close(&d->u);
    ioloop_unwatch(&d->accept_watch);
    if (d->helper)
        d->helper_ops->stop(d->helper);
    for (unsigned i = 0; d->queues && i < d->v.n_queues; i++)
        d->queues[i].base_known = false;
    if (d->relay)
        relay_stop(d->relay);
    d->started = false;
    d->link = LINK_DOWN;
}

void vhost_link_try_later(VhostDev *d)
{
    int64_t at = clock_ns() + d->retry_ns;

    d->retry_ns = MIN(2 * d->retry_ns, RETRY_MAX_NS);
    if (d->helper)
        at = MAX(at, d->helper_ops->next_start(d->helper));
    if (!d->listens || !ioloop_watch(d->v.loop, &d->accept_watch, d->listener.fd, EPOLLIN,
                                     on_visitor, d, NULL))
        ioloop_timer(d->v.loop, &d->timer, at, retry, d);
}

/* Takes over `why`. */
void vhost_dev_lost(VhostDev *d, GError *why)
{
    bool was_up = d->link == LINK_UP;

    vhost_rings_reap_last(d);
    disconnect(d);
    if (g_error_matches(why, VM_ERROR, VM_ERROR_CORRUPT)) {
        d->link = LINK_LIED;
        virtio_broken(&d->v, "%s", why->message);
    } else {
        d->told = was_up ? log_limit(&d->log_limit) : d->told;
        if (was_up && d->told)
            log_warn("%s: %s; %s until the back end is back", d->v.id, why->message,
                     d->lossy ? "the guest has no network" : "requests wait");
        vhost_link_try_later(d);
    }
    if (was_up && d->link_changed)
        d->link_changed(d, false);
    g_error_free(why);
}

/* ---- the connection --------------------------------------------------------------- */

void vhost_link_start(VhostDev *d)
{
    GError *why = NULL;

    if (!d->running || d->started || d->cut || d->link != LINK_UP)
        return;
    vhost_dev_limit(d, ANSWER_MS);
    if (!vhost_rings_start(d, &why))
        vhost_dev_lost(d, why);
}

/* Only a hang-up can make it readable: nothing has been asked. */
static void on_hangup(void *opaque, uint32_t events)
{
    vhost_dev_lost(opaque, g_error_new(VM_ERROR, VM_ERROR_IO, "the back end hung up"));
}

static void on_error(void *opaque, uint32_t events)
{
    VhostDev *d = opaque;

    fd_event_take(d->err_fd);
    if (d->started)
        vhost_dev_lost(d, g_error_new(VM_ERROR, VM_ERROR_CORRUPT,
                                      "the back end reports an error of a queue"));
}

static int connect_now(VhostDev *d, GError **error)
{
    int fd;

    if (d->helper)
        return d->helper_ops->start(d->helper, error);
    if (!d->listens)
        return unix_connect_now(d->socket, error);
    fd = accept4(d->listener.fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        fail_errno(error, "no back end has connected");
    return fd;
}

static bool knock(VhostDev *d, GError **error)
{
    int fd = connect_now(d, error);

    if (fd < 0)
        return false;
    d->link = LINK_KNOCKING;
    return vhost_user_knock(&d->u, fd, error);
}

static bool can_log(const VhostDev *d)
{
    return !d->relay && vhost_user_logs(&d->u);
}

static bool offers_all(const VhostDev *d, GError **error)
{
    uint64_t needed = d->agreed | (d->relay ? VHOST_RELAY_FEATURES : 0);

    return (!(needed & ~d->u.features) && (!d->logs || can_log(d)) &&
            (d->relay || d->in_order || vhost_user_has(&d->u, VHOST_USER_P_INFLIGHT))) ||
           fail(error, VM_ERROR_CORRUPT,
                "the back end came back without features that the driver was told of");
}

static bool read_config(VhostDev *d, uint8_t *config, GError **error)
{
    if (!d->config_len)
        return true;
    if (!vhost_user_has(&d->u, VHOST_USER_P_CONFIG))
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "the back end has no config space (VHOST_USER_PROTOCOL_F_CONFIG); "
                    "use another one");
    return vhost_user_get_config(&d->u, config, d->config_len, error);
}

/* Hears the answer to the knock, and what else there is to know. */
static bool greet(VhostDev *d, uint8_t *config, GError **error)
{
    if (!vhost_user_greet(&d->u, error) || !read_config(d, config, error))
        return false;
    ioloop_unwatch(&d->watch);
    ioloop_timer_cancel(&d->timer);
    d->link = LINK_UP;
    if (d->helper && d->helper_ops->serves)
        d->helper_ops->serves(d->helper);
    return true;
}

static bool watch_link(VhostDev *d, GError **error)
{
    return ioloop_watch(d->v.loop, &d->watch, d->u.fd, EPOLLIN, on_hangup, d, error);
}

static void on_stable(void *opaque)
{
    ((VhostDev *)opaque)->retry_ns = RETRY_MIN_NS;
}

static void on_socket(void *opaque, uint32_t events)
{
    VhostDev *d = opaque;
    uint8_t config[VHOST_USER_MAX_CONFIG];
    GError *why = NULL;

    vhost_dev_limit(d, ANSWER_MS);
    if (!greet(d, config, &why) || !watch_link(d, &why) || !offers_all(d, &why) ||
        (d->came_back && !d->came_back(d, config, &why))) {
        vhost_dev_lost(d, why);
        return;
    }
    if (d->told)
        log_info("%s: the back end is back", d->v.id);
    if (d->link_changed)
        d->link_changed(d, true);
    ioloop_timer(d->v.loop, &d->timer, clock_ns() + STABLE_NS, on_stable, d);
    vhost_link_start(d);
}

static void on_silence(void *opaque)
{
    vhost_dev_lost(opaque,
                   g_error_new(VM_ERROR, VM_ERROR_BUSY, "the back end does not answer"));
}

static void retry(void *opaque)
{
    VhostDev *d = opaque;
    GError *why = NULL;

    vhost_dev_limit(d, ANSWER_MS);
    if (!knock(d, &why) ||
        !ioloop_watch(d->v.loop, &d->watch, d->u.fd, EPOLLIN, on_socket, d, &why))
        vhost_dev_lost(d, why);
    else
        ioloop_timer(d->v.loop, &d->timer, clock_ns() + KNOCK_NS, on_silence, d);
}

/* Where we listen: a back end wants to be let in. */
static void on_visitor(void *opaque, uint32_t events)
{
    VhostDev *d = opaque;

    ioloop_unwatch(&d->accept_watch);
    retry(d);
}

/* ---- making it -------------------------------------------------------------------- */

typedef struct LoopCall {
    VhostDev *d;
    bool ok;
    GError **error;
} LoopCall;

static bool listen_first(VhostDev *d, GError **error)
{
    struct pollfd p = {.events = POLLIN};

    if (!d->listens)
        return true;
    if (!unix_listen(&d->listener, d->socket, 1, error))
        return false;
    p.fd = d->listener.fd;
    return poll(&p, 1, clock_left_ms(d->u.deadline_ns)) == 1 ||
           fail(error, VM_ERROR_BUSY,
                "no back end has connected; start it, as a client, within %d seconds",
                START_MS / 1000);
}

static void first_contact(void *opaque)
{
    LoopCall *call = opaque;
    VhostDev *d = call->d;
    const char *words;

    vhost_dev_limit(d, START_MS);
    call->ok = listen_first(d, call->error) && knock(d, call->error) &&
               vhost_user_wait(&d->u, call->error) && greet(d, d->config, call->error);
    if (call->ok || !call->error || !d->helper)
        return;
    words = d->helper_ops->last_words(d->helper);
    if (*words) {
        g_autofree char *copy = g_strdup(words);

        g_clear_error(call->error);
        fail(call->error, VM_ERROR_IO, "%s: %s", d->helper_ops->name, copy);
    }
}

static bool agree(VhostDev *d, GError **error)
{
    VirtioDevice *v = &d->v;
    bool direct = d->in_order || vhost_user_has(&d->u, VHOST_USER_P_INFLIGHT);

    if (!(d->u.features & BIT64(VIRTIO_F_VERSION_1)))
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "the back end knows only virtio before 1.0; use a newer one");
    if (!direct && !(d->u.features & BIT64(VIRTIO_F_INDIRECT_DESC)))
        return fail(error, VM_ERROR_UNSUPPORTED,
                    "the back end neither keeps in-flight memory nor knows indirect "
                    "descriptors; use a newer one");
    v->offered = d->u.features & (d->features | (direct ? VHOST_RING_FEATURES : 0));
    d->agreed = v->offered;
    if (!d->agree(d, error))
        return false;
    if (!d->n_rings)
        d->n_rings = v->n_queues;
    d->n_enabled = d->n_rings;
    v->rings_elsewhere = direct ? d->n_rings : 0;
    return d->n_rings <= MIN(d->u.max_queues, VIRTIO_MAX_QUEUES) ||
           fail(error, VM_ERROR_INVALID,
                "the back end serves only %" G_GUINT64_FORMAT
                " queues, and %u are needed; lower queues=",
                d->u.max_queues, d->n_rings);
}

static void on_call(void *opaque, uint32_t events)
{
    vhost_rings_pass_on(opaque);
}

static void watch_signals(void *opaque)
{
    LoopCall *call = opaque;
    VhostDev *d = call->d;

    for (unsigned i = 0; i < d->v.n_queues && call->ok; i++)
        call->ok = ioloop_watch(d->v.loop, &d->queues[i].watch, d->queues[i].call_fd,
                                EPOLLIN, on_call, &d->queues[i], call->error);
    call->ok = call->ok &&
               ioloop_watch(d->v.loop, &d->err_watch, d->err_fd, EPOLLIN, on_error, d,
                            call->error) &&
               watch_link(d, call->error);
}

static bool make_signals(VhostDev *d, GError **error)
{
    d->queues = g_new0(VhostQueue, d->v.n_queues);
    for (unsigned i = 0; i < d->v.n_queues; i++)
        d->queues[i] = (VhostQueue){.d = d, .index = i, .call_fd = -1};
    for (unsigned i = 0; i < d->v.n_queues; i++)
        if ((d->queues[i].call_fd = fd_event(error)) < 0)
            return false;
    d->err_fd = fd_event(error);
    if (d->err_fd < 0)
        return false;
    if (!d->v.rings_elsewhere)
        d->relay = relay_new(d, error);
    d->logs = can_log(d);
    return d->v.rings_elsewhere || d->relay;
}

void vhost_dev_init(VirtioDevice *v)
{
    VhostDev *d = of(v);

    d->u.fd = d->err_fd = d->inflight.fd = d->listener.fd = -1;
    d->retry_ns = RETRY_MIN_NS;
}

bool vhost_dev_realize(VhostDev *d, GError **error)
{
    LoopCall call = {.d = d, .error = error};

    if (d->v.gm->fd < 0)
        return fail(
            error, VM_ERROR_UNSUPPORTED,
            "the guest's memory is this process's own, and another one is to work "
            "in it; start the VM with --memory SIZE,shared");
    ioloop_call(d->v.loop, first_contact, &call);
    if (call.ok && agree(d, error) && make_signals(d, error)) {
        ioloop_call(d->v.loop, watch_signals, &call);
        return call.ok;
    }
    if (d->socket)
        g_prefix_error(error, "socket '%s': ", d->socket);
    return false;
}

static void finish(void *opaque)
{
    VhostDev *d = opaque;

    disconnect(d);
    ioloop_unwatch(&d->err_watch);
    for (unsigned i = 0; d->queues && i < d->v.n_queues; i++)
        ioloop_unwatch(&d->queues[i].watch);
    unix_unlisten(&d->listener);
    if (d->helper)
        d->helper_ops->free(d->helper);
}

void vhost_dev_release(VirtioDevice *v)
{
    VhostDev *d = of(v);

    if (!d->retry_ns)
        return; /* realize was not come to */
    ioloop_call(v->loop, finish, d);
    for (unsigned i = 0; d->queues && i < v->n_queues; i++)
        fd_close(&d->queues[i].call_fd);
    fd_close(&d->err_fd);
    vhost_inflight_clear(&d->inflight);
    relay_free(d->relay);
    g_free(d->queues);
    g_free(d->socket);
}
