/* hutch snapshot restore: a VM goes back to a snapshot.  A new monitor does it, detached,
 * under the name of the old one, which ends when it is sure that the snapshot can be
 * restored. */
#include "control/client.h"
#include "control/place.h"
#include "snapshot/restore.h"
#include "snapshot/store.h"
#include "src/cli/fleet.h"
#include "src/cli/snapshot.h"
#include "util/fd.h"
#include "util/ioloop.h"

enum { QUIT_MS = 10 * 1000 };

typedef struct RestoreArgs {
    bool paused;
    int clock;
} RestoreArgs;

const ParamTable snapshot_restore_args = {
    .size = sizeof(RestoreArgs),
    .desc = (const ParamDesc[]){{.key = "paused",
                                 .type = PARAM_BOOL,
                                 .offset = offsetof(RestoreArgs, paused),
                                 .help = "do not let it go on until 'hutch resume'"},
                                {.key = "clock",
                                 .type = PARAM_ENUM,
                                 .offset = offsetof(RestoreArgs, clock),
                                 .choices = restore_clock_names,
                                 .def = "stopped",
                                 .help = "of the guest: goes on where it stood, or "
                                         "catches up"},
                                {0}},
};

const char snapshot_restore_about[] =
    "What the guest did since the snapshot is lost.  The VM is detached afterwards.  To "
    "start a snapshot beside it, use 'hutch run --restore NAME --name OTHER'.";

static bool check(const char *folder, GError **error)
{
    g_autoptr(Config) cfg = config_new();
    g_autoptr(SnapshotRestore)
        r = snapshot_restore_open(folder, &(RestoreOptions){0}, cfg, error);

    return r != NULL;
}

static bool end_old(const char *vm, GError **error)
{
    autofd pidfd = -1;
    g_autoptr(ControlClient) c = NULL;
    PlaceInfo info;
    json_t *reply;

    if (!place_look(vm, &info, error))
        return false;
    if (info.state == PLACE_NONE)
        return place_fail(vm, info.state, error);
    if (info.state != PLACE_RUNNING)
        return true;
    pidfd = place_pidfd(vm, error);
    c = pidfd < 0 ? NULL : control_client_connect(vm, error);
    reply = c ? control_client_call(c, "quit", NULL, error) : NULL;
    json_decref(reply);
    if (!reply)
        return false;
    return fleet_wait_pidfd(pidfd, clock_ns() + QUIT_MS * 1000000ll) ||
           fail(error, VM_ERROR_BUSY,
                "VM '%s': it does not end, most likely for a disk that does not answer; "
                "'hutch kill %s' ends it, and then try again",
                vm, vm);
}

bool snapshot_act_restore(void *options, char **names, int *status, GError **error)
{
    const RestoreArgs *args = options;
    g_autofree char *folder = store_find(STORE_SNAPSHOTS, names[1], error);
    const char *clock = restore_clock_names[args->clock];
    char *argv[] = {(char *)"run",
                    (char *)"--restore",
                    folder,
                    (char *)"--name",
                    names[0],
                    (char *)"--detach",
                    (char *)"--clock",
                    (char *)clock,
                    NULL,
                    NULL};

    if (!folder || !place_check_name(names[0], error) || !check(folder, error) ||
        !end_old(names[0], error))
        return false;
    if (args->paused)
        argv[G_N_ELEMENTS(argv) - 2] = (char *)"--paused";
    *status = verb_run((int)g_strv_length(argv), argv);
    return true;
}
