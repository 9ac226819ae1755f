/* Option tables: values in command-line notation.  Contract in core/param.h; the JSON
 * side is param_json.c. */
#include "core/param.h"

#include <stdio.h>
#include <string.h>

#include "src/core/param_private.h"
#include "util/bits.h"

static void *member(const ParamDesc *desc, void *options)
{
    return (char *)options + desc->offset;
}

/* ---- values ----------------------------------------------------------------------- */

/* Digits only: no sign, no space, no other base. */
static bool parse_digits(const char *text, const char **end, uint64_t *ret)
{
    uint64_t v = 0;
    const char *at = text;

    for (; g_ascii_isdigit(*at); at++)
        if (__builtin_mul_overflow(v, 10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(*at - '0'), &v))
            return false;
    *end = at;
    *ret = v;
    return at != text;
}

static bool is_digits(const char *text)
{
    return *text && !text[strspn(text, "0123456789")];
}

static const char size_suffixes[] = "KMGT"; /* powers of 1024 */

bool param_parse_size(const char *text, uint64_t *ret, GError **error)
{
    const char *end, *suffix;
    uint64_t v, unit = 1;

    if (!parse_digits(text, &end, &v))
        return fail(error, VM_ERROR_INVALID,
                    "'%s' is not a size: write digits, then K, M, G or T", text);
    if (*end) {
        suffix = strchr(size_suffixes, g_ascii_toupper(*end));
        if (!suffix || end[1])
            return fail(error, VM_ERROR_INVALID,
                        "'%s' is not a size: write digits, then K, M, G or T", text);
        unit = 1ull << (10 * (suffix - size_suffixes + 1));
    }
    if (__builtin_mul_overflow(v, unit, &v))
        return fail(error, VM_ERROR_INVALID, "'%s' is too large a size", text);
    *ret = v;
    return true;
}

void param_size_text(uint64_t v, char text[PARAM_SIZE_TEXT])
{
    unsigned unit = 0;

    for (; v && is_aligned(v, 1024) && size_suffixes[unit]; unit++)
        v /= 1024;
    snprintf(text, PARAM_SIZE_TEXT, "%" G_GUINT64_FORMAT "%.*s", v, unit > 0,
             size_suffixes + MAX(unit, 1) - 1);
}

static void describe(const ParamDesc *desc, uint64_t v, char text[PARAM_SIZE_TEXT])
{
    if (desc->type == PARAM_SIZE)
        param_size_text(v, text);
    else
        snprintf(text, PARAM_SIZE_TEXT, "%" G_GUINT64_FORMAT, v);
}

static bool set_number(const ParamDesc *desc, void *options, const char *value,
                       GError **error)
{
    const char *end;
    uint64_t v;
    char limit[PARAM_SIZE_TEXT];

    if (desc->type == PARAM_SIZE) {
        if (!param_parse_size(value, &v, error))
            return false;
    } else if (!parse_digits(value, &end, &v) || *end) {
        return fail(error, VM_ERROR_INVALID,
                    is_digits(value) ? "'%s' is too large" : "'%s' is not a number",
                    value);
    }
    if (v < desc->min) {
        describe(desc, desc->min, limit);
        return fail(error, VM_ERROR_INVALID, "%s is too little: it must be %s or more",
                    value, limit);
    }
    if (desc->max && v > desc->max) {
        describe(desc, desc->max, limit);
        return fail(error, VM_ERROR_INVALID, "%s is too much: it must be %s or less",
                    value, limit);
    }
    *(uint64_t *)member(desc, options) = v;
    return true;
}

static bool set_bool(const ParamDesc *desc, void *options, const char *value,
                     GError **error)
{
    static const char *const words[][2] = {
        {"off", "on"}, {"no", "yes"}, {"false", "true"}};

    for (unsigned i = 0; i < G_N_ELEMENTS(words); i++)
        for (unsigned v = 0; v < 2; v++)
            if (g_str_equal(value, words[i][v])) {
                *(bool *)member(desc, options) = v;
                return true;
            }
    return fail(error, VM_ERROR_INVALID, "'%s' is neither on nor off", value);
}

static bool set_enum(const ParamDesc *desc, void *options, const char *value,
                     GError **error)
{
    g_autofree char *all = NULL;

    for (int i = 0; desc->choices[i]; i++)
        if (g_str_equal(value, desc->choices[i])) {
            *(int *)member(desc, options) = i + (int)desc->min;
            return true;
        }
    all = g_strjoinv(", ", (char **)desc->choices);
    return fail(error, VM_ERROR_INVALID, "'%s' is none of: %s", value, all);
}

static bool set_mac(const ParamDesc *desc, void *options, const char *value,
                    GError **error)
{
    uint8_t mac[6], any = 0;
    size_t len = strlen(value);

    for (unsigned i = 0; i < 6; i++) {
        int hi = len == 17 ? g_ascii_xdigit_value(value[3 * i]) : -1;
        int lo = len == 17 ? g_ascii_xdigit_value(value[3 * i + 1]) : -1;

        if (hi < 0 || lo < 0 || (i < 5 && value[3 * i + 2] != ':'))
            return fail(error, VM_ERROR_INVALID,
                        "'%s' is not a MAC address like 52:54:00:12:34:56", value);
        mac[i] = (uint8_t)(hi << 4 | lo);
        any |= mac[i];
    }
    if (!any)
        return fail(error, VM_ERROR_INVALID, "'%s' is nobody's address", value);
    memcpy(member(desc, options), mac, sizeof(mac));
    return true;
}

static void append(char ***list, const char *value)
{
    unsigned n = *list ? g_strv_length(*list) : 0;

    *list = g_renew(char *, *list, n + 2);
    (*list)[n] = g_strdup(value);
    (*list)[n + 1] = NULL;
}

static void replace(char **at, char *value)
{
    g_free(*at);
    *at = value;
}

static bool set_json(const ParamDesc *desc, void *options, const char *value,
                     GError **error)
{
    json_error_t where;
    json_t *json = json_loads(value, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &where);
    json_t **at = member(desc, options);

    if (!json)
        return fail(error, VM_ERROR_INVALID, "'%s' is not JSON: %s", value, where.text);
    json_decref(*at);
    *at = json;
    return true;
}

/* As in nbd://host/name?key=value. */
static bool is_uri(const char *text)
{
    return strncmp(text + strcspn(text, ":/="), "://", 3) == 0;
}

bool param_path_is_absolute(const char *path)
{
    return g_path_is_absolute(path) || is_uri(path);
}

static bool set_value(const ParamDesc *desc, void *options, const char *value,
                      const char *base, GError **error)
{
    switch (desc->type) {
    case PARAM_STRING:
        replace(member(desc, options), g_strdup(value));
        return true;
    case PARAM_PATH:
        if (!*value)
            return fail(error, VM_ERROR_INVALID, "the path is empty");
        replace(member(desc, options), base && !param_path_is_absolute(value)
                                           ? g_build_filename(base, value, NULL)
                                           : g_strdup(value));
        return true;
    case PARAM_BOOL:
        return set_bool(desc, options, value, error);
    case PARAM_UINT:
    case PARAM_SIZE:
        return set_number(desc, options, value, error);
    case PARAM_ENUM:
        return set_enum(desc, options, value, error);
    case PARAM_MAC:
        return set_mac(desc, options, value, error);
    case PARAM_LIST:
        append(member(desc, options), value);
        return true;
    case PARAM_JSON:
        return set_json(desc, options, value, error);
    }
    return false;
}

bool param_set_at(const ParamDesc *desc, void *options, const char *value,
                  const char *base, GError **error)
{
    if (!value && desc->type == PARAM_BOOL)
        value = "on";
    if (!value)
        value = desc->bare;
    if (!value)
        return fail(error, VM_ERROR_INVALID, "%s: no value is given", desc->key);
    if (set_value(desc, options, value, base, error))
        return true;
    g_prefix_error(error, "%s: ", desc->key);
    return false;
}

bool param_set(const ParamDesc *desc, void *options, const char *value, GError **error)
{
    return param_set_at(desc, options, value, NULL, error);
}

/* ---- structs ---------------------------------------------------------------------- */

void param_clear(const ParamDesc *desc, void *options)
{
    if (desc->type == PARAM_STRING || desc->type == PARAM_PATH) {
        g_clear_pointer((char **)member(desc, options), g_free);
    } else if (desc->type == PARAM_LIST) {
        g_clear_pointer((char ***)member(desc, options), g_strfreev);
    } else if (desc->type == PARAM_JSON) {
        g_clear_pointer((json_t **)member(desc, options), json_decref);
    }
}

void *param_new(const ParamTable *table)
{
    void *options;

    if (!table)
        return NULL;
    options = g_malloc0(table->size);
    for (const ParamDesc *desc = table->desc; desc->key; desc++) {
        g_autoptr(GError) error = NULL;

        if (desc->def && !param_set(desc, options, desc->def, &error))
            g_error("built-in default of %s", error->message); /* a bug in the table */
    }
    return options;
}

void param_free(const ParamTable *table, void *options)
{
    if (!table || !options)
        return;
    for (const ParamDesc *desc = table->desc; desc->key; desc++)
        param_clear(desc, options);
    g_free(options);
}

/* ---- lists of KEY=VALUE -------------------------------------------------------------
 */

bool param_similar(const char *typed, const char *known)
{
    enum { LONGEST = 32 };
    unsigned row[LONGEST + 1], longer;
    size_t n = strlen(typed), m = strlen(known);

    if (!n || n > LONGEST || m > LONGEST)
        return false;
    if (n >= 3 && strncmp(known, typed, n) == 0)
        return true; /* cut short */
    longer = (unsigned)MAX(n, m);
    for (unsigned j = 0; j <= m; j++)
        row[j] = j;
    for (unsigned i = 1; i <= n; i++) { /* Levenshtein's distance, a row at a time */
        unsigned diagonal = row[0];

        row[0] = i;
        for (unsigned j = 1; j <= m; j++) {
            unsigned change = diagonal + (typed[i - 1] != known[j - 1]);

            diagonal = row[j];
            row[j] = MIN(change, MIN(row[j], row[j - 1]) + 1);
        }
    }
    return row[m] <= 2 && row[m] * 3 <= longer;
}

static void fail_unknown_key(const ParamTable *table, const char *key, GError **error)
{
    g_autoptr(GString) keys = g_string_new(NULL);

    for (const ParamDesc *desc = table->desc; desc->key; desc++) {
        if (param_similar(key, desc->key)) {
            fail(error, VM_ERROR_INVALID, "unknown key '%s'; did you mean '%s'?", key,
                 desc->key);
            return;
        }
        g_string_append_printf(keys, "%s%s", keys->len ? ", " : "", desc->key);
    }
    fail(error, VM_ERROR_INVALID, "unknown key '%s'; the keys are: %s", key, keys->str);
}

const ParamDesc *param_take_key(const ParamTable *table, uint64_t *seen, const char *key,
                                GError **error)
{
    for (unsigned i = 0; table->desc[i].key; i++) {
        const ParamDesc *desc = &table->desc[i];

        if (!g_str_equal(desc->key, key))
            continue;
        g_assert(i < PARAM_MAX_KEYS);
        if (*seen & BIT64(i) && desc->type != PARAM_LIST) {
            fail(error, VM_ERROR_INVALID, "key '%s' is given twice", key);
            return NULL;
        }
        *seen |= BIT64(i);
        return desc;
    }
    fail_unknown_key(table, key, error);
    return NULL;
}

bool param_complete(const ParamTable *table, void *options, uint64_t seen, GError **error)
{
    for (unsigned i = 0; table->desc[i].key; i++)
        if (table->desc[i].required && !(seen & BIT64(i)))
            return fail(error, VM_ERROR_INVALID, "key '%s' is missing (%s)",
                        table->desc[i].key, table->desc[i].help);
    return !table->check || table->check(options, error);
}

/* Cuts the next piece off, undoing doubled commas.  *at is NULL after the last one. */
static bool next_piece(const char **at, GString *piece)
{
    const char *p = *at;

    if (!p)
        return false;
    g_string_truncate(piece, 0);
    while (*p && (p[0] != ',' || p[1] == ',')) {
        p += p[0] == ',';
        g_string_append_c(piece, *p++);
    }
    *at = *p ? p + 1 : NULL;
    return true;
}

/* The first piece, without a key. */
static bool set_bare(const ParamTable *table, void *options, uint64_t *seen,
                     const char *value, const char *base, GError **error)
{
    const ParamDesc *desc = table->desc;

    if (desc->other && !g_strv_contains(desc->choices, value))
        return (desc = param_take_key(table, seen, desc->other, error)) &&
               param_set_at(desc, options, value, base, error);
    return param_take_key(table, seen, desc->key, error) &&
           param_set_at(desc, options, value, base, error);
}

static bool parse_piece(const ParamTable *table, void *options, uint64_t *seen,
                        const char *piece, bool first, const char *base, GError **error)
{
    bool bare = first && table->desc->type == PARAM_PATH && is_uri(piece);
    const char *equals = bare ? NULL : strchr(piece, '=');
    g_autofree char *key = equals ? g_strndup(piece, equals - piece) : g_strdup(piece);
    const ParamDesc *desc;

    if (!*piece)
        return fail(error, VM_ERROR_INVALID,
                    "there is nothing before or after a comma (a comma inside a value is "
                    "doubled)");
    if (!equals) {
        for (desc = table->desc; desc->key; desc++)
            if (desc->type == PARAM_BOOL && g_str_equal(desc->key, piece))
                break;
        if (!desc->key && first)
            return set_bare(table, options, seen, piece, base, error);
    }
    desc = param_take_key(table, seen, key, error);
    if (!desc) {
        if (equals && first)
            g_prefix_error(
                error, "in '%s' (a value with '=' in it needs %s= before it): ", piece,
                table->desc->key);
        return false;
    }
    return param_set_at(desc, options, equals ? equals + 1 : NULL, base, error);
}

bool param_parse_at(const ParamTable *table, void *options, const char *text,
                    const char *base, GError **error)
{
    g_autoptr(GString) piece = g_string_new(NULL);
    const char *at = *text ? text : NULL;
    uint64_t seen = 0;
    bool first = true;

    for (; next_piece(&at, piece); first = false)
        if (!parse_piece(table, options, &seen, piece->str, first, base, error))
            return false;
    return param_complete(table, options, seen, error);
}

bool param_parse(const ParamTable *table, void *options, const char *text, GError **error)
{
    return param_parse_at(table, options, text, NULL, error);
}
