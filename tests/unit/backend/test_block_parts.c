/* Transfers that lie in several places: in layers of a chain, and in holes between. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "backend/image.h"
#include "src/block/block_private.h"
#include "tests/unit/backend/scratch.h"
#include "util/bits.h"

/* Clusters belong in turn to the topmost image, the one below, the raw file at the
 * bottom, which ends early and within a cluster, and to nobody. */
enum {
    CLUSTER = 64 << 10,
    CLUSTERS = 64,
    LAYERS = 3,
    DEPTH = 64,
    BASE_CLUSTER = 32, /* the last that the bottom has some of */
};
#define SIZE      ((uint64_t)CLUSTER * CLUSTERS)
#define BASE_SIZE ((uint64_t)CLUSTER * BASE_CLUSTER + 4096)

typedef struct Variant {
    const char *name;
    BlockAio aio;
    BlockCache cache;
    unsigned cluster; /* 0: CLUSTER */
} Variant;

static const Variant variants[] = {
    {"libaio", BLOCK_AIO_LIBAIO, BLOCK_CACHE_NONE},
    {"io_uring", BLOCK_AIO_IO_URING, BLOCK_CACHE_NONE},
    {"io_uring-cached", BLOCK_AIO_IO_URING, BLOCK_CACHE_WRITEBACK},
    {"threads-cached", BLOCK_AIO_THREADS, BLOCK_CACHE_WRITEBACK},
    {"small clusters", BLOCK_AIO_AUTO, BLOCK_CACHE_AUTO, 8192},
};

typedef struct Disk {
    char *dir, *path[LAYERS]; /* from the bottom up */
    uint8_t *model;
    IoLoop *loop;
    BlockDev *dev;
    BlockQueue *q;
    bool parts; /* the engine takes them */
    unsigned pending;
} Disk;

typedef struct Io {
    BlockReq req;
    Disk *disk;
    struct iovec iov[3];
    int err;
    bool finished;
} Io;

/* ---- the chain ----------------------------------------------------------------------
 */

/* From the middle on, so that some cluster of the second layer lies just where, in the
 * bottom's file, its neighbour would go on. */
static void make_layer(Disk *d, unsigned layer, uint64_t cluster)
{
    static const char *const names[LAYERS] = {"base.raw", "mid.qcow2", "top.qcow2"};
    ImageCreate *how = param_new(&image_create_params);
    BlockOptions o = {.cache = BLOCK_CACHE_UNSAFE, .backing = BLOCK_BACKING_ON};
    g_autoptr(BlockImage) img = NULL;
    g_autoptr(GError) error = NULL;

    o.path = d->path[layer] = g_build_filename(d->dir, names[layer], NULL);
    how->path = g_strdup(o.path);
    how->size = layer ? SIZE : BASE_SIZE;
    how->cluster_size = cluster;
    if (layer) {
        how->backing = g_strdup(d->path[layer - 1]);
        how->backing_format = g_strdup(layer > 1 ? "qcow2" : "raw");
    }
    image_create(how, &error);
    g_assert_no_error(error);
    param_free(&image_create_params, how);
    img = image_open(&o, 0, &error);
    g_assert_no_error(error);
    for (uint64_t n = 0; n < SIZE; n += (LAYERS + 1) * cluster) {
        uint64_t at = (SIZE / 2 + layer * cluster + n) % SIZE;
        uint64_t len = at < image_size(img) ? MIN(cluster, image_size(img) - at) : 0;

        for (uint64_t i = 0; i < len; i++)
            d->model[at + i] = (uint8_t)(1 + layer + at / cluster + i / 512 * 7);
        if (len)
            g_assert_cmpint(image_write(img, at, d->model + at, len), ==, 0);
    }
}

static void open_disk(Disk *d, const Variant *v)
{
    BlockOptions o = {.path = d->path[LAYERS - 1],
                      .format = BLOCK_FORMAT_QCOW2,
                      .aio = v->aio,
                      .cache = v->cache,
                      .backing = BLOCK_BACKING_ON};
    g_autoptr(GError) error = NULL;

    d->dev = block_open(&o, &error);
    g_assert_no_error(error);
    d->loop = ioloop_new(NULL);
    d->q = block_queue_new(d->dev, d->loop, DEPTH, &error);
    g_assert_no_error(error);
    d->parts = v->aio != BLOCK_AIO_THREADS;
}

static void close_disk(Disk *d)
{
    block_queue_free(d->q);
    block_close(d->dev);
    ioloop_free(d->loop);
}

/* False, and the test skipped, if this host cannot do it. */
static bool new_disk(Disk *d, const Variant *v)
{
    BlockOptions o = {.aio = v->aio, .cache = v->cache};
    g_autoptr(GError) error = NULL;
    g_autoptr(BlockDev) probe = NULL;

    *d = (Disk){.dir = new_dir(), .model = g_malloc0(SIZE)};
    for (unsigned layer = 0; layer < LAYERS; layer++)
        make_layer(d, layer, v->cluster ? v->cluster : CLUSTER);
    o.path = d->path[0];
    probe = block_open(&o, &error);
    if (!probe) {
        g_test_skip(error->message);
        return false;
    }
    block_close(g_steal_pointer(&probe));
    open_disk(d, v);
    return true;
}

static void free_disk(Disk *d)
{
    if (d->q)
        close_disk(d);
    remove_dir(d->dir);
    for (unsigned layer = 0; layer < LAYERS; layer++)
        g_free(d->path[layer]);
    g_free(d->model);
}

static BlockFile *file_of(const Disk *d, unsigned layer)
{
    BlockImage *img = d->dev->top;

    for (unsigned i = LAYERS - 1; i > layer; i--)
        img = img->backing;
    return img->file;
}

/* ---- requests -----------------------------------------------------------------------
 */

static void on_done(BlockReq *req, int err)
{
    Io *io = (Io *)req;

    g_assert_false(io->finished);
    io->finished = true;
    io->err = err;
    if (--io->disk->pending == 0)
        ioloop_quit(io->disk->loop);
}

/* In three buffers, of which each may be aligned or not. */
static void submit(Disk *d, Io *io, BlockOp op, uint64_t offset, uint8_t *buf,
                   uint64_t len, uint64_t cut)
{
    cut = MIN(cut, len);
    *io = (Io){.disk = d,
               .iov = {{buf, cut}, {buf + cut, 0}, {buf + cut, len - cut}},
               .req = {.op = op, .offset = offset, .len = len, .n_iov = 3}};
    io->req.iov = io->iov;
    io->req.done = on_done;
    d->pending++;
    block_submit(d->q, &io->req);
    g_assert_false(io->finished); /* never from within block_submit() */
}

static void wait_all(Disk *d)
{
    block_commit(d->q);
    if (d->pending)
        ioloop_run(d->loop);
    g_assert_cmpuint(d->pending, ==, 0);
    g_assert_cmpuint(d->q->active, ==, 0);
}

static int do_io(Disk *d, BlockOp op, uint64_t offset, uint8_t *buf, uint64_t len)
{
    Io io;

    submit(d, &io, op, offset, buf, len, len);
    wait_all(d);
    return io.err;
}

static uint8_t *new_buf(size_t len)
{
    uint8_t *buf = aligned_alloc(4096, align_up(len, 4096));

    g_assert_nonnull(buf);
    memset(buf, 0xa5, len);
    return buf;
}

/* How many parts have been in use at a time, at most. */
static void expect_parts(const Disk *d, unsigned at_least)
{
    if (d->parts)
        g_assert_cmpuint(d->q->parts.n_used, >=, at_least);
    else
        g_assert_cmpuint(d->q->parts.n_used, ==, 0);
}

/* ---- tests --------------------------------------------------------------------------
 */

static void a_read_over_layers_and_holes_is_one_request(const void *data)
{
    Disk d;
    uint8_t *buf = new_buf(SIZE);

    if (new_disk(&d, data)) {
        g_assert_cmpint(do_io(&d, BLOCK_READ, 0, buf, CLUSTER), ==, 0);
        expect_parts(&d, 0); /* the tables are in the cache now */
        for (unsigned i = 0; i < 2; i++) {
            g_assert_cmpint(do_io(&d, BLOCK_READ, 0, buf, 8 * CLUSTER), ==, 0);
            g_assert_cmpmem(buf, 8 * CLUSTER, d.model, 8 * CLUSTER);
        }
        expect_parts(&d, 7);
        if (d.parts)
            g_assert_cmpuint(d.q->parts.n_used, ==, 7); /* and given back */
        /* Where the bottom ends. */
        memset(buf, 0xa5, 4 * CLUSTER);
        g_assert_cmpint(do_io(&d, BLOCK_READ, 32ull * CLUSTER, buf, 4 * CLUSTER), ==, 0);
        g_assert_cmpmem(buf, 4 * CLUSTER, d.model + 32ull * CLUSTER, 4 * CLUSTER);
        /* More of it than parts are for. */
        g_assert_cmpint(do_io(&d, BLOCK_READ, 0, buf, SIZE), ==, 0);
        g_assert_true(memcmp(buf, d.model, SIZE) == 0);
    }
    free(buf);
    free_disk(&d);
}

static void more_requests_than_there_are_parts_for_all_come_back(const void *data)
{
    enum { LEN = 8 * CLUSTER };
    Disk d;
    static Io io[DEPTH];
    uint8_t *buf = new_buf((size_t)LEN * DEPTH);

    if (new_disk(&d, data)) {
        g_assert_cmpint(do_io(&d, BLOCK_READ, 0, buf, CLUSTER), ==, 0);
        for (unsigned i = 0; i < DEPTH; i++)
            submit(&d, &io[i], BLOCK_READ, i % 7 * 8ull * CLUSTER, buf + i * LEN, LEN,
                   LEN);
        wait_all(&d);
        for (unsigned i = 0; i < DEPTH; i++) {
            g_assert_cmpint(io[i].err, ==, 0);
            g_assert_true(memcmp(buf + i * LEN, d.model + i % 7 * 8ull * CLUSTER, LEN) ==
                          0);
        }
        expect_parts(&d, 60);
    }
    free(buf);
    free_disk(&d);
}

/* Rounds of requests at once, each on sectors of its own, against a model. */
static void requests_of_every_kind_leave_what_they_should(const void *data)
{
    enum { N = 24, MOST = 900, ROUNDS = 40 };
    static Io io[N];
    Disk d;
    uint8_t *buf[N];

    for (unsigned i = 0; i < N; i++)
        buf[i] = new_buf(MOST * 512 + 8);
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint64_t at = (uint64_t)g_test_rand_int_range(0, 256) * 512;
        unsigned n;

        if (round == 0 && !new_disk(&d, data))
            break;
        for (n = 0; n < N && at < SIZE; n++) {
            uint64_t len = 512ull * (unsigned)g_test_rand_int_range(1, MOST);
            uint64_t align = g_test_rand_bit() ? 1 : 512;
            uint64_t cut = align_down((uint64_t)g_test_rand_int_range(0, (int)len),
                                      align);
            unsigned what = (unsigned)g_test_rand_int_range(0, 16);
            uint8_t *b = buf[n] + (g_test_rand_int_range(0, 4) ? 0 : 5);

            len = MIN(len, SIZE - at);
            if (what == 0) {
                memset(d.model + at, 0, len);
                submit(&d, &io[n], BLOCK_WRITE_ZEROES, at, b, len, cut);
            } else if (what < 6) {
                memset(b, (int)(round * N + n), len);
                memcpy(d.model + at, b, len);
                submit(&d, &io[n], BLOCK_WRITE, at, b, len, cut);
            } else {
                submit(&d, &io[n], BLOCK_READ, at, b, len, cut);
            }
            at += len + 512ull * (unsigned)g_test_rand_int_range(0, 200);
        }
        wait_all(&d);
        for (unsigned i = 0; i < n; i++) {
            const BlockReq *req = &io[i].req;

            g_assert_cmpint(io[i].err, ==, 0);
            if (req->op == BLOCK_READ)
                g_assert_true(
                    memcmp(io[i].iov[0].iov_base, d.model + req->offset, req->len) == 0);
        }
    }
    if (d.q) {
        uint8_t *all = new_buf(SIZE);

        g_assert_cmpint(do_io(&d, BLOCK_READ, 0, all, SIZE), ==, 0);
        g_assert_true(memcmp(all, d.model, SIZE) == 0);
        expect_parts(&d, 2);
        close_disk(&d); /* and what others find in the files */
        open_disk(&d, data);
        g_assert_cmpint(do_io(&d, BLOCK_READ, 0, all, SIZE), ==, 0);
        g_assert_true(memcmp(all, d.model, SIZE) == 0);
        free(all);
    }
    for (unsigned i = 0; i < N; i++)
        free(buf[i]);
    free_disk(&d);
}

/* Every part lies in the top image, each somewhere else. */
static void a_write_to_scattered_clusters_changes_them_in_place(const void *data)
{
    Disk d;
    uint8_t *buf = new_buf(8 * CLUSTER);
    unsigned used;

    if (new_disk(&d, data)) {
        for (unsigned i = 8; i-- > 0;) /* so that they lie the wrong way round */
            g_assert_cmpint(do_io(&d, BLOCK_WRITE, (uint64_t)i * CLUSTER, buf, CLUSTER),
                            ==, 0);
        used = d.q->parts.n_used;
        g_assert_cmpuint(used, ==, 0);
        for (unsigned i = 0; i < 8 * CLUSTER; i++)
            buf[i] = d.model[i] = (uint8_t)(i / 512 * 5 + 3);
        g_assert_cmpint(do_io(&d, BLOCK_WRITE, 512, buf + 512, 8 * CLUSTER - 1024), ==,
                        0);
        memset(d.model, 0xa5, 512);
        memset(d.model + 8 * CLUSTER - 512, 0xa5, 512);
        g_assert_cmpint(do_io(&d, BLOCK_WRITE, CLUSTER, buf + CLUSTER, 6 * CLUSTER), ==,
                        0);
        expect_parts(&d, 6);
        g_assert_cmpint(do_io(&d, BLOCK_READ, 0, buf, 8 * CLUSTER), ==, 0);
        g_assert_cmpmem(buf, 8 * CLUSTER, d.model, 8 * CLUSTER);
    }
    free(buf);
    free_disk(&d);
}

/* The bottom loses its end: its parts come short, and the workers find nothing either. */
static void a_part_cut_short_fails_the_whole_and_only_that(const void *data)
{
    Disk d;
    uint8_t *buf = new_buf(8 * CLUSTER);

    if (new_disk(&d, data)) {
        g_assert_cmpint(do_io(&d, BLOCK_READ, 0, buf, 8 * CLUSTER), ==, 0);
        g_assert_cmpint(truncate(d.path[0], 6 * CLUSTER + 4096), ==, 0);
        for (unsigned i = 0; i < 20; i++) /* more often than there are parts */
            g_assert_cmpint(do_io(&d, BLOCK_READ, 0, buf, 8 * CLUSTER), ==, EIO);
        expect_parts(&d, 6);
        g_assert_cmpint(do_io(&d, BLOCK_READ, 0, buf, 6 * CLUSTER), ==, 0);
        g_assert_cmpmem(buf, 6 * CLUSTER, d.model, 6 * CLUSTER);
    }
    free(buf);
    free_disk(&d);
}

/* Puts another descriptor in the place of a layer's, and back. */
static int exchange_fd(Disk *d, unsigned layer, int flags)
{
    int fd = file_of(d, layer)->fd, kept = dup(fd), other = open(d->path[layer], flags);

    g_assert_cmpint(kept, >=, 0);
    g_assert_cmpint(other, >=, 0);
    g_assert_cmpint(dup2(other, fd), ==, fd);
    close(other);
    return kept;
}

static void put_back_fd(Disk *d, unsigned layer, int kept)
{
    g_assert_cmpint(dup2(kept, file_of(d, layer)->fd), >=, 0);
    close(kept);
}

static void an_error_of_one_part_is_the_wholes(const void *data)
{
    Disk d;
    uint8_t *buf = new_buf(8 * CLUSTER);

    if (new_disk(&d, data)) {
        int kept;

        g_assert_cmpint(do_io(&d, BLOCK_READ, 0, buf, 8 * CLUSTER), ==, 0);
        for (unsigned layer = 0; layer < LAYERS; layer++) {
            Io io[2];

            kept = exchange_fd(&d, layer, O_WRONLY | O_CLOEXEC);
            /* Beside one that has nothing to do with the layer. */
            submit(&d, &io[0], BLOCK_READ, 0, buf, 4 * CLUSTER, 4 * CLUSTER);
            submit(&d, &io[1], BLOCK_READ, (4ull + (layer + 1) % LAYERS) * CLUSTER,
                   buf + 4 * CLUSTER, CLUSTER, CLUSTER);
            wait_all(&d);
            put_back_fd(&d, layer, kept);
            g_assert_cmpint(io[0].err, ==, EBADF);
            g_assert_cmpint(io[1].err, ==, 0);
        }
        g_assert_cmpint(do_io(&d, BLOCK_READ, 0, buf, 8 * CLUSTER), ==, 0);
        g_assert_cmpmem(buf, 8 * CLUSTER, d.model, 8 * CLUSTER);
        expect_parts(&d, 6);
        for (unsigned i = 8; i-- > 0;)
            g_assert_cmpint(
                do_io(&d, BLOCK_WRITE, (uint64_t)i * CLUSTER, buf + i * CLUSTER, CLUSTER),
                ==, 0);
        kept = exchange_fd(&d, LAYERS - 1, O_RDONLY | O_CLOEXEC);
        g_assert_cmpint(do_io(&d, BLOCK_WRITE, 0, buf, 8 * CLUSTER), ==, EBADF);
        put_back_fd(&d, LAYERS - 1, kept);
        g_assert_cmpint(do_io(&d, BLOCK_WRITE, 0, buf, 8 * CLUSTER), ==, 0);
        g_assert_cmpint(do_io(&d, BLOCK_READ, 0, buf, 8 * CLUSTER), ==, 0);
        g_assert_cmpmem(buf, 8 * CLUSTER, d.model, 8 * CLUSTER);
    }
    free(buf);
    free_disk(&d);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*fn)(const void *data);
    } suite[] = {
#define T(fn) {#fn, fn}
        T(a_read_over_layers_and_holes_is_one_request),
        T(more_requests_than_there_are_parts_for_all_come_back),
        T(requests_of_every_kind_leave_what_they_should),
        T(a_write_to_scattered_clusters_changes_them_in_place),
        T(a_part_cut_short_fails_the_whole_and_only_that),
        T(an_error_of_one_part_is_the_wholes),
#undef T
    };

    g_test_init(&argc, &argv, NULL);
    for (unsigned v = 0; v < G_N_ELEMENTS(variants); v++) {
        for (unsigned i = 0; i < G_N_ELEMENTS(suite); i++) {
            if (variants[v].cluster &&
                suite[i].fn != requests_of_every_kind_leave_what_they_should)
                continue;
            g_autofree char *path = g_strdup_printf("/block_parts/%s/%s",
                                                    variants[v].name, suite[i].name);

            g_test_add_data_func(path, &variants[v], suite[i].fn);
        }
    }
    return g_test_run();
}
