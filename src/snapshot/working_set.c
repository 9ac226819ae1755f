/* See snapshot/working_set.h.  The thread "working-set" lives for as long as it takes to
 * read ahead, or for RECORD_MS; it waits for nobody.
 *
 * What costs is not the amount that is read, but the order: a page that is not in the
 * page cache makes the kernel read what lies around it, too (mm/filemap.c; as much as
 * /sys/class/bdi/N/read_ahead_kb says, up to megabytes), and the guest waits for all of
 * that, a page after the other.  So while pages that are known to be wanted are being
 * asked for, all of them at once, nothing else is read but what a fault is for. */
#include "snapshot/working_set.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/gmlost.h"
#include "memory_private.h"
#include "uffd.h"
#include "util/fd.h"
#include "util/ioloop.h"
#include "util/log.h"

enum {
    RECORD_MS = 2000,
    LEAST_PAGES = 32,    /* fewer: the guest did not run */
    MOST_PAGES = 262144, /* 1 GiB; more: somebody read all of it */
    NICE = 10,
    AT_ONCE = 8192, /* entries of the page map */
};
#define PAGE_IS_THERE 0xc000000000000000u /* present, or swapped out (pagemap.rst) */

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

struct WorkingSet {
    GuestMem *gm; /* NULL: it is stopped */
    char *folder;
    GArray *runs; /* to be read ahead; NULL: record */
    int exact_fd; /* while it records: see uffd_touch_alone() */
    pthread_t thread;
    Lock lock; /* guards how it is told to stop */
    pthread_cond_t told;
    bool stop;
};

/* ---- reading ahead --------------------------------------------------------------------
 */

static bool is_stopped(WorkingSet *w)
{
    LOCK_GUARD(&w->lock);

    return w->stop;
}

static void advise(WorkingSet *w, int advice)
{
    for (unsigned i = 0; i < w->runs->len && !is_stopped(w); i++) {
        const MemoryRun *run = &g_array_index(w->runs, MemoryRun, i);

        madvise(w->gm->base + run->first * GM_PAGE_SIZE, run->count * GM_PAGE_SIZE,
                advice);
    }
}

/* First all is asked of the disk, which takes it in parallel; then it is put where a
 * fault would. */
static void read_ahead(WorkingSet *w)
{
    advise(w, MADV_WILLNEED);
    advise(w, MADV_POPULATE_READ);
    madvise(w->gm->base, w->gm->size, MADV_NORMAL);
}

/* ---- recording ------------------------------------------------------------------------
 */

static bool wait_to_record(WorkingSet *w)
{
    int64_t until = clock_ns() + (int64_t)RECORD_MS * 1000000;
    struct timespec at = {until / 1000000000, until % 1000000000};
    LOCK_GUARD(&w->lock);

    while (!w->stop && pthread_cond_timedwait(&w->told, &w->lock.mutex, &at) != ETIMEDOUT)
        ;
    return !w->stop;
}

/* How many pages have been touched; 0 also for a failure. */
static uint64_t find_touched(WorkingSet *w, uint64_t *bits, uint64_t pages)
{
    autofd fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    g_autofree uint64_t *entries = g_new(uint64_t, AT_ONCE);
    uint64_t first = (uintptr_t)w->gm->base / GM_PAGE_SIZE, n = 0;

    for (uint64_t page = 0; page < pages; page += AT_ONCE) {
        uint64_t some = MIN(AT_ONCE, pages - page);

        if (is_stopped(w) || !fd_pread_all(fd, entries, some * sizeof(*entries),
                                           (first + page) * sizeof(*entries), NULL))
            return 0;
        for (uint64_t i = 0; i < some; i++) {
            if (!(entries[i] & PAGE_IS_THERE))
                continue;
            bits[(page + i) / 64] |= BIT64((page + i) % 64);
            n++;
        }
    }
    return n;
}

/* Complete or not there: several VMs may be restored from it at once. */
static bool save(WorkingSet *w, const uint64_t *bits, uint64_t pages, GError **error)
{
    g_autofree char *name = g_strdup_printf("." SNAP_WORKING_SET ".%d", (int)getpid());
    g_autofree char *from = g_build_filename(w->folder, name, NULL);
    g_autofree char *to = g_build_filename(w->folder, SNAP_WORKING_SET, NULL);
    bool ok = memory_runs_save(w->folder, name, bits, pages, error) &&
              (rename(from, to) == 0 || fail_errno(error, "'%s': make it", to));

    if (!ok)
        unlink(from);
    return ok;
}

static void record(WorkingSet *w)
{
    uint64_t pages = w->gm->size / GM_PAGE_SIZE, n;
    g_autofree uint64_t *bits = g_try_new0(uint64_t, (pages + 63) / 64);
    g_autoptr(GError) error = NULL;

    if (!bits || !wait_to_record(w))
        return;
    n = find_touched(w, bits, pages);
    if (n >= LEAST_PAGES && n <= MOST_PAGES && !save(w, bits, pages, &error))
        log_debug("the guest's first pages are not recorded: %s", error->message);
}

/* ---- life-cycle -----------------------------------------------------------------------
 */

static void *working_set_thread(void *opaque)
{
    WorkingSet *w = opaque;

    thread_set_name("working-set");
    if (w->runs) { /* the guest is about to wait for it */
        read_ahead(w);
        return NULL;
    }
    setpriority(PRIO_PROCESS, (id_t)gettid(), NICE);
    record(w);
    fd_close(&w->exact_fd);
    return NULL;
}

/* Main: RAM is about to be cleared, or to go. */
static void stop(void *opaque)
{
    WorkingSet *w = opaque;

    lock_acquire(&w->lock);
    w->stop = true;
    pthread_cond_signal(&w->told);
    lock_release(&w->lock);
    pthread_join(w->thread, NULL);
    w->gm->lost->forget = w->gm->lost->opaque = NULL;
    w->gm = NULL;
}

static void free_working_set(WorkingSet *w)
{
    if (w->runs)
        g_array_unref(w->runs);
    fd_close(&w->exact_fd);
    pthread_cond_destroy(&w->told);
    lock_finish(&w->lock);
    g_free(w->folder);
    g_free(w);
}

static WorkingSet *new_working_set(const char *folder, GuestMem *gm)
{
    WorkingSet *w = g_new0(WorkingSet, 1);
    pthread_condattr_t monotonic;

    w->gm = gm;
    w->exact_fd = -1;
    w->folder = g_strdup(folder);
    lock_init(&w->lock);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&w->told, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return w;
}

WorkingSet *working_set_start(const char *folder, GuestMem *gm)
{
    g_autofree char *path = g_build_filename(folder, SNAP_WORKING_SET, NULL);
    bool known = access(path, F_OK) == 0;
    WorkingSet *w;

    if (!known && access(folder, W_OK) != 0)
        return NULL;
    w = new_working_set(folder, gm);
    if (known)
        w->runs = memory_runs_load(folder, SNAP_WORKING_SET, gm->size / GM_PAGE_SIZE,
                                   NULL);
    /* One that is damaged is recorded anew. */
    if (w->runs)
        madvise(gm->base, gm->size, MADV_RANDOM);
    else
        w->exact_fd = uffd_touch_alone(gm->base, gm->size);
    if (pthread_create(&w->thread, NULL, working_set_thread, w)) {
        free_working_set(w);
        return NULL;
    }
    gm->lost->forget = stop;
    gm->lost->opaque = w;
    return w;
}

void working_set_close(WorkingSet *w)
{
    if (!w)
        return;
    if (w->gm)
        stop(w);
    free_working_set(w);
}
