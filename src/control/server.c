/* The sockets, who comes in, and what other threads bring; contract in control/control.h.
 *
 * Other threads bring three things: events, replies of commands that sleep, and functions
 * such a command wants to be run on main.  Each has a list under one lock, and one post
 * tells the main loop to look.  `ended` is set under that lock when the VM has ended;
 * after that nothing is listed any more, and nobody posts to a loop that may be gone. */
#include "control/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "control/place.h"
#include "src/control/parts.h"
#include "src/control/pool.h"
#include "src/control/server.h"
#include "src/control/session.h"
#include "util/fd.h"
#include "util/log.h"
#include "util/unixsocket.h"

enum {
    MAX_SESSIONS = 64,
    MAX_LISTENERS = 3,
    MAX_EVENTS = 1024, /* that wait for the main loop; a guest can cause some */
    BACKLOG = 128,
    RETRY_NS = 100 * 1000 * 1000,
    AWAKE_NS = 50 * 1000, /* after a request; as long as the poll window of a queue */
};
/* When others wait for its place, a client may take so long to begin its session. */
#define PATIENCE_NS 10000000000ll

typedef struct Listener {
    ControlServer *server;
    UnixListener socket;
    IoWatch watch;
    IoTimer retry;
    bool readonly;
} Listener;

typedef struct Event {
    struct Event *next;
    json_t *message;
} Event;

/* A function of a sleeping command, to be run on main; on that command's stack. */
typedef struct MainCall {
    struct MainCall *next;
    void (*fn)(void *opaque);
    void *opaque;
    bool over, has_run;
} MainCall;

typedef struct Task {
    PoolTask task;
    Request *request;
} Task;

struct ControlServer {
    SessionOwner owner; /* must be first */
    ControlOptions options;
    Parts parts;
    Listener listeners[MAX_LISTENERS];
    unsigned n_listeners;
    pthread_t main;
    IoPoller awake; /* while .opaque is set */
    int64_t awake_until_ns;
    long n_cpus; /* 0: not looked */
    MachineListener machine_listener;

    Session *sessions; /* the main thread's, as all above */
    unsigned n_sessions;
    int64_t patience_ns;
    Pool pool;
    bool left; /* the machine ended frozen: threads of the pool may sleep for ever */

    Lock lock;  /* guards what follows */
    bool ended; /* atomic, too: changes under the lock */
    IoPost post;
    Event *events, **events_end;
    unsigned n_events, n_lost;
    Request *replies;
    MainCall *calls;
    pthread_cond_t called;
};

/* ---- sessions -------------------------------------------------------------------------
 */

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

/* ---- events ---------------------------------------------------------------------------
 */

static bool on_main(const ControlServer *s)
{
    return pthread_equal(pthread_self(), s->main);
}

static void broadcast(ControlServer *s, json_t *message)
{
    char *text = s->sessions ? json_dumps(message, 0) : NULL;
    g_autofree char *line = text ? g_strconcat(text, "\r\n", NULL) : NULL;

    for (Session *session = s->sessions; line && session; session = session->next)
        session_event(session, line, strlen(line));
    free(text);
}

/* Those of other threads, in their order. */
static void send_events(ControlServer *s, Event *list)
{
    while (list) {
        Event *event = list;

        list = event->next;
        broadcast(s, event->message);
        json_decref(event->message);
        g_free(event);
    }
}

static Event *take_events_locked(ControlServer *s)
{
    Event *list = s->events;

    s->events = NULL;
    s->events_end = &s->events;
    s->n_events = 0;
    return list;
}

static void send_new_events(ControlServer *s)
{
    Event *list;

    lock_acquire(&s->lock);
    list = take_events_locked(s);
    lock_release(&s->lock);
    send_events(s, list);
}

static bool queue_event_locked(ControlServer *s, json_t *message)
{
    Event *event;

    if (s->ended)
        return false;
    if (s->n_events == MAX_EVENTS) {
        s->n_lost++;
        return false;
    }
    event = g_new0(Event, 1);
    event->message = message;
    *s->events_end = event;
    s->events_end = &event->next;
    s->n_events++;
    ioloop_post(s->owner.loop, &s->post);
    return true;
}

static json_t *make_event(const char *name, json_t *data)
{
    struct timeval now;
    json_t *message;

    gettimeofday(&now, NULL);
    message = json_pack("{s:{s:I, s:I}, s:s}", "timestamp", "seconds",
                        (json_int_t)now.tv_sec, "microseconds", (json_int_t)now.tv_usec,
                        "event", name);
    if (data)
        json_object_set_new(message, "data", data);
    return message;
}

void control_event(ControlServer *s, const char *name, json_t *data)
{
    json_t *message = make_event(name, data);
    bool queued = false;

    if (s->options.tap)
        s->options.tap(s->options.opaque, name, data);
    if (on_main(s)) {
        send_new_events(s); /* what came first */
        broadcast(s, message);
    } else {
        LOCK_GUARD(&s->lock);
        queued = queue_event_locked(s, message);
    }
    if (!queued)
        json_decref(message);
}

static void on_machine_event(void *opaque, const char *name, json_t *data)
{
    control_event(opaque, name, data);
}

/* ---- commands that sleep --------------------------------------------------------------
 */

/* A thread of the pool. */
static void run_task(PoolTask *task)
{
    Request *r = ((Task *)task)->request;
    ControlServer *s = r->call.server;

    g_free(task);
    request_run(r);
    LOCK_GUARD(&s->lock);
    r->next = s->replies;
    s->replies = r;
    if (!s->ended)
        ioloop_post(s->owner.loop, &s->post);
}

static bool submit(SessionOwner *owner, Request *r)
{
    ControlServer *s = (ControlServer *)owner;
    Task *task = g_new0(Task, 1);

    task->task.fn = run_task;
    task->request = r;
    if (pool_submit(&s->pool, &task->task))
        return true;
    g_free(task);
    return false;
}

/* They belong to different clients, so that their order does not matter. */
static void send_replies(Request *list)
{
    while (list) {
        Request *r = list;

        list = r->next;
        if (r->session)
            session_answer(r->session, r);
        else
            request_free(r);
    }
}

bool control_on_main(ControlCall *call, void (*fn)(void *opaque), void *opaque,
                     GError **error)
{
    ControlServer *s = call->server;
    MainCall c = {.fn = fn, .opaque = opaque};

    if (on_main(s)) {
        fn(opaque);
        return true;
    }
    lock_acquire(&s->lock);
    if (!s->ended) {
        c.next = s->calls;
        s->calls = &c;
        ioloop_post(s->owner.loop, &s->post);
        while (!c.over)
            pthread_cond_wait(&s->called, &s->lock.mutex);
    }
    lock_release(&s->lock);
    return c.has_run ||
           fail(error, VM_ERROR_BUSY, "the VM ended before it could be done");
}

/* From here on `c` is gone: its thread goes on. */
static void end_call_locked(ControlServer *s, MainCall *c, bool has_run)
{
    c->has_run = has_run;
    c->over = true;
    pthread_cond_broadcast(&s->called);
}

static void run_calls(ControlServer *s, MainCall *list)
{
    while (list) {
        MainCall *c = list;

        list = c->next;
        c->fn(c->opaque);
        lock_acquire(&s->lock);
        end_call_locked(s, c, true);
        lock_release(&s->lock);
    }
}

/* All is taken in one look, so that an event of a command comes before its reply. */
static void take_in(ControlServer *s)
{
    Event *events;
    MainCall *calls;
    Request *replies;
    unsigned lost;

    lock_acquire(&s->lock);
    events = take_events_locked(s);
    calls = s->calls;
    s->calls = NULL;
    replies = s->replies;
    s->replies = NULL;
    lost = s->n_lost;
    s->n_lost = 0;
    lock_release(&s->lock);
    send_events(s, events);
    run_calls(s, calls);
    send_replies(replies);
    if (lost)
        log_warn("control: %u events came faster than they could be sent, and are lost",
                 lost);
}

static void on_post(void *opaque)
{
    take_in(opaque);
    free_dead(opaque);
}

/* ---- life-cycle -----------------------------------------------------------------------
 */

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
    s->owner.submit = submit;
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
    s->machine_listener = (MachineListener){on_machine_event, s};
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

static void end_calls(ControlServer *s)
{
    LOCK_GUARD(&s->lock);
    __atomic_store_n(&s->ended, true, __ATOMIC_RELEASE);
    while (s->calls) {
        MainCall *c = s->calls;

        s->calls = c->next;
        end_call_locked(s, c, false);
    }
}

/* Waits for what sleeps, but not for who wants guest RAM that cannot be had, and goes
 * with the process; what had to wait for a thread is refused. */
static void stop_pool(ControlServer *s)
{
    PoolTask *left = pool_stop(&s->pool);

    while (left) {
        Task *task = (Task *)left;

        left = left->next;
        request_refuse(task->request, "the VM ended before it was begun");
        task->request->next = NULL;
        send_replies(task->request);
        g_free(task);
    }
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
    end_calls(s);
    s->left = machine_frozen(s->owner.context.machine);
    if (!s->left)
        stop_pool(s);
    take_in(s);
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
    stop_pool(s);
    pool_finish(&s->pool);
    parts_clear(&s->parts);
    pthread_cond_destroy(&s->called);
    lock_finish(&s->lock);
    g_free(s);
}
