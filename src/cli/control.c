/* hutch control: talks to a running VM in the commands of its control socket. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "control/client.h"
#include "src/cli/control.h"

typedef struct ControlArgs {
    bool events;
} ControlArgs;

static const ParamDesc control_desc[] = {
    {.key = "events",
     .type = PARAM_BOOL,
     .offset = offsetof(ControlArgs, events),
     .help = "print events, one a line, until the VM ends"},
    {0},
};
const ParamTable control_args = {.size = sizeof(ControlArgs), .desc = control_desc};

const char control_about[] =
    "VM is a name (of hutch run --name) or the path of a control socket, with a '/' in "
    "it.  COMMAND is one of QEMU's machine protocol; query-commands lists them.  Its "
    "arguments are a JSON object, or KEY=VALUE, where a value that is no JSON is taken "
    "as "
    "a string.  What it returns is printed as JSON.";
const char control_notes[] =
    "With - for the command, messages are read from standard input, {\"execute\": ...} "
    "one after the other, and each reply is printed as a line; the status is 125 if one "
    "of them was an error.";

static void print_line(json_t *value, bool pretty)
{
    json_dumpf(value, stdout,
               JSON_ENCODE_ANY | cli_json_flags() |
                   (pretty ? JSON_INDENT(2) : JSON_COMPACT));
    putchar('\n');
    fflush(stdout); /* who reads it may be waiting */
}

/* ---- one command ----------------------------------------------------------------------
 */

static bool add_object(json_t *arguments, const char *text, GError **error)
{
    json_error_t where;
    json_t *object = json_loads(text, JSON_REJECT_DUPLICATES, &where);
    bool ok = json_is_object(object);

    if (ok)
        json_object_update(arguments, object);
    json_decref(object);
    return ok || fail(error, VM_ERROR_INVALID, "'%s' is no JSON object: %s", text,
                      object ? "it is an array" : where.text);
}

static bool add_pair(json_t *arguments, const char *text, GError **error)
{
    const char *equals = strchr(text, '=');
    g_autofree char *key = equals ? g_strndup(text, (gsize)(equals - text)) : NULL;
    json_t *value;

    if (!equals || equals == text)
        return fail(error, VM_ERROR_INVALID,
                    "'%s' is no argument: write KEY=VALUE, or a JSON object", text);
    value = json_loads(equals + 1, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
    if (!value)
        value = json_string(equals + 1);
    return json_object_set_new(arguments, key, value) == 0 ||
           fail(error, VM_ERROR_INVALID, "'%s' is not UTF-8", text);
}

static bool call(ControlClient *c, const char *command, char **pairs, GError **error)
{
    json_t *arguments = json_object(), *value;

    for (; *pairs; pairs++)
        if (!(**pairs == '{' ? add_object : add_pair)(arguments, *pairs, error)) {
            json_decref(arguments);
            return false;
        }
    value = control_client_call(c, command, arguments, error);
    if (!value)
        return false;
    print_line(value, isatty(STDOUT_FILENO));
    json_decref(value);
    return true;
}

/* ---- many -----------------------------------------------------------------------------
 */

static bool follow_events(ControlClient *c, GError **error)
{
    g_autoptr(GError) inner = NULL;
    json_t *event;

    while ((event = control_client_event(c, -1, &inner))) {
        print_line(event, false);
        json_decref(event);
    }
    if (g_error_matches(inner, VM_ERROR, VM_ERROR_NOT_FOUND))
        return true; /* it has ended */
    g_propagate_error(error, g_steal_pointer(&inner));
    return false;
}

static bool converse(ControlClient *c, int *status, GError **error)
{
    size_t flags = JSON_DISABLE_EOF_CHECK | JSON_REJECT_DUPLICATES;
    int byte;

    /* The parser stops behind a value; what is between two of them is ours. */
    while ((byte = getc(stdin)) != EOF) {
        json_error_t where;
        json_t *message, *reply;

        if (g_ascii_isspace(byte))
            continue;
        ungetc(byte, stdin);
        message = json_loadf(stdin, flags, &where);
        if (!message)
            return fail(error, VM_ERROR_INVALID, "standard input is not JSON: %s",
                        where.text);
        reply = control_client_send(c, message, error);
        if (!reply)
            return false;
        if (json_object_get(reply, "error"))
            *status = EXIT_CANNOT;
        print_line(reply, false);
        json_decref(reply);
    }
    return !ferror(stdin) || fail_errno(error, "read standard input");
}

bool control_act(void *options, char **names, int *status, GError **error)
{
    const ControlArgs *args = options;
    g_autoptr(ControlClient) c = NULL;

    if (args->events == (names[1] != NULL))
        return fail(error, VM_ERROR_INVALID,
                    args->events
                        ? "--events takes no command ('%s')"
                        : "there is no command for VM '%s'; query-commands lists "
                          "what it knows",
                    args->events ? names[1] : names[0]);
    c = control_client_connect(names[0], error);
    if (!c)
        return false;
    if (args->events)
        return follow_events(c, error);
    if (!g_str_equal(names[1], "-"))
        return call(c, names[1], names + 2, error);
    return converse(c, status, error);
}
