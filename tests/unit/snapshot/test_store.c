/* Names of snapshots, folders that are complete or not there, and use. */
#include "tests/unit/snapshot/folder.h"

static char *in;

static void begin(void)
{
    in = g_dir_make_tmp("hutch-store-XXXXXX", NULL);
    g_setenv("HUTCH_SNAPSHOTS", in, TRUE);
}

static void end(void)
{
    folder_remove(in);
    g_clear_pointer(&in, g_free);
}

static void names_that_could_be_paths_are_refused(void)
{
    static const char *const bad[] = {"",   ".",    "..",       ".x",
                                      "-x", "a\nb", "a\033[2J", "\xff"};
    g_autofree char *long_name = g_strnfill(STORE_MAX_NAME + 1, 'x');

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++)
        g_assert_null(store_path(STORE_SNAPSHOTS, bad[i], NULL));
    g_assert_null(store_path(STORE_SNAPSHOTS, long_name, NULL));
}

static void a_name_is_in_the_store_and_a_path_is_one(void)
{
    g_autofree char *by_name = NULL, *by_path = NULL, *whole = NULL, *wanted = NULL;

    begin();
    wanted = g_build_filename(in, "a b.snap", NULL);
    by_name = store_path(STORE_SNAPSHOTS, "a b", NULL);
    by_path = store_path(STORE_SNAPSHOTS, "./x", NULL);
    whole = store_path(STORE_SNAPSHOTS, "/srv/x.snap/", NULL);
    g_assert_cmpstr(by_name, ==, wanted);
    g_assert_cmpstr(by_path, ==, "./x.snap");
    g_assert_cmpstr(whole, ==, "/srv/x.snap");
    end();
}

static void what_is_not_there_is_told_with_what_is_near(void)
{
    g_autoptr(GError) error = NULL, empty = NULL;
    g_autofree char *folder = NULL, *found = NULL, *bare = NULL;
    g_auto(GStrv) names = NULL;

    begin();
    folder = folder_make(in, "before", NULL, 1);
    bare = g_build_filename(in, "bare.snap", NULL);
    g_assert_cmpint(mkdir(bare, 0700), ==, 0);
    g_assert_null(store_find(STORE_SNAPSHOTS, "befroe", &error));
    g_assert_cmpint(error->code, ==, VM_ERROR_NOT_FOUND);
    g_assert_nonnull(strstr(error->message, "did you mean 'before'"));
    g_assert_null(store_find(STORE_SNAPSHOTS, "bare", &empty));
    g_assert_nonnull(strstr(empty->message, "manifest.json"));
    found = store_find(STORE_SNAPSHOTS, "before", NULL);
    g_assert_cmpstr(found, ==, folder);
    names = store_list(STORE_SNAPSHOTS, NULL);
    g_assert_cmpuint(g_strv_length(names), ==, 1);
    g_assert_cmpstr(names[0], ==, "before");
    end();
}

static void a_store_that_is_not_there_is_empty(void)
{
    g_auto(GStrv) names = NULL;

    g_setenv("HUTCH_SNAPSHOTS", "/nonexistent/of/hutch", TRUE);
    names = store_list(STORE_SNAPSHOTS, NULL);
    g_assert_nonnull(names);
    g_assert_null(names[0]);
}

static void a_folder_has_its_name_when_it_is_complete(void)
{
    g_autofree char *folder = NULL, *partial = NULL, *late = NULL, *file = NULL;
    g_autoptr(GError) error = NULL;

    begin();
    folder = g_build_filename(in, "new", "x.snap", NULL);
    partial = store_begin(folder, &error);
    late = store_begin(folder, &error);
    g_assert_no_error(error);
    folder_put(partial, "state", "1");
    g_assert_false(g_file_test(folder, G_FILE_TEST_EXISTS));
    store_commit(partial, folder, &error);
    g_assert_no_error(error);
    file = folder_file(folder, "state");
    g_assert_true(g_file_test(file, G_FILE_TEST_EXISTS));
    g_assert_null(store_begin(folder, &error));
    g_assert_cmpint(error->code, ==, VM_ERROR_BUSY);
    g_clear_error(&error);
    g_assert_false(store_commit(late, folder, &error));
    g_assert_cmpint(error->code, ==, VM_ERROR_BUSY);
    folder_put(late, "other", "2");
    g_clear_error(&error);
    store_replace(late, folder, &error);
    g_assert_no_error(error);
    g_assert_false(g_file_test(file, G_FILE_TEST_EXISTS));
    g_assert_false(g_file_test(late, G_FILE_TEST_EXISTS));
    end();
}

static void removing_a_folder_follows_no_link(void)
{
    g_autofree char *folder = NULL, *disks = NULL, *link = NULL, *outside = NULL;
    g_autofree char *file = NULL;
    g_autoptr(GError) error = NULL;

    begin();
    folder = folder_make(in, "one", NULL, 1);
    disks = folder_file(folder, "disks");
    outside = folder_file(in, "outside");
    file = folder_file(outside, "precious");
    link = folder_file(disks, "link");
    g_assert_cmpint(mkdir(disks, 0700) | mkdir(outside, 0700), ==, 0);
    folder_put(outside, "precious", "x");
    folder_put(disks, "disk0.raw", "x");
    g_assert_cmpint(symlink(outside, link), ==, 0);
    store_remove(folder, &error);
    g_assert_no_error(error);
    g_assert_false(g_file_test(folder, G_FILE_TEST_EXISTS));
    g_assert_true(g_file_test(file, G_FILE_TEST_EXISTS));
    end();
}

static void what_is_held_cannot_be_seized(void)
{
    g_autofree char *folder = NULL;
    g_autoptr(GError) error = NULL;
    int a, b, mine;

    begin();
    folder = folder_make(in, "one", NULL, 1);
    g_assert_false(store_in_use(folder));
    a = store_hold(folder, &error);
    b = store_hold(folder, &error);
    g_assert_no_error(error);
    g_assert_true(store_in_use(folder));
    close(a);
    g_assert_true(store_in_use(folder));
    g_assert_cmpint(store_seize(folder, &error), ==, -1);
    g_assert_cmpint(error->code, ==, VM_ERROR_BUSY);
    g_clear_error(&error);
    close(b);
    g_assert_false(store_in_use(folder));
    mine = store_seize(folder, &error);
    g_assert_no_error(error);
    g_assert_cmpint(store_hold(folder, &error), ==, -1);
    g_assert_cmpint(error->code, ==, VM_ERROR_BUSY);
    close(mine);
    end();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name) g_test_add_func("/store/" #name, name)
    ADD(names_that_could_be_paths_are_refused);
    ADD(a_name_is_in_the_store_and_a_path_is_one);
    ADD(what_is_not_there_is_told_with_what_is_near);
    ADD(a_store_that_is_not_there_is_empty);
    ADD(a_folder_has_its_name_when_it_is_complete);
    ADD(removing_a_folder_follows_no_link);
    ADD(what_is_held_cannot_be_seized);
    return g_test_run();
}
