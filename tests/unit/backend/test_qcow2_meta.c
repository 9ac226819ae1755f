/* Refcounts and the metadata cache of qcow2 images, in memory. */
#include "qcow2_memory.h"

/* ---- dirty and corrupt
 * ------------------------------------------------------------------
 */

static void a_corrupt_image_is_only_read(void)
{
    MemFile *m = new_image(&usual);
    BlockImage *img;

    put(m, 72, QCOW2_INCOMPAT_CORRUPT, 8);
    img = open_image(m, true, 0);
    g_assert_cmpint(image_write(img, 0, "x", 1), ==, EPERM);
    close_image(img);
    close_image(open_image(m, false, IMAGE_FOR_CHECK));
    g_assert_cmpuint(m->bytes->data[79], ==, QCOW2_INCOMPAT_CORRUPT);
    mem_free(m);
}

static void a_dirty_image_is_repaired_before_it_is_written(void)
{
    MemFile *m = new_image(&usual);
    uint8_t buf[512] = {1};
    BlockImage *img = open_image(m, false, 0);

    g_assert_cmpint(image_write(img, 0, buf, sizeof(buf)), ==, 0);
    close_image(img);
    put(m, 72, QCOW2_INCOMPAT_DIRTY, 8);
    put(m, 2 * 64 * KIB + 8, 0, 8); /* refcounts of what was written */
    close_image(open_image(m, true, 0));
    close_image(open_image(m, false, IMAGE_FOR_CHECK));
    g_assert_cmpuint(m->bytes->data[79], ==, QCOW2_INCOMPAT_DIRTY);
    img = open_image(m, false, 0);
    g_assert_cmpuint(m->bytes->data[79], ==, 0);
    close_image(img);
    must_be_clean(m);
    mem_free(m);
}

static void lazy_refcounts_are_written_at_closing_and_the_dirty_bit_tells(void)
{
    ImageCreate how = usual;
    uint8_t buf[512] = {1};
    BlockImage *img;
    MemFile *m;
    unsigned flushes;

    how.lazy_refcounts = true;
    m = new_image(&how);
    img = open_image(m, false, 0);
    g_assert_cmpuint(m->bytes->data[79], ==, 0);
    g_assert_cmpint(image_write(img, 0, buf, sizeof(buf)), ==, 0);
    g_assert_cmpint(image_flush(img), ==, 0);
    g_assert_cmpuint(m->bytes->data[79], ==, QCOW2_INCOMPAT_DIRTY);
    g_assert_cmpuint(judge(m->bytes->data, m->bytes->len).errors, >, 0);
    g_assert_false(qcow2_format.flush_is_slow(img));
    flushes = m->flushes;
    g_assert_cmpint(image_flush(img), ==, 0);
    g_assert_cmpuint(m->flushes, ==, flushes + 1);
    close_image(img);
    g_assert_cmpuint(m->bytes->data[79], ==, 0);
    must_be_clean(m);
    mem_free(m);
}

/* ---- refcounts
 * -------------------------------------------------------------------------
 */

static void a_refcount_of_any_width_is_read_as_it_was_written(void)
{
    for (unsigned order = 0; order <= 6; order++) {
        uint64_t max = order == 6 ? UINT64_MAX : BIT64(BIT(order)) - 1;
        uint8_t block[512], before[512];

        for (unsigned i = 0; i < 64; i++) {
            memset(block, i & 1 ? 0xff : 0, sizeof(block));
            memcpy(before, block, sizeof(block));
            qcow2_refcount_store(block, order, i, max / 3);
            g_assert_cmpuint(qcow2_refcount_load(block, order, i), ==, max / 3);
            qcow2_refcount_store(block, order, i, i & 1 ? max : 0);
            g_assert_cmpmem(block, sizeof(block), before, sizeof(before));
        }
    }
    {
        uint8_t byte = 0;

        qcow2_refcount_store(&byte, 1, 1, 2); /* the least significant bits come first */
        g_assert_cmphex(byte, ==, 0x08);
    }
}

static Qcow2 *small(MemFile **ret, unsigned refcount_bits, uint64_t pages)
{
    ImageCreate how = usual;
    Qcow2 *s;

    how.cluster_size = 512;
    how.size = 4 * MIB;
    how.refcount_bits = refcount_bits;
    *ret = new_image(&how);
    s = qcow2_of(open_image(*ret, false, 0));
    if (pages) {
        qcow2_pages_free(s->pages);
        s->cache_budget = pages * s->page_size;
        s->pages = qcow2_pages_new(s);
    }
    return s;
}

static void close_small(Qcow2 *s, MemFile *m)
{
    close_image(s->img);
    mem_free(m);
}

/* Thousands of clusters: the refcount table, of 64 entries at first, moves again and
 * again. */
static void the_refcount_table_grows_as_the_file_does(void)
{
    static const unsigned widths[] = {1, 16, 64};

    for (unsigned i = 0; i < G_N_ELEMENTS(widths); i++) {
        enum { N = 40000 };
        MemFile *m;
        Qcow2 *s = small(&m, widths[i], 2);
        uint64_t done = 0, offset, n;
        bool zero;
        Verdict v;

        while (done < N) {
            if (done % 3 == 0)
                g_assert_cmpint(qcow2_alloc_run(s, n = 17, &offset), ==, 0);
            else
                g_assert_cmpint(qcow2_alloc(s, 5, &offset, &n, &zero), ==, 0);
            g_assert_cmpuint(n, >, 0);
            done += n;
            if (done % 1000 < 5)
                g_assert_cmpint(qcow2_flush_metadata(s), ==, 0);
        }
        g_assert_cmpint(qcow2_flush_metadata(s), ==, 0);
        g_assert_cmpuint(s->h.reftable_clusters, >, widths[i] / 16);
        v = judge(m->bytes->data, m->bytes->len);
        g_assert_cmpstr(v.first, ==, "");
        g_assert_cmpuint(v.leaks, ==, done); /* nobody refers to what we took */
        close_small(s, m);
    }
}

static void what_is_given_back_is_taken_again_but_not_before_a_flush(void)
{
    MemFile *m;
    Qcow2 *s = small(&m, 16, 0);
    uint64_t first, offset, n, value, end;
    bool zero;

    g_assert_cmpint(qcow2_alloc_run(s, 100, &first), ==, 0);
    g_assert_cmpint(qcow2_flush_metadata(s), ==, 0);
    memset(m->bytes->data + first, 0xaa, 100 * 512);
    g_assert_cmpint(qcow2_ref_add(s, first, 100, -1), ==, 0);
    g_assert_cmpint(qcow2_ref_get(s, first, &value), ==, 0);
    g_assert_cmpuint(value, ==, 0);
    g_assert_cmpint(qcow2_alloc(s, 1, &offset, &n, &zero), ==, 0);
    g_assert_true(offset < first || offset >= first + 100 * 512);
    g_assert_cmphex(m->bytes->data[first], ==, 0xaa);
    g_assert_cmpint(qcow2_flush_metadata(s), ==, 0);
    g_assert_cmphex(m->bytes->data[first], ==, 0); /* its place was given back */
    end = qcow2_refs_end(s);
    for (unsigned left = 100; left; left -= n) {
        g_assert_cmpint(qcow2_alloc(s, left, &offset, &n, &zero), ==, 0);
        g_assert_false(zero);
    }
    g_assert_cmpuint(qcow2_refs_end(s), ==, end);
    close_small(s, m);
}

static void free_clusters_of_before_are_found_again(void)
{
    MemFile *m;
    Qcow2 *s = small(&m, 16, 0);
    uint64_t offset, n, first;
    GError *error = NULL;
    BlockImage *img;
    bool zero;

    g_assert_cmpint(qcow2_alloc_run(s, 3000, &first), ==, 0);
    for (unsigned i = 0; i < 3000; i += 2)
        g_assert_cmpint(qcow2_ref_add(s, first + i * 512, 1, -1), ==, 0);
    g_assert_true(image_close(s->img, &error));
    img = open_image(m, false, 0);
    s = qcow2_of(img);
    for (unsigned i = 0; i < 1500; i++)
        g_assert_cmpint(qcow2_alloc(s, 1, &offset, &n, &zero), ==, 0);
    g_assert_cmpuint(offset, <, first + 3000 * 512);
    close_image(img);
    mem_free(m);
}

static void a_refcount_overflows_with_nothing_changed(void)
{
    MemFile *m;
    Qcow2 *s = small(&m, 2, 0);
    uint64_t offset, value;

    g_assert_cmpint(qcow2_alloc_run(s, 3, &offset), ==, 0);
    g_assert_cmpint(qcow2_ref_add(s, offset + 1024, 1, 1), ==, 0);
    g_assert_cmpint(qcow2_ref_add(s, offset + 1024, 1, 1), ==, 0);
    g_assert_cmpint(qcow2_ref_add(s, offset, 3, 1), ==, ERANGE);
    g_assert_cmpint(qcow2_ref_get(s, offset, &value), ==, 0);
    g_assert_cmpuint(value, ==, 1);
    /* One given back makes room, though not at once on the disk. */
    g_assert_cmpint(qcow2_ref_add(s, offset + 1024, 1, -1), ==, 0);
    g_assert_cmpint(qcow2_ref_add(s, offset + 1024, 1, 1), ==, 0);
    g_assert_cmpint(qcow2_ref_get(s, offset + 1024, &value), ==, 0);
    g_assert_cmpuint(value, ==, 3);
    close_small(s, m);
}

static void compressed_data_shares_clusters_and_is_given_back_with_the_last(void)
{
    MemFile *m;
    Qcow2 *s = small(&m, 16, 0);
    uint64_t at[20], value;

    for (unsigned i = 0; i < 20; i++)
        g_assert_cmpint(qcow2_alloc_bytes(s, 100, &at[i]), ==, 0);
    for (unsigned i = 1; i < 20; i++)
        g_assert_cmpuint(at[i], ==, at[i - 1] + 100);
    g_assert_cmpint(qcow2_ref_get(s, at[0], &value), ==, 0);
    g_assert_cmpuint(value, ==, 6); /* the sixth crosses into the next */
    for (unsigned i = 0; i < 6; i++)
        g_assert_cmpint(qcow2_ref_add(s, align_down(at[i], 512), 1, -1), ==, 0);
    g_assert_cmpint(qcow2_ref_get(s, at[0], &value), ==, 0);
    g_assert_cmpuint(value, ==, 0);
    close_small(s, m);
}

static void a_refcount_below_zero_is_damage(void)
{
    MemFile *m;
    Qcow2 *s = small(&m, 16, 0);
    uint64_t offset, n;
    bool zero;

    g_assert_cmpint(qcow2_ref_add(s, 4 * MIB, 1, -1), ==, EIO);
    g_assert_true(qcow2_broken(s));
    g_assert_cmpuint(m->bytes->data[79], ==, QCOW2_INCOMPAT_CORRUPT);
    g_assert_cmpint(qcow2_alloc(s, 1, &offset, &n, &zero), ==, EIO);
    close_small(s, m);
}

static void a_refcount_table_of_lies_is_damage_not_a_crash(void)
{
    static const uint64_t entries[] = {1,       512 + 1,         0x600, UINT64_MAX,
                                       1 << 30, ~0ull << 9 >> 8, 0x200};

    for (unsigned i = 0; i < G_N_ELEMENTS(entries); i++) {
        uint64_t offset, n;
        BlockImage *img;
        ImageCreate how = usual;
        MemFile *m;
        bool zero;

        how.cluster_size = 512;
        how.size = MIB;
        m = new_image(&how);
        put(m, 512, entries[i], 8);
        img = open_image(m, false, 0);
        g_assert_cmpint(qcow2_alloc(qcow2_of(img), 1, &offset, &n, &zero), ==, EIO);
        close_image(img);
        mem_free(m);
    }
}

/* ---- the file
 * --------------------------------------------------------------------------
 */

static void the_file_grows_in_steps_and_is_trimmed_at_closing(void)
{
    MemFile *m = new_image(&usual);
    BlockImage *img = open_image(m, false, 0);
    g_autofree uint8_t *buf = g_malloc0(64 * KIB);
    unsigned sizes = 0;
    uint64_t size = 0;

    buf[0] = 1;
    for (unsigned i = 0; i < 200; i++) {
        g_assert_cmpint(image_write(img, i * 64 * KIB, buf, 64 * KIB), ==, 0);
        sizes += m->bytes->len != size;
        size = m->bytes->len;
    }
    g_assert_cmpuint(sizes, <, 15);
    close_image(img);
    g_assert_cmpuint(m->bytes->len, ==, (4 + 1 + 200) * 64 * KIB);
    must_be_clean(m);
    mem_free(m);
}

static void a_flush_with_nothing_changed_costs_one_sync(void)
{
    MemFile *m = new_image(&usual);
    BlockImage *img = open_image(m, false, 0);
    uint8_t buf[512] = {1};
    unsigned writes;

    g_assert_false(qcow2_format.flush_is_slow(img));
    g_assert_cmpint(image_write(img, 0, buf, sizeof(buf)), ==, 0);
    g_assert_true(qcow2_format.flush_is_slow(img));
    g_assert_cmpint(image_flush(img), ==, 0);
    g_assert_false(qcow2_format.flush_is_slow(img));
    g_assert_cmpint(image_write(img, 0, buf, sizeof(buf)), ==, 0);
    g_assert_false(qcow2_format.flush_is_slow(img)); /* in place */
    writes = m->writes;
    m->flushes = 0;
    g_assert_cmpint(image_flush(img), ==, 0);
    g_assert_cmpuint(m->flushes, ==, 1);
    g_assert_cmpuint(m->writes, ==, writes);
    close_image(img);
    mem_free(m);
}

/* A flush syncs before the L2 tables, before the L1 table, and at the end. */
static void metadata_that_could_not_be_synced_is_written_again(void)
{
    MemFile *m = new_image(&usual);
    BlockImage *img = open_image(m, false, 0);
    uint8_t buf[512] = {1};

    g_assert_cmpint(image_write(img, 0, buf, sizeof(buf)), ==, 0);
    g_assert_cmpint(image_flush(img), ==, 0);
    for (unsigned good = 0; good < 2; good++) {
        unsigned writes;

        g_assert_cmpint(image_write(img, (good + 1) * MIB, buf, sizeof(buf)), ==, 0);
        m->good_flushes = good;
        m->fail_flushes = 1;
        g_assert_cmpint(image_flush(img), ==, EIO);
        g_assert_true(qcow2_format.flush_is_slow(img));
        writes = m->writes;
        g_assert_cmpint(image_flush(img), ==, 0);
        g_assert_cmpuint(m->writes, >=, writes + 2 - good); /* L2, and refcounts */
        g_assert_false(qcow2_format.flush_is_slow(img));
    }
    close_image(img);
    must_be_clean(m);
    mem_free(m);
}

static void reopening_changes_what_may_be_written(void)
{
    MemFile *m = new_image(&usual);
    BlockImage *img = open_image(m, true, 0);
    uint8_t buf[512] = {1};

    g_assert_cmpint(image_write(img, 0, buf, sizeof(buf)), ==, EPERM);
    g_assert_true(image_reopen(img, false, NULL));
    g_assert_cmpint(image_write(img, 0, buf, sizeof(buf)), ==, 0);
    g_assert_true(image_reopen(img, true, NULL));
    must_be_clean(m);
    g_assert_cmpint(image_write(img, 0, buf, sizeof(buf)), ==, EPERM);
    close_image(img);
    mem_free(m);
}

/* ---- the cache
 * -------------------------------------------------------------------------
 */

static void two_pages_are_cache_enough(void)
{
    MemFile *m;
    Qcow2 *s = small(&m, 16, 2);
    GRand *rand = g_rand_new_with_seed(1);
    g_autofree uint8_t *model = g_malloc0(4 * MIB), *disk = g_malloc(4 * MIB);

    for (unsigned i = 0; i < 3000; i++) {
        uint64_t offset = (uint64_t)g_rand_int_range(rand, 0, 8000) * 512;
        uint8_t buf[1024];

        memset(buf, (int)i, sizeof(buf));
        memset(model + offset, (int)i, sizeof(buf));
        g_assert_cmpint(image_write(s->img, offset, buf, sizeof(buf)), ==, 0);
    }
    g_assert_cmpint(image_read(s->img, 0, disk, 4 * MIB), ==, 0);
    g_assert_cmpmem(model, 4 * MIB, disk, 4 * MIB);
    g_rand_free(rand);
    image_free(s->img);
    must_be_clean(m);
    mem_free(m);
}

static void a_look_at_a_page_finds_what_is_cached_only(void)
{
    MemFile *m = new_image(&usual);
    BlockImage *img = open_image(m, false, 0);
    Qcow2 *s = qcow2_of(img);
    uint64_t block = 2 * 64 * KIB;
    uint8_t two[2];
    Qcow2Page *page;

    g_assert_false(qcow2_page_peek(s, block, two, 2));
    g_assert_cmpint(qcow2_page_get(s, QCOW2_PAGE_REFCOUNT, block + 5, false, &page), ==,
                    0);
    g_assert_true(qcow2_page_peek(s, block + 2, two, 2));
    g_assert_cmpuint(load_be16(two), ==, 1);
    qcow2_page_put(s, page);
    qcow2_pages_forget(s, block, 64 * KIB);
    g_assert_false(qcow2_page_peek(s, block, two, 2));
    if (g_test_perf()) {
        enum { N = 10000000 };
        int64_t start;

        qcow2_page_get(s, QCOW2_PAGE_REFCOUNT, block, false, &page);
        start = g_get_monotonic_time();
        for (unsigned i = 0; i < N; i++)
            qcow2_page_peek(s, block + i % 2048 * 2, two, 2);
        g_test_message("a look costs %.1f ns",
                       (double)(g_get_monotonic_time() - start) * 1000 / N);
        qcow2_page_put(s, page);
    }
    close_image(img);
    mem_free(m);
}

static void a_table_that_is_also_another_is_damage(void)
{
    MemFile *m = new_image(&usual);
    BlockImage *img = open_image(m, false, 0);
    Qcow2 *s = qcow2_of(img);
    Qcow2Page *page, *other;

    g_assert_cmpint(qcow2_page_get(s, QCOW2_PAGE_REFCOUNT, 2 * 64 * KIB, false, &page),
                    ==, 0);
    g_assert_cmpint(qcow2_page_get(s, QCOW2_PAGE_L2, 2 * 64 * KIB, false, &other), ==,
                    EIO);
    qcow2_page_put(s, page);
    g_assert_true(qcow2_broken(s));
    close_image(img);
    mem_free(m);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add_func("/qcow2/" #name, name)
    TEST(a_corrupt_image_is_only_read);
    TEST(a_dirty_image_is_repaired_before_it_is_written);
    TEST(lazy_refcounts_are_written_at_closing_and_the_dirty_bit_tells);
    TEST(a_refcount_of_any_width_is_read_as_it_was_written);
    TEST(the_refcount_table_grows_as_the_file_does);
    TEST(what_is_given_back_is_taken_again_but_not_before_a_flush);
    TEST(free_clusters_of_before_are_found_again);
    TEST(a_refcount_overflows_with_nothing_changed);
    TEST(compressed_data_shares_clusters_and_is_given_back_with_the_last);
    TEST(a_refcount_below_zero_is_damage);
    TEST(a_refcount_table_of_lies_is_damage_not_a_crash);
    TEST(the_file_grows_in_steps_and_is_trimmed_at_closing);
    TEST(a_flush_with_nothing_changed_costs_one_sync);
    TEST(metadata_that_could_not_be_synced_is_written_again);
    TEST(reopening_changes_what_may_be_written);
    TEST(two_pages_are_cache_enough);
    TEST(a_look_at_a_page_finds_what_is_cached_only);
    TEST(a_table_that_is_also_another_is_damage);
    return g_test_run();
}
