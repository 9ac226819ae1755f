/* qcow2 headers: what is refused, what is kept, and new images. */
#include "qcow2_memory.h"
#include "scratch.h"

/* ---- refusals
 * --------------------------------------------------------------------------
 */

typedef struct Damage {
    const char *says; /* a part of the sentence */
    uint64_t at, value;
    unsigned size;
    uint64_t at2, value2;
    unsigned size2;
} Damage;

static const Damage damages[] = {
    {"is not a qcow2 image", 0, 0x12345678, 4},
    {"version is 1", 4, 1, 4},
    {"version is 4", 4, 4, 4},
    {"backing_file_offset", 8, 65537, 8},
    {"backing_file_offset", 8, 8, 8, 16, 4, 4},
    {"backing_file_size", 8, 4096, 8, 16, 1024, 4},
    {"backing_file_size", 8, 65535, 8, 16, 2, 4},
    {"backing_file_size", 8, 4096, 8, 16, 0, 4},
    {"backing file name is empty", 8, 4096, 8, 16, 4, 4},
    {"cluster_bits", 20, 8, 4},
    {"cluster_bits", 20, 22, 4},
    {"cluster_bits", 20, 0xffffffff, 4},
    {"l1_size", 24, UINT64_MAX, 8},
    {"l1_size", 24, 1ull << 40, 8},
    {"AES", 32, 1, 4},
    {"LUKS", 32, 2, 4},
    {"crypt_method is 77", 32, 77, 4},
    {"l1_size", 36, 0, 4},
    {"l1_size", 36, 0xffffffff, 4},
    {"l1_table_offset", 40, 0x30001, 8},
    {"l1_table_offset", 40, 0, 8},
    {"l1_table_offset", 40, UINT64_MAX & ~0xffffull, 8},
    {"l1_table_offset", 40, 0x40000, 8},
    {"overlap", 40, 0x10000, 8},
    {"refcount_table_offset", 48, 0x10200, 8},
    {"refcount_table_offset", 48, 0, 8},
    {"refcount_table_offset", 48, 1ull << 60, 8},
    {"refcount_table_offset", 56, 8, 4},
    {"refcount_table_clusters", 56, 0, 4},
    {"refcount_table_clusters", 56, 0xffffffff, 4},
    {"nb_snapshots", 60, 65537, 4},
    {"snapshots_offset", 60, 1, 4},
    {"snapshots_offset", 60, 1, 4, 64, 0x30008, 8},
    {"'bit 40'", 72, 1ull << 40, 8},
    {"extended L2 entries need", 20, 12, 4, 72, 16, 8},
    {"compression_type is missing", 72, 8, 8},
    {"compression_type is 1, though", 104, 1, 1},
    {"compression_type is 9", 72, 8, 8, 104, 9, 1},
    {"external data file", 72, 4, 8},
    {"autoclear_features", 88, 2, 8},
    {"refcount_order", 96, 7, 4},
    {"header_length", 100, 96, 4},
    {"header_length", 100, 105, 4},
    {"header_length", 100, 0x80000000, 4},
    {"extension 0x6803f857", 116, 65536, 4},
    {"marked as corrupt", 72, 2, 8},
};

static void each_bad_field_is_refused_by_its_name(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(damages); i++) {
        const Damage *d = &damages[i];
        const BlockOptions options = {0};
        MemFile *m = new_image(&usual);
        g_autoptr(GError) error = NULL;
        g_autofree uint8_t *before = NULL;
        BlockImage *img;

        put(m, d->at, d->value, d->size);
        if (d->size2)
            put(m, d->at2, d->value2, d->size2);
        before = g_memdup2(m->bytes->data, m->bytes->len);
        img = mem_open(m, &options, 0, &error);
        if (img || !strstr(error->message, d->says))
            g_error("case %u, '%s': %s", i, d->says, img ? "opened" : error->message);
        g_assert_true(g_str_has_prefix(error->message, "'memory.qcow2'"));
        g_assert_cmpmem(before, 256 * KIB, m->bytes->data, m->bytes->len);
        mem_free(m);
    }
}

static void a_file_cut_at_any_length_is_refused_or_read(void)
{
    MemFile *whole = new_image(&usual);

    for (unsigned len = 0; len < 1024; len += 1 + len / 64) {
        const BlockOptions options = {.readonly = true};
        MemFile *m = mem_copy(whole->bytes);
        g_autoptr(GError) error = NULL;

        mem_resize(m->bytes, len);
        g_assert_null(mem_open(m, &options, 0, &error));
        g_assert_nonnull(error);
        mem_free(m);
    }
    mem_free(whole);
}

static void an_unknown_feature_is_refused_by_its_name_in_the_file(void)
{
    const BlockOptions options = {.readonly = true};
    MemFile *m = new_image(&usual);
    g_autoptr(GError) error = NULL;

    put(m, 72, 1ull << 50, 8);
    m->bytes->data[120 + 1] = 50; /* the first entry of the table */
    memcpy(m->bytes->data + 122, "warp\033drive\0", 11);
    g_assert_null(mem_open(m, &options, 0, &error));
    g_assert_nonnull(strstr(error->message, "'warp?drive'"));
    mem_free(m);
}

/* ---- what is kept
 * ----------------------------------------------------------------------
 */

static void what_is_unknown_in_the_header_outlives_its_rewriting(void)
{
    static const char secret[] = "an extension of tomorrow";
    MemFile *m = new_image(&usual);
    uint8_t *p = m->bytes->data;
    BlockImage *img;
    Qcow2 *s;

    /* A longer header, an extension that nobody knows, bitmaps, autoclear bits. */
    memset(p + 112, 0, 4096);
    put(m, 100, 128, 4);
    put(m, 112, 0x0123456789abcdef, 8);
    put(m, 128, 0x11223344, 4);
    put(m, 132, sizeof(secret), 4);
    memcpy(p + 136, secret, sizeof(secret));
    put(m, 136 + 32, QCOW2_EXT_BITMAPS, 4);
    put(m, 140 + 32, 24, 4);
    put(m, 88, 1ull << 33 | QCOW2_AUTOCLEAR_BITMAPS, 8);
    put(m, 80, 1ull << 20, 8);
    close_image(open_image(m, true, 0));
    g_assert_cmphex(load_be64(p + 88), ==, 1ull << 33 | QCOW2_AUTOCLEAR_BITMAPS);
    img = open_image(m, false, 0);
    g_assert_true(image_set_backing(img, "below.raw", "raw", NULL));
    close_image(img);
    g_assert_cmphex(load_be64(p + 88), ==, 0);
    g_assert_cmphex(load_be64(p + 80), ==, 1ull << 20);
    g_assert_cmphex(load_be64(p + 112), ==, 0x0123456789abcdef);
    img = open_image(m, true, IMAGE_NO_BACKING);
    s = qcow2_of(img);
    g_assert_cmpstr(s->backing, ==, "below.raw");
    g_assert_cmpstr(s->backing_format, ==, "raw");
    g_assert_cmpmem(secret, sizeof(secret), qcow2_extension(s, 0x11223344)->data,
                    qcow2_extension(s, 0x11223344)->len);
    g_assert_cmpuint(qcow2_extension(s, QCOW2_EXT_BITMAPS)->len, ==, 24);
    close_image(img);
    must_be_clean(m);
    mem_free(m);
}

static void a_name_that_does_not_fit_leaves_the_header_as_it_was(void)
{
    ImageCreate how = usual;
    g_autofree char *name = g_strnfill(600, 'n'), *longer = g_strnfill(1024, 'n');
    g_autofree uint8_t *before = NULL;
    g_autoptr(GError) error = NULL;
    BlockImage *img;
    MemFile *m;

    how.cluster_size = 512;
    how.size = MIB;
    m = new_image(&how);
    before = g_memdup2(m->bytes->data, 512);
    img = open_image(m, false, 0);
    g_assert_false(image_set_backing(img, name, "raw", &error));
    g_assert_nonnull(strstr(error->message, "backing file's name"));
    g_assert_null(qcow2_of(img)->backing);
    g_assert_cmpmem(before, 512, m->bytes->data, 512);
    close_image(img);
    mem_free(m);

    m = new_image(&usual);
    img = open_image(m, false, 0);
    g_assert_false(image_set_backing(img, longer, "raw", NULL));
    longer[1023] = 0;
    g_assert_true(image_set_backing(img, longer, "raw", NULL));
    close_image(img);
    close_image(open_image(m, true, IMAGE_NO_BACKING));
    mem_free(m);
}

static void a_data_file_is_opened_only_where_it_is_allowed(void)
{
    char *dir = new_dir();
    g_autofree char *path = g_build_filename(dir, "x.qcow2", NULL);
    BlockOptions options = {.path = path, .backing = BLOCK_BACKING_ON};
    ImageCreate how = usual;
    g_autoptr(GError) error = NULL;
    uint8_t buf[512] = {7};
    BlockImage *img;

    how.path = path;
    how.data_file = (char *)"x.data";
    how.data_file_raw = true;
    g_assert_true(image_create(&how, NULL));
    img = image_open(&options, 0, NULL);
    g_assert_nonnull(img);
    g_assert_cmpint(image_write(img, 0, buf, sizeof(buf)), ==, 0);
    g_assert_true(qcow2_format.flush_is_slow(img));
    close_image(img);
    options.backing = BLOCK_BACKING_OFF;
    g_assert_null(image_open(&options, 0, &error));
    g_assert_nonnull(strstr(error->message, "x.data"));
    g_clear_error(&error);
    /* The mark is this machine's: without it, auto is no. */
    options.backing = BLOCK_BACKING_AUTO;
    img = image_open(&options, 0, NULL);
    if (img)
        image_mark_backing(img->file, NULL);
    image_free(img);
    g_assert_null(image_open(&options, 0, &error));
    g_assert_nonnull(strstr(error->message, "data file"));
    g_assert_nonnull(strstr(error->message, "backing=on"));
    remove_dir(dir);
}

/* ---- making
 * ----------------------------------------------------------------------------
 */

static bool qemu_img(const char *dir, const char *what, char **out)
{
    g_autofree char *command = g_strdup_printf("qemu-img %s", what);
    g_auto(GStrv) argv = NULL;
    g_autofree char *text = NULL, *err = NULL;
    int status = -1;

    g_shell_parse_argv(command, NULL, &argv, NULL);
    if (!g_spawn_sync(dir, argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &text, &err,
                      &status, NULL))
        return false;
    if (status)
        g_test_message("%s: %s%s", command, text, err);
    if (out)
        *out = g_steal_pointer(&text);
    return status == 0;
}

static const char *const recipes[] = {
    "size=1G",
    "size=0",
    "size=512",
    "size=16T",
    "size=64T,cluster_size=2M",
    "size=1G,compat=0.10",
    "size=1G,cluster_size=512",
    "size=1G,cluster_size=2M",
    "size=1G,refcount_bits=1",
    "size=1G,refcount_bits=64,cluster_size=4K",
    "size=1G,lazy_refcounts=on",
    "size=1G,extended_l2=on",
    "size=1G,extended_l2=on,cluster_size=16K",
    "size=1G,compression_type=zstd",
    "size=1G,data_file=x.data",
    "size=64M,data_file=x.data,data_file_raw=on",
    "size=1G,preallocation=metadata",
    "size=33M,preallocation=metadata,cluster_size=512",
    "size=33M,preallocation=metadata,refcount_bits=2,cluster_size=1K",
    "size=100M,preallocation=metadata,extended_l2=on",
    "size=5M,preallocation=falloc",
    "size=5M,preallocation=full",
    "size=5M,preallocation=full,data_file=x.data",
    "size=1G,backing_file=base.raw",
    "backing_file=base.raw,backing_fmt=raw",
    "size=1M,backing_file=base.raw,extended_l2=on,preallocation=metadata",
};

static void compare_info(const char *dir, const char *path)
{
    static const char *const keys[] = {
        "virtual-size",    "cluster-size", "format",           "actual-size",
        "format-specific", "dirty-flag",   "backing-filename", "backing-filename-format",
        "snapshots"};
    const BlockOptions options = {.path = (char *)path,
                                  .readonly = true,
                                  .backing = BLOCK_BACKING_ON,
                                  .format = BLOCK_FORMAT_QCOW2};
    g_autofree char *text = NULL;
    GError *error = NULL;
    BlockImage *img = image_open(&options, 0, &error);
    json_t *ours, *theirs;

    g_assert_no_error(error);
    ours = image_info(img);
    g_assert_true(qemu_img(dir, "info --output=json x.qcow2", &text));
    theirs = json_loads(text, 0, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(keys); i++) {
        json_t *a = json_object_get(ours, keys[i]), *b = json_object_get(theirs, keys[i]);

        if ((a || b) && !json_equal(a, b))
            g_error("%s: ours %s, theirs %s", keys[i],
                    a ? json_dumps(a, JSON_ENCODE_ANY | JSON_SORT_KEYS) : "-",
                    b ? json_dumps(b, JSON_ENCODE_ANY | JSON_SORT_KEYS) : "-");
    }
    json_decref(ours);
    json_decref(theirs);
    image_free(img);
}

static void qemu_agrees_with_each_new_image(void)
{
    g_autofree char *program = g_find_program_in_path("qemu-img");
    char *dir;

    if (!program) {
        g_test_skip("there is no qemu-img");
        return;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(recipes); i++) {
        g_autofree char *path, *text, *base;
        ImageCreate *how = param_new(&image_create_params);
        GError *error = NULL;

        dir = new_dir();
        path = g_build_filename(dir, "x.qcow2", NULL);
        base = new_file(dir, "base.raw", 3 * MIB + 512);
        text = g_strdup_printf("%s,%s", path, recipes[i]);
        g_test_message("%s", recipes[i]);
        param_parse(&image_create_params, how, text, &error);
        g_assert_no_error(error);
        image_create(how, &error);
        g_assert_no_error(error);
        g_assert_true(qemu_img(dir, "check x.qcow2", NULL));
        compare_info(dir, path);
        if (strstr(recipes[i], "preallocation=metadata") && !strstr(recipes[i], "back"))
            g_assert_true(
                qemu_img(dir, "compare -f raw -F qcow2 base.raw x.qcow2", NULL));
        param_free(&image_create_params, how);
        remove_dir(dir);
    }
}

static void what_cannot_be_made_is_refused(void)
{
    static const struct {
        const char *options, *says;
    } cases[] = {
        {"size=1M,compat=0.10,refcount_bits=8", "compat=0.10"},
        {"size=1M,compat=0.10,compression_type=zstd", "compat=0.10"},
        {"size=1M,extended_l2=on,cluster_size=8K", "cluster_size"},
        {"size=1M,data_file_raw=on", "data_file"},
        {"size=1T,cluster_size=512", "cluster_size"},
        {"size=1M,backing_file=/dev/null,unsafe", "preallocation"},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        char *dir = new_dir();
        g_autofree char *path = g_build_filename(dir, "x.qcow2", NULL);
        ImageCreate *how = param_new(&image_create_params);
        g_autofree char *text = NULL;
        g_autoptr(GError) error = NULL;
        bool unsafe = g_str_has_suffix(cases[i].options, ",unsafe");

        text = g_strdup_printf("%s,%s", path, cases[i].options);
        if (unsafe)
            text[strlen(text) - strlen(",unsafe")] = 0;
        g_assert_true(param_parse(&image_create_params, how, text, NULL));
        how->unsafe_backing = unsafe;
        if (unsafe)
            how->preallocation = IMAGE_PREALLOC_FULL;
        g_assert_false(image_create(how, &error));
        g_assert_nonnull(strstr(error->message, cases[i].says));
        g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
        param_free(&image_create_params, how);
        remove_dir(dir);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add_func("/qcow2/" #name, name)
    TEST(each_bad_field_is_refused_by_its_name);
    TEST(a_file_cut_at_any_length_is_refused_or_read);
    TEST(an_unknown_feature_is_refused_by_its_name_in_the_file);
    TEST(what_is_unknown_in_the_header_outlives_its_rewriting);
    TEST(a_name_that_does_not_fit_leaves_the_header_as_it_was);
    TEST(a_data_file_is_opened_only_where_it_is_allowed);
    TEST(qemu_agrees_with_each_new_image);
    TEST(what_cannot_be_made_is_refused);
    return g_test_run();
}
