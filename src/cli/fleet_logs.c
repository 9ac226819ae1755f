/* hutch logs: what a detached VM's console, or its monitor, has said and says. */
#include "src/cli/fleet.h"
#include "src/cli/tail.h"
#include "util/fd.h"

FLEET_TABLE(fleet_logs_args,
            FLEET_ROW("follow", 'f', PARAM_BOOL, follow, "go on until the VM ends"),
            FLEET_ROW("monitor", 'm', PARAM_BOOL, monitor,
                      "what the monitor says, not the guest's console"),
            FLEET_ROW("json", 0, PARAM_BOOL, json, "print each line as a JSON string"));

static bool print(const FleetArgs *args, const char *vm, Tail *t, GError **error)
{
    autofd pidfd = args->follow ? place_pidfd(vm, NULL) : -1;

    if (!tail_open(t, error))
        return false;
    if (t->fd < 0)
        return fail(error, VM_ERROR_NOT_FOUND,
                    "VM '%s' keeps no such log: hutch run --detach makes one, of the "
                    "console that would be on standard output otherwise",
                    vm);
    return pidfd >= 0 ? tail_follow(t, pidfd, error) : tail_print(t, error);
}

bool fleet_act_logs(void *options, char **names, int *status, GError **error)
{
    const FleetArgs *args = options;
    PlaceInfo info;
    char *path;
    Tail t;
    bool ok;

    if (!place_look(names[0], &info, error))
        return false;
    if (info.state == PLACE_NONE)
        return place_fail(names[0], PLACE_NONE, error);
    path = place_file(names[0], args->monitor ? PLACE_LOG : PLACE_CONSOLE_LOG, error);
    if (!path)
        return false;
    tail_init(&t, path, args->json);
    ok = print(args, names[0], &t, error);
    tail_clear(&t);
    return ok;
}
