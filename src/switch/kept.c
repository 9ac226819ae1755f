/* See kept.h. */
#include "src/switch/kept.h"

#include "src/switch/limit.h"
#include "util/log.h"

enum { MAX_KEPT = SWITCH_MAX_PORTS }; /* the oldest are forgotten */

#define KEPT_FILE "limits.json"

/* A new reference to what is in it; an empty object: nothing, or nothing of use. */
static json_t *load_file(Switch *sw)
{
    g_autofree char *path = network_file(sw->name, KEPT_FILE);
    json_t *all = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);

    if (json_is_object(all))
        return all;
    json_decref(all);
    return json_object();
}

static void store_file(Switch *sw, json_t *all)
{
    char *text = json_dumps(all, JSON_INDENT(2));
    g_autoptr(GError) error = NULL;

    if (!network_write(sw->name, KEPT_FILE, text, &error))
        log_warn("network %s: what is set for ports ends with this switch: %s", sw->name,
                 error->message);
    free(text);
}

static bool is_connection(const char *key)
{
    return g_str_has_prefix(key, KEPT_CONNECT);
}

/* Of programs and VMs that have not come back. */
static void forget_oldest(json_t *all)
{
    const char *key;
    json_t *value;
    void *next;

    json_object_foreach_safe(all, next, key, value)
    {
        if (json_object_size(all) <= MAX_KEPT)
            break;
        if (!is_connection(key))
            json_object_del(all, key);
    }
}

void kept_port_changed(Port *port)
{
    json_t *all, *values;

    if (!port->kept_as)
        return;
    all = load_file(port->sw);
    values = limits_json(port);
    if (port->changed)
        json_object_set(values, "port", port->changed);
    json_object_del(all, port->kept_as);
    if (json_object_size(values) || is_connection(port->kept_as))
        json_object_set(all, port->kept_as, values);
    forget_oldest(all);
    store_file(port->sw, all);
    json_decref(values);
    json_decref(all);
}

static void change_again(Port *port, const json_t *values)
{
    g_autoptr(GError) error = NULL;

    if (json_is_object(values) && !port_change(port, values, &error))
        log_warn("%s: what was set for it is not: %s", port_text(port), error->message);
}

void kept_port_added(Port *port)
{
    json_t *all, *values;

    if (!port->kept_as)
        return;
    all = load_file(port->sw);
    values = json_object_get(all, port->kept_as);
    if (values) {
        change_again(port, json_object_get(values, "port"));
        limits_set(port, values);
    }
    json_decref(all);
}

void kept_port_removed(Port *port)
{
    json_t *all;

    if (!port->kept_as)
        return;
    all = load_file(port->sw);
    if (json_object_del(all, port->kept_as) == 0)
        store_file(port->sw, all);
    json_decref(all);
}

char **kept_connections(Switch *sw)
{
    json_t *all = load_file(sw), *value;
    GPtrArray *paths = g_ptr_array_new();
    const char *key;

    json_object_foreach(all, key, value) if (is_connection(key))
        g_ptr_array_add(paths, g_strdup(key + strlen(KEPT_CONNECT)));
    json_decref(all);
    g_ptr_array_add(paths, NULL);
    return (char **)g_ptr_array_free(paths, FALSE);
}
