/* The commands that are about the protocol itself, under QMP's names. */
#include "control/control.h"

#include "src/control/greeting.h"

/* ---- qmp_capabilities -----------------------------------------------------------------
 */

typedef struct CapabilityArgs {
    char **enable;
} CapabilityArgs;

static const ParamTable capability_args = {
    .size = sizeof(CapabilityArgs),
    .desc = (const ParamDesc[]){{.key = "enable",
                                 .type = PARAM_LIST,
                                 .offset = offsetof(CapabilityArgs, enable),
                                 .help = "capabilities of the greeting to be used"},
                                {0}},
};

static json_t *capabilities(ControlCall *call, GError **error)
{
    const CapabilityArgs *args = call->args;

    if (args->enable && args->enable[0]) {
        fail(error, VM_ERROR_INVALID, "the capability '%s' is not offered",
             args->enable[0]);
        return NULL;
    }
    call->negotiated = true;
    return json_object();
}

/* ---- what there is --------------------------------------------------------------------
 */

static const ControlType named = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"name", &control_str}),
};
static const ControlType names = {.kind = CONTROL_ARRAY, .element = &named};

static json_t *query_commands(ControlCall *call, GError **error)
{
    json_t *all = json_array();

    for (const ControlTable *const *t = control_tables; *t; t++)
        for (const ControlCommand *c = (*t)->commands; c->name; c++)
            if (!c->refused)
                json_array_append_new(all, json_pack("{s:s}", "name", c->name));
    return all;
}

static json_t *query_events(ControlCall *call, GError **error)
{
    json_t *all = json_array();

    for (const ControlTable *const *t = control_tables; *t; t++)
        for (const ControlEvent *e = (*t)->events; e->name; e++)
            json_array_append_new(all, json_pack("{s:s}", "name", e->name));
    return all;
}

static const ControlType qemu_version = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"major", &control_int}, {"minor", &control_int},
                               {"micro", &control_int}),
};
static const ControlType version = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"qemu", &qemu_version}, {"package", &control_str}),
};

static json_t *query_version(ControlCall *call, GError **error)
{
    return greeting_version();
}

/* An alternate of many in QEMU; here it is what it is. */
static const ControlType schema = {.kind = CONTROL_ARRAY, .element = &control_any};

static json_t *query_schema(ControlCall *call, GError **error)
{
    return control_schema();
}

static const ControlCommand commands[] = {
    {"qmp_capabilities", &capability_args, NULL, CONTROL_QUERY | CONTROL_EARLY,
     capabilities},
    {"query-version", NULL, &version, CONTROL_QUERY, query_version},
    {"query-commands", NULL, &names, CONTROL_QUERY, query_commands},
    {"query-events", NULL, &names, CONTROL_QUERY, query_events},
    {"query-qmp-schema", NULL, &schema, CONTROL_QUERY, query_schema},
    {0},
};

const ControlTable control_protocol_table = {commands, (const ControlEvent[]){{0}}};
