/* See src/control/pool.h. */
#include "src/control/pool.h"

#include <stddef.h>

#include "util/log.h"

void pool_init(Pool *p)
{
    *p = (Pool){.lock = LOCK_INIT, .work = PTHREAD_COND_INITIALIZER};
    p->tasks_end = &p->tasks;
}

static PoolTask *take_task_locked(Pool *p)
{
    PoolTask *task = p->tasks;

    if (task)
        p->tasks = task->next;
    if (!p->tasks)
        p->tasks_end = &p->tasks;
    return task;
}

static PoolTask *wait_for_task(Pool *p)
{
    LOCK_GUARD(&p->lock);

    p->n_idle++;
    while (!p->tasks && !p->ending)
        pthread_cond_wait(&p->work, &p->lock.mutex);
    p->n_idle--;
    return p->ending ? NULL : take_task_locked(p);
}

static void *pool_thread(void *opaque)
{
    Pool *p = opaque;
    PoolTask *task;

    thread_set_name("control");
    while ((task = wait_for_task(p)))
        task->fn(task);
    return NULL;
}

static unsigned n_waiting_locked(const Pool *p)
{
    unsigned n = 0;

    for (const PoolTask *t = p->tasks; t; t = t->next)
        n++;
    return n;
}

bool pool_submit(Pool *p, PoolTask *task)
{
    LOCK_GUARD(&p->lock);

    if (n_waiting_locked(p) >= p->n_idle && p->n_threads < POOL_THREADS &&
        pthread_create(&p->threads[p->n_threads], NULL, pool_thread, p) == 0)
        p->n_threads++;
    if (!p->n_threads)
        return false;
    task->next = NULL;
    *p->tasks_end = task;
    p->tasks_end = &task->next;
    pthread_cond_signal(&p->work);
    return true;
}

PoolTask *pool_stop(Pool *p)
{
    PoolTask *left;

    lock_acquire(&p->lock);
    p->ending = true;
    pthread_cond_broadcast(&p->work);
    lock_release(&p->lock);
    while (p->n_threads)
        pthread_join(p->threads[--p->n_threads], NULL);
    left = p->tasks;
    p->tasks = NULL;
    p->tasks_end = &p->tasks;
    return left;
}

void pool_finish(Pool *p)
{
    pthread_cond_destroy(&p->work);
    lock_finish(&p->lock);
}
