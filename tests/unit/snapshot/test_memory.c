/* Guest RAM in snapshots' files: what was written is what is read, and what is not whole
 * is refused. */
#include "memory_folder.h"
#include "state/state.h"

enum { DEEP = 50 };

/* ---- helpers --------------------------------------------------------------------------
 */

static SnapMemory *open_ok(unsigned n)
{
    g_autofree char *folder = folder_of(n);
    g_autoptr(GError) error = NULL;
    SnapMemory *s = snap_memory_open(folder, &error);

    g_assert_no_error(error);
    g_assert_cmpuint(snap_memory_size(s), ==, FOLDER_RAM);
    return s;
}

/* By every way that there is to read it. */
static void expect_ram(unsigned n, const uint8_t *ram)
{
    g_autoptr(SnapMemory) s = open_ok(n);
    g_autofree uint8_t *buf = g_malloc(FOLDER_RAM);
    g_autoptr(GError) error = NULL;
    uint64_t page = 0, count = 0, last = 0;

    for (uint64_t p = 0; p < PAGES;) { /* pieces of odd sizes */
        unsigned some = (unsigned)MIN((uint64_t)(1 + p % 37), PAGES - p);

        snap_memory_read(s, p, some, buf + p * PAGE, &error);
        g_assert_no_error(error);
        p += some;
    }
    g_assert_cmpmem(buf, FOLDER_RAM, ram, FOLDER_RAM);
    for (; snap_memory_next(s, &page, &count); page += count, last = page) {
        g_assert_cmpuint(count, >, 0);
        g_assert_cmpuint(page + count, <=, PAGES);
        for (uint64_t at = last * PAGE; at < page * PAGE; at++)
            g_assert_cmpuint(ram[at], ==, 0);
    }
    for (uint64_t at = last * PAGE; at < FOLDER_RAM; at++)
        g_assert_cmpuint(ram[at], ==, 0);
    for (int how = 0; how < 3; how++) {
        GuestMemOptions o = {.size = FOLDER_RAM, .shared = how == 2};
        GuestMem gm;

        g_assert_true(gm_init(&gm, &o, NULL));
        g_assert_true(how ? snap_memory_map(s, &gm, &error)
                          : snap_memory_copy(s, &gm, &error));
        g_assert_no_error(error);
        g_assert_cmpmem(gm.base, FOLDER_RAM, ram, FOLDER_RAM);
        memset(gm.base, 0x55, FOLDER_RAM); /* must not reach the files */
        gm_finish(&gm);
    }
    snap_memory_read(s, PAGES - 1, 1, buf, &error);
    g_assert_no_error(error);
    g_assert_cmpmem(buf, PAGE, ram + (PAGES - 1) * PAGE, PAGE);
}

static uint64_t blocks_of(unsigned n, const char *name)
{
    g_autofree char *folder = folder_of(n), *path = folder_file(folder, name);
    struct stat st;

    g_assert_cmpint(stat(path, &st), ==, 0);
    return (uint64_t)st.st_blocks * 512;
}

static void expect_refused(unsigned n, const char *why)
{
    g_autofree char *folder = folder_of(n);
    g_autoptr(GError) error = NULL;

    g_assert_null(snap_memory_open(folder, &error));
    g_assert_cmpint(error->code, ==, VM_ERROR_CORRUPT);
    if (!strstr(error->message, why))
        g_error("'%s' is not in: %s", why, error->message);
}

static void verify(unsigned n)
{
    g_autofree char *folder = folder_of(n);
    g_autoptr(Manifest) m = manifest_read(folder, NULL);
    g_autoptr(GError) error = NULL;

    manifest_verify(folder, m, NULL, NULL, &error);
    g_assert_no_error(error);
}

/* ---- what is written is read ----------------------------------------------------------
 */

static void full(bool zstd)
{
    g_autofree uint8_t *ram = g_malloc0(FOLDER_RAM);
    SnapMemoryWriter *w = begin(0, false, zstd);

    srand(1);
    for (uint64_t p = 0; p < PAGES; p++)
        if (p % 512 < 300)
            write_version(w, p, 0, ram);
    for (unsigned round = 1; round < 5; round++) /* some become zero, and again not */
        for (unsigned i = 0; i < 200; i++)
            write_version(w, (uint64_t)rand() % PAGES, round, ram);
    end(w, 0, false);
    expect_ram(0, ram);
}

static void a_full_snapshot_reads_as_it_was_written_in_rounds(void)
{
    full(false);
    verify(0);
}

static void a_compressed_one_reads_the_same(void)
{
    g_autofree char *raw = NULL;

    full(true);
    raw = g_strdup_printf("%s/s0.snap/memory", base);
    g_assert_cmpint(access(raw, F_OK), !=, 0);
    g_assert_cmpuint(blocks_of(0, SNAP_MEMORY_ZST), <, FOLDER_RAM / 8);
}

static void compressing_changes_no_hash(void)
{
    g_autofree char *folder = folder_of(0);
    g_autoptr(Manifest) raw = NULL, zstd = NULL;

    full(false);
    raw = manifest_read(folder, NULL);
    full(true);
    zstd = manifest_read(folder, NULL);
    g_assert_cmpstr(raw->memory_sha256, ==, zstd->memory_sha256);
    g_assert_cmpstr(raw->memory_encoding, ==, SNAP_RAW);
    g_assert_cmpstr(zstd->memory_encoding, ==, SNAP_ZSTD);
    g_assert_cmpuint(raw->memory_pages, ==, zstd->memory_pages);
}

static void pages_of_zeroes_take_no_room(void)
{
    g_autofree uint8_t *ram = g_malloc0(FOLDER_RAM);
    SnapMemoryWriter *w = begin(0, false, false);
    g_autofree char *folder = folder_of(0);
    g_autoptr(Manifest) m = NULL;

    memset(ram, 1, FOLDER_RAM);
    g_assert_true(snap_memory_write(w, 0, PAGES, ram, NULL));
    memset(ram, 0, FOLDER_RAM);
    ram[7 * PAGE] = 1;
    g_assert_true(snap_memory_write(w, 0, PAGES, ram, NULL));
    end(w, 0, false);
    g_assert_cmpuint(blocks_of(0, SNAP_MEMORY), <=, 64 * 1024);
    m = manifest_read(folder, NULL);
    g_assert_cmpuint(m->memory_pages, ==, 1);
    expect_ram(0, ram);
}

/* Every seventh is compressed: a chain may be of both kinds. */
static void make_chain(uint8_t *ram)
{
    srand(2);
    for (unsigned n = 0; n <= DEEP; n++) {
        SnapMemoryWriter *w = begin(n, n > 0, n % 7 == 3);

        for (uint64_t p = 0; n == 0 && p < PAGES; p++)
            write_version(w, p, 0, ram);
        for (unsigned i = 0; n > 0 && i < 40; i++) {
            uint64_t first = (uint64_t)rand() % PAGES;
            uint64_t some = 1 + (uint64_t)rand() % (i % 8 ? 3 : 64);
            uint64_t count = MIN(some, PAGES - first);

            for (uint64_t p = first; p < first + count; p++)
                write_version(w, p, n, ram);
        }
        end(w, n, n > 0);
    }
}

static void a_chain_of_fifty_diffs_reads_as_its_last(void)
{
    g_autofree uint8_t *ram = g_malloc0(FOLDER_RAM);

    make_chain(ram);
    expect_ram(DEEP, ram);
}

/* A diff's pages that became zero must hide the parent's, and pages that it does not list
 * must show them, though both are zeroes in its file. */
static void a_dense_copy_of_a_diff_loses_nothing(void)
{
    g_autofree uint8_t *ram = g_malloc0(FOLDER_RAM);
    g_autofree char *folder = folder_of(DEEP - 1),
                    *path = folder_file(folder, SNAP_MEMORY);
    g_autofree char *data = NULL;
    gsize len;

    make_chain(ram);
    g_assert_true(g_file_get_contents(path, &data, &len, NULL));
    g_assert_true(g_file_set_contents(path, data, (gssize)len, NULL)); /* another file */
    g_assert_cmpuint(blocks_of(DEEP - 1, SNAP_MEMORY), >=, FOLDER_RAM);
    expect_ram(DEEP, ram);
}

static void a_diff_alone_is_its_own_pages(void)
{
    g_autofree uint8_t *ram = g_malloc0(FOLDER_RAM);
    SnapMemoryWriter *w = begin(0, false, false);
    g_autofree char *folder = folder_of(1);
    g_autoptr(SnapMemory) s = NULL;
    g_autoptr(Manifest) m = NULL;
    uint64_t page = 0, n = 0;
    uint8_t buf[2 * PAGE];

    memset(ram, 1, FOLDER_RAM);
    snap_memory_write(w, 0, PAGES, ram, NULL);
    end(w, 0, false);
    w = begin(1, true, false);
    memset(ram, 0, PAGE); /* to zero: it is held */
    snap_memory_write(w, 5, 1, ram, NULL);
    end(w, 1, true);
    m = manifest_read(folder, NULL);
    g_assert_cmpuint(m->memory_pages, ==, 1);
    s = snap_memory_open_alone(folder, m, NULL);
    g_assert_true(snap_memory_next(s, &page, &n));
    g_assert_cmpuint(page, ==, 5);
    g_assert_cmpuint(n, ==, 1);
    page += n;
    g_assert_false(snap_memory_next(s, &page, &n));
    memset(buf, 0xff, sizeof(buf));
    g_assert_true(snap_memory_read(s, 5, 2, buf, NULL));
    for (unsigned i = 0; i < sizeof(buf); i++)
        g_assert_cmpuint(buf[i], ==, 0);
    snap_memory_close(g_steal_pointer(&s));
    s = open_ok(1);
    g_assert_true(snap_memory_read(s, 5, 2, buf, NULL));
    g_assert_cmpuint(buf[0], ==, 0);
    g_assert_cmpuint(buf[PAGE], ==, 1);
}

/* ---- what is not whole ----------------------------------------------------------------
 */

static void small_chain(bool zstd)
{
    g_autofree uint8_t *ram = g_malloc0(FOLDER_RAM);

    for (unsigned n = 0; n < 2; n++) {
        SnapMemoryWriter *w = begin(n, n > 0, zstd);

        for (uint64_t p = 0; p < PAGES; p += 1 + n * 50)
            write_version(w, p, n, ram);
        end(w, n, n > 0);
    }
}

static void a_file_of_another_size_is_refused(void)
{
    g_autofree char *folder = folder_of(0), *path = folder_file(folder, SNAP_MEMORY);

    small_chain(false);
    for (off_t size = FOLDER_RAM - PAGE; size >= 0; size -= FOLDER_RAM / 16) {
        g_assert_cmpint(truncate(path, size), ==, 0);
        expect_refused(1, "bytes");
    }
    g_assert_cmpint(truncate(path, FOLDER_RAM + PAGE), ==, 0);
    expect_refused(0, "bytes");
}

static void a_file_cut_off_after_opening_is_an_error_and_no_zeroes(void)
{
    g_autofree char *folder = folder_of(0), *path = folder_file(folder, SNAP_MEMORY);
    g_autoptr(GError) error = NULL;
    g_autoptr(SnapMemory) s = NULL;
    uint8_t page[PAGE];

    small_chain(false);
    s = open_ok(0);
    g_assert_cmpint(truncate(path, 10 * PAGE), ==, 0);
    g_assert_true(snap_memory_read(s, 9, 1, page, NULL));
    g_assert_false(snap_memory_read(s, 10, 1, page, &error));
    g_assert_nonnull(strstr(error->message, path));
}

static void a_compressed_file_cut_off_anywhere_is_refused(void)
{
    g_autofree char *folder = folder_of(0), *path = folder_file(folder, SNAP_MEMORY_ZST);
    struct stat st;

    small_chain(true);
    g_assert_cmpint(stat(path, &st), ==, 0);
    for (off_t size = st.st_size - 1; size > 0; size -= st.st_size / 24) {
        g_assert_cmpint(truncate(path, size), ==, 0);
        expect_refused(1, "memory.zst");
    }
}

/* Whatever one byte becomes: refused, or an error when read, or it was not of use. */
static void no_byte_of_a_compressed_file_goes_wrong_unseen(void)
{
    g_autofree char *folder = folder_of(0), *path = folder_file(folder, SNAP_MEMORY_ZST);
    g_autofree uint8_t *want = g_malloc(FOLDER_RAM), *got = g_malloc(FOLDER_RAM);
    g_autofree char *data = NULL;
    gsize len;

    small_chain(true);
    {
        g_autoptr(SnapMemory) s = open_ok(0);

        g_assert_true(snap_memory_read(s, 0, PAGES, want, NULL));
    }
    g_assert_true(g_file_get_contents(path, &data, &len, NULL));
    for (gsize i = 0; i < 60; i++) {
        gsize at = i < 40 ? len - 1 - i * 3 : (i - 40) * (len / 20);
        g_autoptr(SnapMemory) s = NULL;

        data[at] ^= 0x41;
        g_assert_true(g_file_set_contents(path, data, (gssize)len, NULL));
        s = snap_memory_open(folder, NULL);
        if (s && snap_memory_read(s, 0, PAGES, got, NULL))
            g_assert_cmpmem(got, FOLDER_RAM, want, FOLDER_RAM);
        data[at] ^= 0x41;
    }
}

/* The list as a state file with the checksum right. */
typedef struct Map {
    uint64_t pages;
    StateBlob runs;
} Map;

static void put_map(const uint64_t runs[][2], unsigned n, uint64_t pages)
{
    g_autofree char *folder = folder_of(1), *path = folder_file(folder, SNAP_MEMORY_MAP);
    g_autofree uint8_t *list = g_malloc0(n * 12 + 1);
    Map map = {pages, {list, n * 12}};
    StateWriter *w = state_writer_new();
    g_autoptr(GBytes) bytes = NULL;

    for (unsigned i = 0; i < n; i++) {
        store_le64(list + i * 12, runs[i][0]);
        store_le32(list + i * 12 + 8, (uint32_t)runs[i][1]);
    }
    state_put(w, "memory", memory_state_tables[0], &map);
    bytes = state_writer_end(w, NULL);
    g_assert_nonnull(bytes);
    g_assert_true(g_file_set_contents(path, g_bytes_get_data(bytes, NULL),
                                      (gssize)g_bytes_get_size(bytes), NULL));
}

static void lists_out_of_order_overlapping_or_beyond_ram_are_refused(void)
{
    static const uint64_t bad[][2][2] = {
        {{10, 2}, {5, 1}},          {{10, 2}, {11, 1}},
        {{10, 2}, {12, 1}}, /* two that touch are one */
        {{10, 0}, {20, 1}},         {{10, 1}, {PAGES, 1}},
        {{10, 1}, {PAGES - 1, 2}},  {{10, 1}, {20, UINT32_MAX}},
        {{10, 1}, {UINT64_MAX, 1}}, {{10, 1}, {UINT64_MAX - 3, 8}},
    };
    static const uint64_t good[][2] = {{10, 2}, {PAGES - 1, 1}};

    small_chain(false);
    put_map(good, 2, PAGES);
    snap_memory_close(open_ok(1));
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        put_map(bad[i], 2, PAGES);
        expect_refused(1, "out of order");
    }
    put_map(good, 2, PAGES + 1);
    expect_refused(1, "pages of RAM");
}

static void a_map_that_is_missing_or_damaged_is_refused(void)
{
    g_autofree char *folder = folder_of(1), *path = folder_file(folder, SNAP_MEMORY_MAP);
    g_autofree char *data = NULL;
    g_autoptr(GError) error = NULL;
    gsize len;

    small_chain(false);
    g_assert_true(g_file_get_contents(path, &data, &len, NULL));
    for (gsize at = 0; at < len; at += 7) {
        data[at] ^= 0x80;
        g_assert_true(g_file_set_contents(path, data, (gssize)len, NULL));
        expect_refused(1, "memory.map");
        data[at] ^= 0x80;
    }
    g_assert_cmpint(unlink(path), ==, 0);
    g_assert_null(snap_memory_open(folder, &error));
    g_assert_nonnull(strstr(error->message, "memory.map"));
}

static void reads_and_writes_beyond_ram_are_refused(void)
{
    SnapMemoryWriter *w = begin(0, false, false);
    g_autoptr(SnapMemory) s = NULL;
    uint8_t buf[2 * PAGE] = {1};

    g_assert_false(snap_memory_write(w, PAGES - 1, 2, buf, NULL));
    g_assert_false(snap_memory_write(w, UINT64_MAX, 2, buf, NULL));
    end(w, 0, false);
    s = open_ok(0);
    g_assert_false(snap_memory_read(s, PAGES - 1, 2, buf, NULL));
    g_assert_false(snap_memory_read(s, UINT64_MAX, 2, buf, NULL));
}

static void ram_of_another_size_is_refused(void)
{
    GuestMemOptions o = {.size = FOLDER_RAM - PAGE};
    g_autoptr(SnapMemory) s = NULL;
    GuestMem gm;

    small_chain(false);
    s = open_ok(1);
    g_assert_true(gm_init(&gm, &o, NULL));
    g_assert_false(snap_memory_map(s, &gm, NULL));
    g_assert_false(snap_memory_copy(s, &gm, NULL));
    gm_finish(&gm);
}

int main(int argc, char **argv)
{
    int status;

    g_test_init(&argc, &argv, NULL);
    make_base();
#define TEST(name) g_test_add_func("/memory/" #name, name)
    TEST(a_full_snapshot_reads_as_it_was_written_in_rounds);
    TEST(a_compressed_one_reads_the_same);
    TEST(compressing_changes_no_hash);
    TEST(pages_of_zeroes_take_no_room);
    TEST(a_chain_of_fifty_diffs_reads_as_its_last);
    TEST(a_dense_copy_of_a_diff_loses_nothing);
    TEST(a_diff_alone_is_its_own_pages);
    TEST(a_file_of_another_size_is_refused);
    TEST(a_file_cut_off_after_opening_is_an_error_and_no_zeroes);
    TEST(a_compressed_file_cut_off_anywhere_is_refused);
    TEST(no_byte_of_a_compressed_file_goes_wrong_unseen);
    TEST(lists_out_of_order_overlapping_or_beyond_ram_are_refused);
    TEST(a_map_that_is_missing_or_damaged_is_refused);
    TEST(reads_and_writes_beyond_ram_are_refused);
    TEST(ram_of_another_size_is_refused);
    status = g_test_run();
    folder_remove(base);
    g_free(base);
    return status;
}
