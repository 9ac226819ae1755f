/* What requests to qcow2 images cost, and what happens when files fail, are full, cut off
 * or hostile. */
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>

#include "qcow2_disk.h"
#include "src/block/image_private.h"

/* ---- costs, and no room ---------------------------------------------------------------
 */

/* What this process has written until now: calls and bytes. */
static void count_writes(uint64_t *ret_calls, uint64_t *ret_bytes)
{
    g_autofree char *text = NULL;
    const char *calls, *bytes;

    g_assert_true(g_file_get_contents("/proc/self/io", &text, NULL, NULL));
    calls = strstr(text, "syscw: ");
    bytes = strstr(text, "wchar: ");
    g_assert_true(calls && bytes);
    *ret_calls = g_ascii_strtoull(calls + 7, NULL, 10);
    *ret_bytes = g_ascii_strtoull(bytes + 7, NULL, 10);
}

static void an_allocating_write_is_one_write_of_its_size(void)
{
    const Shape shape = {"64 KiB", "compat=1.1", 65536};
    uint64_t calls, bytes, calls_then, bytes_then;
    g_autofree uint8_t *buf = g_malloc(MIB);
    Disk *d;

    if (!can_test())
        return;
    d = new_disk(&shape, 5);
    memset(buf, 1, MIB);
    g_assert_cmpint(image_write(d->img, 0, buf, 4096), ==, 0);
    count_writes(&calls_then, &bytes_then);
    for (unsigned i = 1; i <= 16; i++)
        g_assert_cmpint(image_write(d->img, i * 65536 + 8192, buf, 4096), ==, 0);
    count_writes(&calls, &bytes);
    g_assert_cmpuint(calls - calls_then, ==, 16);
    g_assert_cmpuint(bytes - bytes_then, ==, 16 * 4096);
    calls_then = calls;
    g_assert_cmpint(image_write(d->img, 1152 * KIB, buf, 128 * KIB), ==, 0);
    count_writes(&calls, &bytes);
    g_assert_cmpuint(calls - calls_then, ==, 1);
    free_disk(d);
}

static void subclusters_are_written_without_their_neighbours(void)
{
    const Shape shape = {"extended", "extended_l2=on", 65536, "raw", 2 * MIB};
    uint64_t calls, bytes, calls_then, bytes_then;
    uint8_t buf[4096];
    Disk *d;

    if (!can_test())
        return;
    d = new_disk(&shape, 5);
    memset(buf, 1, sizeof(buf));
    g_assert_cmpint(image_write(d->img, 0, buf, 4096), ==, 0);
    count_writes(&calls_then, &bytes_then);
    for (unsigned i = 1; i <= 16; i++)
        g_assert_cmpint(image_write(d->img, i * 4096 * 3, buf, 4096), ==, 0);
    count_writes(&calls, &bytes);
    g_assert_cmpuint(calls - calls_then, ==, 16);
    g_assert_cmpuint(bytes - bytes_then, ==, 16 * 4096);
    free_disk(d);
}

static void a_full_host_disk_leaves_the_image_sound(void)
{
    const Shape shape = {"64 KiB", "compat=1.1", 65536, "raw", 2 * MIB};
    struct rlimit unlimited, limit;
    bool failed = false;
    Disk *d;

    if (!can_test())
        return;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &unlimited);
    d = new_disk(&shape, 9);
    limit = unlimited;
    limit.rlim_cur = 1200 * KIB;
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &limit), ==, 0);
    for (unsigned i = 0; i < 100; i++) {
        uint64_t len, offset = pick(d, &len);
        g_autofree uint8_t *buf = NULL;
        int err;

        len = MIN(len, 200 * KIB);
        buf = g_malloc(len);
        fill(d, buf, len);
        err = image_write(d->img, offset, buf, len);
        failed |= err != 0;
        if (!err)
            memcpy(d->model + offset, buf, len);
        else /* some of it may have been written */
            g_assert_cmpint(image_read(d->img, offset, d->model + offset, len), ==, 0);
    }
    setrlimit(RLIMIT_FSIZE, &unlimited);
    g_assert_true(failed);
    random_requests(d, 10);
    free_disk(d);
}

/* ---- a file that fails ----------------------------------------------------------------
 */

static int writes_until_failure; /* 0: none fails */

static int failing_rw(BlockFile *f, bool write, uint64_t offset, const struct iovec *iov,
                      unsigned n_iov, uint64_t skip, uint64_t len)
{
    if (write && writes_until_failure && --writes_until_failure == 0)
        return ENOSPC;
    return block_posix_ops.rw(f, write, offset, iov, n_iov, skip, len);
}

static int ignored_discard(BlockFile *f, uint64_t offset, uint64_t len)
{
    return 0;
}

static BlockFileOps *failing_ops(void)
{
    static BlockFileOps ops;

    ops = block_posix_ops;
    ops.rw = failing_rw;
    ops.discard = ignored_discard;
    return &ops;
}

/* Allocating writes whose data cannot be written leave neither traces nor leaks. */
static void failed_writes_change_nothing(void)
{
    static const Shape shapes[] = {
        {"64 KiB", "compat=1.1", 65536, "raw", 2 * MIB},
        {"extended", "extended_l2=on", 65536},
        {"external", "data_file=data", 65536},
        {"small clusters", "compat=1.1", 512},
    };

    if (!can_test())
        return;
    for (unsigned i = 0; i < G_N_ELEMENTS(shapes); i++) {
        Disk *d = new_disk(&shapes[i], 71 + i);
        unsigned failed = 0;

        do_write(d, 512, 512); /* so that there is a table */
        g_assert_cmpint(image_flush(d->img), ==, 0);
        d->img->file->ops = failing_ops();
        for (unsigned j = 0; j < 20; j++) {
            uint64_t offset = roll(d, (uint32_t)MIN(d->size, 30 * KIB) - 9000);
            g_autofree uint8_t *buf = g_malloc(9000);

            memset(buf, 7, 9000);
            writes_until_failure = 1;
            if (image_write(d->img, offset, buf, 9000)) {
                failed++;
                /* What has its place already may have been written. */
                g_assert_cmpint(image_read(d->img, offset, buf, 9000), ==, 0);
            }
            memcpy(d->model + offset, buf, 9000);
            writes_until_failure = 1;
            if (image_write_compressed(d->img, 5 * shapes[i].cluster, d->model,
                                       shapes[i].cluster))
                failed++;
            else
                memcpy(d->model + 5 * shapes[i].cluster, d->model, shapes[i].cluster);
            writes_until_failure = 0;
        }
        g_assert_cmpuint(failed, >, 0);
        d->img->file->ops = &block_posix_ops;
        expect_sound(d);
        free_disk(d);
    }
}

/* Nor does it trust that what was discarded is zeroes. */
static void places_used_before_do_not_show_what_they_had(void)
{
    static const Shape shapes[] = {
        {"64 KiB", "compat=1.1", 65536},
        {"small clusters", "compat=1.1", 4096, "raw", 1 * MIB},
        {"extended", "extended_l2=on", 16384},
        {"version 2", "compat=0.10", 16384},
    };

    if (!can_test())
        return;
    for (unsigned i = 0; i < G_N_ELEMENTS(shapes); i++) {
        Disk *d = new_disk(&shapes[i], 81 + i);

        d->img->file->ops = failing_ops();
        for (unsigned j = 0; j < many(); j++) {
            random_request(d);
            if (roll(d, 8) == 0)
                g_assert_cmpint(image_flush(d->img), ==, 0);
        }
        d->img->file->ops = &block_posix_ops;
        expect_sound(d);
        free_disk(d);
    }
}

static void old_contents_of_a_data_file_do_not_show(void)
{
    const Shape shape = {"external", "data_file=data", 65536};
    Disk *d;

    if (!can_test())
        return;
    d = new_disk(&shape, 91);
    close_disk(d);
    memset(d->model, 0xee, d->size);
    write_model(d, "data");
    memset(d->model, 0, d->size);
    open_disk(d);
    random_requests(d, many());
    free_disk(d);
}

static void a_grown_disk_shows_zeroes_at_its_end(void)
{
    static const Shape shapes[] = {
        {"64 KiB", "compat=1.1", 65536},
        {"2 MiB", "compat=1.1", 2097152},
        {"extended", "extended_l2=on", 16384},
        {"version 2", "compat=0.10", 16384},
    };

    if (!can_test())
        return;
    for (unsigned i = 0; i < G_N_ELEMENTS(shapes); i++) {
        Disk *d = new_disk(&shapes[i], 95 + i);

        for (unsigned j = 0; j < 3; j++) {
            switch (j) {
            case 0:
                do_compressed(d, d->size - 1);
                break;
            case 1:
                do_write(d, d->size - 1000, 1000);
                break;
            default:
                random_requests(d, many() / 4);
            }
            close_disk(d);
            RUN(d->dir, "qemu-img resize -q disk.qcow2 +1049088");
            d->model = g_realloc(d->model, d->size + 1049088);
            memset(d->model + d->size, 0, 1049088);
            d->size += 1049088;
            open_disk(d);
            expect_sound(d);
        }
        free_disk(d);
    }
}

/* ---- while packed bytes are read ------------------------------------------------------
 */

static pthread_t slow_reader;
static int is_reading, is_written; /* atomic */

static int slow_rw(BlockFile *f, bool write, uint64_t offset, const struct iovec *iov,
                   unsigned n_iov, uint64_t skip, uint64_t len)
{
    if (!write && pthread_equal(pthread_self(), slow_reader)) {
        __atomic_store_n(&is_reading, 1, __ATOMIC_SEQ_CST);
        /* The write should have to wait for us, and so the time passes. */
        for (unsigned i = 0; i < 300; i++)
            if (!__atomic_load_n(&is_written, __ATOMIC_SEQ_CST))
                g_usleep(1000);
    }
    return block_posix_ops.rw(f, write, offset, iov, n_iov, skip, len);
}

static void *read_slowly(void *opaque)
{
    Disk *d = opaque;
    uint8_t buf[512];

    slow_reader = pthread_self();
    g_assert_cmpint(image_read(d->img, 0, buf, sizeof(buf)), ==, 0);
    for (unsigned i = 0; i < sizeof(buf); i++)
        g_assert_cmpuint(buf[i], ==, 5);
    return NULL;
}

static void packed_bytes_are_not_given_back_while_they_are_read(void)
{
    const Shape shape = {"64 KiB", "compat=1.1", 65536};
    BlockFileOps ops = block_posix_ops;
    pthread_t thread;
    Extent e;
    Disk *d;

    if (!can_test())
        return;
    d = new_disk(&shape, 13);
    memset(d->model, 5, 65536);
    g_assert_cmpint(image_write_compressed(d->img, 0, d->model, 65536), ==, 0);
    close_disk(d);
    open_disk(d);
    g_assert_cmpint(image_extent(d->img, 0, 512, &e), ==, 0); /* reads the L2 table */
    g_assert_cmpint(e.kind, ==, EXTENT_COMPRESSED);
    ops.rw = slow_rw;
    d->img->file->ops = &ops;
    is_reading = is_written = 0;
    pthread_create(&thread, NULL, read_slowly, d);
    while (!__atomic_load_n(&is_reading, __ATOMIC_SEQ_CST))
        g_usleep(1000);
    do_write(d, 0, 65536);
    g_assert_cmpint(image_flush(d->img), ==, 0); /* its place is given back */
    __atomic_store_n(&is_written, 1, __ATOMIC_SEQ_CST);
    pthread_join(thread, NULL);
    d->img->file->ops = &block_posix_ops;
    expect_sound(d);
    free_disk(d);
}

static void reading_past_the_end_of_a_cut_file_gives_zeroes(void)
{
    const Shape shape = {"64 KiB", "preallocation=metadata", 65536};
    Disk *d;

    if (!can_test())
        return;
    d = new_disk(&shape, 9);
    close_disk(d);
    RUN(d->dir, "truncate -s 393216 disk.qcow2");
    open_disk(d);
    expect_model(d, 0, d->size);
    free_disk(d);
}

/* ---- hostile files --------------------------------------------------------------------
 */

static void flip_bytes(Disk *d, uint64_t offset, unsigned n)
{
    int fd = open(d->path, O_RDWR | O_CLOEXEC);

    for (unsigned i = 0; i < n; i++) {
        uint8_t byte = (uint8_t)roll(d, 256);

        g_assert_cmpint(pwrite(fd, &byte, 1, (off_t)(offset + roll(d, 4096))), ==, 1);
    }
    close(fd);
}

static uint64_t packed_at(Disk *d)
{
    Extent e;

    g_assert_cmpint(image_extent(d->img, 0, 512, &e), ==, 0);
    g_assert_cmpint(e.kind, ==, EXTENT_COMPRESSED);
    return e.file_offset;
}

static void damaged_compressed_clusters_are_an_error_or_wrong_bytes(void)
{
    static const Shape shapes[] = {
        {"zlib", "compat=1.1", 65536},
        {"zstd", "compression_type=zstd", 65536},
        {"small clusters", "compat=1.1", 512},
        {"large clusters", "compression_type=zstd", 2097152},
    };

    if (!can_test())
        return;
    for (unsigned i = 0; i < G_N_ELEMENTS(shapes); i++) {
        Disk *d = new_disk(&shapes[i], 61 + i);
        g_autofree uint8_t *buf = g_malloc(d->size);
        unsigned failed = 0;
        uint64_t offset;

        for (uint64_t at = 0; at < d->size; at += d->shape->cluster) {
            memset(d->model + at, 1, MIN(d->shape->cluster, d->size - at));
            d->model[at] = (uint8_t)roll(d, 256);
            g_assert_cmpint(image_write_compressed(d->img, at, d->model + at,
                                                   MIN(d->shape->cluster, d->size - at)),
                            ==, 0);
        }
        offset = packed_at(d);
        expect_sound(d);
        close_disk(d);
        for (unsigned j = 0; j < 5; j++) {
            flip_bytes(d, offset, 20);
            open_disk(d);
            for (uint64_t at = 0; at < d->size; at += d->shape->cluster)
                failed += image_read(d->img, at, buf, 512) != 0;
            close_disk(d);
        }
        g_assert_cmpuint(failed, >, 0);
        open_disk(d);
        free_disk(d);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define T(name) g_test_add_func("/qcow2_io_faults/" #name, name)
    T(an_allocating_write_is_one_write_of_its_size);
    T(subclusters_are_written_without_their_neighbours);
    T(a_full_host_disk_leaves_the_image_sound);
    T(failed_writes_change_nothing);
    T(places_used_before_do_not_show_what_they_had);
    T(old_contents_of_a_data_file_do_not_show);
    T(a_grown_disk_shows_zeroes_at_its_end);
    T(packed_bytes_are_not_given_back_while_they_are_read);
    T(reading_past_the_end_of_a_cut_file_gives_zeroes);
    T(damaged_compressed_clusters_are_an_error_or_wrong_bytes);
#undef T
    return g_test_run();
}
