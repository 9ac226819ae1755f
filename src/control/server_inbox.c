/* What other threads bring to the control server: events, replies of commands that sleep,
 * and functions such a command wants to be run on main.  Each has a list under one lock,
 * and one post tells the main loop to look.  `ended` is set under that lock when the VM
 * has ended; after that nothing is listed any more, and nobody posts to a loop that may
 * be gone. */
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "src/control/server_private.h"
#include "util/log.h"

enum { MAX_EVENTS = 1024 }; /* that wait for the main loop; a guest can cause some */

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

/* ---- events -------------------------------------------------------------------- */

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

void server_on_machine_event(void *opaque, const char *name, json_t *data)
{
    control_event(opaque, name, data);
}

/* ---- commands that sleep ------------------------------------------------------- */

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

bool server_submit(SessionOwner *owner, Request *r)
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

void server_take_in(ControlServer *s)
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

void server_end_calls(ControlServer *s)
{
    LOCK_GUARD(&s->lock);
    __atomic_store_n(&s->ended, true, __ATOMIC_RELEASE);
    while (s->calls) {
        MainCall *c = s->calls;

        s->calls = c->next;
        end_call_locked(s, c, false);
    }
}

void server_stop_pool(ControlServer *s)
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
