/* Arrays of a switch's replies as tables for people; see src/cli/net.h. */
#include <stdio.h>
#include <string.h>

#include "src/cli/net.h"

enum { MAX_COLUMNS = 16, MAX_CELL = 200 };

/* Control characters of names that a guest chose stay off the terminal. */
static char *printable(char *text)
{
    GString *out = g_string_new(NULL);
    g_autofree char *valid = g_utf8_make_valid(text, -1);

    for (const char *p = valid; *p && out->len < MAX_CELL; p = g_utf8_next_char(p)) {
        gunichar c = g_utf8_get_char(p);

        g_string_append_unichar(out, g_unichar_isprint(c) ? c : '?');
    }
    g_free(text);
    return g_string_free(out, FALSE);
}

static char *join(const json_t *array)
{
    GString *out = g_string_new(NULL);
    json_t *item;
    size_t i;

    json_array_foreach(array, i, item)
    {
        g_autofree char *text = json_is_string(item) ? g_strdup(json_string_value(item))
                                                     : json_dumps(item, JSON_ENCODE_ANY);

        g_string_append_printf(out, "%s%s", i ? "," : "", text ? text : "");
    }
    if (!out->len)
        g_string_append_c(out, '-');
    return g_string_free(out, FALSE);
}

static char *text_of(const json_t *value)
{
    if (json_is_string(value) && *json_string_value(value))
        return g_strdup(json_string_value(value));
    if (json_is_integer(value))
        return g_strdup_printf("%" JSON_INTEGER_FORMAT, json_integer_value(value));
    if (json_is_real(value))
        return g_strdup_printf("%g", json_real_value(value));
    if (json_is_boolean(value))
        return g_strdup(json_is_true(value) ? "yes" : "no");
    if (json_is_array(value))
        return join(value);
    return g_strdup("-");
}

char *net_cell(const json_t *row, const char *key)
{
    const char *dot = strchr(key, '.');
    g_autofree char *first = dot ? g_strndup(key, (gsize)(dot - key)) : NULL;

    if (dot)
        return net_cell(json_object_get(row, first), dot + 1);
    return printable(text_of(json_object_get(row, key)));
}

static char *cell(const json_t *row, const NetColumn *c)
{
    return c->text ? printable(c->text(row)) : net_cell(row, c->key);
}

static int width_of(const char *text)
{
    return (int)g_utf8_strlen(text, -1);
}

static void print_cell(const char *text, int width, bool right, bool last)
{
    int pad = MAX(width - width_of(text), 0);

    if (right)
        printf("%*s%s", pad, "", text);
    else
        printf("%s%*s", text, last ? 0 : pad, "");
    fputs(last ? "\n" : "  ", stdout);
}

void net_print_rows(const json_t *rows, const NetColumn *columns)
{
    int width[MAX_COLUMNS];
    unsigned n = 0;
    json_t *row;
    size_t i;

    for (; columns[n].title; n++)
        width[n] = width_of(columns[n].title);
    g_assert(n <= MAX_COLUMNS);
    json_array_foreach(rows, i, row) for (unsigned c = 0; c < n; c++)
    {
        g_autofree char *text = cell(row, &columns[c]);

        width[c] = MAX(width[c], width_of(text));
    }
    for (unsigned c = 0; c < n; c++)
        print_cell(columns[c].title, width[c], columns[c].right, c + 1 == n);
    json_array_foreach(rows, i, row) for (unsigned c = 0; c < n; c++)
    {
        g_autofree char *text = cell(row, &columns[c]);

        print_cell(text, width[c], columns[c].right, c + 1 == n);
    }
}
