/* See src/control/request.h.  QEMU's docs/interop/qmp-spec, "Protocol Specification".
 */
#include "src/control/request.h"

#include <string.h>

static const char class_generic[] = "GenericError";
static const char class_no_command[] = "CommandNotFound";
static const char class_no_device[] = "DeviceNotFound";

json_t *control_text(const char *bytes)
{
    g_autofree char *valid = g_utf8_make_valid(bytes, -1);

    return json_string(valid);
}

static json_t *make_error(const char *class, const char *desc)
{
    return json_pack("{s:{s:s, s:o}}", "error", "class", class, "desc",
                     control_text(desc));
}

json_t *request_refusal(const char *desc)
{
    return make_error(class_generic, desc);
}

static void answer(Request *r, json_t *reply)
{
    if (r->id)
        json_object_set(reply, "id", r->id);
    r->reply = reply;
}

static bool refuse(Request *r, const char *class, const char *fmt, ...)
    G_GNUC_PRINTF(3, 4);

static bool refuse(Request *r, const char *class, const char *fmt, ...)
{
    g_autofree char *desc = NULL;
    va_list ap;

    va_start(ap, fmt);
    desc = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    answer(r, make_error(class, desc));
    return false;
}

static bool refuse_error(Request *r, const GError *error)
{
    bool no_device = g_error_matches(error, VM_ERROR, VM_ERROR_NOT_FOUND);

    return refuse(r, no_device ? class_no_device : class_generic, "%s", error->message);
}

void request_refuse(Request *r, const char *desc)
{
    refuse(r, class_generic, "%s", desc);
}

/* ---- checking -------------------------------------------------------------------------
 */

static bool find_command(Request *r, const char *name, RequestRights rights)
{
    r->command = control_command(name);
    if (!r->command)
        return refuse(r, class_no_command, "there is no command '%s'", name);
    if (r->command->refused)
        return refuse(r, class_no_command, "'%s': %s", name, r->command->refused);
    if (!rights.negotiated && !(r->command->flags & CONTROL_EARLY))
        return refuse(r, class_no_command,
                      "'%s' came before 'qmp_capabilities', which begins a session",
                      name);
    if (rights.negotiated && r->command->flags & CONTROL_EARLY)
        return refuse(r, class_no_command, "'%s' has been said already", name);
    if (rights.readonly && !(r->command->flags & CONTROL_QUERY))
        return refuse(r, class_generic, "'%s' is not allowed on this read-only socket",
                      name);
    return true;
}

/* What the table has of an object; a new reference. */
static json_t *known_members(const ParamTable *table, json_t *object)
{
    json_t *known = json_object();

    for (const ParamDesc *desc = table->desc; desc->key; desc++)
        if (json_object_get(object, desc->key))
            json_object_set(known, desc->key, json_object_get(object, desc->key));
    return known;
}

static bool take_arguments(Request *r)
{
    const ParamTable *table = r->command->args;
    g_autoptr(GError) error = NULL;
    json_t *members;
    bool ok;

    if (!table && json_object_size(r->call.json))
        return refuse(r, class_generic, "'%s' takes no argument '%s'", r->command->name,
                      json_object_iter_key(json_object_iter(r->call.json)));
    r->call.args = r->args = param_new(table);
    if (!table)
        return true;
    members = r->command->flags & CONTROL_OPEN ? known_members(table, r->call.json)
                                               : json_incref(r->call.json);
    ok = param_from_json(table, r->args, members, NULL, &error);
    json_decref(members);
    if (ok)
        return true;
    g_prefix_error(&error, "%s: ", r->command->name);
    return refuse_error(r, error);
}

static bool take_message(Request *r, json_t *message, RequestRights rights)
{
    const char *key, *name = NULL;
    json_t *value, *arguments = NULL;

    if (!json_is_object(message))
        return refuse(r, class_generic, "a message is an object: {\"execute\": ...}");
    r->id = json_incref(json_object_get(message, "id"));
    json_object_foreach(message, key, value)
    {
        if (g_str_equal(key, "execute"))
            name = json_string_value(value);
        else if (g_str_equal(key, "arguments"))
            arguments = value;
        else if (g_str_equal(key, "exec-oob"))
            return refuse(r, class_generic,
                          "'exec-oob' needs the capability 'oob', which is not offered; "
                          "use 'execute'");
        else if (!g_str_equal(key, "id"))
            return refuse(r, class_generic, "a message has no member '%s'", key);
    }
    if (!name)
        return refuse(r, class_generic,
                      "'execute' is missing or is not a string: the name of a command");
    if (arguments && !json_is_object(arguments))
        return refuse(r, class_generic, "'arguments' must be an object");
    r->call.json = arguments ? json_incref(arguments) : json_object();
    return find_command(r, name, rights) && take_arguments(r);
}

Request *request_new(const char *text, size_t len, RequestRights rights,
                     const ControlCall *context)
{
    Request *r = g_new0(Request, 1);
    json_error_t where;
    json_t *message = json_loadb(text, len, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES,
                                 &where);

    r->call = *context;
    r->call.negotiated = rights.negotiated;
    if (message)
        take_message(r, message, rights);
    else
        refuse(r, class_generic, "JSON: %s", where.text);
    json_decref(message);
    return r;
}

void request_free(Request *r)
{
    if (!r)
        return;
    if (r->command)
        param_free(r->command->args, r->args);
    json_decref(r->call.json);
    json_decref(r->id);
    json_decref(r->reply);
    g_free(r);
}

/* ---- carrying out ---------------------------------------------------------------------
 */

/* What waits for a pause would wait for ever. */
static bool can_run(const Request *r)
{
    static const char *const always[] = {"qmp_capabilities", "cont", "stop", "quit",
                                         NULL};

    return r->command->flags & CONTROL_QUERY ||
           g_strv_contains(always, r->command->name) || !machine_frozen(r->call.machine);
}

void request_run(Request *r)
{
    g_autoptr(GError) error = NULL;
    json_t *value;

    if (!can_run(r)) {
        refuse(r, class_generic,
               "%s: a part of the guest's memory cannot be read, and the VM stands still "
               "until then: 'cont' tries again, 'quit' ends it",
               r->command->name);
        return;
    }
    value = r->command->run(&r->call, &error);
    if (value)
        answer(r, json_pack("{s:o}", "return", value));
    else if (error)
        refuse_error(r, error);
    else
        refuse(r, class_generic, "%s: the reply could not be made", r->command->name);
}
