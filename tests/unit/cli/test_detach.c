/* What a detached monitor says to the one who waits. */
#include <string.h>
#include <unistd.h>

#include "src/cli/detach.h"

enum { MANY = 100 * 1000, PATIENCE_S = 30 };

/* Each of them is a guest's reset of its console; nobody reads. */
static void a_guest_that_boots_again_and_again_is_told_of_once(void)
{
    static const char boot[] = "{\"say\":\"boot\"}\n";
    char said[256] = "";
    Detach d = {.on = true};
    int ends[2];

    g_assert_cmpint(pipe(ends), ==, 0);
    d.report_fd = ends[1];
    alarm(PATIENCE_S);
    for (unsigned i = 0; i < MANY; i++)
        detach_event(&d, "X_HUTCH_USER_OUTPUT", NULL);
    alarm(0);
    g_assert_cmpint(read(ends[0], said, sizeof(said) - 1), ==, strlen(boot));
    g_assert_cmpstr(said, ==, boot);
    close(ends[0]);
    close(ends[1]);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name) g_test_add_func("/detach/" #name, name)
    ADD(a_guest_that_boots_again_and_again_is_told_of_once);
    return g_test_run();
}
