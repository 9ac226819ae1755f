/* What a VM is called, and how it is going to be told apart when it has ended: hutch's
 * own commands and events, which `hutch rename`, `hutch wait` and `hutch run -d` use. */
#include "control/control.h"

typedef struct RenameArgs {
    char *name;
} RenameArgs;

static const ParamTable rename_args = {
    .size = sizeof(RenameArgs),
    .desc = (const ParamDesc[]){{.key = "name",
                                 .type = PARAM_STRING,
                                 .required = true,
                                 .offset = offsetof(RenameArgs, name),
                                 .help = "the VM's new name"},
                                {0}},
};

/* Sessions go on; the socket is found at its new place. */
static json_t *x_rename(ControlCall *call, GError **error)
{
    const RenameArgs *args = call->args;
    Place *place = control_place(call->server);

    if (!place) {
        fail(error, VM_ERROR_INVALID,
             "this VM has no run folder, and so no name to be found by; 'hutch run "
             "--name' makes one");
        return NULL;
    }
    return place_rename(place, args->name, error) ? json_object() : NULL;
}

static const ControlCommand commands[] = {
    {"x-hutch-rename", &rename_args, NULL, 0, x_rename},
    {0},
};

static const ControlType port_open = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"device", &control_str}, {"port", &control_int}),
};

/* What --json prints at the end. */
static const ControlType result = {
    .kind = CONTROL_OBJECT,
    .members = CONTROL_MEMBERS({"status", &control_int}, {"reason", &control_str},
                               {"detail", &control_str}, {"times", &control_any},
                               {"counters", &control_any}),
};

static const ControlEvent events[] = {
    {"X_HUTCH_USER_OUTPUT"},           /* of a console: see `hutch run --wait boot` */
    {"X_HUTCH_PORT_OPEN", &port_open}, /* the first time, of a port forwarded to */
    {"X_HUTCH_RESULT", &result},
    {0},
};

const ControlTable control_place_table = {commands, events};
