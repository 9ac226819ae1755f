/* Consistency checks, repair, snapshots and resizing of qcow2 images in memory.  Each
 * change is stopped at every point, and the judge, who shares no code with ours, looks at
 * what is left. */
#include "memfile.h"
#include "qcow2_judge.h"
#include "src/block/qcow2_survey_private.h"

enum { CLUSTER = 4096, SIZE = 1 << 20 };

typedef struct Disk {
    MemFile *m;
    BlockImage *img;
} Disk;

/* ---- making and looking --------------------------------------------------------------
 */

static MemFile *new_file(const ImageCreate *how)
{
    MemFile *m = mem_new();
    BlockFile *f = mem_file(m, false);
    GError *error = NULL;

    g_assert_true(qcow2_create(f, how, &error));
    g_assert_no_error(error);
    block_file_close(f);
    return m;
}

static BlockImage *open_file(MemFile *m, unsigned flags)
{
    const BlockOptions options = {0};
    GError *error = NULL;
    BlockImage *img = mem_open(m, &options, flags, &error);

    g_assert_no_error(error);
    return img;
}

static Disk new_disk_of(uint64_t size, uint64_t cluster, uint64_t refcount_bits,
                        int compat)
{
    const ImageCreate how = {
        .path = (char *)"memory.qcow2",
        .size = size,
        .cluster_size = cluster,
        .refcount_bits = refcount_bits,
        .compat = compat,
    };
    MemFile *m = new_file(&how);

    return (Disk){m, open_file(m, 0)};
}

static Disk new_disk(void)
{
    return new_disk_of(SIZE, CLUSTER, 16, IMAGE_COMPAT_1_1);
}

static void free_disk(Disk *d)
{
    image_free(d->img);
    mem_free(d->m);
}

static void put(const Disk *d, uint64_t offset, uint64_t len, uint8_t byte)
{
    g_autofree uint8_t *buf = g_malloc(len);

    memset(buf, byte, len);
    g_assert_cmpint(image_write(d->img, offset, buf, len), ==, 0);
}

static uint8_t *contents(BlockImage *img)
{
    uint8_t *buf = g_malloc(image_size(img) + 1);

    g_assert_cmpint(image_read(img, 0, buf, image_size(img)), ==, 0);
    return buf;
}

static uint8_t byte_at(const Disk *d, uint64_t offset)
{
    uint8_t byte;

    g_assert_cmpint(image_read(d->img, offset, &byte, 1), ==, 0);
    return byte;
}

static void ignore(void *opaque, const char *text)
{
}

static ImageCheck check(const Disk *d, ImageRepair how)
{
    ImageCheck c;
    GError *error = NULL;

    g_assert_true(image_check(d->img, how, &c, ignore, NULL, &error));
    g_assert_no_error(error);
    return c;
}

static void assert_in_order(const Disk *d)
{
    ImageCheck c = check(d, IMAGE_REPAIR_NONE);
    Verdict v = judge(d->m->bytes->data, d->m->bytes->len);

    g_assert_cmpstr(v.first, ==, "");
    g_assert_cmpuint(v.leaks, ==, 0);
    g_assert_cmpuint(c.errors, ==, 0);
    g_assert_cmpuint(c.leaks, ==, 0);
}

/* Closes it, and opens what is left after `damage`, to be checked. */
static void damaged(Disk *d, void (*damage)(uint8_t *file))
{
    GError *error = NULL;

    g_assert_true(image_close(d->img, &error));
    damage(d->m->bytes->data);
    d->img = open_file(d->m, IMAGE_FOR_CHECK);
}

static bool snapshot(const Disk *d, const char *name)
{
    g_autoptr(GError) error = NULL;
    bool ok = image_snapshot_create(d->img, name, &error);

    g_assert_no_error(error);
    return ok;
}

static void apply(const Disk *d, const char *name)
{
    g_autoptr(GError) error = NULL;

    image_snapshot_apply(d->img, name, &error);
    g_assert_no_error(error);
}

static void delete (const Disk *d, const char *name)
{
    g_autoptr(GError) error = NULL;

    image_snapshot_delete(d->img, name, &error);
    g_assert_no_error(error);
}

/* ---- counters ------------------------------------------------------------------------
 */

static void windows_of_counters_add_up_to_the_whole(void)
{
    g_autoptr(Qcow2Counts) all = qcow2_counts_new(1 << 30);
    g_autoptr(Qcow2Counts) few = qcow2_counts_new(3 * 65536 + 4096);
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);
    enum { N = 5000 };
    uint64_t at[N], start = 0;
    unsigned windows = 0, seen = 0;

    qcow2_counts_begin(all, 0);
    for (unsigned i = 0; i < N; i++) {
        at[i] = (uint64_t)g_rand_int_range(rand, 0, 40 * QCOW2_COUNTS_PAGE);
        at[i] += i % 10 ? 0 : BIT64(40);
        qcow2_counts_add(all, at[i], 3, 2, false);
    }
    do {
        qcow2_counts_begin(few, start);
        for (unsigned i = 0; i < N; i++)
            qcow2_counts_add(few, at[i], 3, 2, false);
        for (unsigned i = 0; i < N; i++) {
            if (at[i] < start || at[i] >= qcow2_counts_end(few))
                continue;
            seen++;
            g_assert_cmpuint(qcow2_counts_get(few, at[i]), ==,
                             qcow2_counts_get(all, at[i]));
        }
        g_assert_cmpuint(qcow2_counts_end(few), >, start);
        start = qcow2_counts_end(few);
        windows++;
    } while (start != UINT64_MAX);
    g_assert_cmpuint(seen, ==, N);
    g_assert_cmpuint(windows, >, 10);
}

static void metadata_that_meets_anything_else_is_a_clash(void)
{
    g_autoptr(Qcow2Counts) c = qcow2_counts_new(1 << 20);

    qcow2_counts_begin(c, 0);
    qcow2_counts_add(c, 5, 1, 1, true);
    qcow2_counts_add(c, 6, 1, 1, false);
    qcow2_counts_add(c, 6, 1, 1, false);
    g_assert_cmphex(qcow2_counts_get(c, 5), ==, QCOW2_COUNT_TABLE | 1);
    g_assert_cmphex(qcow2_counts_get(c, 6), ==, 2);
    qcow2_counts_add(c, 5, 1, 1, false);
    qcow2_counts_add(c, 6, 1, UINT32_MAX, true);
    g_assert_cmphex(qcow2_counts_get(c, 5), ==,
                    QCOW2_COUNT_TABLE | QCOW2_COUNT_CLASH | 2);
    g_assert_cmphex(qcow2_counts_get(c, 6) & QCOW2_COUNT_MASK, ==, QCOW2_COUNT_MASK);
}

/* 512-byte clusters: 40 MiB of them are five pages of counters, of which two fit. */
static void an_image_larger_than_the_counters_is_checked_and_repaired_all_the_same(void)
{
    Disk d = new_disk_of(24 << 20, 512, 16, IMAGE_COMPAT_1_1);
    ImageCheck c, whole;
    uint64_t memory;
    g_autofree uint8_t *before = NULL, *after = NULL;

    for (uint64_t at = 0; at < 24 << 20; at += 1 << 20)
        put(&d, at, (1 << 20) - 512, (uint8_t)(1 + (at >> 20)));
    snapshot(&d, "one");
    put(&d, 3 << 20, 4 << 20, 0x77);
    before = contents(d.img);
    g_assert_true(image_close(d.img, NULL));
    d.img = open_file(d.m, IMAGE_FOR_CHECK);
    whole = check(&d, IMAGE_REPAIR_NONE);

    memory = qcow2_survey_memory;
    qcow2_survey_memory = 2 * 65600;
    c = check(&d, IMAGE_REPAIR_NONE);
    g_assert_cmpuint(c.errors + c.leaks, ==, 0);
    g_assert_cmpuint(c.allocated_clusters, ==, whole.allocated_clusters);
    g_assert_cmpuint(c.end_offset, ==, whole.end_offset);
    /* All refcounts are lost. */
    memset(d.m->bytes->data + qcow2_of(d.img)->h.reftable_offset, 0,
           qcow2_of(d.img)->h.reftable_clusters * 512);
    c = check(&d, IMAGE_REPAIR_ALL);
    g_assert_cmpuint(c.errors + c.leaks, ==, 0);
    g_assert_cmpuint(c.errors_fixed, >, 40000);
    g_assert_true(image_close(d.img, NULL));
    d.img = open_file(d.m, 0);
    apply(&d, "one");
    g_assert_cmphex(byte_at(&d, 3 << 20), ==, 4);
    delete (&d, "one");
    assert_in_order(&d);
    after = contents(d.img);
    g_assert_cmpmem(before, 3 << 20, after, 3 << 20);
    qcow2_survey_memory = memory;
    free_disk(&d);
}

/* ---- snapshots -----------------------------------------------------------------------
 */

static void a_snapshot_shows_what_was_there_and_deleting_it_gives_all_back(void)
{
    Disk d = new_disk();
    uint64_t used;

    put(&d, 0, SIZE / 2, 1);
    assert_in_order(&d);
    used = check(&d, IMAGE_REPAIR_NONE).allocated_clusters;
    snapshot(&d, "first");
    assert_in_order(&d);
    put(&d, 0, SIZE, 2);
    assert_in_order(&d);
    snapshot(&d, "second");
    put(&d, 100, 1000, 3);
    assert_in_order(&d);
    apply(&d, "first");
    assert_in_order(&d);
    g_assert_cmphex(byte_at(&d, 100), ==, 1);
    g_assert_cmphex(byte_at(&d, SIZE - 1), ==, 0);
    apply(&d, "2"); /* by its id */
    g_assert_cmphex(byte_at(&d, 100), ==, 2);
    delete (&d, "first");
    assert_in_order(&d);
    delete (&d, "second");
    assert_in_order(&d);
    g_assert_cmphex(byte_at(&d, SIZE - 1), ==, 2);
    g_assert_cmpuint(check(&d, IMAGE_REPAIR_NONE).allocated_clusters, ==, 2 * used);
    free_disk(&d);
}

static void ids_of_snapshots_are_never_used_twice(void)
{
    Disk d = new_disk();
    ImageSnapshot *list;
    unsigned n;

    snapshot(&d, "a");
    snapshot(&d, "b");
    snapshot(&d, "b");
    delete (&d, "a");
    snapshot(&d, "c");
    g_assert_true(image_snapshot_list(d.img, &list, &n, NULL));
    g_assert_cmpuint(n, ==, 3);
    g_assert_cmpstr(list[0].id, ==, "2");
    g_assert_cmpstr(list[1].id, ==, "3");
    g_assert_cmpstr(list[2].id, ==, "4");
    g_assert_cmpuint(list[2].disk_size, ==, SIZE);
    g_assert_cmpint(list[2].date_s, >, 1700000000);
    image_snapshots_free(list, n);
    free_disk(&d);
}

static void a_snapshot_of_another_size_brings_it_back(void)
{
    Disk d = new_disk();

    put(&d, 0, SIZE, 5);
    snapshot(&d, "small");
    g_assert_true(image_resize(d.img, 4 * SIZE, NULL));
    put(&d, SIZE, 3 * SIZE, 6);
    snapshot(&d, "large");
    g_assert_true(image_resize(d.img, SIZE / 4, NULL));
    assert_in_order(&d);
    apply(&d, "small");
    g_assert_cmpuint(image_size(d.img), ==, SIZE);
    g_assert_cmphex(byte_at(&d, SIZE - 1), ==, 5);
    apply(&d, "large");
    g_assert_cmpuint(image_size(d.img), ==, 4 * SIZE);
    g_assert_cmphex(byte_at(&d, 4 * SIZE - 1), ==, 6);
    assert_in_order(&d);
    free_disk(&d);
}

/* As QEMU saves a VM: a state size, and fields that nobody here knows. */
static void save_a_vm(uint8_t *file)
{
    uint8_t *entry = file + load_be64(file + 64);
    unsigned id_and_name = load_be16(entry + 12) + load_be16(entry + 14);

    memmove(entry + 40 + 32, entry + 40 + 16, id_and_name);
    store_be32(entry + 36, 32);
    store_be64(entry + 40, 0x123456789a);
    memset(entry + 56, 0xee, 16);
}

static void what_a_snapshot_has_that_is_not_known_here_is_kept(void)
{
    Disk d = new_disk();
    ImageSnapshot *list;
    const uint8_t *entry;
    unsigned n;

    put(&d, 0, SIZE, 1);
    snapshot(&d, "vm");
    damaged(&d, save_a_vm);
    g_assert_true(image_close(d.img, NULL));
    d.img = open_file(d.m, 0);
    snapshot(&d, "other");
    delete (&d, "other");
    assert_in_order(&d);
    g_assert_true(image_snapshot_list(d.img, &list, &n, NULL));
    g_assert_cmpuint(n, ==, 1);
    g_assert_cmpstr(list[0].name, ==, "vm");
    g_assert_cmphex(list[0].vm_state_size, ==, 0x123456789a);
    image_snapshots_free(list, n);
    entry = d.m->bytes->data + qcow2_of(d.img)->h.snapshots_offset;
    for (unsigned i = 56; i < 72; i++)
        g_assert_cmphex(entry[i], ==, 0xee);
    free_disk(&d);
}

static void
a_snapshot_that_refcounts_have_no_room_for_is_refused_and_changes_nothing(void)
{
    Disk d = new_disk_of(SIZE, CLUSTER, 1, IMAGE_COMPAT_1_1);
    g_autoptr(GError) error = NULL;

    put(&d, 0, SIZE / 2, 1);
    g_assert_false(image_snapshot_create(d.img, "one", &error));
    g_assert_nonnull(strstr(error->message, "refcounts of 1 bits"));
    assert_in_order(&d);
    put(&d, 0, SIZE, 2);
    assert_in_order(&d);
    free_disk(&d);
}

static void a_snapshot_that_is_not_there_is_named(void)
{
    Disk d = new_disk();
    g_autoptr(GError) error = NULL;

    g_assert_false(image_snapshot_apply(d.img, "nobody", &error));
    g_assert_nonnull(strstr(error->message, "'nobody'"));
    free_disk(&d);
}

static void grow_extra_data(uint8_t *file)
{
    store_be32(file + load_be64(file + 64) + 36, 1 << 20);
}

static void a_field_of_the_snapshot_table_that_makes_no_sense_is_named(void)
{
    Disk d = new_disk();
    g_autoptr(GError) error = NULL;
    ImageSnapshot *list;
    unsigned n;

    snapshot(&d, "one");
    damaged(&d, grow_extra_data);
    g_assert_false(image_snapshot_list(d.img, &list, &n, &error));
    g_assert_nonnull(strstr(error->message, "extra_data_size"));
    g_assert_cmpuint(check(&d, IMAGE_REPAIR_NONE).errors, >, 0);
    g_assert_cmpuint(check(&d, IMAGE_REPAIR_ALL).errors, ==, 0);
    free_disk(&d);
}

/* ---- a crash at any point ------------------------------------------------------------
 */

typedef struct Change {
    const char *name;
    bool (*make)(BlockImage *img);
    bool damages; /* it begins with an image that has errors */
} Change;

static bool make_snapshot(BlockImage *img)
{
    return image_snapshot_create(img, "new", NULL);
}

static bool apply_snapshot(BlockImage *img)
{
    return image_snapshot_apply(img, "one", NULL);
}

static bool delete_snapshot(BlockImage *img)
{
    return image_snapshot_delete(img, "one", NULL);
}

static bool grow(BlockImage *img)
{
    return image_resize(img, 5 * SIZE, NULL);
}

static bool shrink(BlockImage *img)
{
    return image_resize(img, SIZE / 3 / 512 * 512, NULL);
}

static bool repair_leaks(BlockImage *img)
{
    ImageCheck c;

    return image_check(img, IMAGE_REPAIR_LEAKS, &c, ignore, NULL, NULL) && !c.leaks;
}

static const Change changes[] = {
    {"snapshot", make_snapshot}, {"apply", apply_snapshot},
    {"delete", delete_snapshot}, {"grow", grow},
    {"shrink", shrink},          {"repair-leaks", repair_leaks},
};

/* What is read has to be what was there before, or what is there after; of a disk that
 * became smaller or larger, as far as it reaches. */
static void assert_either(const GByteArray *bytes, const uint8_t *before,
                          uint64_t n_before, const uint8_t *after, uint64_t n_after)
{
    const BlockOptions options = {.readonly = true};
    MemFile *m = mem_copy(bytes);
    BlockImage *img = mem_open(m, &options, 0, NULL);
    g_autofree uint8_t *now = NULL;

    g_assert_nonnull(img);
    now = contents(img);
    if (image_size(img) == n_before && memcmp(now, before, n_before) == 0) {
        image_free(img);
        mem_free(m);
        return;
    }
    g_assert_cmpmem(now, image_size(img), after, n_after);
    image_free(img);
    mem_free(m);
}

static void assert_crash_is_safe(const GByteArray *bytes, const Change *c, unsigned at)
{
    Verdict v = judge(bytes->data, bytes->len);

    if (v.errors)
        g_error("%s: %u errors if it stops at event %u, the first: %s", c->name, v.errors,
                at, v.first);
}

static void play(const GArray *log, const GByteArray *start, const Change *c,
                 const uint8_t *before, uint64_t n_before, const uint8_t *after,
                 uint64_t n_after)
{
    g_autoptr(GByteArray) now = g_byte_array_new(), stable = g_byte_array_new();
    g_autoptr(GRand) rand = g_rand_new_with_seed(3);
    unsigned since = 0;

    g_byte_array_append(now, start->data, start->len);
    g_byte_array_append(stable, start->data, start->len);
    for (unsigned i = 0; i < log->len; i++) {
        const MemEvent *e = &g_array_index(log, MemEvent, i);

        mem_apply(now, e);
        assert_crash_is_safe(now, c, i);
        assert_either(now, before, n_before, after, n_after);
        for (unsigned n = 0; n < 3; n++) { /* and if power is lost with the caches full */
            g_autoptr(GByteArray) lost = g_byte_array_new();

            g_byte_array_append(lost, stable->data, stable->len);
            for (unsigned k = since; k <= i; k++)
                if (g_rand_boolean(rand))
                    mem_apply(lost, &g_array_index(log, MemEvent, k));
            assert_crash_is_safe(lost, c, i);
            assert_either(lost, before, n_before, after, n_after);
        }
        if (e->kind == MEM_FLUSH) {
            g_byte_array_set_size(stable, 0);
            g_byte_array_append(stable, now->data, now->len);
            since = i + 1;
        }
    }
}

static void leak_some(uint8_t *file)
{
    uint8_t *table = file + load_be64(file + 48);
    uint8_t *block = file + load_be64(table);

    for (unsigned i = 0; i < 200; i++)
        if (!load_be16(block + i * 2) || load_be16(block + i * 2) > 1)
            store_be16(block + i * 2, load_be16(block + i * 2) + 1);
}

static void a_crash_in_the_middle_leaves_the_image_as_before_or_as_after(const void *p)
{
    const Change *c = p;
    Disk d = new_disk();
    g_autoptr(GByteArray) start = g_byte_array_new();
    g_autofree uint8_t *before = NULL, *after = NULL;
    uint64_t n_before;
    GArray *log;

    put(&d, 0, SIZE / 2, 1);
    snapshot(&d, "one");
    put(&d, SIZE / 4, SIZE / 2, 2);
    g_assert_cmpint(image_discard(d.img, 0, SIZE / 8), ==, 0);
    g_assert_cmpint(image_flush(d.img), ==, 0);
    if (c->make == repair_leaks)
        damaged(&d, leak_some);
    before = contents(d.img);
    n_before = image_size(d.img);
    g_byte_array_append(start, d.m->bytes->data, d.m->bytes->len);
    d.m->log = g_array_new(false, true, sizeof(MemEvent));
    g_assert_true(c->make(d.img));
    g_assert_cmpint(image_flush(d.img), ==, 0);
    log = d.m->log;
    d.m->log = NULL;
    after = contents(d.img);
    assert_in_order(&d);
    g_assert_cmpuint(log->len, >, 1);
    play(log, start, c, before, n_before, after, image_size(d.img));
    for (unsigned i = 0; i < log->len; i++)
        g_free(g_array_index(log, MemEvent, i).data);
    g_array_free(log, true);
    free_disk(&d);
}

/* A disk that is full, or fails, leaves the image as it was. */
static void a_change_that_fails_changes_nothing(const void *p)
{
    const Change *c = p;

    for (unsigned at = 0; at < 200; at++) {
        Disk d = new_disk();
        g_autofree uint8_t *before = NULL;
        Verdict v;
        bool done;

        put(&d, 0, SIZE / 2, 1);
        snapshot(&d, "one");
        put(&d, SIZE / 4, SIZE / 2, 2);
        g_assert_cmpint(image_flush(d.img), ==, 0);
        before = contents(d.img);
        d.m->fail_after = at + 1;
        done = c->make(d.img);
        d.m->fail_after = 0;
        v = judge(d.m->bytes->data, d.m->bytes->len);
        g_assert_cmpstr(v.first, ==, "");
        if (!done)
            assert_either(d.m->bytes, before, SIZE, before, SIZE);
        free_disk(&d);
        if (done)
            return;
    }
    g_assert_not_reached();
}

/* ---- resizing ------------------------------------------------------------------------
 */

static void what_is_new_of_a_disk_reads_as_zeroes_whatever_was_there(void)
{
    Disk d = new_disk();

    put(&d, 0, SIZE, 9);
    g_assert_true(image_resize(d.img, SIZE / 2 + 512, NULL));
    g_assert_true(image_resize(d.img, SIZE, NULL));
    g_assert_cmphex(byte_at(&d, SIZE / 2 + 511), ==, 9);
    for (uint64_t at = SIZE / 2 + 512; at < SIZE; at += 512)
        g_assert_cmphex(byte_at(&d, at), ==, 0);
    g_assert_true(image_resize(d.img, 64 * SIZE, NULL));
    g_assert_cmphex(byte_at(&d, 64 * SIZE - 1), ==, 0);
    put(&d, 64 * SIZE - 512, 512, 7);
    g_assert_cmphex(byte_at(&d, 64 * SIZE - 1), ==, 7);
    assert_in_order(&d);
    free_disk(&d);
}

/* As a crash leaves it that comes after the header has the new size. */
static void halve(uint8_t *file)
{
    store_be64(file + 24, SIZE / 2 + 512);
}

static void what_a_crash_left_behind_the_end_of_a_disk_does_not_come_back(void)
{
    Disk d = new_disk();

    put(&d, 0, SIZE, 9);
    damaged(&d, halve);
    g_assert_true(image_resize(d.img, SIZE, NULL));
    g_assert_cmphex(byte_at(&d, SIZE / 2 + 511), ==, 9);
    for (uint64_t at = SIZE / 2 + 512; at < SIZE; at += 512)
        g_assert_cmphex(byte_at(&d, at), ==, 0);
    assert_in_order(&d);
    free_disk(&d);
}

static void a_smaller_disk_makes_a_smaller_file(void)
{
    Disk d = new_disk();

    put(&d, 0, SIZE / 4, 9);
    put(&d, SIZE / 4, 3 * SIZE / 4, 9);
    g_assert_true(image_resize(d.img, SIZE / 4, NULL));
    g_assert_cmpuint(d.m->bytes->len, <, SIZE / 2);
    assert_in_order(&d);
    free_disk(&d);
}

static void sizes_that_the_format_cannot_have_are_refused(void)
{
    Disk d = new_disk_of(SIZE, 512, 16, IMAGE_COMPAT_0_10);
    g_autoptr(GError) odd = NULL, huge = NULL, old = NULL;

    g_assert_false(image_resize(d.img, SIZE + 100, &odd));
    g_assert_nonnull(strstr(odd->message, "multiple of 512"));
    g_assert_false(image_resize(d.img, BIT64(50), &huge));
    g_assert_nonnull(strstr(huge->message, "clusters of 512 bytes"));
    snapshot(&d, "one");
    g_assert_false(image_resize(d.img, SIZE / 2, &old));
    g_assert_nonnull(strstr(old->message, "version 2"));
    g_assert_cmpuint(image_size(d.img), ==, SIZE);
    assert_in_order(&d);
    free_disk(&d);
}

#define T(fn) g_test_add_func("/qcow2/" #fn, fn)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    T(windows_of_counters_add_up_to_the_whole);
    T(metadata_that_meets_anything_else_is_a_clash);
    T(an_image_larger_than_the_counters_is_checked_and_repaired_all_the_same);
    T(a_snapshot_shows_what_was_there_and_deleting_it_gives_all_back);
    T(ids_of_snapshots_are_never_used_twice);
    T(a_snapshot_of_another_size_brings_it_back);
    T(what_a_snapshot_has_that_is_not_known_here_is_kept);
    T(a_snapshot_that_refcounts_have_no_room_for_is_refused_and_changes_nothing);
    T(a_snapshot_that_is_not_there_is_named);
    T(a_field_of_the_snapshot_table_that_makes_no_sense_is_named);
    T(what_is_new_of_a_disk_reads_as_zeroes_whatever_was_there);
    T(what_a_crash_left_behind_the_end_of_a_disk_does_not_come_back);
    T(a_smaller_disk_makes_a_smaller_file);
    T(sizes_that_the_format_cannot_have_are_refused);
    for (unsigned i = 0; i < G_N_ELEMENTS(changes); i++) {
        g_autofree char *crash = g_strdup_printf(
            "/qcow2/a_crash_in_the_middle_leaves_the_image_as_before_or_as_after/%s",
            changes[i].name);
        g_autofree char *failing = g_strdup_printf(
            "/qcow2/a_change_that_fails_changes_nothing/%s", changes[i].name);

        g_test_add_data_func(
            crash, &changes[i],
            a_crash_in_the_middle_leaves_the_image_as_before_or_as_after);
        if (changes[i].make != shrink && changes[i].make != repair_leaks)
            g_test_add_data_func(failing, &changes[i],
                                 a_change_that_fails_changes_nothing);
    }
    return g_test_run();
}
