/* Temporary folders of hutch test: of a dead process nothing stays, of a living one all.
 */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/cli/test.h"

static char *base; /* TMPDIR */

static unsigned count_entries(void)
{
    g_autoptr(GDir) dir = g_dir_open(base, 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(dir))
        n++;
    return n;
}

static TestFolder folder_with_files(void)
{
    TestFolder f;
    g_autofree char *deep = NULL, *file = NULL;

    g_assert_true(test_folder_make(&f, NULL));
    deep = g_build_filename(f.path, "a", "b", NULL);
    file = g_build_filename(deep, "file", NULL);
    g_assert_cmpint(g_mkdir_with_parents(deep, 0700), ==, 0);
    g_assert_true(g_file_set_contents(file, "x", 1, NULL));
    return f;
}

static void a_folder_is_private_and_goes_with_all_that_is_in_it(void)
{
    TestFolder f = folder_with_files();
    g_autofree char *vm = g_strdup(f.vm);
    struct stat st;

    g_assert_cmpint(stat(f.path, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 07777, ==, 0700);
    g_assert_true(g_str_has_prefix(vm, "test-"));
    g_assert_cmpuint(strlen(vm), ==, strlen("test-XXXXXX"));
    test_folder_remove(&f);
    test_folder_remove(&f);
    g_assert_cmpuint(count_entries(), ==, 0);
}

static void a_sweep_spares_what_somebody_needs(void)
{
    TestFolder f = folder_with_files();

    test_folder_sweep();
    g_assert_cmpuint(count_entries(), ==, 1);
    test_folder_remove(&f);
}

static void a_sweep_removes_what_a_killed_process_left(void)
{
    pid_t child = fork();
    int status;

    if (child == 0) {
        folder_with_files();
        _exit(0);
    }
    g_assert_cmpint(waitpid(child, &status, 0), ==, child);
    g_assert_cmpint(status, ==, 0);
    g_assert_cmpuint(count_entries(), ==, 1);
    test_folder_sweep();
    g_assert_cmpuint(count_entries(), ==, 0);
}

/* As the keeper has it: the lock is the open file's. */
static void a_folder_lives_as_long_as_a_child_that_inherited_it(void)
{
    TestFolder f = folder_with_files();
    int pipe_fd[2], status;
    pid_t child;

    g_assert_cmpint(pipe(pipe_fd), ==, 0);
    child = fork();
    if (child == 0) {
        char byte;

        close(pipe_fd[1]);
        _exit(read(pipe_fd[0], &byte, 1) == 0 ? 0 : 1);
    }
    test_folder_let_go(&f);
    test_folder_sweep();
    g_assert_cmpuint(count_entries(), ==, 1);
    close(pipe_fd[0]);
    close(pipe_fd[1]);
    g_assert_cmpint(waitpid(child, &status, 0), ==, child);
    test_folder_sweep();
    g_assert_cmpuint(count_entries(), ==, 0);
}

static void what_is_left_for_the_user_stays(void)
{
    TestFolder f = folder_with_files();
    g_autofree char *path = g_strdup(f.path);
    TestFolder again = {.vm = g_strdup("test-none"), .lock_fd = -1};

    test_folder_leave(&f);
    test_folder_sweep();
    g_assert_cmpuint(count_entries(), ==, 1);
    again.path = g_steal_pointer(&path);
    test_folder_remove(&again);
    g_assert_cmpuint(count_entries(), ==, 0);
}

/* Who can write to /var/tmp can put a link there. */
static void a_sweep_follows_no_links(void)
{
    g_autofree char *victim = g_build_filename(base, "victim", NULL);
    g_autofree char *file = g_build_filename(victim, "lock", NULL);
    g_autofree char *link = g_build_filename(base, "hutch-test-abcdef", NULL);

    g_assert_cmpint(g_mkdir(victim, 0700), ==, 0);
    g_assert_true(g_file_set_contents(file, "x", 1, NULL));
    g_assert_cmpint(symlink(victim, link), ==, 0);
    test_folder_sweep();
    g_assert_true(g_file_test(file, G_FILE_TEST_EXISTS));
    unlink(link);

    /* Inside of a folder of ours, a link is removed, and not what it leads to. */
    g_assert_cmpint(g_mkdir(link, 0700), ==, 0);
    {
        g_autofree char *lock = g_build_filename(link, "lock", NULL);
        g_autofree char *inner = g_build_filename(link, "inner", NULL);

        g_assert_true(g_file_set_contents(lock, "", 0, NULL));
        g_assert_cmpint(symlink(victim, inner), ==, 0);
    }
    test_folder_sweep();
    g_assert_false(g_file_test(link, G_FILE_TEST_EXISTS));
    g_assert_true(g_file_test(file, G_FILE_TEST_EXISTS));
    g_remove(file);
    g_rmdir(victim);
    g_assert_cmpuint(count_entries(), ==, 0);
}

static void without_a_runtime_folder_there_is_one_in_it(void)
{
    g_autofree char *before = g_strdup(g_getenv("XDG_RUNTIME_DIR"));
    TestFolder f;

    g_setenv("XDG_RUNTIME_DIR", "/proc/no-such-folder", TRUE);
    g_assert_true(test_folder_make(&f, NULL));
    g_assert_true(g_str_has_prefix(g_getenv("XDG_RUNTIME_DIR"), f.path));
    g_setenv("XDG_RUNTIME_DIR", before, TRUE);
    test_folder_remove(&f);
    g_assert_cmpuint(count_entries(), ==, 0);
}

int main(int argc, char **argv)
{
    g_autofree char *runtime = NULL;
    int status;

    g_test_init(&argc, &argv, NULL);
    base = g_dir_make_tmp("hutch-folder-XXXXXX", NULL);
    runtime = g_dir_make_tmp("hutch-runtime-XXXXXX", NULL);
    g_setenv("TMPDIR", base, TRUE);
    g_setenv("XDG_RUNTIME_DIR", runtime, TRUE);
    g_test_add_func("/folder/goes", a_folder_is_private_and_goes_with_all_that_is_in_it);
    g_test_add_func("/folder/spared", a_sweep_spares_what_somebody_needs);
    g_test_add_func("/folder/killed", a_sweep_removes_what_a_killed_process_left);
    g_test_add_func("/folder/inherited",
                    a_folder_lives_as_long_as_a_child_that_inherited_it);
    g_test_add_func("/folder/left", what_is_left_for_the_user_stays);
    g_test_add_func("/folder/links", a_sweep_follows_no_links);
    g_test_add_func("/folder/runtime", without_a_runtime_folder_there_is_one_in_it);
    status = g_test_run();
    g_rmdir(base);
    g_rmdir(runtime);
    g_free(base);
    return status;
}
