/* What holds for every table of every layer. */
#include <string.h>

#include "snapshot/state_tables.h"

/* A field that nobody saves cannot be merged. */
static void no_field_of_any_table_is_forgotten(void)
{
    unsigned n = 0;

    for (const StateTable *const *t = state_all_tables(); *t; t++, n++) {
        g_autoptr(GError) error = NULL;

        state_tiles(*t, &error);
        g_assert_no_error(error);
    }
    g_assert_cmpuint(n, >, 0);
}

static void kinds_are_unique(void)
{
    for (const StateTable *const *t = state_all_tables(); *t; t++)
        g_assert_true(state_find_table(state_all_tables(), (*t)->name) == *t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/state-tables/tiles", no_field_of_any_table_is_forgotten);
    g_test_add_func("/state-tables/unique", kinds_are_unique);
    return g_test_run();
}
