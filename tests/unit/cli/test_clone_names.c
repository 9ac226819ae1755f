/* Names of clones by a pattern; src/cli/clone_names.c. */
#include <string.h>

#include "src/cli/clone.h"

static void a_pattern_becomes_names(void)
{
    static const char *const cases[][2] = {{"web-%d", "web-7"}, {"%03d", "007"},
                                           {"a%%d", "a%d"},     {"plain", "plain"},
                                           {"%d.%02d", "7.07"}, {"100%%", "100%"}};

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *name = clone_expand(cases[i][0], 7);

        g_assert_cmpstr(name, ==, cases[i][1]);
    }
}

static void what_is_no_number_is_refused(void)
{
    static const char *const bad[] = {"%s",  "%",    "a%5d", "%n%d",
                                      "%0d", "%00d", "%-d",  "%010d"};
    bool numbered;

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_false(clone_check_pattern("name", bad[i], &numbered, &error));
        g_assert_nonnull(strstr(error->message, bad[i]));
    }
    g_assert_true(clone_check_pattern("name", "a%%d", &numbered, NULL));
    g_assert_false(numbered);
    g_assert_true(clone_check_pattern("name", "a%02d", &numbered, NULL));
    g_assert_true(numbered);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define T(fn) g_test_add_func("/clone-names/" #fn, fn)
    T(a_pattern_becomes_names);
    T(what_is_no_number_is_refused);
    return g_test_run();
}
