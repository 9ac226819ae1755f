/* What is on the disk when everything stops.
 *
 * A random workload runs on an image in memory, whose file keeps a log.  Then the log is
 * played to every point: as a killed process leaves the file (all that was written so
 * far), and as a power failure may (of what was written since the last flush, any part).
 * At each point the image must be without errors, leaks aside, and show what was flushed.
 */
#include "memfile.h"
#include "qcow2_judge.h"
#include "src/block/qcow2_private.h"

enum { SECTOR = 512 };

typedef struct Shape {
    const char *name;
    unsigned cluster_bits, refcount_bits;
    uint64_t size;
    uint64_t pages; /* of the cache; 0: enough */
    unsigned steps;
    unsigned burst; /* clusters in a request, at most */
    bool lazy, extended, snapshots;
    bool fail; /* now and then a write or a flush does */
} Shape;

/* Contents are told by their stamp: each write has its own, and 0 is zeroes. */
typedef struct Change {
    uint64_t first, n; /* sectors */
    uint32_t stamp;
    bool maybe; /* a discard: the old contents are as good */
} Change;

typedef struct Run {
    const Shape *shape;
    MemFile *m;
    BlockImage *img;
    GRand *rand;
    GArray *changes;
    uint32_t *flushed; /* stamps of sectors at the last flush */
    uint64_t sectors;
} Run;

static void make_image(MemFile *m, const Shape *shape)
{
    const ImageCreate how = {
        .path = (char *)"memory.qcow2",
        .size = shape->size,
        .cluster_size = BIT64(shape->cluster_bits),
        .refcount_bits = shape->refcount_bits,
        .compat = IMAGE_COMPAT_1_1,
        .lazy_refcounts = shape->lazy,
        .extended_l2 = shape->extended,
    };
    BlockFile *f = mem_file(m, false);
    GError *error = NULL;

    g_assert_true(qcow2_create(f, &how, &error));
    g_assert_no_error(error);
    block_file_close(f);
}

static void set_cache(Run *r)
{
    Qcow2 *s = qcow2_of(r->img);

    if (!r->shape->pages)
        return;
    qcow2_pages_free(s->pages);
    s->cache_budget = r->shape->pages * s->page_size;
    s->pages = qcow2_pages_new(s);
}

static void change(Run *r, uint64_t offset, uint64_t len, uint32_t stamp, bool maybe)
{
    Change c = {offset / SECTOR, len / SECTOR, stamp, maybe};

    g_array_append_val(r->changes, c);
    mem_log(r->m, (MemEvent){.kind = MEM_MARK, .offset = r->changes->len});
}

static void fill(uint8_t *buf, uint64_t len, uint32_t stamp)
{
    for (uint64_t i = 0; i < len; i += 4)
        memcpy(buf + i, &stamp, 4);
}

static void step(Run *r, uint32_t stamp)
{
    uint64_t cluster = BIT64(r->shape->cluster_bits);
    uint64_t offset = (uint64_t)g_rand_int_range(r->rand, 0, (gint32)r->sectors) * SECTOR;
    uint64_t most = MIN(r->shape->burst * cluster, r->shape->size - offset) / SECTOR;
    uint64_t len = (uint64_t)g_rand_int_range(r->rand, 1, (gint32)most + 1) * SECTOR;
    g_autofree uint8_t *buf = g_malloc(MAX(len, cluster));
    unsigned what = (unsigned)g_rand_int_range(r->rand, 0, 100);
    g_autofree char *name = g_strdup_printf("s%u", stamp);
    int err = 0;

    /* The change is noted first: part of it may be there at a crash on the way. */
    if (what < 50) {
        fill(buf, len, stamp);
        change(r, offset, len, stamp, false);
        err = image_write(r->img, offset, buf, len);
    } else if (what < 58) {
        change(r, offset, len, 0, false);
        err = image_zero(r->img, offset, len, what < 54);
    } else if (what < 70) {
        change(r, offset, len, 0, true);
        err = image_discard(r->img, offset, len);
    } else if (what < 80) {
        uint64_t at = align_down(offset, cluster);

        fill(buf, cluster, stamp);
        change(r, at, cluster, stamp, false);
        err = image_write_compressed(r->img, at, buf, cluster);
        if (err) /* the cluster is in use */
            ((Change *)(void *)r->changes->data)[r->changes->len - 1].maybe = true;
        err = 0;
    } else if (what < 84 && r->shape->snapshots) {
        if (what < 82)
            image_snapshot_create(r->img, name, NULL);
        else if (g_rand_boolean(r->rand)) {
            ImageSnapshot *list;
            unsigned n;

            g_assert_true(image_snapshot_list(r->img, &list, &n, NULL));
            if (n)
                image_snapshot_delete(r->img, list[0].id, NULL);
            image_snapshots_free(list, n);
        }
    } else if (what < 94 && image_flush(r->img) == 0) {
        mem_log(r->m, (MemEvent){.kind = MEM_MARK, .offset = r->changes->len, .len = 1});
    }
    if (!r->shape->fail) {
        g_assert_cmpint(err, ==, 0);
    } else if (g_rand_int_range(r->rand, 0, 10) == 0) {
        r->m->fail_writes = g_rand_boolean(r->rand);
        r->m->fail_flushes = g_rand_boolean(r->rand);
    }
}

/* ---- playing crashes
 * -------------------------------------------------------------------
 */

typedef struct Point {
    Run *r;
    unsigned n_changes; /* begun */
    unsigned n_flushed;
    unsigned at; /* in the log */
} Point;

static bool may_be(const Point *p, uint64_t sector, uint32_t stamp)
{
    const Change *c = (const Change *)(void *)p->r->changes->data;

    if (p->r->flushed[sector] == stamp)
        return true;
    for (unsigned i = p->n_flushed; i < p->n_changes; i++)
        if (sector >= c[i].first && sector < c[i].first + c[i].n && c[i].stamp == stamp)
            return true;
    return false;
}

static void check_contents(const Point *p, const GByteArray *bytes)
{
    const BlockOptions options = {.readonly = true, .cache_size = 1};
    MemFile *m = mem_copy(bytes);
    g_autofree uint8_t *disk = g_malloc(p->r->shape->size);
    GError *error = NULL;
    BlockImage *img = mem_open(m, &options, 0, &error);

    g_assert_no_error(error);
    g_assert_cmpint(image_read(img, 0, disk, p->r->shape->size), ==, 0);
    for (uint64_t i = 0; i < p->r->sectors; i++) {
        uint32_t first, last;

        memcpy(&first, disk + i * SECTOR, 4);
        memcpy(&last, disk + i * SECTOR + SECTOR - 4, 4);
        if (first != last || !may_be(p, i, first))
            g_error("sector %u has %u..%u after event %u; it was %u", (unsigned)i, first,
                    last, p->at, p->r->flushed[i]);
    }
    image_free(img);
    mem_free(m);
}

static void check_state(const Point *p, const GByteArray *bytes, bool contents)
{
    Verdict v = judge(bytes->data, bytes->len);

    if (v.errors && !v.dirty) {
        g_autofree char *path = g_build_filename(g_get_tmp_dir(), "crash.qcow2", NULL);

        g_file_set_contents(path, (const char *)bytes->data, bytes->len, NULL);
        g_error("%u errors after event %u, the first: %s; see %s", v.errors, p->at,
                v.first, path);
    }
    if (contents)
        check_contents(p, bytes);
}

/* Some of what came since the flush got there, and some did not. */
static void lose_power(const Point *p, const GByteArray *stable, const GArray *log,
                       unsigned from)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    int odds = g_rand_int_range(p->r->rand, 1, 10);

    g_byte_array_append(bytes, stable->data, stable->len);
    for (unsigned i = from; i <= p->at; i++)
        if (g_rand_int_range(p->r->rand, 0, 10) < odds)
            mem_apply(bytes, &g_array_index(log, MemEvent, i));
    check_state(p, bytes, p->at % 7 == 0);
}

/* A discard before the flush may or may not have happened: look at what it came to. */
static void settle_discards(Point *p, const GByteArray *bytes)
{
    const BlockOptions options = {.readonly = true, .cache_size = 1};
    MemFile *m = mem_copy(bytes);
    BlockImage *img = mem_open(m, &options, 0, NULL);
    g_autofree uint8_t *disk = g_malloc(p->r->shape->size);

    g_assert_cmpint(image_read(img, 0, disk, p->r->shape->size), ==, 0);
    for (uint64_t i = 0; i < p->r->sectors; i++) {
        uint32_t stamp;

        memcpy(&stamp, disk + i * SECTOR, 4);
        g_assert_true(may_be(p, i, stamp));
        p->r->flushed[i] = stamp;
    }
    image_free(img);
    mem_free(m);
}

static void play(Run *r, const GByteArray *start)
{
    GArray *log = r->m->log;
    g_autoptr(GByteArray) now = g_byte_array_new(), stable = g_byte_array_new();
    Point p = {.r = r};
    unsigned since = 0;

    r->m->log = NULL;
    g_byte_array_append(now, start->data, start->len);
    g_byte_array_append(stable, start->data, start->len);
    for (p.at = 0; p.at < log->len; p.at++) {
        const MemEvent *e = &g_array_index(log, MemEvent, p.at);

        mem_apply(now, e);
        if (e->kind == MEM_MARK && e->len) {
            settle_discards(&p, now);
            p.n_flushed = (unsigned)e->offset;
        } else if (e->kind == MEM_MARK) {
            p.n_changes = (unsigned)e->offset;
        } else if (e->kind == MEM_FLUSH) {
            g_byte_array_set_size(stable, 0);
            g_byte_array_append(stable, now->data, now->len);
            since = p.at + 1;
        } else {
            check_state(&p, now, p.at % 5 == 0);
            lose_power(&p, stable, log, since);
        }
    }
    for (unsigned i = 0; i < log->len; i++)
        g_free(g_array_index(log, MemEvent, i).data);
    g_array_free(log, true);
}

static void crash(const void *opaque)
{
    const Shape *shape = opaque;
    const BlockOptions options = {0};
    Run r = {.shape = shape, .m = mem_new(), .sectors = shape->size / SECTOR};
    g_autoptr(GByteArray) start = g_byte_array_new();
    GError *error = NULL;
    Verdict v;

    r.rand = g_rand_new_with_seed((guint32)g_test_rand_int());
    r.changes = g_array_new(false, true, sizeof(Change));
    r.flushed = g_new0(uint32_t, r.sectors);
    make_image(r.m, shape);
    g_byte_array_append(start, r.m->bytes->data, r.m->bytes->len);
    r.m->log = g_array_new(false, true, sizeof(MemEvent));
    r.img = mem_open(r.m, &options, 0, &error);
    g_assert_no_error(error);
    set_cache(&r);
    for (uint32_t i = 1; i <= shape->steps; i++)
        step(&r, i);
    r.m->fail_writes = r.m->fail_flushes = 0;
    g_assert_true(image_close(r.img, &error));
    v = judge(r.m->bytes->data, r.m->bytes->len);
    g_assert_cmpstr(v.first, ==, "");
    if (!shape->fail)
        g_assert_cmpuint(v.leaks, ==, 0);
    g_assert_false(v.dirty);
    play(&r, start);
    g_array_free(r.changes, true);
    g_free(r.flushed);
    g_rand_free(r.rand);
    mem_free(r.m);
}

static const Shape shapes[] = {
    {"clusters-of-4k", 12, 16, 1 << 20, 0, 300, 3},
    {"clusters-of-512", 9, 16, 256 << 10, 0, 400, 3},
    {"cache-of-2-pages", 9, 16, 256 << 10, 2, 300, 3},
    {"refcounts-of-1-bit", 9, 1, 256 << 10, 0, 300, 3},
    {"refcounts-of-64-bits", 9, 64, 256 << 10, 8, 400, 3},
    {"a-growing-refcount-table", 9, 64, 3 << 20, 64, 60, 800},
    {"lazy-refcounts", 12, 16, 512 << 10, 0, 200, 3, .lazy = true},
    {"extended-l2", 14, 16, 1 << 20, 0, 200, 3, .extended = true},
    {"snapshots", 10, 16, 256 << 10, 16, 200, 3, .snapshots = true},
    {"a-failing-disk", 9, 8, 256 << 10, 8, 400, 3, .fail = true},
};

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(shapes); i++) {
        g_autofree char *path = g_strdup_printf(
            "/qcow2/a_crash_at_any_point_leaves_no_error/%s", shapes[i].name);

        g_test_add_data_func(path, &shapes[i], crash);
    }
    return g_test_run();
}
