/* Lines on stderr. */
#include "util/log.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/logfile.h"

enum { HANGS_S = 20 };

/* Logs to a pipe, which is full or not, and returns the last line that is in it. */
static char *logged(bool full)
{
    static char text[1 << 20];
    int ends[2], err = dup(STDERR_FILENO);
    ssize_t n;

    g_assert_cmpint(pipe2(ends, O_CLOEXEC | O_NONBLOCK), ==, 0);
    while (full && write(ends[1], "full\n", 5) == 5)
        ;
    fcntl(ends[1], F_SETFL, 0); /* as stderr is */
    dup2(ends[1], STDERR_FILENO);
    alarm(HANGS_S);
    log_warn("a line");
    alarm(0);
    dup2(err, STDERR_FILENO);
    n = read(ends[0], text, sizeof(text) - 1);
    text[MAX(n, 0)] = 0;
    for (int i = 0; i < 2; i++)
        close(ends[i]);
    close(err);
    return text;
}

static void a_line_that_is_read_is_written_whole(void)
{
    g_assert_cmpstr(logged(false), ==, "hutch: warning: a line\n");
}

static void a_line_that_nobody_reads_is_dropped_not_waited_for(void)
{
    g_assert_null(strstr(logged(true), "a line"));
}

/* As systemd sets it: the device and inode of what stderr is. */
static void the_journal_gets_priorities_and_only_the_journal(void)
{
    int ends[2], err = dup(STDERR_FILENO);
    g_autofree char *stream = NULL;
    char text[128] = "";
    struct stat st;

    g_assert_cmpint(pipe(ends), ==, 0);
    dup2(ends[1], STDERR_FILENO);
    g_assert_cmpint(fstat(STDERR_FILENO, &st), ==, 0);
    stream = g_strdup_printf("%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
    g_setenv("JOURNAL_STREAM", stream, TRUE);
    log_error("one");
    log_info("two");
    g_setenv("JOURNAL_STREAM", "1:2", TRUE);
    log_info("three");
    g_unsetenv("JOURNAL_STREAM");
    dup2(err, STDERR_FILENO);
    g_assert_cmpint(read(ends[0], text, sizeof(text) - 1), >, 0);
    for (int i = 0; i < 2; i++)
        close(ends[i]);
    close(err);
    g_assert_cmpstr(text, ==, "<3>hutch: error: one\n<6>hutch: two\nhutch: three\n");
}

static void a_log_file_gets_the_lines_and_never_more_than_it_holds(void)
{
    g_autofree char *folder = g_dir_make_tmp("hutch-log-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(folder, "log", NULL);
    g_autofree char *older = g_build_filename(folder, "log.1", NULL);
    g_autofree char *text = g_strnfill(1000, 'x');
    struct stat st;
    LogFile file;

    g_assert_true(logfile_open(&file, path, NULL));
    log_set_file(&file);
    for (unsigned i = 0; i < 2500; i++)
        log_info("%s", text);
    log_set_file(NULL);
    logfile_close(&file);
    g_assert_cmpint(stat(older, &st), ==, 0);
    g_assert_cmpuint(st.st_size, ==, LOGFILE_MAX);
    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpuint(st.st_size, <, LOGFILE_MAX);
    g_assert_cmpuint(st.st_mode & 0777, ==, 0600);
    g_unlink(path);
    g_unlink(older);
    g_rmdir(folder);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add_func("/log/" #name, name)
    TEST(a_line_that_is_read_is_written_whole);
    TEST(the_journal_gets_priorities_and_only_the_journal);
    TEST(a_log_file_gets_the_lines_and_never_more_than_it_holds);
    TEST(a_line_that_nobody_reads_is_dropped_not_waited_for);
    return g_test_run();
}
