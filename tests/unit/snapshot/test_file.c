/* Snapshots' small files: only regular ones, of a size that can be. */
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snapshot/file.h"

static char *folder, *path;

static void begin(void)
{
    folder = g_dir_make_tmp("hutch-file-XXXXXX", NULL);
    path = g_build_filename(folder, "state", NULL);
}

static void end(void)
{
    unlink(path);
    g_assert_cmpint(rmdir(folder), ==, 0);
    g_free(path);
    g_free(folder);
}

static void check_refused(int code)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(snap_file_read(path, 5, &error));
    g_assert_error(error, VM_ERROR, code);
    g_assert_nonnull(strstr(error->message, path));
}

static void all_of_it_comes_with_a_zero_behind(void)
{
    static const char *const texts[] = {"", "hello"};

    begin();
    for (unsigned i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GBytes) bytes = NULL;
        gsize len;

        g_assert_true(g_file_set_contents(path, texts[i], -1, NULL));
        bytes = snap_file_read(path, 5, NULL);
        g_assert_nonnull(bytes);
        g_assert_cmpstr(g_bytes_get_data(bytes, &len), ==, texts[i]);
        g_assert_cmpuint(len, ==, strlen(texts[i]));
    }
    end();
}

static void what_is_no_file_of_that_size_is_refused_by_name(void)
{
    begin();
    check_refused(VM_ERROR_IO); /* it is not there */
    g_assert_true(g_file_set_contents(path, "hello!", -1, NULL));
    check_refused(VM_ERROR_CORRUPT);
    unlink(path);
    g_assert_cmpint(mkfifo(path, 0600), ==, 0); /* which nobody writes to */
    check_refused(VM_ERROR_CORRUPT);
    unlink(path);
    g_assert_cmpint(symlink("/proc/self/stat", path), ==, 0);
    check_refused(VM_ERROR_IO);
    end();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/snapshot_file/all_of_it_comes_with_a_zero_behind",
                    all_of_it_comes_with_a_zero_behind);
    g_test_add_func("/snapshot_file/what_is_no_file_of_that_size_is_refused_by_name",
                    what_is_no_file_of_that_size_is_refused_by_name);
    return g_test_run();
}
