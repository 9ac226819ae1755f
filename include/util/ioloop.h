/* An event loop on epoll: file descriptors, timers, and calls from other threads.  The
 * main thread and every I/O thread run one; what a loop owns is touched only by the
 * thread that runs it, and everybody else posts or calls.
 *
 * Nothing here allocates after creation: watches, timers and posts are embedded in their
 * owners, so that no guest can grow a queue. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "util/error.h"

typedef struct IoLoop IoLoop;

/* A file descriptor watched.  Zero-initialise; the loop fills in the rest. */
typedef struct IoWatch {
    IoLoop *loop; /* NULL: not watched */
    int fd;
    uint32_t events;
    void (*fn)(void *opaque, uint32_t events);
    void *opaque;
} IoWatch;

typedef struct IoTimer {
    IoLoop *loop; /* NULL: not armed */
    int64_t deadline_ns;
    void (*fn)(void *opaque);
    void *opaque;
    struct IoTimer *next;
} IoTimer;

/* Work to be run once on the loop.  Posting what is already queued does nothing, so a
 * post is a level, not a count. */
typedef struct IoPost {
    void (*fn)(void *opaque);
    void *opaque;
    bool queued; /* atomic */
    struct IoPost *next;
} IoPost;

/* Called before each wait with the loop about to sleep; true: there was work, ask again
 * at once.  This is how a queue is polled for a short while before an idle loop sleeps.
 */
typedef struct IoPoller {
    bool (*fn)(void *opaque);
    void *opaque;
    struct IoPoller *next;
} IoPoller;

/* Creates a loop that some thread then runs, or one with a thread of its own, named
 * `name` (15 characters).  NULL on failure. */
IoLoop *ioloop_new(GError **error);
IoLoop *ioloop_start(const char *name, GError **error);

/* Ends the loop's own thread, if it has one, and frees it.  Accepts NULL.  Everything
 * watched must have been taken off before. */
void ioloop_free(IoLoop *loop);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(IoLoop, ioloop_free)

/* Runs until ioloop_quit(), which any thread may call. */
void ioloop_run(IoLoop *loop);
void ioloop_quit(IoLoop *loop);

/* The loop's thread, or any thread while the loop does not run. */
bool ioloop_watch(IoLoop *loop, IoWatch *watch, int fd, uint32_t events,
                  void (*fn)(void *opaque, uint32_t events), void *opaque,
                  GError **error);
void ioloop_watch_events(IoWatch *watch, uint32_t events); /* 0 pauses it */
void ioloop_unwatch(IoWatch *watch);                       /* harmless if not watched */
void ioloop_timer(IoLoop *loop, IoTimer *timer, int64_t deadline_ns, void (*fn)(void *),
                  void *opaque); /* arms or re-arms; CLOCK_MONOTONIC nanoseconds */
void ioloop_timer_cancel(IoTimer *timer);
void ioloop_poller_add(IoLoop *loop, IoPoller *poller);
void ioloop_poller_remove(IoLoop *loop, IoPoller *poller);

/* Any thread; does not wait. */
void ioloop_post(IoLoop *loop, IoPost *post);

/* The loop's thread, or any while the loop does not run: a post that is queued will not
 * run, and nothing refers to it any more.  Harmless on one that is not queued. */
void ioloop_unpost(IoLoop *loop, IoPost *post);

/* Any thread but one that the loop might wait for (see ARCHITECTURE.md, "Locking"): runs
 * fn on the loop and returns when it is done.  On the loop's own thread, or while no
 * thread runs the loop, it is a plain call. */
void ioloop_call(IoLoop *loop, void (*fn)(void *opaque), void *opaque);

/* True on the loop's thread, and anywhere while no thread runs it. */
bool ioloop_on(const IoLoop *loop);

int64_t clock_ns(void);                     /* CLOCK_MONOTONIC */
int64_t clock_left_ns(int64_t deadline_ns); /* until then; 0: it is over */
int clock_left_ms(int64_t deadline_ns);     /* for poll(): rounded up; -1 for -1, never */
