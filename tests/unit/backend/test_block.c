/* src/block: one suite of I/O, run by every engine. */
#include "backend/block.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "src/block/block_private.h"
#include "tests/unit/backend/scratch.h"
#include "util/bits.h"
#include "util/iov.h"

/* ---- a disk, its file, and a queue on a loop that this thread runs --------------------
 */

enum { DISK_SIZE = 4 * 1024 * 1024, DEPTH = 64 };

typedef struct Variant {
    const char *name;
    BlockAio aio;
    BlockCache cache;
    unsigned io_align; /* pretend that O_DIRECT wants this; 0: what it does want */
} Variant;

static const Variant variants[] = {
    {"libaio", BLOCK_AIO_LIBAIO, BLOCK_CACHE_NONE, 0},
    {"libaio-4k", BLOCK_AIO_LIBAIO, BLOCK_CACHE_NONE, 4096},
    {"io_uring", BLOCK_AIO_IO_URING, BLOCK_CACHE_NONE, 0},
    {"io_uring-4k", BLOCK_AIO_IO_URING, BLOCK_CACHE_NONE, 4096},
    {"io_uring-cached", BLOCK_AIO_IO_URING, BLOCK_CACHE_WRITEBACK, 0},
    {"threads", BLOCK_AIO_THREADS, BLOCK_CACHE_NONE, 0},
    {"threads-4k", BLOCK_AIO_THREADS, BLOCK_CACHE_NONE, 4096},
    {"threads-cached", BLOCK_AIO_THREADS, BLOCK_CACHE_WRITEBACK, 0},
};

typedef struct Disk {
    char *dir, *path;
    IoLoop *loop;
    BlockDev *dev;
    BlockQueue *q;
    unsigned pending; /* submitted by the test and not done */
    unsigned batches;
} Disk;

typedef struct Io {
    BlockReq req;
    Disk *disk;
    struct iovec iov[16];
    int err;
    bool finished;
} Io;

static void count_batch(void *opaque)
{
    ((Disk *)opaque)->batches++;
}

/* False, and the test skipped, if this host cannot do it. */
static bool disk_open(Disk *d, const Variant *v, unsigned depth)
{
    g_autoptr(GError) error = NULL;
    BlockOptions options = {.aio = v->aio, .cache = v->cache, .lock = true};

    memset(d, 0, sizeof(*d));
    d->dir = new_dir();
    d->path = options.path = new_file(d->dir, "disk.raw", DISK_SIZE);
    d->dev = block_open(&options, &error);
    if (!d->dev && g_error_matches(error, VM_ERROR, VM_ERROR_INVALID))
        g_error("%s", error->message);
    if (!d->dev) {
        g_test_skip(error->message);
        g_free(d->path);
        remove_dir(d->dir);
        return false;
    }
    if (v->io_align)
        d->dev->top->file->io_align = d->dev->top->file->mem_align = v->io_align;
    d->loop = ioloop_new(NULL);
    d->q = block_queue_new(d->dev, d->loop, depth, &error);
    g_assert_no_error(error);
    block_queue_on_batch(d->q, count_batch, d);
    return true;
}

static void disk_close(Disk *d)
{
    block_queue_free(d->q);
    block_close(d->dev);
    ioloop_free(d->loop);
    g_free(d->path);
    remove_dir(d->dir);
}

static void on_done(BlockReq *req, int err)
{
    Io *io = (Io *)req;

    g_assert_false(io->finished);
    io->finished = true;
    io->err = err;
    if (--io->disk->pending == 0)
        ioloop_quit(io->disk->loop);
}

static void io_submit_range(Disk *d, Io *io, BlockOp op, uint64_t offset, uint64_t len)
{
    io->disk = d;
    io->finished = false;
    io->req.op = op;
    io->req.offset = offset;
    io->req.len = len;
    io->req.iov = io->iov;
    io->req.done = on_done;
    d->pending++;
    block_submit(d->q, &io->req);
    g_assert_false(io->finished); /* never from within block_submit() */
}

static void io_submit_buf(Disk *d, Io *io, BlockOp op, uint64_t offset, void *buf,
                          size_t len)
{
    io->iov[0] = (struct iovec){buf, len};
    io->req.n_iov = 1;
    io_submit_range(d, io, op, offset, len);
}

static void disk_wait(Disk *d)
{
    block_commit(d->q);
    if (d->pending)
        ioloop_run(d->loop);
    g_assert_cmpuint(d->pending, ==, 0);
}

static int do_buf(Disk *d, BlockOp op, uint64_t offset, void *buf, size_t len)
{
    Io io = {0};

    io_submit_buf(d, &io, op, offset, buf, len);
    disk_wait(d);
    return io.err;
}

static int do_range(Disk *d, BlockOp op, uint64_t offset, uint64_t len, bool may_unmap)
{
    Io io = {.req.may_unmap = may_unmap};

    io_submit_range(d, &io, op, offset, len);
    disk_wait(d);
    return io.err;
}

static uint8_t *new_buf(size_t len)
{
    uint8_t *buf = aligned_alloc(4096, align_up(len, 4096));

    g_assert_nonnull(buf);
    return buf;
}

static void fill(uint8_t *buf, size_t len, unsigned seed)
{
    for (size_t i = 0; i < len; i++)
        buf[i] = (uint8_t)(seed + i + (i >> 8) * 7);
}

static void check_file(const Disk *d, uint64_t offset, const uint8_t *want, size_t len)
{
    g_autofree uint8_t *got = g_malloc(len);
    int fd = open(d->path, O_RDONLY | O_CLOEXEC);

    g_assert_cmpint(pread(fd, got, len, (off_t)offset), ==, (ssize_t)len);
    close(fd);
    g_assert_cmpmem(got, len, want, len);
}

/* ---- the suite ------------------------------------------------------------------------
 */

static void what_is_written_is_in_the_file_and_read_back(const void *data)
{
    Disk d;
    uint8_t *out, *in;

    if (!disk_open(&d, data, DEPTH))
        return;
    out = new_buf(65536);
    in = new_buf(65536);
    fill(out, 65536, 3);
    g_assert_cmpint(do_buf(&d, BLOCK_WRITE, 8192, out, 65536), ==, 0);
    g_assert_cmpint(do_buf(&d, BLOCK_FLUSH, 0, NULL, 0), ==, 0);
    check_file(&d, 8192, out, 65536);
    g_assert_cmpint(do_buf(&d, BLOCK_READ, 8192, in, 65536), ==, 0);
    g_assert_cmpmem(in, 65536, out, 65536);
    g_assert_cmpint(do_buf(&d, BLOCK_READ, DISK_SIZE - 4096, in, 4096), ==, 0);
    g_assert_cmpuint(in[4095], ==, 0);
    free(out);
    free(in);
    disk_close(&d);
}

static void scattered_pieces_keep_their_order(const void *data)
{
    Disk d;
    Io io = {0};
    uint8_t *out, *in;

    if (!disk_open(&d, data, DEPTH))
        return;
    out = new_buf(16 * 4096);
    in = new_buf(16 * 4096);
    fill(out, 16 * 4096, 9);
    for (unsigned i = 0; i < 16; i++) /* backwards in memory */
        io.iov[i] = (struct iovec){out + (15 - i) * 4096, 4096};
    io.req.n_iov = 16;
    io_submit_range(&d, &io, BLOCK_WRITE, 4096, 16 * 4096);
    disk_wait(&d);
    g_assert_cmpint(io.err, ==, 0);
    g_assert_cmpint(do_buf(&d, BLOCK_READ, 4096, in, 16 * 4096), ==, 0);
    for (unsigned i = 0; i < 16; i++)
        g_assert_cmpmem(in + i * 4096, 4096, out + (15 - i) * 4096, 4096);
    free(out);
    free(in);
    disk_close(&d);
}

/* A request larger than a bounce buffer, from an odd address, at an odd sector. */
static void no_alignment_is_asked_of_the_caller(const void *data)
{
    enum { LEN = 3 * (128 * 1024) + 512 };
    Disk d;
    uint8_t *before, *out, *in;

    if (!disk_open(&d, data, DEPTH))
        return;
    before = new_buf(DISK_SIZE);
    out = new_buf(LEN + 1);
    in = new_buf(LEN + 3);
    fill(before, DISK_SIZE, 77);
    g_assert_cmpint(do_buf(&d, BLOCK_WRITE, 0, before, DISK_SIZE), ==, 0);
    fill(out + 1, LEN, 5);
    g_assert_cmpint(do_buf(&d, BLOCK_WRITE, 3 * 512, out + 1, LEN), ==, 0);
    g_assert_cmpint(do_buf(&d, BLOCK_READ, 3 * 512, in + 3, LEN), ==, 0);
    g_assert_cmpmem(in + 3, LEN, out + 1, LEN);
    memcpy(before + 3 * 512, out + 1, LEN);
    check_file(&d, 0, before, DISK_SIZE);
    free(before);
    free(out);
    free(in);
    disk_close(&d);
}

/* Rounds of requests at once, each on sectors of its own but often within one block of
 * the host's, against a model in memory. */
static void concurrent_requests_do_not_disturb_each_other(const void *data)
{
    enum { N = 48, MAX_SECTORS = 12, ROUNDS = 60 };
    Disk d;
    uint8_t *model, *bufs[N], *check;
    static Io io[N];

    if (!disk_open(&d, data, DEPTH))
        return;
    model = new_buf(DISK_SIZE);
    memset(model, 0, DISK_SIZE);
    check = new_buf(DISK_SIZE);
    for (unsigned i = 0; i < N; i++)
        bufs[i] = new_buf(MAX_SECTORS * 512 + 16);
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint64_t at = (uint64_t)g_test_rand_int_range(0, 64) * 512;
        uint64_t offset[N], len[N];
        unsigned shift[N];

        memset(io, 0, sizeof(io));
        for (unsigned i = 0; i < N; i++) {
            BlockOp op = g_test_rand_int_range(0, 4) ? BLOCK_WRITE : BLOCK_READ;
            uint8_t *buf;
            size_t cut;

            offset[i] = at;
            len[i] = (uint64_t)g_test_rand_int_range(1, MAX_SECTORS + 1) * 512;
            at += len[i] + (uint64_t)g_test_rand_int_range(0, 3) * 512;
            shift[i] = g_test_rand_bit() ? 0 : (unsigned)g_test_rand_int_range(1, 16);
            buf = bufs[i] + shift[i];
            if (g_test_rand_int_range(0, 8) == 0) {
                io[i].req.may_unmap = g_test_rand_bit();
                memset(model + offset[i], 0, len[i]);
                io_submit_range(&d, &io[i], BLOCK_WRITE_ZEROES, offset[i], len[i]);
                continue;
            }
            cut = (size_t)g_test_rand_int_range(1, (int)len[i]);
            io[i].iov[0] = (struct iovec){buf, cut};
            io[i].iov[1] = (struct iovec){buf + cut, len[i] - cut};
            io[i].req.n_iov = 2;
            if (op == BLOCK_WRITE) {
                fill(buf, len[i], round * 31 + i);
                memcpy(model + offset[i], buf, len[i]);
            }
            io_submit_range(&d, &io[i], op, offset[i], len[i]);
            if (g_test_rand_bit())
                block_commit(d.q);
        }
        disk_wait(&d);
        for (unsigned i = 0; i < N; i++) {
            g_assert_cmpint(io[i].err, ==, 0);
            if (io[i].req.op == BLOCK_READ)
                g_assert_cmpmem(bufs[i] + shift[i], len[i], model + offset[i], len[i]);
        }
    }
    g_assert_cmpint(do_buf(&d, BLOCK_READ, 0, check, DISK_SIZE), ==, 0);
    g_assert_true(memcmp(check, model, DISK_SIZE) == 0);
    for (unsigned i = 0; i < N; i++)
        free(bufs[i]);
    free(model);
    free(check);
    disk_close(&d);
}

/* A whole block and a sector of it, at once: whichever is last on the sector, the rest of
 * the block is the first's. */
static void a_partial_write_never_undoes_its_neighbours(const void *data)
{
    Disk d;
    uint8_t *whole, *part, *in;

    if (!disk_open(&d, data, DEPTH))
        return;
    whole = new_buf(4096);
    part = new_buf(512);
    in = new_buf(4096);
    memset(part, 0xee, 512);
    for (unsigned i = 0; i < 200; i++) {
        Io a = {0}, b = {0};

        memset(whole, (int)i, 4096);
        if (i & 1)
            io_submit_buf(&d, &a, BLOCK_WRITE, 0, whole, 4096);
        io_submit_buf(&d, &b, BLOCK_WRITE, 1024, part, 512);
        if (!(i & 1))
            io_submit_buf(&d, &a, BLOCK_WRITE, 0, whole, 4096);
        disk_wait(&d);
        g_assert_cmpint(do_buf(&d, BLOCK_READ, 0, in, 4096), ==, 0);
        g_assert_cmpmem(in, 1024, whole, 1024);
        g_assert_cmpmem(in + 1536, 4096 - 1536, whole, 4096 - 1536);
    }
    free(whole);
    free(part);
    free(in);
    disk_close(&d);
}

static void requests_outside_the_disk_come_back_with_eio(const void *data)
{
    Disk d;
    uint8_t *buf;

    if (!disk_open(&d, data, DEPTH))
        return;
    buf = new_buf(4096);
    g_assert_cmpint(do_buf(&d, BLOCK_READ, DISK_SIZE, buf, 512), ==, EIO);
    g_assert_cmpint(do_buf(&d, BLOCK_WRITE, DISK_SIZE - 512, buf, 1024), ==, EIO);
    g_assert_cmpint(do_buf(&d, BLOCK_READ, UINT64_MAX - 511, buf, 1024), ==, EIO);
    g_assert_cmpint(do_range(&d, BLOCK_DISCARD, 512, UINT64_MAX - 511, false), ==, EIO);
    g_assert_cmpint(do_range(&d, BLOCK_WRITE_ZEROES, DISK_SIZE, 512, true), ==, EIO);
    g_assert_cmpint(do_buf(&d, BLOCK_READ, DISK_SIZE, buf, 0), ==, 0);
    free(buf);
    disk_close(&d);
}

static void zeroed_and_discarded_ranges_end_where_they_should(const void *data)
{
    enum { AT = 9 * 512, LEN = 300 * 512 };
    Disk d;
    uint8_t *model, *in;
    struct stat before, after;

    if (!disk_open(&d, data, DEPTH))
        return;
    model = new_buf(DISK_SIZE);
    in = new_buf(DISK_SIZE);
    fill(model, DISK_SIZE, 1);
    for (unsigned i = 0; i < 3; i++) {
        d.dev->top->file->no_zero_range = i == 2; /* as on a file system that cannot */
        g_assert_cmpint(do_buf(&d, BLOCK_WRITE, 0, model, DISK_SIZE), ==, 0);
        g_assert_cmpint(do_range(&d, BLOCK_WRITE_ZEROES, AT, LEN, i == 1), ==, 0);
        g_assert_cmpint(do_buf(&d, BLOCK_READ, 0, in, DISK_SIZE), ==, 0);
        g_assert_cmpmem(in, AT, model, AT);
        for (unsigned k = AT; k < AT + LEN; k++)
            g_assert_cmpuint(in[k], ==, 0);
        g_assert_true(memcmp(in + AT + LEN, model + AT + LEN, DISK_SIZE - AT - LEN) == 0);
    }
    g_assert_cmpint(do_buf(&d, BLOCK_WRITE, 0, model, DISK_SIZE), ==, 0);
    g_assert_cmpint(do_buf(&d, BLOCK_FLUSH, 0, NULL, 0), ==, 0);
    stat(d.path, &before);
    g_assert_cmpint(do_range(&d, BLOCK_DISCARD, 1 * MIB, 2 * MIB, false), ==, 0);
    stat(d.path, &after);
    if (block_can_discard(d.dev))
        g_assert_cmpint(after.st_blocks, <, before.st_blocks);
    g_assert_cmpint(after.st_size, ==, DISK_SIZE);
    check_file(&d, 0, model, 1 * MIB);
    check_file(&d, 3 * MIB, model + 3 * MIB, 1 * MIB);
    free(model);
    free(in);
    disk_close(&d);
}

static void more_requests_than_the_kernel_takes_at_once_all_come_back(const void *data)
{
    enum { N = 1500 };
    Disk d;
    Io *io = g_new0(Io, N);
    uint8_t *buf;

    if (disk_open(&d, data, N)) {
        buf = new_buf(N * 4096);
        for (unsigned i = 0; i < N; i++)
            io_submit_buf(&d, &io[i], BLOCK_READ, i % 1024 * 4096, buf + i * 4096, 4096);
        disk_wait(&d);
        for (unsigned i = 0; i < N; i++)
            g_assert_cmpint(io[i].err, ==, 0);
        free(buf);
        disk_close(&d);
    }
    g_free(io);
}

static void again(BlockReq *req, int err)
{
    Io *io = (Io *)req;

    g_assert_cmpint(err, ==, 0);
    if (io->err++ < 500) {
        block_submit(io->disk->q, req); /* without a commit */
        return;
    }
    if (--io->disk->pending == 0)
        ioloop_quit(io->disk->loop);
}

static void done_may_submit_the_next(const void *data)
{
    Disk d;
    uint8_t *buf;
    static const BlockOp ops[] = {BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_READ};
    Io io[4] = {0};

    if (!disk_open(&d, data, DEPTH))
        return;
    buf = new_buf(4 * 4096);
    for (unsigned i = 0; i < 4; i++) {
        io[i].iov[0] = (struct iovec){buf + i * 4096, i == 3 ? 0 : 4096};
        io[i].req = (BlockReq){.op = ops[i],
                               .offset = i * 4096,
                               .len = io[i].iov[0].iov_len, /* 0: answered without I/O */
                               .iov = io[i].iov,
                               .n_iov = 1,
                               .done = again};
        io[i].disk = &d;
        d.pending++;
        block_submit(d.q, &io[i].req);
    }
    disk_wait(&d);
    free(buf);
    disk_close(&d);
}

static void drain_waits_for_everything_without_the_loop(const void *data)
{
    enum { N = 40 };
    Disk d;
    Io io[N] = {0};
    uint8_t *buf;

    if (!disk_open(&d, data, DEPTH))
        return;
    buf = new_buf(N * 4096);
    memset(buf, 1, N * 4096);
    block_drain(d.q); /* of nothing */
    for (unsigned i = 0; i < N; i++) {
        if (i % 8 == 7)
            io_submit_range(&d, &io[i], BLOCK_WRITE_ZEROES, i * 4096, 512);
        else
            io_submit_buf(&d, &io[i], i % 2 ? BLOCK_WRITE : BLOCK_READ, i * 4096,
                          buf + i * 4096, i % 5 ? 4096 : 512);
    }
    block_drain(d.q);
    g_assert_cmpuint(d.pending, ==, 0);
    free(buf);
    disk_close(&d);
}

static void poll_completes_without_the_loop(const void *data)
{
    Disk d;
    Io io[2] = {0};
    uint8_t *buf;

    if (!disk_open(&d, data, DEPTH))
        return;
    buf = new_buf(8192);
    g_assert_false(block_poll(d.q));
    io_submit_buf(&d, &io[0], BLOCK_READ, 0, buf, 4096);
    io_submit_buf(&d, &io[1], BLOCK_READ, DISK_SIZE, buf, 4096); /* answered at once */
    block_commit(d.q);
    while (d.pending)
        block_poll(d.q);
    g_assert_false(block_poll(d.q));
    g_assert_cmpint(io[0].err, ==, 0);
    g_assert_cmpint(io[1].err, ==, EIO);
    g_assert_cmpuint(d.batches, >=, 1);
    g_assert_cmpuint(d.batches, <=, 2);
    free(buf);
    disk_close(&d);
}

/* The file may not grow past the limit: a host's "no", in the middle of a request. */
static void an_error_of_the_host_reaches_done(const void *data)
{
    struct rlimit old, limit;
    Disk d;
    uint8_t *buf;
    int err;

    if (!disk_open(&d, data, DEPTH))
        return;
    buf = new_buf(65536);
    memset(buf, 7, 65536);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    limit = old;
    limit.rlim_cur = MIB + 16384;
    setrlimit(RLIMIT_FSIZE, &limit);
    err = do_buf(&d, BLOCK_WRITE, MIB, buf, 65536); /* begins well, is cut short */
    g_assert_cmpint(do_buf(&d, BLOCK_WRITE, 2 * MIB, buf, 4096), ==, EFBIG);
    setrlimit(RLIMIT_FSIZE, &old);
    g_assert_cmpint(err, ==, EFBIG);
    check_file(&d, MIB, buf, 16384);
    g_assert_cmpint(do_buf(&d, BLOCK_WRITE, 2 * MIB, buf, 4096), ==, 0);
    free(buf);
    disk_close(&d);
}

static void a_file_cut_short_behind_our_back_reads_as_eio(const void *data)
{
    Disk d;
    uint8_t *buf;

    if (!disk_open(&d, data, DEPTH))
        return;
    buf = new_buf(8192);
    g_assert_cmpint(truncate(d.path, MIB + 4096), ==, 0);
    g_assert_cmpint(do_buf(&d, BLOCK_READ, MIB, buf, 4096), ==, 0);
    g_assert_cmpint(do_buf(&d, BLOCK_READ, MIB, buf, 8192), ==, EIO);
    g_assert_cmpint(do_buf(&d, BLOCK_READ, 2 * MIB + 512, buf + 1, 512), ==, EIO);
    free(buf);
    disk_close(&d);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*fn)(const void *data);
    } suite[] = {
#define T(fn) {#fn, fn}
        T(what_is_written_is_in_the_file_and_read_back),
        T(scattered_pieces_keep_their_order),
        T(no_alignment_is_asked_of_the_caller),
        T(concurrent_requests_do_not_disturb_each_other),
        T(a_partial_write_never_undoes_its_neighbours),
        T(requests_outside_the_disk_come_back_with_eio),
        T(zeroed_and_discarded_ranges_end_where_they_should),
        T(more_requests_than_the_kernel_takes_at_once_all_come_back),
        T(done_may_submit_the_next),
        T(drain_waits_for_everything_without_the_loop),
        T(poll_completes_without_the_loop),
        T(an_error_of_the_host_reaches_done),
        T(a_file_cut_short_behind_our_back_reads_as_eio),
#undef T
    };

    g_test_init(&argc, &argv, NULL);
    for (unsigned v = 0; v < G_N_ELEMENTS(variants); v++) {
        for (unsigned i = 0; i < G_N_ELEMENTS(suite); i++) {
            g_autofree char *path = g_strdup_printf("/block/%s/%s", variants[v].name,
                                                    suite[i].name);

            g_test_add_data_func(path, &variants[v], suite[i].fn);
        }
    }
    return g_test_run();
}
