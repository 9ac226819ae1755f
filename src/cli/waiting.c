/* See waiting.h.  A thread, since those who wait do so in many ways: for a socket, a
 * process, a guest's agent. */
#include "src/cli/waiting.h"

#include <glib.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "util/ioloop.h"
#include "util/log.h"

/* False: what was waited for is over. */
static bool pause_until(Waiting *w, int64_t ns)
{
    struct timespec t = {ns / 1000000000, ns % 1000000000};
    bool done;

    pthread_mutex_lock(&w->mutex);
    while (!w->done && clock_ns() < ns)
        pthread_cond_timedwait(&w->over, &w->mutex, &t);
    done = w->done;
    pthread_mutex_unlock(&w->mutex);
    return !done;
}

static void *say(void *opaque)
{
    Waiting *w = opaque;
    bool tty = isatty(STDERR_FILENO), drawn = false;
    int64_t log_ms = MAX(WAITING_LOG_AFTER_MS, (int64_t)w->log_every_ms);
    int64_t next_ns = w->started_ns + (tty ? WAITING_DRAW_AFTER_MS : log_ms) * 1000000;

    thread_set_name("waiting");
    while (pause_until(w, next_ns)) {
        int seconds = (int)((clock_ns() - w->started_ns) / 1000000000);

        if (tty)
            fprintf(stderr, "\r%s, %d s\033[K", w->what, seconds);
        else
            log_info("%s, %d s", w->what, seconds);
        drawn = tty;
        next_ns += (tty ? WAITING_EVERY_MS : (int64_t)w->log_every_ms) * 1000000;
    }
    if (drawn)
        fputs("\r\033[K", stderr);
    return NULL;
}

void waiting_begin(Waiting *w, const char *what, unsigned log_every_ms)
{
    pthread_condattr_t monotonic;
    sigset_t all, old;

    *w = (Waiting){
        .what = g_strdup(what), .log_every_ms = log_every_ms, .started_ns = clock_ns()};
    pthread_mutex_init(&w->mutex, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&w->over, &monotonic);
    pthread_condattr_destroy(&monotonic);
    sigfillset(&all); /* they are for who waits */
    pthread_sigmask(SIG_BLOCK, &all, &old);
    w->on = pthread_create(&w->thread, NULL, say, w) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void waiting_end(Waiting *w)
{
    pthread_mutex_lock(&w->mutex);
    w->done = true;
    pthread_cond_signal(&w->over);
    pthread_mutex_unlock(&w->mutex);
    if (w->on)
        pthread_join(w->thread, NULL);
    pthread_cond_destroy(&w->over);
    pthread_mutex_destroy(&w->mutex);
    g_free(w->what);
}
