/* A qcow2 image and its model in memory, and requests at random to both.  qemu-img makes
 * the images, checks them, and compares them to the model. */
#pragma once

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "backend/image.h"
#include "scratch.h"
#include "util/bits.h"

/* For a test's first line: there is qemu-img, or the test is skipped. */
static inline bool can_test(void)
{
    g_autofree char *path = g_find_program_in_path("qemu-img");

    if (!path)
        g_test_skip("there is no qemu-img");
    return path != NULL;
}

/* ---- qemu-img ---------------------------------------------------------------------- */

/* Runs a command in the folder; returns whether it said 0. */
G_GNUC_PRINTF(2, 3) static inline bool run(const char *dir, const char *fmt, ...)
{
    g_autofree char *command = NULL, *out = NULL, *err = NULL;
    g_auto(GStrv) argv = NULL;
    GError *error = NULL;
    int status = -1;
    va_list args;

    va_start(args, fmt);
    command = g_strdup_vprintf(fmt, args);
    va_end(args);
    g_assert_true(g_shell_parse_argv(command, NULL, &argv, &error));
    g_assert_true(g_spawn_sync(dir, argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &out,
                               &err, &status, &error));
    if (status)
        g_test_message("%s: %s%s", command, out, err);
    return status == 0;
}

#define RUN(dir, ...) g_assert_true(run(dir, __VA_ARGS__))

/* ---- a disk and its model -----------------------------------------------------------
 */

typedef struct Shape {
    const char *name, *options; /* of qemu-img create */
    uint64_t cluster;
    const char *backing; /* options of the image below; "raw": it is one */
    uint64_t backing_size;
    uint64_t cache_size;
    bool direct;
} Shape;

typedef struct Disk {
    const Shape *shape;
    char *dir, *path;
    uint64_t size;
    uint8_t *model;
    BlockImage *img;
    GRand *rand;
} Disk;

static inline uint32_t roll(Disk *d, uint32_t n)
{
    return (uint32_t)g_rand_int_range(d->rand, 0, (int)n);
}

static inline void fill(Disk *d, uint8_t *buf, size_t len)
{
    uint32_t seed = g_rand_int(d->rand), kind = roll(d, 4);

    for (size_t i = 0; i < len; i++) {
        seed = seed * 1664525 + 1013904223;
        buf[i] = kind == 0 ? (uint8_t)(seed >> 24) : (uint8_t)(kind + (seed >> 30));
    }
}

static inline void write_model(Disk *d, const char *name)
{
    g_autofree char *path = g_build_filename(d->dir, name, NULL);

    g_assert_true(g_file_set_contents(path, (char *)d->model, (gssize)d->size, NULL));
}

static inline void open_disk(Disk *d)
{
    BlockOptions o = {.path = d->path,
                      .format = BLOCK_FORMAT_QCOW2,
                      .cache = d->shape->direct ? BLOCK_CACHE_AUTO : BLOCK_CACHE_UNSAFE,
                      .backing = BLOCK_BACKING_ON,
                      .cache_size = d->shape->cache_size};
    GError *error = NULL;

    d->img = image_open(&o, 0, &error);
    g_assert_no_error(error);
    g_assert_nonnull(d->img);
    g_assert_cmpuint(image_size(d->img), ==, d->size);
}

static inline void close_disk(Disk *d)
{
    GError *error = NULL;

    g_assert_true(image_close(g_steal_pointer(&d->img), &error));
    g_assert_no_error(error);
}

/* The image below: some of it data, some zeroes, some nothing. */
static inline void make_backing(Disk *d)
{
    const Shape *shape = d->shape;
    bool raw = g_str_equal(shape->backing, "raw");
    uint64_t size = shape->backing_size, shown = MIN(size, d->size);
    g_autofree uint8_t *bytes = g_malloc0(size);
    g_autofree char *path = g_build_filename(d->dir, "base.raw", NULL);

    for (uint64_t at = 0; at < size;) {
        uint64_t n = 512 + 512 * (uint64_t)roll(d, 512);

        n = MIN(n, size - at);
        if (roll(d, 2))
            fill(d, bytes + at, n);
        at += n;
    }
    g_assert_true(g_file_set_contents(path, (char *)bytes, (gssize)size, NULL));
    memcpy(d->model, bytes, shown);
    if (raw)
        RUN(d->dir, "qemu-img convert -f raw -O raw base.raw base");
    else
        RUN(d->dir, "qemu-img convert -f raw -O qcow2 %s base.raw base", shape->backing);
}

/* In memory where that is possible: qemu-img waits for the disk often.  O_DIRECT is for
 * real disks. */
static inline char *new_place(const Shape *shape)
{
    g_autofree char *dir = g_strdup("/dev/shm/hutch-qcow2-XXXXXX");

    return !shape->direct && g_mkdtemp(dir) ? g_steal_pointer(&dir) : new_dir();
}

static inline Disk *new_disk(const Shape *shape, uint32_t seed)
{
    Disk *d = g_new0(Disk, 1);

    d->shape = shape;
    /* -m thorough is different each time; --seed repeats it. */
    if (g_test_thorough())
        seed += (uint32_t)g_test_rand_int();
    d->rand = g_rand_new_with_seed(seed);
    d->dir = new_place(shape);
    d->path = g_build_filename(d->dir, "disk.qcow2", NULL);
    d->size = CLAMP(shape->cluster * 20, 1 * MIB, 12 * MIB) + 512 * 3;
    d->model = g_malloc0(d->size);
    if (shape->backing)
        make_backing(d);
    RUN(d->dir, "qemu-img create -q -f qcow2 -o cluster_size=%d,%s %s disk.qcow2 %d",
        (int)shape->cluster, shape->options,
        !shape->backing                      ? ""
        : g_str_equal(shape->backing, "raw") ? "-F raw -b base"
                                             : "-F qcow2 -b base",
        (int)d->size);
    open_disk(d);
    return d;
}

static inline void free_disk(Disk *d)
{
    if (d->img)
        close_disk(d);
    remove_dir(d->dir);
    g_rand_free(d->rand);
    g_free(d->path);
    g_free(d->model);
    g_free(d);
}

static inline void expect_model(Disk *d, uint64_t offset, uint64_t len)
{
    g_autofree uint8_t *buf = g_malloc(len + 1);

    g_assert_cmpint(image_read(d->img, offset, buf, len), ==, 0);
    if (!memcmp(buf, d->model + offset, len))
        return;
    for (uint64_t i = 0; i < len; i++)
        if (buf[i] != d->model[offset + i])
            g_error("%s: byte %#lx is %#x, not %#x (read %#lx+%#lx)", d->shape->name,
                    (long)(offset + i), buf[i], d->model[offset + i], (long)offset,
                    (long)len);
}

/* Closed, it is sound, and the same to others. */
static inline void expect_sound(Disk *d)
{
    expect_model(d, 0, d->size);
    close_disk(d);
    RUN(d->dir, "qemu-img check -q -f qcow2 disk.qcow2");
    write_model(d, "model.raw");
    RUN(d->dir, "qemu-img compare -q -f qcow2 -F raw disk.qcow2 model.raw");
    open_disk(d);
}

/* How many requests are enough. */
static inline unsigned many(void)
{
    return g_test_thorough() ? 300 : 60;
}

/* ---- requests at random ---------------------------------------------------------------
 */

/* A range within the disk: of any alignment, often near to clusters' edges. */
static inline uint64_t pick(Disk *d, uint64_t *ret_len)
{
    static const uint32_t aligns[] = {1, 512, 512, 4096, 65536};
    uint64_t align = aligns[roll(d, G_N_ELEMENTS(aligns))], cluster = d->shape->cluster;
    uint64_t offset, len;

    if (roll(d, 4) == 0)
        align = cluster;
    if (align > d->size / 4)
        align = 4096;
    offset = align_down(roll(d, (uint32_t)d->size), align);
    switch (roll(d, 3)) {
    case 0:
        len = 1 + roll(d, 8192);
        break;
    case 1:
        len = 1 + roll(d, (uint32_t)MIN(3 * cluster, d->size / 2));
        break;
    default:
        len = 1 + roll(d, (uint32_t)MIN(12 * cluster, d->size / 4));
    }
    len = align_up(len, align);
    *ret_len = MIN(len, d->size - offset);
    return offset;
}

static inline void do_write(Disk *d, uint64_t offset, uint64_t len)
{
    /* In the middle of a longer list, in parts of odd sizes. */
    g_autofree uint8_t *buf = g_malloc(len + 200);
    uint64_t skip = roll(d, 100), cut = roll(d, (uint32_t)len + 1);
    struct iovec iov[] = {{buf, skip / 2},
                          {buf + skip / 2, skip - skip / 2 + cut},
                          {buf + skip + cut, 0},
                          {buf + skip + cut, len - cut + 50}};

    fill(d, buf, len + 200);
    memcpy(d->model + offset, buf + skip, len);
    g_assert_cmpint(image_writev(d->img, offset, iov, 4, skip, len), ==, 0);
}

static inline void do_compressed(Disk *d, uint64_t offset)
{
    uint64_t cluster = d->shape->cluster, len;
    g_autofree uint8_t *buf = g_malloc(cluster);
    int err;

    offset = align_down(offset, cluster);
    len = MIN(cluster, d->size - offset);
    fill(d, buf, len);
    err = image_write_compressed(d->img, offset, buf, len);
    if (err == ENOTSUP) {
        g_assert_nonnull(strstr(d->shape->options, "data_file"));
        return;
    }
    g_assert_cmpint(err, ==, 0);
    memcpy(d->model + offset, buf, len);
}

/* What was discarded may be there still, or be zeroes. */
static inline void do_discard(Disk *d, uint64_t offset, uint64_t len)
{
    g_autofree uint8_t *buf = g_malloc(len);

    g_assert_cmpint(image_discard(d->img, offset, len), ==, 0);
    g_assert_cmpint(image_read(d->img, offset, buf, len), ==, 0);
    for (uint64_t i = 0; i < len; i++) {
        if (buf[i] && buf[i] != d->model[offset + i])
            g_error("%s: a discard brought up byte %#lx", d->shape->name,
                    (long)(offset + i));
        d->model[offset + i] = buf[i];
    }
}

static inline void random_request(Disk *d)
{
    uint64_t len, offset = pick(d, &len);

    switch (roll(d, 16)) {
    case 0:
    case 1:
        g_assert_cmpint(image_zero(d->img, offset, len, roll(d, 2)), ==, 0);
        memset(d->model + offset, 0, len);
        break;
    case 2:
        do_discard(d, offset, len);
        break;
    case 3:
        g_assert_cmpint(image_copy_up(d->img, offset, len), ==, 0);
        break;
    case 4:
    case 5:
        do_compressed(d, offset);
        break;
    case 6:
        g_assert_cmpint(image_flush(d->img), ==, 0);
        break;
    case 7:
    case 8:
    case 9:
        break;
    default:
        do_write(d, offset, len);
    }
    expect_model(d, offset, len);
}

static inline void random_requests(Disk *d, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        random_request(d);
    expect_sound(d);
}
