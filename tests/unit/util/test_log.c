/* Lines on stderr. */
#include "util/log.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

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

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add_func("/log/" #name, name)
    TEST(a_line_that_is_read_is_written_whole);
    TEST(a_line_that_nobody_reads_is_dropped_not_waited_for);
    return g_test_run();
}
