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

/* Adds the kinds of a golden file's sections, each of which has to be understood to its
 * last field. */
static void look_at(const char *path, GHashTable *kinds)
{
    g_autoptr(GError) error = NULL;
    char *contents;
    gsize size;
    const char *section;
    json_t *all, *about;

    g_file_get_contents(path, &contents, &size, &error);
    g_assert_no_error(error);
    g_autoptr(GBytes) bytes = g_bytes_new_take(contents, size);
    g_autoptr(StateReader) r = state_reader_new(bytes, &error);
    g_assert_no_error(error);
    all = state_describe(r, state_all_tables());
    json_object_foreach(all, section, about)
    {
        if (!json_object_get(about, "fields"))
            g_error("%s: %s: %s", path, section, json_get_text(about, "error"));
        g_hash_table_add(kinds, g_strdup(json_get_text(about, "kind")));
    }
    json_decref(all);
}

/* Every version there ever was; and there is one of each kind. */
static void golden_files_are_understood(void)
{
    const char *folder = g_getenv("HUTCH_GOLDEN"), *name;
    g_autoptr(GDir) dir = folder ? g_dir_open(folder, 0, NULL) : NULL;
    g_autoptr(GHashTable)
        kinds = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

    if (!dir) {
        g_test_skip("HUTCH_GOLDEN is not set");
        return;
    }
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);

        if (g_str_has_suffix(name, ".state"))
            look_at(path, kinds);
    }
    for (const StateTable *const *t = state_all_tables(); *t; t++)
        if (!g_hash_table_contains(kinds, (*t)->name))
            g_error("no golden file has a section of the kind '%s'; add one to %s",
                    (*t)->name, folder);
}

/* With HUTCH_GOLDEN_MAKE, a folder: KIND-VERSION.state for kinds that have no other. */
static void make_golden(void)
{
    const char *folder = g_getenv("HUTCH_GOLDEN_MAKE");

    for (const StateTable *const *t = state_all_tables(); folder && *t; t++) {
        g_autofree char *path = g_strdup_printf("%s/%s-%u.state", folder, (*t)->name,
                                                (*t)->version);
        g_autofree void *s = g_malloc0((*t)->size);
        g_autoptr(GBytes) bytes = NULL;
        g_autoptr(GError) error = NULL;
        StateWriter *w = state_writer_new();

        state_put(w, "empty", *t, s);
        bytes = state_writer_end(w, &error);
        if (!bytes)
            g_test_message("%s: %s", (*t)->name, error->message);
        else
            g_file_set_contents(path, g_bytes_get_data(bytes, NULL),
                                g_bytes_get_size(bytes), NULL);
    }
    if (!folder)
        g_test_skip("HUTCH_GOLDEN_MAKE is not set");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/state-tables/tiles", no_field_of_any_table_is_forgotten);
    g_test_add_func("/state-tables/unique", kinds_are_unique);
    g_test_add_func("/state-tables/golden", golden_files_are_understood);
    g_test_add_func("/state-tables/make-golden", make_golden);
    return g_test_run();
}
