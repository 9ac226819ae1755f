/* Requests to qcow2 images of every kind against a model in memory, from one thread and
 * from several. */
#include <pthread.h>

#include "qcow2_disk.h"

/* ---- one image after the other --------------------------------------------------------
 */

#define SIZE(n, ...)                                                                     \
    {                                                                                    \
        "cluster " #n, "compat=1.1", n, __VA_ARGS__                                      \
    }

static const Shape plain_shapes[] = {
    SIZE(512),
    SIZE(1024),
    SIZE(2048),
    SIZE(4096),
    SIZE(8192),
    SIZE(16384),
    SIZE(32768),
    SIZE(65536, .direct = true),
    SIZE(131072),
    SIZE(262144),
    SIZE(524288),
    SIZE(1048576),
    SIZE(2097152, .direct = true),
    {"version 2", "compat=0.10", 65536},
    {"version 2 of small clusters", "compat=0.10", 1024},
    {"zstd", "compression_type=zstd", 65536, .direct = true},
    {"lazy refcounts", "lazy_refcounts=on", 65536},
    {"preallocated", "preallocation=metadata", 65536},
    {"refcounts of 1 bit", "refcount_bits=1", 4096},
    {"refcounts of 2 bits", "refcount_bits=2", 512},
    {"refcounts of 4 bits", "refcount_bits=4", 4096},
    {"refcounts of 8 bits", "refcount_bits=8", 4096},
    {"refcounts of 32 bits", "refcount_bits=32", 512},
    {"refcounts of 64 bits", "refcount_bits=64", 4096},
    {"a small cache", "compat=1.1", 512, .cache_size = 8192},
};

static const Shape extended_shapes[] = {
    {"16 KiB", "extended_l2=on", 16384},
    {"64 KiB", "extended_l2=on", 65536, .direct = true},
    {"2 MiB", "extended_l2=on", 2097152},
    {"over raw", "extended_l2=on", 65536, "raw", 3 * MIB + 512},
    {"over qcow2", "extended_l2=on", 131072, "-o cluster_size=512", 7 * MIB},
    {"over extended", "extended_l2=on", 16384, "-o cluster_size=64k,extended_l2=on",
     MIB / 2 + 512},
    {"compressed below", "extended_l2=on", 65536, "-c -o compression_type=zstd", 4 * MIB},
};

static const Shape backing_shapes[] = {
    {"raw, smaller", "compat=1.1", 65536, "raw", 1 * MIB + 512},
    {"raw, larger", "compat=1.1", 4096, "raw", 5 * MIB, .direct = true},
    {"small clusters", "compat=1.1", 65536, "-o cluster_size=512", 3 * MIB},
    {"large clusters", "compat=1.1", 4096, "-o cluster_size=2M", MIB / 2 + 1536},
    {"under the smallest", "compat=1.1", 512, "-o cluster_size=64k", 1 * MIB},
    {"under the largest", "compat=1.1", 2097152, "-o cluster_size=64k", 9 * MIB + 512},
    {"compressed", "compat=1.1", 16384, "-c", 1 * MIB},
    {"under version 2", "compat=0.10", 65536, "-o compat=0.10", 2 * MIB + 512},
    {"raw under version 2", "compat=0.10", 1024, "raw", 600 * KIB},
};

static const Shape external_shapes[] = {
    {"its own", "data_file=data", 65536},
    {"small clusters", "data_file=data", 4096, .direct = true},
    {"raw", "data_file=data,data_file_raw=on", 65536},
    {"raw, small clusters", "data_file=data,data_file_raw=on", 512},
    {"extended", "data_file=data,extended_l2=on", 65536},
    {"backing", "data_file=data", 65536, "raw", 2 * MIB},
};

static void request_each(const Shape *shapes, unsigned n, unsigned requests)
{
    if (!can_test())
        return;
    for (unsigned i = 0; i < n; i++) {
        Disk *d = new_disk(&shapes[i], 42 + i);

        g_test_message("%s", shapes[i].name);
        random_requests(d, requests);
        random_requests(d, requests / 2);
        free_disk(d);
    }
}

static void clusters_and_refcounts_of_every_size_hold_what_is_written(void)
{
    request_each(plain_shapes, G_N_ELEMENTS(plain_shapes), many());
}

static void subclusters_hold_what_is_written(void)
{
    request_each(extended_shapes, G_N_ELEMENTS(extended_shapes), many());
}

static void what_is_below_shows_where_nothing_was_written(void)
{
    request_each(backing_shapes, G_N_ELEMENTS(backing_shapes), many());
}

static void external_data_files_hold_what_is_written(void)
{
    request_each(external_shapes, G_N_ELEMENTS(external_shapes), many());
}

static void raw_external_data_files_can_be_read_alone(void)
{
    const Shape shape = {"raw", "data_file=data,data_file_raw=on", 65536};
    Disk *d;

    if (!can_test())
        return;
    d = new_disk(&shape, 3);
    random_requests(d, many());
    close_disk(d);
    RUN(d->dir, "qemu-img compare -q -f raw -F raw data model.raw");
    open_disk(d);
    free_disk(d);
}

/* ---- clusters that snapshots use too --------------------------------------------------
 */

static void snapshots_keep_what_they_had(void)
{
    static const Shape shapes[] = {
        {"64 KiB", "compat=1.1", 65536},
        {"512 bytes", "compat=1.1", 512, .cache_size = 16384},
        {"version 2 with backing", "compat=0.10", 4096, "raw", 1 * MIB},
        {"extended", "extended_l2=on", 16384, "-o cluster_size=4k", 1 * MIB},
        {"2 MiB", "extended_l2=on", 2097152},
        {"refcounts of 8 bits", "refcount_bits=8", 4096},
    };

    if (!can_test())
        return;
    for (unsigned i = 0; i < G_N_ELEMENTS(shapes); i++) {
        Disk *d = new_disk(&shapes[i], 7 + i);
        g_autofree uint8_t *then = g_malloc(d->size);

        g_test_message("%s", shapes[i].name);
        random_requests(d, many());
        close_disk(d);
        RUN(d->dir, "qemu-img snapshot -c then disk.qcow2");
        open_disk(d);
        memcpy(then, d->model, d->size);
        random_requests(d, many());
        close_disk(d);
        RUN(d->dir, "qemu-img snapshot -a then disk.qcow2");
        memcpy(d->model, then, d->size);
        open_disk(d);
        random_requests(d, many() / 2);
        close_disk(d);
        RUN(d->dir, "qemu-img snapshot -d then disk.qcow2");
        open_disk(d);
        random_requests(d, many() / 2);
        free_disk(d);
    }
}

/* ---- copying up ----------------------------------------------------------------------
 */

static void what_was_copied_up_needs_nothing_below(void)
{
    if (!can_test())
        return;
    for (unsigned i = 0; i < G_N_ELEMENTS(backing_shapes); i++) {
        Disk *d = new_disk(&backing_shapes[i], 11 + i);

        random_requests(d, 20);
        g_assert_cmpint(image_copy_up(d->img, 0, d->size), ==, 0);
        close_disk(d);
        RUN(d->dir, "qemu-img rebase -u -b '' disk.qcow2");
        RUN(d->dir, "rm base");
        open_disk(d);
        expect_sound(d);
        free_disk(d);
    }
}

static uint64_t file_bytes(Disk *d)
{
    GStatBuf st;

    g_assert_cmpint(g_stat(d->path, &st), ==, 0);
    return (uint64_t)st.st_blocks * 512;
}

static void copying_up_zeroes_takes_no_place(void)
{
    const Shape shape = {"sparse", "compat=1.1", 65536, "-o cluster_size=512", 4 * MIB};
    Disk *d;

    if (!can_test())
        return;
    d = new_disk(&shape, 1);
    close_disk(d);
    RUN(d->dir, "qemu-img create -q -f qcow2 -o cluster_size=512 base %d", 4 << 20);
    memset(d->model, 0, d->size);
    open_disk(d);
    g_assert_cmpint(image_copy_up(d->img, 0, d->size), ==, 0);
    expect_sound(d);
    g_assert_cmpuint(file_bytes(d), <, 1 * MIB);
    free_disk(d);
}

/* ---- several threads ------------------------------------------------------------------
 */

enum { THREADS = 4, STRIPE = 1536 };

typedef struct Worker {
    Disk *disk; /* a copy with a generator of its own */
    unsigned id;
    pthread_t thread;
} Worker;

/* Writes only stripes of its own, which share clusters with others'. */
static void *write_stripes(void *opaque)
{
    Worker *w = opaque;
    Disk *d = w->disk;
    uint64_t n = d->size / STRIPE;

    for (unsigned i = 0; i < many() * 4; i++) {
        uint64_t stripe = roll(d, (uint32_t)n) / THREADS * THREADS + w->id;
        uint64_t offset = stripe * STRIPE, len = STRIPE;

        if (stripe >= n)
            continue;
        switch (roll(d, 8)) {
        case 0:
            g_assert_cmpint(image_zero(d->img, offset, len, false), ==, 0);
            memset(d->model + offset, 0, len);
            break;
        case 1:
            g_assert_cmpint(image_copy_up(d->img, offset, len), ==, 0);
            break;
        case 2:
        case 3:
            expect_model(d, offset, len);
            break;
        default:
            do_write(d, offset, len);
        }
    }
    return NULL;
}

/* Writes anywhere, each sector of one value, which therefore stays of one value. */
static void *write_over_one_another(void *opaque)
{
    Worker *w = opaque;
    Disk *d = w->disk;

    for (unsigned i = 0; i < many(); i++) {
        uint64_t len, offset = pick(d, &len);
        g_autofree uint8_t *buf = NULL;

        offset = align_down(offset, 512);
        len = MIN(align_up(len, 512), d->size - offset);
        buf = g_malloc(len);
        memset(buf, 1 + (int)roll(d, 255), len);
        if (roll(d, 8) == 0)
            g_assert_cmpint(image_zero(d->img, offset, len, roll(d, 2)), ==, 0);
        else if (roll(d, 8) == 0)
            g_assert_cmpint(image_copy_up(d->img, offset, len), ==, 0);
        else if (roll(d, 8) == 0)
            g_assert_cmpint(image_flush(d->img), ==, 0);
        else
            g_assert_cmpint(image_write(d->img, offset, buf, len), ==, 0);
        if (roll(d, 4) == 0)
            g_assert_cmpint(image_read(d->img, offset, buf, len), ==, 0);
    }
    return NULL;
}

static void run_threads(Disk *d, void *(*work)(void *))
{
    Worker workers[THREADS];
    Disk disks[THREADS];

    for (unsigned i = 0; i < THREADS; i++) {
        disks[i] = *d;
        disks[i].rand = g_rand_new_with_seed(100 + i);
        workers[i] = (Worker){.disk = &disks[i], .id = i};
        pthread_create(&workers[i].thread, NULL, work, &workers[i]);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(workers[i].thread, NULL);
        g_rand_free(disks[i].rand);
    }
}

static const Shape thread_shapes[] = {
    {"64 KiB", "compat=1.1", 65536, .direct = true},
    {"over compressed", "compat=1.1", 16384, "-c", 1 * MIB},
    {"small clusters", "compat=1.1", 4096, "raw", 1 * MIB, .cache_size = 16384},
    {"extended", "extended_l2=on", 65536, "-o cluster_size=4k", 2 * MIB},
    {"external", "data_file=data", 65536},
};

/* Half of it, so that they race for the packed clusters as well. */
static void compress_some(Disk *d)
{
    if (strstr(d->shape->options, "data_file"))
        return;
    for (uint64_t at = 0; at < d->size; at += 2 * d->shape->cluster)
        do_compressed(d, at);
}

static void threads_that_share_clusters_lose_nothing(void)
{
    if (!can_test())
        return;
    for (unsigned i = 0; i < G_N_ELEMENTS(thread_shapes); i++) {
        Disk *d = new_disk(&thread_shapes[i], 21 + i);

        compress_some(d);
        run_threads(d, write_stripes);
        expect_sound(d);
        free_disk(d);
    }
}

static void threads_that_overlap_leave_whole_sectors(void)
{
    if (!can_test())
        return;
    for (unsigned i = 0; i < G_N_ELEMENTS(thread_shapes); i++) {
        Disk *d = new_disk(&thread_shapes[i], 31 + i);

        for (uint64_t at = 0; at < d->size; at += 512)
            memset(d->model + at, 1 + (int)roll(d, 255), 512);
        g_assert_cmpint(image_write(d->img, 0, d->model, d->size), ==, 0);
        run_threads(d, write_over_one_another);
        g_assert_cmpint(image_read(d->img, 0, d->model, d->size), ==, 0);
        for (uint64_t i2 = 0; i2 < d->size; i2++)
            g_assert_cmpuint(d->model[i2], ==, d->model[align_down(i2, 512)]);
        expect_sound(d);
        free_disk(d);
    }
}

static void *pack(void *opaque)
{
    Worker *w = opaque;
    Disk *d = w->disk;

    for (uint64_t at = w->id * d->shape->cluster; at < d->size;
         at += THREADS * d->shape->cluster)
        do_compressed(d, at);
    return NULL;
}

static void threads_can_compress_side_by_side(void)
{
    static const Shape shapes[] = {
        {"zlib", "compat=1.1", 65536},
        {"zstd", "compression_type=zstd", 65536, .direct = true},
        {"small clusters", "compat=1.1", 512},
    };

    if (!can_test())
        return;
    for (unsigned i = 0; i < G_N_ELEMENTS(shapes); i++) {
        Disk *d = new_disk(&shapes[i], 51 + i);

        run_threads(d, pack);
        expect_sound(d);
        free_disk(d);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define T(name) g_test_add_func("/qcow2_io/" #name, name)
    T(clusters_and_refcounts_of_every_size_hold_what_is_written);
    T(subclusters_hold_what_is_written);
    T(what_is_below_shows_where_nothing_was_written);
    T(external_data_files_hold_what_is_written);
    T(raw_external_data_files_can_be_read_alone);
    T(snapshots_keep_what_they_had);
    T(what_was_copied_up_needs_nothing_below);
    T(copying_up_zeroes_takes_no_place);
    T(threads_that_share_clusters_lose_nothing);
    T(threads_that_overlap_leave_whole_sectors);
    T(threads_can_compress_side_by_side);
#undef T
    return g_test_run();
}
