/* Joining again after a switch was killed: a thread waits for the new one, the card's
 * loop does not.
 *
 * The loop may be gone by the time that the thread has waited enough, so they share
 * nothing but this struct, which the last of them frees. */
#include <pthread.h>

#include "src/net/port_private.h"
#include "util/fd.h"
#include "util/lock.h"

typedef struct Shared {
    unsigned refs; /* atomic */
    int done_fd;   /* signalled when the rest is there */
    char *network, *hello;
    bool done; /* atomic: what follows is the loop's now */
    bool ok;
    PortJoined joined;
    char *why;
} Shared;

struct PortRejoin {
    Shared *shared;
    IoWatch watch;
    void (*done)(void *opaque, PortJoined *joined, const char *why);
    void *opaque;
};

static void unref(Shared *s)
{
    if (__atomic_sub_fetch(&s->refs, 1, __ATOMIC_ACQ_REL))
        return;
    if (s->ok)
        port_leave(&s->joined);
    fd_close(&s->done_fd);
    g_free(s->network);
    g_free(s->hello);
    g_free(s->why);
    g_free(s);
}

static void *run(void *opaque)
{
    Shared *s = opaque;
    g_autoptr(GError) why = NULL;

    pthread_setname_np(pthread_self(), "net-join");
    s->ok = port_join(s->network, s->hello, &s->joined, &why);
    if (!s->ok)
        s->why = g_strdup(why->message);
    __atomic_store_n(&s->done, true, __ATOMIC_RELEASE);
    fd_event_signal(s->done_fd);
    unref(s);
    return NULL;
}

static void on_done(void *opaque, uint32_t events)
{
    PortRejoin *r = opaque;
    Shared *s = r->shared;
    bool ok;

    if (!__atomic_load_n(&s->done, __ATOMIC_ACQUIRE))
        return;
    ioloop_unwatch(&r->watch);
    ok = s->ok;
    s->ok = false; /* it is theirs now */
    r->done(r->opaque, ok ? &s->joined : NULL, s->why);
}

static bool start(PortRejoin *r, GError **error)
{
    Shared *s = r->shared;
    pthread_attr_t attr;
    pthread_t thread;
    int err;

    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    s->refs++;
    err = pthread_create(&thread, &attr, run, s);
    pthread_attr_destroy(&attr);
    if (!err)
        return true;
    s->refs--;
    errno = err;
    return fail_errno(error, "start a thread");
}

PortRejoin *port_rejoin(IoLoop *loop, const char *network, const char *hello,
                        void (*done)(void *opaque, PortJoined *joined, const char *why),
                        void *opaque, GError **error)
{
    PortRejoin *r = g_new0(PortRejoin, 1);

    r->done = done;
    r->opaque = opaque;
    r->shared = g_new0(Shared, 1);
    r->shared->refs = 1;
    r->shared->network = g_strdup(network);
    r->shared->hello = g_strdup(hello);
    r->shared->done_fd = fd_event(error);
    if (r->shared->done_fd >= 0 &&
        ioloop_watch(loop, &r->watch, r->shared->done_fd, EPOLLIN, on_done, r, error) &&
        start(r, error))
        return r;
    port_rejoin_free(r);
    return NULL;
}

void port_rejoin_free(PortRejoin *r)
{
    if (!r)
        return;
    ioloop_unwatch(&r->watch);
    unref(r->shared);
    g_free(r);
}
