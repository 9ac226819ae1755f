/* The control sockets and who comes in; contract in control/control.h. */
#include "control/control.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/place.h"
#include "src/control/server_private.h"
#include "util/fd.h"
#include "util/log.h"

enum {
    MAX_SESSIONS = 64,
    BACKLOG = 128,
    RETRY_NS = 100 * 1000 * 1000,
    AWAKE_NS = 50 * 1000, /* after a request; as long as the poll window of a queue */
};
/* When others wait for its place, a client may take so long to begin its session. */
#define PATIENCE_NS 10000000000ll

/* ---- sessions ------------------------------------------------------------------ */

static void on_dead(SessionOwner *owner)
{
    ControlServer *s = (ControlServer *)owner;

    ioloop_post(s->owner.loop, &s->post);
}

/* To be woken on an idle CPU takes longer than most requests do, so the loop stays awake
 * for whoever asks one thing after another. */
static bool stay_awake(void *opaque)
{
    ControlServer *s = opaque;

    if (clock_ns() < s->awake_until_ns)
        return true;
    ioloop_poller_remove(s->owner.loop, &s->awake);
    s->awake.opaque = NULL;
    return false;
}

static void on_served(SessionOwner *owner)
{
    ControlServer *s = (ControlServer *)owner;

    s->awake_until_ns = clock_ns() + AWAKE_NS;
    if (!s->n_cpus)
        s->n_cpus = sysconf(_SC_NPROCESSORS_ONLN);
    if (s->awake.opaque || s->n_cpus == 1)
        return;
    s->awake = (IoPoller){.fn = stay_awake, .opaque = s};
    ioloop_poller_add(s->owner.loop, &s->awake);
}

static void free_dead(ControlServer *s)
{
    for (Session **at = &s->sessions; *at;) {
        Session *session = *at;

        if (session->dead) {
            *at = session->next;
            s->n_sessions--;
            session_free(session);
        } else {
            at = &session->next;
        }
    }
}

static bool may_connect(int fd)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
           (peer.uid == geteuid() || peer.uid == 0);
}

static void turn_away(int fd)
{
    static const char text[] =
        "{\"error\": {\"class\": \"GenericError\", \"desc\": \"too many clients are "
        "connected; end one of them\"}}\r\n";

    send(fd, text, sizeof(text) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* The longest connected of those that said no qmp_capabilities in time gives up its
 * place: clients that connect and say nothing keep nobody out for long. */
static void make_room(ControlServer *s)
{
    int64_t latest = clock_ns() - s->patience_ns;
    Session *oldest = NULL;

    for (Session *session = s->sessions; session; session = session->next)
        if (!session->negotiated && session->since_ns <= latest)
            oldest = session; /* the list begins with the newest */
    if (oldest) {
        session_drop(oldest);
        free_dead(s);
    }
}

static void admit(ControlServer *s, int fd, bool readonly)
{
    Session *session = session_new(&s->owner, fd, readonly, NULL);

    if (!session)
        return;
    session->next = s->sessions;
    s->sessions = session;
    s->n_sessions++;
}

static void wait_for_client(void *opaque);

static void on_connect(void *opaque, uint32_t events)
{
    Listener *l = opaque;
    ControlServer *s = l->server;
    autofd fd = accept4(l->socket.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED))
        return;
    if (fd < 0) { /* out of descriptors: not now, then */
        ioloop_unwatch(&l->watch);
        ioloop_timer(s->owner.loop, &l->retry, clock_ns() + RETRY_NS, wait_for_client, l);
    } else if (may_connect(fd)) {
        if (s->n_sessions == MAX_SESSIONS)
            make_room(s);
        if (s->n_sessions < MAX_SESSIONS)
            admit(s, fd_steal(&fd), l->readonly);
        else
            turn_away(fd);
    }
}

static void wait_for_client(void *opaque)
{
    Listener *l = opaque;

    if (!ioloop_watch(l->server->owner.loop, &l->watch, l->socket.fd, EPOLLIN, on_connect,
                      l, NULL))
        ioloop_timer(l->server->owner.loop, &l->retry, clock_ns() + RETRY_NS,
                     wait_for_client, l);
}

static void on_post(void *opaque)
{
    server_take_in(opaque);
    free_dead(opaque);
}

/* ---- life-cycle ---------------------------------------------------------------- */

static bool add_listener(ControlServer *s, const char *path, bool readonly,
                         GError **error)
{
    Listener *l = &s->listeners[s->n_listeners++];

    l->server = s;
    l->readonly = readonly;
    if (unix_listen(&l->socket, path, BACKLOG, error))
        return true;
    g_prefix_error(error, "control socket: ");
    return false;
}

static bool add_named(ControlServer *s, const Place *place, GError **error)
{
    g_autofree char *path = place_path(place, PLACE_SOCKET);

    return add_listener(s, path, false, error);
}

static ControlServer *server_new(void)
{
    ControlServer *s = g_new0(ControlServer, 1);

    s->main = pthread_self();
    s->owner.submit = server_submit;
    s->owner.served = on_served;
    s->owner.dead = on_dead;
    s->owner.context.server = s;
    s->owner.context.parts = &s->parts;
    s->owner.context.ending = &s->ended;
    lock_init(&s->lock);
    pthread_cond_init(&s->called, NULL);
    s->post = (IoPost){.fn = on_post, .opaque = s};
    s->events_end = &s->events;
    s->patience_ns = PATIENCE_NS;
    s->machine_listener = (MachineListener){server_on_machine_event, s};
    pool_init(&s->pool);
    return s;
}

bool control_open(const ControlOptions *options, ControlServer **ret, GError **error)
{
    g_autoptr(ControlServer) s = NULL;

    *ret = NULL;
    if (!options->place && !options->path && !options->readonly)
        return true;
    s = server_new();
    s->options = *options;
    if ((options->place && !add_named(s, options->place, error)) ||
        (options->path && !add_listener(s, options->path, false, error)) ||
        (options->readonly && !add_listener(s, options->readonly, true, error)))
        return false;
    *ret = g_steal_pointer(&s);
    return true;
}

void server_set_patience(ControlServer *s, int64_t ns)
{
    s->patience_ns = ns;
}

Place *control_place(ControlServer *s)
{
    return s->options.place;
}

bool server_start(ControlServer *s, IoLoop *loop, GError **error)
{
    s->owner.loop = loop;
    for (unsigned i = 0; i < s->n_listeners; i++)
        if (!ioloop_watch(loop, &s->listeners[i].watch, s->listeners[i].socket.fd,
                          EPOLLIN, on_connect, &s->listeners[i], error)) {
            control_stop(s);
            return false;
        }
    return true;
}

bool control_start(ControlServer *s, Machine *m, GError **error)
{
    s->owner.context.machine = m;
    machine_set_listener(m, &s->machine_listener);
    return server_start(s, machine_loop(m), error);
}

void control_stop(ControlServer *s)
{
    if (!s || !s->owner.loop)
        return;
    for (unsigned i = 0; i < s->n_listeners; i++) {
        ioloop_unwatch(&s->listeners[i].watch);
        ioloop_timer_cancel(&s->listeners[i].retry);
    }
    if (s->awake.opaque)
        ioloop_poller_remove(s->owner.loop, &s->awake);
    server_end_calls(s);
    s->left = machine_frozen(s->owner.context.machine);
    if (!s->left)
        server_stop_pool(s);
    server_take_in(s);
    while (s->sessions) {
        Session *session = s->sessions;

        s->sessions = session->next;
        session_free(session);
    }
    s->n_sessions = 0;
}

void control_free(ControlServer *s)
{
    if (!s)
        return;
    while (s->n_listeners)
        unix_unlisten(&s->listeners[--s->n_listeners].socket);
    if (s->left)
        return; /* it is theirs */
    server_stop_pool(s);
    pool_finish(&s->pool);
    parts_clear(&s->parts);
    pthread_cond_destroy(&s->called);
    lock_finish(&s->lock);
    g_free(s);
}
