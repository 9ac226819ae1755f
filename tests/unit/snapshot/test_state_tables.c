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

/* Every golden file, of every version there ever was, is still understood to its last
 * field. */
static void golden_files_are_understood(void)
{
    const char *folder = g_getenv("HUTCH_GOLDEN"), *name;
    g_autoptr(GDir) dir = folder ? g_dir_open(folder, 0, NULL) : NULL;

    if (!dir) {
        g_test_skip("HUTCH_GOLDEN is not set");
        return;
    }
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);
        g_autoptr(GError) error = NULL;
        char *contents;
        gsize size;
        const char *section;
        json_t *all, *about;

        if (!g_str_has_suffix(name, ".state"))
            continue;
        g_file_get_contents(path, &contents, &size, &error);
        g_assert_no_error(error);
        g_autoptr(GBytes) bytes = g_bytes_new_take(contents, size);
        g_autoptr(StateReader) r = state_reader_new(bytes, &error);
        g_assert_no_error(error);
        all = state_describe(r, state_all_tables());
        json_object_foreach(all, section, about) if (!json_object_get(about, "fields"))
            g_error("%s: %s: %s", name, section, json_get_text(about, "error"));
        json_decref(all);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/state-tables/tiles", no_field_of_any_table_is_forgotten);
    g_test_add_func("/state-tables/unique", kinds_are_unique);
    g_test_add_func("/state-tables/golden", golden_files_are_understood);
    return g_test_run();
}
