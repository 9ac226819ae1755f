/* Guest RAM that comes while the VM runs already: a page when somebody touches it, and
 * meanwhile all the others in their order, so that after a while the VM needs its
 * snapshot no more.  For memory that cannot be mapped: compressed, on another host, or
 * for huge pages.
 *
 * Two threads for each such VM.  "fault" waits for nobody but the files, or the server a
 * bounded time: vCPUs, I/O threads and main all wait for it.  "fill" goes when all is
 * there.  A page that cannot be read is never replaced by zeroes: who wants it sleeps,
 * and the machine hears of it (core/gmlost.h); gm_retry() reads it again. */
#pragma once

#include "core/guestmem.h"
#include "snapshot/memory.h"
#include "snapshot/remote.h"

typedef struct LazyMemory LazyMemory;

typedef struct LazyFigures {
    uint64_t faults;  /* pages that somebody waited for */
    uint64_t wait_ns; /* how long all of them took, from when the thread saw them */
    uint64_t filled;  /* pages that came before anybody wanted them */
    bool whole;       /* all is there: nothing is read any more */
    int64_t whole_ns; /* how long that took */
} LazyFigures;

/* Whether this host can; see uffd.h.  Any thread. */
bool lazy_possible(GError **error);

/* Main thread, RAM untouched, no memory slots yet; gm_guard() was called.  Makes RAM come
 * from `s` or, if that is NULL, from `remote`, which must both stay until lazy_close().
 */
LazyMemory *lazy_open(SnapMemory *s, RemoteSnapshot *remote, GuestMem *gm,
                      GError **error);

/* Main thread.  Threads of the machine, which is still there, may sleep for what could
 * not be read: to close this would give them zeroes, so that it goes with the process.
 * NULL is fine. */
bool lazy_is_awaited(const LazyMemory *l);

/* Main thread, no vCPU runs, nobody touches RAM, which may be gone already.  NULL is
 * fine.
 */
void lazy_close(LazyMemory *l);

void lazy_figures(LazyMemory *l, LazyFigures *ret); /* any thread */
