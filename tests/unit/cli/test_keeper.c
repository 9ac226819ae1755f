/* The keeper of hutch test's monitor.  The monitor is this program, called as hutch is:
 * what it does stands in the file that --config names. */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/cli/test.h"

enum { LIMIT_MS = 20000 };

/* ---- the monitor ------------------------------------------------------------------ */

static int be_monitor(const char *config)
{
    g_autofree char *what = NULL;

    g_assert_true(g_file_get_contents(config, &what, NULL, NULL));
    if (g_str_equal(what, "flood"))
        for (unsigned i = 0; i < 50000; i++)
            printf("line %u\n", i);
    if (g_str_equal(what, "flood") || g_str_equal(what, "panic")) {
        puts("last words");
        fflush(stdout);
        fputs("hutch: a warning\n{\"reason\":\"panic\",\"detail\":\"it panicked\"}\n",
              stderr);
        return 127;
    }
    if (g_str_equal(what, "sentence")) {
        fputs("hutch: error: there is no such thing\n", stderr);
        return 125;
    }
    if (g_str_equal(what, "killed"))
        raise(SIGKILL);
    if (g_str_equal(what, "stubborn"))
        signal(SIGTERM, SIG_IGN);
    for (;;)
        pause();
}

/* ---- the tests -------------------------------------------------------------------- */

typedef struct Cell {
    TestFolder folder;
    char *path; /* of the folder */
    TestVm *vm;
} Cell;

static Cell start(const char *what)
{
    Cell c;
    g_autofree char *config = NULL;

    g_assert_true(test_folder_make(&c.folder, NULL));
    config = g_build_filename(c.folder.path, "config", NULL);
    g_assert_true(g_file_set_contents(config, what, -1, NULL));
    c.path = g_strdup(c.folder.path);
    c.vm = test_vm_start(&c.folder, config, NULL);
    g_assert_nonnull(c.vm);
    return c;
}

static bool is_there(const Cell *c)
{
    return g_file_test(c->path, G_FILE_TEST_EXISTS);
}

static void finish(Cell *c, bool keep)
{
    test_vm_end(c->vm, keep);
    test_folder_let_go(&c->folder);
}

static void ends_as(const char *what, TestVerdict verdict, int status, const char *detail)
{
    TestResult r = {0};
    Cell c = start(what);

    g_assert_true(test_vm_wait(c.vm, LIMIT_MS));
    test_vm_verdict(c.vm, &r);
    g_assert_cmpint(r.verdict, ==, verdict);
    g_assert_cmpint(r.status, ==, status);
    g_assert_nonnull(strstr(r.detail, detail));
    test_result_clear(&r);
    finish(&c, false);
    g_assert_false(is_there(&c));
    g_free(c.path);
}

static void the_monitors_end_is_told_by_its_result_or_its_last_sentence(void)
{
    ends_as("panic", TEST_PANIC, 127, "it panicked");
    ends_as("sentence", TEST_ERROR, 125, "there is no such thing");
    ends_as("killed", TEST_ERROR, 125, "signal 9");
}

static void of_a_flood_the_end_is_kept(void)
{
    Cell c = start("flood");
    g_autofree char *console = NULL;

    g_assert_true(test_vm_wait(c.vm, LIMIT_MS));
    console = test_vm_console(c.vm);
    g_assert_true(g_str_has_suffix(console, "line 49999\nlast words\n"));
    g_assert_cmpuint(strlen(console), <, 1000);
    finish(&c, false);
    g_free(c.path);
}

static void a_monitor_that_runs_is_ended_and_its_folder_removed(void)
{
    Cell c = start("wait");

    g_assert_false(test_vm_wait(c.vm, 50));
    finish(&c, false);
    g_assert_false(is_there(&c));
    g_free(c.path);
}

static void a_monitor_that_does_not_obey_is_killed(void)
{
    Cell c = start("stubborn");

    g_assert_false(test_vm_wait(c.vm, 200));
    finish(&c, false);
    g_assert_false(is_there(&c));
    g_free(c.path);
}

static void a_monitor_may_be_stopped_with_its_folder_left_for_a_while(void)
{
    Cell c = start("wait");

    test_vm_stop(c.vm);
    g_assert_true(test_vm_wait(c.vm, 0));
    g_assert_true(is_there(&c));
    finish(&c, false);
    g_assert_false(is_there(&c));
    g_free(c.path);
}

static void the_folder_of_a_dead_monitor_can_be_kept(void)
{
    Cell c = start("panic");
    TestFolder again = {.lock_fd = -1};

    g_assert_true(test_vm_wait(c.vm, LIMIT_MS));
    finish(&c, true);
    test_folder_sweep();
    g_assert_true(is_there(&c));
    again.path = c.path;
    again.vm = g_strdup("test-none");
    test_folder_remove(&again);
}

/* Whoever holds the leash dies without a word. */
static void a_killed_process_takes_its_monitor_and_folder_along(void)
{
    int pipe_fd[2], status;
    char path[256] = "";
    pid_t child;

    g_assert_cmpint(pipe(pipe_fd), ==, 0);
    child = fork();
    if (child == 0) {
        Cell c = start("wait");

        g_assert_cmpint(write(pipe_fd[1], c.path, strlen(c.path)), >, 0);
        for (;;)
            pause();
    }
    g_assert_cmpint(read(pipe_fd[0], path, sizeof(path) - 1), >, 0);
    kill(child, SIGKILL);
    g_assert_cmpint(waitpid(child, &status, 0), ==, child);
    for (unsigned i = 0; i < LIMIT_MS && g_file_test(path, G_FILE_TEST_EXISTS); i++)
        g_usleep(1000);
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    close(pipe_fd[0]);
    close(pipe_fd[1]);
}

int main(int argc, char **argv)
{
    g_autofree char *base = NULL, *runtime = NULL;
    int status;

    if (argc == 4 && g_str_equal(argv[1], "run"))
        return be_monitor(argv[3]);
    g_test_init(&argc, &argv, NULL);
    base = g_dir_make_tmp("hutch-keeper-XXXXXX", NULL);
    runtime = g_dir_make_tmp("hutch-runtime-XXXXXX", NULL);
    g_setenv("TMPDIR", base, TRUE);
    g_setenv("XDG_RUNTIME_DIR", runtime, TRUE);
    g_test_add_func("/keeper/ends",
                    the_monitors_end_is_told_by_its_result_or_its_last_sentence);
    g_test_add_func("/keeper/flood", of_a_flood_the_end_is_kept);
    g_test_add_func("/keeper/ended", a_monitor_that_runs_is_ended_and_its_folder_removed);
    g_test_add_func("/keeper/stubborn", a_monitor_that_does_not_obey_is_killed);
    g_test_add_func("/keeper/stopped",
                    a_monitor_may_be_stopped_with_its_folder_left_for_a_while);
    g_test_add_func("/keeper/kept", the_folder_of_a_dead_monitor_can_be_kept);
    g_test_add_func("/keeper/killed",
                    a_killed_process_takes_its_monitor_and_folder_along);
    status = g_test_run();
    g_assert_cmpint(g_rmdir(base), ==, 0); /* nothing is left */
    g_rmdir(runtime);
    return status;
}
