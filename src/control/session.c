/* See src/control/session.h.
 *
 * Bounds.  A client is read only when all it said before has been carried out and most of
 * the answers have left, so it can fill one message and one read buffer of ours, and the
 * socket's in the kernel.  Answers are no bigger than we make them.  Events come
 * regardless of what it reads, so a client that has too much unread is dropped: it sees
 * that, where it would not see an event that is missing. */
#include "src/control/session.h"

#include <errno.h>
#include <sys/socket.h>

#include "src/control/greeting.h"
#include "util/fd.h"

enum { KEPT_SIZE = 64 * 1024 }; /* of the output buffer, when it is empty */

static size_t unread(const Session *s)
{
    return s->out->len - s->out_at;
}

static void kill_session(Session *s)
{
    if (s->dead)
        return;
    s->dead = true;
    ioloop_unwatch(&s->watch);
    if (s->running)
        s->running->session = NULL;
    s->running = NULL;
    s->owner->dead(s->owner);
}

/* ---- out ------------------------------------------------------------------------------
 */

static void flush(Session *s)
{
    while (!s->dead && unread(s)) {
        ssize_t n = send(s->fd, s->out->str + s->out_at, unread(s),
                         MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0)
            kill_session(s);
        else
            s->out_at += (size_t)n;
    }
    s->out_at = 0;
    g_string_truncate(s->out, 0);
    if (s->out->allocated_len > KEPT_SIZE) {
        g_string_free(s->out, TRUE);
        s->out = g_string_new(NULL);
    }
}

/* What has been sent already is at most as much as what has not. */
static void compact(Session *s)
{
    if (s->out_at > unread(s)) {
        g_string_erase(s->out, 0, (gssize)s->out_at);
        s->out_at = 0;
    }
}

static int append(const char *bytes, size_t len, void *opaque)
{
    g_string_append_len(opaque, bytes, (gssize)len);
    return 0;
}

static void send_json(Session *s, json_t *message)
{
    compact(s);
    json_dump_callback(message, append, s->out, 0);
    g_string_append(s->out, "\r\n");
    flush(s);
}

/* ---- in -------------------------------------------------------------------------------
 */

static void carry_out(Session *s, Request *r)
{
    if (!r->reply && r->command->flags & CONTROL_SLEEPS) {
        r->session = s;
        s->running = r;
        if (s->owner->submit(s->owner, r))
            return;
        s->running = NULL;
        request_refuse(r, "no thread could be started for it");
    }
    if (!r->reply)
        request_run(r);
    s->negotiated = r->call.negotiated;
    send_json(s, r->reply);
    request_free(r);
    s->owner->served(s->owner);
}

static void refuse(Session *s, const GError *error)
{
    json_t *reply = request_refusal(error->message);

    send_json(s, reply);
    json_decref(reply);
}

static bool may_go_on(const Session *s)
{
    return !s->dead && !s->running && unread(s) < SESSION_BUSY &&
           !__atomic_load_n(s->owner->context.ending, __ATOMIC_RELAXED);
}

/* What has been read, as far as the client is to be served now. */
static void process(Session *s)
{
    while (may_go_on(s) && s->in_at < s->in_len) {
        g_autoptr(GError) error = NULL;
        size_t used;
        FrameResult result = frame_take(&s->frame, s->in + s->in_at, s->in_len - s->in_at,
                                        &used, &error);

        s->in_at += used;
        if (result == FRAME_BAD)
            refuse(s, error);
        if (result == FRAME_VALUE)
            carry_out(s, request_new(s->frame.text->str, s->frame.text->len,
                                     (RequestRights){s->negotiated, s->readonly},
                                     &s->owner->context));
    }
}

static void read_more(Session *s)
{
    ssize_t n;

    if (!may_go_on(s) || s->in_at < s->in_len || s->eof)
        return;
    n = recv(s->fd, s->in, sizeof(s->in), MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n < 0) {
        kill_session(s);
        return;
    }
    s->in_at = 0;
    s->in_len = (size_t)n;
    s->eof = n == 0;
}

/* What we wait for next. */
static void settle(Session *s)
{
    uint32_t events = 0;
    bool all_read = s->in_at == s->in_len;

    if (s->dead)
        return;
    if (s->eof && all_read && !s->running && !unread(s)) {
        kill_session(s);
        return;
    }
    if (unread(s))
        events |= EPOLLOUT;
    if (may_go_on(s) && all_read && !s->eof)
        events |= EPOLLIN;
    ioloop_watch_events(&s->watch, events);
}

static void on_socket(void *opaque, uint32_t events)
{
    Session *s = opaque;

    /* Both sides are closed: what is still there to be read was read before. */
    if (events & EPOLLERR || (events & EPOLLHUP && !(events & EPOLLIN))) {
        kill_session(s);
        return;
    }
    if (events & EPOLLOUT)
        flush(s);
    process(s); /* what had to wait */
    read_more(s);
    process(s);
    settle(s);
}

/* ---- for the server -------------------------------------------------------------------
 */

Session *session_new(SessionOwner *owner, int fd, bool readonly, GError **error)
{
    Session *s = g_new0(Session, 1);
    json_t *greeting;

    s->owner = owner;
    s->fd = fd;
    s->readonly = readonly;
    s->since_ns = clock_ns();
    s->out = g_string_new(NULL);
    frame_init(&s->frame, SESSION_MAX_MESSAGE);
    if (!ioloop_watch(owner->loop, &s->watch, fd, EPOLLIN, on_socket, s, error)) {
        session_free(s);
        return NULL;
    }
    greeting = greeting_new();
    send_json(s, greeting);
    json_decref(greeting);
    settle(s);
    return s;
}

void session_free(Session *s)
{
    ioloop_unwatch(&s->watch);
    if (s->running)
        s->running->session = NULL;
    frame_finish(&s->frame);
    g_string_free(s->out, TRUE);
    fd_close(&s->fd);
    g_free(s);
}

void session_drop(Session *s)
{
    kill_session(s);
}

void session_answer(Session *s, Request *r)
{
    s->running = NULL;
    send_json(s, r->reply);
    request_free(r);
    process(s);
    settle(s);
}

void session_event(Session *s, const char *text, size_t len)
{
    if (s->dead || !s->negotiated)
        return;
    if (unread(s) + len > SESSION_MAX_OUT) {
        kill_session(s);
        return;
    }
    compact(s);
    g_string_append_len(s->out, text, (gssize)len);
    flush(s);
    settle(s);
}
