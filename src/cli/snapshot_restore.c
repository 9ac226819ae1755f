/* hutch snapshot restore: a VM goes back to a snapshot.  A new monitor does it, detached,
 * under the name of the old one, which ends when it is sure that the snapshot can be
 * restored. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "control/client.h"
#include "control/place.h"
#include "snapshot/restore.h"
#include "snapshot/store.h"
#include "src/cli/fleet.h"
#include "src/cli/snapshot.h"
#include "util/fd.h"
#include "util/ioloop.h"
#include "util/log.h"

enum { QUIT_MS = 10 * 1000, MAX_OVERLAYS = 1000 };

typedef struct RestoreArgs {
    bool paused, trust;
    int clock;
} RestoreArgs;

const ParamTable snapshot_restore_args = {
    .size = sizeof(RestoreArgs),
    .desc = (const ParamDesc[]){{.key = "paused",
                                 .type = PARAM_BOOL,
                                 .offset = offsetof(RestoreArgs, paused),
                                 .help = "do not let it go on until 'hutch resume'"},
                                {.key = "trust",
                                 .type = PARAM_BOOL,
                                 .offset = offsetof(RestoreArgs, trust),
                                 .help = "what was imported may open the files, sockets "
                                         "and networks that its config names"},
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

/* A disk that goes back goes on in a new file beside the layer that it had then, which
 * stays when the VM ends: as after 'create'.  NULL: there is no place beside it. */
static char *place_overlay(const ManifestDisk *d, const char *vm)
{
    g_autofree char *folder = NULL, *leaf = NULL;
    char *dot;

    if (d->readonly || !d->layer || !g_path_is_absolute(d->layer))
        return NULL;
    folder = g_path_get_dirname(d->layer);
    leaf = g_path_get_basename(d->layer);
    dot = strrchr(leaf, '.');
    if (dot && dot != leaf)
        *dot = '\0';
    for (unsigned i = 1; i <= MAX_OVERLAYS; i++) {
        g_autofree char *path = g_strdup_printf("%s/%s.%s-%u.qcow2", folder, leaf, vm, i);

        if (access(path, F_OK) < 0 && errno == ENOENT)
            return g_steal_pointer(&path);
    }
    return NULL;
}

static void add_disk(GPtrArray *argv, const ManifestDisk *d, const char *vm)
{
    g_autofree char *path = place_overlay(d, vm);
    g_auto(GStrv) parts = path ? g_strsplit(path, ",", -1) : NULL;
    g_autofree char *doubled = parts ? g_strjoinv(",,", parts) : NULL;

    if (!path)
        return; /* it is in the run folder */
    log_info("disk '%s' goes on in '%s'", d->id, path);
    g_ptr_array_add(argv, g_strdup("--disk"));
    g_ptr_array_add(argv, g_strconcat(d->id, "=path=", doubled, NULL));
}

/* What `hutch run` is to be told; NULL: the snapshot cannot be restored. */
static GPtrArray *make_arguments(const RestoreArgs *args, const char *folder,
                                 const char *vm, GError **error)
{
    g_autoptr(Config) cfg = config_new();
    g_autoptr(SnapshotRestore) r = snapshot_restore_open(
        folder, &(RestoreOptions){.trust = args->trust}, cfg, error);
    const char *const first[] = {
        "run", "--restore", folder,    "--name",
        vm,    "--detach",  "--clock", restore_clock_names[args->clock],
        NULL,
    };
    const GPtrArray *disks;
    GPtrArray *argv;

    if (!r || !snapshot_restore_allowed(r, cfg, NULL, error))
        return NULL;
    argv = g_ptr_array_new_with_free_func(g_free);
    for (unsigned i = 0; first[i]; i++)
        g_ptr_array_add(argv, g_strdup(first[i]));
    if (args->paused)
        g_ptr_array_add(argv, g_strdup("--paused"));
    if (args->trust)
        g_ptr_array_add(argv, g_strdup("--trust"));
    disks = snapshot_restore_manifest(r)->disks;
    for (guint i = 0; i < disks->len; i++)
        add_disk(argv, disks->pdata[i], vm);
    g_ptr_array_add(argv, NULL);
    return argv;
}

/* One that runs, or has left something. */
static bool check_vm(const char *vm, const char *snapshot, GError **error)
{
    PlaceInfo info;

    return place_check_name(vm, error) && place_look(vm, &info, error) &&
           (info.state != PLACE_NONE ||
            fail(error, VM_ERROR_NOT_FOUND,
                 "there is no VM named '%s' that could go back; 'hutch run --restore %s "
                 "--name %s' starts one",
                 vm, snapshot, vm));
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
    g_autofree char *folder = store_find(STORE_SNAPSHOTS, names[1], error);
    GPtrArray *argv = NULL;
    bool ok;

    if (!folder || !check_vm(names[0], names[1], error))
        return false;
    argv = make_arguments(options, folder, names[0], error);
    ok = argv && end_old(names[0], error);
    if (ok)
        *status = verb_run((int)argv->len - 1, (char **)argv->pdata);
    if (argv)
        g_ptr_array_unref(argv);
    return ok;
}
