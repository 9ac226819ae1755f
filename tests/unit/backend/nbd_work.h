/* Requests to NBD disks, for tests: opening them, and many threads that keep a model of
 * what must be there. */
#pragma once

#include <errno.h>
#include <string.h>

#include "src/block/file_private.h"
#include "tests/unit/backend/nbd_server.h"
#include "util/bits.h"
#include "util/iov.h"

enum { THREADS = 16, REGION = 256 * 1024, DISK = THREADS * REGION };

static inline BlockFile *try_open(const char *uri, bool readonly, GError **error)
{
    BlockOptions options = {.path = (char *)uri, .readonly = readonly};

    return block_file_open(&options, error);
}

static inline BlockFile *open_disk(const char *uri, bool readonly)
{
    g_autoptr(GError) error = NULL;
    BlockFile *f = try_open(uri, readonly, &error);

    g_assert_no_error(error);
    return f;
}

static inline void refused(const char *uri, bool readonly, const char *needle)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(BlockFile) f = try_open(uri, readonly, &error);

    g_assert_null(f);
    g_assert_nonnull(error);
    if (!strstr(error->message, needle) || !strstr(error->message, uri))
        g_error("\"%s\" does not say \"%s\" of %s", error->message, needle, uri);
}

static inline double seconds_since(int64_t start)
{
    return (double)(g_get_monotonic_time() - start) / G_USEC_PER_SEC;
}

/* ---- random requests against a model
 * --------------------------------------------------- */

typedef struct Worker {
    BlockFile *f;
    GThread *thread;
    unsigned index, rounds;
    uint8_t *model;  /* of its region */
    int err;         /* the first */
    const int *stop; /* atomic */
} Worker;

static inline void fill(GRand *rand, uint8_t *buf, size_t len)
{
    memset(buf, g_rand_int_range(rand, 1, 256), len);
    for (size_t i = 0; i + 4 <= len; i += 509)
        store_le32(buf + i, g_rand_int(rand));
}

/* Cuts buf into a list of small pieces. */
static inline unsigned scatter(GRand *rand, uint8_t *buf, size_t len, struct iovec *iov,
                               unsigned max)
{
    unsigned n = 0;
    size_t at = 0;

    while (at < len) {
        int most = g_rand_int_range(rand, 0, 8) ? 9000 : 150000;
        size_t part = n + 1 < max ? (size_t)g_rand_int_range(rand, 0, most) : len - at;

        part = MIN(part, len - at);
        iov[n++] = (struct iovec){buf + at, part};
        at += part;
    }
    return n;
}

static inline int one_request(Worker *w, GRand *rand, uint8_t *buf)
{
    unsigned at = (unsigned)g_rand_int_range(rand, 0, REGION - 1);
    unsigned len = (unsigned)g_rand_int_range(rand, 1, (int)MIN(REGION - at, 200000) + 1);
    uint64_t offset = (uint64_t)w->index * REGION + at;
    struct iovec iov[64];
    unsigned n = scatter(rand, buf, len, iov, G_N_ELEMENTS(iov));
    bool data;
    uint64_t extent;
    int err;

    switch (g_rand_int_range(rand, 0, 8)) {
    case 0:
        memset(w->model + at, 0, len);
        return block_file_zero(w->f, offset, len, g_rand_boolean(rand));
    case 1:
        return block_file_flush(w->f);
    case 2:
        err = w->f->ops->extent(w->f, offset, len, &data, &extent);
        g_assert_true(err || (extent >= 1 && extent <= len));
        for (unsigned i = 0; !err && !data && i < extent; i++)
            g_assert_cmpuint(w->model[at + i], ==, 0);
        return err;
    case 3:
    case 4:
    case 5:
        fill(rand, buf, len);
        memcpy(w->model + at, buf, len);
        return block_file_rw(w->f, true, offset, iov, n, 0, len);
    default:
        err = block_file_rw(w->f, false, offset, iov, n, 0, len);
        if (!err)
            g_assert_cmpmem(buf, len, w->model + at, len);
        return err;
    }
}

static inline gpointer work(gpointer opaque)
{
    Worker *w = opaque;
    GRand *rand = g_rand_new_with_seed(w->index + 1);
    uint8_t *buf = g_malloc(REGION);

    for (unsigned i = 0; !w->err && i < w->rounds && !g_atomic_int_get(w->stop); i++)
        w->err = one_request(w, rand, buf);
    g_free(buf);
    g_rand_free(rand);
    return NULL;
}

static inline void start_work(Worker *w, BlockFile *f, unsigned rounds, const int *stop)
{
    for (unsigned i = 0; i < THREADS; i++) {
        w[i] = (Worker){.f = f,
                        .index = i,
                        .rounds = rounds,
                        .stop = stop,
                        .model = g_malloc0(REGION)};
        w[i].thread = g_thread_new("work", work, &w[i]);
    }
}

static inline void end_work(Worker *w)
{
    for (unsigned i = 0; i < THREADS; i++)
        g_thread_join(w[i].thread);
}

/* What the threads think is there is there, for a connection of its own too. */
static inline void check_work(Worker *w, const char *uri)
{
    g_autoptr(BlockFile) f = open_disk(uri, true);
    uint8_t *buf = g_malloc(REGION);

    for (unsigned i = 0; i < THREADS; i++) {
        g_assert_cmpint(w[i].err, ==, 0);
        g_assert_cmpint(block_file_read(f, (uint64_t)i * REGION, buf, REGION), ==, 0);
        g_assert_cmpmem(buf, REGION, w[i].model, REGION);
        g_free(w[i].model);
    }
    g_free(buf);
}

static inline void random_requests(const char *uri)
{
    BlockFile *f = open_disk(uri, false);
    Worker w[THREADS];
    int stop = 0;

    start_work(w, f, 200, &stop);
    end_work(w);
    check_work(w, uri);
    block_file_close(f);
}
