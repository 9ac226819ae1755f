/* See snapshot/lazy.h.
 *
 * RAM is brought in by chunks, whose pages share a read: 64 KiB, or one huge page.  A bit
 * for each says that all of it is there.  Both threads may bring in the same chunk at the
 * same time: the kernel takes each page once, and neither ever replaces one. */
#include "snapshot/lazy.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/gmlost.h"
#include "memory_private.h"
#include "page_source.h"
#include "remote_private.h"
#include "uffd.h"
#include "util/counter.h"
#include "util/fd.h"
#include "util/ioloop.h"
#include "util/lock.h"
#include "util/log.h"

enum {
    CHUNK = 16, /* pages, ZST_PAGES too */
    HUGE_CHUNK = 512,
    TAKE = 16,          /* faults at once */
    FILL_PAGES = 64,    /* at once */
    MAX_WAITING = 2048, /* threads of ours that sleep for what could not be read */
    FILL_DELAY_MS = 20, /* the guest's first steps come first */
    FILL_NICE = 10,
    RETRY_MS = 1000, /* where main itself sleeps, and cannot be told to try again */
    FILL_RETRY_MS = 1000,
    FILL_RETRY_MAX_MS = 60 * 1000,
};

struct LazyMemory {
    GuestMem *gm;
    Uffd uffd;
    uint64_t pages;
    unsigned chunk;  /* pages */
    uint64_t *there; /* atomic; a bit for each chunk */
    PageSource *faults, *fills;
    pthread_t fault, fill;
    bool has_fault, has_fill;
    int wake_fd;
    bool stop, retry; /* atomic; for the fault thread, told by wake_fd */
    int64_t began_ns;

    /* The fault thread's. */
    uint8_t *fault_buf;
    UffdFault waiting[MAX_WAITING]; /* for what could not be read */
    unsigned n_waiting;

    /* The filler's. */
    uint8_t *fill_buf;
    Lock lock; /* guards how it is told to go on or to stop */
    pthread_cond_t told;
    bool fill_again;

    LazyFigures fault_figures, fill_figures; /* counters: one writer each */
};

/* ---- chunks ---------------------------------------------------------------------------
 */

static bool is_there(const LazyMemory *l, uint64_t page)
{
    uint64_t i = page / l->chunk;

    return __atomic_load_n(&l->there[i / 64], __ATOMIC_ACQUIRE) >> (i % 64) & 1;
}

static void set_there(LazyMemory *l, uint64_t page)
{
    uint64_t i = page / l->chunk;

    __atomic_fetch_or(&l->there[i / 64], BIT64(i % 64), __ATOMIC_RELEASE);
}

static bool is_zero(const uint8_t *page)
{
    return !page[0] && !memcmp(page, page + 1, GM_PAGE_SIZE - 1);
}

/* Runs of zeroes and of others, each in one go. */
static bool put_pages(LazyMemory *l, uint64_t first, unsigned n, const uint8_t *data,
                      GError **error)
{
    for (unsigned i = 0, end; i < n; i = end) {
        bool zero = is_zero(data + (size_t)i * GM_PAGE_SIZE);

        end = i + 1;
        while (end < n && is_zero(data + (size_t)end * GM_PAGE_SIZE) == zero)
            end++;
        if (!uffd_put(&l->uffd, (first + i) * GM_PAGE_SIZE,
                      zero ? NULL : data + (size_t)i * GM_PAGE_SIZE,
                      (uint64_t)(end - i) * GM_PAGE_SIZE, error))
            return false;
    }
    return true;
}

/* Chunks from the one that begins at `first` on, n pages. */
static bool bring(LazyMemory *l, PageSource *from, uint64_t first, unsigned n,
                  uint8_t *buf, GError **error)
{
    if (!from->read(from, first, n, buf, error))
        return false;
    if (l->gm->hugepages ? !uffd_put(&l->uffd, first * GM_PAGE_SIZE, buf,
                                     (uint64_t)n * GM_PAGE_SIZE, error)
                         : !put_pages(l, first, n, buf, error))
        return false;
    for (unsigned i = 0; i < n; i += l->chunk)
        set_there(l, first + i);
    return true;
}

/* ---- the fault thread -----------------------------------------------------------------
 */

static bool serve(LazyMemory *l, const UffdFault *f, GError **error)
{
    uint64_t page = f->offset / GM_PAGE_SIZE;
    uint64_t first = page / l->chunk * l->chunk;

    if (page >= l->pages || is_there(l, page)) { /* it came meanwhile */
        uffd_wake(&l->uffd, first * GM_PAGE_SIZE, (uint64_t)l->chunk * GM_PAGE_SIZE);
        return true;
    }
    return bring(l, l->faults, first, (unsigned)MIN(l->chunk, l->pages - first),
                 l->fault_buf, error);
}

/* A thread waits for one page at a time; a vCPU's comes again after each signal. */
static void wait_for_retry(LazyMemory *l, const UffdFault *f)
{
    unsigned i = 0;

    while (i < l->n_waiting && !(l->waiting[i].tid == f->tid &&
                                 (f->tid || l->waiting[i].offset == f->offset)))
        i++;
    if (i == MAX_WAITING) /* a process of ours has dozens of threads */
        return;
    l->waiting[i] = *f;
    l->n_waiting = MAX(l->n_waiting, i + 1);
}

/* From then on nobody waits for us: who did is on the way with what the kernel gives. */
static bool is_whole(const LazyMemory *l)
{
    return __atomic_load_n(&l->fill_figures.whole, __ATOMIC_ACQUIRE);
}

static void serve_all(LazyMemory *l, const UffdFault *faults, unsigned n)
{
    int64_t began = clock_ns();

    for (unsigned i = 0; i < n; i++) {
        g_autoptr(GError) error = NULL;

        if (!serve(l, &faults[i], &error) && !is_whole(l)) {
            wait_for_retry(l, &faults[i]);
            gm_lose(l->gm, error->message);
        }
    }
    counter_add(&l->fault_figures.faults, n);
    counter_add(&l->fault_figures.wait_ns, (uint64_t)(clock_ns() - began));
}

static void serve_waiting(LazyMemory *l)
{
    unsigned n = l->n_waiting;
    g_autofree UffdFault *again = g_memdup2(l->waiting, n * sizeof(*again));

    l->n_waiting = 0;
    serve_all(l, again, n);
}

static bool main_waits(const LazyMemory *l)
{
    for (unsigned i = 0; i < l->n_waiting; i++)
        if (l->waiting[i].tid == (uint32_t)getpid())
            return true;
    return false;
}

static void *fault_thread(void *opaque)
{
    LazyMemory *l = opaque;
    struct pollfd fds[2] = {{l->uffd.fd, POLLIN, 0}, {l->wake_fd, POLLIN, 0}};

    thread_set_name("fault");
    while (!__atomic_load_n(&l->stop, __ATOMIC_ACQUIRE)) {
        UffdFault faults[TAKE];
        unsigned n;
        int ready = poll(fds, 2, main_waits(l) ? RETRY_MS : -1);

        if (fds[1].revents)
            fd_event_take(l->wake_fd);
        if (__atomic_exchange_n(&l->retry, false, __ATOMIC_ACQUIRE) || ready == 0)
            serve_waiting(l);
        while ((n = uffd_take(&l->uffd, faults, TAKE)))
            serve_all(l, faults, n);
    }
    return NULL;
}

static void tell_fault_thread(LazyMemory *l, bool *what)
{
    __atomic_store_n(what, true, __ATOMIC_RELEASE);
    fd_event_signal(l->wake_fd);
}

/* ---- the filler -----------------------------------------------------------------------
 */

/* False: it is to stop. */
static bool fill_sleep(LazyMemory *l, int ms)
{
    int64_t until = clock_ns() + (int64_t)ms * 1000000;
    struct timespec at = {until / 1000000000, until % 1000000000};
    LOCK_GUARD(&l->lock);

    while (!__atomic_load_n(&l->stop, __ATOMIC_RELAXED) && !l->fill_again)
        if (pthread_cond_timedwait(&l->told, &l->lock.mutex, &at) == ETIMEDOUT)
            break;
    l->fill_again = false;
    return !__atomic_load_n(&l->stop, __ATOMIC_RELAXED);
}

/* The next chunks that are not there, at or after *page and before `end`. */
static unsigned missing_at(const LazyMemory *l, uint64_t *page, uint64_t end)
{
    unsigned most = MAX(FILL_PAGES, l->chunk), n = 0;

    while (*page < end && is_there(l, *page))
        *page += l->chunk;
    while (*page + n < end && n < most && !is_there(l, *page + n))
        n += l->chunk;
    return (unsigned)MIN(n, l->pages - MIN(*page, l->pages));
}

/* On failure *page is where to go on. */
static bool fill_from(LazyMemory *l, uint64_t *page, GError **error)
{
    uint64_t n = 0;

    while (!__atomic_load_n(&l->stop, __ATOMIC_RELAXED)) {
        uint64_t end;

        if (!l->fills->next(l->fills, page, &n, error))
            return false;
        if (!n)
            return true;
        end = *page + n;
        for (*page = *page / l->chunk * l->chunk; *page < end;) {
            unsigned some = missing_at(l, page, end);

            if (some && !bring(l, l->fills, *page, some, l->fill_buf, error))
                return false;
            counter_add(&l->fill_figures.filled, some);
            *page += some;
            if (__atomic_load_n(&l->stop, __ATOMIC_RELAXED))
                break;
        }
    }
    return true;
}

static void *fill_thread(void *opaque)
{
    LazyMemory *l = opaque;
    uint64_t page = 0;
    int pause_ms = FILL_RETRY_MS;

    thread_set_name("fill");
    setpriority(PRIO_PROCESS, (id_t)gettid(), FILL_NICE);
    if (!fill_sleep(l, FILL_DELAY_MS))
        return NULL;
    for (;;) {
        g_autoptr(GError) error = NULL;
        uint64_t was = page;

        if (fill_from(l, &page, &error))
            break;
        if (page != was)
            pause_ms = FILL_RETRY_MS;
        if (pause_ms == FILL_RETRY_MS)
            log_warn("memory that the guest may want later cannot be read now: %s",
                     error->message);
        if (!fill_sleep(l, pause_ms))
            return NULL;
        pause_ms = MIN(2 * pause_ms, FILL_RETRY_MAX_MS);
    }
    if (__atomic_load_n(&l->stop, __ATOMIC_ACQUIRE))
        return NULL;
    l->fill_figures.whole_ns = clock_ns() - l->began_ns;
    __atomic_store_n(&l->fill_figures.whole, true, __ATOMIC_RELEASE);
    uffd_release(&l->uffd); /* what is missing now is zero */
    tell_fault_thread(l, &l->stop);
    return NULL;
}

/* ---- local files ----------------------------------------------------------------------
 */

typedef struct LocalSource {
    PageSource source;
    SnapMemory *memory;
} LocalSource;

static bool local_read(PageSource *s, uint64_t page, unsigned n, uint8_t *buf,
                       GError **error)
{
    return snap_memory_read(((LocalSource *)s)->memory, page, n, buf, error);
}

static bool local_next(PageSource *s, uint64_t *page, uint64_t *n, GError **error)
{
    SnapMemory *memory = ((LocalSource *)s)->memory;
    uint64_t at = *page;

    if (!snap_memory_is_whole(memory, error))
        return false;
    if (!snap_memory_next(memory, &at, n))
        *n = 0;
    if (!snap_memory_is_whole(memory, error))
        return false;
    *page = at;
    return true;
}

static void local_interrupt(PageSource *s)
{
}

static void local_close(PageSource *s)
{
    g_free(s);
}

static PageSource *local_source(SnapMemory *memory)
{
    LocalSource *s = g_new0(LocalSource, 1);

    s->source = (PageSource){local_read, local_next, local_interrupt, local_close};
    s->memory = memory;
    return &s->source;
}

/* ---- life-cycle -----------------------------------------------------------------------
 */

bool lazy_possible(GError **error)
{
    return uffd_possible(error);
}

/* Main: gm_retry(). */
static void retry(void *opaque)
{
    LazyMemory *l = opaque;

    tell_fault_thread(l, &l->retry);
    LOCK_GUARD(&l->lock);
    l->fill_again = true;
    pthread_cond_signal(&l->told);
}

/* Main: nothing is wanted any more, since RAM is about to be cleared, or the VM has
 * ended.
 */
static void stop(void *opaque)
{
    LazyMemory *l = opaque;

    lock_acquire(&l->lock);
    __atomic_store_n(&l->stop, true, __ATOMIC_RELEASE);
    pthread_cond_signal(&l->told);
    lock_release(&l->lock);
    if (l->has_fill) {
        l->fills->interrupt(l->fills);
        pthread_join(l->fill, NULL);
    }
    if (l->has_fault) {
        l->faults->interrupt(l->faults);
        tell_fault_thread(l, &l->stop);
        pthread_join(l->fault, NULL);
    }
    l->has_fill = l->has_fault = false;
    uffd_release(&l->uffd);
    l->gm->lost->retry = l->gm->lost->forget = l->gm->lost->opaque = NULL;
    l->gm = NULL; /* which may end before we do */
}

static bool start_threads(LazyMemory *l, GError **error)
{
    int err = pthread_create(&l->fault, NULL, fault_thread, l);

    l->has_fault = !err;
    if (!err)
        err = pthread_create(&l->fill, NULL, fill_thread, l);
    l->has_fill = !err;
    errno = err;
    return !err || fail_errno(error, "memory: start the threads that fetch it");
}

static bool prepare(LazyMemory *l, SnapMemory *s, RemoteSnapshot *remote, GError **error)
{
    l->there = g_try_new0(uint64_t, l->pages / l->chunk / 64 + 1);
    l->fault_buf = g_try_malloc((size_t)l->chunk * GM_PAGE_SIZE);
    l->fill_buf = g_try_malloc((size_t)MAX(l->chunk, FILL_PAGES) * GM_PAGE_SIZE);
    if (!l->there || !l->fault_buf || !l->fill_buf)
        return fail(error, VM_ERROR_IO, "memory: no room for what it takes to fetch it");
    l->faults = s ? local_source(s) : remote_source(remote, error);
    l->fills = l->faults ? s ? local_source(s) : remote_source(remote, error) : NULL;
    l->wake_fd = l->fills ? fd_event(error) : -1;
    return l->wake_fd >= 0 &&
           uffd_open(&l->uffd, l->gm->base, l->gm->size, l->gm->hugepages, error) &&
           start_threads(l, error);
}

LazyMemory *lazy_open(SnapMemory *s, RemoteSnapshot *remote, GuestMem *gm, GError **error)
{
    uint64_t size = s ? snap_memory_size(s) : remote_ram_size(remote);
    pthread_condattr_t monotonic;
    LazyMemory *l;

    if (gm->fd >= 0) {
        fail(
            error, VM_ERROR_UNSUPPORTED,
            "memory that is shared with another process (vhost-user) cannot come when it "
            "is wanted: restore with --memory-from copy");
        return NULL;
    }
    if (gm->size != size) {
        fail(error, VM_ERROR_INVALID,
             "memory: the snapshot is of %" G_GUINT64_FORMAT
             " bytes of RAM, and the VM has %" G_GUINT64_FORMAT,
             size, gm->size);
        return NULL;
    }
    l = g_new0(LazyMemory, 1);
    l->gm = gm;
    l->pages = size / GM_PAGE_SIZE;
    l->chunk = gm->hugepages ? HUGE_CHUNK : CHUNK;
    l->uffd.fd = l->wake_fd = -1;
    l->began_ns = clock_ns();
    lock_init(&l->lock);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&l->told, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (!prepare(l, s, remote, error)) {
        lazy_close(l);
        return NULL;
    }
    gm->lost->retry = retry;
    gm->lost->forget = stop;
    gm->lost->opaque = l;
    return l;
}

bool lazy_is_awaited(const LazyMemory *l)
{
    return l && l->gm && gm_is_lost(l->gm);
}

void lazy_close(LazyMemory *l)
{
    if (!l)
        return;
    if (l->gm && l->uffd.fd >= 0)
        stop(l);
    uffd_close(&l->uffd);
    fd_close(&l->wake_fd);
    if (l->faults)
        l->faults->close(l->faults);
    if (l->fills)
        l->fills->close(l->fills);
    pthread_cond_destroy(&l->told);
    lock_finish(&l->lock);
    g_free(l->there);
    g_free(l->fault_buf);
    g_free(l->fill_buf);
    g_free(l);
}

void lazy_figures(LazyMemory *l, LazyFigures *ret)
{
    ret->faults = counter_read(&l->fault_figures.faults);
    ret->wait_ns = counter_read(&l->fault_figures.wait_ns);
    ret->filled = counter_read(&l->fill_figures.filled);
    ret->whole = __atomic_load_n(&l->fill_figures.whole, __ATOMIC_ACQUIRE);
    ret->whole_ns = ret->whole ? l->fill_figures.whole_ns : 0;
}
