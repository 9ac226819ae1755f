/* A line for people while something is waited for that may take long: on a terminal it is
 * redrawn in place, elsewhere there is one now and then, as in a log.  What is over soon
 * prints nothing. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    WAITING_DRAW_AFTER_MS = 400, /* on a terminal */
    WAITING_LOG_AFTER_MS = 2000,
    WAITING_EVERY_MS = 1000,
};

typedef struct Waiting {
    pthread_t thread;
    bool on;
    pthread_mutex_t mutex;
    pthread_cond_t over;
    bool done; /* under the mutex */
    char *what;
    unsigned log_every_ms;
    int64_t started_ns;
} Waiting;

/* From now on a thread of its own says `what` (which is copied) and for how many seconds;
 * in a log each log_every_ms.  Without a thread nothing is said. */
void waiting_begin(Waiting *w, const char *what, unsigned log_every_ms);

/* Before anything else is printed; the line on the terminal is gone after it.  Once for
 * each waiting_begin(). */
void waiting_end(Waiting *w);
