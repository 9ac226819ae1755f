/* A few threads for work that may sleep.  They are started when there is work for the
 * first time, so that a VM without any has none. */
#pragma once

#include "util/lock.h"

#include <stdbool.h>

enum { POOL_THREADS = 4 };

typedef struct PoolTask {
    void (*fn)(struct PoolTask *task);
    struct PoolTask *next;
} PoolTask;

typedef struct Pool {
    Lock lock; /* guards all of it */
    pthread_cond_t work;
    PoolTask *tasks, **tasks_end;
    pthread_t threads[POOL_THREADS];
    unsigned n_threads, n_idle;
    bool ending;
} Pool;

/* One thread uses a pool: all of these are its. */
void pool_init(Pool *p);
bool pool_submit(Pool *p, PoolTask *task); /* false: no thread could be made */

/* Waits for tasks that run; the others are given back, as a list. */
PoolTask *pool_stop(Pool *p);
void pool_finish(Pool *p); /* after pool_stop() */
