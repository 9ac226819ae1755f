/* A saved state with one field changed, for tests of what a hostile or a foreign one
 * does.  Fields are found by the tables, so no test needs to know the structs. */
#pragma once

#include <string.h>

#include "snapshot/state_tables.h"

static inline const StateField *edit_field(const StateTable *t, const char *name)
{
    const StateField *f = t->fields;

    while (f->name && strcmp(f->name, name) != 0)
        f++;
    g_assert_nonnull(f->name);
    return f;
}

/* `path` is a field, or that of an array's element: "queue.size".  Integers only. */
static inline void edit_struct(const StateTable *t, void *s, const char *path,
                               unsigned index, uint64_t value)
{
    g_auto(GStrv) part = g_strsplit(path, ".", 2);
    const StateField *f = edit_field(t, part[0]);
    uint8_t *at = (uint8_t *)s + f->offset +
                  index * (part[1] || f->count > 1 ? f->size : 0);

    g_assert_cmpuint(index, <, MAX(f->count, 1));
    if (part[1])
        edit_struct(f->of, at, part[1], 0, value);
    else
        memcpy(at, &value, MIN(f->size, sizeof(value)));
}

/* The state with element `index` of `path` in `section` set; NULL: no writer takes it. */
static inline GBytes *edit_state(GBytes *state, const char *section, const char *path,
                                 unsigned index, uint64_t value)
{
    GError *error = NULL;
    g_autoptr(StateReader) r = state_reader_new(state, &error);
    StateWriter *w = state_writer_new();
    json_t *all, *one;
    const char *name;

    g_assert_no_error(error);
    all = state_describe(r, state_all_tables());
    json_object_foreach(all, name, one)
    {
        const StateTable *t = state_find_table(
            state_all_tables(), json_string_value(json_object_get(one, "kind")));
        g_autofree void *s = g_malloc0(t->size);

        state_get(r, name, t, s, &error);
        g_assert_no_error(error);
        if (g_str_equal(name, section))
            edit_struct(t, s, path, index, value);
        state_put(w, name, t, s);
        state_clear(t, s);
    }
    json_decref(all);
    return state_writer_end(w, NULL);
}
