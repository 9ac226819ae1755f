/* set-limit, set-impair, query-limits; contract in limit.h, arguments in
 * docs/networks.md. */
#include "src/switch/limit.h"

#include "src/switch/capture.h"
#include "src/switch/control.h"
#include "src/switch/impair.h"
#include "src/switch/kept.h"
#include "src/switch/shape.h"
#include "util/log.h"

enum { MAX_DELAY_US = 60 * 1000 * 1000 };

/* Numbers of an options struct; a fraction is a double. */
typedef struct Number {
    const char *key;
    size_t offset;
    bool fraction;
    uint64_t max;
} Number;

#define NUMBER(type, member, key, max)                                                   \
    {                                                                                    \
        key, offsetof(type, member), false, max                                          \
    }
#define FRACTION(type, member, key)                                                      \
    {                                                                                    \
        key, offsetof(type, member), true, 1                                             \
    }

/* Whoever wants more than a terabyte a second has no limit. */
static const Number shape_numbers[] = {
    NUMBER(ShapeOptions, bytes_per_s, "bytes-per-s", 1ull << 40),
    NUMBER(ShapeOptions, burst_bytes, "burst-bytes", 1ull << 40),
    NUMBER(ShapeOptions, frames_per_s, "frames-per-s", 1ull << 40),
    NUMBER(ShapeOptions, burst_frames, "burst-frames", 1ull << 40),
    {},
};

static const Number impair_numbers[] = {
    NUMBER(ImpairOptions, delay_us, "delay-us", MAX_DELAY_US),
    NUMBER(ImpairOptions, jitter_us, "jitter-us", MAX_DELAY_US),
    FRACTION(ImpairOptions, loss, "loss"),
    FRACTION(ImpairOptions, duplicate, "duplicate"),
    FRACTION(ImpairOptions, reorder, "reorder"),
    FRACTION(ImpairOptions, corrupt, "corrupt"),
    NUMBER(ImpairOptions, seed, "seed", INT64_MAX),
    {},
};

static const char *const direction_names[DIRECTIONS] = {
    [TO_VM] = "in", [FROM_VM] = "out"};

/* ---- numbers ------------------------------------------------------------------------
 */

static bool set_number(const Number *n, void *options, json_t *value, GError **error)
{
    void *at = (char *)options + n->offset;

    if (n->fraction) {
        if (!json_is_number(value) || !(json_number_value(value) >= 0) ||
            json_number_value(value) > 1)
            return fail(error, VM_ERROR_INVALID, "%s is a number from 0 to 1", n->key);
        *(double *)at = json_number_value(value);
        return true;
    }
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        (uint64_t)json_integer_value(value) > n->max)
        return fail(error, VM_ERROR_INVALID,
                    "%s is a whole number from 0 to %" G_GUINT64_FORMAT, n->key, n->max);
    *(uint64_t *)at = (uint64_t)json_integer_value(value);
    return true;
}

/* What of `object` is in the table. */
static bool set_numbers(const Number *n, void *options, json_t *object, GError **error)
{
    for (; n->key; n++) {
        json_t *value = json_object_get(object, n->key);

        if (value && !set_number(n, options, value, error))
            return false;
    }
    return true;
}

static json_t *numbers_json(const Number *n, const void *options)
{
    json_t *object = json_object();

    for (; n->key; n++) {
        const void *at = (const char *)options + n->offset;

        json_object_set_new(object, n->key,
                            n->fraction
                                ? json_real(*(const double *)at)
                                : json_integer((json_int_t) * (const uint64_t *)at));
    }
    return object;
}

static bool is_number_of(const Number *n, const char *key)
{
    while (n->key && !g_str_equal(n->key, key))
        n++;
    return n->key;
}

/* ---- what a port has ----------------------------------------------------------------
 */

/* A burst is part of a rate: without one it would limit nothing, and goes with it. */
static bool settle_burst(uint64_t rate, uint64_t *burst, json_t *given, const char *words,
                         GError **error)
{
    if (rate)
        return true;
    *burst = 0;
    return json_integer_value(given) == 0 ||
           fail(error, VM_ERROR_INVALID, "a burst needs a rate: give %s too", words);
}

/* What a direction's limit would be with `values`. */
static bool make_limit(const Port *port, Direction d, json_t *values, ShapeOptions *ret,
                       GError **error)
{
    *ret = port->shape[d] ? *shape_options(port->shape[d]) : (ShapeOptions){0};
    return set_numbers(shape_numbers, ret, values, error) &&
           settle_burst(ret->bytes_per_s, &ret->burst_bytes,
                        json_object_get(values, "burst-bytes"), "bytes-per-s (--rate)",
                        error) &&
           settle_burst(ret->frames_per_s, &ret->burst_frames,
                        json_object_get(values, "burst-frames"),
                        "frames-per-s (--packets)", error);
}

static bool set_limit(Port *port, Direction d, json_t *values, GError **error)
{
    Shape *old = port->shape[d];
    ShapeOptions o;

    if (!make_limit(port, d, values, &o, error))
        return false;
    port->shape[d] = o.bytes_per_s || o.frames_per_s ? shape_new(&o, old) : NULL;
    shape_free(old);
    return true;
}

static void clear_impair(Port *port, Direction d)
{
    impair_free(port->impair[d]);
    port->impair[d] = NULL;
}

static bool set_impair(Port *port, Direction d, json_t *values, GError **error)
{
    ImpairOptions o = port->impair[d] ? *impair_options(port->impair[d])
                                      : (ImpairOptions){0};

    if (!set_numbers(impair_numbers, &o, values, error))
        return false;
    if (!o.delay_us && !o.jitter_us && !(o.loss > 0) && !(o.duplicate > 0) &&
        !(o.reorder > 0) && !(o.corrupt > 0))
        clear_impair(port, d);
    else if (port->impair[d])
        impair_change(port->impair[d], &o);
    else
        port->impair[d] = impair_new(port, d, &o);
    return true;
}

json_t *limits_json(Port *port)
{
    json_t *object = json_object();

    for (Direction d = TO_VM; d < DIRECTIONS; d++) {
        json_t *one = json_object();

        if (port->shape[d])
            json_object_set_new(
                one, "limit", numbers_json(shape_numbers, shape_options(port->shape[d])));
        if (port->impair[d])
            json_object_set_new(
                one, "impair",
                numbers_json(impair_numbers, impair_options(port->impair[d])));
        if (json_object_size(one))
            json_object_set(object, direction_names[d], one);
        json_decref(one);
    }
    return object;
}

void limits_set(Port *port, json_t *limits)
{
    for (Direction d = TO_VM; d < DIRECTIONS; d++) {
        json_t *one = json_object_get(limits, direction_names[d]);
        g_autoptr(GError) error = NULL;

        if (!set_limit(port, d, json_object_get(one, "limit"), &error) ||
            !set_impair(port, d, json_object_get(one, "impair"), &error))
            log_warn("%s: what was set for it is not: %s", port_text(port),
                     error->message);
    }
}

/* ---- commands -----------------------------------------------------------------------
 */

static bool check_keys(json_t *arguments, const Number *numbers, const char *more,
                       GError **error)
{
    static const char *const who[] = {"vm", "nic", "port", "direction", NULL};
    const char *key;
    json_t *value;

    json_object_foreach(
        arguments, key,
        value) if (!g_strv_contains(who, key) && g_strcmp0(key, more) != 0 &&
                   !is_number_of(numbers, key)) return fail(error, VM_ERROR_INVALID,
                                                            "there is no argument '%s'",
                                                            key);
    return true;
}

/* First and last of the directions that are meant. */
static bool get_direction(json_t *arguments, Direction *ret_first, Direction *ret_last,
                          GError **error)
{
    json_t *value = json_object_get(arguments, "direction");
    const char *text = value ? json_string_value(value) : "both";

    if (!g_strcmp0(text, "in"))
        *ret_first = *ret_last = TO_VM;
    else if (!g_strcmp0(text, "out"))
        *ret_first = *ret_last = FROM_VM;
    else if (!g_strcmp0(text, "both"))
        *ret_first = TO_VM, *ret_last = FROM_VM;
    else
        return fail(error, VM_ERROR_INVALID, "direction is in, out or both");
    return true;
}

/* Empty if it has none and is not asked for by name. */
static void list_port(json_t *list, Port *port, bool always)
{
    json_t *one = limits_json(port);

    if (always || json_object_size(one)) {
        json_object_set_new(one, "port", json_integer(port->id));
        if (!port->link)
            json_object_set_new(one, "link", json_false());
        if (port->vm)
            json_object_set_new(one, "vm", json_string(port->vm));
        if (port->nic)
            json_object_set_new(one, "nic", json_string(port->nic));
        json_array_append(list, one);
    }
    json_decref(one);
}

static json_t *list_of(Port *port)
{
    json_t *list = json_array();

    list_port(list, port, true);
    return list;
}

typedef bool SetFn(Port *port, Direction d, json_t *values, GError **error);

/* All or nothing: `check` may refuse a direction before any is changed. */
static json_t *set(Switch *sw, json_t *arguments, SetFn *check, SetFn *fn, GError **error)
{
    Port *port = command_port(sw, arguments, error);
    Direction first = TO_VM, last = TO_VM;

    if (!port || !get_direction(arguments, &first, &last, error))
        return NULL;
    for (Direction d = first; check && d <= last; d++)
        if (!check(port, d, arguments, error))
            return NULL;
    for (Direction d = first; d <= last; d++)
        if (!fn(port, d, arguments, error))
            return NULL;
    kept_port_changed(port);
    return list_of(port);
}

static bool check_limit(Port *port, Direction d, json_t *values, GError **error)
{
    ShapeOptions unused;

    return make_limit(port, d, values, &unused, error);
}

static json_t *cmd_set_limit(Switch *sw, json_t *arguments, GError **error)
{
    if (!check_keys(arguments, shape_numbers, NULL, error))
        return NULL;
    return set(sw, arguments, check_limit, set_limit, error);
}

static bool clear(Port *port, Direction d, json_t *values, GError **error)
{
    clear_impair(port, d);
    return true;
}

static json_t *cmd_set_impair(Switch *sw, json_t *arguments, GError **error)
{
    if (!check_keys(arguments, impair_numbers, "clear", error))
        return NULL;
    return set(sw, arguments, NULL,
               json_is_true(json_object_get(arguments, "clear")) ? clear : set_impair,
               error);
}

static json_t *cmd_query_limits(Switch *sw, json_t *arguments, GError **error)
{
    json_t *list;

    if (command_names_port(arguments)) {
        Port *port = command_port(sw, arguments, error);

        return port ? list_of(port) : NULL;
    }
    list = json_array();
    for (unsigned i = 0; i < sw->n_ports; i++)
        if (sw->port[i])
            list_port(list, sw->port[i], false);
    return list;
}

static json_t *cmd_query_captures(Switch *sw, json_t *arguments, GError **error)
{
    return captures_json(sw);
}

const SwitchCommand limit_commands[] = {
    {"set-limit", cmd_set_limit},
    {"set-impair", cmd_set_impair},
    {"query-limits", cmd_query_limits},
    {"query-captures", cmd_query_captures},
    {},
};
