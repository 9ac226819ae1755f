/* hutch template: create, ls, rm. */
#include "src/cli/template.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "control/client.h"
#include "control/place.h"
#include "snapshot/template.h"
#include "src/cli/snapshot.h"

static SNAPSHOT_TABLE(create_args, SNAPSHOT_ARG_JSON);

bool template_save_vm(const char *vm, const char *folder, GError **error)
{
    g_autoptr(ControlClient) c = control_client_connect(vm, error);
    json_t *reply = c && store_make_parent(folder, error)
                        ? control_client_call(c, "x-hutch-snapshot-create",
                                              json_pack("{s:s}", "name", folder), error)
                        : NULL;

    json_decref(reply);
    return reply != NULL;
}

static bool runs(const char *vm)
{
    PlaceInfo info;

    return !strchr(vm, '/') && place_look(vm, &info, NULL) && info.state == PLACE_RUNNING;
}

/* A VM that runs, or else a snapshot. */
static bool make(const char *source, const char *folder, GError **error)
{
    g_autoptr(GError) why = NULL;
    g_autofree char *snapshot = store_find(STORE_SNAPSHOTS, source, &why);

    if (snapshot && runs(source))
        return fail(error, VM_ERROR_INVALID,
                    "'%s' is a VM that runs, and a snapshot; give the path of the "
                    "snapshot ('%s'), or rename one of the two",
                    source, snapshot);
    if (snapshot)
        return template_from_snapshot(snapshot, folder, error);
    if (runs(source))
        return template_save_vm(source, folder, error);
    return fail(error, VM_ERROR_NOT_FOUND,
                "'%s' is no VM that runs ('hutch ps'), nor a snapshot ('hutch snapshot "
                "list')",
                source);
}

static bool act_create(void *options, char **names, int *status, GError **error)
{
    const SnapshotArgs *args = options;
    g_autofree char *folder = store_check_name(STORE_TEMPLATES, names[1], error)
                                  ? store_path(STORE_TEMPLATES, names[1], error)
                                  : NULL;

    template_sweep();
    if (!folder)
        return false;
    if (g_str_equal(names[1], "detach"))
        return fail(
            error, VM_ERROR_INVALID,
            "a template cannot be named 'detach', which is a verb of hutch clone");
    if (!make(names[0], folder, error)) {
        g_prefix_error(error, "template '%s': ", names[1]);
        return false;
    }
    if (args->common.json)
        cli_print_json(json_pack("{s:s, s:s}", "name", names[1], "path", folder));
    return true;
}

static bool act_ls(void *options, char **names, int *status, GError **error)
{
    template_sweep();
    return snapshot_list_store(STORE_TEMPLATES, options, error);
}

static bool act_rm(void *options, char **names, int *status, GError **error)
{
    template_sweep();
    return snapshot_rm_store(STORE_TEMPLATES, options, names, error);
}

const Verb template_verbs[] = {
    {.name = "create",
     .args = "VM|SNAPSHOT NAME",
     .help = "make a template of a VM that runs, or of a snapshot",
     .names = NAMES_VMS,
     .act = act_create,
     .params = &create_args,
     .min_names = 2,
     .max_names = 2,
     .about =
         "A VM goes on, and its guest is held only for a moment; what it does "
         "afterwards is not in the template.  Of a snapshot the files are linked, so "
         "that it can be removed."},
    {.name = "ls",
     .args = "[--json]",
     .help = "list templates, and who uses them",
     .act = act_ls,
     .params = &snapshot_list_args},
    {.name = "rm",
     .args = "NAME...",
     .help = "remove templates that no clone needs any more",
     .names = NAMES_TEMPLATES,
     .act = act_rm,
     .params = &snapshot_rm_args,
     .min_names = 1,
     .max_names = UINT_MAX,
     .about = "One that clones have their memory from stays, and who they are is said: "
              "stop them, or 'hutch clone detach' them first."},
    {0},
};
