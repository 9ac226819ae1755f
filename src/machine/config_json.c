/* The Config in JSON: a file that a user wrote, and what a snapshot keeps. */
#include <errno.h>
#include <fcntl.h>

#include "config_private.h"
#include "util/bits.h"
#include "util/fd.h"

enum { MAX_CONFIG_SIZE = MIB };

static bool fail_unknown(const char *key, GError **error)
{
    for (const ConfigOption *o = config_options(); o->name; o++)
        if (param_similar(key, o->name))
            return fail(error, VM_ERROR_INVALID, "unknown key '%s'; did you mean '%s'?",
                        key, o->name);
    return fail(error, VM_ERROR_INVALID,
                "unknown key '%s'; the keys are the options of 'hutch run --help'", key);
}

static bool load_key(Config *cfg, const char *key, json_t *value, const char *base,
                     GError **error)
{
    const ConfigOption *option = config_option(key);
    json_t *item;
    size_t i;

    if (!option)
        return fail_unknown(key, error);
    if (!option->repeats || !json_is_array(value))
        return config_set_named(cfg, option, &(ConfigSource){.json = value, .base = base},
                                error);
    json_array_foreach(value, i, item)
    {
        if (!config_set_named(cfg, option, &(ConfigSource){.json = item, .base = base},
                              error))
            return false;
    }
    return true;
}

/* A config is small; what is not is another file, given by mistake. */
static bool read_text(const char *path, GString *ret, GError **error)
{
    autofd fd = open(path, O_RDONLY | O_CLOEXEC);
    char part[4096];
    ssize_t n;

    if (fd < 0)
        return fail_errno(error, "open");
    do {
        n = read(fd, part, sizeof(part));
        if (n > 0)
            g_string_append_len(ret, part, n);
    } while ((n > 0 && ret->len <= MAX_CONFIG_SIZE) || (n < 0 && errno == EINTR));
    if (n < 0)
        return fail_errno(error, "read");
    return n == 0 || fail(error, VM_ERROR_CORRUPT,
                          "it is larger than 1 MiB, which no config of hutch is");
}

static json_t *read_json(const char *path, GError **error)
{
    g_autoptr(GString) text = g_string_new(NULL);
    json_error_t where;
    json_t *json;

    if (!read_text(path, text, error))
        return NULL;
    json = json_loadb(text->str, text->len, JSON_REJECT_DUPLICATES, &where);
    if (!json)
        fail(error, VM_ERROR_CORRUPT, "not JSON: line %d: %s", where.line, where.text);
    return json;
}

static bool load(Config *cfg, json_t *json, const char *base, GError **error)
{
    const char *key;
    json_t *value;

    if (!json_is_object(json))
        return fail(error, VM_ERROR_CORRUPT, "an object is wanted at the top");
    json_object_foreach(json, key, value)
    {
        if (!load_key(cfg, key, value, base, error))
            return false;
    }
    return true;
}

bool config_load(Config *cfg, const char *path, GError **error)
{
    g_autofree char *base = g_path_get_dirname(path);
    json_t *json = read_json(path, error);
    bool ok = json && load(cfg, json, g_str_equal(base, ".") ? NULL : base, error);

    json_decref(json);
    if (!ok)
        g_prefix_error(error, "config '%s': ", path);
    return ok;
}

Config *config_from_json(json_t *json, GError **error)
{
    g_autoptr(Config) cfg = config_new();

    return load(cfg, json, NULL, error) ? g_steal_pointer(&cfg) : NULL;
}

static void append(json_t *object, const char *key, json_t *value)
{
    json_t *array = json_object_get(object, key);

    if (!array) {
        array = json_array();
        json_object_set_new(object, key, array);
    }
    json_array_append_new(array, value);
}

json_t *config_to_json(const Config *cfg)
{
    json_t *object = json_object();

    for (const ConfigOption *o = config_options(); o->name; o++) {
        if (o->scalar && !param_is_default(o->scalar, cfg))
            json_object_set_new(object, o->name, param_value_to_json(o->scalar, cfg));
        if (o->table == &config_memory)
            json_object_set_new(object, o->name, param_to_json(o->table, &cfg->memory));
        for (unsigned i = 0; o->table == &chardev_params && i < CONFIG_MAX_SERIALS; i++)
            if (cfg->serial[i])
                append(object, o->name, param_to_json(o->table, cfg->serial[i]));
        for (unsigned i = 0; o->ops && i < cfg->n_devices; i++)
            if (cfg->devices[i].ops == o->ops)
                append(object, o->name,
                       o->table ? param_to_json(o->table, cfg->devices[i].options)
                                : json_true());
    }
    return object;
}
