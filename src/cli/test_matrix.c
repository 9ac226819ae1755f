/* The cells of a test: from the options alone, or every combination of the lists in a
 * matrix file,
 *
 *     {"image": ["debian", "fedora"], "cpus": [1, 4], "memory": "1G",
 *      "exclude": [{"image": "fedora", "cpus": 1}],
 *      "include": [{"image": "debian", "kernel": "bzImage"}]}
 *
 * A value is a string or a whole number, and means what the option of that name does.
 * Relative paths count from the file's folder. */
#include <string.h>
#include <sys/stat.h>

#include "src/cli/test.h"
#include "util/bits.h"

enum { MAX_FILE = MIB };

const char *const test_keys[] = {"image", "kernel", "initrd", "cmdline",
                                 "cpus",  "memory", NULL};

void test_cell_free(TestCell *c)
{
    if (!c)
        return;
    for (unsigned k = 0; k < TEST_KEYS; k++)
        g_free(c->value[k]);
    g_free(c->name);
    config_free(c->config);
    test_result_clear(&c->result);
    g_free(c);
}

TestCell *test_cell_new(const TestOptions *options)
{
    TestCell *c = g_new0(TestCell, 1);

    for (unsigned k = 0; k < TEST_KEYS; k++)
        c->value[k] = g_strdup(options->value[k]);
    c->name = g_path_get_basename(c->value[TEST_IMAGE]    ? c->value[TEST_IMAGE]
                                  : c->value[TEST_KERNEL] ? c->value[TEST_KERNEL]
                                                          : "test");
    return c;
}

/* ---- values as the file has them -------------------------------------------------- */

/* What one combination says of each key, NULL for nothing; owned by nobody but the JSON
 * values themselves. */
typedef struct Choice {
    json_t *value[TEST_KEYS];
    bool named[TEST_KEYS]; /* the cell is told from others by it */
} Choice;

static int find_key(const char *name)
{
    for (int k = 0; k < TEST_KEYS; k++)
        if (g_str_equal(test_keys[k], name))
            return k;
    return -1;
}

static bool fail_key(const char *name, const char *more, GError **error)
{
    g_autofree char *all = g_strjoinv(", ", (char **)test_keys);

    return fail(error, VM_ERROR_INVALID, "unknown key '%s'; there are: %s%s", name, all,
                more);
}

static char *text_of(const json_t *value)
{
    if (json_is_integer(value))
        return g_strdup_printf("%" JSON_INTEGER_FORMAT, json_integer_value(value));
    return g_strdup(json_string_value(value));
}

static bool check_value(const char *key, const json_t *value, GError **error)
{
    return json_is_integer(value) ||
           (json_is_string(value) && *json_string_value(value)) ||
           fail(error, VM_ERROR_INVALID, "%s: a string or a whole number is wanted", key);
}

/* One object of "include" or "exclude". */
static bool read_choice(json_t *object, Choice *ret, GError **error)
{
    const char *name;
    json_t *value;

    *ret = (Choice){0};
    if (!json_is_object(object) || !json_object_size(object))
        return fail(error, VM_ERROR_INVALID, "an object with a key in it is wanted");
    json_object_foreach(object, name, value)
    {
        int k = find_key(name);

        if (k < 0)
            return fail_key(name, "", error);
        if (!check_value(name, value, error))
            return false;
        ret->value[k] = value;
        ret->named[k] = true;
    }
    return true;
}

static bool same_text(const json_t *a, const json_t *b)
{
    g_autofree char *one = text_of(a);
    g_autofree char *other = text_of(b);

    return !g_strcmp0(one, other);
}

/* All that `pattern` names is so in `choice`. */
static bool matches(const Choice *choice, const Choice *pattern)
{
    for (unsigned k = 0; k < TEST_KEYS; k++)
        if (pattern->value[k] &&
            (!choice->value[k] || !same_text(choice->value[k], pattern->value[k])))
            return false;
    return true;
}

/* ---- combinations ----------------------------------------------------------------- */

typedef struct Axes {
    json_t *list[TEST_KEYS]; /* arrays, borrowed; NULL: not in the file */
    size_t len[TEST_KEYS];   /* 1 where there is none */
    size_t product;
} Axes;

static bool read_axis(Axes *axes, int k, json_t *list, GError **error)
{
    json_t *value;
    size_t i;

    axes->list[k] = list;
    axes->len[k] = json_is_array(list) ? json_array_size(list) : 1;
    if (!axes->len[k])
        return fail(error, VM_ERROR_INVALID, "%s: the list is empty", test_keys[k]);
    axes->product = axes->len[k] > TEST_MAX_CELLS
                        ? TEST_MAX_CELLS + 1
                        : MIN(axes->product * axes->len[k], TEST_MAX_CELLS + 1);
    if (!json_is_array(list))
        return check_value(test_keys[k], list, error);
    json_array_foreach(list, i, value)
    {
        if (!check_value(test_keys[k], value, error))
            return false;
    }
    return true;
}

static bool read_axes(Axes *axes, json_t *json, GError **error)
{
    const char *name;
    json_t *value;

    *axes = (Axes){.product = 1};
    for (unsigned k = 0; k < TEST_KEYS; k++)
        axes->len[k] = 1;
    json_object_foreach(json, name, value)
    {
        int k = find_key(name);

        if (g_str_equal(name, "include") || g_str_equal(name, "exclude"))
            continue;
        if (k < 0)
            return fail_key(name, ", include, exclude", error);
        if (!read_axis(axes, k, value, error))
            return false;
    }
    return true;
}

/* The n-th combination; the last key changes fastest. */
static Choice combination(const Axes *axes, size_t n)
{
    Choice c = {0};

    for (int k = TEST_KEYS - 1; k >= 0; k--) {
        c.value[k] = json_is_array(axes->list[k])
                         ? json_array_get(axes->list[k], n % axes->len[k])
                         : axes->list[k];
        c.named[k] = axes->len[k] > 1;
        n /= axes->len[k];
    }
    return c;
}

static bool has_axes(const Axes *axes)
{
    for (unsigned k = 0; k < TEST_KEYS; k++)
        if (axes->list[k])
            return true;
    return false;
}

static bool add_product(GArray *choices, json_t *json, GError **error)
{
    Axes axes;

    if (!read_axes(&axes, json, error))
        return false;
    if (axes.product > TEST_MAX_CELLS)
        return fail(error, VM_ERROR_INVALID, "there are more than %d combinations",
                    TEST_MAX_CELLS);
    for (size_t n = 0; has_axes(&axes) && n < axes.product; n++) {
        Choice c = combination(&axes, n);

        g_array_append_val(choices, c);
    }
    return true;
}

static bool take_away(GArray *choices, const Choice *pattern, GError **error)
{
    unsigned before = choices->len;

    for (unsigned i = choices->len; i-- > 0;)
        if (matches(&g_array_index(choices, Choice, i), pattern))
            g_array_remove_index(choices, i);
    return choices->len < before ||
           fail(error, VM_ERROR_INVALID, "no combination is like it");
}

/* "exclude" and "include"; one object may stand without the array. */
static bool adjust(GArray *choices, json_t *json, const char *what, GError **error)
{
    json_t *list = json_object_get(json, what);
    size_t n = json_is_array(list) ? json_array_size(list) : list ? 1 : 0;

    for (size_t i = 0; i < n; i++) {
        Choice c;

        if (!read_choice(json_is_array(list) ? json_array_get(list, i) : list, &c,
                         error) ||
            (*what == 'e' && !take_away(choices, &c, error))) {
            g_prefix_error(error, "%s, no. %zu: ", what, i + 1);
            return false;
        }
        if (*what == 'i')
            g_array_append_val(choices, c);
    }
    return true;
}

/* ---- cells ------------------------------------------------------------------------ */

static bool is_path(int k, const char *text)
{
    return k == TEST_KERNEL || k == TEST_INITRD || (k == TEST_IMAGE && strchr(text, '/'));
}

/* Names stand before each line that a cell prints. */
static char *printable(const char *text)
{
    GString *out = g_string_new(NULL);

    for (; *text; text = g_utf8_next_char(text)) {
        gunichar c = g_utf8_get_char(text);

        g_string_append_unichar(out, g_unichar_isprint(c) ? c : '?');
    }
    return g_string_free(out, FALSE);
}

static TestCell *cell_of(const Choice *choice, const char *base,
                         const TestOptions *options)
{
    TestCell *c = test_cell_new(options);
    GString *name = g_string_new(NULL);

    for (int k = 0; k < TEST_KEYS; k++) {
        g_autofree char *text = text_of(choice->value[k]);

        if (!text)
            continue;
        if (choice->named[k])
            g_string_append_printf(name, "%s%s=%s", name->len ? "," : "", test_keys[k],
                                   text);
        g_free(c->value[k]);
        c->value[k] = base && is_path(k, text) && !g_path_is_absolute(text)
                          ? g_build_filename(base, text, NULL)
                          : g_steal_pointer(&text);
    }
    if (name->len) {
        g_free(c->name);
        c->name = printable(name->str);
    }
    g_string_free(name, TRUE);
    return c;
}

static bool add_cell(GPtrArray *cells, TestCell *c, GError **error)
{
    g_ptr_array_add(cells, c);
    for (unsigned i = 0; i + 1 < cells->len; i++)
        if (g_str_equal(((TestCell *)cells->pdata[i])->name, c->name))
            return fail(error, VM_ERROR_INVALID, "'%s' is there twice", c->name);
    return true;
}

GPtrArray *test_matrix_cells(json_t *json, const char *base, const TestOptions *options,
                             GError **error)
{
    g_autoptr(GArray) choices = g_array_new(FALSE, FALSE, sizeof(Choice));
    g_autoptr(GPtrArray)
        cells = g_ptr_array_new_with_free_func((GDestroyNotify)test_cell_free);

    if (!json_is_object(json)) {
        fail(error, VM_ERROR_INVALID, "an object is wanted at the top");
        return NULL;
    }
    if (!add_product(choices, json, error) || !adjust(choices, json, "exclude", error) ||
        !adjust(choices, json, "include", error))
        return NULL;
    if (!choices->len || choices->len > TEST_MAX_CELLS) {
        fail(error, VM_ERROR_INVALID, "there are %u combinations; 1 to %d are possible",
             choices->len, TEST_MAX_CELLS);
        return NULL;
    }
    for (unsigned i = 0; i < choices->len; i++)
        if (!add_cell(cells, cell_of(&g_array_index(choices, Choice, i), base, options),
                      error))
            return NULL;
    return g_steal_pointer(&cells);
}

static json_t *read_file(const char *path, GError **error)
{
    json_error_t where;
    struct stat st;
    json_t *json;

    if (stat(path, &st) < 0) {
        fail_errno(error, "look at it");
        return NULL;
    }
    if (!S_ISREG(st.st_mode) || st.st_size > MAX_FILE) {
        fail(error, VM_ERROR_INVALID, "it is no file of at most 1 MiB");
        return NULL;
    }
    json = json_load_file(path, JSON_REJECT_DUPLICATES, &where);
    if (!json)
        fail(error, VM_ERROR_CORRUPT, "not JSON: line %d: %s", where.line, where.text);
    return json;
}

GPtrArray *test_matrix_load(const char *path, const TestOptions *options, GError **error)
{
    g_autofree char *base = g_path_get_dirname(path);
    json_t *json = read_file(path, error);
    GPtrArray *cells = json ? test_matrix_cells(json, base, options, error) : NULL;

    json_decref(json);
    if (!cells)
        g_prefix_error(error, "matrix '%s': ", path);
    return cells;
}
