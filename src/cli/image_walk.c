/* A walk takes a disk's bytes from the beginning to the end, on a few threads side by
 * side.  Under one lock a thread takes the next piece, and what is nothing is passed over
 * there; then it works on its piece alone, with its own buffers.  The main thread shows
 * how far it is and listens to signals. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

#include "src/cli/image.h"
#include "util/bits.h"
#include "util/fd.h"
#include "util/ioloop.h"
#include "util/lock.h"
#include "util/log.h"

enum {
    TICK_MS = 100,
    BUFFER_ALIGN = 4096,        /* O_DIRECT's */
    MAX_ZERO_PIECE = 256 << 20, /* so that a signal is heard in between */
    MIN_DEFAULT_THREADS = 4,    /* a disk wants several requests at a time */
    MAX_DEFAULT_THREADS = 8,
};

bool is_zero(const void *buf, size_t len)
{
    static const uint8_t zeroes[4096];
    const uint8_t *at = buf;

    for (; len > sizeof(zeroes); at += sizeof(zeroes), len -= sizeof(zeroes))
        if (memcmp(at, zeroes, sizeof(zeroes)))
            return false;
    return !memcmp(at, zeroes, len);
}

/* What the threads share. */
typedef struct Crew {
    Walk *walk;
    Lock lock;                  /* of the walk's place, and of `error` */
    GError *error;              /* the first */
    atomic_uint busy;           /* threads */
    int done_fd;                /* signalled by the last one */
    atomic_uint_fast64_t moved; /* bytes of data, for the rate */
    int64_t started_ns;
} Crew;

typedef struct Piece {
    WalkKind kind;
    uint64_t offset, len;
} Piece;

void walk_stop(Walk *w)
{
    atomic_store(&w->stop, true);
}

/* ---- the next piece, under the lock ----------------------------------------------- */

/* From w->at: a stretch of one kind in whole units. */
static bool next_stretch(Walk *w, Piece *p, GError **error)
{
    uint64_t rest = w->size - w->at;

    *p = (Piece){.offset = w->at};
    if (!w->look(w, w->at, rest, &p->kind, &p->len, error))
        return false;
    p->len = MIN(p->len, rest);
    if (p->len == rest)
        return true;
    if (p->kind == WALK_DATA)
        p->len = MIN(align_up(p->len, w->unit), rest);
    else
        p->len = align_down(p->len, w->unit);
    if (!p->len) { /* of two kinds */
        p->kind = WALK_DATA;
        p->len = MIN(w->unit, rest);
    }
    return true;
}

/* False: the walk is over, or failed. */
static bool next_piece(Crew *c, Piece *p)
{
    Walk *w = c->walk;
    GError *error = NULL;

    LOCK_GUARD(&c->lock);
    while (w->at < w->size && !c->error && !atomic_load(&w->stop)) {
        if (w->at < w->data_end) {
            *p = (Piece){WALK_DATA, w->at, w->data_end - w->at};
        } else if (!next_stretch(w, p, &error)) {
            c->error = error;
            break;
        }
        if (p->kind == WALK_DATA) {
            w->data_end = p->offset + p->len;
            p->len = MIN(p->len, w->chunk - p->offset % w->chunk);
        }
        if (p->kind == WALK_ZERO)
            p->len = MIN(p->len, MAX_ZERO_PIECE);
        w->at += p->len;
        if (p->kind != WALK_SKIP)
            return true;
        atomic_fetch_add(&w->progress->done, p->len);
    }
    return false;
}

/* ---- a thread --------------------------------------------------------------------- */

/* Sleeps as long as we are ahead of the rate. */
static void keep_rate(Crew *c, uint64_t len)
{
    uint64_t moved = atomic_fetch_add(&c->moved, len) + len;
    double due_s = (double)moved / (double)c->walk->rate_limit;

    while (!atomic_load(&c->walk->stop)) {
        double ahead_s = due_s - (double)(clock_ns() - c->started_ns) / 1e9;

        if (ahead_s <= 0)
            return;
        g_usleep((gulong)(MIN(ahead_s, 0.1) * 1e6));
    }
}

static void set_error(Crew *c, GError *error)
{
    LOCK_GUARD(&c->lock);
    if (c->error)
        g_error_free(error);
    else
        c->error = error;
}

static void take_pieces(Crew *c, uint8_t *buf[2])
{
    Walk *w = c->walk;
    GError *error = NULL;
    Piece p;

    while (next_piece(c, &p)) {
        if (!w->work(w, p.kind, p.offset, p.len, buf, &error)) {
            set_error(c, error);
            return;
        }
        atomic_fetch_add(&w->progress->done, p.len);
        if (w->rate_limit && p.kind == WALK_DATA)
            keep_rate(c, p.len);
    }
}

static void *walk_thread(void *opaque)
{
    Crew *c = opaque;
    uint8_t *memory = aligned_alloc(BUFFER_ALIGN, 2 * c->walk->chunk);
    uint8_t *buf[2] = {memory, memory ? memory + c->walk->chunk : NULL};

    thread_set_name("image");
    if (memory)
        take_pieces(c, buf);
    else
        set_error(c,
                  g_error_new(VM_ERROR, VM_ERROR_IO, "there is no memory for buffers"));
    free(memory);
    if (atomic_fetch_sub(&c->busy, 1) == 1)
        fd_event_signal(c->done_fd);
    return NULL;
}

/* ---- all of it -------------------------------------------------------------------- */

/* How many could be started. */
static unsigned start_threads(Crew *c, pthread_t *threads)
{
    unsigned wanted = c->walk->threads, n = 0;

    if (!wanted)
        wanted = CLAMP((unsigned)get_nprocs(), MIN_DEFAULT_THREADS, MAX_DEFAULT_THREADS);
    wanted = MIN(wanted, WALK_MAX_THREADS);
    wanted = MIN(wanted, c->walk->size / c->walk->chunk + 1);
    for (; n < wanted; n++) {
        atomic_fetch_add(&c->busy, 1);
        if (pthread_create(&threads[n], NULL, walk_thread, c)) {
            atomic_fetch_sub(&c->busy, 1);
            break;
        }
    }
    return n;
}

static void wait_for(Crew *c)
{
    struct pollfd p = {.fd = c->done_fd, .events = POLLIN};

    while (atomic_load(&c->busy)) {
        poll(&p, 1, TICK_MS);
        progress_tick(c->walk->progress);
        if (interrupt_signal())
            walk_stop(c->walk);
    }
}

bool walk_run(Walk *w, GError **error)
{
    pthread_t threads[WALK_MAX_THREADS];
    Crew c = {.walk = w, .done_fd = fd_event(error), .started_ns = clock_ns()};
    unsigned n;

    if (c.done_fd < 0)
        return false;
    w->chunk = MAX(align_down(WALK_CHUNK, w->unit), w->unit);
    lock_init(&c.lock);
    n = start_threads(&c, threads);
    if (!n)
        c.error = g_error_new(VM_ERROR, VM_ERROR_IO, "start a thread: %s",
                              g_strerror(errno));
    wait_for(&c);
    for (unsigned i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    lock_finish(&c.lock);
    fd_close(&c.done_fd);
    if (!c.error && !interrupt_signal())
        return true;
    if (!c.error)
        return interrupt_fail(error);
    g_propagate_error(error, c.error);
    return false;
}
