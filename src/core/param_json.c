/* Option tables: values as JSON.  Contract in core/param.h.  An object may also be
 * written as one string, in command-line notation. */
#include <string.h>

#include "core/param.h"
#include "src/core/param_private.h"

static const char *const json_names[] = {
    [JSON_OBJECT] = "an object", [JSON_ARRAY] = "an array",  [JSON_STRING] = "a string",
    [JSON_INTEGER] = "a number", [JSON_REAL] = "a fraction", [JSON_TRUE] = "true",
    [JSON_FALSE] = "false",      [JSON_NULL] = "null",
};

static bool fail_type(const ParamDesc *desc, json_t *value, const char *wanted,
                      GError **error)
{
    return fail(error, VM_ERROR_INVALID, "%s: %s is wanted here, not %s", desc->key,
                wanted, json_names[json_typeof(value)]);
}

static bool set_list(const ParamDesc *desc, void *options, json_t *value, GError **error)
{
    size_t i;
    json_t *item;

    if (json_is_string(value))
        return param_set(desc, options, json_string_value(value), error);
    if (!json_is_array(value))
        return fail_type(desc, value, "an array of strings", error);
    json_array_foreach(value, i, item)
    {
        if (!json_is_string(item))
            return fail_type(desc, item, "a string", error);
        if (!param_set(desc, options, json_string_value(item), error))
            return false;
    }
    return true;
}

bool param_set_json(const ParamDesc *desc, void *options, json_t *value, const char *base,
                    GError **error)
{
    g_autofree char *digits = NULL;

    switch (desc->type) {
    case PARAM_STRING:
    case PARAM_PATH:
    case PARAM_ENUM:
    case PARAM_MAC:
        if (!json_is_string(value))
            return fail_type(desc, value, "a string", error);
        return param_set_at(desc, options, json_string_value(value), base, error);
    case PARAM_BOOL:
        if (!json_is_boolean(value))
            return fail_type(desc, value, "true or false", error);
        return param_set(desc, options, json_is_true(value) ? "on" : "off", error);
    case PARAM_SIZE:
        if (json_is_string(value))
            return param_set(desc, options, json_string_value(value), error);
        G_GNUC_FALLTHROUGH;
    case PARAM_UINT:
        if (!json_is_integer(value))
            return fail_type(desc, value, "a number", error);
        digits = g_strdup_printf("%" JSON_INTEGER_FORMAT, json_integer_value(value));
        return param_set(desc, options, digits, error);
    case PARAM_LIST:
        return set_list(desc, options, value, error);
    case PARAM_JSON:
        param_clear(desc, options);
        *(json_t **)((char *)options + desc->offset) = json_incref(value);
        return true;
    }
    return false;
}

bool param_from_json(const ParamTable *table, void *options, json_t *object,
                     const char *base, GError **error)
{
    uint64_t seen = 0;
    const char *key;
    json_t *value;

    if (json_is_string(object))
        return param_parse_at(table, options, json_string_value(object), base, error);
    if (!json_is_object(object))
        return fail(error, VM_ERROR_INVALID,
                    "an object or a string is wanted here, not %s",
                    json_names[json_typeof(object)]);
    json_object_foreach(object, key, value)
    {
        const ParamDesc *desc = param_take_key(table, &seen, key, error);

        if (!desc || !param_set_json(desc, options, value, base, error))
            return false;
    }
    return param_complete(table, options, seen, error);
}

/* ---- out -------------------------------------------------------------------------- */

static json_t *size_to_json(uint64_t v)
{
    char text[PARAM_SIZE_TEXT];

    param_size_text(v, text);
    return g_ascii_isalpha(text[strlen(text) - 1]) ? json_string(text)
                                                   : json_integer((json_int_t)v);
}

/* Absolute, so that it means the same wherever the JSON is kept. */
static json_t *path_to_json(const char *path)
{
    g_autofree char *here = param_path_is_absolute(path) ? NULL : g_get_current_dir();
    g_autofree char *full = here ? g_build_filename(here, path, NULL) : NULL;

    return json_string(full ? full : path);
}

static json_t *list_to_json(char **list)
{
    json_t *array = json_array();

    for (; list && *list; list++)
        json_array_append_new(array, json_string(*list));
    return array;
}

json_t *param_value_to_json(const ParamDesc *desc, const void *options)
{
    const void *at = (const char *)options + desc->offset;
    char *const *text = at;
    const uint8_t *mac = at;
    int choice;

    switch (desc->type) {
    case PARAM_STRING:
        return *text ? json_string(*text) : NULL;
    case PARAM_PATH:
        return *text ? path_to_json(*text) : NULL;
    case PARAM_BOOL:
        return json_boolean(*(const bool *)at);
    case PARAM_UINT:
        return json_integer((json_int_t)(*(const uint64_t *)at));
    case PARAM_SIZE:
        return size_to_json(*(const uint64_t *)at);
    case PARAM_ENUM:
        choice = *(const int *)at - (int)desc->min;
        return choice < 0 ? NULL : json_string(desc->choices[choice]);
    case PARAM_MAC:
        return json_sprintf("%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2],
                            mac[3], mac[4], mac[5]);
    case PARAM_LIST:
        return list_to_json(*(char **const *)at);
    case PARAM_JSON:
        return json_incref(*(json_t *const *)at);
    }
    return NULL;
}

bool param_is_default(const ParamDesc *desc, const void *options)
{
    const ParamTable alone = {.size = desc->offset + 64,
                              .desc = (const ParamDesc[]){*desc, {0}}};
    void *def = param_new(&alone);
    json_t *a = param_value_to_json(desc, options), *b = param_value_to_json(desc, def);
    bool same = a == b || json_equal(a, b);

    json_decref(a);
    json_decref(b);
    param_free(&alone, def);
    return same;
}

json_t *param_to_json(const ParamTable *table, const void *options)
{
    json_t *object = json_object();

    for (const ParamDesc *desc = table->desc; desc->key; desc++)
        if (desc == table->desc || !param_is_default(desc, options)) {
            json_t *value = param_value_to_json(desc, options);

            if (value)
                json_object_set_new(object, desc->key, value);
        }
    return object;
}
