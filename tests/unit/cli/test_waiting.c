/* The line about waiting, where it is none: what is over soon says nothing, and costs
 * little. */
#include "src/cli/waiting.h"

#include <glib.h>

#include "util/ioloop.h"

enum { TURNS = 200 };

static void what_is_over_soon_says_nothing(void)
{
    if (g_test_subprocess()) {
        for (unsigned i = 0; i < TURNS; i++) {
            Waiting w;

            waiting_begin(&w, "a test waits", WAITING_EVERY_MS);
            waiting_end(&w);
        }
        return;
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_passed();
    g_test_trap_assert_stderr("");
}

static void what_takes_long_is_told_with_its_seconds(void)
{
    if (g_test_subprocess()) {
        int64_t end_ns = clock_ns() + (WAITING_LOG_AFTER_MS + 300) * 1000000ll;
        Waiting w;

        waiting_begin(&w, "a test waits", 10);
        while (clock_ns() < end_ns)
            g_usleep(10000);
        waiting_end(&w);
        return;
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_passed();
    g_test_trap_assert_stderr("hutch: a test waits, ? s\nhutch: a test waits, ? s\n*");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/waiting/what_is_over_soon_says_nothing",
                    what_is_over_soon_says_nothing);
    g_test_add_func("/waiting/what_takes_long_is_told_with_its_seconds",
                    what_takes_long_is_told_with_its_seconds);
    return g_test_run();
}
