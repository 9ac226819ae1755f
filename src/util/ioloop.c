/* The event loop; contract in util/ioloop.h.
 *
 * Theory.  One epoll set holds the watched descriptors and one eventfd, `wake`, on which
 * other threads announce posts.  A turn of the loop is: run the posts, ask the pollers,
 * wait (not at all while a poller reports work), run expired timers, run events.
 *
 * A handler may unwatch any watch, itself included, while a batch of events is being
 * delivered: ioloop_unwatch() strikes it from the rest of the batch. */
#include "util/ioloop.h"

#include <errno.h>
#include <time.h>

#include "util/fd.h"
#include "util/lock.h"
#include "util/log.h"

enum { BATCH = 32, THREAD_STACK = 256 * 1024 };

static __thread const IoLoop *current; /* the loop that this thread runs */

struct IoLoop {
    int epoll_fd;
    int wake_fd;
    IoWatch wake;
    IoTimer *timers; /* sorted, earliest first */
    IoPoller *pollers;
    struct epoll_event batch[BATCH];
    int n_batch, at_batch;

    char name[16];
    pthread_t thread;
    bool has_thread; /* ours, to be joined */
    bool running;    /* atomic; changes to false under the lock */
    bool quit;       /* atomic */

    Lock lock; /* guards the posts */
    IoPost *posts, **posts_end;
    IoPost *running_posts; /* taken from there, still to be run; the loop's */
};

int64_t clock_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* MAX() would read the clock twice, and what is over at the second look is negative. */
int64_t clock_left_ns(int64_t deadline_ns)
{
    int64_t left_ns = deadline_ns - clock_ns();

    return MAX(left_ns, 0);
}

int clock_left_ms(int64_t deadline_ns)
{
    if (deadline_ns < 0)
        return -1;
    return (int)MIN((clock_left_ns(deadline_ns) + 999999) / 1000000, INT_MAX);
}

static void on_wake(void *opaque, uint32_t events)
{
    IoLoop *loop = opaque;

    fd_event_take(loop->wake_fd); /* the posts are run at the top of the next turn */
}

IoLoop *ioloop_new(GError **error)
{
    g_autoptr(IoLoop) loop = g_new0(IoLoop, 1);

    lock_init(&loop->lock);
    loop->posts_end = &loop->posts;
    loop->wake_fd = -1;
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd < 0) {
        fail_errno(error, "make an epoll set");
        return NULL;
    }
    loop->wake_fd = fd_event(error);
    if (loop->wake_fd < 0)
        return NULL;
    if (!ioloop_watch(loop, &loop->wake, loop->wake_fd, EPOLLIN, on_wake, loop, error))
        return NULL;
    return g_steal_pointer(&loop);
}

static void *loop_thread(void *opaque)
{
    IoLoop *loop = opaque;

    thread_set_name(loop->name);
    ioloop_run(loop);
    return NULL;
}

IoLoop *ioloop_start(const char *name, GError **error)
{
    g_autoptr(IoLoop) loop = ioloop_new(error);
    pthread_attr_t attr;
    int err;

    if (!loop)
        return NULL;
    g_strlcpy(loop->name, name, sizeof(loop->name));
    loop->running = true; /* posts and calls are queued from here on */
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, THREAD_STACK);
    err = pthread_create(&loop->thread, &attr, loop_thread, loop);
    pthread_attr_destroy(&attr);
    if (err) {
        errno = err;
        fail_errno(error, "start thread %s", name);
        return NULL;
    }
    loop->has_thread = true;
    return g_steal_pointer(&loop);
}

void ioloop_free(IoLoop *loop)
{
    if (!loop)
        return;
    if (loop->has_thread) {
        ioloop_quit(loop);
        pthread_join(loop->thread, NULL);
    }
    fd_close(&loop->wake_fd);
    fd_close(&loop->epoll_fd);
    lock_finish(&loop->lock);
    g_free(loop);
}

bool ioloop_on(const IoLoop *loop)
{
    return current == loop || !__atomic_load_n(&loop->running, __ATOMIC_ACQUIRE);
}

/* ---- posts and calls -------------------------------------------------------------- */

static void post_locked(IoLoop *loop, IoPost *post)
{
    post->next = NULL;
    *loop->posts_end = post;
    loop->posts_end = &post->next;
    fd_event_signal(loop->wake_fd);
}

static IoPost *take_posts_locked(IoLoop *loop)
{
    IoPost *list = loop->posts;

    loop->posts = NULL;
    loop->posts_end = &loop->posts;
    return list;
}

static void run_posts(IoLoop *loop, IoPost *list)
{
    loop->running_posts = list;
    while (loop->running_posts) {
        IoPost *post = loop->running_posts;

        loop->running_posts = post->next;
        /* From here on it may be queued again, and by fn itself. */
        __atomic_store_n(&post->queued, false, __ATOMIC_SEQ_CST);
        post->fn(post->opaque);
    }
}

static void run_new_posts(IoLoop *loop)
{
    IoPost *list;

    lock_acquire(&loop->lock);
    list = take_posts_locked(loop);
    lock_release(&loop->lock);
    run_posts(loop, list);
}

void ioloop_post(IoLoop *loop, IoPost *post)
{
    LOCK_GUARD(&loop->lock);

    if (!__atomic_exchange_n(&post->queued, true, __ATOMIC_SEQ_CST))
        post_locked(loop, post);
}

static void strike_out(IoPost **at, const IoPost *post)
{
    while (*at && *at != post)
        at = &(*at)->next;
    if (*at)
        *at = post->next;
}

void ioloop_unpost(IoLoop *loop, IoPost *post)
{
    LOCK_GUARD(&loop->lock);

    strike_out(&loop->posts, post);
    strike_out(&loop->running_posts, post);
    for (loop->posts_end = &loop->posts; *loop->posts_end;)
        loop->posts_end = &(*loop->posts_end)->next;
    __atomic_store_n(&post->queued, false, __ATOMIC_SEQ_CST);
}

typedef struct Call {
    IoPost post;
    void (*fn)(void *opaque);
    void *opaque;
    Lock lock;
    pthread_cond_t cond;
    bool done;
} Call;

static void run_call(void *opaque)
{
    Call *call = opaque;

    call->fn(call->opaque);
    LOCK_GUARD(&call->lock);
    call->done = true;
    pthread_cond_signal(&call->cond);
}

void ioloop_call(IoLoop *loop, void (*fn)(void *opaque), void *opaque)
{
    Call call = {
        .fn = fn, .opaque = opaque, .lock = LOCK_INIT, .cond = PTHREAD_COND_INITIALIZER};
    bool here;

    call.post = (IoPost){.fn = run_call, .opaque = &call, .queued = true};
    lock_acquire(&loop->lock);
    here = ioloop_on(loop);
    if (!here)
        post_locked(loop, &call.post);
    lock_release(&loop->lock);
    if (here) {
        fn(opaque);
        return;
    }
    lock_acquire(&call.lock);
    while (!call.done)
        pthread_cond_wait(&call.cond, &call.lock.mutex);
    lock_release(&call.lock);
    pthread_cond_destroy(&call.cond);
    lock_finish(&call.lock);
}

/* ---- watches ------------------------------------------------------------------------
 */

static bool epoll_set(IoWatch *w, int op)
{
    struct epoll_event e = {.events = w->events, .data.ptr = w};

    return epoll_ctl(w->loop->epoll_fd, op, w->fd, &e) == 0;
}

bool ioloop_watch(IoLoop *loop, IoWatch *watch, int fd, uint32_t events,
                  void (*fn)(void *opaque, uint32_t events), void *opaque, GError **error)
{
    *watch = (IoWatch){loop, fd, events, fn, opaque};
    if (epoll_set(watch, EPOLL_CTL_ADD))
        return true;
    watch->loop = NULL;
    return fail_errno(error, "watch file descriptor %d", fd);
}

void ioloop_watch_events(IoWatch *watch, uint32_t events)
{
    if (!watch->loop || watch->events == events)
        return;
    watch->events = events;
    epoll_set(watch, EPOLL_CTL_MOD); /* cannot fail for what was added */
}

void ioloop_unwatch(IoWatch *watch)
{
    IoLoop *loop = watch->loop;

    if (!loop)
        return;
    epoll_set(watch, EPOLL_CTL_DEL);
    watch->loop = NULL;
    for (int i = loop->at_batch; i < loop->n_batch; i++)
        if (loop->batch[i].data.ptr == watch)
            loop->batch[i].data.ptr = NULL;
}

/* ---- timers --------------------------------------------------------------------------
 */

void ioloop_timer_cancel(IoTimer *timer)
{
    if (!timer->loop)
        return;
    for (IoTimer **at = &timer->loop->timers; *at; at = &(*at)->next) {
        if (*at == timer) {
            *at = timer->next;
            break;
        }
    }
    timer->loop = NULL;
}

void ioloop_timer(IoLoop *loop, IoTimer *timer, int64_t deadline_ns, void (*fn)(void *),
                  void *opaque)
{
    IoTimer **at = &loop->timers;

    ioloop_timer_cancel(timer);
    while (*at && (*at)->deadline_ns <= deadline_ns)
        at = &(*at)->next;
    *timer = (IoTimer){loop, deadline_ns, fn, opaque, *at};
    *at = timer;
}

/* Runs what was due when it was called; a timer re-armed for now waits for the next turn.
 */
static void run_timers(IoLoop *loop)
{
    int64_t now;

    if (!loop->timers)
        return;
    now = clock_ns();
    while (loop->timers && loop->timers->deadline_ns <= now) {
        IoTimer *t = loop->timers;

        loop->timers = t->next;
        t->loop = NULL;
        t->fn(t->opaque);
    }
}

static int64_t wait_ns(const IoLoop *loop)
{
    return loop->timers ? clock_left_ns(loop->timers->deadline_ns) : -1;
}

/* ---- pollers --------------------------------------------------------------------------
 */

void ioloop_poller_add(IoLoop *loop, IoPoller *poller)
{
    poller->next = loop->pollers;
    loop->pollers = poller;
}

void ioloop_poller_remove(IoLoop *loop, IoPoller *poller)
{
    for (IoPoller **at = &loop->pollers; *at; at = &(*at)->next) {
        if (*at == poller) {
            *at = poller->next;
            break;
        }
    }
}

static bool run_pollers(IoLoop *loop)
{
    bool work = false;
    IoPoller *next;

    for (IoPoller *p = loop->pollers; p; p = next) {
        next = p->next;
        work |= p->fn(p->opaque);
    }
    return work;
}

/* ---- running --------------------------------------------------------------------------
 */

static void wait_and_dispatch(IoLoop *loop, int64_t timeout_ns)
{
    struct timespec t = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    int n = epoll_pwait2(loop->epoll_fd, loop->batch, BATCH, timeout_ns < 0 ? NULL : &t,
                         NULL);

    if (n < 0 && errno == ENOSYS) /* before Linux 5.11: whole milliseconds, rounded up */
        n = epoll_wait(
            loop->epoll_fd, loop->batch, BATCH,
            timeout_ns < 0 ? -1 : (int)MIN((timeout_ns + 999999) / 1000000, INT_MAX));
    run_timers(loop);
    loop->n_batch = MAX(n, 0);
    for (loop->at_batch = 0; loop->at_batch < loop->n_batch;) {
        struct epoll_event *e = &loop->batch[loop->at_batch++];
        IoWatch *w = e->data.ptr;

        if (w)
            w->fn(w->opaque, e->events);
    }
    loop->n_batch = 0;
}

void ioloop_run(IoLoop *loop)
{
    IoPost *last;

    current = loop;
    __atomic_store_n(&loop->running, true, __ATOMIC_RELEASE);
    while (!__atomic_load_n(&loop->quit, __ATOMIC_ACQUIRE)) {
        run_new_posts(loop);
        wait_and_dispatch(loop, run_pollers(loop) ? 0 : wait_ns(loop));
    }
    lock_acquire(
        &loop->lock); /* a call is either in this list or will run on its caller */
    last = take_posts_locked(loop);
    __atomic_store_n(&loop->running, false, __ATOMIC_RELEASE);
    lock_release(&loop->lock);
    run_posts(loop, last);
    __atomic_store_n(&loop->quit, false, __ATOMIC_RELEASE);
    current = NULL;
}

void ioloop_quit(IoLoop *loop)
{
    __atomic_store_n(&loop->quit, true, __ATOMIC_RELEASE);
    fd_event_signal(loop->wake_fd);
}
