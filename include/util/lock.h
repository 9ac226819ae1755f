/* Locks are ours, not GLib's: distribution builds of GLib are invisible to
 * ThreadSanitizer, which then reports races that are none. */
#pragma once

#include <pthread.h>

typedef struct Lock {
    pthread_mutex_t mutex;
} Lock;
#define LOCK_INIT                                                                        \
    {                                                                                    \
        PTHREAD_MUTEX_INITIALIZER                                                        \
    }

static inline void lock_init(Lock *l)
{
    pthread_mutex_init(&l->mutex, NULL);
}

static inline void lock_finish(Lock *l)
{
    pthread_mutex_destroy(&l->mutex);
}

static inline void lock_acquire(Lock *l)
{
    pthread_mutex_lock(&l->mutex);
}

static inline void lock_release(Lock *l)
{
    pthread_mutex_unlock(&l->mutex);
}

static inline Lock *lock_enter(Lock *l)
{
    lock_acquire(l);
    return l;
}

static inline void lock_leave(Lock **l)
{
    lock_release(*l);
}

/* Holds the lock until the enclosing block ends. */
#define LOCK_GUARD(l)       LOCK_GUARD_AT(l, __COUNTER__)
#define LOCK_GUARD_AT(l, n) LOCK_GUARD_NAMED(l, n)
#define LOCK_GUARD_NAMED(l, n)                                                           \
    __attribute__((cleanup(lock_leave), unused)) Lock *lock_guard_##n = lock_enter(l)
